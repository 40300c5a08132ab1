/* log: lines to stderr. Guarantees: one write(2) per line, errno kept. */
#include "proto/base/log.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static const char *log_role = "rolag";
static enum log_level log_threshold = LOG_LEVEL_INFO;
static enum log_format log_fmt = LOG_FORMAT_TEXT;
static bool log_journal;

void log_setup(const char *role, enum log_level level, enum log_format format)
{
	log_role = role;
	log_threshold = level;
	log_fmt = format;
	log_journal = getenv("JOURNAL_STREAM") != NULL;
}

bool log_level_parse(const char *name, enum log_level *ret)
{
	static const struct {
		const char *name;
		enum log_level level;
	} levels[] = {{"error", LOG_LEVEL_ERROR},
		      {"warn", LOG_LEVEL_WARN},
		      {"info", LOG_LEVEL_INFO},
		      {"debug", LOG_LEVEL_DEBUG}};
	for (size_t i = 0; i < ARRAY_LEN(levels); i++)
		if (strcmp(levels[i].name, name) == 0) {
			*ret = levels[i].level;
			return true;
		}
	return false;
}

static const char *level_name(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_ERROR:
		return "error";
	case LOG_LEVEL_WARN:
		return "warn";
	case LOG_LEVEL_INFO:
		return "info";
	case LOG_LEVEL_DEBUG:
		return "debug";
	}
	return "?";
}

/* Appends text as the inside of a JSON string. */
static size_t json_escape(char *out, size_t cap, const char *text)
{
	size_t n = 0;
	for (const char *p = text; *p != '\0' && n + 7 < cap; p++) {
		unsigned char c = (unsigned char)*p;
		if (c == '"' || c == '\\') {
			out[n++] = '\\';
			out[n++] = (char)c;
		} else if (c < 0x20) {
			n += (size_t)snprintf(out + n, cap - n, "\\u%04x", c);
		} else {
			out[n++] = (char)c;
		}
	}
	out[n] = '\0';
	return n;
}

static void one_line(char *out, size_t cap, const char *text)
{
	size_t n = 0;
	while (*text != '\0' && n + RT_PLAIN_SIZE < cap) {
		text += rt_plain(text, out + n);
		n += strlen(out + n);
	}
	out[n] = '\0';
}

static size_t format_text(char *line, size_t cap, const char *stamp, const char *level,
			  const char *message, const char *fields)
{
	char m[512], f[2048];
	one_line(m, sizeof(m), message);
	one_line(f, sizeof(f), fields);
	int n = snprintf(line, cap, "%s %s %s: %s%s%s", stamp, level, log_role, m,
			 f[0] == '\0' ? "" : " ", f);
	return n < 0 ? 0 : RT_MIN((size_t)n, cap - 1);
}

static size_t format_json(char *line, size_t cap, const char *stamp, const char *level,
			  const char *message, const char *fields)
{
	char m[512], f[2048];
	json_escape(m, sizeof(m), message);
	json_escape(f, sizeof(f), fields);
	int n = snprintf(line, cap,
			 "{\"time\":\"%s\",\"level\":\"%s\",\"role\":\"%s\",\"message\":\"%s\","
			 "\"fields\":\"%s\"}",
			 stamp, level, log_role, m, f);
	return n < 0 ? 0 : RT_MIN((size_t)n, cap - 1);
}

void log_line(enum log_level level, const char *message, const char *fields, ...)
{
	if (level > log_threshold)
		return;
	int saved = errno;
	char text[2048], line[4096], stamp[40];
	va_list ap;
	va_start(ap, fields);
	vsnprintf(text, sizeof(text), fields, ap);
	va_end(ap);
	int64_t now = rt_now_us();
	time_t sec = (time_t)(now / 1000000);
	struct tm tm;
	gmtime_r(&sec, &tm);
	size_t s = strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(stamp + s, sizeof(stamp) - s, ".%03dZ", (int)(now / 1000 % 1000));
	size_t prefix = log_journal ? (size_t)snprintf(line, sizeof(line), "<%d>", (int)level) : 0;
	size_t n = (log_fmt == LOG_FORMAT_JSON ? format_json : format_text)(
		line + prefix, sizeof(line) - prefix - 1, stamp, level_name(level), message, text);
	n += prefix;
	line[n++] = '\n';
	ssize_t written = write(STDERR_FILENO, line, n);
	(void)written; /* a closed stderr must not stop the pipeline */
	errno = saved;
}

bool log_limit_pass(struct log_limit *l, int64_t now_mono_us, uint64_t *ret_suppressed)
{
	if (now_mono_us < l->next_us) {
		l->suppressed++;
		return false;
	}
	*ret_suppressed = l->suppressed;
	l->suppressed = 0;
	l->next_us = now_mono_us + l->interval_us;
	return true;
}
