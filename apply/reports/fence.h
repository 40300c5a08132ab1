/*
 * fence: a run waits until the warehouse holds everything that was committed
 * in the core before it was asked for (design §8). A message goes through the
 * core's WAL for each request; apply notes in rolag.fence_seen that it came by.
 */
#ifndef APPLY_REPORTS_FENCE_H
#define APPLY_REPORTS_FENCE_H

#include <libpq-fe.h>

#include "proto/settings.h"

struct run;

/*
 * Writes the fences of the run and of all requests that join it meanwhile,
 * waits for them, and moves the run from waiting to building. ERR_PERMANENT,
 * saying how far behind the warehouse is, when the core could not be reached
 * for some seconds or s->reports.fence_limit has passed; with allow_stale the
 * run goes on then, and rolag.report_run.stale says why. Other errors are the
 * warehouse's.
 */
int fence_pass(PGconn *warehouse, const struct settings *s, const struct run *r, int64_t epoch,
	       struct rt_err *err) RT_MUSTCHECK;

#endif
