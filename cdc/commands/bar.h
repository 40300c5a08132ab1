/*
 * bar: how far a long command is, as one line of stderr that is drawn over.
 * Guarantees: nothing of it goes to stdout; where stderr is no terminal there
 * is no escape, and at most a plain line now and then; it shows counts and
 * names of tables, models and files, never a value.
 */
#ifndef CDC_COMMANDS_BAR_H
#define CDC_COMMANDS_BAR_H

#include "proto/base/buf.h"

/* The rate is that of about the last eight seconds. */
#define BAR_MARKS    32
#define BAR_MARK_US  INT64_C(250000)
#define BAR_EVERY_US INT64_C(100000)
/* Some may follow each other at once: what it is at now shall stand there, not what was over at once. */
#define BAR_BURST_US INT64_C(400000)

struct bar_meter {
	struct bar_mark {
		int64_t us; /* monotonic */
		uint64_t done;
	} mark[BAR_MARKS]; /* a ring */
	size_t count;	   /* ever added */
};

/* Per second, of what was done until now_us; 0: not known yet. Where it is less than before, it begins anew. */
double bar_rate(struct bar_meter *m, int64_t now_us, uint64_t done);

/* What a line says. */
struct bar_look {
	const char *what; /* "verify" */
	const char *unit; /* "rows"; NULL: bytes */
	uint64_t done;
	uint64_t total;	    /* 0: not known; may be an estimate, which is passed */
	double rate;	    /* 0: not known */
	int64_t elapsed_us; /* since the begin */
	const char *note;   /* what it is at; NULL: nothing to say */
};

/* Appends the line, with a bar where there is room for one, in so many columns at most. */
void bar_draw(const struct bar_look *v, unsigned columns, bool utf8, struct buf *out);
/* Appends the same as plain text without a bar. */
void bar_text(const struct bar_look *v, struct buf *out);

struct bar {
	const char *what, *unit;
	int64_t plain_every_us; /* without a terminal: a plain line so often; 0: none */
	bool live, utf8, drawn;
	int64_t began_us, next_us; /* when the next one is due */
	struct bar_meter meter;
};

/* what, unit: as in struct bar_look; they must live as long as it. */
void bar_begin(struct bar *b, const char *what, const char *unit, int64_t plain_every_us);
/* Draws it, if it is time to: may be called as often as one likes. */
void bar_show(struct bar *b, uint64_t done, uint64_t total, const char *note);
/* Takes the line away, before anything else is printed and at the end; bar_show draws it again. NULL: nothing. */
void bar_hide(struct bar *b);

#endif
