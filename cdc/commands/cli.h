/*
 * cli: the command line as tables. main.c lists the commands; each command's
 * file has one struct cli_usage, from which both parsing and --help follow.
 */
#ifndef CDC_COMMANDS_CLI_H
#define CDC_COMMANDS_CLI_H

#include "proto/base/arena.h"
#include "proto/base/rt.h"
#include "proto/settings.h"

#define CLI_OPTIONS_MAX 8

struct cli_option {
	const char *name;  /* "--print-sql" */
	const char *value; /* what follows it ("FILE"; "ID…": may be given again); NULL: a flag */
	const char *help;  /* one line */
};

struct cli_usage {
	const char *args; /* positional, as shown: "ENTITY-ID [FILE]"; NULL: none */
	const char *text; /* a few lines for --help, ending with a newline */
	struct cli_option option[CLI_OPTIONS_MAX]; /* ends at the first without name */
};

struct cli;

struct cli_command {
	const char *name;
	const char *help; /* one line */
	const struct cli_usage *usage;
	int (*run)(struct cli *c); /* returns an enum rt_exit */
};

/* An exit code of the program, and what it says; ends at the first without text. */
struct cli_exit {
	int code; /* enum rt_exit */
	const char *says;
};

extern const struct cli_exit cli_exits[];
/* Options that stand with every command. */
extern const struct cli_option cli_config_option, cli_help_option;

/* A parsed command line. */
struct cli {
	const struct cli_command *table; /* all commands, as given to cli_parse */
	size_t table_count;
	const struct cli_command *command; /* NULL: none was given */
	const char *program;		   /* argv[0] */
	const char *config;		   /* path of the configuration */
	bool help, version;
	int arg_count;
	const char **arg;		    /* positional arguments, in the arena */
	const char *value[CLI_OPTIONS_MAX]; /* by place in usage->option; NULL: not given */
	struct arena arena;		    /* lives as long as the process */
};

/*
 * Parses argv. ERR_USAGE with one line that names the nearest command or
 * option when one is unknown. default_config stands where --config is not given.
 */
int cli_parse(struct cli *c, const struct cli_command *table, size_t count, int argc, char **argv,
	      const char *default_config, struct rt_err *err) RT_MUSTCHECK;
/* Help of all commands, or of one. */
void cli_print_help(FILE *out, const struct cli_command *table, size_t count);
void cli_print_command_help(FILE *out, const struct cli_command *command);

/* The option's value ("" for a flag), or NULL when it was not given. */
const char *cli_option(const struct cli *c, const char *name);
/* Loads the configuration into *ret. */
int cli_settings(struct cli *c, struct settings *ret, struct rt_err *err) RT_MUSTCHECK;
/* Text from outside for a terminal: one line, which steers nothing; of more than max bytes, the first and an ellipsis. */
void cli_put(const char *text, size_t max);
/* Prints "rolag COMMAND: message" to stderr; returns the exit code that the error asks for. */
int cli_fail(const struct cli *c, const struct rt_err *err);

#endif
