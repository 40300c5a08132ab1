/*
 * json: the scanner. Guarantees: reads nothing outside the text, whatever it
 * holds; allocates nothing but in the caller's buffer. json_check.c holds the
 * strict check, json_canonical.c what writes JSON.
 */
#include "transforms/rollup/json.h"

#include "transforms/rollup/json_chars.h"

const char *json_kind_name(enum json_kind kind)
{
	switch (kind) {
	case JSON_ABSENT:
		return "absent";
	case JSON_NULL:
		return "null";
	case JSON_BOOL:
		return "boolean";
	case JSON_NUMBER:
		return "number";
	case JSON_STRING:
		return "string";
	case JSON_ARRAY:
		return "array";
	case JSON_OBJECT:
		return "object";
	}
	rt_bug(__FILE__, __LINE__, "unknown JSON kind");
}

enum json_kind json_kind_of(uint8_t first)
{
	switch (first) {
	case '{':
		return JSON_OBJECT;
	case '[':
		return JSON_ARRAY;
	case '"':
		return JSON_STRING;
	case 't':
	case 'f':
		return JSON_BOOL;
	case 'n':
		return JSON_NULL;
	case '-':
	case '0':
	case '1':
	case '2':
	case '3':
	case '4':
	case '5':
	case '6':
	case '7':
	case '8':
	case '9':
		return JSON_NUMBER;
	default:
		return JSON_ABSENT;
	}
}

static const uint8_t *skip_space(const uint8_t *p, const uint8_t *end)
{
	while (p < end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'))
		p++;
	return p;
}

/* p is behind the opening quote; behind the closing one, or NULL when there is none. */
static const uint8_t *skip_string(const uint8_t *p, const uint8_t *end)
{
	while (p < end) {
		if (*p == '"')
			return p + 1;
		if (*p == '\\' && ++p == end)
			return NULL;
		p++;
	}
	return NULL;
}

/* p is at the opening bracket; behind its closing one, or NULL. Kinds of brackets are json_parse's to match. */
static const uint8_t *skip_brackets(const uint8_t *p, const uint8_t *end)
{
	size_t depth = 0;
	while (p < end) {
		uint8_t c = *p++;
		if (c == '"') {
			p = skip_string(p, end);
			if (p == NULL)
				return NULL;
		} else if (c == '{' || c == '[') {
			depth++;
		} else if ((c == '}' || c == ']') && --depth == 0) {
			return p;
		}
	}
	return NULL;
}

/* Number, true, false or null: up to what can follow a value. */
static const uint8_t *skip_word(const uint8_t *p, const uint8_t *end)
{
	while (p < end && *p != ',' && *p != '}' && *p != ']' && *p != ' ' && *p != '\n' &&
	       *p != '\r' && *p != '\t')
		p++;
	return p;
}

/* The value at p; behind it, or NULL when there is none. */
static const uint8_t *take_value(const uint8_t *p, const uint8_t *end, struct json_value *ret)
{
	const uint8_t *start = p;
	if (p == end)
		return NULL;
	enum json_kind kind = json_kind_of(*p);
	switch (kind) {
	case JSON_ABSENT:
		return NULL;
	case JSON_STRING:
		p = skip_string(p + 1, end);
		break;
	case JSON_ARRAY:
	case JSON_OBJECT:
		p = skip_brackets(p, end);
		break;
	case JSON_NULL:
	case JSON_BOOL:
	case JSON_NUMBER:
		p = skip_word(p, end);
		break;
	}
	if (p != NULL)
		*ret = (struct json_value){kind, {start, (size_t)(p - start)}};
	return p;
}

/* Moves p to the next member or element: 1 there is one, 0 the end, -1 neither. */
static int next_start(const uint8_t **p, const uint8_t *end, bool first, uint8_t open)
{
	const uint8_t close = open == '{' ? '}' : ']';
	if (first) {
		if (*p == end || *(*p)++ != open)
			return -1;
	}
	*p = skip_space(*p, end);
	if (*p == end)
		return -1;
	if (**p == close)
		return 0;
	if (first)
		return 1;
	if (**p != ',')
		return -1;
	*p = skip_space(*p + 1, end);
	return 1;
}

int json_next_member(const struct json_value *v, size_t *at, struct json_value *ret_key,
		     struct json_value *ret_value)
{
	struct json_value key, value;
	const uint8_t *end = v->raw.p + v->raw.len, *p = v->raw.p + *at;
	int rc = next_start(&p, end, *at == 0, '{');
	if (rc != 1)
		return rc;
	p = take_value(p, end, &key);
	if (p == NULL || key.kind != JSON_STRING)
		return -1;
	p = skip_space(p, end);
	if (p == end || *p != ':')
		return -1;
	p = take_value(skip_space(p + 1, end), end, &value);
	if (p == NULL)
		return -1;
	*at = (size_t)(p - v->raw.p);
	*ret_key = key;
	*ret_value = value;
	return 1;
}

int json_next_element(const struct json_value *v, size_t *at, struct json_value *ret)
{
	const uint8_t *end = v->raw.p + v->raw.len, *p = v->raw.p + *at;
	int rc = next_start(&p, end, *at == 0, '[');
	if (rc != 1)
		return rc;
	p = take_value(p, end, ret);
	if (p == NULL)
		return -1;
	*at = (size_t)(p - v->raw.p);
	return 1;
}

struct json_value json_top(struct slice text)
{
	struct json_value v;
	const uint8_t *end = text.p + text.len;
	const uint8_t *p = take_value(skip_space(text.p, end), end, &v);
	if (p == NULL || skip_space(p, end) != end)
		return (struct json_value){JSON_ABSENT, {NULL, 0}};
	return v;
}

struct json_value json_get(const struct json_value *v, struct slice key)
{
	struct json_value k, value, found = {JSON_ABSENT, {NULL, 0}};
	size_t at = 0;
	if (v->kind != JSON_OBJECT)
		return found;
	while (json_next_member(v, &at, &k, &value) == 1)
		if (json_string_is(&k, key))
			found = value; /* the last of duplicates, as jsonb has it */
	return found;
}

bool json_has_escapes(const struct json_value *v)
{
	return memchr(v->raw.p, '\\', v->raw.len) != NULL;
}

struct slice json_inside(const struct json_value *v)
{
	return (struct slice){v->raw.p + 1, v->raw.len - 2};
}

bool json_string_is(const struct json_value *v, struct slice plain)
{
	if (v->kind != JSON_STRING)
		return false;
	if (!json_has_escapes(v))
		return slice_eq(json_inside(v), plain);
	struct json_chars c = json_chars_of(json_inside(v));
	for (size_t i = 0; i < plain.len; i++)
		if (json_chars_next(&c) != plain.p[i])
			return false;
	return json_chars_next(&c) < 0;
}

void json_append_text(const struct json_value *v, struct buf *out)
{
	if (v->kind != JSON_STRING) {
		buf_add_slice(out, v->raw);
		return;
	}
	if (!json_has_escapes(v)) {
		buf_add_slice(out, json_inside(v));
		return;
	}
	struct json_chars c = json_chars_of(json_inside(v));
	for (int b = json_chars_next(&c); b >= 0; b = json_chars_next(&c))
		buf_u8(out, (uint8_t)b);
}

/* ---- escapes ---- */

static int hex_digit(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
		return (c | 0x20) - 'a' + 10;
	return -1;
}

static int32_t hex4(const uint8_t *p)
{
	int32_t v = 0;
	for (int i = 0; i < 4; i++) {
		int d = hex_digit(p[i]);
		if (d < 0)
			return -1;
		v = v * 16 + d;
	}
	return v;
}

static unsigned put_utf8(uint32_t c, uint8_t out[4])
{
	if (c < 0x80) {
		out[0] = (uint8_t)c;
		return 1;
	}
	if (c < 0x800) {
		out[0] = (uint8_t)(0xC0 | (c >> 6));
		out[1] = (uint8_t)(0x80 | (c & 0x3F));
		return 2;
	}
	if (c < 0x10000) {
		out[0] = (uint8_t)(0xE0 | (c >> 12));
		out[1] = (uint8_t)(0x80 | ((c >> 6) & 0x3F));
		out[2] = (uint8_t)(0x80 | (c & 0x3F));
		return 3;
	}
	out[0] = (uint8_t)(0xF0 | (c >> 18));
	out[1] = (uint8_t)(0x80 | ((c >> 12) & 0x3F));
	out[2] = (uint8_t)(0x80 | ((c >> 6) & 0x3F));
	out[3] = (uint8_t)(0x80 | (c & 0x3F));
	return 4;
}

/* *p is behind \u. */
static enum json_escape take_unicode(const uint8_t **p, const uint8_t *end, uint8_t out[4],
				     unsigned *ret_n)
{
	const uint8_t *q = *p;
	int32_t c = end - q < 4 ? -1 : hex4(q);
	if (c < 0)
		return JSON_ESCAPE_BAD;
	if (c == 0)
		return JSON_ESCAPE_ZERO;
	q += 4;
	if (c >= 0xDC00 && c <= 0xDFFF)
		return JSON_ESCAPE_SURROGATE;
	if (c >= 0xD800 && c <= 0xDBFF) {
		int32_t low = end - q < 6 || q[0] != '\\' || q[1] != 'u' ? -1 : hex4(q + 2);
		if (low < 0xDC00 || low > 0xDFFF)
			return JSON_ESCAPE_SURROGATE;
		c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
		q += 6;
	}
	*p = q;
	*ret_n = put_utf8((uint32_t)c, out);
	return JSON_ESCAPE_OK;
}

enum json_escape json_take_escape(const uint8_t **p, const uint8_t *end, uint8_t out[4],
				  unsigned *ret_n)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	const uint8_t *q = *p + 1;
	if (q >= end || *q == '\0')
		return JSON_ESCAPE_BAD;
	if (*q == 'u') {
		q++;
		enum json_escape rc = take_unicode(&q, end, out, ret_n);
		if (rc == JSON_ESCAPE_OK)
			*p = q;
		return rc;
	}
	const char *at = strchr(from, *q);
	if (at == NULL)
		return JSON_ESCAPE_BAD;
	out[0] = (uint8_t)to[at - from];
	*ret_n = 1;
	*p = q + 1;
	return JSON_ESCAPE_OK;
}

int json_chars_next(struct json_chars *c)
{
	if (c->at < c->have)
		return c->out[c->at++];
	if (c->p >= c->end)
		return -1;
	if (*c->p != '\\')
		return *c->p++;
	c->at = c->have = 0;
	if (json_take_escape(&c->p, c->end, c->out, &c->have) != JSON_ESCAPE_OK) {
		c->p = c->end; /* only in a text that nobody checked */
		return -1;
	}
	return c->out[c->at++];
}
