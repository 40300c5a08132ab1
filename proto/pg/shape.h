/*
 * shape: a relation's shape from the core's catalog: what pgoutput's RELATION
 * message leaves out (what a type OID means, whether rows have a default from
 * before a column was there), and, for a first load, what it would say.
 *
 * Reads catalogs only, best in a session with jit off and no planner setting changed. The catalog is that of now: a type that the stream
 * still speaks of may be gone (LAND_UNKNOWN).
 */
#ifndef PROTO_PG_SHAPE_H
#define PROTO_PG_SHAPE_H

#include <libpq-fe.h>

#include "proto/base/arena.h"
#include "proto/change.h"

/*
 * Fills land and files of s (as it came from the stream; everything else stays,
 * but hash is set anew), in the arena. A relation that is gone has files "".
 */
int shape_complete(PGconn *core, struct arena *a, struct schema *s,
		   struct rt_err *err) RT_MUSTCHECK;

struct shape_table {
	struct schema schema; /* as RELATION would say it, land and files filled; key: see below */
	char kind;	      /* pg_class.relkind: r table, p partitioned */
	const char *
		generated; /* names of generated columns, which are not in it, ", " between; "" none */
};

/*
 * The table as RELATION would announce it now, but that the key flags are those
 * of what makes a row unique: the replica identity's columns, else (identity
 * full or nothing) the primary key's, else those of the first unique index that
 * is whole, immediate and over NOT NULL columns, else none.
 * 0; 1 when there is no such table; negative.
 */
int shape_read(PGconn *core, struct arena *a, const char *nspname, const char *relname,
	       struct shape_table *ret, struct rt_err *err) RT_MUSTCHECK;

/* By which index a table can be read in pieces, each behind the last row of the one before. */
struct shape_key {
	uint32_t index_oid; /* of the index that the key flags above come from; 0: none */
	uint16_t
		count; /* 0: it cannot be read by it (none, or its order is not that of its types) */
	const char **column; /* in the index's order; in the arena */
};

/* The key of the table with that OID, as shape_read chooses it. */
int shape_read_key(PGconn *core, struct arena *a, uint32_t relation_oid, struct shape_key *ret,
		   struct rt_err *err) RT_MUSTCHECK;

/* Must the values of some column come in text form? They say nothing in binary. */
bool shape_needs_text(const struct schema *s);

#endif
