/*
 * mirror_batch: a batch's changes of mirrored tables. They are noted in stream
 * order, and when the batch is written, coalesced by key into steps: of all that
 * happened to a row only what becomes of it counts. Pure.
 *
 * Within one run of changes of a table (a TRUNCATE, a new shape, or a key that
 * changed while a TOASTed value did not ends a run) rows that change or go are
 * deleted by key first and inserted after, so that unique keys other than the
 * primary one hold at each step; a row with unchanged TOAST is updated in its
 * place. Without a usable key (replica identity full) each change stands alone.
 */
#ifndef APPLY_STREAM_MIRROR_BATCH_H
#define APPLY_STREAM_MIRROR_BATCH_H

#include "apply/stream/mirror.h"
#include "proto/base/arena.h"
#include "proto/change.h"

enum mirror_op_kind {
	MIRROR_OP_INSERT,
	MIRROR_OP_UPDATE,
	MIRROR_OP_DELETE,
	MIRROR_OP_TRUNCATE,
	MIRROR_OP_SHAPE, /* from here on rows have op->shape */
	MIRROR_OP_PARK,	 /* from here on the mirror does not follow */
};

/* Tuples are borrowed and must live as long as the batch; text lives in its arena. */
struct mirror_op {
	enum mirror_op_kind kind;
	uint16_t mirror;
	uint32_t transaction; /* index into batch->transaction */
	char old_kind;	      /* as in struct change */
	struct mirror_shape *shape;
	struct tuple new_row, old_row;
	const char *text; /* SHAPE: the statement; PARK: why */
};

enum mirror_step_kind {
	MIRROR_PREPARE,	     /* statements of step->shape */
	MIRROR_CLEAR,	     /* DELETE of all rows */
	MIRROR_DELETE,	     /* by key */
	MIRROR_DELETE_MANY,  /* the keys of `count` steps, from this one on */
	MIRROR_UPDATE,	     /* by key, of the columns that are there */
	MIRROR_INSERT,	     /* one row */
	MIRROR_COPY,	     /* `count` rows, from this one on */
	MIRROR_DELETE_EXACT, /* one row that equals `old` */
	MIRROR_UPDATE_EXACT,
	MIRROR_RESHAPE,
	MIRROR_PARK,
};

/* A statement of the batch. Rows are those of the shape: its columns, in order. */
struct mirror_step {
	enum mirror_step_kind kind;
	uint16_t mirror;
	struct mirror_shape *shape;
	struct tuple row; /* to be written; of DELETE: the key's columns count */
	struct tuple old; /* of UPDATE: the key's columns; of …_EXACT: all */
	uint32_t transaction;
	/* Of COPY and DELETE_MANY: how many steps, this one included, it takes. Of PREPARE: 0 INSERT, 1 DELETE. */
	uint32_t count;
	bool binary; /* of COPY: its form */
	const char *text;
};

struct mirror_batch {
	struct mirror_op *op;
	uint32_t count, cap;
	size_t bytes; /* of values noted */
	struct mirror_step *step;
	uint32_t step_count, step_cap;
	bool planned; /* the steps are those of what is noted */
};

void mirror_batch_release(struct mirror_batch *b);
void mirror_batch_reset(struct mirror_batch *b);
void mirror_batch_add(struct mirror_batch *b, const struct mirror_op *op);
/* Takes out what belongs to transaction t and behind. */
void mirror_batch_cut(struct mirror_batch *b, uint32_t t);
/* Moves (by copy into to_arena) what is behind transaction t to `to`, whose transactions begin with t. */
void mirror_batch_split(struct mirror_batch *b, uint32_t t, struct mirror_batch *to,
			struct arena *to_arena);

/*
 * Coalesces what was noted into steps, in the arena where memory is needed;
 * once, so that it can be done while an earlier batch is being written. A
 * mirror for which a change comes that cannot be (an old row that is not there)
 * gets a MIRROR_PARK in place of it and all behind, and is parked in the set.
 */
void mirror_batch_plan(struct mirror_batch *b, struct mirror_set *set, struct arena *a);

#endif
