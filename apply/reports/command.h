/* command: an external program that builds the models (reports.build). */
#ifndef APPLY_REPORTS_COMMAND_H
#define APPLY_REPORTS_COMMAND_H

#include "proto/base/rt.h"

struct command {
	const char *shell;		/* for /bin/sh -c */
	const char *const *environment; /* "NAME=value", NULL at the end; over ours */
	const char *log;		/* its output goes there, mode 0600; each time anew */
	int64_t limit_us;
};

/*
 * Runs it in a process group of its own, which ends with it: when the time is
 * up, and also when this process dies, by whatever way. 0 when it ended with 0;
 * ERR_PERMANENT otherwise (its code, its signal, its time); ERR_SYSTEM when it
 * could not be started.
 */
int command_run(const struct command *c, struct rt_err *err) RT_MUSTCHECK;

#endif
