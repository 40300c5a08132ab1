/*
 * settings: the configuration file's keys as one struct, shared by all roles
 * and commands. The table in settings.c has every key with its default,
 * range and meaning; deploy/rolag.yaml is printed from it (`rolag config`).
 */
#ifndef PROTO_SETTINGS_H
#define PROTO_SETTINGS_H

#include "proto/base/conf.h"
#include "proto/base/rt.h"

enum settings_confirm { CONFIRM_APPLIED, CONFIRM_SPOOLED };
enum settings_binary { BINARY_AUTO, BINARY_ON, BINARY_OFF };
enum settings_unknown_event { UNKNOWN_EVENT_QUARANTINE, UNKNOWN_EVENT_FAIL, UNKNOWN_EVENT_IGNORE };
enum settings_unknown_key {
	UNKNOWN_KEY_WARN,
	UNKNOWN_KEY_QUARANTINE,
	UNKNOWN_KEY_FAIL,
	UNKNOWN_KEY_IGNORE
};
enum settings_gap { GAP_REPAIR, GAP_QUARANTINE, GAP_FAIL };
enum settings_lost_slot { LOST_SLOT_RESYNC, LOST_SLOT_STOP };
enum settings_flaw { FLAW_FAIL, FLAW_FLAG };

struct settings {
	const char *file; /* the path it came from; not a key */
	const char *pipeline;
	const char *state_dir;
	struct {
		const char *connect;
		const char *slot; /* "" = rolag_<pipeline>; see settings_slot */
	} core;
	struct {
		const char *connect;
		const char *schema;
	} warehouse;
	struct {
		const char *path;
		struct conf_list land;
	} rollups;
	struct {
		struct conf_list tables;      /* "schema.table", or "table" of the schema public */
		struct conf_list append_only; /* those of them whose inserts only are published */
	} mirrors;
	struct {
		const char *connect; /* "" = core.connect */
		int confirm;	     /* enum settings_confirm */
		uint64_t wal_budget;
		bool allow_unlimited_wal;
		int on_lost_slot;      /* enum settings_lost_slot */
		int64_t look_interval; /* between looks at publications and identities */
		int binary;	       /* enum settings_binary */
		int64_t heartbeat_interval;
		int64_t sync_interval;
	} capture;
	struct {
		const char *dir; /* "" = <state_dir>/spool; see settings_spool_dir */
		uint64_t segment_size;
		uint64_t quota;
		uint64_t reserve;
		int64_t retain;
	} spool;
	struct {
		int64_t batch_rows;
		uint64_t batch_bytes;
		uint64_t cache;
		int unknown_event; /* enum settings_unknown_event */
		int unknown_key;   /* enum settings_unknown_key */
		int gap;	   /* enum settings_gap */
	} apply;
	struct {
		int64_t workers;
		int64_t chunk;
	} sync;
	struct {
		int64_t sample_interval; /* 0: off */
		int64_t sample_entities;
	} verify;
	struct {
		const char *path;     /* "" = there are none */
		int64_t time_limit;   /* of a build */
		int64_t publish_wait; /* for readers of the views, in sum */
	} models;
	struct {
		int64_t max_entities; /* of one rollup */
		int64_t max_events;   /* of one rollup */
	} quarantine;
	struct {
		const char *definitions;   /* reports.yaml; "": no reports, no companion */
		const char *target;	   /* "" = <state_dir>/reports */
		const char *connect;	   /* "" = warehouse.connect */
		const char *core_connect;  /* "" = core.connect */
		const char *build;	   /* a command; "" = the models of models.path */
		int64_t build_limit;	   /* µs */
		int64_t fence_limit;	   /* µs that a run waits for its fence */
		int on_quarantine;	   /* enum settings_flaw */
		int on_invalid;		   /* enum settings_flaw */
		int64_t retries;	   /* of a run, after failures that pass */
		int64_t keep_runs;	   /* whose relations are kept */
		bool guard_formulas;	   /* in csv and txt */
		struct conf_list schedule; /* "minute hour day month weekday [norm/id …]" */
		const char *time_zone;
	} reports;
	struct {
		const char *listen;		 /* "" = off; "[ADDRESS:]PORT" */
		const char *tokens;		 /* file of token hashes; "" = none */
		int64_t connections;		 /* at one time */
		int64_t connections_per_address; /* of them */
		int64_t failures;      /* wrong tokens of one address in a minute; 0: no limit */
		int64_t request_limit; /* µs in which a request must have come whole */
	} http;
	struct {
		int level; /* index into settings_log_levels, an enum log_level by settings_log_level */
		int format; /* enum log_format */
	} log;
};

extern const struct conf_key settings_keys[];
extern const size_t settings_key_count;

/* Reads path; strings live in the arena. ERR_PERMANENT naming file, line, key. */
int settings_load(const char *path, struct arena *a, struct settings *ret,
		  struct rt_err *err) RT_MUSTCHECK;
/* The same from memory; path stands in messages, and paths in the text are relative to it. */
int settings_parse(const char *path, struct slice text, struct arena *a, struct settings *ret,
		   struct rt_err *err) RT_MUSTCHECK;
/* Fills the names that derive from others (spool.dir, core.slot): called by settings_parse. */
void settings_complete(struct settings *s, struct arena *a);
/* Does a list of tables ("schema.table", or "table" of the schema public) have this one? */
bool settings_lists_table(const struct conf_list *list, const char *nspname, const char *relname);
/* Sets up logging for a role as the settings say. */
void settings_setup_log(const struct settings *s, const char *role);
/*
 * SIGHUP: reads the file again and takes the logging keys; warns of the others
 * that differ from those the role began with (s), by name: they take a
 * restart. A bad file is logged and changes nothing.
 */
void settings_reload(const struct settings *s, const char *role);

/* Names that follow from the pipeline's, each at most 63 bytes (PostgreSQL's NAMEDATALEN - 1). */
#define SETTINGS_PIPELINE_MAX 40
#define SETTINGS_INSERTS_FMT  "%s_inserts" /* publication of event tables, and of append_only ones */
#define SETTINGS_CHANGES_FMT  "%s_changes" /* publication of the other mirrored tables */

/* What is left to do where positions no longer compare (`rolag init` refuses to pass over a gap). */
#define MEND_LOAD_ANEW "load anew, as pipeline of another name into another warehouse.schema"

#endif
