/*
 * check_custody: what keeps slot, spool and the core's own statements safe:
 * settings of both servers, replica identities, partitions, the slot's kind,
 * and whether the spool here fits slot and warehouse. Reads only.
 */
#include <inttypes.h>

#include "cdc/capture/look.h"
#include "cdc/commands/check.h"
#include "proto/spool_internal.h"

#define FAILOVER_MIN	  170000
#define SENDER_TIMEOUT_MS 10000 /* less ends connections that only had a bad moment */

/* A row by query; NULL (told) when it failed or is not one row. */
static PGresult *ask_row(struct check *k, PGconn *c, const char *what, const char *sql, int count,
			 const char *const *params)
{
	struct rt_err err;
	PGresult *res;
	if (pgc_query(c, &res, &err, sql, count, params) != 0) {
		check_error(k, what, &err);
		return NULL;
	}
	if (PQntuples(res) == 1)
		return res;
	PQclear(res);
	return NULL;
}

static bool yes(const PGresult *res, int column)
{
	return PQgetvalue(res, 0, column)[0] == 't';
}

/* ---- the core ---- */

static void check_sender_timeout(struct check *k, int64_t ms)
{
	static const char mend[] =
		"ALTER SYSTEM SET wal_sender_timeout = '60s'; SELECT pg_reload_conf();";
	if (ms == 0)
		check_warn(k, mend,
			   "core: wal_sender_timeout = 0: it never notices that a client is gone, "
			   "whose slot then stays in use");
	else if (ms < SENDER_TIMEOUT_MS)
		check_warn(k, mend,
			   "core: wal_sender_timeout = %" PRId64
			   " ms: a short stall of the network ends the stream",
			   ms);
	else
		check_ok(k, "core: wal_sender_timeout = %" PRId64 " s", ms / 1000);
}

static void check_core_settings(struct check *k, PGconn *core)
{
	PGresult *res = ask_row(k, core, "core",
				"SELECT (SELECT setting FROM pg_catalog.pg_settings WHERE name = "
				"'wal_sender_timeout'), current_setting('server_encoding'), "
				"coalesce((SELECT setting FROM pg_catalog.pg_settings WHERE name = "
				"'idle_replication_slot_timeout'), '0'), "
				"pg_has_role('pg_read_all_stats', 'USAGE'), has_database_privilege("
				"current_database(), 'CONNECT')",
				0, NULL);
	if (res == NULL)
		return;
	check_sender_timeout(k, strtoll(PQgetvalue(res, 0, 0), NULL, 10));
	if (strcmp(PQgetvalue(res, 0, 1), "SQL_ASCII") == 0)
		check_fail(k, "a core database with a real encoding (dump and restore)",
			   "core: its encoding is SQL_ASCII: nobody knows what its bytes mean, and "
			   "the "
			   "warehouse takes valid UTF-8 only");
	if (strcmp(PQgetvalue(res, 0, 2), "0") != 0)
		check_fail(k,
			   "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT "
			   "pg_reload_conf();",
			   "core: idle_replication_slot_timeout = %s: the slot is lost when "
			   "capture is "
			   "away for that long",
			   PQgetvalue(res, 0, 2));
	if (!yes(res, 3))
		check_ok(k,
			 "core: the role cannot see how old others' transactions are, so that "
			 "status "
			 "cannot say it (optional: GRANT pg_read_all_stats TO \"%s\";)",
			 PQuser(core));
	PQclear(res);
}

/* Published for UPDATE and DELETE without an identity: the bank's own statements fail. */
static void check_identities(struct check *k, PGconn *core)
{
	const char *names[] = {k->publication, arena_printf(k->arena, "%s_changes", k->s.pipeline)};
	struct buf sql = BUF_INIT;
	struct rt_err err;
	PGresult *res;
	int found = 0;
	look_sql(&sql, names, ARRAY_LEN(names));
	int rc = pgc_query(core, &res, &err, buf_cstr(&sql), 0, NULL);
	buf_release(&sql);
	if (rc != 0) {
		check_error(k, "replica identities", &err);
		return;
	}
	for (int row = 0; row < PQntuples(res); row++) {
		const char *table = PQgetvalue(res, row, 1);
		/* That nothing but inserts is published of event tables is said elsewhere, with its mend. */
		if (strcmp(PQgetvalue(res, row, 0), "identity") != 0 ||
		    strcmp(PQgetvalue(res, row, 2), k->publication) == 0)
			continue;
		found++;
		check_fail(k,
			   arena_printf(
				   k->arena,
				   "ALTER TABLE %s REPLICA IDENTITY FULL; (or USING INDEX, or its "
				   "primary key again; by its owner)",
				   table),
			   "publication %s: %s has no replica identity: the core's own UPDATE and "
			   "DELETE of it fail",
			   PQgetvalue(res, row, 2), table);
	}
	PQclear(res);
	if (found == 0)
		check_ok(k, "publications: no statement of the core fails for want of a replica "
			    "identity");
}

/* Rows of a partitioned table come under its own name only where the publication says so. */
static void check_partitions(struct check *k, PGconn *core)
{
	struct rt_err err;
	PGresult *res;
	const char *params[] = {k->s.pipeline};
	if (pgc_query(core, &res, &err,
		      "SELECT DISTINCT p.pubname, c.oid::regclass FROM pg_catalog.pg_publication p "
		      "JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid "
		      "JOIN pg_catalog.pg_class c ON c.oid = r.prrelid AND c.relkind = 'p' "
		      "WHERE p.pubname IN ($1 || '_inserts', $1 || '_changes') "
		      "AND NOT p.pubviaroot ORDER BY 1, 2",
		      1, params) != 0) {
		check_error(k, "partitions", &err);
		return;
	}
	for (int row = 0; row < PQntuples(res); row++)
		check_fail(
			k,
			arena_printf(k->arena,
				     "ALTER PUBLICATION \"%s\" SET (publish_via_partition_root = "
				     "true); (by its owner)",
				     PQgetvalue(res, row, 0)),
			"publication %s: rows of the partitioned table %s come under the names of "
			"its partitions, which nothing here reads",
			PQgetvalue(res, row, 0), PQgetvalue(res, row, 1));
	PQclear(res);
}

static void check_slot_kind(struct check *k, PGconn *core)
{
	bool has_failover = PQserverVersion(core) >= FAILOVER_MIN;
	const char *params[] = {k->s.core.slot};
	PGresult *res =
		ask_row(k, core, "slot",
			has_failover ? "SELECT two_phase, failover FROM "
				       "pg_catalog.pg_replication_slots WHERE slot_name = $1"
				     : "SELECT two_phase, true FROM "
				       "pg_catalog.pg_replication_slots WHERE slot_name = $1",
			1, params);
	if (res == NULL) /* there is none: said elsewhere */
		return;
	if (yes(res, 0))
		check_fail(
			k,
			arena_printf(k->arena,
				     "stop rolag capture; SELECT pg_drop_replication_slot('%s'); "
				     "then start it: it makes a new one",
				     k->s.core.slot),
			"slot %s: was made with two_phase: after a reconnect, prepared "
			"transactions come without their rows",
			k->s.core.slot);
	if (!yes(res, 1))
		check_warn(k,
			   arena_printf(k->arena,
					"stop rolag capture; psql 'replication=database …' -c "
					"'ALTER_REPLICATION_SLOT %s (FAILOVER true)'",
					k->s.core.slot),
			   "slot %s: is not copied to standbys: a failover loses it",
			   k->s.core.slot);
	PQclear(res);
}

void check_core_custody(struct check *k, PGconn *core)
{
	check_core_settings(k, core);
	check_identities(k, core);
	check_partitions(k, core);
	check_slot_kind(k, core);
}

/* ---- the warehouse ---- */

void check_warehouse_server(struct check *k, PGconn *c)
{
	PGresult *res = ask_row(
		k, c, "warehouse",
		"SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only') "
		"= 'on', current_setting('server_encoding')",
		0, NULL);
	if (res == NULL)
		return;
	int fails = k->fails;
	if (yes(res, 0))
		check_fail(k, "warehouse.connect to the primary",
			   "warehouse: this is a standby, which cannot be written");
	if (yes(res, 1))
		check_fail(
			k,
			arena_printf(k->arena,
				     "ALTER ROLE \"%s\" SET default_transaction_read_only = off;",
				     PQuser(c)),
			"warehouse: default_transaction_read_only is on for the role");
	if (strcmp(PQgetvalue(res, 0, 2), "UTF8") != 0)
		check_fail(
			k, "a warehouse database made with ENCODING 'UTF8' TEMPLATE template0",
			"warehouse: its encoding is %s, which cannot hold everything that the core "
			"may send (UTF8 can)",
			PQgetvalue(res, 0, 2));
	if (k->fails == fails)
		check_ok(k, "warehouse: a primary, UTF8, writable");
	PQclear(res);
}

/* ---- the spool here ---- */

/* First position that a reader could begin behind; 1: *ret set, 0: empty or gone, negative: told. */
static int spool_start(struct check *k, struct lsn *ret)
{
	struct segment_list list = {0};
	struct rt_err err;
	int rc = segment_list_read(&list, k->s.spool.dir, &err);
	const struct segment_entry *first = rc == 0 ? segment_list_after(&list, 0, LSN_NONE) : NULL;
	if (rc != 0)
		check_error(k, "spool", &err);
	else if (first != NULL) {
		*ret = first->start;
		rc = 1;
	}
	segment_list_release(&list);
	return rc;
}

static const char *gap_mend(const struct check *k)
{
	return k->s.capture.on_lost_slot == LOST_SLOT_RESYNC
		       ? "none is needed: capture and apply see it, and apply syncs what is missing"
		       : "capture.on_lost_slot: resync, or " MEND_LOAD_ANEW;
}

void check_spool(struct check *k)
{
	const struct spool_identity id = {.system_id = k->system.system_id,
					  .timeline = k->system.timeline,
					  .pipeline = k->s.pipeline,
					  .slot = k->s.core.slot};
	struct rt_err err;
	struct lsn start = LSN_NONE, end = LSN_NONE;
	int fails = k->fails;
	if (spool_start(k, &start) <= 0)
		return;
	int rc = spool_end(k->s.spool.dir, &id, &end, &err);
	if (rc < 0) {
		check_error(k, "spool", &err);
		return;
	}
	if (k->slot.exists && lsn_lt(end, k->slot.confirmed))
		check_fail(k, gap_mend(k),
			   "spool: it ends at " LSN_FMT ", but the slot is confirmed to " LSN_FMT
			   ": what is between is in neither",
			   LSN_ARGS(end), LSN_ARGS(k->slot.confirmed));
	if (k->control.has_ledger && lsn_lt(k->control.applied, start))
		check_fail(k, gap_mend(k),
			   "spool: it begins at " LSN_FMT ", but the warehouse is at " LSN_FMT
			   ": what is between is in neither",
			   LSN_ARGS(start), LSN_ARGS(k->control.applied));
	if (k->fails == fails)
		check_ok(k, "spool: from " LSN_FMT " to " LSN_FMT ", of this core and slot",
			 LSN_ARGS(start), LSN_ARGS(end));
}
