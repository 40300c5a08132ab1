/*
 * form: how rows are written: csv and txt (RFC 4180 with a delimiter, LF at
 * the end of a line) and xml. Pure: appends to a buffer, one row at a time.
 */
#ifndef TRANSFORMS_REPORT_FORM_H
#define TRANSFORMS_REPORT_FORM_H

#include "proto/base/buf.h"
#include "transforms/report/definition.h"

/* ---- csv and txt ---- */

/* The header's line. */
void form_csv_header(struct buf *out, const struct report *r, char delimiter);
/*
 * A field, with the delimiter before it unless it is the first. Quoted only
 * where it must be. guard: text that a spreadsheet would take for a formula
 * gets an apostrophe before it.
 */
void form_csv_field(struct buf *out, struct slice text, bool first, char delimiter, bool guard);
void form_csv_end_row(struct buf *out);

/* ---- xml: one row a line, so that a line's number less one is a row's ---- */

void form_xml_begin(struct buf *out, const struct report *r);
void form_xml_begin_row(struct buf *out, const struct report *r);
/* An element. False, with nothing useful appended, where text holds a character that XML 1.0 has not. */
bool form_xml_field(struct buf *out, const char *name, struct slice text) RT_MUSTCHECK;
/* An element without a value: xsi:nil. */
void form_xml_nil(struct buf *out, const char *name);
void form_xml_end_row(struct buf *out, const struct report *r);
void form_xml_end(struct buf *out, const struct report *r);

#endif
