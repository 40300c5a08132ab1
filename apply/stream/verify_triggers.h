/*
 * verify_triggers: the rollup table that the core's own triggers fill, beside
 * the landed one: same (id, version), columns by name. What `rolag verify
 * --against-triggers` compares, so that a bank can switch its triggers off.
 */
#ifndef APPLY_STREAM_VERIFY_TRIGGERS_H
#define APPLY_STREAM_VERIFY_TRIGGERS_H

#include <libpq-fe.h>

#include "apply/stream/landed.h"

struct verify_triggers {
	bool exists;	    /* the core has the table; nothing below is set otherwise */
	struct rollup both; /* the definition, with the columns that both ends have */
	struct landed here; /* the landed table with those */
	const char *there;  /* the core's table, quoted */
	const char *select; /* "SELECT … FROM there": the same columns, as the landed types */
};

typedef void (*verify_note)(void *ctx, const char *relation, const char *text);

/*
 * Looks the table up (of the rollup's name, in its source's schema). Everything
 * lives in the arena, and l must outlive it. note: columns that only one end
 * has, or has as another type.
 */
int verify_triggers_find(PGconn *core, const struct landed *l, struct arena *a, verify_note note,
			 void *ctx, struct verify_triggers *ret, struct rt_err *err) RT_MUSTCHECK;

#endif
