/*
 * load: the first load of a rollup's tables from a core that already holds
 * events (design §5): the snapshot of a temporary slot, read by keyset chunks
 * in (id, sequence) order, folded one entity after the other, written by COPY.
 *
 * The snapshot holds exactly the commits up to its LSN; the stream counts for
 * the table behind that. A table is loaded from its beginning again when the
 * process ended before it was done; finished ones stay.
 */
#ifndef APPLY_STREAM_LOAD_H
#define APPLY_STREAM_LOAD_H

#include <libpq-fe.h>

#include "apply/stream/landed.h"
#include "apply/stream/ledger.h"
#include "apply/stream/parked.h"
#include "proto/base/loop.h"

/*
 * Loads every rollup of the set that is syncing or parked; each is live
 * afterwards. warehouse is a blocking connection that holds the fence. Memory
 * is bounded by one event and one state. ERR_RETRY when a connection broke or
 * the process was told to stop (loop->stop); ERR_PERMANENT naming relation,
 * entity id and sequence for an event that cannot be folded under policy
 * `fail`. Else its entity waits in quarantine, and in parked; a rollup of
 * which too many would wait is parked.
 */
int load_all(PGconn *warehouse, const struct settings *s, struct landed_set *set,
	     const struct ledger *ledger, struct parked *parked, struct loop *loop,
	     struct rt_err *err) RT_MUSTCHECK;
/*
 * A read-only transaction on the core that sees exactly the commits up to *ret;
 * the caller closes the connection.
 */
int load_open_snapshot(const struct settings *s, const struct ledger *ledger, struct loop *loop,
		       PGconn **ret_core, struct lsn *ret, struct rt_err *err) RT_MUSTCHECK;

#endif
