/* rt: errors, allocation, clocks. Guarantees: no function here returns NULL or loses an error code. */
#include "proto/base/rt.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

/* Whatever a server sent: blanks and controls in a row are one blank; none before ; or at the end. */
static void one_line(char *s)
{
	char *to = s;
	for (const char *p = s; *p != '\0'; p++) {
		bool blank = (unsigned char)*p <= ' ' || *p == 0x7f;
		if (to > s && to[-1] == ' ' && (blank || *p == ';'))
			to--;
		/* NOLINTNEXTLINE(bugprone-narrowing-conversions): a char or a space */
		*to++ = blank ? ' ' : *p;
	}
	if (to > s && to[-1] == ' ')
		to--;
	*to = '\0';
}

static int fail_with(struct rt_err *err, enum rt_code code, int errnum, const char *fmt, va_list ap)
{
	err->code = code;
	int n = vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	if (errnum != 0 && n >= 0 && (size_t)n < sizeof(err->msg)) {
		char text[128];
		snprintf(err->msg + n, sizeof(err->msg) - (size_t)n, ": %s",
			 strerror_r(errnum, text, sizeof(text)));
	}
	one_line(err->msg);
	return code;
}

int rt_fail(struct rt_err *err, enum rt_code code, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int rc = fail_with(err, code, 0, fmt, ap);
	va_end(ap);
	return rc;
}

int rt_fail_errno(struct rt_err *err, enum rt_code code, const char *fmt, ...)
{
	int errnum = errno;
	va_list ap;
	va_start(ap, fmt);
	int rc = fail_with(err, code, errnum, fmt, ap);
	va_end(ap);
	return rc;
}

int rt_context(struct rt_err *err, const char *fmt, ...)
{
	char context[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(context, sizeof(context), fmt, ap);
	va_end(ap);
	size_t n = strlen(context) + 2;
	size_t have = strlen(err->msg) + 1;
	if (n + have > sizeof(err->msg)) {
		have = sizeof(err->msg) - n;
		err->msg[have - 1] = '\0';
	}
	memmove(err->msg + n, err->msg, have);
	memcpy(err->msg, context, n - 2);
	memcpy(err->msg + n - 2, ": ", 2);
	return err->code;
}

int rt_exit_code(enum rt_code code)
{
	switch (code) {
	case RT_OK:
		return EXIT_OK;
	case ERR_PERMANENT:
		return EXIT_PERMANENT;
	case ERR_USAGE:
		return EXIT_USAGE;
	case ERR_RETRY:
	case ERR_SYSTEM:
		return EXIT_TEMPORARY;
	}
	rt_bug(__FILE__, __LINE__, "unknown error code");
}

void rt_bug(const char *file, int line, const char *what)
{
	fprintf(stderr, "rolag: bug at %s:%d: %s\n", file, line, what);
	abort();
}

static void *checked(void *p)
{
	if (p == NULL) {
		fputs("rolag: out of memory\n", stderr);
		abort();
	}
	return p;
}

void *rt_malloc(size_t bytes)
{
	return checked(malloc(bytes == 0 ? 1 : bytes));
}

void *rt_calloc(size_t n, size_t bytes)
{
	return checked(calloc(n == 0 ? 1 : n, bytes == 0 ? 1 : bytes));
}

void *rt_realloc(void *p, size_t bytes)
{
	return checked(realloc(p, bytes == 0 ? 1 : bytes));
}

char *rt_strdup(const char *s)
{
	return checked(strdup(s));
}

char *rt_strndup(const char *s, size_t bytes)
{
	return checked(strndup(s, bytes));
}

char *rt_sprintf(const char *fmt, ...)
{
	char *s = NULL;
	va_list ap;
	va_start(ap, fmt);
	int n = vasprintf(&s, fmt, ap);
	va_end(ap);
	return checked(n < 0 ? NULL : s);
}

size_t rt_plain(const char *text, char ret[RT_PLAIN_SIZE])
{
	const unsigned char c = (unsigned char)text[0], next = (unsigned char)text[1];
	const bool c1 = c == 0xc2 && next >= 0x80 && next <= 0x9f; /* U+0080 to U+009F */
	if (c == '\n' || c == '\t')
		snprintf(ret, RT_PLAIN_SIZE, " ");
	else if (c < 0x20 || c == 0x7f || c1)
		snprintf(ret, RT_PLAIN_SIZE, "\\u%04x", c1 ? next : c);
	else
		memcpy(ret, (char[]){text[0], '\0'}, 2);
	return c1 ? 2 : 1;
}

static int64_t clock_us(clockid_t id)
{
	struct timespec ts;
	clock_gettime(id, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t rt_now_us(void)
{
	return clock_us(CLOCK_REALTIME);
}

int64_t rt_mono_us(void)
{
	return clock_us(CLOCK_MONOTONIC);
}
