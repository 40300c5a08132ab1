/*
 * json_canonical: JSON as jsonb prints it. Guarantees: equal texts for equal
 * jsonb values that were written with the same digits, byte for byte those of
 * `text::jsonb::text` (proven against a live server).
 */
#include "transforms/rollup/json.h"

#include "transforms/rollup/json_chars.h"

/* numeric's limits: its weight and display scale are stored in these many bits (numeric.c). */
#define NUMERIC_EXPONENT_MAX 131071 /* of the first digit: (32767 + 1) * 4 - 1 */
#define NUMERIC_SCALE_MAX    16383
#define EXPONENT_TEXT_MAX                                                                          \
	11 /* digits of an exponent that are read: so many are out of range anyway */
/* jsonb keeps no more than this in one value (JENTRY_OFFLENMASK). */
#define CANONICAL_MAX_BYTES ((size_t)0x0FFFFFFF)

/* ---- strings ---- */

static void put_escaped(uint8_t b, struct buf *out)
{
	switch (b) {
	case '"':
		buf_str(out, "\\\"");
		break;
	case '\\':
		buf_str(out, "\\\\");
		break;
	case '\b':
		buf_str(out, "\\b");
		break;
	case '\f':
		buf_str(out, "\\f");
		break;
	case '\n':
		buf_str(out, "\\n");
		break;
	case '\r':
		buf_str(out, "\\r");
		break;
	case '\t':
		buf_str(out, "\\t");
		break;
	default:
		if (b < 0x20)
			buf_printf(out, "\\u%04x", b);
		else
			buf_u8(out, b);
	}
}

static void put_string(const struct json_value *v, struct buf *out)
{
	if (!json_has_escapes(v)) {
		buf_add_slice(out, v->raw);
		return;
	}
	struct json_chars c = json_chars_of(json_inside(v));
	buf_u8(out, '"');
	for (int b = json_chars_next(&c); b >= 0; b = json_chars_next(&c))
		put_escaped((uint8_t)b, out);
	buf_u8(out, '"');
}

void json_put_string(struct slice plain, struct buf *out)
{
	buf_u8(out, '"');
	for (size_t i = 0; i < plain.len; i++)
		put_escaped(plain.p[i], out);
	buf_u8(out, '"');
}

/* ---- numbers ---- */

/* A number taken apart: (-)whole.fraction × 10^exponent. */
struct number {
	bool negative;
	struct slice whole, fraction;
	int64_t exponent;
};

static struct slice take_digits(const uint8_t **p, const uint8_t *end)
{
	const uint8_t *start = *p;
	while (*p < end && **p >= '0' && **p <= '9')
		(*p)++;
	return slice_of(start, (size_t)(*p - start));
}

static struct number split_number(struct slice raw)
{
	const uint8_t *p = raw.p, *end = raw.p + raw.len;
	struct number n = {.negative = *p == '-'};
	p += n.negative;
	n.whole = take_digits(&p, end);
	n.fraction = slice_of(p, 0);
	if (p < end && *p == '.') {
		p++;
		n.fraction = take_digits(&p, end);
	}
	if (p < end) { /* e or E */
		p++;
		bool minus = *p == '-';
		if (*p == '-' || *p == '+')
			p++;
		while (p < end && *p == '0')
			p++;
		if (end - p > EXPONENT_TEXT_MAX)
			end = p + EXPONENT_TEXT_MAX;
		for (; p < end; p++)
			n.exponent = n.exponent * 10 + (*p - '0');
		if (minus)
			n.exponent = -n.exponent;
	}
	return n;
}

/* The i-th digit from the left of whole and fraction together; '0' outside. */
static uint8_t digit_at(const struct number *n, int64_t i)
{
	if (i < 0 || i >= (int64_t)(n->whole.len + n->fraction.len))
		return '0';
	if (i < (int64_t)n->whole.len)
		return n->whole.p[i];
	return n->fraction.p[i - (int64_t)n->whole.len];
}

/* As numeric_in reads it and numeric_out prints it. */
static int put_number(const struct json_value *v, struct buf *out, struct rt_err *err)
{
	const struct number n = split_number(v->raw);
	const int64_t digits = (int64_t)(n.whole.len + n.fraction.len);
	const int64_t point = (int64_t)n.whole.len + n.exponent; /* digits before the point */
	const int64_t scale = RT_MAX((int64_t)n.fraction.len - n.exponent, 0);
	int64_t first = 0; /* the first digit that counts */
	while (first < digits && digit_at(&n, first) == '0')
		first++;
	const bool zero = first == digits;
	if (n.exponent >= INT32_MAX / 2 || n.exponent <= -(INT32_MAX / 2))
		return rt_fail(err, ERR_PERMANENT, "a number's exponent is out of range");
	if (scale > NUMERIC_SCALE_MAX || (!zero && point - first - 1 > NUMERIC_EXPONENT_MAX))
		return rt_fail(err, ERR_PERMANENT, "a number is out of range for numeric");
	if (n.negative && !zero)
		buf_u8(out, '-');
	if (zero || first >= point)
		buf_u8(out, '0');
	for (int64_t i = first; !zero && i < point; i++)
		buf_u8(out, digit_at(&n, i));
	if (scale > 0)
		buf_u8(out, '.');
	for (int64_t i = 0; i < scale; i++)
		buf_u8(out, digit_at(&n, point + i));
	return 0;
}

/* ---- objects ---- */

static size_t plain_len(const struct json_value *key)
{
	if (!json_has_escapes(key))
		return key->raw.len - 2;
	struct json_chars c = json_chars_of(json_inside(key));
	size_t n = 0;
	while (json_chars_next(&c) >= 0)
		n++;
	return n;
}

/* jsonb's order of keys: by length, then bytes, both without escapes. */
static int compare_keys(const struct json_value *a, const struct json_value *b)
{
	if (!json_has_escapes(a) && !json_has_escapes(b)) {
		if (a->raw.len != b->raw.len)
			return a->raw.len < b->raw.len ? -1 : 1;
		return memcmp(a->raw.p, b->raw.p, a->raw.len);
	}
	size_t la = plain_len(a), lb = plain_len(b);
	if (la != lb)
		return la < lb ? -1 : 1;
	struct json_chars ca = json_chars_of(json_inside(a)), cb = json_chars_of(json_inside(b));
	for (;;) {
		int x = json_chars_next(&ca), y = json_chars_next(&cb);
		if (x != y)
			return x < y ? -1 : 1;
		if (x < 0)
			return 0;
	}
}

struct member {
	struct json_value key, value;
	size_t order; /* in the text: of equal keys the last one stays */
};

static int compare_members(const void *a, const void *b)
{
	const struct member *x = a, *y = b;
	int d = compare_keys(&x->key, &y->key);
	if (d != 0)
		return d;
	return x->order < y->order ? -1 : x->order > y->order;
}

static int put_value(const struct json_value *v, struct buf *out, struct rt_err *err);

static struct member *sorted_members(const struct json_value *v, size_t *ret_n)
{
	struct member *all = NULL;
	size_t n = 0, cap = 0, at = 0;
	struct json_value key, value;
	while (json_next_member(v, &at, &key, &value) == 1) {
		if (n == cap) {
			cap = cap == 0 ? 16 : cap * 2;
			all = rt_realloc(all, cap * sizeof(*all));
		}
		all[n] = (struct member){key, value, n};
		n++;
	}
	if (n > 1)
		qsort(all, n, sizeof(*all), compare_members);
	*ret_n = n;
	return all;
}

static int put_object(const struct json_value *v, struct buf *out, struct rt_err *err)
{
	size_t n;
	int rc = 0;
	bool some = false;
	struct member *all = sorted_members(v, &n);
	buf_u8(out, '{');
	for (size_t i = 0; i < n && rc == 0; i++) {
		/* A value that is replaced by a later one must be one that numeric takes, too. */
		const size_t start = out->len;
		if (some)
			buf_str(out, ", ");
		put_string(&all[i].key, out);
		buf_str(out, ": ");
		rc = put_value(&all[i].value, out, err);
		if (i + 1 < n && compare_keys(&all[i].key, &all[i + 1].key) == 0)
			out->len = start;
		else
			some = true;
	}
	buf_u8(out, '}');
	free(all);
	return rc;
}

static int put_array(const struct json_value *v, struct buf *out, struct rt_err *err)
{
	struct json_value item;
	size_t at = 0;
	bool some = false;
	buf_u8(out, '[');
	while (json_next_element(v, &at, &item) == 1) {
		if (some)
			buf_str(out, ", ");
		some = true;
		int rc = put_value(&item, out, err);
		if (rc != 0)
			return rc;
	}
	buf_u8(out, ']');
	return 0;
}

static int put_value(const struct json_value *v, struct buf *out, struct rt_err *err)
{
	int rc = 0;
	switch (v->kind) {
	case JSON_OBJECT:
		rc = put_object(v, out, err);
		break;
	case JSON_ARRAY:
		rc = put_array(v, out, err);
		break;
	case JSON_STRING:
		put_string(v, out);
		break;
	case JSON_NUMBER:
		rc = put_number(v, out, err);
		break;
	case JSON_BOOL:
	case JSON_NULL:
		buf_add_slice(out, v->raw);
		break;
	case JSON_ABSENT:
		rt_bug(__FILE__, __LINE__, "no value to print");
	}
	if (rc == 0 && out->len > CANONICAL_MAX_BYTES)
		rc = rt_fail(err, ERR_PERMANENT, "the value is too large for jsonb");
	return rc;
}

int json_canonical(struct slice text, struct buf *out, struct rt_err *err)
{
	struct json_value v;
	const size_t start = out->len;
	int rc = json_parse(text, &v, err);
	if (rc == 0)
		rc = put_value(&v, out, err);
	if (rc != 0)
		out->len = start;
	return rc;
}

static void put_member(const struct json_value *key, const struct json_value *value, bool *some,
		       struct buf *out)
{
	if (*some)
		buf_str(out, ", ");
	*some = true;
	buf_add_slice(out, key->raw);
	buf_str(out, ": ");
	buf_add_slice(out, value->raw);
}

void json_merge(const struct json_value *a, const struct json_value *b, struct buf *out)
{
	struct json_value ka, va, kb, vb;
	size_t at_a = 0, at_b = 0;
	bool some = false;
	bool more_a = json_next_member(a, &at_a, &ka, &va) == 1;
	bool more_b = json_next_member(b, &at_b, &kb, &vb) == 1;
	buf_u8(out, '{');
	while (more_a || more_b) {
		int d = !more_a ? 1 : !more_b ? -1 : compare_keys(&ka, &kb);
		if (d < 0)
			put_member(&ka, &va, &some, out);
		else
			put_member(&kb, &vb, &some, out);
		if (d <= 0)
			more_a = json_next_member(a, &at_a, &ka, &va) == 1;
		if (d >= 0)
			more_b = json_next_member(b, &at_b, &kb, &vb) == 1;
	}
	buf_u8(out, '}');
}
