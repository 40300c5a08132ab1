/*
 * quarantine: rows of rolag.quarantine. Guarantees: values stand in that table
 * alone, never in a message; what waits is read back whole before anything is
 * folded.
 */
#include "apply/stream/quarantine.h"

#include <inttypes.h>

#include "apply/stream/source.h"
#include "proto/base/failpoint.h"
#include "proto/base/metrics.h"
#include "proto/pg/pgconn.h"

/* A piece is ended behind so many events or bytes. */
#define PIECE_ROWS  1000
#define PIECE_BYTES (1u << 20)
/* Read at a time, so that memory does not grow with what waits. */
#define LOAD_ROWS 5000

enum {
	PIPELINE,
	ROLLUP,
	ID,
	SEQUENCE,
	EVENT_TYPE,
	EVENT,
	RECORDED_AT,
	LSN,
	COMMITTED_AT,
	REASON,
	LATE
};
_Static_assert(LATE + 1 == QUARANTINE_COLUMNS, "one parameter per column");

const char quarantine_insert_sql[] =
	"INSERT INTO rolag.quarantine (pipeline, rollup, id, sequence, event_type, event, "
	"recorded_at, lsn, committed_at, reason, first, state) SELECT $1::text, rollup, id, "
	"sequence, "
	"event_type, event, recorded_at, lsn, committed_at, reason, reason IS NOT NULL, CASE WHEN "
	"late "
	"THEN 'retry' ELSE 'waiting' END "
	"FROM unnest($2::text[], $3::text[], $4::int4[], $5::text[], $6::text[], "
	"$7::timestamptz[], $8::pg_lsn[], $9::timestamptz[], $10::text[], $11::bool[]) AS t "
	"(rollup, id, "
	"sequence, event_type, event, recorded_at, lsn, committed_at, reason, late) "
	"ON CONFLICT (pipeline, rollup, id, sequence) DO NOTHING";
const char quarantine_park_sql[] =
	"UPDATE rolag.relation SET state = 'parked', reason = $3::text, changed_at = now() "
	"WHERE pipeline = $1::text AND name = $2::text";

/* ---- events on their way in ---- */

void quarantine_begin(const char *pipeline, struct buf *column)
{
	static const uint32_t element[QUARANTINE_COLUMNS] = {
		[ROLLUP] = OID_TEXT,   [ID] = OID_TEXT,
		[SEQUENCE] = OID_INT4, [EVENT_TYPE] = OID_TEXT,
		[EVENT] = OID_TEXT,    [RECORDED_AT] = OID_TIMESTAMPTZ,
		[LSN] = OID_PG_LSN,    [COMMITTED_AT] = OID_TIMESTAMPTZ,
		[REASON] = OID_TEXT,   [LATE] = OID_BOOL};
	buf_clear(&column[PIPELINE]);
	buf_str(&column[PIPELINE], pipeline);
	for (int i = ROLLUP; i < QUARANTINE_COLUMNS; i++) {
		buf_clear(&column[i]);
		buf_u32(&column[i], 1); /* dimensions */
		buf_u32(&column[i], 1); /* may hold NULLs */
		buf_u32(&column[i], element[i]);
		buf_u32(&column[i], 0); /* how many; quarantine_end knows */
		buf_u32(&column[i], 1); /* the first one's number */
	}
}

void quarantine_end(uint32_t count, struct buf *column)
{
	for (int i = ROLLUP; i < QUARANTINE_COLUMNS; i++)
		be32_put(column[i].p + 12, count);
}

static void put(struct buf *b, struct slice s)
{
	buf_u32(b, (uint32_t)s.len);
	buf_add_slice(b, s);
}

static void put_u64(struct buf *b, uint64_t v)
{
	buf_u32(b, 8);
	buf_u64(b, v);
}

void quarantine_add(const struct rollup *r, const struct fold_event *e, struct lsn lsn,
		    int64_t commit_us, const char *reason, bool late, struct buf *column)
{
	struct arena a;
	arena_init(&a, 512);
	put(&column[ROLLUP], slice_str(r->name));
	put(&column[ID], slice_str(source_id_text(r, e->id, &a)));
	arena_release(&a);
	buf_u32(&column[SEQUENCE], 4);
	buf_u32(&column[SEQUENCE], (uint32_t)e->sequence);
	put(&column[EVENT_TYPE], e->event_type);
	put(&column[EVENT], e->payload);
	put_u64(&column[RECORDED_AT], (uint64_t)e->recorded_at_us);
	put_u64(&column[LSN], lsn.v);
	if (commit_us == 0)
		buf_u32(&column[COMMITTED_AT], UINT32_MAX);
	else
		put_u64(&column[COMMITTED_AT], (uint64_t)(commit_us - RT_PG_EPOCH_US));
	if (reason == NULL)
		buf_u32(&column[REASON], UINT32_MAX);
	else
		put(&column[REASON], slice_str(reason));
	buf_u32(&column[LATE], 1);
	buf_u8(&column[LATE], late);
}

uint32_t quarantine_next(const struct batch *b, uint32_t from)
{
	size_t bytes = 0;
	uint32_t i = from;
	for (; i < b->waiting_count && i - from < PIECE_ROWS && bytes < PIECE_BYTES; i++)
		bytes += b->event[b->waiting[i].event].e.payload.len;
	return i;
}

void quarantine_fill(const struct batch *b, const char *pipeline, uint32_t from, struct buf *column)
{
	const uint32_t end = quarantine_next(b, from);
	quarantine_begin(pipeline, column);
	for (uint32_t i = from; i < end; i++) {
		const struct batch_event *ev = &b->event[b->waiting[i].event];
		const struct batch_transaction *t = &b->transaction[ev->transaction];
		quarantine_add(b->landed->item[ev->rollup].rollup, &ev->e, t->end,
			       ev->repaired ? 0 : t->commit_us, b->waiting[i].reason,
			       b->waiting[i].late, column);
	}
	quarantine_end(end - from, column);
}

/* ---- what the warehouse holds ---- */

static int find_rollup(const struct landed_set *landed, const char *name)
{
	for (uint16_t i = 0; i < landed->count; i++)
		if (strcmp(landed->item[i].rollup->name, name) == 0)
			return i;
	return -1;
}

/* One row (rollup, id, how many wait, or the sequence of one that was skipped) into p. */
static int take_entity(const PGresult *res, int row, bool skipped, const struct landed_set *landed,
		       struct parked *p, struct rt_err *err)
{
	struct buf id = BUF_INIT;
	int rollup = find_rollup(landed, PQgetvalue(res, row, 0));
	int64_t number = strtoll(PQgetvalue(res, row, 2), NULL, 10);
	if (rollup < 0)
		return 0; /* not landed any more */
	const struct rollup *r = landed->item[rollup].rollup;
	int rc = pgt_from_text(r->id_type, slice_str(PQgetvalue(res, row, 1)), NULL, &id, err);
	if (rc != 0)
		rc = rt_context(err, "an id of rollup %s in rolag.quarantine", r->name);
	else if (skipped)
		parked_skip(p, (uint16_t)rollup, buf_slice(&id), (int32_t)number);
	else
		parked_load(p, (uint16_t)rollup, buf_slice(&id),
			    (int32_t)strtol(PQgetvalue(res, row, 3), NULL, 10), (uint64_t)number);
	buf_release(&id);
	return rc;
}

/* All rows of the query by a cursor: what is held of them at a time is bounded. */
static int take_all(PGconn *c, const struct settings *s, bool skipped,
		    const struct landed_set *landed, struct parked *p, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_query(c, NULL, err,
			   skipped ? "DECLARE waits CURSOR FOR SELECT rollup, id, sequence FROM "
				     "rolag.quarantine WHERE pipeline = $1 AND state = 'skipped'"
				   : "DECLARE waits CURSOR FOR SELECT rollup, id, count(*), "
				     "min(sequence) FROM "
				     "rolag.quarantine WHERE pipeline = $1 AND state <> 'skipped' "
				     "GROUP BY rollup, id",
			   1, &s->pipeline);
	for (int n = 1; rc == 0 && n > 0;) {
		rc = pgc_exec(c, &res, err, "FETCH %d FROM waits", LOAD_ROWS);
		if (rc != 0)
			break;
		n = PQntuples(res);
		for (int i = 0; rc == 0 && i < n; i++)
			rc = take_entity(res, i, skipped, landed, p, err);
		PQclear(res);
	}
	return rc == 0 ? pgc_exec(c, NULL, err, "CLOSE waits") : rc;
}

int quarantine_load(PGconn *c, const struct settings *s, const struct landed_set *landed,
		    struct parked *p, struct rt_err *err)
{
	parked_clear(p);
	FAILPOINT_FD(QUARANTINE_LOAD, PQsocket(c));
	int rc = pgc_exec(c, NULL, err, "BEGIN READ ONLY");
	if (rc == 0)
		rc = take_all(c, s, false, landed, p, err);
	if (rc == 0)
		rc = take_all(c, s, true, landed, p, err);
	if (rc == 0)
		rc = pgc_exec(c, NULL, err, "COMMIT");
	quarantine_measure(p, landed);
	return rc == 0 ? 0 : rt_context(err, "reading who waits in quarantine");
}

int quarantine_forget(PGconn *c, const struct settings *s, const struct rollup *r,
		      struct rt_err *err)
{
	const char *params[] = {s->pipeline, r->name};
	return pgc_query(c, NULL, err,
			 "DELETE FROM rolag.quarantine WHERE pipeline = $1 AND rollup = $2 AND "
			 "state <> 'skipped'",
			 2, params);
}

int quarantine_is_asked(PGconn *c, const struct settings *s, bool *ret, struct rt_err *err)
{
	PGresult *res;
	FAILPOINT_FD(QUARANTINE_ASK, PQsocket(c));
	int rc = pgc_query(c, &res, err,
			   "SELECT 1 FROM rolag.quarantine WHERE pipeline = $1 AND state IN "
			   "('retry', 'skip') LIMIT 1",
			   1, &s->pipeline);
	if (rc != 0)
		return rc;
	*ret = PQntuples(res) > 0;
	PQclear(res);
	return 0;
}

void quarantine_measure(const struct parked *p, const struct landed_set *landed)
{
	const struct parked_count n = parked_total(p);
	uint64_t rollups = 0, parked = 0;
	for (uint16_t i = 0; i < landed->count; i++) {
		rollups += p->count[i].entities > 0;
		parked += landed->item[i].state == LANDED_PARKED;
	}
	met_set(MET_QUARANTINE_ENTITIES, n.entities);
	met_set(MET_QUARANTINE_EVENTS, n.events);
	met_set(MET_QUARANTINE_ROLLUPS, rollups);
	met_set(MET_PARKED_ROLLUPS, parked);
}
