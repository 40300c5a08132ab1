/*
 * verify_mirror_rows: rows of a mirror from both ends, as binary COPY brings
 * them, made to be compared byte by byte: each column in the one form that both
 * servers give alike (as it lands; in text where only that means anything in
 * two databases), and the key in text, by which a row is found on either end,
 * whatever its type and collation there.
 *
 * Reading needs index order only: the core sorts nothing and writes no
 * temporary file. A mirror whose key cannot be read so has none here (by_key is
 * false), and is read whole.
 */
#ifndef APPLY_STREAM_VERIFY_MIRROR_ROWS_H
#define APPLY_STREAM_VERIFY_MIRROR_ROWS_H

#include <libpq-fe.h>

#include "apply/stream/mirror.h"
#include "apply/stream/verify_keys.h"

enum verify_end { VERIFY_CORE, VERIFY_WAREHOUSE };

/* What there is to read of a mirror. Strings live in the arena that it was found with. */
struct mirror_reading {
	const struct mirror *m;
	const struct mirror_shape *shape;
	char relkind;		     /* in the core */
	bool by_key;		     /* rows can be found by key on both ends */
	bool ordered;		     /* … and both order them alike */
	uint16_t key_count;	     /* 0 unless by_key */
	const uint16_t *key;	     /* columns, in the order of the core's index */
	const char *const *key_type; /* the core's types of them */
	const char *columns[2];	     /* select lists, by end: "a, b::text" */
};

/* A row, borrowed until the next one is read. */
struct mirror_row {
	struct slice key; /* length and text of each key column */
	struct slice
		version; /* another one when the row was written again: core: tableoid, ctid, xmin; warehouse: _lsn */
	struct slice columns; /* length (UINT32_MAX: NULL) and bytes of each column */
};

typedef int mirror_on_row(void *ctx, const struct mirror_row *row, struct rt_err *err);

/*
 * Finds how m (with its shape) can be read. Looks into the core's catalog, and
 * makes it plan. ERR_PERMANENT when the core has no such table any more.
 */
int mirror_reading_find(PGconn *core, struct arena *a, const struct mirror *m,
			struct mirror_reading *ret, struct rt_err *err) RT_MUSTCHECK;
/* What a session needs beside verify_connect_…: values in one text form. */
int mirror_reading_prepare(PGconn *c, struct rt_err *err) RT_MUSTCHECK;

/* ---- statements: each appends a SELECT whose rows mirror_read takes ---- */

/* Of the core, in key order: `limit` rows behind the key `after` (empty: from the first on). */
void mirror_chunk_sql(const struct mirror_reading *r, struct slice after, int64_t limit,
		      struct buf *out);
/* Of the warehouse (ordered): behind `after` (empty: from the first on), up to `to` (empty: to the last). */
void mirror_range_sql(const struct mirror_reading *r, struct slice after, struct slice to,
		      struct buf *out);
/* Of either end: those of keys first … first + count − 1. */
void mirror_probe_sql(const struct mirror_reading *r, enum verify_end end,
		      const struct verify_keys *keys, uint32_t first, uint32_t count,
		      struct buf *out);
/* Of either end, without any order. */
void mirror_whole_sql(const struct mirror_reading *r, enum verify_end end, struct buf *out);
/* Keys of the warehouse alone, in its own order: `limit` behind `after`. */
void mirror_walk_sql(const struct mirror_reading *r, struct slice after, int64_t limit,
		     struct buf *out);
/* Keys alone of about `percent` % of an end's pages. */
void mirror_sample_sql(const struct mirror_reading *r, enum verify_end end, double percent,
		       int64_t limit, struct buf *out);

/* ---- rows ---- */

/*
 * Reads select's rows; columns: it asks for them, too. An error of on_row ends
 * it (the connection is then of no more use).
 */
int mirror_rows_read(PGconn *c, const struct mirror_reading *r, const char *select, bool columns,
		     mirror_on_row *on_row, void *ctx, struct rt_err *err) RT_MUSTCHECK;
/* One row of COPY, from its count of fields on. False: it is not of that form. Pure. */
bool mirror_row_take(struct rd *in, uint16_t key_count, uint16_t column_count,
		     struct mirror_row *ret) RT_MUSTCHECK;
/* The key as people read it, in the arena: 17, or (a, b); control characters as ?. */
const char *mirror_key_text(struct slice key, struct arena *a);

#endif
