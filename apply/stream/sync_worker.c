/*
 * sync_worker: the child process: looks for tables to sync and syncs them.
 * Guarantees: it dies with apply, touches nothing of apply's (descriptors,
 * connections, counters), and never goes on after an error.
 */
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "apply/stream/leaves.h"
#include "apply/stream/published.h"
#include "apply/stream/sync_table.h"
#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/pg/pgconn.h"

#define LOOK_MS	 500
#define AGAIN_US INT64_C(5000000) /* behind a failure to ask the core */

int sync_tell(const struct sync_work *w, struct sync_message *m, struct rt_err *err)
{
	m->worker = w->worker;
	FAILPOINT(SYNC_TELL);
	if (send(w->out, m, sizeof(*m), MSG_NOSIGNAL) != (ssize_t)sizeof(*m))
		return rt_fail_errno(err, ERR_RETRY, "apply does not listen");
	return 0;
}

int sync_hear(const struct sync_work *w, struct sync_message *ret, struct rt_err *err)
{
	FAILPOINT(SYNC_HEAR);
	if (recv(w->in, ret, sizeof(*ret), 0) != (ssize_t)sizeof(*ret))
		return rt_fail_errno(err, ERR_RETRY, "apply does not answer");
	return 0;
}

/* Names of tables that are to be synced. */
static int find_waiting(PGconn *c, const struct settings *s, PGresult **ret, struct rt_err *err)
{
	return pgc_query(c, ret, err,
			 "SELECT name FROM rolag.relation WHERE pipeline = $1 AND state IN "
			 "('syncing', 'rebuilding') ORDER BY beside IS NOT NULL, changed_at, name",
			 1, &s->pipeline);
}

/* 1: `at` is ours; 0: another's. */
static int claim(const struct sync_work *w, uint16_t at, struct rt_err *err)
{
	struct sync_message m = {.kind = SYNC_CLAIM, .at = at};
	int rc = sync_tell(w, &m, err);
	if (rc == 0)
		rc = sync_hear(w, &m, err);
	return rc != 0 ? rc : m.kind == SYNC_GRANTED;
}

static const char *name_at(const struct sync_work *w, uint16_t at)
{
	return at < w->landed->count ? w->landed->item[at].rollup->name
				     : w->mirrors->item[at - w->landed->count].relname;
}

/* Syncs the first table that is to be had. 1: one was; 0: there is none. */
static int sync_one(const struct sync_work *w, PGconn *c, struct sync_links *links,
		    struct rt_err *err)
{
	PGresult *names;
	int rc = find_waiting(c, w->settings, &names, err);
	if (rc != 0)
		return rc;
	for (int i = 0; rc == 0 && i < PQntuples(names); i++)
		for (uint16_t at = 0; rc == 0 && at < w->landed->count + w->mirrors->count; at++)
			if (strcmp(name_at(w, at), PQgetvalue(names, i, 0)) == 0) {
				rc = claim(w, at, err);
				if (rc == 1)
					rc = sync_table_run(w, at, c, links, err) != 0 ? err->code
										       : 1;
			}
	PQclear(names);
	return rc;
}

/*
 * Now and then: is anything missing of the landed tables? 1: this is known of
 * this process's time (a table is not read before its mark is noted); 0: not yet.
 */
static int look_at_published(const struct sync_work *w, PGconn *c, bool *known, int64_t *next_us,
			     struct rt_err *err)
{
	int64_t now = rt_mono_us();
	if (now < *next_us)
		return *known;
	int rc = published_check(c, w->settings, w->landed, w->mirrors, err);
	if (PQstatus(c) != CONNECTION_OK)
		return rc;
	*known |= rc == 0;
	*next_us = now + (rc == 0 ? w->settings->capture.look_interval : AGAIN_US);
	if (rc != 0)
		log_debug("the core was not asked how landed tables are published", "reason=\"%s\"",
			  err->msg);
	return *known;
}

static int tell_unlike(void *ctx, uint16_t at, struct rt_err *err)
{
	const struct sync_work *w = ctx;
	struct sync_message m = {.kind = SYNC_UNLIKE, .at = (uint16_t)(w->landed->count + at)};
	return sync_tell(w, &m, err);
}

/* With nothing to sync: are partitions still what they were? */
static int look_at_leaves(const struct sync_work *w, PGconn *c, int64_t *at_us, struct rt_err *err)
{
	if (rt_mono_us() < *at_us)
		return 0;
	*at_us = rt_mono_us() + w->settings->capture.look_interval;
	return leaves_look(c, w->settings, w->mirrors, w->ledger, tell_unlike, (void *)(uintptr_t)w,
			   err);
}

static int work(const struct sync_work *w, struct rt_err *err)
{
	struct sync_links links = {0};
	int64_t leaves_us = rt_mono_us() + w->settings->capture.look_interval;
	PGconn *c = NULL;
	bool known = false;
	int64_t next_us = 0;
	int rc = ledger_connect(&c, w->settings, NULL, err);
	while (rc >= 0) {
		rc = look_at_published(w, c, &known, &next_us, err);
		if (rc == 1)
			rc = sync_one(w, c, &links, err);
		struct pollfd fd = {.fd = w->in, .events = POLLIN};
		if (rc == 0)
			rc = look_at_leaves(w, c, &leaves_us, err);
		if (rc != 0)
			continue;
		sync_links_close(&links);
		poll(&fd, 1, LOOK_MS);
	}
	sync_links_close(&links);
	pgc_close(c);
	return rc;
}

void sync_worker_main(const struct sync_work *w)
{
	struct rt_err err;
	struct sync_message m = {.kind = SYNC_FAILED};
	m.code = (enum rt_code)work(w, &err);
	snprintf(m.text, sizeof(m.text), "%s", err.msg);
	if (sync_tell(w, &m, &err) != 0)
		log_debug("a worker ends untold", "reason=\"%s\"", m.text);
}
