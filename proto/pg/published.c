/* published: one query of the catalog. Guarantees: no lock but ACCESS SHARE on catalogs; names are quoted. */
#include "proto/pg/published.h"

#include "proto/pg/pgconn.h"

/*
 * A catalog row that was written again has another xmin, and a table that was
 * taken out and put back another row: neither can pass between two looks.
 */
static const char query[] =
	" SELECT CASE WHEN c.oid IS NULL THEN 1 WHEN p.oid IS NULL THEN 2"
	" WHEN NOT p.puballtables AND r.oid IS NULL AND s.oid IS NULL THEN 3"
	" WHEN NOT (p.pubinsert AND p.pubtruncate) OR (w.changes AND NOT (p.pubupdate AND "
	"p.pubdelete)) THEN 4"
	" WHEN c.relkind = 'p' AND NOT p.pubviaroot THEN 5"
	" WHEN r.prqual IS NOT NULL THEN 6 WHEN r.prattrs IS NOT NULL THEN 7 ELSE 0 END,"
	" p.oid::text || '.' || p.xmin::text || '/' || coalesce(r.oid::text || '.' || "
	"r.xmin::text, s.oid::text || '.' || s.xmin::text, 'all') || '/' || c.oid::text"
	" FROM wanted w LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = w.nsp"
	" LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.rel"
	"  AND c.relkind IN ('r', 'p')"
	" LEFT JOIN pg_catalog.pg_publication p ON p.pubname = w.pub"
	" LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid"
	" LEFT JOIN pg_catalog.pg_publication_namespace s ON s.pnpubid = p.oid"
	"  AND s.pnnspid = n.oid ORDER BY w.at";

void published_sql(struct buf *out, const struct published_want *want, int count)
{
	buf_str(out, "WITH wanted(at, pub, nsp, rel, changes) AS (VALUES ");
	for (int i = 0; i < count; i++) {
		buf_printf(out, "%s(%d, ", i > 0 ? ", " : "", i);
		pgc_literal(out, want[i].publication);
		buf_str(out, ", ");
		pgc_literal(out, want[i].nspname);
		buf_str(out, ", ");
		pgc_literal(out, want[i].relname);
		buf_str(out, want[i].changes ? ", true)" : ", false)");
	}
	buf_str(out, ")");
	buf_str(out, query);
}

enum published_problem published_problem(const PGresult *res, int row)
{
	long n = row < PQntuples(res) ? strtol(PQgetvalue(res, row, 0), NULL, 10) : -1;
	return n < 0 || n >= PUBLISHED_PROBLEMS ? PUBLISHED_NO_TABLE : (enum published_problem)n;
}

const char *published_mark(const PGresult *res, int row)
{
	return published_problem(res, row) == PUBLISHED_WELL ? PQgetvalue(res, row, 1) : "";
}

const char *published_text(struct arena *a, const struct published_want *want,
			   enum published_problem problem)
{
	static const char *const text[PUBLISHED_PROBLEMS] = {
		[PUBLISHED_WELL] = "is published as a whole by %s",
		[PUBLISHED_NO_TABLE] = "is no table of the core any more (publication %s)",
		[PUBLISHED_NO_PUBLICATION] = "is published by nothing: there is no publication %s",
		[PUBLISHED_NOT_IN] = "is not in publication %s",
		[PUBLISHED_OPERATIONS] =
			"is not published with all its changes: %s leaves operations out",
		[PUBLISHED_LEAVES] = "is published under the names of its partitions by %s",
		[PUBLISHED_FILTER] = "is published with a row filter by %s",
		[PUBLISHED_COLUMNS] = "is published with a column list by %s",
	};
	const char *before = text[problem], *at = strstr(before, "%s");
	return arena_printf(a, "%.*s%s%s", (int)(at - before), before, want->publication, at + 2);
}

const char *published_mend(struct arena *a, const struct published_want *want,
			   enum published_problem problem)
{
	struct buf pub = BUF_INIT, table = BUF_INIT;
	const char *mend = "";
	pgc_ident(&pub, want->publication);
	pgc_ident(&table, want->nspname);
	buf_u8(&table, '.');
	pgc_ident(&table, want->relname);
	switch (problem) {
	case PUBLISHED_WELL:
	case PUBLISHED_PROBLEMS:
		break;
	case PUBLISHED_NO_TABLE:
		mend = "rolag init once it is there again, or a configuration without it";
		break;
	case PUBLISHED_NO_PUBLICATION:
		mend = "rolag init";
		break;
	case PUBLISHED_NOT_IN:
		mend = arena_printf(a, "ALTER PUBLICATION %s ADD TABLE %s;", buf_cstr(&pub),
				    buf_cstr(&table));
		break;
	case PUBLISHED_OPERATIONS:
		mend = arena_printf(a, "ALTER PUBLICATION %s SET (publish = '%s');", buf_cstr(&pub),
				    want->changes ? "insert, update, delete, truncate"
						  : "insert, truncate");
		break;
	case PUBLISHED_LEAVES:
		mend = arena_printf(a,
				    "ALTER PUBLICATION %s SET (publish_via_partition_root = true);",
				    buf_cstr(&pub));
		break;
	case PUBLISHED_FILTER:
	case PUBLISHED_COLUMNS:
		mend = arena_printf(
			a,
			"BEGIN; ALTER PUBLICATION %s DROP TABLE %s; ALTER PUBLICATION %s ADD "
			"TABLE %s; COMMIT;",
			buf_cstr(&pub), buf_cstr(&table), buf_cstr(&pub), buf_cstr(&table));
		break;
	}
	buf_release(&pub);
	buf_release(&table);
	return mend;
}
