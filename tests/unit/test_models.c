/* models: the scanner, the reader of projects, the graph and selectors; the latter two against brute force. */
#include "tests/unit/unit.h"

#include "proto/base/buf.h"
#include "transforms/models/csv.h"
#include "transforms/models/render.h"
#include "transforms/models/select.h"

static struct arena arena;
static struct rt_err err;

static int setup(void **state)
{
	(void)state;
	arena_init(&arena, 4096);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	arena_release(&arena);
	return 0;
}

/* ---- scanner ---- */

static void says(const char *sql, const char *message)
{
	struct model_text t;
	if (model_scan(&arena, "m.sql", slice_str(sql), &t, &err) == 0)
		fail_msg("taken: %s", sql);
	assert_says(err, message);
}

static struct model_text takes(const char *sql)
{
	struct model_text t;
	if (model_scan(&arena, "m.sql", slice_str(sql), &t, &err) != 0)
		fail_msg("%s: %s", sql, err.msg);
	return t;
}

static void test_braces_become_pieces(void **state)
{
	(void)state;
	struct model_text t =
		takes("{{ config(materialized='table') }}\nselect {{ var(\"v\") }}, 'a{b}'\n"
		      "from {{ref('m')}} m, {{- source( 's' , 't', ) -}}, {{ this }}");
	assert_int_equal(t.materialized, MATERIALIZED_TABLE);
	assert_int_equal(t.piece_count, 8);
	assert_int_equal(t.piece[1].kind, PIECE_VAR);
	assert_string_equal(t.piece[1].name, "v");
	assert_int_equal(t.piece[1].line, 2);
	assert_int_equal(t.piece[1].column, 11);
	assert_int_equal(t.piece[3].kind, PIECE_REF);
	assert_int_equal(t.piece[5].kind, PIECE_SOURCE);
	assert_string_equal(t.piece[5].name, "s");
	assert_string_equal(t.piece[5].table, "t");
	assert_int_equal(t.piece[7].kind, PIECE_THIS);
	assert_true(slice_is(t.piece[2].sql, ", 'a{b}'\nfrom "));
}

static void test_comments_are_left_out_or_left_alone(void **state)
{
	(void)state;
	struct model_text t = takes(
		"select 1 {# {{ nonsense( }} now() #}+ 1 -- now() don't\n/* random() /* ' */ */");
	assert_int_equal(t.piece_count, 2);
	assert_true(slice_is(t.piece[0].sql, "select 1 "));
	/* As dbt has it, a ref in a comment of SQL is one. */
	t = takes("select 1 -- {{ ref('m') }}\n");
	assert_int_equal(t.piece[1].kind, PIECE_REF);
	says("select 1 {# not closed", "m.sql:1:10: {# is not closed");
	says("select 1 /* /* */", "m.sql:1:10: the comment is not closed");
}

static void test_other_braces_are_refused(void **state)
{
	(void)state;
	says("{% if x %}", "m.sql:1:1: {% … %} is not known");
	says("select\n  {{ dbt_utils.star(ref('x')) }}", "m.sql:2:15: }} is expected here");
	says("{{ env_var('x') }}", "m.sql:1:4: {{ env_var }} is not known");
	says("{{ ref('a', 'b') }}", "it is written {{ ref('model') }}");
	says("{{ ref(a) }}", "only names in quotes");
	says("{{ ref }}", "it is written");
	says("{{ this() }}", "m.sql:1:4");
	says("{{ config(materialized='incremental') }}", "'view' or 'table', not 'incremental'");
	says("{{ config(tags='x') }}", "nothing else");
	says("{{ config(materialized='view') }}{{ config(materialized='view') }}",
	     "config stands twice");
	says("{{ ref('a' }}", "a comma or ) is expected here");
	says("{{ 'a' }}", "braces hold ref");
	says("{{ ref('a') | upper }}", "}} is expected");
	says("select '{{ ref(\"a\") }}'", "braces within quotes");
	says("select $$ {{ $$", "braces within quotes");
	says("select {1}", "a brace means nothing here");
	says("{{", "m.sql:1:1");
}

static void test_the_present_is_refused(void **state)
{
	(void)state;
	static const char *const refused[] = {"select now()",
					      "select NOW ()",
					      "select pg_catalog.now()",
					      "select \"now\"()",
					      "select now/* x */()",
					      "select now -- x\n()",
					      "select current_date",
					      "select Current_Timestamp(3)",
					      "select localtime",
					      "select clock_timestamp()",
					      "select random()",
					      "select timeofday()",
					      "select 'now'::timestamptz",
					      "select date 'today'",
					      "select ' Tomorrow 12:00 '::timestamp",
					      "select cast('yesterday' as date)",
					      "select $$now$$::timestamptz",
					      "select E'now'::date",
					      "select age(x)",
					      "select age((x, y))",
					      "select nextval('s')",
					      "select gen_random_uuid()"};
	static const char *const taken[] = {"select 'now and then'",
					    "select \"now\" from t",
					    "select a.now from t",
					    "select nowhere()",
					    "select age(x, y)",
					    "select age((a), f(b, c))",
					    "select 'current_date'",
					    "select t.\"current_date\"",
					    "select 'today I saw'",
					    "select -- now()\n 1",
					    "select $x$ it's $$ now() $x$",
					    "select a$1 from t where $1 = $2",
					    "select 1;",
					    "select 1 ; -- end\n",
					    "select '12:00'",
					    "select E'it\\'s now()'",
					    "select 'it''s now()'"};
	for (size_t i = 0; i < ARRAY_LEN(refused); i++)
		says(refused[i], "m.sql:");
	for (size_t i = 0; i < ARRAY_LEN(taken); i++)
		takes(taken[i]);
	says("select 1,\n  ä, now()", "m.sql:2:6: now() differs from call to call");
}

static void test_sql_that_is_not_whole_is_refused(void **state)
{
	(void)state;
	says("select 'x", "m.sql:1:8: the quote is not closed");
	says("select \"x", "the quote is not closed");
	says("select $a$ x $b$", "the dollar quote is not closed");
	says("select (1", "this ( is not closed");
	says("select 1)", "m.sql:1:9: this ) closes nothing");
	says("select 1; drop table x", "m.sql:1:11: a model is one SELECT");
	says("select 1; {{ ref('x') }}", "m.sql:1:11: a model is one SELECT");
	says("select U&'\\0061'", "U& is not taken");
	struct model_text t;
	assert_int_equal(model_scan(&arena, "m.sql", slice_of("a\0b", 3), &t, &err), ERR_PERMANENT);
	assert_says(err, "m.sql:1:2: a NUL byte");
}

/* ---- projects ---- */

#define FILES 12

static struct models_file file[FILES];
static size_t file_count;

static void add(const char *path, const char *text)
{
	file[file_count++] = (struct models_file){path, slice_str(text)};
}

static void begin(void)
{
	file_count = 0;
	add("dbt_project.yml", "name: p\nvars: {x: \"'y'\"}\n");
}

static struct models *reads(void)
{
	struct models *m = NULL;
	if (models_read(&arena, file, file_count, &m, &err) != 0)
		fail_msg("%s", err.msg);
	return m;
}

static void read_says(const char *message)
{
	struct models *m;
	if (models_read(&arena, file, file_count, &m, &err) == 0)
		fail_msg("taken, where \"%s\" was expected", message);
	assert_int_equal(err.code, ERR_PERMANENT);
	assert_says(err, message);
}

static void test_a_project_is_read(void **state)
{
	(void)state;
	begin();
	add("models/staging/a.sql", "select * from {{ source('raw', 't') }}");
	add("models/staging/s.yml",
	    "sources: [{name: raw, tables: [{name: t}]}, {name: e, schema: ext, loaded_at_field: "
	    "at, "
	    "config: {freshness: {warn_after: {count: 2, period: hour}}}, tables: [{name: u, "
	    "freshness: {error_after: {count: 1, period: day}}}, {name: v, freshness: null}]}]");
	add("models/outputs/deep/b.sql",
	    "select x, {{ var('x') }} from {{ ref('a') }}, {{ ref('s') }}");
	add("models/m.yml", "models:\n- name: b\n  description: B\n  config: {contract: {enforced: "
			    "true}}\n  columns:\n  - name: x\n"
			    "    data_type: numeric(20,2)\n    data_tests:\n    - not_null\n    - "
			    "unique: {config: {severity: warn}}\n"
			    "    - accepted_values: {arguments: {values: [a]}, where: \"x > 0\"}\n"
			    "    - relationships: {to: ref('a'), field: id}\n    - "
			    "dbt_utils.expression_is_true: {expression: \"> 0\"}\n");
	add("seeds/s.csv", "a,b\n1,2\n");
	struct models *m = reads();
	const struct model *b = models_find(m, "b");
	assert_int_equal(m->model_count, 3);
	assert_true(b->table && b->contract && !models_find(m, "a")->table &&
		    models_find(m, "s")->table);
	assert_int_equal(b->test_count, 5);
	assert_true(b->test[1].warns && !b->test[0].warns);
	assert_string_equal(b->test[2].where, "x > 0");
	assert_string_equal(b->test[3].to, "a");
	assert_string_equal(b->test[4].expression, "\"x\" > 0");
	assert_int_equal(b->input_count, 2);
	assert_int_equal(models_find_source(m, "e", "u")->error_after_us, INT64_C(86400000000));
	assert_int_equal(models_find_source(m, "e", "u")->warn_after_us, 0);
	assert_int_equal(models_find_source(m, "e", "v")->warn_after_us, 0);
	assert_true(models_find_source(m, "raw", "t")->landed);
}

static void test_what_is_wrong_in_a_project_has_its_place(void **state)
{
	(void)state;
	static const struct {
		const char *path, *text, *message;
	} wrong[] = {
		{"models/a.sql", "select 1", "models/a.sql:1:1: a model is in models/staging"},
		{"models/staging/A.sql", "select 1", "models/staging/A.sql:1:1: the file's name"},
		{"models/outputs/good.sql", "select 1",
		 "models/outputs/good.sql:1:1: good is the name of models/staging/good.sql"},
		{"models/outputs/b.sql", "select 1\nfrom {{ ref('goof') }}",
		 "models/outputs/b.sql:2:9: there is no model goof; did you mean good?"},
		{"models/outputs/b.sql", "select {{ var('run') }}", "there is no variable run"},
		{"models/outputs/b.sql", "{{ config(materialized='view') }} select 1",
		 "models/outputs/b.sql:1:4: an output is a table"},
		{"models/intermediate/b.sql", "select * from {{ source('raw', 't') }}",
		 "b.sql:1:18: only models of staging read sources"},
		{"models/staging/b.sql", "select * from {{ source('raw', 'tt') }}",
		 "no *.yml declares source raw.tt; did you mean raw.t?"},
		{"models/m.yml", "modles: []",
		 "models/m.yml:1:1: the file has no key \"modles\"; did you mean \"models\"?"},
		{"models/m.yml", "models: [{name: goop}]", "there is no model goop"},
		{"models/m.yml", "models: [{name: good}, {name: good}]",
		 "models/m.yml:1:24: good is described at models/m.yml:1, too"},
		{"models/m.yml", "models: [{name: good, columns: [{name: x, tests: [notnull]}]}]",
		 "there is no test notnull; did you mean not_null?"},
		{"models/m.yml", "models: [{name: good, tests: [not_null]}]",
		 "not_null wants a column"},
		{"models/m.yml",
		 "models: [{name: good, columns: [{name: x, tests: [{relationships: {to: "
		 "ref('good')}}]}]}]",
		 "relationships wants to and field"},
		{"models/m.yml",
		 "models: [{name: good, columns: [{name: x, tests: [{expression: 'x < now()'}]}]}]",
		 "models/m.yml:1:64: in this SQL"},
		{"models/m.yml",
		 "models: [{name: good, config: {contract: {enforced: true}}, columns: [{name: "
		 "x}]}]",
		 "column x wants a data_type"},
		{"models/m.yml",
		 "models: [{name: good, columns: [{name: x, data_type: 'int); drop'}]}]",
		 "data_type is a type"},
		{"models/m.yml", "models: [{name: good, columns: [{name: x}, {name: x}]}]",
		 "column x stands twice"},
		{"models/m.yml", "models: [{name: good, config: {materialized: incremental}}]",
		 "materialized is view or table"},
		{"models/m.yml", "sources: [{name: raw, tables: [{name: t}]}]",
		 "source raw.t is declared at"},
		{"models/m.yml",
		 "sources: [{name: e, tables: [{name: t, freshness: {warn_after: {count: 1, "
		 "period: week}}}]}]",
		 "period is minute, hour or day"},
		{"models/m.yml",
		 "sources: [{name: e, tables: [{name: t, freshness: {warn_after: {count: 1, "
		 "period: day}}}]}]",
		 "wants a loaded_at_field"},
		{"models/m.yml",
		 "sources: [{name: e, loaded_at_field: now(), tables: [{name: t}]}]",
		 "is not an expression of SQL"},
		{"models/m.yml",
		 "models: [{name: good, columns: [{name: x, tests: [unique, {unique: {severity: "
		 "fatal}}]}]}]",
		 "severity is warn or error"},
	};
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		begin();
		add("models/staging/good.sql", "select * from {{ source('raw', 't') }}");
		add("models/staging/s.yml", "sources: [{name: raw, tables: [{name: t}]}]");
		reads();
		add(wrong[i].path, wrong[i].text);
		read_says(wrong[i].message);
	}
	file_count = 0;
	read_says("dbt_project.yml:1:1: it is missing");
	add("dbt_project.yml", "name: p\non-run-start: [\"x\"]\n");
	read_says("dbt_project.yml:2:1: dbt_project.yml has no key \"on-run-start\"");
	file_count = 0;
	add("dbt_project.yml", "name: p\nmodel-paths: [sql]\n");
	read_says("dbt_project.yml:2:14: model-paths");
}

static void test_the_deepest_folder_says_how_models_are_made(void **state)
{
	(void)state;
	file_count = 0;
	add("dbt_project.yml", "name: p\nmodels: {p: {+materialized: table, staging: "
			       "{+materialized: view, core: {+materialized: table}}}}\n");
	add("models/staging/a.sql", "select 1");
	add("models/staging/core/b.sql", "select 1");
	add("models/intermediate/c.sql", "select 1");
	add("models/intermediate/d.sql", "{{ config(materialized='view') }} select 1");
	struct models *m = reads();
	assert_false(models_find(m, "a")->table);
	assert_true(models_find(m, "b")->table);
	assert_true(models_find(m, "c")->table);
	assert_false(models_find(m, "d")->table);
}

static void test_a_circle_is_named(void **state)
{
	(void)state;
	begin();
	add("models/intermediate/a.sql", "select 1 from {{ ref('b') }}");
	add("models/intermediate/b.sql", "select 1 from {{ ref('c') }}");
	add("models/intermediate/c.sql", "select 1 from\n{{ ref('b') }}");
	read_says("models/intermediate/c.sql:2:4: models read each other in a circle: b -> c -> b");
	begin();
	add("models/intermediate/a.sql", "select 1 from {{ ref('a') }}");
	read_says("a.sql:1:18: models read each other in a circle: a -> a");
}

static void test_fingerprints_follow_sql_inputs_and_values(void **state)
{
	(void)state;
	begin();
	add("models/staging/a.sql", "select 1 from {{ source('raw', 't') }}");
	add("models/staging/s.yml", "sources: [{name: raw, tables: [{name: t}]}]");
	add("models/intermediate/b.sql", "select {{ var('as_of') }} from {{ ref('a') }}");
	struct models *m = reads();
	const struct model *a = models_find(m, "a"), *b = models_find(m, "b");
	struct model_fingerprint f[2];
	const char *one[] = {"1"}, *two[] = {"2"};
	f[a - m->model] = model_fingerprint(m, a, f, one, "x", "r");
	struct model_fingerprint first = model_fingerprint(m, b, f, one, "x", "r");
	assert_string_equal(first.hex, model_fingerprint(m, b, f, one, "x", "other").hex);
	assert_string_not_equal(first.hex, model_fingerprint(m, b, f, one, "y", "r").hex);
	assert_string_not_equal(f[a - m->model].hex, model_fingerprint(m, a, f, two, "x", "r").hex);
	f[a - m->model] = model_fingerprint(m, a, f, two, "x", "r");
	assert_string_not_equal(first.hex, model_fingerprint(m, b, f, one, "x", "r").hex);
	assert_string_equal(render_as_of(&arena, -1), "'1969-12-31'::date");
	assert_string_equal(render_run_at(&arena, 1769817600000001),
			    "'2026-01-31 00:00:00.000001+00'::timestamptz");
}

/* What reads only the day of the run is the same all day. */
static void test_a_model_of_the_day_is_the_same_within_the_day(void **state)
{
	(void)state;
	begin();
	add("models/staging/sources.yml", "sources: [{name: raw, tables: [{name: t}]}]");
	add("models/intermediate/a.sql", "select {{ var('run_day') }} as d");
	struct models *m = reads();
	const struct model *a = models_find(m, "a");
	struct buf out = BUF_INIT;
	const int64_t midnight = INT64_C(1769817600000000), day = INT64_C(86400000000);
	struct render_names names = {.run_at = render_run_at(&arena, midnight + 1)};
	model_render(m, a, &names, &out, NULL);
	assert_string_equal(buf_cstr(&out), "select '2026-01-31'::date as d");
	buf_release(&out);
	struct model_fingerprint f = model_fingerprint(m, a, NULL, NULL, "x", names.run_at);
	assert_string_equal(f.hex, model_fingerprint(m, a, NULL, NULL, "x",
						     render_run_at(&arena, midnight + day - 1))
					   .hex);
	assert_string_not_equal(f.hex, model_fingerprint(m, a, NULL, NULL, "x",
							 render_run_at(&arena, midnight + day))
					       .hex);
}

/* ---- graphs: random ones against an oracle that follows edges by brute force ---- */

#define NODES 14

static uint64_t seed = 1;

static uint32_t random_below(uint32_t n)
{
	seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(seed >> 33) % n;
}

static bool edge[NODES][NODES]; /* [a][b]: a reads b */
static bool reach[NODES][NODES];

static void find_reach(void)
{
	memcpy(reach, edge, sizeof(reach));
	for (int k = 0; k < NODES; k++)
		for (int i = 0; i < NODES; i++)
			for (int j = 0; j < NODES; j++)
				reach[i][j] = reach[i][j] || (reach[i][k] && reach[k][j]);
}

static struct models_file *random_project(size_t n, uint32_t density, bool forward_only)
{
	struct models_file *f = arena_zalloc(&arena, (n + 1) * sizeof(*f));
	memset(edge, 0, sizeof(edge));
	f[0] = (struct models_file){"dbt_project.yml", slice_str("name: p")};
	for (size_t i = 0; i < n; i++) {
		struct buf sql = buf_in_arena(&arena, NULL, 0);
		buf_str(&sql, "select 1");
		for (size_t k = 0; k < n; k++) {
			/* Names are in another order than edges. */
			if (random_below(100) >= density ||
			    (forward_only && (k * 5 + 3) % NODES >= (i * 5 + 3) % NODES))
				continue;
			edge[i][k] = true;
			buf_printf(&sql, " {{ ref('%c_') }}", (int)('a' + k));
		}
		f[i + 1].path = arena_printf(&arena, "models/%s/%c_.sql",
					     i % 2 ? "staging" : "intermediate", (int)('a' + i));
		f[i + 1].text = slice_str(buf_cstr(&sql));
	}
	find_reach();
	return f;
}

static void check_order(const struct models *m)
{
	size_t at[NODES];
	for (size_t k = 0; k < m->model_count; k++)
		at[m->order[k]] = k;
	for (size_t i = 0; i < m->model_count; i++)
		for (size_t k = 0; k < m->model_count; k++)
			assert_true(!edge[i][k] || at[k] < at[i]);
}

static void check_selector(const struct models *m)
{
	bool set[NODES], want[NODES] = {false};
	char text[64];
	struct buf all = buf_in_arena(&arena, NULL, 0);
	uint32_t words = 1 + random_below(3);
	for (uint32_t w = 0; w < words; w++) {
		size_t node = random_below((uint32_t)m->model_count);
		bool up = random_below(2), down = random_below(2);
		bool folder = random_below(5) == 0;
		snprintf(text, sizeof(text), folder ? "%s%s%s " : "%s%s_%s ", up ? "+" : "",
			 folder ? (node % 2 ? "staging" : "path:models/intermediate")
				: (char[]){(char)('a' + node), '\0'},
			 down ? "+" : "");
		buf_str(&all, text);
		for (size_t i = 0; i < m->model_count; i++)
			for (size_t b = 0; b < m->model_count; b++) {
				bool base = folder ? b % 2 == node % 2 : b == node;
				want[i] |= base &&
					   (i == b || (up && reach[b][i]) || (down && reach[i][b]));
			}
	}
	const char *one = buf_cstr(&all);
	assert_rc(models_select(m, &one, 1, NULL, 0, set, &err), err);
	for (size_t i = 0; i < m->model_count; i++)
		if (set[i] != want[i])
			fail_msg("selector \"%s\": model %zu is %s", one, i,
				 want[i] ? "missing" : "too many");
}

static void test_random_graphs_are_ordered_and_selected_from(void **state)
{
	(void)state;
	int cycles = 0, orders = 0;
	for (int round = 0; round < 400; round++) {
		arena_reset(&arena);
		size_t n = 1 + random_below(NODES);
		struct models_file *f = random_project(n, 5 + random_below(30), round % 2 == 0);
		struct models *m;
		bool cyclic = false;
		for (size_t i = 0; i < n; i++)
			cyclic |= reach[i][i];
		int rc = models_read(&arena, f, n + 1, &m, &err);
		if (cyclic) {
			assert_int_equal(rc, ERR_PERMANENT);
			const char *path = strstr(err.msg, "circle: ");
			assert_non_null(path);
			/* Every step of the path is an edge, and it ends where it began. */
			path += strlen("circle: ");
			char first = path[0];
			for (; strlen(path) > 2; path += 6)
				assert_true(edge[path[0] - 'a'][path[6] - 'a']);
			assert_int_equal(path[0], first);
			cycles++;
			continue;
		}
		assert_rc(rc, err);
		check_order(m);
		for (int k = 0; k < 5; k++)
			check_selector(m);
		orders++;
	}
	assert_true(cycles > 50 && orders > 100);
}

static void test_selectors_that_mean_nothing_are_errors(void **state)
{
	(void)state;
	begin();
	add("models/outputs/out.sql", "select 1");
	add("seeds/unread.csv", "a\n");
	struct models *m = reads();
	const struct models_report report[] = {
		{"nrp_92/01", "out"}, {"nrp_92/04", NULL}, {"nrp_92/05", "gone"}};
	static const struct {
		const char *selector, *message;
	} wrong[] = {{"ouch", "did you mean out?"},
		     {"", "a selector is empty"},
		     {"+", "no model"},
		     {"path:models/x", "there is no model"},
		     {"report:nrp_92/02", "did you mean nrp_92/01?"},
		     {"report:nrp_92/05", "is of model gone"},
		     {"out outer", "outer is no model"}};
	bool set[2];
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		assert_true(models_select(m, &wrong[i].selector, 1, report, 3, set, &err) < 0);
		assert_says(err, wrong[i].message);
	}
	const char *good[] = {"report:nrp_92/01", "report:nrp_92/04"};
	assert_rc(models_select(m, good, 2, report, 3, set, &err), err);
	assert_true(set[0] && !set[1]);
	assert_rc(models_select(m, NULL, 0, NULL, 0, set, &err), err);
	assert_true(set[0] && !set[1]); /* a seed that nothing reads is not built */
}

/* ---- CSV ---- */

static void csv_is(const char *text, const char *shown)
{
	struct csv c;
	struct buf out = buf_in_arena(&arena, NULL, 0);
	int rc;
	csv_init(&c, "s.csv", slice_str(text));
	while ((rc = csv_next(&c, &err)) == 1) {
		buf_printf(&out, "%d:", c.record_line);
		for (size_t i = 0; i < c.count; i++) {
			buf_str(&out, c.field[i].null ? "[NULL]" : "[");
			buf_add_slice(&out, c.field[i].text);
			buf_str(&out, c.field[i].null ? "" : "]");
		}
	}
	if (rc < 0)
		buf_str(&out, err.msg);
	assert_string_equal(buf_cstr(&out), shown);
	csv_release(&c);
}

static void test_csv_is_read_as_the_rfc_says(void **state)
{
	(void)state;
	csv_is("a,b\n1,2\n", "1:[a][b]2:[1][2]");
	csv_is("\xEF\xBB\xBF"
	       "a,b\r\n\"x,\"\"y\"\"\n z\",\r\n,\"\"",
	       "1:[a][b]2:[x,\"y\"\n z][NULL]4:[NULL][]");
	csv_is("", "");
	csv_is("a\n\nb", "1:[a]2:[NULL]3:[b]");
	csv_is("a,b\n1\n",
	       "1:[a][b]s.csv:2:1: this record has more or fewer fields than the first");
	csv_is("a\"b\n", "s.csv:1:2: a quote within a field: quote the whole field, and double it");
	csv_is("\"a\"b\n", "s.csv:1:4: a comma or the end of the line is expected behind a quote");
	csv_is("a\nä,\"b\n\n", "1:[a]s.csv:2:3: the quote is not closed");
	csv_is("a\rb", "s.csv:1:2: a carriage return that ends no line");
	csv_is("a\n\xC0\x80\n", "1:[a]s.csv:2:1: this is not UTF-8, or NUL");
	csv_is("\xED\xA0\x80", "s.csv:1:1: this is not UTF-8, or NUL");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_braces_become_pieces),
		cmocka_unit_test(test_comments_are_left_out_or_left_alone),
		cmocka_unit_test(test_other_braces_are_refused),
		cmocka_unit_test(test_the_present_is_refused),
		cmocka_unit_test(test_sql_that_is_not_whole_is_refused),
		cmocka_unit_test(test_a_project_is_read),
		cmocka_unit_test(test_what_is_wrong_in_a_project_has_its_place),
		cmocka_unit_test(test_the_deepest_folder_says_how_models_are_made),
		cmocka_unit_test(test_a_circle_is_named),
		cmocka_unit_test(test_fingerprints_follow_sql_inputs_and_values),
		cmocka_unit_test(test_a_model_of_the_day_is_the_same_within_the_day),
		cmocka_unit_test(test_random_graphs_are_ordered_and_selected_from),
		cmocka_unit_test(test_selectors_that_mean_nothing_are_errors),
		cmocka_unit_test(test_csv_is_read_as_the_rfc_says),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
