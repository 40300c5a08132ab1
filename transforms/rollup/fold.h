/*
 * fold: one event and the entity's previous row give its next row. Pure: the
 * same inputs give the same bytes.
 *
 * A row's declared columns are kept in the form in which COPY BINARY takes
 * them (PostgreSQL manual, COPY, "Binary Format"): per column an int32 length
 * (-1 = NULL) and the type's send format. So a state goes to the warehouse
 * and comes back from it without a conversion.
 */
#ifndef TRANSFORMS_ROLLUP_FOLD_H
#define TRANSFORMS_ROLLUP_FOLD_H

#include "proto/base/arena.h"
#include "proto/base/buf.h"
#include "proto/base/rt.h"
#include "transforms/rollup/definition.h"

struct fold_event {
	struct slice id; /* send format of rollup->id_type */
	int32_t sequence;
	struct slice event_type; /* text */
	struct slice payload;	 /* canonical JSON text (jsonb's output) */
	int64_t recorded_at_us;	 /* µs since 2000-01-01 UTC, as timestamptz sends it */
};

/* One version of one entity. Slices are borrowed from whoever made the row. */
struct fold_row {
	struct slice id;
	int32_t version;
	int64_t created_at_us, modified_at_us; /* µs since 2000-01-01 UTC */
	struct slice event_type;
	struct slice columns; /* rollup->column_count fields as described above */
};

enum fold_result {
	FOLD_OK = 0,	    /* *ret_columns was appended */
	FOLD_DUPLICATE,	    /* sequence ≤ version: drop and count */
	FOLD_GAP,	    /* sequence > version + 1 */
	FOLD_UNKNOWN_EVENT, /* event type not listed, or payload not an object */
	FOLD_MISSING_KEY, /* a required key is absent, or of a JSON kind that its column cannot take */
	FOLD_BAD_VALUE, /* a cast failed, out of range, list over its max, a sequence below 1 */
	FOLD_IGNORED, /* unknown event under policy `ignore`: the version row repeats the columns of prev */
	FOLD_UNKNOWN_KEY, /* a key not listed for this event, under policy `fail` or `quarantine` */
};

/*
 * What a fold wants to say beside its result. err (reason) is set for every
 * result above FOLD_DUPLICATE but FOLD_IGNORED.
 */
struct fold_note {
	uint32_t unknown_keys; /* payload keys not listed for this event; 0 under `ignore` */
	const char *unknown_key_event; /* rollup_event.name, for the first of them */
	char unknown_key[64];	       /* the first of them, cut to fit */
};

/* "unknown_event", "missing_key", … for reasons in tables and metrics (static). */
const char *fold_result_name(enum fold_result result);

/*
 * Folds e onto prev (NULL: none yet; only sequence 1 fits). On FOLD_OK and
 * FOLD_IGNORED fills *ret: its columns are new memory of the arena, its id and
 * event_type are borrowed from e. On any other result *ret is untouched. *note
 * is always filled.
 *
 * The payload must be jsonb's own output (canonical); anything else is read
 * safely but may be refused. Policies: whatever unknown_event and gap say but
 * `ignore`, the result names what is wrong (fold_policy says what is to be
 * done about it); unknown_key DEFAULT stands for warn. A missing key is never
 * ignored, whatever unknown_event says: that policy's `ignore` is for events.
 *
 * The reason in *err names rollup, entity id, sequence, event type, key and
 * column as far as they apply; never a value.
 */
enum fold_result fold_apply(const struct rollup *r, const struct fold_row *prev,
			    const struct fold_event *e, struct arena *a, struct fold_row *ret,
			    struct fold_note *note, struct rt_err *err);

/*
 * What the rollup wants done about a result: POLICY_FAIL, POLICY_QUARANTINE,
 * or (of FOLD_GAP) POLICY_REPAIR; POLICY_IGNORE for a result that is none of
 * these. Where a policy is the configuration's and was not set: quarantine.
 */
enum rollup_policy fold_policy(const struct rollup *r, enum fold_result result);
/*
 * fold_apply for an event that somebody decided to pass (`rolag quarantine
 * skip`), whatever is wrong with it: events missing before it are taken as
 * such (its version is its sequence all the same), and where it cannot be
 * folded, its version repeats the columns of prev. FOLD_OK, FOLD_IGNORED or
 * FOLD_DUPLICATE.
 */
enum fold_result fold_accept(const struct rollup *r, const struct fold_row *prev,
			     const struct fold_event *e, struct arena *a, struct fold_row *ret,
			     struct fold_note *note);

/* Appends the columns of an entity before its first event (every reducer's start). */
void fold_initial_columns(const struct rollup *r, struct buf *out);
/* Checks that columns has exactly the fields of r, each valid for its type (rows that came from a warehouse). */
bool fold_columns_valid(const struct rollup *r, struct slice columns) RT_MUSTCHECK;
/* The i-th field of columns; p == NULL for NULL. columns must be valid. */
struct slice fold_column(struct slice columns, uint16_t i);

#endif
