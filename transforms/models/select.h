/*
 * select: which models are meant. A selector is `m` (the model), `+m` (and
 * all that it reads, at any depth), `m+` (and all that read it), `+m+`; in the
 * place of m: `report:norm/id` (the report's output model), `path:models/x` or
 * a folder's name below models (`outputs/nrp_91`, `staging`), as dbt has
 * them. Several are united; one may hold several, with blanks between.
 */
#ifndef TRANSFORMS_MODELS_SELECT_H
#define TRANSFORMS_MODELS_SELECT_H

#include "transforms/models/project.h"

/*
 * Sets ret[i] for each model i that is selected; none: all of them, but for
 * seeds that nothing reads. ret has m->model_count. ERR_USAGE, with the
 * nearest name, where a selector means nothing.
 */
int models_select(const struct models *m, const char *const *selector, size_t count,
		  const struct models_report *report, size_t report_count, bool *ret,
		  struct rt_err *err) RT_MUSTCHECK;
/* Adds to set, for each model in it, all that it reads (with_inputs) or all that read it. */
void models_close(const struct models *m, bool *set, bool with_inputs);

#endif
