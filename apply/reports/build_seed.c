/* build_seed: a CSV file as a table. Guarantees: all of its rows, as text unless a type is declared. */
#include <inttypes.h>

#include "apply/reports/build_inner.h"
#include "proto/pg/pgconn.h"
#include "transforms/models/csv.h"

#define COPY_PIECE_BYTES (64u << 10)

static const char *type_of(const struct model *md, const char *column)
{
	for (size_t i = 0; i < md->column_count; i++)
		if (strcmp(md->column[i].name, column) == 0)
			return md->column[i].type;
	return NULL;
}

static bool has_column(const struct csv *c, const char *name)
{
	for (size_t i = 0; i < c->count; i++)
		if (slice_is(c->field[i].text, name))
			return true;
	return false;
}

/* The header names each column once, and every declared column. */
static int check_header(struct build *b, const struct model *md, const struct csv *c)
{
	struct model_place at = {md->file, 1, 1};
	for (size_t i = 0; i < c->count; i++) {
		struct slice name = c->field[i].text;
		if (name.len == 0 || name.len > 63 || memchr(name.p, '"', name.len) != NULL)
			return model_fail(&at, b->err,
					  "column %zu: a name has 1 to 63 bytes, and no quotes",
					  i + 1);
		for (size_t k = 0; k < i; k++)
			if (slice_eq(c->field[k].text, name))
				return model_fail(&at, b->err,
						  "column %zu has the name of column %zu", i + 1,
						  k + 1);
	}
	for (size_t i = 0; i < md->column_count; i++)
		if (!has_column(c, md->column[i].name))
			return model_fail(&md->column[i].place, b->err, "seed %s has no column %s",
					  md->name, md->column[i].name);
	return 0;
}

static int create_table(struct build *b, size_t i, const struct csv *c)
{
	const struct model *md = &b->m->model[i];
	struct buf sql = BUF_INIT;
	buf_printf(&sql, "CREATE TABLE %s (", b->relation[i]);
	for (size_t k = 0; k < c->count; k++) {
		const char *name =
			arena_strndup(b->a, (const char *)c->field[k].text.p, c->field[k].text.len);
		const char *type = type_of(md, name);
		buf_str(&sql, k > 0 ? ", " : "");
		pgc_ident(&sql, name);
		buf_printf(&sql, " %s", type != NULL ? type : "text");
	}
	buf_str(&sql, ")");
	int rc = build_query(b, buf_cstr(&sql), 0, NULL, NULL, NULL);
	buf_release(&sql);
	return rc != 0 ? build_about(b, md) : 0;
}

/* A record in COPY's text form. */
static void add_record(struct buf *out, const struct csv *c)
{
	for (size_t i = 0; i < c->count; i++) {
		const struct csv_field *f = &c->field[i];
		if (i > 0)
			buf_u8(out, '\t');
		if (f->null)
			buf_str(out, "\\N");
		for (size_t k = 0; k < f->text.len; k++) {
			uint8_t ch = f->text.p[k];
			if (ch == '\\' || ch == '\t' || ch == '\n' || ch == '\r')
				buf_u8(out, '\\');
			buf_u8(out, ch == '\t' ? 't' : ch == '\n' ? 'n' : ch == '\r' ? 'r' : ch);
		}
	}
	buf_u8(out, '\n');
}

static int put(struct build *b, struct buf *out)
{
	if (PQputCopyData(b->c, (const char *)out->p, (int)out->len) != 1)
		return pgc_fail(b->c, NULL, b->err, "loading a seed");
	buf_clear(out);
	return 0;
}

/* Where the record is that the server did not take: its number stands in the error's context. */
static int fail_record(struct build *b, const struct model *md, const PGresult *res)
{
	const char *context = PQresultErrorField(res, PG_DIAG_CONTEXT);
	const char *line = context != NULL ? strstr(context, ", line ") : NULL;
	long number = line != NULL ? strtol(line + strlen(", line "), NULL, 10) : 0;
	struct model_place at = {md->file, 1, 1};
	struct rt_err why, ignored;
	struct csv c;
	csv_init(&c, md->file, md->text);
	for (long n = -1; n < number && csv_next(&c, &ignored) == 1; n++)
		at.line = c.record_line;
	csv_release(&c);
	int rc = pgc_fail(b->c, res, &why, "a value does not fit its column");
	if (rc != ERR_RETRY)
		return model_fail(&at, b->err, "%s", why.msg);
	*b->err = why;
	return rc;
}

static int end_copy(struct build *b, const struct model *md, int rc, int64_t *ret_rows)
{
	if (PQputCopyEnd(b->c, rc != 0 ? "given up" : NULL) != 1)
		return pgc_fail(b->c, NULL, b->err, "loading a seed");
	PGresult *res = PQgetResult(b->c), *next;
	if (rc == 0 && PQresultStatus(res) != PGRES_COMMAND_OK)
		rc = fail_record(b, md, res);
	else if (rc == 0)
		*ret_rows = strtoll(PQcmdTuples(res), NULL, 10);
	PQclear(res);
	while ((next = PQgetResult(b->c)) != NULL)
		PQclear(next);
	return rc;
}

static int copy_records(struct build *b, size_t i, struct csv *c)
{
	const struct model *md = &b->m->model[i];
	struct buf out = BUF_INIT;
	PGresult *res = NULL;
	const char *sql = arena_printf(b->a, "COPY %s FROM STDIN", b->relation[i]);
	int rc = build_query(b, sql, 0, NULL, &res, NULL);
	PQclear(res);
	if (rc != 0)
		return build_about(b, md);
	while (rc == 0 && (rc = csv_next(c, b->err)) == 1) {
		add_record(&out, c);
		rc = out.len > COPY_PIECE_BYTES ? put(b, &out) : 0;
	}
	if (rc == 0 && out.len > 0)
		rc = put(b, &out);
	buf_release(&out);
	return end_copy(b, md, rc, &b->state[i].rows);
}

int build_make_seed(struct build *b, size_t i)
{
	const struct model *md = &b->m->model[i];
	struct model_place at = {md->file, 1, 1};
	struct csv c;
	csv_init(&c, md->file, md->text);
	int rc = csv_next(&c, b->err);
	if (rc == 0)
		rc = model_fail(&at, b->err, "the file is empty: its first line names the columns");
	if (rc == 1 && (rc = check_header(b, md, &c)) == 0)
		rc = create_table(b, i, &c);
	if (rc == 0)
		rc = copy_records(b, i, &c);
	if (rc == 0)
		rc = build_do(b, "ANALYZE %s", b->relation[i]);
	csv_release(&c);
	return rc;
}
