/* yaml: libyaml's events into a tree. Guarantees: every node has its place; nothing ambiguous is accepted. */
#include "proto/base/yaml.h"

#include <errno.h>
#include <stdio.h>
#include <yaml.h>

struct parse {
	struct arena *arena;
	const char *name;
	const char *text;
	size_t len;
	yaml_parser_t parser;
	struct rt_err *err;
};

static int fail_at(struct parse *p, yaml_mark_t mark, const char *what)
{
	return rt_fail(p->err, ERR_PERMANENT, "%s:%zu:%zu: %s", p->name, mark.line + 1,
		       mark.column + 1, what);
}

/* libyaml tells where bytes are no text by their offset only. */
static yaml_mark_t mark_of(const struct parse *p, size_t offset)
{
	yaml_mark_t mark = {0};
	for (size_t i = 0; i < offset && i < p->len; i++) {
		if (p->text[i] == '\n') {
			mark.line++;
			mark.column = 0;
		} else if (((unsigned char)p->text[i] & 0xC0) != 0x80) {
			mark.column++;
		}
	}
	return mark;
}

static int next_event(struct parse *p, yaml_event_t *event)
{
	if (yaml_parser_parse(&p->parser, event))
		return 0;
	const char *problem = p->parser.problem != NULL ? p->parser.problem : "not valid YAML";
	if (p->parser.error == YAML_READER_ERROR)
		return fail_at(p, mark_of(p, p->parser.problem_offset), problem);
	if (strcmp(problem, "did not find expected ',' or '}'") == 0)
		problem = "did not find expected ',' or '}' (a text with brackets, braces, commas "
			  "or colons in it needs quotes)";
	return fail_at(p, p->parser.problem_mark, problem);
}

static int parse_node(struct parse *p, yaml_event_t *event, int depth, struct yaml_node **ret);

/* The children of a list or map, until end; a map's keys and values alternate in *ret. */
static int parse_children(struct parse *p, yaml_event_type_t end, int depth,
			  struct yaml_node ***ret, size_t *ret_count)
{
	size_t n = 0, cap = 0;
	struct yaml_node **child = NULL;
	for (;;) {
		yaml_event_t event;
		int rc = next_event(p, &event);
		if (rc != 0)
			return rc;
		if (event.type == end) {
			yaml_event_delete(&event);
			break;
		}
		if (n == cap) {
			cap = cap == 0 ? 8 : cap * 2;
			struct yaml_node **more = arena_alloc(p->arena, cap * sizeof(*more));
			if (n > 0)
				memcpy(more, child, n * sizeof(*more));
			child = more;
		}
		rc = parse_node(p, &event, depth + 1, &child[n]);
		yaml_event_delete(&event);
		if (rc != 0)
			return rc;
		n++;
	}
	*ret = child;
	*ret_count = n;
	return 0;
}

static int split_map(struct parse *p, struct yaml_node *map, struct yaml_node **child, size_t n)
{
	map->count = n / 2;
	map->key = arena_alloc(p->arena, map->count * sizeof(*map->key));
	map->item = arena_alloc(p->arena, map->count * sizeof(*map->item));
	for (size_t i = 0; i < map->count; i++) {
		struct yaml_node *key = child[2 * i];
		if (key->kind != YAML_SCALAR)
			return yaml_fail(p->name, key, p->err, "a key must be a plain name");
		for (size_t j = 0; j < i; j++)
			if (strcmp(map->key[j]->text, key->text) == 0)
				return yaml_fail(p->name, key, p->err,
						 "key \"%s\" stands twice (first in line %d)",
						 key->text, map->key[j]->line);
		map->key[i] = key;
		map->item[i] = child[2 * i + 1];
	}
	return 0;
}

static int parse_scalar(struct parse *p, const yaml_event_t *event, struct yaml_node *node)
{
	const char *text = (const char *)event->data.scalar.value;
	size_t len = event->data.scalar.length;
	if (memchr(text, '\0', len) != NULL)
		return fail_at(p, event->start_mark, "a NUL character is not allowed");
	node->text = arena_strndup(p->arena, text, len);
	node->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
	return 0;
}

static int refuse_tag(struct parse *p, const yaml_event_t *event, const void *anchor,
		      const void *tag)
{
	if (anchor != NULL)
		return fail_at(p, event->start_mark, "anchors are not supported");
	if (tag != NULL)
		return fail_at(p, event->start_mark, "tags are not supported");
	return 0;
}

static int parse_node(struct parse *p, yaml_event_t *event, int depth, struct yaml_node **ret)
{
	struct yaml_node **child;
	size_t n;
	int rc;
	if (depth > YAML_DEPTH_MAX)
		return fail_at(p, event->start_mark, "nested too deeply");
	struct yaml_node *node = arena_zalloc(p->arena, sizeof(*node));
	node->line = (int)event->start_mark.line + 1;
	node->column = (int)event->start_mark.column + 1;
	switch ((int)event->type) {
	case YAML_SCALAR_EVENT:
		node->kind = YAML_SCALAR;
		rc = refuse_tag(p, event, event->data.scalar.anchor, event->data.scalar.tag);
		if (rc == 0)
			rc = parse_scalar(p, event, node);
		break;
	case YAML_SEQUENCE_START_EVENT:
		node->kind = YAML_LIST;
		rc = refuse_tag(p, event, event->data.sequence_start.anchor,
				event->data.sequence_start.tag);
		if (rc == 0)
			rc = parse_children(p, YAML_SEQUENCE_END_EVENT, depth, &node->item,
					    &node->count);
		break;
	case YAML_MAPPING_START_EVENT:
		node->kind = YAML_MAP;
		rc = refuse_tag(p, event, event->data.mapping_start.anchor,
				event->data.mapping_start.tag);
		if (rc == 0)
			rc = parse_children(p, YAML_MAPPING_END_EVENT, depth, &child, &n);
		if (rc == 0)
			rc = split_map(p, node, child, n);
		break;
	case YAML_ALIAS_EVENT:
		return fail_at(p, event->start_mark, "aliases are not supported");
	default:
		return fail_at(p, event->start_mark, "a value is expected");
	}
	if (rc == 0)
		*ret = node;
	return rc;
}

/* Skips the stream's and document's start; *ret is the first content event. */
static int first_content(struct parse *p, yaml_event_t *ret)
{
	for (;;) {
		int rc = next_event(p, ret);
		if (rc != 0)
			return rc;
		if (ret->type != YAML_STREAM_START_EVENT && ret->type != YAML_DOCUMENT_START_EVENT)
			return 0;
		yaml_event_delete(ret);
	}
}

static int expect_end(struct parse *p)
{
	yaml_event_t event;
	for (;;) {
		int rc = next_event(p, &event);
		if (rc != 0)
			return rc;
		yaml_event_type_t type = event.type;
		yaml_mark_t mark = event.start_mark;
		yaml_event_delete(&event);
		if (type == YAML_STREAM_END_EVENT)
			return 0;
		if (type != YAML_DOCUMENT_END_EVENT)
			return fail_at(p, mark, "only one document is allowed");
	}
}

int yaml_parse(struct arena *a, const char *name, const char *text, size_t len,
	       struct yaml_node **ret, struct rt_err *err)
{
	static const char bom[] = "\xEF\xBB\xBF"; /* what some editors begin a file with */
	if (len >= 3 && memcmp(text, bom, 3) == 0) {
		text += 3;
		len -= 3;
	}
	struct parse p = {.arena = a, .name = name, .text = text, .len = len, .err = err};
	struct yaml_node *root = NULL;
	yaml_event_t event;
	if (!yaml_parser_initialize(&p.parser))
		rt_bug(__FILE__, __LINE__, "yaml_parser_initialize");
	yaml_parser_set_encoding(&p.parser, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&p.parser, (const unsigned char *)text, len);
	int rc = first_content(&p, &event);
	if (rc != 0)
		goto out;
	if (event.type == YAML_STREAM_END_EVENT)
		rc = rt_fail(err, ERR_PERMANENT, "%s:1:1: the file is empty", name);
	else
		rc = parse_node(&p, &event, 1, &root);
	yaml_event_delete(&event);
	if (rc == 0)
		rc = expect_end(&p);
	if (rc == 0)
		*ret = root;
out:
	yaml_parser_delete(&p.parser);
	return rc;
}

struct yaml_node *yaml_get(const struct yaml_node *map, const char *key)
{
	for (size_t i = 0; map->kind == YAML_MAP && i < map->count; i++)
		if (strcmp(map->key[i]->text, key) == 0)
			return map->item[i];
	return NULL;
}

int yaml_fail(const char *name, const struct yaml_node *at, struct rt_err *err, const char *fmt,
	      ...)
{
	char text[768];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return rt_fail(err, ERR_PERMANENT, "%s:%d:%d: %s", name, at->line, at->column, text);
}

bool yaml_is_null(const struct yaml_node *n)
{
	return n->kind == YAML_SCALAR && !n->quoted &&
	       (n->text[0] == '\0' || strcmp(n->text, "~") == 0 || strcmp(n->text, "null") == 0);
}

bool yaml_bool(const struct yaml_node *n, bool *ret)
{
	if (n->kind != YAML_SCALAR || n->quoted)
		return false;
	if (strcmp(n->text, "true") != 0 && strcmp(n->text, "false") != 0)
		return false;
	*ret = n->text[0] == 't';
	return true;
}

bool yaml_int(const struct yaml_node *n, int64_t *ret)
{
	char *end;
	if (n->kind != YAML_SCALAR || n->text[0] == '\0' || n->text[0] == ' ')
		return false;
	errno = 0;
	long long v = strtoll(n->text, &end, 10);
	if (*end != '\0' || errno != 0)
		return false;
	*ret = v;
	return true;
}

static size_t edit_distance(const char *a, const char *b)
{
	enum { MAX = 64 };
	size_t row[MAX + 1], n = strlen(b);
	if (n > MAX || strlen(a) > MAX)
		return SIZE_MAX;
	for (size_t j = 0; j <= n; j++)
		row[j] = j;
	for (size_t i = 1; a[i - 1] != '\0'; i++) {
		size_t diagonal = row[0];
		row[0] = i;
		for (size_t j = 1; j <= n; j++) {
			size_t above = row[j];
			size_t best = RT_MIN(above, row[j - 1]) + 1;
			row[j] = RT_MIN(best, diagonal + (a[i - 1] != b[j - 1]));
			diagonal = above;
		}
	}
	return row[n];
}

const char *yaml_nearest(const char *word, const char *const *names, size_t n)
{
	const char *best = NULL;
	size_t limit = RT_MAX(strlen(word) / 3, (size_t)2) + 1;
	for (size_t i = 0; i < n; i++) {
		size_t d = edit_distance(word, names[i]);
		if (d < limit) {
			limit = d;
			best = names[i];
		}
	}
	return best;
}

int yaml_check_keys(const char *name, const struct yaml_node *map, const char *what,
		    const char *const *names, size_t n, struct rt_err *err)
{
	for (size_t i = 0; i < map->count; i++) {
		const char *key = map->key[i]->text;
		size_t j = 0;
		while (j < n && strcmp(names[j], key) != 0)
			j++;
		if (j < n)
			continue;
		const char *near = yaml_nearest(key, names, n);
		return yaml_fail(name, map->key[i], err, "%s has no key \"%s\"%s%s%s", what, key,
				 near != NULL ? "; did you mean \"" : "", near != NULL ? near : "",
				 near != NULL ? "\"?" : "");
	}
	return 0;
}
