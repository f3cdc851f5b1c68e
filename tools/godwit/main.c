/* SPDX-License-Identifier: MIT */
/* The `godwit` command: the operator's side of Godwit's control protocol. */
#include <argp.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ca.h"
#include "console.h"
#include "define.h"
#include "guest.h"
#include "hosttime.h"
#include "migrate.h"
#include "status.h"
#include "util.h"

const char *argp_program_version = "godwit 0.1.0";

static const struct command {
	const char *name;
	int (*main)(int argc, char **argv);
	const char *help;
	bool changes; /* hosts or files: without its result nobody knows what it has done */
} commands[] = {
	{ "ca", ca_main, "make the cluster's CA; enrol hosts and people", true },
	{ "status", status_main, "show hosts and guests", false },
	{ "time", time_main, "show how right the hosts' clocks are", false },
	{ "create", define_main, "define a guest on a running host", true },
	{ "change", define_main, "change a guest's definition", true },
	{ "delete", define_main, "forget a guest", true },
	{ "start", guest_main, "start a guest", true },
	{ "stop", guest_main, "shut a guest down, or switch it off", true },
	{ "reset", guest_main, "reset a guest", true },
	{ "pause", guest_main, "stop a guest's CPU", true },
	{ "resume", guest_main, "let a paused guest go on", true },
	{ "console", console_main, "use a guest's serial console", false },
	{ "migrate", migrate_main, "move a running guest to another host", true },
	{ "migrate-status", migrate_status_main, "show or follow a guest's migration", false },
	{ "migrate-cancel", migrate_cancel_main, "cancel a guest's migration", true },
};

enum { COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static const char exit_codes[] =
	"\vExit codes:\n"
	"  0  done\n"
	"  1  failed; nothing was changed\n"
	"  2  wrong command line\n"
	"  3  a host cannot be reached or authenticated; nothing was changed\n"
	"  4  asked for, but the outcome is not known: look with 'godwit status'\n"
	"  5  cancelled on request; nothing was changed\n"
	"  6  the outcome is known, and it is not what was asked for (for example: the guest"
	" moved, and died there)\n"
	"\n'godwit COMMAND --help' explains a command.";

/* The list of commands in the middle of --help. */
static char *main_help(int key, const char *text, void *input)
{
	char *out = NULL;
	size_t size, i;
	FILE *f;

	(void)input;
	if (key != ARGP_KEY_HELP_PRE_DOC)
		return (char *)text;
	f = open_memstream(&out, &size);
	if (!f)
		return (char *)text;
	fprintf(f, "%s\n\nCommands:\n", text);
	for (i = 0; i < COMMANDS; i++)
		fprintf(f, "  %-15s %s\n", commands[i].name, commands[i].help);
	fclose(f);
	return out;
}

static error_t main_parse(int key, char *arg, struct argp_state *state)
{
	size_t i;

	switch (key) {
	case ARGP_KEY_ARG:
		for (i = 0; i < COMMANDS && strcmp(commands[i].name, arg); i++)
			;
		if (i == COMMANDS)
			argp_error(state, "there is no command '%s'", arg);
		*(const struct command **)state->input = &commands[i];
		break;
	case ARGP_KEY_NO_ARGS:
		argp_state_help(state, stderr, ARGP_HELP_STD_ERR);
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

/*
 * A standard stream that is closed gets /dev/null, for reading: else a connection would get its number,
 * and what is printed would go to the host. To write there fails, as it should.
 */
static void streams_open(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDONLY);
	while (fd >= 0 && fd <= STDERR_FILENO);
	close(fd);
}

int main(int argc, char **argv)
{
	static const struct argp argp = { NULL, main_parse, "COMMAND [ARGUMENT...]", NULL, NULL,
					  main_help, NULL };
	struct argp full = argp;
	char doc[2048];
	const struct command *c = NULL;
	static char name[32];
	int first, code;

	streams_open();
	signal(SIGPIPE, SIG_IGN);
	argp_err_exit_status = GW_USAGE;
	snprintf(doc, sizeof(doc), "Operates Godwit hosts: bare-metal hypervisors that move running"
		 " guests between each other.%s", exit_codes);
	full.doc = doc;
	for (first = 1; first < argc && argv[first][0] == '-'; first++)
		;
	/* Only up to the command: what follows is for the command's own parser. */
	argp_parse(&full, first < argc ? first + 1 : argc, argv, ARGP_IN_ORDER, NULL, &c);
	snprintf(name, sizeof(name), "godwit %s", c->name);
	argv[first] = name;
	code = c->main(argc - first, argv + first);
	if ((fflush(stdout) || ferror(stdout)) && !code) {
		fprintf(stderr, "godwit: the result could not be written to standard output: is the disk full, or was it"
			" closed?%s\n", c->changes ? " What was asked for may have been done" : "");
		code = c->changes ? GW_UNKNOWN : GW_FAILED;
	}
	return code;
}
