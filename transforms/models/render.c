/* render: pieces into SQL and fingerprints. Guarantees: what changes a model's rows changes its fingerprint. */
#include "transforms/models/render.h"

#include <inttypes.h>
#include <xxhash.h>

/* Counts up when a build makes other rows of the same SQL. */
#define FINGERPRINT_FORMAT "1"

/* A quote and ten characters of a time are its day. */
#define RUN_DAY_SIZE 24

/* run_day, if it is that, is written into day. */
static const char *var_sql(const struct models *m, const char *name, const char *as_of,
			   const char *run_at, char day[RUN_DAY_SIZE])
{
	if (strcmp(name, "run_day") == 0) {
		snprintf(day, RUN_DAY_SIZE, "%.11s'::date", run_at);
		return day;
	}
	if (strcmp(name, "as_of") == 0)
		return as_of;
	if (strcmp(name, "run_at") == 0)
		return run_at;
	for (size_t i = 0; i < m->var_count; i++)
		if (strcmp(m->var[i].name, name) == 0)
			return m->var[i].sql;
	return "NULL"; /* the graph has refused it */
}

const char *render_as_of(struct arena *a, int32_t days)
{
	time_t at = (time_t)days * 86400;
	struct tm tm;
	char date[32];
	gmtime_r(&at, &tm);
	strftime(date, sizeof(date), "%Y-%m-%d", &tm);
	return arena_printf(a, "'%s'::date", date);
}

const char *render_run_at(struct arena *a, int64_t us)
{
	time_t at = (time_t)(us / 1000000);
	int64_t rest = us % 1000000;
	struct tm tm;
	char date[48];
	gmtime_r(&at, &tm);
	strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
	return arena_printf(a, "'%s.%06" PRId64 "+00'::timestamptz", date, rest < 0 ? 0 : rest);
}

void model_render(const struct models *m, const struct model *md, const struct render_names *names,
		  struct buf *out, size_t *start)
{
	char day[RUN_DAY_SIZE];
	for (size_t i = 0; i < md->sql.piece_count; i++) {
		const struct model_piece *p = &md->sql.piece[i];
		if (start != NULL)
			start[i] = out->len;
		switch (p->kind) {
		case PIECE_SQL:
			buf_add_slice(out, p->sql);
			break;
		case PIECE_REF:
			buf_str(out, names->model[models_find(m, p->name) - m->model]);
			break;
		case PIECE_SOURCE:
			buf_str(out, names->source[models_find_source(m, p->name, p->table) -
						   m->source]);
			break;
		case PIECE_VAR:
			buf_str(out, var_sql(m, p->name, names->as_of, names->run_at, day));
			break;
		case PIECE_THIS:
			buf_str(out, names->this);
			break;
		}
	}
}

struct model_place render_place(const struct model *md, const size_t *start, size_t at)
{
	size_t i = md->sql.piece_count;
	struct model_place place = {md->file, 1, 1};
	while (i > 0 && start[i - 1] > at)
		i--;
	if (i == 0)
		return place;
	const struct model_piece *p = &md->sql.piece[i - 1];
	size_t into = p->kind == PIECE_SQL ? RT_MIN(at - start[i - 1], p->sql.len) : 0;
	model_locate(md->text, p->from + into, &place.line, &place.column);
	return place;
}

/* ---- fingerprints: every part with its length, so that no two lists of parts are the same bytes ---- */

static void part(XXH3_state_t *h, const void *p, size_t len)
{
	uint64_t n = len;
	XXH3_128bits_update(h, &n, sizeof(n));
	if (len > 0)
		XXH3_128bits_update(h, p, len);
}

static void part_str(XXH3_state_t *h, const char *s)
{
	part(h, s == NULL ? "" : s, s == NULL ? 0 : strlen(s) + 1);
}

static struct model_fingerprint finish(XXH3_state_t *h)
{
	struct model_fingerprint f;
	XXH128_hash_t v = XXH3_128bits_digest(h);
	snprintf(f.hex, sizeof(f.hex), "%016" PRIx64 "%016" PRIx64, (uint64_t)v.high64,
		 (uint64_t)v.low64);
	XXH3_freeState(h);
	return f;
}

static XXH3_state_t *begin(const char *what)
{
	XXH3_state_t *h = XXH3_createState();
	RT_ASSERT(h != NULL);
	XXH3_128bits_reset(h);
	part_str(h, FINGERPRINT_FORMAT);
	part_str(h, what);
	return h;
}

struct model_fingerprint model_fingerprint(const struct models *m, const struct model *md,
					   const struct model_fingerprint *model,
					   const char *const *source, const char *as_of,
					   const char *run_at)
{
	XXH3_state_t *h = begin(md->layer == MODEL_SEED ? "seed" : md->table ? "table" : "view");
	char day[RUN_DAY_SIZE];
	part_str(h, md->name);
	if (md->layer == MODEL_SEED)
		part(h, md->text.p, md->text.len);
	for (size_t i = 0; i < md->sql.piece_count; i++) {
		const struct model_piece *p = &md->sql.piece[i];
		uint8_t kind = (uint8_t)p->kind;
		part(h, &kind, 1);
		part(h, p->sql.p, p->sql.len);
		part_str(h, p->name);
		part_str(h, p->table);
		if (p->kind == PIECE_VAR)
			part_str(h, var_sql(m, p->name, as_of, run_at, day));
	}
	for (size_t i = 0; i < md->input_count; i++)
		part_str(h, model[md->input[i]].hex);
	for (size_t i = 0; i < md->source_count; i++)
		part_str(h, source[md->source[i]]);
	for (size_t i = 0; (md->contract || md->layer == MODEL_SEED) && i < md->column_count; i++) {
		part_str(h, md->column[i].name);
		part_str(h, md->column[i].type);
	}
	return finish(h);
}

struct model_fingerprint model_test_fingerprint(const struct models *m, const struct model *md,
						const struct model_test *t,
						const struct model_fingerprint *model)
{
	XXH3_state_t *h = begin(model_test_name(t->kind));
	part_str(h, model[md - m->model].hex);
	part_str(h, t->column);
	part_str(h, t->where);
	part_str(h, t->field);
	part_str(h, t->expression);
	part_str(h, t->plain ? "plain" : "quoted");
	for (size_t i = 0; i < t->value_count; i++)
		part_str(h, t->value[i]);
	if (t->kind == TEST_RELATIONSHIPS)
		part_str(h, model[t->to_model].hex);
	return finish(h);
}
