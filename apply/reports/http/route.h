/*
 * route: what the server has, as a table: methods, paths, the scope that each
 * needs, and every status that it may answer with. The API's document
 * (apply/reports/console/openapi.json) says the same; a test compares them. Pure.
 */
#ifndef APPLY_REPORTS_HTTP_ROUTE_H
#define APPLY_REPORTS_HTTP_ROUTE_H

#include "apply/reports/http/token.h"

#define ROUTE_ARGS_MAX	   3
#define ROUTE_ARG_SIZE	   128 /* of one variable part of a path and a NUL; more is not found */
#define ROUTE_STATUSES_MAX 12

enum route_id {
	ROUTE_PAGE,
	ROUTE_STYLE,
	ROUTE_SCRIPT,
	ROUTE_HEALTH,
	ROUTE_READY,
	ROUTE_DOCUMENT,
	ROUTE_METRICS,
	ROUTE_STATUS,
	ROUTE_REPORTS,
	ROUTE_RUNS,
	ROUTE_ASK,
	ROUTE_RUN,
	ROUTE_MANIFEST,
	ROUTE_FILES,
	ROUTE_FILE,
};

struct route {
	enum route_id id;
	const char *method; /* HEAD goes where GET does */
	const char *path;   /* a part in braces is variable */
	enum token_scope scope;
	int status[ROUTE_STATUSES_MAX]; /* ends with 0 */
};

extern const struct route routes[];
extern const size_t route_count;

struct route_match {
	const struct route *route;		  /* NULL: none */
	bool path_known;			  /* with route NULL: another method would do */
	char allow[32];				  /* those, for the header Allow */
	char arg[ROUTE_ARGS_MAX][ROUTE_ARG_SIZE]; /* variable parts, in order */
};

void route_find(const char *method, const char *path, struct route_match *ret);
/* May this route answer so? */
bool route_gives(const struct route *r, int status);

#endif
