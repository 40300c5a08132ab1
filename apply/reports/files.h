/* files: one report's rows into its files, all formats in one pass over the rows. */
#ifndef APPLY_REPORTS_FILES_H
#define APPLY_REPORTS_FILES_H

#include "apply/reports/runs.h"

/* Files whose sync is still to come, at most so many: then they are synced, all at once. */
#define FILES_PENDING_MAX 64

struct files {
	PGconn *c;
	const struct report_pack *pack;
	const char *definitions; /* path of reports.yaml: official schemas are beside it */
	const char *folder;	 /* of the run, being made */
	bool guard_formulas;
	bool flag_invalid;   /* else what is invalid fails */
	struct arena *arena; /* of what is given back */
	struct files_pending {
		int fd;
		char *path;
	} pending[FILES_PENDING_MAX];
	size_t pending_count;
};

/*
 * Writes the report's files from schema.model (nothing is read for one that is
 * declared empty); appends a struct run_file for each of its formats. On disk
 * behind files_sync. ERR_PERMANENT with report, row and column for a value that
 * breaks its limits (unless it is flagged) or that XML cannot hold.
 */
int files_write(struct files *f, const struct report *r, const char *schema, struct run_file *ret,
		size_t *ret_count, struct rt_err *err) RT_MUSTCHECK;
/*
 * What was written is on disk when it returns 0. One by one at the end, since
 * the first sync takes the file system's journal for all of them. Or, on the
 * way out of an error, files_release forgets them.
 */
int files_sync(struct files *f, struct rt_err *err) RT_MUSTCHECK;
void files_release(struct files *f);
/* The schema that the report's XML is validated against, in the arena: an official one, else the one made of its definition. */
int files_schema(const char *definitions, const struct report *r, struct arena *a,
		 struct slice *ret, const char **ret_name, struct rt_err *err) RT_MUSTCHECK;
/* A file of text into the folder, on disk: name, and its bytes. */
int files_put(const char *folder, const char *name, struct slice text,
	      struct rt_err *err) RT_MUSTCHECK;
/* SHA-256 and length of a file. ERR_PERMANENT when there is none. */
int files_hash(const char *path, char ret[65], int64_t *ret_bytes, struct rt_err *err) RT_MUSTCHECK;

#endif
