/*
 * swap_view: a swap's state, and its part that is about views: each view on a
 * table that is swapped reads the new one afterwards. Where its columns stay
 * what they were, it is replaced in its place; else it and the views on it are
 * dropped, the outermost first, and made anew with what hung on them.
 */
#ifndef APPLY_STREAM_SWAP_VIEW_H
#define APPLY_STREAM_SWAP_VIEW_H

#include "apply/stream/swap.h"

/* OIDs as text, of the tables as they were before. */
struct swap_table {
	char *live, *beside;
};

struct swap {
	PGconn *c;
	const struct swap_pair *pair;
	size_t count;
	struct swap_table *table;
	struct buf oids;   /* of the live tables, as an array literal */
	struct buf *lines; /* what cannot go over, a line each */
	unsigned line_count;
	char *search_path, *role; /* as they were */
	char *user;
	bool super;
};

struct swap_views {
	PGresult *res; /* of swap_views_sql: texts are of before the swap */
	bool *anew;    /* per row: dropped and made anew */
	char **after;  /* of those: statements that bring back what hung on it */
};

/* Locks the views that read one of the tables, as readers do: views before tables. Notes lines for rights that lack. */
int swap_views_lock(struct swap *s, const char *oids, struct rt_err *err) RT_MUSTCHECK;
int swap_views_read(struct swap *s, struct swap_views *v, const char *oids,
		    struct rt_err *err) RT_MUSTCHECK;
/* The tables have their new names. */
int swap_views_turn(struct swap *s, struct swap_views *v, struct rt_err *err) RT_MUSTCHECK;
void swap_views_release(struct swap_views *v);

/* ---- shared by both ---- */

int swap_ask(struct swap *s, PGresult **ret, const char *sql, int count, const char *const *params,
	     struct rt_err *err) RT_MUSTCHECK;
/* Runs each text of the result's first column. */
int swap_run_each(struct swap *s, const PGresult *res, struct rt_err *err) RT_MUSTCHECK;
int swap_run_query(struct swap *s, const char *sql, int count, const char *const *params,
		   struct rt_err *err) RT_MUSTCHECK;
void swap_note_line(struct swap *s, const char *line);
/* Notes each text that the query about oids gives. */
int swap_note_lines(struct swap *s, const char *sql, const char *oids,
		    struct rt_err *err) RT_MUSTCHECK;
/* The grants of relation `from`, and no other, on `to`. */
int swap_pass_grants(struct swap *s, const char *from, const char *to,
		     struct rt_err *err) RT_MUSTCHECK;

#endif
