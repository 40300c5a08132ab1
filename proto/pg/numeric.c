/*
 * numeric: exact decimals in the server's own form: digits of base 10000, the
 * weight (power of 10000) of the first, a sign, and a display scale in decimal
 * digits. Guarantees: results are canonical as the server makes them (no zero
 * digit at either end, zero has weight 0 and no sign), so equal bytes are what
 * the server would send, display scale included.
 */
#include "proto/pg/types_inner.h"

enum {
	SIGN_PLUS = 0x0000,
	SIGN_MINUS = 0x4000,
	SIGN_NAN = 0xC000,
	SIGN_PLUS_INF = 0xD000,
	SIGN_MINUS_INF = 0xF000,
	HEAD_BYTES = 8,
	/* The server sends this display scale with an infinity. */
	INF_DSCALE = 32,
	DSCALE_MAX = 16383,
	BASE = 10000,
};

/* Exponents beyond are refused before anything is computed from them. */
#define EXPONENT_LIMIT (INT32_MAX / 2)

struct numeric {
	uint32_t ndigits;
	int32_t weight;
	uint16_t sign;
	uint16_t dscale;
	const uint8_t *digits; /* ndigits × 2 bytes */
};

static bool is_special(const struct numeric *n)
{
	return n->sign != SIGN_PLUS && n->sign != SIGN_MINUS;
}

/* False when binary is not canonical. */
static bool numeric_read(struct slice binary, struct numeric *ret)
{
	struct rd r = rd_of(binary);
	struct numeric n;
	n.ndigits = rd_u16(&r);
	n.weight = (int16_t)rd_u16(&r);
	n.sign = rd_u16(&r);
	n.dscale = rd_u16(&r);
	n.digits = rd_bytes(&r, (size_t)n.ndigits * 2);
	if (!rd_finish(&r))
		return false;
	if (n.sign == SIGN_NAN || n.sign == SIGN_PLUS_INF || n.sign == SIGN_MINUS_INF) {
		*ret = n;
		return n.ndigits == 0;
	}
	if (is_special(&n) || n.dscale > DSCALE_MAX)
		return false;
	if (n.ndigits == 0 && (n.weight != 0 || n.sign != SIGN_PLUS))
		return false;
	for (uint32_t i = 0; i < n.ndigits; i++) {
		uint16_t d = be16_get(n.digits + i * 2);
		if (d >= BASE || (d == 0 && (i == 0 || i == n.ndigits - 1)))
			return false;
	}
	*ret = n;
	return true;
}

bool numeric_is_valid(struct slice binary)
{
	struct numeric n;
	return numeric_read(binary, &n);
}

static void put_head(struct buf *out, uint32_t ndigits, int32_t weight, uint16_t sign,
		     uint32_t dscale)
{
	buf_u16(out, (uint16_t)ndigits);
	buf_u16(out, (uint16_t)weight);
	buf_u16(out, sign);
	buf_u16(out, (uint16_t)dscale);
}

static void put_special(struct buf *out, uint16_t sign)
{
	put_head(out, 0, 0, sign, sign == SIGN_NAN ? 0 : INF_DSCALE);
}

/* ---- text to numeric ---- */

/* A decimal number as it stands in the text; positions count digits, not the point. */
struct decimal {
	const uint8_t *p; /* at the first digit or the point */
	size_t digits;
	size_t int_digits;  /* of these, before the point */
	size_t first, last; /* the first and last digit that is not 0, where any */
	bool zero;
	int64_t exponent;
};

/* Reads the exponent behind 'e': white space and a sign may come first, as strtol takes them. */
static bool read_exponent(const uint8_t **at, const uint8_t *end, int64_t *ret)
{
	const uint8_t *p = *at;
	while (p < end && pgt_is_space(*p))
		p++;
	bool negative = p < end && *p == '-';
	if (p < end && (*p == '-' || *p == '+'))
		p++;
	if (p == end || !pgt_is_digit(*p))
		return false;
	int64_t v = 0;
	for (; p < end && pgt_is_digit(*p); p++)
		v = RT_MIN(v * 10 + (*p - '0'), (int64_t)INT32_MAX);
	*at = p;
	*ret = negative ? -v : v;
	return true;
}

static bool read_decimal(struct slice s, struct decimal *ret)
{
	const uint8_t *p = s.p, *end = s.p + s.len;
	struct decimal d = {.p = p, .zero = true};
	bool point = false;
	for (; p < end && (pgt_is_digit(*p) || (*p == '.' && !point)); p++) {
		if (*p == '.') {
			point = true;
			d.int_digits = d.digits;
			continue;
		}
		if (*p != '0') {
			d.first = d.zero ? d.digits : d.first;
			d.last = d.digits;
			d.zero = false;
		}
		d.digits++;
	}
	if (!point)
		d.int_digits = d.digits;
	if (d.digits == 0)
		return false;
	if (p < end && (*p == 'e' || *p == 'E')) {
		p++;
		if (!read_exponent(&p, end, &d.exponent))
			return false;
	}
	*ret = d;
	return p == end;
}

/* The group of four digits that the digit of this power of ten belongs to. */
static int64_t group_of(int64_t power)
{
	return power >= 0 ? power / 4 : -((3 - power) / 4);
}

static void put_digits(const struct decimal *d, int64_t power, int64_t low_group, struct buf *out)
{
	static const uint16_t TEN[] = {1, 10, 100, 1000};
	const uint8_t *p = d->p;
	for (size_t skip = d->first; skip > 0 || *p == '.'; p++)
		skip -= *p != '.';
	int64_t group = group_of(power);
	uint16_t value = 0;
	for (size_t i = d->first; i <= d->last; p++) {
		if (*p == '.')
			continue;
		for (; group_of(power) < group; group--) {
			buf_u16(out, value);
			value = 0;
		}
		value = (uint16_t)(value + (*p - '0') * TEN[power - 4 * group]);
		power--;
		i++;
	}
	RT_ASSERT(group == low_group);
	buf_u16(out, value);
}

static bool special_word(struct slice s, uint16_t *ret_sign)
{
	if (pgt_is_word(s, "nan"))
		*ret_sign = SIGN_NAN;
	else if (pgt_is_word(s, "inf") || pgt_is_word(s, "infinity") || pgt_is_word(s, "+inf") ||
		 pgt_is_word(s, "+infinity"))
		*ret_sign = SIGN_PLUS_INF;
	else if (pgt_is_word(s, "-inf") || pgt_is_word(s, "-infinity"))
		*ret_sign = SIGN_MINUS_INF;
	else
		return false;
	return true;
}

int numeric_from_text(struct slice text, struct buf *out, struct rt_err *err)
{
	struct slice s = pgt_trim(text);
	uint16_t sign = SIGN_PLUS;
	if (special_word(s, &sign)) {
		put_special(out, sign);
		return RT_OK;
	}
	if (s.len > 0 && (s.p[0] == '+' || s.p[0] == '-')) {
		sign = s.p[0] == '-' ? SIGN_MINUS : SIGN_PLUS;
		s.p++;
		s.len--;
	}
	struct decimal d;
	if (!read_decimal(s, &d))
		return pgt_fail_syntax(err, "numeric");
	if (d.exponent >= EXPONENT_LIMIT || d.exponent <= -EXPONENT_LIMIT)
		return pgt_fail_range(err, "numeric");
	int64_t dscale = (int64_t)(d.digits - d.int_digits) - d.exponent;
	dscale = RT_MAX(dscale, 0);
	if (dscale > DSCALE_MAX)
		return pgt_fail_range(err, "numeric");
	if (d.zero) {
		put_head(out, 0, 0, SIGN_PLUS, (uint32_t)dscale);
		return RT_OK;
	}
	int64_t unit = (int64_t)d.int_digits - 1 + d.exponent; /* power of ten of digit 0 */
	int64_t high = group_of(unit - (int64_t)d.first), low = group_of(unit - (int64_t)d.last);
	if (high > INT16_MAX)
		return pgt_fail_range(err, "numeric");
	/* The lowest group is bounded by dscale, so all fits in 16 bits. */
	put_head(out, (uint32_t)(high - low + 1), (int32_t)high, sign, (uint32_t)dscale);
	put_digits(&d, unit - (int64_t)d.first, low, out);
	return RT_OK;
}

/* ---- numeric to text ---- */

/* The digit of this group (power of 10000), 0 outside of those that are there. */
static uint32_t digit_at(const struct numeric *n, int32_t group)
{
	int32_t i = n->weight - group;
	return i < 0 || i >= (int32_t)n->ndigits ? 0 : be16_get(n->digits + i * 2);
}

static void put_four(uint8_t *to, uint32_t v)
{
	to[0] = (uint8_t)('0' + v / 1000);
	to[1] = (uint8_t)('0' + v / 100 % 10);
	to[2] = (uint8_t)('0' + v / 10 % 10);
	to[3] = (uint8_t)('0' + v % 10);
}

void numeric_to_text(struct slice binary, struct buf *out)
{
	struct numeric n;
	RT_ASSERT(numeric_read(binary, &n));
	if (is_special(&n)) {
		buf_str(out, n.sign == SIGN_NAN	       ? "NaN"
			     : n.sign == SIGN_PLUS_INF ? "Infinity"
						       : "-Infinity");
		return;
	}
	if (n.sign == SIGN_MINUS)
		buf_u8(out, '-');
	uint8_t four[4];
	buf_printf(out, "%u", digit_at(&n, RT_MAX(n.weight, 0)));
	for (int32_t g = n.weight - 1; g >= 0; g--) {
		put_four(four, digit_at(&n, g));
		buf_add(out, four, 4);
	}
	if (n.dscale == 0)
		return;
	buf_u8(out, '.');
	uint32_t left = n.dscale;
	for (int32_t g = -1; left > 0; g--) {
		put_four(four, digit_at(&n, g));
		buf_add(out, four, RT_MIN(left, 4));
		left -= RT_MIN(left, 4);
	}
}

/* ---- order and sums ---- */

/* Order of the absolute values of two finite numbers. */
static int magnitude_compare(const struct numeric *a, const struct numeric *b)
{
	if (a->ndigits == 0 || b->ndigits == 0)
		return (a->ndigits > 0) - (b->ndigits > 0);
	if (a->weight != b->weight)
		return a->weight < b->weight ? -1 : 1;
	int c = memcmp(a->digits, b->digits, 2 * (size_t)RT_MIN(a->ndigits, b->ndigits));
	return c != 0 ? c : (a->ndigits > b->ndigits) - (a->ndigits < b->ndigits);
}

/* -Infinity, finite numbers, Infinity, NaN, in this order. */
static int rank_of(const struct numeric *n)
{
	switch (n->sign) {
	case SIGN_MINUS_INF:
		return 0;
	case SIGN_PLUS_INF:
		return 2;
	case SIGN_NAN:
		return 3;
	}
	return 1;
}

int numeric_compare(struct slice a, struct slice b)
{
	struct numeric x, y;
	RT_ASSERT(numeric_read(a, &x) && numeric_read(b, &y));
	if (is_special(&x) || is_special(&y))
		return rank_of(&x) - rank_of(&y);
	if (x.sign != y.sign)
		return x.sign == SIGN_MINUS ? -1 : 1;
	int c = magnitude_compare(&x, &y);
	return x.sign == SIGN_MINUS ? -c : c;
}

static int add_special(const struct numeric *a, const struct numeric *b, struct buf *out)
{
	uint16_t sign = is_special(a) ? a->sign : b->sign;
	if (is_special(a) && is_special(b) && a->sign != b->sign)
		sign = SIGN_NAN; /* either is NaN, or the infinities have different signs */
	put_special(out, sign);
	return RT_OK;
}

/*
 * Appends |a| + |b|, or |a| - |b| (|a| not the smaller one) with this sign.
 * The digits are computed in out's spare room, one more than can be needed.
 */
static int add_magnitudes(const struct numeric *a, const struct numeric *b, bool subtract,
			  uint16_t sign, struct buf *out, struct rt_err *err)
{
	int32_t high = RT_MAX(a->weight, b->weight) + 1;
	int32_t low = RT_MIN(a->weight - (int32_t)a->ndigits, b->weight - (int32_t)b->ndigits) + 1;
	int32_t count = high - low + 1, carry = 0;
	uint8_t *to = buf_reserve(out, HEAD_BYTES + 2 * (size_t)count) + HEAD_BYTES;
	for (int32_t g = low; g <= high; g++) {
		int32_t x = (int32_t)digit_at(a, g), y = (int32_t)digit_at(b, g);
		int32_t v = subtract ? x - y + carry : x + y + carry;
		carry = v < 0 ? -1 : v >= BASE;
		be16_put(to + 2 * (high - g), (uint16_t)(v - carry * BASE));
	}
	RT_ASSERT(carry == 0);
	int32_t first = 0;
	while (first < count && be16_get(to + 2 * first) == 0)
		first++;
	while (count > first && be16_get(to + 2 * (count - 1)) == 0)
		count--;
	uint32_t dscale = RT_MAX(a->dscale, b->dscale), ndigits = (uint32_t)(count - first);
	int32_t weight = high - first;
	if (ndigits == 0) {
		weight = 0;
		sign = SIGN_PLUS;
	}
	if (weight > INT16_MAX)
		return pgt_fail_range(err, "numeric");
	memmove(to, to + 2 * first, 2 * ndigits);
	put_head(out, ndigits, weight, sign, dscale);
	out->len += 2 * ndigits;
	return RT_OK;
}

int numeric_add(struct slice a, struct slice b, bool subtract, struct buf *out, struct rt_err *err)
{
	struct numeric x, y;
	RT_ASSERT(numeric_read(a, &x) && numeric_read(b, &y));
	if (subtract && y.sign == SIGN_PLUS)
		y.sign = SIGN_MINUS;
	else if (subtract && y.sign == SIGN_MINUS)
		y.sign = SIGN_PLUS;
	else if (subtract && y.sign == SIGN_PLUS_INF)
		y.sign = SIGN_MINUS_INF;
	else if (subtract && y.sign == SIGN_MINUS_INF)
		y.sign = SIGN_PLUS_INF;
	if (is_special(&x) || is_special(&y))
		return add_special(&x, &y, out);
	if (x.sign == y.sign)
		return add_magnitudes(&x, &y, false, x.sign, out, err);
	if (magnitude_compare(&x, &y) >= 0)
		return add_magnitudes(&x, &y, true, x.sign, out, err);
	return add_magnitudes(&y, &x, true, y.sign, out, err);
}
