/*
 * published: how tables of the core are published, as its catalog says now:
 * wholly, or what is wrong and how to mend it, and the mark by which a table
 * that left its publication for a while, or whose publication was changed, is
 * known afterwards: what was written meanwhile is in no stream.
 */
#ifndef PROTO_PG_PUBLISHED_H
#define PROTO_PG_PUBLISHED_H

#include <libpq-fe.h>

#include "proto/base/arena.h"
#include "proto/base/buf.h"

/* A table that has to be in a publication. Strings are borrowed. */
struct published_want {
	const char *publication, *nspname, *relname;
	bool changes; /* its updates and deletes, too; else inserts (and TRUNCATE) alone */
};

enum published_problem {
	PUBLISHED_WELL,
	PUBLISHED_NO_TABLE,
	PUBLISHED_NO_PUBLICATION,
	PUBLISHED_NOT_IN,
	PUBLISHED_OPERATIONS, /* the publication leaves out operations */
	PUBLISHED_LEAVES,     /* a partitioned table's rows come under its partitions' names */
	PUBLISHED_FILTER,
	PUBLISHED_COLUMNS,
	PUBLISHED_PROBLEMS
};

/*
 * Appends one query: a row of each want, in order. Reads the catalog only, and
 * needs no right on the tables. count > 0.
 */
void published_sql(struct buf *out, const struct published_want *want, int count);
/* A row of its result (PUBLISHED_NO_TABLE where it is none). */
enum published_problem published_problem(const PGresult *res, int row);
/* The mark (borrowed from res): another one when the publishing was interrupted or changed; "" unless PUBLISHED_WELL. */
const char *published_mark(const PGresult *res, int row);
/* "is not in publication lana_changes": behind the table's name, in the arena. */
const char *published_text(struct arena *a, const struct published_want *want,
			   enum published_problem problem);
/* The exact SQL (or command) that mends it, in the arena. */
const char *published_mend(struct arena *a, const struct published_want *want,
			   enum published_problem problem);

#endif
