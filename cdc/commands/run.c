/*
 * run: the roles as children of one foreground process (containers, the
 * demo). Guarantees: no child outlives us, no zombie stays, a child that
 * ended for a temporary reason comes back with backoff, and one that ended
 * for good ends us with its code after the others were stopped. Without the
 * companion (reports) we go on, and say so.
 */
#include "cdc/commands/commands.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/base/log.h"
#include "proto/base/loop.h"
#include "proto/base/metrics.h"
#include "proto/pg/pgconn.h"

#define STEADY_US 60000000 /* a child that lived this long starts with a fresh backoff */
#define GRACE_US  30000000 /* what the others get when we stop because of one */

const struct cli_usage run_usage = {
	.text = "Runs capture, apply and, where reports are configured, reports until it is told "
		"to stop, and restarts\nwhat ended for a temporary reason. Signals: TERM or INT "
		"stops "
		"(a second one at once), HUP and USR2 are\npassed on, USR1 to reports. Ends with a "
		"role's code (2 or 100) when capture or apply ended for good;\ngoes on without "
		"reports.\n",
};

static const char *const role_names[] = {"capture", "apply", "reports"};
#define ROLES	ARRAY_LEN(role_names)
#define REPORTS (ROLES - 1) /* the last: there may be none, and nothing ends with it */

struct runner;

struct child {
	struct runner *runner;
	const char *role;
	pid_t pid; /* 0: not running */
	int64_t started_us;
	int64_t start_at_us; /* monotonic; when not running. LOOP_NEVER: it is not wanted any more */
	struct pgc_backoff backoff;
};

struct runner {
	struct loop loop;
	struct child child[ROLES];
	const char *config;
	bool stopping;
	int64_t kill_at_us; /* monotonic; the end of patience with children told to stop */
	int exit_code;
};

/* In the new process: becomes the role. The parent's mask and process group are not its own. */
static void become(const struct child *c, pid_t parent) RT_NORETURN;
static void become(const struct child *c, pid_t parent)
{
	const char *argv[] = {"rolag", c->role, "--config", c->runner->config, NULL};
	sigset_t none;
	sigemptyset(&none);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent) /* it died before the line above */
		_exit(EXIT_TEMPORARY);
	setpgid(0, 0); /* ^C in a terminal reaches us alone, and we tell the child once */
	signal(SIGPIPE, SIG_DFL);
	signal(SIGUSR1, SIG_IGN); /* until it handles it: what is passed on must not end it */
	sigprocmask(SIG_SETMASK, &none, NULL);
	execv("/proc/self/exe", (char *const *)argv); /* it changes none of them */
	_exit(EXIT_TEMPORARY);
}

/* For the service manager's status line (notify.h). */
static void say_children(const struct runner *r)
{
	char text[128] = "";
	size_t n = 0;
	for (size_t i = 0; i < ROLES; i++) {
		const struct child *c = &r->child[i];
		const char *how = c->pid != 0			 ? "up"
				  : c->start_at_us == LOOP_NEVER ? "off"
								 : "to start again";
		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s %s", n > 0 ? ", " : "",
				      c->role, how);
	}
	met_state(r->stopping ? "stopping" : "running");
	met_note("%s", text);
}

static int start(struct child *c, int64_t now_us, struct rt_err *err)
{
	pid_t parent = getpid();
	pid_t pid = fork();
	if (pid < 0)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot fork for %s", c->role);
	if (pid == 0)
		become(c, parent);
	c->pid = pid;
	c->started_us = now_us;
	log_info("started", "child=%s pid=%d", c->role, (int)pid);
	return 0;
}

static void tell_all(struct runner *r, int number)
{
	for (size_t i = 0; i < ROLES; i++)
		if (r->child[i].pid != 0)
			kill(r->child[i].pid, number);
}

static void stop_all(struct runner *r, int64_t kill_at_us)
{
	if (r->stopping)
		return;
	r->stopping = true;
	r->kill_at_us = kill_at_us;
	tell_all(r, SIGTERM);
}

/* One child ended with this wait status. */
static void ended(struct runner *r, struct child *c, int status, int64_t now_us)
{
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	pid_t pid = c->pid;
	c->pid = 0;
	if (r->stopping) {
		log_info("stopped", "child=%s pid=%d code=%d", c->role, (int)pid, code);
		return;
	}
	if ((code == EXIT_PERMANENT || code == EXIT_USAGE) && c == &r->child[REPORTS]) {
		log_error("ended for good; going on without it", "child=%s pid=%d code=%d", c->role,
			  (int)pid, code);
		c->start_at_us = LOOP_NEVER;
		return;
	}
	if (code == EXIT_PERMANENT || code == EXIT_USAGE) {
		log_error("ended for good; stopping", "child=%s pid=%d code=%d", c->role, (int)pid,
			  code);
		r->exit_code = code;
		stop_all(r, now_us + GRACE_US);
		return;
	}
	if (now_us - c->started_us >= STEADY_US)
		pgc_backoff_reset(&c->backoff);
	int64_t wait_us = pgc_backoff_next(&c->backoff);
	c->start_at_us = now_us + wait_us;
	if (code < 0)
		log_warn("killed; starting again", "child=%s pid=%d signal=%d in_ms=%d", c->role,
			 (int)pid, WTERMSIG(status), (int)(wait_us / 1000));
	else
		log_warn("ended; starting again", "child=%s pid=%d code=%d in_ms=%d", c->role,
			 (int)pid, code, (int)(wait_us / 1000));
}

static void reap(struct runner *r, int64_t now_us)
{
	for (size_t i = 0; i < ROLES; i++) {
		int status;
		struct child *c = &r->child[i];
		if (c->pid != 0 && waitpid(c->pid, &status, WNOHANG) == c->pid)
			ended(r, c, status, now_us);
	}
}

static void child_prepare(void *ctx, int64_t now_us, struct loop_want *ret)
{
	const struct child *c = ctx;
	if (c->pid == 0 && !c->runner->stopping)
		ret->at_us = c->start_at_us;
	else if (c->pid != 0 && c->runner->stopping)
		ret->at_us = c->runner->kill_at_us;
}

static int child_dispatch(void *ctx, short revents, int64_t now_us, struct rt_err *err)
{
	struct child *c = ctx;
	if (!c->runner->stopping)
		return start(c, now_us, err);
	log_warn("does not stop; killing", "child=%s pid=%d", c->role, (int)c->pid);
	tell_all(c->runner, SIGKILL);
	c->runner->kill_at_us = LOOP_NEVER;
	return 0;
}

/* End of each turn: signals in, signals out. */
static int handle_signals(void *ctx, int64_t now_us, struct rt_err *err)
{
	struct runner *r = ctx;
	struct loop *l = &r->loop;
	if (l->stop > 0)
		stop_all(r, LOOP_NEVER);
	if (l->reload)
		tell_all(r, SIGHUP);
	if (l->usr2)
		tell_all(r, SIGUSR2);
	if (l->usr1 && r->child[REPORTS].pid != 0)
		kill(r->child[REPORTS].pid, SIGUSR1);
	if (l->child)
		reap(r, now_us);
	l->reload = l->usr1 = l->usr2 = l->child = false;
	l->done = r->stopping;
	for (size_t i = 0; i < ROLES; i++)
		l->done &= r->child[i].pid == 0;
	say_children(r);
	return 0;
}

/* After a second stop signal or a failure of our own: nobody stays behind. */
static void kill_all(struct runner *r)
{
	tell_all(r, SIGKILL);
	for (size_t i = 0; i < ROLES; i++)
		while (r->child[i].pid != 0 && waitpid(r->child[i].pid, NULL, 0) < 0 &&
		       errno == EINTR)
			;
}

int cmd_run(struct cli *cli)
{
	struct settings s;
	struct rt_err err;
	struct runner r = {.config = cli->config, .kill_at_us = LOOP_NEVER};
	if (cli_settings(cli, &s, &err) != 0)
		return cli_fail(cli, &err);
	settings_setup_log(&s, "run");
	if (loop_init(&r.loop, &err) != 0)
		return cli_fail(cli, &err);
	r.loop.ctx = &r;
	r.loop.before_sleep = handle_signals;
	for (size_t i = 0; i < ROLES; i++) {
		r.child[i] = (struct child){.runner = &r, .role = role_names[i]};
		loop_add(&r.loop, (struct loop_source){.name = role_names[i],
						       .ctx = &r.child[i],
						       .prepare = child_prepare,
						       .dispatch = child_dispatch});
	}
	if (s.reports.definitions[0] == '\0')
		r.child[REPORTS].start_at_us = LOOP_NEVER;
	int rc = loop_run(&r.loop, &err);
	kill_all(&r);
	loop_release(&r.loop);
	return rc != 0 ? cli_fail(cli, &err) : r.exit_code;
}
