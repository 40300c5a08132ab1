/*
 * apply: the role that folds the spool into the warehouse (design §3, §6, §7).
 */
#ifndef APPLY_STREAM_APPLY_H
#define APPLY_STREAM_APPLY_H

#include "proto/settings.h"

/*
 * Runs until SIGTERM or an error that only a person mends. Returns the exit
 * code (enum rt_exit). Opens no port; talks to the warehouse, and to the core
 * for syncs only.
 */
int apply_main(const struct settings *s);

#endif
