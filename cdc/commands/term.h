/*
 * term: what a terminal can show, and text fitted to it. Guarantees: nothing
 * but a terminal is ever sent an escape, unless somebody asked for it
 * (--color=always); a fitted line never wraps.
 */
#ifndef CDC_COMMANDS_TERM_H
#define CDC_COMMANDS_TERM_H

#include "proto/base/buf.h"

enum term_color { TERM_COLOR_AUTO, TERM_COLOR_ALWAYS, TERM_COLOR_NEVER };

enum term_ink {
	TERM_PLAIN,
	TERM_GOOD, /* green */
	TERM_BUSY, /* yellow */
	TERM_BAD,  /* red */
};

/* Columns and rows where nobody says how many there are. */
#define TERM_COLUMNS 80
#define TERM_ROWS    24

/* "auto", "always", "never"; NULL is auto. False: another word. */
bool term_color_parse(const char *word, enum term_color *ret) RT_MUSTCHECK;
/*
 * Is there to be colour? A choice of always or never is obeyed; else on a
 * terminal that is not dumb, unless no_color (NO_COLOR, see no-color.org) has any text.
 */
bool term_color_wanted(enum term_color choice, bool terminal, const char *no_color,
		       const char *term);
/* By the first of LC_ALL, LC_CTYPE and LANG that has any text: is the locale's encoding UTF-8? */
bool term_locale_is_utf8(const char *lc_all, const char *lc_ctype, const char *lang);

/* The same of this process and descriptor. */
bool term_has_color(int fd, enum term_color choice);
bool term_has_utf8(void);
/* A terminal on which a line can be drawn over. */
bool term_is_live(int fd);
/* Either may be 1 at least; the defaults above where it is no terminal. */
void term_size(int fd, unsigned *ret_columns, unsigned *ret_rows);

/* The escape that begins an ink, and the one that ends any; "" where there is no colour. */
const char *term_ink(bool color, enum term_ink ink);
const char *term_ink_end(bool color);

/* Appends text from outside: a control character (an escape of somebody's, a line's end) becomes a blank. */
void term_add_clean(struct buf *out, const char *text);
/* Columns that a line of ours takes: escapes of term_ink have none, wide characters two. */
unsigned term_columns(struct slice line);
/* Appends as much of the line as fits into so many columns; what is cut off shows as "…" ("~" without utf8). */
void term_fit(struct buf *out, struct slice line, unsigned columns, bool utf8);
/* Appends the line in lines of so many columns, broken between words; those behind the first begin with indent blanks. */
void term_wrap(struct buf *out, struct slice line, unsigned columns, unsigned indent);

#endif
