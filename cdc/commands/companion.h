/*
 * companion: which roles have a role of the database of their own, and the
 * rights that the companion of reports works with. One list, for init, which
 * grants them where the companion has a role of its own, and for check.
 */
#ifndef CDC_COMMANDS_COMPANION_H
#define CDC_COMMANDS_COMPANION_H

#include <libpq-fe.h>

#include "proto/base/arena.h"
#include "proto/settings.h"

/* A control table, and what is done to it: "SELECT, INSERT". */
struct companion_right {
	const char *table, *verbs;
};
extern const struct companion_right companion_rights[];
extern const size_t companion_right_count;

/* The value of a connection string's parameter, in the arena; otherwise where it does not say. */
const char *conninfo_value(struct arena *a, const char *conninfo, const char *key,
			   const char *otherwise);
/* The companion's role in the warehouse, where it has one of its own; NULL: none, or no reports. */
const char *companion_role(struct arena *a, const struct settings *s);
/* Capture's role in the core, where it has one of its own; NULL: none. */
const char *capture_role(struct arena *a, const struct settings *s);
/* Likewise of the companion, for the fence. */
const char *companion_core_role(struct arena *a, const struct settings *s);

#endif
