/*
 * mirror_write: statements and COPY rows. Guarantees: a value goes to the
 * warehouse in the form in which it came.
 */
#include "apply/stream/mirror_write.h"

#include "proto/base/buf.h"
#include "proto/pg/pgconn.h"
#include "proto/pg/types.h"

/* ---- parameters ---- */

struct params {
	int count;
	const char **value;
	int *length, *format;
	size_t bytes;
	char lsn[8]; /* of _lsn, in binary */
};

static void params_init(struct params *p, int max)
{
	*p = (struct params){.value = rt_calloc((size_t)max, sizeof(*p->value)),
			     .length = rt_calloc((size_t)max, sizeof(int)),
			     .format = rt_calloc((size_t)max, sizeof(int))};
}

static void params_release(struct params *p)
{
	free(p->value);
	free(p->length);
	free(p->format);
}

static void params_add(struct params *p, const void *value, size_t len, bool binary)
{
	/* Binary format also for text: libpq would look for a NUL; types that land as text take both. */
	p->value[p->count] = value;
	p->length[p->count] = (int)len;
	p->format[p->count] = binary;
	p->count++;
	p->bytes += len;
}

/*
 * A value in text form needs a NUL behind it, which it has not here: it is
 * copied, but for text columns, whose binary form is the same.
 */
static void params_add_value(struct params *p, const struct mirror_shape *shape, uint16_t column,
			     const struct value *v, struct arena *a)
{
	bool text = v->kind == VALUE_TEXT && strcmp(shape->source.land[column].type, "text") != 0;
	if (v->kind == VALUE_NULL)
		params_add(p, NULL, 0, true);
	else if (text)
		params_add(p, arena_strndup(a, (const char *)v->p, v->len), v->len, false);
	else
		params_add(p, v->len > 0 ? (const void *)v->p : "", v->len, true);
}

static void params_add_lsn(struct params *p, struct lsn lsn)
{
	be64_put((uint8_t *)p->lsn, lsn.v);
	params_add(p, p->lsn, sizeof(p->lsn), true);
}

static void params_add_row(struct params *p, const struct mirror_step *s, const struct tuple *row,
			   struct arena *a)
{
	for (uint16_t i = 0; i < row->count; i++)
		params_add_value(p, s->shape, i, &row->value[i], a);
}

static void params_add_key(struct params *p, const struct mirror_step *s, const struct tuple *row,
			   struct arena *a)
{
	for (uint16_t k = 0; k < s->shape->key_count; k++)
		params_add_value(p, s->shape, s->shape->key[k], &row->value[s->shape->key[k]], a);
}

/* ---- statements ---- */

static void comma(struct buf *out, unsigned i)
{
	if (i > 0)
		buf_str(out, ", ");
}

static void column(const struct mirror_shape *shape, uint16_t i, struct buf *out)
{
	pgc_ident(out, shape->source.column[i].name);
}

static void insert_sql(const struct mirror *m, const struct mirror_shape *shape, struct buf *out)
{
	buf_printf(out, "INSERT INTO %s (", m->target);
	for (uint16_t i = 0; i < shape->source.count; i++) {
		column(shape, i, out);
		buf_str(out, ", ");
	}
	buf_str(out, "_lsn) VALUES (");
	for (unsigned i = 0; i < shape->source.count; i++)
		buf_printf(out, "$%u, ", i + 1);
	buf_printf(out, "$%u)", shape->source.count + 1u);
}

/* " WHERE a = $n AND …" */
static void where_key(const struct mirror_shape *shape, unsigned first, struct buf *out)
{
	for (uint16_t k = 0; k < shape->key_count; k++) {
		buf_str(out, k == 0 ? " WHERE " : " AND ");
		column(shape, shape->key[k], out);
		buf_printf(out, " = $%u", first + k);
	}
}

static void delete_sql(const struct mirror *m, const struct mirror_shape *shape, struct buf *out)
{
	buf_printf(out, "DELETE FROM %s", m->target);
	where_key(shape, 1, out);
}

static int send_prepare(PGconn *c, const struct mirror *m, const struct mirror_step *s)
{
	struct buf sql = BUF_INIT;
	char name[24];
	snprintf(name, sizeof(name), "m%c%u", s->count == 0 ? 'i' : 'd', s->shape->number);
	if (s->count == 0)
		insert_sql(m, s->shape, &sql);
	else
		delete_sql(m, s->shape, &sql);
	int ok = PQsendPrepare(c, name, buf_cstr(&sql), 0, NULL);
	buf_release(&sql);
	return ok;
}

static int send_prepared(PGconn *c, char kind, const struct mirror_step *s, const struct params *p)
{
	char name[24];
	snprintf(name, sizeof(name), "m%c%u", kind, s->shape->number);
	return PQsendQueryPrepared(c, name, p->count, p->value, p->length, p->format, 0);
}

static int send_sql(PGconn *c, struct buf *sql, const struct params *p)
{
	return PQsendQueryParams(c, buf_cstr(sql), p->count, NULL, p->value, p->length, p->format,
				 0);
}

/* "SET a = $1, b = $2, _lsn = $3" with its parameters: of the columns whose values came. */
static void set_columns(const struct mirror_step *s, struct lsn lsn, struct params *p,
			struct buf *sql, struct arena *a)
{
	buf_str(sql, " SET ");
	for (uint16_t i = 0; i < s->row.count; i++) {
		if (s->row.value[i].kind == VALUE_UNCHANGED)
			continue;
		params_add_value(p, s->shape, i, &s->row.value[i], a);
		column(s->shape, i, sql);
		buf_printf(sql, " = $%d, ", p->count);
	}
	params_add_lsn(p, lsn);
	buf_printf(sql, "_lsn = $%d", p->count);
}

static int send_update(PGconn *c, const struct mirror *m, const struct mirror_step *s,
		       struct lsn lsn, struct params *p, struct arena *a)
{
	struct buf sql = BUF_INIT;
	buf_printf(&sql, "UPDATE %s", m->target);
	set_columns(s, lsn, p, &sql, a);
	where_key(s->shape, (unsigned)p->count + 1, &sql);
	params_add_key(p, s, &s->old, a);
	int ok = send_sql(c, &sql, p);
	buf_release(&sql);
	return ok;
}

/*
 * One row that equals `old`: *= compares images, and so every type, and NULLs;
 * the key, where there is one, finds it fast.
 */
static void where_equal(const struct mirror *m, const struct mirror_step *s, struct params *p,
			struct buf *sql, struct arena *a)
{
	const struct schema *source = &s->shape->source;
	unsigned first = (unsigned)p->count + 1;
	params_add_row(p, s, &s->old, a);
	buf_printf(sql, " WHERE ctid = (SELECT ctid FROM %s WHERE ", m->target);
	for (uint16_t k = 0; k < s->shape->key_count; k++) {
		column(s->shape, s->shape->key[k], sql);
		buf_printf(sql, " = $%u::%s AND ", first + s->shape->key[k],
			   source->land[s->shape->key[k]].type);
	}
	buf_str(sql, "ROW(");
	for (uint16_t i = 0; i < source->count; i++) {
		comma(sql, i);
		column(s->shape, i, sql);
	}
	/* Without the casts it would be read as a comparison of each pair of values. */
	buf_str(sql, ")::record OPERATOR(pg_catalog.*=) ROW(");
	for (uint16_t i = 0; i < source->count; i++) {
		comma(sql, i);
		buf_printf(sql, "$%u::%s", first + i, source->land[i].type);
	}
	buf_str(sql, ")::record LIMIT 1)");
}

static int send_exact(PGconn *c, const struct mirror *m, const struct mirror_step *s,
		      struct lsn lsn, struct params *p, struct arena *a)
{
	struct buf sql = BUF_INIT;
	if (s->kind == MIRROR_UPDATE_EXACT) {
		buf_printf(&sql, "UPDATE %s", m->target);
		set_columns(s, lsn, p, &sql, a);
	} else {
		buf_printf(&sql, "DELETE FROM %s", m->target);
	}
	where_equal(m, s, p, &sql, a);
	int ok = send_sql(c, &sql, p);
	buf_release(&sql);
	return ok;
}

/* The keys of s … as one binary array per key column, of the type, or of text that is cast. */
static void key_array(const struct mirror_step *s, uint16_t column_number, bool text,
		      struct buf *out)
{
	const struct mirror_shape *shape = s->shape;
	buf_u32(out, 1);
	buf_u32(out, 0);
	buf_u32(out, text ? OID_TEXT : shape->source.column[column_number].type_oid);
	buf_u32(out, s->count);
	buf_u32(out, 1);
	for (uint32_t i = 0; i < s->count; i++) {
		const struct value *v = &s[i].row.value[column_number];
		buf_u32(out, v->len);
		buf_add(out, v->p, v->len);
	}
}

/* By one array the index is walked once; joined with it, from its root for each key, which takes twice as long. */
static int send_delete_any(PGconn *c, const struct mirror *m, const struct mirror_step *s,
			   struct params *p)
{
	const uint16_t i = s->shape->key[0];
	const char *type = s->shape->source.land[i].type;
	const bool text = s->row.value[i].kind == VALUE_TEXT || strcmp(type, "text") == 0;
	struct buf sql = BUF_INIT, array = BUF_INIT;
	buf_printf(&sql, "DELETE FROM %s WHERE ", m->target);
	column(s->shape, i, &sql);
	buf_printf(&sql, " = ANY ($1::%s[]::%s[])", text ? "text" : type, type);
	key_array(s, i, text, &array);
	params_add(p, array.p, array.len, true);
	int ok = send_sql(c, &sql, p);
	buf_release(&array);
	buf_release(&sql);
	return ok;
}

static int send_delete_many(PGconn *c, const struct mirror *m, const struct mirror_step *s,
			    struct params *p)
{
	if (s->shape->key_count == 1)
		return send_delete_any(c, m, s, p);
	const struct mirror_shape *shape = s->shape;
	struct buf sql = BUF_INIT, where = BUF_INIT;
	struct buf *array = rt_calloc(shape->key_count, sizeof(*array));
	buf_printf(&sql, "DELETE FROM %s AS t USING unnest(", m->target);
	for (uint16_t k = 0; k < shape->key_count; k++) {
		uint16_t i = shape->key[k];
		const char *type = shape->source.land[i].type;
		bool text = s->row.value[i].kind == VALUE_TEXT || strcmp(type, "text") == 0;
		comma(&sql, k);
		buf_printf(&sql, "$%u::%s[]", k + 1u, text ? "text" : type);
		buf_str(&where, k == 0 ? " WHERE t." : " AND t.");
		column(shape, i, &where);
		buf_printf(&where, " = k.k%u::%s", k, type);
		key_array(s, i, text, &array[k]);
		params_add(p, array[k].p, array[k].len, true);
	}
	buf_str(&sql, ") AS k(");
	for (uint16_t k = 0; k < shape->key_count; k++)
		buf_printf(&sql, "%sk%u", k > 0 ? ", " : "", k);
	buf_printf(&sql, ")%s", buf_cstr(&where));
	int ok = send_sql(c, &sql, p);
	for (uint16_t k = 0; k < shape->key_count; k++)
		buf_release(&array[k]);
	free(array);
	buf_release(&where);
	buf_release(&sql);
	return ok;
}

static int send_copy(PGconn *c, const struct mirror *m, const struct mirror_step *s)
{
	struct buf sql = BUF_INIT;
	mirror_copy_sql(m, s->shape, s->binary, &sql);
	int ok = PQsendQuery(c, buf_cstr(&sql));
	buf_release(&sql);
	return ok;
}

static int send_park(PGconn *c, const struct settings *s, const struct mirror *m,
		     const struct mirror_step *step, struct params *p)
{
	struct buf sql = BUF_INIT;
	buf_str(&sql, "UPDATE rolag.relation SET state = 'parked', changed_at = now(), reason = "
		      "$1::text WHERE pipeline = ");
	pgc_literal(&sql, s->pipeline);
	buf_str(&sql, " AND name = ");
	pgc_literal(&sql, m->relname);
	params_add(p, step->text, strlen(step->text), true);
	int ok = send_sql(c, &sql, p);
	buf_release(&sql);
	return ok;
}

static int send(PGconn *c, const struct settings *s, const struct mirror *m,
		const struct mirror_step *step, struct lsn lsn, struct params *p, struct arena *a)
{
	struct buf sql = BUF_INIT;
	int ok = 0;
	switch (step->kind) {
	case MIRROR_PREPARE:
		return send_prepare(c, m, step);
	case MIRROR_INSERT:
		params_add_row(p, step, &step->row, a);
		params_add_lsn(p, lsn);
		return send_prepared(c, 'i', step, p);
	case MIRROR_DELETE:
		params_add_key(p, step, &step->row, a);
		return send_prepared(c, 'd', step, p);
	case MIRROR_DELETE_MANY:
		return send_delete_many(c, m, step, p);
	case MIRROR_UPDATE:
		return send_update(c, m, step, lsn, p, a);
	case MIRROR_DELETE_EXACT:
	case MIRROR_UPDATE_EXACT:
		return send_exact(c, m, step, lsn, p, a);
	case MIRROR_COPY:
		return send_copy(c, m, step);
	case MIRROR_PARK:
		return send_park(c, s, m, step, p);
	case MIRROR_RESHAPE:
		return PQsendQueryParams(c, step->text, 0, NULL, NULL, NULL, NULL, 0);
	case MIRROR_CLEAR:
		buf_printf(&sql, "DELETE FROM %s", m->target);
		ok = send_sql(c, &sql, p);
		buf_release(&sql);
		return ok;
	}
	rt_bug(__FILE__, __LINE__, "unknown step of a mirror");
}

int mirror_send(PGconn *c, const struct settings *s, const struct mirror_set *set,
		const struct mirror_step *step, mirror_end_of *end_of, const void *ctx,
		size_t *ret_bytes)
{
	struct params p;
	struct arena texts;
	params_init(&p, 2 * step->shape->source.count + 2);
	arena_init(&texts, 4096);
	int ok = send(c, s, &set->item[step->mirror], step, end_of(ctx, step->transaction), &p,
		      &texts);
	*ret_bytes = p.bytes + 64;
	arena_release(&texts);
	params_release(&p);
	return ok;
}

/* ---- COPY ---- */

static void fill_binary(const struct mirror_step *s, struct lsn lsn, struct buf *out)
{
	buf_u16(out, (uint16_t)(s->row.count + 1));
	for (uint16_t i = 0; i < s->row.count; i++) {
		const struct value *v = &s->row.value[i];
		buf_u32(out, v->kind == VALUE_NULL ? UINT32_MAX : v->len);
		buf_add(out, v->p, v->len);
	}
	buf_u32(out, 8);
	buf_u64(out, lsn.v);
}

static void fill_text(const struct mirror_step *s, struct lsn lsn, struct buf *out)
{
	for (uint16_t i = 0; i < s->row.count; i++) {
		const struct value *v = &s->row.value[i];
		if (v->kind == VALUE_NULL)
			buf_str(out, "\\N");
		for (uint32_t n = 0; n < v->len; n++) {
			uint8_t b = v->p[n];
			if (b == '\\' || b == '\t' || b == '\n' || b == '\r') {
				buf_u8(out, '\\');
				b = b == '\t' ? 't' : b == '\n' ? 'n' : b == '\r' ? 'r' : b;
			}
			buf_u8(out, b);
		}
		buf_u8(out, '\t');
	}
	buf_printf(out, LSN_FMT "\n", LSN_ARGS(lsn));
}

uint32_t mirror_fill_copy(const struct mirror_step *step, uint32_t from, size_t max_bytes,
			  mirror_end_of *end_of, const void *ctx, struct buf *out)
{
	const bool binary = step->binary;
	uint32_t i = from;
	if (from == 0 && binary) {
		buf_add(out, "PGCOPY\n\377\r\n\0", 11);
		buf_u64(out, 0); /* flags, header extension */
	}
	for (; i < step->count && out->len < max_bytes; i++) {
		struct lsn lsn = end_of(ctx, step[i].transaction);
		if (binary)
			fill_binary(&step[i], lsn, out);
		else
			fill_text(&step[i], lsn, out);
	}
	if (i == step->count && binary)
		buf_u16(out, UINT16_MAX);
	return i;
}

/* ---- results ---- */

int mirror_check_result(const struct mirror_set *set, const struct mirror_step *step, PGresult *res,
			struct rt_err *err)
{
	bool one = step->kind == MIRROR_DELETE_EXACT || step->kind == MIRROR_UPDATE_EXACT ||
		   (step->kind == MIRROR_UPDATE && !set->item[step->mirror].overlaps);
	if (!one || strcmp(PQcmdTuples(res), "1") == 0)
		return 0;
	return rt_fail(err, ERR_PERMANENT, "a row that changed in the core is not there");
}
