/*
 * check_reports: definitions, schedules, folder, and what the companion's
 * roles may do in both databases. Reads only.
 */
#include "apply/reports/build.h"
#include "apply/reports/runs.h"
#include "apply/reports/schedule.h"
#include "cdc/commands/check.h"
#include "cdc/commands/companion.h"

static bool yes(const PGresult *res, int column)
{
	return PQntuples(res) > 0 && PQgetvalue(res, 0, column)[0] == 't';
}

/* ---- files ---- */

static void check_files(struct check *k, struct models *project)
{
	struct report_pack pack;
	struct schedule_set set = {0};
	struct rt_err err;
	int fails = k->fails;
	if (runs_pack(&k->s, k->arena, &pack, NULL, NULL, &err) != 0) {
		check_error(k, "reports", &err);
		return;
	}
	for (size_t i = 0; project != NULL && i < pack.count; i++) {
		const struct report *r = &pack.report[i];
		if (r->model != NULL && models_find(project, r->model) == NULL)
			check_fail(k,
				   arena_printf(k->arena, "a model %s, or another one in %s",
						r->model, k->s.reports.definitions),
				   "reports: %s is written from the model %s, which is not in %s",
				   r->id, r->model, k->s.models.path);
	}
	if (project == NULL && k->s.reports.build[0] == '\0')
		check_fail(k, "models.path, or reports.build",
			   "reports: nothing builds the models of reports");
	if (schedule_read(&k->s, &pack, k->arena, &set, &err) != 0)
		check_error(k, "reports", &err);
	if (k->fails == fails)
		check_ok(k, "reports: %zu definitions, %zu schedules", pack.count, set.count);
	schedule_release(&set);
}

/* ---- the warehouse ---- */

static void check_control(struct check *k, PGconn *c)
{
	struct rt_err err;
	PGresult *res;
	int fails = k->fails;
	for (size_t i = 0; i < companion_right_count; i++) {
		const struct companion_right *r = &companion_rights[i];
		const char *params[] = {r->table, r->verbs};
		if (pgc_query(c, &res, &err,
			      "SELECT to_regclass('rolag.' || $1) IS NOT NULL, CASE WHEN "
			      "has_schema_privilege('rolag', 'USAGE') THEN (SELECT "
			      "bool_and(has_table_privilege(to_regclass('rolag.' || $1), v)) FROM "
			      "regexp_split_to_table($2, ', ') v) ELSE false END",
			      2, params) != 0) {
			check_error(k, "reports", &err);
			return;
		}
		if (!yes(res, 1))
			check_fail(k,
				   arena_printf(k->arena,
						"rolag init; or: GRANT USAGE ON SCHEMA rolag TO "
						"\"%s\"; GRANT %s ON rolag.%s TO \"%s\";",
						PQuser(c), r->verbs, r->table, PQuser(c)),
				   "reports: the companion's role may not do what it must with "
				   "rolag.%s (%s)",
				   r->table, r->verbs);
		PQclear(res);
	}
	if (k->fails == fails)
		check_ok(k, "reports: the companion's role %s may use its control tables",
			 PQuser(c));
}

/* One look with a yes or no. */
static void ask(struct check *k, PGconn *c, const char *sql, const char *param, const char *good,
		const char *bad, const char *mend)
{
	struct rt_err err;
	PGresult *res;
	if (pgc_query(c, &res, &err, sql, param != NULL ? 1 : 0, &param) != 0) {
		check_error(k, "reports", &err);
		return;
	}
	if (yes(res, 0))
		check_ok(k, "reports: %s", good);
	else
		check_fail(k, mend, "reports: %s", bad);
	PQclear(res);
}

static void check_reading(struct check *k, PGconn *c)
{
	const char *schema = k->s.warehouse.schema;
	ask(k, c,
	    "SELECT has_schema_privilege(n.oid, 'USAGE') AND NOT EXISTS (SELECT FROM pg_class c "
	    "WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p') AND NOT "
	    "has_table_privilege(c.oid, 'SELECT')) FROM pg_namespace n WHERE n.nspname = $1",
	    schema, "the companion's role may read what is landed",
	    "the companion's role may not read all landed tables",
	    arena_printf(k->arena,
			 "rolag init; or: GRANT USAGE ON SCHEMA \"%s\" TO \"%s\"; GRANT SELECT ON "
			 "ALL TABLES IN SCHEMA \"%s\" TO \"%s\";",
			 schema, PQuser(c), schema, PQuser(c)));
}

static void check_showing(struct check *k, PGconn *c)
{
	ask(k, c, "SELECT has_database_privilege(current_database(), 'CREATE')", NULL,
	    "the companion's role may make the schemas of runs",
	    "the companion's role may not make the schemas of runs",
	    arena_printf(k->arena, "GRANT CREATE ON DATABASE \"%s\" TO \"%s\";", PQdb(c),
			 PQuser(c)));
	ask(k, c,
	    "SELECT NOT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname IN ('staging', "
	    "'intermediate', 'outputs') AND NOT (has_schema_privilege(n.oid, 'CREATE') AND "
	    "has_schema_privilege(n.oid, 'USAGE')))",
	    NULL, "it may show models in staging, intermediate and outputs",
	    "it may not make views in one of the schemas staging, intermediate, outputs",
	    arena_printf(k->arena,
			 "GRANT USAGE, CREATE ON SCHEMA staging, intermediate, outputs TO \"%s\"; "
			 "(or those of them that are there)",
			 PQuser(c)));
}

/* Tables that somebody else fills; one that is not there is taken as empty, and that is the build's to tell. */
static void check_outside(struct check *k, PGconn *c, const struct models *project)
{
	struct rt_err err;
	PGresult *res;
	for (size_t i = 0; i < project->source_count; i++) {
		const struct model_source *s = &project->source[i];
		const char *params[] = {s->schema, s->identifier};
		if (s->landed)
			continue;
		if (pgc_query(c, &res, &err,
			      "SELECT has_schema_privilege(n.oid, 'USAGE') AND "
			      "has_table_privilege(c.oid, 'SELECT') FROM pg_class c JOIN "
			      "pg_namespace "
			      "n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
			      2, params) != 0) {
			check_error(k, "reports", &err);
			return;
		}
		if (PQntuples(res) == 0)
			check_warn(k, "the script that makes it (of the Lana pack: ext.sql)",
				   "reports: the source %s.%s is not there, and taken as empty",
				   s->schema, s->identifier);
		else if (!yes(res, 0))
			check_fail(
				k,
				arena_printf(k->arena,
					     "GRANT USAGE ON SCHEMA \"%s\" TO \"%s\"; GRANT SELECT "
					     "ON \"%s\".\"%s\" TO \"%s\";",
					     s->schema, PQuser(c), s->schema, s->identifier,
					     PQuser(c)),
				"reports: the companion's role may not read the source %s.%s",
				s->schema, s->identifier);
		else
			check_ok(k, "reports: the source %s.%s can be read", s->schema,
				 s->identifier);
		PQclear(res);
	}
}

static void check_in_warehouse(struct check *k, const struct models *project)
{
	PGconn *c = check_connect(k, "reports.connect", k->s.reports.connect);
	if (c == NULL)
		return;
	check_control(k, c);
	check_reading(k, c);
	check_showing(k, c);
	if (project != NULL)
		check_outside(k, c, project);
	pgc_close(c);
}

/* ---- the core ---- */

static void check_fence(struct check *k)
{
	PGconn *c = check_connect(k, "reports.core_connect", k->s.reports.core_connect);
	if (c == NULL)
		return;
	ask(k, c,
	    "SELECT has_function_privilege('pg_catalog.pg_logical_emit_message(boolean, text, "
	    "text)', 'EXECUTE')",
	    NULL, "the fence can be sent through the core",
	    "the companion's role in the core may not send the fence",
	    arena_printf(
		    k->arena,
		    "GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) TO "
		    "\"%s\";",
		    PQuser(c)));
	ask(k, c, "SELECT NOT pg_is_in_recovery()", NULL, "and it is the primary that it goes to",
	    "reports.core_connect leads to a standby, where no fence can be written",
	    "target_session_attrs=primary in reports.core_connect");
	pgc_close(c);
}

void check_reports(struct check *k)
{
	struct models *project = NULL;
	struct rt_err err;
	if (k->s.reports.definitions[0] == '\0')
		return;
	/* Where it cannot be read, check_models has said so. */
	if (k->s.models.path[0] != '\0' &&
	    build_read_project(k->arena, k->s.models.path, &project, &err) != 0)
		project = NULL;
	check_files(k, project);
	check_folder(k, "reports.target", k->s.reports.target, 0007);
	check_inside(k, "reports.target", k->s.reports.target, true, 0007);
	check_in_warehouse(k, project);
	check_fence(k);
}
