/*
 * status: how the pipeline does, judged from the roles' counter files alone.
 * Pure: what was read and what time it is come in by parameter.
 */
#ifndef CDC_COMMANDS_STATUS_H
#define CDC_COMMANDS_STATUS_H

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

enum status_state {
	STATUS_STOPPED, /* a role is not running */
	STATUS_STALLED, /* running, and nothing arrives or nothing gets on */
	STATUS_ALARM, /* it flows, but the core's tables or publications are not as they must be */
	STATUS_SPOOL_FULL, /* capture has stopped reading the core */
	STATUS_SPILLING, /* past the WAL budget: the spool is confirmed, the warehouse is behind */
	STATUS_STARTING,
	STATUS_SYNCING,	    /* some tables are brought up to the core, the others follow it */
	STATUS_CATCHING_UP, /* behind, and getting on */
	STATUS_IDLE,	    /* nothing to do, and the heartbeat proves it */
	STATUS_LIVE,
};

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

/* The screen below the sentence: aligned lines. before: numbers of a while ago for rates, or NULL. */
void status_print_table(const struct status_facts *f, const struct status_view *v,
			const struct status_facts *before, struct buf *out);
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
int status_tables(const struct settings *s, bool json, struct buf *out, bool *ret_healthy,
		  struct rt_err *err) RT_MUSTCHECK;

/* "0.4 s", "12 s", "5 min", "3 h 20 min", "2 d 4 h". */
void status_duration(struct buf *out, int64_t us);
/* "34 MB", "1.5 GB": powers of 1024, as in the configuration. */
void status_bytes(struct buf *out, uint64_t bytes);

#endif
