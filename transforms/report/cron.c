/*
 * cron: day by day, then minute by minute of a day that fits. Guarantees: a
 * result is a whole minute that the schedule names in its zone, or the moment
 * at which clocks skipped one.
 */
#include "transforms/report/cron.h"

#include "proto/pg/types.h"

#define DAY_S INT64_C(86400)
#define DAYS_MAX                                                                                   \
	(366 * 28 +                                                                                \
	 2) /* 29 February of a given weekday comes every 28 years; 1900 and 2100 are far */

/* ---- reading ---- */

struct field {
	const char *name;
	int min, max;
	const char *words; /* of three letters each, from min on */
};

static const struct field fields[] = {
	{"minute", 0, 59, ""},
	{"hour", 0, 23, ""},
	{"day of month", 1, 31, ""},
	{"month", 1, 12, "janfebmaraprmayjunjulaugsepoctnovdec"},
	{"day of week", 0, 7, "sunmontuewedthufrisat"},
};

static int bad_field(const struct field *f, const char *text, size_t len, struct rt_err *err)
{
	return rt_fail(err, ERR_USAGE, "\"%.*s\" is not a %s (%d to %d, *, lists, ranges, /step)",
		       (int)RT_MIN(len, (size_t)40), text, f->name, f->min, f->max);
}

static bool read_number(const struct field *f, const char **p, int *ret)
{
	if (**p >= '0' && **p <= '9') {
		int n = 0;
		for (int i = 0; i < 3 && **p >= '0' && **p <= '9'; i++)
			n = n * 10 + *(*p)++ - '0';
		*ret = n;
		return n >= f->min && n <= f->max;
	}
	for (int i = 0; f->words[3 * i] != '\0'; i++) {
		if (strncasecmp(*p, f->words + 3 * (size_t)i, 3) == 0) {
			*p += 3;
			*ret = f->min + i;
			return true;
		}
	}
	return false;
}

/* One item of a list: "*", "n", "n-m", each with "/step". */
static bool read_item(const struct field *f, const char **p, uint64_t *bits)
{
	int from = f->min, to = f->max, step = 1;
	bool range = true;
	if (**p == '*') {
		(*p)++;
	} else {
		if (!read_number(f, p, &from))
			return false;
		to = from;
		range = **p == '-';
		if (range && ((*p)++, !read_number(f, p, &to) || to < from))
			return false;
	}
	if (**p == '/') {
		const struct field steps = {"step", 1, 100, ""};
		(*p)++;
		if (!read_number(&steps, p, &step))
			return false;
		if (!range)
			to = f->max;
	}
	for (int i = from; i <= to; i += step)
		*bits |= UINT64_C(1) << i;
	return true;
}

static int read_field(const struct field *f, const char **p, uint64_t *ret, bool *ret_any,
		      struct rt_err *err)
{
	const char *begin = *p += strspn(*p, " \t");
	size_t len = strcspn(begin, " \t");
	uint64_t bits = 0;
	*ret_any = *begin == '*';
	do {
		if (!read_item(f, p, &bits))
			return bad_field(f, begin, len, err);
	} while (*(*p) == ',' && (*p)++);
	if (*p != begin + len)
		return bad_field(f, begin, len, err);
	*ret = bits;
	return 0;
}

/* Is there a month that has one of the days? */
static bool can_be(const struct cron *c)
{
	static const int days[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	if (!c->any_weekday) /* either will do, or only the week counts */
		return true;
	for (int m = 1; m <= 12; m++)
		if ((c->months >> m & 1) != 0 &&
		    (c->days & ((UINT64_C(2) << days[m - 1]) - 2)) != 0)
			return true;
	return false;
}

int cron_parse(const char *text, struct cron *ret, struct rt_err *err)
{
	uint64_t bits[ARRAY_LEN(fields)];
	bool any[ARRAY_LEN(fields)];
	const char *p = text;
	for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
		int rc = read_field(&fields[i], &p, &bits[i], &any[i], err);
		if (rc != 0)
			return rc;
	}
	if (p[strspn(p, " \t")] != '\0')
		return rt_fail(err, ERR_USAGE, "a schedule has five fields");
	struct cron c = {.minutes = bits[0],
			 .hours = (uint32_t)bits[1],
			 .days = (uint32_t)bits[2],
			 .months = (uint16_t)bits[3],
			 .weekdays = (uint8_t)((bits[4] | bits[4] >> 7) & 0x7F),
			 .every_hour = any[1],
			 .any_day = any[2],
			 .any_weekday = any[4]};
	if (!can_be(&c))
		return rt_fail(err, ERR_USAGE, "no month has that day");
	*ret = c;
	return 0;
}

/* ---- the calendar: days since 1970 ---- */

static void civil(int64_t day, int64_t *ret_year, int *ret_month, int *ret_day)
{
	int64_t z = day + 719468; /* from 0000-03-01 */
	int64_t era = (z >= 0 ? z : z - 146096) / 146097;
	int64_t doe = z - era * 146097;
	int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	int64_t mp = (5 * doy + 2) / 153;
	*ret_day = (int)(doy - (153 * mp + 2) / 5 + 1);
	*ret_month = (int)(mp < 10 ? mp + 3 : mp - 9);
	*ret_year = yoe + era * 400 + (*ret_month <= 2);
}

static int64_t floor_day(int64_t s)
{
	return (s >= 0 ? s : s - (DAY_S - 1)) / DAY_S;
}

static bool day_fits(const struct cron *c, int64_t day)
{
	int64_t year;
	int month, number;
	civil(day, &year, &month, &number);
	int weekday = (int)(((day + 4) % 7 + 7) % 7); /* 1970-01-01 was a Thursday */
	bool by_day = (c->days >> number & 1) != 0;
	bool by_week = (c->weekdays >> weekday & 1) != 0;
	if ((c->months >> month & 1) == 0)
		return false;
	return c->any_day || c->any_weekday ? by_day && by_week : by_day || by_week;
}

/* ---- wall clocks ---- */

static int64_t east(const struct pgt_zone *zone, int64_t at_s)
{
	return zone == NULL ? 0 : pgt_zone_east(zone, at_s);
}

/* The moment at which the clocks change between two moments with different offsets. */
static int64_t change_between(const struct pgt_zone *zone, int64_t low, int64_t high)
{
	int64_t before = east(zone, low);
	while (high - low > 1) {
		int64_t middle = low + (high - low) / 2;
		if (east(zone, middle) == before)
			low = middle;
		else
			high = middle;
	}
	return high;
}

/* Moments at which a clock in the zone shows wall: none, one or two, in order. */
static int moments(const struct pgt_zone *zone, int64_t wall, int64_t ret[2])
{
	/* Offsets are at most a day, and changes further apart. */
	int64_t offset[2] = {east(zone, wall - DAY_S), east(zone, wall + DAY_S)};
	int n = 0;
	for (int i = 0; i < 2; i++)
		if (east(zone, wall - offset[i]) == offset[i] && (n == 0 || offset[0] != offset[1]))
			ret[n++] = wall - offset[i];
	if (n == 2 && ret[0] > ret[1]) {
		int64_t t = ret[0];
		ret[0] = ret[1];
		ret[1] = t;
	}
	return n;
}

/* When a minute of the wall clock is due: how many moments. */
static int due(const struct cron *c, const struct pgt_zone *zone, int64_t wall, int64_t ret[2])
{
	int n = moments(zone, wall, ret);
	if (n == 2 && !c->every_hour)
		return 1;
	if (n == 0 && !c->every_hour) {
		ret[0] = change_between(zone, wall - DAY_S, wall + DAY_S);
		return 1;
	}
	return n;
}

/* The greatest moment of the wall clock's day that is <= at_s, or the least that is > after_s; false: none. */
static bool best_of_day(const struct cron *c, const struct pgt_zone *zone, int64_t day, bool latest,
			int64_t at_s, int64_t *ret)
{
	bool found = false;
	for (int minute = 0; minute < 24 * 60; minute++) {
		int64_t at[2];
		if ((c->hours >> minute / 60 & 1) == 0 || (c->minutes >> minute % 60 & 1) == 0)
			continue;
		int n = due(c, zone, day * DAY_S + minute * INT64_C(60), at);
		for (int i = 0; i < n; i++) {
			bool fits = latest ? at[i] <= at_s : at[i] > at_s;
			if (fits && (!found || (latest ? at[i] > *ret : at[i] < *ret))) {
				*ret = at[i];
				found = true;
			}
		}
	}
	return found;
}

/* Days in one direction until one has a moment, and the next of them, whose clocks may say otherwise. */
static int64_t search(const struct cron *c, const struct pgt_zone *zone, int64_t at_s, bool latest)
{
	int64_t day = floor_day(at_s + east(zone, at_s)), best = 0, t;
	int step = latest ? -1 : 1, more = 2;
	bool found = false;
	day -= step; /* the clocks may have gone over midnight */
	for (int i = 0; i < DAYS_MAX && more > 0; i++, day += step) {
		if (day_fits(c, day) && best_of_day(c, zone, day, latest, at_s, &t)) {
			best = !found ? t : latest ? RT_MAX(best, t) : RT_MIN(best, t);
			found = true;
		}
		more -= found;
	}
	RT_ASSERT(found); /* cron_parse has seen to it */
	return best;
}

int64_t cron_latest(const struct cron *c, const struct pgt_zone *zone, int64_t at_s)
{
	return search(c, zone, at_s, true);
}

int64_t cron_next(const struct cron *c, const struct pgt_zone *zone, int64_t at_s)
{
	return search(c, zone, at_s, false);
}

void cron_yesterday(const struct pgt_zone *zone, int64_t at_s, char ret[11])
{
	int64_t year;
	int month, day;
	civil(floor_day(at_s + east(zone, at_s)) - 1, &year, &month, &day);
	snprintf(ret, 11, "%04d-%02d-%02d", (int)(year % 10000), month, day);
}
