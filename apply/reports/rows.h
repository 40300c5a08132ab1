/* rows: the rows behind a report's files, in order, one at a time, by COPY: memory does not grow with them. */
#ifndef APPLY_REPORTS_ROWS_H
#define APPLY_REPORTS_ROWS_H

#include <libpq-fe.h>

#include "transforms/report/definition.h"

struct rows {
	PGconn *c;
	const struct report *report;
	char *line;	     /* libpq's; its fields are decoded in place */
	struct slice *field; /* by column, of the row at hand */
	bool *null;
	int64_t count; /* rows given so far */
};

/*
 * Begins to read schema.model with the columns and the order that the report
 * says. ERR_PERMANENT when the relation or a column of it is missing, or it is
 * a view, whose rows may be others tomorrow.
 */
int rows_open(struct rows *r, PGconn *c, const char *schema, const struct report *report,
	      struct rt_err *err) RT_MUSTCHECK;
/* The next row: 1, r->field and r->null hold it; 0: there are no more. */
int rows_next(struct rows *r, struct rt_err *err) RT_MUSTCHECK;
void rows_close(struct rows *r);

#endif
