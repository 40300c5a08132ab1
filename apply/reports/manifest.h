/* manifest: what a run's files are and what they knew, as a JSON document. The same run gives the same bytes. */
#ifndef APPLY_REPORTS_MANIFEST_H
#define APPLY_REPORTS_MANIFEST_H

#include <jansson.h>

#include "apply/reports/runs.h"

#define MANIFEST_NAME  "manifest.json"
#define CHECKSUMS_NAME "files.sha256"

/* Its text, in the arena. built: what the build left (report_run.built). */
int manifest_make(const struct run *r, const json_t *built, const struct run_file *file,
		  size_t count, struct arena *a, struct slice *ret,
		  struct rt_err *err) RT_MUSTCHECK;
/* The list that `sha256sum -c` takes, in the arena. */
struct slice manifest_checksums(const struct run_file *file, size_t count, struct arena *a);

#endif
