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

void batch_init(struct batch *b, const struct landed_set *landed)
{
	*b = (struct batch){.landed = landed, .first_part = true};
	arena_init(&b->arena, BATCH_ARENA_BYTES);
	b->rows = rt_calloc(landed->count, sizeof(*b->rows));
}

void batch_release(struct batch *b)
{
	if (b == NULL || b->rows == NULL)
		return;
	HASH_CLEAR(hh, b->entities);
	for (uint16_t i = 0; i < b->landed->count; i++)
		free(b->rows[i].row);
	free(b->rows);
	mirror_batch_release(&b->mirrors);
	free(b->event);
	free(b->transaction);
	free(b->missing);
	free(b->fence);
	arena_release(&b->arena);
	*b = (struct batch){0};
}

void batch_reset(struct batch *b)
{
	HASH_CLEAR(hh, b->entities);
	for (uint16_t i = 0; i < b->landed->count; i++)
		b->rows[i].count = 0;
	mirror_batch_reset(&b->mirrors);
	b->event_count = b->folded = b->transaction_count = b->missing_count = b->fence_count = 0;
	b->asked = 0;
	b->end = LSN_NONE;
	b->commit_us = b->heartbeat_us = 0;
	b->bytes = 0;
	b->duplicates = b->unknown_keys = b->ignored = 0;
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
	rows->row[rows->count++] = (struct batch_row){
		.row = *row, .entity = ev->entity, .transaction = ev->transaction};
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

/* One event: 0, or the reason why the stream cannot go on. */
static int fold_one(struct batch *b, const struct batch_event *ev, struct rt_err *err)
{
	const struct rollup *r = b->landed->item[ev->rollup].rollup;
	struct batch_entity *e = ev->entity;
	struct fold_note note = {0};
	struct fold_row row;
	enum fold_result result =
		fold_apply(r, e->exists ? &e->state : NULL, &ev->e, &b->arena, &row, &note, err);
	switch (result) {
	case FOLD_DUPLICATE:
		b->duplicates++;
		return 0;
	case FOLD_IGNORED:
		b->ignored++;
		break;
	case FOLD_OK:
		break;
	case FOLD_GAP:
	case FOLD_UNKNOWN_EVENT:
	case FOLD_UNKNOWN_KEY:
	case FOLD_MISSING_KEY:
	case FOLD_BAD_VALUE:
		err->code = ERR_PERMANENT;
		return rt_context(err, "relation %s.%s, LSN " LSN_FMT, r->source_schema,
				  r->source_table, LSN_ARGS(b->transaction[ev->transaction].end));
	}
	if (b->unknown_keys == 0 && note.unknown_keys > 0) {
		b->unknown_rollup = r->name;
		b->unknown_event = note.unknown_key_event;
		memcpy(b->unknown_key, note.unknown_key, sizeof(b->unknown_key));
	}
	b->unknown_keys += note.unknown_keys;
	e->state = row;
	e->state.id = e->id;
	e->exists = e->dirty = true;
	add_row(b, ev, &row);
	return 0;
}

int batch_fold(struct batch *b, struct cache *cache, size_t max_bytes, struct rt_err *err)
{
	uint32_t from = b->folded;
	int rc = 0;
	for (; b->folded < b->event_count; b->folded++) {
		if (b->folded > 0 && b->arena.used_bytes > max_bytes)
			break; /* one is folded in any case: it goes on */
		const struct batch_event *ev = &b->event[b->folded];
		FAILPOINT(FOLD_EVENT);
		rc = fold_one(b, ev, err);
		if (rc != 0) {
			cut_at(b, ev->transaction);
			break;
		}
	}
	for (uint16_t i = 0; i < b->landed->count; i++)
		for (uint32_t n = 0; n < b->rows[i].count; n++)
			b->rows[i].row[n].entity->last_row = n;
	FAILPOINT(FOLD_BEFORE_CACHE);
	for (uint32_t i = from; rc == 0 && i < b->folded; i++) {
		struct batch_entity *e = b->event[i].entity;
		if (e->dirty)
			cache_put(cache, e->rollup, &e->state);
		e->dirty = false;
	}
	return rc;
}

/* Copies an event; its entity is looked up again. */
static void move_event(struct batch *to, const struct batch_event *from, uint32_t transaction)
{
	struct fold_event e = from->e;
	e.id = arena_copy(&to->arena, e.id);
	e.event_type = arena_copy(&to->arena, e.event_type);
	e.payload = arena_copy(&to->arena, e.payload);
	batch_add_event(to, from->rollup, &e);
	to->event[to->event_count - 1].transaction = transaction;
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
