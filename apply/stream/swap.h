/*
 * swap: a table that was built beside a live one takes its place, in the
 * caller's transaction: readers see the old table or the new one. What a bank
 * has hung on the live table goes over with the name: owner, grants (table and
 * columns), comments that a user put, reloptions, statistics targets, replica
 * identity, extra indexes and extended statistics, and views, also views on
 * views, which keep their owner, grants, comments and options. What cannot go
 * over is an error that names each such thing with the SQL that mends it, and
 * nothing is changed.
 *
 * The order of calls:
 *   swap_check     as early as the beside table has its columns: would it do?
 *   swap_prepare   when its rows are there, outside a transaction: builds on it
 *                  the extra indexes and statistics of the live table
 *   BEGIN; SET LOCAL lock_timeout (below the server's deadlock_timeout, so that
 *          it is we who give way); swap_tables; the caller's own; COMMIT
 * An undo is a swap the other way round: `beside` is then the kept table.
 *
 * The connection's role owns both tables, or is a member of their owner, and of
 * the owners of the views; it need not be a superuser.
 */
#ifndef APPLY_STREAM_SWAP_H
#define APPLY_STREAM_SWAP_H

#include <libpq-fe.h>

#include "proto/base/buf.h"
#include "proto/base/rt.h"

/* Names are bare (unquoted, without schema) and the caller's. */
struct swap_pair {
	const char *schema; /* of all three */
	const char *live;   /* the name that readers use */
	const char *beside; /* the table that gets it */
	const char *
		kept; /* what the old table is called afterwards (free until then); NULL: it is dropped */
};

/*
 * Appends a line to *out for each thing that could not go over: what it is, why,
 * and "; mend: SQL". Nothing appended: swap_tables would do it, as far as can be
 * seen before (whether a view's text fits the new columns is seen by trying it:
 * this is done, and rolled back, so no lock is kept; ERR_RETRY where one was not
 * to be had within the session's lock_timeout). Outside a transaction.
 */
int swap_check(PGconn *c, const struct swap_pair *pairs, size_t count, struct buf *out,
	       struct rt_err *err) RT_MUSTCHECK;

/*
 * Builds on each beside table what the live one has of extra indexes (not
 * unique, not the key's) and extended statistics, where it is not there yet, and
 * analyzes it if something was built or force_analyze. Outside a transaction;
 * statement by statement, so that it can be killed and called again. An index
 * being built holds up writers of the beside table, nobody else. ERR_PERMANENT,
 * naming the index and its mend, for one that cannot be built on it.
 */
int swap_prepare(PGconn *c, const struct swap_pair *pairs, size_t count, bool force_analyze,
		 struct rt_err *err) RT_MUSTCHECK;

/*
 * Within the caller's transaction, all pairs or none. First locks the views and
 * both tables of each pair ACCESS EXCLUSIVE, under the lock_timeout that is set.
 * search_path, role and settings are afterwards as before. On failure the caller
 * rolls back:
 *   ERR_RETRY      a lock was not to be had, or something appeared on the live
 *                  table since swap_prepare: call that again, then this
 *   ERR_PERMANENT  something cannot go over: the first of swap_check's lines and
 *                  how many there are
 */
int swap_tables(PGconn *c, const struct swap_pair *pairs, size_t count,
		struct rt_err *err) RT_MUSTCHECK;

/*
 * Appends a statement that records the comments which schema.table (bare names)
 * and its columns have now as made by rolag. To be run in the transaction that
 * made the table and its comments; a comment that is another one later was put
 * by a user, and goes over in a swap instead of the new table's.
 */
void swap_made_sql(const char *schema, const char *table, struct buf *out);

#endif
