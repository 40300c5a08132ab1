/*
 * types: names, OIDs, and the types that are read in a few lines (bool,
 * integers, text, uuid). Guarantees: out is untouched when a function fails,
 * nothing is read past a slice, and no error text holds a value.
 */
#include "proto/pg/types.h"

#include "proto/pg/types_inner.h"

static const struct {
	const char *name, *array_name;
	uint32_t oid, array_oid;
} TYPES[] = {
	[PGT_BOOL] = {"bool", "bool[]", OID_BOOL, 1000},
	[PGT_INT2] = {"int2", "int2[]", OID_INT2, 1005},
	[PGT_INT4] = {"int4", "int4[]", OID_INT4, 1007},
	[PGT_INT8] = {"int8", "int8[]", OID_INT8, 1016},
	[PGT_NUMERIC] = {"numeric", "numeric[]", OID_NUMERIC, 1231},
	[PGT_TEXT] = {"text", "text[]", OID_TEXT, 1009},
	[PGT_VARCHAR] = {"varchar", "varchar[]", OID_VARCHAR, 1015},
	[PGT_UUID] = {"uuid", "uuid[]", OID_UUID, 2951},
	[PGT_DATE] = {"date", "date[]", OID_DATE, 1182},
	[PGT_TIMESTAMPTZ] = {"timestamptz", "timestamptz[]", OID_TIMESTAMPTZ, 1185},
	[PGT_JSONB] = {"jsonb", "jsonb[]", OID_JSONB, 3807},
};
_Static_assert(ARRAY_LEN(TYPES) == PGT_COUNT, "every type has a row");

uint32_t pgt_oid(struct pgt_type t)
{
	return t.array ? TYPES[t.base].array_oid : TYPES[t.base].oid;
}

const char *pgt_name(struct pgt_type t)
{
	return t.array ? TYPES[t.base].array_name : TYPES[t.base].name;
}

bool pgt_parse_name(const char *name, struct pgt_type *ret)
{
	for (int i = 0; i < PGT_COUNT; i++) {
		bool array = strcmp(name, TYPES[i].array_name) == 0;
		if (array || strcmp(name, TYPES[i].name) == 0) {
			*ret = (struct pgt_type){(enum pgt)i, array};
			return true;
		}
	}
	return false;
}

bool pgt_from_oid(uint32_t oid, struct pgt_type *ret)
{
	for (int i = 0; i < PGT_COUNT; i++) {
		if (oid == TYPES[i].oid || oid == TYPES[i].array_oid) {
			*ret = (struct pgt_type){(enum pgt)i, oid == TYPES[i].array_oid};
			return true;
		}
	}
	return false;
}

/* ---- helpers shared with the other files ---- */

struct slice pgt_trim(struct slice text)
{
	while (text.len > 0 && pgt_is_space(text.p[0])) {
		text.p++;
		text.len--;
	}
	while (text.len > 0 && pgt_is_space(text.p[text.len - 1]))
		text.len--;
	return text;
}

bool pgt_is_word(struct slice text, const char *word)
{
	for (size_t i = 0; i < text.len; i++) {
		/* A NUL of the text meets the word's end here, or differs before it. */
		if (word[i] == '\0' || pgt_lower(text.p[i]) != (uint8_t)word[i])
			return false;
	}
	return word[text.len] == '\0';
}

int pgt_fail_syntax(struct rt_err *err, const char *type)
{
	return rt_fail(err, ERR_PERMANENT, "not a valid %s", type);
}

int pgt_fail_range(struct rt_err *err, const char *type)
{
	return rt_fail(err, ERR_PERMANENT, "out of range for %s", type);
}

/* ---- bool ---- */

/* Any unambiguous beginning of a word counts, so "o" alone does not. */
static int bool_from_text(struct slice text, struct buf *out, struct rt_err *err)
{
	static const struct {
		const char *word;
		size_t min_len;
		uint8_t value;
	} WORDS[] = {
		{"true", 1, 1}, {"false", 1, 0}, {"yes", 1, 1}, {"no", 1, 0},
		{"on", 2, 1},	{"off", 2, 0},	 {"1", 1, 1},	{"0", 1, 0},
	};
	struct slice s = pgt_trim(text);
	for (size_t i = 0; i < ARRAY_LEN(WORDS); i++) {
		size_t len = strlen(WORDS[i].word);
		if (s.len < WORDS[i].min_len || s.len > len)
			continue;
		size_t same = 0;
		while (same < s.len && pgt_lower(s.p[same]) == (uint8_t)WORDS[i].word[same])
			same++;
		if (same == s.len) {
			buf_u8(out, WORDS[i].value);
			return RT_OK;
		}
	}
	return pgt_fail_syntax(err, "bool");
}

/* ---- integers (rules of PostgreSQL 15: decimal only; 16 added 0x and underscores) ---- */

static int int_parse(struct slice text, int bits, const char *type, int64_t *ret,
		     struct rt_err *err)
{
	struct slice s = pgt_trim(text);
	bool negative = s.len > 0 && s.p[0] == '-';
	if (s.len > 0 && (s.p[0] == '-' || s.p[0] == '+')) {
		s.p++;
		s.len--;
	}
	if (s.len == 0)
		return pgt_fail_syntax(err, type);
	uint64_t limit = (UINT64_C(1) << (bits - 1)) - (negative ? 0 : 1);
	uint64_t v = 0;
	bool over = false;
	for (size_t i = 0; i < s.len; i++) {
		if (!pgt_is_digit(s.p[i]))
			return pgt_fail_syntax(err, type);
		uint64_t digit = (uint64_t)(s.p[i] - '0');
		over = over || v > (limit - digit) / 10;
		if (!over)
			v = v * 10 + digit;
	}
	if (over)
		return pgt_fail_range(err, type);
	*ret = (int64_t)(negative ? 0 - v : v);
	return RT_OK;
}

static int int_bits(enum pgt t)
{
	return t == PGT_INT2 ? 16 : t == PGT_INT4 ? 32 : 64;
}

static void int_put(enum pgt t, int64_t v, struct buf *out)
{
	if (t == PGT_INT2)
		buf_u16(out, (uint16_t)v);
	else if (t == PGT_INT4)
		buf_u32(out, (uint32_t)v);
	else
		buf_u64(out, (uint64_t)v);
}

static int64_t int_get(enum pgt t, struct slice binary)
{
	RT_ASSERT(binary.len == (size_t)int_bits(t) / 8);
	if (t == PGT_INT2)
		return (int16_t)be16_get(binary.p);
	if (t == PGT_INT4)
		return (int32_t)be32_get(binary.p);
	return (int64_t)be64_get(binary.p);
}

/* ---- text ---- */

/* Length of the UTF-8 character that p begins, 0 where it is none (or is NUL, which text cannot hold). */
static size_t utf8_len(const uint8_t *p, size_t left)
{
	uint8_t c = p[0], lo = 0x80, hi = 0xBF;
	size_t len;
	if (c < 0x80)
		return c == 0 ? 0 : 1;
	if (c >= 0xC2 && c <= 0xDF)
		len = 2;
	else if (c >= 0xE0 && c <= 0xEF)
		len = 3;
	else if (c >= 0xF0 && c <= 0xF4)
		len = 4;
	else
		return 0;
	/* No overlong forms, no surrogates, nothing above U+10FFFF. */
	if (c == 0xE0)
		lo = 0xA0;
	else if (c == 0xED)
		hi = 0x9F;
	else if (c == 0xF0)
		lo = 0x90;
	else if (c == 0xF4)
		hi = 0x8F;
	if (left < len || p[1] < lo || p[1] > hi)
		return 0;
	for (size_t i = 2; i < len; i++) {
		if (p[i] < 0x80 || p[i] > 0xBF)
			return 0;
	}
	return len;
}

static bool text_is_valid(struct slice s)
{
	size_t i = 0;
	while (i < s.len) {
		size_t n = utf8_len(s.p + i, s.len - i);
		if (n == 0)
			return false;
		i += n;
	}
	return true;
}

/* ---- uuid ---- */

static int hex_value(uint8_t c)
{
	if (pgt_is_digit(c))
		return c - '0';
	c = pgt_lower(c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* 32 hex digits of either case, a hyphen allowed after every four, braces around all allowed. */
static int uuid_from_text(struct slice s, struct buf *out, struct rt_err *err)
{
	if (s.len >= 2 && s.p[0] == '{' && s.p[s.len - 1] == '}') {
		s.p++;
		s.len -= 2;
	}
	uint8_t bytes[16];
	size_t at = 0;
	for (size_t i = 0; i < 16; i++) {
		if (i > 0 && i % 2 == 0 && at < s.len && s.p[at] == '-')
			at++;
		if (s.len - at < 2)
			return pgt_fail_syntax(err, "uuid");
		int high = hex_value(s.p[at]), low = hex_value(s.p[at + 1]);
		if (high < 0 || low < 0)
			return pgt_fail_syntax(err, "uuid");
		bytes[i] = (uint8_t)(high << 4 | low);
		at += 2;
	}
	if (at != s.len)
		return pgt_fail_syntax(err, "uuid");
	buf_add(out, bytes, sizeof(bytes));
	return RT_OK;
}

static void uuid_to_text(const uint8_t *p, struct buf *out)
{
	static const char HEX[] = "0123456789abcdef";
	uint8_t *to = buf_reserve(out, 36);
	for (size_t i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*to++ = '-';
		*to++ = (uint8_t)HEX[p[i] >> 4];
		*to++ = (uint8_t)HEX[p[i] & 15];
	}
	out->len += 36;
}

/* ---- all types ---- */

int pgt_from_text(enum pgt t, struct slice text, const struct pgt_zone *zone, struct buf *out,
		  struct rt_err *err)
{
	int64_t v;
	int rc;
	switch (t) {
	case PGT_BOOL:
		return bool_from_text(text, out, err);
	case PGT_INT2:
	case PGT_INT4:
	case PGT_INT8:
		rc = int_parse(text, int_bits(t), TYPES[t].name, &v, err);
		if (rc == RT_OK)
			int_put(t, v, out);
		return rc;
	case PGT_NUMERIC:
		return numeric_from_text(text, out, err);
	case PGT_TEXT:
	case PGT_VARCHAR:
		if (!text_is_valid(text))
			return rt_fail(err, ERR_PERMANENT, "not a valid %s (a NUL, or not UTF-8)",
				       TYPES[t].name);
		buf_add_slice(out, text);
		return RT_OK;
	case PGT_UUID:
		return uuid_from_text(text, out, err);
	case PGT_DATE:
		return date_from_text(text, zone, out, err);
	case PGT_TIMESTAMPTZ:
		return timestamptz_from_text(text, zone, out, err);
	case PGT_JSONB:
		buf_u8(out, 1);
		buf_add_slice(out, text);
		return RT_OK;
	case PGT_COUNT:
		break;
	}
	rt_bug(__FILE__, __LINE__, "no such type");
}

void pgt_value_to_text(enum pgt t, struct slice binary, struct buf *out)
{
	switch (t) {
	case PGT_BOOL:
		buf_u8(out, binary.p[0] ? 't' : 'f');
		return;
	case PGT_INT2:
	case PGT_INT4:
	case PGT_INT8:
		buf_printf(out, "%lld", (long long)int_get(t, binary));
		return;
	case PGT_NUMERIC:
		numeric_to_text(binary, out);
		return;
	case PGT_TEXT:
	case PGT_VARCHAR:
		buf_add_slice(out, binary);
		return;
	case PGT_UUID:
		uuid_to_text(binary.p, out);
		return;
	case PGT_DATE:
		date_to_text(binary, out);
		return;
	case PGT_TIMESTAMPTZ:
		timestamptz_to_text(binary, out);
		return;
	case PGT_JSONB:
		buf_add(out, binary.p + 1, binary.len - 1);
		return;
	case PGT_COUNT:
		break;
	}
	rt_bug(__FILE__, __LINE__, "no such type");
}

bool pgt_value_is_valid(enum pgt t, struct slice binary)
{
	switch (t) {
	case PGT_BOOL:
		return binary.len == 1 && binary.p[0] <= 1;
	case PGT_INT2:
	case PGT_INT4:
	case PGT_INT8:
		return binary.len == (size_t)int_bits(t) / 8;
	case PGT_NUMERIC:
		return numeric_is_valid(binary);
	case PGT_TEXT:
	case PGT_VARCHAR:
		return text_is_valid(binary);
	case PGT_UUID:
		return binary.len == 16;
	case PGT_DATE:
		return date_is_valid(binary);
	case PGT_TIMESTAMPTZ:
		return timestamptz_is_valid(binary);
	case PGT_JSONB: /* version 1; its text is the server's to check */
		return binary.len > 1 && binary.p[0] == 1 &&
		       text_is_valid(slice_of(binary.p + 1, binary.len - 1));
	case PGT_COUNT:
		break;
	}
	rt_bug(__FILE__, __LINE__, "no such type");
}

bool pgt_is_valid(struct pgt_type t, struct slice binary)
{
	return t.array ? array_is_valid(t.base, binary) : pgt_value_is_valid(t.base, binary);
}

int pgt_to_text(struct pgt_type t, struct slice binary, struct buf *out, struct rt_err *err)
{
	if (!pgt_is_valid(t, binary))
		return rt_fail(err, ERR_PERMANENT, "not a valid binary %s", pgt_name(t));
	if (t.array)
		array_to_text(t.base, binary, out);
	else
		pgt_value_to_text(t.base, binary, out);
	return RT_OK;
}

static int order_of(int64_t a, int64_t b)
{
	return (a > b) - (a < b);
}

/* memcmp, the shorter first. */
static int bytes_compare(struct slice a, struct slice b)
{
	size_t n = RT_MIN(a.len, b.len);
	int c = n == 0 ? 0 : memcmp(a.p, b.p, n);
	return c != 0 ? c : (a.len > b.len) - (a.len < b.len);
}

int pgt_compare(enum pgt t, struct slice a, struct slice b)
{
	switch (t) {
	case PGT_INT2:
	case PGT_INT4:
	case PGT_INT8:
		return order_of(int_get(t, a), int_get(t, b));
	case PGT_DATE: /* days; the infinities are the extremes */
		return order_of(int_get(PGT_INT4, a), int_get(PGT_INT4, b));
	case PGT_TIMESTAMPTZ:
		return order_of(int_get(PGT_INT8, a), int_get(PGT_INT8, b));
	case PGT_NUMERIC:
		return numeric_compare(a, b);
	case PGT_BOOL:
	case PGT_TEXT:
	case PGT_VARCHAR:
	case PGT_UUID:
		return bytes_compare(a, b);
	case PGT_JSONB:
	case PGT_COUNT:
		break;
	}
	rt_bug(__FILE__, __LINE__, "not an ordered type");
}

int pgt_add(enum pgt t, struct slice a, struct slice b, bool subtract, struct buf *out,
	    struct rt_err *err)
{
	if (!pgt_value_is_valid(t, a) || !pgt_value_is_valid(t, b))
		return rt_fail(err, ERR_PERMANENT, "not a valid binary %s", TYPES[t].name);
	if (t == PGT_NUMERIC)
		return numeric_add(a, b, subtract, out, err);
	RT_ASSERT(t == PGT_INT2 || t == PGT_INT4 || t == PGT_INT8);
	int64_t x = int_get(t, a), y = int_get(t, b), sum;
	bool over =
		subtract ? __builtin_sub_overflow(x, y, &sum) : __builtin_add_overflow(x, y, &sum);
	if (over || (t == PGT_INT4 && sum != (int32_t)sum) ||
	    (t == PGT_INT2 && sum != (int16_t)sum))
		return pgt_fail_range(err, TYPES[t].name);
	int_put(t, sum, out);
	return RT_OK;
}
