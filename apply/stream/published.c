/*
 * published: one question to the core, and to the warehouse one statement for
 * each mirror. Guarantees: a mark is replaced only together with the state that
 * has the table read again.
 */
#include "apply/stream/published.h"

#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/pg/pgconn.h"
#include "proto/pg/published.h"

static const struct published_want *wants(const struct settings *s, const struct mirror_set *set,
					  struct arena *a)
{
	const char *inserts = arena_printf(a, SETTINGS_INSERTS_FMT, s->pipeline);
	const char *changes = arena_printf(a, SETTINGS_CHANGES_FMT, s->pipeline);
	struct published_want *want = arena_alloc(a, set->count * sizeof(*want));
	for (uint16_t i = 0; i < set->count; i++) {
		const struct mirror *m = &set->item[i];
		want[i] = (struct published_want){.publication = m->append_only ? inserts : changes,
						  .nspname = m->nspname,
						  .relname = m->relname,
						  .changes = !m->append_only};
	}
	return want;
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
static int note_mark(PGconn *c, const struct settings *s, const struct mirror *m, const char *mark,
		     struct rt_err *err)
{
	const char *params[] = {s->pipeline, m->relname, mark};
	PGresult *res;
	int rc = pgc_query(
		c, &res, err,
		"UPDATE rolag.relation SET fingerprint = $3, changed_at = CASE WHEN fingerprint IS "
		"NULL THEN changed_at ELSE now() END, state = CASE WHEN state = 'live' AND "
		"fingerprint IS NOT NULL THEN 'syncing' ELSE state END WHERE pipeline = $1 AND "
		"name = $2 AND kind = 'mirror' AND (fingerprint IS NULL OR ($3 <> '' AND "
		"fingerprint <> $3 AND state IN ('live', 'parked'))) RETURNING state = 'syncing' "
		"AND changed_at = "
		"now()",
		3, params);
	if (rc != 0)
		return rc;
	bool synced = PQntuples(res) == 1 && PQgetvalue(res, 0, 0)[0] == 't';
	PQclear(res);
	FAILPOINT_FD(MIRROR_PUBLISHED_NOTED, PQsocket(c));
	if (synced)
		log_warn("a table was not published as it must be for a while: it is synced",
			 "table=%s", m->source);
	return 0;
}

int published_check(PGconn *warehouse, const struct settings *s, const struct mirror_set *set,
		    struct rt_err *err)
{
	struct arena a;
	PGresult *res;
	if (set->count == 0)
		return 0;
	arena_init(&a, 4096);
	int rc = ask_core(s, wants(s, set, &a), set->count, &res, err);
	arena_release(&a);
	if (rc != 0)
		return rc;
	for (uint16_t i = 0; rc == 0 && i < set->count; i++)
		rc = note_mark(warehouse, s, &set->item[i], published_mark(res, i), err);
	PQclear(res);
	return rc;
}
