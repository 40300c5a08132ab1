/*
 * custody: slot facts and heartbeat. Guarantees: no call blocks; every state
 * has a deadline; a failure is told once, and tried again with backoff.
 */
#include "cdc/capture/custody.h"

#include <poll.h>

#include "proto/base/failpoint.h"

#define ASK_EVERY_US 1000000
#define CONNECT_US   10000000
#define ANSWER_US    30000000 /* a heartbeat may wait for a checkpoint's worth of disk */

void custody_init(struct custody *c, const struct custody_options *o,
		  void (*notice)(void *ctx, const char *message, const char *fields), void *ctx)
{
	*c = (struct custody){.o = *o, .notice = notice, .ctx = ctx, .state = CUSTODY_DOWN};
}

void custody_release(struct custody *c)
{
	pgc_close(c->conn);
	c->conn = NULL;
}

uint64_t custody_retained_bytes(const struct custody *c)
{
	const struct custody_facts *f = &c->facts;
	return f->restart.v != 0 && f->current.v > f->restart.v ? f->current.v - f->restart.v : 0;
}

static void move_to(struct custody *c, enum custody_state state, int64_t due_us)
{
	c->state = state;
	c->due_us = due_us;
}

static void say(struct custody *c, const char *message, const char *why)
{
	char fields[400];
	int n = snprintf(fields, sizeof(fields), "reason=\"%.300s", why);
	for (char *p = fields + 8; p < fields + n; p++) /* a server's text: one line, no quotes */
		if (strchr("\"\n\t", *p) != NULL)
			*p = *p == '"' ? '\'' : ' ';
	snprintf(fields + n, sizeof(fields) - (size_t)n, "\"");
	c->notice(c->ctx, message, fields);
}

static void fail(struct custody *c, const char *why, int64_t now_us)
{
	/* libpq gives no SQLSTATE for a refused connection, only the server's (English) words. */
	if (strstr(why, "shutting down") != NULL || strstr(why, "57P03") != NULL)
		c->core_is_closing = true;
	if (!c->failure_told)
		say(c, "no second connection to the core: no heartbeat, no slot facts", why);
	c->failure_told = true;
	custody_release(c);
	move_to(c, CUSTODY_DOWN, now_us + pgc_backoff_next(&c->backoff));
}

/* ---- connecting ---- */

static void begin_connect(struct custody *c, int64_t now_us)
{
	const struct pgc_options o = {
		.what = "core",
		.conninfo = c->o.conninfo,
		.application_name = c->o.application_name,
	};
	struct rt_err err;
	if (pgc_connect_start(&c->conn, &o, &err) != 0) {
		fail(c, err.msg, now_us);
		return;
	}
	if (PQstatus(c->conn) == CONNECTION_BAD) {
		fail(c, PQerrorMessage(c->conn), now_us);
		return;
	}
	FAILPOINT_FD(CUSTODY_CONNECTING, PQsocket(c->conn));
	c->polling = PGRES_POLLING_WRITING;
	move_to(c, CUSTODY_CONNECTING, now_us + CONNECT_US);
}

static void send_query(struct custody *c, const char *sql, enum custody_state state, int64_t now_us)
{
	if (PQsendQuery(c->conn, sql) != 1 || PQflush(c->conn) < 0)
		fail(c, PQerrorMessage(c->conn), now_us);
	else
		move_to(c, state, now_us + ANSWER_US);
}

static void go_on_connecting(struct custody *c, int64_t now_us)
{
	c->polling = PQconnectPoll(c->conn);
	if (c->polling == PGRES_POLLING_FAILED) {
		fail(c, PQerrorMessage(c->conn), now_us);
	} else if (c->polling == PGRES_POLLING_OK) {
		FAILPOINT_FD(CUSTODY_CONNECTED, PQsocket(c->conn));
		PQsetnonblocking(c->conn, 1);
		c->core_is_closing = false;
		c->connected_anew = true;
		c->ask_at_us = c->beat_at_us = c->look_at_us = now_us;
		move_to(c, CUSTODY_IDLE, 0);
	}
}

/* ---- asking ---- */

/*
 * synchronous_commit = local: the heartbeat must reach the disk (that is what
 * lets it be decoded), but need not wait for the core's standbys.
 */
static void ask(struct custody *c, int64_t now_us)
{
	struct buf b = BUF_INIT;
	buf_str(&b, "SET synchronous_commit = local; SET statement_timeout = '20s';"
		    "SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery()"
		    " THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,"
		    " s.restart_lsn, s.confirmed_flush_lsn, coalesce(s.wal_status, ''),"
		    " coalesce(greatest(s.safe_wal_size, CASE WHEN s.safe_wal_size < 0 THEN 0 "
		    "END), -1), coalesce(o.pid, 0),"
		    " coalesce((extract(epoch FROM now() - o.xact_start) * 1000000)::bigint, 0)"
		    " FROM (VALUES (1)) AS one(n)"
		    " LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = ");
	pgc_literal(&b, c->o.slot);
	buf_str(&b, " LEFT JOIN LATERAL (SELECT pid, xact_start FROM pg_catalog.pg_stat_activity"
		    " WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()"
		    " ORDER BY xact_start LIMIT 1) AS o ON true");
	c->ask_at_us = now_us + ASK_EVERY_US;
	FAILPOINT_FD(CUSTODY_ASK, PQsocket(c->conn));
	send_query(c, buf_cstr(&b), CUSTODY_ASKING, now_us);
	buf_release(&b);
}

static void take_facts(struct custody *c, const PGresult *res, int64_t now_us)
{
	struct custody_facts f = {
		.asked_at_us = now_us,
		.in_recovery = PQgetvalue(res, 0, 0)[0] == 't',
		.current = pgc_get_lsn(res, 0, 1),
		.restart = pgc_get_lsn(res, 0, 2),
		.confirmed = pgc_get_lsn(res, 0, 3),
		.safe_wal_bytes = strtoll(PQgetvalue(res, 0, 5), NULL, 10),
		.oldest_pid = (int)strtol(PQgetvalue(res, 0, 6), NULL, 10),
		.oldest_xact_age_us = strtoll(PQgetvalue(res, 0, 7), NULL, 10),
	};
	snprintf(f.wal_status, sizeof(f.wal_status), "%s", PQgetvalue(res, 0, 4));
	c->facts = f;
	forecast_look(&c->forecast, now_us, custody_retained_bytes(c));
	if (c->failure_told)
		c->notice(c->ctx, "the second connection to the core works again", "");
	c->failure_told = false;
	pgc_backoff_reset(&c->backoff);
	if (f.in_recovery && !c->beat_refused) {
		c->beat_refused = true;
		say(c, "no heartbeat", "the core is a standby, which cannot write");
	}
}

static void look(struct custody *c, int64_t now_us)
{
	struct buf b = BUF_INIT;
	c->look_at_us = now_us + c->o.look_interval_us;
	look_sql(&b, c->o.publication, c->o.publication_count);
	if (c->o.want_count > 0) {
		buf_str(&b, "; ");
		published_sql(&b, c->o.want, c->o.want_count);
	}
	FAILPOINT_FD(CUSTODY_LOOK, PQsocket(c->conn));
	send_query(c, buf_cstr(&b), CUSTODY_LOOKING, now_us);
	buf_release(&b);
}

/* ---- the heartbeat ---- */

static void beat(struct custody *c, int64_t now_us)
{
	c->beat_at_us = RT_MAX(c->beat_at_us + c->o.heartbeat_interval_us,
			       now_us + c->o.heartbeat_interval_us / 2);
	FAILPOINT_FD(CUSTODY_BEAT, PQsocket(c->conn));
	send_query(c,
		   "SELECT pg_catalog.pg_logical_emit_message(true, 'rolag.heartbeat', '1 ' ||"
		   " (extract(epoch FROM clock_timestamp()) * 1000000)::bigint::text)",
		   CUSTODY_BEATING, now_us);
}

static bool may_beat(const struct custody *c)
{
	return c->facts.asked_at_us != 0 && !c->facts.in_recovery;
}

/* ---- answers ---- */

/* Of one look, first what publications there are, then how tables are published. */
static void take_look(struct custody *c, const PGresult *res)
{
	bool tables = PQnfields(res) == 2;
	if (tables)
		look_read_published(res, &c->look);
	else
		look_read(res, c->o.publication_count, &c->look);
	c->looked_anew = tables || c->o.want_count == 0;
}

static bool take_result(struct custody *c, const PGresult *res, int64_t now_us)
{
	ExecStatusType st = PQresultStatus(res);
	if (st == PGRES_TUPLES_OK && c->state == CUSTODY_ASKING && PQntuples(res) == 1) {
		FAILPOINT_FD(CUSTODY_FACTS, PQsocket(c->conn));
		take_facts(c, res, now_us);
	} else if (st == PGRES_TUPLES_OK && c->state == CUSTODY_LOOKING) {
		take_look(c, res);
	} else if (st == PGRES_TUPLES_OK && c->state == CUSTODY_BEATING) {
		FAILPOINT_FD(CUSTODY_BEATEN, PQsocket(c->conn));
		c->beats++;
		c->beat_refused = false;
	} else if (st == PGRES_FATAL_ERROR) {
		struct rt_err err;
		int code = pgc_fail(c->conn, res, &err, "heartbeat and slot facts");
		if (code == ERR_RETRY || PQstatus(c->conn) == CONNECTION_BAD ||
		    c->state != CUSTODY_BEATING) {
			fail(c, err.msg, now_us);
			return false;
		}
		if (!c->beat_refused)
			say(c, "no heartbeat", err.msg);
		c->beat_refused = true;
	}
	return true;
}

static void take_answers(struct custody *c, int64_t now_us)
{
	if (PQconsumeInput(c->conn) == 0) {
		fail(c, PQerrorMessage(c->conn), now_us);
		return;
	}
	while (!PQisBusy(c->conn)) {
		PGresult *res = PQgetResult(c->conn);
		if (res == NULL) {
			if (c->state != CUSTODY_IDLE)
				move_to(c, CUSTODY_IDLE, 0);
			return;
		}
		bool go_on = take_result(c, res, now_us);
		PQclear(res);
		if (!go_on)
			return;
	}
}

/* ---- the loop's source ---- */

static int64_t idle_until_us(const struct custody *c)
{
	int64_t at_us = RT_MIN(c->ask_at_us, c->look_at_us);
	return may_beat(c) ? RT_MIN(at_us, c->beat_at_us) : at_us;
}

static void custody_prepare(void *ctx, int64_t now_us, struct loop_want *ret)
{
	struct custody *c = ctx;
	ret->at_us = c->state == CUSTODY_IDLE ? idle_until_us(c) : c->due_us;
	if (c->conn == NULL)
		return;
	ret->fd = PQsocket(c->conn);
	ret->events = POLLIN;
	if (c->state == CUSTODY_CONNECTING)
		ret->events = c->polling == PGRES_POLLING_READING ? POLLIN : POLLOUT;
}

static void go_idle(struct custody *c, short revents, int64_t now_us)
{
	if (revents != 0) { /* unasked: the server ends the session */
		take_answers(c, now_us);
		return;
	}
	if (may_beat(c) && now_us >= c->beat_at_us)
		beat(c, now_us);
	else if (now_us >= c->ask_at_us)
		ask(c, now_us);
	else if (now_us >= c->look_at_us)
		look(c, now_us);
}

static int custody_dispatch(void *ctx, short revents, int64_t now_us, struct rt_err *err)
{
	struct custody *c = ctx;
	if (c->state != CUSTODY_DOWN && c->state != CUSTODY_IDLE && revents == 0 &&
	    now_us >= c->due_us) {
		fail(c, "no answer in time", now_us);
		return 0;
	}
	switch (c->state) {
	case CUSTODY_DOWN:
		begin_connect(c, now_us);
		break;
	case CUSTODY_CONNECTING:
		if (revents != 0)
			go_on_connecting(c, now_us);
		break;
	case CUSTODY_IDLE:
		go_idle(c, revents, now_us);
		break;
	case CUSTODY_ASKING:
	case CUSTODY_LOOKING:
	case CUSTODY_BEATING:
		take_answers(c, now_us);
		break;
	}
	return 0;
}

struct loop_source custody_source(struct custody *c)
{
	return (struct loop_source){
		.name = "custody",
		.ctx = c,
		.prepare = custody_prepare,
		.dispatch = custody_dispatch,
	};
}
