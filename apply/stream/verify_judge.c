/*
 * verify_judge: entities that look different, compared surely. Guarantees: what
 * is told is a difference (trap 60); nothing but a fence is written on the core.
 */
#include "apply/stream/verify_run.h"

#include "apply/stream/verify_compare.h"
#include "apply/stream/verify_fence.h"
#include "proto/pg/pgconn.h"

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

/* ---- the sure comparison of one entity ---- */

/* Both ends of one entity, read side by side. */
struct pair {
	struct verify_core *core;
	struct landed_reader *here;
	const struct fold_row *a, *b; /* next of either; NULL: no more */
	struct verify_kept last;      /* of the warehouse's history */
};

/* The entity's rows that are left are not compared. */
static int core_rest(struct verify_core *r, struct rt_err *err)
{
	const struct fold_row *row;
	int rc;
	while ((rc = verify_core_next(r, &row, err)) > VERIFY_END)
		;
	return rc;
}

static int next_core(struct verify *v, struct pair *p, const struct verify_suspect *s,
		     struct rt_err *err)
{
	const struct fold_row *row;
	int rc;
	p->a = NULL;
	while ((rc = verify_core_next(p->core, &row, err)) == VERIFY_STUCK)
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
		verify_keep_row(&p->last, row);
	}
	return RT_MIN(rc, 0);
}

static void count_row(const struct verify *v, bool counts, uint64_t *counter)
{
	*counter += counts && !v->quick;
}

/* One step of the merge by version. */
static int step(struct verify *v, struct pair *p, struct verify_suspect *s, struct rt_err *err)
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
static int compare_latest(struct verify *v, struct pair *p, const struct verify_suspect *s,
			  struct rt_err *err)
{
	const struct fold_row *row = NULL;
	struct landed_reader latest;
	landed_reader_open(&latest, v->warehouse_sure, v->l, true, VERIFY_CHUNK_ROWS);
	int rc = landed_reader_entity(&latest, s->id, err);
	if (rc == 0)
		rc = landed_reader_next(&latest, &row, err);
	v->on_latest = true;
	if (rc == VERIFY_ROW && row != NULL) {
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

static int compare_entity(struct verify *v, struct verify_core *core, struct landed_reader *here,
			  struct verify_suspect *s, struct rt_err *err)
{
	struct pair p = {.core = core, .here = here};
	struct arena text;
	arena_init(&text, 256);
	v->id_text = source_id_text(v->l->rollup, s->id, &text);
	v->entity_findings = 0;
	int rc = pgc_exec(v->warehouse_sure, NULL, err,
			  "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY");
	if (rc == 0)
		rc = verify_core_entity(core, s->id, err);
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
	verify_release_row(&p.last);
	arena_release(&text);
	return rc;
}

/* ---- the sure comparison of a batch of entities ---- */

static int ask_core(struct verify *v, struct verify_suspect *s, struct rt_err *err)
{
	struct buf sql = BUF_INIT, table = BUF_INIT, id = BUF_INIT, version = BUF_INIT;
	PGresult *res;
	verify_core_table(v, &table, &id, &version);
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
static int ask_parked(struct verify *v, struct verify_suspect *s, struct rt_err *err)
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
	struct verify_core core;
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
	rc = verify_core_open(v, &core, v->core_sure, err);
	landed_reader_open(&here, v->warehouse_sure, v->l, false, VERIFY_CHUNK_ROWS);
	for (size_t i = 0; rc == 0 && i < v->suspect_count; i++)
		if (!v->only_unknown || v->suspect[i].core_has == 0)
			rc = compare_entity(v, &core, &here, &v->suspect[i], err);
	verify_core_close(&core);
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

int verify_judge(struct verify *v, struct rt_err *err)
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
int verify_suspect(struct verify *v, struct slice id, struct rt_err *err)
{
	for (size_t i = v->suspect_count; i > 0; i--) /* most often it is the last one */
		if (slice_eq(v->suspect[i - 1].id, id))
			return 0;
	if (v->suspect_count == VERIFY_BATCH_ENTITIES) {
		int rc = verify_judge(v, err);
		if (rc != 0)
			return rc;
	}
	v->suspect[v->suspect_count++] = (struct verify_suspect){.id = arena_copy(&v->ids, id)};
	return 0;
}
