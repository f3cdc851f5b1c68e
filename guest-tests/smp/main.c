/* SPDX-License-Identifier: MIT */
/*
 * smp: several CPUs. Each of them starts, knows who it is, gets every kind of IPI and its own timer,
 * sees the same TSC, the same memory and its own registers. Works with one CPU, too.
 * Arguments: cpus=N (how many there must be), x2apic; prove=startup|ipi|tsc: only that, over and over (loop.c), with the
 * state that is hardest to keep held: CPUs that wait for their start-up IPI; IPIs that the task priority holds back; TSC
 * values of all CPUs. Without prove=, loop: after all that, for ever: every CPU checks
 * pages of its own, registers, the common TSC and IPIs from its neighbour; CPU 0 says, every
 * period-ms=N (100),
 *	DIRTY seq=N sweeps=N tsc=N chk=OK
 * kb=N (2048) is what each CPU rewrites then; paced: each sweep waits for the next of 200 ticks a second.
 */
#include "guest.h"

enum { VEC_IPI = 0x50, VEC_LATENCY = 0x51, VEC_TIMER = 0x52, VEC_LOWEST = 0x53, VEC_NEIGHBOUR = 0x54 };
enum { ICR_FIXED = 0x4000, ICR_LOWEST = 0x4100, ICR_NMI = 0x4400, ICR_LOGICAL = 0x800 };
enum { ICR_SELF = 1 << 18, ICR_ALL = 2 << 18, ICR_OTHERS = 3 << 18 };
#define SECOND 1000000ull

static u32 n;
static bool x2;
static volatile u32 ipis[SMP_MAX], nmis[SMP_MAX], timers[SMP_MAX], lowest[SMP_MAX], neighbours[SMP_MAX];
static volatile u64 latency_tsc;
static volatile u32 latency_count, lowest_all;
static volatile bool stop;

static void add(volatile u32 *p)
{
	__asm__ volatile("lock incl %0" : "+m"(*p) : : "memory");
}

static void on_ipi(struct regs *r) { (void)r; add(&ipis[smp_self()]); apic_eoi(); }
static void on_nmi(struct regs *r) { (void)r; add(&nmis[smp_self()]); }
static void on_lowest(struct regs *r) { (void)r; add(&lowest[smp_self()]); add(&lowest_all); apic_eoi(); }
static void on_neighbour(struct regs *r) { (void)r; add(&neighbours[smp_self()]); apic_eoi(); }

static volatile u64 timer_tsc[SMP_MAX];

static void on_timer(struct regs *r)
{
	u32 self = smp_self();

	(void)r;
	timer_tsc[self] = rdtsc();
	add(&timers[self]);
	apic_eoi();
}

static void on_latency(struct regs *r)
{
	(void)r;
	latency_tsc = rdtsc();
	add(&latency_count);
	apic_eoi();
}

/* ---- what a CPU can be doing when something arrives ---- */

static void job_halt(u32 self)
{
	(void)self;
	while (!stop)
		wait_interrupt();
}

static void job_spin_open(u32 self)
{
	(void)self;
	sti();
	while (!stop)
		pause();
	cli();
}

static volatile u32 opens;

/* Deaf until `opens`, then open. */
static void job_spin_closed(u32 self)
{
	(void)self;
	while (!opens)
		pause();
	job_spin_open(self);
}

/* Time for what was sent to arrive, and for what was not to arrive wrongly. */
static void settle(u64 us)
{
	if (loop_on)
		sleep_us(us / 4);
	else
		delay_us(us);
}

static void begin(void (*job)(u32))
{
	stop = false;
	opens = 0;
	for (u32 i = 1; i < n; i++)
		smp_start_job(i, job);
	settle(2000); /* into it */
}

/* `stop` is seen by halted ones when something arrives. */
static bool end(void)
{
	bool ok = true;

	stop = true;
	opens = 1;
	for (u32 i = 1; i < n; i++) {
		smp_icr(smp_cpu[i].apic_id, ICR_FIXED | VEC_NEIGHBOUR);
		ok &= smp_wait_job(i, 3 * SECOND);
	}
	return ok;
}

/* ---- start and identity ---- */

static void check_start_state(u32 i)
{
	u32 cr0, cs;

	smp_state(&cr0, &cs);
	CHECK("smp.real-mode", cs == 0x800 && !(cr0 & 0x80000001), "CPU %u cs 0x%x cr0 0x%x", i, cs, cr0);
}

static void start_all(void)
{
	for (u32 i = 1; i < n; i++) {
		CHECK("smp.quiet-before-sipi", smp_cpu[i].starts == 0, "CPU %u runs", i);
		if (!CHECK("smp.starts", smp_boot(i), "CPU %u does not come up", i))
			guest_end();
		check_start_state(i);
	}
	/* A start-up IPI means nothing to one that runs. */
	for (u32 i = 1; i < n; i++)
		smp_icr(smp_cpu[i].apic_id, 0x4608);
	delay_us(5000);
	for (u32 i = 1; i < n; i++)
		CHECK("smp.second-sipi", smp_cpu[i].starts == 1, "CPU %u came up %u times", i, smp_cpu[i].starts);
}

static struct identity { u32 leaf1, leaf_b, register_id, logical1, shift, count; u64 base; } identity[SMP_MAX];

static void job_identify(u32 self)
{
	struct identity *t = &identity[self];
	u32 id = apic_read(APIC_ID);

	t->leaf1 = cpuid(1, 0).ebx >> 24;
	t->logical1 = cpuid(1, 0).ebx >> 16 & 0xff;
	t->leaf_b = cpuid(0xb, 0).edx;
	for (u32 sub = 0; sub < 4 && cpuid(0xb, sub).ecx >> 8 & 0xff; sub++) {
		t->shift = cpuid(0xb, sub).eax & 31;
		t->count = cpuid(0xb, sub).ebx & 0xffff;
	}
	t->register_id = x2 ? id : id >> 24;
	t->base = rdmsr(MSR_APIC_BASE);
}

static void check_identity(u32 i)
{
	struct identity *t = &identity[i];
	u32 id = smp_cpu[i].apic_id;

	CHECK("smp.id-cpuid1", t->leaf1 == id, "CPU %u: %u, MADT %u", i, t->leaf1, id);
	CHECK("smp.id-register", t->register_id == id, "CPU %u: %u, MADT %u", i, t->register_id, id);
	CHECK("smp.bsp", !(t->base & BIT(8)) == !!i, "CPU %u: APIC base 0x%lx", i, t->base);
	CHECK("smp.mode", !(t->base & APIC_BASE_EXTD) == !x2, "CPU %u: APIC base 0x%lx", i, t->base);
	if (cpuid(0, 0).eax < 0xb)
		return;
	CHECK("smp.id-cpuidb", t->leaf_b == id, "CPU %u: %u, MADT %u", i, t->leaf_b, id);
	CHECK("smp.topology", t->count >= n && t->logical1 >= (n > 1 ? n : 0) && (id >> t->shift) == 0,
	      "CPU %u: leaf 0xb %u, leaf 1 %u, shift %u", i, t->count, t->logical1, t->shift);
}

static void identify(void)
{
	CHECK("smp.jobs", smp_all(job_identify, 3 * SECOND), "not all CPUs answer");
	for (u32 i = 0; i < n; i++)
		check_identity(i);
}

/* ---- IPIs ---- */

static void clear(void)
{
	for (u32 i = 0; i < n; i++)
		ipis[i] = nmis[i] = lowest[i] = neighbours[i] = 0;
}

/* Those in `mask` and no others get exactly one. */
static void expect(const char *name, u32 mask, const char *state)
{
	bool ok = true;
	u32 got = 0;

	sti();
	for (u32 i = 0; i < n; i++)
		if (mask & BIT(i))
			ok &= smp_wait(&ipis[i], 1, 2 * SECOND);
	settle(3000);
	cli();
	for (u32 i = 0; i < n; i++) {
		got |= !!ipis[i] << i;
		ok &= ipis[i] == !!(mask & BIT(i));
	}
	CHECK(name, ok, "%s: of CPUs 0x%x these took it: 0x%x", state, mask, got);
	clear();
}

static u32 logical_of(u32 i)
{
	return x2 ? (smp_cpu[i].apic_id >> 4) << 16 | 1u << (smp_cpu[i].apic_id & 15) : 1u << i;
}

static void job_logical(u32 self)
{
	apic_write(APIC_DFR, ~0u); /* flat */
	apic_write(APIC_LDR, 1u << self << 24);
}

static void send_kinds(const char *state)
{
	u32 all = (1u << n) - 1, even = 0, dest = 0;

	clear();
	for (u32 i = 1; i < n; i++) {
		smp_icr(smp_cpu[i].apic_id, ICR_FIXED | VEC_IPI);
		expect("ipi.physical", 1u << i, state);
	}
	for (u32 i = 0; i < n; i += 2) {
		even |= 1u << i;
		dest |= logical_of(i);
	}
	smp_icr(dest, ICR_FIXED | ICR_LOGICAL | VEC_IPI);
	expect("ipi.logical", even, state);
	smp_icr(0, ICR_FIXED | ICR_SELF | VEC_IPI);
	expect("ipi.self", 1, state);
	smp_icr(0, ICR_FIXED | ICR_OTHERS | VEC_IPI);
	expect("ipi.others", all & ~1u, state);
	smp_icr(0, ICR_FIXED | ICR_ALL | VEC_IPI);
	expect("ipi.all", all, state);
	smp_icr(x2 ? ~0u : 0xff, ICR_FIXED | VEC_IPI);
	expect("ipi.broadcast", all, state);
	if (x2) {
		wrmsr(0x83f, VEC_IPI);
		expect("ipi.self-register", 1, state);
	}
}

static void lowest_priority(void)
{
	u32 dest = 0, got = 0;

	for (u32 i = 0; i < n; i++)
		dest |= logical_of(i);
	clear();
	smp_icr(dest, ICR_LOWEST | ICR_LOGICAL | VEC_LOWEST);
	sti();
	smp_wait(&lowest_all, 1, 2 * SECOND);
	settle(3000);
	cli();
	for (u32 i = 0; i < n; i++)
		got += lowest[i];
	lowest_all = 0;
	CHECK("ipi.lowest-priority", got == 1, "%u CPUs took it", got);
}

static void nmi_to_all(const char *state)
{
	bool ok = true;

	clear();
	for (u32 i = 1; i < n; i++)
		smp_icr(smp_cpu[i].apic_id, ICR_NMI);
	for (u32 i = 1; i < n; i++)
		ok &= smp_wait(&nmis[i], 1, 2 * SECOND);
	settle(1000);
	for (u32 i = 0; i < n; i++)
		ok &= nmis[i] == !!i;
	CHECK("ipi.nmi", ok, "%s: %u %u %u %u", state, nmis[0], nmis[1], nmis[2], nmis[3]);
}

static void kinds_of_ipi(void)
{
	if (!x2)
		CHECK("smp.jobs", smp_all(job_logical, 3 * SECOND), "not all CPUs answer");
	begin(job_halt);
	send_kinds("halted");
	nmi_to_all("halted");
	lowest_priority();
	CHECK("smp.jobs", end(), "halted CPUs do not go on");
	begin(job_spin_open);
	send_kinds("spinning");
	nmi_to_all("spinning");
	CHECK("smp.jobs", end(), "spinning CPUs do not go on");

	/* With interrupts off an IPI waits, an NMI does not. */
	begin(job_spin_closed);
	nmi_to_all("spinning, interrupts off");
	clear();
	smp_icr(0, ICR_FIXED | ICR_OTHERS | VEC_IPI);
	delay_us(3000);
	for (u32 i = 1; i < n; i++)
		CHECK("ipi.waits", !ipis[i], "CPU %u took an interrupt with interrupts off", i);
	opens = 1;
	expect("ipi.arrives-late", ((1u << n) - 1) & ~1u, "interrupts on again");
	CHECK("smp.jobs", end(), "CPUs do not go on");
}

/* From just before the write to the ICR to the first instruction of the handler. */
static void latency(const char *name, void (*job)(u32))
{
	u64 best = ~0ull, sum = 0;
	u32 count = 0;
	bool ok;

	if (n < 2)
		return;
	begin(job_halt); /* the others take no time */
	stop = true;
	smp_icr(smp_cpu[1].apic_id, ICR_FIXED | VEC_NEIGHBOUR);
	ok = smp_wait_job(1, 3 * SECOND);
	stop = false;
	smp_start_job(1, job);
	for (u32 i = 0; ok && i < 40; i++) {
		u64 at, ticks;
		u32 before = latency_count;

		delay_us(500);
		at = rdtsc();
		smp_icr(smp_cpu[1].apic_id, ICR_FIXED | VEC_LATENCY);
		ok = smp_wait(&latency_count, before + 1, 2 * SECOND);
		ticks = latency_tsc - at;
		sum += ticks;
		count++;
		if (ticks < best)
			best = ticks;
	}
	CHECK("ipi.latency", ok, "%s: lost number %u", name, count);
	CHECK("smp.jobs", end(), "CPUs do not go on");
	if (count)
		printf("BENCH %s.ticks=%lu mean=%lu\n", name, best, sum / count);
}

/* ---- INIT of one that runs ---- */

static volatile u32 alive[SMP_MAX];

static void job_alive(u32 self)
{
	for (;;)
		alive[self]++;
}

static void init_again(void)
{
	for (u32 i = 1; i < n; i++) {
		u32 before = smp_cpu[i].starts, seen;

		alive[i] = 0;
		smp_start_job(i, job_alive);
		CHECK("init.runs", smp_wait(&alive[i], 1, 2 * SECOND), "CPU %u does not take jobs", i);
		smp_icr(smp_cpu[i].apic_id, 0x4500);
		delay_us(10000);
		seen = alive[i];
		delay_us(10000);
		CHECK("init.stops", alive[i] == seen, "CPU %u runs on after INIT", i);
		/* Deaf to all but a start-up IPI. */
		smp_icr(smp_cpu[i].apic_id, ICR_NMI);
		delay_us(2000);
		CHECK("init.waits", alive[i] == seen && smp_cpu[i].starts == before, "CPU %u left wait-for-SIPI", i);
		CHECK("init.starts-again", smp_boot(i), "CPU %u does not come up again", i);
	}
	CHECK("smp.jobs", smp_all(job_identify, 3 * SECOND), "not all CPUs answer after INIT");
	for (u32 i = 0; i < n; i++)
		CHECK("init.identity", identity[i].register_id == smp_cpu[i].apic_id, "CPU %u: %u", i, identity[i].register_id);
}

/* ---- time ---- */

static volatile u64 ball; /* TSC, bit 63: thrown by CPU 0 */
static volatile u32 tsc_backs, catches;
static u64 tsc_back_by;

/* CPU 0 ends it, after a tenth of a second (or a millisecond, in a loop) in which the ball came back a few times. */
static void throw_and_catch(u64 mine)
{
	u64 start = rdtsc(), last = 0;

	while (!stop) {
		u64 got = ball, now = rdtsc();

		if ((got >> 63) == mine)
			goto next;
		got &= ~BIT(63);
		if (now < got || now < last) {
			tsc_back_by = now < got ? got - now : last - now;
			add(&tsc_backs);
		}
		last = rdtsc();
		ball = last | mine << 63;
		catches += mine;
next:
		if (mine && now - start > (catches >= 10 ? loop_on ? 1 : 100 : 5000) * tsc_khz())
			stop = true;
	}
}

static void job_catch(u32 self)
{
	(void)self;
	throw_and_catch(0);
}

static void tsc_equal(void)
{
	for (u32 i = 1; i < n; i++) {
		stop = false;
		ball = rdtsc() | BIT(63);
		smp_start_job(i, job_catch);
		catches = 0;
		throw_and_catch(1);
		CHECK("smp.jobs", smp_wait_job(i, 3 * SECOND), "CPU %u does not go on", i);
		CHECK("tsc.exchanged", catches >= 10, "CPU %u: the ball came back %u times", i, catches);
		CHECK("tsc.equal", !tsc_backs, "CPU %u: %u times back, by %lu", i, tsc_backs, tsc_back_by);
	}
}

static u64 timer_deadline;

static void job_timer(u32 self)
{
	timers[self] = 0;
	apic_write(APIC_TIMER_DIVIDE, 0xb);
	apic_write(APIC_LVT_TIMER, VEC_TIMER | APIC_PERIODIC);
	apic_write(APIC_TIMER_INITIAL, 2 * tsc_khz());
	while (timers[self] < 20 && rdtsc() < timer_deadline)
		wait_interrupt();
	apic_write(APIC_LVT_TIMER, VEC_TIMER | APIC_MASKED);
	apic_write(APIC_TIMER_INITIAL, 0);
}

static volatile u32 early;
static u64 least_late[SMP_MAX];

static void job_deadline(u32 self)
{
	timers[self] = 0;
	least_late[self] = ~0ull;
	apic_write(APIC_LVT_TIMER, VEC_TIMER | APIC_TSC_DEADLINE);
	for (u32 i = 0; i < 10; i++) {
		u64 at = rdtsc() + (self + 1) * tsc_khz();

		wrmsr(MSR_TSC_DEADLINE, at);
		while (timers[self] == i && rdtsc() < timer_deadline)
			wait_interrupt();
		if (timer_tsc[self] < at)
			add(&early);
		else if (timer_tsc[self] - at < least_late[self])
			least_late[self] = timer_tsc[self] - at;
	}
	apic_write(APIC_LVT_TIMER, VEC_TIMER | APIC_MASKED);
}

static void timers_at_once(void)
{
	u64 start = rdtsc(), most;

	timer_deadline = start + 5000 * tsc_khz();
	CHECK("smp.jobs", smp_all(job_timer, 6 * SECOND), "not all CPUs end their timer job");
	most = (rdtsc() - start) / (2 * tsc_khz()) + 2;
	for (u32 i = 0; i < n; i++)
		CHECK("timer.each", timers[i] >= 20 && timers[i] <= most, "CPU %u: %u ticks, at most %lu are due", i, timers[i], most);
	if (!apic_has_tsc_deadline())
		return;
	timer_deadline = rdtsc() + 5000 * tsc_khz();
	CHECK("smp.jobs", smp_all(job_deadline, 6 * SECOND), "not all CPUs end their deadline job");
	for (u32 i = 0; i < n; i++)
		CHECK("timer.deadline", timers[i] == 10 && !early, "CPU %u: %u of 10, %u early", i, timers[i], early);
	printf("BENCH timer-halted.ticks=%lu\n", least_late[0]);
}

/* ---- spinning ---- */

#define HANDOVERS 20u
static volatile u32 turn;
static volatile bool polite;

/* CPUs 0 and 1 wait for each other; who waits on the CPU that the other one needs can only give it up. */
static void job_handover(u32 self)
{
	while (self < 2 && turn < 2 * HANDOVERS) {
		while (turn % 2 != self && turn < 2 * HANDOVERS)
			if (polite)
				pause();
		if (turn < 2 * HANDOVERS)
			add(&turn);
	}
}

static void handovers(bool with_pause)
{
	u64 start = rdtsc();

	turn = 0;
	polite = with_pause;
	CHECK("spin.handover", smp_all(job_handover, 20 * SECOND), "stuck at %u", turn);
	printf("BENCH handover%s.ticks=%lu\n", with_pause ? "" : "-nopause", (rdtsc() - start) / (2 * HANDOVERS));
}

/* ---- memory and registers ---- */

#define INCREMENTS 20000u
static volatile u32 counter, locked_counter, lock_word;

static void job_increment(u32 self)
{
	(void)self;
	for (u32 i = 0; i < INCREMENTS; i++) {
		add(&counter);
		if (i % 16)
			continue;
		while (__atomic_exchange_n(&lock_word, 1, __ATOMIC_ACQUIRE))
			pause();
		locked_counter++;
		__atomic_store_n(&lock_word, 0, __ATOMIC_RELEASE);
	}
}

static void increments(void)
{
	CHECK("smp.jobs", smp_all(job_increment, 20 * SECOND), "not all CPUs have counted to the end");
	CHECK("memory.lock-inc", counter == n * INCREMENTS, "%u of %u", counter, n * INCREMENTS);
	CHECK("memory.xchg-lock", locked_counter == n * INCREMENTS / 16, "%u of %u", locked_counter, n * INCREMENTS / 16);
}

static bool avx;
static volatile u32 vector_bad[SMP_MAX];
static u8 vector_image[SMP_MAX][4096] __attribute__((aligned(64))), vector_seen[SMP_MAX][4096] __attribute__((aligned(64)));

static void vector_load(u32 self)
{
	u64 mask = avx ? 7 : 3;

	/* Each CPU's own bytes in XMM0-15 and, behind the header, the upper halves of YMM0-15. */
	for (u32 k = 0; k < 512 / 8; k++) {
		u64 v = mix64((u64)self << 32 ^ (k + 1));

		if (k < 32)
			memcpy(vector_image[self] + 160 + 8 * k, &v, 8);
		else if (avx)
			memcpy(vector_image[self] + 576 + 8 * (k - 32), &v, 8);
	}
	vector_image[self][0] = 0x7f; /* FCW 0x37f, MXCSR 0x1f80 */
	vector_image[self][1] = 3;
	vector_image[self][24] = 0x80;
	vector_image[self][25] = 0x1f;
	memcpy(vector_image[self] + 512, &mask, 8);
	__asm__ volatile("xrstor64 (%0)" : : "r"(vector_image[self]), "a"((u32)mask), "d"(0) : "memory");
}

static void vector_check(u32 self)
{
	__asm__ volatile("xsave64 (%0)" : : "r"(vector_seen[self]), "a"(avx ? 7 : 3), "d"(0) : "memory");
	if (memcmp(vector_image[self] + 160, vector_seen[self] + 160, 256) ||
	    (avx && memcmp(vector_image[self] + 576, vector_seen[self] + 576, 256)))
		vector_bad[self]++;
}

static void vector_init(void)
{
	write_cr4(read_cr4() | BIT(18)); /* OSXSAVE */
	__asm__ volatile("xsetbv" : : "c"(0), "a"(avx ? 7 : 3), "d"(0));
}

static void job_vectors(u32 self)
{
	vector_init();
	vector_load(self);
	for (u32 i = 0; i < 200; i++) {
		cpuid(0, 0); /* out of the guest and in again */
		for (u32 k = 0; k < 200; k++)
			pause();
		vector_check(self);
	}
}

static void vectors(void)
{
	if (!(cpuid(1, 0).ecx & BIT(26))) {
		guest_skip("vectors", "no XSAVE");
		return;
	}
	avx = cpuid(1, 0).ecx & BIT(28);
	CHECK("smp.jobs", smp_all(job_vectors, 10 * SECOND), "not all CPUs have ended");
	for (u32 i = 0; i < n; i++)
		CHECK("registers.kept", !vector_bad[i], "CPU %u: %u times wrong", i, vector_bad[i]);
}

/* ---- for ever ---- */

#define MAX_PAGES 4096
static u64 page_at[MAX_PAGES];
static u32 generation[MAX_PAGES], found, want;
static volatile u64 common_tsc;
static volatile u32 bad_pages[SMP_MAX], bad_tsc[SMP_MAX], bad_ipi[SMP_MAX], sweeps[SMP_MAX];

static void collect(u64 start, u64 finish)
{
	for (u64 p = start; p < finish && found < want; p += PAGE_SIZE)
		page_at[found++] = p;
}

static void check_common_tsc(u32 self)
{
	u64 old = common_tsc, now = rdtsc();

	if (now < old)
		bad_tsc[self]++;
	else
		(void)__atomic_compare_exchange_n(&common_tsc, &old, now, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static void report(u64 *seq, u64 *next, u64 period)
{
	u64 now = rdtsc();
	u32 bad[4] = { 0 };

	if (now < *next)
		return;
	*next = *next + period > now ? *next + period : now + period;
	for (u32 i = 0; i < n; i++) {
		bad[0] += bad_pages[i];
		bad[1] += bad_tsc[i];
		bad[2] += bad_ipi[i];
		bad[3] += vector_bad[i];
	}
	if (bad[0] | bad[1] | bad[2] | bad[3])
		printf("SMP BAD pages %u tsc %u ipis %u registers %u\n", bad[0], bad[1], bad[2], bad[3]);
	printf("DIRTY seq=%lu sweeps=%u tsc=%lu chk=%s\n", ++*seq, sweeps[n - 1], rdtsc(),
	       bad[0] | bad[1] | bad[2] | bad[3] ? "BAD" : "OK");
}

/* Pages i, i + n, i + 2n ... are CPU i's: neighbours in the dirty log, written by different CPUs. */
static void job_for_ever(u32 self)
{
	u64 period = arg_u64("period-ms", 100) * tsc_khz(), seq = 0, next = rdtsc() + period;
	u64 sent_at = 0, slow = 20000 * tsc_khz();
	u32 right = (self + 1) % n, expected = 0, tick;
	bool paced = arg_is("paced", NULL);

	neighbours[right] = 0;
	apic_write(APIC_TIMER_DIVIDE, 0xb);
	apic_write(APIC_LVT_TIMER, VEC_TIMER | APIC_PERIODIC);
	apic_write(APIC_TIMER_INITIAL, 5 * tsc_khz());
	sti();
	for (;; sweeps[self]++) {
		for (u32 i = self; i < found; i += n) {
			u64 key = mix64((u64)generation[i] << 32 ^ page_at[i]);

			if (pattern_check(page_at[i], key) >= 0)
				bad_pages[self]++;
			generation[i]++;
			pattern_write(page_at[i], mix64((u64)generation[i] << 32 ^ page_at[i]));
			check_common_tsc(self);
			if (self == 0) {
				cli();
				report(&seq, &next, period);
				sti();
			}
		}
		/* One IPI to the neighbour at a time; it is lost if it takes 20 s. */
		if (n > 1 && neighbours[right] >= expected) {
			expected = neighbours[right] + 1;
			sent_at = rdtsc();
			cli();
			smp_icr(smp_cpu[right].apic_id, ICR_FIXED | VEC_NEIGHBOUR);
			sti();
		} else if (n > 1 && rdtsc() - sent_at > slow) {
			bad_ipi[self]++;
			expected = 0;
		}
		if (avx)
			vector_check(self);
		tick = timers[self];
		while (paced && timers[self] == tick)
			wait_interrupt();
		if (sweeps[self] % 8 == 7) /* halted now and then */
			wait_interrupt();
		sti();
	}
}

static void for_ever(void)
{
	pattern_init();
	want = arg_u64("kb", 2048) / 4 * n;
	if (want > MAX_PAGES)
		want = MAX_PAGES;
	for_each_free_ram(collect);
	for (u32 i = 0; i < found; i++)
		pattern_write(page_at[i], mix64(page_at[i]));
	if (avx)
		smp_all(vector_load, SECOND);
	printf("SMP loop cpus=%u pages=%u\n", n, found);
	for (u32 i = 1; i < n; i++)
		smp_start_job(i, job_for_ever);
	job_for_ever(0);
}

/* ---- one property over and over ---- */

/* All others are stopped by INIT; it is there that the guest is held. They stay stopped until their start-up IPI. */
static void prove_startup(void)
{
	u32 seen[SMP_MAX], starts[SMP_MAX];

	while (loop_turn()) {
		for (u32 i = 1; i < n; i++) {
			alive[i] = 0;
			smp_start_job(i, job_alive);
			CHECK("startup.runs", smp_wait(&alive[i], 1, 2 * SECOND), "CPU %u does not take jobs", i);
			smp_init(i);
		}
		clear();
		for (u32 i = 1; i < n; i++) {
			u32 tries = 0;

			do { /* until it has arrived, however slow the emulator */
				seen[i] = alive[i];
				settle(2000);
			} while (alive[i] != seen[i] && ++tries < 100);
			CHECK("startup.stops", alive[i] == seen[i], "CPU %u runs on after INIT", i);
			starts[i] = smp_cpu[i].starts;
			smp_icr(smp_cpu[i].apic_id, ICR_FIXED | VEC_IPI); /* the local APIC is off: lost */
		}
		loop_hold();
		for (u32 i = 1; i < n; i++)
			CHECK("startup.waits", alive[i] == seen[i] && smp_cpu[i].starts == starts[i] && !ipis[i],
			      "CPU %u left wait-for-SIPI", i);
		for (u32 i = 1; i < n; i++) {
			CHECK("startup.starts", smp_sipi(i) && smp_cpu[i].starts == starts[i] + 1, "CPU %u: %u starts, then %u", i,
			      starts[i], smp_cpu[i].starts);
			check_start_state(i);
		}
		identify();
	}
}

/* With a task priority above all that is sent here, but for what wakes. */
static void job_held(u32 self)
{
	write_cr8(6);
	alive[self] = 1;
	while (!opens)
		wait_interrupt();
	write_cr8(0);
	job_halt(self);
}

/* Two vectors are held back on every CPU, this one included; each is taken once when the priority allows it. */
static void prove_ipi(void)
{
	u32 dest = 0;

	for (u32 i = 0; i < n; i++)
		dest |= logical_of(i);
	if (!x2)
		CHECK("smp.jobs", smp_all(job_logical, 3 * SECOND), "not all CPUs answer");
	for (u32 turn = 0; loop_turn(); turn++) {
		for (u32 i = 1; i < n; i++)
			alive[i] = 0;
		begin(job_held);
		for (u32 i = 1; i < n; i++)
			CHECK("ipi.ready", smp_wait(&alive[i], 1, 2 * SECOND), "CPU %u does not take jobs", i);
		write_cr8(6);
		clear();
		smp_icr(0, ICR_FIXED | ICR_ALL | VEC_IPI);
		smp_icr(dest, ICR_FIXED | ICR_LOGICAL | VEC_NEIGHBOUR);
		loop_hold();
		for (u32 i = 0; i < n; i++)
			CHECK("ipi.held", !ipis[i] && !neighbours[i], "CPU %u took %u and %u with priority 6", i, ipis[i], neighbours[i]);
		for (u32 i = 1; i < n; i++)
			smp_icr(smp_cpu[i].apic_id, ICR_NMI);
		opens = 1;
		for (u32 i = 1; i < n; i++)
			smp_wake(i);
		write_cr8(0);
		sti();
		for (u32 i = 0; i < n; i++)
			CHECK("ipi.let", smp_wait(&ipis[i], 1, 2 * SECOND) && smp_wait(&neighbours[i], 1, 2 * SECOND) &&
			      smp_wait(&nmis[i], !!i, 2 * SECOND), "CPU %u: %u, %u, %u NMIs", i, ipis[i], neighbours[i], nmis[i]);
		cli();
		settle(2000);
		for (u32 i = 0; i < n; i++)
			CHECK("ipi.once", ipis[i] == 1 && neighbours[i] == 1 && nmis[i] == !!i, "CPU %u: %u, %u, %u NMIs", i, ipis[i],
			      neighbours[i], nmis[i]);
		CHECK("smp.jobs", end(), "CPUs do not go on");
		begin(turn & 1 ? job_halt : job_spin_open);
		send_kinds(turn & 1 ? "halted" : "spinning");
		nmi_to_all(turn & 1 ? "halted" : "spinning");
		lowest_priority();
		CHECK("smp.jobs", end(), "CPUs do not go on");
	}
}

static void job_common_tsc(u32 self)
{
	for (u32 i = 0; i < 50; i++)
		check_common_tsc(self);
}

/* The highest value that any CPU has seen is never above what another reads, from the first turn to the last. */
static void prove_tsc(void)
{
	while (loop_turn()) {
		tsc_equal();
		CHECK("smp.jobs", smp_all(job_common_tsc, 3 * SECOND), "not all CPUs end");
		loop_hold();
		CHECK("smp.jobs", smp_all(job_common_tsc, 3 * SECOND), "not all CPUs end");
		for (u32 i = 0; i < n; i++)
			CHECK("tsc.common", !bad_tsc[i], "CPU %u: %u times behind another", i, bad_tsc[i]);
	}
}

int main(void)
{
	bool startup = arg_is("prove", "startup"), ipi = arg_is("prove", "ipi"), tsc = arg_is("prove", "tsc");

	x2 = arg_is("x2apic", NULL);
	if (x2 && !apic_has_x2apic()) {
		guest_skip("smp", "no x2APIC");
		return 0;
	}
	apic_enable(x2);
	tsc_khz();
	n = smp_cpus();
	CHECK("smp.madt", n == arg_u64("cpus", n), "%u CPUs", n);
	intr_set(2, on_nmi);
	intr_set(VEC_IPI, on_ipi);
	intr_set(VEC_LATENCY, on_latency);
	intr_set(VEC_TIMER, on_timer);
	intr_set(VEC_LOWEST, on_lowest);
	intr_set(VEC_NEIGHBOUR, on_neighbour);
	start_all();
	if (startup || ipi || tsc) {
		smp_doze = true;
		(startup ? prove_startup : ipi ? prove_ipi : prove_tsc)();
		return 0;
	}
	identify();
	kinds_of_ipi();
	latency("ipi", job_spin_open);
	latency("ipi-halted", job_halt);
	init_again();
	tsc_equal();
	timers_at_once();
	if (n > 1) {
		handovers(true);
		handovers(false);
	}
	increments();
	vectors();
	if (arg_is("loop", NULL))
		for_ever();
	return 0;
}
