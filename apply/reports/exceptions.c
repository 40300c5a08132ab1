/* exceptions: two looks into the control tables, in whatever transaction is open. */
#include "apply/reports/exceptions.h"

#include "proto/pg/pgconn.h"

static bool counts(const json_t *sources, const char *name)
{
	size_t i;
	json_t *one;
	if (sources == NULL)
		return true;
	json_array_foreach(sources, i,
			   one) if (strcmp(json_string_value(one), name) == 0) return true;
	return false;
}

/*
 * Is it a reason not to publish? A table that is rebuilt has its old rows, one no longer landed is nobody's; what
 * stands beside one (built, or kept for an undo) is not read at all, and not in the list.
 */
static bool blocks_run(const json_t *one)
{
	const char *state = json_string_value(json_object_get(one, "state"));
	const char *reason = json_string_value(json_object_get(one, "reason"));
	return state == NULL || strcmp(state, "syncing") == 0 ||
	       (strcmp(state, "parked") == 0 && reason != NULL && reason[0] != '\0');
}

static int read_quarantine(PGconn *c, const char *pipeline, const json_t *sources, json_t *list,
			   struct rt_err *err)
{
	PGresult *res;
	int rc =
		pgc_query(c, &res, err,
			  "SELECT rollup, count(DISTINCT id), count(*) FROM rolag.quarantine WHERE "
			  "pipeline = $1 AND state <> 'skipped' GROUP BY rollup ORDER BY rollup "
			  "COLLATE \"C\"",
			  1, &pipeline);
	if (rc != 0)
		return rc;
	for (int i = 0; i < PQntuples(res); i++) {
		if (!counts(sources, PQgetvalue(res, i, 0)))
			continue;
		json_array_append_new(
			list,
			json_pack("{s:s, s:I, s:I}", "rollup", PQgetvalue(res, i, 0), "entities",
				  (json_int_t)strtoll(PQgetvalue(res, i, 1), NULL, 10), "events",
				  (json_int_t)strtoll(PQgetvalue(res, i, 2), NULL, 10)));
	}
	PQclear(res);
	return 0;
}

int exceptions_read(PGconn *c, const char *pipeline, const json_t *sources, json_t *list,
		    int *ret_blocks, struct rt_err *err)
{
	PGresult *res;
	size_t n;
	json_t *one;
	int rc = read_quarantine(c, pipeline, sources, list, err);
	if (rc == 0)
		rc = pgc_query(c, &res, err,
			       "SELECT name, state, coalesce(reason, '') FROM rolag.relation WHERE "
			       "pipeline = $1 AND state <> 'live' AND beside IS NULL ORDER BY "
			       "name COLLATE \"C\"",
			       1, &pipeline);
	if (rc != 0)
		return rc;
	for (int i = 0; i < PQntuples(res); i++) {
		const char *state = PQgetvalue(res, i, 1), *reason = PQgetvalue(res, i, 2);
		if (!counts(sources, PQgetvalue(res, i, 0)))
			continue;
		json_array_append_new(list,
				      json_pack("{s:s, s:s, s:s}", "table", PQgetvalue(res, i, 0),
						"state", state, "reason", reason));
	}
	PQclear(res);
	*ret_blocks = 0;
	json_array_foreach(list, n, one) *ret_blocks += blocks_run(one);
	return 0;
}

int exceptions_fail(const json_t *list, struct rt_err *err)
{
	size_t i;
	const json_t *one, *first = NULL;
	json_array_foreach(list, i, one) if (first == NULL && blocks_run(one)) first = one;
	const char *more = json_array_size(list) > 1 ? " (and there is more)" : "";
	const char *rollup = json_string_value(json_object_get(first, "rollup"));
	if (rollup != NULL)
		return rt_fail(err, ERR_PERMANENT,
			       "%lld entities of %s wait in quarantine%s; mend: rolag quarantine "
			       "list, or --accept-quarantine for one run",
			       (long long)json_integer_value(json_object_get(first, "entities")),
			       rollup, more);
	return rt_fail(
		err, ERR_PERMANENT,
		"the table %s is %s%s; mend: rolag status, or --accept-quarantine for one run",
		json_string_value(json_object_get(first, "table")),
		json_string_value(json_object_get(first, "state")), more);
}
