/* delay: guarantees that a note of ours stands no longer than the step that it is about. */
#include <poll.h>

#include "apply/stream/delay.h"
#include "proto/base/metrics.h"
#include "proto/pg/pgconn.h"
#include "proto/settings.h"

/* A step that takes longer is asked about, */
#define AFTER_US INT64_C(3000000)
/* so often; a question may take so long. */
#define AGAIN_US INT64_C(5000000)
#define LIMIT_US INT64_C(4000000)

/* Who blocks whom is everybody's to see; names of others' applications and queries are not. */
static const char question[] =
	"SELECT coalesce(a.wait_event_type, ''), coalesce(a.wait_event, ''), coalesce(b.pid, 0), "
	"coalesce(b.usename, '') FROM pg_catalog.pg_stat_activity a LEFT JOIN LATERAL "
	"unnest(pg_catalog.pg_blocking_pids(a.pid)) AS h (pid) ON true LEFT JOIN "
	"pg_catalog.pg_stat_activity b ON b.pid = h.pid WHERE a.pid = $1::int ORDER BY b.pid LIMIT "
	"1";

void delay_init(struct delay *d, const struct settings *s, const struct writer *w)
{
	*d = (struct delay){.settings = s, .writer = w, .ask_us = LOOP_NEVER};
}

static void hang_up(struct delay *d, int64_t now)
{
	pgc_close(d->c);
	d->c = NULL;
	d->sent = false;
	d->ask_us = now + AGAIN_US;
}

void delay_release(struct delay *d)
{
	hang_up(d, 0);
}

static void __attribute__((format(printf, 2, 3))) note(struct delay *d, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(d->note, sizeof(d->note), fmt, ap);
	va_end(ap);
	met_note("the warehouse does not answer: %s", d->note);
	snprintf(d->note, sizeof(d->note), "%.255s", met_note_now());
	d->noted = true;
}

/* The step is done, or another has begun. */
static void begin_anew(struct delay *d, int64_t now)
{
	if (d->noted && strcmp(met_note_now(), d->note) == 0)
		met_note("%s", "");
	d->noted = false;
	hang_up(d, now);
	d->started_us = d->writer->started_us;
	d->plan_at = d->writer->plan_at;
	d->ask_us = now + AFTER_US;
}

void delay_prepare(void *ctx, int64_t now, struct loop_want *ret)
{
	struct delay *d = ctx;
	const struct writer *w = d->writer;
	const bool busy = writer_is_busy(w);
	if (!busy || w->started_us != d->started_us || w->plan_at != d->plan_at)
		begin_anew(d, now);
	if (!busy)
		return;
	if (d->c == NULL) {
		ret->at_us = d->ask_us;
		return;
	}
	ret->fd = PQsocket(d->c);
	ret->events = !d->sent && d->polling == PGRES_POLLING_WRITING ? POLLOUT : POLLIN;
	ret->at_us = d->limit_us;
}

static void call(struct delay *d, int64_t now)
{
	const struct pgc_options o = {.what = "warehouse",
				      .conninfo = d->settings->warehouse.connect,
				      .application_name = "rolag delay"};
	struct rt_err err;
	d->limit_us = now + LIMIT_US;
	d->polling = PGRES_POLLING_WRITING;
	if (pgc_connect_start(&d->c, &o, &err) != 0)
		d->ask_us = now + AGAIN_US;
	else if (PQstatus(d->c) == CONNECTION_BAD)
		hang_up(d, now);
}

static void ask(struct delay *d, int64_t now)
{
	char pid[16];
	const char *param[] = {pid};
	d->polling = PQconnectPoll(d->c);
	if (d->polling == PGRES_POLLING_FAILED) {
		note(d, "nor does it let anybody in");
		hang_up(d, now);
	}
	if (d->polling != PGRES_POLLING_OK)
		return;
	snprintf(pid, sizeof(pid), "%d", PQbackendPID(d->writer->c));
	d->sent = PQsendQueryParams(d->c, question, 1, NULL, param, NULL, NULL, 0) == 1;
	if (!d->sent)
		hang_up(d, now);
}

static void hear(struct delay *d, int64_t now)
{
	if (PQconsumeInput(d->c) == 1 && PQisBusy(d->c))
		return;
	PGresult *res = PQgetResult(d->c);
	if (PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == 1) {
		const char *type = PQgetvalue(res, 0, 0), *event = PQgetvalue(res, 0, 1);
		const char *pid = PQgetvalue(res, 0, 2), *user = PQgetvalue(res, 0, 3);
		if (strcmp(pid, "0") != 0)
			note(d, "a lock is held by its server process %s (user %s)", pid, user);
		else if (type[0] == '\0')
			note(d, "it is at work on a statement");
		else if (strcmp(type, "Client") == 0)
			note(d, "its server process waits for what was sent to it; look at the "
				"network");
		else
			note(d, "its server process waits for %s %s", type, event);
	}
	PQclear(res);
	hang_up(d, now);
}

int delay_dispatch(void *ctx, short revents, int64_t now, struct rt_err *err)
{
	struct delay *d = ctx;
	(void)err;
	if (d->c == NULL) {
		call(d, now);
	} else if (revents == 0) {
		note(d, "nor does it let anybody in");
		hang_up(d, now);
	} else if (d->sent) {
		hear(d, now);
	} else {
		ask(d, now);
	}
	return 0;
}
