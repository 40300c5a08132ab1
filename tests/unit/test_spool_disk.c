/* The spool and its disk: what is synced when, what happens when the disk says no, and what is let go of. */
#include "tests/unit/spool_data.h"

#include <errno.h>
#include <libaio.h>
#include <malloc.h>
#include <sys/syscall.h>
#include <xxhash.h>

#include "proto/base/fsio.h"
#include "proto/spool_internal.h"

/* ---- a disk that counts and fails: these stand in for libc's ---- */

static struct {
	char trace[4096]; /* w write, d fdatasync, D fsync of a directory, r rename, u unlink */
	size_t len;
	unsigned writes;
	int fail_sync_at;     /* the n-th fdatasync from now fails with EIO; 0: none */
	int fail_dir_sync_at; /* likewise fsync */
	int64_t bytes_left;   /* write() stores no more than this, then ENOSPC; -1: no limit */
} disk;

/* None: closing a writer need not wait for the kernel. test_spool_forged has syncs that do not wait. */
int io_setup(int max, io_context_t *ret)
{
	return -ENOSYS;
}

static void trace(char c)
{
	if (disk.len + 1 < sizeof(disk.trace)) {
		disk.trace[disk.len++] = c;
		disk.trace[disk.len] = '\0';
	}
}

static void disk_reset(void)
{
	memset(&disk, 0, sizeof(disk));
	disk.bytes_left = -1;
}

int fdatasync(int fd)
{
	trace('d');
	if (disk.fail_sync_at > 0 && --disk.fail_sync_at == 0) {
		errno = EIO;
		return -1;
	}
	return 0;
}

int fsync(int fd)
{
	trace('D');
	if (disk.fail_dir_sync_at > 0 && --disk.fail_dir_sync_at == 0) {
		errno = EIO;
		return -1;
	}
	return 0;
}

int rename(const char *from, const char *to)
{
	trace('r');
	return (int)syscall(SYS_rename, from, to);
}

int unlink(const char *path)
{
	trace('u');
	return (int)syscall(SYS_unlink, path);
}

ssize_t write(int fd, const void *p, size_t n)
{
	if (fd > 2) {
		trace('w');
		disk.writes++;
		if (disk.bytes_left == 0) {
			errno = ENOSPC;
			return -1;
		}
		if (disk.bytes_left > 0) {
			n = RT_MIN(n, (size_t)disk.bytes_left);
			disk.bytes_left -= (int64_t)n;
		}
	}
	return syscall(SYS_write, fd, p, n);
}

/* ---- fixture ---- */

static const struct spool_options small = {
	.segment_bytes = 700, .quota_bytes = 1 << 30, .frame_bytes = 150, .retain_us = 0};

static char *dir;
static struct arena arena;
static struct rt_err err;

static int setup(void **state)
{
	dir = data_mkdir();
	arena_init(&arena, 64 << 10);
	disk_reset();
	return 0;
}

static int teardown(void **state)
{
	disk_reset();
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

/* Ends of the transactions that a new reader sees, which must be first, first + 0x10, …; returns the last. */
static uint64_t read_ends(uint64_t from)
{
	struct spool_reader *r;
	struct change c;
	int rc;
	assert_rc(spool_reader_open(&r, dir, data_lsn(from), 1 << 20, NULL, &err), err);
	while ((rc = spool_reader_next(r, &arena, &c, &err)) == 1) {
		if (c.kind == CHANGE_COMMIT) {
			assert_int_equal(c.lsn.v, from + 0x10);
			from += 0x10;
		}
		arena_reset(&arena);
	}
	assert_rc(rc, err);
	spool_reader_close(r);
	return from;
}

static size_t count_segments(void)
{
	struct segment_list list = {0};
	assert_rc(segment_list_read(&list, dir, &err), err);
	size_t n = list.count;
	segment_list_release(&list);
	return n;
}

static uint64_t bytes_on_disk(void)
{
	struct segment_list list = {0};
	uint64_t sum = 0;
	assert_rc(segment_list_read(&list, dir, &err), err);
	for (size_t i = 0; i < list.count; i++)
		sum += list.entry[i].bytes;
	segment_list_release(&list);
	return sum;
}

/* ---- tests ---- */

static void test_trap_29_a_turn_of_a_thousand_rows_is_one_write(void **state)
{
	struct spool_options options = data_options;
	struct spool_writer *w = open_writer(0x100, &options);
	disk_reset();
	for (uint64_t end = 0x110; end <= 0x100 + 1000 * 0x10; end += 0x10)
		data_transaction(w, end, 1);
	assert_int_equal(disk.writes, 0);
	assert_rc(spool_sync(w, &err), err);
	assert_string_equal(disk.trace, "wd");
	assert_rc(spool_sync(w, &err), err); /* nothing new: nothing done */
	assert_string_equal(disk.trace, "wd");
	spool_writer_close(w);
	assert_int_equal(read_ends(0x100), 0x100 + 1000 * 0x10);
}

static void test_trap_30_names_are_synced_too(void **state)
{
	struct spool_options options = small;
	options.frame_bytes = 1 << 20;
	struct spool_writer *w = open_writer(0x100, &options);
	/* Made under another name, synced, renamed, and the directory synced. */
	assert_non_null(strstr(disk.trace, "wdrD"));
	size_t rolls = 0;
	for (uint64_t end = 0x110; rolls < 3; end += 0x10) {
		size_t segments = count_segments();
		disk_reset();
		data_transaction(w, end, 1);
		assert_rc(spool_write(w, &err), err);
		if (count_segments() == segments) {
			assert_string_equal(disk.trace, "w");
			continue;
		}
		/* The full one is synced before there is a next one, so that nothing can be missing in between. */
		assert_string_equal(disk.trace, "dwdrDw");
		rolls++;
	}
	disk_reset();
	assert_rc(spool_trim(w, data_lsn(0x10000), &err), err);
	assert_string_equal(disk.trace, "uuuD");
	spool_writer_close(w);
}

/* A folder whose own name was never synced can vanish in a power cut, with all that is in it. */
static void test_trap_30_the_folders_own_name_is_synced(void **state)
{
	struct spool_writer *w;
	char *sub = rt_sprintf("%s/state", dir);
	char *deep = rt_sprintf("%s/spool", sub);
	assert_rc(spool_writer_open(&w, deep, &data_identity, &small, data_lsn(0x100), &err), err);
	assert_memory_equal(disk.trace, "DD", 2);
	spool_writer_close(w);
	disk_reset();
	assert_rc(spool_writer_open(&w, deep, &data_identity, &small, data_lsn(0x100), &err), err);
	assert_memory_equal(disk.trace, "wd", 2); /* it is there: nothing to do */
	spool_writer_close(w);
	data_rmdir(deep);
	data_rmdir(sub);
}

static void test_trap_03_a_failed_sync_is_final(void **state)
{
	struct spool_writer *w = open_writer(0x100, &data_options);
	struct change c = data_begin(0x300, 1);
	data_transaction(w, 0x110, 3);
	assert_rc(spool_sync(w, &err), err);
	data_transaction(w, 0x120, 3);
	disk.fail_sync_at = 1;
	assert_int_equal(spool_sync(w, &err), ERR_SYSTEM);
	assert_says(err, "sync");
	assert_int_equal(spool_durable(w).v, 0x110);
	/* The disk works again, but what the kernel dropped is not known. */
	assert_int_equal(spool_sync(w, &err), ERR_SYSTEM);
	assert_int_equal(spool_write(w, &err), ERR_SYSTEM);
	assert_int_equal(spool_append(w, &c, &err), ERR_SYSTEM);
	assert_int_equal(spool_trim(w, data_lsn(0x110), &err), ERR_SYSTEM);
	assert_int_equal(spool_abort_transaction(w, &err), ERR_SYSTEM);
	assert_int_equal(spool_durable(w).v, 0x110);
	spool_writer_close(w);
	w = open_writer(0x110, &data_options); /* a new start begins where it is certain */
	data_transaction(w, 0x120, 3);
	assert_rc(spool_sync(w, &err), err);
	assert_int_equal(spool_durable(w).v, 0x120);
	spool_writer_close(w);
	assert_int_equal(read_ends(0x100), 0x120);
}

static void test_trap_03_a_failed_sync_of_the_directory_is_final(void **state)
{
	struct spool_writer *w = open_writer(0x100, &small);
	disk.fail_dir_sync_at = 1;
	int rc = 0;
	uint64_t end = 0x100;
	while (rc == 0 && end < 0x1000) {
		const struct change c = data_progress(end += 0x10);
		rc = spool_append(w, &c, &err);
	}
	assert_int_equal(rc, ERR_SYSTEM);
	assert_int_equal(spool_sync(w, &err), ERR_SYSTEM);
	assert_true(spool_durable(w).v < end);
	spool_writer_close(w);
}

static void test_a_start_that_cannot_sync_fails(void **state)
{
	struct spool_writer *w;
	disk.fail_sync_at = 1;
	assert_int_equal(spool_writer_open(&w, dir, &data_identity, &small, data_lsn(0x100), &err),
			 ERR_SYSTEM);
	disk_reset();
	disk.fail_dir_sync_at = 1;
	assert_int_equal(spool_writer_open(&w, dir, &data_identity, &small, data_lsn(0x100), &err),
			 ERR_SYSTEM);
	disk_reset();
	w = open_writer(0x100, &small);
	spool_writer_close(w);
}

/* The disk fills at each byte of what is written; when there is room again, all goes on. */
static void test_a_full_disk_leaves_whole_frames_and_can_be_tried_again(void **state)
{
	for (int64_t room = 0; room < 2500; room += 7) {
		struct spool_writer *w = open_writer(0x100, &small);
		disk.bytes_left = room;
		unsigned failures = 0;
		for (uint64_t end = 0x110; end <= 0x180; end += 0x10) {
			struct value v[5];
			data_append(w, data_begin(end - 8, 1));
			for (unsigned i = 0; i < 6; i++) {
				struct change c = data_event(v, end - 9, "{\"row\": true}");
				/* Large enough that frames are written, and segments begun, in between. */
				if (spool_append(w, &c, &err) != 0) {
					assert_int_equal(err.code, ERR_SYSTEM);
					failures++;
				}
			}
			struct change c = data_commit(end - 8, end);
			if (spool_append(w, &c, &err) != 0 || spool_write(w, &err) != 0) {
				assert_int_equal(err.code, ERR_SYSTEM);
				assert_says(err, "space");
				failures++;
				/* Nothing torn is left where a reader looks. */
				assert_int_equal(read_ends(0x100), spool_received(w).v);
				assert_int_equal(bytes_on_disk(), spool_bytes(w));
				disk.bytes_left = -1;
				assert_rc(spool_write(w, &err), err);
			}
			assert_int_equal(spool_received(w).v, end);
		}
		assert_true(failures > 0 || room > 1000);
		assert_int_equal(read_ends(0x100), 0x180);
		disk_reset();
		spool_writer_close(w);
		data_empty_dir(dir);
	}
}

static void test_trap_28_quota_and_reserve_say_stop(void **state)
{
	struct spool_options options = small;
	options.quota_bytes = 5000;
	struct spool_writer *w = open_writer(0x100, &options);
	uint64_t end = 0x100;
	while (!spool_is_full(w)) {
		data_transaction(w, end += 0x10, 2);
		assert_rc(spool_sync(w, &err), err);
		assert_true(spool_bytes(w) < 5500);
	}
	assert_true(spool_bytes(w) >= 5000);
	assert_int_equal(bytes_on_disk(), spool_bytes(w));
	assert_int_equal(spool_take_written(w), spool_bytes(w));
	assert_int_equal(spool_take_written(w), 0);
	assert_rc(spool_trim(w, data_lsn(0x100), &err), err); /* nothing applied: nothing goes */
	assert_true(spool_is_full(w));
	assert_rc(spool_trim(w, data_lsn(end), &err), err);
	assert_false(spool_is_full(w));
	assert_int_equal(bytes_on_disk(), spool_bytes(w));
	spool_writer_close(w);
	options.quota_bytes = 1 << 30;
	options.reserve_bytes = UINT64_MAX;
	w = open_writer(end, &options);
	assert_true(spool_is_full(w));
	spool_writer_close(w);
}

static void test_a_transaction_beyond_the_quota_does_not_wait_for_ever(void **state)
{
	struct spool_options options = small;
	struct value v[5];
	options.quota_bytes = 5000;
	struct spool_writer *w = open_writer(0x100, &options);
	data_transaction(w, 0x110, 30); /* fills a segment: the next begins one */
	data_append(w, data_begin(0x118, 1));
	while (spool_bytes(w) < 20000)
		data_append(w, data_event(v, 0x117, "{}"));
	assert_true(spool_is_full(w)); /* what stands before it could go */
	assert_rc(spool_trim(w, data_lsn(0x110), &err), err);
	assert_false(spool_is_full(w)); /* now nothing could */
	data_append(w, data_commit(0x118, 0x120));
	assert_rc(spool_write(w, &err), err);
	assert_true(spool_is_full(w));
	assert_int_equal(read_ends(0x110), 0x120);
	assert_rc(spool_trim(w, data_lsn(0x120), &err),
		  err); /* closes the segment and lets it go */
	assert_false(spool_is_full(w));
	assert_true(spool_bytes(w) < 1000);
	spool_writer_close(w);
}

static void test_trim_keeps_what_is_not_applied(void **state)
{
	struct spool_writer *w = open_writer(0x100, &small);
	for (uint64_t end = 0x110; end <= 0x300; end += 0x10)
		data_transaction(w, end, 2);
	assert_rc(spool_sync(w, &err), err);
	for (uint64_t applied = 0x100; applied <= 0x300; applied += 8) {
		assert_rc(spool_trim(w, data_lsn(applied), &err), err);
		assert_int_equal(read_ends(applied & ~UINT64_C(0xF)), 0x300);
	}
	assert_int_equal(count_segments(), 1);
	spool_writer_close(w);
}

/* Closing the full segment takes room that only letting go of the others gives. */
static void test_trap_28_trim_makes_room_on_a_full_disk(void **state)
{
	struct spool_writer *w = open_writer(0x100, &small);
	for (uint64_t end = 0x110; end <= 0x300; end += 0x10)
		data_transaction(w, end, 2);
	data_transaction(w, 0x310, 30); /* fills the last one */
	assert_rc(spool_sync(w, &err), err);
	assert_true(count_segments() > 2);
	disk.bytes_left = 0;
	assert_int_equal(spool_trim(w, data_lsn(0x310), &err), ERR_SYSTEM);
	assert_int_equal(count_segments(), 1);
	assert_int_equal(bytes_on_disk(), spool_bytes(w));
	disk.bytes_left = -1;
	assert_rc(spool_trim(w, data_lsn(0x310), &err), err);
	assert_int_equal(count_segments(), 1);
	assert_true(spool_bytes(w) < 200);
	spool_writer_close(w);
}

/* A connection that breaks within the same huge transaction, again and again. */
static void test_trap_28_broken_attempts_do_not_pile_up(void **state)
{
	struct value v[5];
	struct spool_reader *r;
	struct change c;
	struct spool_writer *w = open_writer(0x100, &small);
	assert_rc(spool_reader_open(&r, dir, data_lsn(0x100), 1 << 20, NULL, &err), err);
	for (unsigned attempt = 0; attempt < 20; attempt++) {
		data_append(w, data_begin(0x118, 1));
		for (unsigned i = 0; i < 60; i++)
			data_append(w, data_event(v, 0x117, "{}"));
		assert_int_equal(spool_reader_next(r, &arena, &c, &err), 0);
		assert_rc(spool_abort_transaction(w, &err), err);
		assert_true(spool_bytes(w) < 12000);
	}
	assert_int_equal(bytes_on_disk(), spool_bytes(w));
	data_transaction(w, 0x110, 60);
	data_transaction(w, 0x120, 1);
	assert_rc(spool_sync(w, &err), err);
	assert_int_equal(read_ends(0x100), 0x120);
	while (spool_reader_position(r).v < 0x120) {
		assert_int_equal(spool_reader_next(r, &arena, &c, &err), 1);
		arena_reset(&arena);
	}
	spool_reader_close(r);
	spool_writer_close(w);
	w = open_writer(0x110, &small); /* and the next start takes it all as it is */
	spool_writer_close(w);
	assert_int_equal(read_ends(0x100), 0x110);
}

static void test_applied_segments_are_kept_as_long_as_asked(void **state)
{
	struct spool_options options = small;
	options.retain_us = INT64_C(3600) * 1000000;
	struct spool_writer *w = open_writer(0x100, &options);
	for (uint64_t end = 0x110; end <= 0x300; end += 0x10)
		data_transaction(w, end, 2);
	assert_rc(spool_sync(w, &err), err);
	size_t segments = count_segments();
	assert_true(segments > 3);
	assert_rc(spool_trim(w, data_lsn(0x300), &err), err);
	assert_true(count_segments() >= segments);
	assert_int_equal(read_ends(0x100), 0x300);
	spool_writer_close(w);
	w = open_writer(0x300, &small); /* kept no longer */
	assert_rc(spool_trim(w, data_lsn(0x300), &err), err);
	assert_int_equal(count_segments(), 1);
	spool_writer_close(w);
}

static void test_kept_segments_give_way_before_the_spool_is_full(void **state)
{
	struct spool_options options = small;
	options.retain_us = INT64_C(3600) * 1000000;
	options.quota_bytes = 10000;
	struct spool_writer *w = open_writer(0x100, &options);
	uint64_t most = 0;
	for (uint64_t end = 0x110; end <= 0x1000; end += 0x10) {
		data_transaction(w, end, 2);
		assert_rc(spool_sync(w, &err), err);
		assert_false(spool_is_full(w));
		assert_rc(spool_trim(w, data_lsn(end), &err), err);
		most = RT_MAX(most, spool_bytes(w));
	}
	assert_true(most > 8000); /* and they were kept as long as there was room */
	spool_writer_close(w);
}

static void test_what_voids_a_transaction_outlives_it(void **state)
{
	struct spool_writer *w = open_writer(0x100, &small);
	for (uint64_t end = 0x110; end <= 0x200; end += 0x10)
		data_transaction(w, end, 2);
	assert_rc(spool_sync(w, &err), err);
	spool_writer_close(w);
	w = open_writer(0x150, &small);
	for (uint64_t end = 0x160; end <= 0x300; end += 0x10)
		data_transaction(w, end, 2);
	assert_rc(spool_sync(w, &err), err);
	disk_reset();
	assert_rc(spool_trim(w, data_lsn(0x300), &err), err);
	/* Between the first generation's last and the second's first. */
	assert_non_null(strstr(disk.trace, "uDu"));
	spool_writer_close(w);
}

static void test_leftovers_of_a_crash_while_making_a_segment_are_removed(void **state)
{
	char *path = rt_sprintf("%s/00000002-0000000000000100.seg.tmp", dir);
	assert_rc(fs_replace_file(path, "half", 4, 0600, &err), err);
	struct spool_writer *w = open_writer(0x100, &small);
	assert_int_equal(access(path, F_OK), -1);
	spool_writer_close(w);
	free(path);
}

/* ---- memory ---- */

size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

static size_t allocated_bytes(void)
{
	if (__sanitizer_get_current_allocated_bytes != NULL)
		return __sanitizer_get_current_allocated_bytes();
	struct mallinfo2 m = mallinfo2();
	return m.uordblks + m.hblkhd;
}

static void test_trap_27_one_huge_transaction_takes_little_memory(void **state)
{
	const unsigned rows = 64 << 10;
	const size_t bound = 3 << 20;
	char *text = rt_calloc(1, 1001);
	struct value v[5];
	struct spool_reader *r;
	struct change c;
	struct spool_writer *w = open_writer(0x100, &data_options);
	size_t before = allocated_bytes(), most = 0;
	unsigned x = 1, seen = 0;
	int rc;
	data_append(w, data_begin(0x118, 1));
	for (unsigned i = 0; i < rows; i++) { /* 64 MB */
		for (unsigned k = 0; k < 1000; k++)
			text[k] = (char)('!' + (x = x * 1664525u + 1013904223u) % 91);
		data_append(w, data_event(v, 0x117, text));
		most = RT_MAX(most, allocated_bytes());
	}
	data_append(w, data_commit(0x118, 0x120));
	assert_rc(spool_write(w, &err), err);
	spool_writer_close(w);
	assert_true(bytes_on_disk() > UINT64_C(50) << 20);
	assert_true(most - before < bound);

	before = allocated_bytes();
	most = 0;
	assert_rc(spool_reader_open(&r, dir, data_lsn(0x100), 1 << 20, NULL, &err), err);
	while ((rc = spool_reader_next(r, &arena, &c, &err)) == 1) {
		seen += c.kind == CHANGE_INSERT;
		most = RT_MAX(most, allocated_bytes());
		arena_reset(&arena);
	}
	assert_rc(rc, err);
	assert_int_equal(seen, rows);
	assert_true(most - before < bound);
	assert_true(spool_reader_transaction_bytes(r) > UINT64_C(64) << 20);
	spool_reader_close(r);
	free(text);
}

/* ---- the file `applied` ---- */

static void test_applied_gives_the_newest_whole_slot(void **state)
{
	struct applied_file *f;
	struct applied_position p = {.applied = {7}};
	assert_int_equal(applied_read(dir, &p, &err), 0);
	assert_int_equal(p.applied.v, 7); /* untouched */
	assert_rc(applied_open(&f, dir, &err), err);
	assert_int_equal(applied_read(dir, &p, &err), 0);
	for (uint64_t i = 1; i <= 5; i++) {
		p = (struct applied_position){{i << 33}, (uint32_t)i, -(int64_t)i, {i << 32}};
		assert_rc(applied_write(f, &p, &err), err);
		p = (struct applied_position){0};
		assert_int_equal(applied_read(dir, &p, &err), 1);
		assert_int_equal(p.applied.v, i << 33);
		assert_int_equal(p.timeline, i);
		assert_int_equal(p.at_us, -(int64_t)i);
		assert_int_equal(p.keep.v, i << 32);
		if (i != 3)
			continue;
		applied_close(f); /* a new process goes on in the right slot */
		assert_rc(applied_open(&f, dir, &err), err);
	}
	applied_close(f);
}

static void test_applied_of_version_1_is_read(void **state)
{
	uint8_t out[48] = {0};
	struct applied_position p = {.keep = {9}};
	char *path = rt_sprintf("%s/applied", dir);
	be32_put(out + 8, 0x524C4150);
	be32_put(out + 12, 1);
	be64_put(out + 16, 5);
	be64_put(out + 24, 77);
	be32_put(out + 32, 3);
	be64_put(out, XXH3_64bits(out + 8, 40));
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	assert_int_equal(pwrite(fd, out, 48, 512), 48);
	assert_int_equal(applied_read(dir, &p, &err), 1);
	assert_int_equal(p.applied.v, 77);
	assert_int_equal(p.timeline, 3);
	assert_int_equal(p.keep.v, 0);
	be32_put(out + 12, 0); /* there never was a version 0 */
	be64_put(out, XXH3_64bits(out + 8, 40));
	assert_int_equal(pwrite(fd, out, 48, 512), 48);
	close(fd);
	assert_int_equal(applied_read(dir, &p, &err), 0);
	free(path);
}

static void test_applied_cut_to_the_length_of_version_1_is_not_of_it(void **state)
{
	struct applied_file *f;
	struct applied_position p = {.applied = {9}};
	char *path = rt_sprintf("%s/applied", dir);
	assert_rc(applied_open(&f, dir, &err), err);
	for (uint64_t i = 1; i <= 2; i++)
		assert_rc(applied_write(f, &(struct applied_position){{i}, 1, 1, {0}}, &err), err);
	applied_close(f);
	assert_int_equal(truncate(path, 512 + 48), 0); /* 2 stands in the second slot */
	assert_int_equal(applied_read(dir, &p, &err), 1);
	assert_int_equal(p.applied.v, 1);
	assert_int_equal(truncate(path, 48), 0);
	assert_int_equal(applied_read(dir, &p, &err), 0);
	free(path);
}

static void test_applied_with_a_torn_slot_gives_the_other(void **state)
{
	struct applied_file *f;
	struct applied_position p;
	char *path = rt_sprintf("%s/applied", dir);
	assert_rc(applied_open(&f, dir, &err), err);
	for (uint64_t i = 1; i <= 4; i++)
		assert_rc(applied_write(f, &(struct applied_position){{i}, 1, 1, {0}}, &err), err);
	applied_close(f);
	/* 4 stands in the second slot. */
	int fd = open(path, O_RDWR);
	for (off_t at = 512; at < 512 + 56; at++) {
		uint8_t byte;
		assert_int_equal(pread(fd, &byte, 1, at), 1);
		byte ^= 0x10;
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
		assert_int_equal(applied_read(dir, &p, &err), 1);
		assert_int_equal(p.applied.v, 3);
		byte ^= 0x10;
		assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	}
	assert_int_equal(applied_read(dir, &p, &err), 1);
	assert_int_equal(p.applied.v, 4);
	assert_int_equal(ftruncate(fd, 530), 0);
	assert_int_equal(applied_read(dir, &p, &err), 1);
	assert_int_equal(p.applied.v, 3);
	/* The torn slot is the next to be written. */
	assert_rc(applied_open(&f, dir, &err), err);
	assert_rc(applied_write(f, &(struct applied_position){{5}, 1, 1, {0}}, &err), err);
	applied_close(f);
	assert_int_equal(ftruncate(fd, 56), 0);
	assert_int_equal(applied_read(dir, &p, &err), 1);
	assert_int_equal(p.applied.v, 3);
	close(fd);
	free(path);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_trap_29_a_turn_of_a_thousand_rows_is_one_write),
		TEST(test_trap_30_names_are_synced_too),
		TEST(test_trap_30_the_folders_own_name_is_synced),
		TEST(test_trap_03_a_failed_sync_is_final),
		TEST(test_trap_03_a_failed_sync_of_the_directory_is_final),
		TEST(test_a_start_that_cannot_sync_fails),
		TEST(test_a_full_disk_leaves_whole_frames_and_can_be_tried_again),
		TEST(test_trap_28_quota_and_reserve_say_stop),
		TEST(test_a_transaction_beyond_the_quota_does_not_wait_for_ever),
		TEST(test_trim_keeps_what_is_not_applied),
		TEST(test_trap_28_trim_makes_room_on_a_full_disk),
		TEST(test_trap_28_broken_attempts_do_not_pile_up),
		TEST(test_applied_segments_are_kept_as_long_as_asked),
		TEST(test_kept_segments_give_way_before_the_spool_is_full),
		TEST(test_what_voids_a_transaction_outlives_it),
		TEST(test_leftovers_of_a_crash_while_making_a_segment_are_removed),
		TEST(test_trap_27_one_huge_transaction_takes_little_memory),
		TEST(test_applied_gives_the_newest_whole_slot),
		TEST(test_applied_of_version_1_is_read),
		TEST(test_applied_cut_to_the_length_of_version_1_is_not_of_it),
		TEST(test_applied_with_a_torn_slot_gives_the_other),
	};
	data_setup();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
