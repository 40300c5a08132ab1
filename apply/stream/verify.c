/*
 * verify: its sessions, and a rollup's comparison. Guarantees: no session is
 * idle in a transaction, nothing but a fence is written on the core, and no
 * value leaves these files.
 */
#include "apply/stream/verify_run.h"

#include <inttypes.h>

#include "apply/stream/verify_fence.h"
#include "proto/pg/pgconn.h"

const char *verify_kind_name(enum verify_kind kind)
{
	static const char *const names[] = {"missing", "extra", "differs", "unfoldable"};
	return names[kind];
}

/* ---- connections ---- */

/* Index order without a sort (the core writes no temporary files for us), and no JIT where that looks dear. */
static int connect_to(const struct verify_options *v, const char *what, const char *conninfo,
		      const char *more, PGconn **ret, struct rt_err *err)
{
	struct pgc_options o = {.what = what,
				.conninfo = conninfo,
				.application_name = "rolag verify",
				.loop = v->loop};
	int rc = pgc_connect(ret, &o, err);
	if (rc != 0)
		return rc;
	return pgc_exec(*ret, NULL, err,
			"SET enable_sort = off; SET enable_seqscan = off; SET jit = off; "
			"SET statement_timeout = 0; "
			"SET idle_in_transaction_session_timeout = '60s'; %s",
			more);
}

int verify_connect_core(const struct verify_options *o, PGconn **ret, struct rt_err *err)
{
	return connect_to(o, "core", o->settings->core.connect,
			  "SET default_transaction_read_only = on; SET lock_timeout = '10s'; "
			  /* A fence needs no standby: the stream has it all the same. */
			  "SET synchronous_commit = local",
			  ret, err);
}

int verify_connect_warehouse(const struct verify_options *o, PGconn **ret, struct rt_err *err)
{
	return connect_to(o, "warehouse", o->settings->warehouse.connect, "", ret, err);
}

int verify_open(struct verify **ret, const struct verify_options *o, struct rt_err *err)
{
	struct verify *v = rt_calloc(1, sizeof(*v));
	v->o = *o;
	arena_init(&v->ids, 65536);
	int rc = verify_connect_core(o, &v->core_sure, err);
	if (rc == 0)
		rc = verify_connect_warehouse(o, &v->warehouse_sure, err);
	if (rc == 0 && o->sample == 0) {
		rc = verify_connect_core(o, &v->core, err);
		if (rc == 0)
			rc = verify_connect_warehouse(o, &v->history, err);
		if (rc == 0)
			rc = verify_connect_warehouse(o, &v->latest, err);
	}
	if (rc != 0) {
		verify_close(v);
		return rc;
	}
	*ret = v;
	return 0;
}

void verify_close(struct verify *v)
{
	if (v == NULL)
		return;
	PGconn *c[] = {v->core, v->history, v->latest, v->core_sure, v->warehouse_sure};
	for (size_t i = 0; i < ARRAY_LEN(c); i++)
		pgc_close(c[i]);
	arena_release(&v->ids);
	free(v);
}

/* ---- a rollup ---- */

/* Only what follows the stream, made by this definition, can be held against the core. */
static int check_state(struct verify *v, struct rt_err *err)
{
	const struct rollup *r = v->l->rollup;
	const char *params[] = {v->o.settings->pipeline, r->name};
	char mine[17];
	PGresult *res;
	snprintf(mine, sizeof(mine), "%016" PRIx64, r->fingerprint);
	int rc = pgc_query(v->warehouse_sure, &res, err,
			   "SELECT state, definition, fingerprint FROM rolag.relation WHERE "
			   "pipeline = $1 AND name = $2 AND kind = 'rollup'",
			   2, params);
	if (rc != 0)
		return rc;
	if (PQntuples(res) == 0)
		rc = rt_fail(err, ERR_PERMANENT, "it is not landed; mend: rolag init");
	else if (strcmp(PQgetvalue(res, 0, 0), "live") != 0)
		rc = rt_fail(err, ERR_PERMANENT, "its state is %s: it does not follow the core",
			     PQgetvalue(res, 0, 0));
	else if (strcmp(PQgetvalue(res, 0, 2), mine) != 0)
		rc = rt_fail(
			err, ERR_PERMANENT,
			"its rows were made by definition %s, another than that of %s (%" PRId32
			")",
			PQgetvalue(res, 0, 1), r->file, r->definition);
	PQclear(res);
	return rc;
}

static int compare_given(struct verify *v, size_t count, const char *const *id, struct rt_err *err)
{
	struct buf binary = BUF_INIT;
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < count; i++) {
		buf_clear(&binary);
		rc = pgt_from_text(v->l->rollup->id_type, slice_str(id[i]), NULL, &binary, err);
		if (rc != 0)
			rt_context(err, "entity %s", id[i]);
		else
			rc = verify_suspect(v, buf_slice(&binary), err);
	}
	buf_release(&binary);
	return rc == 0 ? verify_judge(v, err) : rc;
}

static int compare_rollup(struct verify *v, struct rt_err *err)
{
	if (v->o.sample > 0)
		return verify_sample(v, err);
	if (verify_id_has_order(v->l->rollup->id_type))
		return verify_all(v, err);
	return verify_listed(v, err);
}

/* 1: the core has no table of its own for it. */
static int find_triggers(struct verify *v, struct arena *a, struct rt_err *err)
{
	if (!v->o.against_triggers)
		return 0;
	int rc =
		verify_triggers_find(v->core_sure, v->l, a, v->o.note, v->o.ctx, &v->triggers, err);
	if (rc == 0 && v->triggers.exists)
		v->l = &v->triggers.here;
	return rc != 0 ? rc : !v->triggers.exists;
}

int verify_rollup(struct verify *v, const struct landed *l, struct verify_count *ret,
		  struct rt_err *err)
{
	struct arena names;
	arena_init(&names, 4096);
	v->l = l;
	v->count = ret;
	int rc = find_triggers(v, &names, err);
	if (rc == 0)
		rc = check_state(v, err);
	if (rc == 0)
		rc = compare_rollup(v, err);
	if (rc == 0) /* what was seen is worth nothing where it did not stay so */
		rc = check_state(v, err);
	arena_release(&names);
	return rc >= 0 ? rc : rt_context(err, "%s", l->rollup->name);
}

int verify_entities(struct verify *v, const struct landed *l, size_t count, const char *const *id,
		    struct verify_count *ret, struct rt_err *err)
{
	v->l = l;
	v->count = ret;
	int rc = check_state(v, err);
	if (rc == 0)
		rc = compare_given(v, count, id, err);
	return rc == 0 ? 0 : rt_context(err, "%s", l->rollup->name);
}

int verify_pass(struct verify *v, struct rt_err *err)
{
	struct verify_fence fence;
	return verify_fence_pass(v->core_sure, v->warehouse_sure, v->o.settings, v->o.loop,
				 v->o.patience_us, &fence, err);
}

PGconn *verify_warehouse(struct verify *v)
{
	return v->warehouse_sure;
}
