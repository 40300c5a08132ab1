/*
 * progress: how far we are, and what the slot may be told. The only place
 * that computes feedback. Pure: positions and times come in by parameter.
 *
 * Invariants, asserted after every step:
 *   confirmed ≤ durable ≤ received ≤ appended, and none of them ever goes back;
 *   under confirm: applied, while not spilling, confirmed moves only to what
 *   the warehouse holds.
 *
 * All positions are commit end LSNs, or positions up to which the core has
 * nothing for us (a keepalive between transactions). LSNs of BEGIN, rows and
 * messages order nothing and do not come here.
 */
#ifndef CDC_CAPTURE_PROGRESS_H
#define CDC_CAPTURE_PROGRESS_H

#include "proto/base/rt.h"
#include "proto/lsn.h"

struct prog_options {
	bool confirm_spooled;	   /* confirm what is durable in the spool, always */
	uint64_t wal_budget_bytes; /* current − confirmed above this: spill */
	int64_t frame_interval_us; /* progress frames at most this often, unless the core asks */
};

struct prog {
	struct prog_options o;
	struct lsn appended;  /* end of the last whole transaction or progress frame: resume here */
	struct lsn received;  /* … written to the spool */
	struct lsn durable;   /* … and synced */
	struct lsn applied;   /* what apply says; after our restart it may be ahead of received */
	struct lsn confirmed; /* what the slot may be told */
	struct lsn current;   /* the core's present, as far as we know */
	struct lsn idle_to;   /* the core has nothing for us up to here; not yet in the spool */
	struct lsn floor;     /* confirmed when spilling last ended (or at the start) */
	bool open;	      /* inside a transaction */
	bool spilling;
	int64_t frame_at_us; /* not before this is a progress frame due (monotonic) */
};

/* All positions begin at the slot's confirmed position, from which the core will send. */
void prog_init(struct prog *p, const struct prog_options *o, struct lsn confirmed);

/* BEGIN came. */
void prog_begin(struct prog *p);
/*
 * COMMIT came with this end. True: it is new, append it. False: everything up
 * to end was appended before; forget this transaction.
 */
bool prog_commit(struct prog *p, struct lsn end) RT_MUSTCHECK;
/* The transaction that is open had nothing for us; end as in COMMIT. */
void prog_commit_empty(struct prog *p, struct lsn end);
/* The connection broke: what is open will come again. */
void prog_disconnected(struct prog *p);

/*
 * A keepalive (or a non-transactional message) says that everything up to end
 * was sent. Counts only while no transaction is open. urgent: the core waits
 * for our answer.
 */
void prog_keepalive(struct prog *p, struct lsn end, bool urgent);
/* Should a progress frame be appended now? True: at *ret. */
bool prog_frame_due(const struct prog *p, int64_t now_us, struct lsn *ret);
/* When to ask again: monotonic µs, INT64_MAX for not before something happens. */
int64_t prog_frame_at(const struct prog *p);
/* The frame at position was appended. */
void prog_frame_appended(struct prog *p, struct lsn position, int64_t now_us);

/* spool_write was done up to here; spool_sync returned 0 for up to here. */
void prog_received(struct prog *p, struct lsn received);
void prog_durable(struct prog *p, struct lsn durable);
/* Apply's word, of our timeline; may repeat or go back, which changes nothing. */
void prog_applied(struct prog *p, struct lsn applied);
/* The core's WAL position. */
void prog_current(struct prog *p, struct lsn current);

/* What a standby status update carries. */
struct prog_feedback {
	struct lsn write; /* received */
	struct lsn flush; /* confirmed: the slot moves to it */
	struct lsn apply; /* applied, shown in pg_stat_replication only */
};
struct prog_feedback prog_feedback(const struct prog *p);

/* What a core, and our slot in it, must be for our positions to mean anything. */
struct prog_core {
	uint64_t system_id;
	uint32_t timeline;
	struct lsn confirmed; /* the slot's confirmed_flush_lsn */
	struct lsn flushed;   /* end of its WAL on disk; only up to there does it send anything */
};

/*
 * Is the core that we reached again (now) the one that we read before (was),
 * and its slot the one that we left? ERR_PERMANENT, with the mend, when it is
 * another system or timeline, when the slot is ahead of what we hold, or when
 * the core was set back.
 */
int prog_same_core(const struct prog_core *was, const struct prog_core *now, struct lsn appended,
		   struct rt_err *err) RT_MUSTCHECK;
/*
 * held: a position of now's timeline that came from this core. ERR_PERMANENT
 * when now's WAL ends before it: the core was set back without a new timeline
 * (a snapshot of its disk), and what it writes next has positions that we
 * would take for held, and pass over.
 */
int prog_not_set_back(const struct prog_core *now, struct lsn held,
		      struct rt_err *err) RT_MUSTCHECK;

#endif
