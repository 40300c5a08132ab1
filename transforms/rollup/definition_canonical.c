/* definition_canonical: what a definition means, as text. Guarantees: equal text exactly where every row folded would be equal. */
#include "transforms/rollup/definition.h"

#include <stdlib.h>

static const char *const verb_names[] = {
	[VERB_SET] = "set",	 [VERB_CARRY] = "carry",	   [VERB_CLEAR] = "clear",
	[VERB_RAISE] = "raise",	 [VERB_LOWER] = "lower",	   [VERB_LIST_INIT] = "init",
	[VERB_LIST_ADD] = "add", [VERB_LIST_REMOVE] = "remove",	   [VERB_COUNT] = "count",
	[VERB_ADD] = "sum_add",	 [VERB_SUBTRACT] = "sum_subtract", [VERB_MIN] = "min",
	[VERB_MAX] = "max",	 [VERB_FIRST] = "first",	   [VERB_MERGE] = "merge",
};

static bool takes_value(enum rollup_verb verb)
{
	return verb != VERB_CLEAR && verb != VERB_RAISE && verb != VERB_LOWER && verb != VERB_COUNT;
}

static const struct rollup_action *find_action(const struct rollup *r, const struct rollup_event *e,
					       uint16_t column)
{
	for (uint16_t i = 0; i < e->action_count; i++)
		if (e->action[i].column == column)
			return &e->action[i];
	return NULL;
}

struct by_name {
	const char *name;
	uint16_t index;
};

static int compare_names(const void *a, const void *b)
{
	return strcmp(((const struct by_name *)a)->name, ((const struct by_name *)b)->name);
}

/* Names go in with their length before them: no name can look like another part of the text. */
static void put_name(struct buf *out, const char *name)
{
	buf_printf(out, " %zu:%s", strlen(name), name);
}

static void put_action(const struct rollup_event *e, const struct rollup_action *a, struct buf *out)
{
	buf_str(out, "  ");
	buf_str(out, verb_names[a->verb]);
	put_name(out, e->name);
	if (takes_value(a->verb)) {
		put_name(out, a->path.text);
		/* Whether the key may be absent decides between NULL and a parked entity. */
		if (a->path.from == FROM_PAYLOAD && a->key < e->key_count &&
		    e->key[a->key].optional)
			buf_str(out, " optional");
	}
	buf_u8(out, '\n');
}

static void put_column(const struct rollup *r, uint16_t index, const struct by_name *event,
		       struct buf *out)
{
	static const char *const reducer_names[] = {
#define REDUCER(upper, lower, doc) #lower,
#include "transforms/rollup/reducers.def"
#undef REDUCER
	};
	const struct rollup_column *c = &r->column[index];
	buf_str(out, "column");
	put_name(out, c->name);
	buf_printf(out, " %s %s", pgt_name(c->type), reducer_names[c->reducer]);
	if (c->list_unique)
		buf_str(out, " unique");
	if (c->list_skip_null)
		buf_str(out, " skip_null");
	if (c->list_max != 0)
		buf_printf(out, " max=%u", c->list_max);
	buf_u8(out, '\n');
	for (uint16_t i = 0; i < r->event_count; i++) {
		const struct rollup_event *e = &r->event[event[i].index];
		const struct rollup_action *a = find_action(r, e, index);
		if (a != NULL)
			put_action(e, a, out);
	}
}

void rollup_canonical(const struct rollup *r, struct buf *out)
{
	struct by_name *event = rt_calloc(r->event_count, sizeof(*event));
	struct by_name *column = rt_calloc(r->column_count, sizeof(*column));
	const char *source[] = {r->name,
				r->source_schema,
				r->source_table,
				r->source_column.id,
				r->source_column.sequence,
				r->source_column.event_type,
				r->source_column.event,
				r->source_column.recorded_at,
				r->zone_name};
	for (uint16_t i = 0; i < r->event_count; i++)
		event[i] = (struct by_name){r->event[i].name, i};
	for (uint16_t i = 0; i < r->column_count; i++)
		column[i] = (struct by_name){r->column[i].name, i};
	qsort(event, r->event_count, sizeof(*event), compare_names);
	qsort(column, r->column_count, sizeof(*column), compare_names);
	buf_str(out, "rollup 1");
	for (size_t i = 0; i < ARRAY_LEN(source); i++)
		put_name(out, source[i]);
	buf_printf(out, " %s\n", pgt_name((struct pgt_type){r->id_type, false}));
	for (uint16_t i = 0; i < r->column_count; i++)
		put_column(r, column[i].index, event, out);
	free(event);
	free(column);
}

/* ---- for people ---- */

static const char *const verb_past[] = {
	[VERB_SET] = "set from %s",
	[VERB_CARRY] = "set from %s where it is there",
	[VERB_CLEAR] = "cleared",
	[VERB_RAISE] = "true",
	[VERB_LOWER] = "false",
	[VERB_LIST_INIT] = "replaced by %s",
	[VERB_LIST_ADD] = "%s added",
	[VERB_LIST_REMOVE] = "%s removed",
	[VERB_COUNT] = "counted",
	[VERB_ADD] = "%s added",
	[VERB_SUBTRACT] = "%s subtracted",
	[VERB_MIN] = "least of %s",
	[VERB_MAX] = "greatest of %s",
	[VERB_FIRST] = "first of %s",
	[VERB_MERGE] = "%s merged in",
};

static void put_source(const struct rollup_action *a, struct buf *out)
{
	if (a->path.from == FROM_PAYLOAD)
		buf_str(out, "payload.");
	buf_str(out, a->path.text);
}

static void put_phrase(const struct rollup_action *a, struct buf *out)
{
	const char *phrase = verb_past[a->verb], *hole = strstr(phrase, "%s");
	if (hole == NULL) {
		buf_str(out, phrase);
		return;
	}
	buf_add(out, phrase, (size_t)(hole - phrase));
	put_source(a, out);
	buf_str(out, hole + 2);
}

static bool same_phrase(const struct rollup_action *a, const struct rollup_action *b)
{
	if (a->verb != b->verb)
		return false;
	return !takes_value(a->verb) || strcmp(a->path.text, b->path.text) == 0;
}

/* Has an earlier event the same phrase? Then it was written with that one. */
static bool told_before(const struct rollup *r, uint16_t event, uint16_t column,
			const struct rollup_action *a)
{
	for (uint16_t i = 0; i < event; i++) {
		const struct rollup_action *b = find_action(r, &r->event[i], column);
		if (b != NULL && same_phrase(a, b))
			return true;
	}
	return false;
}

void rollup_describe_column(const struct rollup *r, const struct rollup_column *c, struct buf *out)
{
	const uint16_t column = (uint16_t)(c - r->column);
	bool some = false;
	for (uint16_t i = 0; i < r->event_count; i++) {
		const struct rollup_action *a = find_action(r, &r->event[i], column);
		if (a == NULL || told_before(r, i, column, a))
			continue;
		if (some)
			buf_str(out, "; ");
		some = true;
		put_phrase(a, out);
		for (uint16_t j = i, n = 0; j < r->event_count; j++) {
			const struct rollup_action *b = find_action(r, &r->event[j], column);
			if (b != NULL && same_phrase(a, b))
				buf_printf(out, "%s%s", n++ == 0 ? " on " : ", ", r->event[j].name);
		}
	}
	if (!some)
		buf_str(out, "no event writes it");
}
