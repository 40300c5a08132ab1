/*
 * swap: what is hung on a table goes over to the one that takes its place.
 * Guarantees: all of it or nothing; what is not known how to carry over stops
 * the swap and is named.
 */
#include "apply/stream/swap.h"

#include "apply/stream/swap_sql.h"
#include "apply/stream/swap_view.h"
#include "proto/base/failpoint.h"
#include "proto/pg/pgconn.h"

#define OLD "rolag_kept_" /* names of what is on a table that was swapped out, by OID */

/* ---- queries and statements ---- */

int swap_ask(struct swap *s, PGresult **ret, const char *sql, int count, const char *const *params,
	     struct rt_err *err)
{
	return pgc_query(s->c, ret, err, sql, count, params);
}

int swap_run_each(struct swap *s, const PGresult *res, struct rt_err *err)
{
	int rc = 0;
	for (int i = 0; rc == 0 && i < PQntuples(res); i++)
		rc = pgc_exec(s->c, NULL, err, "%s", PQgetvalue(res, i, 0));
	return rc;
}

int swap_run_query(struct swap *s, const char *sql, int count, const char *const *params,
		   struct rt_err *err)
{
	PGresult *res;
	int rc = swap_ask(s, &res, sql, count, params, err);
	if (rc != 0)
		return rc;
	rc = swap_run_each(s, res, err);
	PQclear(res);
	return rc;
}

void swap_note_line(struct swap *s, const char *line)
{
	buf_str(s->lines, line);
	buf_u8(s->lines, '\n');
	s->line_count++;
}

int swap_note_lines(struct swap *s, const char *sql, const char *oids, struct rt_err *err)
{
	PGresult *res;
	int rc = swap_ask(s, &res, sql, 1, &oids, err);
	if (rc != 0)
		return rc;
	for (int i = 0; i < PQntuples(res); i++)
		swap_note_line(s, PQgetvalue(res, i, 0));
	PQclear(res);
	return 0;
}

static void qualified(struct buf *out, const char *schema, const char *name)
{
	pgc_ident(out, schema);
	buf_u8(out, '.');
	pgc_ident(out, name);
}

/* ---- the session ---- */

/* search_path as the queries want it; what it was is given back by end_session. */
static int begin_session(struct swap *s, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_exec(s->c, &res, err,
			  "SELECT pg_catalog.current_setting('search_path'), "
			  "pg_catalog.current_setting('role'), (SELECT rolsuper FROM "
			  "pg_catalog.pg_roles WHERE rolname = current_user), current_user, "
			  "pg_catalog.set_config('search_path', '', true)");
	if (rc != 0)
		return rc;
	s->search_path = rt_strdup(PQgetvalue(res, 0, 0));
	s->role = rt_strdup(PQgetvalue(res, 0, 1));
	s->super = PQgetvalue(res, 0, 2)[0] == 't';
	s->user = rt_strdup(PQgetvalue(res, 0, 3));
	PQclear(res);
	return 0;
}

static int end_session(struct swap *s, struct rt_err *err)
{
	const char *params[] = {s->search_path};
	return pgc_query(s->c, NULL, err, "SELECT pg_catalog.set_config('search_path', $1, true)",
			 1, params);
}

static void release(struct swap *s)
{
	for (size_t i = 0; s->table != NULL && i < s->count; i++) {
		free(s->table[i].live);
		free(s->table[i].beside);
	}
	free(s->table);
	buf_release(&s->oids);
	free(s->search_path);
	free(s->role);
	free(s->user);
}

static int find_oid(struct swap *s, const char *schema, const char *name, char **ret,
		    struct rt_err *err)
{
	struct buf q = BUF_INIT;
	PGresult *res;
	qualified(&q, schema, name);
	const char *params[] = {buf_cstr(&q)};
	int rc = swap_ask(s, &res, "SELECT pg_catalog.to_regclass($1)::oid", 1, params, err);
	if (rc == 0) {
		if (PQgetisnull(res, 0, 0))
			rc = rt_fail(err, ERR_PERMANENT, "there is no table %s", buf_cstr(&q));
		else
			*ret = rt_strdup(PQgetvalue(res, 0, 0));
		PQclear(res);
	}
	buf_release(&q);
	return rc;
}

static int find_tables(struct swap *s, struct rt_err *err)
{
	int rc = 0;
	s->table = rt_calloc(s->count, sizeof(*s->table));
	buf_u8(&s->oids, '{');
	for (size_t i = 0; rc == 0 && i < s->count; i++) {
		const struct swap_pair *p = &s->pair[i];
		rc = find_oid(s, p->schema, p->live, &s->table[i].live, err);
		if (rc == 0)
			rc = find_oid(s, p->schema, p->beside, &s->table[i].beside, err);
		if (rc == 0)
			buf_printf(&s->oids, "%s%s", i > 0 ? "," : "", s->table[i].live);
	}
	buf_u8(&s->oids, '}');
	return rc;
}

static int open_swap(struct swap *s, struct rt_err *err)
{
	int rc = begin_session(s, err);
	return rc == 0 ? find_tables(s, err) : rc;
}

/* ---- tables ---- */

static int lock_tables(struct swap *s, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	buf_str(&sql, "LOCK TABLE ");
	for (size_t i = 0; i < s->count; i++) {
		buf_str(&sql, i > 0 ? ", " : "");
		qualified(&sql, s->pair[i].schema, s->pair[i].live);
		buf_str(&sql, ", ");
		qualified(&sql, s->pair[i].schema, s->pair[i].beside);
	}
	buf_str(&sql, " IN ACCESS EXCLUSIVE MODE");
	int rc = pgc_exec(s->c, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	return rc;
}

static int ask_extras(struct swap *s, size_t i, PGresult **ret, struct rt_err *err)
{
	const char *params[] = {s->table[i].live, s->table[i].beside};
	return swap_ask(s, ret, swap_extras_sql, 2, params, err);
}

/* What the live table has of indexes and statistics is there, too? */
static int check_extras(struct swap *s, size_t i, struct rt_err *err)
{
	PGresult *res;
	int rc = ask_extras(s, i, &res, err);
	if (rc != 0)
		return rc;
	for (int n = 0; rc == 0 && n < PQntuples(res); n++)
		if (PQgetisnull(res, n, SWAP_EXTRA_THERE) &&
		    strcmp(PQgetvalue(res, n, SWAP_EXTRA_KIND), "key") != 0)
			rc = rt_fail(err, ERR_RETRY, "%s %s is new on %s",
				     PQgetvalue(res, n, SWAP_EXTRA_KIND),
				     PQgetvalue(res, n, SWAP_EXTRA_NAME), s->pair[i].live);
	PQclear(res);
	return rc;
}

static int pass_comment(struct swap *s, const char *kind, const char *of, const char *from_oid,
			const char *to, struct rt_err *err)
{
	const char *params[] = {of, from_oid, kind, to};
	return swap_run_query(s,
			      "SELECT format('COMMENT ON %s %s IS %L', $3::text, $4::text, d) FROM "
			      "pg_catalog.obj_description($2::oid, $1::name) d WHERE d IS NOT NULL "
			      "AND NOT EXISTS (SELECT FROM pg_catalog.pg_statistic_ext s WHERE "
			      "format('%s.%I', s.stxnamespace::regnamespace, s.stxname) = "
			      "$4::text AND NOT pg_catalog.pg_has_role(s.stxowner, 'USAGE'))",
			      4, params, err);
}

/*
 * An index's name goes from the live table's to its counterpart, with the
 * comment; the old one is named by its OID. Names of statistics mean nothing,
 * and are another's to change where he made them.
 */
static int pass_name(struct swap *s, const PGresult *res, int n, struct rt_err *err)
{
	const char *oid = PQgetvalue(res, n, SWAP_EXTRA_OID),
		   *whole = PQgetvalue(res, n, SWAP_EXTRA_NAME),
		   *there = PQgetvalue(res, n, SWAP_EXTRA_THERE);
	struct buf name = BUF_INIT;
	if (strcmp(PQgetvalue(res, n, SWAP_EXTRA_KIND), "statistics") == 0)
		return pass_comment(s, "STATISTICS", "pg_statistic_ext", oid, there, err);
	pgc_ident(&name, PQgetvalue(res, n, SWAP_EXTRA_BARE));
	int rc = pgc_exec(s->c, NULL, err,
			  "ALTER INDEX %s RENAME TO " OLD "%s; ALTER INDEX %s RENAME TO %s", whole,
			  oid, there, buf_cstr(&name));
	buf_release(&name);
	return rc == 0 ? pass_comment(s, "INDEX", "pg_class", oid, whole, err) : rc;
}

static int pass_names(struct swap *s, size_t i, struct rt_err *err)
{
	PGresult *res;
	int rc = ask_extras(s, i, &res, err);
	if (rc != 0)
		return rc;
	for (int n = 0; rc == 0 && n < PQntuples(res); n++)
		if (!PQgetisnull(res, n, SWAP_EXTRA_THERE))
			rc = pass_name(s, res, n, err);
	PQclear(res);
	return rc;
}

static int rename_table(struct swap *s, const char *schema, const char *from, const char *to,
			struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	buf_str(&sql, "ALTER TABLE ");
	qualified(&sql, schema, from);
	buf_str(&sql, " RENAME TO ");
	pgc_ident(&sql, to);
	int rc = pgc_exec(s->c, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	return rc;
}

/* What rolag wrote on a table is known by the table's name: the record follows it. */
static int pass_record(struct swap *s, const struct swap_pair *p, struct rt_err *err)
{
	const char *old[] = {p->schema, p->live, p->kept}, *new[] = {p->schema, p->beside, p->live};
	static const char rename[] = "UPDATE rolag.comment_made SET table_name = $3 WHERE "
				     "schema_name = $1 AND table_name = $2";
	int rc = p->kept != NULL ? pgc_query(s->c, NULL, err, rename, 3, old)
				 : pgc_query(s->c, NULL, err,
					     "DELETE FROM rolag.comment_made WHERE schema_name = "
					     "$1 AND table_name = $2",
					     2, old);
	return rc == 0 ? pgc_query(s->c, NULL, err, rename, 3, new) : rc;
}

static int pass_comments(struct swap *s, size_t i, struct rt_err *err)
{
	const struct swap_pair *p = &s->pair[i];
	const char *params[] = {s->table[i].live, s->table[i].beside, p->schema, p->live};
	PGresult *res;
	int rc = pgc_exec(s->c, &res, err,
			  "SELECT pg_catalog.to_regclass('rolag.comment_made') IS NOT NULL");
	if (rc != 0)
		return rc;
	bool there = PQgetvalue(res, 0, 0)[0] == 't';
	PQclear(res);
	if (!there)
		return 0;
	rc = swap_run_query(s, swap_comments_sql, 4, params, err);
	return rc == 0 ? pass_record(s, p, err) : rc;
}

int swap_pass_grants(struct swap *s, const char *from, const char *to, struct rt_err *err)
{
	const char *params[] = {from, to, NULL};
	PGresult *res;
	int rc = swap_run_query(s, swap_revoke_sql, 1, &to, err);
	if (rc == 0)
		rc = swap_ask(s, &res, "SELECT $1::oid::regclass::text", 1, &to, err);
	if (rc != 0)
		return rc;
	params[2] = PQgetvalue(res, 0, 0);
	rc = swap_run_query(s, swap_grant_sql, 3, params, err);
	PQclear(res);
	return rc;
}

/* Names, settings, comments and grants of one pair. */
static int turn_pair(struct swap *s, size_t i, struct rt_err *err)
{
	const struct swap_pair *p = &s->pair[i];
	const char *params[] = {s->table[i].live, s->table[i].beside};
	char parked[40];
	snprintf(parked, sizeof(parked), OLD "%s", s->table[i].live);
	int rc = rename_table(s, p->schema, p->live, p->kept != NULL ? p->kept : parked, err);
	if (rc == 0)
		rc = rename_table(s, p->schema, p->beside, p->live, err);
	if (rc == 0)
		rc = pass_names(s, i, err);
	if (rc == 0)
		rc = swap_run_query(s, swap_settings_sql, 2, params, err);
	if (rc == 0)
		rc = pass_comments(s, i, err);
	return rc == 0 ? swap_pass_grants(s, s->table[i].live, s->table[i].beside, err) : rc;
}

static int drop_old(struct swap *s, size_t i, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	buf_str(&sql, "DROP TABLE ");
	pgc_ident(&sql, s->pair[i].schema);
	buf_printf(&sql, "." OLD "%s", s->table[i].live);
	int rc = pgc_exec(s->c, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	return rc;
}

/* ---- a swap ---- */

/* What stands in the way was noted in s->lines. */
static int say_lines(const struct swap *s, struct rt_err *err)
{
	const char *first = (const char *)s->lines->p;
	size_t len = strcspn(first, "\n");
	if (s->line_count == 1)
		return rt_fail(err, ERR_PERMANENT, "%.*s", (int)len, first);
	return rt_fail(err, ERR_PERMANENT, "%.*s; and %u more like that", (int)len, first,
		       s->line_count - 1);
}

/* Locks, then looks at what is there under them. */
static int look(struct swap *s, bool trial, struct rt_err *err)
{
	const char *oids = buf_cstr(&s->oids);
	int rc = swap_note_lines(s, swap_table_rights_sql, oids, err);
	if (rc == 0 && s->line_count == 0)
		rc = swap_views_lock(s, oids, err);
	if (rc == 0 && s->line_count == 0)
		rc = lock_tables(s, err);
	if (rc == 0)
		rc = swap_note_lines(s, swap_dependents_sql, oids, err);
	for (size_t i = 0; rc == 0 && !trial && s->line_count == 0 && i < s->count; i++)
		rc = check_extras(s, i, err);
	return rc;
}

/* Everything, but that nothing is done any more once a line was noted. */
static int turn(struct swap *s, bool trial, struct rt_err *err)
{
	struct swap_views views = {0};
	int rc = look(s, trial, err);
	if (rc == 0 && (trial || s->line_count == 0))
		rc = swap_views_read(s, &views, buf_cstr(&s->oids), err);
	for (size_t i = 0; rc == 0 && s->line_count == 0 && i < s->count; i++)
		rc = turn_pair(s, i, err);
	if (rc == 0 && s->line_count == 0)
		rc = swap_views_turn(s, &views, err);
	for (size_t i = 0; rc == 0 && s->line_count == 0 && i < s->count; i++)
		if (s->pair[i].kept == NULL)
			rc = drop_old(s, i, err);
	swap_views_release(&views);
	return rc == 0 ? end_session(s, err) : rc;
}

int swap_tables(PGconn *c, const struct swap_pair *pairs, size_t count, struct rt_err *err)
{
	struct buf lines = BUF_INIT;
	struct swap s = {.c = c, .pair = pairs, .count = count, .lines = &lines};
	FAILPOINT_FD(SWAP_BEGIN, PQsocket(c));
	int rc = open_swap(&s, err);
	if (rc == 0)
		rc = turn(&s, false, err);
	if (rc == 0 && s.line_count > 0)
		rc = say_lines(&s, err);
	FAILPOINT_FD(SWAP_DONE, PQsocket(c));
	release(&s);
	buf_release(&lines);
	return rc;
}

/* Whatever it came to, nothing is left of it. */
static int roll_back(PGconn *c, int rc, struct rt_err *err)
{
	struct rt_err ignored;
	int undone = pgc_exec(c, NULL, rc == 0 ? err : &ignored, "ROLLBACK");
	return rc != 0 ? rc : undone;
}

int swap_check(PGconn *c, const struct swap_pair *pairs, size_t count, struct buf *out,
	       struct rt_err *err)
{
	struct swap s = {.c = c, .pair = pairs, .count = count, .lines = out};
	int rc = pgc_exec(c, NULL, err, "BEGIN");
	if (rc == 0)
		rc = open_swap(&s, err);
	if (rc == 0)
		rc = turn(&s, true, err);
	release(&s);
	return roll_back(c, rc, err);
}

/* ---- before it ---- */

static int make_extra(struct swap *s, size_t i, const PGresult *res, int n, struct rt_err *err)
{
	const char *kind = PQgetvalue(res, n, SWAP_EXTRA_KIND);
	FAILPOINT_FD(SWAP_PREPARE, PQsocket(s->c));
	int rc = pgc_exec(s->c, NULL, err, "%s", PQgetvalue(res, n, SWAP_EXTRA_MAKE));
	if (rc != ERR_PERMANENT)
		return rc;
	return rt_context(err,
			  "%s %s of %s cannot be built on the table that is to take its "
			  "place; mend: DROP %s %s",
			  kind, PQgetvalue(res, n, SWAP_EXTRA_NAME), s->pair[i].live,
			  strcmp(kind, "index") == 0 ? "INDEX" : "STATISTICS",
			  PQgetvalue(res, n, SWAP_EXTRA_NAME));
}

static int prepare_pair(struct swap *s, size_t i, bool *made, struct rt_err *err)
{
	PGresult *res;
	int rc = ask_extras(s, i, &res, err);
	if (rc != 0)
		return rc;
	for (int n = 0; rc == 0 && n < PQntuples(res); n++) {
		if (!PQgetisnull(res, n, SWAP_EXTRA_THERE) ||
		    strcmp(PQgetvalue(res, n, SWAP_EXTRA_KIND), "key") == 0)
			continue;
		*made = true;
		rc = make_extra(s, i, res, n, err);
	}
	PQclear(res);
	return rc;
}

static int prepare(struct swap *s, bool force_analyze, struct rt_err *err)
{
	int rc = find_tables(s, err);
	for (size_t i = 0; rc == 0 && i < s->count; i++) {
		bool made = force_analyze;
		struct buf name = BUF_INIT;
		rc = prepare_pair(s, i, &made, err);
		qualified(&name, s->pair[i].schema, s->pair[i].beside);
		if (rc == 0 && made)
			rc = pgc_exec(s->c, NULL, err, "ANALYZE %s", buf_cstr(&name));
		buf_release(&name);
	}
	return rc;
}

int swap_prepare(PGconn *c, const struct swap_pair *pairs, size_t count, bool force_analyze,
		 struct rt_err *err)
{
	struct swap s = {.c = c, .pair = pairs, .count = count};
	PGresult *res;
	struct rt_err second;
	int rc = pgc_exec(c, &res, err,
			  "SELECT pg_catalog.current_setting('search_path'), "
			  "pg_catalog.set_config('search_path', '', false)");
	if (rc != 0)
		return rc;
	s.search_path = rt_strdup(PQgetvalue(res, 0, 0));
	PQclear(res);
	rc = prepare(&s, force_analyze, err);
	const char *params[] = {s.search_path};
	int back = pgc_query(c, NULL, rc == 0 ? err : &second,
			     "SELECT pg_catalog.set_config('search_path', $1, false)", 1, params);
	release(&s);
	return rc != 0 ? rc : back;
}

void swap_made_sql(const char *schema, const char *table, struct buf *out)
{
	struct buf name = BUF_INIT;
	qualified(&name, schema, table);
	buf_str(out, "INSERT INTO rolag.comment_made (schema_name, table_name, column_name, hash) "
		     "SELECT ");
	pgc_literal(out, schema);
	buf_str(out, ", ");
	pgc_literal(out, table);
	buf_str(out, ", coalesce(a.attname, ''), pg_catalog.md5(d.description) FROM "
		     "pg_catalog.pg_description d LEFT JOIN pg_catalog.pg_attribute a ON "
		     "a.attrelid = d.objoid AND a.attnum = d.objsubid WHERE d.classoid = "
		     "'pg_catalog.pg_class'::regclass AND d.objoid = ");
	pgc_literal(out, buf_cstr(&name));
	buf_str(out, "::regclass ON CONFLICT (schema_name, table_name, column_name) DO UPDATE SET "
		     "hash = excluded.hash");
	buf_release(&name);
}
