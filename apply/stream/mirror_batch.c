/*
 * mirror_batch: noting and coalescing. Guarantees: after the steps each touched
 * row is what the last change made it, whatever lay between; a value that was
 * not sent is never guessed.
 */
#include "apply/stream/mirror_batch.h"

#include <xxhash.h>

#define HASH_FUNCTION(keyptr, keylen, hashv) ((hashv) = (unsigned)XXH3_64bits(keyptr, keylen))
#include <uthash.h>

#include "proto/base/buf.h"

/* From so many rows of a run on, COPY; so many keys go in one DELETE. */
#define COPY_ROWS   50
#define DELETE_KEYS 5000
#define DELETE_MANY 8

enum row_state {
	ROW_FRESH, /* nothing is known of it yet but its key: it is as the warehouse has it */
	ROW_GONE,  /* not there any more */
	ROW_WHOLE, /* all of its values are known */
	ROW_PATCH, /* what is not known is as the warehouse has it */
};

/* A row that a run touched, by key. */
struct row {
	UT_hash_handle hh;
	struct slice key;
	bool had; /* the warehouse may hold a row of this key from before the run */
	enum row_state state;
	struct tuple tuple; /* of FRESH and GONE: its key's columns */
	uint32_t transaction;
};

/* What of one mirror is being coalesced. */
struct run {
	struct mirror_shape *shape;
	struct row *rows;  /* keyed: hash table in order of the first touch */
	struct row **list; /* not keyed: inserts, in order */
	uint32_t list_count, list_cap;
	uint8_t format; /* of the first key value: a key has another text than it has bytes */
};

struct planner {
	struct mirror_batch *batch;
	struct mirror_set *set;
	struct arena *arena;
	struct run *run; /* per mirror */
};

/* ---- noting ---- */

static void *grown(void *p, uint32_t count, uint32_t *cap, size_t size)
{
	if (count < *cap)
		return p;
	*cap = *cap == 0 ? 64 : *cap * 2;
	return rt_realloc(p, *cap * size);
}

void mirror_batch_release(struct mirror_batch *b)
{
	free(b->op);
	free(b->step);
	*b = (struct mirror_batch){0};
}

void mirror_batch_reset(struct mirror_batch *b)
{
	b->count = b->step_count = 0;
	b->bytes = 0;
	b->planned = false;
}

static size_t tuple_bytes(const struct tuple *t)
{
	size_t bytes = 0;
	for (uint16_t i = 0; i < t->count; i++)
		bytes += t->value[i].len;
	return bytes;
}

void mirror_batch_add(struct mirror_batch *b, const struct mirror_op *op)
{
	b->op = grown(b->op, b->count, &b->cap, sizeof(*b->op));
	b->op[b->count++] = *op;
	b->planned = false;
	b->bytes += tuple_bytes(&op->new_row) + tuple_bytes(&op->old_row);
}

void mirror_batch_cut(struct mirror_batch *b, uint32_t t)
{
	b->planned = false;
	while (b->count > 0 && b->op[b->count - 1].transaction >= t)
		b->count--;
}

static struct tuple copy_tuple(struct arena *a, const struct tuple *t)
{
	struct value *v = arena_alloc(a, t->count * sizeof(*v));
	for (uint16_t i = 0; i < t->count; i++) {
		v[i] = t->value[i];
		if (v[i].len > 0)
			v[i].p = arena_copy(a, slice_of(v[i].p, v[i].len)).p;
	}
	return (struct tuple){t->count, v};
}

void mirror_batch_split(struct mirror_batch *b, uint32_t t, struct mirror_batch *to,
			struct arena *to_arena)
{
	uint32_t from = b->count;
	while (from > 0 && b->op[from - 1].transaction > t)
		from--;
	for (uint32_t i = from; i < b->count; i++) {
		struct mirror_op op = b->op[i];
		op.transaction -= t;
		op.new_row = copy_tuple(to_arena, &op.new_row);
		op.old_row = copy_tuple(to_arena, &op.old_row);
		if (op.text != NULL)
			op.text = arena_strdup(to_arena, op.text);
		mirror_batch_add(to, &op);
	}
	b->count = from;
	b->planned = false;
}

/* ---- steps ---- */

static struct mirror_step *add_step(struct planner *p, enum mirror_step_kind kind, uint16_t mirror,
				    struct mirror_shape *shape)
{
	struct mirror_batch *b = p->batch;
	b->step = grown(b->step, b->step_count, &b->step_cap, sizeof(*b->step));
	struct mirror_step *s = &b->step[b->step_count++];
	*s = (struct mirror_step){.kind = kind, .mirror = mirror, .shape = shape, .count = 1};
	return s;
}

static void add_row_step(struct planner *p, enum mirror_step_kind kind, uint16_t mirror,
			 struct mirror_shape *shape, const struct row *r)
{
	struct mirror_step *s = add_step(p, kind, mirror, shape);
	s->row = s->old = r->tuple;
	s->transaction = r->transaction;
}

static void prepare(struct planner *p, uint16_t mirror, struct mirror_shape *shape)
{
	if (shape->prepared)
		return;
	shape->prepared = true;
	add_step(p, MIRROR_PREPARE, mirror, shape)->count = 0; /* its INSERT */
	if (shape->key_count > 0)
		add_step(p, MIRROR_PREPARE, mirror, shape)->count = 1; /* its DELETE */
}

/* Steps of one kind from `from` on become groups: the first of a group counts them. */
static void group(struct mirror_batch *b, uint32_t from, enum mirror_step_kind kind, uint32_t most)
{
	for (uint32_t i = from; i < b->step_count; i++) {
		b->step[i].kind = kind;
		b->step[i].count = RT_MIN(most - (i - from) % most, b->step_count - i);
	}
}

static bool is_text(const struct mirror_shape *shape, uint16_t column)
{
	return strcmp(shape->source.land[column].type, "text") == 0;
}

/* Can these rows go by one COPY: all in binary (text columns are the same in both), or all in text? */
static bool can_copy(const struct mirror_step *s, uint32_t n, bool *ret_binary)
{
	bool binary = true, text = true;
	for (uint32_t i = 0; i < n; i++)
		for (uint16_t c = 0; c < s[i].row.count; c++) {
			enum value_kind kind = s[i].row.value[c].kind;
			binary &= kind != VALUE_TEXT || is_text(s[i].shape, c);
			text &= kind != VALUE_BINARY || is_text(s[i].shape, c);
		}
	*ret_binary = binary;
	return binary || text;
}

/* Can these keys go as arrays? In binary the type of each column must be known by its number. */
static bool can_delete_many(const struct mirror_step *s, uint32_t n)
{
	const struct mirror_shape *shape = s->shape;
	for (uint16_t k = 0; k < shape->key_count; k++) {
		uint16_t c = shape->key[k];
		const struct schema_land *l = &shape->source.land[c];
		enum value_kind kind = s->row.value[c].kind;
		for (uint32_t i = 0; i < n; i++)
			if (s[i].row.value[c].kind != kind)
				return false;
		if (kind == VALUE_BINARY && !is_text(shape, c) &&
		    (l->kind != LAND_AS_IS || l->element_oid != 0 ||
		     shape->source.column[c].type_oid >= 10000))
			return false;
	}
	return true;
}

static void emit_deletes(struct planner *p, uint16_t mirror, const struct run *run)
{
	uint32_t from = p->batch->step_count;
	for (const struct row *r = run->rows; r != NULL; r = r->hh.next)
		if (r->had && (r->state == ROW_GONE || r->state == ROW_WHOLE))
			add_row_step(p, MIRROR_DELETE, mirror, run->shape, r);
	uint32_t n = p->batch->step_count - from;
	if (n >= DELETE_MANY && can_delete_many(&p->batch->step[from], n))
		group(p->batch, from, MIRROR_DELETE_MANY, DELETE_KEYS);
}

static void emit_inserts(struct planner *p, uint16_t mirror, const struct run *run)
{
	uint32_t from = p->batch->step_count;
	for (uint32_t i = 0; i < run->list_count; i++)
		add_row_step(p, MIRROR_INSERT, mirror, run->shape, run->list[i]);
	for (const struct row *r = run->rows; r != NULL; r = r->hh.next)
		if (r->state == ROW_WHOLE)
			add_row_step(p, MIRROR_INSERT, mirror, run->shape, r);
	uint32_t n = p->batch->step_count - from;
	bool binary;
	if (n >= COPY_ROWS && can_copy(&p->batch->step[from], n, &binary)) {
		group(p->batch, from, MIRROR_COPY, UINT32_MAX);
		p->batch->step[from].binary = binary;
	}
}

/* Writes what a run has come to, and begins another. */
static void flush(struct planner *p, uint16_t mirror)
{
	struct run *run = &p->run[mirror];
	if (run->rows != NULL || run->list_count > 0) {
		prepare(p, mirror, run->shape);
		emit_deletes(p, mirror, run);
		for (const struct row *r = run->rows; r != NULL; r = r->hh.next)
			if (r->state == ROW_PATCH)
				add_row_step(p, MIRROR_UPDATE, mirror, run->shape, r);
		emit_inserts(p, mirror, run);
	}
	HASH_CLEAR(hh, run->rows);
	run->list_count = 0;
	run->format = 0;
}

/* ---- rows ---- */

static bool has_unchanged(const struct tuple *t)
{
	for (uint16_t i = 0; i < t->count; i++)
		if (t->value[i].kind == VALUE_UNCHANGED)
			return true;
	return false;
}

/* An array's elements get the type that they have in the warehouse. */
static void fit_array(struct arena *a, uint32_t element_oid, struct value *v)
{
	if (v->kind != VALUE_BINARY || v->len < 12 || be32_get(v->p + 8) == element_oid)
		return;
	uint8_t *copy = arena_alloc(a, v->len);
	memcpy(copy, v->p, v->len);
	be32_put(copy + 8, element_oid);
	v->p = copy;
}

/*
 * The row as it is to be written: what `from` (may be NULL) knows of unchanged
 * values is filled in, of its key's columns only where key_only.
 */
static struct tuple make_row(struct planner *p, const struct mirror_shape *shape,
			     const struct tuple *row, const struct tuple *from, bool key_only)
{
	struct value *v = arena_alloc(p->arena, row->count * sizeof(*v));
	for (uint16_t i = 0; i < row->count; i++) {
		v[i] = row->value[i];
		if (v[i].kind == VALUE_UNCHANGED && from != NULL && from->count == row->count &&
		    (!key_only || shape->source.column[i].key))
			v[i] = from->value[i];
		if (shape->source.land[i].element_oid != 0)
			fit_array(p->arena, shape->source.land[i].element_oid, &v[i]);
	}
	return (struct tuple){row->count, v};
}

static struct slice key_of(struct planner *p, const struct mirror_shape *shape,
			   const struct tuple *row)
{
	size_t len = 0;
	for (uint16_t k = 0; k < shape->key_count; k++)
		len += 5 + row->value[shape->key[k]].len;
	uint8_t *key = arena_alloc(p->arena, len), *at = key;
	for (uint16_t k = 0; k < shape->key_count; k++) {
		const struct value *v = &row->value[shape->key[k]];
		*at = (uint8_t)v->kind;
		be32_put(at + 1, v->len);
		if (v->len > 0)
			memcpy(at + 5, v->p, v->len);
		at += 5 + v->len;
	}
	return slice_of(key, len);
}

/* The run's entry of this row's key; a new one is FRESH, and had as it is told. */
static struct row *row_of(struct planner *p, uint16_t mirror, const struct tuple *row, bool had)
{
	struct run *run = &p->run[mirror];
	struct slice key = key_of(p, run->shape, row);
	struct row *r;
	HASH_FIND(hh, run->rows, key.p, key.len, r);
	if (r != NULL)
		return r;
	r = arena_zalloc(p->arena, sizeof(*r));
	r->key = key;
	r->had = had || p->set->item[mirror].overlaps;
	r->tuple = *row;
	HASH_ADD_KEYPTR(hh, run->rows, r->key.p, r->key.len, r);
	return r;
}

static void become(struct row *r, enum row_state state, struct tuple tuple, uint32_t transaction)
{
	r->state = state;
	r->tuple = tuple;
	r->transaction = transaction;
}

/* ---- operations ---- */

static void give_up(struct planner *p, const struct mirror_op *op, const char *why)
{
	flush(p, op->mirror);
	add_step(p, MIRROR_PARK, op->mirror, op->shape)->text = why;
	p->set->item[op->mirror].state = LANDED_PARKED;
}

static void plan_insert(struct planner *p, const struct mirror_op *op, bool keyed)
{
	struct run *run = &p->run[op->mirror];
	struct tuple row = make_row(p, op->shape, &op->new_row, NULL, false);
	if (has_unchanged(&row)) {
		give_up(p, op, "an inserted row came without all of its values");
		return;
	}
	if (keyed) {
		become(row_of(p, op->mirror, &row, false), ROW_WHOLE, row, op->transaction);
		return;
	}
	if (run->list_count ==
	    run->list_cap) { /* the old one stays in the arena until the batch ends */
		run->list_cap = run->list_cap == 0 ? 64 : run->list_cap * 2;
		struct row **list = arena_alloc(p->arena, run->list_cap * sizeof(struct row *));
		if (run->list_count > 0)
			memcpy(list, run->list, run->list_count * sizeof(struct row *));
		run->list = list;
	}
	struct row *r = arena_zalloc(p->arena, sizeof(*r));
	become(r, ROW_WHOLE, row, op->transaction);
	run->list[run->list_count++] = r;
}

/* The key changed, and a value that only the warehouse has goes along: in its place, alone. */
static void plan_move(struct planner *p, const struct mirror_op *op, const struct tuple *row)
{
	flush(p, op->mirror);
	struct mirror_step *s = add_step(p, MIRROR_UPDATE, op->mirror, op->shape);
	s->row = *row;
	s->old = make_row(p, op->shape, &op->old_row, NULL, false);
	s->transaction = op->transaction;
}

static void plan_update(struct planner *p, const struct mirror_op *op)
{
	bool has_old = op->old_row.count > 0;
	struct tuple row = make_row(p, op->shape, &op->new_row, has_old ? &op->old_row : NULL,
				    op->old_kind == 'K');
	struct tuple old = has_old ? make_row(p, op->shape, &op->old_row, NULL, false) : row;
	struct row *from = row_of(p, op->mirror, &old, true);
	bool moves = !slice_eq(key_of(p, op->shape, &row), from->key);
	enum row_state state = ROW_WHOLE;
	if (has_unchanged(&row) && (from->state == ROW_WHOLE || from->state == ROW_PATCH))
		row = make_row(p, op->shape, &row, &from->tuple, false);
	if (has_unchanged(&row))
		state = ROW_PATCH;
	if (state == ROW_PATCH && from->state == ROW_GONE) {
		give_up(p, op, "a row changed that was deleted before");
		return;
	}
	if (!moves) {
		become(from, state, row, op->transaction);
		return;
	}
	if (state == ROW_PATCH) {
		plan_move(p, op, &row);
		return;
	}
	become(from, ROW_GONE, old, op->transaction);
	become(row_of(p, op->mirror, &row, false), ROW_WHOLE, row, op->transaction);
}

static void plan_delete(struct planner *p, const struct mirror_op *op)
{
	struct tuple old = make_row(p, op->shape, &op->old_row, NULL, false);
	become(row_of(p, op->mirror, &old, true), ROW_GONE, old, op->transaction);
}

/* Without a key: one row that equals the old one in every value. */
static void plan_exact(struct planner *p, const struct mirror_op *op)
{
	flush(p, op->mirror);
	if (op->old_kind != 'O') {
		give_up(p, op,
			"a change came without the whole old row, and the mirror has no key");
		return;
	}
	bool update = op->kind == MIRROR_OP_UPDATE;
	struct mirror_step *s = add_step(p, update ? MIRROR_UPDATE_EXACT : MIRROR_DELETE_EXACT,
					 op->mirror, op->shape);
	s->old = make_row(p, op->shape, &op->old_row, NULL, false);
	if (update)
		s->row = make_row(p, op->shape, &op->new_row, &s->old, false);
	s->transaction = op->transaction;
}

static void plan_clear(struct planner *p, const struct mirror_op *op)
{
	struct run *run = &p->run[op->mirror];
	HASH_CLEAR(hh, run->rows);
	run->list_count = 0;
	add_step(p, MIRROR_CLEAR, op->mirror, op->shape);
}

/* Of what a row's key is made decides whether it is found under the same one again. */
static uint8_t format_of(const struct mirror_op *op)
{
	const struct tuple *t = op->old_row.count > 0 ? &op->old_row : &op->new_row;
	return op->shape->key_count == 0 ? 0 : (uint8_t)t->value[op->shape->key[0]].kind;
}

static bool is_keyed(const struct mirror_op *op)
{
	return op->shape->key_count > 0 && op->shape->source.identity != 'f';
}

static void plan_row(struct planner *p, const struct mirror_op *op)
{
	struct run *run = &p->run[op->mirror];
	bool keyed = is_keyed(op);
	if (run->shape != op->shape || (keyed && run->format != 0 && run->format != format_of(op)))
		flush(p, op->mirror);
	run->shape = op->shape;
	run->format = keyed ? format_of(op) : 0;
	if (op->kind == MIRROR_OP_INSERT)
		plan_insert(p, op, keyed);
	else if (!keyed)
		plan_exact(p, op);
	else if (op->kind == MIRROR_OP_UPDATE)
		plan_update(p, op);
	else
		plan_delete(p, op);
}

static void plan_op(struct planner *p, const struct mirror_op *op)
{
	switch (op->kind) {
	case MIRROR_OP_INSERT:
	case MIRROR_OP_UPDATE:
	case MIRROR_OP_DELETE:
		plan_row(p, op);
		return;
	case MIRROR_OP_TRUNCATE:
		plan_clear(p, op);
		return;
	case MIRROR_OP_SHAPE:
		flush(p, op->mirror);
		add_step(p, MIRROR_RESHAPE, op->mirror, op->shape)->text = op->text;
		return;
	case MIRROR_OP_PARK:
		flush(p, op->mirror);
		add_step(p, MIRROR_PARK, op->mirror, op->shape)->text = op->text;
		return;
	}
}

void mirror_batch_plan(struct mirror_batch *b, struct mirror_set *set, struct arena *a)
{
	if (b->planned)
		return;
	struct planner p = {
		.batch = b, .set = set, .arena = a, .run = rt_calloc(set->count, sizeof(*p.run))};
	bool *given_up = rt_calloc(set->count, sizeof(*given_up));
	b->step_count = 0;
	for (uint32_t i = 0; i < b->count; i++) {
		const struct mirror_op *op = &b->op[i];
		uint32_t steps = b->step_count;
		if (given_up[op->mirror])
			continue;
		plan_op(&p, op);
		given_up[op->mirror] =
			b->step_count > steps && b->step[b->step_count - 1].kind == MIRROR_PARK;
	}
	for (uint16_t i = 0; i < set->count; i++)
		flush(&p, i);
	free(given_up);
	free(p.run);
	b->planned = true;
}
