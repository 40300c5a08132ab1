/*
 * change: what happened in the core, as capture hands it to the spool and
 * apply gets it back. Independent of pgoutput's wire form and of the spool's.
 *
 * A transaction is BEGIN, rows, COMMIT, contiguous and in commit order.
 * PROGRESS and GAP stand between transactions. All pointers are borrowed: who hands
 * out a change says how long they live.
 */
#ifndef PROTO_CHANGE_H
#define PROTO_CHANGE_H

#include "proto/base/rt.h"
#include "proto/lsn.h"

enum change_kind {
	CHANGE_BEGIN = 1,
	CHANGE_COMMIT,
	CHANGE_INSERT,
	CHANGE_UPDATE,
	CHANGE_DELETE,
	CHANGE_TRUNCATE,
	CHANGE_MESSAGE, /* pg_logical_emit_message; content is untrusted */
	CHANGE_PROGRESS, /* all of the core up to lsn is in the spool (design: idle or unpublished WAL) */
	CHANGE_GAP, /* what the core committed between gap_from and lsn is not in the spool, and never will be */
};

/* Kinds of a column's value, as in pgoutput's TupleData. */
enum value_kind {
	VALUE_NULL = 'n',
	VALUE_UNCHANGED =
		'u', /* TOASTed and not changed: keep what is there; neither NULL nor empty */
	VALUE_TEXT = 't',
	VALUE_BINARY = 'b', /* the type's send format */
};

#define CHANGE_COLUMNS_MAX 1600 /* PostgreSQL's MaxHeapAttributeNumber */

struct value {
	enum value_kind kind;
	uint32_t len; /* bytes; 0 for null and unchanged */
	const uint8_t *p;
};

struct tuple {
	uint16_t count;
	const struct value *value;
};

struct schema_column {
	const char *name;
	bool key;	   /* part of the replica identity */
	uint32_t type_oid; /* pg_type.oid in the core */
	int32_t typmod;	   /* -1: none */
};

/* How a column's values come, and what they become in a warehouse (design §4). */
enum land_kind {
	LAND_AS_IS = 'b',     /* a type of pg_catalog, or a domain over one */
	LAND_ENUM = 'e',      /* an enum or an array of one: as text */
	LAND_EXTENSION = 'x', /* a base type that is not PostgreSQL's own */
	LAND_BY_TEXT = 'o',   /* only its text form means anything elsewhere */
	LAND_UNKNOWN = '?',   /* the core knew the type no more when it was asked */
};

/* What the core's catalog says of a column, read when its RELATION came. */
struct schema_land {
	enum land_kind kind;
	const char *type; /* SQL name of the type that it lands as; "" where unknown */
	uint32_t
		element_oid; /* of an array: type of its elements there; 0: no array, or as it is */
	const char *missing; /* value of rows from before the column was added, NULL: none */
	uint16_t number; /* pg_attribute.attnum: tells a column from one dropped before; 0: gone */
};

/* The shape of a relation at one point of the stream. Immutable; same hash = same shape. */
struct schema {
	uint64_t hash; /* of everything below, see schema_hash() */
	uint32_t relation_oid;
	const char *nspname;
	const char *relname;
	char identity; /* replica identity: d default, n nothing, f full, i index */
	uint16_t count;
	const struct schema_column *column;
	/* Of a relation that is mirrored; NULL, or one for each column. */
	const struct schema_land *land;
	/*
	 * Which files hold its rows (set with land): another value means that it was rewritten.
	 * "": not known; behind a '~': of a later time, when it had other columns already.
	 */
	const char *files;
};

enum { TRUNCATE_CASCADE = 1, TRUNCATE_RESTART_IDENTITY = 2 };

struct change {
	enum change_kind kind;
	/*
	 * COMMIT: the commit's end LSN, the only position that orders, skips or
	 * resumes anything. BEGIN: the same transaction's commit LSN (start of
	 * its commit record). PROGRESS: the position reached. GAP: where the
	 * stream goes on, the position reached with it. Rows and messages: where
	 * the record lies, information only.
	 */
	struct lsn lsn;
	/* BEGIN and COMMIT */
	uint32_t xid;	   /* BEGIN only */
	int64_t commit_us; /* commit time, µs since 1970-01-01 UTC */
	/* INSERT, UPDATE, DELETE */
	const struct schema *schema;
	struct tuple new_row; /* INSERT, UPDATE */
	struct tuple old_row; /* UPDATE, DELETE: where old_kind is not 0 */
	char old_kind;	      /* 0 none, K key columns only, O whole old row */
	/* TRUNCATE */
	uint8_t truncate_flags; /* TRUNCATE_… */
	uint32_t truncated_count;
	const struct schema *const *truncated;
	/* MESSAGE */
	bool transactional;
	const char *prefix;
	struct slice content;
	/* GAP: everything up to here was in the spool, or is known to be applied */
	struct lsn gap_from;
};

/*
 * Content hash (xxh3, 64 bits) over everything else in s. Stable across versions:
 * FORMAT.md says over which bytes.
 */
uint64_t schema_hash(const struct schema *s);

/*
 * That something was received, without what: a transaction, or (xid 0) a
 * position behind one. Several come in the order of their ends.
 */
struct spool_memory {
	struct lsn since; /* no other transaction ends in (since, end] */
	struct lsn end;	  /* commit end LSN */
	uint32_t xid;	  /* 0: none ends here either */
	int64_t commit_us;
};

#endif
