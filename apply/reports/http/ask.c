/* ask: one connection's states. Guarantees: each job is told once; no call here waits. */
#include "apply/reports/http/ask.h"

#include <poll.h>

#include "proto/base/failpoint.h"

#define CONNECT_US   INT64_C(5000000)
#define STATEMENT_US INT64_C(5000000) /* the server ends it; we give up a little later */
#define GRACE_US     INT64_C(2000000)
#define RETRY_US                                                                                   \
	INT64_C(1000000) /* at most; until then who asks is told at once that there is no connection */

void ask_init(struct ask *a, const struct settings *s)
{
	*a = (struct ask){.s = s, .deadline_us = LOOP_NEVER};
	a->last = &a->first;
}

void ask_add(struct ask *a, struct ask_job *job)
{
	job->next = NULL;
	*a->last = job;
	a->last = &job->next;
}

/* Takes the first job from the queue and tells it: the job may be gone then, or be asked again. */
static void tell_first(struct ask *a, const PGresult *res, const struct rt_err *err)
{
	struct ask_job *job = a->first;
	a->first = job->next;
	if (a->first == NULL)
		a->last = &a->first;
	job->done(job->ctx, res, err);
}

/* Those that are in the queue now; what they ask anew waits for its own answer. */
static void tell_all(struct ask *a, const struct rt_err *err)
{
	struct ask_job *job = a->first;
	a->first = NULL;
	a->last = &a->first;
	while (job != NULL) {
		struct ask_job *next = job->next;
		job->done(job->ctx, NULL, err);
		job = next;
	}
}

static void close_connection(struct ask *a)
{
	PQclear(a->answer);
	a->answer = NULL;
	pgc_close(a->c);
	a->c = NULL;
	a->state = ASK_OFF;
	a->deadline_us = LOOP_NEVER;
}

/* No answer will come to anybody who waits; the next connection is tried a little later. */
static void lose(struct ask *a, int64_t now, const char *what)
{
	/* PQerrorMessage has no row: verbosity is SQLSTATE once the session stands. */
	const char *said = a->c != NULL ? PQerrorMessage(a->c) : "";
	(void)rt_fail(&a->lost, ERR_RETRY, "%s%s%.600s", what, said[0] != '\0' ? ": " : "", said);
	close_connection(a);
	a->retry_us = now + RT_MIN(pgc_backoff_next(&a->backoff), RETRY_US);
	tell_all(a, &a->lost);
}

/* ---- from state to state ---- */

static void begin_connecting(struct ask *a, int64_t now)
{
	const struct pgc_options o = {.what = "warehouse",
				      .conninfo = a->s->reports.connect,
				      .application_name = "rolag reports http"};
	if (pgc_connect_start(&a->c, &o, &a->lost) != 0) {
		struct rt_err err = a->lost;
		a->retry_us = now + RETRY_US;
		tell_all(a, &err);
		return;
	}
	a->state = ASK_CONNECTING;
	a->polling = PGRES_POLLING_WRITING;
	a->deadline_us = now + CONNECT_US;
	if (PQstatus(a->c) == CONNECTION_BAD)
		lose(a, now, "cannot connect to the warehouse");
}

static void begin_setup(struct ask *a, int64_t now)
{
	char sql[sizeof("; SET statement_timeout = 00000000000000000000") + 512];
	RT_ASSERT(strlen(runs_session_sql) < 512);
	snprintf(sql, sizeof(sql), "%s; SET statement_timeout = %lld", runs_session_sql,
		 (long long)(STATEMENT_US / 1000));
	FAILPOINT_FD(HTTP_CONNECTED, PQsocket(a->c));
	PQsetErrorVerbosity(a->c, PQERRORS_SQLSTATE);
	a->state = ASK_SETTING_UP;
	a->deadline_us = now + CONNECT_US;
	if (PQsetnonblocking(a->c, 1) != 0 || PQsendQuery(a->c, sql) != 1 || PQflush(a->c) < 0)
		lose(a, now, "the warehouse took no settings");
}

static void go_on_connecting(struct ask *a, int64_t now)
{
	a->polling = PQconnectPoll(a->c);
	if (a->polling == PGRES_POLLING_OK)
		begin_setup(a, now);
	else if (a->polling == PGRES_POLLING_FAILED)
		lose(a, now, "cannot connect to the warehouse");
}

static void send_first(struct ask *a, int64_t now)
{
	const struct runs_ask *q = &a->first->what;
	a->state = ASK_BUSY;
	a->deadline_us = now + STATEMENT_US + GRACE_US;
	FAILPOINT_FD(HTTP_BEFORE_ASK, PQsocket(a->c));
	if (PQsendQueryParams(a->c, q->sql, q->count, NULL, q->param, NULL, NULL, 0) != 1 ||
	    PQflush(a->c) < 0)
		lose(a, now, "the warehouse took no statement");
	else
		FAILPOINT_FD(HTTP_SENT, PQsocket(a->c));
}

static void become_idle(struct ask *a)
{
	a->state = ASK_IDLE;
	a->deadline_us = LOOP_NEVER;
}

static bool is_good(const PGresult *res)
{
	ExecStatusType st = PQresultStatus(res);
	return st == PGRES_COMMAND_OK || st == PGRES_TUPLES_OK;
}

/* The last result of the session's settings, or of the statement at hand, was read. */
static void end_answer(struct ask *a, int64_t now)
{
	PGresult *res = a->answer;
	struct rt_err err;
	a->answer = NULL;
	const bool good = res != NULL && is_good(res);
	if (!good)
		(void)pgc_fail(a->c, res, &err, "asking the warehouse");
	if (a->state == ASK_SETTING_UP && !good) {
		lose(a, now, err.msg);
	} else if (a->state == ASK_SETTING_UP) {
		pgc_backoff_reset(&a->backoff);
		become_idle(a);
	} else {
		become_idle(a);
		if (PQstatus(a->c) != CONNECTION_OK)
			close_connection(a);
		tell_first(a, good ? res : NULL, &err);
	}
	PQclear(res);
}

static void read_answers(struct ask *a, int64_t now)
{
	if (PQconsumeInput(a->c) != 1 || PQflush(a->c) < 0) {
		lose(a, now, "the warehouse is lost");
		return;
	}
	while (PQisBusy(a->c) == 0) {
		PGresult *res = PQgetResult(a->c);
		if (res == NULL) {
			end_answer(a, now);
			return;
		}
		/* The first failure counts, else the last result. */
		if (a->answer != NULL && !is_good(a->answer)) {
			PQclear(res);
			continue;
		}
		PQclear(a->answer);
		a->answer = res;
	}
}

/* A session that ends while nobody asks is no failure of anybody's. */
static void look_idle(struct ask *a)
{
	if (PQconsumeInput(a->c) != 1 || PQstatus(a->c) != CONNECTION_OK)
		close_connection(a);
}

/* ---- the loop's source ---- */

void ask_prepare(void *ctx, int64_t now, struct loop_want *ret)
{
	const struct ask *a = ctx;
	(void)now;
	ret->at_us = a->deadline_us;
	if (a->first != NULL && (a->state == ASK_OFF || a->state == ASK_IDLE))
		ret->at_us = 0;
	if (a->c == NULL)
		return;
	ret->fd = PQsocket(a->c);
	if (a->state == ASK_CONNECTING)
		ret->events = a->polling == PGRES_POLLING_READING ? POLLIN : POLLOUT;
	else /* PQflush is cheap where nothing is left */
		ret->events = (short)(PQflush(a->c) == 1 ? POLLIN | POLLOUT : POLLIN);
}

static void work(struct ask *a, short revents, int64_t now)
{
	switch (a->state) {
	case ASK_OFF:
		break;
	case ASK_CONNECTING:
		if (revents != 0)
			go_on_connecting(a, now);
		break;
	case ASK_SETTING_UP:
	case ASK_BUSY:
		if (revents != 0)
			read_answers(a, now);
		break;
	case ASK_IDLE:
		if (revents != 0)
			look_idle(a);
		break;
	}
}

int ask_dispatch(void *ctx, short revents, int64_t now, struct rt_err *err)
{
	struct ask *a = ctx;
	(void)err;
	work(a, revents, now);
	if (now >= a->deadline_us)
		lose(a, now, "the warehouse did not answer in time");
	if (a->first == NULL)
		return 0;
	if (a->state == ASK_IDLE) {
		send_first(a, now);
	} else if (a->state == ASK_OFF && now < a->retry_us) {
		struct rt_err lost = a->lost;
		tell_all(a, &lost);
	} else if (a->state == ASK_OFF) {
		begin_connecting(a, now);
	}
	return 0;
}

void ask_release(struct ask *a)
{
	struct rt_err err;
	(void)rt_fail(&err, ERR_RETRY, "the companion stops");
	close_connection(a);
	while (a->first != NULL)
		tell_all(a, &err);
}
