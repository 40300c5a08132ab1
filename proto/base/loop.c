/*
 * loop: ppoll turns. Guarantees: no signal is lost between a check and a
 * sleep (they are unblocked only inside ppoll), nor kept waiting by input that
 * never ends; every source is asked anew each turn.
 */
#include "proto/base/loop.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <time.h>

#include "proto/base/notify.h"

#define STOP_GRACE_US                                                                              \
	INT64_C(2000000) /* for an answer that is waited for when we are told to stop */

static const int loop_signals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD};
static volatile sig_atomic_t signal_count[NSIG];
static sigset_t mask_before;

static void on_signal(int number)
{
	signal_count[number]++;
}

int loop_init(struct loop *l, struct rt_err *err)
{
	*l = (struct loop){0};
	struct sigaction sa = {.sa_handler = on_signal};
	sigset_t block;
	sigemptyset(&sa.sa_mask);
	sigemptyset(&block);
	for (size_t i = 0; i < ARRAY_LEN(loop_signals); i++) {
		sigaddset(&block, loop_signals[i]);
		signal_count[loop_signals[i]] = 0;
		if (sigaction(loop_signals[i], &sa, NULL) != 0)
			return rt_fail_errno(err, ERR_SYSTEM, "cannot handle signal %d",
					     loop_signals[i]);
	}
	signal(SIGPIPE, SIG_IGN);
	if (sigprocmask(SIG_BLOCK, &block, &mask_before) != 0)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot block signals");
	notify_open();
	return 0;
}

void loop_release(struct loop *l)
{
	(void)l;
	notify_close();
	for (size_t i = 0; i < ARRAY_LEN(loop_signals); i++)
		signal(loop_signals[i], SIG_DFL);
	sigprocmask(SIG_SETMASK, &mask_before, NULL);
}

void loop_add(struct loop *l, struct loop_source s)
{
	RT_ASSERT(l->count < LOOP_SOURCES_MAX);
	l->source[l->count++] = s;
}

void loop_add_background(struct loop *l, struct loop_source s)
{
	l->background[l->count] = true;
	loop_add(l, s);
}

static bool taken(int number)
{
	bool seen = signal_count[number] > 0;
	signal_count[number] = 0;
	return seen;
}

static void collect_signals(struct loop *l)
{
	l->stop += signal_count[SIGTERM] + signal_count[SIGINT];
	signal_count[SIGTERM] = signal_count[SIGINT] = 0;
	l->reload |= taken(SIGHUP);
	l->usr1 |= taken(SIGUSR1);
	l->usr2 |= taken(SIGUSR2);
	l->child |= taken(SIGCHLD);
}

/* Lets pending signals in. A ppoll that found a descriptor ready returned before it did. */
static void take_signals(struct loop *l)
{
	struct timespec none = {0, 0};
	(void)ppoll(NULL, 0, &none, &mask_before);
	collect_signals(l);
}

/* The service manager hears what signals have asked for. */
static void announce(const struct loop *l)
{
	if (l->stop > 0)
		notify_stopping();
	else if (l->reload)
		notify_reloading(rt_mono_us());
}

/* What the sources of a turn want, and where own stands, which is nobody's but the caller's. */
struct turning {
	struct pollfd fds[LOOP_SOURCES_MAX + 1];
	struct loop_want want[LOOP_SOURCES_MAX];
	bool background; /* only those */
};

static bool is_in(const struct loop *l, const struct turning *t, int i)
{
	return !t->background || l->background[i];
}

/* Waits for the nearest of all. *ret_ready: descriptors that are. */
static int wait_for_any(struct loop *l, struct turning *t, const struct loop_want *own,
			int *ret_ready, struct rt_err *err)
{
	int64_t now = rt_mono_us(), nearest = RT_MIN(own->at_us, notify_due());
	for (int i = 0; i < l->count; i++) {
		t->want[i] = (struct loop_want){.fd = -1, .at_us = LOOP_NEVER};
		if (is_in(l, t, i))
			l->source[i].prepare(l->source[i].ctx, now, &t->want[i]);
		t->fds[i] = (struct pollfd){.fd = t->want[i].fd, .events = t->want[i].events};
		nearest = RT_MIN(nearest, t->want[i].at_us);
	}
	t->fds[l->count] = (struct pollfd){.fd = own->fd, .events = own->events};
	struct timespec ts, *timeout = NULL;
	if (nearest != LOOP_NEVER) {
		int64_t left = RT_MAX(nearest - now, 0);
		ts = (struct timespec){left / 1000000, left % 1000000 * 1000};
		timeout = &ts;
	}
	*ret_ready = ppoll(t->fds, (nfds_t)l->count + 1, timeout, &mask_before);
	if (*ret_ready < 0 && errno != EINTR)
		return rt_fail_errno(err, ERR_SYSTEM, "ppoll failed");
	take_signals(l);
	announce(l);
	return 0;
}

static int dispatch_all(struct loop *l, const struct turning *t, int ready, int64_t now,
			struct rt_err *err)
{
	const unsigned waits = l->waits;
	for (int i = 0; i < l->count; i++) {
		/* It was served while another waited: what is known of its descriptor is old. */
		if (l->background[i] && l->waits != waits)
			continue;
		/* NOLINTNEXTLINE(bugprone-narrowing-conversions): both are revents */
		short revents = ready > 0 ? t->fds[i].revents : 0;
		if (!is_in(l, t, i) || (revents == 0 && t->want[i].at_us > now))
			continue;
		int rc = l->source[i].dispatch(l->source[i].ctx, revents, now, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int loop_turn(struct loop *l, struct rt_err *err)
{
	const struct loop_want nothing = {.fd = -1, .at_us = LOOP_NEVER};
	struct turning t = {.background = false};
	int ready;
	int rc = wait_for_any(l, &t, &nothing, &ready, err);
	int64_t now = rt_mono_us();
	if (rc == 0)
		rc = dispatch_all(l, &t, ready, now, err);
	if (rc < 0 || l->before_sleep == NULL)
		return rc;
	return l->before_sleep(l->ctx, now, err);
}

int loop_wait(struct loop *l, int fd, short events, int64_t at_us, int64_t grace_us,
	      struct rt_err *err)
{
	struct turning t = {.background = true};
	int64_t give_up_us = LOOP_NEVER;
	const int stops = l->stop;
	l->waits++;
	for (;;) {
		if (l->stop > 0 && give_up_us == LOOP_NEVER)
			give_up_us = rt_mono_us() + grace_us;
		const struct loop_want own = {fd, events, RT_MIN(at_us, give_up_us)};
		int ready;
		int rc = wait_for_any(l, &t, &own, &ready, err);
		int64_t now = rt_mono_us();
		if (rc == 0)
			rc = dispatch_all(l, &t, ready, now, err);
		if (rc < 0)
			return rc;
		notify_turn(now);
		if (ready > 0 && t.fds[l->count].revents != 0)
			return 1;
		if (l->stop > RT_MAX(stops, 1) || now >= give_up_us)
			return rt_fail(err, ERR_RETRY, "told to stop");
		if (now >= at_us)
			return 0;
	}
}

int loop_run(struct loop *l, struct rt_err *err)
{
	while (!l->done && l->stop < 2) {
		int rc = loop_turn(l, err);
		if (rc < 0)
			return rc;
		notify_turn(rt_mono_us());
		if (l->stop == 0)
			(void)!notify_ready(); /* where it was not heard: at the next turn */
	}
	if (l->stop > 0)
		notify_stopping();
	return 0;
}

bool loop_stopping(struct loop *l)
{
	take_signals(l);
	return l->stop > 0;
}
