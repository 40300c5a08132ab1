/*
 * sync_mirror: begin, pieces, rows once more, swap. Guarantees: the rows and
 * the note of where they are from are one transaction; nothing is written on
 * the core but a message that moves the stream on.
 */
#include "apply/stream/sync_mirror.h"

#include "apply/stream/leaves.h"
#include "apply/stream/swap.h"
#include "proto/base/failpoint.h"
#include "proto/base/log.h"
#include "proto/pg/pgconn.h"

#define DDL_LOCK "SET LOCAL lock_timeout = '200ms'; SET LOCAL client_min_messages = warning;"
/* Rows that are asked for once more in one go. */
#define AGAIN "1000"

static struct mirror *mirror_of(const struct sync_mirror *t)
{
	return &t->set->item[0];
}

void sync_mirror_unit(struct arena *a, const struct mirror *m, struct sync_unit *ret)
{
	*ret = (struct sync_unit){.name = m->relname,
				  .nspname = m->nspname,
				  .relname = m->relname,
				  .select = "",
				  .target = m->target,
				  .clear = "",
				  .noted = "",
				  .analyze = arena_printf(a, "ANALYZE %s", m->target)};
}

static int connect_core(const struct sync_mirror *t, PGconn **ret, struct rt_err *err)
{
	struct pgc_options o = {.what = "core",
				.conninfo = t->settings->core.connect,
				.application_name = "rolag sync"};
	int rc = pgc_connect(ret, &o, err);
	return rc == 0 ? sync_source_session(*ret, err) : rc;
}

/* What the table is now; no transaction is left. */
static int look_at_source(struct sync_mirror *t, PGconn *core, struct rt_err *err)
{
	int rc = sync_source_begin(core, t->arena, mirror_of(t), &t->source, err);
	if (rc == 0)
		rc = leaves_read(core, t->arena, mirror_of(t), &t->leaves, err);
	if (rc == 0)
		rc = pgc_exec(core, NULL, err, "COMMIT");
	t->unit->key_count = RT_MIN(t->source.key.count, SYNC_KEY_MAX);
	for (uint16_t k = 0; rc == 0 && k < t->unit->key_count; k++)
		t->unit->key[k] = t->source.key.column[k];
	return rc;
}

/* ---- the table beside ---- */

static int turn_beside(struct sync_mirror *t, struct rt_err *err)
{
	struct mirror *m = mirror_of(t);
	int rc = mirror_turn_beside(t->warehouse, t->settings, t->set, m, t->arena, err);
	t->unit->target = m->target;
	t->unit->analyze = arena_printf(t->arena, "ANALYZE %s", m->target);
	return rc;
}

static int relation_is_there(struct sync_mirror *t, const char *name, bool *ret, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_query(t->warehouse, &res, err, "SELECT to_regclass($1) IS NOT NULL", 1, &name);
	if (rc != 0)
		return rc;
	*ret = PQgetvalue(res, 0, 0)[0] == 't';
	PQclear(res);
	return 0;
}

static const char *live_name(const struct sync_mirror *t)
{
	struct buf b = BUF_INIT;
	pgc_ident(&b, mirror_of(t)->schema);
	buf_u8(&b, '.');
	pgc_ident(&b, mirror_of(t)->relname);
	const char *name = arena_strdup(t->arena, buf_cstr(&b));
	buf_release(&b);
	return name;
}

static struct swap_pair pair_of(const struct sync_mirror *t)
{
	const struct mirror *m = mirror_of(t);
	return (struct swap_pair){m->schema, m->relname, m->beside, NULL};
}

/* What the note's transaction makes: the table, the shape that it is made after, what its source was. */
static void write_begin(struct sync_mirror *t, const struct mirror_shape *shape, bool pieces)
{
	struct buf clear = BUF_INIT, noted = BUF_INIT;
	buf_str(&clear, DDL_LOCK);
	mirror_ddl(mirror_of(t), shape, t->source.table.generated, &clear);
	buf_str(&noted, "DELETE FROM rolag.sync_row WHERE pipeline = ");
	pgc_literal(&noted, t->settings->pipeline);
	buf_str(&noted, " AND name = ");
	pgc_literal(&noted, t->unit->name);
	buf_str(&noted, "; UPDATE rolag.sync SET source_hash = ");
	pgc_literal(&noted, pieces ? t->source.hash : "");
	buf_str(&noted, ", leaves = ");
	if (t->leaves != NULL)
		pgc_literal(&noted, t->leaves);
	else
		buf_str(&noted, "NULL");
	buf_str(&noted, " WHERE pipeline = ");
	pgc_literal(&noted, t->settings->pipeline);
	buf_str(&noted, " AND name = ");
	pgc_literal(&noted, t->unit->name);
	buf_str(&noted, "; ");
	mirror_record_sql(t->settings, mirror_of(t), shape, &noted);
	t->unit->clear = arena_strdup(t->arena, buf_cstr(&clear));
	t->unit->noted = arena_strdup(t->arena, buf_cstr(&noted));
	snprintf(t->note->source, sizeof(t->note->source), "%s", pieces ? t->source.hash : "");
	buf_release(&clear);
	buf_release(&noted);
}

/* Would the table's columns and key be what the live one has? */
static int lands_alike(struct sync_mirror *t, bool *ret, struct rt_err *err)
{
	const char *params[] = {live_name(t), mirror_of(t)->target};
	PGresult *res;
	int rc = pgc_query(
		t->warehouse, &res, err,
		"SELECT count(DISTINCT what) = 1 FROM (SELECT (SELECT array_agg(ROW(a.attname, "
		"a.atttypid, k.indrelid IS NOT NULL)::text ORDER BY a.attname) FROM "
		"pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_index k ON k.indrelid = "
		"a.attrelid AND k.indisprimary AND a.attnum = ANY (k.indkey) WHERE a.attrelid = "
		"t::regclass AND a.attnum > 0 AND NOT a.attisdropped) AS what FROM "
		"unnest(ARRAY[$1, $2]) t) x",
		2, params);
	if (rc != 0)
		return rc;
	*ret = PQgetvalue(res, 0, 0)[0] == 't';
	PQclear(res);
	return 0;
}

/*
 * The table beside is made. Could it take the mirror's place? Not for a reader
 * that is in the way just now: that is met when it is time.
 */
static int check_swap(struct sync_mirror *t, bool *ret_in_place, struct rt_err *err)
{
	struct swap_pair pair = pair_of(t);
	struct buf lines = BUF_INIT;
	bool there, alike = false;
	int rc = relation_is_there(t, live_name(t), &there, err);
	if (rc == 0 && there)
		rc = pgc_exec(t->warehouse, NULL, err, "SET lock_timeout = '200ms'");
	if (rc == 0 && there) {
		struct rt_err refused;
		int said = swap_check(t->warehouse, &pair, 1, &lines, &refused);
		rc = pgc_exec(t->warehouse, NULL, err, "RESET lock_timeout");
		if (rc == 0 && said == ERR_PERMANENT) {
			*err = refused;
			rc = said;
		}
	}
	if (rc == 0 && lines.len > 0)
		rc = lands_alike(t, &alike, err);
	*ret_in_place = alike;
	if (rc == 0 && lines.len > 0 && !alike)
		rc = rt_fail(err, ERR_PERMANENT, "%.*s", (int)strcspn(buf_cstr(&lines), "\n"),
			     buf_cstr(&lines));
	else if (rc == 0 && alike)
		log_info("a mirror's rows are replaced in its place, as it cannot be swapped",
			 "table=%s reason=\"%.*s\"", mirror_of(t)->source,
			 (int)strcspn(buf_cstr(&lines), "\n"), buf_cstr(&lines));
	buf_release(&lines);
	return rc;
}

/* ---- whole ---- */

struct whole {
	struct sync_mirror *t;
	PGconn *core;
	struct mirror_shape *shape;
};

static int run_sql(const struct sync_mirror *t, struct buf *sql, struct rt_err *err)
{
	int rc = pgc_exec(t->warehouse, NULL, err, "%s", buf_cstr(sql));
	buf_release(sql);
	return rc;
}

/* Under the one snapshot: what the table is, and that it is not rewritten. */
static int open_whole(struct whole *w, struct rt_err *err)
{
	struct sync_mirror *t = w->t;
	struct mirror *m = mirror_of(t);
	int rc = sync_snapshot(w->core, t->settings, t->ledger, t->on_wait, t->ctx, &t->note->start,
			       err);
	if (rc == 0)
		rc = shape_read(w->core, t->arena, m->nspname, m->relname, &t->source.table, err);
	if (rc == 1)
		return rt_fail(err, ERR_PERMANENT, "the core has no table %s", m->source);
	if (rc == 0)
		rc = sync_source_hold(w->core, m, err);
	return rc == 0 ? mirror_shape_new(t->set, &t->source.table.schema, &w->shape, err) : rc;
}

/* The table as it is now may have other columns than when it was looked at. */
static int make_room(struct whole *w, struct rt_err *err)
{
	struct mirror *m = mirror_of(w->t);
	struct buf sql = BUF_INIT;
	if (m->is_beside) {
		buf_str(&sql, DDL_LOCK);
		mirror_ddl(m, w->shape, w->t->source.table.generated, &sql);
	} else if (m->shape == NULL || m->shape->source.hash != w->shape->source.hash) {
		return rt_fail(err, ERR_RETRY, "%s became another while it was about to be read",
			       m->source);
	} else {
		buf_printf(&sql, "DELETE FROM %s", m->target);
	}
	return run_sql(w->t, &sql, err);
}

/* Within the transaction that notes it. */
static int fill_whole(void *ctx, struct rt_err *err)
{
	struct whole *w = ctx;
	struct sync_mirror *t = w->t;
	struct buf sql = BUF_INIT;
	struct sync_pump pump = {.core = w->core,
				 .warehouse = t->warehouse,
				 .m = mirror_of(t),
				 .rows = &t->note->rows,
				 .on_wait = t->on_wait,
				 .ctx = t->ctx};
	t->note->rows = 0;
	int rc = open_whole(w, err);
	if (rc == 0)
		rc = make_room(w, err);
	pump.shape = w->shape;
	pump.relkind = t->source.table.kind;
	pump.lsn = t->note->start;
	if (rc == 0)
		rc = sync_pump(&pump, err);
	if (rc == 0) {
		mirror_record_sql(t->settings, mirror_of(t), w->shape, &sql);
		rc = run_sql(t, &sql, err);
	}
	FAILPOINT_FD(MIRROR_LOADED, PQsocket(t->warehouse));
	return rc;
}

static int read_whole(struct sync_mirror *t, PGconn *core, struct mirror_shape *shape,
		      struct rt_err *err)
{
	struct whole w = {.t = t, .core = core};
	mirror_of(t)->shape = shape;
	return sync_note_whole(t->warehouse, t->settings, t->unit, t->ledger, t->note, fill_whole,
			       &w, err);
}

/* The mirror itself is filled anew; nothing of the table beside is left. */
static int read_in_place(struct sync_mirror *t, PGconn *core, struct mirror_shape *shape,
			 struct rt_err *err)
{
	struct mirror *m = mirror_of(t);
	struct buf sql = BUF_INIT;
	buf_printf(&sql,
		   "DROP TABLE %s; UPDATE rolag.sync SET shape = NULL, source_hash = '' WHERE "
		   "pipeline = ",
		   m->target);
	pgc_literal(&sql, t->settings->pipeline);
	buf_str(&sql, " AND name = ");
	pgc_literal(&sql, t->unit->name);
	int rc = run_sql(t, &sql, err);
	t->note->source[0] = '\0';
	m->is_beside = false;
	m->target = t->unit->target = live_name(t);
	t->unit->analyze = arena_printf(t->arena, "ANALYZE %s", m->target);
	return rc == 0 ? read_whole(t, core, shape, err) : rc;
}

/* ---- pieces ---- */

struct piece {
	struct sync_mirror *t;
	PGconn *core;
	struct mirror_piece what;
	uint64_t rows; /* that came */
	bool changed;  /* the source became another: all of it is to be read anew */
};

static int fill_piece(void *ctx, struct rt_err *err)
{
	struct piece *p = ctx;
	struct sync_mirror *t = p->t;
	struct sync_note *n = t->note;
	struct sync_pump pump = {.core = p->core,
				 .warehouse = t->warehouse,
				 .m = mirror_of(t),
				 .shape = mirror_of(t)->shape,
				 .piece = &p->what,
				 .last = p->what.keys == NULL ? &n->key : NULL,
				 .rows = &n->rows,
				 .on_wait = t->on_wait,
				 .ctx = t->ctx};
	const uint64_t before = n->rows;
	FAILPOINT_FD(MIRROR_PIECE, PQsocket(p->core));
	int rc = sync_source_begin(p->core, t->arena, mirror_of(t), &t->source, err);
	if (rc != 0)
		return rc;
	p->changed = strcmp(t->source.hash, n->source) != 0;
	if (p->changed)
		return rt_fail(err, ERR_RETRY,
			       "%s became another while it was read: it is read anew",
			       mirror_of(t)->source);
	pump.relkind = t->source.table.kind;
	pump.lsn = t->source.lsn;
	rc = sync_pump(&pump, err);
	p->rows = n->rows - before;
	return rc == 0 ? pgc_exec(p->core, NULL, err, "COMMIT") : rc;
}

static int void_if_changed(struct sync_mirror *t, const struct piece *p, struct rt_err *err)
{
	struct rt_err second;
	if (p->changed && sync_note_void(t->warehouse, t->settings, t->unit, t->note, &second) != 0)
		rt_context(err, "%s", second.msg);
	return err->code;
}

/* Behind what was read: an LSN that the stream comes to at once. */
static int position(PGconn *core, struct lsn *ret, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_exec(core, &res, err, "SELECT pg_catalog.pg_current_wal_insert_lsn()");
	if (rc != 0)
		return rc;
	*ret = pgc_get_lsn(res, 0, 0);
	PQclear(res);
	rc = pgc_exec(core, NULL, err,
		      "SELECT pg_catalog.pg_logical_emit_message(true, 'rolag.sync', '')");
	if (rc == 0 && ret->v == 0)
		rc = rt_fail(err, ERR_RETRY, "the core does not say its WAL position");
	return rc;
}

static int read_pieces(struct sync_mirror *t, PGconn *core, struct rt_err *err)
{
	struct sync_note *n = t->note;
	struct lsn read;
	struct piece p = {.t = t,
			  .core = core,
			  .what = {.key = t->unit->key,
				   .key_count = t->unit->key_count,
				   .limit = t->settings->sync.chunk}};
	int rc;
	do {
		struct sync_key from = {0};
		sync_key_copy(&from, &n->key);
		p.what.from = from.count > 0 ? from.part : NULL;
		rc = sync_note_piece(t->warehouse, t->settings, t->unit, t->ledger, n, fill_piece,
				     &p, err);
		sync_key_release(&from);
		if (rc == 0 && t->on_wait(t->ctx, ""))
			rc = rt_fail(err, ERR_RETRY, "told to stop");
	} while (rc == 0 && p.rows == (uint64_t)p.what.limit);
	if (rc != 0)
		return void_if_changed(t, &p, err);
	rc = position(core, &read, err);
	return rc == 0 ? sync_note_all_read(t->warehouse, t->settings, t->unit, t->ledger, n, read,
					    err)
		       : rc;
}

/* ---- begin ---- */

static int estimate(PGconn *core, const struct sync_mirror *t, uint64_t *ret, struct rt_err *err)
{
	const char *params[] = {t->unit->nspname, t->unit->relname};
	PGresult *res;
	int rc = pgc_query(core, &res, err,
			   "SELECT greatest(c.reltuples, 0)::int8 FROM pg_catalog.pg_class c JOIN "
			   "pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = "
			   "$1 AND c.relname = $2",
			   2, params);
	if (rc != 0)
		return rc;
	*ret = PQntuples(res) == 1 ? strtoull(PQgetvalue(res, 0, 0), NULL, 10) : 0;
	PQclear(res);
	return 0;
}

static int read_anew(struct sync_mirror *t, PGconn *core, struct rt_err *err)
{
	struct mirror_shape *shape = NULL;
	bool in_place = false, pieces;
	int rc = estimate(core, t, &t->note->estimate, err);
	if (rc == 0)
		rc = sync_start(core, t->settings, t->ledger, t->on_wait, t->ctx, &t->note->start,
				err);
	if (rc == 0)
		rc = look_at_source(t, core, err);
	pieces = t->unit->key_count > 0;
	if (rc == 0)
		rc = mirror_shape_new(t->set, &t->source.table.schema, &shape, err);
	if (rc == 0)
		rc = turn_beside(t, err);
	if (rc != 0)
		return rc;
	write_begin(t, shape, pieces);
	rc = sync_note_begin(t->warehouse, t->settings, t->unit, t->ledger, t->note, err);
	t->unit->clear = t->unit->noted = "";
	if (rc == 0)
		rc = check_swap(t, &in_place, err);
	if (rc == 0 && in_place)
		return read_in_place(t, core, shape, err);
	if (rc == 0 && !pieces)
		return read_whole(t, core, shape, err);
	if (rc == 0)
		rc = turn_beside(t, err); /* the shape as it was noted */
	return rc == 0 ? read_pieces(t, core, err) : rc;
}

/* Is what is noted of this core, and is its table there? */
static int can_go_on(struct sync_mirror *t, bool *ret, struct rt_err *err)
{
	struct sync_note *n = t->note;
	struct mirror *m = mirror_of(t);
	*ret = false;
	if (!n->there || n->timeline != t->ledger->timeline)
		return 0;
	int rc = turn_beside(t, err);
	if (rc == 0 && m->shape != NULL) {
		rc = relation_is_there(t, m->target, ret, err);
		*ret &= n->read.v != 0 || n->source[0] != '\0';
		return rc;
	}
	if (rc != 0 || n->read.v == 0)
		return rc;
	/* In its own place: the table is the mirror. */
	m->is_beside = false;
	m->target = t->unit->target = live_name(t);
	rc = mirror_read(t->warehouse, t->settings, t->set, m, err);
	*ret = rc == 0 && m->shape != NULL;
	return rc;
}

static int read_source(struct sync_mirror *t, PGconn *core, struct rt_err *err)
{
	int rc = sync_source_session(core, err);
	if (rc == 0)
		rc = look_at_source(t, core, err); /* whose key says how what is noted is read */
	if (rc == 0)
		rc = sync_note_read(t->warehouse, t->settings, t->unit, t->note, err);
	if (rc == 0)
		rc = can_go_on(t, &t->again, err);
	if (rc != 0)
		return rc;
	if (!t->again) {
		t->note->timeline = t->ledger->timeline;
		return read_anew(t, core, err);
	}
	return t->note->read.v == 0 ? read_pieces(t, core, err) : 0;
}

int sync_mirror_read(struct sync_mirror *t, PGconn *core, struct rt_err *err)
{
	int rc = read_source(t, core, err);
	pgc_close(core);
	struct mirror *m = mirror_of(t);
	if (rc == 0 && !t->again)
		rc = pgc_exec(t->warehouse, NULL, err, "%s", t->unit->analyze);
	if (rc == 0)
		rc = m->is_beside ? turn_beside(t, err)
				  : mirror_read(t->warehouse, t->settings, t->set, m, err);
	/* For the replay, to which it is what it is to the stream. */
	m->state = LANDED_LIVE;
	m->sync_lsn = t->note->start;
	m->overlaps = t->note->source[0] != '\0';
	return rc;
}

/* ---- rows once more ---- */

struct asking {
	struct piece p;
	PGresult *keys;
};

static void where_noted(const struct sync_mirror *t, struct buf *out)
{
	buf_str(out, "n.pipeline = ");
	pgc_literal(out, t->settings->pipeline);
	buf_str(out, " AND n.name = ");
	pgc_literal(out, t->unit->name);
}

/* The key of a note is in the shape's order; a piece's in that of the index. */
static uint16_t place_in_note(const struct mirror_shape *shape, const char *column)
{
	for (uint16_t k = 0; k < shape->key_count; k++)
		if (strcmp(shape->source.column[shape->key[k]].name, column) == 0)
			return k;
	return 0;
}

static int ask_noted(struct sync_mirror *t, PGresult **ret, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	buf_str(&sql, "SELECT ");
	for (uint16_t k = 0; k < t->unit->key_count; k++)
		buf_printf(&sql, "n.key[%u], ",
			   place_in_note(mirror_of(t)->shape, t->unit->key[k]) + 1u);
	buf_str(&sql, "n.key FROM rolag.sync_row n WHERE ");
	where_noted(t, &sql);
	buf_str(&sql, " ORDER BY n.key LIMIT " AGAIN);
	int rc = pgc_exec(t->warehouse, ret, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	return rc;
}

/* The rows, and the notes, of those keys go. */
static int forget_noted(struct sync_mirror *t, const PGresult *keys, struct rt_err *err)
{
	const struct mirror *m = mirror_of(t);
	struct buf sql = BUF_INIT;
	buf_str(&sql, "WITH n AS (DELETE FROM rolag.sync_row n WHERE ");
	where_noted(t, &sql);
	buf_str(&sql, " AND n.key IN (");
	for (int i = 0; i < PQntuples(keys); i++) {
		buf_str(&sql, i > 0 ? ", " : "");
		pgc_literal(&sql, PQgetvalue(keys, i, t->unit->key_count));
	}
	buf_printf(&sql, ") RETURNING key) DELETE FROM %s AS t USING n WHERE ", m->target);
	for (uint16_t k = 0; k < m->shape->key_count; k++) {
		buf_str(&sql, k > 0 ? " AND t." : "t.");
		pgc_ident(&sql, m->shape->source.column[m->shape->key[k]].name);
		buf_printf(&sql, " = n.key[%u]::%s", k + 1u,
			   m->shape->source.land[m->shape->key[k]].type);
	}
	return run_sql(t, &sql, err);
}

static int fill_again(void *ctx, struct rt_err *err)
{
	struct asking *a = ctx;
	struct sync_mirror *t = a->p.t;
	int rc = forget_noted(t, a->keys, err);
	if (rc == 0)
		rc = fill_piece(&a->p, err);
	if (rc == 0)
		rc = position(a->p.core, &t->note->read, err);
	FAILPOINT_FD(MIRROR_AGAIN, PQsocket(t->warehouse));
	return rc;
}

/* The part of a source's hash that is its key's. */
static const char *hash_of_key(const char *hash)
{
	const char *at = strchr(hash, '/');
	return at != NULL ? at : "";
}

/* Is the key's index still the one that it was? Its other columns may have become others: the stream says so. */
static int check_key(struct sync_mirror *t, PGconn *core, struct piece *p, struct rt_err *err)
{
	int rc = look_at_source(t, core, err);
	if (rc != 0)
		return rc;
	p->changed = strcmp(hash_of_key(t->source.hash), hash_of_key(t->note->source)) != 0;
	return p->changed ? rt_fail(err, ERR_RETRY, "the key of %s became another: it is read anew",
				    mirror_of(t)->source)
			  : 0;
}

static int ask_core(struct sync_mirror *t, struct asking *a, struct rt_err *err)
{
	int rc = connect_core(t, &a->p.core, err);
	if (rc == 0 && PQntuples(a->keys) == 0)
		rc = check_key(t, a->p.core, &a->p, err);
	else if (rc == 0) {
		rc = sync_wait_shown(a->p.core, t->on_wait, t->ctx, err);
		if (rc == 0)
			rc = sync_note_piece(t->warehouse, t->settings, t->unit, t->ledger, t->note,
					     fill_again, a, err);
	}
	pgc_close(a->p.core);
	return rc == 0 ? 0 : void_if_changed(t, &a->p, err);
}

int sync_mirror_again(struct sync_mirror *t, struct rt_err *err)
{
	struct asking a = {
		.p = {.t = t, .what = {.key = t->unit->key, .key_count = t->unit->key_count}}};
	if (!mirror_of(t)->overlaps)
		return 0;
	int rc = ask_noted(t, &a.keys, err);
	if (rc != 0)
		return rc;
	a.p.what.keys = a.keys;
	rc = ask_core(t, &a, err);
	if (rc == 0 && PQntuples(a.keys) > 0)
		rc = 1;
	else if (rc == 0)
		mirror_of(t)->overlaps = false;
	PQclear(a.keys);
	return rc;
}

/* ---- taking its place ---- */

int sync_mirror_prepare(struct sync_mirror *t, struct rt_err *err)
{
	struct swap_pair pair = pair_of(t);
	bool there;
	if (!mirror_of(t)->is_beside)
		return 0;
	int rc = relation_is_there(t, live_name(t), &there, err);
	return rc == 0 && there ? swap_prepare(t->warehouse, &pair, 1, false, err) : rc;
}

/* There is none yet: it gets the name, and its key's index the name that it would have had. */
static int take_name(struct sync_mirror *t, struct rt_err *err)
{
	const struct mirror *m = mirror_of(t);
	const char *params[] = {m->schema, m->beside, m->relname};
	struct buf sql = BUF_INIT;
	PGresult *res;
	buf_printf(&sql, "ALTER TABLE %s RENAME TO ", m->target);
	pgc_ident(&sql, m->relname);
	int rc = run_sql(t, &sql, err);
	if (rc == 0)
		rc = pgc_query(t->warehouse, NULL, err,
			       "UPDATE rolag.comment_made SET table_name = $3 WHERE schema_name = "
			       "$1 AND table_name = $2",
			       3, params);
	if (rc == 0)
		rc = pgc_query(t->warehouse, &res, err,
			       "SELECT format('ALTER INDEX %I.%I RENAME TO %I', $1::text, "
			       "c.relname, $3 || '_pkey') FROM pg_catalog.pg_index i JOIN "
			       "pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE i.indisprimary "
			       "AND i.indrelid = format('%I.%I', $1::text, $3::text)::regclass AND "
			       "octet_length($3) < 59 AND $2::text <> '' AND "
			       "to_regclass(format('%I.%I', $1::text, $3 || '_pkey')) IS NULL",
			       3, params);
	if (rc != 0)
		return rc;
	if (PQntuples(res) == 1)
		rc = pgc_exec(t->warehouse, NULL, err, "%s", PQgetvalue(res, 0, 0));
	PQclear(res);
	return rc;
}

/* The partitions that it was read from; unknown where the mirror was truncated since. */
static int record_leaves(struct sync_mirror *t, struct rt_err *err)
{
	const char *params[] = {t->settings->pipeline, t->unit->name};
	return pgc_query(t->warehouse, NULL, err,
			 "UPDATE rolag.relation r SET leaves = s.leaves FROM rolag.sync s WHERE "
			 "r.pipeline = $1 AND r.name = $2 AND s.pipeline = $1 AND s.name = $2",
			 2, params);
}

int sync_mirror_swap(void *ctx, struct rt_err *err)
{
	struct sync_mirror *t = ctx;
	struct mirror live = *mirror_of(t);
	struct swap_pair pair = pair_of(t);
	struct buf sql = BUF_INIT;
	bool there;
	t->swap_waits = false;
	int rc = record_leaves(t, err);
	if (rc != 0 || !live.is_beside)
		return rc;
	rc = pgc_exec(t->warehouse, NULL, err, "SET LOCAL lock_timeout = '200ms'");
	if (rc == 0)
		rc = relation_is_there(t, live_name(t), &there, err);
	if (rc != 0)
		return rc;
	rc = there ? swap_tables(t->warehouse, &pair, 1, err) : take_name(t, err);
	t->swap_waits = rc == ERR_RETRY && PQstatus(t->warehouse) == CONNECTION_OK;
	if (rc != 0)
		return rc;
	live.is_beside = false;
	mirror_record_sql(t->settings, &live, live.shape, &sql);
	return run_sql(t, &sql, err);
}

void sync_mirror_drop(struct sync_mirror *t)
{
	const struct mirror *m = mirror_of(t);
	struct rt_err err;
	struct buf sql = BUF_INIT;
	buf_str(&sql, "BEGIN; " DDL_LOCK " DROP TABLE IF EXISTS ");
	pgc_ident(&sql, m->schema);
	buf_u8(&sql, '.');
	pgc_ident(&sql, m->beside);
	buf_str(&sql, "; COMMIT");
	/* The next sync of it would drop it, too. */
	if (run_sql(t, &sql, &err) != 0 && pgc_exec(t->warehouse, NULL, &err, "ROLLBACK") != 0)
		log_debug("a table beside a mirror stays", "table=%s reason=\"%s\"", m->source,
			  err.msg);
}
