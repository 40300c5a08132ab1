/* slot: creation. Guarantees: no time-out of the server's ends it, and a long wait is never silent. */
#include "proto/pg/slot.h"

#include <poll.h>

#include "proto/base/failpoint.h"

#define FIRST_WORD_US 2000000
#define NEXT_WORD_US  10000000
#define FAILOVER_MIN  170000

static int no_timeouts(PGconn *c, struct rt_err *err)
{
	return pgc_exec(c, NULL, err, "SET statement_timeout = 0; SET lock_timeout = 0");
}

/* The transaction that has been open longest. Whoever asks may not see it; then pid stays 0. */
static void ask_what_holds(PGconn *monitor, int self, struct slot_wait *w)
{
	struct rt_err ignored;
	PGresult *res;
	if (monitor == NULL ||
	    pgc_exec(monitor, &res, &ignored,
		     "SELECT pid, (extract(epoch FROM now() - xact_start) * 1000000)::bigint"
		     " FROM pg_catalog.pg_stat_activity WHERE backend_xid IS NOT NULL"
		     " AND pid NOT IN (pg_backend_pid(), %d) ORDER BY xact_start LIMIT 1",
		     self) != 0)
		return;
	if (PQntuples(res) == 1) {
		w->pid = (int)strtol(PQgetvalue(res, 0, 0), NULL, 10);
		w->xact_age_us = strtoll(PQgetvalue(res, 0, 1), NULL, 10);
	}
	PQclear(res);
}

/* Waits for the answer to what was sent, saying what it waits for. True: given up. */
static bool wait_for_answer(PGconn *c, const struct slot_options *o)
{
	int64_t start = rt_mono_us(), word_at = start + FIRST_WORD_US;
	bool given_up = false;
	while (PQisBusy(c)) {
		int64_t now = rt_mono_us();
		if (now >= word_at && !given_up) {
			struct slot_wait w = {.waited_us = now - start};
			ask_what_holds(o->monitor, PQbackendPID(c), &w);
			given_up = o->on_wait != NULL && o->on_wait(o->ctx, &w);
			if (given_up)
				pgc_cancel(c);
			word_at = now + NEXT_WORD_US;
		}
		if (!given_up && o->on_turn != NULL && o->on_turn(o->ctx)) {
			given_up = true;
			pgc_cancel(c);
		}
		struct pollfd fd = {.fd = PQsocket(c), .events = POLLIN};
		poll(&fd, 1, 200);
		if (fd.revents != 0 && PQconsumeInput(c) == 0)
			break;
	}
	return given_up;
}

static int judge(PGconn *c, const PGresult *res, const struct slot_options *o, bool given_up,
		 struct rt_err *err)
{
	if (given_up)
		return rt_fail(err, ERR_RETRY,
			       "creating slot %s was given up while it waited for old transactions "
			       "of the core to end",
			       o->name);
	if (pgc_is_state(res, "42710"))
		return rt_fail(err, ERR_PERMANENT, "slot %s exists already", o->name);
	if (pgc_is_state(res, "53400"))
		return rt_fail(err, ERR_PERMANENT,
			       "the core has no replication slot left for %s; mend: raise "
			       "max_replication_slots",
			       o->name);
	if (pgc_is_state(res, "55000"))
		return rt_fail(err, ERR_PERMANENT,
			       "the core cannot decode its WAL; mend: wal_level = logical, and "
			       "restart it");
	if (pgc_is_state(res, "42501"))
		return rt_fail(err, ERR_PERMANENT,
			       "the role may not create slots; mend: ALTER ROLE … REPLICATION");
	return pgc_fail(c, res, err, "CREATE_REPLICATION_SLOT");
}

static int read_created(const PGresult *res, struct slot_created *ret, struct rt_err *err)
{
	struct slot_created s = {.consistent_point = LSN_NONE};
	if (PQntuples(res) == 1 && PQnfields(res) >= 3) {
		s.consistent_point = pgc_get_lsn(res, 0, 1);
		snprintf(s.snapshot, sizeof(s.snapshot), "%s", PQgetvalue(res, 0, 2));
	}
	if (s.consistent_point.v == 0)
		return rt_fail(err, ERR_PERMANENT, "CREATE_REPLICATION_SLOT gave no position");
	*ret = s;
	return 0;
}

void slot_create_sql(struct buf *out, const struct slot_options *o, int server_version)
{
	buf_str(out, "CREATE_REPLICATION_SLOT ");
	pgc_ident(out, o->name);
	buf_printf(out, "%s LOGICAL pgoutput (SNAPSHOT '%s'", o->temporary ? " TEMPORARY" : "",
		   o->snapshot == SLOT_EXPORT ? "export" : "nothing");
	/* A temporary slot is its session's, which no failover outlives. */
	if (o->failover && !o->temporary && server_version >= FAILOVER_MIN)
		buf_str(out, ", FAILOVER true");
	buf_str(out, ")");
}

int slot_create(PGconn *replication, const struct slot_options *o, struct slot_created *ret,
		struct rt_err *err)
{
	struct buf b = BUF_INIT;
	int rc = no_timeouts(replication, err);
	if (rc != 0)
		return rc;
	slot_create_sql(&b, o, PQserverVersion(replication));
	PGresult *res = NULL;
	bool given_up = false;
	FAILPOINT_FD(SLOT_CREATE, PQsocket(replication));
	if (PQsendQuery(replication, buf_cstr(&b)) == 1) {
		given_up = wait_for_answer(replication, o);
		res = PQgetResult(replication);
	}
	buf_release(&b);
	FAILPOINT_FD(SLOT_CREATED, PQsocket(replication));
	rc = PQresultStatus(res) == PGRES_TUPLES_OK ? read_created(res, ret, err)
						    : judge(replication, res, o, given_up, err);
	PQclear(res);
	while ((res = PQgetResult(replication)) != NULL)
		PQclear(res);
	return rc;
}
