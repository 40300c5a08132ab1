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
	if (resync &&
	    (strcmp(in->slot.wal_status, "lost") == 0 || !in->pub[INIT_INSERTS].found.exists))
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
	const struct init_publication *inserts = &in->pub[INIT_INSERTS];
	if (!inserts->found.exists)
		return rt_fail(err, ERR_PERMANENT,
			       "the slot %s is there but the publication %s is not: what the core "
			       "wrote meanwhile cannot be decoded through this slot; mend: SELECT "
			       "pg_drop_replication_slot('%s'); then %s",
			       slot, inserts->name, slot,
			       in->control.has_ledger ? MEND_LOAD_ANEW : "rolag init");
	return 0;
}

/* What a table is in the core (pg_class.relkind), and its replica identity: "r d"; NULL: there is none. */
static int look_table(struct init *in, const char *schema, const char *table, const char **ret,
		      struct rt_err *err)
{
	const char *params[] = {schema, table};
	return estate_text(
		in->core, in->arena, ret, err,
		"SELECT c.relkind::text || ' ' || CASE c.relreplident WHEN 'd' THEN CASE WHEN "
		"EXISTS "
		"(SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary "
		"AND "
		"i.indisvalid AND i.indimmediate) THEN 'd' ELSE 'n' END WHEN 'i' THEN CASE WHEN "
		"EXISTS "
		"(SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisreplident) "
		"THEN 'i' ELSE 'n' END ELSE c.relreplident::text END FROM pg_catalog.pg_class c "
		"JOIN "
		"pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND "
		"c.relname = $2 AND c.relkind IN ('r', 'p')",
		2, params);
}

static int look_sources(struct init *in, struct rt_err *err)
{
	for (size_t i = 0; i < in->landed.count; i++) {
		const struct rollup *r = in->landed.item[i].rollup;
		const char *kind;
		int rc = look_table(in, r->source_schema, r->source_table, &kind, err);
		if (rc != 0)
			return rc;
		if (kind == NULL)
			return rt_fail(err, ERR_PERMANENT,
				       "%s: the core has no table %s.%s; mend: source in the "
				       "definition, or rollups.land without %s",
				       r->file, r->source_schema, r->source_table, r->name);
	}
	return 0;
}

/* A unique index that could be the table's replica identity; NULL: it has none. */
static int find_identity(struct init *in, const struct mirror *m, const char **ret,
			 struct rt_err *err)
{
	const char *params[] = {m->nspname, m->relname};
	return estate_text(
		in->core, in->arena, ret, err,
		"SELECT pg_catalog.quote_ident(x.relname) FROM pg_catalog.pg_index i JOIN "
		"pg_catalog.pg_class x ON x.oid = i.indexrelid JOIN pg_catalog.pg_class c ON c.oid "
		"= "
		"i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE "
		"n.nspname "
		"= $1 AND c.relname = $2 AND i.indisunique AND i.indimmediate AND i.indisvalid AND "
		"i.indpred IS NULL AND i.indexprs IS NULL AND NOT EXISTS (SELECT FROM "
		"pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attnotnull AND "
		"a.attnum "
		"= ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) ORDER BY x.relname LIMIT 1",
		2, params);
}

/* Publishing updates of a table without identity would make the core's own UPDATE fail. */
static int refuse_identity(struct init *in, const struct mirror *m, struct rt_err *err)
{
	const char *index;
	struct buf table = BUF_INIT;
	int rc = find_identity(in, m, &index, err);
	if (rc != 0)
		return rc;
	estate_table(&table, m->nspname, m->relname);
	rc = rt_fail(
		err, ERR_PERMANENT,
		"%s has no replica identity: were its updates published, the core's own UPDATE "
		"and DELETE would fail; mend: mirrors.append_only, if rows of it never change; "
		"else its owner runs ALTER TABLE %s REPLICA IDENTITY %s%s (a short ACCESS "
		"EXCLUSIVE lock)",
		m->source, buf_cstr(&table), index != NULL ? "USING INDEX " : "FULL",
		index != NULL ? index : "");
	buf_release(&table);
	return rc;
}

static int look_mirrors(struct init *in, struct rt_err *err)
{
	for (uint16_t i = 0; i < in->mirrors.count; i++) {
		const struct mirror *m = &in->mirrors.item[i];
		const char *kind = NULL;
		int rc = look_table(in, m->nspname, m->relname, &kind, err);
		if (rc == 0 && kind == NULL)
			rc = rt_fail(err, ERR_PERMANENT,
				     "%s: mirrors.tables: the core has no table %s", in->s.file,
				     m->source);
		if (rc == 0 && kind != NULL && !m->append_only && kind[2] == 'n')
			rc = refuse_identity(in, m, err);
		if (rc != 0)
			return rc;
	}
	return 0;
}

int init_core_look(struct init *in, struct rt_err *err)
{
	int rc = look_settings(in, err);
	if (rc == 0)
		rc = look_identity(in, err);
	for (int i = 0; rc == 0 && i < INIT_PUBLICATIONS; i++)
		rc = publication_read(in->core, in->arena, in->pub[i].name, &in->pub[i].found, err);
	if (rc == 0)
		rc = slot_read(in->core, in->arena, in->s.core.slot, &in->slot, err);
	if (rc == 0)
		rc = look_slot(in, err);
	if (rc == 0)
		rc = look_sources(in, err);
	if (rc == 0)
		rc = look_mirrors(in, err);
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

bool init_is_source(const struct landed_set *set, const struct publication_table *t)
{
	for (size_t i = 0; i < set->count; i++)
		if (strcmp(set->item[i].rollup->source_schema, t->schema) == 0 &&
		    strcmp(set->item[i].rollup->source_table, t->table) == 0)
			return true;
	return false;
}

static bool is_wanted(const struct init_publication *p, const char *schema, const char *table)
{
	for (size_t i = 0; i < p->count; i++)
		if (strcmp(p->table[i].schema, schema) == 0 &&
		    strcmp(p->table[i].table, table) == 0)
			return true;
	return false;
}

static void want(struct init_publication *p, struct publication_table *room, const char *schema,
		 const char *table)
{
	p->table = room;
	if (!is_wanted(p, schema, table))
		room[p->count++] = (struct publication_table){.schema = schema, .table = table};
}

void init_want_publications(struct init *in)
{
	size_t most = in->landed.count + in->mirrors.count;
	struct publication_table *room[INIT_PUBLICATIONS];
	for (int i = 0; i < INIT_PUBLICATIONS; i++)
		room[i] = arena_alloc(in->arena, most * sizeof(*room[i]));
	in->pub[INIT_INSERTS] = (struct init_publication){
		.name = arena_printf(in->arena, SETTINGS_INSERTS_FMT, in->s.pipeline),
		.publish = "insert, truncate"};
	in->pub[INIT_CHANGES] = (struct init_publication){
		.name = arena_printf(in->arena, SETTINGS_CHANGES_FMT, in->s.pipeline),
		.publish = "insert, update, delete, truncate"};
	for (size_t i = 0; i < in->landed.count; i++)
		want(&in->pub[INIT_INSERTS], room[INIT_INSERTS],
		     in->landed.item[i].rollup->source_schema,
		     in->landed.item[i].rollup->source_table);
	for (size_t i = 0; i < in->mirrors.count; i++) {
		const struct mirror *m = &in->mirrors.item[i];
		int which = m->append_only ? INIT_INSERTS : INIT_CHANGES;
		want(&in->pub[which], room[which], m->nspname, m->relname);
	}
}

void init_sql_create_publication(const struct init_publication *p, struct buf *out)
{
	buf_str(out, "CREATE PUBLICATION ");
	pgc_ident(out, p->name);
	buf_str(out, " FOR TABLE");
	for (size_t i = 0; i < p->count; i++) {
		buf_str(out, i == 0 ? "\n    " : ",\n    ");
		estate_table(out, p->table[i].schema, p->table[i].table);
	}
	buf_printf(out, "\n    WITH (publish = '%s', publish_via_partition_root = true)",
		   p->publish);
}

/*
 * Runs DDL that needs ownership of the tables; says who may where we may not.
 * Its lock (SHARE UPDATE EXCLUSIVE) hinders no reader and no writer, but a
 * migration, an index build or a vacuum: it does not queue up behind them.
 */
static int owner_does(struct init *in, const char *publication, struct buf *sql, struct rt_err *err)
{
	int rc = pgc_exec(in->core, NULL, err, "SET lock_timeout = '" INIT_LOCK_TIMEOUT "'");
	if (rc == 0)
		rc = pgc_exec(in->core, NULL, err, "%s", buf_cstr(sql));
	if (rc == ERR_RETRY && pgc_err_is_state(err, "55P03"))
		return rt_fail(err, ERR_RETRY,
			       "a table of the publication %s is locked by another session "
			       "(migration, index build, vacuum): not within " INIT_LOCK_TIMEOUT
			       "; mend: rolag init again when it has ended",
			       publication);
	if (rc == ERR_PERMANENT && strstr(err->msg, "42501") != NULL)
		return rt_fail(err, ERR_PERMANENT,
			       "this role may not change the publication %s (that takes the owner "
			       "of the tables); mend: let the owner run what rolag init "
			       "--print-sql prints, then rolag init again",
			       publication);
	return rc;
}

/* The other publication has the table: in both, two column lists could stop the stream. */
static int leave_other(struct init *in, const struct init_publication *p,
		       const struct publication_table *t, struct rt_err *err)
{
	struct init_publication *other =
		&in->pub[p == &in->pub[INIT_INSERTS] ? INIT_CHANGES : INIT_INSERTS];
	struct buf sql = BUF_INIT;
	if (publication_find(&other->found, t->schema, t->table) == NULL)
		return 0;
	buf_str(&sql, "ALTER PUBLICATION ");
	pgc_ident(&sql, other->name);
	buf_str(&sql, " DROP TABLE ");
	estate_table(&sql, t->schema, t->table);
	int rc = owner_does(in, other->name, &sql, err);
	buf_release(&sql);
	if (rc == 0)
		init_made(in, "core", "publication %s: took out %s.%s", other->name, t->schema,
			  t->table);
	return rc == 0 ? publication_read(in->core, in->arena, other->name, &other->found, err)
		       : rc;
}

static bool publishes_as_wanted(const struct init_publication *p)
{
	bool changes = strstr(p->publish, "update") != NULL;
	return p->found.inserts && p->found.truncates && p->found.updates == changes &&
	       p->found.deletes == changes;
}

static int add_table(struct init *in, struct init_publication *p, const struct publication_table *t,
		     struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	int rc = leave_other(in, p, t, err);
	buf_str(&sql, "ALTER PUBLICATION ");
	pgc_ident(&sql, p->name);
	buf_str(&sql, " ADD TABLE ");
	estate_table(&sql, t->schema, t->table);
	if (rc == 0)
		rc = owner_does(in, p->name, &sql, err);
	buf_release(&sql);
	if (rc == 0)
		init_made(in, "core", "publication %s: added %s.%s", p->name, t->schema, t->table);
	return rc;
}

static int mend_publication(struct init *in, struct init_publication *p, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	int rc = 0;
	if (!publishes_as_wanted(p)) {
		buf_str(&sql, "ALTER PUBLICATION ");
		pgc_ident(&sql, p->name);
		buf_printf(&sql, " SET (publish = '%s')", p->publish);
		rc = owner_does(in, p->name, &sql, err);
		if (rc == 0)
			init_made(in, "core", "publication %s now publishes %s", p->name,
				  p == &in->pub[INIT_INSERTS] ? "insert and truncate" : p->publish);
	}
	buf_release(&sql);
	for (size_t i = 0; rc == 0 && i < p->count; i++)
		if (publication_find(&p->found, p->table[i].schema, p->table[i].table) == NULL)
			rc = add_table(in, p, &p->table[i], err);
	return rc;
}

static int make_publication(struct init *in, struct init_publication *p, struct rt_err *err)
{
	if (!p->found.exists) {
		struct buf sql = BUF_INIT;
		int rc = 0;
		for (size_t i = 0; rc == 0 && i < p->count; i++)
			rc = leave_other(in, p, &p->table[i], err);
		init_sql_create_publication(p, &sql);
		if (rc == 0)
			rc = owner_does(in, p->name, &sql, err);
		buf_release(&sql);
		if (rc == 0)
			init_made(in, "core", "created publication %s of %zu tables", p->name,
				  p->count);
		return rc;
	}
	int before = in->changes;
	int rc = mend_publication(in, p, err);
	if (rc == 0 && in->changes == before)
		init_says("core", "publication %s exists, %zu tables", p->name, p->found.count);
	for (size_t i = 0; rc == 0 && i < p->found.count; i++)
		if (!is_wanted(p, p->found.table[i].schema, p->found.table[i].table))
			init_says("core", "warning: publication %s also has %s.%s, which no %s",
				  p->name, p->found.table[i].schema, p->found.table[i].table,
				  p == &in->pub[INIT_INSERTS] ? "rollup reads" : "mirror is of");
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
	int rc = 0;
	for (int i = 0; rc == 0 && i < INIT_PUBLICATIONS; i++)
		if (in->pub[i].count > 0)
			rc = make_publication(in, &in->pub[i], err);
	if (rc == 0)
		rc = make_slot(in, err);
	return rc;
}
