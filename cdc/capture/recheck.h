/*
 * recheck: does the core send again what it sent before? Positions compare
 * only within one history. A core that was restored from an older copy of its
 * disk has the same identity and the same timeline, and what it writes then
 * has positions that were there before: apply would take it for what it has,
 * and pass over it. The difference shows in what comes again behind the slot's
 * confirmed position (or a reconnect's): the core decodes the same transactions
 * from the same WAL, with the same ends, xids and commit times, and no others.
 * If the slot is confirmed to all that was received, then so much of the
 * core's history is the one that we know, and there is nothing to compare.
 *
 * Pure. What is expected is told first, in order of ends; then what comes is
 * held against it, in the order in which it comes.
 */
#ifndef CDC_CAPTURE_RECHECK_H
#define CDC_CAPTURE_RECHECK_H

#include "proto/base/rt.h"
#include "proto/lsn.h"
#include "proto/spool.h"

/* Of more than this, those behind are not held (32 MB), but for the last one. */
#define RECHECK_MAX ((size_t)1 << 20)

/* Of so many a new process still knows, when this one ends before they have come (36 kB a segment). */
#define RECHECK_MEMORY ((size_t)1000)

struct recheck {
	struct spool_memory *item; /* expected; those before `next` have come */
	size_t count;
	size_t cap;
	size_t next;
	struct lsn sure; /* while something is expected: all up to here came again as it was */
};

/* Accepts a zeroed one, which is also what it leaves. */
void recheck_release(struct recheck *r);
/* Expects m behind all that is expected so far. */
void recheck_expect(struct recheck *r, const struct spool_memory *m);
/*
 * A new connection sends behind `from`. Received before: everything up to
 * `to`, and as its last transaction `had` (xid 0: not known), which comes
 * again, unless it ends at or before from. What was expected beyond `to` still is.
 */
void recheck_again(struct recheck *r, const struct spool_memory *had, struct lsn from,
		   struct lsn to);
/*
 * What to remember while it is on its way, in ret: the first and the last of
 * what is expected. Returns how many.
 */
size_t recheck_memory(const struct recheck *r, struct spool_memory ret[RECHECK_MEMORY]);
/* Connected (behind recheck_again): the core knows itself that it is at `confirmed`. */
void recheck_connected(struct recheck *r, struct lsn confirmed);
/*
 * What the slot may be told of `flush`. More would take from a core that was
 * set back what it has to send again for anybody to notice.
 */
struct lsn recheck_confirm(const struct recheck *r, struct lsn flush);
/*
 * A transaction came that has something for us. ERR_PERMANENT with the mend:
 * it is none of those that were there before; nothing of it may be kept.
 */
int recheck_commit(struct recheck *r, struct lsn end, uint32_t xid, int64_t commit_us,
		   struct rt_err *err) RT_MUSTCHECK;
/* Everything for us that ends up to `to` has come. ERR_PERMANENT: one that was there before has not. */
int recheck_idle(struct recheck *r, struct lsn to, struct rt_err *err) RT_MUSTCHECK;

#endif
