/*
 * spool_files: segments on disk. Guarantees: the list is in reading order
 * with every cut known to the directory; a look never takes torn or damaged
 * bytes for a frame; nothing is allocated by a length that the file does not have.
 */
#include "proto/spool_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/failpoint.h"
#include "proto/base/fsio.h"

#include <uthash.h>

#define WINDOW_BYTES ((size_t)256 << 10)

/* ---- names and lists ---- */

void segment_name(char ret[SPOOL_NAME_BYTES], uint32_t generation, struct lsn start)
{
	snprintf(ret, SPOOL_NAME_BYTES, "%08" PRIX32 "-%016" PRIX64 ".seg", generation, start.v);
}

static bool name_parse(const char *name, struct segment_entry *e)
{
	char again[SPOOL_NAME_BYTES];
	if (strlen(name) != SPOOL_NAME_BYTES - 1)
		return false;
	e->generation = (uint32_t)strtoul(name, NULL, 16);
	e->start.v = strtoull(name + 9, NULL, 16);
	segment_name(again, e->generation, e->start);
	return strcmp(name, again) == 0;
}

void segment_list_add(struct segment_list *list, const struct segment_entry *e)
{
	if (list->count == list->cap) {
		list->cap = list->cap == 0 ? 16 : 2 * list->cap;
		list->entry = rt_realloc(list->entry, list->cap * sizeof(*list->entry));
	}
	list->entry[list->count++] = *e;
}

void segment_list_release(struct segment_list *list)
{
	free(list->entry);
	*list = (struct segment_list){0};
}

static int entry_compare(const void *va, const void *vb)
{
	const struct segment_entry *a = va, *b = vb;
	if (a->generation != b->generation)
		return a->generation < b->generation ? -1 : 1;
	return lsn_lt(a->start, b->start) ? -1 : lsn_lt(b->start, a->start);
}

static void set_cuts(struct segment_list *list)
{
	struct lsn newer = {UINT64_MAX}; /* least start of newer generations */
	struct lsn own = newer;		 /* and with this generation's */
	for (size_t i = list->count; i-- > 0;) {
		struct segment_entry *e = &list->entry[i];
		if (i + 1 < list->count && e[1].generation != e->generation)
			newer = own;
		e->cut = newer;
		own = lsn_min(own, e->start);
	}
}

int segment_list_read(struct segment_list *list, const char *dir, struct rt_err *err)
{
	list->count = 0;
	DIR *d = FP_FAILS(SEGMENT_LIST) ? NULL : opendir(dir);
	if (d == NULL && errno == ENOENT)
		return 0;
	if (d == NULL)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot read directory %s", dir);
	int rc = 0;
	for (struct dirent *de; errno = 0, (de = readdir(d)) != NULL;) {
		struct segment_entry e = {0};
		struct stat st;
		if (!name_parse(de->d_name, &e))
			continue;
		if (FP_FAILS(SEGMENT_STAT) || fstatat(dirfd(d), de->d_name, &st, 0) != 0) {
			if (errno == ENOENT) /* let go of just now */
				continue;
			rc = rt_fail_errno(err, ERR_SYSTEM, "cannot stat %s/%s", dir, de->d_name);
			goto out;
		}
		e.bytes = (uint64_t)st.st_size;
		e.modified_us = st.st_mtim.tv_sec * INT64_C(1000000) + st.st_mtim.tv_nsec / 1000;
		segment_list_add(list, &e);
	}
	if (errno != 0)
		rc = rt_fail_errno(err, ERR_SYSTEM, "cannot read directory %s", dir);
	if (list->count > 0)
		qsort(list->entry, list->count, sizeof(*list->entry), entry_compare);
	set_cuts(list);
out:
	closedir(d);
	return rc;
}

const struct segment_entry *segment_list_after(const struct segment_list *list, uint32_t generation,
					       struct lsn start)
{
	const struct segment_entry at = {.generation = generation, .start = start};
	for (size_t i = 0; i < list->count; i++) {
		const struct segment_entry *e = &list->entry[i];
		if (entry_compare(e, &at) > 0 && !segment_is_void(e))
			return e;
	}
	return NULL;
}

/* ---- one segment ---- */

int segment_bytes(const struct segment_file *f, uint64_t *ret, struct rt_err *err)
{
	struct stat st;
	if (FP_FAILS(SEGMENT_SIZE) || fstat(f->fd, &st) != 0)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot stat %s", f->path);
	*ret = (uint64_t)st.st_size;
	return 0;
}

void segment_forget(struct segment_file *f)
{
	spool_buf_clear(&f->window);
}

/* Reads at least want bytes (or all there are) at offset into the window: never more than the file has. */
static int fill_window(struct segment_file *f, uint64_t offset, size_t want, struct rt_err *err)
{
	uint64_t bytes = 0;
	int rc = segment_bytes(f, &bytes, err);
	if (rc != 0)
		return rc;
	segment_forget(f);
	f->window_at = offset;
	if (bytes <= offset)
		return 0;
	size_t room = (size_t)RT_MIN(bytes - offset, RT_MAX(want, WINDOW_BYTES));
	uint8_t *p = buf_reserve(&f->window, room);
	while (f->window.len < room) {
		ssize_t n = -1;
		if (!FP_FAILS(SEGMENT_READ))
			n = pread(f->fd, p + f->window.len,
				  FP_BYTES(SEGMENT_READ_SHORT, room - f->window.len),
				  (off_t)(offset + f->window.len));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return rt_fail_errno(err, ERR_SYSTEM, "cannot read %s", f->path);
		if (n == 0) /* cut back just now */
			break;
		f->window.len += (size_t)n;
	}
	return 0;
}

/* *ret: the file from offset on, at least want bytes or all there are. */
static int window_at(struct segment_file *f, uint64_t offset, size_t want, struct slice *ret,
		     struct rt_err *err)
{
	uint64_t end = f->window_at + f->window.len;
	if (offset < f->window_at || offset > end || want > end - offset) {
		int rc = fill_window(f, offset, want, err);
		if (rc != 0)
			return rc;
	}
	size_t skip = (size_t)(offset - f->window_at);
	*ret = f->window.len == 0 ? slice_str("")
				  : slice_of(f->window.p + skip, f->window.len - skip);
	return 0;
}

/* As segment_look, with FRAME_NEWER as a state. */
static int look(struct segment_file *f, uint64_t offset, uint64_t salt, struct segment_look *ret,
		struct rt_err *err)
{
	struct slice in;
	size_t need = 0;
	int rc = window_at(f, offset, FRAME_HEADER_BYTES, &in, err);
	if (rc != 0)
		return rc;
	ret->state = frame_decode(in, salt, &ret->frame, &need);
	if (ret->state == FRAME_SHORT && need > in.len && in.len >= FRAME_HEADER_BYTES) {
		if ((rc = window_at(f, offset, need, &in, err)) != 0)
			return rc;
		ret->state = frame_decode(in, salt, &ret->frame, &need);
	}
	if (ret->state == FRAME_VALID && FP_FAILS(SEGMENT_FRAME))
		ret->state = FRAME_INVALID;
	ret->at_end = ret->state == FRAME_SHORT && in.len == 0;
	if (ret->state == FRAME_SHORT || ret->state == FRAME_INVALID)
		segment_forget(f);
	return 0;
}

int segment_look(struct segment_file *f, uint64_t offset, struct segment_look *ret,
		 struct rt_err *err)
{
	int rc = look(f, offset, f->is.salt, ret, err);
	if (rc == 0 && ret->state == FRAME_NEWER)
		rc = rt_fail(err, ERR_PERMANENT,
			     "spool segment %s: the frame at offset %" PRIu64
			     " was written by a newer version of this program",
			     f->path, offset);
	return rc;
}

int segment_damage(const struct segment_file *f, uint64_t offset, const char *what,
		   struct rt_err *err)
{
	return rt_fail(err, ERR_PERMANENT, "spool segment %s is damaged at offset %" PRIu64 ": %s",
		       f->path, offset, what);
}

/* The SEGMENT frame. */
static int read_first(struct segment_file *f, uint32_t generation, struct lsn start,
		      struct rt_err *err)
{
	struct segment_look l;
	struct buf scratch = BUF_INIT;
	struct slice payload;
	int rc = look(f, 0, 0, &l, err);
	if (rc != 0)
		goto out;
	if (l.state == FRAME_NEWER) {
		rc = rt_fail(err, ERR_PERMANENT,
			     "spool segment %s was written by a newer version of this program",
			     f->path);
		goto out;
	}
	if (l.state != FRAME_VALID || l.frame.kind != FRAME_SEGMENT ||
	    !frame_payload(&l.frame, &scratch, &payload) ||
	    !record_read_segment(payload, &f->arena, &f->is)) {
		rc = segment_damage(f, 0, "its first frame is not whole", err);
		goto out;
	}
	if (f->is.generation != generation || !lsn_eq(f->is.start, start)) {
		rc = segment_damage(f, 0, "its first frame is not that of its name", err);
		goto out;
	}
	f->first_bytes = l.frame.bytes;
out:
	buf_release(&scratch);
	return rc;
}

int segment_open(struct segment_file *f, const char *dir, uint32_t generation, struct lsn start,
		 struct rt_err *err)
{
	char name[SPOOL_NAME_BYTES];
	segment_name(name, generation, start);
	*f = (struct segment_file){.path = rt_sprintf("%s/%s", dir, name)};
	arena_init(&f->arena, 4096);
	int rc;
	f->fd = FP_FAILS(SEGMENT_OPEN) ? -1 : open(f->path, O_RDONLY | O_CLOEXEC);
	if (f->fd < 0 && errno == ENOENT)
		rc = 0;
	else if (f->fd < 0)
		rc = rt_fail_errno(err, ERR_SYSTEM, "cannot open %s", f->path);
	else if ((rc = read_first(f, generation, start, err)) == 0)
		return 1;
	segment_close(f);
	return rc;
}

void segment_close(struct segment_file *f)
{
	if (f->path == NULL)
		return;
	if (f->fd >= 0)
		close(f->fd);
	free(f->path);
	arena_release(&f->arena);
	buf_release(&f->window);
	*f = (struct segment_file){0};
}

int segment_end(const char *dir, const struct segment_entry *e, struct lsn *ret, struct rt_err *err)
{
	struct segment_file f;
	struct segment_look l;
	int rc = segment_open(&f, dir, e->generation, e->start, err);
	if (rc <= 0)
		return rc;
	*ret = e->start;
	for (uint64_t at = f.first_bytes;; at += l.frame.bytes) {
		if ((rc = segment_look(&f, at, &l, err)) != 0 || l.state != FRAME_VALID)
			break;
		*ret = lsn_max(*ret, l.frame.lsn);
	}
	segment_close(&f);
	return rc == 0 ? 1 : rc;
}

int spool_end(const char *dir, const struct spool_identity *id, struct lsn *ret, struct rt_err *err)
{
	struct segment_list list = {0};
	struct segment_file f;
	int rc = segment_list_read(&list, dir, err);
	if (rc != 0 || list.count == 0)
		goto out;
	const struct segment_entry *last = &list.entry[list.count - 1];
	rc = segment_open(&f, dir, last->generation, last->start, err);
	if (rc <= 0)
		goto out;
	rc = segment_check_identity(&f, id, err);
	segment_close(&f);
	if (rc == 0)
		rc = segment_end(dir, last, ret, err);
out:
	segment_list_release(&list);
	return rc;
}

int segment_check_identity(const struct segment_file *f, const struct spool_identity *id,
			   struct rt_err *err)
{
	const struct record_segment *s = &f->is;
	if (id->system_id != 0 && id->system_id != s->system_id)
		return rt_fail(err, ERR_PERMANENT,
			       "%s holds changes of the core with system identifier %" PRIu64
			       ", but this core is %" PRIu64
			       ": move the old spool away, or point the configuration at its core",
			       f->path, s->system_id, id->system_id);
	if (id->timeline != 0 && id->timeline != s->timeline)
		return rt_fail(err, ERR_PERMANENT,
			       "%s holds changes of timeline %u of the core, not of timeline %u: "
			       "there was a failover or a restore, and positions before and after "
			       "it say nothing about each other; a sync is needed",
			       f->path, s->timeline, id->timeline);
	if (id->pipeline != NULL && !slice_is(s->pipeline, id->pipeline))
		return rt_fail(err, ERR_PERMANENT,
			       "%s belongs to pipeline %.*s, not %s: give each pipeline a spool "
			       "directory of its own",
			       f->path, (int)s->pipeline.len, (const char *)s->pipeline.p,
			       id->pipeline);
	if (id->slot != NULL && !slice_is(s->slot, id->slot))
		return rt_fail(err, ERR_PERMANENT,
			       "%s holds changes of slot %.*s, not %s: move the old spool away",
			       f->path, (int)s->slot.len, (const char *)s->slot.p, id->slot);
	return 0;
}

int segment_is_damaged(struct segment_file *f, uint64_t offset, struct rt_err *err)
{
	uint8_t magic[4];
	be32_put(magic, FRAME_MAGIC);
	uint64_t at = offset + 1;
	for (;;) {
		struct slice in;
		int rc = window_at(f, at, WINDOW_BYTES, &in, err);
		if (rc != 0)
			return rc;
		if (in.len < FRAME_HEADER_BYTES)
			break;
		/* The magic stands 8 bytes into a frame. */
		const uint8_t *p = memmem(in.p + 8, in.len - 8, magic, sizeof(magic));
		if (p == NULL) {
			at += in.len - 8 - (sizeof(magic) - 1);
			continue;
		}
		struct segment_look l;
		at += (uint64_t)(p - in.p) - 8;
		if ((rc = look(f, at, f->is.salt, &l, err)) != 0)
			return rc;
		if (l.state == FRAME_VALID && l.frame.synced_bytes > offset) {
			segment_forget(f);
			return 1;
		}
		at += l.state == FRAME_VALID ? l.frame.bytes : 1;
	}
	segment_forget(f);
	return 0;
}

/* ---- schemas ---- */

struct schema_item {
	UT_hash_handle hh;
	uint64_t hash;
	struct schema schema;
	struct arena arena;
};

struct schema_table {
	struct schema_item *by_hash;
	struct schema_item *last; /* rows of one relation often come together */
};

struct schema_table *schema_table_new(void)
{
	return rt_calloc(1, sizeof(struct schema_table));
}

static void item_free(struct schema_item *s)
{
	arena_release(&s->arena);
	free(s);
}

void schema_table_free(struct schema_table *t)
{
	if (t == NULL)
		return;
	struct schema_item *s, *next;
	HASH_ITER(hh, t->by_hash, s, next)
	{
		HASH_DEL(t->by_hash, s);
		item_free(s);
	}
	free(t);
}

const struct schema *schema_table_find(void *table, uint64_t hash)
{
	struct schema_table *t = table;
	struct schema_item *s = t->last;
	if (s != NULL && s->hash == hash)
		return &s->schema;
	HASH_FIND(hh, t->by_hash, &hash, sizeof(hash), s);
	if (s == NULL)
		return NULL;
	t->last = s;
	return &s->schema;
}

bool schema_table_add(struct schema_table *t, struct slice payload)
{
	struct rd r = rd_of(payload);
	uint32_t number;
	struct slice field;
	while (record_next_field(&r, &number, &field)) {
		if (number != SCHEMAS_SCHEMA)
			continue;
		struct schema_item *s = rt_calloc(1, sizeof(*s));
		arena_init(&s->arena, 1024);
		if (!record_read_schema(field, &s->arena, &s->schema)) {
			item_free(s);
			return false;
		}
		s->hash = s->schema.hash;
		if (schema_table_find(t, s->hash) != NULL)
			item_free(s);
		else
			HASH_ADD(hh, t->by_hash, hash, sizeof(s->hash), s);
	}
	return !r.failed;
}
