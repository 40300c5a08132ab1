/*
 * repair: events that are missing before one that came (design §5, gap
 * repair), read from the core: exactly those, by read-only SQL on a short
 * connection, in time bounds.
 */
#ifndef APPLY_STREAM_REPAIR_H
#define APPLY_STREAM_REPAIR_H

#include "apply/stream/batch.h"
#include "apply/stream/ledger.h"
#include "proto/base/loop.h"

/* Read at a time; the batch is folded on, and meets the rest of a longer gap again. */
#define REPAIR_ROWS 1000

/*
 * Reads what is missing at b->gap and gives it to the batch (batch_fill_gap);
 * where the core has not the first of it, or cannot be read for a reason that
 * waiting does not mend, batch_leave_gap. 0; ERR_RETRY: the core is away: the
 * batch is as it was, try again later; ERR_PERMANENT: it is another core.
 * Blocks for some seconds at most.
 */
int repair_gap(const struct settings *s, const struct ledger *ledger, struct loop *loop,
	       struct batch *b, struct rt_err *err) RT_MUSTCHECK;

#endif
