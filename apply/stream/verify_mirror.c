/*
 * verify_mirror: the quick pass over all rows, and the judging of suspects.
 * Guarantees: no session is idle in a transaction, no snapshot lasts longer
 * than a statement, and no value leaves this file.
 */
#include "apply/stream/verify_mirror.h"

#include <inttypes.h>
#include <poll.h>
#include <xxhash.h>

#include "apply/stream/verify_fence.h"
#include "apply/stream/verify_mirror_rows.h"
#include "proto/pg/pgconn.h"
#include "proto/pg/shape.h"

/* Rows of a chunk of the quick pass: one statement, one snapshot, on either end. */
#define CHUNK_ROWS 20000
/* Rows judged behind one fence. */
#define BATCH_ROWS 500u
/* Keys listed at a time where the two ends order them differently. */
#define LIST_KEYS 2000
/* A sample reads a mirror without key whole up to so many times its rows. */
#define WHOLE_FACTOR 100
/* Between two looks at a row that changes all the time. */
#define AGAIN_US_MOST INT64_C(100000)

/* A row as it was seen at one time. Strings and hashes live in the batch's arena. */
struct seen {
	bool there;
	struct slice version;
	XXH128_hash_t hash; /* of all columns */
	uint64_t *column;   /* hash of each */
};

struct suspect {
	struct seen core, core_again, here, here_again;
	bool decided;
};

/* A mirror read whole. */
struct whole {
	uint64_t rows;
	uint64_t content[2]; /* sums of the rows' hashes */
	uint64_t exact[2];   /* … with their versions */
};

struct verify_mirror {
	struct verify_options o;
	PGconn *core, *here;	       /* of the quick pass */
	PGconn *core_sure, *here_sure; /* of the judging */
	struct mirror_set *set;
	struct mirror *m;
	struct mirror_reading reading;
	struct arena shape_arena; /* of reading */
	struct verify_count *count;
	bool quick; /* the quick pass counts the rows, the judging does not */

	struct verify_keys chunk; /* of the quick pass */
	XXH128_hash_t *chunk_hash;
	bool *chunk_seen;
	struct buf last; /* key of the last row read */

	struct verify_keys batch; /* suspects, by number */
	struct suspect suspect[BATCH_ROWS];
	struct arena arena; /* what was seen of them */
};

static bool same_hash(XXH128_hash_t a, XXH128_hash_t b)
{
	return a.low64 == b.low64 && a.high64 == b.high64;
}

/* ---- connections ---- */

int verify_mirror_open(struct verify_mirror **ret, const struct verify_options *o,
		       struct rt_err *err)
{
	struct verify_mirror *v = rt_calloc(1, sizeof(*v));
	PGconn **c[] = {&v->core, &v->core_sure, &v->here, &v->here_sure};
	int rc = 0;
	v->o = *o;
	verify_keys_init(&v->chunk);
	verify_keys_init(&v->batch);
	arena_init(&v->shape_arena, 16384);
	arena_init(&v->arena, 65536);
	v->chunk_hash = rt_calloc(CHUNK_ROWS, sizeof(*v->chunk_hash));
	v->chunk_seen = rt_calloc(CHUNK_ROWS, sizeof(*v->chunk_seen));
	for (size_t i = 0; rc == 0 && i < ARRAY_LEN(c); i++) {
		rc = i < 2 ? verify_connect_core(o, c[i], err)
			   : verify_connect_warehouse(o, c[i], err);
		if (rc == 0)
			rc = mirror_reading_prepare(*c[i], err);
	}
	if (rc != 0) {
		verify_mirror_close(v);
		return rc;
	}
	*ret = v;
	return 0;
}

void verify_mirror_close(struct verify_mirror *v)
{
	if (v == NULL)
		return;
	PGconn *c[] = {v->core, v->core_sure, v->here, v->here_sure};
	for (size_t i = 0; i < ARRAY_LEN(c); i++)
		pgc_close(c[i]);
	verify_keys_release(&v->chunk);
	verify_keys_release(&v->batch);
	arena_release(&v->shape_arena);
	arena_release(&v->arena);
	free(v->chunk_hash);
	free(v->chunk_seen);
	buf_release(&v->last);
	free(v);
}

/* ---- telling ---- */

static void tell(struct verify_mirror *v, enum verify_kind kind, uint32_t at, const char *column)
{
	struct verify_finding f = {.kind = kind,
				   .relation = v->m->relname,
				   .key = mirror_key_text(v->batch.key[at], &v->arena),
				   .column = column};
	v->count->differences++;
	if (v->o.found != NULL)
		v->o.found(v->o.ctx, &f);
}

static void tell_columns(struct verify_mirror *v, uint32_t at)
{
	const struct suspect *s = &v->suspect[at];
	const struct schema *source = &v->reading.shape->source;
	for (uint16_t i = 0; i < source->count; i++)
		if (s->core_again.column[i] != s->here.column[i])
			tell(v, VERIFY_DIFFERS, at, source->column[i].name);
}

/* ---- the warehouse's state ---- */

/*
 * The mirror follows the stream, in the transaction in which it is read: only
 * then does it hold what was committed before a fence that apply has met.
 */
static int check_live(struct verify_mirror *v, PGconn *c, struct rt_err *err)
{
	const char *params[] = {v->o.settings->pipeline, v->m->relname};
	PGresult *res;
	int rc = pgc_query(c, &res, err,
			   "SELECT state FROM rolag.relation WHERE pipeline = $1 AND name = $2", 2,
			   params);
	if (rc != 0)
		return rc;
	const char *state = PQntuples(res) == 1 ? PQgetvalue(res, 0, 0) : "gone";
	if (strcmp(state, "live") != 0)
		rc = rt_fail(err, ERR_PERMANENT, "its state is %s: it does not follow the core%s",
			     state,
			     strcmp(state, "parked") == 0
				     ? "; mend: rolag.relation has the reason, rolag sync takes it "
				       "up again"
				     : "");
	PQclear(res);
	return rc;
}

static int read_here(struct verify_mirror *v, PGconn *c, const char *select, bool columns,
		     mirror_on_row *on_row, void *ctx, struct rt_err *err)
{
	int rc = pgc_exec(c, NULL, err,
			  "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY");
	if (rc == 0)
		rc = check_live(v, c, err);
	if (rc == 0)
		rc = mirror_rows_read(c, &v->reading, select, columns, on_row, ctx, err);
	return rc == 0 ? pgc_exec(c, NULL, err, "COMMIT") : rc;
}

/* ---- judging suspects ---- */

/* Which of the four looks a row belongs to. */
struct looking {
	struct verify_mirror *v;
	size_t offset; /* of struct seen in struct suspect */
	uint64_t rows;
};

static struct seen *seen_at(struct verify_mirror *v, uint32_t at, size_t offset)
{
	return (struct seen *)(void *)((char *)&v->suspect[at] + offset);
}

/* (The row was checked to be of that many columns.) */
static uint64_t *hash_columns(struct verify_mirror *v, struct slice columns)
{
	uint16_t n = v->reading.shape->source.count;
	uint64_t *hash = arena_alloc(&v->arena, (n + 1u) * sizeof(*hash));
	struct rd in = rd_of(columns);
	for (uint16_t i = 0; i < n; i++) {
		uint32_t len = rd_u32(&in);
		const uint8_t *p = len == UINT32_MAX ? NULL : rd_bytes(&in, len);
		hash[i] = p == NULL ? 0 : XXH3_64bits_withSeed(p, len, 1);
	}
	return hash;
}

static int take_seen(void *ctx, const struct mirror_row *row, struct rt_err *err)
{
	struct looking *l = ctx;
	int64_t at = verify_keys_find(&l->v->batch, row->key);
	(void)err;
	if (at <
	    0) /* equal to one that was asked for, and written otherwise: judged under its own key */
		return 0;
	l->rows++;
	*seen_at(l->v, (uint32_t)at, l->offset) = (struct seen){
		.there = true,
		.version = arena_copy(&l->v->arena, row->version),
		.hash = XXH3_128bits(row->columns.p, row->columns.len),
		.column = hash_columns(l->v, row->columns),
	};
	return 0;
}

static int probe(struct verify_mirror *v, enum verify_end end, uint32_t first, uint32_t count,
		 struct looking *l, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	mirror_probe_sql(&v->reading, end, &v->batch, first, count, &sql);
	int rc = end == VERIFY_CORE
			 ? mirror_rows_read(v->core_sure, &v->reading, buf_cstr(&sql), true,
					    take_seen, l, err)
			 : read_here(v, v->here_sure, buf_cstr(&sql), true, take_seen, l, err);
	buf_release(&sql);
	return rc;
}

/* A key that the core's type cannot take (an enum's value that it does not have) is of no row there. */
static bool is_no_value(const struct rt_err *err)
{
	return strstr(err->msg, "SQLSTATE 22") != NULL ||
	       strstr(err->msg, "SQLSTATE 23514") != NULL;
}

static int probe_core_singly(struct verify_mirror *v, struct looking *l, struct rt_err *err)
{
	int rc = 0;
	for (uint32_t i = 0; rc == 0 && i < v->batch.count; i++) {
		rc = probe(v, VERIFY_CORE, i, 1, l, err);
		if (rc == ERR_PERMANENT && is_no_value(err))
			rc = 0;
	}
	return rc;
}

/* Reads all suspects on one end. */
static int look(struct verify_mirror *v, enum verify_end end, size_t offset, struct looking *ret,
		struct rt_err *err)
{
	*ret = (struct looking){.v = v, .offset = offset};
	for (uint32_t i = 0; i < v->batch.count; i++)
		*seen_at(v, i, offset) = (struct seen){0};
	int rc = probe(v, end, 0, v->batch.count, ret, err);
	if (rc == ERR_PERMANENT && end == VERIFY_CORE && is_no_value(err))
		rc = probe_core_singly(v, ret, err);
	return rc;
}

static int pass_fence(struct verify_mirror *v, struct verify_fence *ret, struct rt_err *err)
{
	return verify_fence_pass(v->core_sure, v->here_sure, v->o.settings, v->o.loop,
				 v->o.patience_us, ret, err);
}

static bool equal(const struct seen *a, const struct seen *b)
{
	return a->there == b->there && (!a->there || same_hash(a->hash, b->hash));
}

static bool same_version(const struct seen *a, const struct seen *b)
{
	return a->there && b->there && slice_eq(a->version, b->version);
}

static bool all_decided(const struct verify_mirror *v)
{
	for (uint32_t i = 0; i < v->batch.count; i++)
		if (!v->suspect[i].decided)
			return false;
	return true;
}

/* What two looks at the core say; *ret_extra: how many seem to be too many. */
static void judge_by_core(struct verify_mirror *v, uint32_t *ret_extra)
{
	*ret_extra = 0;
	for (uint32_t i = 0; i < v->batch.count; i++) {
		struct suspect *s = &v->suspect[i];
		if (s->decided)
			continue;
		if (equal(&s->core_again, &s->here)) {
			s->decided = true;
		} else if (same_version(&s->core, &s->core_again)) {
			s->decided = true;
			v->count->differing_entities++;
			if (s->here.there)
				tell_columns(v, i);
			else
				tell(v, VERIFY_MISSING, i, NULL);
		} else {
			*ret_extra += !s->core_again.there;
		}
	}
}

static void judge_extra(struct verify_mirror *v)
{
	for (uint32_t i = 0; i < v->batch.count; i++) {
		struct suspect *s = &v->suspect[i];
		if (s->decided || s->core_again.there)
			continue;
		if (!s->here_again.there) {
			s->decided = true;
		} else if (same_version(&s->here, &s->here_again)) {
			s->decided = true;
			v->count->differing_entities++;
			tell(v, VERIFY_EXTRA, i, NULL);
		}
	}
}

/* Behind B1: the second half of a round. *ret_old: an old transaction of the core is in the way. */
static int judge_rest(struct verify_mirror *v, bool *ret_old, struct rt_err *err)
{
	struct verify_fence fence;
	struct looking l;
	uint32_t extra = 0;
	bool all = true;
	int rc = pass_fence(v, &fence, err);
	if (rc == 0)
		rc = verify_fence_settle(v->core_sure, &fence, v->o.loop, v->o.patience_us, &all,
					 err);
	*ret_old = !all;
	if (rc != 0 || !all)
		return rc;
	rc = look(v, VERIFY_CORE, offsetof(struct suspect, core_again), &l, err);
	if (rc == 0)
		judge_by_core(v, &extra);
	if (rc != 0 || extra == 0)
		return rc;
	rc = pass_fence(v, &fence, err);
	if (rc == 0)
		rc = look(v, VERIFY_WAREHOUSE, offsetof(struct suspect, here_again), &l, err);
	if (rc == 0)
		judge_extra(v);
	return rc;
}

/* One round over what is not decided yet. */
static int judge(struct verify_mirror *v, bool first, bool *ret_old, struct rt_err *err)
{
	struct verify_fence fence;
	struct looking core, here;
	*ret_old = false;
	int rc = look(v, VERIFY_CORE, offsetof(struct suspect, core), &core, err);
	if (rc == 0)
		rc = pass_fence(v, &fence, err);
	if (rc == 0)
		rc = look(v, VERIFY_WAREHOUSE, offsetof(struct suspect, here), &here, err);
	if (rc != 0)
		return rc;
	if (first && !v->quick) {
		v->count->core_rows += core.rows;
		v->count->warehouse_rows += here.rows;
	}
	for (uint32_t i = 0; i < v->batch.count; i++)
		v->suspect[i].decided |= equal(&v->suspect[i].core, &v->suspect[i].here);
	return all_decided(v) ? 0 : judge_rest(v, ret_old, err);
}

static int nap(struct loop *loop, int64_t us, struct rt_err *err)
{
	if (loop != NULL && loop_stopping(loop))
		return rt_fail(err, ERR_RETRY, "told to stop");
	struct timespec t = {us / 1000000, (us % 1000000) * 1000};
	ppoll(NULL, 0, &t, NULL);
	return 0;
}

static int judge_suspects(struct verify_mirror *v, struct rt_err *err)
{
	int64_t until = rt_mono_us() + v->o.patience_us, pause_us = 1000;
	bool old = false;
	int rc = 0;
	if (v->batch.count == 0)
		return 0;
	v->count->entities += v->batch.count;
	for (bool first = true; rc == 0; first = false) {
		rc = judge(v, first, &old, err);
		if (rc != 0 || all_decided(v) || old || rt_mono_us() > until)
			break;
		rc = nap(v->o.loop, pause_us, err);
		pause_us = RT_MIN(2 * pause_us, AGAIN_US_MOST);
		arena_reset(&v->arena);
	}
	for (uint32_t i = 0; rc == 0 && i < v->batch.count; i++)
		v->count->undecided += !v->suspect[i].decided;
	verify_keys_reset(&v->batch);
	arena_reset(&v->arena);
	return rc;
}

/* To be judged; the same row twice in a batch is one. */
static int suspect(struct verify_mirror *v, struct slice key, struct rt_err *err)
{
	bool added;
	if (v->batch.count == BATCH_ROWS) {
		int rc = judge_suspects(v, err);
		if (rc != 0)
			return rc;
	}
	uint32_t at = verify_keys_add(&v->batch, key, &added);
	if (added)
		v->suspect[at] = (struct suspect){0};
	return 0;
}

/* ---- the quick pass ---- */

static int take_chunk_row(void *ctx, const struct mirror_row *row, struct rt_err *err)
{
	struct verify_mirror *v = ctx;
	if (v->chunk.count == CHUNK_ROWS)
		return rt_fail(err, ERR_PERMANENT, "the core gave more rows than were asked for");
	uint32_t at = verify_keys_add(&v->chunk, row->key, NULL);
	v->chunk_hash[at] = XXH3_128bits(row->columns.p, row->columns.len);
	v->chunk_seen[at] = false;
	buf_clear(&v->last);
	buf_add_slice(&v->last, row->key);
	verify_count_core(&v->o, v->count);
	return 0;
}

static int compare_row(void *ctx, const struct mirror_row *row, struct rt_err *err)
{
	struct verify_mirror *v = ctx;
	int64_t at = verify_keys_find(&v->chunk, row->key);
	v->count->warehouse_rows++;
	if (at >= 0)
		v->chunk_seen[at] = true;
	if (at >= 0 && same_hash(v->chunk_hash[at], XXH3_128bits(row->columns.p, row->columns.len)))
		return 0;
	return suspect(v, row->key, err);
}

/* The warehouse's rows of the chunk: of its range, or, where the ends order differently, of its keys. */
static int compare_chunk(struct verify_mirror *v, struct slice after, bool last, struct rt_err *err)
{
	const struct mirror_reading *r = &v->reading;
	struct slice to = last ? (struct slice){NULL, 0} : buf_slice(&v->last);
	int rc = 0;
	for (uint32_t i = 0; rc == 0 && (r->ordered ? i == 0 : i < v->chunk.count);
	     i += LIST_KEYS) {
		struct buf sql = BUF_INIT;
		if (r->ordered)
			mirror_range_sql(r, after, to, &sql);
		else
			mirror_probe_sql(r, VERIFY_WAREHOUSE, &v->chunk, i,
					 RT_MIN(v->chunk.count - i, (uint32_t)LIST_KEYS), &sql);
		rc = read_here(v, v->here, buf_cstr(&sql), true, compare_row, v, err);
		buf_release(&sql);
	}
	for (uint32_t i = 0; rc == 0 && i < v->chunk.count; i++)
		if (!v->chunk_seen[i])
			rc = suspect(v, v->chunk.key[i], err);
	return rc;
}

static int compare_core(struct verify_mirror *v, struct rt_err *err)
{
	struct buf after = BUF_INIT;
	bool last = false;
	int rc = 0;
	buf_clear(&v->last);
	while (rc == 0 && !last) {
		struct buf sql = BUF_INIT;
		struct slice from = buf_slice(&after);
		verify_keys_reset(&v->chunk);
		mirror_chunk_sql(&v->reading, from, CHUNK_ROWS, &sql);
		rc = mirror_rows_read(v->core, &v->reading, buf_cstr(&sql), true, take_chunk_row, v,
				      err);
		buf_release(&sql);
		last = v->chunk.count < CHUNK_ROWS;
		if (rc == 0)
			rc = compare_chunk(v, from, last, err);
		buf_clear(&after);
		buf_add_slice(&after, buf_slice(&v->last));
		if (rc == 0)
			rc = nap(v->o.loop, 0, err);
	}
	buf_release(&after);
	return rc;
}

/* ---- keys of the warehouse that the core has not, where the ends order them differently ---- */

static int list_key(void *ctx, const struct mirror_row *row, struct rt_err *err)
{
	struct verify_mirror *v = ctx;
	(void)err;
	v->chunk_seen[verify_keys_add(&v->chunk, row->key, NULL)] = false;
	buf_clear(&v->last);
	buf_add_slice(&v->last, row->key);
	return 0;
}

static int mark_key(void *ctx, const struct mirror_row *row, struct rt_err *err)
{
	struct verify_mirror *v = ctx;
	int64_t at = verify_keys_find(&v->chunk, row->key);
	(void)err;
	if (at >= 0)
		v->chunk_seen[at] = true;
	return 0;
}

/* What the core does not take as a key at all is found by judging, too. */
static int find_unknown(struct verify_mirror *v, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	if (v->chunk.count == 0)
		return 0;
	mirror_probe_sql(&v->reading, VERIFY_CORE, &v->chunk, 0, v->chunk.count, &sql);
	int rc = mirror_rows_read(v->core, &v->reading, buf_cstr(&sql), true, mark_key, v, err);
	buf_release(&sql);
	if (rc == ERR_PERMANENT && is_no_value(err))
		rc = 0;
	for (uint32_t i = 0; rc == 0 && i < v->chunk.count; i++)
		if (!v->chunk_seen[i])
			rc = suspect(v, v->chunk.key[i], err);
	return rc;
}

static int walk_here(struct verify_mirror *v, struct rt_err *err)
{
	int rc = 0;
	buf_clear(&v->last);
	for (bool more = true; rc == 0 && more;) {
		struct buf sql = BUF_INIT;
		verify_keys_reset(&v->chunk);
		mirror_walk_sql(&v->reading, buf_slice(&v->last), LIST_KEYS, &sql);
		rc = read_here(v, v->here, buf_cstr(&sql), false, list_key, v, err);
		buf_release(&sql);
		more = v->chunk.count == LIST_KEYS;
		if (rc == 0)
			rc = find_unknown(v, err);
		if (rc == 0)
			rc = nap(v->o.loop, 0, err);
	}
	return rc;
}

static int compare_all(struct verify_mirror *v, struct rt_err *err)
{
	struct verify_fence fence;
	v->quick = true;
	/* Behind a backlog everything would look different. */
	int rc = pass_fence(v, &fence, err);
	if (rc == 0)
		rc = compare_core(v, err);
	if (rc == 0 && !v->reading.ordered)
		rc = walk_here(v, err);
	if (rc == 0)
		rc = judge_suspects(v, err);
	v->quick = false;
	return rc;
}

/* ---- a sample ---- */

/* Pages and rows of an end's table, by the planner's idea; of one never analyzed, ten rows a page. */
static int measure(struct verify_mirror *v, enum verify_end end, double *ret_rows,
		   struct rt_err *err)
{
	struct buf name = BUF_INIT;
	PGresult *res;
	if (end == VERIFY_CORE) {
		pgc_ident(&name, v->m->nspname);
		buf_u8(&name, '.');
		pgc_ident(&name, v->m->relname);
	} else {
		buf_str(&name, v->m->target);
	}
	const char *params[] = {buf_cstr(&name)};
	int rc = pgc_query(
		end == VERIFY_CORE ? v->core_sure : v->here_sure, &res, err,
		"SELECT coalesce(sum(pg_relation_size(c.oid) / current_setting('block_size')::int8 "
		"* CASE WHEN c.reltuples > 0 AND c.relpages > 0 THEN c.reltuples / c.relpages ELSE "
		"10 END), 0) FROM (SELECT $1::regclass::oid AS oid UNION SELECT relid FROM "
		"pg_catalog.pg_partition_tree($1::regclass)) t JOIN pg_catalog.pg_class c USING "
		"(oid) WHERE c.relkind = 'r'",
		1, params);
	buf_release(&name);
	if (rc != 0)
		return rc;
	*ret_rows = strtod(PQgetvalue(res, 0, 0), NULL);
	PQclear(res);
	return 0;
}

/* The same row from both ends is one (beyond a chunk's worth, nobody remembers). */
static int sample_key(void *ctx, const struct mirror_row *row, struct rt_err *err)
{
	struct verify_mirror *v = ctx;
	bool added = true;
	if (v->chunk.count < CHUNK_ROWS)
		verify_keys_add(&v->chunk, row->key, &added);
	else
		added = verify_keys_find(&v->chunk, row->key) < 0;
	return added ? suspect(v, row->key, err) : 0;
}

static int sample_end(struct verify_mirror *v, enum verify_end end, int64_t rows,
		      struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	double all = 0;
	int rc = measure(v, end, &all, err);
	if (rc != 0)
		return rc;
	double percent = all > 0 ? RT_MIN(100.0, 100.0 * (double)rows / all) : 100.0;
	mirror_sample_sql(&v->reading, end, percent, rows, &sql);
	rc = end == VERIFY_CORE ? mirror_rows_read(v->core, &v->reading, buf_cstr(&sql), false,
						   sample_key, v, err)
				: read_here(v, v->here, buf_cstr(&sql), false, sample_key, v, err);
	buf_release(&sql);
	return rc;
}

/* Half of them from either end: what only one of them holds is found, too. */
static int compare_sample(struct verify_mirror *v, struct rt_err *err)
{
	int64_t half = RT_MAX(v->o.sample / 2, 1);
	verify_keys_reset(&v->chunk);
	int rc = sample_end(v, VERIFY_CORE, half, err);
	if (rc == 0)
		rc = sample_end(v, VERIFY_WAREHOUSE, half, err);
	return rc == 0 ? judge_suspects(v, err) : rc;
}

/* ---- a mirror without key, read whole ---- */

static void add_hash(uint64_t sum[2], XXH128_hash_t hash)
{
	sum[0] += hash.low64;
	sum[1] += hash.high64;
}

static int take_whole(void *ctx, const struct mirror_row *row, struct rt_err *err)
{
	struct whole *w = ctx;
	XXH128_hash_t hash = XXH3_128bits(row->columns.p, row->columns.len);
	(void)err;
	w->rows++;
	add_hash(w->content, hash);
	add_hash(w->exact,
		 XXH3_128bits_withSeed(row->version.p, row->version.len, hash.low64 ^ hash.high64));
	return 0;
}

static int read_whole(struct verify_mirror *v, enum verify_end end, struct whole *ret,
		      struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	PGconn *c = end == VERIFY_CORE ? v->core : v->here;
	*ret = (struct whole){0};
	mirror_whole_sql(&v->reading, end, &sql);
	int rc = pgc_exec(c, NULL, err, "SET enable_seqscan = on");
	if (rc == 0)
		rc = end == VERIFY_CORE
			     ? mirror_rows_read(c, &v->reading, buf_cstr(&sql), true, take_whole,
						ret, err)
			     : read_here(v, c, buf_cstr(&sql), true, take_whole, ret, err);
	if (rc == 0)
		rc = pgc_exec(c, NULL, err, "SET enable_seqscan = off");
	buf_release(&sql);
	return rc == 0 ? nap(v->o.loop, 0, err) : rc;
}

static bool whole_equal(const struct whole *a, const struct whole *b)
{
	return a->rows == b->rows && memcmp(a->content, b->content, sizeof(a->content)) == 0;
}

static bool whole_same(const struct whole *a, const struct whole *b)
{
	return whole_equal(a, b) && memcmp(a->exact, b->exact, sizeof(a->exact)) == 0;
}

static void tell_whole(struct verify_mirror *v, const struct whole *core, const struct whole *here)
{
	char reason[160];
	snprintf(reason, sizeof(reason),
		 "it has no key to tell them by: %" PRIu64 " rows of the core, %" PRIu64
		 " of the warehouse",
		 core->rows, here->rows);
	struct verify_finding f = {
		.kind = VERIFY_DIFFERS, .relation = v->m->relname, .key = "", .reason = reason};
	v->count->differences++;
	v->count->differing_entities++;
	if (v->o.found != NULL)
		v->o.found(v->o.ctx, &f);
}

/* One round; 1: decided, 0: it has changed meanwhile; *ret_old as in judge_rest. */
static int judge_whole(struct verify_mirror *v, bool first, bool *ret_old, struct rt_err *err)
{
	struct whole core, here, core_again, here_again;
	struct verify_fence fence;
	bool all = true;
	int rc = read_whole(v, VERIFY_CORE, &core, err);
	if (rc == 0)
		rc = pass_fence(v, &fence, err);
	if (rc == 0)
		rc = read_whole(v, VERIFY_WAREHOUSE, &here, err);
	if (rc != 0)
		return rc;
	if (first) {
		v->count->core_rows += core.rows;
		v->count->warehouse_rows += here.rows;
	}
	if (whole_equal(&core, &here))
		return 1;
	rc = pass_fence(v, &fence, err);
	if (rc == 0)
		rc = verify_fence_settle(v->core_sure, &fence, v->o.loop, v->o.patience_us, &all,
					 err);
	*ret_old = !all;
	if (rc != 0 || !all)
		return rc;
	rc = read_whole(v, VERIFY_CORE, &core_again, err);
	if (rc != 0 || whole_equal(&core_again, &here))
		return rc != 0 ? rc : 1;
	rc = pass_fence(v, &fence, err);
	if (rc == 0)
		rc = read_whole(v, VERIFY_WAREHOUSE, &here_again, err);
	if (rc != 0 || whole_equal(&core_again, &here_again))
		return rc != 0 ? rc : 1;
	if (!whole_same(&core, &core_again) || !whole_same(&here, &here_again))
		return 0;
	tell_whole(v, &core_again, &here_again);
	return 1;
}

/* 1: a sample of it cannot be had, and all of it is too much for one. */
static int compare_whole(struct verify_mirror *v, struct rt_err *err)
{
	int64_t until = rt_mono_us() + v->o.patience_us;
	double rows = 0;
	bool old = false;
	int rc = v->o.sample > 0 ? measure(v, VERIFY_CORE, &rows, err) : 0;
	if (rc == 0 && v->o.sample > 0 && rows > (double)v->o.sample * WHOLE_FACTOR)
		return 1;
	for (bool first = true; rc == 0 && !old; first = false) {
		rc = judge_whole(v, first, &old, err);
		if (rc == 0 && rt_mono_us() > until)
			break;
	}
	v->count->undecided += rc == 0;
	return RT_MIN(rc, 0);
}

/* ---- a mirror ---- */

/* Is the source still what the mirror was made after? Columns that it has not yet are not compared. */
static int check_source(struct verify_mirror *v, struct rt_err *err)
{
	struct shape_table now;
	struct mirror_shape *ignored;
	char why[300];
	int rc = shape_read(v->core_sure, &v->shape_arena, v->m->nspname, v->m->relname, &now, err);
	if (rc < 0)
		return rc;
	if (rc == 1)
		return rt_fail(err, ERR_PERMANENT, "the core has no table %s", v->m->source);
	enum mirror_drift drift =
		mirror_compare(v->set, v->m, &now.schema, &ignored, why, sizeof(why));
	if (drift == MIRROR_PARKS)
		return rt_fail(err, ERR_PERMANENT,
			       "its source has changed since it was made (%s), which it does not "
			       "follow; mend: rolag sync %s",
			       why, v->m->relname);
	if (drift == MIRROR_ADDS && v->o.note != NULL)
		v->o.note(v->o.ctx, v->m->relname,
			  "its source has columns more, which come with the next change of a row: "
			  "not compared");
	return 0;
}

static int begin(struct verify_mirror *v, struct rt_err *err)
{
	int rc = mirror_look(v->here_sure, v->o.settings, v->set, v->m, err);
	if (rc == 1)
		rc = rt_fail(err, ERR_PERMANENT, "it is not landed yet; mend: start rolag apply");
	if (rc == 0)
		rc = check_live(v, v->here_sure, err);
	if (rc == 0 && v->m->shape == NULL)
		rc = rt_fail(err, ERR_PERMANENT, "rolag.relation does not have its shape");
	if (rc == 0)
		rc = check_source(v, err);
	return rc == 0 ? mirror_reading_find(v->core_sure, &v->shape_arena, v->m, &v->reading, err)
		       : rc;
}

int verify_mirror(struct verify_mirror *v, struct mirror_set *set, struct mirror *m,
		  struct verify_count *ret, struct rt_err *err)
{
	v->set = set;
	v->m = m;
	v->count = ret;
	arena_reset(&v->shape_arena);
	int rc = begin(v, err);
	if (rc == 0 && !v->reading.by_key)
		rc = compare_whole(v, err);
	else if (rc == 0)
		rc = v->o.sample > 0 ? compare_sample(v, err) : compare_all(v, err);
	return rc >= 0 ? rc : rt_context(err, "%s", m->relname);
}
