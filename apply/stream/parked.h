/*
 * parked: which entities wait in quarantine, and which single events somebody
 * decided to leave out, as apply must know them for every event: by hashes of
 * 128 bits, so that many of them, or long ids, take little memory. Pure; what
 * the warehouse holds is read into it at each connection (quarantine.h).
 */
#ifndef APPLY_STREAM_PARKED_H
#define APPLY_STREAM_PARKED_H

#include "proto/base/rt.h"

struct parked_entry;

struct parked_count {
	uint64_t entities, events; /* that wait */
};

struct parked {
	struct parked_entry *entity, *skipped; /* hash tables */
	uint16_t rollups;
	struct parked_count *count;	   /* per rollup */
	uint64_t max_entities, max_events; /* of one rollup */
};

void parked_init(struct parked *p, uint16_t rollups, uint64_t max_entities, uint64_t max_events);
void parked_release(struct parked *p);
/* Forgets everything. */
void parked_clear(struct parked *p);

bool parked_has(const struct parked *p, uint16_t rollup, struct slice id);
/*
 * The entity waits, with one event more. False: the rollup's limit is reached,
 * and nothing was added.
 */
bool parked_add(struct parked *p, uint16_t rollup, struct slice id, int32_t sequence) RT_MUSTCHECK;
/* Does this event come before the one behind which the entity waits (a gap's, that came late)? */
bool parked_is_before(const struct parked *p, uint16_t rollup, struct slice id, int32_t sequence);
/* What the warehouse holds: an entity with that many events, from this sequence on; limits do not count. */
void parked_load(struct parked *p, uint16_t rollup, struct slice id, int32_t sequence,
		 uint64_t events);
/* The entity does not wait any more; so many of its events are gone. */
void parked_remove(struct parked *p, uint16_t rollup, struct slice id, uint64_t events);
/* None of the rollup waits any more (quarantine_forget). */
void parked_forget(struct parked *p, uint16_t rollup);
/* So many of its events are gone; it goes on waiting from this sequence on. */
void parked_from(struct parked *p, uint16_t rollup, struct slice id, int32_t sequence,
		 uint64_t events);

/* Somebody decided to leave this event out. */
void parked_skip(struct parked *p, uint16_t rollup, struct slice id, int32_t sequence);
bool parked_is_skipped(const struct parked *p, uint16_t rollup, struct slice id, int32_t sequence);

/* Sums over all rollups. */
struct parked_count parked_total(const struct parked *p);

#endif
