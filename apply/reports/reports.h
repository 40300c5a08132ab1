/*
 * reports: the companion's role (design §8): takes requests for reports from
 * the queue, by signal and by the clock, and has a worker make each.
 */
#ifndef APPLY_REPORTS_REPORTS_H
#define APPLY_REPORTS_REPORTS_H

#include "proto/settings.h"

struct buf;

/*
 * How the whole pipeline does, by the counter files of all roles: for those who
 * look over HTTP. Given by the layer that knows the roles; neither call waits.
 */
struct reports_outlook {
	void *ctx;
	/* Appends one JSON object, as rolag status --json. */
	int (*status)(void *ctx, struct buf *out, struct rt_err *err);
	/* Appends Prometheus' text format. */
	int (*metrics)(void *ctx, struct buf *out, struct rt_err *err);
};

/*
 * Runs until SIGTERM or an error that only a person mends; SIGUSR1 asks for
 * all reports. Returns the exit code (enum rt_exit).
 */
int reports_main(const struct settings *s, const struct reports_outlook *outlook);

#endif
