/*
 * worker: fence, build, files, publication, each from where the run's row says
 * it is. Guarantees: files become visible in the transaction that makes the
 * run published, whole; whatever fails before leaves nothing that counts.
 */
#include "apply/reports/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "apply/reports/fence.h"
#include "apply/reports/keep.h"
#include "apply/reports/making.h"
#include "apply/reports/publication.h"
#include "apply/reports/queue.h"
#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/base/loop.h"
#include "proto/base/metrics.h"
#include "proto/pg/pgconn.h"

static bool is_in(const struct run *r, const char *state)
{
	return strcmp(r->state, state) == 0;
}

static int reload(struct making *m, struct rt_err *err)
{
	const char *id = arena_strdup(&m->arena, m->run.id);
	return runs_get(m->c, &m->arena, m->s->pipeline, id, &m->run, err);
}

/* A run that was built before this process, and whose relations are gone, is built again. */
static int check_built(struct making *m, struct rt_err *err)
{
	bool there = true;
	int rc = making_is_there(m, &there, err);
	if (rc != 0 || there)
		return rc;
	rc = making_again(m, err);
	if (rc == 0)
		rc = reload(m, err);
	return rc == 0 ? making_read(m, err) : rc;
}

static int go_through(struct making *m, struct rt_err *err)
{
	int rc = is_in(&m->run, "writing") ? check_built(m, err) : 0;
	if (rc != 0)
		return rc;
	if (is_in(&m->run, "waiting")) {
		rc = fence_pass(m->c, m->s, &m->run, m->epoch, err);
		if (rc == 0)
			rc = reload(m, err);
	}
	FAILPOINT(REPORTS_FENCE_PASSED);
	if (rc == 0 && is_in(&m->run, "building")) {
		rc = making_build(m, err);
		if (rc == 0)
			rc = reload(m, err);
	}
	FAILPOINT(REPORTS_BUILT);
	if (rc == 0 && is_in(&m->run, "writing")) {
		rc = publication_write(m, err);
		FAILPOINT(REPORTS_WRITTEN);
		if (rc == 0)
			rc = publication_commit(m, err);
		FAILPOINT(REPORTS_PUBLISHED);
	}
	return rc;
}

/* Old runs go; a failure of that is nobody's but the operator's. */
static void tidy(struct making *m)
{
	struct rt_err err;
	if (keep_prune(m->c, m->s, &err) != 0)
		log_warn("relations of old runs are not dropped", "reason=\"%s\"", err.msg);
}

int worker_run(const struct settings *s, const char *run_id, int64_t epoch, struct rt_err *err)
{
	struct making m = {.s = s, .epoch = epoch};
	arena_init(&m.arena, 65536);
	int rc = runs_connect(&m.c, s, "rolag reports worker", NULL, err);
	if (rc == 0)
		rc = runs_get(m.c, &m.arena, s->pipeline, run_id, &m.run, err);
	if (rc == 0)
		rc = making_read(&m, err);
	if (rc == 0)
		rc = go_through(&m, err);
	if (rc == 0)
		tidy(&m);
	making_release(&m);
	return rc;
}

/* ---- the process ---- */

struct result {
	int rc;
	char text[sizeof((struct rt_err){0}.msg)];
};

static RT_NORETURN void child(const struct settings *s, const char *run_id, int64_t epoch,
			      struct loop *loop, int fd, pid_t parent)
{
	struct result r = {0};
	struct rt_err err;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	loop_release(loop);
	met_leave();
	if (dup2(fd, STDERR_FILENO + 1) < 0 || fcntl(STDERR_FILENO + 1, F_SETFD, FD_CLOEXEC) < 0)
		_exit(1);
	close_range(STDERR_FILENO + 2, ~0U, 0);
	r.rc = worker_run(s, run_id, epoch, &err);
	if (r.rc != 0)
		snprintf(r.text, sizeof(r.text), "%s", err.msg);
	ssize_t n = write(STDERR_FILENO + 1, &r, sizeof(r));
	_exit(n == (ssize_t)sizeof(r) ? 0 : 1);
}

int worker_start(struct worker *w, const struct settings *s, const char *run_id, int64_t epoch,
		 struct loop *loop, struct rt_err *err)
{
	int fds[2];
	pid_t parent = getpid();
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0)
		return rt_fail_errno(err, ERR_SYSTEM, "no pipe for a run's worker");
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0)
		child(s, run_id, epoch, loop, fds[1], parent);
	close(fds[1]);
	if (pid < 0) {
		close(fds[0]);
		return rt_fail_errno(err, ERR_SYSTEM, "cannot fork a run's worker");
	}
	w->pid = pid;
	w->fd = fds[0];
	snprintf(w->run, sizeof(w->run), "%s", run_id);
	return 0;
}

static int reap(struct worker *w)
{
	int status = 0;
	while (waitpid(w->pid, &status, 0) < 0 && errno == EINTR)
		;
	close(w->fd);
	w->pid = 0;
	w->fd = -1;
	return status;
}

int worker_finish(struct worker *w, struct rt_err *err)
{
	struct result r;
	ssize_t n = read(w->fd, &r, sizeof(r));
	int status = reap(w);
	if (n == (ssize_t)sizeof(r) && r.rc == 0)
		return 0;
	if (n == (ssize_t)sizeof(r))
		return rt_fail(err, (enum rt_code)r.rc, "%.*s", (int)sizeof(r.text), r.text);
	return WIFSIGNALED(status)
		       ? rt_fail(err, ERR_SYSTEM, "the run's process was killed (signal %d)",
				 WTERMSIG(status))
		       : rt_fail(err, ERR_SYSTEM, "the run's process ended without a word");
}

void worker_stop(struct worker *w)
{
	if (w->pid == 0)
		return;
	kill(w->pid, SIGTERM); /* it has no handler: whatever it does may break off */
	(void)reap(w);
}
