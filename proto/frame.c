/* frame: guarantees that what decodes is what was encoded, for this segment, and within bounds. */
#include "proto/frame.h"

#include <lz4.h>
#include <xxhash.h>

/* Offsets of the header's fields (FORMAT.md, "Frame"). */
enum {
	AT_CHECKSUM = 0,
	AT_MAGIC = 8,
	AT_VERSION = 12,
	AT_KIND = 13,
	AT_FLAGS = 14,
	AT_STORED = 16,
	AT_RAW = 20,
	AT_LSN = 24,
	AT_SYNCED = 32,
};

#define FLAGS_KNOWN (FRAME_LZ4 | FRAME_FIRST | FRAME_LAST | FRAME_SKIPPABLE)
/* An LZ4 block's length byte adds at most 255 to the output; the rest is for the shortest blocks. */
#define LZ4_RATIO_MAX 255
#define LZ4_SLACK     64
/* Below this nothing is gained by trying. */
#define COMPRESS_MIN 64

_Static_assert(FRAME_RAW_MAX <= LZ4_MAX_INPUT_SIZE, "a frame's payload fits one LZ4 block");

void frame_encode(struct buf *out, const struct frame *f, struct slice raw, uint64_t salt)
{
	RT_ASSERT(raw.len <= FRAME_RAW_MAX);
	size_t bound = (size_t)LZ4_compressBound((int)raw.len);
	uint8_t *h = buf_reserve(out, FRAME_HEADER_BYTES + bound);
	uint8_t *payload = h + FRAME_HEADER_BYTES;
	size_t stored = 0;
	unsigned flags = f->flags & ~(unsigned)FRAME_LZ4;

	if (raw.len >= COMPRESS_MIN)
		stored = (size_t)LZ4_compress_default((const char *)raw.p, (char *)payload,
						      (int)raw.len, (int)bound);
	if (stored > 0 && stored < raw.len) {
		flags |= FRAME_LZ4;
	} else {
		stored = raw.len;
		if (stored > 0)
			memcpy(payload, raw.p, stored);
	}
	be32_put(h + AT_MAGIC, FRAME_MAGIC);
	h[AT_VERSION] = FRAME_VERSION;
	h[AT_KIND] = f->kind;
	be16_put(h + AT_FLAGS, (uint16_t)flags);
	be32_put(h + AT_STORED, (uint32_t)stored);
	be32_put(h + AT_RAW, (uint32_t)raw.len);
	be64_put(h + AT_LSN, f->lsn.v);
	be64_put(h + AT_SYNCED, f->synced_bytes);
	be64_put(h + AT_CHECKSUM,
		 XXH3_64bits_withSeed(h + AT_MAGIC, FRAME_HEADER_BYTES - AT_MAGIC + stored, salt));
	out->len += FRAME_HEADER_BYTES + stored;
}

static bool lengths_are_possible(uint32_t stored, uint32_t raw, unsigned flags)
{
	if (raw > FRAME_RAW_MAX)
		return false;
	if ((flags & FRAME_LZ4) == 0)
		return stored == raw;
	return stored < raw && raw <= (uint64_t)stored * LZ4_RATIO_MAX + LZ4_SLACK;
}

static bool kind_is_known(unsigned kind)
{
	return kind >= FRAME_SEGMENT && kind <= FRAME_PROGRESS;
}

enum frame_state frame_decode(struct slice in, uint64_t salt, struct frame *ret, size_t *ret_need)
{
	if (in.len < FRAME_HEADER_BYTES) {
		*ret_need = FRAME_HEADER_BYTES;
		return FRAME_SHORT;
	}
	const uint8_t *h = in.p;
	unsigned flags = be16_get(h + AT_FLAGS);
	uint32_t stored = be32_get(h + AT_STORED);
	uint32_t raw = be32_get(h + AT_RAW);
	if (be32_get(h + AT_MAGIC) != FRAME_MAGIC || stored > FRAME_RAW_MAX)
		return FRAME_INVALID;
	if (stored > in.len - FRAME_HEADER_BYTES) {
		*ret_need = FRAME_HEADER_BYTES + (size_t)stored;
		return FRAME_SHORT;
	}
	if (be64_get(h + AT_CHECKSUM) !=
	    XXH3_64bits_withSeed(h + AT_MAGIC, FRAME_HEADER_BYTES - AT_MAGIC + (size_t)stored,
				 salt))
		return FRAME_INVALID;
	*ret = (struct frame){
		.kind = h[AT_KIND],
		.flags = (uint16_t)flags,
		.raw_bytes = raw,
		.lsn = {be64_get(h + AT_LSN)},
		.synced_bytes = be64_get(h + AT_SYNCED),
		.stored = {h + FRAME_HEADER_BYTES, stored},
		.bytes = FRAME_HEADER_BYTES + (size_t)stored,
	};
	if (h[AT_VERSION] != FRAME_VERSION)
		return FRAME_NEWER;
	if (!kind_is_known(ret->kind))
		return (flags & FRAME_SKIPPABLE) != 0 ? FRAME_VALID : FRAME_NEWER;
	if ((flags & ~(unsigned)FLAGS_KNOWN) != 0)
		return FRAME_NEWER;
	return lengths_are_possible(stored, raw, flags) ? FRAME_VALID : FRAME_INVALID;
}

bool frame_payload(const struct frame *f, struct buf *scratch, struct slice *ret)
{
	if ((f->flags & FRAME_LZ4) == 0) {
		*ret = f->stored;
		return true;
	}
	buf_clear(scratch);
	uint8_t *p = buf_reserve(scratch, f->raw_bytes);
	int n = LZ4_decompress_safe((const char *)f->stored.p, (char *)p, (int)f->stored.len,
				    (int)f->raw_bytes);
	if (n < 0 || (uint32_t)n != f->raw_bytes)
		return false;
	*ret = slice_of(p, f->raw_bytes);
	return true;
}
