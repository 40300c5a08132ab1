/* keep: dropping. Guarantees: no CASCADE; what somebody else's object needs stays, and is an error. */
#include "apply/reports/keep.h"

#include "apply/reports/build.h"
#include "apply/reports/making.h"
#include "apply/reports/target.h"
#include "proto/base/buf.h"
#include "proto/base/failpoint.h"
#include "proto/pg/pgconn.h"

/* One DROP for all relations of a kind, so that those which need each other go together. */
static int drop_kind(PGconn *c, const char *schema, const char *kinds, const char *what,
		     struct rt_err *err)
{
	const char *params[] = {schema, kinds};
	PGresult *res;
	int rc =
		pgc_query(c, &res, err,
			  "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN "
			  "pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND "
			  "position(c.relkind::text IN $2) > 0 AND NOT c.relispartition ORDER BY 1",
			  2, params);
	if (rc != 0)
		return rc;
	struct buf sql = BUF_INIT;
	buf_printf(&sql, "DROP %s ", what);
	for (int i = 0; i < PQntuples(res); i++)
		buf_printf(&sql, "%s%s", i > 0 ? ", " : "", PQgetvalue(res, i, 0));
	if (PQntuples(res) > 0)
		rc = pgc_exec(c, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	PQclear(res);
	return rc;
}

static int drop_all(PGconn *c, const char *schema, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_query(c, &res, err, "SELECT 1 FROM pg_namespace WHERE nspname = $1", 1,
			   &schema);
	if (rc != 0)
		return rc;
	const bool there = PQntuples(res) > 0;
	PQclear(res);
	if (!there)
		return 0;
	rc = drop_kind(c, schema, "v", "VIEW", err);
	if (rc == 0)
		rc = drop_kind(c, schema, "m", "MATERIALIZED VIEW", err);
	if (rc == 0)
		rc = drop_kind(c, schema, "rp", "TABLE", err);
	return rc == 0 ? pgc_exec(c, NULL, err, "DROP SCHEMA %s", schema) : rc;
}

int keep_drop_run(PGconn *c, const char *run_id, struct rt_err *err)
{
	char schema[MAKING_SCHEMA_MAX];
	struct rt_err ignored;
	int rc = build_drop(c, run_id, err);
	if (rc != 0)
		return rc;
	making_schema(run_id, schema);
	rc = pgc_exec(c, NULL, err, "BEGIN; SET LOCAL lock_timeout = '5s'");
	if (rc == 0)
		rc = drop_all(c, schema, err);
	FAILPOINT_FD(REPORTS_BEFORE_DROP, PQsocket(c));
	if (rc == 0)
		return pgc_exec(c, NULL, err, "COMMIT");
	(void)!pgc_exec(c, NULL, &ignored, "ROLLBACK");
	return rt_context(err, "dropping the schema %s", schema);
}

/* ---- old runs ---- */

static int drop_rows(PGconn *c, PGresult *res, int *dropped, struct rt_err *err)
{
	int rc = 0;
	for (int i = 0; rc == 0 && i < PQntuples(res); i++) {
		const char *id = PQgetvalue(res, i, 0);
		rc = keep_drop_run(c, id, err);
		if (rc == 0)
			rc = pgc_query(c, NULL, err,
				       "UPDATE rolag.report_run SET kept = false WHERE id = $1 AND "
				       "kept",
				       1, &id);
		*dropped += rc == 0;
	}
	PQclear(res);
	return rc;
}

int keep_prune(PGconn *c, const struct settings *s, struct rt_err *err)
{
	char keep[24];
	int dropped = 0;
	PGresult *res;
	snprintf(keep, sizeof(keep), "%lld", (long long)s->reports.keep_runs);
	const char *params[] = {s->pipeline, keep};
	int rc = pgc_query(
		c, NULL, err,
		"DELETE FROM rolag.fence_seen f USING rolag.report_run r WHERE f.run_id = "
		"r.id::text AND r.pipeline = $1 AND r.state IN ('published', 'failed', "
		"'superseded')",
		1, params);
	if (rc == 0)
		rc = pgc_query(c, &res, err,
			       "SELECT id FROM rolag.report_run WHERE pipeline = $1 AND kept AND "
			       "state = 'published' ORDER BY number DESC OFFSET $2",
			       2, params);
	return rc == 0 ? drop_rows(c, res, &dropped, err) : rc;
}

int keep_discard(PGconn *c, const struct settings *s, const char *run_id, struct rt_err *err)
{
	int rc = target_discard(s->reports.target, run_id, true, err);
	return rc == 0 ? keep_drop_run(c, run_id, err) : rc;
}

/* ---- after a crash ---- */

struct sweep {
	PGconn *c;
	const struct settings *s;
	int dropped;
};

/* A folder that is being made, of a run that is over or unknown; a visible one, of a run that failed. */
static int sweep_folder(void *ctx, const char *run_id, bool visible, struct rt_err *err)
{
	struct sweep *w = ctx;
	const char *params[] = {run_id, w->s->pipeline};
	PGresult *res;
	int rc = pgc_query(w->c, &res, err,
			   "SELECT state, pipeline = $2 FROM rolag.report_run WHERE id = $1", 2,
			   params);
	if (rc != 0)
		return rc;
	const char *state = PQntuples(res) == 1 ? PQgetvalue(res, 0, 0) : NULL;
	const bool ours = state == NULL || PQgetvalue(res, 0, 1)[0] == 't';
	const bool open =
		state != NULL && (strcmp(state, "writing") == 0 || strcmp(state, "building") == 0);
	const bool failed = state != NULL && strcmp(state, "failed") == 0;
	PQclear(res);
	if (!ours || open || (visible && !failed))
		return 0;
	w->dropped++;
	return target_discard(w->s->reports.target, run_id, visible, err);
}

/* The built-in builder's, unless a run that is built waits for its files: that one goes on. */
static int sweep_builds(PGconn *c, const struct settings *s, int *dropped, struct rt_err *err)
{
	PGresult *res;
	int count = 0;
	int rc = pgc_query(c, &res, err,
			   "SELECT FROM rolag.report_run WHERE pipeline = $1 AND state = 'writing'",
			   1, &s->pipeline);
	if (rc != 0)
		return rc;
	const bool waits = PQntuples(res) > 0;
	PQclear(res);
	rc = waits ? 0 : build_sweep(c, &count, err);
	*dropped += count;
	return rc;
}

int keep_sweep(PGconn *c, const struct settings *s, int *ret_dropped, struct rt_err *err)
{
	struct sweep w = {c, s, 0};
	PGresult *res;
	/* Runs of other pipelines are not in this list: their schema has a row. */
	int rc = pgc_exec(
		c, &res, err,
		"SELECT coalesce(r.id::text, i.hex::uuid::text) FROM pg_namespace n CROSS JOIN "
		"LATERAL (SELECT substr(n.nspname, 1 + length('" MAKING_PREFIX "')) AS hex) i LEFT "
		"JOIN rolag.report_run r ON replace(r.id::text, '-', '') = i.hex WHERE n.nspname ~ "
		"'^" MAKING_PREFIX
		"[0-9a-f]{32}$' AND pg_has_role(n.nspowner, 'USAGE') AND (r.id IS "
		"NULL OR r.state = 'failed' OR (r.state IN ('published', 'superseded') AND NOT "
		"r.kept))");
	if (rc == 0)
		rc = drop_rows(c, res, &w.dropped, err);
	if (rc == 0)
		rc = sweep_builds(c, s, &w.dropped, err);
	if (rc == 0)
		rc = pgc_query(c, NULL, err,
			       "DELETE FROM rolag.fence_seen WHERE pipeline = $1 AND seen_at < "
			       "now() - interval '7 days'",
			       1, &s->pipeline);
	if (rc == 0)
		rc = target_walk(s->reports.target, sweep_folder, &w, err);
	*ret_dropped = w.dropped;
	return rc;
}
