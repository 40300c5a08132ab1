/* The cache of rows: bounded, least recently used first out, the same as a plain table otherwise. */
#include "tests/unit/unit.h"

#include "transforms/rollup/cache.h"

static struct fold_row make_row(const char *id, int32_t version, const char *columns)
{
	return (struct fold_row){.id = slice_str(id),
				 .version = version,
				 .created_at_us = 7,
				 .modified_at_us = version,
				 .event_type = slice_str("e"),
				 .columns = slice_str(columns)};
}

static bool holds(struct cache *c, uint16_t rollup, const char *id)
{
	struct fold_row row;
	return cache_get(c, rollup, slice_str(id), &row);
}

static void put(struct cache *c, const char *id, int32_t version, const char *columns)
{
	struct fold_row row = make_row(id, version, columns);
	cache_put(c, 0, &row);
}

static void test_rows_are_copied_and_replaced(void **state)
{
	struct cache c;
	struct fold_row got;
	char columns[] = "abc";
	cache_init(&c, 1 << 20);
	put(&c, "x", 1, columns);
	columns[0] = '?';
	assert_true(cache_get(&c, 0, slice_str("x"), &got));
	assert_true(slice_is(got.columns, "abc") && got.version == 1 && got.created_at_us == 7);
	assert_false(holds(&c, 1, "x")); /* another rollup */
	assert_false(holds(&c, 0, "y"));
	put(&c, "x", 2, "a much longer row than the one before");
	assert_true(cache_get(&c, 0, slice_str("x"), &got));
	assert_true(slice_is(got.columns, "a much longer row than the one before"));
	put(&c, "x", 3, "");
	assert_true(cache_get(&c, 0, slice_str("x"), &got));
	assert_true(got.version == 3 && got.columns.len == 0 && slice_is(got.event_type, "e"));
	assert_int_equal(c.hits, 3);
	assert_int_equal(c.misses, 2);
	cache_release(&c);
}

static void test_a_row_may_be_put_back_from_the_cache_itself(void **state)
{
	struct cache c;
	struct fold_row row;
	cache_init(&c, 1 << 20);
	put(&c, "x", 1, "0123456789");
	for (int i = 2; i < 10; i++) {
		assert_true(cache_get(&c, 0, slice_str("x"), &row));
		row.version = i;
		row.columns = (struct slice){row.columns.p + 1, row.columns.len - 1};
		cache_put(&c, 0, &row);
	}
	assert_true(cache_get(&c, 0, slice_str("x"), &row));
	assert_true(slice_is(row.id, "x") && slice_is(row.columns, "89") && row.version == 9);
	cache_release(&c);
}

static void test_the_least_recently_used_go_first(void **state)
{
	struct cache c;
	cache_init(&c, 1 << 20);
	put(&c, "a", 1, "0123456789");
	const size_t one = cache_bytes(&c);
	cache_release(&c);
	cache_init(&c, 3 * one);
	put(&c, "a", 1, "0123456789");
	put(&c, "b", 1, "0123456789");
	put(&c, "c", 1, "0123456789");
	assert_true(holds(&c, 0, "a")); /* now b is the oldest */
	put(&c, "d", 1, "0123456789");
	assert_false(holds(&c, 0, "b"));
	assert_true(holds(&c, 0, "a") && holds(&c, 0, "c") && holds(&c, 0, "d"));
	assert_int_equal(cache_bytes(&c), 3 * one);
	cache_clear(&c);
	assert_int_equal(cache_bytes(&c), 0);
	assert_false(holds(&c, 0, "a"));
	put(&c, "d", 1, "0123456789");
	assert_true(holds(&c, 0, "d"));
	cache_release(&c);
}

/* A row larger than all the cache may hold stands alone: never the old version in its place. */
static void test_a_row_that_is_too_large_stands_alone(void **state)
{
	struct cache c;
	struct fold_row row;
	char big[1000];
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	cache_init(&c, 600);
	put(&c, "a", 1, "small");
	put(&c, "b", 1, "small");
	put(&c, "a", 2, big);
	assert_true(!cache_get(&c, 0, slice_str("a"), &row) || row.version == 2);
	assert_false(holds(&c, 0, "b"));
	put(&c, "b", 2, "small");
	assert_true(cache_bytes(&c) <= 600);
	cache_release(&c);
}

/* Against a plain table of versions: a hit is always the latest version put. */
static void test_never_an_older_version(void **state)
{
	enum { IDS = 500, ROLLUPS = 3, LIMIT = 60000 };
	static int32_t latest[ROLLUPS][IDS];
	struct cache c;
	uint32_t seed = 1;
	cache_init(&c, LIMIT);
	memset(latest, 0, sizeof(latest));
	for (int i = 0; i < 200000; i++) {
		seed = seed * 1664525u + 1013904223u;
		const uint32_t n = (seed >> 8) % IDS, r = (seed >> 20) % ROLLUPS;
		char id[16], columns[200];
		struct fold_row row;
		snprintf(id, sizeof(id), "id-%u", n);
		if (cache_get(&c, (uint16_t)r, slice_str(id), &row))
			assert_int_equal(row.version, latest[r][n]);
		snprintf(columns, sizeof(columns), "%*d", (int)(seed >> 24) % 150 + 1, i);
		row = make_row(id, ++latest[r][n], columns);
		cache_put(&c, (uint16_t)r, &row);
		assert_true(cache_bytes(&c) <= LIMIT);
		assert_true(holds(&c, (uint16_t)r, id));
	}
	assert_true(c.hits > 200000 && c.misses > 0); /* half of the look-ups are sure */
	cache_release(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows_are_copied_and_replaced),
		cmocka_unit_test(test_a_row_may_be_put_back_from_the_cache_itself),
		cmocka_unit_test(test_the_least_recently_used_go_first),
		cmocka_unit_test(test_a_row_that_is_too_large_stands_alone),
		cmocka_unit_test(test_never_an_older_version),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
