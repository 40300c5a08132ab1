/*
 * sync_inner: what sync's two sides share: messages between apply and its
 * workers, and the row of rolag.sync that says how far a table is.
 */
#ifndef APPLY_STREAM_SYNC_INNER_H
#define APPLY_STREAM_SYNC_INNER_H

#include "apply/stream/sync.h"
#include "apply/stream/sync_unit.h"

/* ---- messages: datagrams of this struct ---- */

enum sync_message_kind {
	/* worker to apply */
	SYNC_CLAIM,    /* may I have table `at`? */
	SYNC_BEGUN,    /* lsn: the spool must be kept from here */
	SYNC_PROGRESS, /* rows, estimate; lsn: the spool must be kept from here, LSN_NONE: as before */
	SYNC_NOTE,     /* text: what it waits for; "": no longer */
	SYNC_READY,    /* the spool is replayed to its end: hold still */
	/* live, the stream counts behind lsn; of a mirror, apply goes on when it has read its shape, and grants that */
	SYNC_LIVE,
	SYNC_PARKED, /* its source does not fit any more: it is parked */
	SYNC_LATER,  /* it cannot become live for now: apply goes on, and is asked again */
	SYNC_UNLIKE, /* `at`, which nobody syncs, was parked in the warehouse */
	SYNC_FAILED, /* code, text; the worker ends */
	/* apply to worker */
	SYNC_GRANTED, /* nothing of `at` is under way, nor will be */
	SYNC_REFUSED, /* another worker has it */
	SYNC_HELD,    /* apply has taken nothing behind lsn, nor will before it is live */
};

struct sync_message {
	enum sync_message_kind kind;
	uint16_t worker, at; /* at: a landed table, or, behind those, a mirror */
	struct lsn lsn;
	uint64_t rows, estimate;
	uint64_t waiting; /* entities in quarantine */
	enum rt_code code;
	char text[512];
};

/* ---- rolag.sync ---- */

struct sync_note {
	bool there;
	int64_t step;	  /* counts transactions: a late one of an earlier worker does not count */
	struct lsn start; /* replay begins behind this */
	struct lsn read;  /* all chunks are there; none shows more than was committed up to here */
	struct lsn replayed; /* replay got here; LSN_NONE: not begun */
	uint32_t timeline;   /* of the core when it began */
	bool fresh;	     /* the table was empty when it began */
	struct sync_key key; /* of the last row written */
	char source[40];     /* of a mirror read in pieces: what its source was; "": it is not */
	uint64_t rows, estimate;
};

int sync_note_read(PGconn *c, const struct settings *s, const struct sync_unit *u,
		   struct sync_note *ret, struct rt_err *err) RT_MUSTCHECK;
/* A sync begins, or begins anew: its row, its table made ready. start, timeline and estimate as n has them; the rest is filled in. */
int sync_note_begin(PGconn *c, const struct settings *s, const struct sync_unit *u,
		    const struct ledger *l, struct sync_note *n, struct rt_err *err) RT_MUSTCHECK;
/*
 * Begins and reads it whole: fill writes all rows, sets start and rows, and what
 * it does is one transaction with the note. When it fails, the next worker begins anew.
 */
int sync_note_whole(PGconn *c, const struct settings *s, const struct sync_unit *u,
		    const struct ledger *l, struct sync_note *n,
		    int (*fill)(void *ctx, struct rt_err *err), void *ctx,
		    struct rt_err *err) RT_MUSTCHECK;
/*
 * One transaction: what fill does (with key and rows of n, and n->read where it
 * is moved), and the note of how far that is.
 */
int sync_note_piece(PGconn *c, const struct settings *s, const struct sync_unit *u,
		    const struct ledger *l, struct sync_note *n,
		    int (*fill)(void *ctx, struct rt_err *err), void *ctx,
		    struct rt_err *err) RT_MUSTCHECK;
/* All chunks are there. */
int sync_note_all_read(PGconn *c, const struct settings *s, const struct sync_unit *u,
		       const struct ledger *l, struct sync_note *n, struct lsn read,
		       struct rt_err *err) RT_MUSTCHECK;
/* The table is live behind lsn: on disk when this returns. also (or NULL): within its transaction, before anything else. */
int sync_note_live(PGconn *c, const struct settings *s, const struct sync_unit *u,
		   const struct ledger *l, const struct sync_note *n, struct lsn lsn,
		   int (*also)(void *ctx, struct rt_err *err), void *ctx,
		   struct rt_err *err) RT_MUSTCHECK;
/* The table is parked: there is no sync of it any more. */
int sync_note_drop(PGconn *c, const struct settings *s, const struct sync_unit *u,
		   const struct sync_note *n, struct rt_err *err) RT_MUSTCHECK;
/* The table cannot be synced: parked for that reason, and there is no sync of it. */
int sync_note_park(PGconn *c, const struct settings *s, const struct sync_unit *u,
		   const struct ledger *l, const char *reason, struct rt_err *err) RT_MUSTCHECK;
/* The spool lacks what the sync would replay: the next worker begins it anew. */
int sync_note_void(PGconn *c, const struct settings *s, const struct sync_unit *u,
		   const struct sync_note *n, struct rt_err *err) RT_MUSTCHECK;
/*
 * Stands where a batch's ledger row would: $1 pipeline, $2 name, $3 epoch, $4
 * step, $5 key (text[] or NULL: as it was), $6 rows, $7 replayed (or NULL).
 * Divides by zero when the fence is not ours or the step is another's.
 */
extern const char sync_note_step_sql[];

/* ---- where a sync begins ---- */

/*
 * Waits for what must be over first (on_wait is told; true gives up). The LSN
 * has the two properties that sync.h says. core: an ordinary connection to
 * the core, afterwards as before.
 */
int sync_start(PGconn *core, const struct settings *s, const struct ledger *l,
	       bool (*on_wait)(void *ctx, const char *text), void *ctx, struct lsn *ret,
	       struct rt_err *err) RT_MUSTCHECK;

/* Until the core shows whatever the stream can have brought up to now. core: as it was. */
int sync_wait_shown(PGconn *core, bool (*on_wait)(void *ctx, const char *text), void *ctx,
		    struct rt_err *err) RT_MUSTCHECK;
/*
 * As sync_start, for who reads everything at once: core is left in a
 * read-only transaction that shows exactly what was committed up to *ret.
 */
int sync_snapshot(PGconn *core, const struct settings *s, const struct ledger *l,
		  bool (*on_wait)(void *ctx, const char *text), void *ctx, struct lsn *ret,
		  struct rt_err *err) RT_MUSTCHECK;

/* ---- the worker's process ---- */

struct sync_work {
	const struct settings *settings;
	const struct landed_set *landed;
	const struct mirror_set *mirrors;
	const struct ledger *ledger;
	uint16_t worker;
	int out, in; /* messages to and from apply */
};

/* ERR_RETRY when apply is gone; then the worker ends. */
int sync_tell(const struct sync_work *w, struct sync_message *m, struct rt_err *err) RT_MUSTCHECK;
int sync_hear(const struct sync_work *w, struct sync_message *ret, struct rt_err *err) RT_MUSTCHECK;
/* Returns only when it cannot go on; has said why. */
void sync_worker_main(const struct sync_work *work);

#endif
