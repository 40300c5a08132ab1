/*
 * cli: parsing, help, and how a command fails. Guarantees: what --help shows
 * is what is parsed, and every failure is one line on stderr.
 */
#include "cdc/commands/cli.h"

#include <limits.h>

#include "proto/base/yaml.h"

static const char *const global_options[] = {"--config", "--help", "--version"};

/* Positional arguments that usage asks for: words; those in [] may be absent, "…]" is any number of them. */
static void count_args(const struct cli_usage *u, int *ret_min, int *ret_max)
{
	int min = 0, max = 0;
	for (const char *p = u->args; p != NULL && *p != '\0';) {
		size_t n = strcspn(p, " ");
		max += max < INT_MAX;
		min += *p != '[';
		if (n > strlen("…]") && memcmp(p + n - strlen("…]"), "…]", strlen("…]")) == 0)
			max = INT_MAX;
		p += n + strspn(p + n, " ");
	}
	*ret_min = min;
	*ret_max = max;
}

static int unknown(struct rt_err *err, const char *what, const char *word, const char *near,
		   const char *help)
{
	if (near != NULL)
		return rt_fail(err, ERR_USAGE, "unknown %s %s; did you mean %s? (%s)", what, word,
			       near, help);
	return rt_fail(err, ERR_USAGE, "unknown %s %s (%s)", what, word, help);
}

static int find_command(struct cli *c, const struct cli_command *table, size_t count,
			const char *word, struct rt_err *err)
{
	if (strcmp(word, "help") == 0) {
		c->help = true;
		return 0;
	}
	const char **names = arena_alloc(&c->arena, count * sizeof(*names));
	for (size_t i = 0; i < count; i++) {
		names[i] = table[i].name;
		if (strcmp(table[i].name, word) == 0) {
			c->command = &table[i];
			return 0;
		}
	}
	return unknown(err, "command", word, yaml_nearest(word, names, count),
		       "rolag --help lists the commands");
}

/* The place of the option that the first len bytes of word name, or -1. */
static int find_option(const struct cli_usage *u, const char *word, size_t len)
{
	for (int i = 0; u != NULL && i < CLI_OPTIONS_MAX && u->option[i].name != NULL; i++)
		if (strlen(u->option[i].name) == len && strncmp(u->option[i].name, word, len) == 0)
			return i;
	return -1;
}

static int unknown_option(struct cli *c, const char *word, struct rt_err *err)
{
	const char *names[CLI_OPTIONS_MAX + ARRAY_LEN(global_options)];
	size_t n = 0;
	for (size_t i = 0; i < ARRAY_LEN(global_options); i++)
		names[n++] = global_options[i];
	const struct cli_usage *u = c->command != NULL ? c->command->usage : NULL;
	for (int i = 0; u != NULL && i < CLI_OPTIONS_MAX && u->option[i].name != NULL; i++)
		names[n++] = u->option[i].name;
	const char *help =
		c->command == NULL
			? "rolag --help"
			: arena_printf(&c->arena, "rolag %s --help lists them", c->command->name);
	return unknown(err, "option", word, yaml_nearest(word, names, n), help);
}

/* "NORM/ID…": may be given again; the values stand with commas between them. */
static bool is_repeatable(const struct cli_option *o)
{
	size_t n = o->value != NULL ? strlen(o->value) : 0;
	return n > strlen("…") && strcmp(o->value + n - strlen("…"), "…") == 0;
}

/* Takes argv[*i], which begins with '-', and its value where it has one. */
static int take_option(struct cli *c, int argc, char **argv, int *i, struct rt_err *err)
{
	const char *word = argv[*i];
	size_t len = strcspn(word, "=");
	const char *value = word[len] == '=' ? word + len + 1 : NULL;
	const struct cli_usage *u = c->command != NULL ? c->command->usage : NULL;
	int at = find_option(u, word, len);
	bool config = len == 8 && strncmp(word, "--config", len) == 0;
	if (at < 0 && !config) {
		c->help |= strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
		c->version |= strcmp(word, "--version") == 0;
		return c->help || c->version ? 0 : unknown_option(c, word, err);
	}
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): at < 0 only with config */
	bool wants = config || u->option[at].value != NULL;
	if (!wants && value != NULL)
		return rt_fail(err, ERR_USAGE, "%.*s takes no value", (int)len, word);
	if (wants && value == NULL) {
		if (*i + 1 >= argc)
			return rt_fail(err, ERR_USAGE, "%s needs a value", word);
		value = argv[++*i];
	}
	if (config)
		c->config = value;
	else if (c->value[at] != NULL && is_repeatable(&u->option[at]))
		c->value[at] = arena_printf(&c->arena, "%s,%s", c->value[at], value);
	else
		c->value[at] = wants ? value : "";
	return 0;
}

int cli_parse(struct cli *c, const struct cli_command *table, size_t count, int argc, char **argv,
	      const char *default_config, struct rt_err *err)
{
	*c = (struct cli){.table = table,
			  .table_count = count,
			  .program = argc > 0 ? argv[0] : "rolag",
			  .config = default_config};
	arena_init(&c->arena, 16384);
	c->arg = arena_alloc(&c->arena, (size_t)(argc + 1) * sizeof(*c->arg));
	bool options = true;
	for (int i = 1; i < argc; i++) {
		int rc = 0;
		if (options && strcmp(argv[i], "--") == 0)
			options = false;
		else if (options && argv[i][0] == '-' && argv[i][1] != '\0')
			rc = take_option(c, argc, argv, &i, err);
		else if (c->command == NULL)
			rc = find_command(c, table, count, argv[i], err);
		else
			c->arg[c->arg_count++] = argv[i];
		if (rc != 0)
			return rc;
	}
	if (c->help || c->version)
		return 0;
	if (c->command == NULL)
		return rt_fail(err, ERR_USAGE, "no command given (rolag --help lists them)");
	int min, max;
	count_args(c->command->usage, &min, &max);
	if (c->arg_count < min)
		return rt_fail(err, ERR_USAGE, "usage: rolag %s %s", c->command->name,
			       c->command->usage->args);
	if (c->arg_count > max)
		return rt_fail(err, ERR_USAGE, "one argument too many: %s (rolag %s --help)",
			       c->arg[max], c->command->name);
	return 0;
}

static void print_option(FILE *out, const struct cli_option *o)
{
	char left[64];
	snprintf(left, sizeof(left), "%s%s%s", o->name, o->value != NULL ? " " : "",
		 o->value != NULL ? o->value : "");
	fprintf(out, "  %-20s %s\n", left, o->help);
}

const struct cli_option cli_config_option = {
	"--config", "FILE", "configuration (default: $ROLAG_CONFIG, then /etc/rolag/rolag.yaml)"};
const struct cli_option cli_help_option = {"--help", NULL, "this help"};
const struct cli_exit cli_exits[] = {
	{EXIT_OK, "done"},
	{EXIT_FINDING, "a check found something"},
	{EXIT_USAGE, "usage"},
	{EXIT_PERMANENT, "a person must act"},
	{EXIT_TEMPORARY, "temporary, try again"},
	{0, NULL},
};

void cli_print_help(FILE *out, const struct cli_command *table, size_t count)
{
	fputs("rolag: folds the events of a core database into rollups of a warehouse, exactly "
	      "once.\n\nUsage: rolag [--config FILE] COMMAND [OPTION…]\n\nCommands:\n",
	      out);
	for (size_t i = 0; i < count; i++)
		fprintf(out, "  %-10s %s\n", table[i].name, table[i].help);
	fputs("\nOptions:\n", out);
	print_option(out, &cli_config_option);
	print_option(out, &cli_help_option);
	fputs("\n`rolag COMMAND --help` says more.\nExit codes:", out);
	for (const struct cli_exit *e = cli_exits; e->says != NULL; e++)
		fprintf(out, "%s %d %s", e == cli_exits ? "" : ";", e->code, e->says);
	fputs(".\n", out);
}

void cli_print_command_help(FILE *out, const struct cli_command *command)
{
	const struct cli_usage *u = command->usage;
	fprintf(out, "Usage: rolag %s%s%s [OPTION…]\n\n%s: %s.\n\n%s\nOptions:\n", command->name,
		u->args != NULL ? " " : "", u->args != NULL ? u->args : "", command->name,
		command->help, u->text);
	for (int i = 0; i < CLI_OPTIONS_MAX && u->option[i].name != NULL; i++)
		print_option(out, &u->option[i]);
	print_option(out, &cli_config_option);
	print_option(out, &cli_help_option);
}

const char *cli_option(const struct cli *c, const char *name)
{
	int at = find_option(c->command->usage, name, strlen(name));
	RT_ASSERT(at >= 0);
	return c->value[at];
}

int cli_settings(struct cli *c, struct settings *ret, struct rt_err *err)
{
	return settings_load(c->config, &c->arena, ret, err);
}

static void put(FILE *out, const char *text, size_t max)
{
	size_t n = strlen(text), shown = RT_MIN(n, max);
	while (shown < n && ((unsigned char)text[shown] & 0xC0) == 0x80)
		shown--; /* not within a character */
	for (size_t at = 0; at < shown;) {
		char plain[RT_PLAIN_SIZE];
		at += rt_plain(text + at, plain);
		fputs(plain, out);
	}
	fputs(shown < n ? "…" : "", out);
}

void cli_put(const char *text, size_t max)
{
	put(stdout, text, max);
}

int cli_fail(const struct cli *c, const struct rt_err *err)
{
	fprintf(stderr, "rolag%s%s: ", c->command != NULL ? " " : "",
		c->command != NULL ? c->command->name : "");
	put(stderr, err->msg, SIZE_MAX);
	fputc('\n', stderr);
	return rt_exit_code(err->code);
}
