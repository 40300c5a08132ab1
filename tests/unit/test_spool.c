/* The spool end to end: what the writer appends is what a reader gets, after any cut, damage or restart. */
#include "tests/unit/spool_data.h"

#include <errno.h>
#include <libaio.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#include "proto/base/fsio.h"
#include "proto/spool_internal.h"

/* None: closing a writer need not wait for the kernel. test_spool_forged has syncs that do not wait. */
int io_setup(int max, io_context_t *ret)
{
	return -ENOSYS;
}

/* Syncing is test_spool_disk's matter; here it would only take time. */
int fdatasync(int fd)
{
	return 0;
}

int fsync(int fd)
{
	return 0;
}

/* Small frames and segments: three segments in 2 kB. */
static const struct spool_options small = {
	.segment_bytes = 700, .quota_bytes = 1 << 30, .frame_bytes = 150, .retain_us = 0};

static char *dir;
static struct arena arena;
static struct rt_err err;

static int setup(void **state)
{
	dir = data_mkdir();
	arena_init(&arena, 64 << 10);
	return 0;
}

static int teardown(void **state)
{
	data_rmdir(dir);
	arena_release(&arena);
	return 0;
}

static struct spool_writer *open_writer(uint64_t confirmed, const struct spool_options *options)
{
	struct spool_writer *w;
	assert_rc(spool_writer_open(&w, dir, &data_identity, options, data_lsn(confirmed), &err),
		  err);
	return w;
}

static struct spool_reader *open_reader(uint64_t from)
{
	struct spool_reader *r;
	assert_rc(spool_reader_open(&r, dir, data_lsn(from), 200, &data_identity, &err), err);
	return r;
}

static void write_transactions(struct spool_writer *w, uint64_t first, uint64_t last, unsigned rows)
{
	for (uint64_t end = first; end <= last; end += 0x10) {
		data_transaction(w, end, rows);
		assert_rc(spool_sync(w, &err), err);
	}
}

static void expect(struct spool_reader *r, struct change want)
{
	struct change got;
	int rc = spool_reader_next(r, &arena, &got, &err);
	assert_rc(rc, err);
	assert_int_equal(rc, 1);
	assert_true(data_change_equal(&got, &want));
}

static void expect_nothing(struct spool_reader *r)
{
	struct change got;
	int rc = spool_reader_next(r, &arena, &got, &err);
	assert_rc(rc, err);
	assert_int_equal(rc, 0);
}

/* The transaction of data_transaction, whole. */
static void expect_transaction(struct spool_reader *r, uint64_t end, unsigned rows)
{
	struct value v[5];
	char text[64];
	expect(r, data_begin(end - 8, (uint32_t)end));
	for (unsigned i = 0; i < rows; i++) {
		snprintf(text, sizeof(text), "{\"end\": %llu, \"row\": %u}",
			 (unsigned long long)end, i);
		expect(r, data_event(v, end - 9, text));
	}
	expect(r, data_commit(end - 8, end));
	assert_int_equal(spool_reader_position(r).v, end);
}

static void expect_gap(struct spool_reader *r, uint64_t from, uint64_t to)
{
	struct change got;
	int rc = spool_reader_next(r, &arena, &got, &err);
	assert_rc(rc, err);
	assert_int_equal(rc, 1);
	assert_int_equal(got.kind, CHANGE_GAP);
	assert_int_equal(got.gap_from.v, from);
	assert_int_equal(got.lsn.v, to);
	assert_int_equal(spool_reader_position(r).v, to);
}

static void expect_error(struct spool_reader *r, const char *says)
{
	struct change got;
	assert_int_equal(spool_reader_next(r, &arena, &got, &err), ERR_PERMANENT);
	assert_says(err, says);
}

/* Reads all there is: transactions of data_transaction, whole, each end greater than the last. Returns the result. */
static int read_all(struct spool_reader *r, uint64_t *ret_last, unsigned *ret_count)
{
	struct change c;
	int rc;
	bool inside = false;
	unsigned rows = 0;
	*ret_count = 0;
	arena_reset(&arena);
	while ((rc = spool_reader_next(r, &arena, &c, &err)) == 1) {
		switch (c.kind) {
		case CHANGE_BEGIN:
			assert_false(inside);
			inside = true;
			rows = 0;
			break;
		case CHANGE_INSERT: {
			char text[64];
			snprintf(text, sizeof(text), "\"row\": %u}", rows++);
			const struct value *v = &c.new_row.value[3];
			assert_true(v->len > strlen(text));
			assert_memory_equal(v->p + v->len - strlen(text), text, strlen(text));
			break;
		}
		case CHANGE_COMMIT:
			assert_true(inside);
			assert_true(c.lsn.v > *ret_last);
			assert_int_equal(rows, 1 + c.lsn.v / 0x10 % 7);
			*ret_last = c.lsn.v;
			*ret_count += 1;
			inside = false;
			break;
		case CHANGE_UPDATE:
		case CHANGE_DELETE:
		case CHANGE_TRUNCATE:
		case CHANGE_MESSAGE:
		case CHANGE_PROGRESS:
		case CHANGE_GAP:
			fail();
		}
	}
	assert_false(inside);
	return rc;
}

/* Transactions first … last, of 1 to 7 rows: whole ones and ones in pieces. */
static void write_mixed(struct spool_writer *w, uint64_t first, uint64_t last)
{
	for (uint64_t end = first; end <= last; end += 0x10) {
		data_transaction(w, end, (unsigned)(1 + end / 0x10 % 7));
		if (end / 0x10 % 2 == 0)
			assert_rc(spool_sync(w, &err), err);
	}
	assert_rc(spool_sync(w, &err), err);
}

static char *path_of(const struct segment_entry *e)
{
	char name[SPOOL_NAME_BYTES];
	segment_name(name, e->generation, e->start);
	return rt_sprintf("%s/%s", dir, name);
}

struct file {
	char *path;
	uint8_t *p;
	size_t len;
};

/* The segments' bytes, to be put back. */
static size_t load(struct file *files, size_t max)
{
	struct segment_list list = {0};
	assert_rc(segment_list_read(&list, dir, &err), err);
	assert_true(list.count <= max);
	for (size_t i = 0; i < list.count; i++) {
		char *text;
		files[i].path = path_of(&list.entry[i]);
		assert_rc(fs_read_file(files[i].path, 1 << 20, &text, &files[i].len, &err), err);
		files[i].p = (uint8_t *)text;
	}
	size_t n = list.count;
	segment_list_release(&list);
	return n;
}

static void store(const struct file *f, size_t len)
{
	int fd = open(f->path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_rc(fs_write_all(fd, f->p, len, f->path, &err), err);
	close(fd);
}

static void unload(struct file *files, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(files[i].path);
		free(files[i].p);
	}
}

static size_t first_frame_bytes(const struct file *f)
{
	struct frame frame;
	size_t need;
	assert_int_equal(frame_decode(slice_of(f->p, f->len), 0, &frame, &need), FRAME_VALID);
	return frame.bytes;
}

/* ---- tests ---- */

static void test_every_kind_of_change_comes_back_equal(void **state)
{
	struct spool_writer *w = open_writer(0x100, &data_options);
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
	assert_int_equal(spool_received(w).v, 0x100);
	assert_rc(spool_write(w, &err), err);
	assert_int_equal(spool_received(w).v, 0x330);
	assert_int_equal(spool_durable(w).v, 0x100);
	assert_rc(spool_sync(w, &err), err);
	assert_int_equal(spool_durable(w).v, 0x330);

	struct spool_reader *r = open_reader(0x100);
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		expect(r, all[i]);
	expect_nothing(r);
	assert_int_equal(spool_reader_position(r).v, 0x330);
	spool_reader_close(r);

	/* From within: the message stands after 0x240, the last transaction too. */
	r = open_reader(0x240);
	expect(r, all[9]);
	expect(r, all[10]);
	expect(r, all[11]);
	spool_reader_close(r);
	spool_writer_close(w);
}

static void test_a_reader_follows_a_writer(void **state)
{
	struct spool_writer *w;
	char *sub = rt_sprintf("%s/spool", dir);
	char *own = dir;
	dir = sub;
	struct spool_reader *r = open_reader(0x100); /* before the directory is there */
	expect_nothing(r);
	w = open_writer(0x100, &small);
	expect_nothing(r);
	for (uint64_t end = 0x200; end < 0x400; end += 0x10) { /* over several segments */
		unsigned rows = (unsigned)(end / 0x10 % 5);
		data_transaction(w, end, rows);
		if (rows < 2) /* small enough to be still in memory */
			expect_nothing(r);
		assert_rc(spool_write(w, &err), err);
		expect_transaction(r, end, rows);
		expect_nothing(r);
		arena_reset(&arena);
	}
	spool_reader_close(r);
	spool_writer_close(w);
	data_empty_dir(sub);
	rmdir(sub);
	free(sub);
	dir = own;
}

static void test_descriptor_wakes_for_data_and_new_segments_only(void **state)
{
	struct applied_file *f;
	struct spool_writer *w = open_writer(0x100, &small);
	struct spool_reader *r = open_reader(0x100);
	assert_true(spool_reader_fd(r) >= 0);
	expect_nothing(r);
	for (uint64_t end = 0x200; end < 0x300; end += 0x10) {
		data_transaction(w, end, 1);
		assert_rc(spool_write(w, &err), err);
		struct pollfd p = {.fd = spool_reader_fd(r), .events = POLLIN};
		assert_int_equal(poll(&p, 1, 0), 1);
		expect_transaction(r, end, 1);
		expect_nothing(r);
		assert_int_equal(poll(&p, 1, 0), 0);
	}
	/* apply's own writes do not wake it. */
	assert_rc(applied_open(&f, dir, &err), err);
	assert_rc(applied_write(f, &(struct applied_position){{1}, 1, 1, {0}}, &err), err);
	struct pollfd p = {.fd = spool_reader_fd(r), .events = POLLIN};
	assert_int_equal(poll(&p, 1, 0), 0);
	applied_close(f);
	spool_reader_close(r);
	spool_writer_close(w);
}

static void test_transaction_in_pieces_is_seen_with_its_commit_only(void **state)
{
	struct spool_writer *w = open_writer(0x100, &small);
	struct spool_reader *r = open_reader(0x100);
	struct value v[5];
	char text[64];
	data_append(w, data_begin(0x200 - 8, 0x200));
	for (unsigned i = 0; i < 40; i++) {
		snprintf(text, sizeof(text), "{\"end\": %u, \"row\": %u}", 0x200, i);
		data_append(w, data_event(v, 0x200 - 9, text));
		assert_rc(spool_write(w, &err), err);
		expect_nothing(r);
		assert_int_equal(spool_received(w).v, 0x100);
	}
	assert_true(spool_bytes(w) > 1000); /* but it is in the file */
	data_append(w, data_commit(0x200 - 8, 0x200));
	assert_rc(spool_write(w, &err), err);
	expect_transaction(r, 0x200, 40);
	assert_true(spool_reader_transaction_bytes(r) > 40 * 60);
	expect_nothing(r);
	spool_reader_close(r);
	spool_writer_close(w);
}

static void test_aborted_transaction_leaves_nothing(void **state)
{
	struct spool_writer *w = open_writer(0x100, &small);
	struct spool_reader *r = open_reader(0x100);
	struct value v[5];
	for (unsigned rows = 0; rows < 20; rows += 5) {
		data_append(w, data_begin(0x200 - 8, 0x200));
		for (unsigned i = 0; i < rows; i++)
			data_append(w, data_event(v, 0x200 - 9, "{\"aborted\": true}"));
		assert_rc(spool_write(w, &err), err);
		expect_nothing(r);
		assert_rc(spool_abort_transaction(w, &err), err);
	}
	write_transactions(w, 0x200, 0x210, 12);
	expect_transaction(r, 0x200, 12);
	expect_transaction(r, 0x210, 12);
	expect_nothing(r);
	spool_reader_close(r);
	spool_writer_close(w);
}

static void test_order_of_changes_is_checked(void **state)
{
	struct spool_writer *w = open_writer(0x100, &data_options);
	struct value v[5];
	struct change c = data_event(v, 1, "{}");
	assert_int_equal(spool_append(w, &c, &err), ERR_PERMANENT);
	c = data_commit(0x1F8, 0x200);
	assert_int_equal(spool_append(w, &c, &err), ERR_PERMANENT);
	data_append(w, data_begin(0x1F8, 1));
	c = data_begin(0x1F8, 2);
	assert_int_equal(spool_append(w, &c, &err), ERR_PERMANENT);
	c = data_progress(0x300);
	assert_int_equal(spool_append(w, &c, &err), ERR_PERMANENT);
	c = data_commit(0xF8, 0x100);
	assert_int_equal(spool_append(w, &c, &err), ERR_PERMANENT);
	assert_says(err, "not the order of commits");
	spool_writer_close(w);
}

static void test_reading_begins_at_any_transaction(void **state)
{
	struct spool_writer *w = open_writer(0x100, &small);
	write_mixed(w, 0x110, 0x300);
	for (uint64_t from = 0x100; from <= 0x300; from += 8) {
		struct spool_reader *r = open_reader(from);
		uint64_t last = from;
		unsigned count;
		assert_rc(read_all(r, &last, &count), err);
		assert_int_equal(last, from > 0x2F8 ? from : 0x300);
		assert_int_equal(count, (0x300 - from) / 0x10 + (from % 0x10 != 0));
		spool_reader_close(r);
	}
	spool_writer_close(w);
}

static void test_trap_30_a_cut_at_every_byte_gives_whole_transactions_only(void **state)
{
	struct file files[64];
	struct spool_writer *w = open_writer(0x100, &small);
	write_mixed(w, 0x110, 0x1A0);
	spool_writer_close(w);
	size_t n = load(files, ARRAY_LEN(files));
	assert_true(n >= 3);
	uint64_t most = 0x100;
	data_empty_dir(dir);
	for (size_t k = 0; k < n; k++) {
		size_t first = first_frame_bytes(&files[k]);
		for (size_t len = first; len <= files[k].len; len++) {
			store(&files[k], len);
			struct spool_reader *r = open_reader(0x100);
			uint64_t last = 0x100;
			unsigned count;
			assert_rc(read_all(r, &last, &count), err);
			assert_int_equal(count, (last - 0x100) / 0x10);
			assert_true(last >= most); /* a longer file never shows less */
			most = last;
			spool_reader_close(r);
			if (len % 41 != 0)
				continue;
			/* A writer goes on from there, in a new generation. */
			w = open_writer(last, &small);
			write_mixed(w, last + 0x10, 0x300);
			spool_writer_close(w);
			r = open_reader(0x100);
			last = 0x100;
			assert_rc(read_all(r, &last, &count), err);
			assert_int_equal(last, 0x300);
			assert_int_equal(count, 0x20);
			spool_reader_close(r);
			data_empty_dir(dir);
			for (size_t i = 0; i <= k; i++)
				store(&files[i], files[i].len);
		}
	}
	assert_int_equal(most, 0x1A0);
	unload(files, n);
}

static void test_any_flipped_bit_is_seen(void **state)
{
	struct file files[64];
	struct spool_writer *w = open_writer(0x100, &small);
	write_mixed(w, 0x110, 0x180);
	spool_writer_close(w);
	size_t n = load(files, ARRAY_LEN(files));
	unsigned tails = 0, errors = 0;
	for (size_t k = 0; k < n; k++) {
		for (size_t bit = 0; bit < files[k].len * 8; bit += 5) {
			files[k].p[bit / 8] ^= (uint8_t)(1u << bit % 8);
			store(&files[k], files[k].len);
			struct spool_reader *r = open_reader(0x100);
			uint64_t last = 0x100;
			unsigned count;
			int rc = read_all(r, &last, &count);
			assert_true(rc == 0 || rc == ERR_PERMANENT);
			if (rc == 0) { /* the last frame: it could be a torn tail */
				assert_int_equal(k, n - 1);
				assert_true(last < 0x180);
				tails++;
			} else {
				assert_says(err, files[k].path);
				errors++;
			}
			spool_reader_close(r);
			files[k].p[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
		store(&files[k], files[k].len);
	}
	assert_true(tails > 0 && errors > 5 * tails);
	unload(files, n);
}

static void test_a_missing_segment_is_an_error(void **state)
{
	struct file files[64];
	struct spool_writer *w = open_writer(0x100, &small);
	write_mixed(w, 0x110, 0x200);
	size_t n = load(files, ARRAY_LEN(files));
	unlink(files[1].path);
	struct spool_reader *r = open_reader(0x100);
	uint64_t last = 0x100;
	unsigned count;
	assert_int_equal(read_all(r, &last, &count), ERR_PERMANENT);
	assert_says(err, files[0].path);
	assert_true(count > 0);
	spool_reader_close(r);

	/* And one that was let go of before the reader's position: a gap. */
	unlink(files[0].path);
	r = open_reader(0x100);
	expect_gap(r, 0x100, strtoull(strrchr(files[2].path, '-') + 1, NULL, 16));
	spool_reader_close(r);
	spool_writer_close(w);
	unload(files, n);
}

/* A directory is not listed in one instant: while a writer starts, a name may be missed, and a later one seen. */
static void test_a_listing_that_missed_a_name_is_made_again(void **state)
{
	struct file files[64];
	struct spool_writer *w = open_writer(0x100, &small);
	write_mixed(w, 0x110, 0x200);
	spool_writer_close(w);
	size_t n = load(files, ARRAY_LEN(files));
	for (size_t missed = 1; missed + 1 < n; missed++) {
		struct change c;
		struct spool_reader *r = open_reader(0x100);
		uint64_t last = 0x110;
		unsigned count;
		unlink(files[missed].path);
		assert_int_equal(spool_reader_next(r, &arena, &c, &err), 1);
		store(&files[missed], files[missed].len);
		while (c.kind != CHANGE_COMMIT)
			assert_int_equal(spool_reader_next(r, &arena, &c, &err), 1);
		assert_rc(read_all(r, &last, &count), err);
		assert_int_equal(last, 0x200);
		spool_reader_close(r);
	}
	unload(files, n);
}

static void test_a_spool_of_another_identity_is_refused(void **state)
{
	struct spool_writer *w = open_writer(0x100, &small);
	struct spool_reader *r;
	write_transactions(w, 0x200, 0x200, 1);
	spool_writer_close(w);
	struct spool_identity id[] = {data_identity, data_identity, data_identity, data_identity};
	id[0].system_id++;
	id[1].timeline++;
	id[2].pipeline = "other";
	id[3].slot = "other";
	for (size_t i = 0; i < ARRAY_LEN(id); i++) {
		assert_int_equal(spool_writer_open(&w, dir, &id[i], &small, data_lsn(0x200), &err),
				 ERR_PERMANENT);
		assert_rc(spool_reader_open(&r, dir, data_lsn(0x100), 0, &id[i], &err), err);
		expect_error(r, dir);
		spool_reader_close(r);
	}
	const struct spool_identity any = {0};
	assert_rc(spool_reader_open(&r, dir, data_lsn(0x100), 0, &any, &err), err);
	expect_transaction(r, 0x200, 1);
	spool_reader_close(r);
}

/* A failover: the spool goes on with the new timeline; who follows the old one is told which comes, and from where. */
static void test_trap_59_a_later_timeline_is_refused_and_named(void **state)
{
	struct spool_writer *w = open_writer(0x100, &small);
	struct spool_reader *r = open_reader(0x100), *next;
	struct spool_options accepts = small;
	struct spool_identity id = data_identity;
	struct lsn start = {1};
	write_transactions(w, 0x110, 0x120, 1);
	spool_writer_close(w);
	id.timeline++;
	accepts.accept_timeline = true;
	assert_rc(spool_writer_open(&w, dir, &id, &accepts, data_lsn(0x118), &err), err);
	write_transactions(w, 0x130, 0x130, 2);
	expect_transaction(r, 0x110, 1);
	assert_int_equal(spool_reader_next_timeline(r, &start), 0);
	uint64_t last = 0x110;
	unsigned count;
	assert_int_equal(read_all(r, &last, &count), ERR_PERMANENT);
	assert_says(err, "timeline");
	assert_int_equal(spool_reader_next_timeline(r, &start), id.timeline);
	assert_int_equal(start.v, 0x118);
	spool_reader_close(r);
	assert_rc(spool_reader_open(&next, dir, data_lsn(0x118), 200, &id, &err), err);
	expect_transaction(next, 0x130, 2);
	spool_reader_close(next);
	id.timeline++; /* an earlier one is refused, too, and is nothing to go on with */
	assert_rc(spool_reader_open(&next, dir, data_lsn(0x118), 200, &id, &err), err);
	expect_error(next, "timeline");
	assert_int_equal(spool_reader_next_timeline(next, &start), 0);
	spool_reader_close(next);
	spool_writer_close(w);
}

static void test_one_writer_at_a_time(void **state)
{
	struct spool_writer *w = open_writer(0x100, &small), *other;
	assert_int_equal(spool_writer_open(&other, dir, &data_identity, &small, data_lsn(0x100),
					   &err),
			 ERR_PERMANENT);
	assert_says(err, "locked");
	spool_writer_close(w);
}

static void test_a_gap_between_slot_and_spool_is_refused(void **state)
{
	struct spool_writer *w = open_writer(0x100, &small);
	write_transactions(w, 0x200, 0x240, 1);
	spool_writer_close(w);
	assert_int_equal(spool_writer_open(&w, dir, &data_identity, &small, data_lsn(0x248), &err),
			 ERR_PERMANENT);
	assert_says(err, "ends at 0/240");
	w = open_writer(0x240, &small); /* up to its end it is good */
	spool_writer_close(w);
}

/* The slot was lost: a generation says what is missing, to readers that are there and that come. */
static void test_trap_04_a_lost_slot_leaves_a_gap_that_is_handed_out(void **state)
{
	struct spool_options o = small;
	struct spool_writer *w = open_writer(0x100, &small);
	write_transactions(w, 0x200, 0x240, 1);
	struct spool_reader *r = open_reader(0x100);
	expect_transaction(r, 0x200, 1);
	spool_writer_close(w);
	o.accept_gap = true;
	w = open_writer(0x300, &o);
	assert_int_equal(spool_gap(w).v, 0x240);
	write_transactions(w, 0x310, 0x310, 1);
	for (uint64_t end = 0x210; end <= 0x240; end += 0x10)
		expect_transaction(r, end, 1); /* what came before it stays */
	expect_gap(r, 0x240, 0x300);
	expect_transaction(r, 0x310, 1);
	expect_nothing(r);
	spool_reader_close(r);
	r = open_reader(0x300); /* what is behind it has no gap */
	expect_transaction(r, 0x310, 1);
	spool_reader_close(r);
	/* A start that takes its place says the same again, one behind it does not. */
	spool_writer_close(w);
	w = open_writer(0x300, &small);
	assert_int_equal(spool_gap(w).v, 0x240);
	write_transactions(w, 0x320, 0x330, 1);
	spool_writer_close(w);
	w = open_writer(0x320, &small);
	assert_int_equal(spool_gap(w).v, 0);
	write_transactions(w, 0x340, 0x340, 1);
	r = open_reader(0x240);
	expect_gap(r, 0x240, 0x300);
	expect_transaction(r, 0x320, 1);
	expect_transaction(r, 0x340, 1);
	expect_nothing(r);
	spool_reader_close(r);
	/* What the gap's generation has is not taken for the end of the one before it. */
	assert_int_equal(spool_trim(w, data_lsn(0x240), &err), 0);
	r = open_reader(0x230);
	expect_transaction(r, 0x240, 1);
	expect_gap(r, 0x240, 0x300);
	spool_reader_close(r);
	spool_writer_close(w);
}

static void test_a_gap_over_what_was_not_synced_begins_where_the_files_end(void **state)
{
	struct spool_options o = small;
	struct lsn end;
	o.accept_gap = true;
	assert_int_equal(spool_end(dir, &data_identity, &end, &err), 0);
	struct spool_writer *w = open_writer(0x100, &o);
	assert_int_equal(spool_gap(w).v, 0); /* nothing was there to compare with */
	write_transactions(w, 0x200, 0x210, 1);
	data_transaction(w, 0x220, 1);
	assert_rc(spool_write(w, &err), err); /* and no sync */
	spool_writer_close(w);
	assert_int_equal(spool_end(dir, &data_identity, &end, &err), 1);
	assert_int_equal(end.v, 0x220);
	const struct spool_identity other = {1, 3, "lana", "rolag_lana"};
	assert_int_equal(spool_end(dir, &other, &end, &err), ERR_PERMANENT);
	w = open_writer(0x220, &o); /* the slot goes on exactly there: no gap */
	assert_int_equal(spool_gap(w).v, 0);
	spool_writer_close(w);
	w = open_writer(0x230, &o);
	assert_int_equal(spool_gap(w).v, 0x220);
	spool_writer_close(w);
	w = open_writer(0x400, &o); /* lost again before anything came: one gap, the whole of it */
	assert_int_equal(spool_gap(w).v, 0x230);
	struct spool_reader *r = open_reader(0x210);
	expect_transaction(r, 0x220, 1);
	expect_gap(r, 0x220, 0x230);
	expect_gap(r, 0x230, 0x400);
	expect_nothing(r);
	spool_reader_close(r);
	spool_writer_close(w);
}

/* A segment of nothing but broken attempts right behind a gap: what takes its place still has the gap. */
static void test_a_gap_outlives_the_segment_that_said_it(void **state)
{
	struct spool_options o = small;
	struct value v[5];
	o.accept_gap = true;
	struct spool_writer *w = open_writer(0x100, &small);
	write_transactions(w, 0x200, 0x200, 1);
	spool_writer_close(w);
	w = open_writer(0x300, &o);
	for (int attempt = 0; attempt < 12; attempt++) {
		struct change begin = data_begin(0x3F8, 7);
		assert_rc(spool_append(w, &begin, &err), err);
		for (int row = 0; row < 8; row++) {
			struct change event = data_event(v, 0x3F0, "{\"broken\": true}");
			assert_rc(spool_append(w, &event, &err), err);
		}
		assert_rc(spool_abort_transaction(w, &err), err);
	}
	write_transactions(w, 0x400, 0x400, 1);
	struct spool_reader *r = open_reader(0x200);
	expect_gap(r, 0x200, 0x300);
	expect_transaction(r, 0x400, 1);
	spool_reader_close(r);
	spool_writer_close(w);
}

/* Taken away and begun anew, with the directory or without it, while a reader is in it. */
static void test_trap_04_a_spool_replaced_under_its_reader(void **state)
{
	for (int turn = 0; turn < 4; turn++) {
		const bool gap = turn % 2 != 0;
		struct spool_writer *w = open_writer(0x100, &small);
		spool_writer_close(w);
		w = open_writer(0x100, &small); /* generation 2: the new one's are lower */
		write_transactions(w, 0x200, 0x210, 1);
		struct spool_reader *r = open_reader(0x100);
		expect_transaction(r, 0x200, 1);
		expect_transaction(r, 0x210, 1);
		expect_nothing(r);
		spool_writer_close(w);
		data_empty_dir(dir);
		if (turn / 2 != 0)
			assert_int_equal(rmdir(dir), 0);
		expect_nothing(r);
		w = open_writer(gap ? 0x220 : 0x200, &small);
		write_transactions(w, gap ? 0x230 : 0x210, 0x230, 1);
		poll(NULL, 0, turn / 2 != 0 ? 1100 : 0); /* a new directory is found by time */
		if (gap) {
			expect_gap(r, 0x210, 0x220);
			expect_transaction(r, 0x230, 1);
		} else {
			expect_transaction(r, 0x220, 1);
			expect_transaction(r, 0x230, 1);
			expect_nothing(r);
		}
		spool_reader_close(r);
		spool_writer_close(w);
		data_empty_dir(dir);
	}
}

static void test_a_new_generation_voids_what_was_not_confirmed(void **state)
{
	/* Written 0x200 … 0x2F0 with 2 rows each, confirmed 0x250: the rest comes again, here with 3. */
	for (uint64_t read_to = 0x1F0; read_to <= 0x2F0; read_to += 0x20) {
		struct spool_writer *w =
			open_writer(0x100, read_to % 0x40 == 0 ? &small : &data_options);
		for (uint64_t end = 0x200; end <= 0x2F0; end += 0x10)
			data_transaction(w, end, 2); /* with data_options: all in one frame */
		assert_rc(spool_sync(w, &err), err);
		struct spool_reader *r = open_reader(0x100);
		for (uint64_t end = 0x200; end <= read_to; end += 0x10)
			expect_transaction(r, end, 2);
		spool_writer_close(w);

		w = open_writer(0x250, &small);
		assert_int_equal(spool_received(w).v, 0x250);
		assert_int_equal(spool_durable(w).v, 0x250);
		write_transactions(w, 0x260, 0x310, 3);
		/* What it has read it keeps; then the new generation, without what it has. */
		struct change c;
		uint64_t next = read_to + 0x10;
		while (spool_reader_next(r, &arena, &c, &err) == 1 && c.kind != CHANGE_BEGIN)
			;
		assert_int_equal(c.lsn.v, next - 8);
		unsigned rows = 0;
		int rc;
		while ((rc = spool_reader_next(r, &arena, &c, &err)) == 1) {
			rows += c.kind == CHANGE_INSERT;
			if (c.kind != CHANGE_COMMIT)
				continue;
			assert_int_equal(c.lsn.v, next);
			assert_true(rows == (next <= 0x250 ? 2 : 3) || next <= 0x2F0);
			rows = 0;
			next += 0x10;
		}
		assert_rc(rc, err);
		assert_int_equal(next, 0x320);
		spool_reader_close(r);

		/* A reader that begins now sees nothing that is void. */
		r = open_reader(0x100);
		for (uint64_t end = 0x200; end <= 0x310; end += 0x10)
			expect_transaction(r, end, end <= 0x250 ? 2 : 3);
		expect_nothing(r);
		spool_reader_close(r);
		spool_writer_close(w);
		data_empty_dir(dir);
	}
}

static void test_several_cuts_one_below_the_other(void **state)
{
	const uint64_t confirmed[] = {0x100, 0x280, 0x240, 0x2A0, 0x230};
	unsigned rows = 1;
	for (size_t i = 0; i < ARRAY_LEN(confirmed); i++, rows++) {
		struct spool_writer *w = open_writer(confirmed[i], &small);
		write_transactions(w, RT_MAX(confirmed[i], 0x1F0) + 0x10, 0x2C0, rows);
		spool_writer_close(w);
		struct spool_reader *r = open_reader(0x100);
		for (uint64_t end = 0x200; end <= 0x2C0; end += 0x10) {
			unsigned of = 1; /* the newest generation that begins before end */
			for (size_t g = 0; g <= i; g++)
				if (confirmed[g] < end)
					of = (unsigned)g + 1;
			expect_transaction(r, end, of);
		}
		expect_nothing(r);
		spool_reader_close(r);
	}
}

/* A start of capture begins before what apply has: that comes again, and is let go of at once. */
static void test_what_comes_again_may_be_let_go_of_while_it_is_walked(void **state)
{
	struct spool_writer *w = open_writer(0x100, &small);
	write_transactions(w, 0x110, 0x300, 2);
	spool_writer_close(w);
	struct spool_reader *r = open_reader(0x100);
	for (uint64_t end = 0x110; end <= 0x300; end += 0x10)
		expect_transaction(r, end, 2);

	w = open_writer(0x120, &small);
	write_transactions(w, 0x130, 0x130, 2);
	expect_nothing(r); /* it stands in the new generation's first segment now */
	write_transactions(w, 0x140, 0x300, 2);
	assert_rc(spool_trim(w, data_lsn(0x300), &err), err);
	write_transactions(w, 0x310, 0x310, 3);
	expect_transaction(r, 0x310, 3);
	expect_nothing(r);
	spool_reader_close(r);
	spool_writer_close(w);
}

static void test_void_segments_stay_void_when_they_could_not_be_deleted(void **state)
{
	struct file files[64];
	struct spool_writer *w = open_writer(0x100, &small);
	write_transactions(w, 0x200, 0x2F0, 2);
	spool_writer_close(w);
	size_t n = load(files, ARRAY_LEN(files));
	w = open_writer(0x220, &small);
	write_transactions(w, 0x230, 0x260, 3);
	for (size_t i = 0; i < n; i++) /* as if the writer had died before it deleted them */
		store(&files[i], files[i].len);
	struct spool_reader *r = open_reader(0x100);
	for (uint64_t end = 0x200; end <= 0x260; end += 0x10)
		expect_transaction(r, end, end <= 0x220 ? 2 : 3);
	expect_nothing(r);
	spool_reader_close(r);
	spool_writer_close(w);
	w = open_writer(0x260, &small);
	spool_writer_close(w);
	struct segment_list list = {0};
	assert_rc(segment_list_read(&list, dir, &err), err);
	for (size_t i = 0; i < list.count; i++)
		assert_false(segment_is_void(&list.entry[i]));
	segment_list_release(&list);
	unload(files, n);
}

static void test_reader_within_a_void_transaction_reads_it_to_its_end(void **state)
{
	struct spool_writer *w = open_writer(0x100, &small);
	write_transactions(w, 0x200, 0x230, 30); /* in pieces */
	spool_writer_close(w);
	struct spool_reader *r = open_reader(0x100);
	struct change c;
	expect_transaction(r, 0x200, 30);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(spool_reader_next(r, &arena, &c, &err), 1);
	w = open_writer(0x200, &small); /* voids it */
	for (unsigned i = 10; i < 32; i++)
		assert_int_equal(spool_reader_next(r, &arena, &c, &err), 1);
	assert_int_equal(c.kind, CHANGE_COMMIT);
	assert_int_equal(c.lsn.v, 0x210);
	write_transactions(w, 0x210, 0x230, 2);
	do
		assert_int_equal(spool_reader_next(r, &arena, &c, &err), 1);
	while (c.kind != CHANGE_COMMIT);
	assert_int_equal(c.lsn.v, 0x220);
	spool_reader_close(r);
	spool_writer_close(w);
}

/* A writer's process: writes until it is killed, telling what is durable; never more than a few ahead. */
static void write_until_killed(int fd, uint64_t confirmed)
{
	uint64_t told[128] = {0};
	struct spool_writer *w = open_writer(confirmed, &small);
	for (uint64_t end = confirmed + 0x10;; end += 0x10) {
		data_transaction(w, end, (unsigned)(1 + end / 0x10 % 7));
		if (spool_sync(w, &err) != 0)
			_exit(1);
		told[0] = spool_durable(w).v;
		if (write(fd, told, sizeof(told)) != sizeof(told))
			_exit(1);
	}
}

static void test_killed_writers_and_one_reader(void **state)
{
	uint64_t last = 0x100, confirmed = 0x100;
	unsigned count;
	struct spool_reader *r = open_reader(0x100);
	for (unsigned kills = 0; kills < 12; kills++) {
		int fd[2];
		assert_int_equal(pipe(fd), 0);
		assert_true(fcntl(fd[1], F_SETPIPE_SZ, 4096) > 0);
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0)
			write_until_killed(fd[1], confirmed);
		close(fd[1]);
		for (unsigned i = 0; i < 20 + kills * 7; i++) {
			uint64_t told[128];
			assert_int_equal(read(fd[0], told, sizeof(told)), sizeof(told));
			assert_true(told[0] > confirmed);
			confirmed = told[0];
			if (i % 8 == kills % 8)
				assert_rc(read_all(r, &last, &count), err);
		}
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		close(fd[0]);
		if (kills % 2 == 0)
			assert_rc(read_all(r, &last, &count), err);
	}
	assert_rc(read_all(r, &last, &count), err);
	assert_true(last >= confirmed);
	spool_reader_close(r);
	r = open_reader(0x100); /* and from the start: every one, once */
	last = 0x100;
	assert_rc(read_all(r, &last, &count), err);
	assert_true(last >= confirmed);
	assert_int_equal(count, (last - 0x100) / 0x10);
	spool_reader_close(r);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_every_kind_of_change_comes_back_equal),
		TEST(test_a_reader_follows_a_writer),
		TEST(test_descriptor_wakes_for_data_and_new_segments_only),
		TEST(test_transaction_in_pieces_is_seen_with_its_commit_only),
		TEST(test_aborted_transaction_leaves_nothing),
		TEST(test_order_of_changes_is_checked),
		TEST(test_reading_begins_at_any_transaction),
		TEST(test_trap_30_a_cut_at_every_byte_gives_whole_transactions_only),
		TEST(test_any_flipped_bit_is_seen),
		TEST(test_a_missing_segment_is_an_error),
		TEST(test_a_listing_that_missed_a_name_is_made_again),
		TEST(test_a_spool_of_another_identity_is_refused),
		TEST(test_trap_59_a_later_timeline_is_refused_and_named),
		TEST(test_one_writer_at_a_time),
		TEST(test_a_gap_between_slot_and_spool_is_refused),
		TEST(test_trap_04_a_lost_slot_leaves_a_gap_that_is_handed_out),
		TEST(test_a_gap_over_what_was_not_synced_begins_where_the_files_end),
		TEST(test_a_gap_outlives_the_segment_that_said_it),
		TEST(test_trap_04_a_spool_replaced_under_its_reader),
		TEST(test_a_new_generation_voids_what_was_not_confirmed),
		TEST(test_several_cuts_one_below_the_other),
		TEST(test_what_comes_again_may_be_let_go_of_while_it_is_walked),
		TEST(test_void_segments_stay_void_when_they_could_not_be_deleted),
		TEST(test_reader_within_a_void_transaction_reads_it_to_its_end),
		TEST(test_killed_writers_and_one_reader),
	};
	data_setup();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
