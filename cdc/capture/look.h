/*
 * look: what only the core's catalog shows, traffic or not: publications that
 * are gone or were made again, published tables whose replica identity is
 * gone, so that the core's own UPDATE and DELETE of them fail, and mirrored
 * tables that are not published any more, or not with all their changes.
 */
#ifndef CDC_CAPTURE_LOOK_H
#define CDC_CAPTURE_LOOK_H

#include <libpq-fe.h>

#include "proto/base/buf.h"
#include "proto/pg/published.h"

#define LOOK_PUBLICATIONS_MAX 4
#define LOOK_UNKNOWN	      UINT32_MAX /* in place of an OID: nobody has looked */

struct look {
	unsigned missing;		     /* publications */
	char publication[64];		     /* the first of them */
	uint32_t oid[LOOK_PUBLICATIONS_MAX]; /* 0: missing */
	unsigned without_identity;	     /* tables */
	char relation[140];		     /* the first of them, quoted as SQL wants it */
	char published_by[64];		     /* the publication that it is in */
	unsigned unpublished;		/* mirrored tables that are not published as they must be */
	int want;			/* the first of them, by its number */
	enum published_problem problem; /* of that one */
};

/* Appends the query. Reads the catalog only. */
void look_sql(struct buf *out, const char *const *publication, int count);
/* Its result. */
void look_read(const PGresult *res, int count, struct look *ret);
/* Counts into ret what a result of published_sql has of problems. */
void look_read_published(const PGresult *res, struct look *ret);
/* Publications' OIDs into the file at path, for the next process. */
int look_remember(const char *path, const struct look *l, const char *const *publication, int count,
		  struct rt_err *err) RT_MUSTCHECK;
/* The same back into *ret (LOOK_UNKNOWN: not in it), all else 0: 1; 0 where there is no such file, or not a whole one. */
int look_recall(const char *path, const char *const *publication, int count, struct look *ret);
/* The first publication that is there and is another one than it was, or was not there; −1: none. */
int look_made_again(const struct look *was, const struct look *now);

#endif
