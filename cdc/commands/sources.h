/* sources: the tables of the core that the configured rollups are made from. */
#ifndef CDC_COMMANDS_SOURCES_H
#define CDC_COMMANDS_SOURCES_H

#include "proto/settings.h"

struct source {
	const char *file;   /* the definition */
	const char *rollup; /* the warehouse's table */
	const char *schema, *table;
};

struct sources {
	size_t count;
	const struct source *item; /* by file name */
};

/*
 * Reads rollups.path (every *.yaml, or those that rollups.land names) into the
 * arena. ERR_PERMANENT: no such folder, no definition in it, a name in
 * rollups.land that none has, two of one name.
 */
int sources_load(const struct settings *s, struct arena *a, struct sources *ret,
		 struct rt_err *err) RT_MUSTCHECK;

#endif
