/*
 * definition: a rollup as its YAML file declares it (design §6), parsed,
 * checked and resolved so that the fold only follows pointers. Every error
 * names file, line and column.
 */
#ifndef TRANSFORMS_ROLLUP_DEFINITION_H
#define TRANSFORMS_ROLLUP_DEFINITION_H

#include "proto/base/arena.h"
#include "proto/base/rt.h"
#include "proto/pg/types.h"

enum rollup_policy {
	POLICY_DEFAULT, /* the configuration's */
	POLICY_FAIL,
	POLICY_WARN,
	POLICY_IGNORE,
	POLICY_QUARANTINE, /* the entity waits in rolag.quarantine, the others go on */
	POLICY_REPAIR,	   /* of gap: read what is missing from the core; else quarantine */
};

/* Reducers; each is one line of reducers.def: REDUCER(name). */
enum reducer_kind {
#define REDUCER(upper, lower, doc) REDUCER_##upper,
#include "transforms/rollup/reducers.def"
#undef REDUCER
	REDUCER_COUNT_ /* how many there are */
};

#define ROLLUP_KEYS_MAX	   255	/* keys of one event */
#define ROLLUP_EVENTS_MAX  1000 /* event types of one rollup */
#define ROLLUP_COLUMNS_MAX 1500 /* PostgreSQL: 1600 columns in a table */
#define ROLLUP_NAME_MAX	   50	/* bytes: "_latest" and "__d<n>" must fit behind it (63) */
#define ROLLUP_PATH_MAX	   16	/* keys of a payload path */

struct rollup_key {
	const char *name;
	bool optional; /* written with ? */
	size_t len;    /* strlen(name) */
};

struct rollup_event {
	const char *name;
	size_t name_len; /* strlen(name) */
	uint16_t key_count;
	const struct rollup_key *
		key; /* payload keys it may carry, without id and type; in jsonb's order (length, bytes) */
	uint16_t action_count;
	const struct rollup_action
		*action; /* what this event does: at most one per column, in column order */
};

/* One step of an event: column ← verb(path). The verbs are the fold's (fold.c). */
enum rollup_verb {
	VERB_SET,
	VERB_CARRY, /* set where the key is there */
	VERB_CLEAR,
	VERB_RAISE,
	VERB_LOWER,
	VERB_LIST_INIT,
	VERB_LIST_ADD,
	VERB_LIST_REMOVE,
	VERB_COUNT,
	VERB_ADD,
	VERB_SUBTRACT,
	VERB_MIN,
	VERB_MAX,
	VERB_FIRST,
	VERB_MERGE,
};

enum rollup_source_kind { FROM_PAYLOAD, FROM_TIME, FROM_SEQUENCE, FROM_TYPE, FROM_WHOLE_PAYLOAD };

struct rollup_path {
	enum rollup_source_kind from;
	uint8_t count; /* FROM_PAYLOAD: keys from the top */
	const char *const *key;
	const char *text; /* as written, for messages */
};

/* rollup_action.key of the two keys that every event may carry: key_count + one of these. */
#define ROLLUP_KEY_ID	0
#define ROLLUP_KEY_TYPE 1

struct rollup_action {
	uint16_t column; /* index into rollup->column */
	enum rollup_verb verb;
	struct rollup_path path; /* unused by CLEAR, RAISE, LOWER, COUNT */
	uint16_t
		key; /* FROM_PAYLOAD: index of path.key[0] in the event's keys, or key_count + ROLLUP_KEY_… */
};

struct rollup_column {
	const char *name;
	const char *description; /* or NULL */
	struct pgt_type type;
	enum reducer_kind reducer;
	bool list_unique, list_skip_null;
	uint32_t list_max; /* 0: no limit */
	int line;
};

struct rollup {
	const char *file;
	const char *text; /* as it was parsed, whole */
	const char *name; /* the warehouse's table */
	const char *source_schema, *source_table;
	const char *description; /* or NULL */
	struct {
		const char *id, *sequence, *event_type, *event, *recorded_at;
	} source_column;
	enum pgt id_type; /* uuid unless `id_type:` says varchar, text, int4 or int8 */
	int32_t definition;
	uint64_t fingerprint;  /* xxh3 of the canonical form (rollup_canonical says what counts) */
	const char *zone_name; /* "UTC" unless `timezone:` says otherwise */
	struct pgt_zone *zone; /* owned; for dates and times without zone */
	enum rollup_policy unknown_event, unknown_key, gap;
	uint16_t event_count;
	const struct rollup_event *event;
	uint16_t column_count;
	const struct rollup_column *column;
};

/*
 * Reads one file. The rollup and all it points to live in the arena, but for
 * the zone: rollup_release. ERR_PERMANENT "file:line:column: …" otherwise.
 */
int rollup_load(struct arena *a, const char *path, struct rollup **ret,
		struct rt_err *err) RT_MUSTCHECK;
/* The same from memory; name stands in messages. */
int rollup_parse(struct arena *a, const char *name, const char *text, size_t len,
		 struct rollup **ret, struct rt_err *err) RT_MUSTCHECK;
void rollup_release(struct rollup *r);
/* Gives the configuration's policies to where the file names none (POLICY_DEFAULT). */
void rollup_set_policies(struct rollup *r, enum rollup_policy unknown_event,
			 enum rollup_policy unknown_key, enum rollup_policy gap);
/* "fail", "warn", … as the language writes it; "default" (static). */
const char *rollup_policy_name(enum rollup_policy policy);
/* The event named name, or NULL. */
const struct rollup_event *rollup_find_event(const struct rollup *r, struct slice name);
/* Appends "set from payload.path on a, b; cleared on c": how the column comes about, for its COMMENT. */
void rollup_describe_column(const struct rollup *r, const struct rollup_column *c, struct buf *out);
/*
 * Appends the canonical form that the fingerprint is taken of: source, id type,
 * time zone, and per column (by name) type, reducer, options and what each
 * event does to it. What cannot change a row that was folded does not count:
 * comments, layout, order of keys and of columns, descriptions, policies, the
 * definition's number, events and keys that no column reads.
 */
void rollup_canonical(const struct rollup *r, struct buf *out);

#endif
