/*
 * verify_run: what the files of verify share: a run over rollups, the core's
 * rows of one, entities to be compared surely. For verify*.c alone.
 */
#ifndef APPLY_STREAM_VERIFY_RUN_H
#define APPLY_STREAM_VERIFY_RUN_H

#include "apply/stream/verify.h"
#include "apply/stream/verify_rows.h"
#include "apply/stream/verify_triggers.h"

/* Rows of a chunk of the quick pass: one statement, one snapshot, on either end. */
#define VERIFY_CHUNK_ROWS INT64_C(50000)
/* Entities compared surely behind one fence. */
#define VERIFY_BATCH_ENTITIES 500

/* An entity to be compared surely. */
struct verify_suspect {
	struct slice id;  /* in v->ids */
	int32_t core_has; /* greatest sequence before the fence; 0: none */
	int32_t parked_from; /* versions from here on wait in quarantine, or rest on what was skipped */
	int32_t extra_up_to; /* second look: rows up to this may be too many */
	bool looks_again;    /* it had rows that the core did not show */
	bool differs;	     /* and other findings */
};

struct verify {
	struct verify_options o;
	/* The quick pass reads by three connections, the sure one by two of its own. */
	PGconn *core, *history, *latest, *core_sure, *warehouse_sure;
	struct arena ids;
	struct verify_suspect suspect[VERIFY_BATCH_ENTITIES];
	size_t suspect_count;
	const struct landed *l;		 /* the rollup at hand */
	struct verify_triggers triggers; /* the core's own table of it, where o.against_triggers */
	struct verify_count *count;
	const char *id_text; /* of the entity at hand */
	uint64_t entity_findings;
	bool on_latest;	   /* findings are of the latest row */
	int32_t version;   /* of the row whose columns are told */
	bool parks;	   /* entities of the rollup at hand are in quarantine */
	bool passed;	   /* apply was seen to keep up */
	bool quick;	   /* the quick pass counts the rows, the sure comparison does not */
	bool only_unknown; /* passes over entities that the core has events of */
};

/* ---- verify_core.c: the core's rows, folded from events, or of its own rollup table ---- */

struct verify_core {
	bool folds;
	struct refold events;
	struct landed_reader table;
};

int verify_core_open(struct verify *v, struct verify_core *r, PGconn *core,
		     struct rt_err *err) RT_MUSTCHECK;
void verify_core_close(struct verify_core *r);
/* Begins with all entities, or with one; the next row as of refold_next. */
void verify_core_all(struct verify_core *r);
int verify_core_entity(struct verify_core *r, struct slice id, struct rt_err *err) RT_MUSTCHECK;
int verify_core_next(struct verify_core *r, const struct fold_row **ret,
		     struct rt_err *err) RT_MUSTCHECK;
/* Appends table and columns, quoted, by which the core's rows of an entity are found. */
void verify_core_table(const struct verify *v, struct buf *table, struct buf *id,
		       struct buf *version);

/* A copy of a row that outlives its reader's next call. */
struct verify_kept {
	struct fold_row row;
	bool there;
	struct buf id, event_type, columns;
};

void verify_keep_row(struct verify_kept *k, const struct fold_row *row);
void verify_release_row(struct verify_kept *k);

/* ---- verify_judge.c: entities compared surely ---- */

/* The entity is to be compared surely (may judge those that wait, to make room); id is copied. */
int verify_suspect(struct verify *v, struct slice id, struct rt_err *err) RT_MUSTCHECK;
/* Compares all that wait, and tells what is found. */
int verify_judge(struct verify *v, struct rt_err *err) RT_MUSTCHECK;

/* ---- verify_all.c ---- */

/* All rows, both ends streamed side by side (verify_id_has_order). */
int verify_all(struct verify *v, struct rt_err *err) RT_MUSTCHECK;

/* ---- verify_list.c ---- */

/* All entities, where the two ends order them differently. */
int verify_listed(struct verify *v, struct rt_err *err) RT_MUSTCHECK;
/* Some entities, by v->o.sample. */
int verify_sample(struct verify *v, struct rt_err *err) RT_MUSTCHECK;

#endif
