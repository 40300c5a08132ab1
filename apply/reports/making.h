/* making: a run that is being worked at, and its build. */
#ifndef APPLY_REPORTS_MAKING_H
#define APPLY_REPORTS_MAKING_H

#include <jansson.h>

#include "apply/reports/runs.h"

#define MAKING_SCHEMA_MAX 48

struct making {
	const struct settings *s;
	int64_t epoch; /* of the companion */
	PGconn *c;
	struct arena arena;
	struct run run;
	struct report_pack pack;
	const char *pack_hash;
	struct slice pack_text;
	json_t *built;		/* NULL until it is built or read back */
	struct models *project; /* of the built-in builder; NULL: a command builds */
	struct run_file *file;
	size_t file_count;
	/* NULL, or called before each report that is written. */
	void (*progress)(void *ctx, size_t done, size_t total, const char *report);
	void *ctx;
};

/*
 * Reads the definitions: those of now before the build, those that the run was
 * built with (rolag.report_pack) after it.
 */
int making_read(struct making *m, struct rt_err *err) RT_MUSTCHECK;
/* Builds, and moves the run from building to writing together with what the build left. */
int making_build(struct making *m, struct rt_err *err) RT_MUSTCHECK;
/* The schema of a report's relation, as the build said. ERR_PERMANENT when it said nothing of it. */
int making_schema_of(const struct making *m, const struct report *r, const char **ret,
		     struct rt_err *err) RT_MUSTCHECK;
/* Do all relations that the files are written from exist? A crash, or a person, may have taken them away. */
int making_is_there(struct making *m, bool *ret, struct rt_err *err) RT_MUSTCHECK;
/* Back from writing to building: what was built is gone. */
int making_again(struct making *m, struct rt_err *err) RT_MUSTCHECK;
void making_release(struct making *m);

/* ---- the built-in builder (making_models.c); names: of models, a JSON array ---- */

struct models;
/* Appends the names of the landed tables that these models read, by whatever way. */
int making_models_sources(const struct models *project, const json_t *names, json_t *list,
			  struct rt_err *err) RT_MUSTCHECK;
/* Builds them into m->built. */
int making_models_build(struct making *m, const struct models *project, const json_t *names,
			struct rt_err *err) RT_MUSTCHECK;

/* The schema that a build command fills: this and the digits of the run's id. (The built-in builder's is build.h's.) */
#define MAKING_PREFIX "rolag_command_"
void making_schema(const char *run_id, char out[MAKING_SCHEMA_MAX]);

#endif
