/*
 * Inside of the role capture: its one context, and what its files call of
 * each other. Only they include it.
 */
#ifndef CDC_CAPTURE_CAPTURE_INNER_H
#define CDC_CAPTURE_CAPTURE_INNER_H

#include "cdc/capture/alarms.h"
#include "cdc/capture/custody.h"
#include "cdc/capture/mirrored.h"
#include "cdc/capture/progress.h"
#include "cdc/capture/recheck.h"
#include "cdc/capture/relcache.h"
#include "cdc/capture/stream.h"
#include "proto/base/loop.h"
#include "proto/settings.h"
#include "proto/spool.h"

#define CAPTURE_FRAME_INTERVAL_US 100000 /* of progress frames */
#define CAPTURE_TICK_US		  1000000

struct capture {
	const struct settings *settings;
	const struct capture_source *source; /* event tables, of which source_count are landed */
	int source_count;
	struct loop loop;
	struct stream stream;
	struct custody custody;
	struct alarms alarms;
	struct relcache relations;
	struct mirrored mirrored;
	struct prog prog;
	struct prog_core core; /* as first met; system_id 0: not yet */
	struct recheck recheck;
	struct spool_memory had; /* the last transaction that the spool has; xid 0: not known */
	struct lsn had_from;	 /* sent from here on, it comes again; LSN_NONE: not known */
	struct spool_writer *spool;
	struct arena arena;  /* of one message */
	struct change begin; /* of the open transaction */
	bool open;	     /* between BEGIN and COMMIT */
	bool begun;	     /* it has something for us: its BEGIN is in the spool, unless … */
	bool again;	     /* … the spool has it already, from before a reconnect */
	bool unwritten;	     /* whole changes appended since the last spool_write */
	bool sync_now;	     /* the core waits for an answer */
	bool full;	     /* spool full: not reading */
	bool spilling;	     /* as last said in the log */
	struct lsn keep;     /* a sync reads the spool again behind this; LSN_NONE: none does */
	uint64_t unsynced_bytes;
	int64_t unsynced_since_us; /* 0: all is synced */
	int64_t commit_us; /* core's time of the newest commit that is not synced; 0: none */
	int64_t syncing_commit_us; /* the same, of what is being synced */
	int64_t applied_poll_us, full_poll_us, trim_at_us, tick_at_us;
	struct arena names;    /* of publications */
	char *remembered_path; /* what publications there were, for the next process */
	struct look remembered;
	bool publication_again; /* one was made again: the slot is of no use, once the stream runs */
	const char *publication[2];
	char last_why[256]; /* of the last failed attempt, and when the log had it */
	int64_t why_at_us;
};

/* ---- take.c: pgoutput messages into the spool ---- */

/* Handlers of the stream (struct stream_handler, ctx: struct capture). */
int take_data(void *ctx, struct lsn lsn, struct slice bytes, struct rt_err *err) RT_MUSTCHECK;
int take_keepalive(void *ctx, struct lsn end, bool reply, struct rt_err *err) RT_MUSTCHECK;
/* What decides which transactions the core sends, and which of them we take: else none can be held against another. */
uint64_t take_hash_of_asked(const struct capture *c);
/* The connection is lost, or we end: what is open will come again. */
int take_forget_open(struct capture *c, struct rt_err *err) RT_MUSTCHECK;

/* ---- connect.c: what a connection begins with, and a lost slot ---- */

/* Handlers of the stream. */
int connect_established(void *ctx, const struct stream_facts *f, struct lsn *ret_start,
			struct rt_err *err) RT_MUSTCHECK;
int connect_slot_lost(void *ctx, const struct stream_facts *f, struct rt_err *err) RT_MUSTCHECK;
bool connect_slot_waits(void *ctx, const struct slot_wait *w);
bool connect_slot_turn(void *ctx);
int connect_lost(void *ctx, const struct rt_err *why, int64_t wait_us,
		 struct rt_err *err) RT_MUSTCHECK;

/* ---- keep.c: what a turn of the loop does for the spool and the slot ---- */

/* What the slot is told now. */
struct prog_feedback keep_feedback(const struct capture *c);
/* Writes what was taken, syncs what is due, hears apply, lets go of segments, watches room and core. */
int keep_turn(struct capture *c, int64_t now_us, struct rt_err *err) RT_MUSTCHECK;
/* What is taken is on disk when it returns. A failed sync is never tried again: the kernel may have dropped the pages. */
int keep_sync(struct capture *c, bool wait, struct rt_err *err) RT_MUSTCHECK;
/* When it must be called again although nothing comes; and the descriptor of a sync under way. */
void keep_prepare(const struct capture *c, int64_t now_us, struct loop_want *ret);

#endif
