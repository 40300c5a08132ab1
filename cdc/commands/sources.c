/* sources: names out of the definitions. Guarantees: a fixed order, each rollup once. */
#include "cdc/commands/sources.h"

#include <dirent.h>
#include <errno.h>

#include "proto/base/yaml.h"

static int only_yaml(const struct dirent *e)
{
	size_t n = strlen(e->d_name);
	return n > 5 && e->d_name[0] != '.' && strcmp(e->d_name + n - 5, ".yaml") == 0;
}

static int read_names(struct arena *a, const char *path, struct source *ret, struct rt_err *err)
{
	struct yaml_node *root;
	int rc = yaml_load(a, path, &root, err);
	if (rc != 0)
		return rc;
	const struct yaml_node *name = yaml_get(root, "rollup");
	const struct yaml_node *from = yaml_get(root, "source");
	if (name == NULL || from == NULL || name->kind != YAML_SCALAR || from->kind != YAML_SCALAR)
		return yaml_fail(path, root, err, "rollup and source must be given");
	const char *dot = strchr(from->text, '.');
	if (dot == NULL)
		return yaml_fail(path, from, err, "source must be schema.table");
	*ret = (struct source){.file = path,
			       .rollup = name->text,
			       .schema = arena_strndup(a, from->text, (size_t)(dot - from->text)),
			       .table = dot + 1};
	return 0;
}

static bool is_wanted(const struct settings *s, const char *rollup)
{
	for (size_t i = 0; i < s->rollups.land.count; i++)
		if (strcmp(s->rollups.land.item[i], rollup) == 0)
			return true;
	return s->rollups.land.count == 0;
}

static const struct source *find(const struct source *item, size_t count, const char *rollup)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(item[i].rollup, rollup) == 0)
			return &item[i];
	return NULL;
}

static int read_all(const struct settings *s, struct arena *a, struct dirent **entry, int n,
		    struct sources *ret, struct rt_err *err)
{
	struct source *item = arena_alloc(a, (size_t)n * sizeof(*item));
	size_t count = 0;
	for (int i = 0; i < n; i++) {
		struct source one;
		const char *path = arena_printf(a, "%s/%s", s->rollups.path, entry[i]->d_name);
		int rc = read_names(a, path, &one, err);
		if (rc != 0)
			return rc;
		const struct source *twin = find(item, count, one.rollup);
		if (twin != NULL)
			return rt_fail(err, ERR_PERMANENT, "rollup %s is defined twice: %s and %s",
				       one.rollup, twin->file, path);
		if (is_wanted(s, one.rollup))
			item[count++] = one;
	}
	for (size_t i = 0; i < s->rollups.land.count; i++)
		if (find(item, count, s->rollups.land.item[i]) == NULL)
			return rt_fail(err, ERR_PERMANENT,
				       "rollups.land names %s, which no definition in %s defines",
				       s->rollups.land.item[i], s->rollups.path);
	*ret = (struct sources){count, item};
	return 0;
}

int sources_load(const struct settings *s, struct arena *a, struct sources *ret, struct rt_err *err)
{
	struct dirent **entry;
	int n = scandir(s->rollups.path, &entry, only_yaml, alphasort);
	if (n < 0)
		return rt_fail_errno(err, ERR_PERMANENT, "rollups.path: cannot read %s",
				     s->rollups.path);
	int rc = n == 0 ? rt_fail(err, ERR_PERMANENT, "rollups.path: no *.yaml in %s",
				  s->rollups.path)
			: read_all(s, a, entry, n, ret, err);
	for (int i = 0; i < n; i++)
		free(entry[i]);
	free(entry);
	return rc;
}
