/* proto/base and proto/lsn, edge by edge. */
#include "tests/unit/unit.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/arena.h"
#include "proto/base/buf.h"
#include "proto/base/conf.h"
#include "proto/base/fsio.h"
#include "proto/base/log.h"
#include "proto/base/loop.h"
#include "proto/base/metrics.h"
#include "proto/base/yaml.h"
#include "proto/lsn.h"
#include "proto/settings.h"

static void test_trap_14_reader_latches_at_the_first_underflow(void **state)
{
	const uint8_t bytes[] = {0x01, 0x02, 0x03};
	struct rd r = rd_of(slice_of(bytes, sizeof(bytes)));
	assert_int_equal(rd_u16(&r), 0x0102);
	assert_int_equal(rd_u32(&r), 0); /* one byte left: fails */
	assert_int_equal(rd_u8(&r), 0);	 /* and stays failed, though a byte is there */
	assert_true(r.failed);
	assert_false(rd_finish(&r));
	r = rd_of(slice_of(bytes, sizeof(bytes)));
	assert_null(rd_bytes(&r, SIZE_MAX)); /* no overflow in the bound */
	r = rd_of(slice_of(bytes, sizeof(bytes)));
	assert_int_equal(rd_u16(&r), 0x0102);
	assert_false(rd_finish(&r)); /* a byte is left over */
	assert_int_equal(rd_u8(&r), 3);
	assert_true(rd_finish(&r));
}

static void test_reader_strings_must_end(void **state)
{
	const char bytes[] = {'a', 'b', '\0', 'c'};
	struct rd r = rd_of(slice_of(bytes, sizeof(bytes)));
	assert_string_equal(rd_cstr(&r), "ab");
	assert_null(rd_cstr(&r));
	assert_true(r.failed);
}

static void test_buffer_round_trip(void **state)
{
	struct buf b = BUF_INIT;
	buf_u8(&b, 7);
	buf_u16(&b, 0xBEEF);
	buf_u32(&b, 0xDEADBEEF);
	buf_u64(&b, UINT64_C(0x0102030405060708));
	for (int i = 0; i < 1000; i++)
		buf_printf(&b, "%d,", i);
	struct rd r = rd_of(buf_slice(&b));
	assert_int_equal(rd_u8(&r), 7);
	assert_int_equal(rd_u16(&r), 0xBEEF);
	assert_int_equal(rd_u32(&r), 0xDEADBEEF);
	assert_true(rd_u64(&r) == UINT64_C(0x0102030405060708));
	assert_memory_equal(rd_bytes(&r, 4), "0,1,", 4);
	assert_string_equal(buf_cstr(&b) + b.len - 4, "999,");
	buf_release(&b);
}

static void test_arena_reset_reuses_and_aligns(void **state)
{
	struct arena a;
	arena_init(&a, 1024);
	for (int round = 0; round < 3; round++) {
		for (size_t n = 1; n < 3000; n += 97) {
			uint8_t *p = arena_alloc(&a, n);
			assert_int_equal((uintptr_t)p % 16, 0);
			memset(p, 0xAB, n);
		}
		assert_true(a.used_bytes > 1024);
		arena_reset(&a);
		assert_int_equal(a.used_bytes, 0);
	}
	assert_string_equal(arena_printf(&a, "%d-%s", 5, "x"), "5-x");
	arena_release(&a);
}

static void test_buffer_grows_into_an_arena(void **state)
{
	struct arena a;
	uint8_t small[8];
	arena_init(&a, 1024);
	struct buf b = buf_in_arena(&a, small, sizeof(small));
	buf_str(&b, "12345678");
	assert_ptr_equal(b.p, small);
	for (int i = 0; i < 1000; i++)
		buf_str(&b, "x");
	assert_memory_equal(b.p, "12345678xx", 10);
	assert_int_equal(b.len, 1008);
	assert_true(a.used_bytes >= b.cap);
	buf_release(&b);
	arena_release(&a);
}

static void test_arena_trims_what_came_last(void **state)
{
	struct arena a;
	arena_init(&a, 1024);
	uint8_t *p = arena_alloc(&a, 500);
	arena_trim(&a, p, 500, 20);
	assert_int_equal(a.used_bytes, 32);
	uint8_t *q = arena_alloc(&a, 10);
	assert_ptr_equal(q, p + 32);
	arena_trim(&a, p, 20, 0); /* q came later */
	assert_int_equal(a.used_bytes, 48);
	arena_release(&a);
}

static void test_errors_are_one_line_with_context(void **state)
{
	struct rt_err err;
	assert_int_equal(rt_fail(&err, ERR_PERMANENT, "a\n\t b %d\n", 3), ERR_PERMANENT);
	rt_context(&err, "relation %s", "public.x");
	assert_string_equal(err.msg, "relation public.x: a b 3");
	(void)!rt_fail(&err, ERR_PERMANENT, "%s; mend: x%s", "FATAL:  no role\n", "y\r\n\tz\n\n");
	assert_string_equal(err.msg, "FATAL: no role; mend: xy z");
	memset(err.msg, 'x', sizeof(err.msg) - 1);
	err.msg[sizeof(err.msg) - 1] = '\0';
	rt_context(&err, "ctx");
	assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
	assert_memory_equal(err.msg, "ctx: xxx", 8);
}

static void test_lsn_text(void **state)
{
	struct lsn l;
	char text[32];
	assert_true(lsn_parse("16/B374D848", &l));
	assert_true(l.v == UINT64_C(0x16B374D848));
	snprintf(text, sizeof(text), LSN_FMT, LSN_ARGS(l));
	assert_string_equal(text, "16/B374D848");
	const char *bad[] = {"",     "/",	    "1/",	   "/1", "1/2 ",
			     " 1/2", "123456789/0", "0/123456789", "g/1"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(lsn_parse(bad[i], &l));
}

static struct yaml_node *parse_ok(struct arena *a, const char *text)
{
	struct rt_err err;
	struct yaml_node *n = NULL;
	assert_rc(yaml_parse(a, "t.yaml", text, strlen(text), &n, &err), err);
	return n;
}

static void test_yaml_tree_has_places(void **state)
{
	struct arena a;
	arena_init(&a, 4096);
	struct yaml_node *n = parse_ok(&a, "a: 1\nlist: [x, \"true\"]\nmap:\n  k: true\n");
	assert_int_equal(n->count, 3);
	int64_t v;
	bool flag;
	assert_true(yaml_int(yaml_get(n, "a"), &v) && v == 1);
	struct yaml_node *list = yaml_get(n, "list");
	assert_int_equal(list->count, 2);
	assert_false(yaml_bool(list->item[1], &flag)); /* quoted: text */
	struct yaml_node *k = yaml_get(yaml_get(n, "map"), "k");
	assert_true(yaml_bool(k, &flag) && flag);
	assert_int_equal(k->line, 4);
	assert_int_equal(k->column, 6);
	arena_release(&a);
}

static void test_trap_49_yaml_refuses_what_readers_disagree_on(void **state)
{
	static const struct {
		const char *text, *says;
	} cases[] = {
		{"a: 1\na: 2\n", "t.yaml:2:1: key \"a\" stands twice"},
		{"a: &x 1\n", "t.yaml:1:4: anchors are not supported"},
		{"a: *x\n", "t.yaml:1:4: aliases are not supported"},
		{"a: !!int 1\n", "tags are not supported"},
		{"[a]: 1\n", "t.yaml:1:1: a key must be a plain name"},
		{"a: 1\n---\nb: 2\n", "only one document is allowed"},
		{"", "the file is empty"},
		{"a: [1\n", "t.yaml:2:1"},
		{"a: uuid[]\nb: {c: uuid[]}\n", "t.yaml:2:"},
		{"a: é\nb: é \xe9\n", "t.yaml:2:6: "},
		{"a: 1\nb: \x01\n", "t.yaml:2:4: control characters"},
	};
	struct arena a;
	struct rt_err err;
	struct yaml_node *n;
	arena_init(&a, 4096);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const char *text = cases[i].text;
		assert_int_equal(yaml_parse(&a, "t.yaml", text, strlen(text), &n, &err),
				 ERR_PERMANENT);
		assert_says(err, cases[i].says);
	}
	/* Some editors begin a file with a byte order mark. */
	assert_string_equal(parse_ok(&a, "\xEF\xBB\xBF"
					 "a: 1\n")
				    ->key[0]
				    ->text,
			    "a");
	/* Keys that other readers take for booleans are names here. */
	n = parse_ok(&a, "on: yes\nno: off\n");
	assert_string_equal(n->key[0]->text, "on");
	assert_string_equal(n->key[1]->text, "no");
	assert_string_equal(yaml_get(n, "on")->text, "yes");
	arena_release(&a);
}

static void test_nearest_name(void **state)
{
	const char *const names[] = {"wal_budget", "state_dir", "slot"};
	assert_string_equal(yaml_nearest("wal_buget", names, 3), "wal_budget");
	assert_null(yaml_nearest("completely_other", names, 3));
}

static void test_replace_file_and_read_back(void **state)
{
	struct rt_err err;
	char dir[] = "/tmp/rolag-unit-XXXXXX", *text;
	size_t len;
	assert_non_null(mkdtemp(dir));
	char *sub = rt_sprintf("%s/a/b", dir), *path = rt_sprintf("%s/f", sub);
	assert_rc(fs_mkdirs(sub, 0700, &err), err);
	assert_rc(fs_replace_file(path, "one", 3, 0600, &err), err);
	assert_rc(fs_replace_file(path, "three", 5, 0600, &err), err);
	assert_rc(fs_read_file(path, 100, &text, &len, &err), err);
	assert_int_equal(len, 5);
	assert_string_equal(text, "three");
	free(text);
	assert_int_equal(fs_read_file(path, 4, &text, &len, &err), ERR_PERMANENT);
	assert_int_equal(fs_read_file(sub, 100, &text, &len, &err), ERR_PERMANENT);
	assert_int_equal(fs_read_file("/nowhere/f", 100, &text, &len, &err), ERR_PERMANENT);
	struct rlimit limit, none;
	getrlimit(RLIMIT_NOFILE, &limit);
	none = (struct rlimit){0, limit.rlim_max};
	setrlimit(RLIMIT_NOFILE, &none);
	int rc = fs_read_file(path, 100, &text, &len, &err);
	setrlimit(RLIMIT_NOFILE, &limit);
	assert_int_equal(rc, ERR_SYSTEM); /* no descriptor left: that passes */
	int fd, other;
	assert_rc(fs_lock(path, 0, &fd, &err), err);
	assert_int_equal(fs_lock(path, 20000, &other, &err), ERR_PERMANENT);
	assert_says(err, "is locked by another process");
	close(fd);
	unlink(path);
	rmdir(sub);
	free(path);
	free(sub);
	char *a = rt_sprintf("%s/a", dir);
	rmdir(a);
	rmdir(dir);
	free(a);
}

static void test_text_from_outside_begins_no_line_and_steers_nothing(void **state)
{
	static const struct {
		const char *text, *plain;
	} cases[] = {
		{"a b\u00e9\u20ac", "a b\u00e9\u20ac"},
		{"a\nb\tc", "a b c"},
		{"\x1b[31m", "\\u001b[31m"},
		{"\r\x7f\x01", "\\u000d\\u007f\\u0001"},
		{"\xc2\x9b"
		 "31m",
		 "\\u009b31m"},
		{"\xc2\xa0", "\xc2\xa0"},
		{"\xc2", "\xc2"},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char out[100] = "";
		for (const char *p = cases[i].text; *p != '\0';)
			p += rt_plain(p, out + strlen(out));
		assert_string_equal(out, cases[i].plain);
	}
}

static void test_log_limit_counts_what_it_hides(void **state)
{
	struct log_limit l = {.interval_us = 100};
	uint64_t n;
	assert_true(log_limit_pass(&l, 1000, &n) && n == 0);
	assert_false(log_limit_pass(&l, 1050, &n));
	assert_false(log_limit_pass(&l, 1099, &n));
	assert_true(log_limit_pass(&l, 1100, &n) && n == 2);
}

static int settings_from(struct arena *a, const char *text, struct settings *ret,
			 struct rt_err *err)
{
	char path[] = "/tmp/rolag-unit-XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (int)strlen(text));
	close(fd);
	int rc = settings_load(path, a, ret, err);
	unlink(path);
	return rc;
}

#define NEEDED "core: {connect: a}\nwarehouse: {connect: b}\nrollups: {path: /r}\n"

static void test_settings_defaults_and_ranges(void **state)
{
	struct arena a;
	struct rt_err err;
	struct settings s;
	arena_init(&a, 4096);
	assert_rc(settings_from(&a, NEEDED "spool: {quota: 2 GB}\n", &s, &err), err);
	assert_string_equal(s.core.slot, "rolag_lana");
	assert_string_equal(s.spool.dir, "/var/lib/rolag/spool");
	assert_true(s.spool.quota == UINT64_C(2) << 30);
	assert_true(s.capture.heartbeat_interval == 1000000);
	static const struct {
		const char *text, *says;
	} cases[] = {
		{NEEDED "spool:\n  qouta: 2 GB\n",
		 ":5:3: unknown key spool.qouta; did you mean spool.quota?"},
		{NEEDED "spool:\n  quota: 2 GiB\n", ":5:10: spool.quota is not a size"},
		{NEEDED "spool: {quota: 1 kB}\n", "spool.quota is out of range: 1 MB to 16 TB"},
		{NEEDED "apply: {batch_rows: 0}\n",
		 "apply.batch_rows is out of range: 1 to 1000000"},
		{NEEDED "capture: {confirm: maybe}\n",
		 "capture.confirm is none of the values allowed: applied spooled"},
		{NEEDED "spool: 3\n", "spool is a section of keys"},
		{NEEDED "pipeline: Big-One\n", "pipeline must be"},
		{NEEDED "rollups2: 1\n", "unknown key rollups2"},
		{"core: {connect: a}\nrollups: {path: r}\n",
		 "the key warehouse.connect is missing"},
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		assert_int_equal(settings_from(&a, cases[i].text, &s, &err), ERR_PERMANENT);
		assert_says(err, cases[i].says);
	}
	arena_release(&a);
}

static void test_settings_that_take_a_restart_are_named(void **state)
{
	struct arena a;
	struct settings was, is;
	struct rt_err err;
	static const struct {
		const char *text, *names;
	} cases[] = {
		{"log: {level: debug, format: json}\n", ""},
		{"rollups: {path: /r, land: [a, c]}\n", "rollups.land"},
		{"rollups: {path: /r, land: [a]}\n", "rollups.land"},
		{"rollups: {path: /r, land: [a, b]}\nmirrors: {tables: [t]}\n", "mirrors.tables"},
		{"apply: {batch_rows: 7, gap: fail}\nspool: {quota: 3 GB}\n",
		 "spool.quota apply.batch_rows apply.gap"},
		{"capture: {allow_unlimited_wal: true, sync_interval: 1 s}\nrollups: {path: /r, "
		 "land: [a, b]}\n",
		 "capture.allow_unlimited_wal capture.sync_interval"},
	};
	static const char begin[] = "core: {connect: c}\nwarehouse: {connect: w}\n";
	arena_init(&a, 4096);
	char *first = rt_sprintf("%srollups: {path: /r, land: [a, b]}\n", begin);
	assert_rc(settings_from(&a, first, &was, &err), err);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct buf names = BUF_INIT;
		char *text = rt_sprintf("%s%s%s", begin, cases[i].text,
					strstr(cases[i].text, "rollups") != NULL
						? ""
						: "rollups: {path: /r, land: [a, b]}\n");
		assert_rc(settings_from(&a, text, &is, &err), err);
		conf_needs_restart(settings_keys, settings_key_count, &was, &is, &names);
		assert_string_equal(buf_cstr(&names), cases[i].names);
		buf_release(&names);
		free(text);
	}
	free(first);
	arena_release(&a);
}

static void test_settings_example_is_complete_and_loads(void **state)
{
	struct buf b = BUF_INIT;
	struct arena a;
	struct rt_err err;
	struct settings s;
	arena_init(&a, 4096);
	conf_print_example(settings_keys, settings_key_count, &b);
	for (size_t i = 0; i < settings_key_count; i++) {
		const char *leaf = strrchr(settings_keys[i].name, '.');
		assert_non_null(
			strstr(buf_cstr(&b), leaf != NULL ? leaf + 1 : settings_keys[i].name));
	}
	/* As it is, the keys that must be given are not. */
	assert_int_equal(settings_from(&a, buf_cstr(&b), &s, &err), ERR_PERMANENT);
	assert_says(err, "the key core.connect is missing");
	for (char *p = (char *)b.p; (p = strstr(p, "# must be given")) != NULL;)
		memcpy(p, "filled in      ", 15);
	assert_rc(settings_from(&a, buf_cstr(&b), &s, &err), err);
	assert_true(s.spool.segment_size == UINT64_C(64) << 20);
	buf_release(&b);
	arena_release(&a);
}

static void test_units(void **state)
{
	uint64_t bytes;
	int64_t us;
	assert_true(conf_parse_bytes("64 MB", &bytes) && bytes == UINT64_C(64) << 20);
	assert_true(conf_parse_bytes("1kB", &bytes) && bytes == 1024);
	assert_true(conf_parse_duration("90 s", &us) && us == 90000000);
	assert_true(conf_parse_duration("0", &us) && us == 0);
	const char *bad[] = {"", "MB", "-1 MB", "1 mb", "99999999999 TB", "5"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(conf_parse_duration(bad[i], &us));
	assert_false(conf_parse_bytes("99999999999 TB", &bytes));
}

/* A hole in the mapped file would be a SIGBUS at some later store, once the disk is full. */
static void test_metrics_file_has_its_room_from_the_start(void **state)
{
	struct rt_err err;
	struct stat st;
	char path[] = "/tmp/rolag-unit-XXXXXX";
	close(mkstemp(path));
	assert_rc(met_open(path, "test", &err), err);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, sizeof(struct met_file));
	assert_true(st.st_blocks * 512 >= st.st_size);
	unlink(path);
}

static void always_ready_prepare(void *ctx, int64_t now_us, struct loop_want *ret)
{
	ret->fd = *(int *)ctx;
	ret->events = POLLIN;
}

static int always_ready_dispatch(void *ctx, short revents, int64_t now_us, struct rt_err *err)
{
	return 0;
}

/* A source that never runs dry (the core sends faster than we write) must not hide SIGTERM. */
static void test_loop_hears_signals_while_input_never_ends(void **state)
{
	struct rt_err err;
	struct loop l;
	int fd[2];
	assert_int_equal(pipe(fd), 0);
	assert_int_equal(write(fd[1], "x", 1), 1);
	assert_rc(loop_init(&l, &err), err);
	loop_add(&l,
		 (struct loop_source){"busy", &fd[0], always_ready_prepare, always_ready_dispatch});
	raise(SIGTERM);
	raise(SIGUSR2);
	assert_rc(loop_turn(&l, &err), err);
	assert_int_equal(l.stop, 1);
	assert_true(l.usr2);
	loop_release(&l);
	close(fd[0]);
	close(fd[1]);
}

/* Sources that count how often they are served. */
struct counted {
	int fd, served;
	struct loop *loop;
	int waited; /* what loop_wait said */
};

static void counted_prepare(void *ctx, int64_t now_us, struct loop_want *ret)
{
	ret->fd = ((struct counted *)ctx)->fd;
	ret->events = POLLIN;
}

static int counted_dispatch(void *ctx, short revents, int64_t now_us, struct rt_err *err)
{
	struct counted *c = ctx;
	char byte;
	c->served++;
	return read(c->fd, &byte, 1) == 1 ? 0 : rt_fail(err, ERR_SYSTEM, "no byte");
}

/* Waits for a quarter of a second for what never comes. */
static int waiting_dispatch(void *ctx, short revents, int64_t now_us, struct rt_err *err)
{
	struct counted *c = ctx;
	c->served++;
	c->waited = loop_wait(c->loop, -1, 0, rt_mono_us() + 250000, 0, err);
	c->fd = -1;
	return 0;
}

static void test_loop_serves_the_background_while_a_source_waits(void **state)
{
	struct rt_err err;
	struct loop l;
	int fore[2], back[2];
	assert_int_equal(pipe(fore) | pipe(back), 0);
	assert_int_equal(write(fore[1], "xxx", 3), 3);
	assert_int_equal(write(back[1], "xxx", 3), 3);
	assert_rc(loop_init(&l, &err), err);
	struct counted waits = {.fd = back[0], .loop = &l, .waited = 5}, behind = {.fd = back[0]},
		       other = {.fd = fore[0]};
	loop_add(&l, (struct loop_source){"waits", &waits, counted_prepare, waiting_dispatch});
	loop_add(&l, (struct loop_source){"other", &other, counted_prepare, counted_dispatch});
	loop_add_background(&l, (struct loop_source){"behind", &behind, counted_prepare,
						     counted_dispatch});
	/* All three while it waits, and not once more for what was ready before. */
	assert_rc(loop_turn(&l, &err), err);
	assert_int_equal(waits.served, 1);
	assert_int_equal(waits.waited, 0);
	assert_int_equal(other.served, 1);
	assert_int_equal(behind.served, 3);
	loop_release(&l);
	for (int i = 0; i < 2; i++)
		close(fore[i]), close(back[i]);
}

static void test_loop_waits_until_it_is_ready_or_told_to_stop(void **state)
{
	struct rt_err err;
	struct loop l;
	int fd[2];
	assert_int_equal(pipe(fd), 0);
	assert_rc(loop_init(&l, &err), err);
	int64_t began = rt_mono_us();
	assert_int_equal(loop_wait(&l, fd[0], POLLIN, began + 20000, 0, &err), 0);
	assert_true(rt_mono_us() - began >= 20000);
	raise(SIGTERM);
	began = rt_mono_us();
	assert_int_equal(loop_wait(&l, fd[0], POLLIN, LOOP_NEVER, 300000, &err), ERR_RETRY);
	assert_true(rt_mono_us() - began >= 300000); /* an answer may be on its way */
	assert_int_equal(loop_wait(&l, fd[0], POLLIN, LOOP_NEVER, 0, &err), ERR_RETRY);
	raise(SIGTERM);
	assert_int_equal(loop_wait(&l, fd[0], POLLIN, LOOP_NEVER, INT64_C(600000000), &err),
			 ERR_RETRY);
	assert_int_equal(write(fd[1], "x", 1), 1);
	assert_int_equal(loop_wait(&l, fd[0], POLLIN, LOOP_NEVER, 0, &err), 1);
	loop_release(&l);
	close(fd[0]);
	close(fd[1]);
}

static void test_metrics_file_and_quantiles(void **state)
{
	struct rt_err err;
	static struct met_file f;
	char path[] = "/tmp/rolag-unit-XXXXXX";
	close(mkstemp(path));
	assert_rc(met_open(path, "test", &err), err);
	for (int i = 1; i <= 1000; i++)
		met_observe(MET_VISIBLE_SECONDS, i * 100);
	met_add(MET_APPLY_EVENTS, 3);
	met_state("live");
	met_note("what %d", 5);
	assert_int_equal(met_read(path, &f, &err), 1);
	assert_int_equal(f.value[MET_APPLY_EVENTS], 3);
	assert_string_equal(f.state, "live");
	assert_string_equal(f.note, "what 5");
	const struct met_histogram *h = met_histogram(&f, MET_VISIBLE_SECONDS);
	assert_int_equal(h->count, 1000);
	int64_t p50 = met_quantile(h, 0.5), p99 = met_quantile(h, 0.99);
	assert_true(p50 > 50000 * 0.93 && p50 < 50000 * 1.07);
	assert_true(p99 > 99000 * 0.93 && p99 < 99000 * 1.07);
	int64_t sum_us = 0;
	for (unsigned n = 0; n < MET_BUCKETS; n++)
		sum_us += met_bucket_us(n) * (int64_t)h->bucket[n];
	assert_true(sum_us > (int64_t)h->sum_us * 0.93 && sum_us < (int64_t)h->sum_us * 1.07);
	assert_int_equal(truncate(path, 10), 0);
	assert_int_equal(met_read(path, &f, &err), 0);
	unlink(path);
	assert_int_equal(met_read(path, &f, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_trap_14_reader_latches_at_the_first_underflow),
		cmocka_unit_test(test_reader_strings_must_end),
		cmocka_unit_test(test_buffer_round_trip),
		cmocka_unit_test(test_arena_reset_reuses_and_aligns),
		cmocka_unit_test(test_buffer_grows_into_an_arena),
		cmocka_unit_test(test_arena_trims_what_came_last),
		cmocka_unit_test(test_errors_are_one_line_with_context),
		cmocka_unit_test(test_lsn_text),
		cmocka_unit_test(test_yaml_tree_has_places),
		cmocka_unit_test(test_trap_49_yaml_refuses_what_readers_disagree_on),
		cmocka_unit_test(test_nearest_name),
		cmocka_unit_test(test_replace_file_and_read_back),
		cmocka_unit_test(test_settings_defaults_and_ranges),
		cmocka_unit_test(test_settings_that_take_a_restart_are_named),
		cmocka_unit_test(test_settings_example_is_complete_and_loads),
		cmocka_unit_test(test_units),
		cmocka_unit_test(test_metrics_file_and_quantiles),
		cmocka_unit_test(test_metrics_file_has_its_room_from_the_start),
		cmocka_unit_test(test_loop_hears_signals_while_input_never_ends),
		cmocka_unit_test(test_loop_serves_the_background_while_a_source_waits),
		cmocka_unit_test(test_loop_waits_until_it_is_ready_or_told_to_stop),
		cmocka_unit_test(test_text_from_outside_begins_no_line_and_steers_nothing),
		cmocka_unit_test(test_log_limit_counts_what_it_hides),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
