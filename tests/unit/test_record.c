/* Records that no writer of ours makes: each thing that can be wrong in one is refused, and named. */
#include "tests/unit/unit.h"

#include "proto/base/arena.h"
#include "proto/change.pb-c.h"
#include "proto/frame.h"
#include "proto/record.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define BYTES(literal) ((ProtobufCBinaryData){sizeof(literal) - 1, (uint8_t *)(literal)})

static uint8_t packed[4 << 20];

static struct slice pack(const ProtobufCMessage *m)
{
	assert_true(protobuf_c_message_get_packed_size(m) <= sizeof(packed));
	return (struct slice){packed, protobuf_c_message_pack(m, packed)};
}

/* ---- schemas ---- */

static bool schema_is_read(Rolag__V1__Schema *m)
{
	struct schema s;
	struct arena a;
	arena_init(&a, 4096);
	bool ok = record_read_schema(pack(&m->base), &a, &s);
	arena_release(&a);
	return ok;
}

/* A schema of one column, as a writer makes it. */
static void good_schema(Rolag__V1__Schema *m, Rolag__V1__Column *c)
{
	static Rolag__V1__Column *columns[1];
	static const struct schema_column column = {"id", true, 23, -1};
	struct schema s = {0, 7, "public", "t", 'd', 1, &column, NULL, NULL};
	rolag__v1__column__init(c);
	c->name = BYTES("id");
	c->key = 1;
	c->type_oid = 23;
	c->typmod = -1;
	rolag__v1__schema__init(m);
	columns[0] = c;
	m->hash = schema_hash(&s);
	m->relation_oid = 7;
	m->nspname = BYTES("public");
	m->relname = BYTES("t");
	m->identity = 'd';
	m->n_column = 1;
	m->column = columns;
}

static void test_record_schema_that_is_none_is_refused(void **state)
{
	Rolag__V1__Schema m;
	Rolag__V1__Column c;
	struct schema s;
	struct arena a;
	arena_init(&a, 4096);
	assert_false(record_read_schema(slice_str("\x0a"), &a, &s));
	arena_release(&a);
	good_schema(&m, &c);
	assert_true(schema_is_read(&m));
	m.identity = 0x80;
	assert_false(schema_is_read(&m));
	good_schema(&m, &c);
	m.nspname = BYTES("pub\0lic");
	assert_false(schema_is_read(&m));
	good_schema(&m, &c);
	m.relname = BYTES("\0");
	assert_false(schema_is_read(&m));
	good_schema(&m, &c);
	c.name = BYTES("i\0d");
	assert_false(schema_is_read(&m));
	good_schema(&m, &c);
	m.hash++;
	assert_false(schema_is_read(&m));
}

static void test_record_schema_of_too_many_columns_is_refused(void **state)
{
	enum { COUNT = CHANGE_COLUMNS_MAX + 1 };
	Rolag__V1__Schema m;
	Rolag__V1__Column c, **columns = calloc(COUNT, sizeof(*columns));
	good_schema(&m, &c);
	for (int i = 0; i < COUNT; i++)
		columns[i] = &c;
	m.column = columns;
	m.n_column = COUNT;
	assert_false(schema_is_read(&m));
	free(columns);
}

/* ---- changes ---- */

static const struct schema_column two[] = {{"a", true, 23, -1}, {"b", false, 25, -1}};
static const struct schema relation = {1, 7, "public", "t", 'd', 2, two, NULL, NULL};

static const struct schema *find(void *ctx, uint64_t hash)
{
	return hash == relation.hash ? &relation : NULL;
}

/* An update whose old row is there whole, as a writer makes it. */
struct update {
	Rolag__V1__Change m;
	Rolag__V1__Tuple new_row, old_row;
	uint32_t lengths[3];
};

static void good_update(struct update *u)
{
	*u = (struct update){.lengths = {1, 2, 0}};
	rolag__v1__change__init(&u->m);
	rolag__v1__tuple__init(&u->new_row);
	rolag__v1__tuple__init(&u->old_row);
	u->new_row.kinds = BYTES("tb");
	u->new_row.n_lengths = 2;
	u->new_row.lengths = u->lengths;
	u->new_row.data = BYTES("xyz");
	u->old_row = u->new_row;
	u->m.kind = ROLAG__V1__CHANGE__KIND__UPDATE;
	u->m.schema = relation.hash;
	u->m.old_kind = 'O';
	u->m.new_row = &u->new_row;
	u->m.old_row = &u->old_row;
}

static int read_change(struct update *u, struct rt_err *err)
{
	struct change c;
	struct arena a;
	arena_init(&a, 4096);
	int rc = record_read_change(pack(&u->m.base), &a, find, NULL, &c, err);
	arena_release(&a);
	return rc;
}

static void refused(struct update *u, const char *text)
{
	struct rt_err err = {0};
	assert_int_equal(read_change(u, &err), ERR_PERMANENT);
	assert_says(err, text);
}

static void test_record_row_that_does_not_fit_its_schema_is_refused(void **state)
{
	struct update u;
	struct rt_err err = {0};
	good_update(&u);
	assert_rc(read_change(&u, &err), err);
	u.m.schema = 2;
	refused(&u, "schema 0000000000000002 is not there");
	good_update(&u);
	u.m.old_kind = 'X';
	refused(&u, "unknown kind 88");
	good_update(&u);
	u.new_row.kinds = BYTES("t");
	refused(&u, "does not fit");
	good_update(&u);
	u.new_row.kinds = BYTES("tz");
	refused(&u, "does not fit");
	good_update(&u);
	u.new_row.n_lengths = 1; /* b has none */
	refused(&u, "does not fit");
	good_update(&u);
	u.new_row.n_lengths = 3; /* one is nobody's */
	refused(&u, "does not fit");
	good_update(&u);
	u.lengths[1] = 3; /* more than there is */
	refused(&u, "does not fit");
	good_update(&u);
	u.lengths[1] = 1; /* less than there is */
	refused(&u, "does not fit");
	good_update(&u);
	u.old_row.kinds = BYTES("ttt");
	refused(&u, "does not fit");
	good_update(&u);
	u.m.new_row = NULL;
	refused(&u, "does not fit");
}

static void test_record_truncate_and_message_that_are_wrong_are_refused(void **state)
{
	struct update u;
	uint64_t hashes[] = {relation.hash, 2};
	good_update(&u);
	rolag__v1__change__init(&u.m);
	u.m.kind = ROLAG__V1__CHANGE__KIND__TRUNCATE;
	u.m.truncated = hashes;
	u.m.n_truncated = 2;
	refused(&u, "TRUNCATE's schema 0000000000000002 is not there");
	rolag__v1__change__init(&u.m);
	refused(&u, "unknown kind 0");
	rolag__v1__change__init(&u.m);
	u.m.kind = ROLAG__V1__CHANGE__KIND__MESSAGE;
	u.m.prefix = BYTES("ro\0lag");
	refused(&u, "prefix has a NUL");
}

static void test_record_old_row_that_does_not_fit_is_not_written(void **state)
{
	struct value v[3] = {{.kind = VALUE_NULL}, {.kind = VALUE_NULL}, {.kind = VALUE_NULL}};
	struct change c = {.kind = CHANGE_UPDATE,
			   .schema = &relation,
			   .old_kind = 'O',
			   .new_row = {2, v},
			   .old_row = {3, v}};
	struct record_scratch scratch = {0};
	struct buf out = BUF_INIT;
	struct rt_err err = {0};
	assert_int_equal(record_add_change(&out, &c, &scratch, &err), ERR_PERMANENT);
	assert_says(err, "has 3 columns, not 2");
	buf_release(&out);
}

/* ---- frames ---- */

/* What is compressed is shorter than it was, and by no more than lz4 can: a frame that says otherwise is forged. */
static void test_frame_of_impossible_lengths_is_refused(void **state)
{
	enum { AT_RAW = 20, AT_MAGIC = 8 };
	static const uint8_t zeros[1000];
	const uint64_t salt = 5;
	struct buf out = BUF_INIT;
	struct frame f = {.kind = FRAME_TRANSACTIONS}, got;
	size_t need;
	frame_encode(&out, &f, (struct slice){zeros, sizeof(zeros)}, salt);
	assert_int_equal(frame_decode(buf_slice(&out), salt, &got, &need), FRAME_VALID);
	assert_true((got.flags & FRAME_LZ4) != 0);
	const uint32_t raw[] = {(uint32_t)got.stored.len, FRAME_RAW_MAX};
	for (size_t i = 0; i < 2; i++) {
		be32_put(out.p + AT_RAW, raw[i]);
		be64_put(out.p, XXH3_64bits_withSeed(out.p + AT_MAGIC, out.len - AT_MAGIC, salt));
		assert_int_equal(frame_decode(buf_slice(&out), salt, &got, &need), FRAME_INVALID);
	}
	buf_release(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_record_schema_that_is_none_is_refused),
		cmocka_unit_test(test_record_schema_of_too_many_columns_is_refused),
		cmocka_unit_test(test_record_row_that_does_not_fit_its_schema_is_refused),
		cmocka_unit_test(test_record_truncate_and_message_that_are_wrong_are_refused),
		cmocka_unit_test(test_record_old_row_that_does_not_fit_is_not_written),
		cmocka_unit_test(test_frame_of_impossible_lengths_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
