/*
 * datetime_parse: the whole input grammar of dates and timestamps (manual,
 * appendix B.1), as PostgreSQL 15 applies it with DateOrder MDY. The fields
 * that datetime_fields.c has cut are read one after the other, each in the
 * light of what is already known. Guarantees: no text is accepted or refused, and no value made of it, but as
 * the server does; words that mean the present are refused.
 */
#include <ctype.h>
#include <errno.h>

#include "proto/pg/datetime.h"
#include "proto/pg/types_inner.h"

/* ---- what is known ---- */

enum {
	HAS_RESERVED = 1 << 0,
	HAS_YEAR = 1 << 1,
	HAS_MONTH = 1 << 2,
	HAS_DAY = 1 << 3,
	HAS_YDAY = 1 << 4,
	HAS_WEEKDAY = 1 << 5,
	HAS_HOUR = 1 << 6,
	HAS_MINUTE = 1 << 7,
	HAS_SECOND = 1 << 8,
	HAS_FRACTION = 1 << 9,
	HAS_ZONE = 1 << 10,
	HAS_DSTZONE = 1 << 11,
	HAS_DYNZONE = 1 << 12,
	HAS_DST = 1 << 13,
	HAS_AMPM = 1 << 14,
	HAS_ERA = 1 << 15,
	HAS_DATE = HAS_YEAR | HAS_MONTH | HAS_DAY,
	HAS_SECONDS = HAS_SECOND | HAS_FRACTION,
	HAS_TIME = HAS_HOUR | HAS_MINUTE | HAS_SECONDS,
};

struct parse {
	struct datetime d;
	unsigned has;	/* what earlier fields have given */
	unsigned gave;	/* what this one gives */
	enum unit unit; /* of the number to come */
	bool word_month, julian, short_year, bc;
	enum { NO_HALF, AM, PM } half;
	/* A zone that needs the date: by name, or an abbreviation that changed its meaning. */
	const char *zone_name, *zone_abbreviation;
	const struct word *abbreviation;
};

/* The integer at p; false when it does not fit. Reads nothing where there is no number, as strtol. */
static bool read_int(const char *p, char **end, int32_t *ret)
{
	errno = 0;
	long v = strtol(p, end, 10);
	*ret = (int32_t)v;
	return errno == 0 && v == (int32_t)v;
}

/* A run of digits cut out of a longer one; what does not fit wraps, as on the server. */
static int32_t wrapped_int(const char *p)
{
	return (int32_t)strtol(p, NULL, 10);
}

/* ".123" in µs; a point alone is 0. */
static bool read_fraction(const char *p, int32_t *ret_us)
{
	char *end = NULL;
	if (p[1] == '\0') {
		*ret_us = 0;
		return true;
	}
	errno = 0;
	double v = strtod(p, &end);
	if (*end != '\0' || errno != 0)
		return false;
	*ret_us = (int32_t)round_half_even(v * 1000000);
	return true;
}

/*
 * Sets the date to that of a Julian day. The server's calendar has 32 bits and
 * wraps for years far outside of its range; so that the same ones come out as
 * valid, this one does: days are counted from March of 4801 BC, then as if
 * every fourth year were a leap year.
 */
static void set_julian(struct datetime *d, uint32_t julian)
{
	uint32_t n = julian + 32044;
	uint32_t skipped = 3 * (n / 146097) + (4 * (n % 146097) + 3) / 146097;
	uint32_t even = n + skipped + 31 + 29;
	uint32_t year = 0, rest = even % 1461;
	if (rest >= 366) {
		year = 1 + (rest - 366) / 365;
		rest = (rest - 366) % 365;
	}
	d->month = 1;
	while (rest >= (uint32_t)days_in_month(year, d->month))
		rest -= (uint32_t)days_in_month(year, d->month++);
	d->year = (int32_t)(even / 1461 * 4 + year) - 4800;
	d->day = (int32_t)rest + 1;
}

/* The Julian day of the first of January, in the same 32 bits. */
static uint32_t julian_of_year(int32_t year)
{
	int32_t y = (int32_t)((uint32_t)year + 4799);
	return (uint32_t)y * 365 + (uint32_t)(y / 4 - y / 100 + y / 400) - 31738;
}

/* "+05", "-0330", "+05:30:15" */
static enum datetime_rc read_zone(const char *p, int32_t *ret_east)
{
	int32_t hour, minute = 0, second = 0;
	char *end;
	if (*p != '+' && *p != '-')
		return DATETIME_SYNTAX;
	if (!read_int(p + 1, &end, &hour))
		return DATETIME_RANGE;
	if (*end == ':') {
		if (!read_int(end + 1, &end, &minute))
			return DATETIME_RANGE;
		if (*end == ':' && !read_int(end + 1, &end, &second))
			return DATETIME_RANGE;
	} else if (*end == '\0' && strlen(p) > 3) {
		minute = hour % 100;
		hour /= 100;
	}
	if (hour < 0 || hour > 15 || minute < 0 || minute > 59 || second < 0 || second > 59)
		return DATETIME_RANGE;
	if (*end != '\0')
		return DATETIME_SYNTAX;
	int32_t east = (hour * 60 + minute) * 60 + second;
	*ret_east = *p == '-' ? -east : east;
	return DATETIME_OK;
}

/* "10:20", "10:20:30.5"; "20:30.5" has no hours. */
static enum datetime_rc read_time(struct parse *s, const char *p)
{
	struct datetime *d = &s->d;
	char *end;
	s->gave = HAS_TIME;
	if (!read_int(p, &end, &d->hour))
		return DATETIME_RANGE;
	if (*end != ':')
		return DATETIME_SYNTAX;
	if (!read_int(end + 1, &end, &d->minute))
		return DATETIME_RANGE;
	d->second = 0;
	d->usec = 0;
	if (*end == '.') {
		if (!read_fraction(end, &d->usec))
			return DATETIME_SYNTAX;
		d->second = d->minute;
		d->minute = d->hour;
		d->hour = 0;
	} else if (*end == ':') {
		if (!read_int(end + 1, &end, &d->second))
			return DATETIME_RANGE;
		if (*end == '.' ? !read_fraction(end, &d->usec) : *end != '\0')
			return DATETIME_SYNTAX;
	} else if (*end != '\0') {
		return DATETIME_SYNTAX;
	}
	if (d->hour > 24 || d->minute > 59 || d->second > 60)
		return DATETIME_RANGE;
	/* Second 60 and hour 24 exist, but not beyond midnight. */
	int64_t us = ((d->hour * 60 + d->minute) * 60 + d->second) * USECS_PER_SEC + d->usec;
	return us > USECS_PER_DAY ? DATETIME_RANGE : DATETIME_OK;
}

/* ---- numbers ---- */

/* Digits run together: yymmdd, yyyymmdd, hhmm, hhmmss, hhmmss.ddd. Cuts text up. */
static enum datetime_rc read_run(struct parse *s, char *text, unsigned has)
{
	struct datetime *d = &s->d;
	size_t len = strlen(text);
	char *point = strchr(text, '.');
	if (point != NULL) {
		errno = 0;
		double v = point[1] == '\0' ? 0 : strtod(point, NULL);
		if (errno != 0)
			return DATETIME_SYNTAX;
		d->usec = (int32_t)round_half_even(v * 1000000);
		*point = '\0';
		len = (size_t)(point - text);
	} else if ((has & HAS_DATE) != HAS_DATE && len >= 6) {
		s->gave = HAS_DATE;
		d->day = wrapped_int(text + len - 2);
		text[len - 2] = '\0';
		d->month = wrapped_int(text + len - 4);
		text[len - 4] = '\0';
		d->year = wrapped_int(text);
		s->short_year = s->short_year || len == 6;
		return DATETIME_OK;
	}
	if ((has & HAS_TIME) == HAS_TIME || (len != 6 && len != 4))
		return DATETIME_SYNTAX;
	s->gave = HAS_TIME;
	d->second = 0;
	if (len == 6) {
		d->second = wrapped_int(text + 4);
		text[4] = '\0';
	}
	d->minute = wrapped_int(text + 2);
	text[2] = '\0';
	d->hour = wrapped_int(text);
	return DATETIME_OK;
}

static void give(struct parse *s, unsigned what, int32_t *to, int32_t value)
{
	s->gave = what;
	*to = value;
}

/* A number of a date: which part it is depends on those that are there and on its length. */
static enum datetime_rc read_date_part(struct parse *s, char *text, size_t len, int32_t v,
				       bool word_month, unsigned has)
{
	struct datetime *d = &s->d;
	switch (has & HAS_DATE) {
	case 0:
		if (len >= 3)
			give(s, HAS_YEAR, &d->year, v);
		else
			give(s, HAS_MONTH, &d->month, v);
		break;
	case HAS_YEAR:
	case HAS_DAY:
		give(s, HAS_MONTH, &d->month, v);
		break;
	case HAS_MONTH:
		if (word_month && len >= 3)
			give(s, HAS_YEAR, &d->year, v);
		else
			give(s, HAS_DAY, &d->day, v);
		break;
	case HAS_YEAR | HAS_MONTH:
		if (word_month && len >= 3 && s->short_year) {
			/* The number that was taken for the year was the day. */
			give(s, HAS_DAY, &d->day, d->year);
			d->year = v;
			s->short_year = false;
		} else {
			give(s, HAS_DAY, &d->day, v);
		}
		break;
	case HAS_MONTH | HAS_DAY:
		give(s, HAS_YEAR, &d->year, v);
		break;
	case HAS_DATE:
		return read_run(s, text, has);
	default:
		return DATETIME_SYNTAX;
	}
	if (s->gave == HAS_YEAR)
		s->short_year = len <= 2;
	return DATETIME_OK;
}

static enum datetime_rc read_number(struct parse *s, char *text, bool word_month, unsigned has)
{
	size_t len = strlen(text);
	char *end;
	int32_t v;
	s->gave = 0;
	if (!read_int(text, &end, &v))
		return DATETIME_RANGE;
	if (end == text)
		return DATETIME_SYNTAX;
	if (*end == '.') {
		if (end - text > 2)
			return read_run(s, text, has | HAS_DATE);
		if (!read_fraction(end, &s->d.usec))
			return DATETIME_SYNTAX;
	} else if (*end != '\0') {
		return DATETIME_SYNTAX;
	}
	if (len == 3 && (has & HAS_DATE) == HAS_YEAR && v >= 1 && v <= 366) {
		give(s, HAS_YDAY | HAS_MONTH | HAS_DAY, &s->d.yday, v);
		return DATETIME_OK;
	}
	return read_date_part(s, text, len, v, word_month, has);
}

/* Cuts a date's field into its parts, at most n; returns how many, -1 when it ends in a delimiter. */
static int cut_parts(char *p, char **parts, int n)
{
	int count = 0;
	while (*p != '\0' && count < n) {
		while (*p != '\0' && !pgt_is_letter((uint8_t)*p) && !pgt_is_digit((uint8_t)*p))
			p++;
		if (*p == '\0')
			return -1;
		parts[count++] = p;
		if (pgt_is_digit((uint8_t)*p)) {
			while (pgt_is_digit((uint8_t)*p))
				p++;
		} else {
			while (pgt_is_letter((uint8_t)*p))
				p++;
		}
		/* The character behind a part is lost, delimiter or not: "8jan" has no month. */
		if (*p != '\0')
			*p++ = '\0';
	}
	return count;
}

/* A date in one field; a month in letters is looked for first. */
static enum datetime_rc read_date(struct parse *s, char *text)
{
	char *parts[FIELDS_MAX];
	unsigned has = s->has, gave = 0;
	bool word_month = false;
	int n = cut_parts(text, parts, FIELDS_MAX);
	for (int i = 0; i < n; i++) {
		if (!pgt_is_letter((uint8_t)*parts[i]))
			continue;
		const struct word *w = word_find(parts[i]);
		if (w == NULL || w->kind != WORD_MONTH || (has & HAS_MONTH))
			return DATETIME_SYNTAX;
		s->d.month = w->value;
		word_month = true;
		has |= HAS_MONTH;
		gave |= HAS_MONTH;
		parts[i] = NULL;
	}
	for (int i = 0; i < n; i++) {
		if (parts[i] == NULL)
			continue;
		enum datetime_rc rc = read_number(s, parts[i], word_month, has);
		if (rc != DATETIME_OK)
			return rc;
		if (has & s->gave)
			return DATETIME_SYNTAX;
		has |= s->gave;
		gave |= s->gave;
	}
	s->gave = gave;
	/* Nothing but a date, and perhaps a zone, may have come before. */
	return n > 0 && (has & ~(unsigned)(HAS_YDAY | HAS_ZONE)) == HAS_DATE ? DATETIME_OK
									     : DATETIME_SYNTAX;
}

/* ---- fields ---- */

/* "J2451187+05": a Julian day in one field with its zone. */
static enum datetime_rc field_julian_zone(struct parse *s, const char *text)
{
	char *end;
	int32_t v;
	if (!read_int(text, &end, &v) || v < 0)
		return DATETIME_RANGE;
	set_julian(&s->d, (uint32_t)v);
	s->julian = true;
	s->gave = HAS_DATE | HAS_TIME | HAS_ZONE;
	s->unit = UNIT_NONE;
	return read_zone(end, &s->d.east);
}

/* With delimiters: a date; where there is one already, a zone's name or "101112-05". */
static enum datetime_rc field_date(struct parse *s, char *text)
{
	if (s->unit == UNIT_JULIAN)
		return field_julian_zone(s, text);
	bool have_day = (s->has & (HAS_MONTH | HAS_DAY)) == (HAS_MONTH | HAS_DAY);
	if (s->unit == UNIT_NONE && !have_day)
		return read_date(s, text);
	if (s->unit == UNIT_NONE && !pgt_is_digit((uint8_t)*text)) {
		s->zone_name = text;
		s->gave = HAS_ZONE;
		return zone_named(text) == NULL ? DATETIME_SYNTAX : DATETIME_OK;
	}
	if (s->unit != UNIT_NONE && s->unit != UNIT_TIME)
		return DATETIME_SYNTAX;
	s->unit = UNIT_NONE;
	char *zone = strchr(text, '-');
	if ((s->has & HAS_TIME) == HAS_TIME || zone == NULL)
		return DATETIME_SYNTAX;
	enum datetime_rc rc = read_zone(zone, &s->d.east);
	if (rc != DATETIME_OK)
		return rc;
	*zone = '\0';
	rc = read_run(s, text, s->has);
	s->gave |= HAS_ZONE;
	return rc;
}

/* "j" "2451187.5": the fraction is of a day. */
static enum datetime_rc number_julian(struct parse *s, const char *fraction, int32_t v)
{
	char *end = NULL;
	if (v < 0)
		return DATETIME_RANGE;
	set_julian(&s->d, (uint32_t)v);
	s->julian = true;
	s->gave = HAS_DATE;
	if (*fraction != '.')
		return DATETIME_OK;
	errno = 0;
	double day = fraction[1] == '\0' ? 0 : strtod(fraction, &end);
	if (errno != 0 || (end != NULL && *end != '\0'))
		return DATETIME_SYNTAX;
	int64_t us = (int64_t)(day * (double)USECS_PER_DAY);
	s->d.hour = (int32_t)(us / (3600 * USECS_PER_SEC));
	s->d.minute = (int32_t)(us / (60 * USECS_PER_SEC) % 60);
	s->d.second = (int32_t)(us / USECS_PER_SEC % 60);
	s->d.usec = (int32_t)(us % USECS_PER_SEC);
	s->gave |= HAS_TIME;
	return DATETIME_OK;
}

/* A number whose unit came before it, as in "y2001 m02 d04". */
static enum datetime_rc number_of_unit(struct parse *s, char *text)
{
	struct datetime *d = &s->d;
	enum unit unit = s->unit;
	char *end;
	int32_t v;
	if (!read_int(text, &end, &v))
		return DATETIME_RANGE;
	bool fraction = *end == '.';
	if (*end != '\0' &&
	    !(fraction && (unit == UNIT_JULIAN || unit == UNIT_TIME || unit == UNIT_SECOND)))
		return DATETIME_SYNTAX;
	s->unit = UNIT_NONE;
	d->kind = DATETIME_VALUE;
	switch (unit) {
	case UNIT_YEAR:
		give(s, HAS_YEAR, &d->year, v);
		return DATETIME_OK;
	case UNIT_MONTH: /* minutes, where month and hour are there */
		if ((s->has & HAS_MONTH) && (s->has & HAS_HOUR))
			give(s, HAS_MINUTE, &d->minute, v);
		else
			give(s, HAS_MONTH, &d->month, v);
		return DATETIME_OK;
	case UNIT_DAY:
		give(s, HAS_DAY, &d->day, v);
		return DATETIME_OK;
	case UNIT_HOUR:
		give(s, HAS_HOUR, &d->hour, v);
		return DATETIME_OK;
	case UNIT_MINUTE:
		give(s, HAS_MINUTE, &d->minute, v);
		return DATETIME_OK;
	case UNIT_SECOND:
		give(s, fraction ? HAS_SECONDS : HAS_SECOND, &d->second, v);
		return !fraction || read_fraction(end, &d->usec) ? DATETIME_OK : DATETIME_SYNTAX;
	case UNIT_JULIAN:
		return number_julian(s, end, v);
	case UNIT_TIME: {
		enum datetime_rc rc = read_run(s, text, s->has | HAS_DATE);
		return rc == DATETIME_OK && s->gave != HAS_TIME ? DATETIME_SYNTAX : rc;
	}
	case UNIT_NONE:
	case UNIT_OTHER:
		break;
	}
	return DATETIME_SYNTAX;
}

static enum datetime_rc field_number(struct parse *s, char *text)
{
	if (s->unit != UNIT_NONE)
		return number_of_unit(s, text);
	size_t len = strlen(text);
	const char *point = strchr(text, '.');
	if (point != NULL && !(s->has & HAS_DATE))
		return read_date(s, text);
	if (point != NULL && point - text > 2)
		return read_run(s, text, s->has);
	if (len >= 6 && (!(s->has & HAS_DATE) || !(s->has & HAS_TIME)))
		return read_run(s, text, s->has);
	return read_number(s, text, s->word_month, s->has);
}

static enum datetime_rc word_reserved(struct parse *s, enum reserved which)
{
	struct datetime *d = &s->d;
	s->gave = HAS_RESERVED;
	switch (which) {
	case RESERVED_PRESENT:
		return DATETIME_PRESENT;
	case RESERVED_EPOCH:
		d->kind = DATETIME_EPOCH;
		return DATETIME_OK;
	case RESERVED_INFINITY:
		d->kind = DATETIME_INFINITY;
		return DATETIME_OK;
	case RESERVED_MINUS_INFINITY:
		d->kind = DATETIME_MINUS_INFINITY;
		return DATETIME_OK;
	case RESERVED_ZULU:
		d->kind = DATETIME_VALUE;
		d->hour = d->minute = d->second = 0;
		d->east = 0;
		s->gave = HAS_TIME | HAS_ZONE;
		return DATETIME_OK;
	}
	return DATETIME_SYNTAX;
}

static void word_month(struct parse *s, int32_t month)
{
	struct datetime *d = &s->d;
	s->gave = HAS_MONTH;
	if ((s->has & HAS_MONTH) && !s->word_month && !(s->has & HAS_DAY) && d->month >= 1 &&
	    d->month <= 31) {
		/* "8 Jan": the number before was the day. */
		d->day = d->month;
		s->gave = HAS_DAY;
	}
	s->word_month = true;
	d->month = month;
}

/* "t": a time must follow, and a date have come before. */
static enum datetime_rc word_time(struct parse *s, const struct fields *f, int i)
{
	s->gave = 0;
	if ((s->has & HAS_DATE) != HAS_DATE || i + 1 >= f->count)
		return DATETIME_SYNTAX;
	enum token next = f->kind[i + 1];
	if (next != TOKEN_NUMBER && next != TOKEN_TIME && next != TOKEN_DATE)
		return DATETIME_SYNTAX;
	s->unit = UNIT_TIME;
	return DATETIME_OK;
}

static void word_zone(struct parse *s, const struct word *w, const char *text)
{
	s->gave = HAS_ZONE;
	if (w->kind == WORD_DYNZONE) {
		s->gave |= HAS_DYNZONE;
		s->abbreviation = w;
		s->zone_abbreviation = text;
		return;
	}
	s->d.east = w->value;
	if (w->kind == WORD_DSTZONE)
		s->gave |= HAS_DSTZONE;
}

static enum datetime_rc field_word(struct parse *s, const struct fields *f, int i)
{
	const char *text = f->text[i];
	const struct word *w = word_find_zone(text);
	if (w == NULL)
		w = word_find(text);
	switch (w == NULL ? WORD_UNKNOWN : w->kind) {
	case WORD_UNKNOWN: /* perhaps a zone in letters alone */
		s->zone_name = text;
		s->gave = HAS_ZONE;
		/* Looked up at once: of what follows, nothing could mend a name that is none. */
		return zone_named(text) == NULL ? DATETIME_SYNTAX : DATETIME_OK;
	case WORD_IGNORED:
		s->gave = 0;
		return DATETIME_OK;
	case WORD_RESERVED:
		return word_reserved(s, (enum reserved)w->value);
	case WORD_MONTH:
		word_month(s, w->value);
		return DATETIME_OK;
	case WORD_WEEKDAY:
		s->gave = HAS_WEEKDAY;
		return DATETIME_OK;
	case WORD_AMPM:
		s->gave = HAS_AMPM;
		s->half = w->value ? PM : AM;
		return DATETIME_OK;
	case WORD_ERA:
		s->gave = HAS_ERA;
		s->bc = w->value != 0;
		return DATETIME_OK;
	case WORD_UNIT:
		s->gave = 0;
		s->unit = (enum unit)w->value;
		return DATETIME_OK;
	case WORD_TIME:
		return word_time(s, f, i);
	case WORD_DST:
		s->gave = HAS_DST | HAS_DSTZONE;
		s->d.east += w->value;
		return DATETIME_OK;
	case WORD_ZONE:
	case WORD_DSTZONE:
	case WORD_DYNZONE:
		word_zone(s, w, text);
		return DATETIME_OK;
	}
	return DATETIME_SYNTAX;
}

static enum datetime_rc field(struct parse *s, const struct fields *f, int i)
{
	s->gave = 0;
	switch (f->kind[i]) {
	case TOKEN_NUMBER:
		return field_number(s, f->text[i]);
	case TOKEN_DATE:
		return field_date(s, f->text[i]);
	case TOKEN_TIME:
		if (s->unit != UNIT_NONE && s->unit != UNIT_TIME)
			return DATETIME_SYNTAX;
		s->unit = UNIT_NONE;
		return read_time(s, f->text[i]);
	case TOKEN_ZONE:
		s->gave = HAS_ZONE;
		return read_zone(f->text[i], &s->d.east);
	case TOKEN_WORD:
	case TOKEN_SPECIAL:
		return field_word(s, f, i);
	}
	return DATETIME_SYNTAX;
}

/* ---- the whole ---- */

/* Year as it was meant, month and day as they can be. */
static enum datetime_rc finish_date(struct parse *s)
{
	struct datetime *d = &s->d;
	if ((s->has & HAS_YEAR) && !s->julian) {
		if (s->bc ? d->year <= 0 : s->short_year ? d->year < 0 : d->year <= 0)
			return DATETIME_RANGE;
		if (s->bc)
			d->year = 1 - d->year;
		else if (s->short_year && d->year < 100)
			d->year += d->year < 70 ? 2000 : 1900;
	}
	if (s->has & HAS_YDAY)
		set_julian(d, julian_of_year(d->year) + (uint32_t)d->yday - 1);
	if ((s->has & HAS_MONTH) && (d->month < 1 || d->month > 12))
		return DATETIME_RANGE;
	if ((s->has & HAS_DAY) && (d->day < 1 || d->day > 31))
		return DATETIME_RANGE;
	if ((s->has & HAS_DATE) == HAS_DATE && d->day > days_in_month(d->year, d->month))
		return DATETIME_RANGE;
	return DATETIME_OK;
}

static int64_t local_seconds(const struct datetime *d)
{
	uint32_t second = ((uint32_t)d->hour * 60 + (uint32_t)d->minute) * 60 + (uint32_t)d->second;
	int64_t day = day_of_date(d->year, d->month, d->day);
	return day * SECONDS_PER_DAY + UNIX_OF_2000 + (int32_t)second;
}

static enum datetime_rc finish_zone(struct parse *s, const struct pgt_zone *zone)
{
	struct datetime *d = &s->d;
	bool settled = (s->has & HAS_ZONE) && s->zone_name == NULL && s->abbreviation == NULL;
	if (settled)
		return DATETIME_OK;
	if (s->has & HAS_DST) /* only what has an offset of its own can be an hour off */
		return DATETIME_SYNTAX;
	/* Days that no timestamp has are refused later, whatever their zone. */
	bool can = datetime_in_calendar(d);
	if (s->zone_name != NULL) {
		const struct pgt_zone *named = zone_named(s->zone_name);
		if (named == NULL)
			return DATETIME_SYNTAX;
		d->east = can ? zone_offset(named, local_seconds(d)) : 0;
	}
	if (s->abbreviation != NULL) {
		char upper[16];
		size_t len = strlen(s->zone_abbreviation);
		RT_ASSERT(len < sizeof(upper));
		for (size_t i = 0; i <= len; i++)
			upper[i] = (char)toupper((unsigned char)s->zone_abbreviation[i]);
		const struct pgt_zone *named = zone_named(s->abbreviation->zone);
		if (named == NULL)
			return DATETIME_SYNTAX;
		d->east = can ? zone_offset_of(named, local_seconds(d), upper) : 0;
	}
	if (!(s->has & HAS_ZONE))
		d->east = zone != NULL && can ? zone_offset(zone, local_seconds(d)) : 0;
	return DATETIME_OK;
}

static enum datetime_rc finish(struct parse *s, const struct pgt_zone *zone)
{
	struct datetime *d = &s->d;
	enum datetime_rc rc = finish_date(s);
	if (rc != DATETIME_OK)
		return rc;
	if (s->half != NO_HALF && d->hour > 12)
		return DATETIME_RANGE;
	if (s->half == AM && d->hour == 12)
		d->hour = 0;
	else if (s->half == PM && d->hour != 12)
		d->hour += 12;
	/* Of "epoch" and "infinity", what stands beside it only has to make sense. */
	if (d->kind != DATETIME_VALUE)
		return DATETIME_OK;
	if ((s->has & HAS_DATE) != HAS_DATE)
		return DATETIME_SYNTAX;
	return finish_zone(s, zone);
}

enum datetime_rc datetime_parse(struct slice text, size_t room, const struct pgt_zone *zone,
				struct datetime *ret)
{
	struct fields f;
	struct parse s = {.d = {.kind = DATETIME_VALUE}};
	if (!fields_cut(text, room, &f))
		return DATETIME_SYNTAX;
	for (int i = 0; i < f.count; i++) {
		enum datetime_rc rc = field(&s, &f, i);
		if (rc != DATETIME_OK)
			return rc;
		if (s.gave & s.has)
			return DATETIME_SYNTAX;
		s.has |= s.gave;
	}
	enum datetime_rc rc = finish(&s, zone);
	if (rc == DATETIME_OK)
		*ret = s.d;
	return rc;
}
