/* shape: reads only catalogs, with no lock on any table of the core's. */
#include "proto/pg/shape.h"

#include "proto/base/buf.h"
#include "proto/pg/pgconn.h"

/*
 * $1 relation, $2 column names, $3 their types. One row for each column, in order.
 * Domains and arrays are followed to what they are made of: `depth` arrays of `f`. What a type
 * of pg_catalog with a number below 10000 is, is the same in every PostgreSQL. Names of catalog
 * objects (reg…), access rights and statistics mean nothing in another database.
 */
static const char land_sql[] =
	"WITH RECURSIVE col AS ("
	" SELECT n, name, typ FROM unnest($2::text[], $3::oid[]) WITH ORDINALITY AS u(name, typ, n)"
	"), made AS ("
	" SELECT DISTINCT typ, typ AS at, 0 AS depth FROM col"
	" UNION ALL"
	" SELECT m.typ, CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.typelem END,"
	"  m.depth + (t.typtype <> 'd')::int FROM made m JOIN pg_catalog.pg_type t ON t.oid = m.at"
	" WHERE t.typtype = 'd' OR EXISTS (SELECT FROM pg_catalog.pg_type e"
	"  WHERE e.oid = t.typelem AND e.typarray = t.oid)"
	"), land AS ("
	" SELECT m.typ, m.depth, f.oid AS f, CASE"
	"  WHEN m.depth > 1 THEN 'o'"
	"  WHEN f.typtype = 'e' THEN 'e'"
	"  WHEN f.typtype NOT IN ('b', 'r', 'm') THEN 'o'"
	"  WHEN f.oid < 10000 AND f.typname ~ '^(reg|aclitem|pg_node_tree|pg_ndistinct|"
	"pg_dependencies|pg_mcv_list|pg_brin|gtsvector)' THEN 'o'"
	"  WHEN f.oid < 10000 THEN 'b'"
	"  WHEN f.typtype <> 'b' THEN 'o'"
	"  WHEN m.depth = 0 THEN 'x' ELSE 'X' END AS kind,"
	"  pg_catalog.quote_ident(s.nspname) || '.' || pg_catalog.quote_ident(f.typname) AS name"
	" FROM made m JOIN pg_catalog.pg_type f ON f.oid = m.at"
	" JOIN pg_catalog.pg_namespace s ON s.oid = f.typnamespace"
	" WHERE f.typtype <> 'd' AND NOT EXISTS (SELECT FROM pg_catalog.pg_type e"
	"  WHERE e.oid = f.typelem AND e.typarray = f.oid)"
	"), part AS ("
	" SELECT $1::oid AS oid UNION ALL"
	" SELECT i.inhrelid FROM part p JOIN pg_catalog.pg_class c ON c.oid = p.oid"
	" JOIN pg_catalog.pg_inherits i ON i.inhparent = p.oid WHERE c.relkind = 'p'"
	"), leaf AS ("
	" SELECT c.oid, c.relfilenode FROM part p JOIN pg_catalog.pg_class c USING (oid)"
	" WHERE c.relkind = 'r'"
	"), files AS ("
	" SELECT CASE count(*) WHEN 0 THEN '' WHEN 1 THEN min(relfilenode::text) ELSE"
	"  pg_catalog.md5(string_agg(relfilenode::text, ' ' ORDER BY oid)) END AS files FROM leaf)"
	" SELECT CASE l.kind WHEN 'X' THEN 'o' ELSE coalesce(l.kind, '?') END,"
	" CASE l.kind WHEN 'e' THEN 'text' WHEN 'o' THEN 'text'"
	"  WHEN 'b' THEN pg_catalog.format_type(l.f, -1) WHEN 'x' THEN l.name WHEN 'X' THEN l.name"
	"  ELSE '' END || CASE WHEN l.depth = 1 AND l.kind <> 'o' THEN '[]' ELSE '' END,"
	" CASE WHEN l.depth <> 1 THEN 0 WHEN l.kind = 'e' THEN 25 WHEN l.kind = 'b' THEN l.f"
	"  ELSE 0 END,"
	" (SELECT min((a.attmissingval::text::text[])[1]) FROM leaf"
	"  JOIN pg_catalog.pg_attribute a ON a.attrelid = leaf.oid"
	"  WHERE a.attname = col.name AND a.atthasmissing),"
	/* An array of boxes is written with another delimiter: no value is better than a wrong one. */
	" CASE WHEN EXISTS (SELECT FROM leaf JOIN pg_catalog.pg_attribute a ON a.attrelid = "
	"leaf.oid"
	"  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid WHERE a.attname = col.name"
	"  AND a.atthasmissing AND t.typdelim <> ',') THEN '' ELSE CASE WHEN $2::text[] ="
	"  (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_catalog.pg_attribute a"
	"   WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped"
	"   AND a.attgenerated = '') THEN '' ELSE '~' END || files.files END,"
	" coalesce((SELECT a.attnum FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1::oid"
	"  AND a.attname = col.name), 0)"
	" FROM col CROSS JOIN files LEFT JOIN land l ON l.typ = col.typ ORDER BY col.n";

static void array_element(struct buf *b, const char *text)
{
	buf_str(b, b->len > 1 ? ",\"" : "\"");
	for (const char *p = text; *p != '\0'; p++) {
		if (*p == '"' || *p == '\\')
			buf_u8(b, '\\');
		buf_u8(b, (uint8_t)*p);
	}
	buf_u8(b, '"');
}

static int ask_land(PGconn *core, const struct schema *s, PGresult **ret, struct rt_err *err)
{
	struct buf names = BUF_INIT, types = BUF_INIT;
	char oid[16];
	snprintf(oid, sizeof(oid), "%u", s->relation_oid);
	buf_u8(&names, '{');
	buf_u8(&types, '{');
	for (uint16_t i = 0; i < s->count; i++) {
		array_element(&names, s->column[i].name);
		buf_printf(&types, "%s%u", i > 0 ? "," : "", s->column[i].type_oid);
	}
	buf_u8(&names, '}');
	buf_u8(&types, '}');
	const char *params[] = {oid, buf_cstr(&names), buf_cstr(&types)};
	int rc = pgc_query(core, ret, err, land_sql, 3, params);
	buf_release(&names);
	buf_release(&types);
	return rc;
}

static struct schema_land take_land(struct arena *a, const PGresult *res, int row)
{
	return (struct schema_land){
		.kind = (enum land_kind)PQgetvalue(res, row, 0)[0],
		.type = arena_strdup(a, PQgetvalue(res, row, 1)),
		.element_oid = (uint32_t)strtoul(PQgetvalue(res, row, 2), NULL, 10),
		.missing =
			PQgetisnull(res, row, 3) ? NULL : arena_strdup(a, PQgetvalue(res, row, 3)),
		.number = (uint16_t)strtoul(PQgetvalue(res, row, 5), NULL, 10),
	};
}

int shape_complete(PGconn *core, struct arena *a, struct schema *s, struct rt_err *err)
{
	PGresult *res;
	int rc = ask_land(core, s, &res, err);
	if (rc != 0)
		return rt_context(err, "types of %s.%s", s->nspname, s->relname);
	if (PQntuples(res) != s->count) {
		PQclear(res);
		return rt_fail(err, ERR_PERMANENT, "types of %s.%s: %d, not %u", s->nspname,
			       s->relname, PQntuples(res), s->count);
	}
	struct schema_land *land = arena_alloc(a, s->count * sizeof(*land));
	const char *files = "";
	for (uint16_t i = 0; i < s->count; i++) {
		land[i] = take_land(a, res, i);
		const char *f = PQgetvalue(res, i, 4);
		if (i == 0 || *f == '\0')
			files = f; /* '' wins: it means that nobody knows */
	}
	s->land = land;
	s->files = arena_strdup(a, files);
	s->hash = schema_hash(s);
	PQclear(res);
	return 0;
}

/* The index of a relation `c` whose columns are its key. */
#define KEY_INDEX                                                                                  \
	"  FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisunique"                  \
	"   AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL"      \
	"   AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute x WHERE x.attrelid = c.oid"        \
	"   AND NOT x.attnotnull AND x.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))"    \
	"  ORDER BY c.relreplident = 'i' AND i.indisreplident DESC, i.indisprimary DESC,"          \
	"  i.indexrelid LIMIT 1"

static const char table_sql[] =
	"SELECT c.oid, c.relreplident, c.relkind, a.attname, a.atttypid, a.atttypmod,"
	" a.attnum = ANY (k.cols) IS TRUE, a.attgenerated <> ''"
	" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
	" LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0"
	"  AND NOT a.attisdropped"
	" LEFT JOIN LATERAL (SELECT (i.indkey::int2[])[0:i.indnkeyatts - 1] AS cols" KEY_INDEX
	") k ON true"
	" WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p') ORDER BY a.attnum";

static void take_table(struct arena *a, const PGresult *res, const char *nspname,
		       const char *relname, struct shape_table *ret)
{
	int rows = PQntuples(res);
	struct schema_column *column = arena_alloc(a, (size_t)rows * sizeof(*column));
	struct schema *s = &ret->schema;
	struct buf generated = BUF_INIT;
	*s = (struct schema){.relation_oid = (uint32_t)strtoul(PQgetvalue(res, 0, 0), NULL, 10),
			     .nspname = arena_strdup(a, nspname),
			     .relname = arena_strdup(a, relname),
			     .identity = PQgetvalue(res, 0, 1)[0],
			     .column = column};
	ret->kind = PQgetvalue(res, 0, 2)[0];
	for (int i = 0; i < rows; i++) {
		if (PQgetisnull(res, i, 3))
			continue; /* a table without columns */
		if (PQgetvalue(res, i, 7)[0] == 't') {
			buf_printf(&generated, "%s%s", generated.len > 0 ? ", " : "",
				   PQgetvalue(res, i, 3));
			continue;
		}
		column[s->count++] = (struct schema_column){
			.name = arena_strdup(a, PQgetvalue(res, i, 3)),
			.key = PQgetvalue(res, i, 6)[0] == 't',
			.type_oid = (uint32_t)strtoul(PQgetvalue(res, i, 4), NULL, 10),
			.typmod = (int32_t)strtol(PQgetvalue(res, i, 5), NULL, 10)};
	}
	ret->generated = arena_strdup(a, buf_cstr(&generated));
	buf_release(&generated);
}

int shape_read(PGconn *core, struct arena *a, const char *nspname, const char *relname,
	       struct shape_table *ret, struct rt_err *err)
{
	const char *params[] = {nspname, relname};
	PGresult *res;
	int rc = pgc_query(core, &res, err, table_sql, 2, params);
	if (rc != 0)
		return rt_context(err, "shape of %s.%s", nspname, relname);
	if (PQntuples(res) == 0) {
		PQclear(res);
		return 1;
	}
	take_table(a, res, nspname, relname, ret);
	PQclear(res);
	return shape_complete(core, a, &ret->schema, err);
}

/*
 * $1 relation: the index, and each of its columns in order with whether it is sorted as the column
 * itself is (its own collation and operators), and upwards.
 */
static const char key_sql[] =
	"SELECT k.indexrelid, a.attname, k.indcollation[n - 1] = a.attcollation AND o.opcdefault,"
	" (k.indoption[n - 1] & 1) = (k.indoption[0] & 1)"
	" FROM pg_catalog.pg_class c CROSS JOIN LATERAL (SELECT i.*" KEY_INDEX ") k"
	" CROSS JOIN generate_series(1, k.indnkeyatts) n"
	" JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.indkey[n - 1]"
	" JOIN pg_catalog.pg_opclass o ON o.oid = k.indclass[n - 1]"
	" WHERE c.oid = $1::oid ORDER BY n";

int shape_read_key(PGconn *core, struct arena *a, uint32_t relation_oid, struct shape_key *ret,
		   struct rt_err *err)
{
	char oid[16];
	const char *params[] = {oid};
	PGresult *res;
	snprintf(oid, sizeof(oid), "%u", relation_oid);
	int rc = pgc_query(core, &res, err, key_sql, 1, params);
	if (rc != 0)
		return rt_context(err, "key of relation %s", oid);
	int n = PQntuples(res);
	bool usable = n > 0;
	*ret = (struct shape_key){.column = arena_alloc(a, ((size_t)n + 1) * sizeof(char *))};
	for (int i = 0; i < n; i++) {
		ret->index_oid = (uint32_t)strtoul(PQgetvalue(res, i, 0), NULL, 10);
		ret->column[i] = arena_strdup(a, PQgetvalue(res, i, 1));
		usable &= PQgetvalue(res, i, 2)[0] == 't' && PQgetvalue(res, i, 3)[0] == 't';
	}
	ret->count = usable ? (uint16_t)n : 0;
	PQclear(res);
	return 0;
}

bool shape_needs_text(const struct schema *s)
{
	for (uint16_t i = 0; s->land != NULL && i < s->count; i++)
		if (s->land[i].kind == LAND_BY_TEXT)
			return true;
	return false;
}
