/*
 * status: how the pipeline does, judged from the roles' counter files alone.
 * Pure: what was read and what time it is come in by parameter.
 */
#ifndef CDC_COMMANDS_STATUS_H
#define CDC_COMMANDS_STATUS_H

#include "cdc/commands/term.h"
#include "proto/base/buf.h"
#include "proto/base/metrics.h"
#include "proto/settings.h"

enum status_life {
	LIFE_NEVER, /* no counter file */
	LIFE_ENDED, /* its process is gone */
	LIFE_STUCK, /* the process is there but does not turn */
	LIFE_RUNNING,
};

/* The companion stands behind the roles that the stream needs: it is judged by itself, where it is known here. */
enum { STATUS_CAPTURE, STATUS_APPLY, STATUS_ROLES, STATUS_REPORTS = STATUS_ROLES, STATUS_FILES };

/* "capture", "apply", "reports": of counter files, in --json, in metrics. */
extern const char *const status_role_name[STATUS_FILES];

struct status_role {
	enum status_life life;
	struct met_file f; /* zero when LIFE_NEVER */
};

struct status_facts {
	int64_t now_us; /* µs since 1970 */
	int64_t heartbeat_interval_us;
	uint64_t wal_budget_bytes;
	bool moving;  /* false: apply's numbers stood still over the last second or more */
	bool beating; /* heartbeats were seen to come at about their pace */
	struct status_role role[STATUS_FILES];
};

/*
 * Every state: its stable name (--json, metrics) with the blanks that align it in --help, what a person calls it, and
 * what it means. The README has what to do (tests/system/test_status.py holds them together).
 */
#define STATUS_STATES(X)                                                                           \
	X(LIVE, "live", "         ", "live",                                                       \
	  "what the core commits is in the warehouse a moment later")                              \
	X(IDLE, "idle", "         ", "idle",                                                       \
	  "nothing new in the core: heartbeats come, events do not")                               \
	X(PARKED, "parked", "       ", "parked",                                                   \
	  "it flows, but something is left out until a person helps")                              \
	X(CATCHING_UP, "catching_up", "  ", "catching up", "behind, and getting on")               \
	X(SYNCING, "syncing", "      ", "syncing",                                                 \
	  "some tables are read from the core, the others follow")                                 \
	X(STARTING, "starting", "     ", "starting", "a role began a moment ago")                  \
	X(SPILLING, "spilling", "     ", "spilling",                                               \
	  "the spool holds for apply what the core need not keep")                                 \
	X(SPOOL_FULL, "spool_full", "   ", "spool full", "capture has stopped reading the core")   \
	X(ALARM, "alarm", "        ", "alarm",                                                     \
	  "it flows, but something in the core or here is not right")                              \
	X(STALLED, "stalled", "      ", "stalled",                                                 \
	  "roles run, and nothing arrives or nothing gets on")                                     \
	X(STOPPED, "stopped", "      ", "stopped", "a role is not running")

#define STATUS_STATE(id, name, pad, words, means) STATUS_##id,
enum status_state { STATUS_STATES(STATUS_STATE) STATUS_STATE_COUNT };
#undef STATUS_STATE

struct status_view {
	enum status_state state;
	bool healthy;
	int64_t lag_us; /* age of the newest heartbeat or commit applied; −1: none yet */
	int64_t clock_us; /* the core's clock is so far ahead of ours (negative: behind); 0: no matter */
	uint64_t lag_bytes; /* received − applied */
	int64_t lost_in_us; /* forecast of the slot's loss; −1: not foreseen */
	const char *
		runbook; /* the part of deploy/RUNBOOK.md that says what to do; NULL: nothing is to be done */
	char sentence[900]; /* one line that says it all */
};

/* A heartbeat missing for more intervals than this is no lag any more but a stall. */
#define STATUS_HEARTBEATS_MISSED 10
/* A slot that was lost and made anew is said for so long (as RolagSlotMadeAnew is active). */
#define STATUS_SLOT_MADE_US INT64_C(3600000000)
/* No event for so long, while heartbeats arrive: idle. */
#define STATUS_IDLE_US INT64_C(60000000)
/* The least silence after which a role counts as stuck (else STATUS_HEARTBEATS_MISSED intervals). */
#define STATUS_STUCK_US INT64_C(10000000)

/*
 * How alive is the role whose file this is? process_is_there: kill(pid, 0) says
 * so (false also when it lives in another pid namespace; then fresh numbers
 * decide).
 */
enum status_life status_life(const struct met_file *f, bool process_is_there, int64_t now_us,
			     int64_t heartbeat_interval_us);
void status_judge(const struct status_facts *f, struct status_view *ret);
/* "live", "catching_up", …: stable names, for --json. */
const char *status_state_name(enum status_state state);
/* "live", "catching up", …: for people; and what that is. */
const char *status_state_words(enum status_state state);
const char *status_state_means(enum status_state state);

/* Where the text of a line of the table begins, behind its label. */
#define STATUS_TEXT_COLUMN 13

/* The verdict as a colour: all is well, it works at it, a person must act. */
enum term_ink status_ink(const struct status_view *v);
/* The sentence as one line, in that colour where there is any. */
void status_print_sentence(const struct status_view *v, bool color, struct buf *out);
/* The screen below it: aligned lines. before: numbers of a while ago for rates, or NULL. */
void status_print_table(const struct status_facts *f, const struct status_view *v,
			const struct status_facts *before, bool color, struct buf *out);
/* Events applied per second since before, or on average where that is NULL. */
double status_events_rate(const struct status_facts *f, const struct status_facts *before);
/* One JSON object; its keys are documented by `rolag status --help` and only ever added to. */
void status_print_json(const struct status_facts *f, const struct status_view *v, struct buf *out);

/* Prometheus' text format: the judgement, each role's life, and every metric by the name that --json has. */
void status_print_prometheus(const struct status_facts *f, const struct status_view *v,
			     struct buf *out);
/* A counter or gauge, whichever role keeps it (each has one that does). */
uint64_t status_value(const struct status_facts *f, enum met_id id);

/* ---- looking (status_look.c): the roles' counter files in s->state_dir ---- */

int status_read(const struct settings *s, struct status_facts *ret,
		struct rt_err *err) RT_MUSTCHECK;

/*
 * For whoever looks again and again, without ever waiting: what has not moved for
 * two seconds stands still. Zeroed before the first look; large.
 */
struct status_watch {
	struct status_facts now, before; /* before: of a look at least a second older */
	bool looked, beating;
	int64_t moved_us;
};
int status_watch_look(struct status_watch *w, const struct settings *s, struct status_view *ret,
		      struct rt_err *err) RT_MUSTCHECK;
/* Did apply's numbers change between two looks? */
bool status_moved(const struct status_facts *now, const struct status_facts *before);
/* Old heartbeats that come at their pace are no lag; those of a backlog come much faster. */
bool status_beats(const struct status_facts *now, const struct status_facts *before);

/*
 * Appends what the warehouse knows of each landed table, those that are not live
 * first; json: as one object. *ret_healthy: there are some, none is parked, nothing waits.
 */
int status_tables(const struct settings *s, bool json, bool color, struct buf *out,
		  bool *ret_healthy, struct rt_err *err) RT_MUSTCHECK;

/*
 * status_watch.c. Looks each second and shows it until q, a signal, or an error:
 * on a terminal as a live screen, else as one block after the other.
 */
int status_watch_show(const struct settings *s, enum term_color color, bool *ret_healthy,
		      struct rt_err *err) RT_MUSTCHECK;

/* "0.4 s", "12 s", "5 min", "3 h 20 min", "2 d 4 h". */
void status_duration(struct buf *out, int64_t us);
/* "34 MB", "1.5 GB": powers of 1024, as in the configuration. */
void status_bytes(struct buf *out, uint64_t bytes);

#endif
