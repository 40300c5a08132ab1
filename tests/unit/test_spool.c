/* The spool end to end: what the writer appends is what a reader gets. */
#include "tests/unit/spool_data.h"

static struct spool_writer *open_writer(const char *dir, uint64_t confirmed,
					const struct spool_options *options)
{
	struct spool_writer *w;
	struct rt_err err;
	assert_rc(spool_writer_open(&w, dir, &data_identity, options, data_lsn(confirmed), &err),
		  err);
	return w;
}

static struct spool_reader *open_reader(const char *dir, uint64_t from)
{
	struct spool_reader *r;
	struct rt_err err;
	assert_rc(spool_reader_open(&r, dir, data_lsn(from), 1 << 20, &data_identity, &err), err);
	return r;
}

static void expect(struct spool_reader *r, struct arena *a, struct change want)
{
	struct change got;
	struct rt_err err;
	int rc = spool_reader_next(r, a, &got, &err);
	assert_rc(rc, err);
	assert_int_equal(rc, 1);
	assert_true(data_change_equal(&got, &want));
}

static void expect_nothing(struct spool_reader *r, struct arena *a)
{
	struct change got;
	struct rt_err err;
	int rc = spool_reader_next(r, a, &got, &err);
	assert_rc(rc, err);
	assert_int_equal(rc, 0);
}

static void test_every_kind_of_change_comes_back_equal(void **state)
{
	char *dir = data_mkdir();
	struct rt_err err;
	struct arena a;
	arena_init(&a, 64 << 10);
	struct spool_writer *w = open_writer(dir, 0x100, &data_options);
	struct value v[5];
	struct value old[2] = {data_value(VALUE_TEXT, "7", 1), data_value(VALUE_NULL, NULL, 0)};
	struct value new[2] = {data_value(VALUE_TEXT, "", 0), data_value(VALUE_UNCHANGED, NULL, 0)};
	const struct schema *both[] = {&data_plain, &data_events};
	const struct change all[] = {
		data_begin(0x200, 77),
		data_event(v, 0x180, "{\"a\": \"\xC3\xA9\"}"),
		{.kind = CHANGE_UPDATE,
		 .lsn = {0x190},
		 .schema = &data_plain,
		 .old_kind = 'O',
		 .old_row = {2, old},
		 .new_row = {2, new}},
		{.kind = CHANGE_UPDATE, .lsn = {0x190}, .schema = &data_plain, .new_row = {2, new}},
		{.kind = CHANGE_DELETE,
		 .lsn = {0x191},
		 .schema = &data_plain,
		 .old_kind = 'K',
		 .old_row = {2, old}},
		{.kind = CHANGE_TRUNCATE,
		 .lsn = {0x192},
		 .truncate_flags = TRUNCATE_CASCADE | TRUNCATE_RESTART_IDENTITY,
		 .truncated_count = 2,
		 .truncated = both},
		{.kind = CHANGE_MESSAGE,
		 .lsn = {0x193},
		 .transactional = true,
		 .prefix = "rolag.heartbeat",
		 .content = slice_of("a\0b", 3)},
		data_commit(0x200, 0x230),
		data_progress(0x240),
		{.kind = CHANGE_MESSAGE,
		 .lsn = {0x250},
		 .prefix = "alone",
		 .content = slice_of("x", 1)},
		data_begin(0x300, 78),
		data_commit(0x300, 0x330),
	};
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		data_append(w, all[i]);
	assert_rc(spool_sync(w, &err), err);
	assert_int_equal(spool_received(w).v, 0x330);
	assert_int_equal(spool_durable(w).v, 0x330);

	struct spool_reader *r = open_reader(dir, 0x100);
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		expect(r, &a, all[i]);
	expect_nothing(r, &a);
	assert_int_equal(spool_reader_position(r).v, 0x330);
	spool_reader_close(r);
	spool_writer_close(w);
	arena_release(&a);
	data_rmdir(dir);
}

static void test_a_reader_follows_a_writer(void **state)
{
	char *dir = data_mkdir();
	struct rt_err err;
	struct arena a;
	arena_init(&a, 64 << 10);
	char *sub = rt_sprintf("%s/spool", dir);
	struct spool_reader *r = open_reader(sub, 0x100); /* before the directory is there */
	expect_nothing(r, &a);
	struct spool_writer *w = open_writer(sub, 0x100, &data_options);
	expect_nothing(r, &a);
	for (uint64_t end = 0x200; end < 0x300; end += 0x10) {
		data_transaction(w, end, 1);
		expect_nothing(r, &a); /* appended, not written */
		assert_rc(spool_write(w, &err), err);
		expect(r, &a, data_begin(end - 8, (uint32_t)end));
		struct change c;
		assert_int_equal(spool_reader_next(r, &a, &c, &err), 1);
		expect(r, &a, data_commit(end - 8, end));
		expect_nothing(r, &a);
		assert_int_equal(spool_reader_position(r).v, end);
		arena_reset(&a);
	}
	spool_reader_close(r);
	spool_writer_close(w);
	data_rmdir(sub);
	arena_release(&a);
	data_rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_kind_of_change_comes_back_equal),
		cmocka_unit_test(test_a_reader_follows_a_writer),
	};
	data_setup();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
