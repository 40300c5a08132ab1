/*
 * verify_mirror_rows: the SQL of both ends, and COPY. Guarantees: names and
 * values are quoted; bytes of a server are read with bounds.
 */
#include "apply/stream/verify_mirror_rows.h"

#include <inttypes.h>

#include "proto/pg/pgconn.h"
#include "proto/pg/types.h"

/* Of a binary COPY: signature (11 bytes), flags, length of the extension. */
#define COPY_HEADER_BYTES 19

int mirror_reading_prepare(PGconn *c, struct rt_err *err)
{
	/* Keys are looked up one by one by their index; statistics never make that a scan. */
	return pgc_exec(c, NULL, err,
			"SET search_path = pg_catalog; SET DateStyle = 'ISO, MDY'; SET "
			"IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET extra_float_digits "
			"= 1; SET bytea_output = 'hex'; SET xmloption = 'content'; SET "
			"enable_hashjoin = off; SET "
			"enable_mergejoin = off; SET enable_hashagg = off; SET "
			"max_parallel_workers_per_gather = 0");
}

/* ---- how a mirror can be read ---- */

static bool lands_by_text(const struct schema_land *l)
{
	return l->kind == LAND_EXTENSION ||
	       (l->kind == LAND_BY_TEXT && strcmp(l->type, "text") != 0);
}

/* The columns as both servers give them alike. */
static const char *columns_sql(struct arena *a, const struct mirror_shape *shape,
			       enum verify_end end)
{
	struct buf b = BUF_INIT;
	for (uint16_t i = 0; i < shape->source.count; i++) {
		const struct schema_land *l = &shape->source.land[i];
		bool cast = l->kind != LAND_AS_IS || shape->source.column[i].type_oid >= 10000;
		buf_str(&b, i > 0 ? ", t." : "t.");
		pgc_ident(&b, shape->source.column[i].name);
		if (end == VERIFY_CORE && cast)
			buf_printf(&b, "::%s", l->type);
		if (lands_by_text(l))
			buf_str(&b, "::text");
	}
	const char *sql = arena_strdup(a, buf_cstr(&b));
	buf_release(&b);
	return sql;
}

static void source_name(const struct mirror_reading *r, struct buf *out)
{
	pgc_ident(out, r->m->nspname);
	buf_u8(out, '.');
	pgc_ident(out, r->m->relname);
}

static int read_kind(PGconn *core, struct mirror_reading *r, struct rt_err *err)
{
	const char *params[] = {r->m->nspname, r->m->relname};
	PGresult *res;
	int rc = pgc_query(core, &res, err,
			   "SELECT c.relkind FROM pg_catalog.pg_class c JOIN "
			   "pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = "
			   "$1 AND c.relname = $2 AND c.relkind IN ('r', 'p')",
			   2, params);
	if (rc != 0)
		return rc;
	if (PQntuples(res) == 0)
		rc = rt_fail(err, ERR_PERMANENT, "the core has no table %s", r->m->source);
	else
		r->relkind = PQgetvalue(res, 0, 0)[0];
	PQclear(res);
	return rc;
}

/* Names of the shape's key columns as an array literal. */
static void key_names(const struct mirror_shape *shape, struct buf *out)
{
	buf_u8(out, '{');
	for (uint16_t k = 0; k < shape->key_count; k++) {
		buf_str(out, k > 0 ? ",\"" : "\"");
		for (const char *p = shape->source.column[shape->key[k]].name; *p != '\0'; p++) {
			if (*p == '"' || *p == '\\')
				buf_u8(out, '\\');
			buf_u8(out, (uint8_t)*p);
		}
		buf_u8(out, '"');
	}
	buf_u8(out, '}');
}

/*
 * A unique index of the core over exactly the key's columns, with their order
 * in it and their types there (without length, which would cut a value off).
 */
static int ask_index(PGconn *core, const struct mirror_reading *r, PGresult **ret,
		     struct rt_err *err)
{
	struct buf names = BUF_INIT;
	key_names(r->shape, &names);
	const char *params[] = {r->m->nspname, r->m->relname, buf_cstr(&names)};
	int rc = pgc_query(
		core, ret, err,
		"SELECT a.attname, pg_catalog.format_type(a.atttypid, -1) FROM (SELECT "
		"i.indrelid, "
		"i.indkey::int2[] AS cols FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON "
		"x.oid = i.indexrelid JOIN pg_catalog.pg_am m ON m.oid = x.relam AND m.amname = "
		"'btree' "
		"JOIN pg_catalog.pg_class c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace n "
		"ON "
		"n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2 AND i.indisunique "
		"AND "
		"i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND (SELECT "
		"array_agg(k.attname::text ORDER BY k.attname::text COLLATE \"C\") FROM "
		"pg_catalog.pg_attribute k WHERE "
		"k.attrelid = c.oid AND k.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) "
		"= "
		"(SELECT array_agg(u ORDER BY u COLLATE \"C\") FROM unnest($3::text[]) u) ORDER BY "
		"i.indisprimary DESC, i.indexrelid LIMIT 1) AS found CROSS JOIN LATERAL "
		"unnest(found.cols) WITH ORDINALITY AS o(attnum, n) JOIN pg_catalog.pg_attribute a "
		"ON a.attrelid = found.indrelid AND a.attnum = o.attnum ORDER BY o.n",
		3, params);
	buf_release(&names);
	return rc;
}

static int find_column(const struct mirror_shape *shape, const char *name)
{
	for (uint16_t k = 0; k < shape->key_count; k++)
		if (strcmp(shape->source.column[shape->key[k]].name, name) == 0)
			return shape->key[k];
	return -1;
}

/* Types that every server orders alike. */
static bool has_order(const struct mirror_shape *shape, uint16_t column)
{
	switch (shape->source.column[column].type_oid) {
	case OID_BOOL:
	case OID_BYTEA:
	case OID_INT8:
	case OID_INT2:
	case OID_INT4:
	case OID_DATE:
	case OID_TIMESTAMPTZ:
	case OID_NUMERIC:
	case OID_UUID:
	case OID_PG_LSN:
	case 26:   /* oid */
	case 1083: /* time */
	case 1114: /* timestamp */
		return shape->source.land[column].kind == LAND_AS_IS;
	default:
		return false;
	}
}

static void take_index(struct arena *a, const PGresult *res, struct mirror_reading *r)
{
	const struct mirror_shape *shape = r->shape;
	uint16_t *key = arena_alloc(a, shape->key_count * sizeof(*key));
	const char **type = arena_alloc(a, shape->key_count * sizeof(*type));
	bool ordered = true, own = true; /* an extension's operators may be in any schema */
	/* Columns that an index only includes stand behind those of its key. */
	for (uint16_t k = 0; k < shape->key_count; k++) {
		int at = find_column(shape, PQgetvalue(res, k, 0));
		if (at < 0)
			return;
		key[k] = (uint16_t)at;
		type[k] = arena_strdup(a, PQgetvalue(res, k, 1));
		ordered &= key[k] == shape->key[k] && has_order(shape, key[k]);
		own &= shape->source.land[at].kind != LAND_EXTENSION;
	}
	r->key = key;
	r->key_type = type;
	r->key_count = shape->key_count;
	r->ordered = ordered;
	r->by_key = own;
}

/* Would the core sort (mixed directions, an operator class of another order)? Then it reads no such chunks. */
static int check_plan(PGconn *core, struct mirror_reading *r, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	PGresult *res;
	buf_str(&sql, "EXPLAIN (COSTS off) ");
	mirror_chunk_sql(r, (struct slice){NULL, 0}, 1000, &sql);
	int rc = pgc_exec(core, &res, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	if (rc != 0)
		return rc;
	for (int i = 0; i < PQntuples(res); i++) {
		const char *line = PQgetvalue(res, i, 0) + strspn(PQgetvalue(res, i, 0), " ->");
		r->by_key &= strcmp(line, "Sort") != 0 && strcmp(line, "Incremental Sort") != 0;
	}
	PQclear(res);
	return 0;
}

int mirror_reading_find(PGconn *core, struct arena *a, const struct mirror *m,
			struct mirror_reading *ret, struct rt_err *err)
{
	PGresult *res;
	*ret = (struct mirror_reading){.m = m, .shape = m->shape};
	int rc = read_kind(core, ret, err);
	if (rc != 0)
		return rc;
	ret->columns[VERIFY_CORE] = columns_sql(a, m->shape, VERIFY_CORE);
	ret->columns[VERIFY_WAREHOUSE] = columns_sql(a, m->shape, VERIFY_WAREHOUSE);
	if (m->shape->key_count == 0)
		return 0;
	rc = ask_index(core, ret, &res, err);
	if (rc != 0)
		return rc;
	if (PQntuples(res) >= m->shape->key_count)
		take_index(a, res, ret);
	PQclear(res);
	if (ret->by_key)
		rc = check_plan(core, ret, err);
	if (!ret->by_key)
		ret->key_count = 0;
	return rc;
}

/* ---- statements ---- */

static void key_column(const struct mirror_reading *r, uint16_t k, struct buf *out)
{
	buf_str(out, "t.");
	pgc_ident(out, r->shape->source.column[r->key[k]].name);
}

static const char *key_type(const struct mirror_reading *r, enum verify_end end, uint16_t k)
{
	return end == VERIFY_CORE ? r->key_type[k] : r->shape->source.land[r->key[k]].type;
}

/* "(t.a, t.b)", in the order of the core's index, or of the warehouse's. */
static void key_row(const struct mirror_reading *r, const uint16_t *order, struct buf *out)
{
	for (uint16_t k = 0; k < r->key_count; k++) {
		buf_str(out, k == 0 ? "(t." : ", t.");
		pgc_ident(out, r->shape->source.column[order[k]].name);
	}
	buf_u8(out, ')');
}

/* Column k of a key as it was read; a key is of our own making, or was checked. */
static struct slice key_part(struct slice key, uint16_t k)
{
	struct rd in = rd_of(key);
	struct slice part = {NULL, 0};
	for (uint16_t i = 0; i <= k; i++) {
		uint32_t len = rd_u32(&in);
		part = slice_of(rd_bytes(&in, len), len);
	}
	return in.failed ? (struct slice){NULL, 0} : part;
}

static void literal(struct slice text, const char *type, struct buf *out)
{
	char *s = rt_strndup((const char *)text.p, text.len);
	pgc_literal(out, s);
	buf_printf(out, "::%s", type);
	free(s);
}

/* "('1'::bigint, 'x'::text)" in the same order as key_row. */
static void key_literals(const struct mirror_reading *r, enum verify_end end, const uint16_t *order,
			 struct slice key, struct buf *out)
{
	for (uint16_t n = 0; n < r->key_count; n++) {
		uint16_t k = 0;
		while (r->key[k] != order[n])
			k++;
		buf_str(out, n == 0 ? "(" : ", ");
		literal(key_part(key, k), key_type(r, end, k), out);
	}
	buf_u8(out, ')');
}

/* "SELECT keys in text, version": columns: with those, too. */
static void select_list(const struct mirror_reading *r, enum verify_end end, bool columns,
			struct buf *out)
{
	static const char *const version[] = {
		"t.tableoid::text || ' ' || t.ctid::text || ' ' || t.xmin::text", "t._lsn::text"};
	buf_str(out, "SELECT ");
	for (uint16_t k = 0; k < r->key_count; k++) {
		key_column(r, k, out);
		buf_str(out, "::text, ");
	}
	buf_str(out, version[end]);
	if (columns && r->shape->source.count > 0)
		buf_printf(out, ", %s", r->columns[end]);
}

static void from(const struct mirror_reading *r, enum verify_end end, struct buf *out)
{
	if (end == VERIFY_CORE) {
		buf_str(out, r->relkind == 'p' ? "" : "ONLY ");
		source_name(r, out);
	} else {
		buf_str(out, r->m->target);
	}
	buf_str(out, " AS t");
}

static void behind(const struct mirror_reading *r, enum verify_end end, const uint16_t *order,
		   struct slice after, struct buf *out)
{
	if (after.len == 0)
		return;
	buf_str(out, " WHERE ");
	key_row(r, order, out);
	buf_str(out, " > ");
	key_literals(r, end, order, after, out);
}

static void order_by(const struct mirror_reading *r, const uint16_t *order, int64_t limit,
		     struct buf *out)
{
	for (uint16_t k = 0; k < r->key_count; k++) {
		buf_str(out, k == 0 ? " ORDER BY t." : ", t.");
		pgc_ident(out, r->shape->source.column[order[k]].name);
	}
	buf_printf(out, " LIMIT %" PRId64, limit);
}

void mirror_chunk_sql(const struct mirror_reading *r, struct slice after, int64_t limit,
		      struct buf *out)
{
	select_list(r, VERIFY_CORE, true, out);
	buf_str(out, " FROM ");
	from(r, VERIFY_CORE, out);
	behind(r, VERIFY_CORE, r->key, after, out);
	order_by(r, r->key, limit, out);
}

void mirror_range_sql(const struct mirror_reading *r, struct slice after, struct slice to,
		      struct buf *out)
{
	select_list(r, VERIFY_WAREHOUSE, true, out);
	buf_str(out, " FROM ");
	from(r, VERIFY_WAREHOUSE, out);
	behind(r, VERIFY_WAREHOUSE, r->key, after, out);
	if (to.len == 0)
		return;
	buf_str(out, after.len == 0 ? " WHERE " : " AND ");
	key_row(r, r->key, out);
	buf_str(out, " <= ");
	key_literals(r, VERIFY_WAREHOUSE, r->key, to, out);
}

/* Column k of the keys as an array of texts. */
static void key_array(const struct verify_keys *keys, uint32_t first, uint32_t count, uint16_t k,
		      struct buf *out)
{
	struct buf array = BUF_INIT;
	for (uint32_t i = first; i < first + count; i++) {
		struct slice part = key_part(keys->key[i], k);
		buf_str(&array, i == first ? "{\"" : ",\"");
		for (size_t n = 0; n < part.len; n++) {
			if (part.p[n] == '"' || part.p[n] == '\\')
				buf_u8(&array, '\\');
			buf_u8(&array, part.p[n]);
		}
		buf_u8(&array, '"');
	}
	buf_u8(&array, '}');
	pgc_literal(out, buf_cstr(&array));
	buf_str(out, "::text[]");
	buf_release(&array);
}

void mirror_probe_sql(const struct mirror_reading *r, enum verify_end end,
		      const struct verify_keys *keys, uint32_t first, uint32_t count,
		      struct buf *out)
{
	select_list(r, end, true, out);
	/* Not in FROM, where a function's rows are kept, in a file where they are many. */
	buf_str(out, " FROM (SELECT ");
	for (uint16_t k = 0; k < r->key_count; k++) {
		buf_str(out, k > 0 ? ", unnest(" : "unnest(");
		key_array(keys, first, count, k, out);
		buf_printf(out, ") AS k%u", k);
	}
	buf_str(out, ") AS q JOIN ");
	from(r, end, out);
	for (uint16_t k = 0; k < r->key_count; k++) {
		buf_str(out, k == 0 ? " ON " : " AND ");
		key_column(r, k, out);
		buf_printf(out, " = q.k%u::%s", k, key_type(r, end, k));
	}
}

void mirror_whole_sql(const struct mirror_reading *r, enum verify_end end, struct buf *out)
{
	select_list(r, end, true, out);
	buf_str(out, " FROM ");
	from(r, end, out);
}

void mirror_walk_sql(const struct mirror_reading *r, struct slice after, int64_t limit,
		     struct buf *out)
{
	const uint16_t *order = r->shape->key; /* of the mirror's own primary key */
	select_list(r, VERIFY_WAREHOUSE, false, out);
	buf_str(out, " FROM ");
	from(r, VERIFY_WAREHOUSE, out);
	behind(r, VERIFY_WAREHOUSE, order, after, out);
	order_by(r, order, limit, out);
}

void mirror_sample_sql(const struct mirror_reading *r, enum verify_end end, double percent,
		       int64_t limit, struct buf *out)
{
	select_list(r, end, false, out);
	buf_str(out, " FROM ");
	from(r, end, out);
	buf_printf(out, " TABLESAMPLE SYSTEM (%.6f) LIMIT %" PRId64, percent, limit);
}

/* ---- rows ---- */

bool mirror_row_take(struct rd *in, uint16_t key_count, uint16_t column_count,
		     struct mirror_row *ret)
{
	bool good = rd_u16(in) == key_count + 1u + column_count;
	const uint8_t *at = in->p;
	for (uint16_t k = 0; k < key_count; k++) {
		uint32_t len = rd_u32(in);
		good &= len != UINT32_MAX && rd_bytes(in, len) != NULL;
		if (!good)
			return false;
	}
	ret->key = slice_of(at, (size_t)(in->p - at));
	uint32_t len = rd_u32(in);
	if (!good || len == UINT32_MAX)
		return false;
	ret->version = slice_of(rd_bytes(in, len), len);
	ret->columns = slice_of(in->p, in->left);
	for (uint16_t i = 0; i < column_count; i++) {
		len = rd_u32(in);
		if (len != UINT32_MAX)
			rd_bytes(in, len);
	}
	return rd_finish(in);
}

static int begin_copy(PGconn *c, const char *select, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	buf_printf(&sql, "COPY (%s) TO STDOUT (FORMAT binary)", select);
	PGresult *res = PQexec(c, buf_cstr(&sql));
	int rc = 0;
	if (PQresultStatus(res) != PGRES_COPY_OUT)
		rc = pgc_fail(c, res, err, "COPY");
	PQclear(res);
	buf_release(&sql);
	return rc;
}

static int end_copy(PGconn *c, struct rt_err *err)
{
	int rc = 0;
	for (PGresult *res; (res = PQgetResult(c)) != NULL; PQclear(res))
		if (PQresultStatus(res) != PGRES_COMMAND_OK && rc == 0)
			rc = pgc_fail(c, res, err, "COPY");
	return rc;
}

/* A message of COPY: the header (with the first row behind it, or not), a row, or the trailer. */
static int take_message(const struct mirror_reading *r, struct slice bytes, bool *header,
			uint16_t column_count, mirror_on_row *on_row, void *ctx, struct rt_err *err)
{
	struct rd in = rd_of(bytes);
	struct mirror_row row;
	if (!*header)
		rd_bytes(&in, COPY_HEADER_BYTES);
	*header = true;
	if (!in.failed && (in.left == 0 || (in.left >= 2 && be16_get(in.p) == UINT16_MAX)))
		return 0;
	if (!mirror_row_take(&in, r->key_count, column_count, &row))
		return rt_fail(err, ERR_PERMANENT, "COPY: not the columns that were asked for");
	return on_row(ctx, &row, err);
}

int mirror_rows_read(PGconn *c, const struct mirror_reading *r, const char *select, bool columns,
		     mirror_on_row *on_row, void *ctx, struct rt_err *err)
{
	bool header = false;
	char *message;
	int rc = begin_copy(c, select, err), n = 0;
	while (rc == 0 && (n = PQgetCopyData(c, &message, 0)) > 0) {
		rc = take_message(r, slice_of(message, (size_t)n), &header,
				  columns ? r->shape->source.count : 0, on_row, ctx, err);
		PQfreemem(message);
	}
	if (rc != 0)
		return rc;
	return n == -1 ? end_copy(c, err) : pgc_fail(c, NULL, err, "COPY");
}

const char *mirror_key_text(struct slice key, struct arena *a)
{
	struct rd in = rd_of(key);
	struct buf b = BUF_INIT;
	int n = 0;
	for (; in.left > 0 && !in.failed; n++) {
		uint32_t len = rd_u32(&in);
		const uint8_t *p = rd_bytes(&in, len);
		buf_str(&b, n > 0 ? ", " : "");
		for (uint32_t i = 0; p != NULL && i < len; i++)
			buf_u8(&b, p[i] < 0x20 || p[i] == 0x7f ? '?' : p[i]);
	}
	const char *text =
		n == 1 ? arena_strdup(a, buf_cstr(&b)) : arena_printf(a, "(%s)", buf_cstr(&b));
	buf_release(&b);
	return text;
}
