/*
 * verify_repair: asks apply to make entities anew, and holds it to that.
 * Guarantees: what is called repaired was compared again behind it.
 */
#include <inttypes.h>
#include <poll.h>

#include "cdc/commands/commands.h"
#include "cdc/commands/verify.h"
#include "proto/pg/pgconn.h"

#define POLL_MS 50

void verify_remember(void *ctx, const struct landed *l, const char *id, int32_t extra_up_to)
{
	struct verify_run *run = ctx;
	if (run->entity_count == run->entity_cap) {
		run->entity_cap = run->entity_cap == 0 ? 64 : run->entity_cap * 2;
		run->entity = rt_realloc(run->entity, run->entity_cap * sizeof(*run->entity));
	}
	run->entity[run->entity_count++] = (struct verify_entity){l, rt_strdup(id), extra_up_to};
}

void verify_forget(struct verify_run *run)
{
	for (size_t i = 0; i < run->entity_count; i++)
		free(run->entity[i].id);
	free(run->entity);
	free(run->synced);
}

static int request(PGconn *c, const struct verify_run *run, const struct verify_entity *e,
		   struct rt_err *err)
{
	char extra[16];
	snprintf(extra, sizeof(extra), "%" PRId32, e->extra_up_to);
	const char *params[] = {run->settings.pipeline, e->landed->rollup->name, e->id, extra};
	return pgc_query(c, NULL, err,
			 "INSERT INTO rolag.repair (pipeline, rollup, id, extra_up_to) VALUES "
			 "($1, $2, $3, $4::int4) ON CONFLICT (pipeline, rollup, id) DO UPDATE SET "
			 "extra_up_to = CASE WHEN rolag.repair.state = 'waiting' THEN "
			 "greatest(rolag.repair.extra_up_to, excluded.extra_up_to) ELSE "
			 "excluded.extra_up_to END, state = 'waiting', reason = NULL, asked_at = "
			 "clock_timestamp(), done_at = NULL",
			 4, params);
}

/* How an entity's request stands: "waiting", "done", "refused". */
static int look(PGconn *c, const struct verify_run *run, const struct verify_entity *e, char *ret,
		struct rt_err *err)
{
	const char *params[] = {run->settings.pipeline, e->landed->rollup->name, e->id};
	PGresult *res;
	int rc = pgc_query(c, &res, err,
			   "SELECT left(state, 1) FROM rolag.repair WHERE pipeline = $1 AND rollup "
			   "= $2 AND id = $3",
			   3, params);
	if (rc != 0)
		return rc;
	*ret = PQntuples(res) == 1 ? PQgetvalue(res, 0, 0)[0] : 'r';
	PQclear(res);
	return 0;
}

/* Until apply has done with e, for as long as patience lasts. */
static int await(PGconn *c, struct verify_run *run, const struct verify_entity *e,
		 struct rt_err *err)
{
	int64_t until = rt_mono_us() + run->options.patience_us;
	char state;
	for (;;) {
		int rc = look(c, run, e, &state, err);
		if (rc != 0)
			return rc;
		if (state != 'w')
			break;
		if (rt_mono_us() > until)
			return rt_fail(err, ERR_RETRY,
				       "apply did not repair %s, entity %s, within %" PRId64
				       " s, it goes on trying; mend: the log of apply says why",
				       e->landed->rollup->name, e->id,
				       run->options.patience_us / 1000000);
		poll(NULL, 0, POLL_MS);
	}
	run->repaired += state == 'd';
	run->refused += state != 'd';
	return 0;
}

static int by_entity(const void *a, const void *b)
{
	const struct verify_entity *x = a, *y = b;
	int order = strcmp(x->landed->rollup->name, y->landed->rollup->name);
	return order != 0 ? order : strcmp(x->id, y->id);
}

/* Each entity once, with all of its rows that are too many. */
static void unite(struct verify_run *run)
{
	size_t n = 0;
	qsort(run->entity, run->entity_count, sizeof(*run->entity), by_entity);
	for (size_t i = 1; i < run->entity_count; i++) {
		struct verify_entity *e = &run->entity[i];
		if (by_entity(&run->entity[n], e) != 0) {
			run->entity[++n] = *e;
			continue;
		}
		run->entity[n].extra_up_to = RT_MAX(run->entity[n].extra_up_to, e->extra_up_to);
		free(e->id);
	}
	run->entity_count = n + 1;
}

static int compare_again(struct verify *v, struct verify_run *run, struct rt_err *err)
{
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < run->entity_count; i++) {
		const char *id = run->entity[i].id;
		rc = verify_entities(v, run->entity[i].landed, 1, &id, &run->after, err);
	}
	return rc;
}

int verify_repair(struct verify_run *run, struct rt_err *err)
{
	struct verify *v;
	struct verify_options o = run->options;
	if (run->entity_count == 0)
		return 0;
	unite(run);
	o.found_entity = NULL;
	o.progress = NULL;
	o.sample = 1; /* entities only: no quick pass */
	int rc = verify_open(&v, &o, err);
	if (rc != 0)
		return rc;
	PGconn *c = verify_warehouse(v);
	for (size_t i = 0; rc == 0 && i < run->entity_count; i++)
		rc = request(c, run, &run->entity[i], err);
	if (rc == 0)
		rc = verify_pass(v, err);
	bar_begin(&run->bar, "repair", "entities", 0);
	for (size_t i = 0; rc == 0 && i < run->entity_count; i++) {
		bar_show(&run->bar, i, run->entity_count, run->entity[i].landed->rollup->name);
		rc = await(c, run, &run->entity[i], err);
	}
	bar_hide(&run->bar);
	if (rc == 0)
		rc = compare_again(v, run, err);
	verify_close(v);
	return rc;
}

/* ---- mirrors ---- */

/* As rolag sync asks for it: apply takes it up within a second. */
static int ask_sync(PGconn *c, const struct verify_run *run, const struct mirror *m,
		    struct rt_err *err)
{
	const char *params[] = {run->settings.pipeline, m->relname};
	return pgc_query(c, NULL, err,
			 "UPDATE rolag.relation SET state = 'syncing', reason = NULL, changed_at = "
			 "now() WHERE pipeline = $1 AND name = $2 AND state = 'live'",
			 2, params);
}

/* State's first letter, and rows read so far (a sign that it gets on). */
static int look_sync(PGconn *c, const struct verify_run *run, const struct mirror *m, char *ret,
		     uint64_t *ret_rows, struct rt_err *err)
{
	const char *params[] = {run->settings.pipeline, m->relname};
	PGresult *res;
	int rc = pgc_query(c, &res, err,
			   "SELECT left(r.state, 1), coalesce(s.rows, 0) + coalesce(s.replayed_lsn "
			   "- '0/0'::pg_lsn, 0) FROM rolag.relation r LEFT JOIN rolag.sync s USING "
			   "(pipeline, name) WHERE r.pipeline = $1 AND r.name = $2",
			   2, params);
	if (rc != 0)
		return rc;
	*ret = PQntuples(res) == 1 ? PQgetvalue(res, 0, 0)[0] : 'p';
	*ret_rows = PQntuples(res) == 1 ? strtoull(PQgetvalue(res, 0, 1), NULL, 10) : 0;
	PQclear(res);
	return 0;
}

/* Is somebody writing the mirror's table (its sync, in one transaction)? */
static int sync_is_running(PGconn *c, const struct mirror *m, bool *ret, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_query(c, &res, err,
			   "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE relation = "
			   "to_regclass($1) AND granted AND mode IN ('RowExclusiveLock', "
			   "'AccessExclusiveLock'))",
			   1, &m->target);
	if (rc != 0)
		return rc;
	*ret = PQgetvalue(res, 0, 0)[0] == 't';
	PQclear(res);
	return 0;
}

/*
 * Until it is live again, or parked. Its COPY is one transaction, which shows
 * nothing on the way: so long as apply's worker holds its table, it gets on.
 */
static int await_sync(PGconn *c, struct verify_run *run, struct verify_synced *s,
		      struct rt_err *err)
{
	const struct mirror *m = s->mirror;
	int64_t moved_us = rt_mono_us();
	uint64_t rows, before = 0;
	char state;
	for (;;) {
		int rc = look_sync(c, run, m, &state, &rows, err);
		if (rc != 0)
			return rc;
		if (state == 'l' || state == 'p')
			break;
		bool held;
		rc = sync_is_running(c, m, &held, err);
		if (rc != 0)
			return rc;
		if (held || rows != before)
			moved_us = rt_mono_us();
		before = rows;
		bar_show(&run->bar, rows, 0, m->relname);
		if (rt_mono_us() - moved_us > run->options.patience_us)
			return rt_fail(err, ERR_RETRY,
				       "apply does not sync %s, it goes on trying; mend: rolag "
				       "status says why",
				       m->relname);
		poll(NULL, 0, POLL_MS);
	}
	s->refused = state != 'l';
	run->resynced += state == 'l';
	run->refused += s->refused;
	return 0;
}

static int compare_synced(struct verify_run *run, struct rt_err *err)
{
	struct verify_mirror *v;
	struct verify_options o = run->options;
	o.found = NULL;
	o.progress = NULL;
	o.sample = 0; /* all of it was read again */
	int rc = verify_mirror_open(&v, &o, err);
	if (rc != 0)
		return rc;
	for (uint16_t i = 0; rc == 0 && i < run->synced_count; i++)
		if (!run->synced[i].refused)
			rc = verify_mirror(v, &run->mirrors, run->synced[i].mirror, &run->after,
					   err);
	verify_mirror_close(v);
	return RT_MIN(rc, 0);
}

int verify_resync(struct verify_run *run, struct rt_err *err)
{
	PGconn *c;
	if (run->synced_count == 0)
		return 0;
	int rc = verify_connect_warehouse(&run->options, &c, err);
	if (rc != 0)
		return rc;
	for (uint16_t i = 0; rc == 0 && i < run->synced_count; i++)
		rc = ask_sync(c, run, run->synced[i].mirror, err);
	bar_begin(&run->bar, "sync", "rows", 0);
	for (uint16_t i = 0; rc == 0 && i < run->synced_count; i++)
		rc = await_sync(c, run, &run->synced[i], err);
	bar_hide(&run->bar);
	pgc_close(c);
	return rc == 0 ? compare_synced(run, err) : rc;
}
