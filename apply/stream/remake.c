/*
 * remake: one entity, one transaction. Guarantees: an entity is made anew as
 * a whole or stays as it is, and no row goes that the core may yet show.
 */
#include "apply/stream/remake.h"

#include <inttypes.h>

#include "apply/stream/verify_rows.h"
#include "apply/stream/writer_rows.h"
#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/base/metrics.h"
#include "proto/pg/pgconn.h"

#define COPY_PIECE_BYTES (256u << 10)
/* Requests that one query brings. */
#define REQUESTS "100"

enum outcome { DONE, REFUSED, LATER };

struct remake {
	PGconn *core, *c; /* core: NULL until the first request */
	const struct settings *settings;
	const struct ledger *ledger;
	struct loop *loop;
	/* The request. */
	const struct landed *l;
	const char *id_text;
	int32_t extra_up_to;
	/* The rows that it has. */
	PGresult *old;
	struct lsn now;	 /* of the core: nothing that it shows was committed behind it */
	int32_t version; /* of the last row made */
	struct buf id, copy;
	char reason[600]; /* of REFUSED and LATER */
};

enum { OLD_VERSION, OLD_LSN, OLD_COMMITTED };

/* ---- the core's end ---- */

/* Is this the core that the warehouse follows? */
static int check_core(struct remake *m, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_exec(m->core, &res, err,
			  "SELECT system_identifier FROM pg_catalog.pg_control_system()");
	if (rc != 0)
		return rc;
	uint64_t id = strtoull(PQgetvalue(res, 0, 0), NULL, 10);
	PQclear(res);
	if (m->ledger->system_id == 0 || id == m->ledger->system_id)
		return 0;
	return rt_fail(err, ERR_PERMANENT,
		       "the core has the system identifier %" PRIu64
		       ", the warehouse follows %" PRIu64 "; mend: core.connect",
		       id, m->ledger->system_id);
}

static int connect_core(struct remake *m, struct rt_err *err)
{
	struct pgc_options o = {.what = "core",
				.conninfo = m->settings->core.connect,
				.application_name = "rolag repair",
				.loop = m->loop};
	if (m->core != NULL)
		return 0;
	FAILPOINT(REMAKE_CONNECT);
	int rc = pgc_connect(&m->core, &o, err);
	if (rc != 0)
		return rc;
	/* Without its index the core would search the whole table: it must not. */
	rc = pgc_exec(m->core, NULL, err,
		      "SET default_transaction_read_only = on; SET statement_timeout = '10s'; "
		      "SET lock_timeout = '2s'; SET idle_in_transaction_session_timeout = '30s'; "
		      "SET enable_seqscan = off; SET enable_sort = off; SET jit = off");
	return rc == 0 ? check_core(m, err) : rc;
}

/* The snapshot is taken before the position is read: it shows nothing from behind it. */
static int begin_core(struct remake *m, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_exec(m->core, NULL, err,
			  "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY");
	if (rc == 0)
		rc = pgc_exec(m->core, &res, err, "SELECT pg_catalog.pg_current_wal_insert_lsn()");
	if (rc != 0)
		return rc;
	m->now = pgc_get_lsn(res, 0, 0);
	PQclear(res);
	return 0;
}

/* ---- the warehouse's end ---- */

static int begin_held(struct remake *m, struct rt_err *err)
{
	char epoch[24];
	PGresult *res;
	snprintf(epoch, sizeof(epoch), "%" PRId64, m->ledger->epoch);
	const char *params[] = {m->settings->pipeline, epoch};
	int rc = pgc_exec(m->c, NULL, err, "BEGIN");
	if (rc != 0)
		return rc;
	rc = pgc_query(m->c, &res, err, ledger_hold_sql, 2, params);
	if (rc != 0)
		return rt_fail(err, ERR_RETRY, "the fence was lost before a repair");
	PQclear(res);
	FAILPOINT_FD(REMAKE_BEGUN, PQsocket(m->c));
	return 0;
}

/* One statement about the entity; %s of format: the table. */
static int on_entity(struct remake *m, PGresult **ret, const char *format, const char *table,
		     struct rt_err *err)
{
	char type[32];
	snprintf(type, sizeof(type), "%s",
		 pgt_name((struct pgt_type){m->l->rollup->id_type, false}));
	struct buf sql = BUF_INIT;
	for (const char *p = format; *p != '\0'; p++) {
		if (*p == '@')
			buf_str(&sql, table);
		else if (*p == '#')
			buf_printf(&sql, "$1::%s", type);
		else
			buf_u8(&sql, (uint8_t)*p);
	}
	PGresult *res = PQexecParams(m->c, buf_cstr(&sql), 1, NULL, &m->id_text, NULL, NULL, 1);
	ExecStatusType st = PQresultStatus(res);
	int rc = 0;
	if (st != PGRES_COMMAND_OK && st != PGRES_TUPLES_OK)
		rc = pgc_fail(m->c, res, err, "repairing an entity");
	if (rc == 0 && ret != NULL)
		*ret = res;
	else
		PQclear(res);
	buf_release(&sql);
	return rc;
}

/* Index of the old row of that version, or -1; they are sorted. */
static int find_old(const struct remake *m, int32_t version)
{
	int low = 0, high = PQntuples(m->old);
	while (low < high) {
		int mid = low + (high - low) / 2;
		int32_t v =
			(int32_t)be32_get((const uint8_t *)PQgetvalue(m->old, mid, OLD_VERSION));
		if (v == version)
			return mid;
		if (v < version)
			low = mid + 1;
		else
			high = mid;
	}
	return -1;
}

static int64_t old_number(const struct remake *m, int row, int column)
{
	return (int64_t)be64_get((const uint8_t *)PQgetvalue(m->old, row, column));
}

static void add_row(struct remake *m, const struct fold_row *row)
{
	int at = find_old(m, row->version);
	struct lsn lsn = m->now;
	int64_t committed_us = 0;
	if (at >= 0) {
		lsn.v = (uint64_t)old_number(m, at, OLD_LSN);
		if (!PQgetisnull(m->old, at, OLD_COMMITTED))
			committed_us = old_number(m, at, OLD_COMMITTED) + RT_PG_EPOCH_US;
	}
	writer_copy_row(row, m->l->rollup->column_count, lsn, committed_us, &m->copy);
	m->version = row->version;
}

static int put_copy(struct remake *m, struct rt_err *err)
{
	int ok = PQputCopyData(m->c, (const char *)m->copy.p, (int)m->copy.len);
	buf_clear(&m->copy);
	return ok == 1 ? 0 : pgc_fail(m->c, NULL, err, "repairing an entity");
}

static int end_copy(struct remake *m, struct rt_err *err)
{
	int rc;
	buf_u16(&m->copy, UINT16_MAX);
	rc = put_copy(m, err);
	if (rc != 0)
		return rc;
	if (PQputCopyEnd(m->c, NULL) != 1)
		return pgc_fail(m->c, NULL, err, "repairing an entity");
	for (PGresult *res; (res = PQgetResult(m->c)) != NULL; PQclear(res))
		if (PQresultStatus(res) != PGRES_COMMAND_OK && rc == 0)
			rc = pgc_fail(m->c, res, err, "repairing an entity");
	return rc;
}

/* ---- one entity ---- */

/*
 * The core's events, folded, into history. Negative, with *ret_core set, where
 * the core failed; the COPY is ended either way unless the warehouse failed.
 */
static int fill_history(struct remake *m, struct refold *f, bool *ret_core, bool *ret_stuck,
			struct rt_err *err)
{
	const struct fold_row *row;
	struct rt_err why;
	struct buf sql = BUF_INIT;
	landed_copy_sql(m->l, false, &sql);
	int rc = pgc_exec(m->c, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	if (rc != 0)
		return rc;
	buf_clear(&m->copy);
	writer_copy_header(&m->copy);
	int step;
	while ((step = refold_next(f, &row, &why)) == VERIFY_ROW) {
		add_row(m, row);
		if (m->copy.len >= COPY_PIECE_BYTES && (rc = put_copy(m, err)) != 0)
			return rc;
	}
	rc = end_copy(m, err);
	*ret_stuck = step == VERIFY_STUCK;
	if (rc != 0 || step >= 0)
		return rc;
	*ret_core = true;
	*err = why;
	return err->code;
}

/* Rows behind the core's last event that nobody has proven to be too many. */
static bool holds_unproven(const struct remake *m)
{
	int n = PQntuples(m->old);
	if (n == 0)
		return false;
	int32_t last = (int32_t)be32_get((const uint8_t *)PQgetvalue(m->old, n - 1, OLD_VERSION));
	return last > m->version && last > m->extra_up_to;
}

static int make_latest(struct remake *m, struct rt_err *err)
{
	int rc = on_entity(m, NULL, "DELETE FROM @ WHERE id = #", m->l->latest, err);
	if (rc != 0 || m->version == 0)
		return rc;
	char *insert = rt_sprintf("INSERT INTO %s SELECT * FROM @ WHERE id = # "
				  "ORDER BY version DESC LIMIT 1",
				  m->l->latest);
	rc = on_entity(m, NULL, insert, m->l->history, err);
	free(insert);
	return rc;
}

static int note(struct remake *m, enum outcome o, struct rt_err *err)
{
	const char *params[] = {m->settings->pipeline, m->l->rollup->name, m->id_text,
				o == DONE ? "done" : "refused", o == DONE ? NULL : m->reason};
	return pgc_query(m->c, NULL, err,
			 "UPDATE rolag.repair SET state = $4, reason = $5, done_at = "
			 "clock_timestamp() WHERE pipeline = $1 AND rollup = $2 AND id = $3",
			 5, params);
}

static int finish(struct remake *m, struct rt_err *err)
{
	PGresult *res;
	int rc = make_latest(m, err);
	if (rc == 0)
		rc = note(m, DONE, err);
	if (rc != 0)
		return rc;
	FAILPOINT_FD(REMAKE_BEFORE_COMMIT, PQsocket(m->c));
	rc = pgc_exec(m->c, &res, err, "COMMIT");
	if (rc != 0)
		return rc;
	if (strcmp(PQcmdStatus(res), "COMMIT") != 0)
		rc = rt_fail(err, ERR_RETRY, "the warehouse rolled a repair back");
	PQclear(res);
	FAILPOINT_FD(REMAKE_AFTER_COMMIT, PQsocket(m->c));
	return rc;
}

/* Within the transactions on both ends. *ret_core: a negative result is of the core. */
static int make_entity(struct remake *m, struct refold *f, enum outcome *ret, bool *ret_core,
		       struct rt_err *err)
{
	bool stuck = false;
	int rc = on_entity(m, &m->old,
			   "SELECT version, _lsn, _committed_at FROM @ WHERE id = # "
			   "ORDER BY version",
			   m->l->history, err);
	if (rc == 0)
		rc = on_entity(m, NULL, "DELETE FROM @ WHERE id = #", m->l->history, err);
	if (rc != 0)
		return rc;
	rc = refold_entity(f, buf_slice(&m->id), err);
	if (rc != 0) {
		*ret_core = true;
		return rc;
	}
	rc = fill_history(m, f, ret_core, &stuck, err);
	if (rc != 0)
		return rc;
	if (stuck) {
		*ret = REFUSED;
		snprintf(m->reason, sizeof(m->reason), "%s", f->reason);
		return 0;
	}
	if (holds_unproven(m)) {
		*ret = LATER;
		snprintf(m->reason, sizeof(m->reason),
			 "the core does not show its last version yet");
		return 0;
	}
	*ret = DONE;
	return finish(m, err);
}

/* The core's failure: its connection is given up; waiting mends it, or the entity is refused. */
static enum outcome core_failed(struct remake *m, const struct rt_err *why)
{
	pgc_close(m->core);
	m->core = NULL;
	snprintf(m->reason, sizeof(m->reason), "%s", why->msg);
	return why->code == ERR_RETRY ? LATER : REFUSED;
}

static int remake_entity(struct remake *m, enum outcome *ret, struct rt_err *err)
{
	struct refold f = {0};
	struct rt_err why;
	bool of_core = false;
	if (connect_core(m, &why) != 0 || begin_core(m, &why) != 0 ||
	    refold_open(&f, m->core, m->l->rollup, 1, &why) != 0) {
		refold_close(&f);
		*ret = core_failed(m, &why);
		return 0;
	}
	m->version = 0;
	int rc = begin_held(m, err);
	if (rc == 0)
		rc = make_entity(m, &f, ret, &of_core, err);
	refold_close(&f);
	PQclear(m->old);
	m->old = NULL;
	if (rc != 0 && of_core) {
		*ret = core_failed(m, err);
		return pgc_exec(m->c, NULL, err, "ROLLBACK");
	}
	if (rc != 0)
		return rc;
	/* A stuck entity's COPY may still be under way there: ended by the next statement. */
	if (pgc_exec(m->core, NULL, &why, "COMMIT") != 0) {
		pgc_close(m->core);
		m->core = NULL;
	}
	return *ret == DONE ? 0 : pgc_exec(m->c, NULL, err, "ROLLBACK");
}

/* ---- requests ---- */

static const struct landed *find_rollup(const struct landed_set *set, const char *name)
{
	for (uint16_t i = 0; i < set->count; i++)
		if (strcmp(set->item[i].rollup->name, name) == 0)
			return &set->item[i];
	return NULL;
}

/* Does the entity wait in quarantine? Its rows are made there (rolag quarantine). */
static int is_parked(struct remake *m, bool *ret, struct rt_err *err)
{
	const char *params[] = {m->settings->pipeline, m->l->rollup->name, m->id_text};
	PGresult *res;
	*ret = false;
	int rc = pgc_exec(m->c, &res, err, "SELECT to_regclass('rolag.quarantine') IS NOT NULL");
	if (rc != 0)
		return rc;
	bool there = PQgetvalue(res, 0, 0)[0] == 't'; /* not in a control schema of before it */
	PQclear(res);
	if (!there)
		return 0;
	rc = pgc_query(m->c, &res, err,
		       "SELECT 1 FROM rolag.quarantine WHERE pipeline = $1 AND rollup = $2 AND id "
		       "= $3 LIMIT 1",
		       3, params);
	if (rc != 0)
		return rc;
	*ret = PQntuples(res) > 0;
	PQclear(res);
	return 0;
}

static int serve_one(struct remake *m, enum outcome *ret, struct rt_err *err)
{
	bool parked;
	int rc = is_parked(m, &parked, err);
	buf_clear(&m->id);
	if (rc != 0)
		return rc;
	if (parked) {
		*ret = REFUSED;
		snprintf(m->reason, sizeof(m->reason), "it is in quarantine");
	} else if (m->l->state != LANDED_LIVE) {
		*ret = REFUSED;
		snprintf(m->reason, sizeof(m->reason), "the rollup is not live");
	} else if (pgt_from_text(m->l->rollup->id_type, slice_str(m->id_text), NULL, &m->id, err) !=
		   0) {
		*ret = REFUSED;
		snprintf(m->reason, sizeof(m->reason), "the id is not a valid one");
	} else {
		rc = remake_entity(m, ret, err);
	}
	if (rc != 0)
		return rt_context(err, "repair of rollup %s, entity %s", m->l->rollup->name,
				  m->id_text);
	if (*ret == DONE)
		log_warn("an entity's rows were made anew from the core's events",
			 "rollup=%s id=%s versions=%" PRId32, m->l->rollup->name, m->id_text,
			 m->version);
	else
		log_warn(*ret == REFUSED ? "an entity cannot be repaired" : "a repair waits",
			 "rollup=%s id=%s reason=\"%s\"", m->l->rollup->name, m->id_text,
			 m->reason);
	if (*ret == DONE)
		met_add(MET_REPAIRED_ENTITIES, 1);
	return *ret == REFUSED ? note(m, REFUSED, err) : 0;
}

static int ask(struct remake *m, PGresult **ret, struct rt_err *err)
{
	return pgc_query(m->c, ret, err,
			 "SELECT rollup, id, extra_up_to FROM rolag.repair WHERE pipeline = $1 AND "
			 "state = 'waiting' ORDER BY asked_at LIMIT " REQUESTS,
			 1, &m->settings->pipeline);
}

static int serve_all(struct remake *m, const struct landed_set *landed, PGresult *res,
		     struct cache *cache, int64_t limit_us, enum remake_left *ret,
		     struct rt_err *err)
{
	int64_t until = rt_mono_us() + limit_us;
	int n = PQntuples(res), rc = 0;
	for (int i = 0; rc == 0 && i < n; i++) {
		enum outcome outcome = DONE;
		if (i > 0 && (rt_mono_us() > until || loop_stopping(m->loop))) {
			*ret = RT_MAX(*ret, REMAKE_SOME);
			return 0;
		}
		m->l = find_rollup(landed, PQgetvalue(res, i, 0));
		m->id_text = PQgetvalue(res, i, 1);
		m->extra_up_to = (int32_t)strtol(PQgetvalue(res, i, 2), NULL, 10);
		if (m->l == NULL)
			continue; /* of another configuration; it waits for one that lands it */
		rc = serve_one(m, &outcome, err);
		cache_clear(cache);
		if (outcome == LATER)
			*ret = REMAKE_LATER;
		else if (i == n - 1)
			*ret = RT_MAX(*ret, REMAKE_SOME); /* perhaps: this query was bounded */
	}
	return rc;
}

int remake_serve(PGconn *warehouse, const struct settings *s, const struct landed_set *landed,
		 const struct ledger *ledger, struct cache *cache, struct loop *loop,
		 int64_t limit_us, enum remake_left *ret, struct rt_err *err)
{
	struct remake m = {.c = warehouse, .settings = s, .ledger = ledger, .loop = loop};
	PGresult *res;
	*ret = REMAKE_NONE;
	int rc = ask(&m, &res, err);
	if (rc != 0)
		return rc;
	rc = serve_all(&m, landed, res, cache, limit_us, ret, err);
	PQclear(res);
	pgc_close(m.core);
	buf_release(&m.id);
	buf_release(&m.copy);
	return rc;
}
