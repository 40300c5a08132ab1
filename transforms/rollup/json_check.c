/*
 * json_check: is it JSON that jsonb takes? Guarantees: what json_parse lets
 * through, jsonb_in lets through but for numbers outside of numeric, and
 * depth is bounded, so that later walks may recurse.
 */
#include "transforms/rollup/json.h"
#include "transforms/rollup/json_chars.h"

struct check {
	const uint8_t *p, *end;
	int depth;
	const char *what; /* NULL: no complaint yet */
};

static bool complain(struct check *c, const char *what)
{
	c->what = what;
	return false;
}

static void check_space(struct check *c)
{
	while (c->p < c->end && (*c->p == ' ' || *c->p == '\n' || *c->p == '\r' || *c->p == '\t'))
		c->p++;
}

static bool at_digit(const struct check *c)
{
	return c->p < c->end && *c->p >= '0' && *c->p <= '9';
}

static bool check_digits(struct check *c)
{
	if (!at_digit(c))
		return complain(c, "a digit is expected");
	while (at_digit(c))
		c->p++;
	return true;
}

static bool check_number(struct check *c)
{
	if (*c->p == '-')
		c->p++;
	if (c->p < c->end && *c->p == '0')
		c->p++;
	else if (!check_digits(c))
		return false;
	if (c->p < c->end && *c->p == '.') {
		c->p++;
		if (!check_digits(c))
			return false;
	}
	if (c->p < c->end && (*c->p | 0x20) == 'e') {
		c->p++;
		if (c->p < c->end && (*c->p == '+' || *c->p == '-'))
			c->p++;
		if (!check_digits(c))
			return false;
	}
	return true;
}

/* One character of two to four bytes (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF). */
static bool check_utf8(struct check *c)
{
	const uint8_t *p = c->p;
	uint8_t low = 0x80, high = 0xBF;
	ptrdiff_t more;
	if (p[0] >= 0xC2 && p[0] <= 0xDF)
		more = 1;
	else if (p[0] >= 0xE0 && p[0] <= 0xEF)
		more = 2;
	else if (p[0] >= 0xF0 && p[0] <= 0xF4)
		more = 3;
	else
		return complain(c, "not UTF-8");
	if (p[0] == 0xE0)
		low = 0xA0;
	else if (p[0] == 0xED)
		high = 0x9F;
	else if (p[0] == 0xF0)
		low = 0x90;
	else if (p[0] == 0xF4)
		high = 0x8F;
	if (c->end - p <= more)
		return complain(c, "not UTF-8");
	for (ptrdiff_t i = 1; i <= more; i++) {
		if (p[i] < low || p[i] > high)
			return complain(c, "not UTF-8");
		low = 0x80;
		high = 0xBF;
	}
	c->p += more + 1;
	return true;
}

static bool check_escape(struct check *c)
{
	uint8_t out[4];
	unsigned n;
	switch (json_take_escape(&c->p, c->end, out, &n)) {
	case JSON_ESCAPE_OK:
		return true;
	case JSON_ESCAPE_BAD:
		return complain(c, "unknown escape in a string");
	case JSON_ESCAPE_ZERO:
		return complain(c, "\\u0000 cannot be stored in text");
	case JSON_ESCAPE_SURROGATE:
		return complain(c, "half of a surrogate pair");
	}
	rt_bug(__FILE__, __LINE__, "unknown escape");
}

static bool check_string(struct check *c)
{
	if (c->p == c->end || *c->p != '"')
		return complain(c, "a string is expected");
	c->p++;
	while (c->p < c->end) {
		uint8_t b = *c->p;
		if (b == '"') {
			c->p++;
			return true;
		}
		if (b < 0x20)
			return complain(c, "a control character in a string");
		if (b == '\\') {
			if (!check_escape(c))
				return false;
		} else if (b < 0x80) {
			c->p++;
		} else if (!check_utf8(c)) {
			return false;
		}
	}
	return complain(c, "a string does not end");
}

static bool check_word(struct check *c, const char *word)
{
	size_t n = strlen(word);
	if ((size_t)(c->end - c->p) < n || memcmp(c->p, word, n) != 0)
		return complain(c, "a value is expected");
	c->p += n;
	return true;
}

static bool check_value(struct check *c);

static bool check_item(struct check *c, bool object)
{
	if (object) {
		if (!check_string(c))
			return false;
		check_space(c);
		if (c->p == c->end || *c->p != ':')
			return complain(c, "a colon is expected");
		c->p++;
		check_space(c);
	}
	return check_value(c);
}

static bool check_container(struct check *c)
{
	const bool object = *c->p == '{';
	const uint8_t close = object ? '}' : ']';
	if (++c->depth > JSON_DEPTH_MAX)
		return complain(c, "nested too deeply");
	c->p++;
	check_space(c);
	if (c->p < c->end && *c->p == close) {
		c->p++;
		c->depth--;
		return true;
	}
	for (;;) {
		if (!check_item(c, object))
			return false;
		check_space(c);
		if (c->p == c->end || (*c->p != ',' && *c->p != close))
			return complain(c, object ? "a comma or } is expected"
						  : "a comma or ] is expected");
		if (*c->p++ == close)
			break;
		check_space(c);
	}
	c->depth--;
	return true;
}

static bool check_value(struct check *c)
{
	if (c->p == c->end)
		return complain(c, "a value is expected");
	switch (json_kind_of(*c->p)) {
	case JSON_OBJECT:
	case JSON_ARRAY:
		return check_container(c);
	case JSON_STRING:
		return check_string(c);
	case JSON_NUMBER:
		return check_number(c);
	case JSON_BOOL:
		return check_word(c, *c->p == 't' ? "true" : "false");
	case JSON_NULL:
		return check_word(c, "null");
	case JSON_ABSENT:
		break;
	}
	return complain(c, "a value is expected");
}

int json_parse(struct slice text, struct json_value *ret, struct rt_err *err)
{
	struct check c = {.p = text.p, .end = text.p + text.len};
	check_space(&c);
	const uint8_t *start = c.p;
	if (check_value(&c)) {
		*ret = (struct json_value){json_kind_of(*start), {start, (size_t)(c.p - start)}};
		check_space(&c);
		if (c.p == c.end)
			return 0;
		complain(&c, "something follows the value");
	}
	return rt_fail(err, ERR_PERMANENT, "not JSON at byte %zu: %s", (size_t)(c.p - text.p),
		       c.what);
}
