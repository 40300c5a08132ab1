/*
 * sync_read: COPY out. Guarantees: no transaction of ours stays open on the
 * core for longer than SNAPSHOT_US, whoever is slow; nothing is sorted or
 * written there (but for one logical message).
 */
#include "apply/stream/sync_read.h"

#include <inttypes.h>

#include "proto/base/failpoint.h"
#include "proto/pg/pgconn.h"

/* A chunk's snapshot holds back vacuum on the core: it is left when it gets older. */
#define SNAPSHOT_US INT64_C(30000000)

static const char copy_signature[11] = "PGCOPY\n\377\r\n";
#define COPY_HEADER_BYTES 19

/*
 * Keyset chunks follow an index; with the role's own settings the core might
 * sort, and write files. What is off counts as dear, and would be compiled.
 */
static int set_session(PGconn *c, struct rt_err *err)
{
	return pgc_exec(
		c, NULL, err,
		"SET enable_sort = off; SET enable_seqscan = off; SET jit = off; "
		"SET statement_timeout = 0; SET TimeZone = 'UTC'; SET search_path = pg_catalog");
}

static void source_name(const struct sync_unit *u, struct buf *out)
{
	pgc_ident(out, u->nspname);
	buf_u8(out, '.');
	pgc_ident(out, u->relname);
}

/* Which columns of a row are its key; what we cannot print by its type is asked for as text, too. */
static void find_key(struct sync_reader *r)
{
	r->text_keys = 0;
	for (uint16_t i = 0; i < r->unit->key_count; i++) {
		struct reader_key *k = &r->key[i];
		struct pgt_type type = {0};
		for (k->column = 0; k->column < r->schema.count; k->column++)
			if (strcmp(r->schema.column[k->column].name, r->unit->key[i]) == 0)
				break;
		k->as_text = k->column == r->schema.count ||
			     !pgt_from_oid(r->schema.column[k->column].type_oid, &type) ||
			     type.array;
		k->type = type.base;
		if (k->as_text)
			k->column = (uint16_t)(r->schema.count + r->text_keys++);
	}
}

/* Names and types of the SELECT list, as a relation's shape. */
static int describe(struct sync_reader *r, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	PGresult *res;
	buf_printf(&sql, "SELECT %s FROM ", r->unit->select);
	source_name(r->unit, &sql);
	buf_str(&sql, " LIMIT 0");
	int rc = pgc_exec(r->c, &res, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	if (rc != 0)
		return rc;
	int n = PQnfields(res);
	struct schema_column *column = arena_zalloc(&r->arena, (size_t)n * sizeof(*column));
	for (int i = 0; i < n; i++)
		column[i] = (struct schema_column){.name = arena_strdup(&r->arena, PQfname(res, i)),
						   .type_oid = PQftype(res, i),
						   .typmod = PQfmod(res, i)};
	PQclear(res);
	r->schema = (struct schema){.nspname = r->unit->nspname,
				    .relname = r->unit->relname,
				    .identity = 'n',
				    .count = (uint16_t)n,
				    .column = column};
	r->schema.hash = schema_hash(&r->schema);
	find_key(r);
	return 0;
}

int sync_reader_open(struct sync_reader *r, const struct settings *s, const struct sync_unit *unit,
		     PGconn *c, const struct sync_key *from, struct rt_err *err)
{
	*r = (struct sync_reader){.settings = s, .unit = unit, .c = c};
	arena_init(&r->arena, 4096);
	sync_key_copy(&r->at, from);
	FAILPOINT_FD(SYNC_OPEN, PQsocket(c));
	int rc = set_session(c, err);
	return rc != 0 ? rc : describe(r, err);
}

void sync_reader_close(struct sync_reader *r)
{
	pgc_close(r->c);
	sync_key_release(&r->at);
	if (r->unit != NULL)
		arena_release(&r->arena);
	*r = (struct sync_reader){0};
}

PGconn *sync_reader_leave(struct sync_reader *r)
{
	PGconn *c = r->c;
	RT_ASSERT(!r->asked);
	r->c = NULL;
	sync_reader_close(r);
	return c;
}

int sync_reader_fd(const struct sync_reader *r)
{
	return PQsocket(r->c);
}

/* ---- asking ---- */

/* The table's columns, not those of the SELECT list that are called the same. */
static void key_names(const struct sync_unit *u, struct buf *out)
{
	for (uint16_t i = 0; i < u->key_count; i++) {
		buf_str(out, i > 0 ? ", s." : "s.");
		pgc_ident(out, u->key[i]);
	}
}

static void text_keys(const struct sync_reader *r, struct buf *out)
{
	for (uint16_t i = 0; i < r->unit->key_count; i++) {
		if (!r->key[i].as_text)
			continue;
		buf_str(out, ", s.");
		pgc_ident(out, r->unit->key[i]);
		buf_printf(out, "::text AS _key%u", i);
	}
}

int sync_reader_key(const struct sync_reader *r, struct sync_key *ret, struct rt_err *err)
{
	int rc = 0;
	if (!r->moved) {
		sync_key_copy(ret, &r->at);
		return 0;
	}
	ret->count = r->at.count;
	for (uint16_t i = 0; rc == 0 && i < ret->count; i++) {
		const struct slice v = buf_slice(&r->at.part[i]);
		const struct pgt_type type = {r->key[i].type, false};
		buf_clear(&ret->part[i]);
		if (r->key[i].as_text)
			buf_add_slice(&ret->part[i], v);
		else if (pgt_is_valid(type, v)) /* of NULL, which parks its table, nothing */
			rc = pgt_to_text(type, v, &ret->part[i], err);
	}
	return rc;
}

static void chunk_sql(const struct sync_reader *r, const struct sync_key *from, struct buf *out)
{
	const struct sync_unit *u = r->unit;
	buf_str(out, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
		     "SELECT pg_current_wal_insert_lsn(); COPY (SELECT ");
	buf_str(out, u->select);
	text_keys(r, out);
	buf_str(out, " FROM ");
	source_name(u, out);
	buf_str(out, " AS s");
	if (from->count > 0) {
		buf_str(out, " WHERE (");
		key_names(u, out);
		buf_str(out, ") > (");
		for (uint16_t i = 0; i < u->key_count; i++) {
			struct buf part = BUF_INIT;
			buf_add_slice(&part, buf_slice(&from->part[i]));
			buf_str(out, i > 0 ? ", " : "");
			pgc_literal(out, buf_cstr(&part));
			buf_release(&part);
		}
		buf_u8(out, ')');
	}
	buf_str(out, " ORDER BY ");
	key_names(u, out);
	buf_printf(out, " LIMIT %" PRId64 ") TO STDOUT (FORMAT binary); COMMIT",
		   r->settings->sync.chunk);
}

static int ask(struct sync_reader *r, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	struct sync_key from = {0};
	int rc = sync_reader_key(r, &from, err);
	if (rc == 0)
		chunk_sql(r, &from, &sql);
	sync_key_release(&from);
	FAILPOINT_FD(SYNC_CHUNK, PQsocket(r->c));
	int ok = rc == 0 ? PQsendQuery(r->c, buf_cstr(&sql)) : 0;
	buf_release(&sql);
	if (rc != 0)
		return rc;
	if (ok != 1)
		return pgc_fail(r->c, NULL, err, "reading the core");
	r->asked = true;
	r->copying = r->headed = false;
	r->chunk_rows = 0;
	r->asked_us = rt_mono_us();
	return 0;
}

/* Leaves a snapshot that got old in the middle of its chunk; the next chunk goes on from there. */
static int leave_old(struct sync_reader *r, struct rt_err *err)
{
	struct pgc_options o = {.what = "core",
				.conninfo = r->settings->core.connect,
				.application_name = "rolag sync"};
	pgc_cancel(r->c);
	pgc_close(r->c);
	r->c = NULL;
	r->asked = r->copying = false;
	int rc = pgc_connect(&r->c, &o, err);
	return rc != 0 ? rc : set_session(r->c, err);
}

/* ---- rows ---- */

static int malformed(const struct sync_reader *r, struct rt_err *err)
{
	return rt_fail(err, ERR_RETRY, "relation %s.%s: COPY gave bytes that are no row",
		       r->unit->nspname, r->unit->relname);
}

/* One column of a row. */
static bool read_value(struct rd *in, struct value *ret)
{
	uint32_t len = rd_u32(in);
	if (len == UINT32_MAX) {
		*ret = (struct value){.kind = VALUE_NULL};
		return !in->failed;
	}
	*ret = (struct value){VALUE_BINARY, len, rd_bytes(in, len)};
	return !in->failed;
}

/* 1: a row; 0: the trailer. */
static int read_row(struct sync_reader *r, struct slice bytes, struct arena *a, struct change *ret,
		    struct rt_err *err)
{
	struct rd in = rd_of(bytes);
	if (!r->headed) {
		const uint8_t *head = rd_bytes(&in, COPY_HEADER_BYTES);
		if (head == NULL || memcmp(head, copy_signature, sizeof(copy_signature)) != 0)
			return malformed(r, err);
		r->headed = true;
	}
	uint16_t count = rd_u16(&in);
	if (count == UINT16_MAX && in.left == 0)
		return 0;
	if (in.failed || count != r->schema.count + r->text_keys)
		return malformed(r, err);
	struct value *value = arena_alloc(a, count * sizeof(*value));
	for (uint16_t i = 0; i < count; i++)
		if (!read_value(&in, &value[i]))
			return malformed(r, err);
	if (!rd_finish(&in))
		return malformed(r, err);
	for (uint16_t i = 0; i < r->unit->key_count; i++) {
		const struct value *v = &value[r->key[i].column];
		buf_clear(&r->at.part[i]);
		buf_add(&r->at.part[i], v->p, v->len);
	}
	r->at.count = r->unit->key_count;
	r->moved = true;
	*ret = (struct change){.kind = CHANGE_INSERT,
			       .lsn = r->seen,
			       .schema = &r->schema,
			       .new_row = {r->schema.count, value}};
	r->chunk_rows++;
	return 1;
}

/* 1: a row; 0: none for now, or the COPY is over (then !r->copying). */
static int next_row(struct sync_reader *r, struct arena *a, struct change *ret, struct rt_err *err)
{
	for (;;) {
		char *p = NULL;
		int n = PQgetCopyData(r->c, &p, 1);
		if (n <= 0) {
			r->copying = n != -1;
			return n < -1 ? pgc_fail(r->c, NULL, err, "reading the core") : 0;
		}
		FAILPOINT_FD(SYNC_ROW, PQsocket(r->c));
		struct slice row = arena_copy(a, slice_of(p, (size_t)n));
		PQfreemem(p);
		int rc = read_row(r, row, a, ret, err);
		if (rc != 0)
			return rc;
	}
}

/* Takes results between and behind rows. 1: the chunk is over; 0: wait, or rows come. */
static int take_results(struct sync_reader *r, struct rt_err *err)
{
	while (!r->copying) {
		if (PQisBusy(r->c))
			return 0;
		PGresult *res = PQgetResult(r->c);
		if (res == NULL)
			return 1;
		ExecStatusType st = PQresultStatus(res);
		int rc = 0;
		if (st == PGRES_TUPLES_OK)
			r->seen = pgc_get_lsn(res, 0, 0);
		else if (st == PGRES_COPY_OUT)
			r->copying = true;
		else if (st != PGRES_COMMAND_OK)
			rc = pgc_fail(r->c, res, err, "reading the core");
		PQclear(res);
		if (rc != 0)
			return rt_context(err, "relation %s.%s", r->unit->nspname,
					  r->unit->relname);
	}
	return 0;
}

static int turn(struct sync_reader *r, struct arena *a, struct change *ret, struct rt_err *err)
{
	for (;;) {
		int rc = r->asked ? 0 : ask(r, err);
		if (rc == 0 && r->copying && (rc = next_row(r, a, ret, err)) == 1)
			return SYNC_READ_ROW;
		if (rc == 0 && r->copying)
			return SYNC_READ_WAIT;
		if (rc == 0)
			rc = take_results(r, err);
		if (rc < 0)
			return rc;
		if (rc == 1) {
			r->asked = false;
			r->done = r->chunk_rows < (uint64_t)r->settings->sync.chunk;
			if (r->done)
				return SYNC_READ_END;
		} else if (!r->copying) {
			return SYNC_READ_WAIT;
		}
	}
}

int sync_reader_next(struct sync_reader *r, struct arena *a, struct change *ret, struct rt_err *err)
{
	if (r->done)
		return SYNC_READ_END;
	if (r->asked && rt_mono_us() - r->asked_us > SNAPSHOT_US) {
		int rc = leave_old(r, err);
		if (rc != 0)
			return rc;
	}
	int rc = turn(r, a, ret, err);
	if (rc != SYNC_READ_WAIT)
		return rc;
	if (PQconsumeInput(r->c) != 1)
		return pgc_fail(r->c, NULL, err, "reading the core");
	return turn(r, a, ret, err);
}

int sync_reader_position(struct sync_reader *r, struct lsn *ret, struct rt_err *err)
{
	PGresult *res;
	RT_ASSERT(!r->asked);
	int rc = pgc_exec(r->c, &res, err, "SELECT pg_current_wal_insert_lsn()");
	if (rc != 0)
		return rc;
	*ret = pgc_get_lsn(res, 0, 0);
	PQclear(res);
	/* The stream comes to that position at once, not with the next heartbeat. */
	rc = pgc_exec(r->c, NULL, err, "SELECT pg_logical_emit_message(true, 'rolag.sync', '')");
	if (rc == 0 && ret->v == 0)
		rc = rt_fail(err, ERR_RETRY, "the core does not say its WAL position");
	return rc;
}
