/* look: the catalog query and its answer. Guarantees: no lock but ACCESS SHARE on catalogs; nothing out of bounds. */
#include "cdc/capture/look.h"

#include "proto/base/fsio.h"
#include "proto/pg/pgconn.h"

#define REMEMBERED_BYTES_MAX 4096

/* A partitioned table's partitions are what the core's statements change. */
static const char query[] =
	" SELECT 'publication', w.n, coalesce(p.oid, 0)::text, w.at::text FROM wanted w"
	" LEFT JOIN pg_catalog.pg_publication p ON p.pubname = w.n"
	" UNION ALL"
	" SELECT 'identity', c.oid::regclass::text, w.n, w.at::text FROM wanted w"
	" JOIN pg_catalog.pg_publication p ON p.pubname = w.n AND (p.pubupdate OR p.pubdelete)"
	" JOIN pg_catalog.pg_publication_tables t ON t.pubname = w.n"
	" JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname"
	" JOIN pg_catalog.pg_class r ON r.relnamespace = n.oid AND r.relname = t.tablename"
	" LEFT JOIN LATERAL (SELECT relid FROM pg_catalog.pg_partition_tree(r.oid) WHERE isleaf)"
	"  AS leaf ON true"
	" JOIN pg_catalog.pg_class c ON c.oid = coalesce(leaf.relid, r.oid)"
	"  AND NOT (r.relkind = 'p' AND leaf.relid IS NULL)"
	" WHERE CASE c.relreplident WHEN 'f' THEN false WHEN 'n' THEN true"
	"  ELSE NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid"
	"   AND CASE c.relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END) END"
	" ORDER BY 1, 2";

void look_sql(struct buf *out, const char *const *publication, int count)
{
	buf_str(out, "WITH wanted(at, n) AS (VALUES ");
	for (int i = 0; i < count; i++) {
		buf_printf(out, "%s(%d, ", i > 0 ? ", " : "", i);
		pgc_literal(out, publication[i]);
		buf_str(out, ")");
	}
	buf_str(out, ")");
	buf_str(out, query);
}

static void read_publication(const PGresult *res, int row, int count, struct look *l)
{
	int at = (int)strtol(PQgetvalue(res, row, 3), NULL, 10);
	uint32_t oid = (uint32_t)strtoul(PQgetvalue(res, row, 2), NULL, 10);
	if (at < 0 || at >= RT_MIN(count, LOOK_PUBLICATIONS_MAX))
		return;
	l->oid[at] = oid;
	if (oid == 0 && l->missing++ == 0)
		snprintf(l->publication, sizeof(l->publication), "%s", PQgetvalue(res, row, 1));
}

void look_read(const PGresult *res, int count, struct look *ret)
{
	struct look l = {0};
	for (int row = 0; row < PQntuples(res); row++) {
		if (PQgetvalue(res, row, 0)[0] == 'p') {
			read_publication(res, row, count, &l);
		} else if (l.without_identity++ == 0) {
			snprintf(l.relation, sizeof(l.relation), "%s", PQgetvalue(res, row, 1));
			snprintf(l.published_by, sizeof(l.published_by), "%s",
				 PQgetvalue(res, row, 2));
		}
	}
	*ret = l;
}

int look_made_again(const struct look *was, const struct look *now)
{
	for (int i = 0; i < LOOK_PUBLICATIONS_MAX; i++)
		if (now->oid[i] != 0 && was->oid[i] != LOOK_UNKNOWN && was->oid[i] != now->oid[i])
			return i;
	return -1;
}

void look_read_published(const PGresult *res, struct look *ret)
{
	ret->unpublished = 0;
	for (int row = 0; row < PQntuples(res); row++) {
		enum published_problem p = published_problem(res, row);
		if (p == PUBLISHED_WELL || ret->unpublished++ > 0)
			continue;
		ret->want = row;
		ret->problem = p;
	}
}

/* ---- from one process to the next ---- */

int look_remember(const char *path, const struct look *l, const char *const *publication, int count,
		  struct rt_err *err)
{
	struct buf b = BUF_INIT;
	for (int i = 0; i < RT_MIN(count, LOOK_PUBLICATIONS_MAX); i++)
		buf_printf(&b, "%u %s\n", l->oid[i], publication[i]);
	buf_str(&b, "end\n");
	int rc = fs_replace_file(path, b.p, b.len, 0640, err);
	buf_release(&b);
	return rc;
}

/* One line, "OID name"; a publication that is not asked for any more is passed over. */
static void recall_line(const char *line, const char *const *publication, int count,
			struct look *ret)
{
	char *name;
	uint32_t oid = (uint32_t)strtoul(line, &name, 10);
	for (int i = 0; *name == ' ' && i < RT_MIN(count, LOOK_PUBLICATIONS_MAX); i++)
		if (strcmp(name + 1, publication[i]) == 0)
			ret->oid[i] = oid;
}

int look_recall(const char *path, const char *const *publication, int count, struct look *ret)
{
	struct rt_err ignored;
	char *text, *next;
	size_t len;
	struct look l = {0};
	bool whole = false;
	for (int i = 0; i < LOOK_PUBLICATIONS_MAX; i++)
		l.oid[i] = i < count ? LOOK_UNKNOWN : 0;
	if (fs_read_file(path, REMEMBERED_BYTES_MAX, &text, &len, &ignored) != 0)
		return 0;
	for (char *line = text; (next = strchr(line, '\n')) != NULL; line = next + 1) {
		*next = '\0';
		whole |= strcmp(line, "end") == 0;
		recall_line(line, publication, count, &l);
	}
	free(text);
	if (whole)
		*ret = l;
	return whole;
}
