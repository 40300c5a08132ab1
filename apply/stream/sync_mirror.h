/*
 * sync_mirror: a mirror of the core is read into a table beside it, the spool
 * is replayed over that, and at one position it takes the mirror's place (swap.h):
 * readers see the old table or the new one, never one that is being filled.
 *
 * Where it has a key that an index of the core follows, it is read in pieces by
 * that key, each under a snapshot of its own and noted with its rows, so that a
 * sync goes on where it was. Why that is exact. Every row of the core has one key
 * at a time; a piece shows the keys of its range as they were at its snapshot,
 * which is not before `start`. All changes behind `start` are then replayed, in
 * order, and each makes the row of its key what the change says:
 *   INSERT, and UPDATE with all values: the row, whatever was there.
 *   DELETE: none. TRUNCATE: none of any key; rows that came later come again.
 *   UPDATE of the same key without a value that did not change (TOAST): what is
 *   there keeps that value. At the end it is the right one: any change of it was
 *   sent in full, and is replayed; without one, it is what the piece showed. Where
 *   the row is not there, it is deleted later on, or asked for (below).
 *   UPDATE of the key with all values: none of the old key, the row of the new.
 *   UPDATE of the key without such a value: it may have been read under neither
 *   key, or under both. The new key is noted (rolag.sync_row), neither row is left,
 *   and the core is asked for that key once more, with a snapshot that shows all
 *   that was replayed: which is a piece of its own, replayed over in turn.
 * So each key holds what its last change made of it, or what its piece showed if
 * nothing changed it since: once the replay is behind everything that was read,
 * and no key is noted, the table equals its source, and only then it counts as
 * one that follows. Beyond the stream's changes, the table may be rewritten, get
 * other columns or another key index between two pieces: the pieces hold its shape,
 * files and index against those of the first one, and begin anew (a key that is
 * not unique for a while would collapse rows; one and the same index says that it
 * was unique throughout). Identity FULL is replayed by the key as well until then.
 *
 * Without such a key it is read whole, under one snapshot that shows exactly the
 * commits up to `start`, in one transaction, begun anew if it breaks off: rows that
 * are equal can be told apart only by counting them at one moment. The same where
 * something hangs on the mirror that a swap cannot carry over, and its columns are
 * what they were: its rows are then replaced in that one transaction.
 */
#ifndef APPLY_STREAM_SYNC_MIRROR_H
#define APPLY_STREAM_SYNC_MIRROR_H

#include "apply/stream/mirror.h"
#include "apply/stream/sync_inner.h"
#include "apply/stream/sync_piece.h"

struct sync_mirror {
	const struct settings *settings;
	const struct ledger *ledger;
	PGconn *warehouse;
	struct mirror_set *set; /* of one, which is turned to the table that is filled */
	struct sync_unit *unit;
	struct sync_note *note;
	struct arena *arena;
	/* Told what it waits for ("" : a sign of life); true gives up. */
	bool (*on_wait)(void *ctx, const char *text);
	void *ctx;
	struct sync_source source; /* as it was seen last */
	const char *leaves;	   /* so are its partitions (leaves.h) */
	bool again;		   /* the sync that is noted goes on */
	bool swap_waits;	   /* the swap failed for a lock, or what was new on the mirror */
};

/* The unit of a mirror, without its key. */
void sync_mirror_unit(struct arena *a, const struct mirror *m, struct sync_unit *ret);
/*
 * Begins, or goes on with what is noted, until all rows are there; afterwards
 * note says where the replay begins and how far it must come, on disk as well.
 * Closes core. ERR_PERMANENT: this table cannot be mirrored as it is, or not here.
 */
int sync_mirror_read(struct sync_mirror *t, PGconn *core, struct rt_err *err) RT_MUSTCHECK;
/*
 * Asks the core once more for rows that are noted, the replay being at `at`; 0:
 * none are; 1: some, and note->read has moved: replay, and call again. On 0 the
 * table follows from here on.
 */
int sync_mirror_again(struct sync_mirror *t, struct rt_err *err) RT_MUSTCHECK;
/* What the live table has of indexes is built on the one that is to take its place. */
int sync_mirror_prepare(struct sync_mirror *t, struct rt_err *err) RT_MUSTCHECK;
/* For sync_note_live: takes the mirror's place. ctx: struct sync_mirror. */
int sync_mirror_swap(void *ctx, struct rt_err *err) RT_MUSTCHECK;
/* Nothing is left of a sync that was given up. Best effort. */
void sync_mirror_drop(struct sync_mirror *t);

#endif
