/*
 * earlier: files of runs before this one that hold the same rows. A report's
 * file is a function of its relation (which stands still), its definition, its
 * schema and two settings; where all of these are an earlier run's, so are the
 * bytes, and the file is linked instead of written.
 */
#ifndef APPLY_REPORTS_EARLIER_H
#define APPLY_REPORTS_EARLIER_H

#include "apply/reports/files.h"
#include "apply/reports/making.h"

struct earlier {
	struct run_file *file; /* in the arena of the run */
	const char **run;      /* whose each of them is */
	size_t count;
};

/* What the runs that are still kept have published from the very relations that this run has. */
int earlier_find(struct making *m, struct earlier *ret, struct rt_err *err) RT_MUSTCHECK;
/*
 * Links the report's files into f->folder, all of its formats or none, each
 * behind a look at its checksum. *ret_done: false when one is not there, or not
 * what it was, or cannot be linked: then the report is to be written. On true
 * a struct run_file for each format is appended to ret.
 */
int earlier_link(const struct earlier *e, struct files *f, const char *target,
		 const struct report *r, struct run_file *ret, size_t *ret_count, bool *ret_done,
		 struct rt_err *err) RT_MUSTCHECK;

#endif
