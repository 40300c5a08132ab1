/* build_tests: what must hold for the rows. Guarantees: every test of a run has a result over the run's rows. */
#include <inttypes.h>

#include "apply/reports/build_inner.h"
#include "proto/pg/pgconn.h"

/* Result i of the build belongs to this test. */
struct planned {
	size_t model;
	const struct model_test *test;
	struct model_fingerprint fingerprint;
};

static size_t count_tests(const struct build *b)
{
	size_t n = 0;
	for (size_t i = 0; i < b->m->model_count; i++)
		n += b->state[i].in ? b->m->model[i].test_count : 0;
	return n;
}

/* Visits the tests in the order in which they are in the result. */
static bool next_test(const struct build *b, size_t *k, size_t *at, struct planned *ret)
{
	for (; *k < b->m->model_count; (*k)++, *at = 0) {
		size_t i = b->m->order[*k];
		const struct model *md = &b->m->model[i];
		if (!b->state[i].in || *at == md->test_count)
			continue;
		ret->model = i;
		ret->test = &md->test[(*at)++];
		ret->fingerprint = model_test_fingerprint(b->m, md, ret->test, b->fingerprint);
		return true;
	}
	return false;
}

/* Outcomes that an earlier run found over the same rows: [fingerprint] → failures. */
static int find_outcomes(struct build *b, PGresult **ret)
{
	struct buf prints = BUF_INIT;
	struct planned p;
	size_t k = 0, at = 0;
	buf_str(&prints, "{");
	while (next_test(b, &k, &at, &p))
		build_array_add(&prints, p.fingerprint.hex);
	const char *params[] = {build_array_end(&prints)};
	int rc = build_query(
		b,
		"SELECT w.n, (SELECT t.failures FROM rolag.model_test t WHERE "
		"t.fingerprint = w.f LIMIT 1) FROM unnest($1::text[]) WITH ORDINALITY AS "
		"w(f, n) ORDER BY w.n",
		1, params, ret, NULL);
	buf_release(&prints);
	return rc;
}

int build_plan_tests(struct build *b)
{
	PGresult *res = NULL;
	struct planned p;
	size_t k = 0, at = 0;
	int rc = b->o->anew ? 0 : find_outcomes(b, &res);
	if (rc != 0)
		return rc;
	b->r->test = arena_zalloc(b->a, (count_tests(b) + 1) * sizeof(*b->r->test));
	while (next_test(b, &k, &at, &p)) {
		struct build_test *t = &b->r->test[b->r->test_count];
		int row = (int)b->r->test_count++;
		*t = (struct build_test){.model = arena_strdup(b->a, b->m->model[p.model].name),
					 .column = p.test->column != NULL
							   ? arena_strdup(b->a, p.test->column)
							   : NULL,
					 .name = model_test_name(p.test->kind),
					 .warns = p.test->warns};
		t->reused = res != NULL && row < PQntuples(res) && !PQgetisnull(res, row, 1);
		if (t->reused) {
			t->failures = strtoll(PQgetvalue(res, row, 1), NULL, 10);
			continue;
		}
		b->state[p.model].tested = true;
		if (p.test->kind == TEST_RELATIONSHIPS)
			b->state[p.test->to_model].tested = true;
	}
	PQclear(res);
	return 0;
}

/* ---- their SQL: each counts the rows that do not hold ---- */

static void add_columns(struct buf *sql, const struct model_test *t)
{
	for (size_t i = 0; i < t->value_count; i++) {
		buf_str(sql, i > 0 ? ", " : "");
		pgc_ident(sql, t->value[i]);
	}
	if (t->value_count == 0)
		pgc_ident(sql, t->column);
}

/* dbt's: values that are NULL are as many as they like, combinations are not. */
static void unique_sql(struct buf *sql, const struct model_test *t, const char *rows)
{
	buf_str(sql, "SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM ");
	buf_str(sql, rows);
	if (t->value_count == 0) {
		buf_str(sql, " WHERE ");
		pgc_ident(sql, t->column);
		buf_str(sql, " IS NOT NULL");
	}
	buf_str(sql, " GROUP BY ");
	add_columns(sql, t);
	buf_str(sql, " HAVING count(*) > 1) d");
}

static void accepted_sql(struct buf *sql, const struct model_test *t)
{
	pgc_ident(sql, t->column);
	buf_str(sql, " NOT IN (");
	for (size_t i = 0; i < t->value_count; i++) {
		buf_str(sql, i > 0 ? ", " : "");
		if (t->plain)
			buf_str(sql, t->value[i]);
		else
			pgc_literal(sql, t->value[i]);
	}
	buf_str(sql, ")");
}

static void relationships_sql(struct buf *sql, const struct model_test *t, const char *to)
{
	buf_str(sql, "r.");
	pgc_ident(sql, t->column);
	buf_printf(sql, " IS NOT NULL AND NOT EXISTS (SELECT FROM %s p WHERE p.", to);
	pgc_ident(sql, t->field);
	buf_str(sql, " = r.");
	pgc_ident(sql, t->column);
	buf_str(sql, ")");
}

/* What a row that does not hold is like. */
static void condition_sql(const char *const *relation, const struct model_test *t, struct buf *sql)
{
	switch (t->kind) {
	case TEST_NOT_NULL:
		pgc_ident(sql, t->column);
		buf_str(sql, " IS NULL");
		break;
	case TEST_ACCEPTED_VALUES:
		accepted_sql(sql, t);
		break;
	case TEST_RELATIONSHIPS:
		relationships_sql(sql, t, relation[t->to_model]);
		break;
	case TEST_EXPRESSION:
		buf_printf(sql, "NOT (%s)", t->expression);
		break;
	case TEST_UNIQUE:
		break;
	}
}

void build_test_sql(const struct model_test *t, const char *const *relation, size_t model,
		    struct arena *a, struct buf *sql)
{
	const char *rows = relation[model];
	if (t->where != NULL)
		rows = arena_printf(a, "(SELECT * FROM %s WHERE (%s)) r", rows, t->where);
	else
		rows = arena_printf(a, "%s r", rows);
	if (t->kind == TEST_UNIQUE) {
		unique_sql(sql, t, rows);
		return;
	}
	buf_printf(sql, "SELECT count(*) FROM %s WHERE ", rows);
	condition_sql(relation, t, sql);
}

/* ---- several of one model by one scan ---- */

#define TOGETHER_MAX 256 /* a SELECT has 1664 columns at most */

/* What looks at one row by itself, wherever it looks. */
static bool is_simple(const struct model_test *t)
{
	return t->where == NULL && (t->kind == TEST_NOT_NULL || t->kind == TEST_ACCEPTED_VALUES ||
				    t->kind == TEST_EXPRESSION);
}

struct together {
	size_t model, count;
	struct planned test[TOGETHER_MAX];
	struct build_test *result[TOGETHER_MAX];
};

/* Their results; an error is told of whichever it was, so by the caller. */
static int count_together(struct build *b, const struct together *g)
{
	struct buf sql = BUF_INIT;
	PGresult *res;
	buf_str(&sql, "SELECT ");
	for (size_t i = 0; i < g->count; i++) {
		buf_printf(&sql, "%scount(*) FILTER (WHERE ", i > 0 ? ", " : "");
		condition_sql(b->relation, g->test[i].test, &sql);
		buf_str(&sql, ")");
	}
	buf_printf(&sql, " FROM %s r", b->relation[g->model]);
	int rc = build_query(b, buf_cstr(&sql), 0, NULL, &res, NULL);
	buf_release(&sql);
	for (size_t i = 0; rc == 0 && i < g->count; i++)
		g->result[i]->failures = strtoll(PQgetvalue(res, 0, (int)i), NULL, 10);
	if (rc == 0)
		PQclear(res);
	return rc;
}

static int run_test(struct build *b, const struct planned *p, struct build_test *t)
{
	struct buf sql = BUF_INIT;
	PGresult *res;
	build_test_sql(p->test, b->relation, p->model, b->a, &sql);
	int rc = build_query(b, buf_cstr(&sql), 0, NULL, &res, NULL);
	buf_release(&sql);
	if (rc == 0) {
		t->failures = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
		PQclear(res);
		return 0;
	}
	enum rt_code code = b->err->code;
	char said[sizeof(b->err->msg)];
	snprintf(said, sizeof(said), "%s", b->err->msg);
	model_fail(&p->test->place, b->err, "test %s of model %s: %s", t->name, t->model, said);
	b->err->code = code;
	return (int)code;
}

/* One line for all that failed; the first with its place. */
static int fail_tests(struct build *b, const struct planned *first, size_t failed)
{
	struct buf what = BUF_INIT;
	size_t shown = 0;
	for (size_t i = 0; i < b->r->test_count; i++) {
		const struct build_test *t = &b->r->test[i];
		if (t->failures == 0 || t->warns)
			continue;
		if (what.len > 600)
			break;
		buf_printf(&what, "%s%s%s%s: %s (%" PRId64 " row%s)", shown++ > 0 ? ", " : "",
			   t->model, t->column != NULL ? "." : "",
			   t->column != NULL ? t->column : "", t->name, t->failures,
			   t->failures == 1 ? "" : "s");
	}
	if (shown < failed)
		buf_printf(&what, " and %zu more", failed - shown);
	int rc = model_fail(&first->test->place, b->err, "%zu test%s failed: %s", failed,
			    failed == 1 ? "" : "s", buf_cstr(&what));
	buf_release(&what);
	return rc;
}

/* All at once; one by one where that fails, so that the one which cannot be run is named. */
static int end_together(struct build *b, struct together *g)
{
	bool alone = g->count == 1;
	int rc = g->count > 1 ? count_together(b, g) : 0;
	if (rc == ERR_PERMANENT) {
		rc = build_do(b, "ROLLBACK TO SAVEPOINT tests");
		alone = true;
	}
	for (size_t i = 0; rc == 0 && alone && i < g->count; i++)
		rc = run_test(b, &g->test[i], g->result[i]);
	g->count = 0;
	return rc;
}

static int add_test(struct build *b, struct together *g, const struct planned *p,
		    struct build_test *t)
{
	int rc = 0;
	if (!is_simple(p->test))
		return run_test(b, p, t);
	if (g->count == TOGETHER_MAX || (g->count > 0 && g->model != p->model))
		rc = end_together(b, g);
	g->model = p->model;
	g->test[g->count] = *p;
	g->result[g->count++] = t;
	return rc;
}

static int run_all(struct build *b)
{
	struct together *g = arena_zalloc(b->a, sizeof(*g));
	struct planned p;
	size_t k = 0, at = 0, n = 0;
	int rc = build_do(b, "SAVEPOINT tests");
	while (rc == 0 && next_test(b, &k, &at, &p)) {
		struct build_test *t = &b->r->test[n++];
		if (t->reused)
			continue;
		build_tell(b, p.model);
		rc = add_test(b, g, &p, t);
	}
	return rc == 0 ? end_together(b, g) : rc;
}

int build_run_tests(struct build *b)
{
	struct planned p, first = {0};
	size_t k = 0, at = 0, failed = 0, n = 0;
	int rc = run_all(b);
	while (rc == 0 && next_test(b, &k, &at, &p)) {
		const struct build_test *t = &b->r->test[n++];
		if (t->failures > 0 && !t->warns && failed++ == 0)
			first = p;
	}
	return rc == 0 && failed > 0 ? fail_tests(b, &first, failed) : rc;
}

int build_note_tests(struct build *b)
{
	enum { MODEL, TEST, COLUMN, SEVERITY, PRINT, FAILURES, COLUMNS };
	struct buf column[COLUMNS] = {BUF_INIT};
	const char *params[COLUMNS + 1] = {b->run};
	struct planned p;
	size_t k = 0, at = 0, n = 0;
	char failures[32];
	for (int i = 0; i < COLUMNS; i++)
		buf_str(&column[i], "{");
	while (next_test(b, &k, &at, &p)) {
		const struct build_test *t = &b->r->test[n++];
		snprintf(failures, sizeof(failures), "%" PRId64, t->failures);
		build_array_add(&column[MODEL], t->model);
		build_array_add(&column[TEST], t->name);
		build_array_add(&column[COLUMN], t->column);
		build_array_add(&column[SEVERITY], t->warns ? "warn" : "error");
		build_array_add(&column[PRINT], p.fingerprint.hex);
		build_array_add(&column[FAILURES], failures);
	}
	for (int i = 0; i < COLUMNS; i++)
		params[i + 1] = build_array_end(&column[i]);
	int rc = build_query(
		b,
		"INSERT INTO rolag.model_test (run_id, model, test, column_name, severity, "
		"fingerprint, failures) SELECT $1::uuid, * FROM unnest($2::text[], "
		"$3::text[], $4::text[], $5::text[], $6::text[], $7::int8[])",
		COLUMNS + 1, params, NULL, NULL);
	for (int i = 0; i < COLUMNS; i++)
		buf_release(&column[i]);
	return rc;
}
