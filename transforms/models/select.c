/* select: selectors into sets of models. Guarantees: a selector that means no model is an error, not nothing. */
#include "transforms/models/select.h"

#include "proto/base/yaml.h"

#define SELECTOR_MAX 300

void models_close(const struct models *m, bool *set, bool with_inputs)
{
	/* Against the order, a model comes before its inputs; along it, behind them: one pass does. */
	for (size_t k = 0; k < m->model_count; k++) {
		size_t i = m->order[with_inputs ? m->model_count - 1 - k : k];
		for (size_t n = 0; n < m->model[i].input_count; n++) {
			size_t input = m->model[i].input[n];
			if (with_inputs && set[i])
				set[input] = true;
			else if (!with_inputs && set[input])
				set[i] = true;
		}
	}
}

/* Models below a folder of the project; how many. */
static size_t select_path(const struct models *m, const char *folder, bool *set)
{
	size_t n = strlen(folder), found = 0;
	while (n > 0 && folder[n - 1] == '/')
		n--;
	for (size_t i = 0; i < m->model_count; i++) {
		const char *file = m->model[i].file;
		if (n > 0 && strncmp(file, folder, n) == 0 && (file[n] == '/' || file[n] == '\0')) {
			set[i] = true;
			found++;
		}
	}
	return found;
}

static int select_report(const struct models *m, const char *id, const struct models_report *report,
			 size_t count, bool *set, struct rt_err *err)
{
	const char *const method = "report:";
	for (size_t i = 0; i < count; i++) {
		if (strcmp(report[i].id, id) != 0)
			continue;
		if (report[i].model == NULL) /* declared empty: it needs none */
			return 0;
		const struct model *md = models_find(m, report[i].model);
		if (md == NULL)
			return rt_fail(err, ERR_PERMANENT,
				       "report %s is of model %s, which is not there", id,
				       report[i].model);
		set[md - m->model] = true;
		return 0;
	}
	const char **ids = rt_malloc((count + 1) * sizeof(*ids));
	for (size_t i = 0; i < count; i++)
		ids[i] = report[i].id;
	const char *near = yaml_nearest(id, ids, count);
	int rc =
		near != NULL
			? rt_fail(err, ERR_USAGE, "%s%s: there is no such report; did you mean %s?",
				  method, id, near)
			: rt_fail(err, ERR_USAGE, "%s%s: there is no such report", method, id);
	free(ids);
	return rc;
}

static int fail_unknown(const struct models *m, const char *name, struct rt_err *err)
{
	const char **names = rt_malloc((m->model_count + 1) * sizeof(*names));
	for (size_t i = 0; i < m->model_count; i++)
		names[i] = m->model[i].name;
	const char *near = yaml_nearest(name, names, m->model_count);
	int rc = near != NULL
			 ? rt_fail(err, ERR_USAGE, "%s is no model and no folder; did you mean %s?",
				   name, near)
			 : rt_fail(err, ERR_USAGE, "%s is no model and no folder", name);
	free(names);
	return rc;
}

/* What stands between the plus signs. */
static int select_base(const struct models *m, const char *base, const struct models_report *report,
		       size_t report_count, bool *set, struct rt_err *err)
{
	if (strncmp(base, "report:", 7) == 0)
		return select_report(m, base + 7, report, report_count, set, err);
	if (strncmp(base, "path:", 5) == 0)
		return select_path(m, base + 5, set) > 0
			       ? 0
			       : rt_fail(err, ERR_USAGE, "%s: there is no model", base);
	const struct model *md = models_find(m, base);
	if (md != NULL) {
		set[md - m->model] = true;
		return 0;
	}
	char folder[SELECTOR_MAX + 8];
	snprintf(folder, sizeof(folder), "models/%s", base);
	if (base[0] != '\0' && select_path(m, folder, set) > 0)
		return 0;
	return fail_unknown(m, base, err);
}

static int select_one(const struct models *m, const char *word, size_t len,
		      const struct models_report *report, size_t report_count, bool *ret,
		      struct rt_err *err)
{
	char base[SELECTOR_MAX];
	if (len >= sizeof(base))
		return rt_fail(err, ERR_USAGE, "a selector is longer than %d bytes", SELECTOR_MAX);
	bool inputs = len > 0 && word[0] == '+';
	bool readers = len > 1 && word[len - 1] == '+';
	size_t n = len - inputs - readers;
	memcpy(base, word + inputs, n);
	base[n] = '\0';
	bool *set = rt_calloc(m->model_count + 1, sizeof(*set));
	bool *up = rt_calloc(m->model_count + 1, sizeof(*up));
	int rc = select_base(m, base, report, report_count, set, err);
	if (rc == 0) {
		memcpy(up, set, m->model_count * sizeof(*up));
		if (inputs)
			models_close(m, up, true);
		if (readers)
			models_close(m, set, false);
		for (size_t i = 0; i < m->model_count; i++)
			ret[i] = ret[i] || set[i] || up[i];
	}
	free(set);
	free(up);
	return rc;
}

int models_select(const struct models *m, const char *const *selector, size_t count,
		  const struct models_report *report, size_t report_count, bool *ret,
		  struct rt_err *err)
{
	memset(ret, 0, m->model_count * sizeof(*ret));
	for (size_t i = 0; count == 0 && i < m->model_count; i++)
		ret[i] = m->model[i].layer != MODEL_SEED;
	if (count == 0)
		models_close(m, ret, true);
	for (size_t i = 0; i < count; i++) {
		const char *s = selector[i];
		bool any = false;
		for (s += strspn(s, " "); *s != '\0'; s += strspn(s, " ")) {
			size_t len = strcspn(s, " ");
			int rc = select_one(m, s, len, report, report_count, ret, err);
			if (rc != 0)
				return rc;
			any = true;
			s += len;
		}
		if (!any)
			return rt_fail(err, ERR_USAGE, "a selector is empty");
	}
	return 0;
}
