/* Mirrors without a database: coalescing of a batch's changes into steps, drift, and the SQL. */
#include "tests/unit/unit.h"

#include "apply/stream/mirror_batch.h"
#include "apply/stream/mirror_write.h"
#include "proto/pg/types.h"

static const struct schema_column columns[] = {{"id", true, OID_INT4, -1},
					       {"body", false, OID_TEXT, -1},
					       {"n", false, OID_NUMERIC, 655366}};
static const struct schema_land land[] = {
	{.kind = LAND_AS_IS, .type = "integer", .number = 1},
	{.kind = LAND_AS_IS, .type = "text", .number = 2},
	{.kind = LAND_AS_IS, .type = "numeric", .number = 3},
};
static const struct schema table = {.relation_oid = 7,
				    .nspname = "public",
				    .relname = "t",
				    .identity = 'd',
				    .count = 3,
				    .column = columns,
				    .land = land,
				    .files = "100"};

struct fixture {
	struct mirror item;
	struct mirror_set set;
	struct mirror_batch batch;
	struct arena arena;
	char said[2000];
};

static int set_up(void **state)
{
	struct fixture *f = rt_calloc(1, sizeof(*f));
	struct rt_err err;
	f->item = (struct mirror){.nspname = "public",
				  .relname = "t",
				  .source = "public.t",
				  .target = "\"raw\".\"t\"",
				  .state = LANDED_LIVE};
	f->set = (struct mirror_set){.count = 1, .item = &f->item};
	arena_init(&f->set.arena, 4096);
	arena_init(&f->arena, 4096);
	if (mirror_shape_new(&f->set, &table, &f->item.shape, &err) != 0)
		return -1;
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	mirror_batch_release(&f->batch);
	arena_release(&f->arena);
	mirror_release(&f->set);
	free(f);
	return 0;
}

/* "1 text 5": values by spaces; ~ NULL, ! unchanged. */
static struct tuple row(struct fixture *f, const char *text)
{
	struct value *v = arena_alloc(&f->arena, 3 * sizeof(*v));
	char *at = arena_strdup(&f->arena, text), *save = NULL;
	for (int i = 0; i < 3; i++) {
		char *word = strtok_r(i == 0 ? at : NULL, " ", &save);
		enum value_kind kind = word[0] == '~'	? VALUE_NULL
				       : word[0] == '!' ? VALUE_UNCHANGED
							: VALUE_TEXT;
		v[i] = (struct value){.kind = kind};
		if (kind == VALUE_TEXT) {
			v[i].p = (const uint8_t *)word;
			v[i].len = (uint32_t)strlen(word);
		}
	}
	return (struct tuple){3, v};
}

static void add(struct fixture *f, enum mirror_op_kind kind, const char *old, const char *new)
{
	struct mirror_op op = {
		.kind = kind, .shape = f->item.shape, .old_kind = old != NULL ? 'K' : 0};
	if (old != NULL)
		op.old_row = row(f, old);
	if (new != NULL)
		op.new_row = row(f, new);
	mirror_batch_add(&f->batch, &op);
}

static void say_row(struct fixture *f, const struct tuple *t, uint16_t count)
{
	for (uint16_t i = 0; i < RT_MIN(t->count, count); i++) {
		size_t n = strlen(f->said);
		const struct value *v = &t->value[i];
		snprintf(f->said + n, sizeof(f->said) - n, " %.*s",
			 v->kind == VALUE_TEXT ? (int)v->len : 1,
			 v->kind == VALUE_NULL	      ? "~"
			 : v->kind == VALUE_UNCHANGED ? "!"
						      : (const char *)v->p);
	}
}

/* The steps in words: "delete 1; insert 1 a 5; " */
static const char *steps(struct fixture *f)
{
	static const char *const names[] = {[MIRROR_PREPARE] = "prepare",
					    [MIRROR_CLEAR] = "clear",
					    [MIRROR_DELETE] = "delete",
					    [MIRROR_DELETE_MANY] = "many",
					    [MIRROR_UPDATE] = "update",
					    [MIRROR_INSERT] = "insert",
					    [MIRROR_COPY] = "copy",
					    [MIRROR_DELETE_EXACT] = "delete_exact",
					    [MIRROR_UPDATE_EXACT] = "update_exact",
					    [MIRROR_AGAIN] = "again",
					    [MIRROR_RESHAPE] = "reshape",
					    [MIRROR_PARK] = "park"};
	f->said[0] = '\0';
	mirror_batch_plan(&f->batch, &f->set, &f->arena);
	for (uint32_t i = 0; i < f->batch.step_count; i += mirror_step_size(&f->batch.step[i])) {
		const struct mirror_step *s = &f->batch.step[i];
		if (s->kind == MIRROR_PREPARE)
			continue;
		size_t n = strlen(f->said);
		snprintf(f->said + n, sizeof(f->said) - n, "%s%s", n > 0 ? "; " : "",
			 names[s->kind]);
		if (s->kind == MIRROR_UPDATE)
			say_row(f, &s->old, 1);
		say_row(f, &s->row, s->kind == MIRROR_DELETE || s->kind == MIRROR_AGAIN ? 1 : 3);
	}
	mirror_batch_reset(&f->batch);
	return f->said;
}

static void test_of_a_row_only_what_becomes_of_it_counts(void **state)
{
	struct fixture *f = *state;
	add(f, MIRROR_OP_INSERT, NULL, "1 a 1");
	add(f, MIRROR_OP_UPDATE, NULL, "1 b 2");
	add(f, MIRROR_OP_UPDATE, NULL, "2 c 3");
	add(f, MIRROR_OP_INSERT, NULL, "3 d 4");
	add(f, MIRROR_OP_DELETE, "3 ~ ~", NULL);
	add(f, MIRROR_OP_DELETE, "4 ~ ~", NULL);
	assert_string_equal(steps(f), "delete 2; delete 4; insert 1 b 2; insert 2 c 3");
}

static void test_trap_12_keys_that_swap_are_deleted_first(void **state)
{
	struct fixture *f = *state;
	add(f, MIRROR_OP_UPDATE, "1 ~ ~", "9 a 1");
	add(f, MIRROR_OP_UPDATE, "2 ~ ~", "1 b 2");
	add(f, MIRROR_OP_UPDATE, "9 ~ ~", "2 a 1");
	assert_string_equal(steps(f), "delete 1; delete 2; insert 1 b 2; insert 2 a 1");
}

static void test_trap_16_unchanged_values_stay_or_come_from_the_batch(void **state)
{
	struct fixture *f = *state;
	add(f, MIRROR_OP_UPDATE, NULL, "1 ! 5");
	add(f, MIRROR_OP_INSERT, NULL, "2 new 1");
	add(f, MIRROR_OP_UPDATE, NULL, "2 ! 2");
	add(f, MIRROR_OP_UPDATE, NULL, "3 ! 1");
	add(f, MIRROR_OP_UPDATE, NULL, "3 whole 2");
	add(f, MIRROR_OP_UPDATE, NULL, "3 ! 3");
	assert_string_equal(steps(f), "delete 3; update 1 1 ! 5; insert 2 new 2; insert 3 whole 3");
	add(f, MIRROR_OP_UPDATE, NULL, "1 ! 5");
	add(f, MIRROR_OP_DELETE, "1 ~ ~", NULL);
	assert_string_equal(steps(f), "delete 1");
}

static void test_trap_16_a_key_changes_and_an_unchanged_value_moves_along(void **state)
{
	struct fixture *f = *state;
	add(f, MIRROR_OP_UPDATE, NULL, "1 ! 5");
	add(f, MIRROR_OP_UPDATE, "1 ~ ~", "2 ! 6");
	add(f, MIRROR_OP_UPDATE, NULL, "2 ! 7");
	assert_string_equal(steps(f), "update 1 1 ! 5; update 1 2 ! 6; update 2 2 ! 7");
}

static void test_a_row_that_cannot_be_parks_its_mirror_behind_what_came_before(void **state)
{
	struct fixture *f = *state;
	add(f, MIRROR_OP_INSERT, NULL, "1 a 1");
	add(f, MIRROR_OP_DELETE, "2 ~ ~", NULL);
	add(f, MIRROR_OP_UPDATE, NULL, "2 ! 1");
	add(f, MIRROR_OP_INSERT, NULL, "5 a 1");
	assert_string_equal(steps(f), "delete 2; insert 1 a 1; park");
	assert_int_equal(f->item.state, LANDED_PARKED);
}

static void test_truncate_voids_what_came_before_it(void **state)
{
	struct fixture *f = *state;
	add(f, MIRROR_OP_INSERT, NULL, "1 a 1");
	add(f, MIRROR_OP_TRUNCATE, NULL, NULL);
	add(f, MIRROR_OP_INSERT, NULL, "1 b 2");
	assert_string_equal(steps(f), "clear; insert 1 b 2");
}

static void test_a_replayed_insert_replaces(void **state)
{
	struct fixture *f = *state;
	f->item.overlaps = true;
	add(f, MIRROR_OP_INSERT, NULL, "1 a 1");
	assert_string_equal(steps(f), "delete 1; insert 1 a 1");
}

static void test_a_replayed_row_that_moves_without_a_value_is_asked_for_again(void **state)
{
	struct fixture *f = *state;
	f->item.overlaps = true;
	add(f, MIRROR_OP_UPDATE, NULL, "1 a 5");
	add(f, MIRROR_OP_UPDATE, "1 ~ ~", "2 ! 6"); /* its value is in the batch */
	add(f, MIRROR_OP_UPDATE, "3 ~ ~", "4 ! 6");
	add(f, MIRROR_OP_UPDATE, NULL, "4 ! 7");
	add(f, MIRROR_OP_UPDATE, "4 ~ ~", "5 b 8");
	assert_string_equal(steps(f),
			    "delete 1; delete 2; insert 2 a 6; delete 3; delete 4; again 4; "
			    "delete 4; delete 5; insert 5 b 8");
}

static void test_with_identity_full_a_replay_goes_by_the_key(void **state)
{
	struct fixture *f = *state;
	struct schema full = table;
	struct rt_err err;
	full.identity = 'f';
	f->item.overlaps = true;
	assert_rc(mirror_shape_new(&f->set, &full, &f->item.shape, &err), err);
	add(f, MIRROR_OP_UPDATE, "1 a 1", "2 ! 2");
	f->batch.op[0].old_kind = 'O';
	add(f, MIRROR_OP_DELETE, "3 c 2", NULL);
	f->batch.op[1].old_kind = 'O';
	assert_string_equal(steps(f), "delete 1; delete 2; delete 3; insert 2 a 2");
}

static void test_many_rows_go_by_copy_and_many_keys_by_one_delete(void **state)
{
	struct fixture *f = *state;
	char text[40];
	for (int i = 0; i < 60; i++) {
		snprintf(text, sizeof(text), "%d a %d", i, i);
		add(f, MIRROR_OP_UPDATE, NULL, text);
	}
	mirror_batch_plan(&f->batch, &f->set, &f->arena);
	const struct mirror_step *s =
		&f->batch.step[2]; /* behind what prepares INSERT and DELETE */
	assert_int_equal(s->kind, MIRROR_DELETE_MANY);
	assert_int_equal(s->count, 60);
	assert_int_equal(s[60].kind, MIRROR_COPY);
	assert_int_equal(s[60].count, 60);
	assert_false(s[60].binary);
	assert_int_equal(f->batch.step_count, 122);
}

static void test_without_a_key_each_change_stands_alone(void **state)
{
	struct fixture *f = *state;
	struct schema full = table;
	struct rt_err err;
	full.identity = 'f';
	assert_rc(mirror_shape_new(&f->set, &full, &f->item.shape, &err), err);
	add(f, MIRROR_OP_INSERT, NULL, "1 a 1");
	add(f, MIRROR_OP_UPDATE, "1 a 1", "1 ! 2");
	f->batch.op[1].old_kind = 'O';
	add(f, MIRROR_OP_DELETE, "1 a 2", NULL);
	f->batch.op[2].old_kind = 'O';
	assert_string_equal(steps(f), "insert 1 a 1; update_exact 1 a 2; delete_exact");
}

static void test_what_is_behind_a_transaction_is_cut_or_moved(void **state)
{
	struct fixture *f = *state;
	struct mirror_batch next = {0};
	add(f, MIRROR_OP_INSERT, NULL, "1 a 1");
	add(f, MIRROR_OP_INSERT, NULL, "2 a 1");
	add(f, MIRROR_OP_INSERT, NULL, "3 a 1");
	f->batch.op[1].transaction = 1;
	f->batch.op[2].transaction = 2;
	mirror_batch_split(&f->batch, 1, &next, &f->arena);
	assert_int_equal(f->batch.count, 2);
	assert_int_equal(next.count, 1);
	assert_int_equal(next.op[0].transaction, 1);
	mirror_batch_cut(&f->batch, 1);
	assert_string_equal(steps(f), "insert 1 a 1");
	mirror_batch_release(&next);
}

/* ---- drift ---- */

static enum mirror_drift compare(struct fixture *f, const struct schema *now, char *why)
{
	struct mirror_shape *ignored;
	return mirror_compare(&f->set, &f->item, now, &ignored, why, 300);
}

static void test_trap_13_a_shape_is_followed_or_parks(void **state)
{
	struct fixture *f = *state;
	char why[300];
	struct schema_column c[4];
	struct schema_land l[4];
	struct schema now = table;
	memcpy(c, columns, sizeof(columns));
	memcpy(l, land, sizeof(land));
	c[3] = (struct schema_column){"added", false, OID_TEXT, -1};
	l[3] = (struct schema_land){.kind = LAND_AS_IS, .type = "text", .number = 4};
	now.column = c;
	now.land = l;
	assert_int_equal(compare(f, &now, why), MIRROR_SAME);
	c[2].typmod += 65536; /* numeric(10,2) to (11,2) */
	assert_int_equal(compare(f, &now, why), MIRROR_SAME);
	c[2].typmod += 1; /* to (11,3) */
	assert_int_equal(compare(f, &now, why), MIRROR_PARKS);
	c[2].typmod = columns[2].typmod;
	now.count = 4;
	assert_int_equal(compare(f, &now, why), MIRROR_ADDS);
	now.files = "101";
	assert_int_equal(compare(f, &now, why), MIRROR_PARKS);
	f->item.empty = true;
	assert_int_equal(compare(f, &now, why), MIRROR_ADDS);
	f->item.empty = false;
	now.files = "~100";
	assert_int_equal(compare(f, &now, why), MIRROR_ADDS);
	l[3].kind = LAND_UNKNOWN; /* trap 20: nobody knows what that OID was */
	assert_int_equal(compare(f, &now, why), MIRROR_PARKS);
	now.count = 3;
	now.relation_oid++;
	assert_int_equal(compare(f, &now, why), MIRROR_PARKS);
	now.relation_oid--;
	c[1].name = "renamed";
	assert_int_equal(compare(f, &now, why), MIRROR_PARKS);
	assert_string_equal(why, "column body is gone (dropped or renamed)");
	now.land = NULL;
	assert_int_equal(compare(f, &now, why), MIRROR_PARKS);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(test_of_a_row_only_what_becomes_of_it_counts),
		T(test_trap_12_keys_that_swap_are_deleted_first),
		T(test_trap_16_unchanged_values_stay_or_come_from_the_batch),
		T(test_trap_16_a_key_changes_and_an_unchanged_value_moves_along),
		T(test_a_row_that_cannot_be_parks_its_mirror_behind_what_came_before),
		T(test_truncate_voids_what_came_before_it),
		T(test_a_replayed_insert_replaces),
		T(test_a_replayed_row_that_moves_without_a_value_is_asked_for_again),
		T(test_with_identity_full_a_replay_goes_by_the_key),
		T(test_many_rows_go_by_copy_and_many_keys_by_one_delete),
		T(test_without_a_key_each_change_stands_alone),
		T(test_what_is_behind_a_transaction_is_cut_or_moved),
		T(test_trap_13_a_shape_is_followed_or_parks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
