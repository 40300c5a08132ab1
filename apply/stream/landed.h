/*
 * landed: the tables that a rollup becomes in the warehouse (design §4):
 * <schema>.<name> with one row per (id, version), <schema>.<name>_latest with
 * one row per id; their DDL, COMMENTs, row in rolag.relation, and the SQL
 * that reads and writes them.
 */
#ifndef APPLY_STREAM_LANDED_H
#define APPLY_STREAM_LANDED_H

#include <libpq-fe.h>

#include "proto/base/arena.h"
#include "proto/base/rt.h"
#include "proto/lsn.h"
#include "proto/settings.h"
#include "transforms/rollup/definition.h"

/* Columns before and behind the declared ones, in table order. */
enum {
	LANDED_ID,
	LANDED_VERSION,
	LANDED_CREATED_AT,
	LANDED_MODIFIED_AT,
	LANDED_EVENT_TYPE,
	LANDED_BEFORE,	   /* how many stand before the declared columns */
	LANDED_BEHIND = 2, /* _lsn, _committed_at */
};

enum landed_state { LANDED_SYNCING, LANDED_LIVE, LANDED_PARKED, LANDED_REBUILDING };

struct landed {
	const struct rollup *rollup;
	const char *history; /* "raw"."name", quoted */
	const char *latest;  /* "raw"."name_latest", quoted */
	enum landed_state state;
	struct lsn sync_lsn; /* the stream counts behind this */
	/* LANDED_PARKED: its part of transactions that end here or later is left out. */
	struct lsn parked_from;
	bool parked_for_cause; /* LANDED_PARKED: drift or a full quarantine; until a sync is asked for */
};

/* Is what a transaction that ends at end did to it left out? */
static inline bool landed_is_parked(const struct landed *l, struct lsn end)
{
	return l->state == LANDED_PARKED && lsn_le(l->parked_from, end);
}

struct landed_set {
	uint16_t count;
	struct landed *item;
};

/*
 * Loads the definitions that the settings land (all of rollups.path, or those
 * that rollups.land names), sorted by name, with policies resolved from the
 * settings. Lives in the arena; landed_release frees the rest.
 */
int landed_load(struct arena *a, const struct settings *s, struct landed_set *ret,
		struct rt_err *err) RT_MUSTCHECK;
void landed_release(struct landed_set *set);
/* The rollup fed by schema.table, or -1. */
int landed_find_source(const struct landed_set *set, const char *nspname, const char *relname);

/* Called for every statement that landed_ensure runs or would run; what: "table raw.x", … */
typedef void (*landed_report)(void *ctx, const char *what);

/*
 * Creates what is missing in the warehouse (tables, comments, relation rows in
 * state syncing) and fills in state and sync LSN of every item. A landed
 * rollup whose definition differs from the one that made its rows:
 * ERR_PERMANENT, naming both numbers, with the mend.
 */
int landed_ensure(PGconn *c, const struct settings *s, struct landed_set *set, landed_report report,
		  void *ctx, struct rt_err *err) RT_MUSTCHECK;
/*
 * Rollups that were landed once and are not in the set any more no longer
 * follow the stream: their relation rows become parked, and report is told
 * their names. One that comes back becomes
 * syncing: what happened meanwhile is in the core only.
 */
int landed_park_absent(PGconn *c, const struct settings *s, struct landed_set *set,
		       landed_report report, void *ctx, struct rt_err *err) RT_MUSTCHECK;
/* Appends one COMMENT ON: of a table (quoted), or (column not NULL) of a column of it. */
void landed_comment(struct buf *out, const char *table, const char *column, const char *text);
/* Appends the DDL of one rollup's tables, with comments. */
void landed_ddl(const struct landed *l, struct buf *out);
/* One UPDATE of the relation row: state, sync LSN. Part of the caller's transaction. */
int landed_set_state(PGconn *c, const struct settings *s, struct landed *l, enum landed_state state,
		     struct lsn sync_lsn, struct rt_err *err) RT_MUSTCHECK;

/* Appends `COPY history (columns) FROM STDIN (FORMAT binary)`, or of latest. */
void landed_copy_sql(const struct landed *l, bool latest, struct buf *out);
/*
 * Appends the statement that writes rows given as one array per column ($1 …,
 * in table order; an array column comes as text[] and is cast; the parameter
 * behind the columns is bool[]: is this the entity's last row of the batch?)
 * to history, and the last ones to latest.
 */
void landed_write_sql(const struct landed *l, struct buf *out);
/*
 * Append the statements that take the newest version in history of the
 * entities $1 to latest: of entities that are not there yet, and of those that
 * are. What is in history already need not be sent and parsed again.
 */
void landed_begin_sql(const struct landed *l, struct buf *out);
void landed_renew_sql(const struct landed *l, struct buf *out);
/* Appends `SELECT id, version, …declared FROM history`, or from latest. */
void landed_select_sql(const struct landed *l, bool latest, struct buf *out);
/* Appends the same from latest, with `WHERE id = ANY($1)`. */
void landed_fetch_sql(const struct landed *l, struct buf *out);

#endif
