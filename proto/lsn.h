/*
 * lsn: a position in the core's write-ahead log, in bytes since its beginning
 * (PostgreSQL manual, "pg_lsn Type"). A struct, so that it cannot be mixed up
 * with a count. Positions that order, skip or resume anything are *commit end
 * LSNs*; 0 means "none".
 */
#ifndef PROTO_LSN_H
#define PROTO_LSN_H

#include "proto/base/rt.h"

struct lsn {
	uint64_t v;
};

#define LSN_NONE ((struct lsn){0})
/* printf("%X/%X", LSN_ARGS(lsn)): the way PostgreSQL prints it. */
#define LSN_FMT	    "%X/%X"
#define LSN_ARGS(l) (unsigned)((l).v >> 32), (unsigned)((l).v & 0xFFFFFFFFu)

static inline bool lsn_lt(struct lsn a, struct lsn b)
{
	return a.v < b.v;
}

static inline bool lsn_le(struct lsn a, struct lsn b)
{
	return a.v <= b.v;
}

static inline bool lsn_eq(struct lsn a, struct lsn b)
{
	return a.v == b.v;
}

static inline struct lsn lsn_max(struct lsn a, struct lsn b)
{
	return a.v > b.v ? a : b;
}

static inline struct lsn lsn_min(struct lsn a, struct lsn b)
{
	return a.v < b.v ? a : b;
}

/* Reads "16/B374D848" (hex/hex, nothing else); false and *ret untouched when text is not an LSN. */
bool lsn_parse(const char *text, struct lsn *ret) RT_MUSTCHECK;

#endif
