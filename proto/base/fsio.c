/* fsio: whole writes, whole reads, durable names. Guarantees: 0 means done, and fsync was not retried. */
#include "proto/base/fsio.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "proto/base/failpoint.h"

#define LOCK_TRY_MS 20

int fs_write_all(int fd, const void *p, size_t bytes, const char *path, struct rt_err *err)
{
	const uint8_t *at = p;
	while (bytes > 0) {
		ssize_t n = -1;
		if (!FP_FAILS(FS_WRITE) && !(at != p && FP_FAILS(FS_WRITE_REST)))
			n = write(fd, at, FP_BYTES(FS_WRITE_SHORT, bytes));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return rt_fail_errno(err, ERR_SYSTEM, "cannot write %s", path);
		at += n;
		bytes -= (size_t)n;
	}
	return 0;
}

int fs_read_at(int fd, void *p, size_t bytes, uint64_t offset, const char *path, struct rt_err *err)
{
	uint8_t *at = p;
	while (bytes > 0) {
		ssize_t n = -1;
		if (!FP_FAILS(FS_READ))
			n = pread(fd, at, FP_BYTES(FS_READ_SHORT, bytes), (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return rt_fail_errno(err, ERR_SYSTEM, "cannot read %s", path);
		if (n == 0)
			return 0;
		at += n;
		bytes -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 1;
}

/* Is it the operator's to mend? Anything else may be otherwise the next time. */
static enum rt_code open_failure(void)
{
	static const int permanent[] = {ENOENT, EACCES, EPERM,	     ENOTDIR,
					EISDIR, ELOOP,	ENAMETOOLONG};
	for (size_t i = 0; i < ARRAY_LEN(permanent); i++)
		if (errno == permanent[i])
			return ERR_PERMANENT;
	return ERR_SYSTEM;
}

int fs_read_file(const char *path, size_t max_bytes, char **ret, size_t *ret_len,
		 struct rt_err *err)
{
	int rc;
	struct stat st;
	char *text = NULL;
	int fd = FP_FAILS(FS_OPEN) ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return rt_fail_errno(err, open_failure(), "cannot open %s", path);
	if (FP_FAILS(FS_STAT) || fstat(fd, &st) != 0) {
		rc = rt_fail_errno(err, ERR_SYSTEM, "cannot stat %s", path);
		goto out;
	}
	if (!S_ISREG(st.st_mode) || st.st_size < 0 || (uint64_t)st.st_size > max_bytes) {
		rc = rt_fail(err, ERR_PERMANENT, "%s is not a file of at most %zu bytes", path,
			     max_bytes);
		goto out;
	}
	size_t len = (size_t)st.st_size;
	text = rt_malloc(len + 1);
	rc = fs_read_at(fd, text, len, 0, path, err);
	if (rc == 0)
		rc = rt_fail(err, ERR_SYSTEM, "%s changed while it was read", path);
	if (rc < 0)
		goto out;
	text[len] = '\0';
	*ret = text;
	*ret_len = len;
	text = NULL;
	rc = 0;
out:
	free(text);
	close(fd);
	return rc;
}

int fs_sync_data(int fd, const char *path, struct rt_err *err)
{
	if (FP_FAILS(FS_SYNC) || fdatasync(fd) != 0)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot sync %s to disk", path);
	return 0;
}

int fs_sync_dir(const char *path, struct rt_err *err)
{
	int fd = FP_FAILS(FS_OPEN_DIR) ? -1 : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot open directory %s", path);
	int rc = 0;
	if (FP_FAILS(FS_SYNC_DIR) || fsync(fd) != 0)
		rc = rt_fail_errno(err, ERR_SYSTEM, "cannot sync directory %s to disk", path);
	close(fd);
	return rc;
}

static int sync_parent(const char *path, struct rt_err *err)
{
	const char *slash = strrchr(path, '/');
	if (slash == NULL)
		return fs_sync_dir(".", err);
	char *dir = slash == path ? rt_strdup("/") : rt_strndup(path, (size_t)(slash - path));
	int rc = fs_sync_dir(dir, err);
	free(dir);
	return rc;
}

int fs_mkdirs(const char *path, unsigned mode, struct rt_err *err)
{
	char *copy = rt_strdup(path);
	int rc = 0;
	for (char *p = copy + 1;; p++) {
		char c = *p;
		if (c != '/' && c != '\0')
			continue;
		*p = '\0';
		if (!FP_FAILS(FS_MKDIR) && mkdir(copy, (mode_t)mode) == 0)
			rc = sync_parent(copy, err);
		else if (errno != EEXIST)
			rc = rt_fail_errno(err, ERR_SYSTEM, "cannot create directory %s", copy);
		if (rc != 0)
			break;
		*p = c;
		if (c == '\0')
			break;
	}
	free(copy);
	return rc;
}

int fs_replace_file(const char *path, const void *p, size_t bytes, unsigned mode,
		    struct rt_err *err)
{
	char *tmp = rt_sprintf("%s.tmp", path);
	int rc;
	int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, (mode_t)mode);
	if (fd < 0) {
		rc = rt_fail_errno(err, ERR_SYSTEM, "cannot create %s", tmp);
		goto out;
	}
	if ((rc = fs_write_all(fd, p, bytes, tmp, err)) != 0 ||
	    (rc = fs_sync_data(fd, tmp, err)) != 0)
		goto out;
	if (rename(tmp, path) != 0) {
		rc = rt_fail_errno(err, ERR_SYSTEM, "cannot rename %s to %s", tmp, path);
		goto out;
	}
	rc = sync_parent(path, err);
out:
	if (fd >= 0)
		close(fd);
	free(tmp);
	return rc;
}

int fs_free_bytes(const char *path, uint64_t *ret, struct rt_err *err)
{
	struct statvfs st;
	if (FP_FAILS(FS_STATVFS) || statvfs(path, &st) != 0)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot ask for free space of %s", path);
	*ret = (uint64_t)st.f_bavail * st.f_frsize;
	return 0;
}

/* flock, tried again for a while where another process has it. */
static int lock_within(int fd, int64_t wait_us)
{
	const int64_t until = rt_mono_us() + wait_us;
	int rc;
	while ((rc = flock(fd, LOCK_EX | LOCK_NB)) != 0 && errno == EWOULDBLOCK &&
	       rt_mono_us() < until)
		poll(NULL, 0, LOCK_TRY_MS);
	return rc;
}

int fs_lock(const char *path, int64_t wait_us, int *ret_fd, struct rt_err *err)
{
	char text[32] = "";
	int fd = FP_FAILS(FS_LOCK_OPEN) ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 && (errno == EACCES || errno == EPERM || errno == EROFS))
		return rt_fail_errno(
			err, ERR_PERMANENT,
			"cannot open %s (mend: let this process's user own its folder, "
			"and mount it writable)",
			path);
	if (fd < 0)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot open %s", path);
	if (FP_FAILS(FS_LOCK) || lock_within(fd, wait_us) != 0) {
		int rc, cause = errno;
		ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
		text[n > 0 ? n : 0] = '\0';
		errno = cause;
		rc = cause == EWOULDBLOCK ? rt_fail(err, ERR_PERMANENT,
						    "%s is locked by another process (pid %.20s)",
						    path, text[0] != '\0' ? text : "unknown")
					  : rt_fail_errno(err, ERR_SYSTEM, "cannot lock %s", path);
		close(fd);
		return rc;
	}
	int len = snprintf(text, sizeof(text), "%d", (int)getpid());
	if (FP_FAILS(FS_LOCK_WRITE) || ftruncate(fd, 0) != 0 ||
	    pwrite(fd, text, (size_t)len, 0) != len) {
		int rc = rt_fail_errno(err, ERR_SYSTEM, "cannot write %s", path);
		close(fd);
		return rc;
	}
	*ret_fd = fd;
	return 0;
}
