/*
 * progress: positions and feedback. Guarantees the invariants of the header
 * (checked after every step), whatever order events come in.
 */
#include "cdc/capture/progress.h"

#include "proto/settings.h"

static uint64_t bytes_between(struct lsn from, struct lsn to)
{
	return to.v > from.v ? to.v - from.v : 0;
}

static void check(const struct prog *p)
{
	RT_ASSERT(lsn_le(p->confirmed, p->durable));
	RT_ASSERT(lsn_le(p->durable, p->received));
	RT_ASSERT(lsn_le(p->received, p->appended));
	if (!p->o.confirm_spooled && !p->spilling)
		RT_ASSERT(lsn_le(p->confirmed, lsn_max(p->applied, p->floor)));
}

/* Spilling begins past the budget and ends when apply is within half of it, so that it does not flap. */
static void settle_spilling(struct prog *p, struct lsn applied)
{
	if (p->o.confirm_spooled)
		return;
	uint64_t behind = bytes_between(lsn_max(p->confirmed, applied), p->current);
	if (!p->spilling && behind > p->o.wal_budget_bytes)
		p->spilling = true;
	else if (p->spilling &&
		 bytes_between(p->applied, p->current) <= p->o.wal_budget_bytes / 2) {
		p->spilling = false;
		p->floor = p->confirmed;
	}
}

static void settle(struct prog *p)
{
	p->current = lsn_max(p->current, p->appended);
	struct lsn applied = lsn_min(p->applied, p->durable);
	settle_spilling(p, applied);
	bool spooled = p->o.confirm_spooled || p->spilling;
	p->confirmed = lsn_max(p->confirmed, spooled ? p->durable : applied);
	check(p);
}

void prog_init(struct prog *p, const struct prog_options *o, struct lsn confirmed)
{
	*p = (struct prog){
		.o = *o,
		.appended = confirmed,
		.received = confirmed,
		.durable = confirmed,
		.confirmed = confirmed,
		.current = confirmed,
		.floor = confirmed,
	};
	check(p);
}

void prog_begin(struct prog *p)
{
	p->open = true;
}

bool prog_commit(struct prog *p, struct lsn end)
{
	p->open = false;
	if (lsn_le(end, p->appended))
		return false;
	p->appended = end;
	settle(p);
	return true;
}

void prog_commit_empty(struct prog *p, struct lsn end)
{
	p->open = false;
	prog_keepalive(p, end, false);
}

void prog_disconnected(struct prog *p)
{
	p->open = false;
	p->idle_to = LSN_NONE; /* the next connection will say it again */
}

void prog_keepalive(struct prog *p, struct lsn end, bool urgent)
{
	p->current = lsn_max(p->current, end);
	if (p->open)
		return; /* its rows are not in the spool yet: nothing here may pass them */
	p->idle_to = lsn_max(p->idle_to, end);
	if (urgent)
		p->frame_at_us = 0;
	settle(p);
}

int64_t prog_frame_at(const struct prog *p)
{
	return !p->open && lsn_lt(p->appended, p->idle_to) ? p->frame_at_us : INT64_MAX;
}

bool prog_frame_due(const struct prog *p, int64_t now_us, struct lsn *ret)
{
	if (prog_frame_at(p) > now_us)
		return false;
	*ret = p->idle_to;
	return true;
}

void prog_frame_appended(struct prog *p, struct lsn position, int64_t now_us)
{
	RT_ASSERT(!p->open && lsn_lt(p->appended, position));
	p->appended = position;
	p->frame_at_us = now_us + p->o.frame_interval_us;
	settle(p);
}

void prog_received(struct prog *p, struct lsn received)
{
	RT_ASSERT(lsn_le(p->received, received));
	p->received = received;
	settle(p);
}

void prog_durable(struct prog *p, struct lsn durable)
{
	RT_ASSERT(lsn_le(p->durable, durable));
	p->durable = durable;
	settle(p);
}

void prog_applied(struct prog *p, struct lsn applied)
{
	p->applied = lsn_max(p->applied, applied);
	settle(p);
}

void prog_current(struct prog *p, struct lsn current)
{
	p->current = lsn_max(p->current, current);
	settle(p);
}

struct prog_feedback prog_feedback(const struct prog *p)
{
	return (struct prog_feedback){
		.write = p->received,
		.flush = p->confirmed,
		.apply = lsn_min(p->applied, p->received),
	};
}

int prog_not_set_back(const struct prog_core *now, struct lsn held, struct rt_err *err)
{
	if (lsn_le(held, now->flushed))
		return 0;
	return rt_fail(err, ERR_PERMANENT,
		       "the core's WAL ends at " LSN_FMT ", but changes up to " LSN_FMT
		       " came from it: it was set back on its own timeline (a snapshot of its "
		       "disk?), positions no longer compare; mend: " MEND_LOAD_ANEW,
		       LSN_ARGS(now->flushed), LSN_ARGS(held));
}

int prog_same_core(const struct prog_core *was, const struct prog_core *now, struct lsn appended,
		   struct rt_err *err)
{
	if (was->system_id != now->system_id)
		return rt_fail(
			err, ERR_PERMANENT,
			"the core is another system (identifier %llu, was %llu); mend: point "
			"core.connect at the core that this spool belongs to",
			(unsigned long long)now->system_id, (unsigned long long)was->system_id);
	if (was->timeline != now->timeline)
		return rt_fail(err, ERR_PERMANENT,
			       "the core is on timeline %u, was on %u (a failover or a restore): "
			       "positions no longer compare; mend: " MEND_LOAD_ANEW,
			       now->timeline, was->timeline);
	if (lsn_lt(appended, now->confirmed))
		return rt_fail(err, ERR_PERMANENT,
			       "the slot is confirmed up to " LSN_FMT
			       ", but only changes up to " LSN_FMT
			       " were received: it was recreated, or another program "
			       "advanced it; mend: " MEND_LOAD_ANEW,
			       LSN_ARGS(now->confirmed), LSN_ARGS(appended));
	return prog_not_set_back(now, appended, err);
}
