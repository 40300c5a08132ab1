/*
 * json_chars: what the files of the JSON scanner share: the bytes of a string
 * with its escapes undone, one at a time.
 */
#ifndef TRANSFORMS_ROLLUP_JSON_CHARS_H
#define TRANSFORMS_ROLLUP_JSON_CHARS_H

#include "transforms/rollup/json.h"

enum json_escape {
	JSON_ESCAPE_OK = 0,
	JSON_ESCAPE_BAD,       /* not one of RFC 8259 */
	JSON_ESCAPE_ZERO,      /* \u0000: jsonb refuses it */
	JSON_ESCAPE_SURROGATE, /* half a pair */
};

/* *p is at a backslash: undoes one escape (a pair of \u counts as one) and moves *p behind it. */
enum json_escape json_take_escape(const uint8_t **p, const uint8_t *end, uint8_t out[4],
				  unsigned *ret_n) RT_MUSTCHECK;

struct json_chars {
	const uint8_t *p, *end;
	uint8_t out[4];
	unsigned have, at;
};

static inline struct json_chars json_chars_of(struct slice inside)
{
	return (struct json_chars){.p = inside.p, .end = inside.p + inside.len};
}

/* The next byte of the string as it means, or -1 at its end. */
int json_chars_next(struct json_chars *c);

/* What kind of value begins with this byte; JSON_ABSENT: none. */
enum json_kind json_kind_of(uint8_t first);

#endif
