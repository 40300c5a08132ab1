/*
 * spool_read: apply's end of the spool. Guarantees: whole transactions only,
 * in commit order, each once per reader; a torn tail is waited for, damage
 * and gaps are errors; memory is bounded by a frame and max_buffer_bytes,
 * whatever a transaction's size; the writer is never waited for or disturbed.
 *
 * Three levels: frames of the segment at hand (next_frame), transactions of
 * the frame at hand (next_transaction), changes of the transaction at hand
 * (next_change). A transaction in pieces is walked to its LAST first, then
 * read again from its FIRST.
 */
#include "proto/spool.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/failpoint.h"
#include "proto/spool_internal.h"

/* The directory is listed at least this often while there is nothing to read, should an event be lost. */
#define LIST_AGAIN_US INT64_C(1000000)

enum reader_state {
	READER_FRAMES,	    /* looking for the next frame */
	READER_FRAME,	    /* in a TRANSACTIONS frame */
	READER_TRANSACTION, /* BEGIN was returned; transaction at hand */
};

struct spool_reader {
	char *dir;
	char *pipeline;
	char *slot;
	struct spool_identity id;
	size_t max_buffer_bytes;
	bool any_start;
	bool heads_only;
	struct lsn position;

	int inotify;	/* -1: nobody has asked for the descriptor; then each look lists again */
	int dir_watch;	/* -1: none, or the directory is not there yet */
	int file_watch; /* -1: none */
	bool dir_changed;
	int64_t listed_us;
	struct segment_list list;

	bool is_open; /* segment, at */
	struct segment_file segment;
	struct segment_entry at;
	const struct segment_entry *next; /* the one to go on with, in list; NULL: not there yet */
	uint64_t offset;		  /* of the next frame */
	uint64_t tail_at; /* size of the file when its tail was last searched for proof of damage */
	struct lsn reached;	/* end of the last transaction in valid frames so far */
	uint32_t next_timeline; /* of the segment that was refused for it, which starts at */
	struct lsn next_timeline_start;
	bool gap; /* one before the segment at hand is to be handed out first; it begins at */
	struct lsn gap_from;
	struct schema_table *schemas;

	enum reader_state state;
	struct arena heads;
	struct buf raw;		/* payload of the frame at hand */
	struct rd transactions; /* what is left of a TRANSACTIONS frame */
	struct rd changes;	/* what is left of the transaction (or piece) at hand */
	struct record_head head;
	uint64_t transaction_bytes;

	/* A transaction in pieces, being walked (walking) or handed out (piece_left). */
	bool walking;
	uint64_t first_offset;
	uint64_t walk_bytes;
	struct buf kept; /* its frames, while they are within max_buffer_bytes */
	bool kept_all;
	size_t kept_at;
	uint64_t piece_offset;
	bool piece_left; /* the frame with LAST has not been taken up yet */
};

int spool_reader_open(struct spool_reader **ret, const char *dir, struct lsn from,
		      size_t max_buffer_bytes, const struct spool_identity *id, struct rt_err *err)
{
	struct spool_reader *r = rt_calloc(1, sizeof(*r));
	r->dir = rt_strdup(dir);
	if (id != NULL) {
		r->pipeline = id->pipeline == NULL ? NULL : rt_strdup(id->pipeline);
		r->slot = id->slot == NULL ? NULL : rt_strdup(id->slot);
		r->id = (struct spool_identity){id->system_id, id->timeline, r->pipeline, r->slot};
	}
	r->max_buffer_bytes = max_buffer_bytes;
	r->position = from;
	r->inotify = r->dir_watch = r->file_watch = -1;
	r->dir_changed = true;
	r->schemas = schema_table_new();
	arena_init(&r->heads, 1024);
	*ret = r;
	return 0;
}

void spool_reader_from_first(struct spool_reader *r)
{
	r->any_start = true;
}

void spool_reader_heads_only(struct spool_reader *r)
{
	r->heads_only = true;
}

void spool_reader_close(struct spool_reader *r)
{
	if (r == NULL)
		return;
	segment_close(&r->segment);
	segment_list_release(&r->list);
	schema_table_free(r->schemas);
	arena_release(&r->heads);
	buf_release(&r->raw);
	buf_release(&r->kept);
	if (r->inotify >= 0)
		close(r->inotify);
	free(r->slot);
	free(r->pipeline);
	free(r->dir);
	free(r);
}

/* Made here, not at open: closing one waits tens of milliseconds in the kernel, and few readers need it. */
int spool_reader_fd(struct spool_reader *r)
{
	if (r->inotify >= 0)
		return r->inotify;
	r->inotify = FP_FAILS(READER_INOTIFY) ? -1 : inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	r->dir_changed = true;
	if (r->inotify >= 0 && r->is_open)
		r->file_watch = inotify_add_watch(r->inotify, r->segment.path, IN_MODIFY);
	return r->inotify;
}

uint32_t spool_reader_next_timeline(const struct spool_reader *r, struct lsn *ret_start)
{
	*ret_start = r->next_timeline_start;
	return r->next_timeline;
}

struct lsn spool_reader_position(const struct spool_reader *r)
{
	return r->position;
}

struct lsn spool_reader_transaction_end(const struct spool_reader *r)
{
	return r->head.end;
}

uint64_t spool_reader_transaction_bytes(const struct spool_reader *r)
{
	return r->transaction_bytes;
}

/* ---- the directory ---- */

/* Takes up all events; which files they are about does not matter but for the directory itself. */
static void drain_events(struct spool_reader *r)
{
	_Alignas(struct inotify_event) char in[4096];
	while (r->inotify >= 0) {
		ssize_t n = read(r->inotify, in, sizeof(in));
		if (n <= 0) /* EAGAIN; anything else is caught by listing again */
			return;
		const struct inotify_event *e;
		for (ssize_t at = 0; at < n; at += (ssize_t)(sizeof(*e) + e->len)) {
			e = (const void *)(in + at);
			if (e->wd == r->dir_watch || (e->mask & IN_Q_OVERFLOW) != 0)
				r->dir_changed = true;
			if (e->wd == r->dir_watch && (e->mask & IN_IGNORED) != 0)
				r->dir_watch = -1;
		}
	}
}

/* What the list says of the segment at hand: the next one, and the cut as far as the last listing knows. */
static void look_up(struct spool_reader *r)
{
	r->next = segment_list_after(&r->list, r->at.generation, r->at.start);
	r->at.cut.v = UINT64_MAX;
	for (size_t i = r->list.count; i-- > 0;) {
		if (r->list.entry[i].generation <= r->at.generation)
			break;
		r->at.cut = lsn_min(r->at.cut, r->list.entry[i].start);
	}
}

static int list_again(struct spool_reader *r, struct rt_err *err)
{
	r->dir_changed = false;
	r->listed_us = rt_mono_us();
	if (r->inotify >= 0 && r->dir_watch < 0) /* not there yet: ENOENT, and the list is empty */
		r->dir_watch =
			FP_FAILS(READER_WATCH_DIR)
				? -1
				: inotify_add_watch(r->inotify, r->dir,
						    IN_MOVED_TO | IN_DELETE_SELF | IN_ONLYDIR);
	int rc = segment_list_read(&r->list, r->dir, err);
	look_up(r);
	return rc;
}

/* 1: listed just now. 0: no reason to. */
static int list_if_due(struct spool_reader *r, struct rt_err *err)
{
	drain_events(r);
	if (!r->dir_changed && r->dir_watch >= 0 && rt_mono_us() - r->listed_us < LIST_AGAIN_US)
		return 0;
	int rc = list_again(r, err);
	return rc != 0 ? rc : 1;
}

/* ---- segments ---- */

/* 1: open; 0: it was let go of meanwhile. */
static int enter_segment(struct spool_reader *r, const struct segment_entry *e, struct rt_err *err)
{
	struct segment_file f;
	const struct segment_entry entry = *e;
	int rc = segment_open(&f, r->dir, entry.generation, entry.start, err);
	if (rc <= 0)
		return rc;
	if (r->id.timeline != 0 && f.is.timeline > r->id.timeline) {
		r->next_timeline = f.is.timeline;
		r->next_timeline_start = entry.start;
	}
	if ((rc = segment_check_identity(&f, &r->id, err)) != 0) {
		segment_close(&f);
		return rc;
	}
	segment_close(&r->segment);
	if (r->file_watch >= 0)
		inotify_rm_watch(r->inotify, r->file_watch);
	/* Before it is read, so that no write goes unnoticed. Without a watch the slow timer serves. */
	if (r->inotify >= 0)
		r->file_watch = FP_FAILS(READER_WATCH)
					? -1
					: inotify_add_watch(r->inotify, f.path, IN_MODIFY);
	r->segment = f;
	r->at = entry;
	r->is_open = true;
	r->offset = f.first_bytes;
	r->tail_at = 0;
	r->reached = entry.start;
	r->gap_from = f.is.gap_from;
	r->gap = r->gap_from.v != 0 && lsn_lt(r->position, entry.start);
	r->walking = false;
	look_up(r);
	return 1;
}

/* Enters the segment that holds what comes after the reader's position. */
static int enter_first(struct spool_reader *r, struct rt_err *err)
{
	int rc = list_if_due(r, err);
	if (rc <= 0)
		return rc;
	const struct segment_entry *first = segment_list_after(&r->list, 0, LSN_NONE);
	if (first != NULL && lsn_lt(r->position, first->start)) {
		if ((rc = list_again(r, err)) != 0) /* as in leave_segment */
			return rc;
		first = segment_list_after(&r->list, 0, LSN_NONE);
	}
	if (first == NULL)
		return 0;
	const struct segment_entry *e = first;
	for (const struct segment_entry *next = first; next != NULL;
	     next = segment_list_after(&r->list, next->generation, next->start))
		if (lsn_le(next->start, r->position))
			e = next;
	const struct lsn start = e->start;
	rc = enter_segment(r, e, err);
	if (rc == 0)
		r->dir_changed = true;
	/* What comes after the position is not kept any more; offline commands begin wherever the spool does. */
	if (rc == 1 && lsn_lt(r->position, start) && !r->any_start) {
		r->gap = true;
		r->gap_from = r->position;
	}
	return rc;
}

/*
 * Does next go on where this segment ended (FORMAT.md, "Where a segment stops")?
 * Nothing is missing up to the reader's position: where the spool was begun anew
 * before it, segments between may be applied and gone before they are walked again.
 */
static bool joins(const struct spool_reader *r, const struct segment_entry *next,
		  const struct segment_look *l)
{
	if (next->generation != r->at.generation)
		return lsn_le(next->start, lsn_max(r->reached, r->position));
	return l->state == FRAME_SHORT && l->at_end &&
	       (lsn_eq(next->start, r->reached) ||
		(lsn_lt(r->reached, next->start) && lsn_le(next->start, r->position)));
}

/* Does next say itself that what is between was lost? 1: yes; 0: no, or it was let go of. */
static int joins_by_gap(const struct spool_reader *r, const struct segment_entry *next,
			struct rt_err *err)
{
	struct segment_file f;
	int rc = segment_open(&f, r->dir, next->generation, next->start, err);
	if (rc <= 0)
		return rc;
	const struct lsn gap_from = f.is.gap_from;
	segment_close(&f);
	return gap_from.v != 0 && lsn_le(gap_from, lsn_max(r->reached, r->position));
}

static int does_not_join(const struct spool_reader *r, const struct segment_entry *next,
			 const struct segment_look *l, struct rt_err *err)
{
	char what[160];
	if (next->generation == r->at.generation && !(l->state == FRAME_SHORT && l->at_end))
		return segment_damage(&r->segment, r->offset, "no whole frame, but a later segment",
				      err);
	snprintf(what, sizeof(what),
		 "what it has ends at " LSN_FMT ", the next segment begins at " LSN_FMT,
		 LSN_ARGS(r->reached), LSN_ARGS(next->start));
	return segment_damage(&r->segment, r->offset, what, err);
}

/* Goes on with the next segment. 0: done, or look again. */
static int leave_segment(struct spool_reader *r, const struct segment_entry *next,
			 const struct segment_look *l, struct rt_err *err)
{
	int rc;
	if (!joins(r, next, l)) {
		/* A listing is not one instant: it may miss a name that came, or a deletion. Only what the next one
		 * says too is so. */
		const struct segment_entry was = *next;
		if ((rc = list_again(r, err)) != 0)
			return rc;
		if (r->next == NULL || r->next->generation != was.generation ||
		    !lsn_eq(r->next->start, was.start))
			return 0;
		next = r->next;
		if ((rc = joins_by_gap(r, next, err)) < 0)
			return rc;
		if (rc == 0)
			return does_not_join(r, &was, l, err);
	}
	FAILPOINT(READER_NEXT_SEGMENT);
	rc = enter_segment(r, next, err);
	if (rc == 0) { /* it was let go of: look at the directory again */
		r->dir_changed = true;
		rc = list_again(r, err);
	}
	return rc < 0 ? rc : 0;
}

/* No valid frame at the end of what there is: a tail, unless there is proof of damage. */
static int check_tail(struct spool_reader *r, const struct segment_look *l, struct rt_err *err)
{
	if (l->state == FRAME_SHORT && l->at_end)
		return 0;
	uint64_t bytes;
	int rc = segment_bytes(&r->segment, &bytes, err);
	if (rc != 0 || bytes == r->tail_at)
		return rc;
	r->tail_at = bytes;
	rc = segment_is_damaged(&r->segment, r->offset, err);
	if (rc > 0)
		return segment_damage(&r->segment, r->offset,
				      "no whole frame where one was on disk", err);
	return rc;
}

/*
 * Somebody took the spool away and capture began a new one, whose generations
 * count from 1: nothing in it follows on the segment at hand, which is deleted
 * with all that it had read. (What was applied is deleted, too, but not
 * without a next one.)
 */
static bool is_replaced(const struct spool_reader *r)
{
	struct stat st;
	return r->list.count > 0 && fstat(r->segment.fd, &st) == 0 && st.st_nlink == 0;
}

/* ---- frames ---- */

/* True when a transaction or progress that ends at end was handed out, or is void. */
static bool pass_over(const struct spool_reader *r, struct lsn end)
{
	return lsn_le(end, r->position) || lsn_lt(r->at.cut, end);
}

static int payload_of(struct spool_reader *r, const struct frame *f, uint64_t offset,
		      struct slice *ret, struct rt_err *err)
{
	spool_buf_clear(&r->raw);
	if (!frame_payload(f, &r->raw, ret))
		return segment_damage(&r->segment, offset, "its payload does not decompress", err);
	return 0;
}

/* Keeps a piece's frame in memory while its transaction is small enough. */
static void keep_piece(struct spool_reader *r, const struct frame *f)
{
	if ((f->flags & FRAME_FIRST) != 0) {
		buf_clear(&r->kept);
		r->kept_all = true;
	}
	if (r->kept_all && f->bytes > r->max_buffer_bytes - r->kept.len) {
		r->kept_all = false;
		buf_release(&r->kept);
	}
	if (r->kept_all)
		buf_add(&r->kept, f->stored.p - FRAME_HEADER_BYTES, f->bytes);
}

/* 1: with this piece a transaction is complete that is to be handed out. */
static int walk_piece(struct spool_reader *r, const struct frame *f, uint64_t offset,
		      struct rt_err *err)
{
	if ((f->flags & FRAME_FIRST) != 0) {
		r->walking = true;
		r->first_offset = offset;
		r->walk_bytes = 0;
	} else if (!r->walking) {
		return segment_damage(&r->segment, offset, "a piece without a first one", err);
	}
	r->walk_bytes += f->raw_bytes;
	keep_piece(r, f);
	if ((f->flags & FRAME_LAST) == 0)
		return 0;
	r->walking = false;
	r->reached = f->lsn;
	if (pass_over(r, f->lsn))
		return 0;
	r->head = (struct record_head){.end = f->lsn};
	r->transaction_bytes = r->walk_bytes;
	r->piece_offset = r->first_offset;
	r->kept_at = 0;
	r->piece_left = true;
	r->changes = rd_of(slice_str(""));
	return 1;
}

/* What a frame holds for the caller. */
enum frame_use { USE_NONE, USE_TRANSACTIONS, USE_PIECES, USE_PROGRESS, USE_GAP };

/* Takes up the valid frame at offset; *use says what it holds. */
static int take_frame(struct spool_reader *r, const struct frame *f, uint64_t offset,
		      enum frame_use *use, struct rt_err *err)
{
	struct slice payload;
	int rc;
	*use = USE_NONE;
	switch (f->kind) {
	case FRAME_SCHEMAS:
		if ((rc = payload_of(r, f, offset, &payload, err)) != 0)
			return rc;
		if (!schema_table_add(r->schemas, payload))
			return segment_damage(&r->segment, offset, "a schema is not whole", err);
		return 0;
	case FRAME_PIECE:
		if ((rc = walk_piece(r, f, offset, err)) == 1)
			*use = USE_PIECES;
		return rc < 0 ? rc : 0;
	case FRAME_TRANSACTIONS:
		r->walking = false;
		r->reached = lsn_max(r->reached, f->lsn);
		if (f->lsn.v != 0 && lsn_le(f->lsn, r->position))
			return 0;
		if ((rc = payload_of(r, f, offset, &payload, err)) != 0)
			return rc;
		r->transactions = rd_of(payload);
		*use = USE_TRANSACTIONS;
		return 0;
	case FRAME_PROGRESS:
		r->walking = false;
		r->reached = lsn_max(r->reached, f->lsn);
		if (!pass_over(r, f->lsn))
			*use = USE_PROGRESS;
		return 0;
	case FRAME_SEGMENT:
		return segment_damage(&r->segment, offset, "a second first frame", err);
	default: /* one that may be skipped */
		return 0;
	}
}

/* 1: *use and *ret_lsn (of a progress) are set. 0: nothing more for now. */
static int next_frame(struct spool_reader *r, enum frame_use *use, struct lsn *ret_lsn,
		      struct rt_err *err)
{
	struct segment_look l;
	int rc;
	for (;;) {
		if (!r->is_open && (rc = enter_first(r, err)) <= 0)
			return rc;
		if (r->gap) {
			*use = USE_GAP;
			return 1;
		}
		/* Known before the look: then what the look finds is all that there will be. */
		const struct segment_entry *next = r->next;
		if ((rc = segment_look(&r->segment, r->offset, &l, err)) != 0)
			return rc;
		if (l.state == FRAME_VALID && lsn_lt(r->reached, r->at.cut)) {
			uint64_t offset = r->offset;
			r->offset += l.frame.bytes;
			if ((rc = take_frame(r, &l.frame, offset, use, err)) != 0)
				return rc;
			if (*use == USE_NONE)
				continue;
			*ret_lsn = l.frame.lsn;
			return 1;
		}
		if (next != NULL) {
			if ((rc = leave_segment(r, next, &l, err)) != 0)
				return rc;
			continue;
		}
		if ((rc = list_if_due(r, err)) < 0)
			return rc;
		if (rc == 1 && r->next == NULL && is_replaced(r)) {
			r->is_open = r->walking = false;
			r->dir_changed = true;
			continue;
		}
		if (rc == 0 || r->next == NULL)
			return check_tail(r, &l, err);
	}
}

/* ---- transactions ---- */

/* Finds the head among the fields of a Transaction and puts the rest into r->changes. */
static bool open_transaction(struct spool_reader *r, struct slice transaction)
{
	struct rd in = rd_of(transaction);
	uint32_t number;
	struct slice field;
	arena_reset(&r->heads);
	while (record_next_field(&in, &number, &field))
		if (number == TRANSACTION_HEAD && !record_read_head(field, &r->heads, &r->head))
			return false;
	r->changes = rd_of(transaction);
	return !in.failed;
}

static int bad_transaction(struct spool_reader *r, struct rt_err *err)
{
	return segment_damage(&r->segment, r->offset, "before it, a transaction is not whole", err);
}

static void set_begin(struct spool_reader *r, struct change *ret)
{
	*ret = (struct change){.kind = CHANGE_BEGIN,
			       .lsn = r->head.commit,
			       .xid = r->head.xid,
			       .commit_us = r->head.commit_us};
	r->state = READER_TRANSACTION;
}

/* Takes up the next piece. 1: done; 0: there is none left. */
static int next_piece(struct spool_reader *r, struct rt_err *err)
{
	struct segment_look l;
	struct slice payload;
	size_t need;
	int rc;
	if (!r->piece_left)
		return 0;
	FAILPOINT(READER_PIECE);
	do {
		uint64_t offset = r->piece_offset;
		if (r->kept_all) {
			l.state = frame_decode(slice_of(r->kept.p + r->kept_at,
							r->kept.len - r->kept_at),
					       r->segment.is.salt, &l.frame, &need);
		} else if ((rc = segment_look(&r->segment, offset, &l, err)) != 0) {
			return rc;
		}
		if (l.state != FRAME_VALID)
			return segment_damage(&r->segment, offset,
					      "a piece could not be read again", err);
		r->kept_at += l.frame.bytes;
		r->piece_offset += l.frame.bytes;
	} while (l.frame.kind != FRAME_PIECE);
	r->piece_left = (l.frame.flags & FRAME_LAST) == 0;
	if ((rc = payload_of(r, &l.frame, r->piece_offset - l.frame.bytes, &payload, err)) != 0)
		return rc;
	const struct lsn end = r->head.end; /* as the frame with LAST has it: what was compared */
	if (!open_transaction(r, payload) || !lsn_eq(r->head.end, end))
		return bad_transaction(r, err);
	return 1;
}

/* A message that stands alone. 1: *ret set; 0: passed over. */
static int take_outside(struct spool_reader *r, struct arena *a, struct change *ret,
			struct rt_err *err)
{
	uint32_t number;
	struct slice field;
	struct change c;
	while (record_next_field(&r->changes, &number, &field)) {
		if (number != TRANSACTION_CHANGE)
			continue;
		int rc = record_read_change(field, a, schema_table_find, r->schemas, &c, err);
		if (rc != 0)
			return rc;
		if (c.kind != CHANGE_MESSAGE)
			return bad_transaction(r, err);
		if (lsn_lt(c.lsn, r->position) || lsn_le(r->at.cut, c.lsn))
			return 0;
		*ret = c;
		return 1;
	}
	return 0;
}

/* The next transaction of the frame at hand. 1: *ret set; 0: there is none. */
static int next_transaction(struct spool_reader *r, struct arena *a, struct change *ret,
			    struct rt_err *err)
{
	uint32_t number;
	struct slice field;
	while (record_next_field(&r->transactions, &number, &field)) {
		if (number != TRANSACTIONS_TRANSACTION)
			continue;
		r->head = (struct record_head){0};
		if (!open_transaction(r, field))
			return bad_transaction(r, err);
		if (r->head.outside) {
			int rc = take_outside(r, a, ret, err);
			if (rc != 0)
				return rc;
			continue;
		}
		if (pass_over(r, r->head.end))
			continue;
		r->transaction_bytes = field.len;
		r->piece_left = false;
		set_begin(r, ret);
		return 1;
	}
	r->state = READER_FRAMES;
	return r->transactions.failed ? bad_transaction(r, err) : 0;
}

/* The next change of the transaction at hand, or its COMMIT. */
static int next_change(struct spool_reader *r, struct arena *a, struct change *ret,
		       struct rt_err *err)
{
	uint32_t number;
	struct slice field;
	int rc;
	if (r->heads_only) {
		r->changes = rd_of(slice_str(""));
		r->piece_left = false;
	}
	for (;;) {
		while (record_next_field(&r->changes, &number, &field)) {
			if (number != TRANSACTION_CHANGE)
				continue;
			rc = record_read_change(field, a, schema_table_find, r->schemas, ret, err);
			if (rc == 0)
				return 1;
			return rt_context(err, "spool segment %s, before offset %" PRIu64,
					  r->segment.path, r->offset);
		}
		if (r->changes.failed)
			return bad_transaction(r, err);
		if ((rc = next_piece(r, err)) < 0)
			return rc;
		if (rc == 0)
			break;
	}
	*ret = (struct change){
		.kind = CHANGE_COMMIT, .lsn = r->head.end, .commit_us = r->head.commit_us};
	r->position = r->head.end;
	r->state = r->transactions.left > 0 ? READER_FRAME : READER_FRAMES;
	return 1;
}

int spool_reader_next(struct spool_reader *r, struct arena *a, struct change *ret,
		      struct rt_err *err)
{
	enum frame_use use;
	struct lsn lsn = LSN_NONE;
	int rc;
	if (r->state == READER_TRANSACTION)
		return next_change(r, a, ret, err);
	for (;;) {
		if (r->state == READER_FRAME && (rc = next_transaction(r, a, ret, err)) != 0)
			return rc;
		if ((rc = next_frame(r, &use, &lsn, err)) <= 0)
			return rc;
		switch (use) {
		case USE_NONE:
			break;
		case USE_TRANSACTIONS:
			r->state = READER_FRAME;
			break;
		case USE_PIECES:
			r->transactions = rd_of(slice_str(""));
			if ((rc = next_piece(r, err)) < 0)
				return rc;
			set_begin(r, ret);
			return 1;
		case USE_PROGRESS:
			*ret = (struct change){.kind = CHANGE_PROGRESS, .lsn = lsn};
			r->position = lsn;
			return 1;
		case USE_GAP:
			*ret = (struct change){
				.kind = CHANGE_GAP, .lsn = r->at.start, .gap_from = r->gap_from};
			r->position = r->at.start;
			r->gap = false;
			return 1;
		}
	}
}
