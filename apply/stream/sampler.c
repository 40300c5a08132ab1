/*
 * sampler: a child and a pipe. Guarantees: at most one child, which ends with
 * its parent, touches none of the parent's connections, and is ended when it
 * takes too long.
 */
#include "apply/stream/sampler.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "apply/stream/verify.h"
#include "apply/stream/verify_mirror.h"
#include "proto/base/log.h"
#include "proto/base/metrics.h"

/* For apply to get on, and for old transactions of the core to end: it will look again another time. */
#define PATIENCE_US INT64_C(30000000)
/* A child that takes longer is ended. */
#define LIMIT_US INT64_C(300000000)
#define NICE	 10

/* What the child sends: fixed size, less than a pipe takes at once. */
struct sampled {
	int rc; /* 0, or why it could not compare */
	struct verify_count count;
	char text[600]; /* of the error, or of the first difference */
};

void sampler_init(struct sampler *s, const struct settings *settings,
		  const struct landed_set *landed, struct mirror_set *mirrors, struct loop *loop)
{
	bool on = settings->verify.sample_interval > 0 && landed->count + mirrors->count > 0;
	*s = (struct sampler){
		.settings = settings, .landed = landed, .mirrors = mirrors, .loop = loop, .fd = -1};
	s->next_us = on ? rt_mono_us() + settings->verify.sample_interval : LOOP_NEVER;
}

/* NULL: it is a rollup's turn. */
static struct mirror *mirror_at(const struct sampler *s)
{
	return s->at < s->landed->count ? NULL : &s->mirrors->item[s->at - s->landed->count];
}

static const char *name_at(const struct sampler *s)
{
	const struct mirror *m = mirror_at(s);
	return m != NULL ? m->relname : s->landed->item[s->at].rollup->name;
}

/* ---- the child ---- */

static void keep_first(void *ctx, const struct verify_finding *f)
{
	struct sampled *out = ctx;
	if (out->text[0] != '\0')
		return;
	if (f->key != NULL)
		snprintf(out->text, sizeof(out->text), "%s in %s, key %s%s%s%s%s",
			 verify_kind_name(f->kind), f->relation, f->key,
			 f->column != NULL ? ", column " : "", f->column != NULL ? f->column : "",
			 f->reason != NULL ? ", " : "", f->reason != NULL ? f->reason : "");
	else
		snprintf(out->text, sizeof(out->text), "%s in %s, id %s, version %" PRId32 "%s%s",
			 verify_kind_name(f->kind), f->relation, f->id, f->version,
			 f->column != NULL ? ", column " : "", f->column != NULL ? f->column : "");
}

static void compare(const struct sampler *s, struct sampled *out)
{
	struct verify_options o = {.settings = s->settings,
				   .sample = s->settings->verify.sample_entities,
				   .patience_us = PATIENCE_US,
				   .found = keep_first,
				   .ctx = out};
	struct mirror *m = mirror_at(s);
	struct verify *v = NULL;
	struct verify_mirror *vm = NULL;
	struct rt_err err;
	out->rc = m == NULL ? verify_open(&v, &o, &err) : verify_mirror_open(&vm, &o, &err);
	if (out->rc == 0)
		out->rc = m == NULL ? verify_rollup(v, &s->landed->item[s->at], &out->count, &err)
				    : verify_mirror(vm, s->mirrors, m, &out->count, &err);
	verify_close(v);
	verify_mirror_close(vm);
	if (out->rc < 0)
		snprintf(out->text, sizeof(out->text), "%s", err.msg);
}

static RT_NORETURN void child(const struct sampler *s, int fd, pid_t parent)
{
	struct sampled out = {0};
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	loop_release(s->loop);
	if (dup2(fd, STDERR_FILENO + 1) < 0)
		_exit(1);
	close_range(STDERR_FILENO + 2, ~0U, 0);
	setpriority(PRIO_PROCESS, 0, NICE);
	compare(s, &out);
	ssize_t n = write(STDERR_FILENO + 1, &out, sizeof(out));
	_exit(n == (ssize_t)sizeof(out) ? 0 : 1);
}

/* ---- apply's side ---- */

static void start(struct sampler *s, int64_t now)
{
	int fds[2];
	pid_t parent = getpid();
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0) {
		log_warn("no sample is verified", "reason=\"pipe: %s\"", strerror(errno));
		return;
	}
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0)
		child(s, fds[1], parent);
	close(fds[1]);
	if (pid < 0) {
		log_warn("no sample is verified", "reason=\"fork: %s\"", strerror(errno));
		close(fds[0]);
		return;
	}
	s->pid = pid;
	s->fd = fds[0];
	s->begun_us = now;
}

static void end_child(struct sampler *s, bool kill_it)
{
	int status;
	if (s->pid == 0)
		return;
	if (kill_it)
		kill(s->pid, SIGKILL);
	while (waitpid(s->pid, &status, 0) < 0 && errno == EINTR)
		;
	close(s->fd);
	s->pid = 0;
	s->fd = -1;
}

void sampler_release(struct sampler *s)
{
	if (s->settings != NULL)
		end_child(s, true);
}

static void take(struct sampler *s, const struct sampled *r)
{
	const char *name = name_at(s);
	met_add(MET_VERIFY_ROWS, r->count.warehouse_rows + r->count.latest_rows);
	met_add(MET_VERIFY_DIFFERENCES, r->count.differences);
	if (r->rc >= 0)
		met_set(MET_VERIFY_US, (uint64_t)rt_now_us());
	else
		met_add(MET_VERIFY_FAILURES, 1);
	if (r->count.differences > 0)
		log_error(mirror_at(s) != NULL
				  ? "the warehouse differs from the core's table"
				  : "the warehouse differs from what the core's events fold to",
			  "table=%s differences=%" PRIu64 " entities=%" PRIu64 " first=\"%s\" "
			  "mend=\"rolag verify %s --full --repair\"",
			  name, r->count.differences, r->count.differing_entities, r->text, name);
	else if (r->rc < 0)
		log_warn("a sample could not be verified", "table=%s reason=\"%.*s\"", name,
			 (int)sizeof(r->text), r->text);
	else
		log_debug("a sample was verified", "table=%s rows=%" PRIu64 " undecided=%" PRIu64,
			  name, r->count.warehouse_rows, r->count.undecided);
}

static void finish(struct sampler *s, bool late)
{
	struct sampled r;
	ssize_t n = late ? 0 : read(s->fd, &r, sizeof(r));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	end_child(s, late);
	if (n == (ssize_t)sizeof(r)) {
		take(s, &r);
	} else {
		met_add(MET_VERIFY_FAILURES, 1);
		log_warn("a sample could not be verified", "table=%s reason=\"%s\"", name_at(s),
			 late ? "it took too long" : "its process ended");
	}
	s->at = (s->at + 1) % ((unsigned)s->landed->count + s->mirrors->count);
}

void sampler_prepare(void *ctx, int64_t now, struct loop_want *ret)
{
	struct sampler *s = ctx;
	(void)now;
	if (s->loop->stop > 0)
		return;
	if (s->pid != 0) {
		ret->fd = s->fd;
		ret->events = POLLIN;
		ret->at_us = s->begun_us + LIMIT_US;
	} else {
		ret->at_us = s->next_us;
	}
}

int sampler_dispatch(void *ctx, short revents, int64_t now, struct rt_err *err)
{
	struct sampler *s = ctx;
	(void)err;
	if (s->pid != 0) {
		finish(s, revents == 0);
		return 0;
	}
	s->next_us = now + s->settings->verify.sample_interval;
	start(s, now);
	return 0;
}
