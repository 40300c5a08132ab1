/* The fold: the cases of tests/data/fold, what holds for any stream of events, and the cache of rows. */
#include "tests/unit/unit.h"

#include <glob.h>
#include <stdio.h>

#include "proto/base/fsio.h"
#include "transforms/rollup/fold.h"
#include "transforms/rollup/json.h"

#define ENTITY	       "00000000-0000-0000-0000-000000000001"
#define TIME_2024_US   INT64_C(757382400000000) /* 2024-01-01 UTC since 2000-01-01 */
#define CASE_LINES_MAX 64
#define HEAD	       "language: 1\nrollup: t\nsource: public.t\n"

/* ---- one rollup and the entity's row so far ---- */

struct bench {
	struct arena arena;
	struct rollup *r;
	struct fold_row row;
	bool have;
	struct fold_note note;
	struct rt_err err;
};

static void bench_open(struct bench *b, const char *yaml)
{
	memset(b, 0, sizeof(*b));
	arena_init(&b->arena, 1 << 16);
	char *text = arena_printf(&b->arena, "%s%s", strstr(yaml, "language:") == NULL ? HEAD : "",
				  yaml);
	assert_rc(rollup_parse(&b->arena, "t.yaml", text, strlen(text), &b->r, &b->err), b->err);
}

static void bench_close(struct bench *b)
{
	rollup_release(b->r);
	arena_release(&b->arena);
}

static struct slice entity_id(struct arena *a)
{
	struct buf b = buf_in_arena(a, NULL, 0);
	struct rt_err err;
	assert_rc(pgt_from_text(PGT_UUID, slice_str(ENTITY), NULL, &b, &err), err);
	return buf_slice(&b);
}

/* Makes the payload canonical and folds it; the row is replaced on success. */
static enum fold_result bench_fold(struct bench *b, int32_t sequence, const char *type,
				   const char *payload)
{
	struct buf canonical = buf_in_arena(&b->arena, NULL, 0);
	struct fold_row next;
	assert_rc(json_canonical(slice_str(payload), &canonical, &b->err), b->err);
	const struct fold_event e = {
		.id = entity_id(&b->arena),
		.sequence = sequence,
		.event_type = slice_str(arena_strdup(&b->arena, type)),
		.payload = buf_slice(&canonical),
		.recorded_at_us = TIME_2024_US + sequence * INT64_C(1000000),
	};
	enum fold_result rc =
		fold_apply(b->r, b->have ? &b->row : NULL, &e, &b->arena, &next, &b->note, &b->err);
	if (rc == FOLD_OK || rc == FOLD_IGNORED) {
		assert_true(fold_columns_valid(b->r, next.columns));
		assert_int_equal(next.version, sequence);
		assert_true(next.modified_at_us == e.recorded_at_us);
		assert_true(next.created_at_us ==
			    (b->have ? b->row.created_at_us : e.recorded_at_us));
		b->row = next;
		b->have = true;
	}
	return rc;
}

/* "ok | 1 | NULL | …" or "result: reason". */
static void describe(struct bench *b, enum fold_result rc, struct buf *out)
{
	buf_clear(out);
	buf_str(out, fold_result_name(rc));
	if (rc == FOLD_DUPLICATE)
		return;
	if (rc != FOLD_OK && rc != FOLD_IGNORED) {
		buf_printf(out, ": %s", b->err.msg);
		return;
	}
	for (uint16_t i = 0; i < b->r->column_count; i++) {
		struct slice v = fold_column(b->row.columns, i);
		buf_str(out, " | ");
		if (v.p == NULL)
			buf_str(out, "NULL");
		else
			assert_rc(pgt_to_text(b->r->column[i].type, v, out, &b->err), b->err);
	}
	if (b->note.unknown_keys > 0)
		buf_printf(out, " | unknown keys: %u, first %s of %s", b->note.unknown_keys,
			   b->note.unknown_key, b->note.unknown_key_event);
}

/* ---- tests/data/fold ---- */

struct fold_case {
	const char *file;
	int line;
	char *title, *yaml;
	char *event[CASE_LINES_MAX], *row[CASE_LINES_MAX];
	size_t events, rows;
};

/* Rows are compared whole; reasons by a part of them. */
static bool row_fits(const char *got, const char *expected)
{
	const char *colon = strchr(expected, ':');
	if (strncmp(expected, "ok", 2) == 0 || colon == NULL ||
	    strncmp(expected, "ignored", 7) == 0)
		return strcmp(got, expected) == 0;
	size_t n = (size_t)(colon - expected) + 1;
	return strncmp(got, expected, n) == 0 && strstr(got + n, colon + 2) != NULL;
}

static void run_case(const struct fold_case *c)
{
	struct bench b;
	struct buf got = BUF_INIT;
	if (c->events == 0 || c->events != c->rows)
		fail_msg("%s:%d: %zu events, %zu rows", c->file, c->line, c->events, c->rows);
	bench_open(&b, c->yaml);
	for (size_t i = 0; i < c->events; i++) {
		int sequence, at = 0;
		char type[64];
		if (sscanf(c->event[i], "%d %63s %n", &sequence, type, &at) != 2 || at == 0)
			fail_msg("%s:%d: event %zu: %s", c->file, c->line, i + 1, c->event[i]);
		describe(&b, bench_fold(&b, sequence, type, c->event[i] + at), &got);
		if (!row_fits(buf_cstr(&got), c->row[i]))
			fail_msg("%s:%d: %s: event %zu\n  gives    %s\n  expected %s", c->file,
				 c->line, c->title, i + 1, buf_cstr(&got), c->row[i]);
	}
	buf_release(&got);
	bench_close(&b);
}

static size_t run_file(const char *path)
{
	struct rt_err err;
	struct fold_case c = {.file = path};
	struct buf yaml = BUF_INIT;
	char *text, *save = NULL;
	size_t len, cases = 0;
	enum { YAML, EVENTS, ROWS } part = YAML;
	assert_rc(fs_read_file(path, 1 << 20, &text, &len, &err), err);
	int line = 0;
	for (char *s = text, *next; s != NULL; s = next) {
		next = strchr(s, '\n');
		if (next != NULL)
			*next++ = '\0';
		line++;
		if (strncmp(s, "== ", 3) == 0 || next == NULL) {
			if (c.title != NULL) {
				c.yaml = save = rt_strdup(buf_cstr(&yaml));
				run_case(&c);
				free(save);
				cases++;
			}
			c = (struct fold_case){.file = path, .line = line, .title = s + 3};
			buf_clear(&yaml);
			part = YAML;
		} else if (strcmp(s, "-- events") == 0) {
			part = EVENTS;
		} else if (strcmp(s, "-- rows") == 0) {
			part = ROWS;
		} else if (part == YAML) {
			buf_printf(&yaml, "%s\n", s);
		} else if (s[0] != '\0') {
			size_t *n = part == EVENTS ? &c.events : &c.rows;
			assert_true(*n < CASE_LINES_MAX);
			(part == EVENTS ? c.event : c.row)[(*n)++] = s;
		}
	}
	buf_release(&yaml);
	free(text);
	return cases;
}

static void test_fold_cases(void **state)
{
	glob_t g;
	assert_int_equal(glob("tests/data/fold/*.fold", 0, NULL, &g), 0);
	for (size_t i = 0; i < g.gl_pathc; i++)
		assert_true(run_file(g.gl_pathv[i]) > 0);
	globfree(&g);
}

static void test_every_reducer_has_its_cases(void **state)
{
#define REDUCER(upper, lower, doc) assert_true(run_file("tests/data/fold/" #lower ".fold") > 0);
#include "transforms/rollup/reducers.def"
#undef REDUCER
}

/* ---- the traps ---- */

static void test_trap_33_gap_never_restarts_a_fold(void **state)
{
	struct bench b;
	bench_open(&b,
		   "events: {created: [a], changed: [a]}\n"
		   "columns: {a: {type: int8, set: [created]}, n: {count: [created, changed]}}\n");
	assert_int_equal(bench_fold(&b, 2, "created", "{\"a\": 1}"), FOLD_GAP);
	assert_false(b.have); /* no row out of the middle of a life */
	assert_int_equal(bench_fold(&b, 1, "created", "{\"a\": 1}"), FOLD_OK);
	struct fold_row before = b.row;
	assert_int_equal(bench_fold(&b, 3, "changed", "{\"a\": 2}"), FOLD_GAP);
	assert_says(b.err, "rollup t, entity " ENTITY ", sequence 3, event changed: "
			   "events are missing: the last version is 1");
	assert_memory_equal(&b.row, &before, sizeof(before));
	assert_int_equal(bench_fold(&b, INT32_MAX, "changed", "{\"a\": 2}"), FOLD_GAP);
	assert_int_equal(bench_fold(&b, 2, "changed", "{\"a\": 2}"), FOLD_OK);
	b.row.version = INT32_MAX; /* the last one there can be: whatever comes is a duplicate */
	assert_int_equal(bench_fold(&b, INT32_MAX, "changed", "{\"a\": 2}"), FOLD_DUPLICATE);
	bench_close(&b);
}

static void test_trap_34_unknown_event_follows_the_declared_policy(void **state)
{
	static const struct {
		const char *policy;
		enum rollup_policy configured;
		enum fold_result result;
	} cases[] = {
		{"", POLICY_DEFAULT, FOLD_UNKNOWN_EVENT},
		{"", POLICY_FAIL, FOLD_UNKNOWN_EVENT},
		{"", POLICY_IGNORE, FOLD_IGNORED},
		{"unknown_event: fail\n", POLICY_IGNORE, FOLD_UNKNOWN_EVENT},
		{"unknown_event: ignore\n", POLICY_FAIL, FOLD_IGNORED},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct bench b;
		char yaml[256];
		snprintf(yaml, sizeof(yaml), "%sevents: {created: [a]}\ncolumns: {a: int8}\n",
			 cases[i].policy);
		bench_open(&b, yaml);
		rollup_set_policies(b.r, cases[i].configured, POLICY_WARN, POLICY_FAIL);
		assert_int_equal(bench_fold(&b, 1, "created", "{\"a\": 1}"), FOLD_OK);
		assert_int_equal(bench_fold(&b, 2, "renamed", "{\"a\": 2}"), cases[i].result);
		assert_int_equal(b.row.version, cases[i].result == FOLD_IGNORED ? 2 : 1);
		bench_close(&b);
	}
}

static void test_trap_34_what_is_to_be_done_about_a_result(void **state)
{
	static const struct {
		const char *policies;
		enum fold_result result;
		enum rollup_policy policy;
	} cases[] = {
		{"", FOLD_UNKNOWN_EVENT, POLICY_QUARANTINE},
		{"", FOLD_GAP, POLICY_QUARANTINE},
		{"", FOLD_OK, POLICY_IGNORE},
		{"", FOLD_DUPLICATE, POLICY_IGNORE},
		{"unknown_event: fail\n", FOLD_UNKNOWN_EVENT, POLICY_FAIL},
		{"unknown_event: fail\n", FOLD_MISSING_KEY, POLICY_FAIL},
		{"unknown_event: fail\n", FOLD_BAD_VALUE, POLICY_FAIL},
		{"unknown_event: ignore\n", FOLD_MISSING_KEY, POLICY_QUARANTINE},
		{"unknown_event: fail\n", FOLD_UNKNOWN_KEY, POLICY_QUARANTINE},
		{"unknown_key: fail\n", FOLD_UNKNOWN_KEY, POLICY_FAIL},
		{"unknown_key: quarantine\n", FOLD_UNKNOWN_KEY, POLICY_QUARANTINE},
		{"gap: repair\n", FOLD_GAP, POLICY_REPAIR},
		{"gap: quarantine\n", FOLD_GAP, POLICY_QUARANTINE},
		{"gap: fail\n", FOLD_GAP, POLICY_FAIL},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct bench b;
		char yaml[256];
		snprintf(yaml, sizeof(yaml), "%sevents: {created: [a]}\ncolumns: {a: int8}\n",
			 cases[i].policies);
		bench_open(&b, yaml);
		assert_int_equal(fold_policy(b.r, cases[i].result), cases[i].policy);
		bench_close(&b);
	}
}

/* A skipped event takes its version and repeats the columns; a gap before it is taken as one. */
static void test_trap_33_an_event_that_is_passed_takes_its_version(void **state)
{
	struct bench b;
	struct fold_row row;
	struct fold_event e = {.recorded_at_us = 9, .event_type = slice_str("renamed")};
	bench_open(&b, "unknown_key: quarantine\nevents: {created: [a]}\ncolumns: {a: int8}\n");
	e.id = entity_id(&b.arena);
	e.payload = slice_str("{\"a\": 7}");
	/* The first of an entity. */
	e.sequence = 1;
	assert_int_equal(fold_accept(b.r, NULL, &e, &b.arena, &row, &b.note), FOLD_IGNORED);
	assert_int_equal(row.version, 1);
	assert_int_equal(row.created_at_us, 9);
	assert_null(fold_column(row.columns, 0).p);
	/* Behind a version; then a duplicate. */
	assert_int_equal(bench_fold(&b, 1, "created", "{\"a\": 5}"), FOLD_OK);
	e.sequence = 2;
	assert_int_equal(fold_accept(b.r, &b.row, &e, &b.arena, &row, &b.note), FOLD_IGNORED);
	assert_int_equal(row.version, 2);
	assert_true(slice_eq(row.columns, b.row.columns));
	e.sequence = 1;
	assert_int_equal(fold_accept(b.r, &b.row, &e, &b.arena, &row, &b.note), FOLD_DUPLICATE);
	/* Behind a gap: what can be folded is, with a key that nobody lists it is not. */
	e.sequence = 9;
	e.event_type = slice_str("created");
	assert_int_equal(fold_accept(b.r, &b.row, &e, &b.arena, &row, &b.note), FOLD_OK);
	assert_int_equal(row.version, 9);
	assert_int_equal(row.created_at_us, b.row.created_at_us);
	assert_int_equal(be64_get(fold_column(row.columns, 0).p), 7);
	e.payload = slice_str("{\"b\": 7}");
	assert_int_equal(fold_accept(b.r, &b.row, &e, &b.arena, &row, &b.note), FOLD_IGNORED);
	assert_int_equal(be64_get(fold_column(row.columns, 0).p), 5);
	bench_close(&b);
}

static void test_trap_38_nulls_and_last_element_of_lists(void **state)
{
	struct bench b;
	struct buf got = BUF_INIT;
	bench_open(&b,
		   "events: {added: [\"x?\"], removed: [x]}\ncolumns:\n"
		   "  xs: {type: \"int8[]\", list: {add: {x: [added]}, remove: {x: [removed]}}}\n"
		   "  ys: {type: \"int8[]\", list: {add: {x: [added]}, remove: {x: [removed]}, "
		   "skip_null: true}}\n");
	describe(&b, bench_fold(&b, 1, "added", "{\"x\": 1}"), &got);
	assert_string_equal(buf_cstr(&got), "ok | {1} | {1}");
	describe(&b, bench_fold(&b, 2, "removed", "{\"x\": 1}"), &got);
	assert_string_equal(buf_cstr(&got), "ok | {} | {}"); /* never NULL */
	describe(&b, bench_fold(&b, 3, "added", "{}"), &got);
	assert_string_equal(buf_cstr(&got), "ok | {NULL} | {}");
	describe(&b, bench_fold(&b, 4, "removed", "{\"x\": null}"), &got);
	assert_string_equal(buf_cstr(&got), "ok | {} | {}");
	buf_release(&got);
	bench_close(&b);
}

static void test_trap_39_sums_are_exact(void **state)
{
	struct bench b;
	struct buf got = BUF_INIT;
	bench_open(&b, "events: {paid: [a]}\n"
		       "columns: {t: {type: numeric, sum: {add: {a: [paid]}}}}\n");
	for (int i = 1; i <= 10000; i++)
		assert_int_equal(bench_fold(&b, i, "paid", "{\"a\": 0.1}"), FOLD_OK);
	describe(&b, FOLD_OK, &got);
	assert_string_equal(buf_cstr(&got),
			    "ok | 1000.0"); /* in floating point: 1000.0000000001588 */
	buf_release(&got);
	bench_close(&b);
}

static void test_integers_beyond_double_are_exact(void **state)
{
	struct bench b;
	struct buf got = BUF_INIT;
	bench_open(&b,
		   "events: {paid: [a]}\ncolumns: {t: {type: int8, sum: {add: {a: [paid]}}}}\n");
	assert_int_equal(bench_fold(&b, 1, "paid", "{\"a\": 9007199254740993}"), FOLD_OK);
	assert_int_equal(bench_fold(&b, 2, "paid", "{\"a\": 9214364837600034814}"), FOLD_OK);
	describe(&b, FOLD_OK, &got);
	assert_string_equal(buf_cstr(&got), "ok | 9223372036854775807");
	assert_int_equal(bench_fold(&b, 3, "paid", "{\"a\": 1}"), FOLD_BAD_VALUE);
	assert_says(b.err, "out of range for int8");
	buf_release(&got);
	bench_close(&b);
}

static void test_count_stops_at_its_types_end(void **state)
{
	struct bench b;
	bench_open(&b, "events: {seen: []}\ncolumns: {n: {type: int2, count: [seen]}}\n");
	uint8_t full[] = {0, 0, 0, 2, 0x7F, 0xFF};
	b.row = (struct fold_row){.version = 1, .columns = slice_of(full, sizeof(full))};
	b.have = true;
	assert_int_equal(bench_fold(&b, 2, "seen", "{}"), FOLD_BAD_VALUE);
	assert_says(b.err, "column n: out of range for int2");
	bench_close(&b);
}

static void test_reasons_hold_no_values(void **state)
{
	static const struct {
		const char *yaml, *payload;
	} cases[] = {
		{"columns: {a: int8}\n", "{\"a\": \"TOPSECRET\"}"},
		{"columns: {a: uuid}\n", "{\"a\": \"TOPSECRET\"}"},
		{"columns: {a: bool}\n", "{\"a\": \"TOPSECRET\"}"},
		{"columns: {a: numeric}\n", "{\"a\": \"TOPSECRET\"}"},
		{"columns: {a: int8}\n", "{\"a\": {\"k\": \"TOPSECRET\"}}"},
		{"columns: {a: \"int8[]\"}\n", "{\"a\": [\"TOPSECRET\"]}"},
		{"columns: {b: {type: int8, sum: {add: {a.x: [created]}}}}\n",
		 "{\"a\": \"TOPSECRET\"}"},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct bench b;
		char yaml[256];
		snprintf(yaml, sizeof(yaml), "events: {created: [a]}\n%s", cases[i].yaml);
		bench_open(&b, yaml);
		assert_true(bench_fold(&b, 1, "created", cases[i].payload) > FOLD_DUPLICATE);
		assert_null(strstr(b.err.msg, "SECRET"));
		assert_says(b.err, "key a");
		bench_close(&b);
	}
}

/* ---- what holds of any stream ---- */

#define PROPERTY_YAML                                                                              \
	"events: {created: [a, \"b?\"], changed: [\"a?\", b], dropped: [b]}\ncolumns:\n"           \
	"  a: text\n"                                                                              \
	"  s: {type: int8, set: {b: [created, changed]}}\n"                                        \
	"  f: {flag: {raise: [changed], lower: [dropped]}}\n"                                      \
	"  l: {type: \"int8[]\", list: {add: {b: [created, changed]}, remove: {b: [dropped]}}}\n"  \
	"  j: {type: jsonb, list: {add: {b: [changed]}, remove: {b: [dropped]}, unique: true}}\n"  \
	"  n: {count: [created, changed, dropped]}\n"                                              \
	"  t: {type: numeric, sum: {add: {b: [changed]}, subtract: {b: [dropped]}}}\n"             \
	"  lo: {type: int8, min: {b: [changed]}}\n"                                                \
	"  hi: {type: int8, max: {b: [changed]}}\n"                                                \
	"  w: {type: timestamptz, first: {$time: [changed]}, clear: [dropped]}\n"                  \
	"  m: {type: jsonb, merge: {$payload: [created, changed]}}\n"

#define STREAM_EVENTS 60

static uint32_t next_random(uint32_t *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

struct stream {
	const char *type[STREAM_EVENTS];
	char payload[STREAM_EVENTS][96];
};

static void make_stream(struct stream *s, uint32_t seed)
{
	static const char *const types[] = {"created", "changed", "changed", "dropped"};
	for (int i = 0; i < STREAM_EVENTS; i++) {
		uint32_t b = next_random(&seed) % 7;
		s->type[i] = i == 0 ? "created" : types[next_random(&seed) % 4];
		if (s->type[i][0] == 'd')
			snprintf(s->payload[i], sizeof(s->payload[i]), "{\"b\": %u}", b);
		else
			snprintf(s->payload[i], sizeof(s->payload[i]), "{\"a\": \"%u\", \"b\": %u}",
				 next_random(&seed) % 100, b);
	}
}

/* The state survives being copied out and back, as through the cache or the warehouse. */
static void test_any_split_into_batches_gives_the_same_rows(void **state)
{
	for (uint32_t seed = 1; seed <= 30; seed++) {
		struct stream s;
		struct bench whole, split;
		uint32_t random = seed * 7919;
		make_stream(&s, seed);
		bench_open(&whole, PROPERTY_YAML);
		bench_open(&split, PROPERTY_YAML);
		struct buf keep = BUF_INIT;
		for (int i = 0; i < STREAM_EVENTS; i++) {
			assert_int_equal(bench_fold(&whole, i + 1, s.type[i], s.payload[i]),
					 FOLD_OK);
			if (split.have && next_random(&random) % 3 == 0) { /* the batch ends here */
				buf_clear(&keep);
				buf_add_slice(&keep, split.row.columns);
				memset((void *)(uintptr_t)split.row.columns.p, 0xEE,
				       split.row.columns.len);
				split.row.columns = buf_slice(&keep);
			}
			assert_int_equal(bench_fold(&split, i + 1, s.type[i], s.payload[i]),
					 FOLD_OK);
			assert_true(slice_eq(whole.row.columns, split.row.columns));
		}
		buf_release(&keep);
		bench_close(&whole);
		bench_close(&split);
	}
}

static void test_replay_of_any_prefix_changes_nothing(void **state)
{
	for (uint32_t seed = 1; seed <= 30; seed++) {
		struct stream s;
		struct bench b, plain;
		make_stream(&s, seed);
		bench_open(&b, PROPERTY_YAML);
		bench_open(&plain, PROPERTY_YAML);
		for (int i = 0; i < STREAM_EVENTS; i++) {
			assert_int_equal(bench_fold(&b, i + 1, s.type[i], s.payload[i]), FOLD_OK);
			assert_int_equal(bench_fold(&plain, i + 1, s.type[i], s.payload[i]),
					 FOLD_OK);
			struct fold_row before = b.row;
			for (int k = 0; i % 7 == 0 && k <= i; k++)
				assert_int_equal(bench_fold(&b, k + 1, s.type[k], s.payload[k]),
						 FOLD_DUPLICATE);
			assert_memory_equal(&b.row, &before, sizeof(before));
			assert_true(slice_eq(b.row.columns, plain.row.columns));
		}
		bench_close(&b);
		bench_close(&plain);
	}
}

static void test_rows_from_outside_are_checked(void **state)
{
	struct bench b;
	struct buf row = BUF_INIT;
	bench_open(&b, PROPERTY_YAML);
	fold_initial_columns(b.r, &row);
	assert_true(fold_columns_valid(b.r, buf_slice(&row)));
	for (size_t n = 0; n < row.len; n++) /* cut anywhere */
		assert_false(fold_columns_valid(b.r, slice_of(row.p, n)));
	buf_u8(&row, 0);
	assert_false(fold_columns_valid(b.r, buf_slice(&row))); /* one byte too many */
	buf_clear(&row);
	for (uint16_t i = 0; i < b.r->column_count; i++)
		buf_u32(&row, UINT32_MAX);
	assert_false(fold_columns_valid(b.r, buf_slice(&row))); /* a list is never NULL */
	buf_release(&row);
	bench_close(&b);
}

/* Cut or damaged payloads never read past their end (the sanitizers watch), whatever comes out. */
static void test_damaged_payloads_are_read_safely(void **state)
{
	static const char whole[] = "{\"a\": \"x\\u00e9\", \"b\": 12, \"zz\": {\"k\": [1, \"]\"]}}";
	struct bench b;
	uint32_t seed = 5;
	bench_open(&b, PROPERTY_YAML);
	for (int i = 0; i < 20000; i++) {
		size_t n = 1 + next_random(&seed) % (sizeof(whole) - 1);
		uint8_t *cut = rt_malloc(n);
		struct fold_row row;
		memcpy(cut, whole, n);
		for (int k = (int)(next_random(&seed) % 4); k > 0; k--)
			cut[next_random(&seed) % n] = "{}[]\"\\,: 1"[next_random(&seed) % 10];
		const struct fold_event e = {.id = entity_id(&b.arena),
					     .sequence = 1,
					     .event_type = slice_str("created"),
					     .payload = slice_of(cut, n)};
		enum fold_result rc = fold_apply(b.r, NULL, &e, &b.arena, &row, &b.note, &b.err);
		assert_true(rc == FOLD_OK || rc == FOLD_UNKNOWN_EVENT || rc == FOLD_MISSING_KEY ||
			    rc == FOLD_BAD_VALUE);
		free(cut);
	}
	bench_close(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fold_cases),
		cmocka_unit_test(test_every_reducer_has_its_cases),
		cmocka_unit_test(test_trap_33_gap_never_restarts_a_fold),
		cmocka_unit_test(test_trap_34_unknown_event_follows_the_declared_policy),
		cmocka_unit_test(test_trap_34_what_is_to_be_done_about_a_result),
		cmocka_unit_test(test_trap_33_an_event_that_is_passed_takes_its_version),
		cmocka_unit_test(test_trap_38_nulls_and_last_element_of_lists),
		cmocka_unit_test(test_trap_39_sums_are_exact),
		cmocka_unit_test(test_integers_beyond_double_are_exact),
		cmocka_unit_test(test_count_stops_at_its_types_end),
		cmocka_unit_test(test_reasons_hold_no_values),
		cmocka_unit_test(test_any_split_into_batches_gives_the_same_rows),
		cmocka_unit_test(test_replay_of_any_prefix_changes_nothing),
		cmocka_unit_test(test_rows_from_outside_are_checked),
		cmocka_unit_test(test_damaged_payloads_are_read_safely),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
