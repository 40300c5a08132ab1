/* run_json: runs and their files as JSON objects, for `rolag report … --json` and the API. */
#ifndef APPLY_REPORTS_RUN_JSON_H
#define APPLY_REPORTS_RUN_JSON_H

#include <jansson.h>

#include "apply/reports/runs.h"

/* The caller's. Keys are only ever added to; null where there is nothing (yet). */
json_t *run_json(const struct run *r);
json_t *run_file_json(const struct run_file *f);

#endif
