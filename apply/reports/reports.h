/*
 * reports: the companion's role (design §8): takes requests for reports from
 * the queue, by signal and by the clock, and has a worker make each.
 */
#ifndef APPLY_REPORTS_REPORTS_H
#define APPLY_REPORTS_REPORTS_H

#include "proto/settings.h"

/*
 * Runs until SIGTERM or an error that only a person mends; SIGUSR1 asks for
 * all reports. Returns the exit code (enum rt_exit).
 */
int reports_main(const struct settings *s);

#endif
