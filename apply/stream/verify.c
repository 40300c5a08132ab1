/*
 * verify: the quick pass over all rows, and the sure comparison of entities.
 * Guarantees: no session is idle in a transaction, nothing but a fence is
 * written on the core, and no value leaves this file.
 */
#include "apply/stream/verify.h"

#include <inttypes.h>

#include "apply/stream/verify_compare.h"
#include "apply/stream/verify_fence.h"
#include "apply/stream/verify_rows.h"
#include "apply/stream/verify_triggers.h"
#include "proto/pg/pgconn.h"

/* Rows of a chunk of the quick pass: one statement, one snapshot, on either end. */
#define CHUNK_ROWS INT64_C(50000)
/* Entities compared surely behind one fence. */
#define BATCH_ENTITIES 500
/* Ids listed at a time where the two ends order them differently. */
#define LIST_IDS INT64_C(2000)

/* An entity to be compared surely. */
struct suspect {
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
	struct suspect suspect[BATCH_ENTITIES];
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

const char *verify_kind_name(enum verify_kind kind)
{
	static const char *const names[] = {"missing", "extra", "differs", "unfoldable"};
	return names[kind];
}

/* ---- connections ---- */

/* Index order without a sort (the core writes no temporary files for us), and no JIT where that looks dear. */
static int connect_to(const struct verify_options *v, const char *what, const char *conninfo,
		      const char *more, PGconn **ret, struct rt_err *err)
{
	struct pgc_options o = {.what = what,
				.conninfo = conninfo,
				.application_name = "rolag verify",
				.loop = v->loop};
	int rc = pgc_connect(ret, &o, err);
	if (rc != 0)
		return rc;
	return pgc_exec(*ret, NULL, err,
			"SET enable_sort = off; SET enable_seqscan = off; SET jit = off; "
			"SET statement_timeout = 0; "
			"SET idle_in_transaction_session_timeout = '60s'; %s",
			more);
}

int verify_connect_core(const struct verify_options *o, PGconn **ret, struct rt_err *err)
{
	return connect_to(o, "core", o->settings->core.connect,
			  "SET default_transaction_read_only = on; SET lock_timeout = '10s'; "
			  /* A fence needs no standby: the stream has it all the same. */
			  "SET synchronous_commit = local",
			  ret, err);
}

int verify_connect_warehouse(const struct verify_options *o, PGconn **ret, struct rt_err *err)
{
	return connect_to(o, "warehouse", o->settings->warehouse.connect, "", ret, err);
}

int verify_open(struct verify **ret, const struct verify_options *o, struct rt_err *err)
{
	struct verify *v = rt_calloc(1, sizeof(*v));
	v->o = *o;
	arena_init(&v->ids, 65536);
	int rc = verify_connect_core(o, &v->core_sure, err);
	if (rc == 0)
		rc = verify_connect_warehouse(o, &v->warehouse_sure, err);
	if (rc == 0 && o->sample == 0) {
		rc = verify_connect_core(o, &v->core, err);
		if (rc == 0)
			rc = verify_connect_warehouse(o, &v->history, err);
		if (rc == 0)
			rc = verify_connect_warehouse(o, &v->latest, err);
	}
	if (rc != 0) {
		verify_close(v);
		return rc;
	}
	*ret = v;
	return 0;
}

void verify_close(struct verify *v)
{
	if (v == NULL)
		return;
	PGconn *c[] = {v->core, v->history, v->latest, v->core_sure, v->warehouse_sure};
	for (size_t i = 0; i < ARRAY_LEN(c); i++)
		pgc_close(c[i]);
	arena_release(&v->ids);
	free(v);
}

/* ---- telling ---- */

static void tell(struct verify *v, enum verify_kind kind, int32_t version, const char *column,
		 const char *reason)
{
	char latest[80];
	snprintf(latest, sizeof(latest), "%s_latest", v->l->rollup->name);
	struct verify_finding f = {.kind = kind,
				   .relation = v->on_latest ? latest : v->l->rollup->name,
				   .id = v->id_text,
				   .version = version,
				   .column = column,
				   .reason = reason};
	v->count->differences++;
	v->entity_findings++;
	if (v->o.found != NULL)
		v->o.found(v->o.ctx, &f);
}

static void tell_column(void *ctx, const char *column)
{
	struct verify *v = ctx;
	tell(v, VERIFY_DIFFERS, v->version, column, NULL);
}

static void tell_columns(struct verify *v, const struct fold_row *core, const struct fold_row *here)
{
	v->version = here->version;
	verify_columns(v->l->rollup, core, here, tell_column, v);
}

/* ---- the core's rows: folded from events, or of its own rollup table ---- */

struct core_reader {
	bool folds;
	struct refold events;
	struct landed_reader table;
};

static int core_open(struct verify *v, struct core_reader *r, PGconn *core, struct rt_err *err)
{
	*r = (struct core_reader){.folds = !v->o.against_triggers};
	if (r->folds)
		return refold_open(&r->events, core, v->l->rollup, CHUNK_ROWS, err);
	landed_reader_open(&r->table, core, v->l, false, CHUNK_ROWS);
	r->table.select = v->triggers.select;
	return 0;
}

static void core_close(struct core_reader *r)
{
	if (r->folds)
		refold_close(&r->events);
	else
		landed_reader_close(&r->table);
}

static void core_all(struct core_reader *r)
{
	if (r->folds)
		refold_all(&r->events);
	else
		landed_reader_all(&r->table);
}

static int core_entity(struct core_reader *r, struct slice id, struct rt_err *err)
{
	return r->folds ? refold_entity(&r->events, id, err)
			: landed_reader_entity(&r->table, id, err);
}

static int core_next(struct core_reader *r, const struct fold_row **ret, struct rt_err *err)
{
	return r->folds ? refold_next(&r->events, ret, err)
			: landed_reader_next(&r->table, ret, err);
}

/* Table and columns by which the core's rows of an entity are found. */
static void core_table(const struct verify *v, struct buf *table, struct buf *id,
		       struct buf *version)
{
	const struct rollup *r = v->l->rollup;
	if (v->o.against_triggers) {
		buf_str(table, v->triggers.there);
		buf_str(id, "id");
		buf_str(version, "version");
		return;
	}
	pgc_ident(table, r->source_schema);
	buf_u8(table, '.');
	pgc_ident(table, r->source_table);
	pgc_ident(id, r->source_column.id);
	pgc_ident(version, r->source_column.sequence);
}

/* ---- the sure comparison of one entity ---- */

/* A copy of a row that outlives its reader's next call. */
struct kept_row {
	struct fold_row row;
	bool there;
	struct buf id, event_type, columns;
};

static void keep_slice(struct buf *b, struct slice *s)
{
	buf_clear(b);
	buf_add_slice(b, *s);
	*s = buf_slice(b);
}

static void keep_row(struct kept_row *k, const struct fold_row *row)
{
	k->row = *row;
	k->there = true;
	keep_slice(&k->id, &k->row.id);
	keep_slice(&k->event_type, &k->row.event_type);
	keep_slice(&k->columns, &k->row.columns);
}

static void release_row(struct kept_row *k)
{
	buf_release(&k->id);
	buf_release(&k->event_type);
	buf_release(&k->columns);
}

/* Both ends of one entity, read side by side. */
struct pair {
	struct core_reader *core;
	struct landed_reader *here;
	const struct fold_row *a, *b; /* next of either; NULL: no more */
	struct kept_row last;	      /* of the warehouse's history */
};

/* The entity's rows that are left are not compared. */
static int core_rest(struct core_reader *r, struct rt_err *err)
{
	const struct fold_row *row;
	int rc;
	while ((rc = core_next(r, &row, err)) > VERIFY_END)
		;
	return rc;
}

static int next_core(struct verify *v, struct pair *p, const struct suspect *s, struct rt_err *err)
{
	const struct fold_row *row;
	int rc;
	p->a = NULL;
	while ((rc = core_next(p->core, &row, err)) == VERIFY_STUCK)
		if (!s->looks_again && row->version <= s->core_has && row->version < s->parked_from)
			tell(v, VERIFY_UNFOLDABLE, row->version, NULL, p->core->events.reason);
	if (rc == VERIFY_ROW && row->version < s->parked_from)
		p->a = row;
	else if (rc == VERIFY_ROW)
		return core_rest(p->core, err);
	return RT_MIN(rc, 0);
}

static int next_here(struct pair *p, struct rt_err *err)
{
	const struct fold_row *row;
	p->b = NULL;
	int rc = landed_reader_next(p->here, &row, err);
	if (rc == VERIFY_ROW) {
		p->b = row;
		keep_row(&p->last, row);
	}
	return RT_MIN(rc, 0);
}

static void count_row(const struct verify *v, bool counts, uint64_t *counter)
{
	*counter += counts && !v->quick;
}

/* One step of the merge by version. */
static int step(struct verify *v, struct pair *p, struct suspect *s, struct rt_err *err)
{
	bool first = !s->looks_again;
	if (p->b == NULL || (p->a != NULL && p->a->version < p->b->version)) {
		if (first && p->a->version <= s->core_has)
			tell(v, VERIFY_MISSING, p->a->version, NULL, NULL);
		count_row(v, first && p->a->version <= s->core_has, &v->count->core_rows);
		return next_core(v, p, s, err);
	}
	if (p->b->version >= s->parked_from)
		return next_here(p, err);
	count_row(v, first, &v->count->warehouse_rows);
	if (p->a == NULL || p->b->version < p->a->version) {
		if (first)
			s->extra_up_to =
				p->b->version; /* told when the core has been asked again */
		else if (p->b->version <= s->extra_up_to)
			tell(v, VERIFY_EXTRA, p->b->version, NULL, NULL);
		return next_here(p, err);
	}
	count_row(v, first, &v->count->core_rows);
	if (first && !verify_equal(p->a, p->b))
		tell_columns(v, p->a, p->b);
	int rc = next_core(v, p, s, err);
	return rc != 0 ? rc : next_here(p, err);
}

/* The latest row against the last one of history, of the same snapshot. */
static int compare_latest(struct verify *v, struct pair *p, const struct suspect *s,
			  struct rt_err *err)
{
	const struct fold_row *row;
	struct landed_reader latest;
	landed_reader_open(&latest, v->warehouse_sure, v->l, true, CHUNK_ROWS);
	int rc = landed_reader_entity(&latest, s->id, err);
	if (rc == 0)
		rc = landed_reader_next(&latest, &row, err);
	v->on_latest = true;
	if (rc == VERIFY_ROW) {
		count_row(v, true, &v->count->latest_rows);
		if (!p->last.there)
			tell(v, VERIFY_EXTRA, row->version, NULL, NULL);
		else if (!verify_equal(&p->last.row, row))
			tell_columns(v, &p->last.row, row);
	} else if (rc == VERIFY_END && p->last.there) {
		tell(v, VERIFY_MISSING, p->last.row.version, NULL, NULL);
	}
	v->on_latest = false;
	const struct fold_row *none;
	while (rc == VERIFY_ROW)
		rc = landed_reader_next(&latest, &none, err);
	landed_reader_close(&latest);
	return RT_MIN(rc, 0);
}

static int compare_entity(struct verify *v, struct core_reader *core, struct landed_reader *here,
			  struct suspect *s, struct rt_err *err)
{
	struct pair p = {.core = core, .here = here};
	struct arena text;
	arena_init(&text, 256);
	v->id_text = source_id_text(v->l->rollup, s->id, &text);
	v->entity_findings = 0;
	int rc = pgc_exec(v->warehouse_sure, NULL, err,
			  "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY");
	if (rc == 0)
		rc = core_entity(core, s->id, err);
	if (rc == 0)
		rc = landed_reader_entity(here, s->id, err);
	if (rc == 0)
		rc = next_core(v, &p, s, err);
	if (rc == 0)
		rc = next_here(&p, err);
	while (rc == 0 && (p.a != NULL || p.b != NULL))
		rc = step(v, &p, s, err);
	if (rc == 0 && !s->looks_again && !v->o.against_triggers)
		rc = compare_latest(v, &p, s, err);
	if (rc == 0)
		rc = pgc_exec(v->warehouse_sure, NULL, err, "COMMIT");
	if (rc == 0 && !s->looks_again)
		v->count->entities++;
	if (v->entity_findings > 0) {
		v->count->differing_entities += !s->differs;
		s->differs = true;
		if (v->o.found_entity != NULL)
			v->o.found_entity(v->o.ctx, v->l, v->id_text,
					  s->looks_again ? s->extra_up_to : 0);
	}
	release_row(&p.last);
	arena_release(&text);
	return rc;
}

/* ---- the sure comparison of a batch of entities ---- */

static int ask_core(struct verify *v, struct suspect *s, struct rt_err *err)
{
	struct buf sql = BUF_INIT, table = BUF_INIT, id = BUF_INIT, version = BUF_INIT;
	PGresult *res;
	core_table(v, &table, &id, &version);
	buf_printf(&sql, "SELECT max(%s) FROM %s WHERE %s = ", buf_cstr(&version), buf_cstr(&table),
		   buf_cstr(&id));
	verify_id_literal(v->l->rollup, s->id, &sql);
	int rc = pgc_exec(v->core_sure, &res, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	buf_release(&table);
	buf_release(&id);
	buf_release(&version);
	if (rc != 0)
		return rc;
	s->core_has = (int32_t)strtol(PQgetvalue(res, 0, 0), NULL, 10);
	PQclear(res);
	return 0;
}

/* Is any entity of the rollup in quarantine? (A control schema of before it has no such table.) */
static int look_for_parked(struct verify *v, struct rt_err *err)
{
	const char *params[] = {v->o.settings->pipeline, v->l->rollup->name};
	PGresult *res;
	int rc = pgc_exec(v->warehouse_sure, &res, err,
			  "SELECT to_regclass('rolag.quarantine') IS NOT NULL");
	if (rc != 0)
		return rc;
	v->parks = PQgetvalue(res, 0, 0)[0] == 't';
	PQclear(res);
	if (!v->parks)
		return 0;
	rc = pgc_query(v->warehouse_sure, &res, err,
		       "SELECT EXISTS (SELECT FROM rolag.quarantine WHERE pipeline = $1 AND rollup "
		       "= $2)",
		       2, params);
	if (rc != 0)
		return rc;
	v->parks = PQgetvalue(res, 0, 0)[0] == 't';
	PQclear(res);
	return 0;
}

/* From which version on the entity is in quarantine, behind the fence. */
static int ask_parked(struct verify *v, struct suspect *s, struct rt_err *err)
{
	struct buf id = BUF_INIT;
	PGresult *res;
	s->parked_from = INT32_MAX;
	if (!v->parks)
		return 0;
	int rc = pgt_to_text((struct pgt_type){v->l->rollup->id_type, false}, s->id, &id, err);
	const char *params[] = {v->o.settings->pipeline, v->l->rollup->name, buf_cstr(&id)};
	if (rc == 0)
		rc = pgc_query(v->warehouse_sure, &res, err,
			       "SELECT min(sequence) FROM rolag.quarantine WHERE pipeline = $1 AND "
			       "rollup = $2 AND id = $3",
			       3, params);
	buf_release(&id);
	if (rc != 0)
		return rc;
	if (!PQgetisnull(res, 0, 0)) {
		s->parked_from = (int32_t)strtol(PQgetvalue(res, 0, 0), NULL, 10);
		v->count->parked += !s->looks_again;
	}
	PQclear(res);
	return 0;
}

static int compare_batch(struct verify *v, struct verify_fence *fence, struct rt_err *err)
{
	struct core_reader core;
	struct landed_reader here;
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < v->suspect_count; i++)
		rc = ask_core(v, &v->suspect[i], err);
	if (rc == 0)
		rc = verify_fence_pass(v->core_sure, v->warehouse_sure, v->o.settings, v->o.loop,
				       v->o.patience_us, fence, err);
	if (rc == 0)
		rc = look_for_parked(v, err);
	for (size_t i = 0; rc == 0 && i < v->suspect_count; i++)
		rc = ask_parked(v, &v->suspect[i], err);
	if (rc != 0)
		return rc;
	rc = core_open(v, &core, v->core_sure, err);
	landed_reader_open(&here, v->warehouse_sure, v->l, false, CHUNK_ROWS);
	for (size_t i = 0; rc == 0 && i < v->suspect_count; i++)
		if (!v->only_unknown || v->suspect[i].core_has == 0)
			rc = compare_entity(v, &core, &here, &v->suspect[i], err);
	core_close(&core);
	landed_reader_close(&here);
	return rc;
}

/* Keeps those whose rows the core did not show all; asks again when it must show them. */
static int look_again(struct verify *v, struct rt_err *err)
{
	struct verify_fence fence;
	size_t n = 0;
	bool all;
	for (size_t i = 0; i < v->suspect_count; i++) {
		if (v->suspect[i].extra_up_to == 0)
			continue;
		v->suspect[n] = v->suspect[i];
		v->suspect[n++].looks_again = true;
	}
	v->suspect_count = n;
	if (n == 0)
		return 0;
	/* Its number is above that of every transaction whose rows we saw. */
	int rc = verify_fence_pass(v->core_sure, v->warehouse_sure, v->o.settings, v->o.loop,
				   v->o.patience_us, &fence, err);
	if (rc == 0)
		rc = verify_fence_settle(v->core_sure, &fence, v->o.loop, v->o.patience_us, &all,
					 err);
	if (rc != 0)
		return rc;
	if (!all) {
		v->count->undecided += n;
		return 0;
	}
	return compare_batch(v, &fence, err);
}

static int compare_suspects(struct verify *v, struct rt_err *err)
{
	struct verify_fence fence;
	if (v->suspect_count == 0)
		return 0;
	int rc = compare_batch(v, &fence, err);
	if (rc == 0)
		rc = look_again(v, err);
	v->suspect_count = 0;
	arena_reset(&v->ids);
	return rc;
}

/* To be compared surely; the same entity twice in a batch is one. */
static int suspect(struct verify *v, struct slice id, struct rt_err *err)
{
	for (size_t i = v->suspect_count; i > 0; i--) /* most often it is the last one */
		if (slice_eq(v->suspect[i - 1].id, id))
			return 0;
	if (v->suspect_count == BATCH_ENTITIES) {
		int rc = compare_suspects(v, err);
		if (rc != 0)
			return rc;
	}
	v->suspect[v->suspect_count++] = (struct suspect){.id = arena_copy(&v->ids, id)};
	return 0;
}

/* ---- the quick pass ---- */

struct quick {
	struct core_reader core;
	struct landed_reader history, latest;
	const struct fold_row *a, *b, *c; /* next of core, history, latest; NULL: no more */
	struct kept_row last;		  /* of history: what latest must be */
};

static int quick_core(struct verify *v, struct quick *q, struct rt_err *err)
{
	int rc;
	q->a = NULL;
	while ((rc = core_next(&q->core, &q->a, err)) == VERIFY_STUCK) {
		int failed = suspect(v, q->a->id, err);
		if (failed != 0)
			return failed;
	}
	if (rc != VERIFY_ROW)
		q->a = NULL;
	else
		v->count->core_rows++;
	return RT_MIN(rc, 0);
}

static int quick_latest(struct verify *v, struct quick *q, struct rt_err *err)
{
	if (v->o.against_triggers) /* which make no such table */
		return 0;
	int rc = landed_reader_next(&q->latest, &q->c, err);
	if (rc != VERIFY_ROW)
		q->c = NULL;
	else
		v->count->latest_rows++;
	return RT_MIN(rc, 0);
}

/* The entity of `last` is over: its latest row must be it. */
static int quick_entity_end(struct verify *v, struct quick *q, struct rt_err *err)
{
	int rc = 0;
	while (rc == 0 && q->c != NULL) {
		int order = pgt_compare(v->l->rollup->id_type, q->c->id, q->last.row.id);
		if (order > 0)
			break;
		if (order == 0 && verify_equal(q->c, &q->last.row))
			return quick_latest(v, q, err);
		rc = suspect(v, q->c->id, err);
		if (rc == 0)
			rc = quick_latest(v, q, err);
		if (order == 0)
			return rc;
	}
	return rc != 0 ? rc : suspect(v, q->last.row.id, err); /* it has none */
}

static int quick_history(struct verify *v, struct quick *q, struct rt_err *err)
{
	int rc = landed_reader_next(&q->history, &q->b, err);
	if (rc < 0)
		return rc;
	if (rc == VERIFY_ROW)
		v->count->warehouse_rows++;
	else
		q->b = NULL;
	if (q->last.there && !v->o.against_triggers &&
	    (q->b == NULL || !slice_eq(q->b->id, q->last.row.id)))
		rc = quick_entity_end(v, q, err);
	if (q->b != NULL)
		keep_row(&q->last, q->b);
	return RT_MIN(rc, 0);
}

static int quick_step(struct verify *v, struct quick *q, struct rt_err *err)
{
	int order = q->a == NULL ? 1 : q->b == NULL ? -1 : verify_order(v->l->rollup, q->a, q->b);
	int rc = 0;
	if (order != 0 || !verify_equal(q->a, q->b))
		rc = suspect(v, order <= 0 ? q->a->id : q->b->id, err);
	if (rc == 0 && order >= 0)
		rc = quick_history(v, q, err);
	if (rc == 0 && order <= 0)
		rc = quick_core(v, q, err);
	return rc;
}

static int quick_run(struct verify *v, struct quick *q, struct rt_err *err)
{
	int rc = quick_core(v, q, err);
	if (rc == 0)
		rc = quick_latest(v, q, err);
	if (rc == 0)
		rc = quick_history(v, q, err);
	for (uint64_t n = 1; rc == 0 && (q->a != NULL || q->b != NULL); n++) {
		rc = quick_step(v, q, err);
		if (rc == 0 && n % 4096 == 0 && v->o.loop != NULL && loop_stopping(v->o.loop))
			rc = rt_fail(err, ERR_RETRY, "told to stop");
	}
	while (rc == 0 && q->c != NULL) { /* latest rows without history */
		rc = suspect(v, q->c->id, err);
		if (rc == 0)
			rc = quick_latest(v, q, err);
	}
	return rc;
}

static int verify_all(struct verify *v, struct rt_err *err)
{
	struct quick q = {0};
	v->quick = true;
	/* Behind a backlog everything would look different: it is waited for, once. */
	int rc = v->passed ? 0 : verify_pass(v, err);
	v->passed = rc == 0;
	if (rc == 0)
		rc = core_open(v, &q.core, v->core, err);
	landed_reader_open(&q.history, v->history, v->l, false, CHUNK_ROWS);
	landed_reader_open(&q.latest, v->latest, v->l, true, CHUNK_ROWS);
	core_all(&q.core);
	landed_reader_all(&q.history);
	landed_reader_all(&q.latest);
	if (rc == 0)
		rc = quick_run(v, &q, err);
	if (rc == 0)
		rc = compare_suspects(v, err);
	v->quick = false;
	core_close(&q.core);
	landed_reader_close(&q.history);
	landed_reader_close(&q.latest);
	release_row(&q.last);
	return rc;
}

/* ---- entities by lists of their ids ---- */

/* Every id of the query (one column, binary) is compared. */
static int compare_listed(struct verify *v, PGconn *c, const char *sql, struct buf *ret_last,
			  int64_t *ret_count, struct rt_err *err)
{
	PGresult *res = PQexecParams(c, sql, 0, NULL, NULL, NULL, NULL, 1);
	int rc = 0, n = PQntuples(res);
	if (PQresultStatus(res) != PGRES_TUPLES_OK)
		rc = pgc_fail(c, res, err, "listing ids");
	for (int i = 0; rc == 0 && i < n; i++) {
		struct slice id = slice_of(PQgetvalue(res, i, 0), (size_t)PQgetlength(res, i, 0));
		rc = suspect(v, id, err);
		if (i == n - 1 && ret_last != NULL) {
			buf_clear(ret_last);
			buf_add_slice(ret_last, id);
		}
	}
	PQclear(res);
	if (ret_count != NULL)
		*ret_count = n;
	return rc;
}

/* All entities of a table, whatever the order of its ids. */
static int compare_table(struct verify *v, PGconn *c, const char *table, const char *id,
			 struct rt_err *err)
{
	struct buf sql = BUF_INIT, last = BUF_INIT;
	int64_t n = LIST_IDS;
	int rc = 0;
	for (bool begun = false; rc == 0 && n == LIST_IDS; begun = true) {
		buf_clear(&sql);
		buf_printf(&sql, "SELECT DISTINCT %s FROM %s", id, table);
		if (begun) {
			buf_printf(&sql, " WHERE %s > ", id);
			verify_id_literal(v->l->rollup, buf_slice(&last), &sql);
		}
		buf_printf(&sql, " ORDER BY %s LIMIT %" PRId64, id, LIST_IDS);
		rc = compare_listed(v, c, buf_cstr(&sql), &last, &n, err);
	}
	buf_release(&sql);
	buf_release(&last);
	return rc;
}

static int verify_listed(struct verify *v, struct rt_err *err)
{
	struct buf table = BUF_INIT, id = BUF_INIT, version = BUF_INIT;
	core_table(v, &table, &id, &version);
	int rc = compare_table(v, v->core_sure, buf_cstr(&table), buf_cstr(&id), err);
	if (rc == 0)
		rc = compare_suspects(v, err);
	v->only_unknown = true; /* the others were compared */
	if (rc == 0)
		rc = compare_table(v, v->warehouse_sure, v->l->history, "id", err);
	if (rc == 0)
		rc = compare_table(v, v->warehouse_sure, v->l->latest, "id", err);
	if (rc == 0)
		rc = compare_suspects(v, err);
	v->only_unknown = false;
	buf_release(&table);
	buf_release(&id);
	buf_release(&version);
	return rc;
}

/*
 * Entities of randomly chosen pages: about so many rows, by the planner's idea
 * of how many a page holds; of a table that was never analyzed, ten.
 */
static int sample_table(struct verify *v, PGconn *c, const char *table, const char *id,
			int64_t entities, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_query(c, &res, err,
			   "SELECT pg_relation_size(oid) / current_setting('block_size')::int8, "
			   "CASE WHEN reltuples > 0 AND relpages > 0 THEN reltuples / relpages "
			   "ELSE 10 END FROM pg_catalog.pg_class WHERE oid = $1::regclass",
			   1, &table);
	if (rc != 0)
		return rc;
	double pages = strtod(PQgetvalue(res, 0, 0), NULL);
	double rows = pages * strtod(PQgetvalue(res, 0, 1), NULL);
	PQclear(res);
	double percent = rows > 0 ? RT_MIN(100.0, 100.0 * (double)entities / rows) : 100.0;
	struct buf sql = BUF_INIT;
	buf_printf(&sql,
		   "SELECT DISTINCT %s FROM (SELECT %s FROM %s TABLESAMPLE SYSTEM (%.6f) "
		   "LIMIT %" PRId64 ") s",
		   id, id, table, percent, entities);
	rc = compare_listed(v, c, buf_cstr(&sql), NULL, NULL, err);
	buf_release(&sql);
	return rc;
}

/* Half of them from the core, half from the landed tables: what only one of them holds is found, too. */
static int verify_sample(struct verify *v, struct rt_err *err)
{
	struct buf table = BUF_INIT, id = BUF_INIT, version = BUF_INIT;
	int64_t half = RT_MAX(v->o.sample / 2, 1);
	core_table(v, &table, &id, &version);
	int rc = sample_table(v, v->core_sure, buf_cstr(&table), buf_cstr(&id), half, err);
	if (rc == 0)
		rc = sample_table(v, v->warehouse_sure, v->l->history, "id", half - half / 2, err);
	if (rc == 0)
		rc = sample_table(v, v->warehouse_sure, v->l->latest, "id", half / 2 + 1, err);
	if (rc == 0)
		rc = compare_suspects(v, err);
	buf_release(&table);
	buf_release(&id);
	buf_release(&version);
	return rc;
}

/* ---- a rollup ---- */

/* Only what follows the stream, made by this definition, can be held against the core. */
static int check_state(struct verify *v, struct rt_err *err)
{
	const struct rollup *r = v->l->rollup;
	const char *params[] = {v->o.settings->pipeline, r->name};
	char mine[17];
	PGresult *res;
	snprintf(mine, sizeof(mine), "%016" PRIx64, r->fingerprint);
	int rc = pgc_query(v->warehouse_sure, &res, err,
			   "SELECT state, definition, fingerprint FROM rolag.relation WHERE "
			   "pipeline = $1 AND name = $2 AND kind = 'rollup'",
			   2, params);
	if (rc != 0)
		return rc;
	if (PQntuples(res) == 0)
		rc = rt_fail(err, ERR_PERMANENT, "it is not landed; mend: rolag init");
	else if (strcmp(PQgetvalue(res, 0, 0), "live") != 0)
		rc = rt_fail(err, ERR_PERMANENT, "its state is %s: it does not follow the core",
			     PQgetvalue(res, 0, 0));
	else if (strcmp(PQgetvalue(res, 0, 2), mine) != 0)
		rc = rt_fail(
			err, ERR_PERMANENT,
			"its rows were made by definition %s, another than that of %s (%" PRId32
			")",
			PQgetvalue(res, 0, 1), r->file, r->definition);
	PQclear(res);
	return rc;
}

static int compare_given(struct verify *v, size_t count, const char *const *id, struct rt_err *err)
{
	struct buf binary = BUF_INIT;
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < count; i++) {
		buf_clear(&binary);
		rc = pgt_from_text(v->l->rollup->id_type, slice_str(id[i]), NULL, &binary, err);
		if (rc != 0)
			rt_context(err, "entity %s", id[i]);
		else
			rc = suspect(v, buf_slice(&binary), err);
	}
	buf_release(&binary);
	return rc == 0 ? compare_suspects(v, err) : rc;
}

static int compare_rollup(struct verify *v, struct rt_err *err)
{
	if (v->o.sample > 0)
		return verify_sample(v, err);
	if (verify_id_has_order(v->l->rollup->id_type))
		return verify_all(v, err);
	return verify_listed(v, err);
}

/* 1: the core has no table of its own for it. */
static int find_triggers(struct verify *v, struct arena *a, struct rt_err *err)
{
	if (!v->o.against_triggers)
		return 0;
	int rc =
		verify_triggers_find(v->core_sure, v->l, a, v->o.note, v->o.ctx, &v->triggers, err);
	if (rc == 0 && v->triggers.exists)
		v->l = &v->triggers.here;
	return rc != 0 ? rc : !v->triggers.exists;
}

int verify_rollup(struct verify *v, const struct landed *l, struct verify_count *ret,
		  struct rt_err *err)
{
	struct arena names;
	arena_init(&names, 4096);
	v->l = l;
	v->count = ret;
	int rc = find_triggers(v, &names, err);
	if (rc == 0)
		rc = check_state(v, err);
	if (rc == 0)
		rc = compare_rollup(v, err);
	if (rc == 0) /* what was seen is worth nothing where it did not stay so */
		rc = check_state(v, err);
	arena_release(&names);
	return rc >= 0 ? rc : rt_context(err, "%s", l->rollup->name);
}

int verify_entities(struct verify *v, const struct landed *l, size_t count, const char *const *id,
		    struct verify_count *ret, struct rt_err *err)
{
	v->l = l;
	v->count = ret;
	int rc = check_state(v, err);
	if (rc == 0)
		rc = compare_given(v, count, id, err);
	return rc == 0 ? 0 : rt_context(err, "%s", l->rollup->name);
}

int verify_pass(struct verify *v, struct rt_err *err)
{
	struct verify_fence fence;
	return verify_fence_pass(v->core_sure, v->warehouse_sure, v->o.settings, v->o.loop,
				 v->o.patience_us, &fence, err);
}

PGconn *verify_warehouse(struct verify *v)
{
	return v->warehouse_sure;
}
