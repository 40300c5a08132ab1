/*
 * cron: when a schedule is due. Pure: a moment and a zone come in.
 *
 * Five fields as cron has them: minute, hour, day of month, month, day of
 * week (0 and 7 are Sunday), each * or a list of numbers and ranges, with
 * /step; months and days of the week also by their English names of three
 * letters. Where both day fields are restricted, either will do.
 *
 * Clocks on the wall change. An hour that is named (0 2 * * *) is met once a
 * day: a time that the clocks skip is due when they have skipped it, one that
 * they repeat is due the first time only. Where every hour is meant (the field
 * begins with *), the schedule goes by elapsed time: nothing is due in the
 * skipped hour, and each minute of the repeated one.
 */
#ifndef TRANSFORMS_REPORT_CRON_H
#define TRANSFORMS_REPORT_CRON_H

#include "proto/base/rt.h"

struct pgt_zone;

struct cron {
	uint64_t minutes;     /* bit n: minute n */
	uint32_t hours, days; /* days: bits 1…31 */
	uint16_t months;      /* bits 1…12 */
	uint8_t weekdays;     /* bits 0…6, from Sunday */
	bool every_hour;      /* the hour's field begins with * */
	bool any_day, any_weekday;
};

/* Reads the five fields. ERR_USAGE naming the field. A schedule that no day meets (31 February) is refused. */
int cron_parse(const char *text, struct cron *ret, struct rt_err *err) RT_MUSTCHECK;
/*
 * The latest time, seconds since 1970, that is due at or before at_s; zone
 * NULL: UTC. There is always one within the years before.
 */
int64_t cron_latest(const struct cron *c, const struct pgt_zone *zone, int64_t at_s);
/* The first one after at_s. */
int64_t cron_next(const struct cron *c, const struct pgt_zone *zone, int64_t at_s);
/* The day ("YYYY-MM-DD") before the one that a clock in the zone shows at at_s. */
void cron_yesterday(const struct pgt_zone *zone, int64_t at_s, char ret[11]);

#endif
