/* check_machine: folders and disk space here. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cdc/commands/check.h"
#include "cdc/commands/status.h"
#include "proto/base/fsio.h"

/* The nearest folder above path (or path) that is there, in the arena. */
static const char *nearest_folder(struct arena *a, const char *path)
{
	char *p = arena_strdup(a, path);
	while (access(p, F_OK) != 0 && strrchr(p, '/') != NULL && strrchr(p, '/') != p)
		*strrchr(p, '/') = '\0';
	return access(p, F_OK) == 0 ? p : "/";
}

void check_folder(struct check *k, const char *key, const char *path, unsigned forbidden)
{
	struct stat st;
	const char *make =
		arena_printf(k->arena, "install -d -m 0700 -o USER %s (USER runs rolag)", path);
	if (stat(path, &st) != 0) {
		const char *above = nearest_folder(k->arena, path);
		if (access(above, W_OK | X_OK) == 0)
			check_ok(k, "%s: %s will be made at the first start", key, path);
		else
			check_fail(k, make, "%s: there is no %s, and %s is not ours to write", key,
				   path, above);
		return;
	}
	if (!S_ISDIR(st.st_mode))
		check_fail(k, "another path", "%s: %s is not a folder", key, path);
	else if (access(path, R_OK | W_OK | X_OK) != 0)
		check_fail(k, arena_printf(k->arena, "chown USER %s (USER runs rolag)", path),
			   "%s: this user may not write in %s", key, path);
	else if ((st.st_mode & forbidden) != 0)
		check_fail(k, arena_printf(k->arena, "chmod %04o %s", 0777 & ~forbidden, path),
			   "%s: %s has mode %04o, so others may read what is in it", key, path,
			   (unsigned)(st.st_mode & 0777));
	else
		check_ok(k, "%s: %s", key, path);
}

void check_inside(struct check *k, const char *key, const char *path, bool folders,
		  unsigned forbidden)
{
	DIR *d = opendir(path);
	char *first = NULL;
	unsigned mode = 0;
	int count = 0;
	if (d == NULL)
		return; /* not there yet, or told by check_folder */
	for (struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
		struct stat st;
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
		    fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
		    (folders ? !S_ISDIR(st.st_mode) : !S_ISREG(st.st_mode)) ||
		    (st.st_mode & forbidden) == 0)
			continue;
		if (count++ == 0) {
			first = arena_printf(k->arena, "%s/%s", path, e->d_name);
			mode = st.st_mode & 0777;
		}
	}
	closedir(d);
	if (count == 1)
		check_fail(k, arena_printf(k->arena, "chmod %04o %s", mode & ~forbidden, first),
			   "%s: %s has mode %04o, more than its own user needs", key, first, mode);
	else if (count > 1)
		check_fail(k,
			   arena_printf(k->arena,
					"find %s -maxdepth 1 -type %c -perm /%04o -exec chmod "
					"-- -%04o {} +",
					path, folders ? 'd' : 'f', forbidden, forbidden),
			   "%s: %s has mode %04o, more than its own user needs, and so have %d "
			   "others there",
			   key, first, mode, count - 1);
}

static void check_space(struct check *k)
{
	struct rt_err err;
	uint64_t free_bytes;
	struct buf have = BUF_INIT, want = BUF_INIT, quota = BUF_INIT;
	const char *at = nearest_folder(k->arena, k->s.spool.dir);
	if (fs_free_bytes(at, &free_bytes, &err) != 0) {
		check_error(k, "spool.dir", &err);
		return;
	}
	status_bytes(&have, free_bytes);
	status_bytes(&want, k->s.spool.reserve);
	status_bytes(&quota, k->s.spool.quota);
	if (free_bytes <= k->s.spool.reserve)
		check_fail(k, "free space there, another spool.dir, or a smaller spool.reserve",
			   "spool: %s free at %s, less than spool.reserve (%s): capture would not "
			   "read",
			   buf_cstr(&have), at, buf_cstr(&want));
	else if (free_bytes - k->s.spool.reserve < k->s.spool.quota)
		check_warn(k, "a smaller spool.quota, or more space",
			   "spool: %s free at %s; with spool.reserve (%s) the whole spool.quota "
			   "(%s) does not fit",
			   buf_cstr(&have), at, buf_cstr(&want), buf_cstr(&quota));
	else
		check_ok(k, "spool: %s free, quota %s", buf_cstr(&have), buf_cstr(&quota));
	buf_release(&have);
	buf_release(&want);
	buf_release(&quota);
}

void check_machine(struct check *k)
{
	check_folder(k, "state_dir", k->s.state_dir, 0027);
	check_inside(k, "state_dir", k->s.state_dir, false, 0027);
	check_folder(k, "spool.dir", k->s.spool.dir, 0077);
	check_inside(k, "spool.dir", k->s.spool.dir, false, 0077);
	check_space(k);
}
