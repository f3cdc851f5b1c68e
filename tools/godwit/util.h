/* SPDX-License-Identifier: MIT */
/* Errors, time, text and files for the `godwit` command. */
#ifndef GODWIT_UTIL_H
#define GODWIT_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Exit codes of every command; --help lists them. */
enum exit_code {
	GW_OK = 0,
	GW_FAILED = 1,	  /* failed, and nothing was changed */
	GW_USAGE = 2,	  /* the command line is wrong */
	GW_NO_HOST = 3,	  /* a host cannot be reached or authenticated */
	GW_UNKNOWN = 4,	  /* asked for, but the outcome is not known */
	GW_CANCELLED = 5, /* cancelled on request, nothing was changed */
	GW_BAD_END = 6,	  /* the outcome is known, and it is not what was asked for */
};

/* Why something failed: the text names the thing and the remedy, without a final newline. */
struct fail {
	enum exit_code code;
	char text[1200];
};

/* Fills @f and returns @code, so that a caller can `return fail_set(...)`. f->text may be among the arguments. */
int fail_set(struct fail *f, enum exit_code code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Milliseconds of the monotonic clock. */
uint64_t now_ms(void);

/* As asprintf, but never returns NULL: out of memory ends the program. The caller frees. */
char *text_new(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Makes each byte of @s that is not UTF-8 a '?', in place: JSON has no other text. */
void text_utf8(char *s);

/*
 * As text_utf8(), and replaces control characters (C0, DEL, C1), so that text from a host cannot drive
 * the operator's terminal. Line breaks and tabs become spaces.
 */
void text_clean(char *s);

/* Whether @s can name a host, guest, person or cluster: 1..31 of [A-Za-z0-9._-], not first . or -. */
bool name_valid(const char *s);

/* "128.0 MiB" in @buf (at least 24 bytes); returns @buf. */
char *format_bytes(char *buf, size_t size, double bytes);

/* "3.41 s", "187 ms", "2 h 05 m" in @buf (at least 24 bytes); returns @buf. */
char *format_us(char *buf, size_t size, double us);

/* Creates @path and its parents with mode 0700. */
int dir_make(const char *path, struct fail *f);

/*
 * Writes @len bytes to @path with @mode through a temporary file and rename, so that a crash never
 * leaves half a key. Without @overwrite an existing file is an error.
 */
int file_write(const char *path, const void *data, size_t len, mode_t mode, bool overwrite,
	       struct fail *f);

/* Reads the whole of @path (at most 1 MiB) plus a 0 byte into *@data, which the caller frees. */
int file_read(const char *path, char **data, size_t *len, struct fail *f);

#endif
