/* swap_sql: queries of the catalog. Guarantees: what comes out is quoted, and holds no row value. */
#include "apply/stream/swap_sql.h"

/* Which view reads which relation: by its rule, by the type of a column, or by a relation's row type. */
#define EDGES                                                                                      \
	"rule AS (SELECT r.oid, r.ev_class AS view FROM pg_rewrite r"                              \
	" JOIN pg_class v ON v.oid = r.ev_class"                                                   \
	" WHERE v.relkind = 'v' AND r.rulename = '_RETURN'),"                                      \
	"read AS (SELECT rule.view, d.refclassid, d.refobjid FROM pg_depend d"                     \
	" JOIN rule ON rule.oid = d.objid WHERE d.classid = 'pg_rewrite'::regclass"                \
	" UNION SELECT v.oid, d.refclassid, d.refobjid FROM pg_depend d"                           \
	" JOIN pg_class v ON v.oid = d.objid AND v.relkind = 'v'"                                  \
	" WHERE d.classid = 'pg_class'::regclass),"                                                \
	"edge AS MATERIALIZED (SELECT view, refobjid AS rel FROM read"                             \
	" WHERE refclassid = 'pg_class'::regclass AND refobjid <> view"                            \
	" UNION SELECT view, coalesce(nullif(y.typrelid, 0), e.typrelid) FROM read"                \
	" JOIN pg_type y ON y.oid = refobjid"                                                      \
	" LEFT JOIN pg_type e ON e.oid = y.typelem"                                                \
	" WHERE refclassid = 'pg_type'::regclass)"

const char swap_views_sql[] =
	"WITH RECURSIVE " EDGES
	", tree AS (SELECT view, 1 AS depth FROM edge WHERE rel = ANY ($1::oid[])"
	" UNION SELECT e.view, t.depth + 1 FROM tree t JOIN edge e ON e.rel = t.view"
	" WHERE t.depth < 100)"
	" SELECT c.oid, c.oid::regclass::text, pg_get_userbyid(c.relowner),"
	" pg_get_viewdef(c.oid), coalesce((SELECT ' WITH (' || string_agg("
	"  format('%I = %L', split_part(o, '=', 1), substr(o, strpos(o, '=') + 1)), ', ') || ')'"
	"  FROM unnest(c.reloptions) o), ''),"
	" EXISTS (SELECT FROM edge WHERE view = c.oid AND rel = ANY ($1::oid[]))"
	" FROM (SELECT view, max(depth) AS depth FROM tree GROUP BY view) t"
	" JOIN pg_class c ON c.oid = t.view ORDER BY t.depth, c.oid";

/*
 * What refers to a relation may do so by its row type, or an array of it. Not
 * of interest: what belongs to it and is made with it or carried over (toast,
 * types, key, defaults, indexes that are not unique, statistics).
 */
const char swap_dependents_sql[] =
	"WITH rel AS (SELECT c.* FROM pg_class c WHERE c.oid = ANY ($1::oid[])),"
	"named AS (SELECT 'pg_class'::regclass AS class, oid, oid AS rel FROM rel"
	" UNION ALL SELECT 'pg_type'::regclass, reltype, oid FROM rel"
	" UNION ALL SELECT 'pg_type'::regclass, y.typarray, rel.oid FROM rel"
	"  JOIN pg_type y ON y.oid = rel.reltype WHERE y.typarray <> 0),"
	"found AS (SELECT DISTINCT d.classid, d.objid, n.rel,"
	"  CASE WHEN d.classid = 'pg_class'::regclass THEN d.objsubid ELSE 0 END AS sub"
	" FROM pg_depend d JOIN named n ON n.class = d.refclassid AND n.oid = d.refobjid"
	" WHERE d.deptype <> 'i'),"
	"thing AS (SELECT f.classid, f.objid, f.sub, f.rel, c.relkind, k.contype, r.ev_class,"
	"  w.relkind AS ruled, i.type, i.identity, c.relname"
	" FROM found f"
	" CROSS JOIN LATERAL pg_identify_object(f.classid, f.objid, f.sub) i"
	" LEFT JOIN pg_class c ON f.classid = 'pg_class'::regclass"
	"  AND c.oid = f.objid"
	" LEFT JOIN pg_index x ON x.indexrelid = c.oid"
	" LEFT JOIN pg_constraint k ON f.classid = 'pg_constraint'::regclass"
	"  AND k.oid = f.objid"
	" LEFT JOIN pg_constraint u ON u.conindid = x.indexrelid AND u.contype IN ('u', "
	"'x')"
	" LEFT JOIN pg_rewrite r ON f.classid = 'pg_rewrite'::regclass"
	"  AND r.oid = f.objid"
	" LEFT JOIN pg_class w ON w.oid = r.ev_class"
	" LEFT JOIN pg_attrdef a ON f.classid = 'pg_attrdef'::regclass"
	"  AND a.oid = f.objid"
	" LEFT JOIN pg_trigger g ON f.classid = 'pg_trigger'::regclass"
	"  AND g.oid = f.objid"
	" WHERE (c.relkind = 'v' OR (r.rulename = '_RETURN' AND w.relkind = 'v')"
	"  OR (x.indrelid = ANY ($1::oid[]) AND NOT x.indisunique AND u.oid IS NULL)"
	"  OR (k.conrelid = ANY ($1::oid[]) AND k.contype IN ('p', 'n')"
	"   AND f.rel = k.conrelid) OR (a.adrelid = ANY ($1::oid[])"
	"   AND (SELECT relkind FROM rel WHERE oid = a.adrelid) <> 'v') OR g.tgisinternal"
	"  OR f.classid = 'pg_statistic_ext'::regclass) IS NOT TRUE"
	"  AND f.objid <> ALL ($1::oid[])),"
	"line AS (SELECT DISTINCT CASE WHEN ruled = 'm' THEN 'materialized view ' || "
	"ev_class::regclass"
	"  ELSE type || ' ' || identity END AS what, rel::regclass::text AS rel, CASE"
	" WHEN ruled = 'm' THEN 'DROP MATERIALIZED VIEW ' || ev_class::regclass"
	" WHEN contype IS NOT NULL THEN (SELECT format('ALTER TABLE %s DROP CONSTRAINT %I',"
	"   k.conrelid::regclass, k.conname) FROM pg_constraint k WHERE k.oid = objid)"
	" WHEN type = 'publication relation' THEN (SELECT format('ALTER PUBLICATION %I DROP TABLE "
	"%s',"
	"   p.pubname, rel::regclass) FROM pg_publication_rel m"
	"   JOIN pg_publication p ON p.oid = m.prpubid WHERE m.oid = objid)"
	" WHEN type IN ('policy', 'trigger', 'rule') THEN 'DROP ' || upper(type) || ' ' || identity"
	" WHEN relkind IN ('r', 'p', 'f') AND sub = 0 THEN format('ALTER TABLE %s NO INHERIT %s', "
	"identity,"
	"   rel::regclass)"
	" WHEN relkind = 'S' THEN format('ALTER SEQUENCE %s OWNED BY NONE', identity)"
	" WHEN type IN ('table column', 'foreign table column') THEN (SELECT format("
	"   'ALTER TABLE %s DROP COLUMN %I', t.attrelid::regclass, t.attname)"
	"   FROM pg_attribute t WHERE t.attrelid = objid AND t.attnum = sub)"
	" WHEN type = 'default value' THEN (SELECT format('ALTER TABLE %s ALTER COLUMN %I DROP "
	"DEFAULT',"
	"   t.attrelid::regclass, t.attname) FROM pg_attrdef a"
	"   JOIN pg_attribute t ON t.attrelid = a.adrelid AND t.attnum = a.adnum"
	"   WHERE a.oid = objid)"
	" WHEN type = 'composite type column' THEN (SELECT format('ALTER TYPE %s DROP ATTRIBUTE "
	"%I',"
	"   t.attrelid::regclass, t.attname) FROM pg_attribute t WHERE t.attrelid = "
	"objid"
	"   AND t.attnum = sub)"
	" ELSE 'DROP ' || upper(type) || ' ' || identity END AS mend FROM thing"
	" WHERE relkind IS DISTINCT FROM 'm' AND NOT (type = 'index' AND EXISTS (SELECT FROM "
	"pg_constraint k"
	"   WHERE k.conindid = objid)))"
	" SELECT format('%s depends on %s and cannot be carried over; mend: %s (and make it again "
	"afterwards)', what, rel, mend) FROM line"
	" UNION ALL SELECT format('%s is not a plain table; mend: see to it by hand', "
	"oid::regclass)"
	" FROM rel WHERE relkind NOT IN ('r', 'v') OR relispartition ORDER BY 1";

#define SUPER "(SELECT rolsuper FROM pg_roles WHERE rolname = current_user)"

const char swap_table_rights_sql[] =
	"WITH rel AS (SELECT c.*, pg_get_userbyid(c.relowner) AS owner,"
	" n.nspname FROM pg_class c JOIN pg_namespace n"
	" ON n.oid = c.relnamespace WHERE c.oid = ANY ($1::oid[]))"
	" SELECT format('table %s belongs to %I, of which %I is no member; mend: GRANT %I TO %I',"
	" oid::regclass, owner, current_user, owner, current_user) FROM rel"
	" WHERE NOT pg_has_role(current_user, relowner, 'USAGE')"
	" UNION ALL SELECT DISTINCT format('table %s belongs to %I, which has no CREATE on schema "
	"%I; "
	"mend: GRANT CREATE ON SCHEMA %I TO %I', oid::regclass, owner, nspname, nspname, owner)"
	" FROM rel WHERE owner <> current_user AND NOT " SUPER
	" AND pg_has_role(current_user, relowner, 'USAGE')"
	" AND NOT has_schema_privilege(relowner, relnamespace, 'CREATE')";

const char swap_view_rights_sql[] =
	"WITH rel AS (SELECT c.*, pg_get_userbyid(c.relowner) AS owner,"
	" n.nspname, pg_has_role(current_user, c.relowner, 'USAGE')"
	" AND pg_has_role(current_user, c.relowner, 'MEMBER') AS member FROM pg_class c JOIN "
	"pg_namespace n"
	" ON n.oid = c.relnamespace WHERE c.oid = ANY ($1::oid[]))"
	" SELECT format('view %s belongs to %I, of which %I is no member; mend: %s', oid::regclass,"
	" owner, current_user, CASE WHEN (SELECT rolsuper FROM pg_roles WHERE oid = relowner)"
	" THEN format('ALTER VIEW %s OWNER TO %I', oid::regclass, current_user)"
	" ELSE format('GRANT %I TO %I', owner, current_user) END) FROM rel WHERE NOT member"
	" UNION ALL SELECT format('view %s belongs to %I, which has no CREATE on schema %I; "
	"mend: GRANT CREATE ON SCHEMA %I TO %I', oid::regclass, owner, nspname, nspname, owner)"
	" FROM rel WHERE member AND NOT " SUPER
	" AND NOT has_schema_privilege(relowner, relnamespace, 'CREATE')";

/* Counterparts are found by what they are, less names; two of a kind by their order. */
const char swap_extras_sql[] =
	"WITH head AS (SELECT i.indexrelid AS oid, i.indrelid AS rel, c.relname AS name, "
	"c.relnamespace,"
	"  i.indisprimary AS key, substr(pg_get_indexdef(i.indexrelid), length(format("
	"  'CREATE INDEX %I ON %s ', c.relname, i.indrelid::regclass)) + 1) AS tail"
	" FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
	" WHERE i.indrelid IN ($1::oid, $2::oid) AND (i.indisprimary OR NOT i.indisunique)"
	"  AND i.indisvalid AND NOT EXISTS (SELECT FROM pg_constraint k"
	"   WHERE k.conindid = i.indexrelid AND k.contype = 'x')),"
	"stat AS (SELECT s.oid, s.stxrelid AS rel, s.stxname AS name, s.stxnamespace AS "
	"relnamespace,"
	"  substr(d.def, length(d.head) + 1, length(d.def) - length(d.head) - length(d.tail)) AS "
	"tail"
	" FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = "
	"s.stxnamespace"
	" CROSS JOIN LATERAL (SELECT pg_get_statisticsobjdef(s.oid) AS def,"
	"  format('CREATE STATISTICS %I.%I', n.nspname, s.stxname) AS head,"
	"  format(' FROM %s', s.stxrelid::regclass) AS tail) d"
	" WHERE s.stxrelid IN ($1::oid, $2::oid)),"
	"all_of AS (SELECT CASE WHEN key THEN 'key' ELSE 'index' END AS kind, oid, rel, name, "
	"relnamespace,"
	"  CASE WHEN key THEN '' ELSE tail END AS tail FROM head"
	" UNION ALL SELECT 'statistics', oid, rel, name, relnamespace, tail FROM stat),"
	"item AS (SELECT a.*, format('%I.%I', n.nspname, a.name) AS whole,"
	"  row_number() OVER (PARTITION BY rel, kind, tail ORDER BY a.oid) AS nth FROM all_of a"
	" JOIN pg_namespace n ON n.oid = a.relnamespace)"
	" SELECT l.kind, l.whole, l.name, l.oid, CASE l.kind"
	"  WHEN 'index' THEN format('CREATE INDEX %I ON %s %s', 'rolag_new_' || l.oid,"
	"   $2::oid::regclass, l.tail)"
	"  WHEN 'statistics' THEN format('CREATE STATISTICS %s.%I%s FROM %s', (SELECT"
	"   relnamespace::regnamespace::text FROM pg_class WHERE oid = $2::oid),"
	"   'rolag_new_' || l.oid, l.tail, $2::oid::regclass) END, b.whole"
	" FROM item l LEFT JOIN item b ON b.rel = $2::oid AND b.kind = l.kind AND b.tail = l.tail"
	"  AND b.nth = l.nth WHERE l.rel = $1::oid ORDER BY l.kind, l.oid";

#define GRANTEE                                                                                    \
	"CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE "                                                \
	"quote_ident(pg_get_userbyid(x.grantee)) END"

const char swap_revoke_sql[] =
	"SELECT DISTINCT format('REVOKE ALL ON TABLE %s FROM %s', c.oid::regclass, " GRANTEE ")"
	" FROM pg_class c, LATERAL aclexplode(coalesce(c.relacl,"
	" acldefault('r', c.relowner))) x WHERE c.oid = $1::oid"
	" UNION ALL SELECT DISTINCT format('REVOKE ALL (%I) ON TABLE %s FROM %s', a.attname,"
	" a.attrelid::regclass, " GRANTEE ") FROM pg_attribute a,"
	" LATERAL aclexplode(a.attacl) x WHERE a.attrelid = $1::oid"
	" AND a.attnum > 0 AND NOT a.attisdropped";

const char swap_grant_sql[] =
	"SELECT format('GRANT %s ON TABLE %s TO %s%s', x.privilege_type, $3::text, " GRANTEE ","
	" CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)"
	" FROM pg_class c, LATERAL aclexplode(coalesce(c.relacl,"
	" acldefault('r', c.relowner))) x WHERE c.oid = $1::oid"
	" UNION ALL SELECT format('GRANT %s (%I) ON TABLE %s TO %s%s', x.privilege_type, a.attname,"
	" $3::text, " GRANTEE ", CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)"
	" FROM pg_attribute a JOIN pg_attribute b ON b.attrelid = $2::oid"
	" AND b.attname = a.attname AND NOT b.attisdropped,"
	" LATERAL aclexplode(a.attacl) x WHERE a.attrelid = $1::oid"
	" AND a.attnum > 0 AND NOT a.attisdropped";

const char swap_settings_sql[] =
	"WITH o AS (SELECT c.*, t.reloptions AS toast FROM pg_class c"
	"  LEFT JOIN pg_class t ON t.oid = c.reltoastrelid WHERE c.oid = $1::oid),"
	"n AS (SELECT c.*, t.reloptions AS toast FROM pg_class c"
	"  LEFT JOIN pg_class t ON t.oid = c.reltoastrelid WHERE c.oid = $2::oid),"
	"col AS (SELECT a.attname, a.attstattarget, a.attoptions FROM pg_attribute a"
	"  JOIN pg_attribute b ON b.attrelid = $2::oid AND b.attname = a.attname"
	"   AND NOT b.attisdropped WHERE a.attrelid = $1::oid AND a.attnum > 0"
	"   AND NOT a.attisdropped),"
	"made AS (SELECT 1 AS nth, format('OWNER TO %I', pg_get_userbyid(o.relowner)) "
	"AS sql"
	"  FROM o, n WHERE o.relowner <> n.relowner"
	" UNION ALL SELECT 2, format('SET (%I = %L)', split_part(x, '=', 1), substr(x, strpos(x, "
	"'=')"
	"  + 1)) FROM o, n, unnest(o.reloptions) x WHERE x <> ALL (coalesce(n.reloptions, '{}'))"
	" UNION ALL SELECT 2, format('SET (toast.%I = %L)', split_part(x, '=', 1), substr(x,"
	"  strpos(x, '=') + 1)) FROM o, n, unnest(o.toast) x WHERE n.reltoastrelid <> 0"
	"  AND x <> ALL (coalesce(n.toast, '{}'))"
	" UNION ALL SELECT 3, format('ALTER COLUMN %I SET STATISTICS %s', attname, attstattarget)"
	"  FROM col WHERE attstattarget >= 0"
	" UNION ALL SELECT 3, format('ALTER COLUMN %I SET (%I = %L)', attname, split_part(x, '=', "
	"1),"
	"  substr(x, strpos(x, '=') + 1)) FROM col, unnest(attoptions) x"
	" UNION ALL SELECT 4, 'ENABLE ROW LEVEL SECURITY' FROM o WHERE relrowsecurity"
	" UNION ALL SELECT 4, 'FORCE ROW LEVEL SECURITY' FROM o WHERE relforcerowsecurity"
	" UNION ALL SELECT 5, CASE o.relreplident WHEN 'f' THEN 'REPLICA IDENTITY FULL'"
	"  ELSE 'REPLICA IDENTITY NOTHING' END FROM o, n WHERE o.relreplident IN ('f', 'n')"
	"  AND o.relreplident <> n.relreplident)"
	" SELECT format('ALTER TABLE %s %s', $2::oid::regclass, sql) FROM made ORDER BY nth, sql";

const char swap_comments_sql[] =
	"SELECT CASE d.objsubid WHEN 0 THEN format('COMMENT ON TABLE %s IS %L', $2::oid::regclass,"
	" d.description) ELSE format('COMMENT ON COLUMN %s.%I IS %L', $2::oid::regclass, a.attname,"
	" d.description) END FROM pg_description d"
	" LEFT JOIN pg_attribute a ON a.attrelid = d.objoid AND a.attnum = d.objsubid"
	" WHERE d.classoid = 'pg_class'::regclass AND d.objoid = $1::oid"
	" AND (d.objsubid = 0 OR EXISTS (SELECT FROM pg_attribute b"
	"  WHERE b.attrelid = $2::oid AND b.attname = a.attname AND NOT b.attisdropped))"
	" AND NOT EXISTS (SELECT FROM rolag.comment_made m WHERE m.schema_name = $3"
	"  AND m.table_name = $4 AND m.column_name = coalesce(a.attname, '')"
	"  AND m.hash = md5(d.description))";

const char swap_view_comments_sql[] =
	"SELECT CASE d.objsubid WHEN 0 THEN format('COMMENT ON VIEW %s IS %L', $2::text,"
	" d.description) ELSE format('COMMENT ON COLUMN %s.%I IS %L', $2::text, a.attname,"
	" d.description) END FROM pg_description d"
	" LEFT JOIN pg_attribute a ON a.attrelid = d.objoid AND a.attnum = d.objsubid"
	" WHERE d.classoid = 'pg_class'::regclass AND d.objoid = $1::oid";
