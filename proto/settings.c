/* settings: the table of configuration keys. Guarantees: what is not in this table is not configurable. */
#include "proto/settings.h"

#include "proto/base/fsio.h"
#include "proto/base/log.h"
#include "proto/base/yaml.h"

static const char *const confirm_names[] = {"applied", "spooled", NULL};
static const char *const binary_names[] = {"auto", "on", "off", NULL};
static const char *const unknown_event_names[] = {"quarantine", "fail", "ignore", NULL};
static const char *const unknown_key_names[] = {"warn", "quarantine", "fail", "ignore", NULL};
static const char *const gap_names[] = {"repair", "quarantine", "fail", NULL};
static const char *const lost_slot_names[] = {"resync", "stop", NULL};
static const char *const flaw_names[] = {"fail", "flag", NULL};
static const char *const level_names[] = {"error", "warn", "info", "debug", NULL};
static const char *const format_names[] = {"text", "json", NULL};

#define KB	 (INT64_C(1) << 10)
#define MB	 (INT64_C(1) << 20)
#define GB	 (INT64_C(1) << 30)
#define TB	 (INT64_C(1) << 40)
#define MS	 INT64_C(1000)
#define SECOND	 INT64_C(1000000)
#define DAY	 (INT64_C(86400) * SECOND)
#define FIELD(f) offsetof(struct settings, f)

const struct conf_key settings_keys[] = {
	{.name = "pipeline",
	 .type = CONF_STRING,
	 .offset = FIELD(pipeline),
	 .init = "lana",
	 .help = "Name of this pipeline: lower-case letters, digits and _, at most 40. The slot, "
		 "the "
		 "publications and the ledger carry it. One pipeline = one slot, one spool, one "
		 "ledger."},
	{.name = "state_dir",
	 .type = CONF_STRING,
	 .offset = FIELD(state_dir),
	 .init = "/var/lib/rolag",
	 .help = "Where the roles keep their state (counters that `rolag status` reads; the spool "
		 "unless spool.dir says otherwise). Absolute path, on a local disk."},
	{.name = "core.connect",
	 .type = CONF_STRING,
	 .offset = FIELD(core.connect),
	 .help = "Connection string of the core database, as libpq takes it. No password here: use "
		 "a "
		 "passfile, a service file or the environment. The role needs REPLICATION, and "
		 "SELECT "
		 "on the published tables for the first load (`rolag init --print-sql`)."},
	{.name = "core.slot",
	 .type = CONF_STRING,
	 .offset = FIELD(core.slot),
	 .init = "",
	 .help = "Name of the replication slot; empty: rolag_<pipeline>."},
	{.name = "warehouse.connect",
	 .type = CONF_STRING,
	 .offset = FIELD(warehouse.connect),
	 .help = "Connection string of the warehouse database, as libpq takes it; no password "
		 "here. The "
		 "role owns the schemas rolag and warehouse.schema."},
	{.name = "warehouse.schema",
	 .type = CONF_STRING,
	 .offset = FIELD(warehouse.schema),
	 .init = "raw",
	 .help = "Schema of the landed tables."},
	{.name = "rollups.path",
	 .type = CONF_STRING,
	 .offset = FIELD(rollups.path),
	 .help = "Folder of rollup definitions (*.yaml); relative to this file."},
	{.name = "rollups.land",
	 .type = CONF_LIST,
	 .offset = FIELD(rollups.land),
	 .help = "Names of the rollups to land; empty: every definition in rollups.path."},
	{.name = "mirrors.tables",
	 .type = CONF_LIST,
	 .offset = FIELD(mirrors.tables),
	 .help = "Plain tables of the core to mirror, as schema.table (or table, of the schema "
		 "public). Each lands as warehouse.schema.table, row by row equal to its source. "
		 "They need a replica identity (a primary key will do), but for those below."},
	{.name = "mirrors.append_only",
	 .type = CONF_LIST,
	 .offset = FIELD(mirrors.append_only),
	 .help = "Those of mirrors.tables that the core only inserts into: nothing but inserts is "
		 "published, so that a table without replica identity is not hindered (were its "
		 "updates published, the core's own UPDATE would fail)."},
	{.name = "capture.connect",
	 .type = CONF_STRING,
	 .offset = FIELD(capture.connect),
	 .init = "",
	 .help = "Connection string of the core for capture: a role with REPLICATION, and without "
		 "SELECT on any table, will do. Empty: core.connect."},
	{.name = "capture.confirm",
	 .type = CONF_ENUM,
	 .offset = FIELD(capture.confirm),
	 .init = "applied",
	 .names = confirm_names,
	 .help = "What the core is told to be safe: applied = what the warehouse holds; spooled = "
		 "what "
		 "the spool holds on disk."},
	{.name = "capture.wal_budget",
	 .type = CONF_BYTES,
	 .offset = FIELD(capture.wal_budget),
	 .init = "4 GB",
	 .min = 16 * MB,
	 .max = 16 * TB,
	 .help = "WAL that the core may keep for us under confirm: applied. Past it the spool's "
		 "durable "
		 "position is confirmed instead (state `spilling`) until apply has caught up."},
	{.name = "capture.allow_unlimited_wal",
	 .type = CONF_BOOL,
	 .offset = FIELD(capture.allow_unlimited_wal),
	 .init = "false",
	 .help = "Let `rolag check` accept a core with max_slot_wal_keep_size = -1, where nothing "
		 "but "
		 "this program keeps the core's disk from filling."},
	{.name = "capture.on_lost_slot",
	 .type = CONF_ENUM,
	 .offset = FIELD(capture.on_lost_slot),
	 .init = "resync",
	 .names = lost_slot_names,
	 .help = "When the slot is gone, invalidated, made anew or cannot be decoded any more: "
		 "resync "
		 "= make a new one, say what is missing, and have it synced; stop = end, and leave "
		 "that to a person."},
	{.name = "capture.look_interval",
	 .type = CONF_DURATION,
	 .offset = FIELD(capture.look_interval),
	 .init = "60 s",
	 .min = SECOND,
	 .max = 3600 * SECOND,
	 .help = "How often capture looks whether the publications are there and every published "
		 "table has the replica identity that the core's own statements need, and apply "
		 "whether the partitions of mirrored tables are still those it read."},
	{.name = "capture.binary",
	 .type = CONF_ENUM,
	 .offset = FIELD(capture.binary),
	 .init = "auto",
	 .names = binary_names,
	 .help = "Values in binary form from the core; auto falls back to text when the core "
		 "cannot."},
	{.name = "capture.heartbeat_interval",
	 .type = CONF_DURATION,
	 .offset = FIELD(capture.heartbeat_interval),
	 .init = "1 s",
	 .min = 100 * MS,
	 .max = 60 * SECOND,
	 .help = "How often a heartbeat message goes through the core's WAL to the warehouse."},
	{.name = "capture.sync_interval",
	 .type = CONF_DURATION,
	 .offset = FIELD(capture.sync_interval),
	 .init = "200 ms",
	 .min = 0,
	 .max = 10 * SECOND,
	 .help = "The spool is synced to disk at most this long after a write. Apply does not wait "
		 "for "
		 "it; confirming to the core does."},
	{.name = "spool.dir",
	 .type = CONF_STRING,
	 .offset = FIELD(spool.dir),
	 .init = "",
	 .help = "Folder of the spool; empty: spool below state_dir."},
	{.name = "spool.segment_size",
	 .type = CONF_BYTES,
	 .offset = FIELD(spool.segment_size),
	 .init = "64 MB",
	 .min = 64 * KB,
	 .max = 4 * GB,
	 .help = "A segment file is closed at the first transaction end past this size."},
	{.name = "spool.quota",
	 .type = CONF_BYTES,
	 .offset = FIELD(spool.quota),
	 .init = "16 GB",
	 .min = MB,
	 .max = 16 * TB,
	 .help = "All segments together. Near it capture stops reading, keeps the connection, and "
		 "says "
		 "so."},
	{.name = "spool.reserve",
	 .type = CONF_BYTES,
	 .offset = FIELD(spool.reserve),
	 .init = "1 GB",
	 .min = 0,
	 .max = TB,
	 .help = "Free space to leave on the spool's file system; below it the same happens."},
	{.name = "spool.retain",
	 .type = CONF_DURATION,
	 .offset = FIELD(spool.retain),
	 .init = "0 s",
	 .min = 0,
	 .max = 365 * DAY,
	 .help = "How long applied segments are kept all the same."},
	{.name = "apply.batch_rows",
	 .type = CONF_INT,
	 .offset = FIELD(apply.batch_rows),
	 .init = "20000",
	 .min = 1,
	 .max = 1000000,
	 .help = "With a backlog, whole transactions are gathered up to this many events into one "
		 "transaction of the warehouse."},
	{.name = "apply.batch_bytes",
	 .type = CONF_BYTES,
	 .offset = FIELD(apply.batch_bytes),
	 .init = "16 MB",
	 .min = 64 * KB,
	 .max = GB,
	 .help = "The same limit in bytes of changes; it bounds memory."},
	{.name = "apply.cache",
	 .type = CONF_BYTES,
	 .offset = FIELD(apply.cache),
	 .init = "64 MB",
	 .min = 64 * KB,
	 .max = 64 * GB,
	 .help = "Memory for the latest state of entities in use; others are read back from the "
		 "warehouse."},
	{.name = "apply.unknown_event",
	 .type = CONF_ENUM,
	 .offset = FIELD(apply.unknown_event),
	 .init = "quarantine",
	 .names = unknown_event_names,
	 .help = "An event that the rollup cannot read (a type that it does not list, a required "
		 "key that is absent, a value that does not fit): quarantine = its entity waits in "
		 "rolag.quarantine, in order, the rest flows; fail = stop with a clear line, "
		 "losing nothing; ignore = keep the columns as they were (of types that are not "
		 "listed only; else as quarantine). A definition may say otherwise."},
	{.name = "apply.unknown_key",
	 .type = CONF_ENUM,
	 .offset = FIELD(apply.unknown_key),
	 .init = "warn",
	 .names = unknown_key_names,
	 .help = "A payload key that the rollup does not list for its event: warn = fold, count "
		 "and "
		 "name it; ignore = fold; quarantine and fail as above."},
	{.name = "apply.gap",
	 .type = CONF_ENUM,
	 .offset = FIELD(apply.gap),
	 .init = "repair",
	 .names = gap_names,
	 .help = "An event whose predecessor is not there: repair = read exactly the missing ones "
		 "from the core, and where it has none, as quarantine; quarantine and fail as "
		 "above."},
	{.name = "sync.workers",
	 .type = CONF_INT,
	 .offset = FIELD(sync.workers),
	 .init = "2",
	 .min = 1,
	 .max = 8,
	 .help = "Tables that are synced (loaded from the core) side by side; each needs a "
		 "process, "
		 "two "
		 "connections to the warehouse, one to the core, and for a moment a temporary slot "
		 "there."},
	{.name = "sync.chunk",
	 .type = CONF_INT,
	 .offset = FIELD(sync.chunk),
	 .init = "50000",
	 .min = 100,
	 .max = 1000000,
	 .help = "Rows that one statement of a sync reads from the core."},
	{.name = "verify.sample_interval",
	 .type = CONF_DURATION,
	 .offset = FIELD(verify.sample_interval),
	 .init = "5 min",
	 .min = 0,
	 .max = 30 * DAY,
	 .help = "How often apply, in a process of its own, compares some entities of one rollup, "
		 "the next one each time, with what the core's events fold to (as rolag verify "
		 "does); 0 s: never."},
	{.name = "verify.sample_entities",
	 .type = CONF_INT,
	 .offset = FIELD(verify.sample_entities),
	 .init = "100",
	 .min = 1,
	 .max = 1000000,
	 .help = "How many entities that are, about."},
	{.name = "quarantine.max_entities",
	 .type = CONF_INT,
	 .offset = FIELD(quarantine.max_entities),
	 .init = "10000",
	 .min = 1,
	 .max = 1000000,
	 .help = "Entities of one rollup that may wait in quarantine. One more, and the whole "
		 "rollup is parked: its rows stay as they are until `rolag sync`, the others go "
		 "on."},
	{.name = "quarantine.max_events",
	 .type = CONF_INT,
	 .offset = FIELD(quarantine.max_events),
	 .init = "1000000",
	 .min = 1,
	 .max = 1000000000,
	 .help = "The same for events of one rollup: an entity that is parked for long must not "
		 "fill the warehouse."},
	{.name = "reports.definitions",
	 .type = CONF_STRING,
	 .offset = FIELD(reports.definitions),
	 .init = "",
	 .help = "The file of report definitions (reports.yaml; transforms/lana/REPORTS.md says "
		 "how "
		 "it is written); relative to this file. Empty: no reports, and `rolag run` starts "
		 "no companion."},
	{.name = "reports.target",
	 .type = CONF_STRING,
	 .offset = FIELD(reports.target),
	 .init = "",
	 .help = "Folder of the published files, <run id>/<norm>/<name>.<format>; empty: reports "
		 "below state_dir. Absolute path."},
	{.name = "reports.connect",
	 .type = CONF_STRING,
	 .offset = FIELD(reports.connect),
	 .init = "",
	 .help = "Connection string of the warehouse for the companion, whose role needs no right "
		 "to write landed tables; empty: warehouse.connect."},
	{.name = "reports.core_connect",
	 .type = CONF_STRING,
	 .offset = FIELD(reports.core_connect),
	 .init = "",
	 .help = "Connection string of the core for the fence of a run: a role with CONNECT and "
		 "nothing else will do. Empty: core.connect."},
	{.name = "reports.build",
	 .type = CONF_STRING,
	 .offset = FIELD(reports.build),
	 .init = "",
	 .help = "A command (for /bin/sh) that builds the models instead of the built-in builder, "
		 "as tables in the schema ROLAG_SCHEMA, one for each model of a report; "
		 "ROLAG_RUN_ID, ROLAG_WATERMARK, ROLAG_AS_OF, ROLAG_RUN_AT and ROLAG_MODELS are "
		 "set. Ending otherwise than with 0 fails the run. Its output goes to "
		 "reports.build.log in state_dir."},
	{.name = "reports.build_limit",
	 .type = CONF_DURATION,
	 .offset = FIELD(reports.build_limit),
	 .init = "1 h",
	 .min = SECOND,
	 .max = DAY,
	 .help = "How long the build command may take (the built-in builder: models.time_limit)."},
	{.name = "reports.fence_limit",
	 .type = CONF_DURATION,
	 .offset = FIELD(reports.fence_limit),
	 .init = "5 min",
	 .min = 100 * MS,
	 .max = DAY,
	 .help = "How long a run waits until the warehouse holds everything that was committed in "
		 "the core before it was asked for; then it fails, and says how far behind the "
		 "warehouse is (or goes on, with --allow-stale)."},
	{.name = "reports.on_quarantine",
	 .type = CONF_ENUM,
	 .offset = FIELD(reports.on_quarantine),
	 .init = "fail",
	 .names = flaw_names,
	 .help = "When entities wait in quarantine, or a table is not live: fail = the run fails "
		 "and names them (one run can be let through: --accept-quarantine); flag = the "
		 "manifest names them."},
	{.name = "reports.on_invalid",
	 .type = CONF_ENUM,
	 .offset = FIELD(reports.on_invalid),
	 .init = "fail",
	 .names = flaw_names,
	 .help = "When a value breaks a limit of its column, or a file its XML schema: fail = the "
		 "run fails with report, row and column; flag = the manifest says so."},
	{.name = "reports.retries",
	 .type = CONF_INT,
	 .offset = FIELD(reports.retries),
	 .init = "3",
	 .min = 0,
	 .max = 100,
	 .help = "How often a run is tried again after a failure that may pass (a lost connection, "
		 "a full disk)."},
	{.name = "reports.keep_runs",
	 .type = CONF_INT,
	 .offset = FIELD(reports.keep_runs),
	 .init = "10",
	 .min = 1,
	 .max = 100000,
	 .help = "Published runs whose relations stay in the warehouse, so that `rolag report "
		 "rerun` can write their files again. Files are never deleted."},
	{.name = "reports.guard_formulas",
	 .type = CONF_BOOL,
	 .offset = FIELD(reports.guard_formulas),
	 .init = "false",
	 .help = "Put an apostrophe before text in csv and txt files that a spreadsheet would take "
		 "for a formula (=, +, -, @, tab, line ends)."},
	{.name = "reports.schedule",
	 .type = CONF_LIST,
	 .offset = FIELD(reports.schedule),
	 .help = "Runs by the clock, each \"minute hour day month weekday\" as cron has it, and "
		 "behind it the reports (norm/id) of the batch; none: all. Reports that take a day "
		 "get yesterday. What was missed while nothing ran is caught up by one run."},
	{.name = "reports.time_zone",
	 .type = CONF_STRING,
	 .offset = FIELD(reports.time_zone),
	 .init = "UTC",
	 .help = "Time zone of the schedules and of yesterday, as in the tz database "
		 "(America/El_Salvador)."},
	{.name = "http.listen",
	 .type = CONF_STRING,
	 .offset = FIELD(http.listen),
	 .init = "",
	 .help = "Where the companion serves its page and its API over HTTP, as PORT (of "
		 "127.0.0.1), "
		 "ADDRESS:PORT or [ADDRESS]:PORT; empty: nowhere. Without TLS: an address that is "
		 "not of this machine alone needs http.tokens, and belongs behind a proxy that has "
		 "it."},
	{.name = "http.tokens",
	 .type = CONF_STRING,
	 .offset = FIELD(http.tokens),
	 .init = "",
	 .help = "File of those who may come, a line each: NAME SCOPES SHA-256 (`rolag report "
		 "token "
		 "NAME` makes one); relative to this file. Its content is read again on SIGHUP. "
		 "Nobody else may write it."},
	{.name = "http.connections",
	 .type = CONF_INT,
	 .offset = FIELD(http.connections),
	 .init = "64",
	 .min = 1,
	 .max = 1000,
	 .help = "Connections at one time; more wait."},
	{.name = "http.connections_per_address",
	 .type = CONF_INT,
	 .offset = FIELD(http.connections_per_address),
	 .init = "32",
	 .min = 1,
	 .max = 1000,
	 .help = "Of them, from one address; more are closed. A proxy is one address."},
	{.name = "http.failures",
	 .type = CONF_INT,
	 .offset = FIELD(http.failures),
	 .init = "30",
	 .min = 0,
	 .max = 1000000,
	 .help = "Wrong tokens that one address may send in a minute (all together: eight times as "
		 "many); more are answered with 429, unread, and so is a right one from that "
		 "address meanwhile. A proxy is one address: where it limits failures itself, set "
		 "this high. 0: no limit."},
	{.name = "http.request_limit",
	 .type = CONF_DURATION,
	 .offset = FIELD(http.request_limit),
	 .init = "10 s",
	 .min = 100 * MS,
	 .max = 600 * SECOND,
	 .help = "How long a connection may take until its next request is there, whole; then it "
		 "is "
		 "closed."},
	{.name = "models.path",
	 .type = CONF_STRING,
	 .offset = FIELD(models.path),
	 .init = "",
	 .help = "Folder of models (dbt_project.yml, models/, seeds/), relative to this file; "
		 "empty: "
		 "there are none."},
	{.name = "models.time_limit",
	 .type = CONF_DURATION,
	 .offset = FIELD(models.time_limit),
	 .init = "30 min",
	 .min = SECOND,
	 .max = DAY,
	 .help = "A build that takes longer is given up: its snapshot keeps the warehouse from "
		 "cleaning up."},
	{.name = "models.publish_wait",
	 .type = CONF_DURATION,
	 .offset = FIELD(models.publish_wait),
	 .init = "60 s",
	 .min = SECOND,
	 .max = 3600 * SECOND,
	 .help = "How long publishing tries again while queries hold a view (each try waits half a "
		 "second at most, so that nobody stands behind it for longer)."},
	{.name = "log.level",
	 .type = CONF_ENUM,
	 .offset = FIELD(log.level),
	 .init = "info",
	 .names = level_names,
	 .reload = true,
	 .help = "What is written to the log."},
	{.name = "log.format",
	 .type = CONF_ENUM,
	 .offset = FIELD(log.format),
	 .init = "text",
	 .names = format_names,
	 .reload = true,
	 .help = "text: one line of key=value; json: one object a line."},
};

const size_t settings_key_count = ARRAY_LEN(settings_keys);

static bool valid_name(const char *s, size_t max)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_");
	return n > 0 && n <= max && s[n] == '\0';
}

static const char *beside(struct arena *a, const char *file, const char *path)
{
	const char *slash = strrchr(file, '/');
	if (path[0] == '/' || slash == NULL)
		return path;
	return arena_printf(a, "%.*s/%s", (int)(slash - file), file, path);
}

void settings_complete(struct settings *s, struct arena *a)
{
	if (s->core.slot[0] == '\0')
		s->core.slot = arena_printf(a, "rolag_%s", s->pipeline);
	if (s->capture.connect[0] == '\0')
		s->capture.connect = s->core.connect;
	if (s->spool.dir[0] == '\0')
		s->spool.dir = arena_printf(a, "%s/spool", s->state_dir);
	s->rollups.path = beside(a, s->file, s->rollups.path);
	if (s->reports.definitions[0] != '\0')
		s->reports.definitions = beside(a, s->file, s->reports.definitions);
	if (s->reports.target[0] == '\0')
		s->reports.target = arena_printf(a, "%s/reports", s->state_dir);
	if (s->reports.connect[0] == '\0')
		s->reports.connect = s->warehouse.connect;
	if (s->reports.core_connect[0] == '\0')
		s->reports.core_connect = s->core.connect;
	if (s->http.tokens[0] != '\0')
		s->http.tokens = beside(a, s->file, s->http.tokens);
	if (s->models.path[0] != '\0')
		s->models.path = beside(a, s->file, s->models.path);
}

int settings_parse(const char *path, struct slice text, struct arena *a, struct settings *ret,
		   struct rt_err *err)
{
	struct settings s = {.file = arena_strdup(a, path)};
	conf_defaults(settings_keys, settings_key_count, &s);
	int rc = conf_parse(settings_keys, settings_key_count, path, text, a, &s, err);
	if (rc != 0)
		return rc;
	if (!valid_name(s.pipeline, SETTINGS_PIPELINE_MAX))
		return rt_fail(err, ERR_PERMANENT, "%s: pipeline must be 1 to %d of a-z, 0-9 and _",
			       path, SETTINGS_PIPELINE_MAX);
	if (s.core.slot[0] != '\0' && !valid_name(s.core.slot, 63))
		return rt_fail(err, ERR_PERMANENT,
			       "%s: core.slot must be 1 to 63 of a-z, 0-9 and _", path);
	if (s.state_dir[0] != '/')
		return rt_fail(err, ERR_PERMANENT, "%s: state_dir must be an absolute path", path);
	if (s.reports.target[0] != '\0' && s.reports.target[0] != '/')
		return rt_fail(err, ERR_PERMANENT, "%s: reports.target must be an absolute path",
			       path);
	settings_complete(&s, a);
	*ret = s;
	return 0;
}

int settings_load(const char *path, struct arena *a, struct settings *ret, struct rt_err *err)
{
	char *text;
	size_t len;
	int rc = fs_read_file(path, YAML_FILE_MAX_BYTES, &text, &len, err);
	if (rc != 0)
		return rc;
	rc = settings_parse(path, slice_of(text, len), a, ret, err);
	free(text);
	return rc;
}

bool settings_lists_table(const struct conf_list *list, const char *nspname, const char *relname)
{
	size_t n = strlen(nspname);
	for (size_t i = 0; i < list->count; i++) {
		const char *item = list->item[i];
		if (strchr(item, '.') == NULL
			    ? strcmp(nspname, "public") == 0 && strcmp(item, relname) == 0
			    : strncmp(item, nspname, n) == 0 && item[n] == '.' &&
				      strcmp(item + n + 1, relname) == 0)
			return true;
	}
	return false;
}

void settings_setup_log(const struct settings *s, const char *role)
{
	enum log_level level = LOG_LEVEL_INFO;
	if (!log_level_parse(level_names[s->log.level], &level))
		rt_bug(__FILE__, __LINE__, "level names");
	log_setup(role, level, s->log.format == 1 ? LOG_FORMAT_JSON : LOG_FORMAT_TEXT);
}

void settings_reload(const struct settings *s, const char *role)
{
	struct arena a;
	struct settings fresh;
	struct rt_err err;
	struct buf names = BUF_INIT;
	arena_init(&a, 4096);
	if (settings_load(s->file, &a, &fresh, &err) == 0) {
		settings_setup_log(&fresh, role);
		log_info("configuration read again", "file=%s", s->file);
		conf_needs_restart(settings_keys, settings_key_count, s, &fresh, &names);
		if (names.len > 0)
			log_warn("keys have changed that only a start reads",
				 "keys=\"%s\" mend=\"%sstart %s again\"", buf_cstr(&names),
				 strstr(buf_cstr(&names), "rollups.") != NULL ||
						 strstr(buf_cstr(&names), "mirrors.") != NULL
					 ? "rolag init, then "
					 : "",
				 role);
	} else {
		log_error("the new configuration is not valid: the old one stays", "reason=\"%s\"",
			  err.msg);
	}
	buf_release(&names);
	arena_release(&a);
}
