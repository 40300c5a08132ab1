/* reply: answers. Guarantees: every one has the headers that keep browsers from doing more than they must. */
#include <inttypes.h>
#include <sys/stat.h>

#include "apply/reports/http/inner.h"

#define PROBLEM_TYPE "application/problem+json"

static const struct {
	const char *name, *value;
} always[] = {
	{"Cache-Control", "no-store"},
	{"Content-Security-Policy",
	 "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src "
	 "'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"},
	{"X-Content-Type-Options", "nosniff"},
	{"X-Frame-Options", "DENY"},
	{"Referrer-Policy", "no-referrer"},
	{"Cross-Origin-Opener-Policy", "same-origin"},
	{"Cross-Origin-Resource-Policy", "same-origin"},
};

static void set(struct request *r, int status, struct MHD_Response *reply)
{
	RT_ASSERT(reply != NULL && r->reply == NULL);
	r->reply = reply;
	r->status = status;
	for (size_t i = 0; i < ARRAY_LEN(always); i++)
		reply_header(r, always[i].name, always[i].value);
	/* Said aloud: the tests look for it, and the document is what clients are written by. */
	if (r->m.route != NULL && !route_gives(r->m.route, status))
		log_error("an answer that the API's document does not have", "path=%s status=%d",
			  r->m.route->path, status);
}

void reply_header(struct request *r, const char *name, const char *value)
{
	if (MHD_add_response_header(r->reply, name, value) != MHD_YES)
		rt_bug(__FILE__, __LINE__, "a header that may not be");
}

void reply_bytes(struct request *r, int status, const char *type, struct slice bytes)
{
	set(r, status,
	    MHD_create_response_from_buffer(bytes.len, (void *)(uintptr_t)bytes.p,
					    MHD_RESPMEM_MUST_COPY));
	if (type != NULL)
		reply_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
}

static void reply_dump(struct request *r, int status, const char *type, json_t *o)
{
	char *text = json_dumps(o, JSON_INDENT(2));
	RT_ASSERT(text != NULL);
	json_decref(o);
	reply_bytes(r, status, type, slice_str(text));
	free(text);
}

void reply_json(struct request *r, int status, json_t *o)
{
	reply_dump(r, status, "application/json", o);
}

static const char *title_of(int status)
{
	static const struct {
		int status;
		const char *title;
	} titles[] = {
		{400, "The request is not understood"},
		{401, "A token is needed"},
		{403, "The token does not allow this"},
		{404, "There is no such thing"},
		{405, "Not by this method"},
		{410, "It is gone"},
		{413, "The body is too large"},
		{415, "The body must be JSON"},
		{422, "This cannot be asked for"},
		{429, "Too many wrong tokens"},
		{500, "The companion failed"},
		{503, "Not now"},
	};
	for (size_t i = 0; i < ARRAY_LEN(titles); i++)
		if (titles[i].status == status)
			return titles[i].title;
	rt_bug(__FILE__, __LINE__, "a status without a title");
}

void reply_problem(struct request *r, int status, const char *kind, const char *detail, ...)
{
	char text[1200], type[80];
	va_list args;
	va_start(args, detail);
	vsnprintf(text, sizeof(text), detail, args);
	va_end(args);
	snprintf(type, sizeof(type), "urn:rolag:problem:%s", kind);
	/* What a client sent may be quoted, and cut: it is no UTF-8 then. */
	json_t *words = json_string(text);
	json_t *o =
		json_pack("{s:s, s:s, s:i, s:o}", "type", type, "title", title_of(status), "status",
			  status, "detail", words != NULL ? words : json_string("(not UTF-8)"));
	reply_dump(r, status, PROBLEM_TYPE, o);
	if (status == 503)
		reply_header(r, MHD_HTTP_HEADER_RETRY_AFTER, "5");
}

void reply_file(struct request *r, const char *type, int fd, uint64_t size)
{
	set(r, 200, MHD_create_response_from_fd64(size, fd));
	reply_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
}

bool reply_not_modified(struct request *r, const char *etag)
{
	const char *have = request_header(r, MHD_HTTP_HEADER_IF_NONE_MATCH);
	if (have == NULL || strstr(have, etag) == NULL)
		return false;
	reply_bytes(r, 304, NULL, slice_of(NULL, 0));
	reply_header(r, MHD_HTTP_HEADER_ETAG, etag);
	return true;
}
