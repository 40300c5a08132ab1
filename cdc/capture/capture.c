/*
 * capture: main of the role. Guarantees: the spool gets whole transactions in
 * commit order, each turn; the slot is told only what progress allows; the
 * core is answered even while we cannot take more.
 */
#include "cdc/capture/capture.h"

#include <unistd.h>

#include "cdc/capture/capture_inner.h"
#include "proto/base/failpoint.h"
#include "proto/base/fsio.h"
#include "proto/base/log.h"
#include "proto/base/metrics.h"

#define LIVE_BYTES ((uint64_t)1 << 20) /* closer to the core's present than this is live */

static void on_notice(void *ctx, const char *message, const char *fields)
{
	log_warn(message, "%s", fields);
}

/* ---- a turn ---- */

static bool is_behind(const struct capture *c)
{
	return c->prog.current.v > c->prog.appended.v + LIVE_BYTES;
}

static const char *state_name(const struct capture *c)
{
	if (!stream_is_running(&c->stream))
		return "waiting";
	if (c->full)
		return "full";
	if (c->prog.spilling)
		return "spilling";
	return is_behind(c) ? "catching_up" : "live";
}

static void set_metrics(struct capture *c, int64_t now_us)
{
	const struct prog *p = &c->prog;
	met_set(MET_CAPTURE_RECEIVED_LSN, p->received.v);
	met_set(MET_CAPTURE_DURABLE_LSN, p->durable.v);
	met_set(MET_CAPTURE_CONFIRMED_LSN, p->confirmed.v);
	met_set(MET_CAPTURE_APPLIED_LSN, p->applied.v);
	met_set(MET_CORE_CURRENT_LSN, p->current.v);
	met_set(MET_CORE_RETAINED_BYTES, custody_retained_bytes(&c->custody));
	met_set(MET_CORE_BUDGET_BYTES, c->settings->capture.wal_budget);
	met_set(MET_SPOOL_QUOTA_BYTES, c->settings->spool.quota);
	met_add(MET_CAPTURE_HEARTBEATS, c->custody.beats - met_get(MET_CAPTURE_HEARTBEATS));
	if (now_us < c->tick_at_us)
		return;
	c->tick_at_us = now_us + CAPTURE_TICK_US;
	met_set(MET_SPOOL_BYTES, c->spool != NULL ? spool_bytes(c->spool) : 0);
	if (c->spool != NULL)
		met_add(MET_SPOOL_WRITTEN, spool_take_written(c->spool));
	met_state(state_name(c));
}

static void say_status(const struct capture *c)
{
	const struct prog *p = &c->prog;
	const struct custody_facts *f = &c->custody.facts;
	log_info("status",
		 "state=%s current=" LSN_FMT " received=" LSN_FMT " durable=" LSN_FMT
		 " applied=" LSN_FMT " confirmed=" LSN_FMT " retained_bytes=%llu wal_status=%s"
		 " spool_bytes=%llu oldest_transaction_pid=%d oldest_transaction_s=%lld",
		 state_name(c), LSN_ARGS(p->current), LSN_ARGS(p->received), LSN_ARGS(p->durable),
		 LSN_ARGS(p->applied), LSN_ARGS(p->confirmed),
		 (unsigned long long)custody_retained_bytes(&c->custody),
		 f->wal_status[0] != '\0' ? f->wal_status : "unknown",
		 (unsigned long long)(c->spool != NULL ? spool_bytes(c->spool) : 0), f->oldest_pid,
		 (long long)(f->oldest_xact_age_us / 1000000));
}

static void take_signals(struct capture *c)
{
	if (c->loop.reload)
		settings_reload(c->settings, "capture");
	if (c->loop.usr2)
		say_status(c);
	c->loop.reload = c->loop.usr1 = c->loop.usr2 = c->loop.child = false;
}

/* SIGTERM: what is whole stays, what is open will come again; the core hears the last word. */
static int finish(struct capture *c, struct rt_err *err)
{
	int rc = 0;
	c->loop.done = true;
	if (c->spool == NULL)
		return 0;
	FAILPOINT(CAPTURE_FINISH);
	rc = take_forget_open(c, err);
	if (rc == 0)
		rc = keep_sync(c, true, err);
	const struct prog_feedback f = keep_feedback(c);
	if (rc == 0)
		stream_stop(&c->stream, &f);
	set_metrics(c, INT64_MAX - CAPTURE_TICK_US);
	return rc;
}

/*
 * A core that shuts down waits until its walsenders have had everything
 * confirmed. With the warehouse behind, that would be long: let it go.
 */
static int let_core_go(struct capture *c, int64_t now_us, struct rt_err *err)
{
	if (!c->custody.core_is_closing || !stream_is_running(&c->stream))
		return 0;
	struct rt_err why;
	const struct prog_feedback f = keep_feedback(c);
	rt_fail(&why, ERR_RETRY, "the core is shutting down");
	c->custody.core_is_closing = false;
	stream_stop(&c->stream, &f);
	return stream_drop(&c->stream, &why, now_us, err);
}

static void watch_catalog(struct capture *c)
{
	if (!c->custody.looked_anew || c->custody.conn == NULL)
		return;
	c->custody.looked_anew = false;
	c->publication_again |=
		alarms_catalog(&c->alarms, &c->custody.look, c->custody.o.publication,
			       PQserverVersion(c->custody.conn));
}

/* Once the slot that it concerns is dealt with: else the next process would not know. */
static void remember_publications(struct capture *c)
{
	struct rt_err err;
	const struct look *l = &c->alarms.seen;
	if (!c->alarms.looked || memcmp(l->oid, c->remembered.oid, sizeof(l->oid)) == 0)
		return;
	FAILPOINT(CAPTURE_REMEMBER);
	if (look_remember(c->remembered_path, l, c->publication, c->custody.o.publication_count,
			  &err) != 0)
		log_warn("publications are not remembered", "reason=\"%s\"", err.msg);
	c->remembered = *l; /* a failure is not tried again with every turn */
}

static int act_on_catalog(struct capture *c, int64_t now_us, struct rt_err *err)
{
	if (!stream_is_running(&c->stream))
		return 0;
	if (!c->publication_again) {
		remember_publications(c);
		return 0;
	}
	c->publication_again = false;
	struct rt_err why;
	rt_fail(&why, ERR_RETRY,
		"a publication was made again, and this core passes over what was "
		"written without it");
	return stream_lose_slot(&c->stream, &why, now_us, err);
}

static int before_sleep(void *ctx, int64_t now_us, struct rt_err *err)
{
	struct capture *c = ctx;
	int rc = 0;
	take_signals(c);
	if (c->custody.connected_anew && !stream_is_running(&c->stream))
		stream_hurry(&c->stream);
	c->custody.connected_anew = false;
	watch_catalog(c);
	rc = act_on_catalog(c, now_us, err);
	if (rc == 0 && c->spool != NULL) {
		rc = keep_turn(c, now_us, err);
		if (rc != 0)
			return rc;
		stream_behind(&c->stream, is_behind(c));
		const struct prog_feedback f = keep_feedback(c);
		rc = stream_status(&c->stream, &f, now_us, err);
		if (rc == 0)
			rc = let_core_go(c, now_us, err);
	}
	set_metrics(c, now_us);
	met_tick(rt_now_us());
	if (rc == 0 && c->loop.stop > 0)
		rc = finish(c, err);
	return rc;
}

/* ---- the timer: whatever falls due without input (a sync that ends, too); the work is before_sleep's ---- */

static void timer_prepare(void *ctx, int64_t now_us, struct loop_want *ret)
{
	const struct capture *c = ctx;
	ret->at_us = c->tick_at_us;
	if (c->spool != NULL)
		keep_prepare(c, now_us, ret);
}

static int timer_dispatch(void *ctx, short revents, int64_t now_us, struct rt_err *err)
{
	return 0;
}

/* ---- main ---- */

static void set_up(struct capture *c, const struct settings *s, char *application_name)
{
	static const struct {
		int from;
		enum stream_binary to;
	} binary[] = {
		{BINARY_AUTO, STREAM_BINARY_AUTO},
		{BINARY_ON, STREAM_BINARY_ON},
		{BINARY_OFF, STREAM_BINARY_OFF},
	};
	struct stream_options so = {
		.conninfo = s->capture.connect,
		.application_name = application_name,
		.slot = s->core.slot,
		.publication = c->publication,
		.publication_count = mirrored_publications(s, &c->names, c->publication),
	};
	for (size_t i = 0; i < ARRAY_LEN(binary); i++)
		if (binary[i].from == s->capture.binary)
			so.binary = binary[i].to;
	const struct stream_handler h = {
		.ctx = c,
		.slot_lost = connect_slot_lost,
		.slot_waits = connect_slot_waits,
		.slot_turn = connect_slot_turn,
		.connected = connect_established,
		.data = take_data,
		.keepalive = take_keepalive,
		.disconnected = connect_lost,
		.notice = on_notice,
	};
	const int want_count =
		mirrored_wants(s, c->source, c->source_count, &c->names, &c->alarms.want);
	c->remembered_path = rt_sprintf("%s/capture.publications", s->state_dir);
	c->alarms.looked = look_recall(c->remembered_path, c->publication, so.publication_count,
				       &c->remembered) == 1;
	c->alarms.seen = c->remembered;
	const struct custody_options co = {
		.conninfo = s->capture.connect,
		.application_name = application_name,
		.slot = s->core.slot,
		.heartbeat_interval_us = s->capture.heartbeat_interval,
		.publication = so.publication,
		.publication_count = so.publication_count,
		.want = c->alarms.want,
		.want_count = want_count,
		.look_interval_us = s->capture.look_interval,
	};
	stream_init(&c->stream, &so, &h);
	custody_init(&c->custody, &co, on_notice, c);
	loop_add(&c->loop, stream_source(&c->stream));
	loop_add(&c->loop, custody_source(&c->custody));
	loop_add(&c->loop, (struct loop_source){"timer", c, timer_prepare, timer_dispatch});
	c->loop.ctx = c;
	c->loop.before_sleep = before_sleep;
}

/* One capture per state folder: the lock comes before the counters, which are another's otherwise. */
static int open_state(const struct settings *s, struct rt_err *err)
{
	char *lock = rt_sprintf("%s/capture.lock", s->state_dir);
	char *metrics = rt_sprintf("%s/capture.counters", s->state_dir);
	int fd; /* held until the process ends */
	int rc = fs_mkdirs(s->state_dir, 0750, err);
	if (rc == 0)
		rc = fs_lock(lock, 0, &fd, err);
	if (rc == 0)
		rc = met_open(metrics, "capture", err);
	free(lock);
	free(metrics);
	return rc;
}

int capture_main(const struct settings *s, const struct capture_source *source, int count)
{
	struct capture c = {
		.settings = s, .mirrored.settings = s, .source = source, .source_count = count};
	struct rt_err err = {0};
	char *application_name = rt_sprintf("rolag capture %s", s->pipeline);
	settings_setup_log(s, "capture");
	arena_init(&c.arena, (size_t)64 << 10);
	arena_init(&c.names, 256);
	rel_init(&c.relations);
	int rc = open_state(s, &err);
	if (rc == 0)
		rc = loop_init(&c.loop, &err);
	if (rc == 0) {
		set_up(&c, s, application_name);
		met_state("waiting");
		log_info("capture starts", "version=" ROLAG_VERSION " pipeline=%s slot=%s",
			 s->pipeline, s->core.slot);
		rc = loop_run(&c.loop, &err);
		loop_release(&c.loop);
	}
	if (rc != 0) {
		log_error("capture stops", "reason=\"%s\"", err.msg);
		met_note("%s", err.msg);
		met_state("stopped");
	} else {
		log_info("capture ends", "confirmed=" LSN_FMT, LSN_ARGS(c.prog.confirmed));
		met_state("ended");
	}
	met_set(MET_CAPTURE_CONNECTED, 0);
	stream_release(&c.stream);
	custody_release(&c.custody);
	spool_writer_close(c.spool);
	recheck_release(&c.recheck);
	mirrored_close(&c.mirrored);
	rel_release(&c.relations);
	arena_release(&c.arena);
	arena_release(&c.names);
	free(c.remembered_path);
	free(application_name);
	return rt_exit_code((enum rt_code)rc);
}
