/*
 * gather: changes from the spool into a batch: which relations count, from
 * which position on, and what of a message is believed.
 */
#ifndef APPLY_STREAM_GATHER_H
#define APPLY_STREAM_GATHER_H

#include "apply/stream/batch.h"
#include "apply/stream/ledger.h"
#include "proto/settings.h"
#include "proto/spool.h"

struct gather_relation;

struct gather {
	const struct settings *settings;
	const struct landed_set *landed;
	struct mirror_set *mirrors;
	struct spool_reader *reader;
	struct gather_relation *relations; /* by schema hash */
	bool drained;			   /* the last look found nothing more */
	/* The spool goes on here behind a gap, and cannot be gone on with: what is in it must be synced; LSN_NONE: no gap. */
	struct lsn gap;
	/* The spool goes on with this timeline of the core, at; 0: it does not. Then sync_fork is needed. */
	uint32_t next_timeline;
	struct lsn next_timeline_start;
	/* A sync's: only rows count, all of them, whatever state their table is in. */
	bool rows_only;
};

enum gather_result {
	GATHER_EMPTY,  /* nothing more for now */
	GATHER_SOME,   /* max_changes were taken; there may be more */
	GATHER_FULL,   /* limits reached; b->open: in the middle of a transaction */
	GATHER_FAILED, /* err: a change that cannot be applied, or a gap; b holds what came before */
};

/*
 * Reads behind what the ledger holds as applied. Changes of another core, or of
 * another timeline than the ledger's, whose LSNs say nothing about each other,
 * are refused when they are met.
 */
int gather_open(struct gather *g, const struct settings *s, const struct landed_set *landed,
		struct mirror_set *mirrors, const struct ledger *ledger,
		struct rt_err *err) RT_MUSTCHECK;
/* A gather that reads no spool: takes what gather_take is given. */
void gather_open_rows(struct gather *g, const struct settings *s, const struct landed_set *landed,
		      struct mirror_set *mirrors);
void gather_close(struct gather *g);
/* One row's change into the open transaction of b. */
void gather_take(struct gather *g, struct batch *b, const struct change *c);
/* No further changes fit in a batch like this. */
bool gather_is_full(const struct gather *g, const struct batch *b);
/* Up to here changes were taken, be it as a part of an open transaction that ends here. */
struct lsn gather_position(const struct gather *g, const struct batch *b);
/* Adds changes to b until there are no more, it is full, or max_changes were looked at. */
enum gather_result gather_turn(struct gather *g, struct batch *b, uint32_t max_changes,
			       struct rt_err *err);

#endif
