/*
 * sync_unit: one relation of the core as sync reads it. A rollup's in chunks,
 * each its rows as changes (INSERT), the same that the spool hands out: what
 * becomes of them is decided where the stream's changes are taken (gather), so
 * that both are folded by one and the same code. Events that are there already
 * are no error (they come again by the stream; chunks of one sync see the core
 * at different times). A mirror is read whole (sync_mirror.h).
 */
#ifndef APPLY_STREAM_SYNC_UNIT_H
#define APPLY_STREAM_SYNC_UNIT_H

#include "apply/stream/landed.h"
#include "proto/base/buf.h"

#define SYNC_KEY_MAX 32 /* PostgreSQL's INDEX_MAX_KEYS */

struct sync_unit {
	const struct rollup
		*rollup;     /* whose waiting events are forgotten when a sync begins; or NULL */
	const char *name;    /* of its row in rolag.relation */
	const char *nspname; /* its source */
	const char *relname;
	const char *select; /* SELECT list: names as the stream has them */
	/* Columns in whose order it is read: unique, not NULL, indexed; names, not quoted. 0: read whole. */
	uint16_t key_count;
	const char *key[SYNC_KEY_MAX];
	const char *target; /* quoted; where it is empty, no rows of earlier times are looked for */
	/* SQL run in the warehouse when a sync begins, in the transaction that notes it; "" for nothing. */
	const char *clear;
	const char *noted; /* SQL run behind that, once its row is there; "" or NULL for nothing */
	const char *analyze; /* SQL run when all chunks are there; "" for nothing */
};

/* The unit of a rollup; its texts live in the arena. */
void sync_unit_of(struct arena *a, const struct landed *l, struct sync_unit *ret);

/* Where in its source a sync is: the key of a row, each part as text. */
struct sync_key {
	uint16_t count; /* 0: before the first row */
	struct buf part[SYNC_KEY_MAX];
};

void sync_key_release(struct sync_key *k);
void sync_key_copy(struct sync_key *to, const struct sync_key *from);
/* Appends it as an array literal for text[]. */
void sync_key_print(const struct sync_key *k, struct buf *out);

#endif
