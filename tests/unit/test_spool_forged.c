/*
 * Segments whose checksums are right and whose content no writer makes: each is refused, naming the place.
 * And what a writer or reader is asked that it rarely is: at the edges of their contracts.
 */
#include "tests/unit/spool_data.h"

#include <errno.h>
#include <libaio.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <time.h>

#include "proto/base/fsio.h"
#include "proto/spool_internal.h"

#include <xxhash.h>

/* ---- these stand in for libc's and libaio's ---- */

int fdatasync(int fd)
{
	return 0;
}

int fsync(int fd)
{
	return 0;
}

static bool overflows; /* the next read of a queue of inotify says that it lost events */

ssize_t read(int fd, void *p, size_t n)
{
	if (!overflows)
		return syscall(SYS_read, fd, p, n);
	overflows = false;
	const struct inotify_event e = {.wd = -1, .mask = IN_Q_OVERFLOW};
	memcpy(p, &e, sizeof(e));
	return sizeof(e);
}

static time_t later; /* s that every clock is ahead */

int clock_gettime(clockid_t clock, struct timespec *ret)
{
	int rc = (int)syscall(SYS_clock_gettime, clock, ret);
	ret->tv_sec += later;
	return rc;
}

/* The kernel's side of a sync that was begun. */
static struct {
	int submit;  /* what io_submit returns */
	int done;    /* what io_getevents returns */
	long result; /* of the sync */
} kernel;

int io_setup(int max, io_context_t *ret)
{
	*ret = (io_context_t)&kernel;
	return 0;
}

int io_destroy(io_context_t context)
{
	return 0;
}

int io_submit(io_context_t context, long count, struct iocb **request)
{
	return kernel.submit;
}

int io_getevents(io_context_t context, long least, long most, struct io_event *ret,
		 struct timespec *timeout)
{
	if (least > 0)
		kernel.done = 1;
	ret->res = (unsigned long)kernel.result;
	return kernel.done;
}

/* ---- fixture ---- */

static const struct spool_options small = {
	.segment_bytes = 700, .quota_bytes = 1 << 30, .frame_bytes = 150, .retain_us = 0};

enum { SALT = 5 };

static char *dir;
static struct arena arena;
static struct rt_err err;
static struct buf file; /* the segment being forged */

static int setup(void **state)
{
	dir = data_mkdir();
	arena_init(&arena, 64 << 10);
	kernel.submit = kernel.done = 1;
	kernel.result = 0;
	return 0;
}

static int teardown(void **state)
{
	data_rmdir(dir);
	arena_release(&arena);
	buf_release(&file);
	return 0;
}

static void add_frame(unsigned kind, unsigned flags, uint64_t lsn, struct slice raw)
{
	const struct frame f = {.kind = (uint8_t)kind, .flags = (uint16_t)flags, .lsn = {lsn}};
	frame_encode(&file, &f, raw, kind == FRAME_SEGMENT ? 0 : SALT);
}

/* A frame that says of garbage that it is compressed. */
static void add_undecompressable(unsigned kind, unsigned flags, uint64_t lsn)
{
	static const uint8_t garbage[32] = {0xFF, 0xFF, 0xFF};
	const size_t at = file.len;
	add_frame(kind, flags, lsn, slice_of(garbage, sizeof(garbage)));
	uint8_t *h = file.p + at;
	be16_put(h + 14, (uint16_t)(flags | FRAME_LZ4));
	be32_put(h + 20, 64);
	be64_put(h,
		 XXH3_64bits_withSeed(h + 8, file.len - at - 8, kind == FRAME_SEGMENT ? 0 : SALT));
}

static struct record_segment segment_of(uint32_t generation, uint64_t start, uint64_t gap_from)
{
	return (struct record_segment){.system_id = data_identity.system_id,
				       .timeline = data_identity.timeline,
				       .pipeline = slice_str(data_identity.pipeline),
				       .slot = slice_str(data_identity.slot),
				       .generation = generation,
				       .start = {start},
				       .salt = SALT,
				       .gap_from = {gap_from}};
}

/* Begins a file with the right first frame. */
static void begin_file(uint32_t generation, uint64_t start, uint64_t gap_from)
{
	struct buf raw = BUF_INIT;
	const struct record_segment s = segment_of(generation, start, gap_from);
	buf_clear(&file);
	record_add_segment(&raw, &s);
	add_frame(FRAME_SEGMENT, 0, 0, buf_slice(&raw));
	buf_release(&raw);
}

static char *path_of(uint32_t generation, uint64_t start)
{
	char name[SPOOL_NAME_BYTES];
	segment_name(name, generation, data_lsn(start));
	return rt_sprintf("%s/%s", dir, name);
}

static void store_file(uint32_t generation, uint64_t start)
{
	char *path = path_of(generation, start);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_rc(fs_write_all(fd, file.p, file.len, path, &err), err);
	close(fd);
	free(path);
}

static void remove_file(uint32_t generation, uint64_t start)
{
	char *path = path_of(generation, start);
	assert_int_equal(unlink(path), 0);
	free(path);
}

static struct spool_reader *open_reader(uint64_t from)
{
	struct spool_reader *r;
	assert_rc(spool_reader_open(&r, dir, data_lsn(from), 200, &data_identity, &err), err);
	return r;
}

static struct spool_writer *open_writer(uint64_t confirmed, const struct spool_options *o)
{
	struct spool_writer *w;
	assert_rc(spool_writer_open(&w, dir, &data_identity, o, data_lsn(confirmed), &err), err);
	return w;
}

/* Reads to the end or an error; *ret: the last change. */
static int read_on(struct spool_reader *r, struct change *ret)
{
	int rc;
	struct change c;
	*ret = (struct change){0};
	while ((rc = spool_reader_next(r, &arena, &c, &err)) == 1)
		*ret = c;
	return rc;
}

/* The forged file, as the only one, is refused. */
static void refused(const char *says)
{
	struct change last;
	store_file(1, 0x100);
	struct spool_reader *r = open_reader(0x100);
	assert_int_equal(read_on(r, &last), ERR_PERMANENT);
	assert_says(err, says);
	assert_says(err, dir);
	spool_reader_close(r);
}

/* A Transactions payload of one transaction, or with pieces a Transaction. */
static void add_event(struct buf *out)
{
	static struct record_scratch scratch;
	struct value v[5];
	const struct change c = data_event(v, 0x180, "{}");
	assert_rc(record_add_change(out, &c, &scratch, &err), err);
	record_scratch_release(&scratch);
}

static void add_schema(void)
{
	struct buf raw = BUF_INIT;
	record_add_schema(&raw, &data_events);
	add_frame(FRAME_SCHEMAS, 0, 0, buf_slice(&raw));
	buf_release(&raw);
}

/* ---- first frames ---- */

static void test_a_first_frame_that_is_none_is_refused(void **state)
{
	add_frame(50, 0, 0, slice_str(""));
	be64_put(file.p, XXH3_64bits_withSeed(file.p + 8, file.len - 8, 0));
	refused("written by a newer version");
	buf_clear(&file);
	add_frame(FRAME_PROGRESS, 0, 1, slice_str(""));
	be64_put(file.p, XXH3_64bits_withSeed(file.p + 8, file.len - 8, 0));
	refused("its first frame is not whole");
	buf_clear(&file);
	add_undecompressable(FRAME_SEGMENT, 0, 0);
	refused("its first frame is not whole");
	buf_clear(&file);
	add_frame(FRAME_SEGMENT, 0, 0, slice_str("\xFF\xFF"));
	refused("its first frame is not whole");
	begin_file(2, 0x100, 0);
	refused("not that of its name");
	begin_file(1, 0x108, 0);
	refused("not that of its name");
}

/* ---- frames ---- */

static void test_frames_that_do_not_decompress_are_refused(void **state)
{
	begin_file(1, 0x100, 0);
	add_undecompressable(FRAME_SCHEMAS, 0, 0);
	refused("does not decompress");
	begin_file(1, 0x100, 0);
	add_undecompressable(FRAME_TRANSACTIONS, 0, 0x200);
	refused("does not decompress");
	begin_file(1, 0x100, 0);
	add_undecompressable(FRAME_PIECE, FRAME_FIRST | FRAME_LAST, 0x200);
	refused("does not decompress");
}

static void test_frames_out_of_their_place_are_refused(void **state)
{
	begin_file(1, 0x100, 0);
	add_frame(FRAME_SEGMENT, 0, 0, slice_str(""));
	be64_put(file.p + file.len - FRAME_HEADER_BYTES,
		 XXH3_64bits_withSeed(file.p + file.len - FRAME_HEADER_BYTES + 8,
				      FRAME_HEADER_BYTES - 8, SALT));
	refused("a second first frame");
	begin_file(1, 0x100, 0);
	add_frame(FRAME_PIECE, FRAME_LAST, 0x200, slice_str(""));
	refused("a piece without a first one");
	begin_file(1, 0x100, 0);
	add_frame(FRAME_SCHEMAS, 0, 0, slice_str("\x0A\x01\xFF"));
	refused("a schema is not whole");
	begin_file(1, 0x100, 0);
	add_frame(50, 0, 0x200, slice_str(""));
	refused("was written by a newer version");
}

static void test_a_frame_that_may_be_skipped_is(void **state)
{
	struct change last;
	begin_file(1, 0x100, 0);
	add_frame(50, FRAME_SKIPPABLE, 0, slice_str("x"));
	add_frame(FRAME_PROGRESS, 0, 0x200, slice_str(""));
	store_file(1, 0x100);
	struct spool_reader *r = open_reader(0x100);
	assert_int_equal(read_on(r, &last), 0);
	assert_int_equal(last.kind, CHANGE_PROGRESS);
	assert_int_equal(last.lsn.v, 0x200);
	spool_reader_close(r);
}

/* ---- transactions ---- */

static void test_transactions_that_are_none_are_refused(void **state)
{
	static const struct record_head head = {.xid = 7, .commit = {0x1F8}, .end = {0x200}};
	struct buf raw = BUF_INIT;
	begin_file(1, 0x100, 0);
	add_frame(FRAME_TRANSACTIONS, 0, 0x200, slice_str("\x0A\x03\x0A\x01\xFF")); /* its head */
	refused("a transaction is not whole");
	begin_file(1, 0x100, 0);
	add_frame(FRAME_TRANSACTIONS, 0, 0x200, slice_str("\x0A\x02\x12\x7F")); /* cut within */
	refused("a transaction is not whole");
	begin_file(1, 0x100, 0);
	add_frame(FRAME_TRANSACTIONS, 0, 0x200, slice_str("\x0A\x7F")); /* cut */
	refused("a transaction is not whole");
	/* A change that is none, and one whose schema is not there. */
	begin_file(1, 0x100, 0);
	record_add_transaction(&raw, &head, slice_str("\x12\x01\xFF"));
	add_frame(FRAME_TRANSACTIONS, 0, 0x200, buf_slice(&raw));
	refused("is not a rolag.v1.Change");
	struct buf change = BUF_INIT;
	add_event(&change);
	buf_clear(&raw);
	record_add_transaction(&raw, &head, buf_slice(&change));
	begin_file(1, 0x100, 0);
	add_frame(FRAME_TRANSACTIONS, 0, 0x200, buf_slice(&raw));
	refused("is not there");
	/* Outside of transactions there are messages only. */
	const struct record_head outside = {.outside = true};
	buf_clear(&raw);
	record_add_transaction(&raw, &outside, buf_slice(&change));
	begin_file(1, 0x100, 0);
	add_frame(FRAME_TRANSACTIONS, 0, 0, buf_slice(&raw));
	refused("is not there");
	begin_file(1, 0x100, 0);
	add_schema();
	add_frame(FRAME_TRANSACTIONS, 0, 0, buf_slice(&raw));
	refused("a transaction is not whole");
	buf_release(&change);
	buf_release(&raw);
}

/* Fields of a later version: passed over, wherever they stand. */
static void test_unknown_fields_are_passed_over(void **state)
{
	static const struct record_head head = {.xid = 7, .commit = {0x1F8}, .end = {0x200}};
	const struct record_head outside = {.outside = true};
	struct buf raw = BUF_INIT, change = BUF_INIT;
	struct change last;
	add_event(&change);
	buf_add_slice(&change, slice_str("\x7A\x01x"));
	buf_add_slice(&raw, slice_str("\x7A\x01x"));
	record_add_transaction(&raw, &outside, slice_str("\x7A\x01x"));
	record_add_transaction(&raw, &head, buf_slice(&change));
	begin_file(1, 0x100, 0);
	struct buf schemas = BUF_INIT;
	buf_add_slice(&schemas, slice_str("\x7A\x01x"));
	add_frame(FRAME_SCHEMAS, 0, 0, buf_slice(&schemas));
	add_schema();
	add_schema(); /* twice is once */
	add_frame(FRAME_TRANSACTIONS, 0, 0x200, buf_slice(&raw));
	store_file(1, 0x100);
	struct spool_reader *r = open_reader(0x100);
	assert_int_equal(read_on(r, &last), 0);
	assert_int_equal(last.kind, CHANGE_COMMIT);
	assert_int_equal(last.lsn.v, 0x200);
	spool_reader_close(r);
	buf_release(&schemas);
	buf_release(&change);
	buf_release(&raw);
}

/* Pieces whose LAST does not end where its frame says, or that are no Transaction. */
static void test_pieces_that_are_no_transaction_are_refused(void **state)
{
	struct buf raw = BUF_INIT;
	const struct record_head first = {.xid = 7, .commit = {0x1F8}};
	const struct record_head last = {.end = {0x210}};
	record_add_head(&raw, &first);
	begin_file(1, 0x100, 0);
	add_frame(FRAME_PIECE, FRAME_FIRST, 0, buf_slice(&raw));
	buf_clear(&raw);
	record_add_head(&raw, &last);
	add_frame(FRAME_PIECE, FRAME_LAST, 0x200, buf_slice(&raw));
	refused("a transaction is not whole");
	begin_file(1, 0x100, 0);
	add_frame(FRAME_PIECE, FRAME_FIRST | FRAME_LAST, 0x200, slice_str("\x0A\x7F"));
	refused("a transaction is not whole");
	buf_release(&raw);
}

/* A piece is walked, then read again: what was there must be there still. */
static void test_a_piece_that_changes_before_it_is_read_again_is_refused(void **state)
{
	struct value v[5];
	struct change c;
	struct spool_writer *w = open_writer(0x100, &data_options);
	spool_writer_close(w);
	w = open_writer(0x100, &small);
	data_append(w, data_begin(0x1F8, 7));
	for (unsigned i = 0; i < 8000; i++) /* more than is read ahead */
		data_append(w, data_event(v, 0x1F0, "{\"a\": \"some text that fills a frame\"}"));
	data_append(w, data_commit(0x1F8, 0x200));
	assert_rc(spool_write(w, &err), err);
	struct spool_reader *r = open_reader(0x100);
	assert_int_equal(spool_reader_next(r, &arena, &c, &err), 1);
	char *path = path_of(2, 0x100);
	assert_int_equal(truncate(path, 1000), 0);
	assert_int_equal(read_on(r, &c), ERR_PERMANENT);
	assert_says(err, "could not be read again");
	free(path);
	spool_reader_close(r);
	spool_writer_close(w);
}

/* ---- segments ---- */

/* A frame larger than what is read ahead. */
static void test_a_frame_of_a_megabyte(void **state)
{
	char *text = rt_calloc(1, (1 << 20) + 1);
	struct value v[5];
	struct change c;
	unsigned x = 1;
	for (unsigned i = 0; i < 1 << 20; i++)
		text[i] = (char)('!' + (x = x * 1664525u + 1013904223u) % 91);
	struct spool_writer *w = open_writer(0x100, &data_options);
	data_append(w, data_begin(0x1F8, 7));
	data_append(w, data_event(v, 0x1F0, text));
	data_append(w, data_commit(0x1F8, 0x200));
	assert_rc(spool_sync(w, &err), err);
	struct spool_reader *r = open_reader(0x100);
	assert_int_equal(spool_reader_next(r, &arena, &c, &err), 1);
	assert_int_equal(spool_reader_next(r, &arena, &c, &err), 1);
	assert_int_equal(c.new_row.value[3].len, 1 << 20);
	assert_memory_equal(c.new_row.value[3].p, text, 1 << 20);
	spool_reader_close(r);
	spool_writer_close(w);
	free(text);
}

/* A later generation that neither joins nor says why. */
static void test_a_generation_that_does_not_join_is_refused(void **state)
{
	struct change last;
	begin_file(2, 0x300, 0);
	store_file(2, 0x300);
	begin_file(1, 0x100, 0);
	add_frame(FRAME_PROGRESS, 0, 0x200, slice_str(""));
	refused("ends at 0/200, the next segment begins at 0/300");
	begin_file(2, 0x300, 0x280); /* its gap begins too late */
	store_file(2, 0x300);
	begin_file(1, 0x100, 0);
	add_frame(FRAME_PROGRESS, 0, 0x200, slice_str(""));
	refused("the next segment begins at 0/300");
	begin_file(2, 0x300, 0x200);
	store_file(2, 0x300);
	struct spool_reader *r = open_reader(0x100);
	assert_int_equal(read_on(r, &last), 0);
	assert_int_equal(last.kind, CHANGE_GAP);
	spool_reader_close(r);
}

static void test_segments_that_overlap_are_refused(void **state)
{
	begin_file(1, 0x200, 0);
	store_file(1, 0x200);
	begin_file(1, 0x100, 0);
	add_frame(FRAME_PROGRESS, 0, 0x300, slice_str(""));
	refused("ends at 0/300, the next segment begins at 0/200");
}

/* What a listing showed is gone, or has made place for another, when it is to be entered. */
static void test_a_listing_that_is_out_of_date_is_made_again(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		struct change c;
		begin_file(1, 0x300, 0);
		store_file(1, 0x300);
		begin_file(1, 0x100, 0);
		add_frame(FRAME_PROGRESS, 0, 0x200, slice_str(""));
		store_file(1, 0x100);
		struct spool_reader *r = open_reader(0x100);
		assert_int_equal(spool_reader_next(r, &arena, &c, &err), 1);
		remove_file(1, 0x300);
		if (i == 1) {
			begin_file(2, 0x200, 0);
			add_frame(FRAME_PROGRESS, 0, 0x400, slice_str(""));
			store_file(2, 0x200);
			assert_int_equal(spool_reader_next(r, &arena, &c, &err), 1);
			assert_int_equal(c.lsn.v, 0x400);
		} else {
			assert_int_equal(spool_reader_next(r, &arena, &c, &err), 0);
		}
		spool_reader_close(r);
		data_empty_dir(dir);
	}
}

/* A torn frame, and behind it one that was made before this place was known on disk: a tail all the same. */
static void test_a_frame_behind_a_tail_proves_nothing_by_itself(void **state)
{
	struct change last;
	begin_file(1, 0x100, 0);
	add_frame(FRAME_PROGRESS, 0, 0x200, slice_str(""));
	file.p[file.len - 1] ^= 1;
	add_frame(FRAME_PROGRESS, 0, 0x300, slice_str(""));
	store_file(1, 0x100);
	struct spool_reader *r = open_reader(0x100);
	assert_int_equal(read_on(r, &last), 0);
	assert_int_equal(last.kind, 0);
	assert_int_equal(read_on(r, &last), 0); /* and is not searched again */
	spool_reader_close(r);
	/* One that was made when it was on disk proves damage. */
	const struct frame proof = {
		.kind = FRAME_PROGRESS, .lsn = {0x400}, .synced_bytes = file.len};
	frame_encode(&file, &proof, slice_str(""), SALT);
	refused("no whole frame where one was on disk");
}

static void test_offline_commands_begin_where_the_spool_does(void **state)
{
	struct change last;
	begin_file(1, 0x100, 0);
	add_frame(FRAME_PROGRESS, 0, 0x200, slice_str(""));
	store_file(1, 0x100);
	struct spool_reader *r = open_reader(0x10);
	spool_reader_from_first(r);
	assert_int_equal(read_on(r, &last), 0);
	assert_int_equal(last.kind, CHANGE_PROGRESS);
	spool_reader_close(r);
	spool_reader_close(NULL);
	applied_close(NULL);
}

/* ---- what was received ---- */

static void count_memory(void *ctx, const struct spool_memory *m)
{
	unsigned *count = ctx;
	++*count;
}

/* A message that stands alone. */
static void add_message(uint64_t lsn)
{
	static struct record_scratch scratch;
	struct buf change = BUF_INIT, raw = BUF_INIT;
	const struct change alone = {.kind = CHANGE_MESSAGE, .lsn = {lsn}, .prefix = "alone"};
	assert_rc(record_add_change(&change, &alone, &scratch, &err), err);
	record_add_transaction(&raw, &(struct record_head){.outside = true}, buf_slice(&change));
	add_frame(FRAME_TRANSACTIONS, 0, 0, buf_slice(&raw));
	record_scratch_release(&scratch);
	buf_release(&change);
	buf_release(&raw);
}

/* A void segment that is there still, a gap, a message and progress: none is a transaction that was received. */
static void test_what_was_received_is_recalled_through_voids_and_gaps(void **state)
{
	unsigned count = 0;
	begin_file(1, 0x100, 0);
	add_frame(FRAME_PROGRESS, 0, 0x200, slice_str(""));
	store_file(1, 0x100);
	begin_file(1, 0x380, 0);
	store_file(1, 0x380);
	begin_file(2, 0x300, 0x200);
	add_message(0x350);
	add_frame(FRAME_PROGRESS, 0, 0x400, slice_str(""));
	store_file(2, 0x300);
	int rc = spool_recall(dir, &data_identity, 0, data_lsn(0x150), count_memory, &count, &err);
	assert_rc(rc, err);
	assert_int_equal(count, 1); /* from the gap's end to where progress has got to */
	char *path = path_of(2, 0x300);
	rc = spool_recall(path, &data_identity, 0, data_lsn(0x150), count_memory, &count, &err);
	assert_int_equal(rc, ERR_SYSTEM); /* no directory */
	free(path);
}

/* ---- the descriptor ---- */

static void test_a_reader_whose_events_were_lost_lists_again(void **state)
{
	struct change last;
	begin_file(1, 0x100, 0);
	add_frame(FRAME_PROGRESS, 0, 0x200, slice_str(""));
	store_file(1, 0x100);
	struct spool_reader *r = open_reader(0x100);
	assert_true(spool_reader_fd(r) >= 0);
	assert_int_equal(read_on(r, &last), 0);
	begin_file(1, 0x200, 0); /* written in place: no event says so */
	add_frame(FRAME_PROGRESS, 0, 0x300, slice_str(""));
	store_file(1, 0x200);
	assert_int_equal(read_on(r, &last), 0);
	assert_int_equal(last.kind, 0);
	overflows = true;
	assert_int_equal(read_on(r, &last), 0);
	assert_int_equal(last.lsn.v, 0x300);
	/* The directory itself goes, which the kernel tells when the last file in it is closed. */
	data_empty_dir(dir);
	assert_int_equal(rmdir(dir), 0);
	assert_int_equal(mkdir(dir, 0700), 0);
	for (uint64_t end = 0x400; end <= 0x500; end += 0x100) {
		begin_file(1, end - 0x100, 0);
		add_frame(FRAME_PROGRESS, 0, end, slice_str(""));
		store_file(1, end - 0x100);
		later += 2;
		assert_int_equal(read_on(r, &last), 0);
		assert_int_equal(last.lsn.v, end);
	}
	spool_reader_close(r);
}

/* ---- the writer ---- */

static void test_changes_that_are_in_no_place_are_refused(void **state)
{
	struct value v[5];
	struct spool_writer *w = open_writer(0x100, &data_options);
	struct change c = {
		.kind = CHANGE_MESSAGE, .lsn = {0x110}, .transactional = true, .prefix = "a"};
	assert_int_equal(spool_append(w, &c, &err), ERR_PERMANENT);
	assert_says(err, "outside of a transaction");
	c = (struct change){.kind = CHANGE_GAP, .lsn = {0x110}};
	assert_int_equal(spool_append(w, &c, &err), ERR_PERMANENT);
	assert_says(err, "gap");
	/* Larger than a frame may be; its bytes are not looked at. */
	c = (struct change){
		.kind = CHANGE_MESSAGE, .prefix = "a", .content = slice_of("", FRAME_RAW_MAX)};
	assert_int_equal(spool_append(w, &c, &err), ERR_PERMANENT);
	assert_says(err, "is larger than");
	data_append(w, data_begin(0x1F8, 7));
	c = data_event(v, 0x1F0, "{}");
	c.new_row.count = 4;
	assert_int_equal(spool_append(w, &c, &err), ERR_PERMANENT);
	assert_says(err, "columns");
	assert_rc(spool_abort_transaction(w, &err), err);
	assert_rc(spool_abort_transaction(w, &err), err); /* there is none: nothing to do */
	spool_writer_close(w);
}

static void test_progress_behind_what_is_appended_is_nothing(void **state)
{
	struct change last;
	struct spool_writer *w = open_writer(0x100, &data_options);
	data_append(w, data_progress(0x200));
	data_append(w, data_progress(0x180));
	data_append(w, data_progress(0x200));
	assert_rc(spool_write(w, &err), err);
	struct spool_reader *r = open_reader(0x100);
	assert_int_equal(spool_reader_next(r, &arena, &last, &err), 1);
	assert_int_equal(last.lsn.v, 0x200);
	assert_int_equal(spool_reader_next(r, &arena, &last, &err), 0);
	spool_reader_close(r);
	spool_writer_close(w);
}

/* Messages alone move no position: there is no place for the next segment to begin at. */
static void test_a_segment_full_of_messages_is_not_closed(void **state)
{
	const struct change alone = {.kind = CHANGE_MESSAGE,
				     .lsn = {0x100},
				     .prefix = "alone",
				     .content = slice_of("x", 1)};
	struct segment_list list = {0};
	struct change c;
	struct spool_writer *w = open_writer(0x100, &small);
	for (unsigned i = 0; i < 30; i++)
		data_append(w, alone);
	assert_rc(spool_write(w, &err), err);
	assert_true(spool_bytes(w) > 2 * small.segment_bytes);
	assert_rc(segment_list_read(&list, dir, &err), err);
	assert_int_equal(list.count, 1);
	segment_list_release(&list);
	struct spool_reader *r = open_reader(0x100);
	for (unsigned i = 0; i < 30; i++)
		assert_int_equal(spool_reader_next(r, &arena, &c, &err), 1);
	assert_int_equal(spool_reader_next(r, &arena, &c, &err), 0);
	spool_reader_close(r);
	spool_writer_close(w);
	r = open_reader(0x101); /* behind them: they are not handed out */
	assert_int_equal(spool_reader_next(r, &arena, &c, &err), 0);
	spool_reader_close(r);
}

static void test_a_message_behind_a_cut_is_void(void **state)
{
	const struct change alone = {.kind = CHANGE_MESSAGE,
				     .lsn = {0x2F0},
				     .prefix = "alone",
				     .content = slice_of("x", 1)};
	struct change c;
	struct spool_writer *w = open_writer(0x100, &data_options);
	data_append(w, data_progress(0x180));
	data_append(w, alone);
	data_append(w, data_progress(0x300));
	assert_rc(spool_write(w, &err), err);
	spool_writer_close(w);
	w = open_writer(0x200, &data_options);
	struct spool_reader *r = open_reader(0x100);
	assert_int_equal(spool_reader_next(r, &arena, &c, &err), 1);
	assert_int_equal(c.lsn.v, 0x180);
	assert_int_equal(spool_reader_next(r, &arena, &c, &err), 0);
	data_append(w, alone);
	assert_rc(spool_write(w, &err), err);
	assert_int_equal(spool_reader_next(r, &arena, &c, &err), 1); /* it came again */
	assert_int_equal(c.kind, CHANGE_MESSAGE);
	spool_reader_close(r);
	spool_writer_close(w);
}

static void test_a_transaction_of_many_tables(void **state)
{
	enum { TABLES = 40 };
	static char names[TABLES][8];
	static struct schema schemas[TABLES];
	struct value v[5];
	struct change c;
	unsigned rows = 0;
	struct spool_writer *w = open_writer(0x100, &data_options);
	data_append(w, data_begin(0x1F8, 7));
	for (unsigned i = 0; i < TABLES; i++) {
		snprintf(names[i], sizeof(names[i]), "t%u", i);
		schemas[i] = data_events;
		schemas[i].relname = names[i];
		schemas[i].hash = schema_hash(&schemas[i]);
		c = data_event(v, 0x1F0, "{}");
		c.schema = &schemas[i];
		data_append(w, c);
	}
	data_append(w, data_commit(0x1F8, 0x200));
	assert_rc(spool_write(w, &err), err);
	struct spool_reader *r = open_reader(0x100);
	while (spool_reader_next(r, &arena, &c, &err) == 1)
		if (c.kind == CHANGE_INSERT)
			assert_string_equal(c.schema->relname, names[rows++]);
	assert_int_equal(rows, TABLES);
	spool_reader_close(r);
	spool_writer_close(w);
}

/* Two that a crash left, each with a gap of its own: what takes their place says the larger. */
static void test_the_larger_of_two_gaps_is_inherited(void **state)
{
	static const uint64_t gap_from[][2] = {{0x240, 0x220}, {0x220, 0x240}};
	for (unsigned i = 0; i < ARRAY_LEN(gap_from); i++) {
		begin_file(1, 0x100, 0);
		add_frame(FRAME_PROGRESS, 0, 0x240, slice_str(""));
		store_file(1, 0x100);
		begin_file(2, 0x300, gap_from[i][0]);
		store_file(2, 0x300);
		begin_file(3, 0x310, gap_from[i][1]);
		store_file(3, 0x310);
		begin_file(4, 0x320, 0x318); /* a gap behind what is confirmed comes anew */
		store_file(4, 0x320);
		struct spool_writer *w = open_writer(0x300, &small);
		assert_int_equal(spool_gap(w).v, 0x220);
		spool_writer_close(w);
		data_empty_dir(dir);
	}
}

static void test_a_segment_that_is_gone_already_is_let_go_of(void **state)
{
	struct spool_writer *w = open_writer(0x100, &small);
	for (uint64_t end = 0x110; end <= 0x300; end += 0x10)
		data_transaction(w, end, 2);
	assert_rc(spool_sync(w, &err), err);
	remove_file(1, 0x100);
	assert_rc(spool_trim(w, data_lsn(0x300), &err), err);
	spool_writer_close(w);
}

static void test_nothing_is_closed_while_more_than_is_applied_is_in_it(void **state)
{
	struct value v[5];
	struct spool_writer *w = open_writer(0x100, &small);
	data_transaction(w, 0x110, 1); /* not yet in a frame */
	assert_rc(spool_trim(w, data_lsn(0x100), &err), err);
	assert_rc(spool_write(w, &err), err);
	assert_rc(spool_trim(w, data_lsn(0x100), &err), err);
	data_append(w, data_begin(0x118, 7));
	for (unsigned i = 0; i < 30; i++) /* in pieces */
		data_append(w, data_event(v, 0x117, "{\"a\": \"some text that fills a frame\"}"));
	assert_rc(spool_trim(w, data_lsn(0x110), &err), err);
	data_append(w, data_commit(0x118, 0x120));
	assert_rc(spool_write(w, &err), err);
	assert_int_equal(spool_received(w).v, 0x120);
	spool_writer_close(w);
}

/* ---- syncs that do not wait ---- */

static void test_a_sync_that_was_begun_ends_when_the_kernel_says(void **state)
{
	struct spool_writer *w = open_writer(0x100, &data_options);
	assert_int_equal(spool_sync_end(w, &err), 0); /* none was begun */
	data_transaction(w, 0x110, 1);
	kernel.done = 0;
	assert_rc(spool_sync_begin(w, &err), err);
	assert_true(spool_is_syncing(w));
	assert_true(spool_sync_fd(w) >= 0);
	assert_int_equal(spool_sync_end(w, &err), 0);
	assert_int_equal(spool_durable(w).v, 0x100);
	kernel.done = 1;
	assert_int_equal(spool_sync_end(w, &err), 1);
	assert_int_equal(spool_durable(w).v, 0x110);
	assert_false(spool_is_syncing(w));
	/* Where the file system has no such syncs it is done at once. */
	kernel.submit = -EINVAL;
	data_transaction(w, 0x120, 1);
	assert_rc(spool_sync_begin(w, &err), err);
	assert_int_equal(spool_sync_fd(w), -1);
	assert_int_equal(spool_sync_end(w, &err), 1);
	assert_int_equal(spool_durable(w).v, 0x120);
	spool_writer_close(w);
}

static void test_trap_03_a_sync_that_was_begun_and_fails_is_final(void **state)
{
	struct spool_writer *w = open_writer(0x100, &data_options);
	data_transaction(w, 0x110, 1);
	kernel.submit = -EIO;
	assert_int_equal(spool_sync_begin(w, &err), ERR_SYSTEM);
	kernel.submit = 1;
	assert_int_equal(spool_sync_begin(w, &err), ERR_SYSTEM);
	assert_int_equal(spool_sync_end(w, &err), ERR_SYSTEM);
	spool_writer_close(w);
	w = open_writer(0x100, &data_options);
	data_transaction(w, 0x110, 1);
	kernel.result = -EIO;
	assert_rc(spool_sync_begin(w, &err), err);
	assert_int_equal(spool_sync_end(w, &err), ERR_SYSTEM);
	assert_int_equal(spool_sync_end(w, &err), ERR_SYSTEM);
	assert_int_equal(spool_durable(w).v, 0x100);
	spool_writer_close(w);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_first_frame_that_is_none_is_refused),
		TEST(test_frames_that_do_not_decompress_are_refused),
		TEST(test_frames_out_of_their_place_are_refused),
		TEST(test_a_frame_that_may_be_skipped_is),
		TEST(test_transactions_that_are_none_are_refused),
		TEST(test_unknown_fields_are_passed_over),
		TEST(test_pieces_that_are_no_transaction_are_refused),
		TEST(test_a_piece_that_changes_before_it_is_read_again_is_refused),
		TEST(test_a_frame_of_a_megabyte),
		TEST(test_a_generation_that_does_not_join_is_refused),
		TEST(test_segments_that_overlap_are_refused),
		TEST(test_a_listing_that_is_out_of_date_is_made_again),
		TEST(test_a_frame_behind_a_tail_proves_nothing_by_itself),
		TEST(test_offline_commands_begin_where_the_spool_does),
		TEST(test_what_was_received_is_recalled_through_voids_and_gaps),
		TEST(test_a_reader_whose_events_were_lost_lists_again),
		TEST(test_changes_that_are_in_no_place_are_refused),
		TEST(test_progress_behind_what_is_appended_is_nothing),
		TEST(test_a_segment_full_of_messages_is_not_closed),
		TEST(test_a_message_behind_a_cut_is_void),
		TEST(test_a_transaction_of_many_tables),
		TEST(test_the_larger_of_two_gaps_is_inherited),
		TEST(test_a_segment_that_is_gone_already_is_let_go_of),
		TEST(test_nothing_is_closed_while_more_than_is_applied_is_in_it),
		TEST(test_a_sync_that_was_begun_ends_when_the_kernel_says),
		TEST(test_trap_03_a_sync_that_was_begun_and_fails_is_final),
	};
	data_setup();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
