/*
 * writer_rows: binary arrays and COPY rows (PostgreSQL manual, COPY, "Binary
 * Format"; arrays as array_send writes them). Guarantees: a value is copied
 * as the fold left it, never parsed again, but for array columns among the
 * arrays (they travel as text).
 */
#include "apply/stream/writer_rows.h"

#include "proto/pg/types.h"

/* Header of a one-dimensional array; its count is set by array_end. */
static void array_begin(struct buf *b, uint32_t element_oid)
{
	buf_clear(b);
	buf_u32(b, 1);
	buf_u32(b, 1); /* may hold NULLs: the server does not mind a 1 without one */
	buf_u32(b, element_oid);
	buf_u32(b, 0);
	buf_u32(b, 1);
}

static void array_end(struct buf *b, uint32_t count)
{
	be32_put(b->p + 12, count);
}

static void array_add(struct buf *b, struct slice v)
{
	if (v.p == NULL) {
		buf_u32(b, UINT32_MAX);
		return;
	}
	buf_u32(b, (uint32_t)v.len);
	buf_add_slice(b, v);
}

static void array_add_u64(struct buf *b, uint64_t v)
{
	buf_u32(b, 8);
	buf_u64(b, v);
}

/* An array value as the text that the statement casts back. */
static void array_add_as_text(struct buf *b, struct pgt_type t, struct slice v)
{
	struct rt_err err;
	if (v.p == NULL) {
		buf_u32(b, UINT32_MAX);
		return;
	}
	size_t at = b->len;
	buf_u32(b, 0);
	if (pgt_to_text(t, v, b, &err) != 0)
		rt_bug(__FILE__, __LINE__, "the fold made an invalid array");
	be32_put(b->p + at, (uint32_t)(b->len - at - 4));
}

static void begin_columns(const struct rollup *r, struct buf *column)
{
	int n = 0;
	array_begin(&column[n++], pgt_oid((struct pgt_type){r->id_type, false}));
	array_begin(&column[n++], OID_INT4);
	array_begin(&column[n++], OID_TIMESTAMPTZ);
	array_begin(&column[n++], OID_TIMESTAMPTZ);
	array_begin(&column[n++], OID_TEXT);
	for (uint16_t i = 0; i < r->column_count; i++)
		array_begin(&column[n++],
			    r->column[i].type.array ? OID_TEXT : pgt_oid(r->column[i].type));
	array_begin(&column[n++], OID_PG_LSN);
	array_begin(&column[n++], OID_TIMESTAMPTZ);
	array_begin(&column[n++], OID_BOOL);
}

static uint64_t pg_time(int64_t unix_us)
{
	return (uint64_t)(unix_us - RT_PG_EPOCH_US);
}

static void add_row(const struct batch *b, const struct rollup *r, const struct batch_row *row,
		    bool last, struct buf *column)
{
	const struct batch_transaction *t = &b->transaction[row->transaction];
	const struct fold_row *f = &row->row;
	struct rd fields = rd_of(f->columns);
	array_add(&column[LANDED_ID], f->id);
	buf_u32(&column[LANDED_VERSION], 4);
	buf_u32(&column[LANDED_VERSION], (uint32_t)f->version);
	array_add_u64(&column[LANDED_CREATED_AT], (uint64_t)f->created_at_us);
	array_add_u64(&column[LANDED_MODIFIED_AT], (uint64_t)f->modified_at_us);
	array_add(&column[LANDED_EVENT_TYPE], f->event_type);
	int n = LANDED_BEFORE;
	for (uint16_t i = 0; i < r->column_count; i++, n++) {
		uint32_t len = rd_u32(&fields);
		struct slice v = {NULL, 0};
		if (len != UINT32_MAX)
			v = slice_of(rd_bytes(&fields, len), len);
		if (r->column[i].type.array)
			array_add_as_text(&column[n], r->column[i].type, v);
		else
			array_add(&column[n], v);
	}
	array_add_u64(&column[n++], t->end.v);
	if (row->repaired)
		buf_u32(&column[n++], UINT32_MAX);
	else
		array_add_u64(&column[n++], pg_time(t->commit_us));
	buf_u32(&column[n], 1);
	buf_u8(&column[n], last);
}

int writer_fill_rows(const struct batch *b, uint16_t rollup, const struct rollup *r,
		     struct buf *column)
{
	const struct batch_rows *rows = &b->rows[rollup];
	int count = LANDED_BEFORE + r->column_count + LANDED_BEHIND + 1;
	begin_columns(r, column);
	for (uint32_t i = 0; i < rows->count; i++)
		add_row(b, r, &rows->row[i], batch_row_is_last(b, rollup, i), column);
	for (int i = 0; i < count; i++)
		array_end(&column[i], rows->count);
	return count;
}

uint32_t writer_fill_entities(const struct batch *b, uint16_t rollup, const struct rollup *r,
			      bool begun, struct buf *ids)
{
	const struct batch_rows *rows = &b->rows[rollup];
	uint32_t n = 0;
	array_begin(ids, pgt_oid((struct pgt_type){r->id_type, false}));
	for (uint32_t i = 0; i < rows->count; i++) {
		const struct batch_row *row = &rows->row[i];
		if (!batch_row_is_last(b, rollup, i) || batch_row_is_new_entity(row) != begun)
			continue;
		array_add(ids, row->row.id);
		n++;
	}
	array_end(ids, n);
	return n;
}

void writer_copy_header(struct buf *out)
{
	buf_add(out, "PGCOPY\n\377\r\n\0", 11);
	buf_u32(out, 0); /* flags */
	buf_u32(out, 0); /* header extension */
}

void writer_copy_row(const struct fold_row *row, uint16_t column_count, struct lsn lsn,
		     int64_t committed_us, struct buf *out)
{
	buf_u16(out, (uint16_t)(LANDED_BEFORE + column_count + LANDED_BEHIND));
	array_add(out, row->id);
	buf_u32(out, 4);
	buf_u32(out, (uint32_t)row->version);
	array_add_u64(out, (uint64_t)row->created_at_us);
	array_add_u64(out, (uint64_t)row->modified_at_us);
	array_add(out, row->event_type);
	buf_add_slice(out, row->columns);
	array_add_u64(out, lsn.v);
	if (committed_us == 0)
		buf_u32(out, UINT32_MAX);
	else
		array_add_u64(out, pg_time(committed_us));
}

/* Does the row become the latest one of an entity that has none yet? */
static bool begins_latest(const struct batch *b, uint16_t rollup, uint32_t i)
{
	return batch_row_is_new_entity(&b->rows[rollup].row[i]) && batch_row_is_last(b, rollup, i);
}

uint32_t writer_count_begun(const struct batch *b, uint16_t rollup)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < b->rows[rollup].count; i++)
		n += begins_latest(b, rollup, i);
	return n;
}

uint32_t writer_fill_copy(const struct batch *b, uint16_t rollup, bool latest, uint32_t from,
			  size_t max_bytes, struct buf *out)
{
	const struct batch_rows *rows = &b->rows[rollup];
	uint32_t i = from;
	if (from == 0)
		writer_copy_header(out);
	for (; i < rows->count && out->len < max_bytes; i++) {
		const struct batch_row *row = &rows->row[i];
		if (latest && !begins_latest(b, rollup, i))
			continue;
		const struct batch_transaction *t = &b->transaction[row->transaction];
		writer_copy_row(&row->row, b->landed->item[rollup].rollup->column_count, t->end,
				row->repaired ? 0 : t->commit_us, out);
	}
	return i;
}

/* ---- states back from the warehouse ---- */

bool writer_is_missing(const struct batch *b, uint16_t rollup)
{
	struct slice id;
	struct batch_entity *e;
	for (uint32_t i = 0; i < b->asked; i++)
		if (batch_missing(b, i, &id, &e) == rollup)
			return true;
	return false;
}

void writer_fill_ids(const struct batch *b, uint16_t rollup, const struct rollup *r,
		     struct buf *out)
{
	uint32_t n = 0;
	array_begin(out, pgt_oid((struct pgt_type){r->id_type, false}));
	for (uint32_t i = 0; i < b->asked; i++) {
		struct slice id;
		struct batch_entity *e;
		if (batch_missing(b, i, &id, &e) != rollup)
			continue;
		array_add(out, id);
		n++;
	}
	array_end(out, n);
}

static struct slice field(const PGresult *res, int row, int column)
{
	if (PQgetisnull(res, row, column))
		return (struct slice){NULL, 0};
	return slice_of(PQgetvalue(res, row, column), (size_t)PQgetlength(res, row, column));
}

int writer_read_state(const struct rollup *r, const PGresult *res, int i, struct buf *columns,
		      struct fold_row *ret, struct rt_err *err)
{
	buf_clear(columns);
	if (PQnfields(res) != LANDED_BEFORE + r->column_count)
		return rt_fail(err, ERR_PERMANENT, "the warehouse gave other columns for %s",
			       r->name);
	struct slice version = field(res, i, LANDED_VERSION);
	struct slice created = field(res, i, LANDED_CREATED_AT);
	struct slice modified = field(res, i, LANDED_MODIFIED_AT);
	for (int c = LANDED_BEFORE; c < PQnfields(res); c++)
		array_add(columns, field(res, i, c));
	if (version.len != 4 || created.len != 8 || modified.len != 8 ||
	    !fold_columns_valid(r, buf_slice(columns)))
		return rt_fail(
			err, ERR_PERMANENT,
			"the warehouse's latest row of an entity of %s is not what rolag wrote",
			r->name);
	*ret = (struct fold_row){
		.id = field(res, i, LANDED_ID),
		.version = (int32_t)be32_get(version.p),
		.created_at_us = (int64_t)be64_get(created.p),
		.modified_at_us = (int64_t)be64_get(modified.p),
		.event_type = field(res, i, LANDED_EVENT_TYPE),
		.columns = buf_slice(columns),
	};
	return 0;
}

static int take_state(struct batch *b, uint16_t rollup, const struct rollup *r, const PGresult *res,
		      int i, struct buf *columns, struct rt_err *err)
{
	struct fold_row state = {0};
	int rc = writer_read_state(r, res, i, columns, &state, err);
	if (rc != 0)
		return rc;
	struct batch_entity *e = batch_find(b, rollup, state.id);
	if (e == NULL)
		return rt_fail(err, ERR_PERMANENT,
			       "the warehouse gave an entity of %s that was not asked for",
			       r->name);
	batch_provide(b, e, &state);
	return 0;
}

int writer_take_states(struct batch *b, uint16_t rollup, const struct rollup *r,
		       const PGresult *res, struct rt_err *err)
{
	struct buf columns = BUF_INIT;
	int rc = 0;
	for (int i = 0; rc == 0 && i < PQntuples(res); i++)
		rc = take_state(b, rollup, r, res, i, &columns, err);
	buf_release(&columns);
	for (uint32_t i = 0; rc == 0 && i < b->asked; i++) {
		struct slice id;
		struct batch_entity *e;
		if (batch_missing(b, i, &id, &e) == rollup)
			batch_settle(e);
	}
	return rc;
}
