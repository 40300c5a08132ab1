/*
 * queue: how the companion moves runs from state to state. Guarantees: only
 * the newest companion (epoch) moves one, in the order of requests; requests
 * that joined a run always have its state.
 */
#ifndef APPLY_REPORTS_QUEUE_H
#define APPLY_REPORTS_QUEUE_H

#include "apply/reports/runs.h"

/* Becomes the companion of the pipeline: unfinished runs are ours from here on. */
int queue_take_over(PGconn *c, const char *pipeline, int64_t *ret_epoch,
		    struct rt_err *err) RT_MUSTCHECK;
/*
 * Lets new requests join a run of the same reports, day and leave that is
 * queued, or has been waiting for less than a few seconds.
 * ERR_PERMANENT when another companion has taken over.
 */
int queue_join(PGconn *c, const char *pipeline, int64_t epoch, struct rt_err *err) RT_MUSTCHECK;
/*
 * The run to work at, moved from queued to waiting: 1; 0: there is none now,
 * *ret_wait_us says when to ask again (-1: at the next request).
 */
int queue_next(PGconn *c, const char *pipeline, int64_t epoch, char ret_id[RUNS_ID_SIZE],
	       int64_t *ret_wait_us, struct rt_err *err) RT_MUSTCHECK;

/* How many requests are not answered yet, and when the oldest was made (µs since 1970; 0: none). */
int queue_count(PGconn *c, const char *pipeline, int64_t *ret_count, int64_t *ret_oldest_us,
		struct rt_err *err) RT_MUSTCHECK;

/* ERR_PERMANENT unless the run is in that state and ours; holds its row until the transaction's end. */
int queue_hold(PGconn *c, const char *id, int64_t epoch, const char *state,
	       struct rt_err *err) RT_MUSTCHECK;
/* Within a transaction that holds the run: to a state, with the requests that joined it. */
int queue_move(PGconn *c, const char *id, const char *state, struct rt_err *err) RT_MUSTCHECK;
/* A failure that may pass: again after wait_us. The state stays. */
int queue_retry(PGconn *c, const char *id, int64_t epoch, const char *reason, int64_t wait_us,
		struct rt_err *err) RT_MUSTCHECK;
/* It failed, and all that joined it. */
int queue_fail(PGconn *c, const char *id, int64_t epoch, const char *reason,
	       struct rt_err *err) RT_MUSTCHECK;

#endif
