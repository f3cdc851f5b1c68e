/* SPDX-License-Identifier: MIT */
#include "util.h"

#include "hv/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int fail_set(struct fail *f, enum exit_code code, const char *fmt, ...)
{
	char text[sizeof(f->text)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	strcpy(f->text, text);
	f->code = code;
	return code;
}

uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

char *text_new(const char *fmt, ...)
{
	va_list ap;
	char *s;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	if (n < 0) {
		fputs("godwit: out of memory\n", stderr);
		exit(GW_FAILED);
	}
	return s;
}

void text_utf8(char *s)
{
	while (*s) {
		unsigned char *p = (unsigned char *)s;
		unsigned int more = p[0] < 0x80 ? 0 : p[0] >= 0xc2 && p[0] < 0xe0 ? 1 : (p[0] & 0xf0) == 0xe0 ? 2 :
				    p[0] >= 0xf0 && p[0] < 0xf5 ? 3 : 4, i;

		for (i = 1; i <= more && more < 4 && (p[i] & 0xc0) == 0x80; i++)
			;
		/* Not the shortest form, a surrogate, above U+10FFFF. */
		if (i <= more || (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] >= 0xa0) ||
		    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] >= 0x90)) {
			*s++ = '?';
			continue;
		}
		s += 1 + more;
	}
}

void text_clean(char *s)
{
	unsigned char *p;

	text_utf8(s);
	for (p = (unsigned char *)s; *p; p++) {
		if (*p == '\n' || *p == '\t') {
			*p = ' ';
		} else if (*p < 0x20 || *p == 0x7f) {
			*p = '?';
		} else if (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0) {
			p[0] = '?';
			p[1] = '?';
		}
	}
}

bool name_valid(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

	return n > 0 && n < NAME_MAX_LEN && !s[n] && s[0] != '.' && s[0] != '-';
}

char *format_bytes(char *buf, size_t size, double bytes)
{
	static const char *const unit[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	unsigned int i = 0;

	while (bytes >= 1024 && i < 4) {
		bytes /= 1024;
		i++;
	}
	snprintf(buf, size, i ? "%.1f %s" : "%.0f %s", bytes, unit[i]);
	return buf;
}

char *format_us(char *buf, size_t size, double us)
{
	double s = us / 1e6;
	uint64_t t = s >= 0 && s < 1e12 ? (uint64_t)s : 0;

	if (us < 1000)
		snprintf(buf, size, "%.0f us", us);
	else if (s < 1)
		snprintf(buf, size, "%.*f ms", us < 100e3 ? 1 : 0, us / 1e3);
	else if (s < 60)
		snprintf(buf, size, "%.2f s", s);
	else if (s < 3600)
		snprintf(buf, size, "%u m %02u s", (unsigned)(t / 60), (unsigned)(t % 60));
	else if (s < 86400)
		snprintf(buf, size, "%u h %02u m", (unsigned)(t / 3600), (unsigned)(t / 60 % 60));
	else
		snprintf(buf, size, "%u d %02u h", (unsigned)(t / 86400), (unsigned)(t / 3600 % 24));
	return buf;
}

int dir_make(const char *path, struct fail *f)
{
	char *copy = text_new("%s", path);
	char *p;

	for (p = copy + 1;; p++) {
		char c = *p;

		if (c && c != '/')
			continue;
		*p = 0;
		if (mkdir(copy, 0700) < 0 && errno != EEXIST) {
			fail_set(f, GW_FAILED, "cannot make the folder %s: %s", copy, strerror(errno));
			free(copy);
			return GW_FAILED;
		}
		*p = c;
		if (!c)
			break;
	}
	free(copy);
	return GW_OK;
}

static int file_write_fd(int fd, const char *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		data += n;
		len -= (size_t)n;
	}
	return fsync(fd);
}

int file_write(const char *path, const void *data, size_t len, mode_t mode, bool overwrite,
	       struct fail *f)
{
	char *tmp = text_new("%s.new", path);
	int code = GW_OK;
	int fd;

	if (!overwrite && access(path, F_OK) == 0) {
		code = fail_set(f, GW_FAILED, "%s exists already; it was left as it is", path);
		goto out;
	}
	unlink(tmp);
	fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
	if (fd < 0 || file_write_fd(fd, data, len) < 0 || rename(tmp, path) < 0) {
		code = fail_set(f, GW_FAILED, "cannot write %s: %s", path, strerror(errno));
		unlink(tmp);
	}
	if (fd >= 0)
		close(fd);
out:
	free(tmp);
	return code;
}

int file_read(const char *path, char **data, size_t *len, struct fail *f)
{
	const size_t max = 1 << 20;
	FILE *in = fopen(path, "re");
	char *buf;

	*data = NULL;
	if (!in)
		return fail_set(f, GW_FAILED, "cannot open %s: %s", path, strerror(errno));
	buf = malloc(max + 1);
	if (!buf) {
		fclose(in);
		return fail_set(f, GW_FAILED, "out of memory reading %s", path);
	}
	*len = fread(buf, 1, max + 1, in);
	if (ferror(in) || *len > max) {
		fail_set(f, GW_FAILED, "cannot read %s: %s", path,
			 *len > max ? "it is longer than 1 MiB" : strerror(errno));
		free(buf);
		fclose(in);
		return GW_FAILED;
	}
	fclose(in);
	buf[*len] = 0;
	*data = buf;
	return GW_OK;
}
