/*
 * load: snapshot, chunks, COPY. Guarantees: a table becomes live in the same
 * transaction that completes its rows; nothing is written on the core, and no
 * session is left idle in a transaction there.
 */
#include "apply/stream/load.h"

#include <inttypes.h>
#include <poll.h>

#include "apply/stream/source.h"
#include "apply/stream/writer_rows.h"
#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/base/metrics.h"
#include "proto/pg/pgconn.h"
#include "proto/pg/slot.h"
#include "transforms/rollup/fold.h"

#define COPY_PIECE_BYTES (256u << 10)

/* A snapshot holds back vacuum on the core: an older one is not begun another table with. */
#define SNAPSHOT_AGE_US INT64_C(30000000)
/* Whoever reads a table that is cleared is neither disturbed for longer, nor waited for within a turn. */
#define CLEAR_LOCK_MS  200
#define CLEAR_AGAIN_US 1000000
#define STOP_POLL_MS   200

struct load {
	PGconn *core, *warehouse;
	const struct settings *settings;
	struct landed *landed;
	const struct ledger *ledger;
	struct loop *loop;
	struct lsn snapshot;
	int64_t snapshot_us; /* monotonic, when it was taken */
	struct source_map map;
	struct arena arena; /* one event */
	/* The entity being folded: its newest row, in memory of its own. */
	struct fold_row state;
	bool has_state;
	struct buf id, event_type, columns;
	struct buf copy;
	uint64_t rows, chunk_rows;
	int64_t told_us; /* when progress was last told */
};

/* ---- the core's side ---- */

static bool on_wait(void *ctx, const struct slot_wait *w)
{
	met_note("the first load waits for old transactions of the core: pid %d, open for %" PRId64
		 " s",
		 w->pid, w->xact_age_us / 1000000);
	log_info("first load waits for old transactions of the core",
		 "waited_s=%" PRId64 " pid=%d open_s=%" PRId64, w->waited_us / 1000000, w->pid,
		 w->xact_age_us / 1000000);
	met_tick(rt_now_us());
	return loop_stopping(ctx);
}

/* Is this the core whose stream goes on behind the load, and not behind where the ledger is? */
static int check_core(PGconn *replication, const struct ledger *l, struct rt_err *err)
{
	struct pgc_system core;
	int rc = pgc_identify_system(replication, &core, err);
	if (rc != 0)
		return rc;
	if (l->system_id != 0 && core.system_id != l->system_id)
		return rt_fail(err, ERR_PERMANENT,
			       "the core has the system identifier %" PRIu64
			       ", the warehouse follows %" PRIu64
			       "; mend: core.connect, or another pipeline for the other core",
			       core.system_id, l->system_id);
	if (core.timeline != l->timeline)
		return rt_fail(err, ERR_PERMANENT,
			       "the core is on timeline %" PRIu32 ", the warehouse on %" PRIu32
			       " (a failover or a restore): a sync is needed",
			       core.timeline, l->timeline);
	return 0;
}

static int import_snapshot(PGconn *core, const char *snapshot, struct rt_err *err)
{
	int rc = pgc_exec(core, NULL, err,
			  "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
			  "SET TRANSACTION SNAPSHOT '%s'; SET LOCAL enable_sort = off; "
			  "SET LOCAL enable_seqscan = off; SET LOCAL statement_timeout = 0; "
			  "SET LOCAL TimeZone = 'UTC'",
			  snapshot);
	if (rc == 0)
		return 0;
	/* The exporting session has ended, and its snapshot with it: a new one will do. */
	err->code = ERR_RETRY;
	return err->code;
}

/* A read-only transaction on the core that sees exactly the commits up to *ret. */
static int open_snapshot(const struct settings *s, const struct ledger *ledger, struct loop *loop,
			 PGconn **ret_core, struct lsn *ret, struct rt_err *err)
{
	struct pgc_options o = {.what = "core",
				.conninfo = s->core.connect,
				.application_name = "rolag load",
				.replication = true,
				.loop = loop};
	PGconn *replication = NULL, *core = NULL;
	struct slot_created slot;
	char name[64];
	struct slot_options so = {.name = name,
				  .temporary = true,
				  .snapshot = SLOT_EXPORT,
				  .on_wait = on_wait,
				  .ctx = loop};
	snprintf(name, sizeof(name), "rolag_load_%.40s_%" PRIx32, s->pipeline,
		 (uint32_t)rt_now_us());
	int rc = pgc_connect(&replication, &o, err);
	FAILPOINT_FD(LOAD_CONNECTED, PQsocket(replication));
	if (rc == 0)
		rc = check_core(replication, ledger, err);
	o.replication = false;
	if (rc == 0)
		rc = pgc_connect(&core, &o, err);
	so.monitor = core;
	if (rc == 0)
		rc = slot_create(replication, &so, &slot, err);
	FAILPOINT_FD(LOAD_SLOT, PQsocket(core));
	if (rc == 0)
		rc = import_snapshot(core, slot.snapshot, err);
	FAILPOINT_FD(LOAD_SNAPSHOT, PQsocket(core));
	pgc_close(replication); /* drops the slot; the snapshot is ours now */
	/* cppcheck-suppress uninitvar; set where rc is 0 */
	if (rc == 0 && lsn_lt(slot.consistent_point, ledger->applied))
		rc = rt_fail(err, ERR_PERMANENT,
			     "the core is at " LSN_FMT ", behind what the warehouse holds, " LSN_FMT
			     ": it went back (a restore), a sync is needed",
			     LSN_ARGS(slot.consistent_point), LSN_ARGS(ledger->applied));
	if (rc != 0) {
		pgc_close(core);
		return rt_context(err, "first load");
	}
	*ret_core = core;
	*ret = slot.consistent_point;
	return 0;
}

static void chunk_sql(const struct rollup *r, bool first, int64_t limit, struct buf *out)
{
	const char *names[] = {r->source_column.id, r->source_column.sequence,
			       r->source_column.event_type, r->source_column.event,
			       r->source_column.recorded_at};
	buf_str(out, "SELECT ");
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		buf_str(out, i > 0 ? ", " : "");
		pgc_ident(out, names[i]);
	}
	buf_str(out, " FROM ");
	pgc_ident(out, r->source_schema);
	buf_u8(out, '.');
	pgc_ident(out, r->source_table);
	struct buf key = BUF_INIT;
	pgc_ident(&key, names[0]);
	buf_str(&key, ", ");
	pgc_ident(&key, names[1]);
	if (!first)
		buf_printf(out, " WHERE (%s) > ($1::%s, $2::int4)", buf_cstr(&key),
			   pgt_name((struct pgt_type){r->id_type, false}));
	buf_printf(out, " ORDER BY %s LIMIT %" PRId64, buf_cstr(&key), limit);
	buf_release(&key);
}

static int send_chunk(struct load *l, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	uint8_t version[4];
	be32_put(version, (uint32_t)l->state.version);
	const char *values[] = {(const char *)l->state.id.p, (const char *)version};
	int lengths[] = {(int)l->state.id.len, 4}, formats[] = {1, 1};
	chunk_sql(l->landed->rollup, !l->has_state, l->settings->apply.load_chunk, &sql);
	int ok = PQsendQueryParams(l->core, buf_cstr(&sql), l->has_state ? 2 : 0, NULL, values,
				   lengths, formats, 1);
	buf_release(&sql);
	if (ok != 1 || PQsetSingleRowMode(l->core) != 1)
		return pgc_fail(l->core, NULL, err, "reading events");
	return 0;
}

/* The columns of the query as a relation, so that rows are read as the stream's are. */
static int map_columns(struct load *l, const PGresult *res, struct rt_err *err)
{
	const struct rollup *r = l->landed->rollup;
	struct schema_column column[5];
	if (PQnfields(res) != 5)
		return rt_fail(err, ERR_PERMANENT, "the core gave other columns");
	for (int i = 0; i < 5; i++)
		column[i] = (struct schema_column){
			.name = PQfname(res, i), .type_oid = PQftype(res, i), .typmod = -1};
	struct schema s = {.nspname = r->source_schema,
			   .relname = r->source_table,
			   .count = 5,
			   .column = column};
	return source_map_columns(r, &s, &l->map, err);
}

/* ---- folding ---- */

static void keep(struct buf *b, struct slice *s)
{
	buf_clear(b);
	buf_add_slice(b, *s);
	*s = buf_slice(b);
}

static int fold_row_of(struct load *l, const PGresult *res, struct rt_err *err)
{
	const struct rollup *r = l->landed->rollup;
	struct value value[5];
	struct tuple row = {5, value};
	struct fold_event e;
	struct fold_note note = {0};
	struct fold_row folded;
	for (int i = 0; i < 5; i++)
		value[i] = (struct value){PQgetisnull(res, 0, i) ? VALUE_NULL : VALUE_BINARY,
					  (uint32_t)PQgetlength(res, 0, i),
					  (const uint8_t *)PQgetvalue(res, 0, i)};
	arena_reset(&l->arena);
	int rc = source_read_row(r, &l->map, &row, &l->arena, &e, err);
	if (rc != 0)
		return rc;
	bool same = l->has_state && slice_eq(l->state.id, e.id);
	enum fold_result result =
		fold_apply(r, same ? &l->state : NULL, &e, &l->arena, &folded, &note, err);
	if (result == FOLD_DUPLICATE) /* (id, sequence) is unique and read in order */
		return rt_fail(err, ERR_PERMANENT, "relation %s.%s: id %s has sequence %d twice",
			       r->source_schema, r->source_table,
			       source_id_text(r, e.id, &l->arena), e.sequence);
	if (result != FOLD_OK && result != FOLD_IGNORED) {
		err->code = ERR_PERMANENT;
		return rt_context(err, "relation %s.%s, first load at LSN " LSN_FMT,
				  r->source_schema, r->source_table, LSN_ARGS(l->snapshot));
	}
	if (note.unknown_keys > 0)
		met_add(MET_APPLY_UNKNOWN_KEYS, note.unknown_keys);
	l->state = folded;
	keep(&l->id, &l->state.id);
	keep(&l->event_type, &l->state.event_type);
	keep(&l->columns, &l->state.columns);
	l->has_state = true;
	writer_copy_row(&l->state, r->column_count, l->snapshot, 0, &l->copy);
	return 0;
}

/* ---- the warehouse's side ---- */

static int begin_held(struct load *l, struct rt_err *err)
{
	char epoch[24];
	snprintf(epoch, sizeof(epoch), "%" PRId64, l->ledger->epoch);
	const char *params[] = {l->settings->pipeline, epoch};
	PGresult *res;
	int rc = pgc_exec(l->warehouse, NULL, err, "BEGIN");
	if (rc != 0)
		return rc;
	rc = pgc_query(l->warehouse, &res, err, ledger_hold_sql, 2, params);
	if (rc != 0)
		return rt_fail(err, ERR_RETRY, "the fence was lost during the first load");
	PQclear(res);
	return 0;
}

/* Statements on the warehouse that may take long: ended when the process is told to stop. */
static int run_long(struct load *l, const char *sql, struct rt_err *err)
{
	int rc = 0;
	bool cancelled = false;
	if (PQsendQuery(l->warehouse, sql) != 1)
		return pgc_fail(l->warehouse, NULL, err, "first load");
	while (PQisBusy(l->warehouse)) {
		struct pollfd fd = {.fd = PQsocket(l->warehouse), .events = POLLIN};
		poll(&fd, 1, STOP_POLL_MS);
		met_tick(rt_now_us());
		if (!cancelled && loop_stopping(l->loop)) {
			cancelled = true;
			pgc_cancel(l->warehouse);
		}
		if (fd.revents != 0 && PQconsumeInput(l->warehouse) == 0)
			break;
	}
	for (PGresult *res; (res = PQgetResult(l->warehouse)) != NULL; PQclear(res))
		if (PQresultStatus(res) != PGRES_COMMAND_OK && rc == 0)
			rc = pgc_fail(l->warehouse, res, err, "first load");
	return rc;
}

static int flush_copy(struct load *l, struct rt_err *err)
{
	if (l->copy.len > 0 &&
	    PQputCopyData(l->warehouse, (const char *)l->copy.p, (int)l->copy.len) != 1)
		return pgc_fail(l->warehouse, NULL, err, "writing the first load");
	buf_clear(&l->copy);
	return 0;
}

static int begin_copy(struct load *l, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	landed_copy_sql(l->landed, &sql);
	int rc = begin_held(l, err);
	if (rc == 0)
		rc = pgc_exec(l->warehouse, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	buf_clear(&l->copy);
	writer_copy_header(&l->copy);
	return rc;
}

static int end_copy(struct load *l, struct rt_err *err)
{
	buf_u16(&l->copy, UINT16_MAX);
	int rc = flush_copy(l, err);
	if (rc != 0)
		return rc;
	FAILPOINT_FD(LOAD_MID_COPY, PQsocket(l->warehouse));
	if (PQputCopyEnd(l->warehouse, NULL) != 1)
		return pgc_fail(l->warehouse, NULL, err, "writing the first load");
	for (PGresult *res; (res = PQgetResult(l->warehouse)) != NULL; PQclear(res))
		if (PQresultStatus(res) != PGRES_COMMAND_OK && rc == 0)
			rc = pgc_fail(l->warehouse, res, err, "writing the first load");
	FAILPOINT_FD(LOAD_BEFORE_CHUNK_COMMIT, PQsocket(l->warehouse));
	if (rc == 0)
		rc = pgc_exec(l->warehouse, NULL, err, "COMMIT");
	FAILPOINT_FD(LOAD_AFTER_CHUNK_COMMIT, PQsocket(l->warehouse));
	return rc;
}

/* One chunk from the core into the history table; *ret_rows = how many events it had. */
static int load_chunk(struct load *l, uint64_t *ret_rows, struct rt_err *err)
{
	uint64_t n = 0;
	bool mapped = false;
	FAILPOINT_FD(LOAD_BEFORE_CHUNK, PQsocket(l->core));
	int rc = begin_copy(l, err);
	FAILPOINT_FD(LOAD_COPY_BEGUN, PQsocket(l->warehouse));
	if (rc == 0)
		rc = send_chunk(l, err);
	if (rc != 0)
		return rc;
	for (PGresult *res; (res = PQgetResult(l->core)) != NULL; PQclear(res)) {
		ExecStatusType st = PQresultStatus(res);
		if (rc != 0)
			continue; /* the rest of the answer is of no use */
		if (st != PGRES_SINGLE_TUPLE && st != PGRES_TUPLES_OK) {
			rc = pgc_fail(l->core, res, err, "reading events");
			continue;
		}
		if (!mapped)
			rc = map_columns(l, res, err);
		mapped = true;
		if (rc == 0 && st == PGRES_SINGLE_TUPLE) {
			FAILPOINT_FD(LOAD_ROW, PQsocket(l->core));
			rc = fold_row_of(l, res, err);
			n++;
		}
		if (rc == 0 && l->copy.len >= COPY_PIECE_BYTES)
			rc = flush_copy(l, err);
	}
	if (rc == 0)
		rc = end_copy(l, err);
	if (rc == 0)
		*ret_rows = n;
	return rc;
}

/* Latest rows from history, in the order of its primary key, without a sort. */
static int finish_table(struct load *l, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	buf_printf(&sql,
		   "SET LOCAL enable_sort = off; SET LOCAL enable_seqscan = off; "
		   "INSERT INTO %s SELECT DISTINCT ON (id) * FROM %s "
		   "ORDER BY id DESC, version DESC",
		   l->landed->latest, l->landed->history);
	FAILPOINT_FD(LOAD_BEFORE_FINISH, PQsocket(l->warehouse));
	int rc = begin_held(l, err);
	if (rc == 0)
		rc = run_long(l, buf_cstr(&sql), err);
	FAILPOINT_FD(LOAD_LATEST_MADE, PQsocket(l->warehouse));
	if (rc == 0)
		rc = landed_set_state(l->warehouse, l->settings, l->landed, LANDED_LIVE,
				      l->snapshot, err);
	FAILPOINT_FD(LOAD_BEFORE_FINISH_COMMIT, PQsocket(l->warehouse));
	if (rc == 0)
		rc = pgc_exec(l->warehouse, NULL, err, "COMMIT");
	FAILPOINT_FD(LOAD_AFTER_FINISH_COMMIT, PQsocket(l->warehouse));
	buf_clear(&sql);
	buf_printf(&sql, "ANALYZE %s; ANALYZE %s", l->landed->history, l->landed->latest);
	if (rc == 0)
		rc = run_long(l, buf_cstr(&sql), err);
	buf_release(&sql);
	return rc;
}

static int try_clear(struct load *l, bool *ret_locked, struct rt_err *err)
{
	PGresult *res;
	*ret_locked = false;
	FAILPOINT_FD(LOAD_BEFORE_CLEAR, PQsocket(l->warehouse));
	int rc = begin_held(l, err);
	if (rc == 0)
		rc = pgc_exec(l->warehouse, NULL, err, "SET LOCAL lock_timeout = %d",
			      CLEAR_LOCK_MS);
	if (rc != 0)
		return rc;
	char *sql = rt_sprintf("TRUNCATE %s, %s", l->landed->history, l->landed->latest);
	res = PQexec(l->warehouse, sql);
	free(sql);
	*ret_locked = pgc_is_state(res, "55P03");
	if (PQresultStatus(res) != PGRES_COMMAND_OK)
		rc = pgc_fail(l->warehouse, res, err, "TRUNCATE");
	PQclear(res);
	if (*ret_locked)
		return pgc_exec(l->warehouse, NULL, err, "ROLLBACK");
	if (rc == 0)
		rc = landed_set_state(l->warehouse, l->settings, l->landed, LANDED_SYNCING,
				      LSN_NONE, err);
	FAILPOINT_FD(LOAD_TRUNCATED, PQsocket(l->warehouse));
	if (rc == 0)
		rc = pgc_exec(l->warehouse, NULL, err, "COMMIT");
	FAILPOINT_FD(LOAD_CLEARED, PQsocket(l->warehouse));
	return rc;
}

/* Empties the tables as soon as nobody reads them. (Readers come first; no snapshot of the core waits.) */
static int clear_table(struct load *l, struct rt_err *err)
{
	for (int64_t told_us = 0;;) {
		bool locked;
		int rc = try_clear(l, &locked, err);
		if (rc != 0 || !locked)
			return rc;
		if (loop_stopping(l->loop))
			return rt_fail(err, ERR_RETRY, "told to stop during the first load of %s",
				       l->landed->rollup->name);
		if (rt_mono_us() - told_us > 10 * CLEAR_AGAIN_US) {
			told_us = rt_mono_us();
			met_note("the first load of %s waits for readers of its tables",
				 l->landed->rollup->name);
			log_info("first load waits for readers of its tables", "rollup=%s",
				 l->landed->rollup->name);
		}
		met_tick(rt_now_us());
		poll(NULL, 0, CLEAR_AGAIN_US / 1000);
	}
}

/* No transaction is left open on the core while the warehouse works; a young snapshot serves again. */
static void leave_old_snapshot(struct load *l)
{
	if (l->core == NULL || rt_mono_us() - l->snapshot_us < SNAPSHOT_AGE_US)
		return;
	pgc_close(l->core);
	l->core = NULL;
}

static void tell_progress(struct load *l, bool force)
{
	int64_t now = rt_mono_us();
	if (!force && now - l->told_us < 2000000)
		return;
	l->told_us = now;
	met_note("first load of %s: %" PRIu64 " events", l->landed->rollup->name, l->rows);
	log_info("first load", "rollup=%s events=%" PRIu64 " done=%s", l->landed->rollup->name,
		 l->rows, force ? "yes" : "no");
}

/* The snapshot at hand, or a new one when there is none that is young enough. */
static int need_snapshot(struct load *l, struct rt_err *err)
{
	leave_old_snapshot(l);
	if (l->core != NULL)
		return 0;
	l->snapshot_us = rt_mono_us();
	return open_snapshot(l->settings, l->ledger, l->loop, &l->core, &l->snapshot, err);
}

static int load_table(struct load *l, struct landed *landed, struct rt_err *err)
{
	l->landed = landed;
	l->has_state = false;
	l->state = (struct fold_row){0};
	l->rows = 0;
	l->told_us = rt_mono_us();
	int rc = clear_table(l, err);
	if (rc == 0)
		rc = need_snapshot(l, err);
	for (uint64_t n = 1; rc == 0 && n > 0;) {
		met_tick(rt_now_us());
		if (loop_stopping(l->loop))
			rc = rt_fail(err, ERR_RETRY, "told to stop during the first load of %s",
				     landed->rollup->name);
		else
			rc = load_chunk(l, &n, err);
		if (rc == 0) {
			l->rows += n;
			met_add(MET_LOAD_ROWS, n);
			tell_progress(l, false);
		}
	}
	if (rc == 0) {
		leave_old_snapshot(l);
		rc = finish_table(l, err);
	}
	if (rc == 0)
		tell_progress(l, true);
	return rc;
}

/* Parked here means: was landed, then was not, and is again. */
static bool needs_load(const struct landed *l)
{
	return l->state == LANDED_SYNCING || l->state == LANDED_PARKED;
}

/* The planner's idea of how many events wait, for progress. */
static uint64_t estimate(const struct settings *s, const struct landed_set *set)
{
	struct pgc_options o = {
		.what = "core", .conninfo = s->core.connect, .application_name = "rolag load"};
	struct rt_err ignored;
	PGconn *core;
	uint64_t total = 0;
	if (pgc_connect(&core, &o, &ignored) != 0)
		return 0;
	for (uint16_t i = 0; i < set->count; i++) {
		const struct rollup *r = set->item[i].rollup;
		const char *params[] = {r->source_schema, r->source_table};
		PGresult *res;
		if (!needs_load(&set->item[i]) ||
		    pgc_query(core, &res, &ignored,
			      "SELECT greatest(c.reltuples, 0)::int8 FROM pg_class c JOIN "
			      "pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND "
			      "c.relname = $2",
			      2, params) != 0)
			continue;
		if (PQntuples(res) == 1)
			total += strtoull(PQgetvalue(res, 0, 0), NULL, 10);
		PQclear(res);
	}
	pgc_close(core);
	return total;
}

int load_all(PGconn *warehouse, const struct settings *s, struct landed_set *set,
	     const struct ledger *ledger, struct loop *loop, struct rt_err *err)
{
	struct load l = {.warehouse = warehouse, .settings = s, .ledger = ledger, .loop = loop};
	int rc = 0, loaded = 0;
	arena_init(&l.arena, 16384);
	for (uint16_t i = 0; rc == 0 && i < set->count; i++) {
		if (!needs_load(&set->item[i]))
			continue;
		if (loaded++ == 0) {
			met_state("loading");
			met_set(MET_LOAD_TOTAL, estimate(s, set));
		}
		rc = load_table(&l, &set->item[i], err);
	}
	if (rc == 0 && loaded > 0)
		met_note("%s", "");
	pgc_close(l.core);
	arena_release(&l.arena);
	buf_release(&l.id);
	buf_release(&l.event_type);
	buf_release(&l.columns);
	buf_release(&l.copy);
	return rc;
}
