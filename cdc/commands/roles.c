/* roles: the long-running roles as commands. */
#include "apply/reports/reports.h"
#include "apply/stream/apply.h"
#include "apply/stream/landed.h"
#include "cdc/capture/capture.h"
#include "cdc/commands/commands.h"
#include "cdc/commands/status.h"
#include "proto/base/log.h"

const struct cli_usage apply_usage = {
	.text = "Folds the spool into the warehouse until it is told to stop (SIGTERM). SIGHUP "
		"reads\n"
		"the logging keys again, SIGUSR2 writes its status to the log.\n"};

int cmd_apply(struct cli *c)
{
	struct settings s;
	struct rt_err err;
	if (cli_settings(c, &s, &err) != 0)
		return cli_fail(c, &err);
	return apply_main(&s);
}

const struct cli_usage capture_usage = {
	.text = "Takes the core's changes into the spool, until it is told to stop. Signals: TERM "
		"stops,\nHUP reads the logging keys again, USR2 writes where it stands to the "
		"log.\nEnds with 0 after a signal, 100 when a person must act, 111 "
		"when a new start may help.\n",
};

/*
 * The event tables that are landed. None where the definitions cannot be read:
 * capture needs nothing of them for its work, and goes on.
 */
static int find_sources(const struct settings *s, struct arena *a,
			const struct capture_source **ret)
{
	struct landed_set set;
	struct rt_err err;
	int n = 0;
	*ret = NULL;
	if (landed_load(a, s, &set, &err) != 0) {
		log_warn("event tables are not watched in their publication: the definitions "
			 "cannot be read",
			 "reason=\"%s\"", err.msg);
		return 0;
	}
	struct capture_source *source = arena_alloc(a, set.count * sizeof(*source));
	for (uint16_t i = 0; i < set.count; i++) {
		const struct rollup *r = set.item[i].rollup;
		if (landed_find_source(&set, 0, r->source_schema, r->source_table) == i)
			source[n++] = (struct capture_source){arena_strdup(a, r->source_schema),
							      arena_strdup(a, r->source_table)};
	}
	landed_release(&set);
	*ret = source;
	return n;
}

int cmd_capture(struct cli *c)
{
	const struct capture_source *source;
	struct settings s;
	struct rt_err err;
	struct arena a;
	if (cli_settings(c, &s, &err) != 0)
		return cli_fail(c, &err);
	arena_init(&a, 4096);
	int count = find_sources(&s, &a, &source);
	int code = capture_main(&s, source, count);
	arena_release(&a);
	return code;
}

const struct cli_usage reports_usage = {
	.text = "Makes reports (reports.* in the configuration) until it is told to stop: when a "
		"request is in the\nqueue (rolag report run), at SIGUSR1 (all of them), and by the "
		"clock. Needs the warehouse, and the\ncore for one statement a run; neither spool "
		"nor "
		"replication. SIGHUP reads the logging keys again,\nUSR2 writes its status to the "
		"log.\n",
};

/* What the companion shows of all roles over HTTP. */
struct outlook {
	const struct settings *s;
	struct status_watch watch;
};

static int show_status(void *ctx, struct buf *out, struct rt_err *err)
{
	struct outlook *o = ctx;
	struct status_view v;
	int rc = status_watch_look(&o->watch, o->s, &v, err);
	if (rc == 0)
		status_print_json(&o->watch.now, &v, out);
	return rc;
}

static int show_metrics(void *ctx, struct buf *out, struct rt_err *err)
{
	struct outlook *o = ctx;
	struct status_view v;
	int rc = status_watch_look(&o->watch, o->s, &v, err);
	if (rc == 0)
		status_print_prometheus(&o->watch.now, &v, out);
	return rc;
}

int cmd_reports(struct cli *c)
{
	static struct outlook o; /* large: not on the stack */
	const struct reports_outlook outlook = {&o, show_status, show_metrics};
	struct settings s;
	struct rt_err err;
	if (cli_settings(c, &s, &err) != 0)
		return cli_fail(c, &err);
	o.s = &s;
	return reports_main(&s, &outlook);
}
