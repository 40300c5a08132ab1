/*
 * pgoutput: the decoder. Guarantees: never reads outside the message, never
 * allocates more than a small multiple of the message's length, and accepts
 * exactly what the layout in the header describes, to the last byte.
 */
#include "cdc/capture/pgoutput.h"

#include "proto/base/buf.h"

/* The cursor, and what was wrong first; NULL while nothing is (rd latches "ends early" itself). */
struct decoder {
	struct rd rd;
	struct arena *arena;
	const char *why;
};

static void refuse(struct decoder *d, const char *why)
{
	if (!d->rd.failed)
		d->why = why;
	d->rd.failed = true;
}

/* A string of the message; never NULL, so that what is built before the check at the end is whole. */
static const char *read_string(struct decoder *d)
{
	const char *s = rd_cstr(&d->rd);
	return s == NULL ? "" : s;
}

static struct lsn read_lsn(struct decoder *d)
{
	return (struct lsn){rd_u64(&d->rd)};
}

/* A time, moved from PostgreSQL's epoch to Unix's. */
static int64_t read_time_us(struct decoder *d)
{
	int64_t us = (int64_t)rd_u64(&d->rd);
	if (__builtin_add_overflow(us, RT_PG_EPOCH_US, &us)) {
		refuse(d, "has a time that is out of range");
		return 0;
	}
	return us;
}

static const char *read_namespace(struct decoder *d)
{
	const char *s = read_string(d);
	return *s == '\0' ? "pg_catalog" : s;
}

static void read_begin(struct decoder *d, struct pgo_message *m)
{
	m->begin.commit = read_lsn(d);
	m->begin.commit_us = read_time_us(d);
	m->begin.xid = rd_u32(&d->rd);
}

static void read_commit(struct decoder *d, struct pgo_message *m)
{
	if (rd_u8(&d->rd) != 0)
		refuse(d, "has an unknown flag");
	m->commit.commit = read_lsn(d);
	m->commit.end = read_lsn(d);
	m->commit.commit_us = read_time_us(d);
	if (lsn_le(m->commit.end, m->commit.commit))
		refuse(d, "ends before its commit record");
}

static void read_origin(struct decoder *d, struct pgo_message *m)
{
	m->origin.commit = read_lsn(d);
	m->origin.name = read_string(d);
}

static struct schema_column read_column(struct decoder *d)
{
	struct schema_column c = {0};
	uint8_t flags = rd_u8(&d->rd);
	if (flags > 1)
		refuse(d, "has an unknown column flag");
	c.key = flags == 1;
	c.name = read_string(d);
	c.type_oid = rd_u32(&d->rd);
	c.typmod = (int32_t)rd_u32(&d->rd);
	return c;
}

/* The shortest column of a Relation message: flags, an empty name, type, typmod. */
#define COLUMN_BYTES_MIN 10

static void read_relation(struct decoder *d, struct pgo_message *m)
{
	struct schema *s = &m->relation;
	s->relation_oid = rd_u32(&d->rd);
	s->nspname = read_namespace(d);
	s->relname = read_string(d);
	s->identity = (char)rd_u8(&d->rd);
	if (s->identity == '\0' || strchr("dnfi", s->identity) == NULL)
		refuse(d, "has an unknown replica identity");
	uint16_t count = rd_u16(&d->rd);
	if (count > CHANGE_COLUMNS_MAX)
		refuse(d, "has more columns than a table can have");
	if (count > d->rd.left / COLUMN_BYTES_MIN)
		d->rd.failed = true;
	if (d->rd.failed)
		return;
	struct schema_column *column = arena_alloc(d->arena, count * sizeof(*column));
	for (uint16_t i = 0; i < count; i++)
		column[i] = read_column(d);
	s->count = count;
	s->column = column;
}

static void read_type(struct decoder *d, struct pgo_message *m)
{
	m->type.oid = rd_u32(&d->rd);
	m->type.nspname = read_namespace(d);
	m->type.name = read_string(d);
}

static struct value read_value(struct decoder *d)
{
	struct value v = {.kind = VALUE_NULL};
	uint8_t tag = rd_u8(&d->rd);
	if (tag == '\0' || strchr("nutb", tag) == NULL) {
		refuse(d, "has an unknown kind of value");
		return v;
	}
	v.kind = (enum value_kind)tag;
	switch (v.kind) {
	case VALUE_NULL:
	case VALUE_UNCHANGED:
		break;
	case VALUE_TEXT:
	case VALUE_BINARY:
		v.len = rd_u32(&d->rd);
		v.p = rd_bytes(&d->rd, v.len);
		break;
	}
	return v;
}

static struct tuple read_tuple(struct decoder *d)
{
	uint16_t count = rd_u16(&d->rd);
	if (count > CHANGE_COLUMNS_MAX)
		refuse(d, "has more columns than a table can have");
	if (count > d->rd.left) /* each value takes a byte at least */
		d->rd.failed = true;
	if (d->rd.failed)
		return (struct tuple){0};
	struct value *value = arena_alloc(d->arena, count * sizeof(*value));
	for (uint16_t i = 0; i < count && !d->rd.failed; i++)
		value[i] = read_value(d);
	return (struct tuple){.count = count, .value = value};
}

/* Insert, Update and Delete: an old tuple where the kind may have one, a new one where it has one. */
static void read_row(struct decoder *d, struct pgo_message *m, bool may_old, bool has_new)
{
	m->row.relation_oid = rd_u32(&d->rd);
	uint8_t tag = rd_u8(&d->rd);
	if (may_old && (tag == 'K' || tag == 'O')) {
		m->row.old_kind = (char)tag;
		m->row.old_row = read_tuple(d);
		if (!has_new)
			return;
		tag = rd_u8(&d->rd);
	}
	if (has_new && tag == 'N')
		m->row.new_row = read_tuple(d);
	else
		refuse(d, "has an unknown kind of tuple");
}

static void read_truncate(struct decoder *d, struct pgo_message *m)
{
	uint32_t count = rd_u32(&d->rd);
	m->truncate.flags = rd_u8(&d->rd);
	if ((m->truncate.flags & ~(TRUNCATE_CASCADE | TRUNCATE_RESTART_IDENTITY)) != 0)
		refuse(d, "has an unknown flag");
	if (count == 0)
		refuse(d, "names no relation");
	if (count > d->rd.left / sizeof(uint32_t))
		d->rd.failed = true;
	if (d->rd.failed)
		return;
	uint32_t *oid = arena_alloc(d->arena, count * sizeof(*oid));
	for (uint32_t i = 0; i < count; i++)
		oid[i] = rd_u32(&d->rd);
	m->truncate.count = count;
	m->truncate.relation_oid = oid;
}

static void read_message(struct decoder *d, struct pgo_message *m)
{
	uint8_t flags = rd_u8(&d->rd);
	if (flags > 1)
		refuse(d, "has an unknown flag");
	m->message.transactional = flags == 1;
	m->message.lsn = read_lsn(d);
	m->message.prefix = read_string(d);
	uint32_t len = rd_u32(&d->rd);
	m->message.content = slice_of(rd_bytes(&d->rd, len), len);
}

static void read_body(struct decoder *d, struct pgo_message *m)
{
	switch (m->kind) {
	case PGO_BEGIN:
		read_begin(d, m);
		return;
	case PGO_COMMIT:
		read_commit(d, m);
		return;
	case PGO_ORIGIN:
		read_origin(d, m);
		return;
	case PGO_RELATION:
		read_relation(d, m);
		return;
	case PGO_TYPE:
		read_type(d, m);
		return;
	case PGO_INSERT:
		read_row(d, m, false, true);
		return;
	case PGO_UPDATE:
		read_row(d, m, true, true);
		return;
	case PGO_DELETE:
		read_row(d, m, true, false);
		return;
	case PGO_TRUNCATE:
		read_truncate(d, m);
		return;
	case PGO_MESSAGE:
		read_message(d, m);
		return;
	}
}

int pgo_decode(struct slice bytes, struct lsn lsn, struct arena *a, struct pgo_message *ret,
	       struct rt_err *err)
{
	struct decoder d = {.rd = rd_of(bytes), .arena = a};
	uint8_t kind = rd_u8(&d.rd);
	if (d.rd.failed)
		return rt_fail(err, ERR_PERMANENT, "empty pgoutput message at LSN " LSN_FMT,
			       LSN_ARGS(lsn));
	if (kind == '\0' || strchr("BCORYIUDTM", kind) == NULL)
		return rt_fail(err, ERR_PERMANENT,
			       "unknown pgoutput message (type byte 0x%02x) at LSN " LSN_FMT, kind,
			       LSN_ARGS(lsn));
	struct pgo_message m = {.kind = (enum pgo_kind)kind};
	read_body(&d, &m);
	if (!rd_finish(&d.rd)) {
		const char *why = d.why != NULL ? d.why
				  : d.rd.failed ? "ends early"
						: "has bytes left over";
		return rt_fail(err, ERR_PERMANENT, "pgoutput message '%c' at LSN " LSN_FMT " %s",
			       kind, LSN_ARGS(lsn), why);
	}
	*ret = m;
	return 0;
}
