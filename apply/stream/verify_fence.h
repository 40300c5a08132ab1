/*
 * verify_fence: a moment in the core that the warehouse has reached. A fence
 * is a message in the core's stream (design §8); when apply has written that
 * it met it, the warehouse holds everything that was committed before it.
 *
 * The other way round takes more (trap 60): a commit waiting for a synchronous
 * standby is in the stream before the core shows it. Once no transaction that
 * began before a fence is running any more, the core shows everything that the
 * warehouse can have held at that fence.
 */
#ifndef APPLY_STREAM_VERIFY_FENCE_H
#define APPLY_STREAM_VERIFY_FENCE_H

#include <libpq-fe.h>

#include "proto/base/loop.h"
#include "proto/lsn.h"
#include "proto/settings.h"

struct verify_fence {
	struct lsn lsn; /* the warehouse is at least here */
	uint64_t xid;	/* every transaction that began before it has a smaller one */
};

/*
 * Writes a fence into the core and waits until apply has met it, for as long
 * as apply gets on. ERR_RETRY when it does not (for patience_us), or when
 * loop (may be NULL) is told to stop.
 */
int verify_fence_pass(PGconn *core, PGconn *warehouse, const struct settings *s, struct loop *loop,
		      int64_t patience_us, struct verify_fence *ret,
		      struct rt_err *err) RT_MUSTCHECK;
/*
 * Waits until the core shows everything from before the fence, patience_us at
 * most. *ret_all: false when transactions from before it are still running.
 */
int verify_fence_settle(PGconn *core, const struct verify_fence *f, struct loop *loop,
			int64_t patience_us, bool *ret_all, struct rt_err *err) RT_MUSTCHECK;

#endif
