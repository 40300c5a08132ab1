/*
 * definition: reads reports.yaml. Guarantees: a pack that loads can be
 * written: names fit paths and elements, limits fit their types, what an
 * order or a format needs is there. definition_columns.c reads the columns.
 */
#include "transforms/report/definition.h"

#include "transforms/report/definition_parse.h"

#define LANGUAGE 1

static const char *const format_names[REPORT_FORMATS] = {
	[REPORT_CSV] = "csv", [REPORT_TXT] = "txt", [REPORT_XML] = "xml"};

const char *report_format_name(enum report_format f)
{
	return format_names[f];
}

/* ---- what is common ---- */

int rdef_check_keys(struct rdef *d, const struct yaml_node *map, const char *what,
		    const char *const *names, size_t count)
{
	return yaml_check_keys(d->name, map, what, names, count, d->err);
}

int rdef_expect(struct rdef *d, const struct yaml_node *n, enum yaml_kind kind, const char *what)
{
	static const char *const kinds[] = {
		[YAML_SCALAR] = "a text", [YAML_LIST] = "a list", [YAML_MAP] = "a map"};
	if (n->kind == kind)
		return 0;
	return yaml_fail(d->name, n, d->err, "%s must be %s", what, kinds[kind]);
}

static int missing(struct rdef *d, const struct yaml_node *map, const char *key)
{
	return yaml_fail(d->name, map, d->err, "\"%s\" is missing", key);
}

int rdef_text(struct rdef *d, const struct yaml_node *map, const char *key, const char **ret)
{
	const struct yaml_node *n = yaml_get(map, key);
	if (n == NULL)
		return missing(d, map, key);
	int rc = rdef_expect(d, n, YAML_SCALAR, key);
	if (rc == 0 && n->text[0] == '\0')
		rc = yaml_fail(d->name, n, d->err, "\"%s\" is empty", key);
	if (rc == 0)
		*ret = n->text;
	return rc;
}

int rdef_bool(struct rdef *d, const struct yaml_node *map, const char *key, bool *ret)
{
	const struct yaml_node *n = yaml_get(map, key);
	if (n == NULL)
		return 0;
	if (n->kind != YAML_SCALAR || !yaml_bool(n, ret))
		return yaml_fail(d->name, n, d->err, "\"%s\" must be true or false", key);
	return 0;
}

int rdef_choice(struct rdef *d, const struct yaml_node *map, const char *key,
		const char *const *names, size_t count, int *ret)
{
	const struct yaml_node *n = yaml_get(map, key);
	if (n == NULL)
		return 0;
	int rc = rdef_expect(d, n, YAML_SCALAR, key);
	if (rc != 0)
		return rc;
	for (size_t i = 0; i < count; i++) {
		if (strcmp(names[i], n->text) == 0) {
			*ret = (int)i;
			return 0;
		}
	}
	const char *near = yaml_nearest(n->text, names, count);
	return yaml_fail(d->name, n, d->err, "\"%s\" cannot be \"%s\"%s%s", key, n->text,
			 near != NULL ? "; did you mean " : "", near != NULL ? near : "");
}

/* Letters, digits and underscores, lower case: what may stand in a path. */
static bool is_path_name(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9') || s[i] == '_'))
			return false;
	return len > 0 && len <= REPORT_NAME_MAX;
}

static int check_path_name(struct rdef *d, const struct yaml_node *n, const char *what,
			   const char *s, size_t len)
{
	if (is_path_name(s, len))
		return 0;
	return yaml_fail(d->name, n, d->err,
			 "%s \"%s\": 1 to %d letters, digits and underscores, all lower-case", what,
			 n->text, REPORT_NAME_MAX);
}

/* Letters as XML 1.0 (fifth edition) has them at the start of a name, less the colon. */
static bool starts_name(uint32_t c)
{
	static const uint32_t ranges[][2] = {
		{'A', 'Z'},	  {'_', '_'},	    {'a', 'z'},	       {0xC0, 0xD6},
		{0xD8, 0xF6},	  {0xF8, 0x2FF},    {0x370, 0x37D},    {0x37F, 0x1FFF},
		{0x200C, 0x200D}, {0x2070, 0x218F}, {0x2C00, 0x2FEF},  {0x3001, 0xD7FF},
		{0xF900, 0xFDCF}, {0xFDF0, 0xFFFD}, {0x10000, 0xEFFFF}};
	for (size_t i = 0; i < ARRAY_LEN(ranges); i++)
		if (c >= ranges[i][0] && c <= ranges[i][1])
			return true;
	return false;
}

static bool continues_name(uint32_t c)
{
	return starts_name(c) || c == '-' || c == '.' || (c >= '0' && c <= '9') || c == 0xB7 ||
	       (c >= 0x300 && c <= 0x36F) || c == 0x203F || c == 0x2040;
}

/* The character at *p, which moves past it; YAML's reader has seen to it that it is UTF-8. */
static uint32_t next_character(const char **p)
{
	const uint8_t *s = (const uint8_t *)*p;
	int more = s[0] < 0x80 ? 0 : s[0] < 0xE0 ? 1 : s[0] < 0xF0 ? 2 : 3;
	uint32_t c = more == 0 ? s[0] : s[0] & (0x3FU >> more);
	for (int i = 1; i <= more; i++)
		c = c << 6 | (s[i] & 0x3FU);
	*p += more + 1;
	return c;
}

bool rdef_is_ncname(const char *text)
{
	const char *p = text;
	if (*p == '\0' || !starts_name(next_character(&p)))
		return false;
	while (*p != '\0')
		if (!continues_name(next_character(&p)))
			return false;
	return true;
}

/* ---- a report ---- */

static int parse_id(struct rdef *d, const struct yaml_node *map, struct report *r)
{
	int rc = rdef_text(d, map, "id", &r->id);
	if (rc != 0)
		return rc;
	const struct yaml_node *n = yaml_get(map, "id");
	const char *slash = strchr(r->id, '/');
	if (slash == NULL)
		return yaml_fail(d->name, n, d->err, "id \"%s\" must be norm/id", r->id);
	size_t len = (size_t)(slash - r->id);
	rc = check_path_name(d, n, "id", r->id, len);
	if (rc == 0)
		rc = check_path_name(d, n, "id", slash + 1, strlen(slash + 1));
	r->norm = arena_strndup(d->arena, r->id, len);
	return rc;
}

static int parse_name(struct rdef *d, const struct yaml_node *map, struct report *r)
{
	int rc = rdef_text(d, map, "name", &r->name);
	if (rc == 0)
		rc = check_path_name(d, yaml_get(map, "name"), "name", r->name, strlen(r->name));
	if (rc == 0)
		rc = rdef_text(d, map, "title", &r->title);
	return rc;
}

static int parse_model(struct rdef *d, const struct yaml_node *map, struct report *r)
{
	bool empty = false;
	const struct yaml_node *n = yaml_get(map, "model");
	int rc = rdef_bool(d, map, "empty", &empty);
	if (rc != 0)
		return rc;
	if (empty && n != NULL)
		return yaml_fail(d->name, n, d->err,
				 "a report that is declared empty has no \"model\"");
	if (empty)
		return 0;
	if (n == NULL)
		return yaml_fail(d->name, map, d->err, "\"model\" (or \"empty: true\") is missing");
	rc = rdef_text(d, map, "model", &r->model);
	return rc == 0 ? check_path_name(d, n, "model", r->model, strlen(r->model)) : rc;
}

static int parse_formats(struct rdef *d, const struct yaml_node *map, struct report *r)
{
	const struct yaml_node *n = yaml_get(map, "formats");
	if (n == NULL)
		return missing(d, map, "formats");
	int rc = rdef_expect(d, n, YAML_LIST, "formats");
	if (rc == 0 && n->count == 0)
		rc = yaml_fail(d->name, n, d->err, "\"formats\" is empty");
	for (size_t i = 0; rc == 0 && i < n->count; i++) {
		const struct yaml_node *one = n->item[i];
		size_t f = 0;
		rc = rdef_expect(d, one, YAML_SCALAR, "a format");
		while (rc == 0 && f < REPORT_FORMATS && strcmp(format_names[f], one->text) != 0)
			f++;
		if (rc == 0 && f == REPORT_FORMATS)
			rc = yaml_fail(d->name, one, d->err, "format \"%s\" is not csv, txt or xml",
				       one->text);
		if (rc == 0 && r->formats[f])
			rc = yaml_fail(d->name, one, d->err, "format \"%s\" stands twice",
				       one->text);
		if (rc == 0)
			r->formats[f] = true;
	}
	return rc;
}

static int parse_element(struct rdef *d, const struct yaml_node *map, const char *key,
			 const char **ret)
{
	int rc = rdef_text(d, map, key, ret);
	if (rc == 0 && !rdef_is_ncname(*ret))
		rc = yaml_fail(d->name, yaml_get(map, key), d->err,
			       "\"%s\" is not a name of an XML element", *ret);
	return rc;
}

static int parse_xml(struct rdef *d, const struct yaml_node *map, struct report *r)
{
	static const char *const keys[] = {"schema", "namespace", "root", "row", "min_rows"};
	const struct yaml_node *x = yaml_get(map, "xml");
	int64_t min_rows = 0;
	if (x == NULL)
		return r->formats[REPORT_XML]
			       ? yaml_fail(d->name, map, d->err,
					   "\"xml\" is missing, which the format xml needs")
			       : 0;
	if (!r->formats[REPORT_XML])
		return yaml_fail(d->name, x, d->err, "\"xml\" without the format xml");
	int rc = rdef_expect(d, x, YAML_MAP, "xml");
	if (rc == 0)
		rc = rdef_check_keys(d, x, "xml", keys, ARRAY_LEN(keys));
	if (rc == 0)
		rc = rdef_text(d, x, "schema", &r->xml.schema);
	if (rc == 0)
		rc = check_path_name(d, yaml_get(x, "schema"), "schema", r->xml.schema,
				     strlen(r->xml.schema));
	if (rc == 0)
		rc = rdef_text(d, x, "namespace", &r->xml.space);
	if (rc == 0)
		rc = parse_element(d, x, "root", &r->xml.root);
	if (rc == 0)
		rc = parse_element(d, x, "row", &r->xml.row);
	const struct yaml_node *n = rc == 0 ? yaml_get(x, "min_rows") : NULL;
	if (n != NULL && (!yaml_int(n, &min_rows) || min_rows < 0 || min_rows > 1))
		rc = yaml_fail(d->name, n, d->err, "\"min_rows\" must be 0 or 1");
	r->xml.min_rows = (uint32_t)min_rows;
	return rc;
}

/* Names of the model's columns: those of an order need not be written. */
static int parse_order(struct rdef *d, const struct yaml_node *map, struct report *r)
{
	const struct yaml_node *n = yaml_get(map, "order");
	if (r->model == NULL)
		return n == NULL ? 0
				 : yaml_fail(d->name, n, d->err,
					     "a report that is declared empty has no \"order\"");
	if (n == NULL)
		return missing(d, map, "order");
	int rc = rdef_expect(d, n, YAML_LIST, "order");
	if (rc == 0 && n->count == 0)
		rc = yaml_fail(d->name, n, d->err, "\"order\" is empty");
	if (rc != 0)
		return rc;
	r->order = arena_alloc(d->arena, n->count * sizeof(*r->order));
	for (size_t i = 0; i < n->count; i++) {
		rc = rdef_expect(d, n->item[i], YAML_SCALAR, "a column of \"order\"");
		if (rc == 0 &&
		    (n->item[i]->text[0] == '\0' || strlen(n->item[i]->text) > REPORT_COLUMN_MAX))
			rc = yaml_fail(d->name, n->item[i], d->err,
				       "a column of \"order\" has 1 to %d bytes",
				       REPORT_COLUMN_MAX);
		if (rc != 0)
			return rc;
		r->order[r->order_count++] = n->item[i]->text;
	}
	return 0;
}

static int parse_report(struct rdef *d, const struct yaml_node *map, struct report *r)
{
	static const char *const keys[] = {"id",      "name",  "title", "model", "empty",
					   "formats", "as_of", "order", "xml",	 "columns"};
	int rc = rdef_expect(d, map, YAML_MAP, "a report");
	if (rc == 0)
		rc = rdef_check_keys(d, map, "a report", keys, ARRAY_LEN(keys));
	if (rc == 0)
		rc = parse_id(d, map, r);
	if (rc == 0)
		rc = parse_name(d, map, r);
	if (rc == 0)
		rc = parse_model(d, map, r);
	if (rc == 0)
		rc = parse_formats(d, map, r);
	if (rc == 0)
		rc = rdef_bool(d, map, "as_of", &r->as_of);
	if (rc == 0)
		rc = parse_order(d, map, r);
	if (rc == 0)
		rc = parse_xml(d, map, r);
	if (rc != 0)
		return rc;
	const struct yaml_node *columns = yaml_get(map, "columns");
	return columns == NULL ? missing(d, map, "columns")
			       : rdef_columns(d, columns, r->formats[REPORT_XML], r);
}

/* Ids, and files' names within a norm, stand once. */
static int check_twice(struct rdef *d, const struct yaml_node *map, const struct report_pack *p,
		       size_t at)
{
	const struct report *r = &p->report[at];
	for (size_t i = 0; i < at; i++) {
		const struct report *o = &p->report[i];
		if (strcmp(o->id, r->id) == 0)
			return yaml_fail(d->name, yaml_get(map, "id"), d->err,
					 "report \"%s\" stands twice", r->id);
		if (strcmp(o->norm, r->norm) == 0 && strcmp(o->name, r->name) == 0)
			return yaml_fail(d->name, yaml_get(map, "name"), d->err,
					 "two reports of \"%s\" write a file \"%s\"", r->norm,
					 r->name);
	}
	return 0;
}

/* ---- the top ---- */

static int parse_delimiter(struct rdef *d, const struct yaml_node *files, const char *format,
			   char *ret)
{
	static const char *const keys[] = {"delimiter"};
	const struct yaml_node *f = yaml_get(files, format);
	const char *text = "";
	if (f == NULL)
		return 0;
	int rc = rdef_expect(d, f, YAML_MAP, format);
	if (rc == 0)
		rc = rdef_check_keys(d, f, format, keys, ARRAY_LEN(keys));
	if (rc != 0 || f->count == 0)
		return rc;
	rc = rdef_text(d, f, "delimiter", &text);
	if (rc == 0 && (text[1] != '\0' || (text[0] < ' ' && text[0] != '\t') || text[0] == '"' ||
			(unsigned char)text[0] >= 0x7F))
		rc = yaml_fail(d->name, f, d->err,
			       "a delimiter is one ASCII character, and not a double quote");
	if (rc == 0)
		*ret = text[0];
	return rc;
}

static int parse_files(struct rdef *d, const struct yaml_node *root, struct report_pack *p)
{
	static const char *const keys[] = {"csv", "txt"};
	const struct yaml_node *files = yaml_get(root, "files");
	p->csv_delimiter = ',';
	p->txt_delimiter = '|';
	if (files == NULL)
		return 0;
	int rc = rdef_expect(d, files, YAML_MAP, "files");
	if (rc == 0)
		rc = rdef_check_keys(d, files, "files", keys, ARRAY_LEN(keys));
	if (rc == 0)
		rc = parse_delimiter(d, files, "csv", &p->csv_delimiter);
	return rc == 0 ? parse_delimiter(d, files, "txt", &p->txt_delimiter) : rc;
}

static int parse_reports(struct rdef *d, const struct yaml_node *root, struct report_pack *p)
{
	const struct yaml_node *list = yaml_get(root, "reports");
	if (list == NULL)
		return missing(d, root, "reports");
	int rc = rdef_expect(d, list, YAML_LIST, "reports");
	if (rc == 0 && (list->count == 0 || list->count > REPORTS_MAX))
		rc = yaml_fail(d->name, list, d->err, "\"reports\" has 1 to %d items", REPORTS_MAX);
	if (rc != 0)
		return rc;
	p->report = arena_zalloc(d->arena, list->count * sizeof(*p->report));
	for (size_t i = 0; i < list->count && rc == 0; i++) {
		rc = parse_report(d, list->item[i], &p->report[i]);
		if (rc == 0)
			rc = check_twice(d, list->item[i], p, i);
		p->count = i + 1;
	}
	return rc;
}

int report_pack_parse(struct arena *a, const char *name, struct slice text, struct report_pack *ret,
		      struct rt_err *err)
{
	static const char *const keys[] = {"language", "files", "reports"};
	struct yaml_node *root;
	struct rdef d = {a, name, err};
	struct report_pack p = {0};
	int64_t language;
	int rc = yaml_parse(a, name, (const char *)text.p, text.len, &root, err);
	if (rc == 0)
		rc = rdef_expect(&d, root, YAML_MAP, "the file");
	if (rc == 0)
		rc = rdef_check_keys(&d, root, "the file", keys, ARRAY_LEN(keys));
	if (rc != 0)
		return rc;
	const struct yaml_node *n = yaml_get(root, "language");
	if (n == NULL)
		return missing(&d, root, "language");
	if (!yaml_int(n, &language) || language != LANGUAGE)
		return yaml_fail(name, n, err, "this program reads language %d", LANGUAGE);
	rc = parse_files(&d, root, &p);
	if (rc == 0)
		rc = parse_reports(&d, root, &p);
	if (rc == 0)
		*ret = p;
	return rc;
}
