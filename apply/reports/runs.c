/* runs: statements on the control tables. Guarantees: a request is one row, whoever makes it. */
#include "apply/reports/runs.h"

#include "apply/sql/migrate.h"
#include "proto/base/fsio.h"
#include "proto/base/sha256.h"
#include "proto/base/yaml.h"
#include "proto/pg/pgconn.h"

#define TIME(column) "to_char(" column ", 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"

const char runs_session_sql[] =
	"SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; "
	"SET extra_float_digits = 1; SET bytea_output = 'hex'; SET search_path = pg_catalog; "
	"SET synchronous_commit = on; SET statement_timeout = 0";

int runs_connect(PGconn **ret, const struct settings *s, const char *name, struct loop *loop,
		 struct rt_err *err)
{
	struct pgc_options o = {.what = "warehouse",
				.conninfo = s->reports.connect,
				.application_name = name,
				.loop = loop,
				.by_loop = loop != NULL};
	PGconn *c = NULL;
	int rc = pgc_connect(&c, &o, err);
	if (rc != 0)
		return rc;
	rc = pgc_exec(c, NULL, err, "%s", runs_session_sql);
	if (rc == 0)
		rc = migrate_check(c, err);
	if (rc != 0)
		pgc_close(c);
	else
		*ret = c;
	return rc;
}

int runs_pack(const struct settings *s, struct arena *a, struct report_pack *ret,
	      const char **ret_hash, struct slice *ret_text, struct rt_err *err)
{
	char *text, hash[SHA256_HEX];
	size_t len;
	if (s->reports.definitions[0] == '\0')
		return rt_fail(err, ERR_PERMANENT,
			       "%s: no reports are configured; mend: reports.definitions", s->file);
	int rc = fs_read_file(s->reports.definitions, YAML_FILE_MAX_BYTES, &text, &len, err);
	if (rc != 0)
		return rc;
	rc = report_pack_parse(a, s->reports.definitions, slice_of(text, len), ret, err);
	sha256_hex(slice_of(text, len), hash);
	if (ret_hash != NULL)
		*ret_hash = arena_strdup(a, hash);
	if (ret_text != NULL)
		*ret_text = slice_str(arena_strndup(a, text, len));
	free(text);
	return rc;
}

/* ---- asking ---- */

/* Ids are letters, digits, _ and /: nothing to quote. */
static void add_array(struct buf *b, const char *const *item, size_t count)
{
	buf_u8(b, '{');
	for (size_t i = 0; i < count; i++) {
		buf_str(b, i > 0 ? "," : "");
		buf_str(b, item[i]);
	}
	buf_u8(b, '}');
}

void runs_ask_request(struct arena *a, const char *pipeline, const struct runs_request *q,
		      struct runs_ask *ret)
{
	struct buf reports = buf_in_arena(a, NULL, 0);
	add_array(&reports, q->report, q->report_count);
	/* The DO UPDATE changes nothing: it makes RETURNING give the row that was there. */
	*ret = (struct runs_ask){
		"WITH r AS (INSERT INTO rolag.report_run (pipeline, type, reports, as_of, "
		"requester, idempotency_key, schedule, due_at, allow_stale, accept_quarantine, "
		"idempotency_body) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON "
		"CONFLICT (pipeline, idempotency_key) DO UPDATE SET idempotency_key = "
		"excluded.idempotency_key RETURNING id, xmax = 0 AS fresh, idempotency_body IS NOT "
		"DISTINCT FROM $11::text AS same) SELECT id, fresh, same, "
		"pg_notify('" RUNS_CHANNEL "', $1) FROM r",
		11,
		{pipeline, q->type, buf_cstr(&reports), q->as_of, q->requester, q->idempotency_key,
		 q->schedule, q->due_at, q->allow_stale ? "t" : "f",
		 q->accept_quarantine ? "t" : "f", q->idempotency_body}};
}

void runs_take_request(const PGresult *res, struct runs_asked *ret)
{
	snprintf(ret->id, sizeof(ret->id), "%s", PQgetvalue(res, 0, 0));
	ret->fresh = PQgetvalue(res, 0, 1)[0] == 't';
	ret->same = PQgetvalue(res, 0, 2)[0] == 't';
}

int runs_request(PGconn *c, const char *pipeline, const struct runs_request *q,
		 char ret_id[RUNS_ID_SIZE], bool *ret_new, struct rt_err *err)
{
	struct arena a;
	struct runs_ask ask;
	struct runs_asked asked;
	PGresult *res;
	arena_init(&a, 4096);
	runs_ask_request(&a, pipeline, q, &ask);
	int rc = pgc_query(c, &res, err, ask.sql, ask.count, ask.param);
	if (rc == 0) {
		runs_take_request(res, &asked);
		snprintf(ret_id, RUNS_ID_SIZE, "%s", asked.id);
		*ret_new = asked.fresh;
		PQclear(res);
	}
	arena_release(&a);
	return rc;
}

/* ---- looking ---- */

/* In the order of take_run. A list leaves out what is large: what was built, and the manifest. */
#define COLUMNS_BEFORE                                                                             \
	"id, number, type, state, client_state, array_to_string(reports, ' '), as_of, requester, " \
	"schedule, " TIME(                                                                         \
		"due_at") ", allow_stale, accept_quarantine, kept, served_by, "                    \
			  "failures, " TIME("requested_at") ", " TIME("waiting_at") ", " TIME(     \
				  "bu"                                                             \
				  "il"                                                             \
				  "di"                                                             \
				  "ng"                                                             \
				  "_a"                                                             \
				  "t") ", " TIME("writing_at") ", " TIME("ended_at") ", "          \
										     "fence_lsn, " \
										     "stale, "     \
										     "watermark_"  \
										     "lsn, " TIME( \
											     "wat" \
											     "erm" \
											     "ark" \
											     "_a"  \
											     "t") ", pack, "
#define COLUMNS_ALL   COLUMNS_BEFORE "built, manifest, reason"
#define COLUMNS_BRIEF COLUMNS_BEFORE "NULL, NULL, reason"

static const char *text_at(struct arena *a, const PGresult *res, int row, int *column)
{
	int at = (*column)++;
	return PQgetisnull(res, row, at) ? NULL : arena_strdup(a, PQgetvalue(res, row, at));
}

static bool flag_at(const PGresult *res, int row, int *column)
{
	return PQgetvalue(res, row, (*column)++)[0] == 't';
}

/* Words between blanks. */
static void split(struct arena *a, const char *text, const char ***ret, size_t *ret_count)
{
	size_t n = 1;
	for (const char *p = text; *p != '\0'; p++)
		n += *p == ' ';
	const char **out = arena_alloc(a, n * sizeof(*out));
	n = 0;
	for (const char *p = text; *p != '\0'; p += strspn(p, " ")) {
		size_t len = strcspn(p, " ");
		out[n++] = arena_strndup(a, p, len);
		p += len;
	}
	*ret = out;
	*ret_count = n;
}

static void take_run(struct arena *a, const PGresult *res, int row, struct run *r)
{
	int at = 0;
	*r = (struct run){0};
	r->id = text_at(a, res, row, &at);
	r->number = strtoll(PQgetvalue(res, row, at++), NULL, 10);
	r->type = text_at(a, res, row, &at);
	r->state = text_at(a, res, row, &at);
	r->client_state = text_at(a, res, row, &at);
	split(a, PQgetvalue(res, row, at++), &r->report, &r->report_count);
	r->as_of = text_at(a, res, row, &at);
	r->requester = text_at(a, res, row, &at);
	r->schedule = text_at(a, res, row, &at);
	r->due_at = text_at(a, res, row, &at);
	r->allow_stale = flag_at(res, row, &at);
	r->accept_quarantine = flag_at(res, row, &at);
	r->kept = flag_at(res, row, &at);
	r->served_by = text_at(a, res, row, &at);
	r->failures = (int)strtol(PQgetvalue(res, row, at++), NULL, 10);
	r->requested_at = text_at(a, res, row, &at);
	r->waiting_at = text_at(a, res, row, &at);
	r->building_at = text_at(a, res, row, &at);
	r->writing_at = text_at(a, res, row, &at);
	r->ended_at = text_at(a, res, row, &at);
	r->fence_lsn = text_at(a, res, row, &at);
	r->stale = text_at(a, res, row, &at);
	r->watermark_lsn = text_at(a, res, row, &at);
	r->watermark_at = text_at(a, res, row, &at);
	r->pack = text_at(a, res, row, &at);
	r->built = text_at(a, res, row, &at);
	r->manifest = text_at(a, res, row, &at);
	r->reason = text_at(a, res, row, &at);
}

static bool is_id_text(const char *id)
{
	size_t n = strspn(id, "0123456789abcdef-");
	return n > 0 && n < RUNS_ID_SIZE && id[n] == '\0';
}

int runs_get(PGconn *c, struct arena *a, const char *pipeline, const char *id, struct run *ret,
	     struct rt_err *err)
{
	const char *params[] = {pipeline, id};
	PGresult *res;
	if (!is_id_text(id))
		return rt_fail(err, ERR_USAGE, "%.60s is not a run's id", id);
	int rc = pgc_query(c, &res, err,
			   "SELECT " COLUMNS_ALL " FROM rolag.report_run WHERE pipeline = $1 AND "
			   "starts_with(id::text, $2) LIMIT 2",
			   2, params);
	if (rc != 0)
		return rc;
	if (PQntuples(res) == 1)
		take_run(a, res, 0, ret);
	else
		rc = rt_fail(err, ERR_USAGE, "%s run has the id %s",
			     PQntuples(res) == 0 ? "no" : "more than one", id);
	PQclear(res);
	return rc;
}

#define LIST_SQL(columns)                                                                          \
	"SELECT " columns " FROM rolag.report_run WHERE pipeline = $1 AND ($2::text IS NULL OR "   \
	"state = $2) AND ($3::text IS NULL OR client_state = $3) AND ($4::text IS NULL OR $4 = "   \
	"ANY (reports)) AND ($5::int8 = 0 OR number < $5) AND ($7::text IS NULL OR type = $7) "    \
	"AND ($8::timestamptz IS NULL OR requested_at >= $8) AND ($9::timestamptz IS NULL OR "     \
	"requested_at < $9) AND ($10::uuid IS NULL OR id = $10) ORDER BY number DESC LIMIT "       \
	"$6::int"

void runs_ask_list(struct arena *a, const char *pipeline, const struct runs_filter *f,
		   struct runs_ask *ret)
{
	*ret = (struct runs_ask){f->whole ? LIST_SQL(COLUMNS_ALL) : LIST_SQL(COLUMNS_BRIEF),
				 10,
				 {pipeline, f->state, f->client_state, f->report,
				  arena_printf(a, "%lld", (long long)f->before),
				  arena_printf(a, "%d", f->limit), f->type, f->from, f->to, f->id}};
}

void runs_take_list(struct arena *a, const PGresult *res, struct run **ret, size_t *ret_count)
{
	size_t n = (size_t)PQntuples(res);
	struct run *out = arena_alloc(a, (n + 1) * sizeof(*out));
	for (size_t i = 0; i < n; i++)
		take_run(a, res, (int)i, &out[i]);
	*ret = out;
	*ret_count = n;
}

int runs_list(PGconn *c, struct arena *a, const char *pipeline, const struct runs_filter *f,
	      struct run **ret, size_t *ret_count, struct rt_err *err)
{
	struct runs_ask ask;
	PGresult *res;
	runs_ask_list(a, pipeline, f, &ask);
	int rc = pgc_query(c, &res, err, ask.sql, ask.count, ask.param);
	if (rc != 0)
		return rc;
	runs_take_list(a, res, ret, ret_count);
	PQclear(res);
	return 0;
}

bool runs_format(const char *name, enum report_format *ret)
{
	for (int f = 0; f < REPORT_FORMATS; f++) {
		if (strcmp(report_format_name((enum report_format)f), name) == 0) {
			*ret = (enum report_format)f;
			return true;
		}
	}
	return false;
}

void runs_ask_files(const struct run *r, struct runs_ask *ret)
{
	*ret = (struct runs_ask){
		"SELECT report, format, path, rows, bytes, sha256, omitted, invalid, xsd FROM "
		"rolag.report_file WHERE run_id = $1 ORDER BY report COLLATE \"C\", format COLLATE "
		"\"C\"",
		1,
		{r->served_by != NULL ? r->served_by : r->id}};
}

void runs_take_files(struct arena *a, const PGresult *res, struct run_file **ret, size_t *ret_count)
{
	size_t n = (size_t)PQntuples(res);
	struct run_file *out = arena_zalloc(a, (n + 1) * sizeof(*out));
	for (size_t i = 0; i < n; i++) {
		int at = 0, row = (int)i;
		out[i].report = text_at(a, res, row, &at);
		if (!runs_format(PQgetvalue(res, row, at++), &out[i].format))
			rt_bug(__FILE__, __LINE__, "a format that the table's check refuses");
		out[i].path = text_at(a, res, row, &at);
		out[i].rows = strtoll(PQgetvalue(res, row, at++), NULL, 10);
		out[i].bytes = strtoll(PQgetvalue(res, row, at++), NULL, 10);
		out[i].sha256 = text_at(a, res, row, &at);
		out[i].omitted = text_at(a, res, row, &at);
		out[i].invalid = text_at(a, res, row, &at);
		out[i].xsd = text_at(a, res, row, &at);
	}
	*ret = out;
	*ret_count = n;
}

int runs_files(PGconn *c, struct arena *a, const struct run *r, struct run_file **ret,
	       size_t *ret_count, struct rt_err *err)
{
	struct runs_ask ask;
	PGresult *res;
	runs_ask_files(r, &ask);
	int rc = pgc_query(c, &res, err, ask.sql, ask.count, ask.param);
	if (rc != 0)
		return rc;
	runs_take_files(a, res, ret, ret_count);
	PQclear(res);
	return 0;
}

bool runs_is_ended(const struct run *r)
{
	return strcmp(r->client_state, "success") == 0 || strcmp(r->client_state, "failed") == 0;
}
