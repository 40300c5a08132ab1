/*
 * types: PostgreSQL's built-in types as far as rollups use them: OIDs, text
 * input to binary (send format), binary back to text (output format), and the
 * arithmetic that reducers need. Pure, but for the tz database, from which the
 * zones that values name are read once (a small cache; not thread-safe).
 *
 * A cast from text takes exactly what the type's input function takes with
 * DateStyle=ISO,MDY, IntervalStyle=postgres and the given time zone, less
 * words that mean the present (now, today, tomorrow, yesterday), as PostgreSQL
 * 15 has them (so no 0x and no underscores in numbers, which 16 takes); proven
 * against a live server. Formats: PostgreSQL manual chapter 8 and appendix B;
 * send formats as in src/include/libpq terms: network byte order.
 */
#ifndef PROTO_PG_TYPES_H
#define PROTO_PG_TYPES_H

#include "proto/base/buf.h"
#include "proto/base/rt.h"

enum pgt {
	PGT_BOOL,
	PGT_INT2,
	PGT_INT4,
	PGT_INT8,
	PGT_NUMERIC,
	PGT_TEXT,
	PGT_VARCHAR,
	PGT_UUID,
	PGT_DATE,
	PGT_TIMESTAMPTZ,
	PGT_JSONB,
	PGT_COUNT
};

struct pgt_type {
	enum pgt base; /* the type, or the element type of an array */
	bool array;    /* one-dimensional array of base */
};

#define OID_BOOL	16u
#define OID_BYTEA	17u
#define OID_INT8	20u
#define OID_INT2	21u
#define OID_INT4	23u
#define OID_TEXT	25u
#define OID_JSON	114u
#define OID_VARCHAR	1043u
#define OID_DATE	1082u
#define OID_TIMESTAMPTZ 1184u
#define OID_NUMERIC	1700u
#define OID_UUID	2950u
#define OID_PG_LSN	3220u
#define OID_JSONB	3802u

/* pg_type.oid of the type (of the array type, where array is set). */
uint32_t pgt_oid(struct pgt_type t);
/* Its name in SQL: "int8", "uuid[]", … (static). */
const char *pgt_name(struct pgt_type t);
/* By the names of the definition language ("uuid", "uuid[]", "timestamptz", …); false when unknown. */
bool pgt_parse_name(const char *name, struct pgt_type *ret) RT_MUSTCHECK;
/* By OID (base or array); false when it is not one of ours. */
bool pgt_from_oid(uint32_t oid, struct pgt_type *ret) RT_MUSTCHECK;

/* How to read dates and times without zone. */
struct pgt_zone; /* a time zone from the system's tz database, immutable */
/* "UTC" or an IANA name; NULL when there is none of that name. Freed by pgt_zone_free. */
struct pgt_zone *pgt_zone_load(const char *name);
void pgt_zone_free(struct pgt_zone *z);
/* What clocks in the zone show at a moment (seconds since 1970), less UTC, in seconds. */
int32_t pgt_zone_east(const struct pgt_zone *z, int64_t unix_s);

/*
 * Appends the binary form of text to out. ERR_PERMANENT ("not a valid int8",
 * "out of range for int8", …; never the text itself) with out unchanged when
 * the server would refuse it. Arrays are not read from text here (elements are).
 * jsonb: 0x01 and the text as given; the caller vouches that it is canonical.
 * zone: for date/timestamptz; NULL = UTC.
 */
int pgt_from_text(enum pgt t, struct slice text, const struct pgt_zone *zone, struct buf *out,
		  struct rt_err *err) RT_MUSTCHECK;
/*
 * Appends the text that PostgreSQL's output function gives for binary
 * (TimeZone UTC); arrays as '{…}' literals. ERR_PERMANENT when binary is not
 * a valid value of t (every length is checked).
 */
int pgt_to_text(struct pgt_type t, struct slice binary, struct buf *out,
		struct rt_err *err) RT_MUSTCHECK;
/* Is binary a well-formed value of t? For values that came over the wire in binary. */
bool pgt_is_valid(struct pgt_type t, struct slice binary) RT_MUSTCHECK;

/*
 * Order of two values of an ordered base type (not jsonb), as PostgreSQL's
 * btree operators order them (text and varchar: by bytes, collation "C";
 * numeric: NaN greatest): <0, 0, >0.
 */
int pgt_compare(enum pgt t, struct slice a, struct slice b);
/*
 * Appends a + b (or a - b where subtract) for int2, int4, int8 and numeric,
 * exactly (numeric: display scale = the larger one, as numeric_add). Overflow
 * of an integer: ERR_PERMANENT "out of range for int8".
 */
int pgt_add(enum pgt t, struct slice a, struct slice b, bool subtract, struct buf *out,
	    struct rt_err *err) RT_MUSTCHECK;

/* ---- one-dimensional arrays in send format: ndim, hasnull, element oid, {dim, lbound}, elements ---- */

/* Appends the empty array '{}' of element type t. */
void pgt_array_empty(enum pgt t, struct buf *out);
/* Number of elements; -1 when binary is not a one-dimensional (or empty) array of t. */
int pgt_array_count(enum pgt t, struct slice binary);
/* Appends array with one element more; element.p == NULL is a NULL element. array must be valid. */
void pgt_array_append(enum pgt t, struct slice array, struct slice element, struct buf *out);
/* Appends array without the elements equal to element (NULL: without the NULLs); '{}' when none is left. */
void pgt_array_remove(enum pgt t, struct slice array, struct slice element, struct buf *out);
/* Does the array hold element? (NULL equals NULL here, as in array_position.) */
bool pgt_array_contains(enum pgt t, struct slice array, struct slice element);

#endif
