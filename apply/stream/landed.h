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

/*
 * A rollup's tables; or those that are built beside them by another definition
 * of it, <name>__d<number>, which follow the stream as the rollup itself does
 * until they take its place (rebuild.h).
 */
struct landed {
	/* The definition that makes its rows. Its name is the table's, and that of its row in rolag.relation. */
	const struct rollup *rollup;
	const struct rollup *file; /* as rollups.path has it; of one beside: NULL */
	const struct landed
		*beside;     /* it is built beside this one; NULL: it is what readers read */
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

struct landed_store;

struct landed_set {
	uint16_t count;
	struct landed *item;
	/* The first `own` are those of rollups.path, the others are beside one of them; there is room for cap. */
	uint16_t own, cap;
	struct landed_store *store; /* definitions that are not in rollups.path */
};

/* So many items there may be, as long as the set lives. */
static inline uint16_t landed_room(const struct landed_set *set)
{
	return set->count > set->cap ? set->count : set->cap;
}

/* What a rollup's tables are called that were live before the ones it has: kept for an undo. */
#define LANDED_KEPT "__d0"

/*
 * Loads the definitions that the settings land (all of rollups.path, or those
 * that rollups.land names), sorted by name, with policies resolved from the
 * settings. Lives in the arena; landed_release frees the rest.
 */
int landed_load(struct arena *a, const struct settings *s, struct landed_set *ret,
		struct rt_err *err) RT_MUSTCHECK;
void landed_release(struct landed_set *set);
/* The first item at or behind `from` that schema.table feeds, or -1: it may feed several. */
int landed_find_source(const struct landed_set *set, uint16_t from, const char *nspname,
		       const char *relname);
/* The item of that name, or NULL. */
struct landed *landed_find(const struct landed_set *set, const char *name);
/*
 * The definition in `text`, of rolag.definition, with policies as landed_load
 * gives them; it lives as long as the set. ERR_PERMANENT where it is not one of
 * that name, number and fingerprint.
 */
int landed_stored(struct landed_set *set, const struct settings *s, const char *name,
		  int32_t number, uint64_t fingerprint, const char *text, const struct rollup **ret,
		  struct rt_err *err) RT_MUSTCHECK;
/* Adds the item <name>__d<number> beside `of`, made by r; NULL: there is no room. */
struct landed *landed_add_beside(struct landed_set *set, const struct settings *s,
				 struct landed *of, const struct rollup *r);

/* Called for every statement that landed_ensure runs or would run; what: "table raw.x", … */
typedef void (*landed_report)(void *ctx, const char *what);

/*
 * Creates what is missing in the warehouse (tables, comments, relation rows in
 * state syncing), fills in state and sync LSN of every item, and gives each the
 * definition that made its rows: that of the file, which is noted in
 * rolag.definition then, or the one noted there, which goes on until another is
 * built (rebuild.h). ERR_PERMANENT, with the mend: the file has other content
 * under the same number, a lower number that is not the kept one's, or the text
 * of the definition that made the rows is nowhere. Items beside others are
 * dropped from the set.
 */
int landed_ensure(PGconn *c, const struct settings *s, struct landed_set *set, landed_report report,
		  void *ctx, struct rt_err *err) RT_MUSTCHECK;
/*
 * The same for who only reads: nothing is created or noted, and an item whose
 * rows are not there, or were made by a definition that is nowhere, is as in its file.
 */
int landed_resolve(PGconn *c, const struct settings *s, struct landed_set *set,
		   struct rt_err *err) RT_MUSTCHECK;
/*
 * Appends the statements that make the item's tables with comments, and its row
 * in rolag.relation: syncing, or, of one beside another, rebuilding. For one
 * transaction that keeps other creators out.
 */
void landed_create_sql(const struct settings *s, const struct landed *l, struct buf *out);
/* State, sync LSN and reason from columns column … column + 2 of a row of rolag.relation. */
void landed_take_state(struct landed *l, const PGresult *res, int row, int column);
/* Notes in rolag.definition that r makes the rows of `name`; part of the caller's transaction. */
int landed_note_definition(PGconn *c, const struct settings *s, const char *name,
			   const struct rollup *r, struct rt_err *err) RT_MUSTCHECK;
/* The one noted under that number; *ret is NULL where there is none. */
int landed_read_definition(PGconn *c, const struct settings *s, struct landed_set *set,
			   const char *name, int32_t number, const struct rollup **ret,
			   struct rt_err *err) RT_MUSTCHECK;
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
 * Of an item beside another, a row that the other has too keeps what that one
 * holds in _lsn and _committed_at.
 *
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
