/* project_tests: what must hold for a model's rows. Guarantees: a test that is written is a test that will run. */
#include <ctype.h>

#include "transforms/models/project_inner.h"

#define TESTS_MAX 10000 /* of a model */

const char *model_test_name(enum model_test_kind kind)
{
	switch (kind) {
	case TEST_NOT_NULL:
		return "not_null";
	case TEST_UNIQUE:
		return "unique";
	case TEST_ACCEPTED_VALUES:
		return "accepted_values";
	case TEST_RELATIONSHIPS:
		return "relationships";
	case TEST_EXPRESSION:
		return "expression";
	}
	return "";
}

/* Names that a test is known by; those of dbt_utils mean the same there. */
static const struct {
	const char *name;
	enum model_test_kind kind;
} test_names[] = {{"not_null", TEST_NOT_NULL},
		  {"unique", TEST_UNIQUE},
		  {"accepted_values", TEST_ACCEPTED_VALUES},
		  {"relationships", TEST_RELATIONSHIPS},
		  {"expression", TEST_EXPRESSION},
		  {"expression_is_true", TEST_EXPRESSION},
		  {"unique_combination_of_columns", TEST_UNIQUE}};

static int find_kind(struct project *p, const char *file, const struct yaml_node *name,
		     enum model_test_kind *ret)
{
	const char *names[ARRAY_LEN(test_names)];
	const char *text = name->text;
	if (strncmp(text, "dbt_utils.", 10) == 0)
		text += 10;
	for (size_t i = 0; i < ARRAY_LEN(test_names); i++) {
		names[i] = test_names[i].name;
		if (strcmp(text, names[i]) == 0) {
			*ret = test_names[i].kind;
			return 0;
		}
	}
	const char *near = yaml_nearest(text, names, ARRAY_LEN(names));
	if (near != NULL)
		return yaml_fail(file, name, p->err, "there is no test %s; did you mean %s?", text,
				 near);
	return yaml_fail(file, name, p->err,
			 "there is no test %s; there are not_null, unique, accepted_values, "
			 "relationships and expression",
			 text);
}

/* SQL that is put into a test: no braces, nothing that asks for the present. */
static int check_sql(struct project *p, const char *file, const struct yaml_node *at,
		     const char *sql)
{
	struct model_text scanned;
	struct rt_err why;
	if (model_scan(p->a, "", slice_str(sql), &scanned, &why) != 0)
		return yaml_fail(file, at, p->err, "in this SQL, line and column %s", why.msg + 1);
	if (scanned.piece_count != 1 || scanned.piece[0].kind != PIECE_SQL)
		return yaml_fail(file, at, p->err, "this is SQL without braces");
	return 0;
}

static int take_values(struct project *p, const char *file, const struct yaml_node *list,
		       struct model_test *t)
{
	if (list->kind != YAML_LIST || list->count == 0)
		return yaml_fail(file, list, p->err, "a list with at least one value is expected");
	const char **value = arena_alloc(p->a, list->count * sizeof(*value));
	for (size_t i = 0; i < list->count; i++) {
		if (list->item[i]->kind != YAML_SCALAR)
			return yaml_fail(file, list->item[i], p->err, "a value is a scalar");
		value[i] = list->item[i]->text;
	}
	t->value = value;
	t->value_count = list->count;
	return 0;
}

/* to: ref('model') */
static int take_to(struct project *p, const char *file, const struct yaml_node *n,
		   struct model_test *t)
{
	struct model_text scanned;
	struct rt_err why;
	const char *sql = n->kind == YAML_SCALAR ? arena_printf(p->a, "{{ %s }}", n->text) : "";
	if (model_scan(p->a, "", slice_str(sql), &scanned, &why) != 0 || scanned.piece_count != 1 ||
	    scanned.piece[0].kind != PIECE_REF)
		return yaml_fail(file, n, p->err, "to is ref('model')");
	t->to = scanned.piece[0].name;
	return 0;
}

/* Does it begin with an operator, so that the column stands before it? */
static bool wants_column(const char *e)
{
	static const char *const words[] = {"in", "is", "between", "like", "ilike", "similar"};
	char word[2][16] = {"", ""};
	e += strspn(e, " \t\n");
	if (strchr("<>=!~", *e) != NULL)
		return *e != '\0';
	for (int w = 0; w < 2; w++) {
		size_t n = 0;
		for (; isalpha((unsigned char)*e) || *e == '_'; e++)
			if (n < sizeof(word[w]) - 1)
				word[w][n++] = (char)tolower((unsigned char)*e);
		e += strspn(e, " \t\n");
	}
	const char *first = strcmp(word[0], "not") == 0 ? word[1] : word[0];
	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (strcmp(first, words[i]) == 0)
			return true;
	return false;
}

static int take_expression(struct project *p, const char *file, const struct yaml_node *n,
			   struct model_test *t)
{
	if (n->kind != YAML_SCALAR || n->text[0] == '\0')
		return yaml_fail(file, n, p->err, "an expression is a text");
	int rc = check_sql(p, file, n, n->text);
	t->expression = n->text;
	if (rc == 0 && wants_column(n->text)) {
		if (t->column == NULL)
			return yaml_fail(file, n, p->err, "the expression begins with an operator");
		t->expression = arena_printf(p->a, "\"%s\" %s", t->column, n->text);
	}
	return rc;
}

/* severity and where, which stand beside the arguments or under config. */
static int take_manner(struct project *p, const char *file, const struct yaml_node *map,
		       struct model_test *t)
{
	const char *severity;
	int rc = project_text(p, file, map, "severity", t->warns ? "warn" : "error", &severity);
	if (rc == 0)
		rc = project_text(p, file, map, "where", t->where, &t->where);
	if (rc == 0 && yaml_get(map, "where") != NULL && t->where != NULL)
		rc = check_sql(p, file, yaml_get(map, "where"), t->where);
	if (rc != 0)
		return rc;
	t->warns = strcasecmp(severity, "warn") == 0;
	if (!t->warns && strcasecmp(severity, "error") != 0)
		return yaml_fail(file, yaml_get(map, "severity"), p->err,
				 "severity is warn or error");
	return 0;
}

static int take_arguments(struct project *p, const char *file, const struct yaml_node *map,
			  struct model_test *t)
{
	const struct yaml_node *n;
	bool quote;
	int rc = project_text(p, file, map, "field", t->field, &t->field);
	if (rc == 0 && (n = yaml_get(map, "values")) != NULL)
		rc = take_values(p, file, n, t);
	if (rc == 0 && (n = yaml_get(map, "quote")) != NULL) {
		if (!yaml_bool(n, &quote))
			return yaml_fail(file, n, p->err, "quote is true or false");
		t->plain = !quote;
	}
	if (rc == 0 && (n = yaml_get(map, "to")) != NULL)
		rc = take_to(p, file, n, t);
	if (rc == 0 && (n = yaml_get(map, "expression")) != NULL)
		rc = take_expression(p, file, n, t);
	if (rc == 0 && (n = yaml_get(map, "combination_of_columns")) != NULL)
		rc = take_values(p, file, n, t);
	if (rc == 0 && (n = yaml_get(map, "columns")) != NULL)
		rc = take_values(p, file, n, t);
	if (rc == 0)
		rc = project_text(p, file, map, "column_name", t->column, &t->column);
	return rc;
}

static const char *const *keys_of(enum model_test_kind kind)
{
	static const char *const not_null[] = {"severity",    "where",	   "config",	  "name",
					       "description", "arguments", "column_name", NULL};
	static const char *const unique[] = {"severity",  "where",	 "config",
					     "name",	  "description", "combination_of_columns",
					     "arguments", "column_name", "columns",
					     NULL};
	static const char *const accepted[] = {"severity", "where",	  "config",
					       "name",	   "description", "arguments",
					       "values",   "quote",	  NULL};
	static const char *const relationships[] = {"severity", "where",       "config",
						    "name",	"description", "arguments",
						    "to",	"field",       NULL};
	static const char *const expression[] = {"severity",	"where",     "config",	   "name",
						 "description", "arguments", "expression", NULL};
	switch (kind) {
	case TEST_NOT_NULL:
		return not_null;
	case TEST_UNIQUE:
		return unique;
	case TEST_ACCEPTED_VALUES:
		return accepted;
	case TEST_RELATIONSHIPS:
		return relationships;
	case TEST_EXPRESSION:
		return expression;
	}
	return not_null;
}

/* What is missing for a test to be one. */
static int check_test(struct project *p, const char *file, const struct yaml_node *at,
		      const struct model_test *t)
{
	const char *missing = NULL;
	if (t->kind == TEST_EXPRESSION)
		missing = t->expression == NULL ? "an expression" : NULL;
	else if (t->kind == TEST_UNIQUE)
		missing = t->column == NULL && t->value_count == 0 ? "columns" : NULL;
	else if (t->column == NULL)
		missing = "a column: it stands below one";
	else if (t->kind == TEST_ACCEPTED_VALUES)
		missing = t->value_count == 0 ? "values" : NULL;
	else if (t->kind == TEST_RELATIONSHIPS)
		missing = t->to == NULL || t->field == NULL ? "to and field" : NULL;
	if (missing != NULL)
		return yaml_fail(file, at, p->err, "%s wants %s", model_test_name(t->kind),
				 missing);
	if (t->kind != TEST_ACCEPTED_VALUES || !t->plain)
		return 0;
	for (size_t i = 0; i < t->value_count; i++) {
		int rc = check_sql(p, file, at, t->value[i]);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static int read_test(struct project *p, const char *file, const struct yaml_node *entry,
		     struct model_test *t)
{
	static const char *const config_keys[] = {"severity", "where", "tags", "meta", NULL};
	const struct yaml_node *name = entry, *args = NULL, *n;
	if (entry->kind == YAML_MAP && entry->count == 1) {
		name = entry->key[0];
		args = entry->item[0];
	} else if (entry->kind != YAML_SCALAR) {
		return yaml_fail(file, entry, p->err,
				 "a test is its name, or its name: {arguments}");
	}
	int rc = find_kind(p, file, name, &t->kind);
	t->place = (struct model_place){file, name->line, name->column};
	if (rc != 0 || args == NULL || yaml_is_null(args))
		return rc != 0 ? rc : check_test(p, file, name, t);
	if (t->kind == TEST_EXPRESSION && args->kind == YAML_SCALAR)
		return take_expression(p, file, args, t);
	rc = project_check_keys(p, file, args, model_test_name(t->kind), keys_of(t->kind));
	if (rc == 0)
		rc = take_arguments(p, file, args, t);
	if (rc == 0 && (n = yaml_get(args, "arguments")) != NULL &&
	    (rc = project_check_keys(p, file, n, model_test_name(t->kind), keys_of(t->kind))) == 0)
		rc = take_arguments(p, file, n, t);
	if (rc == 0)
		rc = take_manner(p, file, args, t);
	if (rc == 0 && (n = yaml_get(args, "config")) != NULL &&
	    (rc = project_check_keys(p, file, n, "config", config_keys)) == 0)
		rc = take_manner(p, file, n, t);
	return rc == 0 ? check_test(p, file, name, t) : rc;
}

int project_read_tests(struct project *p, const char *file, const struct yaml_node *list,
		       struct model *md, const char *column)
{
	if (list->kind != YAML_LIST)
		return yaml_fail(file, list, p->err, "tests is a list");
	if (md->test_count + list->count > TESTS_MAX)
		return yaml_fail(file, list, p->err, "more than %d tests", TESTS_MAX);
	struct model_test *all =
		arena_zalloc(p->a, (md->test_count + list->count + 1) * sizeof(*all));
	if (md->test_count > 0)
		memcpy(all, md->test, md->test_count * sizeof(*all));
	for (size_t i = 0; i < list->count; i++) {
		struct model_test *t = &all[md->test_count + i];
		t->column = column;
		int rc = read_test(p, file, list->item[i], t);
		if (rc != 0)
			return rc;
	}
	md->test = all;
	md->test_count += list->count;
	return 0;
}
