/*
 * check: looks at everything that the roles need, changes nothing.
 * Guarantees: one thing wrong does not hide another; every finding says how
 * to mend it.
 */
#include "cdc/commands/check.h"

#include "cdc/commands/commands.h"
#include "cdc/commands/init.h"

const struct cli_usage check_usage = {
	.text = "Looks at configuration, definitions, both databases, folders and disk; changes "
		"nothing.\nEach line begins with ok, warn or FAIL; below a finding stands its "
		"mend. "
		"Exit code 1 when\nthere is a FAIL.\n"
		"--definitions looks at the definitions alone, against any migrated database: for "
		"the\napplication's own CI. With --database and --rollups it needs no "
		"configuration.\n",
	.option = {{"--definitions", NULL, "hold the definitions against a database, no more"},
		   {"--database", "CONNINFO", "with --definitions: that one, not core.connect"},
		   {"--rollups", "FOLDER", "with --definitions: those, not rollups.path"}},
};

static void tell(struct check *k, const char *word, const char *mend, const char *fmt, va_list ap)
{
	char text[4096];
	bar_hide(k->bar);
	vsnprintf(text, sizeof(text), fmt, ap);
	printf("%-5s ", word);
	cli_put(text, SIZE_MAX);
	putchar('\n');
	if (mend != NULL) {
		fputs("      mend: ", stdout);
		cli_put(mend, SIZE_MAX);
		putchar('\n');
	}
	fflush(stdout);
}

void check_ok(struct check *k, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	tell(k, "ok", NULL, fmt, ap);
	va_end(ap);
}

void check_fail(struct check *k, const char *mend, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	tell(k, "FAIL", mend, fmt, ap);
	va_end(ap);
	k->fails++;
}

void check_warn(struct check *k, const char *mend, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	tell(k, "warn", mend, fmt, ap);
	va_end(ap);
	k->warnings++;
}

void check_error(struct check *k, const char *what, const struct rt_err *err)
{
	/* Messages carry their own mend: "…; mend: …". */
	const char *mend = strstr(err->msg, "; mend: ");
	int len = mend != NULL ? (int)(mend - err->msg) : (int)strlen(err->msg);
	check_fail(k, mend != NULL ? mend + strlen("; mend: ") : NULL, "%s: %.*s", what, len,
		   err->msg);
}

PGconn *check_connect(struct check *k, const char *what, const char *conninfo)
{
	struct rt_err err;
	PGconn *c = NULL;
	struct pgc_options o = {
		.what = what, .conninfo = conninfo, .application_name = "rolag check"};
	if (pgc_connect(&c, &o, &err) != 0) {
		check_error(k, what, &err);
		return NULL;
	}
	check_ok(k, "%s: connected, PostgreSQL %d, database %s, role %s", what,
		 PQserverVersion(c) / 10000, PQdb(c), PQuser(c));
	if (PQserverVersion(c) < 150000)
		check_fail(k, "upgrade the server", "%s: PostgreSQL 15 or later is needed", what);
	return c;
}

static void check_definitions(struct check *k)
{
	struct rt_err err;
	k->has_landed = landed_load(k->arena, &k->s, &k->landed, &err) == 0;
	if (k->has_landed)
		check_ok(k, "definitions: %u rollups in %s", k->landed.count, k->s.rollups.path);
	else
		check_error(k, "definitions", &err);
}

static void check_mirror_settings(struct check *k)
{
	struct rt_err err;
	if (!k->has_landed)
		return;
	k->has_mirrors = mirror_load(k->arena, &k->s, &k->landed, &k->mirrors, &err) == 0;
	if (!k->has_mirrors)
		check_error(k, "mirrors", &err);
}

/* What only both sides together tell. */
static void check_pair(struct check *k)
{
	char id[32];
	snprintf(id, sizeof(id), "%llu", (unsigned long long)k->system.system_id);
	if (k->system.system_id == 0 || k->control.version == 0)
		return;
	if (k->control.core_system_id[0] != '\0' && strcmp(k->control.core_system_id, id) != 0)
		check_fail(k, "core.connect, or another pipeline name for this core",
			   "identity: the warehouse follows the core with system identifier %s, "
			   "this one is %s",
			   k->control.core_system_id, id);
	else if (k->control.core_system_id[0] != '\0')
		check_ok(k, "identity: the warehouse follows this core");
	if (k->control.has_ledger && k->slot.exists && k->control.timeline != k->system.timeline)
		check_warn(k, NULL,
			   "identity: the warehouse's position is of timeline %u, the core is on "
			   "timeline %u (a failover)",
			   k->control.timeline, k->system.timeline);
	if (k->control.has_ledger && !k->slot.exists)
		check_fail(k,
			   k->s.capture.on_lost_slot == LOST_SLOT_RESYNC
				   ? "start rolag capture: it makes a new one, and apply syncs "
				     "what is "
				     "missing"
				   : MEND_LOAD_ANEW,
			   "slot: it is gone, and the warehouse is at " LSN_FMT
			   ": a new slot would leave a gap",
			   LSN_ARGS(k->control.applied));
}

static int conclude(const struct check *k)
{
	if (k->fails == 0 && k->warnings == 0)
		puts("Everything is as it should be.");
	else
		printf("%d wrong, %d to know.\n", k->fails, k->warnings);
	return k->fails == 0 ? EXIT_OK : EXIT_FINDING;
}

/* The configuration is read only for what the command line does not say. */
static int definition_settings(struct check *k, struct cli *c, struct rt_err *err)
{
	const char *database = cli_option(c, "--database"), *folder = cli_option(c, "--rollups");
	if (database != NULL && folder != NULL)
		conf_defaults(settings_keys, settings_key_count, &k->s);
	else if (cli_settings(c, &k->s, err) != 0)
		return err->code;
	if (database != NULL)
		k->s.core.connect = database;
	if (folder != NULL)
		k->s.rollups.path = folder;
	return 0;
}

static int run_definitions(struct cli *c)
{
	struct rt_err err;
	struct check k = {.arena = &c->arena};
	if (definition_settings(&k, c, &err) != 0) {
		check_error(&k, "configuration", &err);
		return EXIT_FINDING;
	}
	PGconn *db = check_connect(&k, "database", k.s.core.connect);
	if (db != NULL && pgc_exec(db, NULL, &err,
				   "SET default_transaction_read_only = on; SET lock_timeout = "
				   "'10s'") != 0)
		check_error(&k, "database", &err);
	check_definitions_against(&k, db);
	pgc_close(db);
	return conclude(&k);
}

int cmd_check(struct cli *c)
{
	struct rt_err err;
	struct check k = {.arena = &c->arena};
	if (cli_option(c, "--definitions") != NULL)
		return run_definitions(c);
	if (cli_option(c, "--database") != NULL || cli_option(c, "--rollups") != NULL) {
		rt_fail(&err, ERR_USAGE, "--database and --rollups go with --definitions");
		return cli_fail(c, &err);
	}
	if (cli_settings(c, &k.s, &err) != 0) {
		check_error(&k, "configuration", &err);
		return EXIT_FINDING;
	}
	check_ok(&k, "configuration: %s, pipeline %s", c->config, k.s.pipeline);
	k.publication = arena_printf(k.arena, SETTINGS_INSERTS_FMT, k.s.pipeline);
	check_definitions(&k);
	check_mirror_settings(&k);
	PGconn *core = check_connect(&k, "core", k.s.core.connect);
	if (core != NULL) {
		check_core(&k, core);
		check_core_custody(&k, core);
		if (k.has_landed)
			check_sources(&k, core);
		if (k.has_mirrors)
			check_mirrors_core(&k, core);
	}
	PGconn *warehouse = check_connect(&k, "warehouse", k.s.warehouse.connect);
	if (warehouse != NULL) {
		check_warehouse_server(&k, warehouse);
		check_warehouse(&k, warehouse);
		if (k.has_mirrors)
			check_mirrors_warehouse(&k, warehouse);
	}
	check_models(&k, warehouse);
	check_reports(&k);
	check_pair(&k);
	check_http(&k);
	check_machine(&k);
	check_spool(&k);
	pgc_close(core);
	pgc_close(warehouse);
	mirror_release(&k.mirrors);
	if (k.has_landed)
		landed_release(&k.landed);
	return conclude(&k);
}
