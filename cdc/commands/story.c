/*
 * story: the life of one entity as the warehouse tells it. Guarantees: reads
 * only, shows values only when asked to.
 */
#include <inttypes.h>
#include <limits.h>

#include "apply/stream/landed.h"
#include "cdc/commands/commands.h"
#include "proto/pg/pgconn.h"

#define VALUE_MAX 200 /* bytes of a value that are shown */

const struct cli_usage story_usage = {
	.args = "ENTITY-ID",
	.text = "Every version of the entity (a uuid) in all landed rollups, in the order of "
		"their times: which\nevent, where in the core's WAL it was committed, and when. "
		"Times are UTC. With --values also\nthe columns that each version changed. Exit "
		"code 1 when there is none.\n",
	.option = {{"--values", NULL, "show the columns that changed, with their values"}},
};

enum { COL_VERSION, COL_EVENT, COL_MODIFIED, COL_LSN, COL_COMMITTED, COL_ORDER, COL_VALUES };

struct page {
	const char *rollup;
	int64_t version, modified_us;
	const char *event, *modified, *lsn, *committed;
	const char *changes; /* lines, or "" */
};

struct story {
	struct arena *arena;
	struct page *page;
	size_t count, cap;
	bool waits; /* some of it is in quarantine */
};

static bool is_uuid(const char *s)
{
	size_t n = 0;
	for (; s[n] != '\0'; n++) {
		bool dash = n == 8 || n == 13 || n == 18 || n == 23;
		if (dash ? s[n] != '-' : strchr("0123456789abcdefABCDEF", s[n]) == NULL)
			return false;
	}
	return n == 36;
}

/* For the terminal, in the arena. */
static const char *plain(struct arena *a, const char *text)
{
	struct buf b = BUF_INIT;
	while (*text != '\0') {
		char one[RT_PLAIN_SIZE];
		text += rt_plain(text, one);
		buf_str(&b, one);
	}
	const char *s = arena_strdup(a, buf_cstr(&b));
	buf_release(&b);
	return s;
}

/* Appends "      column = value" for columns of row that differ from the row before. */
static void add_changes(const struct rollup *r, const PGresult *res, int row, struct buf *out)
{
	for (int i = 0; i < r->column_count; i++) {
		int col = COL_VALUES + i;
		bool null = PQgetisnull(res, row, col);
		const char *v = PQgetvalue(res, row, col);
		bool same = row == 0 ? null
				     : null == PQgetisnull(res, row - 1, col) &&
					       strcmp(v, PQgetvalue(res, row - 1, col)) == 0;
		if (same)
			continue;
		size_t len = strlen(v), shown = RT_MIN(len, (size_t)VALUE_MAX);
		while (shown < len && ((unsigned char)v[shown] & 0xC0) == 0x80)
			shown--; /* not within a character */
		buf_printf(out, "      %s = ", r->column[i].name);
		for (size_t at = 0; at < shown;) { /* nothing may steer the terminal */
			char one[RT_PLAIN_SIZE];
			at += rt_plain(v + at, one);
			buf_str(out, one);
		}
		buf_printf(out, "%s\n", null ? "NULL" : (shown < len ? "…" : ""));
	}
}

static void add_pages(struct story *s, const struct rollup *r, const PGresult *res, bool values)
{
	struct buf changes = BUF_INIT;
	for (int row = 0; row < PQntuples(res); row++) {
		if (s->count == s->cap) {
			s->cap = s->cap == 0 ? 64 : s->cap * 2;
			s->page = rt_realloc(s->page, s->cap * sizeof(*s->page));
		}
		buf_clear(&changes);
		if (values)
			add_changes(r, res, row, &changes);
		s->page[s->count++] = (struct page){
			.rollup = r->name,
			.version = strtoll(PQgetvalue(res, row, COL_VERSION), NULL, 10),
			.modified_us = strtoll(PQgetvalue(res, row, COL_ORDER), NULL, 10),
			.event = plain(s->arena, PQgetvalue(res, row, COL_EVENT)),
			.modified = arena_strdup(s->arena, PQgetvalue(res, row, COL_MODIFIED)),
			.lsn = arena_strdup(s->arena, PQgetvalue(res, row, COL_LSN)),
			.committed = arena_strdup(s->arena, PQgetvalue(res, row, COL_COMMITTED)),
			.changes = arena_strdup(s->arena, buf_cstr(&changes)),
		};
	}
	buf_release(&changes);
}

/* The entity's versions in one rollup. */
static int read_rollup(struct story *s, PGconn *c, const struct landed *l, const char *id,
		       bool values, struct rt_err *err)
{
	const struct rollup *r = l->rollup;
	bool text = r->id_type == PGT_TEXT || r->id_type == PGT_VARCHAR;
	if (r->id_type != PGT_UUID && !text)
		return 0; /* numbers: no uuid is one */
	struct buf sql = BUF_INIT;
	PGresult *res;
	buf_str(&sql,
		"SELECT version, event_type, to_char(modified_at, 'YYYY-MM-DD HH24:MI:SS.US'), "
		"_lsn, to_char(_committed_at, 'YYYY-MM-DD HH24:MI:SS.US'), "
		"(extract(epoch FROM modified_at) * 1000000)::bigint");
	for (uint16_t i = 0; values && i < r->column_count; i++) {
		buf_str(&sql, ", ");
		pgc_ident(&sql, r->column[i].name);
	}
	buf_printf(&sql, " FROM %s WHERE id = $1::%s ORDER BY version", l->history,
		   text ? "text" : "uuid");
	int rc = pgc_query(c, &res, err, buf_cstr(&sql), 1, &id);
	buf_release(&sql);
	if (rc != 0)
		return rt_context(err, "reading %s (rolag check says what is missing)", l->history);
	add_pages(s, r, res, values);
	PQclear(res);
	return 0;
}

/* Events of it that wait: one line per rollup, without values. */
static int print_waiting(PGconn *c, const struct settings *settings, const char *id, bool *ret_any,
			 struct rt_err *err)
{
	const char *params[] = {settings->pipeline, id};
	PGresult *res;
	int rc = pgc_query(
		c, &res, err,
		"SELECT rollup, count(*), min(sequence) FILTER (WHERE first), min(reason) "
		"FILTER (WHERE first) FROM rolag.quarantine WHERE pipeline = $1 AND id = "
		"lower($2) AND state <> 'skipped' GROUP BY rollup ORDER BY rollup",
		2, params);
	if (rc != 0)
		return rc;
	for (int i = 0; i < PQntuples(res); i++) {
		printf("It waits in quarantine: %s, %s event%s from sequence %s on: ",
		       PQgetvalue(res, i, 0), PQgetvalue(res, i, 1),
		       strcmp(PQgetvalue(res, i, 1), "1") == 0 ? "" : "s", PQgetvalue(res, i, 2));
		cli_put(PQgetvalue(res, i, 3), SIZE_MAX);
		putchar('\n');
	}
	*ret_any = PQntuples(res) > 0;
	PQclear(res);
	return 0;
}

static int by_time(const void *a, const void *b)
{
	const struct page *x = a, *y = b;
	if (x->modified_us != y->modified_us)
		return x->modified_us < y->modified_us ? -1 : 1;
	int order = strcmp(x->rollup, y->rollup);
	if (order == 0)
		order = x->version < y->version ? -1 : x->version > y->version;
	return order;
}

static void print_story(const struct story *s)
{
	int rollup = 6, event = 5;
	for (size_t i = 0; i < s->count; i++) {
		rollup = RT_MAX(rollup, (int)RT_MIN(strlen(s->page[i].rollup), (size_t)63));
		event = RT_MAX(event, (int)RT_MIN(strlen(s->page[i].event), (size_t)63));
	}
	printf("%-26s  %-*s  %7s  %-*s  %-16s  %s\n", "modified_at", rollup, "rollup", "version",
	       event, "event", "_lsn", "_committed_at");
	for (size_t i = 0; i < s->count; i++) {
		const struct page *p = &s->page[i];
		printf("%-26s  %-*s  %7" PRId64 "  %-*s  %-16s  %s\n", p->modified, rollup,
		       p->rollup, p->version, event, p->event, p->lsn,
		       p->committed[0] != '\0' ? p->committed : "(first load)");
		fputs(p->changes, stdout);
	}
}

static int read_story(struct story *s, const struct settings *settings, struct landed_set *set,
		      const char *id, bool values, struct rt_err *err)
{
	PGconn *c;
	struct pgc_options o = {.what = "warehouse",
				.conninfo = settings->warehouse.connect,
				.application_name = "rolag story"};
	int rc = pgc_connect(&c, &o, err);
	if (rc != 0)
		return rc;
	rc = pgc_exec(c, NULL, err,
		      "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; BEGIN TRANSACTION ISOLATION "
		      "LEVEL REPEATABLE READ, READ ONLY");
	if (rc == 0) /* as the rows are, whatever the files say by now */
		rc = landed_resolve(c, settings, set, err);
	for (uint16_t i = 0; rc == 0 && i < set->count; i++)
		rc = read_rollup(s, c, &set->item[i], id, values, err);
	if (rc == 0)
		rc = print_waiting(c, settings, id, &s->waits, err);
	pgc_close(c);
	return rc;
}

int cmd_story(struct cli *c)
{
	struct settings settings;
	struct landed_set set = {0};
	struct story s = {.arena = &c->arena};
	struct rt_err err;
	const char *id = c->arg[0];
	int rc = is_uuid(id) ? cli_settings(c, &settings, &err)
			     : rt_fail(&err, ERR_USAGE, "the entity id must be a uuid");
	if (rc == 0)
		rc = landed_load(&c->arena, &settings, &set, &err);
	if (rc == 0)
		rc = read_story(&s, &settings, &set, id, cli_option(c, "--values") != NULL, &err);
	landed_release(&set);
	if (rc != 0) {
		free(s.page);
		return cli_fail(c, &err);
	}
	if (s.count == 0 && s.waits)
		return EXIT_OK;
	if (s.count == 0) {
		printf("No landed rollup has an entity %s.\n", id);
		return EXIT_FINDING;
	}
	qsort(s.page, s.count, sizeof(*s.page), by_time);
	print_story(&s);
	free(s.page);
	return EXIT_OK;
}
