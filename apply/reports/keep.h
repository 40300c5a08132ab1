/* keep: what runs leave behind, and when it goes. */
#ifndef APPLY_REPORTS_KEEP_H
#define APPLY_REPORTS_KEEP_H

#include <libpq-fe.h>

#include "proto/settings.h"

/* Drops what was built for a run, by whichever builder; what somebody else's view needs is an error, or stays. */
int keep_drop_run(PGconn *c, const char *run_id, struct rt_err *err) RT_MUSTCHECK;
/* Drops the relations of published runs before the newest s->reports.keep_runs, and fences that have been met. */
int keep_prune(PGconn *c, const struct settings *s, struct rt_err *err) RT_MUSTCHECK;
/* What a run that failed left: its schema, its folder. */
int keep_discard(PGconn *c, const struct settings *s, const char *run_id,
		 struct rt_err *err) RT_MUSTCHECK;
/* At the start of a companion: what a crash left of runs that are over. *ret_dropped: how many. */
int keep_sweep(PGconn *c, const struct settings *s, int *ret_dropped,
	       struct rt_err *err) RT_MUSTCHECK;

#endif
