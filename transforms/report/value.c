/* value: forms and limits. Guarantees: a reason quotes nothing of the value. */
#include "transforms/report/value.h"

#include <libxml/xmlregexp.h>

void report_values_init(struct report_values *v, const struct report *r)
{
	*v = (struct report_values){.report = r, .text = BUF_INIT};
	v->pattern = rt_calloc(r->column_count, sizeof(*v->pattern));
	for (size_t i = 0; i < r->column_count; i++)
		if (r->column[i].pattern != NULL) /* it compiled when it was read */
			v->pattern[i] = xmlRegexpCompile((const xmlChar *)r->column[i].pattern);
}

void report_values_release(struct report_values *v)
{
	for (size_t i = 0; v->pattern != NULL && i < v->report->column_count; i++)
		if (v->pattern[i] != NULL)
			xmlRegFreeRegexp(v->pattern[i]);
	free(v->pattern);
	buf_release(&v->text);
	*v = (struct report_values){.text = BUF_INIT};
}

size_t report_characters(struct slice s)
{
	size_t n = 0;
	for (size_t i = 0; i < s.len; i++)
		n += (s.p[i] & 0xC0) != 0x80;
	return n;
}

static const char *because(struct report_values *v, const char *fmt, ...) RT_PRINTF(2, 3);
static const char *because(struct report_values *v, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(v->reason, sizeof(v->reason), fmt, ap);
	va_end(ap);
	return v->reason;
}

/* ---- text ---- */

static bool is_blank(uint8_t c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Runs of blanks become one, none at the ends. */
static struct slice collapsed(struct report_values *v, struct slice in)
{
	buf_clear(&v->text);
	for (size_t i = 0; i < in.len; i++) {
		if (!is_blank(in.p[i])) {
			buf_u8(&v->text, in.p[i]);
			continue;
		}
		while (i + 1 < in.len && is_blank(in.p[i + 1]))
			i++;
		if (v->text.len > 0 && i + 1 < in.len)
			buf_u8(&v->text, ' ');
	}
	return buf_slice(&v->text);
}

/* The first (or last) characters of s, which has more. */
static struct slice cut(struct slice s, size_t characters, size_t keep, bool left)
{
	size_t skip = left ? characters - keep : 0, from = 0, n = 0;
	while (from < s.len && skip > 0)
		for (skip--, from++; from < s.len && (s.p[from] & 0xC0) == 0x80;)
			from++;
	while (from + n < s.len && keep > 0)
		for (keep--, n++; from + n < s.len && (s.p[from + n] & 0xC0) == 0x80;)
			n++;
	return slice_of(s.p + from, n);
}

static bool is_listed(const struct report_column *c, struct slice s)
{
	for (size_t i = 0; i < c->enum_count; i++)
		if (slice_is(s, c->enums[i]))
			return true;
	return c->enum_count == 0;
}

static bool matches(void *pattern, struct slice s)
{
	char *text = rt_strndup((const char *)s.p, s.len);
	bool is = xmlRegexpExec(pattern, (const xmlChar *)text) == 1;
	free(text);
	return is;
}

static const char *check_text(struct report_values *v, size_t column, struct slice s)
{
	const struct report_column *c = &v->report->column[column];
	size_t n = report_characters(s);
	if (c->has_length && n != c->length)
		return because(v, "has not exactly %u characters", c->length);
	if (c->has_max_length && n > c->max_length)
		return because(v, "has more than %u characters", c->max_length);
	if (c->has_min_length && n < c->min_length)
		return because(v, "has fewer than %u characters", c->min_length);
	if (!is_listed(c, s))
		return "is none of the values that its column lists";
	if (v->pattern[column] != NULL && !matches(v->pattern[column], s))
		return "does not match its column's pattern";
	return NULL;
}

static const char *make_text(struct report_values *v, size_t column, struct slice in,
			     struct slice *ret)
{
	const struct report_column *c = &v->report->column[column];
	struct slice s = c->collapse ? collapsed(v, in) : in;
	size_t most = c->has_length ? c->length : c->max_length, n;
	if (c->overflow != REPORT_FAIL && (n = report_characters(s)) > most) {
		s = cut(s, n, most, c->overflow == REPORT_CUT_LEFT);
		for (; c->collapse && s.len > 0 && is_blank(s.p[s.len - 1]); s.len--)
			;
		for (; c->collapse && s.len > 0 && is_blank(s.p[0]); s.len--)
			s.p++;
	}
	*ret = s;
	return check_text(v, column, s);
}

/* ---- numbers ---- */

static const char *check_bounds(struct report_values *v, const struct report_column *c,
				const char *text)
{
	if (c->min != NULL && report_decimal_cmp(text, c->min) < 0)
		return because(v, "is less than %.40s", c->min);
	if (c->max != NULL && report_decimal_cmp(text, c->max) > 0)
		return because(v, "is greater than %.40s", c->max);
	return NULL;
}

/* Digits as XML Schema's totalDigits counts them: no zeros at the ends. */
static size_t count_digits(const char *text)
{
	const char *p = text + (text[0] == '-');
	p += strspn(p, "0");
	size_t n = strspn(p, "0123456789");
	const char *point = p[n] == '.' ? p + n + 1 : NULL;
	size_t fraction = point != NULL ? strlen(point) : 0;
	while (fraction > 0 && point[fraction - 1] == '0')
		fraction--;
	return n + fraction;
}

static const char *make_decimal(struct report_values *v, const struct report_column *c,
				struct slice in, struct slice *ret)
{
	buf_clear(&v->text);
	buf_add_slice(&v->text, in);
	const char *text = buf_cstr(&v->text);
	*ret = buf_slice(&v->text);
	if (!report_is_decimal(text))
		return "is not a number that digits can show";
	if (c->trim_zeros && strchr(text, '.') != NULL) {
		while (v->text.p[v->text.len - 1] == '0')
			v->text.len--;
		v->text.len -= v->text.p[v->text.len - 1] == '.';
		text = buf_cstr(&v->text);
	}
	if (strcmp(text, "-0") == 0) { /* the database has none, but what is trimmed may */
		memmove(v->text.p, v->text.p + 1, 1);
		v->text.len = 1;
		text = buf_cstr(&v->text);
	}
	*ret = buf_slice(&v->text);
	if (c->has_digits && count_digits(text) > c->digits)
		return because(v, "has more than %u digits", c->digits);
	return check_bounds(v, c, text);
}

static const char *make_int(struct report_values *v, const struct report_column *c, struct slice in,
			    struct slice *ret)
{
	buf_clear(&v->text);
	buf_add_slice(&v->text, in);
	const char *text = buf_cstr(&v->text);
	*ret = buf_slice(&v->text);
	const bool is_short = c->type == REPORT_SHORT;
	if (!report_is_decimal(text) || strchr(text, '.') != NULL)
		return "is not a whole number";
	if (report_decimal_cmp(text, is_short ? "-32768" : "-2147483648") < 0 ||
	    report_decimal_cmp(text, is_short ? "32767" : "2147483647") > 0)
		return because(v, "is beyond the range of %s", is_short ? "short" : "int");
	return check_bounds(v, c, text);
}

/* ---- times ---- */

static const char *make_date(struct report_values *v, const struct report_column *c,
			     struct slice in, struct slice *ret)
{
	buf_clear(&v->text);
	buf_add_slice(&v->text, in);
	const char *text = buf_cstr(&v->text);
	*ret = buf_slice(&v->text);
	if (!report_is_day(text))
		return "is not a day of the years 1 to 9999";
	if (c->min != NULL && strcmp(text, c->min) < 0)
		return because(v, "is before %.10s", c->min);
	if (c->max != NULL && strcmp(text, c->max) > 0)
		return because(v, "is after %.10s", c->max);
	if (c->compact) {
		memmove(v->text.p + 4, v->text.p + 5, 2);
		memmove(v->text.p + 6, v->text.p + 8, 2);
		v->text.len = 8;
		*ret = buf_slice(&v->text);
	}
	return NULL;
}

/* "2026-01-31 23:59:59.12+00" as six digits of a second and a whole offset. */
static const char *make_timestamp(struct report_values *v, struct slice in, struct slice *ret)
{
	enum { SECONDS = 19 };
	buf_clear(&v->text);
	buf_add_slice(&v->text, in);
	*ret = buf_slice(&v->text);
	if (in.len < SECONDS + 3 || in.p[4] != '-' || memcmp(in.p + in.len - 3, "+00", 3) != 0)
		return "is not a time of the years 1 to 9999 in UTC";
	size_t fraction = in.len - SECONDS - 3; /* with its point */
	v->text.len = SECONDS + fraction;
	for (; fraction > 0 && fraction < 7; fraction++)
		buf_u8(&v->text, '0');
	buf_str(&v->text, "+00:00");
	*ret = buf_slice(&v->text);
	return NULL;
}

const char *report_value(struct report_values *v, size_t column, struct slice in, struct slice *ret)
{
	const struct report_column *c = &v->report->column[column];
	switch (c->type) {
	case REPORT_TEXT:
		return make_text(v, column, in, ret);
	case REPORT_DECIMAL:
		return make_decimal(v, c, in, ret);
	case REPORT_INT:
	case REPORT_SHORT:
		return make_int(v, c, in, ret);
	case REPORT_DATE:
		return make_date(v, c, in, ret);
	case REPORT_TIMESTAMP:
		return make_timestamp(v, in, ret);
	case REPORT_BOOLEAN:
		*ret = slice_is(in, "t") ? slice_str("True") : slice_str("False");
		return slice_is(in, "t") || slice_is(in, "f") ? NULL : "is not true or false";
	case REPORT_JSON:
	case REPORT_TYPES:
		break;
	}
	*ret = in;
	return NULL;
}
