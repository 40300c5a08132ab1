/*
 * rolag spool ls|dump|verify. Guarantees: reads only; values are shown only
 * with --values; verify reads every byte that a reader would.
 */
#include <inttypes.h>

#include "cdc/commands/bar.h"
#include "cdc/commands/commands.h"
#include "proto/spool_internal.h"

#define READER_BUFFER_BYTES ((size_t)1 << 20)

struct options {
	const char *dir;
	bool values;
	bool has_from;
	struct lsn from;
};

const struct cli_usage spool_usage = {
	.args = "ls|dump|verify",
	.text = "Looks at the spool's files: no database is needed, and who writes or reads them "
		"is not\n"
		"disturbed.\n"
		"  ls      the segments, what they hold, and how far apply is\n"
		"  dump    every change that apply would get, one a line\n"
		"  verify  reads everything; exit code 1 when something is damaged or missing\n",
	.option = {{"--dir", "DIR", "the spool (default: the configuration's)"},
		   {"--from", "LSN", "dump: only transactions that end after it"},
		   {"--values", NULL, "dump: show values of rows and messages (else masked)"}},
};

/* ---- printing ---- */

/* Bytes as text: printable ASCII as it is, \\ for a backslash, \xHH for all others, spaces included. */
static void put_bytes(struct slice s)
{
	for (size_t i = 0; i < s.len; i++) {
		unsigned char c = s.p[i];
		if (c == '\\')
			fputs("\\\\", stdout);
		else if (c > ' ' && c < 0x7F)
			putchar(c);
		else
			printf("\\x%02x", c);
	}
}

static void put_time(int64_t us)
{
	char text[32];
	struct tm tm;
	int64_t part = us % 1000000;
	time_t seconds = (time_t)(us / 1000000);
	if (part < 0) {
		part += 1000000;
		seconds--;
	}
	if (gmtime_r(&seconds, &tm) == NULL ||
	    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm) == 0)
		printf("%" PRId64 "us", us);
	else
		printf("%s.%06" PRId64 "Z", text, part);
}

static void put_relation(const struct schema *s)
{
	putchar(' ');
	put_bytes(slice_str(s->nspname));
	putchar('.');
	put_bytes(slice_str(s->relname));
}

static void put_value(const struct value *v, bool show)
{
	struct slice s = slice_of(v->p, v->len);
	switch (v->kind) {
	case VALUE_NULL:
		fputs("null", stdout);
		return;
	case VALUE_UNCHANGED:
		fputs("unchanged", stdout);
		return;
	case VALUE_TEXT:
	case VALUE_BINARY:
		break;
	}
	if (!show) {
		printf("%c(%u)", v->kind, v->len);
		return;
	}
	printf("%c:", v->kind);
	if (v->kind == VALUE_TEXT)
		put_bytes(s);
	else
		for (size_t i = 0; i < s.len; i++)
			printf("%02x", s.p[i]);
}

static void put_tuple(const char *prefix, const struct schema *s, const struct tuple *t, bool show)
{
	for (unsigned i = 0; i < t->count; i++) {
		printf(" %s", prefix);
		put_bytes(slice_str(s->column[i].name));
		putchar('=');
		put_value(&t->value[i], show);
	}
}

static void put_row(const char *kind, const struct change *c, bool show)
{
	printf("%s", kind);
	put_relation(c->schema);
	printf(" lsn=" LSN_FMT, LSN_ARGS(c->lsn));
	if (c->old_kind != 0)
		put_tuple(c->old_kind == 'K' ? "key." : "old.", c->schema, &c->old_row, show);
	put_tuple("", c->schema, &c->new_row, show);
}

static void put_change(const struct change *c, bool show)
{
	switch (c->kind) {
	case CHANGE_BEGIN:
		printf("BEGIN commit=" LSN_FMT " xid=%u at=", LSN_ARGS(c->lsn), c->xid);
		put_time(c->commit_us);
		break;
	case CHANGE_COMMIT:
		printf("COMMIT end=" LSN_FMT, LSN_ARGS(c->lsn));
		break;
	case CHANGE_PROGRESS:
		printf("PROGRESS " LSN_FMT, LSN_ARGS(c->lsn));
		break;
	case CHANGE_GAP:
		printf("GAP " LSN_FMT " " LSN_FMT, LSN_ARGS(c->gap_from), LSN_ARGS(c->lsn));
		break;
	case CHANGE_INSERT:
		put_row("INSERT", c, show);
		break;
	case CHANGE_UPDATE:
		put_row("UPDATE", c, show);
		break;
	case CHANGE_DELETE:
		put_row("DELETE", c, show);
		break;
	case CHANGE_TRUNCATE:
		fputs("TRUNCATE", stdout);
		for (uint32_t i = 0; i < c->truncated_count; i++)
			put_relation(c->truncated[i]);
		printf(" lsn=" LSN_FMT "%s%s", LSN_ARGS(c->lsn),
		       c->truncate_flags & TRUNCATE_CASCADE ? " cascade" : "",
		       c->truncate_flags & TRUNCATE_RESTART_IDENTITY ? " restart-identity" : "");
		break;
	case CHANGE_MESSAGE:
		fputs("MESSAGE ", stdout);
		put_bytes(slice_str(c->prefix));
		printf(" lsn=" LSN_FMT "%s content=", LSN_ARGS(c->lsn),
		       c->transactional ? "" : " not-transactional");
		if (show)
			put_bytes(c->content);
		else
			printf("(%zu)", c->content.len);
		break;
	}
	putchar('\n');
}

/* ---- one segment, frame by frame ---- */

struct survey {
	uint64_t frames;
	uint64_t good_bytes; /* up to where frames are valid */
	uint64_t file_bytes;
	struct lsn end;
	enum frame_state tail; /* what stands at good_bytes */
	bool damaged;	       /* proven by what stands behind it */
};

static int survey_segment(struct segment_file *f, struct survey *ret, struct rt_err *err)
{
	struct segment_look l;
	struct survey s = {.frames = 1, .good_bytes = f->first_bytes, .end = f->is.start};
	int rc;
	while ((rc = segment_look(f, s.good_bytes, &l, err)) == 0 && l.state == FRAME_VALID) {
		s.good_bytes += l.frame.bytes;
		s.frames++;
		s.end = lsn_max(s.end, l.frame.lsn);
	}
	if (rc < 0 || (rc = segment_bytes(f, &s.file_bytes, err)) < 0)
		return rc;
	s.tail = l.state;
	if (s.good_bytes < s.file_bytes) {
		if ((rc = segment_is_damaged(f, s.good_bytes, err)) < 0)
			return rc;
		s.damaged = rc == 1;
	}
	*ret = s;
	return 0;
}

/* ---- ls ---- */

static int list_one(const struct options *o, const struct segment_entry *e, struct rt_err *err)
{
	struct segment_file f;
	struct survey s;
	char name[SPOOL_NAME_BYTES];
	int rc = segment_open(&f, o->dir, e->generation, e->start, err);
	if (rc <= 0)
		return rc;
	rc = survey_segment(&f, &s, err);
	if (rc < 0)
		goto out;
	segment_name(name, e->generation, e->start);
	printf("%s  %8X/%08X  %8X/%08X  %12" PRIu64 "  %7" PRIu64 "  ", name, LSN_ARGS(e->start),
	       LSN_ARGS(s.end), s.file_bytes, s.frames);
	put_time(e->modified_us);
	if (segment_is_void(e))
		fputs("  void", stdout);
	else if (lsn_lt(e->cut, s.end))
		printf("  void after " LSN_FMT, LSN_ARGS(e->cut));
	if (s.damaged)
		printf("  damaged at %" PRIu64, s.good_bytes);
	else if (s.good_bytes < s.file_bytes)
		printf("  tail of %" PRIu64 " bytes", s.file_bytes - s.good_bytes);
	putchar('\n');
out:
	segment_close(&f);
	return rc;
}

static int print_identity(const struct options *o, const struct segment_entry *e,
			  struct rt_err *err)
{
	struct segment_file f;
	int rc = segment_open(&f, o->dir, e->generation, e->start, err);
	if (rc <= 0)
		return rc;
	printf("pipeline %.*s, slot %.*s, core %" PRIu64 ", timeline %u\n", (int)f.is.pipeline.len,
	       (const char *)f.is.pipeline.p, (int)f.is.slot.len, (const char *)f.is.slot.p,
	       f.is.system_id, f.is.timeline);
	segment_close(&f);
	return 0;
}

static int list_spool(const struct options *o, struct rt_err *err)
{
	struct segment_list list = {0};
	struct applied_position applied;
	uint64_t bytes = 0;
	int rc = segment_list_read(&list, o->dir, err);
	if (rc != 0)
		goto out;
	if (list.count > 0) {
		if ((rc = print_identity(o, &list.entry[list.count - 1], err)) < 0)
			goto out;
		printf("%-29s  %17s  %17s  %12s  %7s  %s\n", "segment", "after", "to", "bytes",
		       "frames", "last written");
	}
	for (size_t i = 0; i < list.count; i++) {
		if ((rc = list_one(o, &list.entry[i], err)) < 0)
			goto out;
		bytes += list.entry[i].bytes;
	}
	printf("%zu segments, %" PRIu64 " bytes", list.count, bytes);
	if ((rc = applied_read(o->dir, &applied, err)) == 1) {
		printf("; applied to " LSN_FMT " at ", LSN_ARGS(applied.applied));
		put_time(applied.at_us);
		if (applied.keep.v != 0)
			printf("; kept from " LSN_FMT " for a sync", LSN_ARGS(applied.keep));
	}
	putchar('\n');
out:
	segment_list_release(&list);
	return rc < 0 ? rc : EXIT_OK;
}

/* ---- dump and verify ---- */

struct totals {
	uint64_t transactions;
	uint64_t changes;
	struct lsn end;
};

/* Reads all that a reader would get; with a bar, nothing of it is printed. */
static int read_spool(const struct options *o, struct bar *bar, struct totals *t,
		      struct rt_err *err)
{
	struct spool_reader *r;
	struct arena a;
	struct change c;
	int rc = spool_reader_open(&r, o->dir, o->from, READER_BUFFER_BYTES, NULL, err);
	if (rc != 0)
		return rc;
	if (!o->has_from)
		spool_reader_from_first(r);
	arena_init(&a, (size_t)64 << 10);
	while ((rc = spool_reader_next(r, &a, &c, err)) == 1) {
		if (bar == NULL)
			put_change(&c, o->values);
		else if (c.kind == CHANGE_GAP) {
			bar_hide(bar);
			printf("note: the slot was lost: nothing between " LSN_FMT " and " LSN_FMT
			       "\n",
			       LSN_ARGS(c.gap_from), LSN_ARGS(c.lsn));
		}
		t->transactions += c.kind == CHANGE_COMMIT;
		t->changes +=
			c.kind != CHANGE_COMMIT && c.kind != CHANGE_BEGIN && c.kind != CHANGE_GAP;
		if (bar != NULL && (t->changes & 0xff) == 0)
			bar_show(bar, t->changes, 0, "what apply would get");
		arena_reset(&a);
	}
	t->end = spool_reader_position(r);
	arena_release(&a);
	spool_reader_close(r);
	return rc;
}

static int dump_spool(const struct options *o, struct rt_err *err)
{
	struct totals t = {0};
	int rc = read_spool(o, NULL, &t, err);
	return rc < 0 ? rc : EXIT_OK;
}

/* Findings of one segment, printed; negative only when it cannot be read at all. */
static int verify_one(const struct options *o, const struct segment_entry *e, bool newest,
		      struct bar *bar, unsigned *findings, struct rt_err *err)
{
	struct segment_file f;
	struct survey s;
	int rc = segment_open(&f, o->dir, e->generation, e->start, err);
	if (rc == 0)
		return 0;
	if (rc == ERR_PERMANENT) {
		bar_hide(bar);
		printf("%s\n", err->msg);
		*findings += 1;
		return 0;
	}
	if (rc < 0)
		return rc;
	rc = survey_segment(&f, &s, err);
	if (rc == ERR_PERMANENT) {
		bar_hide(bar);
		printf("%s\n", err->msg);
		*findings += 1;
		rc = 0;
	} else if (rc == 0 && s.good_bytes < s.file_bytes) {
		/* A frame that ends too early is usual where a writer was stopped or is writing. */
		bool usual = newest && !s.damaged && s.tail == FRAME_SHORT;
		bar_hide(bar);
		printf("%s: %s%" PRIu64 " bytes after offset %" PRIu64 " are not a whole frame\n",
		       f.path, usual ? "note: " : "", s.file_bytes - s.good_bytes, s.good_bytes);
		*findings += !usual;
	}
	segment_close(&f);
	return rc;
}

static int verify_spool(const struct options *o, struct rt_err *err)
{
	struct segment_list list = {0};
	struct totals t = {0};
	struct bar bar;
	unsigned findings = 0;
	uint64_t bytes = 0, all = 0;
	bar_begin(&bar, "verify", NULL, 0);
	int rc = segment_list_read(&list, o->dir, err);
	if (rc != 0)
		goto out;
	for (size_t i = 0; i < list.count; i++)
		all += list.entry[i].bytes;
	for (size_t i = 0; i < list.count; i++) {
		const struct segment_entry *e = &list.entry[i];
		/* A torn tail of an older generation is usual too: the next one begins before it. */
		bool newest = i + 1 == list.count || e[1].generation != e->generation;
		bar_show(&bar, bytes, all, "segments");
		if (!segment_is_void(e) &&
		    (rc = verify_one(o, e, newest, &bar, &findings, err)) < 0)
			goto out;
		bytes += e->bytes;
	}
	bar_hide(&bar);
	bar_begin(&bar, "verify", "changes", 0);
	rc = read_spool(o, &bar, &t, err);
	bar_hide(&bar);
	if (rc == ERR_PERMANENT) {
		printf("%s\n", err->msg);
		findings++;
	} else if (rc < 0) {
		goto out;
	}
	printf("%zu segments, %" PRIu64 " transactions, %" PRIu64 " changes, to " LSN_FMT ": ",
	       list.count, t.transactions, t.changes, LSN_ARGS(t.end));
	if (findings == 0)
		printf("no findings\n");
	else
		printf("%u finding%s\n", findings, findings == 1 ? "" : "s");
	rc = findings == 0 ? EXIT_OK : EXIT_FINDING;
out:
	bar_hide(&bar);
	segment_list_release(&list);
	return rc;
}

/* ---- command line ---- */

static int read_options(struct cli *c, struct options *o, struct rt_err *err)
{
	const char *from = cli_option(c, "--from");
	int rc;
	o->dir = cli_option(c, "--dir");
	o->values = cli_option(c, "--values") != NULL;
	o->has_from = from != NULL;
	if (from != NULL && !lsn_parse(from, &o->from))
		return rt_fail(err, ERR_USAGE, "--from: \"%s\" is not an LSN", from);
	if (o->dir == NULL) {
		struct settings s;
		if ((rc = cli_settings(c, &s, err)) != 0)
			return rc;
		o->dir = s.spool.dir;
	}
	return 0;
}

int cmd_spool(struct cli *c)
{
	static const struct {
		const char *name;
		int (*run)(const struct options *o, struct rt_err *err);
	} actions[] = {{"ls", list_spool}, {"dump", dump_spool}, {"verify", verify_spool}};
	struct options o = {0};
	struct rt_err err;
	int rc = rt_fail(&err, ERR_USAGE, "one of ls, dump, verify is needed");
	for (size_t i = 0; c->arg_count == 1 && i < ARRAY_LEN(actions); i++)
		if (strcmp(c->arg[0], actions[i].name) == 0 &&
		    (rc = read_options(c, &o, &err)) == 0)
			rc = actions[i].run(&o, &err);
	return rc < 0 ? cli_fail(c, &err) : rc;
}
