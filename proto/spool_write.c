/*
 * spool_write: capture's end of the spool. Guarantees: what spool_received
 * says is in the files as whole valid frames, what spool_durable says was
 * synced before; a failed sync is final; a failed write leaves the files as
 * they were and can be tried again; a transaction whose COMMIT was not
 * appended is never seen by a reader.
 *
 * Changes go into `open` (the transaction at hand), whole transactions from
 * there into `whole`, both become frames in `out`, and `out` is written with
 * one write() a turn.
 */
#include "proto/spool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/aio.h"
#include "proto/base/failpoint.h"
#include "proto/base/fsio.h"
#include "proto/settings.h"
#include "proto/spool_internal.h"

#include <uthash.h>

/* A schema that was used, packed and ready for each segment's SCHEMAS frame. */
struct used_schema {
	UT_hash_handle hh;
	uint64_t hash;
	struct buf packed;   /* a field of Schemas */
	uint64_t in_segment; /* number of the segment that has it */
	uint64_t in_open;    /* number of the transaction whose set has it */
	uint64_t in_whole;   /* number of the TRANSACTIONS frame whose set has it */
};

struct schema_set {
	struct used_schema **item;
	size_t count;
	size_t cap;
};

struct spool_writer {
	char *dir;
	char *pipeline;
	char *slot;
	struct spool_identity id;
	struct spool_options options;
	int lock_fd;
	struct segment_list segments; /* the last one is being written; its bytes are `offset` */
	struct lsn gap;		      /* where the gap begins that ends at the opening */
	struct rt_err dead;	      /* code not 0: a sync failed, nothing goes on */

	int fd;
	char *path;
	uint64_t salt;
	uint64_t segment_number; /* of those that this writer made */
	uint64_t offset;	 /* bytes written */
	uint64_t synced_bytes;	 /* bytes known on disk */
	bool holds;		 /* more than pieces of a transaction that has no LAST yet */
	uint64_t total_bytes;	 /* all segments */
	uint64_t written_bytes;	 /* since spool_take_written was asked */

	struct buf out; /* frames not yet written */

	struct buf whole; /* `transaction` fields */
	struct schema_set whole_schemas;
	uint64_t whole_number;

	struct buf open; /* `change` fields */
	struct schema_set open_schemas;
	uint64_t open_number;
	bool in_transaction;
	bool in_pieces; /* its first piece is in out or written */
	struct record_head head;

	struct lsn appended;			 /* end of the last whole transaction or progress */
	struct lsn in_out;			 /* the same, of what is in frames */
	struct spool_memory appended_last, last; /* transactions up to appended, up to in_out */
	struct spool_memory *memory;		 /* of what is to come again */
	size_t memory_count;
	struct lsn received; /* written */
	struct lsn durable;
	struct aio_sync aio;	/* of the newest segment, up to … */
	uint64_t syncing_bytes; /* … here, … */
	struct lsn syncing;	/* … so that this is durable when it ends */

	struct used_schema *by_hash;
	struct used_schema *last_used;
	struct record_scratch scratch;
};

static int fail_dead(struct spool_writer *w, struct rt_err *err)
{
	*err = w->dead;
	return err->code;
}

/* A failed sync: the kernel may have dropped what it could not write, so that no later one means anything. */
static int die(struct spool_writer *w, struct rt_err *err)
{
	w->dead = *err;
	return err->code;
}

/* ---- segments ---- */

/* Where a segment is full; a quota must hold at least two, or trimming could not help. */
static uint64_t segment_limit(const struct spool_writer *w)
{
	return RT_MIN(w->options.segment_bytes, w->options.quota_bytes / 2);
}

/* The last transaction before start, and what is still to come again. To be freed. */
static struct spool_memory *memory_of(const struct spool_writer *w, struct lsn start, size_t *ret)
{
	struct spool_memory *m = rt_calloc(w->memory_count + 1, sizeof(*m));
	size_t n = 0;
	if (w->last.xid != 0)
		m[n++] = w->last;
	for (size_t i = 0; i < w->memory_count; i++)
		if (lsn_lt(start, w->memory[i].end))
			m[n++] = w->memory[i];
	*ret = n;
	return m;
}

static void encode_first(const struct spool_writer *w, struct buf *out,
			 const struct segment_entry *e, uint64_t salt)
{
	struct buf raw = BUF_INIT;
	struct record_segment s = {
		.system_id = w->id.system_id,
		.timeline = w->id.timeline,
		.pipeline = slice_str(w->pipeline),
		.slot = slice_str(w->slot),
		.generation = e->generation,
		.start = e->start,
		.salt = salt,
		.created_us = rt_now_us(),
		.gap_from = e->gap_from,
		.asked = w->options.asked,
	};
	struct spool_memory *memory = memory_of(w, e->start, &s.memory_count);
	s.memory = memory;
	record_add_segment(&raw, &s);
	frame_encode(out, &(struct frame){.kind = FRAME_SEGMENT}, buf_slice(&raw), 0);
	buf_release(&raw);
	free(memory);
}

/* The new file under its temporary name, first frame synced; *ret_fd. */
static int make_file(struct spool_writer *w, const char *tmp, struct slice first, int *ret_fd,
		     struct rt_err *err)
{
	int rc;
	int fd = -1;
	if (!FP_FAILS(SPOOL_CREATE))
		fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot create %s", tmp);
	if ((rc = FP_ERROR(SPOOL_FIRST_WRITE, err)) != 0 ||
	    (rc = fs_write_all(fd, first.p, first.len, tmp, err)) != 0)
		goto out;
	if ((rc = FP_ERROR(SPOOL_FIRST_SYNC, err)) != 0 || (rc = fs_sync_data(fd, tmp, err)) != 0) {
		die(w, err);
		goto out;
	}
	*ret_fd = fd;
	return 0;
out:
	close(fd);
	unlink(tmp);
	return rc;
}

/* Begins a segment (generation, start, gap_from) and makes it the one being written. On failure nothing has changed. */
static int segment_begin(struct spool_writer *w, const struct segment_entry *e, struct rt_err *err)
{
	char name[SPOOL_NAME_BYTES];
	struct buf first = BUF_INIT;
	uint64_t salt;
	int fd = -1;
	int rc;
	segment_name(name, e->generation, e->start);
	char *path = rt_sprintf("%s/%s", w->dir, name);
	char *tmp = rt_sprintf("%s.tmp", path);

	if (FP_FAILS(SPOOL_RANDOM) || getrandom(&salt, sizeof(salt), 0) != (ssize_t)sizeof(salt)) {
		rc = rt_fail_errno(err, ERR_SYSTEM, "cannot get random bytes");
		goto out;
	}
	encode_first(w, &first, e, salt);
	if ((rc = make_file(w, tmp, buf_slice(&first), &fd, err)) != 0)
		goto out;
	FAILPOINT(SPOOL_MADE);
	if (FP_FAILS(SPOOL_RENAME) || rename(tmp, path) != 0) {
		rc = rt_fail_errno(err, ERR_SYSTEM, "cannot rename %s to %s", tmp, path);
		unlink(tmp);
		goto out;
	}
	if ((rc = FP_ERROR(SPOOL_RENAMED, err)) != 0 || (rc = fs_sync_dir(w->dir, err)) != 0) {
		die(w, err);
		goto out;
	}
	if (w->fd >= 0)
		close(w->fd);
	free(w->path);
	w->fd = fd;
	w->path = path;
	w->salt = salt;
	w->segment_number++;
	w->offset = w->synced_bytes = first.len;
	w->holds = false;
	w->total_bytes += first.len;
	w->written_bytes += first.len;
	struct segment_entry made = *e;
	made.cut.v = UINT64_MAX;
	made.bytes = first.len;
	segment_list_add(&w->segments, &made);
	fd = -1;
	path = NULL;
out:
	if (fd >= 0)
		close(fd);
	free(tmp);
	free(path);
	buf_release(&first);
	return rc;
}

/* ---- frames ---- */

/* Writes `out`. On failure the file is cut back to what it was and `out` stays for the next try. */
static int flush_out(struct spool_writer *w, struct rt_err *err)
{
	if (w->out.len == 0)
		return 0;
	int rc = FP_ERROR(SPOOL_WRITE, err);
	if (rc == 0)
		rc = fs_write_all(w->fd, w->out.p, w->out.len, w->path, err);
	if (rc != 0) {
		if (FP_FAILS(SPOOL_TRUNCATE) || ftruncate(w->fd, (off_t)w->offset) != 0)
			die(w, err);
		return rc;
	}
	FAILPOINT(SPOOL_WRITTEN);
	w->offset += w->out.len;
	w->total_bytes += w->out.len;
	w->written_bytes += w->out.len;
	w->segments.entry[w->segments.count - 1].bytes = w->offset;
	w->received = w->in_out;
	spool_buf_clear(&w->out);
	return 0;
}

/* The newest segment's file is on disk up to `bytes`, unless rc says otherwise. */
static int synced(struct spool_writer *w, int rc, uint64_t bytes, struct lsn durable,
		  struct rt_err *err)
{
	if (rc < 0 || FP_ERROR(SPOOL_SYNC, err) != 0)
		return die(w, err);
	FAILPOINT(SPOOL_SYNCED);
	w->synced_bytes = bytes;
	w->durable = durable;
	return 0;
}

/* Takes the end of a sync that was begun: 1, when it has one. */
static int end_sync(struct spool_writer *w, bool wait, struct rt_err *err)
{
	int rc = aio_sync_end(&w->aio, wait, w->path, err);
	if (rc == 0)
		return 0;
	rc = synced(w, rc, w->syncing_bytes, w->syncing, err);
	return rc != 0 ? rc : 1;
}

static int sync_file(struct spool_writer *w, struct rt_err *err)
{
	int rc = end_sync(w, true, err);
	if (rc < 0)
		return rc;
	if (w->synced_bytes != w->offset)
		return synced(w, fs_sync_data(w->fd, w->path, err), w->offset, w->received, err);
	w->durable = w->received;
	return 0;
}

/* Takes the i-th segment out of directory and list; another one stands after it. */
static int drop_segment(struct spool_writer *w, size_t i, struct rt_err *err)
{
	struct segment_entry *e = &w->segments.entry[i];
	char name[SPOOL_NAME_BYTES];
	segment_name(name, e->generation, e->start);
	char *path = rt_sprintf("%s/%s", w->dir, name);
	int rc = 0;
	if ((FP_FAILS(SPOOL_UNLINK) || unlink(path) != 0) && errno != ENOENT)
		rc = rt_fail_errno(err, ERR_SYSTEM, "cannot delete %s", path);
	free(path);
	if (rc != 0)
		return rc;
	w->total_bytes -= e->bytes;
	w->segments.count--;
	memmove(e, e + 1, (w->segments.count - i) * sizeof(*e));
	return 0;
}

/*
 * Called where a transaction boundary comes next: a full segment is closed, a
 * new one begun. One that is full of pieces of broken attempts is voided by a
 * new generation instead (the next attempt must not pile up on them), and goes.
 */
static int roll(struct spool_writer *w, struct rt_err *err)
{
	int rc;
	struct segment_entry *last = &w->segments.entry[w->segments.count - 1];
	struct segment_entry next = {.generation = last->generation, .start = w->in_out};
	if (!w->holds) {
		next.generation++;
		/* It stands in the place of one that goes, with what that one said. */
		RT_ASSERT(lsn_eq(last->start, next.start));
		next.gap_from = last->gap_from;
	}
	if (w->offset + w->out.len < segment_limit(w) ||
	    (w->holds && lsn_eq(w->in_out, last->start)))
		return 0;
	FAILPOINT(SPOOL_ROLL);
	if ((rc = flush_out(w, err)) != 0 || (rc = sync_file(w, err)) != 0)
		return rc;
	last->modified_us = rt_now_us();
	const bool is_void = !w->holds;
	if ((rc = segment_begin(w, &next, err)) != 0)
		return rc;
	return is_void ? drop_segment(w, w->segments.count - 2, err) : 0;
}

static void put_frame(struct spool_writer *w, const struct frame *f, struct slice raw)
{
	struct frame full = *f;
	full.synced_bytes = w->synced_bytes;
	w->holds |= f->kind != FRAME_SCHEMAS &&
		    !(f->kind == FRAME_PIECE && (f->flags & FRAME_LAST) == 0);
	frame_encode(&w->out, &full, raw, w->salt);
}

/* A SCHEMAS frame of those in the set that this segment does not have yet. */
static void put_schemas(struct spool_writer *w, const struct schema_set *set)
{
	struct buf raw = BUF_INIT;
	for (size_t i = 0; i < set->count; i++) {
		struct used_schema *s = set->item[i];
		if (s->in_segment == w->segment_number)
			continue;
		s->in_segment = w->segment_number;
		buf_add_slice(&raw, buf_slice(&s->packed));
	}
	if (raw.len > 0)
		put_frame(w, &(struct frame){.kind = FRAME_SCHEMAS}, buf_slice(&raw));
	buf_release(&raw);
}

/* Makes a frame of the whole transactions at hand. */
static int put_whole(struct spool_writer *w, struct rt_err *err)
{
	if (w->whole.len == 0)
		return 0;
	int rc = roll(w, err);
	if (rc != 0)
		return rc;
	put_schemas(w, &w->whole_schemas);
	put_frame(w, &(struct frame){.kind = FRAME_TRANSACTIONS, .lsn = w->appended},
		  buf_slice(&w->whole));
	w->in_out = w->appended;
	w->last = w->appended_last;
	spool_buf_clear(&w->whole);
	w->whole_schemas.count = 0;
	w->whole_number++;
	return 0;
}

/* Makes a frame of the open transaction so far; last: its COMMIT is here (head.end is set). */
static void put_piece(struct spool_writer *w, bool last)
{
	struct frame f = {.kind = FRAME_PIECE};
	struct record_head h = {.end = last ? w->head.end : LSN_NONE};
	if (!w->in_pieces) {
		f.flags |= FRAME_FIRST;
		h = w->head;
		w->in_pieces = true;
	}
	if (last) {
		f.flags |= FRAME_LAST;
		f.lsn = w->head.end;
	}
	FAILPOINT(SPOOL_PIECE);
	record_add_head(&w->open, &h);
	put_schemas(w, &w->open_schemas);
	put_frame(w, &f, buf_slice(&w->open));
	spool_buf_clear(&w->open);
}

/* ---- schemas ---- */

static void set_add(struct schema_set *set, struct used_schema *s)
{
	if (set->count == set->cap) {
		set->cap = set->cap == 0 ? 16 : 2 * set->cap;
		set->item = rt_realloc(set->item, set->cap * sizeof(*set->item));
	}
	set->item[set->count++] = s;
}

static void use_schema(struct spool_writer *w, const struct schema *schema)
{
	struct used_schema *s = w->last_used;
	if (s == NULL || s->hash != schema->hash) {
		HASH_FIND(hh, w->by_hash, &schema->hash, sizeof(schema->hash), s);
		if (s == NULL) {
			RT_ASSERT(schema_hash(schema) == schema->hash);
			s = rt_calloc(1, sizeof(*s));
			s->hash = schema->hash;
			record_add_schema(&s->packed, schema);
			HASH_ADD(hh, w->by_hash, hash, sizeof(s->hash), s);
		}
		w->last_used = s;
	}
	/* cppcheck-suppress nullPointerRedundantCheck; HASH_ADD has it not NULL */
	if (s->in_open == w->open_number)
		return;
	s->in_open = w->open_number;
	set_add(&w->open_schemas, s);
}

/* ---- appending ---- */

static void end_transaction(struct spool_writer *w)
{
	w->in_transaction = false;
	w->in_pieces = false;
	w->open_schemas.count = 0;
	w->open_number++;
	spool_buf_clear(&w->open);
}

static int append_begin(struct spool_writer *w, const struct change *c, struct rt_err *err)
{
	if (w->in_transaction)
		return rt_fail(err, ERR_PERMANENT,
			       "BEGIN of transaction %u came within transaction %u", c->xid,
			       w->head.xid);
	w->in_transaction = true;
	w->head = (struct record_head){.xid = c->xid, .commit = c->lsn, .commit_us = c->commit_us};
	return 0;
}

static int append_commit(struct spool_writer *w, const struct change *c, struct rt_err *err)
{
	if (!w->in_transaction)
		return rt_fail(err, ERR_PERMANENT, "COMMIT at " LSN_FMT " came without BEGIN",
			       LSN_ARGS(c->lsn));
	if (lsn_le(c->lsn, w->appended))
		return rt_fail(err, ERR_PERMANENT,
			       "COMMIT at " LSN_FMT " came after " LSN_FMT
			       ": not the order of commits",
			       LSN_ARGS(c->lsn), LSN_ARGS(w->appended));
	w->head.end = c->lsn;
	w->head.commit_us = c->commit_us;
	const struct spool_memory last = {
		.since = c->lsn, .end = c->lsn, .xid = w->head.xid, .commit_us = c->commit_us};
	if (w->in_pieces) {
		put_piece(w, true);
		w->in_out = c->lsn;
		w->last = last;
	} else {
		record_add_transaction(&w->whole, &w->head, buf_slice(&w->open));
		for (size_t i = 0; i < w->open_schemas.count; i++) {
			struct used_schema *s = w->open_schemas.item[i];
			if (s->in_whole == w->whole_number)
				continue;
			s->in_whole = w->whole_number;
			set_add(&w->whole_schemas, s);
		}
	}
	w->appended = c->lsn;
	w->appended_last = last;
	end_transaction(w);
	return w->whole.len < w->options.frame_bytes ? 0 : put_whole(w, err);
}

static int append_progress(struct spool_writer *w, const struct change *c, struct rt_err *err)
{
	int rc;
	if (w->in_transaction)
		return rt_fail(err, ERR_PERMANENT,
			       "progress to " LSN_FMT " came within transaction %u",
			       LSN_ARGS(c->lsn), w->head.xid);
	if (lsn_le(c->lsn, w->appended)) /* nothing new */
		return 0;
	if ((rc = put_whole(w, err)) != 0 || (rc = roll(w, err)) != 0)
		return rc;
	put_frame(w, &(struct frame){.kind = FRAME_PROGRESS, .lsn = c->lsn}, slice_str(""));
	w->appended = w->in_out = c->lsn;
	return 0;
}

/* A message that stands alone: a frame of its own, which moves no position. */
static int append_outside(struct spool_writer *w, const struct change *c, struct rt_err *err)
{
	struct buf raw = BUF_INIT;
	struct buf change = BUF_INIT;
	int rc;
	if ((rc = put_whole(w, err)) != 0 || (rc = roll(w, err)) != 0 ||
	    (rc = record_add_change(&change, c, &w->scratch, err)) != 0)
		goto out;
	record_add_transaction(&raw, &(struct record_head){.outside = true}, buf_slice(&change));
	put_frame(w, &(struct frame){.kind = FRAME_TRANSACTIONS}, buf_slice(&raw));
out:
	buf_release(&raw);
	buf_release(&change);
	return rc;
}

static int append_change(struct spool_writer *w, const struct change *c, struct rt_err *err)
{
	if (!w->in_transaction && c->kind == CHANGE_MESSAGE && !c->transactional)
		return append_outside(w, c, err);
	if (!w->in_transaction)
		return rt_fail(err, ERR_PERMANENT,
			       "a change at " LSN_FMT " came outside of a transaction",
			       LSN_ARGS(c->lsn));
	if (c->kind == CHANGE_TRUNCATE)
		for (uint32_t i = 0; i < c->truncated_count; i++)
			use_schema(w, c->truncated[i]);
	else if (c->kind != CHANGE_MESSAGE)
		use_schema(w, c->schema);
	int rc = record_add_change(&w->open, c, &w->scratch, err);
	if (rc != 0)
		return rc;
	if (w->open.len < w->options.frame_bytes)
		return 0;
	/* A large transaction: its memory is bounded by a frame and a row. */
	if (!w->in_pieces && ((rc = put_whole(w, err)) != 0 || (rc = roll(w, err)) != 0))
		return rc;
	put_piece(w, false);
	return flush_out(w, err);
}

int spool_append(struct spool_writer *w, const struct change *c, struct rt_err *err)
{
	if (w->dead.code != 0)
		return fail_dead(w, err);
	switch (c->kind) {
	case CHANGE_BEGIN:
		return append_begin(w, c, err);
	case CHANGE_COMMIT:
		return append_commit(w, c, err);
	case CHANGE_PROGRESS:
		return append_progress(w, c, err);
	case CHANGE_INSERT:
	case CHANGE_UPDATE:
	case CHANGE_DELETE:
	case CHANGE_TRUNCATE:
	case CHANGE_MESSAGE:
		return append_change(w, c, err);
	case CHANGE_GAP: /* only an opening makes one */
		return rt_fail(err, ERR_PERMANENT, "a gap cannot be appended");
	}
	rt_bug(__FILE__, __LINE__, "unknown change");
}

int spool_abort_transaction(struct spool_writer *w, struct rt_err *err)
{
	if (w->dead.code != 0)
		return fail_dead(w, err);
	/* Pieces that were written stay without LAST: void by rule. */
	if (w->in_transaction)
		end_transaction(w);
	return 0;
}

int spool_write(struct spool_writer *w, struct rt_err *err)
{
	if (w->dead.code != 0)
		return fail_dead(w, err);
	int rc = put_whole(w, err);
	return rc != 0 ? rc : flush_out(w, err);
}

int spool_sync(struct spool_writer *w, struct rt_err *err)
{
	int rc = spool_write(w, err);
	return rc != 0 ? rc : sync_file(w, err);
}

int spool_sync_begin(struct spool_writer *w, struct rt_err *err)
{
	int rc = spool_write(w, err);
	if (rc != 0)
		return rc;
	w->syncing_bytes = w->offset;
	w->syncing = w->received;
	rc = aio_sync_begin(&w->aio, w->fd, w->path, err);
	return rc != 0 ? die(w, err) : 0;
}

int spool_sync_end(struct spool_writer *w, struct rt_err *err)
{
	return w->dead.code != 0 ? fail_dead(w, err) : end_sync(w, false, err);
}

bool spool_is_syncing(const struct spool_writer *w)
{
	return w->aio.busy;
}

int spool_sync_fd(const struct spool_writer *w)
{
	return w->aio.at_once ? -1 : w->aio.event_fd;
}

struct lsn spool_received(const struct spool_writer *w)
{
	return w->received;
}

struct lsn spool_durable(const struct spool_writer *w)
{
	return w->durable;
}

uint64_t spool_bytes(const struct spool_writer *w)
{
	return w->total_bytes;
}

uint64_t spool_take_written(struct spool_writer *w)
{
	uint64_t bytes = w->written_bytes;
	w->written_bytes = 0;
	return bytes;
}

/* ---- space ---- */

bool spool_is_full(struct spool_writer *w)
{
	struct rt_err ignored;
	uint64_t free_bytes;
	if (fs_free_bytes(w->dir, &free_bytes, &ignored) != 0 ||
	    free_bytes < w->options.reserve_bytes)
		return true;
	/* A transaction larger than the quota: nothing that could be let go of stands before it. */
	if (w->in_pieces && w->segments.count == 1)
		return false;
	return w->total_bytes + w->out.len >= w->options.quota_bytes;
}

/* Deletes the oldest segment. */
static int drop_first(struct spool_writer *w, struct rt_err *err)
{
	const struct segment_entry *e = w->segments.entry;
	const bool last_of_generation = e[1].generation != e->generation;
	int rc = drop_segment(w, 0, err);
	/* What voids others must not go before them, not even by a crash. */
	if (rc == 0 && last_of_generation &&
	    (FP_ERROR(SPOOL_GENERATION_SYNC, err) != 0 || fs_sync_dir(w->dir, err) != 0))
		rc = die(w, err);
	return rc;
}

/* True while less than a segment's room is left: then nothing is kept that is not needed. */
static bool is_pressed(struct spool_writer *w)
{
	return w->total_bytes + segment_limit(w) > w->options.quota_bytes || spool_is_full(w);
}

static int drop_applied(struct spool_writer *w, struct lsn applied, struct rt_err *err)
{
	int rc;
	bool dropped = false;
	int64_t before_us = rt_now_us() - w->options.retain_us;
	while (w->segments.count > 1) {
		const struct segment_entry *e = w->segments.entry;
		if (!lsn_le(e[1].start, applied) || (e->modified_us > before_us && !is_pressed(w)))
			break;
		if ((rc = drop_first(w, err)) != 0)
			return rc;
		dropped = true;
	}
	if (dropped && (FP_ERROR(SPOOL_TRIM_SYNC, err) != 0 || fs_sync_dir(w->dir, err) != 0))
		return die(w, err);
	return 0;
}

int spool_trim(struct spool_writer *w, struct lsn applied, struct rt_err *err)
{
	int rc;
	if (w->dead.code != 0)
		return fail_dead(w, err);
	/* First what makes room: a new segment needs some. */
	if ((rc = drop_applied(w, applied, err)) != 0)
		return rc;
	if (w->in_pieces || w->whole.len > 0 || !lsn_le(w->in_out, applied))
		return 0;
	/* Full and applied as a whole: closed, although nothing more comes. */
	if ((rc = roll(w, err)) != 0)
		return rc;
	return drop_applied(w, applied, err);
}

/* ---- opening and closing ---- */

static int check_segments(struct spool_writer *w, struct rt_err *err)
{
	struct spool_identity id = w->id;
	if (w->options.accept_timeline)
		id.timeline = 0;
	for (size_t i = 0; i < w->segments.count; i++) {
		struct segment_entry *e = &w->segments.entry[i];
		struct segment_file f;
		int rc = segment_open(&f, w->dir, e->generation, e->start, err);
		if (rc < 0)
			return rc;
		if (rc == 0)
			return rt_fail(err, ERR_SYSTEM, "a segment of %s went away", w->dir);
		rc = segment_check_identity(&f, &id, err);
		e->gap_from = f.is.gap_from;
		segment_close(&f);
		if (rc != 0)
			return rc;
		w->total_bytes += e->bytes;
	}
	return 0;
}

/* What was written is a part of what the gap's beginning says: it must outlive a power cut. */
static int sync_segment(struct spool_writer *w, const struct segment_entry *e, struct rt_err *err)
{
	struct segment_file f;
	int rc = segment_open(&f, w->dir, e->generation, e->start, err);
	if (rc <= 0)
		return rc;
	rc = fs_sync_data(f.fd, f.path, err);
	segment_close(&f);
	return rc;
}

/*
 * A gap is never passed over: what the slot has let go of must be here, or be
 * said to be missing (*ret_gap, where it begins).
 */
static int check_end(struct spool_writer *w, struct lsn confirmed, struct lsn *ret_gap,
		     struct rt_err *err)
{
	if (w->segments.count == 0)
		return 0;
	const struct segment_entry *last = &w->segments.entry[w->segments.count - 1];
	struct lsn end = last->start;
	int rc = 0;
	if (lsn_lt(end, confirmed))
		rc = segment_end(w->dir, last, &end, err);
	if (rc < 0 || !lsn_lt(end, confirmed))
		return RT_MIN(rc, 0);
	if (!w->options.accept_gap)
		return rt_fail(err, ERR_PERMANENT,
			       "spool %s ends at " LSN_FMT ", but slot %s is confirmed to " LSN_FMT
			       ": the changes between are in neither; mend: capture.on_lost_slot: "
			       "resync, or let apply finish the spool, then move it away "
			       "and " MEND_LOAD_ANEW,
			       w->dir, LSN_ARGS(end), w->slot, LSN_ARGS(confirmed));
	*ret_gap = end;
	return sync_segment(w, last, err);
}

/* A new generation takes the place of what it makes void, and says what that said of a gap before it. */
static struct lsn inherit_gap(const struct spool_writer *w, struct lsn confirmed)
{
	struct lsn gap = LSN_NONE;
	for (size_t i = 0; i < w->segments.count; i++) {
		const struct segment_entry *e = &w->segments.entry[i];
		if (e->gap_from.v != 0 && lsn_le(confirmed, e->start) &&
		    lsn_lt(e->gap_from, confirmed) && (gap.v == 0 || lsn_lt(e->gap_from, gap)))
			gap = e->gap_from;
	}
	return gap;
}

/* Deletes segments that the new generation, or one before it, made void. */
static int drop_void(struct spool_writer *w, struct lsn confirmed, struct rt_err *err)
{
	FAILPOINT(SPOOL_VOID);
	for (size_t i = w->segments.count - 1; i-- > 0;) {
		const struct segment_entry *e = &w->segments.entry[i];
		if (lsn_lt(e->start, confirmed) && !segment_is_void(e))
			continue;
		int rc = drop_segment(w, i, err);
		if (rc != 0)
			return rc;
	}
	int failed = FP_ERROR(SPOOL_VOID_SYNC, err);
	return failed != 0 ? failed : fs_sync_dir(w->dir, err);
}

/* Files that a writer was making when it ended. */
static int drop_temporary(const char *dir, struct rt_err *err)
{
	DIR *d = FP_FAILS(SPOOL_OPEN_DIR) ? NULL : opendir(dir);
	if (d == NULL)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot read directory %s", dir);
	int rc = 0;
	for (struct dirent *de; rc == 0 && (de = readdir(d)) != NULL;) {
		size_t n = strlen(de->d_name);
		if (n < 4 || strcmp(de->d_name + n - 4, ".tmp") != 0)
			continue;
		if (FP_FAILS(SPOOL_UNLINK_TMP) || unlinkat(dirfd(d), de->d_name, 0) != 0)
			rc = rt_fail_errno(err, ERR_SYSTEM, "cannot delete %s/%s", dir, de->d_name);
	}
	closedir(d);
	return rc;
}

static int open_in(struct spool_writer *w, struct lsn confirmed, struct rt_err *err)
{
	struct segment_entry first = {.generation = 1, .start = confirmed};
	int rc;
	if ((rc = drop_temporary(w->dir, err)) != 0 ||
	    (rc = segment_list_read(&w->segments, w->dir, err)) != 0 ||
	    (rc = check_segments(w, err)) != 0 ||
	    (rc = check_end(w, confirmed, &first.gap_from, err)) != 0)
		return rc;
	if (w->segments.count > 0)
		first.generation = w->segments.entry[w->segments.count - 1].generation + 1;
	if (first.gap_from.v == 0)
		first.gap_from = inherit_gap(w, confirmed);
	if ((rc = segment_begin(w, &first, err)) != 0)
		return rc;
	w->gap = first.gap_from;
	FAILPOINT(SPOOL_OPENED);
	w->appended = w->in_out = w->received = w->durable = confirmed;
	return drop_void(w, confirmed, err);
}

static void keep_memory(struct spool_writer *w, struct lsn confirmed)
{
	const size_t count = w->options.memory_count;
	w->memory = rt_calloc(count + 1, sizeof(*w->memory));
	for (size_t i = 0; i < count; i++) {
		const struct spool_memory *m = &w->options.memory[i];
		if (lsn_lt(confirmed, m->end))
			w->memory[w->memory_count++] = *m;
		else
			w->last = w->appended_last = *m;
	}
	w->options.memory = NULL;
}

int spool_writer_open(struct spool_writer **ret, const char *dir, const struct spool_identity *id,
		      const struct spool_options *options, struct lsn confirmed, struct rt_err *err)
{
	int rc;
	struct spool_writer *w = rt_calloc(1, sizeof(*w));
	w->dir = rt_strdup(dir);
	w->pipeline = rt_strdup(id->pipeline);
	w->slot = rt_strdup(id->slot);
	w->id = (struct spool_identity){id->system_id, id->timeline, w->pipeline, w->slot};
	w->options = *options;
	keep_memory(w, confirmed);
	w->fd = w->lock_fd = -1;
	aio_sync_open(&w->aio);
	w->open_number = w->whole_number = 1;
	char *lock = rt_sprintf("%s/lock", dir);
	if ((rc = fs_mkdirs(dir, 0700, err)) != 0 ||
	    (rc = fs_lock(lock, 0, &w->lock_fd, err)) != 0 ||
	    (rc = open_in(w, confirmed, err)) != 0)
		goto out;
	*ret = w;
	w = NULL;
out:
	free(lock);
	spool_writer_close(w);
	return rc;
}

struct lsn spool_gap(const struct spool_writer *w)
{
	return w->gap;
}

void spool_writer_close(struct spool_writer *w)
{
	if (w == NULL)
		return;
	struct used_schema *s, *next;
	HASH_ITER(hh, w->by_hash, s, next)
	{
		HASH_DEL(w->by_hash, s);
		buf_release(&s->packed);
		free(s);
	}
	aio_sync_close(&w->aio);
	if (w->fd >= 0)
		close(w->fd);
	if (w->lock_fd >= 0)
		close(w->lock_fd);
	free(w->memory);
	free(w->whole_schemas.item);
	free(w->open_schemas.item);
	buf_release(&w->out);
	buf_release(&w->whole);
	buf_release(&w->open);
	record_scratch_release(&w->scratch);
	segment_list_release(&w->segments);
	free(w->path);
	free(w->slot);
	free(w->pipeline);
	free(w->dir);
	free(w);
}
