/*
 * array: one-dimensional arrays in send format (ndim, has-null flag, element
 * OID; then per dimension length and lower bound; then the elements, each with
 * its length, -1 for NULL). Guarantees: lengths are checked before they are
 * used; what is written is what the server's array_append and array_remove
 * would send.
 */
#include "proto/pg/types_inner.h"

enum {
	EMPTY_BYTES = 12,
	HEAD_BYTES = 20,
};

struct array {
	uint32_t count;
	uint32_t lower; /* bound of the first element; 1 unless somebody made it otherwise */
	struct rd elements;
};

static uint32_t element_oid(enum pgt t)
{
	return pgt_oid((struct pgt_type){t, false});
}

/* The head only. */
static bool array_open(enum pgt t, struct slice binary, struct array *ret)
{
	struct rd r = rd_of(binary);
	uint32_t ndim = rd_u32(&r), flags = rd_u32(&r), oid = rd_u32(&r);
	if (r.failed || ndim > 1 || flags > 1 || oid != element_oid(t))
		return false;
	struct array a = {0, 1, r};
	if (ndim == 1) {
		a.count = rd_u32(&r);
		a.lower = rd_u32(&r);
		a.elements = r;
		/* The server keeps neither empty dimensions nor subscripts beyond int4. */
		int64_t last = (int64_t)(int32_t)a.lower + a.count;
		if (r.failed || a.count == 0 || a.count > INT32_MAX || last > INT32_MAX)
			return false;
	}
	*ret = a;
	return true;
}

/* The next element; its p is NULL where it is NULL. Empty ones have a p. */
static bool array_next(struct rd *r, struct slice *ret)
{
	uint32_t len = rd_u32(r);
	if (r->failed)
		return false;
	if (len == UINT32_MAX) {
		*ret = (struct slice){NULL, 0};
		return true;
	}
	const uint8_t *p = rd_bytes(r, len);
	if (p == NULL)
		return false;
	*ret = slice_of(p, len);
	return true;
}

/* Opens an array that the caller promises to be valid. */
static struct array array_of(enum pgt t, struct slice binary)
{
	struct array a;
	RT_ASSERT(array_open(t, binary, &a));
	return a;
}

static struct slice next_of(struct array *a)
{
	struct slice s;
	RT_ASSERT(array_next(&a->elements, &s));
	return s;
}

/* Equality as the type's = has it; NULL equals NULL. */
static bool same(enum pgt t, struct slice a, struct slice b)
{
	if (a.p == NULL || b.p == NULL)
		return a.p == b.p;
	/* Canonical jsonb is equal when its text is. */
	return t == PGT_JSONB ? slice_eq(a, b) : pgt_compare(t, a, b) == 0;
}

static void put_element(struct slice e, struct buf *out)
{
	buf_u32(out, e.p == NULL ? UINT32_MAX : (uint32_t)e.len);
	buf_add_slice(out, e);
}

static void put_head(enum pgt t, uint32_t count, uint32_t lower, bool nulls, struct buf *out)
{
	buf_u32(out, count == 0 ? 0 : 1);
	buf_u32(out, nulls);
	buf_u32(out, element_oid(t));
	if (count > 0) {
		buf_u32(out, count);
		buf_u32(out, lower);
	}
}

static int count_of(enum pgt t, struct slice binary, bool values)
{
	struct array a;
	if (!array_open(t, binary, &a))
		return -1;
	for (uint32_t i = 0; i < a.count; i++) {
		struct slice e;
		if (!array_next(&a.elements, &e))
			return -1;
		if (values && e.p != NULL && !pgt_value_is_valid(t, e))
			return -1;
	}
	return rd_finish(&a.elements) ? (int)a.count : -1;
}

bool array_is_valid(enum pgt t, struct slice binary)
{
	return count_of(t, binary, true) >= 0;
}

int pgt_array_count(enum pgt t, struct slice binary)
{
	return count_of(t, binary, false);
}

void pgt_array_empty(enum pgt t, struct buf *out)
{
	put_head(t, 0, 1, false, out);
}

void pgt_array_append(enum pgt t, struct slice array, struct slice element, struct buf *out)
{
	struct array a = array_of(t, array);
	size_t head = a.count == 0 ? EMPTY_BYTES : HEAD_BYTES;
	bool nulls = be32_get(array.p + 4) != 0 || element.p == NULL;
	put_head(t, a.count + 1, a.lower, nulls, out);
	buf_add(out, array.p + head, array.len - head);
	put_element(element, out);
}

void pgt_array_remove(enum pgt t, struct slice array, struct slice element, struct buf *out)
{
	struct array a = array_of(t, array), again = a;
	uint32_t kept = 0;
	bool nulls = false;
	for (uint32_t i = 0; i < a.count; i++) {
		struct slice e = next_of(&a);
		if (!same(t, e, element)) {
			kept++;
			nulls = nulls || e.p == NULL;
		}
	}
	put_head(t, kept, a.lower, nulls, out);
	for (uint32_t i = 0; i < a.count; i++) {
		struct slice e = next_of(&again);
		if (!same(t, e, element))
			put_element(e, out);
	}
}

bool pgt_array_contains(enum pgt t, struct slice array, struct slice element)
{
	struct array a = array_of(t, array);
	for (uint32_t i = 0; i < a.count; i++) {
		if (same(t, next_of(&a), element))
			return true;
	}
	return false;
}

/* ---- text ---- */

static bool needs_quotes(struct slice s)
{
	if (s.len == 0 || pgt_is_word(s, "null"))
		return true;
	for (size_t i = 0; i < s.len; i++) {
		uint8_t c = s.p[i];
		if (c == '"' || c == '\\' || c == '{' || c == '}' || c == ',' || pgt_is_space(c))
			return true;
	}
	return false;
}

static void put_quoted(struct slice s, struct buf *out)
{
	buf_u8(out, '"');
	for (size_t i = 0; i < s.len; i++) {
		if (s.p[i] == '"' || s.p[i] == '\\')
			buf_u8(out, '\\');
		buf_u8(out, s.p[i]);
	}
	buf_u8(out, '"');
}

void array_to_text(enum pgt t, struct slice binary, struct buf *out)
{
	struct array a = array_of(t, binary);
	struct buf text = BUF_INIT;
	int32_t lower = (int32_t)a.lower;
	if (lower != 1)
		buf_printf(out, "[%d:%lld]=", lower, (long long)lower + a.count - 1);
	buf_u8(out, '{');
	for (uint32_t i = 0; i < a.count; i++) {
		struct slice e = next_of(&a);
		if (i > 0)
			buf_u8(out, ',');
		if (e.p == NULL) {
			buf_str(out, "NULL");
			continue;
		}
		buf_clear(&text);
		pgt_value_to_text(t, e, &text);
		if (needs_quotes(buf_slice(&text)))
			put_quoted(buf_slice(&text), out);
		else
			buf_add_slice(out, buf_slice(&text));
	}
	buf_u8(out, '}');
	buf_release(&text);
}
