/* record: bytes as each of the spool's messages (the first one says which). What is read is equal after being written. */
#include "proto/record.h"

#include "tests/fuzz/fuzz.h"

static struct schema_column column[] = {{"a", true, 23, -1}, {"b", false, 25, -1}, {"c", 0, 0, 0}};

/* Four relations of 0 to 3 columns. */
static const struct schema *find(void *ctx, uint64_t hash)
{
	static struct schema s[4];
	uint16_t i = hash & 3;
	s[i] = (struct schema){i, i + 1000u, "public", "r", 'd', i, column, NULL, NULL};
	return hash == 0xFF ? NULL : &s[i];
}

static void fields(struct slice in, struct arena *a, int depth)
{
	struct rd r = rd_of(in);
	struct record_head h = {0};
	struct change c;
	struct rt_err err;
	uint32_t number;
	struct slice body;
	while (record_next_field(&r, &number, &body)) {
		(void)!record_read_head(body, a, &h);
		if (record_read_change(body, a, find, NULL, &c, &err) == 0)
			fuzz_change_survives(&c, find, NULL);
		if (depth < 3)
			fields(body, a, depth + 1);
	}
}

static void schema(struct slice in, struct arena *a)
{
	struct schema s;
	struct buf out = BUF_INIT;
	if (record_read_schema(in, a, &s))
		record_add_schema(&out, &s);
	buf_release(&out);
}

static void segment(struct slice in, struct arena *a)
{
	struct record_segment s, t;
	struct buf out = BUF_INIT;
	if (record_read_segment(in, a, &s)) {
		record_add_segment(&out, &s);
		RT_ASSERT(record_read_segment(buf_slice(&out), a, &t));
		RT_ASSERT(slice_eq(s.pipeline, t.pipeline) && slice_eq(s.slot, t.slot));
		RT_ASSERT(s.salt == t.salt && s.generation == t.generation);
	}
	buf_release(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct arena a;
	if (size == 0)
		return 0;
	arena_init(&a, 4096);
	struct slice in = arena_copy(&a, slice_of(data + 1, size - 1));
	switch (data[0] % 3) {
	case 0:
		fields(in, &a, 0);
		break;
	case 1:
		schema(in, &a);
		break;
	case 2:
		segment(in, &a);
		break;
	}
	arena_release(&a);
	return 0;
}
