/*
 * fold_lists: the list reducer, on arrays and on jsonb arrays. Guarantees: a
 * list is never NULL; elements keep their order; a list never passes its max.
 */
#include "transforms/rollup/fold_values.h"

void fold_list_empty(struct pgt_type t, struct buf *out)
{
	if (t.array)
		pgt_array_empty(t.base, out);
	else
		buf_add(out, "\1[]", 3);
}

/* ---- jsonb arrays: elements are compared by their canonical text ---- */

static struct json_value json_list(struct slice binary)
{
	return json_top((struct slice){binary.p + 1, binary.len - 1});
}

static int64_t json_count(const struct json_value *list)
{
	struct json_value item;
	size_t at = 0;
	int64_t n = 0;
	while (json_next_element(list, &at, &item) == 1)
		n++;
	return n;
}

static bool json_contains(const struct json_value *list, struct slice element)
{
	struct json_value item;
	size_t at = 0;
	while (json_next_element(list, &at, &item) == 1)
		if (slice_eq(item.raw, element))
			return true;
	return false;
}

/* Appends to out, which ends with a list, the element. */
static void json_append(struct buf *out, struct slice element)
{
	out->len--; /* ] */
	if (out->p[out->len - 1] != '[')
		buf_str(out, ", ");
	buf_add_slice(out, element);
	buf_u8(out, ']');
}

static void json_remove(const struct json_value *list, struct slice element, struct buf *out)
{
	struct json_value item;
	size_t at = 0;
	bool some = false;
	buf_u8(out, '[');
	while (json_next_element(list, &at, &item) == 1) {
		if (slice_eq(item.raw, element))
			continue;
		if (some)
			buf_str(out, ", ");
		some = true;
		buf_add_slice(out, item.raw);
	}
	buf_u8(out, ']');
}

/* ---- either kind; jsonb elements are JSON texts, "null" for NULL ---- */

static int64_t list_count(struct pgt_type t, struct slice binary)
{
	if (t.array)
		return pgt_array_count(t.base, binary);
	struct json_value v = json_list(binary);
	return json_count(&v);
}

static bool list_contains(struct pgt_type t, struct slice binary, struct slice element)
{
	if (t.array)
		return pgt_array_contains(t.base, binary, element);
	struct json_value v = json_list(binary);
	return json_contains(&v, element);
}

static void list_append(struct pgt_type t, struct slice binary, struct slice element,
			struct buf *out)
{
	if (t.array) {
		pgt_array_append(t.base, binary, element, out);
	} else {
		buf_add_slice(out, binary);
		json_append(out, element);
	}
}

static enum fold_result check_max(struct fold_ctx *ctx, const struct rollup_action *a, int64_t n)
{
	const struct rollup_column *c = &ctx->r->column[a->column];
	if (c->list_max == 0 || n <= (int64_t)c->list_max)
		return FOLD_OK;
	return fold_fail(ctx, a, FOLD_BAD_VALUE, "the list would pass its max of %u", c->list_max);
}

/* The element that the event brings, into tmp; p == NULL: NULL (of an array only). */
static enum fold_take take_element(struct fold_ctx *ctx, const struct rollup_action *a,
				   struct pgt_type t, struct buf *tmp, struct slice *ret)
{
	enum fold_take take = fold_take(ctx, a, (struct pgt_type){t.base, false}, tmp);
	if (take == TAKE_FAILED)
		return take;
	*ret = take == TAKE_NULL ? (struct slice){NULL, 0} : buf_slice(tmp);
	if (t.array)
		return take;
	if (take == TAKE_VALUE) { /* without jsonb's version byte */
		ret->p++;
		ret->len--;
	}
	if (take == TAKE_NULL || slice_is(*ret, "null")) {
		*ret = slice_str("null");
		return TAKE_NULL;
	}
	return take;
}

enum fold_result fold_list_add(struct fold_ctx *ctx, const struct rollup_action *a,
			       struct slice old, struct buf *out)
{
	const struct rollup_column *c = &ctx->r->column[a->column];
	uint8_t small[FOLD_SMALL_BYTES];
	struct buf tmp = buf_in_arena(ctx->arena, small, sizeof(small));
	struct slice element;
	enum fold_take take = take_element(ctx, a, c->type, &tmp, &element);
	if (take == TAKE_FAILED)
		return ctx->result;
	if ((take == TAKE_NULL && c->list_skip_null) ||
	    (c->list_unique && list_contains(c->type, old, element))) {
		fold_put_field(out, old);
		return FOLD_OK;
	}
	if (c->list_max != 0) {
		enum fold_result rc = check_max(ctx, a, list_count(c->type, old) + 1);
		if (rc != FOLD_OK)
			return rc;
	}
	size_t start = fold_begin_field(out);
	list_append(c->type, old, element, out);
	fold_end_field(out, start);
	return FOLD_OK;
}

enum fold_result fold_list_remove(struct fold_ctx *ctx, const struct rollup_action *a,
				  struct slice old, struct buf *out)
{
	const struct rollup_column *c = &ctx->r->column[a->column];
	uint8_t small[FOLD_SMALL_BYTES];
	struct buf tmp = buf_in_arena(ctx->arena, small, sizeof(small));
	struct slice element;
	if (take_element(ctx, a, c->type, &tmp, &element) == TAKE_FAILED)
		return ctx->result;
	size_t start = fold_begin_field(out);
	if (c->type.array) {
		pgt_array_remove(c->type.base, old, element, out);
	} else {
		struct json_value v = json_list(old);
		buf_u8(out, 1);
		json_remove(&v, element, out);
	}
	fold_end_field(out, start);
	return FOLD_OK;
}

/* Element by element, leaving out what the list does not keep. */
static enum fold_result init_filtered(struct fold_ctx *ctx, const struct rollup_action *a,
				      const struct json_value *v, struct buf *ret)
{
	const struct rollup_column *c = &ctx->r->column[a->column];
	struct buf list = buf_in_arena(ctx->arena, NULL, 0);
	struct json_value item;
	size_t at = 0;
	fold_list_empty(c->type, &list);
	while (json_next_element(v, &at, &item) == 1) {
		uint8_t small[FOLD_SMALL_BYTES];
		struct buf tmp = buf_in_arena(ctx->arena, small, sizeof(small));
		struct slice element = item.raw;
		if (item.kind == JSON_NULL && c->list_skip_null)
			continue;
		if (c->type.array) {
			enum fold_take take = fold_convert(
				ctx, a, (struct pgt_type){c->type.base, false}, &item, &tmp);
			if (take == TAKE_FAILED)
				return ctx->result;
			element = take == TAKE_NULL ? (struct slice){NULL, 0} : buf_slice(&tmp);
		}
		if (c->list_unique && list_contains(c->type, buf_slice(&list), element))
			continue;
		struct buf next = buf_in_arena(ctx->arena, NULL, 0);
		list_append(c->type, buf_slice(&list), element, &next);
		list = next;
	}
	*ret = list;
	return FOLD_OK;
}

enum fold_result fold_list_init(struct fold_ctx *ctx, const struct rollup_action *a,
				struct slice old, struct buf *out)
{
	const struct rollup_column *c = &ctx->r->column[a->column];
	struct json_value v;
	if (!fold_find(ctx, a, &v))
		return ctx->result;
	const bool optional = a->path.count > 1 || a->key >= ctx->event->key_count ||
			      ctx->event->key[a->key].optional;
	if (v.kind == JSON_ABSENT || (v.kind == JSON_NULL && optional)) {
		fold_put_field(out, old);
		return FOLD_OK;
	}
	if (v.kind != JSON_ARRAY)
		return fold_fail_kind(ctx, a, v.kind);
	struct buf list = buf_in_arena(ctx->arena, NULL, 0);
	if (c->list_unique || c->list_skip_null) {
		enum fold_result rc = init_filtered(ctx, a, &v, &list);
		if (rc != FOLD_OK)
			return rc;
	} else if (fold_convert(ctx, a, c->type, &v, &list) == TAKE_FAILED) {
		return ctx->result;
	}
	enum fold_result rc = check_max(ctx, a, list_count(c->type, buf_slice(&list)));
	if (rc == FOLD_OK)
		fold_put_field(out, buf_slice(&list));
	return rc;
}
