/*
 * build_drop: what runs leave. Guarantees: a relation that another run counts
 * on, or that somebody's view reads, stays until that is over.
 */
#include "apply/reports/build_inner.h"
#include "proto/base/failpoint.h"
#include "proto/pg/pgconn.h"

/*
 * Relations of a run's schema that no row of rolag.model means any more and
 * nothing else reads, views before what they read. $1: the schema.
 */
static const char unneeded_sql[] =
	"SELECT c.relkind, c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = "
	"c.relnamespace WHERE n.nspname = $1 AND c.relkind IN ('r', 'v') AND NOT EXISTS (SELECT "
	"FROM "
	"rolag.model m WHERE m.relation_schema = $1 AND m.name = c.relname) AND NOT EXISTS (SELECT "
	"FROM "
	"pg_depend d JOIN pg_rewrite w ON w.oid = d.objid WHERE d.classid = 'pg_rewrite'::regclass "
	"AND "
	"d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND w.ev_class <> c.oid) "
	"ORDER BY c.relname";

static int drop_round(PGconn *c, const char *schema, int *ret_dropped, struct rt_err *err)
{
	PGresult *res = NULL;
	int rc = pgc_query(c, &res, err, unneeded_sql, 1, &schema);
	*ret_dropped = 0;
	for (int i = 0; rc == 0 && i < PQntuples(res); i++) {
		bool view = PQgetvalue(res, i, 0)[0] == 'v';
		FAILPOINT_FD(DROP_RELATION, PQsocket(c));
		rc = pgc_exec(c, NULL, err, "DROP %s %s", view ? "VIEW" : "TABLE",
			      PQgetvalue(res, i, 1));
		(*ret_dropped)++;
	}
	PQclear(res);
	return rc;
}

/*
 * Runs that were never published and whose session is gone; and runs that
 * nobody keeps, of which neither a later run nor a view needs anything.
 */
static const char abandoned_sql[] =
	"DELETE FROM rolag.model_run r USING (SELECT r.run_id, u.published_at FROM rolag.model_run "
	"r "
	"LEFT JOIN rolag.model_publication u USING (run_id)) p WHERE p.run_id = r.run_id AND CASE "
	"WHEN "
	"p.published_at IS NULL THEN NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = "
	"r.backend_pid AND coalesce(a.backend_start = r.backend_start, true)) ELSE NOT r.kept AND "
	"EXISTS (SELECT FROM rolag.model_publication l WHERE l.published_at > p.published_at) AND "
	"NOT "
	"EXISTS (SELECT FROM rolag.model m WHERE m.relation_schema = r.schema AND m.run_id <> "
	"r.run_id) "
	"AND NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN "
	"pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.classid = "
	"'pg_rewrite'::regclass JOIN pg_rewrite w ON w.oid = d.objid JOIN pg_class v ON v.oid = "
	"w.ev_class WHERE n.nspname = r.schema AND v.relnamespace <> n.oid) END RETURNING 1";

/* What is not needed goes; then the schema, where nothing is left. */
static int drop_schema(PGconn *c, const char *schema, struct rt_err *err)
{
	PGresult *res;
	int dropped, rc;
	do {
		rc = drop_round(c, schema, &dropped, err);
	} while (rc == 0 && dropped > 0);
	if (rc == 0)
		rc = pgc_query(
			c, &res, err,
			"SELECT FROM pg_namespace n WHERE nspname = $1 AND NOT EXISTS (SELECT FROM "
			"pg_class c WHERE c.relnamespace = n.oid)",
			1, &schema);
	if (rc != 0)
		return rc;
	bool empty = PQntuples(res) > 0;
	PQclear(res);
	return empty ? pgc_exec(c, NULL, err, "DROP SCHEMA %s", schema) : 0;
}

/* Schemas of runs that are gone themselves, and whose relations were still needed. */
static int drop_rests(PGconn *c, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_query(
		c, &res, err,
		"SELECT nspname FROM pg_namespace n WHERE nspname ~ '^rolag_run_[0-9a-f]{32}$' "
		"AND NOT EXISTS (SELECT FROM rolag.model_run r WHERE r.schema = n.nspname) AND "
		"pg_has_role(nspowner, 'USAGE') ORDER BY nspname",
		0, NULL);
	if (rc != 0)
		return rc;
	for (int i = 0; rc == 0 && i < PQntuples(res); i++)
		rc = drop_schema(c, PQgetvalue(res, i, 0), err);
	PQclear(res);
	return rc;
}

/* The lock keeps builds out that would reuse what is dropped; readers of relations are waited for half a second. */
static int begin(PGconn *c, struct rt_err *err)
{
	return pgc_exec(
		c, NULL, err,
		"BEGIN; SET LOCAL search_path = pg_catalog; SET LOCAL lock_timeout = '500ms'; "
		"SET LOCAL client_min_messages = error; "
		"LOCK TABLE rolag.model IN SHARE ROW EXCLUSIVE MODE");
}

static int end(PGconn *c, int rc, struct rt_err *err)
{
	struct rt_err ignored; /* the first error is the one to tell */
	FAILPOINT_FD(DROP_COMMIT, PQsocket(c));
	if (rc == 0)
		return pgc_exec(c, NULL, err, "COMMIT");
	if (PQstatus(c) == CONNECTION_OK)
		(void)!pgc_exec(c, NULL, &ignored, "ROLLBACK");
	/* Somebody reads it, or builds: the next time. */
	if (pgc_err_is_state(err, "55P03"))
		err->code = ERR_RETRY;
	return (int)err->code;
}

int build_drop(PGconn *c, const char *run_id, struct rt_err *err)
{
	char hex[33];
	const char *params[] = {hex};
	if (!build_run_hex(run_id, hex))
		return rt_fail(err, ERR_USAGE, "the run's id is no uuid");
	int rc = begin(c, err);
	if (rc == 0)
		rc = pgc_query(c, NULL, err, "DELETE FROM rolag.model_run WHERE run_id = $1::uuid",
			       1, params);
	if (rc == 0)
		rc = drop_rests(c, err);
	return end(c, rc, err);
}

/* One run may be all that keeps another: until nothing goes any more. */
static int drop_abandoned(PGconn *c, int *ret_dropped, struct rt_err *err)
{
	PGresult *res;
	int gone, rc;
	do {
		rc = pgc_query(c, &res, err, abandoned_sql, 0, NULL);
		if (rc != 0)
			return rc;
		gone = PQntuples(res);
		*ret_dropped += gone;
		PQclear(res);
		rc = drop_rests(c, err);
	} while (rc == 0 && gone > 0);
	return rc;
}

int build_sweep(PGconn *c, int *ret_dropped, struct rt_err *err)
{
	int dropped = 0, rc = begin(c, err);
	if (rc == 0)
		rc = drop_abandoned(c, &dropped, err);
	rc = end(c, rc, err);
	if (rc == 0)
		*ret_dropped = dropped;
	return rc;
}
