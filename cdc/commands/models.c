/*
 * models: the folder of models by hand. Guarantees: ls and compile touch no
 * database; test leaves nothing behind; build publishes all or nothing.
 */
#include <inttypes.h>
#include <sys/random.h>

#include "apply/reports/build.h"
#include "apply/reports/runs.h"
#include "apply/sql/migrate.h"
#include "cdc/commands/bar.h"
#include "cdc/commands/commands.h"
#include "proto/base/yaml.h"
#include "proto/pg/pgconn.h"
#include "transforms/models/render.h"
#include "transforms/models/select.h"

const struct cli_usage models_usage = {
	.args = "ls|compile|build|test [SELECTOR…]",
	.text = "ls: the models that are selected, in the order of building. compile MODEL: its "
		"SQL, "
		"as it\nwould run against what is published. build: into the warehouse, from one "
		"snapshot, tested, and\nthen published as views "
		"staging|intermediate|outputs.<model>; "
		"what did not change is not built\nagain. test: the same, and nothing of it "
		"stays.\n"
		"Selectors: m, +m (with what it reads), m+ (with what reads it), report:norm/id, "
		"path:models/x,\na folder (outputs); several are united; none: all. Exit code 1 "
		"when "
		"only warnings were found by\ntests.\n",
	.option = {{"--as-of", "DATE", "what var('as_of') is (today, in UTC)"},
		   {"--tests", NULL, "compile: the SQL of the model's tests instead"},
		   {"--full-refresh", NULL, "build what did not change, too"},
		   {"--no-publish", NULL, "build only; the views stay as they are"}},
};

struct command {
	struct cli *c;
	struct settings s;
	struct models *m;
	const char *const *selector;
	size_t selector_count;
	struct models_report *report; /* what report:norm/id means */
	size_t report_count;
	int32_t as_of;
	int64_t run_at_us;
	struct rt_err err;
};

static const char *make_uuid(struct arena *a)
{
	uint8_t r[16];
	if (getrandom(r, sizeof(r), 0) != (ssize_t)sizeof(r))
		rt_bug(__FILE__, __LINE__, "getrandom");
	r[6] = (uint8_t)((r[6] & 0x0F) | 0x40);
	r[8] = (uint8_t)((r[8] & 0x3F) | 0x80);
	return arena_printf(a,
			    "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
			    r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10],
			    r[11], r[12], r[13], r[14], r[15]);
}

/* --as-of, YYYY-MM-DD and nothing else. */
static int read_as_of(struct command *k)
{
	const char *text = cli_option(k->c, "--as-of");
	struct tm tm = {0}, again;
	char date[16];
	k->run_at_us = rt_now_us();
	k->as_of = (int32_t)(k->run_at_us / INT64_C(86400000000));
	if (text == NULL)
		return 0;
	const char *end = strptime(text, "%Y-%m-%d", &tm);
	time_t at = end != NULL && *end == '\0' ? timegm(&tm) : 0;
	if (end == NULL || *end != '\0' || gmtime_r(&at, &again) == NULL ||
	    strftime(date, sizeof(date), "%Y-%m-%d", &again) != 10 || strcmp(date, text) != 0)
		return rt_fail(&k->err, ERR_USAGE, "--as-of is a date, YYYY-MM-DD");
	k->as_of = (int32_t)(at / 86400);
	return 0;
}

/* Of the definitions of reports, where there are any: each with the model that it is written from. */
static int read_reports(struct command *k)
{
	struct arena *a = &k->c->arena;
	struct report_pack *pack = arena_zalloc(a, sizeof(*pack));
	if (k->s.reports.definitions[0] == '\0')
		return 0;
	int rc = runs_pack(&k->s, a, pack, NULL, NULL, &k->err);
	if (rc != 0)
		return rc;
	k->report = arena_zalloc(a, (pack->count + 1) * sizeof(*k->report));
	for (size_t i = 0; i < pack->count; i++)
		k->report[k->report_count++] = (struct models_report){
			.id = pack->report[i].id, .model = pack->report[i].model};
	return 0;
}

/* ---- ls, compile ---- */

static int list(struct command *k)
{
	bool *set = arena_zalloc(&k->c->arena, (k->m->model_count + 1) * sizeof(*set));
	int rc = models_select(k->m, k->selector, k->selector_count, k->report, k->report_count,
			       set, &k->err);
	if (rc != 0)
		return rc;
	for (size_t i = 0; i < k->m->model_count; i++) {
		const struct model *md = &k->m->model[k->m->order[i]];
		if (set[k->m->order[i]])
			printf("%-45s %-5s %s\n", md->name,
			       md->layer == MODEL_SEED ? "seed"
			       : md->table	       ? "table"
						       : "view",
			       md->file);
	}
	return 0;
}

static int fail_unknown(struct command *k, const char *name)
{
	const char **names = arena_alloc(&k->c->arena, (k->m->model_count + 1) * sizeof(*names));
	for (size_t i = 0; i < k->m->model_count; i++)
		names[i] = k->m->model[i].name;
	const char *near = yaml_nearest(name, names, k->m->model_count);
	if (near != NULL)
		return rt_fail(&k->err, ERR_USAGE, "there is no model %s; did you mean %s?", name,
			       near);
	return rt_fail(&k->err, ERR_USAGE, "there is no model %s", name);
}

static const char *quoted(struct arena *a, const char *schema, const char *name)
{
	struct buf b = BUF_INIT;
	pgc_ident(&b, schema);
	buf_str(&b, ".");
	pgc_ident(&b, name);
	const char *text = arena_strdup(a, buf_cstr(&b));
	buf_release(&b);
	return text;
}

/* Each counts the rows that do not hold. */
static void render_tests(struct command *k, const struct model *md, const char *const *relation,
			 struct buf *out)
{
	for (size_t i = 0; i < md->test_count; i++) {
		const struct model_test *t = &md->test[i];
		buf_printf(out, "-- %s%s%s\n", model_test_name(t->kind),
			   t->column != NULL ? " " : "", t->column != NULL ? t->column : "");
		build_test_sql(t, relation, (size_t)(md - k->m->model), &k->c->arena, out);
		buf_str(out, ";\n");
	}
}

static int compile(struct command *k)
{
	struct arena *a = &k->c->arena;
	const struct models *m = k->m;
	if (k->selector_count != 1)
		return rt_fail(&k->err, ERR_USAGE, "compile takes one model");
	const struct model *md = models_find(m, k->selector[0]);
	if (md == NULL || md->layer == MODEL_SEED)
		return fail_unknown(k, k->selector[0]);
	const char **model = arena_alloc(a, (m->model_count + 1) * sizeof(*model));
	const char **source = arena_alloc(a, (m->source_count + 1) * sizeof(*source));
	for (size_t i = 0; i < m->model_count; i++)
		model[i] = quoted(a, model_layer_name(m->model[i].layer), m->model[i].name);
	for (size_t i = 0; i < m->source_count; i++)
		source[i] = quoted(a,
				   m->source[i].landed && strcmp(m->source[i].schema, "raw") == 0
					   ? k->s.warehouse.schema
					   : m->source[i].schema,
				   m->source[i].identifier);
	struct render_names names = {.model = model,
				     .source = source,
				     .this = model[md - m->model],
				     .as_of = render_as_of(a, k->as_of),
				     .run_at = render_run_at(a, k->run_at_us)};
	struct buf out = BUF_INIT;
	if (cli_option(k->c, "--tests") != NULL)
		render_tests(k, md, model, &out);
	else
		model_render(m, md, &names, &out, NULL);
	printf("%s%s", buf_cstr(&out), out.len > 0 && out.p[out.len - 1] == '\n' ? "" : "\n");
	buf_release(&out);
	return 0;
}

/* ---- build, test ---- */

static void print_model(const struct build_model *md)
{
	const char *layer = model_layer_name(md->layer), *how = md->reused ? "same" : "built";
	if (md->table)
		printf("%-8s %s.%s: table, %" PRId64 " row%s\n", how, layer, md->name, md->rows,
		       md->rows == 1 ? "" : "s");
	else if (md->schema != NULL)
		printf("%-8s %s.%s: view\n", how, layer, md->name);
	else
		printf("%-8s %s.%s: view over sources, within the build\n", "read", layer,
		       md->name);
}

/* What tests and sources have to say; how many warnings. */
static size_t print_findings(const struct build_result *r)
{
	static const char *const states[] = {"fresh", "stale (warn)", "stale (error)", "empty",
					     "absent, taken as empty"};
	size_t warnings = 0;
	for (size_t i = 0; i < r->source_count; i++)
		if (r->source[i].state != SOURCE_FRESH) {
			printf("source   %s.%s: %s\n", r->source[i].source, r->source[i].table,
			       states[r->source[i].state]);
			warnings++;
		}
	for (size_t i = 0; i < r->test_count; i++) {
		const struct build_test *t = &r->test[i];
		if (t->failures == 0)
			continue;
		printf("%-8s %s%s%s: %s, %" PRId64 " row%s\n", t->warns ? "warn" : "FAIL", t->model,
		       t->column != NULL ? "." : "", t->column != NULL ? t->column : "", t->name,
		       t->failures, t->failures == 1 ? "" : "s");
		warnings++;
	}
	return warnings;
}

static void print_summary(const struct build_result *r, const char *run_id, const char *what)
{
	size_t built = 0;
	for (size_t i = 0; i < r->model_count; i++)
		built += !r->model[i].reused && r->model[i].schema != NULL;
	printf("%s: run %s, %zu models (%zu built anew), %zu tests, watermark " LSN_FMT "\n", what,
	       run_id, r->model_count, built, r->test_count, LSN_ARGS(r->watermark));
}

static int connect_warehouse(struct command *k, PGconn **ret)
{
	struct pgc_options o = {.what = "warehouse",
				.conninfo = k->s.warehouse.connect,
				.application_name = arena_printf(&k->c->arena, "rolag models %s",
								 k->s.pipeline)};
	int rc = pgc_connect(ret, &o, &k->err);
	return rc == 0 ? migrate_check(*ret, &k->err) : rc;
}

static int publish(struct command *k, PGconn *c, const char *run_id)
{
	int dropped;
	struct rt_err ignored; /* what is left goes the next time */
	struct build_publish o = {.s = &k->s, .project = k->m, .run_id = run_id};
	int rc = build_publish(c, &o, &k->err);
	if (rc == 0)
		(void)!build_sweep(c, &dropped, &ignored);
	return rc;
}

static void show_progress(void *ctx, size_t done, size_t total, const char *model)
{
	bar_show(ctx, done, total, model);
}

static int build(struct command *k, bool trial, bool *ret_warned)
{
	struct bar bar;
	const char *run_id = make_uuid(&k->c->arena);
	struct build_options o = {.s = &k->s,
				  .project = k->m,
				  .selector = k->selector,
				  .selector_count = k->selector_count,
				  .report = k->report,
				  .report_count = k->report_count,
				  .run_id = run_id,
				  .as_of = k->as_of,
				  .run_at_us = k->run_at_us,
				  .anew = cli_option(k->c, "--full-refresh") != NULL,
				  .trial = trial,
				  .progress = show_progress,
				  .ctx = &bar};
	struct build_result r;
	struct rt_err ignored; /* what a crash left is in nobody's way */
	PGconn *c = NULL;
	int dropped, rc = connect_warehouse(k, &c);
	if (rc != 0) {
		pgc_close(c);
		return rc;
	}
	(void)!build_sweep(c, &dropped, &ignored);
	bar_begin(&bar, trial ? "test" : "build", "models and tests", 0);
	bar_show(&bar, 0, 0, "the snapshot");
	rc = build_run(c, &o, &r, &k->err);
	bar_hide(&bar);
	for (size_t i = 0; i < r.model_count && rc == 0; i++)
		print_model(&r.model[i]);
	*ret_warned = print_findings(&r) > 0;
	bool shown = !trial && cli_option(k->c, "--no-publish") == NULL;
	if (rc == 0 && shown)
		rc = publish(k, c, run_id);
	if (rc == 0)
		print_summary(&r, run_id, trial ? "tested" : shown ? "published" : "built");
	build_result_release(&r);
	pgc_close(c);
	return rc;
}

int cmd_models(struct cli *c)
{
	struct command k = {.c = c};
	bool warned = false;
	int rc = cli_settings(c, &k.s, &k.err);
	const char *verb = c->arg_count > 0 ? c->arg[0] : "";
	k.selector = c->arg_count > 0 ? c->arg + 1 : NULL;
	k.selector_count = c->arg_count > 0 ? (size_t)c->arg_count - 1 : 0;
	if (rc == 0)
		rc = read_as_of(&k);
	if (rc == 0)
		rc = build_read_project(&c->arena, k.s.models.path, &k.m, &k.err);
	if (rc == 0)
		rc = read_reports(&k);
	if (rc != 0)
		return cli_fail(c, &k.err);
	if (strcmp(verb, "ls") == 0)
		rc = list(&k);
	else if (strcmp(verb, "compile") == 0)
		rc = compile(&k);
	else if (strcmp(verb, "build") == 0 || strcmp(verb, "test") == 0)
		rc = build(&k, verb[0] == 't', &warned);
	else
		rc = rt_fail(&k.err, ERR_USAGE, "ls, compile, build or test is wanted");
	if (rc != 0)
		return cli_fail(c, &k.err);
	return warned ? EXIT_FINDING : EXIT_OK;
}
