/*
 * rebuild_swap: what was built takes its place. Guarantees: one transaction
 * under the fence, on disk when it is told of; readers see the old rows or the
 * new ones, and rolag.relation says which; what is in the way changes nothing.
 */
#include <inttypes.h>

#include "apply/stream/rebuild_inner.h"
#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/pg/pgconn.h"

/* Locks are tried for so often, with the stream flowing in between; then seldom. */
#define TRIES_AT_ONCE 20
#define SOON	      "1 s"
#define LATER	      "30 s"
#define RARELY	      "60 s" /* a person has to do something */

struct request {
	char rollup[64];
	bool undo;
	int32_t number;
	uint64_t fingerprint;
	int tries;
};

/* The first one that is counted and whose time has come. */
static int find_request(const struct rebuild *r, PGconn *c, struct request *ret, bool *ret_any,
			struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_query(
		c, &res, err,
		"SELECT rollup, what, number, fingerprint, tries FROM rolag.rebuild WHERE pipeline "
		"= $1 AND state = 'counted' AND coalesce(retry_at <= clock_timestamp(), true) "
		"ORDER BY retry_at NULLS FIRST, rollup LIMIT 1",
		1, &r->settings->pipeline);
	if (rc != 0)
		return rc;
	*ret_any = PQntuples(res) == 1;
	if (*ret_any) {
		snprintf(ret->rollup, sizeof(ret->rollup), "%s", PQgetvalue(res, 0, 0));
		ret->undo = strcmp(PQgetvalue(res, 0, 1), "undo") == 0;
		ret->number = (int32_t)strtol(PQgetvalue(res, 0, 2), NULL, 10);
		ret->fingerprint = strtoull(PQgetvalue(res, 0, 3), NULL, 16);
		ret->tries = (int)strtol(PQgetvalue(res, 0, 4), NULL, 10);
	}
	PQclear(res);
	return 0;
}

static const struct landed *find_built(const struct rebuild *r, const struct request *q)
{
	for (uint16_t i = r->landed->own; i < r->landed->count; i++) {
		const struct landed *l = &r->landed->item[i];
		if (strcmp(l->beside->rollup->name, q->rollup) == 0 &&
		    l->rollup->definition == q->number &&
		    l->rollup->fingerprint == q->fingerprint && l->state == LANDED_LIVE &&
		    l->beside->state != LANDED_SYNCING)
			return l;
	}
	return NULL;
}

/* Rows of rolag.relation and rolag.quarantine go the way of their tables. */
static int move_rows(const struct rebuild *r, PGconn *c, const struct swap_pair *p,
		     struct rt_err *err)
{
	const struct {
		const char *sql, *a, *b;
	} step[] = {
		/* A rollup that was parked may have left one. */
		{"DELETE FROM rolag.sync WHERE pipeline = $1 AND name IN ($2, $3)", p->live,
		 p->beside},
		{"UPDATE rolag.relation SET name = $3, beside = $2, state = 'parked', reason = 'it "
		 "was live before, and is kept for rolag rebuild --undo', changed_at = now() WHERE "
		 "pipeline = $1 AND name = $2",
		 p->live, p->kept},
		{"UPDATE rolag.relation SET name = $3, beside = NULL, state = 'live', reason = "
		 "NULL, changed_at = now() WHERE pipeline = $1 AND name = $2",
		 p->beside, p->live},
		{"DELETE FROM rolag.quarantine WHERE pipeline = $1 AND rollup IN ($2, $3)", p->live,
		 p->kept},
		{"UPDATE rolag.quarantine SET rollup = $3 WHERE pipeline = $1 AND rollup = $2",
		 p->beside, p->live},
	};
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < ARRAY_LEN(step); i++) {
		const char *params[] = {r->settings->pipeline, step[i].a, step[i].b};
		rc = pgc_query(c, NULL, err, step[i].sql, 3, params);
	}
	return rc;
}

/* Which definition made the rows that are read now, and what became of the other. */
static int note_definitions(const struct rebuild *r, PGconn *c, const struct landed *l,
			    const struct request *q, struct rt_err *err)
{
	char old[16];
	snprintf(old, sizeof(old), "%" PRId32, l->beside->rollup->definition);
	const char *params[] = {r->settings->pipeline, q->rollup, old};
	int rc = 0;
	if (q->undo)
		rc = pgc_query(c, NULL, err,
			       "UPDATE rolag.definition SET undone_at = now() WHERE pipeline = $1 "
			       "AND name = $2 AND number = $3::int4",
			       3, params);
	if (rc == 0)
		rc = landed_note_definition(c, r->settings, q->rollup, l->rollup, err);
	if (rc == 0)
		rc = pgc_query(
			c, NULL, err,
			"UPDATE rolag.rebuild SET state = 'done', reason = NULL, retry_at = "
			"NULL, done_at = clock_timestamp() WHERE pipeline = $1 AND rollup = $2",
			2, params);
	return rc;
}

/* Of tables that somebody dropped by hand: their names are taken again. */
static int forget_comments(const struct rebuild *r, PGconn *c, const struct rebuild_names *n,
			   struct rt_err *err)
{
	const char *params[] = {r->settings->warehouse.schema, n->pair[0].kept, n->pair[1].kept};
	return pgc_query(
		c, NULL, err,
		"DELETE FROM rolag.comment_made WHERE schema_name = $1 AND table_name IN ($2, "
		"$3)",
		3, params);
}

static int write_swap(const struct rebuild *r, PGconn *c, const struct landed *l,
		      const struct request *q, const struct rebuild_names *n, struct rt_err *err)
{
	FAILPOINT_FD(REBUILD_BEFORE_SWAP, PQsocket(c));
	int rc = rebuild_open(r, c, err);
	if (rc == 0)
		rc = forget_comments(r, c, n, err);
	if (rc == 0)
		rc = swap_tables(c, n->pair, ARRAY_LEN(n->pair), err);
	if (rc == 0)
		rc = move_rows(r, c, &n->pair[0], err);
	if (rc == 0)
		rc = note_definitions(r, c, l, q, err);
	FAILPOINT_FD(REBUILD_BEFORE_SWAP_COMMIT, PQsocket(c));
	if (rc == 0)
		rc = rebuild_commit(c, err);
	FAILPOINT_FD(REBUILD_AFTER_SWAP_COMMIT, PQsocket(c));
	return rc;
}

/* Something of the live table is not on the new one: the process that counts makes it there. */
static int prepare_again(const struct rebuild *r, PGconn *c, const struct request *q,
			 struct rt_err *err)
{
	const char *params[] = {r->settings->pipeline, q->rollup};
	return pgc_query(c, NULL, err,
			 "UPDATE rolag.rebuild SET state = 'building', retry_at = NULL WHERE "
			 "pipeline = $1 AND rollup = $2",
			 2, params);
}

/* The stream flows on, and it is tried again. */
static int put_off(const struct rebuild *r, PGconn *c, const struct request *q,
		   const struct rebuild_names *n, const struct rt_err *why, struct rt_err *err)
{
	const bool locked = pgc_err_is_state(why, "55P03");
	const bool waits = why->code == ERR_RETRY || locked;
	const char *again = !waits ? RARELY : (q->tries < TRIES_AT_ONCE ? SOON : LATER);
	int rc = rebuild_roll_back(c, why, err);
	if (rc != 0)
		return rc;
	if (!waits || q->tries == TRIES_AT_ONCE)
		log_error("a rebuild is ready, and cannot take its place yet",
			  "rollup=%s table=%s again_in=\"%s\" reason=\"%s\"", q->rollup,
			  n->pair[0].beside, again, why->msg);
	if (waits && !locked)
		return prepare_again(r, c, q, err);
	return rebuild_note_reason(r, c, q->rollup, why->msg, again, err);
}

int rebuild_swap(struct rebuild *r, PGconn *c, bool *ret_done, struct rt_err *err)
{
	struct request q;
	struct rebuild_names n;
	struct rt_err why;
	bool any;
	*ret_done = false;
	r->due = REBUILD_NOTHING;
	int rc = find_request(r, c, &q, &any, err);
	if (rc != 0 || !any)
		return rc;
	const struct landed *l = find_built(r, &q);
	if (l == NULL)
		return 0; /* it is being synced again */
	rebuild_names(r->settings, l, &n);
	rc = write_swap(r, c, l, &q, &n, &why);
	if (rc != 0)
		return put_off(r, c, &q, &n, &why, err);
	*ret_done = true;
	log_info(q.undo ? "a rollup went back to an earlier definition"
			: "a rollup has a new definition",
		 "rollup=%s definition=%" PRId32 " was=%" PRId32 " kept=%s", q.rollup, q.number,
		 l->beside->rollup->definition, n.pair[0].kept);
	return 0;
}
