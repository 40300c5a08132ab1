/*
 * published: has the stream everything of the landed tables? A table that
 * leaves its publication, or whose publication is made again or changed, loses
 * what is written until that is mended, without an error (design §5, traps 51
 * and 57). rolag.relation keeps the mark (proto/pg/published.h) of how a table
 * was published when its content was last known to be whole. When another one is found, the table is synced
 * again; what is read then is of after the change, and the snapshot waits for
 * every transaction that was open at it.
 */
#ifndef APPLY_STREAM_PUBLISHED_H
#define APPLY_STREAM_PUBLISHED_H

#include <libpq-fe.h>

#include "apply/stream/landed.h"
#include "apply/stream/mirror.h"

/*
 * Asks the core by a short connection of its own, and makes tables syncing
 * where they need it. ERR_RETRY: the core or the warehouse is away; nothing is
 * harmed, ask again. Blocks for some seconds at most.
 */
int published_check(PGconn *warehouse, const struct settings *s, const struct landed_set *landed,
		    const struct mirror_set *mirrors, struct rt_err *err) RT_MUSTCHECK;

#endif
