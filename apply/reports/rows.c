/*
 * rows: the statement that a report's definition means, and COPY's text read
 * back into values. Guarantees: the same relation gives the same rows in the
 * same order, on any server.
 */
#include "apply/reports/rows.h"

#include "proto/base/failpoint.h"
#include "proto/pg/pgconn.h"

/* What the catalog says of a column. */
struct known {
	bool collatable, sortable;
};

static void add_column(struct buf *sql, const struct report_column *c)
{
	const char *before = "", *after = "";
	switch (c->type) {
	case REPORT_TEXT:
	case REPORT_INT:
	case REPORT_SHORT:
	case REPORT_DATE:
		after = "::text";
		break;
	case REPORT_DECIMAL:
		before = c->has_fraction ? "round(" : "";
		after = "::numeric";
		break;
	case REPORT_JSON:
		before = "to_jsonb(";
		after = ")::text";
		break;
	case REPORT_BOOLEAN:
	case REPORT_TIMESTAMP:
	case REPORT_TYPES:
		break;
	}
	buf_str(sql, before);
	buf_str(sql, "t.");
	pgc_ident(sql, c->name);
	buf_str(sql, after);
	if (c->type == REPORT_DECIMAL && c->has_fraction)
		buf_printf(sql, ", %u)", c->fraction);
}

/* Facts of the columns of schema.model by name, in the order that names come. */
static int look(const char *schema, const struct report *r, const char *name,
		const PGresult *columns, struct known *ret, struct rt_err *err)
{
	for (int i = 0; i < PQntuples(columns); i++) {
		if (strcmp(PQgetvalue(columns, i, 0), name) != 0)
			continue;
		ret->collatable = PQgetvalue(columns, i, 1)[0] == 't';
		ret->sortable = PQgetvalue(columns, i, 2)[0] == 't';
		return 0;
	}
	return rt_fail(err, ERR_PERMANENT, "report %s: its model %s.%s has no column \"%s\"", r->id,
		       schema, r->model, name);
}

static int read_columns(PGconn *c, const char *schema, const struct report *r, PGresult **ret,
			struct rt_err *err)
{
	const char *params[] = {schema, r->model};
	PGresult *res;
	int rc = pgc_query(c, &res, err,
			   "SELECT c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = "
			   "c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
			   2, params);
	if (rc != 0)
		return rc;
	const char kind = PQntuples(res) == 1 ? PQgetvalue(res, 0, 0)[0] : '\0';
	PQclear(res);
	if (kind == '\0')
		return rt_fail(err, ERR_PERMANENT, "report %s: the build made no table %s.%s",
			       r->id, schema, r->model);
	if (kind != 'r' && kind != 'p' && kind != 'm')
		return rt_fail(err, ERR_PERMANENT,
			       "report %s: %s.%s is not a table; a view's rows may be others "
			       "tomorrow, and the files could not be written again",
			       r->id, schema, r->model);
	return pgc_query(
		c, ret, err,
		"SELECT a.attname, a.attcollation <> 0, EXISTS (SELECT FROM pg_opclass o "
		"JOIN pg_am m ON m.oid = o.opcmethod WHERE m.amname = 'btree' AND "
		"o.opcdefault AND (o.opcintype = a.atttypid OR t.typtype IN ('e', 'd') OR "
		"t.typcategory = 'A' OR (o.opcintype = 'text'::regtype AND a.attcollation "
		"<> 0))) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN "
		"pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT "
		"a.attisdropped JOIN pg_type t ON t.oid = a.atttypid WHERE n.nspname = $1 "
		"AND c.relname = $2 ORDER BY a.attnum",
		2, params);
}

/* t.: a bare name would mean the column as it is written, and numbers would sort as text. */
static void add_sort(struct buf *sql, const char *name, struct known k)
{
	buf_str(sql, "t.");
	pgc_ident(sql, name);
	if (!k.sortable)
		buf_str(sql, "::text COLLATE \"C\"");
	else if (k.collatable)
		buf_str(sql, " COLLATE \"C\"");
	buf_str(sql, " ASC NULLS LAST");
}

/* The order that was asked for, then every column of the model, should that one not be unique. */
static int add_order(struct buf *sql, const char *schema, const struct report *r,
		     const PGresult *columns, struct rt_err *err)
{
	struct known k = {0};
	buf_str(sql, " ORDER BY ");
	for (size_t i = 0; i < r->order_count; i++) {
		int rc = look(schema, r, r->order[i], columns, &k, err);
		if (rc != 0)
			return rc;
		add_sort(sql, r->order[i], k);
		buf_str(sql, ", ");
	}
	for (int i = 0; i < PQntuples(columns); i++) {
		k.collatable = PQgetvalue(columns, i, 1)[0] == 't';
		k.sortable = PQgetvalue(columns, i, 2)[0] == 't';
		buf_str(sql, i > 0 ? ", " : "");
		add_sort(sql, PQgetvalue(columns, i, 0), k);
	}
	return 0;
}

static int make_sql(struct buf *sql, PGconn *c, const char *schema, const struct report *r,
		    struct rt_err *err)
{
	PGresult *columns;
	struct known k = {0};
	int rc = read_columns(c, schema, r, &columns, err);
	if (rc != 0)
		return rc;
	buf_str(sql, "COPY (SELECT ");
	for (size_t i = 0; rc == 0 && i < r->column_count; i++) {
		rc = look(schema, r, r->column[i].name, columns, &k, err);
		buf_str(sql, i > 0 ? ", " : "");
		add_column(sql, &r->column[i]);
	}
	buf_str(sql, " FROM ");
	pgc_ident(sql, schema);
	buf_u8(sql, '.');
	pgc_ident(sql, r->model);
	buf_str(sql, " t");
	if (rc == 0)
		rc = add_order(sql, schema, r, columns, err);
	buf_str(sql, ") TO STDOUT");
	PQclear(columns);
	return rc;
}

int rows_open(struct rows *r, PGconn *c, const char *schema, const struct report *report,
	      struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	*r = (struct rows){.c = c, .report = report};
	int rc = make_sql(&sql, c, schema, report, err);
	if (rc == 0)
		rc = pgc_exec(c, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	if (rc != 0)
		return rt_context(err, "reading %s", report->id);
	r->field = rt_calloc(report->column_count, sizeof(*r->field));
	r->null = rt_calloc(report->column_count, sizeof(*r->null));
	return 0;
}

/* ---- COPY's text ---- */

static int octal(const char *p, const char *end, uint8_t *ret)
{
	int n = 0, v = 0;
	for (; n < 3 && p + n < end && p[n] >= '0' && p[n] <= '7'; n++)
		v = v * 8 + p[n] - '0';
	*ret = (uint8_t)v;
	return n;
}

/* Undoes the backslashes of [p, end) in place; the new length. */
static size_t unescape(char *p, const char *end)
{
	static const char names[] = "bfnrtv", meanings[] = "\b\f\n\r\t\v";
	char *to = p;
	for (const char *from = p; from < end;) {
		if (*from != '\\' || from + 1 == end) {
			*to++ = *from++;
			continue;
		}
		uint8_t byte;
		int digits = octal(from + 1, end, &byte);
		const char *at = strchr(names, from[1]);
		if (digits > 0)
			*to++ = (char)byte;
		else
			*to++ = at != NULL ? meanings[at - names] : from[1];
		from += 1 + (digits > 0 ? digits : 1);
	}
	return (size_t)(to - p);
}

static int split(struct rows *r, size_t len, struct rt_err *err)
{
	char *p = r->line, *end = r->line + len;
	if (len > 0 && end[-1] == '\n')
		end--;
	for (size_t i = 0; i < r->report->column_count; i++) {
		char *tab = p <= end ? memchr(p, '\t', (size_t)(end - p)) : NULL;
		char *stop = tab != NULL ? tab : end;
		if (p > end || (tab == NULL) != (i + 1 == r->report->column_count))
			return rt_fail(err, ERR_PERMANENT,
				       "reading %s: a row of COPY has not %zu fields",
				       r->report->id, r->report->column_count);
		r->null[i] = stop - p == 2 && p[0] == '\\' && p[1] == 'N';
		r->field[i] = slice_of(p, r->null[i] ? 0 : unescape(p, stop));
		p = stop + 1;
	}
	return 0;
}

/* The COPY is over: did it end well? */
static int finish(struct rows *r, struct rt_err *err)
{
	int rc = 0;
	for (PGresult *res; (res = PQgetResult(r->c)) != NULL; PQclear(res))
		if (rc == 0 && PQresultStatus(res) != PGRES_COMMAND_OK)
			rc = pgc_fail(r->c, res, err, "reading a report's rows");
	return rc == 0 ? 0 : rt_context(err, "reading %s", r->report->id);
}

int rows_next(struct rows *r, struct rt_err *err)
{
	PQfreemem(r->line);
	r->line = NULL;
	FAILPOINT_FD(REPORTS_ROW, PQsocket(r->c));
	int n = PQgetCopyData(r->c, &r->line, 0);
	if (n == -1)
		return finish(r, err);
	if (n < 0) {
		(void)pgc_fail(r->c, NULL, err, "COPY");
		return rt_context(err, "reading %s, row %lld", r->report->id,
				  (long long)r->count + 1);
	}
	int rc = split(r, (size_t)n, err);
	if (rc != 0)
		return rc;
	r->count++;
	return 1;
}

void rows_close(struct rows *r)
{
	PQfreemem(r->line);
	free(r->field);
	free(r->null);
	*r = (struct rows){0};
}
