/*
 * http: what comes over HTTP, and the file of tokens. The first byte chooses: a body, which is read the same from what
 * it became; pairs of a query, whose next page is the same query; a path; a file of tokens; an address.
 */
#include <jansson.h>

#include "apply/reports/http/address.h"
#include "apply/reports/http/body.h"
#include "apply/reports/http/query.h"
#include "apply/reports/http/route.h"
#include "apply/reports/http/token.h"
#include "tests/fuzz/fuzz.h"

/* The body in other words: keys in another order, reports turned round. */
static void write_body(const struct body *b, struct buf *out)
{
	json_t *o = json_object(), *reports = json_array();
	json_object_set_new(o, "accept_quarantine", json_boolean(b->accept_quarantine));
	json_object_set_new(o, "allow_stale", json_boolean(b->allow_stale));
	json_object_set_new(o, "as_of", b->as_of != NULL ? json_string(b->as_of) : json_null());
	for (size_t i = b->report_count; i-- > 0;)
		json_array_append_new(reports, json_string(b->report[i]));
	if (b->report_count > 0)
		json_object_set(o, "reports", reports);
	json_decref(reports);
	char *text = json_dumps(o, JSON_ENSURE_ASCII);
	RT_ASSERT(text != NULL);
	buf_str(out, text);
	free(text);
	json_decref(o);
}

static void fuzz_body(struct slice text, struct arena *a)
{
	struct body b, again;
	struct rt_err err;
	char first[SHA256_HEX], second[SHA256_HEX];
	struct buf words = BUF_INIT;
	if (body_parse(text, a, &b, &err) != 0) {
		RT_ASSERT(err.code == ERR_USAGE && strchr(err.msg, '\n') == NULL);
		return;
	}
	RT_ASSERT(b.report_count <= BODY_REPORTS_MAX);
	body_fingerprint(&b, first);
	write_body(&b, &words);
	if (words.len <= BODY_MAX) { /* escapes may make it longer */
		RT_ASSERT(body_parse(buf_slice(&words), a, &again, &err) == 0);
		RT_ASSERT(again.report_count == b.report_count);
		body_fingerprint(&again, second);
		RT_ASSERT(strcmp(first, second) == 0);
	}
	buf_release(&words);
}

/* key=value&… as query_next writes it: nothing in it is escaped. */
static void take_again(const char *text, struct runs_filter *f, struct arena *a)
{
	struct rt_err err;
	while (*text != '\0') {
		size_t key = strcspn(text, "="), value = strcspn(text + key, "&");
		RT_ASSERT(text[key] == '=');
		RT_ASSERT(query_take(f, a, slice_of(text, key), slice_of(text + key + 1, value - 1),
				     &err) == 0);
		text += key + value;
		text += *text == '&';
	}
}

static bool same(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static void fuzz_query(struct rd r, struct arena *a)
{
	struct runs_filter f = {0}, again = {0};
	struct rt_err err;
	while (r.left > 0) {
		struct slice key = fuzz_piece(&r), value = fuzz_piece(&r);
		int rc = query_take(&f, a, key, value, &err);
		RT_ASSERT(rc == 0 || (rc == ERR_USAGE && strchr(err.msg, '\n') == NULL));
		fuzz_free(key);
		fuzz_free(value);
	}
	RT_ASSERT(f.limit >= 0 && f.limit <= QUERY_LIMIT_MAX && f.before >= 0);
	f.limit = f.limit == 0 ? QUERY_LIMIT : f.limit;
	take_again(query_next(&f, 17, a), &again, a);
	RT_ASSERT(same(f.state, again.state) && same(f.client_state, again.client_state));
	RT_ASSERT(same(f.type, again.type) && same(f.report, again.report));
	RT_ASSERT(same(f.from, again.from) && same(f.to, again.to));
	RT_ASSERT(f.limit == again.limit && again.before == 17);
}

static void fuzz_path(const char *text)
{
	static const char *const methods[] = {"GET", "HEAD", "POST", "DELETE"};
	for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
		struct route_match m;
		route_find(methods[i], text, &m);
		RT_ASSERT(m.route == NULL || m.path_known);
		RT_ASSERT((m.allow[0] != '\0') == m.path_known);
		for (size_t k = 0; k < ROUTE_ARGS_MAX; k++)
			RT_ASSERT(strchr(m.arg[k], '/') == NULL);
	}
	(void)query_is_id(text);
	(void)body_is_key(text);
}

static void fuzz_tokens(struct slice text)
{
	struct token_set set;
	struct rt_err err;
	if (token_set_parse("tokens", text, &set, &err) != 0) {
		RT_ASSERT(err.code == ERR_PERMANENT && strncmp(err.msg, "tokens:", 7) == 0);
		return;
	}
	for (size_t i = 0; i < set.count; i++)
		RT_ASSERT(set.item[i].name[0] != '\0' && set.item[i].scopes != 0);
	(void)token_find(&set, text);
	token_set_release(&set);
}

static void fuzz_address(const char *text)
{
	struct http_address at;
	struct rt_err err;
	int rc = http_address_parse(text, &at, &err);
	RT_ASSERT(rc == 0 ? at.len > 0 : rc == ERR_PERMANENT);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct arena a;
	if (size == 0)
		return 0;
	const struct slice rest = slice_of(data + 1, size - 1);
	arena_init(&a, 16384);
	const char *text = arena_strndup(&a, (const char *)rest.p, rest.len);
	switch (data[0] % 5) {
	case 0:
		fuzz_body(rest, &a);
		break;
	case 1:
		fuzz_query(rd_of(rest), &a);
		break;
	case 2:
		fuzz_path(text);
		break;
	case 3:
		fuzz_tokens(rest);
		break;
	default:
		fuzz_address(text);
		break;
	}
	arena_release(&a);
	return 0;
}
