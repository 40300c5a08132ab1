/*
 * status_judge: one state and one sentence out of many numbers. Guarantees:
 * idle is not lag (the heartbeat decides), and dead is not idle (a missing
 * heartbeat or a process that does not turn is a state of its own).
 */
#include <inttypes.h>

#include "cdc/commands/status.h"

void status_duration(struct buf *out, int64_t us)
{
	int64_t s = us / 1000000;
	if (us < 0)
		buf_str(out, "?");
	else if (us < 1000)
		buf_printf(out, "%.2f ms", (double)us / 1000);
	else if (us < 100000)
		buf_printf(out, "%.1f ms", (double)us / 1000);
	else if (s < 10)
		buf_printf(out, "%.1f s", (double)us / 1e6);
	else if (s < 120)
		buf_printf(out, "%" PRId64 " s", s);
	else if (s < 7200)
		buf_printf(out, "%" PRId64 " min", s / 60);
	else if (s < 172800)
		buf_printf(out, "%" PRId64 " h %" PRId64 " min", s / 3600, s / 60 % 60);
	else
		buf_printf(out, "%" PRId64 " d %" PRId64 " h", s / 86400, s / 3600 % 24);
}

void status_bytes(struct buf *out, uint64_t bytes)
{
	static const char *const unit[] = {"B", "kB", "MB", "GB", "TB"};
	size_t u = 0;
	double v = (double)bytes;
	for (; v >= 1024 && u + 1 < ARRAY_LEN(unit); u++)
		v /= 1024;
	bool whole = v >= 10 || v == (double)(uint64_t)v;
	buf_printf(out, whole ? "%.0f %s" : "%.1f %s", v, unit[u]);
}

/* Silence that no running role and no heartbeat ever shows. */
static int64_t patience_us(int64_t heartbeat_interval_us)
{
	return RT_MAX(STATUS_STUCK_US, STATUS_HEARTBEATS_MISSED * heartbeat_interval_us);
}

/* What a role writes into its file when it ends by itself. */
static bool said_goodbye(const struct met_file *f)
{
	return strcmp(f->state, "stopped") == 0 || strcmp(f->state, "ended") == 0 ||
	       strcmp(f->state, "failed") == 0;
}

enum status_life status_life(const struct met_file *f, bool process_is_there, int64_t now_us,
			     int64_t heartbeat_interval_us)
{
	int64_t silent_us = now_us - f->updated_us;
	if (f->magic == 0)
		return LIFE_NEVER;
	if (!process_is_there && said_goodbye(f))
		return LIFE_ENDED;
	if (!process_is_there && silent_us > 2 * RT_MAX(heartbeat_interval_us, INT64_C(1000000)))
		return LIFE_ENDED;
	return silent_us > patience_us(heartbeat_interval_us) ? LIFE_STUCK : LIFE_RUNNING;
}

/* A judgement being made; the sentence grows in text. */
struct judging {
	const struct status_facts *f;
	struct status_view *v;
	struct buf text;
};

static uint64_t value(const struct judging *j, int role, enum met_id id)
{
	return j->f->role[role].f.value[id];
}

static void conclude(struct judging *j, enum status_state state, bool healthy)
{
	j->v->state = state;
	j->v->healthy = healthy;
}

/* What to do: what was found first counts. */
static void refer(struct judging *j, const char *part)
{
	if (j->v->runbook == NULL)
		j->v->runbook = part;
}

/* " (note, 12 s ago)" where the role left one. */
static void add_note(struct judging *j, int role)
{
	const struct met_file *f = &j->f->role[role].f;
	if (f->note[0] == '\0')
		return;
	buf_printf(&j->text, " Last word of %s, ", status_role_name[role]);
	status_duration(&j->text, RT_MAX(j->f->now_us - f->note_us, 0));
	buf_printf(&j->text, " ago: %s", f->note);
}

/* The slot is near its loss: by forecast, or because nothing holds the core's disk any more. */
static bool is_slot_near_loss(const struct judging *j)
{
	return value(j, STATUS_CAPTURE, MET_CORE_SLOT_ALARM) != 0;
}

/* "core keeps 34 MB of WAL for us (budget 4 GB)." and, where it matters, ", slot lost in 3 h 10 min at this rate." */
static void add_wal(struct judging *j)
{
	buf_str(&j->text, "core keeps ");
	status_bytes(&j->text, value(j, STATUS_CAPTURE, MET_CORE_RETAINED_BYTES));
	buf_str(&j->text, " of WAL for us (budget ");
	status_bytes(&j->text, j->f->wal_budget_bytes);
	buf_u8(&j->text, ')');
	if (is_slot_near_loss(j) && j->v->lost_in_us >= 0) {
		buf_str(&j->text, ", slot lost in ");
		status_duration(&j->text, j->v->lost_in_us);
		buf_str(&j->text, " at this rate");
	}
	buf_u8(&j->text, '.');
}

static void add_lag(struct judging *j)
{
	if (j->v->lag_us < 0) {
		buf_str(&j->text, "nothing applied yet, ");
		return;
	}
	status_duration(&j->text, j->v->lag_us);
	buf_str(&j->text, " behind, ");
}

/* ", 5 min behind": how old the warehouse is, where nothing moves. */
static void add_age(struct judging *j)
{
	if (j->v->lag_us < 0)
		return;
	buf_str(&j->text, ", ");
	status_duration(&j->text, j->v->lag_us);
	buf_str(&j->text, " behind");
}

/* Roles that are not there. */
static bool judge_stopped(struct judging *j)
{
	const struct status_role *role = j->f->role;
	int gone[STATUS_ROLES], n = 0;
	for (int i = 0; i < STATUS_ROLES; i++)
		if (role[i].life == LIFE_NEVER || role[i].life == LIFE_ENDED)
			gone[n++] = i;
	if (n == 0)
		return false;
	conclude(j, STATUS_STOPPED, false);
	refer(j, value(j, STATUS_CAPTURE, MET_CORE_PUBLICATIONS_MISSING) > 0
			 ? "RolagPublicationMissing"
			 : "RolagRoleDown");
	buf_str(&j->text, "Stopped: ");
	for (int i = 0; i < n; i++) {
		const struct met_file *f = &role[gone[i]].f;
		buf_printf(&j->text, "%s%s is not running (", i == 0 ? "" : ", ",
			   status_role_name[gone[i]]);
		if (role[gone[i]].life == LIFE_NEVER) {
			buf_str(&j->text, "no counters of it here)");
			continue;
		}
		buf_printf(&j->text, "pid %u ended ", f->pid);
		status_duration(&j->text, j->f->now_us - f->updated_us);
		buf_str(&j->text, " ago)");
	}
	bool noted = false;
	for (int i = 0; i < n; i++)
		noted |= role[gone[i]].f.note[0] != '\0';
	add_age(j);
	buf_u8(&j->text, '.');
	for (int i = 0; i < n; i++)
		add_note(j, gone[i]);
	if (!noted) /* else the last word says what to mend first */
		buf_str(&j->text, " `rolag run` (or their services) starts them.");
	return true;
}

static bool judge_stuck(struct judging *j)
{
	for (int i = 0; i < STATUS_ROLES; i++) {
		const struct met_file *f = &j->f->role[i].f;
		if (j->f->role[i].life != LIFE_STUCK)
			continue;
		conclude(j, STATUS_STALLED, false);
		refer(j, "RolagRoleDown");
		buf_printf(&j->text, "Stalled: %s (pid %u) is there but has not moved for ",
			   status_role_name[i], f->pid);
		status_duration(&j->text, j->f->now_us - f->updated_us);
		add_age(j);
		buf_u8(&j->text, '.');
		add_note(j, i);
		return true;
	}
	return false;
}

static bool is_young(const struct judging *j)
{
	for (int i = 0; i < STATUS_ROLES; i++)
		if (j->f->now_us - j->f->role[i].f.started_us < STATUS_STUCK_US)
			return true;
	return false;
}

static bool judge_connections(struct judging *j)
{
	bool core = value(j, STATUS_CAPTURE, MET_CAPTURE_CONNECTED) != 0;
	bool warehouse = value(j, STATUS_APPLY, MET_APPLY_CONNECTED) != 0;
	if (core && warehouse)
		return false;
	bool noted = j->f->role[STATUS_CAPTURE].f.note[0] != '\0' ||
		     j->f->role[STATUS_APPLY].f.note[0] != '\0';
	if (is_young(j) && !noted) {
		conclude(j, STATUS_STARTING, false);
		buf_printf(&j->text, "Starting: connecting to %s.",
			   core ? "the warehouse" : (warehouse ? "the core" : "both databases"));
		return true;
	}
	conclude(j, STATUS_STALLED, false);
	refer(j, core ? "RolagApplyDisconnected" : "RolagCaptureDisconnected");
	buf_printf(&j->text, "Stalled: no connection to %s",
		   core ? "the warehouse" : (warehouse ? "the core" : "core and warehouse"));
	add_age(j);
	if (core) {
		buf_str(&j->text, ", ");
		add_wal(j);
	} else {
		buf_u8(&j->text, '.');
	}
	if (!core)
		add_note(j, STATUS_CAPTURE);
	if (!warehouse)
		add_note(j, STATUS_APPLY);
	return true;
}

/* What the core's catalog shows: said before the traffic that would suffer from it. */
static bool judge_catalog(struct judging *j)
{
	uint64_t tables = value(j, STATUS_CAPTURE, MET_CORE_TABLES_WITHOUT_IDENTITY);
	uint64_t publications = value(j, STATUS_CAPTURE, MET_CORE_PUBLICATIONS_MISSING);
	uint64_t unpublished = value(j, STATUS_CAPTURE, MET_CORE_TABLES_UNPUBLISHED);
	if (tables == 0 && publications == 0 && unpublished == 0)
		return false;
	conclude(j, STATUS_ALARM, false);
	refer(j, tables > 0	    ? "RolagTableWithoutIdentity"
		 : publications > 0 ? "RolagPublicationMissing"
				    : "RolagTableUnpublished");
	if (tables > 0)
		buf_printf(&j->text,
			   "Alarm: %" PRIu64 " published tables have no replica identity, so that "
			   "the core's own UPDATE and DELETE of them fail; ",
			   tables);
	else if (publications == 0)
		buf_printf(&j->text,
			   "Alarm: %" PRIu64 " landed table%s not published with all changes, "
			   "which the warehouse misses; ",
			   unpublished, unpublished == 1 ? " is" : "s are");
	else
		buf_printf(&j->text,
			   "Alarm: %" PRIu64 " of our publications are gone from the core, and "
			   "what is written meanwhile cannot be decoded; ",
			   publications);
	add_lag(j);
	add_wal(j);
	add_note(j, STATUS_CAPTURE);
	return true;
}

static bool judge_space(struct judging *j)
{
	uint64_t spool_bytes = value(j, STATUS_CAPTURE, MET_SPOOL_BYTES);
	bool full = value(j, STATUS_CAPTURE, MET_SPOOL_FULL) != 0;
	if (full && spool_bytes < value(j, STATUS_CAPTURE, MET_SPOOL_QUOTA_BYTES) / 2) {
		conclude(j, STATUS_SPOOL_FULL, false);
		refer(j, "RolagSpoolFull");
		buf_str(&j->text,
			"Disk full: less than spool.reserve is free on the spool's disk, so "
			"capture has stopped reading; free space there. It is ");
	} else if (full) {
		conclude(j, STATUS_SPOOL_FULL, false);
		refer(j, "RolagSpoolFull");
		buf_str(&j->text, "Spool full (");
		status_bytes(&j->text, spool_bytes);
		buf_str(&j->text, "): capture has stopped reading until apply catches up, ");
	} else if (strcmp(j->f->role[STATUS_CAPTURE].f.state, "spilling") == 0) {
		conclude(j, STATUS_SPILLING, false);
		refer(j, "RolagWalOverBudget");
		buf_str(&j->text, "Spilling: the WAL budget is used up, so the core is told what "
				  "the spool holds; ");
	} else {
		return false;
	}
	add_lag(j);
	add_wal(j);
	add_note(j, STATUS_APPLY);
	return true;
}

/* The slot's loss is near although the flow may be well. */
static bool judge_slot(struct judging *j)
{
	if (!is_slot_near_loss(j))
		return false;
	conclude(j, STATUS_ALARM, false);
	refer(j, "RolagSlotAlarm");
	buf_str(&j->text, "Alarm: the core is about to give our slot up; ");
	add_lag(j);
	add_wal(j);
	add_note(j, STATUS_APPLY);
	return true;
}

/* The core's clock and ours: a heartbeat from the future, or one that comes and is old all the same. */
static bool judge_clocks(struct judging *j)
{
	if (j->v->clock_us == 0)
		return false;
	conclude(j, STATUS_ALARM, false);
	refer(j, "RolagClocksDiffer");
	buf_str(&j->text, "Clocks differ: heartbeats come through, but by this machine's clock the "
			  "newest is ");
	status_duration(&j->text, llabs(j->v->clock_us));
	buf_printf(&j->text, " %s, so that nobody can tell the lag; set the clock that is wrong, ",
		   j->v->clock_us > 0 ? "in the future" : "old");
	add_wal(j);
	return true;
}

/* ", 40000/s, 5 s left", once there is something to measure. */
static void add_sync_rate(struct judging *j, uint64_t left)
{
	uint64_t rows = value(j, STATUS_APPLY, MET_SYNC_ROWS) -
			value(j, STATUS_APPLY, MET_SYNC_STARTED_ROWS);
	int64_t us = j->f->now_us - (int64_t)value(j, STATUS_APPLY, MET_SYNC_STARTED_US);
	if (value(j, STATUS_APPLY, MET_SYNC_STARTED_US) == 0 || rows == 0 || us < 1000000)
		return;
	double rate = (double)rows * 1e6 / (double)us;
	buf_printf(&j->text, ", %.0f/s", rate);
	if (left > 0) {
		buf_str(&j->text, ", about ");
		status_duration(&j->text, (int64_t)((double)left * 1e6 / rate));
		buf_str(&j->text, " left");
	}
}

/* Some tables are being brought up to the core, the others follow the stream. */
static void add_sync(struct judging *j)
{
	uint64_t tables = value(j, STATUS_APPLY, MET_SYNC_TABLES);
	uint64_t done = value(j, STATUS_APPLY, MET_SYNC_DONE_ROWS);
	uint64_t total = value(j, STATUS_APPLY, MET_SYNC_ESTIMATE);
	buf_printf(&j->text, "Syncing %" PRIu64 " table%s: %" PRIu64 " rows read", tables,
		   tables == 1 ? "" : "s", done);
	if (total > tables) /* an estimate: it may be passed */
		buf_printf(&j->text, " of about %" PRIu64 " (%.0f %%)", total,
			   RT_MIN((double)done * 100 / (double)total, 99.0));
	add_sync_rate(j, total > done ? total - done : 0);
	buf_str(&j->text, "; the rest is ");
}

/* Is something left out of the warehouse that the core has? */
static bool is_parked(const struct judging *j)
{
	return value(j, STATUS_APPLY, MET_QUARANTINE_ENTITIES) > 0 ||
	       value(j, STATUS_APPLY, MET_PARKED_ROLLUPS) > 0 ||
	       value(j, STATUS_APPLY, MET_PARKED_MIRRORS) > 0;
}

/* Both roles run and are connected: the heartbeat says how it goes. */
static void judge_flow(struct judging *j)
{
	const struct met_file *apply = &j->f->role[STATUS_APPLY].f;
	int64_t event_us = (int64_t)value(j, STATUS_APPLY, MET_APPLY_EVENT_US);
	bool late = j->v->lag_us < 0 || j->v->lag_us > patience_us(j->f->heartbeat_interval_us);
	bool behind = j->v->lag_bytes > 0;
	if (late && is_young(j)) {
		conclude(j, STATUS_STARTING, false);
		buf_str(&j->text, "Starting: ");
	} else if (late && behind && j->f->moving) {
		conclude(j, STATUS_CATCHING_UP, true);
		refer(j, "RolagBehind");
		buf_str(&j->text, "Catching up: ");
		status_bytes(&j->text, j->v->lag_bytes);
		buf_str(&j->text, " of WAL to go, ");
	} else if (late) {
		conclude(j, STATUS_STALLED, false);
		refer(j, "RolagStalled");
		buf_str(&j->text, behind ? "Stalled: the warehouse does not take what capture has "
					   "received, "
					 : "Stalled: no heartbeat comes through the core, ");
	} else if (value(j, STATUS_APPLY, MET_SYNC_TABLES) > 0) {
		conclude(j, STATUS_SYNCING, true);
		add_sync(j);
	} else if (strcmp(apply->state, "catching_up") == 0) {
		conclude(j, STATUS_CATCHING_UP, true);
		buf_str(&j->text, "Catching up: ");
	} else if (j->f->now_us - RT_MAX(event_us, apply->started_us) > STATUS_IDLE_US) {
		conclude(j, is_parked(j) ? STATUS_PARKED : STATUS_IDLE, true);
		buf_str(&j->text, is_parked(j) ? "Parked in part, idle: " : "Healthy and idle: ");
	} else {
		conclude(j, is_parked(j) ? STATUS_PARKED : STATUS_LIVE, true);
		buf_str(&j->text, is_parked(j) ? "Parked in part: " : "Healthy: ");
	}
	add_lag(j);
	add_wal(j);
	if (j->v->state == STATUS_SYNCING) /* what it waits for */
		add_note(j, STATUS_APPLY);
	if (!j->v->healthy && j->v->state == STATUS_STALLED) {
		add_note(j, STATUS_CAPTURE);
		add_note(j, STATUS_APPLY);
	}
}

static void measure_lag(struct judging *j)
{
	uint64_t newest = RT_MAX(value(j, STATUS_APPLY, MET_APPLY_HEARTBEAT_US),
				 value(j, STATUS_APPLY, MET_APPLY_COMMIT_US));
	uint64_t received = value(j, STATUS_CAPTURE, MET_CAPTURE_RECEIVED_LSN);
	uint64_t applied = value(j, STATUS_APPLY, MET_APPLY_APPLIED_LSN);
	int64_t patience = patience_us(j->f->heartbeat_interval_us);
	j->v->lag_us = newest == 0 ? -1 : RT_MAX(j->f->now_us - (int64_t)newest, 0);
	if (newest != 0 && ((int64_t)newest - j->f->now_us > patience ||
			    (j->v->lag_us > patience && j->f->beating)))
		j->v->clock_us = (int64_t)newest - j->f->now_us;
	j->v->lag_bytes = received > applied ? received - applied : 0;
	uint64_t lost_in_us = value(j, STATUS_CAPTURE, MET_CORE_SLOT_LOST_IN_US);
	j->v->lost_in_us = lost_in_us == 0 ? -1 : (int64_t)lost_in_us;
}

/* What is left out of the warehouse is no matter of lag: it is said wherever something is applied. */
static void judge_parked(struct judging *j)
{
	uint64_t entities = value(j, STATUS_APPLY, MET_QUARANTINE_ENTITIES);
	uint64_t rollups = value(j, STATUS_APPLY, MET_PARKED_ROLLUPS);
	uint64_t mirrors = value(j, STATUS_APPLY, MET_PARKED_MIRRORS);
	if (j->v->state == STATUS_STOPPED || !is_parked(j))
		return;
	j->v->healthy = false;
	refer(j, rollups + mirrors > 0 ? "RolagParked" : "RolagQuarantine");
	if (rollups > 0)
		buf_printf(&j->text, " %" PRIu64 " rollup%s parked.", rollups,
			   rollups == 1 ? " is" : "s are");
	if (entities > 0)
		buf_printf(&j->text, " %" PRIu64 " entit%s of %" PRIu64 " rollup%s in quarantine.",
			   entities, entities == 1 ? "y" : "ies",
			   value(j, STATUS_APPLY, MET_QUARANTINE_ROLLUPS),
			   value(j, STATUS_APPLY, MET_QUARANTINE_ROLLUPS) == 1 ? " waits"
									       : "s wait");
	if (rollups + entities > 0)
		buf_str(&j->text, " (rolag quarantine list)");
	if (mirrors > 0)
		buf_printf(&j->text,
			   " %" PRIu64 " mirror%s parked (rolag.relation says why; rolag sync).",
			   mirrors, mirrors == 1 ? " is" : "s are");
}

/* It is mended by itself, but somebody shall know, and look why. */
static void judge_slot_made(struct judging *j)
{
	int64_t made_us = (int64_t)value(j, STATUS_CAPTURE, MET_CAPTURE_SLOT_MADE_US);
	if (made_us == 0 || j->v->state == STATUS_STOPPED ||
	    j->f->now_us - made_us > STATUS_SLOT_MADE_US)
		return;
	refer(j, "RolagSlotMadeAnew");
	buf_str(&j->text, " The slot was lost, and made anew ");
	status_duration(&j->text, RT_MAX(j->f->now_us - made_us, 0));
	buf_str(&j->text, " ago; what it lacked is synced.");
}

/* The live rows are whole meanwhile: only one that a person must help is unhealthy. */
static void judge_rebuild(struct judging *j)
{
	uint64_t rollups = value(j, STATUS_APPLY, MET_REBUILD_ROLLUPS);
	uint64_t waits = value(j, STATUS_APPLY, MET_REBUILD_WAITS);
	uint64_t rows = value(j, STATUS_APPLY, MET_REBUILD_ROWS);
	uint64_t total = value(j, STATUS_APPLY, MET_REBUILD_ESTIMATE);
	if (j->v->state == STATUS_STOPPED || (rollups == 0 && waits == 0))
		return;
	if (rollups > 0)
		buf_printf(&j->text, " Another definition of %" PRIu64 " rollup%s is built beside",
			   rollups, rollups == 1 ? "" : "s");
	if (rollups > 0 && rows > 0)
		buf_printf(&j->text, " (%" PRIu64 " rows read of about %" PRIu64 ")", rows,
			   RT_MAX(total, rows));
	if (rollups > 0)
		buf_u8(&j->text, '.');
	if (waits > 0)
		buf_printf(&j->text,
			   " %" PRIu64 " rebuild%s for a person (rolag rebuild ROLLUP --show).",
			   waits, waits == 1 ? " waits" : "s wait");
	j->v->healthy &= waits == 0;
	if (waits > 0)
		refer(j, "RolagRebuildWaits");
}

/*
 * The companion, where it has ever run here: that it is gone, or that its newest run failed. What the stream does is
 * said first; it is well without reports.
 */
static void judge_reports(struct judging *j)
{
	const struct status_role *r = &j->f->role[STATUS_REPORTS];
	uint64_t failed = value(j, STATUS_REPORTS, MET_REPORTS_FAILED_US);
	if (j->v->state == STATUS_STOPPED || r->life == LIFE_NEVER)
		return;
	if (r->life != LIFE_RUNNING) {
		conclude(j, j->v->healthy ? STATUS_ALARM : j->v->state, false);
		refer(j, "RolagSilent"); /* it served the numbers */
		buf_printf(&j->text, " The companion of reports (pid %u) %s ", r->f.pid,
			   r->life == LIFE_ENDED ? "is not running, since" : "has not moved for");
		status_duration(&j->text, RT_MAX(j->f->now_us - r->f.updated_us, 0));
		buf_u8(&j->text, '.');
		add_note(j, STATUS_REPORTS);
	} else if (failed > value(j, STATUS_REPORTS, MET_REPORTS_PUBLISHED_US)) {
		refer(j, "RolagReportFailed");
		buf_str(&j->text, " The newest run of reports failed (rolag report list).");
	}
}

/* The sentence begins with what is wrong, not with what is well. */
static void tell(struct judging *j)
{
	const char *text = buf_cstr(&j->text), *well = "Healthy";
	if (!j->v->healthy && j->v->state == STATUS_ALARM && strncmp(text, well, strlen(well)) == 0)
		snprintf(j->v->sentence, sizeof(j->v->sentence), "Alarm, the stream is healthy%s",
			 text + strlen(well));
	else
		snprintf(j->v->sentence, sizeof(j->v->sentence), "%s", text);
}

void status_judge(const struct status_facts *f, struct status_view *ret)
{
	struct judging j = {.f = f, .v = ret, .text = BUF_INIT};
	*ret = (struct status_view){0};
	measure_lag(&j);
	if (!judge_stopped(&j) && !judge_stuck(&j) && !judge_connections(&j) &&
	    !judge_catalog(&j) && !judge_space(&j) && !judge_slot(&j) && !judge_clocks(&j))
		judge_flow(&j);
	judge_slot_made(&j);
	judge_parked(&j);
	judge_rebuild(&j);
	judge_reports(&j);
	if (is_slot_near_loss(&j))
		ret->healthy = false;
	tell(&j);
	buf_release(&j.text);
}
