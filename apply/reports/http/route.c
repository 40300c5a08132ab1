/* route: the table, and finding in it. */
#include "apply/reports/http/route.h"

#define RUNS "/api/v1/report-runs"

const struct route routes[] = {
	{ROUTE_PAGE, "GET", "/", TOKEN_NONE, {200}},
	{ROUTE_STYLE, "GET", "/console.css", TOKEN_NONE, {200}},
	{ROUTE_SCRIPT, "GET", "/console.js", TOKEN_NONE, {200}},
	{ROUTE_HEALTH, "GET", "/healthz", TOKEN_NONE, {200}},
	{ROUTE_READY, "GET", "/readyz", TOKEN_NONE, {200, 503}},
	{ROUTE_DOCUMENT, "GET", "/api/v1/openapi.json", TOKEN_NONE, {200}},
	{ROUTE_METRICS, "GET", "/metrics", TOKEN_READ, {200, 401, 403, 429, 500}},
	{ROUTE_STATUS, "GET", "/api/v1/status", TOKEN_READ, {200, 401, 403, 429, 500}},
	{ROUTE_REPORTS, "GET", "/api/v1/reports", TOKEN_READ, {200, 401, 403, 429}},
	{ROUTE_RUNS, "GET", RUNS, TOKEN_READ, {200, 400, 401, 403, 429, 503}},
	{ROUTE_ASK, "POST", RUNS, TOKEN_RUN, {202, 400, 401, 403, 413, 415, 422, 429, 503}},
	{ROUTE_RUN, "GET", RUNS "/{id}", TOKEN_READ, {200, 401, 403, 404, 429, 503}},
	{ROUTE_MANIFEST,
	 "GET",
	 RUNS "/{id}/manifest",
	 TOKEN_READ,
	 {200, 304, 401, 403, 404, 429, 503}},
	{ROUTE_FILES, "GET", RUNS "/{id}/files", TOKEN_READ, {200, 401, 403, 404, 429, 503}},
	{ROUTE_FILE,
	 "GET",
	 RUNS "/{id}/files/{norm}/{name}",
	 TOKEN_READ,
	 {200, 304, 401, 403, 404, 410, 429, 500, 503}},
};

const size_t route_count = ARRAY_LEN(routes);

/* Does path look like this one? Fills args with what stands in the place of {…}. */
static bool fits(const char *pattern, const char *path, char arg[][ROUTE_ARG_SIZE])
{
	size_t n = 0;
	while (*pattern != '\0') {
		if (*pattern != '{') {
			if (*pattern++ != *path++)
				return false;
			continue;
		}
		size_t len = strcspn(path, "/");
		if (len == 0 || len >= ROUTE_ARG_SIZE)
			return false;
		RT_ASSERT(n < ROUTE_ARGS_MAX);
		memcpy(arg[n], path, len);
		arg[n++][len] = '\0';
		path += len;
		pattern = strchr(pattern, '}') + 1;
	}
	return *path == '\0';
}

static void allow(struct route_match *m, const char *method)
{
	size_t n = strlen(m->allow);
	snprintf(m->allow + n, sizeof(m->allow) - n, "%s%s", n > 0 ? ", " : "", method);
}

void route_find(const char *method, const char *path, struct route_match *ret)
{
	struct route_match m = {0};
	const char *as = strcmp(method, "HEAD") == 0 ? "GET" : method;
	for (size_t i = 0; m.route == NULL && i < route_count; i++) {
		char arg[ROUTE_ARGS_MAX][ROUTE_ARG_SIZE] = {{0}};
		if (!fits(routes[i].path, path, arg))
			continue;
		m.path_known = true;
		allow(&m, routes[i].method);
		if (strcmp(routes[i].method, "GET") == 0)
			allow(&m, "HEAD");
		if (strcmp(routes[i].method, as) != 0)
			continue;
		m.route = &routes[i];
		memcpy(m.arg, arg, sizeof(m.arg));
	}
	*ret = m;
}

bool route_gives(const struct route *r, int status)
{
	for (size_t i = 0; i < ROUTE_STATUSES_MAX && r->status[i] != 0; i++)
		if (r->status[i] == status)
			return true;
	return false;
}
