/* parked: two sets of hashes, and counts. Guarantees: its counts are those of what was added and not removed. */
#include "apply/stream/parked.h"

#include <xxhash.h>

#define HASH_FUNCTION(keyptr, keylen, hashv) ((hashv) = (unsigned)XXH3_64bits(keyptr, keylen))
#include <uthash.h>

struct parked_entry {
	UT_hash_handle hh;
	XXH128_hash_t key;
	uint16_t rollup;
	int32_t sequence; /* of an entity: its first event that waits */
};

void parked_init(struct parked *p, uint16_t rollups, uint64_t max_entities, uint64_t max_events)
{
	*p = (struct parked){
		.rollups = rollups, .max_entities = max_entities, .max_events = max_events};
	p->count = rt_calloc(rollups, sizeof(*p->count));
}

static void clear_set(struct parked_entry **set)
{
	struct parked_entry *e, *next;
	HASH_ITER(hh, *set, e, next)
	{
		HASH_DEL(*set, e);
		free(e);
	}
}

void parked_clear(struct parked *p)
{
	clear_set(&p->entity);
	clear_set(&p->skipped);
	if (p->count != NULL)
		memset(p->count, 0, p->rollups * sizeof(*p->count));
}

void parked_release(struct parked *p)
{
	parked_clear(p);
	free(p->count);
	*p = (struct parked){0};
}

/* The id of a rollup (and, of a single event, its sequence) in 128 bits. */
static XXH128_hash_t key_of(uint16_t rollup, struct slice id, int32_t sequence)
{
	const uint64_t seed = (uint64_t)rollup << 32 | (uint32_t)sequence;
	return XXH3_128bits_withSeed(id.p, id.len, seed);
}

static struct parked_entry *find(struct parked_entry *set, XXH128_hash_t key)
{
	struct parked_entry *e = NULL;
	HASH_FIND(hh, set, &key, sizeof(key), e);
	return e;
}

/* False: it was there already. */
static bool add(struct parked_entry **set, uint16_t rollup, XXH128_hash_t key, int32_t sequence)
{
	if (find(*set, key) != NULL)
		return false;
	struct parked_entry *e = rt_calloc(1, sizeof(*e));
	e->key = key;
	e->rollup = rollup;
	e->sequence = sequence;
	HASH_ADD(hh, *set, key, sizeof(e->key), e);
	return true;
}

bool parked_has(const struct parked *p, uint16_t rollup, struct slice id)
{
	return p->entity != NULL && find(p->entity, key_of(rollup, id, 0)) != NULL;
}

bool parked_add(struct parked *p, uint16_t rollup, struct slice id, int32_t sequence)
{
	struct parked_count *n = &p->count[rollup];
	const bool is_new = !parked_has(p, rollup, id);
	if (n->events >= p->max_events || (is_new && n->entities >= p->max_entities))
		return false;
	n->entities += add(&p->entity, rollup, key_of(rollup, id, 0), sequence);
	n->events++;
	return true;
}

bool parked_is_before(const struct parked *p, uint16_t rollup, struct slice id, int32_t sequence)
{
	const struct parked_entry *e =
		p->entity != NULL ? find(p->entity, key_of(rollup, id, 0)) : NULL;
	return e != NULL && sequence < e->sequence;
}

void parked_load(struct parked *p, uint16_t rollup, struct slice id, int32_t sequence,
		 uint64_t events)
{
	p->count[rollup].entities += add(&p->entity, rollup, key_of(rollup, id, 0), sequence);
	p->count[rollup].events += events;
}

static void count_less(struct parked *p, uint16_t rollup, uint64_t events)
{
	p->count[rollup].events -= RT_MIN(events, p->count[rollup].events);
}

void parked_from(struct parked *p, uint16_t rollup, struct slice id, int32_t sequence,
		 uint64_t events)
{
	struct parked_entry *e = find(p->entity, key_of(rollup, id, 0));
	if (e != NULL)
		e->sequence = sequence;
	count_less(p, rollup, events);
}

void parked_remove(struct parked *p, uint16_t rollup, struct slice id, uint64_t events)
{
	struct parked_entry *e = find(p->entity, key_of(rollup, id, 0));
	if (e == NULL)
		return;
	HASH_DEL(p->entity, e);
	free(e);
	p->count[rollup].entities--;
	count_less(p, rollup, events);
}

void parked_forget(struct parked *p, uint16_t rollup)
{
	struct parked_entry *e, *next;
	HASH_ITER(hh, p->entity, e, next)
	{
		/* cppcheck-suppress uninitvar ; uthash's macro sets it */
		if (e->rollup != rollup)
			continue;
		HASH_DEL(p->entity, e);
		free(e);
	}
	p->count[rollup] = (struct parked_count){0, 0};
}

void parked_skip(struct parked *p, uint16_t rollup, struct slice id, int32_t sequence)
{
	add(&p->skipped, rollup, key_of(rollup, id, sequence), sequence);
}

bool parked_is_skipped(const struct parked *p, uint16_t rollup, struct slice id, int32_t sequence)
{
	return p->skipped != NULL && find(p->skipped, key_of(rollup, id, sequence)) != NULL;
}

struct parked_count parked_total(const struct parked *p)
{
	struct parked_count sum = {0, 0};
	for (uint16_t i = 0; i < p->rollups; i++) {
		sum.entities += p->count[i].entities;
		sum.events += p->count[i].events;
	}
	return sum;
}
