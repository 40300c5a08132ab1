/*
 * conf: a configuration as a table of keys. One row says a key's name, type,
 * default, range, unit and meaning; reading, checking, printing and the
 * shipped example all follow from the table, so none of them can disagree.
 */
#ifndef PROTO_BASE_CONF_H
#define PROTO_BASE_CONF_H

#include "proto/base/arena.h"
#include "proto/base/buf.h"
#include "proto/base/rt.h"

enum conf_type {
	CONF_STRING,   /* const char * ; "" unless set */
	CONF_INT,      /* int64_t */
	CONF_BYTES,    /* uint64_t; "64 MB": kB MB GB TB are powers of 1024, as in PostgreSQL */
	CONF_DURATION, /* int64_t µs; "100 ms", units us ms s min h d */
	CONF_BOOL,     /* bool */
	CONF_ENUM,     /* int: index into names */
	CONF_LIST,     /* struct conf_list of strings */
};

struct conf_list {
	size_t count;
	const char *const *item;
};

struct conf_key {
	const char *name; /* dotted path: "spool.quota" */
	enum conf_type type;
	size_t offset;		  /* of the field in the settings struct */
	const char *init;	  /* default as it would be written; NULL: must be given */
	int64_t min, max;	  /* CONF_INT, CONF_BYTES, CONF_DURATION (µs); both 0: any */
	const char *const *names; /* CONF_ENUM: NULL-terminated */
	bool reload;		  /* SIGHUP takes a new value; others need a restart */
	const char *help;	  /* one or more sentences for the shipped file */
};

/* Fills *settings with the defaults of keys that have one (strings point to the table). */
void conf_defaults(const struct conf_key *keys, size_t count, void *settings);
/*
 * Reads YAML text into *settings (already defaulted); strings live in the
 * arena. ERR_PERMANENT naming file (path), line, column and, for an unknown
 * key, the nearest name; missing keys without default are named too.
 */
int conf_parse(const struct conf_key *keys, size_t count, const char *path, struct slice text,
	       struct arena *a, void *settings, struct rt_err *err) RT_MUSTCHECK;
/* Appends the names of keys that SIGHUP does not take (reload is false) and whose values differ, with spaces between. */
void conf_needs_restart(const struct conf_key *keys, size_t count, const void *was, const void *is,
			struct buf *out);
/* What a value may be, and when it takes effect: at most three lines, each beginning with prefix. */
void conf_print_facts(const struct conf_key *k, const char *prefix, struct buf *out);
/* The whole commented example file: every key, its default, range and unit. */
void conf_print_example(const struct conf_key *keys, size_t count, struct buf *out);

/* "64 MB" → bytes, "100 ms" → µs; false when text is neither in range of the type nor well formed. */
bool conf_parse_bytes(const char *text, uint64_t *ret) RT_MUSTCHECK;
bool conf_parse_duration(const char *text, int64_t *ret) RT_MUSTCHECK;

#endif
