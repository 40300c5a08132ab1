/*
 * differ: how two tables with a common key differ: rows that only one has, and
 * for each common column the rows whose values differ. Counts, never values.
 */
#ifndef APPLY_STREAM_DIFFER_H
#define APPLY_STREAM_DIFFER_H

#include <libpq-fe.h>

#include "proto/base/arena.h"
#include "proto/base/rt.h"

struct differ_column {
	const char *name;
	uint64_t rows; /* in both tables, with another value here */
};

struct differ {
	uint64_t only_old, only_new; /* rows whose key the other lacks */
	uint64_t same, differing;    /* rows that both have: all common columns alike, or not */
	uint16_t count;		     /* common columns but the key's, in the new table's order */
	struct differ_column *column;
	/* Columns that only one of them has, comma-separated; "": none. */
	const char *gone, *added;
};

/*
 * Compares under the caller's snapshot (or one statement's, outside a
 * transaction), in one pass of two scans and a join that is sorted or hashed
 * in pieces on the warehouse's disk, in `work_mem` of memory and one process.
 * old_table, new_table: qualified and quoted. key: column names that both have,
 * unique and not null in both. skip: names of columns that do not count (their
 * own _lsn, say). Values are alike when their bytes are, so that 1.0 is not
 * 1.00; json by what it means as jsonb; a column whose type differs by its text.
 * Names in *ret live in a. Settings of the session are afterwards as before. The
 * tables should have been analyzed. ERR_PERMANENT for a key column that one lacks.
 */
int differ_count(PGconn *c, struct arena *a, const char *old_table, const char *new_table,
		 const char *const *key, size_t key_count, const char *const *skip,
		 size_t skip_count, struct differ *ret, struct rt_err *err) RT_MUSTCHECK;

#endif
