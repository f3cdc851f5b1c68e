/* SPDX-License-Identifier: MIT */
/*
 * Preloaded into Bochs: its display server (rfb, no password) and its socket network module bind to
 * every address of the machine. Keep them on loopback. The display gets any free port: two that start
 * at the same moment would both bind 5900 (SO_REUSEADDR), and the one that listens second ends.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

int bind(int fd, const struct sockaddr *addr, socklen_t len)
{
	int (*next)(int, const struct sockaddr *, socklen_t) =
	    (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "bind");
	struct sockaddr_in in;

	if (addr && addr->sa_family == AF_INET && len >= sizeof(in)) {
		memcpy(&in, addr, sizeof(in));
		if (in.sin_addr.s_addr == htonl(INADDR_ANY)) {
			in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
			if (ntohs(in.sin_port) >= 5900 && ntohs(in.sin_port) < 5950)
				in.sin_port = 0;
			return next(fd, (const struct sockaddr *)&in, sizeof(in));
		}
	}
	return next(fd, addr, len);
}
