/*
 * value: one value's way from the database's text into a report file: the
 * form that its column's type has, and the column's limits. Pure.
 */
#ifndef TRANSFORMS_REPORT_VALUE_H
#define TRANSFORMS_REPORT_VALUE_H

#include "proto/base/buf.h"
#include "transforms/report/definition.h"

struct report_values {
	const struct report *report;
	void **pattern; /* by column: compiled, or NULL */
	struct buf text;
	char reason[160];
};

void report_values_init(struct report_values *v, const struct report *r);
void report_values_release(struct report_values *v);
/*
 * The value of column as its files show it; in: what PostgreSQL prints
 * (DateStyle ISO, TimeZone UTC; a decimal rounded already, where it is to be).
 * *ret points into in or into v, until the next call. NULL, or why the value
 * breaks a limit of its column, without the value; *ret is set all the same.
 */
const char *report_value(struct report_values *v, size_t column, struct slice in,
			 struct slice *ret);

/* How many characters (code points) UTF-8 text has. */
size_t report_characters(struct slice s);

#endif
