/* record: guarantees that a change that was read equals the one that was added, or is refused. */
#include "proto/record.h"

#include <xxhash.h>

#include "proto/change.pb-c.h"
#include "proto/frame.h"

typedef Rolag__V1__Change pb_change;
typedef Rolag__V1__Column pb_column;
typedef Rolag__V1__Land pb_land;
typedef Rolag__V1__Schema pb_schema;
typedef Rolag__V1__Segment pb_segment;
typedef Rolag__V1__TransactionHead pb_head;
typedef Rolag__V1__Tuple pb_tuple;

/* What a change needs beside its values: head, tags, kinds, lengths of two tuples. */
#define CHANGE_OVERHEAD_MAX (1u << 20)

static void *arena_alloc_cb(void *arena, size_t bytes)
{
	return arena_alloc(arena, bytes);
}

static void arena_free_cb(void *arena, void *p)
{
	/* Given back with the arena. */
}

static ProtobufCAllocator allocator_of(struct arena *a)
{
	return (ProtobufCAllocator){
		.alloc = arena_alloc_cb, .free = arena_free_cb, .allocator_data = a};
}

static ProtobufCBinaryData bytes_of(struct slice s)
{
	/* protobuf-c wants a non-const pointer and only reads it. */
	return (ProtobufCBinaryData){.len = s.len, .data = (uint8_t *)(uintptr_t)s.p};
}

static struct slice slice_of_bytes(ProtobufCBinaryData b)
{
	return b.data == NULL ? slice_str("") : slice_of(b.data, b.len);
}

/* ---- wire form: tags and varints ---- */

enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

static void add_varint(struct buf *out, uint64_t v)
{
	uint8_t *p = buf_reserve(out, 10);
	size_t n = 0;
	for (; v >= 0x80; v >>= 7)
		p[n++] = (uint8_t)(v | 0x80);
	p[n++] = (uint8_t)v;
	out->len += n;
}

static uint64_t read_varint(struct rd *r)
{
	uint64_t v = 0;
	for (unsigned shift = 0; shift < 64; shift += 7) {
		uint8_t b = rd_u8(r);
		v |= (uint64_t)(b & 0x7F) << shift;
		if ((b & 0x80) == 0)
			return v;
	}
	r->failed = true;
	return 0;
}

/* A length-delimited field whose message is packed in place. */
static void add_message(struct buf *out, unsigned number, const ProtobufCMessage *m)
{
	size_t bytes = protobuf_c_message_get_packed_size(m);
	add_varint(out, number << 3 | WIRE_BYTES);
	add_varint(out, bytes);
	out->len += protobuf_c_message_pack(m, buf_reserve(out, bytes));
}

bool record_next_field(struct rd *r, uint32_t *ret_number, struct slice *ret)
{
	while (!r->failed && r->left > 0) {
		uint64_t tag = read_varint(r);
		switch (tag & 7) {
		case WIRE_VARINT:
			(void)read_varint(r);
			break;
		case WIRE_FIXED64:
			(void)rd_u64(r);
			break;
		case WIRE_FIXED32:
			(void)rd_u32(r);
			break;
		case WIRE_BYTES: {
			uint64_t len = read_varint(r);
			const uint8_t *p = rd_bytes(r, len);
			if (p == NULL)
				return false;
			*ret_number = (uint32_t)(tag >> 3);
			*ret = slice_of(p, len);
			return true;
		}
		default:
			r->failed = true;
		}
	}
	return false;
}

/* ---- segment ---- */

static Rolag__V1__Memory **pack_memory(struct arena *a, const struct spool_memory *from,
				       size_t count)
{
	Rolag__V1__Memory *to = arena_alloc(a, count * sizeof(*to));
	Rolag__V1__Memory **list = arena_alloc(a, count * sizeof(*list));
	for (size_t i = 0; i < count; i++) {
		to[i] = (Rolag__V1__Memory)ROLAG__V1__MEMORY__INIT;
		to[i].since_lsn = from[i].since.v;
		to[i].end_lsn = from[i].end.v;
		to[i].xid = from[i].xid;
		to[i].commit_us = from[i].commit_us;
		list[i] = &to[i];
	}
	return list;
}

static const struct spool_memory *read_memory(struct arena *a, const pb_segment *m)
{
	struct spool_memory *to = arena_alloc(a, m->n_memory * sizeof(*to));
	for (size_t i = 0; i < m->n_memory; i++) {
		const Rolag__V1__Memory *from = m->memory[i];
		to[i] = (struct spool_memory){.since = {from->since_lsn},
					      .end = {from->end_lsn},
					      .xid = from->xid,
					      .commit_us = from->commit_us};
	}
	return to;
}

void record_add_segment(struct buf *out, const struct record_segment *s)
{
	pb_segment m = ROLAG__V1__SEGMENT__INIT;
	m.system_id = s->system_id;
	m.timeline = s->timeline;
	m.pipeline = bytes_of(s->pipeline);
	m.slot = bytes_of(s->slot);
	m.generation = s->generation;
	m.start_lsn = s->start.v;
	m.salt = s->salt;
	m.created_us = s->created_us;
	m.gap_from_lsn = s->gap_from.v;
	m.asked = s->asked;
	struct arena a;
	arena_init(&a, 4096);
	m.n_memory = s->memory_count;
	m.memory = pack_memory(&a, s->memory, s->memory_count);
	size_t bytes = rolag__v1__segment__get_packed_size(&m);
	out->len += rolag__v1__segment__pack(&m, buf_reserve(out, bytes));
	arena_release(&a);
}

bool record_read_segment(struct slice in, struct arena *a, struct record_segment *ret)
{
	ProtobufCAllocator alloc = allocator_of(a);
	pb_segment *m = rolag__v1__segment__unpack(&alloc, in.len, in.p);
	if (m == NULL)
		return false;
	*ret = (struct record_segment){
		.system_id = m->system_id,
		.timeline = m->timeline,
		.pipeline = slice_of_bytes(m->pipeline),
		.slot = slice_of_bytes(m->slot),
		.generation = m->generation,
		.start = {m->start_lsn},
		.salt = m->salt,
		.created_us = m->created_us,
		.gap_from = {m->gap_from_lsn},
		.asked = m->asked,
		.memory = read_memory(a, m),
		.memory_count = m->n_memory,
	};
	return true;
}

/* ---- schemas ---- */

static void hash_land(const struct schema *s, struct buf *b)
{
	buf_add(b, s->files, strlen(s->files) + 1);
	for (unsigned i = 0; i < s->count; i++) {
		const struct schema_land *l = &s->land[i];
		buf_u8(b, (uint8_t)l->kind);
		buf_add(b, l->type, strlen(l->type) + 1);
		buf_u32(b, l->element_oid);
		buf_u16(b, l->number);
		buf_u8(b, l->missing != NULL);
		if (l->missing != NULL)
			buf_add(b, l->missing, strlen(l->missing) + 1);
	}
}

uint64_t schema_hash(const struct schema *s)
{
	struct buf b = BUF_INIT;
	buf_u32(&b, s->relation_oid);
	buf_u8(&b, (uint8_t)s->identity);
	buf_add(&b, s->nspname, strlen(s->nspname) + 1);
	buf_add(&b, s->relname, strlen(s->relname) + 1);
	buf_u16(&b, s->count);
	for (unsigned i = 0; i < s->count; i++) {
		const struct schema_column *c = &s->column[i];
		buf_add(&b, c->name, strlen(c->name) + 1);
		buf_u8(&b, c->key);
		buf_u32(&b, c->type_oid);
		buf_u32(&b, (uint32_t)c->typmod);
	}
	if (s->land != NULL)
		hash_land(s, &b);
	uint64_t hash = XXH3_64bits(b.p, b.len);
	buf_release(&b);
	return hash;
}

static void fill_land(pb_land *m, const struct schema_land *l)
{
	rolag__v1__land__init(m);
	m->kind = (uint8_t)l->kind;
	m->type = bytes_of(slice_str(l->type));
	m->element_oid = l->element_oid;
	m->number = l->number;
	m->has_missing = l->missing != NULL;
	if (l->missing != NULL)
		m->missing = bytes_of(slice_str(l->missing));
}

void record_add_schema(struct buf *out, const struct schema *s)
{
	pb_schema m = ROLAG__V1__SCHEMA__INIT;
	pb_column *column = rt_calloc(s->count, sizeof(*column));
	pb_land *land = rt_calloc(s->land != NULL ? s->count : 0, sizeof(*land));
	pb_column **pointer = rt_calloc(s->count, sizeof(*pointer));
	m.hash = s->hash;
	m.relation_oid = s->relation_oid;
	m.nspname = bytes_of(slice_str(s->nspname));
	m.relname = bytes_of(slice_str(s->relname));
	m.identity = (uint8_t)s->identity;
	m.n_column = s->count;
	m.column = pointer;
	for (unsigned i = 0; i < s->count; i++) {
		rolag__v1__column__init(&column[i]);
		column[i].name = bytes_of(slice_str(s->column[i].name));
		column[i].key = s->column[i].key;
		column[i].type_oid = s->column[i].type_oid;
		column[i].typmod = s->column[i].typmod;
		pointer[i] = &column[i];
		if (s->land == NULL)
			continue;
		fill_land(&land[i], &s->land[i]);
		column[i].land = &land[i];
	}
	if (s->land != NULL)
		m.files = bytes_of(slice_str(s->files));
	add_message(out, SCHEMAS_SCHEMA, &m.base);
	free(pointer);
	free(column);
	free(land);
}

/* A name as a C string; NULL when a NUL is in it. */
static const char *read_name(ProtobufCBinaryData b, struct arena *a)
{
	struct slice s = slice_of_bytes(b);
	if (memchr(s.p, '\0', s.len) != NULL)
		return NULL;
	return arena_strndup(a, (const char *)s.p, s.len);
}

static bool is_land_kind(uint32_t kind)
{
	switch ((enum land_kind)kind) {
	case LAND_AS_IS:
	case LAND_ENUM:
	case LAND_EXTENSION:
	case LAND_BY_TEXT:
	case LAND_UNKNOWN:
		return true;
	}
	return false;
}

/* The columns' land, if they have it: all or none. */
static bool read_land(const pb_schema *m, struct arena *a, struct schema *s)
{
	if (m->n_column == 0 || m->column[0]->land == NULL)
		return true;
	struct schema_land *land = arena_alloc(a, m->n_column * sizeof(*land));
	for (size_t i = 0; i < m->n_column; i++) {
		const pb_land *l = m->column[i]->land;
		if (l == NULL || !is_land_kind(l->kind))
			return false;
		land[i] = (struct schema_land){
			.kind = (enum land_kind)l->kind,
			.type = read_name(l->type, a),
			.element_oid = l->element_oid,
			.number = (uint16_t)l->number,
			.missing = l->has_missing ? read_name(l->missing, a) : NULL,
		};
		if (land[i].type == NULL || (l->has_missing && land[i].missing == NULL))
			return false;
	}
	s->land = land;
	s->files = read_name(m->files, a);
	return s->files != NULL;
}

bool record_read_schema(struct slice in, struct arena *a, struct schema *ret)
{
	ProtobufCAllocator alloc = allocator_of(a);
	pb_schema *m = rolag__v1__schema__unpack(&alloc, in.len, in.p);
	if (m == NULL || m->n_column > CHANGE_COLUMNS_MAX || m->identity > 0x7F)
		return false;
	struct schema_column *column = arena_alloc(a, m->n_column * sizeof(*column));
	struct schema s = {
		.hash = m->hash,
		.relation_oid = m->relation_oid,
		.nspname = read_name(m->nspname, a),
		.relname = read_name(m->relname, a),
		.identity = (char)m->identity,
		.count = (uint16_t)m->n_column,
		.column = column,
	};
	if (s.nspname == NULL || s.relname == NULL)
		return false;
	for (size_t i = 0; i < m->n_column; i++) {
		column[i] = (struct schema_column){
			.name = read_name(m->column[i]->name, a),
			.key = m->column[i]->key != 0,
			.type_oid = m->column[i]->type_oid,
			.typmod = m->column[i]->typmod,
		};
		if (column[i].name == NULL)
			return false;
	}
	if (!read_land(m, a, &s) || schema_hash(&s) != s.hash)
		return false;
	*ret = s;
	return true;
}

/* ---- changes ---- */

void record_scratch_release(struct record_scratch *s)
{
	for (size_t i = 0; i < ARRAY_LEN(s->tuple); i++)
		buf_release(&s->tuple[i].data);
}

static uint64_t tuple_bytes(const struct tuple *t)
{
	uint64_t sum = 0;
	for (unsigned i = 0; i < t->count; i++)
		sum += t->value[i].len;
	return sum;
}

static void fill_tuple(pb_tuple *m, const struct tuple *t, struct record_tuple_scratch *s)
{
	size_t lengths = 0;
	buf_clear(&s->data);
	for (unsigned i = 0; i < t->count; i++) {
		const struct value *v = &t->value[i];
		s->kinds[i] = (uint8_t)v->kind;
		if (v->kind != VALUE_TEXT && v->kind != VALUE_BINARY)
			continue;
		s->lengths[lengths++] = v->len;
		buf_add(&s->data, v->p, v->len);
	}
	rolag__v1__tuple__init(m);
	m->kinds = bytes_of(slice_of(s->kinds, t->count));
	m->lengths = s->lengths;
	m->n_lengths = lengths;
	m->data = bytes_of(buf_slice(&s->data));
}

static Rolag__V1__Change__Kind kind_to_pb(enum change_kind kind)
{
	switch (kind) {
	case CHANGE_INSERT:
		return ROLAG__V1__CHANGE__KIND__INSERT;
	case CHANGE_UPDATE:
		return ROLAG__V1__CHANGE__KIND__UPDATE;
	case CHANGE_DELETE:
		return ROLAG__V1__CHANGE__KIND__DELETE;
	case CHANGE_TRUNCATE:
		return ROLAG__V1__CHANGE__KIND__TRUNCATE;
	case CHANGE_MESSAGE:
		return ROLAG__V1__CHANGE__KIND__MESSAGE;
	case CHANGE_BEGIN:
	case CHANGE_COMMIT:
	case CHANGE_PROGRESS:
	case CHANGE_GAP:
		break;
	}
	rt_bug(__FILE__, __LINE__, "not a change within a transaction");
}

static bool has_new(const struct change *c)
{
	return c->kind == CHANGE_INSERT || c->kind == CHANGE_UPDATE;
}

static bool has_old(const struct change *c)
{
	return (c->kind == CHANGE_UPDATE || c->kind == CHANGE_DELETE) && c->old_kind != 0;
}

static int check_size(const struct change *c, struct rt_err *err)
{
	uint64_t bytes = c->kind == CHANGE_MESSAGE ? c->content.len + strlen(c->prefix) : 0;
	if (c->kind == CHANGE_TRUNCATE)
		bytes += (uint64_t)c->truncated_count * 8;
	if (has_new(c))
		bytes += tuple_bytes(&c->new_row);
	if (has_old(c))
		bytes += tuple_bytes(&c->old_row);
	if (bytes > FRAME_RAW_MAX - CHANGE_OVERHEAD_MAX)
		return rt_fail(err, ERR_PERMANENT,
			       "a change of %llu bytes at " LSN_FMT " is larger than %u",
			       (unsigned long long)bytes, LSN_ARGS(c->lsn),
			       FRAME_RAW_MAX - CHANGE_OVERHEAD_MAX);
	const struct tuple *t = has_new(c) && c->new_row.count != c->schema->count   ? &c->new_row
				: has_old(c) && c->old_row.count != c->schema->count ? &c->old_row
										     : NULL;
	if (t != NULL)
		return rt_fail(err, ERR_PERMANENT,
			       "relation %s.%s: a row at " LSN_FMT " has %u columns, not %u",
			       c->schema->nspname, c->schema->relname, LSN_ARGS(c->lsn), t->count,
			       c->schema->count);
	return 0;
}

int record_add_change(struct buf *out, const struct change *c, struct record_scratch *s,
		      struct rt_err *err)
{
	pb_change m = ROLAG__V1__CHANGE__INIT;
	pb_tuple new_row, old_row;
	uint64_t *truncated = NULL;
	int rc = check_size(c, err);
	if (rc != 0)
		return rc;

	m.kind = kind_to_pb(c->kind);
	m.lsn = c->lsn.v;
	if (has_new(c)) {
		fill_tuple(&new_row, &c->new_row, &s->tuple[0]);
		m.new_row = &new_row;
	}
	if (has_old(c)) {
		fill_tuple(&old_row, &c->old_row, &s->tuple[1]);
		m.old_row = &old_row;
		m.old_kind = (uint8_t)c->old_kind;
	}
	if (c->kind == CHANGE_TRUNCATE) {
		truncated = rt_calloc(c->truncated_count, sizeof(*truncated));
		for (uint32_t i = 0; i < c->truncated_count; i++)
			truncated[i] = c->truncated[i]->hash;
		m.truncated = truncated;
		m.n_truncated = c->truncated_count;
		m.truncate_flags = c->truncate_flags;
	} else if (c->kind == CHANGE_MESSAGE) {
		m.transactional = c->transactional;
		m.prefix = bytes_of(slice_str(c->prefix));
		m.content = bytes_of(c->content);
	} else {
		m.schema = c->schema->hash;
	}
	add_message(out, TRANSACTION_CHANGE, &m.base);
	free(truncated);
	return 0;
}

static bool read_tuple(const pb_tuple *m, const struct schema *s, struct arena *a,
		       struct tuple *ret)
{
	if (m == NULL || m->kinds.len != s->count)
		return false;
	struct value *v = arena_alloc(a, s->count * sizeof(*v));
	struct rd data = rd_of(slice_of_bytes(m->data));
	size_t next = 0;
	for (unsigned i = 0; i < s->count; i++) {
		enum value_kind kind = m->kinds.data[i];
		v[i] = (struct value){.kind = kind};
		switch (kind) {
		case VALUE_NULL:
		case VALUE_UNCHANGED:
			continue;
		case VALUE_TEXT:
		case VALUE_BINARY:
			if (next == m->n_lengths)
				return false;
			v[i].len = m->lengths[next++];
			v[i].p = rd_bytes(&data, v[i].len);
			continue;
		}
		return false;
	}
	*ret = (struct tuple){.count = s->count, .value = v};
	return rd_finish(&data) && next == m->n_lengths;
}

static int read_row(const pb_change *m, struct arena *a, record_find_schema *find, void *ctx,
		    struct change *c, struct rt_err *err)
{
	c->schema = find(ctx, m->schema);
	if (c->schema == NULL)
		return rt_fail(err, ERR_PERMANENT, "a row's schema %016llx is not there",
			       (unsigned long long)m->schema);
	if (m->old_kind != 0 && m->old_kind != 'K' && m->old_kind != 'O')
		return rt_fail(err, ERR_PERMANENT, "a row of unknown kind %u", m->old_kind);
	c->old_kind = (char)m->old_kind;
	if ((has_new(c) && !read_tuple(m->new_row, c->schema, a, &c->new_row)) ||
	    (has_old(c) && !read_tuple(m->old_row, c->schema, a, &c->old_row)))
		return rt_fail(err, ERR_PERMANENT, "a row of %s.%s does not fit its schema",
			       c->schema->nspname, c->schema->relname);
	return 0;
}

static int read_truncate(const pb_change *m, struct arena *a, record_find_schema *find, void *ctx,
			 struct change *c, struct rt_err *err)
{
	const struct schema **s = arena_alloc(a, m->n_truncated * sizeof(*s));
	for (size_t i = 0; i < m->n_truncated; i++) {
		s[i] = find(ctx, m->truncated[i]);
		if (s[i] == NULL)
			return rt_fail(err, ERR_PERMANENT,
				       "a TRUNCATE's schema %016llx is not there",
				       (unsigned long long)m->truncated[i]);
	}
	c->truncate_flags = (uint8_t)m->truncate_flags;
	c->truncated_count = (uint32_t)m->n_truncated;
	c->truncated = s;
	return 0;
}

int record_read_change(struct slice in, struct arena *a, record_find_schema *find, void *ctx,
		       struct change *ret, struct rt_err *err)
{
	ProtobufCAllocator alloc = allocator_of(a);
	pb_change *m = rolag__v1__change__unpack(&alloc, in.len, in.p);
	if (m == NULL)
		return rt_fail(err, ERR_PERMANENT, "a change is not a rolag.v1.Change");
	struct change c = {.lsn = {m->lsn}};
	int rc = 0;
	switch ((int)m->kind) { /* an int: any number can stand there */
	case ROLAG__V1__CHANGE__KIND__INSERT:
		c.kind = CHANGE_INSERT;
		rc = read_row(m, a, find, ctx, &c, err);
		break;
	case ROLAG__V1__CHANGE__KIND__UPDATE:
		c.kind = CHANGE_UPDATE;
		rc = read_row(m, a, find, ctx, &c, err);
		break;
	case ROLAG__V1__CHANGE__KIND__DELETE:
		c.kind = CHANGE_DELETE;
		rc = read_row(m, a, find, ctx, &c, err);
		break;
	case ROLAG__V1__CHANGE__KIND__TRUNCATE:
		c.kind = CHANGE_TRUNCATE;
		rc = read_truncate(m, a, find, ctx, &c, err);
		break;
	case ROLAG__V1__CHANGE__KIND__MESSAGE:
		c.kind = CHANGE_MESSAGE;
		c.transactional = m->transactional != 0;
		c.prefix = read_name(m->prefix, a);
		c.content = slice_of_bytes(m->content);
		if (c.prefix == NULL)
			rc = rt_fail(err, ERR_PERMANENT, "a message's prefix has a NUL");
		break;
	default:
		rc = rt_fail(err, ERR_PERMANENT, "a change of unknown kind %d", (int)m->kind);
	}
	if (rc == 0)
		*ret = c;
	return rc;
}

/* ---- transactions ---- */

static size_t fill_head(pb_head *m, const struct record_head *h)
{
	rolag__v1__transaction_head__init(m);
	m->xid = h->xid;
	m->commit_lsn = h->commit.v;
	m->end_lsn = h->end.v;
	m->commit_us = h->commit_us;
	m->outside = h->outside;
	return rolag__v1__transaction_head__get_packed_size(m);
}

void record_add_head(struct buf *out, const struct record_head *h)
{
	pb_head m;
	(void)fill_head(&m, h);
	add_message(out, TRANSACTION_HEAD, &m.base);
}

void record_add_transaction(struct buf *out, const struct record_head *h, struct slice changes)
{
	pb_head m;
	size_t head_bytes = fill_head(&m, h);
	/* The head is far below 128 bytes: tag and length take one byte each. */
	RT_ASSERT(head_bytes < 0x80);
	add_varint(out, TRANSACTIONS_TRANSACTION << 3 | WIRE_BYTES);
	add_varint(out, 2 + head_bytes + changes.len);
	add_message(out, TRANSACTION_HEAD, &m.base);
	buf_add_slice(out, changes);
}

bool record_read_head(struct slice in, struct arena *a, struct record_head *h)
{
	ProtobufCAllocator alloc = allocator_of(a);
	pb_head *m = rolag__v1__transaction_head__unpack(&alloc, in.len, in.p);
	if (m == NULL)
		return false;
	if (m->xid != 0)
		h->xid = m->xid;
	if (m->commit_lsn != 0)
		h->commit.v = m->commit_lsn;
	if (m->end_lsn != 0)
		h->end.v = m->end_lsn;
	if (m->commit_us != 0)
		h->commit_us = m->commit_us;
	h->outside = h->outside || m->outside != 0;
	return true;
}
