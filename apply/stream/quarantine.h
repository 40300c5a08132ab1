/*
 * quarantine: the warehouse's side of parked entities (design §6): their
 * events in rolag.quarantine, which of them wait (read at each connection),
 * and what people asked for (`rolag quarantine retry|skip`), which apply does
 * between two batches.
 */
#ifndef APPLY_STREAM_QUARANTINE_H
#define APPLY_STREAM_QUARANTINE_H

#include <libpq-fe.h>

#include "apply/stream/batch.h"
#include "apply/stream/ledger.h"
#include "proto/base/loop.h"

/* ---- events on their way in ---- */

/* Parameters of quarantine_insert_sql, all binary: the pipeline, then one array per column. */
#define QUARANTINE_COLUMNS 11

extern const char quarantine_insert_sql[];
/* $1 pipeline, $2 rollup, $3 reason: the rollup is parked. */
extern const char quarantine_park_sql[];

/* Empties the columns for rows to come. */
void quarantine_begin(const char *pipeline, struct buf *column);
/* reason NULL: it waits behind another; late: a retry is asked for with it; commit_us 0: not known. */
void quarantine_add(const struct rollup *r, const struct fold_event *e, struct lsn lsn,
		    int64_t commit_us, const char *reason, bool late, struct buf *column);
void quarantine_end(uint32_t count, struct buf *column);

/* The batch's waiting events from the given one on, as many as quarantine_next takes. */
void quarantine_fill(const struct batch *b, const char *pipeline, uint32_t from,
		     struct buf *column);
/* Where the next piece of the waiting events begins. */
uint32_t quarantine_next(const struct batch *b, uint32_t from);

/* ---- what the warehouse holds ---- */

/*
 * Fills p anew with what waits, and with single events that were skipped: at
 * each connection, and behind whatever parks entities in another process (a
 * sync), before its rollup follows the stream. No batch may be in the making
 * or under way.
 */
int quarantine_load(PGconn *c, const struct settings *s, const struct landed_set *landed,
		    struct parked *p, struct rt_err *err) RT_MUSTCHECK;
/*
 * Deletes what waits of a rollup whose events are about to be read from the
 * core again (a load, a sync); what was skipped stays so. Within the caller's
 * transaction.
 */
int quarantine_forget(PGconn *c, const struct settings *s, const struct rollup *r,
		      struct rt_err *err) RT_MUSTCHECK;

/* ---- what people asked for ---- */

/* *ret: is there a request? One round trip. */
int quarantine_is_asked(PGconn *c, const struct settings *s, bool *ret,
			struct rt_err *err) RT_MUSTCHECK;
/*
 * Does what was asked for, entity by entity, each in a transaction of its own
 * that holds the fence: folds what waits, in order, until one does not fold.
 * What is missing before one is sought in the core, as the rollup's policy says.
 * Stops after about limit_us; *ret_more: there is more. No batch may be in
 * the making or under way. The cache gets the entities' new states.
 */
int quarantine_serve(PGconn *c, struct loop *loop, const struct settings *s,
		     const struct landed_set *landed, const struct ledger *ledger, struct parked *p,
		     struct cache *cache, int64_t limit_us, bool *ret_more,
		     struct rt_err *err) RT_MUSTCHECK;

/* Sets the gauges of what waits. */
void quarantine_measure(const struct parked *p, const struct landed_set *landed);

#endif
