/*
 * verify_compare: two rows of a rollup side by side. Pure. Tells which columns
 * differ by name; values are never given out.
 */
#ifndef APPLY_STREAM_VERIFY_COMPARE_H
#define APPLY_STREAM_VERIFY_COMPARE_H

#include "transforms/rollup/fold.h"

/* Order of two rows by (id, version): <0, 0, >0. */
int verify_order(const struct rollup *r, const struct fold_row *a, const struct fold_row *b);
/* Are they equal in every column that both ends make (all but _lsn and _committed_at)? */
bool verify_equal(const struct fold_row *a, const struct fold_row *b);
/*
 * Calls tell for each column that differs: "version", "created_at",
 * "modified_at", "event_type", then declared ones. Where the warehouse's row
 * (b) does not have the definition's columns, once with "(all)". Returns how
 * many times.
 */
int verify_columns(const struct rollup *r, const struct fold_row *a, const struct fold_row *b,
		   void (*tell)(void *ctx, const char *column), void *ctx);

#endif
