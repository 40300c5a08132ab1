/*
 * runs: requests for reports and what became of them, as functions over the
 * control tables rolag.report_run and rolag.report_file. For whoever asks or
 * looks (commands, HTTP, the companion itself); queue.h is for the companion.
 */
#ifndef APPLY_REPORTS_RUNS_H
#define APPLY_REPORTS_RUNS_H

#include <libpq-fe.h>

#include "proto/base/arena.h"
#include "proto/settings.h"
#include "transforms/report/definition.h"

#define RUNS_ID_SIZE 37		    /* a uuid's text and a NUL */
#define RUNS_CHANNEL "rolag_report" /* NOTIFY at a request, its payload the pipeline */

struct runs_request {
	const char *type;    /* "manual" or "scheduled" */
	const char **report; /* as report_select gives them */
	size_t report_count;
	const char *as_of;	       /* "YYYY-MM-DD" or NULL */
	const char *requester;	       /* who, or what: for people to read */
	const char *idempotency_key;   /* NULL: none. The same again is the same run */
	const char *idempotency_body;  /* with it: a hash of what was asked for, as it was asked */
	const char *schedule, *due_at; /* of a scheduled one; else NULL */
	bool allow_stale, accept_quarantine;
};

/* A run as its row has it; texts are NULL where SQL has NULL; times are ISO 8601 in UTC. */
struct run {
	const char *id;
	int64_t number; /* grows with each request */
	const char *type, *state, *client_state;
	const char **report;
	size_t report_count;
	const char *as_of, *requester, *schedule, *due_at;
	bool allow_stale, accept_quarantine, kept;
	const char *served_by;
	int failures;
	const char *requested_at, *waiting_at, *building_at, *writing_at, *ended_at;
	const char *fence_lsn, *stale, *watermark_lsn, *watermark_at;
	const char *pack;  /* SHA-256 of the definitions that it used */
	const char *built; /* JSON */
	const char *manifest;
	const char *reason;
};

struct run_file {
	const char *report;
	enum report_format format;
	const char *path; /* below the run's folder; NULL: omitted says why there is none */
	int64_t rows, bytes;
	const char *sha256;
	const char *omitted, *invalid, *xsd;
};

struct runs_filter {
	const char *state;	  /* NULL: any */
	const char *client_state; /* NULL: any */
	const char *report;	  /* NULL: any */
	const char *type;	  /* NULL: any */
	const char *from, *to;	  /* requested at, ISO 8601 in UTC, to excluded; NULL: any time */
	const char *id;		  /* a whole uuid; NULL: any */
	int64_t before;		  /* number; 0: from the newest on */
	int limit;
	bool whole; /* built and manifest, too, which are large; else they are NULL */
};

/*
 * A statement with its parameters, for whoever waits for the answer (the functions
 * with a connection, below) or may not (apply/reports/http/ask.h). Texts are borrowed or the arena's.
 */
#define RUNS_PARAMS_MAX 12
struct runs_ask {
	const char *sql;
	int count;
	const char *param[RUNS_PARAMS_MAX];
};

/* What became of a request. */
struct runs_asked {
	char id[RUNS_ID_SIZE];
	bool fresh; /* false: the idempotency key's run was there */
	bool same;  /* false: and it was asked for with another idempotency_body */
};

/*
 * A connection to the warehouse as runs need it (times in UTC); name: as pg_stat_activity shows it.
 * With a loop its statements wait by that (pgc_wait_by). ERR_PERMANENT unless the control schema has our version.
 */
struct loop;
int runs_connect(PGconn **ret, const struct settings *s, const char *name, struct loop *loop,
		 struct rt_err *err) RT_MUSTCHECK;
/* Reads the definitions (s->reports.definitions) into the arena; *ret_hash, *ret_text may be NULL. */
int runs_pack(const struct settings *s, struct arena *a, struct report_pack *ret,
	      const char **ret_hash, struct slice *ret_text, struct rt_err *err) RT_MUSTCHECK;

/* What a session needs to be one of runs: times in UTC, commits on disk. */
extern const char runs_session_sql[];

/* Statement and answer of runs_request, runs_list and runs_files: the row and its NOTIFY are one statement. */
void runs_ask_request(struct arena *a, const char *pipeline, const struct runs_request *q,
		      struct runs_ask *ret);
void runs_take_request(const PGresult *res, struct runs_asked *ret);
void runs_ask_list(struct arena *a, const char *pipeline, const struct runs_filter *f,
		   struct runs_ask *ret);
void runs_take_list(struct arena *a, const PGresult *res, struct run **ret, size_t *ret_count);
void runs_ask_files(const struct run *r, struct runs_ask *ret);
void runs_take_files(struct arena *a, const PGresult *res, struct run_file **ret,
		     size_t *ret_count);

/* Queues a run and wakes the companion. *ret_new false: the idempotency key's run was there. */
int runs_request(PGconn *c, const char *pipeline, const struct runs_request *q,
		 char ret_id[RUNS_ID_SIZE], bool *ret_new, struct rt_err *err) RT_MUSTCHECK;
/* One run, by its whole id or a beginning that only one has. ERR_USAGE when there is none (or several). */
int runs_get(PGconn *c, struct arena *a, const char *pipeline, const char *id, struct run *ret,
	     struct rt_err *err) RT_MUSTCHECK;
/* Newest first. */
int runs_list(PGconn *c, struct arena *a, const char *pipeline, const struct runs_filter *f,
	      struct run **ret, size_t *ret_count, struct rt_err *err) RT_MUSTCHECK;
/* The files of a published run (of the one that served it), by report and format. */
int runs_files(PGconn *c, struct arena *a, const struct run *r, struct run_file **ret,
	       size_t *ret_count, struct rt_err *err) RT_MUSTCHECK;

/* Is it done, whichever way? */
bool runs_is_ended(const struct run *r);
/* The format of a name; false when it is none. */
bool runs_format(const char *name, enum report_format *ret);

#endif
