/* exceptions: what the warehouse lacks although its position says otherwise: parked entities, tables that are not live. */
#ifndef APPLY_REPORTS_EXCEPTIONS_H
#define APPLY_REPORTS_EXCEPTIONS_H

#include <jansson.h>
#include <libpq-fe.h>

#include "proto/base/rt.h"

/*
 * Appends to list (a JSON array) an object for each: {"rollup", "entities",
 * "events"} and {"table", "state", "reason"}. sources: names of landed tables
 * that count (a JSON array of text); NULL: all. *ret_blocks: how many of them
 * are a reason not to publish (a table that is being rebuilt, or is no longer
 * landed, is none).
 */
int exceptions_read(PGconn *c, const char *pipeline, const json_t *sources, json_t *list,
		    int *ret_blocks, struct rt_err *err) RT_MUSTCHECK;
/* ERR_PERMANENT naming the first of them. */
int exceptions_fail(const json_t *list, struct rt_err *err);

#endif
