/*
 * fold_values: from JSON to the send format. Guarantees: a value is cast as
 * SQL's (event ->> key)::type casts it, or the event does not fold; no value
 * is in any reason.
 */
#include "transforms/rollup/fold_values.h"

#include <stdio.h>

void fold_name_event(const struct rollup *r, const struct fold_event *e, struct arena *a,
		     struct rt_err *err)
{
	struct rt_err ignored;
	struct buf id = buf_in_arena(a, NULL, 0);
	if (pgt_to_text((struct pgt_type){r->id_type, false}, e->id, &id, &ignored) != 0)
		buf_str(&id, "(no valid id)");
	if (id.len > 128)
		id.len = 128;
	rt_context(err, "rollup %s, entity %.*s, sequence %d, event %.*s", r->name, (int)id.len,
		   (const char *)id.p, e->sequence, (int)RT_MIN(e->event_type.len, (size_t)63),
		   (const char *)e->event_type.p);
}

enum fold_result fold_fail(struct fold_ctx *ctx, const struct rollup_action *a,
			   enum fold_result result, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	const char *column = ctx->r->column[a->column].name;
	if (a->path.text == NULL)
		rt_fail(ctx->err, ERR_PERMANENT, "column %s: %s", column, text);
	else
		rt_fail(ctx->err, ERR_PERMANENT, "key %s for column %s: %s", a->path.text, column,
			text);
	fold_name_event(ctx->r, ctx->e, ctx->arena, ctx->err);
	ctx->result = result;
	return result;
}

enum fold_result fold_fail_kind(struct fold_ctx *ctx, const struct rollup_action *a,
				enum json_kind kind)
{
	return fold_fail(ctx, a, FOLD_MISSING_KEY, "%s is not what type %s takes",
			 json_kind_name(kind), pgt_name(ctx->r->column[a->column].type));
}

bool fold_find(struct fold_ctx *ctx, const struct rollup_action *a, struct json_value *ret)
{
	struct json_value v = ctx->found[a->key];
	for (uint8_t i = 1; i < a->path.count; i++) {
		if (v.kind == JSON_NULL)
			v.kind = JSON_ABSENT; /* what is in null is not there */
		if (v.kind == JSON_ABSENT)
			break;
		if (v.kind != JSON_OBJECT) {
			fold_fail(ctx, a, FOLD_MISSING_KEY, "%s is %s, not object",
				  a->path.key[i - 1], json_kind_name(v.kind));
			return false;
		}
		v = json_get(&v, slice_str(a->path.key[i]));
	}
	*ret = v;
	return true;
}

static enum fold_take from_text(struct fold_ctx *ctx, const struct rollup_action *a, enum pgt t,
				struct slice text, struct buf *out)
{
	struct rt_err why;
	if (pgt_from_text(t, text, ctx->r->zone, out, &why) == 0)
		return TAKE_VALUE;
	fold_fail(ctx, a, FOLD_BAD_VALUE, "%s", why.msg);
	return TAKE_FAILED;
}

/* A string, number or boolean, as ->> gives it, cast. */
static enum fold_take convert_scalar(struct fold_ctx *ctx, const struct rollup_action *a,
				     enum pgt t, const struct json_value *v, struct buf *out)
{
	uint8_t small[FOLD_SMALL_BYTES];
	if (v->kind != JSON_STRING)
		return from_text(ctx, a, t, v->raw, out);
	if (!json_has_escapes(v))
		return from_text(ctx, a, t, json_inside(v), out);
	struct buf text = buf_in_arena(ctx->arena, small, sizeof(small));
	json_append_text(v, &text);
	return from_text(ctx, a, t, buf_slice(&text), out);
}

static enum fold_take convert_base(struct fold_ctx *ctx, const struct rollup_action *a, enum pgt t,
				   const struct json_value *v, struct buf *out)
{
	if (t == PGT_JSONB) {
		buf_u8(out, 1);
		buf_add_slice(out, v->raw);
		return TAKE_VALUE;
	}
	switch (v->kind) {
	case JSON_ABSENT:
	case JSON_NULL:
		return TAKE_NULL;
	case JSON_OBJECT:
	case JSON_ARRAY:
		if (t != PGT_TEXT && t != PGT_VARCHAR) {
			fold_fail_kind(ctx, a, v->kind);
			return TAKE_FAILED;
		}
		break;
	case JSON_BOOL:
	case JSON_NUMBER:
	case JSON_STRING:
		break;
	}
	return convert_scalar(ctx, a, t, v, out);
}

/* Array send format (array_send): ndim, hasnull, element type, then length and lower bound, elements. */
static enum fold_take convert_array(struct fold_ctx *ctx, const struct rollup_action *a,
				    enum pgt element, const struct json_value *v, struct buf *out)
{
	struct json_value item;
	uint32_t count = 0, nulls = 0;
	size_t at = 0;
	const size_t start = out->len;
	if (v->kind != JSON_ARRAY) {
		fold_fail_kind(ctx, a, v->kind);
		return TAKE_FAILED;
	}
	buf_u32(out, 1);
	buf_u32(out, 0);
	buf_u32(out, pgt_oid((struct pgt_type){element, false}));
	buf_u32(out, 0);
	buf_u32(out, 1);
	while (json_next_element(v, &at, &item) == 1) {
		const size_t field = fold_begin_field(out);
		enum fold_take t = convert_base(ctx, a, element, &item, out);
		if (t == TAKE_FAILED)
			return t;
		if (t == TAKE_NULL) {
			out->len = field - 4;
			fold_put_null(out);
			nulls = 1;
		} else {
			fold_end_field(out, field);
		}
		count++;
	}
	be32_put(out->p + start + 4, nulls);
	be32_put(out->p + start + 12, count);
	if (count == 0) {
		out->len = start;
		pgt_array_empty(element, out);
	}
	return TAKE_VALUE;
}

enum fold_take fold_convert(struct fold_ctx *ctx, const struct rollup_action *a, struct pgt_type t,
			    const struct json_value *v, struct buf *out)
{
	if (v->kind == JSON_ABSENT)
		return TAKE_NULL;
	if (!t.array)
		return convert_base(ctx, a, t.base, v, out);
	if (v->kind == JSON_NULL)
		return TAKE_NULL;
	return convert_array(ctx, a, t.base, v, out);
}

enum fold_take fold_take(struct fold_ctx *ctx, const struct rollup_action *a, struct pgt_type t,
			 struct buf *out)
{
	struct json_value v;
	char text[16];
	switch (a->path.from) {
	case FROM_PAYLOAD:
		if (!fold_find(ctx, a, &v))
			return TAKE_FAILED;
		return fold_convert(ctx, a, t, &v, out);
	case FROM_TIME:
		buf_u64(out, (uint64_t)ctx->e->recorded_at_us);
		return TAKE_VALUE;
	case FROM_SEQUENCE:
		snprintf(text, sizeof(text), "%d", ctx->e->sequence);
		return from_text(ctx, a, t.base, slice_str(text), out);
	case FROM_TYPE:
		buf_add_slice(out, ctx->e->event_type);
		return TAKE_VALUE;
	case FROM_WHOLE_PAYLOAD:
		buf_u8(out, 1);
		buf_add_slice(out, ctx->e->payload);
		return TAKE_VALUE;
	}
	rt_bug(__FILE__, __LINE__, "unknown source");
}
