/*
 * json: any bytes. What parses has a canonical form (or a number that numeric
 * cannot hold), which is its own canonical form, and is walked to its end;
 * the walks stay inside what is not JSON, too.
 */
#include "transforms/rollup/json.h"

#include "tests/fuzz/fuzz.h"

static void walk(const struct json_value *v, bool valid)
{
	struct json_value key, item, got;
	struct buf text = BUF_INIT;
	size_t at = 0;
	int rc;
	if (v->kind != JSON_ABSENT && v->kind != JSON_NULL)
		json_append_text(v, &text);
	while (v->kind == JSON_OBJECT && (rc = json_next_member(v, &at, &key, &item)) != 0) {
		RT_ASSERT(!valid || rc == 1);
		if (rc != 1)
			break;
		walk(&item, valid);
		buf_clear(&text);
		json_append_text(&key, &text);
		got = json_get(v, buf_slice(&text));
		RT_ASSERT(!valid || got.raw.p == item.raw.p);
		RT_ASSERT(!valid || json_string_is(&key, buf_slice(&text)));
	}
	while (v->kind == JSON_ARRAY && (rc = json_next_element(v, &at, &item)) == 1)
		walk(&item, valid);
	buf_release(&text);
}

static void canonical(struct slice text, const struct json_value *v)
{
	struct buf merged = BUF_INIT, again = BUF_INIT;
	struct rt_err err;
	RT_ASSERT(json_canonical(text, &again, &err) == 0);
	RT_ASSERT(slice_eq(text, buf_slice(&again)));
	walk(v, true);
	if (v->kind == JSON_OBJECT) {
		json_merge(v, v, &merged);
		RT_ASSERT(slice_eq(text, buf_slice(&merged)));
	}
	buf_release(&merged);
	buf_release(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice in = slice_of(data, size);
	struct buf out = BUF_INIT;
	struct json_value top = json_top(in), v;
	struct rt_err err;
	bool parsed = json_parse(in, &v, &err) == 0;
	RT_ASSERT(!parsed || (top.kind == v.kind && slice_eq(top.raw, v.raw)));
	if (json_canonical(in, &out, &err) == 0) {
		RT_ASSERT(parsed && json_parse(buf_slice(&out), &v, &err) == 0);
		canonical(buf_slice(&out), &v);
	}
	walk(&top, false);
	buf_release(&out);
	return 0;
}
