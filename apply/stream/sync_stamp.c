/* sync_stamp: two UPDATEs by key. Guarantees: no row gets another's LSN, and none that knows its time another. */
#include "apply/stream/sync_stamp.h"

#include <inttypes.h>

#include "apply/stream/source.h"
#include "proto/base/failpoint.h"
#include "proto/pg/pgconn.h"

enum { ID, VERSION, LSN, COMMIT_US, ARRAYS };

/* Ids are quoted: they may be any text. */
static void put_id(struct buf *out, const char *id)
{
	buf_u8(out, '"');
	for (; *id != '\0'; id++) {
		if (*id == '"' || *id == '\\')
			buf_u8(out, '\\');
		buf_u8(out, (uint8_t)*id);
	}
	buf_u8(out, '"');
}

static void fill(const struct batch *b, const struct rollup *r, struct buf *array)
{
	struct arena a;
	arena_init(&a, 4096);
	for (int n = 0; n < ARRAYS; n++)
		buf_u8(&array[n], '{');
	for (uint32_t i = 0; i < b->seen_count; i++) {
		const struct batch_seen *e = &b->seen[i];
		const struct batch_transaction *t = &b->transaction[e->transaction];
		for (int n = 0; i > 0 && n < ARRAYS; n++)
			buf_u8(&array[n], ',');
		put_id(&array[ID], source_id_text(r, e->id, &a));
		buf_printf(&array[VERSION], "%" PRId32, e->sequence);
		buf_printf(&array[LSN], LSN_FMT, LSN_ARGS(t->end));
		buf_printf(&array[COMMIT_US], "%" PRId64, t->commit_us - RT_PG_EPOCH_US);
		arena_reset(&a);
	}
	for (int n = 0; n < ARRAYS; n++)
		buf_u8(&array[n], '}');
	arena_release(&a);
}

static int update(PGconn *c, const struct landed *l, const char *table, struct buf *array,
		  struct rt_err *err)
{
	const char *params[ARRAYS];
	const char *type = pgt_name((struct pgt_type){l->rollup->id_type, false});
	char *sql = rt_sprintf(
		"UPDATE %s AS h SET _lsn = coalesce(k._lsn, v.lsn), _committed_at = CASE WHEN k.id "
		"IS NULL THEN timestamptz '2000-01-01 00:00:00+00' + v.us * interval '1 "
		"microsecond' ELSE k._committed_at END FROM unnest($1::%s[], $2::int4[], "
		"$3::pg_lsn[], $4::int8[]) AS v (id, version, lsn, us) LEFT JOIN %s AS k ON k.id = "
		"v.id AND k.version = v.version WHERE h.id = v.id AND h.version = v.version AND "
		"h._committed_at IS NULL",
		table, type, l->beside->history);
	for (int i = 0; i < ARRAYS; i++)
		params[i] = buf_cstr(&array[i]);
	int rc = pgc_query(c, NULL, err, sql, ARRAYS, params);
	free(sql);
	return rc;
}

static int write_all(PGconn *c, const struct settings *s, const struct ledger *ledger,
		     const struct landed *l, struct buf *array, struct rt_err *err)
{
	char epoch[24];
	snprintf(epoch, sizeof(epoch), "%" PRId64, ledger->epoch);
	const char *hold[] = {s->pipeline, epoch};
	/* By key, whatever the planner knows of tables that were just filled. */
	int rc = pgc_exec(c, NULL, err,
			  "BEGIN; SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; "
			  "SET LOCAL enable_mergejoin = off; SET LOCAL jit = off");
	if (rc == 0 && (rc = pgc_query(c, NULL, err, ledger_hold_sql, 2, hold)) != 0)
		return rt_fail(err, ERR_RETRY, "the fence was lost during a sync");
	FAILPOINT_FD(REBUILD_STAMP, PQsocket(c));
	if (rc == 0)
		rc = update(c, l, l->history, array, err);
	if (rc == 0)
		rc = update(c, l, l->latest, array, err);
	return rc == 0 ? pgc_exec(c, NULL, err, "COMMIT") : rc;
}

int sync_stamp(PGconn *c, const struct settings *s, const struct ledger *l, const struct batch *b,
	       struct rt_err *err)
{
	struct buf array[ARRAYS] = {0};
	if (b->seen_count == 0)
		return 0;
	const struct landed *item = &b->landed->item[b->seen[0].rollup];
	if (item->beside->rollup->id_type != item->rollup->id_type)
		return 0; /* the live rows have other keys */
	fill(b, item->rollup, array);
	int rc = write_all(c, s, l, item, array, err);
	for (int i = 0; i < ARRAYS; i++)
		buf_release(&array[i]);
	return rc;
}
