/*
 * batch: one or more whole source transactions on their way into one
 * warehouse transaction. It is gathered (events decoded and put in order),
 * completed with the states of entities that memory does not hold, folded
 * into rows, written, and reset. Everything in it lives in its arena.
 *
 * An event that cannot be folded parks its entity where the rollup's policies
 * say so: it and all later ones of the entity become waiting events, which are
 * written with the rows. Where a rollup's source does not fit any more, or too
 * many of its entities wait, the rollup is parked: its changes are left out.
 */
#ifndef APPLY_STREAM_BATCH_H
#define APPLY_STREAM_BATCH_H

#include "apply/stream/landed.h"
#include "apply/stream/mirror_batch.h"
#include "apply/stream/parked.h"
#include "proto/base/arena.h"
#include "proto/change.h"
#include "transforms/rollup/cache.h"
#include "transforms/rollup/fold.h"

/* An entity as this batch sees it; found by (rollup, id). */
struct batch_entity;

struct batch_event {
	struct fold_event e;
	struct batch_entity *entity;
	uint16_t rollup;
	bool repaired;	      /* read from the core to fill a gap: its commit time is not known */
	bool missing_sought;  /* what is missing before it was sought in the core, in vain */
	uint32_t transaction; /* index into batch->transaction */
};

struct batch_row {
	struct fold_row row;
	struct batch_entity *entity;
	bool repaired;
	uint32_t transaction;
};

/* An event on its way into rolag.quarantine. */
struct batch_waiting {
	uint32_t event;	    /* index into batch->event */
	const char *reason; /* why it could not be folded; NULL: it waits behind another */
	bool late; /* it comes before the one that its entity waits for: worth a retry by itself */
};

/* A rollup whose changes are left out from the end of this transaction on. */
struct batch_park {
	uint16_t rollup;
	uint32_t transaction;
	const char *reason;
};

/* An event whose row is there already: the stream says what a sync did not know of it. */
struct batch_seen {
	uint16_t rollup;
	struct slice id;
	int32_t sequence;
	uint32_t transaction;
};

/* Events that are missing before the next one to be folded; they are of its entity. */
struct batch_gap {
	uint16_t rollup;
	struct slice id;
	int32_t after, before; /* sequences, both exclusive */
};

/* The rows of one rollup, in stream order. */
struct batch_rows {
	struct batch_row *row;
	uint32_t count, cap;
};

struct batch_transaction {
	struct lsn end;	   /* commit end LSN */
	int64_t commit_us; /* µs since 1970 */
};

struct batch_fence {
	const char *run_id;
	struct lsn lsn;
};

struct batch {
	const struct landed_set *landed;
	struct parked *parked;
	struct arena arena;
	struct batch_event *event;
	uint32_t event_count, event_cap, folded; /* folded: how many events are */
	struct batch_transaction *transaction;
	uint32_t transaction_count, transaction_cap;
	struct batch_rows *rows; /* per rollup, `room` of them */
	uint16_t room;
	struct mirror_batch mirrors;
	struct batch_entity *entities; /* hash table */
	struct batch_entity **missing; /* whose state must be fetched */
	uint32_t missing_count, missing_cap;
	uint32_t asked;		   /* how many of them, from the first on, are being fetched */
	struct batch_fence *fence; /* report fences met */
	uint32_t fence_count, fence_cap;
	struct batch_waiting *waiting; /* in stream order */
	uint32_t waiting_count, waiting_cap;
	struct batch_park *park;
	uint32_t park_count, park_cap;
	bool keep_seen;		 /* duplicates go to … */
	struct batch_seen *seen; /* … here, in stream order */
	uint32_t seen_count, seen_cap;
	struct batch_gap gap; /* where batch_fold said 1 */
	struct lsn end;	      /* position that the ledger gets with this batch */
	int64_t commit_us;    /* of the newest transaction; 0: none */
	int64_t heartbeat_us; /* newest heartbeat's core time; 0: none */
	bool open;	      /* the last transaction is not whole yet */
	bool first_part;      /* no earlier part of its transaction was written */
	size_t bytes;	      /* of payloads gathered */
	uint64_t duplicates, unknown_keys, ignored, repaired;
	/* The first unknown key, for the log. */
	const char *unknown_rollup, *unknown_event;
	char unknown_key[64];
};

/* parked is shared by the batches of an applier: what one parks counts for the next. */
void batch_init(struct batch *b, const struct landed_set *landed, struct parked *parked);
void batch_release(struct batch *b);
/* Empties it for the next use. */
void batch_reset(struct batch *b);
/* b (empty) takes the next part of the transaction that is open in before. */
void batch_continue(struct batch *b, const struct batch *before);
bool batch_is_empty(const struct batch *b);

/* end and commit time are known from the spool before the first row is. */
void batch_begin(struct batch *b, struct lsn end, int64_t commit_us);
/* One event of an open transaction; id and payload are borrowed and must live in b->arena. */
void batch_add_event(struct batch *b, uint16_t rollup, const struct fold_event *e);
void batch_commit(struct batch *b);
/* The open transaction cannot be applied: takes it out; whole ones before it stay. */
void batch_cut_open(struct batch *b);
/* A report's fence was met in the open transaction; run_id is copied. */
void batch_add_fence(struct batch *b, struct slice run_id);
/* The rollup's source does not fit any more, as the open transaction shows: from its end on it is parked. */
void batch_park(struct batch *b, uint16_t rollup, const char *reason);

/*
 * Looks the entities of events not yet looked up for up in the cache; those
 * that must come from the warehouse go to b->missing. An entity whose first
 * event here is its sequence 1 needs no state, unless `distrust`.
 */
void batch_resolve(struct batch *b, struct cache *cache, bool distrust);
/* Gives a missing entity its state from the warehouse (copied into the arena). */
void batch_provide(struct batch *b, struct batch_entity *e, const struct fold_row *state);
/* The warehouse was asked: if it gave no state, the entity has none. */
void batch_settle(struct batch_entity *e);
/* What was asked for is there: the rest of the missing moves up. */
void batch_fetched(struct batch *b);
/* The i-th missing entity's rollup and id; its id's bytes live as long as the batch. */
uint16_t batch_missing(const struct batch *b, uint32_t i, struct slice *ret_id,
		       struct batch_entity **ret);
/* The missing entity (rollup, id), NULL when it is not missing. */
struct batch_entity *batch_find(const struct batch *b, uint16_t rollup, struct slice id);

/*
 * Folds what was gathered since the last call into rows and puts final states
 * into the cache. Rows carry whole states, so that few events can make many
 * bytes of them: it stops early where the arena passes max_bytes
 * (batch_is_folded says so).
 * 0; 1: it stopped in front of an event before which others are missing
 * (b->gap), to go on behind batch_fill_gap or batch_leave_gap; ERR_PERMANENT
 * for an event that cannot be folded under policy `fail`: then the batch
 * holds whole transactions before it only (b->end says up to where; it may be
 * empty), and *err names relation, entity id, sequence, LSN and reason.
 */
int batch_fold(struct batch *b, struct cache *cache, size_t max_bytes,
	       struct rt_err *err) RT_MUSTCHECK;
/* Events of b->gap, in order and without a gap from its first on (some of them, or all); they live in b->arena. */
void batch_fill_gap(struct batch *b, const struct fold_event *e, uint32_t count);
/* What is missing is not in the core: the event's entity will wait. */
void batch_leave_gap(struct batch *b);
static inline bool batch_is_folded(const struct batch *b)
{
	return b->folded == b->event_count;
}
/*
 * Gives what is not folded yet, from its transaction on, to next (empty). That
 * transaction stays open in b: what b holds is the part before.
 */
void batch_split(struct batch *b, struct batch *next);
/* Is the i-th row of a rollup the last of its entity in this batch? */
bool batch_row_is_last(const struct batch *b, uint16_t rollup, uint32_t i);
/* Did the row's entity have no version before this batch? */
bool batch_row_is_new_entity(const struct batch_row *r);

#endif
