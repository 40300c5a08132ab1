/* swap_view: guarantees that no view is left reading the table that was swapped out, or without what hung on it. */
#include "apply/stream/swap_view.h"

#include "apply/stream/swap_sql.h"
#include "proto/pg/pgconn.h"

void swap_views_release(struct swap_views *v)
{
	for (int i = 0; v->after != NULL && i < PQntuples(v->res); i++)
		free(v->after[i]);
	free(v->after);
	free(v->anew);
	PQclear(v->res);
	*v = (struct swap_views){0};
}

int swap_views_read(struct swap *s, struct swap_views *v, const char *oids, struct rt_err *err)
{
	int rc = swap_ask(s, &v->res, swap_views_sql, 1, &oids, err);
	if (rc != 0)
		return rc;
	size_t n = (size_t)PQntuples(v->res) + 1;
	v->anew = rt_calloc(n, sizeof(*v->anew));
	v->after = rt_calloc(n, sizeof(*v->after));
	return 0;
}

static const char *field(const struct swap_views *v, int row, int column)
{
	return PQgetvalue(v->res, row, column);
}

static bool is_direct(const struct swap_views *v, int row)
{
	return field(v, row, SWAP_VIEW_DIRECT)[0] == 't';
}

/* Those of the rows for which is_one says so, as an array literal. */
static void list_oids(const struct swap_views *v, bool (*is_one)(const struct swap_views *, int),
		      struct buf *out)
{
	buf_u8(out, '{');
	for (int i = 0; i < PQntuples(v->res); i++)
		if (is_one(v, i))
			buf_printf(out, "%s%s", out->len > 1 ? "," : "",
				   field(v, i, SWAP_VIEW_OID));
	buf_u8(out, '}');
}

static int check_rights(struct swap *s, const struct swap_views *v,
			bool (*is_one)(const struct swap_views *, int), struct rt_err *err)
{
	struct buf oids = BUF_INIT;
	list_oids(v, is_one, &oids);
	int rc = swap_note_lines(s, swap_view_rights_sql, buf_cstr(&oids), err);
	buf_release(&oids);
	return rc;
}

/*
 * LOCK TABLE of a view would lock what it reads as well, with its owner's
 * rights; this locks the view alone, and changes nothing.
 */
static int lock_view(struct swap *s, const struct swap_views *v, int row, struct rt_err *err)
{
	struct buf owner = BUF_INIT;
	pgc_ident(&owner, field(v, row, SWAP_VIEW_OWNER));
	int rc = pgc_exec(s->c, NULL, err, "ALTER VIEW %s OWNER TO %s",
			  field(v, row, SWAP_VIEW_NAME), buf_cstr(&owner));
	buf_release(&owner);
	return rc;
}

int swap_views_lock(struct swap *s, const char *oids, struct rt_err *err)
{
	struct swap_views v = {0};
	int rc = swap_views_read(s, &v, oids, err);
	if (rc == 0)
		rc = check_rights(s, &v, is_direct, err);
	for (int i = rc == 0 ? PQntuples(v.res) : 0; rc == 0 && s->line_count == 0 && i-- > 0;)
		if (is_direct(&v, i))
			rc = lock_view(s, &v, i, err);
	swap_views_release(&v);
	return rc;
}

/* ---- roles ---- */

/* Views are made as their owner, but by a superuser, who needs not. */
static int become(struct swap *s, const char *role, struct rt_err *err)
{
	const char *params[] = {role};
	if (s->super)
		return 0;
	return pgc_query(s->c, NULL, err, "SELECT pg_catalog.set_config('role', $1, true)", 1,
			 params);
}

static int become_owner(struct swap *s, const struct swap_views *v, int row, struct rt_err *err)
{
	return become(s, field(v, row, SWAP_VIEW_OWNER), err);
}

static int become_self(struct swap *s, struct rt_err *err)
{
	return become(s, s->role, err);
}

/* ---- replacing in place ---- */

static PGresult *create(struct swap *s, const struct swap_views *v, int row, bool replace)
{
	struct buf sql = BUF_INIT;
	buf_printf(&sql, "CREATE %sVIEW %s%s AS %s", replace ? "OR REPLACE " : "",
		   field(v, row, SWAP_VIEW_NAME), field(v, row, SWAP_VIEW_WITH),
		   field(v, row, SWAP_VIEW_TEXT));
	PGresult *res = PQexec(s->c, buf_cstr(&sql));
	buf_release(&sql);
	return res;
}

static void note_refusal(struct swap *s, const struct swap_views *v, int row, const PGresult *res)
{
	const char *why = pgc_said(res);
	char *line =
		rt_sprintf("view %s cannot read the table as it will be: %s; mend: DROP VIEW %s "
			   "(and make it again afterwards)",
			   field(v, row, SWAP_VIEW_NAME), why != NULL ? why : "it failed",
			   field(v, row, SWAP_VIEW_NAME));
	swap_note_line(s, line);
	free(line);
}

/* 1: done; 0: its columns change; or a line was noted. The transaction goes on either way. */
static int replace(struct swap *s, const struct swap_views *v, int row, struct rt_err *err)
{
	int rc = pgc_exec(s->c, NULL, err, "SAVEPOINT rolag_swap");
	if (rc == 0)
		rc = become_owner(s, v, row, err);
	if (rc != 0)
		return rc;
	PGresult *res = create(s, v, row, true);
	bool done = PQresultStatus(res) == PGRES_COMMAND_OK;
	bool other = pgc_is_state(res, "42P16"); /* other columns, or in another order */
	if (!done && !other &&
	    (PQresultErrorField(res, PG_DIAG_SQLSTATE) == NULL || pgc_is_state(res, "55P03")))
		rc = pgc_fail(s->c, res, err, "replacing a view");
	else if (!done && !other)
		note_refusal(s, v, row, res);
	PQclear(res);
	if (rc == 0 && !done)
		rc = pgc_exec(s->c, NULL, err, "ROLLBACK TO SAVEPOINT rolag_swap");
	if (rc == 0)
		rc = pgc_exec(s->c, NULL, err, "RELEASE SAVEPOINT rolag_swap");
	if (rc == 0)
		rc = become_self(s, err);
	return rc == 0 ? (int)done : rc;
}

/* It and the views on it, also those found by way of others, are to be made anew. */
static int mark_anew(struct swap *s, struct swap_views *v, int row, struct rt_err *err)
{
	struct swap_views on = {0};
	char *oids = rt_sprintf("{%s}", field(v, row, SWAP_VIEW_OID));
	int rc = swap_views_read(s, &on, oids, err);
	free(oids);
	v->anew[row] = true;
	for (int i = 0; rc == 0 && i < PQntuples(on.res); i++)
		for (int n = 0; n < PQntuples(v->res); n++)
			v->anew[n] |= strcmp(field(v, n, SWAP_VIEW_OID),
					     field(&on, i, SWAP_VIEW_OID)) == 0;
	swap_views_release(&on);
	return rc;
}

/* ---- making anew ---- */

static bool is_anew(const struct swap_views *v, int row)
{
	return v->anew[row];
}

/* What else depends on views that are to be dropped, and rights that lack: lines. */
static int check_anew(struct swap *s, const struct swap_views *v, struct rt_err *err)
{
	struct buf oids = BUF_INIT;
	list_oids(v, is_anew, &oids);
	int rc = swap_note_lines(s, swap_dependents_sql, buf_cstr(&oids), err);
	if (rc == 0)
		rc = check_rights(s, v, is_anew, err);
	buf_release(&oids);
	return rc;
}

static void append_each(struct buf *out, PGresult *res)
{
	for (int i = 0; i < PQntuples(res); i++)
		buf_printf(out, "%s;", PQgetvalue(res, i, 0));
	PQclear(res);
}

/* The statements that bring back a view's grants and comments. */
static int remember(struct swap *s, struct swap_views *v, int row, struct rt_err *err)
{
	const char *grants[] = {field(v, row, SWAP_VIEW_OID), field(v, row, SWAP_VIEW_OID),
				field(v, row, SWAP_VIEW_NAME)};
	const char *comments[] = {grants[0], grants[2]};
	struct buf sql = BUF_INIT;
	PGresult *res;
	int rc = swap_ask(s, &res, swap_grant_sql, 3, grants, err);
	if (rc == 0)
		append_each(&sql, res);
	if (rc == 0)
		rc = swap_ask(s, &res, swap_view_comments_sql, 2, comments, err);
	if (rc == 0) {
		append_each(&sql, res);
		v->after[row] = rt_strdup(buf_cstr(&sql));
	}
	buf_release(&sql);
	return rc;
}

static int revoke_all(struct swap *s, const struct swap_views *v, int row, struct rt_err *err)
{
	const char *name = field(v, row, SWAP_VIEW_NAME);
	PGresult *res;
	int rc = swap_ask(s, &res, "SELECT $1::text::regclass::oid", 1, &name, err);
	if (rc != 0)
		return rc;
	const char *oid = PQgetvalue(res, 0, 0);
	rc = swap_run_query(s, swap_revoke_sql, 1, &oid, err);
	PQclear(res);
	return rc;
}

static int make_anew(struct swap *s, const struct swap_views *v, int row, struct rt_err *err)
{
	int rc = become_owner(s, v, row, err);
	if (rc != 0)
		return rc;
	PGresult *res = create(s, v, row, false);
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	if (PQresultStatus(res) == PGRES_COMMAND_OK) {
		rc = s->super ? lock_view(s, v, row, err) : 0; /* which gives it its owner */
		if (rc == 0)
			rc = revoke_all(s, v, row, err);
		if (rc == 0 && v->after[row][0] != '\0')
			rc = pgc_exec(s->c, NULL, err, "%s", v->after[row]);
		if (rc == 0)
			rc = become_self(s, err);
	} else if (state == NULL) {
		rc = pgc_fail(s->c, res, err, "making a view");
	} else {
		note_refusal(s, v, row, res);
		rc = pgc_exec(s->c, NULL, err, "ROLLBACK TO SAVEPOINT rolag_swap");
	}
	PQclear(res);
	return rc;
}

static int drop(struct swap *s, const struct swap_views *v, int row, struct rt_err *err)
{
	return pgc_exec(s->c, NULL, err, "DROP VIEW %s", field(v, row, SWAP_VIEW_NAME));
}

static int turn_anew(struct swap *s, struct swap_views *v, struct rt_err *err)
{
	const int n = PQntuples(v->res);
	int rc = check_anew(s, v, err);
	if (rc != 0 || s->line_count > 0)
		return rc;
	rc = pgc_exec(s->c, NULL, err, "SAVEPOINT rolag_swap");
	for (int i = 0; rc == 0 && i < n; i++)
		if (v->anew[i])
			rc = remember(s, v, i, err);
	for (int i = n; rc == 0 && i-- > 0;)
		if (v->anew[i])
			rc = drop(s, v, i, err);
	for (int i = 0; rc == 0 && s->line_count == 0 && i < n; i++)
		if (v->anew[i])
			rc = make_anew(s, v, i, err);
	return rc == 0 ? pgc_exec(s->c, NULL, err, "RELEASE SAVEPOINT rolag_swap") : rc;
}

int swap_views_turn(struct swap *s, struct swap_views *v, struct rt_err *err)
{
	bool any = false;
	for (int i = 0; i < PQntuples(v->res); i++) {
		if (!is_direct(v, i) || v->anew[i])
			continue;
		unsigned lines = s->line_count;
		int rc = replace(s, v, i, err);
		if (rc == 0 && s->line_count == lines)
			rc = mark_anew(s, v, i, err);
		if (rc < 0)
			return rc;
	}
	for (int i = 0; i < PQntuples(v->res); i++)
		any |= v->anew[i];
	return any && s->line_count == 0 ? turn_anew(s, v, err) : 0;
}
