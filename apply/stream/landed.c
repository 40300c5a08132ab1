/*
 * landed: definitions as they are landed; DDL and SQL of their tables.
 * Guarantees: names are quoted; a definition lives as long as its set.
 */
#include "apply/stream/landed.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>

#include "proto/pg/pgconn.h"
#include "transforms/rollup/fold.h"

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

/* Definitions from elsewhere, and items that were beside others: made once, whatever comes and goes. */
struct landed_store {
	struct arena *arena;
	struct rollup **rollup;
	size_t count, cap;
	struct landed *beside;
	size_t beside_count, beside_cap;
};

static void make_item(struct arena *a, const struct settings *s, const struct rollup *r,
		      struct landed *l)
{
	struct buf b = BUF_INIT;
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
	if (rc == 0 && n > UINT16_MAX / 2)
		rc = rt_fail(err, ERR_PERMANENT, "%s has too many files", s->rollups.path);
	struct landed_set set = {0};
	if (rc == 0)
		set.item = arena_zalloc(a, (2 * n + 1) * sizeof(*set.item));
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
		make_item(a, s, r, &set.item[set.count]);
		set.item[set.count++].file = r;
	}
	free(path);
	set.own = set.count;
	set.cap = (uint16_t)(2 * set.count);
	set.store = rt_calloc(1, sizeof(*set.store));
	set.store->arena = a;
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
	for (uint16_t i = 0; set != NULL && i < set->own; i++)
		rollup_release((struct rollup *)set->item[i].file);
	struct landed_store *store = set != NULL ? set->store : NULL;
	for (size_t i = 0; store != NULL && i < store->count; i++)
		rollup_release(store->rollup[i]);
	if (store != NULL) {
		free(store->rollup);
		free(store->beside);
		free(store);
	}
	if (set != NULL)
		*set = (struct landed_set){0};
}

int landed_find_source(const struct landed_set *set, uint16_t from, const char *nspname,
		       const char *relname)
{
	for (uint16_t i = from; i < set->count; i++)
		if (strcmp(set->item[i].rollup->source_schema, nspname) == 0 &&
		    strcmp(set->item[i].rollup->source_table, relname) == 0)
			return i;
	return -1;
}

struct landed *landed_find(const struct landed_set *set, const char *name)
{
	for (uint16_t i = 0; i < set->count; i++)
		if (strcmp(set->item[i].rollup->name, name) == 0)
			return &set->item[i];
	return NULL;
}

/* ---- definitions that rollups.path has no more ---- */

static struct rollup *find_stored(const struct landed_store *store, const char *name,
				  int32_t number, const char *text)
{
	for (size_t i = 0; i < store->count; i++)
		if (strcmp(store->rollup[i]->name, name) == 0 &&
		    store->rollup[i]->definition == number &&
		    strcmp(store->rollup[i]->text, text) == 0)
			return store->rollup[i];
	return NULL;
}

int landed_stored(struct landed_set *set, const struct settings *s, const char *name,
		  int32_t number, uint64_t fingerprint, const char *text, const struct rollup **ret,
		  struct rt_err *err)
{
	struct landed_store *store = set->store;
	struct rollup *r = find_stored(store, name, number, text);
	if (r == NULL) {
		char *file = rt_sprintf("rolag.definition: %s, number %" PRId32, name, number);
		int rc = rollup_parse(store->arena, file, text, strlen(text), &r, err);
		free(file);
		if (rc != 0)
			return rc;
		resolve_policies(s, r);
		if (store->count == store->cap) {
			store->cap = store->cap == 0 ? 8 : store->cap * 2;
			store->rollup =
				rt_realloc(store->rollup, store->cap * sizeof(*store->rollup));
		}
		store->rollup[store->count++] = r;
	}
	if (strcmp(r->name, name) != 0 || r->definition != number || r->fingerprint != fingerprint)
		return rt_fail(err, ERR_PERMANENT,
			       "rolag.definition: what stands there for %s, number %" PRId32
			       ", is not the definition that made its rows",
			       name, number);
	*ret = r;
	return 0;
}

struct landed *landed_add_beside(struct landed_set *set, const struct settings *s,
				 struct landed *of, const struct rollup *r)
{
	struct landed_store *store = set->store;
	size_t i = 0;
	if (set->count == set->cap)
		return NULL;
	while (i < store->beside_count &&
	       (store->beside[i].beside != of || store->beside[i].file != r))
		i++;
	if (i == store->beside_count) {
		struct rollup *copy = arena_alloc(store->arena, sizeof(*copy));
		*copy = *r;
		copy->name = arena_printf(store->arena, "%s__d%" PRId32, of->rollup->name,
					  r->definition);
		if (i == store->beside_cap) {
			store->beside_cap = i == 0 ? 8 : i * 2;
			store->beside = rt_realloc(store->beside,
						   store->beside_cap * sizeof(*store->beside));
		}
		make_item(store->arena, s, copy, &store->beside[i]);
		store->beside[i].beside = of;
		store->beside[i].file = r; /* by which it is found again */
		store->beside_count++;
	}
	struct landed *l = &set->item[set->count++];
	*l = store->beside[i];
	l->file = NULL;
	return l;
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

/* Can its rows be found in the table beside which they are built? */
static bool keeps_held(const struct landed *l)
{
	return l->beside != NULL && l->beside->rollup->id_type == l->rollup->id_type;
}

/* s: the rows of s0, with what the table beside which they are built holds of them. */
static void keep_held(const struct landed *l, struct buf *out)
{
	buf_str(out, ", s AS (SELECT ");
	for (int i = 0; i < LANDED_BEFORE; i++)
		buf_printf(out, "s0.%s, ", before_names[i]);
	for (uint16_t i = 0; i < l->rollup->column_count; i++) {
		buf_str(out, "s0.");
		pgc_ident(out, l->rollup->column[i].name);
		buf_str(out, ", ");
	}
	buf_printf(out,
		   "coalesce(k._lsn, s0._lsn) AS _lsn, CASE WHEN k.id IS NULL THEN "
		   "s0._committed_at ELSE k._committed_at END AS _committed_at, s0._last FROM s0 "
		   "LEFT JOIN %s AS k ON k.id = s0.id AND k.version = s0.version)",
		   l->beside->history);
}

void landed_write_sql(const struct landed *l, struct buf *out)
{
	const struct rollup *r = l->rollup;
	int n = LANDED_BEFORE + r->column_count + LANDED_BEHIND, p = 1;
	buf_str(out, keeps_held(l) ? "WITH s0 AS (SELECT * FROM unnest("
				   : "WITH s AS (SELECT * FROM unnest(");
	for (int i = 0; i < LANDED_BEFORE; i++, p++)
		buf_printf(out, "%s$%d::%s[]", p > 1 ? ", " : "", p, before_type(l, i));
	for (uint16_t i = 0; i < r->column_count; i++, p++)
		buf_printf(out, ", $%d::%s[]", p,
			   r->column[i].type.array ? "text" : pgt_name(r->column[i].type));
	buf_printf(out, ", $%d::pg_lsn[], $%d::timestamptz[], $%d::bool[]) AS t (", n - 1, n,
		   n + 1);
	column_names(l, "", out);
	buf_str(out, ", _last))");
	if (keeps_held(l))
		keep_held(l, out);
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
