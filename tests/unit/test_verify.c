/* What verify says of two rows: their order, whether they are equal, and the names of columns that differ. */
#include "tests/unit/unit.h"

#include "apply/stream/verify_compare.h"
#include "apply/stream/verify_keys.h"
#include "apply/stream/verify_mirror_rows.h"

static const char yaml[] =
	"language: 1\nrollup: t\nsource: public.t\nevents:\n  made: [n, s]\n"
	"columns:\n  n: {type: int4, set: [made]}\n  s: {type: text, set: [made]}\n";

struct pair {
	struct arena arena;
	struct rollup *r;
	struct fold_row a, b;
	char told[256]; /* "column column " */
};

static int set_up(void **state)
{
	struct pair *p = rt_calloc(1, sizeof(*p));
	struct rt_err err;
	arena_init(&p->arena, 4096);
	assert_rc(rollup_parse(&p->arena, "t.yaml", yaml, strlen(yaml), &p->r, &err), err);
	static const uint8_t id[16] = {7};
	/* n = 5, s = "x" */
	static const uint8_t columns[] = {0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 1, 'x'};
	p->a = (struct fold_row){.id = slice_of(id, sizeof(id)),
				 .version = 3,
				 .created_at_us = 10,
				 .modified_at_us = 20,
				 .event_type = slice_str("made"),
				 .columns = slice_of(columns, sizeof(columns))};
	p->b = p->a;
	*state = p;
	return 0;
}

static int tear_down(void **state)
{
	struct pair *p = *state;
	rollup_release(p->r);
	arena_release(&p->arena);
	free(p);
	return 0;
}

static void remember(void *ctx, const char *column)
{
	struct pair *p = ctx;
	size_t n = strlen(p->told);
	snprintf(p->told + n, sizeof(p->told) - n, "%s ", column);
}

static void assert_told(struct pair *p, int count, const char *names)
{
	p->told[0] = '\0';
	assert_int_equal(verify_columns(p->r, &p->a, &p->b, remember, p), count);
	assert_string_equal(p->told, names);
	assert_int_equal(verify_equal(&p->a, &p->b), count == 0);
}

static void test_equal_rows_have_no_difference(void **state)
{
	struct pair *p = *state;
	uint8_t copy[13];
	memcpy(copy, p->a.columns.p, sizeof(copy));
	p->b.columns.p = copy; /* other memory */
	assert_told(p, 0, "");
	assert_int_equal(verify_order(p->r, &p->a, &p->b), 0);
}

static void test_each_column_before_the_declared_ones_is_named(void **state)
{
	struct pair *p = *state;
	p->b.version = 4;
	p->b.created_at_us++;
	p->b.modified_at_us++;
	p->b.event_type = slice_str("changed");
	assert_told(p, 4, "version created_at modified_at event_type ");
}

static void test_declared_columns_are_named(void **state)
{
	struct pair *p = *state;
	static const uint8_t other_n[] = {0, 0, 0, 4, 0, 0, 0, 6, 0, 0, 0, 1, 'x'};
	static const uint8_t longer_s[] = {0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 2, 'x', 'y'};
	static const uint8_t both[] = {0, 0, 0, 4, 0, 0, 0, 6, 0, 0, 0, 0};
	p->b.columns = slice_of(other_n, sizeof(other_n));
	assert_told(p, 1, "n ");
	p->b.columns = slice_of(longer_s, sizeof(longer_s));
	assert_told(p, 1, "s ");
	p->b.columns = slice_of(both, sizeof(both));
	assert_told(p, 2, "n s ");
}

static void test_null_is_not_the_empty_text(void **state)
{
	struct pair *p = *state;
	static const uint8_t empty[] = {0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 0};
	static const uint8_t null[] = {0, 0, 0, 4, 0, 0, 0, 5, 255, 255, 255, 255};
	p->a.columns = slice_of(empty, sizeof(empty));
	p->b.columns = slice_of(null, sizeof(null));
	assert_told(p, 1, "s ");
}

static void test_a_row_of_other_columns_is_told_as_a_whole(void **state)
{
	struct pair *p = *state;
	static const uint8_t one[] = {0, 0, 0, 4, 0, 0, 0, 5};
	static const uint8_t cut[] = {0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 9, 'x'};
	p->b.columns = slice_of(one, sizeof(one));
	assert_told(p, 1, "(all) ");
	p->b.columns = slice_of(cut, sizeof(cut));
	assert_told(p, 1, "(all) ");
}

static void test_the_order_is_of_id_then_version(void **state)
{
	struct pair *p = *state;
	static const uint8_t greater[16] = {7, 0, 1};
	p->b.version = 2;
	assert_true(verify_order(p->r, &p->a, &p->b) > 0);
	assert_true(verify_order(p->r, &p->b, &p->a) < 0);
	p->b.id = slice_of(greater, sizeof(greater));
	assert_true(verify_order(p->r, &p->a, &p->b) < 0);
}

/* ---- mirrors ---- */

static void test_keys_keep_their_numbers(void **state)
{
	struct verify_keys k;
	bool added;
	verify_keys_init(&k);
	for (uint32_t round = 0; round < 2; round++) {
		for (uint32_t i = 0; i < 5000;
		     i++) { /* past several growths, and again behind a reset */
			uint32_t key = i * 7919;
			assert_int_equal(verify_keys_find(&k, slice_of(&key, sizeof(key))), -1);
			assert_int_equal(verify_keys_add(&k, slice_of(&key, sizeof(key)), &added),
					 i);
			assert_true(added);
		}
		for (uint32_t i = 0; i < 5000; i++) {
			uint32_t key = i * 7919;
			assert_int_equal(verify_keys_add(&k, slice_of(&key, sizeof(key)), &added),
					 i);
			assert_false(added);
			assert_int_equal(verify_keys_find(&k, slice_of(&key, sizeof(key))), i);
			assert_memory_equal(k.key[i].p, &key, sizeof(key));
		}
		verify_keys_reset(&k);
		assert_int_equal(k.count, 0);
	}
	verify_keys_release(&k);
}

/* Two keys, "7" and "ab"; version "1"; columns NULL, "" and "x". */
static const uint8_t mirror_bytes[] = {0,   6,	 0, 0, 0, 1, '7', 0,   0,   0,	 2,
				       'a', 'b', 0, 0, 0, 1, '1', 255, 255, 255, 255,
				       0,   0,	 0, 0, 0, 0, 0,	  1,   'x'};

static void test_a_mirrors_row_is_taken_whole_or_not_at_all(void **state)
{
	struct mirror_row row;
	struct arena a;
	struct rd in = rd_of(slice_of(mirror_bytes, sizeof(mirror_bytes)));
	arena_init(&a, 256);
	assert_true(mirror_row_take(&in, 2, 3, &row));
	assert_int_equal(row.key.len, 11);
	assert_true(slice_is(row.version, "1"));
	assert_int_equal(row.columns.len, 13);
	assert_string_equal(mirror_key_text(row.key, &a), "(7, ab)");
	assert_string_equal(mirror_key_text(slice_of(row.key.p, 5), &a), "7");
	assert_string_equal(mirror_key_text(slice_of("\0\0\0\003a\nb", 7), &a), "a?b");
	for (size_t n = 0; n < sizeof(mirror_bytes); n++) {
		uint8_t *cut = rt_malloc(n + 1); /* its end is where a sanitizer looks */
		memcpy(cut, mirror_bytes, n);
		in = rd_of(slice_of(cut, n));
		assert_false(mirror_row_take(&in, 2, 3, &row));
		free(cut);
	}
	in = rd_of(slice_of(mirror_bytes, sizeof(mirror_bytes)));
	assert_false(mirror_row_take(&in, 2, 4, &row));
	in = rd_of(slice_of(mirror_bytes, sizeof(mirror_bytes)));
	assert_false(mirror_row_take(&in, 3, 2, &row)); /* a version that is NULL */
	arena_release(&a);
}

int main(void)
{
#define ROW_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		ROW_TEST(test_equal_rows_have_no_difference),
		ROW_TEST(test_each_column_before_the_declared_ones_is_named),
		ROW_TEST(test_declared_columns_are_named),
		ROW_TEST(test_null_is_not_the_empty_text),
		ROW_TEST(test_a_row_of_other_columns_is_told_as_a_whole),
		ROW_TEST(test_the_order_is_of_id_then_version),
		cmocka_unit_test(test_keys_keep_their_numbers),
		cmocka_unit_test(test_a_mirrors_row_is_taken_whole_or_not_at_all),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
