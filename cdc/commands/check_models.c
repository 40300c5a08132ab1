/* check_models: can the models be read, and may the role build them? Reads only. */
#include "apply/reports/build.h"
#include "cdc/commands/check.h"

void check_models(struct check *k, PGconn *warehouse)
{
	struct models *m;
	struct rt_err err;
	PGresult *res;
	if (k->s.models.path[0] == '\0')
		return;
	if (build_read_project(k->arena, k->s.models.path, &m, &err) != 0)
		check_error(k, "models", &err);
	else
		check_ok(k, "models: %zu models and seeds in %s", m->model_count, k->s.models.path);
	if (warehouse == NULL || k->s.reports.definitions[0] != '\0')
		return; /* with reports it is the companion's role that builds */
	if (pgc_query(warehouse, &res, &err,
		      "SELECT has_database_privilege(current_database(), 'CREATE')", 0,
		      NULL) != 0) {
		check_error(k, "models", &err);
		return;
	}
	if (PQgetvalue(res, 0, 0)[0] == 't')
		check_ok(k, "models: the role may make the schemas of runs");
	else
		check_fail(k,
			   arena_printf(k->arena, "GRANT CREATE ON DATABASE \"%s\" TO \"%s\";",
					PQdb(warehouse), PQuser(warehouse)),
			   "models: the role may not make the schemas of runs");
	PQclear(res);
}
