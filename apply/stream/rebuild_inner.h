/* rebuild_inner: what the parts of rebuild share. */
#ifndef APPLY_STREAM_REBUILD_INNER_H
#define APPLY_STREAM_REBUILD_INNER_H

#include "apply/stream/rebuild.h"
#include "apply/stream/swap.h"

/* Of one rollup: the names of its tables and of those that take their place, live → kept, beside → live. */
struct rebuild_names {
	struct swap_pair pair[2]; /* history, latest */
	char text[4][72];
};
void rebuild_names(const struct settings *s, const struct landed *beside,
		   struct rebuild_names *ret);

/* BEGIN, and the fence is ours; locks are waited for shortly; on disk once it is committed. */
int rebuild_open(const struct rebuild *r, PGconn *c, struct rt_err *err) RT_MUSTCHECK;
/* ERR_RETRY where the warehouse rolled it back. */
int rebuild_commit(PGconn *c, struct rt_err *err) RT_MUSTCHECK;
/*
 * A transaction failed with *why: rolls back. 0 where the connection is as
 * good as before: then something was in the way, and *why says what.
 */
int rebuild_roll_back(PGconn *c, const struct rt_err *why, struct rt_err *err) RT_MUSTCHECK;
/* Something is in the way of a rebuild of the rollup: noted, with when it is tried again. */
int rebuild_note_reason(const struct rebuild *r, PGconn *c, const char *rollup, const char *reason,
			const char *retry_in, struct rt_err *err) RT_MUSTCHECK;
/* Starts the process that counts how l differs from what it is beside. */
void rebuild_start_count(struct rebuild *r, const struct landed *l);

#endif
