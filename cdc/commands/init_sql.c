/*
 * init_sql: what the DBAs of both databases are asked for. Guarantees: the
 * least rights that the roles work with, and statements that run twice
 * without harm (but for CREATE PUBLICATION, which says that it exists).
 */
#include "cdc/commands/companion.h"
#include "cdc/commands/init.h"

void init_sql_role(struct buf *b, const char *role, const char *rights)
{
	buf_str(b, "DO $do$ BEGIN\n    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE "
		   "rolname = ");
	pgc_literal(b, role);
	buf_str(b, ") THEN\n        CREATE ROLE ");
	pgc_ident(b, role);
	buf_str(b, ";\n    END IF;\nEND $do$;\nALTER ROLE ");
	pgc_ident(b, role);
	buf_printf(b, " %s;\n", rights);
}

void init_sql_grant(struct buf *b, const char *rights, const char *database, const char *role)
{
	buf_printf(b, "GRANT %s ON DATABASE ", rights);
	pgc_ident(b, database);
	buf_str(b, " TO ");
	pgc_ident(b, role);
	buf_str(b, ";\n");
}

static bool is_first_of_schema(const struct init *in, int publication, size_t at)
{
	const char *schema = in->pub[publication].table[at].schema;
	for (int p = 0; p <= publication; p++) {
		const size_t before = p == publication ? at : in->pub[p].count;
		for (size_t i = 0; i < before; i++)
			if (strcmp(in->pub[p].table[i].schema, schema) == 0)
				return false;
	}
	return true;
}

static void grant_reading(struct buf *b, const struct init *in, const char *role)
{
	for (int p = 0; p < INIT_PUBLICATIONS; p++)
		for (size_t i = 0; i < in->pub[p].count; i++) {
			if (!is_first_of_schema(in, p, i))
				continue;
			buf_str(b, "GRANT USAGE ON SCHEMA ");
			pgc_ident(b, in->pub[p].table[i].schema);
			buf_str(b, " TO ");
			pgc_ident(b, role);
			buf_str(b, ";\n");
		}
	buf_str(b, "GRANT SELECT ON");
	const char *between = "\n    ";
	for (int p = 0; p < INIT_PUBLICATIONS; p++)
		for (size_t i = 0; i < in->pub[p].count; i++) {
			buf_str(b, between);
			estate_table(b, in->pub[p].table[i].schema, in->pub[p].table[i].table);
			between = ",\n    ";
		}
	buf_str(b, "\n    TO ");
	pgc_ident(b, role);
	buf_str(b, ";\n");
}

/* What the second publication forbids the core, and how it is kept from it. */
static void print_changes(const struct init *in, struct buf *b)
{
	const struct init_publication *p = &in->pub[INIT_CHANGES];
	if (p->count == 0)
		return;
	buf_str(b, "\n-- Tables whose updates and deletes are published, too. They need a replica "
		   "identity (a primary key\n-- will do): without one, or once it is dropped, the "
		   "core's own UPDATE and DELETE of them fail. Where\n-- one has none, its owner "
		   "gives it one first, with a short ACCESS EXCLUSIVE lock:\n--   ALTER TABLE … "
		   "REPLICA IDENTITY USING INDEX … (unique, whole, over NOT NULL columns)\n-- or "
		   "it is listed under mirrors.append_only, if rows of it never change.\n");
	init_sql_create_publication(p, b);
	buf_str(b, ";\n");
}

/* A role that gets changes and beats, and reads no table. */
static void print_capture(const struct init *in, struct buf *b, const char *database)
{
	const char *role = capture_role(in->arena, &in->s);
	if (role == NULL)
		return;
	buf_str(b, "\n-- Capture has a role of its own: it gets the published tables' changes "
		   "through the slot, and\n-- may read none of them.\n");
	init_sql_role(b, role, "LOGIN REPLICATION");
	init_sql_grant(b, "CONNECT", database, role);
}

/* Who sees the transactions of others, to name the one that is waited for: capture. */
static const char *watcher(const struct init *in, const char *otherwise)
{
	const char *role = capture_role(in->arena, &in->s);
	return role != NULL ? role : otherwise;
}

static void print_core(const struct init *in, struct buf *b)
{
	const char *role = conninfo_value(in->arena, in->s.core.connect, "user", "rolag");
	const char *database = conninfo_value(in->arena, in->s.core.connect, "dbname", role);
	buf_printf(b,
		   "-- Core, database %s, pipeline %s.\n"
		   "-- The server needs wal_level = logical (a restart), a free replication slot "
		   "and walsender for us\n"
		   "-- and one of each to spare for loads, and max_slot_wal_keep_size set, so that "
		   "no slot can fill\n"
		   "-- its disk. pg_hba.conf lets the role reach this database (a logical "
		   "replication connection\n"
		   "-- matches the database's name, not the word replication).\n\n"
		   "-- The role: replication and reading, nothing else. Give it a password with "
		   "\\password.\n",
		   database, in->s.pipeline);
	init_sql_role(b, role, "LOGIN REPLICATION");
	init_sql_grant(b, "CONNECT", database, role);
	buf_str(b, "\n-- Reading is for the first load of each table.\n");
	grant_reading(b, in, role);
	print_capture(in, b, database);
	buf_str(b,
		"\n-- Run by the owner of the tables (with CREATE on the database) or a superuser, "
		"and "
		"committed\n-- before the slot is made. No column lists and no row filters: of all "
		"DDL "
		"it forbids only ALTER\n-- TABLE … SET UNLOGGED. Columns change, tables are "
		"truncated "
		"and dropped as before; inserts need\n-- no replica identity, and updates and "
		"deletes "
		"are not published. Do not drop the publication\n-- while the slot lives: what is "
		"written meanwhile can never be decoded through that slot. Its lock on the tables "
		"(SHARE\n-- UPDATE EXCLUSIVE) stops no reader and no writer, and does not queue up "
		"behind a migration.\nSET lock_timeout = '" INIT_LOCK_TIMEOUT "';\n");
	init_sql_create_publication(&in->pub[INIT_INSERTS], b);
	buf_str(b, ";\n");
	print_changes(in, b);
	buf_str(b, "\n-- The slot is made by `rolag init`, which the role may do. By hand, "
		   "alone in "
		   "its transaction:\n--   SELECT pg_create_logical_replication_slot(");
	pgc_literal(b, in->s.core.slot);
	buf_str(b, ", 'pgoutput');\n-- It waits until every transaction open now has ended. "
		   "With\n--   "
		   "GRANT pg_read_all_stats TO ");
	pgc_ident(b, watcher(in, role));
	buf_str(b,
		";\n-- rolag can say how old the one is that it waits for (optional). Where there "
		"are "
		"standbys\n-- (PostgreSQL 17 and later), `rolag init` makes it with FAILOVER; the "
		"standbys need\n-- sync_replication_slots = on, hot_standby_feedback = on and a "
		"primary_slot_name to have it.\n-- wal_sender_timeout must not be 0 (60 s is "
		"good), "
		"and idle_replication_slot_timeout must be.\n");
	const char *fence = companion_core_role(in->arena, &in->s);
	if (fence == NULL)
		return;
	buf_str(b,
		"\n-- The companion of reports sends one message through the core's WAL for each "
		"run: it may log in, and no more.\n");
	init_sql_role(b, fence, "LOGIN");
	init_sql_grant(b, "CONNECT", database, fence);
}

static int print_warehouse(const struct init *in, struct buf *b, struct rt_err *err)
{
	const char *companion = companion_role(in->arena, &in->s);
	const bool builds = in->s.models.path[0] != '\0' && companion == NULL;
	const char *role = conninfo_value(in->arena, in->s.warehouse.connect, "user", "rolag");
	const char *database = conninfo_value(in->arena, in->s.warehouse.connect, "dbname", role);
	buf_printf(b,
		   "-- Warehouse, database %s, pipeline %s.\n"
		   "-- The role owns two schemas and needs no right on the database but CONNECT%s. "
		   "`rolag init` makes\n-- the tables in them.\n",
		   database, in->s.pipeline, builds ? " (and, for models, CREATE)" : "");
	init_sql_role(b, role, "LOGIN");
	init_sql_grant(b, "CONNECT", database, role);
	const char *schemas[] = {"rolag", in->s.warehouse.schema};
	for (size_t i = 0; i < ARRAY_LEN(schemas); i++) {
		buf_str(b, "CREATE SCHEMA IF NOT EXISTS ");
		pgc_ident(b, schemas[i]);
		buf_str(b, " AUTHORIZATION ");
		pgc_ident(b, role);
		buf_str(b, ";\n");
	}
	if (companion != NULL)
		return init_reports_print(in, b, companion, err);
	if (!builds)
		return 0;
	buf_str(b,
		"-- Models are built into a schema of each run, and shown in staging, intermediate "
		"and outputs.\nGRANT CREATE ON DATABASE ");
	pgc_ident(b, database);
	buf_str(b, " TO ");
	pgc_ident(b, role);
	buf_str(b, ";\n");
	return 0;
}

int init_print_sql(const struct init *in, const char *side, FILE *out, struct rt_err *err)
{
	bool core = side == NULL || strcmp(side, "core") == 0;
	bool warehouse = side == NULL || strcmp(side, "warehouse") == 0;
	if (!core && !warehouse)
		return rt_fail(err, ERR_USAGE, "%s is neither core nor warehouse", side);
	struct buf b = BUF_INIT;
	if (core)
		print_core(in, &b);
	if (core && warehouse)
		buf_str(&b, "\n");
	int rc = warehouse ? print_warehouse(in, &b, err) : 0;
	if (rc == 0)
		fputs(buf_cstr(&b), out);
	buf_release(&b);
	return rc;
}
