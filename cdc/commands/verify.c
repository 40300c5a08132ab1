/*
 * verify: compares the warehouse with what the core's events fold to, while
 * everything runs. Guarantees: reads only (but for fences), tells keys and
 * column names, never a value, and says 0 only when every table that was asked
 * for was compared and is equal.
 */
#include <errno.h>
#include <inttypes.h>

#include "cdc/commands/commands.h"
#include "cdc/commands/verify.h"
#include "proto/pg/pgconn.h"

/* Without --sample and --full. */
#define SAMPLE_ENTITIES 1000
/* Without --wait. */
#define PATIENCE_SECONDS 60
#define PATIENCE_MAX	 86400
/* Differences that are printed; the rest is counted. */
#define PRINT_MAX 1000

const struct cli_usage verify_usage = {
	.args = "[TABLE…]",
	.text = "Folds the core's events anew and compares every column (but _lsn, _committed_at) "
		"with the landed\nrows, and each mirror with its source, while everything runs: "
		"all tables, or those named. Prints\ndifferences by key and column, never "
		"values. Exit code 1 when there is one, or a table could not be compared.\n",
	.option = {{"--sample", "N",
		    "about N entities (of a mirror: rows) of each, chosen at random (1000)"},
		   {"--full", NULL, "all rows"},
		   {"--repair", NULL,
		    "let apply make entities with differences anew from the core, and sync "
		    "mirrors"},
		   {"--wait", "SECONDS",
		    "for apply to get on, and for old transactions of the core to end (60)"},
		   {"--against-triggers", NULL,
		    "with the core's own rollup tables, where it has them; of history"},
		   {"--json", NULL, "one JSON object"}},
};

static void json_text(FILE *out, const char *s)
{
	fputc('"', out);
	for (; *s != '\0'; s++) {
		unsigned char c = (unsigned char)*s;
		if (c == '"' || c == '\\')
			fprintf(out, "\\%c", c);
		else if (c < 0x20)
			fprintf(out, "\\u%04x", c);
		else
			fputc(c, out);
	}
	fputc('"', out);
}

static void found_json(struct verify_run *run, const struct verify_finding *f)
{
	printf("%s\n    {\"kind\": \"%s\", \"table\": ", run->printed > 1 ? "," : "",
	       verify_kind_name(f->kind));
	json_text(stdout, f->relation);
	if (f->key != NULL) {
		fputs(", \"key\": ", stdout);
		json_text(stdout, f->key);
	} else {
		fputs(", \"id\": ", stdout);
		json_text(stdout, f->id);
		printf(", \"version\": %" PRId32, f->version);
	}
	if (f->column != NULL) {
		fputs(", \"column\": ", stdout);
		json_text(stdout, f->column);
	}
	if (f->reason != NULL) {
		fputs(", \"reason\": ", stdout);
		json_text(stdout, f->reason);
	}
	putchar('}');
}

static void found(void *ctx, const struct verify_finding *f)
{
	struct verify_run *run = ctx;
	if (run->printed == PRINT_MAX)
		return;
	run->printed++;
	bar_hide(&run->bar);
	if (run->json) {
		found_json(run, f);
		return;
	}
	printf("%-10s  %s", verify_kind_name(f->kind), f->relation);
	if (f->key == NULL) {
		fputs("  id ", stdout);
		cli_put(f->id, SIZE_MAX);
		printf("  version %" PRId32, f->version);
	} else if (f->key[0] != '\0') {
		fputs("  key ", stdout);
		cli_put(f->key, SIZE_MAX);
	}
	if (f->column != NULL)
		printf("  column %s", f->column);
	if (f->reason != NULL) {
		fputs("  ", stdout);
		cli_put(f->reason, SIZE_MAX);
	}
	putchar('\n');
}

static void note(void *ctx, const char *relation, const char *text)
{
	struct verify_run *run = ctx;
	bar_hide(&run->bar);
	fprintf(run->json ? stderr : stdout, "note        %s  %s\n", relation, text);
}

/* A table that could not be compared is not proven equal. */
static void not_compared(struct verify_run *run, const struct rt_err *err)
{
	run->not_compared++;
	bar_hide(&run->bar);
	if (!run->json)
		printf("not compared: %s\n", err->msg);
	else
		fprintf(stderr, "not compared: %s\n", err->msg);
}

/* All rows: by rows; a sample: by tables. */
static void show_progress(void *ctx)
{
	struct verify_run *run = ctx;
	if (run->options.sample == 0)
		bar_show(&run->bar, run->count.core_rows, run->expected, run->table);
	else
		bar_show(&run->bar, run->behind, run->tables, run->table);
}

static int compare_one(struct verify_run *run, struct verify **v, const struct landed *l,
		       struct rt_err *err)
{
	run->table = l->rollup->name;
	show_progress(run);
	int rc = *v == NULL ? verify_open(v, &run->options, err) : 0;
	if (rc == 0)
		rc = verify_rollup(*v, l, &run->count, err);
	if (rc == ERR_PERMANENT && *v != NULL) { /* of this table: the others are compared */
		not_compared(run, err);
		verify_close(*v);
		*v = NULL;
		return 0;
	}
	run->compared += rc == 0;
	if (rc == 1)
		note(run, l->rollup->name, "the core has no table of this name: not compared");
	return RT_MIN(rc, 0);
}

static int compare_mirror(struct verify_run *run, struct verify_mirror **v, struct mirror *m,
			  struct rt_err *err)
{
	uint64_t before = run->count.differences;
	run->table = m->relname;
	show_progress(run);
	int rc = *v == NULL ? verify_mirror_open(v, &run->options, err) : 0;
	if (rc == 0)
		rc = verify_mirror(*v, &run->mirrors, m, &run->count, err);
	if (rc == 1)
		rc = rt_fail(err, ERR_PERMANENT,
			     "%s: it has no key that both ends can be searched by, and is too "
			     "large to be read whole for a sample; mend: --full",
			     m->relname);
	if (run->count.differences > before)
		run->synced[run->synced_count++] = (struct verify_synced){.mirror = m};
	if (rc == ERR_PERMANENT && *v != NULL) { /* of this table: the others are compared */
		not_compared(run, err);
		verify_mirror_close(*v);
		*v = NULL;
		return 0;
	}
	run->compared += rc == 0;
	return rc;
}

static bool is_named(const struct cli *c, const char *name, const char *source)
{
	for (int i = 0; i < c->arg_count; i++)
		if (strcmp(c->arg[i], name) == 0 || strcmp(c->arg[i], source) == 0)
			return true;
	return c->arg_count == 0;
}

static int check_names(const struct cli *c, const struct landed_set *set,
		       const struct mirror_set *mirrors, struct rt_err *err)
{
	for (int i = 0; i < c->arg_count; i++) {
		bool known = false;
		for (uint16_t j = 0; j < set->count; j++)
			known |= strcmp(set->item[j].rollup->name, c->arg[i]) == 0;
		for (uint16_t j = 0; j < mirrors->count; j++)
			known |= strcmp(mirrors->item[j].relname, c->arg[i]) == 0 ||
				 strcmp(mirrors->item[j].source, c->arg[i]) == 0;
		if (!known)
			return rt_fail(err, ERR_USAGE, "no landed table has the name %s",
				       c->arg[i]);
	}
	return 0;
}

static int compare(struct verify_run *run, const struct cli *c, const struct landed_set *set,
		   struct rt_err *err)
{
	struct verify *v = NULL;
	struct verify_mirror *vm = NULL;
	int rc = 0;
	int64_t begin = rt_mono_us();
	for (uint16_t i = 0; rc == 0 && i < set->count; i++)
		if (is_named(c, set->item[i].rollup->name, "")) {
			rc = compare_one(run, &v, &set->item[i], err);
			run->behind++;
		}
	/* The core has no second opinion of its own tables. */
	for (uint16_t i = 0; rc == 0 && !run->against_triggers && i < run->mirrors.count; i++)
		if (is_named(c, run->mirrors.item[i].relname, run->mirrors.item[i].source)) {
			rc = compare_mirror(run, &vm, &run->mirrors.item[i], err);
			run->behind++;
		}
	bar_hide(&run->bar);
	run->took_us = RT_MAX(rt_mono_us() - begin, 1);
	verify_close(v);
	verify_mirror_close(vm);
	if (rc == 0 && run->repair)
		rc = verify_repair(run, err);
	if (rc == 0 && run->repair)
		rc = verify_resync(run, err);
	bar_hide(&run->bar);
	run->failed = rc != 0;
	return rc;
}

/* ---- what came out ---- */

static double rows_per_second(const struct verify_run *run)
{
	return (double)(run->count.warehouse_rows + run->count.latest_rows) * 1e6 /
	       (double)run->took_us;
}

/* Now: what was repaired, and compared again, does not count. */
static bool is_equal(const struct verify_run *run)
{
	const struct verify_count *n = run->repair ? &run->after : &run->count;
	return run->compared > 0 && n->differences == 0 && run->after.undecided == 0 &&
	       run->refused == 0 && run->count.undecided == 0 && run->not_compared == 0 &&
	       !run->failed;
}

static void conclude_json(const struct verify_run *run)
{
	const struct verify_count *n = &run->count;
	printf("%s],\n  \"equal\": %s, \"tables\": %d, \"not_compared\": %d, \"core_rows\": "
	       "%" PRIu64 ", \"warehouse_rows\": %" PRIu64 ", \"latest_rows\": %" PRIu64
	       ", \"differences\": %" PRIu64 ", \"differing_entities\": %" PRIu64
	       ", \"undecided_entities\": %" PRIu64
	       ", \"seconds\": %.3f, \"rows_per_second\": %.0f, "
	       "\"repaired_entities\": %" PRIu64 ", \"refused_entities\": %" PRIu64
	       ", \"quarantined_entities\": %" PRIu64 ", \"synced_mirrors\": %" PRIu64 "}\n",
	       run->printed > 0 ? "\n  " : "", is_equal(run) ? "true" : "false", run->compared,
	       run->not_compared, n->core_rows, n->warehouse_rows, n->latest_rows, n->differences,
	       n->differing_entities, n->undecided, (double)run->took_us / 1e6,
	       rows_per_second(run), run->repaired, run->refused, n->parked, run->resynced);
}

static void conclude(const struct verify_run *run)
{
	const struct verify_count *n = &run->count;
	if (n->differences > PRINT_MAX)
		printf("… %" PRIu64 " more differences\n", n->differences - PRINT_MAX);
	if (n->undecided > 0)
		printf("undecided: %" PRIu64
		       " entities have rows that the core does not show, while transactions older "
		       "than they may\n           be are still open there, or are rows of mirrors "
		       "that change all the time; mend: look again\n           when these have "
		       "ended\n",
		       n->undecided);
	if (n->parked > 0)
		printf("in quarantine: %" PRIu64
		       " entities, compared up to the version that waits (rolag quarantine list)\n",
		       n->parked);
	if (n->differences > 0)
		printf("%" PRIu64 " differences of %" PRIu64 " entities", n->differences,
		       n->differing_entities);
	else
		fputs(is_equal(run) ? "Equal" : "Not proven equal", stdout);
	printf(": %d tables, %" PRIu64 " rows of the core, %" PRIu64 " of the warehouse, %" PRIu64
	       " latest ones, in %.1f s (%.0f rows/s).\n",
	       run->compared, n->core_rows, n->warehouse_rows, n->latest_rows,
	       (double)run->took_us / 1e6, rows_per_second(run));
	if (run->repaired + run->refused + run->resynced > 0)
		printf("Repaired %" PRIu64 " entities, synced %" PRIu64 " mirrors, refused %" PRIu64
		       " (the log of apply says why); compared again: %s.\n",
		       run->repaired, run->resynced, run->refused,
		       is_equal(run) ? "equal" : "there are differences left");
}

/* An option's number from 1 to most; *ret stays where it is not given. */
static int take_number(const struct cli *c, const char *name, int64_t most, int64_t *ret,
		       struct rt_err *err)
{
	const char *text = cli_option(c, name);
	char *end = NULL;
	if (text == NULL)
		return 0;
	errno = 0;
	int64_t n = strtoll(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' || n < 1 || n > most)
		return rt_fail(err, ERR_USAGE, "%s is a number from 1 to %" PRId64, name, most);
	*ret = n;
	return 0;
}

static int take_options(struct verify_run *run, const struct cli *c, struct rt_err *err)
{
	int64_t wait = PATIENCE_SECONDS, sample = SAMPLE_ENTITIES;
	bool full = cli_option(c, "--full") != NULL;
	run->json = cli_option(c, "--json") != NULL;
	run->repair = cli_option(c, "--repair") != NULL;
	run->against_triggers = cli_option(c, "--against-triggers") != NULL;
	if (run->against_triggers && run->repair)
		return rt_fail(err, ERR_USAGE,
			       "--repair makes rows from events: not with --against-triggers");
	if (full && cli_option(c, "--sample") != NULL)
		return rt_fail(err, ERR_USAGE, "--sample or --full, not both");
	int rc = take_number(c, "--sample", VERIFY_SAMPLE_MAX, &sample, err);
	if (rc == 0)
		rc = take_number(c, "--wait", PATIENCE_MAX, &wait, err);
	run->options = (struct verify_options){.settings = &run->settings,
					       .sample = full ? 0 : sample,
					       .against_triggers = run->against_triggers,
					       .note = note,
					       .patience_us = wait * 1000000,
					       .found = found,
					       .progress = show_progress,
					       .found_entity = run->repair ? verify_remember : NULL,
					       .ctx = run};
	return rc;
}

/* About how many rows the warehouse holds of a table. */
static int expect_rows(struct verify_run *run, PGconn *c, const char *table, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_query(c, &res, err,
			   "SELECT greatest(reltuples, 0)::int8 FROM pg_catalog.pg_class WHERE oid "
			   "= to_regclass($1)",
			   1, &table);
	if (rc != 0)
		return rc;
	run->tables++;
	run->expected +=
		PQntuples(res) > 0 ? strtoull(PQgetvalue(res, 0, 0), NULL, 10) : UINT64_C(0);
	PQclear(res);
	return 0;
}

/* What there is to do, for who watches it. */
static int expect(struct verify_run *run, const struct cli *cli, const struct landed_set *set,
		  PGconn *c, struct rt_err *err)
{
	int rc = 0;
	for (uint16_t i = 0; rc == 0 && i < set->count; i++)
		if (is_named(cli, set->item[i].rollup->name, ""))
			rc = expect_rows(run, c, set->item[i].history, err);
	for (uint16_t i = 0; rc == 0 && !run->against_triggers && i < run->mirrors.count; i++)
		if (is_named(cli, run->mirrors.item[i].relname, run->mirrors.item[i].source))
			rc = expect_rows(run, c, run->mirrors.item[i].target, err);
	return rc;
}

/* Rows are compared with what the definition says that made them, whatever the files say by now. */
static int resolve(struct verify_run *run, const struct cli *cli, struct landed_set *set,
		   struct rt_err *err)
{
	struct pgc_options o = {.what = "warehouse",
				.conninfo = run->settings.warehouse.connect,
				.application_name = "rolag verify"};
	PGconn *c;
	int rc = pgc_connect(&c, &o, err);
	if (rc != 0)
		return rc;
	rc = landed_resolve(c, &run->settings, set, err);
	if (rc == 0 && run->bar.live)
		rc = expect(run, cli, set, c, err);
	pgc_close(c);
	return rc;
}

int cmd_verify(struct cli *c)
{
	struct verify_run run = {0};
	struct landed_set set = {0};
	struct rt_err err;
	int rc = take_options(&run, c, &err);
	bar_begin(&run.bar, "verify", run.options.sample == 0 ? "rows" : "tables", 0);
	if (rc == 0)
		rc = cli_settings(c, &run.settings, &err);
	if (rc == 0)
		rc = landed_load(&c->arena, &run.settings, &set, &err);
	if (rc == 0)
		rc = mirror_load(&c->arena, &run.settings, &set, &run.mirrors, &err);
	run.synced = rt_calloc(run.mirrors.count + 1u, sizeof(*run.synced));
	if (rc == 0)
		rc = check_names(c, &set, &run.mirrors, &err);
	if (rc == 0)
		rc = resolve(&run, c, &set, &err);
	if (rc == 0 && run.json)
		fputs("{\"findings\": [", stdout);
	if (rc == 0)
		rc = compare(&run, c, &set, &err);
	verify_forget(&run);
	mirror_release(&run.mirrors);
	landed_release(&set);
	if (run.json && run.took_us > 0)
		conclude_json(&run);
	if (rc != 0)
		return cli_fail(c, &err);
	if (!run.json)
		conclude(&run);
	return is_equal(&run) ? EXIT_OK : EXIT_FINDING;
}
