/*
 * fold: the next row of an entity. Guarantees: pure; one pass over the
 * payload, one over the row before; a row comes out only when every action of
 * the event went through.
 */
#include "transforms/rollup/fold.h"

#include "transforms/rollup/fold_values.h"

const char *fold_result_name(enum fold_result result)
{
	switch (result) {
	case FOLD_OK:
		return "ok";
	case FOLD_DUPLICATE:
		return "duplicate";
	case FOLD_GAP:
		return "gap";
	case FOLD_UNKNOWN_EVENT:
		return "unknown_event";
	case FOLD_MISSING_KEY:
		return "missing_key";
	case FOLD_BAD_VALUE:
		return "bad_value";
	case FOLD_IGNORED:
		return "ignored";
	case FOLD_UNKNOWN_KEY:
		return "unknown_key";
	}
	rt_bug(__FILE__, __LINE__, "unknown fold result");
}

/* ---- fields of a row ---- */

static uint32_t field_bytes(const uint8_t *p, const uint8_t *end)
{
	RT_ASSERT(end - p >= 4);
	uint32_t len = be32_get(p);
	if (len == UINT32_MAX)
		return 4;
	RT_ASSERT(len <= (size_t)(end - p) - 4);
	return len + 4;
}

static struct slice field_value(const uint8_t *p, uint32_t bytes)
{
	if (be32_get(p) == UINT32_MAX)
		return (struct slice){NULL, 0};
	return (struct slice){p + 4, bytes - 4};
}

struct slice fold_column(struct slice columns, uint16_t i)
{
	const uint8_t *p = columns.p, *end = columns.p + columns.len;
	for (; i > 0; i--)
		p += field_bytes(p, end);
	return field_value(p, field_bytes(p, end));
}

bool fold_columns_valid(const struct rollup *r, struct slice columns)
{
	struct rd rd = rd_of(columns);
	for (uint16_t i = 0; i < r->column_count; i++) {
		const struct rollup_column *c = &r->column[i];
		uint32_t len = rd_u32(&rd);
		if (len == UINT32_MAX && !rd.failed) {
			/* These start with a value and never lose it. */
			if (c->reducer == REDUCER_FLAG || c->reducer == REDUCER_LIST ||
			    c->reducer == REDUCER_COUNT || c->reducer == REDUCER_SUM)
				return false;
			continue;
		}
		const uint8_t *p = rd_bytes(&rd, len);
		if (p == NULL || !pgt_is_valid(c->type, slice_of(p, len)))
			return false;
		if (c->type.array && pgt_array_count(c->type.base, slice_of(p, len)) < 0)
			return false;
		if (c->reducer == REDUCER_LIST && !c->type.array && (len < 3 || p[1] != '['))
			return false;
		if (c->reducer == REDUCER_MERGE && (len < 3 || p[1] != '{'))
			return false;
	}
	return rd_finish(&rd);
}

static void put_zero(enum pgt t, struct buf *out)
{
	struct rt_err err;
	if (pgt_from_text(t, slice_str("0"), NULL, out, &err) != 0)
		rt_bug(__FILE__, __LINE__, "0 is no number");
}

void fold_initial_columns(const struct rollup *r, struct buf *out)
{
	for (uint16_t i = 0; i < r->column_count; i++) {
		const struct rollup_column *c = &r->column[i];
		size_t start;
		switch (c->reducer) {
		case REDUCER_CARRY:
		case REDUCER_SET:
		case REDUCER_MIN:
		case REDUCER_MAX:
		case REDUCER_FIRST:
		case REDUCER_MERGE:
			fold_put_null(out);
			break;
		case REDUCER_FLAG:
			fold_put_field(out, slice_of("\0", 1));
			break;
		case REDUCER_LIST:
			start = fold_begin_field(out);
			fold_list_empty(c->type, out);
			fold_end_field(out, start);
			break;
		case REDUCER_COUNT:
		case REDUCER_SUM:
			start = fold_begin_field(out);
			put_zero(c->type.base, out);
			fold_end_field(out, start);
			break;
		case REDUCER_COUNT_:
			rt_bug(__FILE__, __LINE__, "no such reducer");
		}
	}
}

/* ---- verbs ---- */

static enum fold_result do_set(struct fold_ctx *ctx, const struct rollup_action *a,
			       struct slice old, struct buf *out)
{
	const size_t start = fold_begin_field(out);
	switch (fold_take(ctx, a, ctx->r->column[a->column].type, out)) {
	case TAKE_VALUE:
		fold_end_field(out, start);
		return FOLD_OK;
	case TAKE_NULL:
		out->len = start - 4;
		fold_put_null(out);
		return FOLD_OK;
	case TAKE_FAILED:
		break;
	}
	return ctx->result;
}

static enum fold_result do_carry(struct fold_ctx *ctx, const struct rollup_action *a,
				 struct slice old, struct buf *out)
{
	if (ctx->found[a->key].kind != JSON_ABSENT)
		return do_set(ctx, a, old, out);
	fold_put_field(out, old);
	return FOLD_OK;
}

static enum fold_result do_clear(struct fold_ctx *ctx, const struct rollup_action *a,
				 struct slice old, struct buf *out)
{
	fold_put_null(out);
	return FOLD_OK;
}

static enum fold_result do_flag(struct fold_ctx *ctx, const struct rollup_action *a,
				struct slice old, struct buf *out)
{
	fold_put_field(out, slice_of(a->verb == VERB_RAISE ? "\1" : "\0", 1));
	return FOLD_OK;
}

/* Appends old ± more as the column's type. */
static enum fold_result put_sum(struct fold_ctx *ctx, const struct rollup_action *a,
				struct slice old, struct slice more, struct buf *out)
{
	struct rt_err why;
	const size_t start = fold_begin_field(out);
	if (pgt_add(ctx->r->column[a->column].type.base, old, more, a->verb == VERB_SUBTRACT, out,
		    &why) != 0)
		return fold_fail(ctx, a, FOLD_BAD_VALUE, "%s", why.msg);
	fold_end_field(out, start);
	return FOLD_OK;
}

static enum fold_result do_count(struct fold_ctx *ctx, const struct rollup_action *a,
				 struct slice old, struct buf *out)
{
	static const uint8_t one[8] = {[7] = 1};
	return put_sum(ctx, a, old, slice_of(one + 8 - old.len, old.len), out);
}

/* NaN and the infinities would stick for ever: numeric_send marks them by these two bits of the sign. */
static bool is_finite(enum pgt t, struct slice value)
{
	return t != PGT_NUMERIC || value.len < 6 || (value.p[4] & 0xC0) != 0xC0;
}

static enum fold_result do_sum(struct fold_ctx *ctx, const struct rollup_action *a,
			       struct slice old, struct buf *out)
{
	const struct pgt_type t = ctx->r->column[a->column].type;
	uint8_t small[FOLD_SMALL_BYTES];
	struct buf tmp = buf_in_arena(ctx->arena, small, sizeof(small));
	switch (fold_take(ctx, a, t, &tmp)) {
	case TAKE_VALUE:
		if (!is_finite(t.base, buf_slice(&tmp)))
			return fold_fail(ctx, a, FOLD_BAD_VALUE, "a sum takes finite numbers only");
		return put_sum(ctx, a, old, buf_slice(&tmp), out);
	case TAKE_NULL:
		fold_put_field(out, old);
		return FOLD_OK;
	case TAKE_FAILED:
		break;
	}
	return ctx->result;
}

/* Is the new value the one to keep? (old is not NULL) */
static bool is_better(enum rollup_verb verb, enum pgt t, struct slice value, struct slice old)
{
	if (verb == VERB_MIN)
		return pgt_compare(t, value, old) < 0;
	return verb == VERB_MAX && pgt_compare(t, value, old) > 0;
}

/* min, max and first: a value, or NULL until there is one. */
static enum fold_result do_pick(struct fold_ctx *ctx, const struct rollup_action *a,
				struct slice old, struct buf *out)
{
	const struct pgt_type t = ctx->r->column[a->column].type;
	uint8_t small[FOLD_SMALL_BYTES];
	struct buf tmp = buf_in_arena(ctx->arena, small, sizeof(small));
	enum fold_take take = fold_take(ctx, a, t, &tmp);
	if (take == TAKE_FAILED)
		return ctx->result;
	if (t.base == PGT_JSONB && !t.array && slice_is(buf_slice(&tmp), "\1null"))
		take = TAKE_NULL; /* a JSON null is no first value */
	if (take == TAKE_VALUE &&
	    (old.p == NULL || is_better(a->verb, t.base, buf_slice(&tmp), old)))
		fold_put_field(out, buf_slice(&tmp));
	else
		fold_put_field(out, old);
	return FOLD_OK;
}

static enum fold_result do_merge(struct fold_ctx *ctx, const struct rollup_action *a,
				 struct slice old, struct buf *out)
{
	struct json_value v = json_top(ctx->e->payload);
	if (a->path.from == FROM_PAYLOAD && !fold_find(ctx, a, &v))
		return ctx->result;
	if (v.kind == JSON_ABSENT || v.kind == JSON_NULL) {
		fold_put_field(out, old);
		return FOLD_OK;
	}
	if (v.kind != JSON_OBJECT)
		return fold_fail(ctx, a, FOLD_MISSING_KEY, "%s cannot be merged, only object",
				 json_kind_name(v.kind));
	const size_t start = fold_begin_field(out);
	buf_u8(out, 1);
	if (old.p == NULL) {
		buf_add_slice(out, v.raw);
	} else {
		struct json_value have = json_top((struct slice){old.p + 1, old.len - 1});
		json_merge(&have, &v, out);
	}
	fold_end_field(out, start);
	return FOLD_OK;
}

typedef enum fold_result (*verb_fn)(struct fold_ctx *, const struct rollup_action *, struct slice,
				    struct buf *);

/* Each appends the column's next field; old is the field before. */
static const verb_fn verbs[] = {
	[VERB_SET] = do_set,
	[VERB_CARRY] = do_carry,
	[VERB_CLEAR] = do_clear,
	[VERB_RAISE] = do_flag,
	[VERB_LOWER] = do_flag,
	[VERB_LIST_INIT] = fold_list_init,
	[VERB_LIST_ADD] = fold_list_add,
	[VERB_LIST_REMOVE] = fold_list_remove,
	[VERB_COUNT] = do_count,
	[VERB_ADD] = do_sum,
	[VERB_SUBTRACT] = do_sum,
	[VERB_MIN] = do_pick,
	[VERB_MAX] = do_pick,
	[VERB_FIRST] = do_pick,
	[VERB_MERGE] = do_merge,
};
_Static_assert(ARRAY_LEN(verbs) == VERB_MERGE + 1, "every verb has its function");

/* ---- one event ---- */

/* Canonical keys come by length, then bytes, as the event's keys are kept: <0, 0, >0. */
static int compare_key(struct slice key, const struct rollup_key *known)
{
	if (key.len != known->len)
		return key.len < known->len ? -1 : 1;
	return memcmp(key.p, known->name, key.len);
}

static void note_unknown(const struct rollup_event *event, struct slice key, struct fold_note *note)
{
	if (note->unknown_keys++ > 0)
		return;
	size_t n = RT_MIN(key.len, sizeof(note->unknown_key) - 1);
	while (n < key.len && n > 0 && (key.p[n] & 0xC0) == 0x80)
		n--; /* not within a character */
	memcpy(note->unknown_key, key.p, n);
	note->unknown_key[n] = '\0';
	note->unknown_key_event = event->name;
}

/* Fills found (key_count + 2) by one pass over the payload's members; false: it is no object. */
static bool scan_payload(const struct rollup_event *event, struct slice payload,
			 struct json_value *found, struct fold_note *note)
{
	const uint16_t n = event->key_count;
	struct json_value key, value, object = {JSON_OBJECT, payload};
	size_t at = 0;
	uint16_t next = 0;
	int rc;
	for (uint16_t i = 0; i < n + 2; i++)
		found[i].kind = JSON_ABSENT;
	if (payload.len < 2 || payload.p[0] != '{' || payload.p[payload.len - 1] != '}')
		return false;
	while ((rc = json_next_member(&object, &at, &key, &value)) == 1) {
		struct slice name = json_inside(&key);
		int d = 1;
		while (next < n && (d = compare_key(name, &event->key[next])) > 0)
			next++;
		if (next < n && d == 0)
			found[next++] = value;
		else if (slice_is(name, "id"))
			found[n + ROLLUP_KEY_ID] = value;
		else if (slice_is(name, "type"))
			found[n + ROLLUP_KEY_TYPE] = value;
		else
			note_unknown(event, name, note);
	}
	return rc == 0 && (at == 0 || at == payload.len - 1); /* nothing behind the last member */
}

static enum fold_result check_keys(const struct fold_ctx *ctx, const struct fold_note *note)
{
	for (uint16_t i = 0; i < ctx->event->key_count; i++)
		if (ctx->found[i].kind == JSON_ABSENT && !ctx->event->key[i].optional) {
			rt_fail(ctx->err, ERR_PERMANENT, "the payload lacks key %s",
				ctx->event->key[i].name);
			fold_name_event(ctx->r, ctx->e, ctx->arena, ctx->err);
			return FOLD_MISSING_KEY;
		}
	if (note->unknown_keys == 0 ||
	    (ctx->r->unknown_key != POLICY_FAIL && ctx->r->unknown_key != POLICY_QUARANTINE))
		return FOLD_OK;
	rt_fail(ctx->err, ERR_PERMANENT, "the payload has key %s, which is not listed",
		note->unknown_key);
	fold_name_event(ctx->r, ctx->e, ctx->arena, ctx->err);
	return FOLD_UNKNOWN_KEY;
}

/* Writes the next row's columns: what the event leaves alone in runs, each action's field in its place. */
static enum fold_result write_columns(struct fold_ctx *ctx, struct slice before, struct buf *out)
{
	const uint8_t *p = before.p, *end = before.p + before.len, *run = p;
	uint16_t column = 0;
	for (uint16_t i = 0; i < ctx->event->action_count; i++) {
		const struct rollup_action *a = &ctx->event->action[i];
		for (; column < a->column; column++)
			p += field_bytes(p, end);
		buf_add(out, run, (size_t)(p - run));
		const uint32_t bytes = field_bytes(p, end);
		enum fold_result rc = verbs[a->verb](ctx, a, field_value(p, bytes), out);
		if (rc != FOLD_OK)
			return rc;
		p += bytes;
		run = p;
		column++;
	}
	buf_add(out, run, (size_t)(end - run));
	return FOLD_OK;
}

/* The columns that the event starts from: prev's, or every reducer's start. */
static struct slice columns_before(const struct rollup *r, const struct fold_row *prev,
				   struct arena *a)
{
	if (prev != NULL)
		return prev->columns;
	struct buf b = buf_in_arena(a, NULL, 0);
	fold_initial_columns(r, &b);
	return buf_slice(&b);
}

static void fill_row(const struct fold_row *prev, const struct fold_event *e, struct slice columns,
		     struct fold_row *ret)
{
	*ret = (struct fold_row){
		.id = e->id,
		.version = e->sequence,
		.created_at_us = prev != NULL ? prev->created_at_us : e->recorded_at_us,
		.modified_at_us = e->recorded_at_us,
		.event_type = e->event_type,
		.columns = columns,
	};
}

enum rollup_policy fold_policy(const struct rollup *r, enum fold_result result)
{
	enum rollup_policy p = POLICY_IGNORE;
	switch (result) {
	case FOLD_OK:
	case FOLD_DUPLICATE:
	case FOLD_IGNORED:
		return POLICY_IGNORE;
	case FOLD_GAP:
		return r->gap != POLICY_DEFAULT ? r->gap : POLICY_QUARANTINE;
	case FOLD_UNKNOWN_KEY:
		p = r->unknown_key;
		break;
	case FOLD_UNKNOWN_EVENT:
	case FOLD_MISSING_KEY:
	case FOLD_BAD_VALUE:
		p = r->unknown_event;
		break;
	}
	/* What cannot be read is not ignored: that policy's `ignore` is for event types. */
	return p == POLICY_FAIL ? POLICY_FAIL : POLICY_QUARANTINE;
}

/* Is it the entity's next event? */
static enum fold_result check_sequence(const struct rollup *r, const struct fold_row *prev,
				       const struct fold_event *e, struct arena *a,
				       struct rt_err *err)
{
	const int64_t version = prev != NULL ? prev->version : 0;
	if (e->sequence < 1) {
		rt_fail(err, ERR_PERMANENT, "sequences start at 1");
		fold_name_event(r, e, a, err);
		return FOLD_BAD_VALUE;
	}
	if (e->sequence <= version)
		return FOLD_DUPLICATE;
	if (e->sequence == version + 1)
		return FOLD_OK;
	rt_fail(err, ERR_PERMANENT, "events are missing: the last version is %lld",
		(long long)version);
	fold_name_event(r, e, a, err);
	return FOLD_GAP;
}

static enum fold_result unknown_event(const struct rollup *r, const struct fold_row *prev,
				      const struct fold_event *e, struct arena *a,
				      struct fold_row *ret, struct rt_err *err)
{
	if (r->unknown_event == POLICY_IGNORE) {
		fill_row(prev, e, arena_copy(a, columns_before(r, prev, a)), ret);
		return FOLD_IGNORED;
	}
	rt_fail(err, ERR_PERMANENT, "the definition lists no such event type");
	fold_name_event(r, e, a, err);
	return FOLD_UNKNOWN_EVENT;
}

enum fold_result fold_apply(const struct rollup *r, const struct fold_row *prev,
			    const struct fold_event *e, struct arena *a, struct fold_row *ret,
			    struct fold_note *note, struct rt_err *err)
{
	struct json_value found[ROLLUP_KEYS_MAX + 2];
	struct fold_ctx ctx = {.r = r, .e = e, .found = found, .arena = a, .err = err};
	note->unknown_keys = 0;
	note->unknown_key_event = NULL;
	note->unknown_key[0] = '\0';
	enum fold_result rc = check_sequence(r, prev, e, a, err);
	if (rc != FOLD_OK)
		return rc;
	ctx.event = rollup_find_event(r, e->event_type);
	if (ctx.event == NULL)
		return unknown_event(r, prev, e, a, ret, err);
	if (!scan_payload(ctx.event, e->payload, found, note)) {
		rt_fail(err, ERR_PERMANENT, "the payload is not a JSON object");
		fold_name_event(r, e, a, err);
		return FOLD_UNKNOWN_EVENT;
	}
	if (r->unknown_key == POLICY_IGNORE)
		note->unknown_keys = 0;
	rc = check_keys(&ctx, note);
	if (rc != FOLD_OK)
		return rc;
	const struct slice before = columns_before(r, prev, a);
	const size_t cap = before.len + e->payload.len + 16u * ctx.event->action_count + 16u;
	uint8_t *p = arena_alloc(a, cap);
	struct buf out = buf_in_arena(a, p, cap);
	rc = write_columns(&ctx, before, &out);
	if (out.p == p)
		arena_trim(a, p, cap, rc == FOLD_OK ? out.len : 0);
	if (rc == FOLD_OK)
		fill_row(prev, e, buf_slice(&out), ret);
	return rc;
}

enum fold_result fold_accept(const struct rollup *r, const struct fold_row *prev,
			     const struct fold_event *e, struct arena *a, struct fold_row *ret,
			     struct fold_note *note)
{
	struct fold_row before;
	struct rt_err why;
	enum fold_result rc = fold_apply(r, prev, e, a, ret, note, &why);
	if (rc == FOLD_GAP) {
		fill_row(prev, e, columns_before(r, prev, a), &before);
		before.version = e->sequence - 1;
		prev = &before;
		rc = fold_apply(r, prev, e, a, ret, note, &why);
	}
	if (rc == FOLD_OK || rc == FOLD_DUPLICATE || rc == FOLD_IGNORED)
		return rc;
	fill_row(prev, e, arena_copy(a, columns_before(r, prev, a)), ret);
	return FOLD_IGNORED;
}
