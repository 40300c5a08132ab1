/*
 * fold: every version that a definition makes of a file of events; no
 * database. Guarantees: folds by the same code as the apply role; an error
 * names the file and the line.
 */
#include <stdio.h>

#include "cdc/commands/commands.h"
#include "transforms/rollup/cache.h"
#include "transforms/rollup/json.h"

#define LINE_MAX_BYTES (256u << 20) /* a jsonb value's own limit */

const struct cli_usage fold_usage = {
	.args = "ROLLUP.yaml EVENTS.jsonl",
	.text = "Prints every version as one line of JSON, in the order of the events (-: stdin). "
		"An event is\na line: {\"id\": …, \"sequence\": 1, \"event_type\": \"…\", "
		"\"event\": {…}, \"recorded_at\": \"…\"}; with a\nkey \"table\", only those of the "
		"rollup's source count. Values are shown. An event that does\nnot fold is named on "
		"stderr, its entity waits, the others go on; the end is then 1.\n",
};

struct folding {
	struct rollup *r;
	const char *file;
	long line;
	struct arena arena;	     /* of one line */
	struct cache latest, parked; /* by id; parked holds entities that wait */
	struct buf out;
	struct rt_err *err;
	uint64_t duplicates, failed, waiting;
};

static int line_fail(struct folding *f, const char *what)
{
	return rt_fail(f->err, ERR_PERMANENT, "%s:%ld: %s", f->file, f->line, what);
}

/* ---- one line in ---- */

static int take_text(struct folding *f, const struct json_value *line, const char *key,
		     struct slice *ret)
{
	struct json_value v = json_get(line, slice_str(key));
	struct buf text = buf_in_arena(&f->arena, NULL, 0);
	char what[64];
	if (v.kind != JSON_STRING && v.kind != JSON_NUMBER) {
		snprintf(what, sizeof(what), "key \"%s\" is %s", key, json_kind_name(v.kind));
		return line_fail(f, what);
	}
	json_append_text(&v, &text);
	*ret = buf_slice(&text);
	return 0;
}

/* The key's text as type t, in send format. */
static int take_value(struct folding *f, const struct json_value *line, const char *key, enum pgt t,
		      struct slice *ret)
{
	struct buf out = buf_in_arena(&f->arena, NULL, 0);
	struct slice text;
	char what[128];
	int rc = take_text(f, line, key, &text);
	if (rc != 0)
		return rc;
	if (pgt_from_text(t, text, f->r->zone, &out, f->err) != 0) {
		snprintf(what, sizeof(what), "key \"%s\": %.90s", key, f->err->msg);
		return line_fail(f, what);
	}
	*ret = buf_slice(&out);
	return 0;
}

static int take_event(struct folding *f, const struct json_value *line, struct fold_event *ret)
{
	struct slice sequence, time;
	struct buf payload = buf_in_arena(&f->arena, NULL, 0);
	struct json_value event = json_get(line, slice_str("event"));
	int rc = take_value(f, line, "id", f->r->id_type, &ret->id);
	if (rc == 0)
		rc = take_value(f, line, "sequence", PGT_INT4, &sequence);
	if (rc == 0)
		rc = take_text(f, line, "event_type", &ret->event_type);
	if (rc == 0)
		rc = take_value(f, line, "recorded_at", PGT_TIMESTAMPTZ, &time);
	if (rc == 0 && event.kind == JSON_ABSENT)
		rc = line_fail(f, "key \"event\" is absent");
	if (rc == 0 && json_canonical(event.raw, &payload, f->err) != 0)
		rc = line_fail(f, "key \"event\" holds a number that jsonb does not take");
	if (rc != 0)
		return rc;
	ret->sequence = (int32_t)be32_get(sequence.p);
	ret->recorded_at_us = (int64_t)be64_get(time.p);
	ret->payload = buf_slice(&payload);
	return 0;
}

/* Is the line of another table? "schema.table", or the table alone. */
static bool is_other_table(const struct folding *f, const struct json_value *line)
{
	struct json_value v = json_get(line, slice_str("table"));
	char source[160];
	if (v.kind == JSON_ABSENT)
		return false;
	snprintf(source, sizeof(source), "%s.%s", f->r->source_schema, f->r->source_table);
	return !json_string_is(&v, slice_str(source)) &&
	       !json_string_is(&v, slice_str(f->r->source_table));
}

/* ---- one version out ---- */

static void put_name(struct buf *out, const char *name)
{
	if (out->len > 1)
		buf_str(out, ", ");
	json_put_string(slice_str(name), out);
	buf_str(out, ": ");
}

static void put_text(struct pgt_type t, struct slice value, struct buf *out)
{
	struct buf text = BUF_INIT;
	struct rt_err err;
	if (pgt_to_text(t, value, &text, &err) != 0)
		rt_bug(__FILE__, __LINE__, "a folded value has no text");
	/* Finite numbers are numbers in JSON too. */
	bool number = t.base == PGT_INT2 || t.base == PGT_INT4 || t.base == PGT_INT8 ||
		      (t.base == PGT_NUMERIC && text.len > 0 && text.p[text.len - 1] <= '9');
	if (t.base == PGT_BOOL)
		buf_str(out, value.p[0] != 0 ? "true" : "false");
	else if (number || t.base == PGT_JSONB)
		buf_add_slice(out, buf_slice(&text));
	else
		json_put_string(buf_slice(&text), out);
	buf_release(&text);
}

/* Array send format: ndim, hasnull, element type, then length and lower bound, elements. */
static void put_array(struct pgt_type t, struct slice value, struct buf *out)
{
	struct rd rd = rd_of(value);
	const int64_t n = pgt_array_count(t.base, value);
	const struct pgt_type element = {t.base, false};
	rd_bytes(&rd, RT_MIN(value.len, (size_t)20));
	buf_u8(out, '[');
	for (int64_t i = 0; i < n; i++) {
		uint32_t len = rd_u32(&rd);
		if (i > 0)
			buf_str(out, ", ");
		if (len == UINT32_MAX)
			buf_str(out, "null");
		else
			put_text(element, slice_of(rd_bytes(&rd, len), len), out);
	}
	buf_u8(out, ']');
}

static void put_time(int64_t us, struct buf *out)
{
	uint8_t value[8];
	be64_put(value, (uint64_t)us);
	put_text((struct pgt_type){PGT_TIMESTAMPTZ, false}, slice_of(value, sizeof(value)), out);
}

static void print_version(struct folding *f, const struct fold_row *row)
{
	struct buf *out = &f->out;
	buf_clear(out);
	buf_u8(out, '{');
	put_name(out, "id");
	put_text((struct pgt_type){f->r->id_type, false}, row->id, out);
	put_name(out, "version");
	buf_printf(out, "%d", row->version);
	put_name(out, "created_at");
	put_time(row->created_at_us, out);
	put_name(out, "modified_at");
	put_time(row->modified_at_us, out);
	put_name(out, "event_type");
	json_put_string(row->event_type, out);
	for (uint16_t i = 0; i < f->r->column_count; i++) {
		const struct rollup_column *c = &f->r->column[i];
		struct slice v = fold_column(row->columns, i);
		put_name(out, c->name);
		if (v.p == NULL)
			buf_str(out, "null");
		else if (c->type.array)
			put_array(c->type, v, out);
		else
			put_text(c->type, v, out);
	}
	buf_str(out, "}\n");
	fwrite(out->p, 1, out->len, stdout);
}

/* ---- the fold ---- */

static void say(const struct folding *f, const char *what)
{
	fprintf(stderr, "%s:%ld: %s\n", f->file, f->line, what);
}

/* The event did not fold: its entity waits, unless the policy is to stop. */
static int refuse(struct folding *f, enum fold_result result, const struct fold_event *e)
{
	struct fold_row parked = {.id = e->id};
	char what[sizeof(f->err->msg)];
	f->failed++;
	snprintf(what, sizeof(what), "%s: %.950s", fold_result_name(result), f->err->msg);
	if (fold_policy(f->r, result) == POLICY_FAIL)
		return line_fail(f, what);
	say(f, what);
	cache_put(&f->parked, 0, &parked);
	return 0;
}

static int fold_event(struct folding *f, const struct fold_event *e)
{
	struct fold_row prev, next;
	struct fold_note note;
	if (cache_get(&f->parked, 0, e->id, &prev)) {
		f->waiting++;
		return 0;
	}
	bool have = cache_get(&f->latest, 0, e->id, &prev);
	enum fold_result rc =
		fold_apply(f->r, have ? &prev : NULL, e, &f->arena, &next, &note, f->err);
	if (rc == FOLD_DUPLICATE) {
		f->duplicates++;
		return 0;
	}
	if (rc != FOLD_OK && rc != FOLD_IGNORED)
		return refuse(f, rc, e);
	if (note.unknown_keys > 0) {
		char what[256];
		snprintf(what, sizeof(what), "warning: event %s has key %s, which is not listed",
			 note.unknown_key_event, note.unknown_key);
		say(f, what);
	}
	print_version(f, &next);
	cache_put(&f->latest, 0, &next);
	return 0;
}

static int fold_line(struct folding *f, const char *text, size_t len)
{
	struct json_value line;
	struct fold_event e;
	if (len > LINE_MAX_BYTES)
		return line_fail(f, "the line is too long");
	if (strspn(text, " \t\r\n") == len)
		return 0;
	if (json_parse(slice_of(text, len), &line, f->err) != 0) {
		char what[256];
		snprintf(what, sizeof(what), "%.250s", f->err->msg);
		return line_fail(f, what);
	}
	if (line.kind != JSON_OBJECT)
		return line_fail(f, "a line must be an object");
	if (is_other_table(f, &line))
		return 0;
	int rc = take_event(f, &line, &e);
	return rc == 0 ? fold_event(f, &e) : rc;
}

static int fold_file(struct folding *f, FILE *in)
{
	char *text = NULL;
	size_t cap = 0;
	ssize_t len;
	int rc = 0;
	while (rc == 0 && (len = getline(&text, &cap, in)) >= 0) {
		f->line++;
		arena_reset(&f->arena);
		rc = fold_line(f, text, (size_t)len);
	}
	free(text);
	if (rc == 0 && ferror(in))
		rc = rt_fail_errno(f->err, ERR_SYSTEM, "%s", f->file);
	return rc;
}

static void print_counts(const struct folding *f)
{
	if (f->duplicates > 0)
		fprintf(stderr, "%s: %llu duplicates dropped\n", f->file,
			(unsigned long long)f->duplicates);
	if (f->failed > 0)
		fprintf(stderr, "%s: %llu entities wait, with %llu later events\n", f->file,
			(unsigned long long)f->failed, (unsigned long long)f->waiting);
}

int cmd_fold(struct cli *c)
{
	struct rt_err err;
	struct folding f = {.err = &err, .file = "stdin"};
	FILE *in = stdin;
	if (c->arg_count != 2) {
		rt_fail(&err, ERR_USAGE, "needs ROLLUP.yaml and EVENTS.jsonl (-: stdin)");
		return cli_fail(c, &err);
	}
	if (rollup_load(&c->arena, c->arg[0], &f.r, &err) != 0)
		return cli_fail(c, &err);
	if (strcmp(c->arg[1], "-") != 0) {
		f.file = c->arg[1];
		in = fopen(f.file, "re");
	}
	if (in == NULL) {
		rt_fail_errno(&err, ERR_PERMANENT, "%s", f.file);
		rollup_release(f.r);
		return cli_fail(c, &err);
	}
	arena_init(&f.arena, 1 << 16);
	cache_init(&f.latest, SIZE_MAX);
	cache_init(&f.parked, SIZE_MAX);
	int rc = fold_file(&f, in);
	print_counts(&f);
	if (in != stdin)
		fclose(in);
	cache_release(&f.latest);
	cache_release(&f.parked);
	arena_release(&f.arena);
	buf_release(&f.out);
	rollup_release(f.r);
	int code = rc != 0 ? cli_fail(c, &err) : EXIT_OK;
	return f.failed > 0 ? EXIT_FINDING : code;
}
