/*
 * publication: files, then one transaction. Guarantees: the rename is the last act
 * before COMMIT, under the lock of the run's row; should that COMMIT fail, the
 * run goes on in writing, and its files are written again, byte for byte.
 */
#include "apply/reports/publication.h"

#include "apply/reports/build.h"
#include "apply/reports/files.h"
#include "apply/reports/manifest.h"
#include "apply/reports/queue.h"
#include "apply/reports/target.h"
#include "proto/base/failpoint.h"
#include "proto/pg/pgconn.h"

static int write_files(struct making *m, const char *folder, struct rt_err *err)
{
	struct files f = {.c = m->c,
			  .pack = &m->pack,
			  .definitions = m->s->reports.definitions,
			  .folder = folder,
			  .guard_formulas =
				  json_is_true(json_object_get(m->built, "guard_formulas")),
			  .flag_invalid = json_is_true(json_object_get(m->built, "flag_invalid")),
			  .arena = &m->arena};
	int rc = 0;
	m->file = arena_zalloc(&m->arena, m->run.report_count * REPORT_FORMATS * sizeof(*m->file));
	m->file_count = 0;
	for (size_t i = 0; rc == 0 && i < m->run.report_count; i++) {
		const struct report *r = report_find(&m->pack, m->run.report[i]);
		const char *schema;
		if (r == NULL)
			return rt_fail(err, ERR_PERMANENT, "report %s is not defined any more",
				       m->run.report[i]);
		rc = making_schema_of(m, r, &schema, err);
		if (rc == 0)
			rc = files_write(&f, r, schema, m->file, &m->file_count, err);
	}
	return rc;
}

int publication_write(struct making *m, struct rt_err *err)
{
	char folder[TARGET_PATH_MAX];
	struct slice manifest;
	int rc = target_begin(m->s->reports.target, m->run.id, folder, err);
	if (rc == 0)
		rc = write_files(m, folder, err);
	if (rc == 0)
		rc = files_put(folder, CHECKSUMS_NAME,
			       manifest_checksums(m->file, m->file_count, &m->arena), err);
	if (rc == 0)
		rc = manifest_make(&m->run, m->built, m->file, m->file_count, &m->arena, &manifest,
				   err);
	FAILPOINT(REPORTS_BEFORE_MANIFEST);
	if (rc == 0)
		rc = files_put(folder, MANIFEST_NAME, manifest, err);
	if (rc == 0)
		rc = target_sync(folder, err);
	if (rc == 0)
		m->run.manifest = (const char *)manifest.p; /* a text of the arena */
	return rc;
}

/* ---- the transaction ---- */

static int note_file(struct making *m, const struct run_file *f, struct rt_err *err)
{
	const char *rows = arena_printf(&m->arena, "%lld", (long long)f->rows);
	const char *bytes = arena_printf(&m->arena, "%lld", (long long)f->bytes);
	const char *params[] = {m->run.id, f->report,  report_format_name(f->format),
				f->path,   rows,       bytes,
				f->sha256, f->omitted, f->invalid,
				f->xsd};
	return pgc_query(
		m->c, NULL, err,
		"INSERT INTO rolag.report_file (run_id, report, format, path, rows, bytes, "
		"sha256, omitted, invalid, xsd) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, "
		"$10)",
		(int)ARRAY_LEN(params), params);
}

static int note_published(void *ctx, PGconn *c, struct rt_err *err)
{
	struct making *m = ctx;
	const char *params[] = {m->run.id, m->run.manifest};
	int rc = queue_hold(c, m->run.id, m->epoch, "writing", err);
	if (rc == 0)
		rc = pgc_query(c, NULL, err,
			       "UPDATE rolag.report_run SET manifest = $2, kept = true, reason = "
			       "NULL WHERE id = $1",
			       2, params);
	if (rc == 0)
		rc = queue_move(c, m->run.id, "published", err);
	for (size_t i = 0; rc == 0 && i < m->file_count; i++)
		rc = note_file(m, &m->file[i], err);
	if (rc == 0)
		rc = target_publish(m->s->reports.target, m->run.id, err);
	FAILPOINT_FD(REPORTS_BEFORE_COMMIT, PQsocket(c));
	return rc;
}

/* The stable views are pointed at the run's relations in the same transaction. */
static int commit_with_views(struct making *m, struct rt_err *err)
{
	const struct build_publish p = {.s = m->s,
					.project = m->project,
					.run_id = m->run.id,
					.with = note_published,
					.ctx = m};
	return build_publish(m->c, &p, err);
}

int publication_commit(struct making *m, struct rt_err *err)
{
	struct rt_err ignored;
	if (json_object_get(m->built, "models") != NULL)
		return commit_with_views(m, err);
	int rc = pgc_exec(m->c, NULL, err, "BEGIN");
	if (rc != 0)
		return rc;
	rc = note_published(m, m->c, err);
	if (rc == 0)
		return pgc_exec(m->c, NULL, err, "COMMIT");
	(void)!pgc_exec(m->c, NULL, &ignored, "ROLLBACK");
	return rc;
}

/* ---- once more ---- */

static int compare(struct making *m, const struct run_file *was, size_t count, struct rt_err *err)
{
	bool same = count == m->file_count;
	for (size_t i = 0; i < count; i++) {
		const struct run_file *now = NULL;
		for (size_t k = 0; k < m->file_count; k++)
			if (strcmp(m->file[k].report, was[i].report) == 0 &&
			    m->file[k].format == was[i].format)
				now = &m->file[k];
		same &= now != NULL && (now->sha256 == NULL) == (was[i].sha256 == NULL);
		if (!same || (was[i].sha256 != NULL && strcmp(now->sha256, was[i].sha256) != 0))
			return rt_fail(err, ERR_PERMANENT,
				       "%s.%s would not be the file that was published; nothing is "
				       "changed",
				       was[i].report, report_format_name(was[i].format));
	}
	return same ? 0
		    : rt_fail(err, ERR_PERMANENT, "there would be more files than were published");
}

int publication_again(struct making *m, struct rt_err *err)
{
	char folder[TARGET_PATH_MAX];
	struct run_file *was;
	size_t count;
	struct rt_err ignored;
	if (!m->run.kept || m->run.manifest == NULL)
		return rt_fail(err, ERR_PERMANENT,
			       "the relations of run %s are not kept (reports.keep_runs); what it "
			       "published is proof by itself: rolag report verify",
			       m->run.id);
	int rc = runs_files(m->c, &m->arena, &m->run, &was, &count, err);
	if (rc == 0)
		rc = target_begin(m->s->reports.target, m->run.id, folder, err);
	if (rc != 0)
		return rc;
	rc = write_files(m, folder, err);
	if (rc == 0)
		rc = compare(m, was, count, err);
	if (rc == 0)
		rc = files_put(folder, CHECKSUMS_NAME,
			       manifest_checksums(m->file, m->file_count, &m->arena), err);
	if (rc == 0)
		rc = files_put(folder, MANIFEST_NAME, slice_str(m->run.manifest), err);
	if (rc == 0)
		rc = target_sync(folder, err);
	if (rc == 0)
		rc = target_publish(m->s->reports.target, m->run.id, err);
	if (rc != 0)
		(void)!target_discard(m->s->reports.target, m->run.id, false, &ignored);
	return rc;
}
