/*
 * scan: SQL tokens and braces. Guarantees: the pieces, put together again, are
 * the text but for what stood in braces; nothing that asks for the present is
 * passed over where SQL would call it.
 */
#include "transforms/models/scan.h"

#include <ctype.h>

/* The last words of SQL before the cursor: what a string or a parenthesis belongs to. */
struct word {
	char text[32]; /* lower-case; cut, which no word that counts is */
	bool call;     /* may be called: a name, not a string or sign */
};

#define PAREN_MAX 200

struct paren {
	bool age;  /* opened behind age: with one argument it asks for the present */
	bool many; /* it has a comma */
	size_t at;
};

struct scan {
	struct arena *a;
	const char *file;
	struct slice text;
	size_t at;
	size_t piece_from; /* where the SQL begins that is no piece yet */
	struct model_piece *piece;
	size_t count, cap;
	struct model_text *out;
	struct word last;
	bool after_semicolon;
	struct paren paren[PAREN_MAX];
	size_t depth;
	size_t placed; /* line and column of this byte: pieces come in order */
	int line, column;
	struct rt_err *err;
};

/* From the place of byte from to that of byte to. */
static void walk(struct slice text, size_t from, size_t to, int *line, int *column)
{
	for (size_t i = from; i < to && i < text.len; i++) {
		if (text.p[i] == '\n') {
			(*line)++;
			*column = 1;
		} else if ((text.p[i] & 0xC0) != 0x80) {
			(*column)++;
		}
	}
}

void model_locate(struct slice text, size_t at, int *ret_line, int *ret_column)
{
	*ret_line = *ret_column = 1;
	walk(text, 0, at, ret_line, ret_column);
}

static int fail_at(struct scan *s, size_t at, const char *fmt, ...) RT_PRINTF(3, 4);

static int fail_at(struct scan *s, size_t at, const char *fmt, ...)
{
	char what[512];
	int line, column;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	model_locate(s->text, at, &line, &column);
	return rt_fail(s->err, ERR_PERMANENT, "%s:%d:%d: %s", s->file, line, column, what);
}

/* The byte n behind the cursor; NUL at the end, which the text has nowhere else. */
static int peek(const struct scan *s, size_t n)
{
	return n < s->text.len - s->at ? s->text.p[s->at + n] : '\0';
}

static bool looking_at(const struct scan *s, const char *what)
{
	size_t n = strlen(what);
	return n <= s->text.len - s->at && memcmp(s->text.p + s->at, what, n) == 0;
}

static bool begins_word(int c)
{
	return isalpha(c) || c == '_' || c >= 0x80;
}

static bool goes_on_word(int c)
{
	return begins_word(c) || isdigit(c) || c == '$';
}

static struct model_piece *add_piece(struct scan *s, enum model_piece_kind kind, size_t from)
{
	if (s->count == s->cap) {
		size_t cap = s->cap == 0 ? 16 : s->cap * 2;
		struct model_piece *grown = arena_alloc(s->a, cap * sizeof(*grown));
		if (s->count > 0)
			memcpy(grown, s->piece, s->count * sizeof(*grown));
		s->piece = grown;
		s->cap = cap;
	}
	struct model_piece *p = &s->piece[s->count++];
	*p = (struct model_piece){.kind = kind, .from = (uint32_t)from};
	walk(s->text, s->placed, from, &s->line, &s->column);
	s->placed = RT_MAX(s->placed, from);
	p->line = s->line;
	p->column = s->column;
	return p;
}

/* The SQL up to here becomes a piece. */
static void cut_sql(struct scan *s, size_t to)
{
	if (to == s->piece_from)
		return;
	struct model_piece *p = add_piece(s, PIECE_SQL, s->piece_from);
	p->sql = slice_of(s->text.p + s->piece_from, to - s->piece_from);
}

/* ---- braces ---- */

#define ARGS_MAX 4

struct argument {
	const char *key; /* NULL: by place */
	const char *value;
	size_t at;
};

static void skip_blanks(struct scan *s)
{
	while (isspace(peek(s, 0)))
		s->at++;
}

static const char *take_word(struct scan *s)
{
	size_t from = s->at;
	while (goes_on_word(peek(s, 0)))
		s->at++;
	return arena_strndup(s->a, (const char *)s->text.p + from, s->at - from);
}

/* 'text' or "text"; a name, so without escapes, quotes and control characters. */
static int take_string(struct scan *s, const char **ret)
{
	int quote = peek(s, 0);
	size_t from = s->at;
	if (quote != '\'' && quote != '"')
		return fail_at(s, s->at, "a name in quotes is expected here");
	for (s->at++; peek(s, 0) != quote; s->at++)
		if (peek(s, 0) < ' ' || peek(s, 0) == '\\')
			return fail_at(s, from,
				       "the quote is not closed, or holds more than a name");
	*ret = arena_strndup(s->a, (const char *)s->text.p + from + 1, s->at - from - 1);
	s->at++;
	return 0;
}

static int take_argument(struct scan *s, struct argument *ret)
{
	*ret = (struct argument){.at = s->at};
	if (begins_word(peek(s, 0))) {
		ret->key = take_word(s);
		skip_blanks(s);
		if (peek(s, 0) != '=')
			return fail_at(s, ret->at, "only names in quotes can stand here, not %s",
				       ret->key);
		s->at++;
		skip_blanks(s);
	}
	return take_string(s, &ret->value);
}

static int take_arguments(struct scan *s, struct argument *arg, size_t *ret_count)
{
	size_t n = 0;
	s->at++; /* ( */
	skip_blanks(s);
	while (peek(s, 0) != ')') {
		int rc;
		if (n == ARGS_MAX)
			return fail_at(s, s->at, "too many arguments");
		if ((rc = take_argument(s, &arg[n++])) != 0)
			return rc;
		skip_blanks(s);
		if (peek(s, 0) == ',') {
			s->at++;
			skip_blanks(s);
		} else if (peek(s, 0) != ')') {
			return fail_at(s, s->at, "a comma or ) is expected here");
		}
	}
	s->at++;
	*ret_count = n;
	return 0;
}

static int take_config(struct scan *s, size_t from, const struct argument *arg, size_t count)
{
	if (s->out->config_line != 0)
		return fail_at(s, from, "config stands twice");
	if (count == 0)
		return fail_at(s, from, "config wants materialized='view' or materialized='table'");
	for (size_t i = 0; i < count; i++) {
		if (arg[i].key == NULL || strcmp(arg[i].key, "materialized") != 0)
			return fail_at(s, arg[i].at,
				       "config takes materialized='view' or materialized='table', "
				       "nothing else");
		if (strcmp(arg[i].value, "view") == 0)
			s->out->materialized = MATERIALIZED_VIEW;
		else if (strcmp(arg[i].value, "table") == 0)
			s->out->materialized = MATERIALIZED_TABLE;
		else
			return fail_at(s, arg[i].at, "materialized is 'view' or 'table', not '%s'",
				       arg[i].value);
	}
	model_locate(s->text, from, &s->out->config_line, &s->out->config_column);
	return 0;
}

/* What braces hold, as a piece; config leaves none. */
static int understand(struct scan *s, size_t from, const char *word, const struct argument *arg,
		      size_t count, bool called)
{
	static const struct {
		const char *name;
		enum model_piece_kind kind;
		size_t args;
		const char *form;
	} known[] = {{"ref", PIECE_REF, 1, "ref('model')"},
		     {"source", PIECE_SOURCE, 2, "source('source', 'table')"},
		     {"var", PIECE_VAR, 1, "var('name')"}};
	if (strcmp(word, "config") == 0 && called)
		return take_config(s, from, arg, count);
	if (strcmp(word, "this") == 0 && !called) {
		add_piece(s, PIECE_THIS, from);
		return 0;
	}
	for (size_t i = 0; i < ARRAY_LEN(known); i++) {
		if (strcmp(word, known[i].name) != 0)
			continue;
		bool good = called && count == known[i].args;
		for (size_t k = 0; good && k < count; k++)
			good = arg[k].key == NULL && arg[k].value[0] != '\0';
		if (!good)
			return fail_at(s, from, "it is written {{ %s }}", known[i].form);
		struct model_piece *p = add_piece(s, known[i].kind, from);
		p->name = arg[0].value;
		p->table = count > 1 ? arg[1].value : NULL;
		return 0;
	}
	return fail_at(s, from,
		       "{{ %s }} is not known; known are ref, source, var, config and this", word);
}

static int scan_expression(struct scan *s)
{
	struct argument arg[ARGS_MAX] = {{0}};
	size_t count = 0, from = s->at;
	bool called = false;
	int rc = 0;
	cut_sql(s, from);
	s->at += 2;
	if (peek(s, 0) == '-')
		s->at++;
	skip_blanks(s);
	size_t word_at = s->at;
	if (!begins_word(peek(s, 0)))
		return fail_at(s, from, "braces hold ref, source, var, config or this");
	const char *word = take_word(s);
	skip_blanks(s);
	if (peek(s, 0) == '(') {
		called = true;
		if ((rc = take_arguments(s, arg, &count)) != 0)
			return rc;
		skip_blanks(s);
	}
	if (peek(s, 0) == '-' && peek(s, 1) == '}')
		s->at++;
	if (!looking_at(s, "}}"))
		return fail_at(s, s->at, "}} is expected here: there is no template language");
	if ((rc = understand(s, word_at, word, arg, count, called)) != 0)
		return rc;
	s->at += 2;
	s->piece_from = s->at;
	s->last = (struct word){.text = "{{"};
	return 0;
}

/* Braces, wherever dbt would see them: in code and in comments of SQL. */
static int scan_braces(struct scan *s)
{
	size_t from = s->at;
	if (looking_at(s, "{%"))
		return fail_at(s, from, "{%% … %%} is not known: there is no template language");
	if (looking_at(s, "{{"))
		return scan_expression(s);
	cut_sql(s, from);
	while (s->at < s->text.len && !looking_at(s, "#}"))
		s->at++;
	if (s->at == s->text.len)
		return fail_at(s, from, "{# is not closed");
	s->at += 2;
	s->piece_from = s->at;
	return 0;
}

static bool at_braces(const struct scan *s)
{
	return looking_at(s, "{{") || looking_at(s, "{%") || looking_at(s, "{#");
}

/* ---- what asks for the present ---- */

/* Without parentheses. */
static const char *const clock_words[] = {"current_date", "current_time", "current_timestamp",
					  "localtime", "localtimestamp"};
/* Called. They differ from call to call, or from session to session. */
static const char *const clock_calls[] = {"now",
					  "clock_timestamp",
					  "statement_timestamp",
					  "transaction_timestamp",
					  "timeofday",
					  "random",
					  "random_normal",
					  "setseed",
					  "gen_random_uuid",
					  "gen_random_bytes",
					  "uuid_generate_v1",
					  "uuid_generate_v1mc",
					  "uuid_generate_v4",
					  "uuidv4",
					  "uuidv7",
					  "nextval",
					  "currval",
					  "lastval",
					  "setval",
					  "txid_current",
					  "pg_current_xact_id"};
/* Strings that a date or time reads as the present. */
static const char *const clock_texts[] = {"now", "today", "tomorrow", "yesterday"};

static bool is_in(const char *word, const char *const *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(word, list[i]) == 0)
			return true;
	return false;
}

#define USE_VAR "a model is given its time: {{ var('run_at') }}, {{ var('as_of') }}"

/* A date's input: words of clock_texts, and behind them times and zones only. */
static bool means_present(const char *text, size_t len)
{
	bool found = false;
	for (size_t i = 0; i < len;) {
		char word[16];
		size_t n = 0;
		while (i < len && isspace((unsigned char)text[i]))
			i++;
		if (i == len)
			break;
		size_t from = i;
		while (i < len && !isspace((unsigned char)text[i])) {
			if (n < sizeof(word) - 1)
				word[n++] = (char)tolower((unsigned char)text[i]);
			i++;
		}
		word[n] = '\0';
		if (is_in(word, clock_texts, ARRAY_LEN(clock_texts)))
			found = true;
		else if (!isdigit((unsigned char)text[from]) && strcmp(word, "allballs") != 0)
			return false;
	}
	return found;
}

/* ---- SQL ---- */

static void note(struct scan *s, const char *text, bool call)
{
	snprintf(s->last.text, sizeof(s->last.text), "%s", text);
	s->last.call = call;
}

static int scan_line_comment(struct scan *s)
{
	while (s->at < s->text.len && peek(s, 0) != '\n') {
		int rc;
		if (!at_braces(s))
			s->at++;
		else if ((rc = scan_braces(s)) != 0)
			return rc;
	}
	return 0;
}

/* They nest, as PostgreSQL's do. */
static int scan_block_comment(struct scan *s)
{
	size_t from = s->at;
	int depth = 0, rc;
	do {
		if (s->at == s->text.len)
			return fail_at(s, from, "the comment is not closed");
		if (looking_at(s, "/*")) {
			depth++;
			s->at += 2;
		} else if (looking_at(s, "*/")) {
			depth--;
			s->at += 2;
		} else if (at_braces(s)) {
			if ((rc = scan_braces(s)) != 0)
				return rc;
		} else {
			s->at++;
		}
	} while (depth > 0);
	return 0;
}

/* A string or a quoted name from its opening quote on; escapes: a backslash takes the next byte with it. */
static int scan_quoted(struct scan *s, bool escapes, size_t *ret_from, size_t *ret_len)
{
	int quote = peek(s, 0);
	size_t from = s->at++;
	for (;; s->at++) {
		if (s->at == s->text.len)
			return fail_at(s, from, "the quote is not closed");
		if (at_braces(s))
			return fail_at(s, s->at,
				       "braces within quotes would be a template to dbt; write the "
				       "text in two parts: '{' || '{'");
		if ((escapes && peek(s, 0) == '\\' && s->at + 1 < s->text.len) ||
		    (peek(s, 0) == quote && peek(s, 1) == quote))
			s->at++;
		else if (peek(s, 0) == quote)
			break;
	}
	*ret_from = from + 1;
	*ret_len = s->at - from - 1;
	s->at++;
	return 0;
}

static int scan_string(struct scan *s, bool escapes)
{
	size_t from, len;
	int rc = scan_quoted(s, escapes, &from, &len);
	if (rc == 0 && means_present((const char *)s->text.p + from, len))
		return fail_at(s, from - 1,
			       "a date or time reads this string as the present; " USE_VAR
			       " (a mere text: in two parts, 'to' || 'day')");
	note(s, "'", false);
	return rc;
}

/* $tag$ … $tag$; a $ that opens none is passed over. */
static int scan_dollar(struct scan *s)
{
	size_t n = 1, from = s->at;
	while (goes_on_word(peek(s, n)) && peek(s, n) != '$' && !(n == 1 && isdigit(peek(s, n))))
		n++;
	if (peek(s, n) != '$') {
		s->at++;
		return 0;
	}
	const char *tag = arena_strndup(s->a, (const char *)s->text.p + from, n + 1);
	for (s->at += n + 1; !looking_at(s, tag); s->at++) {
		if (s->at == s->text.len)
			return fail_at(s, from, "the dollar quote is not closed");
		if (at_braces(s))
			return fail_at(s, s->at, "braces within quotes would be a template to dbt");
	}
	if (means_present((const char *)s->text.p + from + n + 1, s->at - from - n - 1))
		return fail_at(s, from,
			       "a date or time reads this string as the present; " USE_VAR);
	s->at += n + 1;
	note(s, "'", false);
	return 0;
}

/* Is a ( next, behind blanks and comments? */
static bool is_called(const struct scan *s)
{
	size_t i = s->at;
	for (;;) {
		while (i < s->text.len && isspace(s->text.p[i]))
			i++;
		if (i + 1 < s->text.len && s->text.p[i] == '-' && s->text.p[i + 1] == '-') {
			while (i < s->text.len && s->text.p[i] != '\n')
				i++;
		} else if (i + 1 < s->text.len && s->text.p[i] == '/' && s->text.p[i + 1] == '*') {
			const void *end = memmem(s->text.p + i + 2, s->text.len - i - 2, "*/", 2);
			if (end == NULL)
				return false;
			i = (size_t)((const uint8_t *)end - s->text.p) + 2;
		} else {
			return i < s->text.len && s->text.p[i] == '(';
		}
	}
}

static int judge_name(struct scan *s, size_t from, const char *name)
{
	if (is_in(name, clock_calls, ARRAY_LEN(clock_calls)) && is_called(s))
		return fail_at(s, from, "%s() differs from call to call; " USE_VAR, name);
	note(s, name, true);
	return 0;
}

static int scan_word(struct scan *s)
{
	size_t from = s->at, n = 0;
	char word[64];
	while (goes_on_word(peek(s, 0))) {
		if (n < sizeof(word) - 1)
			word[n++] = (char)tolower(peek(s, 0));
		s->at++;
	}
	word[n] = '\0';
	if (peek(s, 0) == '\'' && n == 1 && strchr("enbx", word[0]) != NULL)
		return scan_string(s, word[0] == 'e');
	if (peek(s, 0) == '&' && strcmp(word, "u") == 0 &&
	    (peek(s, 1) == '\'' || peek(s, 1) == '"'))
		return fail_at(s, from, "U& is not taken: write the characters themselves");
	if (strcmp(s->last.text, ".") != 0 && is_in(word, clock_words, ARRAY_LEN(clock_words)))
		return fail_at(s, from, "%s asks for the present; " USE_VAR, word);
	return judge_name(s, from, word);
}

static int scan_name(struct scan *s)
{
	size_t from, len, at = s->at;
	int rc = scan_quoted(s, false, &from, &len);
	if (rc != 0)
		return rc;
	return judge_name(s, at, arena_strndup(s->a, (const char *)s->text.p + from, len));
}

static int open_paren(struct scan *s)
{
	if (s->depth == PAREN_MAX)
		return fail_at(s, s->at, "parentheses are nested deeper than %d", PAREN_MAX);
	s->paren[s->depth++] = (struct paren){
		.age = s->last.call && strcmp(s->last.text, "age") == 0, .at = s->at};
	return 0;
}

static int close_paren(struct scan *s)
{
	if (s->depth == 0)
		return fail_at(s, s->at, "this ) closes nothing");
	const struct paren *p = &s->paren[--s->depth];
	if (p->age && !p->many)
		return fail_at(s, p->at, "age() of one argument counts up to today; " USE_VAR);
	return 0;
}

/* Any other byte of SQL. */
static int scan_sign(struct scan *s)
{
	int c = peek(s, 0), rc = 0;
	char text[2] = {(char)c, '\0'};
	if (c == '{' || c == '}')
		return fail_at(s, s->at, "a brace means nothing here");
	if (c == ';')
		s->after_semicolon = true;
	if (c == '(')
		rc = open_paren(s);
	else if (c == ')')
		rc = close_paren(s);
	else if (c == ',' && s->depth > 0)
		s->paren[s->depth - 1].many = true;
	if (!isspace(c))
		note(s, text, false);
	s->at++;
	return rc;
}

/* A number, with what clings to it: 1e5, 0x1f; no word begins there. */
static void scan_number(struct scan *s)
{
	while (goes_on_word(peek(s, 0)) || peek(s, 0) == '.')
		s->at++;
	note(s, "0", false);
}

static int scan_token(struct scan *s)
{
	int c = peek(s, 0);
	if (looking_at(s, "--"))
		return scan_line_comment(s);
	if (looking_at(s, "/*"))
		return scan_block_comment(s);
	if (at_braces(s) && !s->after_semicolon)
		return scan_braces(s);
	if (s->after_semicolon && !isspace(c))
		return fail_at(s, s->at, "a model is one SELECT: nothing can stand behind its ;");
	if (c == '\'')
		return scan_string(s, false);
	if (c == '"')
		return scan_name(s);
	if (c == '$')
		return scan_dollar(s);
	if (begins_word(c))
		return scan_word(s);
	if (isdigit(c)) {
		scan_number(s);
		return 0;
	}
	if (c == ';') {
		/* dbt would not take it either, but a last one does no harm: it is left out. */
		cut_sql(s, s->at);
		s->piece_from = s->at + 1;
	}
	return scan_sign(s);
}

int model_scan(struct arena *a, const char *file, struct slice text, struct model_text *ret,
	       struct rt_err *err)
{
	struct model_text out = {0};
	struct scan s = {.a = a,
			 .file = file,
			 .text = text,
			 .out = &out,
			 .err = err,
			 .line = 1,
			 .column = 1};
	if (text.len > MODEL_TEXT_MAX_BYTES)
		return rt_fail(err, ERR_PERMANENT, "%s:1:1: larger than %u bytes", file,
			       MODEL_TEXT_MAX_BYTES);
	const void *nul = text.len > 0 ? memchr(text.p, '\0', text.len) : NULL;
	if (nul != NULL)
		return fail_at(&s, (size_t)((const uint8_t *)nul - text.p), "a NUL byte");
	while (s.at < text.len) {
		int rc = scan_token(&s);
		if (rc != 0)
			return rc;
		if (s.count > MODEL_PIECES_MAX)
			return fail_at(&s, s.at, "more than %d braces", MODEL_PIECES_MAX);
	}
	if (s.depth > 0)
		return fail_at(&s, s.paren[s.depth - 1].at, "this ( is not closed");
	cut_sql(&s, text.len);
	out.piece = s.piece;
	out.piece_count = s.count;
	*ret = out;
	return 0;
}
