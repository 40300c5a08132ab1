/*
 * source: rows of event tables, as the stream or a query brings them (text or
 * binary), into fold events.
 */
#ifndef APPLY_STREAM_SOURCE_H
#define APPLY_STREAM_SOURCE_H

#include "proto/base/arena.h"
#include "proto/change.h"
#include "transforms/rollup/fold.h"

/* Where an event's parts stand in a row: column numbers from 0 and types. */
struct source_map {
	uint16_t id, sequence, event_type, event, recorded_at;
	uint32_t id_oid, sequence_oid, event_type_oid, event_oid, recorded_at_oid;
};

/*
 * Finds the rollup's source columns in a relation. ERR_PERMANENT naming the
 * column that is missing or whose type does not fit (id as id_type; sequence
 * int2/int4/int8; event_type text or varchar; event jsonb or json;
 * recorded_at timestamptz).
 */
int source_map_columns(const struct rollup *r, const struct schema *s, struct source_map *ret,
		       struct rt_err *err) RT_MUSTCHECK;
/*
 * Reads one row. What must be converted is put into the arena; the rest is
 * borrowed from the row. ERR_PERMANENT naming the relation and column (and
 * entity and sequence where they are known) when a value is NULL or invalid.
 */
int source_read_row(const struct rollup *r, const struct source_map *m, const struct tuple *row,
		    struct arena *a, struct fold_event *ret, struct rt_err *err) RT_MUSTCHECK;
/* The id as text, for messages and `story`; in the arena. */
const char *source_id_text(const struct rollup *r, struct slice id, struct arena *a);

#endif
