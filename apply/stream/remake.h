/*
 * remake: rows of an entity made anew from the core's events, as `rolag verify
 * --repair` asks for them in rolag.repair. Apply does it between two batches,
 * when nothing is in the making or under way, so that no batch and no cached
 * state rests on the rows that go. Each entity is one transaction that holds
 * the fence. A request is looked for at each connection and behind each fence
 * of the stream; whoever asks sends one.
 *
 * A row that the warehouse held keeps its _lsn and _committed_at; one that was
 * missing gets the core's position of now, an upper bound, and NULL.
 */
#ifndef APPLY_STREAM_REMAKE_H
#define APPLY_STREAM_REMAKE_H

#include <libpq-fe.h>

#include "apply/stream/landed.h"
#include "apply/stream/ledger.h"
#include "proto/base/loop.h"
#include "transforms/rollup/cache.h"

enum remake_left {
	REMAKE_NONE, /* no request waits */
	REMAKE_SOME, /* the time was up: more do */
	REMAKE_LATER, /* some wait for the core: it is away, or does not show a row yet that we hold */
};

/*
 * Serves requests for about limit_us. An entity that cannot be made anew (an
 * event of it does not fold, its rollup is not live) is refused, and stays as
 * it is. Negative only where the warehouse failed; no transaction is open
 * otherwise.
 */
int remake_serve(PGconn *warehouse, const struct settings *s, const struct landed_set *landed,
		 const struct ledger *ledger, struct cache *cache, struct loop *loop,
		 int64_t limit_us, enum remake_left *ret, struct rt_err *err) RT_MUSTCHECK;

#endif
