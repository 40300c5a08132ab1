/*
 * verify_rows: both ends of a rollup as rows in the order of (id, version):
 * what the core's events fold to (refold), and what the warehouse holds
 * (landed). Each end is read by its own connection, by binary COPY in keyset
 * chunks or one entity at a time, so that memory is bounded by one row and no
 * statement, snapshot or lock (ACCESS SHARE) lasts longer than a chunk.
 *
 * A row that a reader gives is borrowed from it until the next call.
 */
#ifndef APPLY_STREAM_VERIFY_ROWS_H
#define APPLY_STREAM_VERIFY_ROWS_H

#include <libpq-fe.h>

#include "apply/stream/landed.h"
#include "apply/stream/source.h"
#include "proto/base/arena.h"
#include "transforms/rollup/fold.h"

/* What a reader's next row is. */
enum verify_step {
	VERIFY_END,   /* no more rows */
	VERIFY_ROW,   /* *ret is one */
	VERIFY_STUCK, /* refold only: this event and all later ones of its entity fold to nothing */
};

/* Rows of one COPY … TO STDOUT (FORMAT binary). */
struct verify_copy {
	PGconn *c;
	char *message; /* of libpq: the row being read */
	bool open;     /* a COPY is under way */
	bool header;   /* its header was read */
};

struct refold {
	const struct rollup *rollup;
	int64_t chunk;
	struct verify_copy copy;
	struct source_map map;
	struct arena arena;    /* one event */
	struct fold_row state; /* the entity's newest row; slices in the buffers below */
	struct buf id, event_type, columns;
	bool has_state;	  /* false before the entity's first event */
	bool stuck;	  /* the entity at hand cannot be folded any further */
	bool one_entity;  /* reads one entity, not all */
	bool begun;	  /* a row was read: the next chunk goes on behind it */
	int32_t sequence; /* of the last event read */
	int64_t rows;	  /* of the chunk under way */
	char reason[512]; /* of the last VERIFY_STUCK */
};

/* Looks up the source's columns. The connection stays the caller's. */
int refold_open(struct refold *f, PGconn *core, const struct rollup *r, int64_t chunk,
		struct rt_err *err) RT_MUSTCHECK;
void refold_close(struct refold *f);
/* Begins with all entities, in the core's order (which is the warehouse's where verify_id_has_order). */
void refold_all(struct refold *f);
/* Begins with one entity. */
int refold_entity(struct refold *f, struct slice id, struct rt_err *err) RT_MUSTCHECK;
/*
 * The next row, or the event that cannot be folded (id and version of *ret are
 * set, f->reason says why). Returns an enum verify_step, or negative.
 */
int refold_next(struct refold *f, const struct fold_row **ret, struct rt_err *err) RT_MUSTCHECK;

struct landed_reader {
	const struct landed *landed;
	const char *select; /* or NULL: what to read instead of its table */
	bool latest;	    /* reads the latest rows, not history */
	int64_t chunk;
	struct verify_copy copy;
	struct fold_row row; /* borrowed from the message */
	struct buf id;	     /* of the last row: the next chunk goes on behind it */
	int32_t version;
	bool one_entity, begun;
	int64_t rows;
};

void landed_reader_open(struct landed_reader *r, PGconn *warehouse, const struct landed *l,
			bool latest, int64_t chunk);
void landed_reader_close(struct landed_reader *r);
void landed_reader_all(struct landed_reader *r);
int landed_reader_entity(struct landed_reader *r, struct slice id, struct rt_err *err) RT_MUSTCHECK;
/* The next row: VERIFY_ROW, VERIFY_END or negative. */
int landed_reader_next(struct landed_reader *r, const struct fold_row **ret,
		       struct rt_err *err) RT_MUSTCHECK;

/* Do both servers order ids of this type alike, whatever their collations? */
bool verify_id_has_order(enum pgt id_type);
/* Appends 'text'::type for an id. */
void verify_id_literal(const struct rollup *r, struct slice id, struct buf *out);

#endif
