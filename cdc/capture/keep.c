/*
 * keep: what a turn of the loop does for the spool and the slot. Guarantees:
 * what was taken is written each turn; only what a sync returned 0 for is
 * durable; a segment goes when applied and durable are behind it.
 */
#include <poll.h>

#include "cdc/capture/capture_inner.h"
#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/base/metrics.h"

#define SYNC_BYTES                                                                                 \
	((uint64_t)8 << 20) /* synced at once past this, else after capture.sync_interval */
#define SYNC_BYTES_MOST                                                                            \
	(4 * SYNC_BYTES) /* written behind a sync that has not ended: then it is waited for */
#define POLL_US 100000	 /* <spool>/applied, and the spool's room while it is full */
#define TRIM_US 1000000

struct prog_feedback keep_feedback(const struct capture *c)
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
int keep_sync(struct capture *c, bool wait, struct rt_err *err)
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
	return keep_sync(c, wait, err);
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

int keep_turn(struct capture *c, int64_t now_us, struct rt_err *err)
{
	int rc = write_spool(c, now_us, err);
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
	return 0;
}

void keep_prepare(const struct capture *c, int64_t now_us, struct loop_want *ret)
{
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
