/*
 * repair: a gap's events from the core. Guarantees: nothing is written there,
 * no transaction is left open, and only events that follow the last version
 * without a gap are given on.
 */
#include "apply/stream/repair.h"

#include <inttypes.h>

#include "apply/stream/source.h"
#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/base/metrics.h"
#include "proto/pg/pgconn.h"

/* Without its index the core would search the whole table: it must not. */
#define SESSION_SQL                                                                                \
	"SET default_transaction_read_only = on; SET statement_timeout = '5s'; SET "               \
	"enable_seqscan "                                                                          \
	"= off; SET jit = off; SET TimeZone = 'UTC'; SET search_path = pg_catalog"
#define COLUMNS 5

static void events_sql(const struct rollup *r, struct buf *out)
{
	const char *names[COLUMNS] = {r->source_column.id, r->source_column.sequence,
				      r->source_column.event_type, r->source_column.event,
				      r->source_column.recorded_at};
	struct buf key = BUF_INIT;
	buf_str(out, "SELECT ");
	for (size_t i = 0; i < COLUMNS; i++) {
		buf_str(out, i > 0 ? ", " : "");
		pgc_ident(out, names[i]);
	}
	buf_str(out, " FROM ");
	pgc_ident(out, r->source_schema);
	buf_u8(out, '.');
	pgc_ident(out, r->source_table);
	buf_str(out, " WHERE ");
	pgc_ident(out, names[0]);
	buf_printf(out, " = $1::%s AND ", pgt_name((struct pgt_type){r->id_type, false}));
	pgc_ident(&key, names[1]);
	buf_printf(out, "%s > $2::int4 AND %s < $3::int4 ORDER BY %s LIMIT %d", buf_cstr(&key),
		   buf_cstr(&key), buf_cstr(&key), REPAIR_ROWS);
	buf_release(&key);
}

/* Is it the core that the stream comes from, and not one that took another way since? */
static int check_core(PGconn *c, const struct ledger *ledger, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_exec(c, &res, err,
			  "SELECT system_identifier, ('x' || substr(pg_walfile_name("
			  "pg_current_wal_lsn()), 1, 8))::bit(32)::int8 FROM pg_control_system()");
	if (rc != 0)
		return rc;
	const uint64_t id = strtoull(PQgetvalue(res, 0, 0), NULL, 10);
	const uint64_t timeline = strtoull(PQgetvalue(res, 0, 1), NULL, 10);
	PQclear(res);
	if (timeline != ledger->timeline)
		rc = rt_fail(err, ERR_RETRY,
			     "the core is on timeline %" PRIu64 ", the warehouse on %" PRIu32,
			     timeline, ledger->timeline);
	if (ledger->system_id != 0 && id != ledger->system_id)
		rc = rt_fail(err, ERR_PERMANENT,
			     "the core has the system identifier %" PRIu64
			     ", the warehouse follows %" PRIu64 "; mend: core.connect",
			     id, ledger->system_id);
	return rc;
}

static int connect(const struct settings *s, const struct ledger *ledger, struct loop *loop,
		   PGconn **ret, struct rt_err *err)
{
	struct pgc_options o = {.what = "core",
				.conninfo = s->core.connect,
				.application_name = "rolag repair",
				.loop = loop};
	PGconn *c;
	FAILPOINT(REPAIR_CONNECT);
	int rc = pgc_connect(&c, &o, err);
	if (rc != 0) {
		/* Whatever a person must mend there: the event waits for it. */
		err->code = ERR_RETRY;
		return err->code;
	}
	FAILPOINT_FD(REPAIR_CONNECTED, PQsocket(c));
	rc = pgc_exec(c, NULL, err, SESSION_SQL);
	if (rc == 0)
		rc = check_core(c, ledger, err);
	if (rc != 0) {
		pgc_close(c);
		return rc;
	}
	*ret = c;
	return 0;
}

static int map_columns(const struct rollup *r, const PGresult *res, struct source_map *ret,
		       struct rt_err *err)
{
	struct schema_column column[COLUMNS];
	if (PQnfields(res) != COLUMNS)
		return rt_fail(err, ERR_PERMANENT, "the core gave other columns");
	for (int i = 0; i < COLUMNS; i++)
		column[i] = (struct schema_column){
			.name = PQfname(res, i), .type_oid = PQftype(res, i), .typmod = -1};
	struct schema s = {.nspname = r->source_schema,
			   .relname = r->source_table,
			   .count = COLUMNS,
			   .column = column};
	return source_map_columns(r, &s, ret, err);
}

static int read_row(const struct rollup *r, const struct source_map *map, const PGresult *res,
		    int row, struct arena *a, struct fold_event *ret, struct rt_err *err)
{
	struct value value[COLUMNS];
	struct tuple tuple = {COLUMNS, value};
	for (int i = 0; i < COLUMNS; i++) {
		struct slice v =
			slice_of(PQgetvalue(res, row, i), (size_t)PQgetlength(res, row, i));
		value[i] = (struct value){PQgetisnull(res, row, i) ? VALUE_NULL : VALUE_BINARY,
					  (uint32_t)v.len, arena_copy(a, v).p};
	}
	return source_read_row(r, map, &tuple, a, ret, err);
}

/* How many rows follow each other from gap->after on. */
static int take_rows(const PGresult *res, const struct repair_gap *gap, struct arena *a,
		     struct fold_event *e, struct rt_err *err)
{
	struct source_map map;
	int n = 0;
	if (map_columns(gap->rollup, res, &map, err) != 0)
		return 0;
	rt_fail(err, ERR_PERMANENT, "no such events");
	for (; n < PQntuples(res) && n < REPAIR_ROWS; n++)
		if (read_row(gap->rollup, &map, res, n, a, &e[n], err) != 0 ||
		    e[n].sequence != gap->after + 1 + n)
			break;
	return n;
}

static int read_gap(PGconn *core, const struct repair_gap *gap, struct arena *a,
		    struct fold_event **ret, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	uint8_t after[4], before[4];
	int rc;
	be32_put(after, (uint32_t)gap->after);
	be32_put(before, (uint32_t)gap->before);
	const char *values[] = {(const char *)gap->id.p, (const char *)after, (const char *)before};
	const int lengths[] = {(int)gap->id.len, 4, 4}, formats[] = {1, 1, 1};
	events_sql(gap->rollup, &sql);
	FAILPOINT_FD(REPAIR_READ, PQsocket(core));
	PGresult *res = PQexecParams(core, buf_cstr(&sql), 3, NULL, values, lengths, formats, 1);
	buf_release(&sql);
	if (PQresultStatus(res) != PGRES_TUPLES_OK) {
		rc = pgc_fail(core, res, err, "reading missing events") == ERR_RETRY ? ERR_RETRY
										     : 0;
	} else {
		*ret = arena_alloc(a, REPAIR_ROWS * sizeof(**ret));
		rc = take_rows(res, gap, a, *ret, err);
	}
	PQclear(res);
	return rc;
}

int repair_read(const struct settings *s, const struct ledger *ledger, struct loop *loop,
		const struct repair_gap *gap, struct arena *a, struct fold_event **ret,
		struct rt_err *err)
{
	PGconn *core;
	int rc = connect(s, ledger, loop, &core, err);
	if (rc == 0) {
		rc = read_gap(core, gap, a, ret, err);
		pgc_close(core);
	}
	if (rc < 0)
		return rt_context(err, "gap repair");
	const char *name = gap->rollup->name, *id = source_id_text(gap->rollup, gap->id, a);
	if (rc > 0)
		log_warn("events that the stream did not bring were read from the core",
			 "rollup=%s id=%s from=%d count=%d", name, id, gap->after + 1, rc);
	else
		log_warn("events are missing, and cannot be had from the core",
			 "rollup=%s id=%s from=%d to=%d reason=\"%s\"", name, id, gap->after + 1,
			 gap->before - 1, err->msg);
	return rc;
}

int repair_batch(const struct settings *s, const struct ledger *ledger, struct loop *loop,
		 struct batch *b, struct rt_err *err)
{
	const struct repair_gap gap = {.rollup = b->landed->item[b->gap.rollup].rollup,
				       .id = b->gap.id,
				       .after = b->gap.after,
				       .before = b->gap.before};
	struct fold_event *e;
	int n = repair_read(s, ledger, loop, &gap, &b->arena, &e, err);
	if (n > 0)
		batch_fill_gap(b, e, (uint32_t)n);
	else if (n == 0)
		batch_leave_gap(b);
	return RT_MIN(n, 0);
}
