/*
 * schedule: the latest due time against the one that was last seen to.
 * Guarantees: a run and the note that its time was seen to are one
 * transaction; whatever the clock does, a time makes at most one run.
 */
#include "apply/reports/schedule.h"

#include <inttypes.h>

#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/pg/pgconn.h"
#include "proto/pg/types.h"

/* Times of the future that were seen to: so much, and the clock was wrong and has been set back. */
#define SET_BACK_S INT64_C(10800)

/* Behind the five fields: ids between blanks. */
static int read_reports(struct schedule *one, const char *rest, const struct report_pack *p,
			struct arena *a, struct rt_err *err)
{
	size_t most = strlen(rest) / 2 + 1;
	const char **ids, *as_of;
	one->report = arena_alloc(a, most * sizeof(*one->report));
	for (const char *w = rest + strspn(rest, " \t"); *w != '\0'; w += strspn(w, " \t")) {
		size_t len = strcspn(w, " \t");
		one->report[one->report_count++] = arena_strndup(a, w, len);
		w += len;
	}
	size_t count;
	return report_select(p, a, one->report, one->report_count, NULL, "2000-01-01", &ids, &count,
			     &as_of, err);
}

static int read_one(const char *text, const struct report_pack *p, struct arena *a,
		    struct schedule *ret, struct rt_err *err)
{
	const char *end = text;
	for (int i = 0; i < 5; i++) {
		end += strspn(end, " \t");
		end += strcspn(end, " \t");
	}
	*ret = (struct schedule){.text = text};
	int rc = cron_parse(arena_strndup(a, text, (size_t)(end - text)), &ret->cron, err);
	return rc == 0 ? read_reports(ret, end, p, a, err) : rc;
}

int schedule_read(const struct settings *s, const struct report_pack *p, struct arena *a,
		  struct schedule_set *ret, struct rt_err *err)
{
	struct schedule_set set = {.count = s->reports.schedule.count};
	set.item = arena_zalloc(a, (set.count + 1) * sizeof(*set.item));
	for (size_t i = 0; i < set.count; i++) {
		if (read_one(s->reports.schedule.item[i], p, a, &set.item[i], err) == 0)
			continue;
		err->code = ERR_PERMANENT;
		return rt_context(err, "%s: reports.schedule \"%.100s\"", s->file,
				  s->reports.schedule.item[i]);
	}
	if (strcmp(s->reports.time_zone, "UTC") != 0) {
		set.zone = pgt_zone_load(s->reports.time_zone);
		if (set.zone == NULL)
			return rt_fail(err, ERR_PERMANENT,
				       "%s: reports.time_zone \"%.60s\" is not in the tz database",
				       s->file, s->reports.time_zone);
	}
	*ret = set;
	return 0;
}

void schedule_release(struct schedule_set *set)
{
	if (set->zone != NULL)
		pgt_zone_free(set->zone);
	set->zone = NULL;
}

/* ---- */

static const char *time_text(struct arena *a, int64_t s)
{
	struct tm t;
	time_t at = (time_t)s;
	gmtime_r(&at, &t);
	return arena_printf(a, "%04d-%02d-%02d %02d:%02d:%02d+00", t.tm_year + 1900, t.tm_mon + 1,
			    t.tm_mday, t.tm_hour, t.tm_min, t.tm_sec);
}

/* The last time that was seen to; a schedule that is new begins now. */
static int last_seen(PGconn *c, const char *pipeline, const char *text, const char *now,
		     int64_t *ret, bool *ret_busy, struct rt_err *err)
{
	const char *params[] = {pipeline, text, now};
	PGresult *res;
	int rc = pgc_query(c, NULL, err,
			   "INSERT INTO rolag.report_schedule (pipeline, schedule, due_at) VALUES "
			   "($1, $2, $3) ON CONFLICT DO NOTHING",
			   3, params);
	if (rc == 0)
		rc = pgc_query(c, &res, err,
			       "SELECT extract(epoch FROM due_at)::int8, EXISTS (SELECT FROM "
			       "rolag.report_run r WHERE r.pipeline = $1 AND r.schedule = $2 AND "
			       "r.state IN ('queued', 'waiting', 'building', 'writing')) FROM "
			       "rolag.report_schedule WHERE pipeline = $1 AND schedule = $2",
			       2, params);
	if (rc != 0)
		return rc;
	*ret = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
	*ret_busy = PQgetvalue(res, 0, 1)[0] == 't';
	PQclear(res);
	return 0;
}

static int see_to(PGconn *c, const char *pipeline, const char *text, const char *due,
		  struct rt_err *err)
{
	const char *params[] = {pipeline, text, due};
	return pgc_query(c, NULL, err,
			 "UPDATE rolag.report_schedule SET due_at = $3 WHERE pipeline = $1 AND "
			 "schedule = $2",
			 3, params);
}

static int request(PGconn *c, const struct settings *s, const struct schedule_set *set,
		   const struct schedule *one, const struct report_pack *p, struct arena *a,
		   int64_t due_s, struct rt_err *err)
{
	char yesterday[11], id[RUNS_ID_SIZE];
	bool fresh;
	struct rt_err ignored;
	struct runs_request q = {.type = "scheduled",
				 .requester = "schedule",
				 .schedule = one->text,
				 .due_at = time_text(a, due_s)};
	cron_yesterday(set->zone, due_s, yesterday);
	int rc = report_select(p, a, one->report, one->report_count, NULL, yesterday, &q.report,
			       &q.report_count, &q.as_of, err);
	if (rc == 0)
		rc = pgc_exec(c, NULL, err, "BEGIN");
	if (rc != 0)
		return rc;
	rc = see_to(c, s->pipeline, one->text, q.due_at, err);
	if (rc == 0)
		rc = runs_request(c, s->pipeline, &q, id, &fresh, err);
	FAILPOINT_FD(REPORTS_BEFORE_SCHEDULED, PQsocket(c));
	if (rc == 0)
		return pgc_exec(c, NULL, err, "COMMIT");
	(void)!pgc_exec(c, NULL, &ignored, "ROLLBACK");
	return rc;
}

int schedule_turn(PGconn *c, const struct settings *s, const struct schedule_set *set,
		  const struct report_pack *p, struct arena *a, int64_t now_s, int *ret_count,
		  struct rt_err *err)
{
	int rc = 0;
	*ret_count = 0;
	for (size_t i = 0; rc == 0 && i < set->count; i++) {
		const struct schedule *one = &set->item[i];
		int64_t due = cron_latest(&one->cron, set->zone, now_s), last = 0;
		bool busy;
		rc = last_seen(c, s->pipeline, one->text, time_text(a, now_s), &last, &busy, err);
		if (rc != 0)
			return rc;
		if (last > now_s + SET_BACK_S) {
			log_warn("the clock was set back; a schedule goes by it from here on",
				 "schedule=\"%s\" seconds=%" PRId64, one->text, last - now_s);
			rc = see_to(c, s->pipeline, one->text, time_text(a, due), err);
		} else if (due > last && !busy) {
			rc = request(c, s, set, one, p, a, due, err);
			*ret_count += rc == 0;
		}
	}
	return rc;
}
