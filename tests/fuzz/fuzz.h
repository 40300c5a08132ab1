/*
 * fuzz: what every fuzz target includes. A target asserts what must hold for
 * any bytes, with RT_ASSERT. libFuzzer calls it (`make fuzz`), and driver.c
 * with each file of tests/fuzz/corpus (`make check`).
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include "proto/base/arena.h"
#include "proto/base/buf.h"
#include "proto/base/rt.h"
#include "proto/change.h"
#include "proto/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/*
 * The next piece of the input: u16 length (or what is left, if less), bytes.
 * In an allocation of exactly its length, so that ASan sees a byte too far;
 * the caller frees it.
 */
static inline struct slice fuzz_piece(struct rd *r)
{
	size_t n = r->left < 2 ? rd_u8(r) : rd_u16(r);
	n = RT_MIN(n, r->left);
	uint8_t *p = rt_malloc(n);
	if (n > 0)
		memcpy(p, rd_bytes(r, n), n);
	return slice_of(p, n);
}

static inline void fuzz_free(struct slice piece)
{
	free((void *)(uintptr_t)piece.p);
}

/* A change is the same after its way through record.h: written, read and written again, its bytes are equal. */
static inline void fuzz_change_survives(const struct change *c, record_find_schema *find, void *ctx)
{
	struct record_scratch *s = rt_calloc(1, sizeof(*s));
	struct buf once = BUF_INIT, twice = BUF_INIT;
	struct arena a;
	struct change again;
	struct rt_err err;
	uint32_t number;
	struct slice body;
	arena_init(&a, 4096);
	RT_ASSERT(record_add_change(&once, c, s, &err) == 0);
	struct rd r = rd_of(buf_slice(&once));
	RT_ASSERT(record_next_field(&r, &number, &body) && number == TRANSACTION_CHANGE);
	RT_ASSERT(rd_finish(&r) && record_read_change(body, &a, find, ctx, &again, &err) == 0);
	RT_ASSERT(record_add_change(&twice, &again, s, &err) == 0);
	RT_ASSERT(slice_eq(buf_slice(&once), buf_slice(&twice)));
	record_scratch_release(s);
	free(s);
	buf_release(&once);
	buf_release(&twice);
	arena_release(&a);
}

#endif
