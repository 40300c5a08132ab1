/*
 * mirror_write: the steps of mirror_batch as statements of a pipeline, and as
 * rows of COPY. Each step gives one result.
 */
#ifndef APPLY_STREAM_MIRROR_WRITE_H
#define APPLY_STREAM_MIRROR_WRITE_H

#include <libpq-fe.h>

#include "apply/stream/mirror_batch.h"

/* Is the step a COPY: mirror_send begins it, then mirror_fill_copy brings its rows? */
static inline bool mirror_is_copy(const struct mirror_step *s)
{
	return s->kind == MIRROR_COPY;
}

/* How many steps of the batch this one takes in: the next one is behind them. */
static inline uint32_t mirror_step_size(const struct mirror_step *s)
{
	return s->kind == MIRROR_COPY || s->kind == MIRROR_DELETE_MANY ? s->count : 1;
}

/*
 * Sends a step (libpq's 1 or 0); end: commit end LSN of each transaction by
 * mirror_step.transaction is end_of(ctx, n). *ret_bytes: about how much that was.
 */
typedef struct lsn mirror_end_of(const void *ctx, uint32_t transaction);
int mirror_send(PGconn *c, const struct settings *s, const struct mirror_set *set,
		const struct mirror_step *step, mirror_end_of *end_of, const void *ctx,
		size_t *ret_bytes);
/*
 * Appends COPY rows of a COPY step from row `from` on until about max_bytes are
 * there; returns the next row. Behind the last (step->count) comes the trailer.
 */
uint32_t mirror_fill_copy(const struct mirror_step *step, uint32_t from, size_t max_bytes,
			  mirror_end_of *end_of, const void *ctx, struct buf *out);

/* Did the step do what it had to? err says how the mirror differs from its source. */
int mirror_check_result(const struct mirror_set *set, const struct mirror_step *step, PGresult *res,
			struct rt_err *err) RT_MUSTCHECK;

#endif
