/* verify_triggers: the core's catalog against a definition. Reads only. */
#include "apply/stream/verify_triggers.h"

#include "proto/pg/pgconn.h"

static const char *const fixed[LANDED_BEFORE] = {"id", "version", "created_at", "modified_at",
						 "event_type"};

struct finder {
	const struct rollup *r;
	const PGresult *columns; /* name, OID of the type, its name */
	struct arena *arena;
	verify_note note;
	void *ctx;
};

static int find_column(const struct finder *f, const char *name)
{
	for (int i = 0; i < PQntuples(f->columns); i++)
		if (strcmp(PQgetvalue(f->columns, i, 0), name) == 0)
			return i;
	return -1;
}

static void say(const struct finder *f, const char *text)
{
	if (f->note != NULL)
		f->note(f->ctx, f->r->name, text);
}

static bool is_declared(const struct finder *f, const char *name)
{
	for (int i = 0; i < LANDED_BEFORE; i++)
		if (strcmp(fixed[i], name) == 0)
			return true;
	for (uint16_t i = 0; i < f->r->column_count; i++)
		if (strcmp(f->r->column[i].name, name) == 0)
			return true;
	return false;
}

/* varchar and text have one form. */
static bool is_same_type(uint32_t there, struct pgt_type here)
{
	struct pgt_type t;
	if (!pgt_from_oid(there, &t) || t.array != here.array)
		return false;
	bool text = t.base == PGT_TEXT || t.base == PGT_VARCHAR;
	bool here_text = here.base == PGT_TEXT || here.base == PGT_VARCHAR;
	return t.base == here.base || (text && here_text);
}

/* Appends ", column", cast where its type is another one. */
static void select_column(const struct finder *f, const struct rollup_column *c, int at,
			  struct buf *sql)
{
	buf_str(sql, ", ");
	pgc_ident(sql, c->name);
	if (is_same_type((uint32_t)strtoul(PQgetvalue(f->columns, at, 1), NULL, 10), c->type))
		return;
	buf_printf(sql, "::%s", pgt_name(c->type));
	say(f, arena_printf(f->arena, "column %s is %s in the core, compared as %s", c->name,
			    PQgetvalue(f->columns, at, 2), pgt_name(c->type)));
}

static int select_columns(const struct finder *f, struct rollup_column *both, uint16_t *ret_count,
			  struct buf *sql, struct rt_err *err)
{
	uint16_t n = 0;
	for (int i = 0; i < LANDED_BEFORE; i++) {
		if (find_column(f, fixed[i]) < 0)
			return rt_fail(
				err, ERR_PERMANENT,
				"the core's table has no column %s, which a rollup table has",
				fixed[i]);
		buf_printf(sql, "%s%s", i > 0 ? ", " : "SELECT ", fixed[i]);
		if (i == LANDED_VERSION)
			buf_str(sql, "::int4");
	}
	for (uint16_t i = 0; i < f->r->column_count; i++) {
		const struct rollup_column *c = &f->r->column[i];
		int at = find_column(f, c->name);
		if (at < 0) {
			say(f, arena_printf(f->arena, "column %s is only landed", c->name));
			continue;
		}
		select_column(f, c, at, sql);
		both[n++] = *c;
	}
	for (int i = 0; i < PQntuples(f->columns); i++)
		if (!is_declared(f, PQgetvalue(f->columns, i, 0)))
			say(f, arena_printf(f->arena, "column %s is only in the core",
					    PQgetvalue(f->columns, i, 0)));
	*ret_count = n;
	return 0;
}

static int pair_up(const struct finder *f, const struct landed *l, struct verify_triggers *ret,
		   struct rt_err *err)
{
	struct rollup_column *both =
		arena_alloc(f->arena, (f->r->column_count + 1u) * sizeof(*both));
	struct buf sql = BUF_INIT;
	ret->both = *f->r;
	int rc = select_columns(f, both, &ret->both.column_count, &sql, err);
	buf_printf(&sql, " FROM %s", ret->there);
	ret->select = arena_strdup(f->arena, buf_cstr(&sql));
	buf_release(&sql);
	ret->both.column = both;
	ret->here = *l;
	ret->here.rollup = &ret->both;
	return rc;
}

int verify_triggers_find(PGconn *core, const struct landed *l, struct arena *a, verify_note note,
			 void *ctx, struct verify_triggers *ret, struct rt_err *err)
{
	struct finder f = {.r = l->rollup, .arena = a, .note = note, .ctx = ctx};
	struct buf table = BUF_INIT;
	PGresult *res;
	pgc_ident(&table, f.r->source_schema);
	buf_u8(&table, '.');
	pgc_ident(&table, f.r->name);
	*ret = (struct verify_triggers){.there = arena_strdup(a, buf_cstr(&table))};
	buf_release(&table);
	int rc =
		pgc_query(core, &res, err,
			  "SELECT attname, atttypid, format_type(atttypid, atttypmod) FROM "
			  "pg_catalog.pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 "
			  "AND NOT attisdropped ORDER BY attnum",
			  1, &ret->there);
	if (rc != 0)
		return rc;
	f.columns = res;
	ret->exists = PQntuples(res) > 0;
	if (ret->exists)
		rc = pair_up(&f, l, ret, err);
	PQclear(res);
	return rc;
}
