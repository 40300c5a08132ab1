/*
 * gather: spool to batch. Guarantees: what a relation has by a sync
 * is not taken again; a change that no rule covers parks its relation or is an
 * error, never skipped; contents of messages are bounded and checked.
 */
#include "apply/stream/gather.h"

#include <inttypes.h>
#include <uthash.h>

#include "apply/stream/mirror_take.h"
#include "apply/stream/source.h"
#include "proto/base/failpoint.h"
#include "proto/base/metrics.h"

#define FENCE_RUN_ID_MAX 64

/* A rollup that a relation feeds. */
struct gather_target {
	uint16_t rollup;
	bool mapped;
	struct source_map map; /* filled when a row of it counts */
};

struct gather_relation {
	UT_hash_handle hh;
	uint64_t hash;
	uint16_t count;
	struct gather_target *target;
	struct mirror_route mirror;
};

int gather_open(struct gather *g, const struct settings *s, const struct landed_set *landed,
		struct mirror_set *mirrors, const struct ledger *ledger, struct rt_err *err)
{
	struct spool_identity id = {.system_id = ledger->system_id,
				    .timeline = ledger->timeline,
				    .pipeline = s->pipeline,
				    .slot = s->core.slot};
	*g = (struct gather){.settings = s, .landed = landed, .mirrors = mirrors};
	FAILPOINT(GATHER_OPEN);
	int rc = spool_reader_open(&g->reader, s->spool.dir, ledger->applied, s->apply.batch_bytes,
				   &id, err);
	if (rc == 0)
		spool_reader_fd(
			g->reader); /* before the first look, so that no write goes unnoticed */
	return rc;
}

void gather_close(struct gather *g)
{
	struct gather_relation *r, *next;
	HASH_ITER(hh, g->relations, r, next)
	{
		HASH_DEL(g->relations, r);
		free(r->target);
		free(r);
	}
	if (g->reader != NULL)
		spool_reader_close(g->reader);
	*g = (struct gather){0};
}

static void find_targets(const struct gather *g, const struct schema *s, struct gather_relation *r)
{
	for (int at = 0;
	     (at = landed_find_source(g->landed, (uint16_t)at, s->nspname, s->relname)) >= 0;
	     at++) {
		r->target = rt_realloc(r->target, (r->count + 1U) * sizeof(*r->target));
		r->target[r->count++] = (struct gather_target){.rollup = (uint16_t)at};
	}
}

static struct gather_relation *relation_of(struct gather *g, const struct schema *s)
{
	struct gather_relation *r;
	HASH_FIND(hh, g->relations, &s->hash, sizeof(s->hash), r);
	if (r == NULL) {
		r = rt_calloc(1, sizeof(*r));
		r->hash = s->hash;
		find_targets(g, s, r);
		HASH_ADD(hh, g->relations, hash, sizeof(r->hash), r);
	}
	return r;
}

/* A shape that its rollup cannot read is an error only where a row of it counts. */
static int map_relation(struct gather *g, struct gather_target *t, const struct schema *s,
			struct rt_err *err)
{
	if (t->mapped)
		return 0;
	int rc = source_map_columns(g->landed->item[t->rollup].rollup, s, &t->map, err);
	t->mapped = rc == 0;
	return rc;
}

/* Is the relation's part of the open transaction left to a sync, in the warehouse already by one, or left out? */
static bool is_passed(const struct gather *g, const struct batch *b, int rollup)
{
	const struct landed *l = &g->landed->item[rollup];
	const struct lsn end = b->transaction[b->transaction_count - 1].end;
	if (landed_is_parked(l, end))
		return true;
	const bool syncs = l->state == LANDED_SYNCING || l->state == LANDED_REBUILDING;
	return !g->rows_only && (syncs || lsn_le(end, l->sync_lsn));
}

/* The rollup's source is not what it was: from this transaction on it waits for a person. */
static void park(struct batch *b, int rollup, struct lsn lsn, const char *why)
{
	struct rt_err reason;
	rt_fail(&reason, ERR_PERMANENT, "LSN " LSN_FMT ": %s", LSN_ARGS(lsn), why);
	batch_park(b, (uint16_t)rollup, reason.msg);
}

static void park_changed(struct batch *b, int rollup, const struct change *c,
			 const struct schema *s, const char *what)
{
	struct rt_err why;
	rt_fail(&why, ERR_PERMANENT, "relation %s.%s: %s on an event table, which only grows",
		s->nspname, s->relname, what);
	park(b, rollup, c->lsn, why.msg);
}

/* What was committed in it is in no spool: all that came before is written, then tables are synced. */
static int stop_at_gap(struct gather *g, const struct change *c, struct rt_err *err)
{
	g->gap = c->lsn;
	return rt_fail(err, ERR_RETRY,
		       "the spool has a gap from " LSN_FMT " to " LSN_FMT
		       " (the slot was lost, or the warehouse was set back)",
		       LSN_ARGS(c->gap_from), LSN_ARGS(c->lsn));
}

static void take_event(struct gather *g, struct batch *b, struct gather_target *t,
		       const struct change *c)
{
	struct fold_event e;
	struct rt_err why;
	if (is_passed(g, b, t->rollup))
		return;
	if (c->kind != CHANGE_INSERT)
		park_changed(b, t->rollup, c, c->schema,
			     c->kind == CHANGE_UPDATE ? "UPDATE" : "DELETE");
	else if (map_relation(g, t, c->schema, &why) != 0 ||
		 source_read_row(g->landed->item[t->rollup].rollup, &t->map, &c->new_row, &b->arena,
				 &e, &why) != 0)
		park(b, t->rollup, c->lsn, why.msg);
	else
		batch_add_event(b, t->rollup, &e);
}

static void take_row(struct gather *g, struct batch *b, const struct change *c)
{
	struct gather_relation *r = relation_of(g, c->schema);
	mirror_take(g->mirrors, g->settings, &r->mirror, b, c, 0);
	for (uint16_t i = 0; i < r->count; i++)
		take_event(g, b, &r->target[i], c);
}

static void take_truncate(struct gather *g, struct batch *b, const struct change *c)
{
	for (uint32_t i = 0; i < c->truncated_count; i++) {
		const struct schema *s = c->truncated[i];
		struct gather_relation *r = relation_of(g, s);
		mirror_take(g->mirrors, g->settings, &r->mirror, b, c, i);
		for (uint16_t t = 0; t < r->count; t++)
			if (!is_passed(g, b, r->target[t].rollup))
				park_changed(b, r->target[t].rollup, c, s, "TRUNCATE");
	}
}

/* "1 <µs since 1970>": version, and when the core's clock said so. */
static void take_heartbeat(struct batch *b, struct slice content)
{
	char text[40];
	int64_t us = 0;
	if (content.len >= sizeof(text))
		return;
	memcpy(text, content.p, content.len);
	text[content.len] = '\0';
	/* NOLINTNEXTLINE(cert-err34-c): glibc saturates, and any number will do */
	if (sscanf(text, "1 %" SCNd64, &us) == 1 && us > b->heartbeat_us)
		b->heartbeat_us = us;
}

static bool is_run_id(struct slice s)
{
	for (size_t i = 0; i < s.len; i++)
		if (strchr("0123456789abcdefABCDEF-", s.p[i]) == NULL || s.p[i] == '\0')
			return false;
	return s.len > 0 && s.len <= FENCE_RUN_ID_MAX;
}

static void take_message(struct batch *b, const struct change *c)
{
	if (strcmp(c->prefix, "rolag.heartbeat") == 0)
		take_heartbeat(b, c->content);
	else if (strcmp(c->prefix, "rolag.fence") == 0 && c->transactional && is_run_id(c->content))
		batch_add_fence(b, c->content);
	else if (strcmp(c->prefix, "rolag.sync") != 0) /* that one only moves the position */
		met_add(MET_MESSAGES_DROPPED, 1);
}

static int take(struct gather *g, struct batch *b, const struct change *c, struct rt_err *err)
{
	switch (c->kind) {
	case CHANGE_BEGIN:
		batch_begin(b, spool_reader_transaction_end(g->reader), c->commit_us);
		FAILPOINT(GATHER_BEGIN);
		return 0;
	case CHANGE_COMMIT:
		FAILPOINT(GATHER_COMMIT);
		batch_commit(b);
		return 0;
	case CHANGE_INSERT:
	case CHANGE_UPDATE:
	case CHANGE_DELETE:
		FAILPOINT(GATHER_ROW);
		take_row(g, b, c);
		return 0;
	case CHANGE_TRUNCATE:
		take_truncate(g, b, c);
		return 0;
	case CHANGE_MESSAGE:
		if (b->open && !g->rows_only)
			take_message(b, c);
		return 0;
	case CHANGE_PROGRESS:
		FAILPOINT(GATHER_PROGRESS);
		b->end = lsn_max(b->end, c->lsn);
		return 0;
	case CHANGE_GAP:
		return stop_at_gap(g, c, err);
	}
	return rt_fail(err, ERR_PERMANENT, "the spool holds a change of unknown kind %d", c->kind);
}

/* The reader failed: was it a timeline's end? Then it is no error for good. */
static void note_timeline(struct gather *g, struct rt_err *err)
{
	g->next_timeline = spool_reader_next_timeline(g->reader, &g->next_timeline_start);
	if (g->next_timeline != 0)
		err->code = ERR_RETRY;
}

void gather_open_rows(struct gather *g, const struct settings *s, const struct landed_set *landed,
		      struct mirror_set *mirrors)
{
	*g = (struct gather){
		.settings = s, .landed = landed, .mirrors = mirrors, .rows_only = true};
}

void gather_take(struct gather *g, struct batch *b, const struct change *c)
{
	take_row(g, b, c);
}

bool gather_is_full(const struct gather *g, const struct batch *b)
{
	const struct settings *s = g->settings;
	return b->event_count + b->mirrors.count >= s->apply.batch_rows ||
	       b->bytes + b->mirrors.bytes >= s->apply.batch_bytes ||
	       b->arena.used_bytes >= 4 * s->apply.batch_bytes;
}

struct lsn gather_position(const struct gather *g, const struct batch *b)
{
	return b->open ? b->transaction[b->transaction_count - 1].end
		       : spool_reader_position(g->reader);
}

enum gather_result gather_turn(struct gather *g, struct batch *b, uint32_t max_changes,
			       struct rt_err *err)
{
	g->drained = false;
	for (uint32_t n = 0; n < max_changes; n++) {
		struct change c;
		if (gather_is_full(g, b))
			return GATHER_FULL;
		int rc = FP_ERROR(GATHER_NEXT, err);
		if (rc == 0)
			rc = spool_reader_next(g->reader, &b->arena, &c, err);
		if (rc == 0) {
			g->drained = true;
			return GATHER_EMPTY;
		}
		if (rc > 0)
			rc = take(g, b, &c, err);
		else
			note_timeline(g, err);
		if (rc < 0) {
			if (b->open)
				batch_cut_open(b);
			return GATHER_FAILED;
		}
	}
	return GATHER_SOME;
}
