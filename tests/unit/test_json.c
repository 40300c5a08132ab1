/* The JSON scanner: what is JSON, where values are, what jsonb would print. */
#include "tests/unit/unit.h"

#include "transforms/rollup/json.h"

static void test_rfc_8259_texts_are_taken(void **state)
{
	static const char *const good[] = {
		"null",
		"true",
		"false",
		"0",
		"-0",
		"10",
		"-1.5",
		"1e3",
		"1E+3",
		"1e-3",
		"0.0e0",
		"\"\"",
		"\"a\"",
		"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
		"\"\\u00e9\"",
		"\"\xC3\xA9\"",
		"\"\\ud83d\\ude00\"",
		"\"\xF0\x9F\x98\x80\"",
		"\"\xED\x9F\xBF\"",
		"\"\x7F\"",
		"[]",
		"{}",
		"[1,2]",
		" [ 1 , 2 ] ",
		"{\"a\":1}",
		"\t{ \"a\" : [ { } ] }\r\n",
		"{\"a\":1,\"a\":2}",
		"\"\xF4\x8F\xBF\xBF\"",
	};
	struct json_value v;
	struct rt_err err;
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		assert_rc(json_parse(slice_str(good[i]), &v, &err), err);
}

static const struct {
	const char *text;
	size_t at;
	const char *says;
} refused[] = {
	{"", 0, "a value is expected"},
	{"  ", 2, "a value is expected"},
	{"nul", 0, "a value is expected"},
	{"nullx", 4, "something follows"},
	{"True", 0, "a value is expected"},
	{"NaN", 0, "a value is expected"},
	{"01", 1, "something follows"},
	{"+1", 0, "a value is expected"},
	{"-", 1, "a digit"},
	{".5", 0, "a value is expected"},
	{"1.", 2, "a digit"},
	{"1e", 2, "a digit"},
	{"1e+", 3, "a digit"},
	{"1 2", 2, "something follows"},
	{"\"", 1, "does not end"},
	{"\"a", 2, "does not end"},
	{"\"\\", 1, "unknown escape"},
	{"\"\\x\"", 1, "unknown escape"},
	{"\"\\u12g4\"", 1, "unknown escape"},
	{"\"\\u12\"", 1, "unknown escape"},
	{"\"\\u0000\"", 1, "\\u0000"},
	{"\"\\ud83d\"", 1, "surrogate"},
	{"\"\\ude00\"", 1, "surrogate"},
	{"\"\\ud83d\\u0041\"", 1, "surrogate"},
	{"\"\\ud83dx\"", 1, "surrogate"},
	{"\"a\nb\"", 2, "control character"},
	{"\"\x1F\"", 1, "control character"},
	{"\"\xC0\xAF\"", 1, "UTF-8"},
	{"\"\xE0\x80\x80\"", 1, "UTF-8"},
	{"\"\xED\xA0\x80\"", 1, "UTF-8"},
	{"\"\xF4\x90\x80\x80\"", 1, "UTF-8"},
	{"\"\xF5\x80\x80\x80\"", 1, "UTF-8"},
	{"\"\xC3\"", 1, "UTF-8"},
	{"\"\xE2\x82", 1, "UTF-8"},
	{"\"\x80\"", 1, "UTF-8"},
	{"[", 1, "a value is expected"},
	{"[1", 2, "a comma or ]"},
	{"[1,]", 3, "a value is expected"},
	{"[1}", 2, "a comma or ]"},
	{"[,1]", 1, "a value is expected"},
	{"{", 1, "a string is expected"},
	{"{a:1}", 1, "a string is expected"},
	{"{\"a\"}", 4, "a colon"},
	{"{\"a\":}", 5, "a value is expected"},
	{"{\"a\":1,}", 7, "a string is expected"},
	{"{\"a\":1]", 6, "a comma or }"},
	{"{1:1}", 1, "a string is expected"},
	{"[1]]", 3, "something follows"},
	{"// x", 0, "a value is expected"},
	{"'a'", 0, "a value is expected"},
};

static void test_other_texts_are_refused_with_their_place(void **state)
{
	struct json_value v;
	struct rt_err err;
	for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
		if (json_parse(slice_str(refused[i].text), &v, &err) != ERR_PERMANENT)
			fail_msg("taken: %s", refused[i].text);
		char place[32];
		snprintf(place, sizeof(place), "at byte %zu:", refused[i].at);
		assert_says(err, place);
		assert_says(err, refused[i].says);
	}
	assert_int_equal(json_parse(slice_of("1\0", 2), &v, &err), ERR_PERMANENT);
}

static void test_depth_is_bounded(void **state)
{
	char text[2 * JSON_DEPTH_MAX + 4];
	struct json_value v;
	struct rt_err err;
	struct buf out = BUF_INIT;
	memset(text, '[', JSON_DEPTH_MAX + 1);
	memset(text + JSON_DEPTH_MAX + 1, ']', JSON_DEPTH_MAX + 1);
	assert_int_equal(json_parse(slice_of(text, 2 * JSON_DEPTH_MAX + 2), &v, &err),
			 ERR_PERMANENT);
	assert_says(err, "nested too deeply");
	assert_rc(json_parse(slice_of(text + 1, 2 * JSON_DEPTH_MAX), &v, &err), err);
	assert_rc(json_canonical(slice_of(text + 1, 2 * JSON_DEPTH_MAX), &out, &err), err);
	assert_int_equal(out.len, 2 * JSON_DEPTH_MAX);
	buf_release(&out);
}

static struct json_value parsed(const char *text)
{
	struct json_value v;
	struct rt_err err;
	assert_rc(json_parse(slice_str(text), &v, &err), err);
	return v;
}

static void test_members_and_elements_are_walked_in_order(void **state)
{
	struct json_value v = parsed(" { \"a\" : 1 , \"b\":[1, {\"x\":\"]\"} ,null], \"\":{}}"), k,
			  x;
	size_t at = 0;
	assert_int_equal(json_next_member(&v, &at, &k, &x), 1);
	assert_true(slice_is(k.raw, "\"a\"") && slice_is(x.raw, "1") && x.kind == JSON_NUMBER);
	assert_int_equal(json_next_member(&v, &at, &k, &x), 1);
	assert_true(slice_is(k.raw, "\"b\"") && x.kind == JSON_ARRAY);
	struct json_value list = x;
	size_t in = 0;
	assert_int_equal(json_next_element(&list, &in, &x), 1);
	assert_int_equal(json_next_element(&list, &in, &x), 1);
	assert_true(slice_is(x.raw, "{\"x\":\"]\"}"));
	assert_int_equal(json_next_element(&list, &in, &x), 1);
	assert_int_equal(x.kind, JSON_NULL);
	assert_int_equal(json_next_element(&list, &in, &x), 0);
	assert_int_equal(json_next_element(&list, &in, &x), 0);
	assert_int_equal(json_next_member(&v, &at, &k, &x), 1);
	assert_true(slice_is(k.raw, "\"\"") && slice_is(x.raw, "{}"));
	assert_int_equal(json_next_member(&v, &at, &k, &x), 0);
	in = 0;
	assert_int_equal(json_next_member(&x, &in, &k, &v), 0);
}

static void test_members_are_found_by_their_plain_name(void **state)
{
	struct json_value v = parsed("{\"a\":1,\"\\u00e9\\\"\":2,\"a\":3,\"n\":null}");
	assert_true(slice_is(json_get(&v, slice_str("a")).raw, "3")); /* the last one, as jsonb */
	assert_true(slice_is(json_get(&v, slice_str("\xC3\xA9\"")).raw, "2"));
	assert_int_equal(json_get(&v, slice_str("n")).kind, JSON_NULL);
	assert_int_equal(json_get(&v, slice_str("b")).kind, JSON_ABSENT);
	assert_int_equal(json_get(&v, slice_str("\xC3")).kind, JSON_ABSENT);
	v = parsed("[1]");
	assert_int_equal(json_get(&v, slice_str("a")).kind, JSON_ABSENT);
}

static void test_text_is_what_the_arrow_gives(void **state)
{
	static const struct {
		const char *json, *text;
	} cases[] = {
		{"\"a\"", "a"},
		{"\"\"", ""},
		{"\"\\u0041\\/\\n\\\\\\\"\"", "A/\n\\\""},
		{"\"\\ud83d\\ude00\"", "\xF0\x9F\x98\x80"},
		{"\"\\u20ac\\u00e9\"", "\xE2\x82\xAC\xC3\xA9"},
		{"12.50", "12.50"},
		{"true", "true"},
		{"{\"a\": 1}", "{\"a\": 1}"},
	};
	struct buf out = BUF_INIT;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct json_value v = parsed(cases[i].json);
		buf_clear(&out);
		json_append_text(&v, &out);
		assert_string_equal(buf_cstr(&out), cases[i].text);
	}
	buf_release(&out);
}

static void test_canonical_is_what_jsonb_prints(void **state)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
		{"{\"b\":1,\"a\":2}", "{\"a\": 2, \"b\": 1}"},
		{"{\"aa\":1,\"b\":2}", "{\"b\": 2, \"aa\": 1}"},
		{"{\"a\":1,\"a\":{\"x\":[]}}", "{\"a\": {\"x\": []}}"},
		{"{\"a\":1,\"b\":2,\"a\":3}", "{\"a\": 3, \"b\": 2}"},
		{"{\"\\u0062\":1,\"a\":2}", "{\"a\": 2, \"b\": 1}"},
		{"{\"\\u0061\":1,\"a\":2}", "{\"a\": 2}"},
		{"{\"\\u00e9\":1,\"zz\":2,\"z\":3}", "{\"z\": 3, \"zz\": 2, \"\xC3\xA9\": 1}"},
		{"[ ]", "[]"},
		{"{ }", "{}"},
		{"[1,[2,[ ]],{}]", "[1, [2, []], {}]"},
		{"\"\\/\\u0007\\u001f\\u000a\\u007f\"", "\"/\\u0007\\u001f\\n\x7F\""},
		{"1e3", "1000"},
		{"1E-3", "0.001"},
		{"1.50", "1.50"},
		{"1.5e1", "15"},
		{"1.50e1", "15.0"},
		{"1.5e3", "1500"},
		{"123.456e-2", "1.23456"},
		{"-0", "0"},
		{"-0.00", "0.00"},
		{"0e5", "0"},
		{"0.10e-1", "0.010"},
		{"-12e0", "-12"},
		{"1e-2", "0.01"},
		{"100e-2", "1.00"},
		{"12345678901234567890123", "12345678901234567890123"},
	};
	struct buf out = BUF_INIT;
	struct rt_err err;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		buf_clear(&out);
		assert_rc(json_canonical(slice_str(cases[i].in), &out, &err), err);
		assert_string_equal(buf_cstr(&out), cases[i].out);
		/* and it stays as it is */
		char *again = rt_strdup(buf_cstr(&out));
		buf_clear(&out);
		assert_rc(json_canonical(slice_str(again), &out, &err), err);
		assert_string_equal(buf_cstr(&out), again);
		free(again);
	}
	buf_release(&out);
}

static void test_numbers_outside_of_numeric_are_refused(void **state)
{
	static const char *const bad[] = {"1e131072",		"1e-16384",
					  "1e99999999999",	"1e-99999999999",
					  "0e-16384",		"1e9999999999999999999999",
					  "{\"a\":[1e131072]}", "{\"a\":1e131072,\"a\":1}"};
	static const char *const good[] = {"1e131071", "1e-16383", "0e131072", "0.1e131072"};
	struct buf out = BUF_INIT;
	struct rt_err err;
	buf_str(&out, "kept");
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_int_equal(json_canonical(slice_str(bad[i]), &out, &err), ERR_PERMANENT);
		assert_string_equal(buf_cstr(&out), "kept"); /* nothing half-written */
	}
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		assert_rc(json_canonical(slice_str(good[i]), &out, &err), err);
	buf_release(&out);
}

static void test_merge_is_jsonb_concatenation(void **state)
{
	static const struct {
		const char *a, *b, *out;
	} cases[] = {
		{"{}", "{}", "{}"},
		{"{\"a\": 1}", "{}", "{\"a\": 1}"},
		{"{}", "{\"a\": 1}", "{\"a\": 1}"},
		{"{\"a\": 1, \"c\": 3}", "{\"b\": 2, \"c\": null}",
		 "{\"a\": 1, \"b\": 2, \"c\": null}"},
		{"{\"bb\": 1}", "{\"c\": {\"x\": 1}}", "{\"c\": {\"x\": 1}, \"bb\": 1}"},
	};
	struct buf out = BUF_INIT;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct json_value a = parsed(cases[i].a), b = parsed(cases[i].b);
		buf_clear(&out);
		json_merge(&a, &b, &out);
		assert_string_equal(buf_cstr(&out), cases[i].out);
	}
	/* Keys with escapes are ordered by what they mean: a" comes before zz. */
	struct json_value a = parsed("{\"a\\\"\": 1}");
	struct json_value b = parsed("{\"a\\\"\": 3, \"zz\": 2, \"ccc\": 4}");
	buf_clear(&out);
	json_merge(&a, &b, &out);
	assert_string_equal(buf_cstr(&out), "{\"a\\\"\": 3, \"zz\": 2, \"ccc\": 4}");
	buf_release(&out);
}

/* Every cut of a text: the walks stay inside it (the sanitizers watch) and say so or end. */
static void test_walks_stay_inside_cut_texts(void **state)
{
	static const char whole[] =
		"{\"a\": [1, {\"b\\\"\": \"x\\u00e9\"}], \"c\": -1.5e3, \"d\": {}}";
	for (size_t n = 0; n < sizeof(whole) - 1; n++) {
		uint8_t *exact = rt_malloc(n); /* no byte behind it */
		memcpy(exact, whole, n);
		struct json_value v = {JSON_OBJECT, slice_of(exact, n)}, k, x;
		size_t at = 0;
		int rc;
		while ((rc = json_next_member(&v, &at, &k, &x)) == 1)
			;
		assert_int_equal(rc, -1);
		assert_int_equal(json_top(v.raw).kind, JSON_ABSENT);
		free(exact);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rfc_8259_texts_are_taken),
		cmocka_unit_test(test_other_texts_are_refused_with_their_place),
		cmocka_unit_test(test_depth_is_bounded),
		cmocka_unit_test(test_members_and_elements_are_walked_in_order),
		cmocka_unit_test(test_members_are_found_by_their_plain_name),
		cmocka_unit_test(test_text_is_what_the_arrow_gives),
		cmocka_unit_test(test_canonical_is_what_jsonb_prints),
		cmocka_unit_test(test_numbers_outside_of_numeric_are_refused),
		cmocka_unit_test(test_merge_is_jsonb_concatenation),
		cmocka_unit_test(test_walks_stay_inside_cut_texts),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
