/* target: folders of runs. Guarantees: what has a run's name was whole and on disk before it had it. */
#include "apply/reports/target.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/failpoint.h"
#include "proto/base/fsio.h"

#define MAKING	  ".making-"
#define ID_LENGTH 36

static bool is_run_id(const char *name)
{
	return strlen(name) == ID_LENGTH && strspn(name, "0123456789abcdef-") == ID_LENGTH;
}

static void making_path(const char *target, const char *run_id, char out[TARGET_PATH_MAX])
{
	RT_ASSERT(is_run_id(run_id));
	snprintf(out, TARGET_PATH_MAX, "%s/" MAKING "%s", target, run_id);
}

void target_path(const char *target, const char *run_id, const char *path,
		 char out[TARGET_PATH_MAX])
{
	RT_ASSERT(is_run_id(run_id));
	snprintf(out, TARGET_PATH_MAX, "%s/%s%s%s", target, run_id, path[0] != '\0' ? "/" : "",
		 path);
}

/* ---- taking away: two levels, files and folders of files ---- */

static int remove_at(int parent, const char *name, int depth, const char *path, struct rt_err *err);

static int remove_entries(int fd, int depth, const char *path, struct rt_err *err)
{
	int rc = 0;
	struct dirent *e;
	DIR *dir = fdopendir(fd);
	if (dir == NULL) {
		rc = rt_fail_errno(err, ERR_SYSTEM, "cannot list %s", path);
		close(fd);
		return rc;
	}
	while (rc == 0 && (e = readdir(dir)) != NULL)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			rc = remove_at(dirfd(dir), e->d_name, depth + 1, path, err);
	closedir(dir);
	return rc;
}

static int remove_at(int parent, const char *name, int depth, const char *path, struct rt_err *err)
{
	int fd = depth > 2 ? -1
			   : openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0) {
		int rc = remove_entries(fd, depth, path, err);
		if (rc != 0)
			return rc;
	} else if (errno == ENOENT) {
		return 0;
	}
	if (unlinkat(parent, name, fd >= 0 ? AT_REMOVEDIR : 0) != 0 && errno != ENOENT)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot remove %s/%s", path, name);
	return 0;
}

static int remove_tree(const char *path, struct rt_err *err)
{
	struct stat st;
	if (lstat(path, &st) != 0 && errno == ENOENT)
		return 0;
	return remove_at(AT_FDCWD, path, 0, path, err);
}

/* ---- making ---- */

int target_begin(const char *target, const char *run_id, char out[TARGET_PATH_MAX],
		 struct rt_err *err)
{
	making_path(target, run_id, out);
	int rc = fs_mkdirs(target, 0750, err);
	if (rc == 0)
		rc = remove_tree(out, err);
	FAILPOINT(REPORTS_TARGET_BEGIN);
	if (rc == 0 && (FP_FAILS(REPORTS_TARGET_MKDIR) || mkdir(out, 0750) != 0))
		rc = rt_fail_errno(err, ERR_SYSTEM, "cannot create %s", out);
	return rc;
}

int target_add_folder(const char *folder, const char *norm, struct rt_err *err)
{
	char path[TARGET_PATH_MAX];
	snprintf(path, sizeof(path), "%s/%s", folder, norm);
	if (mkdir(path, 0750) != 0 && errno != EEXIST)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot create %s", path);
	return 0;
}

int target_sync(const char *folder, struct rt_err *err)
{
	int rc = 0;
	struct dirent *e;
	DIR *dir = opendir(folder);
	if (dir == NULL)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot list %s", folder);
	while (rc == 0 && (e = readdir(dir)) != NULL) {
		char path[TARGET_PATH_MAX];
		if (e->d_type != DT_DIR || e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", folder, e->d_name);
		rc = fs_sync_dir(path, err);
	}
	closedir(dir);
	return rc == 0 ? fs_sync_dir(folder, err) : rc;
}

int target_publish(const char *target, const char *run_id, struct rt_err *err)
{
	char from[TARGET_PATH_MAX], to[TARGET_PATH_MAX];
	making_path(target, run_id, from);
	target_path(target, run_id, "", to);
	FAILPOINT(REPORTS_BEFORE_RENAME);
	if (access(from, F_OK) != 0 && errno == ENOENT && access(to, F_OK) == 0)
		return 0; /* it was done, and its transaction was rolled back */
	int rc = FP_FAILS(REPORTS_RENAME) ? -1 : rename(from, to);
	if (rc != 0 && (errno == ENOTEMPTY || errno == EEXIST)) {
		rc = renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE);
		if (rc == 0 && remove_tree(from, err) != 0)
			return err->code;
	}
	if (rc != 0)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot rename %s to %s", from, to);
	FAILPOINT(REPORTS_AFTER_RENAME);
	return fs_sync_dir(target, err);
}

int target_discard(const char *target, const char *run_id, bool visible, struct rt_err *err)
{
	char path[TARGET_PATH_MAX];
	making_path(target, run_id, path);
	int rc = remove_tree(path, err);
	if (rc == 0 && visible) {
		target_path(target, run_id, "", path);
		rc = remove_tree(path, err);
	}
	return rc;
}

int target_walk(const char *target,
		int (*one)(void *ctx, const char *run_id, bool visible, struct rt_err *err),
		void *ctx, struct rt_err *err)
{
	int rc = 0;
	struct dirent *e;
	DIR *dir = opendir(target);
	if (dir == NULL)
		return errno == ENOENT ? 0
				       : rt_fail_errno(err, ERR_SYSTEM, "cannot list %s", target);
	while (rc == 0 && (e = readdir(dir)) != NULL) {
		bool making = strncmp(e->d_name, MAKING, strlen(MAKING)) == 0;
		const char *id = e->d_name + (making ? strlen(MAKING) : 0);
		if (is_run_id(id))
			rc = one(ctx, id, !making, err);
	}
	closedir(dir);
	return rc;
}
