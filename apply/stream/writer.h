/*
 * writer: a folded batch into the warehouse, in one transaction with its
 * ledger row, without blocking the loop. The plan of a batch is executed in
 * segments, each one round trip: statements that follow each other are one
 * pipeline; a COPY, for which libpq must leave pipeline mode, is a segment of
 * its own. A small batch is one pipeline as a whole; of a large one, tables
 * with many rows go by binary COPY.
 *
 * The writer does not decide anything after an error: its connection is
 * thrown away, and the next one's takeover reads from the ledger what became
 * of the transaction.
 */
#ifndef APPLY_STREAM_WRITER_H
#define APPLY_STREAM_WRITER_H

#include <libpq-fe.h>

#include "apply/stream/batch.h"
#include "apply/stream/ledger.h"
#include "apply/stream/mirror.h"

/* Rows of a batch from which on COPY is used, for tables with that many rows. */
#define WRITER_COPY_ROWS       1000
#define WRITER_COPY_TABLE_ROWS 100
/*
 * Entities that begin in a batch, of a table that is copied, from which on
 * their latest rows are, too: a row is taken faster than it is looked up in
 * history, but each COPY is a round trip.
 */
#define WRITER_COPY_LATEST_ROWS 200
/* Memory of a batch from which on it is used for all: a pipeline is held in memory as a whole, a COPY is not. */
#define WRITER_COPY_BYTES (16u << 20)
/* A pipeline is ended behind this much. */
#define WRITER_PIPELINE_BYTES (2u << 20)
/* States fetched at a time: libpq holds an answer as a whole. */
#define WRITER_FETCH_ROWS 2000

enum writer_step {
	WRITE_BEGIN,
	WRITE_HOLD, /* fence check of a transaction whose ledger row comes later */
	WRITE_LEDGER,
	WRITE_FENCES,	    /* rolag.fence_seen */
	WRITE_ROWS,	    /* history and latest of one rollup by arrays */
	WRITE_COPY,	    /* history of one rollup by COPY */
	WRITE_COPY_LATEST,  /* latest of entities that begin in this batch by COPY, or */
	WRITE_BEGIN_LATEST, /* … from there */
	WRITE_RENEW_LATEST, /* from there, latest of the others */
	WRITE_MIRROR,	    /* one of the batch's mirror steps */
	WRITE_MIRROR_COPY,  /* one that is a COPY */
	WRITE_WAITING,	    /* events into rolag.quarantine */
	WRITE_PARK,	    /* a rollup's state, parked */
	WRITE_TRIM,
	WRITE_COMMIT,
	WRITE_POSITION,
	WRITE_FETCH, /* missing states of one rollup */
};

struct writer_plan {
	enum writer_step step;
	uint32_t rollup; /* of WRITE_FENCES, WRITE_PARK: which of the batch's */
	uint32_t from;	 /* of WRITE_WAITING: which to begin with; of WRITE_MIRROR…: which step */
	uint32_t rows;	 /* of WRITE_…_LATEST: how many were asked for */
};

/* A batch may be a part of a transaction that is too large for memory. */
enum writer_part { PART_WHOLE, PART_FIRST, PART_MIDDLE, PART_LAST };

/* What stands in the place of the ledger's row, for a writer that is not apply's. */
struct writer_position {
	const char *sql; /* prepared as "ledger"; divides by zero where it must not be written */
	/* Sends its execution; as libpq's, 1 is good. */
	int (*send)(void *ctx, PGconn *c, const struct batch *b);
	void *ctx;
};

struct writer {
	PGconn *c;
	const struct writer_position
		*position; /* NULL: the ledger's row; set before writer_attach */
	const struct settings *settings;
	const struct landed_set *landed;
	struct mirror_set *mirrors;
	struct ledger *ledger;
	struct batch *batch; /* being written or fetched for; NULL: idle */
	struct writer_plan *plan;
	uint32_t plan_count, plan_cap, plan_at; /* plan_at: whose result comes next */
	uint32_t segment_end;			/* plan_at when the segment under way is done */
	bool pipelined;				/* libpq is in pipeline mode */
	bool in_parts;	   /* of a transaction that no batch holds as a whole */
	bool copying;	   /* in a COPY step, rows are being fed */
	uint32_t copy_row; /* next row to feed */
	bool failed;	   /* err below holds the first failure; draining */
	struct rt_err err;
	bool distrust;	   /* the failure says that the tables hold other entities than thought */
	int failed_mirror; /* whose own statement failed for good; -1: none */
	bool want_write;   /* libpq has bytes that the socket did not take */
	int64_t started_us;
	int64_t trimmed_us; /* monotonic time of the last trim */
	int64_t asked_us;   /* … of the last question for the WAL position behind a batch */
	struct buf *column; /* one array per column, reused */
	size_t sent_bytes;  /* of arrays, by the last step */
	uint16_t column_cap;
	struct buf copy;
};

void writer_init(struct writer *w, const struct settings *s, const struct landed_set *landed,
		 struct mirror_set *mirrors, struct ledger *ledger);
void writer_release(struct writer *w);
/* Takes the connection over (it becomes non-blocking) and prepares all statements (blocking). */
int writer_attach(struct writer *w, PGconn *c, struct rt_err *err) RT_MUSTCHECK;
/* Closes the connection; what was under way is undecided. */
void writer_detach(struct writer *w);
/* Lends the idle writer's connection for blocking statements, outside of pipeline mode, until the writer goes on. */
int writer_lend(struct writer *w, PGconn **ret, struct rt_err *err) RT_MUSTCHECK;
/* It is given back; no transaction is open on it. */
int writer_take_back(struct writer *w, struct rt_err *err) RT_MUSTCHECK;

static inline bool writer_is_busy(const struct writer *w)
{
	return w->batch != NULL;
}

/* Begins to write b (or a part of its transaction); b must stay as it is until writer_turn says 1. */
int writer_write(struct writer *w, struct batch *b, enum writer_part part,
		 struct rt_err *err) RT_MUSTCHECK;
/* Begins to fetch missing states of b, WRITER_FETCH_ROWS at most; when done, batch_fetched. */
int writer_fetch(struct writer *w, struct batch *b, struct rt_err *err) RT_MUSTCHECK;
/* Asks for the warehouse's WAL position only (to learn what is on its disk). */
int writer_ask_position(struct writer *w, struct rt_err *err) RT_MUSTCHECK;
/*
 * Goes on as far as the socket allows. 1: done, idle again; 0: wait for the
 * socket (writer_events); negative: failed, detach. w->distrust tells whether
 * states of entities must be fetched anew, w->failed_mirror whose fault it was.
 */
int writer_turn(struct writer *w, struct rt_err *err) RT_MUSTCHECK;
/* What to poll the connection's socket for. */
short writer_events(const struct writer *w);

#endif
