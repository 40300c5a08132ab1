/* transforms/report: definitions, values and their limits, the forms of files, schedules; and SHA-256. */
#include "tests/unit/unit.h"

#include "proto/base/buf.h"
#include "proto/base/sha256.h"
#include "proto/pg/types.h"
#include "transforms/report/cron.h"
#include "transforms/report/definition.h"
#include "transforms/report/form.h"
#include "transforms/report/value.h"

/* ---- SHA-256: FIPS 180-4's examples, and every split of a text ---- */

static void assert_sha(const char *text, const char *expected)
{
	char hex[SHA256_HEX];
	sha256_hex(slice_str(text), hex);
	assert_string_equal(hex, expected);
}

static void test_sha256_is_that_of_the_standard(void **state)
{
	assert_sha("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	assert_sha("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	assert_sha("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
		   "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
	struct sha256 s;
	char hex[SHA256_HEX];
	static char million[1000];
	memset(million, 'a', sizeof(million));
	sha256_init(&s);
	for (int i = 0; i < 1000; i++)
		sha256_add(&s, million, sizeof(million));
	sha256_end_hex(&s, hex);
	assert_string_equal(hex,
			    "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void test_sha256_does_not_depend_on_how_bytes_come(void **state)
{
	uint8_t text[200];
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)(i * 7);
	for (size_t len = 0; len <= sizeof(text); len++) {
		char whole[SHA256_HEX], split[SHA256_HEX];
		sha256_hex(slice_of(text, len), whole);
		for (size_t at = 0; at <= len; at += 13) {
			struct sha256 s;
			sha256_init(&s);
			sha256_add(&s, text, at);
			sha256_add(&s, text + at, len - at);
			sha256_end_hex(&s, split);
			assert_string_equal(split, whole);
		}
	}
}

/* ---- reports.yaml ---- */

#define COLUMNS "    columns:\n      - {name: a, type: text}\n"
#define CSV_REPORT                                                                                 \
	"  - id: n/one\n    name: one\n    title: One\n    model: m\n    formats: [csv]\n    "     \
	"order: [a]\n"
#define TOP "language: 1\nreports:\n"

static int parse(struct arena *a, const char *text, struct report_pack *p, struct rt_err *err)
{
	arena_init(a, 4096);
	return report_pack_parse(a, "r.yaml", slice_str(text), p, err);
}

static void test_definitions_are_read(void **state)
{
	struct arena a;
	struct report_pack p;
	struct rt_err err;
	const char *text =
		"language: 1\nfiles:\n  txt: {delimiter: \";\"}\nreports:\n" CSV_REPORT
		"    columns:\n      - {name: \"% día\", type: decimal, digits: 5, fraction: 2, "
		"zeros: trim, "
		"min: -1.5}\n  - id: n/two\n    name: two\n    title: Two\n    empty: true\n    "
		"formats: "
		"[xml, txt]\n    as_of: true\n    xml: {schema: two, namespace: \"urn:x\", root: "
		"r\u00F6t, row: w, min_rows: 1}\n" COLUMNS;
	assert_rc(parse(&a, text, &p, &err), err);
	assert_int_equal(p.count, 2);
	assert_int_equal(p.csv_delimiter, ',');
	assert_int_equal(p.txt_delimiter, ';');
	const struct report *one = report_find(&p, "n/one"), *two = report_find(&p, "n/two");
	assert_string_equal(one->norm, "n");
	assert_string_equal(one->model, "m");
	assert_true(one->formats[REPORT_CSV] && !one->formats[REPORT_XML]);
	assert_true(one->column[0].trim_zeros && one->column[0].has_digits);
	assert_string_equal(one->column[0].min, "-1.5");
	assert_null(two->model);
	assert_true(two->as_of && two->xml.min_rows == 1);
	assert_null(report_find(&p, "n/three"));
	arena_release(&a);
}

static void test_definition_errors_name_line_and_column(void **state)
{
	static const struct {
		const char *text, *says;
	} cases[] = {
		{"language: 2\nreports: []\n", "r.yaml:1:11: this program reads language 1"},
		{"reports: []\n", "\"language\" is missing"},
		{"language: 1\nreport: []\n",
		 "2:1: the file has no key \"report\"; did you mean \"reports\"?"},
		{"language: 1\nreports: []\n", "2:10: \"reports\" has 1 to"},
		{TOP "  - {name: x}\n", "3:5: \"id\" is missing"},
		{TOP "  - {id: x}\n", "3:10: id \"x\" must be norm/id"},
		{TOP "  - {id: ../x}\n", "3:10: id \"../x\": 1 to 63 letters"},
		{TOP "  - {id: a/b/c}\n", "letters, digits and underscores"},
		{TOP "  - {id: a/..}\n", "letters, digits and underscores"},
		{TOP "  - {id: a/b, name: \"../../etc/passwd\", title: t}\n",
		 "3:21: name \"../../etc/passwd\""},
		{TOP "  - {id: a/b, name: B, title: t}\n", "all lower-case"},
		{TOP "  - {id: a/b, name: b, title: t}\n",
		 "\"model\" (or \"empty: true\") is missing"},
		{TOP "  - {id: a/b, name: b, title: t, model: m, empty: true}\n",
		 "has no \"model\""},
		{TOP "  - {id: a/b, name: b, title: t, model: m, formats: [pdf]}\n",
		 "3:54: format \"pdf\""},
		{TOP "  - {id: a/b, name: b, title: t, model: m, formats: [csv, csv]}\n",
		 "stands twice"},
		{TOP "  - {id: a/b, name: b, title: t, model: m, formats: []}\n",
		 "\"formats\" is empty"},
		{TOP "  - {id: a/b, name: b, title: t, model: m, formats: [csv]}\n",
		 "\"order\" is missing"},
		{TOP "  - {id: a/b, name: b, title: t, model: m, formats: [xml], order: [a]}\n",
		 "\"xml\" is missing"},
		{TOP CSV_REPORT "    xml: {schema: x}\n" COLUMNS, "without the format xml"},
		{TOP CSV_REPORT "    columns: []\n", "9:14: \"columns\" has 1 to"},
		{TOP CSV_REPORT "    columns:\n      - {name: a, type: txt}\n",
		 "10:25: \"type\" cannot be \"txt\"; did you mean text"},
		{TOP CSV_REPORT "    columns:\n      - {name: a, type: int, digits: 3}\n",
		 "10:30: \"digits\" does not go with type int"},
		{TOP CSV_REPORT "    columns:\n      - {name: a, type: text, max_lenght: 3}\n",
		 "did you mean \"max_length\""},
		{TOP CSV_REPORT "    columns:\n      - {name: a, type: text, enum: [x]}\n",
		 "needs quotes"},
		{TOP CSV_REPORT "    columns:\n      - {name: a, type: text, pattern: \"[\"}\n",
		 "not a regular expression"},
		{TOP CSV_REPORT "    columns:\n      - {name: a, type: text, overflow: cut}\n",
		 "\"overflow\" needs"},
		{TOP CSV_REPORT
		 "    columns:\n      - {name: a, type: date, min: \"2026-02-30\"}\n",
		 "\"min\" must be a day"},
		{TOP CSV_REPORT "    columns:\n      - {name: a, type: text, nillable: yes}\n",
		 "\"nillable\" must be true or false"},
		{TOP CSV_REPORT COLUMNS "      - {name: a, type: text}\n",
		 "column \"a\" stands twice"},
		{TOP CSV_REPORT COLUMNS CSV_REPORT COLUMNS, "report \"n/one\" stands twice"},
		{TOP "  - id: n/x\n    name: x\n    title: X\n    empty: true\n    formats: "
		     "[xml]\n    xml: "
		     "{schema: x, namespace: u, root: r, row: w}\n    columns:\n      - {name: \"% "
		     "x\", type: text}\n",
		 "10:16: \"% x\" is not a name of an XML element"},
		{TOP "  - id: n/x\n    name: x\n    title: X\n    empty: true\n    formats: "
		     "[xml]\n    xml: "
		     "{schema: \"../x\", namespace: u, root: r, row: w}\n" COLUMNS,
		 "schema \"../x\""},
		{"language: 1\nfiles: {csv: {delimiter: \"\\\"\"}}\nreports: []\n",
		 "one ASCII character"},
		{"language: 1\nfiles: {csv: {delimiter: \";;\"}}\nreports: []\n",
		 "one ASCII character"},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct arena a;
		struct report_pack p;
		struct rt_err err = {0};
		assert_int_equal(parse(&a, cases[i].text, &p, &err), ERR_PERMANENT);
		assert_says(err, cases[i].says);
		arena_release(&a);
	}
}

static void test_what_a_request_means(void **state)
{
	struct arena a;
	struct report_pack p;
	struct rt_err err;
	const char **ids, *as_of, *want[] = {"n/two", "n/one", "n/two"}, *bad[] = {"n/tow"};
	size_t n;
	assert_rc(parse(&a,
			TOP CSV_REPORT COLUMNS
			"  - id: n/two\n    name: two\n    title: Two\n    "
			"model: m\n    formats: [csv]\n    order: [a]\n    as_of: true\n" COLUMNS,
			&p, &err),
		  err);
	assert_rc(report_select(&p, &a, want, 3, "2026-02-28", NULL, &ids, &n, &as_of, &err), err);
	assert_int_equal(n, 2); /* sorted, each once */
	assert_string_equal(ids[0], "n/one");
	assert_string_equal(ids[1], "n/two");
	assert_string_equal(as_of, "2026-02-28");
	assert_rc(report_select(&p, &a, NULL, 0, NULL, "2026-01-01", &ids, &n, &as_of, &err), err);
	assert_int_equal(n, 2);
	assert_string_equal(as_of, "2026-01-01");
	assert_rc(report_select(&p, &a, &want[1], 1, NULL, "2026-01-01", &ids, &n, &as_of, &err),
		  err);
	assert_null(as_of);
	assert_int_equal(report_select(&p, &a, want, 3, NULL, NULL, &ids, &n, &as_of, &err),
			 ERR_USAGE);
	assert_says(err, "n/two needs a day");
	assert_int_equal(report_select(&p, &a, &want[1], 1, "2026-02-28", NULL, &ids, &n, &as_of,
				       &err),
			 ERR_USAGE);
	assert_says(err, "none of these reports takes a day");
	assert_int_equal(report_select(&p, &a, want, 1, "2026-02-29", NULL, &ids, &n, &as_of, &err),
			 ERR_USAGE);
	assert_says(err, "not a day");
	assert_int_equal(report_select(&p, &a, bad, 1, NULL, NULL, &ids, &n, &as_of, &err),
			 ERR_USAGE);
	assert_says(err, "did you mean n/two");
	arena_release(&a);
}

/* ---- values ---- */

static void check_value(const char *column, const char *in, const char *expected, const char *why)
{
	struct arena a;
	struct report_pack p;
	struct rt_err err;
	struct report_values v;
	struct slice got;
	char *text = rt_sprintf(TOP CSV_REPORT "    columns:\n      - {name: a, %s}\n", column);
	assert_rc(parse(&a, text, &p, &err), err);
	report_values_init(&v, &p.report[0]);
	const char *said = report_value(&v, 0, slice_str(in), &got);
	if (why == NULL && said != NULL)
		fail_msg("%s of %s: %s", in, column, said);
	if (why != NULL && (said == NULL || strstr(said, why) == NULL))
		fail_msg("%s of %s said %s", in, column, said != NULL ? said : "nothing");
	if (said != NULL && strlen(in) > 3 && strstr(said, in) != NULL)
		fail_msg("the reason quotes the value: %s", said);
	if (expected != NULL && !slice_is(got, expected))
		fail_msg("%s of %s is \"%.*s\"", in, column, (int)got.len, (const char *)got.p);
	report_values_release(&v);
	arena_release(&a);
	free(text);
}

static void test_values_have_their_type_s_form(void **state)
{
	check_value("type: text", "x, y", "x, y", NULL);
	check_value("type: text, max_length: 3, overflow: cut", "ñandú", "ñan", NULL);
	check_value("type: text, max_length: 3, overflow: cut_left", "ñandú\U0001F600",
		    "dú\U0001F600", NULL);
	check_value("type: text, length: 2", "\U0001F600\U0001F601", NULL,
		    NULL); /* characters, not bytes */
	check_value("type: text, space: collapse", " \ta  b\n ", "a b", NULL);
	check_value("type: text, space: collapse, max_length: 2, overflow: cut", "a bc", "a", NULL);
	check_value("type: text, enum: [\"\", \"A\"]", "", "", NULL);
	check_value("type: text, pattern: \"[0-9]{2}\"", "12", "12", NULL);
	check_value("type: decimal, fraction: 2", "12.50", "12.50", NULL);
	check_value("type: decimal, fraction: 2, zeros: trim", "12.50", "12.5", NULL);
	check_value("type: decimal, fraction: 2, zeros: trim", "12.00", "12", NULL);
	check_value("type: decimal, zeros: trim", "100", "100", NULL);
	check_value("type: decimal, digits: 4, fraction: 2", "-0012.30", NULL, NULL);
	check_value("type: decimal", "123456789012345678901234567890.5", NULL, NULL);
	check_value("type: int", "-2147483648", "-2147483648", NULL);
	check_value("type: date, format: compact", "2026-01-31", "20260131", NULL);
	check_value("type: date", "2024-02-29", "2024-02-29", NULL);
	check_value("type: timestamp", "2026-01-31 23:59:59+00", "2026-01-31 23:59:59+00:00", NULL);
	check_value("type: timestamp", "2026-01-31 23:59:59.12+00",
		    "2026-01-31 23:59:59.120000+00:00", NULL);
	check_value("type: boolean", "t", "True", NULL);
	check_value("type: boolean", "f", "False", NULL);
	check_value("type: json", "{\"a\": 1}", "{\"a\": 1}", NULL);
}

static void test_limits_are_kept_and_reasons_quote_nothing(void **state)
{
	check_value("type: text, max_length: 3", "secret", NULL, "more than 3 characters");
	check_value("type: text, min_length: 9", "secret", NULL, "fewer than 9");
	check_value("type: text, length: 2", "secret", NULL, "exactly 2");
	check_value("type: text, enum: [\"A\"]", "secret", NULL, "none of the values");
	check_value("type: text, pattern: \"[0-9]+\"", "12secret", NULL, "pattern");
	check_value("type: decimal, digits: 4, fraction: 2", "123.45", NULL, "more than 4 digits");
	check_value("type: decimal", "NaN", NULL, "not a number");
	check_value("type: decimal", "Infinity", NULL, "not a number");
	check_value("type: decimal, min: 0", "-0.01", NULL, "less than 0");
	check_value("type: decimal, max: 9.99", "10", NULL, "greater than 9.99");
	check_value("type: int", "2147483648", NULL, "range of int");
	check_value("type: short", "32768", NULL, "range of short");
	check_value("type: int", "1.5", NULL, "not a whole number");
	check_value("type: short, min: 0, max: 31", "32", NULL, "greater than 31");
	check_value("type: date", "infinity", NULL, "not a day");
	check_value("type: date", "0044-03-15 BC", NULL, "not a day");
	check_value("type: date", "10000-01-01", NULL, "not a day");
	check_value("type: date, min: \"1800-01-01\"", "1799-12-31", NULL, "before 1800-01-01");
	check_value("type: timestamp", "infinity", NULL, "not a time");
}

static void test_decimals_compare_as_numbers(void **state)
{
	static const char *const ascending[] = {"-10", "-9.5", "-0.01", "0",  "0.001", "0.01",
						"1",   "1.5",  "2",	"10", "100.01"};
	for (size_t i = 0; i < ARRAY_LEN(ascending); i++)
		for (size_t k = 0; k < ARRAY_LEN(ascending); k++) {
			int c = report_decimal_cmp(ascending[i], ascending[k]);
			assert_int_equal(i < k ? c < 0 : i > k ? c > 0 : c == 0, 1);
		}
	assert_int_equal(report_decimal_cmp("-0.00", "0"), 0);
	assert_int_equal(report_decimal_cmp("007.50", "7.5"), 0);
}

/* ---- files ---- */

static void assert_field(const char *in, char delimiter, bool guard, const char *expected)
{
	struct buf b = BUF_INIT;
	form_csv_field(&b, slice_str(in), true, delimiter, guard);
	assert_string_equal(buf_cstr(&b), expected);
	buf_release(&b);
}

static void test_trap_48_csv_fields_stay_fields(void **state)
{
	assert_field("plain", ',', false, "plain");
	assert_field("", ',', false, "");
	assert_field("a,b", ',', false, "\"a,b\"");
	assert_field("a,b", '|', false, "a,b");
	assert_field("a|b", '|', false, "\"a|b\"");
	assert_field("say \"hi\"", ',', false, "\"say \"\"hi\"\"\"");
	assert_field("two\nlines", ',', false, "\"two\nlines\"");
	assert_field("a\rb", ',', false, "\"a\rb\"");
	assert_field("\U0001F600 ñ", ',', false, "\U0001F600 ñ");
	assert_field("=1+1", ',', false, "=1+1");
	assert_field("=cmd|' /C calc'!A0", ',', true, "'=cmd|' /C calc'!A0");
	assert_field("+1", ',', true, "'+1");
	assert_field("-1", ',', true, "'-1");
	assert_field("@SUM(A1)", ',', true, "'@SUM(A1)");
	assert_field("\tx", ',', true, "'\tx");
	assert_field("\nx", ',', true, "\"'\nx\"");
	assert_field("1=1", ',', true, "1=1");
}

static void assert_xml(const char *in, const char *expected)
{
	struct buf b = BUF_INIT;
	bool good = form_xml_field(&b, "x", slice_str(in));
	assert_int_equal(good, expected != NULL);
	if (expected != NULL)
		assert_string_equal(buf_cstr(&b), expected);
	buf_release(&b);
}

static void test_trap_48_xml_text_is_escaped_and_controls_are_refused(void **state)
{
	assert_xml("a<b>&\"c\"", "<x>a&lt;b&gt;&amp;&quot;c&quot;</x>");
	assert_xml("]]>", "<x>]]&gt;</x>");
	assert_xml("two\nlines\r\tend", "<x>two&#10;lines&#13;&#9;end</x>");
	assert_xml("\U0001F600\u00A0ñ\x7F", "<x>\U0001F600\u00A0ñ\x7F</x>");
	for (char c = 1; c < 0x20; c++) {
		char text[] = {'a', c, '\0'};
		if (c != '\t' && c != '\n' && c != '\r')
			assert_xml(text, NULL);
	}
	assert_xml("\uFFFE", NULL);
	assert_xml("a\uFFFF", NULL);
	assert_xml("\uFFFD", "<x>\uFFFD</x>");
}

static void test_the_schema_is_made_of_the_definition(void **state)
{
	struct arena a;
	struct report_pack p;
	struct rt_err err;
	struct buf out = BUF_INIT;
	assert_rc(
		parse(&a,
		      TOP
		      "  - id: n/x\n    name: x\n    title: X\n    empty: true\n    formats: "
		      "[xml]\n"
		      "    xml: {schema: x, namespace: \"urn:a&b\", root: r, row: w, min_rows: 1}\n"
		      "    columns:\n      - {name: t, type: text, max_length: 3, enum: [\"<\"], "
		      "nillable: true}\n"
		      "      - {name: d, type: decimal, digits: 5, fraction: 2, min: 0}\n",
		      &p, &err),
		err);
	report_xsd(&p.report[0], &out);
	static const char *const has[] = {
		"targetNamespace=\"urn:a&amp;b\"",
		"elementFormDefault=\"qualified\"",
		"<xs:element name=\"w\" minOccurs=\"1\" maxOccurs=\"unbounded\">",
		"<xs:element name=\"t\" nillable=\"true\">",
		"<xs:maxLength value=\"3\"/>",
		"<xs:enumeration value=\"&lt;\"/>",
		"<xs:totalDigits value=\"5\"/>",
		"<xs:fractionDigits value=\"2\"/>",
		"<xs:minInclusive value=\"0\"/>",
		"<xs:all>"};
	for (size_t i = 0; i < ARRAY_LEN(has); i++)
		if (strstr(buf_cstr(&out), has[i]) == NULL)
			fail_msg("the schema has no %s", has[i]);
	buf_release(&out);
	arena_release(&a);
}

/* ---- schedules ---- */

static int64_t at(const char *text) /* "2026-03-29 01:30" in UTC */
{
	struct tm t = {0};
	assert_int_equal(sscanf(text, "%d-%d-%d %d:%d", &t.tm_year, &t.tm_mon, &t.tm_mday,
				&t.tm_hour, &t.tm_min),
			 5);
	t.tm_year -= 1900;
	t.tm_mon--;
	return timegm(&t);
}

static struct cron cron_of(const char *text)
{
	struct cron c;
	struct rt_err err;
	assert_rc(cron_parse(text, &c, &err), err);
	return c;
}

static void assert_latest(const char *schedule, const char *zone, const char *now,
			  const char *expected)
{
	struct pgt_zone *z = zone != NULL ? pgt_zone_load(zone) : NULL;
	struct cron c = cron_of(schedule);
	int64_t got = cron_latest(&c, z, at(now));
	if (got != at(expected))
		fail_msg("%s in %s at %s: %lld, not %s", schedule, zone != NULL ? zone : "UTC", now,
			 (long long)got, expected);
	if (z != NULL)
		pgt_zone_free(z);
}

static void test_schedules_are_read(void **state)
{
	static const char *const bad[] = {"",
					  "* * * *",
					  "60 * * * *",
					  "* 24 * * *",
					  "* * 0 * *",
					  "* * * 13 *",
					  "* * * * 8",
					  "a * * * *",
					  "*/0 * * * *",
					  "5-1 * * * *",
					  "1,,2 * * * *",
					  "* * * * * *",
					  "0 0 31 2 *",
					  "0 0 30 feb *",
					  "1- * * * *",
					  "@daily"};
	struct cron c;
	struct rt_err err;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(cron_parse(bad[i], &c, &err), ERR_USAGE);
	c = cron_of("5,10-12,*/20 0-23/6 1 JAN,mar mon-FRI");
	assert_int_equal(c.minutes, UINT64_C(1) << 5 | UINT64_C(7) << 10 | UINT64_C(1) << 0 |
					    UINT64_C(1) << 20 | UINT64_C(1) << 40);
	assert_int_equal(c.hours, 1 | 1 << 6 | 1 << 12 | 1 << 18);
	assert_int_equal(c.months, 1 << 1 | 1 << 3);
	assert_int_equal(c.weekdays, 0x3E);
	c = cron_of("0 0 * * 7");
	assert_int_equal(c.weekdays, 1);
}

static void test_the_latest_time_in_utc(void **state)
{
	assert_latest("0 2 * * *", NULL, "2026-05-10 02:00", "2026-05-10 02:00");
	assert_latest("0 2 * * *", NULL, "2026-05-10 01:59", "2026-05-09 02:00");
	assert_latest("*/15 * * * *", NULL, "2026-01-01 00:14", "2026-01-01 00:00");
	assert_latest("59 23 31 12 *", NULL, "2026-06-01 00:00", "2025-12-31 23:59");
	assert_latest("0 0 29 2 *", NULL, "2027-06-01 00:00", "2024-02-29 00:00");
	assert_latest("0 0 29 2 mon", NULL, "2026-06-03 00:00",
		      "2026-02-23 00:00"); /* or a Monday */
	assert_latest("0 6 1 * *", NULL, "2026-03-01 05:00", "2026-02-01 06:00");
	assert_latest("0 6 * * 1-5", NULL, "2026-11-29 12:00", "2026-11-27 06:00"); /* Sunday */
	assert_latest("0 0 13 * 5", NULL, "2026-02-12 00:00", "2026-02-06 00:00");
	struct cron c = cron_of("30 6 * * *");
	assert_int_equal(cron_next(&c, NULL, at("2026-02-01 06:30")), at("2026-02-02 06:30"));
	assert_int_equal(cron_next(&c, NULL, at("2026-02-01 06:29")), at("2026-02-01 06:30"));
}

/* Berlin: 2026-03-29 02:00 → 03:00 (01:00 UTC); 2026-10-25 03:00 → 02:00 (01:00 UTC). */
static void test_trap_47_a_time_that_clocks_skip_is_due_behind_the_gap(void **state)
{
	assert_latest("30 2 * * *", "Europe/Berlin", "2026-03-28 12:00", "2026-03-28 01:30");
	assert_latest("30 2 * * *", "Europe/Berlin", "2026-03-29 00:59", "2026-03-28 01:30");
	assert_latest("30 2 * * *", "Europe/Berlin", "2026-03-29 01:00", "2026-03-29 01:00");
	assert_latest("30 2 * * *", "Europe/Berlin", "2026-03-30 00:29", "2026-03-29 01:00");
	assert_latest("30 2 * * *", "Europe/Berlin", "2026-03-30 00:30", "2026-03-30 00:30");
	assert_latest("*/10 2 * * *", "Europe/Berlin", "2026-03-29 12:00", "2026-03-29 01:00");
	assert_latest("30 * * * *", "Europe/Berlin", "2026-03-29 01:29", "2026-03-29 00:30");
	assert_latest("30 * * * *", "Europe/Berlin", "2026-03-29 01:30", "2026-03-29 01:30");
}

static void test_trap_47_a_time_that_clocks_repeat_is_due_once(void **state)
{
	assert_latest("30 2 * * *", "Europe/Berlin", "2026-10-25 00:30", "2026-10-25 00:30");
	assert_latest("30 2 * * *", "Europe/Berlin", "2026-10-25 01:30", "2026-10-25 00:30");
	assert_latest("30 2 * * *", "Europe/Berlin", "2026-10-26 01:29", "2026-10-25 00:30");
	assert_latest("30 2 * * *", "Europe/Berlin", "2026-10-26 01:30", "2026-10-26 01:30");
	assert_latest("30 * * * *", "Europe/Berlin", "2026-10-25 01:29", "2026-10-25 00:30");
	assert_latest("30 * * * *", "Europe/Berlin", "2026-10-25 01:30", "2026-10-25 01:30");
}

/* Whole years, a minute at a time: a daily time is due once a day, an hourly one each hour that passes. */
static void test_trap_47_over_years_each_day_and_hour_is_met_once(void **state)
{
	static const char *const zones[] = {"Europe/Berlin", "America/New_York",
					    "Australia/Lord_Howe", "America/El_Salvador",
					    "Asia/Kathmandu"};
	for (size_t i = 0; i < ARRAY_LEN(zones); i++) {
		struct pgt_zone *z = pgt_zone_load(zones[i]);
		struct cron daily = cron_of("30 2 * * *"), hourly = cron_of("0 */1 * * *");
		int64_t t = at("2025-12-31 12:00"), end = at("2027-01-02 12:00"), days = 0;
		for (int64_t d = cron_next(&daily, z, t); d < end; d = cron_next(&daily, z, d)) {
			assert_int_equal(cron_latest(&daily, z, d), d);
			assert_true(cron_latest(&daily, z, d - 1) < d);
			days++;
		}
		assert_int_equal(days, 367);
		int64_t before = cron_next(&hourly, z, t);
		for (int64_t h = cron_next(&hourly, z, before); h < end;
		     h = cron_next(&hourly, z, h)) {
			assert_true(h > before &&
				    h - before <= 5400); /* Lord Howe changes by half an hour */
			before = h;
		}
		pgt_zone_free(z);
	}
}

static void test_yesterday_is_that_of_the_zone(void **state)
{
	char day[11];
	struct pgt_zone *z = pgt_zone_load("America/El_Salvador");
	cron_yesterday(NULL, at("2026-03-01 00:30"), day);
	assert_string_equal(day, "2026-02-28");
	cron_yesterday(z, at("2026-03-01 00:30"), day); /* still 18:30 of February there */
	assert_string_equal(day, "2026-02-27");
	pgt_zone_free(z);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sha256_is_that_of_the_standard),
		cmocka_unit_test(test_sha256_does_not_depend_on_how_bytes_come),
		cmocka_unit_test(test_definitions_are_read),
		cmocka_unit_test(test_definition_errors_name_line_and_column),
		cmocka_unit_test(test_what_a_request_means),
		cmocka_unit_test(test_values_have_their_type_s_form),
		cmocka_unit_test(test_limits_are_kept_and_reasons_quote_nothing),
		cmocka_unit_test(test_decimals_compare_as_numbers),
		cmocka_unit_test(test_trap_48_csv_fields_stay_fields),
		cmocka_unit_test(test_trap_48_xml_text_is_escaped_and_controls_are_refused),
		cmocka_unit_test(test_the_schema_is_made_of_the_definition),
		cmocka_unit_test(test_schedules_are_read),
		cmocka_unit_test(test_the_latest_time_in_utc),
		cmocka_unit_test(test_trap_47_a_time_that_clocks_skip_is_due_behind_the_gap),
		cmocka_unit_test(test_trap_47_a_time_that_clocks_repeat_is_due_once),
		cmocka_unit_test(test_trap_47_over_years_each_day_and_hour_is_met_once),
		cmocka_unit_test(test_yesterday_is_that_of_the_zone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
