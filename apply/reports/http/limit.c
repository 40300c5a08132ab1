/* limit: buckets as the time until which they are in debt. */
#include "apply/reports/http/limit.h"

#include <netinet/in.h>

void limit_init(struct limit *l, int64_t per_period)
{
	memset(l, 0, sizeof(*l));
	l->per_period = per_period;
}

struct limit_address limit_address(const struct sockaddr *at)
{
	struct limit_address a = {0};
	if (at->sa_family == AF_INET) {
		a.family = 4;
		memcpy(a.bytes, &((const struct sockaddr_in *)at)->sin_addr, 4);
	} else if (at->sa_family == AF_INET6) {
		const struct in6_addr *in = &((const struct sockaddr_in6 *)at)->sin6_addr;
		a.family = IN6_IS_ADDR_V4MAPPED(in) ? 4 : 6;
		if (a.family == 4)
			memcpy(a.bytes, in->s6_addr + 12, 4);
		else
			memcpy(a.bytes, in->s6_addr, sizeof(a.bytes));
	}
	return a;
}

static bool is_same(struct limit_address a, struct limit_address b)
{
	return a.family == b.family && memcmp(a.bytes, b.bytes, sizeof(a.bytes)) == 0;
}

static const struct limit_place *find(const struct limit *l, struct limit_address who)
{
	for (size_t i = 0; i < LIMIT_PLACES; i++)
		if (l->place[i].used && is_same(l->place[i].who, who))
			return &l->place[i];
	return NULL;
}

static bool is_good(const struct limit_place *p, int64_t now)
{
	return p->good_us > 0 && now - p->good_us < LIMIT_GOOD_US;
}

/* How much is lost when this place is given to another: nothing, failures, a good name. */
static int64_t worth(const struct limit_place *p, int64_t now)
{
	if (!p->used)
		return -1;
	if (is_good(p, now))
		return LIMIT_PERIOD_US + LIMIT_GOOD_US - (now - p->good_us);
	return RT_MAX(p->owed_until_us - now, INT64_C(0));
}

/* Its place, taken from whoever loses least where it has none; NULL: all have a good name, and it has none. */
static struct limit_place *place_for(struct limit *l, struct limit_address who, bool good,
				     int64_t now)
{
	struct limit_place *least = &l->place[0];
	for (size_t i = 0; i < LIMIT_PLACES; i++) {
		struct limit_place *p = &l->place[i];
		if (p->used && is_same(p->who, who))
			return p;
		if (worth(p, now) < worth(least, now))
			least = p;
	}
	if (!good && least->used && is_good(least, now))
		return NULL;
	*least = (struct limit_place){.used = true, .who = who};
	return least;
}

/* How long a bucket of so many must wait for one more. */
static int64_t wait_of(int64_t owed_until, int64_t count, int64_t now)
{
	const int64_t owed = RT_MAX(owed_until - now, INT64_C(0));
	return RT_MAX(owed + LIMIT_PERIOD_US / count - LIMIT_PERIOD_US, INT64_C(0));
}

static void owe(int64_t *owed_until, int64_t count, int64_t now)
{
	*owed_until = RT_MAX(*owed_until, now) + LIMIT_PERIOD_US / count;
}

int64_t limit_wait(const struct limit *l, struct limit_address who, int64_t now_us)
{
	if (l->per_period == 0)
		return 0;
	const struct limit_place *p = find(l, who);
	const int64_t own = p != NULL ? wait_of(p->owed_until_us, l->per_period, now_us) : 0;
	if (p != NULL && is_good(p, now_us))
		return own;
	return RT_MAX(own, wait_of(l->all_owed_until_us, l->per_period * LIMIT_ALL_TIMES, now_us));
}

void limit_failed(struct limit *l, struct limit_address who, int64_t now_us)
{
	if (l->per_period == 0)
		return;
	struct limit_place *p = place_for(l, who, false, now_us);
	if (p != NULL)
		owe(&p->owed_until_us, l->per_period, now_us);
	owe(&l->all_owed_until_us, l->per_period * LIMIT_ALL_TIMES, now_us);
}

void limit_good(struct limit *l, struct limit_address who, int64_t now_us)
{
	if (l->per_period > 0)
		place_for(l, who, true, now_us)->good_us = now_us;
}
