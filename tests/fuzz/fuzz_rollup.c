/* rollup: a rollup's YAML. What loads says how each column comes about, and gives the same fingerprint again. */
#include "tests/fuzz/fuzz.h"
#include "transforms/rollup/definition.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct arena a;
	struct rollup *r, *again;
	struct buf out = BUF_INIT;
	struct rt_err err;
	const char *text = (const char *)data;
	arena_init(&a, 16384);
	if (rollup_parse(&a, "fuzz.yaml", text, size, &r, &err) == 0) {
		for (uint16_t i = 0; i < r->column_count; i++)
			rollup_describe_column(r, &r->column[i], &out);
		for (uint16_t i = 0; i < r->event_count; i++)
			RT_ASSERT(rollup_find_event(r, slice_str(r->event[i].name)) ==
				  &r->event[i]);
		RT_ASSERT(rollup_parse(&a, "fuzz.yaml", text, size, &again, &err) == 0);
		RT_ASSERT(r->fingerprint == again->fingerprint);
		rollup_release(r);
		rollup_release(again);
	} else {
		RT_ASSERT(err.code == ERR_PERMANENT && strncmp(err.msg, "fuzz.yaml:", 10) == 0);
	}
	buf_release(&out);
	arena_release(&a);
	return 0;
}
