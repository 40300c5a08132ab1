/* project_yaml: dbt_project.yml and the *.yml beside models and seeds. Guarantees: no key is passed over unseen. */
#include "transforms/models/project_inner.h"

#define MINUTE_US INT64_C(60000000)
/* Nobody waits longer for fresh data; and it fits into µs. */
#define PERIODS_MAX 100000

static struct model_place place_of(const char *file, const struct yaml_node *n)
{
	return (struct model_place){file, n->line, n->column};
}

int project_check_keys(struct project *p, const char *file, const struct yaml_node *map,
		       const char *what, const char *const *known)
{
	size_t n = 0;
	if (map->kind != YAML_MAP)
		return yaml_fail(file, map, p->err, "%s is a map", what);
	while (known[n] != NULL)
		n++;
	return yaml_check_keys(file, map, what, known, n, p->err);
}

int project_text(struct project *p, const char *file, const struct yaml_node *map, const char *key,
		 const char *dflt, const char **ret)
{
	const struct yaml_node *n = yaml_get(map, key);
	*ret = dflt;
	if (n == NULL || yaml_is_null(n))
		return 0;
	if (n->kind != YAML_SCALAR)
		return yaml_fail(file, n, p->err, "%s is a text", key);
	*ret = n->text;
	return 0;
}

/* A name that must be there. */
static int take_name(struct project *p, const char *file, const struct yaml_node *map,
		     const char *what, const char **ret)
{
	const struct yaml_node *n = yaml_get(map, "name");
	if (n == NULL || n->kind != YAML_SCALAR || n->text[0] == '\0')
		return yaml_fail(file, n != NULL ? n : map, p->err, "%s has a name", what);
	*ret = n->text;
	return 0;
}

static int take_materialized(struct project *p, const char *file, const struct yaml_node *n,
			     bool *ret)
{
	if (n->kind == YAML_SCALAR && strcmp(n->text, "table") == 0)
		*ret = true;
	else if (n->kind == YAML_SCALAR && strcmp(n->text, "view") == 0)
		*ret = false;
	else
		return yaml_fail(file, n, p->err, "materialized is view or table");
	return 0;
}

/* ---- dbt_project.yml ---- */

static int add_rule(struct project *p, const char *folder, bool table)
{
	p->rule = project_grow(p->a, p->rule, p->rule_count, &p->rule_cap, sizeof(*p->rule));
	p->rule[p->rule_count++] = (struct project_rule){folder, table};
	return 0;
}

/* models: {<project>: {+materialized, folder: {…}}} */
static int read_rules(struct project *p, const char *file, const struct yaml_node *map,
		      const char *folder)
{
	if (map->kind != YAML_MAP)
		return yaml_fail(file, map, p->err, "a folder's settings are a map");
	for (size_t i = 0; i < map->count; i++) {
		const char *key = map->key[i]->text;
		bool table;
		int rc = 0;
		if (strcmp(key, "+materialized") == 0 || strcmp(key, "materialized") == 0) {
			if ((rc = take_materialized(p, file, map->item[i], &table)) == 0)
				rc = add_rule(p, folder, table);
		} else if (key[0] == '+' && strcmp(key, "+schema") != 0 &&
			   strcmp(key, "+tags") != 0) {
			rc = yaml_fail(file, map->key[i], p->err,
				       "%s is not known here: +materialized is, and folders are",
				       key);
		} else if (key[0] != '+') {
			rc = read_rules(
				p, file, map->item[i],
				folder[0] == '\0' ? key : arena_printf(p->a, "%s/%s", folder, key));
		}
		if (rc != 0)
			return rc;
	}
	return 0;
}

static int read_vars(struct project *p, const char *file, const struct yaml_node *map)
{
	struct models *m = p->m;
	size_t cap = m->var_count;
	if (map->kind != YAML_MAP)
		return yaml_fail(file, map, p->err, "vars is a map");
	for (size_t i = 0; i < map->count; i++) {
		const struct yaml_node *v = map->item[i];
		const char *key = map->key[i]->text;
		if (v->kind == YAML_MAP && strcmp(key, m->name) == 0) {
			int rc = read_vars(p, file, v);
			if (rc != 0)
				return rc;
			cap = m->var_count;
			continue;
		}
		if (v->kind != YAML_SCALAR || strpbrk(v->text, "\n\r") != NULL)
			return yaml_fail(file, v, p->err, "a variable is a text of one line");
		/* A default that dbt needs; here a build has its own. */
		if (strcmp(key, "run_at") == 0 || strcmp(key, "run_day") == 0 ||
		    strcmp(key, "as_of") == 0)
			continue;
		m->var = project_grow(p->a, m->var, m->var_count, &cap, sizeof(*m->var));
		m->var[m->var_count++] = (struct model_var){key, v->text};
	}
	return 0;
}

static int check_folder(struct project *p, const char *file, const struct yaml_node *map,
			const char *key, const char *only)
{
	const struct yaml_node *n = yaml_get(map, key);
	if (n == NULL || (n->kind == YAML_LIST && n->count == 1 &&
			  n->item[0]->kind == YAML_SCALAR && strcmp(n->item[0]->text, only) == 0))
		return 0;
	return yaml_fail(file, n, p->err, "%s is [\"%s\"]: another folder is not looked into", key,
			 only);
}

int project_read_settings(struct project *p, const struct models_file *f)
{
	/* The second line: of dbt, and without meaning here. */
	static const char *const known[] = {"name",
					    "models",
					    "seeds",
					    "vars",
					    "model-paths",
					    "seed-paths",
					    "version",
					    "config-version",
					    "profile",
					    "analysis-paths",
					    "test-paths",
					    "macro-paths",
					    "snapshot-paths",
					    "docs-paths",
					    "asset-paths",
					    "target-path",
					    "log-path",
					    "clean-targets",
					    "packages-install-path",
					    "require-dbt-version",
					    "flags",
					    NULL};
	struct yaml_node *root, *n;
	int rc = yaml_parse(p->a, f->path, (const char *)f->text.p, f->text.len, &root, p->err);
	if (rc == 0)
		rc = project_check_keys(p, f->path, root, "dbt_project.yml", known);
	if (rc == 0)
		rc = take_name(p, f->path, root, "a project", &p->m->name);
	if (rc == 0)
		rc = check_folder(p, f->path, root, "model-paths", "models");
	if (rc == 0)
		rc = check_folder(p, f->path, root, "seed-paths", "seeds");
	if (rc == 0 && (n = yaml_get(root, "vars")) != NULL)
		rc = read_vars(p, f->path, n);
	if (rc != 0 || (n = yaml_get(root, "models")) == NULL)
		return rc;
	const char *const name[] = {p->m->name, NULL};
	rc = project_check_keys(p, f->path, n, "models", name);
	return rc == 0 && n->count == 1 ? read_rules(p, f->path, n->item[0], "") : rc;
}

/* ---- columns ---- */

/* As PostgreSQL writes a type; nothing that could end it in SQL. */
static bool is_type(const char *text)
{
	if (text[0] == '\0' || strlen(text) > 100)
		return false;
	for (const char *c = text; *c != '\0'; c++)
		if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
		      (*c >= '0' && *c <= '9') || strchr(" _(),[].", *c) != NULL))
			return false;
	return true;
}

static int take_column(struct project *p, const char *file, const struct yaml_node *map,
		       struct model *md, struct model_column *ret)
{
	static const char *const known[] = {"name",  "description", "data_type",
					    "tests", "data_tests",  "meta",
					    "tags",  "config",	    NULL};
	struct yaml_node *n;
	int rc = project_check_keys(p, file, map, "a column", known);
	if (rc == 0)
		rc = take_name(p, file, map, "a column", &ret->name);
	if (rc == 0 && (strlen(ret->name) > 63 || strpbrk(ret->name, "\"\n\r") != NULL))
		rc = yaml_fail(file, map, p->err,
			       "a column's name has at most 63 bytes, and no quotes");
	if (rc == 0)
		rc = project_text(p, file, map, "description", "", &ret->description);
	if (rc == 0)
		rc = project_text(p, file, map, "data_type", NULL, &ret->type);
	if (rc != 0)
		return rc;
	ret->place = place_of(file, map);
	if (ret->type != NULL && !is_type(ret->type))
		return yaml_fail(file, yaml_get(map, "data_type"), p->err,
				 "data_type is a type as PostgreSQL writes it, numeric(20,2)");
	static const char *const tests[] = {"tests", "data_tests"};
	for (size_t i = 0; rc == 0 && i < ARRAY_LEN(tests); i++) {
		if ((n = yaml_get(map, tests[i])) == NULL)
			continue;
		if (md == NULL)
			return yaml_fail(
				file, n, p->err,
				"tests belong to the model of staging that reads the source");
		rc = project_read_tests(p, file, n, md, ret->name);
	}
	return rc;
}

static int take_columns(struct project *p, const char *file, const struct yaml_node *list,
			struct model *md, struct model_column **ret, size_t *ret_count)
{
	if (list->kind != YAML_LIST || list->count > MODEL_COLUMNS_MAX)
		return yaml_fail(file, list, p->err, "columns is a list of at most %d",
				 MODEL_COLUMNS_MAX);
	struct model_column *column = arena_zalloc(p->a, (list->count + 1) * sizeof(*column));
	for (size_t i = 0; i < list->count; i++) {
		int rc = take_column(p, file, list->item[i], md, &column[i]);
		if (rc != 0)
			return rc;
		for (size_t k = 0; k < i; k++)
			if (strcmp(column[k].name, column[i].name) == 0)
				return yaml_fail(file, list->item[i], p->err,
						 "column %s stands twice", column[i].name);
	}
	*ret = column;
	*ret_count = list->count;
	return 0;
}

/* ---- models and seeds ---- */

static int take_contract(struct project *p, const char *file, const struct yaml_node *map,
			 struct model *md)
{
	static const char *const known[] = {"enforced", "alias_types", NULL};
	int rc = project_check_keys(p, file, map, "contract", known);
	struct yaml_node *n = rc == 0 ? yaml_get(map, "enforced") : NULL;
	if (rc == 0 && (n == NULL || !yaml_bool(n, &md->contract)))
		rc = yaml_fail(file, n != NULL ? n : map, p->err,
			       "contract: {enforced: true} or false");
	return rc;
}

/* config.column_types of a seed: column → type. */
static int take_column_types(struct project *p, const char *file, const struct yaml_node *map,
			     struct model *md)
{
	if (map->kind != YAML_MAP)
		return yaml_fail(file, map, p->err, "column_types is a map");
	size_t room = md->column_count + map->count + 1;
	struct model_column *all = arena_zalloc(p->a, room * sizeof(*all));
	if (md->column_count > 0)
		memcpy(all, md->column, md->column_count * sizeof(*all));
	for (size_t i = 0; i < map->count; i++) {
		size_t k = 0;
		while (k < md->column_count && strcmp(all[k].name, map->key[i]->text) != 0)
			k++;
		if (map->item[i]->kind != YAML_SCALAR || !is_type(map->item[i]->text))
			return yaml_fail(file, map->item[i], p->err,
					 "a type as PostgreSQL writes it");
		if (k == md->column_count)
			all[md->column_count++] =
				(struct model_column){.name = map->key[i]->text,
						      .description = "",
						      .place = place_of(file, map->key[i])};
		all[k].type = map->item[i]->text;
	}
	md->column = all;
	return 0;
}

static int take_config(struct project *p, const char *file, const struct yaml_node *map,
		       struct model *md)
{
	static const char *const of_model[] = {"materialized", "contract", "tags", "meta", NULL};
	static const char *const of_seed[] = {"column_types", "tags", "meta", NULL};
	struct yaml_node *n;
	bool seed = md->layer == MODEL_SEED;
	int rc = project_check_keys(p, file, map, "config", seed ? of_seed : of_model);
	if (rc == 0 && (n = yaml_get(map, "materialized")) != NULL)
		rc = take_materialized(p, file, n, &md->table);
	if (rc == 0 && (n = yaml_get(map, "contract")) != NULL)
		rc = take_contract(p, file, n, md);
	if (rc == 0 && (n = yaml_get(map, "column_types")) != NULL)
		rc = take_column_types(p, file, n, md);
	return rc;
}

static int check_contract(struct project *p, const char *file, const struct yaml_node *map,
			  const struct model *md)
{
	for (size_t i = 0; md->contract && i < md->column_count; i++)
		if (md->column[i].type == NULL)
			return model_fail(&md->column[i].place, p->err,
					  "model %s has a contract: column %s wants a data_type",
					  md->name, md->column[i].name);
	if (md->contract && md->column_count == 0)
		return yaml_fail(file, map, p->err, "model %s has a contract, and no columns",
				 md->name);
	return 0;
}

static int find_described(struct project *p, const char *file, const struct yaml_node *map,
			  bool seeds, struct model **ret)
{
	const char *name;
	int rc = take_name(p, file, map, seeds ? "a seed" : "a model", &name);
	if (rc != 0)
		return rc;
	*ret = models_find(p->m, name);
	if (*ret == NULL || ((*ret)->layer == MODEL_SEED) != seeds)
		return yaml_fail(file, yaml_get(map, "name"), p->err, "there is no %s %s",
				 seeds ? "seed" : "model", name);
	if ((*ret)->described.file != NULL)
		return yaml_fail(file, map, p->err, "%s is described at %s:%d, too", name,
				 (*ret)->described.file, (*ret)->described.line);
	(*ret)->described = place_of(file, map);
	return 0;
}

static int read_model(struct project *p, const char *file, const struct yaml_node *map, bool seeds)
{
	static const char *const known[] = {"name",	  "description", "columns",  "tests",
					    "data_tests", "config",	 "contract", "docs",
					    "meta",	  "tags",	 NULL};
	struct model *md = NULL;
	struct yaml_node *n;
	int rc = project_check_keys(p, file, map, seeds ? "a seed" : "a model", known);
	if (rc == 0)
		rc = find_described(p, file, map, seeds, &md);
	if (rc == 0)
		rc = project_text(p, file, map, "description", "", &md->description);
	if (rc == 0 && (n = yaml_get(map, "columns")) != NULL)
		rc = take_columns(p, file, n, md, &md->column, &md->column_count);
	if (rc == 0 && (n = yaml_get(map, "config")) != NULL)
		rc = take_config(p, file, n, md);
	if (rc == 0 && (n = yaml_get(map, "contract")) != NULL)
		rc = take_contract(p, file, n, md);
	if (rc == 0 && (n = yaml_get(map, "tests")) != NULL)
		rc = project_read_tests(p, file, n, md, NULL);
	if (rc == 0 && (n = yaml_get(map, "data_tests")) != NULL)
		rc = project_read_tests(p, file, n, md, NULL);
	return rc == 0 ? check_contract(p, file, map, md) : rc;
}

/* ---- sources ---- */

static int take_period(struct project *p, const char *file, const struct yaml_node *map,
		       int64_t *ret_us)
{
	static const char *const known[] = {"count", "period", NULL};
	static const struct {
		const char *name;
		int64_t us;
	} periods[] = {{"minute", MINUTE_US}, {"hour", 60 * MINUTE_US}, {"day", 1440 * MINUTE_US}};
	int64_t count;
	int rc = project_check_keys(p, file, map, "a period of freshness", known);
	if (rc != 0)
		return rc;
	const struct yaml_node *c = yaml_get(map, "count"), *u = yaml_get(map, "period");
	if (c == NULL || !yaml_int(c, &count) || count < 1 || count > PERIODS_MAX)
		return yaml_fail(file, c != NULL ? c : map, p->err,
				 "count is a number from 1 to %d", PERIODS_MAX);
	for (size_t i = 0; u != NULL && u->kind == YAML_SCALAR && i < ARRAY_LEN(periods); i++)
		if (strcmp(u->text, periods[i].name) == 0) {
			*ret_us = count * periods[i].us;
			return 0;
		}
	return yaml_fail(file, u != NULL ? u : map, p->err, "period is minute, hour or day");
}

static int take_freshness(struct project *p, const char *file, const struct yaml_node *map,
			  struct model_source *s)
{
	static const char *const known[] = {"warn_after", "error_after", NULL};
	struct yaml_node *n;
	s->warn_after_us = s->error_after_us = 0;
	if (yaml_is_null(map)) /* dbt: not of this table */
		return 0;
	int rc = project_check_keys(p, file, map, "freshness", known);
	if (rc == 0 && (n = yaml_get(map, "warn_after")) != NULL)
		rc = take_period(p, file, n, &s->warn_after_us);
	if (rc == 0 && (n = yaml_get(map, "error_after")) != NULL)
		rc = take_period(p, file, n, &s->error_after_us);
	return rc;
}

/* What a source says for all its tables, and a table over it; both may have it under config. */
static int take_loaded(struct project *p, const char *file, const struct yaml_node *map,
		       struct model_source *s)
{
	static const char *const known[] = {"freshness", "loaded_at_field", "tags", "meta", NULL};
	struct yaml_node *n;
	int rc = project_text(p, file, map, "loaded_at_field", s->loaded_at, &s->loaded_at);
	if (rc == 0 && (n = yaml_get(map, "freshness")) != NULL)
		rc = take_freshness(p, file, n, s);
	if (rc != 0 || (n = yaml_get(map, "config")) == NULL)
		return rc;
	rc = project_check_keys(p, file, n, "config", known);
	if (rc == 0)
		rc = project_text(p, file, n, "loaded_at_field", s->loaded_at, &s->loaded_at);
	if (rc == 0 && yaml_get(n, "freshness") != NULL)
		rc = take_freshness(p, file, yaml_get(n, "freshness"), s);
	return rc;
}

static int check_loaded(struct project *p, const char *file, const struct yaml_node *map,
			const struct model_source *s)
{
	struct model_text scanned;
	if (s->loaded_at == NULL && (s->warn_after_us != 0 || s->error_after_us != 0))
		return yaml_fail(file, map, p->err, "freshness of %s.%s wants a loaded_at_field",
				 s->source, s->table);
	if (s->loaded_at == NULL)
		return 0;
	struct rt_err why;
	if (model_scan(p->a, "", slice_str(s->loaded_at), &scanned, &why) != 0 ||
	    scanned.piece_count != 1 || scanned.piece[0].kind != PIECE_SQL)
		return yaml_fail(file, map, p->err,
				 "loaded_at_field of %s.%s is not an expression of SQL", s->source,
				 s->table);
	return 0;
}

static int read_source_table(struct project *p, const char *file, const struct yaml_node *map,
			     const struct model_source *all)
{
	static const char *const known[] = {
		"name",	  "identifier", "description", "columns", "loaded_at_field", "freshness",
		"config", "meta",	"tags",	       "tests",	  "data_tests",	     NULL};
	struct models *m = p->m;
	struct model_source s = *all;
	struct yaml_node *n;
	int rc = project_check_keys(p, file, map, "a table of a source", known);
	if (rc == 0)
		rc = take_name(p, file, map, "a table of a source", &s.table);
	if (rc == 0)
		rc = project_text(p, file, map, "identifier", s.table, &s.identifier);
	if (rc == 0)
		rc = project_text(p, file, map, "description", "", &s.description);
	if (rc == 0 && (n = yaml_get(map, "columns")) != NULL)
		rc = take_columns(p, file, n, NULL, &s.column, &s.column_count);
	if (rc == 0 && (yaml_get(map, "tests") != NULL || yaml_get(map, "data_tests") != NULL))
		rc = yaml_fail(file, map, p->err,
			       "tests belong to the model of staging that reads the source");
	if (rc == 0 && (rc = take_loaded(p, file, map, &s)) == 0)
		rc = check_loaded(p, file, map, &s);
	if (rc != 0)
		return rc;
	s.place = place_of(file, map);
	m->source =
		project_grow(p->a, m->source, m->source_count, &p->source_cap, sizeof(*m->source));
	m->source[m->source_count++] = s;
	return 0;
}

static int read_source(struct project *p, const char *file, const struct yaml_node *map)
{
	static const char *const known[] = {
		"name",	     "schema", "description", "tables", "loaded_at_field",
		"freshness", "config", "loader",      "meta",	"tags",
		NULL};
	struct model_source all = {.source = ""};
	struct yaml_node *n = NULL;
	int rc = project_check_keys(p, file, map, "a source", known);
	if (rc == 0)
		rc = take_name(p, file, map, "a source", &all.source);
	if (rc == 0)
		rc = project_text(p, file, map, "schema", all.source, &all.schema);
	if (rc == 0)
		rc = take_loaded(p, file, map, &all);
	if (rc != 0)
		return rc;
	all.landed = strcmp(all.source, "raw") == 0;
	if ((n = yaml_get(map, "tables")) == NULL || n->kind != YAML_LIST)
		return yaml_fail(file, n != NULL ? n : map, p->err,
				 "source %s has a list of tables", all.source);
	for (size_t i = 0; rc == 0 && i < n->count; i++)
		rc = read_source_table(p, file, n->item[i], &all);
	return rc;
}

int project_read_properties(struct project *p, const struct models_file *f)
{
	static const char *const known[] = {"version", "models", "seeds", "sources", NULL};
	struct yaml_node *root;
	int rc = yaml_parse(p->a, f->path, (const char *)f->text.p, f->text.len, &root, p->err);
	if (rc == 0)
		rc = project_check_keys(p, f->path, root, "the file", known);
	for (size_t i = 0; rc == 0 && i < root->count; i++) {
		const char *key = root->key[i]->text;
		const struct yaml_node *list = root->item[i];
		if (strcmp(key, "version") == 0)
			continue;
		if (list->kind != YAML_LIST)
			return yaml_fail(f->path, list, p->err, "%s is a list", key);
		for (size_t k = 0; rc == 0 && k < list->count; k++)
			rc = strcmp(key, "sources") == 0 ? read_source(p, f->path, list->item[k])
							 : read_model(p, f->path, list->item[k],
								      strcmp(key, "seeds") == 0);
	}
	return rc;
}
