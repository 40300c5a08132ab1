/* verify_all: the quick pass. Guarantees: an entity that looks different on the two ends is a suspect. */
#include "apply/stream/verify_run.h"

#include "apply/stream/verify_compare.h"

struct quick {
	struct verify_core core;
	struct landed_reader history, latest;
	const struct fold_row *a, *b, *c; /* next of core, history, latest; NULL: no more */
	struct verify_kept last;	  /* of history: what latest must be */
};

static int quick_core(struct verify *v, struct quick *q, struct rt_err *err)
{
	int rc;
	q->a = NULL;
	while ((rc = verify_core_next(&q->core, &q->a, err)) == VERIFY_STUCK) {
		int failed = verify_suspect(v, q->a->id, err);
		if (failed != 0)
			return failed;
	}
	if (rc != VERIFY_ROW)
		q->a = NULL;
	else
		verify_count_core(&v->o, v->count);
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
		rc = verify_suspect(v, q->c->id, err);
		if (rc == 0)
			rc = quick_latest(v, q, err);
		if (order == 0)
			return rc;
	}
	return rc != 0 ? rc : verify_suspect(v, q->last.row.id, err); /* it has none */
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
		verify_keep_row(&q->last, q->b);
	return RT_MIN(rc, 0);
}

static int quick_step(struct verify *v, struct quick *q, struct rt_err *err)
{
	RT_ASSERT(q->a != NULL || q->b != NULL);
	int order = q->a == NULL ? 1 : q->b == NULL ? -1 : verify_order(v->l->rollup, q->a, q->b);
	int rc = 0;
	if (order != 0 || !verify_equal(q->a, q->b))
		rc = verify_suspect(v, order <= 0 ? q->a->id : q->b->id, err);
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
		rc = verify_suspect(v, q->c->id, err);
		if (rc == 0)
			rc = quick_latest(v, q, err);
	}
	return rc;
}

int verify_all(struct verify *v, struct rt_err *err)
{
	struct quick q = {0};
	v->quick = true;
	/* Behind a backlog everything would look different: it is waited for, once. */
	int rc = v->passed ? 0 : verify_pass(v, err);
	v->passed = rc == 0;
	if (rc == 0)
		rc = verify_core_open(v, &q.core, v->core, err);
	landed_reader_open(&q.history, v->history, v->l, false, VERIFY_CHUNK_ROWS);
	landed_reader_open(&q.latest, v->latest, v->l, true, VERIFY_CHUNK_ROWS);
	verify_core_all(&q.core);
	landed_reader_all(&q.history);
	landed_reader_all(&q.latest);
	if (rc == 0)
		rc = quick_run(v, &q, err);
	if (rc == 0)
		rc = verify_judge(v, err);
	v->quick = false;
	verify_core_close(&q.core);
	landed_reader_close(&q.history);
	landed_reader_close(&q.latest);
	verify_release_row(&q.last);
	return rc;
}
