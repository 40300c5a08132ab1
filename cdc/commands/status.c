/*
 * status: reads the roles' counter files and shows them. Guarantees: no
 * connection is made, so it works when nothing else does; --watch leaves the
 * terminal as it was.
 */
#include "cdc/commands/status.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <termios.h>
#include <unistd.h>

#include "cdc/commands/commands.h"

#define SECOND_LOOK_MS 1200

const struct cli_usage status_usage = {
	.text = "Works although databases and roles are down: it reads the counter files in "
		"state_dir.\nThe first line says how it goes; exit code 0 when that is well, else "
		"1.\nStates: live, idle, catching_up, loading, starting, spilling, spool_full, "
		"alarm, stalled, stopped.\nKeys of --json: healthy, state, sentence, lag_seconds, "
		"lag_bytes, slot_lost_in_seconds (a forecast), "
		"visible_p50_seconds,\nvisible_p99_seconds, visible_buckets (pairs of "
		"microseconds and commits),\nroles.capture|apply|reports.(life, pid, state, "
		"up_seconds, "
		"seen_seconds_ago, note,\nnote_seconds_ago), metrics.NAME. "
		"Unknown durations are null. Keys are only ever added.\n",
	.option = {{"--json", NULL, "one JSON object"},
		   {"--watch", NULL, "redraw every second, with rates; q ends"}},
};

static const char *const role_names[STATUS_FILES] = {"capture", "apply", "reports"};

static int read_role(const struct settings *s, int role, struct status_facts *f, struct rt_err *err)
{
	struct status_role *r = &f->role[role];
	char path[4096];
	snprintf(path, sizeof(path), "%s/%s.counters", s->state_dir, role_names[role]);
	int rc = met_read(path, &r->f, err);
	if (rc < 0)
		return rc;
	if (rc == 0)
		r->f = (struct met_file){0};
	bool there = r->f.pid != 0 && (kill((pid_t)r->f.pid, 0) == 0 || errno == EPERM);
	r->life = status_life(&r->f, there, f->now_us, f->heartbeat_interval_us);
	return 0;
}

static int read_facts(const struct settings *s, struct status_facts *ret, struct rt_err *err)
{
	*ret = (struct status_facts){
		.now_us = rt_now_us(),
		.heartbeat_interval_us = s->capture.heartbeat_interval,
		.wal_budget_bytes = s->capture.wal_budget,
		.moving = true,
	};
	int rc = read_role(s, STATUS_CAPTURE, ret, err);
	if (rc == 0)
		rc = read_role(s, STATUS_APPLY, ret, err);
	return rc == 0 && s->reports.definitions[0] != '\0' ? read_role(s, STATUS_REPORTS, ret, err)
							    : rc;
}

static bool moved(const struct status_facts *now, const struct status_facts *before)
{
	const struct met_file *a = &now->role[STATUS_APPLY].f, *b = &before->role[STATUS_APPLY].f;
	return memcmp(a->value, b->value, sizeof(a->value)) != 0;
}

/* Old heartbeats that come at their pace are no lag; those of a backlog come much faster. */
static bool beats(const struct status_facts *now, const struct status_facts *before)
{
	int64_t beat_us = (int64_t)(now->role[STATUS_APPLY].f.value[MET_APPLY_HEARTBEAT_US] -
				    before->role[STATUS_APPLY].f.value[MET_APPLY_HEARTBEAT_US]);
	return beat_us > 0 &&
	       beat_us <= 2 * (now->now_us - before->now_us) + now->heartbeat_interval_us;
}

/* One look; a second one where only that tells "behind" from "stuck", and both from a wrong clock. */
static int look(const struct settings *s, struct status_facts *f, struct status_view *v,
		struct rt_err *err)
{
	static struct status_facts first; /* large: not on the stack */
	int rc = read_facts(s, f, err);
	if (rc != 0)
		return rc;
	status_judge(f, v);
	if (v->state != STATUS_CATCHING_UP && v->state != STATUS_STALLED)
		return 0;
	first = *f;
	poll(NULL, 0, SECOND_LOOK_MS);
	rc = read_facts(s, f, err);
	if (rc != 0)
		return rc;
	f->moving = moved(f, &first);
	f->beating = beats(f, &first);
	status_judge(f, v);
	return 0;
}

static int show(const struct settings *s, bool json, bool *ret_healthy, struct rt_err *err)
{
	static struct status_facts f;
	struct status_view v;
	int rc = look(s, &f, &v, err);
	if (rc != 0)
		return rc;
	struct buf out = BUF_INIT;
	if (json) {
		status_print_json(&f, &v, &out);
	} else {
		buf_printf(&out, "%s\n\n", v.sentence);
		status_print_table(&f, &v, NULL, &out);
	}
	fputs(buf_cstr(&out), stdout);
	buf_release(&out);
	*ret_healthy = v.healthy;
	return 0;
}

/* ---- --watch ---- */

static volatile sig_atomic_t told_to_end;

static void on_end(int number)
{
	told_to_end = number;
}

static void draw(const char *text)
{
	/* Home, each line cleared to its end, then the rest of the screen. */
	fputs("\033[H", stdout);
	for (const char *p = text; *p != '\0'; p++) {
		if (*p == '\n')
			fputs("\033[K\r", stdout);
		putchar(*p);
	}
	fputs("\033[J", stdout);
	fflush(stdout);
}

/* Waits a second; true when q was pressed or stdin is closed under us. */
static bool pressed_q(bool keys)
{
	struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
	if (poll(&p, keys ? 1 : 0, 1000) <= 0)
		return false;
	char c = '\0';
	ssize_t n = read(STDIN_FILENO, &c, 1);
	return n <= 0 || c == 'q' || c == 'Q';
}

static int watch_turns(const struct settings *s, bool keys, bool *ret_healthy, struct rt_err *err)
{
	static struct status_facts now, before;
	struct status_view v;
	bool first = true;
	int still = 0; /* seconds without a change in apply's numbers */
	while (told_to_end == 0) {
		int rc = read_facts(s, &now, err);
		if (rc != 0)
			return rc;
		still = first || moved(&now, &before) ? 0 : still + 1;
		now.moving = still < 2;
		status_judge(&now, &v);
		*ret_healthy = v.healthy;
		struct buf out = BUF_INIT;
		buf_printf(&out, "%s\n\n", v.sentence);
		status_print_table(&now, &v, first ? NULL : &before, &out);
		buf_str(&out, keys ? "\nq ends.\n" : "");
		draw(buf_cstr(&out));
		buf_release(&out);
		before = now;
		first = false;
		if (pressed_q(keys))
			break;
	}
	return 0;
}

static int watch(const struct settings *s, bool *ret_healthy, struct rt_err *err)
{
	struct termios saved, raw;
	struct sigaction sa = {.sa_handler = on_end};
	bool keys = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &saved) == 0;
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	if (keys) {
		raw = saved;
		raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	}
	fputs("\033[?1049h\033[?25l", stdout); /* the other screen, no cursor */
	int rc = watch_turns(s, keys, ret_healthy, err);
	fputs("\033[?25h\033[?1049l", stdout);
	fflush(stdout);
	if (keys)
		tcsetattr(STDIN_FILENO, TCSANOW, &saved);
	return rc;
}

int cmd_status(struct cli *c)
{
	struct settings s;
	struct rt_err err;
	bool healthy = false;
	bool json = cli_option(c, "--json") != NULL, again = cli_option(c, "--watch") != NULL;
	int rc = cli_settings(c, &s, &err);
	if (rc == 0 && json && again)
		rc = rt_fail(&err, ERR_USAGE, "--json and --watch do not go together");
	if (rc == 0)
		rc = again ? watch(&s, &healthy, &err) : show(&s, json, &healthy, &err);
	if (rc != 0)
		return cli_fail(c, &err);
	return healthy ? EXIT_OK : EXIT_FINDING;
}
