/* check_warehouse: control schema, position and landed tables. Reads only. */
#include <inttypes.h>

#include "apply/sql/migrate.h"
#include "cdc/commands/check.h"

static bool yes(const PGresult *res, int row, int column)
{
	return PQgetvalue(res, row, column)[0] == 't';
}

static void check_control(struct check *k, PGconn *c)
{
	struct rt_err err;
	if (control_read(c, k->s.pipeline, &k->control, &err) != 0) {
		check_error(k, "warehouse: control schema", &err);
		return;
	}
	const struct control_view *v = &k->control;
	if (v->version == 0)
		check_fail(k, "rolag init", "warehouse: there is no control schema rolag");
	else if (migrate_check(c, &err) != 0)
		check_error(k, "warehouse", &err);
	else
		check_ok(k, "warehouse: control schema rolag at version %d", v->version);
	if (v->version == 0)
		return;
	if (!v->has_fence || !v->has_ledger)
		check_fail(k, "rolag init", "warehouse: pipeline %s has no position yet",
			   k->s.pipeline);
	else
		check_ok(k, "warehouse: pipeline %s is at " LSN_FMT, k->s.pipeline,
			 LSN_ARGS(v->applied));
}

static void check_rights(struct check *k, PGconn *c)
{
	static const char *const needed[] = {"fence",  "ledger",     "fence_seen",	 "relation",
					     "repair", "quarantine", "quarantine_audit", "sync"};
	struct rt_err err;
	PGresult *res;
	int fails = k->fails;
	for (size_t i = 0; k->control.version > 0 && i < ARRAY_LEN(needed); i++) {
		int rc = pgc_query(c, &res, &err,
				   "SELECT has_table_privilege(t, 'SELECT') AND "
				   "has_table_privilege(t, 'INSERT') AND has_table_privilege(t, "
				   "'UPDATE') AND has_table_privilege(t, 'DELETE') FROM "
				   "(SELECT ('rolag.' || $1)::regclass::oid AS t) x",
				   1, &needed[i]);
		if (rc != 0) {
			check_error(k, "warehouse", &err);
			continue;
		}
		if (!yes(res, 0, 0))
			check_fail(k,
				   arena_printf(k->arena,
						"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL "
						"TABLES IN SCHEMA rolag TO \"%s\";",
						PQuser(c)),
				   "warehouse: the role may not write rolag.%s", needed[i]);
		PQclear(res);
	}
	if (k->control.version > 0 && k->fails == fails)
		check_ok(k, "warehouse: the role may write the control tables");
}

/* True when the role can look into the schema. */
static bool check_schema(struct check *k, PGconn *c)
{
	struct rt_err err;
	PGresult *res;
	const char *name = k->s.warehouse.schema;
	if (pgc_query(c, &res, &err,
		      "SELECT has_schema_privilege(oid, 'USAGE'), has_schema_privilege(oid, "
		      "'CREATE') FROM pg_catalog.pg_namespace WHERE nspname = $1",
		      1, &name) != 0) {
		check_error(k, "warehouse", &err);
		return false;
	}
	bool there = PQntuples(res) == 1, use = there && yes(res, 0, 0);
	bool create = there && yes(res, 0, 1);
	PQclear(res);
	if (!there)
		check_fail(k, "rolag init; where that may not: rolag init --print-sql warehouse",
			   "warehouse: there is no schema %s", name);
	else if (!use || !create)
		check_fail(k,
			   arena_printf(k->arena, "GRANT USAGE, CREATE ON SCHEMA \"%s\" TO \"%s\";",
					name, PQuser(c)),
			   "warehouse: the role may not make tables in schema %s", name);
	else
		check_ok(k, "warehouse: schema %s", name);
	return use;
}

/* ---- landed tables ---- */

static const char *reload_sql(struct check *k, const struct landed *l)
{
	return arena_printf(
		k->arena,
		"stop rolag apply; DROP TABLE IF EXISTS %s, %s; DELETE FROM "
		"rolag.relation WHERE pipeline = '%s' AND name = '%s'; then rolag init, "
		"and apply loads it anew",
		l->history, l->latest, k->s.pipeline, l->rollup->name);
}

/* Columns of one table against the definition; tells the first that does not fit. */
static bool columns_fit(struct check *k, const struct landed *l, const char *table,
			const PGresult *res)
{
	const struct rollup *r = l->rollup;
	static const char *const fixed[] = {"id",	  "version", "created_at",   "modified_at",
					    "event_type", "_lsn",    "_committed_at"};
	static const uint32_t fixed_oid[] = {0, OID_INT4,   OID_TIMESTAMPTZ, OID_TIMESTAMPTZ,
					     0, OID_PG_LSN, OID_TIMESTAMPTZ};
	for (size_t i = 0; i < r->column_count + ARRAY_LEN(fixed); i++) {
		bool own = i >= ARRAY_LEN(fixed);
		const struct rollup_column *col = own ? &r->column[i - ARRAY_LEN(fixed)] : NULL;
		const char *name = own ? col->name : fixed[i];
		uint32_t want = own ? pgt_oid(col->type) : fixed_oid[i];
		int at = 0;
		while (at < PQntuples(res) && strcmp(PQgetvalue(res, at, 0), name) != 0)
			at++;
		const char *is = at < PQntuples(res) ? PQgetvalue(res, at, 2) : NULL;
		if (is != NULL && (want == 0 || strtoul(PQgetvalue(res, at, 1), NULL, 10) == want))
			continue;
		check_fail(k, reload_sql(k, l), "landed %s: column %s is %s%s%s", table, name,
			   is != NULL ? is : "missing", is != NULL ? ", wanted is " : "",
			   is == NULL ? "" : (own ? pgt_name(col->type) : "another type"));
		return false;
	}
	return true;
}

/* What syncing, writing, repairing and taking back need. */
static void check_writing(struct check *k, PGconn *c, const char *table)
{
	struct rt_err err;
	PGresult *res;
	if (pgc_query(c, &res, &err,
		      "SELECT bool_and(has_table_privilege($1, p)) FROM unnest(ARRAY['SELECT', "
		      "'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) p",
		      1, &table) != 0) {
		check_error(k, table, &err);
		return;
	}
	if (!yes(res, 0, 0))
		check_fail(k,
			   arena_printf(k->arena,
					"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON %s TO "
					"\"%s\";",
					table, PQuser(c)),
			   "landed %s: the role may not write it", table);
	PQclear(res);
}

static void check_table(struct check *k, PGconn *c, const struct landed *l, const char *table)
{
	struct rt_err err;
	PGresult *res;
	if (pgc_query(c, &res, &err,
		      "SELECT attname, atttypid, format_type(atttypid, atttypmod) FROM "
		      "pg_catalog.pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 "
		      "AND NOT attisdropped",
		      1, &table) != 0) {
		check_error(k, table, &err);
		return;
	}
	if (PQntuples(res) == 0)
		check_fail(k, reload_sql(k, l), "landed %s: there is no such table", table);
	else if (columns_fit(k, l, table, res))
		check_writing(k, c, table);
	PQclear(res);
}

/* The row in rolag.relation: which definition made the rows, and in what state they are. */
static void check_relation(struct check *k, PGconn *c, const struct landed *l, int *syncing)
{
	struct rt_err err;
	PGresult *res;
	char mine[17];
	const char *params[] = {k->s.pipeline, l->rollup->name};
	if (pgc_query(c, &res, &err,
		      "SELECT state, coalesce(fingerprint, ''), coalesce(definition, 0) "
		      "FROM rolag.relation WHERE pipeline = $1 AND name = $2",
		      2, params) != 0) {
		check_error(k, l->rollup->name, &err);
		return;
	}
	snprintf(mine, sizeof(mine), "%016" PRIx64, l->rollup->fingerprint);
	if (PQntuples(res) == 0)
		check_fail(k, "rolag init", "landed %s: it was not made yet", l->rollup->name);
	else if (strcmp(PQgetvalue(res, 0, 1), mine) != 0)
		check_fail(k,
			   arena_printf(k->arena, "restore %s, or load anew: %s", l->rollup->file,
					reload_sql(k, l)),
			   "landed %s: its rows were made by another definition (number %s, the "
			   "file has %" PRId32 ")",
			   l->rollup->name, PQgetvalue(res, 0, 2), l->rollup->definition);
	else if (strcmp(PQgetvalue(res, 0, 0), "syncing") == 0)
		++*syncing;
	else if (strcmp(PQgetvalue(res, 0, 0), "live") != 0)
		check_warn(k, NULL, "landed %s: is %s", l->rollup->name, PQgetvalue(res, 0, 0));
	if (PQntuples(res) > 0) {
		check_table(k, c, l, l->history);
		check_table(k, c, l, l->latest);
	}
	PQclear(res);
}

static void check_landed(struct check *k, PGconn *c)
{
	int fails = k->fails, syncing = 0;
	for (uint16_t i = 0; i < k->landed.count; i++)
		check_relation(k, c, &k->landed.item[i], &syncing);
	if (syncing > 0)
		check_ok(k, "landed: %d rollups wait for their first load by apply", syncing);
	if (k->fails == fails)
		check_ok(k, "landed: the tables of %u rollups fit their definitions",
			 k->landed.count);
}

void check_warehouse(struct check *k, PGconn *c)
{
	check_control(k, c);
	check_rights(k, c);
	bool use = check_schema(k, c);
	if (use && k->has_landed && k->control.version > 0)
		check_landed(k, c);
}
