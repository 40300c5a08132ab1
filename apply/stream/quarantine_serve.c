/*
 * quarantine_serve: what people asked for, done by apply between two batches.
 * Guarantees: an entity's waiting events are folded in the order of their
 * sequences, in one transaction with their removal, under the fence; rows and
 * events are read a piece at a time.
 */
#include <inttypes.h>

#include "apply/stream/quarantine.h"
#include "apply/stream/repair.h"
#include "apply/stream/writer_rows.h"
#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/base/metrics.h"
#include "proto/pg/pgconn.h"

/* How many events are read at a time: what waits may be much. */
#define FETCH_SQL "FETCH 100 FROM waits"

struct serving {
	PGconn *c;
	struct loop *loop;
	const struct settings *settings;
	const struct landed_set *landed;
	const struct ledger *ledger;
	struct parked *parked;
	struct cache *cache;
	struct arena arena;   /* one event */
	struct arena missing; /* events from the core, of one gap */
	/* The entity. */
	const struct landed *l;
	uint16_t rollup;
	const char *id_text;
	struct buf id;
	struct fold_row state; /* in memory of its own, below */
	bool has_state;
	struct buf event_type, columns;
	bool changed; /* it has versions more */
	struct buf copy;
	struct buf skipped; /* "{3,7": sequences that are passed */
	int32_t done;	    /* events up to this sequence are through */
	int32_t first;	    /* the one that does not fold; 0: all are through */
	uint64_t gone, left;
	char reason[1100]; /* why it does not */
};

/* ---- one event ---- */

static void keep(struct buf *b, struct slice *s)
{
	buf_clear(b);
	buf_add_slice(b, *s);
	*s = buf_slice(b);
}

static struct slice field(const PGresult *res, int row, int column)
{
	return slice_of(PQgetvalue(res, row, column), (size_t)PQgetlength(res, row, column));
}

enum { COL_SEQUENCE, COL_TYPE, COL_EVENT, COL_RECORDED, COL_LSN, COL_COMMITTED, COL_STATE, COLS };

#define EVENTS_SQL                                                                                 \
	"DECLARE waits CURSOR FOR SELECT sequence, event_type, event, recorded_at, lsn, "          \
	"committed_at, state FROM rolag.quarantine WHERE pipeline = $1 AND rollup = $2 AND id = "  \
	"$3 AND state <> 'skipped' ORDER BY sequence FOR UPDATE"

static int read_event(struct serving *s, const PGresult *res, int row, struct fold_event *ret,
		      struct rt_err *err)
{
	static const int bytes[COLS] = {
		[COL_SEQUENCE] = 4, [COL_RECORDED] = 8, [COL_LSN] = 8, [COL_COMMITTED] = 8};
	for (int i = 0; i < COLS; i++)
		if (bytes[i] > 0 && PQgetlength(res, row, i) != bytes[i] &&
		    !(i == COL_COMMITTED && PQgetisnull(res, row, i)))
			return rt_fail(err, ERR_PERMANENT,
				       "rolag.quarantine holds a row that rolag did not write");
	*ret = (struct fold_event){
		.id = buf_slice(&s->id),
		.sequence = (int32_t)be32_get(field(res, row, COL_SEQUENCE).p),
		.event_type = field(res, row, COL_TYPE),
		.payload = field(res, row, COL_EVENT),
		.recorded_at_us = (int64_t)be64_get(field(res, row, COL_RECORDED).p),
	};
	return 0;
}

/* A version more, of an event of this position (commit_us 0: not known). */
static void take_row(struct serving *s, const struct fold_row *folded, struct lsn lsn,
		     int64_t commit_us)
{
	s->state = *folded;
	s->state.id = buf_slice(&s->id);
	keep(&s->event_type, &s->state.event_type);
	keep(&s->columns, &s->state.columns);
	s->has_state = true;
	s->changed = true;
	writer_copy_row(&s->state, s->l->rollup->column_count, lsn, commit_us, &s->copy);
}

static bool is_through(enum fold_result result)
{
	return result == FOLD_OK || result == FOLD_IGNORED || result == FOLD_DUPLICATE;
}

static int put_copy(struct serving *s, struct rt_err *err)
{
	int ok = s->copy.len == 0 ||
		 PQputCopyData(s->c, (const char *)s->copy.p, (int)s->copy.len) == 1;
	buf_clear(&s->copy);
	return ok ? 0 : pgc_fail(s->c, NULL, err, "writing rows from quarantine");
}

/* Folds events that the core has before a waiting one; *result is that of the last, or of the one that stops it. */
static int fold_missing(struct serving *s, const struct fold_event *e, int count, struct lsn lsn,
			enum fold_result *result, struct rt_err *why, struct rt_err *err)
{
	struct fold_note note = {0};
	struct fold_row folded;
	int rc = 0;
	for (int i = 0; rc == 0 && i < count; i++) {
		arena_reset(&s->arena);
		*result = fold_apply(s->l->rollup, s->has_state ? &s->state : NULL, &e[i],
				     &s->arena, &folded, &note, why);
		if (!is_through(*result))
			break;
		take_row(s, &folded, lsn, 0);
		met_add(MET_REPAIRED_EVENTS, 1);
		rc = put_copy(s, err);
	}
	return rc;
}

/* Seeks what is missing before e in the core; *result is e's own then, or of what stopped it. */
static int fill_gap(struct serving *s, const struct fold_event *e, struct lsn lsn,
		    struct fold_row *ret, enum fold_result *result, struct rt_err *why,
		    struct rt_err *err)
{
	struct fold_note note = {0};
	struct fold_event *missing;
	struct rt_err no_more;
	int rc = 0;
	for (int n = 1; rc == 0 && *result == FOLD_GAP && n > 0;) {
		const struct repair_gap gap = {.rollup = s->l->rollup,
					       .id = e->id,
					       .after = s->has_state ? s->state.version : 0,
					       .before = e->sequence};
		arena_reset(&s->missing);
		n = repair_read(s->settings, s->ledger, s->loop, &gap, &s->missing, &missing,
				&no_more);
		rc = fold_missing(s, missing, n, lsn, result, why, err);
		if (rc == 0 && is_through(*result))
			*result = fold_apply(s->l->rollup, s->has_state ? &s->state : NULL, e,
					     &s->arena, ret, &note, why);
	}
	return rc;
}

static int64_t commit_time(const PGresult *res, int row)
{
	if (PQgetisnull(res, row, COL_COMMITTED))
		return 0;
	return (int64_t)be64_get(field(res, row, COL_COMMITTED).p) + RT_PG_EPOCH_US;
}

/* Its event, passed because somebody said so. */
static void note_skipped(struct serving *s, const struct fold_event *e)
{
	buf_printf(&s->skipped, "%s%" PRId32, s->skipped.len > 1 ? "," : "", e->sequence);
	parked_skip(s->parked, s->rollup, e->id, e->sequence);
}

/* One event more, as long as none has failed. */
static int fold_one(struct serving *s, const PGresult *res, int row, struct rt_err *err)
{
	const struct rollup *r = s->l->rollup;
	struct fold_event e;
	struct fold_row folded;
	struct fold_note note = {0};
	struct rt_err why;
	if (s->first != 0) {
		s->left++;
		return 0;
	}
	int rc = read_event(s, res, row, &e, err);
	if (rc != 0)
		return rc;
	arena_reset(&s->arena);
	const struct lsn lsn = {be64_get(field(res, row, COL_LSN).p)};
	const bool skip = slice_is(field(res, row, COL_STATE), "skip");
	const struct fold_row *prev = s->has_state ? &s->state : NULL;
	enum fold_result result = skip ? fold_accept(r, prev, &e, &s->arena, &folded, &note)
				       : fold_apply(r, prev, &e, &s->arena, &folded, &note, &why);
	if (result == FOLD_GAP && fold_policy(r, result) == POLICY_REPAIR)
		rc = fill_gap(s, &e, lsn, &folded, &result, &why, err);
	if (rc != 0)
		return rc;
	if (!is_through(result)) {
		s->first = e.sequence;
		s->left++;
		snprintf(s->reason, sizeof(s->reason), "%s: %s", fold_result_name(result), why.msg);
		return 0;
	}
	if (skip)
		note_skipped(s, &e);
	s->done = e.sequence;
	s->gone++;
	if (result != FOLD_DUPLICATE)
		take_row(s, &folded, lsn, commit_time(res, row));
	return 0;
}

/* ---- the entity's transaction ---- */

static int query_entity(struct serving *s, const char *sql, struct rt_err *err)
{
	const char *params[] = {s->settings->pipeline, s->l->rollup->name, s->id_text};
	return pgc_query(s->c, NULL, err, sql, 3, params);
}

static int begin(struct serving *s, struct rt_err *err)
{
	char epoch[24];
	PGresult *res;
	snprintf(epoch, sizeof(epoch), "%" PRId64, s->ledger->epoch);
	const char *params[] = {s->settings->pipeline, epoch};
	int rc = pgc_exec(s->c, NULL, err, "BEGIN");
	if (rc != 0)
		return rc;
	rc = pgc_query(s->c, &res, err, ledger_hold_sql, 2, params);
	if (rc != 0)
		return rt_fail(err, ERR_RETRY, "the fence was lost before a retry");
	PQclear(res);
	FAILPOINT_FD(QUARANTINE_BEGUN, PQsocket(s->c));
	return 0;
}

static int read_state(struct serving *s, struct rt_err *err)
{
	struct buf sql = BUF_INIT, array = BUF_INIT;
	int rc = 0;
	landed_fetch_sql(s->l, &sql);
	buf_u32(&array, 1); /* one dimension, no NULL, the type, one element, the first */
	buf_u32(&array, 0);
	buf_u32(&array, pgt_oid((struct pgt_type){s->l->rollup->id_type, false}));
	buf_u32(&array, 1);
	buf_u32(&array, 1);
	buf_u32(&array, (uint32_t)s->id.len);
	buf_add_slice(&array, buf_slice(&s->id));
	const char *values[] = {(const char *)array.p};
	const int lengths[] = {(int)array.len}, formats[] = {1};
	PGresult *res = PQexecParams(s->c, buf_cstr(&sql), 1, NULL, values, lengths, formats, 1);
	if (PQresultStatus(res) != PGRES_TUPLES_OK)
		rc = pgc_fail(s->c, res, err, "fetching an entity's state");
	s->has_state = rc == 0 && PQntuples(res) == 1;
	if (s->has_state)
		rc = writer_read_state(s->l->rollup, res, 0, &s->columns, &s->state, err);
	if (rc == 0 && s->has_state) {
		s->state.id = buf_slice(&s->id);
		keep(&s->event_type, &s->state.event_type);
	}
	PQclear(res);
	buf_release(&sql);
	buf_release(&array);
	return rc;
}

static int begin_copy(struct serving *s, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	landed_copy_sql(s->l, false, &sql);
	int rc = pgc_exec(s->c, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	buf_clear(&s->copy);
	writer_copy_header(&s->copy);
	return rc;
}

static int end_copy(struct serving *s, struct rt_err *err)
{
	buf_u16(&s->copy, UINT16_MAX);
	int rc = put_copy(s, err);
	if (rc != 0)
		return rc;
	if (PQputCopyEnd(s->c, NULL) != 1)
		return pgc_fail(s->c, NULL, err, "writing rows from quarantine");
	for (PGresult *res; (res = PQgetResult(s->c)) != NULL; PQclear(res))
		if (PQresultStatus(res) != PGRES_COMMAND_OK && rc == 0)
			rc = pgc_fail(s->c, res, err, "writing rows from quarantine");
	return rc;
}

/* A piece of what waits, folded into history; *ret_rows: how many events it had. */
static int fold_piece(struct serving *s, int *ret_rows, struct rt_err *err)
{
	int copied = 0;
	PGresult *res = PQexecParams(s->c, FETCH_SQL, 0, NULL, NULL, NULL, NULL, 1);
	int rc = 0;
	if (PQresultStatus(res) != PGRES_TUPLES_OK)
		rc = pgc_fail(s->c, res, err, "reading what waits in quarantine");
	*ret_rows = rc == 0 ? PQntuples(res) : 0;
	if (rc == 0 && *ret_rows > 0 && s->first == 0) {
		copied = 1;
		rc = begin_copy(s, err);
	}
	for (int i = 0; rc == 0 && i < *ret_rows; i++) {
		rc = fold_one(s, res, i, err);
		if (rc == 0)
			rc = put_copy(s, err);
	}
	PQclear(res);
	return rc == 0 && copied ? end_copy(s, err) : rc;
}

/* The entity's latest row, out of history. */
static int write_latest(struct serving *s, struct rt_err *err)
{
	const char *type = pgt_name((struct pgt_type){s->l->rollup->id_type, false});
	const char *params[] = {s->id_text};
	struct buf sql = BUF_INIT;
	buf_printf(&sql, "DELETE FROM %s WHERE id = $1::%s", s->l->latest, type);
	int rc = pgc_query(s->c, NULL, err, buf_cstr(&sql), 1, params);
	buf_clear(&sql);
	buf_printf(&sql,
		   "INSERT INTO %s SELECT * FROM %s WHERE id = $1::%s ORDER BY version DESC "
		   "LIMIT 1",
		   s->l->latest, s->l->history, type);
	if (rc == 0)
		rc = pgc_query(s->c, NULL, err, buf_cstr(&sql), 1, params);
	buf_release(&sql);
	return rc;
}

/* What is through leaves quarantine; what was skipped stays noted, without its payload. */
static int remove_done(struct serving *s, struct rt_err *err)
{
	char done[16], first[16];
	snprintf(done, sizeof(done), "%" PRId32, s->done);
	snprintf(first, sizeof(first), "%" PRId32, s->first);
	buf_str(&s->skipped, "}");
	const char *params[] = {s->settings->pipeline, s->l->rollup->name, s->id_text, done,
				buf_cstr(&s->skipped)};
	int rc = pgc_query(s->c, NULL, err,
			   "DELETE FROM rolag.quarantine WHERE pipeline = $1 AND rollup = $2 AND "
			   "id = $3 AND sequence <= $4::int4 AND state <> 'skipped' AND sequence "
			   "<> ALL ($5::int4[])",
			   5, params);
	if (rc == 0 && s->skipped.len > 2)
		rc = pgc_query(s->c, NULL, err,
			       "UPDATE rolag.quarantine SET state = 'skipped', event = NULL WHERE "
			       "pipeline = $1 AND rollup = $2 AND id = $3 AND sequence <= $4::int4 "
			       "AND sequence = ANY ($5::int4[])",
			       5, params);
	params[3] = first;
	params[4] = s->reason;
	if (rc == 0 && s->first != 0)
		rc = pgc_query(s->c, NULL, err,
			       "UPDATE rolag.quarantine SET state = 'waiting', first = (sequence = "
			       "$4::int4), reason = CASE WHEN sequence = $4::int4 THEN $5 END "
			       "WHERE pipeline = $1 AND rollup = $2 AND id = $3 AND state <> "
			       "'skipped' AND (sequence = $4::int4 OR first OR state <> 'waiting')",
			       5, params);
	return rc;
}

static int audit(struct serving *s, struct rt_err *err)
{
	char sequence[16], what[1200];
	bool again = s->first != 0;
	snprintf(sequence, sizeof(sequence), "%" PRId32, again ? s->first : s->done);
	if (again)
		snprintf(what, sizeof(what), "%s", s->reason);
	else
		snprintf(what, sizeof(what), "%" PRIu64 " events", s->gone);
	const char *params[] = {again ? "parked again" : "folded",
				s->settings->pipeline,
				s->l->rollup->name,
				s->id_text,
				sequence,
				what};
	return pgc_query(s->c, NULL, err,
			 "INSERT INTO rolag.quarantine_audit (who, action, pipeline, rollup, id, "
			 "sequence, reason) VALUES ('rolag apply', $1, $2, $3, $4, $5::int4, $6)",
			 6, params);
}

static int commit(struct serving *s, struct rt_err *err)
{
	PGresult *res;
	FAILPOINT_FD(QUARANTINE_BEFORE_COMMIT, PQsocket(s->c));
	int rc = pgc_exec(s->c, &res, err, "COMMIT");
	if (rc != 0)
		return rc;
	if (strcmp(PQcmdStatus(res), "COMMIT") != 0)
		rc = rt_fail(err, ERR_RETRY, "the warehouse rolled a retry back");
	PQclear(res);
	FAILPOINT_FD(QUARANTINE_AFTER_COMMIT, PQsocket(s->c));
	return rc;
}

static int fold_entity(struct serving *s, struct rt_err *err)
{
	int rc = begin(s, err);
	if (rc == 0)
		rc = query_entity(s, EVENTS_SQL, err);
	if (rc == 0)
		rc = read_state(s, err);
	for (int n = 1; rc == 0 && n > 0;)
		rc = fold_piece(s, &n, err);
	if (rc == 0)
		rc = pgc_exec(s->c, NULL, err, "CLOSE waits");
	if (rc == 0 && s->changed)
		rc = write_latest(s, err);
	if (rc == 0)
		rc = remove_done(s, err);
	if (rc == 0)
		rc = audit(s, err);
	return rc == 0 ? commit(s, err) : rc;
}

/* It is committed: memory follows. */
static void note_entity(struct serving *s)
{
	if (s->changed)
		cache_put(s->cache, s->rollup, &s->state);
	if (s->first == 0)
		parked_remove(s->parked, s->rollup, buf_slice(&s->id), s->gone);
	else
		parked_from(s->parked, s->rollup, buf_slice(&s->id), s->first, s->gone);
	met_add(MET_QUARANTINE_FOLDED, s->gone);
	if (s->first == 0)
		log_info("an entity left quarantine", "rollup=%s id=%s events=%" PRIu64,
			 s->l->rollup->name, s->id_text, s->gone);
	else
		log_warn("an entity stays in quarantine",
			 "rollup=%s id=%s folded=%" PRIu64 " waiting=%" PRIu64 " reason=\"%s\"",
			 s->l->rollup->name, s->id_text, s->gone, s->left, s->reason);
}

/* ---- requests ---- */

/* A request that cannot be served: what it was for goes on waiting. */
static int dismiss(struct serving *s, const char *rollup, struct rt_err *err)
{
	const char *params[] = {s->settings->pipeline, rollup, s->id_text};
	log_warn("a request for quarantine is not served: its rollup is not live",
		 "rollup=%s id=%s", rollup, s->id_text);
	return pgc_query(s->c, NULL, err,
			 "UPDATE rolag.quarantine SET state = 'waiting' WHERE pipeline = $1 AND "
			 "rollup = $2 AND id = $3 AND state IN ('retry', 'skip')",
			 3, params);
}

static int serve_entity(struct serving *s, const char *rollup, const char *id, struct rt_err *err)
{
	s->l = NULL;
	s->id_text = id;
	for (uint16_t i = 0; i < s->landed->count; i++)
		if (strcmp(s->landed->item[i].rollup->name, rollup) == 0) {
			s->l = &s->landed->item[i];
			s->rollup = i;
		}
	if (s->l == NULL || s->l->state != LANDED_LIVE)
		return dismiss(s, rollup, err);
	buf_clear(&s->id);
	buf_clear(&s->skipped);
	buf_str(&s->skipped, "{");
	s->changed = false;
	s->done = s->first = 0;
	s->gone = s->left = 0;
	s->reason[0] = '\0';
	int rc = pgt_from_text(s->l->rollup->id_type, slice_str(id), NULL, &s->id, err);
	if (rc != 0)
		return rt_context(err, "an id of rollup %s in rolag.quarantine", rollup);
	rc = fold_entity(s, err);
	if (rc != 0)
		return rt_context(err, "retry of rollup %s, entity %s", rollup, id);
	note_entity(s);
	return 0;
}

/* The next request; *ret_any: there was one. */
static int serve_next(struct serving *s, bool *ret_any, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_query(s->c, &res, err,
			   "SELECT rollup, id FROM rolag.quarantine WHERE pipeline = $1 AND state "
			   "IN ('retry', 'skip') ORDER BY rollup, id LIMIT 1",
			   1, &s->settings->pipeline);
	if (rc != 0)
		return rc;
	*ret_any = PQntuples(res) > 0;
	if (*ret_any)
		rc = serve_entity(s, PQgetvalue(res, 0, 0), PQgetvalue(res, 0, 1), err);
	PQclear(res);
	return rc;
}

int quarantine_serve(PGconn *c, struct loop *loop, const struct settings *settings,
		     const struct landed_set *landed, const struct ledger *ledger, struct parked *p,
		     struct cache *cache, int64_t limit_us, bool *ret_more, struct rt_err *err)
{
	struct serving s = {.c = c,
			    .loop = loop,
			    .settings = settings,
			    .landed = landed,
			    .ledger = ledger,
			    .parked = p,
			    .cache = cache};
	const int64_t end = rt_mono_us() + limit_us;
	int rc;
	arena_init(&s.arena, 16384);
	arena_init(&s.missing, 16384);
	do {
		rc = serve_next(&s, ret_more, err);
		met_tick(rt_now_us());
	} while (rc == 0 && *ret_more && rt_mono_us() < end);
	quarantine_measure(p, landed);
	arena_release(&s.arena);
	arena_release(&s.missing);
	buf_release(&s.id);
	buf_release(&s.event_type);
	buf_release(&s.columns);
	buf_release(&s.copy);
	buf_release(&s.skipped);
	return rc;
}
