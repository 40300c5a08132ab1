/*
 * sync_stamp: rows keep what they held when they are built anew. A sync's
 * chunk may show an event before the stream has written its row to the live
 * table, of which that row's LSN and time are taken over; it comes again in the
 * replay, which knows both.
 */
#ifndef APPLY_STREAM_SYNC_STAMP_H
#define APPLY_STREAM_SYNC_STAMP_H

#include <libpq-fe.h>

#include "apply/stream/batch.h"
#include "apply/stream/ledger.h"

/*
 * What b->seen has, onto the rows that are there already and do not know the
 * time of their commit: as the live table has it, else as the stream does. One
 * transaction under the fence, done before b is written; again is harmless.
 */
int sync_stamp(PGconn *c, const struct settings *s, const struct ledger *l, const struct batch *b,
	       struct rt_err *err) RT_MUSTCHECK;

#endif
