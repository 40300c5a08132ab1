/*
 * build_models: one model's relation. Guarantees: it reads nothing that it did
 * not declare by ref or source; its columns are its contract's before a row of
 * it is computed; an error has its place in the model's file.
 */
#include <inttypes.h>

#include "apply/reports/build_inner.h"
#include "proto/pg/pgconn.h"

/* What a table is made from; a view by itself, so that contract and inputs are looked at before it costs anything. */
#define BODY "rolag_body"

int build_about(struct build *b, const struct model *md)
{
	enum rt_code code = b->err->code;
	char said[sizeof(b->err->msg)];
	struct model_place at = {md->file, 1, 1};
	snprintf(said, sizeof(said), "%s", b->err->msg);
	model_fail(&at, b->err, "model %s: %s", md->name, said);
	b->err->code = code;
	return (int)code;
}

/* Byte of the character with this number (from 1) in text. */
static size_t byte_of(const char *text, long character)
{
	size_t at = 0;
	while (character > 1 && text[at] != '\0') {
		at++;
		while (((unsigned char)text[at] & 0xC0) == 0x80)
			at++;
		character--;
	}
	return at;
}

/* The server says where in the statement; head is what stands there before the model's SQL. */
static int fail_in_sql(struct build *b, const struct model *md, const PGresult *res,
		       const char *sql, size_t head, const size_t *start)
{
	const char *pos = res != NULL ? PQresultErrorField(res, PG_DIAG_STATEMENT_POSITION) : NULL;
	size_t at = pos != NULL ? byte_of(sql, strtol(pos, NULL, 10)) : 0;
	if (at < head)
		return build_about(b, md);
	enum rt_code code = b->err->code;
	char said[sizeof(b->err->msg)];
	struct model_place place = render_place(md, start, at - head);
	snprintf(said, sizeof(said), "%s", b->err->msg);
	model_fail(&place, b->err, "%s", said);
	b->err->code = code;
	return (int)code;
}

static int create_view(struct build *b, size_t i, const char *relation)
{
	const struct model *md = &b->m->model[i];
	size_t *start = arena_alloc(b->a, (md->sql.piece_count + 1) * sizeof(*start));
	struct render_names names = {.model = b->relation,
				     .source = b->source,
				     .this = b->relation[i],
				     .as_of = b->as_of,
				     .run_at = b->run_at};
	struct buf body = BUF_INIT, sql = BUF_INIT;
	PGresult *failed = NULL;
	model_render(b->m, md, &names, &body, start);
	buf_printf(&sql, "CREATE VIEW %s AS\n", relation);
	size_t head = sql.len;
	buf_add_slice(&sql, buf_slice(&body));
	int rc = build_query(b, buf_cstr(&sql), 0, NULL, NULL, &failed);
	if (rc != 0)
		rc = fail_in_sql(b, md, failed, buf_cstr(&sql), head, start);
	PQclear(failed);
	buf_release(&body);
	buf_release(&sql);
	return rc;
}

/* Relations and volatile functions that the view's rule holds, but for what was declared. */
static int check_reads(struct build *b, const struct model *md, const char *relation)
{
	struct buf declared = BUF_INIT;
	PGresult *res;
	buf_str(&declared, "{");
	for (size_t i = 0; i < md->input_count; i++)
		build_array_add(&declared, b->relation[md->input[i]]);
	for (size_t i = 0; i < md->source_count; i++)
		build_array_add(&declared, b->source[md->source[i]]);
	const char *params[] = {relation, build_array_end(&declared)};
	int rc = build_query(
		b,
		"SELECT 'reads ' || d.refobjid::regclass || ', which it does not ref' FROM "
		"pg_depend d "
		"JOIN pg_rewrite w ON w.oid = d.objid WHERE w.ev_class = $1::regclass AND "
		"d.classid = "
		"'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> "
		"w.ev_class AND d.refobjid NOT IN (SELECT r::regclass FROM unnest($2::text[]) r) "
		"UNION ALL SELECT 'calls ' || d.refobjid::regprocedure || ', which is volatile' "
		"FROM "
		"pg_depend d JOIN pg_rewrite w ON w.oid = d.objid JOIN pg_proc f ON f.oid = "
		"d.refobjid "
		"WHERE w.ev_class = $1::regclass AND d.classid = 'pg_rewrite'::regclass AND "
		"d.refclassid = 'pg_proc'::regclass AND f.provolatile = 'v' LIMIT 1",
		2, params, &res, NULL);
	buf_release(&declared);
	if (rc != 0)
		return build_about(b, md);
	if (PQntuples(res) > 0) {
		struct model_place at = {md->file, 1, 1};
		rc = model_fail(&at, b->err, "model %s %s", md->name, PQgetvalue(res, 0, 0));
	}
	PQclear(res);
	return rc;
}

/* ---- contracts ---- */

/* A type as the server writes it; in the arena. */
static int type_text(struct build *b, Oid type, int mod, const char **ret)
{
	char oid[16], typmod[16];
	PGresult *res;
	snprintf(oid, sizeof(oid), "%u", type);
	snprintf(typmod, sizeof(typmod), "%d", mod);
	const char *params[] = {oid, typmod};
	int rc = build_query(b, "SELECT format_type($1::oid, $2::int)", 2, params, &res, NULL);
	if (rc != 0)
		return rc;
	*ret = arena_strdup(b->a, PQgetvalue(res, 0, 0));
	PQclear(res);
	return 0;
}

static int describe(struct build *b, const char *sql, PGresult **ret)
{
	return build_query(b, sql, 0, NULL, ret, NULL);
}

/* The declared columns as the server understands their types. */
static int describe_contract(struct build *b, const struct model *md, PGresult **ret)
{
	struct buf sql = BUF_INIT;
	buf_str(&sql, "SELECT ");
	for (size_t i = 0; i < md->column_count; i++)
		buf_printf(&sql, "%sNULL::%s", i > 0 ? ", " : "", md->column[i].type);
	int rc = describe(b, buf_cstr(&sql), ret);
	buf_release(&sql);
	if (rc == 0)
		return 0;
	enum rt_code code = b->err->code;
	char said[sizeof(b->err->msg)];
	snprintf(said, sizeof(said), "%s", b->err->msg);
	model_fail(&md->described, b->err, "the contract of model %s: %s", md->name, said);
	b->err->code = code;
	return (int)code;
}

static int compare_column(struct build *b, const struct model *md, size_t i, const PGresult *want,
			  const PGresult *have)
{
	const struct model_column *c = &md->column[i];
	const char *wanted, *built;
	int k = (int)i;
	if (k >= PQnfields(have))
		return model_fail(&c->place, b->err, "model %s has no column %s, its contract has",
				  md->name, c->name);
	if (strcmp(PQfname(have, k), c->name) != 0)
		return model_fail(&c->place, b->err,
				  "column %d of model %s is %s, its contract says %s", k + 1,
				  md->name, PQfname(have, k), c->name);
	if (PQftype(want, k) == PQftype(have, k) && PQfmod(want, k) == PQfmod(have, k))
		return 0;
	int rc = type_text(b, PQftype(want, k), PQfmod(want, k), &wanted);
	if (rc == 0)
		rc = type_text(b, PQftype(have, k), PQfmod(have, k), &built);
	return rc != 0 ? rc
		       : model_fail(&c->place, b->err,
				    "column %s of model %s is of type %s, its contract says %s",
				    c->name, md->name, built, wanted);
}

static int check_contract(struct build *b, const struct model *md, const char *relation)
{
	PGresult *want = NULL, *have = NULL;
	if (!md->contract)
		return 0;
	int rc = describe_contract(b, md, &want);
	if (rc == 0)
		rc = describe(b, arena_printf(b->a, "SELECT * FROM %s LIMIT 0", relation), &have);
	for (size_t i = 0; rc == 0 && i < md->column_count; i++)
		rc = compare_column(b, md, i, want, have);
	if (rc == 0 && (size_t)PQnfields(have) > md->column_count)
		rc = model_fail(&md->described, b->err,
				"model %s has a column %s, its contract has not", md->name,
				PQfname(have, (int)md->column_count));
	PQclear(want);
	PQclear(have);
	return rc;
}

/* ---- the relation ---- */

static int fill_table(struct build *b, size_t i, const char *body)
{
	const struct model *md = &b->m->model[i];
	PGresult *res;
	const char *sql =
		arena_printf(b->a, "CREATE TABLE %s AS SELECT * FROM %s", b->relation[i], body);
	int rc = build_query(b, sql, 0, NULL, &res, NULL);
	if (rc != 0)
		return build_about(b, md);
	b->state[i].rows = strtoll(PQcmdTuples(res), NULL, 10);
	PQclear(res);
	rc = build_do(b, "DROP VIEW %s", body);
	if (rc == 0)
		rc = build_do(b, "ANALYZE %s", b->relation[i]);
	return rc != 0 ? build_about(b, md) : 0;
}

int build_make(struct build *b, size_t i)
{
	const struct model *md = &b->m->model[i];
	const char *view = md->table ? build_relation(b->a, b->r->schema, BODY) : b->relation[i];
	int rc = create_view(b, i, view);
	if (rc == 0)
		rc = check_reads(b, md, view);
	if (rc == 0)
		rc = check_contract(b, md, view);
	return rc == 0 && md->table ? fill_table(b, i, view) : rc;
}
