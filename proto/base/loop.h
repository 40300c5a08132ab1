/*
 * loop: the turn that every role lives by. One turn: read the clock, ask each
 * source what it waits for, ppoll, dispatch, and `before_sleep` once at the
 * end of the turn's work (write, make durable, answer). The pollfd array is
 * rebuilt each turn, so libpq changing its socket leaves nothing stale.
 *
 * SIGTERM and SIGINT (stop), SIGHUP (reload), SIGUSR1, SIGUSR2 and SIGCHLD arrive between
 * turns as flags; they are blocked except inside ppoll.
 *
 * A service manager hears of a role by its loop (notify.h): ready after the first turn, alive with each.
 */
#ifndef PROTO_BASE_LOOP_H
#define PROTO_BASE_LOOP_H

#include "proto/base/rt.h"

#define LOOP_SOURCES_MAX 16
#define LOOP_NEVER	 INT64_MAX

struct loop;

/* What a source waits for in this turn. */
struct loop_want {
	int fd;	       /* -1: none */
	short events;  /* POLLIN, POLLOUT */
	int64_t at_us; /* monotonic deadline, LOOP_NEVER for none; in the past = at once */
};

struct loop_source {
	const char *name;
	void *ctx;
	/* Fills *ret (preset to nothing). */
	void (*prepare)(void *ctx, int64_t now_us, struct loop_want *ret);
	/*
	 * Called when an event came or the deadline passed; revents 0 = deadline only.
	 * A negative return ends loop_run with it.
	 */
	int (*dispatch)(void *ctx, short revents, int64_t now_us, struct rt_err *err);
};

struct loop {
	struct loop_source source[LOOP_SOURCES_MAX];
	bool background[LOOP_SOURCES_MAX];
	unsigned waits; /* counts loop_wait */
	int count;
	void *ctx;
	/* End of turn, may be NULL; a negative return ends loop_run. */
	int (*before_sleep)(void *ctx, int64_t now_us, struct rt_err *err);
	bool done; /* set by a source: loop_run returns 0 at the end of this turn */
	/* Set by signals, read and cleared by the owner. */
	int stop; /* number of SIGTERM/SIGINT seen; the second one ends loop_run at once */
	bool reload;
	bool usr1;
	bool usr2;
	bool child;
};

/* Installs the signal handlers (process-wide; one loop per process). */
int loop_init(struct loop *l, struct rt_err *err) RT_MUSTCHECK;
/* Undoes the handlers and the mask. */
void loop_release(struct loop *l);
void loop_add(struct loop *l, struct loop_source s);
/* One that is served, too, while another waits within its dispatch (loop_wait). */
void loop_add_background(struct loop *l, struct loop_source s);
/* One turn; waits at most until the nearest deadline. 0 or the first negative return. */
int loop_turn(struct loop *l, struct rt_err *err) RT_MUSTCHECK;
/* Turns until l->done, a negative return, or a second stop signal (which returns 0). */
int loop_run(struct loop *l, struct rt_err *err) RT_MUSTCHECK;

/*
 * For a dispatch that cannot go on without an answer: waits until fd is ready
 * for events (1) or at_us has passed (0), serving background sources meanwhile.
 * Negative: one of those failed, or (ERR_RETRY) the process was told to stop,
 * grace_us ago or once more.
 */
int loop_wait(struct loop *l, int fd, short events, int64_t at_us, int64_t grace_us,
	      struct rt_err *err) RT_MUSTCHECK;

/* Looks for signals without waiting, for long work outside of turns: true when the process shall stop. */
bool loop_stopping(struct loop *l);

#endif
