/*
 * fence: messages on the core, then polls of what they did. Guarantees: a run
 * begins to build only when the fence of every request that it serves was met,
 * all but under --allow-stale; a request that came a moment too late does not
 * join it.
 */
#include "apply/reports/fence.h"

#include <inttypes.h>
#include <poll.h>

#include "apply/reports/queue.h"
#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/pg/pgconn.h"

#define CORE_PATIENCE_US INT64_C(10000000)
#define POLL_FIRST_US	 INT64_C(2000)
#define POLL_MOST_US	 INT64_C(50000)
#define SENT_MAX	 256 /* fences remembered; more are written again, which is harmless */

struct fence {
	PGconn *warehouse, *core;
	const struct settings *s;
	const struct run *run;
	int64_t epoch;
	int64_t deadline_us, core_deadline_us; /* monotonic; the latter: 0 while the core answers */
	char sent[SENT_MAX][RUNS_ID_SIZE];
	size_t sent_count;
	struct lsn last; /* newest fence written; LSN_NONE: none */
	struct rt_err core_err;
};

static bool was_sent(const struct fence *f, const char *id)
{
	for (size_t i = 0; i < f->sent_count; i++)
		if (strcmp(f->sent[i], id) == 0)
			return true;
	return false;
}

static int connect_core(struct fence *f, struct rt_err *err)
{
	const struct pgc_options o = {.what = "core",
				      .conninfo = f->s->reports.core_connect,
				      .application_name = "rolag reports"};
	int rc = pgc_connect(&f->core, &o, err);
	if (rc != 0)
		return rc;
	FAILPOINT_FD(REPORTS_CORE_CONNECTED, PQsocket(f->core));
	/* It must reach the core's disk, and wait for no standby. */
	return pgc_exec(f->core, NULL, err, "SET synchronous_commit = local");
}

static int send_one(struct fence *f, const char *id, struct rt_err *err)
{
	PGresult *res;
	int rc = f->core == NULL ? connect_core(f, err) : 0;
	if (rc == 0)
		rc = pgc_query(f->core, &res, err,
			       "SELECT pg_catalog.pg_logical_emit_message(true, 'rolag.fence', $1)",
			       1, &id);
	if (rc != 0) {
		pgc_close(f->core);
		f->core = NULL;
		return rc;
	}
	f->last = pgc_get_lsn(res, 0, 0);
	PQclear(res);
	FAILPOINT(REPORTS_FENCE_SENT);
	if (f->sent_count < SENT_MAX)
		snprintf(f->sent[f->sent_count++], RUNS_ID_SIZE, "%s", id);
	return 0;
}

/* Requests whose fence has not come by. */
static int missing(struct fence *f, PGresult **ret, struct rt_err *err)
{
	return pgc_query(
		f->warehouse, ret, err,
		"SELECT r.id FROM rolag.report_run r WHERE (r.id = $1 OR r.served_by = $1) "
		"AND r.state = 'waiting' AND NOT EXISTS (SELECT FROM rolag.fence_seen f "
		"WHERE f.run_id = r.id::text) ORDER BY r.number",
		1, &f->run->id);
}

/* Writes the fences that were not written yet. What the core says is kept; the return is the warehouse's. */
static int send_missing(struct fence *f, int *ret_missing, struct rt_err *err)
{
	PGresult *res;
	int rc = missing(f, &res, err), core = 0;
	if (rc != 0)
		return rc;
	*ret_missing = PQntuples(res);
	for (int i = 0; core == 0 && i < PQntuples(res); i++)
		if (!was_sent(f, PQgetvalue(res, i, 0)))
			core = send_one(f, PQgetvalue(res, i, 0), &f->core_err);
	PQclear(res);
	if (core == 0)
		f->core_deadline_us = 0;
	else if (f->core_deadline_us == 0)
		f->core_deadline_us = rt_mono_us() + (core == ERR_RETRY ? CORE_PATIENCE_US : 0);
	return 0;
}

/* ---- the end of waiting ---- */

static int begin_building(struct fence *f, const char *stale, bool *ret_done, struct rt_err *err)
{
	PGresult *res;
	const char *params[] = {f->run->id, stale};
	int rc = queue_hold(f->warehouse, f->run->id, f->epoch, "waiting", err);
	if (rc == 0)
		rc = missing(f, &res, err);
	if (rc != 0)
		return rc;
	const int left = PQntuples(res);
	PQclear(res);
	*ret_done = left == 0 || stale != NULL;
	if (!*ret_done)
		return 0;
	rc = pgc_query(
		f->warehouse, NULL, err,
		"UPDATE rolag.report_run r SET stale = $2, fence_lsn = (SELECT lsn FROM "
		"rolag.fence_seen f WHERE f.run_id = r.id::text) WHERE (id = $1 OR served_by "
		"= $1) AND state = 'waiting'",
		2, params);
	if (rc == 0)
		rc = queue_move(f->warehouse, f->run->id, "building", err);
	FAILPOINT_FD(REPORTS_BEFORE_BUILDING, PQsocket(f->warehouse));
	return rc;
}

static int try_building(struct fence *f, const char *stale, bool *ret_done, struct rt_err *err)
{
	struct rt_err ignored;
	int rc = pgc_exec(f->warehouse, NULL, err, "BEGIN");
	if (rc != 0)
		return rc;
	rc = begin_building(f, stale, ret_done, err);
	if (rc == 0)
		return pgc_exec(f->warehouse, NULL, err, "COMMIT");
	(void)!pgc_exec(f->warehouse, NULL, &ignored, "ROLLBACK");
	return rc;
}

/* How far behind the warehouse is, in words. */
static int describe_lag(struct fence *f, char *out, size_t size, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_query(
		f->warehouse, &res, err,
		"SELECT l.applied_lsn, (SELECT to_char(max(committed_at), 'YYYY-MM-DD HH24:MI:SS') "
		"|| ' UTC, ' || greatest(0, extract(epoch FROM clock_timestamp() - "
		"max(committed_at))::int8) || ' s ago' FROM rolag.ledger WHERE pipeline = $1) FROM "
		"rolag.ledger l WHERE l.pipeline = $1 ORDER BY l.applied_lsn DESC LIMIT 1",
		1, &f->s->pipeline);
	if (rc != 0)
		return rc;
	struct lsn applied = PQntuples(res) > 0 ? pgc_get_lsn(res, 0, 0) : LSN_NONE;
	size_t n =
		(size_t)snprintf(out, size, "the warehouse holds what was committed up to " LSN_FMT,
				 LSN_ARGS(applied));
	if (PQntuples(res) > 0 && !PQgetisnull(res, 0, 1))
		n += (size_t)snprintf(out + n, size - n, " (%s)", PQgetvalue(res, 0, 1));
	if (f->last.v > applied.v)
		snprintf(out + n, size - n, ", %" PRIu64 " bytes before the request's fence",
			 f->last.v - applied.v);
	PQclear(res);
	return 0;
}

/* The run cannot wait any longer: it fails, or goes on with what is there. */
static int give_up(struct fence *f, struct rt_err *err)
{
	char lag[256], why[900];
	bool done;
	int rc = describe_lag(f, lag, sizeof(lag), err);
	if (rc != 0)
		return rc;
	if (f->core_deadline_us != 0)
		snprintf(why, sizeof(why), "the core cannot be reached: %.500s; %s",
			 f->core_err.msg, lag);
	else
		snprintf(why, sizeof(why),
			 "the warehouse did not reach the request's fence within %" PRId64
			 " ms: %s; rolag status says why",
			 f->s->reports.fence_limit / 1000, lag);
	if (f->run->allow_stale)
		return try_building(f, why, &done, err);
	return rt_fail(err, ERR_PERMANENT, "%s", why);
}

static bool is_late(const struct fence *f, int64_t now)
{
	if (f->core_deadline_us != 0 && (now > f->core_deadline_us || f->run->allow_stale))
		return true;
	return now > f->deadline_us;
}

static int wait_for_all(struct fence *f, struct rt_err *err)
{
	int64_t pause = POLL_FIRST_US;
	for (;;) {
		int count;
		bool done = false;
		int rc = send_missing(f, &count, err);
		if (rc == 0 && count == 0)
			rc = try_building(f, NULL, &done, err);
		if (rc != 0 || done)
			return rc;
		if (is_late(f, rt_mono_us()))
			return give_up(f, err);
		struct timespec t = {0, pause * 1000};
		ppoll(NULL, 0, &t, NULL);
		pause = RT_MIN(pause * 2, POLL_MOST_US);
	}
}

int fence_pass(PGconn *warehouse, const struct settings *s, const struct run *r, int64_t epoch,
	       struct rt_err *err)
{
	struct fence *f = rt_calloc(1, sizeof(*f));
	f->warehouse = warehouse;
	f->s = s;
	f->run = r;
	f->epoch = epoch;
	f->deadline_us = rt_mono_us() + s->reports.fence_limit;
	int rc = wait_for_all(f, err);
	pgc_close(f->core);
	free(f);
	return rc;
}
