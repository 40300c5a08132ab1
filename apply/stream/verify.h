/*
 * verify: are the rows of a rollup in the warehouse those that the core's
 * events fold to? While everything runs (design §5, §9).
 *
 * The sure comparison is that of one entity: the core is asked how many
 * events it has, a fence is passed, and then what the warehouse does not hold
 * of them is missing; a row that the core has no event for is one too many
 * only when the core, after every transaction that was open then has ended,
 * still shows none (trap 60). All rows are first compared quickly, both ends
 * streamed side by side; only entities that look different there are compared
 * surely. So a difference that is reported is one, and memory is bounded.
 *
 * What is in quarantine is known to be missing: such an entity is compared up
 * to its first version there, and counted.
 *
 * Reads only, but for fences. Compared is every column but _lsn and
 * _committed_at, and the latest row with the last one of history.
 */
#ifndef APPLY_STREAM_VERIFY_H
#define APPLY_STREAM_VERIFY_H

#include "apply/stream/landed.h"
#include "proto/base/loop.h"

enum verify_kind {
	VERIFY_MISSING,	   /* the core's events make this row, the warehouse does not hold it */
	VERIFY_EXTRA,	   /* the warehouse holds a row that no event makes */
	VERIFY_DIFFERS,	   /* a column differs */
	VERIFY_UNFOLDABLE, /* an event of the core folds to nothing; reason says why */
};

/* One difference; all strings are borrowed for the call. */
struct verify_finding {
	enum verify_kind kind;
	const char *relation; /* the landed table's name, without schema */
	const char *id;
	int32_t version;
	const char *key; /* of a mirror, in place of id and version; NULL: of a rollup, or none */
	const char *column; /* VERIFY_DIFFERS */
	const char *reason; /* VERIFY_UNFOLDABLE, and of a mirror without key */
};

struct verify_options {
	const struct settings *settings;
	struct loop *loop; /* or NULL: what ends it early (ERR_RETRY) */
	bool against_triggers; /* the core's rows are those of its own rollup tables, not of its events */
	int64_t sample;	       /* entities (of a mirror: rows) of each table, about; 0: all */
	int64_t patience_us; /* for apply to get on, and for old transactions of the core */
	void (*found)(void *ctx, const struct verify_finding *f);
	/*
	 * An entity with findings, after them (it may come twice). extra_up_to:
	 * its rows up to there for which the core has no event are proven to be
	 * too many.
	 */
	void (*found_entity)(void *ctx, const struct landed *l, const char *id,
			     int32_t extra_up_to);
	/* Called now and then, while rows are compared (the count given has how many); may be NULL. */
	void (*progress)(void *ctx);
	/* Something to know, of a rollup; may be NULL. */
	void (*note)(void *ctx, const char *relation, const char *text);
	void *ctx;
};

struct verify_count {
	uint64_t core_rows, warehouse_rows, latest_rows; /* compared */
	uint64_t entities;				 /* compared one by one */
	uint64_t differences;				 /* findings told */
	uint64_t differing_entities;			 /* … of so many entities */
	uint64_t parked;    /* entities in quarantine: compared up to the version that waits */
	uint64_t undecided; /* entities with rows too many, or yet to be shown by the core */
};

struct verify;

/* Connects to both ends. */
int verify_open(struct verify **ret, const struct verify_options *o,
		struct rt_err *err) RT_MUSTCHECK;
void verify_close(struct verify *v);
/*
 * Compares one rollup; *ret is added to. 1: there is nothing to compare with
 * (against_triggers, and the core has no such table). ERR_PERMANENT when it is
 * not live, or was made by another definition.
 */
int verify_rollup(struct verify *v, const struct landed *l, struct verify_count *ret,
		  struct rt_err *err) RT_MUSTCHECK;

/* Compares the entities whose ids (as text) are given; ERR_PERMANENT also where one is not an id. */
int verify_entities(struct verify *v, const struct landed *l, size_t count, const char *const *id,
		    struct verify_count *ret, struct rt_err *err) RT_MUSTCHECK;
/* Passes a fence: apply sees what was asked of it, and the warehouse holds what was committed before. */
int verify_pass(struct verify *v, struct rt_err *err) RT_MUSTCHECK;
/* The connection for single questions to the warehouse; no transaction is open on it. */
PGconn *verify_warehouse(struct verify *v);

/* A row more of the core is counted; tells progress of one in 256. */
static inline void verify_count_core(const struct verify_options *o, struct verify_count *count)
{
	if ((++count->core_rows & 0xff) == 0 && o->progress != NULL)
		o->progress(o->ctx);
}

/* New sessions as verify uses them: index order without a sort, read only on the core. */
int verify_connect_core(const struct verify_options *o, PGconn **ret,
			struct rt_err *err) RT_MUSTCHECK;
int verify_connect_warehouse(const struct verify_options *o, PGconn **ret,
			     struct rt_err *err) RT_MUSTCHECK;

/* "missing", "extra", "differs", "unfoldable" (static): stable names. */
const char *verify_kind_name(enum verify_kind kind);

#endif
