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

/* Which events: sequences between after and before, both exclusive. */
struct repair_gap {
	const struct rollup *rollup;
	struct slice id;
	int32_t after, before;
};

/*
 * Reads at most REPAIR_ROWS of them; *ret and its events live in the arena.
 * Returns how many follow after without a gap; 0 where the core has not the
 * first, or it cannot be read for a reason that waiting does not mend (*err
 * says which); ERR_RETRY: the core is away; ERR_PERMANENT: it is another core.
 * Blocks for some seconds at most.
 */
int repair_read(const struct settings *s, const struct ledger *ledger, struct loop *loop,
		const struct repair_gap *gap, struct arena *a, struct fold_event **ret,
		struct rt_err *err) RT_MUSTCHECK;
/*
 * The same for b->gap, and gives the events to the batch (batch_fill_gap);
 * where there are none, batch_leave_gap. 0, or an error: the batch is as it was.
 */
int repair_batch(const struct settings *s, const struct ledger *ledger, struct loop *loop,
		 struct batch *b, struct rt_err *err) RT_MUSTCHECK;

#endif
