/*
 * rebuild: a rollup's definition changes (design §6, "Versions"). The rows of
 * the new one are built beside the live tables, as <name>__d<number>, by the
 * sync machinery; meanwhile the live ones are folded on by the definition that
 * made them (rolag.definition has its text). Once both follow the stream, a
 * process of its own counts how they differ, by column, under one snapshot of
 * the warehouse; then, between two batches, one transaction lets the new ones
 * take the old ones' place: tables, rolag.relation, rolag.quarantine. What was
 * live is kept as <name>__d0, outside of the stream, until the next rebuild;
 * an undo is a rebuild towards it.
 *
 * It begins by itself when rollups.path has a definition with a greater number
 * than that of the live rows, and was not undone; or when rolag.rebuild asks
 * for it (`rolag rebuild`). All that is under way stands in the warehouse: apply
 * may die at any point, and goes on.
 */
#ifndef APPLY_STREAM_REBUILD_H
#define APPLY_STREAM_REBUILD_H

#include <libpq-fe.h>

#include "apply/stream/landed.h"
#include "apply/stream/ledger.h"
#include "proto/base/loop.h"

/* What apply is to do for a rebuild, as soon as nothing is in the making or under way. */
enum rebuild_due {
	REBUILD_NOTHING,
	REBUILD_BEGIN, /* to connect anew: rebuild_begin will serve a request */
	REBUILD_SWAP,  /* rebuild_swap */
};

struct rebuild {
	const struct settings *settings;
	struct landed_set *landed;
	const struct ledger *ledger;
	struct loop *loop;
	enum rebuild_due due;
	int64_t ask_us;	 /* monotonic: when rolag.rebuild is looked at next */
	int pid, fd;	 /* of the process that counts and of its pipe; 0, -1: there is none */
	char counts[64]; /* the rollup whose rows it counts */
};

void rebuild_init(struct rebuild *r, const struct settings *s, struct landed_set *landed,
		  const struct ledger *ledger, struct loop *loop);
/* Apply lost its connection or ends: ends the process that counts. */
void rebuild_end(struct rebuild *r);

/*
 * Apply has the fence, and landed_ensure was run: begins the rebuilds that are
 * due, gives up those that rollups.path does not want any more, serves undo and
 * forget, and adds what is built to the set. What is in the way of one is noted
 * in rolag.rebuild and logged, and stops nothing else; negative only where the
 * warehouse failed.
 */
int rebuild_begin(struct rebuild *r, PGconn *c, struct rt_err *err) RT_MUSTCHECK;
/* Once a second, on a connection without a transaction: what is due? Starts counting. */
int rebuild_ask(struct rebuild *r, PGconn *c, struct rt_err *err) RT_MUSTCHECK;
/*
 * Nothing is in the making or under way: lets one that is built take its
 * place. *ret_done: it did, and the set must be read anew with a new connection.
 */
int rebuild_swap(struct rebuild *r, PGconn *c, bool *ret_done, struct rt_err *err) RT_MUSTCHECK;

/* A loop source (ctx: the rebuild): the process that counts. */
void rebuild_prepare(void *ctx, int64_t now, struct loop_want *ret);
int rebuild_dispatch(void *ctx, short revents, int64_t now, struct rt_err *err);

#endif
