/*
 * sync_fork: a failover as the warehouse sees it. Guarantees: no version of
 * the timeline that was left stays beyond the point where it was left; either
 * all of it is taken back, with the ledger, or nothing is.
 */
#include <inttypes.h>

#include "apply/stream/sync_inner.h"
#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/pg/pgconn.h"

/* A history's lines are "timeline <tab> LSN where it was left <tab> reason". */
static bool find_switch(const char *history, uint32_t timeline, struct lsn *ret)
{
	for (const char *line = history; line != NULL && *line != '\0';) {
		char *end;
		unsigned long number = strtoul(line, &end, 10);
		char lsn[24] = "";
		if (*end == '\t') {
			end++;
			snprintf(lsn, sizeof(lsn), "%.*s", (int)strcspn(end, "\t\n "), end);
		}
		if (number == timeline && lsn[0] != '\0' && lsn_parse(lsn, ret))
			return true;
		line = strchr(line, '\n');
		line = line != NULL ? line + 1 : NULL;
	}
	return false;
}

/* Where `timeline`, which the core is on or descends from, left the one that the ledger follows. */
static int ask_switch(const struct settings *s, const struct ledger *l, uint32_t timeline,
		      struct lsn *ret, struct rt_err *err)
{
	struct pgc_options o = {.what = "core",
				.conninfo = s->core.connect,
				.application_name = "rolag sync",
				.replication = true};
	struct pgc_system core;
	PGconn *c;
	PGresult *res = NULL;
	int rc = pgc_connect(&c, &o, err);
	if (rc != 0)
		return rc;
	rc = pgc_identify_system(c, &core, err);
	if (rc == 0 && l->system_id != 0 && core.system_id != l->system_id)
		rc = rt_fail(err, ERR_PERMANENT,
			     "the core has the system identifier %" PRIu64
			     ", the warehouse follows %" PRIu64 "; mend: core.connect",
			     core.system_id, l->system_id);
	if (rc == 0)
		rc = pgc_exec(c, &res, err, "TIMELINE_HISTORY %" PRIu32, timeline);
	if (rc == 0 && (PQntuples(res) != 1 || PQnfields(res) < 2 ||
			!find_switch(PQgetvalue(res, 0, 1), l->timeline, ret)))
		rc = rt_fail(err, ERR_PERMANENT,
			     "the core's timeline %" PRIu32 " does not descend from %" PRIu32
			     ", which the warehouse follows; mend: " MEND_LOAD_ANEW,
			     timeline, l->timeline);
	PQclear(res);
	pgc_close(c);
	return rc;
}

/* Versions from behind the switch; entities go back to the newest version that is left. */
static int take_back(PGconn *c, const char *history, const char *latest, const char *lsn,
		     struct rt_err *err)
{
	return pgc_exec(c, NULL, err,
			"DELETE FROM %s WHERE _lsn > '%s'; DELETE FROM %s WHERE _lsn > '%s'; "
			"INSERT INTO %s SELECT DISTINCT ON (h.id) h.* FROM %s h WHERE NOT EXISTS "
			"(SELECT 1 FROM %s l WHERE l.id = h.id) ORDER BY h.id, h.version DESC",
			history, lsn, latest, lsn, latest, history, latest);
}

/* Also of what is kept of earlier definitions, which an undo would go on from. */
static int take_back_kept(PGconn *c, const struct settings *s, const char *lsn, struct rt_err *err)
{
	PGresult *res;
	const char *params[] = {s->pipeline, s->warehouse.schema};
	int rc =
		pgc_query(c, &res, err,
			  "SELECT format('%I.%I', $2::text, name), format('%I.%I', $2::text, name "
			  "|| '_latest') FROM rolag.relation WHERE pipeline = $1 AND beside IS NOT "
			  "NULL AND state = 'parked'",
			  2, params);
	if (rc != 0)
		return rc;
	for (int i = 0; rc == 0 && i < PQntuples(res); i++)
		rc = take_back(c, PQgetvalue(res, i, 0), PQgetvalue(res, i, 1), lsn, err);
	PQclear(res);
	return rc;
}

/* The ledger's rows are of the timeline that was left: one of the new one stands in their place. */
static int set_ledger(PGconn *c, const struct settings *s, uint32_t timeline, struct lsn to,
		      struct rt_err *err)
{
	char lsn[32], number[16];
	snprintf(lsn, sizeof(lsn), LSN_FMT, LSN_ARGS(to));
	snprintf(number, sizeof(number), "%" PRIu32, timeline);
	const char *params[] = {s->pipeline, lsn, number};
	int rc = pgc_query(c, NULL, err, "DELETE FROM rolag.ledger WHERE pipeline = $1", 1, params);
	if (rc == 0)
		rc = pgc_query(c, NULL, err,
			       "INSERT INTO rolag.ledger (pipeline, applied_lsn, timeline) VALUES "
			       "($1, $2::pg_lsn, $3::int4)",
			       3, params);
	return rc;
}

struct fork {
	struct lsn left; /* the old timeline was left here */
	struct lsn to;	 /* position on the new one */
	bool beyond;	 /* the warehouse has more of the old one */
	bool sync;	 /* something is missing */
};

static int write_fork(PGconn *c, const struct settings *s, struct landed_set *landed,
		      const struct ledger *l, uint32_t timeline, const struct fork *f,
		      struct rt_err *err)
{
	char epoch[24], left[32];
	snprintf(epoch, sizeof(epoch), "%" PRId64, l->epoch);
	snprintf(left, sizeof(left), LSN_FMT, LSN_ARGS(f->left));
	const char *params[] = {s->pipeline, epoch};
	int rc = pgc_exec(c, NULL, err, "BEGIN; SET LOCAL synchronous_commit = on");
	if (rc == 0 && (rc = pgc_query(c, NULL, err, ledger_hold_sql, 2, params)) != 0)
		return rt_fail(err, ERR_RETRY, "the fence was lost");
	for (uint16_t i = 0; rc == 0 && f->beyond && i < landed->count; i++)
		rc = take_back(c, landed->item[i].history, landed->item[i].latest, left, err);
	if (rc == 0 && f->beyond)
		rc = take_back_kept(c, s, left, err);
	if (rc == 0)
		rc = set_ledger(c, s, timeline, f->to, err);
	if (rc == 0 && f->sync)
		rc = pgc_query(c, NULL, err,
			       "UPDATE rolag.relation SET state = 'syncing', changed_at = now() "
			       "WHERE pipeline = $1 AND state = 'live'",
			       1, &s->pipeline);
	/* A table's sync LSN is a position of the timeline that was left. */
	if (rc == 0 && f->beyond)
		rc = pgc_query(c, NULL, err,
			       "UPDATE rolag.relation SET sync_lsn = NULL WHERE pipeline = $1", 1,
			       &s->pipeline);
	FAILPOINT_FD(SYNC_FORKED, PQsocket(c));
	if (rc == 0)
		rc = pgc_exec(c, NULL, err, "COMMIT");
	return rc;
}

int sync_fork(PGconn *c, const struct settings *s, struct landed_set *landed, struct ledger *l,
	      uint32_t timeline, struct lsn start, struct rt_err *err)
{
	struct fork f = {.left = LSN_NONE};
	int rc = ask_switch(s, l, timeline, &f.left, err);
	if (rc != 0)
		return rt_context(err, "timeline %" PRIu32 " of the core", timeline);
	f.beyond = lsn_lt(f.left, l->applied);
	f.to = lsn_min(f.left, l->applied);
	f.sync = f.beyond || lsn_lt(f.to, start); /* the stream does not have what lies between */
	f.to = lsn_max(f.to, start);
	if ((rc = write_fork(c, s, landed, l, timeline, &f, err)) != 0)
		return rc; /* its transaction ends with its connection */
	log_warn("the core went over to another timeline (a failover)",
		 "timeline=%" PRIu32 " was=%" PRIu32 " left_at=" LSN_FMT " applied=" LSN_FMT
		 " goes_on_at=" LSN_FMT " taken_back=%s synced=%s",
		 timeline, l->timeline, LSN_ARGS(f.left), LSN_ARGS(l->applied), LSN_ARGS(f.to),
		 f.beyond ? "yes" : "no", f.sync ? "yes" : "no");
	l->timeline = timeline;
	l->applied = f.to;
	for (uint16_t i = 0; i < landed->count; i++) {
		struct landed *t = &landed->item[i];
		if (f.sync && t->state == LANDED_LIVE)
			t->state = LANDED_SYNCING;
		if (f.beyond)
			t->sync_lsn = LSN_NONE;
	}
	return 0;
}
