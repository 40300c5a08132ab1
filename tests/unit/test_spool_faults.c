/*
 * The spool on a disk that fails once, at every place where it can: each call
 * is an error or does without, and nothing that was durable is lost.
 */
#include "tests/unit/spool_data.h"

#include <dlfcn.h>
#include <errno.h>
#include <libaio.h>
#include <stdarg.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/random.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#include "proto/base/failpoint.h"
#include "proto/spool_internal.h"

/* ---- a disk that fails once: these stand in for libc's ---- */

static struct {
	unsigned left;	    /* this many calls until one fails; 0: none does */
	int error;	    /* 0: pread gives nothing, which is no error */
	const char *only;   /* NULL: any call */
	bool twice;	    /* the call behind it fails as well */
	const char *failed; /* what failed; NULL: nothing yet */
} fault;

static bool fails(const char *what)
{
	if (fault.left == 0 || (fault.only != NULL && strcmp(what, fault.only) != 0) ||
	    --fault.left > 0)
		return false;
	fault.left = fault.twice;
	fault.twice = false;
	fault.failed = what;
	errno = fault.error;
	return true;
}

#define FAULTY(type, bad, name, declaration, ...)                                                  \
	type name declaration                                                                      \
	{                                                                                          \
		return fails(#name) ? (type)(bad) : (type)syscall(__VA_ARGS__);                    \
	}

FAULTY(int, -1, rename, (const char *from, const char *to), SYS_rename, from, to)
FAULTY(int, -1, unlink, (const char *path), SYS_unlink, path)
FAULTY(int, -1, ftruncate, (int fd, off_t n), SYS_ftruncate, fd, n)
FAULTY(ssize_t, -1, write, (int fd, const void *p, size_t n), SYS_write, fd, p, n)
FAULTY(ssize_t, fault.error == 0 ? 0 : -1, pread, (int fd, void *p, size_t n, off_t at),
       SYS_pread64, fd, p, n, at)
FAULTY(ssize_t, -1, pwrite, (int fd, const void *p, size_t n, off_t at), SYS_pwrite64, fd, p, n, at)
FAULTY(ssize_t, -1, getrandom, (void *p, size_t n, unsigned flags), SYS_getrandom, p, n, flags)
FAULTY(int, -1, fstat, (int fd, struct stat *st), SYS_fstat, fd, st)
FAULTY(int, -1, fstatat, (int at, const char *path, struct stat *st, int flags), SYS_newfstatat, at,
       path, st, flags)

FAULTY(int, -1, unlinkat, (int at, const char *path, int flags), SYS_unlinkat, at, path, flags)
FAULTY(int, -1, mkdir, (const char *path, mode_t mode), SYS_mkdir, path, mode)
FAULTY(int, -1, flock, (int fd, int how), SYS_flock, fd, how)
FAULTY(int, -1, inotify_init1, (int flags), SYS_inotify_init1, flags)
FAULTY(int, -1, inotify_add_watch, (int fd, const char *path, uint32_t mask), SYS_inotify_add_watch,
       fd, path, mask)

#define FAULTY_REAL(type, bad, name, declaration, ...)                                             \
	type name declaration                                                                      \
	{                                                                                          \
		static type(*real) declaration;                                                    \
		*(void **)&real = dlsym(RTLD_NEXT, #name);                                         \
		return fails(#name) ? (bad) : real(__VA_ARGS__);                                   \
	}

FAULTY_REAL(DIR *, NULL, opendir, (const char *path), path)
FAULTY_REAL(struct dirent *, NULL, readdir, (DIR * d), d)
FAULTY_REAL(int, -1, statvfs, (const char *path, struct statvfs *st), path, st)

/* Not done: only their failing matters here. */
int fdatasync(int fd)
{
	return fails("fdatasync") ? -1 : 0;
}

int fsync(int fd)
{
	return fails("fsync") ? -1 : 0;
}

/* None: syncs are done at once, and closing need not wait for the kernel. */
int io_setup(int max, io_context_t *ret)
{
	return -ENOSYS;
}

int open(const char *path, int flags, ...)
{
	va_list ap;
	va_start(ap, flags);
	mode_t mode = (flags & O_CREAT) != 0 ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	return fails("open") ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

/* ---- a day of a spool ---- */

static const struct spool_options small = {
	.segment_bytes = 700, .quota_bytes = 1 << 30, .frame_bytes = 150, .retain_us = 0};

static char *dir;
static struct rt_err err;
/* Ends of what was durable, and of what was let go of, as far as the day got. */
static uint64_t durable, applied;

static int append(struct spool_writer *w, struct change c)
{
	int rc = spool_append(w, &c, &err);
	return rc == ERR_SYSTEM && c.kind != CHANGE_COMMIT ? 0 : rc; /* it was taken all the same */
}

static int transaction(struct spool_writer *w, uint64_t end)
{
	struct value v[5];
	int rc = append(w, data_begin(end - 8, 7));
	for (int i = 0; rc == 0 && i < 3; i++)
		rc = append(w, data_event(v, end - 9, "{\"a\": \"some text that fills a frame\"}"));
	return rc == 0 ? append(w, data_commit(end - 8, end)) : rc;
}

static int write_day(uint64_t from, uint64_t to)
{
	struct spool_writer *w;
	durable = from; /* a start cuts off what lies beyond: it comes again */
	int rc = spool_writer_open(&w, dir, &data_identity, &small, data_lsn(from), &err);
	if (rc != 0)
		return rc;
	for (uint64_t end = from + 0x10; rc == 0 && end <= to; end += 0x10) {
		if ((rc = transaction(w, end)) == 0 && (rc = spool_sync(w, &err)) == 0)
			durable = end;
		(void)spool_is_full(w);
	}
	if (rc == 0)
		rc = append(w, data_progress(to + 8));
	if (rc == 0) {
		applied = from; /* from here on it may be gone */
		rc = spool_trim(w, data_lsn(from), &err);
	}
	spool_writer_close(w);
	return rc;
}

/* Reads until there is nothing at two looks; *ret: the end of the last transaction or gap. */
static int read_day(uint64_t from, uint64_t *ret)
{
	struct spool_reader *r;
	struct arena a;
	struct change c;
	int rc = 0;
	arena_init(&a, 1024);
	*ret = from;
	assert_rc(spool_reader_open(&r, dir, data_lsn(from), 200, NULL, &err), err);
	for (unsigned looks = 0; looks < 2 && (rc = spool_reader_next(r, &a, &c, &err)) >= 0;) {
		looks = rc == 0 ? looks + 1 : 0;
		if (rc == 1 && (c.kind == CHANGE_COMMIT || c.kind == CHANGE_GAP))
			*ret = c.lsn.v;
	}
	spool_reader_close(r);
	arena_release(&a);
	return rc;
}

static int tell(uint64_t at)
{
	struct applied_file *f;
	struct applied_position p = {.applied = {at}, .timeline = 3}, got = {0};
	int rc = applied_open(&f, dir, &err);
	if (rc != 0)
		return rc;
	rc = applied_write(f, &p, &err);
	applied_close(f);
	if (rc == 0)
		rc = applied_read(dir, &got, &err);
	if (rc == 1)
		assert_int_equal(got.applied.v, at);
	return rc < 0 ? rc : 0;
}

/* Every frame fills a segment, and each kind of change comes behind each other. */
static int write_edges(uint64_t from, uint64_t to)
{
	struct spool_options tiny = small;
	struct spool_writer *w;
	struct value v[5];
	tiny.segment_bytes = 100;
	durable = from;
	int rc = spool_writer_open(&w, dir, &data_identity, &tiny, data_lsn(from), &err);
	if (rc != 0)
		return rc;
	const struct change alone = {.kind = CHANGE_MESSAGE,
				     .lsn = {from},
				     .prefix = "alone",
				     .content = slice_of("x", 1)};
	for (uint64_t end = from + 0x10; rc == 0 && end <= to; end += 0x10) {
		const unsigned turn = (unsigned)(end / 0x10 % 4);
		rc = append(w, data_begin(end - 8, 7));
		for (unsigned i = 0; rc == 0 && i < (turn == 0 ? 4 : 1); i++)
			rc = append(w, data_event(v, end - 9, "{\"a\": \"text that fills it\"}"));
		if (rc == 0)
			rc = append(w, data_commit(end - 8, end));
		if (rc == 0 && turn == 1)
			rc = append(w, data_progress(end));
		if (rc == 0 && turn == 1)
			rc = append(w, data_progress(end + 1));
		if (rc == 0 && turn == 2)
			rc = append(w, alone);
		if (rc == 0 && turn == 2)
			rc = append(w, data_progress(end + 1));
		if (rc == 0 && turn == 3)
			rc = append(w, data_begin(end, 8));
		if (rc == 0 && turn == 3)
			rc = spool_abort_transaction(w, &err);
		if (rc == 0 && turn == 0 && (rc = spool_sync_begin(w, &err)) == 0) {
			while ((rc = spool_sync_end(w, &err)) == 0)
				;
			rc = RT_MIN(rc, 0);
		}
	}
	if (rc == 0 && (rc = spool_sync(w, &err)) == 0)
		durable = to;
	if (rc == 0) {
		applied = to;
		rc = spool_trim(w, data_lsn(to), &err);
	}
	spool_writer_close(w);
	return rc;
}

/* The slot was lost at `from`, and goes on at `to`. */
static int write_gap(uint64_t to)
{
	struct spool_options o = small;
	struct spool_writer *w;
	struct lsn end;
	o.accept_gap = true;
	int rc = spool_end(dir, &data_identity, &end, &err);
	if (rc < 0 || (rc = spool_writer_open(&w, dir, &data_identity, &o, data_lsn(to), &err)) < 0)
		return rc;
	durable = to;
	spool_writer_close(w);
	return 0;
}

/* A file that a writer was making when it ended. */
static void leave_temporary(void)
{
	char *path = rt_sprintf("%s/00000009-0000000000000100.seg.tmp", dir);
	int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT, 0600);
	assert_true(fd >= 0);
	close(fd);
	free(path);
}

static int day(void)
{
	uint64_t last;
	leave_temporary();
	int rc = write_day(0x100, 0x180);
	if (rc == 0 && (rc = tell(0x140)) == 0 && (rc = read_day(0x100, &last)) == 0)
		assert_int_equal(last, 0x180);
	if (rc == 0 && (rc = write_day(0x140, 0x1C0)) == 0 && (rc = read_day(0x140, &last)) == 0)
		assert_int_equal(last, 0x1C0);
	if (rc == 0 && (rc = write_edges(0x1B0, 0x200)) == 0 && (rc = read_day(0x200, &last)) == 0)
		assert_int_equal(last, 0x200);
	if (rc == 0 && (rc = write_gap(0x280)) == 0 && (rc = read_day(0x200, &last)) == 0)
		assert_int_equal(last, 0x280);
	if (rc == 0 && (rc = write_day(0x280, 0x2A0)) == 0 && (rc = read_day(0x200, &last)) == 0)
		assert_int_equal(last, 0x2A0);
	return rc;
}

/* A day on which something may fail, and what must hold behind it: whether there was an error. */
static bool live_a_day(void)
{
	uint64_t last;
	dir = data_mkdir();
	applied = durable = 0x100;
	int rc = day();
	fault.left = 0;
	if (rc != 0) {
		assert_true(rc == ERR_SYSTEM || rc == ERR_PERMANENT);
		assert_true(err.msg[0] != '\0');
	}
	/* The disk is whole again: all that was durable is there, and can be gone on with. */
	assert_rc(read_day(applied, &last), err);
	assert_true(last >= durable);
	if (durable > 0x100)
		assert_rc(write_day(durable, durable + 0x20), err);
	data_rmdir(dir);
	return rc != 0;
}

static void sweep(int error)
{
	unsigned n = 0, errors = 0;
	do {
		fault.left = ++n;
		fault.error = error;
		fault.failed = NULL;
		errors += live_a_day() && fault.failed != NULL;
	} while (fault.failed != NULL);
	assert_true(errors > 20);
}

static void test_every_call_fails_once(void **state)
{
	sweep(EIO);
}

static void test_every_call_is_interrupted_once(void **state)
{
	sweep(EINTR);
}

/* Reading only: files go away, or become shorter, between two looks at them. */
static void sweep_reading(int error)
{
	unsigned n = 0;
	uint64_t last;
	fault.only = error == 0 ? "pread" : NULL;
	dir = data_mkdir();
	assert_rc(write_day(0x100, 0x240), err);
	assert_rc(write_gap(0x280), err);
	do {
		struct lsn end;
		fault.left = ++n;
		fault.error = error;
		fault.failed = NULL;
		int rc = read_day(0x100, &last);
		if (rc == 0)
			(void)!spool_end(dir, &data_identity, &end, &err);
		fault.left = 0;
		assert_true(rc == 0 || rc == ERR_SYSTEM || rc == ERR_PERMANENT);
		assert_rc(read_day(0x100, &last), err);
		assert_int_equal(last, 0x280);
	} while (fault.failed != NULL);
	assert_true(n > 4);
	fault.only = NULL;
	data_rmdir(dir);
}

static void test_what_goes_away_while_it_is_read(void **state)
{
	sweep_reading(ENOENT);
}

static void test_what_is_cut_back_while_it_is_read(void **state)
{
	sweep_reading(0);
}

/* Makes behind the last segment a tail that has to be searched: it seems to hold a large frame. */
static void leave_tail(void)
{
	enum { BYTES = 100, AT = 20 };
	uint8_t tail[BYTES];
	struct segment_list list = {0};
	char name[SPOOL_NAME_BYTES];
	memset(tail, 0xAA, sizeof(tail));
	be32_put(tail + AT + 8, FRAME_MAGIC);
	be32_put(tail + AT + 16, 1 << 20);
	assert_rc(segment_list_read(&list, dir, &err), err);
	const struct segment_entry *e = &list.entry[list.count - 1];
	segment_name(name, e->generation, e->start);
	char *path = rt_sprintf("%s/%s", dir, name);
	int fd = open(path, O_WRONLY | O_APPEND);
	assert_int_equal(write(fd, tail, sizeof(tail)), sizeof(tail));
	close(fd);
	free(path);
	segment_list_release(&list);
}

/* Reads with each call (or `only`) failing once; last is the end of all there is. */
static void sweep_one_reader(const char *only, uint64_t end)
{
	uint64_t last;
	unsigned n = 0, errors = 0;
	fault.error = EIO;
	fault.only = only;
	do {
		fault.left = ++n;
		fault.failed = NULL;
		int rc = read_day(0x100, &last);
		fault.left = 0;
		assert_true(rc == ERR_SYSTEM || (rc == 0 && last == end));
		errors += rc != 0;
	} while (fault.failed != NULL);
	assert_true(errors > 3);
	fault.only = NULL;
}

static void test_a_tail_whose_search_fails(void **state)
{
	dir = data_mkdir();
	assert_rc(write_day(0x100, 0x140), err);
	leave_tail();
	sweep_one_reader(NULL, 0x140);
	data_rmdir(dir);
}

/* One that is not held in memory but read a second time. */
static void test_a_large_transaction_whose_reading_fails(void **state)
{
	struct spool_writer *w;
	struct value v[5];
	dir = data_mkdir();
	assert_rc(spool_writer_open(&w, dir, &data_identity, &small, data_lsn(0x100), &err), err);
	data_append(w, data_begin(0x1F8, 7));
	for (unsigned i = 0; i < 8000; i++)
		data_append(w, data_event(v, 0x1F0, "{\"a\": \"some text that fills a frame\"}"));
	data_append(w, data_commit(0x1F8, 0x200));
	assert_rc(spool_write(w, &err), err);
	spool_writer_close(w);
	sweep_one_reader("pread", 0x200);
	data_rmdir(dir);
}

/* A segment that is listed and cannot be opened any more: nobody but a writer lets go of one. */
static void test_a_writer_whose_segments_go_away_does_not_begin(void **state)
{
	uint64_t last;
	dir = data_mkdir();
	assert_rc(write_day(0x100, 0x180), err);
	fault.error = ENOENT;
	fault.only = "open";
	for (unsigned n = 1; n <= 3; n++) {
		struct spool_writer *w;
		fault.left = n;
		assert_int_equal(spool_writer_open(&w, dir, &data_identity, &small, data_lsn(0x180),
						   &err),
				 ERR_SYSTEM);
		assert_int_equal(fault.left, 0);
	}
	assert_says(err, "went away");
	fault.only = NULL;
	assert_rc(read_day(0x100, &last), err);
	assert_int_equal(last, 0x180);
	data_rmdir(dir);
}

/* The disk is full, and what was written of the frame cannot be cut off: nothing goes on behind it. */
static void test_a_write_that_cannot_be_taken_back_is_final(void **state)
{
	struct spool_writer *w;
	uint64_t last;
	dir = data_mkdir();
	assert_rc(spool_writer_open(&w, dir, &data_identity, &small, data_lsn(0x100), &err), err);
	data_transaction(w, 0x110, 1);
	assert_rc(spool_sync(w, &err), err);
	data_transaction(w, 0x120, 1);
	fault.error = ENOSPC;
	fault.twice = true;
	fault.left = 1;
	assert_int_equal(spool_sync(w, &err), ERR_SYSTEM);
	assert_string_equal(fault.failed, "ftruncate");
	assert_int_equal(spool_sync(w, &err), ERR_SYSTEM);
	assert_int_equal(spool_durable(w).v, 0x110);
	spool_writer_close(w);
	assert_rc(read_day(0x100, &last), err);
	assert_int_equal(last, 0x110);
	data_rmdir(dir);
}

/* Reads a day through the descriptor. */
static void read_watched(bool has_descriptor)
{
	struct spool_reader *r;
	struct arena a;
	struct change c = {0};
	arena_init(&a, 1024);
	assert_rc(spool_reader_open(&r, dir, data_lsn(0x100), 200, NULL, &err), err);
	assert_int_equal(spool_reader_fd(r) >= 0, has_descriptor);
	while (c.kind != CHANGE_COMMIT || c.lsn.v < 0x140)
		assert_int_equal(spool_reader_next(r, &a, &c, &err), 1);
	spool_reader_close(r);
	arena_release(&a);
}

/* Without its descriptor or a watch, a reader finds all the same what there is. */
static void test_a_reader_without_watches(void **state)
{
	static const char *const calls[] = {"inotify_init1", "inotify_add_watch",
					    "inotify_add_watch", "inotify_add_watch"};
	dir = data_mkdir();
	assert_rc(write_day(0x100, 0x140), err);
	fault.error = EMFILE;
	for (unsigned i = 0; i < ARRAY_LEN(calls); i++) {
		fault.only = calls[i];
		fault.left = RT_MAX(i, 1);
		read_watched(i > 0);
		assert_int_equal(fault.left, 0); /* it did fail */
	}
	fault.only = NULL;
	data_rmdir(dir);
}

#ifdef ROLAG_FAILPOINTS

static const struct {
	const char *name;
	int can;
} points[FP_COUNT] = {
#define FAILPOINT_DEF(id, text, can, help) [FP_##id] = {text, can},
#include "proto/base/failpoints.def"
#undef FAILPOINT_DEF
};

static void set_point(int id, const char *action, unsigned hit)
{
	char *text = rt_sprintf("%s=%s@%u", points[id].name, action, hit);
	assert_rc(fp_configure(text, &err), err);
	free(text);
}

/* The failpoints stand where the calls do. Which of them fire: tests/system/test_failpoints.py asks. */
static void test_every_failpoint_of_the_spool_fails_once(void **state)
{
	static const char *const actions[] = {"EIO", "ENOENT", "short"};
	static const int needs[] = {FP_ERRNO, FP_ERRNO, FP_SHORT};
	for (int id = FP_SPOOL_OPEN_DIR; id <= FP_APPLIED_OPEN_READ; id++)
		for (unsigned i = 0; i < 2 * ARRAY_LEN(actions); i++) {
			const unsigned how = i / 2;
			if ((points[id].can & needs[how]) == 0)
				continue;
			set_point(id, actions[how], 1 + 4 * (i % 2));
			dir = data_mkdir();
			applied = durable = 0x100;
			int rc = day();
			assert_true(rc == 0 || rc == ERR_SYSTEM || rc == ERR_PERMANENT);
			set_point(id, actions[how], UINT32_MAX);
			data_rmdir(dir);
		}
}

static void test_failpoints_of_watches_and_of_a_second_failure(void **state)
{
	static const int watches[] = {FP_READER_INOTIFY, FP_READER_WATCH_DIR, FP_READER_WATCH};
	struct spool_writer *w;
	dir = data_mkdir();
	assert_rc(write_day(0x100, 0x140), err);
	for (unsigned i = 0; i < ARRAY_LEN(watches); i++) {
		set_point(watches[i], "EMFILE", 1);
		read_watched(i > 0);
	}
	assert_rc(spool_writer_open(&w, dir, &data_identity, &small, data_lsn(0x140), &err), err);
	data_transaction(w, 0x150, 1);
	assert_rc(fp_configure("spool.write=EIO;spool.truncate=EIO", &err), err);
	assert_int_equal(spool_write(w, &err), ERR_SYSTEM);
	assert_int_equal(spool_write(w, &err), ERR_SYSTEM); /* is final */
	spool_writer_close(w);
	data_rmdir(dir);
}

#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_call_fails_once),
		cmocka_unit_test(test_every_call_is_interrupted_once),
		cmocka_unit_test(test_what_goes_away_while_it_is_read),
		cmocka_unit_test(test_what_is_cut_back_while_it_is_read),
		cmocka_unit_test(test_a_tail_whose_search_fails),
		cmocka_unit_test(test_a_large_transaction_whose_reading_fails),
		cmocka_unit_test(test_a_writer_whose_segments_go_away_does_not_begin),
		cmocka_unit_test(test_a_write_that_cannot_be_taken_back_is_final),
		cmocka_unit_test(test_a_reader_without_watches),
#ifdef ROLAG_FAILPOINTS
		cmocka_unit_test(test_every_failpoint_of_the_spool_fails_once),
		cmocka_unit_test(test_failpoints_of_watches_and_of_a_second_failure),
#endif
	};
	data_setup();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
