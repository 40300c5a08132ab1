/*
 * making: the build of a run. Guarantees: what a build left is noted in the
 * transaction that moves the run on, so that its files can be written from it
 * by whoever comes next.
 */
#include "apply/reports/making.h"

#include <inttypes.h>

#include "apply/reports/build.h"
#include "apply/reports/command.h"
#include "apply/reports/exceptions.h"
#include "apply/reports/keep.h"
#include "apply/reports/queue.h"
#include "proto/base/failpoint.h"
#include "proto/pg/pgconn.h"

void making_schema(const char *run_id, char out[MAKING_SCHEMA_MAX])
{
	size_t n = (size_t)snprintf(out, MAKING_SCHEMA_MAX, MAKING_PREFIX);
	for (const char *p = run_id; *p != '\0' && n + 1 < MAKING_SCHEMA_MAX; p++)
		if (*p != '-')
			out[n++] = *p;
	out[n] = '\0';
}

/* ---- definitions ---- */

static int read_old_pack(struct making *m, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_query(m->c, &res, err, "SELECT text FROM rolag.report_pack WHERE hash = $1", 1,
			   &m->run.pack);
	if (rc != 0)
		return rc;
	if (PQntuples(res) != 1)
		rc = rt_fail(err, ERR_PERMANENT,
			     "the definitions that the run was built with are "
			     "not in rolag.report_pack");
	else
		m->pack_text = slice_str(arena_strdup(&m->arena, PQgetvalue(res, 0, 0)));
	PQclear(res);
	m->pack_hash = m->run.pack;
	if (rc == 0)
		rc = report_pack_parse(&m->arena, "rolag.report_pack", m->pack_text, &m->pack, err);
	return rc;
}

/* The built-in builder's project is what it is now; the run keeps what was built of it. */
static int read_project(struct making *m, struct rt_err *err)
{
	if (m->s->reports.build[0] != '\0')
		return 0;
	if (m->s->models.path[0] == '\0')
		return rt_fail(err, ERR_PERMANENT,
			       "%s: nothing builds the models of reports; mend: models.path or "
			       "reports.build",
			       m->s->file);
	return build_read_project(&m->arena, m->s->models.path, &m->project, err);
}

int making_read(struct making *m, struct rt_err *err)
{
	json_error_t where;
	int rc = read_project(m, err);
	if (rc != 0)
		return rc;
	if (m->run.built == NULL)
		return runs_pack(m->s, &m->arena, &m->pack, &m->pack_hash, &m->pack_text, err);
	m->built = json_loads(m->run.built, 0, &where);
	if (m->built == NULL)
		return rt_fail(err, ERR_PERMANENT, "rolag.report_run.built is no JSON (line %d)",
			       where.line);
	return read_old_pack(m, err);
}

void making_release(struct making *m)
{
	json_decref(m->built);
	pgc_close(m->c);
	arena_release(&m->arena);
}

int making_schema_of(const struct making *m, const struct report *r, const char **ret,
		     struct rt_err *err)
{
	const json_t *relations = json_object_get(m->built, "relations");
	*ret = r->model == NULL ? "" : json_string_value(json_object_get(relations, r->model));
	if (*ret == NULL)
		return rt_fail(err, ERR_PERMANENT, "report %s: the build made no model %s", r->id,
			       r->model);
	return 0;
}

int making_is_there(struct making *m, bool *ret, struct rt_err *err)
{
	const char *model;
	json_t *schema;
	*ret = true;
	json_object_foreach(json_object_get(m->built, "relations"), model, schema)
	{
		const char *params[] = {json_string_value(schema), model};
		PGresult *res;
		int rc = pgc_query(m->c, &res, err,
				   "SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = "
				   "c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
				   2, params);
		if (rc != 0)
			return rc;
		*ret &= PQntuples(res) > 0;
		PQclear(res);
	}
	return 0;
}

static int take_back(struct making *m, struct rt_err *err)
{
	int rc = queue_hold(m->c, m->run.id, m->epoch, "writing", err);
	if (rc == 0)
		rc = queue_move(m->c, m->run.id, "building", err);
	return rc == 0 ? pgc_query(
				 m->c, NULL, err,
				 "UPDATE rolag.report_run SET built = NULL, watermark_lsn = NULL, "
				 "watermark_at = NULL WHERE id = $1 OR served_by = $1",
				 1, &m->run.id)
		       : rc;
}

int making_again(struct making *m, struct rt_err *err)
{
	struct rt_err ignored;
	int rc = pgc_exec(m->c, NULL, err, "BEGIN");
	if (rc == 0)
		rc = take_back(m, err);
	if (rc == 0)
		return pgc_exec(m->c, NULL, err, "COMMIT");
	(void)!pgc_exec(m->c, NULL, &ignored, "ROLLBACK");
	return rc;
}

/* Names of the models that the run's reports are written from, each once, as words. */
static void model_names(const struct making *m, json_t *list)
{
	for (size_t i = 0; i < m->run.report_count; i++) {
		const struct report *r = report_find(&m->pack, m->run.report[i]);
		size_t k = 0;
		if (r->model == NULL)
			continue;
		while (k < json_array_size(list) &&
		       strcmp(json_string_value(json_array_get(list, k)), r->model) != 0)
			k++;
		if (k == json_array_size(list))
			json_array_append_new(list, json_string(r->model));
	}
}

/* The definitions may have changed since the run was asked for. */
static int check_reports(struct making *m, struct rt_err *err)
{
	const char **ids, *as_of;
	size_t count;
	int rc = report_select(&m->pack, &m->arena, m->run.report, m->run.report_count,
			       m->run.as_of, NULL, &ids, &count, &as_of, err);
	return rc == ERR_USAGE ? rt_fail(err, ERR_PERMANENT, "%s", err->msg) : rc;
}

/* ---- the build command ---- */

/* Where the warehouse is, into built; exceptions are appended to those that are there. */
static int look(struct making *m, const json_t *sources, bool position, struct rt_err *err)
{
	PGresult *res;
	int blocks;
	json_t *list = json_array(), *one;
	size_t i;
	int rc = exceptions_read(m->c, m->s->pipeline, sources, list, &blocks, err);
	if (rc == 0 && blocks > 0 && m->s->reports.on_quarantine == FLAW_FAIL &&
	    !m->run.accept_quarantine)
		rc = exceptions_fail(list, err);
	json_t *all = json_object_get(m->built, "exceptions");
	json_array_foreach(list, i, one)
	{
		size_t k = 0;
		while (k < json_array_size(all) && !json_equal(json_array_get(all, k), one))
			k++;
		if (k == json_array_size(all))
			json_array_append(all, one);
	}
	json_decref(list);
	if (rc != 0 || !position)
		return rc;
	rc = pgc_query(m->c, &res, err,
		       "SELECT applied_lsn, (SELECT max(committed_at) FROM rolag.ledger WHERE "
		       "pipeline = $1) FROM rolag.ledger WHERE pipeline = $1 ORDER BY applied_lsn "
		       "DESC LIMIT 1",
		       1, &m->s->pipeline);
	if (rc != 0)
		return rc;
	if (PQntuples(res) == 0)
		rc = rt_fail(
			err, ERR_PERMANENT,
			"the warehouse has no ledger row for the pipeline %s; mend: rolag init",
			m->s->pipeline);
	else {
		json_object_set_new(m->built, "watermark_lsn", json_string(PQgetvalue(res, 0, 0)));
		if (!PQgetisnull(res, 0, 1))
			json_object_set_new(m->built, "watermark_at",
					    json_string(PQgetvalue(res, 0, 1)));
	}
	PQclear(res);
	return rc;
}

static int make_schema(struct making *m, const char *schema, struct rt_err *err)
{
	int rc = keep_drop_run(m->c, m->run.id, err);
	return rc == 0 ? pgc_exec(m->c, NULL, err, "CREATE SCHEMA %s", schema) : rc;
}

static int run_command(struct making *m, const char *schema, const json_t *models,
		       struct rt_err *err)
{
	struct arena *a = &m->arena;
	struct buf names = BUF_INIT;
	for (size_t i = 0; i < json_array_size(models); i++)
		buf_printf(&names, "%s%s", i > 0 ? " " : "",
			   json_string_value(json_array_get(models, i)));
	const char *environment[] = {
		arena_printf(a, "ROLAG_RUN_ID=%s", m->run.id),
		arena_printf(a, "ROLAG_SCHEMA=%s", schema),
		arena_printf(a, "ROLAG_WATERMARK=%s",
			     json_string_value(json_object_get(m->built, "watermark_lsn"))),
		arena_printf(a, "ROLAG_AS_OF=%s", m->run.as_of != NULL ? m->run.as_of : ""),
		arena_printf(a, "ROLAG_RUN_AT=%s", m->run.requested_at),
		arena_printf(a, "ROLAG_MODELS=%s", buf_cstr(&names)),
		NULL};
	const struct command c = {.shell = m->s->reports.build,
				  .environment = environment,
				  .log = arena_printf(a, "%s/reports.build.log", m->s->state_dir),
				  .limit_us = m->s->reports.build_limit};
	buf_release(&names);
	return command_run(&c, err);
}

static int build_by_command(struct making *m, const json_t *models, struct rt_err *err)
{
	char schema[MAKING_SCHEMA_MAX];
	json_t *relations = json_object_get(m->built, "relations");
	making_schema(m->run.id, schema);
	json_object_set_new(m->built, "builder", json_string("command"));
	json_object_set_new(m->built, "schema", json_string(schema));
	int rc = make_schema(m, schema, err);
	FAILPOINT_FD(REPORTS_BEFORE_COMMAND, PQsocket(m->c));
	if (rc == 0)
		rc = run_command(m, schema, models, err);
	for (size_t i = 0; i < json_array_size(models); i++)
		json_object_set_new(relations, json_string_value(json_array_get(models, i)),
				    json_string(schema));
	return rc;
}

/* ---- the build, whoever does it ---- */

static int build(struct making *m, const json_t *models, struct rt_err *err)
{
	json_t *sources = json_array();
	const bool command = m->s->reports.build[0] != '\0';
	int rc = command ? 0 : making_models_sources(m->project, models, sources, err);
	/* Looked at twice: an entity may be parked, or come back, while it is built. */
	if (rc == 0)
		rc = look(m, command ? NULL : sources, true, err);
	if (rc == 0 && command)
		rc = build_by_command(m, models, err);
	else if (rc == 0 && json_array_size(models) > 0)
		rc = making_models_build(m, m->project, models, err);
	if (rc == 0)
		rc = look(m, command ? NULL : sources, false, err);
	json_decref(sources);
	return rc;
}

static int note_built(struct making *m, const char *built, struct rt_err *err)
{
	const char *pack[] = {m->pack_hash, (const char *)m->pack_text.p};
	const char *params[] = {m->run.id, built,
				json_string_value(json_object_get(m->built, "watermark_lsn")),
				json_string_value(json_object_get(m->built, "watermark_at")),
				m->pack_hash};
	int rc = queue_hold(m->c, m->run.id, m->epoch, "building", err);
	if (rc == 0)
		rc = pgc_query(m->c, NULL, err,
			       "INSERT INTO rolag.report_pack (hash, text) VALUES ($1, $2) ON "
			       "CONFLICT (hash) DO NOTHING",
			       2, pack);
	if (rc == 0)
		rc = pgc_query(m->c, NULL, err,
			       "UPDATE rolag.report_run SET built = $2, watermark_lsn = $3, "
			       "watermark_at = $4, pack = $5, reason = NULL WHERE id = $1 OR "
			       "(served_by = $1 AND state = 'building')",
			       5, params);
	if (rc == 0)
		rc = queue_move(m->c, m->run.id, "writing", err);
	FAILPOINT_FD(REPORTS_BEFORE_WRITING, PQsocket(m->c));
	return rc;
}

int making_build(struct making *m, struct rt_err *err)
{
	struct rt_err ignored;
	json_t *models = json_array();
	int rc = check_reports(m, err);
	if (rc == 0)
		model_names(m, models);
	json_decref(m->built);
	m->built = json_pack("{s:s, s:{}, s:[]}", "builder", "models", "relations", "exceptions");
	if (rc == 0)
		rc = build(m, models, err);
	json_decref(models);
	if (rc == 0)
		rc = pgc_exec(m->c, NULL, err, "BEGIN");
	if (rc != 0)
		return rc;
	/* What else the files' bytes depend on, should the configuration change. */
	json_object_set_new(m->built, "guard_formulas", json_boolean(m->s->reports.guard_formulas));
	json_object_set_new(m->built, "flag_invalid",
			    json_boolean(m->s->reports.on_invalid == FLAW_FLAG));
	char *text = json_dumps(m->built, JSON_SORT_KEYS);
	rc = note_built(m, text, err);
	free(text);
	if (rc == 0)
		return pgc_exec(m->c, NULL, err, "COMMIT");
	(void)!pgc_exec(m->c, NULL, &ignored, "ROLLBACK");
	return rc;
}
