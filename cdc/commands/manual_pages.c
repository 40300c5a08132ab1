/*
 * manual_pages: man(7) pages from the tables. Guarantees: no text of a table
 * is taken for a request or an escape; words outside of ASCII are written as
 * escapes, so that no preprocessor is needed.
 */
#include "cdc/commands/manual.h"

/* The code point at *p, which moves behind it. The tables are UTF-8 by compilation. */
static uint32_t next_char(const char **p)
{
	const unsigned char *s = (const unsigned char *)*p;
	int more = *s >= 0xf0 ? 3 : *s >= 0xe0 ? 2 : *s >= 0xc0 ? 1 : 0;
	uint32_t c = more == 0 ? *s : *s & (0x3fu >> more);
	s++;
	for (; more > 0 && *s != '\0'; more--)
		c = c << 6 | (*s++ & 0x3fu);
	*p = (const char *)s;
	return c;
}

static void put_char(struct buf *out, uint32_t c)
{
	static const char *const escape[128] = {
		['\\'] = "\\e",	  ['-'] = "\\-",   ['`'] = "\\(ga",
		['\''] = "\\(aq", ['^'] = "\\(ha", ['~'] = "\\(ti",
	};
	if (c >= 128)
		buf_printf(out, "\\[u%04X]", c);
	else if (escape[c] != NULL)
		buf_str(out, escape[c]);
	else
		buf_u8(out, (uint8_t)c);
}

/* len bytes of text within a line. */
static void put_text(struct buf *out, const char *text, size_t len)
{
	const char *end = text + len;
	while (text < end)
		put_char(out, next_char(&text));
}

static void put_str(struct buf *out, const char *text)
{
	put_text(out, text, strlen(text));
}

/* A line of its own: a dot in front would make it a request, sentences begin lines as roff wants it. */
static void put_line(struct buf *out, const char *text, size_t len)
{
	if (len > 0 && *text == '.')
		buf_str(out, "\\&");
	for (size_t i = 0; i < len; i++) {
		bool ends = i + 2 < len && strchr(".?!", text[i]) != NULL && text[i + 1] == ' ' &&
			    text[i + 2] >= 'A' && text[i + 2] <= 'Z';
		if (!ends)
			continue;
		put_text(out, text, i + 1);
		buf_str(out, "\n");
		put_line(out, text + i + 2, len - i - 2);
		return;
	}
	put_text(out, text, len);
	buf_str(out, "\n");
}

/* "  term   what it is": an item of a list. What goes before the term's end, or 0 where the line is none. */
static size_t term_length(const char *line, size_t len)
{
	if (len < 3 || line[0] != ' ' || line[1] != ' ' || line[2] == ' ')
		return 0;
	for (size_t i = 3; i + 1 < len; i++)
		if (line[i] == ' ' && line[i + 1] == ' ')
			return i - 2;
	return len - 2;
}

/* A usage's text: lines that begin with two spaces are items, more spaces go on with one, others are prose. */
static void put_prose(struct buf *out, const char *text)
{
	bool in_item = false;
	while (*text != '\0') {
		size_t len = strcspn(text, "\n");
		size_t blank = strspn(text, " ");
		size_t term = term_length(text, len);
		if (term > 0) {
			buf_str(out, ".TP\n.B ");
			put_text(out, text + 2, term);
			buf_str(out, "\n");
			blank = RT_MIN(len, 2 + term + strspn(text + 2 + term, " "));
			in_item = true;
		} else if (blank == 0 && in_item) {
			buf_str(out, ".PP\n");
			in_item = false;
		}
		if (blank < len)
			put_line(out, text + blank, len - blank);
		text += len + (text[len] == '\n');
	}
}

static void put_head(struct buf *out, const char *name, int section, const char *says)
{
	buf_str(out, ".\\\" Written by `rolag manual`.\n.TH ");
	for (const char *p = name; *p != '\0'; p++)
		buf_u8(out, *p >= 'a' && *p <= 'z' ? (uint8_t)(*p - 'a' + 'A') : (uint8_t)*p);
	buf_printf(out, " %d " ROLAG_DATE " \"rolag " ROLAG_VERSION "\" \"%s\"\n.SH NAME\n",
		   section, section == 1 ? "User Commands" : "File Formats");
	put_str(out, name);
	buf_str(out, " \\- ");
	put_str(out, says);
	buf_str(out, "\n");
}

static void put_option(struct buf *out, const struct cli_option *o)
{
	buf_str(out, ".TP\n\\fB");
	put_str(out, o->name);
	buf_str(out, "\\fR");
	if (o->value != NULL) {
		buf_str(out, " \\fI");
		put_str(out, o->value);
		buf_str(out, "\\fR");
	}
	buf_str(out, "\n");
	put_line(out, o->help, strlen(o->help));
}

static void put_exits(struct buf *out)
{
	buf_str(out, ".SH EXIT STATUS\n");
	for (const struct cli_exit *e = cli_exits; e->says != NULL; e++) {
		buf_printf(out, ".TP\n.B %d\n", e->code);
		put_line(out, e->says, strlen(e->says));
	}
}

void manual_page(const struct cli_command *table, size_t count, struct buf *out)
{
	put_head(out, "rolag", 1, "folds a core database's events into a warehouse, exactly once");
	buf_str(out,
		".SH SYNOPSIS\n.B rolag\n.RB [ \\-\\-config\n.IR FILE ]\n.I COMMAND\n"
		".RI [ OPTION \\[u2026]]\n.SH DESCRIPTION\n"
		"Reads the changes of an event\\-sourced PostgreSQL database from its "
		"write\\-ahead log, folds each entity\\(aqs events into rows, and writes them to "
		"a PostgreSQL warehouse exactly once, in whole source transactions.\n"
		".SH COMMANDS\n");
	for (size_t i = 0; i < count; i++) {
		buf_str(out, ".TP\n.BR rolag\\-");
		put_str(out, table[i].name);
		buf_str(out, " (1)\n");
		put_line(out, table[i].help, strlen(table[i].help));
	}
	buf_str(out, ".SH OPTIONS\n");
	put_option(out, &cli_config_option);
	put_option(out, &cli_help_option);
	put_exits(out);
	buf_str(out, ".SH ENVIRONMENT\n.TP\n.B ROLAG_CONFIG\nThe configuration, where "
		     "\\fB\\-\\-config\\fR is not given.\n.TP\n.B ROLAG_CORE_DUMPS\nyes: a crash "
		     "may leave a core "
		     "dump, which holds rows and passwords; otherwise none is left.\n.TP\n.B "
		     "NOTIFY_SOCKET\nSet by "
		     "systemd: the roles tell it that they are ready, how they are, and that they "
		     "live.\n.TP\n.BR PGPASSFILE \", \" PGSERVICEFILE \", \" \\[u2026]\n"
		     "What libpq reads.\n.TP\n.B NO_COLOR\nWith any text: no colour, but for "
		     "\\fB\\-\\-color\\fR (no\\-color.org).\n.TP\n.BR TERM \", \" LC_ALL \", "
		     "\" LC_CTYPE \", \" LANG\nWhat the terminal can show: nothing but lines "
		     "where TERM is dumb, ASCII where the encoding is not UTF\\-8.\n.SH "
		     "FILES\n.TP\n.I /etc/rolag/rolag.yaml\n"
		     "The configuration.\n.SH SEE ALSO\n.BR rolag.yaml (5)\n");
}

void manual_command_page(const struct cli_command *command, struct buf *out)
{
	const struct cli_usage *u = command->usage;
	char *name = rt_sprintf("rolag-%s", command->name);
	put_head(out, name, 1, command->help);
	free(name);
	buf_str(out, ".SH SYNOPSIS\n\\fBrolag ");
	put_str(out, command->name);
	buf_str(out, "\\fR");
	if (u->args != NULL) {
		buf_str(out, " ");
		put_str(out, u->args);
	}
	buf_str(out, " [\\fIOPTION\\fR\\[u2026]]\n.SH DESCRIPTION\n");
	put_prose(out, u->text);
	buf_str(out, ".SH OPTIONS\n");
	for (int i = 0; i < CLI_OPTIONS_MAX && u->option[i].name != NULL; i++)
		put_option(out, &u->option[i]);
	put_option(out, &cli_config_option);
	put_option(out, &cli_help_option);
	put_exits(out);
	buf_str(out, ".SH SEE ALSO\n.BR rolag (1),\n.BR rolag.yaml (5)\n");
}

static void put_key(struct buf *out, const struct conf_key *k)
{
	struct buf facts = BUF_INIT;
	buf_str(out, ".TP\n.B ");
	put_str(out, k->name);
	buf_str(out, "\n");
	put_line(out, k->help, strlen(k->help));
	conf_print_facts(k, "", &facts);
	for (const char *p = buf_cstr(&facts); *p != '\0';) {
		size_t len = strcspn(p, "\n");
		put_line(out, p, len);
		p += len + (p[len] == '\n');
	}
	buf_release(&facts);
	if (k->init == NULL && k->type != CONF_LIST) {
		buf_str(out, "Must be given.\n");
	} else if (k->init != NULL && k->init[0] != '\0') {
		buf_str(out, "Default: ");
		put_str(out, k->init);
		buf_str(out, ".\n");
	} else {
		buf_str(out, "Default: empty.\n");
	}
}

void manual_config_page(const struct conf_key *keys, size_t count, struct buf *out)
{
	put_head(out, "rolag.yaml", 5, "configuration of rolag");
	buf_str(out, ".SH DESCRIPTION\nA YAML file of sections: the key \\fBspool.quota\\fR is "
		     "written as \\fBquota\\fR below \\fBspool\\fR.\n"
		     "\\fBrolag config\\fR prints one with every key; \\fBrolag config "
		     "\\-\\-check\\fR says what is wrong with yours.\n"
		     "Sizes are written as 64 MB (powers of 1024), durations as 200 ms, 5 min.\n"
		     "Unknown keys are errors.\n"
		     "Passwords do not belong here: libpq finds them in its passfile.\n"
		     ".SH KEYS\n");
	for (size_t i = 0; i < count; i++)
		put_key(out, &keys[i]);
	buf_str(out, ".SH FILES\n.TP\n.I /etc/rolag/rolag.yaml\nWhere it is looked for, unless "
		     "\\fB\\-\\-config\\fR or \\fBROLAG_CONFIG\\fR say otherwise.\n"
		     ".SH SEE ALSO\n.BR rolag (1),\n.BR rolag\\-config (1)\n");
}
