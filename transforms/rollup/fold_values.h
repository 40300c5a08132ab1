/* fold_values: what the fold's reducers take from an event, and how. Internal to the fold. */
#ifndef TRANSFORMS_ROLLUP_FOLD_VALUES_H
#define TRANSFORMS_ROLLUP_FOLD_VALUES_H

#include "transforms/rollup/fold.h"
#include "transforms/rollup/json.h"

/* Bytes on the stack for one value on its way; a larger one goes to the arena. */
#define FOLD_SMALL_BYTES 256

struct fold_ctx {
	const struct rollup *r;
	const struct fold_event *e;
	const struct rollup_event *event;
	const struct json_value *found; /* per key of the event, then id, type */
	struct arena *arena;
	struct rt_err *err;
	enum fold_result result; /* set by whatever fails */
};

enum fold_take {
	TAKE_VALUE,
	TAKE_NULL,   /* SQL NULL: a JSON null, or a key that is not there */
	TAKE_FAILED, /* ctx->result and err are set */
};

/* The JSON value that a payload path leads to. False (result set): the path goes through something that is no object. */
bool fold_find(struct fold_ctx *ctx, const struct rollup_action *a,
	       struct json_value *ret) RT_MUSTCHECK;
/* Appends the send format of v as type t. */
enum fold_take fold_convert(struct fold_ctx *ctx, const struct rollup_action *a, struct pgt_type t,
			    const struct json_value *v, struct buf *out) RT_MUSTCHECK;
/* Appends the value of the action's path (payload or $…) as type t. */
enum fold_take fold_take(struct fold_ctx *ctx, const struct rollup_action *a, struct pgt_type t,
			 struct buf *out) RT_MUSTCHECK;

/* Puts rollup, entity, sequence and event before the message in err. */
void fold_name_event(const struct rollup *r, const struct fold_event *e, struct arena *a,
		     struct rt_err *err);
/* Sets result and reason (formatted), naming the action's path and column. */
enum fold_result fold_fail(struct fold_ctx *ctx, const struct rollup_action *a,
			   enum fold_result result, const char *fmt, ...) RT_PRINTF(4, 5);
/* "object is not what column "x" of type int8 takes" as FOLD_MISSING_KEY. */
enum fold_result fold_fail_kind(struct fold_ctx *ctx, const struct rollup_action *a,
				enum json_kind kind);

/* ---- fold_lists.c ---- */

/* Each appends the whole next field of a list column; old: the field before, p == NULL for NULL. */
enum fold_result fold_list_init(struct fold_ctx *ctx, const struct rollup_action *a,
				struct slice old, struct buf *out) RT_MUSTCHECK;
enum fold_result fold_list_add(struct fold_ctx *ctx, const struct rollup_action *a,
			       struct slice old, struct buf *out) RT_MUSTCHECK;
enum fold_result fold_list_remove(struct fold_ctx *ctx, const struct rollup_action *a,
				  struct slice old, struct buf *out) RT_MUSTCHECK;
/* Appends (without a length before it) the empty list of type t. */
void fold_list_empty(struct pgt_type t, struct buf *out);

/* ---- fields ---- */

static inline void fold_put_null(struct buf *out)
{
	buf_u32(out, UINT32_MAX);
}

/* Appends a field; p == NULL: NULL. */
static inline void fold_put_field(struct buf *out, struct slice value)
{
	if (value.p == NULL) {
		fold_put_null(out);
		return;
	}
	uint8_t *p = buf_reserve(out, 4 + value.len);
	be32_put(p, (uint32_t)value.len);
	if (value.len > 0)
		memcpy(p + 4, value.p, value.len);
	out->len += 4 + value.len;
}

/* Leaves room for a length; fold_end_field fills it in. */
static inline size_t fold_begin_field(struct buf *out)
{
	buf_reserve(out, 4);
	out->len += 4;
	return out->len;
}

static inline void fold_end_field(struct buf *out, size_t start)
{
	be32_put(out->p + start - 4, (uint32_t)(out->len - start));
}

#endif
