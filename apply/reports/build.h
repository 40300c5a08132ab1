/*
 * build: the models into the warehouse (design §8), in three acts. Build: one
 * REPEATABLE READ transaction fills the schema of the run; before its snapshot
 * it locks every source, behind it it reads the ledger, which is the batch's
 * watermark. Publish: a short transaction re-points the stable views
 * staging|intermediate|outputs.<model>, all or none. Drop: what nothing needs
 * any more of a run.
 *
 * A run's relations stand still: tables, and views that read nothing but
 * tables of runs. A view that reads a source, itself or by another view,
 * exists only within the build: kept, it would show rows behind the watermark,
 * and stand in the way of a landed table that is made anew. Outputs are
 * always tables.
 *
 * A model whose SQL and inputs are those of an earlier run is not built again:
 * its relation stays in that run's schema, and is not dropped with it while a
 * later run counts on it.
 */
#ifndef APPLY_REPORTS_BUILD_H
#define APPLY_REPORTS_BUILD_H

#include <libpq-fe.h>

#include "proto/base/arena.h"
#include "proto/lsn.h"
#include "proto/settings.h"
#include "transforms/models/project.h"

/* "rolag_run_" and the 32 hex digits of the run's id. */
#define BUILD_SCHEMA_MAX 48

struct build_options {
	const struct settings *s;
	const struct models *project;
	/* "m", "+m", "m+", "+m+", "report:norm/id", "path:folder"; none: all. What these need is built, too. */
	const char *const *selector;
	size_t selector_count;
	/* What report:… means: id and output model of each report. */
	const struct models_report *report;
	size_t report_count;
	const char *run_id; /* a uuid, as text */
	int32_t as_of;	    /* {{ var('as_of') }}: days since 1970-01-01 */
	int64_t run_at_us;  /* {{ var('run_at') }}: µs since 1970-01-01 UTC */
	int64_t limit_us;   /* of the whole build; 0: s->models.time_limit */
	bool anew;	    /* build what is unchanged, too */
	bool trial;	    /* all but COMMIT: nothing of it stays */
	bool kept; /* stays until build_drop; else build_sweep drops it once nothing needs it */
	/* NULL, or called before each statement; true ends the build with ERR_RETRY. */
	bool (*stopped)(void *ctx);
	/* NULL, or called before each model that is made and each test that is run; done counts these. */
	void (*progress)(void *ctx, size_t done, size_t total, const char *model);
	void *ctx;
};

struct build_model {
	const char *name;
	enum model_layer layer;
	bool table;	    /* else a view */
	const char *schema; /* of its relation; NULL: a view that existed within the build only */
	bool reused;	    /* of an earlier run, in whose schema it is */
	int64_t rows;	    /* of a table; -1 else */
	char fingerprint[33];
};

struct build_test {
	const char *model;
	const char *column; /* NULL: of the whole model */
	const char *name;   /* "not_null" … */
	bool warns;	    /* severity warn: does not fail the build */
	bool reused;	    /* its result is of an earlier run over the same rows */
	int64_t failures;   /* rows that do not hold; 0: passed */
};

enum build_freshness {
	SOURCE_FRESH,
	SOURCE_STALE_WARN,
	SOURCE_STALE_ERROR,
	SOURCE_EMPTY,
	SOURCE_ABSENT
};

/* A source that declares its freshness, or that is not there. */
struct build_source {
	const char *source, *table;
	enum build_freshness state;
	int64_t loaded_at_us; /* of its newest row, µs since 1970; 0: none */
};

struct build_result {
	struct arena arena; /* of all below */
	char schema[BUILD_SCHEMA_MAX];
	struct lsn watermark;	 /* everything up to this commit end LSN of the core is in it */
	int64_t committed_at_us; /* of the newest transaction applied, µs since 1970; 0: none */
	size_t model_count, test_count, source_count;
	struct build_model *model; /* in the order of building; seeds are among them */
	struct build_test *test;
	struct build_source *source;
};

/*
 * Builds on c (no transaction open, none is on return); what an earlier call
 * for the same run left unpublished goes first. On failure nothing of
 * the run is left in the warehouse; *ret then holds as much as was learned
 * (test results), and is released all the same. ERR_PERMANENT: SQL, contract
 * or test of a model, with file:line:column where it has one; ERR_RETRY: the
 * time limit, a lock, a lost connection, a table made anew meanwhile.
 */
int build_run(PGconn *c, const struct build_options *o, struct build_result *ret,
	      struct rt_err *err) RT_MUSTCHECK;
void build_result_release(struct build_result *r); /* zeroed is fine */

/* What goes into the publishing transaction behind the views: the run's own rows. */
struct build_publish {
	const struct settings *s;
	const struct models *project;
	const char *run_id;
	int (*with)(void *ctx, PGconn *c,
		    struct rt_err *err); /* NULL: nothing; may be called again after a ROLLBACK */
	void *ctx;
};

/*
 * Points the stable views at the run's relations, all of them or none. A view
 * whose columns were dropped, renamed or retyped is made anew, with owner,
 * grants and comments, where nothing depends on it; else ERR_PERMANENT naming
 * what does. ERR_RETRY when a reader held a view for longer than
 * models.publish_wait in sum. Published already: done.
 */
int build_publish(PGconn *c, const struct build_publish *p, struct rt_err *err) RT_MUSTCHECK;

/*
 * Drops the run: its rows in rolag.model…, and every relation of its schema
 * that no other run and nobody else's view needs. What is left goes with the
 * last run that needs it. A run that is not there: done.
 */
int build_drop(PGconn *c, const char *run_id, struct rt_err *err) RT_MUSTCHECK;
/*
 * Drops runs that were built and never published, and whose builder's session
 * is gone: what a crash left. And of those that nobody keeps, the ones that
 * nothing needs any more. For the start of whoever builds. *ret_dropped: how many.
 */
int build_sweep(PGconn *c, int *ret_dropped, struct rt_err *err) RT_MUSTCHECK;

/* Appends the query that counts the rows for which a test of the model does not hold; relation: of models, quoted. */
void build_test_sql(const struct model_test *t, const char *const *relation, size_t model,
		    struct arena *a, struct buf *sql);
/* Reads the folder (s->models.path) into *ret, which lives in the arena. */
int build_read_project(struct arena *a, const char *path, struct models **ret,
		       struct rt_err *err) RT_MUSTCHECK;

#endif
