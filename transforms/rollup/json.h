/*
 * json: a zero-copy scanner over one JSON text (RFC 8259): finds values by
 * path as slices of the input, and turns them into what the fold needs. Pure,
 * no allocation but into the caller's buffer. Fuzzed.
 *
 * Payloads come from jsonb, whose output is canonical (keys ordered by length
 * and then bytes, no duplicates, ", " and ": " between), so a slice of one is
 * canonical jsonb text again. Other input goes through json_canonical first.
 */
#ifndef TRANSFORMS_ROLLUP_JSON_H
#define TRANSFORMS_ROLLUP_JSON_H

#include "proto/base/buf.h"
#include "proto/base/rt.h"

#define JSON_DEPTH_MAX 256

enum json_kind {
	JSON_ABSENT, /* no such key */
	JSON_NULL,
	JSON_BOOL,
	JSON_NUMBER,
	JSON_STRING,
	JSON_ARRAY,
	JSON_OBJECT,
};

struct json_value {
	enum json_kind kind;
	struct slice raw; /* the value's own text, quotes and brackets included */
};

/* "null", "boolean", "number", "string", "array", "object", "absent" (static). */
const char *json_kind_name(enum json_kind kind);

/*
 * Checks the whole text (syntax, UTF-8, surrogate pairs, depth, no \u0000:
 * jsonb refuses it) and gives its top value. ERR_PERMANENT with the byte
 * offset, never the text.
 */
int json_parse(struct slice text, struct json_value *ret, struct rt_err *err) RT_MUSTCHECK;

/*
 * The top value of a text that is trusted to be JSON (jsonb's own output):
 * one pass over its brackets and strings, without the check of json_parse.
 * JSON_ABSENT when there is no such value. On text that is not JSON the walks
 * below stay inside it, and say -1 where they notice.
 */
struct json_value json_top(struct slice text);

/* Walks the members of an object: 1 with key and value, 0 at the end, -1 not JSON. Start with *at = 0. key.raw keeps its quotes. */
int json_next_member(const struct json_value *v, size_t *at, struct json_value *ret_key,
		     struct json_value *ret_value);
/* Walks the elements of an array likewise. */
int json_next_element(const struct json_value *v, size_t *at, struct json_value *ret);
/* The member named key (unescaped form) of an object; JSON_ABSENT when there is none or v is no object. */
struct json_value json_get(const struct json_value *v, struct slice key);
/* Is there a backslash in the string? */
bool json_has_escapes(const struct json_value *v);
/* A string's text between its quotes, escapes as they are. */
struct slice json_inside(const struct json_value *v);
/* Is the JSON string equal to the plain text? */
bool json_string_is(const struct json_value *v, struct slice plain);

/*
 * Appends what SQL's ->> gives: a string unescaped, anything else its text.
 * v is neither absent nor null.
 */
void json_append_text(const struct json_value *v, struct buf *out);

/* Appends plain text (UTF-8) as a JSON string, escaped as jsonb prints it. */
void json_put_string(struct slice plain, struct buf *out);

/*
 * Appends the jsonb canonical form of any JSON text: keys ordered by length
 * then bytes, last duplicate wins, numbers as numeric prints them (1e3 →
 * 1000, 1.50 kept), escapes as jsonb prints them, one space after , and :.
 * ERR_PERMANENT as json_parse, and for numbers that numeric cannot hold.
 */
int json_canonical(struct slice text, struct buf *out, struct rt_err *err) RT_MUSTCHECK;

/* Appends the shallow union a || b of two canonical objects, canonical (as jsonb's || on objects). */
void json_merge(const struct json_value *a, const struct json_value *b, struct buf *out);

#endif
