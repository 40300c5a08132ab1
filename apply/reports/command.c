/*
 * command: a keeper between us and the command. Guarantees: nothing of the
 * command's process group goes on behind the end of the process that ran it:
 * the keeper holds the read end of a pipe whose write end we hold, and kills
 * the group (itself in it) when that closes.
 */
#include "apply/reports/command.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/base/failpoint.h"

#define GRACE_MS    2000 /* from TERM to KILL */
#define NOT_STARTED 125	 /* the keeper's word for what is this machine's fault */

/* ---- in the keeper ---- */

static void become(const struct command *c) RT_NORETURN;
static void become(const struct command *c)
{
	sigset_t none;
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int log = open(c->log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (null < 0 || log < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(log, STDOUT_FILENO) < 0 ||
	    dup2(log, STDERR_FILENO) < 0)
		_exit(NOT_STARTED);
	for (size_t i = 0; c->environment[i] != NULL; i++)
		putenv((char *)(uintptr_t)c->environment[i]); /* it is not changed */
	close_range(STDERR_FILENO + 1, ~0U, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	execl("/bin/sh", "sh", "-c", c->shell, (char *)NULL);
	_exit(127);
}

/* Ends the whole group: first politely, while nobody is left behind. */
static void end_group(int pidfd) RT_NORETURN;
static void end_group(int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	signal(SIGTERM, SIG_IGN);
	kill(0, SIGTERM);
	(void)poll(&p, 1, GRACE_MS);
	kill(0, SIGKILL);
	_exit(1); /* not reached */
}

/* Waits for the command, or for the end of whoever asked for it; exits as the command did. */
static void keep(const struct command *c, int owner) RT_NORETURN;
static void keep(const struct command *c, int owner)
{
	int status;
	setpgid(0, 0);
	if (dup2(owner, STDERR_FILENO + 1) < 0)
		_exit(NOT_STARTED);
	owner = STDERR_FILENO + 1;
	close_range(STDERR_FILENO + 2, ~0U, 0); /* connections are not its */
	pid_t pid = fork();
	if (pid == 0)
		become(c);
	if (pid < 0)
		_exit(NOT_STARTED);
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p[] = {{.fd = owner, .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};
	while (poll(p, 2, -1) < 0 && errno == EINTR)
		;
	if (p[1].revents == 0)
		end_group(pidfd);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	/* What it left in the background must not write any more. */
	signal(SIGTERM, SIG_IGN);
	kill(0, SIGTERM);
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

/* ---- in the worker ---- */

static int judge(const struct command *c, int status, bool late, struct rt_err *err)
{
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	if (late)
		return rt_fail(err, ERR_PERMANENT,
			       "the build command took longer than reports.build_limit (%lld s); "
			       "its output is in %s",
			       (long long)(c->limit_us / 1000000), c->log);
	if (code == 0)
		return 0;
	if (code == NOT_STARTED)
		return rt_fail(err, ERR_SYSTEM, "the build command could not be started");
	if (code < 0)
		return rt_fail(err, ERR_PERMANENT,
			       "the build command was killed (signal %d); its output is in %s",
			       WTERMSIG(status), c->log);
	return rt_fail(err, ERR_PERMANENT,
		       "the build command ended with code %d; its output is in %s", code, c->log);
}

int command_run(const struct command *c, struct rt_err *err)
{
	int fds[2], status = 0;
	if (pipe2(fds, O_CLOEXEC) != 0)
		return rt_fail_errno(err, ERR_SYSTEM, "pipe for the build command");
	pid_t pid = fork();
	if (pid == 0) {
		close(fds[1]);
		keep(c, fds[0]);
	}
	close(fds[0]);
	if (pid < 0) {
		close(fds[1]);
		return rt_fail_errno(err, ERR_SYSTEM, "cannot fork for the build command");
	}
	FAILPOINT(REPORTS_COMMAND_STARTED);
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	const int64_t end = rt_mono_us() + c->limit_us;
	int64_t left;
	int n = 0;
	while ((left = end - rt_mono_us()) > 0 && (n = poll(&p, 1, (int)(left / 1000) + 1)) <= 0)
		;
	close(fds[1]); /* ends it, if it is not ended */
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	close(pidfd);
	return judge(c, status, n <= 0, err);
}
