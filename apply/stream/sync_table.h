/*
 * sync_table: one claimed table from its begin to live. The pump is apply's
 * in small: what is read is folded and batched while the batch before is on
 * its way to the warehouse.
 */
#ifndef APPLY_STREAM_SYNC_TABLE_H
#define APPLY_STREAM_SYNC_TABLE_H

#include "apply/stream/gather.h"
#include "apply/stream/quarantine.h"
#include "apply/stream/sync_inner.h"
#include "apply/stream/sync_mirror.h"
#include "apply/stream/sync_read.h"
#include "apply/stream/writer.h"
#include "transforms/rollup/cache.h"

/*
 * Sessions of a worker that one table leaves to the next, or NULL: to begin one
 * costs a server as much as some thousand rows. Nothing is open on them.
 */
struct sync_links {
	PGconn *core, *warehouse;
};

void sync_links_close(struct sync_links *l);

struct sync_table {
	const struct sync_work *work;
	struct sync_links *links;
	struct settings settings; /* apply's, with smaller batches */
	uint16_t at;		  /* of the table */
	struct landed item;	  /* its copy, the only one of the set; or */
	struct mirror mirror;	  /* … of a mirror */
	struct landed_set set;
	struct mirror_set mirrors; /* none, where the table is a rollup */
	struct ledger ledger;	   /* epoch as apply's; applied: how far replay is */
	struct arena arena;
	struct sync_unit unit;
	struct sync_note note;
	PGconn *control; /* borrowed */
	struct writer_position position;
	struct writer writer;
	struct gather gather;
	struct sync_reader reader;
	struct cache cache;
	struct parked parked;
	struct batch batch[2];
	struct batch *making, *flying; /* flying: with the writer, or NULL */
	bool fetching;		       /* `making` waits for states from the warehouse */
	bool reading;		       /* the core; else the spool */
	bool ended;		       /* the source has no more, for now or for good */
	bool full, ends_whole;	       /* `making` takes no more; what flies ends with a position */
	bool gap; /* what the spool lacks must be read from the core: begin anew */
	/* What flies: key of its last row and rows up to there. */
	struct sync_key flying_key;
	uint64_t flying_rows, rows;
	int64_t told_us;
};

/*
 * Syncs table `at`, until it is live. 0, or why it is given up. control: a
 * blocking connection to the warehouse.
 */
int sync_table_run(const struct sync_work *work, uint16_t at, PGconn *control,
		   struct sync_links *links, struct rt_err *err) RT_MUSTCHECK;

#endif
