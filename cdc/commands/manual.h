/*
 * manual: man pages and shell completions as text, made from the table of
 * commands and the table of configuration keys. Pure: all is appended to a
 * buffer of the caller's.
 */
#ifndef CDC_COMMANDS_MANUAL_H
#define CDC_COMMANDS_MANUAL_H

#include "cdc/commands/cli.h"
#include "proto/base/buf.h"

/* rolag.1: all commands, exit codes, environment and files. */
void manual_page(const struct cli_command *table, size_t count, struct buf *out);
/* rolag-COMMAND.1. */
void manual_command_page(const struct cli_command *command, struct buf *out);
/* rolag.yaml.5: every key with its meaning, range and default. */
void manual_config_page(const struct conf_key *keys, size_t count, struct buf *out);

/* What bash, zsh and fish read to complete commands, options and their values. */
void manual_bash(const struct cli_command *table, size_t count, struct buf *out);
void manual_zsh(const struct cli_command *table, size_t count, struct buf *out);
void manual_fish(const struct cli_command *table, size_t count, struct buf *out);

#endif
