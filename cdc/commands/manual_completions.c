/*
 * manual_completions: what bash, zsh and fish read. Guarantees: exactly the
 * commands, first words and options of the table are offered, and where an
 * option takes a file or a folder, those.
 */
#include "cdc/commands/manual.h"

/* What may stand as the value of an option, or as an argument. */
enum kind { KIND_WORD, KIND_FILE, KIND_FOLDER };

static enum kind kind_of(const char *value)
{
	if (strcmp(value, "DIR") == 0 || strcmp(value, "FOLDER") == 0)
		return KIND_FOLDER;
	return strcmp(value, "FILE") == 0 || strchr(value, '.') != NULL ? KIND_FILE : KIND_WORD;
}

/* "list|show [X]", "[core|warehouse]": appends the words of the first argument, each behind a space. */
static void put_choices(struct buf *out, const struct cli_usage *u)
{
	if (u->args == NULL)
		return;
	size_t n = strcspn(u->args, " ");
	if (memchr(u->args, '|', n) == NULL)
		return;
	buf_str(out, " ");
	for (size_t i = 0; i < n; i++)
		if (strchr("[]", u->args[i]) == NULL)
			buf_u8(out, (uint8_t)(u->args[i] == '|' ? ' ' : u->args[i]));
}

/* The kind of what stands behind the command's name: files, folders or words. */
static enum kind kind_of_args(const struct cli_usage *u)
{
	return u->args != NULL ? kind_of(u->args) : KIND_WORD;
}

/* text within '…', with what `special` names escaped by a backslash. */
static void put_quoted(struct buf *out, const char *text, const char *special)
{
	for (; *text != '\0'; text++) {
		if (*text == '\'')
			buf_str(out, "'\\'");
		else if (strchr(special, *text) != NULL)
			buf_str(out, "\\");
		buf_u8(out, (uint8_t)*text);
	}
}

/* ---- bash ---- */

static void bash_values(const struct cli_usage *u, const char *command, struct buf *out)
{
	static const char *const action[] = {[KIND_WORD] = ":",
					     [KIND_FILE] = "_rolag_paths f",
					     [KIND_FOLDER] = "_rolag_paths d"};
	for (int i = 0; i < CLI_OPTIONS_MAX && u->option[i].name != NULL; i++)
		if (u->option[i].value != NULL)
			buf_printf(out, "\t'%s %s') %s; return ;;\n", command, u->option[i].name,
				   action[kind_of(u->option[i].value)]);
}

static void bash_words(const struct cli_command *c, struct buf *out)
{
	const struct cli_usage *u = c->usage;
	struct buf choices = BUF_INIT;
	put_choices(&choices, u);
	buf_printf(out, "\t%s)", c->name);
	if (choices.len > 0)
		buf_printf(out, " [ \"$prev\" = %s ] && first='%s';", c->name,
			   buf_cstr(&choices) + 1);
	buf_str(out, " words='");
	for (int i = 0; i < CLI_OPTIONS_MAX && u->option[i].name != NULL; i++)
		buf_printf(out, "%s ", u->option[i].name);
	buf_printf(out, "--config --help'; kind=%c ;;\n", "-fd"[kind_of_args(u)]);
	buf_release(&choices);
}

void manual_bash(const struct cli_command *table, size_t count, struct buf *out)
{
	buf_str(out, "# bash completion for rolag, written by `rolag manual`.\n"
		     "_rolag_paths()\n{\n\tlocal IFS=$'\\n'\n\tcompopt -o filenames 2>/dev/null\n"
		     "\tCOMPREPLY=($(compgen -\"$1\" -- \"$cur\"))\n}\n\n"
		     "_rolag()\n{\n\tlocal cur=${COMP_WORDS[COMP_CWORD]} "
		     "prev=${COMP_WORDS[COMP_CWORD-1]}\n"
		     "\tlocal command= words= first= kind=- i\n\tCOMPREPLY=()\n"
		     "\t# \"--option=value\" comes as three words.\n"
		     "\t[ \"$cur\" = = ] && cur=\n"
		     "\t[ \"$prev\" = = ] && prev=${COMP_WORDS[COMP_CWORD-2]}\n"
		     "\tfor ((i = 1; i < COMP_CWORD; i++)); do\n\t\tcase ${COMP_WORDS[i]} in\n"
		     "\t\t--config) [ \"${COMP_WORDS[i+1]}\" = = ] && ((i++)); ((i++)) ;;\n"
		     "\t\t-*) ;;\n\t\t*) command=${COMP_WORDS[i]}; break ;;\n\t\tesac\n\tdone\n"
		     "\t[ \"$prev\" = --config ] && { _rolag_paths f; return; }\n"
		     "\tcase \"$command $prev\" in\n");
	for (size_t i = 0; i < count; i++)
		bash_values(table[i].usage, table[i].name, out);
	buf_str(out, "\tesac\n\tcase $command in\n\t'') words='");
	for (size_t i = 0; i < count; i++)
		buf_printf(out, "%s ", table[i].name);
	buf_str(out, "--config --help --version' ;;\n");
	for (size_t i = 0; i < count; i++)
		bash_words(&table[i], out);
	buf_str(out, "\tesac\n"
		     "\t[ \"$kind\" = - ] || [ \"${cur#-}\" != \"$cur\" ] || "
		     "{ _rolag_paths \"$kind\"; return; }\n"
		     "\tCOMPREPLY=($(compgen -W \"$first $words\" -- \"$cur\"))\n}\n"
		     "complete -F _rolag rolag\n");
}

/* ---- zsh ---- */

static void zsh_option(struct buf *out, const struct cli_option *o)
{
	static const char *const action[] = {
		[KIND_WORD] = " ", [KIND_FILE] = "_files", [KIND_FOLDER] = "_files -/"};
	buf_printf(out, "'%s[", o->name);
	put_quoted(out, o->help, "[]\\");
	buf_str(out, "]");
	if (o->value != NULL) {
		buf_str(out, ":");
		put_quoted(out, o->value, ":\\");
		buf_printf(out, ":%s", action[kind_of(o->value)]);
	}
	buf_str(out, "'");
}

static void zsh_command(const struct cli_command *c, struct buf *out)
{
	static const char *const rest[] = {[KIND_WORD] = "'*: : '",
					   [KIND_FILE] = "'*:file:_files'",
					   [KIND_FOLDER] = "'*:folder:_files -/'"};
	const struct cli_usage *u = c->usage;
	struct buf choices = BUF_INIT;
	put_choices(&choices, u);
	buf_printf(out, "\t\t%s)\n\t\t\t_arguments", c->name);
	for (int i = 0; i < CLI_OPTIONS_MAX && u->option[i].name != NULL; i++) {
		buf_str(out, " \\\n\t\t\t\t");
		zsh_option(out, &u->option[i]);
	}
	buf_str(out, " \\\n\t\t\t\t");
	zsh_option(out, &cli_config_option);
	buf_str(out, " \\\n\t\t\t\t");
	zsh_option(out, &cli_help_option);
	if (choices.len > 0)
		buf_printf(out, " \\\n\t\t\t\t'1:what:(%s)'", buf_cstr(&choices) + 1);
	buf_printf(out, " \\\n\t\t\t\t%s && ret=0\n\t\t\t;;\n", rest[kind_of_args(u)]);
	buf_release(&choices);
}

void manual_zsh(const struct cli_command *table, size_t count, struct buf *out)
{
	buf_str(out, "#compdef rolag\n# zsh completion for rolag, written by `rolag manual`.\n"
		     "_rolag() {\n\tlocal context state state_descr line ret=1\n"
		     "\ttypeset -A opt_args\n\tlocal -a commands\n\tcommands=(\n");
	for (size_t i = 0; i < count; i++) {
		buf_printf(out, "\t\t'%s:", table[i].name);
		put_quoted(out, table[i].help, "\\");
		buf_str(out, "'\n");
	}
	buf_str(out, "\t)\n\t_arguments -C ");
	zsh_option(out, &cli_config_option);
	buf_str(out, " ");
	zsh_option(out, &cli_help_option);
	buf_str(out, " '--version[the version]' '1:command:->command' '*::argument:->argument' && "
		     "ret=0\n\tcase $state in\n\tcommand) _describe command commands && ret=0 ;;\n"
		     "\targument)\n\t\tcase $line[1] in\n");
	for (size_t i = 0; i < count; i++)
		zsh_command(&table[i], out);
	buf_str(out, "\t\tesac\n\t\t;;\n\tesac\n\treturn ret\n}\n\n_rolag \"$@\"\n");
}

/* ---- fish ---- */

static void fish_option(struct buf *out, const char *command, const struct cli_option *o)
{
	static const char *const value[] = {[KIND_WORD] = " -x",
					    [KIND_FILE] = " -rF",
					    [KIND_FOLDER] = " -xa '(__fish_complete_directories)'"};
	buf_str(out, "complete -c rolag");
	if (command != NULL)
		buf_printf(out, " -n '__rolag_command_is %s'", command);
	buf_printf(out, " -l %s%s -d '", o->name + strlen("--"),
		   o->value != NULL ? value[kind_of(o->value)] : "");
	put_quoted(out, o->help, "\\");
	buf_str(out, "'\n");
}

static void fish_command(const struct cli_command *c, struct buf *out)
{
	const struct cli_usage *u = c->usage;
	struct buf choices = BUF_INIT;
	put_choices(&choices, u);
	buf_printf(out, "complete -c rolag -n '__rolag_command_is' -a %s -d '", c->name);
	put_quoted(out, c->help, "\\");
	buf_str(out, "'\n");
	if (choices.len > 0)
		buf_printf(out, "complete -c rolag -n '__rolag_command_only %s' -a '%s'\n", c->name,
			   buf_cstr(&choices) + 1);
	if (kind_of_args(u) != KIND_WORD)
		buf_printf(out, "complete -c rolag -n '__rolag_command_is %s' -F\n", c->name);
	for (int i = 0; i < CLI_OPTIONS_MAX && u->option[i].name != NULL; i++)
		fish_option(out, c->name, &u->option[i]);
	buf_release(&choices);
}

void manual_fish(const struct cli_command *table, size_t count, struct buf *out)
{
	buf_str(out, "# fish completion for rolag, written by `rolag manual`.\n"
		     "function __rolag_words\n\tset -l words (commandline -opc)\n"
		     "\tset -e words[1]\n"
		     "\twhile string match -q -- '-*' $words[1]\n"
		     "\t\tif test \"$words[1]\" = --config\n\t\t\tset -e words[1]\n\t\tend\n"
		     "\t\tset -e words[1]\n\tend\n"
		     "\tstring join -- \\n $words\nend\n"
		     "# The command is this one; without an argument: there is none yet.\n"
		     "function __rolag_command_is\n\tset -l words (__rolag_words)\n"
		     "\ttest \"$words[1]\" = \"$argv[1]\"\nend\n"
		     "# The command is this one, and nothing stands behind it yet.\n"
		     "function __rolag_command_only\n\tset -l words (__rolag_words)\n"
		     "\ttest \"$words\" = \"$argv[1]\"\nend\n"
		     "complete -c rolag -f\n");
	fish_option(out, NULL, &cli_config_option);
	fish_option(out, NULL, &cli_help_option);
	buf_str(out, "complete -c rolag -n '__rolag_command_is' -l version -d 'the version'\n");
	for (size_t i = 0; i < count; i++)
		fish_command(&table[i], out);
}
