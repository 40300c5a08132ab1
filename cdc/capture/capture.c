/*
 * capture: main of the role. Guarantees: the spool gets whole transactions in
 * commit order, each turn; the slot is told only what progress allows; the
 * core is answered even while we cannot take more.
 */
#include "cdc/capture/capture.h"

#include <poll.h>
#include <unistd.h>

#include "cdc/capture/alarms.h"
#include "cdc/capture/custody.h"
#include "cdc/capture/mirrored.h"
#include "cdc/capture/pgoutput.h"
#include "cdc/capture/progress.h"
#include "cdc/capture/recheck.h"
#include "cdc/capture/relcache.h"
#include "cdc/capture/stream.h"
#include "proto/base/failpoint.h"
#include "proto/base/fsio.h"
#include "proto/base/log.h"
#include "proto/base/loop.h"
#include "proto/base/metrics.h"
#include "proto/pg/shape.h"
#include "proto/spool.h"

#include <xxhash.h>

#define FRAME_BYTES ((uint64_t)256 << 10)
#define SYNC_BYTES                                                                                 \
	((uint64_t)8 << 20) /* synced at once past this, else after capture.sync_interval */
#define SYNC_BYTES_MOST                                                                            \
	(4 * SYNC_BYTES) /* written behind a sync that has not ended: then it is waited for */
#define FRAME_INTERVAL_US 100000 /* progress frames */
#define POLL_US		  100000 /* <spool>/applied, and the spool's room while it is full */
#define REPEAT_US	  60000000
#define TICK_US		  1000000
#define TRIM_US		  1000000
#define LIVE_BYTES	  ((uint64_t)1 << 20) /* closer to the core's present than this is live */
#define MESSAGE_BYTES_MAX 1024		      /* of a logical message's content */

struct capture {
	const struct settings *settings;
	struct loop loop;
	struct stream stream;
	struct custody custody;
	struct alarms alarms;
	struct relcache relations;
	struct mirrored mirrored;
	struct prog prog;
	struct prog_core core; /* as first met; system_id 0: not yet */
	struct recheck recheck;
	struct spool_memory had; /* the last transaction that the spool has; xid 0: not known */
	struct lsn had_from;	 /* sent from here on, it comes again; LSN_NONE: not known */
	struct spool_writer *spool;
	struct arena arena;  /* of one message */
	struct change begin; /* of the open transaction */
	bool open;	     /* between BEGIN and COMMIT */
	bool begun;	     /* it has something for us: its BEGIN is in the spool, unless … */
	bool again;	     /* … the spool has it already, from before a reconnect */
	bool unwritten;	     /* whole changes appended since the last spool_write */
	bool sync_now;	     /* the core waits for an answer */
	bool full;	     /* spool full: not reading */
	bool spilling;	     /* as last said in the log */
	struct lsn keep;     /* a sync reads the spool again behind this; LSN_NONE: none does */
	uint64_t unsynced_bytes;
	int64_t unsynced_since_us; /* 0: all is synced */
	int64_t commit_us; /* core's time of the newest commit that is not synced; 0: none */
	int64_t syncing_commit_us; /* the same, of what is being synced */
	int64_t applied_poll_us, full_poll_us, trim_at_us, tick_at_us;
	struct arena names;    /* of publications */
	char *remembered_path; /* what publications there were, for the next process */
	struct look remembered;
	bool publication_again; /* one was made again: the slot is of no use, once the stream runs */
	const char *publication[2];
	char last_why[256]; /* of the last failed attempt, and when the log had it */
	int64_t why_at_us;
};

/* ---- pgoutput messages into the spool ---- */

static int out_of_place(enum pgo_kind kind, struct rt_err *err)
{
	return rt_fail(err, ERR_PERMANENT, "pgoutput message '%c' %s a transaction", (char)kind,
		       kind == PGO_BEGIN ? "inside" : "outside");
}

/* A transaction's BEGIN goes into the spool with its first change: many have none for us. */
static int append(struct capture *c, const struct change *change, struct rt_err *err)
{
	if (!c->begun && !c->again) {
		int rc = spool_append(c->spool, &c->begin, err);
		if (rc != 0)
			return rc;
	}
	c->begun = true;
	return c->again ? 0 : spool_append(c->spool, change, err);
}

static int take_row(struct capture *c, const struct pgo_message *m, enum change_kind kind,
		    struct lsn lsn, struct rt_err *err)
{
	struct change change = {
		.kind = kind,
		.lsn = lsn,
		.new_row = m->row.new_row,
		.old_row = m->row.old_row,
		.old_kind = m->row.old_kind,
	};
	int rc = rel_get(&c->relations, m->row.relation_oid,
			 kind == CHANGE_DELETE ? m->row.old_row.count : m->row.new_row.count,
			 &change.schema, err);
	if (rc != 0)
		return rc;
	if (change.old_kind != 0 && change.old_row.count != change.schema->count)
		return rt_fail(err, ERR_PERMANENT, "an old row of %s.%s with %u values",
			       change.schema->nspname, change.schema->relname,
			       change.old_row.count);
	met_add(MET_CAPTURE_CHANGES, 1);
	FAILPOINT_FD(WALSENDER_BEFORE_ROW, PQsocket(c->stream.conn));
	rc = append(c, &change, err);
	FAILPOINT_FD(WALSENDER_AFTER_ROW, PQsocket(c->stream.conn));
	return rc;
}

static int take_truncate(struct capture *c, const struct pgo_message *m, struct lsn lsn,
			 struct rt_err *err)
{
	const struct schema **schema =
		arena_alloc(&c->arena, m->truncate.count * sizeof(struct schema *));
	for (uint32_t i = 0; i < m->truncate.count; i++) {
		int rc = rel_get(&c->relations, m->truncate.relation_oid[i], -1, &schema[i], err);
		if (rc != 0)
			return rc;
	}
	const struct change change = {
		.kind = CHANGE_TRUNCATE,
		.lsn = lsn,
		.truncate_flags = m->truncate.flags,
		.truncated_count = m->truncate.count,
		.truncated = schema,
	};
	met_add(MET_CAPTURE_CHANGES, 1);
	return append(c, &change, err);
}

/* Everything for us that ends up to `end` was sent. */
static int nothing_more(struct capture *c, struct lsn end, bool urgent, struct rt_err *err)
{
	prog_keepalive(&c->prog, end, urgent);
	return c->open ? 0 : recheck_idle(&c->recheck, end, err);
}

/* Anybody in the core may write messages: ours are known by prefix, and small. */
static const char *const messages_taken[] = {"rolag.heartbeat", "rolag.fence", "rolag.sync"};

static bool is_taken(const char *prefix)
{
	for (size_t i = 0; i < ARRAY_LEN(messages_taken); i++)
		if (strcmp(prefix, messages_taken[i]) == 0)
			return true;
	return false;
}

static int take_message(struct capture *c, const struct pgo_message *m, struct rt_err *err)
{
	if (!m->message.transactional) {
		met_add(MET_MESSAGES_DROPPED, 1);
		return nothing_more(c, m->message.lsn, false, err);
	}
	if (!c->open)
		return out_of_place(m->kind, err);
	if (!is_taken(m->message.prefix) || m->message.content.len > MESSAGE_BYTES_MAX) {
		met_add(MET_MESSAGES_DROPPED, 1);
		return 0;
	}
	const struct change change = {
		.kind = CHANGE_MESSAGE,
		.lsn = m->message.lsn,
		.transactional = true,
		.prefix = m->message.prefix,
		.content = m->message.content,
	};
	FAILPOINT_FD(WALSENDER_MESSAGE, PQsocket(c->stream.conn));
	return append(c, &change, err);
}

static int take_begin(struct capture *c, const struct pgo_message *m, struct rt_err *err)
{
	if (c->open)
		return out_of_place(m->kind, err);
	c->begin = (struct change){
		.kind = CHANGE_BEGIN,
		.lsn = m->begin.commit,
		.xid = m->begin.xid,
		.commit_us = m->begin.commit_us,
	};
	FAILPOINT_FD(WALSENDER_BEFORE_BEGIN, PQsocket(c->stream.conn));
	c->open = true;
	c->begun = false;
	c->again = lsn_lt(m->begin.commit, c->prog.appended);
	prog_begin(&c->prog);
	FAILPOINT_FD(WALSENDER_AFTER_BEGIN, PQsocket(c->stream.conn));
	return 0;
}

/* The COMMIT of a transaction that the spool has all the rest of, and not the end. */
static int append_commit(struct capture *c, const struct pgo_message *m, struct rt_err *err)
{
	const struct change change = {
		.kind = CHANGE_COMMIT,
		.lsn = m->commit.end,
		.commit_us = m->commit.commit_us,
	};
	c->had = (struct spool_memory){
		.end = m->commit.end,
		.xid = c->begin.xid,
		.commit_us = m->commit.commit_us,
	};
	c->had_from = c->begin.lsn;
	c->commit_us = m->commit.commit_us;
	c->unwritten = true;
	met_set(MET_CAPTURE_COMMIT_US, (uint64_t)c->commit_us);
	met_add(MET_CAPTURE_TRANSACTIONS, 1);
	int rc = spool_append(c->spool, &change, err);
	FAILPOINT_FD(WALSENDER_AFTER_COMMIT, PQsocket(c->stream.conn));
	return rc;
}

static int take_commit(struct capture *c, const struct pgo_message *m, struct rt_err *err)
{
	FAILPOINT_FD(WALSENDER_BEFORE_COMMIT, PQsocket(c->stream.conn));
	c->open = false;
	if (!c->begun) {
		prog_commit_empty(&c->prog, m->commit.end);
		return recheck_idle(&c->recheck, m->commit.end, err);
	}
	c->begun = false;
	int rc = recheck_commit(&c->recheck, m->commit.end, c->begin.xid, m->commit.commit_us, err);
	if (rc != 0)
		return rc;
	if (!prog_commit(&c->prog, m->commit.end))
		return spool_abort_transaction(c->spool, err); /* we hold it already */
	if (c->again)
		return rt_fail(err, ERR_PERMANENT,
			       "a transaction ends at " LSN_FMT ", but its commit is at " LSN_FMT
			       ", up to which we held everything",
			       LSN_ARGS(m->commit.end), LSN_ARGS(c->begin.lsn));
	return append_commit(c, m, err);
}

static int take_relation(struct capture *c, struct schema s, struct rt_err *err)
{
	int rc = mirrored_complete(&c->mirrored, &c->arena, &s, err);
	if (rc != 0)
		return rc;
	if (shape_needs_text(&s) && stream_wants_text(&c->stream))
		return rt_fail(err, ERR_RETRY,
			       "reconnecting in text mode: a column of %s.%s means nothing in "
			       "binary",
			       s.nspname, s.relname);
	rel_put(&c->relations, &s);
	return 0;
}

static int take(struct capture *c, const struct pgo_message *m, struct lsn lsn, struct rt_err *err)
{
	switch (m->kind) {
	case PGO_BEGIN:
		return take_begin(c, m, err);
	case PGO_MESSAGE:
		return take_message(c, m, err);
	case PGO_RELATION:
		FAILPOINT_FD(WALSENDER_RELATION, PQsocket(c->stream.conn));
		return take_relation(c, m->relation, err);
	case PGO_ORIGIN: /* where a change came from, and what a type is called: nothing we keep */
	case PGO_TYPE:
		return 0;
	case PGO_COMMIT:
	case PGO_INSERT:
	case PGO_UPDATE:
	case PGO_DELETE:
	case PGO_TRUNCATE:
		break;
	}
	if (!c->open)
		return out_of_place(m->kind, err);
	if (m->kind == PGO_COMMIT)
		return take_commit(c, m, err);
	if (m->kind == PGO_TRUNCATE)
		return take_truncate(c, m, lsn, err);
	return take_row(c, m,
			m->kind == PGO_INSERT	? CHANGE_INSERT
			: m->kind == PGO_UPDATE ? CHANGE_UPDATE
						: CHANGE_DELETE,
			lsn, err);
}

static int on_data(void *ctx, struct lsn lsn, struct slice bytes, struct rt_err *err)
{
	struct capture *c = ctx;
	struct pgo_message m;
	arena_reset(&c->arena);
	int rc = pgo_decode(bytes, lsn, &c->arena, &m, err);
	if (rc == 0 && (rc = take(c, &m, lsn, err)) != 0)
		rt_context(err, "LSN " LSN_FMT, LSN_ARGS(lsn));
	c->unsynced_bytes += bytes.len;
	met_add(MET_CAPTURE_BYTES, bytes.len);
	return rc;
}

static int on_keepalive(void *ctx, struct lsn end, bool reply, struct rt_err *err)
{
	struct capture *c = ctx;
	FAILPOINT_FD(WALSENDER_KEEPALIVE, PQsocket(c->stream.conn));
	c->sync_now |= reply;
	return nothing_more(c, end, reply, err);
}

/* ---- connections ---- */

static struct spool_identity identity_of(const struct capture *c, const struct stream_facts *f)
{
	return (struct spool_identity){
		.system_id = f->core.system_id,
		.timeline = f->core.timeline,
		.pipeline = c->settings->pipeline,
		.slot = c->settings->core.slot,
	};
}

/* Apply's last word, of the core's timeline; none: LSN_NONE. Negative: it is of a core that was set back. */
static int read_held(const struct capture *c, const struct stream_facts *f, struct lsn *ret,
		     struct rt_err *err)
{
	struct applied_position p;
	*ret = LSN_NONE;
	int rc = applied_read(c->settings->spool.dir, &p, err);
	if (rc != 1 || p.timeline != f->core.timeline)
		return RT_MIN(rc, 0);
	*ret = p.applied;
	return prog_not_set_back(&f->core, p.applied, err);
}

/*
 * Is the core on a later timeline than apply was when it gave its last word (a
 * failover)? What was of the old one then stays in the spool, behind which a
 * generation of the new one begins; apply finds out what to take back.
 */
static int is_later_timeline(const struct capture *c, const struct stream_facts *f, bool *ret,
			     struct rt_err *err)
{
	struct applied_position p;
	*ret = false;
	if (c->settings->capture.on_lost_slot != LOST_SLOT_RESYNC)
		return 0;
	int rc = applied_read(c->settings->spool.dir, &p, err);
	*ret = (rc == 1 && p.timeline < f->core.timeline) ||
	       (c->core.system_id != 0 && c->core.timeline < f->core.timeline);
	return RT_MIN(rc, 0);
}

/* What decides which transactions the core sends, and which of them we take: else none can be held against another. */
static uint64_t hash_of_asked(const struct capture *c)
{
	const struct stream_options *o = &c->stream.o;
	struct buf b = BUF_INIT;
	for (int i = 0; i < o->publication_count; i++)
		buf_add(&b, o->publication[i], strlen(o->publication[i]) + 1);
	buf_u8(&b, 0);
	for (size_t i = 0; i < ARRAY_LEN(messages_taken); i++)
		buf_add(&b, messages_taken[i], strlen(messages_taken[i]) + 1);
	uint64_t hash = XXH3_64bits(b.p, b.len);
	buf_release(&b);
	return hash;
}

struct recalling {
	struct capture *c;
	struct lsn confirmed;
	struct lsn to; /* the farthest that the spool had got */
};

static void recall(void *ctx, const struct spool_memory *m)
{
	struct recalling *r = ctx;
	r->to = m->end;
	if (lsn_lt(r->confirmed, m->end))
		recheck_expect(&r->c->recheck, m);
	else if (m->xid != 0)
		r->c->had = *m;
}

/*
 * What we had beyond the slot's confirmed position, which the opening will cut
 * off, must come again. Where the spool is damaged it is healed by that cut,
 * and the less is compared.
 */
static int recall_spool(struct capture *c, const struct stream_facts *f, struct rt_err *err)
{
	const struct spool_identity id = identity_of(c, f);
	struct recalling r = {.c = c, .confirmed = f->core.confirmed};
	recheck_release(&c->recheck);
	c->had = (struct spool_memory){0};
	FAILPOINT(CAPTURE_RECALL);
	int rc = spool_recall(c->settings->spool.dir, &id, hash_of_asked(c), f->core.confirmed,
			      recall, &r, err);
	if (rc == ERR_PERMANENT)
		log_warn("what was received before cannot all be compared with what comes again",
			 "reason=\"%s\"", err->msg);
	else if (rc != 0)
		return rc;
	if (lsn_lt(r.to, f->core.confirmed)) /* others may stand between */
		c->had = (struct spool_memory){0};
	/* Where it is not known, the next connection needs nothing from before this one. */
	c->had_from = c->had.xid != 0 ? LSN_NONE : f->core.confirmed;
	/* A standby's position goes back for a moment when it starts. */
	return f->in_recovery ? 0 : prog_not_set_back(&f->core, r.to, err);
}

/* What we had may not be of this timeline: nothing of it need come again. */
static void forget_spool(struct capture *c, const struct stream_facts *f)
{
	recheck_release(&c->recheck);
	c->had = (struct spool_memory){0};
	c->had_from = f->core.confirmed;
}

/* What the new generation of the spool says that we had. */
static size_t memory_of(const struct capture *c, struct spool_memory ret[RECHECK_MEMORY + 1])
{
	size_t n = 0;
	if (c->had.xid != 0)
		ret[n++] = c->had;
	return n + recheck_memory(&c->recheck, ret + n);
}

static int open_spool(struct capture *c, const struct stream_facts *f, struct rt_err *err)
{
	const struct settings *s = c->settings;
	const struct spool_identity id = identity_of(c, f);
	struct spool_options o = {
		.segment_bytes = s->spool.segment_size,
		.quota_bytes = s->spool.quota,
		.reserve_bytes = s->spool.reserve,
		.frame_bytes = FRAME_BYTES,
		.retain_us = s->spool.retain,
		.accept_gap = s->capture.on_lost_slot == LOST_SLOT_RESYNC,
		.asked = hash_of_asked(c),
	};
	const struct prog_options po = {
		.confirm_spooled = s->capture.confirm == CONFIRM_SPOOLED,
		.wal_budget_bytes = s->capture.wal_budget,
		.frame_interval_us = FRAME_INTERVAL_US,
	};
	struct lsn held;
	int rc = read_held(c, f, &held, err);
	if (rc == 0)
		rc = is_later_timeline(c, f, &o.accept_timeline, err);
	if (rc < 0)
		return rc;
	if (o.accept_timeline) {
		log_warn("the core is on a later timeline (a failover): apply takes back what is "
			 "not of it",
			 "timeline=%u from=" LSN_FMT, f->core.timeline,
			 LSN_ARGS(f->core.confirmed));
		forget_spool(c, f);
	} else {
		rc = recall_spool(c, f, err);
	}
	if (rc < 0)
		return rc;
	struct spool_memory memory[RECHECK_MEMORY + 1];
	o.memory = memory;
	o.memory_count = memory_of(c, memory);
	FAILPOINT(CAPTURE_BEFORE_OPEN);
	rc = spool_writer_open(&c->spool, s->spool.dir, &id, &o, f->core.confirmed, err);
	if (rc != 0)
		return rc;
	prog_init(&c->prog, &po, f->core.confirmed);
	c->core = f->core;
	c->keep.v = 1; /* all of it, until apply's word is read */
	const struct lsn gap = spool_gap(c->spool);
	if (gap.v == 0)
		return 0;
	met_add(MET_CAPTURE_GAPS, 1);
	log_error("a gap: the slot that had these changes is lost, apply must sync",
		  "slot=%s from=" LSN_FMT " to=" LSN_FMT, s->core.slot, LSN_ARGS(gap),
		  LSN_ARGS(f->core.confirmed));
	return 0;
}

/* The slot goes on behind what we hold: another one, in the place of one that was lost. The spool says so. */
static int open_behind_gap(struct capture *c, const struct stream_facts *f, struct rt_err *err)
{
	int rc = spool_sync(c->spool, err);
	if (rc != 0)
		return rc;
	c->begun = c->open = false;
	spool_writer_close(c->spool);
	c->spool = NULL;
	c->unwritten = false;
	c->unsynced_since_us = 0;
	c->unsynced_bytes = 0;
	c->commit_us = c->syncing_commit_us = 0;
	return open_spool(c, f, err);
}

/* Is it the core that we know, whatever became of the slot? */
static int same_core(const struct capture *c, const struct stream_facts *f, struct rt_err *err)
{
	struct prog_core now = f->core;
	bool later;
	int rc = is_later_timeline(c, f, &later, err);
	if (rc != 0)
		return rc;
	if (later && now.system_id == c->core.system_id)
		return 0;
	now.confirmed = LSN_NONE;
	return prog_same_core(&c->core, &now, c->prog.appended, err);
}

static int reconnected(struct capture *c, const struct stream_facts *f, struct rt_err *err)
{
	bool later;
	int failed = is_later_timeline(c, f, &later, err);
	if (failed != 0)
		return failed;
	if (c->settings->capture.on_lost_slot == LOST_SLOT_STOP ||
	    (!later && lsn_le(f->core.confirmed, c->prog.appended)))
		return prog_same_core(&c->core, &f->core, c->prog.appended, err);
	int rc = same_core(c, f, err);
	return rc != 0 ? rc : open_behind_gap(c, f, err);
}

static int on_connected(void *ctx, const struct stream_facts *f, struct lsn *ret_start,
			struct rt_err *err)
{
	struct capture *c = ctx;
	bool first = c->spool == NULL;
	int rc = first ? open_spool(c, f, err) : reconnected(c, f, err);
	if (rc != 0)
		return rc;
	/* A new process cut the spool back to confirmed; an old one goes on with the last transaction that it holds. */
	*ret_start = first ? c->prog.appended : lsn_max(c->had_from, f->core.confirmed);
	if (!first)
		recheck_again(&c->recheck, &c->had, *ret_start, c->prog.appended);
	recheck_connected(&c->recheck, f->core.confirmed);
	if (!first)
		met_add(MET_CAPTURE_RECONNECTS, 1);
	met_set(MET_CAPTURE_CONNECTED, 1);
	alarms_note(&c->alarms);
	c->last_why[0] = '\0';
	c->applied_poll_us = 0;
	c->custody.core_is_closing = false; /* it was, before it came back */
	log_info("stream starts", "slot=%s from=" LSN_FMT " binary=%s timeline=%u server=%d",
		 c->settings->core.slot, LSN_ARGS(*ret_start), f->binary ? "on" : "off",
		 f->core.timeline, f->server_version);
	return 0;
}

/* ---- a lost slot ---- */

static const char *loss_text(enum stream_loss loss)
{
	switch (loss) {
	case STREAM_SLOT_GONE:
		return "does not exist in the core";
	case STREAM_SLOT_INVALIDATED:
		return "was invalidated: the core no longer has the WAL that we need "
		       "(max_slot_wal_keep_size)";
	case STREAM_SLOT_WITHOUT_WAL:
		return "cannot be decoded any further: the core has lost WAL that it was to keep "
		       "for it";
	case STREAM_SLOT_UNDECODABLE:
		return "cannot be decoded any further: a publication did not exist when a change "
		       "was made";
	case STREAM_SLOT_GOOD:
		break;
	}
	return "is good";
}

/* It is our core, and a slot was there before: one of the name is, or the spool holds something, or apply has told. */
static int was_there(const struct capture *c, const struct stream_facts *f, struct rt_err *err)
{
	struct spool_identity id = identity_of(c, f);
	struct lsn end = LSN_NONE, held;
	bool later;
	int rc = read_held(c, f, &held, err);
	if (rc == 0)
		rc = is_later_timeline(c, f, &later, err);
	/* cppcheck-suppress uninitvar; set where rc is 0 */
	if (rc == 0 && later)
		id.timeline = 0;
	if (rc == 0 && c->spool != NULL)
		return same_core(c, f, err);
	if (rc == 0)
		rc = spool_end(c->settings->spool.dir, &id, &end, err);
	if (rc < 0)
		return rc;
	if (f->loss == STREAM_SLOT_GONE && end.v == 0 && held.v == 0)
		return rt_fail(err, ERR_PERMANENT,
			       "replication slot %s %s, and nothing came from it yet; mend: rolag "
			       "init",
			       c->settings->core.slot, loss_text(f->loss));
	/* Positions of an earlier timeline say nothing about it. */
	return later ? 0 : prog_not_set_back(&f->core, end, err);
}

static int on_slot_lost(void *ctx, const struct stream_facts *f, struct rt_err *err)
{
	struct capture *c = ctx;
	const char *slot = c->settings->core.slot;
	int rc = was_there(c, f, err);
	if (rc != 0)
		return rc;
	if (c->settings->capture.on_lost_slot == LOST_SLOT_STOP)
		return rt_fail(err, ERR_PERMANENT,
			       "replication slot %s %s; mend: capture.on_lost_slot: resync, which "
			       "makes a new one and syncs what is missing, or " MEND_LOAD_ANEW,
			       slot, loss_text(f->loss));
	log_error("the slot is lost: a new one is made in its place", "slot=%s reason=\"it %s\"",
		  slot, loss_text(f->loss));
	met_note("slot %s %s; a new one is being made", slot, loss_text(f->loss));
	met_add(MET_CAPTURE_SLOTS_MADE, 1);
	return 0;
}

static bool on_slot_waits(void *ctx, const struct slot_wait *w)
{
	const struct capture *c = ctx;
	log_warn("the new slot waits for old transactions of the core to end",
		 "slot=%s waited_s=%lld pid=%d open_s=%lld", c->settings->core.slot,
		 (long long)(w->waited_us / 1000000), w->pid,
		 (long long)(w->xact_age_us / 1000000));
	met_note("slot %s: the new one waits for old transactions of the core to end (pid %d, open "
		 "for %lld s)",
		 c->settings->core.slot, w->pid, (long long)(w->xact_age_us / 1000000));
	return false;
}

static bool on_slot_turn(void *ctx)
{
	struct capture *c = ctx;
	met_tick(rt_now_us());
	return loop_stopping(&c->loop);
}

static int forget_open_transaction(struct capture *c, struct rt_err *err)
{
	bool begun = c->begun && !c->again;
	c->open = c->begun = false;
	prog_disconnected(&c->prog);
	return begun ? spool_abort_transaction(c->spool, err) : 0;
}

/* The same reason again and again is told once a minute. libpq's texts have several lines and quotes. */
static void say_disconnected(struct capture *c, const struct rt_err *why, int64_t wait_us)
{
	char text[sizeof(why->msg)];
	int64_t now = rt_mono_us();
	snprintf(text, sizeof(text), "%s", why->msg);
	for (char *p = text; *p != '\0'; p++)
		if (*p == '"' || *p == '\t')
			*p = *p == '"' ? '\'' : ' ';
	met_note("%s", text);
	bool again = strncmp(text, c->last_why, sizeof(c->last_why) - 1) == 0 &&
		     now - c->why_at_us < REPEAT_US;
	log_line(again ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARN, "no stream from the core",
		 "reason=\"%s\" retry_ms=%lld", text, (long long)(wait_us / 1000));
	if (!again)
		c->why_at_us = now;
	snprintf(c->last_why, sizeof(c->last_why), "%.255s", text);
}

static int on_disconnected(void *ctx, const struct rt_err *why, int64_t wait_us, struct rt_err *err)
{
	struct capture *c = ctx;
	FAILPOINT(CAPTURE_DISCONNECTED);
	rel_clear(&c->relations);
	mirrored_close(&c->mirrored);
	met_set(MET_CAPTURE_CONNECTED, 0);
	met_state("waiting");
	say_disconnected(c, why, wait_us);
	return c->spool == NULL ? 0 : forget_open_transaction(c, err);
}

static void on_notice(void *ctx, const char *message, const char *fields)
{
	log_warn(message, "%s", fields);
}

/* ---- the end of a turn ---- */

static struct prog_feedback feedback(const struct capture *c)
{
	struct prog_feedback f = prog_feedback(&c->prog);
	f.flush = recheck_confirm(&c->recheck, f.flush);
	return f;
}

static int write_spool(struct capture *c, int64_t now_us, struct rt_err *err)
{
	struct lsn frame;
	int rc = 0;
	if (prog_frame_due(&c->prog, now_us, &frame)) {
		const struct change change = {.kind = CHANGE_PROGRESS, .lsn = frame};
		FAILPOINT_FD(CAPTURE_PROGRESS, PQsocket(c->stream.conn));
		rc = spool_append(c->spool, &change, err);
		if (rc == 0)
			prog_frame_appended(&c->prog, frame, now_us);
		c->unwritten = true;
	}
	if (rc == 0 && c->unwritten) {
		FAILPOINT_FD(CAPTURE_BEFORE_WRITE, PQsocket(c->stream.conn));
		rc = spool_write(c->spool, err);
		FAILPOINT_FD(CAPTURE_AFTER_WRITE, PQsocket(c->stream.conn));
		if (rc == 0)
			prog_received(&c->prog, spool_received(c->spool));
		c->unwritten = false;
		if (c->unsynced_since_us == 0)
			c->unsynced_since_us = RT_MAX(now_us, 1);
		c->full_poll_us = 0;
	}
	return rc;
}

static int64_t sync_due_us(const struct capture *c)
{
	return c->unsynced_since_us == 0
		       ? INT64_MAX
		       : c->unsynced_since_us + c->settings->capture.sync_interval;
}

/* What was synced last is on disk. */
static void note_synced(struct capture *c)
{
	FAILPOINT_FD(CAPTURE_AFTER_SYNC, PQsocket(c->stream.conn));
	prog_durable(&c->prog, spool_durable(c->spool));
	met_add(MET_SPOOL_SYNCS, 1);
	if (c->syncing_commit_us != 0)
		met_observe(MET_DURABLE_SECONDS, rt_now_us() - c->syncing_commit_us);
	c->syncing_commit_us = 0;
}

/* A failed sync is never tried again: the kernel may have dropped the pages. */
static int sync_spool(struct capture *c, bool wait, struct rt_err *err)
{
	FAILPOINT_FD(CAPTURE_BEFORE_SYNC, PQsocket(c->stream.conn));
	int rc = wait ? spool_sync(c->spool, err) : spool_sync_begin(c->spool, err);
	if (rc != 0)
		return rc;
	c->unsynced_since_us = 0;
	c->unsynced_bytes = 0;
	c->syncing_commit_us = RT_MAX(c->syncing_commit_us, c->commit_us);
	c->commit_us = 0;
	if (wait)
		note_synced(c);
	return 0;
}

/*
 * Syncs are begun and their ends taken without waiting, so that what comes
 * meanwhile goes on to apply; but not where the core waits for an answer, or
 * where the disk falls far behind.
 */
static int sync_if_due(struct capture *c, int64_t now_us, struct rt_err *err)
{
	int rc = spool_sync_end(c->spool, err);
	if (rc < 0)
		return rc;
	if (rc == 1)
		note_synced(c);
	bool wait = (c->sync_now && (c->unsynced_since_us != 0 || spool_is_syncing(c->spool))) ||
		    c->unsynced_bytes >= SYNC_BYTES_MOST;
	/* By bytes also within a large transaction: its end must not wait for all of it at once. */
	bool due = c->unsynced_bytes >= SYNC_BYTES || now_us >= sync_due_us(c);
	c->sync_now = false;
	if (!wait && (!due || spool_is_syncing(c->spool)))
		return 0;
	return sync_spool(c, wait, err);
}

/* Is there anything that apply could tell us? */
static bool applied_matters(const struct capture *c)
{
	return lsn_lt(c->prog.applied, c->prog.received) || c->keep.v != 0;
}

static int read_applied(struct capture *c, int64_t now_us, struct rt_err *err)
{
	struct applied_position p;
	if (!applied_matters(c) || now_us < c->applied_poll_us)
		return 0;
	c->applied_poll_us = now_us + POLL_US;
	FAILPOINT(CAPTURE_READ_APPLIED);
	int rc = applied_read(c->settings->spool.dir, &p, err);
	if (rc == 1 && p.timeline == c->core.timeline) {
		prog_applied(&c->prog, p.applied);
		c->keep = p.keep;
	}
	return RT_MIN(rc, 0);
}

/* Whatever moved: applied, durable (applied may be ahead of it, from before our start), or the time to retain. */
static int trim_spool(struct capture *c, int64_t now_us, struct rt_err *err)
{
	if (now_us < c->trim_at_us)
		return 0;
	c->trim_at_us = now_us + TRIM_US;
	FAILPOINT(CAPTURE_TRIM);
	struct lsn end = lsn_min(c->prog.applied, c->prog.durable);
	if (c->keep.v != 0)
		end = lsn_min(end, c->keep);
	return spool_trim(c->spool, end, err);
}

/* Full: stop reading (status updates go on). The core's WAL grows instead; only room mends it. */
static void watch_room(struct capture *c, int64_t now_us)
{
	if (now_us < c->full_poll_us)
		return;
	c->full_poll_us = now_us + POLL_US;
	bool full = spool_is_full(c->spool);
	if (full == c->full)
		return;
	c->full = full;
	stream_pause(&c->stream, full);
	met_set(MET_SPOOL_FULL, full);
	if (full)
		log_error("the spool is full: not reading the core",
			  "spool_bytes=%llu quota=%llu mend=\"bring apply back, or make room: on "
			  "the disk (spool.reserve), or by spool.quota\"",
			  (unsigned long long)spool_bytes(c->spool),
			  (unsigned long long)c->settings->spool.quota);
	else
		log_info("the spool has room again", "spool_bytes=%llu",
			 (unsigned long long)spool_bytes(c->spool));
}

static void watch_core(struct capture *c, int64_t now_us)
{
	if (c->custody.facts.asked_at_us != 0)
		prog_current(&c->prog, c->custody.facts.current);
	alarms_wal(&c->alarms, &c->custody, &c->prog, c->full, now_us);
	if (c->prog.spilling == c->spilling)
		return;
	c->spilling = c->prog.spilling;
	if (c->spilling)
		log_warn("spilling: past the WAL budget, confirming what the spool holds",
			 "budget=%llu retained=%llu",
			 (unsigned long long)c->settings->capture.wal_budget,
			 (unsigned long long)custody_retained_bytes(&c->custody));
	else
		log_info("no longer spilling: the warehouse has caught up", "%s", "");
}

static bool is_behind(const struct capture *c)
{
	return c->prog.current.v > c->prog.appended.v + LIVE_BYTES;
}

static const char *state_name(const struct capture *c)
{
	if (!stream_is_running(&c->stream))
		return "waiting";
	if (c->full)
		return "full";
	if (c->prog.spilling)
		return "spilling";
	return is_behind(c) ? "catching_up" : "live";
}

static void set_metrics(struct capture *c, int64_t now_us)
{
	const struct prog *p = &c->prog;
	met_set(MET_CAPTURE_RECEIVED_LSN, p->received.v);
	met_set(MET_CAPTURE_DURABLE_LSN, p->durable.v);
	met_set(MET_CAPTURE_CONFIRMED_LSN, p->confirmed.v);
	met_set(MET_CAPTURE_APPLIED_LSN, p->applied.v);
	met_set(MET_CORE_CURRENT_LSN, p->current.v);
	met_set(MET_CORE_RETAINED_BYTES, custody_retained_bytes(&c->custody));
	met_set(MET_CORE_BUDGET_BYTES, c->settings->capture.wal_budget);
	met_set(MET_SPOOL_QUOTA_BYTES, c->settings->spool.quota);
	met_add(MET_CAPTURE_HEARTBEATS, c->custody.beats - met_get(MET_CAPTURE_HEARTBEATS));
	if (now_us < c->tick_at_us)
		return;
	c->tick_at_us = now_us + TICK_US;
	met_set(MET_SPOOL_BYTES, c->spool != NULL ? spool_bytes(c->spool) : 0);
	met_state(state_name(c));
}

static void say_status(const struct capture *c)
{
	const struct prog *p = &c->prog;
	const struct custody_facts *f = &c->custody.facts;
	log_info("status",
		 "state=%s current=" LSN_FMT " received=" LSN_FMT " durable=" LSN_FMT
		 " applied=" LSN_FMT " confirmed=" LSN_FMT " retained_bytes=%llu wal_status=%s"
		 " spool_bytes=%llu oldest_transaction_pid=%d oldest_transaction_s=%lld",
		 state_name(c), LSN_ARGS(p->current), LSN_ARGS(p->received), LSN_ARGS(p->durable),
		 LSN_ARGS(p->applied), LSN_ARGS(p->confirmed),
		 (unsigned long long)custody_retained_bytes(&c->custody),
		 f->wal_status[0] != '\0' ? f->wal_status : "unknown",
		 (unsigned long long)(c->spool != NULL ? spool_bytes(c->spool) : 0), f->oldest_pid,
		 (long long)(f->oldest_xact_age_us / 1000000));
}

static void reload(const struct capture *c)
{
	struct arena a;
	struct settings s;
	struct rt_err err;
	arena_init(&a, 4096);
	if (settings_load(c->settings->file, &a, &s, &err) == 0) {
		settings_setup_log(&s, "capture");
		log_info("configuration read again", "file=%s", c->settings->file);
	} else {
		log_error("the new configuration is not valid: the old one stays", "reason=\"%s\"",
			  err.msg);
	}
	arena_release(&a);
}

static void take_signals(struct capture *c)
{
	if (c->loop.reload)
		reload(c);
	if (c->loop.usr2)
		say_status(c);
	c->loop.reload = c->loop.usr1 = c->loop.usr2 = c->loop.child = false;
}

/* SIGTERM: what is whole stays, what is open will come again; the core hears the last word. */
static int finish(struct capture *c, struct rt_err *err)
{
	int rc = 0;
	c->loop.done = true;
	if (c->spool == NULL)
		return 0;
	FAILPOINT(CAPTURE_FINISH);
	rc = forget_open_transaction(c, err);
	if (rc == 0)
		rc = sync_spool(c, true, err);
	const struct prog_feedback f = feedback(c);
	if (rc == 0)
		stream_stop(&c->stream, &f);
	set_metrics(c, INT64_MAX - TICK_US);
	return rc;
}

/*
 * A core that shuts down waits until its walsenders have had everything
 * confirmed. With the warehouse behind, that would be long: let it go.
 */
static int let_core_go(struct capture *c, int64_t now_us, struct rt_err *err)
{
	if (!c->custody.core_is_closing || !stream_is_running(&c->stream))
		return 0;
	struct rt_err why;
	const struct prog_feedback f = feedback(c);
	rt_fail(&why, ERR_RETRY, "the core is shutting down");
	c->custody.core_is_closing = false;
	stream_stop(&c->stream, &f);
	return stream_drop(&c->stream, &why, now_us, err);
}

static void watch_catalog(struct capture *c)
{
	if (!c->custody.looked_anew || c->custody.conn == NULL)
		return;
	c->custody.looked_anew = false;
	c->publication_again |=
		alarms_catalog(&c->alarms, &c->custody.look, c->custody.o.publication,
			       PQserverVersion(c->custody.conn));
}

/* Once the slot that it concerns is dealt with: else the next process would not know. */
static void remember_publications(struct capture *c)
{
	struct rt_err err;
	const struct look *l = &c->alarms.seen;
	if (!c->alarms.looked || memcmp(l->oid, c->remembered.oid, sizeof(l->oid)) == 0)
		return;
	FAILPOINT(CAPTURE_REMEMBER);
	if (look_remember(c->remembered_path, l, c->publication, c->custody.o.publication_count,
			  &err) != 0)
		log_warn("publications are not remembered", "reason=\"%s\"", err.msg);
	c->remembered = *l; /* a failure is not tried again with every turn */
}

static int act_on_catalog(struct capture *c, int64_t now_us, struct rt_err *err)
{
	if (!stream_is_running(&c->stream))
		return 0;
	if (!c->publication_again) {
		remember_publications(c);
		return 0;
	}
	c->publication_again = false;
	struct rt_err why;
	rt_fail(&why, ERR_RETRY,
		"a publication was made again, and this core passes over what was "
		"written without it");
	return stream_lose_slot(&c->stream, &why, now_us, err);
}

static int before_sleep(void *ctx, int64_t now_us, struct rt_err *err)
{
	struct capture *c = ctx;
	int rc = 0;
	take_signals(c);
	if (c->custody.connected_anew && !stream_is_running(&c->stream))
		stream_hurry(&c->stream);
	c->custody.connected_anew = false;
	watch_catalog(c);
	rc = act_on_catalog(c, now_us, err);
	if (rc == 0 && c->spool != NULL) {
		rc = write_spool(c, now_us, err);
		if (rc == 0)
			rc = sync_if_due(c, now_us, err);
		if (rc == 0)
			rc = read_applied(c, now_us, err);
		if (rc == 0)
			rc = trim_spool(c, now_us, err);
		if (rc != 0)
			return rc;
		watch_room(c, now_us);
		watch_core(c, now_us);
		stream_behind(&c->stream, is_behind(c));
		const struct prog_feedback f = feedback(c);
		rc = stream_status(&c->stream, &f, now_us, err);
		if (rc == 0)
			rc = let_core_go(c, now_us, err);
	}
	set_metrics(c, now_us);
	met_tick(rt_now_us());
	if (rc == 0 && c->loop.stop > 0)
		rc = finish(c, err);
	return rc;
}

/* ---- the timer: whatever falls due without input (a sync that ends, too); the work is before_sleep's ---- */

static void timer_prepare(void *ctx, int64_t now_us, struct loop_want *ret)
{
	const struct capture *c = ctx;
	ret->at_us = c->tick_at_us;
	if (c->spool == NULL)
		return;
	if (!spool_is_syncing(c->spool))
		ret->at_us = RT_MIN(ret->at_us, sync_due_us(c));
	else if ((ret->fd = spool_sync_fd(c->spool)) >= 0)
		ret->events = POLLIN;
	else
		ret->at_us = now_us;
	ret->at_us = RT_MIN(ret->at_us, prog_frame_at(&c->prog));
	if (applied_matters(c))
		ret->at_us = RT_MIN(ret->at_us, c->applied_poll_us);
	if (c->full)
		ret->at_us = RT_MIN(ret->at_us, c->full_poll_us);
}

static int timer_dispatch(void *ctx, short revents, int64_t now_us, struct rt_err *err)
{
	return 0;
}

/* ---- main ---- */

static void set_up(struct capture *c, const struct settings *s, char *application_name)
{
	static const struct {
		int from;
		enum stream_binary to;
	} binary[] = {
		{BINARY_AUTO, STREAM_BINARY_AUTO},
		{BINARY_ON, STREAM_BINARY_ON},
		{BINARY_OFF, STREAM_BINARY_OFF},
	};
	struct stream_options so = {
		.conninfo = s->core.connect,
		.application_name = application_name,
		.slot = s->core.slot,
		.publication = c->publication,
		.publication_count = mirrored_publications(s, &c->names, c->publication),
	};
	for (size_t i = 0; i < ARRAY_LEN(binary); i++)
		if (binary[i].from == s->capture.binary)
			so.binary = binary[i].to;
	const struct stream_handler h = {
		.ctx = c,
		.slot_lost = on_slot_lost,
		.slot_waits = on_slot_waits,
		.slot_turn = on_slot_turn,
		.connected = on_connected,
		.data = on_data,
		.keepalive = on_keepalive,
		.disconnected = on_disconnected,
		.notice = on_notice,
	};
	const int want_count = mirrored_wants(s, &c->names, &c->alarms.want);
	c->remembered_path = rt_sprintf("%s/capture.publications", s->state_dir);
	c->alarms.looked = look_recall(c->remembered_path, c->publication, so.publication_count,
				       &c->remembered) == 1;
	c->alarms.seen = c->remembered;
	const struct custody_options co = {
		.conninfo = s->core.connect,
		.application_name = application_name,
		.slot = s->core.slot,
		.heartbeat_interval_us = s->capture.heartbeat_interval,
		.publication = so.publication,
		.publication_count = so.publication_count,
		.want = c->alarms.want,
		.want_count = want_count,
		.look_interval_us = s->capture.look_interval,
	};
	stream_init(&c->stream, &so, &h);
	custody_init(&c->custody, &co, on_notice, c);
	loop_add(&c->loop, stream_source(&c->stream));
	loop_add(&c->loop, custody_source(&c->custody));
	loop_add(&c->loop, (struct loop_source){"timer", c, timer_prepare, timer_dispatch});
	c->loop.ctx = c;
	c->loop.before_sleep = before_sleep;
}

/* One capture per state folder: the lock comes before the counters, which are another's otherwise. */
static int open_state(const struct settings *s, struct rt_err *err)
{
	char *lock = rt_sprintf("%s/capture.lock", s->state_dir);
	char *metrics = rt_sprintf("%s/capture.counters", s->state_dir);
	int fd; /* held until the process ends */
	int rc = fs_mkdirs(s->state_dir, 0750, err);
	if (rc == 0)
		rc = fs_lock(lock, 0, &fd, err);
	if (rc == 0)
		rc = met_open(metrics, "capture", err);
	free(lock);
	free(metrics);
	return rc;
}

int capture_main(const struct settings *s)
{
	struct capture c = {.settings = s, .mirrored.settings = s};
	struct rt_err err = {0};
	char *application_name = rt_sprintf("rolag capture %s", s->pipeline);
	settings_setup_log(s, "capture");
	arena_init(&c.arena, (size_t)64 << 10);
	arena_init(&c.names, 256);
	rel_init(&c.relations);
	int rc = open_state(s, &err);
	if (rc == 0)
		rc = loop_init(&c.loop, &err);
	if (rc == 0) {
		set_up(&c, s, application_name);
		met_state("waiting");
		log_info("capture starts", "version=" ROLAG_VERSION " pipeline=%s slot=%s",
			 s->pipeline, s->core.slot);
		rc = loop_run(&c.loop, &err);
		loop_release(&c.loop);
	}
	if (rc != 0) {
		log_error("capture stops", "reason=\"%s\"", err.msg);
		met_note("%s", err.msg);
		met_state("stopped");
	} else {
		log_info("capture ends", "confirmed=" LSN_FMT, LSN_ARGS(c.prog.confirmed));
		met_state("ended");
	}
	met_set(MET_CAPTURE_CONNECTED, 0);
	stream_release(&c.stream);
	custody_release(&c.custody);
	spool_writer_close(c.spool);
	recheck_release(&c.recheck);
	mirrored_close(&c.mirrored);
	rel_release(&c.relations);
	arena_release(&c.arena);
	arena_release(&c.names);
	free(c.remembered_path);
	free(application_name);
	return rt_exit_code((enum rt_code)rc);
}
