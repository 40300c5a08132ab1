/*
 * ledger: fence and applied position. Guarantees: two appliers never both
 * commit a batch; l->applied is what the warehouse says, l->flushed never
 * runs ahead of its disk.
 */
#include "apply/stream/ledger.h"

#include <inttypes.h>
#include <unistd.h>

#include "proto/pg/pgconn.h"

#define TAKEOVER_US INT64_C(30000000)

const char ledger_insert_sql[] =
	"WITH ok AS (INSERT INTO rolag.ledger (pipeline, applied_lsn, timeline, committed_at) "
	"SELECT f.pipeline, $2::pg_lsn, $3::int4, $4::timestamptz FROM rolag.fence f "
	"WHERE f.pipeline = $1::text AND f.epoch = $5::int8 AND coalesce((SELECT l.applied_lsn "
	"FROM rolag.ledger l WHERE l.pipeline = $1::text ORDER BY l.applied_lsn DESC LIMIT 1), "
	"'0/0') < $2::pg_lsn FOR SHARE OF f RETURNING 1) SELECT 1 / count(*) FROM ok";
const char ledger_hold_sql[] = "WITH ok AS (SELECT 1 FROM rolag.fence f WHERE f.pipeline = "
			       "$1::text AND f.epoch = $2::int8 "
			       "FOR SHARE OF f) SELECT 1 / count(*) FROM ok";
const char ledger_trim_sql[] =
	"DELETE FROM rolag.ledger WHERE pipeline = $1::text AND applied_lsn < $2::pg_lsn";
const char ledger_position_sql[] = "SELECT pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn()";

const char *ledger_application_name(const struct settings *s, char *out, size_t size)
{
	snprintf(out, size, "rolag apply %s", s->pipeline);
	return out;
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
	const char *param = ledger_application_name(s, name, sizeof(name));
	int rc = pgc_query(
		c, &res, err,
		"SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = "
		"current_user AND application_name = $1 AND pid <> pg_backend_pid()",
		1, &param);
	if (rc != 0)
		return rc;
	size_t n = 0;
	ret_pids[0] = '\0';
	for (int i = 0; i < PQntuples(res) && n + 12 < size; i++)
		n += (size_t)snprintf(ret_pids + n, size - n, "%s%s", i > 0 ? " " : "",
				      PQgetvalue(res, i, 0));
	PQclear(res);
	return 0;
}

/* Locks the fence row within this transaction; ERR_RETRY when somebody else holds it. */
static int lock_fence(PGconn *c, const struct settings *s, int64_t *ret_epoch,
		      uint64_t *ret_system_id, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_exec(c, NULL, err,
			  "BEGIN; SET LOCAL lock_timeout = '2s'; "
			  "SET LOCAL synchronous_commit = on");
	if (rc != 0)
		return rc;
	rc = pgc_query(
		c, &res, err,
		"SELECT epoch, core_system_id FROM rolag.fence WHERE pipeline = $1 FOR UPDATE", 1,
		&s->pipeline);
	if (rc != 0)
		return rc;
	if (PQntuples(res) == 0) {
		rc = rt_fail(err, ERR_PERMANENT,
			     "the warehouse does not know the pipeline %s; mend: rolag init",
			     s->pipeline);
	} else {
		*ret_epoch = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
		*ret_system_id = strtoull(PQgetvalue(res, 0, 1), NULL, 10);
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

static int raise_epoch(PGconn *c, const struct settings *s, int64_t epoch, struct rt_err *err)
{
	char host[128] = "", text[24];
	gethostname(host, sizeof(host) - 1);
	snprintf(text, sizeof(text), "%" PRId64, epoch);
	const char *params[] = {s->pipeline, text, host};
	int rc =
		pgc_query(c, NULL, err,
			  "UPDATE rolag.fence SET epoch = $2::int8, owner_host = $3, backend_pid = "
			  "pg_backend_pid(), backend_start = (SELECT backend_start FROM "
			  "pg_stat_activity WHERE pid = pg_backend_pid()), taken_at = now() "
			  "WHERE pipeline = $1",
			  3, params);
	return rc != 0 ? rc : pgc_exec(c, NULL, err, "COMMIT");
}

int ledger_take_over(PGconn *c, const struct settings *s, struct ledger *l, struct rt_err *err)
{
	int64_t end = rt_mono_us() + TAKEOVER_US, epoch = 0;
	char pids[128] = "";
	for (;;) {
		struct rt_err ignored;
		int rc = lock_fence(c, s, &epoch, &l->system_id, err);
		if (rc == 0)
			break;
		if (pgc_exec(c, NULL, &ignored, "ROLLBACK") != 0)
			return rc; /* the connection is gone */
		if (rc != ERR_RETRY)
			return rc;
		if (rt_mono_us() > end)
			return rt_fail(
				err, ERR_RETRY,
				"the fence of the pipeline %s stays locked by another applier "
				"(backend pid %s), which does not end",
				s->pipeline, pids[0] != '\0' ? pids : "unknown");
		if ((rc = terminate_rivals(c, s, pids, sizeof(pids), err)) != 0)
			return rc;
	}
	if (l->epoch != 0 && epoch != l->epoch)
		return fenced(s, l->epoch, epoch, err);
	int rc = raise_epoch(c, s, epoch + 1, err);
	if (rc != 0)
		return rc;
	l->epoch = epoch + 1;
	rc = read_applied(c, s, l, err);
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
