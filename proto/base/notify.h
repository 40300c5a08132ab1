/*
 * notify: what a role tells the service manager that started it (systemd's
 * sd_notify protocol: datagrams to $NOTIFY_SOCKET): that it works, how it is,
 * that it turns, that it stops. Without a service manager nothing happens.
 *
 * loop.c calls it: a role is ready when its first turn is done, which comes
 * after its locks were taken and its files opened; and the watchdog hears of
 * turns that end, so that a turn that hangs ends the process.
 */
#ifndef PROTO_BASE_NOTIFY_H
#define PROTO_BASE_NOTIFY_H

#include "proto/base/rt.h"

#define NOTIFY_NEVER INT64_MAX

/*
 * Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of the environment, so that no child of ours speaks for us.
 * A socket that cannot be used counts as none: a role works without it.
 */
void notify_open(void);
/* Forgets the socket; a child does that for itself alone. */
void notify_close(void);

/* Each says it once, and again after a reload; to be called again while it returns false (the socket was full). */
bool notify_ready(void) RT_MUSTCHECK;
/* now_us: monotonic. The configuration is being read again; notify_ready ends it. */
void notify_reloading(int64_t now_us);
void notify_stopping(void);

/*
 * End of a turn: feeds the watchdog where it is due, and says the state and note of `rolag status` (metrics.h) when
 * they have changed, at most once a second. A note's line ends become spaces.
 */
void notify_turn(int64_t now_us);
/* When notify_turn wants to be called again, monotonic; NOTIFY_NEVER: it need not. */
int64_t notify_due(void);

#endif
