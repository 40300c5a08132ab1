/*
 * files: writers beside each other, fed row by row. Guarantees: memory is
 * bounded by one row and some buffers; a file's hash and length are of what
 * was written to it; no message quotes a value.
 */
#include "apply/reports/files.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "apply/reports/rows.h"
#include "apply/reports/target.h"
#include "apply/reports/validate.h"
#include "proto/base/failpoint.h"
#include "proto/base/fsio.h"
#include "proto/base/sha256.h"
#include "proto/base/yaml.h"
#include "transforms/report/form.h"
#include "transforms/report/value.h"

#define FLUSH_BYTES (256u << 10)
#define SCHEMA_MAX  (4u << 20)

/* ---- one file ---- */

struct out {
	enum report_format format;
	int fd; /* -1: not open */
	char path[TARGET_PATH_MAX];
	struct buf buf;
	struct sha256 hash;
	int64_t bytes;
};

static int out_open(struct out *o, const struct files *f, const struct report *r,
		    enum report_format format, struct rt_err *err)
{
	o->format = format;
	snprintf(o->path, sizeof(o->path), "%s/%s/%s.%s", f->folder, r->norm, r->name,
		 report_format_name(format));
	o->fd = FP_FAILS(REPORTS_FILE_OPEN)
			? -1
			: open(o->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
	if (o->fd < 0)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot create %s", o->path);
	sha256_init(&o->hash);
	return 0;
}

static int out_flush(struct out *o, struct rt_err *err)
{
	int rc = FP_ERROR(REPORTS_FILE_WRITE, err);
	if (rc == 0)
		rc = fs_write_all(o->fd, o->buf.p, o->buf.len, o->path, err);
	sha256_add(&o->hash, o->buf.p, o->buf.len);
	o->bytes += (int64_t)o->buf.len;
	buf_clear(&o->buf);
	return rc;
}

/* Whole, and on its way to the disk. Stays open: an error of its way is told to its sync. */
static int out_close(struct out *o, struct files *f, struct rt_err *err)
{
	int rc = out_flush(o, err);
	if (rc == 0 && f->pending_count == FILES_PENDING_MAX)
		rc = files_sync(f, err);
	if (rc != 0)
		return rc;
	(void)sync_file_range(o->fd, 0, 0, SYNC_FILE_RANGE_WRITE); /* only a hint */
	f->pending[f->pending_count++] = (struct files_pending){o->fd, rt_strdup(o->path)};
	o->fd = -1;
	return 0;
}

int files_sync(struct files *f, struct rt_err *err)
{
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < f->pending_count; i++) {
		rc = FP_ERROR(REPORTS_FILE_SYNC, err);
		if (rc == 0)
			rc = fs_sync_data(f->pending[i].fd, f->pending[i].path, err);
	}
	files_release(f);
	return rc;
}

void files_release(struct files *f)
{
	for (size_t i = 0; i < f->pending_count; i++) {
		close(f->pending[i].fd);
		free(f->pending[i].path);
	}
	f->pending_count = 0;
}

/* ---- a report ---- */

struct writing {
	struct files *f;
	const struct report *r;
	struct out out[REPORT_FORMATS];
	size_t count;
	struct rows rows;
	struct report_values values;
	const char *invalid; /* the first rule that a value broke, in the arena */
};

static int64_t row_number(const struct writing *w)
{
	return w->rows.count;
}

static int broken(struct writing *w, size_t column, const char *why, bool always,
		  struct rt_err *err)
{
	const char *name = w->r->column[column].name;
	if (!always && w->f->flag_invalid) {
		if (w->invalid == NULL)
			w->invalid = arena_printf(w->f->arena, "row %lld, column %s: %s",
						  (long long)row_number(w), name, why);
		return 0;
	}
	return rt_fail(err, ERR_PERMANENT, "report %s, row %lld, column %s: the value %s", w->r->id,
		       (long long)row_number(w), name, why);
}

static char delimiter_of(const struct writing *w, enum report_format format)
{
	return format == REPORT_CSV ? w->f->pack->csv_delimiter : w->f->pack->txt_delimiter;
}

/* NULL: an empty field, or xsi:nil; where the column has no nil, the schema's violation. */
static int write_null(struct writing *w, struct out *o, size_t column, struct rt_err *err)
{
	const struct report_column *c = &w->r->column[column];
	if (o->format != REPORT_XML) {
		form_csv_field(&o->buf, slice_of(NULL, 0), column == 0, delimiter_of(w, o->format),
			       false);
		return 0;
	}
	form_xml_nil(&o->buf, c->name);
	return c->nillable
		       ? 0
		       : broken(w, column, "is NULL, and the column is not nillable", false, err);
}

static int write_value(struct writing *w, struct out *o, size_t column, struct slice text,
		       struct rt_err *err)
{
	const struct report_column *c = &w->r->column[column];
	if (o->format == REPORT_XML)
		return form_xml_field(&o->buf, c->name, text)
			       ? 0
			       : broken(w, column, "holds a character that XML does not allow",
					true, err);
	/* Of other types nothing is a formula: -12.50 is a number. */
	form_csv_field(&o->buf, text, column == 0, delimiter_of(w, o->format),
		       w->f->guard_formulas && (c->type == REPORT_TEXT || c->type == REPORT_JSON));
	return 0;
}

static int write_column(struct writing *w, size_t column, struct rt_err *err)
{
	struct slice text;
	const char *why = NULL;
	int rc = 0;
	const bool null = w->rows.null[column];
	if (!null)
		why = report_value(&w->values, column, w->rows.field[column], &text);
	if (why != NULL && (rc = broken(w, column, why, false, err)) != 0)
		return rc;
	for (size_t i = 0; rc == 0 && i < w->count; i++)
		rc = null ? write_null(w, &w->out[i], column, err)
			  : write_value(w, &w->out[i], column, text, err);
	return rc;
}

static void begin_rows(struct writing *w)
{
	for (size_t i = 0; i < w->count; i++) {
		struct out *o = &w->out[i];
		if (o->format == REPORT_XML)
			form_xml_begin(&o->buf, w->r);
		else
			form_csv_header(&o->buf, w->r, delimiter_of(w, o->format));
	}
}

static int write_row(struct writing *w, struct rt_err *err)
{
	int rc = 0;
	for (size_t i = 0; i < w->count; i++)
		if (w->out[i].format == REPORT_XML)
			form_xml_begin_row(&w->out[i].buf, w->r);
	for (size_t column = 0; rc == 0 && column < w->r->column_count; column++)
		rc = write_column(w, column, err);
	for (size_t i = 0; rc == 0 && i < w->count; i++) {
		struct out *o = &w->out[i];
		if (o->format == REPORT_XML)
			form_xml_end_row(&o->buf, w->r);
		else
			form_csv_end_row(&o->buf);
		if (o->buf.len >= FLUSH_BYTES)
			rc = out_flush(o, err);
	}
	return rc;
}

static int write_rows(struct writing *w, const char *schema, struct rt_err *err)
{
	int rc = rows_open(&w->rows, w->f->c, schema, w->r, err);
	while (rc == 0 && (rc = rows_next(&w->rows, err)) == 1)
		rc = write_row(w, err);
	return rc;
}

static int end_files(struct writing *w, struct rt_err *err)
{
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < w->count; i++) {
		if (w->out[i].format == REPORT_XML)
			form_xml_end(&w->out[i].buf, w->r);
		rc = out_close(&w->out[i], w->f, err);
	}
	return rc;
}

/* ---- the schema ---- */

int files_schema(const char *definitions, const struct report *r, struct arena *a,
		 struct slice *ret, const char **ret_name, struct rt_err *err)
{
	char *text, path[TARGET_PATH_MAX];
	size_t len;
	const char *slash = strrchr(definitions, '/');
	snprintf(path, sizeof(path), "%.*s/schemas/official/%s.xsd",
		 slash != NULL ? (int)(slash - definitions) : 1, slash != NULL ? definitions : ".",
		 r->xml.schema);
	*ret_name = arena_printf(a, "%s.xsd", r->xml.schema);
	if (access(path, F_OK) != 0 && errno == ENOENT) {
		struct buf made = BUF_INIT;
		report_xsd(r, &made);
		*ret = arena_copy(a, buf_slice(&made));
		buf_release(&made);
		return 0;
	}
	int rc = fs_read_file(path, SCHEMA_MAX, &text, &len, err);
	if (rc != 0)
		return rc;
	*ret = arena_copy(a, slice_of(text, len));
	free(text);
	return 0;
}

/* Validates what is on disk; without rows, it is left out where the schema wants one. */
static int check_xml(struct writing *w, const struct out *o, struct run_file *file,
		     struct rt_err *err)
{
	char reason[VALIDATE_REASON_MAX], hash[SHA256_HEX];
	struct slice xsd;
	const char *name;
	bool valid;
	int rc = files_schema(w->f->definitions, w->r, w->f->arena, &xsd, &name, err);
	if (rc != 0)
		return rc;
	sha256_hex(xsd, hash);
	file->xsd = arena_strdup(w->f->arena, hash);
	rc = validate_xml(o->path, xsd, name, &valid, reason, err);
	if (rc != 0 || valid)
		return rc;
	if (row_number(w) == 0) {
		file->path = file->sha256 = NULL;
		file->bytes = 0;
		file->omitted = "schema wants a row";
		return unlink(o->path) == 0
			       ? 0
			       : rt_fail_errno(err, ERR_SYSTEM, "cannot remove %s", o->path);
	}
	if (!w->f->flag_invalid)
		return rt_fail(err, ERR_PERMANENT, "report %s: its XML file is invalid: %s",
			       w->r->id, reason);
	if (file->invalid == NULL)
		file->invalid = arena_strdup(w->f->arena, reason);
	return 0;
}

/* ---- */

static int describe(struct writing *w, struct out *o, struct run_file *file, struct rt_err *err)
{
	char hash[SHA256_HEX];
	sha256_end_hex(&o->hash, hash);
	*file = (struct run_file){
		.report = w->r->id,
		.format = o->format,
		.path = arena_printf(w->f->arena, "%s/%s.%s", w->r->norm, w->r->name,
				     report_format_name(o->format)),
		.rows = row_number(w),
		.bytes = o->bytes,
		.sha256 = arena_strdup(w->f->arena, hash),
		.invalid = w->invalid,
	};
	return o->format == REPORT_XML ? check_xml(w, o, file, err) : 0;
}

static int write_report(struct writing *w, const char *schema, struct rt_err *err)
{
	int rc = target_add_folder(w->f->folder, w->r->norm, err);
	for (int f = 0; rc == 0 && f < REPORT_FORMATS; f++)
		if (w->r->formats[f])
			rc = out_open(&w->out[w->count++], w->f, w->r, (enum report_format)f, err);
	begin_rows(w);
	if (rc == 0 && w->r->model != NULL)
		rc = write_rows(w, schema, err);
	return rc == 0 ? end_files(w, err) : rc;
}

int files_write(struct files *f, const struct report *r, const char *schema, struct run_file *ret,
		size_t *ret_count, struct rt_err *err)
{
	struct writing *w = rt_calloc(1, sizeof(*w));
	w->f = f;
	w->r = r;
	for (size_t i = 0; i < REPORT_FORMATS; i++)
		w->out[i] = (struct out){.fd = -1, .buf = BUF_INIT};
	report_values_init(&w->values, r);
	int rc = write_report(w, schema, err);
	for (size_t i = 0; rc == 0 && i < w->count; i++)
		rc = describe(w, &w->out[i], &ret[(*ret_count)++], err);
	for (size_t i = 0; i < REPORT_FORMATS; i++) {
		if (w->out[i].fd >= 0)
			close(w->out[i].fd);
		buf_release(&w->out[i].buf);
	}
	rows_close(&w->rows);
	report_values_release(&w->values);
	free(w);
	return rc;
}

int files_put(const char *folder, const char *name, struct slice text, struct rt_err *err)
{
	char path[TARGET_PATH_MAX];
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
	if (fd < 0)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot create %s", path);
	int rc = fs_write_all(fd, text.p, text.len, path, err);
	if (rc == 0)
		rc = fs_sync_data(fd, path, err);
	close(fd);
	return rc;
}

int files_hash(const char *path, char ret[SHA256_HEX], int64_t *ret_bytes, struct rt_err *err)
{
	struct sha256 hash;
	static uint8_t piece[64u << 10];
	ssize_t n;
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return rt_fail_errno(err, errno == ENOENT ? ERR_PERMANENT : ERR_SYSTEM,
				     "cannot open %s", path);
	sha256_init(&hash);
	*ret_bytes = 0;
	while ((n = read(fd, piece, sizeof(piece))) > 0) {
		sha256_add(&hash, piece, (size_t)n);
		*ret_bytes += n;
	}
	int rc = n < 0 ? rt_fail_errno(err, ERR_SYSTEM, "cannot read %s", path) : 0;
	close(fd);
	sha256_end_hex(&hash, ret);
	return rc;
}
