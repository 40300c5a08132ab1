/*
 * sync: brings tables of the warehouse up to the core while the stream flows
 * for all others (design §5): first load, a table added later, repair of a
 * gap, a lost slot; `rolag sync`. One way for all: whatever rolag.relation
 * calls `syncing` is synced.
 *
 * A worker is a child process (fork) with connections of its own. Of a table
 * that it claims it
 *   1. notes in rolag.sync where it begins: an LSN such that every commit up
 *      to it is seen by what it reads, and every later one is in the spool;
 *   2. reads the core in chunks by key, each batch one transaction that checks
 *      the fence and notes the last key (a mirror: whole, in one transaction);
 *   3. replays the table's part of the spool from the begin on;
 *   4. asks apply to hold still, replays up to where apply is, makes the table
 *      live there, and lets apply go on.
 * It may be killed at any moment: the next one goes on from what is noted.
 * Apply leaves out the rows of a claimed table, and keeps the spool from
 * where its sync begins.
 */
#ifndef APPLY_STREAM_SYNC_H
#define APPLY_STREAM_SYNC_H

#include "apply/stream/landed.h"
#include "apply/stream/ledger.h"
#include "apply/stream/mirror.h"
#include "proto/base/log.h"
#include "proto/base/loop.h"
#include "proto/pg/pgconn.h"

#define SYNC_WORKERS_MAX 8

enum sync_stage {
	SYNC_IDLE,     /* looks for a table */
	SYNC_CLAIMING, /* waits until apply has nothing of the table under way */
	SYNC_READING,  /* the core, then the spool */
	SYNC_HOLDING,  /* apply holds still for it */
	SYNC_LANDED,   /* a mirror is live, but apply has not read its shape yet, and holds still */
};

struct sync_worker {
	int pid;     /* 0: there is none */
	int fd;	     /* to it */
	uint16_t at; /* what it has claimed: a landed table, or, behind those, a mirror */
	enum sync_stage stage;
	struct lsn wait; /* CLAIMING: until this is applied */
	uint64_t rows, estimate;
};

struct sync {
	const struct settings *settings;
	struct landed_set *landed;
	struct mirror_set *mirrors;
	const struct ledger *ledger;
	int fd, worker_fd; /* messages of all workers: our end, theirs */
	struct sync_worker worker[SYNC_WORKERS_MAX];
	struct lsn *keep; /* by `at` of a worker; LSN_NONE: needs nothing */
	/* Monotonic: when a worker may be started; when dead ones are looked for. */
	int64_t start_us, look_us;
	struct pgc_backoff backoff; /* of workers that ended */
	struct log_limit told_limit;
	/*
	 * Apply must read anew how tables stand and what waits: entities of a table wait in quarantine,
	 * or all of it does; or a worker ended untold where it may have made its table live.
	 */
	bool stale;
	bool went_live; /* a table did, and what is known of its entities is of before: for apply to see and clear */
};

/* The sets and the ledger are apply's own; the states of the sets are kept true by sync from here on. */
void sync_init(struct sync *s, const struct settings *settings, struct landed_set *landed,
	       struct mirror_set *mirrors, const struct ledger *ledger);
void sync_release(struct sync *s);
/*
 * Apply is connected (has the fence, knows the states of its tables): from now
 * on there are workers. Reads from c what earlier syncs noted.
 */
int sync_begin(struct sync *s, PGconn *c, struct rt_err *err) RT_MUSTCHECK;
/*
 * What lies between the ledger's position and `to` is in no spool: in one
 * transaction moves the ledger there and makes all tables that follow the
 * stream syncing, so that nothing of it is missed. On disk when it returns.
 */
int sync_over_gap(PGconn *c, const struct settings *s, struct landed_set *landed, struct ledger *l,
		  struct lsn to, struct rt_err *err) RT_MUSTCHECK;
/*
 * The core has gone over to a later timeline (a failover), with which the
 * spool goes on at `start`. Asks the core where the two part, and takes back
 * what the warehouse has from behind that (design §5, Forks): in one
 * transaction, with the ledger set to where the spool goes on, and every table
 * syncing of which something is missing. ERR_PERMANENT when the core does not
 * descend from the timeline that the warehouse follows.
 */
int sync_fork(PGconn *c, const struct settings *s, struct landed_set *landed, struct ledger *l,
	      uint32_t timeline, struct lsn start, struct rt_err *err) RT_MUSTCHECK;
/* Apply lost its connection or ends: ends the workers, at once. */
void sync_end(struct sync *s);

/* The loop's side: messages of workers. */
void sync_prepare(struct sync *s, int64_t now, struct loop_want *ret);
/*
 * Takes messages, starts workers. gathered: apply's changes are taken up to
 * here. kept: what sync_keep said when capture was told last. ERR_PERMANENT:
 * what a worker met that only a person can mend.
 */
int sync_turn(struct sync *s, struct lsn gathered, struct lsn kept, int64_t now,
	      struct rt_err *err) RT_MUSTCHECK;
/* Is there a mirror whose shape apply must read, by sync_read_mirrors, once nothing is under way? */
bool sync_has_landed(const struct sync *s);
int sync_read_mirrors(struct sync *s, PGconn *c, struct rt_err *err) RT_MUSTCHECK;
/* True while apply must not take further changes from the spool. */
bool sync_holds(const struct sync *s);
/* The spool must be kept behind this; LSN_NONE: sync needs nothing of it. */
struct lsn sync_keep(const struct sync *s);
/* How many tables are syncing. */
unsigned sync_count(const struct sync *s);

#endif
