/* commands: what main.c's table points to; each command's file says what it does. */
#ifndef CDC_COMMANDS_COMMANDS_H
#define CDC_COMMANDS_COMMANDS_H

#include "cdc/commands/cli.h"

extern const struct cli_usage apply_usage, capture_usage, check_usage, config_usage, fold_usage,
	init_usage, manual_usage, models_usage, quarantine_usage, rebuild_usage, report_usage,
	reports_usage, run_usage, spool_usage, status_usage, story_usage, sync_usage, verify_usage,
	version_usage;

int cmd_apply(struct cli *c);
int cmd_capture(struct cli *c);
int cmd_check(struct cli *c);
int cmd_config(struct cli *c);
int cmd_fold(struct cli *c);
int cmd_init(struct cli *c);
int cmd_manual(struct cli *c);
int cmd_models(struct cli *c);
int cmd_quarantine(struct cli *c);
int cmd_rebuild(struct cli *c);
int cmd_report(struct cli *c);
int cmd_reports(struct cli *c);
int cmd_run(struct cli *c);
int cmd_spool(struct cli *c);
int cmd_status(struct cli *c);
int cmd_story(struct cli *c);
int cmd_sync(struct cli *c);
int cmd_verify(struct cli *c);
int cmd_version(struct cli *c);

#endif
