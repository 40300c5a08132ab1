/*
 * rebuild_begin: which rebuilds are to be, and which are no more. Guarantees:
 * at most one table stands beside a rollup's, and one is kept; what is noted of
 * them and the tables themselves are made and dropped in one transaction.
 */
#include <inttypes.h>

#include "apply/stream/quarantine.h"
#include "apply/stream/rebuild_inner.h"
#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/pg/pgconn.h"

#define LATER  "10 s" /* a lock was not to be had */
#define RARELY "60 s" /* a person has to do something */

/* What the warehouse knows of rebuilds. */
struct known {
	PGresult *tables;   /* that are beside others */
	PGresult *requests; /* that are open */
	PGresult *undone;   /* definitions */
};

enum { NAME, BESIDE, NUMBER, FINGERPRINT, STATE, SYNC_LSN, REASON };
enum { ROLLUP, WHAT, REQUEST_STATE, REQUEST_NUMBER, REQUEST_FINGERPRINT };

/* One rollup's case. */
struct plan {
	struct landed *l;
	int built, kept; /* rows of known.tables, -1: there is none */
	int request;	 /* row of known.requests, or -1 */
	bool undo;
	const struct rollup *target; /* what is to be built beside it; NULL: nothing */
};

static void forget_known(struct known *k)
{
	PQclear(k->tables);
	PQclear(k->requests);
	PQclear(k->undone);
}

static int read_known(const struct rebuild *r, PGconn *c, struct known *k, struct rt_err *err)
{
	const char *const *pipeline = &r->settings->pipeline;
	int rc = pgc_query(c, &k->tables, err,
			   "SELECT name, beside, definition, fingerprint, state, sync_lsn, reason "
			   "FROM rolag.relation WHERE pipeline = $1 AND kind = 'rollup' AND beside "
			   "IS NOT NULL",
			   1, pipeline);
	if (rc == 0)
		rc = pgc_query(c, &k->requests, err,
			       "SELECT rollup, what, state, number, fingerprint FROM "
			       "rolag.rebuild WHERE pipeline = $1 AND state IN ('asked', "
			       "'building', 'counted')",
			       1, pipeline);
	if (rc == 0)
		rc = pgc_query(c, &k->undone, err,
			       "SELECT name, number FROM rolag.definition WHERE pipeline = $1 AND "
			       "undone_at IS NOT NULL",
			       1, pipeline);
	return rc;
}

static int32_t number_at(const PGresult *res, int row, int column)
{
	return (int32_t)strtol(PQgetvalue(res, row, column), NULL, 10);
}

static bool is_of(const PGresult *res, int row, int number, int fingerprint, const struct rollup *d)
{
	return number_at(res, row, number) == d->definition &&
	       strtoull(PQgetvalue(res, row, fingerprint), NULL, 16) == d->fingerprint;
}

static bool is_undone(const struct known *k, const struct rollup *d)
{
	for (int i = 0; i < PQntuples(k->undone); i++)
		if (strcmp(PQgetvalue(k->undone, i, 0), d->name) == 0 &&
		    number_at(k->undone, i, 1) == d->definition)
			return true;
	return false;
}

static bool is_kept(const char *name)
{
	const size_t n = strlen(name), k = strlen(LANDED_KEPT);
	return n > k && strcmp(name + n - k, LANDED_KEPT) == 0;
}

static void find_case(const struct known *k, struct landed *l, struct plan *ret)
{
	const char *name = l->file->name;
	*ret = (struct plan){.l = l, .built = -1, .kept = -1, .request = -1};
	for (int i = 0; i < PQntuples(k->tables); i++)
		if (strcmp(PQgetvalue(k->tables, i, BESIDE), name) == 0)
			*(is_kept(PQgetvalue(k->tables, i, NAME)) ? &ret->kept : &ret->built) = i;
	for (int i = 0; i < PQntuples(k->requests); i++)
		if (strcmp(PQgetvalue(k->requests, i, ROLLUP), name) == 0)
			ret->request = i;
}

/* ---- steps, each one transaction ---- */

static int set_request(const struct rebuild *r, PGconn *c, const struct plan *p, const char *state,
		       const char *reason, struct rt_err *err)
{
	const struct rollup *d = p->target;
	char number[16] = "0", fingerprint[17] = "";
	if (d != NULL) {
		snprintf(number, sizeof(number), "%" PRId32, d->definition);
		snprintf(fingerprint, sizeof(fingerprint), "%016" PRIx64, d->fingerprint);
	}
	const char *params[] = {r->settings->pipeline,
				p->l->file->name,
				p->undo ? "undo" : "rebuild",
				state,
				reason,
				number,
				fingerprint};
	if (d == NULL)
		return pgc_query(
			c, NULL, err,
			"UPDATE rolag.rebuild SET state = $3, reason = $4, done_at = "
			"clock_timestamp() WHERE pipeline = $1 AND rollup = $2 AND state IN "
			"('asked', 'building', 'counted')",
			4, (const char *[]){params[0], params[1], state, reason});
	return pgc_query(
		c, NULL, err,
		"WITH gone AS (DELETE FROM rolag.rebuild_column WHERE pipeline = $1 AND rollup = "
		"$2) INSERT INTO rolag.rebuild (pipeline, rollup, what, state, reason, number, "
		"fingerprint, begun_at, retry_at) VALUES ($1, $2, $3, $4, $5, $6::int4, $7, "
		"clock_timestamp(), CASE WHEN $5::text IS NULL THEN NULL ELSE clock_timestamp() + "
		"interval '" RARELY "' END) ON CONFLICT (pipeline, rollup) DO UPDATE SET (what, "
		"state, reason, number, fingerprint, begun_at, retry_at, tries, done_at, "
		"counted_lsn, same, differing, only_old, only_new, gone, added) = (excluded.what, "
		"excluded.state, excluded.reason, excluded.number, excluded.fingerprint, "
		"excluded.begun_at, excluded.retry_at, 0, NULL, NULL, NULL, NULL, NULL, NULL, "
		"NULL, "
		"NULL)",
		7, params);
}

/* What is noted of a table's comments (swap_made_sql) goes with it, or to its new name. */
static void comments_sql(const struct settings *s, const char *name, const char *to,
			 struct buf *out)
{
	buf_str(out, to == NULL ? "DELETE FROM rolag.comment_made"
				: "UPDATE rolag.comment_made SET table_name = ");
	if (to != NULL)
		pgc_literal(out, to);
	buf_str(out, " WHERE schema_name = ");
	pgc_literal(out, s->warehouse.schema);
	buf_str(out, " AND table_name = ");
	pgc_literal(out, name);
	buf_str(out, "; ");
}

/* Appends what drops a table beside others, and everything that is noted of it. */
static void drop_sql(const struct settings *s, const char *name, struct buf *out)
{
	char *latest = rt_sprintf("%s_latest", name);
	buf_str(out, "DROP TABLE IF EXISTS ");
	pgc_ident(out, s->warehouse.schema);
	buf_u8(out, '.');
	pgc_ident(out, name);
	buf_str(out, ", ");
	pgc_ident(out, s->warehouse.schema);
	buf_u8(out, '.');
	pgc_ident(out, latest);
	buf_str(out, "; ");
	comments_sql(s, name, NULL, out);
	comments_sql(s, latest, NULL, out);
	free(latest);
	for (int i = 0; i < 2; i++) {
		buf_printf(out, "DELETE FROM rolag.%s WHERE pipeline = ",
			   i == 0 ? "relation" : "quarantine");
		pgc_literal(out, s->pipeline);
		buf_printf(out, " AND %s = ", i == 0 ? "name" : "rollup");
		pgc_literal(out, name);
		buf_str(out, "; ");
	}
}

static void rename_sql(const struct settings *s, const char *from, const char *to,
		       const char *suffix, struct buf *out)
{
	char *old = rt_sprintf("%s%s", from, suffix), *new = rt_sprintf("%s%s", to, suffix);
	buf_str(out, "ALTER TABLE ");
	pgc_ident(out, s->warehouse.schema);
	buf_u8(out, '.');
	pgc_ident(out, old);
	buf_str(out, " RENAME TO ");
	pgc_ident(out, new);
	buf_str(out, "; ");
	comments_sql(s, new, NULL, out);
	comments_sql(s, old, new, out);
	free(old);
	free(new);
}

/* What is kept is built on, under the name of what is built. */
static void take_up_sql(const struct settings *s, const char *kept, const struct landed *beside,
			struct buf *out)
{
	const char *name = beside->rollup->name;
	rename_sql(s, kept, name, "", out);
	rename_sql(s, kept, name, "_latest", out);
	buf_str(out, "UPDATE rolag.relation SET state = 'rebuilding', reason = NULL, changed_at = "
		     "now(), name = ");
	pgc_literal(out, name);
	buf_str(out, " WHERE pipeline = ");
	pgc_literal(out, s->pipeline);
	buf_str(out, " AND name = ");
	pgc_literal(out, kept);
}

/* What was left out for ever of the live rows is left out of the new ones too. */
static int take_over_skipped(const struct rebuild *r, PGconn *c, const struct landed *beside,
			     struct rt_err *err)
{
	const char *params[] = {r->settings->pipeline, beside->beside->rollup->name,
				beside->rollup->name};
	return pgc_query(
		c, NULL, err,
		"INSERT INTO rolag.quarantine (pipeline, rollup, id, sequence, event_type, "
		"event, recorded_at, lsn, committed_at, reason, first, state, parked_at) "
		"SELECT pipeline, $3, id, sequence, event_type, event, recorded_at, lsn, "
		"committed_at, reason, first, state, parked_at FROM rolag.quarantine WHERE "
		"pipeline = $1 AND rollup = $2 AND state = 'skipped' ON CONFLICT DO NOTHING",
		3, params);
}

/* In a transaction: drops what is built (of another definition) and kept; makes, or takes up, what is to be built. */
static int write_begin(const struct rebuild *r, PGconn *c, const struct known *k,
		       const struct plan *p, const struct landed *beside, struct rt_err *err)
{
	const struct settings *s = r->settings;
	struct buf sql = BUF_INIT;
	const char *kept = p->kept >= 0 ? PQgetvalue(k->tables, p->kept, NAME) : NULL;
	if (p->built >= 0)
		drop_sql(s, PQgetvalue(k->tables, p->built, NAME), &sql);
	if (p->undo) {
		take_up_sql(s, kept, beside, &sql);
	} else {
		if (kept != NULL)
			drop_sql(s, kept, &sql);
		landed_create_sql(s, beside, &sql);
	}
	int rc = rebuild_open(r, c, err);
	if (rc == 0)
		rc = pgc_exec(c, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	if (rc == 0)
		rc = take_over_skipped(r, c, beside, err);
	if (rc == 0)
		rc = set_request(r, c, p, "building", NULL, err);
	FAILPOINT_FD(REBUILD_BEGUN, PQsocket(c));
	return rc == 0 ? rebuild_commit(c, err) : rc;
}

static int drop_one(const struct rebuild *r, PGconn *c, const struct plan *p, const char *name,
		    const char *state, const char *reason, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	drop_sql(r->settings, name, &sql);
	int rc = rebuild_open(r, c, err);
	if (rc == 0)
		rc = pgc_exec(c, NULL, err, "%s", buf_cstr(&sql));
	if (rc == 0)
		rc = set_request(r, c, p, state, reason, err);
	buf_release(&sql);
	FAILPOINT_FD(REBUILD_DROPPED, PQsocket(c));
	return rc == 0 ? rebuild_commit(c, err) : rc;
}

/* Something was in the way: said, noted, and tried again with another connection. */
static int put_off(const struct rebuild *r, PGconn *c, struct plan *p, const struct rt_err *why,
		   struct rt_err *err)
{
	int rc = rebuild_roll_back(c, why, err);
	if (rc != 0)
		return rc;
	log_error("a rebuild cannot begin, and is tried again", "rollup=%s reason=\"%s\"",
		  p->l->file->name, why->msg);
	rc = p->target != NULL ? set_request(r, c, p, "asked", why->msg, err) : 0;
	if (rc == 0 && pgc_err_is_state(why, "55P03"))
		rc = rebuild_note_reason(r, c, p->l->file->name, why->msg, LATER, err);
	return rc;
}

/* ---- one rollup ---- */

static int refuse(const struct rebuild *r, PGconn *c, struct plan *p, const char *reason,
		  struct rt_err *err)
{
	p->target = NULL;
	log_error("a rebuild is refused", "rollup=%s reason=\"%s\"", p->l->file->name, reason);
	return set_request(r, c, p, "refused", reason, err);
}

/* An undo goes towards what is kept; or, when it has begun, what is built. */
static int plan_undo(const struct rebuild *r, PGconn *c, const struct known *k, struct plan *p,
		     struct rt_err *err)
{
	const int32_t number = number_at(k->requests, p->request, REQUEST_NUMBER);
	const bool begun = p->built >= 0 && number_at(k->tables, p->built, NUMBER) == number;
	const bool can = begun || (p->kept >= 0 && number_at(k->tables, p->kept, NUMBER) == number);
	int rc = can ? landed_read_definition(c, r->settings, r->landed, p->l->file->name, number,
					      &p->target, err)
		     : 0;
	p->undo = true;
	if (rc == 0 && p->target == NULL)
		rc = refuse(r, c, p, "nothing is kept of it that an undo could go back to", err);
	return rc;
}

static int plan_request(const struct rebuild *r, PGconn *c, const struct known *k, struct plan *p,
			struct rt_err *err)
{
	const struct rollup *file = p->l->file;
	struct rt_err why;
	if (is_of(k->requests, p->request, REQUEST_NUMBER, REQUEST_FINGERPRINT, file) &&
	    file->definition >= p->l->rollup->definition) {
		p->target = file;
		return 0;
	}
	if (strcmp(PQgetvalue(k->requests, p->request, REQUEST_STATE), "asked") != 0)
		return 0; /* it is given up, which is said there */
	rt_fail(&why, ERR_PERMANENT,
		"apply runs with definition %" PRId32 " of it, as rollups.path had it when apply "
		"started; mend: start apply again",
		file->definition);
	return refuse(r, c, p, why.msg, err);
}

/* A number stands for one content, for ever: who audits looks it up. */
static int check_number(const struct rebuild *r, PGconn *c, struct plan *p, struct rt_err *err)
{
	const struct rollup *noted, *d = p->target;
	struct rt_err why;
	int rc = landed_read_definition(c, r->settings, r->landed, d->name, d->definition, &noted,
					err);
	if (rc != 0 || noted == NULL || noted->fingerprint == d->fingerprint)
		return rc;
	rt_fail(&why, ERR_PERMANENT,
		"%s: definition %" PRId32
		" made rows before, and was another; mend: number %" PRId32,
		d->file, d->definition, d->definition + 1);
	return refuse(r, c, p, why.msg, err);
}

/* What is to be built beside the rollup's rows. */
static int make_plan(const struct rebuild *r, PGconn *c, const struct known *k, struct plan *p,
		     struct rt_err *err)
{
	const struct rollup *file = p->l->file;
	const char *what = p->request >= 0 ? PQgetvalue(k->requests, p->request, WHAT) : "";
	int rc = 0;
	if (strcmp(what, "undo") == 0)
		return plan_undo(r, c, k, p, err);
	if (strcmp(what, "rebuild") == 0)
		rc = plan_request(r, c, k, p, err);
	if (rc == 0 && p->target == NULL && file->definition > p->l->rollup->definition &&
	    !is_undone(k, file))
		p->target = file;
	if (rc == 0 && p->target != NULL && p->target->definition != p->l->rollup->definition)
		rc = check_number(r, c, p, err);
	if (rc == 0 && file->definition < p->l->rollup->definition)
		log_warn("rollups.path has the definition that was live before",
			 "rollup=%s file=%" PRId32 " live=%" PRId32
			 " mend=\"rolag rebuild %s --undo\"",
			 file->name, file->definition, p->l->rollup->definition, file->name);
	return rc;
}

static int serve_forget(const struct rebuild *r, PGconn *c, const struct known *k, struct plan *p,
			struct rt_err *err)
{
	struct rt_err why;
	p->request = -1;
	if (p->kept < 0)
		return refuse(r, c, p, "nothing is kept of it", err);
	int rc = drop_one(r, c, p, PQgetvalue(k->tables, p->kept, NAME), "done", NULL, &why);
	if (rc == 0) {
		p->kept = -1;
		log_info("what was kept of a rollup is dropped", "rollup=%s", p->l->file->name);
	} else if ((rc = rebuild_roll_back(c, &why, err)) == 0) {
		rc = rebuild_note_reason(r, c, p->l->file->name, why.msg, LATER, err);
	}
	return rc;
}

static int give_up(const struct rebuild *r, PGconn *c, const struct known *k, struct plan *p,
		   struct rt_err *err)
{
	struct rt_err why;
	const char *name = PQgetvalue(k->tables, p->built, NAME);
	int rc = drop_one(r, c, p, name, "refused", "it is not what rollups.path has any more",
			  &why);
	if (rc != 0)
		return put_off(r, c, p, &why, err);
	log_warn("a rebuild is given up: its definition is not in rollups.path any more",
		 "rollup=%s dropped=%s", p->l->file->name, name);
	return 0;
}

static int begin_one(struct rebuild *r, PGconn *c, const struct known *k, struct plan *p,
		     struct rt_err *err)
{
	struct rt_err why;
	struct landed *beside = landed_add_beside(r->landed, r->settings, p->l, p->target);
	if (beside == NULL)
		return rt_fail(err, ERR_PERMANENT, "there is no room beside %s", p->l->file->name);
	beside->state = LANDED_REBUILDING;
	beside->sync_lsn = LSN_NONE;
	int rc = write_begin(r, c, k, p, beside, &why);
	if (rc != 0) {
		r->landed->count--;
		return put_off(r, c, p, &why, err);
	}
	log_info(p->undo ? "a rollup goes back to an earlier definition: its rows are brought up "
			   "to date"
			 : "a rollup is built anew beside the live one",
		 "rollup=%s live=%" PRId32 " builds=%" PRId32 " table=%s", p->l->file->name,
		 p->l->rollup->definition, p->target->definition, beside->rollup->name);
	return 0;
}

/* It is built already, by the definition that is wanted. */
static int go_on(struct rebuild *r, PGconn *c, const struct known *k, const struct plan *p,
		 struct rt_err *err)
{
	struct landed *beside = landed_add_beside(r->landed, r->settings, p->l, p->target);
	if (beside == NULL)
		return rt_fail(err, ERR_PERMANENT, "there is no room beside %s", p->l->file->name);
	landed_take_state(beside, k->tables, p->built, STATE);
	const bool asked = p->request < 0 ||
			   strcmp(PQgetvalue(k->requests, p->request, REQUEST_STATE), "asked") == 0;
	if (!asked)
		return 0;
	if (beside->state == LANDED_PARKED) { /* asked for again: it is loaded again */
		const char *params[] = {r->settings->pipeline, beside->rollup->name};
		int rc = pgc_query(c, NULL, err,
				   "UPDATE rolag.relation SET state = 'rebuilding', reason = NULL "
				   "WHERE pipeline = $1 AND name = $2",
				   2, params);
		if (rc != 0)
			return rc;
		beside->state = LANDED_REBUILDING;
	}
	return set_request(r, c, p, "building", NULL, err);
}

static int serve_one(struct rebuild *r, PGconn *c, const struct known *k, struct landed *l,
		     struct rt_err *err)
{
	struct plan p;
	int rc = 0;
	find_case(k, l, &p);
	if (p.request >= 0 && strcmp(PQgetvalue(k->requests, p.request, WHAT), "forget") == 0)
		rc = serve_forget(r, c, k, &p, err);
	if (rc == 0)
		rc = make_plan(r, c, k, &p, err);
	if (rc != 0)
		return rc;
	if (p.target == NULL)
		return p.built >= 0 ? give_up(r, c, k, &p, err) : 0;
	if (p.built >= 0 && is_of(k->tables, p.built, NUMBER, FINGERPRINT, p.target))
		return go_on(r, c, k, &p, err);
	return begin_one(r, c, k, &p, err);
}

int rebuild_begin(struct rebuild *r, PGconn *c, struct rt_err *err)
{
	struct known k = {0};
	r->due = REBUILD_NOTHING;
	r->ask_us = 0;
	FAILPOINT_FD(REBUILD_BEFORE_BEGIN, PQsocket(c));
	int rc = read_known(r, c, &k, err);
	for (uint16_t i = 0; rc == 0 && i < r->landed->own; i++)
		rc = serve_one(r, c, &k, &r->landed->item[i], err);
	forget_known(&k);
	return rc == 0 ? 0 : rt_context(err, "beginning rebuilds");
}
