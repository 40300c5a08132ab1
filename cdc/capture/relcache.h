/*
 * relcache: what a relation OID means at this point of the stream. The shape
 * of a row is the last RELATION message before it in the stream, never an
 * earlier one and never the catalog of now.
 */
#ifndef CDC_CAPTURE_RELCACHE_H
#define CDC_CAPTURE_RELCACHE_H

#include "proto/base/rt.h"
#include "proto/change.h"

struct rel_entry; /* OID → shape */
struct rel_shape; /* one owned shape, by content hash */

struct relcache {
	struct rel_entry *by_oid;
	struct rel_shape *by_hash;
};

void rel_init(struct relcache *c);
/* Frees everything, shapes included. */
void rel_release(struct relcache *c);
/*
 * Forgets every OID and shape: each connection sends RELATION anew. Schemas
 * handed out before are invalid afterwards.
 */
void rel_clear(struct relcache *c);
/*
 * A RELATION message (its hash is ignored): from here on its OID has this
 * shape, whatever it had before. s is copied; equal shapes are one schema.
 */
void rel_put(struct relcache *c, const struct schema *s);
/*
 * The shape of oid now; owned by the cache, valid until rel_clear. Rows with
 * another number of values than it has columns are ERR_PERMANENT (count < 0:
 * not asked), as is an OID that no RELATION announced: both break the protocol.
 */
int rel_get(const struct relcache *c, uint32_t oid, int count, const struct schema **ret,
	    struct rt_err *err) RT_MUSTCHECK;

#endif
