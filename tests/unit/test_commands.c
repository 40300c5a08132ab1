/* cdc/commands where it is pure: the command line, and what `rolag status` makes of the numbers. */
#include "tests/unit/unit.h"

#include "cdc/commands/cli.h"
#include "cdc/commands/status.h"

/* ---- the command line ---- */

static const struct cli_usage plain_usage = {.text = "Text.\n"};
static const struct cli_usage story_like = {
	.text = "Text.\n",
	.args = "ENTITY-ID [FILE]",
	.option = {{"--values", NULL, "a flag"}, {"--limit", "N", "takes a value"}},
};
static const struct cli_command table[] = {
	{"status", "one line", &plain_usage, NULL},
	{"story", "one line", &story_like, NULL},
};

/* Parses words ended by NULL; the caller releases c->arena. */
static int parse(struct cli *c, struct rt_err *err, const char *const *words)
{
	char *argv[16] = {NULL};
	int argc = 0;
	for (; words[argc] != NULL; argc++)
		argv[argc] = (char *)(uintptr_t)words[argc];
	return cli_parse(c, table, ARRAY_LEN(table), argc, argv, "/default.yaml", err);
}

#define PARSE(...) parse(&c, &err, (const char *const[]){"rolag", __VA_ARGS__, NULL})

static void test_cli_takes_options_before_and_behind_the_command(void **state)
{
	struct cli c;
	struct rt_err err;
	assert_rc(PARSE("--config", "/a.yaml", "story", "x", "--limit=3", "--values"), err);
	assert_string_equal(c.config, "/a.yaml");
	assert_string_equal(c.command->name, "story");
	assert_int_equal(c.arg_count, 1);
	assert_string_equal(c.arg[0], "x");
	assert_string_equal(cli_option(&c, "--limit"), "3");
	assert_string_equal(cli_option(&c, "--values"), "");
	arena_release(&c.arena);
	assert_rc(PARSE("story", "--limit", "4", "--config=/b.yaml", "--", "--values", "y"), err);
	assert_string_equal(c.config, "/b.yaml");
	assert_string_equal(cli_option(&c, "--limit"), "4");
	assert_null(cli_option(&c, "--values")); /* behind -- it is an argument */
	assert_int_equal(c.arg_count, 2);
	assert_string_equal(c.arg[0], "--values");
	arena_release(&c.arena);
	assert_rc(PARSE("status"), err);
	assert_string_equal(c.config, "/default.yaml");
	arena_release(&c.arena);
}

static void test_cli_help_and_version_need_nothing_else(void **state)
{
	struct cli c;
	struct rt_err err;
	assert_rc(PARSE("story", "--help"), err); /* though an argument is missing */
	assert_true(c.help && c.command == &table[1]);
	arena_release(&c.arena);
	assert_rc(PARSE("help", "story"), err);
	assert_true(c.help && c.command == &table[1]);
	arena_release(&c.arena);
	assert_rc(PARSE("-h"), err);
	assert_true(c.help && c.command == NULL);
	arena_release(&c.arena);
	assert_rc(PARSE("--version"), err);
	assert_true(c.version);
	arena_release(&c.arena);
}

static void test_cli_errors_name_what_was_meant(void **state)
{
	static const struct {
		const char *words[6];
		const char *says;
	} cases[] = {
		{{"rolag", NULL}, "no command given"},
		{{"rolag", "stauts", NULL}, "unknown command stauts; did you mean status?"},
		{{"rolag", "frobnicate", NULL}, "unknown command frobnicate ("},
		{{"rolag", "story", "x", "--value", NULL},
		 "unknown option --value; did you mean --values?"},
		{{"rolag", "--confg", "f", "status", NULL}, "did you mean --config?"},
		{{"rolag", "story", NULL}, "usage: rolag story ENTITY-ID [FILE]"},
		{{"rolag", "story", "a", "b", "c", NULL}, "one argument too many: c"},
		{{"rolag", "status", "x", NULL}, "one argument too many: x"},
		{{"rolag", "story", "x", "--limit", NULL}, "--limit needs a value"},
		{{"rolag", "story", "x", "--values=1", NULL}, "--values takes no value"},
		{{"rolag", "status", "--values", NULL}, "unknown option --values"},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct cli c;
		struct rt_err err;
		assert_int_equal(parse(&c, &err, cases[i].words), ERR_USAGE);
		assert_says(err, cases[i].says);
		arena_release(&c.arena);
	}
}

/* ---- status ---- */

#define NOW    INT64_C(1700000000000000)
#define SECOND INT64_C(1000000)

/* A pipeline in good health: heartbeat 0.4 s ago, 34 MB kept. Tests break it. */
static struct status_facts *healthy(void)
{
	static struct status_facts f;
	f = (struct status_facts){.now_us = NOW,
				  .heartbeat_interval_us = SECOND,
				  .wal_budget_bytes = UINT64_C(4) << 30,
				  .moving = true};
	for (int i = 0; i < STATUS_ROLES; i++) {
		struct met_file *m = &f.role[i].f;
		f.role[i].life = LIFE_RUNNING;
		m->magic = MET_MAGIC;
		m->pid = 100 + (uint32_t)i;
		m->started_us = NOW - 3600 * SECOND;
		m->updated_us = NOW - SECOND / 10;
		snprintf(m->state, sizeof(m->state), "live");
	}
	uint64_t *capture = f.role[STATUS_CAPTURE].f.value, *apply = f.role[STATUS_APPLY].f.value;
	capture[MET_CAPTURE_CONNECTED] = 1;
	capture[MET_CAPTURE_RECEIVED_LSN] = capture[MET_CORE_CURRENT_LSN] = 1000000;
	capture[MET_CORE_RETAINED_BYTES] = 34 << 20;
	apply[MET_APPLY_CONNECTED] = 1;
	apply[MET_APPLY_APPLIED_LSN] = 1000000;
	apply[MET_APPLY_HEARTBEAT_US] = (uint64_t)(NOW - 4 * SECOND / 10);
	apply[MET_APPLY_COMMIT_US] = apply[MET_APPLY_EVENT_US] = (uint64_t)(NOW - 5 * SECOND);
	return &f;
}

static void set_note(struct met_file *m, const char *text)
{
	snprintf(m->note, sizeof(m->note), "%s", text);
	m->note_us = NOW - 12 * SECOND;
}

static bool reached[STATUS_STATE_COUNT];

static void expect(const struct status_facts *f, enum status_state state, bool well,
		   const char *says)
{
	struct status_view v;
	status_judge(f, &v);
	if (strstr(v.sentence, says) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", v.sentence, says);
	assert_string_equal(status_state_name(v.state), status_state_name(state));
	assert_int_equal(v.healthy, well);
	reached[v.state] = true;
}

static void test_trap_25_status_says_when_the_slot_is_lost(void **state)
{
	struct status_facts *f = healthy();
	struct status_view v;
	uint64_t *capture = f->role[STATUS_CAPTURE].f.value;
	capture[MET_CORE_SLOT_LOST_IN_US] = UINT64_C(11400) * 1000000;
	expect(f, STATUS_LIVE, true,
	       "Healthy: 0.4 s behind"); /* far from its limit: the table says it */
	capture[MET_CORE_SLOT_LIMIT_BYTES] = UINT64_C(16) << 30;
	capture[MET_CORE_OLDEST_PID] = 4711;
	capture[MET_CORE_OLDEST_US] = UINT64_C(300) * 1000000;
	struct buf out = BUF_INIT;
	status_judge(f, &v);
	status_print_table(f, &v, NULL, false, &out);
	assert_non_null(strstr(buf_cstr(&out), "34 MB kept; slot lost past 16 GB, in "
					       "3 h 10 min at this rate"));
	assert_non_null(
		strstr(buf_cstr(&out), "; the rest: transaction of pid 4711, open 5 min\n"));
	buf_clear(&out);
	status_print_json(f, &v, &out);
	assert_non_null(strstr(buf_cstr(&out), "\"slot_lost_in_seconds\": 11400.000000"));
	buf_release(&out);
	capture[MET_CORE_SLOT_ALARM] = 1;
	expect(f, STATUS_ALARM, false,
	       "Alarm: the core is about to give our slot up; 0.4 s behind, core keeps 34 MB of "
	       "WAL "
	       "for us (budget 4 GB), slot lost in 3 h 10 min at this rate.");
	snprintf(f->role[STATUS_CAPTURE].f.state, 24, "spilling");
	expect(f, STATUS_SPILLING, false, "slot lost in 3 h 10 min at this rate");
}

static void test_trap_53_status_says_that_a_table_lost_its_identity(void **state)
{
	struct status_facts *f = healthy();
	f->role[STATUS_CAPTURE].f.value[MET_CORE_PUBLICATIONS_MISSING] = 1;
	expect(f, STATUS_ALARM, false, "1 of our publications are gone");
	f->role[STATUS_CAPTURE].f.value[MET_CORE_TABLES_WITHOUT_IDENTITY] = 2;
	set_note(&f->role[STATUS_CAPTURE].f, "public.loans is published without");
	expect(f, STATUS_ALARM, false, "2 published tables have no replica identity");
	expect(f, STATUS_ALARM, false, "public.loans is published without");
	f->role[STATUS_CAPTURE].f.value[MET_CAPTURE_CONNECTED] = 0; /* what is worse goes first */
	expect(f, STATUS_STALLED, false, "no connection to the core");
}

static void test_status_live(void **state)
{
	expect(healthy(), STATUS_LIVE, true,
	       "Healthy: 0.4 s behind, core keeps 34 MB of WAL for us (budget 4 GB).");
}

static void test_trap_31_idle_is_not_lag(void **state)
{
	struct status_facts *f = healthy();
	/* No event for an hour, but heartbeats arrive. */
	f->role[STATUS_APPLY].f.value[MET_APPLY_EVENT_US] = (uint64_t)(NOW - 3600 * SECOND);
	expect(f, STATUS_IDLE, true, "Healthy and idle: 0.4 s behind");
	/* None since the start: idle once that is long enough ago. */
	f->role[STATUS_APPLY].f.value[MET_APPLY_EVENT_US] = 0;
	expect(f, STATUS_IDLE, true, "Healthy and idle: 0.4 s behind");
	f->role[STATUS_APPLY].f.started_us = NOW - 30 * SECOND;
	expect(f, STATUS_LIVE, true, "Healthy: 0.4 s behind");
}

static void test_trap_31_dead_is_not_idle(void **state)
{
	/* No heartbeat for longer than ten intervals: a stall, though every process lives. */
	struct status_facts *f = healthy();
	uint64_t *apply = f->role[STATUS_APPLY].f.value;
	apply[MET_APPLY_COMMIT_US] = (uint64_t)(NOW - 3600 * SECOND);
	apply[MET_APPLY_HEARTBEAT_US] = (uint64_t)(NOW - 25 * 3600 * SECOND);
	set_note(&f->role[STATUS_CAPTURE].f, "cannot send the heartbeat");
	expect(f, STATUS_STALLED, false,
	       "Stalled: no heartbeat comes through the core, 60 min behind");
	expect(f, STATUS_STALLED, false,
	       "Last word of capture, 12 s ago: cannot send the heartbeat");
	/* A process that is there but does not turn. */
	f = healthy();
	f->role[STATUS_APPLY].life = LIFE_STUCK;
	f->role[STATUS_APPLY].f.updated_us = NOW - 35 * SECOND;
	expect(f, STATUS_STALLED, false,
	       "Stalled: apply (pid 101) is there but has not moved for 35 s");
	/* A process that is gone. */
	f = healthy();
	f->role[STATUS_CAPTURE].life = LIFE_ENDED;
	f->role[STATUS_CAPTURE].f.updated_us = NOW - 300 * SECOND;
	expect(f, STATUS_STOPPED, false,
	       "Stopped: capture is not running (pid 100 ended 5 min ago), 0.4 s behind. `rolag "
	       "run`");
}

static void test_status_behind_but_moving_is_catching_up(void **state)
{
	struct status_facts *f = healthy();
	uint64_t *apply = f->role[STATUS_APPLY].f.value;
	apply[MET_APPLY_HEARTBEAT_US] = apply[MET_APPLY_COMMIT_US] = (uint64_t)(NOW - 60 * SECOND);
	apply[MET_APPLY_APPLIED_LSN] = 1000000 - 2048;
	expect(f, STATUS_CATCHING_UP, true, "Catching up: 2 kB of WAL to go, 60 s behind");
	f->moving = false;
	expect(f, STATUS_STALLED, false,
	       "Stalled: the warehouse does not take what capture has received, 60 s behind");
	/* Within the heartbeat's patience the role's own word counts. */
	f = healthy();
	snprintf(f->role[STATUS_APPLY].f.state, sizeof(f->role[0].f.state), "catching_up");
	expect(f, STATUS_CATCHING_UP, true, "Catching up: 0.4 s behind");
}

static void test_status_connections(void **state)
{
	struct status_facts *f = healthy();
	f->role[STATUS_APPLY].f.value[MET_APPLY_CONNECTED] = 0;
	set_note(&f->role[STATUS_APPLY].f, "cannot connect to the warehouse: refused");
	expect(f, STATUS_STALLED, false,
	       "Stalled: no connection to the warehouse, 0.4 s behind, core keeps 34 MB of WAL for "
	       "us "
	       "(budget 4 GB). Last word of apply, 12 s ago: cannot connect");
	f->role[STATUS_CAPTURE].f.value[MET_CAPTURE_CONNECTED] = 0;
	expect(f, STATUS_STALLED, false,
	       "Stalled: no connection to core and warehouse, 0.4 s behind. Last");
	f = healthy();
	f->role[STATUS_CAPTURE].f.value[MET_CAPTURE_CONNECTED] = 0;
	f->role[STATUS_CAPTURE].f.started_us = NOW - SECOND;
	expect(f, STATUS_STARTING, false, "Starting: connecting to the core.");
	set_note(&f->role[STATUS_CAPTURE].f, "cannot connect to the core: refused");
	expect(f, STATUS_STALLED, false,
	       "Stalled: no connection to the core, 0.4 s behind. Last word");
}

static void test_status_space(void **state)
{
	struct status_facts *f = healthy();
	snprintf(f->role[STATUS_CAPTURE].f.state, sizeof(f->role[0].f.state), "spilling");
	expect(f, STATUS_SPILLING, false, "Spilling: the WAL budget is used up");
	f->role[STATUS_CAPTURE].f.value[MET_SPOOL_FULL] = 1;
	f->role[STATUS_CAPTURE].f.value[MET_SPOOL_BYTES] = UINT64_C(16) << 30;
	f->role[STATUS_CAPTURE].f.value[MET_SPOOL_QUOTA_BYTES] = UINT64_C(16) << 30;
	expect(f, STATUS_SPOOL_FULL, false, "Spool full (16 GB): capture has stopped reading");
	f->role[STATUS_CAPTURE].f.value[MET_SPOOL_BYTES] = 101; /* not the quota, but the disk */
	expect(f, STATUS_SPOOL_FULL, false, "Disk full: less than spool.reserve is free");
}

static void test_status_syncing_and_starting(void **state)
{
	struct status_facts *f = healthy();
	uint64_t *apply = f->role[STATUS_APPLY].f.value;
	apply[MET_SYNC_TABLES] = 1;
	apply[MET_SYNC_DONE_ROWS] = apply[MET_SYNC_ROWS] = 50000;
	expect(f, STATUS_SYNCING, true,
	       "Syncing 1 table: 50000 rows read; the rest is 0.4 s behind");
	apply[MET_SYNC_TABLES] = 2;
	apply[MET_SYNC_ESTIMATE] = 200000;
	apply[MET_SYNC_STARTED_ROWS] = 10000;
	apply[MET_SYNC_STARTED_US] = NOW - 10 * SECOND;
	expect(f, STATUS_SYNCING, true,
	       "Syncing 2 tables: 50000 rows read of about 200000 (25 %), 4000/s, about 37 s left; "
	       "the rest is");
	apply[MET_SYNC_DONE_ROWS] = 400000; /* estimates may be passed, but it is not done yet */
	expect(f, STATUS_SYNCING, true, "(99 %), 4000/s; the rest is");
	set_note(&f->role[STATUS_APPLY].f, "the sync of core_x_rollup waits");
	expect(f, STATUS_SYNCING, true, "Last word of apply, 12 s ago: the sync of core_x_rollup");
	f->role[STATUS_CAPTURE].f.value[MET_CAPTURE_CONNECTED] = 0;
	set_note(&f->role[STATUS_CAPTURE].f, "cannot connect to the core: refused");
	expect(f, STATUS_STALLED, false, "Stalled: no connection to the core, 0.4 s behind");
	f = healthy();
	apply = f->role[STATUS_APPLY].f.value;
	apply[MET_APPLY_HEARTBEAT_US] = apply[MET_APPLY_COMMIT_US] = 0;
	f->role[STATUS_APPLY].f.started_us = NOW - SECOND;
	expect(f, STATUS_STARTING, false, "Starting: nothing applied yet");
	f->role[STATUS_APPLY].f.started_us = NOW - 60 * SECOND;
	expect(f, STATUS_STALLED, false,
	       "Stalled: no heartbeat comes through the core, nothing applied");
}

static void test_status_parked(void **state)
{
	static const enum met_id left_out[] = {MET_QUARANTINE_ENTITIES, MET_PARKED_ROLLUPS,
					       MET_PARKED_MIRRORS};
	for (size_t i = 0; i < ARRAY_LEN(left_out); i++) {
		struct status_facts *f = healthy();
		uint64_t *apply = f->role[STATUS_APPLY].f.value;
		apply[left_out[i]] = 1;
		expect(f, STATUS_PARKED, false, "Parked in part: 0.4 s behind");
		apply[MET_APPLY_EVENT_US] = (uint64_t)(NOW - 3600 * SECOND);
		expect(f, STATUS_PARKED, false, "Parked in part, idle: 0.4 s behind");
		/* How far behind it is comes first. */
		apply[MET_SYNC_TABLES] = 1;
		expect(f, STATUS_SYNCING, false, "Syncing 1 table");
	}
}

static void test_status_stopped(void **state)
{
	static struct status_facts f;
	f = (struct status_facts){.now_us = NOW, .heartbeat_interval_us = SECOND};
	expect(&f, STATUS_STOPPED, false,
	       "Stopped: capture is not running (no counters of it here), apply is not running");
	struct status_facts *h = healthy();
	h->role[STATUS_APPLY].life = LIFE_ENDED;
	h->role[STATUS_APPLY].f.updated_us = NOW - 7300 * SECOND;
	set_note(&h->role[STATUS_APPLY].f, "relation core_x_events: unknown event");
	expect(h, STATUS_STOPPED, false,
	       "(pid 101 ended 2 h 1 min ago), 0.4 s behind. Last word of apply, 12 s ago: "
	       "relation "
	       "core_x_events: unknown event");
}

static void test_status_clocks_that_differ_are_no_lag(void **state)
{
	struct status_facts *f = healthy();
	struct status_view v;
	uint64_t *apply = f->role[STATUS_APPLY].f.value;
	(void)state;
	apply[MET_APPLY_HEARTBEAT_US] = apply[MET_APPLY_COMMIT_US] =
		(uint64_t)(NOW - 3600 * SECOND);
	f->beating = true;
	expect(f, STATUS_ALARM, false, "the newest is 60 min old, so that nobody can tell the lag");
	status_judge(f, &v);
	assert_true(v.clock_us == -3600 * SECOND);
	apply[MET_APPLY_HEARTBEAT_US] = (uint64_t)(NOW + 60 * SECOND);
	f->beating = false; /* the future needs no second look */
	expect(f, STATUS_ALARM, false, "the newest is 60 s in the future");
	status_judge(f, &v);
	assert_true(v.clock_us == 60 * SECOND);
	/* Whatever else is wrong: who watches by these clocks must know. */
	f->role[STATUS_APPLY].f.value[MET_APPLY_CONNECTED] = 0;
	status_judge(f, &v);
	assert_int_equal(v.state, STATUS_STALLED);
	assert_true(v.clock_us == 60 * SECOND);
	struct buf out = BUF_INIT;
	status_print_prometheus(f, &v, &out);
	assert_non_null(strstr(buf_cstr(&out), "rolag_clock_difference_seconds 60.000000\n"));
	buf_release(&out);
}

static void expect_part(const struct status_facts *f, const char *part)
{
	struct status_view v;
	status_judge(f, &v);
	if (part == NULL)
		assert_null(v.runbook);
	else
		assert_string_equal(v.runbook, part);
}

static void test_status_names_the_runbooks_part(void **state)
{
	struct status_facts *f = healthy();
	struct status_view v;
	(void)state;
	expect_part(f, NULL);
	f->role[STATUS_CAPTURE].f.value[MET_CAPTURE_SLOT_MADE_US] = (uint64_t)(NOW - 3700 * SECOND);
	expect_part(f, NULL); /* long ago */
	f->role[STATUS_CAPTURE].f.value[MET_CAPTURE_SLOT_MADE_US] = (uint64_t)(NOW - 12 * SECOND);
	expect(f, STATUS_LIVE, true, " The slot was lost, and made anew 12 s ago;");
	expect_part(f, "RolagSlotMadeAnew");
	/* What is wrong now goes first; of two, the one that the sentence begins with. */
	f->role[STATUS_APPLY].f.value[MET_QUARANTINE_ENTITIES] = 1;
	f->role[STATUS_CAPTURE].f.value[MET_CAPTURE_SLOT_MADE_US] = 0;
	expect_part(f, "RolagQuarantine");
	f->role[STATUS_APPLY].f.value[MET_APPLY_CONNECTED] = 0;
	expect_part(f, "RolagApplyDisconnected");
	f->role[STATUS_CAPTURE].life = LIFE_ENDED;
	expect_part(f, "RolagRoleDown");
	f->role[STATUS_CAPTURE].f.value[MET_CORE_PUBLICATIONS_MISSING] = 1;
	expect_part(f, "RolagPublicationMissing");
	struct buf out = BUF_INIT;
	status_judge(f, &v);
	status_print_table(f, &v, NULL, false, &out);
	assert_non_null(
		strstr(buf_cstr(&out), "\n  to do      RUNBOOK.md, RolagPublicationMissing\n"));
	buf_clear(&out);
	status_print_json(f, &v, &out);
	assert_non_null(strstr(buf_cstr(&out), "\"runbook\": \"RolagPublicationMissing\","));
	buf_clear(&out);
	f = healthy();
	status_judge(f, &v);
	status_print_json(f, &v, &out);
	assert_non_null(strstr(buf_cstr(&out), "\"runbook\": null,"));
	buf_release(&out);
}

static void test_status_of_the_companion(void **state)
{
	struct status_facts *f = healthy();
	struct status_role *r = &f->role[STATUS_REPORTS];
	struct status_view v;
	struct buf out = BUF_INIT;
	(void)state;
	/* None here: nothing is said of it. */
	status_judge(f, &v);
	status_print_table(f, &v, NULL, false, &out);
	assert_true(v.healthy);
	assert_null(strstr(v.sentence, "reports"));
	assert_null(strstr(buf_cstr(&out), "reports"));
	r->life = LIFE_RUNNING;
	r->f.pid = 77;
	r->f.updated_us = NOW;
	r->f.value[MET_REPORTS_PUBLISHED] = 3;
	r->f.value[MET_REPORTS_PUBLISHED_US] = NOW - 60 * SECOND;
	r->f.value[MET_REPORTS_OPEN] = 2;
	r->f.value[MET_REPORTS_OPEN_US] = NOW - 5 * SECOND;
	buf_clear(&out);
	status_judge(f, &v);
	status_print_table(f, &v, NULL, false, &out);
	assert_true(v.healthy);
	assert_non_null(strstr(buf_cstr(&out),
			       "reports    3 runs published, last 60 s ago; 2 open, the "
			       "oldest asked for 5.0 s ago\n"));
	/* The stream is well, whatever becomes of a run; but it is said. */
	r->f.value[MET_REPORTS_FAILED] = 1;
	r->f.value[MET_REPORTS_FAILED_US] = NOW - 1 * SECOND;
	status_judge(f, &v);
	assert_true(v.healthy);
	assert_non_null(strstr(v.sentence, "The newest run of reports failed"));
	r->f.value[MET_REPORTS_PUBLISHED_US] = NOW;
	status_judge(f, &v);
	assert_null(strstr(v.sentence, "failed"));
	r->life = LIFE_ENDED;
	r->f.updated_us = NOW - 300 * SECOND;
	status_judge(f, &v);
	assert_false(v.healthy);
	assert_string_equal(status_state_name(v.state), "alarm");
	assert_true(strncmp(v.sentence, "Alarm, the stream is healthy", 28) == 0);
	assert_non_null(strstr(v.sentence, "The companion of reports (pid 77) is not running"));
	buf_clear(&out);
	status_print_json(f, &v, &out);
	assert_non_null(strstr(buf_cstr(&out), "\"reports_open_runs\": 2"));
	assert_non_null(strstr(buf_cstr(&out), "\"reports\": {\"life\": \"ended\""));
	buf_release(&out);
}

static void test_status_life_of_a_role(void **state)
{
	static struct met_file f;
	f = (struct met_file){0};
	assert_int_equal(status_life(&f, false, NOW, SECOND), LIFE_NEVER);
	f.magic = MET_MAGIC;
	f.updated_us = NOW - SECOND;
	assert_int_equal(status_life(&f, true, NOW, SECOND), LIFE_RUNNING);
	/* One that ended by itself has said so. */
	snprintf(f.state, sizeof(f.state), "stopped");
	assert_int_equal(status_life(&f, false, NOW, SECOND), LIFE_ENDED);
	snprintf(f.state, sizeof(f.state), "live");
	/* Fresh numbers of a process in another pid namespace. */
	assert_int_equal(status_life(&f, false, NOW, SECOND), LIFE_RUNNING);
	f.updated_us = NOW - 3 * SECOND;
	assert_int_equal(status_life(&f, false, NOW, SECOND), LIFE_ENDED);
	assert_int_equal(status_life(&f, true, NOW, SECOND), LIFE_RUNNING);
	f.updated_us = NOW - 11 * SECOND;
	assert_int_equal(status_life(&f, true, NOW, SECOND), LIFE_STUCK);
	/* A slow heartbeat asks for more patience. */
	assert_int_equal(status_life(&f, true, NOW, 10 * SECOND), LIFE_RUNNING);
}

static void test_status_units(void **state)
{
	static const struct {
		int64_t us;
		const char *text;
	} times[] = {{-1, "?"},
		     {850, "0.85 ms"},
		     {3100, "3.1 ms"},
		     {400000, "0.4 s"},
		     {12 * SECOND, "12 s"},
		     {119 * SECOND, "119 s"},
		     {300 * SECOND, "5 min"},
		     {12000 * SECOND, "3 h 20 min"},
		     {187200 * SECOND, "2 d 4 h"}};
	static const struct {
		uint64_t bytes;
		const char *text;
	} sizes[] = {{0, "0 B"},
		     {1023, "1023 B"},
		     {1536, "1.5 kB"},
		     {UINT64_C(34) << 20, "34 MB"},
		     {UINT64_C(4) << 30, "4 GB"},
		     {UINT64_C(5000) << 40, "5000 TB"}};
	struct buf b = BUF_INIT;
	for (size_t i = 0; i < ARRAY_LEN(times); i++) {
		buf_clear(&b);
		status_duration(&b, times[i].us);
		assert_string_equal(buf_cstr(&b), times[i].text);
	}
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		buf_clear(&b);
		status_bytes(&b, sizes[i].bytes);
		assert_string_equal(buf_cstr(&b), sizes[i].text);
	}
	buf_release(&b);
}

static void test_status_rates_come_from_differences(void **state)
{
	static struct status_facts before;
	struct status_view v;
	struct buf b = BUF_INIT;
	struct status_facts *f = healthy();
	before = *f;
	before.now_us = NOW - 2 * SECOND;
	before.role[STATUS_APPLY].f.value[MET_APPLY_EVENTS] = 1000000;
	f->role[STATUS_APPLY].f.value[MET_APPLY_EVENTS] = 1006000;
	status_judge(f, &v);
	status_print_table(f, &v, &before, false, &b);
	assert_non_null(strstr(buf_cstr(&b), "1006000 applied, 3000/s\n"));
	/* After a restart of apply its counters begin anew: no negative or giant rate. */
	before.role[STATUS_APPLY].f.started_us -= SECOND;
	before.role[STATUS_APPLY].f.value[MET_APPLY_EVENTS] = 9000000;
	f->role[STATUS_APPLY].f.started_us = NOW - 10 * SECOND;
	f->role[STATUS_APPLY].f.updated_us = NOW;
	f->role[STATUS_APPLY].f.value[MET_APPLY_EVENTS] = 500;
	buf_clear(&b);
	status_print_table(f, &v, &before, false, &b);
	assert_non_null(strstr(buf_cstr(&b), "500 applied, 50/s\n"));
	buf_release(&b);
}

static void test_status_json_escapes(void **state)
{
	struct status_view v;
	struct buf b = BUF_INIT;
	struct status_facts *f = healthy();
	set_note(&f->role[STATUS_APPLY].f, "a \"quoted\" \\ and a\ttab");
	status_judge(f, &v);
	status_print_json(f, &v, &b);
	assert_non_null(strstr(buf_cstr(&b), "\"a \\\"quoted\\\" \\\\ and a\\u0009tab\""));
	assert_non_null(strstr(buf_cstr(&b), "\"state\": \"live\""));
	assert_non_null(strstr(buf_cstr(&b), "\"visible_p50_seconds\": null"));
	buf_release(&b);
}

/* One line of the table, from its label on; in memory until the next call. */
static const char *line_of(const struct status_facts *f, bool color, const char *label)
{
	static char line[400];
	struct status_view v;
	struct buf b = BUF_INIT;
	status_judge(f, &v);
	status_print_table(f, &v, NULL, color, &b);
	const char *at = strstr(buf_cstr(&b), label);
	if (at == NULL)
		fail_msg("no line %s in: %s", label, buf_cstr(&b));
	else
		snprintf(line, sizeof(line), "%.*s", (int)strcspn(at, "\n"), at);
	buf_release(&b);
	return line;
}

static void test_status_colors_say_the_verdict(void **state)
{
	struct status_facts *f = healthy();
	struct status_view v;
	struct buf b = BUF_INIT;
	status_judge(f, &v);
	status_print_sentence(&v, true, &b);
	assert_memory_equal(buf_cstr(&b), "\033[32mHealthy: ", 14);
	assert_non_null(strstr(buf_cstr(&b), ".\033[0m\n"));
	assert_non_null(strstr(line_of(f, true, "  state"), "\033[32mlive\033[0m: what "));
	assert_string_equal(line_of(f, false, "  state"),
			    "  state      live: what the core commits is in the warehouse a moment "
			    "later");
	snprintf(f->role[STATUS_APPLY].f.state, sizeof(f->role[0].f.state), "catching_up");
	assert_non_null(strstr(line_of(f, true, "  state"), "\033[33mcatching up\033[0m"));
	f = healthy();
	f->role[STATUS_APPLY].f.value[MET_QUARANTINE_ENTITIES] = 2;
	assert_non_null(strstr(line_of(f, true, "  state"), "\033[33mparked\033[0m"));
	assert_string_equal(line_of(f, true, "  note"),
			    "  note       \033[33m2 entities wait in quarantine (rolag quarantine "
			    "list)\033[0m");
	f->role[STATUS_APPLY].life = LIFE_STUCK;
	assert_non_null(strstr(line_of(f, true, "  state"), "\033[31mstalled\033[0m"));
	assert_non_null(strstr(line_of(f, true, "  apply"), "\033[31mstuck\033[0m"));
	/* Well, by the state's name, and yet a person must act. */
	f = healthy();
	f->role[STATUS_APPLY].f.value[MET_APPLY_HEARTBEAT_US] = (uint64_t)(NOW + 3600 * SECOND);
	f->beating = true;
	status_judge(f, &v);
	assert_int_equal(status_ink(&v), TERM_BAD);
	buf_release(&b);
}

/* Messages of servers may hold anything. */
static void test_status_shows_no_escape_of_a_note(void **state)
{
	struct status_facts *f = healthy();
	struct status_view v;
	struct buf b = BUF_INIT;
	f->role[STATUS_APPLY].f.value[MET_APPLY_CONNECTED] = 0;
	set_note(&f->role[STATUS_APPLY].f, "said: \033[2J\r\n\abye");
	status_judge(f, &v);
	status_print_sentence(&v, false, &b);
	assert_non_null(strstr(buf_cstr(&b), "said:  [2J   bye\n"));
	buf_clear(&b);
	status_print_table(f, &v, NULL, false, &b);
	assert_non_null(strstr(buf_cstr(&b), "12 s ago: said:  [2J   bye\n"));
	buf_release(&b);
}

static void test_status_states_fit_a_line_of_80(void **state)
{
	for (int i = 0; i < STATUS_STATE_COUNT; i++) {
		const enum status_state s = (enum status_state)i;
		const struct status_view v = {.state = s};
		struct status_facts *f = healthy();
		struct buf b = BUF_INIT;
		status_print_table(f, &v, NULL, false, &b);
		assert_true(strcspn(buf_cstr(&b), "\n") <= 80);
		assert_memory_equal(buf_cstr(&b), "  state      ", STATUS_TEXT_COLUMN);
		buf_release(&b);
	}
}

/* Behind all of the others. */
static void test_status_every_state_was_reached(void **state)
{
	for (int i = 0; i < STATUS_STATE_COUNT; i++)
		if (!reached[i])
			fail_msg("no test comes to %s", status_state_name((enum status_state)i));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cli_takes_options_before_and_behind_the_command),
		cmocka_unit_test(test_cli_help_and_version_need_nothing_else),
		cmocka_unit_test(test_cli_errors_name_what_was_meant),
		cmocka_unit_test(test_trap_25_status_says_when_the_slot_is_lost),
		cmocka_unit_test(test_trap_53_status_says_that_a_table_lost_its_identity),
		cmocka_unit_test(test_status_live),
		cmocka_unit_test(test_trap_31_idle_is_not_lag),
		cmocka_unit_test(test_trap_31_dead_is_not_idle),
		cmocka_unit_test(test_status_behind_but_moving_is_catching_up),
		cmocka_unit_test(test_status_connections),
		cmocka_unit_test(test_status_space),
		cmocka_unit_test(test_status_syncing_and_starting),
		cmocka_unit_test(test_status_parked),
		cmocka_unit_test(test_status_stopped),
		cmocka_unit_test(test_status_clocks_that_differ_are_no_lag),
		cmocka_unit_test(test_status_names_the_runbooks_part),
		cmocka_unit_test(test_status_of_the_companion),
		cmocka_unit_test(test_status_life_of_a_role),
		cmocka_unit_test(test_status_units),
		cmocka_unit_test(test_status_rates_come_from_differences),
		cmocka_unit_test(test_status_json_escapes),
		cmocka_unit_test(test_status_colors_say_the_verdict),
		cmocka_unit_test(test_status_shows_no_escape_of_a_note),
		cmocka_unit_test(test_status_states_fit_a_line_of_80),
		cmocka_unit_test(test_status_every_state_was_reached),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
