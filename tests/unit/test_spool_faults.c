/*
 * The spool on a disk that fails once, at every place where it can: each call
 * is an error or does without, and nothing that was durable is lost.
 */
#include "tests/unit/spool_data.h"

#include <errno.h>
#include <stdarg.h>
#include <sys/random.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#include "proto/spool_internal.h"

/* ---- a disk that fails once: these stand in for libc's ---- */

static struct {
	unsigned left; /* this many calls until one fails; 0: none does */
	int error;
	const char *failed; /* what failed; NULL: nothing yet */
} fault;

static bool fails(const char *what)
{
	if (fault.left == 0 || --fault.left > 0)
		return false;
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
FAULTY(ssize_t, -1, pread, (int fd, void *p, size_t n, off_t at), SYS_pread64, fd, p, n, at)
FAULTY(ssize_t, -1, pwrite, (int fd, const void *p, size_t n, off_t at), SYS_pwrite64, fd, p, n, at)
FAULTY(ssize_t, -1, getrandom, (void *p, size_t n, unsigned flags), SYS_getrandom, p, n, flags)
FAULTY(int, -1, fstat, (int fd, struct stat *st), SYS_fstat, fd, st)
FAULTY(int, -1, fstatat, (int at, const char *path, struct stat *st, int flags), SYS_newfstatat, at,
       path, st, flags)

/* Not done: only their failing matters here. */
int fdatasync(int fd)
{
	return fails("fdatasync") ? -1 : 0;
}

int fsync(int fd)
{
	return fails("fsync") ? -1 : 0;
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

/* Reads to the end; *ret: the last transaction's. */
static int read_day(uint64_t from, uint64_t *ret)
{
	struct spool_reader *r;
	struct arena a;
	struct change c;
	int rc;
	arena_init(&a, 1024);
	*ret = from;
	assert_rc(spool_reader_open(&r, dir, data_lsn(from), 200, NULL, &err), err);
	while ((rc = spool_reader_next(r, &a, &c, &err)) == 1)
		if (c.kind == CHANGE_COMMIT)
			*ret = c.lsn.v;
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

static int day(void)
{
	uint64_t last;
	int rc = write_day(0x100, 0x180);
	if (rc == 0 && (rc = tell(0x140)) == 0 && (rc = read_day(0x100, &last)) == 0)
		assert_int_equal(last, 0x180);
	if (rc == 0 && (rc = write_day(0x140, 0x1C0)) == 0 && (rc = read_day(0x140, &last)) == 0)
		assert_int_equal(last, 0x1C0);
	return rc;
}

static void sweep(int error)
{
	unsigned n = 0, errors = 0;
	do {
		uint64_t last;
		dir = data_mkdir();
		applied = 0x100;
		fault.left = ++n;
		fault.error = error;
		fault.failed = NULL;
		int rc = day();
		fault.left = 0;
		if (fault.failed != NULL && rc != 0) {
			assert_true(rc == ERR_SYSTEM || rc == ERR_PERMANENT);
			assert_true(err.msg[0] != '\0');
			errors++;
		}
		/* The disk is whole again: all that was durable is there, and can be gone on with. */
		assert_rc(read_day(applied, &last), err);
		assert_true(last >= durable);
		if (durable > 0x100)
			assert_rc(write_day(durable, durable + 0x20), err);
		data_rmdir(dir);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_call_fails_once),
		cmocka_unit_test(test_every_call_is_interrupted_once),
	};
	data_setup();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
