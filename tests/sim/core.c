/*
 * core: the bank's database. Guarantees: events of an entity have sequences
 * 1, 2, 3 … in commit order, as the application's own optimistic lock makes
 * them; transactions overlap and commit in any order; what each (id, version)
 * must look like is worked out here, by another program than the fold.
 *
 * The WAL is a counter: each record takes some bytes of it. The walsender is
 * at the end of the file: pgoutput, encoded from the manual.
 */
#include "tests/sim/sim.h"

#include <inttypes.h>

#define OPEN_MAX 3 /* transactions at a time */

const char *const rollup_text[ROLLUPS] = {
	"language: 1\n"
	"rollup: accounts\n"
	"source: public.account_events\n"
	"events:\n"
	"  opened: [owner]\n"
	"  moved: [amount]\n"
	"  noted: [note]\n"
	"columns:\n"
	"  owner: {type: text, set: [opened]}\n"
	"  balance: {type: int8, sum: {add: {amount: [moved]}}}\n"
	"  moves: {type: int8, count: [moved]}\n"
	"  note: {type: text, set: [noted]}\n",
	"language: 1\n"
	"rollup: orders\n"
	"source: public.order_events\n"
	"id_type: int8\n"
	"events:\n"
	"  placed: [owner]\n"
	"  changed: [amount]\n"
	"  noted: [note]\n"
	"columns:\n"
	"  owner: {type: text, set: [placed]}\n"
	"  total: {type: int8, sum: {add: {amount: [changed]}}}\n"
	"  changes: {type: int8, count: [changed]}\n"
	"  note: {type: text, set: [noted]}\n",
};

static const char *const relation_name[RELATIONS] = {"account_events", "order_events", "audit"};
static const char *const event_name[ROLLUPS][3] = {{"opened", "moved", "noted"},
						   {"placed", "changed", "noted"}};

enum message_kind { SAY_ROW, SAY_TRUNCATE, SAY_MESSAGE, SAY_ORIGIN };

struct sim_message {
	enum message_kind kind;
	struct lsn lsn;
	uint8_t relation;
	uint8_t shape; /* of the relation, when it was written */
	uint32_t entity;
	uint32_t sequence;
	const char *type;
	char *payload; /* or prefix */
	char *content;
	int64_t recorded_us; /* since 2000 */
};

struct open_transaction {
	uint32_t xid; /* 0: none */
	struct sim_transaction t;
};

/* The model's state of an entity, as of its newest version. */
struct model {
	int64_t created_us, balance, moves;
	char *owner, *note;
};

struct sim_entity entities[ROLLUPS][ENTITIES];
struct sim_transaction *transactions;
size_t transaction_count;

static size_t transaction_cap;
static struct open_transaction opened[OPEN_MAX];
static struct model model[ROLLUPS][ENTITIES];
static uint8_t shape[RELATIONS]; /* now */
static struct lsn current, confirmed, persisted;
static uint32_t next_xid;
static int64_t core_us; /* its clock, since 2000 */

/* Set back: the transactions from `other` to `other_end` are others now, or none. */
static size_t other, other_end;
static bool others_are_gone;

/* A free-standing message (not transactional), between transactions: at most the newest. */
static struct lsn loose;

void core_begin(void)
{
	memset(entities, 0, sizeof(entities));
	memset(opened, 0, sizeof(opened));
	memset(model, 0, sizeof(model));
	memset(shape, 0, sizeof(shape));
	transactions = NULL;
	transaction_count = transaction_cap = 0;
	current = confirmed = persisted =
		(struct lsn){UINT64_C(0x1000000) + rng_below(RNG_CORE, 4096)};
	next_xid = 700;
	other = other_end = 0;
	core_us = INT64_C(800000000000000);
	loose = LSN_NONE;
	for (int r = 0; r < ROLLUPS; r++)
		for (int i = 0; i < ENTITIES; i++) {
			struct sim_entity *e = &entities[r][i];
			e->id_len = r == 0 ? 16 : 8;
			for (uint32_t b = 0; b < e->id_len; b++)
				e->id[b] = r == 0 ? (uint8_t)rng_next(RNG_CORE) : 0;
			if (r == 1)
				be64_put(e->id, (uint64_t)(i * 7 - 3));
		}
}

struct lsn core_current(void)
{
	return current;
}

struct lsn core_confirmed(void)
{
	return confirmed;
}

void core_confirm(struct lsn flush)
{
	SIM_ASSERT(lsn_le(flush, current), "the slot is told " LSN_FMT ", the WAL ends at " LSN_FMT,
		   LSN_ARGS(flush), LSN_ARGS(current));
	confirmed = lsn_max(confirmed, flush);
}

void core_persist(void)
{
	persisted = confirmed;
}

void core_crash(void)
{
	confirmed = persisted;
}

static bool is_other(size_t i)
{
	return other <= i && i < other_end;
}

bool core_set_back(struct lsn received)
{
	size_t first = core_count_to(persisted), end = core_count_to(received);
	while (first < end && transactions[end - 1].events == 0)
		end--; /* one that has nothing for us is not missed */
	if (first == end)
		return false;
	core_crash();
	other = first + rng_below(RNG_CORE, (uint32_t)(end - first));
	other_end = transaction_count;
	others_are_gone = rng_one_in(RNG_CORE, 2);
	sim_say("core: set back to before " LSN_FMT, LSN_ARGS(transactions[other].end));
	return true;
}

size_t core_count_to(struct lsn l)
{
	size_t lo = 0, hi = transaction_count;
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		if (lsn_le(transactions[mid].end, l))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* A WAL record; where it begins. */
static struct lsn record(uint32_t bytes)
{
	struct lsn at = current;
	current.v += (bytes + 7u) & ~7u;
	return at;
}

static char *text(const char *fmt, ...) RT_PRINTF(1, 2);
static char *text(const char *fmt, ...)
{
	char out[4096];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(out, sizeof(out), fmt, ap);
	va_end(ap);
	return memcpy(world_alloc((size_t)n + 1), out, (size_t)n + 1);
}

static struct sim_message *say(struct open_transaction *o, enum message_kind kind, uint32_t bytes)
{
	struct sim_transaction *t = &o->t;
	t->message =
		world_grow(t->message, t->message_count + 1, &t->message_cap, sizeof(*t->message));
	struct sim_message *m = &t->message[t->message_count++];
	*m = (struct sim_message){.kind = kind, .lsn = record(bytes)};
	return m;
}

/* Anything from a word to more than a frame. */
static char *words(const char *what)
{
	char out[2048];
	uint32_t n = rng_one_in(RNG_CORE, 12) ? rng_range(RNG_CORE, 200, 1500)
					      : rng_range(RNG_CORE, 0, 12);
	for (uint32_t i = 0; i < n; i++)
		out[i] = (char)('a' + rng_below(RNG_CORE, 26));
	out[n] = '\0';
	return text("%s%s", what, out);
}

static void write_event(struct open_transaction *o)
{
	uint8_t r = (uint8_t)rng_below(RNG_CORE, ROLLUPS);
	uint32_t i = rng_below(RNG_CORE, ENTITIES);
	struct sim_entity *e = &entities[r][i];
	if (e->writer != 0 && e->writer != o->xid)
		return; /* another one writes it: the application waits, or gives up */
	e->writer = o->xid;
	struct sim_message *m = say(o, SAY_ROW, rng_range(RNG_CORE, 8, 200));
	m->relation = r;
	m->shape = shape[r];
	m->entity = i;
	m->sequence = ++e->next;
	int kind = m->sequence == 1 ? 0 : (int)rng_range(RNG_CORE, 1, 2);
	m->type = event_name[r][kind];
	m->content = kind == 1 ? text("%d", (int)rng_range(RNG_CORE, 0, 2000) - 1000) : words("");
	m->payload = kind == 0 ? text("{\"type\": \"%s\", \"owner\": \"%s\"}", m->type, m->content)
		     : kind == 1
			     ? text("{\"type\": \"%s\", \"amount\": %s}", m->type, m->content)
			     : text("{\"note\": \"%s\", \"type\": \"%s\"}", m->content, m->type);
	m->recorded_us = core_us += rng_range(RNG_CORE, 0, 5000);
	o->t.events++;
}

/* ---- what must come of it ---- */

static void add_text(struct buf *b, const char *s)
{
	buf_u32(b, s == NULL ? UINT32_MAX : (uint32_t)strlen(s));
	if (s != NULL)
		buf_str(b, s);
}

static void add_u64(struct buf *b, uint64_t v)
{
	buf_u32(b, 8);
	buf_u64(b, v);
}

static void model_event(const struct sim_message *m, uint32_t t, const struct sim_transaction *of)
{
	struct sim_entity *e = &entities[m->relation][m->entity];
	struct model *s = &model[m->relation][m->entity];
	if (m->sequence == 1)
		*s = (struct model){.created_us = m->recorded_us, .owner = m->content};
	else if (m->type == event_name[m->relation][1]) {
		s->balance += strtol(m->content, NULL, 10);
		s->moves++;
	} else
		s->note = m->content;
	SIM_ASSERT(m->sequence == e->committed + 1, "the simulation's core makes a gap");
	e->row = world_grow(e->row, m->sequence, &e->row_cap, sizeof(*e->row));
	struct sim_row *row = &e->row[e->committed++];
	*row = (struct sim_row){.transaction = t, .field_count = 11};
	struct buf *b = &row->fields;
	buf_u32(b, e->id_len);
	buf_add(b, e->id, e->id_len);
	buf_u32(b, 4);
	buf_u32(b, m->sequence);
	add_u64(b, (uint64_t)s->created_us);
	add_u64(b, (uint64_t)m->recorded_us);
	add_text(b, m->type);
	add_text(b, s->owner);
	add_u64(b, (uint64_t)s->balance);
	add_u64(b, (uint64_t)s->moves);
	add_text(b, s->note);
	add_u64(b, of->end.v);
	add_u64(b, (uint64_t)of->commit_us);
}

static void release_entities(uint32_t xid)
{
	for (int r = 0; r < ROLLUPS; r++)
		for (int i = 0; i < ENTITIES; i++)
			if (entities[r][i].writer == xid) {
				entities[r][i].writer = 0;
				entities[r][i].next = entities[r][i].committed;
			}
}

/* Times are since 2000 here; the commit record may follow another one at once. */
static void commit(struct open_transaction *o)
{
	struct sim_transaction *t = &o->t;
	if (t->message_count == 0 && rng_one_in(RNG_CORE, 2))
		t->silent = true;
	t->commit_us = core_us += rng_range(RNG_CORE, 0, 5000);
	t->commit = record(rng_range(RNG_CORE, 8, 80));
	t->end = current;
	if (transaction_count > 0) {
		const struct sim_transaction *p = &transactions[transaction_count - 1];
		t->events_before = p->events_before + p->events;
		t->fences_before = p->fences_before + p->fences;
	}
	for (size_t i = 0; i < t->message_count; i++)
		if (t->message[i].kind == SAY_ROW && t->message[i].relation < ROLLUPS)
			model_event(&t->message[i], (uint32_t)transaction_count, t);
	release_entities(o->xid);
	transactions = world_grow(transactions, transaction_count + 1, &transaction_cap,
				  sizeof(*transactions));
	transactions[transaction_count++] = *t;
	sim_say("core: commit %u, %u events, ends " LSN_FMT, o->xid, t->events, LSN_ARGS(t->end));
	*o = (struct open_transaction){0};
}

static void write_other(struct open_transaction *o)
{
	struct sim_message *m;
	switch (rng_below(RNG_CORE, 5)) {
	case 0:
		m = say(o, SAY_ROW, 40); /* of a table that no rollup reads */
		m->relation = 2;
		m->shape = shape[2];
		m->payload = words("audit ");
		return;
	case 1:
		m = say(o, SAY_TRUNCATE, 24);
		m->relation = 2;
		m->shape = shape[2];
		return;
	case 2:
		m = say(o, SAY_MESSAGE, 40);
		m->payload = text("rolag.fence");
		m->content = text("%08x-%04x", o->xid, o->t.fences++);
		return;
	case 3:
		m = say(o, SAY_MESSAGE, 40);
		m->payload = text("%s", rng_one_in(RNG_CORE, 2) ? "rolag.heartbeat" : "somebody");
		m->content = text("1 %" PRId64, core_us);
		return;
	default:
		say(o, SAY_ORIGIN, 8);
	}
}

void core_act(void)
{
	struct open_transaction *o = &opened[rng_below(RNG_CORE, OPEN_MAX)];
	if (o->xid == 0 && !rng_one_in(RNG_CORE, 6)) {
		o->xid = next_xid++;
		for (uint32_t n = rng_below(RNG_CORE, 4); n > 0; n--)
			write_event(o);
		if (rng_one_in(RNG_CORE, 25))
			for (uint32_t n = rng_range(RNG_CORE, 10, 60); n > 0; n--)
				write_event(o);
	} else if (o->xid == 0) {
		record(rng_range(RNG_CORE, 8, 2000)); /* what nobody publishes */
		if (rng_one_in(RNG_CORE, 3))
			loose = record(32);
		if (rng_one_in(RNG_CORE, 3))
			shape[rng_below(RNG_CORE, RELATIONS)] ^= 1;
	} else if (rng_one_in(RNG_CORE, 3)) {
		write_event(o);
	} else if (rng_one_in(RNG_CORE, 5)) {
		write_other(o);
	} else if (rng_one_in(RNG_CORE, 8)) {
		release_entities(o->xid); /* ROLLBACK */
		*o = (struct open_transaction){0};
	} else {
		commit(o);
	}
}

void core_settle(void)
{
	for (int i = 0; i < OPEN_MAX; i++)
		if (opened[i].xid != 0)
			commit(&opened[i]);
}

/* ---- the walsender ---- */

static struct {
	size_t next; /* transaction */
	size_t at;   /* its messages sent; 0: BEGIN comes */
	bool in;     /* BEGIN was sent */
	bool binary;
	int told[RELATIONS]; /* shape last sent, −1 none */
	struct lsn sent;     /* records read */
	struct lsn loose;
	uint32_t idle; /* times that there was nothing */
} sender;

void walsender_start(struct lsn from, bool binary)
{
	memset(&sender, 0, sizeof(sender));
	from = lsn_max(from, confirmed);
	while (sender.next < transaction_count && lsn_lt(transactions[sender.next].commit, from))
		sender.next++;
	sender.sent = from;
	sender.loose = loose;
	sender.binary = binary;
	for (int i = 0; i < RELATIONS; i++)
		sender.told[i] = -1;
}

static void cstr(struct buf *b, const char *s)
{
	buf_add(b, s, strlen(s) + 1);
}

/* Two shapes of each table: columns in another order, and one more. */
static const struct {
	const char *name;
	uint32_t oid;
} column[2][6] = {
	{{"id", 2950},
	 {"sequence", 23},
	 {"event_type", 25},
	 {"event", 3802},
	 {"recorded_at", 1184}},
	{{"recorded_at", 1184},
	 {"extra", 25},
	 {"event", 3802},
	 {"id", 2950},
	 {"event_type", 25},
	 {"sequence", 23}},
};

static void put_relation(struct buf *b, uint8_t relation, uint8_t s)
{
	uint16_t n = s == 0 ? 5 : 6;
	buf_u8(b, 'R');
	buf_u32(b, 16400u + relation);
	cstr(b, "public");
	cstr(b, relation_name[relation]);
	buf_u8(b, 'd');
	buf_u16(b, n);
	for (uint16_t i = 0; i < n; i++) {
		uint32_t oid = column[s][i].oid;
		buf_u8(b, i == 0);
		cstr(b, column[s][i].name);
		buf_u32(b, oid == 2950 && relation == 1 ? 20 : oid);
		buf_u32(b, UINT32_MAX);
	}
}

static void put_value(struct buf *b, bool binary, const void *p, size_t len)
{
	buf_u8(b, binary ? 'b' : 't');
	buf_u32(b, (uint32_t)len);
	buf_add(b, p, len);
}

static void put_id(struct buf *b, const struct sim_message *m, bool binary)
{
	const struct sim_entity *e = &entities[m->relation][m->entity];
	char out[40];
	size_t n = 0;
	if (binary) {
		put_value(b, true, e->id, e->id_len);
		return;
	}
	if (m->relation == 1)
		n = (size_t)snprintf(out, sizeof(out), "%" PRId64, (int64_t)be64_get(e->id));
	else
		for (int i = 0; i < 16; i++)
			n += (size_t)snprintf(out + n, sizeof(out) - n, "%s%02x",
					      i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
					      e->id[i]);
	put_value(b, false, out, n);
}

static void put_time(struct buf *b, int64_t us, bool binary)
{
	uint8_t be[8];
	char out[48];
	time_t sec = (time_t)((us + RT_PG_EPOCH_US) / 1000000);
	struct tm tm;
	be64_put(be, (uint64_t)us);
	gmtime_r(&sec, &tm);
	size_t n = strftime(out, sizeof(out), "%Y-%m-%d %H:%M:%S", &tm);
	n += (size_t)snprintf(out + n, sizeof(out) - n, ".%06d+00", (int)(us % 1000000));
	put_value(b, binary, binary ? (void *)be : (void *)out, binary ? 8 : n);
}

static void put_sequence(struct buf *b, uint32_t v, bool binary)
{
	uint8_t be[4];
	char out[16];
	be32_put(be, v);
	int n = snprintf(out, sizeof(out), "%u", v);
	put_value(b, binary, binary ? (void *)be : (void *)out, binary ? 4 : (size_t)n);
}

static void put_insert(struct buf *b, const struct sim_message *m, bool binary)
{
	struct buf json = BUF_INIT;
	uint16_t n = m->shape == 0 ? 5 : 6;
	buf_u8(b, 'I');
	buf_u32(b, 16400u + m->relation);
	buf_u8(b, 'N');
	buf_u16(b, n);
	for (uint16_t i = 0; i < n; i++) {
		const char *name = column[m->shape][i].name;
		if (m->relation == 2 || strcmp(name, "extra") == 0)
			buf_u8(b, 'n');
		else if (strcmp(name, "id") == 0)
			put_id(b, m, binary);
		else if (strcmp(name, "sequence") == 0)
			put_sequence(b, m->sequence, binary);
		else if (strcmp(name, "event_type") == 0)
			put_value(b, binary, m->type, strlen(m->type));
		else if (strcmp(name, "recorded_at") == 0)
			put_time(b, m->recorded_us, binary);
		else {
			if (binary)
				buf_u8(&json, 1);
			buf_str(&json, m->payload);
			put_value(b, binary, json.p, json.len);
		}
	}
	buf_release(&json);
}

static void put_message(struct buf *b, bool transactional, struct lsn lsn, const char *prefix,
			const char *content)
{
	buf_u8(b, 'M');
	buf_u8(b, transactional);
	buf_u64(b, lsn.v);
	cstr(b, prefix);
	buf_u32(b, (uint32_t)strlen(content));
	buf_str(b, content);
}

/* The next message of a transaction; RELATION first where it must be. */
static void put_next(const struct sim_message *m, struct wire_message *ret)
{
	ret->lsn = m->lsn;
	bool shaped = m->kind == SAY_ROW || m->kind == SAY_TRUNCATE;
	if (shaped && sender.told[m->relation] != m->shape) {
		sender.told[m->relation] = m->shape;
		ret->lsn = LSN_NONE;
		put_relation(&ret->bytes, m->relation, m->shape);
		return;
	}
	sender.at++;
	switch (m->kind) {
	case SAY_ROW:
		put_insert(&ret->bytes, m, sender.binary);
		break;
	case SAY_TRUNCATE:
		buf_u8(&ret->bytes, 'T');
		buf_u32(&ret->bytes, 1);
		buf_u8(&ret->bytes, 0);
		buf_u32(&ret->bytes, 16400u + m->relation);
		break;
	case SAY_MESSAGE:
		put_message(&ret->bytes, true, m->lsn, m->payload, m->content);
		break;
	case SAY_ORIGIN:
		buf_u8(&ret->bytes, 'Y');
		buf_u32(&ret->bytes, 17000);
		cstr(&ret->bytes, "public");
		cstr(&ret->bytes, "mood");
		break;
	}
}

static void put_commit(const struct sim_transaction *t, struct wire_message *ret)
{
	ret->lsn = t->end;
	buf_u8(&ret->bytes, 'C');
	buf_u8(&ret->bytes, 0);
	buf_u64(&ret->bytes, t->commit.v);
	buf_u64(&ret->bytes, t->end.v);
	buf_u64(&ret->bytes, (uint64_t)t->commit_us + is_other(sender.next));
	sender.in = false;
	sender.at = 0;
	sender.next++;
	sender.sent = t->end;
}

/* Everything that a keepalive may say: no further than the next commit record, and inside a transaction its own. */
static bool keepalive(struct wire_message *ret, bool ask)
{
	struct lsn to = current;
	if (sender.next < transaction_count)
		to = transactions[sender.next].commit;
	if (!sender.in && lsn_lt(sender.sent, to))
		sender.sent.v =
			ask ? to.v
			    : sender.sent.v + (rng_next(RNG_CORE) % (to.v - sender.sent.v + 1));
	ret->keepalive = true;
	ret->reply = ask || rng_one_in(RNG_CORE, 4);
	ret->lsn = sender.sent;
	if (sender.in) /* harsher than any server: its end */
		ret->lsn = rng_one_in(RNG_CORE, 3) ? transactions[sender.next].end : to;
	return true;
}

bool walsender_next(struct wire_message *ret, bool ask)
{
	*ret = (struct wire_message){0};
	while (!sender.in && sender.next < transaction_count &&
	       (transactions[sender.next].silent || (others_are_gone && is_other(sender.next))))
		sender.sent = transactions[sender.next++].end;
	bool more = sender.next < transaction_count;
	if (rng_one_in(RNG_CORE, 10) || (!more && (ask || rng_one_in(RNG_CORE, 4))))
		return keepalive(ret, ask);
	const struct sim_transaction *t = more ? &transactions[sender.next] : NULL;
	if (!sender.in && !lsn_eq(loose, sender.loose) && (!more || lsn_lt(loose, t->commit))) {
		sender.loose = ret->lsn = loose;
		sender.sent = lsn_max(sender.sent, loose);
		put_message(&ret->bytes, false, loose, "loose", "x");
		return true;
	}
	if (!more)
		return false;
	if (!sender.in) {
		sender.in = true;
		ret->lsn = t->commit;
		buf_u8(&ret->bytes, 'B');
		buf_u64(&ret->bytes, t->commit.v);
		buf_u64(&ret->bytes, (uint64_t)t->commit_us + is_other(sender.next));
		buf_u32(&ret->bytes, 700u + (uint32_t)sender.next);
	} else if (sender.at < t->message_count) {
		put_next(&t->message[sender.at], ret);
	} else {
		put_commit(t, ret);
	}
	return true;
}
