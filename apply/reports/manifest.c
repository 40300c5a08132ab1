/* manifest: jansson objects with sorted keys. Guarantees: nothing in it depends on when or where it is written. */
#include "apply/reports/manifest.h"

#include "proto/base/buf.h"

#define MANIFEST_VERSION 1

static json_t *text_or_null(const char *s)
{
	return s != NULL ? json_string(s) : json_null();
}

static json_t *run_object(const struct run *r)
{
	json_t *reports = json_array();
	for (size_t i = 0; i < r->report_count; i++)
		json_array_append_new(reports, json_string(r->report[i]));
	return json_pack("{s:s, s:s, s:o, s:o, s:s, s:s, s:o, s:o, s:b}", "id", r->id, "type",
			 r->type, "reports", reports, "as_of", text_or_null(r->as_of), "requester",
			 r->requester, "requested_at", r->requested_at, "schedule",
			 text_or_null(r->schedule), "due_at", text_or_null(r->due_at),
			 "quarantine_accepted", r->accept_quarantine);
}

static json_t *file_object(const struct run_file *f)
{
	json_t *o = json_pack("{s:s, s:s, s:I, s:o}", "report", f->report, "format",
			      report_format_name(f->format), "rows", (json_int_t)f->rows, "path",
			      text_or_null(f->path));
	if (f->path != NULL) {
		json_object_set_new(o, "bytes", json_integer(f->bytes));
		json_object_set_new(o, "sha256", json_string(f->sha256));
	}
	if (f->omitted != NULL)
		json_object_set_new(o, "omitted", json_string(f->omitted));
	if (f->xsd != NULL)
		json_object_set_new(o, "xsd_sha256", json_string(f->xsd));
	if (f->xsd != NULL || f->invalid != NULL)
		json_object_set_new(o, "valid", json_boolean(f->invalid == NULL));
	if (f->invalid != NULL)
		json_object_set_new(o, "invalid", json_string(f->invalid));
	return o;
}

static json_t *freshness_object(const struct run *r)
{
	return json_pack("{s:o, s:o, s:o, s:o}", "fence_lsn", text_or_null(r->fence_lsn),
			 "watermark_lsn", text_or_null(r->watermark_lsn), "watermark_committed_at",
			 text_or_null(r->watermark_at), "stale", text_or_null(r->stale));
}

int manifest_make(const struct run *r, const json_t *built, const struct run_file *file,
		  size_t count, struct arena *a, struct slice *ret, struct rt_err *err)
{
	json_t *files = json_array();
	for (size_t i = 0; i < count; i++)
		json_array_append_new(files, file_object(&file[i]));
	json_t *m = json_pack("{s:i, s:o, s:o, s:o, s:o}", "manifest", MANIFEST_VERSION, "run",
			      run_object(r), "freshness", freshness_object(r), "files", files,
			      "build", json_deep_copy(built));
	if (m == NULL)
		return rt_fail(err, ERR_PERMANENT, "the manifest holds text that is not UTF-8");
	json_object_set_new(m, "definitions_sha256", text_or_null(r->pack));
	json_object_set_new(m, "program", json_string("rolag " ROLAG_VERSION));
	char *text = json_dumps(m, JSON_INDENT(2) | JSON_SORT_KEYS);
	json_decref(m);
	RT_ASSERT(text != NULL);
	*ret = slice_str(arena_printf(a, "%s\n", text));
	free(text);
	return 0;
}

struct slice manifest_checksums(const struct run_file *file, size_t count, struct arena *a)
{
	struct buf out = BUF_INIT;
	for (size_t i = 0; i < count; i++)
		if (file[i].path != NULL)
			buf_printf(&out, "%s  %s\n", file[i].sha256, file[i].path);
	struct slice s = arena_copy(a, buf_slice(&out));
	buf_release(&out);
	return s;
}
