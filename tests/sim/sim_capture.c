/*
 * sim_capture: capture as it is (capture.c is compiled in here, so that its
 * turn is the one that is tested), with a stream and a custody of ours: the
 * link from the core, which loses what is on its way when it breaks.
 */
#include "cdc/capture/capture.c"

#include "tests/sim/sim.h"

#define LINK_FD	 1
#define LINK_MAX 256 /* messages on their way */

static struct capture *capture;

/* ---- the link ---- */

static struct {
	bool up;
	struct wire_message queue[LINK_MAX];
	uint32_t count;
	struct lsn told[LINK_MAX]; /* flush positions on their way to the server */
	uint32_t told_count;
	bool ask; /* the client wants to know */
} wire;
bool core_is_down;

void link_begin(void)
{
	memset(&wire, 0, sizeof(wire));
	capture = NULL;
	core_is_down = false;
}

void link_send(uint32_t n)
{
	while (wire.up && n-- > 0 && wire.count < LINK_MAX) {
		if (!walsender_next(&wire.queue[wire.count], wire.ask))
			return;
		wire.count++;
		wire.ask = false;
	}
}

void link_hear(uint32_t n)
{
	uint32_t i = 0;
	for (; i < n && i < wire.told_count; i++)
		core_confirm(wire.told[i]);
	wire.told_count -= i;
	memmove(wire.told, wire.told + i, wire.told_count * sizeof(wire.told[0]));
	/* A server that has nothing to send says so, sooner or later. */
	if (wire.up && wire.count == 0 && rng_one_in(RNG_CORE, 4))
		wire.ask = true;
}

static void link_lose(void)
{
	for (uint32_t i = 0; i < wire.count; i++)
		buf_release(&wire.queue[i].bytes);
	wire.count = 0;
	wire.up = false;
}

void link_orphan(void)
{
	link_hear(rng_below(RNG_CORE, wire.told_count + 1)); /* the rest never arrived */
	wire.told_count = 0;
	link_lose();
}

void link_break(void)
{
	if (!wire.up)
		return;
	wire.up = false;
	wire.count = rng_below(RNG_CORE, wire.count + 1); /* what was in our buffers already */
	link_hear(rng_below(RNG_CORE, wire.told_count + 1));
	wire.told_count = 0;
}

bool link_readable(void)
{
	return wire.count > 0 || !wire.up;
}

bool link_up(void)
{
	return wire.up;
}

bool link_idle(void)
{
	return wire.count == 0;
}

/* ---- stream ---- */

#define CONNECTED ((PGconn *)(void *)&wire)

void stream_init(struct stream *s, const struct stream_options *o, const struct stream_handler *h)
{
	*s = (struct stream){.o = *o, .h = *h};
}

void stream_release(struct stream *s)
{
	s->conn = NULL;
}

static int lost(struct stream *s, const struct rt_err *why, struct rt_err *err)
{
	s->conn = NULL;
	if (wire.up || wire.count > 0)
		link_orphan();
	s->retry_at_us = sim_clock.mono_us + rng_range(RNG_SCHEDULE, 1000, 300000);
	return s->h.disconnected(s->h.ctx, why, 1000, err);
}

static int try_connect(struct stream *s, struct rt_err *err)
{
	struct rt_err why;
	struct lsn start;
	link_orphan(); /* the old walsender, if any, is gone first */
	if (core_is_down) {
		rt_fail(&why, ERR_RETRY, "the core is down");
		return lost(s, &why, err);
	}
	const struct stream_facts f = {
		.core = {.system_id = 7,
			 .timeline = 1,
			 .confirmed = core_confirmed(),
			 .flushed = core_current()},
		.binary = sim_config.binary,
	};
	int rc = s->h.connected(s->h.ctx, &f, &start, &why);
	if (rc == ERR_RETRY)
		return lost(s, &why, err);
	if (rc != 0) {
		*err = why;
		return rc;
	}
	s->conn = CONNECTED;
	wire.up = true;
	walsender_start(start, sim_config.binary);
	sim_say("stream: from " LSN_FMT ", confirmed " LSN_FMT, LSN_ARGS(start),
		LSN_ARGS(core_confirmed()));
	return 0;
}

static void stream_prepare(void *ctx, int64_t now_us, struct loop_want *ret)
{
	struct stream *s = ctx;
	if (s->conn == NULL) {
		ret->at_us = s->retry_at_us;
	} else if (!s->paused) {
		ret->fd = LINK_FD;
		ret->events = 1;
	}
}

static int stream_dispatch(void *ctx, short revents, int64_t now_us, struct rt_err *err)
{
	struct stream *s = ctx;
	struct rt_err why;
	uint32_t n = rng_range(RNG_SCHEDULE, 1, 40);
	if (s->conn == NULL)
		return try_connect(s, err);
	for (uint32_t i = 0; i < n && wire.count > 0; i++) {
		struct wire_message m = wire.queue[0];
		int rc = 0;
		memmove(wire.queue, wire.queue + 1, --wire.count * sizeof(m));
		if (m.bytes.p != NULL)
			heap_adopt(m.bytes.p);
		if (m.keepalive)
			rc = s->h.keepalive(s->h.ctx, m.lsn, m.reply, &why);
		else
			rc = s->h.data(s->h.ctx, m.lsn, buf_slice(&m.bytes), &why);
		buf_release(&m.bytes);
		if (m.keepalive && m.reply)
			s->reply_wanted = true;
		if (rc == ERR_RETRY)
			return lost(s, &why, err);
		if (rc != 0) {
			*err = why;
			return rc;
		}
	}
	if (wire.count > 0 || wire.up)
		return 0;
	rt_fail(&why, ERR_RETRY, "the link broke");
	return lost(s, &why, err);
}

struct loop_source stream_source(struct stream *s)
{
	return (struct loop_source){"stream", s, stream_prepare, stream_dispatch};
}

bool stream_is_running(const struct stream *s)
{
	return s->conn != NULL;
}

void stream_pause(struct stream *s, bool paused)
{
	s->paused = paused;
}

void stream_behind(struct stream *s, bool behind)
{
	s->behind = behind;
}

bool stream_wants_text(struct stream *s)
{
	return false; /* nothing is mirrored here */
}

void stream_hurry(struct stream *s)
{
	s->retry_at_us = 0;
}

static void tell(const struct prog_feedback *f)
{
	if (!wire.up || wire.told_count == LINK_MAX)
		return;
	wire.told[wire.told_count++] = f->flush;
}

int stream_status(struct stream *s, const struct prog_feedback *f, int64_t now_us,
		  struct rt_err *err)
{
	call_point();
	if (s->conn == NULL)
		return 0;
	if (lsn_lt(s->told.flush, f->flush) || s->reply_wanted)
		tell(f);
	s->told = *f;
	s->reply_wanted = false;
	return 0;
}

int stream_drop(struct stream *s, const struct rt_err *why, int64_t now_us, struct rt_err *err)
{
	return s->conn == NULL ? 0 : lost(s, why, err);
}

int stream_lose_slot(struct stream *s, const struct rt_err *why, int64_t now_us, struct rt_err *err)
{
	return stream_drop(s, why, now_us, err); /* no look here finds a publication made again */
}

void stream_stop(struct stream *s, const struct prog_feedback *f)
{
	call_point();
	if (s->conn == NULL)
		return;
	tell(f);
	link_hear(LINK_MAX);
	link_lose();
}

/* ---- custody: only what it finds out ---- */

void custody_init(struct custody *c, const struct custody_options *o,
		  void (*notice)(void *ctx, const char *message, const char *fields), void *ctx)
{
	*c = (struct custody){.o = *o, .notice = notice, .ctx = ctx};
}

void custody_release(struct custody *c)
{
}

static void custody_prepare(void *ctx, int64_t now_us, struct loop_want *ret)
{
}

static int custody_dispatch(void *ctx, short revents, int64_t now_us, struct rt_err *err)
{
	return 0;
}

struct loop_source custody_source(struct custody *c)
{
	return (struct loop_source){"custody", c, custody_prepare, custody_dispatch};
}

uint64_t custody_retained_bytes(const struct custody *c)
{
	return 0;
}

void capture_facts(void)
{
	if (capture == NULL || core_is_down)
		return;
	capture->custody.facts.asked_at_us = RT_MAX(sim_clock.mono_us, 1);
	capture->custody.facts.current = core_current();
	if (rng_one_in(RNG_SCHEDULE, 20))
		capture->custody.connected_anew = true;
	if (rng_one_in(RNG_SCHEDULE, 40))
		capture->custody.core_is_closing = true;
}

/* ---- the role, as capture_main runs it ---- */

int capture_start(struct rt_err *err)
{
	struct capture *c = rt_calloc(1, sizeof(*c));
	const struct settings *s = &sim_config.settings[PROCESS_CAPTURE];
	c->settings = s;
	c->mirrored.settings = s;
	capture = c;
	arena_init(&c->arena, 4096);
	arena_init(&c->names, 256);
	rel_init(&c->relations);
	int rc = open_state(s, err);
	if (rc == 0)
		rc = loop_init(&c->loop, err);
	if (rc == 0) {
		static char name[] = "rolag capture sim";
		set_up(c, s, name);
	}
	return rc;
}

int capture_turn(bool spurious, struct rt_err *err)
{
	return turn_loop(&capture->loop, spurious, err);
}

void capture_ask_stop(void)
{
	capture->loop.stop = 1;
}

bool capture_is_done(void)
{
	return capture->loop.done;
}

int64_t capture_deadline(bool *ret_ready)
{
	return loop_deadline(&capture->loop, ret_ready);
}

struct capture_view capture_view(void)
{
	if (capture == NULL || capture->spool == NULL)
		return (struct capture_view){0};
	const struct prog *p = &capture->prog;
	return (struct capture_view){
		.confirmed = p->confirmed,
		.durable = p->durable,
		.received = p->received,
		.appended = p->appended,
		.applied = p->applied,
		.floor = p->floor,
		.spilling = p->spilling,
		.has_spool = true,
		.spool_bytes = spool_bytes(capture->spool),
	};
}

void capture_end(void)
{
	struct capture *c = capture;
	stream_release(&c->stream);
	custody_release(&c->custody);
	spool_writer_close(c->spool);
	recheck_release(&c->recheck);
	rel_release(&c->relations);
	arena_release(&c->arena);
	arena_release(&c->names);
	free(c->remembered_path);
	free(c);
	capture_buried();
}

void capture_buried(void)
{
	capture = NULL;
	link_orphan();
}

/* Frames of the seed's size, so that transactions come in pieces. */
int __real_spool_writer_open(struct spool_writer **ret, const char *dir,
			     const struct spool_identity *id, const struct spool_options *options,
			     struct lsn confirmed, struct rt_err *err);
int __wrap_spool_writer_open(struct spool_writer **ret, const char *dir,
			     const struct spool_identity *id, const struct spool_options *options,
			     struct lsn confirmed, struct rt_err *err);
int __wrap_spool_writer_open(struct spool_writer **ret, const char *dir,
			     const struct spool_identity *id, const struct spool_options *options,
			     struct lsn confirmed, struct rt_err *err)
{
	struct spool_options o = *options;
	o.frame_bytes = sim_config.frame_bytes;
	return __real_spool_writer_open(ret, dir, id, &o, confirmed, err);
}
