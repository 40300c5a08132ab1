/*
 * csv: a reader of RFC 4180, a record at a time, from memory. Lines end in
 * LF or CRLF; a UTF-8 mark at the beginning is passed over; a field that is
 * empty and not quoted is NULL. Stricter than the RFC where that hides a
 * mistake: every record has as many fields as the first, quotes stand around
 * a whole field, the text is UTF-8 without NUL. Errors have file, line, column.
 */
#ifndef TRANSFORMS_MODELS_CSV_H
#define TRANSFORMS_MODELS_CSV_H

#include "proto/base/buf.h"
#include "proto/base/rt.h"

#define CSV_FIELDS_MAX	    1500
#define CSV_FIELD_MAX_BYTES (1u << 20)

struct csv_field {
	struct slice text; /* within the reader's buffer, until the next record */
	bool null;
};

struct csv {
	const char *file;
	struct slice text;
	size_t at;
	int line;	   /* where the next record begins, from 1 */
	int record_line;   /* where the one that was read last begins */
	size_t width;	   /* fields of each; 0: none read yet */
	size_t count, cap; /* fields of the record */
	struct csv_field *field;
	struct buf unquoted; /* the fields' bytes */
};

void csv_init(struct csv *c, const char *file, struct slice text);
void csv_release(struct csv *c);
/* 1: a record is in c->field; 0: there is none any more; ERR_PERMANENT. */
int csv_next(struct csv *c, struct rt_err *err) RT_MUSTCHECK;

#endif
