/*
 * check_mirrors: what each mirrored table needs on both sides: rights, how it
 * is published, an identity by which its changes can be told, types that the
 * warehouse can take, and how its mirror stands. Reads only.
 */
#include "cdc/commands/check.h"

#include "proto/pg/published.h"
#include "proto/pg/shape.h"

static bool yes(const PGresult *res, int row, int column)
{
	return PQgetvalue(res, row, column)[0] == 't';
}

static const char *table_name(struct check *k, const struct mirror *m)
{
	struct buf b = BUF_INIT;
	estate_table(&b, m->nspname, m->relname);
	const char *name = arena_strdup(k->arena, buf_cstr(&b));
	buf_release(&b);
	return name;
}

static struct published_want want_of(struct check *k, const struct mirror *m)
{
	return (struct published_want){
		.publication = arena_printf(
			k->arena, m->append_only ? SETTINGS_INSERTS_FMT : SETTINGS_CHANGES_FMT,
			k->s.pipeline),
		.nspname = m->nspname,
		.relname = m->relname,
		.changes = !m->append_only};
}

/* ---- the core: how it is published ---- */

static void check_published(struct check *k, PGconn *core)
{
	struct published_want *want = arena_alloc(k->arena, k->mirrors.count * sizeof(*want));
	struct buf sql = BUF_INIT;
	struct rt_err err;
	PGresult *res;
	for (uint16_t i = 0; i < k->mirrors.count; i++)
		want[i] = want_of(k, &k->mirrors.item[i]);
	published_sql(&sql, want, k->mirrors.count);
	int rc = pgc_query(core, &res, &err, buf_cstr(&sql), 0, NULL);
	buf_release(&sql);
	if (rc != 0) {
		check_error(k, "mirrors", &err);
		return;
	}
	for (uint16_t i = 0; i < k->mirrors.count; i++) {
		enum published_problem p = published_problem(res, i);
		const char *mend = published_mend(k->arena, &want[i], p);
		bool sql_mend = strncmp(mend, "ALTER", 5) == 0 || strncmp(mend, "BEGIN", 5) == 0;
		if (p != PUBLISHED_WELL)
			check_fail(k,
				   arena_printf(k->arena, "%s%s", mend,
						sql_mend ? " (by its owner); apply then syncs it"
							 : ""),
				   "mirror %s: it %s", k->mirrors.item[i].source,
				   published_text(k->arena, &want[i], p));
	}
	PQclear(res);
}

/* In both publications, its changes could come twice, or with two column lists. */
static void check_other(struct check *k, PGconn *core, const struct mirror *m)
{
	struct rt_err err;
	PGresult *res;
	const char *other =
		arena_printf(k->arena, m->append_only ? SETTINGS_CHANGES_FMT : SETTINGS_INSERTS_FMT,
			     k->s.pipeline);
	const char *params[] = {other, m->nspname, m->relname};
	if (pgc_query(core, &res, &err,
		      "SELECT FROM pg_catalog.pg_publication_tables WHERE pubname = $1 AND "
		      "schemaname = $2 AND tablename = $3",
		      3, params) != 0) {
		check_error(k, m->source, &err);
		return;
	}
	if (PQntuples(res) > 0)
		check_fail(k,
			   arena_printf(k->arena,
					"ALTER PUBLICATION \"%s\" DROP TABLE %s; (by its owner)",
					other, table_name(k, m)),
			   "mirror %s: it is in publication %s, too, which is not its own",
			   m->source, other);
	PQclear(res);
}

/* ---- the core: rights and identity ---- */

static void check_core_rights(struct check *k, PGconn *core, const struct mirror *m,
			      const PGresult *res)
{
	if (!yes(res, 0, 0))
		check_fail(k,
			   arena_printf(k->arena, "GRANT USAGE ON SCHEMA \"%s\" TO \"%s\";",
					m->nspname, PQuser(core)),
			   "mirror %s: the role may not use the schema", m->source);
	if (!yes(res, 0, 1))
		check_fail(k,
			   arena_printf(k->arena, "GRANT SELECT ON %s TO \"%s\";", table_name(k, m),
					PQuser(core)),
			   "mirror %s: the role may not read it, which its sync does", m->source);
	if (yes(res, 0, 2))
		check_fail(k, arena_printf(k->arena, "ALTER ROLE \"%s\" BYPASSRLS;", PQuser(core)),
			   "mirror %s: row level security hides rows from the role", m->source);
}

/* Of a table that is published already without one, check_identities says so. */
static void check_identity(struct check *k, const struct mirror *m, const PGresult *res)
{
	const char identity = PQgetvalue(res, 0, 3)[0];
	bool usable = yes(res, 0, 4), published = yes(res, 0, 5), key = yes(res, 0, 7);
	const char *index = PQgetisnull(res, 0, 6) ? NULL : PQgetvalue(res, 0, 6);
	if (m->append_only)
		return;
	if (!usable && !published)
		check_fail(k,
			   arena_printf(k->arena,
					"ALTER TABLE %s REPLICA IDENTITY %s%s; (by its owner; a "
					"short ACCESS EXCLUSIVE lock), or mirrors.append_only if "
					"its rows never change",
					table_name(k, m), index != NULL ? "USING INDEX " : "FULL",
					index != NULL ? index : ""),
			   "mirror %s: it has no replica identity: were its updates published, the "
			   "core's own UPDATE and DELETE would fail",
			   m->source);
	else if (identity == 'f' && !key)
		check_warn(k, NULL,
			   "mirror %s: it has no key: each update and delete searches the whole "
			   "mirror for its row, and verify compares it as a whole",
			   m->source);
}

static void check_types(struct check *k, PGconn *core, const struct mirror *m)
{
	struct shape_table t;
	struct rt_err err;
	int rc = shape_read(core, k->arena, m->nspname, m->relname, &t, &err);
	if (rc < 0)
		check_error(k, m->source, &err);
	for (uint16_t i = 0; rc == 0 && i < t.schema.count; i++) {
		const struct schema_land *l = &t.schema.land[i];
		const char *name = t.schema.column[i].name;
		if (strcmp(name, "_lsn") == 0)
			check_fail(k, "another name for it in the core, or do not mirror the table",
				   "mirror %s: its column _lsn has the name of ours", m->source);
		if (l->kind == LAND_BY_TEXT && k->s.capture.binary == BINARY_ON)
			check_fail(k, "capture.binary: auto",
				   "mirror %s: column %s means something in text form only, and "
				   "capture.binary is on",
				   m->source, name);
		else if (l->kind == LAND_BY_TEXT)
			check_ok(k,
				 "mirror %s: column %s lands as %s, and the stream comes in text "
				 "form",
				 m->source, name, l->type);
		if (l->kind == LAND_EXTENSION && k->extension_count < CHECK_EXTENSIONS_MAX)
			k->extension[k->extension_count++] =
				(struct check_extension){m, name, l->type, ""};
	}
	if (rc == 0 && t.generated[0] != '\0')
		check_ok(k, "mirror %s: without its generated columns: %s", m->source, t.generated);
}

/* usage, select, rls, identity, usable, published, an index that could be one, a key. */
static const char source_sql[] =
	"SELECT has_schema_privilege(n.oid, 'USAGE'), has_table_privilege(c.oid, 'SELECT'), "
	"row_security_active(c.oid), c.relreplident, CASE c.relreplident WHEN 'f' THEN true WHEN "
	"'n' THEN false ELSE EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid "
	"AND CASE c.relreplident WHEN 'd' THEN i.indisprimary AND i.indisvalid AND i.indimmediate "
	"ELSE i.indisreplident END) END, EXISTS (SELECT FROM pg_catalog.pg_publication_tables p "
	"WHERE p.pubname = $3 AND p.schemaname = n.nspname AND p.tablename = c.relname), (SELECT "
	"min(pg_catalog.quote_ident(x.relname)) FROM u JOIN pg_catalog.pg_class x ON x.oid = "
	"u.indexrelid), EXISTS (SELECT FROM u) FROM c JOIN pg_catalog.pg_namespace n ON n.oid = "
	"c.relnamespace";

static void check_source(struct check *k, PGconn *core, const struct mirror *m)
{
	static const char with[] =
		"WITH c AS (SELECT c.* FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n "
		"ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind "
		"IN ('r', 'p')), u AS (SELECT i.indexrelid FROM pg_catalog.pg_index i JOIN c ON "
		"c.oid = i.indrelid WHERE i.indisunique AND i.indimmediate AND i.indisvalid AND "
		"i.indpred IS NULL AND i.indexprs IS NULL AND NOT EXISTS (SELECT FROM "
		"pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attnotnull AND "
		"a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))) ";
	const char *params[] = {m->nspname, m->relname, want_of(k, m).publication};
	struct rt_err err;
	PGresult *res;
	if (pgc_query(core, &res, &err, arena_printf(k->arena, "%s%s", with, source_sql), 3,
		      params) != 0) {
		check_error(k, m->source, &err);
		return;
	}
	if (PQntuples(res) == 1) { /* else that it is gone is said with how it is published */
		check_core_rights(k, core, m, res);
		check_identity(k, m, res);
		check_other(k, core, m);
		check_types(k, core, m);
	}
	PQclear(res);
}

/* Which extension a type is of, as the warehouse needs it, too. */
static void find_extensions(struct check *k, PGconn *core)
{
	for (size_t i = 0; i < k->extension_count; i++) {
		struct rt_err err;
		const char *name;
		if (estate_text(
			    core, k->arena, &name, &err,
			    "SELECT e.extname FROM pg_catalog.pg_depend d JOIN "
			    "pg_catalog.pg_extension e ON e.oid = d.refobjid WHERE d.classid = "
			    "'pg_catalog.pg_type'::regclass AND d.objid = to_regtype($1) AND "
			    "d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = "
			    "'e'",
			    1, &k->extension[i].type) != 0)
			check_error(k, "mirrors", &err);
		else if (name != NULL)
			k->extension[i].extension = name;
	}
}

static void check_unwanted(struct check *k, PGconn *core)
{
	struct rt_err err;
	struct publication_view p;
	const char *name = arena_printf(k->arena, SETTINGS_CHANGES_FMT, k->s.pipeline);
	if (publication_read(core, k->arena, name, &p, &err) != 0) {
		check_error(k, "publication", &err);
		return;
	}
	for (size_t i = 0; p.exists && i < p.count; i++)
		if (mirror_find(&k->mirrors, p.table[i].schema, p.table[i].table) < 0)
			check_warn(
				k,
				arena_printf(k->arena,
					     "ALTER PUBLICATION \"%s\" DROP TABLE \"%s\".\"%s\"; "
					     "(by its owner)",
					     name, p.table[i].schema, p.table[i].table),
				"publication %s: %s.%s is not mirrored", name, p.table[i].schema,
				p.table[i].table);
}

void check_mirrors_core(struct check *k, PGconn *core)
{
	int fails = k->fails;
	check_unwanted(k, core);
	if (k->mirrors.count == 0)
		return;
	check_published(k, core);
	for (uint16_t i = 0; i < k->mirrors.count; i++)
		check_source(k, core, &k->mirrors.item[i]);
	find_extensions(k, core);
	if (k->fails == fails)
		check_ok(k,
			 "mirrors: the sources of all %u are there, readable, and published with "
			 "all their changes",
			 k->mirrors.count);
}

/* ---- the warehouse ---- */

static void check_extensions(struct check *k, PGconn *c)
{
	for (size_t i = 0; i < k->extension_count; i++) {
		const struct check_extension *e = &k->extension[i];
		struct rt_err err;
		const char *there;
		if (estate_text(c, k->arena, &there, &err, "SELECT to_regtype($1)", 1, &e->type) !=
		    0)
			check_error(k, e->mirror->source, &err);
		else if (there == NULL)
			check_fail(
				k,
				e->extension[0] == '\0'
					? "that type in the warehouse, or do not mirror the table"
					: arena_printf(k->arena,
						       "CREATE EXTENSION \"%s\"; in the "
						       "warehouse, in the same schema",
						       e->extension),
				"mirror %s: column %s is of type %s, which the warehouse has not",
				e->mirror->source, e->column, e->type);
	}
}

static void check_target(struct check *k, PGconn *c, const struct mirror *m)
{
	struct rt_err err;
	PGresult *res;
	if (pgc_query(c, &res, &err,
		      "SELECT pg_has_role(c.relowner, 'USAGE'), (SELECT bool_and("
		      "has_table_privilege(c.oid, p)) FROM unnest(ARRAY['SELECT', 'INSERT', "
		      "'UPDATE', 'DELETE']) p), (SELECT min(i.indexrelid::regclass::text) FROM "
		      "pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND NOT "
		      "i.indisprimary) FROM pg_catalog.pg_class c WHERE c.oid = to_regclass($1)",
		      1, &m->target) != 0) {
		check_error(k, m->source, &err);
		return;
	}
	if (PQntuples(res) == 0) {
		check_fail(k, arena_printf(k->arena, "rolag sync %s", m->relname),
			   "mirror %s: there is no table %s", m->source, m->target);
	} else {
		if (!yes(res, 0, 1))
			check_fail(k,
				   arena_printf(k->arena,
						"GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO "
						"\"%s\";",
						m->target, PQuser(c)),
				   "mirror %s: the role may not write %s", m->source, m->target);
		if (!yes(res, 0, 0))
			check_fail(k,
				   arena_printf(k->arena, "ALTER TABLE %s OWNER TO \"%s\";",
						m->target, PQuser(c)),
				   "mirror %s: %s is not the role's own, so that it cannot follow "
				   "an added column",
				   m->source, m->target);
		if (!PQgetisnull(res, 0, 2))
			check_warn(
				k,
				arena_printf(k->arena,
					     "DROP INDEX %s; (one that is not unique "
					     "is welcome)",
					     PQgetvalue(res, 0, 2)),
				"mirror %s: %s is a unique index of yours, which rows may break on "
				"their way",
				m->source, PQgetvalue(res, 0, 2));
	}
	PQclear(res);
}

static void check_state(struct check *k, PGconn *c, const struct mirror *m, int *waiting)
{
	const char *params[] = {k->s.pipeline, m->relname};
	struct rt_err err;
	PGresult *res;
	if (pgc_query(c, &res, &err,
		      "SELECT kind, state, coalesce(reason, ''), shape IS NOT NULL FROM "
		      "rolag.relation WHERE pipeline = $1 AND name = $2",
		      2, params) != 0) {
		check_error(k, m->source, &err);
		return;
	}
	if (PQntuples(res) == 0) {
		++*waiting;
	} else if (strcmp(PQgetvalue(res, 0, 0), "mirror") != 0) {
		check_fail(k, "another warehouse.schema, or do not mirror it",
			   "mirror %s: it would land as %s, which is a rollup's", m->source,
			   m->target);
	} else {
		*waiting += strcmp(PQgetvalue(res, 0, 1), "syncing") == 0;
		if (strcmp(PQgetvalue(res, 0, 1), "parked") == 0)
			check_fail(k, arena_printf(k->arena, "rolag sync %s", m->relname),
				   "mirror %s: it is parked: %s", m->source, PQgetvalue(res, 0, 2));
		if (yes(res, 0, 3))
			check_target(k, c, m);
	}
	PQclear(res);
}

void check_mirrors_warehouse(struct check *k, PGconn *c)
{
	int fails = k->fails, waiting = 0;
	check_extensions(k, c);
	for (uint16_t i = 0; k->control.version > 0 && i < k->mirrors.count; i++)
		check_state(k, c, &k->mirrors.item[i], &waiting);
	if (waiting > 0)
		check_ok(k, "mirrors: %d are yet to be read by apply", waiting);
	if (k->mirrors.count > 0 && k->fails == fails)
		check_ok(k, "mirrors: the tables of all %u stand as they should", k->mirrors.count);
}
