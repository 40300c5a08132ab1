/*
 * sync_mirror: a mirror of the core, read whole: one snapshot, one COPY from
 * server to server, one transaction in the warehouse. The snapshot holds
 * exactly the commits up to its LSN, so that the stream goes on behind it as if
 * it had always been followed. (Chunks under several snapshots would not do: a
 * row whose key changes between two of them, with a value that the stream does
 * not send again, would be in none.)
 */
#ifndef APPLY_STREAM_SYNC_MIRROR_H
#define APPLY_STREAM_SYNC_MIRROR_H

#include "apply/stream/mirror.h"
#include "apply/stream/sync_inner.h"

struct sync_mirror {
	const struct settings *settings;
	const struct ledger *ledger;
	PGconn *core, *warehouse;
	struct mirror_set *set; /* of one */
	const struct sync_unit *unit;
	struct sync_note *note; /* timeline and estimate as they are to be noted */
	/* Told what it waits for ("" : a sign of life); true gives up. */
	bool (*on_wait)(void *ctx, const char *text);
	void *ctx;
};

/* The unit of a mirror: it is read whole. */
void sync_mirror_unit(struct arena *a, const struct mirror *m, struct sync_unit *ret);
/*
 * Reads the mirror; afterwards note says where its replay begins, on disk as
 * well. A table that is there and lands alike keeps its indexes, rights and
 * views, and readers see its old rows until the new ones are committed. Closes
 * core. ERR_PERMANENT: this table cannot be mirrored as it is, or not here.
 */
int sync_mirror_read(struct sync_mirror *t, struct rt_err *err) RT_MUSTCHECK;

#endif
