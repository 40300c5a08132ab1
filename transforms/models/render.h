/*
 * render: a model's SQL with relations and values in the place of its braces;
 * and its fingerprint, which is the same while SQL, values and inputs are.
 */
#ifndef TRANSFORMS_MODELS_RENDER_H
#define TRANSFORMS_MODELS_RENDER_H

#include "transforms/models/project.h"

/* 32 hex digits. */
struct model_fingerprint {
	char hex[33];
};

/* What stands for braces; the texts are put into the SQL as they are. */
struct render_names {
	const char *const
		*model; /* relation of each model of the project; NULL where none is needed */
	const char *const *source;  /* of each source */
	const char *this;	    /* of the model itself */
	const char *as_of, *run_at; /* as below; var('run_day') is the UTC day of run_at */
};

/* {{ var('as_of') }}: '2026-01-31'::date of days since 1970-01-01; in the arena. */
const char *render_as_of(struct arena *a, int32_t days);
/* {{ var('run_at') }}: a timestamptz of µs since 1970-01-01 UTC. */
const char *render_run_at(struct arena *a, int64_t us);

/*
 * Appends md's SQL to out. start (NULL, or md->sql.piece_count long) gets where
 * in out each piece begins.
 */
void model_render(const struct models *m, const struct model *md, const struct render_names *names,
		  struct buf *out, size_t *start);
/* Where the byte at of the rendered SQL (from its beginning) comes from. */
struct model_place render_place(const struct model *md, const size_t *start, size_t at);

/*
 * Of md, whose inputs have the fingerprints in model[], its sources the
 * versions in source[] (both by the project's indices). Of a seed, of its
 * file and types.
 */
struct model_fingerprint model_fingerprint(const struct models *m, const struct model *md,
					   const struct model_fingerprint *model,
					   const char *const *source, const char *as_of,
					   const char *run_at);
/* Of one of md's tests (m has md): over the rows of these fingerprints it has one outcome. */
struct model_fingerprint model_test_fingerprint(const struct models *m, const struct model *md,
						const struct model_test *t,
						const struct model_fingerprint *model);
#endif
