/*
 * http: the companion's page and API (the API's document is console/openapi.json),
 * by libmicrohttpd within the loop: no thread, and nobody waits for another
 * client or for the warehouse. Off where http.listen is empty.
 */
#ifndef APPLY_REPORTS_HTTP_HTTP_H
#define APPLY_REPORTS_HTTP_HTTP_H

#include "apply/reports/reports.h"
#include "proto/base/loop.h"
#include "proto/pg/types.h"
#include "transforms/report/definition.h"

struct http;

struct http_options {
	const struct settings *s;
	const struct report_pack *pack;
	const struct pgt_zone *zone; /* of reports.time_zone; NULL: UTC */
	const struct reports_outlook *outlook;
	const int64_t *looked_us; /* monotonic: when the queue of runs was last looked at; 0: not */
};

/*
 * Listens and adds its sources to the loop; what o points to outlives it. *ret
 * is NULL where HTTP is off. ERR_PERMANENT for settings that may not be: an
 * address that others reach needs tokens.
 */
int http_start(const struct http_options *o, struct loop *l, struct http **ret,
	       struct rt_err *err) RT_MUSTCHECK;
/* SIGHUP: the file of tokens again; a bad one is logged, and the old tokens stay. */
void http_reload(struct http *h);
/* Closes everything; NULL is fine. */
void http_stop(struct http *h);

/* The settings alone: what http_start would refuse (ERR_PERMANENT); *ret_tokens: how many there are. */
int http_check(const struct settings *s, size_t *ret_tokens, bool *ret_loopback,
	       struct rt_err *err) RT_MUSTCHECK;

#endif
