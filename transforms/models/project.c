/* project: the folder's files into models, seeds and sources. Guarantees: what is returned is whole, and resolved. */
#include "transforms/models/project_inner.h"

const char *model_layer_name(enum model_layer layer)
{
	switch (layer) {
	case MODEL_STAGING:
		return "staging";
	case MODEL_INTERMEDIATE:
		return "intermediate";
	case MODEL_OUTPUTS:
		return "outputs";
	case MODEL_SEED:
		return "seeds";
	}
	return "";
}

int model_fail(const struct model_place *at, struct rt_err *err, const char *fmt, ...)
{
	char what[sizeof(err->msg)];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	return rt_fail(err, ERR_PERMANENT, "%s:%d:%d: %s", at->file, at->line, at->column, what);
}

void *project_grow(struct arena *a, void *old, size_t count, size_t *cap, size_t each)
{
	if (count < *cap)
		return old;
	*cap = *cap == 0 ? 8 : *cap * 2;
	void *grown = arena_zalloc(a, *cap * each);
	if (count > 0)
		memcpy(grown, old, count * each);
	return grown;
}

bool project_is_name(const char *name)
{
	for (const char *c = name; *c != '\0'; c++)
		if (!((*c >= 'a' && *c <= 'z') || *c == '_' ||
		      (c != name && *c >= '0' && *c <= '9')))
			return false;
	return name[0] != '\0';
}

static int compare_models(const void *a, const void *b)
{
	return strcmp(((const struct model *)a)->name, ((const struct model *)b)->name);
}

struct model *models_find(const struct models *m, const char *name)
{
	struct model key = {.name = name};
	return m->model_count == 0
		       ? NULL
		       : bsearch(&key, m->model, m->model_count, sizeof(*m->model), compare_models);
}

static int compare_sources(const void *a, const void *b)
{
	const struct model_source *x = a, *y = b;
	int c = strcmp(x->source, y->source);
	return c != 0 ? c : strcmp(x->table, y->table);
}

struct model_source *models_find_source(const struct models *m, const char *source,
					const char *table)
{
	struct model_source key = {.source = source, .table = table};
	return m->source_count == 0 ? NULL
				    : bsearch(&key, m->source, m->source_count, sizeof(*m->source),
					      compare_sources);
}

/* ---- files ---- */

static bool ends_in(const char *path, const char *end)
{
	size_t n = strlen(path), k = strlen(end);
	return n > k && strcmp(path + n - k, end) == 0;
}

static bool begins_with(const char *path, const char *start)
{
	return strncmp(path, start, strlen(start)) == 0;
}

static bool is_yaml(const char *path)
{
	return ends_in(path, ".yml") || ends_in(path, ".yaml");
}

/* The file's name without folders and ending. */
static const char *base_name(struct arena *a, const char *path)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash != NULL ? slash + 1 : path;
	return arena_strndup(a, name, (size_t)(strrchr(name, '.') - name));
}

static bool layer_of(const char *path, enum model_layer *ret)
{
	static const enum model_layer layers[] = {MODEL_STAGING, MODEL_INTERMEDIATE, MODEL_OUTPUTS};
	for (size_t i = 0; i < ARRAY_LEN(layers); i++) {
		const char *name = model_layer_name(layers[i]);
		size_t n = strlen(name);
		if (strncmp(path, name, n) == 0 && path[n] == '/') {
			*ret = layers[i];
			return true;
		}
	}
	return false;
}

static int add_model(struct project *p, const struct models_file *f, enum model_layer layer)
{
	struct models *m = p->m;
	struct model_place at = {f->path, 1, 1};
	const char *name = base_name(p->a, f->path);
	if (!project_is_name(name) || strlen(name) > MODEL_NAME_MAX)
		return model_fail(&at, p->err,
				  "the file's name is the model's: lower-case letters, digits and "
				  "_, at most %d",
				  MODEL_NAME_MAX);
	if (m->model_count == MODELS_MAX)
		return model_fail(&at, p->err, "more than %d models and seeds", MODELS_MAX);
	m->model = project_grow(p->a, m->model, m->model_count, &p->model_cap, sizeof(*m->model));
	m->model[m->model_count++] = (struct model){.name = name,
						    .layer = layer,
						    .file = f->path,
						    .text = f->text,
						    .table = layer == MODEL_SEED,
						    .description = ""};
	return 0;
}

static int take_file(struct project *p, const struct models_file *f)
{
	struct model_place at = {f->path, 1, 1};
	enum model_layer layer;
	if (begins_with(f->path, "seeds/") && ends_in(f->path, ".csv"))
		return add_model(p, f, MODEL_SEED);
	if (!begins_with(f->path, "models/") || !ends_in(f->path, ".sql"))
		return 0;
	if (!layer_of(f->path + strlen("models/"), &layer))
		return model_fail(&at, p->err,
				  "a model is in models/staging, models/intermediate or "
				  "models/outputs");
	return add_model(p, f, layer);
}

static int check_duplicates(struct project *p)
{
	struct models *m = p->m;
	if (m->model_count > 0)
		qsort(m->model, m->model_count, sizeof(*m->model), compare_models);
	for (size_t i = 1; i < m->model_count; i++) {
		struct model_place at = {m->model[i].file, 1, 1};
		if (strcmp(m->model[i - 1].name, m->model[i].name) == 0)
			return model_fail(&at, p->err, "%s is the name of %s, too",
					  m->model[i].name, m->model[i - 1].file);
	}
	return 0;
}

static int check_duplicate_sources(struct project *p)
{
	struct models *m = p->m;
	if (m->source_count > 0)
		qsort(m->source, m->source_count, sizeof(*m->source), compare_sources);
	for (size_t i = 1; i < m->source_count; i++)
		if (compare_sources(&m->source[i - 1], &m->source[i]) == 0)
			return model_fail(&m->source[i].place, p->err,
					  "source %s.%s is declared at %s:%d, too",
					  m->source[i].source, m->source[i].table,
					  m->source[i - 1].place.file, m->source[i - 1].place.line);
	return 0;
}

/* ---- how models are materialized ---- */

static bool rule_fits(const struct project_rule *r, const char *folders)
{
	size_t n = strlen(r->folder);
	return n == 0 || (strncmp(r->folder, folders, n) == 0 && folders[n] == '/');
}

/* By dbt_project.yml: the deepest folder counts. Outputs are tables, whatever it says of all. */
static bool is_table_by_rule(const struct project *p, const struct model *md)
{
	const struct project_rule *best = NULL;
	for (size_t i = 0; i < p->rule_count; i++)
		if (rule_fits(&p->rule[i], md->file + strlen("models/")) &&
		    (best == NULL || strlen(p->rule[i].folder) >= strlen(best->folder)))
			best = &p->rule[i];
	return best != NULL ? best->table : md->layer == MODEL_OUTPUTS;
}

static int scan_model(struct project *p, struct model *md)
{
	int rc = model_scan(p->a, md->file, md->text, &md->sql, p->err);
	if (rc != 0)
		return rc;
	struct model_place at = {md->file, md->sql.config_line, md->sql.config_column};
	switch (md->sql.materialized) {
	case MATERIALIZED_VIEW:
		md->table = false;
		break;
	case MATERIALIZED_TABLE:
		md->table = true;
		break;
	case MATERIALIZED_DEFAULT:
		at = md->described.file != NULL ? md->described
						: (struct model_place){md->file, 1, 1};
		break;
	}
	if (md->layer == MODEL_OUTPUTS && !md->table)
		return model_fail(&at, p->err,
				  "an output is a table: its file must be the same when it is "
				  "written again");
	return 0;
}

int models_read(struct arena *a, const struct models_file *file, size_t count, struct models **ret,
		struct rt_err *err)
{
	struct project p = {.a = a, .m = arena_zalloc(a, sizeof(*p.m)), .err = err};
	const struct models_file *settings = NULL;
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < count; i++) {
		if (strcmp(file[i].path, "dbt_project.yml") == 0)
			settings = &file[i];
		rc = take_file(&p, &file[i]);
	}
	if (rc == 0 && settings == NULL)
		return rt_fail(err, ERR_PERMANENT,
			       "dbt_project.yml:1:1: it is missing: the folder is no project");
	if (rc == 0 && (rc = check_duplicates(&p)) == 0)
		rc = project_read_settings(&p, settings);
	for (size_t i = 0; rc == 0 && i < p.m->model_count; i++)
		if (p.m->model[i].layer != MODEL_SEED)
			p.m->model[i].table = is_table_by_rule(&p, &p.m->model[i]);
	for (size_t i = 0; rc == 0 && i < count; i++)
		if (is_yaml(file[i].path) &&
		    (begins_with(file[i].path, "models/") || begins_with(file[i].path, "seeds/")))
			rc = project_read_properties(&p, &file[i]);
	if (rc == 0)
		rc = check_duplicate_sources(&p);
	for (size_t i = 0; rc == 0 && i < p.m->model_count; i++)
		if (p.m->model[i].layer != MODEL_SEED)
			rc = scan_model(&p, &p.m->model[i]);
	if (rc == 0 && (rc = graph_resolve(&p)) == 0)
		*ret = p.m;
	return rc;
}
