/*
 * binary: a byte for the type (bit 7: an array of it), then its send format.
 * Valid is what has a text, which gives a value of the same text (but for
 * "-0.0": the digits of a numeric that its scale hides are gone, as in the
 * server). A valid array takes an element and gives it back.
 */
#include "proto/pg/types.h"
#include "tests/fuzz/fuzz.h"

static void array(struct pgt_type t, struct slice in)
{
	struct buf more = BUF_INIT, less = BUF_INIT;
	struct slice null = {NULL, 0};
	int count = pgt_array_count(t.base, in);
	RT_ASSERT(count >= 0);
	pgt_array_append(t.base, in, null, &more);
	RT_ASSERT(pgt_is_valid(t, buf_slice(&more)));
	RT_ASSERT(pgt_array_count(t.base, buf_slice(&more)) == count + 1);
	RT_ASSERT(pgt_array_contains(t.base, buf_slice(&more), null));
	pgt_array_remove(t.base, buf_slice(&more), null, &less);
	RT_ASSERT(pgt_is_valid(t, buf_slice(&less)));
	RT_ASSERT(pgt_array_count(t.base, buf_slice(&less)) <= count);
	RT_ASSERT(!pgt_array_contains(t.base, buf_slice(&less), null));
	buf_release(&more);
	buf_release(&less);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buf text = BUF_INIT, again = BUF_INIT, text2 = BUF_INIT;
	struct rt_err err;
	if (size == 0 || (data[0] & 0x7F) >= PGT_COUNT)
		return 0;
	struct pgt_type t = {(enum pgt)(data[0] & 0x7F), (data[0] & 0x80) != 0};
	struct slice in = slice_of(data + 1, size - 1);
	bool valid = pgt_is_valid(t, in);
	RT_ASSERT(valid == (pgt_to_text(t, in, &text, &err) == 0));
	if (valid && t.array) {
		array(t, in);
	} else if (valid && t.base != PGT_JSONB) {
		RT_ASSERT(pgt_from_text(t.base, buf_slice(&text), NULL, &again, &err) == 0);
		RT_ASSERT(pgt_to_text(t, buf_slice(&again), &text2, &err) == 0);
		RT_ASSERT(slice_eq(buf_slice(&text), buf_slice(&text2)) ||
			  (t.base == PGT_NUMERIC && text.p[0] == '-'));
	}
	buf_release(&text);
	buf_release(&again);
	buf_release(&text2);
	return 0;
}
