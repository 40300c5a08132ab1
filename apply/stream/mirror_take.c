/* mirror_take: guarantees that a row is only ever taken under the shape that it was sent with. */
#include "apply/stream/mirror_take.h"

#include "proto/base/log.h"

static void look_up(const struct mirror_set *set, const struct schema *s, struct mirror_route *r)
{
	r->looked_up = true;
	r->mirror = mirror_find(set, s->nspname, s->relname);
	if (r->mirror < 0)
		r->mirror = mirror_find_oid(set, s->relation_oid);
}

static void park(struct mirror_set *set, const struct mirror_route *r, struct batch *b,
		 struct mirror_op *op, const char *why)
{
	struct mirror *m = &set->item[r->mirror];
	op->kind = MIRROR_OP_PARK;
	op->shape = m->shape;
	op->new_row = op->old_row = (struct tuple){0};
	op->text = arena_strdup(&b->arena, why);
	mirror_batch_add(&b->mirrors, op);
	m->state = LANDED_PARKED;
	log_error("a mirror is parked: it does not follow the core from here on",
		  "table=%s lsn=" LSN_FMT " reason=\"%s\" mend=\"rolag sync %s\"", m->source,
		  LSN_ARGS(b->transaction[op->transaction].end), why, m->relname);
}

typedef void shape_sql(const struct settings *s, const struct mirror *m,
		       const struct mirror_shape *shape, struct buf *out);

static void reshape(const struct settings *s, const struct mirror *m, const struct mirror_route *r,
		    struct batch *b, uint32_t transaction, shape_sql *to_sql)
{
	struct buf sql = BUF_INIT;
	struct mirror_op op = {.kind = MIRROR_OP_SHAPE,
			       .mirror = (uint16_t)r->mirror,
			       .transaction = transaction,
			       .shape = r->shape};
	to_sql(s, m, r->shape, &sql);
	op.text = arena_strdup(&b->arena, buf_cstr(&sql));
	buf_release(&sql);
	mirror_batch_add(&b->mirrors, &op);
}

/* The route's shape of this schema, and the operation that brings the table there. False: it was parked. */
static bool fit(struct mirror_set *set, const struct settings *s, struct mirror_route *r,
		struct batch *b, const struct schema *now, struct mirror_op *op)
{
	struct mirror *m = &set->item[r->mirror];
	char why[300];
	if (r->shape != NULL && r->compared_with == m->shape)
		return true;
	if (strcmp(now->nspname, m->nspname) != 0 || strcmp(now->relname, m->relname) != 0) {
		snprintf(why, sizeof(why), "it was renamed to %s.%s", now->nspname, now->relname);
		park(set, r, b, op, why);
		return false;
	}
	switch (mirror_compare(set, m, now, &r->shape, why, sizeof(why))) {
	case MIRROR_PARKS:
		park(set, r, b, op, why);
		return false;
	case MIRROR_ADDS:
		log_info("a mirror gets the columns that its source got", "table=%s lsn=" LSN_FMT,
			 m->source, LSN_ARGS(b->transaction[op->transaction].end));
		reshape(s, m, r, b, op->transaction, mirror_add_sql);
		break;
	case MIRROR_MOVED:
		reshape(s, m, r, b, op->transaction, mirror_record_sql);
		break;
	case MIRROR_SAME:
		break;
	}
	m->shape = r->shape;
	r->compared_with = m->shape;
	return true;
}

/* NULL, or why these values cannot be written. */
static const char *judge_values(const struct mirror *m, const struct mirror_shape *shape,
				const struct change *c)
{
	if (m->append_only && (c->kind == CHANGE_UPDATE || c->kind == CHANGE_DELETE))
		return "it is append_only, but a row was changed or deleted";
	for (uint16_t i = 0; i < c->new_row.count; i++)
		if (shape->source.land[i].kind == LAND_BY_TEXT &&
		    c->new_row.value[i].kind == VALUE_BINARY)
			return "a column came in binary whose type means nothing in another "
			       "database; mend: capture.binary auto or off";
	return NULL;
}

static enum mirror_op_kind kind_of(enum change_kind kind)
{
	return kind == CHANGE_INSERT   ? MIRROR_OP_INSERT
	       : kind == CHANGE_UPDATE ? MIRROR_OP_UPDATE
	       : kind == CHANGE_DELETE ? MIRROR_OP_DELETE
				       : MIRROR_OP_TRUNCATE;
}

void mirror_take(struct mirror_set *set, const struct settings *s, struct mirror_route *r,
		 struct batch *b, const struct change *c, uint32_t which)
{
	bool truncate = c->kind == CHANGE_TRUNCATE;
	const struct schema *now = truncate ? c->truncated[which] : c->schema;
	if (!r->looked_up)
		look_up(set, now, r);
	if (r->mirror < 0)
		return;
	struct mirror *m = &set->item[r->mirror];
	struct mirror_op op = {.kind = kind_of(c->kind),
			       .mirror = (uint16_t)r->mirror,
			       .transaction = b->transaction_count - 1,
			       .old_kind = c->old_kind,
			       .new_row = c->new_row,
			       .old_row = c->old_row};
	if (m->state != LANDED_LIVE || lsn_le(b->transaction[op.transaction].end, m->sync_lsn))
		return;
	if (!fit(set, s, r, b, now, &op))
		return;
	op.shape = r->shape;
	const char *wrong = judge_values(m, r->shape, c);
	if (wrong != NULL)
		park(set, r, b, &op, wrong);
	else
		mirror_batch_add(&b->mirrors, &op);
	m->empty = truncate;
}
