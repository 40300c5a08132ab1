/*
 * sync_table: read the core, replay the spool, go live. Guarantees: each
 * batch and the note of how far it goes are one transaction under the fence;
 * the table is live only behind a position that everything read was committed
 * before, with apply not beyond it.
 */
#include "apply/stream/sync_table.h"

#include <inttypes.h>
#include <poll.h>

#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/pg/pgconn.h"

/*
 * Two batches of a worker, folded, beside apply's own. While the first one is read the warehouse has
 * nothing to do, and while the last one is written the core: small ones keep both short.
 */
#define BATCH_ROWS	   2500
#define BATCH_BYTES	   (4u << 20)
#define CACHE_BYTES	   (4u << 20)
#define FOLDED_FACTOR	   6
#define MIRROR_ARENA_BYTES 16384
#define SLICE_CHANGES	   64
#define TELL_EVERY_US	   INT64_C(250000)
#define SPOOL_POLL_MS	   20
#define SOCKETS_POLL_MS	   1000

static bool is_mirror(const struct sync_table *t)
{
	return t->mirrors.count > 0;
}

static int tell(struct sync_table *t, enum sync_message_kind kind, struct lsn lsn,
		struct rt_err *err)
{
	struct sync_message m = {.kind = kind,
				 .at = t->at,
				 .lsn = lsn,
				 .rows = t->rows,
				 .waiting = parked_total(&t->parked).entities,
				 .estimate = t->note.estimate};
	return sync_tell(t->work, &m, err);
}

static bool say_wait(void *ctx, const char *text)
{
	struct sync_table *t = ctx;
	struct sync_message m = {.kind = SYNC_NOTE, .at = t->at};
	struct rt_err err;
	log_info("sync", "table=%s %s", t->unit.name, text);
	snprintf(m.text, sizeof(m.text), "the sync of %s %s", t->unit.name, text);
	return sync_tell(t->work, &m, &err) != 0;
}

/* ---- the writer's position: a step of the note ---- */

static int send_step(void *ctx, PGconn *c, const struct batch *b)
{
	struct sync_table *t = ctx;
	char epoch[24], step[24], rows[24], replayed[32];
	struct buf key = BUF_INIT;
	snprintf(epoch, sizeof(epoch), "%" PRId64, t->ledger.epoch);
	snprintf(step, sizeof(step), "%" PRId64, t->note.step);
	snprintf(rows, sizeof(rows), "%" PRIu64, t->flying_rows);
	snprintf(replayed, sizeof(replayed), LSN_FMT, LSN_ARGS(b->end));
	sync_key_print(&t->flying_key, &key);
	const char *params[] = {t->settings.pipeline,
				t->unit.name,
				epoch,
				step,
				t->reading ? buf_cstr(&key) : NULL,
				rows,
				t->reading ? NULL : replayed};
	int ok = PQsendQueryPrepared(c, "ledger", 7, params, NULL, NULL, 0);
	buf_release(&key);
	return ok;
}

/* ---- the pump ---- */

/* Rows of the core into `making`. */
static int take_rows(struct sync_table *t, struct rt_err *err)
{
	for (int n = 0; n < SLICE_CHANGES; n++) {
		struct change c;
		if ((t->full = gather_is_full(&t->gather, t->making)))
			return 0;
		int rc = sync_reader_next(&t->reader, &t->making->arena, &c, err);
		if (rc != SYNC_READ_ROW) {
			t->ended = rc == SYNC_READ_END;
			return rc < 0 ? rc : (int)t->ended;
		}
		if (t->making->open && !lsn_eq(gather_position(&t->gather, t->making), c.lsn))
			batch_commit(t->making);
		if (!t->making->open)
			batch_begin(t->making, c.lsn, 0);
		gather_take(&t->gather, t->making, &c);
		t->rows++;
	}
	return 1;
}

static int take_changes(struct sync_table *t, struct rt_err *err)
{
	enum gather_result r = gather_turn(&t->gather, t->making, SLICE_CHANGES, err);
	t->full = r == GATHER_FULL;
	t->ended = r == GATHER_EMPTY;
	return r == GATHER_FAILED ? err->code : r == GATHER_SOME;
}

/* 1: something was done. */
static int take(struct sync_table *t, struct rt_err *err)
{
	if (t->full || t->fetching || (t->reading && t->ended))
		return 0;
	return t->reading ? take_rows(t, err) : take_changes(t, err);
}

static void writer_done(struct sync_table *t)
{
	if (t->fetching) {
		t->fetching = false;
		batch_fetched(t->making);
		return;
	}
	t->note.step += t->ends_whole;
	batch_reset(t->flying);
	t->flying = NULL;
}

/* Looks up and folds what was taken. 1: `making` could be written now. */
static int make_ready(struct sync_table *t, struct rt_err *err)
{
	struct batch *b = t->making;
	batch_resolve(b, &t->cache, !t->note.fresh || !t->reading);
	if (b->missing_count > 0) {
		if (writer_is_busy(&t->writer))
			return 0;
		t->fetching = true;
		return writer_fetch(&t->writer, b, err);
	}
	int rc;
	/* The core has been read, or is being: it has nothing that could fill a gap. */
	while ((rc = batch_fold(b, &t->cache, FOLDED_FACTOR * t->settings.apply.batch_bytes,
				err)) == 1)
		batch_leave_gap(b);
	if (rc != 0)
		return rc;
	t->full |= !batch_is_folded(b);
	return 1;
}

static enum writer_part part_of(const struct batch *b)
{
	if (b->open)
		return b->first_part ? PART_FIRST : PART_MIDDLE;
	return b->first_part ? PART_WHOLE : PART_LAST;
}

static int take_off(struct sync_table *t, struct rt_err *err)
{
	struct batch *next = t->making == &t->batch[0] ? &t->batch[1] : &t->batch[0];
	struct batch *b = t->making;
	if (t->reading && b->open)
		batch_commit(b);
	if (!batch_is_folded(b))
		batch_split(b, next);
	else if (b->open)
		batch_continue(next, b);
	t->flying = b;
	t->making = next;
	t->full = false;
	t->flying_rows = t->rows;
	t->ends_whole = !b->open;
	int rc = t->reading ? sync_reader_key(&t->reader, &t->flying_key, err) : 0;
	FAILPOINT_FD(SYNC_TAKE_OFF, PQsocket(t->writer.c));
	if (rc == 0)
		rc = writer_write(&t->writer, b, part_of(b), err);
	if (rc == 0 && !writer_is_busy(&t->writer))
		writer_done(t);
	return rc;
}

/* Is `making` to be written as it is? Otherwise it waits for more. */
static bool is_due(const struct sync_table *t)
{
	if (batch_is_empty(t->making) && !t->making->open)
		return false;
	return t->full || (t->ended && (t->reading || !t->making->open));
}

static bool is_parked(const struct sync_table *t)
{
	return (is_mirror(t) ? t->mirror.state : t->item.state) == LANDED_PARKED;
}

static int wait_for_sockets(struct sync_table *t)
{
	struct pollfd fd[2] = {{.fd = -1}, {.fd = -1}};
	bool takes = !t->full && !t->fetching;
	if (writer_is_busy(&t->writer))
		fd[0] = (struct pollfd){PQsocket(t->writer.c), writer_events(&t->writer), 0};
	if (t->reading && takes && !t->ended)
		fd[1] = (struct pollfd){sync_reader_fd(&t->reader), POLLIN, 0};
	poll(fd, 2, !t->reading && takes ? SPOOL_POLL_MS : SOCKETS_POLL_MS);
	return 0;
}

static int tell_progress(struct sync_table *t, struct rt_err *err)
{
	int64_t now = rt_mono_us();
	if (now - t->told_us < TELL_EVERY_US)
		return 0;
	t->told_us = now;
	return tell(t, SYNC_PROGRESS, t->reading ? LSN_NONE : t->ledger.flushed, err);
}

/* One turn: takes, folds, writes. 1: more can be done at once. */
static int pump(struct sync_table *t, struct rt_err *err)
{
	int took, rc = 0;
	if (writer_is_busy(&t->writer)) {
		if ((rc = writer_turn(&t->writer, err)) < 0)
			return rc;
		if (rc == 1)
			writer_done(t);
	}
	if ((took = take(t, err)) < 0)
		return took;
	if (!t->fetching && (rc = make_ready(t, err)) < 0)
		return rc;
	if (rc == 1 && !t->fetching && !writer_is_busy(&t->writer) && is_due(t)) {
		rc = take_off(t, err);
		return rc < 0 ? rc : 1;
	}
	rc = tell_progress(t, err);
	return rc < 0 ? rc : took;
}

static bool is_idle(const struct sync_table *t)
{
	return t->flying == NULL && !writer_is_busy(&t->writer) && t->making->event_count == 0 &&
	       batch_is_empty(t->making) && !t->making->open;
}

/* Until the source has no more, and all of it is written. */
static int run(struct sync_table *t, bool (*is_over)(const struct sync_table *), struct rt_err *err)
{
	for (;;) {
		int rc = pump(t, err);
		if (rc < 0)
			return rc;
		if (is_parked(t) && t->flying == NULL && is_idle(t))
			return rt_fail(err, ERR_RETRY, "it is parked");
		if (t->ended && is_idle(t) && is_over(t))
			return 0;
		if (rc == 0)
			wait_for_sockets(t);
	}
}

/* ---- stages ---- */

void sync_links_close(struct sync_links *l)
{
	pgc_close(l->core);
	pgc_close(l->warehouse);
	*l = (struct sync_links){0};
}

/* A mirror is read as a whole, which is another session's way. */
static int connect_core(const struct sync_table *t, PGconn **ret, struct rt_err *err)
{
	if (!is_mirror(t) && t->links->core != NULL) {
		*ret = t->links->core;
		t->links->core = NULL;
		return 0;
	}
	struct pgc_options o = {.what = "core",
				.conninfo = t->settings.core.connect,
				.application_name = "rolag sync"};
	FAILPOINT(SYNC_CONNECT);
	return pgc_connect(ret, &o, err);
}

/* The planner's idea of how many rows there are. */
static int estimate(PGconn *core, const struct sync_unit *u, uint64_t *ret, struct rt_err *err)
{
	const char *params[] = {u->nspname, u->relname};
	PGresult *res;
	int rc = pgc_query(core, &res, err,
			   "SELECT greatest(c.reltuples, 0)::int8 FROM pg_catalog.pg_class c JOIN "
			   "pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = "
			   "$1 AND c.relname = $2",
			   2, params);
	if (rc != 0)
		return rc;
	*ret = PQntuples(res) == 1 ? strtoull(PQgetvalue(res, 0, 0), NULL, 10) : 0;
	PQclear(res);
	return 0;
}

/* Of a mirror: whatever takes long. */
static bool say_reading(void *ctx, const char *text)
{
	struct sync_table *t = ctx;
	struct rt_err err;
	if (text[0] != '\0')
		return say_wait(t, text);
	t->rows = t->note.rows;
	return tell(t, SYNC_PROGRESS, LSN_NONE, &err) != 0;
}

/* A mirror has its rows, be it from an earlier worker. */
static int have_mirror(struct sync_table *t, PGconn *core, struct rt_err *err)
{
	struct sync_note *n = &t->note;
	struct sync_mirror m = {&t->settings,
				t->work->ledger,
				core,
				t->control,
				&t->mirrors,
				&t->unit,
				n,
				say_reading,
				t};
	bool noted = n->there && n->timeline == t->ledger.timeline && n->read.v != 0;
	int rc = mirror_read(t->control, &t->settings, &t->mirrors, &t->mirror, err);
	if (rc == 0 && noted && t->mirror.shape != NULL) {
		pgc_close(core);
	} else if (rc == 0) {
		n->timeline = t->ledger.timeline;
		rc = sync_mirror_read(&m, err);
		if (rc == 0)
			rc = pgc_exec(t->control, NULL, err, "%s", t->unit.analyze);
		if (rc == 0)
			rc = mirror_read(t->control, &t->settings, &t->mirrors, &t->mirror, err);
	} else {
		pgc_close(core);
	}
	t->mirror.state = LANDED_LIVE; /* for the replay, to which it is what it is to the stream */
	t->mirror.sync_lsn = n->start;
	return rc;
}

static int begin_mirror(struct sync_table *t, PGconn *core, struct rt_err *err)
{
	int rc = sync_note_read(t->control, &t->settings, &t->unit, &t->note, err);
	if (rc == 0)
		rc = estimate(core, &t->unit, &t->note.estimate, err);
	if (rc != 0) {
		pgc_close(core);
		return rc;
	}
	rc = have_mirror(t, core, err);
	if (rc != 0)
		return rc;
	t->rows = t->note.rows;
	log_info("sync", "table=%s from=" LSN_FMT " rows=%" PRIu64 " begins=replay", t->unit.name,
		 LSN_ARGS(t->note.start), t->rows);
	return tell(t, SYNC_BEGUN, t->note.replayed.v != 0 ? t->note.replayed : t->note.start, err);
}

/* Where the last sync got to, or a new begin. */
static int begin(struct sync_table *t, PGconn *core, struct rt_err *err)
{
	struct sync_note *n = &t->note;
	int rc = sync_note_read(t->control, &t->settings, &t->unit, n, err);
	if (rc != 0)
		return rc;
	if (!n->there || n->timeline != t->ledger.timeline) {
		n->timeline = t->ledger.timeline;
		rc = estimate(core, &t->unit, &n->estimate, err);
		if (rc == 0)
			rc = sync_start(core, &t->settings, t->work->ledger, say_wait, t, &n->start,
					err);
		if (rc == 0)
			rc = sync_note_begin(t->control, &t->settings, &t->unit, &t->ledger, n,
					     err);
	}
	if (rc != 0)
		return rc;
	t->rows = n->rows;
	log_info("sync",
		 "table=%s from=" LSN_FMT " rows=%" PRIu64 " of_about=%" PRIu64 " begins=%s",
		 t->unit.name, LSN_ARGS(n->start), n->rows, n->estimate,
		 n->rows == 0 ? "anew" : "again");
	return tell(t, SYNC_BEGUN, n->replayed.v != 0 ? n->replayed : n->start, err);
}

static bool always(const struct sync_table *t)
{
	return true;
}

/* Every row of the core behind the last one written. */
static int read_core(struct sync_table *t, PGconn *core, struct rt_err *err)
{
	struct lsn read;
	t->reading = true;
	t->ended = false;
	gather_open_rows(&t->gather, &t->settings, &t->set, &t->mirrors);
	int rc = sync_reader_open(&t->reader, &t->settings, &t->unit, core, &t->note.key, err);
	if (rc == 0)
		rc = run(t, always, err);
	if (rc == 0)
		rc = sync_reader_position(&t->reader, &read, err);
	if (rc == 0)
		t->links->core = sync_reader_leave(&t->reader);
	else
		sync_reader_close(&t->reader);
	gather_close(&t->gather);
	if (rc == 0)
		rc = sync_note_all_read(t->control, &t->settings, &t->unit, &t->ledger, &t->note,
					read, err);
	if (rc == 0 && t->unit.analyze[0] != '\0')
		rc = pgc_exec(t->control, NULL, err, "%s", t->unit.analyze);
	return rc;
}

/* Behind everything that was read? */
static bool has_caught_up(const struct sync_table *t)
{
	return lsn_le(t->note.read, t->ledger.applied);
}

static int replay_to(struct sync_table *t, struct lsn target, struct rt_err *err)
{
	t->note.read = target;
	t->ended = false;
	return run(t, has_caught_up, err);
}

/* The table's part of the spool; then, with apply holding still, the rest. */
static int replay(struct sync_table *t, struct rt_err *err)
{
	struct sync_message m;
	t->reading = t->ended = false;
	cache_clear(&t->cache);
	t->ledger.applied = t->note.replayed.v != 0 ? t->note.replayed : t->note.start;
	t->ledger.flushed = t->ledger.waiting_applied = t->ledger.waiting_wal = LSN_NONE;
	FAILPOINT(SYNC_REPLAY);
	int rc = gather_open(&t->gather, &t->settings, &t->set, &t->mirrors, &t->ledger, err);
	t->gather.rows_only = true;
	if (rc == 0)
		rc = replay_to(t, t->note.read, err);
	if (rc == ERR_RETRY && t->gather.gap.v != 0) { /* then the core has to be read anew */
		struct rt_err failed;
		if (sync_note_void(t->control, &t->settings, &t->unit, &t->note, &failed) != 0)
			rt_context(err, "%s", failed.msg);
	}
	if (rc == 0)
		rc = tell(t, SYNC_READY, LSN_NONE, err);
	if (rc == 0)
		rc = sync_hear(t->work, &m, err);
	FAILPOINT(SYNC_HELD);
	if (rc == 0)
		rc = replay_to(t, m.lsn, err);
	gather_close(&t->gather);
	if (rc == 0)
		rc = sync_note_live(t->control, &t->settings, &t->unit, &t->ledger, &t->note,
				    t->ledger.applied, err);
	if (rc == 0)
		rc = tell(t, SYNC_LIVE, t->ledger.applied, err);
	if (rc == 0 && is_mirror(t)) /* so that apply asks for no other one of us meanwhile */
		rc = sync_hear(t->work, &m, err);
	return rc;
}

static int attach(struct sync_table *t, struct rt_err *err)
{
	PGconn *c = t->links->warehouse;
	t->links->warehouse = NULL;
	if (c == NULL) {
		int rc = ledger_connect(&c, &t->settings, NULL, err);
		return rc != 0 ? rc : writer_attach(&t->writer, c, err);
	}
	int rc = pgc_exec(c, NULL, err, "DEALLOCATE ALL");
	if (rc == 0)
		return writer_attach(&t->writer, c, err);
	pgc_close(c);
	return rc;
}

/* The table is live: its writer's session is the next one's. */
static void leave_session(struct sync_table *t)
{
	struct rt_err ignored;
	PGconn *c;
	if (writer_lend(&t->writer, &c, &ignored) != 0)
		return;
	t->writer.c = NULL;
	t->links->warehouse = c;
}

static int stages(struct sync_table *t, struct rt_err *err)
{
	PGconn *core = NULL;
	int rc = connect_core(t, &core, err);
	if (rc == 0 && is_mirror(t)) {
		rc = begin_mirror(t, core, err); /* owns core */
		return rc != 0 ? rc : replay(t, err);
	}
	if (rc == 0)
		rc = begin(t, core, err);
	if (rc == 0) /* who waits already, and what was skipped for ever */
		rc = quarantine_load(t->control, &t->settings, &t->set, &t->parked, err);
	if (rc == 0 && t->note.read.v == 0)
		rc = read_core(t, core, err); /* owns core */
	else
		pgc_close(core);
	return rc != 0 ? rc : replay(t, err);
}

/* The table, alone in a set of its kind. */
static void set_up_table(struct sync_table *t, const struct sync_work *work, uint16_t at)
{
	if (at < work->landed->count) {
		t->item = work->landed->item[at];
		t->set = (struct landed_set){1, &t->item};
		sync_unit_of(&t->arena, &t->item, &t->unit);
		return;
	}
	t->mirror = work->mirrors->item[at - work->landed->count];
	t->mirrors = (struct mirror_set){.count = 1, .item = &t->mirror};
	arena_init(&t->mirrors.arena, MIRROR_ARENA_BYTES);
	sync_mirror_unit(&t->arena, &t->mirror, &t->unit);
}

static void set_up(struct sync_table *t, const struct sync_work *work, uint16_t at)
{
	t->settings = *work->settings;
	t->settings.apply.batch_rows = RT_MIN(t->settings.apply.batch_rows, BATCH_ROWS);
	t->settings.apply.batch_bytes = RT_MIN(t->settings.apply.batch_bytes, BATCH_BYTES);
	t->ledger = *work->ledger;
	t->position = (struct writer_position){sync_note_step_sql, send_step, t};
	arena_init(&t->arena, 4096);
	set_up_table(t, work, at);
	writer_init(&t->writer, &t->settings, &t->set, &t->mirrors, &t->ledger);
	t->writer.position = &t->position;
	cache_init(&t->cache, CACHE_BYTES);
	parked_init(&t->parked, t->set.count, (uint64_t)t->settings.quarantine.max_entities,
		    (uint64_t)t->settings.quarantine.max_events);
	batch_init(&t->batch[0], &t->set, &t->parked);
	batch_init(&t->batch[1], &t->set, &t->parked);
	t->making = &t->batch[0];
}

static void tear_down(struct sync_table *t)
{
	writer_release(&t->writer);
	cache_release(&t->cache);
	parked_release(&t->parked);
	batch_release(&t->batch[0]);
	batch_release(&t->batch[1]);
	sync_key_release(&t->note.key);
	sync_key_release(&t->flying_key);
	mirror_release(&t->mirrors);
	arena_release(&t->arena);
}

static int finish(struct sync_table *t, int rc)
{
	tear_down(t);
	free(t);
	return rc;
}

/* What is wrong with one mirror, and only a person can mend, stops nothing else. */
static int park_mirror(struct sync_table *t, struct rt_err *err)
{
	char why[sizeof(err->msg)];
	snprintf(why, sizeof(why), "sync: %s", err->msg);
	log_error("a mirror is parked: it could not be synced", "table=%s reason=\"%s\"",
		  t->mirror.source, why);
	return sync_note_park(t->control, &t->settings, &t->unit, &t->ledger, why, err);
}

int sync_table_run(const struct sync_work *work, uint16_t at, PGconn *control,
		   struct sync_links *links, struct rt_err *err)
{
	struct sync_table *t = rt_calloc(1, sizeof(*t));
	t->work = work;
	t->at = at;
	t->control = control;
	t->links = links;
	set_up(t, work, at);
	int rc = attach(t, err);
	if (rc == 0)
		rc = stages(t, err);
	bool wrong = rc == ERR_PERMANENT && is_mirror(t) && !t->writer.distrust;
	if (wrong || (rc == ERR_RETRY && is_parked(t))) {
		rc = wrong ? park_mirror(t, err)
			   : sync_note_drop(control, &t->settings, &t->unit, &t->note, err);
		return finish(t, rc == 0 ? tell(t, SYNC_PARKED, LSN_NONE, err) : rc);
	}
	if (rc == 0) {
		log_info("sync", "table=%s rows=%" PRIu64 " live_behind=" LSN_FMT " done=yes",
			 t->unit.name, t->rows, LSN_ARGS(t->ledger.applied));
		leave_session(t);
	} else {
		rt_context(err, "sync of %s", t->unit.name);
	}
	if (rc == ERR_PERMANENT && t->writer.distrust)
		rc = err->code =
			ERR_RETRY; /* a worker before us had written more than it noted when we looked */
	return finish(t, rc);
}
