/*
 * shim: preloaded into a role by the tests (network.py: Shim), makes its disk
 * and its wall clock misbehave. What it does is in a shared file, and may
 * change at any time. Only files below FAULTS_BELOW are touched.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Errors are errno values; 0 is none. Kept in step with Shim.FIELDS. */
struct faults {
	int64_t write_error;
	int64_t sync_error;
	int64_t create_error; /* open for writing, rename, unlink, ftruncate */
	int64_t delay_ms;     /* of every write and sync */
	int64_t clock_us;     /* added to the wall clock */
	int64_t short_bytes;  /* a write that fails has written so many before it */
	int64_t hits;	      /* counted here: calls that were made to fail */
};

int open(const char *path, int flags, ...);
int rename(const char *from, const char *to);

static volatile struct faults *faults;
static const char *below;

static void __attribute__((constructor)) set_up(void)
{
	const char *path = getenv("FAULTS_FILE");
	below = getenv("FAULTS_BELOW");
	if (path == NULL || below == NULL)
		return;
	int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
	int fd = real(path, O_RDWR | O_CLOEXEC);
	void *p = fd < 0 ? MAP_FAILED
			 : mmap(NULL, sizeof(*faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		fprintf(stderr, "shim: cannot map %s\n", path);
		_exit(99);
	}
	close(fd);
	faults = p;
}

static bool is_ours(const char *path)
{
	return faults != NULL && path != NULL && strncmp(path, below, strlen(below)) == 0;
}

static bool is_ours_fd(int fd)
{
	char name[64], path[4096];
	if (faults == NULL)
		return false;
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(name, path, sizeof(path) - 1);
	if (n <= 0)
		return false;
	path[n] = '\0';
	return is_ours(path);
}

static bool fails(int64_t error)
{
	if (error == 0)
		return false;
	__atomic_add_fetch(&faults->hits, 1, __ATOMIC_SEQ_CST);
	errno = (int)error;
	return true;
}

static void delay(void)
{
	int64_t ms = faults->delay_ms;
	struct timespec t = {ms / 1000, ms % 1000 * 1000000};
	if (ms > 0)
		nanosleep(&t, NULL);
}

static bool write_fails(int fd)
{
	if (faults == NULL || (faults->write_error == 0 && faults->delay_ms == 0) ||
	    !is_ours_fd(fd))
		return false;
	delay();
	return fails(faults->write_error);
}

ssize_t write(int fd, const void *p, size_t bytes)
{
	ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
	if (!write_fails(fd))
		return real(fd, p, bytes);
	int error = errno;
	size_t some = (size_t)faults->short_bytes;
	if (some > 0 && some < bytes) {
		faults->short_bytes = 0; /* the rest of it fails */
		return real(fd, p, some);
	}
	errno = error;
	return -1;
}

ssize_t pwrite(int fd, const void *p, size_t bytes, off_t at)
{
	ssize_t (*real)(int, const void *, size_t, off_t) = dlsym(RTLD_NEXT, "pwrite");
	return write_fails(fd) ? -1 : real(fd, p, bytes, at);
}

static bool sync_fails(int fd)
{
	if (faults == NULL || (faults->sync_error == 0 && faults->delay_ms == 0) || !is_ours_fd(fd))
		return false;
	delay();
	return fails(faults->sync_error);
}

int fdatasync(int fd)
{
	int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
	return sync_fails(fd) ? -1 : real(fd);
}

/* An fdatasync that is not waited for (proto/base/aio.c): it fails where it begins. */
int io_submit(io_context_t context, long count, struct iocb *requests[])
{
	int (*real)(io_context_t, long, struct iocb **) = dlsym(RTLD_NEXT, "io_submit");
	return sync_fails(requests[0]->aio_fildes) ? -errno : real(context, count, requests);
}

int fsync(int fd)
{
	int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
	return sync_fails(fd) ? -1 : real(fd);
}

int open(const char *path, int flags, ...)
{
	int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
	va_list ap;
	va_start(ap, flags);
	mode_t mode = (flags & O_CREAT) != 0 ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	if (is_ours(path) && (flags & (O_WRONLY | O_RDWR | O_CREAT)) != 0 &&
	    fails(faults->create_error))
		return -1;
	return real(path, flags, mode);
}

int rename(const char *from, const char *to)
{
	int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
	return is_ours(to) && fails(faults->create_error) ? -1 : real(from, to);
}

int unlink(const char *path)
{
	int (*real)(const char *) = dlsym(RTLD_NEXT, "unlink");
	return is_ours(path) && fails(faults->create_error) ? -1 : real(path);
}

int ftruncate(int fd, off_t bytes)
{
	int (*real)(int, off_t) = dlsym(RTLD_NEXT, "ftruncate");
	return faults != NULL && faults->create_error != 0 && is_ours_fd(fd) &&
			       fails(faults->create_error)
		       ? -1
		       : real(fd, bytes);
}

int clock_gettime(clockid_t clock, struct timespec *ret)
{
	int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
	int rc = real(clock, ret);
	if (rc == 0 && clock == CLOCK_REALTIME && faults != NULL && faults->clock_us != 0) {
		int64_t us =
			(int64_t)ret->tv_sec * 1000000 + ret->tv_nsec / 1000 + faults->clock_us;
		ret->tv_sec = (time_t)(us / 1000000);
		ret->tv_nsec = us % 1000000 * 1000;
	}
	return rc;
}

/* PostgreSQL asks this one. */
int gettimeofday(struct timeval *restrict ret, void *restrict zone)
{
	int (*real)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
	int rc = real(ret, zone);
	if (rc == 0 && faults != NULL && faults->clock_us != 0) {
		int64_t us = (int64_t)ret->tv_sec * 1000000 + ret->tv_usec + faults->clock_us;
		ret->tv_sec = us / 1000000;
		ret->tv_usec = us % 1000000;
	}
	return rc;
}
