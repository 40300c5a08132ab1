/*
 * definition: reads a rollup's file. Guarantees: a rollup that loads can be
 * folded: every name in it is declared, every reducer fits its type, every
 * event does at most one thing to a column. definition_columns.c reads the
 * columns, definition_canonical.c writes what the fingerprint is taken of.
 */
#include "transforms/rollup/definition.h"

#include <xxhash.h>

#include "proto/base/fsio.h"
#include "transforms/rollup/definition_parse.h"

#define LANGUAGE       1
#define NAME_MAX_PG    63 /* bytes of a PostgreSQL name */
#define DEFINITION_MAX 999

int def_check_keys(struct def *d, const struct yaml_node *map, const char *what,
		   const char *const *names, size_t n)
{
	return yaml_check_keys(d->name, map, what, names, n, d->err);
}

int def_expect(struct def *d, const struct yaml_node *n, enum yaml_kind kind, const char *what)
{
	static const char *const kinds[] = {
		[YAML_SCALAR] = "a name", [YAML_LIST] = "a list", [YAML_MAP] = "a map"};
	if (n->kind == kind && (kind != YAML_SCALAR || n->text[0] != '\0'))
		return 0;
	return yaml_fail(d->name, n, d->err, "%s must be %s", what, kinds[kind]);
}

int def_text(struct def *d, const struct yaml_node *n, const char *what, const char **ret)
{
	if (n->kind != YAML_SCALAR)
		return yaml_fail(d->name, n, d->err, "%s must be text", what);
	*ret = n->text;
	return 0;
}

int def_check_identifier(struct def *d, const struct yaml_node *n, const char *what, size_t max)
{
	const char *s = n->text;
	bool good = s[0] >= 'a' && s[0] <= 'z';
	size_t len = 0;
	for (; good && s[len] != '\0'; len++)
		good = (s[len] >= 'a' && s[len] <= 'z') || (s[len] >= '0' && s[len] <= '9') ||
		       s[len] == '_';
	if (!good)
		return yaml_fail(d->name, n, d->err,
				 "%s \"%s\": a letter, then letters, digits and underscores, all "
				 "lower-case",
				 what, s);
	if (len > max)
		return yaml_fail(d->name, n, d->err, "%s \"%s\" is longer than %zu bytes", what, s,
				 max);
	return 0;
}

int def_find_event(struct def *d, const struct yaml_node *n)
{
	const char *names[ROLLUP_EVENTS_MAX];
	int rc = def_expect(d, n, YAML_SCALAR, "an event type");
	if (rc != 0)
		return rc;
	for (uint16_t i = 0; i < d->r->event_count; i++) {
		if (strcmp(d->event[i].name, n->text) == 0)
			return i;
		names[i] = d->event[i].name;
	}
	const char *near = yaml_nearest(n->text, names, d->r->event_count);
	if (near != NULL)
		return yaml_fail(d->name, n, d->err,
				 "event \"%s\" is not declared; did you mean \"%s\"?", n->text,
				 near);
	return yaml_fail(d->name, n, d->err, "event \"%s\" is not declared", n->text);
}

int def_find_key(const struct rollup_event *e, const char *key)
{
	for (uint16_t i = 0; i < e->key_count; i++)
		if (strcmp(e->key[i].name, key) == 0)
			return i;
	if (strcmp(key, "id") == 0)
		return e->key_count + ROLLUP_KEY_ID;
	if (strcmp(key, "type") == 0)
		return e->key_count + ROLLUP_KEY_TYPE;
	return -1;
}

/* ---- the top of the file ---- */

static int parse_text(struct def *d, const struct yaml_node *root, const char *key,
		      const char **ret)
{
	const struct yaml_node *n = yaml_get(root, key);
	if (n == NULL)
		return 0;
	int rc = def_expect(d, n, YAML_SCALAR, key);
	if (rc == 0)
		*ret = n->text;
	return rc;
}

static int parse_required(struct def *d, const struct yaml_node *root, const char *key,
			  const struct yaml_node **ret)
{
	const struct yaml_node *n = yaml_get(root, key);
	if (n == NULL)
		return yaml_fail(d->name, root, d->err, "\"%s\" is missing", key);
	*ret = n;
	return 0;
}

static int parse_language(struct def *d, const struct yaml_node *root)
{
	const struct yaml_node *n;
	int64_t v;
	int rc = parse_required(d, root, "language", &n);
	if (rc == 0 && (!yaml_int(n, &v) || v != LANGUAGE))
		rc = yaml_fail(d->name, n, d->err, "this program reads language %d", LANGUAGE);
	return rc;
}

/* "…_latest" and "…__d2" are the tables that the program makes beside a rollup's own. */
static bool is_kept_name(const char *name)
{
	const size_t len = strlen(name);
	const char *d = strstr(name, "__d");
	if (len >= 7 && strcmp(name + len - 7, "_latest") == 0)
		return true;
	for (; d != NULL; d = strstr(d + 1, "__d"))
		if (d[3] != '\0' && d[3 + strspn(d + 3, "0123456789")] == '\0')
			return true;
	return false;
}

static int parse_name(struct def *d, const struct yaml_node *root)
{
	const struct yaml_node *n;
	int rc = parse_required(d, root, "rollup", &n);
	if (rc == 0)
		rc = def_expect(d, n, YAML_SCALAR, "rollup");
	if (rc == 0)
		rc = def_check_identifier(d, n, "rollup", ROLLUP_NAME_MAX);
	if (rc == 0 && is_kept_name(n->text))
		rc = yaml_fail(d->name, n, d->err,
			       "rollup \"%s\": names that end so are kept for the program",
			       n->text);
	if (rc == 0)
		d->r->name = n->text;
	return rc;
}

static int parse_source(struct def *d, const struct yaml_node *root)
{
	const struct yaml_node *n;
	int rc = parse_required(d, root, "source", &n);
	if (rc == 0)
		rc = def_expect(d, n, YAML_SCALAR, "source");
	if (rc != 0)
		return rc;
	const char *dot = strchr(n->text, '.');
	if (dot == NULL || dot == n->text || dot[1] == '\0' || strchr(dot + 1, '.') != NULL)
		return yaml_fail(d->name, n, d->err, "source must be schema.table");
	if (dot - n->text > NAME_MAX_PG || strlen(dot + 1) > NAME_MAX_PG)
		return yaml_fail(d->name, n, d->err, "a name in source is longer than %d bytes",
				 NAME_MAX_PG);
	d->r->source_schema = arena_strndup(d->arena, n->text, (size_t)(dot - n->text));
	d->r->source_table = dot + 1;
	return 0;
}

static int parse_definition(struct def *d, const struct yaml_node *root)
{
	const struct yaml_node *n = yaml_get(root, "definition");
	int64_t v = 1;
	if (n != NULL && (!yaml_int(n, &v) || v < 1 || v > DEFINITION_MAX))
		return yaml_fail(d->name, n, d->err, "definition must be a number from 1 to %d",
				 DEFINITION_MAX);
	d->r->definition = (int32_t)v;
	return 0;
}

static int parse_source_columns(struct def *d, const struct yaml_node *root)
{
	static const char *const names[] = {"id", "sequence", "event_type", "event", "recorded_at"};
	const char **to[] = {&d->r->source_column.id, &d->r->source_column.sequence,
			     &d->r->source_column.event_type, &d->r->source_column.event,
			     &d->r->source_column.recorded_at};
	const struct yaml_node *map = yaml_get(root, "source_columns");
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		*to[i] = names[i];
	if (map == NULL)
		return 0;
	int rc = def_expect(d, map, YAML_MAP, "source_columns");
	if (rc == 0)
		rc = def_check_keys(d, map, "source_columns", names, ARRAY_LEN(names));
	for (size_t i = 0; i < ARRAY_LEN(names) && rc == 0; i++)
		rc = parse_text(d, map, names[i], to[i]);
	for (size_t i = 0; i < ARRAY_LEN(names) && rc == 0; i++)
		for (size_t j = 0; j < ARRAY_LEN(names); j++)
			if (i != j && yaml_get(map, names[i]) != NULL &&
			    (j < i || yaml_get(map, names[j]) == NULL) &&
			    strcmp(*to[i], *to[j]) == 0)
				return yaml_fail(d->name, yaml_get(map, names[i]), d->err,
						 "source_columns names \"%s\" twice", *to[i]);
	return rc;
}

static int parse_id_type(struct def *d, const struct yaml_node *root)
{
	static const char *const names[] = {"uuid", "varchar", "text", "int4", "int8"};
	static const enum pgt types[] = {PGT_UUID, PGT_VARCHAR, PGT_TEXT, PGT_INT4, PGT_INT8};
	const struct yaml_node *n = yaml_get(root, "id_type");
	d->r->id_type = PGT_UUID;
	if (n == NULL)
		return 0;
	for (size_t i = 0; n->kind == YAML_SCALAR && i < ARRAY_LEN(names); i++)
		if (strcmp(n->text, names[i]) == 0) {
			d->r->id_type = types[i];
			return 0;
		}
	return yaml_fail(d->name, n, d->err, "id_type must be uuid, varchar, text, int4 or int8");
}

static int parse_timezone(struct def *d, const struct yaml_node *root)
{
	const struct yaml_node *n = yaml_get(root, "timezone");
	const char *name = "UTC";
	int rc = parse_text(d, root, "timezone", &name);
	if (rc != 0)
		return rc;
	d->r->zone_name = name;
	d->r->zone = pgt_zone_load(name);
	if (d->r->zone == NULL)
		return yaml_fail(d->name, n == NULL ? root : n, d->err,
				 "time zone \"%s\" is not known here", name);
	return 0;
}

static const char *const policy_names[] = {
	[POLICY_DEFAULT] = "default",
	[POLICY_FAIL] = "fail",
	[POLICY_WARN] = "warn",
	[POLICY_IGNORE] = "ignore",
	[POLICY_QUARANTINE] = "quarantine",
	[POLICY_REPAIR] = "repair",
};

const char *rollup_policy_name(enum rollup_policy policy)
{
	return policy_names[policy];
}

static int parse_policy(struct def *d, const struct yaml_node *root, const char *key,
			const enum rollup_policy *of, size_t count, enum rollup_policy *ret)
{
	const struct yaml_node *n = yaml_get(root, key);
	char list[64] = "";
	if (n == NULL)
		return 0;
	for (size_t i = 0; i < count; i++) {
		size_t len = strlen(list);
		if (n->kind == YAML_SCALAR && strcmp(n->text, policy_names[of[i]]) == 0) {
			*ret = of[i];
			return 0;
		}
		snprintf(list + len, sizeof(list) - len, "%s%s",
			 i == 0		  ? ""
			 : i + 1 == count ? " or "
					  : ", ",
			 policy_names[of[i]]);
	}
	return yaml_fail(d->name, n, d->err, "%s must be %s", key, list);
}

static int parse_policies(struct def *d, const struct yaml_node *root)
{
	static const enum rollup_policy event[] = {POLICY_QUARANTINE, POLICY_FAIL, POLICY_IGNORE};
	static const enum rollup_policy key[] = {POLICY_WARN, POLICY_QUARANTINE, POLICY_FAIL,
						 POLICY_IGNORE};
	static const enum rollup_policy gap[] = {POLICY_REPAIR, POLICY_QUARANTINE, POLICY_FAIL};
	int rc = parse_policy(d, root, "unknown_event", event, ARRAY_LEN(event),
			      &d->r->unknown_event);
	if (rc == 0)
		rc = parse_policy(d, root, "unknown_key", key, ARRAY_LEN(key), &d->r->unknown_key);
	if (rc == 0)
		rc = parse_policy(d, root, "gap", gap, ARRAY_LEN(gap), &d->r->gap);
	return rc;
}

/* ---- events ---- */

static int compare_key_names(const void *a, const void *b)
{
	const struct rollup_key *x = a, *y = b;
	if (x->len != y->len)
		return x->len < y->len ? -1 : 1;
	return memcmp(x->name, y->name, x->len);
}

static int parse_key(struct def *d, const struct yaml_node *n, struct rollup_key *ret)
{
	int rc = def_expect(d, n, YAML_SCALAR, "a payload key");
	if (rc != 0)
		return rc;
	size_t len = strlen(n->text);
	ret->optional = n->text[len - 1] == '?';
	ret->len = len - ret->optional;
	ret->name = arena_strndup(d->arena, n->text, ret->len);
	if (ret->len == 0)
		return yaml_fail(d->name, n, d->err, "a payload key must have a name");
	for (const char *s = ret->name; *s != '\0'; s++)
		if ((unsigned char)*s < ' ' || *s == '"' || *s == '\\' || *s == '.' || *s == '$')
			return yaml_fail(d->name, n, d->err,
					 "key \"%s\": quotes, backslashes, dots, $ and control "
					 "characters are not supported",
					 ret->name);
	if (ret->name[0] == ' ' || ret->name[ret->len - 1] == ' ')
		return yaml_fail(d->name, n, d->err, "key \"%s\" begins or ends with a space",
				 ret->name);
	if (strcmp(ret->name, "id") == 0 || strcmp(ret->name, "type") == 0)
		return yaml_fail(d->name, n, d->err, "key \"%s\" is implied: leave it out",
				 ret->name);
	return 0;
}

static int parse_event(struct def *d, const struct yaml_node *name, const struct yaml_node *keys,
		       struct rollup_event *ret)
{
	if (name->text[0] == '\0')
		return yaml_fail(d->name, name, d->err, "an event type must have a name");
	if (keys->kind != YAML_LIST)
		return yaml_fail(d->name, keys, d->err,
				 "event \"%s\" needs the list of its payload keys ([]: none)",
				 name->text);
	if (keys->count > ROLLUP_KEYS_MAX)
		return yaml_fail(d->name, keys, d->err, "event \"%s\" has more than %d keys",
				 name->text, ROLLUP_KEYS_MAX);
	struct rollup_key *key = arena_zalloc(d->arena, keys->count * sizeof(*key));
	for (size_t i = 0; i < keys->count; i++) {
		int rc = parse_key(d, keys->item[i], &key[i]);
		if (rc != 0)
			return rc;
		for (size_t j = 0; j < i; j++)
			if (strcmp(key[i].name, key[j].name) == 0)
				return yaml_fail(d->name, keys->item[i], d->err,
						 "key \"%s\" stands twice", key[i].name);
	}
	if (keys->count > 1)
		qsort(key, keys->count, sizeof(*key), compare_key_names);
	*ret = (struct rollup_event){.name = name->text,
				     .name_len = strlen(name->text),
				     .key_count = (uint16_t)keys->count,
				     .key = key};
	return 0;
}

static int parse_events(struct def *d, const struct yaml_node *root)
{
	const struct yaml_node *map;
	int rc = parse_required(d, root, "events", &map);
	if (rc == 0)
		/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): set where rc is 0 */
		rc = map->kind == YAML_MAP ? 0
					   : yaml_fail(d->name, map, d->err,
						       "events must be a map of event types, each "
						       "with the list of its payload keys");
	if (rc == 0 && (map->count == 0 || map->count > ROLLUP_EVENTS_MAX))
		rc = yaml_fail(d->name, map, d->err, "events must name 1 to %d event types",
			       ROLLUP_EVENTS_MAX);
	if (rc != 0)
		return rc;
	d->event = arena_zalloc(d->arena, map->count * sizeof(*d->event));
	for (size_t i = 0; i < map->count && rc == 0; i++)
		rc = parse_event(d, map->key[i], map->item[i], &d->event[i]);
	d->r->event = d->event;
	d->r->event_count = (uint16_t)map->count;
	return rc;
}

static int parse_root(struct def *d, const struct yaml_node *root)
{
	static const char *const keys[] = {"language",	  "rollup",	 "source",
					   "definition",  "description", "source_columns",
					   "id_type",	  "timezone",	 "unknown_event",
					   "unknown_key", "gap",	 "events",
					   "columns"};
	static int (*const parts[])(struct def *, const struct yaml_node *) = {
		parse_language,	  parse_name,		parse_source,
		parse_definition, parse_source_columns, parse_id_type,
		parse_timezone,	  parse_policies,	parse_events};
	const struct yaml_node *columns, *description = yaml_get(root, "description");
	int rc = def_expect(d, root, YAML_MAP, "the file");
	if (rc == 0)
		rc = def_check_keys(d, root, "a rollup", keys, ARRAY_LEN(keys));
	for (size_t i = 0; i < ARRAY_LEN(parts) && rc == 0; i++)
		rc = parts[i](d, root);
	if (rc == 0 && description != NULL)
		rc = def_text(d, description, "description", &d->r->description);
	if (rc == 0)
		rc = parse_required(d, root, "columns", &columns);
	if (rc == 0)
		rc = def_columns(d, columns);
	return rc;
}

int rollup_parse(struct arena *a, const char *name, const char *text, size_t len,
		 struct rollup **ret, struct rt_err *err)
{
	struct def d = {.arena = a, .name = arena_strdup(a, name), .err = err};
	struct buf canonical = BUF_INIT;
	struct yaml_node *root;
	d.r = arena_zalloc(a, sizeof(*d.r));
	d.r->file = d.name;
	d.r->text = arena_strndup(a, text, len);
	int rc = yaml_parse(a, d.name, text, len, &root, err);
	if (rc == 0)
		rc = parse_root(&d, root);
	if (rc != 0) {
		rollup_release(d.r);
		return rc;
	}
	rollup_canonical(d.r, &canonical);
	d.r->fingerprint = XXH3_64bits(canonical.p, canonical.len);
	buf_release(&canonical);
	*ret = d.r;
	return 0;
}

int rollup_load(struct arena *a, const char *path, struct rollup **ret, struct rt_err *err)
{
	char *text;
	size_t len;
	int rc = fs_read_file(path, YAML_FILE_MAX_BYTES, &text, &len, err);
	if (rc != 0)
		return rc;
	rc = rollup_parse(a, path, text, len, ret, err);
	free(text);
	return rc;
}

void rollup_release(struct rollup *r)
{
	if (r == NULL)
		return;
	if (r->zone != NULL)
		pgt_zone_free(r->zone);
	r->zone = NULL;
}

void rollup_set_policies(struct rollup *r, enum rollup_policy unknown_event,
			 enum rollup_policy unknown_key, enum rollup_policy gap)
{
	if (r->unknown_event == POLICY_DEFAULT)
		r->unknown_event = unknown_event;
	if (r->unknown_key == POLICY_DEFAULT)
		r->unknown_key = unknown_key;
	if (r->gap == POLICY_DEFAULT)
		r->gap = gap;
}

const struct rollup_event *rollup_find_event(const struct rollup *r, struct slice name)
{
	for (uint16_t i = 0; i < r->event_count; i++)
		if (slice_eq(name, slice_of(r->event[i].name, r->event[i].name_len)))
			return &r->event[i];
	return NULL;
}
