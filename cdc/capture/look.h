/*
 * look: what only the core's catalog shows, traffic or not: publications that
 * are gone or were made again, and published tables whose replica identity is
 * gone, so that the core's own UPDATE and DELETE of them fail.
 */
#ifndef CDC_CAPTURE_LOOK_H
#define CDC_CAPTURE_LOOK_H

#include <libpq-fe.h>

#include "proto/base/buf.h"

#define LOOK_PUBLICATIONS_MAX 4

struct look {
	unsigned missing;		     /* publications */
	char publication[64];		     /* the first of them */
	uint32_t oid[LOOK_PUBLICATIONS_MAX]; /* 0: missing */
	unsigned without_identity;	     /* tables */
	char relation[140];		     /* the first of them, quoted as SQL wants it */
	char published_by[64];		     /* the publication that it is in */
};

/* Appends the query. Reads the catalog only. */
void look_sql(struct buf *out, const char *const *publication, int count);
/* Its result. */
void look_read(const PGresult *res, int count, struct look *ret);
/* The first publication that is there and is another one than it was, or was not there; −1: none. */
int look_made_again(const struct look *was, const struct look *now);

#endif
