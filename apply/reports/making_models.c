/* making_models: a run's models by the built-in builder, and what it says of them, as JSON. */
#include <inttypes.h>

#include "apply/reports/build.h"
#include "apply/reports/making.h"
#include "proto/pg/pgconn.h"

/* ---- what the run reads ---- */

#define LATEST "_latest"

/* A landed table of a rollup is under the rollup's name in the control tables. */
static void add_source(json_t *list, const struct model_source *s)
{
	size_t len = strlen(s->identifier), cut = strlen(LATEST);
	json_array_append_new(list, json_string(s->identifier));
	if (len > cut && strcmp(s->identifier + len - cut, LATEST) == 0)
		json_array_append_new(list, json_stringn(s->identifier, len - cut));
}

static void visit(const struct models *m, size_t at, bool *seen, json_t *list)
{
	const struct model *one = &m->model[at];
	if (seen[at])
		return;
	seen[at] = true;
	for (size_t i = 0; i < one->source_count; i++)
		if (m->source[one->source[i]].landed)
			add_source(list, &m->source[one->source[i]]);
	for (size_t i = 0; i < one->input_count; i++)
		visit(m, one->input[i], seen, list);
}

int making_models_sources(const struct models *project, const json_t *names, json_t *list,
			  struct rt_err *err)
{
	bool *seen = rt_calloc(project->model_count + 1, sizeof(*seen));
	size_t i;
	const json_t *one;
	int rc = 0;
	json_array_foreach(names, i, one)
	{
		const struct model *found = models_find(project, json_string_value(one));
		if (found == NULL) {
			rc = rt_fail(err, ERR_PERMANENT,
				     "%s has no model %s, which a report is written from",
				     project->name, json_string_value(one));
			break;
		}
		visit(project, (size_t)(found - project->model), seen, list);
	}
	free(seen);
	return rc;
}

/* ---- what the build said ---- */

static void describe_models(json_t *built, const struct build_result *r)
{
	json_t *list = json_array(), *relations = json_object_get(built, "relations");
	for (size_t i = 0; i < r->model_count; i++) {
		const struct build_model *b = &r->model[i];
		json_t *o = json_pack("{s:s, s:s, s:s, s:b}", "name", b->name, "layer",
				      model_layer_name(b->layer), "fingerprint", b->fingerprint,
				      "reused", b->reused);
		if (b->table)
			json_object_set_new(o, "rows", json_integer(b->rows));
		json_array_append_new(list, o);
		if (b->schema != NULL)
			json_object_set_new(relations, b->name, json_string(b->schema));
	}
	json_object_set_new(built, "models", list);
}

static void describe_tests(json_t *built, const struct build_result *r)
{
	json_t *list = json_array();
	for (size_t i = 0; i < r->test_count; i++) {
		const struct build_test *t = &r->test[i];
		json_t *o = json_pack("{s:s, s:s, s:I, s:s, s:b}", "model", t->model, "test",
				      t->name, "failures", (json_int_t)t->failures, "severity",
				      t->warns ? "warn" : "error", "reused", t->reused);
		if (t->column != NULL)
			json_object_set_new(o, "column", json_string(t->column));
		json_array_append_new(list, o);
	}
	json_object_set_new(built, "tests", list);
}

static void describe_sources(json_t *built, const struct build_result *r)
{
	static const char *const states[] = {[SOURCE_FRESH] = "fresh",
					     [SOURCE_STALE_WARN] = "stale (warn)",
					     [SOURCE_STALE_ERROR] = "stale",
					     [SOURCE_EMPTY] = "empty",
					     [SOURCE_ABSENT] = "absent"};
	json_t *list = json_array();
	for (size_t i = 0; i < r->source_count; i++) {
		const struct build_source *s = &r->source[i];
		json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:I}", "source", s->source,
						      "table", s->table, "state", states[s->state],
						      "loaded_at_us", (json_int_t)s->loaded_at_us));
	}
	json_object_set_new(built, "sources", list);
}

static void describe(struct making *m, const struct build_result *r)
{
	char lsn[32];
	json_object_set_new(m->built, "schema", json_string(r->schema));
	describe_models(m->built, r);
	describe_tests(m->built, r);
	describe_sources(m->built, r);
	snprintf(lsn, sizeof(lsn), LSN_FMT, LSN_ARGS(r->watermark));
	json_object_set_new(m->built, "watermark_lsn", json_string(lsn));
	if (r->committed_at_us == 0)
		return;
	time_t s = (time_t)(r->committed_at_us / 1000000);
	struct tm t;
	gmtime_r(&s, &t);
	json_object_set_new(
		m->built, "watermark_at",
		json_string(arena_printf(&m->arena, "%04d-%02d-%02d %02d:%02d:%02d.%06d+00",
					 t.tm_year + 1900, t.tm_mon + 1, t.tm_mday, t.tm_hour,
					 t.tm_min, t.tm_sec, (int)(r->committed_at_us % 1000000))));
}

/* The day that models see, and the moment, both of the request: the same run gives the same rows. */
static int read_times(struct making *m, int32_t *ret_as_of, int64_t *ret_run_at, struct rt_err *err)
{
	const char *params[] = {m->run.id, m->s->reports.time_zone};
	PGresult *res;
	int rc = pgc_query(m->c, &res, err,
			   "SELECT coalesce(as_of, (requested_at AT TIME ZONE $2)::date - 1) - "
			   "'1970-01-01'::date, (extract(epoch FROM requested_at) * 1000000)::int8 "
			   "FROM rolag.report_run WHERE id = $1",
			   2, params);
	if (rc != 0)
		return rc;
	*ret_as_of = (int32_t)strtol(PQgetvalue(res, 0, 0), NULL, 10);
	*ret_run_at = strtoll(PQgetvalue(res, 0, 1), NULL, 10);
	PQclear(res);
	return 0;
}

int making_models_build(struct making *m, const struct models *project, const json_t *names,
			struct rt_err *err)
{
	struct build_result r = {0};
	size_t i;
	const json_t *one;
	const char **selector =
		arena_alloc(&m->arena, (json_array_size(names) + 1) * sizeof(*selector));
	json_array_foreach(names, i, one) selector[i] = json_string_value(one);
	struct build_options o = {.s = m->s,
				  .project = project,
				  .selector = selector,
				  .selector_count = json_array_size(names),
				  .run_id = m->run.id,
				  .kept = true};
	int rc = read_times(m, &o.as_of, &o.run_at_us, err);
	if (rc == 0)
		rc = build_drop(m->c, m->run.id, err); /* of an attempt before this one */
	if (rc == 0)
		rc = build_run(m->c, &o, &r, err);
	if (rc == 0)
		describe(m, &r);
	build_result_release(&r);
	return rc;
}
