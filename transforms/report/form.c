/* form: writers of rows. Guarantees: what a value holds never ends its field, line or element. */
#include "transforms/report/form.h"

/* ---- csv and txt ---- */

static bool needs_quotes(struct slice s, char delimiter)
{
	for (size_t i = 0; i < s.len; i++)
		if (s.p[i] == (uint8_t)delimiter || s.p[i] == '"' || s.p[i] == '\r' ||
		    s.p[i] == '\n')
			return true;
	return false;
}

static bool is_formula(struct slice s)
{
	return s.len > 0 && s.p[0] != '\0' && strchr("=+-@\t\r\n", s.p[0]) != NULL;
}

void form_csv_field(struct buf *out, struct slice s, bool first, char delimiter, bool guard)
{
	if (!first)
		buf_u8(out, (uint8_t)delimiter);
	const bool quotes = needs_quotes(s, delimiter);
	if (quotes)
		buf_u8(out, '"');
	if (guard && is_formula(s))
		buf_u8(out, '\'');
	if (!quotes) {
		buf_add_slice(out, s);
		return;
	}
	for (size_t i = 0; i < s.len; i++) {
		if (s.p[i] == '"')
			buf_u8(out, '"');
		buf_u8(out, s.p[i]);
	}
	buf_u8(out, '"');
}

void form_csv_end_row(struct buf *out)
{
	buf_u8(out, '\n');
}

void form_csv_header(struct buf *out, const struct report *r, char delimiter)
{
	for (size_t i = 0; i < r->column_count; i++)
		form_csv_field(out, slice_str(r->column[i].name), i == 0, delimiter, false);
	form_csv_end_row(out);
}

/* ---- xml ---- */

/* U+FFFE and U+FFFF, the only ones above the controls that UTF-8 can hold and XML cannot. */
static bool is_noncharacter(struct slice s, size_t i)
{
	return s.p[i] == 0xEF && s.len - i > 2 && s.p[i + 1] == 0xBF && s.p[i + 2] >= 0xBE;
}

static bool add_text(struct buf *out, struct slice s)
{
	for (size_t i = 0; i < s.len; i++) {
		switch (s.p[i]) {
		case '&':
			buf_str(out, "&amp;");
			break;
		case '<':
			buf_str(out, "&lt;");
			break;
		case '>':
			buf_str(out, "&gt;");
			break;
		case '"':
			buf_str(out, "&quot;");
			break;
		case '\t': /* so that no reader takes them for layout, */
		case '\n': /* and a row stays a line */
		case '\r':
			buf_printf(out, "&#%d;", s.p[i]);
			break;
		default:
			if (s.p[i] < 0x20 || is_noncharacter(s, i))
				return false;
			buf_u8(out, s.p[i]);
		}
	}
	return true;
}

static void add_tag(struct buf *out, const char *before, const char *name, const char *after)
{
	buf_str(out, before);
	buf_str(out, name);
	buf_str(out, after);
}

void form_xml_begin(struct buf *out, const struct report *r)
{
	add_tag(out, "<", r->xml.root, " xmlns=\"");
	(void)add_text(out, slice_str(r->xml.space)); /* YAML's reader refuses controls */
	buf_str(out, "\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\n");
}

void form_xml_begin_row(struct buf *out, const struct report *r)
{
	add_tag(out, "<", r->xml.row, ">");
}

bool form_xml_field(struct buf *out, const char *name, struct slice text)
{
	add_tag(out, "<", name, ">");
	if (!add_text(out, text))
		return false;
	add_tag(out, "</", name, ">");
	return true;
}

void form_xml_nil(struct buf *out, const char *name)
{
	add_tag(out, "<", name, " xsi:nil=\"true\"/>");
}

void form_xml_end_row(struct buf *out, const struct report *r)
{
	add_tag(out, "</", r->xml.row, ">\n");
}

void form_xml_end(struct buf *out, const struct report *r)
{
	add_tag(out, "</", r->xml.root, ">\n");
}
