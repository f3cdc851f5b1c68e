/* SPDX-License-Identifier: MIT */
/*
 * heartbeat: process 1 of the real guest. It proves, line by line, that a move lost nothing.
 *
 * One line per period on the console, each in a single write():
 *	HB seq=N mono=SEC.NSEC real=SEC.NSEC chk=OK dirty=MIB gap=USEC
 * chk is OK or the number of failures so far; dirty is what has been dirtied since the start;
 * gap is the largest lateness of any wake-up so far. What is checked:
 *	- a constant pattern (hb.pattern_mb), every page again within hb.verify_ms;
 *	- a working set (hb.dirty_set_mb) rewritten at hb.dirty_mb_s; every page is compared
 *	  with what was last written to it before it is written again;
 *	- CLOCK_MONOTONIC and the TSC never go back;
 *	- hb.threads=N more threads, bound to the CPUs in turn, in pairs of neighbours that pass a
 *	  token on with futexes, call membarrier() now and then (an IPI to every CPU), wait on timers
 *	  and rewrite checked pages of their own: no token is lost, and no clock goes back between CPUs.
 * A failure is one line "HB FAIL chk ..." or "HB FAIL time ...".
 *
 * Settings come from the kernel command line as hb.NAME=VALUE, and later as console lines
 * ("help" lists them).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common.h"

/* linux/futex.h and linux/membarrier.h, which musl's compiler has not. */
#define FUTEX_WAIT_PRIVATE 128
#define FUTEX_WAKE_PRIVATE 129
#define MEMBARRIER_CMD_PRIVATE_EXPEDITED 8
#define MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED 16

#define PAGE 4096u
#define PAGE_WORDS (PAGE / 8)
#define MIB_PAGES 256u
#define SLICE_NS 10000000ull /* while dirtying, wake this often: keeps the rate even */

typedef uint32_t u32;

struct setting {
	const char *name;
	u64 value, max;
};

enum { PERIOD, PATTERN, DIRTY, DIRTY_SET, VERIFY, SELFEND, THREADS, NAP, NSETTINGS };
static struct setting set[NSETTINGS] = {
	[PERIOD] = { "period_ms", 100, 3600000 },
	[PATTERN] = { "pattern_mb", 16, 1 << 20 },
	[DIRTY] = { "dirty_mb_s", 0, 1 << 20 },
	[DIRTY_SET] = { "dirty_set_mb", 16, 1 << 20 },
	[VERIFY] = { "verify_ms", 4000, 3600000 },
	[SELFEND] = { "selfend", 0, ~0ull },
	[THREADS] = { "threads", 0, 64 },
	[NAP] = { "nap_us", 1000, 1000000 }, /* of each thread after eight rounds */
};

/*
 * A page of an area holds 512 words of template[], from a place that depends on the page and its
 * generation, with the first word replaced by a key made of both. So a page that is stale,
 * misplaced, torn or another guest's is seen, LZ4 finds nothing to squeeze, and both writing and
 * checking are one string instruction (cheap in an emulator, where each exit and each
 * instruction counts).
 */
static u64 template[2 * PAGE_WORDS];

struct area {
	const char *name;
	u64 *mem;
	u32 *gen; /* generation last written, per page */
	u32 pages, next;
	u64 seed, visits;
};

static struct area pattern = { .name = "pattern" }, working = { .name = "dirty" };

static u64 seq, fails, gap_max, gap_seq, wakes, dirty_total;
static u64 start_mono, start_tsc, last_mono, last_tsc;
static pid_t shell;
static int had_shell;

static u64 rdtsc(void)
{
	u32 lo, hi;

	__asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (u64)hi << 32 | lo;
}

/* ---- memory ---- */

static u64 area_key(const struct area *a, u32 page)
{
	return mix(a->seed ^ ((u64)a->gen[page] << 32 | page));
}

static void area_write(struct area *a, u32 page)
{
	u64 key = area_key(a, page), count = PAGE_WORDS - 1;
	u64 *dst = a->mem + (u64)page * PAGE_WORDS;
	const u64 *src = template + key % PAGE_WORDS;

	*dst++ = key;
	__asm__ volatile("rep movsq" : "+D"(dst), "+S"(src), "+c"(count) : : "memory");
}

/* Compares a page with what it must hold; repairs it after a failure, to report each only once. */
static void area_check(struct area *a, u32 page)
{
	u64 key = area_key(a, page), count = PAGE_WORDS - 1;
	const u64 *mem = a->mem + (u64)page * PAGE_WORDS, *p = mem + 1;
	const u64 *src = template + key % PAGE_WORDS;
	unsigned char same;
	u64 want = key;

	a->visits++;
	__asm__ volatile("repe cmpsq; sete %3"
			 : "+D"(p), "+S"(src), "+c"(count), "=q"(same) : : "memory", "cc");
	if (same && mem[0] == key)
		return;
	if (mem[0] == key) {
		p--;
		want = src[-1];
	} else {
		p = mem;
	}
	fails++;
	say("HB FAIL chk page=%u area=%s word=%u got=%016llx want=%016llx gen=%u seq=%llu", page,
	    a->name, (u32)(p - mem), *p, want, a->gen[page],
	    seq);
	area_write(a, page);
}

/* Leave a quarter of what is free to the kernel: the OOM killer would take process 1. */
static void area_alloc(struct area *a, u64 mb)
{
	struct sysinfo si;
	u64 most;

	if (a->mem) {
		munmap(a->mem, (size_t)a->pages * PAGE);
		free(a->gen);
	}
	*a = (struct area){ .name = a->name };
	sysinfo(&si);
	most = ((u64)si.freeram * si.mem_unit >> 20) * 3 / 4;
	if (mb > most) {
		say("HB NOTE %s area cut to %llu MiB: no more memory is free", a->name,
		    most);
		mb = most;
	}
	if (!mb)
		return;
	a->gen = calloc(mb * MIB_PAGES, sizeof(*a->gen));
	a->mem = mmap(NULL, mb << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!a->gen || a->mem == MAP_FAILED) {
		say("HB FAIL mem no memory for %llu MiB", mb);
		fails++;
		a->mem = NULL;
		return;
	}
	a->pages = mb * MIB_PAGES;
	a->seed = mix(rdtsc());
	for (u32 i = 0; i < a->pages; i++)
		area_write(a, i);
}

static u32 area_next(struct area *a)
{
	u32 page = a->next;

	a->next = page + 1 < a->pages ? page + 1 : 0;
	return page;
}

static void dirty_some(u64 pages)
{
	while (working.pages && pages--) {
		u32 page = area_next(&working);

		area_check(&working, page);
		working.gen[page]++;
		area_write(&working, page);
		dirty_total++;
	}
}

/* ---- time ---- */

static u64 check_time(void)
{
	u64 mono = clock_ns(CLOCK_MONOTONIC), tsc = rdtsc();

	if (mono < last_mono) {
		fails++;
		say("HB FAIL time mono went back %llu ns seq=%llu",
		    (last_mono - mono), seq);
	}
	if (tsc < last_tsc) {
		fails++;
		say("HB FAIL time tsc went back %llu ticks seq=%llu",
		    (last_tsc - tsc), seq);
	}
	last_mono = mono;
	last_tsc = tsc;
	return mono;
}

/* ---- load on all CPUs ---- */

/* Thread i waits until its token is odd (i even: even), makes it so for its partner and works a little. */
struct worker {
	u32 token, id;
	u64 rounds, tsc; /* tsc: when the token was passed on last */
	struct worker *first; /* of the pair: it has the token */
	struct area area;
	_Bool started;
} __attribute__((aligned(64)));
static struct worker workers[64];

static void worker_fail(const char *what, const struct worker *w, u64 number)
{
	__atomic_add_fetch(&fails, 1, __ATOMIC_RELAXED);
	say("HB FAIL thread %s worker=%u rounds=%llu number=%llu", what, w->id, w->rounds, number);
}

static void *work(void *arg)
{
	struct worker *w = arg, *f = w->first;
	u32 mine = w->id & 1, token;
	struct timespec wait = { 20, 0 }, nap = { 0, set[NAP].value * 999 };
	u64 now, before;

	for (;; w->rounds++) {
		while (((token = __atomic_load_n(&f->token, __ATOMIC_ACQUIRE)) & 1) != mine) {
			before = clock_ns(CLOCK_MONOTONIC);
			if (syscall(SYS_futex, &f->token, FUTEX_WAIT_PRIVATE, token, &wait, NULL, 0) && errno == ETIMEDOUT) {
				/* Its partner must have been stuck, or the wake-up was lost. */
				worker_fail("waited in vain", w, clock_ns(CLOCK_MONOTONIC) - before);
			}
		}
		now = rdtsc();
		if (now < f->tsc)
			worker_fail("tsc went back between CPUs", w, f->tsc - now);
		area_check(&w->area, w->area.next);
		w->area.gen[w->area.next]++;
		area_write(&w->area, area_next(&w->area));
		if (w->rounds % 16 == 0)
			syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
		if (w->rounds % 8 == 1) {
			before = clock_ns(CLOCK_MONOTONIC);
			nanosleep(&nap, NULL);
			if (clock_ns(CLOCK_MONOTONIC) - before < (u64)nap.tv_nsec)
				worker_fail("slept too short", w, clock_ns(CLOCK_MONOTONIC) - before);
		}
		f->tsc = rdtsc();
		__atomic_store_n(&f->token, token + 1, __ATOMIC_RELEASE);
		syscall(SYS_futex, &f->token, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	}
	return NULL;
}

/* Pairs, so that each thread has a partner on the next CPU. */
static void start_threads(void)
{
	u32 cpus = (u32)sysconf(_SC_NPROCESSORS_ONLN);

	syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
	for (u32 i = 0; i < (u32)(set[THREADS].value & ~1ull); i++) {
		struct worker *w = &workers[i];
		pthread_t thread;
		cpu_set_t on;

		if (w->started)
			continue;
		*w = (struct worker){ .id = i, .first = &workers[i & ~1u], .area = { .name = "thread" }, .started = 1 };
		area_alloc(&w->area, 1);
		CPU_ZERO(&on);
		CPU_SET(i % cpus, &on);
		if (!w->area.mem || pthread_create(&thread, NULL, work, w) ||
		    pthread_setaffinity_np(thread, sizeof(on), &on))
			worker_fail("cannot be started", w, i % cpus);
	}
}

static u64 thread_rounds(void)
{
	u64 least = ~0ull;

	for (u32 i = 0; i < 64; i++)
		if (workers[i].started && workers[i].rounds < least)
			least = workers[i].rounds;
	return least == ~0ull ? 0 : least;
}

/* ---- settings and commands ---- */

static int set_value(struct setting *s, const char *text)
{
	char *end;
	u64 v = strtoull(text, &end, 0);

	if (end == text || (*end && !strchr(" \t\r\n", *end)) || v > s->max)
		return -1;
	s->value = v;
	return 0;
}

static void read_cmdline(void)
{
	char buf[4096];
	int fd = open("/proc/cmdline", O_RDONLY);
	ssize_t n = fd < 0 ? 0 : read(fd, buf, sizeof(buf) - 1);

	if (fd >= 0)
		close(fd);
	buf[n > 0 ? n : 0] = 0;
	for (char *w = strtok(buf, " \t\r\n"); w; w = strtok(NULL, " \t\r\n")) {
		char *eq = strchr(w, '=');
		int i;

		if (strncmp(w, "hb.", 3))
			continue;
		for (i = 0; eq && i < NSETTINGS; i++)
			if (!strncmp(w + 3, set[i].name, eq - w - 3) && !set[i].name[eq - w - 3])
				break;
		if (!eq || i == NSETTINGS || set_value(&set[i], eq + 1))
			say("HB NOTE setting %s is not known", w);
	}
}

static void stats(void)
{
	u64 ms = (last_mono - start_mono) / 1000000;

	say("HB STATS seq=%llu run_ms=%llu wakes=%llu pattern_mb=%u pattern_checks=%llu "
	    "dirty_set_mb=%u dirty_pages=%llu gap_us=%llu gap_seq=%llu thread_rounds=%llu fails=%llu tsc_khz=%llu",
	    seq, ms, wakes,
	    pattern.pages / MIB_PAGES, pattern.visits,
	    working.pages / MIB_PAGES, dirty_total,
	    (gap_max / 1000), gap_seq, thread_rounds(),
	    fails, (ms ? (last_tsc - start_tsc) / ms : 0));
}

static void start_shell(void)
{
	say("HB NOTE shell: beats are checked but not printed until it ends");
	had_shell = 1;
	shell = fork();
	if (shell)
		return;
	setsid();
	ioctl(0, TIOCSCTTY, 1);
	execl("/bin/busybox", "sh", "-i", (char *)NULL);
	_exit(127);
}

static void panic(void)
{
	int fd = open("/proc/sysrq-trigger", O_WRONLY);

	if (fd < 0 || write(fd, "c", 1) != 1)
		say("HB NOTE /proc/sysrq-trigger does not work: %s", strerror(errno));
}

static void command(char *line)
{
	static const char *const change[] = { "period", "pattern", "dirty", "dirtyset", "verify" };
	char *word = strtok(line, " \t\r\n"), *arg = strtok(NULL, " \t\r\n");

	if (!word)
		return;
	for (int i = 0; i < (int)(sizeof(change) / sizeof(change[0])); i++) {
		if (strcmp(word, change[i]))
			continue;
		if (!arg || set_value(&set[i], arg)) {
			say("HB NOTE %s wants a number", word);
			return;
		}
		if (i == PATTERN)
			area_alloc(&pattern, set[PATTERN].value);
		if (i == DIRTY_SET || (i == DIRTY && set[DIRTY].value && !working.mem))
			area_alloc(&working, set[DIRTY_SET].value);
		say("HB SET %s=%llu", set[i].name, set[i].value);
		return;
	}
	if (!strcmp(word, "stats")) {
		stats();
	} else if (!strcmp(word, "reset")) {
		gap_max = gap_seq = 0;
		say("HB SET gap=0");
	} else if (!strcmp(word, "corrupt") && pattern.pages) {
		/* The proof that a test which relies on chk can fail. */
		pattern.mem[(u64)pattern.next * PAGE_WORDS + 100] ^= 1;
		say("HB SET corrupt page=%u", pattern.next);
	} else if (!strcmp(word, "poweroff")) {
		say("HB END poweroff");
		reboot(RB_POWER_OFF);
	} else if (!strcmp(word, "reboot")) {
		say("HB END reboot");
		reboot(RB_AUTOBOOT);
	} else if (!strcmp(word, "panic")) {
		panic();
	} else if (!strcmp(word, "sh")) {
		start_shell();
	} else {
		say("HB NOTE commands: period MS, pattern MIB, dirty MIB_PER_S, dirtyset MIB, "
		    "verify MS, stats, reset, corrupt, sh, poweroff, reboot, panic");
	}
}

static void read_console(void)
{
	static char line[128];
	ssize_t n = read(0, line, sizeof(line) - 1); /* the tty hands out whole lines */

	if (n <= 0) {
		/* No usable console input: do not spin on it. */
		if (n == 0 || errno != EINTR)
			poll(NULL, 0, 100);
		return;
	}
	line[n] = 0;
	command(line);
}

/* ---- the loop ---- */

static void beat(u64 mono)
{
	u64 real = clock_ns(CLOCK_REALTIME);
	char chk[32] = "OK";

	if (fails)
		snprintf(chk, sizeof(chk), "FAIL:%llu", fails);
	seq++;
	if (!shell)
		say("HB seq=%llu mono=%llu.%09llu real=%llu.%09llu chk=%s dirty=%llu gap=%llu",
		    seq, mono / NS, mono % NS, real / NS, real % NS, chk,
		    (dirty_total / MIB_PAGES),
		    (gap_max / 1000));
	if (set[SELFEND].value && seq >= set[SELFEND].value) {
		stats();
		say("HB END %s", fails ? "FAIL" : "ok");
		reboot(RB_POWER_OFF);
	}
}

/* What is owed for a time span; a rest smaller than one page is carried over. */
static u64 owed(u64 *carry, u64 span_ns, u64 per_s)
{
	u64 n;

	/* After a stall do not make up for it: the rate is a rate, not a debt. */
	if (span_ns > NS)
		span_ns = NS;
	*carry += span_ns / 1000 * per_s;
	n = *carry / 1000000;
	*carry -= n * 1000000;
	return n;
}

int main(void)
{
	u64 next_beat, worked, carry_dirty = 0, carry_check = 0;

	for (unsigned i = 0; i < sizeof(template) / 8; i++)
		template[i] = mix(i + 1);
	read_cmdline();
	area_alloc(&pattern, set[PATTERN].value);
	if (set[DIRTY].value)
		area_alloc(&working, set[DIRTY_SET].value);
	start_threads();
	say("HB START period_ms=%llu pattern_mb=%u dirty_mb_s=%llu dirty_set_mb=%llu tsc=%llu",
	    set[PERIOD].value, pattern.pages / MIB_PAGES,
	    set[DIRTY].value, set[DIRTY_SET].value,
	    rdtsc());
	start_mono = worked = next_beat = check_time();
	start_tsc = last_tsc;
	for (;;) {
		struct pollfd pfd = { .fd = shell ? -1 : 0, .events = POLLIN };
		u64 wake = next_beat, now = clock_ns(CLOCK_MONOTONIC), due, verify;
		struct timespec ts = { 0 };

		if (set[DIRTY].value && worked + SLICE_NS < wake)
			wake = worked + SLICE_NS;
		if (wake > now)
			ts = (struct timespec){ (wake - now) / NS, (wake - now) % NS };
		if (ppoll(&pfd, 1, &ts, NULL) > 0) {
			read_console();
			/* The time that a command took is not a gap. */
			worked = check_time();
			if (next_beat < worked)
				next_beat = worked;
			continue;
		}
		if (shell && waitpid(shell, NULL, WNOHANG) == shell) {
			shell = 0;
			say("HB NOTE shell ended");
		}
		while (had_shell && !shell && waitpid(-1, NULL, WNOHANG) > 0)
			; /* orphans of the shell are process 1's to reap */
		now = check_time();
		if (now < wake)
			continue;
		wakes++;
		if (now - wake > gap_max) {
			gap_max = now - wake;
			gap_seq = seq;
		}
		if (set[DIRTY].value)
			dirty_some(owed(&carry_dirty, now - worked, set[DIRTY].value * MIB_PAGES));
		verify = set[VERIFY].value ? (u64)pattern.pages * 1000 / set[VERIFY].value : 0;
		for (due = pattern.pages ? owed(&carry_check, now - worked, verify) : 0; due; due--)
			area_check(&pattern, area_next(&pattern));
		worked = now;
		now = check_time();
		if (now < next_beat)
			continue;
		beat(now);
		next_beat += set[PERIOD].value * 1000000;
		if (next_beat < now)
			next_beat = now + set[PERIOD].value * 1000000;
	}
}
