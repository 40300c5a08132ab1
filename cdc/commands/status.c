/*
 * status: reads the roles' counter files and shows them. Guarantees: no
 * connection is made, so it works when nothing else does; --watch leaves the
 * terminal as it was.
 */
#include "cdc/commands/status.h"

#include <poll.h>
#include <signal.h>
#include <termios.h>
#include <unistd.h>

#include "cdc/commands/commands.h"

#define SECOND_LOOK_MS 1200

const struct cli_usage status_usage = {
	.text = "Works although databases and roles are down: it reads the counter files in "
		"state_dir.\nThe first line says how it goes; exit code 0 when that is well, else "
		"1.\n--tables asks the warehouse instead: of every landed table its state, about "
		"how many rows it has, the LSN up to\nwhich apply had come when it changed it "
		"last, and what it waits for.\n"
		"States: live, idle, catching_up, loading, starting, spilling, spool_full, "
		"alarm, stalled, stopped.\nKeys of --json: healthy, state, sentence, runbook (the "
		"part of RUNBOOK.md that "
		"says what to do), lag_seconds, "
		"lag_bytes, slot_lost_in_seconds (a forecast), "
		"visible_p50_seconds,\nvisible_p99_seconds, visible_buckets (pairs of "
		"microseconds and commits),\nroles.capture|apply|reports.(life, pid, state, "
		"up_seconds, "
		"seen_seconds_ago, note,\nnote_seconds_ago), metrics.NAME. "
		"Unknown durations are null. Keys are only ever added.\n",
	.option = {{"--json", NULL, "one JSON object"},
		   {"--prometheus", NULL, "every metric of all roles, in Prometheus' text format"},
		   {"--watch", NULL, "redraw every second, with rates; q ends"},
		   {"--tables", NULL, "each landed table and its state; this asks the warehouse"}},
};

enum status_form { FORM_TABLE, FORM_JSON, FORM_PROMETHEUS };

/* One look; a second one where only that tells "behind" from "stuck", and both from a wrong clock. */
static int look(const struct settings *s, struct status_facts *f, struct status_view *v,
		struct rt_err *err)
{
	static struct status_facts first; /* large: not on the stack */
	int rc = status_read(s, f, err);
	if (rc != 0)
		return rc;
	status_judge(f, v);
	if (v->state != STATUS_CATCHING_UP && v->state != STATUS_STALLED)
		return 0;
	first = *f;
	poll(NULL, 0, SECOND_LOOK_MS);
	rc = status_read(s, f, err);
	if (rc != 0)
		return rc;
	f->moving = status_moved(f, &first);
	f->beating = status_beats(f, &first);
	status_judge(f, v);
	return 0;
}

static int show(const struct settings *s, enum status_form form, bool *ret_healthy,
		struct rt_err *err)
{
	static struct status_facts f;
	struct status_view v;
	int rc = look(s, &f, &v, err);
	if (rc != 0)
		return rc;
	struct buf out = BUF_INIT;
	switch (form) {
	case FORM_TABLE:
		buf_printf(&out, "%s\n\n", v.sentence);
		status_print_table(&f, &v, NULL, &out);
		break;
	case FORM_JSON:
		status_print_json(&f, &v, &out);
		break;
	case FORM_PROMETHEUS:
		status_print_prometheus(&f, &v, &out);
		break;
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
	static struct status_watch w; /* large: not on the stack */
	static struct status_facts last;
	struct status_view v;
	bool first = true;
	while (told_to_end == 0) {
		int rc = status_watch_look(&w, s, &v, err);
		if (rc != 0)
			return rc;
		*ret_healthy = v.healthy;
		struct buf out = BUF_INIT;
		buf_printf(&out, "%s\n\n", v.sentence);
		status_print_table(&w.now, &v, first ? NULL : &last, &out);
		buf_str(&out, keys ? "\nq ends.\n" : "");
		draw(buf_cstr(&out));
		buf_release(&out);
		last = w.now;
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

static int show_tables(const struct settings *s, bool json, bool *ret_healthy, struct rt_err *err)
{
	struct buf out = BUF_INIT;
	int rc = status_tables(s, json, &out, ret_healthy, err);
	if (rc == 0)
		fputs(buf_cstr(&out), stdout);
	buf_release(&out);
	return rc;
}

int cmd_status(struct cli *c)
{
	struct settings s;
	struct rt_err err;
	bool healthy = false;
	const bool json = cli_option(c, "--json") != NULL,
		   prometheus = cli_option(c, "--prometheus") != NULL,
		   again = cli_option(c, "--watch") != NULL;
	const enum status_form form = json ? FORM_JSON : prometheus ? FORM_PROMETHEUS : FORM_TABLE;
	int rc = cli_settings(c, &s, &err);
	const bool tables = cli_option(c, "--tables") != NULL;
	if (rc == 0 && (json || tables) + prometheus + again > 1)
		rc = rt_fail(&err, ERR_USAGE, "%s, --prometheus and --watch do not go together",
			     tables ? "--tables" : "--json");
	if (rc == 0 && tables)
		rc = show_tables(&s, json, &healthy, &err);
	else if (rc == 0)
		rc = again ? watch(&s, &healthy, &err) : show(&s, form, &healthy, &err);
	if (rc != 0)
		return cli_fail(c, &err);
	return healthy ? EXIT_OK : EXIT_FINDING;
}
