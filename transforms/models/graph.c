/* graph: who reads whom. Guarantees: order has every model behind its inputs; a cycle is named as a path. */
#include "transforms/models/project_inner.h"

static const char *nearest_model(const struct project *p, const char *name)
{
	const char **names = arena_alloc(p->a, p->m->model_count * sizeof(*names));
	for (size_t i = 0; i < p->m->model_count; i++)
		names[i] = p->m->model[i].name;
	return yaml_nearest(name, names, p->m->model_count);
}

static void add_once(size_t *list, size_t *count, size_t value)
{
	for (size_t i = 0; i < *count; i++)
		if (list[i] == value)
			return;
	list[(*count)++] = value;
}

static int unknown_model(struct project *p, const struct model_place *at, const char *name)
{
	const char *near = nearest_model(p, name);
	if (near != NULL)
		return model_fail(at, p->err, "there is no model %s; did you mean %s?", name, near);
	return model_fail(at, p->err, "there is no model %s", name);
}

static int unknown_source(struct project *p, const struct model_place *at,
			  const struct model_piece *piece)
{
	const struct models *m = p->m;
	const char **names = arena_alloc(p->a, m->source_count * sizeof(*names) + 1);
	for (size_t i = 0; i < m->source_count; i++)
		names[i] = arena_printf(p->a, "%s.%s", m->source[i].source, m->source[i].table);
	const char *wanted = arena_printf(p->a, "%s.%s", piece->name, piece->table);
	const char *near = yaml_nearest(wanted, names, m->source_count);
	if (near != NULL)
		return model_fail(at, p->err, "no *.yml declares source %s; did you mean %s?",
				  wanted, near);
	return model_fail(at, p->err, "no *.yml declares source %s", wanted);
}

static int check_var(struct project *p, const struct model_place *at, const char *name)
{
	const struct models *m = p->m;
	const char **names = arena_alloc(p->a, (m->var_count + 3) * sizeof(*names));
	size_t n = 0;
	names[n++] = "run_at";
	names[n++] = "run_day";
	names[n++] = "as_of";
	for (size_t i = 0; i < m->var_count; i++)
		names[n++] = m->var[i].name;
	for (size_t i = 0; i < n; i++)
		if (strcmp(names[i], name) == 0)
			return 0;
	const char *near = yaml_nearest(name, names, n);
	if (near != NULL)
		return model_fail(at, p->err, "there is no variable %s; did you mean %s?", name,
				  near);
	return model_fail(at, p->err, "there is no variable %s in dbt_project.yml", name);
}

static int resolve_piece(struct project *p, struct model *md, const struct model_piece *piece)
{
	struct model_place at = {md->file, piece->line, piece->column};
	const struct model *input;
	const struct model_source *source;
	switch (piece->kind) {
	case PIECE_REF:
		input = models_find(p->m, piece->name);
		if (input == NULL)
			return unknown_model(p, &at, piece->name);
		add_once(md->input, &md->input_count, (size_t)(input - p->m->model));
		return 0;
	case PIECE_SOURCE:
		if (md->layer != MODEL_STAGING)
			return model_fail(
				&at, p->err,
				"only models of staging read sources; make one there, and "
				"ref it");
		source = models_find_source(p->m, piece->name, piece->table);
		if (source == NULL)
			return unknown_source(p, &at, piece);
		add_once(md->source, &md->source_count, (size_t)(source - p->m->source));
		return 0;
	case PIECE_VAR:
		return check_var(p, &at, piece->name);
	case PIECE_SQL:
	case PIECE_THIS:
		return 0;
	}
	return 0;
}

static int resolve_model(struct project *p, struct model *md)
{
	md->input = arena_alloc(p->a, (md->sql.piece_count + 1) * sizeof(*md->input));
	md->source = arena_alloc(p->a, (md->sql.piece_count + 1) * sizeof(*md->source));
	for (size_t i = 0; i < md->sql.piece_count; i++) {
		int rc = resolve_piece(p, md, &md->sql.piece[i]);
		if (rc != 0)
			return rc;
	}
	for (size_t i = 0; i < md->test_count; i++) {
		struct model_test *t = &md->test[i];
		if (t->kind != TEST_RELATIONSHIPS)
			continue;
		const struct model *to = models_find(p->m, t->to);
		if (to == NULL)
			return unknown_model(p, &t->place, t->to);
		t->to_model = (size_t)(to - p->m->model);
	}
	return 0;
}

/* ---- order ---- */

enum mark { MARK_NEW, MARK_OPEN, MARK_DONE };

struct walk_step {
	size_t model;
	size_t next; /* which of its inputs comes next */
};

/* The open steps from the model on that is met again are the cycle. */
static int fail_cycle(struct project *p, const struct walk_step *step, size_t depth, size_t again)
{
	const struct models *m = p->m;
	struct buf path = BUF_INIT;
	size_t from = 0;
	while (step[from].model != again)
		from++;
	for (size_t i = from; i < depth && path.len < 700; i++)
		buf_printf(&path, "%s -> ", m->model[step[i].model].name);
	buf_str(&path, m->model[again].name);
	/* Where the last of them refers to the first. */
	const struct model *last = &m->model[step[depth - 1].model];
	struct model_place at = {last->file, 1, 1};
	for (size_t i = 0; i < last->sql.piece_count; i++) {
		const struct model_piece *piece = &last->sql.piece[i];
		if (piece->kind == PIECE_REF && strcmp(piece->name, m->model[again].name) == 0) {
			at.line = piece->line;
			at.column = piece->column;
			break;
		}
	}
	int rc = model_fail(&at, p->err, "models read each other in a circle: %s", buf_cstr(&path));
	buf_release(&path);
	return rc;
}

static int visit(struct project *p, size_t root, enum mark *mark, struct walk_step *step,
		 size_t *done)
{
	struct models *m = p->m;
	size_t depth = 0;
	mark[root] = MARK_OPEN;
	step[depth++] = (struct walk_step){root, 0};
	while (depth > 0) {
		struct walk_step *top = &step[depth - 1];
		const struct model *md = &m->model[top->model];
		if (top->next == md->input_count) {
			mark[top->model] = MARK_DONE;
			m->order[(*done)++] = top->model;
			depth--;
			continue;
		}
		size_t input = md->input[top->next++];
		if (mark[input] == MARK_OPEN)
			return fail_cycle(p, step, depth, input);
		if (mark[input] == MARK_NEW) {
			mark[input] = MARK_OPEN;
			step[depth++] = (struct walk_step){input, 0};
		}
	}
	return 0;
}

int graph_resolve(struct project *p)
{
	struct models *m = p->m;
	size_t done = 0;
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < m->model_count; i++)
		rc = resolve_model(p, &m->model[i]);
	enum mark *mark = arena_zalloc(p->a, (m->model_count + 1) * sizeof(*mark));
	struct walk_step *step = arena_alloc(p->a, (m->model_count + 1) * sizeof(*step));
	m->order = arena_alloc(p->a, (m->model_count + 1) * sizeof(*m->order));
	for (size_t i = 0; rc == 0 && i < m->model_count; i++)
		if (mark[i] == MARK_NEW)
			rc = visit(p, i, mark, step, &done);
	RT_ASSERT(rc != 0 || done == m->model_count);
	return rc;
}
