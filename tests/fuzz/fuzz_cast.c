/*
 * cast: a byte for the type (and bit 7: read in New York's time), then text.
 * What pgt_from_text takes is valid, and its text form gives the same bytes.
 */
#include "proto/pg/types.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct pgt_zone *zone;
	struct buf out = BUF_INIT, text = BUF_INIT, again = BUF_INIT, sum = BUF_INIT;
	struct rt_err err;
	if (zone == NULL)
		zone = pgt_zone_load("America/New_York");
	if (size == 0 || (data[0] & 0x7F) >= PGT_JSONB) /* jsonb: fuzz_json's */
		return 0;
	struct pgt_type t = {.base = (enum pgt)(data[0] & 0x7F)};
	const struct pgt_zone *in = (data[0] & 0x80) != 0 ? zone : NULL;
	int rc = pgt_from_text(t.base, slice_of(data + 1, size - 1), in, &out, &err);
	RT_ASSERT(rc == 0 || (out.len == 0 && err.code == ERR_PERMANENT));
	if (rc == 0) {
		RT_ASSERT(pgt_is_valid(t, buf_slice(&out)));
		RT_ASSERT(pgt_to_text(t, buf_slice(&out), &text, &err) == 0);
		RT_ASSERT(pgt_from_text(t.base, buf_slice(&text), NULL, &again, &err) == 0);
		RT_ASSERT(slice_eq(buf_slice(&out), buf_slice(&again)));
		RT_ASSERT(pgt_compare(t.base, buf_slice(&out), buf_slice(&again)) == 0);
		if (t.base >= PGT_INT2 && t.base <= PGT_NUMERIC &&
		    pgt_add(t.base, buf_slice(&out), buf_slice(&out), false, &sum, &err) == 0)
			RT_ASSERT(pgt_is_valid(t, buf_slice(&sum)));
	}
	buf_release(&out);
	buf_release(&text);
	buf_release(&again);
	buf_release(&sum);
	return 0;
}
