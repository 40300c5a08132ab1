/*
 * log: one line per fact, key=value (or JSON), to stderr; with a journald
 * priority prefix ("<6>", sd-daemon(3)) when stderr is the journal.
 *
 * Only top-level handlers log; libraries return errors. Row values never
 * reach this file. A message is fixed text; what varies goes into fields:
 *   log_info("slot created", "slot=%s lsn=%X/%X", name, …);
 */
#ifndef PROTO_BASE_LOG_H
#define PROTO_BASE_LOG_H

#include "proto/base/rt.h"

enum log_level { LOG_LEVEL_ERROR = 3, LOG_LEVEL_WARN = 4, LOG_LEVEL_INFO = 6, LOG_LEVEL_DEBUG = 7 };
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

/* role ("capture", …) is borrowed and stands in every line. Called once, before anything is logged. */
void log_setup(const char *role, enum log_level level, enum log_format format);
/* "error" "warn" "info" "debug"; false when the name is none of them. */
bool log_level_parse(const char *name, enum log_level *ret);

/*
 * fields: printf format of space-separated key=value pairs, or "". A value
 * with spaces is put in quotes by the caller (key="…").
 */
void log_line(enum log_level level, const char *message, const char *fields, ...) RT_PRINTF(3, 4);

#define log_error(message, ...) log_line(LOG_LEVEL_ERROR, message, __VA_ARGS__)
#define log_warn(message, ...)	log_line(LOG_LEVEL_WARN, message, __VA_ARGS__)
#define log_info(message, ...)	log_line(LOG_LEVEL_INFO, message, __VA_ARGS__)
#define log_debug(message, ...) log_line(LOG_LEVEL_DEBUG, message, __VA_ARGS__)

/* At most one line per interval for one call site: `static struct log_limit l = {.interval_us = …};`. */
struct log_limit {
	int64_t interval_us;
	int64_t next_us;     /* monotonic */
	uint64_t suppressed; /* since the last line */
};

/* True when the caller may log now; *ret_suppressed = how many were not logged since the last. */
bool log_limit_pass(struct log_limit *l, int64_t now_mono_us, uint64_t *ret_suppressed);

#endif
