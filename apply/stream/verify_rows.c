/*
 * verify_rows: COPY from both ends. Guarantees: rows come in strictly rising
 * order of (id, version), or the reader fails; bytes of a server are read
 * with bounds.
 */
#include "apply/stream/verify_rows.h"

#include <inttypes.h>

#include "proto/pg/pgconn.h"

/* Of a binary COPY: signature (11 bytes), flags, length of the extension. */
#define COPY_HEADER_BYTES 19

/* ---- COPY … TO STDOUT (FORMAT binary) ---- */

static int copy_begin(struct verify_copy *o, const char *select, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	buf_printf(&sql, "COPY (%s) TO STDOUT (FORMAT binary)", select);
	PGresult *res = PQexec(o->c, buf_cstr(&sql));
	int rc = 0;
	if (PQresultStatus(res) != PGRES_COPY_OUT)
		rc = pgc_fail(o->c, res, err, "COPY");
	PQclear(res);
	buf_release(&sql);
	o->open = rc == 0;
	o->header = false;
	return rc;
}

/* Takes the results behind the COPY's rows. */
static int copy_finish(struct verify_copy *o, struct rt_err *err)
{
	int rc = 0;
	o->open = false;
	for (PGresult *res; (res = PQgetResult(o->c)) != NULL; PQclear(res))
		if (PQresultStatus(res) != PGRES_COMMAND_OK && rc == 0)
			rc = pgc_fail(o->c, res, err, "COPY");
	return rc;
}

static void copy_release(struct verify_copy *o)
{
	PQfreemem(o->message);
	o->message = NULL;
}

/* 1: *ret is a row's bytes, from its count of fields on; 0: the end. */
static int copy_next(struct verify_copy *o, struct rd *ret, struct rt_err *err)
{
	for (;;) {
		copy_release(o);
		int n = PQgetCopyData(o->c, &o->message, 0);
		if (n < 0)
			return n == -1 ? copy_finish(o, err) : pgc_fail(o->c, NULL, err, "COPY");
		struct rd r = rd_of(slice_of(o->message, (size_t)n));
		if (!o->header) {
			rd_bytes(&r, COPY_HEADER_BYTES);
			o->header = true;
			if (r.failed)
				return rt_fail(err, ERR_PERMANENT, "COPY: no binary header");
			if (r.left == 0)
				continue;
		}
		if (r.left >= 2 && be16_get(r.p) == UINT16_MAX)
			continue; /* the trailer; the end follows */
		*ret = r;
		return 1;
	}
}

/* One field: *ret->p is NULL for NULL. */
static struct slice take_field(struct rd *r)
{
	uint32_t len = rd_u32(r);
	if (len == UINT32_MAX)
		return (struct slice){NULL, 0};
	return (struct slice){rd_bytes(r, len), len};
}

bool verify_id_has_order(enum pgt id_type)
{
	return id_type != PGT_TEXT && id_type != PGT_VARCHAR;
}

void verify_id_literal(const struct rollup *r, struct slice id, struct buf *out)
{
	struct buf text = BUF_INIT;
	struct rt_err ignored;
	struct pgt_type type = {r->id_type, false};
	if (pgt_to_text(type, id, &text, &ignored) != 0)
		buf_clear(&text); /* read rows are valid; the server refuses '' */
	pgc_literal(out, buf_cstr(&text));
	buf_printf(out, "::%s", pgt_name(type));
	buf_release(&text);
}

/* " WHERE … ORDER BY … LIMIT …" of a chunk or of one entity. key: the quoted name of id, second: of the version. */
static void add_range(const struct rollup *r, const char *key, const char *second, bool one_entity,
		      bool begun, struct slice id, int32_t version, int64_t chunk, struct buf *out)
{
	if (one_entity) {
		buf_printf(out, " WHERE %s = ", key);
		verify_id_literal(r, id, out);
		buf_printf(out, " ORDER BY %s", second != NULL ? second : key);
		return;
	}
	if (begun && second != NULL) {
		buf_printf(out, " WHERE (%s, %s) > (", key, second);
		verify_id_literal(r, id, out);
		buf_printf(out, ", %" PRId32 ")", version);
	} else if (begun) {
		buf_printf(out, " WHERE %s > ", key);
		verify_id_literal(r, id, out);
	}
	buf_printf(out, " ORDER BY %s%s%s LIMIT %" PRId64, key, second != NULL ? ", " : "",
		   second != NULL ? second : "", chunk);
}

/* Is (id, version) behind (last, last_version) in the order of both servers? */
static bool is_behind(enum pgt t, bool one_entity, struct slice id, int32_t version,
		      struct slice last, int32_t last_version)
{
	if (one_entity || slice_eq(id, last))
		return version > last_version;
	if (!verify_id_has_order(t)) /* each server has its own */
		return true;
	return pgt_compare(t, id, last) > 0;
}

/* ---- the core's end ---- */

static void source_columns(const struct rollup *r, struct buf *out)
{
	const char *names[] = {r->source_column.id, r->source_column.sequence,
			       r->source_column.event_type, r->source_column.event,
			       r->source_column.recorded_at};
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		buf_str(out, i > 0 ? ", " : "SELECT ");
		pgc_ident(out, names[i]);
	}
	buf_str(out, " FROM ");
	pgc_ident(out, r->source_schema);
	buf_u8(out, '.');
	pgc_ident(out, r->source_table);
}

/* Types of the source's columns, as the catalog has them now. */
static int map_source(struct refold *f, struct rt_err *err)
{
	const struct rollup *r = f->rollup;
	struct schema_column column[5];
	struct buf sql = BUF_INIT;
	PGresult *res;
	source_columns(r, &sql);
	buf_str(&sql, " LIMIT 0");
	int rc = pgc_exec(f->copy.c, &res, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	if (rc != 0)
		return rc;
	for (int i = 0; i < 5; i++)
		column[i] = (struct schema_column){
			.name = PQfname(res, i), .type_oid = PQftype(res, i), .typmod = -1};
	struct schema s = {.nspname = r->source_schema,
			   .relname = r->source_table,
			   .count = 5,
			   .column = column};
	rc = source_map_columns(r, &s, &f->map, err);
	PQclear(res);
	return rc;
}

int refold_open(struct refold *f, PGconn *core, const struct rollup *r, int64_t chunk,
		struct rt_err *err)
{
	*f = (struct refold){.rollup = r, .chunk = chunk, .copy = {.c = core}};
	arena_init(&f->arena, 16384);
	int rc = map_source(f, err);
	return rc == 0 ? 0
		       : rt_context(err, "reading events of %s.%s", r->source_schema,
				    r->source_table);
}

void refold_close(struct refold *f)
{
	copy_release(&f->copy);
	arena_release(&f->arena);
	buf_release(&f->id);
	buf_release(&f->event_type);
	buf_release(&f->columns);
}

static void begin(struct refold *f, bool one_entity)
{
	f->one_entity = one_entity;
	f->has_state = f->stuck = f->begun = false;
	f->sequence = 0;
	f->rows = f->chunk; /* as if a full chunk came before */
}

void refold_all(struct refold *f)
{
	begin(f, false);
}

static int begin_chunk(struct refold *f, struct slice id, struct rt_err *err)
{
	const struct rollup *r = f->rollup;
	struct buf sql = BUF_INIT, key = BUF_INIT, second = BUF_INIT;
	source_columns(r, &sql);
	pgc_ident(&key, r->source_column.id);
	pgc_ident(&second, r->source_column.sequence);
	add_range(r, buf_cstr(&key), buf_cstr(&second), f->one_entity, f->begun, id, f->sequence,
		  f->chunk, &sql);
	int rc = copy_begin(&f->copy, buf_cstr(&sql), err);
	f->rows = 0;
	buf_release(&sql);
	buf_release(&key);
	buf_release(&second);
	return rc;
}

int refold_entity(struct refold *f, struct slice id, struct rt_err *err)
{
	begin(f, true);
	return begin_chunk(f, id, err);
}

static void keep(struct buf *b, struct slice *s)
{
	buf_clear(b);
	buf_add_slice(b, *s);
	*s = buf_slice(b);
}

static int read_event(struct refold *f, struct rd *in, struct fold_event *ret, struct rt_err *err)
{
	const struct rollup *r = f->rollup;
	struct value value[5];
	struct tuple row = {5, value};
	if (rd_u16(in) != 5)
		return rt_fail(err, ERR_PERMANENT, "COPY: not the columns that were asked for");
	for (int i = 0; i < 5; i++) {
		struct slice s = take_field(in);
		value[i] = (struct value){s.p == NULL ? VALUE_NULL : VALUE_BINARY, (uint32_t)s.len,
					  s.p};
	}
	if (!rd_finish(in))
		return rt_fail(err, ERR_PERMANENT, "COPY: a row is cut");
	arena_reset(&f->arena);
	int rc = source_read_row(r, &f->map, &row, &f->arena, ret, err);
	if (rc == 0 && f->begun &&
	    !is_behind(r->id_type, f->one_entity, ret->id, ret->sequence, buf_slice(&f->id),
		       f->sequence))
		rc = rt_fail(err, ERR_PERMANENT,
			     "relation %s.%s: id %s has sequence %d twice, or out of order",
			     r->source_schema, r->source_table,
			     source_id_text(r, ret->id, &f->arena), ret->sequence);
	return rc;
}

/* Folds one event; VERIFY_END here means: to be passed over. */
static int fold_event(struct refold *f, struct rd *in, struct rt_err *err)
{
	struct fold_event e;
	struct fold_note note;
	struct fold_row folded;
	struct rt_err why;
	int rc = read_event(f, in, &e, err);
	if (rc != 0)
		return rc;
	bool same = f->begun && slice_eq(buf_slice(&f->id), e.id);
	if (!same)
		f->has_state = f->stuck = false;
	f->begun = true;
	f->sequence = e.sequence;
	f->rows++;
	keep(&f->id, &e.id);
	if (f->stuck)
		return VERIFY_END;
	enum fold_result result = fold_apply(f->rollup, f->has_state ? &f->state : NULL, &e,
					     &f->arena, &folded, &note, &why);
	if (result != FOLD_OK && result != FOLD_IGNORED) {
		f->stuck = true;
		f->state.id = e.id;
		f->state.version = e.sequence;
		snprintf(f->reason, sizeof(f->reason), "%s",
			 result == FOLD_DUPLICATE ? "sequence twice" : why.msg);
		return VERIFY_STUCK;
	}
	f->state = folded;
	f->state.id = e.id;
	keep(&f->event_type, &f->state.event_type);
	keep(&f->columns, &f->state.columns);
	f->has_state = true;
	return VERIFY_ROW;
}

int refold_next(struct refold *f, const struct fold_row **ret, struct rt_err *err)
{
	for (;;) {
		struct rd in;
		int rc;
		if (!f->copy.open) {
			if (f->one_entity || f->rows < f->chunk)
				return VERIFY_END;
			rc = begin_chunk(f, buf_slice(&f->id), err);
			if (rc != 0)
				return rc;
		}
		rc = copy_next(&f->copy, &in, err);
		if (rc < 0)
			return rc;
		if (rc == 0)
			continue;
		rc = fold_event(f, &in, err);
		if (rc != VERIFY_END) {
			*ret = &f->state;
			return rc;
		}
	}
}

/* ---- the warehouse's end ---- */

void landed_reader_open(struct landed_reader *r, PGconn *warehouse, const struct landed *l,
			bool latest, int64_t chunk)
{
	*r = (struct landed_reader){
		.landed = l, .latest = latest, .chunk = chunk, .copy = {.c = warehouse}};
}

void landed_reader_close(struct landed_reader *r)
{
	copy_release(&r->copy);
	buf_release(&r->id);
}

static void begin_reading(struct landed_reader *r, bool one_entity)
{
	r->one_entity = one_entity;
	r->begun = false;
	r->version = 0;
	r->rows = r->chunk;
}

void landed_reader_all(struct landed_reader *r)
{
	begin_reading(r, false);
}

static int begin_reader_chunk(struct landed_reader *r, struct slice id, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	if (r->select != NULL)
		buf_str(&sql, r->select);
	else
		landed_select_sql(r->landed, r->latest, &sql);
	add_range(r->landed->rollup, "id", r->latest ? NULL : "version", r->one_entity, r->begun,
		  id, r->version, r->chunk, &sql);
	int rc = copy_begin(&r->copy, buf_cstr(&sql), err);
	r->rows = 0;
	buf_release(&sql);
	return rc;
}

int landed_reader_entity(struct landed_reader *r, struct slice id, struct rt_err *err)
{
	begin_reading(r, true);
	return begin_reader_chunk(r, id, err);
}

static int read_landed(struct landed_reader *r, struct rd *in, struct rt_err *err)
{
	const struct rollup *rollup = r->landed->rollup;
	struct slice s[LANDED_BEFORE];
	uint16_t count = rd_u16(in);
	for (int i = 0; i < LANDED_BEFORE; i++)
		s[i] = take_field(in);
	if (in->failed || count != LANDED_BEFORE + rollup->column_count || s[LANDED_ID].p == NULL ||
	    s[LANDED_VERSION].len != 4 || s[LANDED_CREATED_AT].len != 8 ||
	    s[LANDED_MODIFIED_AT].len != 8 ||
	    !pgt_is_valid((struct pgt_type){rollup->id_type, false}, s[LANDED_ID]))
		return rt_fail(err, ERR_PERMANENT,
			       "%s does not have the columns or types of definition %" PRId32,
			       r->landed->history, rollup->definition);
	int32_t version = (int32_t)be32_get(s[LANDED_VERSION].p);
	if (r->begun && !is_behind(rollup->id_type, r->one_entity, s[LANDED_ID], version,
				   buf_slice(&r->id), r->latest ? INT32_MAX : r->version))
		return rt_fail(err, ERR_PERMANENT, "%s does not give its rows in order",
			       r->latest ? r->landed->latest : r->landed->history);
	r->row = (struct fold_row){
		.id = s[LANDED_ID],
		.version = version,
		.created_at_us = (int64_t)be64_get(s[LANDED_CREATED_AT].p),
		.modified_at_us = (int64_t)be64_get(s[LANDED_MODIFIED_AT].p),
		.event_type = s[LANDED_EVENT_TYPE],
		.columns = slice_of(in->p, in->left),
	};
	r->begun = true;
	r->version = version;
	r->rows++;
	buf_clear(&r->id);
	buf_add_slice(&r->id, r->row.id);
	return VERIFY_ROW;
}

int landed_reader_next(struct landed_reader *r, const struct fold_row **ret, struct rt_err *err)
{
	for (;;) {
		struct rd in;
		int rc;
		if (!r->copy.open) {
			if (r->one_entity || r->rows < r->chunk)
				return VERIFY_END;
			rc = begin_reader_chunk(r, buf_slice(&r->id), err);
			if (rc != 0)
				return rc;
		}
		rc = copy_next(&r->copy, &in, err);
		if (rc < 0)
			return rc;
		if (rc == 0)
			continue;
		*ret = &r->row;
		return read_landed(r, &in, err);
	}
}
