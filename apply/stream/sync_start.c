/*
 * sync_start: from where the stream counts for a table. Guarantees: every
 * commit up to the LSN is shown to whoever looks from now on; every
 * transaction behind it began when the table was published already.
 */
#include <inttypes.h>
#include <poll.h>
#include <unistd.h>

#include "apply/stream/sync_inner.h"
#include "proto/base/failpoint.h"
#include "proto/pg/pgconn.h"
#include "proto/pg/slot.h"

#define SHOWN_POLL_MS 50
#define SAY_AFTER_US  INT64_C(2000000)

struct waiting {
	bool (*on_wait)(void *ctx, const char *text);
	void *ctx;
};

static bool on_slot_wait(void *ctx, const struct slot_wait *w)
{
	struct waiting *to = ctx;
	char text[160];
	snprintf(text, sizeof(text),
		 "waits for old transactions of the core: pid %d, open for %" PRId64 " s", w->pid,
		 w->xact_age_us / 1000000);
	return to->on_wait(to->ctx, text);
}

/* Is this the core whose stream goes on behind the sync, and not behind where the ledger is? */
static int check_core(PGconn *replication, const struct ledger *l, struct rt_err *err)
{
	struct pgc_system core;
	int rc = pgc_identify_system(replication, &core, err);
	if (rc != 0)
		return rc;
	if (l->system_id != 0 && core.system_id != l->system_id)
		return rt_fail(err, ERR_PERMANENT,
			       "the core has the system identifier %" PRIu64
			       ", the warehouse follows %" PRIu64
			       "; mend: core.connect, or another pipeline for the other core",
			       core.system_id, l->system_id);
	if (core.timeline != l->timeline)
		return rt_fail(err, ERR_RETRY,
			       "the core is on timeline %" PRIu32 ", the warehouse on %" PRIu32
			       ": a failover that the stream has not come to yet",
			       core.timeline, l->timeline);
	return 0;
}

/* Begins a transaction that sees what the exported snapshot does. */
static int import_snapshot(PGconn *core, const char *snapshot, struct rt_err *err)
{
	FAILPOINT_FD(SYNC_SNAPSHOT, PQsocket(core));
	int rc = pgc_exec(core, NULL, err,
			  "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
			  "SET TRANSACTION SNAPSHOT '%s'",
			  snapshot);
	if (rc !=
	    0) /* the exporting session has ended, and its snapshot with it: a new one will do */
		err->code = ERR_RETRY;
	return rc != 0 ? ERR_RETRY : 0;
}

/* The transaction number from which on the snapshot of the transaction sees nothing. It is over then. */
static int snapshot_end(PGconn *core, char *ret, size_t size, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_exec(core, &res, err, "SELECT pg_snapshot_xmax(pg_current_snapshot())");
	if (rc != 0)
		return rc;
	snprintf(ret, size, "%s", PQgetvalue(res, 0, 0));
	PQclear(res);
	return pgc_exec(core, NULL, err, "COMMIT");
}

/* Until what is committed in the WAL is shown, too (a synchronous standby may hold that up). */
static int wait_until_shown(PGconn *core, const char *xmax, const struct waiting *to,
			    struct rt_err *err)
{
	int64_t say_us = rt_mono_us() + SAY_AFTER_US;
	for (;;) {
		PGresult *res;
		int rc = pgc_query(core, &res, err,
				   "SELECT pg_snapshot_xmin(pg_current_snapshot()) >= $1::xid8", 1,
				   &xmax);
		if (rc != 0)
			return rc;
		bool shown = PQgetvalue(res, 0, 0)[0] == 't';
		PQclear(res);
		if (shown)
			return 0;
		if (rt_mono_us() >= say_us) {
			say_us = rt_mono_us() + SAY_AFTER_US;
			if (to->on_wait(to->ctx, "waits until the core shows all transactions that "
						 "were open when it began"))
				return rt_fail(err, ERR_RETRY, "told to stop");
		}
		poll(NULL, 0, SHOWN_POLL_MS);
	}
}

/* In core a transaction is begun that shows exactly what was committed up to slot->consistent_point. */
static int take_snapshot(PGconn *core, PGconn *replication, const struct settings *s,
			 const struct waiting *to, struct slot_created *slot, struct rt_err *err)
{
	char name[64];
	struct slot_options o = {.name = name,
				 .temporary = true,
				 .snapshot = SLOT_EXPORT,
				 .monitor = core,
				 .on_wait = on_slot_wait,
				 .ctx = (void *)(uintptr_t)to};
	/* Workers start in the same microsecond; a slot of one that died stays for a moment. */
	snprintf(name, sizeof(name), "rolag_sync_%.40s_%x%04x", s->pipeline, (unsigned)getpid(),
		 (unsigned)(rt_mono_us() & 0xffff));
	int rc = slot_create(replication, &o, slot, err);
	FAILPOINT_FD(SYNC_SLOT, PQsocket(core));
	return rc != 0 ? rc : import_snapshot(core, slot->snapshot, err);
}

/* A core that was set back by a restore has commits that are others' LSNs. */
static int check_position(const struct slot_created *slot, const struct ledger *l,
			  struct rt_err *err)
{
	if (!lsn_lt(slot->consistent_point, l->applied))
		return 0;
	return rt_fail(err, ERR_PERMANENT,
		       "the core is at " LSN_FMT ", behind what the warehouse holds, " LSN_FMT
		       ": it went back (a restore); mend: " MEND_LOAD_ANEW,
		       LSN_ARGS(slot->consistent_point), LSN_ARGS(l->applied));
}

int sync_snapshot(PGconn *core, const struct settings *s, const struct ledger *l,
		  bool (*on_wait)(void *ctx, const char *text), void *ctx, struct lsn *ret,
		  struct rt_err *err)
{
	struct pgc_options o = {.what = "core",
				.conninfo = s->core.connect,
				.application_name = "rolag sync",
				.replication = true};
	const struct waiting to = {on_wait, ctx};
	PGconn *replication = NULL;
	struct slot_created slot = {.consistent_point = LSN_NONE};
	int rc = pgc_connect(&replication, &o, err);
	if (rc == 0)
		rc = check_core(replication, l, err);
	if (rc == 0)
		rc = take_snapshot(core, replication, s, &to, &slot, err);
	pgc_close(replication); /* drops the slot; the snapshot is ours now */
	if (rc == 0)
		rc = check_position(&slot, l, err);
	if (rc == 0)
		*ret = slot.consistent_point;
	return rc;
}

int sync_wait_shown(PGconn *core, bool (*on_wait)(void *ctx, const char *text), void *ctx,
		    struct rt_err *err)
{
	const struct waiting to = {on_wait, ctx};
	char xmax[32];
	int rc = pgc_exec(core, NULL, err, "BEGIN READ ONLY");
	if (rc == 0)
		rc = snapshot_end(core, xmax, sizeof(xmax), err);
	return rc == 0 ? wait_until_shown(core, xmax, &to, err) : rc;
}

int sync_start(PGconn *core, const struct settings *s, const struct ledger *l,
	       bool (*on_wait)(void *ctx, const char *text), void *ctx, struct lsn *ret,
	       struct rt_err *err)
{
	const struct waiting to = {on_wait, ctx};
	char xmax[32];
	int rc = sync_snapshot(core, s, l, on_wait, ctx, ret, err);
	if (rc == 0)
		rc = snapshot_end(core, xmax, sizeof(xmax), err);
	return rc == 0 ? wait_until_shown(core, xmax, &to, err) : rc;
}
