/* config, version: what this program is and what can be set in it. */
#include "cdc/commands/commands.h"

const struct cli_usage config_usage = {
	.text = "Prints an example configuration: every key with its meaning, default, range and "
		"unit.\nWith --check it reads the configuration in use instead, and says what is "
		"wrong with it.\n",
	.option = {{"--check", NULL, "check the configuration file; print nothing else"}},
};

const struct cli_usage version_usage = {.text = "Prints the program's name and version.\n"};

int cmd_config(struct cli *c)
{
	struct settings s;
	struct rt_err err;
	if (cli_option(c, "--check") != NULL) {
		if (cli_settings(c, &s, &err) != 0)
			return cli_fail(c, &err);
		printf("%s: ok (pipeline %s)\n", c->config, s.pipeline);
		return EXIT_OK;
	}
	struct buf out = BUF_INIT;
	buf_str(&out, "# Configuration of rolag: every key, with its default. Printed by `rolag "
		      "config`.\n");
	conf_print_example(settings_keys, settings_key_count, &out);
	fputs(buf_cstr(&out), stdout);
	buf_release(&out);
	return EXIT_OK;
}

int cmd_version(struct cli *c)
{
	puts("rolag " ROLAG_VERSION);
	return EXIT_OK;
}
