/*
 * ask: statements for the warehouse on behalf of HTTP, without waiting: a
 * connection of its own, made at the first question, and a queue. A turn of the
 * loop never waits for the warehouse here; who asked is told when the answer is
 * there, or that there will be none.
 */
#ifndef APPLY_REPORTS_HTTP_ASK_H
#define APPLY_REPORTS_HTTP_ASK_H

#include "apply/reports/runs.h"
#include "proto/base/loop.h"
#include "proto/pg/pgconn.h"

/* res NULL: err says why there is no answer; a statement that writes may have been done all the same. */
typedef void (*ask_done)(void *ctx, const PGresult *res, const struct rt_err *err);

/* One question; the asker's memory until done was called. */
struct ask_job {
	struct runs_ask what;
	ask_done done;
	void *ctx;
	struct ask_job *next;
};

enum ask_state {
	ASK_OFF, /* no connection */
	ASK_CONNECTING,
	ASK_SETTING_UP, /* the session's settings are under way */
	ASK_IDLE,
	ASK_BUSY, /* with the first job of the queue */
};

struct ask {
	const struct settings *s;
	enum ask_state state;
	PGconn *c;
	PostgresPollingStatusType polling;
	int64_t deadline_us; /* monotonic, of what is under way; LOOP_NEVER: nothing is */
	int64_t retry_us;    /* monotonic: no new connection before */
	struct pgc_backoff backoff;
	struct ask_job *first, **last;
	struct rt_err lost; /* why there is no connection, while retry_us is not reached */
	PGresult *answer;   /* of the job at hand, when its first result is there */
};

void ask_init(struct ask *a, const struct settings *s);
/* Puts a question; done is called from a later ask_dispatch, or from ask_release. */
void ask_add(struct ask *a, struct ask_job *job);
/* Ends the connection; whoever still waits is told so. */
void ask_release(struct ask *a);

/* The loop's source. */
void ask_prepare(void *ctx, int64_t now_us, struct loop_want *ret);
int ask_dispatch(void *ctx, short revents, int64_t now_us, struct rt_err *err);

#endif
