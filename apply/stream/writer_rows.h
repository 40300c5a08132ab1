/*
 * writer_rows: rows of a batch in the forms in which the warehouse takes
 * them: one binary array per column, or binary COPY rows; and rows of the
 * warehouse back into states.
 */
#ifndef APPLY_STREAM_WRITER_ROWS_H
#define APPLY_STREAM_WRITER_ROWS_H

#include <libpq-fe.h>

#include "apply/stream/batch.h"

/*
 * Fills column[0…] with one array per column of landed_write_sql, for all rows
 * of the rollup. Returns the number of columns.
 */
int writer_fill_rows(const struct batch *b, uint16_t rollup, const struct rollup *r,
		     struct buf *column);
/*
 * Fills ids with one array: of the rollup's entities that begin in the batch,
 * or of those in it that were known before. Returns how many.
 */
uint32_t writer_fill_entities(const struct batch *b, uint16_t rollup, const struct rollup *r,
			      bool begun, struct buf *ids);
/* How many entities of the rollup begin in the batch. */
uint32_t writer_count_begun(const struct batch *b, uint16_t rollup);
/*
 * Appends COPY rows from row `from` on until about max_bytes are there (the
 * COPY header, where from is 0). Returns the next row to go on with. latest:
 * only the last row of each entity that begins in the batch.
 */
uint32_t writer_fill_copy(const struct batch *b, uint16_t rollup, bool latest, uint32_t from,
			  size_t max_bytes, struct buf *out);

/* Is an entity of the rollup among those asked for? */
bool writer_is_missing(const struct batch *b, uint16_t rollup);
/* The ids of those of a rollup as one array. */
void writer_fill_ids(const struct batch *b, uint16_t rollup, const struct rollup *r,
		     struct buf *out);
/* Gives those of a rollup the states that landed_fetch_sql brought (binary). */
int writer_take_states(struct batch *b, uint16_t rollup, const struct rollup *r,
		       const PGresult *res, struct rt_err *err) RT_MUSTCHECK;

/*
 * The i-th row of landed_fetch_sql (binary) as a state; its columns are put
 * into the buffer, its other slices are the result's. ERR_PERMANENT when it is
 * not a row that rolag wrote.
 */
int writer_read_state(const struct rollup *r, const PGresult *res, int i, struct buf *columns,
		      struct fold_row *ret, struct rt_err *err) RT_MUSTCHECK;

/* Appends one COPY row (without header); LSN_NONE and committed_us 0 (NULL) as given. */
void writer_copy_row(const struct fold_row *row, uint16_t column_count, struct lsn lsn,
		     int64_t committed_us, struct buf *out);
/* Appends the header of a binary COPY. */
void writer_copy_header(struct buf *out);

#endif
