/*
 * manual: the program writes its own man pages and completions, as `make
 * install` does. Guarantees: what stands there is what is parsed, since both
 * come of one table.
 */
#include "cdc/commands/manual.h"

#include "cdc/commands/commands.h"
#include "proto/base/fsio.h"

const struct cli_usage manual_usage = {
	.args = "FOLDER",
	.text = "Writes below FOLDER, which is a share folder like /usr/local/share:\n"
		"  man/  rolag.1, one page for each command, rolag.yaml.5\n"
		"  bash-completion/, zsh/, fish/  what these shells read to complete a command "
		"line\n"
		"Packagers need it, and who installed the binary alone.\n",
};

/* Writes text to folder/below/name, with the folders that are missing; empties the buffer. */
static int put(const char *folder, const char *below, const char *name, struct buf *text,
	       struct rt_err *err)
{
	char *dir = rt_sprintf("%s/%s", folder, below);
	char *path = rt_sprintf("%s/%s", dir, name);
	int rc = fs_mkdirs(dir, 0755, err);
	if (rc == 0)
		rc = fs_replace_file(path, buf_cstr(text), text->len, 0644, err);
	free(path);
	free(dir);
	buf_release(text);
	*text = (struct buf)BUF_INIT;
	return rc;
}

static int put_pages(const struct cli *c, const char *folder, struct buf *text, struct rt_err *err)
{
	manual_page(c->table, c->table_count, text);
	int rc = put(folder, "man/man1", "rolag.1", text, err);
	for (size_t i = 0; rc == 0 && i < c->table_count; i++) {
		char *name = rt_sprintf("rolag-%s.1", c->table[i].name);
		manual_command_page(&c->table[i], text);
		rc = put(folder, "man/man1", name, text, err);
		free(name);
	}
	if (rc != 0)
		return rc;
	manual_config_page(settings_keys, settings_key_count, text);
	return put(folder, "man/man5", "rolag.yaml.5", text, err);
}

static int put_completions(const struct cli *c, const char *folder, struct buf *text,
			   struct rt_err *err)
{
	static const struct {
		void (*print)(const struct cli_command *table, size_t count, struct buf *out);
		const char *below, *name;
	} shell[] = {
		{manual_bash, "bash-completion/completions", "rolag"},
		{manual_zsh, "zsh/site-functions", "_rolag"},
		{manual_fish, "fish/vendor_completions.d", "rolag.fish"},
	};
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < ARRAY_LEN(shell); i++) {
		shell[i].print(c->table, c->table_count, text);
		rc = put(folder, shell[i].below, shell[i].name, text, err);
	}
	return rc;
}

int cmd_manual(struct cli *c)
{
	struct rt_err err;
	struct buf text = BUF_INIT;
	int rc = put_pages(c, c->arg[0], &text, &err);
	if (rc == 0)
		rc = put_completions(c, c->arg[0], &text, &err);
	buf_release(&text);
	return rc != 0 ? cli_fail(c, &err) : EXIT_OK;
}
