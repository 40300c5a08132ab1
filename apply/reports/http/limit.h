/*
 * limit: how often somebody may be wrong about a token. A token bucket for each
 * address and one for all of them together; an address that is past its own is
 * heard no more for a while, whatever it sends. When the one for all is empty,
 * only addresses are heard that were right before. A table of fixed size: who
 * has many addresses pushes out others' failures, not their good name, and is
 * held by the bucket for all. Pure: the clock comes in.
 */
#ifndef APPLY_REPORTS_HTTP_LIMIT_H
#define APPLY_REPORTS_HTTP_LIMIT_H

#include <sys/socket.h>

#include "proto/base/rt.h"

#define LIMIT_PLACES	256
#define LIMIT_PERIOD_US INT64_C(60000000) /* in which an empty bucket is full again */
#define LIMIT_GOOD_US                                                                              \
	INT64_C(3600000000) /* for how long it is remembered that somebody was right */
#define LIMIT_ALL_TIMES 8   /* failures of all, as a multiple of those of one */

/* An address as it counts: of IPv6 its /64, which is one customer's; one of IPv4 within IPv6 as itself. */
struct limit_address {
	uint8_t family; /* 4, 6; 0: another */
	uint8_t bytes[8];
};

struct limit_place {
	bool used;
	struct limit_address who;
	int64_t owed_until_us; /* the bucket is full again then */
	int64_t good_us;       /* when it was right last; 0: never */
};

struct limit {
	int64_t per_period; /* failures; 0: no limit */
	int64_t all_owed_until_us;
	struct limit_place place[LIMIT_PLACES];
};

/* per_period: failures of one address until it must wait, and in LIMIT_PERIOD_US again; 0: no limit. */
void limit_init(struct limit *l, int64_t per_period);
/* How an address counts. */
struct limit_address limit_address(const struct sockaddr *at);
/* 0: it may be heard. Else how long it must wait, µs. now_us: monotonic, > 0. */
int64_t limit_wait(const struct limit *l, struct limit_address who, int64_t now_us);
/* It was wrong. */
void limit_failed(struct limit *l, struct limit_address who, int64_t now_us);
/* It was right. */
void limit_good(struct limit *l, struct limit_address who, int64_t now_us);

#endif
