/* What a terminal shows: colour or not, lines that fit, sparks. */
#include "tests/unit/unit.h"

#include "cdc/commands/bar.h"
#include "cdc/commands/spark.h"
#include "cdc/commands/term.h"

static void test_color_is_for_terminals_unless_somebody_says_otherwise(void **state)
{
	enum term_color c;
	assert_true(term_color_wanted(TERM_COLOR_AUTO, true, NULL, "xterm"));
	assert_true(
		term_color_wanted(TERM_COLOR_AUTO, true, "", "xterm")); /* as no-color.org has it */
	assert_false(term_color_wanted(TERM_COLOR_AUTO, true, "0", "xterm"));
	assert_false(term_color_wanted(TERM_COLOR_AUTO, true, NULL, "dumb"));
	assert_false(term_color_wanted(TERM_COLOR_AUTO, true, NULL, NULL));
	assert_false(term_color_wanted(TERM_COLOR_AUTO, false, NULL, "xterm"));
	assert_true(term_color_wanted(TERM_COLOR_ALWAYS, false, "1", "dumb"));
	assert_false(term_color_wanted(TERM_COLOR_NEVER, true, NULL, "xterm"));
	assert_true(term_color_parse(NULL, &c) && c == TERM_COLOR_AUTO);
	assert_true(term_color_parse("auto", &c) && c == TERM_COLOR_AUTO);
	assert_true(term_color_parse("always", &c) && c == TERM_COLOR_ALWAYS);
	assert_true(term_color_parse("never", &c) && c == TERM_COLOR_NEVER);
	assert_false(term_color_parse("", &c));
	assert_false(term_color_parse("Always", &c));
}

static void test_the_encoding_is_the_first_variable_with_text(void **state)
{
	assert_true(term_locale_is_utf8(NULL, NULL, "de_DE.UTF-8"));
	assert_true(term_locale_is_utf8("", "", "C.utf8"));
	assert_true(term_locale_is_utf8("C.UTF-8", "C", "C"));
	assert_false(term_locale_is_utf8("C", "C.UTF-8", "C.UTF-8"));
	assert_false(term_locale_is_utf8(NULL, "de_DE.ISO-8859-1", "C.UTF-8"));
	assert_false(term_locale_is_utf8(NULL, NULL, NULL));
}

static void test_ink_is_nothing_without_color(void **state)
{
	assert_string_equal(term_ink(false, TERM_BAD), "");
	assert_string_equal(term_ink_end(false), "");
	assert_string_equal(term_ink(true, TERM_BAD), "\033[31m");
	assert_string_equal(term_ink(true, TERM_PLAIN), "");
}

static void test_text_from_outside_brings_no_control_character(void **state)
{
	struct buf b = BUF_INIT;
	term_add_clean(&b, "a\033[2Jb\nc\x7f"
			   "d ü");
	assert_string_equal(buf_cstr(&b), "a [2Jb c d ü");
	buf_release(&b);
}

/* text cut to so many columns is wanted. */
static void fits(const char *text, unsigned columns, bool utf8, const char *wanted)
{
	struct buf b = BUF_INIT;
	term_fit(&b, slice_str(text), columns, utf8);
	assert_string_equal(buf_cstr(&b), wanted);
	assert_true(term_columns(buf_slice(&b)) <= columns);
	buf_release(&b);
}

static void test_a_line_is_cut_to_its_columns(void **state)
{
	fits("", 0, true, "");
	fits("abc", 0, true, "");
	fits("abc", 1, true, "…");
	fits("abc", 2, true, "a…");
	fits("abc", 3, true, "abc");
	fits("abcd", 3, false, "ab~");
	fits("größe", 5, true, "größe");
	fits("größer", 5, true, "größ…");
	fits("ab\xff\xe2\x96", 5, true, "ab\xff\xe2\x96"); /* no UTF-8: a column each */
	fits("日本語", 6, true, "日本語");
	fits("日本語", 5, true, "日本…");
	fits("日本語", 4, true, "日…"); /* half a character is none */
	fits("e\xcc\x81"
	     "e",
	     2, true,
	     "e\xcc\x81"
	     "e");
	/* Escapes have no width, and an ink is ended also where its end is cut off. */
	fits("\033[31mabcdef\033[0m", 6, true, "\033[31mabcdef\033[0m");
	fits("\033[31mabcdef\033[0mgh", 4, true, "\033[31mabc…\033[0m");
}

static void wraps(const char *text, unsigned columns, unsigned indent, const char *wanted)
{
	struct buf b = BUF_INIT;
	term_wrap(&b, slice_str(text), columns, indent);
	assert_string_equal(buf_cstr(&b), wanted);
	buf_release(&b);
}

static void test_a_sentence_breaks_between_words(void **state)
{
	wraps("", 10, 0, "");
	wraps("one two", 7, 0, "one two");
	wraps("one two", 6, 0, "one\ntwo");
	wraps("one two three", 9, 0, "one two\nthree");
	wraps("one two three", 9, 2, "one two\n  three");
	wraps("  lab  one two", 10, 4, "  lab  one\n    two");
	wraps("averylongword b", 5, 0, "averylongword\nb"); /* what has no blank is left whole */
	wraps("one two", 4, 9, "one\ntwo");		    /* no indent that leaves no room */
	wraps("\033[32mone two\033[0m", 7, 0, "\033[32mone two\033[0m");
	wraps("\033[32mone two\033[0m", 6, 0, "\033[32mone\ntwo\033[0m");
}

static void draws(const struct spark *s, size_t width, bool utf8, const char *wanted)
{
	struct buf b = BUF_INIT;
	spark_draw(s, width, utf8, &b);
	assert_string_equal(buf_cstr(&b), wanted);
	buf_release(&b);
}

static void test_sparks_show_the_last_values_by_their_maximum(void **state)
{
	static struct spark s;
	s = (struct spark){0};
	draws(&s, 3, true, "   ");
	assert_true(spark_max(&s, 3) == 0);
	spark_add(&s, 0);
	draws(&s, 3, true, "  ▁"); /* nothing but zeros: no division */
	for (int i = 1; i <= 7; i++)
		spark_add(&s, i * 100);
	draws(&s, 8, true, "▁▂▃▄▅▆▇█");
	draws(&s, 8, false, "_.-=+*%#");
	draws(&s, 10, true, "  ▁▂▃▄▅▆▇█");
	spark_add(&s, -1); /* not known */
	spark_add(&s, 350);
	draws(&s, 4, true, "▇█ ▅");
	assert_true(spark_max(&s, 4) == 700);
	assert_true(spark_max(&s, 1) == 350); /* of what is shown, not of what was */
	draws(&s, 1, true, "█");
	draws(&s, 0, true, "");
}

static void test_sparks_forget_what_is_long_ago(void **state)
{
	static struct spark s;
	s = (struct spark){0};
	spark_add(&s, 1000000);
	for (int i = 0; i < SPARK_SAMPLES; i++)
		spark_add(&s, 1);
	assert_true(spark_max(&s, SPARK_SAMPLES) == 1);
	assert_true(spark_max(&s, SPARK_SAMPLES * 2) == 1);
	spark_add(&s, 2);
	draws(&s, 3, false, "++#");
}

/* ---- bars ---- */

#define SECOND INT64_C(1000000)

static void bar_is(const struct bar_look *v, unsigned columns, bool utf8, const char *wanted)
{
	struct buf b = BUF_INIT;
	bar_draw(v, columns, utf8, &b);
	assert_string_equal(buf_cstr(&b), wanted);
	assert_true(term_columns(buf_slice(&b)) <= columns);
	buf_release(&b);
}

static void text_is(const struct bar_look *v, const char *wanted)
{
	struct buf b = BUF_INIT;
	bar_text(v, &b);
	assert_string_equal(buf_cstr(&b), wanted);
	buf_release(&b);
}

static void test_a_bar_says_how_far_how_fast_and_how_long(void **state)
{
	struct bar_look v = {.what = "verify", .unit = "rows", .done = 500, .total = 2000};
	bar_is(&v, 60, true, "verify  ███░░░░░░░░░   25 %  500/2000 rows");
	bar_is(&v, 60, false, "verify  ###.........   25 %  500/2000 rows");
	v.rate = 100;
	bar_is(&v, 60, false, "verify  ###.........   25 %  500/2000 rows  100/s  15 s left");
	text_is(&v, "verify: 25 %  500/2000 rows  100/s  15 s left");
	v.rate = 0.5; /* too slow to be shown, and yet it will end */
	text_is(&v, "verify: 25 %  500/2000 rows  50 min left");
	v.rate = 100;
	v.note = "core_x_rollup";
	bar_is(&v, 80, false,
	       "verify  ####............   25 %  500/2000 rows  100/s  15 s left  core_x_rollup");
	bar_is(&v, 70, false,
	       "verify  ###...........   25 %  500/2000 rows  100/s  15 s left  core_~");
	text_is(&v, "verify: 25 %  500/2000 rows  100/s  15 s left  core_x_rollup");
	v.note = "a\033[2Jb\n";
	text_is(&v, "verify: 25 %  500/2000 rows  100/s  15 s left  a [2Jb ");
}

static void test_a_bar_fits_any_width(void **state)
{
	struct bar_look v = {.what = "verify",
			     .unit = "rows",
			     .done = 500,
			     .total = 2000,
			     .rate = 100,
			     .note = "core_größe_rollup"};
	struct buf b = BUF_INIT;
	for (unsigned columns = 0; columns < 300; columns++) {
		buf_clear(&b);
		bar_draw(&v, columns, true, &b);
		assert_true(term_columns(buf_slice(&b)) <= columns);
	}
	buf_release(&b);
	v.note = NULL;
	bar_is(&v, 46, false, "verify   25 %  500/2000 rows  100/s  15 s left"); /* no room */
	bar_is(&v, 20, false, "verify   25 %  500/~");
	bar_is(&v, 300, false,
	       "verify  #######.......................   25 %  500/2000 rows  100/s  15 s left");
}

static void test_a_bar_ends_at_its_end(void **state)
{
	struct bar_look v = {.what = "x", .unit = "files", .total = 3, .rate = 1};
	bar_is(&v, 50, false, "x  ..........    0 %  0/3 files  1/s  3.0 s left");
	v.done = 3;
	bar_is(&v, 50, false, "x  ##########  100 %  3/3 files  1/s");
	v.done = 4; /* an estimate, and it goes on */
	bar_is(&v, 50, false, "x  #########.   99 %  4/4 files  1/s");
}

static void test_a_bar_without_a_total_goes_to_and_fro(void **state)
{
	struct bar_look v = {.what = "x", .unit = "rows"};
	bar_is(&v, 30, false, "x  ###.....  ");
	v.elapsed_us = 5 * SECOND / 10;
	bar_is(&v, 30, false, "x  .....###  ");
	v.elapsed_us = 6 * SECOND / 10;
	bar_is(&v, 30, false, "x  ....###.  ");
	v.elapsed_us = 12 * SECOND;
	v.done = 7;
	v.rate = 3;
	bar_is(&v, 40, false, "x  ###.....  7 rows  3/s  12 s");
	text_is(&v, "x: 7 rows  3/s  12 s");
}

static void test_a_bar_of_bytes_and_of_numbers_that_are_too_large(void **state)
{
	struct bar_look v = {.what = "x", .done = 5 << 20, .total = 40 << 20, .rate = 1 << 20};
	text_is(&v, "x: 12 %  5 MB/40 MB  1 MB/s  35 s left");
	v.done = UINT64_MAX - 1;
	v.total = UINT64_MAX;
	v.rate = 1e-300;
	struct buf b = BUF_INIT;
	bar_draw(&v, 80, true, &b);
	buf_clear(&b);
	v.done = 1;
	bar_draw(&v, 80, true, &b); /* more time than there is */
	assert_non_null(strstr(buf_cstr(&b), " left"));
	buf_release(&b);
}

static void test_the_rate_is_that_of_the_last_seconds(void **state)
{
	static struct bar_meter m;
	m = (struct bar_meter){0};
	assert_true(bar_rate(&m, 10 * SECOND, 1000) == 0); /* what was done before is no rate */
	assert_true(bar_rate(&m, 10 * SECOND + 1000, 1100) == 0);
	assert_true(bar_rate(&m, 11 * SECOND, 1100) == 100);
	/* A minute at 100/s, then it goes ten times as fast. */
	uint64_t done = 1100;
	int64_t now = 11 * SECOND;
	for (int i = 0; i < 240; i++)
		bar_rate(&m, now += SECOND / 4, done += 25);
	double before = bar_rate(&m, now, done);
	assert_true(before > 99 && before < 101);
	for (int i = 0; i < 40; i++)
		bar_rate(&m, now += SECOND / 4, done += 250);
	double after = bar_rate(&m, now, done);
	assert_true(after > 990 && after < 1010);
	/* It stands still: the rate goes to nothing, it does not stay. */
	for (int i = 0; i < 40; i++)
		bar_rate(&m, now += SECOND / 4, done);
	assert_true(bar_rate(&m, now, done) == 0);
	/* Less than before: another count, no negative rate. */
	assert_true(bar_rate(&m, now += SECOND, 10) == 0);
	assert_true(bar_rate(&m, now += SECOND, 30) == 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_color_is_for_terminals_unless_somebody_says_otherwise),
		cmocka_unit_test(test_the_encoding_is_the_first_variable_with_text),
		cmocka_unit_test(test_ink_is_nothing_without_color),
		cmocka_unit_test(test_text_from_outside_brings_no_control_character),
		cmocka_unit_test(test_a_line_is_cut_to_its_columns),
		cmocka_unit_test(test_a_sentence_breaks_between_words),
		cmocka_unit_test(test_sparks_show_the_last_values_by_their_maximum),
		cmocka_unit_test(test_sparks_forget_what_is_long_ago),
		cmocka_unit_test(test_a_bar_says_how_far_how_fast_and_how_long),
		cmocka_unit_test(test_a_bar_fits_any_width),
		cmocka_unit_test(test_a_bar_ends_at_its_end),
		cmocka_unit_test(test_a_bar_without_a_total_goes_to_and_fro),
		cmocka_unit_test(test_a_bar_of_bytes_and_of_numbers_that_are_too_large),
		cmocka_unit_test(test_the_rate_is_that_of_the_last_seconds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
