/* token: hashes of secrets. Guarantees: a token is nowhere but with its owner; a bad file lets nobody in. */
#include "apply/reports/http/token.h"

#include <errno.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "proto/base/buf.h"
#include "proto/base/fsio.h"

#define SECRET_BYTES 32

static const struct {
	enum token_scope scope;
	const char *name;
} scopes_known[] = {{TOKEN_READ, "reports:read"}, {TOKEN_RUN, "reports:run"}};

const char *token_scope_name(enum token_scope scope)
{
	for (size_t i = 0; i < ARRAY_LEN(scopes_known); i++)
		if (scopes_known[i].scope == scope)
			return scopes_known[i].name;
	return "";
}

bool token_scopes_parse(struct slice text, unsigned *ret)
{
	unsigned scopes = 0;
	while (text.len > 0) {
		const uint8_t *comma = memchr(text.p, ',', text.len);
		struct slice one =
			slice_of(text.p, comma != NULL ? (size_t)(comma - text.p) : text.len);
		size_t i = 0;
		while (i < ARRAY_LEN(scopes_known) && !slice_is(one, scopes_known[i].name))
			i++;
		if (i == ARRAY_LEN(scopes_known))
			return false;
		scopes |= scopes_known[i].scope;
		size_t taken = one.len + (comma != NULL);
		text = slice_of(text.p + taken, text.len - taken);
		if (comma != NULL && text.len == 0)
			return false;
	}
	*ret = scopes;
	return scopes != 0;
}

static bool is_name(struct slice s)
{
	for (size_t i = 0; i < s.len; i++)
		if (s.p[i] == 0 ||
		    strchr("abcdefghijklmnopqrstuvwxyz0123456789_.-", s.p[i]) == NULL)
			return false;
	return s.len > 0 && s.len <= TOKEN_NAME_MAX;
}

static int hex_digit(uint8_t c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_hash(struct slice s, uint8_t out[SHA256_BYTES])
{
	if (s.len != (size_t)2 * SHA256_BYTES)
		return false;
	for (size_t i = 0; i < SHA256_BYTES; i++) {
		int high = hex_digit(s.p[2 * i]), low = hex_digit(s.p[2 * i + 1]);
		if (high < 0 || low < 0)
			return false;
		out[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

/* ---- the file ---- */

void token_set_release(struct token_set *set)
{
	free(set->item);
	*set = (struct token_set){0, NULL};
}

static bool is_blank(uint8_t c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

/* The next word of a line, which moves past it; empty at its end. */
static struct slice next_word(struct slice *line)
{
	size_t from = 0, to;
	while (from < line->len && is_blank(line->p[from]))
		from++;
	for (to = from; to < line->len && !is_blank(line->p[to]);)
		to++;
	struct slice word = slice_of(line->p + from, to - from);
	*line = slice_of(line->p + to, line->len - to);
	return word;
}

static int read_line(const char *name, int number, struct slice line, struct token_set *set,
		     struct rt_err *err)
{
	struct slice who = next_word(&line), scopes = next_word(&line), hash = next_word(&line);
	if (who.len == 0 || who.p[0] == '#')
		return 0;
	struct token *t = &set->item[set->count];
	if (!is_name(who))
		return rt_fail(err, ERR_PERMANENT,
			       "%s:%d: a token's name has 1 to %d of a-z, 0-9, _ . -", name, number,
			       TOKEN_NAME_MAX);
	*t = (struct token){0};
	memcpy(t->name, who.p, who.len);
	if (!token_scopes_parse(scopes, &t->scopes))
		return rt_fail(err, ERR_PERMANENT,
			       "%s:%d: the scopes of %s must be reports:read, reports:run or both "
			       "with a comma",
			       name, number, t->name);
	if (!read_hash(hash, t->hash) || next_word(&line).len > 0)
		return rt_fail(err, ERR_PERMANENT,
			       "%s:%d: behind the scopes of %s stands the SHA-256 of its token, 64 "
			       "of 0-9 and a-f, and nothing else (rolag report token %s)",
			       name, number, t->name, t->name);
	for (size_t i = 0; i < set->count; i++)
		if (strcmp(set->item[i].name, t->name) == 0)
			return rt_fail(err, ERR_PERMANENT, "%s:%d: there is a token %s already",
				       name, number, t->name);
	set->count++;
	return 0;
}

int token_set_parse(const char *name, struct slice text, struct token_set *ret, struct rt_err *err)
{
	struct token_set set = {0, rt_calloc(TOKENS_MAX, sizeof(struct token))};
	int rc = 0;
	for (int number = 1; rc == 0 && text.len > 0; number++) {
		const uint8_t *end = memchr(text.p, '\n', text.len);
		size_t len = end != NULL ? (size_t)(end - text.p) : text.len;
		if (set.count == TOKENS_MAX)
			rc = rt_fail(err, ERR_PERMANENT, "%s:%d: more than %d tokens", name, number,
				     TOKENS_MAX);
		else
			rc = read_line(name, number, slice_of(text.p, len), &set, err);
		len += end != NULL;
		text = slice_of(text.p + len, text.len - len);
	}
	if (rc != 0)
		token_set_release(&set);
	else
		*ret = set;
	return rc;
}

int token_file_read(const char *path, struct token_set *ret, struct rt_err *err)
{
	struct stat st;
	char *text;
	size_t len;
	int rc = fs_read_file(path, TOKEN_FILE_BYTES, &text, &len, err);
	if (rc != 0)
		return rc;
	if (stat(path, &st) != 0)
		rc = rt_fail_errno(err, ERR_PERMANENT, "cannot look at %s", path);
	else if ((st.st_mode & (S_IWGRP | S_IWOTH)) != 0)
		rc = rt_fail(err, ERR_PERMANENT,
			     "%s: others may write it, and let themselves in; mend: chmod go-w %s",
			     path, path);
	else
		rc = token_set_parse(path, slice_of(text, len), ret, err);
	free(text);
	return rc;
}

/* ---- looking and making ---- */

static void hash_of(struct slice text, uint8_t out[SHA256_BYTES])
{
	struct sha256 h;
	sha256_init(&h);
	sha256_add(&h, text.p, text.len);
	sha256_end(&h, out);
}

const struct token *token_find(const struct token_set *set, struct slice text)
{
	uint8_t hash[SHA256_BYTES];
	const struct token *found = NULL;
	hash_of(text, hash);
	for (size_t i = 0; i < set->count; i++) {
		/* volatile: every byte is looked at, whatever the others were. */
		volatile uint8_t differs = 0;
		for (size_t k = 0; k < SHA256_BYTES; k++)
			differs |= set->item[i].hash[k] ^ hash[k];
		found = differs == 0 ? &set->item[i] : found;
	}
	return found;
}

static void write_base64url(const uint8_t *p, size_t bytes, struct buf *out)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	for (size_t i = 0; i < bytes; i += 3) {
		uint32_t v = (uint32_t)p[i] << 16;
		v |= i + 1 < bytes ? (uint32_t)p[i + 1] << 8 : 0;
		v |= i + 2 < bytes ? p[i + 2] : 0;
		for (size_t k = 0; k < RT_MIN(bytes - i, (size_t)3) + 1; k++)
			buf_u8(out, (uint8_t)digits[v >> (18 - 6 * k) & 63]);
	}
}

int token_make(const char *name, unsigned scopes, char ret_token[TOKEN_SIZE], struct buf *ret_line,
	       struct rt_err *err)
{
	uint8_t secret[SECRET_BYTES];
	char hash[SHA256_HEX];
	if (!is_name(slice_str(name)))
		return rt_fail(err, ERR_USAGE, "a token's name has 1 to %d of a-z, 0-9, _ . -",
			       TOKEN_NAME_MAX);
	if (getrandom(secret, sizeof(secret), 0) != (ssize_t)sizeof(secret))
		return rt_fail_errno(err, ERR_SYSTEM, "no random bytes for a token");
	struct buf text = BUF_INIT;
	buf_str(&text, TOKEN_SCHEME);
	write_base64url(secret, sizeof(secret), &text);
	RT_ASSERT(text.len + 1 == TOKEN_SIZE);
	memcpy(ret_token, buf_cstr(&text), TOKEN_SIZE);
	sha256_hex(buf_slice(&text), hash);
	buf_release(&text);
	buf_printf(ret_line, "%s ", name);
	const char *comma = "";
	for (size_t i = 0; i < ARRAY_LEN(scopes_known); i++) {
		if ((scopes & scopes_known[i].scope) == 0)
			continue;
		buf_printf(ret_line, "%s%s", comma, scopes_known[i].name);
		comma = ",";
	}
	buf_printf(ret_line, " %s", hash);
	return 0;
}
