/* definition_columns: the columns of a report. Guarantees: a limit stands only where its type has it. */
#include <libxml/xmlregexp.h>

#include "transforms/report/definition_parse.h"

static const char *const type_names[REPORT_TYPES] = {
	[REPORT_TEXT] = "text",	      [REPORT_DECIMAL] = "decimal",
	[REPORT_INT] = "int",	      [REPORT_SHORT] = "short",
	[REPORT_DATE] = "date",	      [REPORT_TIMESTAMP] = "timestamp",
	[REPORT_BOOLEAN] = "boolean", [REPORT_JSON] = "json"};

#define OF(type)   (1U << REPORT_##type)
#define OF_ALL	   ((1U << REPORT_TYPES) - 1)
#define LIMIT_MOST 1000000

/* Which key stands with which types. */
static const struct {
	const char *name;
	unsigned types;
} column_keys[] = {
	{"name", OF_ALL},
	{"type", OF_ALL},
	{"nillable", OF_ALL},
	{"length", OF(TEXT)},
	{"min_length", OF(TEXT)},
	{"max_length", OF(TEXT)},
	{"overflow", OF(TEXT)},
	/* Of the others too: their schemas say so, and it changes nothing. */
	{"space", OF_ALL},
	{"enum", OF(TEXT)},
	{"pattern", OF(TEXT)},
	{"digits", OF(DECIMAL)},
	{"fraction", OF(DECIMAL)},
	{"zeros", OF(DECIMAL)},
	{"format", OF(DATE)},
	{"min", OF(DECIMAL) | OF(INT) | OF(SHORT) | OF(DATE)},
	{"max", OF(DECIMAL) | OF(INT) | OF(SHORT) | OF(DATE)},
};

static int check_keys(struct rdef *d, const struct yaml_node *map)
{
	const char *names[ARRAY_LEN(column_keys)];
	for (size_t i = 0; i < ARRAY_LEN(column_keys); i++)
		names[i] = column_keys[i].name;
	return rdef_check_keys(d, map, "a column", names, ARRAY_LEN(names));
}

static int check_types(struct rdef *d, const struct yaml_node *map, const struct report_column *c)
{
	for (size_t i = 0; i < map->count; i++)
		for (size_t k = 0; k < ARRAY_LEN(column_keys); k++)
			if (strcmp(column_keys[k].name, map->key[i]->text) == 0 &&
			    (column_keys[k].types & 1U << c->type) == 0)
				return yaml_fail(d->name, map->key[i], d->err,
						 "\"%s\" does not go with type %s",
						 column_keys[k].name, type_names[c->type]);
	return 0;
}

static int parse_limit(struct rdef *d, const struct yaml_node *map, const char *key, bool *ret_has,
		       uint32_t *ret)
{
	const struct yaml_node *n = yaml_get(map, key);
	int64_t v;
	if (n == NULL)
		return 0;
	if (!yaml_int(n, &v) || v < 0 || v > LIMIT_MOST)
		return yaml_fail(d->name, n, d->err, "\"%s\" must be 0 to %d", key, LIMIT_MOST);
	*ret_has = true;
	*ret = (uint32_t)v;
	return 0;
}

static int parse_enum(struct rdef *d, const struct yaml_node *map, struct report_column *c)
{
	const struct yaml_node *n = yaml_get(map, "enum");
	if (n == NULL)
		return 0;
	int rc = rdef_expect(d, n, YAML_LIST, "enum");
	if (rc == 0 && n->count == 0)
		rc = yaml_fail(d->name, n, d->err, "\"enum\" is empty");
	if (rc != 0)
		return rc;
	c->enums = arena_alloc(d->arena, n->count * sizeof(*c->enums));
	for (size_t i = 0; i < n->count; i++) {
		rc = rdef_expect(d, n->item[i], YAML_SCALAR, "a value of \"enum\"");
		if (rc == 0 && !n->item[i]->quoted)
			rc = yaml_fail(d->name, n->item[i], d->err,
				       "a value of \"enum\" needs quotes");
		if (rc != 0)
			return rc;
		c->enums[c->enum_count++] = n->item[i]->text;
	}
	return 0;
}

/* libxml2 would write to stderr by itself. */
static void say_nothing(void *ctx, xmlErrorPtr e)
{
	(void)ctx;
	(void)e;
}

static int parse_pattern(struct rdef *d, const struct yaml_node *map, struct report_column *c)
{
	if (yaml_get(map, "pattern") == NULL)
		return 0;
	int rc = rdef_text(d, map, "pattern", &c->pattern);
	if (rc != 0)
		return rc;
	xmlSetStructuredErrorFunc(NULL, say_nothing);
	xmlRegexpPtr compiled = xmlRegexpCompile((const xmlChar *)c->pattern);
	xmlSetStructuredErrorFunc(NULL, NULL);
	if (compiled == NULL)
		return yaml_fail(d->name, yaml_get(map, "pattern"), d->err,
				 "\"pattern\" is not a regular expression of XML Schema");
	xmlRegFreeRegexp(compiled);
	return 0;
}

static int parse_text_keys(struct rdef *d, const struct yaml_node *map, struct report_column *c)
{
	static const char *const overflow[] = {"fail", "cut", "cut_left"};
	static const char *const space[] = {"preserve", "collapse"};
	int how = REPORT_FAIL, collapse = 0;
	int rc = parse_limit(d, map, "length", &c->has_length, &c->length);
	if (rc == 0)
		rc = parse_limit(d, map, "min_length", &c->has_min_length, &c->min_length);
	if (rc == 0)
		rc = parse_limit(d, map, "max_length", &c->has_max_length, &c->max_length);
	if (rc == 0)
		rc = rdef_choice(d, map, "overflow", overflow, ARRAY_LEN(overflow), &how);
	if (rc == 0)
		rc = rdef_choice(d, map, "space", space, ARRAY_LEN(space), &collapse);
	if (rc == 0)
		rc = parse_enum(d, map, c);
	if (rc == 0)
		rc = parse_pattern(d, map, c);
	if (rc != 0)
		return rc;
	c->overflow = (enum report_overflow)how;
	c->collapse = collapse == 1;
	if (c->overflow != REPORT_FAIL && !c->has_length && !c->has_max_length)
		return yaml_fail(d->name, yaml_get(map, "overflow"), d->err,
				 "\"overflow\" needs \"length\" or \"max_length\"");
	if (c->has_min_length && c->has_max_length && c->min_length > c->max_length)
		return yaml_fail(d->name, yaml_get(map, "min_length"), d->err,
				 "\"min_length\" is greater than \"max_length\"");
	return 0;
}

static int parse_decimal_keys(struct rdef *d, const struct yaml_node *map, struct report_column *c)
{
	static const char *const zeros[] = {"keep", "trim"};
	int trim = 0;
	int rc = parse_limit(d, map, "digits", &c->has_digits, &c->digits);
	if (rc == 0)
		rc = parse_limit(d, map, "fraction", &c->has_fraction, &c->fraction);
	if (rc == 0)
		rc = rdef_choice(d, map, "zeros", zeros, ARRAY_LEN(zeros), &trim);
	c->trim_zeros = trim == 1;
	if (rc == 0 && c->has_digits && (c->digits == 0 || c->fraction > c->digits))
		rc = yaml_fail(d->name, yaml_get(map, "digits"), d->err,
			       "\"digits\" must be at least 1 and no less than \"fraction\"");
	return rc;
}

static int parse_bound(struct rdef *d, const struct yaml_node *map, const char *key,
		       const struct report_column *c, const char **ret)
{
	const struct yaml_node *n = yaml_get(map, key);
	if (n == NULL)
		return 0;
	int rc = rdef_text(d, map, key, ret);
	if (rc != 0)
		return rc;
	if (c->type == REPORT_DATE ? !report_is_day(*ret) : !report_is_decimal(*ret))
		rc = yaml_fail(d->name, n, d->err, "\"%s\" must be a %s", key,
			       c->type == REPORT_DATE ? "day (YYYY-MM-DD)" : "number");
	return rc;
}

static int parse_name(struct rdef *d, const struct yaml_node *map, bool xml, const struct report *r,
		      struct report_column *c)
{
	int rc = rdef_text(d, map, "name", &c->name);
	const struct yaml_node *n = yaml_get(map, "name");
	if (rc != 0)
		return rc;
	if (strlen(c->name) > REPORT_COLUMN_MAX)
		return yaml_fail(d->name, n, d->err, "column \"%s\" is longer than %d bytes",
				 c->name, REPORT_COLUMN_MAX);
	for (const char *p = c->name; *p != '\0'; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7F)
			return yaml_fail(d->name, n, d->err,
					 "a column's name holds a control character");
	if (xml && !rdef_is_ncname(c->name))
		return yaml_fail(d->name, n, d->err,
				 "\"%s\" is not a name of an XML element, which the format xml "
				 "makes of it",
				 c->name);
	for (size_t i = 0; i < r->column_count; i++)
		if (strcmp(r->column[i].name, c->name) == 0)
			return yaml_fail(d->name, n, d->err, "column \"%s\" stands twice", c->name);
	return 0;
}

static int parse_column(struct rdef *d, const struct yaml_node *map, bool xml,
			const struct report *r, struct report_column *c)
{
	static const char *const formats[] = {"iso", "compact"};
	int type = REPORT_TEXT, compact = 0;
	int rc = rdef_expect(d, map, YAML_MAP, "a column");
	if (rc == 0)
		rc = check_keys(d, map);
	if (rc == 0)
		rc = parse_name(d, map, xml, r, c);
	if (rc == 0 && yaml_get(map, "type") == NULL)
		rc = yaml_fail(d->name, map, d->err, "\"type\" is missing");
	if (rc == 0)
		rc = rdef_choice(d, map, "type", type_names, REPORT_TYPES, &type);
	c->type = (enum report_type)type;
	if (rc == 0)
		rc = check_types(d, map, c);
	if (rc == 0)
		rc = rdef_bool(d, map, "nillable", &c->nillable);
	if (rc == 0)
		rc = parse_text_keys(d, map, c);
	if (rc == 0)
		rc = parse_decimal_keys(d, map, c);
	if (rc == 0)
		rc = rdef_choice(d, map, "format", formats, ARRAY_LEN(formats), &compact);
	c->compact = compact == 1;
	if (rc == 0)
		rc = parse_bound(d, map, "min", c, &c->min);
	return rc == 0 ? parse_bound(d, map, "max", c, &c->max) : rc;
}

int rdef_columns(struct rdef *d, const struct yaml_node *list, bool xml, struct report *r)
{
	int rc = rdef_expect(d, list, YAML_LIST, "columns");
	if (rc == 0 && (list->count == 0 || list->count > REPORT_COLUMNS_MAX))
		rc = yaml_fail(d->name, list, d->err, "\"columns\" has 1 to %d items",
			       REPORT_COLUMNS_MAX);
	if (rc != 0)
		return rc;
	r->column = arena_zalloc(d->arena, list->count * sizeof(*r->column));
	for (size_t i = 0; i < list->count && rc == 0; i++) {
		rc = parse_column(d, list->item[i], xml, r, &r->column[i]);
		r->column_count = i + 1;
	}
	return rc;
}
