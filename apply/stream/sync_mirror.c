/*
 * sync_mirror: snapshot, COPY out, COPY in. Guarantees: the rows and the note
 * of where they are from are one transaction; nothing is written on the core.
 */
#include "apply/stream/sync_mirror.h"

#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/pg/pgconn.h"

#define DDL_LOCK_MS   200
#define TELL_EVERY_US INT64_C(250000)

struct loading {
	struct sync_mirror *to;
	struct mirror *m;
	struct arena arena; /* what the core says of the table */
	struct shape_table table;
	struct mirror_shape *shape;
};

void sync_mirror_unit(struct arena *a, const struct mirror *m, struct sync_unit *ret)
{
	*ret = (struct sync_unit){.name = m->relname,
				  .nspname = m->nspname,
				  .relname = m->relname,
				  .select = "",
				  .target = m->target,
				  .clear = "",
				  .analyze = arena_printf(a, "ANALYZE %s", m->target)};
}

/* ---- the core's side ---- */

/*
 * Locks the table against being rewritten, and sees to it that it was not since
 * the snapshot, which would find it empty.
 */
static int hold_source(const struct loading *l, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	PGresult *res;
	buf_str(&sql, "SET LOCAL lock_timeout = '2s'; LOCK TABLE ");
	pgc_ident(&sql, l->m->nspname);
	buf_u8(&sql, '.');
	pgc_ident(&sql, l->m->relname);
	buf_str(&sql, " IN ACCESS SHARE MODE");
	int rc = pgc_exec(l->to->core, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	if (rc != 0)
		return rc;
	const char *params[] = {l->m->nspname, l->m->relname};
	rc = pgc_query(l->to->core, &res, err,
		       "SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n "
		       "ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2 AND "
		       "c.relkind = 'r' AND "
		       "c.relfilenode IS DISTINCT FROM pg_catalog.pg_relation_filenode(c.oid)",
		       2, params);
	if (rc != 0)
		return rc;
	if (strcmp(PQgetvalue(res, 0, 0), "0") != 0)
		rc = rt_fail(err, ERR_RETRY, "%s was rewritten while it was about to be read",
			     l->m->source);
	PQclear(res);
	return rc;
}

static int open_source(struct loading *l, struct rt_err *err)
{
	struct sync_mirror *t = l->to;
	int rc = sync_snapshot(t->core, t->settings, t->ledger, t->on_wait, t->ctx, &t->note->start,
			       err);
	if (rc == 0) /* catalogs are not worth compiling for */
		rc = pgc_exec(t->core, NULL, err,
			      "SET LOCAL jit = off; SET LOCAL statement_timeout = 0; "
			      "SET LOCAL TimeZone = 'UTC'");
	if (rc == 0)
		rc = shape_read(t->core, &l->arena, l->m->nspname, l->m->relname, &l->table, err);
	if (rc == 1)
		return rt_fail(err, ERR_PERMANENT, "the core has no table %s", l->m->source);
	if (rc == 0)
		rc = hold_source(l, err);
	return rc == 0 ? mirror_shape_new(t->set, &l->table.schema, &l->shape, err) : rc;
}

/* ---- the warehouse's side ---- */

static bool lands_alike(const struct mirror_shape *a, const struct mirror_shape *b)
{
	if (a->source.count != b->source.count)
		return false;
	for (uint16_t i = 0; i < a->source.count; i++)
		if (strcmp(a->source.column[i].name, b->source.column[i].name) != 0 ||
		    a->source.column[i].key != b->source.column[i].key ||
		    strcmp(a->source.land[i].type, b->source.land[i].type) != 0)
			return false;
	return true;
}

/* Is there a table that only needs other rows? */
static int is_made(const struct loading *l, bool *ret, struct rt_err *err)
{
	PGresult *res;
	*ret = false;
	if (l->m->shape == NULL || !lands_alike(l->m->shape, l->shape))
		return 0;
	int rc = pgc_query(l->to->warehouse, &res, err, "SELECT to_regclass($1) IS NOT NULL", 1,
			   &l->m->target);
	if (rc != 0)
		return rc;
	*ret = PQgetvalue(res, 0, 0)[0] == 't';
	PQclear(res);
	return 0;
}

static int make_table(const struct loading *l, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	bool made;
	int rc = is_made(l, &made, err);
	if (rc != 0)
		return rc;
	if (made) {
		buf_printf(&sql, "DELETE FROM %s", l->m->target);
	} else {
		buf_printf(&sql,
			   "SET LOCAL lock_timeout = %d; SET LOCAL client_min_messages = warning;",
			   DDL_LOCK_MS);
		mirror_ddl(l->m, l->shape, l->table.generated, &sql);
	}
	rc = pgc_exec(l->to->warehouse, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	return rc;
}

static int record_shape(const struct loading *l, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	mirror_record_sql(l->to->settings, l->m, l->shape, &sql);
	int rc = pgc_exec(l->to->warehouse, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	return rc;
}

static int begin_copy(const struct loading *l, struct rt_err *err)
{
	bool binary = mirror_copies_binary(l->shape);
	struct buf out = BUF_INIT, in = BUF_INIT;
	buf_str(&out, "COPY (");
	mirror_select_sql(l->m, l->shape, l->table.kind, l->to->note->start, &out);
	buf_printf(&out, ") TO STDOUT (FORMAT %s)", binary ? "binary" : "text");
	mirror_copy_sql(l->m, l->shape, binary, &in);
	int rc = pgc_exec(l->to->core, NULL, err, "%s", buf_cstr(&out));
	if (rc == 0)
		rc = pgc_exec(l->to->warehouse, NULL, err, "%s", buf_cstr(&in));
	buf_release(&out);
	buf_release(&in);
	return rc;
}

/* What is left of a COPY's answer. */
static int end_copy(PGconn *c, struct rt_err *err)
{
	int rc = 0;
	for (PGresult *res; (res = PQgetResult(c)) != NULL; PQclear(res))
		if (PQresultStatus(res) != PGRES_COMMAND_OK && rc == 0)
			rc = pgc_fail(c, res, err, "copying");
	return rc;
}

static int pump(const struct loading *l, struct rt_err *err)
{
	struct sync_mirror *t = l->to;
	int64_t told_us = rt_mono_us();
	char *row;
	int n;
	t->note->rows = 0;
	while ((n = PQgetCopyData(t->core, &row, 0)) > 0) {
		int ok = PQputCopyData(t->warehouse, row, n);
		PQfreemem(row);
		if (ok != 1)
			return pgc_fail(t->warehouse, NULL, err, "copying");
		t->note->rows++;
		int64_t now = rt_mono_us();
		if (now - told_us < TELL_EVERY_US)
			continue;
		told_us = now;
		if (t->on_wait(t->ctx, ""))
			return rt_fail(err, ERR_RETRY, "told to stop");
	}
	if (n == -2)
		return pgc_fail(t->core, NULL, err, "reading the core");
	int rc = end_copy(t->core, err);
	if (rc == 0 && PQputCopyEnd(t->warehouse, NULL) != 1)
		rc = pgc_fail(t->warehouse, NULL, err, "copying");
	return rc == 0 ? end_copy(t->warehouse, err) : rc;
}

/* Within the transaction that notes it. */
static int fill(void *ctx, struct rt_err *err)
{
	struct loading *l = ctx;
	int rc = open_source(l, err);
	if (rc == 0)
		rc = make_table(l, err);
	if (rc == 0)
		rc = begin_copy(l, err);
	if (rc == 0)
		rc = pump(l, err);
	if (rc == 0)
		rc = record_shape(l, err);
	FAILPOINT_FD(MIRROR_LOADED, PQsocket(l->to->warehouse));
	return rc;
}

int sync_mirror_read(struct sync_mirror *t, struct rt_err *err)
{
	struct loading l = {.to = t, .m = &t->set->item[0]};
	arena_init(&l.arena, 16384);
	int rc = sync_note_whole(t->warehouse, t->settings, t->unit, t->ledger, t->note, fill, &l,
				 err);
	pgc_close(t->core);
	t->core = NULL;
	arena_release(&l.arena);
	return rc;
}
