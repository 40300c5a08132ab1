/*
 * rebuild: apply's side between two batches. Guarantees: one question a second
 * while nothing is rebuilt; what waits is said once, and tried again.
 */
#include "apply/stream/rebuild.h"

#include <inttypes.h>

#include "apply/stream/rebuild_inner.h"
#include "proto/base/failpoint.h"
#include "proto/base/metrics.h"
#include "proto/pg/pgconn.h"

#define ASK_US INT64_C(1000000)

void rebuild_init(struct rebuild *r, const struct settings *s, struct landed_set *landed,
		  const struct ledger *ledger, struct loop *loop)
{
	*r = (struct rebuild){
		.settings = s, .landed = landed, .ledger = ledger, .loop = loop, .fd = -1};
}

/* They fit: ROLLUP_NAME_MAX leaves room for them. */
void rebuild_names(const struct settings *s, const struct landed *beside, struct rebuild_names *ret)
{
	const char *name = beside->beside->rollup->name, *built = beside->rollup->name;
	snprintf(ret->text[0], sizeof(ret->text[0]), "%s_latest", name);
	snprintf(ret->text[1], sizeof(ret->text[1]), "%s" LANDED_KEPT, name);
	snprintf(ret->text[2], sizeof(ret->text[2]), "%s" LANDED_KEPT "_latest", name);
	snprintf(ret->text[3], sizeof(ret->text[3]), "%s_latest", built);
	ret->pair[0] = (struct swap_pair){s->warehouse.schema, name, built, ret->text[1]};
	ret->pair[1] =
		(struct swap_pair){s->warehouse.schema, ret->text[0], ret->text[3], ret->text[2]};
}

/* ---- transactions ---- */

int rebuild_open(const struct rebuild *r, PGconn *c, struct rt_err *err)
{
	char epoch[24];
	snprintf(epoch, sizeof(epoch), "%" PRId64, r->ledger->epoch);
	const char *params[] = {r->settings->pipeline, epoch};
	int rc = pgc_exec(c, NULL, err,
			  "BEGIN; SET LOCAL lock_timeout = '200ms'; "
			  "SET LOCAL synchronous_commit = on");
	if (rc == 0 && (rc = pgc_query(c, NULL, err, ledger_hold_sql, 2, params)) != 0)
		rc = rt_fail(err, ERR_RETRY, "the fence was lost during a rebuild");
	return rc;
}

int rebuild_commit(PGconn *c, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_exec(c, &res, err, "COMMIT");
	if (rc != 0)
		return rc;
	if (strcmp(PQcmdStatus(res), "COMMIT") != 0)
		rc = rt_fail(err, ERR_RETRY, "the warehouse rolled a step of a rebuild back");
	PQclear(res);
	return rc;
}

int rebuild_roll_back(PGconn *c, const struct rt_err *why, struct rt_err *err)
{
	if (PQstatus(c) == CONNECTION_OK && PQtransactionStatus(c) != PQTRANS_UNKNOWN)
		return pgc_exec(c, NULL, err, "ROLLBACK");
	*err = *why;
	return why->code;
}

int rebuild_note_reason(const struct rebuild *r, PGconn *c, const char *rollup, const char *reason,
			const char *retry_in, struct rt_err *err)
{
	const char *params[] = {r->settings->pipeline, rollup, reason, retry_in};
	return pgc_query(c, NULL, err,
			 "UPDATE rolag.rebuild SET reason = $3, retry_at = clock_timestamp() + "
			 "$4::interval, tries = tries + 1 WHERE pipeline = $1 AND rollup = $2",
			 4, params);
}

/* ---- what is due ---- */

static struct landed *find_beside(const struct rebuild *r, const char *rollup)
{
	for (uint16_t i = r->landed->own; i < r->landed->count; i++)
		if (strcmp(r->landed->item[i].beside->rollup->name, rollup) == 0)
			return &r->landed->item[i];
	return NULL;
}

/* Does what readers read stand still, so that what is beside it can be compared with it, and replace it? */
static bool both_follow(const struct landed *l)
{
	return l->state == LANDED_LIVE && l->beside->state != LANDED_SYNCING;
}

static enum rebuild_due look_at(struct rebuild *r, const PGresult *res, int row)
{
	enum { ROLLUP, STATE, IS_TIME };
	const char *state = PQgetvalue(res, row, STATE);
	struct landed *l = find_beside(r, PQgetvalue(res, row, ROLLUP));
	const bool is_time = PQgetvalue(res, row, IS_TIME)[0] == 't';
	if (strcmp(state, "asked") == 0)
		return is_time ? REBUILD_BEGIN : REBUILD_NOTHING;
	if (l == NULL || !both_follow(l) || !is_time)
		return REBUILD_NOTHING;
	if (strcmp(state, "counted") == 0)
		return REBUILD_SWAP;
	if (r->pid == 0)
		rebuild_start_count(r, l);
	return REBUILD_NOTHING;
}

int rebuild_ask(struct rebuild *r, PGconn *c, struct rt_err *err)
{
	PGresult *res;
	r->ask_us = rt_mono_us() + ASK_US;
	FAILPOINT_FD(REBUILD_ASK, PQsocket(c));
	int rc = pgc_query(c, &res, err,
			   "SELECT rollup, state, coalesce(retry_at <= clock_timestamp(), true), "
			   "reason IS NOT NULL AND (reason NOT LIKE '%55P03%' OR tries > 20) FROM "
			   "rolag.rebuild WHERE pipeline = $1 AND state IN "
			   "('asked', 'building', 'counted') ORDER BY rollup",
			   1, &r->settings->pipeline);
	if (rc != 0)
		return rc;
	uint64_t waits = 0;
	for (int i = 0; i < PQntuples(res); i++) {
		enum rebuild_due due = look_at(r, res, i);
		r->due = RT_MAX(r->due, due);
		waits += PQgetvalue(res, i, 3)[0] == 't';
	}
	met_set(MET_REBUILD_WAITS, waits);
	PQclear(res);
	return 0;
}
