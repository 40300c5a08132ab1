/* query: what a list of runs is asked for by. Pure. */
#ifndef APPLY_REPORTS_HTTP_QUERY_H
#define APPLY_REPORTS_HTTP_QUERY_H

#include "apply/reports/runs.h"

#define QUERY_LIMIT	50
#define QUERY_LIMIT_MAX 200

/*
 * One key and value of the query string, decoded, into the filter (whose limit
 * is 0 at first; texts live in the arena): state, client_state, type, report,
 * from, to, limit, cursor. ERR_USAGE, in words for whoever asks, for an unknown
 * key, one that comes again, or a value that may not be.
 */
int query_take(struct runs_filter *f, struct arena *a, struct slice key, struct slice value,
	       struct rt_err *err) RT_MUSTCHECK;
/* The query string that goes on behind the run of this number. */
const char *query_next(const struct runs_filter *f, int64_t number, struct arena *a);
/* A run's whole id, as this program writes it? */
bool query_is_id(const char *text);

#endif
