/*
 * build_sources: what the models of staging read. Guarantees: every source is
 * locked before the snapshot is taken, so that what the snapshot shows of it
 * is what was there at the watermark.
 */
#include <inttypes.h>

#include "apply/reports/build_inner.h"
#include "proto/base/failpoint.h"
#include "proto/pg/pgconn.h"

/* A swap of a landed table waits for us, and we for it: it is a moment's. */
#define LOCK_WAIT "5s"

/* A source's schema: of `raw`, where this program lands. */
static const char *schema_of(const struct build *b, const struct model_source *s)
{
	return s->landed && strcmp(s->schema, "raw") == 0 ? b->o->s->warehouse.schema : s->schema;
}

/* A stand-in is possible where every column has a type. */
static bool is_typed(const struct model_source *s)
{
	for (size_t i = 0; i < s->column_count; i++)
		if (s->column[i].type == NULL)
			return false;
	return s->column_count > 0;
}

static int find_source(struct build *b, size_t i)
{
	const struct model_source *s = &b->m->source[i];
	const char *schema = schema_of(b, s);
	const char *params[] = {schema, s->identifier};
	PGresult *res;
	int rc = pgc_query(
		b->c, &res, b->err,
		"SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid "
		"= c.relnamespace WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN "
		"('r', 'p', 'v', 'm', 'f')",
		2, params);
	if (rc != 0)
		return rc;
	b->source_there[i] = PQntuples(res) > 0;
	PQclear(res);
	b->source[i] = build_relation(b->a, schema, s->identifier);
	if (b->source_there[i])
		return 0;
	if (s->landed || !is_typed(s))
		return model_fail(
			&s->place, b->err,
			s->landed ? "source %s.%s is not landed: there is no table %s"
				  : "source %s.%s is not there: there is no table %s (where "
				    "each column has a data_type, it may be absent)",
			s->source, s->table, b->source[i]);
	char name[40];
	snprintf(name, sizeof(name), "rolag_absent_%zu", i);
	b->source[i] = build_relation(b->a, b->r->schema, name);
	return 0;
}

int build_find_sources(struct build *b)
{
	int rc = 0;
	bool *read = arena_zalloc(b->a, (b->m->source_count + 1) * sizeof(*read));
	for (size_t i = 0; i < b->m->model_count; i++)
		for (size_t k = 0; b->state[i].in && k < b->m->model[i].source_count; k++)
			read[b->m->model[i].source[k]] = true;
	for (size_t i = 0; rc == 0 && i < b->m->source_count; i++)
		if (read[i])
			rc = find_source(b, i);
	return rc;
}

/*
 * None of these takes a snapshot: it is the ledger's query that does, behind
 * the locks (trap 52). rolag.model is locked against build_drop: what we mean
 * to reuse must stay.
 */
static int lock_sources(struct build *b)
{
	struct buf sql = BUF_INIT;
	buf_str(&sql, "BEGIN ISOLATION LEVEL REPEATABLE READ; "
		      "SET LOCAL search_path = pg_catalog, public; "
		      "SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, MDY'; "
		      "SET LOCAL IntervalStyle = 'postgres'; SET LOCAL extra_float_digits = 1; "
		      "SET LOCAL bytea_output = 'hex'; SET LOCAL row_security = off; "
		      "SET LOCAL standard_conforming_strings = on; "
		      "SET LOCAL client_min_messages = error; "
		      "SET LOCAL idle_in_transaction_session_timeout = '60s'; "
		      "SET LOCAL lock_timeout = '" LOCK_WAIT "'; LOCK TABLE ");
	bool any = false;
	for (size_t i = 0; i < b->m->source_count; i++) {
		if (!b->source_there[i])
			continue;
		buf_printf(&sql, "%s%s", any ? ", " : "", b->source[i]);
		any = true;
	}
	buf_str(&sql, any ? " IN ACCESS SHARE MODE; LOCK TABLE " : "");
	buf_str(&sql, "rolag.model IN ROW EXCLUSIVE MODE");
	int rc = pgc_exec(b->c, NULL, b->err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	/* Somebody has one of them, or put another in its place since we looked: both are a moment's. */
	if (rc != 0 && (pgc_err_is_state(b->err, "55P03") || pgc_err_is_state(b->err, "42P01")))
		rc = (int)(b->err->code = ERR_RETRY);
	return rc != 0 ? rt_context(b->err, "locking the sources") : 0;
}

int build_begin(struct build *b)
{
	PGresult *res;
	const char *params[] = {b->o->s->pipeline};
	int rc = lock_sources(b);
	if (rc != 0)
		return rc;
	FAILPOINT_FD(BUILD_LOCKED, PQsocket(b->c));
	rc = build_query(
		b,
		"SELECT applied_lsn, coalesce((extract(epoch FROM committed_at) * "
		"1000000)::int8, 0) FROM rolag.ledger WHERE pipeline = $1 ORDER BY applied_lsn "
		"DESC LIMIT 1",
		1, params, &res, NULL);
	if (rc != 0)
		return rc;
	if (PQntuples(res) == 1) {
		b->r->watermark = pgc_get_lsn(res, 0, 0);
		b->r->committed_at_us = strtoll(PQgetvalue(res, 0, 1), NULL, 10);
	} else {
		rc = rt_fail(b->err, ERR_PERMANENT,
			     "pipeline %s has no position in the warehouse; mend: rolag init",
			     b->o->s->pipeline);
	}
	PQclear(res);
	FAILPOINT_FD(BUILD_SNAPSHOT, PQsocket(b->c));
	return rc;
}

/* ---- versions and freshness, within the transaction ---- */

/* An empty view in the place of a source that is not there. */
static int stand_in(struct build *b, size_t i)
{
	const struct model_source *s = &b->m->source[i];
	struct buf sql = BUF_INIT;
	buf_printf(&sql, "CREATE VIEW %s AS SELECT ", b->source[i]);
	for (size_t k = 0; k < s->column_count; k++) {
		buf_printf(&sql, "%sNULL::%s AS ", k > 0 ? ", " : "", s->column[k].type);
		pgc_ident(&sql, s->column[k].name);
	}
	buf_str(&sql, " WHERE false");
	int rc = build_query(b, buf_cstr(&sql), 0, NULL, NULL, NULL);
	if (rc != 0) {
		struct rt_err why = *b->err;
		model_fail(&s->place, b->err, "an empty source of these columns: %s", why.msg);
		b->err->code = why.code;
	}
	buf_release(&sql);
	b->version[i] = "absent";
	return rc;
}

/*
 * What rolag.* says of a landed relation: all that could change its rows has
 * its mark there, in the transaction that changed them. A batch: the ledger's
 * row (and rolag.written, which keeps what was trimmed); a repair; events that
 * left quarantine; state, definition and shape; a table in its place. Of one
 * that is not live, no two builds have the same.
 */
static const char landed_version_sql[] =
	"SELECT concat_ws('|', $3::regclass::oid, md5(r::text), CASE WHEN r.state <> 'live' THEN "
	"$4 END, (SELECT max(lsn) FROM (SELECT max(l.applied_lsn) AS lsn FROM rolag.ledger l WHERE "
	"l.pipeline = r.pipeline AND (l.relations IS NULL OR r.name = ANY (l.relations)) UNION ALL "
	"SELECT w.lsn FROM rolag.written w WHERE w.pipeline = r.pipeline AND w.name IN (r.name, "
	"'*')) "
	"x), (SELECT count(*) || '/' || coalesce(max(done_at)::text, '') FROM rolag.repair p WHERE "
	"p.pipeline = r.pipeline AND p.rollup = r.name AND p.state = 'done'), (SELECT count(*) "
	"FROM "
	"rolag.quarantine_audit a WHERE a.pipeline = r.pipeline AND a.rollup = r.name)) FROM "
	"rolag.relation r WHERE r.pipeline = $1 AND (r.name = $2 OR (r.kind = 'rollup' AND r.name "
	"|| "
	"'_latest' = $2)) ORDER BY r.name = $2 DESC LIMIT 1";

/* *ret: it is landed by this pipeline, and its version known. */
static int version_of_landed(struct build *b, size_t i, bool *ret)
{
	PGresult *res;
	const char *params[] = {b->o->s->pipeline, b->m->source[i].identifier, b->source[i],
				b->run};
	int rc = build_query(b, landed_version_sql, 4, params, &res, NULL);
	if (rc != 0)
		return rc;
	*ret = PQntuples(res) == 1;
	if (*ret)
		b->version[i] = arena_strdup(b->a, PQgetvalue(res, 0, 0));
	PQclear(res);
	return 0;
}

/* Of its rows and columns, whoever wrote them: a sum over hashes, so in any order. */
static int version_of_rows(struct build *b, size_t i)
{
	PGresult *res;
	struct buf sql = BUF_INIT;
	buf_printf(&sql,
		   "SELECT concat_ws(':', (SELECT count(*) || ':' || coalesce(sum("
		   "hashtextextended(t::text, 0)::numeric), 0) FROM %s t), (SELECT string_agg("
		   "format('%%I %%s', attname, format_type(atttypid, atttypmod)), ',' ORDER BY "
		   "attnum) "
		   "FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT "
		   "attisdropped))",
		   b->source[i]);
	int rc = build_query(b, buf_cstr(&sql), 1, &b->source[i], &res, NULL);
	buf_release(&sql);
	if (rc != 0)
		return rc;
	b->version[i] = arena_strdup(b->a, PQgetvalue(res, 0, 0));
	PQclear(res);
	return 0;
}

static void note_source(struct build *b, size_t i, enum build_freshness state, int64_t loaded_us)
{
	const struct model_source *s = &b->m->source[i];
	b->r->source[b->r->source_count++] =
		(struct build_source){.source = arena_strdup(b->a, s->source),
				      .table = arena_strdup(b->a, s->table),
				      .state = state,
				      .loaded_at_us = loaded_us};
}

static int freshness_of(struct build *b, size_t i)
{
	const struct model_source *s = &b->m->source[i];
	PGresult *res;
	struct buf sql = BUF_INIT;
	buf_printf(&sql,
		   "SELECT (extract(epoch FROM max((%s)::timestamptz)) * 1000000)::int8 FROM %s",
		   s->loaded_at, b->source[i]);
	int rc = build_query(b, buf_cstr(&sql), 0, NULL, &res, NULL);
	buf_release(&sql);
	if (rc != 0)
		return rt_context(b->err, "freshness of source %s.%s (%s:%d)", s->source, s->table,
				  s->place.file, s->place.line);
	if (PQgetisnull(res, 0, 0)) {
		note_source(b, i, SOURCE_EMPTY, 0);
	} else {
		int64_t at = strtoll(PQgetvalue(res, 0, 0), NULL, 10), age = b->o->run_at_us - at;
		note_source(b, i,
			    s->error_after_us != 0 && age > s->error_after_us ? SOURCE_STALE_ERROR
			    : s->warn_after_us != 0 && age > s->warn_after_us ? SOURCE_STALE_WARN
									      : SOURCE_FRESH,
			    at);
	}
	PQclear(res);
	return 0;
}

int build_look_at_sources(struct build *b)
{
	int rc = 0;
	b->r->source = arena_zalloc(b->a, (b->m->source_count + 1) * sizeof(*b->r->source));
	for (size_t i = 0; rc == 0 && i < b->m->source_count; i++) {
		const struct model_source *s = &b->m->source[i];
		if (b->source[i] == NULL)
			continue;
		if (!b->source_there[i]) {
			note_source(b, i, SOURCE_ABSENT, 0);
			rc = stand_in(b, i);
			continue;
		}
		bool known = false;
		if (s->landed)
			rc = version_of_landed(b, i, &known);
		if (rc == 0 && !known)
			rc = version_of_rows(b, i);
		if (rc == 0 && s->loaded_at != NULL)
			rc = freshness_of(b, i);
	}
	return rc;
}
