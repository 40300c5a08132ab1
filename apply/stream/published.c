/*
 * published: one question to the core, and to the warehouse one statement for
 * each source. Guarantees: a mark is replaced only together with the state that
 * has the table read again.
 */
#include "apply/stream/published.h"

#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/pg/pgconn.h"
#include "proto/pg/published.h"

/* A source of landed tables: one mirror, or the rollups of one event table. */
struct source {
	const char *kind, *name; /* as rolag.relation has them in kind and source */
};

struct sources {
	struct source *item;
	struct published_want *want;
	int count;
};

static void add_source(struct sources *to, struct source item, struct published_want want)
{
	to->item[to->count] = item;
	to->want[to->count++] = want;
}

static void find_sources(const struct settings *s, const struct landed_set *landed,
			 const struct mirror_set *mirrors, struct arena *a, struct sources *ret)
{
	const char *inserts = arena_printf(a, SETTINGS_INSERTS_FMT, s->pipeline);
	const char *changes = arena_printf(a, SETTINGS_CHANGES_FMT, s->pipeline);
	const size_t most = (size_t)landed->own + mirrors->count;
	*ret = (struct sources){.item = arena_alloc(a, most * sizeof(*ret->item)),
				.want = arena_alloc(a, most * sizeof(*ret->want))};
	for (uint16_t i = 0; i < landed->own; i++) {
		const struct rollup *r = landed->item[i].rollup;
		if (landed_find_source(landed, 0, r->source_schema, r->source_table) != i)
			continue; /* with the first of them */
		add_source(ret,
			   (struct source){"rollup", arena_printf(a, "%s.%s", r->source_schema,
								  r->source_table)},
			   (struct published_want){.publication = inserts,
						   .nspname = r->source_schema,
						   .relname = r->source_table});
	}
	for (uint16_t i = 0; i < mirrors->count; i++) {
		const struct mirror *m = &mirrors->item[i];
		add_source(ret, (struct source){"mirror", m->source},
			   (struct published_want){.publication =
							   m->append_only ? inserts : changes,
						   .nspname = m->nspname,
						   .relname = m->relname,
						   .changes = !m->append_only});
	}
}

static int ask_core(const struct settings *s, const struct published_want *want, int count,
		    PGresult **ret, struct rt_err *err)
{
	struct pgc_options o = {
		.what = "core", .conninfo = s->core.connect, .application_name = "rolag sync"};
	struct buf sql = BUF_INIT;
	PGconn *c;
	int rc = pgc_connect(&c, &o, err);
	if (rc != 0)
		return rc;
	FAILPOINT_FD(MIRROR_PUBLISHED_ASK, PQsocket(c));
	rc = pgc_exec(c, NULL, err,
		      "SET default_transaction_read_only = on; SET statement_timeout = '5s'; SET "
		      "search_path = pg_catalog");
	published_sql(&sql, want, count);
	if (rc == 0)
		rc = pgc_query(c, ret, err, buf_cstr(&sql), 0, NULL);
	buf_release(&sql);
	pgc_close(c);
	return rc;
}

/*
 * The first look notes the mark ('': it misses changes already). Later, another
 * whole one means that changes are missing: a live table is synced, a parked one
 * is read anew anyway, whenever it is taken up; one that is being synced may
 * have been read before, and is looked at again when it is live.
 */
static int note_mark(PGconn *c, const struct settings *s, const struct source *of, const char *mark,
		     struct rt_err *err)
{
	const char *params[] = {s->pipeline, of->kind, of->name, mark};
	PGresult *res;
	int rc = pgc_query(
		c, &res, err,
		"UPDATE rolag.relation SET published = $4, changed_at = CASE WHEN published IS "
		"NULL THEN changed_at ELSE now() END, state = CASE WHEN state = 'live' AND "
		"published IS NOT NULL THEN 'syncing' ELSE state END WHERE pipeline = $1 AND "
		"kind = $2 AND source = $3 AND (published IS NULL OR ($4 <> '' AND published <> $4 "
		"AND state IN ('live', 'parked'))) RETURNING name, state = 'syncing' AND "
		"changed_at = now()",
		4, params);
	if (rc != 0)
		return rc;
	FAILPOINT_FD(MIRROR_PUBLISHED_NOTED, PQsocket(c));
	for (int i = 0; i < PQntuples(res); i++)
		if (PQgetvalue(res, i, 1)[0] == 't')
			log_warn("a table was not published as it must be for a while: it is "
				 "synced",
				 "table=%s name=%s", of->name, PQgetvalue(res, i, 0));
	PQclear(res);
	return 0;
}

int published_check(PGconn *warehouse, const struct settings *s, const struct landed_set *landed,
		    const struct mirror_set *mirrors, struct rt_err *err)
{
	struct sources sources;
	struct arena a;
	PGresult *res;
	if (landed->own + mirrors->count == 0)
		return 0;
	arena_init(&a, 4096);
	find_sources(s, landed, mirrors, &a, &sources);
	int rc = ask_core(s, sources.want, sources.count, &res, err);
	if (rc == 0) {
		for (int i = 0; rc == 0 && i < sources.count; i++)
			rc = note_mark(warehouse, s, &sources.item[i], published_mark(res, i), err);
		PQclear(res);
	}
	arena_release(&a);
	return rc;
}
