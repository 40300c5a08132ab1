/* verify_keys: open addressing, at most half full. Guarantees: a key's bytes and number stay until reset. */
#include "apply/stream/verify_keys.h"

#include <xxhash.h>

#define ARENA_BYTES 65536
#define FIRST_SLOTS 256u

void verify_keys_init(struct verify_keys *k)
{
	*k = (struct verify_keys){.slots = FIRST_SLOTS};
	arena_init(&k->arena, ARENA_BYTES);
	k->slot = rt_calloc(k->slots, sizeof(*k->slot));
}

void verify_keys_release(struct verify_keys *k)
{
	arena_release(&k->arena);
	free(k->key);
	free(k->slot);
	*k = (struct verify_keys){0};
}

void verify_keys_reset(struct verify_keys *k)
{
	arena_reset(&k->arena);
	k->count = 0;
	memset(k->slot, 0, k->slots * sizeof(*k->slot));
}

/* The slot that has the key, or the free one where it belongs. */
static uint32_t find_slot(const struct verify_keys *k, struct slice key)
{
	uint32_t at = (uint32_t)XXH3_64bits(key.p, key.len) & (k->slots - 1);
	while (k->slot[at] != 0 && !slice_eq(k->key[k->slot[at] - 1], key))
		at = (at + 1) & (k->slots - 1);
	return at;
}

static void grow(struct verify_keys *k)
{
	free(k->slot);
	k->slots *= 2;
	k->slot = rt_calloc(k->slots, sizeof(*k->slot));
	for (uint32_t i = 0; i < k->count; i++)
		k->slot[find_slot(k, k->key[i])] = i + 1;
}

uint32_t verify_keys_add(struct verify_keys *k, struct slice key, bool *ret_new)
{
	uint32_t at = find_slot(k, key);
	bool added = k->slot[at] == 0;
	if (ret_new != NULL)
		*ret_new = added;
	if (!added)
		return k->slot[at] - 1;
	if (k->count == k->cap) {
		k->cap = RT_MAX(2 * k->cap, FIRST_SLOTS);
		k->key = rt_realloc(k->key, k->cap * sizeof(*k->key));
	}
	k->key[k->count++] = arena_copy(&k->arena, key);
	k->slot[at] = k->count;
	if (k->count > k->slots / 2)
		grow(k);
	return k->count - 1;
}

int64_t verify_keys_find(const struct verify_keys *k, struct slice key)
{
	return (int64_t)k->slot[find_slot(k, key)] - 1;
}
