/* test_progress: what the slot may be told, example by example and under random events. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cdc/capture/progress.h"
#include "proto/spool.h"

/* Stands before libc's: a disk that fails when told to. */
static bool sync_fails;
int fdatasync(int fd)
{
	if (sync_fails) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_fdatasync, fd);
}

#define at(n)		      ((struct lsn){n})
#define assert_lsn(is, value) assert_int_equal((is).v, (value))

static const struct prog_options applied_mode = {
	.wal_budget_bytes = 1000,
	.frame_interval_us = 100,
};
static const struct prog_options spooled_mode = {
	.confirm_spooled = true,
	.wal_budget_bytes = 1000,
	.frame_interval_us = 100,
};

/* A whole transaction that ends at end. */
static bool transaction(struct prog *p, uint64_t end)
{
	prog_begin(p);
	return prog_commit(p, at(end));
}

static void synced(struct prog *p)
{
	prog_received(p, p->appended);
	prog_durable(p, p->received);
}

static void test_trap_01_only_the_commits_end_counts(void **state)
{
	struct prog p;
	prog_init(&p, &applied_mode, at(100));
	prog_begin(&p); /* its BEGIN may carry any LSN: it is not even asked for */
	assert_lsn(p.appended, 100);
	assert_true(prog_commit(&p, at(140)));
	assert_lsn(p.appended, 140);
	/* A transaction that began earlier in the WAL but ends later is new. */
	assert_true(transaction(&p, 150));
	/* One that is sent again is known by its end, and moves nothing. */
	assert_false(transaction(&p, 140));
	assert_false(transaction(&p, 150));
	assert_lsn(p.appended, 150);
}

static void test_trap_01_neighbours_that_share_an_lsn_are_two_transactions(void **state)
{
	/* Commit records that touch: the first ends at 150, where the second's commit record starts. */
	struct prog p;
	prog_init(&p, &applied_mode, at(100));
	assert_true(transaction(&p, 150));
	synced(&p);
	prog_applied(&p, at(150));
	assert_lsn(prog_feedback(&p).flush, 150);
	/* The connection breaks between them; we resume at 150 and the second comes. */
	prog_disconnected(&p);
	assert_lsn(p.appended, 150);
	prog_begin(&p);
	assert_true(prog_commit(&p, at(180)));
	assert_lsn(p.appended, 180);
}

static void test_trap_01_a_broken_transaction_moves_nothing(void **state)
{
	struct prog p;
	prog_init(&p, &applied_mode, at(100));
	assert_true(transaction(&p, 150));
	prog_begin(&p);
	prog_disconnected(&p);
	assert_lsn(p.appended, 150);
	assert_true(transaction(&p, 200));
}

static void test_trap_02_keepalive_inside_a_transaction_confirms_nothing(void **state)
{
	struct prog p;
	struct lsn frame;
	prog_init(&p, &spooled_mode, at(100));
	prog_begin(&p);
	prog_keepalive(&p, at(500), true);
	assert_false(prog_frame_due(&p, INT64_MAX - 1, &frame));
	assert_int_equal(prog_frame_at(&p), INT64_MAX);
	synced(&p);
	assert_lsn(prog_feedback(&p).flush, 100);
	assert_lsn(prog_feedback(&p).write, 100);
	/* Nor does it count later, when the transaction is through: it did not speak of it. */
	assert_true(prog_commit(&p, at(400)));
	assert_false(prog_frame_due(&p, INT64_MAX - 1, &frame));
}

static void test_trap_02_keepalive_confirms_only_once_durable(void **state)
{
	struct prog p;
	struct lsn frame;
	prog_init(&p, &spooled_mode, at(100));
	assert_true(transaction(&p, 150));
	prog_keepalive(&p, at(500), false);
	assert_true(prog_frame_due(&p, 0, &frame));
	assert_lsn(frame, 500);
	prog_frame_appended(&p, frame, 0);
	assert_lsn(prog_feedback(&p).flush, 100);
	prog_received(&p, at(500));
	assert_lsn(prog_feedback(&p).flush, 100);
	prog_durable(&p, at(500));
	assert_lsn(prog_feedback(&p).flush, 500);
}

static void test_trap_02_an_idle_core_still_moves_the_slot(void **state)
{
	struct prog p;
	struct lsn frame;
	prog_init(&p, &applied_mode, at(100));
	for (uint64_t i = 1; i <= 10; i++) {
		prog_keepalive(&p, at(100 + 10 * i), false);
		assert_true(prog_frame_due(&p, (int64_t)i * 100, &frame));
		prog_frame_appended(&p, frame, (int64_t)i * 100);
		synced(&p);
		prog_applied(&p, frame); /* apply moves its ledger to progress frames */
		assert_lsn(prog_feedback(&p).flush, 100 + 10 * i);
	}
}

static void test_trap_02_a_transaction_without_rows_is_like_a_keepalive(void **state)
{
	struct prog p;
	struct lsn frame;
	prog_init(&p, &applied_mode, at(100));
	prog_begin(&p);
	prog_commit_empty(&p, at(160));
	assert_true(prog_frame_due(&p, 0, &frame));
	assert_lsn(frame, 160);
}

static void test_progress_frames_are_paced_unless_the_core_waits(void **state)
{
	struct prog p;
	struct lsn frame;
	prog_init(&p, &applied_mode, at(100));
	prog_keepalive(&p, at(110), false);
	assert_true(prog_frame_due(&p, 1000, &frame));
	prog_frame_appended(&p, frame, 1000);
	assert_false(prog_frame_due(&p, 5000, &frame)); /* nothing new */
	prog_keepalive(&p, at(120), false);
	assert_int_equal(prog_frame_at(&p), 1100);
	assert_false(prog_frame_due(&p, 1099, &frame));
	assert_true(prog_frame_due(&p, 1100, &frame));
	prog_keepalive(&p, at(130), true);
	assert_true(prog_frame_due(&p, 1001, &frame));
	assert_lsn(frame, 130);
	/* A commit that passes it makes it needless. */
	assert_true(transaction(&p, 131));
	assert_false(prog_frame_due(&p, 5000, &frame));
}

static void test_applied_mode_confirms_what_the_warehouse_holds(void **state)
{
	struct prog p;
	prog_init(&p, &applied_mode, at(100));
	assert_true(transaction(&p, 200));
	assert_true(transaction(&p, 300));
	synced(&p);
	assert_lsn(prog_feedback(&p).flush, 100);
	prog_applied(&p, at(200));
	assert_lsn(prog_feedback(&p).flush, 200);
	assert_lsn(prog_feedback(&p).apply, 200);
	prog_applied(&p, at(150)); /* an old word changes nothing */
	assert_lsn(prog_feedback(&p).flush, 200);
	/* Applied before it was synced here: confirmed waits for the sync. */
	assert_true(transaction(&p, 400));
	prog_received(&p, at(400));
	prog_applied(&p, at(400));
	assert_lsn(prog_feedback(&p).flush, 300);
	prog_durable(&p, at(400));
	assert_lsn(prog_feedback(&p).flush, 400);
}

static void test_apply_ahead_after_a_restart_is_never_reported_ahead(void **state)
{
	struct prog p;
	prog_init(&p, &applied_mode, at(100));
	prog_applied(&p, at(900)); /* from before our restart, which cut the spool back to 100 */
	assert_lsn(prog_feedback(&p).flush, 100);
	assert_lsn(prog_feedback(&p).apply, 100);
	assert_true(transaction(&p, 500));
	synced(&p);
	assert_lsn(prog_feedback(&p).flush, 500);
}

static void test_trap_25_past_the_budget_the_spool_is_confirmed(void **state)
{
	struct prog p;
	prog_init(&p, &applied_mode, at(1000));
	assert_true(transaction(&p, 1900));
	synced(&p);
	assert_false(p.spilling);
	prog_current(&p, at(2000));
	assert_false(p.spilling); /* exactly the budget */
	prog_current(&p, at(2001));
	assert_true(p.spilling);
	assert_lsn(prog_feedback(&p).flush, 1900);
	/* Apply catches up: within half of the budget it is waited for again. */
	prog_applied(&p, at(1500));
	assert_true(p.spilling);
	prog_applied(&p, at(1501));
	assert_false(p.spilling);
	assert_lsn(prog_feedback(&p).flush, 1900); /* never back */
	assert_true(transaction(&p, 2100));
	synced(&p);
	assert_lsn(prog_feedback(&p).flush, 1900);
	prog_applied(&p, at(2100));
	assert_lsn(prog_feedback(&p).flush, 2100);
}

static void test_spooled_mode_confirms_what_is_durable(void **state)
{
	struct prog p;
	prog_init(&p, &spooled_mode, at(100));
	assert_true(transaction(&p, 200));
	prog_received(&p, at(200));
	assert_lsn(prog_feedback(&p).flush, 100);
	prog_durable(&p, at(200));
	assert_lsn(prog_feedback(&p).flush, 200);
	assert_lsn(prog_feedback(&p).apply, 0);
}

/* A transaction with one message, into the spool. */
static void spool_transaction(struct spool_writer *w, struct prog *p, uint64_t end)
{
	struct rt_err err;
	const struct change begin = {.kind = CHANGE_BEGIN, .lsn = at(end - 10), .xid = 7};
	const struct change message = {
		.kind = CHANGE_MESSAGE,
		.lsn = at(end - 20),
		.transactional = true,
		.prefix = "rolag.fence",
		.content = slice_str("1"),
	};
	const struct change commit = {.kind = CHANGE_COMMIT, .lsn = at(end)};
	prog_begin(p);
	assert_rc(spool_append(w, &begin, &err), err);
	assert_rc(spool_append(w, &message, &err), err);
	assert_true(prog_commit(p, at(end)));
	assert_rc(spool_append(w, &commit, &err), err);
	assert_rc(spool_write(w, &err), err);
	prog_received(p, spool_received(w));
}

static void test_trap_03_confirmed_only_after_a_sync_that_returned_0(void **state)
{
	char dir[] = "/tmp/test_progress.XXXXXX", command[64];
	struct rt_err err = {0};
	struct spool_writer *w;
	struct prog p;
	const struct spool_identity id = {1, 1, "p", "s"};
	const struct spool_options o = {
		.segment_bytes = 1 << 20, .quota_bytes = 1 << 30, .frame_bytes = 1 << 16};
	assert_non_null(mkdtemp(dir));
	assert_rc(spool_writer_open(&w, dir, &id, &o, at(100), &err), err);
	prog_init(&p, &spooled_mode, at(100));
	spool_transaction(w, &p, 200);
	assert_lsn(prog_feedback(&p).write, 200);
	assert_lsn(prog_feedback(&p).flush, 100); /* written is not durable */
	prog_durable(&p, spool_durable(w));
	assert_lsn(prog_feedback(&p).flush, 100);
	assert_rc(spool_sync(w, &err), err);
	prog_durable(&p, spool_durable(w));
	assert_lsn(prog_feedback(&p).flush, 200);
	spool_transaction(w, &p, 300);
	sync_fails = true;
	assert_int_equal(spool_sync(w, &err), ERR_SYSTEM);
	prog_durable(&p, spool_durable(w));
	assert_lsn(prog_feedback(&p).flush, 200);
	sync_fails =
		false; /* the kernel may have dropped the pages: success now would prove nothing */
	assert_int_equal(spool_sync(w, &err), ERR_SYSTEM);
	prog_durable(&p, spool_durable(w));
	assert_lsn(prog_feedback(&p).flush, 200);
	spool_writer_close(w);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	assert_int_equal(system(command), 0);
}

static void test_trap_04_another_core_or_slot_is_refused(void **state)
{
	struct rt_err err = {0};
	const struct prog_core was = {
		.system_id = 7, .timeline = 1, .confirmed = at(100), .flushed = at(900)};
	struct prog_core now = was;
	assert_int_equal(prog_same_core(&was, &now, at(500), &err), 0);
	now.confirmed = at(500);
	assert_int_equal(prog_same_core(&was, &now, at(500), &err), 0);
	now.confirmed = at(501);
	assert_int_equal(prog_same_core(&was, &now, at(500), &err), ERR_PERMANENT);
	assert_says(err, "recreated");
	now = was;
	now.system_id = 8;
	assert_int_equal(prog_same_core(&was, &now, at(500), &err), ERR_PERMANENT);
	assert_says(err, "another system");
	now = was;
	now.timeline = 2;
	assert_int_equal(prog_same_core(&was, &now, at(500), &err), ERR_PERMANENT);
	assert_says(err, "timeline 2");
}

static void test_trap_50_a_core_set_back_is_refused(void **state)
{
	struct rt_err err = {0};
	const struct prog_core was = {
		.system_id = 7, .timeline = 1, .confirmed = at(100), .flushed = at(900)};
	struct prog_core now = was;
	now.flushed = at(500);
	assert_int_equal(prog_same_core(&was, &now, at(500), &err), 0);
	now.flushed = at(499);
	assert_int_equal(prog_same_core(&was, &now, at(500), &err), ERR_PERMANENT);
	assert_says(err, "set back");
}

/* ---- the property: random events against a model that knows which rows are where ---- */

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

struct model {
	uint64_t wal;	   /* the core's end */
	uint64_t sent;	   /* the core has sent everything that ends up to here */
	uint64_t appended; /* what the spool was given, wrote, and synced */
	uint64_t written;
	uint64_t synced;
	uint64_t warehouse;
	uint64_t told; /* the greatest flush position reported */
};

static void step(struct prog *p, struct model *m, uint64_t *seed, int64_t now_us)
{
	struct lsn frame;
	switch (next_random(seed) % 10) {
	case 0:
		m->wal += next_random(seed) % 300;
		break;
	case 1:
	case 2:
		if (!p->open && m->wal > m->sent + 1)
			prog_begin(p);
		break;
	case 3: /* the transaction ends somewhere behind all that was sent, or is one sent again */
		if (!p->open)
			break;
		if (next_random(seed) % 8 == 0) {
			assert_false(prog_commit(p, at(p->appended.v - next_random(seed) % 3)));
			break;
		}
		m->sent += 1 + next_random(seed) % (m->wal - m->sent);
		if (next_random(seed) % 4 == 0) {
			prog_commit_empty(p, at(m->sent));
		} else {
			assert_true(prog_commit(p, at(m->sent)));
			m->appended = m->sent;
		}
		break;
	case 4: /* in a transaction the core may say anything up to its end of WAL */
		if (p->open) {
			prog_keepalive(p, at(m->wal), next_random(seed) % 2 == 0);
		} else {
			m->sent += next_random(seed) % (m->wal - m->sent + 1);
			prog_keepalive(p, at(m->sent), next_random(seed) % 2 == 0);
		}
		break;
	case 5:
		if (prog_frame_due(p, now_us, &frame)) {
			assert_true(frame.v <= m->sent && frame.v > m->appended);
			prog_frame_appended(p, frame, now_us);
			m->appended = frame.v;
		}
		break;
	case 6:
		m->written = m->appended;
		prog_received(p, at(m->written));
		break;
	case 7:
		m->synced = m->written;
		prog_durable(p, at(m->synced));
		break;
	case 8: /* apply reads what is written, synced or not */
		m->warehouse += next_random(seed) % (m->written - m->warehouse + 1);
		prog_applied(p, at(m->warehouse));
		break;
	case 9:
		if (next_random(seed) % 5 == 0) { /* resume behind the last whole transaction */
			prog_disconnected(p);
			m->sent = m->appended;
		} else {
			prog_current(p, at(m->wal));
		}
		break;
	}
}

static void run(const struct prog_options *o, uint64_t seed)
{
	struct prog p;
	struct model m = {1000, 1000, 1000, 1000, 1000, 1000, 1000};
	prog_init(&p, o, at(1000));
	bool ever_spilled = false;
	for (int64_t now = 0; now < 20000; now += 10) {
		step(&p, &m, &seed, now);
		struct prog_feedback f = prog_feedback(&p);
		ever_spilled |= p.spilling;
		assert_true(f.flush.v >= m.told);
		m.told = f.flush.v;
		assert_true(f.flush.v <= m.synced);
		assert_true(f.write.v == m.written);
		assert_true(f.apply.v <= f.write.v);
		assert_true(p.appended.v == m.appended);
		if (!o->confirm_spooled && !ever_spilled)
			assert_true(f.flush.v <= RT_MAX(m.warehouse, 1000));
	}
	/* When all is quiet, the core is told its present: nothing pins WAL. */
	struct lsn frame;
	if (p.open)
		prog_disconnected(&p);
	m.wal += 1;
	prog_keepalive(&p, at(m.wal), true);
	assert_true(prog_frame_due(&p, 30000, &frame));
	prog_frame_appended(&p, frame, 30000);
	synced(&p);
	prog_applied(&p, at(m.wal));
	assert_lsn(prog_feedback(&p).flush, m.wal);
}

static void test_random_events_never_confirm_what_is_not_safe(void **state)
{
	for (uint64_t seed = 1; seed <= 200; seed++) {
		run(&applied_mode, seed * 7919);
		run(&spooled_mode, seed * 104729);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_trap_01_only_the_commits_end_counts),
		cmocka_unit_test(test_trap_01_neighbours_that_share_an_lsn_are_two_transactions),
		cmocka_unit_test(test_trap_01_a_broken_transaction_moves_nothing),
		cmocka_unit_test(test_trap_02_keepalive_inside_a_transaction_confirms_nothing),
		cmocka_unit_test(test_trap_02_keepalive_confirms_only_once_durable),
		cmocka_unit_test(test_trap_02_an_idle_core_still_moves_the_slot),
		cmocka_unit_test(test_trap_02_a_transaction_without_rows_is_like_a_keepalive),
		cmocka_unit_test(test_progress_frames_are_paced_unless_the_core_waits),
		cmocka_unit_test(test_applied_mode_confirms_what_the_warehouse_holds),
		cmocka_unit_test(test_apply_ahead_after_a_restart_is_never_reported_ahead),
		cmocka_unit_test(test_trap_25_past_the_budget_the_spool_is_confirmed),
		cmocka_unit_test(test_spooled_mode_confirms_what_is_durable),
		cmocka_unit_test(test_trap_03_confirmed_only_after_a_sync_that_returned_0),
		cmocka_unit_test(test_trap_04_another_core_or_slot_is_refused),
		cmocka_unit_test(test_trap_50_a_core_set_back_is_refused),
		cmocka_unit_test(test_random_events_never_confirm_what_is_not_safe),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
