/*
 * project: a folder of models as dbt lays it out, read whole and checked:
 * dbt_project.yml, models/{staging,intermediate,outputs}/ with *.sql and
 * *.yml, seeds/ with *.csv and *.yml. Files come in by parameter. Every error
 * names file, line and column.
 *
 * What is taken of dbt's grammar is what is documented in
 * transforms/models/README.md; a key that is not known is an error, with the
 * nearest name.
 */
#ifndef TRANSFORMS_MODELS_PROJECT_H
#define TRANSFORMS_MODELS_PROJECT_H

#include "transforms/models/scan.h"

#define MODEL_NAME_MAX	      63   /* bytes: as PostgreSQL has it */
#define MODELS_MAX	      2000 /* models and seeds of a project */
#define MODEL_COLUMNS_MAX     1500
#define MODELS_FILE_MAX_BYTES (16u << 20) /* of one seed */

/* The schema of its stable view; seeds have none. */
enum model_layer { MODEL_STAGING, MODEL_INTERMEDIATE, MODEL_OUTPUTS, MODEL_SEED };

/* "staging" … "seeds" */
const char *model_layer_name(enum model_layer layer);

/* A place in one of the project's files. */
struct model_place {
	const char *file;
	int line, column;
};

enum model_test_kind {
	TEST_NOT_NULL,
	TEST_UNIQUE,
	TEST_ACCEPTED_VALUES,
	TEST_RELATIONSHIPS,
	TEST_EXPRESSION,
};

struct model_test {
	enum model_test_kind kind;
	bool warns; /* severity: warn */
	const char
		*column; /* NULL: of the whole model (TEST_EXPRESSION, TEST_UNIQUE over columns) */
	const char *where;  /* NULL: all rows */
	size_t value_count; /* accepted_values: values; unique over columns: their names */
	const char *const *value;
	bool plain;		/* accepted_values: written without quotes (quote: false) */
	const char *to;		/* relationships: the model … */
	const char *field;	/* … and its column */
	size_t to_model;	/* … as an index into models->model */
	const char *expression; /* holds for each row */
	struct model_place place;
};

const char *model_test_name(enum model_test_kind kind);

struct model_column {
	const char *name;
	const char *description; /* "" */
	const char *type;	 /* data_type as written; NULL: none */
	struct model_place place;
};

struct model {
	const char *name;
	enum model_layer layer;
	const char *file;  /* path within the project */
	struct slice text; /* of the file */
	bool table;	   /* else a view */
	bool contract;	   /* its columns are to be exactly those below */
	const char *description;
	struct model_text sql; /* not of a seed */
	size_t column_count, test_count, input_count, source_count;
	struct model_column *column;
	struct model_test *test;
	size_t *input;	/* models that it reads, each once; indices into models->model */
	size_t *source; /* sources that it reads, each once; indices into models->source */
	struct model_place described; /* its entry in a *.yml; file NULL: none */
};

/* A period of freshness in µs; 0: not declared. */
struct model_source {
	const char *source, *table;
	const char *schema, *identifier; /* the relation */
	bool landed;			 /* source `raw`: landed by this program */
	const char *loaded_at;		 /* SQL expression; NULL: none */
	int64_t warn_after_us, error_after_us;
	size_t column_count;
	struct model_column *column;
	const char *description;
	struct model_place place;
};

struct model_var {
	const char *name;
	const char *sql; /* as it is put into the SQL */
};

struct models {
	const char *name; /* of dbt_project.yml */
	size_t model_count, source_count, var_count;
	struct model *model;	     /* by name */
	struct model_source *source; /* by source and table */
	struct model_var *var;
	size_t *order; /* indices into model: inputs come before what reads them */
};

/* A file of the folder. */
struct models_file {
	const char *path; /* "models/staging/stg_a.sql" */
	struct slice text;
};

/* A report and the model that its file is written from. */
struct models_report {
	const char *id;	   /* "norm/name" */
	const char *model; /* NULL: it is declared empty */
};

/*
 * Reads the project. It borrows the files' text and paths, all else is in the
 * arena. ERR_PERMANENT: "path:line:column: …".
 */
int models_read(struct arena *a, const struct models_file *file, size_t count, struct models **ret,
		struct rt_err *err) RT_MUSTCHECK;

/* The model or seed of this name, or NULL. */
struct model *models_find(const struct models *m, const char *name);
struct model_source *models_find_source(const struct models *m, const char *source,
					const char *table);
/* Fails (ERR_PERMANENT) with "file:line:column: …". */
int model_fail(const struct model_place *at, struct rt_err *err, const char *fmt, ...)
	RT_PRINTF(3, 4);

#endif
