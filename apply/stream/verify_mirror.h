/*
 * verify_mirror: are the rows of a mirror those of its source? While
 * everything runs, as verify does it for rollups.
 *
 * Both ends move on all the time, so that a row that looks different is only a
 * suspect. It is judged by reading it again, in this order: the core (A1), a
 * fence through the stream, the warehouse (B1), a second fence behind which the
 * core must show every transaction that the stream can have brought until B1
 * (trap 60), the core (A2), and, where it has no such row, a third fence and
 * the warehouse (B2).
 *
 *   A1 and A2 are one version of the row (the core's own mark of it, xmin and
 *   ctid, is the same): nothing that B1 can hold has changed it in between, so
 *   that B1 must be equal to it. If not, the row is missing, or differs.
 *
 *   A2 is no row, B1 and B2 are one version (the same _lsn): whatever took the
 *   row away is in A2, and so before the third fence, and so in B2, and what
 *   was written behind it would have another _lsn. So the row is too many.
 *
 *   Otherwise it is equal where B1 equals A1 or A2, or neither is there; or it
 *   has changed meanwhile, and is looked at again.
 *
 * So a difference that is told is one. A mirror without a key that both ends
 * can search by is read whole, each end in one statement: the same argument
 * holds for the set of all its rows, as counts and sums of hashes.
 *
 * Memory is bounded by a chunk's keys and one row. Reads only, but for fences;
 * keys (in place of a rollup's ids) and column names are told, never values.
 */
#ifndef APPLY_STREAM_VERIFY_MIRROR_H
#define APPLY_STREAM_VERIFY_MIRROR_H

#include "apply/stream/mirror.h"
#include "apply/stream/verify.h"

struct verify_mirror;

/* Connects to both ends. Of the options, against_triggers and found_entity mean nothing here. */
int verify_mirror_open(struct verify_mirror **ret, const struct verify_options *o,
		       struct rt_err *err) RT_MUSTCHECK;
void verify_mirror_close(struct verify_mirror *v);
/*
 * Compares one mirror of set; *ret is added to (an entity there is a row here).
 * 1: a sample is asked for, and it has no key by which rows could be found: it
 * can only be read whole, and is too large for that. ERR_PERMANENT: it is not
 * live, or its source has changed in a way that it does not follow.
 */
int verify_mirror(struct verify_mirror *v, struct mirror_set *set, struct mirror *m,
		  struct verify_count *ret, struct rt_err *err) RT_MUSTCHECK;

#endif
