/*
 * rolag: one binary, one table of commands. A role (capture, apply, reports) is a
 * command that runs until it is told to stop; `rolag run` is their parent.
 */
#include <sys/resource.h>

#include "cdc/commands/commands.h"

#include "proto/base/failpoint.h"

static const struct cli_command commands[] = {
	{"run", "all roles as children in the foreground", &run_usage, cmd_run},
	{"capture", "the core's changes into the spool", &capture_usage, cmd_capture},
	{"apply", "the spool into the warehouse", &apply_usage, cmd_apply},
	{"reports", "the companion: reports out of the warehouse, on request and by the clock",
	 &reports_usage, cmd_reports},
	{"init", "make publication, slot, schemas and tables; again is harmless", &init_usage,
	 cmd_init},
	{"check", "look at everything that the roles need, and say how to mend it", &check_usage,
	 cmd_check},
	{"status", "how it goes, in a sentence and a table", &status_usage, cmd_status},
	{"quarantine", "entities that wait because an event could not be folded, and their way out",
	 &quarantine_usage, cmd_quarantine},
	{"report", "ask for reports, and look at runs and their files", &report_usage, cmd_report},
	{"story", "one entity's versions over all rollups", &story_usage, cmd_story},
	{"sync", "bring tables up to the core again, while the rest goes on", &sync_usage,
	 cmd_sync},
	{"rebuild", "a rollup anew beside its live tables, by a changed definition", &rebuild_usage,
	 cmd_rebuild},
	{"verify", "compare the warehouse with what the core's events fold to", &verify_usage,
	 cmd_verify},
	{"models", "look at, build and test the models", &models_usage, cmd_models},
	{"spool", "look at the files between capture and apply", &spool_usage, cmd_spool},
	{"fold", "every version that a definition makes of a file of events", &fold_usage,
	 cmd_fold},
	{"config", "print the configuration with every key, or check one", &config_usage,
	 cmd_config},
	{"manual", "write the man pages and the shells' completions", &manual_usage, cmd_manual},
	{"version", "print the version", &version_usage, cmd_version},
};

static const char *default_config(void)
{
	const char *path = getenv("ROLAG_CONFIG");
	return path != NULL && path[0] != '\0' ? path : "/etc/rolag/rolag.yaml";
}

/*
 * Memory holds rows, and passwords. A limit of 1 also keeps them from a program
 * that core_pattern pipes cores to (core(5)), which 0 does not. Not
 * PR_SET_DUMPABLE: by it, ps and pgrep would take the roles for root's.
 */
static void refuse_core_dumps(void)
{
	static const struct rlimit least = {1, 1}, none = {0, 0};
	const char *wanted = getenv("ROLAG_CORE_DUMPS");
	if (wanted != NULL && strcmp(wanted, "yes") == 0)
		return;
	if (setrlimit(RLIMIT_CORE, &least) != 0) /* it was 0 already */
		(void)setrlimit(RLIMIT_CORE, &none);
}

int main(int argc, char **argv)
{
	struct cli c = {0};
	struct rt_err err;
	int code = EXIT_OK;
	refuse_core_dumps();
	if (FP_CONFIGURE(&err) != 0 ||
	    cli_parse(&c, commands, ARRAY_LEN(commands), argc, argv, default_config(), &err) != 0)
		code = cli_fail(&c, &err);
	else if (c.version)
		code = cmd_version(&c);
	else if (c.help && c.command == NULL)
		cli_print_help(stdout, commands, ARRAY_LEN(commands));
	else if (c.help)
		cli_print_command_help(stdout, c.command);
	else
		code = c.command->run(&c);
	if (fflush(stdout) != 0 && code == EXIT_OK)
		code = EXIT_TEMPORARY;
	arena_release(&c.arena);
	return code;
}
