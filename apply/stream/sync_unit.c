/* sync_unit: what of the core a rollup is synced from; keys as text. */
#include "apply/stream/sync_unit.h"

#include "proto/pg/pgconn.h"

void sync_unit_of(struct arena *a, const struct landed *l, struct sync_unit *ret)
{
	const struct rollup *r = l->rollup;
	const char *names[] = {r->source_column.id, r->source_column.sequence,
			       r->source_column.event_type, r->source_column.event,
			       r->source_column.recorded_at};
	struct buf select = BUF_INIT;
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		buf_str(&select, i > 0 ? ", " : "");
		pgc_ident(&select, names[i]);
	}
	*ret = (struct sync_unit){
		.rollup = r,
		.name = r->name,
		.nspname = r->source_schema,
		.relname = r->source_table,
		.select = arena_strdup(a, buf_cstr(&select)),
		.key_count = 2,
		.key = {names[0], names[1]},
		.target = l->history,
		/* Versions of entities that have no newest one: nothing goes on from them. */
		.clear = arena_printf(a, "DELETE FROM %s WHERE NOT EXISTS (SELECT 1 FROM %s)",
				      l->history, l->latest),
		/*
		 * The sizes and the keys, of a small sample. The server's own (autovacuum) does the
		 * rest within a minute: an ANALYZE of named columns leaves its counters alone. To do
		 * all of it here took as long as the rows of a small table.
		 */
		.analyze = arena_printf(a,
					"BEGIN; SET LOCAL default_statistics_target = 10; "
					"ANALYZE %s (id, version); ANALYZE %s (id); COMMIT",
					l->history, l->latest),
	};
	buf_release(&select);
}

void sync_key_release(struct sync_key *k)
{
	for (size_t i = 0; i < ARRAY_LEN(k->part); i++)
		buf_release(&k->part[i]);
	k->count = 0;
}

void sync_key_copy(struct sync_key *to, const struct sync_key *from)
{
	to->count = from->count;
	for (uint16_t i = 0; i < from->count; i++) {
		buf_clear(&to->part[i]);
		buf_add_slice(&to->part[i], buf_slice(&from->part[i]));
	}
}

void sync_key_print(const struct sync_key *k, struct buf *out)
{
	buf_u8(out, '{');
	for (uint16_t i = 0; i < k->count; i++) {
		buf_str(out, i > 0 ? ",\"" : "\"");
		for (size_t n = 0; n < k->part[i].len; n++) {
			uint8_t c = k->part[i].p[n];
			if (c == '"' || c == '\\')
				buf_u8(out, '\\');
			buf_u8(out, c);
		}
		buf_u8(out, '"');
	}
	buf_u8(out, '}');
}
