/* check_core: what the core must offer. Reads only, and no lock beyond what reading a catalog takes. */
#include <inttypes.h>

#include "cdc/commands/check.h"
#include "cdc/commands/init.h"

/* Runs a query of one row; NULL (told) when it failed. */
static PGresult *ask(struct check *k, PGconn *c, const char *what, const char *sql, int count,
		     const char *const *params)
{
	struct rt_err err;
	PGresult *res;
	if (pgc_query(c, &res, &err, sql, count, params) == 0)
		return res;
	check_error(k, what, &err);
	return NULL;
}

static int64_t number(const PGresult *res, int column)
{
	return strtoll(PQgetvalue(res, 0, column), NULL, 10);
}

static bool yes(const PGresult *res, int column)
{
	return PQgetvalue(res, 0, column)[0] == 't';
}

/*
 * "used of max" of something that the core has a fixed number of: `need` of it
 * must be free (one for a load), and one for each of sync.workers had better be.
 */
static void check_room(struct check *k, const char *setting, int64_t used, int64_t max,
		       int64_t need)
{
	const int64_t spare = max - used, all = need - 1 + RT_MAX(k->s.sync.workers, 1);
	const char *mend =
		arena_printf(k->arena, "ALTER SYSTEM SET %s = %" PRId64 "; then restart the core",
			     setting, used + all);
	if (spare < need)
		check_fail(k, mend,
			   "core: %s = %" PRId64 ", %" PRId64 " in use; we need %" PRId64
			   " more (one to spare, for loads)",
			   setting, max, used, need);
	else if (spare < all)
		check_warn(k, mend,
			   "core: %s = %" PRId64 ", %" PRId64 " in use; with less than %" PRId64
			   " more, the loads of sync.workers (%" PRId64 ") begin one by one",
			   setting, max, used, all, k->s.sync.workers);
	else
		check_ok(k, "core: %s = %" PRId64 ", %" PRId64 " in use", setting, max, used);
}

static void check_keep_size(struct check *k, int64_t keep_mb)
{
	uint64_t budget_mb = k->s.capture.wal_budget >> 20;
	const char *mend =
		arena_printf(k->arena,
			     "ALTER SYSTEM SET max_slot_wal_keep_size = '%" PRIu64
			     "MB'; SELECT pg_reload_conf(); (what the core's disk can spare)",
			     RT_MAX(budget_mb * 4, UINT64_C(16384)));
	if (keep_mb < 0 && !k->s.capture.allow_unlimited_wal)
		check_fail(k, mend,
			   "core: max_slot_wal_keep_size = -1: a slot that nobody reads fills the "
			   "core's disk");
	else if (keep_mb < 0)
		check_ok(k, "core: max_slot_wal_keep_size = -1, accepted by "
			    "capture.allow_unlimited_wal");
	else if ((uint64_t)keep_mb <= budget_mb)
		check_warn(k, mend,
			   "core: max_slot_wal_keep_size = %" PRId64
			   " MB is not above capture.wal_budget (%" PRIu64
			   " MB): the slot would be lost before the spool takes over",
			   keep_mb, budget_mb);
	else
		check_ok(k, "core: max_slot_wal_keep_size = %" PRId64 " MB", keep_mb);
}

static void check_server(struct check *k, PGconn *core)
{
	PGresult *res = ask(k, core, "core",
			    "SELECT current_setting('wal_level'), pg_is_in_recovery(), "
			    "current_setting('max_replication_slots')::int, "
			    "(SELECT count(*) FROM pg_catalog.pg_replication_slots), "
			    "current_setting('max_wal_senders')::int, "
			    "(SELECT count(*) FROM pg_catalog.pg_stat_replication), "
			    "(SELECT setting::int FROM pg_catalog.pg_settings "
			    "WHERE name = 'max_slot_wal_keep_size')",
			    0, NULL);
	if (res == NULL)
		return;
	const char *level = PQgetvalue(res, 0, 0);
	if (strcmp(level, "logical") == 0)
		check_ok(k, "core: wal_level = logical");
	else
		check_fail(k, "ALTER SYSTEM SET wal_level = logical; then restart the core",
			   "core: wal_level = %s", level);
	if (yes(res, 1))
		check_fail(k, "core.connect to the primary",
			   "core: this is a standby, which cannot hold our slot");
	check_room(k, "max_replication_slots", number(res, 3), number(res, 2),
		   k->slot.exists ? 1 : 2);
	check_room(k, "max_wal_senders", number(res, 5), number(res, 4), k->slot.active ? 1 : 2);
	check_keep_size(k, number(res, 6));
	PQclear(res);
}

/* The replication right, and whether pg_hba.conf lets us use it; who: whose connection it is. */
static void check_replication(struct check *k, PGconn *core, const char *who, const char *conninfo)
{
	struct rt_err err;
	PGresult *res = ask(k, core, who,
			    "SELECT rolreplication OR rolsuper, has_function_privilege("
			    "'pg_logical_emit_message(boolean, text, text)', 'EXECUTE') "
			    "FROM pg_catalog.pg_roles WHERE rolname = current_user",
			    0, NULL);
	if (res == NULL)
		return;
	bool may = yes(res, 0), beats = yes(res, 1);
	PQclear(res);
	if (!beats)
		check_fail(k,
			   arena_printf(k->arena,
					"GRANT EXECUTE ON FUNCTION pg_logical_emit_message("
					"boolean, text, text) TO \"%s\";",
					PQuser(core)),
			   "%s: the role may not send the heartbeat", who);
	if (!may) {
		check_fail(k,
			   arena_printf(k->arena, "ALTER ROLE \"%s\" REPLICATION;", PQuser(core)),
			   "%s: the role %s has no REPLICATION right", who, PQuser(core));
		return;
	}
	PGconn *c = NULL;
	struct pgc_options o = {.what = who,
				.conninfo = conninfo,
				.application_name = "rolag check",
				.replication = true};
	if (pgc_connect(&c, &o, &err) != 0 || pgc_identify_system(c, &k->system, &err) != 0)
		check_error(k, arena_printf(k->arena, "%s: replication connection", who), &err);
	else
		check_ok(k,
			 "%s: replication connection, system identifier %" PRIu64 ", timeline %u",
			 who, k->system.system_id, k->system.timeline);
	pgc_close(c);
}

/* Where capture has a connection string of its own: its role is another one. */
static void check_capture(struct check *k)
{
	if (strcmp(k->s.capture.connect, k->s.core.connect) == 0)
		return;
	PGconn *c = check_connect(k, "capture.connect", k->s.capture.connect);
	if (c == NULL)
		return;
	const uint64_t core = k->system.system_id;
	check_replication(k, c, "capture.connect", k->s.capture.connect);
	if (core != 0 && k->system.system_id != core)
		check_fail(k, "capture.connect to the same server as core.connect",
			   "capture.connect: it leads to another server than core.connect");
	pgc_close(c);
}

/* "ALTER PUBLICATION p ADD TABLE a, b" or "… SET TABLE" all of them. */
static const char *publication_sql(struct check *k, const struct publication_view *p, bool all)
{
	struct buf b = BUF_INIT;
	buf_str(&b, "ALTER PUBLICATION ");
	pgc_ident(&b, k->publication);
	buf_str(&b, all ? " SET TABLE " : " ADD TABLE ");
	const char *between = "";
	for (uint16_t i = 0; i < k->landed.count; i++) {
		const struct rollup *r = k->landed.item[i].rollup;
		bool there = publication_find(p, r->source_schema, r->source_table) != NULL;
		if ((there && !all) || !init_is_first_of_source(&k->landed, i))
			continue;
		buf_str(&b, between);
		estate_table(&b, r->source_schema, r->source_table);
		between = ", ";
	}
	const char *sql = arena_printf(k->arena, "%s; (by the tables' owner)", buf_cstr(&b));
	buf_release(&b);
	return sql;
}

static void check_publication_tables(struct check *k, const struct publication_view *p)
{
	int fails = k->fails;
	int missing = 0, narrowed = 0;
	for (uint16_t i = 0; i < k->landed.count; i++) {
		const struct rollup *r = k->landed.item[i].rollup;
		const struct publication_table *t =
			publication_find(p, r->source_schema, r->source_table);
		missing += t == NULL && init_is_first_of_source(&k->landed, i);
		narrowed += t != NULL && (t->has_columns || t->has_filter);
	}
	if (missing > 0)
		check_fail(k, publication_sql(k, p, false),
			   "publication %s: %d of the tables that rollups read are not in it",
			   k->publication, missing);
	if (narrowed > 0)
		check_fail(k, publication_sql(k, p, true),
			   "publication %s: %d tables have a column list or a row filter",
			   k->publication, narrowed);
	for (size_t i = 0; i < p->count; i++)
		if (!init_is_source(&k->landed, &p->table[i]) &&
		    mirror_find(&k->mirrors, p->table[i].schema, p->table[i].table) < 0)
			check_warn(k,
				   p->all_tables
					   ? NULL
					   : arena_printf(k->arena,
							  "ALTER PUBLICATION \"%s\" DROP TABLE "
							  "\"%s\".\"%s\"; (by its owner)",
							  k->publication, p->table[i].schema,
							  p->table[i].table),
				   "publication %s: %s.%s is read by no rollup, and no mirror of "
				   "inserts only",
				   k->publication, p->table[i].schema, p->table[i].table);
	if (k->fails == fails)
		check_ok(k, "publication %s: has the tables of all %u rollups", k->publication,
			 k->landed.count);
}

static void check_publication(struct check *k, PGconn *core)
{
	struct rt_err err;
	struct publication_view p;
	if (publication_read(core, k->arena, k->publication, &p, &err) != 0) {
		check_error(k, "publication", &err);
		return;
	}
	if (!p.exists && k->slot.exists) {
		check_fail(
			k,
			k->s.capture.on_lost_slot == LOST_SLOT_RESYNC
				? "rolag init, which makes it again; capture then makes a new "
				  "slot, and "
				  "apply syncs what is missing"
				: arena_printf(
					  k->arena,
					  "SELECT pg_drop_replication_slot('%s'); then rolag init, "
					  "or where the warehouse holds rows: " MEND_LOAD_ANEW,
					  k->s.core.slot),
			"publication %s: it is gone, and what the core wrote since can never be "
			"decoded through the slot",
			k->publication);
		return;
	}
	if (!p.exists) {
		check_fail(k, "rolag init; where that may not: rolag init --print-sql core",
			   "publication %s: there is none", k->publication);
		return;
	}
	if (!p.inserts || !p.truncates || p.updates || p.deletes)
		check_fail(k,
			   arena_printf(k->arena,
					"ALTER PUBLICATION \"%s\" SET (publish = 'insert, "
					"truncate'); (by its owner)",
					k->publication),
			   "publication %s: must publish insert and truncate, and nothing else",
			   k->publication);
	if (k->has_landed)
		check_publication_tables(k, &p);
}

static void check_slot(struct check *k, PGconn *core)
{
	const struct slot_view *v = &k->slot;
	const char *name = k->s.core.slot;
	const char *drop =
		k->s.capture.on_lost_slot == LOST_SLOT_RESYNC
			? "start rolag capture: it makes a new one, and apply syncs what is missing"
			: arena_printf(
				  k->arena,
				  "SELECT pg_drop_replication_slot('%s'); then " MEND_LOAD_ANEW,
				  name);
	if (!v->exists) {
		check_fail(k, "rolag init", "slot %s: there is none", name);
		return;
	}
	if (strcmp(v->plugin, "pgoutput") != 0 || strcmp(v->database, PQdb(core)) != 0) {
		check_fail(k, "another core.slot",
			   "slot %s: is of plugin %s and database %s, not pgoutput and %s", name,
			   v->plugin, v->database, PQdb(core));
		return;
	}
	if (strcmp(v->wal_status, "lost") == 0)
		check_fail(k, drop, "slot %s: the core has thrown away WAL that it needed", name);
	else if (strcmp(v->wal_status, "unreserved") == 0)
		check_fail(k, "start rolag capture, or raise max_slot_wal_keep_size, at once",
			   "slot %s: the core will throw away WAL that it needs", name);
	else
		check_ok(k, "slot %s: confirmed " LSN_FMT ", keeps %" PRIu64 " MB of WAL%s", name,
			 LSN_ARGS(v->confirmed), v->retained_bytes >> 20,
			 v->active ? ", in use" : "");
}

void check_core(struct check *k, PGconn *core)
{
	struct rt_err err;
	bool known = slot_read(core, k->arena, k->s.core.slot, &k->slot, &err) == 0;
	if (!known)
		check_error(k, "slot", &err);
	check_server(k, core);
	check_replication(k, core, "core", k->s.core.connect);
	check_capture(k);
	check_publication(k, core);
	if (known)
		check_slot(k, core);
}

/* ---- the tables that rollups read ---- */

enum { FITS_ID, FITS_NUMBER, FITS_TEXT, FITS_JSON, FITS_TIME };

static bool fits(int role, const struct rollup *r, uint32_t oid)
{
	switch (role) {
	case FITS_ID:
		if (r->id_type == PGT_TEXT || r->id_type == PGT_VARCHAR)
			return oid == OID_TEXT || oid == OID_VARCHAR;
		return oid == pgt_oid((struct pgt_type){r->id_type, false});
	case FITS_NUMBER:
		return oid == OID_INT2 || oid == OID_INT4 || oid == OID_INT8;
	case FITS_TEXT:
		return oid == OID_TEXT || oid == OID_VARCHAR;
	case FITS_JSON:
		return oid == OID_JSONB || oid == OID_JSON;
	default:
		return oid == OID_TIMESTAMPTZ;
	}
}

/* One column of a source; tells what does not fit. */
static void check_column(struct check *k, PGconn *core, const struct rollup *r, const char *table,
			 const char *column, int role)
{
	static const char *const wanted[] = {NULL, "int2, int4 or int8", "text or varchar",
					     "jsonb or json", "timestamptz"};
	const char *params[] = {table, column};
	PGresult *res =
		ask(k, core, table,
		    "SELECT atttypid, format_type(atttypid, atttypmod) FROM "
		    "pg_catalog.pg_attribute WHERE attrelid = $1::regclass AND attname = $2 "
		    "AND attnum > 0 AND NOT attisdropped",
		    2, params);
	if (res == NULL)
		return;
	if (PQntuples(res) == 0)
		check_fail(k,
			   arena_printf(k->arena, "the columns that %s names, or the table",
					r->file),
			   "source %s: has no column %s", table, column);
	else if (!fits(role, r, (uint32_t)number(res, 0)))
		check_fail(k, arena_printf(k->arena, "id_type or the column names in %s", r->file),
			   "source %s: column %s is %s, wanted is %s", table, column,
			   PQgetvalue(res, 0, 1),
			   role == FITS_ID ? pgt_name((struct pgt_type){r->id_type, false})
					   : wanted[role]);
	PQclear(res);
}

static void check_reading(struct check *k, PGconn *core, const struct rollup *r, const char *table,
			  const PGresult *res)
{
	if (!yes(res, 0))
		check_fail(k,
			   arena_printf(k->arena, "GRANT USAGE ON SCHEMA \"%s\" TO \"%s\";",
					r->source_schema, PQuser(core)),
			   "source %s: the role may not use the schema", table);
	if (!yes(res, 1))
		check_fail(k,
			   arena_printf(k->arena, "GRANT SELECT ON %s TO \"%s\";", table,
					PQuser(core)),
			   "source %s: the role may not read it, which the first load does", table);
	if (yes(res, 2))
		check_fail(k, arena_printf(k->arena, "ALTER ROLE \"%s\" BYPASSRLS;", PQuser(core)),
			   "source %s: row level security hides rows from the role", table);
	if (!yes(res, 3))
		check_fail(k,
			   arena_printf(k->arena,
					"CREATE UNIQUE INDEX CONCURRENTLY ON %s (\"%s\", \"%s\");",
					table, r->source_column.id, r->source_column.sequence),
			   "source %s: no unique index on (%s, %s)", table, r->source_column.id,
			   r->source_column.sequence);
}

static void check_source(struct check *k, PGconn *core, const struct rollup *r, const char *table)
{
	const char *params[] = {r->source_schema, r->source_table, r->source_column.id,
				r->source_column.sequence};
	PGresult *res = ask(
		k, core, table,
		"SELECT has_schema_privilege(n.oid, 'USAGE'), has_table_privilege(c.oid, "
		"'SELECT'), "
		"row_security_active(c.oid), EXISTS (SELECT FROM pg_catalog.pg_index i "
		"JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] "
		"JOIN pg_catalog.pg_attribute b ON b.attrelid = c.oid AND b.attnum = i.indkey[1] "
		"WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL "
		"AND i.indnkeyatts = 2 AND a.attname = $3 AND b.attname = $4) "
		"FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n "
		"ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2 "
		"AND c.relkind IN ('r', 'p')",
		4, params);
	if (res == NULL)
		return;
	if (PQntuples(res) == 0) {
		check_fail(k,
			   arena_printf(k->arena, "source in %s, or rollups.land without %s",
					r->file, r->name),
			   "source %s: the core has no such table", table);
	} else {
		bool visible = yes(res, 0); /* regclass needs it */
		check_reading(k, core, r, table, res);
		const struct {
			const char *column;
			int role;
		} columns[] = {{r->source_column.id, FITS_ID},
			       {r->source_column.sequence, FITS_NUMBER},
			       {r->source_column.event_type, FITS_TEXT},
			       {r->source_column.event, FITS_JSON},
			       {r->source_column.recorded_at, FITS_TIME}};
		for (size_t i = 0; visible && i < ARRAY_LEN(columns); i++)
			check_column(k, core, r, table, columns[i].column, columns[i].role);
	}
	PQclear(res);
}

void check_sources(struct check *k, PGconn *core)
{
	int fails = k->fails;
	for (uint16_t i = 0; i < k->landed.count; i++) {
		struct buf table = BUF_INIT;
		const struct rollup *r = k->landed.item[i].rollup;
		estate_table(&table, r->source_schema, r->source_table);
		check_source(k, core, r, buf_cstr(&table));
		buf_release(&table);
	}
	if (k->fails == fails)
		check_ok(k,
			 "sources: the tables of all %u rollups are there, readable, and as "
			 "their definitions say",
			 k->landed.count);
}
