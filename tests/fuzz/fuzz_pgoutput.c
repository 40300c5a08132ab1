/*
 * pgoutput: pieces, each a message, through decoder and relcache. What is
 * accepted is exactly a message: cut short or with a byte more it is refused.
 * A row survives the spool's form.
 */
#include "cdc/capture/pgoutput.h"
#include "cdc/capture/relcache.h"
#include "tests/fuzz/fuzz.h"

static const struct schema *find(void *schema, uint64_t hash)
{
	const struct schema *s = schema;
	return s->hash == hash ? s : NULL;
}

static void row(const struct relcache *c, const struct pgo_message *m)
{
	struct rt_err err;
	const struct schema *s;
	int count = m->kind == PGO_DELETE ? -1 : m->row.new_row.count;
	if (rel_get(c, m->row.relation_oid, count, &s, &err) != 0 ||
	    (m->row.old_kind != 0 && m->row.old_row.count != s->count))
		return;
	struct change change = {.kind = m->kind == PGO_INSERT	? CHANGE_INSERT
					: m->kind == PGO_UPDATE ? CHANGE_UPDATE
								: CHANGE_DELETE,
				.schema = s,
				.new_row = m->row.new_row,
				.old_row = m->row.old_row,
				.old_kind = m->row.old_kind};
	fuzz_change_survives(&change, find, (void *)(uintptr_t)s);
}

static void message(struct slice in, struct arena *a, struct relcache *c)
{
	struct pgo_message m, other;
	struct rt_err err;
	struct buf longer = BUF_INIT;
	if (pgo_decode(in, (struct lsn){1}, a, &m, &err) != 0)
		return;
	buf_add_slice(&longer, in);
	buf_u8(&longer, 0);
	RT_ASSERT(pgo_decode(buf_slice(&longer), (struct lsn){1}, a, &other, &err) != 0);
	RT_ASSERT(pgo_decode(slice_of(in.p, in.len - 1), (struct lsn){1}, a, &other, &err) != 0);
	buf_release(&longer);
	if (m.kind == PGO_RELATION)
		rel_put(c, &m.relation);
	else if (m.kind == PGO_INSERT || m.kind == PGO_UPDATE || m.kind == PGO_DELETE)
		row(c, &m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rd r = rd_of(slice_of(data, size));
	struct relcache c;
	struct arena a;
	arena_init(&a, 4096);
	rel_init(&c);
	while (r.left > 0) {
		struct slice piece = fuzz_piece(&r);
		message(piece, &a, &c);
		fuzz_free(piece);
	}
	rel_release(&c);
	arena_release(&a);
	return 0;
}
