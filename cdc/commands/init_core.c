/*
 * init_core: publication and slot. Guarantees: the publication is committed
 * before the slot begins, since the slot decodes with the catalog of its own
 * past; a slot is never made where the warehouse already holds a position
 * that it could not join.
 */
#include "cdc/commands/init.h"
#include "cdc/commands/status.h"
#include "proto/pg/slot.h"

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
	/* What a new slot lacks is synced: capture sees the gap, and makes the slot where one is there but lost. */
	bool resync = in->control.has_ledger && in->s.capture.on_lost_slot == LOST_SLOT_RESYNC;
	if (!in->slot.exists && in->control.has_ledger && !resync)
		return rt_fail(
			err, ERR_PERMANENT,
			"the slot %s is gone, and the warehouse holds everything up to " LSN_FMT
			": a new slot would leave a gap; mend: " MEND_LOAD_ANEW,
			slot, LSN_ARGS(in->control.applied));
	if (!in->slot.exists)
		return 0;
	if (strcmp(in->slot.plugin, "pgoutput") != 0 || strcmp(in->slot.database, database) != 0)
		return rt_fail(err, ERR_PERMANENT,
			       "the slot %s is not ours (plugin %s, database %s; wanted pgoutput, "
			       "%s); mend: another core.slot",
			       slot, in->slot.plugin, in->slot.database, database);
	if (resync && (strcmp(in->slot.wal_status, "lost") == 0 || !in->pub.exists))
		init_says("core",
			  "slot %s is of no use any more: rolag capture makes a new one, and apply "
			  "syncs what is missing",
			  slot);
	if (resync)
		return 0;
	if (strcmp(in->slot.wal_status, "lost") == 0)
		return rt_fail(err, ERR_PERMANENT,
			       "the slot %s has lost its WAL; mend: SELECT "
			       "pg_drop_replication_slot('%s'); then %s",
			       slot, slot, in->control.has_ledger ? MEND_LOAD_ANEW : "rolag init");
	if (!in->pub.exists)
		return rt_fail(err, ERR_PERMANENT,
			       "the slot %s is there but the publication %s is not: what the core "
			       "wrote meanwhile cannot be decoded through this slot; mend: SELECT "
			       "pg_drop_replication_slot('%s'); then %s",
			       slot, in->publication, slot,
			       in->control.has_ledger ? MEND_LOAD_ANEW : "rolag init");
	return 0;
}

static int look_sources(struct init *in, struct rt_err *err)
{
	for (size_t i = 0; i < in->landed.count; i++) {
		const struct rollup *r = in->landed.item[i].rollup;
		const char *params[] = {r->source_schema, r->source_table};
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
				       r->file, r->source_schema, r->source_table, r->name);
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

bool init_is_first_of_source(const struct landed_set *set, size_t at)
{
	const struct rollup *r = set->item[at].rollup;
	for (size_t i = 0; i < at; i++)
		if (strcmp(set->item[i].rollup->source_schema, r->source_schema) == 0 &&
		    strcmp(set->item[i].rollup->source_table, r->source_table) == 0)
			return false;
	return true;
}

void init_sql_create_publication(const struct init *in, struct buf *out)
{
	buf_str(out, "CREATE PUBLICATION ");
	pgc_ident(out, in->publication);
	buf_str(out, " FOR TABLE");
	const char *between = "\n    ";
	for (size_t i = 0; i < in->landed.count; i++) {
		const struct rollup *r = in->landed.item[i].rollup;
		if (!init_is_first_of_source(&in->landed, i))
			continue;
		buf_str(out, between);
		estate_table(out, r->source_schema, r->source_table);
		between = ",\n    ";
	}
	buf_str(out, "\n    WITH (publish = 'insert, truncate')");
}

/*
 * Runs DDL that needs ownership of the tables; says who may where we may not.
 * Its lock (SHARE UPDATE EXCLUSIVE) hinders no reader and no writer, but a
 * migration, an index build or a vacuum: it does not queue up behind them.
 */
static int owner_does(struct init *in, struct buf *sql, struct rt_err *err)
{
	int rc = pgc_exec(in->core, NULL, err, "SET lock_timeout = '" INIT_LOCK_TIMEOUT "'");
	if (rc == 0)
		rc = pgc_exec(in->core, NULL, err, "%s", buf_cstr(sql));
	if (rc == ERR_RETRY && strstr(err->msg, "55P03") != NULL)
		return rt_fail(err, ERR_RETRY,
			       "a table of the publication %s is locked by another session "
			       "(migration, index build, vacuum): not within " INIT_LOCK_TIMEOUT
			       "; mend: rolag init again when it has ended",
			       in->publication);
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
	for (size_t i = 0; rc == 0 && i < in->landed.count; i++) {
		const struct rollup *r = in->landed.item[i].rollup;
		if (publication_find(p, r->source_schema, r->source_table) != NULL)
			continue;
		buf_clear(&sql);
		buf_str(&sql, "ALTER PUBLICATION ");
		pgc_ident(&sql, in->publication);
		buf_str(&sql, " ADD TABLE ");
		estate_table(&sql, r->source_schema, r->source_table);
		rc = owner_does(in, &sql, err);
		if (rc == 0)
			init_made(in, "core", "publication %s: added %s.%s", in->publication,
				  r->source_schema, r->source_table);
		if (rc == 0) /* a second rollup of the same table finds it */
			rc = publication_read(in->core, in->arena, in->publication, &in->pub, err);
	}
	buf_release(&sql);
	return rc;
}

bool init_is_source(const struct landed_set *set, const struct publication_table *t)
{
	for (size_t i = 0; i < set->count; i++)
		if (strcmp(set->item[i].rollup->source_schema, t->schema) == 0 &&
		    strcmp(set->item[i].rollup->source_table, t->table) == 0)
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
		size_t tables = 0;
		for (size_t i = 0; i < in->landed.count; i++)
			tables += init_is_first_of_source(&in->landed, i);
		if (rc == 0)
			init_made(in, "core", "created publication %s of %zu tables",
				  in->publication, tables);
		return rc;
	}
	int before = in->changes;
	int rc = mend_publication(in, err);
	if (rc == 0 && in->changes == before)
		init_says("core", "publication %s exists, %zu tables", in->publication,
			  in->pub.count);
	for (size_t i = 0; rc == 0 && i < in->pub.count; i++)
		if (!init_is_source(&in->landed, &in->pub.table[i]))
			init_says("core",
				  "warning: publication %s also has %s.%s, which no rollup reads",
				  in->publication, in->pub.table[i].schema, in->pub.table[i].table);
	return rc;
}

/* Creation waits until every transaction that is open now has ended. */
static bool say_wait(void *ctx, const struct slot_wait *w)
{
	const struct init *in = ctx;
	struct buf age = BUF_INIT;
	status_duration(&age, w->xact_age_us);
	if (w->pid == 0)
		init_says("core", "slot %s waits for older transactions to end", in->s.core.slot);
	else if (w->xact_age_us <= 0) /* the server hides it from roles without pg_read_all_stats */
		init_says("core", "slot %s waits for older transactions to end: pid %d",
			  in->s.core.slot, w->pid);
	else
		init_says("core",
			  "slot %s waits for older transactions to end: pid %d, open for %s",
			  in->s.core.slot, w->pid, buf_cstr(&age));
	buf_release(&age);
	return false;
}

static int make_slot(struct init *in, struct rt_err *err)
{
	const char *slot = in->s.core.slot;
	if (in->slot.exists) {
		init_says("core", "slot %s exists, confirmed " LSN_FMT, slot,
			  LSN_ARGS(in->slot.confirmed));
		return 0;
	}
	const struct slot_options o = {.name = slot,
				       .failover = true,
				       .monitor = in->core,
				       .on_wait = say_wait,
				       .ctx = in};
	struct slot_created made;
	int rc = slot_create(in->replication, &o, &made, err);
	if (rc != 0)
		return rc;
	in->slot = (struct slot_view){.exists = true, .confirmed = made.consistent_point};
	init_made(in, "core", "created slot %s at " LSN_FMT, slot, LSN_ARGS(in->slot.confirmed));
	if (in->control.has_ledger)
		init_says("core",
			  "the warehouse holds everything up to " LSN_FMT
			  ": apply syncs what the new slot lacks",
			  LSN_ARGS(in->control.applied));
	return 0;
}

int init_core_make(struct init *in, struct rt_err *err)
{
	int rc = make_publication(in, err);
	if (rc == 0)
		rc = make_slot(in, err);
	return rc;
}
