/*
 * sim: one seed, one schedule. capture's and apply's own code (capture.c and
 * apply.c are compiled in, the rest is librolag.a) runs in this one process
 * against a fake core, disk, clock and warehouse; the scheduler picks who
 * moves next and who dies, and the model says what must be true at each step.
 *
 * The kernel's calls are replaced by the linker (--wrap, see the Makefile),
 * libpq's by functions of the same names (fake_libpq.c). Each of them is a
 * place where the process that calls it can be killed.
 */
#ifndef TESTS_SIM_SIM_H
#define TESTS_SIM_SIM_H

#include <setjmp.h>

#include "proto/base/buf.h"
#include "proto/base/loop.h"
#include "proto/base/rt.h"
#include "proto/change.h"
#include "proto/lsn.h"
#include "proto/settings.h"
#include "transforms/rollup/definition.h"

/* ---- random numbers: a stream for each purpose, so that dropping a fault changes little else ---- */

enum rng { RNG_SCHEDULE, RNG_CORE, RNG_DISK, RNG_WAREHOUSE, RNG_CONFIG, RNG_COUNT };
void rng_seed(uint64_t seed);
uint64_t rng_next(enum rng r);
/* 0 … n − 1 */
uint32_t rng_below(enum rng r, uint32_t n);
/* lo … hi */
uint32_t rng_range(enum rng r, uint32_t lo, uint32_t hi);
/* True once in n. */
bool rng_one_in(enum rng r, uint32_t n);

/* ---- kinds of faults, each can be left out ---- */

enum fault {
	FAULT_CAPTURE_KILL,
	FAULT_APPLY_KILL,
	FAULT_MACHINE,	      /* power loss: both processes, and what was not synced */
	FAULT_TORN,	      /* … keeps any part of it, in any order, not only a prefix */
	FAULT_CORE,	      /* crashes: connections break, the slot is where it was persisted */
	FAULT_WAREHOUSE,      /* crashes: loses its newest asynchronous commits */
	FAULT_CORE_LINK,      /* a broken connection */
	FAULT_WAREHOUSE_LINK, /* … with an unknown outcome */
	FAULT_WRITE,	      /* ENOSPC, EIO, short writes */
	FAULT_SYNC,	      /* fdatasync fails, and its pages are gone */
	FAULT_READ,	      /* EIO */
	FAULT_CLOCK,	      /* the wall clock jumps */
	FAULT_SECOND,	      /* a second applier */
	FAULT_ZOMBIE,	      /* a dead applier's backend goes on with what it was sent */
	FAULT_COUNT
};
extern const char *const fault_names[FAULT_COUNT];
bool fault_on(enum fault f);

/* ---- processes ---- */

enum process { PROCESS_NONE, PROCESS_CAPTURE, PROCESS_APPLY, PROCESS_APPLY2, PROCESS_COUNT };

enum run_end {
	RUN_DONE,
	RUN_KILLED,	 /* at a call, by the schedule */
	RUN_MACHINE_DIED /* … with the machine */
};

/* Who runs now: their memory and descriptors are given back when they die. */
extern enum process running;
/* Counts the turns of all processes. */
extern uint32_t process_turn;
/* Runs f(ctx) as process p; a kill may come at any call that the kernel or libpq would take. */
enum run_end run_as(enum process p, void (*f)(void *ctx), void *ctx);
/* The process that runs next is killed at its n-th call from now (0: not at all). */
void kill_at_call(uint32_t n, bool machine);
/* A call that p makes: the place where it may die. */
void call_point(void);
/* Frees all that p has allocated (and closes what it has open): it is dead. */
void process_bury(enum process p);
/* How much p holds: 0 after a clean end, or it leaks. */
size_t process_bytes(enum process p);
/* Moves an allocation to who runs now. */
void heap_adopt(void *p);
/* Allocates for the world, whoever runs. */
void *world_alloc(size_t bytes);
/* p may move; grows to hold n items of size. */
void *world_grow(void *p, size_t n, size_t *cap, size_t size);
/* Frees everything, of all processes and the world. */
void heap_end(void);

/* ---- failing ---- */

/* An invariant is broken: ends the schedule. */
void sim_fail(const char *fmt, ...) RT_PRINTF(1, 2) RT_NORETURN;
#define SIM_ASSERT(cond, ...)                                                                      \
	do {                                                                                       \
		if (!(cond))                                                                       \
			sim_fail(__VA_ARGS__);                                                     \
	} while (0)
extern jmp_buf sim_out;
extern char sim_failure[2048];
extern bool sim_verbose;
void sim_say(const char *fmt, ...) RT_PRINTF(1, 2);

/* ---- the clock ---- */

struct sim_clock {
	int64_t mono_us, wall_us; /* wall = mono + offset */
};
extern struct sim_clock sim_clock;
void clock_forward(int64_t us);

/* ---- what the schedule runs with ---- */

struct sim_config {
	struct settings settings[PROCESS_COUNT]; /* of capture and each applier */
	uint64_t frame_bytes;
	uint32_t copy_rows; /* WRITER_COPY_ROWS */
	bool binary;
};
extern struct sim_config sim_config;

/* ---- the disk ---- */

#define SIM_SPOOL "/sim/spool"

void disk_begin(void);
/* From here on files are real ones again (coverage is written at exit). */
void disk_end(void);
/* Power loss. */
void disk_crash(void);
void disk_close_all(enum process p);
/* The next n-th call of its kind fails; 0: never. */
struct disk_faults {
	uint32_t write_in, sync_in, read_in;
	bool full; /* no space left */
};
extern struct disk_faults disk_faults;
bool disk_readable(int fd);
/* Number of segment files in the spool. */
uint32_t disk_segments(void);
void disk_dump(void);

/* ---- the core ---- */

#define ROLLUPS	  2
#define RELATIONS 3 /* the last one has no rollup */
#define ENTITIES  8

struct sim_row { /* one (id, version) as it must be in the warehouse */
	uint32_t transaction;
	struct buf fields; /* as in COPY BINARY, without the count of columns */
	uint16_t field_count;
};

struct sim_entity {
	uint8_t id[16];
	uint32_t id_len;
	uint32_t committed; /* versions of it in committed transactions */
	uint32_t writer;    /* the open transaction that holds it, 0 none */
	uint32_t next;	    /* versions, with those of the writer */
	struct sim_row *row;
	size_t row_cap;
};

struct sim_transaction {
	struct lsn commit, end;
	int64_t commit_us;
	uint32_t events, events_before; /* rows of it, and of all before */
	uint32_t fences_before;		/* report fences in all before */
	uint32_t fences;
	struct sim_message *message;
	size_t message_count, message_cap;
	bool silent; /* without anything for us, and not even sent */
};

extern struct sim_entity entities[ROLLUPS][ENTITIES];
extern struct sim_transaction *transactions; /* committed, in commit order */
extern size_t transaction_count;
extern const char *const rollup_text[ROLLUPS];

void core_begin(void);
/* The bank does something: begins, writes, commits, rolls back, alters, idles. */
void core_act(void);
/* Ends all that is open, so that it can be drained. */
void core_settle(void);
struct lsn core_current(void);
/* How many of the transactions end at or before l. */
size_t core_count_to(struct lsn l);
struct lsn core_confirmed(void);
/* The slot moves to this, told by capture; and sometimes that is on disk. */
void core_confirm(struct lsn flush);
void core_persist(void);
/* The slot's position after a crash. */
void core_crash(void);
/*
 * It is its older self again, and has written on, past where it was: of what
 * was received something is another, or not there any more. False: nothing of
 * that is beyond what the slot had persisted, so that there is no such self.
 */
bool core_set_back(struct lsn received);
/* The walsender: starts a stream; makes its next message. */
void walsender_start(struct lsn from, bool binary);
struct wire_message {
	bool keepalive, reply;
	struct lsn lsn; /* data: as in XLogData; keepalive: end */
	struct buf bytes;
};
/* False: nothing more for now (never where ask is set: then a keepalive comes). */
bool walsender_next(struct wire_message *ret, bool ask);

/* ---- the link from core to capture (fake_stream.c) ---- */

void link_begin(void);
/* The server sends up to n messages; takes up to n status updates. */
void link_send(uint32_t n);
void link_hear(uint32_t n);
void link_break(void);
bool link_readable(void);
bool link_up(void);
bool link_idle(void);
/* No connection can be made now. */
extern bool core_is_down;
/* Capture is dead: the server finds out. */
void link_orphan(void);

/* ---- the warehouse (warehouse.c, fake_libpq.c) ---- */

void warehouse_begin(void);
/* Backends without a client end. */
void warehouse_settle(void);
/* Executes up to n statements that it was sent. True: there was one. */
bool warehouse_act(uint32_t n);
void warehouse_flush(void);
void warehouse_crash(void);
void warehouse_link_break(void);
/* p is dead: its backends end, now or later. */
void warehouse_orphan(enum process p);
struct lsn warehouse_applied(void);
/* The process that took the fence last. */
enum process warehouse_owner(void);
/* Of the flushed commits only. */
struct lsn warehouse_applied_flushed(void);
bool warehouse_readable(int fd);
extern bool warehouse_is_down;
/* At the end, with everything applied. */
void warehouse_compare(void);

/* ---- the two roles ---- */

/* As main does, without the loop. */
int capture_start(struct rt_err *err);
int capture_turn(bool spurious, struct rt_err *err);
/* Gives everything back. */
void capture_end(void);
void capture_ask_stop(void);
bool capture_is_done(void);
int64_t capture_deadline(bool *ret_ready);
/* What progress says (capture runs). */
struct capture_view {
	struct lsn confirmed, durable, received, appended, applied, floor;
	bool spilling, has_spool;
	uint64_t spool_bytes;
};
struct capture_view capture_view(void);
void capture_buried(void);
/* The core's facts come by the second connection. */
void capture_facts(void);

int apply_start(enum process p, struct rt_err *err);
int apply_turn(enum process p, bool spurious, struct rt_err *err);
void apply_end(enum process p);
void apply_ask_stop(enum process p);
bool apply_is_done(enum process p);
int64_t apply_deadline(enum process p, bool *ret_ready);
void apply_buried(enum process p);

/* A loop's turn against the fake descriptors; spurious: also where nothing waits. */
int turn_loop(struct loop *l, bool spurious, struct rt_err *err);
/* The nearest deadline; *ret_ready: a descriptor is. */
int64_t loop_deadline(struct loop *l, bool *ret_ready);

/* ---- the schedule ---- */

/* Greatest position that was ever written to the spool (or may have been, by one that died). */
extern struct lsn ever_received;

#endif
