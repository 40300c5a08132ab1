/*
 * init: makes what the roles need in both databases. Guarantees: a second run
 * changes nothing; a run that was cut off anywhere is finished by the next;
 * nothing of the user's is dropped or changed.
 */
#include "cdc/commands/init.h"

#include "cdc/commands/commands.h"

const struct cli_usage init_usage = {
	.text = "In the core: the publications of event tables and mirrored tables, then the "
		"replication slot. In "
		"the warehouse:\nthe schemas, the control tables, the first position, the landed "
		"tables. Prints one line for\neach; what is there already stays as it is.\nFor a "
		"DBA: rolag init --print-sql core | psql …, and the same for warehouse.\n",
	.args = "[core|warehouse]",
	.option = {{"--print-sql", NULL,
		    "print the SQL for the DBAs of both databases; connect to neither"}},
};

static void say(const char *where, const char *fmt, va_list ap)
{
	printf("%-9s  ", where);
	vprintf(fmt, ap);
	putchar('\n');
	fflush(stdout);
}

void init_made(struct init *in, const char *where, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	say(where, fmt, ap);
	va_end(ap);
	in->changes++;
}

void init_says(const char *where, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	say(where, fmt, ap);
	va_end(ap);
}

static int connect_all(struct init *in, struct rt_err *err)
{
	struct pgc_options o = {.what = "warehouse",
				.conninfo = in->s.warehouse.connect,
				.application_name = "rolag init"};
	int rc = pgc_connect(&in->warehouse, &o, err);
	if (rc != 0)
		return rc;
	o.what = "core";
	o.conninfo = in->s.core.connect;
	rc = pgc_connect(&in->core, &o, err);
	if (rc != 0)
		return rc;
	o.replication = true;
	return pgc_connect(&in->replication, &o, err);
}

static int make_all(struct init *in, struct rt_err *err)
{
	int rc = connect_all(in, err);
	if (rc == 0)
		rc = pgc_identify_system(in->replication, &in->system, err);
	if (rc == 0)
		rc = control_read(in->warehouse, in->s.pipeline, &in->control, err);
	if (rc == 0)
		rc = init_core_look(in, err);
	if (rc == 0)
		rc = init_core_make(in, err);
	if (rc == 0)
		rc = init_warehouse_make(in, err);
	if (rc != 0)
		return rc;
	if (in->changes == 0)
		puts("Nothing to do: everything was there.");
	else
		puts("Done. `rolag check` looks at everything else; `rolag run` begins.");
	return 0;
}

int cmd_init(struct cli *c)
{
	struct rt_err err;
	struct init in = {.arena = &c->arena};
	int rc = cli_settings(c, &in.s, &err);
	if (rc == 0)
		rc = landed_load(in.arena, &in.s, &in.landed, &err);
	if (rc == 0)
		rc = mirror_load(in.arena, &in.s, &in.landed, &in.mirrors, &err);
	if (rc == 0) {
		init_want_publications(&in);
		const char *side = c->arg_count > 0 ? c->arg[0] : NULL;
		if (cli_option(c, "--print-sql") != NULL)
			rc = init_print_sql(&in, side, stdout, &err);
		else if (side != NULL)
			rc = rt_fail(&err, ERR_USAGE, "%s goes with --print-sql only", side);
		else
			rc = make_all(&in, &err);
	}
	mirror_release(&in.mirrors);
	landed_release(&in.landed);
	pgc_close(in.replication);
	pgc_close(in.core);
	pgc_close(in.warehouse);
	return rc == 0 ? EXIT_OK : cli_fail(c, &err);
}
