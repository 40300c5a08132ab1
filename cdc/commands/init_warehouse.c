/*
 * init_warehouse: schemas, control tables and the first position. Guarantees:
 * the ledger's first row is where the slot begins, written only where the
 * pipeline has none.
 */
#include "apply/sql/migrate.h"
#include "cdc/commands/init.h"

static int make_control(struct init *in, struct rt_err *err)
{
	int ran = 0;
	int rc = migrate_run(in->warehouse, &ran, err);
	if (rc != 0 && strstr(err->msg, "42501") != NULL)
		return rt_context(err,
				  "the control schema needs CREATE on the warehouse's database, "
				  "or a schema rolag that this role owns (rolag init "
				  "--print-sql)");
	if (rc != 0)
		return rc;
	if (ran > 0)
		init_made(in, "warehouse", "control schema rolag is now at version %d",
			  migrate_latest());
	else
		init_says("warehouse", "control schema rolag exists at version %d",
			  migrate_latest());
	return 0;
}

static int make_schema(struct init *in, struct rt_err *err)
{
	const char *name = in->s.warehouse.schema;
	const char *there;
	int rc = estate_text(in->warehouse, in->arena, &there, err,
			     "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1", 1, &name);
	if (rc != 0)
		return rc;
	if (there != NULL) {
		init_says("warehouse", "schema %s exists", name);
		return 0;
	}
	struct buf sql = BUF_INIT;
	buf_str(&sql, "CREATE SCHEMA ");
	pgc_ident(&sql, name);
	rc = pgc_exec(in->warehouse, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	if (rc == 0)
		init_made(in, "warehouse", "created schema %s", name);
	return rc;
}

/* Fence and first position in one transaction: both or none. */
static int write_position(struct init *in, struct rt_err *err)
{
	char id[32], lsn[32], timeline[16];
	snprintf(id, sizeof(id), "%llu", (unsigned long long)in->system.system_id);
	snprintf(lsn, sizeof(lsn), LSN_FMT, LSN_ARGS(in->slot.confirmed));
	snprintf(timeline, sizeof(timeline), "%u", in->system.timeline);
	const char *fence[] = {in->s.pipeline, id};
	const char *ledger[] = {in->s.pipeline, lsn, timeline};
	int rc = pgc_query(in->warehouse, NULL, err,
			   "INSERT INTO rolag.fence (pipeline, core_system_id) VALUES ($1, $2) "
			   "ON CONFLICT (pipeline) DO UPDATE SET core_system_id = $2 "
			   "WHERE fence.core_system_id IS NULL",
			   2, fence);
	if (rc == 0)
		rc = pgc_query(in->warehouse, NULL, err,
			       "INSERT INTO rolag.ledger (pipeline, applied_lsn, timeline) "
			       "SELECT $1, $2::pg_lsn, $3::int WHERE NOT EXISTS "
			       "(SELECT FROM rolag.ledger WHERE pipeline = $1)",
			       3, ledger);
	return rc;
}

static int make_position(struct init *in, struct rt_err *err)
{
	if (in->control.has_ledger && in->control.core_system_id[0] != '\0') {
		init_says("warehouse", "pipeline %s is at " LSN_FMT, in->s.pipeline,
			  LSN_ARGS(in->control.applied));
		return 0;
	}
	int rc = pgc_exec(in->warehouse, NULL, err, "BEGIN");
	if (rc != 0)
		return rc;
	rc = write_position(in, err);
	if (rc != 0) {
		struct rt_err ignored; /* the first error is the one to tell */
		(void)!pgc_exec(in->warehouse, NULL, &ignored, "ROLLBACK");
		return rc;
	}
	rc = pgc_exec(in->warehouse, NULL, err, "COMMIT");
	if (rc == 0 && in->control.has_ledger)
		init_made(in, "warehouse", "pipeline %s: recorded which core it follows",
			  in->s.pipeline);
	else if (rc == 0)
		init_made(in, "warehouse", "pipeline %s begins at " LSN_FMT, in->s.pipeline,
			  LSN_ARGS(in->slot.confirmed));
	return rc;
}

static void report_landed(void *ctx, const char *what)
{
	init_made(ctx, "warehouse", "created %s", what);
}

static int make_landed(struct init *in, struct rt_err *err)
{
	int before = in->changes;
	int rc = landed_ensure(in->warehouse, &in->s, &in->landed, report_landed, in, err);
	if (rc == 0 && in->changes == before)
		init_says("warehouse", "tables of %u rollups exist", in->landed.count);
	if (rc == 0 && in->mirrors.count > 0)
		init_says("warehouse", "%u mirrors are made by their first load",
			  in->mirrors.count);
	return rc;
}

int init_warehouse_make(struct init *in, struct rt_err *err)
{
	int rc = make_control(in, err);
	if (rc == 0)
		rc = make_schema(in, err);
	if (rc == 0)
		rc = make_position(in, err);
	if (rc == 0)
		rc = make_landed(in, err);
	return rc == 0 ? init_reports_make(in, err) : rc;
}
