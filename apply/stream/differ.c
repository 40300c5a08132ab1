/* differ: one statement. Guarantees: no value leaves the warehouse, and no plan of it keeps a table in memory. */
#include "apply/stream/differ.h"

#include "proto/base/buf.h"
#include "proto/pg/pgconn.h"

/* Of both tables ($1, $2): columns with their types, in the new one's order, then the old one's own. */
static const char columns_sql[] =
	"SELECT coalesce(n.attname, o.attname), o.atttypid IS NOT NULL, n.atttypid IS NOT NULL,"
	" o.atttypid IS NOT DISTINCT FROM n.atttypid,"
	" pg_catalog.format_type(n.atttypid, NULL) = 'json'"
	" FROM (SELECT * FROM pg_catalog.pg_attribute WHERE attrelid = $1::regclass AND attnum > 0"
	"  AND NOT attisdropped) o"
	" FULL JOIN (SELECT * FROM pg_catalog.pg_attribute WHERE attrelid = $2::regclass"
	"  AND attnum > 0 AND NOT attisdropped) n USING (attname)"
	" ORDER BY n.attnum, o.attnum";

enum { NAME, IN_OLD, IN_NEW, SAME_TYPE, IS_JSON };

struct work {
	PGconn *c;
	struct arena *arena;
	const char *old_table, *new_table;
	const char *const *key;
	size_t key_count;
	PGresult *columns;
	uint16_t *common; /* rows of columns */
	uint16_t count;
};

static bool is_listed(const char *name, const char *const *list, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(list[i], name) == 0)
			return true;
	return false;
}

static bool has(const struct work *w, int row, int column)
{
	return PQgetvalue(w->columns, row, column)[0] == 't';
}

static int check_key(const struct work *w, struct rt_err *err)
{
	for (size_t k = 0; k < w->key_count; k++) {
		bool both = false;
		for (int i = 0; i < PQntuples(w->columns); i++)
			both |= strcmp(PQgetvalue(w->columns, i, NAME), w->key[k]) == 0 &&
				has(w, i, IN_OLD) && has(w, i, IN_NEW);
		if (!both)
			return rt_fail(err, ERR_PERMANENT, "%s and %s have no common column %s",
				       w->old_table, w->new_table, w->key[k]);
	}
	return 0;
}

/* Sorts the columns: common ones, and the names of the others. */
static void sort_columns(struct work *w, const char *const *skip, size_t skip_count,
			 struct differ *ret)
{
	struct buf gone = BUF_INIT, added = BUF_INIT;
	int n = PQntuples(w->columns);
	w->common = arena_alloc(w->arena, ((size_t)n + 1) * sizeof(*w->common));
	for (int i = 0; i < n; i++) {
		const char *name = PQgetvalue(w->columns, i, NAME);
		struct buf *other = has(w, i, IN_OLD) ? &gone : &added;
		if (is_listed(name, skip, skip_count) || is_listed(name, w->key, w->key_count))
			continue;
		if (has(w, i, IN_OLD) && has(w, i, IN_NEW))
			w->common[w->count++] = (uint16_t)i;
		else
			buf_printf(other, "%s%s", other->len > 0 ? ", " : "", name);
	}
	ret->gone = arena_strdup(w->arena, buf_cstr(&gone));
	ret->added = arena_strdup(w->arena, buf_cstr(&added));
	buf_release(&gone);
	buf_release(&added);
}

static void value(struct buf *out, const char *side, const char *name, const char *cast)
{
	buf_printf(out, "%s.", side);
	pgc_ident(out, name);
	buf_str(out, cast);
}

/* Values of one type are compared by their bytes, whatever the type has for an "=". */
static bool by_image(const struct work *w, uint16_t n)
{
	return has(w, w->common[n], SAME_TYPE) && !has(w, w->common[n], IS_JSON);
}

static void list(const struct work *w, const char *side, uint16_t from, uint16_t to,
		 struct buf *out)
{
	bool first = true;
	buf_str(out, "ROW(");
	for (uint16_t n = from; n < to; n++) {
		if (!by_image(w, n))
			continue;
		buf_str(out, first ? "" : ", ");
		value(out, side, PQgetvalue(w->columns, w->common[n], NAME), "");
		first = false;
	}
	buf_str(out, ")::record");
}

/* Those of the columns from … to that are compared by image; others as text, json then as jsonb. */
static void images_differ(const struct work *w, uint16_t from, uint16_t to, struct buf *out)
{
	list(w, "o", from, to, out);
	buf_str(out, " OPERATOR(pg_catalog.*<>) ");
	list(w, "n", from, to, out);
}

static void text_differs(const struct work *w, uint16_t n, struct buf *out)
{
	const char *name = PQgetvalue(w->columns, w->common[n], NAME);
	buf_u8(out, '(');
	value(out, "o", name, "::text IS DISTINCT FROM ");
	value(out, "n", name, "::text");
	if (has(w, w->common[n], SAME_TYPE)) { /* json; not every one is a jsonb */
		buf_str(out, " AND CASE WHEN pg_catalog.strpos(pg_catalog.concat(");
		value(out, "o", name, "::text, ");
		value(out, "n", name, "::text), '\\u0000') > 0 THEN true ELSE ");
		value(out, "o", name, "::jsonb IS DISTINCT FROM ");
		value(out, "n", name, "::jsonb END");
	}
	buf_u8(out, ')');
}

static void any_differs(const struct work *w, struct buf *out)
{
	images_differ(w, 0, w->count, out);
	for (uint16_t n = 0; n < w->count; n++)
		if (!by_image(w, n)) {
			buf_str(out, " OR ");
			text_differs(w, n, out);
		}
}

static void join(const struct work *w, struct buf *out)
{
	for (size_t k = 0; k < w->key_count; k++) {
		bool same = false;
		for (int i = 0; i < PQntuples(w->columns); i++)
			if (strcmp(PQgetvalue(w->columns, i, NAME), w->key[k]) == 0)
				same = has(w, i, SAME_TYPE);
		buf_str(out, k > 0 ? " AND " : "");
		value(out, "o", w->key[k], same ? " = " : "::text = ");
		value(out, "n", w->key[k], same ? "" : "::text");
	}
}

/* Each column by itself is looked at only of rows that differ. */
static void count_sql(const struct work *w, struct buf *out)
{
	buf_str(out, "SELECT count(*) FILTER (WHERE n._there IS NULL), count(*) FILTER (WHERE "
		     "o._there IS NULL), count(*) FILTER (WHERE NOT x.other), count(*) FILTER "
		     "(WHERE x.other)");
	for (uint16_t n = 0; n < w->count; n++) {
		buf_str(out, ", count(*) FILTER (WHERE x.other AND ");
		if (by_image(w, n))
			images_differ(w, n, n + 1, out);
		else
			text_differs(w, n, out);
		buf_u8(out, ')');
	}
	buf_printf(out,
		   " FROM (SELECT *, true AS _there FROM %s) o FULL JOIN (SELECT *, true AS _there "
		   "FROM %s) n ON ",
		   w->old_table, w->new_table);
	join(w, out);
	buf_str(out, " CROSS JOIN LATERAL (SELECT CASE WHEN o._there AND n._there THEN ");
	any_differs(w, out);
	buf_str(out, " END AS other OFFSET 0) x");
}

static uint64_t number(const PGresult *res, int column)
{
	return strtoull(PQgetvalue(res, 0, column), NULL, 10);
}

static void take_counts(const struct work *w, const PGresult *res, struct differ *ret)
{
	enum { ONLY_OLD, ONLY_NEW, SAME, DIFFERING, FIRST };
	ret->only_old = number(res, ONLY_OLD);
	ret->only_new = number(res, ONLY_NEW);
	ret->same = number(res, SAME);
	ret->differing = number(res, DIFFERING);
	ret->count = w->count;
	ret->column = arena_alloc(w->arena, (w->count + 1u) * sizeof(*ret->column));
	for (uint16_t n = 0; n < w->count; n++)
		ret->column[n] = (struct differ_column){
			arena_strdup(w->arena, PQgetvalue(w->columns, w->common[n], NAME)),
			number(res, FIRST + n)};
}

/* One process, nothing compiled; what was set before comes back behind it. */
static int count(const struct work *w, struct differ *ret, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	PGresult *res, *was;
	struct rt_err second;
	int rc = pgc_exec(w->c, &was, err,
			  "SELECT pg_catalog.current_setting('jit'), "
			  "pg_catalog.current_setting('max_parallel_workers_per_gather'), "
			  "pg_catalog.set_config('jit', 'off', false), "
			  "pg_catalog.set_config('max_parallel_workers_per_gather', '0', false)");
	if (rc != 0)
		return rc;
	count_sql(w, &sql);
	rc = pgc_exec(w->c, &res, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	if (rc == 0) {
		take_counts(w, res, ret);
		PQclear(res);
	}
	const char *params[] = {PQgetvalue(was, 0, 0), PQgetvalue(was, 0, 1)};
	/* Where the transaction failed, it takes the settings with it. */
	int back = pgc_query(w->c, NULL, rc == 0 ? err : &second,
			     "SELECT pg_catalog.set_config('jit', $1, false), "
			     "pg_catalog.set_config('max_parallel_workers_per_gather', $2, false)",
			     2, params);
	PQclear(was);
	return rc != 0 ? rc : back;
}

int differ_count(PGconn *c, struct arena *a, const char *old_table, const char *new_table,
		 const char *const *key, size_t key_count, const char *const *skip,
		 size_t skip_count, struct differ *ret, struct rt_err *err)
{
	struct work w = {.c = c,
			 .arena = a,
			 .old_table = old_table,
			 .new_table = new_table,
			 .key = key,
			 .key_count = key_count};
	const char *params[] = {old_table, new_table};
	struct differ found = {0};
	int rc = pgc_query(c, &w.columns, err, columns_sql, 2, params);
	if (rc != 0)
		return rc;
	rc = check_key(&w, err);
	if (rc == 0) {
		sort_columns(&w, skip, skip_count, &found);
		rc = count(&w, &found, err);
	}
	PQclear(w.columns);
	if (rc == 0)
		*ret = found;
	return rc;
}
