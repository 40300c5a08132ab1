/*
 * mirror: which mirrors there are, how they stand, and how a shape of the
 * stream is held against the table's. Guarantees: what cannot be followed
 * exactly is not followed, and says why.
 */
#include "apply/stream/mirror.h"

#include <inttypes.h>
#include <xxhash.h>

#include "proto/base/failpoint.h"
#include "proto/pg/pgconn.h"
#include "proto/pg/types.h"
#include "proto/record.h"

#define ARENA_BYTES 65536
#define BESIDE	    "__sync"
/* Reason of one that was taken out of the settings; back in them, it is loaded anew. */
#define ABSENT "no longer in mirrors.tables"

static const char *const state_names[] = {"syncing", "live", "parked", "rebuilding"};

/* ---- which mirrors ---- */

/* Its name and a suffix; of a long one the first part, and what tells it from others. */
static const char *name_beside(struct arena *a, const char *relname)
{
	const size_t room = 63 - strlen(BESIDE);
	if (strlen(relname) <= room)
		return arena_printf(a, "%s" BESIDE, relname);
	return arena_printf(a, "%.40s_%08x" BESIDE, relname,
			    (unsigned)XXH3_64bits(relname, strlen(relname)));
}

static int parse_name(struct arena *a, const struct settings *s, const char *name, struct mirror *m,
		      struct rt_err *err)
{
	const char *dot = strchr(name, '.');
	size_t schema = dot != NULL ? (size_t)(dot - name) : 0;
	m->nspname = dot != NULL ? arena_strndup(a, name, schema) : "public";
	m->relname = arena_strdup(a, dot != NULL ? dot + 1 : name);
	if (m->nspname[0] == '\0' || m->relname[0] == '\0' || strchr(m->relname, '.') != NULL ||
	    strlen(m->nspname) > 63 || strlen(m->relname) > 63)
		return rt_fail(err, ERR_PERMANENT,
			       "%s: mirrors.tables: %s is not schema.table or table", s->file,
			       name);
	m->source = arena_printf(a, "%s.%s", m->nspname, m->relname);
	struct buf b = BUF_INIT;
	pgc_ident(&b, s->warehouse.schema);
	buf_u8(&b, '.');
	pgc_ident(&b, m->relname);
	m->target = arena_strdup(a, buf_cstr(&b));
	m->schema = s->warehouse.schema;
	m->beside = name_beside(a, m->relname);
	buf_release(&b);
	return 0;
}

/* Does it land where another table does? */
static int check_target(const struct settings *s, const struct landed_set *landed,
			const struct mirror_set *set, const struct mirror *m, struct rt_err *err)
{
	for (uint16_t i = 0; i < set->count; i++)
		if (strcmp(set->item[i].target, m->target) == 0)
			return rt_fail(err, ERR_PERMANENT,
				       "%s: mirrors.tables: %s and %s would both land as %s",
				       s->file, set->item[i].source, m->source, m->target);
	for (uint16_t i = 0; i < landed->count; i++)
		if (strcmp(landed->item[i].history, m->target) == 0 ||
		    strcmp(landed->item[i].latest, m->target) == 0)
			return rt_fail(
				err, ERR_PERMANENT,
				"%s: mirrors.tables: %s would land as %s, which is the "
				"rollup %s's; mend: another warehouse.schema, or leave one out",
				s->file, m->source, m->target, landed->item[i].rollup->name);
	return 0;
}

int mirror_load(struct arena *a, const struct settings *s, const struct landed_set *landed,
		struct mirror_set *ret, struct rt_err *err)
{
	const struct conf_list *tables = &s->mirrors.tables;
	struct mirror_set set = {0};
	int rc = 0;
	uint16_t append_only = 0;
	if (tables->count > UINT16_MAX)
		return rt_fail(err, ERR_PERMANENT, "%s: mirrors.tables has too many", s->file);
	set.item = arena_zalloc(a, (tables->count + 1) * sizeof(*set.item));
	for (size_t i = 0; rc == 0 && i < tables->count; i++) {
		struct mirror *m = &set.item[set.count];
		rc = parse_name(a, s, tables->item[i], m, err);
		if (rc == 0)
			rc = check_target(s, landed, &set, m, err);
		if (rc == 0)
			m->append_only = settings_lists_table(&s->mirrors.append_only, m->nspname,
							      m->relname);
		append_only += m->append_only;
		set.count++;
	}
	if (rc == 0 && append_only != s->mirrors.append_only.count)
		rc = rt_fail(err, ERR_PERMANENT,
			     "%s: mirrors.append_only names a table twice, or one that is not in "
			     "mirrors.tables",
			     s->file);
	if (rc != 0)
		return rc;
	arena_init(&set.arena, ARENA_BYTES);
	*ret = set;
	return 0;
}

void mirror_release(struct mirror_set *set)
{
	if (set->item != NULL)
		arena_release(&set->arena);
	*set = (struct mirror_set){0};
}

int mirror_find(const struct mirror_set *set, const char *nspname, const char *relname)
{
	for (uint16_t i = 0; i < set->count; i++)
		if (strcmp(set->item[i].relname, relname) == 0 &&
		    strcmp(set->item[i].nspname, nspname) == 0)
			return i;
	return -1;
}

int mirror_find_oid(const struct mirror_set *set, uint32_t relation_oid)
{
	for (uint16_t i = 0; i < set->count; i++)
		if (set->item[i].shape != NULL &&
		    set->item[i].shape->source.relation_oid == relation_oid)
			return i;
	return -1;
}

/* ---- shapes ---- */

/* A copy of everything in a. */
static struct schema copy_schema(struct arena *a, const struct schema *s)
{
	struct schema c = *s;
	struct schema_column *column = arena_alloc(a, s->count * sizeof(*column));
	struct schema_land *land = arena_alloc(a, s->count * sizeof(*land));
	for (uint16_t i = 0; i < s->count; i++) {
		column[i] = s->column[i];
		column[i].name = arena_strdup(a, s->column[i].name);
		land[i] = s->land[i];
		land[i].type = arena_strdup(a, s->land[i].type);
		if (land[i].missing != NULL)
			land[i].missing = arena_strdup(a, s->land[i].missing);
	}
	c.nspname = arena_strdup(a, s->nspname);
	c.relname = arena_strdup(a, s->relname);
	c.files = arena_strdup(a, s->files);
	c.column = column;
	c.land = land;
	return c;
}

int mirror_shape_new(struct mirror_set *set, const struct schema *s, struct mirror_shape **ret,
		     struct rt_err *err)
{
	if (s->land == NULL && s->count > 0)
		return rt_fail(err, ERR_PERMANENT,
			       "the spool does not say what the columns of %s.%s are (it was "
			       "written before the table was mirrored)",
			       s->nspname, s->relname);
	for (uint16_t i = 0; i < s->count; i++) {
		if (s->land[i].kind == LAND_UNKNOWN)
			return rt_fail(
				err, ERR_PERMANENT,
				"the type of column %s (OID %u) was unknown to the core when "
				"it was asked",
				s->column[i].name, s->column[i].type_oid);
		if (strcmp(s->column[i].name, "_lsn") == 0)
			return rt_fail(err, ERR_PERMANENT,
				       "it has a column named _lsn, which is ours");
	}
	struct mirror_shape *shape = arena_zalloc(&set->arena, sizeof(*shape));
	uint16_t *key = arena_alloc(&set->arena, (s->count + 1u) * sizeof(*key));
	shape->source = copy_schema(&set->arena, s);
	shape->source.hash = schema_hash(&shape->source);
	shape->number = set->shapes++;
	for (uint16_t i = 0; i < s->count; i++)
		if (s->column[i].key)
			key[shape->key_count++] = i;
	shape->key = key;
	*ret = shape;
	return 0;
}

/* ---- drift ---- */

/*
 * Can a column go from one typmod to another without its values changing? Of
 * numeric the low half is the scale, and a wider precision changes nothing; of
 * the character types and times, more room does not.
 */
static bool typmod_keeps_values(uint32_t type_oid, int32_t from, int32_t to)
{
	if (from == to)
		return true;
	switch (type_oid) {
	case OID_NUMERIC:
		if (from < 0)
			return false;
		return to < 0 || (((from - 4) & 0xFFFF) == ((to - 4) & 0xFFFF) && to > from);
	case OID_VARCHAR:
	case 1562: /* varbit */
	case 1083: /* time */
	case 1266: /* timetz */
	case 1114: /* timestamp */
	case OID_TIMESTAMPTZ:
		return from >= 0 && (to < 0 || to > from);
	default:
		return false;
	}
}

static int find_column(const struct schema *s, const char *name)
{
	for (uint16_t i = 0; i < s->count; i++)
		if (strcmp(s->column[i].name, name) == 0)
			return i;
	return -1;
}

/* Is column i of was what column j of now is? NULL, or why not. */
static const char *compare_column(const struct schema *was, int i, const struct schema *now, int j)
{
	const struct schema_column *a = &was->column[i], *b = &now->column[j];
	RT_ASSERT(was->land != NULL && now->land != NULL);
	const struct schema_land *la = &was->land[i], *lb = &now->land[j];
	if (la->number != 0 && lb->number != 0 && la->number != lb->number)
		return "was dropped and added anew";
	if (a->type_oid != b->type_oid)
		return "has another type";
	if (lb->kind != LAND_UNKNOWN && (la->kind != lb->kind || strcmp(la->type, lb->type) != 0))
		return "has a type that became another";
	if (!typmod_keeps_values(a->type_oid, a->typmod, b->typmod))
		return "has its type with another length or precision";
	return NULL;
}

static enum mirror_drift park(char *why, size_t size, const char *fmt, ...) RT_PRINTF(3, 4);

static enum mirror_drift park(char *why, size_t size, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(why, size, fmt, ap);
	va_end(ap);
	return MIRROR_PARKS;
}

/* Rows name what they change by the replica identity: is that the mirror's key? */
static bool identity_fits(const struct mirror *m, const struct schema *now)
{
	bool none = true, same = true;
	if (m->append_only || now->identity == 'f')
		return true;
	for (uint16_t i = 0; i < now->count; i++) {
		int at = find_column(&m->shape->source, now->column[i].name);
		bool key = at >= 0 && m->shape->source.column[at].key;
		none &= !now->column[i].key;
		same &= key == now->column[i].key;
	}
	return none || same; /* none: nothing but inserts can come */
}

static enum mirror_drift compare_table(const struct mirror *m, const struct schema *now, char *why,
				       size_t size)
{
	const struct schema *was = &m->shape->source;
	if (now->relation_oid != was->relation_oid)
		return park(why, size, "the table was dropped and created anew");
	if (now->land == NULL && now->count > 0)
		return park(why, size,
			    "the spool was written before the table was mirrored: its types are "
			    "not known");
	if (!identity_fits(m, now))
		return park(why, size, "its replica identity is of other columns now");
	for (uint16_t i = 0; i < was->count; i++) {
		int j = find_column(now, was->column[i].name);
		const char *wrong =
			j < 0 ? "is gone (dropped or renamed)" : compare_column(was, i, now, j);
		if (wrong != NULL)
			return park(why, size, "column %s %s", was->column[i].name, wrong);
	}
	return MIRROR_SAME;
}

static bool is_later(const struct schema *s)
{
	return s->files[0] == '~';
}

static bool same_files(const struct schema *a, const struct schema *b)
{
	const char *fa = a->files + is_later(a), *fb = b->files + is_later(b);
	return fa[0] != '\0' && strcmp(fa, fb) == 0;
}

/* Is it known what older rows have in the new column, and how it lands? */
static const char *judge_addition(const struct mirror *m, const struct schema *now, uint16_t i)
{
	const struct schema *was = &m->shape->source;
	const struct schema_land *l = &now->land[i];
	if (l->kind == LAND_EXTENSION || (l->kind == LAND_BY_TEXT && strcmp(l->type, "text") != 0))
		return "was added, with a type that the warehouse may lack";
	if (!m->empty && !same_files(was, now))
		return "was added, and the table's rows were written anew since it was read: what "
		       "they have in it is not known";
	return NULL;
}

/* The stream's schema with the mirror's key, and what is known of types that are gone. */
static struct schema with_key(const struct mirror *m, const struct schema *now,
			      struct schema_column *column, struct schema_land *land)
{
	struct schema s = *now;
	for (uint16_t i = 0; i < now->count; i++) {
		int at = find_column(&m->shape->source, now->column[i].name);
		column[i] = now->column[i];
		column[i].key = at >= 0 && m->shape->source.column[at].key;
		land[i] = now->land[i];
		if (at >= 0)
			land[i] = m->shape->source.land[at];
	}
	s.column = column;
	s.land = land;
	/* An empty table's files are those of now: what is rewritten later has others. */
	s.files = !m->empty ? m->shape->source.files : is_later(now) ? "" : now->files;
	return s;
}

enum mirror_drift mirror_compare(struct mirror_set *set, const struct mirror *m,
				 const struct schema *now, struct mirror_shape **ret, char *why,
				 size_t why_size)
{
	struct rt_err err;
	if (compare_table(m, now, why, why_size) == MIRROR_PARKS)
		return MIRROR_PARKS;
	for (uint16_t i = 0; i < now->count; i++) {
		if (find_column(&m->shape->source, now->column[i].name) >= 0)
			continue;
		const char *wrong = judge_addition(m, now, i);
		if (wrong != NULL)
			return park(why, why_size, "column %s %s", now->column[i].name, wrong);
	}
	struct schema_column *column = rt_calloc(now->count, sizeof(*column));
	struct schema_land *land = rt_calloc(now->count, sizeof(*land));
	struct schema s = with_key(m, now, column, land);
	enum mirror_drift drift = now->count > m->shape->source.count		 ? MIRROR_ADDS
				  : strcmp(s.files, m->shape->source.files) != 0 ? MIRROR_MOVED
										 : MIRROR_SAME;
	if (schema_hash(&s) == m->shape->source.hash)
		*ret = m->shape;
	else if (mirror_shape_new(set, &s, ret, &err) != 0)
		drift = park(why, why_size, "%s", err.msg);
	free(column);
	free(land);
	return drift;
}

/* ---- rolag.relation ---- */

static enum landed_state state_of(const char *text)
{
	for (size_t i = 0; i < ARRAY_LEN(state_names); i++)
		if (strcmp(state_names[i], text) == 0)
			return (enum landed_state)i;
	return LANDED_PARKED;
}

/* The shape as it was recorded; NULL where there is none, or none that we can read. */
static struct mirror_shape *read_shape(struct mirror_set *set, const PGresult *res, int column)
{
	struct schema s;
	struct rt_err ignored;
	struct slice bytes, field;
	uint32_t number;
	size_t len;
	struct mirror_shape *shape = NULL;
	if (PQgetisnull(res, 0, column))
		return NULL;
	unsigned char *raw =
		PQunescapeBytea((const unsigned char *)PQgetvalue(res, 0, column), &len);
	if (raw == NULL)
		return NULL;
	bytes = arena_copy(&set->arena, slice_of(raw, len));
	PQfreemem(raw);
	struct rd r = rd_of(bytes);
	if (record_next_field(&r, &number, &field) && number == SCHEMAS_SCHEMA &&
	    record_read_schema(field, &set->arena, &s) &&
	    mirror_shape_new(set, &s, &shape, &ignored) != 0)
		return NULL;
	return shape;
}

/* A row of state, sync_lsn, shape, source, kind. */
static int take_relation(const PGresult *res, struct mirror_set *set, struct mirror *m,
			 struct rt_err *err)
{
	if (strcmp(PQgetvalue(res, 0, 4), "mirror") != 0)
		return rt_fail(err, ERR_PERMANENT,
			       "rolag.relation: %s is a rollup's; mend: delete that row and its "
			       "tables, or do not mirror %s",
			       m->relname, m->source);
	m->state = state_of(PQgetvalue(res, 0, 0));
	m->sync_lsn = pgc_get_lsn(res, 0, 1);
	m->shape = read_shape(set, res, 2);
	m->empty = false;
	if (strcmp(PQgetvalue(res, 0, 3), m->source) != 0 ||
	    (m->shape == NULL && m->state == LANDED_LIVE))
		m->state = LANDED_SYNCING;
	return 0;
}

int mirror_read(PGconn *c, const struct settings *s, struct mirror_set *set, struct mirror *m,
		struct rt_err *err)
{
	const char *params[] = {s->pipeline, m->relname, m->source};
	PGresult *res;
	int rc =
		pgc_query(c, &res, err,
			  "WITH made AS (INSERT INTO rolag.relation (pipeline, name, kind, source, "
			  "state) VALUES ($1, $2, 'mirror', $3, 'syncing') ON CONFLICT DO NOTHING "
			  "RETURNING state, sync_lsn, shape, source, kind) "
			  "SELECT * FROM made UNION ALL SELECT CASE reason WHEN '" ABSENT "' THEN "
			  "'syncing' ELSE state END, sync_lsn, shape, source, kind FROM "
			  " rolag.relation WHERE pipeline = $1 AND name = $2",
			  3, params);
	if (rc != 0)
		return rc;
	rc = take_relation(res, set, m, err);
	PQclear(res);
	return rc;
}

int mirror_look(PGconn *c, const struct settings *s, struct mirror_set *set, struct mirror *m,
		struct rt_err *err)
{
	const char *params[] = {s->pipeline, m->relname};
	PGresult *res;
	int rc = pgc_query(c, &res, err,
			   "SELECT state, sync_lsn, shape, source, kind FROM rolag.relation WHERE "
			   "pipeline = $1 AND name = $2",
			   2, params);
	if (rc != 0)
		return rc;
	if (PQntuples(res) == 0) {
		m->state = LANDED_SYNCING;
		m->shape = NULL;
		rc = 1;
	} else {
		rc = take_relation(res, set, m, err);
	}
	PQclear(res);
	return rc;
}

int mirror_turn_beside(PGconn *c, const struct settings *s, struct mirror_set *set,
		       struct mirror *m, struct arena *a, struct rt_err *err)
{
	const char *params[] = {s->pipeline, m->relname};
	struct buf name = BUF_INIT;
	PGresult *res;
	int rc = pgc_query(c, &res, err,
			   "SELECT shape FROM rolag.sync WHERE pipeline = $1 AND name = $2", 2,
			   params);
	if (rc != 0)
		return rc;
	pgc_ident(&name, m->schema);
	buf_u8(&name, '.');
	pgc_ident(&name, m->beside);
	m->target = arena_strdup(a, buf_cstr(&name));
	m->is_beside = true;
	m->empty = false;
	m->shape = PQntuples(res) == 1 ? read_shape(set, res, 0) : NULL;
	buf_release(&name);
	PQclear(res);
	return 0;
}

static int park_absent(PGconn *c, const struct settings *s, const struct mirror_set *set,
		       landed_report report, void *ctx, struct rt_err *err)
{
	struct buf names = BUF_INIT;
	PGresult *res;
	buf_str(&names, "UPDATE rolag.relation SET state = 'parked', changed_at = now(), reason = "
			"'" ABSENT "' WHERE kind = 'mirror' AND state <> 'parked' "
			"AND pipeline = ");
	pgc_literal(&names, s->pipeline);
	for (uint16_t i = 0; i < set->count; i++) {
		buf_str(&names, " AND name <> ");
		pgc_literal(&names, set->item[i].relname);
	}
	buf_str(&names, " RETURNING name");
	int rc = pgc_exec(c, &res, err, "%s", buf_cstr(&names));
	buf_release(&names);
	if (rc != 0)
		return rc;
	for (int i = 0; report != NULL && i < PQntuples(res); i++)
		report(ctx, PQgetvalue(res, i, 0));
	PQclear(res);
	return 0;
}

static void forget_shape(struct mirror *m)
{
	m->shape = NULL;
	m->empty = false;
}

int mirror_ensure(PGconn *c, const struct settings *s, struct mirror_set *set, landed_report report,
		  void *ctx, struct rt_err *err)
{
	int rc = 0;
	arena_reset(&set->arena);
	for (uint16_t i = 0; i < set->count; i++)
		forget_shape(&set->item[i]);
	for (uint16_t i = 0; rc == 0 && i < set->count; i++) {
		struct mirror *m = &set->item[i];
		rc = mirror_read(c, s, set, m, err);
		if (rc == 0 &&
		    m->state == LANDED_SYNCING) /* also where it was found to be only now */
			rc = mirror_set_state(c, s, m, LANDED_SYNCING, LSN_NONE, NULL, err);
	}
	return rc == 0 ? park_absent(c, s, set, report, ctx, err) : rc;
}

int mirror_set_state(PGconn *c, const struct settings *s, struct mirror *m, enum landed_state state,
		     struct lsn sync_lsn, const char *reason, struct rt_err *err)
{
	char lsn[32];
	snprintf(lsn, sizeof(lsn), LSN_FMT, LSN_ARGS(sync_lsn));
	const char *params[] = {s->pipeline, m->relname, state_names[state],
				sync_lsn.v != 0 ? lsn : NULL, reason};
	int rc = pgc_query(
		c, NULL, err,
		"UPDATE rolag.relation SET state = $3, sync_lsn = $4::pg_lsn, reason = $5, "
		"changed_at = now() WHERE pipeline = $1 AND name = $2",
		5, params);
	if (rc == 0) {
		m->state = state;
		m->sync_lsn = sync_lsn;
	}
	return rc;
}
