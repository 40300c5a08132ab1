/*
 * datetime: date and timestamptz between text and send format (days, and
 * microseconds, since 2000-01-01). Guarantees: what is accepted and what comes
 * out is what PostgreSQL 15 does with DateStyle ISO, MDY; the usual form of a
 * timestamp, 2024-01-31T10:20:30.123456Z, is read without the grammar.
 */
#include "proto/pg/datetime.h"

#include "proto/pg/types_inner.h"

/* First and last (excluded) values of the ranges in the manual's table 8.9. */
#define DATE_MIN      (-JULIAN_OF_2000)
#define DATE_END      (INT64_C(2147483494) - JULIAN_OF_2000)
#define TIMESTAMP_MIN (-JULIAN_OF_2000 * USECS_PER_DAY)
#define TIMESTAMP_END (INT64_C(106751983) * USECS_PER_DAY)

enum {
	/* How much text the server's input functions have room for. */
	DATE_ROOM = 129,
	TIMESTAMP_ROOM = 153,
};

/* ---- calendar ---- */

/* Years counted from March, so that the leap day is the last one; eras of 400 years = 146097 days. */
int64_t day_of_date(int64_t year, int month, int day)
{
	int64_t y = year - (month <= 2);
	int64_t era = (y >= 0 ? y : y - 399) / 400;
	int64_t year_of_era = y - era * 400;
	int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
	int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
	return era * 146097 + day_of_era - 730425; /* 0000-03-01 to 2000-01-01 */
}

void date_of_day(int64_t day, int64_t *ret_year, int *ret_month, int *ret_day)
{
	int64_t z = day + 730425;
	int64_t era = (z >= 0 ? z : z - 146096) / 146097;
	int64_t day_of_era = z - era * 146097;
	int64_t year_of_era =
		(day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
	int64_t day_of_year =
		day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
	int64_t march_month = (5 * day_of_year + 2) / 153;
	*ret_day = (int)(day_of_year - (153 * march_month + 2) / 5 + 1);
	*ret_month = (int)(march_month < 10 ? march_month + 3 : march_month - 9);
	*ret_year = year_of_era + era * 400 + (*ret_month <= 2);
}

bool is_leap_year(int64_t year)
{
	return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

int days_in_month(int64_t year, int month)
{
	static const int8_t DAYS[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	return DAYS[month - 1] + (month == 2 && is_leap_year(year));
}

int64_t round_half_even(double x)
{
	int64_t whole = (int64_t)x;
	double rest = x - (double)whole;
	return whole + (rest > 0.5 || (rest == 0.5 && whole % 2 == 1));
}

/* ---- the usual form ---- */

static bool two_digits(const uint8_t *p, int *ret)
{
	if (!pgt_is_digit(p[0]) || !pgt_is_digit(p[1]))
		return false;
	*ret = (p[0] - '0') * 10 + p[1] - '0';
	return true;
}

/* YYYY-MM-DD of the years 1 to 9999. */
static bool usual_date(const uint8_t *p, int64_t *ret_day)
{
	int century, year, month, day;
	if (!two_digits(p, &century) || !two_digits(p + 2, &year) || p[4] != '-' ||
	    !two_digits(p + 5, &month) || p[7] != '-' || !two_digits(p + 8, &day))
		return false;
	year += century * 100;
	if (year == 0 || month < 1 || month > 12 || day < 1 || day > days_in_month(year, month))
		return false;
	*ret_day = day_of_date(year, month, day);
	return true;
}

/* ".ddd", 1 to 9 digits: the quotient is the double nearest to the fraction, as strtod gives it. */
static bool usual_fraction(struct slice s, int64_t *ret_us)
{
	double scale = 1, digits = 0;
	if (s.len < 2 || s.len > 10 || s.p[0] != '.')
		return false;
	for (size_t i = 1; i < s.len; i++) {
		if (!pgt_is_digit(s.p[i]))
			return false;
		digits = digits * 10 + (s.p[i] - '0');
		scale *= 10;
	}
	*ret_us = round_half_even(digits / scale * 1000000);
	return true;
}

/*
 * YYYY-MM-DDThh:mm:ss[.d…](Z|+00|+00:00), with T or a space. Anything else,
 * good or bad, is left to the grammar.
 */
static bool usual_timestamp(struct slice s, int64_t *ret_us)
{
	int64_t day, us = 0;
	int hour, minute, second;
	if (s.len < 20 || !usual_date(s.p, &day) || (s.p[10] != 'T' && s.p[10] != ' ') ||
	    !two_digits(s.p + 11, &hour) || s.p[13] != ':' || !two_digits(s.p + 14, &minute) ||
	    s.p[16] != ':' || !two_digits(s.p + 17, &second))
		return false;
	if (hour > 23 || minute > 59 || second > 59)
		return false;
	struct slice rest = slice_of(s.p + 19, s.len - 19);
	if (rest.p[rest.len - 1] == 'Z')
		rest.len -= 1;
	else if (rest.len >= 6 && memcmp(rest.p + rest.len - 6, "+00:00", 6) == 0)
		rest.len -= 6;
	else if (rest.len >= 3 && memcmp(rest.p + rest.len - 3, "+00", 3) == 0)
		rest.len -= 3;
	else
		return false;
	if (rest.len > 0 && !usual_fraction(rest, &us))
		return false;
	*ret_us = day * USECS_PER_DAY + ((hour * 60 + minute) * 60 + second) * USECS_PER_SEC + us;
	return true;
}

/* ---- text to binary ---- */

bool datetime_in_calendar(const struct datetime *d)
{
	if (d->year < -4713 || (d->year == -4713 && d->month < 11))
		return false;
	return d->year < 5874898 || (d->year == 5874898 && d->month < 6);
}

static int parse_failed(enum datetime_rc rc, const char *type, struct rt_err *err)
{
	if (rc == DATETIME_PRESENT)
		return rt_fail(err, ERR_PERMANENT,
			       "not a valid %s: \"now\", \"today\", \"tomorrow\" and \"yesterday\" "
			       "mean the present, which a fold must not ask for",
			       type);
	return rc == DATETIME_RANGE ? pgt_fail_range(err, type) : pgt_fail_syntax(err, type);
}

int date_from_text(struct slice text, const struct pgt_zone *zone, struct buf *out,
		   struct rt_err *err)
{
	int64_t day;
	struct datetime d;
	if (text.len == 10 && usual_date(text.p, &day)) {
		buf_u32(out, (uint32_t)day);
		return RT_OK;
	}
	enum datetime_rc rc = datetime_parse(text, DATE_ROOM, zone, &d);
	if (rc != DATETIME_OK)
		return parse_failed(rc, "date", err);
	switch (d.kind) {
	case DATETIME_VALUE:
		if (!datetime_in_calendar(&d))
			return pgt_fail_range(err, "date");
		day = day_of_date(d.year, d.month, d.day);
		if (day < DATE_MIN || day >= DATE_END)
			return pgt_fail_range(err, "date");
		break;
	case DATETIME_EPOCH:
		day = -UNIX_OF_2000 / SECONDS_PER_DAY;
		break;
	case DATETIME_INFINITY:
		day = INT32_MAX;
		break;
	case DATETIME_MINUS_INFINITY:
		day = INT32_MIN;
		break;
	}
	buf_u32(out, (uint32_t)day);
	return RT_OK;
}

/* µs since 2000 of a parsed value; false when it is out of range. */
static bool timestamp_of(const struct datetime *d, int64_t *ret_us)
{
	if (!datetime_in_calendar(d))
		return false;
	int64_t day = day_of_date(d->year, d->month, d->day);
	/* An hour that came with its unit may be huge; the server adds it up in 32 bits. */
	uint32_t seconds =
		((uint32_t)d->hour * 60 + (uint32_t)d->minute) * 60 + (uint32_t)d->second;
	int64_t time = (int32_t)seconds * USECS_PER_SEC + d->usec, us;
	if (__builtin_mul_overflow(day, USECS_PER_DAY, &us) ||
	    __builtin_add_overflow(us, time, &us))
		return false;
	/* Nor may it lead across the epoch, except to midnight. */
	if ((us < 0 && day > 0) || (us > 0 && day < -1))
		return false;
	us -= d->east * USECS_PER_SEC;
	*ret_us = us;
	return us >= TIMESTAMP_MIN && us < TIMESTAMP_END;
}

int timestamptz_from_text(struct slice text, const struct pgt_zone *zone, struct buf *out,
			  struct rt_err *err)
{
	int64_t us;
	struct datetime d;
	if (usual_timestamp(text, &us)) {
		buf_u64(out, (uint64_t)us);
		return RT_OK;
	}
	enum datetime_rc rc = datetime_parse(text, TIMESTAMP_ROOM, zone, &d);
	if (rc != DATETIME_OK)
		return parse_failed(rc, "timestamptz", err);
	switch (d.kind) {
	case DATETIME_VALUE:
		if (!timestamp_of(&d, &us))
			return pgt_fail_range(err, "timestamptz");
		break;
	case DATETIME_EPOCH:
		us = -UNIX_OF_2000 * USECS_PER_SEC;
		break;
	case DATETIME_INFINITY:
		us = INT64_MAX;
		break;
	case DATETIME_MINUS_INFINITY:
		us = INT64_MIN;
		break;
	}
	buf_u64(out, (uint64_t)us);
	return RT_OK;
}

/* ---- binary to text ---- */

bool date_is_valid(struct slice binary)
{
	if (binary.len != 4)
		return false;
	int32_t day = (int32_t)be32_get(binary.p);
	return day == INT32_MIN || day == INT32_MAX || (day >= DATE_MIN && day < DATE_END);
}

bool timestamptz_is_valid(struct slice binary)
{
	if (binary.len != 8)
		return false;
	int64_t us = (int64_t)be64_get(binary.p);
	return us == INT64_MIN || us == INT64_MAX || (us >= TIMESTAMP_MIN && us < TIMESTAMP_END);
}

/* True when it is BC, which is said at the end. */
static bool put_date(int64_t day, struct buf *out)
{
	int64_t year;
	int month, mday;
	date_of_day(day, &year, &month, &mday);
	buf_printf(out, "%04lld-%02d-%02d", (long long)(year > 0 ? year : 1 - year), month, mday);
	return year <= 0;
}

void date_to_text(struct slice binary, struct buf *out)
{
	int32_t day = (int32_t)be32_get(binary.p);
	if (day == INT32_MIN || day == INT32_MAX)
		buf_str(out, day < 0 ? "-infinity" : "infinity");
	else if (put_date(day, out))
		buf_str(out, " BC");
}

void timestamptz_to_text(struct slice binary, struct buf *out)
{
	int64_t us = (int64_t)be64_get(binary.p);
	if (us == INT64_MIN || us == INT64_MAX) {
		buf_str(out, us < 0 ? "-infinity" : "infinity");
		return;
	}
	int64_t day = (us >= 0 ? us : us - (USECS_PER_DAY - 1)) / USECS_PER_DAY;
	us -= day * USECS_PER_DAY;
	bool bc = put_date(day, out);
	int second = (int)(us / USECS_PER_SEC), fraction = (int)(us % USECS_PER_SEC);
	buf_printf(out, " %02d:%02d:%02d", second / 3600, second / 60 % 60, second % 60);
	if (fraction > 0) {
		buf_printf(out, ".%06d", fraction);
		while (out->p[out->len - 1] == '0')
			out->len--;
	}
	buf_str(out, bc ? "+00 BC" : "+00");
}
