/* validate: libxml2's messages cut down to what may be told. Guarantees: no network, no external entity. */
#include "apply/reports/validate.h"

#include <libxml/xmlreader.h>
#include <libxml/xmlschemas.h>

#include "proto/base/failpoint.h"

struct first {
	bool is;
	int line;
	char element[100], rule[100];
};

/* What stands between two texts in a message; "" where it does not. */
static void between(const char *message, const char *before, const char *after, char *out,
		    size_t size)
{
	const char *p = strstr(message, before), *end;
	out[0] = '\0';
	if (p == NULL || (end = strstr(p + strlen(before), after)) == NULL)
		return;
	p += strlen(before);
	snprintf(out, size, "%.*s", (int)RT_MIN((size_t)(end - p), size - 1), p);
}

/* "Element '{ns}name': [facet 'maxLength'] The value '…' …": the value is not for us. */
static void take_error(void *ctx, xmlErrorPtr e)
{
	struct first *f = ctx;
	const char *message = e->message != NULL ? e->message : "";
	char name[200];
	if (f->is)
		return;
	f->is = true;
	f->line = e->line;
	between(message, "Element '", "'", name, sizeof(name));
	const char *local = strrchr(name, '}');
	snprintf(f->element, sizeof(f->element), "%s", local != NULL ? local + 1 : name);
	between(message, "[facet '", "'", f->rule, sizeof(f->rule));
	if (f->rule[0] != '\0')
		return;
	if (strstr(message, "not a valid value of the") != NULL)
		snprintf(f->rule, sizeof(f->rule), "its type");
	else if (strstr(message, "Missing child") != NULL)
		snprintf(f->rule, sizeof(f->rule), "a missing element");
	else if (strstr(message, "not expected") != NULL)
		snprintf(f->rule, sizeof(f->rule), "an element that is not expected here");
	else if (strstr(message, "not nillable") != NULL || strstr(message, "nil") != NULL)
		snprintf(f->rule, sizeof(f->rule), "xsi:nil");
	else
		snprintf(f->rule, sizeof(f->rule), "libxml2's rule %d", e->code);
}

static xmlSchemaPtr load(struct slice xsd, const char *name, struct rt_err *err)
{
	struct first f = {0};
	xmlSchemaPtr schema = NULL;
	xmlSchemaParserCtxtPtr p = xmlSchemaNewMemParserCtxt((const char *)xsd.p, (int)xsd.len);
	if (p != NULL) {
		xmlSchemaSetParserStructuredErrors(p, take_error, &f);
		schema = xmlSchemaParse(p);
		xmlSchemaFreeParserCtxt(p);
	}
	if (schema == NULL)
		rt_fail(err, ERR_PERMANENT, "%s:%d: not a schema of XML Schema that libxml2 reads",
			name, f.line);
	return schema;
}

static int read_all(xmlTextReaderPtr r, xmlSchemaPtr schema, struct first *f, bool *ret_valid)
{
	int more;
	xmlTextReaderSetStructuredErrorHandler(r, take_error, f);
	if (xmlTextReaderSetSchema(r, schema) != 0)
		return -1;
	do
		more = xmlTextReaderRead(r);
	while (more == 1 && !f->is);
	*ret_valid = more == 0 && !f->is && xmlTextReaderIsValid(r) == 1;
	return 0;
}

/* Nothing outside of the file is ever fetched for it. */
static xmlParserInputPtr no_entity(const char *url, const char *id, xmlParserCtxtPtr ctx)
{
	return NULL;
}

int validate_xml(const char *path, struct slice xsd, const char *xsd_name, bool *ret_valid,
		 char reason[VALIDATE_REASON_MAX], struct rt_err *err)
{
	struct first f = {0};
	int rc = FP_ERROR(REPORTS_VALIDATE, err);
	xmlExternalEntityLoader before = xmlGetExternalEntityLoader();
	if (rc != 0)
		return rc;
	xmlSchemaPtr schema = load(xsd, xsd_name, err);
	if (schema == NULL)
		return err->code;
	xmlTextReaderPtr r = xmlReaderForFile(path, NULL, XML_PARSE_NONET | XML_PARSE_HUGE);
	if (r == NULL) {
		xmlSchemaFree(schema);
		return rt_fail(err, ERR_SYSTEM, "cannot read %s again", path);
	}
	xmlSetExternalEntityLoader(no_entity);
	*ret_valid = false;
	rc = read_all(r, schema, &f, ret_valid);
	xmlSetExternalEntityLoader(before);
	if (rc != 0)
		rc = rt_fail(err, ERR_SYSTEM, "cannot validate %s", path);
	else if (!*ret_valid)
		snprintf(reason, VALIDATE_REASON_MAX, "line %d%s%s: breaks %s of %s",
			 f.is ? f.line : xmlTextReaderGetParserLineNumber(r),
			 f.element[0] != '\0' ? ", element " : "", f.element,
			 f.rule[0] != '\0' ? f.rule : "a rule", xsd_name);
	xmlFreeTextReader(r);
	xmlSchemaFree(schema);
	return rc;
}
