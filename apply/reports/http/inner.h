/* inner: what the files of the HTTP server share. */
#ifndef APPLY_REPORTS_HTTP_INNER_H
#define APPLY_REPORTS_HTTP_INNER_H

#include <jansson.h>
#include <microhttpd.h>

#include "apply/reports/http/ask.h"
#include "apply/reports/http/body.h"
#include "apply/reports/http/http.h"
#include "apply/reports/http/limit.h"
#include "apply/reports/http/route.h"
#include "proto/base/log.h"

/* A connection, and by when it must have got on. */
struct peer {
	struct peer *next, *previous;
	int fd;
	int64_t deadline_us; /* monotonic; LOOP_NEVER: it waits for us */
};

struct http {
	struct http_options o;
	struct MHD_Daemon *daemon;
	int epoll;
	struct token_set tokens;
	struct limit limit; /* of wrong tokens */
	struct ask ask;
	struct peer *peers;
	bool wake; /* the daemon must run, whatever its descriptors say: a suspended request goes on, or a place is free */
	struct log_limit refused, unheard, failed;
};

/* A request from its header to its answer. */
struct request {
	struct http *h;
	struct MHD_Connection *c;
	struct peer *peer;
	struct arena arena;
	struct route_match m;
	char who[TOKEN_NAME_MAX + 1]; /* whose token it came with */
	struct buf body;
	size_t came_bytes; /* of the body, kept or not */
	bool begun;	   /* its route was called */
	bool suspended;
	int status; /* of reply */
	struct MHD_Response *reply;
	struct ask_job job;
	void (*then)(struct request *r, const PGresult *res);
	struct run run; /* of routes that look at one */
	void (*after_run)(struct request *r);
};

/* ---- reply.c: exactly one of these for each request ---- */

/* Takes o over. */
void reply_json(struct request *r, int status, json_t *o);
/* RFC 9457; kind is the last word of its type, the detail is for people. */
void reply_problem(struct request *r, int status, const char *kind, const char *detail, ...)
	RT_PRINTF(4, 5);
/* Bytes are copied. */
void reply_bytes(struct request *r, int status, const char *type, struct slice bytes);
/* A whole open file, which the reply takes over. */
void reply_file(struct request *r, const char *type, int fd, uint64_t size);
/* With an ETag: 304 where the client has it. True when that is so, and the reply is made. */
bool reply_not_modified(struct request *r, const char *etag);
/* One more header of the reply that is there. */
void reply_header(struct request *r, const char *name, const char *value);

/* ---- server.c ---- */

/* Asks the warehouse; then is called with the answer (or 503 is replied). */
void request_ask(struct request *r, const struct runs_ask *what,
		 void (*then)(struct request *r, const PGresult *res));
const char *request_header(const struct request *r, const char *name);

/* ---- the routes ---- */

void api_page(struct request *r);
void api_health(struct request *r);
void api_ready(struct request *r);
void api_metrics(struct request *r);
void api_status(struct request *r);
void api_reports(struct request *r);
void api_runs(struct request *r);
void api_ask(struct request *r);
void api_run(struct request *r);
void api_manifest(struct request *r);
void api_files(struct request *r);
void api_file(struct request *r);

/* Looks the run of the path up into r->run, whole or without what is large; then goes on, or 404 is replied. */
void api_with_run(struct request *r, bool whole, void (*then)(struct request *r));

/* A file of r->run, with where it is. The caller's. */
json_t *api_file_object(const struct request *r, const struct run_file *f);

#endif
