/*
 * api_files: what a run published. Guarantees: a path comes from the row of
 * the file, never from the request; what is sent is as long as what was
 * published.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "apply/reports/http/inner.h"
#include "apply/reports/run_json.h"
#include "apply/reports/target.h"

json_t *api_file_object(const struct request *r, const struct run_file *f)
{
	json_t *o = run_file_json(f);
	json_object_set_new(o, "url",
			    f->path != NULL ? json_sprintf("/api/v1/report-runs/%s/files/%s",
							   r->run.id, f->path)
					    : json_null());
	return o;
}

/* ---- the list ---- */

static void on_files(struct request *r, const PGresult *res)
{
	struct run_file *file;
	size_t count;
	json_t *list = json_array();
	runs_take_files(&r->arena, res, &file, &count);
	for (size_t i = 0; i < count; i++)
		json_array_append_new(list, api_file_object(r, &file[i]));
	reply_json(r, 200, json_pack("{s:o}", "files", list));
}

static void list_files(struct request *r)
{
	struct runs_ask ask;
	runs_ask_files(&r->run, &ask);
	request_ask(r, &ask, on_files);
}

void api_files(struct request *r)
{
	api_with_run(r, false, list_files);
}

/* ---- one ---- */

static const char *type_of(enum report_format f)
{
	switch (f) {
	case REPORT_CSV:
		return "text/csv; charset=utf-8";
	case REPORT_XML:
		return "application/xml";
	case REPORT_TXT:
	case REPORT_FORMATS:
		break;
	}
	return "text/plain; charset=utf-8";
}

static void set_etag(struct request *r, const char *etag)
{
	reply_header(r, MHD_HTTP_HEADER_ETAG, etag);
}

static void send_open_file(struct request *r, const struct run_file *f, int fd)
{
	struct stat st;
	char disposition[2 * REPORT_NAME_MAX + 64];
	const char *etag = arena_printf(&r->arena, "\"%s\"", f->sha256);
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size != f->bytes) {
		close(fd);
		log_error("a published file is not as it was published",
			  "run=%s file=%s mend=\"rolag report verify\"", r->run.id, f->path);
		reply_problem(r, 500, "file-differs",
			      "The file on disk is not as long as the one that was published "
			      "(rolag report verify).");
		return;
	}
	log_info("a file is sent over HTTP", "run=%s file=%s token=%s", r->run.id, f->path, r->who);
	reply_file(r, type_of(f->format), fd, (uint64_t)st.st_size);
	set_etag(r, etag);
	snprintf(disposition, sizeof(disposition), "attachment; filename=\"%s\"",
		 strrchr(f->path, '/') + 1);
	reply_header(r, MHD_HTTP_HEADER_CONTENT_DISPOSITION, disposition);
}

static void send_file(struct request *r, const struct run_file *f)
{
	char path[TARGET_PATH_MAX];
	const char *id = r->run.served_by != NULL ? r->run.served_by : r->run.id;
	if (reply_not_modified(r, arena_printf(&r->arena, "\"%s\"", f->sha256)))
		return;
	target_path(r->h->o.s->reports.target, id, f->path, path);
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0)
		send_open_file(r, f, fd);
	else if (errno == ENOENT)
		reply_problem(r, 410, "file-gone",
			      "The file was published, and is not on disk any more (rolag report "
			      "rerun writes it again).");
	else
		reply_problem(r, 500, "file", "The file cannot be opened (%s).", strerror(errno));
}

static void on_file(struct request *r, const PGresult *res)
{
	struct run_file *file;
	size_t count;
	char wanted[2 * ROUTE_ARG_SIZE];
	snprintf(wanted, sizeof(wanted), "%s/%s", r->m.arg[1], r->m.arg[2]);
	runs_take_files(&r->arena, res, &file, &count);
	for (size_t i = 0; i < count; i++) {
		if (file[i].path == NULL || strcmp(file[i].path, wanted) != 0)
			continue;
		send_file(r, &file[i]);
		return;
	}
	reply_problem(r, 404, "file", "The run has no such file.");
}

static void find_file(struct request *r)
{
	struct runs_ask ask;
	runs_ask_files(&r->run, &ask);
	request_ask(r, &ask, on_file);
}

void api_file(struct request *r)
{
	api_with_run(r, false, find_file);
}

/* ---- the manifest ---- */

static void show_manifest(struct request *r)
{
	char hash[SHA256_HEX];
	if (r->run.manifest == NULL && r->run.served_by != NULL) {
		const char *leader = r->run.served_by;
		snprintf(r->m.arg[0], sizeof(r->m.arg[0]), "%s", leader);
		api_with_run(r, true, show_manifest);
		return;
	}
	if (r->run.manifest == NULL) {
		reply_problem(r, 404, "manifest", "The run has no manifest: it is %s.",
			      r->run.state);
		return;
	}
	sha256_hex(slice_str(r->run.manifest), hash);
	const char *etag = arena_printf(&r->arena, "\"%s\"", hash);
	if (reply_not_modified(r, etag))
		return;
	reply_bytes(r, 200, "application/json", slice_str(r->run.manifest));
	set_etag(r, etag);
}

void api_manifest(struct request *r)
{
	api_with_run(r, true, show_manifest);
}
