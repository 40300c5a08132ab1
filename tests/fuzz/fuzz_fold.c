/*
 * fold: pieces, the first a rollup's YAML, then event type and payload by
 * turns: one entity's life. Every row is valid, and folding is repeatable.
 */
#include "transforms/rollup/fold.h"

#include "tests/fuzz/fuzz.h"
#include "transforms/rollup/json.h"

static void event(const struct rollup *r, struct arena *a, struct rd *in, struct fold_row *row)
{
	static const uint8_t id[16];
	struct fold_row next = {0}, again = {0};
	struct fold_note note;
	struct rt_err err;
	struct buf payload = BUF_INIT;
	struct slice type = fuzz_piece(in), text = fuzz_piece(in);
	if (json_canonical(text, &payload, &err) == 0) {
		struct fold_event e = {.id = slice_of(id, sizeof(id)),
				       .sequence = row->version + 1,
				       .event_type = arena_copy(a, type),
				       .payload = buf_slice(&payload)};
		const struct fold_row *prev = row->version == 0 ? NULL : row;
		enum fold_result rc = fold_apply(r, prev, &e, a, &next, &note, &err);
		RT_ASSERT(fold_apply(r, prev, &e, a, &again, &note, &err) == rc);
		RT_ASSERT(slice_eq(next.columns, again.columns));
		if (rc == FOLD_OK || rc == FOLD_IGNORED) {
			RT_ASSERT(fold_columns_valid(r, next.columns));
			*row = next;
		}
	}
	buf_release(&payload);
	fuzz_free(type);
	fuzz_free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rd in = rd_of(slice_of(data, size));
	struct arena a;
	struct rollup *r;
	struct rt_err err;
	struct fold_row row = {0};
	struct slice yaml = fuzz_piece(&in);
	arena_init(&a, 16384);
	if (rollup_parse(&a, "fuzz.yaml", (const char *)yaml.p, yaml.len, &r, &err) == 0) {
		while (in.left > 0)
			event(r, &a, &in, &row);
		rollup_release(r);
	}
	fuzz_free(yaml);
	arena_release(&a);
	return 0;
}
