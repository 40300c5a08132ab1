/*
 * proto/pg/types, edge by edge. Binary forms were recorded from PostgreSQL 15
 * (numeric_send and its like); tests/system/test_casts.py compares many more
 * with a live server.
 */
#include "tests/unit/unit.h"

#include "proto/base/buf.h"
#include "proto/pg/types.h"

static void to_hex(struct slice s, struct buf *out)
{
	buf_clear(out);
	for (size_t i = 0; i < s.len; i++)
		buf_printf(out, "%02x", s.p[i]);
	buf_cstr(out);
}

/* text is accepted, its binary is hex, and that reads back as shown. */
static void good(enum pgt t, const char *text, const char *hex, const char *shown)
{
	struct buf binary = BUF_INIT, other = BUF_INIT;
	struct rt_err err;
	int rc = pgt_from_text(t, slice_str(text), NULL, &binary, &err);
	if (rc < 0)
		fail_msg("\"%s\": %s", text, err.msg);
	to_hex(buf_slice(&binary), &other);
	assert_string_equal(buf_cstr(&other), hex);
	buf_clear(&other);
	assert_rc(pgt_to_text((struct pgt_type){t, false}, buf_slice(&binary), &other, &err), err);
	assert_string_equal(buf_cstr(&other), shown);
	buf_release(&binary);
	buf_release(&other);
}

/* text is refused with these words, which do not repeat it; what was in out stays as it was. */
static void bad_slice(enum pgt t, struct slice text, const char *says)
{
	struct buf out = BUF_INIT;
	struct rt_err err;
	buf_str(&out, "before");
	if (pgt_from_text(t, text, NULL, &out, &err) != ERR_PERMANENT)
		fail_msg("accepted: %.*s", (int)text.len, (const char *)text.p);
	assert_says(err, says);
	if (text.len > 3)
		assert_null(memmem(err.msg, strlen(err.msg), text.p, text.len));
	assert_string_equal(buf_cstr(&out), "before");
	assert_int_equal(out.len, 6);
	buf_release(&out);
}

static void bad(enum pgt t, const char *text, const char *says)
{
	bad_slice(t, slice_str(text), says);
}

static void test_names_and_oids_lead_back_to_the_type(void **state)
{
	for (int i = 0; i < PGT_COUNT; i++) {
		for (int array = 0; array < 2; array++) {
			struct pgt_type t = {(enum pgt)i, array == 1}, again = {PGT_COUNT, false};
			assert_true(pgt_parse_name(pgt_name(t), &again));
			assert_true(again.base == t.base && again.array == t.array);
			again.base = PGT_COUNT;
			assert_true(pgt_from_oid(pgt_oid(t), &again));
			assert_true(again.base == t.base && again.array == t.array);
		}
	}
	struct pgt_type t = {PGT_UUID, false};
	assert_int_equal(pgt_oid(t), 2950);
	assert_false(pgt_parse_name("int", &t));
	assert_false(pgt_parse_name("uuid[][]", &t));
	assert_false(pgt_parse_name("", &t));
	assert_false(pgt_from_oid(0, &t));
	assert_false(pgt_from_oid(OID_BYTEA, &t));
	assert_int_equal(t.base, PGT_UUID); /* untouched */
}

static void test_bool_takes_beginnings_of_words(void **state)
{
	const char *yes[] = {"t", "tr", "TRUE", " true\t", "y", "Ye", "yes", "on", "1", "\v1\f"};
	const char *no[] = {"f", "fals", "FALSE", "n", "no", "of", "off", "0", "\nno\r"};
	const char *wrong[] = {"", " ", "o", "truee", "10", "2", "t t", "nope", "offf", "-1"};
	for (size_t i = 0; i < ARRAY_LEN(yes); i++)
		good(PGT_BOOL, yes[i], "01", "t");
	for (size_t i = 0; i < ARRAY_LEN(no); i++)
		good(PGT_BOOL, no[i], "00", "f");
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		bad(PGT_BOOL, wrong[i], "not a valid bool");
}

static void test_integers_to_their_last_value(void **state)
{
	good(PGT_INT2, "-32768", "8000", "-32768");
	good(PGT_INT2, " +32767\n", "7fff", "32767");
	bad(PGT_INT2, "32768", "out of range for int2");
	bad(PGT_INT2, "-32769", "out of range for int2");
	good(PGT_INT4, "-2147483648", "80000000", "-2147483648");
	bad(PGT_INT4, "2147483648", "out of range for int4");
	good(PGT_INT8, "9223372036854775807", "7fffffffffffffff", "9223372036854775807");
	good(PGT_INT8, "-9223372036854775808", "8000000000000000", "-9223372036854775808");
	good(PGT_INT8, "-0000000000000000000000000", "0000000000000000", "0");
	bad(PGT_INT8, "9223372036854775808", "out of range for int8");
	bad(PGT_INT8, "-9223372036854775809", "out of range for int8");
	bad(PGT_INT8, "99999999999999999999999999", "out of range for int8");
	const char *wrong[] = {"",    " ",   "+",    "-",     "1.0",  "1e3",
			       "0x1", "1_0", "- 12", "1 234", "12ab", "--1"};
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		bad(PGT_INT4, wrong[i], "not a valid int4");
	bad_slice(PGT_INT4, slice_of("1\0", 2), "not a valid int4");
}

static void test_numeric_keeps_value_and_display_scale(void **state)
{
	good(PGT_NUMERIC, "0", "0000000000000000", "0");
	good(PGT_NUMERIC, "-0.00", "0000000000000002", "0.00");
	good(PGT_NUMERIC, ".5", "0001ffff000000011388", "0.5");
	good(PGT_NUMERIC, "1.", "00010000000000000001", "1");
	good(PGT_NUMERIC, "12345.678900",
	     "00030001000000060001092"
	     "91a85",
	     "12345.678900");
	good(PGT_NUMERIC, "-10000", "00010001400000000001", "-10000");
	good(PGT_NUMERIC, "1e 5", "0001000100000000000a", "100000");
	good(PGT_NUMERIC, "1.20e1", "0001000000000001000c", "12.0");
	good(PGT_NUMERIC, "0.00000001", "0001fffe000000080001", "0.00000001");
	good(PGT_NUMERIC, " nan ", "00000000c0000000", "NaN");
	good(PGT_NUMERIC, "+INF", "00000000d0000020", "Infinity");
	good(PGT_NUMERIC, "-infinity", "00000000f0000020", "-Infinity");
	const char *wrong[] = {"",    ".",   "-",   "+ 1",  "1e",   "1e+",   "1.2.3",
			       "0x1", "1_0", "1,0", "inF-", "+nan", "1e5 6", "infinit"};
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		bad(PGT_NUMERIC, wrong[i], "not a valid numeric");
}

static void test_numeric_limits_are_the_servers(void **state)
{
	struct buf out = BUF_INIT;
	struct rt_err err;
	good(PGT_NUMERIC, "0e131072000", "0000000000000000", "0");
	assert_rc(pgt_from_text(PGT_NUMERIC, slice_str("1e131071"), NULL, &out, &err), err);
	assert_rc(pgt_from_text(PGT_NUMERIC, slice_str("1e-16383"), NULL, &out, &err), err);
	buf_release(&out);
	bad(PGT_NUMERIC, "1e131072", "out of range for numeric");
	bad(PGT_NUMERIC, "1e-16384", "out of range for numeric");
	bad(PGT_NUMERIC, "0e-16384", "out of range for numeric");
	bad(PGT_NUMERIC, "0e1073741823", "out of range for numeric");
	bad(PGT_NUMERIC, "1e-99999999999999999999999999", "out of range for numeric");
}

static void test_text_is_utf8_without_nul(void **state)
{
	good(PGT_TEXT, "", "", "");
	good(PGT_VARCHAR, " a\xc3\xa9\xe2\x82\xac\xf0\x9f\x92\xb6 ", "2061c3a9e282acf09f92b620",
	     " a\xc3\xa9\xe2\x82\xac\xf0\x9f\x92\xb6 ");
	const char *wrong[] = {"\xc0\x80", "\xed\xa0\x80",     "\xf4\x90\x80\x80",
			       "\xe2\x82", "\xf8\x80\x80\x80", "\x80",
			       "ab\xff",   "\xe0\x9f\xbf"};
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		bad(PGT_TEXT, wrong[i], "not a valid text");
	bad_slice(PGT_VARCHAR, slice_of("a\0b", 3), "not a valid varchar");
}

static void test_uuid_in_every_spelling(void **state)
{
	static const char HEX[] = "a0eebc999c0b4ef8bb6d6bb9bd380a11";
	static const char SHOWN[] = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
	const char *right[] = {"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
			       "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
			       "a0eebc999c0b4ef8bb6d6bb9bd380a11",
			       "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11"};
	const char *wrong[] = {"",
			       "{}",
			       "{",
			       "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1",
			       "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a111",
			       "a0eebc99--9c0b4ef8-bb6d-6bb9bd380a11",
			       "a0eebc999c0b4ef8bb6d6bb9bd380a11-",
			       "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1g",
			       " a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
			       "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
			       "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
			       "a0e-ebc999c0b4ef8bb6d6bb9bd380a11"};
	for (size_t i = 0; i < ARRAY_LEN(right); i++)
		good(PGT_UUID, right[i], HEX, SHOWN);
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		bad(PGT_UUID, wrong[i], "not a valid uuid");
}

static void test_jsonb_has_a_version_byte(void **state)
{
	good(PGT_JSONB, "{\"a\": 1}", "017b2261223a20317d", "{\"a\": 1}");
}

/* ---- dates ---- */

static void test_usual_timestamps_round_to_microseconds(void **state)
{
	static const struct {
		const char *text, *hex, *shown;
	} ROWS[] = {
		{"2000-01-01T00:00:00Z", "0000000000000000", "2000-01-01 00:00:00+00"},
		{"2024-02-29T12:34:56.789Z", "0002b58341728608", "2024-02-29 12:34:56.789+00"},
		{"2024-02-29 12:34:56.789012345+00", "0002b58341728614",
		 "2024-02-29 12:34:56.789012+00"},
		{"1999-12-31T23:59:59.9999995Z", "0000000000000000", "2000-01-01 00:00:00+00"},
		{"1999-12-31T23:59:59.9999994+00:00", "ffffffffffffffff",
		 "1999-12-31 23:59:59.999999+00"},
		/* Halves go to the even neighbour of what a double holds. */
		{"2000-01-01T00:00:00.0000005Z", "0000000000000000", "2000-01-01 00:00:00+00"},
		{"2000-01-01T00:00:00.0000015Z", "0000000000000002",
		 "2000-01-01 00:00:00.000002+00"},
		{"0001-01-01T00:00:00Z", "ff1fe2ffc59c6000", "0001-01-01 00:00:00+00"},
		{"9999-12-31T23:59:59.999999Z", "0380e70b913b7fff",
		 "9999-12-31 23:59:59.999999+00"},
	};
	for (size_t i = 0; i < ARRAY_LEN(ROWS); i++)
		good(PGT_TIMESTAMPTZ, ROWS[i].text, ROWS[i].hex, ROWS[i].shown);
}

/* The text that a value reads back as stands for its binary form here. */
static void reads(enum pgt t, const char *text, const char *shown)
{
	struct buf binary = BUF_INIT, out = BUF_INIT;
	struct rt_err err;
	if (pgt_from_text(t, slice_str(text), NULL, &binary, &err) < 0)
		fail_msg("\"%s\": %s", text, err.msg);
	assert_rc(pgt_to_text((struct pgt_type){t, false}, buf_slice(&binary), &out, &err), err);
	assert_string_equal(buf_cstr(&out), shown);
	buf_release(&binary);
	buf_release(&out);
}

static void test_dates_in_every_spelling(void **state)
{
	const char *right[] = {"1999-01-08",	   "January 8, 1999",  "1/8/1999",
			       "1999-Jan-08",	   "Jan-08-1999",      "08-Jan-1999",
			       "08-Jan-99",	   "Jan-08-99",	       "19990108",
			       "990108",	   "1999.008",	       "J2451187",
			       "j 2451187",	   "y1999m01d08",      "8 Jan 1999",
			       "1999 Jan 8",	   "Fri Jan 8 99",     " on 1/8/99 ",
			       "1999-01-08 AD",	   "19990108T235959Z", "1999-008",
			       "1999/1/8 at 10:00"};
	const char *wrong[] = {"",	     "1999",	       "10:00",	     "Jan 8",
			       "08-Jan",     "1999-01-08-01",  "1999-01-",   "1999-W01-1",
			       "1999-Foo-8", "10:00 1999-1-8", "1999-1-8 +", "1999-01-08\x01"};
	for (size_t i = 0; i < ARRAY_LEN(right); i++)
		reads(PGT_DATE, right[i], "1999-01-08");
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		bad(PGT_DATE, wrong[i], "not a valid date");
	reads(PGT_DATE, "01/02/03", "2003-01-02");
	reads(PGT_DATE, "1/2/70", "1970-01-02");
	reads(PGT_DATE, "January 8, 99 BC", "0099-01-08 BC");
	reads(PGT_DATE, "epoch", "1970-01-01");
	good(PGT_DATE, "infinity", "7fffffff", "infinity");
	good(PGT_DATE, "-Infinity", "80000000", "-infinity");
	bad_slice(PGT_DATE, slice_of("1999-01-08\0", 11), "not a valid date");
}

static void test_days_that_are_not_there_are_out_of_range(void **state)
{
	const char *out[] = {"2023-02-29",    "1900-02-29",    "2024-04-31", "2024-13-01",
			     "2024-00-10",    "0000-01-01",    "13/13/2024", "99-Jan-08",
			     "5874898-01-01", "4714-11-23 BC", "1999-367"};
	for (size_t i = 0; i < ARRAY_LEN(out) - 1; i++)
		bad(PGT_DATE, out[i], "out of range for date");
	reads(PGT_DATE, "2000-02-29", "2000-02-29");
	good(PGT_DATE, "4714-11-24 BC", "ffda97a7", "4714-11-24 BC");
	good(PGT_DATE, "5874897-12-31", "7fda970c", "5874897-12-31");
	reads(PGT_TIMESTAMPTZ, "294276-12-31 23:59:59.999999", "294276-12-31 23:59:59.999999+00");
	bad(PGT_TIMESTAMPTZ, "294277-01-01", "out of range for timestamptz");
	bad(PGT_TIMESTAMPTZ, "2024-01-01 24:00:01", "out of range for timestamptz");
	bad(PGT_TIMESTAMPTZ, "2024-01-01 10:60", "out of range for timestamptz");
	bad(PGT_TIMESTAMPTZ, "2024-01-01 13:00 pm", "out of range for timestamptz");
	bad(PGT_TIMESTAMPTZ, "2024-01-01 10:00+16", "out of range for timestamptz");
}

static void test_times_of_day_and_offsets(void **state)
{
	static const struct {
		const char *text, *shown;
	} ROWS[] = {
		{"2024-02-29 24:00:00", "2024-03-01 00:00:00+00"},
		{"2024-02-29 23:59:60", "2024-03-01 00:00:00+00"},
		{"2024-02-29 allballs", "2024-02-29 00:00:00+00"},
		{"2024-02-29 12:00 am", "2024-02-29 00:00:00+00"},
		{"2024-02-29 01:30PM", "2024-02-29 13:30:00+00"},
		{"20240229T040506.5", "2024-02-29 04:05:06.5+00"},
		{"2024-02-29 040506-08", "2024-02-29 12:05:06+00"},
		{"2024-02-29 04:05+05:30", "2024-02-28 22:35:00+00"},
		{"2024-02-29 04:05-0330", "2024-02-29 07:35:00+00"},
		{"2024-02-29 04:05+01:02:03", "2024-02-29 03:02:57+00"},
		{"2024-02-29 04:05 EST", "2024-02-29 09:05:00+00"},
		{"2024-02-29 04:05 EST DST", "2024-02-29 08:05:00+00"},
		{"2024-07-01 04:05 America/New_York", "2024-07-01 08:05:00+00"},
		{"2024-07-01 04:05 EUROPE/berlin", "2024-07-01 02:05:00+00"},
		{"2500-07-01 04:05 Europe/Berlin", "2500-07-01 02:05:00+00"},
		/* skipped by the clocks, and shown twice by them */
		{"2024-03-31 02:30 Europe/Berlin", "2024-03-31 01:30:00+00"},
		{"2024-10-27 02:30 Europe/Berlin", "2024-10-27 01:30:00+00"},
		{"2012-06-01 MSK", "2012-05-31 20:00:00+00"},
		{"2024-06-01 xyz5abc", "2024-06-01 04:00:00+00"},
		{"epoch", "1970-01-01 00:00:00+00"},
		{"-infinity", "-infinity"},
		{"0044-03-15 12:00 BC", "0044-03-15 12:00:00+00 BC"},
		{"J2451187.5", "1999-01-08 12:00:00+00"},
	};
	for (size_t i = 0; i < ARRAY_LEN(ROWS); i++)
		reads(PGT_TIMESTAMPTZ, ROWS[i].text, ROWS[i].shown);
}

static void test_names_of_zones_stay_inside_the_database(void **state)
{
	const char *wrong[] = {"../../../etc/passwd",
			       "/etc/localtime",
			       "europe//berlin",
			       "europe/",
			       "us/./eastern",
			       "us/../us/eastern",
			       ".hidden/zone",
			       "europe",
			       "tzdata.zi",
			       "nowhere/at_all",
			       ""};
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		assert_null(pgt_zone_load(wrong[i]));
		char *text = rt_sprintf("2024-01-01 10:00 a%s", wrong[i]);
		bad(PGT_TIMESTAMPTZ, text, "not a valid timestamptz");
		free(text);
	}
	/* More names than are remembered. */
	for (int i = 0; i < 100; i++) {
		char *text = rt_sprintf("2024-01-01 10:00 xyz%d:%02d", i % 100, i % 60);
		char *shown = rt_sprintf("2024-01-%02d %02d:%02d:00+00", 1 + (10 + i) / 24,
					 (10 + i) % 24, i % 60);
		reads(PGT_TIMESTAMPTZ, text, shown);
		free(text);
		free(shown);
	}
}

static void test_dates_without_zone_are_read_in_the_given_one(void **state)
{
	struct pgt_zone *zone = pgt_zone_load("America/New_York");
	struct buf binary = BUF_INIT, out = BUF_INIT;
	struct rt_err err;
	assert_non_null(zone);
	assert_rc(pgt_from_text(PGT_TIMESTAMPTZ, slice_str("2024-07-01 10:00"), zone, &binary,
				&err),
		  err);
	struct pgt_type t = {PGT_TIMESTAMPTZ, false};
	assert_rc(pgt_to_text(t, buf_slice(&binary), &out, &err), err);
	assert_string_equal(buf_cstr(&out), "2024-07-01 14:00:00+00");
	buf_release(&binary);
	buf_release(&out);
	pgt_zone_free(zone);
	pgt_zone_free(NULL);
}

static void test_words_that_mean_the_present_are_refused(void **state)
{
	const char *words[] = {"now", "TODAY", "tomorrow 10:00", "Yesterday", "today+05"};
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		bad(PGT_DATE, words[i], "mean the present");
		bad(PGT_TIMESTAMPTZ, words[i], "mean the present");
	}
}

/* ---- order and sums ---- */

static struct slice value(enum pgt t, const char *text, struct buf *out)
{
	struct rt_err err;
	size_t at = out->len;
	/* Room first: slices into out must stay where they are. */
	buf_reserve(out, 4096);
	assert_rc(pgt_from_text(t, slice_str(text), NULL, out, &err), err);
	return slice_of(out->p + at, out->len - at);
}

static int order(enum pgt t, const char *a, const char *b)
{
	struct buf x = BUF_INIT, y = BUF_INIT;
	int c = pgt_compare(t, value(t, a, &x), value(t, b, &y));
	assert_int_equal((c < 0) - (c > 0), -((c > 0) - (c < 0)));
	buf_release(&x);
	buf_release(&y);
	return (c > 0) - (c < 0);
}

static void ascending(enum pgt t, const char *const *texts, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		for (size_t j = 0; j < n; j++)
			assert_int_equal(order(t, texts[i], texts[j]), (i > j) - (i < j));
	}
}

static void test_order_is_the_servers(void **state)
{
	const char *numerics[] = {"-inf",    "-1e40",	  "-10000.1", "-10000", "-1",  "-0.5",
				  "-1e-20",  "0",	  "1e-20",    "0.0001", "0.5", "1",
				  "1.00001", "9999.9999", "10000",    "1e40",	"inf", "nan"};
	const char *ints[] = {"-32768", "-1", "0", "1", "32767"};
	const char *texts[] = {"", "A", "B", "a", "a ", "aa", "b", "\xc3\xa9"};
	const char *bools[] = {"f", "t"};
	ascending(PGT_NUMERIC, numerics, ARRAY_LEN(numerics));
	ascending(PGT_INT2, ints, ARRAY_LEN(ints));
	ascending(PGT_INT4, ints, ARRAY_LEN(ints));
	ascending(PGT_INT8, ints, ARRAY_LEN(ints));
	ascending(PGT_TEXT, texts, ARRAY_LEN(texts));
	ascending(PGT_VARCHAR, texts, ARRAY_LEN(texts));
	ascending(PGT_BOOL, bools, ARRAY_LEN(bools));
	const char *moments[] = {"-infinity",  "0002-01-01 BC", "0001-01-01", "1999-12-31",
				 "2000-01-01", "2024-01-01",	"infinity"};
	ascending(PGT_DATE, moments, ARRAY_LEN(moments));
	ascending(PGT_TIMESTAMPTZ, moments, ARRAY_LEN(moments));
	assert_int_equal(order(PGT_NUMERIC, "1.0", "1.000"), 0);
	assert_int_equal(order(PGT_NUMERIC, "-0", "0.00"), 0);
}

static void sum(enum pgt t, const char *a, bool subtract, const char *b, const char *expected)
{
	struct buf x = BUF_INIT, y = BUF_INIT, z = BUF_INIT, text = BUF_INIT;
	struct rt_err err;
	struct slice left = value(t, a, &x), right = value(t, b, &y);
	buf_str(&z, "before");
	int rc = pgt_add(t, left, right, subtract, &z, &err);
	if (expected == NULL) {
		assert_int_equal(rc, ERR_PERMANENT);
		assert_says(err, "out of range for ");
		assert_int_equal(z.len, 6);
	} else {
		assert_rc(rc, err);
		assert_rc(pgt_to_text((struct pgt_type){t, false}, slice_of(z.p + 6, z.len - 6),
				      &text, &err),
			  err);
		assert_string_equal(buf_cstr(&text), expected);
	}
	buf_release(&x);
	buf_release(&y);
	buf_release(&z);
	buf_release(&text);
}

static void test_trap_39_sums_are_exact(void **state)
{
	struct buf total = BUF_INIT, tenth = BUF_INIT, next = BUF_INIT;
	struct rt_err err;
	struct slice step = value(PGT_NUMERIC, "0.1", &tenth);
	value(PGT_NUMERIC, "0", &total);
	for (int i = 0; i < 1000; i++) {
		buf_clear(&next);
		assert_rc(pgt_add(PGT_NUMERIC, buf_slice(&total), step, false, &next, &err), err);
		buf_clear(&total);
		buf_add_slice(&total, buf_slice(&next));
	}
	buf_clear(&next);
	struct pgt_type t = {PGT_NUMERIC, false};
	assert_rc(pgt_to_text(t, buf_slice(&total), &next, &err), err);
	assert_string_equal(buf_cstr(&next), "100.0");
	buf_release(&total);
	buf_release(&tenth);
	buf_release(&next);
	/* Beyond what a double holds. */
	sum(PGT_INT8, "9007199254740992", false, "1", "9007199254740993");
	sum(PGT_NUMERIC, "9007199254740992.01", false, "1", "9007199254740993.01");
	sum(PGT_INT8, "9223372036854775807", false, "1", NULL);
	sum(PGT_INT8, "-9223372036854775808", true, "1", NULL);
	sum(PGT_INT8, "0", true, "-9223372036854775808", NULL);
	sum(PGT_INT4, "2147483647", false, "1", NULL);
	sum(PGT_INT2, "-32768", true, "1", NULL);
	sum(PGT_INT2, "32767", true, "32767", "0");
}

static void test_numeric_sums_carry_and_borrow(void **state)
{
	sum(PGT_NUMERIC, "9999.9999", false, "0.0001", "10000.0000");
	sum(PGT_NUMERIC, "10000", true, "0.0001", "9999.9999");
	sum(PGT_NUMERIC, "0.0001", true, "10000", "-9999.9999");
	sum(PGT_NUMERIC, "1.50", true, "1.5", "0.00");
	sum(PGT_NUMERIC, "-1", false, "-2.5", "-3.5");
	sum(PGT_NUMERIC, "-1", true, "-2.5", "1.5");
	sum(PGT_NUMERIC, "0", false, "0.000", "0.000");
	sum(PGT_NUMERIC, "1e20", false, "1e-20", "100000000000000000000.00000000000000000001");
	sum(PGT_NUMERIC, "inf", false, "1", "Infinity");
	sum(PGT_NUMERIC, "inf", true, "inf", "NaN");
	sum(PGT_NUMERIC, "inf", true, "-inf", "Infinity");
	sum(PGT_NUMERIC, "1", true, "inf", "-Infinity");
	sum(PGT_NUMERIC, "nan", true, "1", "NaN");
	struct buf nines = BUF_INIT;
	for (int i = 0; i < 131072; i++)
		buf_u8(&nines, '9');
	sum(PGT_NUMERIC, buf_cstr(&nines), false, "1", NULL);
	buf_release(&nines);
}

/* ---- arrays ---- */

static void appended(enum pgt t, const char *const *elements, size_t n, struct buf *out)
{
	struct buf element = BUF_INIT, next = BUF_INIT;
	pgt_array_empty(t, out);
	for (size_t i = 0; i < n; i++) {
		buf_clear(&element);
		buf_clear(&next);
		struct slice e = {NULL, 0};
		if (elements[i] != NULL)
			e = value(t, elements[i], &element);
		pgt_array_append(t, buf_slice(out), e, &next);
		buf_clear(out);
		buf_add_slice(out, buf_slice(&next));
	}
	assert_int_equal(pgt_array_count(t, buf_slice(out)), n);
	buf_release(&element);
	buf_release(&next);
}

static void assert_array(enum pgt t, const struct buf *array, const char *hex, const char *shown)
{
	struct buf text = BUF_INIT;
	struct rt_err err;
	if (hex != NULL) {
		to_hex(buf_slice(array), &text);
		assert_string_equal(buf_cstr(&text), hex);
	}
	buf_clear(&text);
	assert_rc(pgt_to_text((struct pgt_type){t, true}, buf_slice(array), &text, &err), err);
	assert_string_equal(buf_cstr(&text), shown);
	buf_release(&text);
}

static void test_arrays_grow_and_shrink(void **state)
{
	struct buf a = BUF_INIT, b = BUF_INIT, element = BUF_INIT;
	struct slice null = {NULL, 0};
	pgt_array_empty(PGT_INT4, &a);
	assert_array(PGT_INT4, &a, "000000000000000000000017", "{}");
	assert_int_equal(pgt_array_count(PGT_INT4, buf_slice(&a)), 0);
	assert_int_equal(pgt_array_count(PGT_INT8, buf_slice(&a)), -1);
	buf_clear(&a);
	appended(PGT_INT4, (const char *[]){"1", NULL, "2", "1"}, 4, &a);
	assert_array(PGT_INT4, &a,
		     "0000000100000001000000170000000400000001"
		     "0000000400000001ffffffff00000004000000020000000400000001",
		     "{1,NULL,2,1}");
	struct slice one = value(PGT_INT4, "1", &element);
	assert_true(pgt_array_contains(PGT_INT4, buf_slice(&a), one));
	assert_true(pgt_array_contains(PGT_INT4, buf_slice(&a), null));
	pgt_array_remove(PGT_INT4, buf_slice(&a), one, &b);
	assert_array(PGT_INT4, &b, NULL, "{NULL,2}");
	assert_false(pgt_array_contains(PGT_INT4, buf_slice(&b), one));
	buf_clear(&a);
	pgt_array_remove(PGT_INT4, buf_slice(&b), null, &a);
	assert_array(PGT_INT4, &a, "00000001000000000000001700000001000000010000000400000002",
		     "{2}");
	assert_false(pgt_array_contains(PGT_INT4, buf_slice(&a), null));
	buf_clear(&b);
	buf_clear(&element);
	pgt_array_remove(PGT_INT4, buf_slice(&a), value(PGT_INT4, "2", &element), &b);
	assert_array(PGT_INT4, &b, "000000000000000000000017", "{}");
	buf_release(&a);
	buf_release(&b);
	buf_release(&element);
}

static void test_arrays_compare_by_value_and_quote(void **state)
{
	struct buf a = BUF_INIT, element = BUF_INIT, text = BUF_INIT;
	appended(PGT_NUMERIC, (const char *[]){"1.0", "2"}, 2, &a);
	assert_true(pgt_array_contains(PGT_NUMERIC, buf_slice(&a),
				       value(PGT_NUMERIC, "1.000", &element)));
	buf_clear(&a);
	appended(PGT_TEXT,
		 (const char *[]){"plain", "", "null", "NULLs", "a b", "a,b", "a\"b\\c", "{}",
				  NULL},
		 9, &a);
	assert_array(PGT_TEXT, &a, NULL,
		     "{plain,\"\",\"null\",NULLs,\"a b\",\"a,b\",\"a\\\"b\\\\c\",\"{}\",NULL}");
	buf_clear(&a);
	appended(PGT_BOOL, (const char *[]){"t", "f"}, 2, &a);
	assert_array(PGT_BOOL, &a, NULL, "{t,f}");
	/* Somebody's array may begin at another subscript. */
	be32_put(a.p + 16, 5);
	assert_array(PGT_BOOL, &a, NULL, "[5:6]={t,f}");
	buf_release(&a);
	buf_release(&element);
	buf_release(&text);
}

/* ---- binary from outside ---- */

static void test_binary_of_the_wrong_shape_is_refused(void **state)
{
	static const struct {
		struct pgt_type t;
		const char *bytes;
		size_t len;
	} WRONG[] = {
		{{PGT_BOOL, false}, "\2", 1},
		{{PGT_BOOL, false}, "", 0},
		{{PGT_INT2, false}, "\0", 1},
		{{PGT_INT8, false}, "\0\0\0\0\0\0\0\0\0", 9},
		{{PGT_UUID, false}, "0123456789abcde", 15},
		{{PGT_TEXT, false}, "\xff", 1},
		{{PGT_JSONB, false}, "", 0},
		{{PGT_JSONB, false}, "\2{}", 3},
		{{PGT_DATE, false}, "\0\0\0", 3},
		{{PGT_DATE, false}, "\x80\0\0\1", 4}, /* before 4714 BC */
		{{PGT_TIMESTAMPTZ, false}, "\0\0\0\0", 4},
		{{PGT_TIMESTAMPTZ, false}, "\x7f\xff\xff\xff\xff\xff\xff\xfe", 8},
		{{PGT_NUMERIC, false}, "", 0},
		{{PGT_NUMERIC, false}, "\0\1\0\0\0\0\0\0", 8},		/* a digit short */
		{{PGT_NUMERIC, false}, "\0\1\0\0\0\0\0\0\0\1\0", 11},	/* a byte left over */
		{{PGT_NUMERIC, false}, "\0\1\0\0\0\0\0\0\x27\x10", 10}, /* a digit of 10000 */
		{{PGT_NUMERIC, false}, "\0\1\0\0\0\0\0\0\0\0", 10},	/* a zero in front */
		{{PGT_NUMERIC, false}, "\0\1\0\0\0\1\0\0\0\1", 10},	/* no such sign */
		{{PGT_NUMERIC, false}, "\0\1\0\0\0\0\x40\0\0\1", 10},	/* display scale 16384 */
		{{PGT_NUMERIC, false}, "\0\0\0\0\x40\0\0\0", 8},	/* minus zero */
		{{PGT_INT2, true}, "\0\0\0\0\0\0\0\0\0\0\0\x17", 12},	/* elements of int4 */
		{{PGT_INT2, true}, "\0\0\0\2\0\0\0\0\0\0\0\x15", 12},	/* two dimensions */
		{{PGT_INT2, true}, "\0\0\0\1\0\0\0\0\0\0\0\x15\xff\xff\xff\xff\0\0\0\1", 20},
		{{PGT_INT2, true},
		 "\0\0\0\1\0\0\0\0\0\0\0\x15\0\0\0\1\0\0\0\1\x7f\xff\xff\xff",
		 24},
		{{PGT_INT2, true}, "\0\0\0\1\0\0\0\0\0\0\0\x15\0\0\0\1\0\0\0\1\0\0\0\1\0", 25},
	};
	for (size_t i = 0; i < ARRAY_LEN(WRONG); i++) {
		struct slice s = slice_of(WRONG[i].bytes, WRONG[i].len);
		struct buf out = BUF_INIT;
		struct rt_err err;
		assert_false(pgt_is_valid(WRONG[i].t, s));
		assert_int_equal(pgt_to_text(WRONG[i].t, s, &out, &err), ERR_PERMANENT);
		assert_says(err, pgt_name(WRONG[i].t));
		assert_int_equal(out.len, 0);
		buf_release(&out);
	}
}

static uint64_t next_random(uint64_t *seed)
{
	*seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *seed >> 33;
}

/* Whatever the bytes: no read outside of them, and what is called valid has a text. */
static void one_mutation(struct pgt_type t, struct slice seed_value, uint64_t *seed)
{
	size_t len = seed_value.len;
	if (next_random(seed) % 4 == 0)
		len = next_random(seed) % (len + 1);
	/* Of exactly this size, so that the sanitizer sees the first byte too many. */
	uint8_t *bytes = rt_malloc(len + (len == 0));
	memcpy(bytes, seed_value.p, len);
	for (uint64_t n = next_random(seed) % 4; n > 0 && len > 0; n--) {
		uint8_t extremes[] = {0, 1, 0x7f, 0x80, 0xff, (uint8_t)next_random(seed)};
		bytes[next_random(seed) % len] = extremes[next_random(seed) % sizeof(extremes)];
	}
	struct slice s = slice_of(bytes, len);
	struct buf out = BUF_INIT;
	struct rt_err err;
	bool valid = pgt_is_valid(t, s);
	assert_int_equal(pgt_to_text(t, s, &out, &err), valid ? RT_OK : ERR_PERMANENT);
	if (t.array)
		assert_true(!valid || pgt_array_count(t.base, s) >= 0);
	else if (valid && t.base != PGT_JSONB)
		assert_int_equal(pgt_compare(t.base, s, s), 0);
	buf_release(&out);
	free(bytes);
}

static void test_mutated_binary_never_reads_outside(void **state)
{
	static const char *const TEXTS[PGT_COUNT] = {
		[PGT_BOOL] = "t",
		[PGT_INT2] = "77",
		[PGT_INT4] = "-5",
		[PGT_INT8] = "123456789012",
		[PGT_NUMERIC] = "-123456789.000012345",
		[PGT_TEXT] = "gr\xc3\xbc\xc3\x9f dich \xf0\x9f\x92\xb6",
		[PGT_VARCHAR] = "a,b",
		[PGT_UUID] = "a0eebc999c0b4ef8bb6d6bb9bd380a11",
		[PGT_DATE] = "2024-02-29",
		[PGT_TIMESTAMPTZ] = "1066-10-14 09:00:00.5",
		[PGT_JSONB] = "{\"a\": [1, \"\xc3\xa9\"]}",
	};
	uint64_t seed = 20240229;
	for (int i = 0; i < PGT_COUNT; i++) {
		struct buf plain = BUF_INIT, array = BUF_INIT;
		value((enum pgt)i, TEXTS[i], &plain);
		appended((enum pgt)i, (const char *[]){TEXTS[i], NULL, TEXTS[i]}, 3, &array);
		for (int n = 0; n < 20000; n++) {
			one_mutation((struct pgt_type){(enum pgt)i, false}, buf_slice(&plain),
				     &seed);
			one_mutation((struct pgt_type){(enum pgt)i, true}, buf_slice(&array),
				     &seed);
		}
		buf_release(&plain);
		buf_release(&array);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names_and_oids_lead_back_to_the_type),
		cmocka_unit_test(test_bool_takes_beginnings_of_words),
		cmocka_unit_test(test_integers_to_their_last_value),
		cmocka_unit_test(test_numeric_keeps_value_and_display_scale),
		cmocka_unit_test(test_numeric_limits_are_the_servers),
		cmocka_unit_test(test_text_is_utf8_without_nul),
		cmocka_unit_test(test_uuid_in_every_spelling),
		cmocka_unit_test(test_jsonb_has_a_version_byte),
		cmocka_unit_test(test_usual_timestamps_round_to_microseconds),
		cmocka_unit_test(test_dates_in_every_spelling),
		cmocka_unit_test(test_days_that_are_not_there_are_out_of_range),
		cmocka_unit_test(test_times_of_day_and_offsets),
		cmocka_unit_test(test_names_of_zones_stay_inside_the_database),
		cmocka_unit_test(test_dates_without_zone_are_read_in_the_given_one),
		cmocka_unit_test(test_words_that_mean_the_present_are_refused),
		cmocka_unit_test(test_order_is_the_servers),
		cmocka_unit_test(test_trap_39_sums_are_exact),
		cmocka_unit_test(test_numeric_sums_carry_and_borrow),
		cmocka_unit_test(test_arrays_grow_and_shrink),
		cmocka_unit_test(test_arrays_compare_by_value_and_quote),
		cmocka_unit_test(test_binary_of_the_wrong_shape_is_refused),
		cmocka_unit_test(test_mutated_binary_never_reads_outside),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
