/*
 * spool: a segment of sealed frames, as its reader takes it. The input is a
 * sequence of u8 kind, u8 flags, u8 LSN beyond the last and a piece as
 * payload; from a kind above 0xF0 on, bytes of the file as they are (a torn
 * tail). Transactions come whole and in order.
 */
#include "proto/spool.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/spool_internal.h"
#include "tests/fuzz/fuzz.h"

enum { START = 0x100, SALT = 4711 };

static void build(struct rd *in, struct buf *file)
{
	struct record_segment is = {
		1, 1, slice_str("p"), slice_str("s"), 1, {START}, SALT, 0, LSN_NONE, 0, NULL, 0};
	struct frame f = {.kind = FRAME_SEGMENT};
	struct buf header = BUF_INIT;
	uint64_t lsn = START;
	record_add_segment(&header, &is);
	frame_encode(file, &f, buf_slice(&header), 0);
	buf_release(&header);
	while (in->left > 0) {
		f.kind = rd_u8(in);
		if (f.kind > 0xF0) {
			buf_add(file, in->p, in->left);
			break;
		}
		uint8_t flags = rd_u8(in), beyond = rd_u8(in);
		f.flags = (uint16_t)((flags & ~FRAME_LZ4) | (flags & 0x80) << 8);
		f.lsn.v = beyond == 0 ? 0 : (lsn += beyond);
		f.synced_bytes = (flags & 0x40) != 0 ? file->len : 0;
		struct slice payload = fuzz_piece(in);
		frame_encode(file, &f, payload, SALT);
		fuzz_free(payload);
	}
}

static void read_all(const char *dir)
{
	struct spool_reader *r;
	struct change c = {0};
	struct arena a;
	struct rt_err err;
	struct lsn last = {START};
	bool open = false;
	int rc;
	arena_init(&a, 4096);
	RT_ASSERT(spool_reader_open(&r, dir, last, 128, NULL, &err) == 0);
	while ((rc = spool_reader_next(r, &a, &c, &err)) == 1) {
		RT_ASSERT(c.kind == CHANGE_MESSAGE ||
			  open != (c.kind == CHANGE_BEGIN || c.kind == CHANGE_PROGRESS ||
				   c.kind == CHANGE_GAP));
		if (c.kind == CHANGE_COMMIT || c.kind == CHANGE_PROGRESS || c.kind == CHANGE_GAP) {
			RT_ASSERT(lsn_lt(last, c.lsn));
			last = c.lsn;
		}
		open = c.kind == CHANGE_BEGIN || (open && c.kind != CHANGE_COMMIT);
	}
	RT_ASSERT(rc < 0 || (!open && lsn_eq(spool_reader_position(r), last)));
	spool_reader_close(r);
	arena_release(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rd in = rd_of(slice_of(data, size));
	struct buf file = BUF_INIT;
	char dir[] = "/dev/shm/rolag-fuzz-XXXXXX", name[SPOOL_NAME_BYTES];
	RT_ASSERT(mkdtemp(dir) != NULL);
	segment_name(name, 1, (struct lsn){START});
	int at = open(dir, O_RDONLY | O_DIRECTORY), fd = openat(at, name, O_CREAT | O_WRONLY, 0600);
	build(&in, &file);
	RT_ASSERT(write(fd, file.p, file.len) == (ssize_t)file.len);
	read_all(dir);
	RT_ASSERT(unlinkat(at, name, 0) == 0 && rmdir(dir) == 0);
	close(fd);
	close(at);
	buf_release(&file);
	return 0;
}
