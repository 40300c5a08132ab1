/*
 * datetime: what the files that read and write dates share: the calendar, the
 * words and abbreviations of the input grammar, and time zones. Nothing
 * outside of proto/pg/{datetime,datetime_fields,datetime_parse,datetime_tables,zone}.c
 * includes it.
 */
#ifndef PROTO_PG_DATETIME_H
#define PROTO_PG_DATETIME_H

#include "proto/base/buf.h"
#include "proto/pg/types.h"

#define SECONDS_PER_DAY INT64_C(86400)
#define USECS_PER_SEC	INT64_C(1000000)
#define USECS_PER_DAY	(SECONDS_PER_DAY * USECS_PER_SEC)

/* Day numbers count from 2000-01-01, proleptic Gregorian; year 0 is 1 BC. */
int64_t day_of_date(int64_t year, int month, int day);
void date_of_day(int64_t day, int64_t *ret_year, int *ret_month, int *ret_day);
bool is_leap_year(int64_t year);
int days_in_month(int64_t year, int month);
/* The Julian day number of day 0. */
#define JULIAN_OF_2000 INT64_C(2451545)
/* Seconds from 1970-01-01 to 2000-01-01. */
#define UNIX_OF_2000 INT64_C(946684800)

/* Rounded to the nearest integer, halves to the even one, as rint does; x is in [0, 2^52). */
int64_t round_half_even(double x);

/* ---- words (datetime_tables.c) ---- */

enum word_kind {
	WORD_UNKNOWN,
	WORD_IGNORED,  /* "at", "on" */
	WORD_RESERVED, /* value: enum reserved */
	WORD_MONTH,    /* value: 1…12 */
	WORD_WEEKDAY,
	WORD_AMPM,    /* value: 1 for pm */
	WORD_ERA,     /* value: 1 for BC */
	WORD_UNIT,    /* value: enum unit */
	WORD_TIME,    /* "t" */
	WORD_DST,     /* "dst": an hour more than the zone says */
	WORD_ZONE,    /* value: seconds east of UTC */
	WORD_DSTZONE, /* the same, of daylight-saving time */
	WORD_DYNZONE, /* its meaning depends on the date: zone names the time zone */
};

enum reserved {
	RESERVED_PRESENT, /* now, today, tomorrow, yesterday: not taken from text that is replayed */
	RESERVED_EPOCH,
	RESERVED_INFINITY,
	RESERVED_MINUS_INFINITY,
	RESERVED_ZULU, /* allballs: 00:00:00 UTC */
};

/* What a number that follows means; UNIT_OTHER: nothing that is taken. */
enum unit {
	UNIT_NONE,
	UNIT_YEAR,
	UNIT_MONTH,
	UNIT_DAY,
	UNIT_HOUR,
	UNIT_MINUTE,
	UNIT_SECOND,
	UNIT_JULIAN,
	UNIT_TIME,
	UNIT_OTHER,
};

struct word {
	const char *text; /* lower case */
	enum word_kind kind;
	int32_t value;
	const char *zone;
};

/* Words of the grammar (manual, appendix B.2); NULL when it is none. */
const struct word *word_find(const char *lower);
/* Zone abbreviations as the server ships them (its timezonesets/Default); NULL when it is none. */
const struct word *word_find_zone(const char *lower);

/* ---- time zones (zone.c); offsets are seconds east of UTC ---- */

/* The offset in force at a local time (seconds since 1970 as the clock on the wall shows it).
 * A time that a change of clocks skips is read as before it, one that it repeats as after it. */
int32_t zone_offset(const struct pgt_zone *z, int64_t local_s);
/* The offset that abbreviation (upper case) last had at or before that time, or first has after
 * it; zone_offset where the zone does not know it. */
int32_t zone_offset_of(const struct pgt_zone *z, int64_t local_s, const char *abbreviation);
/*
 * A zone that a value names, in any case, or a POSIX rule such as "est5edt". Kept in a small
 * cache: the result is valid until the next call. NULL when there is none.
 */
const struct pgt_zone *zone_named(const char *name);

/* ---- fields (datetime_fields.c) ---- */

enum {
	FIELDS_MAX = 25,
	ROOM_MAX = 160,
};

enum token {
	TOKEN_NUMBER,  /* digits, perhaps with one point */
	TOKEN_DATE,    /* with delimiters, or a zone's name */
	TOKEN_TIME,    /* digits with colons */
	TOKEN_ZONE,    /* a sign and digits */
	TOKEN_WORD,    /* letters */
	TOKEN_SPECIAL, /* a sign and letters */
};

struct fields {
	const uint8_t *p, *end;
	char work[ROOM_MAX];
	size_t used, room;
	bool overflow;
	int count;
	enum token kind[FIELDS_MAX];
	char *text[FIELDS_MAX]; /* in work */
};

/* False when text holds what cannot be a field, or more than room (each field with one byte more). */
bool fields_cut(struct slice text, size_t room, struct fields *f) RT_MUSTCHECK;

/* ---- the input grammar (datetime_parse.c) ---- */

struct datetime {
	enum {
		DATETIME_VALUE,
		DATETIME_EPOCH,
		DATETIME_INFINITY,
		DATETIME_MINUS_INFINITY,
	} kind;
	int32_t year, month, day; /* year 0 is 1 BC */
	int32_t yday;
	int32_t hour, minute, second, usec;
	int32_t east; /* offset of the zone, seconds east of UTC */
};

enum datetime_rc {
	DATETIME_OK = 0,
	DATETIME_SYNTAX = -1,
	DATETIME_RANGE = -2,
	DATETIME_PRESENT = -3,
};

/* Reads text by the whole grammar; room: as in fields_cut. zone: for what names none; NULL = UTC. */
enum datetime_rc datetime_parse(struct slice text, size_t room, const struct pgt_zone *zone,
				struct datetime *ret) RT_MUSTCHECK;
/* Is there such a day in the range of the server's calendar (4714-11-24 BC to 5874898-06-03)? */
bool datetime_in_calendar(const struct datetime *d);

#endif
