/*
 * landed: DDL and SQL of landed tables, generated from definitions.
 * Guarantees: names are quoted, a table made by another definition is never
 * written, and running landed_ensure twice changes nothing the second time.
 */
#include "apply/stream/landed.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>

#include "proto/base/failpoint.h"
#include "proto/pg/pgconn.h"
#include "transforms/rollup/fold.h"

static const char *const state_names[] = {"syncing", "live", "parked", "rebuilding"};

/* ---- which rollups ---- */

static int by_name(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The *.yaml files of dir, sorted, in the arena. */
static int list_definitions(struct arena *a, const char *dir, const char ***ret, size_t *ret_count,
			    struct rt_err *err)
{
	DIR *d = opendir(dir);
	if (d == NULL)
		return rt_fail_errno(err, ERR_PERMANENT, "cannot read the folder rollups.path, %s",
				     dir);
	const char **path = NULL;
	size_t n = 0, cap = 0;
	for (struct dirent *e; (e = readdir(d)) != NULL;) {
		size_t len = strlen(e->d_name);
		if (e->d_name[0] == '.' || len < 6 || strcmp(e->d_name + len - 5, ".yaml") != 0)
			continue;
		if (n == cap) {
			cap = cap == 0 ? 64 : cap * 2;
			path = rt_realloc(path, cap * sizeof(*path));
		}
		path[n++] = arena_printf(a, "%s/%s", dir, e->d_name);
	}
	closedir(d);
	if (n > 0)
		qsort(path, n, sizeof(*path), by_name);
	*ret = path;
	*ret_count = n;
	return 0;
}

static bool is_landed(const struct settings *s, const char *name)
{
	if (s->rollups.land.count == 0)
		return true;
	for (size_t i = 0; i < s->rollups.land.count; i++)
		if (strcmp(s->rollups.land.item[i], name) == 0)
			return true;
	return false;
}

static void resolve_policies(const struct settings *s, struct rollup *r)
{
	static const enum rollup_policy event[] = {[UNKNOWN_EVENT_QUARANTINE] = POLICY_QUARANTINE,
						   [UNKNOWN_EVENT_FAIL] = POLICY_FAIL,
						   [UNKNOWN_EVENT_IGNORE] = POLICY_IGNORE};
	static const enum rollup_policy key[] = {[UNKNOWN_KEY_WARN] = POLICY_WARN,
						 [UNKNOWN_KEY_QUARANTINE] = POLICY_QUARANTINE,
						 [UNKNOWN_KEY_FAIL] = POLICY_FAIL,
						 [UNKNOWN_KEY_IGNORE] = POLICY_IGNORE};
	static const enum rollup_policy gap[] = {[GAP_REPAIR] = POLICY_REPAIR,
						 [GAP_QUARANTINE] = POLICY_QUARANTINE,
						 [GAP_FAIL] = POLICY_FAIL};
	rollup_set_policies(r, event[s->apply.unknown_event], key[s->apply.unknown_key],
			    gap[s->apply.gap]);
}

static void add_item(struct arena *a, const struct settings *s, struct landed_set *set,
		     const struct rollup *r)
{
	struct buf b = BUF_INIT;
	struct landed *l = &set->item[set->count++];
	*l = (struct landed){.rollup = r, .state = LANDED_SYNCING};
	pgc_ident(&b, s->warehouse.schema);
	buf_u8(&b, '.');
	size_t prefix = b.len;
	pgc_ident(&b, r->name);
	l->history = arena_strdup(a, buf_cstr(&b));
	b.len = prefix;
	char *latest = rt_sprintf("%s_latest", r->name);
	pgc_ident(&b, latest);
	l->latest = arena_strdup(a, buf_cstr(&b));
	free(latest);
	buf_release(&b);
}

static int check_named(const struct settings *s, const struct landed_set *set, struct rt_err *err)
{
	for (size_t i = 0; i < s->rollups.land.count; i++) {
		bool found = false;
		for (uint16_t j = 0; j < set->count; j++)
			found |= strcmp(set->item[j].rollup->name, s->rollups.land.item[i]) == 0;
		if (!found)
			return rt_fail(err, ERR_PERMANENT,
				       "%s: rollups.land names %s, which no file in %s defines",
				       s->file, s->rollups.land.item[i], s->rollups.path);
	}
	if (set->count == 0)
		return rt_fail(err, ERR_PERMANENT, "%s has no rollup definitions (*.yaml)",
			       s->rollups.path);
	return 0;
}

int landed_load(struct arena *a, const struct settings *s, struct landed_set *ret,
		struct rt_err *err)
{
	const char **path = NULL;
	size_t n = 0;
	int rc = list_definitions(a, s->rollups.path, &path, &n, err);
	if (rc == 0 && n > UINT16_MAX)
		rc = rt_fail(err, ERR_PERMANENT, "%s has too many files", s->rollups.path);
	struct landed_set set = {0};
	if (rc == 0)
		set.item = arena_zalloc(a, (n + 1) * sizeof(*set.item));
	for (size_t i = 0; rc == 0 && i < n; i++) {
		struct rollup *r;
		rc = rollup_load(a, path[i], &r, err);
		if (rc != 0)
			break;
		for (uint16_t j = 0; rc == 0 && j < set.count; j++)
			if (strcmp(set.item[j].rollup->name, r->name) == 0)
				rc = rt_fail(err, ERR_PERMANENT,
					     "%s: the rollup %s is defined in %s already", path[i],
					     r->name, set.item[j].rollup->file);
		if (rc != 0 || !is_landed(s, r->name)) {
			rollup_release(r);
			continue;
		}
		resolve_policies(s, r);
		add_item(a, s, &set, r);
	}
	free(path);
	if (rc == 0)
		rc = check_named(s, &set, err);
	if (rc == 0)
		*ret = set;
	else
		landed_release(&set);
	return rc;
}

void landed_release(struct landed_set *set)
{
	for (uint16_t i = 0; set != NULL && i < set->count; i++)
		rollup_release((struct rollup *)set->item[i].rollup);
	if (set != NULL)
		*set = (struct landed_set){0};
}

int landed_find_source(const struct landed_set *set, const char *nspname, const char *relname)
{
	for (uint16_t i = 0; i < set->count; i++)
		if (strcmp(set->item[i].rollup->source_schema, nspname) == 0 &&
		    strcmp(set->item[i].rollup->source_table, relname) == 0)
			return i;
	return -1;
}

/* ---- SQL ---- */

static const char *const before_names[LANDED_BEFORE] = {
	[LANDED_ID] = "id",
	[LANDED_VERSION] = "version",
	[LANDED_CREATED_AT] = "created_at",
	[LANDED_MODIFIED_AT] = "modified_at",
	[LANDED_EVENT_TYPE] = "event_type",
};
static const char *const before_types[LANDED_BEFORE] = {
	[LANDED_ID] = NULL, /* the rollup's id_type */
	[LANDED_VERSION] = "int4",
	[LANDED_CREATED_AT] = "timestamptz",
	[LANDED_MODIFIED_AT] = "timestamptz",
	[LANDED_EVENT_TYPE] = "text",
};
static const char *const before_comments[LANDED_BEFORE] = {
	[LANDED_ID] = "The entity.",
	[LANDED_VERSION] = "Sequence of the event that made this version; 1, 2, 3 … without gaps.",
	[LANDED_CREATED_AT] = "recorded_at of the entity's first event.",
	[LANDED_MODIFIED_AT] = "recorded_at of this version's event.",
	[LANDED_EVENT_TYPE] = "Type of this version's event.",
};
#define LSN_COMMENT                                                                                \
	"Commit end LSN of the source transaction; for a row that came by sync, the LSN of the "   \
	"snapshot (an upper bound)."
#define COMMITTED_COMMENT                                                                          \
	"Commit time of the source transaction in the core; NULL for a row that came by sync."

static const char *before_type(const struct landed *l, int i)
{
	return i == LANDED_ID ? pgt_name((struct pgt_type){l->rollup->id_type, false})
			      : before_types[i];
}

static void column_names(const struct landed *l, const char *prefix, struct buf *out)
{
	for (int i = 0; i < LANDED_BEFORE; i++)
		buf_printf(out, "%s%s%s", i > 0 ? ", " : "", prefix, before_names[i]);
	for (uint16_t i = 0; i < l->rollup->column_count; i++) {
		buf_printf(out, ", %s", prefix);
		pgc_ident(out, l->rollup->column[i].name);
	}
	buf_printf(out, ", %s_lsn, %s_committed_at", prefix, prefix);
}

static void create_table(const struct landed *l, bool latest, struct buf *out)
{
	const struct rollup *r = l->rollup;
	buf_printf(out, "CREATE TABLE %s (\n", latest ? l->latest : l->history);
	for (int i = 0; i < LANDED_BEFORE; i++)
		buf_printf(out, "    %s %s NOT NULL,\n", before_names[i], before_type(l, i));
	for (uint16_t i = 0; i < r->column_count; i++) {
		buf_str(out, "    ");
		pgc_ident(out, r->column[i].name);
		buf_printf(out, " %s,\n", pgt_name(r->column[i].type));
	}
	buf_str(out, "    _lsn pg_lsn NOT NULL,\n    _committed_at timestamptz,\n");
	/* Room on each page lets an update of a latest row stay on its page (HOT). */
	buf_printf(out, "    PRIMARY KEY (id%s)\n)%s;\n", latest ? "" : ", version",
		   latest ? " WITH (fillfactor = 50)" : "");
}

void landed_comment(struct buf *out, const char *table, const char *column, const char *text)
{
	buf_printf(out, "COMMENT ON %s %s", column != NULL ? "COLUMN" : "TABLE", table);
	if (column != NULL) {
		buf_u8(out, '.');
		pgc_ident(out, column);
	}
	buf_str(out, " IS ");
	pgc_literal(out, text);
	buf_str(out, ";\n");
}

static void table_comments(const struct landed *l, bool latest, struct buf *out)
{
	const struct rollup *r = l->rollup;
	const char *table = latest ? l->latest : l->history;
	char *text = rt_sprintf("%s%s%s, folded from %s.%s (definition %" PRId32 ").",
				r->description != NULL ? r->description : "",
				r->description != NULL ? ": " : "",
				latest ? "the newest version of each entity" : "every version",
				r->source_schema, r->source_table, r->definition);
	landed_comment(out, table, NULL, text);
	free(text);
	for (int i = 0; i < LANDED_BEFORE; i++)
		landed_comment(out, table, before_names[i], before_comments[i]);
	struct buf d = BUF_INIT;
	for (uint16_t i = 0; i < r->column_count; i++) {
		const struct rollup_column *c = &r->column[i];
		buf_clear(&d);
		if (c->description != NULL)
			buf_printf(&d, "%s; ", c->description);
		rollup_describe_column(r, c, &d);
		landed_comment(out, table, c->name, buf_cstr(&d));
	}
	buf_release(&d);
	landed_comment(out, table, "_lsn", LSN_COMMENT);
	landed_comment(out, table, "_committed_at", COMMITTED_COMMENT);
}

void landed_ddl(const struct landed *l, struct buf *out)
{
	create_table(l, false, out);
	create_table(l, true, out);
	table_comments(l, false, out);
	table_comments(l, true, out);
}

void landed_copy_sql(const struct landed *l, bool latest, struct buf *out)
{
	buf_printf(out, "COPY %s (", latest ? l->latest : l->history);
	column_names(l, "", out);
	buf_str(out, ") FROM STDIN (FORMAT binary)");
}

void landed_write_sql(const struct landed *l, struct buf *out)
{
	const struct rollup *r = l->rollup;
	int n = LANDED_BEFORE + r->column_count + LANDED_BEHIND, p = 1;
	buf_str(out, "WITH s AS (SELECT * FROM unnest(");
	for (int i = 0; i < LANDED_BEFORE; i++, p++)
		buf_printf(out, "%s$%d::%s[]", p > 1 ? ", " : "", p, before_type(l, i));
	for (uint16_t i = 0; i < r->column_count; i++, p++)
		buf_printf(out, ", $%d::%s[]", p,
			   r->column[i].type.array ? "text" : pgt_name(r->column[i].type));
	buf_printf(out, ", $%d::pg_lsn[], $%d::timestamptz[], $%d::bool[]) AS t (", n - 1, n,
		   n + 1);
	column_names(l, "", out);
	buf_str(out, ", _last))");
	struct buf values = BUF_INIT; /* the SELECT list: array columns are cast back */
	for (int i = 0; i < LANDED_BEFORE; i++)
		buf_printf(&values, "%s%s", i > 0 ? ", " : "", before_names[i]);
	for (uint16_t i = 0; i < r->column_count; i++) {
		buf_str(&values, ", ");
		pgc_ident(&values, r->column[i].name);
		if (r->column[i].type.array)
			buf_printf(&values, "::%s", pgt_name(r->column[i].type));
	}
	buf_str(&values, ", _lsn, _committed_at");
	buf_printf(out, ", h AS (INSERT INTO %s (", l->history);
	column_names(l, "", out);
	buf_printf(out, ") SELECT %s FROM s)", buf_cstr(&values));
	buf_printf(out, " INSERT INTO %s AS l (", l->latest);
	column_names(l, "", out);
	buf_printf(out, ") SELECT %s FROM s WHERE _last ON CONFLICT (id) DO UPDATE SET (",
		   buf_cstr(&values));
	column_names(l, "", out);
	buf_str(out, ") = (");
	column_names(l, "excluded.", out);
	buf_str(out, ")");
	buf_release(&values);
}

/*
 * The newest version of one entity in history. Both statements below look it
 * up by key, one entity after the other, whatever the planner thinks of the
 * size of a table that it saw empty.
 */
static void newest_version(const struct landed *l, const char *of, struct buf *out)
{
	buf_str(out, "(SELECT ");
	column_names(l, "h.", out);
	buf_printf(out, " FROM %s AS h WHERE h.id = %s.id ORDER BY h.version DESC LIMIT 1)",
		   l->history, of);
}

void landed_begin_sql(const struct landed *l, struct buf *out)
{
	buf_printf(out, "INSERT INTO %s (", l->latest);
	column_names(l, "", out);
	buf_printf(out, ") SELECT n.* FROM unnest($1::%s[]) AS k (id), LATERAL ",
		   before_type(l, LANDED_ID));
	newest_version(l, "k", out);
	buf_str(out, " AS n");
}

void landed_renew_sql(const struct landed *l, struct buf *out)
{
	buf_printf(out, "UPDATE %s AS l SET (", l->latest);
	column_names(l, "", out);
	buf_str(out, ") = ");
	newest_version(l, "l", out);
	buf_printf(out, " WHERE l.id = ANY($1::%s[])", before_type(l, LANDED_ID));
}

void landed_select_sql(const struct landed *l, bool latest, struct buf *out)
{
	buf_str(out, "SELECT ");
	for (int i = 0; i < LANDED_BEFORE; i++)
		buf_printf(out, "%s%s", i > 0 ? ", " : "", before_names[i]);
	for (uint16_t i = 0; i < l->rollup->column_count; i++) {
		buf_str(out, ", ");
		pgc_ident(out, l->rollup->column[i].name);
	}
	buf_printf(out, " FROM %s", latest ? l->latest : l->history);
}

void landed_fetch_sql(const struct landed *l, struct buf *out)
{
	landed_select_sql(l, true, out);
	buf_printf(out, " WHERE id = ANY($1::%s[])", before_type(l, LANDED_ID));
}

/* ---- the warehouse's side ---- */

static void creation_sql(const struct settings *s, const struct landed *l, struct buf *sql)
{
	const struct rollup *r = l->rollup;
	landed_ddl(l, sql);
	buf_str(sql, "INSERT INTO rolag.relation (pipeline, name, kind, source, state, definition, "
		     "fingerprint) VALUES (");
	pgc_literal(sql, s->pipeline);
	buf_str(sql, ", ");
	pgc_literal(sql, r->name);
	buf_str(sql, ", 'rollup', ");
	char *source = rt_sprintf("%s.%s", r->source_schema, r->source_table);
	pgc_literal(sql, source);
	free(source);
	buf_printf(sql, ", 'syncing', %" PRId32 ", '%016" PRIx64 "');\nCOMMIT", r->definition,
		   r->fingerprint);
}

/*
 * Within a transaction that keeps every other creator (init beside apply, two
 * appliers) out: 1 when the tables were made, 0 when another one had made them.
 */
static int create_tables(PGconn *c, const struct settings *s, const struct landed *l,
			 struct rt_err *err)
{
	const char *params[] = {s->pipeline, l->rollup->name};
	PGresult *res;
	FAILPOINT_FD(LANDED_BEFORE_CREATE, PQsocket(c));
	int rc = pgc_exec(c, NULL, err,
			  "BEGIN; LOCK TABLE rolag.relation IN SHARE ROW EXCLUSIVE MODE");
	if (rc == 0)
		rc = pgc_query(c, &res, err,
			       "SELECT 1 FROM rolag.relation WHERE pipeline = $1 AND name = $2", 2,
			       params);
	if (rc != 0)
		return rc;
	bool there = PQntuples(res) > 0;
	PQclear(res);
	if (there)
		return pgc_exec(c, NULL, err, "ROLLBACK");
	struct buf sql = BUF_INIT;
	creation_sql(s, l, &sql);
	FAILPOINT_FD(LANDED_LOCKED, PQsocket(c));
	rc = pgc_exec(c, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	FAILPOINT_FD(LANDED_AFTER_CREATE, PQsocket(c));
	return rc != 0 ? rc : 1;
}

static int create_one(PGconn *c, const struct settings *s, const struct landed *l,
		      landed_report report, void *ctx, struct rt_err *err)
{
	int rc = create_tables(c, s, l, err);
	if (rc < 0) {
		struct rt_err ignored;
		if (pgc_exec(c, NULL, &ignored, "ROLLBACK") != 0) {
			/* the first error is the one to tell */
		}
		return rt_context(err, "creating %s", l->history);
	}
	if (rc == 1 && report != NULL) {
		char *what = rt_sprintf("tables %s and %s", l->history, l->latest);
		report(ctx, what);
		free(what);
	}
	return 0;
}

static int check_definition(const struct landed *l, int32_t definition, const char *fingerprint,
			    struct rt_err *err)
{
	const struct rollup *r = l->rollup;
	char mine[17];
	snprintf(mine, sizeof(mine), "%016" PRIx64, r->fingerprint);
	if (definition == r->definition && strcmp(mine, fingerprint) == 0)
		return 0;
	if (definition == r->definition)
		return rt_fail(err, ERR_PERMANENT,
			       "%s: the definition of %s changed under the same number %" PRId32
			       "; mend: restore it, or give it the number %" PRId32
			       " and load the rollup anew",
			       r->file, r->name, definition, definition + 1);
	return rt_fail(err, ERR_PERMANENT,
		       "%s: the rows of %s were made by definition %" PRId32
		       ", the file says %" PRId32
		       "; mend: to load it anew, DROP TABLE %s, %s and delete its row from "
		       "rolag.relation",
		       r->file, r->name, definition, r->definition, l->history, l->latest);
}

static int take_state(struct landed *l, const PGresult *res, struct rt_err *err)
{
	const char *state = PQgetvalue(res, 0, 0);
	for (size_t i = 0; i < ARRAY_LEN(state_names); i++)
		if (strcmp(state_names[i], state) == 0)
			l->state = (enum landed_state)i;
	l->sync_lsn = pgc_get_lsn(res, 0, 1);
	l->parked_from = LSN_NONE;
	l->parked_for_cause = !PQgetisnull(res, 0, 4);
	return check_definition(l, (int32_t)strtol(PQgetvalue(res, 0, 2), NULL, 10),
				PQgetvalue(res, 0, 3), err);
}

/* What rolag.relation says of l, if it is there. */
static int read_state(PGconn *c, const struct settings *s, struct landed *l, bool *ret_there,
		      struct rt_err *err)
{
	const char *params[] = {s->pipeline, l->rollup->name};
	PGresult *res;
	int rc = pgc_query(
		c, &res, err,
		"SELECT state, sync_lsn, definition, fingerprint, reason FROM rolag.relation "
		"WHERE pipeline = $1 AND name = $2",
		2, params);
	if (rc != 0)
		return rc;
	*ret_there = PQntuples(res) > 0;
	if (*ret_there)
		rc = take_state(l, res, err);
	PQclear(res);
	return rc;
}

int landed_ensure(PGconn *c, const struct settings *s, struct landed_set *set, landed_report report,
		  void *ctx, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	buf_str(&sql, "CREATE SCHEMA IF NOT EXISTS ");
	pgc_ident(&sql, s->warehouse.schema);
	PGresult *res;
	const char *name = s->warehouse.schema;
	int rc = pgc_query(c, &res, err, "SELECT 1 FROM pg_namespace WHERE nspname = $1", 1, &name);
	if (rc == 0) {
		if (PQntuples(res) == 0)
			rc = pgc_exec(c, NULL, err, "%s", buf_cstr(&sql));
		PQclear(res);
	}
	buf_release(&sql);
	for (uint16_t i = 0; rc == 0 && i < set->count; i++) {
		bool there;
		rc = read_state(c, s, &set->item[i], &there, err);
		if (rc == 0 && !there)
			rc = create_one(c, s, &set->item[i], report, ctx, err);
		if (rc == 0 && !there)
			rc = read_state(c, s, &set->item[i], &there, err);
	}
	return rc;
}

/* Those of the set that were parked for nothing but their absence. */
static int wake_returned(PGconn *c, const char *const *params, struct landed_set *set,
			 struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_query(c, &res, err,
			   "UPDATE rolag.relation SET state = 'syncing', changed_at = now() WHERE "
			   "pipeline = $1 AND kind = 'rollup' AND state = 'parked' AND "
			   "reason IS NULL AND name = ANY ($2::text[]) RETURNING name",
			   2, params);
	if (rc != 0)
		return rc;
	for (int i = 0; i < PQntuples(res); i++)
		for (uint16_t n = 0; n < set->count; n++)
			if (strcmp(set->item[n].rollup->name, PQgetvalue(res, i, 0)) == 0)
				set->item[n].state = LANDED_SYNCING;
	PQclear(res);
	return 0;
}

int landed_park_absent(PGconn *c, const struct settings *s, struct landed_set *set,
		       landed_report report, void *ctx, struct rt_err *err)
{
	struct buf names = BUF_INIT; /* rollup names need no quoting in an array literal */
	PGresult *res;
	for (uint16_t i = 0; i < set->count; i++)
		buf_printf(&names, "%s%s", i == 0 ? "{" : ",", set->item[i].rollup->name);
	buf_str(&names, "}");
	const char *params[] = {s->pipeline, buf_cstr(&names)};
	FAILPOINT_FD(LANDED_PARK, PQsocket(c));
	int rc = pgc_query(c, &res, err,
			   "UPDATE rolag.relation SET state = 'parked', reason = NULL, changed_at "
			   "= now() WHERE "
			   "pipeline = $1 AND kind = 'rollup' AND state <> 'parked' AND "
			   "name <> ALL ($2::text[]) RETURNING name",
			   2, params);
	for (int i = 0; rc == 0 && i < PQntuples(res); i++)
		report(ctx, PQgetvalue(res, i, 0));
	if (rc == 0) {
		PQclear(res);
		rc = wake_returned(c, params, set, err);
	}
	buf_release(&names);
	return rc;
}

int landed_set_state(PGconn *c, const struct settings *s, struct landed *l, enum landed_state state,
		     struct lsn sync_lsn, struct rt_err *err)
{
	char lsn[32];
	snprintf(lsn, sizeof(lsn), LSN_FMT, LSN_ARGS(sync_lsn));
	const char *params[] = {s->pipeline, l->rollup->name, state_names[state],
				sync_lsn.v != 0 ? lsn : NULL};
	int rc = pgc_query(c, NULL, err,
			   "UPDATE rolag.relation SET state = $3, sync_lsn = $4::pg_lsn, reason = "
			   "NULL, changed_at = now() WHERE pipeline = $1 AND name = $2",
			   4, params);
	if (rc == 0) {
		l->state = state;
		l->sync_lsn = sync_lsn;
	}
	return rc;
}
