/*
 * spool_probe: writes a spool as test_spool_reader.py tells it, so that the
 * test knows what must be in it. Reads commands, one a line, from stdin:
 *
 *   open LSN SEGMENT-BYTES FRAME-BYTES     a writer's start (a new generation)
 *   regain LSN SEGMENT-BYTES FRAME-BYTES   the same with a slot made anew, beyond all there is
 *   begin LSN XID µs | commit LSN µs | abort | progress LSN
 *   insert LSN VALUE… | update LSN O|K|- OLD… NEW… | delete LSN O|K OLD…
 *   truncate LSN FLAGS | message LSN 0|1 PREFIX HEX
 *   shape N            rows from here on are of the relation's N-th shape (0, 1)
 *   sync | close
 *
 * LSNs are hexadecimal. A value is n, u, t:HEX or b:HEX. argv[1] is the directory.
 */
#include "proto/spool.h"

#include <inttypes.h>

#include "proto/base/buf.h"

#define COLUMNS 3

static const struct schema_column column[] = {
	{"id", true, 2950, -1}, {"a name", false, 25, -1}, {"amount", false, 1700, 655366}};

static struct schema shape[] = {
	{.relation_oid = 16400,
	 .nspname = "public",
	 .relname = "first",
	 .identity = 'd',
	 .count = COLUMNS,
	 .column = column},
	{.relation_oid = 16401,
	 .nspname = "Other\xC3\xA9",
	 .relname = "second",
	 .identity = 'f',
	 .count = COLUMNS,
	 .column = column},
};

struct probe {
	const char *dir;
	struct spool_writer *writer;
	unsigned shape;
	struct buf bytes; /* of the line's values */
	char *rest;	  /* of the line */
};

static void stop(const char *what)
{
	fprintf(stderr, "spool_probe: %s\n", what);
	exit(EXIT_FINDING);
}

static char *word(struct probe *p)
{
	char *w = strtok_r(p->rest, " \n", &p->rest);
	if (w == NULL)
		stop("a word is missing");
	return w;
}

static uint64_t hex_word(struct probe *p)
{
	return strtoull(word(p), NULL, 16);
}

static int64_t decimal_word(struct probe *p)
{
	return strtoll(word(p), NULL, 10);
}

/* Decodes hex into p->bytes, whose memory is large enough from the start. */
static struct slice from_hex(struct probe *p, const char *hex)
{
	size_t start = p->bytes.len;
	for (; hex[0] != '\0' && hex[1] != '\0'; hex += 2) {
		const char pair[3] = {hex[0], hex[1], '\0'};
		buf_u8(&p->bytes, (uint8_t)strtoul(pair, NULL, 16));
	}
	return slice_of(p->bytes.p + start, p->bytes.len - start);
}

static struct tuple tuple_words(struct probe *p, struct value v[COLUMNS])
{
	for (int i = 0; i < COLUMNS; i++) {
		const char *w = word(p);
		struct slice s = w[0] == 't' || w[0] == 'b' ? from_hex(p, w + 2) : slice_str("");
		v[i] = (struct value){
			.kind = (enum value_kind)w[0], .len = (uint32_t)s.len, .p = s.p};
	}
	return (struct tuple){.count = COLUMNS, .value = v};
}

static void append(struct probe *p, const struct change *c)
{
	struct rt_err err;
	if (spool_append(p->writer, c, &err) != 0)
		stop(err.msg);
}

static void open_writer(struct probe *p, bool accept_gap)
{
	static const struct spool_identity id = {UINT64_C(7312345678901234567), 3, "lana",
						 "rolag_lana"};
	struct rt_err err;
	struct lsn confirmed = {hex_word(p)};
	struct spool_options options = {.quota_bytes = UINT64_C(1) << 40, .accept_gap = accept_gap};
	options.segment_bytes = (uint64_t)decimal_word(p);
	options.frame_bytes = (uint64_t)decimal_word(p);
	if (spool_writer_open(&p->writer, p->dir, &id, &options, confirmed, &err) != 0)
		stop(err.msg);
}

static void append_row(struct probe *p, enum change_kind kind)
{
	struct value new_row[COLUMNS], old_row[COLUMNS];
	struct change c = {.kind = kind, .lsn = {hex_word(p)}, .schema = &shape[p->shape]};
	if (kind != CHANGE_INSERT) {
		char old = word(p)[0];
		c.old_kind = old == '-' ? '\0' : old;
	}
	if (c.old_kind != '\0')
		c.old_row = tuple_words(p, old_row);
	if (kind != CHANGE_DELETE)
		c.new_row = tuple_words(p, new_row);
	append(p, &c);
}

static void append_other(struct probe *p, const char *command)
{
	static const struct schema *const both[] = {&shape[0], &shape[1]};
	struct change c = {.lsn = {hex_word(p)}};
	if (strcmp(command, "begin") == 0) {
		c.kind = CHANGE_BEGIN;
		c.xid = (uint32_t)decimal_word(p);
		c.commit_us = decimal_word(p);
	} else if (strcmp(command, "commit") == 0) {
		c.kind = CHANGE_COMMIT;
		c.commit_us = decimal_word(p);
	} else if (strcmp(command, "progress") == 0) {
		c.kind = CHANGE_PROGRESS;
	} else if (strcmp(command, "truncate") == 0) {
		c.kind = CHANGE_TRUNCATE;
		c.truncate_flags = (uint8_t)decimal_word(p);
		c.truncated = both;
		c.truncated_count = ARRAY_LEN(both);
	} else if (strcmp(command, "message") == 0) {
		c.kind = CHANGE_MESSAGE;
		c.transactional = decimal_word(p) != 0;
		c.prefix = word(p);
		c.content = from_hex(p, word(p));
	} else {
		stop("unknown command");
	}
	append(p, &c);
}

static void run(struct probe *p, char *line)
{
	struct rt_err err;
	int rc = 0;
	p->rest = line;
	buf_clear(&p->bytes);
	(void)buf_reserve(&p->bytes, strlen(line));
	const char *command = word(p);
	if (strcmp(command, "open") == 0)
		open_writer(p, false);
	else if (strcmp(command, "regain") == 0)
		open_writer(p, true);
	else if (strcmp(command, "insert") == 0)
		append_row(p, CHANGE_INSERT);
	else if (strcmp(command, "update") == 0)
		append_row(p, CHANGE_UPDATE);
	else if (strcmp(command, "delete") == 0)
		append_row(p, CHANGE_DELETE);
	else if (strcmp(command, "shape") == 0)
		p->shape = (unsigned)decimal_word(p) % ARRAY_LEN(shape);
	else if (strcmp(command, "abort") == 0)
		rc = spool_abort_transaction(p->writer, &err);
	else if (strcmp(command, "sync") == 0)
		rc = spool_sync(p->writer, &err);
	else if (strcmp(command, "close") == 0) {
		spool_writer_close(p->writer);
		p->writer = NULL;
	} else {
		append_other(p, command);
	}
	if (rc != 0)
		stop(err.msg);
}

int main(int argc, char **argv)
{
	struct probe p = {.bytes = BUF_INIT};
	char *line = NULL;
	size_t cap = 0;
	if (argc != 2)
		stop("needs a directory");
	p.dir = argv[1];
	for (size_t i = 0; i < ARRAY_LEN(shape); i++)
		shape[i].hash = schema_hash(&shape[i]);
	while (getline(&line, &cap, stdin) > 0)
		run(&p, line);
	spool_writer_close(p.writer);
	buf_release(&p.bytes);
	free(line);
	return EXIT_OK;
}
