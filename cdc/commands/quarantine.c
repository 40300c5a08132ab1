/*
 * rolag quarantine list|show|retry|skip. Guarantees: payloads are shown only
 * with --values; who asked for what is in rolag.quarantine_audit in the same
 * transaction as the request; apply alone folds.
 */
#include <inttypes.h>
#include <poll.h>
#include <pwd.h>
#include <unistd.h>

#include "apply/sql/migrate.h"
#include "cdc/commands/commands.h"
#include "proto/pg/pgconn.h"

#define WAIT_US	 INT64_C(15000000)
#define LOOK_MS	 100
#define TEXT_MAX 2000 /* bytes of a payload that are shown */

const struct cli_usage quarantine_usage = {
	.args = "list|show|retry|skip [ROLLUP [ENTITY-ID]]",
	.text = "Entities whose events could not be folded, and rollups that are parked. An "
		"entity's events wait in\norder, everything else flows. The usual way out: mend "
		"the definition, restart apply, retry.\n"
		"  list   who waits, since when and why; exit code 1 when somebody does\n"
		"  show   ROLLUP ENTITY-ID: its waiting events; payloads only with --values\n"
		"  retry  ROLLUP ENTITY-ID, ROLLUP or --all: apply folds what waits, in order\n"
		"  skip   ROLLUP ENTITY-ID --reason TEXT: passes the one event that does not fold, "
		"then "
		"folds\n         the later ones. Its version repeats the columns of the one "
		"before; "
		"events missing\n         before it are taken as such. It is for ever: a rebuild "
		"does "
		"the same.\n"
		"retry and skip are noted in rolag.quarantine_audit (who, when, what, why), and "
		"wait some\n"
		"seconds for apply to do it; exit code 1 when something waits still.\n",
	.option = {{"--values", NULL, "show: payloads, which are personal data"},
		   {"--all", NULL, "retry: every entity of every rollup"},
		   {"--reason", "TEXT", "skip: why (required); retry: a remark"}},
};

/* A request: which entities, and what for. */
struct request {
	const char *action, *rollup, *id; /* NULL: all */
	const char *reason;
	const char *who;
};

static int connect(const struct settings *s, PGconn **ret, struct rt_err *err)
{
	struct pgc_options o = {.what = "warehouse",
				.conninfo = s->warehouse.connect,
				.application_name = "rolag quarantine"};
	int rc = pgc_connect(ret, &o, err);
	if (rc != 0)
		return rc;
	rc = pgc_exec(*ret, NULL, err, "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'");
	if (rc == 0)
		rc = migrate_check(*ret, err);
	if (rc != 0) {
		pgc_close(*ret);
		*ret = NULL;
	}
	return rc;
}

/* ---- list ---- */

static int list_parked(PGconn *c, const struct settings *s, int *ret_count, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_query(
		c, &res, err,
		"SELECT name, date_trunc('second', changed_at), coalesce(reason, 'no longer "
		"landed'), reason IS NOT NULL FROM rolag.relation WHERE pipeline = $1 AND "
		"state = 'parked' AND beside IS NULL ORDER BY name",
		1, &s->pipeline);
	if (rc != 0)
		return rc;
	*ret_count = 0;
	for (int i = 0; i < PQntuples(res); i++) {
		bool caused = PQgetvalue(res, i, 3)[0] == 't';
		*ret_count += caused;
		printf("parked %s since %s: ", PQgetvalue(res, i, 0), PQgetvalue(res, i, 1));
		cli_put(PQgetvalue(res, i, 2), TEXT_MAX);
		printf(caused ? " (mend: rolag sync %s)\n" : "\n", PQgetvalue(res, i, 0));
	}
	PQclear(res);
	return 0;
}

static int list(PGconn *c, const struct settings *s, bool *ret_found, struct rt_err *err)
{
	PGresult *res;
	int parked;
	int rc = list_parked(c, s, &parked, err);
	if (rc != 0)
		return rc;
	rc = pgc_query(
		c, &res, err,
		"SELECT q.rollup, q.id, count(*), date_trunc('second', min(q.parked_at)), "
		"min(q.sequence) FILTER (WHERE q.first), min(q.reason) FILTER (WHERE q.first), "
		"bool_or(q.state IN ('retry', 'skip')) FROM rolag.quarantine q WHERE "
		"q.pipeline = $1 AND q.state <> 'skipped' GROUP BY q.rollup, q.id "
		"ORDER BY q.rollup, 4, q.id",
		1, &s->pipeline);
	if (rc != 0)
		return rc;
	for (int i = 0; i < PQntuples(res); i++) {
		printf("%s ", PQgetvalue(res, i, 0));
		cli_put(PQgetvalue(res, i, 1), TEXT_MAX);
		printf(": %s waiting since %s%s, from sequence %s: ", PQgetvalue(res, i, 2),
		       PQgetvalue(res, i, 3), PQgetvalue(res, i, 6)[0] == 't' ? " (asked for)" : "",
		       PQgetvalue(res, i, 4));
		cli_put(PQgetvalue(res, i, 5), TEXT_MAX);
		putchar('\n');
	}
	*ret_found = parked > 0 || PQntuples(res) > 0;
	if (!*ret_found)
		printf("Nobody waits in quarantine.\n");
	PQclear(res);
	return 0;
}

/* ---- show ---- */

static int show(PGconn *c, const struct settings *s, const struct request *q, bool values,
		bool *ret_found, struct rt_err *err)
{
	const char *params[] = {s->pipeline, q->rollup, q->id};
	PGresult *res;
	int rc = pgc_query(
		c, &res, err,
		"SELECT sequence, event_type, to_char(recorded_at, 'YYYY-MM-DD HH24:MI:SS.US'), "
		"lsn, "
		"coalesce(to_char(committed_at, 'YYYY-MM-DD HH24:MI:SS.US'), '(not by the "
		"stream)'), "
		"state, coalesce(reason, ''), event, coalesce(octet_length(event), 0) FROM "
		"rolag.quarantine WHERE pipeline = $1 AND rollup = $2 AND id = $3 ORDER BY "
		"sequence",
		3, params);
	if (rc != 0)
		return rc;
	for (int i = 0; i < PQntuples(res); i++) {
		printf("%s  ", PQgetvalue(res, i, 0));
		cli_put(PQgetvalue(res, i, 1), TEXT_MAX);
		printf("  recorded %s  lsn %s  committed %s  %s  %s bytes\n", PQgetvalue(res, i, 2),
		       PQgetvalue(res, i, 3), PQgetvalue(res, i, 4), PQgetvalue(res, i, 5),
		       PQgetvalue(res, i, 8));
		if (PQgetvalue(res, i, 6)[0] != '\0') {
			fputs("    ", stdout);
			cli_put(PQgetvalue(res, i, 6), TEXT_MAX);
			putchar('\n');
		}
		if (values && !PQgetisnull(res, i, 7)) {
			fputs("    ", stdout);
			cli_put(PQgetvalue(res, i, 7), SIZE_MAX);
			putchar('\n');
		}
	}
	*ret_found = PQntuples(res) > 0;
	if (!*ret_found)
		printf("Nothing of %s %s is in quarantine.\n", q->rollup, q->id);
	PQclear(res);
	return 0;
}

/* ---- retry and skip ---- */

/* The role that is connected, and who sits before it. */
static const char *who_am_i(PGconn *c, struct arena *a)
{
	char host[128] = "?";
	const struct passwd *p = getpwuid(getuid());
	gethostname(host, sizeof(host) - 1);
	return arena_printf(a, "%s (%s at %s)", PQuser(c), p != NULL ? p->pw_name : "?", host);
}

/* Marks the first waiting event of each entity and notes it; *ret_count: how many entities. */
static int ask(PGconn *c, const struct settings *s, const struct request *q, int *ret_count,
	       struct rt_err *err)
{
	const char *params[] = {s->pipeline, q->rollup, q->id, q->action, q->who, q->reason};
	PGresult *res;
	int rc = pgc_query(
		c, &res, err,
		"WITH first AS (SELECT DISTINCT ON (rollup, id) rollup, id, sequence FROM "
		"rolag.quarantine WHERE pipeline = $1 AND ($2::text IS NULL OR rollup = $2) AND "
		"($3::text IS NULL OR id = $3) AND first AND state <> 'skipped' ORDER BY rollup, "
		"id, "
		"sequence), asked AS (UPDATE rolag.quarantine q SET state = $4 FROM first f WHERE "
		"q.pipeline = $1 AND q.rollup = f.rollup AND q.id = f.id AND q.sequence = "
		"f.sequence "
		"RETURNING q.rollup, q.id, q.sequence) INSERT INTO rolag.quarantine_audit (who, "
		"action, pipeline, rollup, id, sequence, reason) SELECT $5, $4, $1, rollup, id, "
		"sequence, $6 FROM asked RETURNING 1",
		6, params);
	if (rc != 0)
		return rc;
	*ret_count = PQntuples(res);
	PQclear(res);
	return 0;
}

static int count(PGconn *c, const struct settings *s, const struct request *q, const char *sql,
		 int64_t *ret, struct rt_err *err)
{
	const char *params[] = {s->pipeline, q->rollup, q->id};
	PGresult *res;
	int rc = pgc_query(c, &res, err, sql, 3, params);
	if (rc != 0)
		return rc;
	*ret = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
	PQclear(res);
	return 0;
}

#define OF_REQUEST                                                                                 \
	"FROM rolag.quarantine WHERE pipeline = $1 AND ($2::text IS NULL OR rollup = $2) AND "     \
	"($3::text IS NULL OR id = $3) AND "

/* Until apply has done it, or for some seconds; *ret_left: so many requests are open. */
static int await(PGconn *c, const struct settings *s, const struct request *q, int64_t *ret_left,
		 struct rt_err *err)
{
	const int64_t end = rt_mono_us() + WAIT_US;
	for (;;) {
		int rc = count(c, s, q, "SELECT count(*) " OF_REQUEST "state IN ('retry', 'skip')",
			       ret_left, err);
		if (rc != 0 || *ret_left == 0 || rt_mono_us() > end)
			return rc;
		poll(NULL, 0, LOOK_MS);
	}
}

static int request(PGconn *c, const struct settings *s, const struct request *q, bool *ret_done,
		   struct rt_err *err)
{
	int asked;
	int64_t left = 0, waiting = 0;
	int rc = ask(c, s, q, &asked, err);
	if (rc != 0)
		return rc;
	*ret_done = true;
	if (asked == 0) {
		printf("Nobody of these waits in quarantine.\n");
		return 0;
	}
	if ((rc = await(c, s, q, &left, err)) != 0 ||
	    (rc = count(c, s, q,
			"SELECT count(DISTINCT (rollup, id)) " OF_REQUEST "state <> 'skipped'",
			&waiting, err)) != 0)
		return rc;
	*ret_done = waiting == 0;
	if (left > 0)
		printf("Asked for %d entities; %" PRId64
		       " are still to be done: apply does it between two batches, when it runs.\n",
		       asked, left);
	else if (waiting > 0)
		printf("Asked for %d entities: %" PRId64
		       " wait still (rolag quarantine list says why).\n",
		       asked, waiting);
	else
		printf("Asked for %d entities: all their events are folded.\n", asked);
	return 0;
}

/* ---- the command ---- */

/* What the words ask for; ERR_USAGE where they do not fit together. */
static int read_request(const struct cli *c, struct request *ret, struct rt_err *err)
{
	const bool all = cli_option(c, "--all") != NULL;
	const char *reason = cli_option(c, "--reason");
	*ret = (struct request){.action = c->arg[0],
				.rollup = c->arg_count > 1 ? c->arg[1] : NULL,
				.id = c->arg_count > 2 ? c->arg[2] : NULL,
				.reason = reason};
	const bool is_list = strcmp(ret->action, "list") == 0;
	const bool is_retry = strcmp(ret->action, "retry") == 0;
	const bool is_skip = strcmp(ret->action, "skip") == 0;
	if (!is_list && !is_retry && !is_skip && strcmp(ret->action, "show") != 0)
		return rt_fail(err, ERR_USAGE, "one of list, show, retry, skip is needed");
	if (is_list && c->arg_count > 1)
		return rt_fail(err, ERR_USAGE, "list takes no arguments");
	if (is_retry && (ret->rollup == NULL) != all)
		return rt_fail(err, ERR_USAGE,
			       "retry needs ROLLUP ENTITY-ID, ROLLUP, or --all alone");
	if (!is_retry && all)
		return rt_fail(err, ERR_USAGE, "--all goes with retry only");
	if (!is_list && !is_retry && ret->id == NULL)
		return rt_fail(err, ERR_USAGE, "%s needs ROLLUP ENTITY-ID", ret->action);
	if (is_skip && (reason == NULL || reason[0] == '\0'))
		return rt_fail(err, ERR_USAGE,
			       "skip needs --reason TEXT: it is noted, and for ever");
	return 0;
}

static int run(struct cli *c, const struct settings *s, struct request *q, int *ret_code,
	       struct rt_err *err)
{
	PGconn *conn;
	bool is = false;
	int rc = connect(s, &conn, err);
	if (rc != 0)
		return rc;
	q->who = who_am_i(conn, &c->arena);
	if (strcmp(q->action, "list") == 0) {
		rc = list(conn, s, &is, err);
		*ret_code = is ? EXIT_FINDING : EXIT_OK;
	} else if (strcmp(q->action, "show") == 0) {
		rc = show(conn, s, q, cli_option(c, "--values") != NULL, &is, err);
		*ret_code = is ? EXIT_OK : EXIT_FINDING;
	} else {
		rc = request(conn, s, q, &is, err);
		*ret_code = is ? EXIT_OK : EXIT_FINDING;
	}
	pgc_close(conn);
	return rc;
}

int cmd_quarantine(struct cli *c)
{
	struct settings s;
	struct request q;
	struct rt_err err;
	int code = EXIT_OK;
	int rc = read_request(c, &q, &err);
	if (rc == 0)
		rc = cli_settings(c, &s, &err);
	if (rc == 0)
		rc = run(c, &s, &q, &code, &err);
	return rc == 0 ? code : cli_fail(c, &err);
}
