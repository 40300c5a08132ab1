/*
 * definition_columns: `columns:` of a rollup's file, resolved into what each
 * event does. Guarantees: see definition.c; an error stands at the node that
 * has to change.
 */
#include "transforms/rollup/definition_parse.h"

#define COLUMN_NAME_MAX 63
#define LIST_MAX_MAX	1000000

/* One column while it is read. */
struct spec {
	const struct yaml_node *at;
	struct rollup_column *column;
	uint16_t index;
	size_t first_action; /* def.action from here on are this column's */
};

static const char *verb_words(enum rollup_verb verb)
{
	static const char *const words[] = {
		[VERB_SET] = "sets",
		[VERB_CARRY] = "carries",
		[VERB_CLEAR] = "clears",
		[VERB_RAISE] = "raises",
		[VERB_LOWER] = "lowers",
		[VERB_LIST_INIT] = "initialises",
		[VERB_LIST_ADD] = "adds to",
		[VERB_LIST_REMOVE] = "removes from",
		[VERB_COUNT] = "counts in",
		[VERB_ADD] = "adds to",
		[VERB_SUBTRACT] = "subtracts from",
		[VERB_MIN] = "feeds",
		[VERB_MAX] = "feeds",
		[VERB_FIRST] = "feeds",
		[VERB_MERGE] = "merges into",
	};
	return words[verb];
}

/* ---- paths ---- */

static int parse_payload_path(struct def *d, const struct yaml_node *n, struct rollup_path *ret)
{
	const char **keys = arena_alloc(d->arena, ROLLUP_PATH_MAX * sizeof(*keys));
	const char *start = n->text;
	uint8_t count = 0;
	for (;;) {
		size_t len = strcspn(start, ".");
		if (len == 0)
			return yaml_fail(d->name, n, d->err, "path \"%s\" has an empty key",
					 n->text);
		if (count == ROLLUP_PATH_MAX)
			return yaml_fail(d->name, n, d->err, "path \"%s\" has more than %d keys",
					 n->text, ROLLUP_PATH_MAX);
		keys[count++] = arena_strndup(d->arena, start, len);
		if (start[len] == '\0')
			break;
		start += len + 1;
	}
	*ret = (struct rollup_path){
		.from = FROM_PAYLOAD, .count = count, .key = keys, .text = n->text};
	return 0;
}

static int parse_path(struct def *d, const struct yaml_node *n, struct rollup_path *ret)
{
	static const char *const names[] = {"$time", "$sequence", "$type", "$payload"};
	static const enum rollup_source_kind kinds[] = {FROM_TIME, FROM_SEQUENCE, FROM_TYPE,
							FROM_WHOLE_PAYLOAD};
	if (n->text[0] != '$')
		return parse_payload_path(d, n, ret);
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (strcmp(n->text, names[i]) == 0) {
			*ret = (struct rollup_path){.from = kinds[i], .text = n->text};
			return 0;
		}
	return yaml_fail(d->name, n, d->err,
			 "\"%s\" is not a source: $time, $sequence, $type, $payload or a path of "
			 "payload keys",
			 n->text);
}

/* The type of one value that verb takes for the column: a list's elements, else the column's. */
static struct pgt_type value_type(const struct rollup_column *c, enum rollup_verb verb)
{
	if (verb == VERB_LIST_ADD || verb == VERB_LIST_REMOVE)
		return (struct pgt_type){c->type.base, false};
	return c->type;
}

static bool source_fits(enum rollup_source_kind from, struct pgt_type t)
{
	if (from == FROM_PAYLOAD)
		return true;
	if (t.array)
		return false;
	switch (from) {
	case FROM_PAYLOAD:
		break;
	case FROM_TIME:
		return t.base == PGT_TIMESTAMPTZ;
	case FROM_SEQUENCE:
		return t.base == PGT_INT2 || t.base == PGT_INT4 || t.base == PGT_INT8 ||
		       t.base == PGT_NUMERIC;
	case FROM_TYPE:
		return t.base == PGT_TEXT || t.base == PGT_VARCHAR;
	case FROM_WHOLE_PAYLOAD:
		return t.base == PGT_JSONB;
	}
	return true;
}

static int check_source(struct def *d, const struct spec *s, const struct yaml_node *at,
			enum rollup_verb verb, const struct rollup_path *path)
{
	if (path->from == FROM_PAYLOAD)
		return 0;
	if (verb != VERB_LIST_INIT && source_fits(path->from, value_type(s->column, verb)))
		return 0;
	return yaml_fail(d->name, at, d->err, "%s does not fit column \"%s\" of type %s",
			 path->text, s->column->name, pgt_name(s->column->type));
}

/* ---- actions ---- */

/* init and add may meet (the element is added to the list as it was before the event); nothing else may. */
static bool may_meet(enum rollup_verb a, enum rollup_verb b)
{
	return (a == VERB_LIST_INIT && b == VERB_LIST_ADD) ||
	       (a == VERB_LIST_ADD && b == VERB_LIST_INIT);
}

static int check_alone(struct def *d, const struct spec *s, const struct yaml_node *at,
		       uint16_t event, enum rollup_verb verb)
{
	for (size_t i = s->first_action; i < d->action_count; i++) {
		const struct def_action *a = &d->action[i];
		if (a->event != event || may_meet(a->act.verb, verb))
			continue;
		if (a->act.verb == verb)
			return yaml_fail(d->name, at, d->err, "event \"%s\" %s column \"%s\" twice",
					 d->event[event].name, verb_words(verb), s->column->name);
		return yaml_fail(d->name, at, d->err, "event \"%s\" both %s and %s column \"%s\"",
				 d->event[event].name, verb_words(a->act.verb), verb_words(verb),
				 s->column->name);
	}
	return 0;
}

static int missing_key(struct def *d, const struct yaml_node *at, const struct rollup_event *e,
		       const char *key)
{
	const char *names[ROLLUP_KEYS_MAX];
	for (uint16_t i = 0; i < e->key_count; i++)
		names[i] = e->key[i].name;
	const char *near = yaml_nearest(key, names, e->key_count);
	if (near != NULL)
		return yaml_fail(d->name, at, d->err,
				 "event \"%s\" has no key \"%s\"; did you mean \"%s\"?", e->name,
				 key, near);
	return yaml_fail(d->name, at, d->err, "event \"%s\" has no key \"%s\"%s", e->name, key,
			 strcmp(key, "payload") == 0 ? ": a path begins with a key of the payload"
						     : "");
}

static int add_action(struct def *d, const struct spec *s, const struct yaml_node *at,
		      uint16_t event, enum rollup_verb verb, const struct rollup_path *path)
{
	struct rollup_action act = {.column = s->index, .verb = verb};
	int rc = check_alone(d, s, at, event, verb);
	if (rc != 0)
		return rc;
	if (path != NULL) {
		act.path = *path;
		if (path->from == FROM_PAYLOAD) {
			int key = def_find_key(&d->event[event], path->key[0]);
			if (key < 0)
				return missing_key(d, at, &d->event[event], path->key[0]);
			act.key = (uint16_t)key;
		}
	}
	if (d->action_count == d->action_cap) {
		size_t cap = d->action_cap == 0 ? 64 : d->action_cap * 2;
		struct def_action *more = arena_alloc(d->arena, cap * sizeof(*more));
		if (d->action_count > 0)
			memcpy(more, d->action, d->action_count * sizeof(*more));
		d->action = more;
		d->action_cap = cap;
	}
	d->action[d->action_count++] = (struct def_action){event, act};
	return 0;
}

/* A list of event types; each feeds the column from path (NULL: the verb takes no value). */
static int parse_event_list(struct def *d, const struct spec *s, const struct yaml_node *list,
			    enum rollup_verb verb, const struct rollup_path *path)
{
	if (list->kind != YAML_LIST)
		return yaml_fail(d->name, list, d->err,
				 "a list of event types is expected ([]: none)");
	for (size_t i = 0; i < list->count; i++) {
		int event = def_find_event(d, list->item[i]);
		if (event < 0)
			return event;
		int rc = add_action(d, s, list->item[i], (uint16_t)event, verb, path);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static bool is_event(const struct def *d, const struct yaml_node *n)
{
	for (uint16_t i = 0; n->kind == YAML_SCALAR && i < d->r->event_count; i++)
		if (strcmp(d->event[i].name, n->text) == 0)
			return true;
	return false;
}

/* {event type: [paths]}, the two confused? */
static int check_not_swapped(struct def *d, const struct yaml_node *path,
			     const struct yaml_node *list)
{
	if (!is_event(d, path) || list->kind != YAML_LIST || list->count == 0 ||
	    is_event(d, list->item[0]))
		return 0;
	for (uint16_t i = 0; i < d->r->event_count; i++)
		if (def_find_key(&d->event[i], path->text) >= 0)
			return 0;
	return yaml_fail(d->name, path, d->err,
			 "\"%s\" is an event type: what stands here is {path: [event types]}",
			 path->text);
}

/* {path: [event types], …}, or just the list where the path is the column's name. */
static int parse_feed(struct def *d, const struct spec *s, const struct yaml_node *n,
		      enum rollup_verb verb)
{
	struct rollup_path path;
	if (n->kind == YAML_LIST) {
		const char **key = arena_alloc(d->arena, sizeof(*key));
		key[0] = s->column->name;
		path = (struct rollup_path){
			.from = FROM_PAYLOAD, .count = 1, .key = key, .text = s->column->name};
		return parse_event_list(d, s, n, verb, &path);
	}
	if (n->kind != YAML_MAP)
		return yaml_fail(d->name, n, d->err,
				 "{path: [event types]} or a list of event types is expected");
	for (size_t i = 0; i < n->count; i++) {
		int rc = check_not_swapped(d, n->key[i], n->item[i]);
		if (rc == 0)
			rc = parse_path(d, n->key[i], &path);
		if (rc == 0)
			rc = check_source(d, s, n->key[i], verb, &path);
		if (rc == 0)
			rc = parse_event_list(d, s, n->item[i], verb, &path);
		if (rc != 0)
			return rc;
	}
	return 0;
}

/* ---- reducers ---- */

static int parse_set(struct def *d, struct spec *s, const struct yaml_node *n)
{
	return parse_feed(d, s, n, VERB_SET);
}

static int parse_flag(struct def *d, struct spec *s, const struct yaml_node *n)
{
	static const char *const keys[] = {"raise", "lower"};
	const struct yaml_node *raise, *lower;
	int rc = def_expect(d, n, YAML_MAP, "flag");
	if (rc == 0)
		rc = def_check_keys(d, n, "flag", keys, ARRAY_LEN(keys));
	if (rc != 0)
		return rc;
	raise = yaml_get(n, "raise");
	lower = yaml_get(n, "lower");
	if (raise == NULL)
		return yaml_fail(d->name, n, d->err, "flag needs raise ([]: never)");
	rc = parse_event_list(d, s, raise, VERB_RAISE, NULL);
	if (rc == 0 && lower != NULL)
		rc = parse_event_list(d, s, lower, VERB_LOWER, NULL);
	return rc;
}

static int parse_option(struct def *d, const struct yaml_node *map, const char *key, bool *ret)
{
	const struct yaml_node *n = yaml_get(map, key);
	if (n != NULL && !yaml_bool(n, ret))
		return yaml_fail(d->name, n, d->err, "%s must be true or false", key);
	return 0;
}

static int parse_list(struct def *d, struct spec *s, const struct yaml_node *n)
{
	static const char *const keys[] = {"init", "add", "remove", "unique", "skip_null", "max"};
	static const enum rollup_verb verbs[] = {VERB_LIST_INIT, VERB_LIST_ADD, VERB_LIST_REMOVE};
	struct rollup_column *c = s->column;
	bool fed = false;
	int rc = def_expect(d, n, YAML_MAP, "list");
	if (rc == 0)
		rc = def_check_keys(d, n, "list", keys, ARRAY_LEN(keys));
	if (rc == 0)
		rc = parse_option(d, n, "unique", &c->list_unique);
	if (rc == 0)
		rc = parse_option(d, n, "skip_null", &c->list_skip_null);
	const struct yaml_node *max = rc == 0 ? yaml_get(n, "max") : NULL;
	int64_t v = 0;
	if (max != NULL && (!yaml_int(max, &v) || v < 1 || v > LIST_MAX_MAX))
		rc = yaml_fail(d->name, max, d->err, "max must be a number from 1 to %d",
			       LIST_MAX_MAX);
	c->list_max = (uint32_t)v;
	for (size_t i = 0; i < ARRAY_LEN(verbs) && rc == 0; i++) {
		const struct yaml_node *feed = yaml_get(n, keys[i]);
		if (feed == NULL)
			continue;
		fed = true;
		rc = parse_feed(d, s, feed, verbs[i]);
	}
	if (rc == 0 && !fed)
		rc = yaml_fail(d->name, n, d->err, "list needs init, add or remove");
	return rc;
}

static int parse_count(struct def *d, struct spec *s, const struct yaml_node *n)
{
	return parse_event_list(d, s, n, VERB_COUNT, NULL);
}

static int parse_sum(struct def *d, struct spec *s, const struct yaml_node *n)
{
	static const char *const keys[] = {"add", "subtract"};
	static const enum rollup_verb verbs[] = {VERB_ADD, VERB_SUBTRACT};
	int rc = def_expect(d, n, YAML_MAP, "sum");
	if (rc == 0)
		rc = def_check_keys(d, n, "sum", keys, ARRAY_LEN(keys));
	if (rc == 0 && n->count == 0)
		rc = yaml_fail(d->name, n, d->err, "sum needs add or subtract");
	for (size_t i = 0; i < ARRAY_LEN(verbs) && rc == 0; i++) {
		const struct yaml_node *feed = yaml_get(n, keys[i]);
		if (feed != NULL)
			rc = parse_feed(d, s, feed, verbs[i]);
	}
	return rc;
}

static int parse_min(struct def *d, struct spec *s, const struct yaml_node *n)
{
	return parse_feed(d, s, n, VERB_MIN);
}

static int parse_max(struct def *d, struct spec *s, const struct yaml_node *n)
{
	return parse_feed(d, s, n, VERB_MAX);
}

static int parse_first(struct def *d, struct spec *s, const struct yaml_node *n)
{
	return parse_feed(d, s, n, VERB_FIRST);
}

static int parse_merge(struct def *d, struct spec *s, const struct yaml_node *n)
{
	return parse_feed(d, s, n, VERB_MERGE);
}

/* Carry has no key of its own: every event that lists the column's name feeds it. */
static int parse_carry(struct def *d, struct spec *s, const struct yaml_node *n)
{
	const char **key = arena_alloc(d->arena, sizeof(*key));
	key[0] = s->column->name;
	const struct rollup_path path = {
		.from = FROM_PAYLOAD, .count = 1, .key = key, .text = s->column->name};
	for (uint16_t i = 0; i < d->r->event_count; i++) {
		int k = def_find_key(&d->event[i], s->column->name);
		if (k < 0 || k >= d->event[i].key_count)
			continue;
		int rc = add_action(d, s, s->at, i, VERB_CARRY, &path);
		if (rc != 0)
			return rc;
	}
	if (d->action_count == s->first_action)
		return yaml_fail(d->name, s->at, d->err,
				 "no event lists a key \"%s\" for this column to carry",
				 s->column->name);
	return 0;
}

static bool fits_any(struct pgt_type t)
{
	return true;
}

static bool fits_bool(struct pgt_type t)
{
	return !t.array && t.base == PGT_BOOL;
}

static bool fits_integer(struct pgt_type t)
{
	return !t.array && (t.base == PGT_INT2 || t.base == PGT_INT4 || t.base == PGT_INT8);
}

static bool fits_number(struct pgt_type t)
{
	return fits_integer(t) || (!t.array && t.base == PGT_NUMERIC);
}

static bool fits_jsonb(struct pgt_type t)
{
	return !t.array && t.base == PGT_JSONB;
}

static bool fits_list(struct pgt_type t)
{
	return t.array || t.base == PGT_JSONB;
}

static bool fits_ordered(struct pgt_type t)
{
	return !t.array && t.base != PGT_JSONB;
}

static const struct reducer {
	const char *name;
	int (*parse)(struct def *, struct spec *, const struct yaml_node *);
	bool (*fits)(struct pgt_type);
	const char *wants; /* what fits, for the message */
	const char *type;  /* of a column without type:, or NULL */
	bool clear; /* may `clear:` stand with it? Flags, lists and numbers are never NULL. */
} reducers[] = {
	[REDUCER_CARRY] = {"carry", parse_carry, fits_any, "", NULL, true},
	[REDUCER_SET] = {"set", parse_set, fits_any, "", NULL, true},
	[REDUCER_FLAG] = {"flag", parse_flag, fits_bool, "type bool", "bool", false},
	[REDUCER_LIST] = {"list", parse_list, fits_list, "an array or jsonb", NULL, false},
	[REDUCER_COUNT] = {"count", parse_count, fits_integer, "type int2, int4 or int8", "int8",
			   false},
	[REDUCER_SUM] = {"sum", parse_sum, fits_number, "type int2, int4, int8 or numeric", NULL,
			 false},
	[REDUCER_MIN] = {"min", parse_min, fits_ordered, "a type with an order", NULL, true},
	[REDUCER_MAX] = {"max", parse_max, fits_ordered, "a type with an order", NULL, true},
	[REDUCER_FIRST] = {"first", parse_first, fits_any, "", NULL, true},
	[REDUCER_MERGE] = {"merge", parse_merge, fits_jsonb, "type jsonb", NULL, true},
};
_Static_assert(ARRAY_LEN(reducers) == REDUCER_COUNT_, "every reducer has its line");

/* ---- columns ---- */

static int find_reducer(struct def *d, const struct yaml_node *spec, struct rollup_column *c,
			const struct yaml_node **ret)
{
	c->reducer = REDUCER_CARRY;
	for (size_t i = 0; i < spec->count; i++)
		for (int k = REDUCER_SET; k < REDUCER_COUNT_; k++) {
			if (strcmp(spec->key[i]->text, reducers[k].name) != 0)
				continue;
			if (c->reducer != REDUCER_CARRY)
				return yaml_fail(d->name, spec->key[i], d->err,
						 "column \"%s\" has both %s and %s", c->name,
						 reducers[c->reducer].name, reducers[k].name);
			c->reducer = (enum reducer_kind)k;
			*ret = spec->item[i];
		}
	return 0;
}

/* One of our types as SQL or another language spells it: in capitals, with a length, by a longer name. */
static bool guess_type(const char *text, struct pgt_type *ret)
{
	static const struct {
		const char *theirs, *ours;
	} names[] = {{"smallint", "int2"},	  {"int", "int4"},	  {"integer", "int4"},
		     {"bigint", "int8"},	  {"decimal", "numeric"}, {"boolean", "bool"},
		     {"string", "text"},	  {"char", "text"},	  {"json", "jsonb"},
		     {"timestamp", "timestamptz"}};
	char plain[32];
	size_t len = 0;
	const bool array = strchr(text, '[') != NULL;
	for (; *text != '\0' && strchr("([ ", *text) == NULL && len < sizeof(plain) - 1; text++)
		plain[len++] = (char)(*text >= 'A' && *text <= 'Z' ? *text + 32 : *text);
	plain[len] = '\0';
	const char *ours = plain;
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (strcmp(plain, names[i].theirs) == 0)
			ours = names[i].ours;
	bool found = pgt_parse_name(ours, ret);
	ret->array = array;
	return found;
}

static int unknown_type(struct def *d, const struct spec *s, const struct yaml_node *n)
{
	struct pgt_type near;
	if (n->kind == YAML_SCALAR && n->text[0] == '\0')
		return yaml_fail(d->name, n, d->err, "column \"%s\" needs a type", s->column->name);
	if (n->kind == YAML_SCALAR && guess_type(n->text, &near))
		return yaml_fail(d->name, n, d->err,
				 "column \"%s\" has an unknown type \"%s\"; did you mean \"%s\"?",
				 s->column->name, n->text, pgt_name(near));
	return yaml_fail(d->name, n, d->err,
			 "column \"%s\" has an unknown type%s%s%s: uuid, text, varchar, "
			 "int2, int4, int8, numeric, bool, date, timestamptz, jsonb, or "
			 "one of them with []",
			 s->column->name, n->kind == YAML_SCALAR ? " \"" : "",
			 n->kind == YAML_SCALAR ? n->text : "", n->kind == YAML_SCALAR ? "\"" : "");
}

static int parse_type(struct def *d, const struct spec *s, const struct yaml_node *n,
		      const struct yaml_node *at)
{
	const struct reducer *red = &reducers[s->column->reducer];
	struct rollup_column *c = s->column;
	if (n != NULL && (n->kind != YAML_SCALAR || !pgt_parse_name(n->text, &c->type)))
		return unknown_type(d, s, n);
	if (n == NULL && red->type == NULL)
		return yaml_fail(d->name, at, d->err, "column \"%s\" needs a type", c->name);
	if (n == NULL && !pgt_parse_name(red->type, &c->type))
		rt_bug(__FILE__, __LINE__, "a reducer's own type is unknown");
	if (!red->fits(c->type))
		return yaml_fail(d->name, n == NULL ? at : n, d->err,
				 "%s needs %s; column \"%s\" is %s", red->name, red->wants, c->name,
				 pgt_name(c->type));
	return 0;
}

static int parse_clear(struct def *d, const struct spec *s, const struct yaml_node *n)
{
	const struct reducer *red = &reducers[s->column->reducer];
	if (!red->clear)
		return yaml_fail(d->name, n, d->err,
				 "clear cannot stand with %s: column \"%s\" is never NULL",
				 red->name, s->column->name);
	return parse_event_list(d, s, n, VERB_CLEAR, NULL);
}

/* A reducer's own key that stands beside it. */
static int check_places(struct def *d, const struct yaml_node *spec)
{
	static const struct {
		const char *key, *inside;
	} places[] = {{"init", "list"},	  {"add", "list or sum"}, {"remove", "list"},
		      {"unique", "list"}, {"skip_null", "list"},  {"raise", "flag"},
		      {"lower", "flag"},  {"subtract", "sum"}};
	for (size_t i = 0; i < spec->count; i++) {
		if (strcmp(spec->key[i]->text, "carry") == 0)
			return yaml_fail(d->name, spec->key[i], d->err,
					 "carry is what a column does that names no reducer: "
					 "leave it out");
		for (size_t j = 0; j < ARRAY_LEN(places); j++)
			if (strcmp(spec->key[i]->text, places[j].key) == 0)
				return yaml_fail(d->name, spec->key[i], d->err,
						 "\"%s\" stands inside %s", places[j].key,
						 places[j].inside);
	}
	return 0;
}

static int parse_map_spec(struct def *d, struct spec *s, const struct yaml_node *spec)
{
	const char *names[REDUCER_COUNT_ + 3] = {"type", "description", "clear"};
	size_t n = 3;
	const struct yaml_node *body = NULL, *clear, *description;
	for (int k = REDUCER_SET; k < REDUCER_COUNT_; k++)
		names[n++] = reducers[k].name;
	int rc = check_places(d, spec);
	if (rc == 0)
		rc = def_check_keys(d, spec, "a column", names, n);
	if (rc == 0)
		rc = find_reducer(d, spec, s->column, &body);
	if (rc == 0)
		rc = parse_type(d, s, yaml_get(spec, "type"), s->at);
	description = yaml_get(spec, "description");
	if (rc == 0 && description != NULL)
		rc = def_text(d, description, "description", &s->column->description);
	if (rc == 0)
		rc = reducers[s->column->reducer].parse(d, s, body);
	clear = yaml_get(spec, "clear");
	if (rc == 0 && clear != NULL)
		rc = parse_clear(d, s, clear);
	return rc;
}

static int check_column_name(struct def *d, const struct yaml_node *n)
{
	static const char *const taken[] = {"id", "version", "created_at", "modified_at",
					    "event_type"};
	static const char *const system[] = {"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"};
	if (n->text[0] == '_')
		return yaml_fail(d->name, n, d->err,
				 "column \"%s\": names that start with _ are kept for the program",
				 n->text);
	for (size_t i = 0; i < ARRAY_LEN(taken); i++)
		if (strcmp(n->text, taken[i]) == 0)
			return yaml_fail(d->name, n, d->err, "column \"%s\": every rollup has it",
					 n->text);
	for (size_t i = 0; i < ARRAY_LEN(system); i++)
		if (strcmp(n->text, system[i]) == 0)
			return yaml_fail(d->name, n, d->err,
					 "column \"%s\": PostgreSQL keeps this name for itself",
					 n->text);
	return def_check_identifier(d, n, "column", COLUMN_NAME_MAX);
}

static int parse_column(struct def *d, uint16_t index, const struct yaml_node *name,
			const struct yaml_node *spec)
{
	struct spec s = {name, &d->column[index], index, d->action_count};
	int rc = check_column_name(d, name);
	if (rc != 0)
		return rc;
	s.column->name = name->text;
	s.column->line = name->line;
	switch (spec->kind) {
	case YAML_SCALAR:
		s.column->reducer = REDUCER_CARRY;
		rc = parse_type(d, &s, spec, name);
		return rc == 0 ? parse_carry(d, &s, NULL) : rc;
	case YAML_MAP:
		return parse_map_spec(d, &s, spec);
	case YAML_LIST:
		break;
	}
	return yaml_fail(d->name, spec, d->err, "column \"%s\" needs a type or a map", name->text);
}

/* An event that both initialises a list and adds to it only adds: to the list as it was before it. */
static bool is_void(const struct def *d, const struct def_action *a)
{
	if (a->act.verb != VERB_LIST_INIT)
		return false;
	for (size_t i = 0; i < d->action_count; i++)
		if (d->action[i].event == a->event && d->action[i].act.column == a->act.column &&
		    d->action[i].act.verb == VERB_LIST_ADD)
			return true;
	return false;
}

static void hand_out_actions(struct def *d)
{
	struct rollup_action **to = arena_zalloc(d->arena, d->r->event_count * sizeof(*to));
	size_t *total = arena_zalloc(d->arena, d->r->event_count * sizeof(*total));
	for (size_t i = 0; i < d->action_count; i++)
		total[d->action[i].event]++;
	for (uint16_t i = 0; i < d->r->event_count; i++) {
		to[i] = arena_zalloc(d->arena, total[i] * sizeof(**to));
		d->event[i].action = to[i];
	}
	for (size_t i = 0; i < d->action_count; i++) {
		const uint16_t e = d->action[i].event;
		if (!is_void(d, &d->action[i]))
			to[e][d->event[e].action_count++] = d->action[i].act;
	}
}

int def_columns(struct def *d, const struct yaml_node *columns)
{
	int rc = def_expect(d, columns, YAML_MAP, "columns");
	if (rc == 0 && (columns->count == 0 || columns->count > ROLLUP_COLUMNS_MAX))
		rc = yaml_fail(d->name, columns, d->err, "columns must name 1 to %d columns",
			       ROLLUP_COLUMNS_MAX);
	if (rc != 0)
		return rc;
	d->column = arena_zalloc(d->arena, columns->count * sizeof(*d->column));
	d->r->column = d->column;
	d->r->column_count = (uint16_t)columns->count;
	for (size_t i = 0; i < columns->count && rc == 0; i++)
		rc = parse_column(d, (uint16_t)i, columns->key[i], columns->item[i]);
	if (rc == 0)
		hand_out_actions(d);
	return rc;
}
