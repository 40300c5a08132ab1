/*
 * reports: a file of report definitions. What loads keeps names of files
 * harmless, is found by its ids, and makes a schema, the same again; what is
 * refused has its place.
 */
#include "proto/base/buf.h"
#include "tests/fuzz/fuzz.h"
#include "transforms/report/definition.h"
#include "transforms/report/value.h"

/* Whatever a value is, it has a form, and breaks a limit or does not: the same each time. */
static void try_values(const struct report *r, struct slice in)
{
	struct report_values v;
	struct slice text, again;
	report_values_init(&v, r);
	for (size_t i = 0; i < r->column_count; i++) {
		char *copy = rt_strndup((const char *)in.p, in.len);
		const char *why = report_value(&v, i, slice_str(copy), &text);
		size_t len = text.len;
		const char *twice = report_value(&v, i, slice_str(copy), &again);
		RT_ASSERT((why == NULL) == (twice == NULL) && again.len == len);
		free(copy);
	}
	report_values_release(&v);
}

static void look_at(const struct report_pack *p, const struct report *r, struct slice in)
{
	struct buf one = BUF_INIT, two = BUF_INIT;
	const char *names[] = {r->norm, r->name};
	RT_ASSERT(report_find(p, r->id) == r && r->column_count > 0);
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		RT_ASSERT(names[i][0] != '\0' &&
			  strspn(names[i], "abcdefghijklmnopqrstuvwxyz0123456789_") ==
				  strlen(names[i]));
	if (r->formats[REPORT_XML]) {
		report_xsd(r, &one);
		report_xsd(r, &two);
		RT_ASSERT(one.len > 0 && one.len == two.len && memcmp(one.p, two.p, one.len) == 0);
	}
	try_values(r, slice_of(in.p, RT_MIN(in.len, (size_t)40)));
	buf_release(&one);
	buf_release(&two);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct arena a;
	struct report_pack p;
	struct rt_err err;
	const char **ids, *as_of;
	size_t count;
	arena_init(&a, 16384);
	if (report_pack_parse(&a, "fuzz.yaml", slice_of(data, size), &p, &err) == 0) {
		for (size_t i = 0; i < p.count; i++)
			look_at(&p, &p.report[i], slice_of(data, size));
		RT_ASSERT(report_select(&p, &a, NULL, 0, NULL, "2026-01-31", &ids, &count, &as_of,
					&err) == 0 &&
			  count == p.count);
		for (size_t i = 1; i < count; i++)
			RT_ASSERT(strcmp(ids[i - 1], ids[i]) < 0);
	} else {
		RT_ASSERT(err.code == ERR_PERMANENT && strncmp(err.msg, "fuzz.yaml:", 10) == 0);
	}
	arena_release(&a);
	return 0;
}
