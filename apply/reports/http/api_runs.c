/* api_runs: asking for a run, and looking at runs. Guarantees: 202 is said when the request's row is committed. */
#include <inttypes.h>

#include "apply/reports/http/inner.h"
#include "apply/reports/http/query.h"
#include "apply/reports/run_json.h"
#include "proto/base/failpoint.h"
#include "transforms/report/cron.h"

#define RUNS_PATH "/api/v1/report-runs/"

static json_t *run_object(const struct run *r)
{
	json_t *o = run_json(r);
	json_t *self = json_sprintf(RUNS_PATH "%s", r->id);
	json_object_set_new(o, "url", self);
	return o;
}

/* ---- POST ---- */

static void on_asked(struct request *r, const PGresult *res)
{
	struct runs_asked asked;
	char path[sizeof(RUNS_PATH) + RUNS_ID_SIZE];
	runs_take_request(res, &asked);
	FAILPOINT(HTTP_ASKED);
	if (!asked.fresh && !asked.same) {
		reply_problem(r, 422, "idempotency-key",
			      "This Idempotency-Key came with another body before (run %s).",
			      asked.id);
		return;
	}
	log_info("asked for reports over HTTP", "run=%s token=%s again=%s", asked.id, r->who,
		 asked.fresh ? "no" : "yes");
	snprintf(path, sizeof(path), RUNS_PATH "%s", asked.id);
	reply_json(r, 202, json_pack("{s:s, s:s}", "id", asked.id, "url", path));
	reply_header(r, MHD_HTTP_HEADER_LOCATION, path);
}

/* Its key: that of two tokens is not the same. False when it was refused. */
static bool take_key(struct request *r, const struct body *b, struct runs_request *q)
{
	char hash[SHA256_HEX];
	const char *key = request_header(r, "Idempotency-Key");
	if (key == NULL)
		return true;
	if (!body_is_key(key)) {
		reply_problem(r, 400, "idempotency-key",
			      "An Idempotency-Key is 1 to %d printable characters of ASCII.",
			      BODY_KEY_MAX);
		return false;
	}
	body_fingerprint(b, hash);
	q->idempotency_key = arena_printf(&r->arena, "http %s %s", r->who, key);
	q->idempotency_body = arena_strdup(&r->arena, hash);
	return true;
}

void api_ask(struct request *r)
{
	struct body b;
	struct runs_ask ask;
	struct rt_err err;
	char yesterday[11];
	if (body_parse(buf_slice(&r->body), &r->arena, &b, &err) != 0) {
		reply_problem(r, 400, "body", "%s", err.msg);
		return;
	}
	struct runs_request q = {.type = "manual",
				 .requester = arena_printf(&r->arena, "token %s", r->who),
				 .allow_stale = b.allow_stale,
				 .accept_quarantine = b.accept_quarantine};
	cron_yesterday(r->h->o.zone, rt_now_us() / 1000000, yesterday);
	if (report_select(r->h->o.pack, &r->arena, b.report, b.report_count, b.as_of,
			  b.report_count == 0 ? arena_strdup(&r->arena, yesterday) : NULL,
			  &q.report, &q.report_count, &q.as_of, &err) != 0) {
		reply_problem(r, 422, "reports", "%s", err.msg);
		return;
	}
	if (!take_key(r, &b, &q))
		return;
	runs_ask_request(&r->arena, r->h->o.s->pipeline, &q, &ask);
	request_ask(r, &ask, on_asked);
}

/* ---- GET: many ---- */

struct listing {
	struct request *r;
	struct runs_filter f;
	int rc;
	struct rt_err err;
};

static enum MHD_Result take_argument(void *ctx, enum MHD_ValueKind kind, const char *key,
				     size_t key_len, const char *value, size_t value_len)
{
	struct listing *l = ctx;
	(void)kind;
	l->rc = query_take(&l->f, &l->r->arena, slice_of(key, key_len),
			   slice_of(value != NULL ? value : "", value_len), &l->err);
	return l->rc == 0 ? MHD_YES : MHD_NO;
}

static int read_filter(struct request *r, struct listing *l)
{
	*l = (struct listing){.r = r};
	(void)MHD_get_connection_values_n(r->c, MHD_GET_ARGUMENT_KIND, take_argument, l);
	if (l->f.limit == 0)
		l->f.limit = QUERY_LIMIT;
	return l->rc;
}

static void on_list(struct request *r, const PGresult *res)
{
	struct listing l;
	struct run *run;
	size_t count;
	json_t *list = json_array(), *next = json_null();
	RT_ASSERT(read_filter(r, &l) == 0); /* as it was when it was asked */
	runs_take_list(&r->arena, res, &run, &count);
	const size_t shown = RT_MIN(count, (size_t)l.f.limit);
	for (size_t i = 0; i < shown; i++)
		json_array_append_new(list, run_object(&run[i]));
	if (count > shown && shown > 0) {
		json_decref(next);
		next = json_sprintf("/api/v1/report-runs?%s",
				    query_next(&l.f, run[shown - 1].number, &r->arena));
	}
	reply_json(r, 200, json_pack("{s:o, s:o}", "runs", list, "next", next));
}

void api_runs(struct request *r)
{
	struct listing l;
	struct runs_ask ask;
	if (read_filter(r, &l) != 0) {
		reply_problem(r, 400, "query", "%s", l.err.msg);
		return;
	}
	l.f.limit++; /* one more tells that there are more */
	runs_ask_list(&r->arena, r->h->o.s->pipeline, &l.f, &ask);
	request_ask(r, &ask, on_list);
}

/* ---- GET: one ---- */

static void on_run(struct request *r, const PGresult *res)
{
	struct run *run;
	size_t count;
	runs_take_list(&r->arena, res, &run, &count);
	if (count == 0) {
		reply_problem(r, 404, "run", "There is no run %s.", r->m.arg[0]);
		return;
	}
	r->run = run[0];
	r->after_run(r);
}

void api_with_run(struct request *r, bool whole, void (*then)(struct request *r))
{
	const struct runs_filter f = {.id = r->m.arg[0], .limit = 1, .whole = whole};
	struct runs_ask ask;
	if (!query_is_id(f.id)) {
		reply_problem(r, 404, "run", "A run's id is a uuid in lower case.");
		return;
	}
	r->after_run = then;
	runs_ask_list(&r->arena, r->h->o.s->pipeline, &f, &ask);
	request_ask(r, &ask, on_run);
}

static void on_run_files(struct request *r, const PGresult *res)
{
	struct run_file *file;
	size_t count;
	json_t *list = json_array(), *o = run_object(&r->run);
	runs_take_files(&r->arena, res, &file, &count);
	for (size_t i = 0; i < count; i++)
		json_array_append_new(list, api_file_object(r, &file[i]));
	json_object_set_new(o, "files", list);
	reply_json(r, 200, o);
}

static void show_run(struct request *r)
{
	struct runs_ask ask;
	runs_ask_files(&r->run, &ask);
	request_ask(r, &ask, on_run_files);
}

void api_run(struct request *r)
{
	api_with_run(r, false, show_run);
}
