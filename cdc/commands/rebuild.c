/*
 * rebuild: asks apply to build a rollup anew beside its live tables, shows how
 * far it is and what it changes. Guarantees: only the request is written; apply
 * does the work, and goes on with it whether somebody watches or not.
 */
#include <inttypes.h>
#include <poll.h>

#include "apply/sql/migrate.h"
#include "apply/stream/landed.h"
#include "cdc/commands/bar.h"
#include "cdc/commands/commands.h"
#include "proto/base/yaml.h"
#include "proto/pg/pgconn.h"

#define LOOK_MS	     300
#define SAY_EVERY_US INT64_C(2000000)
#define TAKEN_UP_US  INT64_C(15000000)

const struct cli_usage rebuild_usage = {
	.args = "ROLLUP",
	.text = "Builds the rows of ROLLUP anew from the core's events by the definition in "
		"rollups.path, beside the live\ntables, which are read and follow the stream "
		"meanwhile; counts how they differ, by column, and lets the\nnew ones take the old "
		"ones' place in one transaction. Apply does that by itself when it starts with a\n"
		"definition whose number is greater; then this command shows how far it is. The "
		"old "
		"rows are kept as\nROLLUP__d0, outside of the stream, until the next rebuild. ^C "
		"ends only the watching.\n",
	.option = {{"--undo", NULL, "back to what is kept: brought up to date first, then swapped"},
		   {"--forget", NULL, "drop what is kept for an undo"},
		   {"--show", NULL, "ask for nothing: show the newest rebuild and what it changed"},
		   {"--no-wait", NULL, "ask, and do not wait for it"}},
};

struct run {
	PGconn *c;
	const struct settings *s;
	const char *name;
	const char *what; /* rebuild, undo, forget */
	const struct rollup *file;
	char number[16], fingerprint[17]; /* of the definition that is asked for */
	char said[512];			  /* what is in its way, as it was printed last */
	int64_t moved_us;
	struct bar bar;
};

/* ---- asking ---- */

static int find_rollup(struct run *q, const struct landed_set *set, struct rt_err *err)
{
	const char **name = rt_calloc(set->count + 1U, sizeof(*name));
	RT_ASSERT(q->name != NULL);
	for (uint16_t i = 0; i < set->count; i++) {
		name[i] = set->item[i].rollup->name;
		if (strcmp(name[i], q->name) == 0)
			q->file = set->item[i].rollup;
	}
	const char *near = yaml_nearest(q->name, name, set->count);
	int rc = q->file != NULL
			 ? 0
			 : rt_fail(err, ERR_USAGE, "no rollup %s is landed%s%s", q->name,
				   near != NULL ? "; did you mean " : "", near != NULL ? near : "");
	free(name);
	return rc;
}

static int one_row(struct run *q, PGresult **ret, const char *sql, struct rt_err *err)
{
	const char *params[] = {q->s->pipeline, q->name};
	return pgc_query(q->c, ret, err, sql, 2, params);
}

/* Which definition is asked for: that of the file, or, for an undo, of what is kept. */
static int find_definition(struct run *q, struct rt_err *err)
{
	PGresult *res;
	const bool undo = strcmp(q->what, "undo") == 0;
	snprintf(q->number, sizeof(q->number), "%" PRId32, q->file->definition);
	snprintf(q->fingerprint, sizeof(q->fingerprint), "%016" PRIx64, q->file->fingerprint);
	int rc = one_row(
		q, &res,
		"SELECT r.definition, k.definition, k.fingerprint, (SELECT number FROM "
		"rolag.rebuild b WHERE b.pipeline = r.pipeline AND b.rollup = r.name AND "
		"b.what = 'undo' AND b.state IN ('asked', 'building', 'counted')), (SELECT "
		"fingerprint FROM rolag.rebuild b WHERE b.pipeline = r.pipeline AND b.rollup "
		"= r.name) FROM rolag.relation r LEFT JOIN rolag.relation k ON k.pipeline = "
		"r.pipeline AND k.name = r.name || '" LANDED_KEPT
		"' WHERE r.pipeline = $1 AND r.name = $2",
		err);
	if (rc != 0)
		return rc;
	const int32_t live =
		PQntuples(res) > 0 ? (int32_t)strtol(PQgetvalue(res, 0, 0), NULL, 10) : 0;
	if (PQntuples(res) == 0) {
		rc = rt_fail(err, ERR_PERMANENT, "%s has no tables yet; mend: rolag init", q->name);
	} else if (undo && !PQgetisnull(res, 0, 3)) { /* it is under way */
		snprintf(q->number, sizeof(q->number), "%s", PQgetvalue(res, 0, 3));
		snprintf(q->fingerprint, sizeof(q->fingerprint), "%s", PQgetvalue(res, 0, 4));
	} else if (undo && PQgetisnull(res, 0, 1)) {
		rc = rt_fail(err, ERR_PERMANENT,
			     "nothing is kept of %s that an undo could go back to", q->name);
	} else if (undo) {
		snprintf(q->number, sizeof(q->number), "%s", PQgetvalue(res, 0, 1));
		snprintf(q->fingerprint, sizeof(q->fingerprint), "%s", PQgetvalue(res, 0, 2));
	} else if (strcmp(q->what, "rebuild") == 0 && q->file->definition < live) {
		rc = rt_fail(
			err, ERR_PERMANENT,
			"%s has definition %" PRId32 ", the live rows were made by %" PRId32
			"; mend: restore the newer file, or, to go back: rolag rebuild %s --undo",
			q->file->file, q->file->definition, live, q->name);
	}
	PQclear(res);
	return rc;
}

/* One is under way: 1 where it is the one that is asked for, and is tried again at once. */
static int join(struct run *q, struct rt_err *err)
{
	PGresult *res;
	int rc = one_row(
		q, &res,
		"SELECT what, number, fingerprint FROM rolag.rebuild WHERE pipeline = $1 AND "
		"rollup = $2 AND state IN ('asked', 'building', 'counted') FOR UPDATE",
		err);
	if (rc != 0)
		return rc;
	bool open = PQntuples(res) > 0;
	bool same = open && strcmp(PQgetvalue(res, 0, 0), q->what) == 0 &&
		    strcmp(PQgetvalue(res, 0, 1), q->number) == 0 &&
		    strcmp(PQgetvalue(res, 0, 2), q->fingerprint) == 0;
	if (open && !same)
		rc = rt_fail(
			err, ERR_PERMANENT,
			"a %s of %s towards definition %s is under way; mend: wait for its end "
			"(rolag rebuild %s --show)",
			PQgetvalue(res, 0, 0), q->name, PQgetvalue(res, 0, 1), q->name);
	PQclear(res);
	if (rc == 0 && same)
		rc = one_row(q, NULL,
			     "UPDATE rolag.rebuild SET reason = NULL, retry_at = NULL, tries = 0 "
			     "WHERE pipeline = $1 AND rollup = $2",
			     err);
	return rc == 0 ? same : rc;
}

static int insert_request(struct run *q, struct rt_err *err)
{
	const char *params[] = {q->s->pipeline, q->name, q->what, q->number, q->fingerprint};
	return pgc_query(
		q->c, NULL, err,
		"INSERT INTO rolag.rebuild (pipeline, rollup, what, state, number, fingerprint) "
		"VALUES ($1, $2, $3, 'asked', $4::int4, $5) ON CONFLICT (pipeline, rollup) DO "
		"UPDATE SET (what, state, number, fingerprint, reason, asked_at, begun_at, "
		"retry_at, tries, done_at) = (excluded.what, excluded.state, excluded.number, "
		"excluded.fingerprint, NULL, clock_timestamp(), NULL, NULL, 0, NULL)",
		5, params);
}

static int ask(struct run *q, struct rt_err *err)
{
	int rc = find_definition(q, err);
	if (rc == 0)
		rc = pgc_exec(q->c, NULL, err, "BEGIN");
	if (rc == 0)
		rc = join(q, err);
	if (rc == 1)
		printf("%s: it is under way\n", q->name);
	if (rc == 0 && (rc = insert_request(q, err)) == 0 && strcmp(q->what, "forget") != 0)
		printf("%s: definition %s will be built\n", q->name, q->number);
	fflush(stdout);
	return rc >= 0 ? pgc_exec(q->c, NULL, err, "COMMIT") : rc;
}

/* ---- showing ---- */

static int print_columns(struct run *q, struct rt_err *err)
{
	PGresult *res;
	int rc = one_row(
		q, &res,
		"SELECT column_name, rows FROM rolag.rebuild_column WHERE pipeline = $1 AND "
		"rollup = $2 ORDER BY rows DESC, column_name",
		err);
	for (int i = 0; rc == 0 && i < PQntuples(res); i++)
		printf("  %s: %s rows\n", PQgetvalue(res, i, 0), PQgetvalue(res, i, 1));
	if (rc == 0)
		PQclear(res);
	return rc;
}

static void print_names(const PGresult *res, int column, const char *what)
{
	if (!PQgetisnull(res, 0, column) && PQgetvalue(res, 0, column)[0] != '\0')
		printf("columns only in the %s: %s\n", what, PQgetvalue(res, 0, column));
}

/* What it changes, as far as it is counted. */
static int print_counts(struct run *q, struct rt_err *err)
{
	PGresult *res;
	int rc =
		one_row(q, &res,
			"SELECT same, differing, only_old, only_new, gone, added, counted_lsn FROM "
			"rolag.rebuild WHERE pipeline = $1 AND rollup = $2 AND counted_lsn IS NOT "
			"NULL",
			err);
	if (rc != 0)
		return rc;
	if (PQntuples(res) == 0) {
		PQclear(res);
		return 0;
	}
	printf("Old and new rows at %s: %s alike, %s differ, %s only in the old, %s only in the "
	       "new\n",
	       PQgetvalue(res, 0, 6), PQgetvalue(res, 0, 0), PQgetvalue(res, 0, 1),
	       PQgetvalue(res, 0, 2), PQgetvalue(res, 0, 3));
	rc = print_columns(q, err);
	print_names(res, 4, "old");
	print_names(res, 5, "new");
	PQclear(res);
	return rc;
}

enum { STATE, WHAT, NUMBER, REASON, BESIDE_STATE, ROWS, ESTIMATE, BESIDE_REASON };

static int read_state(struct run *q, PGresult **ret, struct rt_err *err)
{
	return one_row(
		q, ret,
		"SELECT b.state, b.what, b.number, b.reason, r.state, s.rows, "
		"greatest(s.estimated_rows, s.rows), r.reason FROM rolag.rebuild b LEFT JOIN "
		"rolag.relation r ON r.pipeline = b.pipeline AND r.name = b.rollup || '__d' || "
		"b.number LEFT JOIN rolag.sync s ON s.pipeline = r.pipeline AND s.name = r.name "
		"WHERE b.pipeline = $1 AND b.rollup = $2",
		err);
}

/* Where it is, but for rows being read. */
static const char *stage_of(const PGresult *res)
{
	const char *state = PQgetvalue(res, 0, STATE), *beside = PQgetvalue(res, 0, BESIDE_STATE);
	if (strcmp(state, "asked") == 0)
		return "apply has not begun it";
	if (strcmp(state, "counted") == 0)
		return "counted, the swap is next";
	if (strcmp(beside, "live") == 0)
		return "it follows the stream, differences are counted";
	return PQgetisnull(res, 0, ROWS) ? "it waits to be read" : NULL;
}

static void print_progress(struct run *q, const PGresult *res)
{
	const char *stage = stage_of(res);
	if (stage != NULL)
		printf("%s: %s\n", q->name, stage);
	else
		printf("%s: %s rows read of about %s\n", q->name, PQgetvalue(res, 0, ROWS),
		       PQgetvalue(res, 0, ESTIMATE));
}

static void show_progress(struct run *q, const PGresult *res)
{
	const char *stage = stage_of(res);
	if (stage != NULL)
		bar_show(&q->bar, 0, 0, stage);
	else
		bar_show(&q->bar, strtoull(PQgetvalue(res, 0, ROWS), NULL, 10),
			 strtoull(PQgetvalue(res, 0, ESTIMATE), NULL, 10), q->name);
}

/* Said whenever it changes. */
static void print_reason(struct run *q, const char *reason)
{
	if (strcmp(reason, q->said) == 0)
		return;
	snprintf(q->said, sizeof(q->said), "%s", reason);
	bar_hide(&q->bar);
	if (reason[0] != '\0')
		printf("%s: it waits: %s\n", q->name, reason);
}

static void watch_one(struct run *q, const PGresult *res)
{
	int64_t now = rt_mono_us();
	bool parked = strcmp(PQgetvalue(res, 0, BESIDE_STATE), "parked") == 0;
	print_reason(q, parked ? PQgetvalue(res, 0, BESIDE_REASON) : PQgetvalue(res, 0, REASON));
	if (strcmp(PQgetvalue(res, 0, STATE), "asked") != 0)
		q->moved_us = now;
	if (now - q->moved_us > TAKEN_UP_US) {
		q->moved_us = now;
		bar_hide(&q->bar);
		puts("apply does not take it up: is it running? (rolag status)");
	}
	fflush(stdout);
	show_progress(q, res);
}

static int print_end(struct run *q, const PGresult *res, struct rt_err *err)
{
	const char *what = PQgetvalue(res, 0, WHAT);
	if (strcmp(what, "forget") == 0) {
		printf("%s: nothing is kept of it any more\n", q->name);
		return 0;
	}
	int rc = print_counts(q, err);
	printf("%s: definition %s is live; what was live before is kept (rolag rebuild %s "
	       "--undo)\n",
	       q->name, PQgetvalue(res, 0, NUMBER), q->name);
	return rc;
}

/* 1: it is at its end. */
static int look(struct run *q, bool watch, struct rt_err *err)
{
	PGresult *res;
	int rc = read_state(q, &res, err);
	if (rc != 0)
		return rc;
	const char *state = PQntuples(res) > 0 ? PQgetvalue(res, 0, STATE) : NULL;
	if (state == NULL) {
		printf("%s was not rebuilt yet\n", q->name);
		rc = 1;
	} else if (strcmp(state, "refused") == 0) {
		rc = rt_fail(err, ERR_PERMANENT, "%s: %s", q->name, PQgetvalue(res, 0, REASON));
	} else if (strcmp(state, "done") == 0) {
		bar_hide(&q->bar);
		rc = print_end(q, res, err);
		rc = rc == 0 ? 1 : rc;
	} else if (watch) {
		watch_one(q, res);
	} else {
		rc = print_counts(q, err);
		print_progress(q, res);
		print_reason(q, PQgetvalue(res, 0, REASON));
		rc = rc == 0 ? 1 : rc;
	}
	PQclear(res);
	return rc;
}

static int watch(struct run *q, struct rt_err *err)
{
	int rc;
	q->moved_us = rt_mono_us();
	bar_begin(&q->bar, q->what, "rows", SAY_EVERY_US);
	while ((rc = look(q, true, err)) == 0)
		poll(NULL, 0, LOOK_MS);
	bar_hide(&q->bar);
	return rc < 0 ? rc : 0;
}

/* ---- the command ---- */

static int read_words(struct run *q, const struct cli *c, struct rt_err *err)
{
	const bool undo = cli_option(c, "--undo") != NULL,
		   forget = cli_option(c, "--forget") != NULL;
	const bool show = cli_option(c, "--show") != NULL;
	if (c->arg_count != 1)
		return rt_fail(err, ERR_USAGE, "name one rollup (rolag rebuild --help)");
	if (undo + forget + show > 1)
		return rt_fail(err, ERR_USAGE, "--undo, --forget, --show: one of them");
	q->name = c->arg[0];
	q->what = undo ? "undo" : (forget ? "forget" : "rebuild");
	return 0;
}

static int run(struct run *q, const struct cli *c, const struct landed_set *set, struct rt_err *err)
{
	struct pgc_options o = {.what = "warehouse",
				.conninfo = q->s->warehouse.connect,
				.application_name = "rolag rebuild"};
	int rc = find_rollup(q, set, err);
	if (rc == 0)
		rc = pgc_connect(&q->c, &o, err);
	if (rc == 0)
		rc = migrate_check(q->c, err);
	if (rc == 0 && cli_option(c, "--show") != NULL) {
		rc = look(q, false, err);
		return rc < 0 ? rc : 0;
	}
	if (rc == 0)
		rc = ask(q, err);
	if (rc == 0 && cli_option(c, "--no-wait") == NULL)
		rc = watch(q, err);
	return rc;
}

int cmd_rebuild(struct cli *c)
{
	struct settings s;
	struct landed_set set = {0};
	struct rt_err err;
	struct run q = {.s = &s};
	int rc = read_words(&q, c, &err);
	if (rc == 0)
		rc = cli_settings(c, &s, &err);
	if (rc == 0)
		rc = landed_load(&c->arena, &s, &set, &err);
	if (rc == 0)
		rc = run(&q, c, &set, &err);
	pgc_close(q.c);
	landed_release(&set);
	return rc != 0 ? cli_fail(c, &err) : EXIT_OK;
}
