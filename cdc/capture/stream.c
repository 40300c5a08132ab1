/*
 * stream: the walsender client. Guarantees: a message reaches the handler
 * whole and once per connection, in order; the server hears from us at least
 * every third of its wal_sender_timeout, also while we do not read; every way
 * a connection can end is either tried again or ends with what to mend.
 */
#include "cdc/capture/stream.h"

#include <poll.h>

#include "proto/base/buf.h"
#include "proto/base/failpoint.h"
#include "proto/base/metrics.h"
#include "proto/settings.h"

#define STATUS_MOVED_US 100000	/* a position moved: tell at most this often */
#define STATUS_IDLE_US	3000000 /* tell at least this often */
#define STOP_US		2000000
#define ANSWER_US	30000000 /* to one command while connecting */
/* A connection that lived this long was a good one: the next attempt is at once. */
#define STREAM_WAS_GOOD_US   10000000
#define SILENCE_MIN_US	     15000000
#define XLOGDATA_HEADER	     25 /* 'w', start, end, send time */
#define KEEPALIVE_BYTES	     18 /* 'k', end, send time, reply requested */
#define SERVER_VERSION_MIN   150000
#define DECODING_STANDBY_MIN 160000 /* from here on a standby can have logical slots */

void stream_init(struct stream *s, const struct stream_options *o, const struct stream_handler *h)
{
	*s = (struct stream){.o = *o, .h = *h};
}

void stream_release(struct stream *s)
{
	pgc_close(s->conn);
	s->conn = NULL;
}

bool stream_is_running(const struct stream *s)
{
	return s->conn != NULL;
}

void stream_pause(struct stream *s, bool paused)
{
	if (s->paused && !paused) {
		s->pending_input = true;       /* what libpq holds makes the socket no louder */
		s->heard_at_us = rt_mono_us(); /* we did not listen */
	}
	s->paused = paused;
}

void stream_behind(struct stream *s, bool behind)
{
	s->behind = behind;
}

bool stream_wants_text(struct stream *s)
{
	if (!s->facts.binary || s->o.binary != STREAM_BINARY_AUTO)
		return false;
	if (!s->text_only)
		s->h.notice(s->h.ctx, "values come as text: a mirrored column needs it", "");
	s->text_only = true;
	return true;
}

void stream_hurry(struct stream *s)
{
	s->retry_at_us = 0;
	pgc_backoff_reset(&s->backoff);
}

static int64_t status_interval_us(const struct stream *s)
{
	int64_t third = s->facts.wal_sender_timeout_us / 3;
	return third > 0 ? RT_MIN(third, STATUS_IDLE_US) : STATUS_IDLE_US;
}

/* ---- connecting ---- */

/* pgc_exec_within with the text in b, which is used up. */
static int exec_buf(PGconn *c, PGresult **ret, struct buf *b, struct rt_err *err)
{
	int rc = pgc_exec_within(c, ANSWER_US, ret, err, "%s", buf_cstr(b));
	buf_release(b);
	return rc;
}

/* Values in text form obey these; the time-outs are not for a session that lives for months. */
static int set_session(struct stream *s, PGconn *c, struct rt_err *err)
{
	struct buf b = BUF_INIT;
	buf_str(&b, "SET application_name = ");
	pgc_literal(&b, s->o.application_name);
	buf_str(&b, "; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres';"
		    " SET TimeZone = 'UTC'; SET extra_float_digits = 1;"
		    " SET bytea_output = 'hex'; SET statement_timeout = 0;"
		    " SET lock_timeout = 0; SET idle_session_timeout = 0;"
		    " SET search_path = pg_catalog");
	return exec_buf(c, NULL, &b, err);
}

static int read_server(PGconn *c, struct stream_facts *f, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_exec_within(c, ANSWER_US, &res, err,
				 "SELECT setting::bigint * 1000, pg_catalog.pg_is_in_recovery()"
				 " FROM pg_catalog.pg_settings"
				 " WHERE name = 'wal_sender_timeout'");
	if (rc != 0)
		return rc;
	f->wal_sender_timeout_us =
		PQntuples(res) == 1 ? strtoll(PQgetvalue(res, 0, 0), NULL, 10) : 0;
	f->in_recovery = PQntuples(res) == 1 && PQgetvalue(res, 0, 1)[0] == 't';
	PQclear(res);
	return 0;
}

static int check_publications(struct stream *s, PGconn *c, struct rt_err *err)
{
	struct buf b = BUF_INIT;
	PGresult *res;
	buf_str(&b, "SELECT n FROM (VALUES ");
	for (int i = 0; i < s->o.publication_count; i++) {
		buf_str(&b, i > 0 ? ", (" : "(");
		pgc_literal(&b, s->o.publication[i]);
		buf_str(&b, ")");
	}
	buf_str(&b, ") AS wanted(n) WHERE NOT EXISTS"
		    " (SELECT FROM pg_catalog.pg_publication WHERE pubname = n)");
	int rc = exec_buf(c, &res, &b, err);
	if (rc != 0)
		return rc;
	if (PQntuples(res) > 0) {
		met_set(MET_CORE_PUBLICATIONS_MISSING, (uint64_t)PQntuples(res));
		rc = rt_fail(err, ERR_PERMANENT,
			     "publication \"%s\" does not exist in the core; mend: rolag init",
			     PQgetvalue(res, 0, 0));
	}
	PQclear(res);
	return rc;
}

/*
 * Can every published value be sent in binary? pgoutput falls back to text for
 * a type without send function, but not for one inside an array, range or
 * composite: there the walsender fails at the row, again and again.
 *
 * Of tables only, not pg_publication_tables: that view's function leaves today's publication in this server process'
 * caches, where decoding finds it in the place of the one that was there when a row was written (and was dropped, and
 * made anew): the row would be passed over.
 */
static const char types_without_send[] =
	" WITH RECURSIVE p AS ("
	"  SELECT * FROM pg_catalog.pg_publication WHERE pubname IN (%s)"
	" ), published(relid, attnums) AS ("
	"  SELECT r.prrelid, r.prattrs FROM p JOIN pg_catalog.pg_publication_rel r ON r.prpubid = "
	"p.oid"
	"  UNION ALL SELECT c.oid, NULL FROM p"
	"   JOIN pg_catalog.pg_publication_namespace n ON n.pnpubid = p.oid"
	"   JOIN pg_catalog.pg_class c ON c.relnamespace = n.pnnspid AND c.relkind IN ('r', 'p')"
	"  UNION ALL SELECT c.oid, NULL FROM p"
	"   JOIN pg_catalog.pg_class c ON p.puballtables AND c.relkind IN ('r', 'p') AND c.oid >= "
	"16384"
	" ), t(oid, inner_type) AS ("
	"  SELECT DISTINCT a.atttypid, false FROM published"
	"   JOIN pg_catalog.pg_attribute a ON a.attrelid = relid AND a.attnum > 0"
	"    AND NOT a.attisdropped AND (attnums IS NULL OR a.attnum = ANY (attnums))"
	" UNION"
	"  SELECT i.oid, true FROM t JOIN pg_catalog.pg_type y ON y.oid = t.oid,"
	"   LATERAL (SELECT y.typelem WHERE y.typelem <> 0 AND y.typlen = -1"
	"    UNION ALL SELECT y.typbasetype WHERE y.typbasetype <> 0"
	"    UNION ALL SELECT rngsubtype FROM pg_catalog.pg_range WHERE rngtypid = y.oid"
	"    UNION ALL SELECT rngtypid FROM pg_catalog.pg_range WHERE rngmultitypid = y.oid"
	"    UNION ALL SELECT atttypid FROM pg_catalog.pg_attribute"
	"     WHERE attrelid = y.typrelid AND y.typrelid <> 0 AND attnum > 0 AND NOT attisdropped"
	"   ) AS i(oid))"
	" SELECT y.oid::regtype FROM t JOIN pg_catalog.pg_type y USING (oid)"
	" WHERE t.inner_type AND y.typsend = 0 LIMIT 1";

static int choose_binary(struct stream *s, PGconn *c, struct stream_facts *f, struct rt_err *err)
{
	f->binary = s->o.binary != STREAM_BINARY_OFF && !s->text_only;
	if (s->o.binary != STREAM_BINARY_AUTO || s->text_only)
		return 0;
	struct buf names = BUF_INIT;
	PGresult *res;
	for (int i = 0; i < s->o.publication_count; i++) {
		buf_str(&names, i > 0 ? ", " : "");
		pgc_literal(&names, s->o.publication[i]);
	}
	int rc = pgc_exec_within(c, ANSWER_US, &res, err, types_without_send, buf_cstr(&names));
	buf_release(&names);
	if (rc != 0)
		return rc;
	if (PQntuples(res) > 0) {
		char fields[160];
		snprintf(fields, sizeof(fields), "type=\"%.100s\"", PQgetvalue(res, 0, 0));
		s->h.notice(s->h.ctx, "values come as text: a published type has no binary form",
			    fields);
		s->text_only = true;
		f->binary = false;
	}
	PQclear(res);
	return 0;
}

/*
 * Somebody else holds the slot. Right after a broken connection that is our
 * own old walsender, which does not know yet; it answers no more, so its last
 * reply stays the same. After a grace period (longer than a living client of
 * ours is ever silent) it is terminated. Anybody else is waited for.
 */
static int slot_is_busy(struct stream *s, PGconn *c, int pid, struct rt_err *err)
{
	int64_t now = rt_mono_us(), grace = 2 * status_interval_us(s) + 1000000;
	PGresult *res;
	int rc =
		pgc_exec_within(c, ANSWER_US, &res, err,
				"SELECT coalesce(r.application_name, ''), r.usename = current_user,"
				" coalesce(r.reply_time, r.backend_start)::text,"
				" coalesce(host(r.client_addr), 'local')"
				" FROM pg_catalog.pg_stat_replication r WHERE r.pid = %d",
				pid);
	if (rc != 0)
		return rc;
	bool known = PQntuples(res) == 1;
	const char *name = known ? PQgetvalue(res, 0, 0) : "unknown";
	bool ours = known && PQgetvalue(res, 0, 1)[0] == 't' &&
		    strcmp(name, s->o.application_name) == 0;
	const char *reply = known ? PQgetvalue(res, 0, 2) : "";
	if (pid != s->busy_pid || strncmp(reply, s->busy_reply, sizeof(s->busy_reply) - 1) != 0) {
		s->busy_pid = pid;
		s->busy_since_us = now;
		snprintf(s->busy_reply, sizeof(s->busy_reply), "%s", reply);
	}
	bool stale = ours && now - s->busy_since_us > grace;
	rc = rt_fail(err, ERR_RETRY,
		     "slot %s is in use by pid %d (application_name \"%s\", from %s)%s", s->o.slot,
		     pid, name, known ? PQgetvalue(res, 0, 3) : "unknown",
		     stale  ? ": our own stale walsender, terminated"
		     : ours ? ": perhaps our own from before; terminated if it stays silent"
			    : "");
	PQclear(res);
	if (stale) {
		struct rt_err ignored;
		s->busy_pid = 0;
		if (pgc_exec_within(c, ANSWER_US, NULL, &ignored,
				    "SELECT pg_catalog.pg_terminate_backend(active_pid) FROM"
				    " pg_catalog.pg_replication_slots WHERE slot_name = '%s'"
				    " AND active_pid = %d",
				    s->o.slot, pid) == 0)
			pgc_backoff_reset(&s->backoff);
	}
	return rc;
}

static int judge_slot(struct stream *s, PGconn *c, const PGresult *res, struct stream_facts *f,
		      struct rt_err *err)
{
	const char *slot = s->o.slot;
	/* A name or host list may lead to a standby while the primary is away, or before its promotion. */
	if (f->in_recovery && (PQntuples(res) != 1 || f->server_version < DECODING_STANDBY_MIN))
		return rt_fail(err, ERR_RETRY,
			       "this server is a standby, which slot %s cannot be read from; the "
			       "primary is waited for",
			       slot);
	if (PQntuples(res) != 1) {
		f->loss = STREAM_SLOT_GONE;
		return 0;
	}
	if (strcmp(PQgetvalue(res, 0, 0), "pgoutput") != 0 || PQgetvalue(res, 0, 1)[0] != 't')
		return rt_fail(err, ERR_PERMANENT,
			       "slot %s is not a pgoutput slot of this database; mend: choose "
			       "another name (core.slot) and run rolag init",
			       slot);
	f->core.confirmed = pgc_get_lsn(res, 0, 3);
	int pid = (int)strtol(PQgetvalue(res, 0, 2), NULL, 10);
	if (pid != 0)
		return slot_is_busy(s, c, pid, err);
	s->busy_pid = 0;
	if (strcmp(PQgetvalue(res, 0, 4), "lost") == 0 || f->core.confirmed.v == 0)
		f->loss = STREAM_SLOT_INVALIDATED;
	else
		f->loss = s->found;
	return 0;
}

static int check_slot(struct stream *s, PGconn *c, struct stream_facts *f, struct rt_err *err)
{
	struct buf b = BUF_INIT;
	PGresult *res;
	buf_str(&b, "SELECT plugin, database = current_database(), coalesce(active_pid, 0),"
		    " confirmed_flush_lsn, coalesce(wal_status, '') FROM"
		    " pg_catalog.pg_replication_slots WHERE slot_name = ");
	pgc_literal(&b, s->o.slot);
	int rc = exec_buf(c, &res, &b, err);
	if (rc != 0)
		return rc;
	rc = judge_slot(s, c, res, f, err);
	PQclear(res);
	return rc;
}

static int drop_slot(struct stream *s, PGconn *c, struct rt_err *err)
{
	struct buf b = BUF_INIT;
	buf_str(&b, "DROP_REPLICATION_SLOT ");
	pgc_ident(&b, s->o.slot);
	return exec_buf(c, NULL, &b, err);
}

/*
 * A new slot in the place of one that is lost. Its creation waits for old
 * transactions to end, as long as that takes: a second connection asks which.
 */
static int replace_slot(struct stream *s, PGconn *c, struct stream_facts *f, struct rt_err *err)
{
	struct slot_created made;
	struct rt_err ignored;
	struct slot_options o = {.name = s->o.slot,
				 .failover = true,
				 .on_wait = s->h.slot_waits,
				 .on_turn = s->h.slot_turn,
				 .ctx = s->h.ctx};
	const struct pgc_options monitor = {.what = "core",
					    .conninfo = s->o.conninfo,
					    .application_name = s->o.application_name};
	int rc = s->h.slot_lost(s->h.ctx, f, err);
	FAILPOINT_FD(LOST_SLOT_TOLD, PQsocket(c));
	if (rc == 0 && f->loss != STREAM_SLOT_GONE)
		rc = drop_slot(s, c, err);
	FAILPOINT_FD(LOST_SLOT_DROPPED, PQsocket(c));
	if (rc != 0)
		return rc;
	if (pgc_connect(&o.monitor, &monitor, &ignored) != 0)
		o.monitor = NULL; /* nobody says what it waits for, then */
	rc = slot_create(c, &o, &made, err);
	pgc_close(o.monitor);
	if (rc != 0)
		return rc;
	FAILPOINT_FD(LOST_SLOT_MADE, PQsocket(c));
	f->core.confirmed = made.consistent_point;
	f->core.flushed = lsn_max(f->core.flushed, made.consistent_point);
	s->found = STREAM_SLOT_GOOD;
	return 0;
}

static int start_replication(struct stream *s, PGconn *c, const struct stream_facts *f,
			     struct lsn start, struct rt_err *err)
{
	struct buf names = BUF_INIT, b = BUF_INIT;
	PGresult *res;
	for (int i = 0; i < s->o.publication_count; i++) {
		buf_str(&names, i > 0 ? "," : "");
		pgc_ident(&names, s->o.publication[i]);
	}
	buf_str(&b, "START_REPLICATION SLOT ");
	pgc_ident(&b, s->o.slot);
	buf_printf(&b, " LOGICAL " LSN_FMT " (proto_version '1', publication_names ",
		   LSN_ARGS(start));
	pgc_literal(&b, buf_cstr(&names));
	buf_printf(&b, ", messages 'true', binary '%s')", f->binary ? "true" : "false");
	buf_release(&names);
	int rc = exec_buf(c, &res, &b, err);
	if (rc == ERR_PERMANENT &&
	    (strstr(err->msg, "55000") != NULL || strstr(err->msg, "42704") != NULL))
		rc = err->code =
			ERR_RETRY; /* invalidated or dropped since it was looked at: look again */
	if (rc != 0)
		return rc;
	if (PQresultStatus(res) != PGRES_COPY_BOTH)
		rc = rt_fail(err, ERR_RETRY, "START_REPLICATION did not begin a stream");
	PQclear(res);
	return rc;
}

static int prepare_session(struct stream *s, PGconn *c, struct stream_facts *f, struct rt_err *err)
{
	struct pgc_system system;
	f->server_version = PQserverVersion(c);
	if (f->server_version < SERVER_VERSION_MIN)
		return rt_fail(err, ERR_PERMANENT,
			       "the core is PostgreSQL %d; mend: 15 or later is needed",
			       f->server_version / 10000);
	FAILPOINT_FD(STREAM_CONNECTED, PQsocket(c));
	int rc = set_session(s, c, err);
	FAILPOINT_FD(STREAM_SESSION, PQsocket(c));
	if (rc == 0)
		rc = pgc_identify_system(c, &system, err);
	if (rc == 0) {
		f->core.system_id = system.system_id;
		f->core.timeline = system.timeline;
		f->core.flushed = system.flushed;
		FAILPOINT_FD(STREAM_IDENTIFIED, PQsocket(c));
		rc = read_server(c, f, err);
	}
	if (rc == 0) {
		s->facts.wal_sender_timeout_us = f->wal_sender_timeout_us;
		FAILPOINT_FD(STREAM_CHECK_SLOT, PQsocket(c));
		rc = check_slot(s, c, f, err);
	}
	FAILPOINT_FD(STREAM_CHECK_PUBLICATION, PQsocket(c));
	if (rc == 0)
		rc = check_publications(
			s, c, err); /* before a slot is made: it decodes what comes later */
	if (rc == 0 && f->loss != STREAM_SLOT_GOOD)
		rc = replace_slot(s, c, f, err);
	if (rc == 0)
		rc = choose_binary(s, c, f, err);
	return rc;
}

static int connect_once(struct stream *s, struct rt_err *err)
{
	const struct pgc_options o = {
		.what = "core",
		.conninfo = s->o.conninfo,
		.application_name = s->o.application_name,
		.replication = true,
	};
	PGconn *c = NULL;
	struct stream_facts f = {0};
	struct lsn start = LSN_NONE;
	int rc = pgc_connect(&c, &o, err);
	if (rc == 0)
		rc = prepare_session(s, c, &f, err);
	if (rc == 0)
		rc = s->h.connected(s->h.ctx, &f, &start, err);
	FAILPOINT_FD(STREAM_BEFORE_START, PQsocket(c));
	if (rc == 0)
		rc = start_replication(s, c, &f, start, err);
	FAILPOINT_FD(STREAM_AFTER_START, PQsocket(c));
	if (rc == 0 && PQsetnonblocking(c, 1) != 0)
		rc = rt_fail(err, ERR_RETRY, "cannot make the connection non-blocking");
	if (rc != 0) {
		pgc_close(c);
		return rc;
	}
	s->conn = c;
	s->facts = f;
	s->pending_input =
		true; /* what came with the answer makes the socket no louder: an error, say */
	s->flushing = false;
	s->reply_wanted = true; /* the first status tells the server that we are there */
	s->told = (struct prog_feedback){0};
	s->heard_at_us = s->told_at_us = s->connected_at_us = rt_mono_us();
	return 0;
}

/* ---- the end of a connection ---- */

int stream_drop(struct stream *s, const struct rt_err *why, int64_t now_us, struct rt_err *err)
{
	pgc_close(s->conn);
	s->conn = NULL;
	if (s->connected_at_us != 0 && now_us - s->connected_at_us > STREAM_WAS_GOOD_US)
		pgc_backoff_reset(&s->backoff);
	s->connected_at_us = 0;
	int64_t wait = pgc_backoff_next(&s->backoff);
	s->retry_at_us = now_us + wait;
	return s->h.disconnected(s->h.ctx, why, wait, err);
}

int stream_lose_slot(struct stream *s, const struct rt_err *why, int64_t now_us, struct rt_err *err)
{
	s->found = STREAM_SLOT_UNDECODABLE;
	return stream_drop(s, why, now_us, err);
}

/* Tries again what can be tried again; everything else goes up. */
static int retry_or_fail(struct stream *s, int rc, int64_t now_us, struct rt_err *err)
{
	if (rc != ERR_RETRY)
		return rc;
	const struct rt_err why = *err;
	return stream_drop(s, &why, now_us, err);
}

/* A file of the core is missing: is it a WAL segment? Its text comes in the server's language, its source does not. */
static bool is_wal_gone(const PGresult *res)
{
	const char *from = res != NULL ? PQresultErrorField(res, PG_DIAG_SOURCE_FUNCTION) : NULL;
	return from != NULL && pgc_is_state(res, "58P01") &&
	       (strcmp(from, "WalSndSegmentOpen") == 0 || strcmp(from, "CheckXLogRemoved") == 0);
}

/* Says why the server ended the CopyBoth phase. */
static int judge_end(struct stream *s, const PGresult *res, struct rt_err *err)
{
	ExecStatusType st = PQresultStatus(res);
	if (res != NULL && st != PGRES_FATAL_ERROR)
		return rt_fail(err, ERR_RETRY, "the core ended the stream");
	if (pgc_is_state(res, "42883") && s->facts.binary) {
		s->text_only = true;
		s->h.notice(s->h.ctx, "values come as text: the core cannot send all in binary",
			    "");
		return rt_fail(err, ERR_RETRY, "reconnecting in text mode");
	}
	pgc_fail(s->conn, res, err, "replication");
	if (pgc_is_state(res, "42704")) {
		s->found = STREAM_SLOT_UNDECODABLE;
		return rt_fail(err, ERR_RETRY,
			       "the core stopped the stream: a publication did not exist when a "
			       "change was made (it was dropped, or made again later)");
	}
	if (is_wal_gone(res)) {
		s->found = STREAM_SLOT_WITHOUT_WAL;
		return rt_fail(err, ERR_RETRY,
			       "the core no longer has WAL that it was to keep for the slot");
	}
	const char *state = res != NULL ? PQresultErrorField(res, PG_DIAG_SQLSTATE) : NULL;
	if (state != NULL && strncmp(state, "58", 2) == 0)
		err->code = ERR_RETRY; /* the core's I/O: it may mend itself */
	return err->code;
}

static int end_of_copy(struct stream *s, struct rt_err *err)
{
	PGresult *res = PQgetResult(s->conn); /* it is there already: this is why the copy ended */
	int rc = judge_end(s, res, err);
	PQclear(res);
	return rc;
}

/* ---- reading ---- */

static int take_message(struct stream *s, const uint8_t *p, size_t len, struct rt_err *err)
{
	if (p[0] == 'w' && len > XLOGDATA_HEADER)
		return s->h.data(s->h.ctx, (struct lsn){be64_get(p + 1)},
				 slice_of(p + XLOGDATA_HEADER, len - XLOGDATA_HEADER), err);
	if (p[0] == 'k' && len == KEEPALIVE_BYTES && p[17] <= 1) {
		s->reply_wanted |= p[17] == 1;
		return s->h.keepalive(s->h.ctx, (struct lsn){be64_get(p + 1)}, p[17] == 1, err);
	}
	return rt_fail(err, ERR_PERMANENT,
		       "unknown streaming message (type byte 0x%02x, %zu bytes) from the core",
		       p[0], len);
}

/* What libpq has buffered, up to the turn's budget. 1: the copy is over. */
static int read_messages(struct stream *s, size_t *ret_bytes, struct rt_err *err)
{
	size_t bytes = 0;
	*ret_bytes = 0;
	s->pending_input = false;
	while (!s->paused) {
		char *p = NULL;
		if (bytes >= STREAM_TURN_BYTES) {
			s->pending_input = true;
			return 0;
		}
		int n = PQgetCopyData(s->conn, &p, 1);
		if (n == 0)
			return 0;
		if (n < 0)
			return 1;
		bytes += (size_t)n;
		*ret_bytes = bytes;
		int rc = take_message(s, (const uint8_t *)p, (size_t)n, err);
		PQfreemem(p);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static int read_input(struct stream *s, short revents, int64_t now_us, struct rt_err *err)
{
	bool broken = false;
	size_t bytes;
	if (s->paused) {
		if ((revents & (POLLERR | POLLHUP)) != 0)
			return rt_fail(err, ERR_RETRY, "connection lost while the spool is full");
		return 0;
	}
	if ((revents & (POLLIN | POLLERR | POLLHUP)) != 0) {
		FAILPOINT_FD(STREAM_READ, PQsocket(s->conn));
		broken = PQconsumeInput(s->conn) == 0;
		s->heard_at_us = now_us;
	} else if (!s->pending_input) {
		return 0;
	}
	int rc = read_messages(s, &bytes, err);
	s->rest_until_us = s->behind && !s->pending_input && bytes < STREAM_GULP_BYTES
				   ? now_us + STREAM_REST_US
				   : 0;
	if (rc == 0 && broken && !s->pending_input)
		rc = 1;
	return rc == 1 ? end_of_copy(s, err) : rc;
}

static int64_t silence_limit_us(const struct stream *s)
{
	return RT_MAX(s->facts.wal_sender_timeout_us, SILENCE_MIN_US);
}

static int check_silence(const struct stream *s, int64_t now_us, struct rt_err *err)
{
	if (s->facts.wal_sender_timeout_us == 0 || s->paused ||
	    now_us - s->heard_at_us <= silence_limit_us(s))
		return 0;
	return rt_fail(err, ERR_RETRY, "nothing heard from the core for %lld s",
		       (long long)((now_us - s->heard_at_us) / 1000000));
}

/* ---- writing ---- */

static int flush_output(struct stream *s, struct rt_err *err)
{
	int n = PQflush(s->conn);
	if (n < 0)
		return rt_fail(err, ERR_RETRY, "cannot write to the core: %.500s",
			       PQerrorMessage(s->conn));
	s->flushing = n == 1;
	return 0;
}

/* A standby status update. 1: libpq has no room for it now. */
static int send_status(struct stream *s, int64_t now_us, struct rt_err *err)
{
	uint8_t m[34];
	m[0] = 'r';
	be64_put(m + 1, s->next.write.v);
	be64_put(m + 9, s->next.flush.v);
	be64_put(m + 17, s->next.apply.v);
	be64_put(m + 25, (uint64_t)(rt_now_us() - RT_PG_EPOCH_US));
	/* A core with nothing to send says nothing, as we answer before it has to ask: so we ask. */
	m[33] = now_us - s->heard_at_us > silence_limit_us(s) / 2;
	FAILPOINT_FD(STREAM_BEFORE_STATUS, PQsocket(s->conn));
	int n = PQputCopyData(s->conn, (const char *)m, sizeof(m));
	if (n < 0)
		return rt_fail(err, ERR_RETRY, "cannot answer the core: %.500s",
			       PQerrorMessage(s->conn));
	if (n == 0)
		return 1;
	s->told = s->next;
	s->told_at_us = now_us;
	s->reply_wanted = false;
	int rc = flush_output(s, err);
	FAILPOINT_FD(STREAM_AFTER_STATUS, PQsocket(s->conn));
	return rc;
}

static bool feedback_moved(const struct stream *s)
{
	return !lsn_eq(s->told.write, s->next.write) || !lsn_eq(s->told.flush, s->next.flush) ||
	       !lsn_eq(s->told.apply, s->next.apply);
}

static int64_t status_due_us(const struct stream *s)
{
	if (s->reply_wanted)
		return 0;
	return s->told_at_us + (feedback_moved(s) ? STATUS_MOVED_US : status_interval_us(s));
}

int stream_status(struct stream *s, const struct prog_feedback *f, int64_t now_us,
		  struct rt_err *err)
{
	s->next = *f;
	if (s->conn == NULL || s->flushing || now_us < status_due_us(s))
		return 0;
	int rc = send_status(s, now_us, err);
	if (rc == 1) {
		s->flushing = true;
		return 0;
	}
	return retry_or_fail(s, rc, now_us, err);
}

void stream_stop(struct stream *s, const struct prog_feedback *f)
{
	struct rt_err ignored;
	int64_t end = rt_mono_us() + STOP_US;
	if (s->conn == NULL)
		return;
	s->next = *f;
	FAILPOINT_FD(STREAM_STOP, PQsocket(s->conn));
	bool sent = send_status(s, rt_mono_us(), &ignored) == 0 && PQputCopyEnd(s->conn, NULL) == 1;
	while (sent && rt_mono_us() < end) {
		char *p = NULL;
		bool flushing = PQflush(s->conn) == 1;
		int n = PQgetCopyData(s->conn, &p, 1);
		if (n < 0)
			break; /* the server's CopyDone: it has read ours */
		if (n > 0) {
			PQfreemem(p);
			continue;
		}
		struct pollfd fd = {.fd = PQsocket(s->conn),
				    .events = (short)(POLLIN | (flushing ? POLLOUT : 0))};
		poll(&fd, 1, 100);
		if (PQconsumeInput(s->conn) == 0)
			break;
	}
	stream_release(s);
}

/* ---- the loop's source ---- */

static void stream_prepare(void *ctx, int64_t now_us, struct loop_want *ret)
{
	struct stream *s = ctx;
	if (s->conn == NULL) {
		ret->at_us = s->retry_at_us;
		return;
	}
	ret->fd = PQsocket(s->conn);
	bool rests = now_us < s->rest_until_us;
	ret->events = (short)((s->paused || rests ? 0 : POLLIN) | (s->flushing ? POLLOUT : 0));
	ret->at_us = rests			      ? s->rest_until_us
		     : s->pending_input && !s->paused ? now_us
		     : s->flushing		      ? now_us + STATUS_IDLE_US
						      : status_due_us(s);
}

static int stream_dispatch(void *ctx, short revents, int64_t now_us, struct rt_err *err)
{
	struct stream *s = ctx;
	int rc;
	if (s->conn == NULL) {
		rc = connect_once(s, err);
		return retry_or_fail(s, rc, rt_mono_us(), err);
	}
	rc = read_input(s, revents, now_us, err);
	if (rc == 0 && s->flushing)
		rc = flush_output(s, err);
	if (rc == 0)
		rc = check_silence(s, now_us, err);
	return retry_or_fail(s, rc, now_us, err);
}

struct loop_source stream_source(struct stream *s)
{
	return (struct loop_source){
		.name = "stream",
		.ctx = s,
		.prepare = stream_prepare,
		.dispatch = stream_dispatch,
	};
}
