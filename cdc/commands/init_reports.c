/*
 * init_reports: what the companion of reports is given, where it has a role of
 * its own. Guarantees: reading of what is landed, writing of its own control
 * tables, and nothing else.
 */
#include "apply/reports/build.h"
#include "cdc/commands/companion.h"
#include "cdc/commands/init.h"

static void grant_control(struct buf *b, const char *role)
{
	for (size_t i = 0; i < companion_right_count; i++) {
		buf_printf(b, "GRANT %s ON rolag.%s TO ", companion_rights[i].verbs,
			   companion_rights[i].table);
		pgc_ident(b, role);
		buf_str(b, ";\n");
	}
}

/* Also on what is landed later: apply makes tables with this role's default privileges. */
static void grant_landed(const struct init *in, struct buf *b, const char *role)
{
	static const char *const what[] = {"GRANT SELECT ON ALL TABLES IN SCHEMA ",
					   "ALTER DEFAULT PRIVILEGES IN SCHEMA "};
	for (size_t i = 0; i < ARRAY_LEN(what); i++) {
		buf_str(b, what[i]);
		pgc_ident(b, in->s.warehouse.schema);
		buf_str(b, i == 0 ? " TO " : " GRANT SELECT ON TABLES TO ");
		pgc_ident(b, role);
		buf_str(b, ";\n");
	}
}

static void grant_usage(struct buf *b, const char *schema, const char *role)
{
	buf_str(b, "GRANT USAGE ON SCHEMA ");
	pgc_ident(b, schema);
	buf_str(b, " TO ");
	pgc_ident(b, role);
	buf_str(b, ";\n");
}

/* *ret: it may do all of it already. */
static int may_all(struct init *in, const char *role, bool *ret, struct rt_err *err)
{
	const char *found = NULL;
	const char *params[] = {role, in->s.warehouse.schema};
	*ret = true;
	for (size_t i = 0; *ret && i < companion_right_count; i++) {
		const char *right[] = {role, companion_rights[i].table, companion_rights[i].verbs};
		int rc = estate_text(in->warehouse, in->arena, &found, err,
				     "SELECT bool_and(has_table_privilege($1, 'rolag.' || $2, v)) "
				     "FROM regexp_split_to_table($3, ', ') v",
				     3, right);
		if (rc != 0)
			return rc;
		*ret = found != NULL && found[0] == 't';
	}
	if (!*ret)
		return 0;
	int rc = estate_text(
		in->warehouse, in->arena, &found, err,
		"SELECT has_schema_privilege($1, 'rolag', 'USAGE') AND has_schema_privilege($1, "
		"$2, "
		"'USAGE') AND NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = "
		"$2::regnamespace AND c.relkind IN ('r', 'p') AND NOT has_table_privilege($1, "
		"c.oid, "
		"'SELECT')) AND EXISTS (SELECT FROM pg_default_acl d, aclexplode(d.defaclacl) x "
		"WHERE d.defaclnamespace = $2::regnamespace AND d.defaclobjtype = 'r' AND "
		"x.grantee "
		"= $1::regrole AND d.defaclrole = current_user::regrole)",
		2, params);
	*ret = rc == 0 && found != NULL && found[0] == 't';
	return rc;
}

int init_reports_make(struct init *in, struct rt_err *err)
{
	const char *role = companion_role(in->arena, &in->s), *there;
	bool done;
	if (role == NULL)
		return 0;
	int rc = estate_text(in->warehouse, in->arena, &there, err,
			     "SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = $1", 1, &role);
	if (rc != 0)
		return rc;
	if (there == NULL)
		return rt_fail(err, ERR_PERMANENT,
			       "warehouse: there is no role %s for the companion "
			       "(reports.connect); mend: rolag init --print-sql warehouse",
			       role);
	rc = may_all(in, role, &done, err);
	if (rc != 0)
		return rc;
	if (done) {
		init_says("warehouse", "the companion's role %s has its rights", role);
		return 0;
	}
	struct buf sql = BUF_INIT;
	grant_usage(&sql, "rolag", role);
	grant_usage(&sql, in->s.warehouse.schema, role);
	grant_control(&sql, role);
	grant_landed(in, &sql, role);
	rc = pgc_exec(in->warehouse, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	if (rc == 0)
		init_made(in, "warehouse",
			  "granted the companion's role %s what it reads and "
			  "writes",
			  role);
	return rc;
}

/* ---- for the DBA ---- */

/* Schemas of sources that somebody else fills; granted where they are there by now. */
static int print_sources(const struct init *in, struct buf *b, const char *role, struct rt_err *err)
{
	struct models *m;
	if (in->s.models.path[0] == '\0')
		return 0;
	int rc = build_read_project(in->arena, in->s.models.path, &m, err);
	for (size_t i = 0; rc == 0 && i < m->source_count; i++) {
		const char *schema = m->source[i].schema;
		bool first = !m->source[i].landed;
		for (size_t k = 0; first && k < i; k++)
			first = m->source[k].landed || strcmp(m->source[k].schema, schema) != 0;
		if (!first)
			continue;
		buf_str(b, "DO $do$ BEGIN\n    IF to_regnamespace(");
		pgc_literal(b, schema);
		buf_str(b, ") IS NOT NULL THEN\n        ");
		grant_usage(b, schema, role);
		buf_str(b, "        GRANT SELECT ON ALL TABLES IN SCHEMA ");
		pgc_ident(b, schema);
		buf_str(b, " TO ");
		pgc_ident(b, role);
		buf_str(b, ";\n    END IF;\nEND $do$;\n");
	}
	return rc;
}

int init_reports_print(const struct init *in, struct buf *b, const char *role, struct rt_err *err)
{
	buf_printf(
		b,
		"\n-- The companion of reports: it makes schemas for models, and shows them in "
		"staging, intermediate\n-- and outputs. `rolag init`, run by the role above, "
		"lets it read %s and what it needs of rolag, and\n-- write the control tables of "
		"reports and models; no landed table.\n",
		in->s.warehouse.schema);
	init_sql_role(b, role, "LOGIN");
	const char *database = conninfo_value(in->arena, in->s.warehouse.connect, "dbname", role);
	init_sql_grant(b, "CONNECT, CREATE", database, role);
	return print_sources(in, b, role, err);
}
