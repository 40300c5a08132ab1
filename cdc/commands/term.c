/* term: colour, size and encoding of a terminal, and lines that fit it. */
#include "cdc/commands/term.h"

#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define ESCAPE 0x1b

bool term_color_parse(const char *word, enum term_color *ret)
{
	static const char *const words[] = {"auto", "always", "never"};
	*ret = TERM_COLOR_AUTO;
	for (size_t i = 0; word != NULL && i < ARRAY_LEN(words); i++)
		if (strcmp(word, words[i]) == 0) {
			*ret = (enum term_color)i;
			return true;
		}
	return word == NULL;
}

static bool is_dumb(const char *term)
{
	return term == NULL || term[0] == '\0' || strcmp(term, "dumb") == 0;
}

bool term_color_wanted(enum term_color choice, bool terminal, const char *no_color,
		       const char *term)
{
	if (choice != TERM_COLOR_AUTO)
		return choice == TERM_COLOR_ALWAYS;
	return terminal && !is_dumb(term) && (no_color == NULL || no_color[0] == '\0');
}

bool term_locale_is_utf8(const char *lc_all, const char *lc_ctype, const char *lang)
{
	const char *said[] = {lc_all, lc_ctype, lang};
	for (size_t i = 0; i < ARRAY_LEN(said); i++)
		if (said[i] != NULL && said[i][0] != '\0')
			return strcasestr(said[i], "utf-8") != NULL ||
			       strcasestr(said[i], "utf8") != NULL;
	return false;
}

bool term_has_color(int fd, enum term_color choice)
{
	return term_color_wanted(choice, isatty(fd) == 1, getenv("NO_COLOR"), getenv("TERM"));
}

bool term_has_utf8(void)
{
	return term_locale_is_utf8(getenv("LC_ALL"), getenv("LC_CTYPE"), getenv("LANG"));
}

bool term_is_live(int fd)
{
	return isatty(fd) == 1 && !is_dumb(getenv("TERM"));
}

void term_size(int fd, unsigned *ret_columns, unsigned *ret_rows)
{
	struct winsize w = {0};
	bool known = ioctl(fd, TIOCGWINSZ, &w) == 0;
	*ret_columns = known && w.ws_col > 0 ? w.ws_col : TERM_COLUMNS;
	*ret_rows = known && w.ws_row > 0 ? w.ws_row : TERM_ROWS;
}

const char *term_ink(bool color, enum term_ink ink)
{
	static const char *const begin[] = {
		[TERM_PLAIN] = "",
		[TERM_GOOD] = "\033[32m",
		[TERM_BUSY] = "\033[33m",
		[TERM_BAD] = "\033[31m",
	};
	return color ? begin[ink] : "";
}

const char *term_ink_end(bool color)
{
	return color ? "\033[0m" : "";
}

void term_add_clean(struct buf *out, const char *text)
{
	for (; *text != '\0'; text++) {
		unsigned char c = (unsigned char)*text;
		buf_u8(out, c < ' ' || c == 0x7f ? ' ' : c);
	}
}

/* ---- columns ---- */

/* A piece of a line that is not taken apart: an escape, or a character. */
struct piece {
	size_t len;
	unsigned columns;
};

static bool is_wide(uint32_t c)
{
	static const struct {
		uint32_t from, to;
	} wide[] = {{0x1100, 0x115f}, {0x2e80, 0xa4cf},	  {0xac00, 0xd7a3},
		    {0xf900, 0xfaff}, {0xfe30, 0xfe6f},	  {0xff00, 0xff60},
		    {0xffe0, 0xffe6}, {0x1f300, 0x1faff}, {0x20000, 0x3fffd}};
	for (size_t i = 0; i < ARRAY_LEN(wide); i++)
		if (c >= wide[i].from && c <= wide[i].to)
			return true;
	return false;
}

/* "ESC [ … letter", or 0: no escape begins there. */
static size_t escape_len(struct slice s)
{
	if (s.len < 3 || s.p[0] != ESCAPE || s.p[1] != '[')
		return 0;
	for (size_t i = 2; i < s.len; i++)
		if (s.p[i] >= 0x40 && s.p[i] <= 0x7e)
			return i + 1;
	return s.len;
}

/* The piece at the head of s, which is not empty; bytes that are no UTF-8 count as a character each. */
static struct piece next_piece(struct slice s)
{
	struct piece p = {.len = escape_len(s)};
	if (p.len > 0)
		return p;
	size_t len = s.p[0] >= 0xf0 ? 4 : s.p[0] >= 0xe0 ? 3 : s.p[0] >= 0xc0 ? 2 : 1;
	uint32_t c = len == 1 ? s.p[0] : s.p[0] & (0x7fu >> len);
	for (size_t i = 1; i < len; i++) {
		if (i >= s.len || (s.p[i] & 0xc0) != 0x80)
			return (struct piece){1, 1};
		c = c << 6 | (s.p[i] & 0x3fu);
	}
	bool combines = c >= 0x300 && c <= 0x36f;
	return (struct piece){len, combines ? 0 : is_wide(c) ? 2 : 1};
}

static struct slice behind(struct slice s, size_t len)
{
	return slice_of(s.p + len, s.len - len);
}

unsigned term_columns(struct slice line)
{
	unsigned n = 0;
	while (line.len > 0) {
		struct piece p = next_piece(line);
		n += p.columns;
		line = behind(line, p.len);
	}
	return n;
}

void term_fit(struct buf *out, struct slice line, unsigned columns, bool utf8)
{
	bool cut = term_columns(line) > columns;
	unsigned left = cut && columns > 0 ? columns - 1 : columns;
	bool full = false;
	while (line.len > 0) {
		struct piece p = next_piece(line);
		if (p.columns > left && !full) {
			full = true;
			buf_str(out, columns == 0 ? "" : utf8 ? "…" : "~");
		}
		if (p.columns == 0 || !full) { /* an escape behind the cut still ends its ink */
			buf_add(out, line.p, p.len);
			left -= p.columns;
		}
		line = behind(line, p.len);
	}
}

/* Bytes and columns of the word at the head of s, blanks before it included. */
static struct piece next_word(struct slice s)
{
	struct piece word = {0};
	bool inside = false;
	while (s.len > 0 && !(inside && s.p[0] == ' ')) {
		struct piece p = next_piece(s);
		inside |= s.p[0] != ' ' && p.columns > 0;
		word.len += p.len;
		word.columns += p.columns;
		s = behind(s, p.len);
	}
	return word;
}

void term_wrap(struct buf *out, struct slice line, unsigned columns, unsigned indent)
{
	unsigned at = 0;
	indent = indent < columns / 2 ? indent : 0;
	while (line.len > 0) {
		struct piece word = next_word(line);
		unsigned blanks = 0;
		if (at > 0 && at + word.columns > columns) {
			while (blanks < word.len && line.p[blanks] == ' ')
				blanks++;
			buf_printf(out, "\n%*s", (int)indent, "");
			at = indent;
		}
		buf_add(out, line.p + blanks, word.len - blanks);
		at += word.columns - blanks;
		line = behind(line, word.len);
	}
}
