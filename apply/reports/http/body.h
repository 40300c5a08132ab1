/* body: what a POST asks for. Pure. */
#ifndef APPLY_REPORTS_HTTP_BODY_H
#define APPLY_REPORTS_HTTP_BODY_H

#include "proto/base/arena.h"
#include "proto/base/rt.h"
#include "proto/base/sha256.h"

#define BODY_MAX	 (64u << 10)
#define BODY_REPORTS_MAX 1000
#define BODY_KEY_MAX	 200

struct body {
	const char **report; /* as it came: neither sorted nor known to be one */
	size_t report_count; /* 0: all */
	const char *as_of;   /* NULL: none was given */
	bool allow_stale, accept_quarantine;
};

/*
 * Reads one JSON object with the keys reports, as_of, allow_stale and
 * accept_quarantine, each of which may be left out or null; texts live in the
 * arena. ERR_USAGE, in words for whoever sent it, for anything else.
 */
int body_parse(struct slice text, struct arena *a, struct body *ret,
	       struct rt_err *err) RT_MUSTCHECK;
/* Of what is asked for: equal for bodies that ask for the same in other words. */
void body_fingerprint(const struct body *b, char ret[SHA256_HEX]);
/* May this be an Idempotency-Key: 1 to 200 printable characters of ASCII? */
bool body_is_key(const char *key);

#endif
