/*
 * verify: what both servers send to verify's readers, by COPY (FORMAT
 * binary). A byte says the type of id, the chunk's size, and whether one
 * entity is read; then a piece with all that the core sends; what is left is
 * the warehouse's. Each is pieces again, a message each; an empty one ends a
 * COPY. Rows rise, a folded one is valid, and any two can be compared.
 */
#include <libpq-fe.h>

#include "apply/stream/verify_compare.h"
#include "apply/stream/verify_rows.h"
#include "tests/fuzz/fuzz.h"

/* ---- these stand in for libpq's: a connection is the messages that are still to come ---- */

struct server {
	struct rd in;
	uint32_t id_oid;
	bool ended; /* the COPY's result was not taken yet */
};

static struct server *server_of(PGconn *c)
{
	return (struct server *)(void *)c;
}

PGresult *PQexec(PGconn *c, const char *sql)
{
	static char name[5][12] = {"id", "sequence", "event_type", "event", "recorded_at"};
	static const Oid type[] = {0, OID_INT4, OID_TEXT, OID_JSONB, OID_TIMESTAMPTZ};
	PGresAttDesc column[5] = {0};
	if (strncmp(sql, "COPY ", 5) == 0)
		return PQmakeEmptyPGresult(NULL, PGRES_COPY_OUT);
	PGresult *res = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
	for (int i = 0; i < 5; i++)
		column[i] = (PGresAttDesc){.name = name[i],
					   .typid = i == 0 ? server_of(c)->id_oid : type[i]};
	RT_ASSERT(PQsetResultAttrs(res, 5, column) == 1);
	return res;
}

int PQgetCopyData(PGconn *c, char **ret, int async)
{
	struct server *s = server_of(c);
	if (s->in.left > 0) {
		struct slice message = fuzz_piece(&s->in);
		if (message.len > 0) {
			*ret = (char *)(uintptr_t)message.p;
			return (int)message.len;
		}
		fuzz_free(message);
	}
	s->ended = true;
	return -1;
}

PGresult *PQgetResult(PGconn *c)
{
	bool ended = server_of(c)->ended;
	server_of(c)->ended = false;
	return ended ? PQmakeEmptyPGresult(NULL, PGRES_COMMAND_OK) : NULL;
}

char *PQerrorMessage(const PGconn *c)
{
	static char none[] = "";
	return none;
}

/* ---- the readers ---- */

/* A row that outlives its reader's next one. */
struct kept {
	struct fold_row row;
	struct buf id, event_type, columns;
	bool is_there;
};

static void keep_slice(struct buf *b, struct slice *s)
{
	buf_clear(b);
	buf_add_slice(b, *s);
	*s = buf_slice(b);
}

/* Rows of a reader rise (but for text ids, whose order is the server's), those of one entity in version. */
static void keep(struct kept *k, const struct rollup *r, const struct fold_row *row,
		 bool one_entity)
{
	if (k->is_there && (one_entity || slice_eq(k->row.id, row->id)))
		RT_ASSERT(row->version > k->row.version);
	else if (k->is_there && verify_id_has_order(r->id_type))
		RT_ASSERT(verify_order(r, &k->row, row) < 0);
	k->row = *row;
	keep_slice(&k->id, &k->row.id);
	keep_slice(&k->event_type, &k->row.event_type);
	keep_slice(&k->columns, &k->row.columns);
	k->is_there = true;
}

static void release(struct kept *k)
{
	buf_release(&k->id);
	buf_release(&k->event_type);
	buf_release(&k->columns);
}

static void tell(void *ctx, const char *column)
{
	RT_ASSERT(column[0] != '\0');
	++*(int *)ctx;
}

static void compare(const struct rollup *r, const struct fold_row *folded,
		    const struct fold_row *landed)
{
	int told = 0;
	int n = verify_columns(r, folded, landed, tell, &told);
	RT_ASSERT(n == told);
	RT_ASSERT(verify_equal(folded, landed) == (n == 0));
	(void)verify_order(r, folded, landed);
}

struct asked {
	int64_t chunk;
	bool one_entity;
	struct slice id; /* of the one entity */
};

static void read_core(struct server *s, const struct rollup *r, const struct asked *q,
		      struct kept *ret)
{
	struct refold f;
	const struct fold_row *row;
	struct rt_err err;
	int rc = refold_open(&f, (PGconn *)(void *)s, r, q->chunk, &err);
	RT_ASSERT(rc == 0);
	if (q->one_entity)
		rc = refold_entity(&f, q->id, &err);
	else
		refold_all(&f);
	RT_ASSERT(rc == 0);
	while ((rc = refold_next(&f, &row, &err)) > 0) {
		if (rc == VERIFY_STUCK) {
			RT_ASSERT(f.reason[0] != '\0');
			continue;
		}
		RT_ASSERT(fold_columns_valid(r, row->columns));
		keep(ret, r, row, q->one_entity);
	}
	refold_close(&f);
}

static void read_warehouse(struct server *s, const struct landed *l, const struct asked *q,
			   const struct kept *folded)
{
	struct landed_reader reader;
	const struct fold_row *row;
	struct rt_err err;
	struct kept last = {0};
	int rc = 0;
	landed_reader_open(&reader, (PGconn *)(void *)s, l, false, q->chunk);
	if (q->one_entity)
		rc = landed_reader_entity(&reader, q->id, &err);
	else
		landed_reader_all(&reader);
	RT_ASSERT(rc == 0);
	while ((rc = landed_reader_next(&reader, &row, &err)) > 0) {
		RT_ASSERT(rc == VERIFY_ROW);
		keep(&last, l->rollup, row, q->one_entity);
		if (folded->is_there)
			compare(l->rollup, &folded->row, row);
	}
	landed_reader_close(&reader);
	release(&last);
}

static const struct {
	const char *name;
	uint32_t oid;
	struct slice some; /* an id of it */
} ids[] = {{"uuid", 2950, {(const uint8_t *)"0123456789abcdef", 16}},
	   {"text", 25, {(const uint8_t *)"ab", 2}},
	   {"int8", 20, {(const uint8_t *)"\0\0\0\0\0\0\0\7", 8}}};

static struct rollup *parse(struct arena *a, const char *id_type)
{
	char yaml[1024];
	struct rollup *r;
	struct rt_err err;
	int n = snprintf(yaml, sizeof(yaml),
			 "language: 1\nrollup: t\nsource: public.t\nid_type: %s\nevents:\n"
			 "  made: [n?, s?, at?]\n  grew: [n, tag?]\ncolumns:\n"
			 "  n: {type: int4, set: [made, grew]}\n  s: text\n  at: timestamptz\n"
			 "  tags: {type: \"text[]\", list: {add: {tag: [grew]}}}\n"
			 "  many: {count: [grew]}\n",
			 id_type);
	RT_ASSERT(rollup_parse(a, "t.yaml", yaml, (size_t)n, &r, &err) == 0);
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rd in = rd_of(slice_of(data, size));
	struct arena a;
	uint8_t how = rd_u8(&in);
	struct slice core = fuzz_piece(&in), warehouse = slice_of(in.p, in.left);
	size_t type = (how & 3) % ARRAY_LEN(ids);
	arena_init(&a, 16384);
	struct rollup *r = parse(&a, ids[type].name);
	const struct landed l = {.rollup = r, .history = "raw.t", .latest = "raw.t_latest"};
	const struct asked q = {
		.chunk = 1 + ((how >> 2) & 3), .one_entity = (how & 16) != 0, .id = ids[type].some};
	struct server s[] = {{.in = rd_of(core), .id_oid = ids[type].oid},
			     {.in = rd_of(warehouse), .id_oid = ids[type].oid}};
	struct kept folded = {0};
	read_core(&s[0], r, &q, &folded);
	read_warehouse(&s[1], &l, &q, &folded);
	release(&folded);
	fuzz_free(core);
	rollup_release(r);
	arena_release(&a);
	return 0;
}
