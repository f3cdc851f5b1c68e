/* SPDX-License-Identifier: MIT */
/* libFuzzer: any bytes as a stream of migration frames, in pieces of any size. */
#include "mig/mig_fake.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const u8 *data, size_t len);

#define MUST(x) do { if (!(x)) abort(); } while (0)

/* Every kind of read, in an order that the payload itself chooses. */
static void read_all(struct wire_reader r)
{
	char text[16];

	while (!wire_done(&r) && !r.bad) {
		const u8 *before = r.p;

		switch (wire_u8(&r) % 7) {
		case 0: wire_u16(&r); break;
		case 1: wire_u32(&r); break;
		case 2: wire_u64(&r); break;
		case 3: wire_str(&r, text, sizeof(text)); break;
		case 4: wire_text(&r, text, sizeof(text)); break;
		case 5: wire_bytes(&r, wire_u8(&r)); break;
		default: break;
		}
		MUST(strnlen(text, sizeof(text)) < sizeof(text) || r.p > before);
		MUST(r.p <= r.end);
	}
	if (r.bad)
		MUST(wire_u64(&r) == 0 && !wire_bytes(&r, 0) && !wire_done(&r));
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
	struct stream *far, *near;
	struct wire_in in;
	struct wire_reader r;
	struct error e = { 0 };
	size_t read = 0, at = 0;
	int rc = 0;

	world->allocs_left = -1;
	near = fake_pipe("b", "a", &far);
	MUST(wire_in_init(&in) == 0);
	while (at < len && rc >= 0) {
		size_t n = MIN(len - at, (size_t)data[at] + 1);

		MUST(stream_write(near, data + at, n) == (int)n);
		at += n;
		while ((rc = wire_recv(&in, far, &r, &read, &e)) == 1) {
			MUST(in.type && in.type < WIRE_TYPE_END && in.length <= WIRE_MAX_PAYLOAD);
			MUST((size_t)(r.end - r.p) == in.length);
			read_all(r);
		}
		MUST(read <= at);
	}
	if (rc < 0)
		MUST(e.code && e.text[0]);
	wire_in_free(&in);
	stream_close(near);
	stream_close(far);
	MUST(world->live_allocs == 0);
	return 0;
}
