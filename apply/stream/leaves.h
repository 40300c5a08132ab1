/*
 * leaves: the partitions behind a mirror of a partitioned table. What is done to
 * one of them by itself (ATTACH or DETACH with rows in it, TRUNCATE) is not sent
 * through the root; it is found by looking at the core's catalog now and then.
 *
 * rolag.relation.leaves has them as they were when the mirror was read: an
 * object, the OID of each with the file of its rows. NULL: it is no partitioned
 * table; JSON null: not known, since the stream truncated all of them.
 */
#ifndef APPLY_STREAM_LEAVES_H
#define APPLY_STREAM_LEAVES_H

#include <libpq-fe.h>

#include "apply/stream/ledger.h"
#include "apply/stream/mirror.h"

/* The leaves of a table as text of jsonb, in a; NULL where it is not partitioned. In any transaction on the core. */
int leaves_read(PGconn *core, struct arena *a, const struct mirror *m, const char **ret,
		struct rt_err *err) RT_MUSTCHECK;
/*
 * Looks at every live mirror that has leaves. One whose leaves are others, in a
 * way that the stream does not tell, is parked in the warehouse, with the reason,
 * and told to on_parked (its index in the set). A partition that was made as one
 * is noted. A core that is away is no error: the next look finds it.
 */
int leaves_look(PGconn *warehouse, const struct settings *s, const struct mirror_set *set,
		const struct ledger *l,
		int (*on_parked)(void *ctx, uint16_t at, struct rt_err *err), void *ctx,
		struct rt_err *err) RT_MUSTCHECK;

#endif
