/* apply/stream without a database: ledger positions, source rows, batches, and the bytes that go to the warehouse. */
#include "tests/unit/unit.h"

#include "apply/stream/batch.h"
#include "apply/stream/landed.h"
#include "apply/stream/ledger.h"
#include "apply/stream/linger.h"
#include "apply/stream/source.h"
#include "apply/stream/writer_rows.h"

static const char definition[] = "language: 1\n"
				 "rollup: deposits\n"
				 "source: public.deposit_events\n"
				 "description: \"A customer's deposits\"\n"
				 "events:\n"
				 "  initialized: [amount, tags?]\n"
				 "  reverted: [amount]\n"
				 "columns:\n"
				 "  amount: {type: int8, set: [initialized, reverted]}\n"
				 "  tags: {type: \"varchar[]\", list: {init: [initialized]}}\n";

struct fixture {
	struct arena arena;
	struct rollup *rollup;
	struct landed item;
	struct landed_set set;
	struct batch batch;
	struct cache cache;
	struct parked parked;
};

static int set_up(void **state)
{
	struct fixture *f = rt_calloc(1, sizeof(*f));
	struct rt_err err;
	arena_init(&f->arena, 4096);
	if (rollup_parse(&f->arena, "deposits.yaml", definition, strlen(definition), &f->rollup,
			 &err) != 0) {
		print_error("%s\n", err.msg);
		return -1;
	}
	rollup_set_policies(f->rollup, POLICY_FAIL, POLICY_WARN, POLICY_FAIL);
	f->item = (struct landed){.rollup = f->rollup,
				  .history = "\"raw\".\"deposits\"",
				  .latest = "\"raw\".\"deposits_latest\""};
	f->set = (struct landed_set){.count = 1, .item = &f->item};
	parked_init(&f->parked, 1, 2, 4);
	batch_init(&f->batch, &f->set, &f->parked);
	cache_init(&f->cache, 1 << 20);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	batch_release(&f->batch);
	parked_release(&f->parked);
	cache_release(&f->cache);
	rollup_release(f->rollup);
	arena_release(&f->arena);
	free(f);
	return 0;
}

/* ---- the ledger's idea of the warehouse's disk ---- */

static struct lsn at(uint64_t v)
{
	return (struct lsn){v};
}

static void test_applied_counts_as_flushed_only_behind_the_wal_flush(void **state)
{
	struct ledger l = {.applied = at(100)};
	assert_false(ledger_position(&l, at(1000), at(900))); /* 100 waits for 1000 */
	assert_int_equal(l.flushed.v, 0);
	l.applied = at(200);
	assert_false(ledger_position(&l, at(2000), at(950))); /* the older one is waited for */
	assert_true(ledger_position(&l, at(2100), at(1000)));
	assert_int_equal(l.flushed.v, 100);
	/* 200 waits for what had been inserted when it was asked about. */
	assert_false(ledger_position(&l, at(2200), at(2099)));
	assert_true(ledger_position(&l, at(2300), at(2100)));
	assert_int_equal(l.flushed.v, 200);
	assert_false(ledger_position(&l, at(2300), at(2300))); /* nothing new */
	l.applied = at(300);
	assert_true(ledger_position(&l, at(2400), at(2400))); /* all on disk already */
	assert_int_equal(l.flushed.v, 300);
}

/* ---- source rows ---- */

static const struct schema_column source_columns[] = {{"id", false, OID_UUID, -1},
						      {"sequence", false, OID_INT4, -1},
						      {"event_type", false, OID_VARCHAR, -1},
						      {"event", false, OID_JSONB, -1},
						      {"context", false, OID_JSONB, -1},
						      {"recorded_at", false, OID_TIMESTAMPTZ, -1}};
static const struct schema source_schema = {.nspname = "public",
					    .relname = "deposit_events",
					    .count = ARRAY_LEN(source_columns),
					    .column = source_columns};

static struct value text(const char *s)
{
	return (struct value){VALUE_TEXT, (uint32_t)strlen(s), (const uint8_t *)s};
}

static const char id_text[] = "0189c0de-0000-7000-8000-00000000000a";

static void test_source_reads_text_and_binary_alike(void **state)
{
	struct fixture *f = *state;
	struct source_map m;
	struct fold_event t, b;
	struct rt_err err;
	static const uint8_t id[16] = {0x01, 0x89, 0xc0, 0xde, 0, 0, 0x70, 0,
				       0x80, 0,	   0,	 0,    0, 0, 0,	   0x0a};
	static const uint8_t seq[4] = {0, 0, 0, 7};
	static const uint8_t when[8] = {0, 0x02, 0xB1, 0x7F, 0x2F, 0x69, 0x40, 0x00};
	static const char json[] = "\001{\"amount\": 5}";
	assert_rc(source_map_columns(f->rollup, &source_schema, &m, &err), err);
	struct value tv[6] = {text(id_text),	     text("7"),
			      text("initialized"),   text("{\"amount\": 5}"),
			      {VALUE_NULL, 0, NULL}, text("2024-01-01 00:00:00+00")};
	struct value bv[6] = {{VALUE_BINARY, 16, id},
			      {VALUE_BINARY, 4, seq},
			      {VALUE_BINARY, 11, (const uint8_t *)"initialized"},
			      {VALUE_BINARY, sizeof(json) - 1, (const uint8_t *)json},
			      {VALUE_NULL, 0, NULL},
			      {VALUE_BINARY, 8, when}};
	struct tuple row = {6, tv};
	assert_rc(source_read_row(f->rollup, &m, &row, &f->arena, &t, &err), err);
	row.value = bv;
	assert_rc(source_read_row(f->rollup, &m, &row, &f->arena, &b, &err), err);
	assert_true(slice_eq(t.id, b.id));
	assert_int_equal(t.sequence, 7);
	assert_int_equal(b.sequence, 7);
	assert_true(slice_eq(t.payload, b.payload));
	assert_true(slice_is(b.payload, "{\"amount\": 5}"));
	assert_true(slice_is(t.event_type, "initialized"));
	assert_true(t.recorded_at_us == INT64_C(757382400000000)); /* 2024-01-01 after 2000-01-01 */
}

static void test_source_errors_name_the_place_and_no_value(void **state)
{
	struct fixture *f = *state;
	struct source_map m;
	struct fold_event e;
	struct rt_err err;
	assert_rc(source_map_columns(f->rollup, &source_schema, &m, &err), err);
	struct value v[6] = {text(id_text),	    text("7"),	   text("initialized"), text("{}"),
			     {VALUE_NULL, 0, NULL}, text("secret")};
	struct tuple row = {6, v};
	assert_int_equal(source_read_row(f->rollup, &m, &row, &f->arena, &e, &err), ERR_PERMANENT);
	assert_says(err, "relation public.deposit_events, id 0189c0de-0000-7000-8000-00000000000a, "
			 "sequence 7, column recorded_at");
	assert_null(strstr(err.msg, "secret"));
	v[1] = text("0");
	assert_int_equal(source_read_row(f->rollup, &m, &row, &f->arena, &e, &err), ERR_PERMANENT);
	assert_says(err, "column sequence: is not between 1 and");
	v[0] = (struct value){VALUE_NULL, 0, NULL};
	assert_int_equal(source_read_row(f->rollup, &m, &row, &f->arena, &e, &err), ERR_PERMANENT);
	assert_says(err, "column id: is NULL");
	v[0] = (struct value){VALUE_UNCHANGED, 0, NULL};
	assert_int_equal(source_read_row(f->rollup, &m, &row, &f->arena, &e, &err), ERR_PERMANENT);
	assert_says(err, "column id: is unchanged TOAST");
	row.count = 3;
	assert_int_equal(source_read_row(f->rollup, &m, &row, &f->arena, &e, &err), ERR_PERMANENT);
	assert_says(err, "row of 3 columns");
}

static void test_source_refuses_missing_columns_and_wrong_types(void **state)
{
	struct fixture *f = *state;
	struct source_map m;
	struct rt_err err;
	struct schema_column columns[ARRAY_LEN(source_columns)];
	struct schema s = source_schema;
	memcpy(columns, source_columns, sizeof(columns));
	s.column = columns;
	for (size_t i = 0; i < ARRAY_LEN(columns); i++) {
		if (strcmp(columns[i].name, "context") == 0)
			continue;
		struct schema_column kept = columns[i];
		columns[i].type_oid = OID_BYTEA;
		assert_int_equal(source_map_columns(f->rollup, &s, &m, &err), ERR_PERMANENT);
		assert_says(err, kept.name);
		columns[i] = kept;
		columns[i].name = "renamed";
		assert_int_equal(source_map_columns(f->rollup, &s, &m, &err), ERR_PERMANENT);
		assert_says(err, kept.name);
		columns[i] = kept;
	}
	assert_rc(source_map_columns(f->rollup, &s, &m, &err), err);
}

/* ---- batches ---- */

static struct fold_event event(struct fixture *f, uint8_t id, int32_t sequence, const char *type,
			       const char *payload)
{
	uint8_t *bytes = arena_zalloc(&f->batch.arena, 16);
	bytes[15] = id;
	return (struct fold_event){.id = slice_of(bytes, 16),
				   .sequence = sequence,
				   .event_type = slice_str(type),
				   .payload = slice_str(payload),
				   .recorded_at_us = sequence * 1000};
}

static void add(struct fixture *f, uint8_t id, int32_t sequence, const char *type,
		const char *payload)
{
	struct fold_event e = event(f, id, sequence, type, payload);
	batch_add_event(&f->batch, 0, &e);
}

static void add_transaction(struct fixture *f, uint64_t end, uint8_t id, int32_t from, int32_t to)
{
	batch_begin(&f->batch, at(end), RT_PG_EPOCH_US + (int64_t)end);
	for (int32_t i = from; i <= to; i++)
		add(f, id, i, i == 1 ? "initialized" : "reverted", "{\"amount\": 3}");
	batch_commit(&f->batch);
}

static void test_batch_folds_in_order_and_knows_last_and_new(void **state)
{
	struct fixture *f = *state;
	struct batch *b = &f->batch;
	struct rt_err err;
	assert_true(batch_is_empty(b));
	add_transaction(f, 10, 1, 1, 2);
	add_transaction(f, 20, 2, 1, 1);
	add_transaction(f, 30, 1, 3, 3);
	batch_resolve(b, &f->cache, false);
	assert_int_equal(b->missing_count, 0); /* first events need no state */
	assert_rc(batch_fold(b, &f->cache, SIZE_MAX, &err), err);
	assert_int_equal(b->rows[0].count, 4);
	assert_int_equal(b->end.v, 30);
	const bool last[] = {false, false, true, true};
	for (uint32_t i = 0; i < 4; i++) {
		assert_int_equal(batch_row_is_last(b, 0, i), last[i]);
		assert_true(batch_row_is_new_entity(&b->rows[0].row[i]));
	}
	assert_int_equal(b->rows[0].row[3].row.version, 3);
	assert_int_equal(b->rows[0].row[3].row.created_at_us, 1000);
	assert_int_equal(b->rows[0].row[3].row.modified_at_us, 3000);
	/* The next batch finds them in the cache. */
	batch_reset(b);
	add_transaction(f, 40, 1, 4, 4);
	batch_resolve(b, &f->cache, false);
	assert_int_equal(b->missing_count, 0);
	assert_rc(batch_fold(b, &f->cache, SIZE_MAX, &err), err);
	assert_false(batch_row_is_new_entity(&b->rows[0].row[0]));
	assert_int_equal(b->rows[0].row[0].row.version, 4);
}

static void test_batch_folds_piecemeal_as_in_one_go(void **state)
{
	struct fixture *f = *state;
	struct batch *b = &f->batch;
	struct rt_err err;
	for (int i = 0; i < 5; i++) {
		add_transaction(f, 10 + (uint64_t)i, 1, i + 1, i + 1);
		batch_resolve(b, &f->cache, false);
		assert_rc(batch_fold(b, &f->cache, SIZE_MAX, &err), err);
	}
	assert_int_equal(b->rows[0].count, 5);
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(batch_row_is_last(b, 0, i), i == 4);
}

/* However little room there is, the parts together are the rows, the fences and the positions of one go. */
static void test_trap_27_batch_goes_on_in_another_where_rows_take_too_much(void **state)
{
	struct fixture *f = *state;
	struct batch other, *b = &f->batch, *next = &other;
	struct rt_err err;
	uint32_t rows = 0, fences = 0, parts = 0;
	batch_init(&other, &f->set, &f->parked);
	add_transaction(f, 10, 1, 1, 3);
	batch_begin(b, at(20), RT_PG_EPOCH_US + 20);
	batch_add_fence(b, slice_str("a"));
	add(f, 1, 4, "reverted", "{\"amount\": 4}");
	add(f, 2, 1, "initialized", "{\"amount\": 4}");
	batch_commit(b);
	add_transaction(f, 30, 2, 2, 3);
	batch_begin(b, at(40), RT_PG_EPOCH_US + 40);
	batch_add_fence(b, slice_str("b"));
	add(f, 1, 5, "reverted", "{\"amount\": 4}");
	for (bool more = true; more; parts++) {
		batch_resolve(b, &f->cache, false);
		assert_int_equal(b->missing_count, 0);
		assert_rc(batch_fold(b, &f->cache, 1, &err), err);
		more = !batch_is_folded(b);
		if (more)
			batch_split(b, next);
		assert_int_equal(b->rows[0].count, 1);
		const struct batch_row *row = &b->rows[0].row[0];
		const uint64_t end[] = {10, 10, 10, 20, 20, 30, 30, 40};
		const int32_t version[] = {1, 2, 3, 4, 1, 2, 3, 5};
		assert_int_equal(b->transaction[row->transaction].end.v, end[rows]);
		assert_int_equal(row->row.version, version[rows]);
		assert_true(batch_row_is_last(b, 0, 0));
		assert_int_equal(batch_row_is_new_entity(row), version[rows] == 1);
		for (uint32_t i = 0; i < b->fence_count; i++, fences++)
			assert_int_equal(b->fence[i].lsn.v, fences == 0 ? 20 : 40);
		assert_int_equal(b->first_part, parts == 0);
		assert_true(b->open); /* the last one, too: its COMMIT has not come */
		rows += b->rows[0].count;
		struct batch *done = b;
		if (more) {
			b = next;
			next = done;
			batch_reset(next);
		}
	}
	assert_int_equal(rows, 8);
	assert_int_equal(fences, 2);
	assert_int_equal(b->end.v, 30); /* as far as whole transactions go */
	batch_commit(b);
	assert_int_equal(b->end.v, 40);
	batch_release(&other);
}

static void test_batch_asks_for_unknown_states_once(void **state)
{
	struct fixture *f = *state;
	struct batch *b = &f->batch;
	struct batch_entity *e;
	struct slice id;
	struct rt_err err;
	struct buf columns = BUF_INIT;
	add_transaction(f, 10, 9, 5, 6);
	batch_resolve(b, &f->cache, false);
	assert_int_equal(b->missing_count, 1);
	assert_int_equal(batch_missing(b, 0, &id, &e), 0);
	assert_ptr_equal(batch_find(b, 0, id), e);
	fold_initial_columns(f->rollup, &columns);
	struct fold_row stored = {.version = 4,
				  .created_at_us = 77,
				  .event_type = slice_str("reverted"),
				  .columns = buf_slice(&columns)};
	batch_provide(b, e, &stored);
	assert_null(batch_find(b, 0, id));
	assert_rc(batch_fold(b, &f->cache, SIZE_MAX, &err), err);
	assert_int_equal(b->rows[0].count, 2);
	assert_int_equal(b->rows[0].row[1].row.version, 6);
	assert_int_equal(b->rows[0].row[1].row.created_at_us, 77);
	assert_false(batch_row_is_new_entity(&b->rows[0].row[0]));
	buf_release(&columns);
	/* distrust: even a first event is looked up. */
	batch_reset(b);
	add_transaction(f, 20, 8, 1, 1);
	batch_resolve(b, &f->cache, true);
	assert_int_equal(b->missing_count, 1);
}

static void test_trap_07_batch_is_cut_before_the_transaction_that_fails(void **state)
{
	struct fixture *f = *state;
	struct batch *b = &f->batch;
	struct rt_err err;
	add_transaction(f, 10, 1, 1, 1);
	batch_begin(b, at(20), RT_PG_EPOCH_US + 20);
	add(f, 1, 2, "reverted", "{\"amount\": 4}");
	add(f, 2, 1, "exploded", "{}");
	batch_commit(b);
	add_transaction(f, 30, 3, 1, 1);
	batch_resolve(b, &f->cache, false);
	assert_int_equal(batch_fold(b, &f->cache, SIZE_MAX, &err), ERR_PERMANENT);
	assert_says(err, "relation public.deposit_events, LSN 0/14");
	assert_says(err, "exploded");
	assert_int_equal(b->end.v, 10); /* whole transactions before it are left, nothing behind */
	assert_int_equal(b->rows[0].count, 1);
	assert_true(batch_row_is_last(b, 0, 0));
	assert_int_equal(b->transaction_count, 1);
}

static void test_batch_cut_of_the_open_transaction(void **state)
{
	struct fixture *f = *state;
	struct batch *b = &f->batch;
	struct rt_err err;
	add_transaction(f, 10, 1, 1, 2);
	batch_begin(b, at(20), RT_PG_EPOCH_US);
	add(f, 1, 3, "reverted", "{\"amount\": 4}");
	batch_cut_open(b);
	batch_resolve(b, &f->cache, false);
	assert_rc(batch_fold(b, &f->cache, SIZE_MAX, &err), err);
	assert_int_equal(b->rows[0].count, 2);
	assert_int_equal(b->end.v, 10);
	/* Nothing before it: nothing to write. */
	batch_reset(b);
	batch_begin(b, at(30), RT_PG_EPOCH_US);
	batch_cut_open(b);
	assert_true(batch_is_empty(b));
}

static void test_trap_33_gap_stops_the_batch_and_a_duplicate_does_not(void **state)
{
	struct fixture *f = *state;
	struct batch *b = &f->batch;
	struct rt_err err;
	add_transaction(f, 10, 1, 1, 2);
	add_transaction(f, 20, 1, 2, 2); /* again */
	add_transaction(f, 30, 1, 4, 4); /* 3 is missing */
	batch_resolve(b, &f->cache, false);
	assert_int_equal(batch_fold(b, &f->cache, SIZE_MAX, &err), ERR_PERMANENT);
	assert_int_equal(b->duplicates, 1);
	assert_int_equal(b->rows[0].count, 2);
	assert_int_equal(b->end.v, 20);
}

/* ---- entities that wait ---- */

static void let_policies_park(struct fixture *f, enum rollup_policy gap)
{
	f->rollup->unknown_event = POLICY_QUARANTINE;
	f->rollup->gap = gap;
}

static void test_trap_09_a_poison_event_parks_its_entity_alone_and_in_order(void **state)
{
	struct fixture *f = *state;
	struct batch *b = &f->batch;
	struct rt_err err;
	let_policies_park(f, POLICY_QUARANTINE);
	batch_begin(b, at(10), RT_PG_EPOCH_US);
	add(f, 1, 1, "initialized", "{\"amount\": 1}");
	add(f, 1, 2, "exploded", "{}");
	add(f, 2, 1, "initialized", "{\"amount\": 1}");
	add(f, 1, 3, "reverted", "{\"amount\": 1}");
	batch_commit(b);
	batch_resolve(b, &f->cache, false);
	assert_rc(batch_fold(b, &f->cache, SIZE_MAX, &err), err);
	assert_int_equal(b->end.v, 10);
	assert_int_equal(b->rows[0].count, 2);
	assert_int_equal(b->waiting_count, 2);
	assert_int_equal(b->waiting[0].event, 1);
	assert_non_null(strstr(b->waiting[0].reason, "unknown_event: "));
	assert_int_equal(b->waiting[1].event, 3);
	assert_null(b->waiting[1].reason);
	/* The next batch knows, and asks for no state of it. */
	batch_reset(b);
	add_transaction(f, 20, 1, 4, 4);
	batch_resolve(b, &f->cache, true);
	assert_int_equal(b->missing_count, 0);
	assert_rc(batch_fold(b, &f->cache, SIZE_MAX, &err), err);
	assert_int_equal(b->rows[0].count, 0);
	assert_int_equal(b->waiting_count, 1);
	assert_false(b->waiting[0].late);
}

static void test_trap_33_a_gap_is_filled_where_it_is_and_the_fold_goes_on(void **state)
{
	struct fixture *f = *state;
	struct batch *b = &f->batch;
	struct rt_err err;
	let_policies_park(f, POLICY_REPAIR);
	add_transaction(f, 10, 1, 1, 2);
	add_transaction(f, 20, 1, 5, 5);
	add_transaction(f, 30, 2, 1, 1);
	batch_resolve(b, &f->cache, false);
	assert_int_equal(batch_fold(b, &f->cache, SIZE_MAX, &err), 1);
	assert_int_equal(b->gap.after, 2);
	assert_int_equal(b->gap.before, 5);
	struct fold_event missing[] = {event(f, 1, 3, "reverted", "{\"amount\": 7}")};
	batch_fill_gap(b, missing, 1);
	/* The rest of it is met again; the core has it not. */
	assert_int_equal(batch_fold(b, &f->cache, SIZE_MAX, &err), 1);
	assert_int_equal(b->gap.after, 3);
	batch_leave_gap(b);
	assert_rc(batch_fold(b, &f->cache, SIZE_MAX, &err), err);
	assert_int_equal(b->rows[0].count, 4);
	assert_true(b->rows[0].row[2].repaired);
	assert_false(b->rows[0].row[3].repaired);
	assert_int_equal(b->repaired, 1);
	assert_int_equal(b->waiting_count, 1);
	assert_non_null(strstr(b->waiting[0].reason, "nor has the core"));
	/* What was missing comes late: worth a retry by itself. */
	batch_reset(b);
	add_transaction(f, 40, 1, 4, 4);
	add_transaction(f, 50, 1, 6, 6);
	batch_resolve(b, &f->cache, false);
	assert_rc(batch_fold(b, &f->cache, SIZE_MAX, &err), err);
	assert_int_equal(b->waiting_count, 2);
	assert_true(b->waiting[0].late);
	assert_false(b->waiting[1].late);
}

/* The fixture's limits: 2 entities, 4 events. */
static void test_one_entity_too_many_parks_the_rollup(void **state)
{
	struct fixture *f = *state;
	struct batch *b = &f->batch;
	struct rt_err err;
	let_policies_park(f, POLICY_QUARANTINE);
	f->item.state = LANDED_LIVE;
	for (uint8_t id = 1; id <= 3; id++) {
		batch_begin(b, at(id * 10), RT_PG_EPOCH_US);
		add(f, id, 1, "exploded", "{}");
		add(f, (uint8_t)(id + 10), 1, "initialized", "{\"amount\": 1}");
		batch_commit(b);
	}
	batch_resolve(b, &f->cache, false);
	assert_rc(batch_fold(b, &f->cache, SIZE_MAX, &err), err);
	assert_int_equal(b->waiting_count, 2);
	assert_int_equal(b->rows[0].count,
			 2); /* nothing from the transaction on that was one too many */
	assert_int_equal(b->park_count, 1);
	assert_int_equal(f->item.state, LANDED_PARKED);
	assert_true(landed_is_parked(&f->item, at(30)));
	assert_false(landed_is_parked(&f->item, at(20)));
	assert_int_equal(b->end.v, 30); /* the stream goes on */
}

static void test_a_batch_that_is_split_or_cut_keeps_what_waits_in_place(void **state)
{
	struct fixture *f = *state;
	struct batch other, *b = &f->batch;
	struct rt_err err;
	let_policies_park(f, POLICY_QUARANTINE);
	f->item.state = LANDED_LIVE;
	batch_init(&other, &f->set, &f->parked);
	batch_begin(b, at(10), RT_PG_EPOCH_US);
	add(f, 1, 1, "exploded", "{}");
	add(f, 2, 1, "initialized", "{\"amount\": 1}");
	batch_commit(b);
	batch_begin(b, at(20), RT_PG_EPOCH_US);
	batch_park(b, 0, "LSN 0/14: it does not fit");
	batch_commit(b);
	batch_resolve(b, &f->cache, false);
	assert_rc(batch_fold(b, &f->cache, 1, &err), err);
	assert_int_equal(b->folded, 1);
	batch_split(b, &other);
	assert_int_equal(b->waiting_count, 1);
	assert_int_equal(b->park_count, 0);
	assert_int_equal(other.park_count, 1);
	assert_int_equal(other.park[0].transaction, 1);
	assert_string_equal(other.park[0].reason, "LSN 0/14: it does not fit");
	batch_resolve(&other, &f->cache, false);
	assert_rc(batch_fold(&other, &f->cache, SIZE_MAX, &err), err);
	assert_int_equal(other.rows[0].count, 1);
	/* Cut: nothing of the open transaction is left. */
	batch_begin(&other, at(30), RT_PG_EPOCH_US);
	batch_cut_open(&other);
	assert_int_equal(other.park_count, 1);
	batch_release(&other);
}

static void test_parked_counts_are_those_of_what_waits(void **state)
{
	struct parked p;
	const struct slice a = slice_str("a"), b = slice_str("b");
	parked_init(&p, 2, 1, 3);
	assert_false(parked_has(&p, 0, a));
	assert_true(parked_add(&p, 0, a, 5));
	assert_true(parked_add(&p, 0, a, 6));
	assert_false(parked_add(&p, 0, b, 1)); /* one entity */
	assert_false(parked_has(&p, 0, b));
	assert_true(parked_add(&p, 1, b, 1)); /* of each rollup */
	assert_true(parked_has(&p, 1, b) && !parked_has(&p, 1, a));
	assert_true(parked_add(&p, 0, a, 7));
	assert_false(parked_add(&p, 0, a, 8)); /* three events */
	assert_true(parked_is_before(&p, 0, a, 4) && !parked_is_before(&p, 0, a, 6));
	assert_int_equal(parked_total(&p).entities, 2);
	assert_int_equal(parked_total(&p).events, 4);
	parked_from(&p, 0, a, 7, 2);
	assert_true(parked_is_before(&p, 0, a, 6));
	assert_int_equal(p.count[0].events, 1);
	parked_remove(&p, 0, a, 1);
	assert_false(parked_has(&p, 0, a));
	assert_int_equal(p.count[0].entities + p.count[0].events, 0);
	parked_skip(&p, 1, b, 3);
	assert_true(parked_is_skipped(&p, 1, b, 3) && !parked_is_skipped(&p, 1, b, 4));
	parked_load(&p, 1, a, 2, 9); /* what the warehouse holds is believed, beyond the limit */
	assert_int_equal(p.count[1].events, 10);
	parked_forget(&p, 1);
	assert_false(parked_has(&p, 1, a) || parked_has(&p, 1, b));
	assert_true(parked_is_skipped(&p, 1, b, 3));
	parked_release(&p);
}

/* ---- bytes for the warehouse ---- */

static void test_rows_as_copy_and_as_arrays(void **state)
{
	struct fixture *f = *state;
	struct batch *b = &f->batch;
	struct rt_err err;
	struct buf copy = BUF_INIT, column[LANDED_BEFORE + 2 + LANDED_BEHIND + 1] = {BUF_INIT};
	add_transaction(f, 10, 1, 1, 2);
	batch_resolve(b, &f->cache, false);
	assert_rc(batch_fold(b, &f->cache, SIZE_MAX, &err), err);
	assert_int_equal(writer_fill_copy(b, 0, false, 0, 1 << 20, &copy), 2);
	struct rd r = rd_of(buf_slice(&copy));
	assert_memory_equal(rd_bytes(&r, 11), "PGCOPY\n\377\r\n\0", 11);
	assert_int_equal(rd_u64(&r), 0);
	for (uint32_t version = 1; version <= 2; version++) {
		assert_int_equal(rd_u16(&r), LANDED_BEFORE + 2 + LANDED_BEHIND);
		assert_int_equal(rd_u32(&r), 16);
		rd_bytes(&r, 16);
		assert_int_equal(rd_u32(&r), 4);
		assert_int_equal(rd_u32(&r), version);
		assert_int_equal(rd_u32(&r), 8);
		assert_int_equal(rd_u64(&r), 1000); /* created_at */
		assert_int_equal(rd_u32(&r), 8);
		assert_int_equal(rd_u64(&r), version * 1000);
		rd_bytes(&r, rd_u32(&r)); /* event_type */
		assert_int_equal(rd_u32(&r), 8);
		assert_int_equal(rd_u64(&r), 3); /* amount */
		rd_bytes(&r, rd_u32(&r));	 /* tags: the empty list */
		assert_int_equal(rd_u32(&r), 8);
		assert_int_equal(rd_u64(&r), 10); /* _lsn */
		assert_int_equal(rd_u32(&r), 8);
		assert_int_equal(rd_u64(&r), 10); /* _committed_at after 2000-01-01 */
	}
	assert_true(rd_finish(&r));
	buf_clear(&copy);
	assert_int_equal(writer_count_begun(b, 0), 1);
	assert_int_equal(writer_fill_copy(b, 0, true, 0, 1 << 20, &copy), 2);
	r = rd_of(buf_slice(&copy));
	rd_bytes(&r, 19 + 2 + 4 + 16 + 4);
	assert_int_equal(rd_u32(&r), 2); /* the entity's last version, and no other */
	for (int i = 2; i < LANDED_BEFORE + 2 + LANDED_BEHIND; i++)
		rd_bytes(&r, rd_u32(&r));
	assert_true(rd_finish(&r));
	assert_int_equal(writer_fill_entities(b, 0, f->rollup, false, &column[0]), 0);
	assert_int_equal(writer_fill_entities(b, 0, f->rollup, true, &column[0]), 1);
	assert_int_equal(column[0].len, 20 + 4 + 16);

	int count = writer_fill_rows(b, 0, f->rollup, column);
	assert_int_equal(count, (int)ARRAY_LEN(column));
	for (int i = 0; i < count; i++) {
		struct rd a = rd_of(buf_slice(&column[i]));
		assert_int_equal(rd_u32(&a), 1); /* one dimension … */
		rd_u32(&a);
		rd_u32(&a);
		assert_int_equal(rd_u32(&a), 2); /* … of two rows … */
		assert_int_equal(rd_u32(&a), 1); /* … from 1 on */
		for (int row = 0; row < 2; row++) {
			uint32_t len = rd_u32(&a);
			assert_true(len != UINT32_MAX);
			rd_bytes(&a, len);
		}
		assert_true(rd_finish(&a));
		buf_release(&column[i]);
	}
	buf_release(&copy);
}

static void test_committed_at_of_a_loaded_row_is_null(void **state)
{
	struct buf out = BUF_INIT;
	uint8_t id[16] = {0};
	struct fold_row row = {.id = slice_of(id, 16), .version = 1, .event_type = slice_str("x")};
	writer_copy_row(&row, 0, at(5), 0, &out);
	assert_memory_equal(out.p + out.len - 4, "\xff\xff\xff\xff", 4);
	buf_release(&out);
}

/* ---- batches that wait for more ---- */

static void test_a_batch_lingers_only_while_the_stream_is_late_and_dense(void **state)
{
	struct linger l = {0};
	assert_false(linger_for_more(&l, 5000, LINGER_LATE_US - 1, 10)); /* not late */
	assert_false(linger_for_more(&l, LINGER_CHANGES - 1, 10 * LINGER_LATE_US, 10)); /* sparse */
	assert_false(linger_is_on(&l));
	assert_true(linger_for_more(&l, 500, LINGER_LATE_US, 10));
	assert_true(linger_is_on(&l));
	assert_int_equal(l.look_us, 10 + LINGER_LOOK_US);
	assert_true(linger_for_more(&l, 500, LINGER_LATE_US, l.look_us - 1)); /* no look yet */
	assert_true(linger_for_more(&l, 500 + LINGER_CHANGES, LINGER_LATE_US, l.look_us));
	/* Too few came: it goes after one look. */
	assert_false(linger_for_more(&l, 500 + 2 * LINGER_CHANGES - 1, LINGER_LATE_US, l.look_us));
	assert_false(linger_is_on(&l));
}

static void test_a_batch_lingers_for_a_bounded_time(void **state)
{
	struct linger l = {0};
	int64_t now = 10;
	uint32_t changes = 100;
	while (linger_for_more(&l, changes, LINGER_LATE_US, now)) {
		now = l.look_us;
		changes += 1000;
	}
	assert_in_range(now, 10 + LINGER_MOST_US, 10 + LINGER_MOST_US + LINGER_LOOK_US);
	/* One that is no longer late goes at the next look. */
	assert_true(linger_for_more(&l, 100, LINGER_LATE_US, now));
	assert_false(linger_for_more(&l, 9000, 0, l.look_us));
}

/* ---- tables ---- */

static void test_ddl_says_what_every_column_is(void **state)
{
	struct fixture *f = *state;
	struct buf sql = BUF_INIT;
	static const char *const parts[] = {
		"CREATE TABLE \"raw\".\"deposits\" (\n    id uuid NOT NULL,\n    version int4 NOT "
		"NULL",
		"\"amount\" int8,\n    \"tags\" varchar[],\n    _lsn pg_lsn NOT NULL,\n    "
		"_committed_at timestamptz,\n    PRIMARY KEY (id, version)",
		"PRIMARY KEY (id)\n) WITH (fillfactor = 50)",
		"COMMENT ON TABLE \"raw\".\"deposits_latest\" IS 'A customer''s deposits: ",
		"COMMENT ON COLUMN \"raw\".\"deposits\".\"amount\" IS '",
		"COMMENT ON COLUMN \"raw\".\"deposits\".\"_lsn\" IS '",
	};
	landed_ddl(&f->item, &sql);
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		if (strstr(buf_cstr(&sql), parts[i]) == NULL)
			fail_msg("no %s in:\n%s", parts[i], buf_cstr(&sql));
	buf_release(&sql);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		T(test_applied_counts_as_flushed_only_behind_the_wal_flush),
		T(test_source_reads_text_and_binary_alike),
		T(test_source_errors_name_the_place_and_no_value),
		T(test_source_refuses_missing_columns_and_wrong_types),
		T(test_batch_folds_in_order_and_knows_last_and_new),
		T(test_batch_folds_piecemeal_as_in_one_go),
		T(test_trap_27_batch_goes_on_in_another_where_rows_take_too_much),
		T(test_batch_asks_for_unknown_states_once),
		T(test_trap_07_batch_is_cut_before_the_transaction_that_fails),
		T(test_batch_cut_of_the_open_transaction),
		T(test_trap_33_gap_stops_the_batch_and_a_duplicate_does_not),
		T(test_trap_09_a_poison_event_parks_its_entity_alone_and_in_order),
		T(test_trap_33_a_gap_is_filled_where_it_is_and_the_fold_goes_on),
		T(test_one_entity_too_many_parks_the_rollup),
		T(test_a_batch_that_is_split_or_cut_keeps_what_waits_in_place),
		T(test_parked_counts_are_those_of_what_waits),
		T(test_rows_as_copy_and_as_arrays),
		T(test_committed_at_of_a_loaded_row_is_null),
		T(test_a_batch_lingers_only_while_the_stream_is_late_and_dense),
		T(test_a_batch_lingers_for_a_bounded_time),
		T(test_ddl_says_what_every_column_is),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
