/* verify_fence: one message on the core, then polls of what it did. Guarantees: no transaction is left open. */
#include "apply/stream/verify_fence.h"

#include <inttypes.h>
#include <poll.h>
#include <sys/random.h>

#include "proto/pg/pgconn.h"

#define POLL_FIRST_US INT64_C(1000)
#define POLL_MOST_US  INT64_C(100000)

/* 16 random bytes as a uuid's text: nobody else's run has it. */
static int make_id(char out[37], struct rt_err *err)
{
	uint8_t b[16];
	if (getrandom(b, sizeof(b), 0) != (ssize_t)sizeof(b))
		return rt_fail_errno(err, ERR_SYSTEM, "getrandom");
	char *p = out;
	for (size_t i = 0; i < sizeof(b); i++)
		p += snprintf(p, 4, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
			      b[i]);
	return 0;
}

/* The id is hexadecimal digits and dashes. */
static int emit(PGconn *core, const char *id, struct verify_fence *ret, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_query(core, &res, err,
			   "SELECT pg_catalog.pg_logical_emit_message(true, 'rolag.fence', $1), "
			   "pg_catalog.pg_current_xact_id()",
			   1, &id);
	if (rc != 0)
		return rc;
	ret->xid = strtoull(PQgetvalue(res, 0, 1), NULL, 10);
	PQclear(res);
	return 0;
}

/* Was the fence met? Its LSN is LSN_NONE if not; then *ret_applied says how far apply is. */
static int look(PGconn *warehouse, const char *pipeline, const char *id, struct lsn *ret_met,
		struct lsn *ret_applied, struct rt_err *err)
{
	const char *params[] = {id, pipeline};
	PGresult *res;
	int rc = pgc_query(warehouse, &res, err,
			   "SELECT (SELECT lsn FROM rolag.fence_seen WHERE run_id = $1), "
			   "(SELECT max(applied_lsn) FROM rolag.ledger WHERE pipeline = $2)",
			   2, params);
	if (rc != 0)
		return rc;
	*ret_met = pgc_get_lsn(res, 0, 0);
	*ret_applied = pgc_get_lsn(res, 0, 1);
	PQclear(res);
	return 0;
}

static int nap(struct loop *loop, int64_t *us, struct rt_err *err)
{
	if (loop != NULL && loop_stopping(loop))
		return rt_fail(err, ERR_RETRY, "told to stop");
	struct timespec t = {*us / 1000000, (*us % 1000000) * 1000};
	ppoll(NULL, 0, &t, NULL);
	*us = RT_MIN(*us * 2, POLL_MOST_US);
	return 0;
}

int verify_fence_pass(PGconn *core, PGconn *warehouse, const struct settings *s, struct loop *loop,
		      int64_t patience_us, struct verify_fence *ret, struct rt_err *err)
{
	char id[37];
	const char *param = id;
	struct lsn applied, before = LSN_NONE;
	int64_t moved_us = rt_mono_us(), pause = POLL_FIRST_US;
	int rc = make_id(id, err);
	if (rc == 0)
		rc = emit(core, id, ret, err);
	while (rc == 0 && (rc = look(warehouse, s->pipeline, id, &ret->lsn, &applied, err)) == 0 &&
	       ret->lsn.v == 0) {
		if (lsn_lt(before, applied))
			moved_us = rt_mono_us();
		before = applied;
		if (rt_mono_us() - moved_us > patience_us)
			return rt_fail(err, ERR_RETRY,
				       "apply is at " LSN_FMT " and did not get on for %" PRId64
				       " s; mend: rolag status says why",
				       LSN_ARGS(applied), patience_us / 1000000);
		rc = nap(loop, &pause, err);
	}
	if (rc != 0)
		return rc;
	return pgc_query(warehouse, NULL, err, "DELETE FROM rolag.fence_seen WHERE run_id = $1", 1,
			 &param);
}

int verify_fence_settle(PGconn *core, const struct verify_fence *f, struct loop *loop,
			int64_t patience_us, bool *ret_all, struct rt_err *err)
{
	int64_t until = rt_mono_us() + patience_us, pause = POLL_FIRST_US;
	for (;;) {
		PGresult *res;
		int rc = pgc_exec(core, &res, err,
				  "SELECT pg_catalog.pg_snapshot_xmin("
				  "pg_catalog.pg_current_snapshot())");
		if (rc != 0)
			return rc;
		*ret_all = strtoull(PQgetvalue(res, 0, 0), NULL, 10) > f->xid;
		PQclear(res);
		if (*ret_all || rt_mono_us() > until)
			return 0;
		rc = nap(loop, &pause, err);
		if (rc != 0)
			return rc;
	}
}
