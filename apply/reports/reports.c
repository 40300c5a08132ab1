/*
 * reports: the companion's loop. Guarantees: one run at a time, in the order
 * of requests; a request that was made is answered, whatever dies meanwhile:
 * everything that counts is in the control tables.
 */
#include "apply/reports/reports.h"

#include <inttypes.h>
#include <poll.h>

#include "apply/reports/http/http.h"
#include "apply/reports/keep.h"
#include "apply/reports/queue.h"
#include "apply/reports/schedule.h"
#include "apply/reports/worker.h"
#include "proto/base/failpoint.h"
#include "proto/base/fsio.h"
#include "proto/base/log.h"
#include "proto/base/loop.h"
#include "proto/base/metrics.h"
#include "proto/pg/pgconn.h"

#define LOOK_US	       INT64_C(1000000) /* a NOTIFY is the fast way; this is the sure one */
#define RETRY_FIRST_US INT64_C(1000000)
#define RETRY_MOST_US  INT64_C(60000000)
#define LOCK_WAIT_US   INT64_C(1000000)
#define RETRY_LOG_US   INT64_C(5000000)

struct companion {
	const struct settings *s;
	struct loop loop;
	struct arena arena; /* definitions as they were at the start */
	struct arena turn;
	struct report_pack pack;
	struct schedule_set schedules;
	PGconn *c; /* NULL: not connected */
	int64_t epoch;
	struct worker worker;
	struct pgc_backoff backoff;
	int64_t retry_us, look_us; /* monotonic */
	int64_t looked_us; /* monotonic: of the last turn that went well; 0: not connected */
	bool pressed;	   /* SIGUSR1 came, and is not in the queue yet */
	int lock;
	struct log_limit retry_limit;
	const struct reports_outlook *outlook;
	struct http *http; /* NULL: off */
};

/* ---- the warehouse ---- */

static void disconnect(struct companion *o)
{
	worker_stop(&o->worker);
	pgc_close(o->c);
	o->c = NULL;
	o->looked_us = 0;
	met_set(MET_REPORTS_CONNECTED, 0);
}

static int connect(struct companion *o, struct rt_err *err)
{
	int dropped = 0;
	int rc = runs_connect(&o->c, o->s, "rolag reports", &o->loop, err);
	if (rc == 0)
		rc = pgc_exec(o->c, NULL, err, "LISTEN " RUNS_CHANNEL);
	if (rc == 0)
		rc = queue_take_over(o->c, o->s->pipeline, &o->epoch, err);
	if (rc == 0)
		rc = keep_sweep(o->c, o->s, &dropped, err);
	if (rc != 0)
		return rc;
	pgc_backoff_reset(&o->backoff);
	o->look_us = 0;
	met_set(MET_REPORTS_CONNECTED, 1);
	met_note("%s", "");
	log_info("at the warehouse's queue of reports", "epoch=%" PRId64 " dropped=%d", o->epoch,
		 dropped);
	return 0;
}

/* 0 when it may be tried again, later. */
static int failed(struct companion *o, int rc, struct rt_err *err)
{
	uint64_t hidden;
	disconnect(o);
	if (rc != ERR_RETRY || o->loop.stop > 0)
		return rc == ERR_RETRY ? 0 : rc;
	int64_t wait = pgc_backoff_next(&o->backoff);
	o->retry_us = rt_mono_us() + wait;
	met_state("disconnected");
	met_note("%s", err->msg);
	if (log_limit_pass(&o->retry_limit, rt_mono_us(), &hidden))
		log_warn("warehouse lost, trying again",
			 "wait_ms=%" PRId64 " hidden=%" PRIu64 " reason=\"%s\"", wait / 1000,
			 hidden, err->msg);
	return 0;
}

/* ---- requests of our own ---- */

static int request_all(struct companion *o, struct rt_err *err)
{
	char yesterday[11], id[RUNS_ID_SIZE];
	bool fresh;
	struct runs_request q = {.type = "manual", .requester = "signal USR1"};
	cron_yesterday(o->schedules.zone, rt_now_us() / 1000000, yesterday);
	int rc = report_select(&o->pack, &o->turn, NULL, 0, NULL, yesterday, &q.report,
			       &q.report_count, &q.as_of, err);
	if (rc == 0)
		rc = runs_request(o->c, o->s->pipeline, &q, id, &fresh, err);
	if (rc != 0)
		return rc;
	o->pressed = false;
	log_info("asked for all reports", "run=%s by=signal", id);
	return 0;
}

static int request_due(struct companion *o, struct rt_err *err)
{
	int count;
	int rc = schedule_turn(o->c, o->s, &o->schedules, &o->pack, &o->turn, rt_now_us() / 1000000,
			       &count, err);
	if (rc == 0 && count > 0)
		log_info("reports are due", "runs=%d", count);
	return rc;
}

/* ---- runs ---- */

static int settle_failure(struct companion *o, const char *id, const struct rt_err *why,
			  struct rt_err *err)
{
	struct run r;
	struct rt_err more;
	int rc = runs_get(o->c, &o->turn, o->s->pipeline, id, &r, err);
	if (rc != 0)
		return rc;
	if (runs_is_ended(&r)) /* its COMMIT went through, its answer did not */
		return 0;
	if (why->code != ERR_PERMANENT && r.failures < o->s->reports.retries) {
		int64_t wait = RT_MIN(RETRY_FIRST_US << RT_MIN(r.failures, 10), RETRY_MOST_US);
		met_add(MET_REPORTS_RETRIES, 1);
		log_warn("a run of reports is tried again",
			 "run=%s state=%s failures=%d in_ms=%" PRId64 " reason=\"%s\"", id, r.state,
			 r.failures + 1, wait / 1000, why->msg);
		return queue_retry(o->c, id, o->epoch, why->msg, wait, err);
	}
	rc = queue_fail(o->c, id, o->epoch, why->msg, err);
	if (rc != 0)
		return rc;
	met_add(MET_REPORTS_FAILED, 1);
	met_set(MET_REPORTS_FAILED_US, (uint64_t)rt_now_us());
	met_note("run %s failed: %s", id, why->msg);
	log_error("a run of reports failed", "run=%s state=%s reason=\"%s\"", id, r.state,
		  why->msg);
	FAILPOINT_FD(REPORTS_AFTER_FAILED, PQsocket(o->c));
	if (keep_discard(o->c, o->s, id, &more) != 0)
		log_warn("a failed run left something that the next start drops",
			 "run=%s reason=\"%s\"", id, more.msg);
	return 0;
}

static int note_published(struct companion *o, const char *id, struct rt_err *err)
{
	struct run r;
	struct run_file *file;
	size_t count = 0;
	int rc = runs_get(o->c, &o->turn, o->s->pipeline, id, &r, err);
	if (rc == 0)
		rc = runs_files(o->c, &o->turn, &r, &file, &count, err);
	if (rc != 0)
		return rc;
	met_add(MET_REPORTS_PUBLISHED, 1);
	met_set(MET_REPORTS_PUBLISHED_US, (uint64_t)rt_now_us());
	log_info("reports are published", "run=%s files=%zu watermark=%s folder=%s/%s", id, count,
		 r.watermark_lsn, o->s->reports.target, id);
	return 0;
}

static int end_run(struct companion *o, struct rt_err *err)
{
	struct rt_err why;
	char id[RUNS_ID_SIZE];
	snprintf(id, sizeof(id), "%s", o->worker.run);
	int rc = worker_finish(&o->worker, &why);
	o->look_us = 0;
	return rc == 0 ? note_published(o, id, err) : settle_failure(o, id, &why, err);
}

static int start_run(struct companion *o, int64_t now, struct rt_err *err)
{
	char id[RUNS_ID_SIZE];
	int64_t wait;
	int rc = queue_next(o->c, o->s->pipeline, o->epoch, id, &wait, err);
	if (rc == 0 && wait >= 0)
		o->look_us = RT_MIN(o->look_us, now + wait);
	if (rc <= 0)
		return rc;
	FAILPOINT(REPORTS_BEFORE_WORKER);
	log_info("a run of reports begins", "run=%s", id);
	return worker_start(&o->worker, o->s, id, o->epoch, &o->loop, err);
}

static int note_queue(struct companion *o, struct rt_err *err)
{
	int64_t count, oldest_us;
	int rc = queue_count(o->c, o->s->pipeline, &count, &oldest_us, err);
	if (rc != 0)
		return rc;
	met_set(MET_REPORTS_OPEN, (uint64_t)count);
	met_set(MET_REPORTS_OPEN_US, (uint64_t)oldest_us);
	return 0;
}

static int turn(struct companion *o, int64_t now, struct rt_err *err)
{
	PGnotify *n;
	if (PQconsumeInput(o->c) != 1 || PQstatus(o->c) != CONNECTION_OK)
		return pgc_fail(o->c, NULL, err, "waiting for requests");
	while ((n = PQnotifies(o->c)) != NULL) {
		PQfreemem(n);
		o->look_us = 0;
	}
	if (!o->pressed && now < o->look_us)
		return 0;
	o->look_us = now + LOOK_US;
	int rc = o->pressed ? request_all(o, err) : 0;
	if (rc == 0)
		rc = request_due(o, err);
	if (rc == 0)
		rc = queue_join(o->c, o->s->pipeline, o->epoch, err);
	if (rc == 0 && o->worker.pid == 0)
		rc = start_run(o, now, err);
	if (rc == 0)
		rc = note_queue(o, err);
	if (rc == 0)
		o->looked_us = rt_mono_us();
	met_state(o->worker.pid != 0 ? "running" : "idle");
	return rc;
}

/* ---- the loop's sources ---- */

static void warehouse_prepare(void *ctx, int64_t now, struct loop_want *ret)
{
	const struct companion *o = ctx;
	(void)now;
	ret->at_us = o->c == NULL ? o->retry_us : o->pressed ? 0 : o->look_us;
	if (o->c != NULL) {
		ret->fd = PQsocket(o->c);
		ret->events = POLLIN;
	}
}

static int warehouse_dispatch(void *ctx, short revents, int64_t now, struct rt_err *err)
{
	struct companion *o = ctx;
	(void)revents;
	if (o->loop.stop > 0)
		return 0;
	int rc = o->c == NULL ? connect(o, err) : 0;
	if (rc == 0)
		rc = turn(o, now, err);
	arena_reset(&o->turn);
	return rc < 0 ? failed(o, rc, err) : 0;
}

static void worker_prepare(void *ctx, int64_t now, struct loop_want *ret)
{
	const struct companion *o = ctx;
	(void)now;
	if (o->worker.pid == 0)
		return;
	ret->fd = o->worker.fd;
	ret->events = POLLIN;
}

static int worker_dispatch(void *ctx, short revents, int64_t now, struct rt_err *err)
{
	struct companion *o = ctx;
	(void)revents;
	(void)now;
	int rc = o->worker.pid != 0 ? end_run(o, err) : 0;
	arena_reset(&o->turn);
	return rc < 0 ? failed(o, rc, err) : 0;
}

static int before_sleep(void *ctx, int64_t now, struct rt_err *err)
{
	struct companion *o = ctx;
	struct loop *l = &o->loop;
	(void)now;
	(void)err;
	if (l->usr1)
		o->pressed = true;
	if (l->usr2)
		log_info("status", "state=%s run=%s published=%" PRIu64 " failed=%" PRIu64,
			 met_state_now(), o->worker.pid != 0 ? o->worker.run : "none",
			 met_get(MET_REPORTS_PUBLISHED), met_get(MET_REPORTS_FAILED));
	if (l->reload) {
		settings_reload(o->s, "reports");
		http_reload(o->http);
	}
	l->usr1 = l->usr2 = l->reload = l->child = false;
	met_tick(rt_now_us());
	l->done = l->stop > 0;
	return 0;
}

/* ---- the role ---- */

static int set_up(struct companion *o, struct rt_err *err)
{
	const struct settings *s = o->s;
	char *counters = rt_sprintf("%s/reports.counters", s->state_dir);
	char *lock = rt_sprintf("%s/reports.lock", s->state_dir);
	int rc = fs_mkdirs(s->state_dir, 0750, err);
	if (rc == 0)
		rc = fs_lock(lock, LOCK_WAIT_US, &o->lock, err);
	if (rc == 0)
		rc = met_open(counters, "reports", err);
	free(lock);
	free(counters);
	if (rc == 0)
		rc = runs_pack(s, &o->arena, &o->pack, NULL, NULL, err);
	if (rc == 0)
		rc = schedule_read(s, &o->pack, &o->arena, &o->schedules, err);
	if (rc == 0)
		rc = fs_mkdirs(s->reports.target, 0750, err);
	if (rc == 0)
		rc = loop_init(&o->loop, err);
	if (rc != 0)
		return rc;
	o->loop.ctx = o;
	o->loop.before_sleep = before_sleep;
	loop_add(&o->loop,
		 (struct loop_source){"warehouse", o, warehouse_prepare, warehouse_dispatch});
	loop_add(&o->loop, (struct loop_source){"worker", o, worker_prepare, worker_dispatch});
	const struct http_options h = {s, &o->pack, o->schedules.zone, o->outlook, &o->looked_us};
	return http_start(&h, &o->loop, &o->http, err);
}

int reports_main(const struct settings *s, const struct reports_outlook *outlook)
{
	struct companion o = {.s = s,
			      .worker = {.fd = -1},
			      .retry_limit = {.interval_us = RETRY_LOG_US},
			      .outlook = outlook};
	struct rt_err err;
	settings_setup_log(s, "reports");
	arena_init(&o.arena, 65536);
	arena_init(&o.turn, 65536);
	int rc = set_up(&o, &err);
	if (rc == 0) {
		log_info("reports starts", "pipeline=%s reports=%zu version=%s", s->pipeline,
			 o.pack.count, ROLAG_VERSION);
		rc = loop_run(&o.loop, &err);
	}
	if (rc < 0) {
		met_note("%s", err.msg);
		log_error("reports stops", "reason=\"%s\"", err.msg);
	} else {
		log_info("reports stops", "published=%" PRIu64, met_get(MET_REPORTS_PUBLISHED));
	}
	met_state(rc < 0 ? "failed" : "stopped");
	http_stop(o.http);
	disconnect(&o);
	schedule_release(&o.schedules);
	arena_release(&o.turn);
	arena_release(&o.arena);
	return rt_exit_code((enum rt_code)rc);
}
