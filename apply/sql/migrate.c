/*
 * migrate: the control schema's versions. Guarantees: a version is there
 * whole or not at all, versions come in order, and a program never works on
 * a schema newer than it knows.
 */
#include "apply/sql/migrate.h"

#include "proto/base/embed.h"
#include "proto/pg/pgconn.h"

EMBED(migrate_sql_001, "apply/sql/001_control.sql");
EMBED(migrate_sql_002, "apply/sql/002_lived.sql");
EMBED(migrate_sql_003, "apply/sql/003_rebuild.sql");
EMBED(migrate_sql_004, "apply/sql/004_reports.sql");
EMBED(migrate_sql_005, "apply/sql/005_models.sql");
EMBED(migrate_sql_006, "apply/sql/006_published.sql");
EMBED(migrate_sql_007, "apply/sql/007_http.sql");

/* Version n is at n - 1. */
static const char *const versions[] = {migrate_sql_001, migrate_sql_002, migrate_sql_003,
				       migrate_sql_004, migrate_sql_005, migrate_sql_006,
				       migrate_sql_007};

int migrate_latest(void)
{
	return (int)ARRAY_LEN(versions);
}

const char *migrate_sql(int number)
{
	RT_ASSERT(number >= 1 && number <= migrate_latest());
	return versions[number - 1];
}

/* First column of the one row that sql gives, as a number. */
static int query_int(PGconn *c, const char *sql, int *ret, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_exec(c, &res, err, "%s", sql);
	if (rc != 0)
		return rc;
	*ret = PQntuples(res) == 1 ? (int)strtol(PQgetvalue(res, 0, 0), NULL, 10) : 0;
	PQclear(res);
	return 0;
}

int migrate_version(PGconn *c, int *ret, struct rt_err *err)
{
	int there;
	int rc = query_int(c,
			   "SELECT count(*) FROM pg_catalog.pg_tables "
			   "WHERE schemaname = 'rolag' AND tablename = 'migration'",
			   &there, err);
	if (rc != 0)
		return rc;
	if (there == 0) {
		*ret = 0;
		return 0;
	}
	return query_int(c, "SELECT coalesce(max(number), 0) FROM rolag.migration", ret, err);
}

static int too_new(int version, struct rt_err *err)
{
	return rt_fail(err, ERR_PERMANENT,
		       "the warehouse's control schema is version %d, this program knows %d; mend: "
		       "run the newer program",
		       version, migrate_latest());
}

static int create_schema(PGconn *c, struct rt_err *err)
{
	int there;
	int rc =
		query_int(c, "SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = 'rolag'",
			  &there, err);
	/* Not IF NOT EXISTS: that asks for CREATE on the database even where the schema is there. */
	if (rc == 0 && there == 0)
		rc = pgc_exec(c, NULL, err, "CREATE SCHEMA rolag");
	return rc;
}

static int run_missing(PGconn *c, int *ret_ran, struct rt_err *err)
{
	int version;
	/* Held to the end of the transaction: the schema may not be there to lock. */
	int rc =
		pgc_exec(c, NULL, err, "SELECT pg_advisory_xact_lock(hashtext('rolag.migration'))");
	if (rc == 0)
		rc = migrate_version(c, &version, err);
	if (rc != 0)
		return rc;
	if (version > migrate_latest())
		return too_new(version, err);
	if (version == 0 && (rc = create_schema(c, err)) != 0)
		return rc;
	for (int n = version + 1; n <= migrate_latest(); n++) {
		rc = pgc_exec(c, NULL, err, "%s", migrate_sql(n));
		if (rc == 0)
			rc = pgc_exec(c, NULL, err,
				      "INSERT INTO rolag.migration (number, program) "
				      "VALUES (%d, 'rolag " ROLAG_VERSION "')",
				      n);
		if (rc != 0)
			return rt_context(err, "control schema version %d", n);
	}
	*ret_ran = migrate_latest() - version;
	return 0;
}

int migrate_run(PGconn *c, int *ret_ran, struct rt_err *err)
{
	int ran = 0;
	int rc = pgc_exec(c, NULL, err, "BEGIN");
	if (rc != 0)
		return rc;
	rc = run_missing(c, &ran, err);
	if (rc != 0) {
		struct rt_err ignored; /* the first error is the one to tell */
		(void)!pgc_exec(c, NULL, &ignored, "ROLLBACK");
		return rc;
	}
	rc = pgc_exec(c, NULL, err, "COMMIT");
	if (rc == 0)
		*ret_ran = ran;
	return rc;
}

int migrate_check(PGconn *c, struct rt_err *err)
{
	int version;
	int rc = migrate_version(c, &version, err);
	if (rc != 0)
		return rc;
	if (version > migrate_latest())
		return too_new(version, err);
	if (version < migrate_latest())
		return rt_fail(
			err, ERR_PERMANENT,
			"the warehouse's control schema is version %d, this program needs %d; "
			"mend: rolag init",
			version, migrate_latest());
	return 0;
}
