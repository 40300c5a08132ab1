/*
 * sync: apply's side: who syncs what, what apply leaves out meanwhile, and
 * when it holds still. Guarantees: a table has one writer at a time; what a
 * sync still needs of the spool is said to be kept before it is relied on.
 */
#include "apply/stream/sync.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "apply/stream/sync_inner.h"
#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/base/metrics.h"

#define CLAIM_US INT64_C(2000)	 /* claims are looked at again after this */
#define LOOK_US	 INT64_C(200000) /* for workers that ended, and ones to be started */

void sync_init(struct sync *s, const struct settings *settings, struct landed_set *landed,
	       struct mirror_set *mirrors, const struct ledger *ledger)
{
	*s = (struct sync){.settings = settings,
			   .landed = landed,
			   .mirrors = mirrors,
			   .ledger = ledger,
			   .fd = -1,
			   .worker_fd = -1,
			   .told_limit = {.interval_us = 5000000}};
	s->keep = rt_calloc((size_t)landed_room(landed) + mirrors->count + 1, sizeof(*s->keep));
}

/* ---- tables, by number: landed ones, then mirrors ---- */

static uint16_t table_count(const struct sync *s)
{
	return (uint16_t)(s->landed->count + s->mirrors->count);
}

/* NULL: it is a landed table. */
static struct mirror *mirror_at(const struct sync *s, uint16_t at)
{
	return at < s->landed->count ? NULL : &s->mirrors->item[at - s->landed->count];
}

static const char *name_at(const struct sync *s, uint16_t at)
{
	const struct mirror *m = mirror_at(s, at);
	return m != NULL ? m->relname : s->landed->item[at].rollup->name;
}

static enum landed_state *state_at(const struct sync *s, uint16_t at)
{
	struct mirror *m = mirror_at(s, at);
	return m != NULL ? &m->state : &s->landed->item[at].state;
}

static bool is_beside(const struct sync *s, uint16_t at)
{
	return at < s->landed->count && s->landed->item[at].beside != NULL;
}

void sync_release(struct sync *s)
{
	if (s->keep == NULL)
		return;
	sync_end(s);
	free(s->keep);
	s->keep = NULL;
}

/* ---- processes ---- */

/* In the child: nothing of apply's is left but memory, and the two ends of ours. */
static void become_worker(const struct sync *s, uint16_t n, int in, pid_t parent)
{
	const unsigned low = (unsigned)RT_MIN(in, s->worker_fd),
		       high = (unsigned)RT_MAX(in, s->worker_fd);
	sigset_t none;
	sigemptyset(&none);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(EXIT_TEMPORARY);
	for (int number = 1; number < NSIG; number++)
		if (number != SIGPIPE)
			signal(number, SIG_DFL);
	signal(SIGINT, SIG_IGN); /* a terminal's ^C is apply's to answer */
	sigprocmask(SIG_SETMASK, &none, NULL);
	close_range(STDERR_FILENO + 1, low - 1, 0);
	if (low + 1 < high)
		close_range(low + 1, high - 1, 0);
	close_range(high + 1, ~0U, 0);
	met_leave();
	const struct sync_work work = {.settings = s->settings,
				       .landed = s->landed,
				       .mirrors = s->mirrors,
				       .ledger = s->ledger,
				       .worker = n,
				       .out = s->worker_fd,
				       .in = in};
	sync_worker_main(&work);
	_exit(EXIT_OK);
}

static int start_worker(struct sync *s, uint16_t n, struct rt_err *err)
{
	int fd[2];
	if (FP_FAILS(SYNC_SOCKET) || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd) != 0)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot make a socket pair");
	const pid_t self = getpid();
	pid_t pid = FP_FAILS(SYNC_FORK) ? -1 : fork();
	if (pid == 0)
		become_worker(s, n, fd[1], self);
	int failed = errno;
	close(fd[1]);
	if (pid < 0) {
		close(fd[0]);
		errno = failed;
		return rt_fail_errno(err, ERR_SYSTEM, "cannot start a sync worker");
	}
	s->worker[n] = (struct sync_worker){.pid = pid, .fd = fd[0]};
	return 0;
}

/* The worker is gone: its table waits for another, unless it is live. */
static void bury(struct sync *s, struct sync_worker *w)
{
	s->stale |= w->stage == SYNC_HOLDING || w->stage == SYNC_LANDED;
	close(w->fd);
	*w = (struct sync_worker){0};
	s->start_us = rt_mono_us() + pgc_backoff_next(&s->backoff);
}

static void end_worker(struct sync *s, struct sync_worker *w)
{
	if (w->pid == 0)
		return;
	kill(w->pid, SIGKILL);
	waitpid(w->pid, NULL, 0);
	bury(s, w);
}

static unsigned count_workers(const struct sync *s, bool busy)
{
	unsigned n = 0;
	for (size_t i = 0; i < ARRAY_LEN(s->worker); i++)
		n += s->worker[i].pid != 0 && (!busy || s->worker[i].stage != SYNC_IDLE);
	return n;
}

/* One looks for tables; while one is busy, another looks; when none is, the others end. */
static int keep_staff(struct sync *s, struct rt_err *err)
{
	unsigned busy = count_workers(s, true), all = count_workers(s, false);
	unsigned wanted = RT_MIN(busy + 1, (unsigned)s->settings->sync.workers);
	for (size_t i = 0; all < wanted && i < ARRAY_LEN(s->worker); i++)
		if (s->worker[i].pid == 0) {
			int rc = start_worker(s, (uint16_t)i, err);
			if (rc != 0)
				return rc;
			all++;
		}
	for (size_t i = ARRAY_LEN(s->worker); busy == 0 && all > 1 && i-- > 0;)
		if (s->worker[i].pid != 0) {
			end_worker(s, &s->worker[i]);
			s->start_us = 0; /* not for a failure */
			pgc_backoff_reset(&s->backoff);
			all--;
		}
	return 0;
}

static void look_for_dead(struct sync *s)
{
	for (size_t i = 0; i < ARRAY_LEN(s->worker); i++) {
		struct sync_worker *w = &s->worker[i];
		uint64_t hidden;
		int status;
		if (w->pid == 0 || waitpid(w->pid, &status, WNOHANG) != w->pid)
			continue;
		if (WIFSIGNALED(status) && log_limit_pass(&s->told_limit, rt_mono_us(), &hidden))
			log_warn("a sync worker was killed, another goes on",
				 "signal=%d hidden=%" PRIu64, WTERMSIG(status), hidden);
		bury(s, w);
	}
}

/* ---- what tables need ---- */

static void read_keeps(struct sync *s, const PGresult *res)
{
	for (uint16_t t = 0; t < table_count(s); t++) {
		s->keep[t] = LSN_NONE;
		for (int i = 0; i < PQntuples(res); i++)
			if (strcmp(PQgetvalue(res, i, 0), name_at(s, t)) == 0)
				s->keep[t] = pgc_get_lsn(res, i, 1);
	}
}

int sync_begin(struct sync *s, PGconn *c, struct rt_err *err)
{
	int fd[2];
	PGresult *res;
	int rc = pgc_query(c, &res, err,
			   "SELECT name, coalesce(replayed_lsn, start_lsn) FROM rolag.sync "
			   "WHERE pipeline = $1",
			   1, &s->settings->pipeline);
	if (rc != 0)
		return rc;
	read_keeps(s, res);
	PQclear(res);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd) != 0)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot make a socket pair");
	/* A worker may wait for room; apply never does. */
	if (fcntl(fd[1], F_SETFL, fcntl(fd[1], F_GETFL) & ~O_NONBLOCK) != 0) {
		close(fd[0]);
		close(fd[1]);
		return rt_fail_errno(err, ERR_SYSTEM, "cannot set up a socket pair");
	}
	s->fd = fd[0];
	s->worker_fd = fd[1];
	s->start_us = s->look_us = 0;
	pgc_backoff_reset(&s->backoff);
	return 0;
}

void sync_end(struct sync *s)
{
	if (s->fd < 0)
		return;
	for (size_t i = 0; i < ARRAY_LEN(s->worker); i++)
		end_worker(s, &s->worker[i]);
	s->stale = false; /* all is read anew with the next connection */
	close(s->fd);
	close(s->worker_fd);
	s->fd = s->worker_fd = -1;
}

struct lsn sync_keep(const struct sync *s)
{
	struct lsn keep = LSN_NONE;
	for (uint16_t t = 0; t < table_count(s); t++)
		if (s->keep[t].v != 0)
			keep = keep.v == 0 ? s->keep[t] : lsn_min(keep, s->keep[t]);
	return keep;
}

unsigned sync_count(const struct sync *s)
{
	unsigned n = 0;
	for (uint16_t t = 0; t < table_count(s); t++)
		n += *state_at(s, t) == LANDED_SYNCING && !is_beside(s, t);
	return n;
}

bool sync_holds(const struct sync *s)
{
	for (size_t i = 0; i < ARRAY_LEN(s->worker); i++)
		if (s->worker[i].stage == SYNC_HOLDING || s->worker[i].stage == SYNC_LANDED)
			return true;
	return false;
}

bool sync_has_landed(const struct sync *s)
{
	for (size_t i = 0; i < ARRAY_LEN(s->worker); i++)
		if (s->worker[i].stage == SYNC_LANDED)
			return true;
	return false;
}

/* ---- messages ---- */

static void answer(struct sync_worker *w, enum sync_message_kind kind, struct lsn lsn)
{
	struct sync_message m = {.kind = kind, .at = w->at, .lsn = lsn};
	if (send(w->fd, &m, sizeof(m), MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)sizeof(m))
		kill(w->pid,
		     SIGKILL); /* it does not listen any more; it is buried when it is found */
}

/* From now on apply takes nothing of the table; granted once what it took before is written. */
static void take_claim(struct sync *s, struct sync_worker *w, uint16_t at, struct lsn gathered)
{
	for (size_t i = 0; i < ARRAY_LEN(s->worker); i++)
		if (s->worker[i].stage != SYNC_IDLE && s->worker[i].at == at) {
			answer(w, SYNC_REFUSED, LSN_NONE);
			return;
		}
	w->at = at;
	w->stage = SYNC_CLAIMING;
	w->wait = gathered;
	w->rows = w->estimate = 0;
	*state_at(s, at) = is_beside(s, at) ? LANDED_REBUILDING : LANDED_SYNCING;
	if (s->keep[at].v == 0) /* what it will begin behind comes later than what is applied */
		s->keep[at] = lsn_max(s->ledger->flushed, (struct lsn){1});
}

static void grant(struct sync *s, struct lsn kept)
{
	for (size_t i = 0; i < ARRAY_LEN(s->worker); i++) {
		struct sync_worker *w = &s->worker[i];
		if (w->stage != SYNC_CLAIMING || !lsn_le(w->wait, s->ledger->applied) ||
		    kept.v == 0 || !lsn_le(kept, s->keep[w->at]))
			continue;
		w->stage = SYNC_READING;
		answer(w, SYNC_GRANTED, LSN_NONE);
	}
}

static void take_progress(struct sync *s, struct sync_worker *w, const struct sync_message *m)
{
	if (m->rows > w->rows && w->estimate != 0) {
		met_add(MET_SYNC_ROWS, m->rows - w->rows);
		pgc_backoff_reset(&s->backoff);
	}
	w->rows = m->rows;
	w->estimate = RT_MAX(m->estimate, 1);
	if (m->lsn.v != 0)
		s->keep[w->at] = m->lsn;
}

static void take_live(struct sync *s, struct sync_worker *w, struct lsn lsn)
{
	s->keep[w->at] = LSN_NONE;
	pgc_backoff_reset(&s->backoff);
	if (mirror_at(s, w->at) != NULL) {
		w->stage = SYNC_LANDED;
		return;
	}
	struct landed *l = &s->landed->item[w->at];
	l->state = LANDED_LIVE;
	l->sync_lsn = lsn;
	s->went_live = true;
	w->stage = SYNC_IDLE;
}

int sync_read_mirrors(struct sync *s, PGconn *c, struct rt_err *err)
{
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < ARRAY_LEN(s->worker); i++) {
		struct sync_worker *w = &s->worker[i];
		if (w->stage != SYNC_LANDED)
			continue;
		rc = mirror_read(c, s->settings, s->mirrors, mirror_at(s, w->at), err);
		if (rc != 0)
			break;
		w->stage = SYNC_IDLE;
		answer(w, SYNC_GRANTED, LSN_NONE);
	}
	return rc;
}

static void take_parked(struct sync *s, struct sync_worker *w)
{
	*state_at(s, w->at) = LANDED_PARKED;
	s->keep[w->at] = LSN_NONE;
	s->stale |= mirror_at(s, w->at) == NULL; /* nothing waits of a mirror */
	w->stage = SYNC_IDLE;
}

static int take_failure(struct sync *s, const struct sync_message *m, struct rt_err *err)
{
	uint64_t hidden;
	if (m->code != ERR_RETRY && m->code != ERR_SYSTEM)
		return rt_fail(err, m->code, "%.500s", m->text);
	met_note("%.500s", m->text);
	if (log_limit_pass(&s->told_limit, rt_mono_us(), &hidden))
		log_warn("a sync is given up, and goes on", "hidden=%" PRIu64 " reason=\"%s\"",
			 hidden, m->text);
	return 0;
}

static int take_message(struct sync *s, const struct sync_message *m, struct lsn gathered,
			struct rt_err *err)
{
	struct sync_worker *w = &s->worker[m->worker];
	switch (m->kind) {
	case SYNC_CLAIM:
		take_claim(s, w, m->at, gathered);
		return 0;
	case SYNC_BEGUN:
	case SYNC_PROGRESS:
		take_progress(s, w, m);
		return 0;
	case SYNC_NOTE:
		met_note("%s", m->text);
		return 0;
	case SYNC_READY:
		take_progress(s, w, m);
		w->stage = SYNC_HOLDING;
		answer(w, SYNC_HELD, gathered);
		return 0;
	case SYNC_LIVE:
		take_live(s, w, m->lsn);
		s->stale |= m->waiting > 0;
		return 0;
	case SYNC_PARKED:
		take_parked(s, w);
		return 0;
	case SYNC_FAILED:
		return take_failure(s, m, err);
	case SYNC_GRANTED:
	case SYNC_REFUSED:
	case SYNC_HELD:
		break;
	}
	rt_bug(__FILE__, __LINE__, "a message that workers do not send");
}

static void show_rebuilds(const struct sync *s, uint64_t rows, uint64_t estimated)
{
	unsigned n = 0;
	for (uint16_t t = 0; t < s->landed->count; t++)
		n += s->landed->item[t].beside != NULL;
	met_set(MET_REBUILD_ROLLUPS, n);
	met_set(MET_REBUILD_ROWS, rows);
	met_set(MET_REBUILD_ESTIMATE, estimated);
}

static void show(const struct sync *s)
{
	uint64_t rows[2] = {0}, estimated[2] = {0}; /* of syncs, of rebuilds */
	unsigned n = sync_count(s);
	for (size_t i = 0; i < ARRAY_LEN(s->worker); i++) {
		const struct sync_worker *w = &s->worker[i];
		const bool beside = w->stage != SYNC_IDLE && is_beside(s, w->at);
		rows[beside] += w->rows;
		estimated[beside] += w->estimate;
	}
	show_rebuilds(s, rows[1], estimated[1]);
	met_set(MET_SYNC_TABLES, n);
	met_set(MET_SYNC_DONE_ROWS, rows[0]);
	met_set(MET_SYNC_ESTIMATE, estimated[0]);
	if (n == 0) {
		met_set(MET_SYNC_STARTED_US, 0);
	} else if (met_get(MET_SYNC_STARTED_US) == 0) {
		met_set(MET_SYNC_STARTED_ROWS, met_get(MET_SYNC_ROWS));
		met_set(MET_SYNC_STARTED_US, (uint64_t)rt_now_us());
	}
}

/* ---- the loop's side ---- */

void sync_prepare(struct sync *s, int64_t now, struct loop_want *ret)
{
	if (s->fd < 0)
		return;
	ret->fd = s->fd;
	ret->events = POLLIN;
	ret->at_us = RT_MAX(s->look_us, now);
	for (size_t i = 0; i < ARRAY_LEN(s->worker); i++)
		if (s->worker[i].stage == SYNC_CLAIMING)
			ret->at_us = RT_MIN(ret->at_us, now + CLAIM_US);
}

int sync_turn(struct sync *s, struct lsn gathered, struct lsn kept, int64_t now, struct rt_err *err)
{
	struct sync_message m;
	int rc = 0;
	if (s->fd < 0)
		return 0;
	grant(s, kept);
	while (rc == 0 && recv(s->fd, &m, sizeof(m), 0) == (ssize_t)sizeof(m))
		rc = take_message(s, &m, gathered, err);
	if (rc == 0 && now >= s->look_us) {
		s->look_us = now + LOOK_US;
		look_for_dead(s);
		if (now >= s->start_us)
			rc = keep_staff(s, err);
	}
	show(s);
	return rc;
}
