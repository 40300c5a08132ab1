/*
 * build: one transaction from locks to COMMIT. Guarantees: what a run holds is
 * of one snapshot, whose position is its watermark; a run whose tests fail is
 * not there.
 */
#include "apply/reports/build_inner.h"

#include <inttypes.h>
#include <poll.h>

#include "proto/base/failpoint.h"
#include "proto/pg/pgconn.h"
#include "transforms/models/select.h"

/* How often a statement under way is looked at: may it go on? */
#define TICK_MS	  200
#define SECOND_US INT64_C(1000000)

void build_result_release(struct build_result *r)
{
	arena_release(&r->arena);
	*r = (struct build_result){0};
}

bool build_run_hex(const char *run_id, char ret[33])
{
	size_t n = 0;
	for (const char *c = run_id; *c != '\0'; c++) {
		if (*c == '-')
			continue;
		if (strchr("0123456789abcdefABCDEF", *c) == NULL || n == 32)
			return false;
		ret[n++] = *c >= 'A' && *c <= 'F' ? (char)(*c - 'A' + 'a') : *c;
	}
	ret[n] = '\0';
	return n == 32;
}

const char *build_relation(struct arena *a, const char *schema, const char *name)
{
	struct buf b = BUF_INIT;
	pgc_ident(&b, schema);
	buf_str(&b, ".");
	pgc_ident(&b, name);
	const char *text = arena_strdup(a, buf_cstr(&b));
	buf_release(&b);
	return text;
}

void build_array_add(struct buf *b, const char *text)
{
	if (b->len > 1)
		buf_str(b, ",");
	if (text == NULL) {
		buf_str(b, "NULL");
		return;
	}
	buf_str(b, "\"");
	for (; *text != '\0'; text++) {
		if (*text == '"' || *text == '\\')
			buf_str(b, "\\");
		buf_u8(b, (uint8_t)*text);
	}
	buf_str(b, "\"");
}

const char *build_array_end(struct buf *b)
{
	buf_str(b, "}");
	return buf_cstr(b);
}

/* ---- statements ---- */

static bool is_stopped(const struct build *b)
{
	return b->o->stopped != NULL && b->o->stopped(b->o->ctx);
}

static int out_of_time(struct build *b)
{
	return rt_fail(b->err, ERR_RETRY, "the build took longer than its limit of %" PRId64 " s",
		       (b->o->limit_us > 0 ? b->o->limit_us : b->o->s->models.time_limit) /
			       SECOND_US);
}

/* The server ends a statement that would go past the deadline. */
static int tell_timeout(struct build *b)
{
	int64_t now = rt_mono_us(), left = b->deadline_us - now;
	if (left <= 0)
		return out_of_time(b);
	if (b->timeout_set_us != 0 && now - b->timeout_set_us < SECOND_US)
		return 0;
	b->timeout_set_us = now;
	return pgc_exec(b->c, NULL, b->err, "SET LOCAL statement_timeout = %" PRId64,
			left / 1000 + 1);
}

/* The statement's result; asks between whiles whether it may go on. */
static int await(struct build *b, PGresult **ret)
{
	bool cancelled = false;
	while (PQisBusy(b->c)) {
		struct pollfd fd = {.fd = PQsocket(b->c), .events = POLLIN};
		if (poll(&fd, 1, TICK_MS) > 0 && PQconsumeInput(b->c) != 1)
			return pgc_fail(b->c, NULL, b->err, "building models");
		if (!cancelled && is_stopped(b)) {
			pgc_cancel(b->c);
			cancelled = true;
		}
	}
	PGresult *res = PQgetResult(b->c), *next;
	/* In a COPY there is no end of results: the caller feeds it. */
	while (res != NULL && PQresultStatus(res) != PGRES_COPY_IN &&
	       (next = PQgetResult(b->c)) != NULL) {
		PQclear(res);
		res = next;
	}
	if (res == NULL)
		return pgc_fail(b->c, NULL, b->err, "building models");
	*ret = res;
	return 0;
}

int build_query(struct build *b, const char *sql, int count, const char *const *params,
		PGresult **ret, PGresult **ret_failed)
{
	PGresult *res;
	if (is_stopped(b))
		return rt_fail(b->err, ERR_RETRY, "the build was stopped");
	int rc = tell_timeout(b);
	if (rc != 0)
		return rc;
	if (PQsendQueryParams(b->c, sql, count, NULL, params, NULL, NULL, 0) != 1)
		return pgc_fail(b->c, NULL, b->err, "building models");
	if ((rc = await(b, &res)) != 0)
		return rc;
	ExecStatusType st = PQresultStatus(res);
	if (st == PGRES_TUPLES_OK || st == PGRES_COMMAND_OK || st == PGRES_COPY_IN) {
		if (ret != NULL)
			*ret = res;
		else
			PQclear(res);
		return 0;
	}
	rc = pgc_fail(b->c, res, b->err, "building models");
	if (pgc_is_state(res, "57014") && rt_mono_us() >= b->deadline_us - SECOND_US)
		rc = out_of_time(b);
	if (ret_failed != NULL)
		*ret_failed = res;
	else
		PQclear(res);
	return rc;
}

int build_do(struct build *b, const char *fmt, ...)
{
	va_list ap;
	struct buf sql = BUF_INIT;
	va_start(ap, fmt);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	va_start(ap, fmt);
	vsnprintf((char *)buf_reserve(&sql, (size_t)n + 1), (size_t)n + 1, fmt, ap);
	va_end(ap);
	sql.len = (size_t)n;
	int rc = build_query(b, buf_cstr(&sql), 0, NULL, NULL, NULL);
	buf_release(&sql);
	return rc;
}

/* ---- what is to be made ---- */

/* Inputs, and what tests compare with, at any depth. */
static void close_selection(struct build *b, bool *set)
{
	bool grows = true;
	while (grows) {
		grows = false;
		models_close(b->m, set, true);
		for (size_t i = 0; i < b->m->model_count; i++)
			for (size_t k = 0; set[i] && k < b->m->model[i].test_count; k++) {
				const struct model_test *t = &b->m->model[i].test[k];
				if (t->kind == TEST_RELATIONSHIPS && !set[t->to_model])
					set[t->to_model] = grows = true;
			}
	}
}

static int choose(struct build *b)
{
	const struct models *m = b->m;
	bool *set = arena_zalloc(b->a, (m->model_count + 1) * sizeof(*set));
	int rc = models_select(m, b->o->selector, b->o->selector_count, b->o->report,
			       b->o->report_count, set, b->err);
	if (rc != 0)
		return rc;
	close_selection(b, set);
	for (size_t k = 0; k < m->model_count; k++) {
		size_t i = m->order[k];
		const struct model *md = &m->model[i];
		struct build_state *st = &b->state[i];
		st->in = set[i];
		st->rows = -1;
		st->live = !md->table && md->source_count > 0;
		for (size_t n = 0; !md->table && n < md->input_count; n++)
			st->live = st->live || b->state[md->input[n]].live;
	}
	return 0;
}

static void take_fingerprints(struct build *b)
{
	for (size_t k = 0; k < b->m->model_count; k++) {
		size_t i = b->m->order[k];
		if (b->state[i].in)
			b->fingerprint[i] = model_fingerprint(b->m, &b->m->model[i], b->fingerprint,
							      b->version, b->as_of, b->run_at);
	}
}

/* Which of them an earlier run made of the same. */
static int find_earlier(struct build *b)
{
	struct buf names = BUF_INIT, prints = BUF_INIT;
	PGresult *res = NULL;
	buf_str(&names, "{");
	buf_str(&prints, "{");
	for (size_t i = 0; i < b->m->model_count; i++) {
		if (!b->state[i].in)
			continue;
		build_array_add(&names, b->m->model[i].name);
		build_array_add(&prints, b->fingerprint[i].hex);
	}
	const char *params[] = {build_array_end(&names), build_array_end(&prints)};
	int rc = build_query(
		b,
		"SELECT DISTINCT ON (m.name) m.name, m.relation_schema, m.rows FROM rolag.model m "
		"JOIN unnest($1::text[], $2::text[]) AS w(name, fingerprint) USING (name, "
		"fingerprint) "
		"JOIN rolag.model_run r USING (run_id) WHERE m.relation_schema IS NULL OR EXISTS "
		"(SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = "
		"c.relnamespace WHERE n.nspname = m.relation_schema AND c.relname = m.name) "
		"ORDER BY m.name, r.built_at DESC",
		2, params, &res, NULL);
	buf_release(&names);
	buf_release(&prints);
	for (int row = 0; rc == 0 && row < PQntuples(res); row++) {
		struct model *md = models_find(b->m, PQgetvalue(res, row, 0));
		if (md == NULL)
			continue;
		struct build_state *st = &b->state[md - b->m->model];
		st->known = true;
		if (PQgetisnull(res, row, 1))
			continue;
		st->reused = true;
		st->schema = arena_strdup(b->a, PQgetvalue(res, row, 1));
		st->rows = md->table ? strtoll(PQgetvalue(res, row, 2), NULL, 10) : -1;
		b->relation[md - b->m->model] = build_relation(b->a, st->schema, md->name);
	}
	PQclear(res);
	return rc;
}

/* What is new is made, and every view that something to be made (or tested) reads. */
static void plan(struct build *b)
{
	const struct models *m = b->m;
	for (size_t k = m->model_count; k-- > 0;) {
		size_t i = m->order[k];
		struct build_state *st = &b->state[i];
		if (!st->in || st->reused)
			continue;
		if (!st->live || !st->known || st->tested)
			st->wanted = true;
		for (size_t n = 0; st->wanted && n < m->model[i].input_count; n++)
			b->state[m->model[i].input[n]].wanted =
				!b->state[m->model[i].input[n]].reused;
	}
}

void build_tell(struct build *b, size_t model)
{
	if (b->o->progress != NULL)
		b->o->progress(b->o->ctx, b->done, b->total, b->m->model[model].name);
	b->done++;
}

static void count_work(struct build *b)
{
	for (size_t i = 0; i < b->m->model_count; i++)
		b->total += b->state[i].wanted;
	for (size_t i = 0; i < b->r->test_count; i++)
		b->total += !b->r->test[i].reused;
}

static int make_all(struct build *b)
{
	int rc = 0;
	count_work(b);
	for (size_t k = 0; rc == 0 && k < b->m->model_count; k++) {
		size_t i = b->m->order[k];
		if (!b->state[i].wanted)
			continue;
		FAILPOINT_FD(BUILD_MODEL, PQsocket(b->c));
		build_tell(b, i);
		b->state[i].schema = b->r->schema;
		b->relation[i] = build_relation(b->a, b->r->schema, b->m->model[i].name);
		rc = b->m->model[i].layer == MODEL_SEED ? build_make_seed(b, i) : build_make(b, i);
	}
	return rc;
}

/* Views over sources end with the build: against the order, so that none is read any more. */
static int drop_live(struct build *b)
{
	int rc = 0;
	for (size_t k = b->m->model_count; rc == 0 && k-- > 0;) {
		struct build_state *st = &b->state[b->m->order[k]];
		if (!st->wanted || !st->live)
			continue;
		rc = build_do(b, "DROP VIEW %s", b->relation[b->m->order[k]]);
		st->schema = NULL;
	}
	for (size_t i = 0; rc == 0 && i < b->m->source_count; i++)
		if (b->source[i] != NULL && !b->source_there[i])
			rc = build_do(b, "DROP VIEW %s", b->source[i]);
	return rc;
}

/* ---- what is noted ---- */

static void fill_result(struct build *b)
{
	struct build_result *r = b->r;
	r->model = arena_zalloc(b->a, (b->m->model_count + 1) * sizeof(*r->model));
	for (size_t k = 0; k < b->m->model_count; k++) {
		size_t i = b->m->order[k];
		const struct build_state *st = &b->state[i];
		if (!st->in)
			continue;
		struct build_model *to = &r->model[r->model_count++];
		*to = (struct build_model){.name = arena_strdup(b->a, b->m->model[i].name),
					   .layer = b->m->model[i].layer,
					   .table = b->m->model[i].table,
					   .schema = st->live ? NULL : st->schema,
					   .reused = st->reused,
					   .rows = st->rows};
		memcpy(to->fingerprint, b->fingerprint[i].hex, sizeof(to->fingerprint));
	}
}

static int note_run(struct build *b)
{
	char lsn[32], at[32], days[16], run_at[32];
	snprintf(lsn, sizeof(lsn), LSN_FMT, LSN_ARGS(b->r->watermark));
	snprintf(at, sizeof(at), "%" PRId64, b->r->committed_at_us);
	snprintf(days, sizeof(days), "%" PRId32, b->o->as_of);
	snprintf(run_at, sizeof(run_at), "%" PRId64, b->o->run_at_us);
	const char *params[] = {b->run, b->o->s->pipeline,     b->r->schema, days, run_at, lsn,
				at,	b->o->kept ? "t" : "f"};
	int rc = build_query(
		b,
		"INSERT INTO rolag.model_run (run_id, pipeline, schema, as_of, run_at, watermark, "
		"committed_at, kept, backend_pid, backend_start) SELECT $1::uuid, $2, $3, date "
		"'1970-01-01' "
		"+ $4::int, timestamptz '1970-01-01 00:00:00+00' + $5::int8 * interval '1 "
		"microsecond', $6::pg_lsn, CASE WHEN $7::int8 <> 0 THEN timestamptz '1970-01-01 "
		"00:00:00+00' + $7::int8 * interval '1 microsecond' END, $8::bool, pid, "
		"backend_start FROM "
		"pg_catalog.pg_stat_activity WHERE pid = pg_backend_pid()",
		8, params, NULL, NULL);
	return rc == 0 ? build_do(b, "CREATE SCHEMA %s", b->r->schema) : rc;
}

static int note_models(struct build *b)
{
	enum { NAME, LAYER, KIND, PRINT, SCHEMA, REUSED, ROWS, COLUMNS };
	struct buf column[COLUMNS] = {BUF_INIT};
	const char *params[COLUMNS + 1] = {b->run};
	char rows[32];
	for (int i = 0; i < COLUMNS; i++)
		buf_str(&column[i], "{");
	for (size_t i = 0; i < b->r->model_count; i++) {
		const struct build_model *md = &b->r->model[i];
		snprintf(rows, sizeof(rows), "%" PRId64, md->rows);
		build_array_add(&column[NAME], md->name);
		build_array_add(&column[LAYER], model_layer_name(md->layer));
		build_array_add(&column[KIND], md->table ? "table" : "view");
		build_array_add(&column[PRINT], md->fingerprint);
		build_array_add(&column[SCHEMA], md->schema);
		build_array_add(&column[REUSED], md->reused ? "t" : "f");
		build_array_add(&column[ROWS], md->table ? rows : NULL);
	}
	for (int i = 0; i < COLUMNS; i++)
		params[i + 1] = build_array_end(&column[i]);
	int rc = build_query(
		b,
		"INSERT INTO rolag.model (run_id, name, layer, kind, fingerprint, "
		"relation_schema, reused, rows) SELECT $1::uuid, * FROM unnest($2::text[], "
		"$3::text[], $4::text[], $5::text[], $6::text[], $7::bool[], $8::int8[])",
		COLUMNS + 1, params, NULL, NULL);
	for (int i = 0; i < COLUMNS; i++)
		buf_release(&column[i]);
	return rc;
}

/* ---- the whole ---- */

static int prepare(struct build *b)
{
	const struct models *m = b->m;
	char hex[33];
	if (!build_run_hex(b->o->run_id, hex))
		return rt_fail(b->err, ERR_USAGE, "the run's id is no uuid");
	b->run = arena_strdup(b->a, hex);
	snprintf(b->r->schema, sizeof(b->r->schema), "rolag_run_%s", hex);
	b->state = arena_zalloc(b->a, (m->model_count + 1) * sizeof(*b->state));
	b->fingerprint = arena_zalloc(b->a, (m->model_count + 1) * sizeof(*b->fingerprint));
	b->relation = arena_zalloc(b->a, (m->model_count + 1) * sizeof(*b->relation));
	b->source = arena_zalloc(b->a, (m->source_count + 1) * sizeof(*b->source));
	b->version = arena_zalloc(b->a, (m->source_count + 1) * sizeof(*b->version));
	b->source_there = arena_zalloc(b->a, (m->source_count + 1) * sizeof(*b->source_there));
	b->as_of = render_as_of(b->a, b->o->as_of);
	b->run_at = render_run_at(b->a, b->o->run_at_us);
	b->deadline_us =
		rt_mono_us() + (b->o->limit_us > 0 ? b->o->limit_us : b->o->s->models.time_limit);
	return choose(b);
}

static int within_transaction(struct build *b)
{
	int rc = note_run(b);
	if (rc == 0)
		rc = build_look_at_sources(b);
	if (rc != 0)
		return rc;
	take_fingerprints(b);
	if (!b->o->anew)
		rc = find_earlier(b);
	if (rc == 0)
		rc = build_plan_tests(b);
	if (rc != 0)
		return rc;
	plan(b);
	if ((rc = make_all(b)) != 0)
		return rc;
	FAILPOINT_FD(BUILD_TESTS, PQsocket(b->c));
	rc = build_run_tests(b);
	if (rc == 0)
		rc = drop_live(b);
	if (rc != 0)
		return rc;
	fill_result(b);
	rc = note_models(b);
	if (rc == 0)
		rc = build_note_tests(b);
	return rc;
}

static int commit(struct build *b)
{
	FAILPOINT_FD(BUILD_COMMIT, PQsocket(b->c));
	int rc = pgc_exec(b->c, NULL, b->err, "COMMIT");
	FAILPOINT_FD(BUILD_COMMITTED, PQsocket(b->c));
	return rc;
}

/* A run that was built and not published is built anew: whoever asked has not heard of it. */
static int forget_earlier(struct build *b)
{
	PGresult *res;
	int rc = pgc_query(b->c, &res, b->err,
			   "SELECT u.run_id IS NOT NULL FROM rolag.model_run r LEFT JOIN "
			   "rolag.model_publication u USING (run_id) WHERE r.run_id = $1::uuid",
			   1, &b->run);
	if (rc != 0)
		return rc;
	bool there = PQntuples(res) > 0;
	bool published = there && strcmp(PQgetvalue(res, 0, 0), "t") == 0;
	PQclear(res);
	if (published)
		return rt_fail(b->err, ERR_PERMANENT, "run %s is published already", b->run);
	return there ? build_drop(b->c, b->run, b->err) : 0;
}

int build_run(PGconn *c, const struct build_options *o, struct build_result *ret,
	      struct rt_err *err)
{
	struct build b = {.c = c, .o = o, .m = o->project, .r = ret, .a = &ret->arena, .err = err};
	struct rt_err ignored; /* the first error is the one to tell */
	*ret = (struct build_result){0};
	arena_init(&ret->arena, 64 << 10);
	int rc = prepare(&b);
	if (rc == 0)
		rc = forget_earlier(&b);
	if (rc == 0)
		rc = build_find_sources(&b);
	if (rc != 0)
		return rc;
	rc = build_begin(&b);
	if (rc == 0)
		rc = within_transaction(&b);
	if (rc == 0 && !o->trial)
		rc = commit(&b);
	if ((rc != 0 || o->trial) && PQstatus(c) == CONNECTION_OK)
		(void)!pgc_exec(c, NULL, &ignored, "ROLLBACK");
	return rc;
}
