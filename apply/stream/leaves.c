/*
 * leaves: guarantees that a mirror is not parked for what the stream tells: what
 * is found counts only once everything that was committed before is applied, and
 * the leaves are still those that it was held against.
 */
#include "apply/stream/leaves.h"

#include <inttypes.h>
#include <poll.h>

#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/pg/pgconn.h"

#define APPLIED_POLL_MS 100
#define APPLIED_US	INT64_C(30000000)

/*
 * $1, $2 the root. A leaf was born as one where it and each partition above it became a
 * partition in the transaction that made it: then nothing was in it before. Of that tells the
 * row of a system column, which ATTACH does not write, as it does those of the others.
 */
#define LEAF                                                                                       \
	"WITH RECURSIVE part AS (SELECT c.oid, c.relkind, c.relfilenode, true AS born"             \
	" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"     \
	" WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'p'"                             \
	" UNION ALL SELECT c.oid, c.relkind, c.relfilenode, p.born AND i.xmin = (SELECT a.xmin"    \
	"  FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tableoid') "   \
	"FROM part p JOIN pg_catalog.pg_inherits i"                                                \
	"  ON i.inhparent = p.oid JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid"                \
	" WHERE p.relkind = 'p'),"                                                                 \
	"leaf AS (SELECT oid::text AS oid, relfilenode::text AS file, born FROM part"              \
	" WHERE relkind <> 'p')"

static const char read_sql[] =
	LEAF " SELECT CASE WHEN EXISTS (SELECT FROM part) THEN coalesce((SELECT "
	     "jsonb_object_agg(oid, file) FROM leaf), '{}') END";

/* $3: leaves as they are known. What they are, and what the stream did not tell, or NULL. */
static const char compare_sql[] = LEAF
	", was AS (SELECT key AS oid, value AS file FROM jsonb_each_text(CASE WHEN "
	"jsonb_typeof($3::jsonb) = 'object' THEN $3::jsonb ELSE '{}' END))"
	" SELECT coalesce((SELECT jsonb_object_agg(oid, file) FROM leaf), '{}'), CASE"
	" WHEN jsonb_typeof($3::jsonb) <> 'object' THEN NULL"
	" WHEN EXISTS (SELECT FROM was WHERE oid NOT IN (SELECT oid FROM leaf))"
	"  THEN 'a partition of it was detached or dropped'"
	" WHEN EXISTS (SELECT FROM leaf WHERE NOT born AND oid NOT IN (SELECT oid FROM was))"
	"  THEN 'partition ' || (SELECT min(oid::oid::regclass::text) FROM leaf WHERE NOT born"
	"   AND oid NOT IN (SELECT oid FROM was)) || ' was attached to it'"
	" WHEN EXISTS (SELECT FROM leaf JOIN was USING (oid) WHERE leaf.file <> was.file)"
	"  THEN 'partition ' || (SELECT min(oid::oid::regclass::text) FROM leaf JOIN was USING"
	"   (oid) WHERE leaf.file <> was.file) || ' was truncated, or written anew (VACUUM FULL, "
	"CLUSTER), by itself' END";

int leaves_read(PGconn *core, struct arena *a, const struct mirror *m, const char **ret,
		struct rt_err *err)
{
	const char *params[] = {m->nspname, m->relname};
	PGresult *res;
	int rc = pgc_query(core, &res, err, read_sql, 2, params);
	if (rc != 0)
		return rt_context(err, "partitions of %s", m->source);
	*ret = PQgetisnull(res, 0, 0) ? NULL : arena_strdup(a, PQgetvalue(res, 0, 0));
	PQclear(res);
	return 0;
}

struct look {
	PGconn *core, *warehouse;
	const struct settings *settings;
	const struct ledger *ledger;
};

/* Until all that the core had committed when the leaves were looked at is applied. False: not for now. */
static int wait_applied(const struct look *l, bool *ret, struct rt_err *err)
{
	const int64_t until = rt_mono_us() + APPLIED_US;
	PGresult *res;
	int rc = pgc_exec(l->core, &res, err, "SELECT pg_catalog.pg_current_wal_insert_lsn()");
	if (rc != 0)
		return rc;
	const char *params[] = {l->settings->pipeline, PQgetvalue(res, 0, 0)};
	PGresult *there;
	*ret = false;
	while (!*ret && rt_mono_us() < until) {
		rc = pgc_query(l->warehouse, &there, err,
			       "SELECT EXISTS (SELECT FROM rolag.ledger WHERE pipeline = $1 AND "
			       "applied_lsn >= $2::pg_lsn)",
			       2, params);
		if (rc != 0)
			break;
		*ret = PQgetvalue(there, 0, 0)[0] == 't';
		PQclear(there);
		if (!*ret)
			poll(NULL, 0, APPLIED_POLL_MS);
	}
	PQclear(res);
	return rc;
}

/* Notes what the leaves are, or parks for reason; only over what they were held against. *ret: it was done. */
static int note(const struct look *l, const struct mirror *m, const char *was, const char *now,
		const char *reason, bool *ret, struct rt_err *err)
{
	char epoch[24];
	PGresult *res;
	snprintf(epoch, sizeof(epoch), "%" PRId64, l->ledger->epoch);
	const char *params[] = {l->settings->pipeline, m->relname, was, now, reason, epoch};
	FAILPOINT_FD(LEAVES_NOTE, PQsocket(l->warehouse));
	int rc = pgc_query(
		l->warehouse, &res, err,
		"UPDATE rolag.relation SET leaves = $4::jsonb, state = CASE WHEN $5::text IS NULL "
		"THEN state ELSE 'parked' END, reason = $5, changed_at = now() WHERE pipeline = $1 "
		"AND name = $2 AND state = 'live' AND leaves = $3::jsonb AND EXISTS (SELECT FROM "
		"rolag.fence WHERE pipeline = $1 AND epoch = $6::int8)",
		6, params);
	if (rc != 0)
		return rc;
	*ret = strcmp(PQcmdTuples(res), "1") == 0;
	PQclear(res);
	return 0;
}

/* 1: it was parked. Negative with *ret_core set: the core failed. */
static int look_at(const struct look *l, const struct mirror *m, const char *was, bool *ret_core,
		   struct rt_err *err)
{
	const char *params[] = {m->nspname, m->relname, was};
	PGresult *res;
	bool applied = true, done = false;
	int rc = pgc_query(l->core, &res, err, compare_sql, 3, params);
	*ret_core = rc != 0;
	if (rc != 0)
		return rc;
	const char *now = PQgetvalue(res, 0, 0);
	const char *reason = PQgetisnull(res, 0, 1) ? NULL : PQgetvalue(res, 0, 1);
	if (reason != NULL)
		rc = wait_applied(l, &applied, err);
	if (rc == 0 && applied && (reason != NULL || strcmp(now, was) != 0))
		rc = note(l, m, was, now, reason, &done, err);
	if (rc == 0 && done && reason != NULL) {
		log_error(
			"a mirror is parked: its partitions are others than those it was read from",
			"table=%s reason=\"%s\" mend=\"rolag sync %s\"", m->source, reason,
			m->relname);
		rc = 1;
	}
	PQclear(res);
	return rc;
}

static int look_at_all(const struct look *l, const PGresult *known, const struct mirror_set *set,
		       int (*on_parked)(void *ctx, uint16_t at, struct rt_err *err), void *ctx,
		       struct rt_err *err)
{
	bool of_core = false;
	int rc = 0;
	for (int i = 0; rc == 0 && i < PQntuples(known); i++)
		for (uint16_t at = 0; rc == 0 && at < set->count; at++) {
			if (strcmp(set->item[at].relname, PQgetvalue(known, i, 0)) != 0)
				continue;
			rc = look_at(l, &set->item[at], PQgetvalue(known, i, 1), &of_core, err);
			if (rc == 1)
				rc = on_parked(ctx, at, err);
		}
	if (rc < 0 && of_core) {
		log_debug("partitions were not looked at", "reason=\"%s\"", err->msg);
		return 0;
	}
	return rc;
}

int leaves_look(PGconn *warehouse, const struct settings *s, const struct mirror_set *set,
		const struct ledger *ledger,
		int (*on_parked)(void *ctx, uint16_t at, struct rt_err *err), void *ctx,
		struct rt_err *err)
{
	struct pgc_options o = {
		.what = "core", .conninfo = s->core.connect, .application_name = "rolag sync"};
	struct look l = {NULL, warehouse, s, ledger};
	struct rt_err away;
	PGresult *known;
	int rc = pgc_query(warehouse, &known, err,
			   "SELECT name, leaves FROM rolag.relation WHERE pipeline = $1 AND kind = "
			   "'mirror' AND state = 'live' AND leaves IS NOT NULL",
			   1, &s->pipeline);
	if (rc != 0)
		return rc;
	if (PQntuples(known) > 0 && pgc_connect(&l.core, &o, &away) == 0 &&
	    pgc_exec(l.core, NULL, &away,
		     "SET statement_timeout = '10s'; SET jit = off; SET search_path = ''") == 0)
		rc = look_at_all(&l, known, set, on_parked, ctx, err);
	pgc_close(l.core);
	PQclear(known);
	return rc;
}
