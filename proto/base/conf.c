/* conf: table-driven configuration. Guarantees: a value that is out of range or unknown never gets through. */
#include "proto/base/conf.h"

#include <errno.h>
#include <inttypes.h>

#include "proto/base/yaml.h"

struct unit {
	const char *name;
	int64_t factor;
};

static const struct unit byte_units[] = {{"", 1},
					 {"B", 1},
					 {"kB", INT64_C(1) << 10},
					 {"MB", INT64_C(1) << 20},
					 {"GB", INT64_C(1) << 30},
					 {"TB", INT64_C(1) << 40}};
static const struct unit time_units[] = {{"us", 1},
					 {"ms", 1000},
					 {"s", 1000000},
					 {"min", 60 * INT64_C(1000000)},
					 {"h", 3600 * INT64_C(1000000)},
					 {"d", 86400 * INT64_C(1000000)}};

static bool parse_united(const char *text, const struct unit *units, size_t count, int64_t *ret)
{
	char *end;
	errno = 0;
	long long n = strtoll(text, &end, 10);
	if (end == text || errno != 0 || n < 0)
		return false;
	while (*end == ' ')
		end++;
	if (n == 0 && *end == '\0') { /* nothing is nothing in every unit */
		*ret = 0;
		return true;
	}
	for (size_t i = 0; i < count; i++)
		if (strcmp(units[i].name, end) == 0)
			return !__builtin_mul_overflow((int64_t)n, units[i].factor, ret);
	return false;
}

bool conf_parse_bytes(const char *text, uint64_t *ret)
{
	int64_t v;
	if (!parse_united(text, byte_units, ARRAY_LEN(byte_units), &v))
		return false;
	*ret = (uint64_t)v;
	return true;
}

bool conf_parse_duration(const char *text, int64_t *ret)
{
	return parse_united(text, time_units, ARRAY_LEN(time_units), ret);
}

static const char not_allowed[] = "is none of the values allowed";
static const char out_of_range[] = "is out of range";

/* Sets the field from text; NULL, or what is wrong with it. */
static const char *set_scalar(const struct conf_key *k, const char *text, void *field)
{
	int64_t v = 0;
	uint64_t u = 0;
	struct yaml_node n = {.kind = YAML_SCALAR, .text = text};
	switch (k->type) {
	case CONF_STRING:
		*(const char **)field = text;
		return NULL;
	case CONF_INT:
		if (!yaml_int(&n, &v))
			return "is not a whole number";
		break;
	case CONF_BYTES:
		if (!conf_parse_bytes(text, &u))
			return "is not a size such as 64 MB (units kB MB GB TB)";
		v = (int64_t)u;
		break;
	case CONF_DURATION:
		if (!conf_parse_duration(text, &v))
			return "is not a duration such as 100 ms (units us ms s min h d)";
		break;
	case CONF_BOOL:
		return yaml_bool(&n, field) ? NULL : "is neither true nor false";
	case CONF_ENUM:
		for (int i = 0; k->names[i] != NULL; i++)
			if (strcmp(k->names[i], text) == 0) {
				*(int *)field = i;
				return NULL;
			}
		return not_allowed;
	case CONF_LIST:
		return "must be a list";
	}
	if ((k->min != 0 || k->max != 0) && (v < k->min || v > k->max))
		return out_of_range;
	*(int64_t *)field = v; /* CONF_BYTES too: same size, never negative */
	return NULL;
}

/* The value of one key in the unit that reads best. */
static void print_quantity(const struct conf_key *k, int64_t v, struct buf *out)
{
	const struct unit *u = k->type == CONF_BYTES ? byte_units : time_units;
	size_t n = k->type == CONF_BYTES ? ARRAY_LEN(byte_units) : ARRAY_LEN(time_units);
	size_t best = 0;
	for (size_t i = 0; i < n; i++)
		if (v != 0 && v % u[i].factor == 0)
			best = i;
	buf_printf(out, "%" PRId64 "%s%s", v / u[best].factor, u[best].name[0] == '\0' ? "" : " ",
		   u[best].name);
}

static void print_range(const struct conf_key *k, struct buf *out)
{
	if (k->type == CONF_INT) {
		buf_printf(out, "%" PRId64 " to %" PRId64, k->min, k->max);
		return;
	}
	print_quantity(k, k->min, out);
	buf_str(out, " to ");
	print_quantity(k, k->max, out);
}

static void print_names(const struct conf_key *k, struct buf *out)
{
	for (int i = 0; k->names[i] != NULL; i++)
		buf_printf(out, "%s%s", i > 0 ? " " : "", k->names[i]);
}

/* What is wrong with a scalar, and what would be right. */
static int bad_scalar(const struct conf_key *k, const char *path, const struct yaml_node *at,
		      const char *wrong, struct rt_err *err)
{
	struct buf right = BUF_INIT;
	if (wrong == not_allowed)
		print_names(k, &right);
	else if (wrong == out_of_range)
		print_range(k, &right);
	int rc = yaml_fail(path, at, err, "%s %s%s%s", k->name, wrong, right.len > 0 ? ": " : "",
			   buf_cstr(&right));
	buf_release(&right);
	return rc;
}

void conf_defaults(const struct conf_key *keys, size_t count, void *settings)
{
	for (size_t i = 0; i < count; i++) {
		void *field = (char *)settings + keys[i].offset;
		if (keys[i].type == CONF_LIST)
			*(struct conf_list *)field = (struct conf_list){0, NULL};
		else if (keys[i].init == NULL)
			*(const char **)field = NULL;
		else
			RT_ASSERT(set_scalar(&keys[i], keys[i].init, field) == NULL);
	}
}

static const struct conf_key *find_key(const struct conf_key *keys, size_t count, const char *name)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(keys[i].name, name) == 0)
			return &keys[i];
	return NULL;
}

static bool is_section(const struct conf_key *keys, size_t count, const char *name)
{
	size_t n = strlen(name);
	for (size_t i = 0; i < count; i++)
		if (strncmp(keys[i].name, name, n) == 0 && keys[i].name[n] == '.')
			return true;
	return false;
}

static int unknown_key(const struct conf_key *keys, size_t count, const char *path,
		       const struct yaml_node *at, const char *name, struct rt_err *err)
{
	const char **names = rt_malloc(count * sizeof(*names));
	for (size_t i = 0; i < count; i++)
		names[i] = keys[i].name;
	const char *near = yaml_nearest(name, names, count);
	free(names);
	if (near != NULL)
		return yaml_fail(path, at, err, "unknown key %s; did you mean %s?", name, near);
	return yaml_fail(path, at, err, "unknown key %s", name);
}

static int set_list(const struct conf_key *k, const char *path, const struct yaml_node *value,
		    struct arena *a, struct conf_list *ret, struct rt_err *err)
{
	if (value->kind != YAML_LIST)
		return yaml_fail(path, value, err, "%s must be a list", k->name);
	const char **item = arena_alloc(a, value->count * sizeof(*item));
	for (size_t i = 0; i < value->count; i++) {
		if (value->item[i]->kind != YAML_SCALAR)
			return yaml_fail(path, value->item[i], err, "%s must be a list of names",
					 k->name);
		item[i] = value->item[i]->text;
	}
	*ret = (struct conf_list){value->count, item};
	return 0;
}

static int read_map(const struct conf_key *keys, size_t count, const char *path, const char *prefix,
		    const struct yaml_node *map, struct arena *a, bool *seen, void *settings,
		    struct rt_err *err)
{
	for (size_t i = 0; i < map->count; i++) {
		const struct yaml_node *value = map->item[i];
		const char *name = arena_printf(a, "%s%s%s", prefix, prefix[0] == '\0' ? "" : ".",
						map->key[i]->text);
		const struct conf_key *k = find_key(keys, count, name);
		int rc = 0;
		if (k == NULL && is_section(keys, count, name)) {
			if (value->kind == YAML_MAP)
				rc = read_map(keys, count, path, name, value, a, seen, settings,
					      err);
			else if (!yaml_is_null(value))
				rc = yaml_fail(path, value, err, "%s is a section of keys", name);
		} else if (k == NULL) {
			rc = unknown_key(keys, count, path, map->key[i], name, err);
		} else if (k->type == CONF_LIST) {
			rc = set_list(k, path, value, a,
				      (struct conf_list *)((char *)settings + k->offset), err);
		} else {
			const char *wrong =
				value->kind != YAML_SCALAR
					? "must be a single value"
					: set_scalar(k, value->text, (char *)settings + k->offset);
			if (wrong != NULL)
				rc = bad_scalar(k, path, value, wrong, err);
		}
		if (rc != 0)
			return rc;
		if (k != NULL) /* `key:` with nothing behind it is not given */
			seen[k - keys] = !yaml_is_null(value);
	}
	return 0;
}

int conf_parse(const struct conf_key *keys, size_t count, const char *path, struct slice text,
	       struct arena *a, void *settings, struct rt_err *err)
{
	struct yaml_node *root;
	int rc = yaml_parse(a, path, (const char *)text.p, text.len, &root, err);
	if (rc != 0)
		return rc;
	if (root->kind != YAML_MAP)
		return yaml_fail(path, root, err, "a configuration is a map of keys");
	bool *seen = arena_zalloc(a, count * sizeof(*seen));
	rc = read_map(keys, count, path, "", root, a, seen, settings, err);
	for (size_t i = 0; rc == 0 && i < count; i++)
		if (!seen[i] && keys[i].init == NULL && keys[i].type != CONF_LIST)
			rc = rt_fail(err, ERR_PERMANENT, "%s: the key %s is missing", path,
				     keys[i].name);
	return rc;
}

static bool same_text(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool same_list(const struct conf_list *a, const struct conf_list *b)
{
	bool same = a->count == b->count;
	for (size_t i = 0; same && i < a->count; i++)
		same = same_text(a->item[i], b->item[i]);
	return same;
}

static bool same_value(enum conf_type type, const void *a, const void *b)
{
	switch (type) {
	case CONF_STRING:
		return same_text(*(const char *const *)a, *(const char *const *)b);
	case CONF_INT:
	case CONF_BYTES:
	case CONF_DURATION:
		return *(const int64_t *)a == *(const int64_t *)b;
	case CONF_BOOL:
		return *(const bool *)a == *(const bool *)b;
	case CONF_ENUM:
		return *(const int *)a == *(const int *)b;
	case CONF_LIST:
		return same_list(a, b);
	}
	return false;
}

void conf_needs_restart(const struct conf_key *keys, size_t count, const void *was, const void *is,
			struct buf *out)
{
	for (size_t i = 0; i < count; i++)
		if (!keys[i].reload && !same_value(keys[i].type, (const char *)was + keys[i].offset,
						   (const char *)is + keys[i].offset))
			buf_printf(out, "%s%s", out->len > 0 ? " " : "", keys[i].name);
}

static void print_comment(struct buf *out, const char *indent, const char *text)
{
	size_t width = 96 - strlen(indent);
	while (*text != '\0') {
		size_t n = strlen(text);
		if (n > width)
			for (n = width; n > 0 && text[n] != ' '; n--)
				;
		buf_printf(out, "%s# %.*s\n", indent, (int)n, text);
		text += n;
		while (*text == ' ')
			text++;
	}
}

void conf_print_facts(const struct conf_key *k, const char *prefix, struct buf *out)
{
	if (k->type == CONF_ENUM) {
		buf_printf(out, "%sOne of: ", prefix);
		print_names(k, out);
		buf_str(out, ".\n");
	}
	if (k->min != 0 || k->max != 0) {
		buf_printf(out, "%sRange: ", prefix);
		print_range(k, out);
		buf_str(out, ".\n");
	}
	if (k->reload)
		buf_printf(out, "%sTakes effect on SIGHUP.\n", prefix);
}

void conf_print_example(const struct conf_key *keys, size_t count, struct buf *out)
{
	const char *section = "";
	size_t section_len = 0;
	for (size_t i = 0; i < count; i++) {
		const struct conf_key *k = &keys[i];
		const char *dot = strchr(k->name, '.');
		const char *indent = dot != NULL ? "  " : "";
		size_t len = dot != NULL ? (size_t)(dot - k->name) : 0;
		buf_str(out, "\n");
		if (dot != NULL && (len != section_len || strncmp(section, k->name, len) != 0))
			buf_printf(out, "%.*s:\n", (int)len, k->name);
		section = k->name;
		section_len = len;
		print_comment(out, indent, k->help);
		conf_print_facts(k, dot != NULL ? "  # " : "# ", out);
		const char *leaf = dot != NULL ? dot + 1 : k->name;
		if (k->type == CONF_LIST)
			buf_printf(out, "%s%s: []\n", indent, leaf);
		else if (k->init == NULL)
			buf_printf(out, "%s%s: # must be given\n", indent, leaf);
		else
			buf_printf(out, "%s%s: %s\n", indent, leaf,
				   k->init[0] != '\0' ? k->init : "\"\"");
	}
}
