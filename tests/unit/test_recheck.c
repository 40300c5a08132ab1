/* test_recheck: what comes again is what was there, or the core was set back (trap 50). */
#include "tests/unit/spool_data.h"

#include "cdc/capture/recheck.h"

static struct rt_err err;

static struct lsn at(uint64_t v)
{
	return (struct lsn){v};
}

/* The n-th transaction ends at 100 n and has xid n. */
static struct spool_memory transaction(uint32_t n)
{
	return (struct spool_memory){
		.since = at(100 * (n - 1)), .end = at(100 * n), .xid = n, .commit_us = 1000 + n};
}

static void expect_to(struct recheck *r, uint32_t from, uint32_t to)
{
	for (uint32_t n = from; n <= to; n++) {
		const struct spool_memory m = transaction(n);
		recheck_expect(r, &m);
	}
}

static void expect_position(struct recheck *r, uint64_t since, uint64_t to)
{
	const struct spool_memory m = {.since = at(since), .end = at(to)};
	recheck_expect(r, &m);
}

static int commit(struct recheck *r, uint32_t n)
{
	return recheck_commit(r, at(100 * n), n, 1000 + n, &err);
}

static void assert_set_back(int rc)
{
	assert_int_equal(rc, ERR_PERMANENT);
	assert_says(err, "was set back");
	assert_says(err, "mend");
}

static void test_the_same_again_and_then_anything(void **state)
{
	struct recheck r = {0};
	expect_to(&r, 1, 3);
	expect_position(&r, 300, 350);
	for (uint32_t n = 1; n <= 3; n++) {
		assert_rc(recheck_idle(&r, at(100 * n - 1), &err), err);
		assert_rc(commit(&r, n), err);
		assert_rc(recheck_idle(&r, at(100 * n), &err), err);
	}
	assert_int_equal(r.next, 3);
	assert_rc(recheck_commit(&r, at(351), 77, 1, &err), err);
	assert_null(r.item); /* all came, nothing is kept */
	assert_rc(recheck_commit(&r, at(352), 78, 1, &err), err);
	assert_rc(recheck_idle(&r, at(999), &err), err);
}

static void test_trap_50_what_was_not_there_or_is_not_there_any_more(void **state)
{
	static const struct {
		uint64_t end;
		uint32_t xid;
		int64_t commit_us;
	} others[] = {
		{200, 2, 1003},	  /* another time */
		{200, 3, 1002},	  /* another transaction */
		{199, 2, 1002},	  /* between two */
		{201, 2, 1002},	  /* past it */
		{1000, 20, 1020}, /* past all */
	};
	for (size_t i = 0; i < ARRAY_LEN(others); i++) {
		struct recheck r = {0};
		expect_to(&r, 1, 3);
		assert_rc(commit(&r, 1), err);
		for (int again = 0; again < 2; again++)
			assert_set_back(recheck_commit(&r, at(others[i].end), others[i].xid,
						       others[i].commit_us, &err));
		recheck_release(&r);
	}
	struct recheck r = {0};
	expect_to(&r, 1, 1);
	assert_rc(recheck_idle(&r, at(99), &err), err);
	assert_set_back(recheck_idle(&r, at(100), &err)); /* it would have been sent */
	recheck_release(&r);
}

static void test_trap_50_where_nothing_was(void **state)
{
	struct recheck r = {0};
	expect_position(&r, 100, 300);
	assert_rc(recheck_commit(&r, at(100), 5, 1, &err),
		  err); /* not known what was up to there */
	assert_set_back(recheck_commit(&r, at(101), 6, 1, &err));
	assert_set_back(recheck_commit(&r, at(300), 6, 1, &err));
	assert_rc(recheck_idle(&r, at(300), &err), err);
	assert_rc(recheck_commit(&r, at(301), 6, 1, &err), err);
	assert_null(r.item);
}

static void test_what_is_not_known_is_not_missed(void **state)
{
	struct recheck r = {0};
	struct spool_memory alone = transaction(5);
	alone.since = alone.end; /* others before it may be forgotten */
	recheck_expect(&r, &alone);
	assert_rc(commit(&r, 2), err);
	assert_rc(recheck_commit(&r, at(450), 44, 1, &err), err);
	assert_set_back(recheck_commit(&r, at(500), 44, 1, &err));
	assert_rc(commit(&r, 5), err);
	assert_null(r.item);
}

static void test_a_reconnect_has_the_last_one_come_again(void **state)
{
	const struct spool_memory had = transaction(5), none = {0};
	struct recheck r = {0};
	recheck_again(&r, &had, at(460), at(530));
	assert_rc(recheck_commit(&r, at(490), 9, 1, &err), err); /* held already, not kept again */
	assert_rc(commit(&r, 5), err);
	assert_set_back(recheck_commit(&r, at(520), 6, 1, &err));
	assert_rc(commit(&r, 6), err);
	assert_null(r.item);
	/* It breaks off before that, and the next one begins with the same; what was expected before still is. */
	expect_to(&r, 5, 8);
	assert_rc(commit(&r, 5), err);
	for (int i = 0; i < 3; i++)
		recheck_again(&r, &had, at(460), at(500));
	assert_rc(commit(&r, 5), err);
	assert_set_back(commit(&r, 7));
	recheck_release(&r);
	/* The core knows itself that it was there: nothing is to be compared … */
	recheck_again(&r, &had, at(500), at(500));
	assert_null(r.item);
	/* … but for what was not there. */
	recheck_again(&r, &none, at(500), at(530));
	assert_set_back(recheck_commit(&r, at(520), 6, 1, &err));
	recheck_release(&r);
}

static void test_the_slot_is_told_only_what_came_again(void **state)
{
	struct recheck r = {0};
	expect_to(&r, 1, 2);
	recheck_connected(&r, at(10));
	assert_int_equal(recheck_confirm(&r, at(900)).v, 10);
	assert_int_equal(recheck_confirm(&r, at(5)).v, 5);
	assert_rc(commit(&r, 1), err);
	assert_int_equal(recheck_confirm(&r, at(900)).v, 100);
	assert_rc(commit(&r, 2), err);
	assert_int_equal(recheck_confirm(&r, at(900)).v, 900);
}

static void test_many_are_remembered_by_the_first_and_the_last(void **state)
{
	static struct spool_memory m[RECHECK_MEMORY];
	static const uint32_t few = 5, many = 5000;
	struct recheck r = {0}, s = {0};
	assert_int_equal(recheck_memory(&r, m), 0);
	expect_to(&r, 1, few);
	expect_position(&r, 100 * few, 100 * few + 1);
	assert_int_equal(recheck_memory(&r, m), few + 1);
	assert_memory_equal(m, r.item, (few + 1) * sizeof(*m));
	recheck_release(&r);
	for (uint32_t n = RECHECK_MEMORY - 5; n <= RECHECK_MEMORY + 5; n++) {
		expect_to(&r, 1, n);
		assert_int_equal(recheck_memory(&r, m), RT_MIN((size_t)n, RECHECK_MEMORY));
		assert_int_equal(m[RT_MIN((size_t)n, RECHECK_MEMORY) - 1].end.v, 100 * n);
		recheck_release(&r);
	}
	expect_to(&r, 1, many);
	expect_position(&r, 100 * many, 100 * many + 1);
	const size_t count = recheck_memory(&r, m);
	assert_int_equal(count, RECHECK_MEMORY);
	assert_int_equal(m[count - 1].xid, 0);
	assert_int_equal(m[count - 2].xid, many);
	for (size_t i = 0; i < count; i++)
		recheck_expect(&s, &m[i]);
	for (uint32_t n = 1; n <= many;
	     n++) /* those between are not missed, nor taken for others */
		assert_rc(commit(&s, n), err);
	assert_set_back(recheck_commit(&s, at(100 * many + 1), many + 1, 1, &err));
	recheck_release(&r);
	recheck_release(&s);
}

static void test_memory_is_bounded(void **state)
{
	struct recheck r = {0};
	for (uint32_t n = 1; n <= RECHECK_MAX + 10; n++) {
		const struct spool_memory m = {
			.since = at(n - 1), .end = at(n), .xid = n, .commit_us = n};
		recheck_expect(&r, &m);
	}
	expect_position(&r, RECHECK_MAX + 10, RECHECK_MAX + 20);
	assert_int_equal(r.count, RECHECK_MAX + 1);
	for (uint32_t n = 1; n <= RECHECK_MAX + 9; n++)
		assert_rc(recheck_commit(&r, at(n), n, n, &err), err);
	assert_set_back(recheck_commit(&r, at(RECHECK_MAX + 11), 1, 1, &err));
	recheck_release(&r);
}

/* ---- the spool's memory ---- */

static char *dir;
static struct recheck recalled;
static struct spool_memory before; /* the last transaction at or before confirmed */
static uint64_t confirmed_at, recalled_to;

static int setup(void **state)
{
	dir = data_mkdir();
	return 0;
}

static int teardown(void **state)
{
	recheck_release(&recalled);
	data_rmdir(dir);
	return 0;
}

static void take(void *ctx, const struct spool_memory *m)
{
	recalled_to = m->end.v;
	if (m->end.v > confirmed_at)
		recheck_expect(&recalled, m);
	else if (m->xid != 0)
		before = *m;
}

/* What a start would find, with confirmed as the slot has it. */
static size_t recall(uint64_t confirmed, uint64_t asked)
{
	recheck_release(&recalled);
	before = (struct spool_memory){0};
	recalled_to = 0;
	confirmed_at = confirmed;
	assert_rc(spool_recall(dir, &data_identity, asked, at(confirmed), take, NULL, &err), err);
	return recalled.count;
}

static struct spool_writer *open_at(uint64_t confirmed)
{
	static struct spool_memory m[RECHECK_MEMORY + 1];
	struct spool_options o = {.segment_bytes = 1500,
				  .quota_bytes = 1 << 30,
				  .frame_bytes = 300,
				  .asked = 7,
				  .memory = m};
	struct spool_writer *w;
	recall(confirmed, 7);
	if (before.xid != 0)
		m[o.memory_count++] = before;
	o.memory_count += recheck_memory(&recalled, m + o.memory_count);
	assert_rc(spool_writer_open(&w, dir, &data_identity, &o, at(confirmed), &err), err);
	return w;
}

static void write_to(struct spool_writer *w, uint64_t from, uint64_t to)
{
	for (uint64_t end = from; end <= to; end += 16) {
		data_transaction(w, end, end % 64 == 0 ? 9 : 1);
		assert_rc(spool_write(w, &err), err);
	}
}

/* All that ends in [from, to], each once and in order. */
static void assert_recalled(uint64_t from, uint64_t to)
{
	size_t i = 0;
	for (uint64_t end = from; end <= to; end += 16, i++) {
		assert_true(i < recalled.count);
		const struct spool_memory *m = &recalled.item[i];
		assert_int_equal(m->end.v, end);
		assert_int_equal(m->xid, end);
		assert_int_equal(m->commit_us, data_begin(end - 8, 0).commit_us);
		if (i > 0)
			assert_int_equal(m->since.v, end - 16);
	}
}

static void test_a_spool_remembers_through_cuts(void **state)
{
	struct spool_writer *w = open_at(0x100);
	write_to(w, 0x110, 0x500);
	data_append(w, data_progress(0x508));
	assert_rc(spool_write(w, &err), err);
	spool_writer_close(w);
	assert_int_equal(recall(0x200, 7), (0x500 - 0x200) / 16 + 1);
	assert_recalled(0x210, 0x500);
	assert_int_equal(recalled.item[recalled.count - 1].xid, 0);
	assert_int_equal(recalled_to, 0x508);
	assert_int_equal(before.end.v, 0x200);
	/* Cut, and cut again before it has all come: nothing is forgotten. */
	for (uint64_t have = 0x200; have <= 0x500; have += 0x100) {
		w = open_at(0x200);
		assert_int_equal(recalled.count, (0x500 - 0x200) / 16 + 1);
		assert_recalled(0x210, 0x500);
		assert_int_equal(recalled_to, 0x508);
		write_to(w, 0x210, have);
		spool_writer_close(w);
	}
	/* All came again, and more: that is all that there is. */
	w = open_at(0x200);
	write_to(w, 0x210, 0x600);
	spool_writer_close(w);
	assert_int_equal(recall(0x400, 7), (0x600 - 0x400) / 16);
	assert_recalled(0x410, 0x600);
}

static void test_a_spool_remembers_what_it_let_go_of(void **state)
{
	struct spool_writer *w = open_at(0x100);
	write_to(w, 0x110, 0x500);
	for (int i = 0; i < 3; i++) {
		assert_rc(spool_sync(w, &err), err);
		assert_rc(spool_trim(w, at(0x500), &err), err);
		spool_writer_close(w);
		w = open_at(0x500);
	}
	spool_writer_close(w);
	assert_int_equal(recall(0x200, 7),
			 1); /* a slot that is far behind: but of the last, all is forgotten */
	assert_int_equal(recalled.item[0].end.v, 0x500);
	assert_int_equal(recalled.item[0].since.v, 0x4f0);
	assert_int_equal(recalled.item[0].xid, 0x500);
}

static void test_a_spool_recalls_only_what_can_be_compared(void **state)
{
	struct spool_identity other = data_identity;
	assert_int_equal(recall(0x100, 7), 0); /* no spool */
	struct spool_writer *w = open_at(0x100);
	write_to(w, 0x110, 0x300);
	spool_writer_close(w);
	assert_int_equal(recall(0x100, 8), 0); /* other publications were asked for */
	assert_int_equal(recalled_to, 0);
	other.timeline++;
	assert_rc(spool_recall(dir, &other, 7, at(0x100), take, NULL, &err), err);
	assert_int_equal(recalled_to, 0);
	assert_int_equal(recall(0x300, 7), 0); /* the slot has all */
	assert_int_equal(before.end.v, 0x300);
}

int main(void)
{
	data_setup();
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_same_again_and_then_anything),
		cmocka_unit_test(test_trap_50_what_was_not_there_or_is_not_there_any_more),
		cmocka_unit_test(test_trap_50_where_nothing_was),
		cmocka_unit_test(test_what_is_not_known_is_not_missed),
		cmocka_unit_test(test_a_reconnect_has_the_last_one_come_again),
		cmocka_unit_test(test_the_slot_is_told_only_what_came_again),
		cmocka_unit_test(test_many_are_remembered_by_the_first_and_the_last),
		cmocka_unit_test(test_memory_is_bounded),
		cmocka_unit_test_setup_teardown(test_a_spool_remembers_through_cuts, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_spool_remembers_what_it_let_go_of, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_spool_recalls_only_what_can_be_compared,
						setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
