/* frame: any bytes, as they are and with the checksum that they should have. What is valid encodes to an equal frame. */
#include "proto/frame.h"

#include <xxhash.h>

#include "tests/fuzz/fuzz.h"

static void check(struct slice in)
{
	struct buf scratch = BUF_INIT, scratch2 = BUF_INIT, again = BUF_INIT;
	struct slice payload, payload2;
	struct frame f, g;
	size_t need;
	switch (frame_decode(in, 0, &f, &need)) {
	case FRAME_VALID:
		RT_ASSERT(f.bytes <= in.len);
		if (f.kind > FRAME_PROGRESS || f.kind == 0 ||
		    !frame_payload(&f, &scratch, &payload))
			break;
		frame_encode(&again, &f, payload, 0);
		RT_ASSERT(frame_decode(buf_slice(&again), 0, &g, &need) == FRAME_VALID);
		RT_ASSERT(f.kind == g.kind && ((f.flags ^ g.flags) & ~FRAME_LZ4) == 0);
		RT_ASSERT(lsn_eq(f.lsn, g.lsn) && f.synced_bytes == g.synced_bytes);
		RT_ASSERT(frame_payload(&g, &scratch2, &payload2) && slice_eq(payload, payload2));
		break;
	case FRAME_SHORT:
		RT_ASSERT(need > in.len && need <= FRAME_HEADER_BYTES + (size_t)FRAME_RAW_MAX);
		break;
	case FRAME_INVALID:
	case FRAME_NEWER:
		break;
	}
	buf_release(&scratch);
	buf_release(&scratch2);
	buf_release(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	check(slice_of(data, size));
	if (size < FRAME_HEADER_BYTES)
		return 0;
	struct buf sealed = BUF_INIT;
	buf_add(&sealed, data, size);
	size_t end = FRAME_HEADER_BYTES + (size_t)be32_get(sealed.p + 16); /* stored bytes */
	if (end <= size)
		be64_put(sealed.p, XXH3_64bits_withSeed(sealed.p + 8, end - 8, 0));
	check(buf_slice(&sealed));
	buf_release(&sealed);
	return 0;
}
