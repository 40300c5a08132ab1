/*
 * capture: the role that takes changes from the core into the spool.
 */
#ifndef CDC_CAPTURE_CAPTURE_H
#define CDC_CAPTURE_CAPTURE_H

#include "proto/settings.h"

/* A table whose inserts must be published. */
struct capture_source {
	const char *nspname, *relname;
};

/*
 * Runs until SIGTERM (or SIGINT), or until going on would be wrong; sets up
 * its log. Returns the process's exit code (enum rt_exit): 0 after a signal,
 * 100 when a person must act, 111 when a new start may help. A core that is
 * away is waited for, for ever. source: the event tables that are landed, whose
 * publishing it watches beside that of the mirrored tables; borrowed.
 *
 * Signals: HUP takes the logging keys from the configuration file again; USR2 writes
 * where it stands to the log; a second TERM stops at once.
 */
int capture_main(const struct settings *s, const struct capture_source *source, int count);

#endif
