/* Frames and records: bytes to struct and back, and nothing but what was written. */
#include "tests/unit/spool_data.h"

#include "proto/frame.h"
#include "proto/record.h"

#define SALT UINT64_C(0x1122334455667788)

static const struct frame transactions = {
	.kind = FRAME_TRANSACTIONS, .lsn = {0x16B3D48}, .synced_bytes = 4711};

static const struct schema *find_schema(void *ctx, uint64_t hash)
{
	const struct schema *s = ctx;
	return s->hash == hash ? s : NULL;
}

static void test_frame_round_trip_with_and_without_compression(void **state)
{
	struct buf out = BUF_INIT, scratch = BUF_INIT, raw = BUF_INIT;
	struct frame f;
	struct slice payload;
	size_t need;
	unsigned x = 1;
	for (size_t len = 0; len < 5000; len = len * 2 + 1) {
		for (int random = 0; random < 2; random++) {
			buf_clear(&raw);
			for (size_t i = 0; i < len; i++)
				buf_u8(&raw,
				       random ? (uint8_t)((x = x * 1664525u + 1013904223u) >> 24)
					      : 'a');
			buf_clear(&out);
			frame_encode(&out, &transactions, buf_slice(&raw), SALT);
			assert_int_equal(frame_decode(buf_slice(&out), SALT, &f, &need),
					 FRAME_VALID);
			assert_int_equal(f.kind, FRAME_TRANSACTIONS);
			assert_int_equal(f.lsn.v, 0x16B3D48);
			assert_int_equal(f.synced_bytes, 4711);
			assert_int_equal(f.bytes, out.len);
			assert_int_equal((f.flags & FRAME_LZ4) != 0, !random && len >= 64);
			assert_true(out.len <= FRAME_HEADER_BYTES + len);
			assert_true(frame_payload(&f, &scratch, &payload));
			assert_true(slice_eq(payload, buf_slice(&raw)));
		}
	}
	buf_release(&out);
	buf_release(&scratch);
	buf_release(&raw);
}

static void test_frame_every_flipped_bit_and_every_cut_is_seen(void **state)
{
	struct buf out = BUF_INIT;
	struct frame f;
	size_t need;
	char text[300];
	memset(text, 'x', sizeof(text));
	snprintf(text, sizeof(text), "some bytes, then many of the same");
	frame_encode(&out, &transactions, slice_of(text, sizeof(text)), SALT);
	for (size_t bit = 0; bit < out.len * 8; bit++) {
		out.p[bit / 8] ^= (uint8_t)(1u << bit % 8);
		enum frame_state s = frame_decode(buf_slice(&out), SALT, &f, &need);
		assert_true(s == FRAME_INVALID || s == FRAME_SHORT);
		out.p[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	for (size_t len = 0; len < out.len; len++) {
		assert_int_equal(frame_decode(slice_of(out.p, len), SALT, &f, &need), FRAME_SHORT);
		assert_true(need > len && need <= out.len);
	}
	assert_int_equal(frame_decode(buf_slice(&out), SALT + 1, &f, &need), FRAME_INVALID);
	buf_release(&out);
}

static void test_frame_of_a_newer_program_is_told_from_damage(void **state)
{
	struct buf out = BUF_INIT;
	struct frame f = {.kind = 6};
	struct frame got;
	size_t need;
	frame_encode(&out, &f, slice_str("chunk"), SALT);
	assert_int_equal(frame_decode(buf_slice(&out), SALT, &got, &need), FRAME_NEWER);
	buf_clear(&out);
	f.flags = FRAME_SKIPPABLE;
	frame_encode(&out, &f, slice_str("chunk"), SALT);
	assert_int_equal(frame_decode(buf_slice(&out), SALT, &got, &need), FRAME_VALID);
	assert_int_equal(got.kind, 6);
	buf_clear(&out);
	f = (struct frame){.kind = FRAME_PIECE, .flags = 0x0100};
	frame_encode(&out, &f, slice_str("piece"), SALT);
	assert_int_equal(frame_decode(buf_slice(&out), SALT, &got, &need), FRAME_NEWER);
	buf_release(&out);
}

static struct change add_and_read(const struct change *c, const struct schema *s, struct arena *a)
{
	static struct record_scratch scratch;
	struct buf out = BUF_INIT;
	struct rt_err err;
	struct change got;
	struct slice field;
	uint32_t number;
	assert_rc(record_add_change(&out, c, &scratch, &err), err);
	struct rd r = rd_of(buf_slice(&out));
	assert_true(record_next_field(&r, &number, &field));
	assert_int_equal(number, TRANSACTION_CHANGE);
	assert_true(rd_finish(&r));
	assert_rc(record_read_change(field, a, find_schema, (void *)(uintptr_t)s, &got, &err), err);
	buf_release(&out);
	record_scratch_release(&scratch);
	memset(&scratch, 0, sizeof(scratch));
	return got;
}

static void test_record_widest_row_and_longest_value(void **state)
{
	struct arena a;
	arena_init(&a, 1 << 20);
	static struct schema_column column[CHANGE_COLUMNS_MAX];
	static struct value v[CHANGE_COLUMNS_MAX];
	static const enum value_kind kinds[] = {VALUE_NULL, VALUE_UNCHANGED, VALUE_TEXT,
						VALUE_BINARY};
	struct schema s = {.nspname = "", .relname = "wide", .identity = 'n', .column = column};
	const size_t megabyte = 1 << 20;
	uint8_t *big = rt_calloc(1, megabyte); /* NUL bytes */
	big[megabyte - 1] = 0xFF;
	s.count = CHANGE_COLUMNS_MAX;
	for (unsigned i = 0; i < CHANGE_COLUMNS_MAX; i++) {
		char *name = arena_printf(&a, "column_%u", i);
		column[i] = (struct schema_column){name, i % 3 == 0, i, (int32_t)i - 1};
		v[i] = data_value(kinds[i % 4], "\0\xFFtext", i % 4 < 2 ? 0 : i % 7);
	}
	v[3] = data_value(VALUE_BINARY, big, megabyte);
	s.hash = schema_hash(&s);
	struct change c = {.kind = CHANGE_UPDATE,
			   .lsn = {UINT64_MAX},
			   .schema = &s,
			   .old_kind = 'O',
			   .old_row = {CHANGE_COLUMNS_MAX, v},
			   .new_row = {CHANGE_COLUMNS_MAX, v}};
	struct change got = add_and_read(&c, &s, &a);
	assert_true(data_change_equal(&got, &c));
	assert_non_null(got.new_row.value[2].p); /* also where it is empty */

	/* The schema itself. */
	struct buf out = BUF_INIT;
	struct schema back;
	struct slice field;
	uint32_t number;
	record_add_schema(&out, &s);
	struct rd r = rd_of(buf_slice(&out));
	assert_true(record_next_field(&r, &number, &field));
	assert_true(record_read_schema(field, &a, &back));
	assert_true(data_schema_equal(&back, &s));
	buf_release(&out);
	free(big);
	arena_release(&a);
}

static void test_record_relation_without_columns(void **state)
{
	struct arena a;
	arena_init(&a, 4096);
	struct schema s = {.nspname = "public", .relname = "none", .identity = 'd'};
	s.hash = schema_hash(&s);
	struct change c = {.kind = CHANGE_INSERT, .schema = &s};
	struct change got = add_and_read(&c, &s, &a);
	assert_true(data_change_equal(&got, &c));
	arena_release(&a);
}

static void test_record_refuses_a_row_that_does_not_fit_its_schema(void **state)
{
	static struct record_scratch scratch;
	struct rt_err err;
	struct buf out = BUF_INIT;
	struct value v[5];
	struct change c = data_event(v, 1, "{}");
	c.new_row.count = 4;
	assert_int_equal(record_add_change(&out, &c, &scratch, &err), ERR_PERMANENT);
	assert_says(err, "public.core_deposit_events");
	assert_int_equal(out.len, 0);
	v[3].len = UINT32_MAX; /* never read: refused by its length */
	c.new_row.count = 5;
	assert_int_equal(record_add_change(&out, &c, &scratch, &err), ERR_PERMANENT);
	assert_says(err, "larger than");
	assert_int_equal(out.len, 0);
	record_scratch_release(&scratch);
}

/* Whatever the bytes are, reading ends in a change or an error, never outside of the input. */
static void test_record_reading_survives_any_byte(void **state)
{
	static struct record_scratch scratch;
	struct rt_err err;
	struct buf out = BUF_INIT;
	struct arena a;
	struct value v[5];
	struct change c = data_event(v, 1, "{\"a\": 1}"), got;
	unsigned refused = 0;
	arena_init(&a, 64 << 10);
	assert_rc(record_add_change(&out, &c, &scratch, &err), err);
	for (size_t i = 0; i < out.len; i++) {
		uint8_t was = out.p[i];
		for (unsigned b = 0; b < 256; b++) {
			out.p[i] = (uint8_t)b;
			/* An exact copy, so that the sanitizer sees a read past it. */
			uint8_t *copy = rt_malloc(out.len);
			memcpy(copy, out.p, out.len);
			struct rd r = rd_of(slice_of(copy, out.len));
			struct slice field;
			uint32_t number;
			while (record_next_field(&r, &number, &field))
				refused += record_read_change(field, &a, find_schema, &data_events,
							      &got, &err) != 0;
			free(copy);
			arena_reset(&a);
		}
		out.p[i] = was;
	}
	assert_true(refused > 1000);
	buf_release(&out);
	record_scratch_release(&scratch);
	arena_release(&a);
}

/* On disk for years: these numbers may not change. */
static void test_schema_hash_is_what_the_format_says(void **state)
{
	assert_true(data_plain.hash == UINT64_C(0xe266bd41e1edba09));
	assert_true(data_events.hash == UINT64_C(0xbb9accc7b79c3a39));
	struct schema s = data_plain;
	s.identity = 'd';
	assert_true(schema_hash(&s) != data_plain.hash);
	s = data_plain;
	s.relation_oid++;
	assert_true(schema_hash(&s) != data_plain.hash);
	struct schema_column column[2] = {data_plain_column[0], data_plain_column[1]};
	s = data_plain;
	s.column = column;
	assert_true(schema_hash(&s) == data_plain.hash);
	column[1].typmod = 7;
	assert_true(schema_hash(&s) != data_plain.hash);
	column[1] = data_plain_column[1];
	column[1].key = true;
	assert_true(schema_hash(&s) != data_plain.hash);
}

/* A schema of a mirrored relation is read as it was written; one without land (an old spool) is, too. */
static void test_record_land_of_a_mirrored_relation(void **state)
{
	static const struct schema_land land[] = {
		{.kind = LAND_AS_IS, .type = "integer", .number = 3},
		{.kind = LAND_ENUM,
		 .type = "text[]",
		 .element_oid = 25,
		 .missing = "",
		 .number = 7},
	};
	struct schema s = data_plain, got;
	struct buf b = BUF_INIT;
	struct arena a;
	uint32_t number;
	struct slice field;
	arena_init(&a, 1024);
	s.land = land;
	s.files = "16384";
	s.hash = schema_hash(&s);
	assert_true(s.hash != data_plain.hash);
	record_add_schema(&b, &s);
	struct rd r = rd_of(buf_slice(&b));
	assert_true(record_next_field(&r, &number, &field));
	assert_true(record_read_schema(field, &a, &got));
	assert_true(data_schema_equal(&got, &s));
	assert_string_equal(got.files, "16384");
	for (int i = 0; i < 2; i++) {
		assert_int_equal(got.land[i].kind, land[i].kind);
		assert_string_equal(got.land[i].type, land[i].type);
		assert_int_equal(got.land[i].element_oid, land[i].element_oid);
		assert_int_equal(got.land[i].number, land[i].number);
	}
	assert_null(got.land[0].missing);
	assert_string_equal(got.land[1].missing, "");
	buf_clear(&b);
	record_add_schema(&b, &data_plain);
	r = rd_of(buf_slice(&b));
	assert_true(record_next_field(&r, &number, &field));
	assert_true(record_read_schema(field, &a, &got));
	assert_null(got.land);
	buf_release(&b);
	arena_release(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_frame_round_trip_with_and_without_compression),
		cmocka_unit_test(test_frame_every_flipped_bit_and_every_cut_is_seen),
		cmocka_unit_test(test_frame_of_a_newer_program_is_told_from_damage),
		cmocka_unit_test(test_record_widest_row_and_longest_value),
		cmocka_unit_test(test_record_relation_without_columns),
		cmocka_unit_test(test_record_refuses_a_row_that_does_not_fit_its_schema),
		cmocka_unit_test(test_record_reading_survives_any_byte),
		cmocka_unit_test(test_schema_hash_is_what_the_format_says),
		cmocka_unit_test(test_record_land_of_a_mirrored_relation),
	};
	data_setup();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
