/*
 * mirror_load: the first load of mirrors: one snapshot of the core, each table
 * by one COPY from server to server, made and filled in one transaction.
 */
#ifndef APPLY_STREAM_MIRROR_LOAD_H
#define APPLY_STREAM_MIRROR_LOAD_H

#include "apply/stream/ledger.h"
#include "apply/stream/mirror.h"
#include "proto/base/loop.h"

/*
 * Makes and loads every mirror that is syncing; each is live afterwards, or
 * parked with a reason where it cannot be mirrored. warehouse is a blocking
 * connection that holds the fence. ERR_RETRY when a connection broke or the
 * process was told to stop.
 */
int mirror_load_all(PGconn *warehouse, const struct settings *s, struct mirror_set *set,
		    const struct ledger *ledger, struct loop *loop,
		    struct rt_err *err) RT_MUSTCHECK;

#endif
