/*
 * types_inner: what the files behind types.h share. Nothing outside of
 * proto/pg includes it.
 */
#ifndef PROTO_PG_TYPES_INNER_H
#define PROTO_PG_TYPES_INNER_H

#include "proto/base/buf.h"
#include "proto/pg/types.h"

/* White space as the input functions see it (the C locale's isspace). */
static inline bool pgt_is_space(uint8_t c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static inline bool pgt_is_digit(uint8_t c)
{
	return c >= '0' && c <= '9';
}

static inline uint8_t pgt_lower(uint8_t c)
{
	return c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c;
}

static inline bool pgt_is_letter(uint8_t c)
{
	c = pgt_lower(c);
	return c >= 'a' && c <= 'z';
}

/* text without white space at both ends. */
struct slice pgt_trim(struct slice text);
/* Is text the word, ignoring the case of ASCII letters? word is in lower case. */
bool pgt_is_word(struct slice text, const char *word);

/* "not a valid int8", "out of range for int8": ERR_PERMANENT. */
int pgt_fail_syntax(struct rt_err *err, const char *type);
int pgt_fail_range(struct rt_err *err, const char *type);

/* numeric.c; binary is the send format. */
int numeric_from_text(struct slice text, struct buf *out, struct rt_err *err) RT_MUSTCHECK;
void numeric_to_text(struct slice binary, struct buf *out);
bool numeric_is_valid(struct slice binary) RT_MUSTCHECK;
int numeric_compare(struct slice a, struct slice b);
int numeric_add(struct slice a, struct slice b, bool subtract, struct buf *out,
		struct rt_err *err) RT_MUSTCHECK;

/* array.c; t is the element type. */
bool array_is_valid(enum pgt t, struct slice binary) RT_MUSTCHECK;
void array_to_text(enum pgt t, struct slice binary, struct buf *out);

/* datetime.c; zone as in pgt_from_text. */
int date_from_text(struct slice text, const struct pgt_zone *zone, struct buf *out,
		   struct rt_err *err) RT_MUSTCHECK;
int timestamptz_from_text(struct slice text, const struct pgt_zone *zone, struct buf *out,
			  struct rt_err *err) RT_MUSTCHECK;
void date_to_text(struct slice binary, struct buf *out);
void timestamptz_to_text(struct slice binary, struct buf *out);
bool date_is_valid(struct slice binary) RT_MUSTCHECK;
bool timestamptz_is_valid(struct slice binary) RT_MUSTCHECK;

/* types.c: one value of a base type that pgt_is_valid has accepted. */
void pgt_value_to_text(enum pgt t, struct slice binary, struct buf *out);
bool pgt_value_is_valid(enum pgt t, struct slice binary) RT_MUSTCHECK;

#endif
