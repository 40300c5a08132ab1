/* validate: an XML file on disk against a schema, by libxml2's streaming reader: memory does not grow with the file. */
#ifndef APPLY_REPORTS_VALIDATE_H
#define APPLY_REPORTS_VALIDATE_H

#include "proto/base/rt.h"

#define VALIDATE_REASON_MAX 400

/*
 * Is the file valid? If not, reason says line, element and rule of the first
 * violation, never a value. xsd: the schema's text; xsd_name: how messages
 * call it. ERR_PERMANENT when the schema itself is none, ERR_SYSTEM when the
 * file cannot be read.
 */
int validate_xml(const char *path, struct slice xsd, const char *xsd_name, bool *ret_valid,
		 char reason[VALIDATE_REASON_MAX], struct rt_err *err) RT_MUSTCHECK;

#endif
