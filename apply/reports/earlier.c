/* earlier: links to published files. Guarantees: a link is made only to the bytes whose checksum was published. */
#include "apply/reports/earlier.h"

#include <unistd.h>

#include "apply/reports/build_inner.h"
#include "apply/reports/target.h"
#include "proto/base/sha256.h"
#include "proto/pg/pgconn.h"

static const char find_sql[] =
	"SELECT DISTINCT ON (f.report, f.format) f.report, f.format, f.path, f.rows, f.bytes, "
	"f.sha256, f.omitted, f.invalid, f.xsd, r.id FROM rolag.report_run r JOIN "
	"rolag.report_file "
	"f ON f.run_id = r.id JOIN unnest($1::text[], $2::text[], $3::text[]) AS w(report, model, "
	"schema) ON w.report = f.report AND r.built -> 'relations' ->> w.model = w.schema WHERE "
	"r.pipeline = $4 AND r.state = 'published' AND r.kept AND r.id <> $5::uuid AND r.pack = $6 "
	"AND r.built -> 'guard_formulas' = $7::jsonb AND r.built -> 'flag_invalid' = $8::jsonb "
	"ORDER BY f.report, f.format, r.number DESC";

static const char *text(struct making *m, const PGresult *res, int row, int column)
{
	return PQgetisnull(res, row, column)
		       ? NULL
		       : arena_strdup(&m->arena, PQgetvalue(res, row, column));
}

static void take(struct making *m, const PGresult *res, struct earlier *e)
{
	size_t count = (size_t)PQntuples(res);
	e->file = arena_zalloc(&m->arena, (count + 1) * sizeof(*e->file));
	e->run = arena_zalloc(&m->arena, (count + 1) * sizeof(*e->run));
	for (int row = 0; row < PQntuples(res); row++) {
		struct run_file *f = &e->file[e->count];
		if (!runs_format(PQgetvalue(res, row, 1), &f->format))
			continue;
		f->report = text(m, res, row, 0);
		f->path = text(m, res, row, 2);
		f->rows = strtoll(PQgetvalue(res, row, 3), NULL, 10);
		f->bytes = strtoll(PQgetvalue(res, row, 4), NULL, 10);
		f->sha256 = text(m, res, row, 5);
		f->omitted = text(m, res, row, 6);
		f->invalid = text(m, res, row, 7);
		f->xsd = text(m, res, row, 8);
		e->run[e->count++] = text(m, res, row, 9);
	}
}

/* A report for which the build has no relation is the writer's to complain about. */
static void add_wanted(const struct making *m, struct buf *list)
{
	const json_t *relations = json_object_get(m->built, "relations");
	for (size_t i = 0; i < m->run.report_count; i++) {
		const struct report *r = report_find(&m->pack, m->run.report[i]);
		const char *schema =
			r == NULL || r->model == NULL
				? NULL
				: json_string_value(json_object_get(relations, r->model));
		if (schema == NULL)
			continue;
		build_array_add(&list[0], r->id);
		build_array_add(&list[1], r->model);
		build_array_add(&list[2], schema);
	}
}

int earlier_find(struct making *m, struct earlier *ret, struct rt_err *err)
{
	struct buf list[3] = {BUF_INIT};
	PGresult *res;
	*ret = (struct earlier){0};
	for (int i = 0; i < 3; i++)
		buf_str(&list[i], "{");
	add_wanted(m, list);
	const char *params[] = {
		build_array_end(&list[0]),
		build_array_end(&list[1]),
		build_array_end(&list[2]),
		m->s->pipeline,
		m->run.id,
		m->pack_hash,
		json_is_true(json_object_get(m->built, "guard_formulas")) ? "true" : "false",
		json_is_true(json_object_get(m->built, "flag_invalid")) ? "true" : "false"};
	int rc = pgc_query(m->c, &res, err, find_sql, (int)ARRAY_LEN(params), params);
	for (int i = 0; i < 3; i++)
		buf_release(&list[i]);
	if (rc != 0)
		return rc;
	take(m, res, ret);
	PQclear(res);
	return 0;
}

/* ---- linking ---- */

/* Index of the report's file in this format; e->count: none. */
static size_t look_up(const struct earlier *e, const struct report *r, int format)
{
	size_t i = 0;
	while (i < e->count &&
	       (strcmp(e->file[i].report, r->id) != 0 || (int)e->file[i].format != format))
		i++;
	return i;
}

/* The schema may have changed beside the definitions: an official one was put there. */
static int same_schema(struct files *f, const struct report *r, const struct run_file *file,
		       bool *ret, struct rt_err *err)
{
	char hash[SHA256_HEX];
	struct slice xsd;
	const char *name;
	int rc = files_schema(f->definitions, r, f->arena, &xsd, &name, err);
	if (rc != 0)
		return rc;
	sha256_hex(xsd, hash);
	*ret = file->xsd != NULL && strcmp(hash, file->xsd) == 0;
	return 0;
}

/* The link is made first, and what it names is looked at: nobody can put something else in between. */
static bool link_one(const struct files *f, const char *target, const char *run,
		     const struct run_file *file)
{
	char from[TARGET_PATH_MAX], to[TARGET_PATH_MAX], hash[SHA256_HEX];
	int64_t bytes;
	struct rt_err ignored;
	if (file->path == NULL)
		return file->omitted != NULL;
	target_path(target, run, file->path, from);
	snprintf(to, sizeof(to), "%s/%s", f->folder, file->path);
	if (link(from, to) != 0)
		return false;
	return files_hash(to, hash, &bytes, &ignored) == 0 && bytes == file->bytes &&
	       strcmp(hash, file->sha256) == 0;
}

static void unlink_all(const struct files *f, const struct earlier *e, const struct report *r)
{
	for (int format = 0; format < REPORT_FORMATS; format++) {
		size_t i = r->formats[format] ? look_up(e, r, format) : e->count;
		char path[TARGET_PATH_MAX];
		if (i == e->count || e->file[i].path == NULL)
			continue;
		snprintf(path, sizeof(path), "%s/%s", f->folder, e->file[i].path);
		(void)unlink(path);
	}
}

int earlier_link(const struct earlier *e, struct files *f, const char *target,
		 const struct report *r, struct run_file *ret, size_t *ret_count, bool *ret_done,
		 struct rt_err *err)
{
	size_t count = 0;
	bool good = e->count > 0;
	int rc = good ? target_add_folder(f->folder, r->norm, err) : 0;
	for (int format = 0; rc == 0 && good && format < REPORT_FORMATS; format++) {
		if (!r->formats[format])
			continue;
		size_t i = look_up(e, r, format);
		good = i < e->count;
		if (good && format == REPORT_XML)
			rc = same_schema(f, r, &e->file[i], &good, err);
		if (rc == 0 && good)
			good = link_one(f, target, e->run[i], &e->file[i]);
		if (rc == 0 && good) {
			ret[*ret_count + count] = e->file[i];
			ret[*ret_count + count++].report = r->id;
		}
	}
	if (rc != 0 || !good) {
		unlink_all(f, e, r);
		*ret_done = false;
		return rc;
	}
	*ret_count += count;
	*ret_done = true;
	return 0;
}
