/*
 * status_tables: what rolag.relation says of each landed table. Guarantees: the
 * warehouse alone is asked, by one statement that takes no lock anybody waits for.
 */
#include <jansson.h>

#include "apply/sql/migrate.h"
#include "cdc/commands/status.h"
#include "proto/pg/pgconn.h"

enum {
	NAME,
	KIND,
	SOURCE,
	STATE,
	BESIDE,
	DEFINITION,
	SYNC_LSN,
	CHANGED_LSN,
	ROWS,
	WAITING,
	SYNC_DONE,
	SYNC_ESTIMATE,
	REASON,
	SINCE_US,
	COLUMNS
};

static const char sql[] =
	"WITH changed AS (SELECT name, max(lsn) AS lsn FROM (SELECT unnest(relations) AS name, "
	"applied_lsn AS lsn FROM rolag.ledger WHERE pipeline = $1 UNION ALL SELECT name, lsn "
	"FROM rolag.written WHERE pipeline = $1) w GROUP BY name), "
	"waiting AS (SELECT rollup, count(DISTINCT id) AS entities FROM rolag.quarantine "
	"WHERE pipeline = $1 AND state <> 'skipped' GROUP BY rollup) "
	"SELECT r.name, r.kind, r.source, r.state, r.beside, r.definition, r.sync_lsn, c.lsn, "
	"CASE WHEN t.reltuples >= 0 THEN t.reltuples::bigint END, coalesce(w.entities, 0), "
	"s.rows, s.estimated_rows, r.reason, "
	"(extract(epoch FROM clock_timestamp() - r.changed_at) * 1000000)::bigint "
	"FROM rolag.relation r LEFT JOIN changed c USING (name) LEFT JOIN waiting w ON "
	"w.rollup = r.name LEFT JOIN rolag.sync s ON s.pipeline = r.pipeline AND s.name = r.name "
	"LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = $2 LEFT JOIN pg_catalog.pg_class t "
	"ON t.relnamespace = n.oid AND t.relname = r.name WHERE r.pipeline = $1 "
	"ORDER BY r.state = 'live', r.kind DESC, r.name";

static const char *text(const PGresult *res, int row, int column)
{
	return PQgetisnull(res, row, column) ? NULL : PQgetvalue(res, row, column);
}

static bool is_state(const PGresult *res, int row, const char *state)
{
	return strcmp(PQgetvalue(res, row, STATE), state) == 0;
}

/* A parked one that readers do not read is what an undo goes back to. */
static bool waits_for_person(const PGresult *res, int row)
{
	return is_state(res, row, "parked") && PQgetisnull(res, row, BESIDE);
}

/* ---- for people ---- */

static void print_summary(const PGresult *res, struct buf *out)
{
	int rollups = 0, mirrors = 0, parked = 0, syncing = 0, rebuilding = 0;
	for (int i = 0; i < PQntuples(res); i++) {
		if (is_state(res, i, "rebuilding"))
			rebuilding++;
		if (!PQgetisnull(res, i, BESIDE))
			continue;
		if (strcmp(PQgetvalue(res, i, KIND), "mirror") == 0)
			mirrors++;
		else
			rollups++;
		parked += waits_for_person(res, i);
		syncing += is_state(res, i, "syncing");
	}
	buf_printf(out, "%d rollup%s and %d mirror%s: ", rollups, rollups == 1 ? "" : "s", mirrors,
		   mirrors == 1 ? "" : "s");
	if (parked + syncing + rebuilding == 0) {
		buf_str(out, "all follow the stream.\n");
		return;
	}
	buf_printf(out, "%d parked, %d syncing, %d rebuilding.\n", parked, syncing, rebuilding);
}

static void print_more(const PGresult *res, int row, struct buf *out)
{
	const char *done = text(res, row, SYNC_DONE), *reason = text(res, row, REASON);
	if (strcmp(PQgetvalue(res, row, WAITING), "0") != 0)
		buf_printf(out, "      entities in quarantine: %s\n",
			   PQgetvalue(res, row, WAITING));
	if (done != NULL)
		buf_printf(out, "      read from the core: %s rows of about %s\n", done,
			   PQgetvalue(res, row, SYNC_ESTIMATE));
	if (text(res, row, BESIDE) != NULL)
		buf_printf(out, "      %s %s\n",
			   is_state(res, row, "parked") ? "kept, for an undo, of" : "built beside",
			   PQgetvalue(res, row, BESIDE));
	else if (is_state(res, row, "parked"))
		buf_printf(out, "      %s; mend it, then: rolag sync %s\n",
			   reason != NULL ? reason : "it is in no definition and no mirrors.tables",
			   PQgetvalue(res, row, NAME));
}

static int longest(const PGresult *res, int column, int least)
{
	for (int i = 0; i < PQntuples(res); i++)
		least = RT_MAX(least, PQgetlength(res, i, column));
	return least;
}

static enum term_ink state_ink(const PGresult *res, int row)
{
	if (waits_for_person(res, row))
		return TERM_BAD;
	return is_state(res, row, "live") ? TERM_GOOD : TERM_BUSY;
}

static void print_tables(const PGresult *res, bool color, struct buf *out)
{
	const int name = longest(res, NAME, 5), lsn = longest(res, CHANGED_LSN, 11);
	print_summary(res, out);
	if (PQntuples(res) == 0)
		return;
	buf_printf(out, "\n  %-*s  %-6s  %-10s  %12s  %-*s  %s\n", name, "table", "kind", "state",
		   "about rows", lsn, "changed LSN", "in this state for");
	for (int i = 0; i < PQntuples(res); i++) {
		const char *changed = text(res, i, CHANGED_LSN), *rows = text(res, i, ROWS);
		buf_printf(out, "  %-*s  %-6s  %s%-10s%s  %12s  %-*s  ", name,
			   PQgetvalue(res, i, NAME), PQgetvalue(res, i, KIND),
			   term_ink(color, state_ink(res, i)), PQgetvalue(res, i, STATE),
			   term_ink_end(color), rows != NULL ? rows : "-", lsn,
			   changed != NULL ? changed : "-");
		status_duration(out, RT_MAX(strtoll(PQgetvalue(res, i, SINCE_US), NULL, 10), 0));
		buf_u8(out, '\n');
		print_more(res, i, out);
	}
}

/* ---- for programs ---- */

static json_t *text_or_null(const PGresult *res, int row, int column)
{
	const char *s = text(res, row, column);
	return s != NULL ? json_string(s) : json_null();
}

static json_t *number_or_null(const PGresult *res, int row, int column)
{
	const char *s = text(res, row, column);
	return s != NULL ? json_integer(strtoll(s, NULL, 10)) : json_null();
}

static void print_json(const PGresult *res, struct buf *out)
{
	json_t *list = json_array();
	for (int i = 0; i < PQntuples(res); i++)
		json_array_append_new(
			list,
			json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, "
				  "s:o, s:f}",
				  "name", text_or_null(res, i, NAME), "kind",
				  text_or_null(res, i, KIND), "source",
				  text_or_null(res, i, SOURCE), "state",
				  text_or_null(res, i, STATE), "beside",
				  text_or_null(res, i, BESIDE), "definition",
				  number_or_null(res, i, DEFINITION), "sync_lsn",
				  text_or_null(res, i, SYNC_LSN), "changed_lsn",
				  text_or_null(res, i, CHANGED_LSN), "estimated_rows",
				  number_or_null(res, i, ROWS), "entities_in_quarantine",
				  number_or_null(res, i, WAITING), "sync_rows",
				  number_or_null(res, i, SYNC_DONE), "sync_estimated_rows",
				  number_or_null(res, i, SYNC_ESTIMATE), "reason",
				  text_or_null(res, i, REASON), "state_seconds",
				  (double)strtoll(PQgetvalue(res, i, SINCE_US), NULL, 10) / 1e6));
	json_t *all = json_pack("{s:o}", "tables", list);
	char *s = json_dumps(all, JSON_INDENT(2));
	buf_printf(out, "%s\n", s != NULL ? s : "{}");
	free(s);
	json_decref(all);
}

int status_tables(const struct settings *s, bool json, bool color, struct buf *out,
		  bool *ret_healthy, struct rt_err *err)
{
	const struct pgc_options o = {.what = "warehouse",
				      .conninfo = s->warehouse.connect,
				      .application_name = "rolag status"};
	const char *params[] = {s->pipeline, s->warehouse.schema};
	PGresult *res;
	PGconn *c = NULL;
	int rc = pgc_connect(&c, &o, err);
	if (rc == 0)
		rc = migrate_check(c, err);
	if (rc == 0)
		rc = pgc_query(c, &res, err, sql, 2, params);
	pgc_close(c);
	if (rc != 0)
		return rc;
	RT_ASSERT(PQnfields(res) == COLUMNS);
	*ret_healthy = PQntuples(res) > 0;
	for (int i = 0; i < PQntuples(res); i++)
		*ret_healthy &=
			!waits_for_person(res, i) && strcmp(PQgetvalue(res, i, WAITING), "0") == 0;
	if (json)
		print_json(res, out);
	else
		print_tables(res, color, out);
	PQclear(res);
	return 0;
}
