/*
 * test_pgoutput: the decoder on what a real PostgreSQL 15 sent
 * (tests/data/pgoutput, written by record.py, whose own decoder wrote the
 * expected words), and on everything that must be refused.
 */
#include "tests/unit/unit.h"

#include "cdc/capture/pgoutput.h"
#include "proto/base/buf.h"
#include "proto/base/fsio.h"

#define MESSAGES_MAX 256

/* One recording, each message in an allocation of exactly its length, so that ASan sees a byte too far. */
struct recording {
	int count;
	struct lsn lsn[MESSAGES_MAX];
	struct slice bytes[MESSAGES_MAX];
	char *expect[MESSAGES_MAX];
};

static char *read_text(const char *name)
{
	char path[128], *text;
	size_t len;
	struct rt_err err;
	snprintf(path, sizeof(path), "tests/data/pgoutput/%s", name);
	assert_rc(fs_read_file(path, 1 << 20, &text, &len, &err), err);
	return text;
}

static uint8_t hex_digit(char c)
{
	return (uint8_t)(c <= '9' ? c - '0' : c - 'a' + 10);
}

static struct slice from_hex(const char *hex)
{
	size_t len = strlen(hex) / 2;
	uint8_t *p = rt_malloc(len);
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)(hex_digit(hex[2 * i]) << 4 | hex_digit(hex[2 * i + 1]));
	return slice_of(p, len);
}

static void recording_load(struct recording *r, const char *name)
{
	char file[64];
	*r = (struct recording){0};
	snprintf(file, sizeof(file), "%s.hex", name);
	char *hex = read_text(file), *at = hex, *line;
	snprintf(file, sizeof(file), "%s.expect", name);
	char *expect = read_text(file), *expect_at = expect;
	while ((line = strsep(&at, "\n")) != NULL && *line != '\0') {
		assert_true(r->count < MESSAGES_MAX);
		char *space = strchr(line, ' ');
		assert_non_null(space);
		*space = '\0';
		assert_true(lsn_parse(line, &r->lsn[r->count]));
		r->bytes[r->count] = from_hex(space + 1);
		char *words = strsep(&expect_at, "\n");
		assert_non_null(words);
		r->expect[r->count++] = rt_strdup(words);
	}
	assert_true(r->count > 50);
	free(hex);
	free(expect);
}

static void recording_release(struct recording *r)
{
	for (int i = 0; i < r->count; i++) {
		free((void *)(uintptr_t)r->bytes[i].p);
		free(r->expect[i]);
	}
}

/* ---- a message in the words of record.py ---- */

static void say_hex(struct buf *b, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		buf_printf(b, "%02x", p[i]);
}

static void say_tuple(struct buf *b, char tag, struct tuple t)
{
	buf_printf(b, " %c(", tag);
	for (int i = 0; i < t.count; i++) {
		buf_printf(b, "%s%c", i > 0 ? "," : "", (char)t.value[i].kind);
		say_hex(b, t.value[i].p, t.value[i].len);
	}
	buf_str(b, ")");
}

static void say_relation(struct buf *b, const struct schema *s)
{
	buf_printf(b, "oid=%u name=%s.%s identity=%c columns=", s->relation_oid, s->nspname,
		   s->relname, s->identity);
	for (int i = 0; i < s->count; i++)
		buf_printf(b, "%s%s%s:%u:%d", i > 0 ? "," : "", s->column[i].key ? "*" : "",
			   s->column[i].name, s->column[i].type_oid, s->column[i].typmod);
}

static void say_row(struct buf *b, const struct pgo_message *m)
{
	buf_printf(b, "oid=%u", m->row.relation_oid);
	if (m->row.old_kind != 0)
		say_tuple(b, m->row.old_kind, m->row.old_row);
	if (m->kind != PGO_DELETE)
		say_tuple(b, 'N', m->row.new_row);
}

static const char *in_words(struct buf *b, const struct pgo_message *m)
{
	buf_clear(b);
	buf_printf(b, "%c ", (char)m->kind);
	switch (m->kind) {
	case PGO_BEGIN:
		buf_printf(b, "commit=" LSN_FMT " us=%lld xid=%u", LSN_ARGS(m->begin.commit),
			   (long long)m->begin.commit_us, m->begin.xid);
		break;
	case PGO_COMMIT:
		buf_printf(b, "commit=" LSN_FMT " end=" LSN_FMT " us=%lld",
			   LSN_ARGS(m->commit.commit), LSN_ARGS(m->commit.end),
			   (long long)m->commit.commit_us);
		break;
	case PGO_ORIGIN:
		buf_printf(b, "commit=" LSN_FMT " name=%s", LSN_ARGS(m->origin.commit),
			   m->origin.name);
		break;
	case PGO_RELATION:
		say_relation(b, &m->relation);
		break;
	case PGO_TYPE:
		buf_printf(b, "oid=%u name=%s.%s", m->type.oid, m->type.nspname, m->type.name);
		break;
	case PGO_INSERT:
	case PGO_UPDATE:
	case PGO_DELETE:
		say_row(b, m);
		break;
	case PGO_TRUNCATE:
		buf_printf(b, "flags=%u oids=", m->truncate.flags);
		for (uint32_t i = 0; i < m->truncate.count; i++)
			buf_printf(b, "%s%u", i > 0 ? "," : "", m->truncate.relation_oid[i]);
		break;
	case PGO_MESSAGE:
		buf_printf(b, "transactional=%d lsn=" LSN_FMT " prefix=%s content=",
			   m->message.transactional, LSN_ARGS(m->message.lsn), m->message.prefix);
		say_hex(b, m->message.content.p, m->message.content.len);
		break;
	}
	return buf_cstr(b);
}

/* ---- fixtures ---- */

struct fixture {
	struct recording text, binary;
	struct arena arena;
	struct buf words;
};

static int setup(void **state)
{
	struct fixture *f = rt_calloc(1, sizeof(*f));
	recording_load(&f->text, "text");
	recording_load(&f->binary, "binary");
	arena_init(&f->arena, 1 << 16);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	recording_release(&f->text);
	recording_release(&f->binary);
	arena_release(&f->arena);
	buf_release(&f->words);
	free(f);
	return 0;
}

static const struct recording *recorded(struct fixture *f, int i)
{
	return i == 0 ? &f->text : &f->binary;
}

/* The nth recorded message of this kind; it must be there. */
static struct pgo_message nth(struct fixture *f, const struct recording *r, enum pgo_kind kind,
			      int n)
{
	struct pgo_message m;
	struct rt_err err;
	for (int i = 0; i < r->count; i++)
		if (r->bytes[i].p[0] == kind && n-- == 0) {
			assert_rc(pgo_decode(r->bytes[i], r->lsn[i], &f->arena, &m, &err), err);
			return m;
		}
	fail_msg("message %c is not in the recording", (char)kind);
	abort();
}

/* Decodes bytes from an allocation of exactly their length. */
static int decode_copy(struct fixture *f, const void *p, size_t len, struct rt_err *err)
{
	uint8_t *copy = rt_malloc(len);
	struct pgo_message m;
	if (len > 0)
		memcpy(copy, p, len);
	arena_reset(&f->arena);
	int rc = pgo_decode(slice_of(copy, len), (struct lsn){0x16B374D848}, &f->arena, &m, err);
	if (rc == 0)
		in_words(&f->words, &m); /* touches all that was decoded */
	free(copy);
	return rc;
}

#define refused(f, bytes, says)                                                                    \
	do {                                                                                       \
		struct rt_err err_ = {0};                                                          \
		assert_int_equal(decode_copy(f, bytes, sizeof(bytes) - 1, &err_), ERR_PERMANENT);  \
		assert_says(err_, says);                                                           \
		assert_says(err_, "16/B374D848");                                                  \
	} while (0)

/* ---- tests ---- */

static void test_every_recorded_message_reads_as_postgres_meant_it(void **state)
{
	struct fixture *f = *state;
	int seen[256] = {0};
	for (int which = 0; which < 2; which++) {
		const struct recording *r = recorded(f, which);
		for (int i = 0; i < r->count; i++) {
			struct pgo_message m;
			struct rt_err err;
			arena_reset(&f->arena);
			assert_rc(pgo_decode(r->bytes[i], r->lsn[i], &f->arena, &m, &err), err);
			assert_string_equal(in_words(&f->words, &m), r->expect[i]);
			seen[m.kind]++;
		}
	}
	for (const char *k = "BCORYIUDTM"; *k != '\0'; k++)
		assert_true(seen[(int)*k] > 0);
}

static void test_values_are_borrowed_from_the_message(void **state)
{
	struct fixture *f = *state;
	struct pgo_message m = nth(f, &f->text, PGO_INSERT, 0);
	bool inside = false;
	for (int i = 0; i < f->text.count; i++)
		inside |= m.row.new_row.value[0].p > f->text.bytes[i].p &&
			  m.row.new_row.value[0].p < f->text.bytes[i].p + f->text.bytes[i].len;
	assert_true(inside);
}

static void test_trap_13_each_relation_message_has_the_shape_of_its_moment(void **state)
{
	struct fixture *f = *state;
	int shapes[3] = {0}; /* of public.wide: 1 column; id, extra; id, later */
	for (int n = 0, i = 0; i < f->text.count; i++) {
		if (f->text.bytes[i].p[0] != PGO_RELATION)
			continue;
		struct pgo_message m = nth(f, &f->text, PGO_RELATION, n++);
		if (strcmp(m.relation.relname, "wide") != 0)
			continue;
		shapes[m.relation.count == 1				 ? 0
		       : strcmp(m.relation.column[1].name, "extra") == 0 ? 1
									 : 2]++;
	}
	assert_true(shapes[0] >= 2); /* before, and again after the column was dropped */
	assert_int_equal(shapes[1], 1);
	assert_int_equal(shapes[2], 1);
}

static void test_trap_14_a_message_cut_at_any_byte_is_refused(void **state)
{
	struct fixture *f = *state;
	for (int which = 0; which < 2; which++) {
		const struct recording *r = recorded(f, which);
		for (int i = 0; i < r->count; i++) {
			/* Long values: their inside is all alike. */
			for (size_t n = 0; n<r->bytes[i].len; n += n> 400 ? 97 : 1) {
				struct rt_err err = {0};
				assert_int_equal(decode_copy(f, r->bytes[i].p, n, &err),
						 ERR_PERMANENT);
			}
		}
	}
}

static void test_trap_14_a_byte_left_over_is_refused(void **state)
{
	struct fixture *f = *state;
	for (int which = 0; which < 2; which++) {
		const struct recording *r = recorded(f, which);
		for (int i = 0; i < r->count; i++) {
			struct buf b = BUF_INIT;
			struct rt_err err = {0};
			buf_add_slice(&b, r->bytes[i]);
			buf_u8(&b, 'n');
			assert_int_equal(decode_copy(f, b.p, b.len, &err), ERR_PERMANENT);
			assert_non_null(strstr(err.msg, "left over"));
			buf_release(&b);
		}
	}
}

static void test_trap_14_lengths_beyond_the_message_are_refused(void **state)
{
	struct fixture *f = *state;
	refused(f, "I\0\0\0\1N\0\1t\xff\xff\xff\xff", "ends early");
	refused(f,
		"I\0\0\0\1N\0\1t\x7f\xff\xff\xff"
		"abc",
		"ends early");
	refused(f,
		"I\0\0\0\1N\0\1t\0\0\0\4"
		"abc",
		"ends early");
	refused(f, "I\0\0\0\1N\6\100nnn", "ends early");
	refused(f, "I\0\0\0\1N\6\101nnn", "more columns than a table can have");
	refused(f, "I\0\0\0\1N\377\377nnn", "more columns than a table can have");
	refused(f, "R\0\0\0\1s\0t\0d\6\100\0a\0\0\0\0\x17\xff\xff\xff\xff", "ends early");
	refused(f, "R\0\0\0\1s\0t\0d\377\377", "more columns than a table can have");
	refused(f, "T\xff\xff\xff\xff\0\0\0\0\1", "ends early");
	refused(f, "T\x40\0\0\1\0\0\0\0\1", "ends early");
	refused(f,
		"M\1\0\0\0\0\0\0\0\1p\0\xff\xff\xff\xff"
		"abc",
		"ends early");
	refused(f, "Y\0\0\0\1schema", "ends early");
}

static void test_trap_10_unknown_messages_and_flags_are_refused_by_name(void **state)
{
	struct fixture *f = *state;
	refused(f, "", "empty pgoutput message");
	refused(f, "X\0\0", "unknown pgoutput message (type byte 0x58)");
	refused(f, "S\0\0\0\1\1", "unknown pgoutput message (type byte 0x53)");
	refused(f, "\0", "unknown pgoutput message (type byte 0x00)");
	refused(f, "C\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\0",
		"'C' at LSN 16/B374D848 has an unknown flag");
	refused(f, "C\0\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\0", "ends before its commit");
	refused(f, "B\0\0\0\0\0\0\0\1\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\1", "out of range");
	refused(f, "T\0\0\0\1\4\0\0\0\1", "has an unknown flag");
	refused(f, "T\0\0\0\0\0", "names no relation");
	refused(f, "M\2\0\0\0\0\0\0\0\1p\0\0\0\0\0", "has an unknown flag");
	refused(f, "R\0\0\0\1s\0t\0x\0\0", "unknown replica identity");
	refused(f, "R\0\0\0\1s\0t\0\0\0\0", "unknown replica identity");
	refused(f, "R\0\0\0\1s\0t\0d\0\1\2a\0\0\0\0\x17\xff\xff\xff\xff", "unknown column flag");
	refused(f, "I\0\0\0\1N\0\1x", "unknown kind of value");
	refused(f, "I\0\0\0\1N\0\1\0", "unknown kind of value");
	refused(f, "I\0\0\0\1K\0\1n", "unknown kind of tuple");
	refused(f, "D\0\0\0\1N\0\1n", "unknown kind of tuple");
	refused(f, "U\0\0\0\1K\0\1nO\0\1n", "unknown kind of tuple");
}

static void test_trap_15_truncate_keeps_all_its_tables_and_flags(void **state)
{
	struct fixture *f = *state;
	struct pgo_message m = nth(f, &f->text, PGO_TRUNCATE, 0);
	assert_int_equal(m.truncate.flags, TRUNCATE_CASCADE | TRUNCATE_RESTART_IDENTITY);
	assert_int_equal(m.truncate.count, 3); /* parent, wide, and child by cascade */
	for (int i = 0; i < 3; i++)
		for (int j = 0; j < i; j++)
			assert_int_not_equal(m.truncate.relation_oid[i],
					     m.truncate.relation_oid[j]);
	m = nth(f, &f->text, PGO_TRUNCATE, 1);
	assert_int_equal(m.truncate.flags, 0);
	assert_int_equal(m.truncate.count, 1);
}

static void test_trap_16_unchanged_is_neither_null_nor_empty(void **state)
{
	struct fixture *f = *state;
	for (int which = 0; which < 2; which++) {
		struct pgo_message m = nth(f, recorded(f, which), PGO_UPDATE, 0);
		assert_int_equal(m.row.new_row.value[2].kind, VALUE_UNCHANGED);
		assert_null(m.row.new_row.value[2].p);
		m = nth(f, recorded(f, which), PGO_INSERT, 1);
		assert_int_equal(m.row.new_row.value[4].kind, VALUE_NULL);
		m = nth(f, recorded(f, which), PGO_INSERT, 3); /* name is '' */
		assert_int_equal(m.row.new_row.value[1].kind,
				 which == 0 ? VALUE_TEXT : VALUE_BINARY);
		assert_int_equal(m.row.new_row.value[1].len, 0);
		assert_int_equal(m.row.new_row.value[2].kind, VALUE_NULL);
	}
}

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static void test_random_bytes_never_reach_outside(void **state)
{
	struct fixture *f = *state;
	uint64_t seed = 20240229;
	int accepted = 0, rejected = 0;
	for (int round = 0; round < 100000; round++) {
		const struct recording *r = recorded(f, (int)(next_random(&seed) % 2));
		struct slice from = r->bytes[next_random(&seed) % (uint64_t)r->count];
		if (from.len > 600)
			continue;
		uint8_t copy[640];
		size_t len = from.len;
		memcpy(copy, from.p, len);
		for (uint64_t n = 1 + next_random(&seed) % 4; n > 0; n--)
			copy[next_random(&seed) % len] = (uint8_t)next_random(&seed);
		if (next_random(&seed) % 4 == 0)
			len = next_random(&seed) % (len + 1);
		struct rt_err err = {0};
		if (decode_copy(f, copy, len, &err) == 0)
			accepted++;
		else
			rejected++;
	}
	assert_true(accepted > 1000);
	assert_true(rejected > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_recorded_message_reads_as_postgres_meant_it),
		cmocka_unit_test(test_values_are_borrowed_from_the_message),
		cmocka_unit_test(test_trap_13_each_relation_message_has_the_shape_of_its_moment),
		cmocka_unit_test(test_trap_14_a_message_cut_at_any_byte_is_refused),
		cmocka_unit_test(test_trap_14_a_byte_left_over_is_refused),
		cmocka_unit_test(test_trap_14_lengths_beyond_the_message_are_refused),
		cmocka_unit_test(test_trap_10_unknown_messages_and_flags_are_refused_by_name),
		cmocka_unit_test(test_trap_15_truncate_keeps_all_its_tables_and_flags),
		cmocka_unit_test(test_trap_16_unchanged_is_neither_null_nor_empty),
		cmocka_unit_test(test_random_bytes_never_reach_outside),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
