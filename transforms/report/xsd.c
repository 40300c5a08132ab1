/* xsd: the schema of a report's XML file, made of its definition. */
#include "proto/base/buf.h"
#include "transforms/report/definition.h"

static void add_escaped(struct buf *out, const char *text)
{
	for (const char *p = text; *p != '\0'; p++) {
		switch (*p) {
		case '&':
			buf_str(out, "&amp;");
			break;
		case '<':
			buf_str(out, "&lt;");
			break;
		case '"':
			buf_str(out, "&quot;");
			break;
		case '\t':
		case '\n':
		case '\r':
			buf_printf(out, "&#%d;", *p);
			break;
		default:
			buf_u8(out, (uint8_t)*p);
		}
	}
}

static void facet(struct buf *out, const char *name, const char *value)
{
	buf_printf(out, "              <xs:%s value=\"", name);
	add_escaped(out, value);
	buf_str(out, "\"/>\n");
}

static void facet_number(struct buf *out, const char *name, bool has, uint32_t value)
{
	char text[16];
	snprintf(text, sizeof(text), "%u", value);
	if (has)
		facet(out, name, text);
}

static const char *base_of(const struct report_column *c)
{
	switch (c->type) {
	case REPORT_DECIMAL:
		return "xs:decimal";
	case REPORT_INT:
		return "xs:int";
	case REPORT_SHORT:
		return "xs:short";
	case REPORT_DATE:
		return c->compact ? "xs:string" : "xs:date";
	case REPORT_TEXT:
	case REPORT_TIMESTAMP:
	case REPORT_BOOLEAN:
	case REPORT_JSON:
	case REPORT_TYPES:
		break;
	}
	return "xs:string";
}

static void column(struct buf *out, const struct report_column *c)
{
	buf_str(out, "          <xs:element name=\"");
	add_escaped(out, c->name);
	buf_printf(out, "\"%s>\n", c->nillable ? " nillable=\"true\"" : "");
	buf_printf(out, "            <xs:simpleType><xs:restriction base=\"%s\">\n", base_of(c));
	facet_number(out, "length", c->has_length, c->length);
	facet_number(out, "minLength", c->has_min_length, c->min_length);
	facet_number(out, "maxLength", c->has_max_length, c->max_length);
	if (c->pattern != NULL)
		facet(out, "pattern", c->pattern);
	for (size_t i = 0; i < c->enum_count; i++)
		facet(out, "enumeration", c->enums[i]);
	if (c->collapse)
		facet(out, "whiteSpace", "collapse");
	facet_number(out, "totalDigits", c->has_digits, c->digits);
	facet_number(out, "fractionDigits", c->has_fraction, c->fraction);
	if (c->min != NULL && !c->compact)
		facet(out, "minInclusive", c->min);
	if (c->max != NULL && !c->compact)
		facet(out, "maxInclusive", c->max);
	buf_str(out, "            </xs:restriction></xs:simpleType>\n          </xs:element>\n");
}

void report_xsd(const struct report *r, struct buf *out)
{
	buf_str(out, "<xs:schema xmlns:xs=\"http://www.w3.org/2001/XMLSchema\" "
		     "elementFormDefault=\"qualified\" targetNamespace=\"");
	add_escaped(out, r->xml.space);
	buf_str(out, "\">\n  <xs:element name=\"");
	add_escaped(out, r->xml.root);
	buf_str(out, "\">\n    <xs:complexType><xs:sequence>\n      <xs:element name=\"");
	add_escaped(out, r->xml.row);
	buf_printf(out,
		   "\" minOccurs=\"%u\" maxOccurs=\"unbounded\">\n"
		   "        <xs:complexType><xs:all>\n",
		   r->xml.min_rows);
	for (size_t i = 0; i < r->column_count; i++)
		column(out, &r->column[i]);
	buf_str(out, "        </xs:all></xs:complexType>\n      </xs:element>\n"
		     "    </xs:sequence></xs:complexType>\n  </xs:element>\n</xs:schema>\n");
}
