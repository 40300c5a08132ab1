/*
 * connect: what a connection to the core begins with. Guarantees: it is the
 * core that we know, the spool is cut back to what the slot will send again,
 * what must come again is remembered, and what cannot come any more is a gap
 * that the spool names.
 */
#include "cdc/capture/capture_inner.h"
#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/base/metrics.h"

#define FRAME_BYTES ((uint64_t)256 << 10)
#define REPEAT_US   60000000 /* the same reason again is told after that */

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
	int rc = spool_recall(c->settings->spool.dir, &id, take_hash_of_asked(c), f->core.confirmed,
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
		.asked = take_hash_of_asked(c),
	};
	const struct prog_options po = {
		.confirm_spooled = s->capture.confirm == CONFIRM_SPOOLED,
		.wal_budget_bytes = s->capture.wal_budget,
		.frame_interval_us = CAPTURE_FRAME_INTERVAL_US,
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

int connect_established(void *ctx, const struct stream_facts *f, struct lsn *ret_start,
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

int connect_slot_lost(void *ctx, const struct stream_facts *f, struct rt_err *err)
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
	met_set(MET_CAPTURE_SLOT_MADE_US, (uint64_t)rt_now_us());
	return 0;
}

bool connect_slot_waits(void *ctx, const struct slot_wait *w)
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

bool connect_slot_turn(void *ctx)
{
	struct capture *c = ctx;
	met_tick(rt_now_us());
	return loop_stopping(&c->loop);
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

int connect_lost(void *ctx, const struct rt_err *why, int64_t wait_us, struct rt_err *err)
{
	struct capture *c = ctx;
	FAILPOINT(CAPTURE_DISCONNECTED);
	rel_clear(&c->relations);
	mirrored_close(&c->mirrored);
	met_set(MET_CAPTURE_CONNECTED, 0);
	met_state("waiting");
	say_disconnected(c, why, wait_us);
	return c->spool == NULL ? 0 : take_forget_open(c, err);
}
