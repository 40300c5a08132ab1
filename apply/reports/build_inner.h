/* build_inner: what the files of the builder share. One struct build per build, on build_run's stack. */
#ifndef APPLY_REPORTS_BUILD_INNER_H
#define APPLY_REPORTS_BUILD_INNER_H

#include "apply/reports/build.h"
#include "proto/base/buf.h"
#include "transforms/models/render.h"

/* Of the project's model of the same index. */
struct build_state {
	bool in;   /* it is selected, or read by one that is, or by a test of one */
	bool live; /* a view that reads a source, itself or by another view: within the build only */
	bool known;	    /* an earlier run had it with this fingerprint */
	bool reused;	    /* … and its relation is there */
	bool wanted;	    /* its relation is to be made */
	bool tested;	    /* a test of it is to be run */
	const char *schema; /* of its relation */
	int64_t rows;
};

struct build {
	PGconn *c;
	const struct build_options *o;
	const struct models *m;
	struct build_result *r;
	struct arena *a; /* the result's */
	const char *run; /* the run's id as 32 hex digits */
	struct build_state *state;
	struct model_fingerprint *fingerprint;
	const char **relation; /* of models: "schema"."name", quoted */
	const char **source;   /* of sources, likewise */
	const char **version;  /* of sources: equal versions are equal rows */
	bool *source_there;
	const char *as_of, *run_at; /* as SQL */
	int64_t deadline_us;	    /* monotonic */
	size_t done, total;	    /* models and tests, for o->progress */
	int64_t timeout_set_us;	    /* when the server was told how long a statement may take */
	struct rt_err *err;
};

/* A statement within the build's limits; ret may be NULL. On failure *ret_failed (may be NULL) gets the result. */
int build_query(struct build *b, const char *sql, int count, const char *const *params,
		PGresult **ret, PGresult **ret_failed) RT_MUSTCHECK;
/* The same with its text alone, formatted. */
int build_do(struct build *b, const char *fmt, ...) RT_PRINTF(2, 3) RT_MUSTCHECK;

/* "schema"."name", in the arena. */
const char *build_relation(struct arena *a, const char *schema, const char *name);
/* Tells whoever watches that the model (or a test of it) is next. */
void build_tell(struct build *b, size_t model);
/* Appends one element to a text[] literal begun by buf_str(b, "{"); NULL: SQL NULL. */
void build_array_add(struct buf *b, const char *text);
/* Ends it, and gives it. */
const char *build_array_end(struct buf *b);

/* build_sources.c. Which sources are there, outside of the transaction. */
int build_find_sources(struct build *b) RT_MUSTCHECK;
/* Begins the transaction: locks, then its snapshot, then the watermark. */
int build_begin(struct build *b) RT_MUSTCHECK;
/* Versions of all sources that are read, and how fresh they are. */
int build_look_at_sources(struct build *b) RT_MUSTCHECK;

/* build_models.c. Makes the relation of one model. */
int build_make(struct build *b, size_t model) RT_MUSTCHECK;
/* Sets err (whose message has no place yet) to be about the model as a whole. */
int build_about(struct build *b, const struct model *md);
/* build_seed.c */
int build_make_seed(struct build *b, size_t model) RT_MUSTCHECK;
/* build_tests.c. Which tests are to be run; their results so far into the result. */
int build_plan_tests(struct build *b) RT_MUSTCHECK;
int build_run_tests(struct build *b) RT_MUSTCHECK;
int build_note_tests(struct build *b) RT_MUSTCHECK;

/* 32 hex digits of a uuid's text; false when it is none. */
bool build_run_hex(const char *run_id, char ret[33]) RT_MUSTCHECK;

#endif
