/* swap: by rename alone. Guarantees: all pairs or none, in the caller's transaction. */
#include "apply/stream/swap.h"

#include "proto/pg/pgconn.h"

int swap_check(PGconn *c, const struct swap_pair *pairs, size_t count, struct buf *out,
	       struct rt_err *err)
{
	return 0;
}

int swap_prepare(PGconn *c, const struct swap_pair *pairs, size_t count, bool force_analyze,
		 struct rt_err *err)
{
	return 0;
}

static void rename_sql(struct buf *sql, const char *schema, const char *from, const char *to)
{
	buf_str(sql, "ALTER TABLE ");
	pgc_ident(sql, schema);
	buf_u8(sql, '.');
	pgc_ident(sql, from);
	buf_str(sql, " RENAME TO ");
	pgc_ident(sql, to);
	buf_u8(sql, ';');
}

int swap_tables(PGconn *c, const struct swap_pair *pairs, size_t count, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	PGresult *res = NULL;
	for (size_t i = 0; i < count; i++) {
		rename_sql(&sql, pairs[i].schema, pairs[i].live, pairs[i].kept);
		rename_sql(&sql, pairs[i].schema, pairs[i].beside, pairs[i].live);
	}
	int rc = pgc_exec(c, &res, err, "%s", buf_cstr(&sql));
	if (rc != 0 && strstr(err->msg, "55P03") != NULL)
		rc = err->code = ERR_RETRY;
	PQclear(res);
	buf_release(&sql);
	return rc;
}

void swap_made_sql(const char *schema, const char *table, struct buf *out)
{
	buf_str(out, "SELECT 1");
}
