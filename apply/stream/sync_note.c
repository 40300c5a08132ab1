/*
 * sync_note: the rows of rolag.sync. Guarantees: each is written in the
 * transaction of what it tells of, under the fence; only the worker that
 * wrote the last step writes the next.
 */
#include <inttypes.h>

#include "apply/stream/quarantine.h"
#include "apply/stream/sync_inner.h"
#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/pg/pgconn.h"

#define MINE "pipeline = $1::text AND name = $2::text"

const char sync_note_step_sql[] =
	"WITH ok AS (SELECT 1 FROM rolag.fence f WHERE f.pipeline = $1::text AND f.epoch = "
	"$3::int8 FOR SHARE OF f), up AS (UPDATE rolag.sync SET step = step + 1, last_key = "
	"coalesce($5::text[], last_key), rows = $6::int8, replayed_lsn = coalesce($7::pg_lsn, "
	"replayed_lsn), changed_at = now() WHERE " MINE " AND step = $4::int8 AND EXISTS (SELECT 1 "
	"FROM ok) RETURNING 1) SELECT 1 / count(*) FROM up";

static void take_key(const PGresult *res, int column, const struct sync_unit *u,
		     struct sync_note *n)
{
	n->key.count = PQgetisnull(res, 0, column) ? 0 : u->key_count;
	for (uint16_t i = 0; i < n->key.count; i++) {
		buf_clear(&n->key.part[i]);
		buf_str(&n->key.part[i], PQgetvalue(res, 0, column + i));
	}
}

int sync_note_read(PGconn *c, const struct settings *s, const struct sync_unit *u,
		   struct sync_note *ret, struct rt_err *err)
{
	enum { STEP, START, READ, REPLAYED, TIMELINE, FRESH, ROWS, ESTIMATE, SOURCE, KEY };
	const char *params[] = {s->pipeline, u->name};
	struct buf sql = BUF_INIT;
	PGresult *res;
	buf_str(&sql, "SELECT step, start_lsn, read_lsn, replayed_lsn, timeline, fresh, rows, "
		      "estimated_rows, source_hash");
	for (unsigned i = 1; i <= u->key_count; i++)
		buf_printf(&sql, ", last_key[%u]", i);
	buf_str(&sql, " FROM rolag.sync WHERE " MINE);
	int rc = pgc_query(c, &res, err, buf_cstr(&sql), 2, params);
	buf_release(&sql);
	if (rc != 0)
		return rc;
	ret->there = PQntuples(res) == 1;
	if (ret->there) {
		ret->step = strtoll(PQgetvalue(res, 0, STEP), NULL, 10);
		ret->start = pgc_get_lsn(res, 0, START);
		ret->read = pgc_get_lsn(res, 0, READ);
		ret->replayed = pgc_get_lsn(res, 0, REPLAYED);
		ret->timeline = (uint32_t)strtoul(PQgetvalue(res, 0, TIMELINE), NULL, 10);
		ret->fresh = PQgetvalue(res, 0, FRESH)[0] == 't';
		ret->rows = strtoull(PQgetvalue(res, 0, ROWS), NULL, 10);
		ret->estimate = strtoull(PQgetvalue(res, 0, ESTIMATE), NULL, 10);
		snprintf(ret->source, sizeof(ret->source), "%s", PQgetvalue(res, 0, SOURCE));
		if (u->key_count > 0)
			take_key(res, KEY, u, ret);
	}
	PQclear(res);
	return 0;
}

static int begin_held(PGconn *c, const struct settings *s, const struct ledger *l,
		      struct rt_err *err)
{
	char epoch[24];
	snprintf(epoch, sizeof(epoch), "%" PRId64, l->epoch);
	const char *params[] = {s->pipeline, epoch};
	int rc = pgc_exec(c, NULL, err, "BEGIN");
	if (rc == 0 && (rc = pgc_query(c, NULL, err, ledger_hold_sql, 2, params)) != 0)
		rc = rt_fail(err, ERR_RETRY, "the fence was lost during a sync");
	return rc;
}

static int commit(PGconn *c, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_exec(c, &res, err, "COMMIT");
	if (rc != 0)
		return rc;
	if (strcmp(PQcmdStatus(res), "COMMIT") != 0)
		rc = rt_fail(err, ERR_RETRY, "the warehouse rolled a step of a sync back");
	PQclear(res);
	return rc;
}

/* Moves the ledger, with every table that follows the stream called syncing. */
static int move_ledger(PGconn *c, const struct settings *s, const struct ledger *l, struct lsn to,
		       struct rt_err *err)
{
	char lsn[32], timeline[16], epoch[24];
	snprintf(lsn, sizeof(lsn), LSN_FMT, LSN_ARGS(to));
	snprintf(timeline, sizeof(timeline), "%" PRIu32, l->timeline);
	snprintf(epoch, sizeof(epoch), "%" PRId64, l->epoch);
	const char *params[] = {s->pipeline, lsn, timeline, NULL, epoch, NULL};
	int rc = pgc_exec(c, NULL, err, "BEGIN; SET LOCAL synchronous_commit = on");
	if (rc == 0 && (rc = pgc_query(c, NULL, err, ledger_insert_sql, 6, params)) != 0)
		return rt_fail(err, ERR_RETRY, "the ledger did not take the end of a gap");
	if (rc == 0)
		rc = pgc_query(c, NULL, err,
			       "UPDATE rolag.relation SET state = 'syncing', changed_at = now() "
			       "WHERE pipeline = $1 AND state = 'live'",
			       1, &s->pipeline);
	FAILPOINT_FD(SYNC_GAP, PQsocket(c));
	return rc != 0 ? rc : commit(c, err);
}

/* Nothing of an earlier transaction is left open, whatever became of it. */
static int undone(PGconn *c, int rc)
{
	struct rt_err ignored;
	if (rc != 0 && pgc_exec(c, NULL, &ignored, "ROLLBACK") != 0)
		return rc; /* the connection is gone, and the transaction with it */
	return rc;
}

static int is_fresh(PGconn *c, const struct sync_unit *u, bool *ret, struct rt_err *err)
{
	PGresult *res;
	int rc = u->clear[0] != '\0' ? pgc_exec(c, NULL, err, "%s", u->clear) : 0;
	if (rc == 0)
		rc = pgc_exec(c, &res, err, "SELECT 1 FROM %s LIMIT 1", u->target);
	if (rc != 0)
		return rc;
	*ret = PQntuples(res) == 0;
	PQclear(res);
	return 0;
}

static int insert_note(PGconn *c, const struct settings *s, const struct sync_unit *u,
		       struct sync_note *n, struct rt_err *err)
{
	char start[32], timeline[16], estimate[24];
	PGresult *res;
	snprintf(start, sizeof(start), LSN_FMT, LSN_ARGS(n->start));
	snprintf(timeline, sizeof(timeline), "%" PRIu32, n->timeline);
	snprintf(estimate, sizeof(estimate), "%" PRIu64, n->estimate);
	const char *params[] = {s->pipeline, u->name,  start,
				timeline,    estimate, n->fresh ? "t" : "f"};
	int rc = pgc_query(
		c, &res, err,
		"INSERT INTO rolag.sync AS s (pipeline, name, start_lsn, timeline, "
		"estimated_rows, fresh) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (pipeline, "
		"name) DO UPDATE SET (start_lsn, timeline, estimated_rows, fresh, step, read_lsn, "
		"replayed_lsn, last_key, rows, started_at, changed_at) = (excluded.start_lsn, "
		"excluded.timeline, excluded.estimated_rows, excluded.fresh, s.step + 1, NULL, "
		"NULL, NULL, 0, now(), now()) RETURNING step",
		6, params);
	if (rc != 0)
		return rc;
	n->step = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
	PQclear(res);
	return 0;
}

int sync_note_begin(PGconn *c, const struct settings *s, const struct sync_unit *u,
		    const struct ledger *l, struct sync_note *n, struct rt_err *err)
{
	n->read = n->replayed = LSN_NONE;
	n->rows = 0;
	n->key.count = 0;
	FAILPOINT_FD(SYNC_BEFORE_BEGIN, PQsocket(c));
	int rc = begin_held(c, s, l, err);
	if (rc == 0 && u->rollup != NULL)
		rc = quarantine_forget(c, s, u->rollup, err);
	if (rc == 0)
		rc = is_fresh(c, u, &n->fresh, err);
	if (rc == 0)
		rc = insert_note(c, s, u, n, err);
	if (rc == 0 && u->noted != NULL && u->noted[0] != '\0')
		rc = pgc_exec(c, NULL, err, "%s", u->noted);
	FAILPOINT_FD(SYNC_BEFORE_BEGIN_COMMIT, PQsocket(c));
	if (rc == 0)
		rc = commit(c, err);
	FAILPOINT_FD(SYNC_BEGUN, PQsocket(c));
	n->there = rc == 0;
	return undone(c, rc);
}

/* The row of a table of which everything is read. */
static int note_whole(PGconn *c, const struct settings *s, const struct sync_unit *u,
		      struct sync_note *n, struct rt_err *err)
{
	char start[32], rows[24];
	int rc = insert_note(c, s, u, n, err);
	if (rc != 0)
		return rc;
	n->read = n->start;
	snprintf(start, sizeof(start), LSN_FMT, LSN_ARGS(n->start));
	snprintf(rows, sizeof(rows), "%" PRIu64, n->rows);
	const char *params[] = {s->pipeline, u->name, start, rows};
	return pgc_query(c, NULL, err,
			 "UPDATE rolag.sync SET read_lsn = $3::pg_lsn, rows = $4::int8 WHERE " MINE,
			 4, params);
}

/* Whoever watches sees that it is under way; the next worker begins anew all the same. */
static int note_taken_up(PGconn *c, const struct settings *s, const struct sync_unit *u,
			 const struct ledger *l, struct sync_note *n, struct rt_err *err)
{
	const uint32_t timeline = n->timeline;
	n->start = n->read = n->replayed = LSN_NONE;
	n->fresh = true;
	n->key.count = 0;
	n->timeline = 0;
	int rc = begin_held(c, s, l, err);
	if (rc == 0)
		rc = insert_note(c, s, u, n, err);
	n->timeline = timeline;
	return rc == 0 ? commit(c, err) : rc;
}

int sync_note_whole(PGconn *c, const struct settings *s, const struct sync_unit *u,
		    const struct ledger *l, struct sync_note *n,
		    int (*fill)(void *ctx, struct rt_err *err), void *ctx, struct rt_err *err)
{
	int rc = note_taken_up(c, s, u, l, n, err);
	if (rc == 0)
		rc = begin_held(c, s, l, err);
	if (rc == 0)
		rc = fill(ctx, err);
	if (rc == 0)
		rc = note_whole(c, s, u, n, err);
	if (rc == 0)
		rc = commit(c, err);
	n->there = rc == 0;
	return undone(c, rc);
}

/* One statement on our own row, $3 is the step; no row: somebody else's it is now. */
static int own_row(PGconn *c, const struct settings *s, const struct sync_unit *u,
		   const struct sync_note *n, const char *sql, const char *last, struct rt_err *err)
{
	char step[24];
	PGresult *res;
	snprintf(step, sizeof(step), "%" PRId64, n->step);
	const char *params[] = {s->pipeline, u->name, step, last};
	int rc = pgc_query(c, &res, err, sql, last != NULL ? 4 : 3, params);
	if (rc != 0)
		return rc;
	if (strcmp(PQcmdTuples(res), "1") != 0)
		rc = rt_fail(err, ERR_RETRY, "the sync of %s was begun anew by another", u->name);
	PQclear(res);
	return rc;
}

/* How far a piece goes; the step is ours, or somebody else has begun anew. */
static int note_piece(PGconn *c, const struct settings *s, const struct sync_unit *u,
		      const struct sync_note *n, struct rt_err *err)
{
	char step[24], rows[24], read[32];
	struct buf key = BUF_INIT;
	PGresult *res;
	snprintf(step, sizeof(step), "%" PRId64, n->step);
	snprintf(rows, sizeof(rows), "%" PRIu64, n->rows);
	snprintf(read, sizeof(read), LSN_FMT, LSN_ARGS(n->read));
	sync_key_print(&n->key, &key);
	const char *params[] = {s->pipeline, u->name,
				step,	     n->key.count > 0 ? buf_cstr(&key) : NULL,
				rows,	     n->read.v != 0 ? read : NULL};
	int rc = pgc_query(c, &res, err,
			   "UPDATE rolag.sync SET step = step + 1, last_key = $4::text[], rows = "
			   "$5::int8, read_lsn = $6::pg_lsn, changed_at = now() WHERE " MINE
			   " AND step = $3::int8",
			   6, params);
	buf_release(&key);
	if (rc != 0)
		return rc;
	if (strcmp(PQcmdTuples(res), "1") != 0)
		rc = rt_fail(err, ERR_RETRY, "the sync of %s was begun anew by another", u->name);
	PQclear(res);
	return rc;
}

int sync_note_piece(PGconn *c, const struct settings *s, const struct sync_unit *u,
		    const struct ledger *l, struct sync_note *n,
		    int (*fill)(void *ctx, struct rt_err *err), void *ctx, struct rt_err *err)
{
	int rc = begin_held(c, s, l, err);
	/* A crash loses a piece with its note, and what comes behind: nothing waits for the disk but the end. */
	if (rc == 0)
		rc = pgc_exec(c, NULL, err, "SET LOCAL synchronous_commit = off");
	if (rc == 0)
		rc = fill(ctx, err);
	if (rc == 0)
		rc = note_piece(c, s, u, n, err);
	FAILPOINT_FD(SYNC_PIECE, PQsocket(c));
	if (rc == 0)
		rc = commit(c, err);
	n->step += rc == 0;
	return undone(c, rc);
}

int sync_note_all_read(PGconn *c, const struct settings *s, const struct sync_unit *u,
		       const struct ledger *l, struct sync_note *n, struct lsn read,
		       struct rt_err *err)
{
	char text[32];
	snprintf(text, sizeof(text), LSN_FMT, LSN_ARGS(read));
	FAILPOINT_FD(SYNC_ALL_READ, PQsocket(c));
	int rc = begin_held(c, s, l, err);
	if (rc == 0)
		rc = own_row(c, s, u, n,
			     "UPDATE rolag.sync SET read_lsn = $4::pg_lsn, changed_at = now(), "
			     "step = step + 1 WHERE " MINE " AND step = $3::int8",
			     text, err);
	if (rc == 0)
		rc = commit(c, err);
	if (rc == 0) {
		n->step++;
		n->read = read;
	}
	return undone(c, rc);
}

static int set_live(PGconn *c, const struct settings *s, const struct sync_unit *u, struct lsn lsn,
		    struct rt_err *err)
{
	char text[32];
	snprintf(text, sizeof(text), LSN_FMT, LSN_ARGS(lsn));
	const char *params[] = {s->pipeline, u->name, text};
	return pgc_query(c, NULL, err,
			 "UPDATE rolag.relation SET state = 'live', sync_lsn = $3::pg_lsn, "
			 "reason = NULL, changed_at = now() WHERE " MINE,
			 3, params);
}

int sync_note_live(PGconn *c, const struct settings *s, const struct sync_unit *u,
		   const struct ledger *l, const struct sync_note *n, struct lsn lsn,
		   int (*also)(void *ctx, struct rt_err *err), void *ctx, struct rt_err *err)
{
	FAILPOINT_FD(SYNC_BEFORE_LIVE, PQsocket(c));
	int rc = begin_held(c, s, l, err);
	/* What it needs of the spool may go once this returns: so all of it is on disk. */
	if (rc == 0)
		rc = pgc_exec(c, NULL, err, "SET LOCAL synchronous_commit = on");
	if (rc == 0 && also != NULL)
		rc = also(ctx, err);
	if (rc == 0)
		rc = own_row(c, s, u, n,
			     "DELETE FROM rolag.sync WHERE " MINE " AND step = $3::int8", NULL,
			     err);
	if (rc == 0)
		rc = set_live(c, s, u, lsn, err);
	FAILPOINT_FD(SYNC_BEFORE_LIVE_COMMIT, PQsocket(c));
	if (rc == 0)
		rc = commit(c, err);
	FAILPOINT_FD(SYNC_AFTER_LIVE_COMMIT, PQsocket(c));
	return undone(c, rc);
}

int sync_note_drop(PGconn *c, const struct settings *s, const struct sync_unit *u,
		   const struct sync_note *n, struct rt_err *err)
{
	return own_row(c, s, u, n, "DELETE FROM rolag.sync WHERE " MINE " AND step = $3::int8",
		       NULL, err);
}

int sync_note_park(PGconn *c, const struct settings *s, const struct sync_unit *u,
		   const struct ledger *l, const char *reason, struct rt_err *err)
{
	const char *params[] = {s->pipeline, u->name, reason};
	int rc = begin_held(c, s, l, err);
	if (rc == 0)
		rc = pgc_query(c, NULL, err, "DELETE FROM rolag.sync WHERE " MINE, 2, params);
	if (rc == 0)
		rc = pgc_query(c, NULL, err,
			       "UPDATE rolag.relation SET state = 'parked', reason = $3, "
			       "changed_at = now() WHERE " MINE,
			       3, params);
	if (rc == 0)
		rc = commit(c, err);
	return undone(c, rc);
}

int sync_note_void(PGconn *c, const struct settings *s, const struct sync_unit *u,
		   const struct sync_note *n, struct rt_err *err)
{
	return own_row(c, s, u, n,
		       "UPDATE rolag.sync SET timeline = 0, step = step + 1 WHERE " MINE
		       " AND step = $3::int8",
		       NULL, err);
}

int sync_over_gap(PGconn *c, const struct settings *s, struct landed_set *landed, struct ledger *l,
		  struct lsn to, struct rt_err *err)
{
	if (!lsn_lt(l->applied, to))
		return 0; /* it was done */
	int rc = undone(c, move_ledger(c, s, l, to, err));
	if (rc != 0)
		return rc;
	log_warn("what lies in a gap of the spool is read from the core: all tables are synced",
		 "from=" LSN_FMT " to=" LSN_FMT, LSN_ARGS(l->applied), LSN_ARGS(to));
	l->applied = to;
	for (uint16_t i = 0; i < landed->count; i++)
		if (landed->item[i].state == LANDED_LIVE)
			landed->item[i].state = LANDED_SYNCING;
	return 0;
}
