/* Definitions: what loads, every error with its place, and what the fingerprint is taken of. */
#include "tests/unit/unit.h"

#include <glob.h>

#include "transforms/rollup/definition.h"

#define HEAD "language: 1\nrollup: t\nsource: public.t\n"
#define ONE  "events: {created: [a, \"b?\", o], closed: [a]}\n"

static int parse(struct arena *a, const char *text, struct rollup **ret, struct rt_err *err)
{
	return rollup_parse(a, "t.yaml", text, strlen(text), ret, err);
}

static void test_a_whole_file(void **state)
{
	static const char text[] =
		"language: 1\n"
		"rollup: core_withdrawal_events_rollup\n"
		"source: public.core_withdrawal_events\n"
		"definition: 2\n"
		"description: Withdrawals\n"
		"source_columns: {recorded_at: at}\n"
		"id_type: int8\n"
		"unknown_event: ignore\n"
		"unknown_key: fail\n"
		"gap: fail\n"
		"events:\n"
		"  initialized: [amount, status, ledger_tx_id, \"note?\"]\n"
		"  confirmed: [ledger_tx_id, status]\n"
		"columns:\n"
		"  amount: {type: int8, set: [initialized], description: US cents}\n"
		"  status: text\n"
		"  ledger_tx_ids:\n"
		"    type: \"uuid[]\"\n"
		"    list: {add: {ledger_tx_id: [initialized, confirmed]}, unique: true, max: 9}\n"
		"  is_confirmed: {flag: {raise: [confirmed]}}\n"
		"  confirmed_at: {type: timestamptz, first: {$time: [confirmed]}}\n"
		"  note: {type: text, clear: [confirmed]}\n";
	struct arena a;
	struct rt_err err;
	struct rollup *r;
	arena_init(&a, 4096);
	assert_rc(parse(&a, text, &r, &err), err);
	assert_string_equal(r->name, "core_withdrawal_events_rollup");
	assert_string_equal(r->source_schema, "public");
	assert_string_equal(r->source_table, "core_withdrawal_events");
	assert_string_equal(r->source_column.recorded_at, "at");
	assert_string_equal(r->source_column.event, "event");
	assert_int_equal(r->id_type, PGT_INT8);
	assert_int_equal(r->definition, 2);
	assert_int_equal(r->unknown_event, POLICY_IGNORE);
	assert_int_equal(r->unknown_key, POLICY_FAIL);
	assert_int_equal(r->gap, POLICY_FAIL);
	assert_int_equal(r->column_count, 6);
	assert_string_equal(r->column[0].description, "US cents");
	assert_true(r->column[2].type.array && r->column[2].type.base == PGT_UUID);
	assert_true(r->column[2].list_unique && r->column[2].list_max == 9);
	assert_int_equal(r->column[3].type.base, PGT_BOOL);
	const struct rollup_event *e = rollup_find_event(r, slice_str("confirmed"));
	assert_int_equal(e->key_count, 2);
	assert_string_equal(e->key[0].name, "status"); /* shorter first, as jsonb orders keys */
	assert_int_equal(e->action_count, 5);
	static const enum rollup_verb verbs[] = {VERB_CARRY, VERB_LIST_ADD, VERB_RAISE, VERB_FIRST,
						 VERB_CLEAR};
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
		assert_int_equal(e->action[i].verb, verbs[i]);
		assert_int_equal(e->action[i].column, i + 1);
	}
	assert_int_equal(e->action[1].key, 1);
	assert_null(rollup_find_event(r, slice_str("confirme")));
	rollup_release(r);
	arena_release(&a);
}

/* Each text follows HEAD (three lines) unless it brings its own. */
static const struct {
	const char *text, *says;
} errors[] = {
	/* the top */
	{"language: 2\n", "t.yaml:1:11: this program reads language 1"},
	{"rollup: x\nlanguage: \"1a\"\n", "t.yaml:2:11: this program reads language 1"},
	{"rollup: t\n", "t.yaml:1:1: \"language\" is missing"},
	{"language: 1\nsource: public.t\n", "t.yaml:1:1: \"rollup\" is missing"},
	{"language: 1\nrollup: t\n", "\"source\" is missing"},
	{"language: 1\nrollup: T\n", "t.yaml:2:9: rollup \"T\": a letter, then"},
	{"language: 1\nrollup: [t]\n", "t.yaml:2:9: rollup must be a name"},
	{"language: 1\nrollup: a2345678901234567890123456789012345678901234567890x\n",
	 "t.yaml:2:9: rollup \"a23456789012345678901234567890123456789012345678"
	 "90x\" is longer than 50 bytes"},
	{"language: 1\nrollup: t_latest\n",
	 "t.yaml:2:9: rollup \"t_latest\": names that end so are kept for the program"},
	{"language: 1\nrollup: t__d2\n",
	 "t.yaml:2:9: rollup \"t__d2\": names that end so are kept for the program"},
	{"language: 1\nrollup: t\nsource: t\n", "t.yaml:3:9: source must be schema.table"},
	{"language: 1\nrollup: t\nsource: a.b.c\n", "source must be schema.table"},
	{"language: 1\nrollup: t\nsource: .b\n", "source must be schema.table"},
	{"- a\n", "t.yaml:1:1: the file must be a map"},
	{"polcy: x\n", "t.yaml:4:1: a rollup has no key \"polcy\""},
	{"event: {}\n", "t.yaml:4:1: a rollup has no key \"event\"; did you mean \"events\"?"},
	{"definition: 0\n", "t.yaml:4:13: definition must be a number from 1 to 999"},
	{"definition: x\n", "definition must be a number"},
	{"source_columns: [id]\n", "t.yaml:4:17: source_columns must be a map"},
	{"source_columns: {idd: x}\n",
	 "t.yaml:4:18: source_columns has no key \"idd\"; did you mean \"id\"?"},
	{"source_columns: {id: []}\n", "t.yaml:4:22: id must be a name"},
	{"id_type: date\n", "t.yaml:4:10: id_type must be uuid, varchar, text, int4 or int8"},
	{"timezone: X/Nowhere\n", "t.yaml:4:11: time zone \"X/Nowhere\" is not known here"},
	{"unknown_event: warn\n", "t.yaml:4:16: unknown_event must be quarantine, fail or ignore"},
	{"unknown_key: repair\n",
	 "t.yaml:4:14: unknown_key must be warn, quarantine, fail or ignore"},
	{"gap: ignore\n", "t.yaml:4:6: gap must be repair, quarantine or fail"},
	{"description: {}\nevents: {e: []}\n", "t.yaml:4:14: description must be text"},
	{"source_columns: {id: x, event: x}\n", "t.yaml:4:32: source_columns names \"x\" twice"},
	{"source_columns: {id: event}\n", "t.yaml:4:22: source_columns names \"event\" twice"},
	/* events */
	{"columns: {}\n", "\"events\" is missing"},
	{"events: [created]\n",
	 "t.yaml:4:9: events must be a map of event types, each with the list of its payload keys"},
	{"events: {}\n", "t.yaml:4:9: events must name 1 to 1000 event types"},
	{"events:\n  created:\n",
	 "event \"created\" needs the list of its payload keys ([]: none)"},
	{"events: {e: {a: 1}}\n", "t.yaml:4:13: event \"e\" needs the list"},
	{"events: {\"\": []}\n", "t.yaml:4:10: an event type must have a name"},
	{"events: {e: [[a]]}\n", "t.yaml:4:14: a payload key must be a name"},
	{"events: {e: [\"\"]}\n", "t.yaml:4:14: a payload key must be a name"},
	{"events: {e: [\"?\"]}\n", "t.yaml:4:14: a payload key must have a name"},
	{"events: {e: [a, \"a?\"]}\n", "t.yaml:4:17: key \"a\" stands twice"},
	{"events: {e: [a.b]}\n", "t.yaml:4:14: key \"a.b\": quotes, backslashes, dots"},
	{"events: {e: ['a\"']}\n", "t.yaml:4:14: key \"a\"\": quotes"},
	{"events: {e: [\"a ?\"]}\n", "t.yaml:4:14: key \"a \" begins or ends with a space"},
	{"events: {e: [id]}\n", "t.yaml:4:14: key \"id\" is implied"},
	{"events: {e: [\"type?\"]}\n", "t.yaml:4:14: key \"type\" is implied"},
	/* columns */
	{ONE, "\"columns\" is missing"},
	{ONE "columns: [a]\n", "t.yaml:5:10: columns must be a map"},
	{ONE "columns: {}\n", "t.yaml:5:10: columns must name 1 to 1500 columns"},
	{ONE "columns: {id: int8}\n", "t.yaml:5:11: column \"id\": every rollup has it"},
	{ONE "columns: {version: int8}\n", "column \"version\": every rollup has it"},
	{ONE "columns: {event_type: text}\n", "column \"event_type\": every rollup has it"},
	{ONE "columns: {xmin: int8}\n",
	 "t.yaml:5:11: column \"xmin\": PostgreSQL keeps this name for itself"},
	{ONE "columns: {tableoid: int8}\n", "column \"tableoid\": PostgreSQL keeps"},
	{ONE "columns: {_lsn: int8}\n", "t.yaml:5:11: column \"_lsn\": names that start with _"},
	{ONE "columns: {a-b: int8}\n", "t.yaml:5:11: column \"a-b\": a letter, then"},
	{ONE "columns: {A: int8}\n", "column \"A\": a letter, then"},
	{ONE "columns: {1a: int8}\n", "column \"1a\": a letter, then"},
	{ONE "columns: {a2345678901234567890123456789012345678901234567890123456789012xy: "
	     "text}\n",
	 "is longer than 63 bytes"},
	{ONE "columns: {a: [int8]}\n", "t.yaml:5:14: column \"a\" needs a type or a map"},
	{ONE "columns: {a: int}\n",
	 "t.yaml:5:14: column \"a\" has an unknown type \"int\"; did you mean \"int4\"?"},
	{ONE "columns: {a: BIGINT}\n", "unknown type \"BIGINT\"; did you mean \"int8\"?"},
	{ONE "columns: {a: \"boolean[]\"}\n",
	 "unknown type \"boolean[]\"; did you mean \"bool[]\"?"},
	{ONE "columns: {a: varchar(10)}\n",
	 "unknown type \"varchar(10)\"; did you mean \"varchar\"?"},
	{ONE "columns: {a: \"numeric(10,2) []\"}\n", "did you mean \"numeric[]\"?"},
	{ONE "columns: {a: timestamp}\n", "did you mean \"timestamptz\"?"},
	{ONE "columns: {a: float8}\n", "unknown type \"float8\": uuid, text, varchar, int2"},
	{ONE "columns:\n  a:\n", "t.yaml:6:5: column \"a\" needs a type"},
	{ONE "columns: {a: {type: \"\", set: [created]}}\n",
	 "t.yaml:5:21: column \"a\" needs a type"},
	{ONE "columns: {a: {set: [created]}}\n", "t.yaml:5:11: column \"a\" needs a type"},
	{ONE "columns: {a: {type: [x]}}\n", "t.yaml:5:21: column \"a\" has an unknown type:"},
	{ONE "columns: {z: int8}\n",
	 "t.yaml:5:11: no event lists a key \"z\" for this column to carry"},
	{ONE "columns: {a: {type: int8, sett: [created]}}\n",
	 "t.yaml:5:27: a column has no key \"sett\"; did you mean \"set\"?"},
	{ONE "columns: {a: {type: int8, carry: [created]}}\n",
	 "t.yaml:5:27: carry is what a column does that names no reducer: leave it out"},
	{ONE "columns: {a: {type: \"int8[]\", add: [created]}}\n",
	 "t.yaml:5:31: \"add\" stands inside list or sum"},
	{ONE "columns: {a: {type: \"int8[]\", list: {add: [created]}, unique: true}}\n",
	 "\"unique\" stands inside list"},
	{ONE "columns: {a: {raise: [created]}}\n", "\"raise\" stands inside flag"},
	{ONE "columns: {a: {type: int8, set: [created], first: [closed]}}\n",
	 "t.yaml:5:43: column \"a\" has both set and first"},
	{ONE "columns: {a: {type: int8, description: []}}\n",
	 "t.yaml:5:40: description must be text"},
	/* what feeds them */
	{ONE "columns: {a: {type: int8, set: created}}\n",
	 "t.yaml:5:32: {path: [event types]} or a list of event types is expected"},
	{ONE "columns: {a: {type: int8, set: {a: created}}}\n",
	 "t.yaml:5:36: a list of event types is expected"},
	{ONE "columns: {a: {type: int8, set: [creatd]}}\n",
	 "t.yaml:5:33: event \"creatd\" is not declared; did you mean \"created\"?"},
	{ONE "columns: {a: {type: int8, set: [frobnicated]}}\n",
	 "t.yaml:5:33: event \"frobnicated\" is not declared"},
	{ONE "columns: {a: {type: int8, set: [[created]]}}\n",
	 "t.yaml:5:33: an event type must be a name"},
	{ONE "columns: {b: {type: int8, set: [closed]}}\n",
	 "t.yaml:5:33: event \"closed\" has no key \"b\""},
	{ONE "columns: {x: {type: int8, set: {aa: [created]}}}\n",
	 "t.yaml:5:38: event \"created\" has no key \"aa\"; did you mean \"a\"?"},
	{ONE "columns: {x: {type: int8, set: {q.a: [created]}}}\n", "has no key \"q\""},
	{ONE "columns: {x: {type: int8, set: {payload.a: [created]}}}\n",
	 "t.yaml:5:45: event \"created\" has no key \"payload\": a path begins with a key of the "
	 "payload"},
	{ONE "columns: {x: {type: int8, set: {created: [a]}}}\n",
	 "t.yaml:5:33: \"created\" is an event type: what stands here is {path: [event types]}"},
	{ONE "columns: {x: {type: int8, set: {o..a: [created]}}}\n",
	 "t.yaml:5:33: path \"o..a\" has an empty key"},
	{ONE "columns: {x: {type: int8, set: {o.: [created]}}}\n", "has an empty key"},
	{ONE "columns: {x: {type: int8, set: {o.1.2.3.4.5.6.7.8.9.a.b.c.d.e.f.g: "
	     "[created]}}}\n",
	 "has more than 16 keys"},
	{ONE "columns: {x: {type: int8, set: {$now: [created]}}}\n",
	 "t.yaml:5:33: \"$now\" is not a source"},
	{ONE "columns: {x: {type: int8, set: {$time: [created]}}}\n",
	 "t.yaml:5:33: $time does not fit column \"x\" of type int8"},
	{ONE "columns: {x: {type: uuid, set: {$sequence: [created]}}}\n", "$sequence does not fit"},
	{ONE "columns: {x: {type: int8, set: {$type: [created]}}}\n", "$type does not fit"},
	{ONE "columns: {x: {type: text, set: {$payload: [created]}}}\n", "$payload does not fit"},
	{ONE "columns: {x: {type: \"timestamptz[]\", set: {$time: [created]}}}\n",
	 "$time does not fit"},
	{ONE "columns: {x: {type: jsonb, list: {init: {$payload: [created]}}}}\n",
	 "$payload does not fit"},
	{ONE "columns: {a: {type: int8, set: [created, created]}}\n",
	 "t.yaml:5:42: event \"created\" sets column \"a\" twice"},
	{ONE "columns: {x: {type: int8, set: {a: [created], b: [created]}}}\n",
	 "t.yaml:5:51: event \"created\" sets column \"x\" twice"},
	{ONE "columns: {a: {type: int8, set: [created], clear: [created]}}\n",
	 "t.yaml:5:51: event \"created\" both sets and clears column \"a\""},
	{ONE "columns: {a: {type: int8, clear: [closed]}}\n",
	 "event \"closed\" both carries and clears column \"a\""},
	/* reducers */
	{ONE "columns: {f: {type: int8, flag: {raise: [created]}}}\n",
	 "t.yaml:5:21: flag needs type bool; column \"f\" is int8"},
	{ONE "columns: {f: {flag: [created]}}\n", "t.yaml:5:21: flag must be a map"},
	{ONE "columns: {f: {flag: {lower: [created]}}}\n", "flag needs raise"},
	{ONE "columns: {f: {flag: {raise: {a: [created]}}}}\n",
	 "t.yaml:5:29: a list of event types is expected"},
	{ONE "columns: {f: {flag: {rise: [created]}}}\n",
	 "t.yaml:5:22: flag has no key \"rise\"; did you mean \"raise\"?"},
	{ONE "columns: {f: {flag: {raise: [created], lower: [created]}}}\n",
	 "event \"created\" both raises and lowers column \"f\""},
	{ONE "columns: {f: {flag: {raise: [created]}, clear: [closed]}}\n",
	 "clear cannot stand with flag: column \"f\" is never NULL"},
	{ONE "columns: {l: {type: int8, list: {add: {a: [created]}}}}\n",
	 "t.yaml:5:21: list needs an array or jsonb; column \"l\" is int8"},
	{ONE "columns: {l: {type: \"int8[]\", list: [created]}}\n", "list must be a map"},
	{ONE "columns: {l: {type: \"int8[]\", list: {unique: true}}}\n",
	 "list needs init, add or remove"},
	{ONE "columns: {l: {type: \"int8[]\", list: {add: {a: [created]}, unique: yes}}}\n",
	 "unique must be true or false"},
	{ONE "columns: {l: {type: \"int8[]\", list: {add: {a: [created]}, skip_null: 1}}}\n",
	 "skip_null must be true or false"},
	{ONE "columns: {l: {type: \"int8[]\", list: {add: {a: [created]}, max: 0}}}\n",
	 "max must be a number from 1 to 1000000"},
	{ONE "columns: {l: {type: \"int8[]\", list: {append: {a: [created]}}}}\n",
	 "list has no key \"append\""},
	{ONE "columns: {l: {type: \"int8[]\", list: {add: {a: [closed]}, remove: {a: "
	     "[closed]}}}}\n",
	 "event \"closed\" both adds to and removes from column \"l\""},
	{ONE "columns: {l: {type: \"int8[]\", list: {add: {a: [closed]}}, clear: [created]}}\n",
	 "clear cannot stand with list"},
	{ONE "columns: {n: {type: text, count: [created]}}\n",
	 "count needs type int2, int4 or int8; column \"n\" is text"},
	{ONE "columns: {n: {count: {a: [created]}}}\n", "a list of event types is expected"},
	{ONE "columns: {n: {type: text, sum: {add: {a: [created]}}}}\n",
	 "sum needs type int2, int4, int8 or numeric; column \"n\" is text"},
	{ONE "columns: {n: {type: int8, sum: {}}}\n", "sum needs add or subtract"},
	{ONE "columns: {n: {type: int8, sum: [created]}}\n", "sum must be a map"},
	{ONE "columns: {n: {type: int8, sum: {add: {a: [closed]}, subtract: {a: [closed]}}}}\n",
	 "both adds to and subtracts from"},
	{ONE "columns: {n: {type: jsonb, min: {a: [created]}}}\n",
	 "min needs a type with an order; column \"n\" is jsonb"},
	{ONE "columns: {n: {type: \"int8[]\", max: {a: [created]}}}\n",
	 "max needs a type with an order; column \"n\" is int8[]"},
	{ONE "columns: {o: {type: text, merge: [created]}}\n",
	 "merge needs type jsonb; column \"o\" is text"},
};

static void test_every_error_has_its_place(void **state)
{
	struct arena a;
	struct rt_err err;
	struct rollup *r;
	arena_init(&a, 1 << 16);
	for (size_t i = 0; i < ARRAY_LEN(errors); i++) {
		const char *text = errors[i].text;
		bool own = strstr(text, "language:") != NULL || text[0] == '-' ||
			   strncmp(text, "rollup:", 7) == 0;
		char *whole = arena_printf(&a, "%s%s", own ? "" : HEAD, text);
		if (parse(&a, whole, &r, &err) != ERR_PERMANENT)
			fail_msg("loads: %s", whole);
		assert_says(err, "t.yaml:");
		assert_says(err, errors[i].says);
	}
	arena_release(&a);
}

static void test_trap_49_yaml_names_are_names(void **state)
{
	/* on, no, yes, off, null, ~ and numbers are plain names here; ? and [] need their quotes in {}. */
	static const char text[] =
		HEAD "events: {on: [no, yes, \"off?\"], null: [no], 1: [\"~\"]}\n"
		     "columns:\n"
		     "  no: text\n"
		     "  on: {type: text, set: {yes: [on]}}\n"
		     "  x: {type: \"uuid[]\", list: {add: {no: [on, null]}}}\n"
		     "  y: {type: bool, flag: {raise: [1]}}\n";
	static const struct {
		const char *text, *says;
	} bad[] = {
		{HEAD "events: {on: [a], on: [b]}\ncolumns: {a: text}\n",
		 "t.yaml:4:19: key \"on\" stands twice"},
		{HEAD "events: {e: [a]}\ncolumns: {a: uuid[]}\n",
		 "t.yaml:5:18: did not find expected ',' or '}' (a text with brackets, braces, "
		 "commas or colons in it needs quotes)"},
		{HEAD "events: {e: [a]}\ncolumns: {a: !!text uuid}\n",
		 "t.yaml:5:14: tags are not supported"},
		{HEAD "events: {e: &k [a], f: *k}\ncolumns: {a: text}\n",
		 "t.yaml:4:13: anchors are not supported"},
		{HEAD "events: {e: [a]}\ncolumns: {a: text, a: uuid}\n",
		 "t.yaml:5:20: key \"a\" stands twice"},
	};
	struct arena a;
	struct rt_err err;
	struct rollup *r;
	arena_init(&a, 4096);
	assert_rc(parse(&a, text, &r, &err), err);
	assert_string_equal(r->event[0].name, "on");
	assert_string_equal(r->event[1].name, "null");
	assert_string_equal(r->column[0].name, "no");
	assert_non_null(rollup_find_event(r, slice_str("1")));
	rollup_release(r);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_int_equal(parse(&a, bad[i].text, &r, &err), ERR_PERMANENT);
		assert_says(err, bad[i].says);
	}
	arena_release(&a);
}

static uint64_t fingerprint(const char *text)
{
	struct arena a;
	struct rt_err err;
	struct rollup *r;
	arena_init(&a, 4096);
	assert_rc(parse(&a, text, &r, &err), err);
	uint64_t f = r->fingerprint;
	rollup_release(r);
	arena_release(&a);
	return f;
}

#define BASE                                                                                       \
	HEAD "events: {created: [a, \"b?\"], closed: [a, c]}\n"                                    \
	     "columns:\n  a: int8\n  b: {type: text, set: [created], clear: [closed]}\n"           \
	     "  l: {type: \"int8[]\", list: {add: {a: [created, closed]}}}\n"

static void test_fingerprint_ignores_how_it_is_written(void **state)
{
	static const char *const same[] = {
		/* comments, layout, order of keys, events, columns and lists; descriptions, policies, number */
		"# x\n" BASE,
		"source: public.t\nrollup: t\nlanguage: 1\n"
		"columns:\n"
		"  l:\n    list:\n      add:\n        a:\n          - closed\n          - created\n"
		"    type: \"int8[]\"\n    description: what\n"
		"  b: {clear: [closed], set: {b: [created]}, type: text}\n"
		"  a: {type: int8}\n"
		"events:\n  closed: [c, a]\n  created: [\"b?\", a]\n",
		BASE "definition: 7\nunknown_event: fail\nunknown_key: fail\ngap: fail\n"
		     "description: y\ntimezone: UTC\nid_type: uuid\nsource_columns: {id: id}\n",
		/* what no column reads */
		HEAD "events: {created: [a, \"b?\", zz], closed: [a], more: [x]}\n"
		     "columns:\n  a: int8\n  b: {type: text, set: [created], clear: [closed]}\n"
		     "  l: {type: \"int8[]\", list: {add: {a: [created, closed]}}}\n",
	};
	for (size_t i = 0; i < ARRAY_LEN(same); i++)
		if (fingerprint(same[i]) != fingerprint(BASE))
			fail_msg("differs: %s", same[i]);
}

static void test_fingerprint_changes_with_meaning(void **state)
{
	static const struct {
		const char *from, *to;
	} changes[] = {
		{"rollup: t", "rollup: u"},
		{"public.t", "public.u"},
		{"public.t", "other.t"},
		{"a: int8\n", "a: int4\n"},
		{"a: int8\n", "a: {type: int8, set: [created, closed]}\n"},
		{"a: int8\n", "a: int8\n  c: text\n"},
		{"\"b?\"", "b"},
		{"set: [created]", "first: [created]"},
		{"set: [created]", "set: {a: [created]}"},
		{", clear: [closed]", ""},
		{"{a: [created, closed]}", "{a: [created]}"},
		{"{a: [created, closed]}}", "{a: [created, closed]}, unique: true}"},
		{"{a: [created, closed]}}", "{a: [created, closed]}, skip_null: true}"},
		{"{a: [created, closed]}}", "{a: [created, closed]}, max: 5}"},
		{"add:", "remove:"},
		{"events:", "id_type: int8\nevents:"},
		{"events:", "timezone: Europe/Zurich\nevents:"},
		{"events:", "source_columns: {event: payload}\nevents:"},
	};
	uint64_t seen[ARRAY_LEN(changes) + 1];
	seen[ARRAY_LEN(changes)] = fingerprint(BASE);
	for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
		const char *at = strstr(BASE, changes[i].from);
		assert_non_null(at);
		char *text = rt_sprintf("%.*s%s%s", (int)(at - BASE), BASE, changes[i].to,
					at + strlen(changes[i].from));
		seen[i] = fingerprint(text);
		for (size_t j = 0; j < i; j++)
			if (seen[j] == seen[i])
				fail_msg("changes %zu and %zu look the same", j, i);
		if (seen[i] == seen[ARRAY_LEN(changes)])
			fail_msg("no change: %s", text);
		free(text);
	}
}

static void test_columns_are_described(void **state)
{
	static const char text[] =
		HEAD "events: {created: [a, o], changed: [a], closed: []}\n"
		     "columns:\n"
		     "  a: {type: int8, set: [created, changed], clear: [closed]}\n"
		     "  x: {type: text, set: {o.k: [created], a: [changed]}}\n"
		     "  f: {flag: {raise: [closed]}}\n"
		     "  g: {flag: {raise: []}}\n"
		     "  t: {type: timestamptz, first: {$time: [changed, closed]}}\n";
	static const char *const says[] = {
		"set from payload.a on created, changed; cleared on closed",
		"set from payload.o.k on created; set from payload.a on changed",
		"true on closed",
		"no event writes it",
		"first of $time on changed, closed",
	};
	struct arena a;
	struct rt_err err;
	struct rollup *r;
	struct buf out = BUF_INIT;
	arena_init(&a, 4096);
	assert_rc(parse(&a, text, &r, &err), err);
	for (size_t i = 0; i < ARRAY_LEN(says); i++) {
		buf_clear(&out);
		rollup_describe_column(r, &r->column[i], &out);
		assert_string_equal(buf_cstr(&out), says[i]);
	}
	buf_release(&out);
	rollup_release(r);
	arena_release(&a);
}

static void test_the_pack_loads(void **state)
{
	struct arena a;
	struct rt_err err;
	glob_t g;
	assert_int_equal(glob("transforms/lana/rollups/*.yaml", 0, NULL, &g), 0);
	assert_int_equal(g.gl_pathc, 33);
	for (size_t i = 0; i < g.gl_pathc; i++) {
		struct rollup *r;
		arena_init(&a, 1 << 16);
		assert_rc(rollup_load(&a, g.gl_pathv[i], &r, &err), err);
		assert_non_null(
			strstr(g.gl_pathv[i], r->name)); /* the file is named as its rollup */
		assert_true(r->event_count > 0 && r->column_count > 0);
		rollup_release(r);
		arena_release(&a);
	}
	globfree(&g);
}

static void test_a_missing_file_is_permanent(void **state)
{
	struct arena a;
	struct rt_err err;
	struct rollup *r;
	arena_init(&a, 4096);
	assert_int_equal(rollup_load(&a, "tests/data/fold/none.yaml", &r, &err), ERR_PERMANENT);
	assert_says(err, "none.yaml");
	arena_release(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_whole_file),
		cmocka_unit_test(test_every_error_has_its_place),
		cmocka_unit_test(test_trap_49_yaml_names_are_names),
		cmocka_unit_test(test_fingerprint_ignores_how_it_is_written),
		cmocka_unit_test(test_fingerprint_changes_with_meaning),
		cmocka_unit_test(test_columns_are_described),
		cmocka_unit_test(test_the_pack_loads),
		cmocka_unit_test(test_a_missing_file_is_permanent),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
