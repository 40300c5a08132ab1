/*
 * sync: asks apply to bring tables up to the core, and shows how far that is.
 * Guarantees: only the state of relations is written; apply does the work, and
 * goes on with it whether somebody watches or not.
 */
#include <poll.h>

#include "apply/sql/migrate.h"
#include "cdc/commands/bar.h"
#include "cdc/commands/commands.h"
#include "proto/base/yaml.h"
#include "proto/pg/pgconn.h"

#define LOOK_MS	     100
#define SAY_EVERY_US INT64_C(2000000)
#define TAKEN_UP_US  INT64_C(15000000)

const struct cli_usage sync_usage = {
	.args = "[TABLE…]",
	.text = "Reads each TABLE (a name as rolag.relation has it, or its source) again from the "
		"core while everything\nelse goes on: writes what the warehouse lacks, and takes a "
		"parked table up again. What is there already\nstays; a mirror is read anew beside "
		"it, "
		"and takes its place when it is done. Apply begins within a\nsecond; "
		"`rolag status` shows how far it is. With --wait the command\nends when all of "
		"them "
		"follow the stream again, and ^C ends only the watching.\n",
	.option = {{"--all", NULL, "every landed table"},
		   {"--wait", NULL, "show how far they are until they are done"}},
};

struct request {
	PGconn *c;
	const char *pipeline, *schema;
	struct buf names; /* of tables asked for, as an array literal */
	int count;
};

/* Names need no quoting but for ", \ and {}: they are PostgreSQL's and may have any. */
static void add_name(struct request *q, const char *name)
{
	buf_str(&q->names, q->count++ == 0 ? "{\"" : ",\"");
	for (const char *p = name; *p != '\0'; p++) {
		if (*p == '"' || *p == '\\')
			buf_u8(&q->names, '\\');
		buf_u8(&q->names, (uint8_t)*p);
	}
	buf_u8(&q->names, '"');
}

static int unknown_table(const PGresult *known, const char *word, struct rt_err *err)
{
	size_t n = (size_t)PQntuples(known);
	const char **name = rt_calloc(n + 1, sizeof(*name));
	for (size_t i = 0; i < n; i++)
		name[i] = PQgetvalue(known, (int)i, 0);
	const char *near = yaml_nearest(word, name, n);
	int rc = rt_fail(err, ERR_USAGE, "no table %s is landed%s%s (rolag.relation lists them)",
			 word, near != NULL ? "; did you mean " : "", near != NULL ? near : "");
	free(name);
	return rc;
}

static int add_word(struct request *q, const PGresult *known, const char *word, struct rt_err *err)
{
	for (int i = 0; i < PQntuples(known); i++) {
		const char *name = PQgetvalue(known, i, 0);
		if (strcmp(name, word) != 0 && strcmp(PQgetvalue(known, i, 1), word) != 0)
			continue;
		if (strcmp(PQgetvalue(known, i, 2), "rebuilding") == 0)
			return rt_fail(err, ERR_USAGE, "%s is being rebuilt, which syncs it", name);
		add_name(q, name);
		return 0;
	}
	return unknown_table(known, word, err);
}

static int find_tables(struct request *q, const struct cli *c, struct rt_err *err)
{
	PGresult *known;
	int rc = pgc_query(q->c, &known, err,
			   "SELECT name, source, state FROM rolag.relation WHERE pipeline = $1 AND "
			   "beside IS NULL ORDER BY name",
			   1, &q->pipeline);
	if (rc != 0)
		return rc;
	for (int i = 0; rc == 0 && i < c->arg_count; i++)
		rc = add_word(q, known, c->arg[i], err);
	for (int i = 0; cli_option(c, "--all") != NULL && i < PQntuples(known); i++)
		if (strcmp(PQgetvalue(known, i, 2), "rebuilding") != 0)
			add_name(q, PQgetvalue(known, i, 0));
	PQclear(known);
	if (rc == 0 && q->count == 0)
		return rt_fail(err, ERR_PERMANENT,
			       "the pipeline %s has no landed table; mend: rolag init",
			       q->pipeline);
	buf_u8(&q->names, '}');
	return rc;
}

static int ask(struct request *q, struct rt_err *err)
{
	const char *params[] = {q->pipeline, buf_cstr(&q->names)};
	PGresult *res;
	int rc = pgc_query(q->c, &res, err,
			   "UPDATE rolag.relation SET state = 'syncing', reason = NULL, changed_at "
			   "= now() WHERE pipeline = $1 AND name = ANY ($2::text[]) AND state IN "
			   "('live', 'parked') RETURNING name",
			   2, params);
	if (rc != 0)
		return rc;
	for (int i = 0; i < PQntuples(res); i++)
		printf("%s: will be synced\n", PQgetvalue(res, i, 0));
	if (PQntuples(res) < q->count)
		printf("%d being synced already\n", q->count - PQntuples(res));
	PQclear(res);
	return 0;
}

/* ---- --wait ---- */

/*
 * What is left is the sum over the tables that are not done; a table that is done is in it no more. So the greatest
 * that was ever left is the whole, and what is missing from it is done.
 */
struct waiting {
	struct bar bar;
	uint64_t most, left; /* rows, by the planner's estimates */
	uint64_t rows;	     /* read by the syncs under way */
	int64_t moved_us;
	int tables;
};

static void show(struct waiting *w)
{
	char note[64];
	snprintf(note, sizeof(note), "%d table%s to go", w->tables, w->tables == 1 ? "" : "s");
	w->most = RT_MAX(w->most, w->left);
	if (w->most > w->left)
		bar_show(&w->bar, w->most - w->left, w->most, note);
	else
		bar_show(&w->bar, w->rows, 0, note);
}

/* 1: all are live; 0: not yet. */
static int look(struct request *q, struct waiting *w, struct rt_err *err)
{
	const char *params[] = {q->pipeline, buf_cstr(&q->names), q->schema};
	PGresult *res;
	int rc = pgc_query(
		q->c, &res, err,
		"SELECT count(*) FILTER (WHERE r.state = 'syncing'), count(*) FILTER (WHERE "
		"r.state = 'parked'), coalesce(sum(s.rows), 0), coalesce(sum(greatest("
		"coalesce(nullif(s.estimated_rows, 0), t.reltuples, 0) - coalesce(s.rows, 0), 0)) "
		"FILTER (WHERE r.state = 'syncing'), 0)::int8, count(s.*) FROM rolag.relation r "
		"LEFT JOIN rolag.sync s USING (pipeline, name) LEFT JOIN pg_catalog.pg_class t ON "
		"t.relname = r.name AND t.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace "
		"WHERE nspname = $3) WHERE r.pipeline = $1 AND r.name = ANY ($2::text[])",
		3, params);
	if (rc != 0)
		return rc;
	int64_t now = rt_mono_us();
	int parked = (int)strtol(PQgetvalue(res, 0, 1), NULL, 10);
	uint64_t rows = strtoull(PQgetvalue(res, 0, 2), NULL, 10);
	bool begun = strtol(PQgetvalue(res, 0, 4), NULL, 10) > 0;
	w->tables = (int)strtol(PQgetvalue(res, 0, 0), NULL, 10);
	w->left = strtoull(PQgetvalue(res, 0, 3), NULL, 10);
	PQclear(res);
	w->moved_us = begun || rows != w->rows ? now : w->moved_us;
	w->rows = rows;
	if (w->tables == 0 && parked > 0)
		return rt_fail(err, ERR_PERMANENT,
			       "%d of them was parked again; rolag.relation says why", parked);
	if (w->tables == 0)
		return 1;
	if (now - w->moved_us > TAKEN_UP_US) {
		w->moved_us = now;
		bar_hide(&w->bar);
		puts("apply does not take it up: is it running? (rolag status)");
		fflush(stdout);
	}
	show(w);
	return 0;
}

static int wait_for_all(struct request *q, struct rt_err *err)
{
	struct waiting w = {.moved_us = rt_mono_us()};
	int rc;
	bar_begin(&w.bar, "sync", "rows", SAY_EVERY_US);
	bar_show(&w.bar, 0, 0, NULL);
	while ((rc = look(q, &w, err)) == 0)
		poll(NULL, 0, LOOK_MS);
	bar_hide(&w.bar);
	if (rc == 1)
		puts("All of them follow the stream.");
	return rc < 0 ? rc : 0;
}

static int run(struct request *q, const struct cli *c, const struct settings *s, struct rt_err *err)
{
	struct pgc_options o = {.what = "warehouse",
				.conninfo = s->warehouse.connect,
				.application_name = "rolag sync"};
	q->pipeline = s->pipeline;
	q->schema = s->warehouse.schema;
	int rc = pgc_connect(&q->c, &o, err);
	if (rc == 0)
		rc = migrate_check(q->c, err);
	if (rc == 0)
		rc = find_tables(q, c, err);
	if (rc == 0)
		rc = ask(q, err);
	if (rc == 0 && cli_option(c, "--wait") != NULL)
		rc = wait_for_all(q, err);
	return rc;
}

int cmd_sync(struct cli *c)
{
	struct settings s;
	struct rt_err err;
	struct request q = {.names = BUF_INIT};
	bool all = cli_option(c, "--all") != NULL;
	int rc = all == (c->arg_count > 0)
			 ? rt_fail(&err, ERR_USAGE, "name tables, or --all (rolag sync --help)")
			 : cli_settings(c, &s, &err);
	if (rc == 0)
		rc = run(&q, c, &s, &err);
	pgc_close(q.c);
	buf_release(&q.names);
	return rc != 0 ? cli_fail(c, &err) : EXIT_OK;
}
