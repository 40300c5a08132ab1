/* queue: the states of runs. One transaction a move, begun by locking the row of the run that leads. */
#include "apply/reports/queue.h"

#include <inttypes.h>
#include <unistd.h>

#include "proto/base/failpoint.h"
#include "proto/pg/pgconn.h"

/* A run that waits takes no more requests after this: its fence would move on for ever. */
#define JOIN_WAITING_SQL "interval '5 seconds'"

static const char *number_text(int64_t v, char *out, size_t size)
{
	snprintf(out, size, "%" PRId64, v);
	return out;
}

/* Ends a transaction: COMMIT where rc is 0, else ROLLBACK, keeping the first error. */
static int end_transaction(PGconn *c, int rc, struct rt_err *err)
{
	struct rt_err ignored;
	if (rc == 0)
		return pgc_exec(c, NULL, err, "COMMIT");
	(void)!pgc_exec(c, NULL, &ignored, "ROLLBACK");
	return rc;
}

int queue_take_over(PGconn *c, const char *pipeline, int64_t *ret_epoch, struct rt_err *err)
{
	char host[128] = "", pid[16], epoch[24];
	PGresult *res;
	gethostname(host, sizeof(host) - 1);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	const char *params[] = {pipeline, host, pid};
	int rc = pgc_exec(c, NULL, err, "BEGIN");
	if (rc != 0)
		return rc;
	rc = pgc_query(
		c, &res, err,
		"INSERT INTO rolag.report_companion AS o (pipeline, epoch, host, pid) VALUES "
		"($1, 1, $2, $3) ON CONFLICT (pipeline) DO UPDATE SET epoch = o.epoch + 1, "
		"host = $2, pid = $3, started_at = clock_timestamp() RETURNING epoch",
		3, params);
	if (rc == 0) {
		*ret_epoch = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
		PQclear(res);
		const char *mine[] = {pipeline, number_text(*ret_epoch, epoch, sizeof(epoch))};
		/* Waits for the transaction of a predecessor's that is publishing just now. */
		rc = pgc_query(c, NULL, err,
			       "UPDATE rolag.report_run SET epoch = $2, not_before = NULL WHERE "
			       "pipeline = $1 AND state IN ('waiting', 'building', 'writing')",
			       2, mine);
	}
	FAILPOINT_FD(REPORTS_BEFORE_TAKEOVER, PQsocket(c));
	return end_transaction(c, rc, err);
}

static int check_epoch(PGconn *c, const char *pipeline, int64_t epoch, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_query(c, &res, err,
			   "SELECT epoch, host, pid FROM rolag.report_companion WHERE pipeline = "
			   "$1",
			   1, &pipeline);
	if (rc != 0)
		return rc;
	if (PQntuples(res) != 1 || strtoll(PQgetvalue(res, 0, 0), NULL, 10) != epoch)
		rc = rt_fail(
			err, ERR_PERMANENT,
			"another companion has taken over the reports of the pipeline %s (host "
			"%.60s, pid %s); this one stops for good",
			pipeline, PQntuples(res) == 1 ? PQgetvalue(res, 0, 1) : "?",
			PQntuples(res) == 1 ? PQgetvalue(res, 0, 2) : "?");
	PQclear(res);
	return rc;
}

/* ---- joining ---- */

static int join_one(PGconn *c, const char *id, const char *leader, struct rt_err *err)
{
	const char *params[] = {leader, id};
	int rc = pgc_exec(c, NULL, err, "BEGIN");
	if (rc != 0)
		return rc;
	/* The lock: a leader that begins to build has no room any more, or sees that it has one more. */
	rc = pgc_query(
		c, NULL, err,
		"WITH l AS (SELECT id, state, waiting_at FROM rolag.report_run WHERE id = $1 "
		"AND state IN ('queued', 'waiting') FOR UPDATE) UPDATE rolag.report_run q SET "
		"served_by = l.id, state = l.state, waiting_at = l.waiting_at FROM l WHERE "
		"q.id = $2 AND q.state = 'queued' AND q.served_by IS NULL",
		2, params);
	FAILPOINT_FD(REPORTS_BEFORE_JOIN, PQsocket(c));
	return end_transaction(c, rc, err);
}

int queue_join(PGconn *c, const char *pipeline, int64_t epoch, struct rt_err *err)
{
	PGresult *res;
	int rc = check_epoch(c, pipeline, epoch, err);
	if (rc != 0)
		return rc;
	rc = pgc_query(
		c, &res, err,
		"SELECT q.id, l.id FROM rolag.report_run q CROSS JOIN LATERAL (SELECT l.id FROM "
		"rolag.report_run l WHERE l.pipeline = q.pipeline AND l.number < q.number AND "
		"l.served_by IS NULL AND (l.state = 'queued' OR (l.state = 'waiting' AND "
		"l.waiting_at > clock_timestamp() - " JOIN_WAITING_SQL ")) AND l.reports = "
		"q.reports AND l.as_of IS NOT DISTINCT FROM q.as_of AND l.allow_stale = "
		"q.allow_stale AND l.accept_quarantine = q.accept_quarantine ORDER BY l.number "
		"LIMIT 1) l WHERE q.pipeline = $1 AND q.state = 'queued' AND q.served_by IS NULL "
		"ORDER BY q.number",
		1, &pipeline);
	if (rc != 0)
		return rc;
	for (int i = 0; rc == 0 && i < PQntuples(res); i++)
		rc = join_one(c, PQgetvalue(res, i, 0), PQgetvalue(res, i, 1), err);
	PQclear(res);
	return rc;
}

/* ---- the run at hand ---- */

int queue_count(PGconn *c, const char *pipeline, int64_t *ret_count, int64_t *ret_oldest_us,
		struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_query(c, &res, err,
			   "SELECT count(*), coalesce((extract(epoch FROM min(requested_at)) * "
			   "1000000)::int8, 0) FROM rolag.report_run WHERE pipeline = $1 AND state "
			   "IN ('queued', 'waiting', 'building', 'writing')",
			   1, &pipeline);
	if (rc != 0)
		return rc;
	*ret_count = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
	*ret_oldest_us = strtoll(PQgetvalue(res, 0, 1), NULL, 10);
	PQclear(res);
	return 0;
}

int queue_next(PGconn *c, const char *pipeline, int64_t epoch, char ret_id[RUNS_ID_SIZE],
	       int64_t *ret_wait_us, struct rt_err *err)
{
	char mine[24];
	PGresult *res;
	*ret_wait_us = -1;
	int rc = pgc_query(
		c, &res, err,
		"SELECT id, greatest(0, (extract(epoch FROM not_before - clock_timestamp()) * "
		"1000000)::int8) FROM rolag.report_run WHERE pipeline = $1 AND state IN ('queued', "
		"'waiting', 'building', 'writing') AND served_by IS NULL ORDER BY number LIMIT 1",
		1, &pipeline);
	if (rc != 0)
		return rc;
	if (PQntuples(res) == 0) {
		PQclear(res);
		return 0;
	}
	snprintf(ret_id, RUNS_ID_SIZE, "%s", PQgetvalue(res, 0, 0));
	int64_t wait = PQgetisnull(res, 0, 1) ? 0 : strtoll(PQgetvalue(res, 0, 1), NULL, 10);
	PQclear(res);
	if (wait > 0) {
		*ret_wait_us = wait;
		return 0;
	}
	const char *params[] = {ret_id, number_text(epoch, mine, sizeof(mine))};
	rc = pgc_query(c, NULL, err,
		       "UPDATE rolag.report_run SET epoch = $2, waiting_at = coalesce(waiting_at, "
		       "clock_timestamp()), state = CASE state WHEN 'queued' THEN 'waiting' ELSE "
		       "state END WHERE (id = $1 OR served_by = $1) AND state IN ('queued', "
		       "'waiting', 'building', 'writing')",
		       2, params);
	return rc == 0 ? 1 : rc;
}

int queue_hold(PGconn *c, const char *id, int64_t epoch, const char *state, struct rt_err *err)
{
	char mine[24];
	PGresult *res;
	const char *params[] = {id, number_text(epoch, mine, sizeof(mine)), state};
	int rc =
		pgc_query(c, &res, err,
			  "SELECT 1 FROM rolag.report_run WHERE id = $1 AND epoch = $2 AND state = "
			  "$3 FOR UPDATE",
			  3, params);
	if (rc != 0)
		return rc;
	if (PQntuples(res) != 1)
		rc = rt_fail(err, ERR_PERMANENT,
			     "the run is not in the state %s any more, or another companion has "
			     "taken it over",
			     state);
	PQclear(res);
	return rc;
}

int queue_move(PGconn *c, const char *id, const char *state, struct rt_err *err)
{
	const char *params[] = {id, state};
	return pgc_query(
		c, NULL, err,
		"UPDATE rolag.report_run SET state = CASE WHEN $2 = 'published' AND id <> $1 THEN "
		"'superseded' ELSE $2 END, building_at = CASE $2 WHEN 'building' THEN "
		"clock_timestamp() ELSE building_at END, writing_at = CASE $2 WHEN 'writing' THEN "
		"clock_timestamp() ELSE writing_at END, ended_at = CASE WHEN $2 IN ('published', "
		"'failed') THEN clock_timestamp() END WHERE id = $1 OR (served_by = $1 AND state "
		"NOT "
		"IN ('published', 'failed', 'superseded'))",
		2, params);
}

int queue_retry(PGconn *c, const char *id, int64_t epoch, const char *reason, int64_t wait_us,
		struct rt_err *err)
{
	char mine[24], wait[24];
	const char *params[] = {id, number_text(epoch, mine, sizeof(mine)), reason,
				number_text(wait_us, wait, sizeof(wait))};
	return pgc_query(
		c, NULL, err,
		"UPDATE rolag.report_run SET failures = failures + 1, reason = $3, "
		"not_before = clock_timestamp() + $4::int8 * interval '1 microsecond' WHERE "
		"id = $1 AND epoch = $2 AND state IN ('waiting', 'building', 'writing')",
		4, params);
}

int queue_fail(PGconn *c, const char *id, int64_t epoch, const char *reason, struct rt_err *err)
{
	char mine[24];
	const char *params[] = {id, number_text(epoch, mine, sizeof(mine)), reason};
	return pgc_query(
		c, NULL, err,
		"WITH l AS (UPDATE rolag.report_run SET state = 'failed', reason = $3, ended_at = "
		"clock_timestamp() WHERE id = $1 AND epoch = $2 AND state IN ('queued', 'waiting', "
		"'building', 'writing') RETURNING id) UPDATE rolag.report_run q SET state = "
		"'failed', reason = $3, ended_at = clock_timestamp() FROM l WHERE q.served_by = "
		"l.id AND q.state IN ('queued', 'waiting', 'building', 'writing')",
		3, params);
}
