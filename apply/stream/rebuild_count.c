/*
 * rebuild_count: how the rows that were built differ from the live ones, in a
 * child process. Guarantees: both are seen at one position of the stream, which
 * flows meanwhile; what was counted is noted under the fence, or not at all.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "apply/stream/differ.h"
#include "apply/stream/rebuild_inner.h"
#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/base/metrics.h"
#include "proto/pg/pgconn.h"

#define NICE	 5
#define AGAIN_US INT64_C(5000000) /* behind a count that failed */

/* ---- the child ---- */

/* A snapshot shows whole batches of apply: live and new rows as of one position. */
static int count(PGconn *c, const struct settings *s, const struct landed *l, struct arena *a,
		 struct differ *ret, struct lsn *ret_at, struct rt_err *err)
{
	static const char *const key[] = {"id", "version"};
	static const char *const skip[] = {"_lsn", "_committed_at"};
	PGresult *res;
	int rc = pgc_exec(c, NULL, err, "BEGIN ISOLATION LEVEL REPEATABLE READ");
	if (rc == 0)
		rc = pgc_query(c, &res, err,
			       "SELECT max(applied_lsn) FROM rolag.ledger WHERE pipeline = $1", 1,
			       &s->pipeline);
	if (rc != 0)
		return rc;
	*ret_at = pgc_get_lsn(res, 0, 0);
	PQclear(res);
	FAILPOINT_FD(REBUILD_COUNTING, PQsocket(c));
	rc = differ_count(c, a, l->beside->history, l->history, key, ARRAY_LEN(key), skip,
			  ARRAY_LEN(skip), ret, err);
	return rc == 0 ? pgc_exec(c, NULL, err, "COMMIT") : rc;
}

static int note_columns(PGconn *c, const char *const *params, const struct differ *d,
			struct rt_err *err)
{
	int rc = pgc_query(c, NULL, err,
			   "DELETE FROM rolag.rebuild_column WHERE pipeline = $1 AND rollup = $2",
			   2, params);
	for (uint16_t i = 0; rc == 0 && i < d->count; i++) {
		char rows[24];
		snprintf(rows, sizeof(rows), "%" PRIu64, d->column[i].rows);
		const char *each[] = {params[0], params[1], d->column[i].name, rows};
		if (d->column[i].rows > 0)
			rc = pgc_query(c, NULL, err,
				       "INSERT INTO rolag.rebuild_column VALUES ($1, $2, $3, "
				       "$4::int8)",
				       4, each);
	}
	return rc;
}

static int note(const struct rebuild *r, PGconn *c, const struct landed *l, const struct differ *d,
		struct lsn at, struct rt_err *err)
{
	char number[4][24], lsn[32];
	const uint64_t count[] = {d->same, d->differing, d->only_old, d->only_new};
	for (size_t i = 0; i < ARRAY_LEN(count); i++)
		snprintf(number[i], sizeof(number[i]), "%" PRIu64, count[i]);
	snprintf(lsn, sizeof(lsn), LSN_FMT, LSN_ARGS(at));
	const char *params[] = {r->settings->pipeline,
				l->beside->rollup->name,
				number[0],
				number[1],
				number[2],
				number[3],
				lsn,
				d->gone,
				d->added};
	int rc = rebuild_open(r, c, err);
	if (rc == 0)
		rc = note_columns(c, params, d, err);
	if (rc == 0)
		rc = pgc_query(
			c, NULL, err,
			"UPDATE rolag.rebuild SET state = 'counted', reason = NULL, retry_at "
			"= NULL, tries = 0, same = $3::int8, differing = $4::int8, only_old = "
			"$5::int8, only_new = $6::int8, counted_lsn = $7::pg_lsn, gone = $8, "
			"added = $9 WHERE pipeline = $1 AND rollup = $2 AND state = "
			"'building'",
			9, params);
	FAILPOINT_FD(REBUILD_COUNTED, PQsocket(c));
	return rc == 0 ? rebuild_commit(c, err) : rc;
}

static void say(const struct landed *l, const struct differ *d)
{
	for (uint16_t i = 0; i < d->count; i++)
		if (d->column[i].rows > 0)
			log_info("a rebuild changes a column", "rollup=%s column=%s rows=%" PRIu64,
				 l->beside->rollup->name, d->column[i].name, d->column[i].rows);
	log_info("a rebuild is counted",
		 "rollup=%s same=%" PRIu64 " differing=%" PRIu64 " only_old=%" PRIu64
		 " only_new=%" PRIu64 " columns_gone=\"%s\" columns_added=\"%s\"",
		 l->beside->rollup->name, d->same, d->differing, d->only_old, d->only_new, d->gone,
		 d->added);
}

static int run(const struct rebuild *r, const struct landed *l, struct rt_err *err)
{
	struct arena a;
	struct differ d = {0};
	struct rebuild_names names;
	struct lsn at = LSN_NONE;
	PGconn *c = NULL;
	arena_init(&a, 4096);
	rebuild_names(r->settings, l, &names);
	int rc = ledger_connect(&c, r->settings, NULL, err);
	if (rc == 0) /* an index that came since it was loaded */
		rc = swap_prepare(c, names.pair, ARRAY_LEN(names.pair), true, err);
	if (rc == 0)
		rc = count(c, r->settings, l, &a, &d, &at, err);
	if (rc == 0)
		rc = note(r, c, l, &d, at, err);
	if (rc == 0)
		say(l, &d);
	pgc_close(c);
	arena_release(&a);
	return rc;
}

/* What is in its way for good is noted; the rest is tried again by apply. */
static void fail(const struct rebuild *r, const struct landed *l, const struct rt_err *why)
{
	struct rt_err err;
	PGconn *c = NULL;
	log_warn("a rebuild cannot be counted, and is tried again", "rollup=%s reason=\"%s\"",
		 l->beside->rollup->name, why->msg);
	if (why->code == ERR_RETRY || ledger_connect(&c, r->settings, NULL, &err) != 0)
		return;
	if (rebuild_note_reason(r, c, l->beside->rollup->name, why->msg, "60 s", &err) != 0)
		log_debug("the reason is not noted", "reason=\"%s\"", err.msg);
	pgc_close(c);
}

static RT_NORETURN void child(const struct rebuild *r, const struct landed *l, int fd, pid_t parent)
{
	struct rt_err err;
	sigset_t none;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(EXIT_TEMPORARY);
	for (int number = 1; number < NSIG; number++)
		if (number != SIGPIPE)
			signal(number, SIG_DFL);
	signal(SIGINT, SIG_IGN); /* a terminal's ^C is apply's to answer */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(fd, STDERR_FILENO + 1) < 0) /* closed when we end, which apply sees */
		_exit(EXIT_TEMPORARY);
	close_range(STDERR_FILENO + 2, ~0U, 0);
	met_leave();
	setpriority(PRIO_PROCESS, 0, NICE);
	if (run(r, l, &err) != 0)
		fail(r, l, &err);
	else if (write(STDERR_FILENO + 1, "1", 1) != 1)
		_exit(EXIT_TEMPORARY);
	_exit(EXIT_OK);
}

/* ---- apply's side ---- */

void rebuild_start_count(struct rebuild *r, const struct landed *l)
{
	int fds[2];
	const pid_t parent = getpid();
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0) {
		log_warn("a rebuild cannot be counted yet", "reason=\"pipe: %s\"", strerror(errno));
		return;
	}
	pid_t pid = FP_FAILS(REBUILD_FORK) ? -1 : fork();
	if (pid == 0)
		child(r, l, fds[1], parent);
	close(fds[1]);
	if (pid < 0) {
		log_warn("a rebuild cannot be counted yet", "reason=\"fork: %s\"", strerror(errno));
		close(fds[0]);
		return;
	}
	r->pid = pid;
	r->fd = fds[0];
	snprintf(r->counts, sizeof(r->counts), "%s", l->beside->rollup->name);
}

static void bury(struct rebuild *r)
{
	int status;
	while (waitpid(r->pid, &status, 0) < 0 && errno == EINTR)
		;
	close(r->fd);
	r->pid = 0;
	r->fd = -1;
}

void rebuild_end(struct rebuild *r)
{
	r->due = REBUILD_NOTHING;
	if (r->pid == 0)
		return;
	kill(r->pid, SIGKILL);
	bury(r);
}

void rebuild_prepare(void *ctx, int64_t now, struct loop_want *ret)
{
	struct rebuild *r = ctx;
	(void)now;
	if (r->pid == 0)
		return;
	ret->fd = r->fd;
	ret->events = POLLIN;
}

int rebuild_dispatch(void *ctx, short revents, int64_t now, struct rt_err *err)
{
	struct rebuild *r = ctx;
	char byte;
	ssize_t n = r->pid != 0 ? read(r->fd, &byte, 1) : -1;
	(void)revents;
	(void)err;
	if (n < 0)
		return 0;
	bury(r);
	r->ask_us = n == 1 ? now : now + AGAIN_US;
	return 0;
}
