/*
 * init_core: publication and slot. Guarantees: the publication is committed
 * before the slot begins, since the slot decodes with the catalog of its own
 * past; a slot is never made where the warehouse already holds a position
 * that it could not join.
 */
#include <poll.h>

#include "cdc/commands/init.h"

#define WAIT_NOTE_MS 3000

static int look_settings(struct init *in, struct rt_err *err)
{
	const char *level;
	if (PQserverVersion(in->core) < 150000)
		return rt_fail(err, ERR_PERMANENT,
			       "the core is PostgreSQL %d; 15 or later is needed",
			       PQserverVersion(in->core) / 10000);
	int rc = estate_text(in->core, in->arena, &level, err, "SHOW wal_level", 0, NULL);
	if (rc == 0 && strcmp(level, "logical") != 0)
		rc = rt_fail(err, ERR_PERMANENT,
			     "the core's wal_level is %s; mend: ALTER SYSTEM SET wal_level = "
			     "logical; then restart the core",
			     level);
	return rc;
}

static int look_identity(struct init *in, struct rt_err *err)
{
	char id[32];
	snprintf(id, sizeof(id), "%llu", (unsigned long long)in->system.system_id);
	const char *held = in->control.core_system_id;
	if (held[0] != '\0' && strcmp(held, id) != 0)
		return rt_fail(err, ERR_PERMANENT,
			       "the warehouse follows another core (system identifier %s, this one "
			       "is %s); mend: core.connect, or another pipeline name for this core",
			       held, id);
	return 0;
}

static int look_slot(struct init *in, struct rt_err *err)
{
	const char *slot = in->s.core.slot;
	const char *database = PQdb(in->core);
	if (!in->slot.exists && in->control.has_ledger)
		return rt_fail(
			err, ERR_PERMANENT,
			"the slot %s is gone, and the warehouse holds everything up to " LSN_FMT
			": a new slot would leave a gap; mend: load anew, as pipeline of "
			"another name into another warehouse.schema",
			slot, LSN_ARGS(in->control.applied));
	if (!in->slot.exists)
		return 0;
	if (strcmp(in->slot.plugin, "pgoutput") != 0 || strcmp(in->slot.database, database) != 0)
		return rt_fail(err, ERR_PERMANENT,
			       "the slot %s is not ours (plugin %s, database %s; wanted pgoutput, "
			       "%s); mend: another core.slot",
			       slot, in->slot.plugin, in->slot.database, database);
	if (strcmp(in->slot.wal_status, "lost") == 0)
		return rt_fail(err, ERR_PERMANENT,
			       "the slot %s has lost its WAL; mend: SELECT "
			       "pg_drop_replication_slot('%s'); then load anew",
			       slot, slot);
	if (!in->pub.exists)
		return rt_fail(err, ERR_PERMANENT,
			       "the slot %s is there but the publication %s is not: what the core "
			       "wrote meanwhile cannot be decoded through this slot; mend: SELECT "
			       "pg_drop_replication_slot('%s'); then rolag init",
			       slot, in->publication, slot);
	return 0;
}

static int look_sources(struct init *in, struct rt_err *err)
{
	for (size_t i = 0; i < in->sources.count; i++) {
		const struct source *s = &in->sources.item[i];
		const char *params[] = {s->schema, s->table};
		const char *kind;
		int rc = estate_text(in->core, in->arena, &kind, err,
				     "SELECT c.relkind FROM pg_catalog.pg_class c JOIN "
				     "pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
				     "WHERE n.nspname = $1 AND c.relname = $2",
				     2, params);
		if (rc != 0)
			return rc;
		if (kind == NULL || (kind[0] != 'r' && kind[0] != 'p'))
			return rt_fail(err, ERR_PERMANENT,
				       "%s: the core has no table %s.%s; mend: source in the "
				       "definition, or rollups.land without %s",
				       s->file, s->schema, s->table, s->rollup);
	}
	return 0;
}

int init_core_look(struct init *in, struct rt_err *err)
{
	int rc = look_settings(in, err);
	if (rc == 0)
		rc = look_identity(in, err);
	if (rc == 0)
		rc = publication_read(in->core, in->arena, in->publication, &in->pub, err);
	if (rc == 0)
		rc = slot_read(in->core, in->arena, in->s.core.slot, &in->slot, err);
	if (rc == 0)
		rc = look_slot(in, err);
	if (rc == 0)
		rc = look_sources(in, err);
	return rc;
}

void init_sql_create_publication(const struct init *in, struct buf *out)
{
	buf_str(out, "CREATE PUBLICATION ");
	pgc_ident(out, in->publication);
	buf_str(out, " FOR TABLE");
	const char *between = "\n    ";
	for (size_t i = 0; i < in->sources.count; i++) {
		const struct source *s = &in->sources.item[i];
		bool again = false; /* one table can feed several rollups */
		for (size_t k = 0; k < i; k++)
			again |= strcmp(in->sources.item[k].schema, s->schema) == 0 &&
				 strcmp(in->sources.item[k].table, s->table) == 0;
		if (again)
			continue;
		buf_str(out, between);
		estate_table(out, s->schema, s->table);
		between = ",\n    ";
	}
	buf_str(out, "\n    WITH (publish = 'insert, truncate')");
}

/* Runs DDL that needs ownership of the tables; says who may where we may not. */
static int owner_does(struct init *in, struct buf *sql, struct rt_err *err)
{
	int rc = pgc_exec(in->core, NULL, err, "%s", buf_cstr(sql));
	if (rc == ERR_PERMANENT && strstr(err->msg, "42501") != NULL)
		return rt_fail(err, ERR_PERMANENT,
			       "this role may not change the publication %s (that takes the owner "
			       "of the tables); mend: let the owner run what rolag init "
			       "--print-sql prints, then rolag init again",
			       in->publication);
	return rc;
}

static int mend_publication(struct init *in, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	const struct publication_view *p = &in->pub;
	int rc = 0;
	if (!p->inserts || !p->truncates || p->updates || p->deletes) {
		buf_str(&sql, "ALTER PUBLICATION ");
		pgc_ident(&sql, in->publication);
		buf_str(&sql, " SET (publish = 'insert, truncate')");
		rc = owner_does(in, &sql, err);
		if (rc == 0)
			init_made(in, "core", "publication %s now publishes insert and truncate",
				  in->publication);
	}
	for (size_t i = 0; rc == 0 && i < in->sources.count; i++) {
		const struct source *s = &in->sources.item[i];
		if (publication_find(p, s->schema, s->table) != NULL)
			continue;
		buf_clear(&sql);
		buf_str(&sql, "ALTER PUBLICATION ");
		pgc_ident(&sql, in->publication);
		buf_str(&sql, " ADD TABLE ");
		estate_table(&sql, s->schema, s->table);
		rc = owner_does(in, &sql, err);
		if (rc == 0)
			init_made(in, "core", "publication %s: added %s.%s", in->publication,
				  s->schema, s->table);
		if (rc == 0) /* a second rollup of the same table finds it */
			rc = publication_read(in->core, in->arena, in->publication, &in->pub, err);
	}
	buf_release(&sql);
	return rc;
}

static bool is_source(const struct sources *sources, const struct publication_table *t)
{
	for (size_t i = 0; i < sources->count; i++)
		if (strcmp(sources->item[i].schema, t->schema) == 0 &&
		    strcmp(sources->item[i].table, t->table) == 0)
			return true;
	return false;
}

static int make_publication(struct init *in, struct rt_err *err)
{
	if (!in->pub.exists) {
		struct buf sql = BUF_INIT;
		init_sql_create_publication(in, &sql);
		int rc = owner_does(in, &sql, err);
		buf_release(&sql);
		if (rc == 0)
			init_made(in, "core", "created publication %s of %zu tables",
				  in->publication, in->sources.count);
		return rc;
	}
	int before = in->changes;
	int rc = mend_publication(in, err);
	if (rc == 0 && in->changes == before)
		init_says("core", "publication %s exists, %zu tables", in->publication,
			  in->pub.count);
	for (size_t i = 0; rc == 0 && i < in->pub.count; i++)
		if (!is_source(&in->sources, &in->pub.table[i]))
			init_says("core",
				  "warning: publication %s also has %s.%s, which no rollup reads",
				  in->publication, in->pub.table[i].schema, in->pub.table[i].table);
	return rc;
}

/* Says which transaction the slot waits for: it begins when all that are open now have ended. */
static void say_blocker(struct init *in)
{
	struct rt_err ignored; /* only a note */
	PGresult *res;
	int rc = pgc_exec(
		in->core, &res, &ignored,
		"SELECT what, age FROM (SELECT 'pid ' || a.pid || coalesce(' (role ' || a.usename "
		"|| ', database ' || a.datname || ')', '') AS what, extract(epoch FROM "
		"clock_timestamp() - a.xact_start)::int AS age FROM pg_catalog.pg_locks l "
		"JOIN pg_catalog.pg_stat_activity a USING (pid) WHERE l.locktype = 'transactionid' "
		"AND l.mode = 'ExclusiveLock' AND l.granted AND a.pid <> pg_backend_pid() "
		"UNION ALL SELECT 'prepared transaction ' || gid, extract(epoch FROM "
		"clock_timestamp() - prepared)::int FROM pg_catalog.pg_prepared_xacts) x "
		"ORDER BY age DESC NULLS LAST LIMIT 1");
	if (rc != 0)
		return;
	if (PQntuples(res) == 1 && PQgetisnull(res, 0, 1))
		init_says("core",
			  "the slot waits for older transactions to end: %s, age not visible to us",
			  PQgetvalue(res, 0, 0));
	else if (PQntuples(res) == 1)
		init_says("core", "the slot waits for older transactions to end: %s, open for %s s",
			  PQgetvalue(res, 0, 0), PQgetvalue(res, 0, 1));
	PQclear(res);
}

void init_sql_create_slot(const struct init *in, struct buf *out)
{
	buf_str(out, "CREATE_REPLICATION_SLOT ");
	pgc_ident(out, in->s.core.slot);
	buf_str(out, " LOGICAL pgoutput (SNAPSHOT 'nothing')");
}

/* The result of the command just sent, telling every few seconds what it waits for. */
static int await_slot(struct init *in, PGresult **ret, struct rt_err *err)
{
	PGconn *c = in->replication;
	int64_t gap_us = WAIT_NOTE_MS * INT64_C(1000), note_us = rt_mono_us() + gap_us;
	while (PQisBusy(c) != 0) {
		struct pollfd p = {.fd = PQsocket(c), .events = POLLIN};
		int n = poll(&p, 1, WAIT_NOTE_MS);
		if (n == 0 && rt_mono_us() >= note_us) {
			say_blocker(in);
			gap_us *= 2; /* a long wait is told ever more rarely */
			note_us = rt_mono_us() + gap_us;
		}
		if (n > 0 && PQconsumeInput(c) == 0)
			return pgc_fail(c, NULL, err, "CREATE_REPLICATION_SLOT");
	}
	PGresult *res = PQgetResult(c);
	if (PQresultStatus(res) != PGRES_TUPLES_OK) {
		int rc = pgc_fail(c, res, err, "CREATE_REPLICATION_SLOT");
		PQclear(res);
		return rc;
	}
	*ret = res;
	return 0;
}

static int make_slot(struct init *in, struct rt_err *err)
{
	const char *slot = in->s.core.slot;
	if (in->slot.exists) {
		init_says("core", "slot %s exists, confirmed " LSN_FMT, slot,
			  LSN_ARGS(in->slot.confirmed));
		return 0;
	}
	/* It waits for every transaction open now: no time-out may cut that short. */
	int rc = pgc_exec(in->replication, NULL, err, "SET statement_timeout = 0");
	if (rc == 0)
		rc = pgc_exec(in->replication, NULL, err, "SET lock_timeout = 0");
	if (rc != 0)
		return rc;
	struct buf sql = BUF_INIT;
	PGresult *res = NULL;
	init_sql_create_slot(in, &sql);
	if (PQsendQuery(in->replication, buf_cstr(&sql)) == 0)
		rc = pgc_fail(in->replication, NULL, err, "CREATE_REPLICATION_SLOT");
	else
		rc = await_slot(in, &res, err);
	buf_release(&sql);
	if (rc != 0)
		return rc;
	in->slot = (struct slot_view){.exists = true, .confirmed = pgc_get_lsn(res, 0, 1)};
	PQclear(res);
	init_made(in, "core", "created slot %s at " LSN_FMT, slot, LSN_ARGS(in->slot.confirmed));
	return 0;
}

int init_core_make(struct init *in, struct rt_err *err)
{
	int rc = make_publication(in, err);
	if (rc == 0)
		rc = make_slot(in, err);
	return rc;
}
