/* verify_core: guarantees that either kind of the core's rows is read the same way. */
#include "apply/stream/verify_run.h"

#include "proto/pg/pgconn.h"

int verify_core_open(struct verify *v, struct verify_core *r, PGconn *core, struct rt_err *err)
{
	*r = (struct verify_core){.folds = !v->o.against_triggers};
	if (r->folds)
		return refold_open(&r->events, core, v->l->rollup, VERIFY_CHUNK_ROWS, err);
	landed_reader_open(&r->table, core, v->l, false, VERIFY_CHUNK_ROWS);
	r->table.select = v->triggers.select;
	return 0;
}

void verify_core_close(struct verify_core *r)
{
	if (r->folds)
		refold_close(&r->events);
	else
		landed_reader_close(&r->table);
}

void verify_core_all(struct verify_core *r)
{
	if (r->folds)
		refold_all(&r->events);
	else
		landed_reader_all(&r->table);
}

int verify_core_entity(struct verify_core *r, struct slice id, struct rt_err *err)
{
	return r->folds ? refold_entity(&r->events, id, err)
			: landed_reader_entity(&r->table, id, err);
}

int verify_core_next(struct verify_core *r, const struct fold_row **ret, struct rt_err *err)
{
	return r->folds ? refold_next(&r->events, ret, err)
			: landed_reader_next(&r->table, ret, err);
}

void verify_core_table(const struct verify *v, struct buf *table, struct buf *id,
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

/* ---- rows that are kept ---- */

static void keep_slice(struct buf *b, struct slice *s)
{
	buf_clear(b);
	buf_add_slice(b, *s);
	*s = buf_slice(b);
}

void verify_keep_row(struct verify_kept *k, const struct fold_row *row)
{
	k->row = *row;
	k->there = true;
	keep_slice(&k->id, &k->row.id);
	keep_slice(&k->event_type, &k->row.event_type);
	keep_slice(&k->columns, &k->row.columns);
}

void verify_release_row(struct verify_kept *k)
{
	buf_release(&k->id);
	buf_release(&k->event_type);
	buf_release(&k->columns);
}
