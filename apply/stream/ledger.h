/*
 * ledger: who may write to the warehouse and how far it is (design §3.5).
 * rolag.fence names the one applier (epoch); rolag.ledger only grows, by one
 * row in the same transaction as a batch's data. The outcome of a COMMIT that
 * nobody saw is read from it.
 */
#ifndef APPLY_STREAM_LEDGER_H
#define APPLY_STREAM_LEDGER_H

#include <libpq-fe.h>

#include "proto/lsn.h"
#include "proto/settings.h"

struct loop;

struct ledger {
	int64_t epoch; /* ours, 0 before the first takeover */
	/* The newest takeover whose COMMIT was sent: its outcome may be unknown. */
	int64_t tried_epoch;
	char tried_owner[192];
	char owner[192];    /* who the fence says we are since our last takeover */
	struct lsn applied; /* committed in the warehouse */
	uint32_t timeline;  /* of the core, as the newest ledger row has it */
	uint64_t system_id; /* of the core; 0: not known yet */
	/* What is committed but may not be on the warehouse's disk yet. */
	struct lsn flushed;	    /* applied, and known to be on disk */
	struct lsn waiting_applied; /* becomes flushed when the warehouse's WAL is flushed to … */
	struct lsn waiting_wal;	    /* … here; 0: nothing waits */
};

/*
 * Takes the fence (see the design for the order of its four steps) and reads
 * the applied position. Every other backend of an applier of this pipeline is
 * terminated if it holds the fence. ERR_RETRY when it could not be had within
 * 30 s (names the pid); ERR_PERMANENT when another applier took it since our
 * last takeover, or when `rolag init` was not run. A takeover of ours whose
 * answer was lost is known by its owner, and is no other applier. A warehouse
 * that went back to before our last takeover is taken anew.
 */
int ledger_take_over(PGconn *c, const struct settings *s, struct ledger *l,
		     struct rt_err *err) RT_MUSTCHECK;
/*
 * A connection to the warehouse for whoever writes under the fence: named
 * "rolag apply <pipeline>", by which a takeover finds its rivals; over the
 * role's and the database's settings, a batch takes as long as it takes, and
 * wide rows are compressed by lz4 where the server has it (pglz was 7 % of the
 * backend's time in a catch-up). loop: NULL, or whose stop signal ends the wait.
 * ERR_PERMANENT unless the control schema has our version.
 */
int ledger_connect(PGconn **ret, const struct settings *s, struct loop *loop,
		   struct rt_err *err) RT_MUSTCHECK;

/*
 * SQL to be prepared. insert: $1 pipeline, $2 applied_lsn, $3 timeline, $4
 * committed_at (timestamptz or NULL), $5 epoch, $6 names of the relations whose
 * landed rows the transaction changes (NULL: it may be any); divides by zero (22012) when
 * the fence is not ours or applied is not behind, so that nothing after it in
 * the transaction takes effect. hold: $1 pipeline, $2 epoch; the same check,
 * without a row, for a transaction that has no position yet. trim: $1
 * pipeline, $2 applied_lsn. position: where the warehouse's WAL is.
 */
extern const char ledger_insert_sql[];
extern const char ledger_hold_sql[];
extern const char ledger_trim_sql[];
extern const char ledger_position_sql[];

/*
 * The warehouse's WAL was inserted and flushed up to these (ledger_position_sql,
 * asked after the COMMIT of l->applied). True when l->flushed moved.
 */
bool ledger_position(struct ledger *l, struct lsn wal_inserted, struct lsn wal_flushed);

#endif
