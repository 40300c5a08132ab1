/*
 * check_definitions: `rolag check --definitions`, for the application's own
 * CI: every rollup definition against a migrated database, before either is
 * deployed. Needs no slot, no warehouse, no right but SELECT. Guarantees:
 * reads only, one thing wrong does not hide another, each finding stands with
 * file, line and column, and no value of an event is printed.
 */
#include <dirent.h>
#include <inttypes.h>

#include "apply/stream/verify_rows.h"
#include "cdc/commands/check.h"
#include "proto/base/fsio.h"
#include "proto/base/yaml.h"

/* Events of a table that are looked at: a test database has fewer, and a large one is not read as a whole. */
#define EVENTS_MAX     100000
#define EVENTS_MAX_SQL "100000"

struct definition {
	struct check *k;
	const struct rollup *r;
	const struct yaml_node *root;
	PGconn *db;
	const char *table; /* "schema"."table" */
	int64_t events;	   /* looked at */
};

/* ---- places ---- */

/* "file:line:column" of a node; of the file where there is none. */
static const char *place(const struct definition *d, const struct yaml_node *n)
{
	if (n == NULL)
		n = d->root;
	return arena_printf(d->k->arena, "%s:%d:%d", d->r->file, n->line, n->column);
}

/* The key of a map as a node. */
static const struct yaml_node *key_of(const struct yaml_node *map, const char *name)
{
	for (size_t i = 0; map != NULL && map->kind == YAML_MAP && i < map->count; i++)
		if (strcmp(map->key[i]->text, name) == 0)
			return map->key[i];
	return NULL;
}

static const struct yaml_node *event_key(const struct definition *d, const char *event)
{
	return key_of(yaml_get(d->root, "events"), event);
}

/* A payload key in the list of its event, written with or without "?". */
static const struct yaml_node *payload_key(const struct definition *d, const char *event,
					   const char *key)
{
	const struct yaml_node *events = yaml_get(d->root, "events");
	const struct yaml_node *list = events != NULL ? yaml_get(events, event) : NULL;
	size_t len = strlen(key);
	for (size_t i = 0; list != NULL && list->kind == YAML_LIST && i < list->count; i++) {
		const struct yaml_node *n = list->item[i];
		if (n->kind == YAML_SCALAR && strncmp(n->text, key, len) == 0 &&
		    (n->text[len] == '\0' || n->text[len] == '?'))
			return n;
	}
	return event_key(d, event);
}

/* Where a source column is named: in source_columns, else source. */
static const struct yaml_node *column_place(const struct definition *d, const char *role)
{
	const struct yaml_node *n = key_of(yaml_get(d->root, "source_columns"), role);
	return n != NULL ? n : yaml_get(d->root, "source");
}

/* ---- queries ---- */

/* NULL (told) when it failed. */
static PGresult *ask(struct definition *d, const char *sql, int count, const char *const *params)
{
	struct rt_err err;
	PGresult *res;
	if (pgc_query(d->db, &res, &err, sql, count, params) == 0)
		return res;
	check_error(d->k, place(d, yaml_get(d->root, "source")), &err);
	return NULL;
}

static int64_t number(const PGresult *res, int row, int column)
{
	return strtoll(PQgetvalue(res, row, column), NULL, 10);
}

/* ---- the table ---- */

static bool fits(const struct rollup *r, const char *role, uint32_t oid)
{
	if (strcmp(role, "id") == 0)
		return r->id_type == PGT_TEXT || r->id_type == PGT_VARCHAR
			       ? oid == OID_TEXT || oid == OID_VARCHAR
			       : oid == pgt_oid((struct pgt_type){r->id_type, false});
	if (strcmp(role, "sequence") == 0)
		return oid == OID_INT2 || oid == OID_INT4 || oid == OID_INT8;
	if (strcmp(role, "event_type") == 0)
		return oid == OID_TEXT || oid == OID_VARCHAR;
	if (strcmp(role, "event") == 0)
		return oid == OID_JSONB || oid == OID_JSON;
	return oid == OID_TIMESTAMPTZ;
}

static void check_column(struct definition *d, const char *role, const char *column,
			 const char *wanted)
{
	const char *params[] = {d->table, column};
	PGresult *res = ask(d,
			    "SELECT atttypid, format_type(atttypid, atttypmod), attgenerated <> '' "
			    "FROM pg_catalog.pg_attribute WHERE attrelid = $1::regclass AND "
			    "attname = $2 AND attnum > 0 AND NOT attisdropped",
			    2, params);
	if (res == NULL)
		return;
	const char *at = place(d, column_place(d, role));
	if (PQntuples(res) == 0)
		check_fail(d->k, "source_columns, or the migration that took the column away",
			   "%s: table %s has no column %s (%s of an event)", at, d->table, column,
			   role);
	else if (!fits(d->r, role, (uint32_t)number(res, 0, 0)))
		check_fail(d->k,
			   strcmp(role, "id") == 0 ? "id_type" : "source_columns, or the migration",
			   "%s: column %s of table %s is %s, wanted is %s", at, column, d->table,
			   PQgetvalue(res, 0, 1), wanted);
	else if (PQgetvalue(res, 0, 2)[0] == 't')
		check_fail(d->k, "source_columns: name a stored column",
			   "%s: column %s of table %s is generated, which a publication leaves out",
			   at, column, d->table);
	PQclear(res);
}

static void check_columns(struct definition *d)
{
	const struct rollup *r = d->r;
	const struct {
		const char *role, *column, *wanted;
	} columns[] = {{"id", r->source_column.id, pgt_name((struct pgt_type){r->id_type, false})},
		       {"sequence", r->source_column.sequence, "int2, int4 or int8"},
		       {"event_type", r->source_column.event_type, "text or varchar"},
		       {"event", r->source_column.event, "jsonb or json"},
		       {"recorded_at", r->source_column.recorded_at, "timestamptz"}};
	for (size_t i = 0; i < ARRAY_LEN(columns); i++)
		check_column(d, columns[i].role, columns[i].column, columns[i].wanted);
}

/* May it be published, and read in the order of its events? */
static void check_shape(struct definition *d, const PGresult *res)
{
	const char *at = place(d, yaml_get(d->root, "source"));
	const char *kind = PQgetvalue(res, 0, 0);
	if (strchr("rp", kind[0]) == NULL)
		check_fail(d->k, "source: the table itself",
			   "%s: %s is not a table, which a publication needs", at, d->table);
	else if (strcmp(PQgetvalue(res, 0, 1), "p") != 0)
		check_fail(d->k, arena_printf(d->k->arena, "ALTER TABLE %s SET LOGGED;", d->table),
			   "%s: table %s is unlogged or temporary: nothing of it is in the stream",
			   at, d->table);
	else if (PQgetvalue(res, 0, 2)[0] != 't')
		check_fail(d->k,
			   arena_printf(d->k->arena,
					"CREATE UNIQUE INDEX CONCURRENTLY ON %s (\"%s\", \"%s\");",
					d->table, d->r->source_column.id,
					d->r->source_column.sequence),
			   "%s: table %s has no unique index on (%s, %s), by which its events are "
			   "read",
			   at, d->table, d->r->source_column.id, d->r->source_column.sequence);
}

static bool check_table(struct definition *d)
{
	const struct rollup *r = d->r;
	const char *params[] = {r->source_schema, r->source_table, r->source_column.id,
				r->source_column.sequence};
	int fails = d->k->fails;
	PGresult *res = ask(
		d,
		"SELECT c.relkind, c.relpersistence, EXISTS (SELECT FROM pg_catalog.pg_index i "
		"JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] "
		"JOIN pg_catalog.pg_attribute b ON b.attrelid = c.oid AND b.attnum = i.indkey[1] "
		"WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL "
		"AND i.indnkeyatts = 2 AND a.attname = $3 AND b.attname = $4) "
		"FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n "
		"ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2 "
		"AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
		4, params);
	if (res == NULL)
		return false;
	if (PQntuples(res) == 0) {
		check_fail(d->k, "source, or the migration that took the table away",
			   "%s: the database has no table %s",
			   place(d, yaml_get(d->root, "source")), d->table);
	} else {
		check_shape(d, res);
		check_columns(d);
	}
	PQclear(res);
	return d->k->fails == fails;
}

/* ---- the events that are there ---- */

/* "FROM (…) e": event_type as t, event as p, of so many events. */
static void events_from(const struct definition *d, struct buf *out)
{
	buf_str(out, "FROM (SELECT ");
	pgc_ident(out, d->r->source_column.event_type);
	buf_str(out, "::text AS t, ");
	pgc_ident(out, d->r->source_column.event);
	buf_printf(out, "::jsonb AS p FROM %s LIMIT " EVENTS_MAX_SQL ") e", d->table);
}

static PGresult *ask_events(struct definition *d, const char *select, const char *rest)
{
	struct buf sql = BUF_INIT;
	buf_printf(&sql, "SELECT %s ", select);
	events_from(d, &sql);
	buf_str(&sql, rest);
	PGresult *res = ask(d, buf_cstr(&sql), 0, NULL);
	buf_release(&sql);
	return res;
}

static void check_event_types(struct definition *d)
{
	PGresult *res = ask_events(d, "t, count(*)", " GROUP BY t ORDER BY t");
	for (int i = 0; res != NULL && i < PQntuples(res); i++) {
		const char *type = PQgetvalue(res, i, 0);
		d->events += number(res, i, 1);
		if (rollup_find_event(d->r, slice_str(type)) != NULL)
			continue;
		const char *at = place(d, key_of(d->root, "events"));
		const char *mend = "events: list it, with its payload keys";
		if (d->r->unknown_event == POLICY_IGNORE)
			check_warn(d->k, mend, "%s: event type %s of table %s is not listed (%s)",
				   at, type, d->table, "ignored, as unknown_event says");
		else
			check_fail(d->k, mend, "%s: event type %s of table %s is not listed", at,
				   type, d->table);
	}
	PQclear(res);
}

static bool is_listed(const struct rollup_event *e, const char *key)
{
	for (uint16_t i = 0; i < e->key_count; i++)
		if (strcmp(e->key[i].name, key) == 0)
			return true;
	return strcmp(key, "id") == 0 || strcmp(key, "type") == 0;
}

/* Keys that events have, and their definition does not list. */
static void check_unknown_keys(struct definition *d)
{
	PGresult *res;
	if (d->r->unknown_key == POLICY_IGNORE)
		return;
	res = ask_events(d, "DISTINCT t, k",
			 ", LATERAL jsonb_object_keys(p) k WHERE jsonb_typeof(p) = 'object' "
			 "ORDER BY t, k");
	for (int i = 0; res != NULL && i < PQntuples(res); i++) {
		const char *type = PQgetvalue(res, i, 0), *key = PQgetvalue(res, i, 1);
		const struct rollup_event *e = rollup_find_event(d->r, slice_str(type));
		if (e == NULL || is_listed(e, key))
			continue;
		const char *at = place(d, event_key(d, type));
		const char *mend = arena_printf(d->k->arena, "events: %s: […, %s?]", type, key);
		if (d->r->unknown_key == POLICY_FAIL)
			check_fail(d->k, mend, "%s: event %s has a key %s that is not listed", at,
				   type, key);
		else
			check_warn(d->k, mend, "%s: event %s has a key %s that is not listed", at,
				   type, key);
	}
	PQclear(res);
}

/* A required key that some events of its type do not have. */
static void check_missing_keys(struct definition *d)
{
	for (uint16_t i = 0; i < d->r->event_count; i++) {
		const struct rollup_event *e = &d->r->event[i];
		for (uint16_t j = 0; j < e->key_count; j++) {
			if (e->key[j].optional)
				continue;
			struct buf rest = BUF_INIT;
			buf_str(&rest, " WHERE t = ");
			pgc_literal(&rest, e->name);
			buf_str(&rest, " AND NOT p ? ");
			pgc_literal(&rest, e->key[j].name);
			PGresult *res = ask_events(d, "count(*)", buf_cstr(&rest));
			buf_release(&rest);
			if (res != NULL && number(res, 0, 0) > 0)
				check_fail(d->k,
					   arena_printf(d->k->arena, "events: %s: [… %s? …]",
							e->name, e->key[j].name),
					   "%s: %s events %s have no key %s, which is listed as "
					   "required",
					   place(d, payload_key(d, e->name, e->key[j].name)),
					   PQgetvalue(res, 0, 0), e->name, e->key[j].name);
			PQclear(res);
		}
	}
}

/* Folds them: what is left is values that a column cannot take, and gaps. */
static int fold_events(struct definition *d, int64_t *ret_stuck, char *first, size_t size,
		       struct rt_err *err)
{
	struct refold f;
	const struct fold_row *row;
	int rc = refold_open(&f, d->db, d->r, EVENTS_MAX, err);
	refold_all(&f);
	for (int64_t n = 0; rc == 0 && n < EVENTS_MAX; n++) {
		rc = refold_next(&f, &row, err);
		if (rc == VERIFY_END)
			break;
		if (rc == VERIFY_STUCK && (*ret_stuck)++ == 0)
			snprintf(first, size, "%s", f.reason);
		rc = RT_MIN(rc, 0);
	}
	refold_close(&f);
	return rc;
}

static void check_folds(struct definition *d)
{
	struct rt_err err;
	int64_t stuck = 0;
	char first[512];
	if (fold_events(d, &stuck, first, sizeof(first), &err) != 0)
		check_error(d->k, place(d, NULL), &err);
	else if (stuck > 0)
		check_fail(d->k, "the definition, or the events of a test that made them",
			   "%s: %" PRId64 " entities of table %s have an event that cannot be "
			   "folded, the first: %s",
			   place(d, key_of(d->root, "columns")), stuck, d->table, first);
}

/* ---- one definition ---- */

static void check_events(struct definition *d)
{
	int fails = d->k->fails;
	check_event_types(d);
	if (d->events == 0)
		return;
	check_unknown_keys(d);
	check_missing_keys(d);
	if (d->k->fails == fails)
		check_folds(d);
}

static void check_against(struct check *k, PGconn *db, const struct rollup *r)
{
	struct definition d = {.k = k, .r = r, .db = db};
	struct buf table = BUF_INIT;
	struct rt_err err;
	struct yaml_node *root;
	char *text;
	size_t len;
	int fails = k->fails, rc = fs_read_file(r->file, YAML_FILE_MAX_BYTES, &text, &len, &err);
	if (rc == 0) {
		rc = yaml_parse(k->arena, r->file, text, len, &root, &err);
		free(text);
	}
	if (rc != 0) {
		check_error(k, "definition", &err);
		return;
	}
	d.root = root;
	estate_table(&table, r->source_schema, r->source_table);
	d.table = arena_strdup(k->arena, buf_cstr(&table));
	buf_release(&table);
	if (check_table(&d))
		check_events(&d);
	if (k->fails == fails)
		check_ok(k, "%s: fits table %s%s%s", r->name, d.table,
			 d.events == 0
				 ? ""
				 : arena_printf(k->arena, ", %" PRId64 " events fold", d.events),
			 d.events == EVENTS_MAX ? " (no more were looked at)" : "");
}

/* ---- all of them ---- */

static int is_yaml(const struct dirent *e)
{
	size_t len = strlen(e->d_name);
	return e->d_name[0] != '.' && len > 5 && strcmp(e->d_name + len - 5, ".yaml") == 0;
}

static bool is_landed(const struct check *k, const char *name)
{
	for (size_t i = 0; i < k->s.rollups.land.count; i++)
		if (strcmp(k->s.rollups.land.item[i], name) == 0)
			return true;
	return k->s.rollups.land.count == 0;
}

/* Each file by itself, so that all of their errors are seen. */
static void check_file(struct check *k, PGconn *db, const char *path)
{
	struct rollup *r;
	struct rt_err err;
	if (rollup_load(k->arena, path, &r, &err) != 0) {
		check_fail(k, NULL, "%s", err.msg);
		return;
	}
	rollup_set_policies(
		r, k->s.apply.unknown_event == UNKNOWN_EVENT_IGNORE ? POLICY_IGNORE : POLICY_FAIL,
		k->s.apply.unknown_key == UNKNOWN_KEY_FAIL     ? POLICY_FAIL
		: k->s.apply.unknown_key == UNKNOWN_KEY_IGNORE ? POLICY_IGNORE
							       : POLICY_WARN,
		POLICY_FAIL);
	if (db != NULL && is_landed(k, r->name))
		check_against(k, db, r);
	rollup_release(r);
}

void check_definitions_against(struct check *k, PGconn *db)
{
	struct dirent **entry;
	struct bar bar;
	int n = scandir(k->s.rollups.path, &entry, is_yaml, alphasort);
	if (n < 0) {
		struct rt_err err;
		rt_fail_errno(&err, ERR_PERMANENT, "cannot read the folder %s", k->s.rollups.path);
		check_error(k, "definitions", &err);
		return;
	}
	if (n == 0)
		check_fail(k, "rollups.path, or --rollups", "definitions: %s holds no *.yaml",
			   k->s.rollups.path);
	bar_begin(&bar, "check", "definitions", 0);
	k->bar = &bar;
	for (int i = 0; i < n; i++) {
		bar_show(&bar, (uint64_t)i, (uint64_t)n, entry[i]->d_name);
		check_file(k, db,
			   arena_printf(k->arena, "%s/%s", k->s.rollups.path, entry[i]->d_name));
		free(entry[i]);
	}
	bar_hide(&bar);
	k->bar = NULL;
	free(entry);
}
