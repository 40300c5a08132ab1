/* status_look: the roles' counter files. Guarantees: nothing is connected to, and nothing waits. */
#include <errno.h>
#include <signal.h>

#include "cdc/commands/status.h"
#include "proto/settings.h"

#define STILL_US    INT64_C(2000000)
#define COMPARED_US INT64_C(1000000)

const char *const status_role_name[STATUS_FILES] = {"capture", "apply", "reports"};

static int read_role(const struct settings *s, int role, struct status_facts *f, struct rt_err *err)
{
	struct status_role *r = &f->role[role];
	char path[4096];
	snprintf(path, sizeof(path), "%s/%s.counters", s->state_dir, status_role_name[role]);
	int rc = met_read(path, &r->f, err);
	if (rc < 0)
		return rc;
	if (rc == 0)
		r->f = (struct met_file){0};
	r->foreign = rc == 2;
	bool there = r->f.pid != 0 && (kill((pid_t)r->f.pid, 0) == 0 || errno == EPERM);
	r->life = status_life(&r->f, there, f->now_us, f->heartbeat_interval_us);
	return 0;
}

int status_read(const struct settings *s, struct status_facts *ret, struct rt_err *err)
{
	*ret = (struct status_facts){
		.now_us = rt_now_us(),
		.heartbeat_interval_us = s->capture.heartbeat_interval,
		.wal_budget_bytes = s->capture.wal_budget,
		.moving = true,
	};
	int rc = 0;
	for (int i = 0; rc == 0 && i < STATUS_FILES; i++)
		rc = read_role(s, i, ret, err);
	return rc;
}

bool status_moved(const struct status_facts *now, const struct status_facts *before)
{
	const struct met_file *a = &now->role[STATUS_APPLY].f, *b = &before->role[STATUS_APPLY].f;
	return memcmp(a->value, b->value, sizeof(a->value)) != 0;
}

bool status_beats(const struct status_facts *now, const struct status_facts *before)
{
	int64_t beat_us = (int64_t)(now->role[STATUS_APPLY].f.value[MET_APPLY_HEARTBEAT_US] -
				    before->role[STATUS_APPLY].f.value[MET_APPLY_HEARTBEAT_US]);
	return beat_us > 0 &&
	       beat_us <= 2 * (now->now_us - before->now_us) + now->heartbeat_interval_us;
}

int status_watch_look(struct status_watch *w, const struct settings *s, struct status_view *ret,
		      struct rt_err *err)
{
	int64_t mono = rt_mono_us();
	int rc = status_read(s, &w->now, err);
	if (rc != 0)
		return rc;
	if (!w->looked || status_moved(&w->now, &w->before))
		w->moved_us = mono;
	if (!w->looked || w->now.now_us - w->before.now_us >= COMPARED_US) {
		w->beating = w->looked && status_beats(&w->now, &w->before);
		w->before = w->now;
	}
	w->looked = true;
	w->now.moving = mono - w->moved_us < STILL_US;
	w->now.beating = w->beating;
	status_judge(&w->now, ret);
	return 0;
}
