/* cache: hash table and list of use. Guarantees: never above max_bytes but for one row alone. */
#include "transforms/rollup/cache.h"

#include <xxhash.h>

#define HASH_FUNCTION(keyptr, keylen, hashv) ((hashv) = (unsigned)XXH3_64bits(keyptr, keylen))
#include <uthash.h>

#include "proto/base/buf.h"

/* What the hash table itself takes per entry: a bucket, at most ten entries in each. */
#define CACHE_TABLE_BYTES 16

struct cache_entry {
	UT_hash_handle hh;
	struct cache_entry *newer, *older;
	struct fold_row row; /* its slices point into data */
	size_t bytes;	     /* of all of this */
	size_t key_len;
	uint8_t data[]; /* key (rollup, id), event type, columns */
};

void cache_init(struct cache *c, size_t max_bytes)
{
	*c = (struct cache){.max_bytes = max_bytes};
}

static void unlink_entry(struct cache *c, struct cache_entry *e)
{
	if (e->newer != NULL)
		e->newer->older = e->older;
	else
		c->newest = e->older;
	if (e->older != NULL)
		e->older->newer = e->newer;
	else
		c->oldest = e->newer;
	e->newer = e->older = NULL;
}

static void link_newest(struct cache *c, struct cache_entry *e)
{
	e->older = c->newest;
	if (c->newest != NULL)
		c->newest->newer = e;
	c->newest = e;
	if (c->oldest == NULL)
		c->oldest = e;
}

static void drop(struct cache *c, struct cache_entry *e)
{
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): e is in it */
	HASH_DEL(c->entries, e);
	unlink_entry(c, e);
	c->bytes -= e->bytes;
	free(e);
}

void cache_clear(struct cache *c)
{
	while (c->oldest != NULL)
		drop(c, c->oldest);
}

void cache_release(struct cache *c)
{
	if (c != NULL)
		cache_clear(c);
}

/* Looks up by the entry's key form: rollup in two bytes, then the id. */
static struct cache_entry *find(struct cache *c, uint16_t rollup, struct slice id)
{
	uint8_t small[64], *key = id.len + 2 <= sizeof(small) ? small : rt_malloc(id.len + 2);
	struct cache_entry *e;
	be16_put(key, rollup);
	if (id.len > 0)
		memcpy(key + 2, id.p, id.len);
	HASH_FIND(hh, c->entries, key, id.len + 2, e);
	if (key != small)
		free(key);
	return e;
}

bool cache_get(struct cache *c, uint16_t rollup, struct slice id, struct fold_row *ret)
{
	struct cache_entry *e = find(c, rollup, id);
	if (e == NULL) {
		c->misses++;
		return false;
	}
	c->hits++;
	unlink_entry(c, e);
	link_newest(c, e);
	*ret = e->row;
	return true;
}

/* Copies s to *at, which moves behind it. */
static struct slice place(uint8_t **at, struct slice s)
{
	uint8_t *p = *at;
	if (s.len > 0)
		memcpy(p, s.p, s.len);
	*at += s.len;
	return slice_of(p, s.len);
}

void cache_put(struct cache *c, uint16_t rollup, const struct fold_row *row)
{
	struct cache_entry *old = find(c, rollup, row->id);
	size_t data = 2 + row->id.len + row->event_type.len + row->columns.len;
	struct cache_entry *e = rt_malloc(sizeof(*e) + data);
	*e = (struct cache_entry){.row = *row,
				  .bytes = sizeof(*e) + data + CACHE_TABLE_BYTES,
				  .key_len = 2 + row->id.len};
	uint8_t *at = e->data + 2;
	be16_put(e->data, rollup);
	e->row.id = place(&at, row->id);
	e->row.event_type = place(&at, row->event_type);
	e->row.columns = place(&at, row->columns);
	if (old != NULL) /* after the copy: row may be the old entry's own */
		drop(c, old);
	while (c->oldest != NULL && c->bytes + e->bytes > c->max_bytes)
		drop(c, c->oldest);
	HASH_ADD_KEYPTR(hh, c->entries, e->data, e->key_len, e);
	link_newest(c, e);
	c->bytes += e->bytes;
}

size_t cache_bytes(const struct cache *c)
{
	return c->bytes;
}
