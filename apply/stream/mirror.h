/*
 * mirror: a plain table of the core that lands row by row (design §4):
 * <warehouse.schema>.<table>, the same columns and key, and _lsn. Which tables
 * there are, how each stands in the warehouse, its DDL, and the SQL that reads
 * it from the core and writes it.
 *
 * In rolag.relation a mirror's fingerprint says how its source was published when
 * it was last known to miss nothing (apply/stream/published.h).
 *
 * A mirror's shape is that of its source as the warehouse's table was made
 * after; it is kept in rolag.relation. The stream's RELATION is held against
 * it: a column more is followed, anything else parks the mirror.
 */
#ifndef APPLY_STREAM_MIRROR_H
#define APPLY_STREAM_MIRROR_H

#include <libpq-fe.h>

#include "apply/stream/landed.h"
#include "proto/pg/shape.h"

/* One shape of a mirror, with what follows from it. Immutable but for `prepared`; in the set's arena. */
struct mirror_shape {
	struct schema source; /* land filled; key flags: the mirror's key */
	uint16_t key_count;
	const uint16_t *key; /* columns of the key, in column order */
	uint32_t number;     /* names its prepared statements */
	bool prepared;	     /* on the writer's connection, or about to be */
};

struct mirror {
	const char *nspname, *relname; /* in the core */
	const char *source;	       /* "nspname.relname", as rolag.relation has it */
	const char *target;	       /* "raw"."relname", quoted */
	bool append_only;
	enum landed_state state;
	struct lsn sync_lsn; /* the stream counts behind this */
	/* The table as it is, or will be when the batches under way are written; NULL: not made yet. */
	struct mirror_shape *shape;
	/*
	 * Rows may be there already, or not any more, as far as the stream knows: it is replayed over
	 * a table read meanwhile. Inserts then replace, and what is missing is not missed.
	 */
	bool overlaps;
	bool empty; /* truncated, and no row came since: there is none that a new column could have a value in */
};

struct mirror_set {
	uint16_t count;
	struct mirror *item;
	struct arena arena; /* shapes; given back when the warehouse is read anew */
	uint32_t shapes;    /* numbers given out */
};

/*
 * The mirrors that the settings name; names live in a. ERR_PERMANENT for a name
 * that is none, named twice, landing where a rollup or another mirror does, or
 * append_only without being in tables.
 */
int mirror_load(struct arena *a, const struct settings *s, const struct landed_set *landed,
		struct mirror_set *ret, struct rt_err *err) RT_MUSTCHECK;
void mirror_release(struct mirror_set *set);
/* The mirror of schema.table, or -1. */
int mirror_find(const struct mirror_set *set, const char *nspname, const char *relname);
/* The mirror whose source had this OID when it was made, or -1: it was renamed, if not found by name. */
int mirror_find_oid(const struct mirror_set *set, uint32_t relation_oid);

/*
 * Reads state, sync LSN and shape of every mirror from rolag.relation, adding
 * rows in state syncing for new ones, and parking those not in the set. Shapes
 * handed out before are invalid afterwards. report: as in landed_park_absent.
 */
int mirror_ensure(PGconn *warehouse, const struct settings *s, struct mirror_set *set,
		  landed_report report, void *ctx, struct rt_err *err) RT_MUSTCHECK;
/*
 * The same of one mirror, without writing a state: what was handed out of the
 * others stays, and so does its own old shape for who holds it.
 */
int mirror_read(PGconn *warehouse, const struct settings *s, struct mirror_set *set,
		struct mirror *m, struct rt_err *err) RT_MUSTCHECK;
/* Reads one mirror, and writes nothing. 1: it is not landed yet; state and shape are then as for a new one. */
int mirror_look(PGconn *warehouse, const struct settings *s, struct mirror_set *set,
		struct mirror *m, struct rt_err *err) RT_MUSTCHECK;
/* One UPDATE of the relation row: state, sync LSN, reason (NULL: none). Part of the caller's transaction. */
int mirror_set_state(PGconn *warehouse, const struct settings *s, struct mirror *m,
		     enum landed_state state, struct lsn sync_lsn, const char *reason,
		     struct rt_err *err) RT_MUSTCHECK;

/* ---- a shape, and the table made after it ---- */

/* A shape of a schema (copied). ERR_PERMANENT, naming the column, for what cannot be landed. */
int mirror_shape_new(struct mirror_set *set, const struct schema *s, struct mirror_shape **ret,
		     struct rt_err *err) RT_MUSTCHECK;

enum mirror_drift {
	MIRROR_SAME,  /* what it holds fits */
	MIRROR_MOVED, /* so it does; but what is recorded of it (its files) is new */
	MIRROR_ADDS,  /* columns were added, and it is known what older rows have in them */
	MIRROR_PARKS, /* only reading the table anew will do; why is said */
};
/*
 * What RELATION `now` is to a mirror's shape. But for MIRROR_PARKS
 * *ret is the shape to go on with (with the mirror's key); why: for MIRROR_PARKS,
 * without row values.
 */
enum mirror_drift mirror_compare(struct mirror_set *set, const struct mirror *m,
				 const struct schema *now, struct mirror_shape **ret, char *why,
				 size_t why_size);

/*
 * Appends the DDL that makes the table (dropped before, where it is there),
 * with comments. generated: of shape_table.
 */
void mirror_ddl(const struct mirror *m, const struct mirror_shape *shape, const char *generated,
		struct buf *out);
/* Appends one statement (DO) that brings the table from m->shape to shape and records it. */
void mirror_add_sql(const struct settings *s, const struct mirror *m,
		    const struct mirror_shape *shape, struct buf *out);
/* Appends the UPDATE of rolag.relation that records the shape. */
void mirror_record_sql(const struct settings *s, const struct mirror *m,
		       const struct mirror_shape *shape, struct buf *out);

/* ---- reading it from the core: for sync and verify ---- */

/*
 * Appends `SELECT columns, '<lsn>'::pg_lsn FROM ONLY source`, columns as they
 * land, in the shape's order, without ORDER BY or WHERE. Key columns of it are
 * shape->key. A partitioned table is read without ONLY.
 */
void mirror_select_sql(const struct mirror *m, const struct mirror_shape *shape, char relkind,
		       struct lsn lsn, struct buf *out);
/* Does COPY between both servers work in binary? (Not where OIDs of a type would have to match.) */
bool mirror_copies_binary(const struct mirror_shape *shape);
/* Appends `COPY target (columns, _lsn) FROM STDIN`, binary or text. */
void mirror_copy_sql(const struct mirror *m, const struct mirror_shape *shape, bool binary,
		     struct buf *out);

#endif
