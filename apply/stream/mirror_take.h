/*
 * mirror_take: changes of the stream into a batch's mirror operations: which
 * mirror a relation is, whether it follows, and whether its shape still fits.
 */
#ifndef APPLY_STREAM_MIRROR_TAKE_H
#define APPLY_STREAM_MIRROR_TAKE_H

#include "apply/stream/batch.h"

/* What a shape of the stream (by its hash) is to the mirrors; kept by the caller, zeroed before first use. */
struct mirror_route {
	bool looked_up;
	int mirror;		    /* -1: none */
	struct mirror_shape *shape; /* what its rows have; NULL: not compared yet */
	const struct mirror_shape *compared_with;
};

/*
 * Takes a row, or one relation of a TRUNCATE (which: its index), of the open
 * transaction. Never fails: a mirror that cannot follow is parked at this
 * place of the stream, and the log says so.
 */
void mirror_take(struct mirror_set *set, const struct settings *s, struct mirror_route *r,
		 struct batch *b, const struct change *c, uint32_t which);

#endif
