/* publication: a built run's files, and the moment at which all of it becomes visible. */
#ifndef APPLY_REPORTS_PUBLICATION_H
#define APPLY_REPORTS_PUBLICATION_H

#include "apply/reports/making.h"

/* Writes files, checksums and, last, the manifest into the run's folder that nobody sees yet; m->file has them then. */
int publication_write(struct making *m, struct rt_err *err) RT_MUSTCHECK;
/* Moves the run from writing to published, its files with it: all or nothing. */
int publication_commit(struct making *m, struct rt_err *err) RT_MUSTCHECK;
/*
 * Writes the files of a published run again, from the relations that it kept,
 * with the manifest that it had. In place of those that are there, in one
 * exchange. ERR_PERMANENT, with nothing changed, when the relations are not
 * kept any more, or a byte would be another.
 */
int publication_again(struct making *m, struct rt_err *err) RT_MUSTCHECK;

#endif
