/*
 * sync_piece: rows of a mirror's source by COPY from server to server, whole or
 * in pieces by key, into the warehouse's open transaction. A piece is a
 * transaction of its own on the core, read only, whose first statement locks
 * the table (ACCESS SHARE) and only then takes its snapshot, so that nobody
 * rewrites the table between the two, which would make it look empty.
 */
#ifndef APPLY_STREAM_SYNC_PIECE_H
#define APPLY_STREAM_SYNC_PIECE_H

#include "apply/stream/mirror.h"
#include "apply/stream/sync_inner.h"

/* What the core says of a table, under one snapshot. */
struct sync_source {
	struct shape_table table;
	struct shape_key key;
	char hash[40];	/* another one: columns, types, files or key became others */
	struct lsn lsn; /* an upper bound of what the snapshot shows */
};

/* Settings of a connection to the core for everything below. */
int sync_source_session(PGconn *core, struct rt_err *err) RT_MUSTCHECK;
/*
 * Begins a transaction on the core that holds the table, and reads what it is
 * (into a). ERR_PERMANENT: there is none. Left open, also on failure.
 */
int sync_source_begin(PGconn *core, struct arena *a, const struct mirror *m,
		      struct sync_source *ret, struct rt_err *err) RT_MUSTCHECK;
/* In a transaction that has a snapshot of before: locks the table; ERR_RETRY where its rows went elsewhere since. */
int sync_source_hold(PGconn *core, const struct mirror *m, struct rt_err *err) RT_MUSTCHECK;

struct sync_pump {
	PGconn *core, *warehouse;
	const struct mirror *m;
	const struct mirror_shape *shape;
	char relkind;
	struct lsn lsn;			  /* _lsn of the rows */
	const struct mirror_piece *piece; /* NULL: the whole table */
	struct sync_key *last; /* of a piece by `from`: key of its last row, where it has one */
	uint64_t *rows;	       /* counted up */
	bool (*on_wait)(void *ctx, const char *text); /* told "" now and then; true gives up */
	void *ctx;
};
/* Both ends are in a transaction. Copies the rows. */
int sync_pump(struct sync_pump *p, struct rt_err *err) RT_MUSTCHECK;

#endif
