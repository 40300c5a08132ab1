/* test_relcache: the shape of a row is the last RELATION before it. */
#include "tests/unit/unit.h"

#include "cdc/capture/relcache.h"

static struct schema table(uint32_t oid, const char *name, const struct schema_column *column,
			   uint16_t count)
{
	return (struct schema){
		.relation_oid = oid,
		.nspname = "public",
		.relname = name,
		.identity = 'd',
		.count = count,
		.column = column,
	};
}

static const struct schema_column one[] = {{"id", true, 23, -1}};
static const struct schema_column two[] = {{"id", true, 23, -1}, {"note", false, 25, -1}};
static const struct schema_column renamed[] = {{"id", true, 23, -1}, {"remark", false, 25, -1}};

static void test_trap_13_a_second_relation_message_replaces_the_first(void **state)
{
	struct relcache c;
	struct rt_err err;
	const struct schema *s, *old;
	rel_init(&c);
	struct schema a = table(1, "t", two, 2), b = table(1, "t", renamed, 2);
	rel_put(&c, &a);
	assert_rc(rel_get(&c, 1, 2, &old, &err), err);
	assert_string_equal(old->column[1].name, "note");
	rel_put(&c, &b);
	assert_rc(rel_get(&c, 1, 2, &s, &err), err);
	assert_string_equal(s->column[1].name, "remark");
	assert_int_not_equal(s->hash, old->hash);
	assert_string_equal(old->column[1].name, "note"); /* rows before it keep theirs */
	rel_put(&c, &a); /* and back again: the same schema as before */
	assert_rc(rel_get(&c, 1, 2, &s, &err), err);
	assert_ptr_equal(s, old);
	rel_release(&c);
}

static void test_schemas_are_owned_and_equal_ones_are_one(void **state)
{
	struct relcache c;
	struct rt_err err;
	const struct schema *s, *again;
	char name[] = "orders", column[] = "id";
	struct schema_column columns[] = {{column, true, 20, -1}};
	struct schema from = table(5, name, columns, 1);
	rel_init(&c);
	rel_put(&c, &from);
	memset(name, 'x', 3);
	memset(column, 'x', 2);
	columns[0].type_oid = 0;
	assert_rc(rel_get(&c, 5, -1, &s, &err), err);
	assert_string_equal(s->relname, "orders");
	assert_string_equal(s->column[0].name, "id");
	assert_int_equal(s->column[0].type_oid, 20);
	assert_int_equal(s->hash, schema_hash(s));
	struct schema_column same[] = {{"id", true, 20, -1}};
	from = table(5, "orders", same, 1);
	rel_put(&c, &from);
	assert_rc(rel_get(&c, 5, 1, &again, &err), err);
	assert_ptr_equal(s, again);
	rel_release(&c);
}

static void test_rows_that_fit_no_relation_are_refused(void **state)
{
	struct relcache c;
	struct rt_err err = {0};
	const struct schema *s = NULL;
	struct schema a = table(1, "t", one, 1);
	rel_init(&c);
	assert_int_equal(rel_get(&c, 1, 1, &s, &err), ERR_PERMANENT);
	assert_says(err, "no RELATION message");
	rel_put(&c, &a);
	assert_int_equal(rel_get(&c, 1, 2, &s, &err), ERR_PERMANENT);
	assert_says(err, "public.t with 2 values, though it has 1");
	rel_clear(&c); /* a new connection: the OID must be announced again */
	assert_int_equal(rel_get(&c, 1, 1, &s, &err), ERR_PERMANENT);
	assert_null(s);
	rel_release(&c);
	rel_release(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_trap_13_a_second_relation_message_replaces_the_first),
		cmocka_unit_test(test_schemas_are_owned_and_equal_ones_are_one),
		cmocka_unit_test(test_rows_that_fit_no_relation_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
