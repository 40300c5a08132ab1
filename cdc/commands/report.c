/*
 * rolag report run|list|show|verify|rerun|xsd|token. Guarantees: a request is a row
 * of the queue, which the companion serves whether somebody waits or not; no
 * value of a report is shown.
 */
#include <inttypes.h>
#include <poll.h>
#include <pwd.h>
#include <unistd.h>

#include "apply/reports/files.h"
#include "apply/reports/http/token.h"
#include "apply/reports/manifest.h"
#include "apply/reports/publication.h"
#include "apply/reports/run_json.h"
#include "apply/reports/target.h"
#include "cdc/commands/bar.h"
#include "cdc/commands/commands.h"
#include "proto/base/fsio.h"
#include "proto/base/sha256.h"
#include "proto/pg/pgconn.h"
#include "proto/pg/types.h"
#include "transforms/report/cron.h"

#define LOOK_MS	     50
#define LIST_RUNS    20
#define MANIFEST_MAX (64u << 20)

const struct cli_usage report_usage = {
	.args = "run|list|show|verify|rerun|xsd|token [RUN|NORM/ID|NAME]",
	.text = "Runs of reports; `rolag reports` (or `rolag run`) makes them.\n"
		"  run          asks for reports: all of them, or those of --report. A run waits "
		"until "
		"the warehouse\n               holds everything that was committed before. Reports "
		"that "
		"take a day need --as-of\n               (yesterday, where all are asked for)\n"
		"  list         the newest runs; with --reports the reports that are defined\n"
		"  show RUN     one run: its times, what it knew, its files, or why it failed\n"
		"  verify RUN   the files on disk against the checksums of the control tables; "
		"exit "
		"code 1 if any differs\n"
		"  rerun RUN    writes the same files again, byte for byte, from the kept "
		"relations\n"
		"  xsd NORM/ID  the XML schema that the report is validated against\n"
		"  token NAME   a token for HTTP, shown once, and the line of http.tokens that "
		"lets its "
		"owner in\n"
		"RUN: an id, or as much of it as only one has.\n",
	.option =
		{{"--report", "NORM/ID…", "run: this one; may be given again, or with commas"},
		 {"--as-of", "DATE", "run: the day, for reports that take one"},
		 {"--wait", NULL, "run: until it is published (exit code 1 if it fails)"},
		 {"--allow-stale", NULL,
		  "run: go on when the core is away or the warehouse behind; the manifest says so"},
		 {"--accept-quarantine", NULL,
		  "run: go on although entities wait; the manifest says so"},
		 {"--reports", NULL, "list: the reports that are defined"},
		 {"--scope", "SCOPE…",
		  "token: reports:read (to look, the default), reports:run (to ask), or both"},
		 {"--json", NULL, "list, show: one JSON document"}},
};

/* ---- run ---- */

/* Ids between commas. */
static size_t split(struct arena *a, const char *text, const char ***ret)
{
	size_t n = 0;
	const char **out = arena_alloc(a, (strlen(text) + 1) * sizeof(*out));
	for (const char *p = text; *p != '\0';) {
		size_t len = strcspn(p, ",");
		if (len > 0)
			out[n++] = arena_strndup(a, p, len);
		p += len + (p[len] == ',');
	}
	*ret = out;
	return n;
}

static int read_yesterday(const struct settings *s, char ret[11], struct rt_err *err)
{
	struct pgt_zone *zone = NULL;
	if (strcmp(s->reports.time_zone, "UTC") != 0 &&
	    (zone = pgt_zone_load(s->reports.time_zone)) == NULL)
		return rt_fail(err, ERR_PERMANENT, "%s: unknown reports.time_zone", s->file);
	cron_yesterday(zone, rt_now_us() / 1000000, ret);
	if (zone != NULL)
		pgt_zone_free(zone);
	return 0;
}

static const char *who_am_i(struct arena *a)
{
	char host[128] = "?";
	/* cppcheck-suppress getpwuidCalled ; no threads */
	const struct passwd *p = getpwuid(getuid());
	gethostname(host, sizeof(host) - 1);
	return arena_printf(a, "%s at %s", p != NULL ? p->pw_name : "?", host);
}

static int read_request(struct cli *c, const struct settings *s, const struct report_pack *p,
			struct runs_request *q, struct rt_err *err)
{
	char yesterday[11];
	const char **ids = NULL, *report = cli_option(c, "--report");
	size_t count = report != NULL ? split(&c->arena, report, &ids) : 0;
	if (report != NULL && count == 0)
		return rt_fail(err, ERR_USAGE, "--report names no report");
	int rc = read_yesterday(s, yesterday, err);
	if (rc != 0)
		return rc;
	*q = (struct runs_request){.type = "manual",
				   .requester = who_am_i(&c->arena),
				   .allow_stale = cli_option(c, "--allow-stale") != NULL,
				   .accept_quarantine =
					   cli_option(c, "--accept-quarantine") != NULL};
	return report_select(p, &c->arena, ids, count, cli_option(c, "--as-of"),
			     count == 0 ? arena_strdup(&c->arena, yesterday) : NULL, &q->report,
			     &q->report_count, &q->as_of, err);
}

/* Shows each state that the run comes to; *ret_ok: it is published. */
static int await(PGconn *conn, const struct settings *s, const char *id, bool *ret_ok,
		 struct rt_err *err)
{
	struct arena a;
	struct run r;
	struct bar bar;
	char state[16] = "";
	int rc;
	arena_init(&a, 16384);
	bar_begin(&bar, "report", "", 0);
	for (;;) {
		arena_reset(&a);
		if ((rc = runs_get(conn, &a, s->pipeline, id, &r, err)) != 0)
			break;
		if (strcmp(state, r.state) != 0) {
			bar_hide(&bar);
			printf("%s\n", r.state);
		}
		fflush(stdout);
		snprintf(state, sizeof(state), "%s", r.state);
		if (runs_is_ended(&r))
			break;
		bar_show(&bar, 0, 0, state);
		poll(NULL, 0, LOOK_MS);
	}
	bar_hide(&bar);
	*ret_ok = rc == 0 && strcmp(r.client_state, "success") == 0;
	if (rc == 0 && !*ret_ok)
		printf("reason: %s\n", r.reason);
	else if (rc == 0)
		printf("files: %s/%s\n", s->reports.target, r.served_by ? r.served_by : r.id);
	arena_release(&a);
	return rc;
}

static int run(struct cli *c, const struct settings *s, PGconn *conn, int *ret_code,
	       struct rt_err *err)
{
	struct report_pack pack;
	struct runs_request q;
	char id[RUNS_ID_SIZE];
	bool fresh, ok = true;
	int rc = runs_pack(s, &c->arena, &pack, NULL, NULL, err);
	if (rc == 0)
		rc = read_request(c, s, &pack, &q, err);
	if (rc == 0)
		rc = runs_request(conn, s->pipeline, &q, id, &fresh, err);
	if (rc != 0)
		return rc;
	printf("%s\n", id);
	if (cli_option(c, "--wait") != NULL)
		rc = await(conn, s, id, &ok, err);
	*ret_code = ok ? EXIT_OK : EXIT_FINDING;
	return rc;
}

/* ---- list, show ---- */

static void print_json(json_t *o)
{
	char *text = json_dumps(o, JSON_INDENT(2));
	puts(text != NULL ? text : "null");
	free(text);
	json_decref(o);
}

static void list_defined(const struct report_pack *p)
{
	for (size_t i = 0; i < p->count; i++) {
		const struct report *r = &p->report[i];
		printf("%-50s", r->id);
		for (int f = 0; f < REPORT_FORMATS; f++)
			if (r->formats[f])
				printf(" %s", report_format_name((enum report_format)f));
		printf("%s%s\n", r->as_of ? ", takes a day" : "",
		       r->model == NULL ? ", declared empty" : "");
	}
}

static int list(struct cli *c, const struct settings *s, PGconn *conn, struct rt_err *err)
{
	const struct runs_filter all = {.limit = LIST_RUNS};
	struct run *r;
	size_t count;
	int rc = runs_list(conn, &c->arena, s->pipeline, &all, &r, &count, err);
	if (rc != 0)
		return rc;
	if (cli_option(c, "--json") != NULL) {
		json_t *o = json_array();
		for (size_t i = 0; i < count; i++)
			json_array_append_new(o, run_json(&r[i]));
		print_json(o);
		return 0;
	}
	for (size_t i = 0; i < count; i++)
		printf("%s  %.19s  %-10s  %-9s  %zu report%s%s%s%s%.200s\n", r[i].id,
		       r[i].requested_at, r[i].state, r[i].type, r[i].report_count,
		       r[i].report_count == 1 ? "" : "s", r[i].as_of != NULL ? "  as of " : "",
		       r[i].as_of != NULL ? r[i].as_of : "", r[i].reason != NULL ? "  " : "",
		       r[i].reason != NULL ? r[i].reason : "");
	if (count == 0)
		printf("No reports were asked for yet (rolag report run).\n");
	return 0;
}

static void show_line(const char *what, const char *value)
{
	if (value != NULL)
		printf("%-14s %s\n", what, value);
}

static void show_run(const struct settings *s, const struct run *r, const struct run_file *f,
		     size_t count)
{
	printf("%-14s %s\n%-14s %s (%s)\n", "run", r->id, "state", r->state, r->type);
	show_line("reason", r->reason);
	show_line("asked for by", r->requester);
	show_line("schedule", r->schedule);
	show_line("as of", r->as_of);
	show_line("served by", r->served_by);
	show_line("requested", r->requested_at);
	show_line("waiting", r->waiting_at);
	show_line("building", r->building_at);
	show_line("writing", r->writing_at);
	show_line("ended", r->ended_at);
	show_line("fence", r->fence_lsn);
	show_line("watermark", r->watermark_lsn);
	show_line("committed", r->watermark_at);
	show_line("stale", r->stale);
	if (count > 0)
		printf("%-14s %s/%s\n", "folder", s->reports.target,
		       r->served_by != NULL ? r->served_by : r->id);
	for (size_t i = 0; i < count; i++) {
		if (f[i].path == NULL)
			printf("  %s.%s: omitted (%s)\n", f[i].report,
			       report_format_name(f[i].format), f[i].omitted);
		else
			printf("  %s: %" PRId64 " rows, %" PRId64 " bytes%s%s\n", f[i].path,
			       f[i].rows, f[i].bytes, f[i].invalid != NULL ? ", INVALID: " : "",
			       f[i].invalid != NULL ? f[i].invalid : "");
	}
}

static int show(struct cli *c, const struct settings *s, PGconn *conn, struct rt_err *err)
{
	struct run r;
	struct run_file *f;
	size_t count;
	int rc = runs_get(conn, &c->arena, s->pipeline, c->arg[1], &r, err);
	if (rc == 0)
		rc = runs_files(conn, &c->arena, &r, &f, &count, err);
	if (rc != 0)
		return rc;
	if (cli_option(c, "--json") == NULL) {
		show_run(s, &r, f, count);
		return 0;
	}
	json_t *o = run_json(&r), *files = json_array();
	for (size_t i = 0; i < count; i++)
		json_array_append_new(files, run_file_json(&f[i]));
	json_object_set_new(o, "files", files);
	print_json(o);
	return 0;
}

/* ---- verify, rerun, xsd ---- */

static bool verify_file(const char *path, const char *sha256, const char *name, struct bar *bar)
{
	char hash[SHA256_HEX];
	int64_t bytes;
	struct rt_err err;
	bool good = files_hash(path, hash, &bytes, &err) == 0;
	if (!good || strcmp(hash, sha256) != 0)
		bar_hide(bar);
	if (!good)
		printf("%s: %s\n", name, err.msg);
	else if (strcmp(hash, sha256) != 0)
		printf("%s: differs (%" PRId64 " bytes)\n", name, bytes), good = false;
	return good;
}

static int verify(struct cli *c, const struct settings *s, PGconn *conn, int *ret_code,
		  struct rt_err *err)
{
	struct run r, served;
	struct run_file *f;
	size_t count, good = 0, files = 0;
	char path[TARGET_PATH_MAX], hash[SHA256_HEX];
	struct bar bar;
	int rc = runs_get(conn, &c->arena, s->pipeline, c->arg[1], &r, err);
	if (rc == 0)
		rc = runs_files(conn, &c->arena, &r, &f, &count, err);
	served = r;
	if (rc == 0 && r.served_by != NULL)
		rc = runs_get(conn, &c->arena, s->pipeline, r.served_by, &served, err);
	if (rc != 0)
		return rc;
	if (served.manifest == NULL)
		return rt_fail(err, ERR_USAGE, "run %s published nothing (it is %s)", r.id,
			       r.state);
	bar_begin(&bar, "verify", "files", 0);
	for (size_t i = 0; i < count; i++) {
		if (f[i].path == NULL)
			continue;
		files++;
		bar_show(&bar, i, count, f[i].path);
		target_path(s->reports.target, served.id, f[i].path, path);
		good += verify_file(path, f[i].sha256, f[i].path, &bar);
	}
	bar_hide(&bar);
	RT_ASSERT(served.manifest != NULL); /* else it failed above */
	sha256_hex(slice_str(served.manifest), hash);
	target_path(s->reports.target, served.id, MANIFEST_NAME, path);
	good += verify_file(path, hash, MANIFEST_NAME, NULL);
	printf("%zu of %zu files are as they were published.\n", good, files + 1);
	*ret_code = good == files + 1 ? EXIT_OK : EXIT_FINDING;
	return 0;
}

static void show_progress(void *ctx, size_t done, size_t total, const char *report)
{
	bar_show(ctx, done, total, report);
}

static int rerun(struct cli *c, const struct settings *s, struct rt_err *err)
{
	struct bar bar;
	struct making m = {.s = s, .progress = show_progress, .ctx = &bar};
	bar_begin(&bar, "write", "reports", 0);
	arena_init(&m.arena, 65536);
	int rc = runs_connect(&m.c, s, "rolag report", NULL, err);
	if (rc == 0)
		rc = runs_get(m.c, &m.arena, s->pipeline, c->arg[1], &m.run, err);
	if (rc == 0 && m.run.served_by != NULL)
		rc = runs_get(m.c, &m.arena, s->pipeline, m.run.served_by, &m.run, err);
	if (rc == 0 && m.run.manifest == NULL)
		rc = rt_fail(err, ERR_USAGE, "run %s published nothing (it is %s)", m.run.id,
			     m.run.state);
	if (rc == 0)
		rc = making_read(&m, err);
	if (rc == 0)
		rc = publication_again(&m, err);
	bar_hide(&bar);
	if (rc == 0)
		printf("%zu files in %s/%s are as they were published.\n", m.file_count,
		       s->reports.target, m.run.id);
	making_release(&m);
	return rc;
}

static int xsd(struct cli *c, const struct settings *s, struct rt_err *err)
{
	struct report_pack pack;
	const char *id = c->arg[1], **ids, *as_of, *name;
	size_t count;
	struct slice text;
	int rc = runs_pack(s, &c->arena, &pack, NULL, NULL, err);
	if (rc == 0)
		rc = report_select(&pack, &c->arena, &id, 1, NULL, "2000-01-01", &ids, &count,
				   &as_of, err);
	const struct report *r = rc == 0 ? report_find(&pack, id) : NULL;
	if (rc == 0 && !r->formats[REPORT_XML])
		rc = rt_fail(err, ERR_USAGE, "%s has no XML", id);
	if (rc == 0)
		rc = files_schema(s->reports.definitions, r, &c->arena, &text, &name, err);
	if (rc == 0)
		fwrite(text.p, 1, text.len, stdout);
	return rc;
}

/* ---- token ---- */

static int token(struct cli *c, struct rt_err *err)
{
	char text[TOKEN_SIZE];
	struct buf line = BUF_INIT;
	unsigned scopes = TOKEN_READ;
	const char *scope = cli_option(c, "--scope");
	if (scope != NULL && !token_scopes_parse(slice_str(scope), &scopes))
		return rt_fail(err, ERR_USAGE, "--scope is reports:read, reports:run, or both");
	int rc = token_make(c->arg[1], scopes, text, &line, err);
	if (rc == 0)
		printf("%s\n\nThis is the token of %s; nobody can show it again. The file "
		       "http.tokens needs the line:\n\n%s\n",
		       text, c->arg[1], buf_cstr(&line));
	buf_release(&line);
	return rc;
}

/* ---- the command ---- */

static const struct {
	const char *name;
	int args; /* behind the name */
} actions[] = {{"run", 0},   {"list", 0}, {"show", 1}, {"verify", 1},
	       {"rerun", 1}, {"xsd", 1},  {"token", 1}};

static int check_words(const struct cli *c, struct rt_err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(actions); i++) {
		if (strcmp(actions[i].name, c->arg[0]) != 0)
			continue;
		if (c->arg_count - 1 != actions[i].args)
			return rt_fail(err, ERR_USAGE, "%s takes %s", c->arg[0],
				       actions[i].args == 0		 ? "no argument"
				       : strcmp(c->arg[0], "xsd") == 0	 ? "NORM/ID"
				       : strcmp(c->arg[0], "token") == 0 ? "a NAME"
									 : "RUN");
		return 0;
	}
	return rt_fail(err, ERR_USAGE,
		       "one of run, list, show, verify, rerun, xsd, token is needed");
}

static int with_warehouse(struct cli *c, const struct settings *s, int *ret_code,
			  struct rt_err *err)
{
	PGconn *conn = NULL;
	int rc = runs_connect(&conn, s, "rolag report", NULL, err);
	if (rc != 0)
		return rc;
	if (strcmp(c->arg[0], "run") == 0)
		rc = run(c, s, conn, ret_code, err);
	else if (strcmp(c->arg[0], "list") == 0)
		rc = list(c, s, conn, err);
	else if (strcmp(c->arg[0], "show") == 0)
		rc = show(c, s, conn, err);
	else
		rc = verify(c, s, conn, ret_code, err);
	pgc_close(conn);
	return rc;
}

int cmd_report(struct cli *c)
{
	struct settings s;
	struct rt_err err;
	int code = EXIT_OK;
	int rc = check_words(c, &err);
	if (rc == 0 && strcmp(c->arg[0], "token") == 0) /* it needs no configuration */
		return token(c, &err) == 0 ? EXIT_OK : cli_fail(c, &err);
	if (rc == 0)
		rc = cli_settings(c, &s, &err);
	if (rc != 0)
		return cli_fail(c, &err);
	if (strcmp(c->arg[0], "list") == 0 && cli_option(c, "--reports") != NULL) {
		struct report_pack pack;
		rc = runs_pack(&s, &c->arena, &pack, NULL, NULL, &err);
		if (rc == 0)
			list_defined(&pack);
	} else if (strcmp(c->arg[0], "rerun") == 0) {
		rc = rerun(c, &s, &err);
	} else if (strcmp(c->arg[0], "xsd") == 0) {
		rc = xsd(c, &s, &err);
	} else {
		rc = with_warehouse(c, &s, &code, &err);
	}
	return rc == 0 ? code : cli_fail(c, &err);
}
