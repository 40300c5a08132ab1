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
static void announce(const struct loop *l, int64_t now_us)
{
	if (l->stop > 0)
		notify_stopping();
	else if (l->reload)
		notify_reloading(now_us);
}

int loop_turn(struct loop *l, struct rt_err *err)
{
	struct pollfd fds[LOOP_SOURCES_MAX];
	struct loop_want want[LOOP_SOURCES_MAX];
	int64_t now = rt_mono_us(), nearest = notify_due();
	for (int i = 0; i < l->count; i++) {
		want[i] = (struct loop_want){.fd = -1, .at_us = LOOP_NEVER};
		l->source[i].prepare(l->source[i].ctx, now, &want[i]);
		fds[i] = (struct pollfd){.fd = want[i].fd, .events = want[i].events};
		nearest = RT_MIN(nearest, want[i].at_us);
	}
	struct timespec ts, *timeout = NULL;
	if (nearest != LOOP_NEVER) {
		int64_t left = RT_MAX(nearest - now, 0);
		ts = (struct timespec){left / 1000000, left % 1000000 * 1000};
		timeout = &ts;
	}
	int n = ppoll(fds, (nfds_t)l->count, timeout, &mask_before);
	if (n < 0 && errno != EINTR)
		return rt_fail_errno(err, ERR_SYSTEM, "ppoll failed");
	take_signals(l);
	now = rt_mono_us();
	announce(l, now);
	for (int i = 0; i < l->count; i++) {
		/* NOLINTNEXTLINE(bugprone-narrowing-conversions): both are revents */
		short revents = n > 0 ? fds[i].revents : 0;
		if (revents == 0 && want[i].at_us > now)
			continue;
		int rc = l->source[i].dispatch(l->source[i].ctx, revents, now, err);
		if (rc < 0)
			return rc;
	}
	return l->before_sleep == NULL ? 0 : l->before_sleep(l->ctx, now, err);
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
