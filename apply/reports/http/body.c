/* body: JSON by jansson, strictly. Guarantees: what is not understood is refused, never left aside. */
#include "apply/reports/http/body.h"

#include <jansson.h>

#include "proto/base/buf.h"

static int take_reports(const json_t *v, struct arena *a, struct body *b, struct rt_err *err)
{
	size_t i;
	const json_t *one;
	if (!json_is_array(v) || json_array_size(v) == 0 || json_array_size(v) > BODY_REPORTS_MAX)
		return rt_fail(err, ERR_USAGE,
			       "reports must be a list of 1 to %d ids (norm/id); leave it out for "
			       "all reports",
			       BODY_REPORTS_MAX);
	b->report = arena_alloc(a, json_array_size(v) * sizeof(*b->report));
	json_array_foreach(v, i, one)
	{
		if (!json_is_string(one) || json_string_length(one) == 0)
			return rt_fail(err, ERR_USAGE, "reports must be a list of ids (norm/id)");
		b->report[i] = arena_strdup(a, json_string_value(one));
	}
	b->report_count = json_array_size(v);
	return 0;
}

static int take_flag(const char *key, const json_t *v, bool *ret, struct rt_err *err)
{
	if (!json_is_boolean(v))
		return rt_fail(err, ERR_USAGE, "%s must be true or false", key);
	*ret = json_is_true(v);
	return 0;
}

static int take(const char *key, const json_t *v, struct arena *a, struct body *b,
		struct rt_err *err)
{
	if (strcmp(key, "allow_stale") == 0 || strcmp(key, "accept_quarantine") == 0) {
		bool *flag = key[1] == 'l' ? &b->allow_stale : &b->accept_quarantine;
		return json_is_null(v) ? 0 : take_flag(key, v, flag, err);
	}
	if (strcmp(key, "reports") != 0 && strcmp(key, "as_of") != 0)
		return rt_fail(err, ERR_USAGE,
			       "unknown key %.60s; known are reports, as_of, allow_stale, "
			       "accept_quarantine",
			       key);
	if (json_is_null(v))
		return 0;
	if (key[0] == 'r')
		return take_reports(v, a, b, err);
	if (!json_is_string(v))
		return rt_fail(err, ERR_USAGE, "as_of must be a day as text, \"YYYY-MM-DD\"");
	b->as_of = arena_strdup(a, json_string_value(v));
	return 0;
}

int body_parse(struct slice text, struct arena *a, struct body *ret, struct rt_err *err)
{
	json_error_t where;
	struct body b = {0};
	const char *key;
	json_t *v;
	if (text.len > BODY_MAX)
		return rt_fail(err, ERR_USAGE, "the body is larger than %u bytes", BODY_MAX);
	json_t *o = json_loadb((const char *)text.p, text.len, JSON_REJECT_DUPLICATES, &where);
	/* jansson's text quotes what stands there: the place is enough. */
	if (o == NULL)
		return rt_fail(err, ERR_USAGE, "the body is no JSON (line %d, column %d)",
			       where.line, where.column);
	int rc = json_is_object(o) ? 0 : rt_fail(err, ERR_USAGE, "the body must be a JSON object");
	json_object_foreach(o, key, v)
	{
		if (rc == 0)
			rc = take(key, v, a, &b, err);
	}
	json_decref(o);
	if (rc == 0)
		*ret = b;
	return rc;
}

static int by_bytes(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void body_fingerprint(const struct body *b, char ret[SHA256_HEX])
{
	struct buf text = BUF_INIT;
	const char **sorted = rt_calloc(b->report_count + 1, sizeof(*sorted));
	for (size_t i = 0; i < b->report_count; i++)
		sorted[i] = b->report[i];
	qsort(sorted, b->report_count, sizeof(*sorted), by_bytes);
	buf_printf(&text, "%d %d %s\n", b->allow_stale, b->accept_quarantine,
		   b->as_of != NULL ? b->as_of : "-");
	for (size_t i = 0; i < b->report_count; i++)
		if (i == 0 || strcmp(sorted[i - 1], sorted[i]) != 0)
			buf_printf(&text, "%zu %s\n", strlen(sorted[i]), sorted[i]);
	sha256_hex(buf_slice(&text), ret);
	free(sorted);
	buf_release(&text);
}

bool body_is_key(const char *key)
{
	size_t n = 0;
	while (key[n] > ' ' && key[n] < 127 && n <= BODY_KEY_MAX)
		n++;
	return n > 0 && n <= BODY_KEY_MAX && key[n] == '\0';
}
