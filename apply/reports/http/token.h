/*
 * token: who may come over HTTP, and for what. A token is a secret that its
 * owner has; the file of tokens (http.tokens) has its SHA-256 alone, in lines
 * of NAME SCOPES HASH. Pure, but for token_file_read and token_make.
 */
#ifndef APPLY_REPORTS_HTTP_TOKEN_H
#define APPLY_REPORTS_HTTP_TOKEN_H

#include "proto/base/buf.h"
#include "proto/base/rt.h"
#include "proto/base/sha256.h"

#define TOKEN_NAME_MAX	 40
#define TOKENS_MAX	 1000
#define TOKEN_FILE_BYTES (1u << 20)
#define TOKEN_SIZE	 50 /* a token's text and a NUL */
#define TOKEN_SCHEME	 "rolag_"

enum token_scope {
	TOKEN_NONE = 0,	     /* what needs no token */
	TOKEN_READ = 1 << 0, /* reports:read */
	TOKEN_RUN = 1 << 1,  /* reports:run */
};

struct token {
	char name[TOKEN_NAME_MAX + 1]; /* a-z, 0-9, _ . - */
	unsigned scopes;	       /* of enum token_scope */
	uint8_t hash[SHA256_BYTES];
};

struct token_set {
	size_t count;
	struct token *item; /* malloc'd */
};

void token_set_release(struct token_set *set);
/*
 * Reads text (name stands in messages): lines of NAME SCOPES HASH, where
 * SCOPES are reports:read and reports:run with a comma between, empty lines,
 * and lines that begin with #. ERR_PERMANENT with "name:line: …"; no message
 * has anything of a line but its token's name.
 */
int token_set_parse(const char *name, struct slice text, struct token_set *ret,
		    struct rt_err *err) RT_MUSTCHECK;
/* The same of a file, which nobody but its owner may write. */
int token_file_read(const char *path, struct token_set *ret, struct rt_err *err) RT_MUSTCHECK;
/* The one whose token this text is, or NULL; takes the same time whichever it is, and when it is none. */
const struct token *token_find(const struct token_set *set, struct slice text);

/* A new token (256 random bits) and the line that lets its owner in; ERR_USAGE for a name that may not be. */
int token_make(const char *name, unsigned scopes, char ret_token[TOKEN_SIZE], struct buf *ret_line,
	       struct rt_err *err) RT_MUSTCHECK;
/* "reports:read,reports:run" → scopes; false when one is unknown or there is none. */
bool token_scopes_parse(struct slice text, unsigned *ret) RT_MUSTCHECK;
/* The name of one scope. */
const char *token_scope_name(enum token_scope scope);

#endif
