/* project_inner: what the files that read a project share. */
#ifndef TRANSFORMS_MODELS_PROJECT_INNER_H
#define TRANSFORMS_MODELS_PROJECT_INNER_H

#include "proto/base/yaml.h"
#include "transforms/models/project.h"

/* materialized for the models below a folder, of dbt_project.yml. */
struct project_rule {
	const char *folder; /* "staging/core"; "" all */
	bool table;
};

struct project {
	struct arena *a;
	struct models *m;
	struct project_rule *rule;
	size_t rule_count, rule_cap, model_cap, source_cap;
	struct rt_err *err;
};

/* dbt_project.yml. */
int project_read_settings(struct project *p, const struct models_file *f) RT_MUSTCHECK;
/* A *.yml beside models or seeds; all models and seeds are known. */
int project_read_properties(struct project *p, const struct models_file *f) RT_MUSTCHECK;
/* Entry `tests` (data_tests) of a model or, with column, of one of its columns; adds to md->test. */
int project_read_tests(struct project *p, const char *file, const struct yaml_node *list,
		       struct model *md, const char *column) RT_MUSTCHECK;

/* A map whose keys are among known (NULL-terminated); else an error with the nearest name. */
int project_check_keys(struct project *p, const char *file, const struct yaml_node *map,
		       const char *what, const char *const *known) RT_MUSTCHECK;
/* The scalar at key as text, or dflt when the key is absent. */
int project_text(struct project *p, const char *file, const struct yaml_node *map, const char *key,
		 const char *dflt, const char **ret) RT_MUSTCHECK;

/* Room for one more in an array that doubles in the arena. */
void *project_grow(struct arena *a, void *old, size_t count, size_t *cap, size_t each)
	__attribute__((returns_nonnull));
/* Is it a name that needs no quotes: [a-z_][a-z0-9_]*? */
bool project_is_name(const char *name);

/* graph.c: resolves what models read, and fills order. */
int graph_resolve(struct project *p) RT_MUSTCHECK;

#endif
