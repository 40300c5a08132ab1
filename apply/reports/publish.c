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

enum standing { VIEW_MISSING, VIEW_SAME, VIEW_FITS, VIEW_DIFFERS, VIEW_FOREIGN };

struct stable {
	const char *schema, *name;
	const char *view;	   /* quoted */
	const char *run_schema;	   /* where that is which it is to show … */
	const char *relation;	   /* … and that, quoted */
	const char *columns;	   /* of the relation, quoted, as a list */
	const char *owner;	   /* of the view, quoted; NULL: we */
	const struct model *model; /* NULL: the project has it no more */
	enum standing standing;
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

static int make_anew(struct publish *p, const struct stable *s, const char *create)
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
		rc = query(p, NULL, create, 0, NULL);
	for (int i = 0; rc == 0 && i < PQntuples(manner); i++)
		rc = query(p, NULL, PQgetvalue(manner, i, 1), 0, NULL);
	PQclear(manner);
	return rc;
}

/* ---- what is there ---- */

/*
 * SAME: the view is what we would make of it (a word of the server's spelling
 * apart, it is made again). FITS: CREATE OR REPLACE can do it: its columns are
 * the first ones of the new relation.
 */
static const char look_sql[] =
	"SELECT c.relkind, regexp_replace(pg_get_viewdef(c.oid), '\\s+', ' ', 'g') IN "
	"(regexp_replace(format(' SELECT %s FROM %s;', a.plain, w.oid), '\\s+', ' ', 'g'), "
	"regexp_replace(format(' SELECT %s FROM %s;', a.qualified, w.oid), '\\s+', ' ', 'g')), "
	"NOT EXISTS (SELECT FROM pg_attribute o LEFT JOIN pg_attribute n ON n.attrelid = w.oid AND "
	"n.attnum > 0 AND NOT n.attisdropped AND n.attnum = o.attnum AND n.attname = o.attname AND "
	"n.atttypid = o.atttypid AND n.atttypmod = o.atttypmod AND n.attcollation = o.attcollation "
	"WHERE o.attrelid = c.oid AND o.attnum > 0 AND NOT o.attisdropped AND n.attnum IS NULL), "
	"a.plain, CASE WHEN r.rolname <> current_user THEN quote_ident(r.rolname) END "
	"FROM (SELECT schema, name, relation::regclass AS oid, n FROM unnest($1::text[], "
	"$2::text[], $3::text[]) WITH ORDINALITY AS x(schema, name, relation, n)) w "
	"CROSS JOIN LATERAL (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) AS "
	"plain, "
	"string_agg(format('%I.%I', w.name, attname), ', ' ORDER BY attnum) AS qualified FROM "
	"pg_attribute WHERE attrelid = w.oid AND attnum > 0 AND NOT attisdropped) a "
	"LEFT JOIN (pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace) ON s.nspname = "
	"w.schema "
	"AND c.relname = w.name LEFT JOIN pg_roles r ON r.oid = c.relowner ORDER BY w.n";

static void take_look(struct publish *p, struct stable *s, const PGresult *res, int row)
{
	const char *kind = PQgetvalue(res, row, 0);
	s->standing = PQgetisnull(res, row, 0)			  ? VIEW_MISSING
		      : kind[0] != 'v'				  ? VIEW_FOREIGN
		      : strcmp(PQgetvalue(res, row, 1), "t") == 0 ? VIEW_SAME
		      : strcmp(PQgetvalue(res, row, 2), "t") == 0 ? VIEW_FITS
								  : VIEW_DIFFERS;
	s->columns = arena_strdup(p->a, PQgetvalue(res, row, 3));
	s->owner = PQgetisnull(res, row, 4) ? NULL : arena_strdup(p->a, PQgetvalue(res, row, 4));
}

static int look_at_views(struct publish *p, struct stable *view, size_t count)
{
	enum { SCHEMA, NAME, RELATION, COLUMNS };
	struct buf column[COLUMNS] = {BUF_INIT};
	const char *params[COLUMNS];
	PGresult *res;
	for (int i = 0; i < COLUMNS; i++)
		buf_str(&column[i], "{");
	for (size_t i = 0; i < count; i++) {
		build_array_add(&column[SCHEMA], view[i].schema);
		build_array_add(&column[NAME], view[i].name);
		build_array_add(&column[RELATION], view[i].relation);
	}
	for (int i = 0; i < COLUMNS; i++)
		params[i] = build_array_end(&column[i]);
	int rc = query(p, &res, look_sql, COLUMNS, params);
	for (int i = 0; i < COLUMNS; i++)
		buf_release(&column[i]);
	if (rc != 0)
		return rc;
	for (size_t i = 0; i < count; i++)
		take_look(p, &view[i], res, (int)i);
	PQclear(res);
	return 0;
}

/* ---- comments ---- */

/* What the project says of models and columns, where the views say something else. */
static int find_comments(struct publish *p, const struct stable *view, size_t count, PGresult **ret)
{
	enum { VIEW, COLUMN, TEXT, COLUMNS };
	struct buf list[COLUMNS] = {BUF_INIT};
	const char *params[COLUMNS];
	for (int i = 0; i < COLUMNS; i++)
		buf_str(&list[i], "{");
	for (size_t i = 0; i < count; i++) {
		const struct model *md = view[i].model;
		for (size_t k = 0; md != NULL && k <= md->column_count; k++) {
			const char *column = k > 0 ? md->column[k - 1].name : "";
			const char *text = k > 0 ? md->column[k - 1].description : md->description;
			if (text == NULL || text[0] == '\0')
				continue;
			build_array_add(&list[VIEW], view[i].view);
			build_array_add(&list[COLUMN], column);
			build_array_add(&list[TEXT], text);
		}
	}
	for (int i = 0; i < COLUMNS; i++)
		params[i] = build_array_end(&list[i]);
	int rc = query(
		p, ret,
		"SELECT CASE w.col WHEN '' THEN format('COMMENT ON VIEW %s IS %L', w.view, w.said) "
		"ELSE format('COMMENT ON COLUMN %s.%I IS %L', w.view, w.col, w.said) END FROM "
		"(SELECT view, view::regclass AS oid, col, said FROM unnest($1::text[], "
		"$2::text[], "
		"$3::text[]) AS x(view, col, said)) w LEFT JOIN pg_attribute a ON a.attrelid = "
		"w.oid AND a.attname = w.col AND a.attnum > 0 LEFT JOIN pg_description d ON "
		"d.objoid = w.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid = "
		"coalesce(a.attnum, 0) WHERE (w.col = '' OR a.attnum IS NOT NULL) AND "
		"d.description IS DISTINCT FROM w.said",
		COLUMNS, params);
	for (int i = 0; i < COLUMNS; i++)
		buf_release(&list[i]);
	return rc;
}

static int describe(struct publish *p, const struct stable *view, size_t count)
{
	PGresult *res;
	int rc = find_comments(p, view, count, &res);
	if (rc != 0)
		return rc;
	for (int i = 0; rc == 0 && i < PQntuples(res); i++)
		rc = query(p, NULL, PQgetvalue(res, i, 0), 0, NULL);
	PQclear(res);
	return rc;
}

/* ---- one view ---- */

/* A view reads with its owner's rights: one that was given away keeps working. */
static int let_owner_read(struct publish *p, const struct stable *s)
{
	if (s->owner == NULL)
		return 0;
	int rc =
		query(p, NULL,
		      arena_printf(p->a, "GRANT USAGE ON SCHEMA %s TO %s", s->run_schema, s->owner),
		      0, NULL);
	return rc == 0 ? query(p, NULL,
			       arena_printf(p->a, "GRANT SELECT ON %s TO %s", s->relation,
					    s->owner),
			       0, NULL)
		       : rc;
}

static int point_view(struct publish *p, const struct stable *s)
{
	FAILPOINT_FD(PUBLISH_VIEW, PQsocket(p->c));
	if (s->standing == VIEW_SAME)
		return let_owner_read(p, s); /* it may have been given away since */
	if (s->standing == VIEW_FOREIGN)
		return rt_fail(p->err, ERR_PERMANENT,
			       "%s.%s is there and no view: a model's name is taken", s->schema,
			       s->name);
	const char *sql = arena_printf(p->a, "CREATE OR REPLACE VIEW %s AS SELECT %s FROM %s",
				       s->view, s->columns, s->relation);
	int rc = s->standing == VIEW_DIFFERS ? make_anew(p, s, sql) : query(p, NULL, sql, 0, NULL);
	return rc == 0 ? let_owner_read(p, s) : rc;
}

/* ---- the transaction ---- */

/* In the order of their names, so that two who publish do not wait for each other. */
static int list_views(struct publish *p, struct stable **ret, size_t *ret_count)
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
	*ret_count = (size_t)PQntuples(res);
	*ret = arena_zalloc(p->a, (*ret_count + 1) * sizeof(**ret));
	for (size_t i = 0; i < *ret_count; i++) {
		struct stable *s = &(*ret)[i];
		s->schema = arena_strdup(p->a, PQgetvalue(res, (int)i, 0));
		s->name = arena_strdup(p->a, PQgetvalue(res, (int)i, 1));
		s->run_schema = arena_strdup(p->a, PQgetvalue(res, (int)i, 2));
		s->view = build_relation(p->a, s->schema, s->name);
		s->relation = build_relation(p->a, s->run_schema, s->name);
		s->model = models_find(p->o->project, s->name);
	}
	PQclear(res);
	return 0;
}

static int point_views(struct publish *p)
{
	struct stable *view;
	size_t count;
	int rc = list_views(p, &view, &count);
	for (size_t i = 0; rc == 0 && i < count; i++)
		if (i == 0 || strcmp(view[i].schema, view[i - 1].schema) != 0)
			rc = ensure_schema(p, view[i].schema);
	if (rc == 0)
		rc = look_at_views(p, view, count);
	for (size_t i = 0; rc == 0 && i < count; i++)
		rc = point_view(p, &view[i]);
	return rc == 0 ? describe(p, view, count) : rc;
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
