/*
 * status: reads the roles' counter files and shows them. Guarantees: no
 * connection is made (but for --tables), so it works when nothing else does.
 */
#include "cdc/commands/status.h"

#include <poll.h>
#include <unistd.h>

#include "cdc/commands/commands.h"

#define SECOND_LOOK_MS 1200

#define STATE_LINE(id, name, pad, words, means) "  " name pad means "\n"

const struct cli_usage status_usage = {
	.text = "Works although databases and roles are down: it reads the counter files in "
		"state_dir.\nThe first line says how it goes; exit code 0 when that is well, else "
		"1.\n--tables asks the warehouse instead: of every landed table its state, about "
		"how many rows it has, the LSN up to\nwhich apply had come when it changed it "
		"last, and what it waits for.\n"
		"States, by their names in --json:\n" STATUS_STATES(
			STATE_LINE) "Keys of --json; what is not known is null, and keys are only "
				    "ever added:\n"
				    "  healthy              true where the exit code is 0\n"
				    "  state, sentence      one of the states, and the first line\n"
				    "  runbook              the part of RUNBOOK.md that says what "
				    "to do\n"
				    "  lag_seconds          age of the newest commit or heartbeat "
				    "applied\n"
				    "  lag_bytes            WAL received and not applied\n"
				    "  slot_lost_in_seconds  until the core gives up our slot, at "
				    "the "
				    "present rate\n"
				    "  visible_p50_seconds, visible_p99_seconds  from a commit in "
				    "the "
				    "core to the warehouse's\n"
				    "  visible_buckets      the same as pairs of microseconds and "
				    "commits\n"
				    "  roles.capture|apply|reports  life (running, stuck, ended, "
				    "never), pid, state, up_seconds,\n"
				    "                       seen_seconds_ago, note, "
				    "note_seconds_ago\n"
				    "  metrics.NAME         every counter and gauge\n",
	.option = {{"--json", NULL, "one JSON object"},
		   {"--prometheus", NULL, "every metric of all roles, in Prometheus' text format"},
		   {"--watch", NULL, "a live screen, each second anew; q ends"},
		   {"--tables", NULL, "each landed table and its state; this asks the warehouse"},
		   {"--color", "WHEN",
		    "auto (on a terminal, unless NO_COLOR is set; the default), always, never"}},
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

/* On a terminal no word is broken at its edge; a table's line goes on below its own text. */
static void put_table(const char *text)
{
	struct buf out = BUF_INIT;
	unsigned columns, rows;
	if (!term_is_live(STDOUT_FILENO)) {
		fputs(text, stdout);
		return;
	}
	term_size(STDOUT_FILENO, &columns, &rows);
	while (*text != '\0') {
		size_t len = strcspn(text, "\n");
		term_wrap(&out, slice_of(text, len), columns,
			  text[0] == ' ' ? STATUS_TEXT_COLUMN : 0);
		buf_u8(&out, '\n');
		text += len + (text[len] == '\n');
	}
	fputs(buf_cstr(&out), stdout);
	buf_release(&out);
}

static int show(const struct settings *s, enum status_form form, bool color, bool *ret_healthy,
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
		status_print_sentence(&v, color, &out);
		buf_u8(&out, '\n');
		status_print_table(&f, &v, NULL, color, &out);
		put_table(buf_cstr(&out));
		break;
	case FORM_JSON:
		status_print_json(&f, &v, &out);
		fputs(buf_cstr(&out), stdout);
		break;
	case FORM_PROMETHEUS:
		status_print_prometheus(&f, &v, &out);
		fputs(buf_cstr(&out), stdout);
		break;
	}
	buf_release(&out);
	*ret_healthy = v.healthy;
	return 0;
}

static int show_tables(const struct settings *s, bool json, bool color, bool *ret_healthy,
		       struct rt_err *err)
{
	struct buf out = BUF_INIT;
	int rc = status_tables(s, json, color, &out, ret_healthy, err);
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
	enum term_color choice;
	int rc = term_color_parse(cli_option(c, "--color"), &choice)
			 ? cli_settings(c, &s, &err)
			 : rt_fail(&err, ERR_USAGE, "--color is auto, always or never");
	const bool tables = cli_option(c, "--tables") != NULL;
	const bool color = term_has_color(STDOUT_FILENO, choice);
	if (rc == 0 && (json || tables) + prometheus + again > 1)
		rc = rt_fail(&err, ERR_USAGE, "%s, --prometheus and --watch do not go together",
			     tables ? "--tables" : "--json");
	if (rc == 0 && tables)
		rc = show_tables(&s, json, color, &healthy, &err);
	else if (rc == 0)
		rc = again ? status_watch_show(&s, choice, &healthy, &err)
			   : show(&s, form, color, &healthy, &err);
	if (rc != 0)
		return cli_fail(c, &err);
	return healthy ? EXIT_OK : EXIT_FINDING;
}
