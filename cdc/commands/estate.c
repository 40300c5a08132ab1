/* estate: reads only. Guarantees: no lock beyond ACCESS SHARE on catalogs, nothing written. */
#include "cdc/commands/estate.h"

#include "apply/sql/migrate.h"

static bool is_true(const PGresult *res, int row, int column)
{
	return PQgetvalue(res, row, column)[0] == 't';
}

static int read_tables(PGconn *core, struct arena *a, const char *name,
		       struct publication_view *ret, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_query(
		core, &res, err,
		"SELECT t.schemaname, t.tablename, r.prattrs IS NOT NULL, r.prqual IS NOT NULL "
		"FROM pg_catalog.pg_publication_tables t "
		"JOIN pg_catalog.pg_publication p ON p.pubname = t.pubname "
		"JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname "
		"JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename "
		"LEFT JOIN pg_catalog.pg_publication_rel r "
		"ON r.prpubid = p.oid AND r.prrelid = c.oid WHERE t.pubname = $1 ORDER BY 1, 2",
		1, &name);
	if (rc != 0)
		return rc;
	int n = PQntuples(res);
	struct publication_table *t = arena_alloc(a, (size_t)n * sizeof(*t));
	for (int i = 0; i < n; i++)
		t[i] = (struct publication_table){arena_strdup(a, PQgetvalue(res, i, 0)),
						  arena_strdup(a, PQgetvalue(res, i, 1)),
						  is_true(res, i, 2), is_true(res, i, 3)};
	PQclear(res);
	ret->count = (size_t)n;
	ret->table = t;
	return 0;
}

int publication_read(PGconn *core, struct arena *a, const char *name, struct publication_view *ret,
		     struct rt_err *err)
{
	PGresult *res;
	struct publication_view p = {0};
	int rc = pgc_query(core, &res, err,
			   "SELECT puballtables, pubinsert, pubupdate, pubdelete, pubtruncate "
			   "FROM pg_catalog.pg_publication WHERE pubname = $1",
			   1, &name);
	if (rc != 0)
		return rc;
	if (PQntuples(res) == 1) {
		p = (struct publication_view){.exists = true,
					      .all_tables = is_true(res, 0, 0),
					      .inserts = is_true(res, 0, 1),
					      .updates = is_true(res, 0, 2),
					      .deletes = is_true(res, 0, 3),
					      .truncates = is_true(res, 0, 4)};
		rc = read_tables(core, a, name, &p, err);
	}
	PQclear(res);
	if (rc == 0)
		*ret = p;
	return rc;
}

const struct publication_table *publication_find(const struct publication_view *p,
						 const char *schema, const char *table)
{
	for (size_t i = 0; i < p->count; i++)
		if (strcmp(p->table[i].schema, schema) == 0 &&
		    strcmp(p->table[i].table, table) == 0)
			return &p->table[i];
	return NULL;
}

int slot_read(PGconn *core, struct arena *a, const char *name, struct slot_view *ret,
	      struct rt_err *err)
{
	PGresult *res;
	int rc =
		pgc_query(core, &res, err,
			  "SELECT plugin, database, wal_status, active, confirmed_flush_lsn, "
			  "greatest(0, pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() "
			  "THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, "
			  "restart_lsn)) FROM pg_catalog.pg_replication_slots WHERE slot_name = $1",
			  1, &name);
	if (rc != 0)
		return rc;
	*ret = (struct slot_view){0};
	if (PQntuples(res) == 1)
		*ret = (struct slot_view){
			.exists = true,
			.plugin = arena_strdup(a, PQgetvalue(res, 0, 0)),
			.database = arena_strdup(a, PQgetvalue(res, 0, 1)),
			.wal_status = arena_strdup(a, PQgetvalue(res, 0, 2)),
			.active = is_true(res, 0, 3),
			.confirmed = pgc_get_lsn(res, 0, 4),
			.retained_bytes = strtoull(PQgetvalue(res, 0, 5), NULL, 10),
		};
	PQclear(res);
	return 0;
}

int control_read(PGconn *warehouse, const char *pipeline, struct control_view *ret,
		 struct rt_err *err)
{
	PGresult *res;
	struct control_view v = {0};
	int rc = migrate_version(warehouse, &v.version, err);
	if (rc != 0 || v.version == 0) {
		if (rc == 0)
			*ret = v;
		return rc;
	}
	rc = pgc_query(warehouse, &res, err,
		       "SELECT f.pipeline IS NOT NULL, coalesce(f.core_system_id, ''), "
		       "l.applied_lsn, l.timeline FROM (SELECT $1::text AS pipeline) p "
		       "LEFT JOIN rolag.fence f USING (pipeline) "
		       "LEFT JOIN LATERAL (SELECT applied_lsn, timeline FROM rolag.ledger "
		       "WHERE pipeline = $1 ORDER BY applied_lsn DESC LIMIT 1) l ON true",
		       1, &pipeline);
	if (rc != 0)
		return rc;
	v.has_fence = is_true(res, 0, 0);
	snprintf(v.core_system_id, sizeof(v.core_system_id), "%s", PQgetvalue(res, 0, 1));
	v.has_ledger = !PQgetisnull(res, 0, 2);
	v.applied = pgc_get_lsn(res, 0, 2);
	v.timeline = (uint32_t)strtoul(PQgetvalue(res, 0, 3), NULL, 10);
	PQclear(res);
	*ret = v;
	return 0;
}

int estate_text(PGconn *c, struct arena *a, const char **ret, struct rt_err *err, const char *sql,
		int count, const char *const *params)
{
	PGresult *res;
	int rc = pgc_query(c, &res, err, sql, count, params);
	if (rc != 0)
		return rc;
	*ret = PQntuples(res) == 0 || PQgetisnull(res, 0, 0)
		       ? NULL
		       : arena_strdup(a, PQgetvalue(res, 0, 0));
	PQclear(res);
	return 0;
}

void estate_table(struct buf *b, const char *schema, const char *table)
{
	pgc_ident(b, schema);
	buf_u8(b, '.');
	pgc_ident(b, table);
}
