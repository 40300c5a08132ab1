/* apply/reports/http where it is pure: addresses, tokens, how often they may be wrong, routes, bodies, queries; and that the document has every route. */
#include "tests/unit/unit.h"

#include <arpa/inet.h>
#include <jansson.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <unistd.h>

#include "apply/reports/http/address.h"
#include "apply/reports/http/assets.h"
#include "apply/reports/http/body.h"
#include "apply/reports/http/limit.h"
#include "apply/reports/http/query.h"
#include "apply/reports/http/route.h"
#include "apply/reports/http/token.h"
#include "proto/base/buf.h"

#define HASH_A "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define HASH_B "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" /* of abc */

/* ---- addresses ---- */

static void test_addresses_are_numbers_and_know_whether_others_reach_them(void **state)
{
	static const struct {
		const char *text, *address;
		int port;
		bool loopback;
	} good[] = {
		{"8321", "127.0.0.1", 8321, true},
		{"127.0.0.1:1", "127.0.0.1", 1, true},
		{"127.9.8.7:65535", "127.9.8.7", 65535, true},
		{"0.0.0.0:80", "0.0.0.0", 80, false},
		{"10.0.0.7:8080", "10.0.0.7", 8080, false},
		{"[::1]:9", "::1", 9, true},
		{"[::]:9", "::", 9, false},
		{"[fe80::1]:9", "fe80::1", 9, false},
		{"[::ffff:127.0.0.1]:9", "::ffff:127.0.0.1", 9, false},
	};
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		struct http_address a;
		struct rt_err err;
		char text[INET6_ADDRSTRLEN];
		assert_rc(http_address_parse(good[i].text, &a, &err), err);
		const bool six = a.at.ss_family == AF_INET6;
		const struct sockaddr_in *v4 = (const struct sockaddr_in *)&a.at;
		const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&a.at;
		const void *bits = six ? (const void *)&v6->sin6_addr : (const void *)&v4->sin_addr;
		inet_ntop(a.at.ss_family, bits, text, sizeof(text));
		assert_string_equal(text, good[i].address);
		assert_int_equal(ntohs(six ? v6->sin6_port : v4->sin_port), good[i].port);
		assert_int_equal(a.loopback, good[i].loopback);
	}
}

static void test_addresses_that_are_none_are_refused(void **state)
{
	static const char *const bad[] = {"",
					  ":",
					  ":80",
					  "0",
					  "65536",
					  "127.0.0.1",
					  "localhost:80",
					  "127.0.0.1:",
					  "127.0.0.1:0",
					  "::1:80",
					  "[::1]",
					  "[::1:80",
					  "[]:80",
					  "[127.0.0.1]:80",
					  "8080x",
					  "+80",
					  "1.2.3:80",
					  "999999",
					  "[::1]:80 "};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct http_address a;
		struct rt_err err;
		assert_int_equal(http_address_parse(bad[i], &a, &err), ERR_PERMANENT);
		assert_says(err, "http.listen must be");
	}
}

/* ---- tokens ---- */

static int tokens_from(const char *text, struct token_set *set, struct rt_err *err)
{
	return token_set_parse("tokens", slice_str(text), set, err);
}

static void test_tokens_are_found_by_their_hash_alone(void **state)
{
	struct token_set set;
	struct rt_err err;
	assert_rc(tokens_from("# who\n\n ops reports:read " HASH_A
			      "\nci\treports:run,reports:read\t" HASH_B "\r\n  # end",
			      &set, &err),
		  err);
	assert_int_equal(set.count, 2);
	const struct token *t = token_find(&set, slice_str("abc"));
	assert_non_null(t);
	assert_string_equal(t->name, "ci");
	assert_int_equal(t->scopes, TOKEN_READ | TOKEN_RUN);
	t = token_find(&set, slice_str(""));
	assert_string_equal(t->name, "ops");
	assert_int_equal(t->scopes, TOKEN_READ);
	assert_null(token_find(&set, slice_str("abd")));
	assert_null(token_find(&set, slice_str(HASH_B)));
	token_set_release(&set);
	assert_null(token_find(&set, slice_str("abc")));
}

static void test_a_bad_line_of_tokens_refuses_the_file_and_shows_no_hash(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{"ops\n", "tokens:1: the scopes of ops"},
		{"ops reports:read\n", "tokens:1: behind the scopes of ops"},
		{"\nops reports:write " HASH_A "\n", "tokens:2: the scopes of ops"},
		{"ops reports:read, " HASH_A "\n", "tokens:1: the scopes of ops"},
		{"ops ,reports:read " HASH_A "\n", "tokens:1: the scopes of ops"},
		{"Ops reports:read " HASH_A "\n", "tokens:1: a token's name"},
		{"a/b reports:read " HASH_A "\n", "tokens:1: a token's name"},
		{"ops reports:read " HASH_A "0\n", "tokens:1: behind the scopes"},
		{"ops reports:read "
		 "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
		 "tokens:1: behind the scopes"},
		{"ops reports:read " HASH_A " more\n", "tokens:1: behind the scopes"},
		{"ops reports:read " HASH_A "\nops reports:run " HASH_B "\n",
		 "tokens:2: there is a token ops already"},
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct token_set set;
		struct rt_err err;
		assert_int_equal(tokens_from(bad[i].text, &set, &err), ERR_PERMANENT);
		assert_says(err, bad[i].says);
		assert_null(strstr(err.msg, HASH_A + 1));
		assert_null(strstr(err.msg, HASH_B + 1));
	}
}

static void test_a_token_that_is_made_lets_its_owner_in(void **state)
{
	struct token_set set;
	struct rt_err err;
	char one[TOKEN_SIZE], two[TOKEN_SIZE];
	struct buf line = BUF_INIT;
	assert_rc(token_make("ops.2-b_c", TOKEN_READ | TOKEN_RUN, one, &line, &err), err);
	assert_null(strstr(buf_cstr(&line), one + strlen(TOKEN_SCHEME)));
	assert_rc(tokens_from(buf_cstr(&line), &set, &err), err);
	const struct token *t = token_find(&set, slice_str(one));
	assert_non_null(t);
	assert_string_equal(t->name, "ops.2-b_c");
	assert_int_equal(t->scopes, TOKEN_READ | TOKEN_RUN);
	assert_rc(token_make("ops", TOKEN_READ, two, &line, &err), err);
	assert_string_not_equal(one, two);
	assert_int_equal(strncmp(one, TOKEN_SCHEME, strlen(TOKEN_SCHEME)), 0);
	assert_int_equal(strlen(one), TOKEN_SIZE - 1);
	static const char *const bad[] = {"", "a b", "Ä", "a\nb",
					  "12345678901234567890123456789012345678901"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(token_make(bad[i], TOKEN_READ, one, &line, &err), ERR_USAGE);
	token_set_release(&set);
	buf_release(&line);
}

static void test_a_file_of_tokens_that_others_may_write_is_refused(void **state)
{
	struct token_set set;
	struct rt_err err;
	char path[] = "/tmp/rolag-unit-XXXXXX";
	const char text[] = "ops reports:read " HASH_A "\n";
	int fd = mkstemp(path);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
	assert_int_equal(chmod(path, 0644), 0);
	assert_rc(token_file_read(path, &set, &err), err);
	assert_int_equal(set.count, 1);
	token_set_release(&set);
	for (mode_t m = S_IWOTH; m <= S_IWGRP; m = m == S_IWOTH ? S_IWGRP : S_IRWXU) {
		assert_int_equal(chmod(path, 0600 | m), 0);
		assert_int_equal(token_file_read(path, &set, &err), ERR_PERMANENT);
		assert_says(err, "others may write it");
	}
	unlink(path);
	assert_int_equal(token_file_read(path, &set, &err), ERR_PERMANENT);
}

/* ---- routes ---- */

static void test_routes_are_found_by_method_and_whole_path(void **state)
{
	struct route_match m;
	route_find("GET", "/api/v1/report-runs/a/files/b/c.csv", &m);
	assert_non_null(m.route);
	assert_int_equal(m.route->id, ROUTE_FILE);
	assert_string_equal(m.arg[0], "a");
	assert_string_equal(m.arg[1], "b");
	assert_string_equal(m.arg[2], "c.csv");
	route_find("HEAD", "/", &m);
	assert_int_equal(m.route->id, ROUTE_PAGE);
	route_find("POST", "/api/v1/report-runs", &m);
	assert_int_equal(m.route->id, ROUTE_ASK);
	assert_int_equal(m.route->scope, TOKEN_RUN);
	route_find("DELETE", "/api/v1/report-runs", &m);
	assert_null(m.route);
	assert_true(m.path_known);
	assert_string_equal(m.allow, "GET, HEAD, POST");
	static const char *const none[] = {"",
					   "//",
					   "/api",
					   "/api/v1/report-runs/",
					   "/api/v1/report-runs//files",
					   "/api/v1/report-runs/a/files/b",
					   "/api/v1/report-runs/a/files/b/c/d",
					   "/api/v1/report-runs/a/files//c",
					   "/api/v1/report-runs/a/nothing",
					   "/healthz/",
					   "/Healthz"};
	for (size_t i = 0; i < ARRAY_LEN(none); i++) {
		route_find("GET", none[i], &m);
		assert_null(m.route);
		assert_false(m.path_known);
	}
}

static void test_a_part_of_a_path_that_is_too_long_is_found_nowhere(void **state)
{
	struct route_match m;
	char path[400];
	for (int len = ROUTE_ARG_SIZE - 2; len <= ROUTE_ARG_SIZE + 1; len++) {
		snprintf(path, sizeof(path), "/api/v1/report-runs/%0*d", len, 7);
		route_find("GET", path, &m);
		assert_int_equal(m.route != NULL, len < ROUTE_ARG_SIZE);
	}
}

/* The document of the API has every route with its method, scope and statuses, and no other. */
static const json_t *operation_of(const json_t *paths, const struct route *r)
{
	const json_t *path = json_object_get(paths, r->path);
	return json_object_get(path, strcmp(r->method, "GET") == 0 ? "get" : "post");
}

static void check_route(const json_t *paths, const struct route *r)
{
	char status[8];
	size_t n = 0;
	const json_t *o = operation_of(paths, r);
	assert_non_null(o);
	const json_t *responses = json_object_get(o, "responses");
	for (; r->status[n] != 0; n++) {
		snprintf(status, sizeof(status), "%d", r->status[n]);
		if (json_object_get(responses, status) == NULL)
			fail_msg("%s %s: the document has not the status %s", r->method, r->path,
				 status);
	}
	assert_int_equal(json_object_size(responses), n);
	const json_t *security = json_object_get(o, "security");
	assert_true(json_is_array(security));
	assert_int_equal(json_array_size(security), r->scope != TOKEN_NONE);
	if (r->scope != TOKEN_NONE)
		assert_string_equal(
			json_string_value(json_array_get(
				json_object_get(json_array_get(security, 0), "token"), 0)),
			token_scope_name(r->scope));
}

static void test_the_document_has_every_route_and_status_and_no_other(void **state)
{
	json_error_t where;
	json_t *doc = json_loads(asset_document, JSON_REJECT_DUPLICATES, &where);
	assert_non_null(doc);
	const json_t *paths = json_object_get(doc, "paths"), *methods;
	const char *path;
	size_t operations = 0;
	for (size_t i = 0; i < route_count; i++)
		check_route(paths, &routes[i]);
	json_object_foreach((json_t *)(uintptr_t)paths, path, methods) operations +=
		json_object_size(methods);
	assert_int_equal(operations, route_count);
	json_decref(doc);
}

/* ---- bodies ---- */

static int body_from(const char *text, struct arena *a, struct body *b, struct rt_err *err)
{
	return body_parse(slice_str(text), a, b, err);
}

static void test_a_body_is_taken_to_the_letter(void **state)
{
	struct arena a;
	struct body b;
	struct rt_err err;
	arena_init(&a, 4096);
	assert_rc(body_from("{}", &a, &b, &err), err);
	assert_int_equal(b.report_count, 0);
	assert_null(b.as_of);
	assert_false(b.allow_stale || b.accept_quarantine);
	assert_rc(body_from(" {\"reports\": [\"b/2\", \"a/1\"], \"as_of\": \"2026-01-31\", "
			    "\"allow_stale\": true, \"accept_quarantine\": false} ",
			    &a, &b, &err),
		  err);
	assert_int_equal(b.report_count, 2);
	assert_string_equal(b.report[0], "b/2");
	assert_string_equal(b.as_of, "2026-01-31");
	assert_true(b.allow_stale && !b.accept_quarantine);
	assert_rc(body_from("{\"reports\": null, \"as_of\": null, \"allow_stale\": null}", &a, &b,
			    &err),
		  err);
	assert_int_equal(b.report_count, 0);
	arena_release(&a);
}

static void test_a_body_that_is_not_understood_is_refused(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{"", "no JSON"},
		{"[]", "must be a JSON object"},
		{"{", "no JSON (line 1"},
		{"{} x", "no JSON"},
		{"{\"as_of\": \"2026-01-31\", \"as_of\": null}", "no JSON"},
		{"{\"report\": [\"a/1\"]}", "unknown key report"},
		{"{\"reports\": []}", "1 to 1000 ids"},
		{"{\"reports\": \"a/1\"}", "1 to 1000 ids"},
		{"{\"reports\": [1]}", "list of ids"},
		{"{\"reports\": [\"\"]}", "list of ids"},
		{"{\"reports\": [\"a\\u0000b\"]}", "no JSON"},
		{"{\"as_of\": 20260131}", "as_of must be a day"},
		{"{\"allow_stale\": 1}", "allow_stale must be true or false"},
		{"{\"accept_quarantine\": \"true\"}", "accept_quarantine must be true or false"},
	};
	struct arena a;
	static char deep[BODY_MAX];
	struct body none;
	struct rt_err why;
	arena_init(&a, 4096);
	memset(deep, '[', sizeof(deep));
	assert_int_equal(body_parse(slice_of(deep, sizeof(deep)), &a, &none, &why), ERR_USAGE);
	assert_says(why, "no JSON");
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct body b;
		struct rt_err err;
		assert_int_equal(body_from(bad[i].text, &a, &b, &err), ERR_USAGE);
		assert_says(err, bad[i].says);
	}
	arena_release(&a);
}

static void fingerprint(const char *text, char ret[SHA256_HEX])
{
	struct arena a;
	struct body b;
	struct rt_err err;
	arena_init(&a, 4096);
	assert_rc(body_from(text, &a, &b, &err), err);
	body_fingerprint(&b, ret);
	arena_release(&a);
}

static void test_fingerprints_are_of_what_is_asked_for_not_of_its_words(void **state)
{
	static const char *const same[] = {
		"{\"reports\": [\"a/1\", \"b/2\"], \"allow_stale\": false}",
		"{\"reports\":[\"b/2\",\"a/1\",\"a/1\"]}",
		"{\"as_of\": null, \"reports\": [\"b\\/2\", \"a/1\"]}"};
	static const char *const others[] = {
		"{}",
		"{\"reports\": [\"a/1\"]}",
		"{\"reports\": [\"a/1 b/2\"]}",
		"{\"reports\": [\"a/1\", \"b/2\"], \"allow_stale\": true}",
		"{\"reports\": [\"a/1\", \"b/2\"], \"as_of\": \"2026-01-31\"}",
		"{\"reports\": [\"a/1\", \"b/2\"], \"accept_quarantine\": true}"};
	char first[SHA256_HEX], other[ARRAY_LEN(others)][SHA256_HEX];
	fingerprint(same[0], first);
	for (size_t i = 1; i < ARRAY_LEN(same); i++) {
		char again[SHA256_HEX];
		fingerprint(same[i], again);
		assert_string_equal(again, first);
	}
	for (size_t i = 0; i < ARRAY_LEN(others); i++) {
		fingerprint(others[i], other[i]);
		assert_string_not_equal(other[i], first);
		for (size_t k = 0; k < i; k++)
			assert_string_not_equal(other[i], other[k]);
	}
}

static void test_keys_are_printable_and_not_too_long(void **state)
{
	char key[BODY_KEY_MAX + 2];
	memset(key, 'k', sizeof(key));
	key[BODY_KEY_MAX + 1] = '\0';
	assert_false(body_is_key(key));
	key[BODY_KEY_MAX] = '\0';
	assert_true(body_is_key(key));
	assert_true(body_is_key("!~"));
	static const char *const bad[] = {"", "a b", "a\tb", "ä", "a\x7f"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(body_is_key(bad[i]));
}

/* ---- queries ---- */

static int query_of(struct runs_filter *f, struct arena *a, const char *key, const char *value,
		    struct rt_err *err)
{
	return query_take(f, a, slice_str(key), slice_str(value), err);
}

static void test_a_query_becomes_a_filter_and_the_next_page_the_same_query(void **state)
{
	static const char *const pairs[][2] = {
		{"state", "failed"},	{"client_state", "failed"},
		{"type", "manual"},	{"report", "nrp_1/01_roles"},
		{"from", "2026-01-31"}, {"to", "2026-02-28T23:59:59.25Z"},
		{"limit", "7"}};
	struct arena a;
	struct runs_filter f = {0};
	struct rt_err err;
	arena_init(&a, 4096);
	for (size_t i = 0; i < ARRAY_LEN(pairs); i++)
		assert_rc(query_of(&f, &a, pairs[i][0], pairs[i][1], &err), err);
	assert_string_equal(f.state, "failed");
	assert_string_equal(f.to, "2026-02-28T23:59:59.25Z");
	assert_int_equal(f.limit, 7);
	assert_string_equal(query_next(&f, 42, &a),
			    "state=failed&client_state=failed&type=manual&report=nrp_1/01_roles&"
			    "from=2026-01-31&to=2026-02-28T23:59:59.25Z&limit=7&cursor=42");
	for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
		assert_int_equal(query_of(&f, &a, pairs[i][0], pairs[i][1], &err), ERR_USAGE);
		assert_says(err, "once");
	}
	arena_release(&a);
}

static void test_a_query_that_is_not_understood_is_refused(void **state)
{
	static const char *const bad[][2] = {{"state", "Failed"},
					     {"state", ""},
					     {"client_state", "published"},
					     {"type", "cron"},
					     {"report", "nrp_1"},
					     {"report", "a/b/c"},
					     {"report", "a/%"},
					     {"from", "2026-02-30"},
					     {"from", "yesterday"},
					     {"to", "2026-02-28T24:00:00Z"},
					     {"to", "2026-02-28T23:60:00Z"},
					     {"to", "2026-02-28T23:00:00"},
					     {"to", "2026-02-28T23:00:00.Z"},
					     {"to", "2026-02-28 23:00:00Z"},
					     {"to", "2026-02-28T23:00:00+01:00"},
					     {"limit", "0"},
					     {"limit", "201"},
					     {"limit", "-1"},
					     {"limit", "1e2"},
					     {"cursor", "0"},
					     {"cursor", "99999999999999999999"},
					     {"cursor", ""},
					     {"State", "failed"},
					     {"", ""},
					     {"order", "asc"}};
	struct arena a;
	arena_init(&a, 4096);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct runs_filter f = {0};
		struct rt_err err;
		assert_int_equal(query_of(&f, &a, bad[i][0], bad[i][1], &err), ERR_USAGE);
	}
	struct runs_filter f = {0};
	struct rt_err err;
	assert_int_equal(query_take(&f, &a, slice_str("from"), slice_of("2026-01-31\0x", 12), &err),
			 ERR_USAGE);
	arena_release(&a);
}

static void test_ids_are_uuids_as_we_write_them(void **state)
{
	assert_true(query_is_id("00000000-0000-4000-8000-0123456789ab"));
	static const char *const bad[] = {"",
					  "00000000-0000-4000-8000-0123456789a",
					  "00000000-0000-4000-8000-0123456789abc",
					  "00000000-0000-4000-8000-0123456789AB",
					  "000000000000400080000123456789ab0000",
					  "../../../../../../../../etc/passwd00"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(query_is_id(bad[i]));
}

/* ---- how often somebody may be wrong ---- */

#define T0 INT64_C(1000000000)
#define S  INT64_C(1000000)

static struct limit_address address_of(const char *text)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
	if (inet_pton(AF_INET, text, &v4.sin_addr) == 1)
		return limit_address((const struct sockaddr *)&v4);
	assert_int_equal(inet_pton(AF_INET6, text, &v6.sin6_addr), 1);
	return limit_address((const struct sockaddr *)&v6);
}

static struct limit_address address_number(uint32_t n)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr = {htonl(0x0a000000 + n)}};
	return limit_address((const struct sockaddr *)&v4);
}

static void test_an_address_is_heard_again_as_its_bucket_fills(void **state)
{
	struct limit l;
	const struct limit_address bad = address_of("10.0.0.1"), other = address_of("10.0.0.2");
	limit_init(&l, 3);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(limit_wait(&l, bad, T0), 0);
		limit_failed(&l, bad, T0);
	}
	assert_int_equal(limit_wait(&l, bad, T0), 20 * S);
	assert_int_equal(limit_wait(&l, other, T0), 0);
	assert_int_equal(limit_wait(&l, bad, T0 + 20 * S - 1), 1);
	assert_int_equal(limit_wait(&l, bad, T0 + 20 * S), 0);
	limit_failed(&l, bad, T0 + 20 * S);
	assert_int_equal(limit_wait(&l, bad, T0 + 20 * S), 20 * S);
	/* Full again after a period, and no fuller. */
	for (int i = 0; i < 3; i++) {
		assert_int_equal(limit_wait(&l, bad, T0 + 500 * S), 0);
		limit_failed(&l, bad, T0 + 500 * S);
	}
	assert_int_equal(limit_wait(&l, bad, T0 + 500 * S), 20 * S);
}

static void test_no_limit_is_no_limit(void **state)
{
	struct limit l;
	limit_init(&l, 0);
	for (int i = 0; i < 100000; i++)
		limit_failed(&l, address_of("10.0.0.1"), T0);
	assert_int_equal(limit_wait(&l, address_of("10.0.0.1"), T0), 0);
	limit_good(&l, address_of("10.0.0.1"), T0);
}

static void test_addresses_of_one_network_of_ipv6_are_one(void **state)
{
	struct limit l;
	limit_init(&l, 1);
	limit_failed(&l, address_of("2001:db8:1:2::1"), T0);
	assert_int_equal(limit_wait(&l, address_of("2001:db8:1:2:ffff::9"), T0), 60 * S);
	assert_int_equal(limit_wait(&l, address_of("2001:db8:1:3::1"), T0), 0);
	assert_int_equal(limit_wait(&l, address_of("32.1.13.184"), T0), 0);
	/* One of IPv4 that came by a socket of IPv6 is what it was. */
	limit_failed(&l, address_of("::ffff:192.0.2.1"), T0);
	assert_int_equal(limit_wait(&l, address_of("192.0.2.1"), T0), 60 * S);
	assert_int_equal(limit_wait(&l, address_of("::ffff:192.0.2.2"), T0), 0);
}

static void test_with_many_addresses_only_those_are_heard_that_were_right(void **state)
{
	struct limit l;
	const struct limit_address friend = address_of("192.0.2.1"), new = address_of("192.0.2.2");
	limit_init(&l, 2);
	limit_good(&l, friend, T0);
	/* Each address twice: none is past its own limit, all are past the one for all. */
	uint32_t n = 0, heard = 0;
	for (; n < 100 * LIMIT_PLACES; n++) {
		if (limit_wait(&l, address_number(n / 2), T0) != 0)
			continue;
		limit_failed(&l, address_number(n / 2), T0);
		heard++;
	}
	assert_int_equal(heard, 2 * LIMIT_ALL_TIMES);
	assert_int_equal(limit_wait(&l, new, T0), 60 * S / (2 * LIMIT_ALL_TIMES));
	assert_int_equal(limit_wait(&l, friend, T0), 0);
	/* Its own failures count for it as before, and its name is forgotten in time. */
	limit_failed(&l, friend, T0);
	limit_failed(&l, friend, T0);
	assert_int_equal(limit_wait(&l, friend, T0), 30 * S);
	for (int i = 0; i < 2 * LIMIT_ALL_TIMES; i++)
		limit_failed(&l, address_number(1), T0 + LIMIT_GOOD_US);
	assert_true(limit_wait(&l, friend, T0 + LIMIT_GOOD_US) > 0);
}

static void test_whoever_comes_the_table_keeps_who_was_right(void **state)
{
	struct limit l;
	const struct limit_address friend = address_of("192.0.2.1"), bad = address_of("192.0.2.3");
	limit_init(&l, 10);
	limit_good(&l, friend, T0);
	for (int i = 0; i < 10; i++)
		limit_failed(&l, bad, T0);
	/* One failure of each of many: those that owe least go, not the one that owes most. */
	for (uint32_t n = 0; n < 10 * LIMIT_PLACES; n++)
		limit_failed(&l, address_number(n), T0);
	assert_int_equal(limit_wait(&l, friend, T0), 0);
	assert_true(limit_wait(&l, bad, T0 + 5 * S) > 0);
	/* A table full of those: another failure finds no place, and one that is right takes the oldest's. */
	limit_init(&l, 2);
	for (uint32_t n = 0; n < LIMIT_PLACES; n++)
		limit_good(&l, address_number(n), T0 + n);
	for (int i = 0; i < 2 * LIMIT_ALL_TIMES; i++)
		limit_failed(&l, bad, T0 + S);
	assert_true(limit_wait(&l, bad, T0 + S) > 0);
	limit_good(&l, friend, T0 + S);
	assert_int_equal(limit_wait(&l, friend, T0 + S), 0);
	assert_int_equal(limit_wait(&l, address_number(1), T0 + S), 0);
	assert_true(limit_wait(&l, address_number(0), T0 + S) > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_addresses_are_numbers_and_know_whether_others_reach_them),
		cmocka_unit_test(test_addresses_that_are_none_are_refused),
		cmocka_unit_test(test_tokens_are_found_by_their_hash_alone),
		cmocka_unit_test(test_a_bad_line_of_tokens_refuses_the_file_and_shows_no_hash),
		cmocka_unit_test(test_a_token_that_is_made_lets_its_owner_in),
		cmocka_unit_test(test_a_file_of_tokens_that_others_may_write_is_refused),
		cmocka_unit_test(test_routes_are_found_by_method_and_whole_path),
		cmocka_unit_test(test_a_part_of_a_path_that_is_too_long_is_found_nowhere),
		cmocka_unit_test(test_the_document_has_every_route_and_status_and_no_other),
		cmocka_unit_test(test_a_body_is_taken_to_the_letter),
		cmocka_unit_test(test_a_body_that_is_not_understood_is_refused),
		cmocka_unit_test(test_fingerprints_are_of_what_is_asked_for_not_of_its_words),
		cmocka_unit_test(test_keys_are_printable_and_not_too_long),
		cmocka_unit_test(test_a_query_becomes_a_filter_and_the_next_page_the_same_query),
		cmocka_unit_test(test_a_query_that_is_not_understood_is_refused),
		cmocka_unit_test(test_ids_are_uuids_as_we_write_them),
		cmocka_unit_test(test_an_address_is_heard_again_as_its_bucket_fills),
		cmocka_unit_test(test_no_limit_is_no_limit),
		cmocka_unit_test(test_addresses_of_one_network_of_ipv6_are_one),
		cmocka_unit_test(test_with_many_addresses_only_those_are_heard_that_were_right),
		cmocka_unit_test(test_whoever_comes_the_table_keeps_who_was_right),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
