/*
 * batch: gathering and folding. Guarantees: rows are in stream order per
 * rollup; after an error in one transaction nothing of it, and nothing behind
 * it, is left in the batch.
 */
#include "apply/stream/batch.h"

#include <inttypes.h>
#include <xxhash.h>

#define HASH_FUNCTION(keyptr, keylen, hashv) ((hashv) = (unsigned)XXH3_64bits(keyptr, keylen))
#include <uthash.h>

#include "apply/stream/source.h"
#include "proto/base/failpoint.h"
#include "proto/base/metrics.h"

#define BATCH_ARENA_BYTES (1u << 20)

struct batch_entity {
	UT_hash_handle hh;
	uint16_t rollup;
	struct slice id;
	bool resolved; /* state and exists are known */
	bool exists;   /* has a state */
	bool is_new;   /* had none when the batch began */
	bool dirty;    /* its state is newer than the cache's */
	bool parked; /* waits in quarantine: so do its events of this batch from the one that parked it on */
	struct fold_row state;
	uint32_t last_row; /* index into the rollup's rows */
};

/* Doubles an array when it is full. */
static void *grown(void *p, uint32_t count, uint32_t *cap, size_t size)
{
	if (count < *cap)
		return p;
	*cap = *cap == 0 ? 64 : *cap * 2;
	return rt_realloc(p, *cap * size);
}

void batch_init(struct batch *b, const struct landed_set *landed, struct parked *parked)
{
	*b = (struct batch){.landed = landed, .parked = parked, .first_part = true};
	arena_init(&b->arena, BATCH_ARENA_BYTES);
	b->room = landed_room(landed);
	b->rows = rt_calloc(b->room, sizeof(*b->rows));
}

void batch_release(struct batch *b)
{
	if (b == NULL || b->rows == NULL)
		return;
	HASH_CLEAR(hh, b->entities);
	for (uint16_t i = 0; i < b->room; i++)
		free(b->rows[i].row);
	free(b->rows);
	free(b->seen);
	mirror_batch_release(&b->mirrors);
	free(b->event);
	free(b->transaction);
	free(b->missing);
	free(b->fence);
	free(b->waiting);
	free(b->park);
	arena_release(&b->arena);
	*b = (struct batch){0};
}

void batch_reset(struct batch *b)
{
	HASH_CLEAR(hh, b->entities);
	for (uint16_t i = 0; i < b->room; i++)
		b->rows[i].count = 0;
	mirror_batch_reset(&b->mirrors);
	b->event_count = b->folded = b->transaction_count = b->missing_count = b->fence_count = 0;
	b->asked = b->waiting_count = b->park_count = b->seen_count = 0;
	b->end = LSN_NONE;
	b->commit_us = b->heartbeat_us = 0;
	b->bytes = 0;
	b->duplicates = b->unknown_keys = b->ignored = b->repaired = 0;
	b->open = false;
	b->first_part = true;
	arena_reset(&b->arena);
}

void batch_continue(struct batch *b, const struct batch *before)
{
	RT_ASSERT(before->open && before->transaction_count > 0);
	const struct batch_transaction *t = &before->transaction[before->transaction_count - 1];
	batch_begin(b, t->end, t->commit_us);
	b->first_part = false;
}

bool batch_is_empty(const struct batch *b)
{
	return b->transaction_count == 0 && b->end.v == 0;
}

void batch_begin(struct batch *b, struct lsn end, int64_t commit_us)
{
	RT_ASSERT(!b->open);
	b->transaction = grown(b->transaction, b->transaction_count, &b->transaction_cap,
			       sizeof(*b->transaction));
	b->transaction[b->transaction_count++] =
		(struct batch_transaction){.end = end, .commit_us = commit_us};
	b->open = true;
}

void batch_add_event(struct batch *b, uint16_t rollup, const struct fold_event *e)
{
	RT_ASSERT(b->open);
	b->event = grown(b->event, b->event_count, &b->event_cap, sizeof(*b->event));
	b->event[b->event_count++] = (struct batch_event){
		.e = *e, .rollup = rollup, .transaction = b->transaction_count - 1};
	b->bytes += e->payload.len;
}

void batch_add_fence(struct batch *b, struct slice run_id)
{
	RT_ASSERT(b->open);
	b->fence = grown(b->fence, b->fence_count, &b->fence_cap, sizeof(*b->fence));
	b->fence[b->fence_count++] = (struct batch_fence){
		.run_id = arena_strndup(&b->arena, (const char *)run_id.p, run_id.len),
		.lsn = b->transaction[b->transaction_count - 1].end};
}

/* The rollup is parked from transaction t on. */
static void park_at(struct batch *b, uint16_t rollup, uint32_t t, const char *reason)
{
	struct landed *l = &b->landed->item[rollup];
	if (landed_is_parked(l, b->transaction[t].end))
		return;
	l->state = LANDED_PARKED;
	l->parked_for_cause = true;
	l->parked_from = b->transaction[t].end;
	b->park = grown(b->park, b->park_count, &b->park_cap, sizeof(*b->park));
	b->park[b->park_count++] = (struct batch_park){rollup, t, arena_strdup(&b->arena, reason)};
}

void batch_park(struct batch *b, uint16_t rollup, const char *reason)
{
	RT_ASSERT(b->open);
	park_at(b, rollup, b->transaction_count - 1, reason);
}

void batch_commit(struct batch *b)
{
	RT_ASSERT(b->open);
	const struct batch_transaction *t = &b->transaction[b->transaction_count - 1];
	b->open = false;
	b->end = t->end;
	b->commit_us = t->commit_us;
}

/* ---- entities ---- */

static struct slice entity_key(struct arena *a, uint16_t rollup, struct slice id)
{
	uint8_t *key = arena_alloc(a, id.len + 2);
	be16_put(key, rollup);
	if (id.len > 0)
		memcpy(key + 2, id.p, id.len);
	return slice_of(key, id.len + 2);
}

static struct batch_entity *find_key(const struct batch *b, struct slice key)
{
	struct batch_entity *e;
	HASH_FIND(hh, b->entities, key.p, key.len, e);
	return e;
}

struct batch_entity *batch_find(const struct batch *b, uint16_t rollup, struct slice id)
{
	struct arena scratch;
	arena_init(&scratch, 256);
	struct batch_entity *e = find_key(b, entity_key(&scratch, rollup, id));
	arena_release(&scratch);
	return e != NULL && !e->resolved ? e : NULL;
}

static struct batch_entity *entity_of(struct batch *b, uint16_t rollup, struct slice id)
{
	struct slice key = entity_key(&b->arena, rollup, id);
	struct batch_entity *e = find_key(b, key);
	if (e == NULL) {
		e = arena_zalloc(&b->arena, sizeof(*e));
		e->rollup = rollup;
		e->id = slice_of(key.p + 2, id.len);
		HASH_ADD_KEYPTR(hh, b->entities, key.p, key.len, e);
	}
	return e;
}

static void copy_state(struct batch *b, struct batch_entity *e, const struct fold_row *state)
{
	e->state = *state;
	e->state.id = e->id;
	e->state.event_type = arena_copy(&b->arena, state->event_type);
	e->state.columns = arena_copy(&b->arena, state->columns);
	e->exists = true;
}

void batch_resolve(struct batch *b, struct cache *cache, bool distrust)
{
	for (uint32_t i = b->folded; i < b->event_count; i++) {
		struct batch_event *ev = &b->event[i];
		if (ev->entity != NULL)
			continue;
		struct batch_entity *e = ev->entity = entity_of(b, ev->rollup, ev->e.id);
		if (e->resolved || e->is_new)
			continue; /* is_new without resolved: it is among the missing already */
		struct fold_row state;
		if (parked_has(b->parked, ev->rollup, ev->e.id)) {
			e->parked = e->resolved = true; /* its state is not needed */
			continue;
		}
		if (cache_get(cache, ev->rollup, ev->e.id, &state)) {
			met_add(MET_CACHE_HITS, 1);
			copy_state(b, e, &state);
			e->resolved = true;
		} else if (ev->e.sequence == 1 && !distrust) {
			e->is_new = e->resolved = true;
		} else {
			met_add(MET_CACHE_MISSES, 1);
			e->is_new = true; /* until the warehouse says otherwise */
			b->missing = grown(b->missing, b->missing_count, &b->missing_cap,
					   sizeof(struct batch_entity *));
			b->missing[b->missing_count++] = e;
		}
	}
}

void batch_fetched(struct batch *b)
{
	b->missing_count -= b->asked;
	memmove(b->missing, b->missing + b->asked, b->missing_count * sizeof(*b->missing));
	b->asked = 0;
}

uint16_t batch_missing(const struct batch *b, uint32_t i, struct slice *ret_id,
		       struct batch_entity **ret)
{
	*ret_id = b->missing[i]->id;
	*ret = b->missing[i];
	return b->missing[i]->rollup;
}

void batch_provide(struct batch *b, struct batch_entity *e, const struct fold_row *state)
{
	copy_state(b, e, state);
	e->is_new = false;
	e->resolved = true;
}

void batch_settle(struct batch_entity *e)
{
	e->resolved = true;
}

/* ---- folding ---- */

static void add_row(struct batch *b, const struct batch_event *ev, const struct fold_row *row)
{
	struct batch_rows *rows = &b->rows[ev->rollup];
	rows->row = grown(rows->row, rows->count, &rows->cap, sizeof(*rows->row));
	rows->row[rows->count++] = (struct batch_row){.row = *row,
						      .entity = ev->entity,
						      .repaired = ev->repaired,
						      .transaction = ev->transaction};
}

/* Takes out all of transaction t and behind; what is left was folded, or will be, without them. */
static void cut_at(struct batch *b, uint32_t t)
{
	for (uint16_t i = 0; i < b->landed->count; i++)
		while (b->rows[i].count > 0 &&
		       b->rows[i].row[b->rows[i].count - 1].transaction >= t)
			b->rows[i].count--;
	mirror_batch_cut(&b->mirrors, t);
	while (b->fence_count > 0 &&
	       lsn_le(b->transaction[t].end, b->fence[b->fence_count - 1].lsn))
		b->fence_count--;
	while (b->event_count > 0 && b->event[b->event_count - 1].transaction >= t)
		b->event_count--;
	while (b->waiting_count > 0 && b->waiting[b->waiting_count - 1].event >= b->event_count)
		b->waiting_count--;
	while (b->park_count > 0 && b->park[b->park_count - 1].transaction >= t)
		b->park_count--;
	while (b->seen_count > 0 && b->seen[b->seen_count - 1].transaction >= t)
		b->seen_count--;
	b->folded = RT_MIN(b->folded, b->event_count);
	b->transaction_count = t;
	b->open = false;
	b->end = t > 0 ? b->transaction[t - 1].end : LSN_NONE;
	b->commit_us = t > 0 ? b->transaction[t - 1].commit_us : 0;
}

void batch_cut_open(struct batch *b)
{
	RT_ASSERT(b->open);
	cut_at(b, b->transaction_count - 1);
}

/* The event waits for its entity; one too many, and its rollup is parked instead. */
static void add_waiting(struct batch *b, uint32_t i, const char *reason)
{
	const struct batch_event *ev = &b->event[i];
	const bool late = parked_is_before(b->parked, ev->rollup, ev->e.id, ev->e.sequence);
	if (!parked_add(b->parked, ev->rollup, ev->e.id, ev->e.sequence)) {
		park_at(b, ev->rollup, ev->transaction,
			"too many entities or events wait in quarantine (quarantine.max_entities, "
			"quarantine.max_events)");
		return;
	}
	ev->entity->parked = true;
	b->waiting = grown(b->waiting, b->waiting_count, &b->waiting_cap, sizeof(*b->waiting));
	b->waiting[b->waiting_count++] = (struct batch_waiting){i, reason, late};
}

static void note_gap(struct batch *b, const struct batch_event *ev)
{
	const struct batch_entity *e = ev->entity;
	b->gap = (struct batch_gap){.rollup = ev->rollup,
				    .id = e->id,
				    .after = e->exists ? e->state.version : 0,
				    .before = ev->e.sequence};
}

/* Are rows of another definition built that will take its place? */
static bool is_replaced(const struct landed_set *set, uint16_t rollup)
{
	for (uint16_t i = set->own; i < set->count; i++)
		if (set->item[i].beside == &set->item[rollup])
			return true;
	return false;
}

/* What does not fold: 0 where it waits, 1 for a gap to be filled first, or the reason why the stream cannot go on. */
static int refuse(struct batch *b, uint32_t i, enum fold_result result, struct rt_err *err)
{
	const struct batch_event *ev = &b->event[i];
	const struct rollup *r = b->landed->item[ev->rollup].rollup;
	switch (fold_policy(r, result)) {
	case POLICY_REPAIR:
		if (!ev->missing_sought) {
			note_gap(b, ev);
			return 1;
		}
		break;
	case POLICY_FAIL:
		if (is_replaced(b->landed, ev->rollup))
			break; /* the new definition is the mend, and has to get there */
		err->code = ERR_PERMANENT;
		return rt_context(err, "relation %s.%s, LSN " LSN_FMT, r->source_schema,
				  r->source_table, LSN_ARGS(b->transaction[ev->transaction].end));
	case POLICY_DEFAULT:
	case POLICY_WARN:
	case POLICY_IGNORE:
	case POLICY_QUARANTINE:
		break;
	}
	add_waiting(b, i,
		    arena_printf(&b->arena, "%s: %s%s", fold_result_name(result), err->msg,
				 ev->missing_sought ? " (nor has the core them)" : ""));
	return 0;
}

static void take_row(struct batch *b, const struct batch_event *ev, const struct fold_row *row,
		     const struct fold_note *note)
{
	struct batch_entity *e = ev->entity;
	if (b->unknown_keys == 0 && note->unknown_keys > 0) {
		b->unknown_rollup = b->landed->item[ev->rollup].rollup->name;
		b->unknown_event = note->unknown_key_event;
		memcpy(b->unknown_key, note->unknown_key, sizeof(b->unknown_key));
	}
	b->unknown_keys += note->unknown_keys;
	b->repaired += ev->repaired;
	e->state = *row;
	e->state.id = e->id;
	e->exists = e->dirty = true;
	add_row(b, ev, row);
}

static void add_seen(struct batch *b, const struct batch_event *ev)
{
	b->seen = grown(b->seen, b->seen_count, &b->seen_cap, sizeof(*b->seen));
	b->seen[b->seen_count++] =
		(struct batch_seen){ev->rollup, ev->entity->id, ev->e.sequence, ev->transaction};
}

/* The i-th event: 0 where it is folded, waits or is left out; else as batch_fold. */
static int fold_one(struct batch *b, uint32_t i, struct rt_err *err)
{
	const struct batch_event *ev = &b->event[i];
	const struct landed *l = &b->landed->item[ev->rollup];
	struct batch_entity *e = ev->entity;
	struct fold_note note = {0};
	struct fold_row row;
	if (landed_is_parked(l, b->transaction[ev->transaction].end))
		return 0;
	if (e->parked) {
		add_waiting(b, i, NULL);
		return 0;
	}
	const struct fold_row *prev = e->exists ? &e->state : NULL;
	enum fold_result result = fold_apply(l->rollup, prev, &ev->e, &b->arena, &row, &note, err);
	if (result > FOLD_DUPLICATE && result != FOLD_IGNORED &&
	    parked_is_skipped(b->parked, ev->rollup, e->id, ev->e.sequence))
		result = fold_accept(l->rollup, prev, &ev->e, &b->arena, &row, &note);
	if (result == FOLD_DUPLICATE) {
		b->duplicates++;
		if (b->keep_seen)
			add_seen(b, ev);
		return 0;
	}
	if (result != FOLD_OK && result != FOLD_IGNORED)
		return refuse(b, i, result, err);
	b->ignored += result == FOLD_IGNORED;
	take_row(b, ev, &row, &note);
	return 0;
}

int batch_fold(struct batch *b, struct cache *cache, size_t max_bytes, struct rt_err *err)
{
	uint32_t from = b->folded;
	int rc = 0;
	for (; b->folded < b->event_count; b->folded++) {
		if (b->folded > 0 && b->arena.used_bytes > max_bytes)
			break; /* one is folded in any case: it goes on */
		const uint32_t transaction = b->event[b->folded].transaction;
		FAILPOINT(FOLD_EVENT);
		rc = fold_one(b, b->folded, err);
		if (rc < 0)
			cut_at(b, transaction);
		if (rc != 0)
			break;
	}
	for (uint16_t i = 0; i < b->landed->count; i++)
		for (uint32_t n = 0; n < b->rows[i].count; n++)
			b->rows[i].row[n].entity->last_row = n;
	FAILPOINT(FOLD_BEFORE_CACHE);
	for (uint32_t i = from; rc >= 0 && i < b->folded; i++) {
		struct batch_entity *e = b->event[i].entity;
		if (e->dirty)
			cache_put(cache, e->rollup, &e->state);
		e->dirty = false;
	}
	return rc;
}

void batch_fill_gap(struct batch *b, const struct fold_event *e, uint32_t count)
{
	const struct batch_event before = b->event[b->folded];
	while (b->event_cap < b->event_count + count)
		b->event = grown(b->event, b->event_cap, &b->event_cap, sizeof(*b->event));
	memmove(b->event + b->folded + count, b->event + b->folded,
		(b->event_count - b->folded) * sizeof(*b->event));
	for (uint32_t i = 0; i < count; i++)
		b->event[b->folded + i] = (struct batch_event){.e = e[i],
							       .entity = before.entity,
							       .rollup = before.rollup,
							       .repaired = true,
							       .transaction = before.transaction};
	b->event_count += count;
}

void batch_leave_gap(struct batch *b)
{
	b->event[b->folded].missing_sought = true;
}

/* Copies an event; its entity is looked up again. */
static void move_event(struct batch *to, const struct batch_event *from, uint32_t transaction)
{
	struct fold_event e = from->e;
	e.id = arena_copy(&to->arena, e.id);
	e.event_type = arena_copy(&to->arena, e.event_type);
	e.payload = arena_copy(&to->arena, e.payload);
	batch_add_event(to, from->rollup, &e);
	struct batch_event *moved = &to->event[to->event_count - 1];
	moved->repaired = from->repaired;
	moved->missing_sought = from->missing_sought;
	moved->transaction = transaction;
}

void batch_split(struct batch *b, struct batch *next)
{
	RT_ASSERT(!batch_is_folded(b) && batch_is_empty(next) && !next->open);
	const uint32_t t = b->event[b->folded].transaction;
	for (uint32_t i = t; i < b->transaction_count; i++) {
		batch_begin(next, b->transaction[i].end, b->transaction[i].commit_us);
		next->open = false;
	}
	next->open = true; /* so that events and fences are taken */
	for (uint32_t i = b->folded; i < b->event_count; i++)
		move_event(next, &b->event[i], b->event[i].transaction - t);
	mirror_batch_split(&b->mirrors, t, &next->mirrors, &next->arena);
	uint32_t kept = 0;
	while (kept < b->fence_count && lsn_lt(b->fence[kept].lsn, b->transaction[t].end))
		kept++;
	for (uint32_t i = kept; i < b->fence_count; i++) {
		batch_add_fence(next, slice_str(b->fence[i].run_id));
		next->fence[next->fence_count - 1].lsn = b->fence[i].lsn;
	}
	uint32_t parks = b->park_count;
	while (parks > 0 && b->park[parks - 1].transaction >= t)
		parks--;
	for (uint32_t i = parks; i < b->park_count; i++) {
		const struct batch_park *p = &b->park[i];
		next->park = grown(next->park, next->park_count, &next->park_cap, sizeof(*p));
		next->park[next->park_count++] = (struct batch_park){
			p->rollup, p->transaction - t, arena_strdup(&next->arena, p->reason)};
	}
	b->park_count = parks;
	next->open = b->open;
	next->first_part = false;
	next->end = b->end;
	next->commit_us = b->commit_us;
	next->heartbeat_us = b->heartbeat_us;
	b->event_count = b->folded;
	b->fence_count = kept;
	b->transaction_count = t + 1;
	b->open = true;
}

bool batch_row_is_last(const struct batch *b, uint16_t rollup, uint32_t i)
{
	return b->rows[rollup].row[i].entity->last_row == i;
}

bool batch_row_is_new_entity(const struct batch_row *r)
{
	return r->entity->is_new;
}
