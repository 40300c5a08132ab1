/*
 * server: libmicrohttpd as a source of the loop, and the way of a request
 * through it. Guarantees: who has no token gets no further than the page and
 * the probes; no connection holds its place without getting on.
 */
#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>

#include "apply/reports/http/address.h"
#include "apply/reports/http/inner.h"
#include "proto/base/metrics.h"

#define HEADER_BYTES   (32u << 10) /* memory of a connection: header and a piece of the body */
#define DISCARD_BYTES  (1u << 20) /* read of a body that is refused, so that its sender reads why */
#define INACTIVE_S     30u	  /* without a byte either way */
#define ANSWER_US      INT64_C(3600000000)
#define REFUSED_LOG_US INT64_C(5000000)
#define OPTION_PLACES  16

/* ---- connections ---- */

static void peer_until(struct peer *p, int64_t us)
{
	p->deadline_us = us == LOOP_NEVER ? LOOP_NEVER : rt_mono_us() + us;
}

static void on_connection(void *ctx, struct MHD_Connection *c, void **place,
			  enum MHD_ConnectionNotificationCode what)
{
	struct http *h = ctx;
	struct peer *p = *place;
	if (what == MHD_CONNECTION_NOTIFY_STARTED) {
		p = rt_calloc(1, sizeof(*p));
		p->fd = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
		p->next = h->peers;
		if (p->next != NULL)
			p->next->previous = p;
		h->peers = p;
		peer_until(p, h->o.s->http.request_limit);
		*place = p;
		return;
	}
	h->wake = true; /* only the daemon's next run takes somebody into its place */
	if (p->next != NULL)
		p->next->previous = p->previous;
	if (p->previous != NULL)
		p->previous->next = p->next;
	else
		h->peers = p->next;
	free(p);
}

/* The daemon sees that it is closed, in its next run, and frees it. */
static void cut_late(struct http *h, int64_t now)
{
	for (struct peer *p = h->peers; p != NULL; p = p->next) {
		if (now < p->deadline_us)
			continue;
		shutdown(p->fd, SHUT_RDWR);
		p->deadline_us = LOOP_NEVER;
		met_add(MET_REPORTS_HTTP_CUT, 1);
	}
}

/* ---- who comes ---- */

/* Of the other end of the connection: what a header says of it is not believed. */
static const struct sockaddr *client_address(const struct request *r)
{
	return MHD_get_connection_info(r->c, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr;
}

static void log_refusal(struct request *r, struct log_limit *limit, const char *why)
{
	uint64_t hidden;
	char address[INET6_ADDRSTRLEN] = "?";
	const struct sockaddr *at = client_address(r);
	if (!log_limit_pass(limit, rt_mono_us(), &hidden))
		return;
	if (at->sa_family == AF_INET)
		inet_ntop(AF_INET, &((const struct sockaddr_in *)at)->sin_addr, address,
			  sizeof(address));
	else if (at->sa_family == AF_INET6)
		inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)at)->sin6_addr, address,
			  sizeof(address));
	log_warn("a request over HTTP is refused",
		 "address=%s path=%s token=%s hidden=%" PRIu64 " reason=\"%s\"", address,
		 r->m.route->path, r->who[0] != '\0' ? r->who : "none", hidden, why);
}

/* What its address must wait, after too many wrong tokens; answered here. */
static bool must_wait(struct request *r, struct limit_address from)
{
	const int64_t wait = limit_wait(&r->h->limit, from, rt_mono_us());
	char seconds[24];
	if (wait == 0)
		return false;
	met_add(MET_REPORTS_HTTP_REFUSED, 1);
	log_refusal(r, &r->h->unheard,
		    "too many wrong tokens (http.failures); the token was not looked at");
	snprintf(seconds, sizeof(seconds), "%" PRId64, (wait + 999999) / 1000000);
	reply_problem(r, 429, "failures",
		      "Too many wrong tokens came from this address; try again in %s s.", seconds);
	reply_header(r, MHD_HTTP_HEADER_RETRY_AFTER, seconds);
	return true;
}

static bool let_in(struct request *r)
{
	static const char scheme[] = "Bearer ";
	const enum token_scope scope = r->m.route->scope;
	if (scope == TOKEN_NONE)
		return true;
	const char *header = request_header(r, MHD_HTTP_HEADER_AUTHORIZATION);
	const bool bearer = header != NULL && strncasecmp(header, scheme, strlen(scheme)) == 0;
	const struct limit_address from = limit_address(client_address(r));
	if (bearer && must_wait(r, from))
		return false;
	const struct token *t =
		bearer ? token_find(&r->h->tokens, slice_str(header + strlen(scheme))) : NULL;
	if (bearer && t == NULL) {
		met_add(MET_REPORTS_HTTP_WRONG, 1);
		limit_failed(&r->h->limit, from, rt_mono_us());
	}
	if (t == NULL) {
		log_refusal(r, &r->h->refused,
			    bearer ? "the token is none of http.tokens" : "no token");
		reply_problem(r, 401, "token",
			      bearer ? "The token is not known here."
				     : "Send a token: Authorization: Bearer … (rolag report "
				       "token NAME makes one).");
		reply_header(r, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer realm=\"rolag\"");
		return false;
	}
	limit_good(&r->h->limit, from, rt_mono_us());
	snprintf(r->who, sizeof(r->who), "%s", t->name);
	if ((t->scopes & scope) != 0)
		return true;
	log_refusal(r, &r->h->refused, "the token's scopes");
	reply_problem(r, 403, "scope", "The token %s has not the scope %s.", r->who,
		      token_scope_name(scope));
	reply_header(r, MHD_HTTP_HEADER_WWW_AUTHENTICATE,
		     scope == TOKEN_RUN ? "Bearer error=\"insufficient_scope\", "
					  "scope=\"reports:run\""
					: "Bearer error=\"insufficient_scope\", "
					  "scope=\"reports:read\"");
	return false;
}

/* ---- a request ---- */

const char *request_header(const struct request *r, const char *name)
{
	return MHD_lookup_connection_value(r->c, MHD_HEADER_KIND, name);
}

static void request_free(struct request *r)
{
	if (r->reply != NULL)
		MHD_destroy_response(r->reply);
	buf_release(&r->body);
	arena_release(&r->arena);
	free(r);
}

static void resume(struct request *r)
{
	r->suspended = false;
	r->h->wake = true;
	MHD_resume_connection(r->c);
}

static void on_answer(void *ctx, const PGresult *res, const struct rt_err *err)
{
	struct request *r = ctx;
	uint64_t hidden;
	if (res != NULL) {
		r->then(r, res);
	} else {
		if (log_limit_pass(&r->h->failed, rt_mono_us(), &hidden))
			log_warn("a request over HTTP has no answer of the warehouse",
				 "path=%s hidden=%" PRIu64 " reason=\"%s\"", r->m.route->path,
				 hidden, err->msg);
		reply_problem(r, 503, "warehouse",
			      "The warehouse cannot be asked now. Try again; with an "
			      "Idempotency-Key nothing is done twice.");
	}
	if (r->reply != NULL)
		resume(r);
}

void request_ask(struct request *r, const struct runs_ask *what,
		 void (*then)(struct request *r, const PGresult *res))
{
	r->then = then;
	r->job = (struct ask_job){.what = *what, .done = on_answer, .ctx = r};
	if (!r->suspended)
		MHD_suspend_connection(r->c);
	r->suspended = true;
	ask_add(&r->h->ask, &r->job);
}

static void call_route(struct request *r)
{
	static void (*const call[])(struct request *) = {
		[ROUTE_PAGE] = api_page,	 [ROUTE_STYLE] = api_page,
		[ROUTE_SCRIPT] = api_page,	 [ROUTE_DOCUMENT] = api_page,
		[ROUTE_HEALTH] = api_health,	 [ROUTE_READY] = api_ready,
		[ROUTE_METRICS] = api_metrics,	 [ROUTE_STATUS] = api_status,
		[ROUTE_REPORTS] = api_reports,	 [ROUTE_RUNS] = api_runs,
		[ROUTE_ASK] = api_ask,		 [ROUTE_RUN] = api_run,
		[ROUTE_MANIFEST] = api_manifest, [ROUTE_FILES] = api_files,
		[ROUTE_FILE] = api_file,
	};
	r->begun = true;
	peer_until(r->peer, LOOP_NEVER);
	call[r->m.route->id](r);
}

static enum MHD_Result send_reply(struct request *r)
{
	peer_until(r->peer, ANSWER_US);
	met_add(MET_REPORTS_HTTP_REQUESTS, 1);
	if (r->status >= 500)
		met_add(MET_REPORTS_HTTP_FAILED, 1);
	return MHD_queue_response(r->c, (unsigned)r->status, r->reply);
}

/* What header and path say already. */
static void look_at_header(struct request *r, const char *method, const char *path)
{
	route_find(method, path, &r->m);
	if (r->m.route == NULL && r->m.path_known) {
		reply_problem(r, 405, "method", "Here only: %s.", r->m.allow);
		reply_header(r, MHD_HTTP_HEADER_ALLOW, r->m.allow);
	} else if (r->m.route == NULL) {
		reply_problem(r, 404, "path",
			      "Nothing has this path. /api/v1/openapi.json says what there is.");
	} else if (let_in(r) && r->m.route->id == ROUTE_ASK) {
		const char *type = request_header(r, MHD_HTTP_HEADER_CONTENT_TYPE);
		const size_t word = type != NULL ? strcspn(type, "; \t") : 0;
		if (word != strlen("application/json") ||
		    strncasecmp(type, "application/json", word) != 0)
			reply_problem(r, 415, "content-type",
				      "The body must have Content-Type: application/json.");
	}
}

static struct request *request_new(struct http *h, struct MHD_Connection *c)
{
	struct request *r = rt_calloc(1, sizeof(*r));
	r->h = h;
	r->c = c;
	r->peer = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
	arena_init(&r->arena, 4096);
	return r;
}

/* A body that is not worth reading: it is said at once, and the connection is closed behind it. */
static bool is_hopeless(const struct request *r)
{
	const char *length = request_header(r, MHD_HTTP_HEADER_CONTENT_LENGTH);
	return (length != NULL && strtoull(length, NULL, 10) > DISCARD_BYTES) ||
	       request_header(r, MHD_HTTP_HEADER_EXPECT) != NULL;
}

static enum MHD_Result begin(struct http *h, struct MHD_Connection *c, const char *path,
			     const char *method, void **place)
{
	struct request *r = request_new(h, c);
	*place = r;
	look_at_header(r, method, path);
	const char *length = request_header(r, MHD_HTTP_HEADER_CONTENT_LENGTH);
	if (r->reply == NULL && r->m.route->id == ROUTE_ASK && length != NULL &&
	    strtoull(length, NULL, 10) > BODY_MAX)
		reply_problem(r, 413, "body", "The body is larger than %u bytes.", BODY_MAX);
	return r->reply != NULL && is_hopeless(r) ? send_reply(r) : MHD_YES;
}

static enum MHD_Result take_piece(struct request *r, const char *data, size_t bytes)
{
	r->came_bytes += bytes;
	if (r->came_bytes > DISCARD_BYTES)
		return MHD_NO;
	if (r->reply == NULL && r->m.route->id == ROUTE_ASK && r->came_bytes > BODY_MAX)
		reply_problem(r, 413, "body", "The body is larger than %u bytes.", BODY_MAX);
	if (r->reply == NULL && r->m.route->id == ROUTE_ASK)
		buf_add(&r->body, data, bytes);
	return MHD_YES;
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *c, const char *path,
				  const char *method, const char *version, const char *data,
				  size_t *bytes, void **place)
{
	struct request *r = *place;
	(void)version;
	if (r == NULL)
		return begin(ctx, c, path, method, place);
	if (*bytes > 0) {
		size_t came = *bytes;
		*bytes = 0;
		return take_piece(r, data, came);
	}
	if (r->reply == NULL && !r->begun)
		call_route(r);
	return r->reply != NULL ? send_reply(r) : MHD_YES;
}

static void on_completed(void *ctx, struct MHD_Connection *c, void **place,
			 enum MHD_RequestTerminationCode why)
{
	struct http *h = ctx;
	struct request *r = *place;
	(void)c;
	(void)why;
	if (r == NULL)
		return;
	peer_until(r->peer, h->o.s->http.request_limit);
	request_free(r);
	*place = NULL;
}

/* %HH of paths and queries; not %00, behind which C would see nothing. */
static size_t unescape(void *ctx, struct MHD_Connection *c, char *text)
{
	char *out = text;
	(void)ctx;
	(void)c;
	for (const char *p = text; *p != '\0'; p++) {
		char hex[3] = {0}, *end;
		if (*p == '%' && p[1] != '\0' && p[2] != '\0') {
			memcpy(hex, p + 1, 2);
			long v = strtol(hex, &end, 16);
			if (end == hex + 2 && hex[0] != '+' && hex[0] != '-' && hex[0] != ' ' &&
			    v > 0) {
				*out++ = (char)v;
				p += 2;
				continue;
			}
		}
		*out++ = *p;
	}
	*out = '\0';
	return (size_t)(out - text);
}

/* ---- the loop's source ---- */

static void http_prepare(void *ctx, int64_t now, struct loop_want *ret)
{
	struct http *h = ctx;
	MHD_UNSIGNED_LONG_LONG ms;
	ret->fd = h->epoll;
	ret->events = POLLIN;
	if (MHD_get_timeout(h->daemon, &ms) == MHD_YES)
		ret->at_us = now + (int64_t)RT_MIN(ms, 86400000ULL) * 1000;
	for (const struct peer *p = h->peers; p != NULL; p = p->next)
		ret->at_us = RT_MIN(ret->at_us, p->deadline_us);
	if (h->wake)
		ret->at_us = 0;
}

static int http_dispatch(void *ctx, short revents, int64_t now, struct rt_err *err)
{
	struct http *h = ctx;
	(void)revents;
	h->wake = false;
	cut_late(h, now);
	if (MHD_run(h->daemon) != MHD_YES)
		return rt_fail(err, ERR_SYSTEM, "the HTTP server failed");
	return 0;
}

/* ---- beginning and end ---- */

int http_check(const struct settings *s, size_t *ret_tokens, bool *ret_loopback, struct rt_err *err)
{
	struct http_address at;
	struct token_set tokens = {0};
	int rc = http_address_parse(s->http.listen, &at, err);
	if (rc == 0 && s->http.tokens[0] != '\0')
		rc = token_file_read(s->http.tokens, &tokens, err);
	if (rc == 0 && !at.loopback && tokens.count == 0)
		rc = rt_fail(
			err, ERR_PERMANENT,
			"http.listen %.80s is reached by others, and http.tokens has no token; "
			"mend: rolag report token NAME, or listen on 127.0.0.1",
			s->http.listen);
	if (rc == 0) {
		*ret_tokens = tokens.count;
		*ret_loopback = at.loopback;
	}
	token_set_release(&tokens);
	return rc;
}

static int start_daemon(struct http *h, int fd, struct rt_err *err)
{
	const struct settings *s = h->o.s;
	const struct MHD_OptionItem options[OPTION_PLACES] = {
		{MHD_OPTION_LISTEN_SOCKET, fd, NULL},
		{MHD_OPTION_CONNECTION_LIMIT, (intptr_t)s->http.connections, NULL},
		{MHD_OPTION_PER_IP_CONNECTION_LIMIT, (intptr_t)s->http.connections_per_address,
		 NULL},
		{MHD_OPTION_CONNECTION_TIMEOUT, INACTIVE_S, NULL},
		{MHD_OPTION_CONNECTION_MEMORY_LIMIT, HEADER_BYTES, NULL},
		{MHD_OPTION_STRICT_FOR_CLIENT, 1, NULL},
		{MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)on_connection, h},
		{MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)on_completed, h},
		{MHD_OPTION_UNESCAPE_CALLBACK, (intptr_t)unescape, h},
		{MHD_OPTION_END, 0, NULL},
	};
	h->daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL,
				     on_request, h, MHD_OPTION_ARRAY, options, MHD_OPTION_END);
	if (h->daemon == NULL)
		return rt_fail(err, ERR_SYSTEM, "the HTTP server does not start");
	h->epoll = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
	return 0;
}

static int listen_and_start(struct http *h, struct rt_err *err)
{
	const struct settings *s = h->o.s;
	struct http_address at;
	size_t tokens;
	bool loopback;
	int fd = -1;
	int rc = http_check(s, &tokens, &loopback, err);
	if (rc == 0 && s->http.tokens[0] != '\0')
		rc = token_file_read(s->http.tokens, &h->tokens, err);
	if (rc == 0)
		rc = http_address_parse(s->http.listen, &at, err);
	if (rc == 0)
		rc = http_address_listen(&at, s->http.listen, &fd, err);
	if (rc != 0)
		return rc;
	rc = start_daemon(h, fd, err); /* it has the socket, whatever becomes of it */
	if (rc != 0)
		return rc;
	log_info("HTTP is served", "listen=%s tokens=%zu", s->http.listen, h->tokens.count);
	return 0;
}

int http_start(const struct http_options *o, struct loop *l, struct http **ret, struct rt_err *err)
{
	*ret = NULL;
	if (o->s->http.listen[0] == '\0')
		return 0;
	struct http *h = rt_calloc(1, sizeof(*h));
	h->o = *o;
	h->refused.interval_us = h->unheard.interval_us = h->failed.interval_us = REFUSED_LOG_US;
	limit_init(&h->limit, o->s->http.failures);
	ask_init(&h->ask, o->s);
	int rc = listen_and_start(h, err);
	if (rc != 0) {
		http_stop(h);
		return rc;
	}
	loop_add_background(l, (struct loop_source){"ask", &h->ask, ask_prepare, ask_dispatch});
	loop_add_background(l, (struct loop_source){"http", h, http_prepare, http_dispatch});
	*ret = h;
	return 0;
}

void http_reload(struct http *h)
{
	struct token_set fresh = {0};
	struct rt_err err;
	if (h == NULL || h->o.s->http.tokens[0] == '\0')
		return;
	if (token_file_read(h->o.s->http.tokens, &fresh, &err) != 0) {
		log_error("the new tokens are not valid: the old ones stay", "reason=\"%s\"",
			  err.msg);
		return;
	}
	token_set_release(&h->tokens);
	h->tokens = fresh;
	log_info("tokens read again", "tokens=%zu", fresh.count);
}

void http_stop(struct http *h)
{
	if (h == NULL)
		return;
	/* Nobody is suspended any more when the daemon stops. */
	ask_release(&h->ask);
	if (h->daemon != NULL)
		MHD_stop_daemon(h->daemon);
	token_set_release(&h->tokens);
	free(h);
}
