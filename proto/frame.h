/*
 * frame: the unit of a spool segment, bytes to struct and back (FORMAT.md,
 * "Frame"). Pure: no files, no clock. A frame is valid or it is not; a
 * decoded frame's lengths are within bounds.
 */
#ifndef PROTO_FRAME_H
#define PROTO_FRAME_H

#include "proto/base/buf.h"
#include "proto/base/rt.h"
#include "proto/lsn.h"

#define FRAME_HEADER_BYTES 40
#define FRAME_MAGIC	   0x524C4631u /* "RLF1" */
#define FRAME_VERSION	   1
/* A row of the core is less than 1 GiB, and a frame takes at least one row. */
#define FRAME_RAW_MAX 0x60000000u

/* On-disk numbers: only ever added. 6 to 8 are kept for streamed transactions. */
enum frame_kind {
	FRAME_SEGMENT = 1,
	FRAME_SCHEMAS = 2,
	FRAME_TRANSACTIONS = 3,
	FRAME_PIECE = 4,
	FRAME_PROGRESS = 5,
};

enum frame_flag {
	FRAME_LZ4 = 0x0001,
	FRAME_FIRST = 0x0002,
	FRAME_LAST = 0x0004,
	FRAME_SKIPPABLE = 0x8000,
};

struct frame {
	uint8_t kind; /* enum frame_kind, or another one with FRAME_SKIPPABLE */
	uint16_t flags;
	uint32_t raw_bytes;
	struct lsn lsn;	       /* position reached with it; LSN_NONE: none */
	uint64_t synced_bytes; /* of the segment, known on disk when it was made */
	struct slice stored;   /* payload as it stands in the file, borrowed from the input */
	size_t bytes;	       /* the whole frame in the file */
};

enum frame_state {
	FRAME_VALID,
	FRAME_SHORT,   /* the input ends within it (or before it) */
	FRAME_INVALID, /* wrong magic, length or checksum */
	FRAME_NEWER,   /* valid, but of a version, kind or with a flag that we do not know */
};

/*
 * Appends a frame with payload raw (at most FRAME_RAW_MAX bytes),
 * compressed where that makes it smaller. Of f, kind, flags (FIRST, LAST,
 * SKIPPABLE), lsn and synced_bytes are read. salt: the segment's, 0 for FRAME_SEGMENT.
 */
void frame_encode(struct buf *out, const struct frame *f, struct slice raw, uint64_t salt);

/*
 * Reads the frame at the start of in. With FRAME_VALID and FRAME_NEWER, *ret
 * is set; with FRAME_SHORT, *ret_need is how many bytes in must have before
 * it is worth trying again (not more than the length limit allows).
 */
enum frame_state frame_decode(struct slice in, uint64_t salt, struct frame *ret, size_t *ret_need);

/*
 * The payload, decompressed into scratch where needed: valid as long as the
 * input and scratch are. False when it does not decompress to raw_bytes.
 */
bool frame_payload(const struct frame *f, struct buf *scratch, struct slice *ret) RT_MUSTCHECK;

#endif
