/*
 * landed_ensure: what the warehouse has of landed tables. Guarantees: a table
 * is written by the definition that made it, and by no other; running
 * landed_ensure twice changes nothing the second time.
 */
#include <inttypes.h>

#include "apply/sql/migrate.h"
#include "apply/stream/landed.h"
#include "apply/stream/swap.h"
#include "proto/base/failpoint.h"
#include "proto/pg/pgconn.h"

static const char *const state_names[] = {"syncing", "live", "parked", "rebuilding"};

/* ---- the warehouse's side ---- */

/* Comments as they are now are ours: others, later, are a user's, and stay at a swap. */
static void note_comments(const struct settings *s, const struct landed *l, struct buf *sql)
{
	char *latest = rt_sprintf("%s_latest", l->rollup->name);
	swap_made_sql(s->warehouse.schema, l->rollup->name, sql);
	buf_str(sql, ";\n");
	swap_made_sql(s->warehouse.schema, latest, sql);
	buf_str(sql, ";\n");
	free(latest);
}

/* Appends the mark of how l's source was published, a subquery. */
static void published_of(const struct settings *s, const struct landed *l, struct buf *sql)
{
	buf_str(sql, "(SELECT r.published FROM rolag.relation r WHERE r.pipeline = ");
	pgc_literal(sql, s->pipeline);
	buf_str(sql, " AND r.name = ");
	pgc_literal(sql, l->rollup->name);
	buf_u8(sql, ')');
}

void landed_create_sql(const struct settings *s, const struct landed *l, struct buf *sql)
{
	const struct rollup *r = l->rollup;
	landed_ddl(l, sql);
	note_comments(s, l, sql);
	buf_str(sql, "INSERT INTO rolag.relation (pipeline, name, kind, source, state, beside, "
		     "definition, fingerprint, published) VALUES (");
	pgc_literal(sql, s->pipeline);
	buf_str(sql, ", ");
	pgc_literal(sql, r->name);
	buf_str(sql, ", 'rollup', ");
	char *source = rt_sprintf("%s.%s", r->source_schema, r->source_table);
	pgc_literal(sql, source);
	free(source);
	buf_str(sql, l->beside != NULL ? ", 'rebuilding', " : ", 'syncing', ");
	if (l->beside != NULL)
		pgc_literal(sql, l->beside->rollup->name);
	else
		buf_str(sql, "NULL");
	buf_printf(sql, ", %" PRId32 ", '%016" PRIx64 "', ", r->definition, r->fingerprint);
	if (l->beside != NULL) /* what it reads comes later than that mark */
		published_of(s, l->beside, sql);
	else
		buf_str(sql, "NULL");
	buf_u8(sql, ')');
}

/*
 * Within a transaction that keeps every other creator (init beside apply, two
 * appliers) out: 1 when the tables were made, 0 when another one had made them.
 */
static int create_tables(PGconn *c, const struct settings *s, const struct landed *l,
			 struct rt_err *err)
{
	const char *params[] = {s->pipeline, l->rollup->name};
	PGresult *res;
	FAILPOINT_FD(LANDED_BEFORE_CREATE, PQsocket(c));
	int rc = pgc_exec(c, NULL, err,
			  "BEGIN; LOCK TABLE rolag.relation IN SHARE ROW EXCLUSIVE MODE");
	if (rc == 0)
		rc = pgc_query(c, &res, err,
			       "SELECT 1 FROM rolag.relation WHERE pipeline = $1 AND name = $2", 2,
			       params);
	if (rc != 0)
		return rc;
	bool there = PQntuples(res) > 0;
	PQclear(res);
	if (there)
		return pgc_exec(c, NULL, err, "ROLLBACK");
	struct buf sql = BUF_INIT;
	landed_create_sql(s, l, &sql);
	buf_str(&sql, ";\nCOMMIT");
	FAILPOINT_FD(LANDED_LOCKED, PQsocket(c));
	rc = pgc_exec(c, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	FAILPOINT_FD(LANDED_AFTER_CREATE, PQsocket(c));
	return rc != 0 ? rc : 1;
}

static int create_one(PGconn *c, const struct settings *s, const struct landed *l,
		      landed_report report, void *ctx, struct rt_err *err)
{
	int rc = create_tables(c, s, l, err);
	if (rc < 0) {
		struct rt_err ignored;
		if (pgc_exec(c, NULL, &ignored, "ROLLBACK") != 0) {
			/* the first error is the one to tell */
		}
		return rt_context(err, "creating %s", l->history);
	}
	if (rc == 1 && report != NULL) {
		char *what = rt_sprintf("tables %s and %s", l->history, l->latest);
		report(ctx, what);
		free(what);
	}
	return 0;
}

/* ---- which definition made the rows ---- */

int landed_note_definition(PGconn *c, const struct settings *s, const char *name,
			   const struct rollup *r, struct rt_err *err)
{
	char number[16], fingerprint[17];
	snprintf(number, sizeof(number), "%" PRId32, r->definition);
	snprintf(fingerprint, sizeof(fingerprint), "%016" PRIx64, r->fingerprint);
	const char *params[] = {s->pipeline, name, number, fingerprint, r->text};
	return pgc_query(
		c, NULL, err,
		"INSERT INTO rolag.definition AS d (pipeline, name, number, fingerprint, text) "
		"VALUES ($1, $2, $3::int4, $4, $5) ON CONFLICT (pipeline, name, number) DO UPDATE "
		"SET (fingerprint, text, undone_at) = (excluded.fingerprint, excluded.text, NULL) "
		"WHERE d.fingerprint <> excluded.fingerprint OR d.text <> excluded.text OR "
		"d.undone_at IS NOT NULL",
		5, params);
}

int landed_read_definition(PGconn *c, const struct settings *s, struct landed_set *set,
			   const char *name, int32_t number, const struct rollup **ret,
			   struct rt_err *err)
{
	char text[16];
	snprintf(text, sizeof(text), "%" PRId32, number);
	const char *params[] = {s->pipeline, name, text};
	PGresult *res;
	*ret = NULL;
	int rc = pgc_query(c, &res, err,
			   "SELECT fingerprint, text FROM rolag.definition WHERE pipeline = $1 AND "
			   "name = $2 AND number = $3::int4",
			   3, params);
	if (rc != 0)
		return rc;
	if (PQntuples(res) > 0)
		rc = landed_stored(set, s, name, number, strtoull(PQgetvalue(res, 0, 0), NULL, 16),
				   PQgetvalue(res, 0, 1), ret, err);
	PQclear(res);
	return rc;
}

/* The rows were made by `number`, and the file has another: it is to be had from what was noted. */
static int take_noted(PGconn *c, const struct settings *s, struct landed_set *set, struct landed *l,
		      int32_t number, uint64_t fingerprint, struct rt_err *err)
{
	const struct rollup *noted;
	int rc = landed_read_definition(c, s, set, l->file->name, number, &noted, err);
	if (rc == 0 && (noted == NULL || noted->fingerprint != fingerprint))
		rc = rt_fail(err, ERR_PERMANENT,
			     "%s: the rows of %s were made by definition %" PRId32
			     ", whose text the warehouse does not have, the file has %" PRId32
			     "; mend: start once with the file of definition %" PRId32
			     ", then with this one",
			     l->file->file, l->file->name, number, l->file->definition, number);
	if (rc == 0)
		l->rollup = noted;
	return rc;
}

/* The rows were made by `number`; kept is what is kept of before, 0: nothing. */
static int take_definition(PGconn *c, const struct settings *s, struct landed_set *set,
			   struct landed *l, int32_t number, uint64_t fingerprint, int32_t kept,
			   struct rt_err *err)
{
	const struct rollup *f = l->file;
	l->rollup = f;
	if (number == f->definition && fingerprint == f->fingerprint)
		return 0;
	if (number == f->definition)
		return rt_fail(err, ERR_PERMANENT,
			       "%s: the definition of %s changed under the same number %" PRId32
			       "; mend: restore it, or give it the number %" PRId32
			       ", so that it is built anew beside the old one",
			       f->file, f->name, number, number + 1);
	if (f->definition < number && f->definition != kept)
		return rt_fail(
			err, ERR_PERMANENT,
			"%s: the rows of %s were made by definition %" PRId32
			", the file has an older one, %" PRId32
			"; mend: restore the newer file, or give this one the number %" PRId32,
			f->file, f->name, number, f->definition, number + 1);
	return take_noted(c, s, set, l, number, fingerprint, err);
}

/* ---- rows of rolag.relation ---- */

enum { NAME, NUMBER, FINGERPRINT, STATE, SYNC_LSN, REASON };

static int read_relations(PGconn *c, const struct settings *s, PGresult **ret, struct rt_err *err)
{
	return pgc_query(c, ret, err,
			 "SELECT name, definition, fingerprint, state, sync_lsn, reason FROM "
			 "rolag.relation WHERE pipeline = $1 AND kind = 'rollup'",
			 1, &s->pipeline);
}

static int find_row(const PGresult *res, const char *name)
{
	for (int i = 0; i < PQntuples(res); i++)
		if (strcmp(PQgetvalue(res, i, NAME), name) == 0)
			return i;
	return -1;
}

static int32_t number_at(const PGresult *res, int row)
{
	return row < 0 ? 0 : (int32_t)strtol(PQgetvalue(res, row, NUMBER), NULL, 10);
}

void landed_take_state(struct landed *l, const PGresult *res, int row, int column)
{
	const char *state = PQgetvalue(res, row, column);
	for (size_t i = 0; i < ARRAY_LEN(state_names); i++)
		if (strcmp(state_names[i], state) == 0)
			l->state = (enum landed_state)i;
	l->sync_lsn = pgc_get_lsn(res, row, column + 1);
	l->parked_from = LSN_NONE;
	l->parked_for_cause = !PQgetisnull(res, row, column + 2);
}

static int take_row(PGconn *c, const struct settings *s, struct landed_set *set, struct landed *l,
		    const PGresult *res, int row, struct rt_err *err)
{
	char *kept = rt_sprintf("%s" LANDED_KEPT, l->file->name);
	int32_t kept_number = number_at(res, find_row(res, kept));
	free(kept);
	landed_take_state(l, res, row, STATE);
	return take_definition(c, s, set, l, number_at(res, row),
			       strtoull(PQgetvalue(res, row, FINGERPRINT), NULL, 16), kept_number,
			       err);
}

static int make_schema(PGconn *c, const struct settings *s, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	PGresult *res;
	const char *name = s->warehouse.schema;
	int rc = pgc_query(c, &res, err, "SELECT 1 FROM pg_namespace WHERE nspname = $1", 1, &name);
	if (rc != 0)
		return rc;
	buf_str(&sql, "CREATE SCHEMA IF NOT EXISTS ");
	pgc_ident(&sql, name);
	if (PQntuples(res) == 0)
		rc = pgc_exec(c, NULL, err, "%s", buf_cstr(&sql));
	PQclear(res);
	buf_release(&sql);
	return rc;
}

static int create_missing(PGconn *c, const struct settings *s, struct landed_set *set,
			  landed_report report, void *ctx, struct rt_err *err)
{
	PGresult *res;
	int rc = read_relations(c, s, &res, err);
	if (rc != 0)
		return rc;
	for (uint16_t i = 0; rc == 0 && i < set->own; i++) {
		set->item[i].rollup = set->item[i].file;
		if (find_row(res, set->item[i].file->name) < 0)
			rc = create_one(c, s, &set->item[i], report, ctx, err);
	}
	PQclear(res);
	return rc;
}

static int take_rows(PGconn *c, const struct settings *s, struct landed_set *set, bool strict,
		     struct rt_err *err)
{
	PGresult *res;
	int rc = read_relations(c, s, &res, err);
	if (rc != 0)
		return rc;
	set->count = set->own;
	for (uint16_t i = 0; rc == 0 && i < set->own; i++) {
		int row = find_row(res, set->item[i].file->name);
		if (row >= 0)
			rc = take_row(c, s, set, &set->item[i], res, row, err);
		if (rc == ERR_PERMANENT && !strict && PQstatus(c) == CONNECTION_OK)
			rc = 0;
	}
	PQclear(res);
	return rc;
}

int landed_resolve(PGconn *c, const struct settings *s, struct landed_set *set, struct rt_err *err)
{
	int rc = migrate_check(c, err);
	return rc == 0 ? take_rows(c, s, set, false, err) : rc;
}

/* What the files have now may be gone from them when the rows are to be folded on. */
static int note_definitions(PGconn *c, const struct settings *s, const struct landed_set *set,
			    struct rt_err *err)
{
	const char *params[] = {s->pipeline};
	PGresult *res;
	int rc = pgc_query(c, &res, err,
			   "SELECT name, number, fingerprint, text FROM rolag.definition WHERE "
			   "pipeline = $1 AND undone_at IS NULL",
			   1, params);
	if (rc != 0)
		return rc;
	for (uint16_t i = 0; rc == 0 && i < set->own; i++) {
		const struct rollup *r = set->item[i].rollup;
		bool noted = r != set->item[i].file;
		for (int n = 0; !noted && n < PQntuples(res); n++)
			noted = strcmp(PQgetvalue(res, n, 0), r->name) == 0 &&
				strtol(PQgetvalue(res, n, 1), NULL, 10) == r->definition &&
				strtoull(PQgetvalue(res, n, 2), NULL, 16) == r->fingerprint &&
				strcmp(PQgetvalue(res, n, 3), r->text) == 0;
		if (!noted)
			rc = landed_note_definition(c, s, r->name, r, err);
	}
	PQclear(res);
	return rc;
}

int landed_ensure(PGconn *c, const struct settings *s, struct landed_set *set, landed_report report,
		  void *ctx, struct rt_err *err)
{
	int rc = make_schema(c, s, err);
	if (rc == 0)
		rc = create_missing(c, s, set, report, ctx, err);
	if (rc == 0)
		rc = take_rows(c, s, set, true, err);
	if (rc == 0)
		rc = note_definitions(c, s, set, err);
	return rc;
}

/* Those of the set that were parked for nothing but their absence. */
static int wake_returned(PGconn *c, const char *const *params, struct landed_set *set,
			 struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_query(c, &res, err,
			   "UPDATE rolag.relation SET state = 'syncing', changed_at = now() WHERE "
			   "pipeline = $1 AND kind = 'rollup' AND state = 'parked' AND "
			   "reason IS NULL AND name = ANY ($2::text[]) RETURNING name",
			   2, params);
	if (rc != 0)
		return rc;
	for (int i = 0; i < PQntuples(res); i++)
		for (uint16_t n = 0; n < set->count; n++)
			if (strcmp(set->item[n].rollup->name, PQgetvalue(res, i, 0)) == 0)
				set->item[n].state = LANDED_SYNCING;
	PQclear(res);
	return 0;
}

int landed_park_absent(PGconn *c, const struct settings *s, struct landed_set *set,
		       landed_report report, void *ctx, struct rt_err *err)
{
	struct buf names = BUF_INIT; /* rollup names need no quoting in an array literal */
	PGresult *res;
	for (uint16_t i = 0; i < set->count; i++)
		buf_printf(&names, "%s%s", i == 0 ? "{" : ",", set->item[i].rollup->name);
	buf_str(&names, "}");
	const char *params[] = {s->pipeline, buf_cstr(&names)};
	FAILPOINT_FD(LANDED_PARK, PQsocket(c));
	int rc = pgc_query(c, &res, err,
			   "UPDATE rolag.relation SET state = 'parked', reason = NULL, changed_at "
			   "= now() WHERE "
			   "pipeline = $1 AND kind = 'rollup' AND state <> 'parked' AND "
			   "name <> ALL ($2::text[]) RETURNING name",
			   2, params);
	for (int i = 0; rc == 0 && i < PQntuples(res); i++)
		report(ctx, PQgetvalue(res, i, 0));
	if (rc == 0) {
		PQclear(res);
		rc = wake_returned(c, params, set, err);
	}
	buf_release(&names);
	return rc;
}

int landed_set_state(PGconn *c, const struct settings *s, struct landed *l, enum landed_state state,
		     struct lsn sync_lsn, struct rt_err *err)
{
	char lsn[32];
	snprintf(lsn, sizeof(lsn), LSN_FMT, LSN_ARGS(sync_lsn));
	const char *params[] = {s->pipeline, l->rollup->name, state_names[state],
				sync_lsn.v != 0 ? lsn : NULL};
	int rc = pgc_query(c, NULL, err,
			   "UPDATE rolag.relation SET state = $3, sync_lsn = $4::pg_lsn, reason = "
			   "NULL, changed_at = now() WHERE pipeline = $1 AND name = $2",
			   4, params);
	if (rc == 0) {
		l->state = state;
		l->sync_lsn = sync_lsn;
	}
	return rc;
}
