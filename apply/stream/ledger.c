/*
 * ledger: fence and applied position. Guarantees: two appliers never both
 * commit a batch; l->applied is what the warehouse says, l->flushed never
 * runs ahead of its disk.
 */
#include "apply/stream/ledger.h"

#include <inttypes.h>
#include <unistd.h>

#include "apply/sql/migrate.h"
#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/pg/pgconn.h"

#define TAKEOVER_US INT64_C(30000000)
/* Who holds the fence, in one text that no two takeovers share. */
#define OWNER_SQL                                                                                  \
	"concat_ws(' ', owner_host, backend_pid, (extract(epoch FROM backend_start) * "            \
	"1000000)::int8)"

const char ledger_insert_sql[] =
	"WITH ok AS (INSERT INTO rolag.ledger (pipeline, applied_lsn, timeline, committed_at, "
	"relations) SELECT f.pipeline, $2::pg_lsn, $3::int4, $4::timestamptz, $6::text[] FROM "
	"rolag.fence f "
	"WHERE f.pipeline = $1::text AND f.epoch = $5::int8 AND coalesce((SELECT l.applied_lsn "
	"FROM rolag.ledger l WHERE l.pipeline = $1::text ORDER BY l.applied_lsn DESC LIMIT 1), "
	"'0/0') < $2::pg_lsn FOR SHARE OF f RETURNING 1) SELECT 1 / count(*) FROM ok";
const char ledger_hold_sql[] = "WITH ok AS (SELECT 1 FROM rolag.fence f WHERE f.pipeline = "
			       "$1::text AND f.epoch = $2::int8 "
			       "FOR SHARE OF f) SELECT 1 / count(*) FROM ok";
/* What the rows say of relations outlives them. */
const char ledger_trim_sql[] =
	"WITH gone AS (DELETE FROM rolag.ledger WHERE pipeline = $1::text AND applied_lsn < "
	"$2::pg_lsn RETURNING applied_lsn, relations), last AS (SELECT x.name, max(g.applied_lsn) "
	"AS "
	"lsn FROM gone g, unnest(coalesce(g.relations, '{*}')) AS x(name) GROUP BY x.name) "
	"INSERT INTO rolag.written (pipeline, name, lsn) SELECT $1::text, name, lsn FROM last "
	"ON CONFLICT (pipeline, name) DO UPDATE SET lsn = excluded.lsn";
const char ledger_position_sql[] = "SELECT pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn()";

static const char *application_name(const struct settings *s, char *out, size_t size)
{
	snprintf(out, size, "rolag apply %s", s->pipeline);
	return out;
}

int ledger_connect(PGconn **ret, const struct settings *s, struct loop *loop, struct rt_err *err)
{
	char name[80];
	PGconn *c = NULL;
	struct pgc_options o = {.what = "warehouse",
				.conninfo = s->warehouse.connect,
				.application_name = application_name(s, name, sizeof(name)),
				.loop = loop};
	int rc = pgc_connect(&c, &o, err);
	if (rc != 0)
		return rc;
	rc = pgc_exec(c, NULL, err,
		      "SET statement_timeout = 0; SELECT set_config(name, 'lz4', false) "
		      "FROM pg_settings WHERE name = 'default_toast_compression' "
		      "AND 'lz4' = ANY (enumvals)");
	if (rc == 0)
		rc = migrate_check(c, err);
	if (rc != 0)
		pgc_close(c);
	else
		*ret = c;
	return rc;
}

/* Reads the newest ledger row into l; no row: init was not finished. */
static int read_applied(PGconn *c, const struct settings *s, struct ledger *l, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_query(c, &res, err,
			   "SELECT applied_lsn, timeline FROM rolag.ledger WHERE pipeline = $1 "
			   "ORDER BY applied_lsn DESC LIMIT 1",
			   1, &s->pipeline);
	if (rc != 0)
		return rc;
	if (PQntuples(res) == 0) {
		rc = rt_fail(
			err, ERR_PERMANENT,
			"the warehouse has no ledger row for the pipeline %s; mend: rolag init",
			s->pipeline);
	} else {
		l->applied = pgc_get_lsn(res, 0, 0);
		l->timeline = (uint32_t)strtoul(PQgetvalue(res, 0, 1), NULL, 10);
	}
	PQclear(res);
	return rc;
}

static int terminate_rivals(PGconn *c, const struct settings *s, char *ret_pids, size_t size,
			    struct rt_err *err)
{
	char name[80];
	PGresult *res;
	const char *param = application_name(s, name, sizeof(name));
	int rc = pgc_query(
		c, &res, err,
		"SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = "
		"current_user AND application_name = $1 AND pid <> pg_backend_pid()",
		1, &param);
	if (rc != 0)
		return rc;
	FAILPOINT_FD(TAKEOVER_RIVALS, PQsocket(c));
	size_t n = 0;
	ret_pids[0] = '\0';
	for (int i = 0; i < PQntuples(res) && n + 12 < size; i++)
		n += (size_t)snprintf(ret_pids + n, size - n, "%s%s", i > 0 ? " " : "",
				      PQgetvalue(res, i, 0));
	PQclear(res);
	return 0;
}

/* What the fence row says. */
struct fence {
	int64_t epoch;
	uint64_t system_id;
	char owner[sizeof((struct ledger){0}.tried_owner)];
};

/* Locks the fence row within this transaction. *ret_held: not had, since somebody else holds it. */
static int lock_fence(PGconn *c, const struct settings *s, struct fence *ret, bool *ret_held,
		      struct rt_err *err)
{
	PGresult *res;
	*ret_held = false;
	FAILPOINT_FD(TAKEOVER_BEFORE_LOCK, PQsocket(c));
	int rc = pgc_exec(c, NULL, err,
			  "BEGIN; SET LOCAL lock_timeout = '2s'; "
			  "SET LOCAL synchronous_commit = on");
	if (rc != 0)
		return rc;
	res = PQexecParams(c,
			   "SELECT epoch, core_system_id, " OWNER_SQL
			   " FROM rolag.fence WHERE pipeline = $1 FOR UPDATE",
			   1, NULL, &s->pipeline, NULL, NULL, 0);
	*ret_held = pgc_is_state(res, "55P03");
	if (PQresultStatus(res) != PGRES_TUPLES_OK) {
		rc = pgc_fail(c, res, err, "taking the fence");
		PQclear(res);
		return rc;
	}
	if (PQntuples(res) == 0) {
		rc = rt_fail(err, ERR_PERMANENT,
			     "the warehouse does not know the pipeline %s; mend: rolag init",
			     s->pipeline);
	} else {
		ret->epoch = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
		ret->system_id = strtoull(PQgetvalue(res, 0, 1), NULL, 10);
		snprintf(ret->owner, sizeof(ret->owner), "%s", PQgetvalue(res, 0, 2));
	}
	PQclear(res);
	return rc;
}

static int fenced(const struct settings *s, int64_t mine, int64_t now, struct rt_err *err)
{
	return rt_fail(err, ERR_PERMANENT,
		       "another applier has taken over the pipeline %s (epoch %" PRId64
		       ", ours was %" PRId64 "); this one stops for good",
		       s->pipeline, now, mine);
}

/* Was the fence taken last by us: by a takeover that we know of, or by one whose answer was lost? */
static bool is_ours(const struct ledger *l, const struct fence *f)
{
	return l->epoch == 0 || (f->epoch == l->epoch && strcmp(f->owner, l->owner) == 0) ||
	       (f->epoch == l->tried_epoch && strcmp(f->owner, l->tried_owner) == 0);
}

/* Takeovers are never lost: with fewer of them, the warehouse is a copy from before our last one. */
static bool was_set_back(const struct ledger *l, const struct fence *f)
{
	return f->epoch < l->epoch;
}

static int raise_epoch(PGconn *c, const struct settings *s, int64_t epoch, struct ledger *l,
		       struct rt_err *err)
{
	char host[128] = "", text[24];
	PGresult *res;
	gethostname(host, sizeof(host) - 1);
	snprintf(text, sizeof(text), "%" PRId64, epoch);
	const char *params[] = {s->pipeline, text, host};
	int rc =
		pgc_query(c, &res, err,
			  "UPDATE rolag.fence SET epoch = $2::int8, owner_host = $3, backend_pid = "
			  "pg_backend_pid(), backend_start = (SELECT backend_start FROM "
			  "pg_stat_activity WHERE pid = pg_backend_pid()), taken_at = now() "
			  "WHERE pipeline = $1 RETURNING " OWNER_SQL,
			  3, params);
	if (rc != 0)
		return rc;
	/* Before the COMMIT: should its answer get lost, the next takeover must know its own name. */
	l->tried_epoch = epoch;
	snprintf(l->tried_owner, sizeof(l->tried_owner), "%s", PQgetvalue(res, 0, 0));
	PQclear(res);
	FAILPOINT_FD(TAKEOVER_BEFORE_COMMIT, PQsocket(c));
	if ((rc = pgc_exec(c, &res, err, "COMMIT")) != 0)
		return rc;
	if (strcmp(PQcmdStatus(res), "COMMIT") != 0)
		rc = rt_fail(err, ERR_RETRY, "the warehouse rolled the takeover back");
	PQclear(res);
	return rc;
}

int ledger_take_over(PGconn *c, const struct settings *s, struct ledger *l, struct rt_err *err)
{
	int64_t end = rt_mono_us() + TAKEOVER_US;
	struct fence f = {0};
	char pids[128] = "";
	for (;;) {
		struct rt_err ignored;
		bool held;
		int rc = lock_fence(c, s, &f, &held, err);
		if (rc == 0)
			break;
		if (!held || pgc_exec(c, NULL, &ignored, "ROLLBACK") != 0)
			return rc; /* it ends with its connection */
		if (rt_mono_us() > end)
			return rt_fail(
				err, ERR_RETRY,
				"the fence of the pipeline %s stays locked by another applier "
				"(backend pid %s), which does not end",
				s->pipeline, pids[0] != '\0' ? pids : "unknown");
		if ((rc = terminate_rivals(c, s, pids, sizeof(pids), err)) != 0)
			return rc;
	}
	FAILPOINT_FD(TAKEOVER_LOCKED, PQsocket(c));
	if (was_set_back(l, &f))
		log_warn("the warehouse was set back (restored from a copy?): what it lacks comes "
			 "from the spool again",
			 "epoch=%" PRId64 " was=%" PRId64, f.epoch, l->epoch);
	else if (!is_ours(l, &f))
		return fenced(s, l->epoch, f.epoch, err);
	/* The one whose answer was lost was done: it is ours even if the next one's fails. */
	if (l->epoch != 0) {
		l->epoch = f.epoch;
		snprintf(l->owner, sizeof(l->owner), "%s", f.owner);
	}
	int rc = raise_epoch(c, s, f.epoch + 1, l, err);
	if (rc != 0)
		return rc;
	FAILPOINT_FD(TAKEOVER_AFTER_COMMIT, PQsocket(c));
	l->epoch = f.epoch + 1;
	snprintf(l->owner, sizeof(l->owner), "%s", l->tried_owner);
	l->system_id = f.system_id;
	rc = read_applied(c, s, l, err);
	FAILPOINT_FD(TAKEOVER_READ_APPLIED, PQsocket(c));
	l->waiting_applied = l->waiting_wal = LSN_NONE;
	l->flushed = LSN_NONE; /* unknown until the warehouse says where its disk is */
	return rc;
}

bool ledger_position(struct ledger *l, struct lsn wal_inserted, struct lsn wal_flushed)
{
	struct lsn before = l->flushed;
	if (l->waiting_wal.v != 0 && lsn_le(l->waiting_wal, wal_flushed)) {
		l->flushed = lsn_max(l->flushed, l->waiting_applied);
		l->waiting_applied = l->waiting_wal = LSN_NONE;
	}
	/* An older position that waits is waited for first: it moves sooner. */
	if (l->waiting_wal.v == 0 && lsn_lt(l->flushed, l->applied)) {
		if (lsn_le(wal_inserted, wal_flushed)) {
			l->flushed = l->applied;
		} else {
			l->waiting_applied = l->applied;
			l->waiting_wal = wal_inserted;
		}
	}
	return lsn_lt(before, l->flushed);
}
