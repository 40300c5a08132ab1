/*
 * definition: report definitions (reports.yaml; transforms/lana/REPORTS.md is
 * the grammar) as structs. Pure: the text comes in by parameter.
 */
#ifndef TRANSFORMS_REPORT_DEFINITION_H
#define TRANSFORMS_REPORT_DEFINITION_H

#include "proto/base/arena.h"
#include "proto/base/rt.h"

#define REPORT_COLUMNS_MAX 400
#define REPORTS_MAX	   1000
#define REPORT_NAME_MAX	   63 /* bytes of a norm, an id, a file's name, a model */
#define REPORT_COLUMN_MAX  63 /* bytes of a column's name: it is PostgreSQL's */

enum report_format { REPORT_CSV, REPORT_TXT, REPORT_XML, REPORT_FORMATS };

enum report_type {
	REPORT_TEXT,
	REPORT_DECIMAL,
	REPORT_INT,
	REPORT_SHORT,
	REPORT_DATE,
	REPORT_TIMESTAMP,
	REPORT_BOOLEAN,
	REPORT_JSON,
	REPORT_TYPES
};

enum report_overflow { REPORT_FAIL, REPORT_CUT, REPORT_CUT_LEFT };

struct report_column {
	const char *name;
	enum report_type type;
	bool nillable;
	bool has_length, has_min_length, has_max_length; /* text: limits in characters */
	uint32_t length, min_length, max_length;
	enum report_overflow overflow;
	bool collapse; /* text: blanks as XML Schema's whiteSpace=collapse */
	size_t enum_count;
	const char **enums;  /* text */
	const char *pattern; /* text: of XML Schema; NULL: none */
	bool has_digits, has_fraction;
	uint32_t digits, fraction; /* decimal */
	bool trim_zeros;	   /* decimal */
	bool compact;		   /* date */
	const char *min, *max;	   /* as written in the file; NULL: none */
};

struct report_xml {
	const char *schema; /* name of its file, without .xsd */
	const char *space;  /* target namespace */
	const char *root, *row;
	uint32_t min_rows; /* 0 or 1 */
};

struct report {
	const char *id;	  /* norm/id */
	const char *norm; /* the part before the slash */
	const char *name; /* of the file, without its ending */
	const char *title;
	const char *model; /* NULL: declared empty */
	bool formats[REPORT_FORMATS];
	bool as_of;
	size_t order_count;
	const char **order;
	struct report_xml xml; /* where formats[REPORT_XML] */
	size_t column_count;
	struct report_column *column;
};

struct report_pack {
	size_t count;
	struct report *report; /* in the file's order */
	char csv_delimiter, txt_delimiter;
};

/*
 * Reads text (name stands in messages) into the arena. ERR_PERMANENT with
 * "name:line:column: …" for anything that the grammar does not allow; names
 * that reach a path hold nothing but a-z, 0-9 and _.
 */
int report_pack_parse(struct arena *a, const char *name, struct slice text, struct report_pack *ret,
		      struct rt_err *err) RT_MUSTCHECK;
/* The report of an id ("norm/id"), or NULL. */
const struct report *report_find(const struct report_pack *p, const char *id);
/*
 * What a request asks for: ids in *ret (in the arena), sorted by bytes, each
 * once; of all reports where count is 0. as_of: "YYYY-MM-DD" or NULL. Where a
 * report needs a day and none is given it is yesterday, unless that is NULL.
 * ERR_USAGE for an unknown report (with the nearest), a day that is none, one
 * that is missing, or one that nothing of the selection takes.
 */
int report_select(const struct report_pack *p, struct arena *a, const char *const *ids,
		  size_t count, const char *as_of, const char *yesterday, const char ***ret,
		  size_t *ret_count, const char **ret_as_of, struct rt_err *err) RT_MUSTCHECK;

/* "csv", "txt", "xml": ending and name. */
const char *report_format_name(enum report_format f);
/* A day of the calendar as "YYYY-MM-DD", years 0001 to 9999? */
bool report_is_day(const char *text);
/* A plain decimal number: an optional minus, digits, perhaps a point and digits. */
bool report_is_decimal(const char *text);
/* Compares two of these: <0, 0, >0. */
int report_decimal_cmp(const char *a, const char *b);

/* Appends the XML schema of a report with xml. */
struct buf;
void report_xsd(const struct report *r, struct buf *out);

#endif
