/*
 * apply: the loop that keeps one batch on its way to the warehouse and one in
 * the making. Guarantees: a batch is written only from whole transactions
 * behind the ledger's position; after any failure everything in memory is
 * forgotten and the ledger says where to go on.
 */
#include "apply/stream/apply.h"

#include <inttypes.h>
#include <poll.h>

#include "apply/stream/delay.h"
#include "apply/stream/gather.h"
#include "apply/stream/linger.h"
#include "apply/stream/quarantine.h"
#include "apply/stream/rebuild.h"
#include "apply/stream/remake.h"
#include "apply/stream/repair.h"
#include "apply/stream/sampler.h"
#include "apply/stream/sync.h"
#include "apply/stream/writer.h"
#include "proto/base/failpoint.h"
#include "proto/base/fsio.h"
#include "proto/base/log.h"
#include "proto/base/loop.h"
#include "proto/base/metrics.h"
#include "proto/pg/pgconn.h"

#define READER_POLL_US INT64_C(200000) /* inotify is the fast way; this is the sure one */
#define POSITION_POLL_US                                                                           \
	INT64_C(50000) /* while something is committed but not known to be on disk */

/* How often the warehouse is asked whether somebody wants a retry; how long what waits is folded at a time. */
#define QUARANTINE_POLL_US  INT64_C(1000000)
#define QUARANTINE_LIMIT_US INT64_C(200000)

/* A batch's memory with its rows, in apply.batch_bytes (gathering stops at four of them). */
#define FOLDED_FACTOR 6

/* Taken and folded at a time while a batch is on its way: the warehouse must not wait for bytes meanwhile. */
#define SLICE_CHANGES 64

/* For how long entities are made anew at a time, and when the next ones are, or those that could not be yet. */
#define REMAKE_LIMIT_US INT64_C(200000)
#define REMAKE_NEXT_US	INT64_C(50000)
#define REMAKE_AGAIN_US INT64_C(1000000)

/*
 * Waited for the lock of state_dir: a process that was killed a moment ago may have forked a
 * worker just before, which has the lock until it sees that it is alone.
 */
#define LOCK_WAIT_US INT64_C(1000000)

enum stage {
	STAGE_GATHER, /* `making` takes changes and folds them */
	STAGE_FETCH,  /* `making` waits for states from the warehouse */
};

struct applier {
	const struct settings *settings;
	struct arena arena; /* definitions */
	struct landed_set landed;
	struct mirror_set mirrors;
	int broken_mirror;	  /* to be parked at the next connection, since … ; -1: none */
	struct rt_err broken_err; /* … */
	struct loop loop;
	struct ledger ledger;
	struct writer writer;
	struct gather gather;
	struct sync sync;
	struct cache cache;
	struct sampler sampler;
	struct delay delay;
	struct rebuild rebuild;
	struct parked parked;
	struct batch batch[2];
	struct batch *making, *flying; /* flying: with the writer, or NULL */
	enum stage stage;
	bool full; /* `making` takes no more */
	bool more; /* the spool has more for `making`, but the writer's socket gets its turn first */
	enum writer_part flying_part;
	bool asking;   /* the writer asks for the WAL position only */
	bool distrust; /* a key was there already: fetch states of all entities */
	bool connected;
	bool lost;	      /* a connection was; the next one is counted */
	struct linger linger; /* of `making` */
	bool serving;	      /* somebody asked for a retry: nothing is taken until it is done */
	bool core_away;	      /* `making` waits for the core, to fill a gap */
	struct pgc_backoff backoff, repair_backoff;
	int64_t retry_us, look_us, ask_us, quarantine_us, repair_us; /* monotonic */
	int64_t remake_us; /* monotonic: entities may wait to be made anew; LOOP_NEVER: none does */
	struct applied_file *applied;
	int lock;		      /* of state_dir, for the life of the process */
	struct applied_position told; /* written to the applied file */
	/* To be passed at the next connection: a gap up to here (LSN_NONE: none); a change to this timeline (0: none), at. */
	struct lsn gap;
	uint32_t next_timeline;
	struct lsn next_timeline_start;
	int fatal; /* the stream cannot go on behind `making`; why: */
	struct rt_err fatal_err;
	struct log_limit unknown_limit, retry_limit, parked_limit, repair_limit;
};

/* ---- connecting and letting go ---- */

static void forget(struct applier *a)
{
	sync_end(&a->sync);
	rebuild_end(&a->rebuild);
	writer_detach(&a->writer);
	gather_close(&a->gather);
	cache_clear(&a->cache);
	parked_clear(&a->parked);
	batch_reset(&a->batch[0]);
	batch_reset(&a->batch[1]);
	a->making = &a->batch[0];
	a->flying = NULL;
	a->stage = STAGE_GATHER;
	a->full = a->more = a->asking = a->connected = a->serving = a->core_away = false;
	a->linger = (struct linger){0};
	a->fatal = 0; /* it will be met again */
	met_set(MET_APPLY_CONNECTED, 0);
}

static void say_parked(void *ctx, const char *name)
{
	log_warn("a rollup is no longer landed: its tables stay as they are",
		 "rollup=%s state=parked mend=\"rollups.land; when it comes back it is synced\"",
		 name);
}

static void say_mirror_parked(void *ctx, const char *name)
{
	log_warn("a table is no longer mirrored: it stays as it is",
		 "table=%s state=parked mend=\"mirrors.tables; when it comes back it is synced\"",
		 name);
}

/* Where the spool does not simply go on. */
static int pass_breaks(struct applier *a, PGconn *c, struct rt_err *err)
{
	int rc = 0;
	if (a->gap.v != 0)
		rc = sync_over_gap(c, a->settings, &a->landed, &a->ledger, a->gap, err);
	if (rc == 0 && a->next_timeline > a->ledger.timeline)
		rc = sync_fork(c, a->settings, &a->landed, &a->ledger, a->next_timeline,
			       a->next_timeline_start, err);
	return rc;
}

/* Reads how the mirrors stand, and parks the one whose own statement failed. */
static int ensure_mirrors(struct applier *a, PGconn *c, struct rt_err *err)
{
	int rc = mirror_ensure(c, a->settings, &a->mirrors, say_mirror_parked, NULL, err);
	if (rc != 0 || a->broken_mirror < 0)
		return rc;
	struct mirror *m = &a->mirrors.item[a->broken_mirror];
	rc = mirror_set_state(c, a->settings, m, LANDED_PARKED, m->sync_lsn, a->broken_err.msg,
			      err);
	if (rc == 0)
		a->broken_mirror = -1;
	return rc;
}

static int connect_all(struct applier *a, struct rt_err *err)
{
	const struct settings *s = a->settings;
	PGconn *c = NULL;
	int rc = ledger_connect(&c, s, &a->loop, err);
	if (rc != 0)
		return rc;
	FAILPOINT_FD(APPLY_CONNECTED, PQsocket(c));
	if ((rc = ledger_take_over(c, s, &a->ledger, err)) != 0 ||
	    (rc = landed_ensure(c, s, &a->landed, NULL, NULL, err)) != 0 ||
	    (rc = rebuild_begin(&a->rebuild, c, err)) != 0 ||
	    (rc = landed_park_absent(c, s, &a->landed, say_parked, NULL, err)) != 0 ||
	    (rc = quarantine_load(c, s, &a->landed, &a->parked, err)) != 0 ||
	    (rc = pass_breaks(a, c, err)) != 0 || (rc = ensure_mirrors(a, c, err)) != 0 ||
	    (rc = sync_begin(&a->sync, c, err)) != 0 ||
	    (rc = gather_open(&a->gather, s, &a->landed, &a->mirrors, &a->ledger, err)) != 0) {
		pgc_close(c);
		return rc;
	}
	FAILPOINT_FD(APPLY_BEFORE_ATTACH, PQsocket(c));
	rc = writer_attach(&a->writer, c, err); /* owns c from here on */
	if (rc != 0)
		return rc;
	a->gap = LSN_NONE;
	a->next_timeline = 0;
	a->connected = true;
	a->remake_us = 0;
	a->look_us = a->ask_us = a->quarantine_us = a->repair_us = 0;
	quarantine_measure(&a->parked, &a->landed);
	if (a->lost)
		met_add(MET_APPLY_RECONNECTS, 1);
	a->lost = false;
	met_set(MET_APPLY_CONNECTED, 1);
	met_set(MET_APPLY_APPLIED_LSN, a->ledger.applied.v);
	met_note("%s", "");
	log_info("writing to the warehouse", "epoch=%" PRId64 " applied=" LSN_FMT, a->ledger.epoch,
		 LSN_ARGS(a->ledger.applied));
	return 0;
}

/* A failure: 0 when it may be tried again (later), else the error as it is. */
static int fail(struct applier *a, int rc, struct rt_err *err)
{
	uint64_t hidden;
	FAILPOINT(APPLY_FAILED);
	if (a->writer.distrust && !a->distrust) {
		a->distrust = true;
		rc = ERR_RETRY;
		log_warn("the tables hold other versions than thought; states are fetched anew",
			 "reason=\"%s\"", err->msg);
	}
	if (rc == ERR_PERMANENT && a->writer.failed_mirror >= 0) {
		a->broken_mirror = a->writer.failed_mirror;
		a->broken_err = *err;
		rc = ERR_RETRY;
		log_error("a mirror is parked: it does not follow the core from here on",
			  "table=%s reason=\"%s\" mend=\"rolag sync %s\"",
			  a->mirrors.item[a->broken_mirror].source, err->msg,
			  a->mirrors.item[a->broken_mirror].relname);
	}
	forget(a);
	a->writer.failed_mirror = -1;
	a->writer.distrust = false;
	if (rc != ERR_RETRY || a->loop.stop > 0)
		return rc == ERR_RETRY ? 0 : rc;
	int64_t wait = pgc_backoff_next(&a->backoff);
	a->retry_us = rt_mono_us() + wait;
	a->lost = true;
	met_state("disconnected");
	met_note("%s", err->msg);
	if (log_limit_pass(&a->retry_limit, rt_mono_us(), &hidden))
		log_warn("warehouse lost, trying again",
			 "wait_ms=%" PRId64 " hidden=%" PRIu64 " reason=\"%s\"", wait / 1000,
			 hidden, err->msg);
	return 0;
}

/* ---- a batch's way ---- */

static void note_applied(struct applier *a, const struct batch *b)
{
	int64_t now = rt_now_us();
	/* Not where a connection is there: a warehouse may let us in, and take nothing. */
	pgc_backoff_reset(&a->backoff);
	for (uint32_t i = 0; i < b->transaction_count; i++)
		met_observe(MET_VISIBLE_SECONDS, now - b->transaction[i].commit_us);
	met_add(MET_APPLY_BATCHES, 1);
	met_add(MET_APPLY_TRANSACTIONS, b->transaction_count);
	met_set(MET_APPLY_APPLIED_LSN, a->ledger.applied.v);
	met_set(MET_CACHE_BYTES, cache_bytes(&a->cache));
	if (b->commit_us != 0)
		met_set(MET_APPLY_COMMIT_US, (uint64_t)b->commit_us);
	if (b->heartbeat_us != 0)
		met_set(MET_APPLY_HEARTBEAT_US, (uint64_t)b->heartbeat_us);
}

/* Said once it is written: what is parked, and why. */
static void note_parked(struct applier *a, const struct batch *b)
{
	uint64_t hidden;
	for (uint32_t i = 0; i < b->park_count; i++)
		log_error("a rollup is parked, the others go on",
			  "rollup=%s reason=\"%s\" mend=\"rolag sync %s\"",
			  a->landed.item[b->park[i].rollup].rollup->name, b->park[i].reason,
			  a->landed.item[b->park[i].rollup].rollup->name);
	for (uint32_t i = 0; i < b->waiting_count; i++)
		if (b->waiting[i].reason != NULL &&
		    log_limit_pass(&a->parked_limit, rt_mono_us(), &hidden))
			log_error("an entity waits in quarantine, the others go on",
				  "relation=%s.%s lsn=" LSN_FMT " hidden=%" PRIu64
				  " reason=\"%s\" mend=\"rolag quarantine list\"",
				  a->landed.item[b->event[b->waiting[i].event].rollup]
					  .rollup->source_schema,
				  a->landed.item[b->event[b->waiting[i].event].rollup]
					  .rollup->source_table,
				  LSN_ARGS(b->transaction[b->event[b->waiting[i].event].transaction]
						   .end),
				  hidden, b->waiting[i].reason);
	met_add(MET_REPAIRED_EVENTS, b->repaired);
	if (b->park_count > 0 || b->waiting_count > 0)
		quarantine_measure(&a->parked, &a->landed);
}

/* Changes as the core made them, however they were coalesced. */
static void note_mirrored(const struct batch *b)
{
	static const enum met_id counter[] = {[MIRROR_OP_INSERT] = MET_MIRROR_INSERTS,
					      [MIRROR_OP_UPDATE] = MET_MIRROR_UPDATES,
					      [MIRROR_OP_DELETE] = MET_MIRROR_DELETES,
					      [MIRROR_OP_TRUNCATE] = MET_MIRROR_TRUNCATES};
	uint64_t n[ARRAY_LEN(counter)] = {0};
	for (uint32_t i = 0; i < b->mirrors.count; i++)
		if (b->mirrors.op[i].kind <= MIRROR_OP_TRUNCATE)
			n[b->mirrors.op[i].kind]++;
	for (size_t i = 0; i < ARRAY_LEN(n); i++)
		if (n[i] > 0)
			met_add(counter[i], n[i]);
}

static void measure_mirrors(const struct applier *a)
{
	uint64_t parked = 0;
	for (uint16_t i = 0; i < a->mirrors.count; i++)
		parked += a->mirrors.item[i].state == LANDED_PARKED;
	met_set(MET_MIRRORS, a->mirrors.count);
	met_set(MET_PARKED_MIRRORS, parked);
}

static void note_rows(struct applier *a, const struct batch *b)
{
	uint64_t rows = 0, hidden;
	for (uint16_t i = 0; i < a->landed.count; i++)
		rows += b->rows[i].count;
	met_add(MET_APPLY_EVENTS, rows);
	note_mirrored(b);
	if (rows > 0 && b->commit_us != 0)
		met_set(MET_APPLY_EVENT_US, (uint64_t)b->commit_us);
	met_add(MET_APPLY_DUPLICATES, b->duplicates);
	met_add(MET_APPLY_IGNORED_EVENTS, b->ignored);
	met_add(MET_APPLY_UNKNOWN_KEYS, b->unknown_keys);
	if (b->unknown_keys > 0 && log_limit_pass(&a->unknown_limit, rt_mono_us(), &hidden))
		log_warn("payload key that no definition lists",
			 "relation=%s event=%s key=%s "
			 "count=%" PRIu64,
			 b->unknown_rollup, b->unknown_event, b->unknown_key, b->unknown_keys);
}

static void tell_applied(struct applier *a)
{
	struct rt_err err;
	uint64_t hidden;
	struct applied_position p = {.applied = a->ledger.flushed,
				     .timeline = a->ledger.timeline,
				     .at_us = rt_now_us(),
				     .keep = sync_keep(&a->sync)};
	if (a->told.timeline != p.timeline)
		a->told.applied = LSN_NONE; /* positions of timelines do not compare */
	bool moved = lsn_lt(a->told.applied, p.applied);
	if (!moved && (a->told.applied.v == 0 || lsn_eq(a->told.keep, p.keep)))
		return;
	p.applied = lsn_max(p.applied, a->told.applied);
	FAILPOINT(APPLY_BEFORE_TELL);
	met_set(MET_APPLY_FLUSHED_LSN, p.applied.v);
	if (applied_write(a->applied, &p, &err) == 0)
		a->told = p;
	else if (log_limit_pass(&a->retry_limit, rt_mono_us(), &hidden))
		log_warn("cannot tell capture what is applied", "reason=\"%s\"", err.msg);
}

static int writer_done(struct applier *a)
{
	FAILPOINT_FD(APPLY_WRITTEN, PQsocket(a->writer.c));
	if (a->asking) {
		a->asking = false;
	} else if (a->stage == STAGE_FETCH) {
		a->stage = STAGE_GATHER;
		batch_fetched(a->making);
	} else {
		struct batch *b = a->flying;
		note_rows(a, b);
		if (b->fence_count > 0) /* whoever sent it may have asked for a repair */
			a->remake_us = 0;
		note_parked(a, b);
		if (a->flying_part == PART_WHOLE || a->flying_part == PART_LAST) {
			note_applied(a, b);
			a->distrust = false;
		}
		batch_reset(b);
		a->flying = NULL;
	}
	tell_applied(a);
	return 0;
}

/* Which part of its transaction `making` is. */
static enum writer_part part_of(const struct batch *b)
{
	if (b->open)
		return b->first_part ? PART_FIRST : PART_MIDDLE;
	return b->first_part ? PART_WHOLE : PART_LAST;
}

static int take_off(struct applier *a, struct rt_err *err)
{
	struct batch *next = a->making == &a->batch[0] ? &a->batch[1] : &a->batch[0];
	a->flying = a->making;
	batch_reset(next);
	FAILPOINT(APPLY_TAKE_OFF);
	if (!batch_is_folded(a->flying))
		batch_split(a->flying, next);
	else if (a->flying->open)
		batch_continue(next, a->flying);
	a->flying_part = part_of(a->flying);
	a->making = next;
	a->stage = STAGE_GATHER;
	a->full = false;
	int rc = writer_write(&a->writer, a->flying, a->flying_part, err);
	if (rc == 0 && !writer_is_busy(&a->writer))
		return writer_done(a);
	return rc;
}

/* Nothing more is taken then, until nothing is in the making or under way. */
static bool remake_is_due(const struct applier *a)
{
	return rt_mono_us() >= a->remake_us && a->loop.stop == 0;
}

/* Does `making` take what the spool has? */
static bool takes_more(const struct applier *a)
{
	if (a->full || a->fatal != 0 || a->core_away || sync_holds(&a->sync))
		return false;
	return a->making->open || (a->loop.stop == 0 && !a->serving &&
				   a->rebuild.due == REBUILD_NOTHING && !remake_is_due(a));
}

/* Takes what the spool has; an error is kept until what came before it is written. */
static void gather_more(struct applier *a)
{
	if (!takes_more(a))
		return;
	enum gather_result r =
		gather_turn(&a->gather, a->making,
			    writer_is_busy(&a->writer) ? SLICE_CHANGES : UINT32_MAX, &a->fatal_err);
	if (r == GATHER_FAILED)
		a->fatal = a->fatal_err.code;
	a->full = r == GATHER_FULL;
	a->more = r == GATHER_SOME;
}

/* Folds what was gathered; what is missing is read from the core. ERR_RETRY: the core is away. */
static int fold(struct applier *a, struct batch *b, struct rt_err *err)
{
	const size_t max_bytes = FOLDED_FACTOR * a->settings->apply.batch_bytes;
	int rc = 0;
	while (rc == 0 && !batch_is_folded(b)) {
		rc = batch_fold(b, &a->cache, max_bytes, err);
		if (rc != 1)
			break;
		rc = repair_batch(a->settings, &a->ledger, &a->loop, b, err);
	}
	if (rc == 0 && a->core_away) {
		a->core_away = false;
		met_note("%s", "");
		pgc_backoff_reset(&a->repair_backoff);
	}
	return rc;
}

/* What comes behind a gap waits until the core can be asked for it. */
static bool await_core(struct applier *a, const struct rt_err *why, int *ret_rc)
{
	uint64_t hidden;
	int64_t wait = pgc_backoff_next(&a->repair_backoff);
	a->core_away = true;
	a->repair_us = rt_mono_us() + wait;
	*ret_rc = 0;
	met_note("%s", why->msg);
	if (log_limit_pass(&a->repair_limit, rt_mono_us(), &hidden))
		log_warn("the core is away, missing events are awaited",
			 "wait_ms=%" PRId64 " hidden=%" PRIu64 " reason=\"%s\"", wait / 1000,
			 hidden, why->msg);
	return false;
}

/* Looks up and folds what was gathered. True when `making` could be written now. */
static bool make_ready(struct applier *a, struct rt_err *err, int *ret_rc)
{
	struct batch *b = a->making;
	struct rt_err cause;
	*ret_rc = 0;
	if (a->core_away && rt_mono_us() < a->repair_us)
		return false;
	batch_resolve(b, &a->cache, a->distrust);
	FAILPOINT(APPLY_RESOLVED);
	if (b->missing_count > 0) {
		if (writer_is_busy(&a->writer))
			return false;
		*ret_rc = writer_fetch(&a->writer, b, err);
		a->stage = STAGE_FETCH;
		return false;
	}
	*ret_rc = fold(a, b, &cause);
	if (*ret_rc == ERR_RETRY)
		return await_core(a, &cause, ret_rc);
	if (*ret_rc != 0) {
		a->fatal_err = cause; /* before what stopped the gathering, if something did */
		a->fatal = cause.code;
		*ret_rc = 0;
		cache_clear(&a->cache); /* it knows of rows that will not be written */
	}
	a->full |= !batch_is_folded(b); /* no room for more: what is folded goes first */
	return true;
}

/* Between two batches: what `rolag verify --repair` asked for. */
static int remake(struct applier *a, struct rt_err *err)
{
	PGconn *c;
	enum remake_left left = REMAKE_NONE;
	int rc = writer_lend(&a->writer, &c, err);
	if (rc == 0)
		rc = remake_serve(c, a->settings, &a->landed, &a->ledger, &a->cache, &a->loop,
				  REMAKE_LIMIT_US, &left, err);
	a->remake_us = left == REMAKE_NONE   ? LOOP_NEVER
		       : left == REMAKE_SOME ? rt_mono_us() + REMAKE_NEXT_US
					     : rt_mono_us() + REMAKE_AGAIN_US;
	return rc == 0 ? writer_take_back(&a->writer, err) : rc;
}

/* Between two batches: asks now and then whether somebody wants a retry. */
static int ask_quarantine(struct applier *a, struct rt_err *err)
{
	PGconn *c;
	int64_t now = rt_mono_us();
	if (now < a->quarantine_us || a->serving)
		return 0;
	a->quarantine_us = now + QUARANTINE_POLL_US;
	int rc = writer_lend(&a->writer, &c, err);
	if (rc == 0)
		rc = quarantine_is_asked(c, a->settings, &a->serving, err);
	return rc == 0 ? writer_take_back(&a->writer, err) : rc;
}

/* Between two batches: asks now and then what is to be done for a rebuild. */
static int ask_rebuild(struct applier *a, struct rt_err *err)
{
	PGconn *c;
	if (rt_mono_us() < a->rebuild.ask_us || a->rebuild.due != REBUILD_NOTHING)
		return 0;
	int rc = writer_lend(&a->writer, &c, err);
	if (rc == 0)
		rc = rebuild_ask(&a->rebuild, c, err);
	return rc == 0 ? writer_take_back(&a->writer, err) : rc;
}

/* What is due, once nothing is in the making or under way. The set changes with the connection only. */
static int serve_rebuild(struct applier *a, struct rt_err *err)
{
	PGconn *c;
	bool changed = a->rebuild.due == REBUILD_BEGIN;
	int rc = 0;
	if (!changed && (rc = writer_lend(&a->writer, &c, err)) == 0)
		rc = rebuild_swap(&a->rebuild, c, &changed, err);
	if (rc != 0)
		return rc;
	if (!changed)
		return writer_take_back(&a->writer, err);
	forget(a);
	a->retry_us = rt_mono_us();
	return 0;
}

/* A mirror was made live, and stands as the warehouse says; the stream waits for that. */
static int read_mirrors(struct applier *a, struct rt_err *err)
{
	PGconn *c;
	int rc = writer_lend(&a->writer, &c, err);
	if (rc == 0)
		rc = sync_read_mirrors(&a->sync, c, err);
	return rc == 0 ? writer_take_back(&a->writer, err) : rc;
}

/* What was asked for, once nothing is in the making or under way. */
static int serve_quarantine(struct applier *a, struct rt_err *err)
{
	PGconn *c;
	bool more = false;
	int rc = writer_lend(&a->writer, &c, err);
	if (rc == 0)
		rc = quarantine_serve(c, &a->loop, a->settings, &a->landed, &a->ledger, &a->parked,
				      &a->cache, QUARANTINE_LIMIT_US, &more, err);
	a->serving = false;
	/* The stream has its turn in between, whatever waits. */
	a->quarantine_us = rt_mono_us() + (more ? QUARANTINE_LIMIT_US : QUARANTINE_POLL_US);
	return rc == 0 ? writer_take_back(&a->writer, err) : rc;
}

/* A batch that takes no more is made ready to the last while the one before is on its way. */
static void prepare_full(struct applier *a)
{
	struct batch *b = a->making;
	if (a->full && batch_is_folded(b))
		mirror_batch_plan(&b->mirrors, &a->mirrors, &b->arena);
}

/* `making` could be written: does it wait for more? */
static bool lingers(struct applier *a)
{
	const struct batch *b = a->making;
	if (takes_more(a) && !b->open)
		return linger_for_more(&a->linger, b->event_count + b->mirrors.count,
				       rt_now_us() - b->commit_us, rt_mono_us());
	a->linger = (struct linger){0};
	return false;
}

/*
 * Moves everything as far as it goes without waiting. 1: what came before the
 * change that cannot be applied (a->fatal_err) is written, or nothing of its
 * transaction may be; negative: the warehouse's side failed.
 */
static int pump(struct applier *a, struct rt_err *err)
{
	for (;;) {
		int rc;
		if (a->stage == STAGE_FETCH)
			return 0;
		if (!writer_is_busy(&a->writer) && (rc = ask_quarantine(a, err)) != 0)
			return rc;
		if (!writer_is_busy(&a->writer) && (rc = ask_rebuild(a, err)) != 0)
			return rc;
		if (!writer_is_busy(&a->writer) && sync_has_landed(&a->sync) &&
		    (rc = read_mirrors(a, err)) != 0)
			return rc;
		gather_more(a);
		if (!make_ready(a, err, &rc))
			return rc;
		if (writer_is_busy(&a->writer)) {
			prepare_full(a);
			return 0;
		}
		bool worth = a->making->open ? a->full : !batch_is_empty(a->making);
		if (a->fatal != 0 &&
		    !worth)	  /* a transaction whose earlier parts are written was cut */
			return 1; /* from `making`: they vanish with the connection */
		if (!worth && remake_is_due(a) && !a->making->open) {
			if ((rc = remake(a, err)) != 0)
				return rc;
			continue;
		}
		if (!worth && a->serving && !a->making->open) {
			if ((rc = serve_quarantine(a, err)) != 0)
				return rc;
			continue;
		}
		if (!worth && a->rebuild.due != REBUILD_NOTHING && !a->making->open) {
			rc = serve_rebuild(a, err);
			if (rc != 0 || !a->connected)
				return rc;
			continue;
		}
		if (!worth || lingers(a))
			return 0;
		rc = take_off(a, err);
		if (rc != 0)
			return rc;
	}
}

/* ---- the loop's sources ---- */

static void warehouse_prepare(void *ctx, int64_t now, struct loop_want *ret)
{
	struct applier *a = ctx;
	if (!a->connected) {
		ret->at_us = a->retry_us;
		return;
	}
	ret->fd = PQsocket(a->writer.c);
	ret->events = writer_events(&a->writer);
	if (!writer_is_busy(&a->writer) && lsn_lt(a->ledger.flushed, a->ledger.applied))
		ret->at_us = RT_MAX(a->ask_us, now);
	if (!writer_is_busy(&a->writer) && a->stage != STAGE_FETCH && a->loop.stop == 0)
		ret->at_us = RT_MIN(ret->at_us, RT_MAX(a->remake_us, now));
}

static int warehouse_turn(struct applier *a, int64_t now, struct rt_err *err)
{
	if (writer_is_busy(&a->writer)) {
		int rc = writer_turn(&a->writer, err);
		return rc == 1 ? writer_done(a) : rc;
	}
	if (PQconsumeInput(a->writer.c) != 1 || PQstatus(a->writer.c) != CONNECTION_OK)
		return pgc_fail(a->writer.c, NULL, err, "waiting for work");
	if (lsn_lt(a->ledger.flushed, a->ledger.applied) && now >= a->ask_us) {
		a->ask_us = now + POSITION_POLL_US;
		a->asking = true;
		FAILPOINT_FD(APPLY_ASK_POSITION, PQsocket(a->writer.c));
		return writer_ask_position(&a->writer, err);
	}
	return 0;
}

static int warehouse_dispatch(void *ctx, short revents, int64_t now, struct rt_err *err)
{
	struct applier *a = ctx;
	if (!a->connected && a->loop.stop > 0)
		return 0;
	int rc = a->connected ? warehouse_turn(a, now, err) : connect_all(a, err);
	return rc < 0 ? fail(a, rc, err) : 0;
}

static void spool_prepare(void *ctx, int64_t now, struct loop_want *ret)
{
	struct applier *a = ctx;
	if (!a->connected)
		return;
	ret->fd = spool_reader_fd(a->gather.reader);
	/* Where nothing is taken (a full batch waits for the writer; it stops): looking at the spool would only spin. */
	bool looks = !a->full && a->stage != STAGE_FETCH && a->fatal == 0 && a->loop.stop == 0 &&
		     !sync_holds(&a->sync) && !a->core_away;
	/* Nor is there any use in each piece that comes while a batch lingers. */
	const bool lingers = looks && linger_is_on(&a->linger) && !writer_is_busy(&a->writer);
	ret->events = looks && !lingers ? POLLIN : 0;
	ret->at_us = a->more && looks ? now : RT_MAX(lingers ? a->linger.look_us : a->look_us, now);
}

static int spool_dispatch(void *ctx, short revents, int64_t now, struct rt_err *err)
{
	struct applier *a = ctx;
	a->look_us = now + READER_POLL_US; /* before_sleep looks */
	tell_applied(a); /* again, should it have failed: capture may wait for it */
	return 0;
}

static void sync_source_prepare(void *ctx, int64_t now, struct loop_want *ret)
{
	struct applier *a = ctx;
	if (a->connected)
		sync_prepare(&a->sync, now, ret);
}

static int sync_dispatch(void *ctx, short revents, int64_t now, struct rt_err *err)
{
	return 0; /* before_sleep looks */
}

/* Takes part in syncs. Negative: why apply cannot go on. */
static int turn_sync(struct applier *a, int64_t now, struct rt_err *err)
{
	int rc =
		sync_turn(&a->sync, gather_position(&a->gather, a->making), a->told.keep, now, err);
	const bool waits = a->sync.went_live && parked_total(&a->parked).entities > 0;
	if (rc == 0 &&
	    (a->sync.stale || waits)) { /* what is parked is read anew with the connection */
		a->sync.stale = a->sync.went_live = false;
		forget(a);
		a->retry_us = now;
		return 0;
	}
	if (a->sync.went_live) /* what is cached of the table is from before its sync */
		cache_clear(&a->cache);
	a->sync.went_live = false;
	tell_applied(a);
	return rc;
}

static void log_status(struct applier *a)
{
	log_info("status",
		 "state=%s applied=" LSN_FMT " on_disk=" LSN_FMT " epoch=%" PRId64
		 " events=%" PRIu64,
		 met_state_now(), LSN_ARGS(a->ledger.applied), LSN_ARGS(a->ledger.flushed),
		 a->ledger.epoch, met_get(MET_APPLY_EVENTS));
}

static void take_signals(struct applier *a)
{
	if (a->loop.usr2)
		log_status(a);
	if (a->loop.reload)
		settings_reload(a->settings, "apply");
	a->loop.usr1 = a->loop.usr2 = a->loop.reload = a->loop.child = false;
}

static int before_sleep(void *ctx, int64_t now, struct rt_err *err)
{
	struct applier *a = ctx;
	take_signals(a);
	if (a->connected) {
		int rc = turn_sync(a, now, err);
		if (rc < 0)
			return rc;
		rc = a->connected ? pump(a, err) : 0;
		if (rc > 0) {
			*err = a->fatal_err;
			if (a->gather.gap.v == 0 && a->gather.next_timeline == 0)
				return err->code;
			a->gap = a->gather.gap;
			a->next_timeline = a->gather.next_timeline;
			a->next_timeline_start = a->gather.next_timeline_start;
			forget(a);
			a->retry_us = now;
		}
		if (rc < 0 && (rc = fail(a, rc, err)) < 0)
			return rc;
	}
	if (a->connected)
		met_state(sync_count(&a->sync) > 0 ? "syncing"
			  : a->gather.drained	   ? "live"
						   : "catching_up");
	measure_mirrors(a);
	met_tick(rt_now_us());
	bool idle = a->flying == NULL && (!a->making->open || a->core_away);
	if (a->loop.stop > 0 && (!a->connected || idle))
		a->loop.done = true;
	return 0;
}

/* ---- the role ---- */

static int set_up(struct applier *a, struct rt_err *err)
{
	const struct settings *s = a->settings;
	char *counters = rt_sprintf("%s/apply.counters", s->state_dir);
	char *lock = rt_sprintf("%s/apply.lock", s->state_dir);
	int rc = fs_mkdirs(s->state_dir, 0750, err);
	if (rc == 0) /* before the counters, which are another's otherwise */
		rc = fs_lock(lock, LOCK_WAIT_US, &a->lock, err);
	if (rc == 0)
		rc = fs_mkdirs(s->spool.dir, 0700, err);
	if (rc == 0)
		rc = met_open(counters, "apply", err);
	free(lock);
	free(counters);
	if (rc == 0)
		rc = landed_load(&a->arena, s, &a->landed, err);
	if (rc == 0)
		rc = mirror_load(&a->arena, s, &a->landed, &a->mirrors, err);
	if (rc == 0)
		rc = applied_open(&a->applied, s->spool.dir, err);
	if (rc != 0)
		return rc;
	writer_init(&a->writer, s, &a->landed, &a->mirrors, &a->ledger);
	sync_init(&a->sync, s, &a->landed, &a->mirrors, &a->ledger);
	cache_init(&a->cache, s->apply.cache);
	parked_init(&a->parked, landed_room(&a->landed), (uint64_t)s->quarantine.max_entities,
		    (uint64_t)s->quarantine.max_events);
	batch_init(&a->batch[0], &a->landed, &a->parked);
	batch_init(&a->batch[1], &a->landed, &a->parked);
	a->making = &a->batch[0];
	rc = loop_init(&a->loop, err);
	if (rc != 0)
		return rc;
	a->loop.ctx = a;
	a->loop.before_sleep = before_sleep;
	loop_add(&a->loop,
		 (struct loop_source){"warehouse", a, warehouse_prepare, warehouse_dispatch});
	sampler_init(&a->sampler, s, &a->landed, &a->mirrors, &a->loop);
	loop_add(&a->loop,
		 (struct loop_source){"sampler", &a->sampler, sampler_prepare, sampler_dispatch});
	delay_init(&a->delay, s, &a->writer);
	loop_add(&a->loop, (struct loop_source){"delay", &a->delay, delay_prepare, delay_dispatch});
	rebuild_init(&a->rebuild, s, &a->landed, &a->ledger, &a->loop);
	loop_add(&a->loop,
		 (struct loop_source){"rebuild", &a->rebuild, rebuild_prepare, rebuild_dispatch});
	loop_add(&a->loop, (struct loop_source){"spool", a, spool_prepare, spool_dispatch});
	loop_add(&a->loop, (struct loop_source){"sync", a, sync_source_prepare, sync_dispatch});
	return 0;
}

static void tear_down(struct applier *a)
{
	sampler_release(&a->sampler);
	if (a->applied != NULL)
		applied_close(a->applied);
	if (a->making != NULL) {
		forget(a);
		delay_release(&a->delay);
		writer_release(&a->writer);
		sync_release(&a->sync);
		cache_release(&a->cache);
		parked_release(&a->parked);
		batch_release(&a->batch[0]);
		batch_release(&a->batch[1]);
	}
	mirror_release(&a->mirrors);
	landed_release(&a->landed);
	arena_release(&a->arena);
}

int apply_main(const struct settings *s)
{
	struct applier a = {.settings = s,
			    .broken_mirror = -1,
			    .unknown_limit = {.interval_us = 10000000},
			    .parked_limit = {.interval_us = 1000000},
			    .repair_limit = {.interval_us = 10000000},
			    .retry_limit = {.interval_us = 5000000}};
	struct rt_err err;
	settings_setup_log(s, "apply");
	arena_init(&a.arena, 65536);
	int rc = set_up(&a, &err);
	if (rc == 0) {
		log_info("apply starts", "pipeline=%s rollups=%u version=%s", s->pipeline,
			 a.landed.count, ROLAG_VERSION);
		rc = loop_run(&a.loop, &err);
	}
	if (rc < 0) {
		met_note("%s", err.msg);
		log_error("apply stops", "reason=\"%s\"", err.msg);
	} else {
		log_info("apply stops", "applied=" LSN_FMT, LSN_ARGS(a.ledger.applied));
	}
	met_state(rc < 0 ? "failed" : "stopped");
	met_set(MET_APPLY_CONNECTED, 0);
	tear_down(&a);
	return rt_exit_code((enum rt_code)rc);
}
