/*
 * sim: the schedule, the faults, the invariants, and the smallest schedule
 * that still fails. The same seed, steps and faults give the same run.
 */
#include "tests/sim/sim.h"

#include <inttypes.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include "apply/stream/landed.h"

#define DRAIN_ROUNDS 20000

const char *const fault_names[FAULT_COUNT] = {
	[FAULT_CAPTURE_KILL] = "capture-kill",
	[FAULT_APPLY_KILL] = "apply-kill",
	[FAULT_MACHINE] = "machine",
	[FAULT_TORN] = "torn",
	[FAULT_CORE] = "core",
	[FAULT_WAREHOUSE] = "warehouse",
	[FAULT_CORE_LINK] = "core-link",
	[FAULT_WAREHOUSE_LINK] = "warehouse-link",
	[FAULT_WRITE] = "write",
	[FAULT_SYNC] = "sync",
	[FAULT_READ] = "read",
	[FAULT_CLOCK] = "clock",
	[FAULT_SECOND] = "second",
	[FAULT_ZOMBIE] = "zombie",
};

struct run {
	uint64_t seed;
	uint32_t steps;	  /* 0: as the seed says */
	uint32_t without; /* bits of faults */
};

struct sim_config sim_config;
struct lsn ever_received;
struct landed sim_landed[ROLLUPS];

static uint32_t faults;	 /* that may happen in this schedule */
static bool healing;	 /* the end: none happens any more */
static uint32_t ends;	 /* of processes, while healing */
static bool set_back;	 /* the core, at the end */
static uint32_t notices; /* of that, by capture */
static bool up[PROCESS_COUNT], stopping[PROCESS_COUNT];
static uint32_t step_now;
static struct run now_running;

bool fault_on(enum fault f)
{
	return !healing && (faults >> f & 1) != 0;
}

/* ---- a process's turn ---- */

struct turn {
	enum process p;
	bool spurious;
	int rc;
	struct rt_err err;
};

static void do_start(void *ctx)
{
	struct turn *t = ctx;
	t->rc = t->p == PROCESS_CAPTURE ? capture_start(&t->err) : apply_start(t->p, &t->err);
}

static void do_turn(void *ctx)
{
	struct turn *t = ctx;
	t->rc = t->p == PROCESS_CAPTURE ? capture_turn(t->spurious, &t->err)
					: apply_turn(t->p, t->spurious, &t->err);
}

static void do_end(void *ctx)
{
	struct turn *t = ctx;
	if (t->p == PROCESS_CAPTURE)
		capture_end();
	else
		apply_end(t->p);
}

static void buried(enum process p)
{
	if (!up[p])
		return;
	up[p] = stopping[p] = false;
	process_bury(p);
	if (p == PROCESS_CAPTURE)
		capture_buried();
	else
		apply_buried(p);
}

static void machine_crash(void)
{
	sim_say("the machine loses power");
	for (int p = PROCESS_CAPTURE; p < PROCESS_COUNT; p++)
		buried((enum process)p);
	disk_crash();
	disk_dump();
}

static void check_capture(bool whole_turn)
{
	const struct capture_view v = capture_view();
	if (!v.has_spool)
		return;
	ever_received = lsn_max(ever_received, whole_turn ? v.received : v.appended);
	SIM_ASSERT(lsn_le(v.confirmed, v.durable) && lsn_le(v.durable, v.received) &&
			   lsn_le(v.received, v.appended),
		   "confirmed " LSN_FMT " durable " LSN_FMT " received " LSN_FMT,
		   LSN_ARGS(v.confirmed), LSN_ARGS(v.durable), LSN_ARGS(v.received));
	SIM_ASSERT(lsn_le(v.appended, core_current()), "received more than the core has");
	bool spooled = sim_config.settings[PROCESS_CAPTURE].capture.confirm == CONFIRM_SPOOLED;
	struct lsn most = lsn_max(v.floor, warehouse_applied_flushed());
	SIM_ASSERT(spooled || v.spilling || lsn_le(v.confirmed, most),
		   "confirmed " LSN_FMT " is ahead of what the warehouse has on disk, " LSN_FMT,
		   LSN_ARGS(v.confirmed), LSN_ARGS(most));
}

/* Is this an end for good that the schedule asked for? */
static bool is_expected(enum process p, const struct rt_err *err)
{
	if (p == PROCESS_CAPTURE && set_back && strstr(err->msg, "was set back") != NULL) {
		notices++;
		return true;
	}
	if (p == PROCESS_CAPTURE || (faults >> FAULT_SECOND & 1) == 0)
		return false;
	/* Who lost the fence without knowing may find that the spool was let go of meanwhile. */
	return strstr(err->msg, "another applier has taken over") != NULL ||
	       (warehouse_owner() != p && strstr(err->msg, "spool") != NULL);
}

static void end_process(enum process p)
{
	struct turn t = {.p = p};
	run_as(p, do_end, &t);
	up[p] = stopping[p] = false;
	SIM_ASSERT(process_bytes(p) == 0, "process %d ended and left %zu bytes", (int)p,
		   process_bytes(p));
	process_bury(p);
}

/* What came of letting p run. */
static void after_run(struct turn *t, enum run_end end)
{
	if (t->p == PROCESS_CAPTURE)
		check_capture(end == RUN_DONE && t->rc == 0);
	if (end != RUN_DONE) {
		buried(t->p);
		if (end == RUN_MACHINE_DIED)
			machine_crash();
		return;
	}
	if (t->rc < 0) {
		sim_say("process %d ends: %s", (int)t->p, t->err.msg);
		bool expected = is_expected(t->p, &t->err);
		SIM_ASSERT(t->err.code != ERR_PERMANENT || expected,
			   "process %d stops for good: %s", (int)t->p, t->err.msg);
		/* What a fault left behind may end it once more, not again and again. */
		SIM_ASSERT(!healing || expected || ++ends <= 4,
			   "process %d ends without a fault: %s", (int)t->p, t->err.msg);
	}
	bool done = t->p == PROCESS_CAPTURE ? capture_is_done() : apply_is_done(t->p);
	if (t->rc < 0 || (stopping[t->p] && done))
		end_process(t->p);
}

/* One in a while, somewhere within the turn. */
static void arm(enum process p)
{
	bool own = fault_on(p == PROCESS_CAPTURE ? FAULT_CAPTURE_KILL : FAULT_APPLY_KILL);
	bool machine = fault_on(FAULT_MACHINE) && rng_one_in(RNG_SCHEDULE, 3);
	if (rng_one_in(RNG_SCHEDULE, 40) && (own || machine))
		kill_at_call(rng_range(RNG_SCHEDULE, 1, rng_one_in(RNG_SCHEDULE, 2) ? 6 : 40),
			     machine);
}

static void let_run(enum process p, bool spurious)
{
	struct turn t = {.p = p, .spurious = spurious};
	if (!healing)
		arm(p);
	if (!up[p]) {
		up[p] = true;
		sim_say("process %d starts", (int)p);
		after_run(&t, run_as(p, do_start, &t));
	} else {
		after_run(&t, run_as(p, do_turn, &t));
	}
}

static void ask_stop(enum process p)
{
	if (!up[p] || stopping[p])
		return;
	sim_say("process %d is asked to end", (int)p);
	stopping[p] = true;
	if (p == PROCESS_CAPTURE)
		capture_ask_stop();
	else
		apply_ask_stop(p);
}

/* ---- faults ---- */

static void do_fault(void)
{
	enum fault f = (enum fault)rng_below(RNG_SCHEDULE, FAULT_COUNT);
	uint32_t n = rng_range(RNG_SCHEDULE, 1, 8);
	uint32_t jump = rng_below(RNG_SCHEDULE, 2000000000);
	for (int i = 0; i < 4 && !fault_on(f); i++)
		f = (enum fault)rng_below(RNG_SCHEDULE, FAULT_COUNT);
	if (!fault_on(f))
		return;
	sim_say("fault: %s", fault_names[f]);
	switch (f) {
	case FAULT_CAPTURE_KILL:
		buried(PROCESS_CAPTURE);
		return;
	case FAULT_APPLY_KILL:
		buried(n % 4 == 0 ? PROCESS_APPLY2 : PROCESS_APPLY);
		return;
	case FAULT_MACHINE:
		machine_crash();
		return;
	case FAULT_CORE:
		link_break();
		core_crash();
		core_is_down = n % 2 == 0;
		return;
	case FAULT_WAREHOUSE:
		warehouse_crash();
		warehouse_is_down = n % 2 == 0;
		return;
	case FAULT_CORE_LINK:
		link_break();
		return;
	case FAULT_WAREHOUSE_LINK:
		warehouse_link_break();
		return;
	case FAULT_WRITE:
		if (n % 4 == 0)
			disk_faults.full = !disk_faults.full;
		else
			disk_faults.write_in = n;
		return;
	case FAULT_SYNC:
		disk_faults.sync_in = n;
		return;
	case FAULT_READ:
		disk_faults.read_in = 5 * n;
		return;
	case FAULT_CLOCK:
		sim_clock.wall_us += (int64_t)jump * (n % 2 == 0 ? -10 : 10);
		return;
	case FAULT_SECOND:
		if (!up[PROCESS_APPLY2])
			let_run(PROCESS_APPLY2, true);
		return;
	case FAULT_TORN:
	case FAULT_ZOMBIE:
	case FAULT_COUNT:
		return;
	}
}

/* ---- a schedule ---- */

static uint64_t pick(uint64_t a, uint64_t b, uint64_t c)
{
	uint32_t n = rng_below(RNG_CONFIG, 3);
	return n == 0 ? a : n == 1 ? b : c;
}

static void configure(uint32_t without)
{
	struct settings s = {.pipeline = "sim"};
	s.state_dir = "/sim/capture";
	s.core.slot = "rolag_sim";
	s.warehouse.schema = "raw";
	s.capture.confirm = (int)pick(CONFIRM_APPLIED, CONFIRM_APPLIED, CONFIRM_SPOOLED);
	s.capture.wal_budget = pick(4096, 65536, UINT64_C(1) << 30);
	s.capture.sync_interval = (int64_t)pick(0, 10000, 200000);
	s.spool.dir = SIM_SPOOL;
	s.spool.segment_size = pick(2048, 8192, 65536);
	s.spool.quota = pick(16384, 65536, UINT64_C(1) << 30);
	s.spool.reserve = 1 << 20;
	s.spool.retain = (int64_t)pick(0, 0, 60000000);
	s.apply.batch_rows = (int64_t)pick(2, 10, 1000);
	s.apply.batch_bytes = pick(600, 8192, 1 << 20);
	s.apply.cache = pick(0, 2000, 1 << 20);
	for (int p = 0; p < PROCESS_COUNT; p++)
		sim_config.settings[p] = s;
	sim_config.settings[PROCESS_APPLY].state_dir = "/sim/apply";
	sim_config.settings[PROCESS_APPLY2].state_dir = "/sim/apply2";
	sim_config.frame_bytes = pick(100, 1000, 1 << 18);
	sim_config.copy_rows = (uint32_t)pick(1, 5, 1000);
	sim_config.binary = rng_one_in(RNG_CONFIG, 2);
	/* Each schedule has some kinds of faults, few have all. */
	uint32_t few = (uint32_t)rng_next(RNG_CONFIG) & (uint32_t)rng_next(RNG_CONFIG);
	uint32_t many = (uint32_t)rng_next(RNG_CONFIG) | few;
	faults = (rng_one_in(RNG_CONFIG, 3) ? few : many) & ((1u << FAULT_COUNT) - 1) & ~without;
}

static void act(void)
{
	uint32_t n = rng_below(RNG_SCHEDULE, 100);
	uint32_t some = rng_range(RNG_SCHEDULE, 1, 12);
	bool spurious = rng_one_in(RNG_SCHEDULE, 8);
	clock_forward(rng_one_in(RNG_SCHEDULE, 12) ? rng_range(RNG_SCHEDULE, 50000, 1500000)
						   : rng_range(RNG_SCHEDULE, 0, 20000));
	if (n < 18) {
		core_act();
	} else if (n < 30) {
		link_send(some);
	} else if (n < 36) {
		struct lsn before = core_confirmed();
		link_hear(some);
		/* What was just confirmed must be somewhere. */
		if (rng_one_in(RNG_SCHEDULE, 12) && lsn_lt(before, core_confirmed()) &&
		    fault_on(FAULT_MACHINE))
			machine_crash();
	} else if (n < 57) {
		let_run(PROCESS_CAPTURE, spurious);
	} else if (n < 76) {
		let_run(PROCESS_APPLY, spurious);
	} else if (n < 79) {
		if (up[PROCESS_APPLY2])
			let_run(PROCESS_APPLY2, spurious);
	} else if (n < 89) {
		warehouse_act(some);
	} else if (n < 92) {
		warehouse_flush();
	} else if (n < 93) {
		core_persist();
	} else if (n < 94) {
		capture_facts();
	} else if (n < 95) {
		core_is_down = warehouse_is_down = false;
		disk_faults.full &= !rng_one_in(RNG_SCHEDULE, 2);
	} else if (n < 96) {
		if (rng_one_in(RNG_SCHEDULE, 4))
			ask_stop(some % 3 == 0 ? PROCESS_CAPTURE : PROCESS_APPLY);
	} else {
		do_fault();
	}
}

static bool is_drained(void)
{
	return lsn_le(core_current(), warehouse_applied_flushed()) &&
	       lsn_le(core_current(), core_confirmed()) && up[PROCESS_CAPTURE] && up[PROCESS_APPLY];
}

/* Nobody is ready: on to the next deadline. */
static void wait_for_deadline(void)
{
	bool a, b;
	int64_t at = RT_MIN(capture_deadline(&a), apply_deadline(PROCESS_APPLY, &b));
	if (!a && !b && at > sim_clock.mono_us)
		clock_forward(at == LOOP_NEVER ? 1000000 : at - sim_clock.mono_us);
}

static void drain(void)
{
	uint32_t rounds = 0;
	for (; rounds < DRAIN_ROUNDS && !is_drained(); rounds++) {
		link_send(64);
		let_run(PROCESS_CAPTURE, false);
		let_run(PROCESS_APPLY, false);
		link_hear(64);
		warehouse_act(64);
		warehouse_flush();
		if (up[PROCESS_CAPTURE] && up[PROCESS_APPLY])
			wait_for_deadline();
	}
	SIM_ASSERT(rounds < DRAIN_ROUNDS,
		   "it does not come to rest: the core is at " LSN_FMT ", applied " LSN_FMT
		   ", confirmed " LSN_FMT,
		   LSN_ARGS(core_current()), LSN_ARGS(warehouse_applied()),
		   LSN_ARGS(core_confirmed()));
}

/* One in a few ends so. What shows it is in the spool: it must not have been lost with the machine, or with its pages. */
static bool is_set_back(void)
{
	const uint32_t loses = 1u << FAULT_MACHINE | 1u << FAULT_SYNC | 1u << FAULT_READ;
	const struct capture_view v = capture_view();
	if (!rng_one_in(RNG_CONFIG, 4) || !v.has_spool || (faults & loses) != 0)
		return false;
	link_break(); /* what was told arrived before, or never does */
	return core_set_back(v.received);
}

/* Capture must notice, whether it was running or not; and again when it is started again. */
static void end_set_back(void)
{
	uint32_t rounds = 0;
	if (rng_one_in(RNG_CONFIG, 2))
		buried(PROCESS_CAPTURE);
	for (; rounds < DRAIN_ROUNDS && notices < 2; rounds++) {
		link_send(64);
		let_run(PROCESS_CAPTURE, false);
		let_run(PROCESS_APPLY, false);
		link_hear(64);
		warehouse_act(64);
		warehouse_flush();
		if (up[PROCESS_CAPTURE] && up[PROCESS_APPLY])
			wait_for_deadline();
	}
	SIM_ASSERT(notices == 2, "the core was set back, and nobody noticed");
	for (int p = PROCESS_CAPTURE; p < PROCESS_COUNT; p++)
		buried((enum process)p);
}

/* Faults end; everything must get where it belongs. */
static void heal(void)
{
	healing = true;
	disk_faults = (struct disk_faults){0};
	core_is_down = warehouse_is_down = false;
	buried(PROCESS_APPLY2);
	if ((set_back = is_set_back())) {
		end_set_back();
		return;
	}
	warehouse_settle();
	core_settle();
	drain();
	warehouse_compare();
	sim_clock.wall_us += INT64_C(1000000000000); /* past what a clock that went back retains */
	for (int i = 0; i < 6; i++) {		     /* trims once a second */
		clock_forward(1100000);
		let_run(PROCESS_CAPTURE, true);
		let_run(PROCESS_APPLY, true);
		warehouse_act(64);
	}
	SIM_ASSERT(disk_segments() <= 2, "%u segments stay in the spool", disk_segments());
	for (int p = PROCESS_CAPTURE; p <= PROCESS_APPLY; p++)
		ask_stop((enum process)p);
	for (int i = 0; i < 200 && (up[PROCESS_CAPTURE] || up[PROCESS_APPLY]); i++) {
		for (int p = PROCESS_CAPTURE; p <= PROCESS_APPLY; p++)
			if (up[p])
				let_run((enum process)p, true);
		warehouse_act(64);
	}
	SIM_ASSERT(!up[PROCESS_CAPTURE] && !up[PROCESS_APPLY], "asked to end, a process goes on");
}

/* True: it held. */
static bool run(const struct run *r)
{
	now_running = *r;
	step_now = ends = notices = 0;
	set_back = false;
	heap_end();
	rng_seed(r->seed);
	healing = false;
	memset(up, 0, sizeof(up));
	memset(stopping, 0, sizeof(stopping));
	sim_clock = (struct sim_clock){.mono_us = 1000000, .wall_us = INT64_C(1760000000000000)};
	configure(r->without);
	core_begin();
	ever_received = core_current();
	disk_begin();
	link_begin();
	warehouse_begin();
	uint32_t steps = rng_range(RNG_CONFIG, 50, 600);
	if (r->steps != 0)
		steps = r->steps;
	if (setjmp(sim_out) != 0) {
		running = PROCESS_NONE;
		return false;
	}
	for (step_now = 1; step_now <= steps; step_now++)
		act();
	heal();
	return true;
}

/* ---- the smallest that fails ---- */

static void shorten(struct run *r)
{
	for (uint32_t cut = r->steps / 2; cut > 0;) {
		struct run t = *r;
		t.steps = r->steps - cut;
		if (t.steps > 0 && !run(&t)) {
			r->steps = RT_MIN(t.steps, step_now);
			cut = RT_MIN(cut, r->steps / 2);
		} else {
			cut /= 2;
		}
	}
}

static void minimise(struct run *r)
{
	r->steps = step_now; /* it failed there, or behind them all */
	if (run(r))
		return;
	shorten(r);
	for (int f = 0; f < FAULT_COUNT; f++) {
		struct run t = *r;
		t.without |= 1u << f;
		if (!run(&t))
			*r = t;
	}
	shorten(r);
	run(r);
}

static void report(const struct run *found)
{
	char first[sizeof(sim_failure)];
	struct run r = *found;
	snprintf(first, sizeof(first), "%s", sim_failure);
	fprintf(stderr, "seed %" PRIu64 " fails at step %u: %s\n", r.seed, step_now, first);
	minimise(&r);
	fprintf(stderr,
		"smallest: build/asan/tests/sim/sim --seed %" PRIu64 " --steps %u --without ",
		r.seed, r.steps);
	const char *comma = "";
	for (int f = 0; f < FAULT_COUNT; f++)
		if ((r.without >> f & 1) != 0) {
			fprintf(stderr, "%s%s", comma, fault_names[f]);
			comma = ",";
		}
	fprintf(stderr, "%s --verbose\n  there: %s\n", *comma == '\0' ? "none" : "", sim_failure);
}

/* ---- main ---- */

static void died(int sig)
{
	static char text[160];
	int n = snprintf(text, sizeof(text), "\nsignal %d in seed %" PRIu64 ", step %u\n", sig,
			 now_running.seed, step_now);
	if (write(2, text, (size_t)n) < 0) {
		/* nothing to be done */
	}
	signal(sig, SIG_DFL);
	raise(sig);
}

static void load_definitions(void)
{
	static struct arena arena;
	static const char *const name[ROLLUPS] = {"accounts", "orders"};
	arena_init(&arena, 65536);
	for (int i = 0; i < ROLLUPS; i++) {
		struct rollup *r;
		struct rt_err err;
		if (rollup_parse(&arena, name[i], rollup_text[i], strlen(rollup_text[i]), &r,
				 &err) != 0) {
			fprintf(stderr, "%s\n", err.msg);
			exit(2);
		}
		rollup_set_policies(r, POLICY_FAIL, POLICY_WARN, POLICY_FAIL);
		sim_landed[i] = (struct landed){
			.rollup = r,
			.history = arena_printf(&arena, "\"raw\".\"%s\"", name[i]),
			.latest = arena_printf(&arena, "\"raw\".\"%s_latest\"", name[i]),
			.state = LANDED_LIVE,
		};
	}
}

static uint32_t faults_of(const char *list)
{
	uint32_t bits = 0;
	for (int f = 0; f < FAULT_COUNT; f++) {
		const char *at = strstr(list, fault_names[f]);
		size_t n = strlen(fault_names[f]);
		for (; at != NULL; at = strstr(at + 1, fault_names[f]))
			if ((at == list || at[-1] == ',') && (at[n] == ',' || at[n] <= ' '))
				bits |= 1u << f;
	}
	return bits;
}

/* Lines "SEED STEPS WITHOUT what it was"; # begins a comment. */
static int run_file(const char *path)
{
	char line[512], without[200];
	int done = 0;
	FILE *f = fopen(path, "r");
	if (f == NULL) {
		perror(path);
		return 2;
	}
	while (fgets(line, sizeof(line), f) != NULL) {
		struct run r = {0};
		if (line[0] == '#' || line[0] == '\n')
			continue;
		if (sscanf(line, "%" SCNu64 " %u %199s", &r.seed, &r.steps, without) != 3) {
			fprintf(stderr, "%s: not a seed: %s", path, line);
			return 2;
		}
		r.without = faults_of(without);
		done++;
		if (!run(&r)) {
			report(&r);
			return 1;
		}
	}
	fclose(f);
	printf("%d kept seeds held\n", done);
	return 0;
}

static int64_t real_us(void)
{
	struct timeval tv;
	gettimeofday(&tv, NULL);
	return (int64_t)tv.tv_sec * 1000000 + tv.tv_usec;
}

/* Seeds from … to, or until the time is up; goes on behind failures when they are counted. */
static int run_many(uint64_t from, uint64_t to, int64_t seconds, bool count)
{
	int64_t begun = real_us();
	uint64_t done = 0, failed = 0;
	for (uint64_t seed = from; seed <= to; seed++) {
		struct run r = {.seed = seed};
		if (seconds > 0 && real_us() - begun > seconds * 1000000)
			break;
		done++;
		if (run(&r))
			continue;
		failed++;
		if (count && failed > 1)
			continue;
		report(&r);
		if (!count)
			return 1;
	}
	double took = (double)(real_us() - begun) / 1e6;
	printf("%" PRIu64 " schedules from seed %" PRIu64 " in %.1f s (%.0f a minute), %" PRIu64
	       " failed\n",
	       done, from, took, (double)done / took * 60, failed);
	return failed > 0;
}

static int usage(void)
{
	fputs("sim --seed N [--steps S] [--without FAULT,…] [--verbose]\n"
	      "sim --seeds FROM..TO [--count]   --count: all of them, and how many failed\n"
	      "sim --seconds S                  from a random seed\n"
	      "sim --file SEEDS                 those that failed once\n",
	      stderr);
	return 2;
}

int main(int argc, char **argv)
{
	struct run one = {0};
	uint64_t from = 0, to = 0;
	int64_t seconds = 0;
	bool count = false;
	const char *file = NULL;
	for (int i = 1; i < argc; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : "";
		if (strcmp(argv[i], "--verbose") == 0)
			sim_verbose = true;
		else if (strcmp(argv[i], "--count") == 0)
			count = true;
		else if (++i >= argc)
			return usage();
		else if (strcmp(argv[i - 1], "--seed") == 0)
			from = to = one.seed = strtoull(value, NULL, 10);
		else if (strcmp(argv[i - 1], "--steps") == 0)
			one.steps = (uint32_t)strtoul(value, NULL, 10);
		else if (strcmp(argv[i - 1], "--without") == 0)
			one.without = faults_of(value);
		else if (strcmp(argv[i - 1], "--seconds") == 0)
			seconds = strtoll(value, NULL, 10);
		else if (strcmp(argv[i - 1], "--file") == 0)
			file = value;
		else if (strcmp(argv[i - 1], "--seeds") != 0 ||
			 sscanf(value, "%" SCNu64 "..%" SCNu64, &from, &to) != 2)
			return usage();
	}
	signal(SIGSEGV, died);
	signal(SIGABRT, died);
	load_definitions();
	atexit(disk_end);
	if (file != NULL)
		return run_file(file);
	if (one.seed != 0) {
		if (run(&one)) {
			printf("seed %" PRIu64 " held\n", one.seed);
			return 0;
		}
		if (sim_verbose)
			fprintf(stderr, "step %u: %s\n", step_now, sim_failure);
		else
			report(&one);
		return 1;
	}
	if (seconds > 0)
		return run_many((uint64_t)real_us(), UINT64_MAX, seconds, count);
	return to >= from && to > 0 ? run_many(from, to, 0, count) : usage();
}
