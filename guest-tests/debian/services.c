/* SPDX-License-Identifier: MIT */
/*
 * godwit-test: the services of the Debian guest that clients talk to while it moves.
 *
 * It says on the console, one write() per line:
 *	GT HB seq=N mono=SEC.NSEC real=SEC.NSEC clock=NAME late=USEC bad=N tcp=BYTES req=N tx=N	each second
 *	GT BAD TEXT			a kernel message that no healthy guest has, or a clock that went back
 *	GT TX N				a transaction was acknowledged (printed only after COMMIT returned)
 *	GT STRESS TEXT, GT STRESS exit=N	what stress-ng says, and how it ended
 *	GT SH TEXT, GT SH exit=N		answers to a line typed on the console: sh COMMAND
 *	GT FAIL TEXT			a service cannot do its work
 *
 * Kernel command line:
 *	godwit.test=LIST	of tcpstream, echo, sqlite
 *	godwit.stress=A,B,C	stress-ng A B C
 *	godwit.sql_ms=N		pause between two transactions (default 0)
 *
 * TCP:
 *	7001 tcpstream	client sends "SEED KIB_PER_S\n" (0: as fast as it goes), then gets bytes for ever; see fill()
 *	7002 echo	all bytes come back
 *	7003 sqlite	the number of each acknowledged transaction since the connection was made, one a line
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "../linux/common.h"

#define LAP 65521u /* bytes; a prime, so that no page, segment or block is ever where it was in another lap */
#define DATABASE "/var/lib/test.db"

static char cmdline[4096];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* the counters below */
static pthread_cond_t acknowledged = PTHREAD_COND_INITIALIZER;
static u64 bad, streamed, requests, last_tx;
static int counting; /* last_tx is known */

static void add(u64 *counter, u64 n)
{
	pthread_mutex_lock(&lock);
	*counter += n;
	pthread_mutex_unlock(&lock);
}

static void sleep_ns(u64 ns)
{
	struct timespec ts = { ns / NS, ns % NS };

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

static void start(void *(*run)(void *), void *arg)
{
	pthread_t thread;
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 256 << 10);
	if (pthread_create(&thread, &attr, run, arg))
		say("GT FAIL no thread: %s", strerror(errno));
}

/* The text of NAME= on the kernel command line; NULL if it is not there. */
static char *option(const char *name, char *value, size_t size)
{
	size_t n = strlen(name);

	for (const char *p = cmdline; (p = strstr(p, name)); p += n) {
		if ((p > cmdline && p[-1] != ' ') || p[n] != '=')
			continue;
		snprintf(value, size, "%.*s", (int)strcspn(p + n + 1, " \n"), p + n + 1);
		return value;
	}
	return NULL;
}

static int wanted(const char *service)
{
	char list[256];

	if (!option("godwit.test", list, sizeof(list)))
		return 0;
	for (char *p = strtok(list, ","); p; p = strtok(NULL, ","))
		if (!strcmp(p, service))
			return 1;
	return 0;
}

/* --- what is wrong in the kernel's own eyes --- */

static void *watch_kernel(void *unused)
{
	static const char *const signs[] = {
		"soft lockup", "hard LOCKUP", "rcu_preempt detected stalls", "rcu_sched detected stalls", "self-detected stall",
		"RCU: stall", "unstable", "skew", "blocked for more than", "Call Trace", "BUG:", "WARNING: CPU", "I/O error",
		"EXT4-fs error", "EXT4-fs warning", "Aborting journal", "Remounting filesystem read-only", "nobody cared",
		"Lost async page write", "NETDEV WATCHDOG", "transmit queue", "Time jumped", "time jumped", "TSC warp",
	};
	int fd = open("/dev/kmsg", O_RDONLY);
	char record[4096];

	for (;;) {
		ssize_t n = read(fd, record, sizeof(record) - 1);
		char *text;

		if (n < 0 && errno == EPIPE) /* overrun: some were lost to us */
			continue;
		if (n <= 0) {
			say("GT FAIL kmsg: %s", strerror(errno));
			return unused;
		}
		record[n] = 0;
		text = strchr(record, ';');
		if (!text)
			continue;
		text[strcspn(text, "\n")] = 0;
		for (size_t i = 0; i < sizeof(signs) / sizeof(*signs); i++) {
			if (strstr(text, signs[i])) {
				add(&bad, 1);
				say("GT BAD %s", text + 1);
				break;
			}
		}
	}
}

static void heartbeat(void)
{
	static const char *const path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
	u64 next = clock_ns(CLOCK_MONOTONIC), last = 0;

	for (u64 seq = 1;; seq++) {
		struct timespec at;
		char clock[32] = "";
		u64 mono, real;
		int fd = open(path, O_RDONLY), n = read(fd, clock, sizeof(clock) - 1);

		close(fd);
		clock[n > 0 ? strcspn(clock, "\n") : 0] = 0;
		mono = clock_ns(CLOCK_MONOTONIC);
		real = clock_ns(CLOCK_REALTIME);
		if (mono < last) {
			add(&bad, 1);
			say("GT BAD CLOCK_MONOTONIC went from %llu to %llu", last, mono);
		}
		last = mono;
		say("GT HB seq=%llu mono=%llu.%09llu real=%llu.%09llu clock=%s late=%llu bad=%llu tcp=%llu req=%llu tx=%llu", seq,
		    mono / NS, mono % NS, real / NS, real % NS, clock, (mono - next) / 1000, bad, streamed, requests, last_tx);
		do
			next += NS;
		while (next <= mono);
		at = (struct timespec){ next / NS, next % NS };
		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
			;
	}
}

/* --- TCP --- */

struct service {
	const char *name;
	int port;
	void (*serve)(int fd);
	int listener;
};

struct connection {
	const struct service *service;
	int fd;
};

static void *connection_thread(void *arg)
{
	struct connection c = *(struct connection *)arg;

	free(arg);
	c.service->serve(c.fd);
	close(c.fd);
	return NULL;
}

static void *listen_thread(void *arg)
{
	struct service *s = arg;

	for (;;) {
		struct connection *c = malloc(sizeof(*c));
		int one = 1;

		*c = (struct connection){ s, accept4(s->listener, NULL, NULL, SOCK_CLOEXEC) };
		if (c->fd < 0) {
			say("GT FAIL accept %s: %s", s->name, strerror(errno));
			free(c);
			sleep_ns(NS);
			continue;
		}
		setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		start(connection_thread, c);
	}
	return NULL;
}

static void listen_on(struct service *s)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(s->port) };
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 16)) {
		say("GT FAIL listen %s: %s", s->name, strerror(errno));
		return;
	}
	s->listener = fd;
	start(listen_thread, s);
}

/*
 * The stream of a seed is laps of LAP bytes. All laps are the same pseudo-random bytes, but for the first eight: the
 * number of the lap, little-endian. Making and checking it is a memcpy and a memcmp.
 */
static void fill(unsigned char *lap, u64 seed)
{
	for (unsigned i = 0; i < LAP; i += 8) {
		u64 word = mix(seed + i);

		memcpy(lap + i, &word, LAP - i < 8 ? LAP - i : 8);
	}
}

static void serve_stream(int fd)
{
	unsigned char *lap = malloc(LAP);
	char line[64];
	u64 seed, rate, begin, sent = 0;
	size_t n = 0;

	while (n < sizeof(line) - 1 && read(fd, line + n, 1) == 1 && line[n] != '\n')
		n++;
	line[n] = 0;
	if (lap && sscanf(line, "%llu %llu", &seed, &rate) == 2) {
		fill(lap, seed);
		begin = clock_ns(CLOCK_MONOTONIC);
		for (;;) {
			u64 number = sent / LAP, due;
			size_t at = sent % LAP, step = LAP - at < 4096 ? LAP - at : 4096;
			ssize_t w;

			memcpy(lap, &number, 8);
			w = send(fd, lap + at, step, MSG_NOSIGNAL);
			if (w <= 0)
				break;
			sent += w;
			add(&streamed, w);
			due = rate ? begin + sent * NS / (rate * 1024) : 0;
			if (due > clock_ns(CLOCK_MONOTONIC))
				sleep_ns(due - clock_ns(CLOCK_MONOTONIC));
		}
		say("GT stream ended after %llu bytes: %s", sent, strerror(errno));
	}
	free(lap);
}

static void serve_echo(int fd)
{
	char buffer[4096];
	ssize_t n;

	while ((n = read(fd, buffer, sizeof(buffer))) > 0) {
		write_all(fd, buffer, n);
		add(&requests, 1);
	}
}

static void serve_transactions(int fd)
{
	u64 told;
	char line[32];

	pthread_mutex_lock(&lock);
	while (!counting)
		pthread_cond_wait(&acknowledged, &lock);
	told = last_tx;
	for (;;) {
		while (told == last_tx)
			pthread_cond_wait(&acknowledged, &lock);
		told++;
		pthread_mutex_unlock(&lock);
		if (send(fd, line, sprintf(line, "%llu\n", told), MSG_NOSIGNAL) <= 0)
			return;
		pthread_mutex_lock(&lock);
	}
}

/* --- children --- */

/* Start a program; *in (if not NULL) and *out are its standard input and output. */
static pid_t spawn(char *const argv[], int *in, FILE **out)
{
	int to[2] = { -1, -1 }, from[2];
	pid_t pid;

	if ((in && pipe2(to, O_CLOEXEC)) || pipe2(from, O_CLOEXEC))
		return -1;
	pid = fork();
	if (!pid) {
		dup2(in ? to[0] : open("/dev/null", O_RDONLY), 0);
		dup2(from[1], 1);
		dup2(from[1], 2);
		signal(SIGPIPE, SIG_DFL);
		execvp(argv[0], argv);
		dprintf(2, "%s: %s\n", argv[0], strerror(errno));
		_exit(127);
	}
	if (in) {
		close(to[0]);
		*in = to[1];
	}
	close(from[1]);
	*out = fdopen(from[0], "r");
	return pid;
}

/* Run a program to its end, its lines prefixed on the console. */
static void run(const char *prefix, char *const argv[])
{
	char line[512];
	FILE *out;
	int status = -1;
	pid_t pid = spawn(argv, NULL, &out);

	while (pid > 0 && fgets(line, sizeof(line), out)) {
		line[strcspn(line, "\r\n")] = 0;
		say("GT %s %s", prefix, line);
	}
	if (pid > 0) {
		fclose(out);
		waitpid(pid, &status, 0);
	}
	say("GT %s exit=%d", prefix, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static void *stress_thread(void *arg)
{
	char *argv[64] = { "stress-ng" };
	int n = 1;

	for (char *p = strtok(arg, ","); p && n < 63; p = strtok(NULL, ","))
		argv[n++] = p;
	run("STRESS", argv);
	free(arg);
	return NULL;
}

static void *shell_thread(void *arg)
{
	run("SH", (char *[]){ "/bin/sh", "-c", arg, NULL });
	free(arg);
	return NULL;
}

/* SQLite's own program does the transactions: what it prints after COMMIT is the acknowledgement. */
static void *sqlite_thread(void *unused)
{
	char line[256], value[32];
	u64 n = 0, pause = option("godwit.sql_ms", value, sizeof(value)) ? strtoull(value, NULL, 10) * 1000000 : 0;
	int in;
	FILE *out;
	pid_t pid = spawn((char *[]){ "sqlite3", "-bail", "-batch", DATABASE, NULL }, &in, &out);

	dprintf(in, "PRAGMA synchronous=FULL; CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, mix TEXT NOT NULL, pad BLOB);"
		    "SELECT coalesce(max(n), 0) FROM t;\n");
	if (pid < 0 || !fgets(line, sizeof(line), out) || sscanf(line, "%llu", &n) != 1) {
		say("GT FAIL sqlite: %s", pid < 0 ? strerror(errno) : line);
		return unused;
	}
	pthread_mutex_lock(&lock);
	last_tx = n;
	counting = 1;
	pthread_cond_broadcast(&acknowledged);
	pthread_mutex_unlock(&lock);
	for (;;) {
		u64 told = 0;

		n++;
		dprintf(in, "BEGIN IMMEDIATE; INSERT INTO t VALUES(%llu, '%016llx', randomblob(600)); COMMIT; SELECT %llu;\n", n, mix(n),
			n);
		if (!fgets(line, sizeof(line), out) || sscanf(line, "%llu", &told) != 1 || told != n) {
			say("GT FAIL sqlite transaction %llu: %s", n, line);
			return unused;
		}
		say("GT TX %llu", n);
		pthread_mutex_lock(&lock);
		last_tx = n;
		pthread_cond_broadcast(&acknowledged);
		pthread_mutex_unlock(&lock);
		sleep_ns(pause);
	}
}

static void *console_thread(void *unused)
{
	char line[512];
	FILE *in = fdopen(0, "r");

	while (fgets(line, sizeof(line), in)) {
		line[strcspn(line, "\r\n")] = 0;
		if (!strncmp(line, "sh ", 3))
			start(shell_thread, strdup(line + 3));
		else if (!strncmp(line, "stress ", 7))
			start(stress_thread, strdup(line + 7));
		else if (*line)
			say("GT FAIL what is %s? (sh COMMAND, stress A,B,C)", line);
	}
	return unused;
}

int main(void)
{
	static struct service services[] = {
		{ .name = "tcpstream", .port = 7001, .serve = serve_stream },
		{ .name = "echo", .port = 7002, .serve = serve_echo },
		{ .name = "sqlite", .port = 7003, .serve = serve_transactions },
	};
	struct termios tty;
	char stress[512];
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && read(fd, cmdline, sizeof(cmdline) - 1) < 0)
		perror("/proc/cmdline");
	close(fd);
	signal(SIGPIPE, SIG_IGN);
	if (!tcgetattr(0, &tty)) {
		tty.c_lflag &= ~ECHO; /* what is typed is not for the log */
		tcsetattr(0, TCSANOW, &tty);
	}
	start(watch_kernel, NULL);
	for (unsigned i = 0; i < 3; i++)
		if (wanted(services[i].name))
			listen_on(&services[i]);
	if (wanted("sqlite"))
		start(sqlite_thread, NULL);
	if (option("godwit.stress", stress, sizeof(stress)))
		start(stress_thread, strdup(stress));
	start(console_thread, NULL);
	heartbeat();
}
