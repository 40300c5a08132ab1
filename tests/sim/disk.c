/*
 * disk: a file system in memory, behind the kernel's calls. Guarantees: after
 * a power loss there is what was synced, and of the rest what the seed says:
 * a prefix of the writes with the last one torn, or (FAULT_TORN) any of them;
 * names that were not synced come or go likewise. A sync that failed has lost
 * its pages for good, although they can be read until then.
 */
#include "tests/sim/sim.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "proto/base/aio.h"

#define FD_FIRST  1000
#define FDS	  64
#define NAMES	  512
#define PATH_MAX_ 96

struct file_op { /* a write, or (data NULL) a truncation to `at` */
	size_t at, len;
	uint8_t *data;
	bool lost;    /* its sync failed */
	bool syncing; /* there when the sync that is under way began */
};

struct inode {
	uint8_t *data, *disk; /* as it is read; as it is after a power loss, at least */
	size_t len, cap, disk_len, disk_cap;
	struct file_op *op;
	size_t op_count, op_cap;
	int links;
	int64_t modified_us;
	enum process locked; /* flock */
};

struct name {
	char path[PATH_MAX_];
	struct inode *inode;
	uint32_t born; /* process_turn */
};

struct names {
	struct name name[NAMES];
	size_t count;
};

enum name_op_kind { NAME_LINK, NAME_UNLINK, NAME_RENAME };

struct name_op {
	enum name_op_kind kind;
	char path[PATH_MAX_], to[PATH_MAX_];
	struct inode *inode;
};

struct descriptor {
	bool used;
	enum process owner;
	struct inode *inode; /* NULL: a directory, or inotify */
	char path[PATH_MAX_];
	size_t at;
	bool append, inotify;
	/* inotify: one watch of a directory and of a few files */
	int dir_watch, next_watch;
	struct inode *watched[8];
	int watched_id[8];
	uint32_t event[64][2]; /* watch, mask */
	size_t event_count;
};

struct sim_dir {
	struct descriptor *fd;
	char path[PATH_MAX_];
	size_t at;
	bool missed; /* a name */
	struct dirent entry;
};

struct disk_faults disk_faults;

static struct names *now_, *durable;
static struct name_op *pending; /* not synced yet */
static size_t pending_count, pending_cap;
static struct descriptor *fds;
static uint32_t missed_turn; /* in which a listing missed names: the next one does not */

/* ---- names ---- */

static struct name *find(struct names *n, const char *path)
{
	for (size_t i = 0; i < n->count; i++)
		if (strcmp(n->name[i].path, path) == 0)
			return &n->name[i];
	return NULL;
}

static void name_set(struct names *n, const char *path, struct inode *inode)
{
	struct name *at = find(n, path);
	if (at == NULL) {
		SIM_ASSERT(n->count < NAMES, "the simulation's disk has too few names");
		at = &n->name[n->count++];
		snprintf(at->path, sizeof(at->path), "%s", path);
	}
	at->inode = inode;
	at->born = process_turn;
}

static void name_drop(struct names *n, const char *path)
{
	struct name *at = find(n, path);
	if (at != NULL)
		*at = n->name[--n->count];
}

static void name_apply(struct names *n, const struct name_op *op)
{
	if (op->kind != NAME_LINK)
		name_drop(n, op->path);
	if (op->kind != NAME_UNLINK)
		name_set(n, op->kind == NAME_LINK ? op->path : op->to, op->inode);
}

static void event(const char *path, const struct inode *inode, uint32_t mask)
{
	for (int i = 0; i < FDS; i++) {
		struct descriptor *d = &fds[i];
		if (!d->used || !d->inotify)
			continue;
		size_t dir = strlen(d->path);
		int id = 0;
		if ((mask & IN_MOVED_TO) != 0 && d->dir_watch != 0 &&
		    strncmp(d->path, path, dir) == 0)
			id = d->dir_watch;
		for (size_t w = 0; w < ARRAY_LEN(d->watched) && (mask & IN_MODIFY) != 0; w++)
			if (d->watched[w] == inode && inode != NULL)
				id = d->watched_id[w];
		if (id != 0 && d->event_count < ARRAY_LEN(d->event)) {
			d->event[d->event_count][0] = (uint32_t)id;
			d->event[d->event_count++][1] = mask;
		}
	}
}

static void name_do(enum name_op_kind kind, const char *path, const char *to, struct inode *inode)
{
	pending = world_grow(pending, pending_count + 1, &pending_cap, sizeof(*pending));
	struct name_op *op = &pending[pending_count++];
	*op = (struct name_op){.kind = kind, .inode = inode};
	snprintf(op->path, sizeof(op->path), "%s", path);
	snprintf(op->to, sizeof(op->to), "%s", to);
	name_apply(now_, op);
	if (kind == NAME_RENAME)
		event(to, NULL, IN_MOVED_TO);
}

void disk_begin(void)
{
	now_ = world_alloc(sizeof(*now_));
	durable = world_alloc(sizeof(*durable));
	fds = world_alloc(FDS * sizeof(*fds));
	pending = NULL;
	pending_count = pending_cap = 0;
	missed_turn = 0;
	disk_faults = (struct disk_faults){0};
	name_set(now_, "/", NULL);
	name_set(now_, "/sim", NULL);
	*durable = *now_;
}

static bool is_in(const char *path, const char *dir)
{
	size_t n = strlen(dir);
	n -= dir[n - 1] == '/';
	return strncmp(path, dir, n) == 0 && path[n] == '/' && strchr(path + n + 1, '/') == NULL;
}

/* ---- bytes ---- */

static void put(uint8_t **p, size_t *len, size_t *cap, const struct file_op *op, size_t keep)
{
	if (op->data == NULL) {
		if (op->at < *len)
			memset(*p + op->at, 0, *len - op->at);
		*len = op->at;
		return;
	}
	if (keep == 0)
		return;
	size_t end = op->at + keep;
	*p = world_grow(*p, end, cap, 1);
	memcpy(*p + op->at, op->data, keep);
	*len = RT_MAX(*len, end);
}

static void file_do(struct inode *f, size_t at, const void *data, size_t len)
{
	struct file_op op = {.at = at, .len = len};
	if (data != NULL)
		op.data = memcpy(world_alloc(len + 1), data, len);
	f->op = world_grow(f->op, f->op_count + 1, &f->op_cap, sizeof(*f->op));
	f->op[f->op_count++] = op;
	put(&f->data, &f->len, &f->cap, &op, len);
	f->modified_us = sim_clock.mono_us + sim_clock.wall_us;
	event("", f, IN_MODIFY);
}

static void file_sync(struct inode *f, bool only_syncing)
{
	size_t kept = 0;
	for (size_t i = 0; i < f->op_count; i++) {
		struct file_op *op = &f->op[i];
		if (op->lost || (only_syncing && !op->syncing)) {
			f->op[kept++] = *op;
			continue;
		}
		put(&f->disk, &f->disk_len, &f->disk_cap, op, op->len);
		free(op->data);
	}
	f->op_count = kept;
}

/* Which part of the writes that were not synced is there after the crash. */
static void file_crash(struct inode *f)
{
	bool torn = fault_on(FAULT_TORN) && rng_one_in(RNG_DISK, 3);
	size_t whole = rng_one_in(RNG_DISK, 2) ? 0 : rng_below(RNG_DISK, (uint32_t)f->op_count + 1);
	for (size_t i = 0; i < f->op_count; i++) {
		struct file_op *op = &f->op[i];
		bool keep = torn ? rng_one_in(RNG_DISK, 2) : i < whole && !op->lost;
		if (keep || (i == whole && op->data != NULL && !op->lost))
			put(&f->disk, &f->disk_len, &f->disk_cap, op,
			    keep ? op->len : rng_below(RNG_DISK, (uint32_t)op->len + 1));
		free(op->data);
	}
	f->op_count = 0;
	f->len = 0;
	f->data = world_grow(f->data, f->disk_len, &f->cap, 1);
	if (f->disk_len > 0)
		memcpy(f->data, f->disk, f->disk_len);
	f->len = f->disk_len;
	f->locked = PROCESS_NONE;
}

void disk_crash(void)
{
	bool torn = fault_on(FAULT_TORN) && rng_one_in(RNG_DISK, 3);
	size_t whole = rng_below(RNG_DISK, (uint32_t)pending_count + 1);
	for (size_t i = 0; i < now_->count; i++)
		if (now_->name[i].inode != NULL)
			now_->name[i].inode->locked = PROCESS_NONE;
	for (size_t i = 0; i < pending_count; i++)
		if (torn ? rng_one_in(RNG_DISK, 2) : i < whole)
			name_apply(durable, &pending[i]);
	pending_count = 0;
	*now_ = *durable;
	for (size_t i = 0; i < now_->count; i++)
		if (now_->name[i].inode != NULL)
			file_crash(now_->name[i].inode);
}

void disk_end(void)
{
	now_ = NULL;
}

uint32_t disk_segments(void)
{
	uint32_t n = 0;
	for (size_t i = 0; i < now_->count; i++)
		n += is_in(now_->name[i].path, SIM_SPOOL) &&
		     strstr(now_->name[i].path, ".seg") != NULL;
	return n;
}

void disk_dump(void)
{
	for (size_t i = 0; i < now_->count; i++)
		if (now_->name[i].inode != NULL)
			sim_say("  disk: %s %zu", now_->name[i].path, now_->name[i].inode->len);
}

/* ---- descriptors ---- */

static struct descriptor *fd_of(int fd)
{
	SIM_ASSERT(fd >= FD_FIRST && fd < FD_FIRST + FDS && fds[fd - FD_FIRST].used,
		   "a call with a descriptor %d that is not open", fd);
	return &fds[fd - FD_FIRST];
}

static int fd_new(struct descriptor **ret)
{
	for (int i = 0; i < FDS; i++)
		if (!fds[i].used) {
			fds[i] = (struct descriptor){.used = true, .owner = running};
			*ret = &fds[i];
			return FD_FIRST + i;
		}
	sim_fail("descriptors leak");
}

static void fd_free(struct descriptor *d)
{
	if (d->inode != NULL && d->inode->locked != PROCESS_NONE && d->inode->locked == d->owner)
		d->inode->locked = PROCESS_NONE;
	d->used = false;
}

void disk_close_all(enum process p)
{
	for (int i = 0; i < FDS; i++)
		if (fds[i].used && fds[i].owner == p)
			fd_free(&fds[i]);
}

bool disk_readable(int fd)
{
	return fd >= FD_FIRST && fd < FD_FIRST + FDS && fd_of(fd)->inotify &&
	       fd_of(fd)->event_count > 0;
}

static bool is_due(uint32_t *n)
{
	return *n > 0 && --*n == 0;
}

static int fail(int errnum)
{
	errno = errnum;
	return -1;
}

/* ---- the kernel's calls ---- */

int __wrap_open(const char *path, int flags, ...);
int __wrap_close(int fd);
ssize_t __wrap_write(int fd, const void *p, size_t n);
ssize_t __wrap_pwrite(int fd, const void *p, size_t n, off_t at);
ssize_t __wrap_pread(int fd, void *p, size_t n, off_t at);
ssize_t __wrap_read(int fd, void *p, size_t n);
int __wrap_fdatasync(int fd);
int __wrap_fsync(int fd);
void __wrap_aio_sync_open(struct aio_sync *s);
void __wrap_aio_sync_close(struct aio_sync *s);
int __wrap_aio_sync_begin(struct aio_sync *s, int fd, const char *path, struct rt_err *err);
int __wrap_aio_sync_end(struct aio_sync *s, bool wait, const char *path, struct rt_err *err);
int __wrap_ftruncate(int fd, off_t len);
int __wrap_fstat(int fd, struct stat *st);
int __wrap_fstatat(int fd, const char *name, struct stat *st, int flags);
int __wrap_unlink(const char *path);
int __wrap_unlinkat(int fd, const char *name, int flags);
int __wrap_rename(const char *from, const char *to);
int __wrap_mkdir(const char *path, mode_t mode);
DIR *__wrap_opendir(const char *path);
struct dirent *__wrap_readdir(DIR *d);
int __wrap_closedir(DIR *d);
int __wrap_dirfd(DIR *d);
int __wrap_flock(int fd, int op);
int __wrap_statvfs(const char *path, struct statvfs *st);
int __wrap_inotify_init1(int flags);
int __wrap_inotify_add_watch(int fd, const char *path, uint32_t mask);
int __wrap_inotify_rm_watch(int fd, int watch);

/* Before the first schedule there is no disk: the time zone's file is a real one. */
int __real_open(const char *path, int flags, ...);
int __real_close(int fd);
ssize_t __real_read(int fd, void *p, size_t n);
ssize_t __real_pread(int fd, void *p, size_t n, off_t at);
int __real_fstat(int fd, struct stat *st);

int __wrap_open(const char *path, int flags, ...)
{
	if (now_ == NULL)
		return __real_open(path, flags, 0);
	call_point();
	struct name *n = find(now_, path);
	struct descriptor *d;
	bool is_dir = n != NULL && n->inode == NULL;
	if (n == NULL && (flags & O_CREAT) == 0)
		return fail(ENOENT);
	if ((flags & O_DIRECTORY) != 0 && !is_dir)
		return fail(ENOTDIR);
	if (n == NULL && disk_faults.full && rng_one_in(RNG_DISK, 2))
		return fail(ENOSPC);
	struct inode *f = n != NULL ? n->inode : NULL;
	if (n == NULL) {
		f = world_alloc(sizeof(*f));
		f->links = 1;
		name_do(NAME_LINK, path, "", f);
	}
	int fd = fd_new(&d);
	d->inode = f;
	d->append = (flags & O_APPEND) != 0;
	snprintf(d->path, sizeof(d->path), "%s", path);
	if ((flags & O_TRUNC) != 0 && f != NULL && f->len > 0)
		file_do(f, 0, NULL, 0);
	return fd;
}

int __wrap_close(int fd)
{
	if (now_ == NULL)
		return __real_close(fd);
	fd_free(fd_of(fd));
	return 0;
}

static ssize_t write_at(struct inode *f, const void *p, size_t n, size_t at)
{
	if (is_due(&disk_faults.write_in)) {
		size_t part = rng_below(RNG_DISK, (uint32_t)n + 1);
		if (part > 0 && rng_one_in(RNG_DISK, 2)) {
			file_do(f, at, p, part);
			return (ssize_t)part;
		}
		return fail(rng_one_in(RNG_DISK, 2) ? EIO : ENOSPC);
	}
	if (disk_faults.full && at + n > f->len) {
		size_t part = rng_below(RNG_DISK, (uint32_t)n);
		if (part == 0)
			return fail(ENOSPC);
		n = part;
	}
	file_do(f, at, p, n);
	return (ssize_t)n;
}

ssize_t __wrap_write(int fd, const void *p, size_t n)
{
	call_point();
	struct descriptor *d = fd_of(fd);
	ssize_t done = write_at(d->inode, p, n, d->append ? d->inode->len : d->at);
	if (done > 0)
		d->at += (size_t)done;
	return done;
}

ssize_t __wrap_pwrite(int fd, const void *p, size_t n, off_t at)
{
	call_point();
	return write_at(fd_of(fd)->inode, p, n, (size_t)at);
}

ssize_t __wrap_pread(int fd, void *p, size_t n, off_t at)
{
	if (now_ == NULL)
		return __real_pread(fd, p, n, at);
	call_point();
	const struct inode *f = fd_of(fd)->inode;
	if (is_due(&disk_faults.read_in))
		return fail(EIO);
	if ((size_t)at >= f->len)
		return 0;
	n = RT_MIN(n, f->len - (size_t)at);
	memcpy(p, f->data + at, n);
	return (ssize_t)n;
}

ssize_t __wrap_read(int fd, void *p, size_t n)
{
	if (now_ == NULL)
		return __real_read(fd, p, n);
	struct descriptor *d = fd_of(fd);
	struct inotify_event *e = p;
	size_t count = RT_MIN(d->event_count, n / sizeof(*e));
	if (!d->inotify)
		sim_fail("read() of a file is not simulated");
	if (count == 0)
		return fail(EAGAIN);
	for (size_t i = 0; i < count; i++)
		e[i] = (struct inotify_event){.wd = (int)d->event[i][0], .mask = d->event[i][1]};
	d->event_count -= count;
	memmove(d->event, d->event + count, d->event_count * sizeof(d->event[0]));
	return (ssize_t)(count * sizeof(*e));
}

int __wrap_fdatasync(int fd)
{
	call_point();
	struct inode *f = fd_of(fd)->inode;
	if (is_due(&disk_faults.sync_in)) {
		sim_say("  disk: a sync of %s fails", fd_of(fd)->path);
		for (size_t i = 0; i < f->op_count; i++)
			f->op[i].lost = true;
		return fail(EIO);
	}
	file_sync(f, false);
	return 0;
}

/* A sync that is waited for by nobody: it takes what was written when it began, and ends at some time. */
void __wrap_aio_sync_open(struct aio_sync *s)
{
	*s = (struct aio_sync){.event_fd = -1};
}

void __wrap_aio_sync_close(struct aio_sync *s)
{
	s->busy = false;
}

int __wrap_aio_sync_begin(struct aio_sync *s, int fd, const char *path, struct rt_err *err)
{
	call_point();
	struct inode *f = fd_of(fd)->inode;
	SIM_ASSERT(!s->busy, "two syncs at once");
	for (size_t i = 0; i < f->op_count; i++)
		f->op[i].syncing = true;
	s->busy = true;
	s->request.aio_fildes = fd;
	return 0;
}

int __wrap_aio_sync_end(struct aio_sync *s, bool wait, const char *path, struct rt_err *err)
{
	if (!s->busy)
		return 0;
	call_point();
	if (!wait && rng_one_in(RNG_DISK, 2))
		return 0;
	struct inode *f = fd_of(s->request.aio_fildes)->inode;
	bool fails = is_due(&disk_faults.sync_in);
	s->busy = false;
	if (fails) {
		for (size_t i = 0; i < f->op_count; i++)
			f->op[i].lost |= f->op[i].syncing;
		sim_say("  disk: a sync of %s fails", path);
		return rt_fail(err, ERR_SYSTEM, "cannot sync %s to disk", path);
	}
	file_sync(f, true);
	return 1;
}

int __wrap_fsync(int fd)
{
	call_point();
	struct descriptor *d = fd_of(fd);
	size_t left = 0;
	if (d->inode != NULL)
		return __wrap_fdatasync(fd);
	if (is_due(&disk_faults.sync_in))
		return fail(EIO);
	for (size_t i = 0; i < pending_count; i++) {
		if (is_in(pending[i].path, d->path))
			name_apply(durable, &pending[i]);
		else
			pending[left++] = pending[i];
	}
	pending_count = left;
	return 0;
}

int __wrap_ftruncate(int fd, off_t len)
{
	call_point();
	if (is_due(&disk_faults.write_in))
		return fail(EIO);
	if ((size_t)len != fd_of(fd)->inode->len)
		file_do(fd_of(fd)->inode, (size_t)len, NULL, 0);
	return 0;
}

static int stat_of(const struct inode *f, struct stat *st)
{
	*st = (struct stat){0};
	st->st_mode = S_IFREG | 0600;
	st->st_size = (off_t)f->len;
	st->st_nlink = (nlink_t)f->links;
	st->st_mtim.tv_sec = f->modified_us / 1000000;
	st->st_mtim.tv_nsec = f->modified_us % 1000000 * 1000;
	return 0;
}

int __wrap_fstat(int fd, struct stat *st)
{
	if (now_ == NULL)
		return __real_fstat(fd, st);
	return stat_of(fd_of(fd)->inode, st);
}

int __wrap_fstatat(int fd, const char *name, struct stat *st, int flags)
{
	char path[PATH_MAX_];
	snprintf(path, sizeof(path), "%.60s/%.34s", fd_of(fd)->path, name);
	const struct name *n = find(now_, path);
	return n == NULL ? fail(ENOENT) : stat_of(n->inode, st);
}

int __wrap_unlink(const char *path)
{
	call_point();
	struct name *n = find(now_, path);
	if (n == NULL)
		return fail(ENOENT);
	n->inode->links--;
	name_do(NAME_UNLINK, path, "", n->inode);
	return 0;
}

int __wrap_unlinkat(int fd, const char *name, int flags)
{
	char path[PATH_MAX_];
	snprintf(path, sizeof(path), "%.60s/%.34s", fd_of(fd)->path, name);
	return __wrap_unlink(path);
}

int __wrap_rename(const char *from, const char *to)
{
	call_point();
	struct name *n = find(now_, from), *old = find(now_, to);
	if (n == NULL)
		return fail(ENOENT);
	if (old != NULL)
		old->inode->links--;
	name_do(NAME_RENAME, from, to, n->inode);
	return 0;
}

int __wrap_mkdir(const char *path, mode_t mode)
{
	call_point();
	if (find(now_, path) != NULL)
		return fail(EEXIST);
	name_do(NAME_LINK, path, "", NULL);
	return 0;
}

DIR *__wrap_opendir(const char *path)
{
	call_point();
	const struct name *n = find(now_, path);
	struct descriptor *d;
	if (n == NULL) {
		errno = ENOENT;
		return NULL;
	}
	fd_new(&d);
	snprintf(d->path, sizeof(d->path), "%s", path);
	struct sim_dir *dir = calloc(1, sizeof(*dir));
	dir->fd = d;
	snprintf(dir->path, sizeof(dir->path), "%s", path);
	return (DIR *)(void *)dir;
}

/* A listing is not one instant: what the process before us made may come after we passed its place. */
static bool is_missed(const struct name *n)
{
	return (running == PROCESS_APPLY || running == PROCESS_APPLY2) &&
	       n->born + 1 == process_turn && missed_turn != process_turn &&
	       rng_one_in(RNG_DISK, 3);
}

struct dirent *__wrap_readdir(DIR *opaque)
{
	struct sim_dir *d = (void *)opaque;
	while (d->at < now_->count) {
		const struct name *n = &now_->name[d->at++];
		const char *path = n->path;
		if (!is_in(path, d->path) || is_missed(n)) {
			d->missed |= is_in(path, d->path);
			continue;
		}
		snprintf(d->entry.d_name, sizeof(d->entry.d_name), "%s",
			 path + strlen(d->path) + 1);
		return &d->entry;
	}
	return NULL;
}

int __wrap_closedir(DIR *opaque)
{
	struct sim_dir *d = (void *)opaque;
	if (d->missed) {
		missed_turn = process_turn;
		event(d->path, NULL, IN_MOVED_TO); /* since it came behind the listing */
	}
	fd_free(d->fd);
	free(d);
	return 0;
}

int __wrap_dirfd(DIR *opaque)
{
	return FD_FIRST + (int)(((struct sim_dir *)(void *)opaque)->fd - fds);
}

int __wrap_flock(int fd, int op)
{
	struct inode *f = fd_of(fd)->inode;
	if (f->locked != PROCESS_NONE)
		return fail(EWOULDBLOCK);
	f->locked = running;
	return 0;
}

int __wrap_statvfs(const char *path, struct statvfs *st)
{
	*st = (struct statvfs){.f_bavail = disk_faults.full ? 0 : 1 << 20, .f_frsize = 4096};
	return 0;
}

int __wrap_inotify_init1(int flags)
{
	struct descriptor *d;
	if (rng_one_in(RNG_DISK, 8))
		return fail(EMFILE);
	int fd = fd_new(&d);
	d->inotify = true;
	d->next_watch = 1;
	return fd;
}

int __wrap_inotify_add_watch(int fd, const char *path, uint32_t mask)
{
	struct descriptor *d = fd_of(fd);
	const struct name *n = find(now_, path);
	if (n == NULL)
		return fail(ENOENT);
	if (n->inode == NULL) {
		snprintf(d->path, sizeof(d->path), "%s", path);
		return d->dir_watch = d->next_watch++;
	}
	for (size_t i = 0; i < ARRAY_LEN(d->watched); i++)
		if (d->watched[i] == NULL) {
			d->watched[i] = n->inode;
			return d->watched_id[i] = d->next_watch++;
		}
	return fail(ENOSPC);
}

int __wrap_inotify_rm_watch(int fd, int watch)
{
	struct descriptor *d = fd_of(fd);
	for (size_t i = 0; i < ARRAY_LEN(d->watched); i++)
		if (d->watched_id[i] == watch)
			d->watched[i] = NULL;
	return 0;
}
