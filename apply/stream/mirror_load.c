/*
 * mirror_load: snapshot, COPY out, COPY in. Guarantees: a table becomes live in
 * the transaction that makes it; nothing is written on the core.
 */
#include "apply/stream/mirror_load.h"

#include "apply/stream/sync_inner.h"
#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/base/metrics.h"
#include "proto/pg/pgconn.h"

#define DDL_LOCK_MS 200

struct mirror_loader {
	PGconn *core, *warehouse;
	const struct settings *settings;
	struct mirror_set *set;
	const struct ledger *ledger;
	struct loop *loop;
	struct lsn snapshot;
	struct arena arena;
};

static int begin_held(const struct mirror_loader *l, struct rt_err *err)
{
	char epoch[24];
	snprintf(epoch, sizeof(epoch), "%lld", (long long)l->ledger->epoch);
	const char *params[] = {l->settings->pipeline, epoch};
	int rc = pgc_exec(l->warehouse, NULL, err, "BEGIN");
	if (rc == 0 && pgc_query(l->warehouse, NULL, err, ledger_hold_sql, 2, params) != 0)
		rc = rt_fail(err, ERR_RETRY, "the fence was lost during the first load");
	return rc;
}

/*
 * Locks the table against being rewritten, and sees to it that it was not since
 * the snapshot, which would find it empty.
 */
static int hold_source(const struct mirror_loader *l, const struct mirror *m, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	PGresult *res;
	buf_str(&sql, "SET LOCAL lock_timeout = '2s'; LOCK TABLE ");
	pgc_ident(&sql, m->nspname);
	buf_u8(&sql, '.');
	pgc_ident(&sql, m->relname);
	buf_str(&sql, " IN ACCESS SHARE MODE");
	int rc = pgc_exec(l->core, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	if (rc != 0)
		return rc;
	const char *params[] = {m->nspname, m->relname};
	rc = pgc_query(l->core, &res, err,
		       "SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n "
		       "ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2 AND "
		       "c.relkind = 'r' AND "
		       "c.relfilenode IS DISTINCT FROM pg_catalog.pg_relation_filenode(c.oid)",
		       2, params);
	if (rc != 0)
		return rc;
	if (strcmp(PQgetvalue(res, 0, 0), "0") != 0)
		rc = rt_fail(err, ERR_RETRY, "%s was rewritten while it was about to be read",
			     m->source);
	PQclear(res);
	return rc;
}

static int make_table(const struct mirror_loader *l, const struct mirror *m,
		      const struct mirror_shape *shape, const char *generated, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	buf_printf(&sql, "SET LOCAL lock_timeout = %d; SET LOCAL client_min_messages = warning;",
		   DDL_LOCK_MS);
	mirror_ddl(m, shape, generated, &sql);
	mirror_record_sql(l->settings, m, shape, &sql);
	int rc = pgc_exec(l->warehouse, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	return rc;
}

static int begin_copy(const struct mirror_loader *l, const struct mirror *m,
		      const struct mirror_shape *shape, char relkind, struct rt_err *err)
{
	bool binary = mirror_copies_binary(shape);
	struct buf out = BUF_INIT, in = BUF_INIT;
	buf_str(&out, "COPY (");
	mirror_select_sql(m, shape, relkind, l->snapshot, &out);
	buf_printf(&out, ") TO STDOUT (FORMAT %s)", binary ? "binary" : "text");
	mirror_copy_sql(m, shape, binary, &in);
	int rc = pgc_exec(l->core, NULL, err, "%s", buf_cstr(&out));
	if (rc == 0)
		rc = pgc_exec(l->warehouse, NULL, err, "%s", buf_cstr(&in));
	buf_release(&out);
	buf_release(&in);
	return rc;
}

static int end_copy(PGconn *c, struct rt_err *err)
{
	int rc = 0;
	for (PGresult *res; (res = PQgetResult(c)) != NULL; PQclear(res))
		if (PQresultStatus(res) != PGRES_COMMAND_OK && rc == 0)
			rc = pgc_fail(c, res, err, "first load");
	return rc;
}

static int pump(const struct mirror_loader *l, const struct mirror *m, struct rt_err *err)
{
	char *row;
	int n;
	while ((n = PQgetCopyData(l->core, &row, 0)) > 0) {
		int ok = PQputCopyData(l->warehouse, row, n);
		PQfreemem(row);
		if (ok != 1)
			return pgc_fail(l->warehouse, NULL, err, "writing the first load");
		if (loop_stopping(l->loop))
			return rt_fail(err, ERR_RETRY, "told to stop during the first load of %s",
				       m->source);
		met_tick(rt_now_us());
	}
	if (n == -2)
		return pgc_fail(l->core, NULL, err, "reading the first load");
	int rc = end_copy(l->core, err);
	if (rc == 0 && PQputCopyEnd(l->warehouse, NULL) != 1)
		rc = pgc_fail(l->warehouse, NULL, err, "writing the first load");
	return rc == 0 ? end_copy(l->warehouse, err) : rc;
}

static int load_table(struct mirror_loader *l, struct mirror *m, struct rt_err *err)
{
	struct shape_table table;
	struct mirror_shape *shape;
	int rc = shape_read(l->core, &l->arena, m->nspname, m->relname, &table, err);
	if (rc == 1)
		return rt_fail(err, ERR_PERMANENT, "the core has no table %s", m->source);
	if (rc == 0)
		rc = hold_source(l, m, err);
	if (rc == 0)
		rc = mirror_shape_new(l->set, &table.schema, &shape, err);
	if (rc == 0)
		rc = make_table(l, m, shape, table.generated, err);
	if (rc == 0)
		rc = begin_copy(l, m, shape, table.kind, err);
	if (rc == 0)
		rc = pump(l, m, err);
	if (rc == 0)
		rc = mirror_set_state(l->warehouse, l->settings, m, LANDED_LIVE, l->snapshot, NULL,
				      err);
	if (rc == 0)
		m->shape = shape;
	return rc;
}

/* What is wrong with one table is no reason to stop the others. */
static int park(struct mirror_loader *l, struct mirror *m, struct rt_err *err)
{
	char why[sizeof(err->msg)];
	snprintf(why, sizeof(why), "first load: %s", err->msg);
	log_error("a mirror is parked: it could not be loaded", "table=%s reason=\"%s\"", m->source,
		  why);
	int rc = pgc_exec(l->warehouse, NULL, err, "ROLLBACK");
	if (rc == 0)
		rc = mirror_set_state(l->warehouse, l->settings, m, LANDED_PARKED, LSN_NONE, why,
				      err);
	return rc;
}

static bool on_wait(void *ctx, const char *text)
{
	met_note("the first load %s", text);
	met_tick(rt_now_us());
	return loop_stopping(ctx);
}

static int open_snapshot(struct mirror_loader *l, struct rt_err *err)
{
	struct pgc_options o = {.what = "core",
				.conninfo = l->settings->core.connect,
				.application_name = "rolag sync",
				.loop = l->loop};
	int rc = pgc_connect(&l->core, &o, err);
	if (rc == 0)
		rc = sync_snapshot(l->core, l->settings, l->ledger, on_wait, l->loop, &l->snapshot,
				   err);
	/* Catalogs are not worth compiling for. */
	return rc != 0 ? rc
		       : pgc_exec(l->core, NULL, err,
				  "SET LOCAL jit = off; SET LOCAL statement_timeout = 0; "
				  "SET LOCAL TimeZone = 'UTC'");
}

static int load_one(struct mirror_loader *l, struct mirror *m, struct rt_err *err)
{
	met_note("first load of %s", m->source);
	int rc = open_snapshot(l, err);
	if (rc == 0)
		rc = begin_held(l, err);
	if (rc != 0)
		return rc;
	rc = load_table(l, m, err);
	FAILPOINT_FD(MIRROR_LOADED, PQsocket(l->warehouse));
	if (rc == 0)
		rc = pgc_exec(l->warehouse, NULL, err, "COMMIT");
	else if (rc == ERR_PERMANENT)
		rc = park(l, m, err);
	pgc_close(l->core);
	l->core = NULL;
	if (rc == 0)
		log_info("first load", "mirror=%s state=%s", m->source,
			 m->state == LANDED_LIVE ? "live" : "parked");
	return rc;
}

int mirror_load_all(PGconn *warehouse, const struct settings *s, struct mirror_set *set,
		    const struct ledger *ledger, struct loop *loop, struct rt_err *err)
{
	struct mirror_loader l = {
		.warehouse = warehouse, .settings = s, .set = set, .ledger = ledger, .loop = loop};
	int rc = 0;
	arena_init(&l.arena, 16384);
	for (uint16_t i = 0; rc == 0 && i < set->count; i++)
		if (set->item[i].state == LANDED_SYNCING)
			rc = load_one(&l, &set->item[i], err);
	pgc_close(l.core);
	arena_release(&l.arena);
	return rc;
}
