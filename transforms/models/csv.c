/* csv: records of RFC 4180. Guarantees: each byte is within a field, a quote, a comma or an end of line, or it is an error. */
#include "transforms/models/csv.h"

static int fail_at(const struct csv *c, size_t at, struct rt_err *err, const char *what)
{
	int line = c->line, column = 1;
	/* The record may have begun lines ago. */
	for (size_t i = c->at; i < at && i < c->text.len; i++) {
		if (c->text.p[i] == '\n') {
			line++;
			column = 1;
		} else if ((c->text.p[i] & 0xC0) != 0x80) {
			column++;
		}
	}
	return rt_fail(err, ERR_PERMANENT, "%s:%d:%d: %s", c->file, line, column, what);
}

void csv_init(struct csv *c, const char *file, struct slice text)
{
	*c = (struct csv){.file = file, .text = text, .line = 1};
	if (text.len >= 3 && memcmp(text.p, "\xEF\xBB\xBF", 3) == 0)
		c->at = 3;
}

void csv_release(struct csv *c)
{
	free(c->field);
	buf_release(&c->unquoted);
	*c = (struct csv){0};
}

/* Bytes of the UTF-8 character at p, 0 where it is none. */
static size_t utf8_length(const uint8_t *p, size_t left)
{
	size_t n = p[0] < 0x80			 ? 1
		   : p[0] >= 0xC2 && p[0] < 0xE0 ? 2
		   : (p[0] & 0xF0) == 0xE0	 ? 3
		   : p[0] >= 0xF0 && p[0] < 0xF5 ? 4
						 : 0;
	if (n == 0 || n > left || p[0] == '\0')
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((p[i] & 0xC0) != 0x80)
			return 0;
	if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F) ||
	    (p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F))
		return 0;
	return n;
}

/* Is the end of a line at p, or of the text? Its length in *ret. */
static bool at_end(const struct csv *c, size_t p, size_t *ret)
{
	*ret = 0;
	if (p == c->text.len)
		return true;
	if (c->text.p[p] == '\n')
		*ret = 1;
	else if (c->text.p[p] == '\r' && p + 1 < c->text.len && c->text.p[p + 1] == '\n')
		*ret = 2;
	return *ret > 0;
}

static int take_char(struct csv *c, size_t *p, struct rt_err *err)
{
	size_t n = utf8_length(c->text.p + *p, c->text.len - *p);
	if (n == 0)
		return fail_at(c, *p, err, "this is not UTF-8, or NUL");
	buf_add(&c->unquoted, c->text.p + *p, n);
	*p += n;
	return 0;
}

static int take_quoted(struct csv *c, size_t *p, struct rt_err *err)
{
	size_t open = (*p)++, end;
	for (;;) {
		if (*p == c->text.len)
			return fail_at(c, open, err, "the quote is not closed");
		if (c->text.p[*p] == '"') {
			if (*p + 1 == c->text.len || c->text.p[*p + 1] != '"')
				break;
			(*p)++;
		}
		int rc = take_char(c, p, err);
		if (rc != 0)
			return rc;
	}
	(*p)++;
	if (!at_end(c, *p, &end) && c->text.p[*p] != ',')
		return fail_at(c, *p, err,
			       "a comma or the end of the line is expected behind a quote");
	return 0;
}

static int take_plain(struct csv *c, size_t *p, struct rt_err *err)
{
	size_t end;
	while (!at_end(c, *p, &end) && c->text.p[*p] != ',') {
		if (c->text.p[*p] == '"')
			return fail_at(
				c, *p, err,
				"a quote within a field: quote the whole field, and double it");
		if (c->text.p[*p] == '\r')
			return fail_at(c, *p, err, "a carriage return that ends no line");
		int rc = take_char(c, p, err);
		if (rc != 0)
			return rc;
	}
	return 0;
}

static int take_field(struct csv *c, size_t *p, struct rt_err *err)
{
	if (c->count == CSV_FIELDS_MAX)
		return fail_at(c, *p, err, "too many fields");
	if (c->count == c->cap) {
		c->cap = c->cap == 0 ? 16 : c->cap * 2;
		c->field = rt_realloc(c->field, c->cap * sizeof(*c->field));
	}
	size_t from = c->unquoted.len, at = *p;
	bool quoted = *p < c->text.len && c->text.p[*p] == '"';
	int rc = quoted ? take_quoted(c, p, err) : take_plain(c, p, err);
	if (rc != 0)
		return rc;
	size_t len = c->unquoted.len - from;
	if (len > CSV_FIELD_MAX_BYTES)
		return fail_at(c, at, err, "the field is too long");
	/* The buffer may move until the record is whole: only lengths are known yet. */
	c->field[c->count++] = (struct csv_field){{NULL, len}, !quoted && len == 0};
	return 0;
}

static void point_fields(struct csv *c)
{
	size_t at = 0;
	for (size_t i = 0; i < c->count; i++) {
		c->field[i].text.p = c->unquoted.p + at;
		at += c->field[i].text.len;
	}
}

int csv_next(struct csv *c, struct rt_err *err)
{
	size_t p = c->at, end;
	if (p == c->text.len)
		return 0;
	c->count = 0;
	buf_clear(&c->unquoted);
	(void)buf_reserve(&c->unquoted, 1);
	for (;; p++) {
		int rc = take_field(c, &p, err);
		if (rc != 0)
			return rc;
		if (at_end(c, p, &end))
			break;
	}
	if (c->width != 0 && c->count != c->width)
		return fail_at(c, c->at, err,
			       "this record has more or fewer fields than the first");
	c->width = c->count;
	point_fields(c);
	c->record_line = c->line;
	for (size_t i = c->at; i < p + end; i++)
		c->line += c->text.p[i] == '\n';
	c->at = p + end;
	return 1;
}
