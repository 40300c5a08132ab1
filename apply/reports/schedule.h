/* schedule: runs by the clock (reports.schedule). */
#ifndef APPLY_REPORTS_SCHEDULE_H
#define APPLY_REPORTS_SCHEDULE_H

#include "apply/reports/runs.h"
#include "transforms/report/cron.h"

struct schedule {
	const char *text; /* as configured: its name in rolag.report_schedule */
	struct cron cron;
	const char **report; /* none: all */
	size_t report_count;
};

struct schedule_set {
	size_t count;
	struct schedule *item;
	struct pgt_zone *zone; /* NULL: UTC */
};

/* Reads the settings' schedules and time zone. ERR_PERMANENT naming what is wrong. */
int schedule_read(const struct settings *s, const struct report_pack *p, struct arena *a,
		  struct schedule_set *ret, struct rt_err *err) RT_MUSTCHECK;
void schedule_release(struct schedule_set *set);
/*
 * Requests a run for each schedule that has become due by now_s (seconds since
 * 1970): one for all the times since the last that was seen to. One whose run
 * is not over yet waits for that. *ret_count: how many.
 */
int schedule_turn(PGconn *c, const struct settings *s, const struct schedule_set *set,
		  const struct report_pack *p, struct arena *a, int64_t now_s, int *ret_count,
		  struct rt_err *err) RT_MUSTCHECK;

#endif
