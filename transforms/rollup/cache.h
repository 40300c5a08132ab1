/*
 * cache: the latest rows of entities in use, bounded in bytes, least recently
 * used first out. It is a cache only: what it does not hold is read back from
 * the warehouse, and it is emptied whenever a write's outcome is in doubt.
 */
#ifndef TRANSFORMS_ROLLUP_CACHE_H
#define TRANSFORMS_ROLLUP_CACHE_H

#include "transforms/rollup/fold.h"

struct cache_entry;

struct cache {
	struct cache_entry *entries;	     /* hash table by rollup and id */
	struct cache_entry *newest, *oldest; /* by last use */
	size_t bytes, max_bytes;
	uint64_t hits, misses;
};

void cache_init(struct cache *c, size_t max_bytes);
void cache_release(struct cache *c);
/* Forgets everything; hits and misses stay. */
void cache_clear(struct cache *c);
/* The row of (rollup, id), borrowed until the next put, clear or release; counts a hit or miss. */
bool cache_get(struct cache *c, uint16_t rollup, struct slice id, struct fold_row *ret);
/* Keeps a copy of row in place of an older one; others may be dropped for it. */
void cache_put(struct cache *c, uint16_t rollup, const struct fold_row *row);
/* Memory in use, bookkeeping included. */
size_t cache_bytes(const struct cache *c);

#endif
