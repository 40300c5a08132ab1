/*
 * spool: the durable, compressed queue between capture and apply, a directory
 * of append-only segment files; proto/FORMAT.md is the contract of its bytes.
 *
 * Invariants (design §3): durable ≤ received; a reader sees whole
 * transactions only, in commit order; what capture wrote in an earlier
 * process life beyond the slot's confirmed position is cut off at its next
 * start; segments are deleted by capture alone, once applied (or later, by
 * retention).
 */
#ifndef PROTO_SPOOL_H
#define PROTO_SPOOL_H

#include "proto/base/arena.h"
#include "proto/base/rt.h"
#include "proto/change.h"
#include "proto/lsn.h"

/* What a spool belongs to; in every segment's header, checked when it is opened again. */
struct spool_identity {
	uint64_t system_id; /* the core's system identifier */
	uint32_t timeline;
	const char *pipeline; /* at most 63 bytes, as a PostgreSQL identifier */
	const char *slot;     /* likewise */
};

struct spool_options {
	uint64_t
		segment_bytes; /* a segment is closed at the first transaction boundary past this */
	uint64_t quota_bytes;  /* all segments together; above it spool_is_full() */
	uint64_t
		reserve_bytes; /* free space to leave on the file system; below it spool_is_full() */
	uint64_t frame_bytes;  /* raw bytes after which a frame is written within a transaction */
	int64_t retain_us;     /* keep applied segments at least this long, while there is room */
	/* The core is on a later timeline than the spool: begin at confirmed on that one. */
	bool accept_timeline;
	bool accept_gap; /* the slot was lost: begin at confirmed although the spool ends before it */
	uint64_t asked; /* hash of what is asked of the core: for spool_recall */
	/* As recalled: segments say it again, until it has come again. Borrowed for the call. */
	const struct spool_memory *memory;
	size_t memory_count;
};

struct spool_writer;

/*
 * Opens dir for writing (created 0700 when missing; files 0600; one writer at
 * a time, by lock). What lies beyond confirmed is cut off, a new segment of a
 * new generation begins there. A spool of another identity, or one whose end
 * lies before confirmed: ERR_PERMANENT saying what to do (a gap is never
 * passed over). With accept_gap the new generation says instead, in its first
 * segment, what is missing (spool_gap), and readers hand that out as GAP. An
 * empty directory begins at confirmed.
 */
int spool_writer_open(struct spool_writer **ret, const char *dir, const struct spool_identity *id,
		      const struct spool_options *options, struct lsn confirmed,
		      struct rt_err *err) RT_MUSTCHECK;
void spool_writer_close(struct spool_writer *w);
/* Where the gap begins that ends where w was opened; LSN_NONE: there is none. */
struct lsn spool_gap(const struct spool_writer *w);
/*
 * The position that the spool of dir has reached, for a look at it without
 * writing. 1: *ret is set; 0: it holds nothing yet; ERR_PERMANENT: it is of
 * another identity, or damaged.
 */
int spool_end(const char *dir, const struct spool_identity *id, struct lsn *ret,
	      struct rt_err *err) RT_MUSTCHECK;

/*
 * Recalls what dir had got, before the next opening cuts it off: all beyond
 * confirmed, and some before it (the last transaction, unless it is not known),
 * in the order of ends. Only what was received under the same identity and the
 * same `asked`. Negative: it cannot be read any further (as spool_reader_next);
 * what was recalled until then is so.
 */
int spool_recall(const char *dir, const struct spool_identity *id, uint64_t asked,
		 struct lsn confirmed, void (*recall)(void *ctx, const struct spool_memory *m),
		 void *ctx, struct rt_err *err) RT_MUSTCHECK;

/*
 * Appends one change to the current frame, copying it. Changes of one
 * transaction come contiguously: BEGIN … COMMIT. A large transaction's frames
 * are written as they fill (memory stays bounded); a reader does not see them
 * before the COMMIT. PROGRESS, and a message that is not transactional, is
 * appended between transactions only. ERR_SYSTEM: the disk said no; nothing
 * is lost (a change of a transaction was taken all the same), and spool_write tries again.
 * ERR_PERMANENT: not the order said here, or a row that cannot be held.
 */
int spool_append(struct spool_writer *w, const struct change *c, struct rt_err *err) RT_MUSTCHECK;
/* Forgets what was appended of an open transaction (the connection broke within it): it will come again. */
int spool_abort_transaction(struct spool_writer *w, struct rt_err *err) RT_MUSTCHECK;
/*
 * write()s all whole transactions appended so far: readers see them from here
 * on. ERR_SYSTEM (disk full) leaves the files as they were; call it again later.
 */
int spool_write(struct spool_writer *w, struct rt_err *err) RT_MUSTCHECK;
/* spool_write, then fdatasync. A failed sync is final: every later call fails too. */
int spool_sync(struct spool_writer *w, struct rt_err *err) RT_MUSTCHECK;
/*
 * The same without waiting: spool_write, then a sync begins; none may be under
 * way. spool_sync_end: 1 when it is done and spool_durable has moved, else 0;
 * spool_sync_fd is readable then (-1: it is done already).
 */
int spool_sync_begin(struct spool_writer *w, struct rt_err *err) RT_MUSTCHECK;
int spool_sync_end(struct spool_writer *w, struct rt_err *err) RT_MUSTCHECK;
bool spool_is_syncing(const struct spool_writer *w);
int spool_sync_fd(const struct spool_writer *w);
/* End of the last whole transaction or progress appended and written (spool_write). */
struct lsn spool_received(const struct spool_writer *w);
/* The same, as of the last sync that ended well. */
struct lsn spool_durable(const struct spool_writer *w);
/* True when quota or reserve is reached: stop reading the core (and keep answering it). */
bool spool_is_full(struct spool_writer *w);
/*
 * Deletes segments all of whose changes are ≤ applied and last written longer
 * than retain ago; where room gets short, retain does not count. The newest
 * stays until it is full.
 */
int spool_trim(struct spool_writer *w, struct lsn applied, struct rt_err *err) RT_MUSTCHECK;
/* Bytes of all segments on disk. */
uint64_t spool_bytes(const struct spool_writer *w);
/* Bytes that were written since it was asked last. */
uint64_t spool_take_written(struct spool_writer *w);

struct spool_reader;

/*
 * Opens dir for reading whole transactions with commit end LSN > from. The
 * directory may be empty or not there yet (nothing to read, not an error).
 * max_buffer_bytes: a transaction larger than this is not held in memory but
 * read a second time, frame by frame, once its COMMIT is known to be there.
 * identity: NULL, or what the spool must belong to (system_id 0 = any).
 */
int spool_reader_open(struct spool_reader **ret, const char *dir, struct lsn from,
		      size_t max_buffer_bytes, const struct spool_identity *id,
		      struct rt_err *err) RT_MUSTCHECK;
void spool_reader_close(struct spool_reader *r);
/*
 * A descriptor (inotify) that becomes readable when there may be more than
 * there was when it was first asked for; spool_reader_next clears it. Also poll
 * by a slow timer, and where it is -1 by that alone.
 */
int spool_reader_fd(struct spool_reader *r);
/*
 * The next change. 1: *ret is set; its pointers live in the arena, schemas
 * until the reader closes. 0: nothing more for now. After a BEGIN was
 * returned, all of its transaction follows without a 0 between. A GAP comes
 * where the slot was lost, and first of all where `from` is before what is
 * kept: what was committed in it must be had by other means. Negative: a
 * damaged frame in the middle of the spool (ERR_PERMANENT, naming segment and
 * offset).
 */
int spool_reader_next(struct spool_reader *r, struct arena *a, struct change *ret,
		      struct rt_err *err) RT_MUSTCHECK;
/*
 * After a failure: the timeline that the spool goes on with, which the reader's
 * identity is not of, and where; 0: that was not why.
 */
uint32_t spool_reader_next_timeline(const struct spool_reader *r, struct lsn *ret_start);
/* Where the reader has got to: the last COMMIT, PROGRESS or GAP returned (or `from`). */
struct lsn spool_reader_position(const struct spool_reader *r);
/* Commit end LSN of the transaction whose BEGIN was returned last, known before its rows are read. */
struct lsn spool_reader_transaction_end(const struct spool_reader *r);
/* Raw (uncompressed) bytes of the transaction whose BEGIN was returned last, known before its rows are read. */
uint64_t spool_reader_transaction_bytes(const struct spool_reader *r);

/* ---- <spool>/applied: apply's word to capture, two checksummed slots written in turn ---- */

struct applied_position {
	struct lsn applied; /* flushed in the warehouse */
	uint32_t timeline;
	int64_t at_us; /* when it was written, µs since 1970 */
	/* A sync will read again what comes after this, applied or not; LSN_NONE: none will. */
	struct lsn keep;
};

struct applied_file; /* apply's writing end */
int applied_open(struct applied_file **ret, const char *dir, struct rt_err *err) RT_MUSTCHECK;
/* Writes the older slot (pwrite; no fsync: after a crash an older position is safe). */
int applied_write(struct applied_file *f, const struct applied_position *p,
		  struct rt_err *err) RT_MUSTCHECK;
void applied_close(struct applied_file *f);
/* 1: *ret set (the newest valid slot); 0: no file or no valid slot; negative: cannot read. */
int applied_read(const char *dir, struct applied_position *ret, struct rt_err *err) RT_MUSTCHECK;

#endif
