/*
 * datetime_fields: cuts the text of a date or timestamp into fields, by its
 * characters alone (manual, appendix B.1, step 1). Guarantees: fields are in
 * lower case and NUL-terminated; no more of them, and no longer ones, than the
 * server has room for.
 */
#include "proto/pg/datetime.h"
#include "proto/pg/types_inner.h"

/* The character at the cursor; 0, which is of no class, at the end. */
static uint8_t peek(const struct fields *f)
{
	return f->p < f->end ? *f->p : 0;
}

static void put(struct fields *f, uint8_t c)
{
	if (f->used == f->room) {
		f->overflow = true;
		return;
	}
	f->work[f->used++] = (char)c;
}

static void take(struct fields *f)
{
	put(f, pgt_lower(*f->p++));
}

static void take_digits(struct fields *f)
{
	while (pgt_is_digit(peek(f)))
		take(f);
}

static void take_letters(struct fields *f)
{
	while (pgt_is_letter(peek(f)))
		take(f);
}

/* 12, 12:34:56.7, 2024-01-31, 31/jan/2024, 12.5 */
static enum token cut_digits(struct fields *f)
{
	take_digits(f);
	uint8_t c = peek(f);
	if (c == ':') {
		while (pgt_is_digit(peek(f)) || peek(f) == ':' || peek(f) == '.')
			take(f);
		return TOKEN_TIME;
	}
	if (c != '-' && c != '/' && c != '.')
		return TOKEN_NUMBER;
	take(f);
	if (!pgt_is_digit(peek(f))) {
		while (pgt_is_digit(peek(f)) || pgt_is_letter(peek(f)) || peek(f) == c)
			take(f);
		return TOKEN_DATE;
	}
	take_digits(f);
	if (peek(f) != c)
		return c == '.' ? TOKEN_NUMBER : TOKEN_DATE;
	/* The same delimiter again makes it a date of three parts, even with points. */
	while (pgt_is_digit(peek(f)) || peek(f) == c)
		take(f);
	return TOKEN_DATE;
}

/* A word; or a date or a zone's name that begins with one ("jan-8-1999", "america/new_york"). */
static enum token cut_letters(struct fields *f)
{
	size_t start = f->used;
	take_letters(f);
	uint8_t c = peek(f);
	bool joined = c == '-' || c == '/' || c == '.';
	if (c == '+' || pgt_is_digit(c)) {
		/* "y2001": a word that is known ends where its number begins. */
		put(f, '\0');
		if (f->overflow)
			return TOKEN_WORD;
		f->used--;
		joined = word_find(f->work + start) == NULL;
	}
	if (!joined)
		return TOKEN_WORD;
	for (; (c = peek(f)) != 0; take(f)) {
		if (!pgt_is_digit(c) && !pgt_is_letter(c) && strchr("+-/_.:", c) == NULL)
			break;
	}
	return TOKEN_DATE;
}

/* +05, +05:30, -infinity; false for a lone sign. */
static bool cut_signed(struct fields *f, enum token *ret)
{
	take(f);
	while (pgt_is_space(peek(f)))
		f->p++;
	if (pgt_is_letter(peek(f))) {
		take_letters(f);
		*ret = TOKEN_SPECIAL;
		return true;
	}
	if (!pgt_is_digit(peek(f)))
		return false;
	while (pgt_is_digit(peek(f)) || peek(f) == ':' || peek(f) == '.' || peek(f) == '-')
		take(f);
	*ret = TOKEN_ZONE;
	return true;
}

/* Cuts one field off; false when its characters cannot be one. */
static bool cut_field(struct fields *f)
{
	uint8_t c = peek(f);
	char *text = f->work + f->used;
	enum token kind;
	if (f->count == FIELDS_MAX)
		return false;
	if (pgt_is_digit(c)) {
		kind = cut_digits(f);
	} else if (c == '.') {
		take(f);
		take_digits(f);
		kind = TOKEN_NUMBER;
	} else if (pgt_is_letter(c)) {
		kind = cut_letters(f);
	} else if (c == '+' || c == '-') {
		if (!cut_signed(f, &kind))
			return false;
	} else {
		return false;
	}
	put(f, '\0');
	f->kind[f->count] = kind;
	f->text[f->count++] = text;
	return !f->overflow;
}

bool fields_cut(struct slice text, size_t room, struct fields *f)
{
	*f = (struct fields){.p = text.p, .end = text.p + text.len, .room = room};
	RT_ASSERT(room <= ROOM_MAX);
	while (f->p < f->end) {
		uint8_t c = *f->p;
		bool other = c > ' ' && c < 0x7f && !pgt_is_digit(c) && !pgt_is_letter(c) &&
			     c != '.' && c != '+' && c != '-';
		if (pgt_is_space(c) || other) /* all other punctuation only separates */
			f->p++;
		else if (!cut_field(f))
			return false;
	}
	return true;
}
