/* sync_piece: guarantees that what is copied is what one snapshot shows of one shape of the table. */
#include "apply/stream/sync_piece.h"

#include <inttypes.h>

#include "proto/base/failpoint.h"
#include "proto/pg/pgconn.h"

#define TELL_EVERY_US	  INT64_C(250000)
#define COPY_HEADER_BYTES 19

int sync_source_session(PGconn *core, struct rt_err *err)
{
	/* Keys go and come back as text. */
	return pgc_exec(core, NULL, err,
			"SET jit = off; SET statement_timeout = 0; SET TimeZone = 'UTC'; SET "
			"DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET bytea_output = "
			"'hex'; SET extra_float_digits = 1; SET search_path = pg_catalog");
}

static int lock_source(PGconn *core, const struct mirror *m, const char *before, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	buf_printf(&sql, "%sSET LOCAL lock_timeout = '2s'; LOCK TABLE ", before);
	pgc_ident(&sql, m->nspname);
	buf_u8(&sql, '.');
	pgc_ident(&sql, m->relname);
	buf_str(&sql, " IN ACCESS SHARE MODE");
	int rc = pgc_exec(core, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	if (rc == ERR_PERMANENT && strstr(err->msg, "42P01") != NULL)
		return rt_fail(err, ERR_PERMANENT, "the core has no table %s", m->source);
	return rc;
}

int sync_source_hold(PGconn *core, const struct mirror *m, struct rt_err *err)
{
	PGresult *res;
	const char *params[] = {m->nspname, m->relname};
	int rc = lock_source(core, m, "", err);
	if (rc != 0)
		return rc;
	rc = pgc_query(core, &res, err,
		       "SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n "
		       "ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2 AND "
		       "c.relkind = 'r' AND "
		       "c.relfilenode IS DISTINCT FROM pg_catalog.pg_relation_filenode(c.oid)",
		       2, params);
	if (rc != 0)
		return rc;
	if (strcmp(PQgetvalue(res, 0, 0), "0") != 0)
		rc = rt_fail(err, ERR_RETRY, "%s was rewritten while it was about to be read",
			     m->source);
	PQclear(res);
	return rc;
}

int sync_source_begin(PGconn *core, struct arena *a, const struct mirror *m,
		      struct sync_source *ret, struct rt_err *err)
{
	PGresult *res;
	int rc = lock_source(core, m, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; ", err);
	if (rc == 0)
		rc = shape_read(core, a, m->nspname, m->relname, &ret->table, err);
	if (rc == 1)
		return rt_fail(err, ERR_PERMANENT, "the core has no table %s", m->source);
	if (rc == 0)
		rc = shape_read_key(core, a, ret->table.schema.relation_oid, &ret->key, err);
	if (rc == 0)
		rc = pgc_exec(core, &res, err, "SELECT pg_catalog.pg_current_wal_insert_lsn()");
	if (rc != 0)
		return rc;
	ret->lsn = pgc_get_lsn(res, 0, 0);
	PQclear(res);
	snprintf(ret->hash, sizeof(ret->hash), "%016" PRIx64 "/%u", schema_hash(&ret->table.schema),
		 ret->key.index_oid);
	return 0;
}

/* ---- the pump ---- */

static int begin_copy(const struct sync_pump *p, bool binary, struct rt_err *err)
{
	struct buf out = BUF_INIT, in = BUF_INIT;
	buf_str(&out, p->piece != NULL ? "SET LOCAL enable_sort = off; SET LOCAL enable_seqscan = "
					 "off; COPY ("
				       : "COPY (");
	if (p->piece != NULL)
		mirror_piece_sql(p->m, p->shape, p->relkind, p->lsn, p->piece, &out);
	else
		mirror_select_sql(p->m, p->shape, p->relkind, p->lsn, &out);
	buf_printf(&out, ") TO STDOUT (FORMAT %s)", binary ? "binary" : "text");
	mirror_copy_sql(p->m, p->shape, binary, &in);
	int rc = pgc_exec(p->core, NULL, err, "%s", buf_cstr(&out));
	if (rc == 0)
		rc = pgc_exec(p->warehouse, NULL, err, "%s", buf_cstr(&in));
	buf_release(&out);
	buf_release(&in);
	return rc;
}

/* What is left of a COPY's answer. */
static int end_copy(PGconn *c, struct rt_err *err)
{
	int rc = 0;
	for (PGresult *res; (res = PQgetResult(c)) != NULL; PQclear(res))
		if (PQresultStatus(res) != PGRES_COMMAND_OK && rc == 0)
			rc = pgc_fail(c, res, err, "copying");
	return rc;
}

/* COPY's escapes: a backslash and a letter. */
static void add_unescaped(struct buf *out, struct slice text)
{
	static const char letter[] = "bfnrtv", byte[] = "\b\f\n\r\t\v";
	for (size_t i = 0; i < text.len; i++) {
		uint8_t c = text.p[i];
		if (c == '\\' && i + 1 < text.len) {
			c = text.p[++i];
			const char *at = memchr(letter, c, sizeof(letter) - 1);
			c = at != NULL ? (uint8_t)byte[at - letter] : c;
		}
		buf_u8(out, c);
	}
}

static struct buf *key_part(const struct sync_pump *p, uint16_t k)
{
	if (p->last == NULL)
		return NULL;
	p->last->count = p->piece->key_count;
	buf_clear(&p->last->part[k]);
	return &p->last->part[k];
}

/* Takes the key from the front of a row in text. */
static bool cut_text(const struct sync_pump *p, struct rd *row)
{
	for (uint16_t k = 0; k < p->piece->key_count; k++) {
		struct buf *part = key_part(p, k);
		const uint8_t *tab = memchr(row->p, '\t', row->left);
		if (tab == NULL)
			return false;
		struct slice text = slice_of(row->p, (size_t)(tab - row->p));
		if (part != NULL)
			add_unescaped(part, text);
		rd_bytes(row, text.len + 1);
	}
	return true;
}

/* The same of a binary one, whose number of columns is written anew, over the key's last bytes. */
static bool cut_binary(const struct sync_pump *p, struct rd *row)
{
	const uint16_t key_count = p->piece->key_count;
	uint16_t count = rd_u16(row);
	if (count == UINT16_MAX && row->left == 0) { /* the trailer */
		row->p -= 2;
		row->left = 2;
		return true;
	}
	if (count != key_count + p->shape->source.count + 1)
		return false;
	for (uint16_t k = 0; k < key_count; k++) {
		struct buf *part = key_part(p, k);
		uint32_t len = rd_u32(row);
		const uint8_t *value = rd_bytes(row, len);
		if (value == NULL)
			return false;
		if (part != NULL)
			buf_add(part, value, len);
	}
	if (row->failed)
		return false;
	row->p -= 2;
	row->left += 2;
	be16_put((uint8_t *)(uintptr_t)row->p, (uint16_t)(count - key_count));
	return true;
}

static int put_row(const struct sync_pump *p, bool binary, bool first, struct slice bytes,
		   struct rt_err *err)
{
	struct rd row = rd_of(bytes);
	int ok = 1;
	if (p->piece != NULL && binary && first) {
		const uint8_t *head = rd_bytes(&row, COPY_HEADER_BYTES);
		if (head != NULL)
			ok = PQputCopyData(p->warehouse, (const char *)head, COPY_HEADER_BYTES);
	}
	if (p->piece != NULL && !(binary ? cut_binary(p, &row) : cut_text(p, &row)))
		return rt_fail(err, ERR_RETRY, "%s: COPY gave bytes that are no row", p->m->source);
	if (ok == 1)
		ok = PQputCopyData(p->warehouse, (const char *)row.p, (int)row.left);
	return ok == 1 ? 0 : pgc_fail(p->warehouse, NULL, err, "copying");
}

static int copy_rows(struct sync_pump *p, bool binary, struct rt_err *err)
{
	int64_t told_us = rt_mono_us();
	bool first = true;
	char *bytes;
	int n;
	while ((n = PQgetCopyData(p->core, &bytes, 0)) > 0) {
		FAILPOINT_FD(MIRROR_ROW, PQsocket(p->core));
		int rc = put_row(p, binary, first, slice_of(bytes, (size_t)n), err);
		PQfreemem(bytes);
		if (rc != 0)
			return rc;
		first = false;
		*p->rows += 1;
		int64_t now = rt_mono_us();
		if (now - told_us < TELL_EVERY_US)
			continue;
		told_us = now;
		if (p->on_wait(p->ctx, ""))
			return rt_fail(err, ERR_RETRY, "told to stop");
	}
	if (n == -2)
		return pgc_fail(p->core, NULL, err, "reading the core");
	*p->rows -= binary; /* the trailer is none */
	return 0;
}

int sync_pump(struct sync_pump *p, struct rt_err *err)
{
	bool binary = mirror_copies_binary(p->shape);
	int rc = begin_copy(p, binary, err);
	if (rc == 0)
		rc = copy_rows(p, binary, err);
	if (rc == 0)
		rc = end_copy(p->core, err);
	if (rc == 0 && PQputCopyEnd(p->warehouse, NULL) != 1)
		rc = pgc_fail(p->warehouse, NULL, err, "copying");
	return rc == 0 ? end_copy(p->warehouse, err) : rc;
}
