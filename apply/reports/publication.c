/*
 * publication: files, then one transaction. Guarantees: the rename is the last act
 * before COMMIT, under the lock of the run's row; should that COMMIT fail, the
 * run goes on in writing, and its files are written again, byte for byte.
 */
#include "apply/reports/publication.h"

#include "apply/reports/build_inner.h"
#include "apply/reports/earlier.h"
#include "apply/reports/files.h"
#include "apply/reports/manifest.h"
#include "apply/reports/queue.h"
#include "apply/reports/target.h"
#include "proto/base/failpoint.h"
#include "proto/pg/pgconn.h"

static int write_report(struct making *m, struct files *f, const struct report *r,
			const struct earlier *e, struct rt_err *err)
{
	const char *schema;
	bool done = false;
	int rc = making_schema_of(m, r, &schema, err);
	if (rc == 0)
		rc = earlier_link(e, f, m->s->reports.target, r, m->file, &m->file_count, &done,
				  err);
	return rc == 0 && !done ? files_write(f, r, schema, m->file, &m->file_count, err) : rc;
}

/* e: what may be linked. */
static int write_files(struct making *m, const char *folder, const struct earlier *e,
		       struct rt_err *err)
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
		if (m->progress != NULL)
			m->progress(m->ctx, i, m->run.report_count, m->run.report[i]);
		rc = r == NULL ? rt_fail(err, ERR_PERMANENT, "report %s is not defined any more",
					 m->run.report[i])
			       : write_report(m, &f, r, e, err);
	}
	if (rc == 0)
		rc = files_sync(&f, err);
	files_release(&f);
	return rc;
}

int publication_write(struct making *m, struct rt_err *err)
{
	char folder[TARGET_PATH_MAX];
	struct slice manifest;
	struct earlier earlier;
	int rc = target_begin(m->s->reports.target, m->run.id, folder, err);
	if (rc == 0)
		rc = earlier_find(m, &earlier, err);
	if (rc == 0)
		rc = write_files(m, folder, &earlier, err);
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

static int note_files(struct making *m, struct rt_err *err)
{
	enum { REPORT, FORMAT, PATH, ROWS, BYTES, SHA256, OMITTED, INVALID, XSD, COLUMNS };
	struct buf column[COLUMNS] = {BUF_INIT};
	const char *params[COLUMNS + 1] = {m->run.id};
	for (int i = 0; i < COLUMNS; i++)
		buf_str(&column[i], "{");
	for (size_t i = 0; i < m->file_count; i++) {
		const struct run_file *f = &m->file[i];
		const char *value[COLUMNS] = {
			[REPORT] = f->report,
			[FORMAT] = report_format_name(f->format),
			[PATH] = f->path,
			[ROWS] = arena_printf(&m->arena, "%lld", (long long)f->rows),
			[BYTES] = arena_printf(&m->arena, "%lld", (long long)f->bytes),
			[SHA256] = f->sha256,
			[OMITTED] = f->omitted,
			[INVALID] = f->invalid,
			[XSD] = f->xsd};
		for (int k = 0; k < COLUMNS; k++)
			build_array_add(&column[k], value[k]);
	}
	for (int i = 0; i < COLUMNS; i++)
		params[i + 1] = build_array_end(&column[i]);
	int rc = pgc_query(m->c, NULL, err,
			   "INSERT INTO rolag.report_file (run_id, report, format, path, rows, "
			   "bytes, sha256, omitted, invalid, xsd) SELECT $1::uuid, * FROM "
			   "unnest($2::text[], $3::text[], $4::text[], $5::int8[], $6::int8[], "
			   "$7::text[], $8::text[], $9::text[], $10::text[])",
			   COLUMNS + 1, params);
	for (int i = 0; i < COLUMNS; i++)
		buf_release(&column[i]);
	return rc;
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
	if (rc == 0)
		rc = note_files(m, err);
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
	rc = write_files(m, folder, &(struct earlier){0}, err); /* anew: that is what it is for */
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
