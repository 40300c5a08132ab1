/* verify_list: guarantees that an entity which either end holds is on one of the lists. */
#include "apply/stream/verify_run.h"

#include <inttypes.h>

#include "proto/pg/pgconn.h"

/* Ids listed at a time where the two ends order them differently. */
#define LIST_IDS INT64_C(2000)

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
		rc = verify_suspect(v, id, err);
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

int verify_listed(struct verify *v, struct rt_err *err)
{
	struct buf table = BUF_INIT, id = BUF_INIT, version = BUF_INIT;
	verify_core_table(v, &table, &id, &version);
	int rc = compare_table(v, v->core_sure, buf_cstr(&table), buf_cstr(&id), err);
	if (rc == 0)
		rc = verify_judge(v, err);
	v->only_unknown = true; /* the others were compared */
	if (rc == 0)
		rc = compare_table(v, v->warehouse_sure, v->l->history, "id", err);
	if (rc == 0)
		rc = compare_table(v, v->warehouse_sure, v->l->latest, "id", err);
	if (rc == 0)
		rc = verify_judge(v, err);
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
int verify_sample(struct verify *v, struct rt_err *err)
{
	struct buf table = BUF_INIT, id = BUF_INIT, version = BUF_INIT;
	int64_t half = RT_MAX(v->o.sample / 2, 1);
	verify_core_table(v, &table, &id, &version);
	int rc = sample_table(v, v->core_sure, buf_cstr(&table), buf_cstr(&id), half, err);
	if (rc == 0)
		rc = sample_table(v, v->warehouse_sure, v->l->history, "id", half - half / 2, err);
	if (rc == 0)
		rc = sample_table(v, v->warehouse_sure, v->l->latest, "id", half / 2 + 1, err);
	if (rc == 0)
		rc = verify_judge(v, err);
	buf_release(&table);
	buf_release(&id);
	buf_release(&version);
	return rc;
}
