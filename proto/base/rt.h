/*
 * rt: what every file of the program stands on: error values, allocation that
 * cannot fail, clocks, and the functions we do not allow ourselves.
 *
 * Errors are values. A function that can fail returns 0 or a negative
 * enum rt_code and describes the failure in the caller's struct rt_err; only
 * top-level handlers log it. The code says what to do about it, not where it
 * came from.
 */
#ifndef PROTO_BASE_RT_H
#define PROTO_BASE_RT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum rt_code {
	RT_OK = 0,
	ERR_RETRY = -1,	    /* temporary and outside of us: reconnect with backoff; at exit 111 */
	ERR_PERMANENT = -2, /* going on would be wrong until a person acts; exit 100 */
	ERR_SYSTEM = -3,    /* this machine failed us (disk, memory map, fork); exit 111 */
	ERR_USAGE = -4,	    /* the command line is wrong; exit 2 */
};

/* Exit codes of every role and command; systemd units rely on them. */
enum rt_exit {
	EXIT_OK = 0,
	EXIT_FINDING = 1, /* a check or comparison found something */
	EXIT_USAGE = 2,
	EXIT_PERMANENT = 100,
	EXIT_TEMPORARY = 111,
};

struct rt_err {
	enum rt_code code;
	char msg[1024]; /* one line, no row values */
};

#define RT_MUSTCHECK	__attribute__((warn_unused_result))
#define RT_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define RT_NORETURN	__attribute__((noreturn))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define RT_MIN(a, b) ((a) < (b) ? (a) : (b))
#define RT_MAX(a, b) ((a) > (b) ? (a) : (b))

/* Sets err (code and formatted message) and returns code, so that a caller can `return rt_fail(…)`. */
int rt_fail(struct rt_err *err, enum rt_code code, const char *fmt, ...) RT_PRINTF(3, 4);

/* As rt_fail, with ": strerror(errno)" appended. */
int rt_fail_errno(struct rt_err *err, enum rt_code code, const char *fmt, ...) RT_PRINTF(3, 4);

/* Puts "context: " before the message that err holds; returns err->code. */
int rt_context(struct rt_err *err, const char *fmt, ...) RT_PRINTF(2, 3);

/* The exit code (enum rt_exit) that a process ends with for this error. */
int rt_exit_code(enum rt_code code);

/* For broken invariants only: prints and aborts. State on disk is crash-safe by design. */
void rt_bug(const char *file, int line, const char *what) RT_NORETURN;
#define RT_ASSERT(cond) ((cond) ? (void)0 : rt_bug(__FILE__, __LINE__, #cond))

/* Allocation that aborts the process on failure; lengths from outside are bounded before the call. */
void *rt_malloc(size_t bytes) __attribute__((malloc, returns_nonnull));
void *rt_calloc(size_t n, size_t bytes) __attribute__((malloc, returns_nonnull));
void *rt_realloc(void *p, size_t bytes) __attribute__((returns_nonnull));
char *rt_strdup(const char *s) __attribute__((malloc, returns_nonnull));
char *rt_strndup(const char *s, size_t bytes) __attribute__((malloc, returns_nonnull));
/* A new NUL-terminated string; the caller frees it. */
char *rt_sprintf(const char *fmt, ...) RT_PRINTF(1, 2) __attribute__((returns_nonnull));

#define RT_PLAIN_SIZE 8
/*
 * The next byte or bytes of text as they may stand in a line of a log or a
 * terminal: names in it come from outside, and must begin no line and steer
 * nothing. Line ends and tabs become a space, other control characters \u001b.
 * Returns how many bytes of text that was; text is not at its end.
 */
size_t rt_plain(const char *text, char ret[RT_PLAIN_SIZE]);

/* Wall clock, µs since 1970-01-01 UTC. */
int64_t rt_now_us(void);
/* Monotonic clock, µs since an arbitrary start: deadlines and durations. */
int64_t rt_mono_us(void);

/* µs between the epochs of Unix (1970) and PostgreSQL (2000-01-01). */
#define RT_PG_EPOCH_US INT64_C(946684800000000)

/* A length-counted piece of somebody else's bytes. */
struct slice {
	const uint8_t *p;
	size_t len;
};

static inline struct slice slice_of(const void *p, size_t len)
{
	return (struct slice){(const uint8_t *)p, len};
}

static inline struct slice slice_str(const char *s)
{
	return (struct slice){(const uint8_t *)s, strlen(s)};
}

static inline bool slice_eq(struct slice a, struct slice b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

static inline bool slice_is(struct slice a, const char *s)
{
	return slice_eq(a, slice_str(s));
}

/* Banned: unbounded, static-buffer or silently wrong. (Their headers come first, above.) */
#pragma GCC poison strcpy strcat sprintf vsprintf strtok atoi atol atoll localtime gmtime

#endif
