/*
 * publish: the stable views of a run. Guarantees: all of them show the run or
 * none does; owner, grants and comments of a view that is made anew are what
 * they were; nothing of others is dropped.
 */
#include <inttypes.h>
#include <time.h>

#include "apply/reports/build_inner.h"
#include "proto/base/failpoint.h"
#include "proto/pg/pgconn.h"

#define LOCK_WAIT_MS 500
#define PAUSE_US     INT64_C(100000)

struct publish {
	PGconn *c;
	const struct build_publish *o;
	struct arena *a;
	const char *run;
	bool locked_out; /* the last failure: somebody held a view */
	struct rt_err *err;
};

struct stable {
	const char *schema, *name;
	const char *view;	   /* quoted */
	const char *run_schema;	   /* where that is which it is to show … */
	const char *relation;	   /* … and that, quoted */
	const struct model *model; /* NULL: the project has it no more */
};

static int query(struct publish *p, PGresult **ret, const char *sql, int count,
		 const char *const *params)
{
	PGresult *res = PQexecParams(p->c, sql, count, NULL, params, NULL, NULL, 0);
	ExecStatusType st = PQresultStatus(res);
	if (st != PGRES_TUPLES_OK && st != PGRES_COMMAND_OK) {
		int rc = pgc_fail(p->c, res, p->err, "publishing");
		/* lock_not_available, deadlock_detected, serialization_failure */
		p->locked_out = pgc_is_state(res, "55P03") || pgc_is_state(res, "40P01") ||
				pgc_is_state(res, "40001");
		if (p->locked_out)
			rc = (int)(p->err->code = ERR_RETRY);
		PQclear(res);
		return rc;
	}
	if (ret != NULL)
		*ret = res;
	else
		PQclear(res);
	return 0;
}

static int run(struct publish *p, const struct buf *sql)
{
	struct buf copy = BUF_INIT;
	buf_add_slice(&copy, buf_slice(sql));
	int rc = query(p, NULL, buf_cstr(&copy), 0, NULL);
	buf_release(&copy);
	return rc;
}

static int ensure_schema(struct publish *p, const char *name)
{
	PGresult *res;
	int rc = query(p, &res, "SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1", 1, &name);
	if (rc != 0)
		return rc;
	bool there = PQntuples(res) > 0;
	PQclear(res);
	/* Not IF NOT EXISTS: that asks for CREATE on the database even where the schema is there. */
	return there ? 0 : query(p, NULL, arena_printf(p->a, "CREATE SCHEMA %s", name), 0, NULL);
}

/* ---- a view whose columns changed ---- */

/* What somebody has built upon the view, by name; in the arena, NULL: nothing. */
static int find_dependents(struct publish *p, const struct stable *s, const char **ret)
{
	PGresult *res;
	int rc = query(
		p, &res,
		"SELECT string_agg(DISTINCT what, ', ' ORDER BY what) FROM (SELECT CASE WHEN "
		"d.classid = 'pg_rewrite'::regclass THEN (SELECT w.ev_class::regclass::text FROM "
		"pg_rewrite w WHERE w.oid = d.objid AND w.ev_class <> $1::regclass) ELSE "
		"pg_describe_object(d.classid, d.objid, d.objsubid) END AS what FROM pg_depend d "
		"WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1::regclass AND "
		"d.deptype = 'n' AND d.classid <> 'pg_policy'::regclass) x WHERE what IS NOT NULL",
		1, &s->view);
	if (rc != 0)
		return rc;
	*ret = PQgetisnull(res, 0, 0) ? NULL : arena_strdup(p->a, PQgetvalue(res, 0, 0));
	PQclear(res);
	return 0;
}

/*
 * Statements that give a view of this name what the present one has: owner,
 * grants on it and on columns that the new one has, too, comments.
 */
static int save_manner(struct publish *p, const struct stable *s, PGresult **ret)
{
	const char *params[] = {s->view, s->relation};
	return query(
		p, ret,
		"WITH v AS (SELECT oid, relowner, relacl FROM pg_class WHERE oid = $1::regclass), "
		"kept AS (SELECT o.attnum, o.attname, o.attacl FROM pg_attribute o JOIN "
		"pg_attribute n "
		"ON n.attrelid = $2::regclass AND n.attname = o.attname AND n.attnum > 0 AND NOT "
		"n.attisdropped WHERE o.attrelid = $1::regclass AND o.attnum > 0 AND NOT "
		"o.attisdropped), "
		"g AS (SELECT 0::int2 AS attnum, NULL::name AS attname, (aclexplode(v.relacl)).* "
		"FROM v "
		"UNION ALL SELECT kept.attnum, kept.attname, (aclexplode(kept.attacl)).* FROM "
		"kept) "
		"SELECT 1 AS part, format('REVOKE ALL ON %s FROM %I', $1, r.rolname) AS sql FROM v "
		"JOIN "
		"pg_roles r ON r.oid = v.relowner WHERE v.relacl IS NOT NULL "
		"UNION ALL SELECT 2, format('GRANT %s%s ON %s TO %s%s', g.privilege_type, CASE "
		"WHEN "
		"g.attname IS NULL THEN '' ELSE format(' (%I)', g.attname) END, $1, CASE WHEN "
		"g.grantee = "
		"0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END, CASE WHEN g.is_grantable THEN ' "
		"WITH "
		"GRANT OPTION' ELSE '' END) FROM g LEFT JOIN pg_roles r ON r.oid = g.grantee "
		"UNION ALL SELECT 3, format('COMMENT ON VIEW %s IS %L', $1, obj_description(v.oid, "
		"'pg_class')) FROM v WHERE obj_description(v.oid, 'pg_class') IS NOT NULL "
		"UNION ALL SELECT 3, format('COMMENT ON COLUMN %s.%I IS %L', $1, kept.attname, "
		"col_description(v.oid, kept.attnum)) FROM v, kept WHERE col_description(v.oid, "
		"kept.attnum) IS NOT NULL "
		"UNION ALL SELECT 4, format('ALTER VIEW %s OWNER TO %I', $1, r.rolname) FROM v "
		"JOIN "
		"pg_roles r ON r.oid = v.relowner WHERE v.relowner <> (SELECT oid FROM pg_roles "
		"WHERE "
		"rolname = current_user) ORDER BY 1, 2",
		2, params);
}

static int make_anew(struct publish *p, const struct stable *s, const struct buf *create)
{
	const char *others = NULL;
	PGresult *manner = NULL;
	int rc = find_dependents(p, s, &others);
	if (rc == 0 && others != NULL)
		return rt_fail(
			p->err, ERR_PERMANENT,
			"view %s.%s would lose or change columns, and %s depends on it; mend: "
			"drop that, or keep the columns",
			s->schema, s->name, others);
	if (rc == 0)
		rc = save_manner(p, s, &manner);
	if (rc == 0)
		rc = query(p, NULL, arena_printf(p->a, "DROP VIEW %s", s->view), 0, NULL);
	if (rc == 0)
		rc = run(p, create);
	for (int i = 0; rc == 0 && i < PQntuples(manner); i++)
		rc = query(p, NULL, PQgetvalue(manner, i, 1), 0, NULL);
	PQclear(manner);
	return rc;
}

/* ---- one view ---- */

enum standing { VIEW_MISSING, VIEW_FITS, VIEW_DIFFERS, VIEW_FOREIGN };

/* Can CREATE OR REPLACE do it: are the view's columns the first ones of the new relation? */
static int look_at_view(struct publish *p, const struct stable *s, enum standing *ret)
{
	PGresult *res;
	const char *params[] = {s->schema, s->name, s->relation};
	int rc = query(
		p, &res,
		"SELECT c.relkind, NOT EXISTS (SELECT FROM pg_attribute o LEFT JOIN pg_attribute n "
		"ON n.attrelid = $3::regclass AND n.attnum > 0 AND NOT n.attisdropped AND n.attnum "
		"= "
		"o.attnum AND n.attname = o.attname AND n.atttypid = o.atttypid AND n.atttypmod = "
		"o.atttypmod AND n.attcollation = o.attcollation WHERE o.attrelid = c.oid AND "
		"o.attnum > 0 AND NOT o.attisdropped AND n.attnum IS NULL) FROM pg_class c JOIN "
		"pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
		3, params);
	if (rc != 0)
		return rc;
	*ret = PQntuples(res) == 0			 ? VIEW_MISSING
	       : PQgetvalue(res, 0, 0)[0] != 'v'	 ? VIEW_FOREIGN
	       : strcmp(PQgetvalue(res, 0, 1), "t") == 0 ? VIEW_FITS
							 : VIEW_DIFFERS;
	PQclear(res);
	return 0;
}

static int create_sql(struct publish *p, const struct stable *s, struct buf *sql)
{
	PGresult *res;
	int rc = query(
		p, &res,
		"SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute "
		"WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped",
		1, &s->relation);
	if (rc != 0)
		return rc;
	buf_printf(sql, "CREATE OR REPLACE VIEW %s AS SELECT %s FROM %s", s->view,
		   PQgetvalue(res, 0, 0), s->relation);
	PQclear(res);
	return 0;
}

static int comment(struct publish *p, const char *what, const char *name, const char *text)
{
	struct buf sql = BUF_INIT;
	buf_printf(&sql, "COMMENT ON %s %s IS ", what, name);
	pgc_literal(&sql, text);
	int rc = run(p, &sql);
	buf_release(&sql);
	return rc;
}

/* What the project says of the model and its columns, where that changed. */
static int describe(struct publish *p, const struct stable *s)
{
	const struct model *md = s->model;
	PGresult *res;
	int rc = query(
		p, &res,
		"SELECT '', coalesce(obj_description($1::regclass, 'pg_class'), '') UNION ALL "
		"SELECT attname, coalesce(col_description(attrelid, attnum), '') FROM pg_attribute "
		"WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped",
		1, &s->view);
	if (rc != 0)
		return rc;
	for (int i = 0; rc == 0 && i < PQntuples(res); i++) {
		const char *name = PQgetvalue(res, i, 0), *has = PQgetvalue(res, i, 1),
			   *text = NULL;
		if (name[0] == '\0')
			text = md->description;
		for (size_t k = 0; name[0] != '\0' && k < md->column_count; k++)
			if (strcmp(md->column[k].name, name) == 0)
				text = md->column[k].description;
		if (text == NULL || text[0] == '\0' || strcmp(text, has) == 0)
			continue;
		struct buf column = BUF_INIT;
		buf_printf(&column, "%s.", s->view);
		pgc_ident(&column, name);
		rc = comment(p, name[0] == '\0' ? "VIEW" : "COLUMN",
			     name[0] == '\0' ? s->view : buf_cstr(&column), text);
		buf_release(&column);
	}
	PQclear(res);
	return rc;
}

/* A view reads with its owner's rights: one that was given away keeps working. */
static int let_owner_read(struct publish *p, const struct stable *s)
{
	PGresult *res = NULL;
	int rc = query(p, &res,
		       "SELECT quote_ident(r.rolname) FROM pg_class c JOIN pg_roles r ON r.oid = "
		       "c.relowner "
		       "WHERE c.oid = $1::regclass AND r.rolname <> current_user",
		       1, &s->view);
	if (rc == 0 && PQntuples(res) > 0) {
		const char *owner = PQgetvalue(res, 0, 0);
		rc = query(p, NULL,
			   arena_printf(p->a, "GRANT USAGE ON SCHEMA %s TO %s", s->run_schema,
					owner),
			   0, NULL);
		if (rc == 0)
			rc = query(p, NULL,
				   arena_printf(p->a, "GRANT SELECT ON %s TO %s", s->relation,
						owner),
				   0, NULL);
	}
	PQclear(res);
	return rc;
}

static int point_view(struct publish *p, const struct stable *s)
{
	enum standing standing;
	struct buf sql = BUF_INIT;
	FAILPOINT_FD(PUBLISH_VIEW, PQsocket(p->c));
	int rc = look_at_view(p, s, &standing);
	if (rc == 0 && standing == VIEW_FOREIGN)
		return rt_fail(p->err, ERR_PERMANENT,
			       "%s.%s is there and no view: a model's name is taken", s->schema,
			       s->name);
	if (rc == 0)
		rc = create_sql(p, s, &sql);
	if (rc == 0)
		rc = standing == VIEW_DIFFERS ? make_anew(p, s, &sql) : run(p, &sql);
	buf_release(&sql);
	if (rc == 0)
		rc = let_owner_read(p, s);
	return rc == 0 && s->model != NULL ? describe(p, s) : rc;
}

/* ---- the transaction ---- */

static int point_views(struct publish *p)
{
	PGresult *res;
	int rc = query(
		p, &res,
		"SELECT layer, name, relation_schema FROM rolag.model WHERE run_id = $1::uuid "
		"AND relation_schema IS NOT NULL AND layer <> 'seeds' ORDER BY layer COLLATE "
		"\"C\", name COLLATE \"C\"",
		1, &p->run);
	if (rc != 0)
		return rc;
	for (int i = 0; rc == 0 && i < PQntuples(res); i++) {
		struct stable s = {.schema = PQgetvalue(res, i, 0), .name = PQgetvalue(res, i, 1)};
		s.view = build_relation(p->a, s.schema, s.name);
		s.run_schema = PQgetvalue(res, i, 2);
		s.relation = build_relation(p->a, s.run_schema, s.name);
		s.model = models_find(p->o->project, s.name);
		if (i == 0 || strcmp(s.schema, PQgetvalue(res, i - 1, 0)) != 0)
			rc = ensure_schema(p, s.schema);
		if (rc == 0)
			rc = point_view(p, &s);
	}
	PQclear(res);
	return rc;
}

/* *ret: 1 it is published already, 0 not. */
static int is_published(struct publish *p, bool *ret)
{
	PGresult *res;
	int rc = query(p, &res,
		       "SELECT u.run_id IS NOT NULL FROM rolag.model_run r LEFT JOIN "
		       "rolag.model_publication u USING (run_id) WHERE r.run_id = $1::uuid FOR "
		       "UPDATE OF r",
		       1, &p->run);
	if (rc != 0)
		return rc;
	if (PQntuples(res) == 0)
		rc = rt_fail(p->err, ERR_PERMANENT, "run %s is not there: it was dropped", p->run);
	else
		*ret = strcmp(PQgetvalue(res, 0, 0), "t") == 0;
	PQclear(res);
	return rc;
}

static int publish_once(struct publish *p)
{
	bool done = false;
	p->locked_out = false;
	int rc = pgc_exec(
		p->c, NULL, p->err,
		"BEGIN; SET LOCAL lock_timeout = '%dms'; SET LOCAL search_path = pg_catalog; "
		"SET LOCAL statement_timeout = 0; SET LOCAL client_min_messages = error",
		LOCK_WAIT_MS);
	if (rc == 0)
		rc = is_published(p, &done);
	if (rc == 0 && !done)
		rc = point_views(p);
	if (rc == 0 && !done)
		rc = query(p, NULL,
			   "INSERT INTO rolag.model_publication (run_id) VALUES ($1::uuid)", 1,
			   &p->run);
	if (rc == 0 && p->o->with != NULL)
		rc = p->o->with(p->o->ctx, p->c, p->err);
	FAILPOINT_FD(PUBLISH_COMMIT, PQsocket(p->c));
	if (rc == 0)
		rc = pgc_exec(p->c, NULL, p->err, "COMMIT");
	FAILPOINT_FD(PUBLISH_COMMITTED, PQsocket(p->c));
	if (rc != 0 && PQstatus(p->c) == CONNECTION_OK) {
		struct rt_err ignored; /* the first error is the one to tell */
		(void)!pgc_exec(p->c, NULL, &ignored, "ROLLBACK");
	}
	return rc;
}

int build_publish(PGconn *c, const struct build_publish *o, struct rt_err *err)
{
	char hex[33];
	struct arena a;
	int64_t end = rt_mono_us() + o->s->models.publish_wait, pause = PAUSE_US;
	if (!build_run_hex(o->run_id, hex))
		return rt_fail(err, ERR_USAGE, "the run's id is no uuid");
	arena_init(&a, 64 << 10);
	struct publish p = {.c = c, .o = o, .a = &a, .run = hex, .err = err};
	int rc;
	while ((rc = publish_once(&p)) == ERR_RETRY && p.locked_out && rt_mono_us() + pause < end) {
		/* Others that waited behind us come first. */
		struct timespec t = {.tv_sec = pause / 1000000, .tv_nsec = pause % 1000000 * 1000};
		nanosleep(&t, NULL);
		pause = RT_MIN(pause * 2, INT64_C(2000000));
		arena_reset(&a);
	}
	if (rc == ERR_RETRY && p.locked_out)
		rc = rt_context(err, "the views are in use (models.publish_wait)");
	arena_release(&a);
	return rc;
}
