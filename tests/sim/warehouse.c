#include "tests/sim/warehouse.h"

#include <inttypes.h>

#define ROWS_MAX 4096 /* of one entity */

struct commit {
	struct lsn wal; /* its end in the warehouse's own WAL */
	struct op *op;
	size_t op_count;
};

static struct {
	int64_t epoch;
	char owner[64];
	enum process process; /* that took the fence last */
	struct lsn *ledger;   /* growing */
	size_t ledger_count, ledger_cap;
	struct {
		char run_id[40];
		struct lsn lsn;
	} * seen;
	size_t seen_count, seen_cap;
	bool *history[ROLLUPS][ENTITIES];
	uint32_t latest[ROLLUPS][ENTITIES], versions[ROLLUPS][ENTITIES];
	uint32_t rows;
	struct lsn inserted, flushed; /* its WAL */
	struct commit *commit;	      /* not flushed yet */
	size_t commit_count, commit_cap;
} w;

bool warehouse_is_down;

void warehouse_begin(void)
{
	memset(&w, 0, sizeof(w));
	servers_begin();
	warehouse_is_down = false;
	w.inserted = w.flushed = (struct lsn){4096};
	w.ledger = world_grow(w.ledger, 1, &w.ledger_cap, sizeof(*w.ledger));
	w.ledger[w.ledger_count++] = core_current(); /* as init wrote it */
	for (int r = 0; r < ROLLUPS; r++)
		for (int i = 0; i < ENTITIES; i++)
			w.history[r][i] = world_alloc(ROWS_MAX);
}

enum process warehouse_owner(void)
{
	return w.process;
}

struct lsn warehouse_applied(void)
{
	return w.ledger[w.ledger_count - 1];
}

struct lsn warehouse_applied_flushed(void)
{
	size_t n = w.ledger_count; /* less those that a crash could take */
	for (size_t i = w.commit_count; i-- > 0 && lsn_lt(w.flushed, w.commit[i].wal);)
		for (size_t k = 0; k < w.commit[i].op_count; k++)
			n -= w.commit[i].op[k].kind == OP_LEDGER;
	return w.ledger[n - 1];
}

/* ---- statements ---- */

enum sql_kind sql_kind_of(const char *sql, uint16_t *ret_rollup)
{
	static const struct {
		const char *begins;
		enum sql_kind kind;
	} known[] = {
		{"BEGIN", SQL_BEGIN},
		{"COMMIT", SQL_COMMIT},
		{"ROLLBACK", SQL_ROLLBACK},
		{"SET ", SQL_SET},
		{"WITH ok AS (INSERT INTO rolag.ledger", SQL_LEDGER},
		{"WITH ok AS (SELECT 1 FROM rolag.fence", SQL_HOLD},
		{"WITH gone AS (DELETE FROM rolag.ledger", SQL_TRIM},
		{"SELECT pg_current_wal_insert_lsn", SQL_POSITION},
		{"INSERT INTO rolag.fence_seen", SQL_SEEN},
		{"INSERT INTO rolag.quarantine", SQL_PARK},
		{"UPDATE rolag.relation", SQL_PARK},
		{"WITH s AS (", SQL_ROWS},
		{"INSERT INTO \"raw\"", SQL_BEGIN_LATEST},
		{"UPDATE \"raw\"", SQL_RENEW_LATEST},
		{"SELECT id, version", SQL_FETCH},
		{"COPY ", SQL_COPY},
		{"SELECT epoch, core_system_id", SQL_LOCK_FENCE},
		{"UPDATE rolag.fence", SQL_RAISE},
		{"SELECT applied_lsn, timeline", SQL_APPLIED},
		{"SELECT pid, pg_terminate_backend", SQL_TERMINATE},
	};
	*ret_rollup = strstr(sql, "\"raw\".\"orders") != NULL;
	for (size_t i = 0; i < ARRAY_LEN(known); i++) {
		if (strncmp(sql, known[i].begins, strlen(known[i].begins)) != 0)
			continue;
		if (known[i].kind == SQL_COPY && strstr(sql, "_latest\" (") != NULL)
			return SQL_COPY_LATEST;
		return known[i].kind;
	}
	sim_fail("the simulated warehouse does not know: %.200s", sql);
}

struct pg_result *result_new(ExecStatusType status, const char *command)
{
	struct pg_result *r = world_alloc(sizeof(*r));
	r->status = status;
	snprintf(r->command, sizeof(r->command), "%s", command);
	return r;
}

struct pg_result *result_error(const char *sqlstate)
{
	struct pg_result *r = result_new(PGRES_FATAL_ERROR, "");
	snprintf(r->sqlstate, sizeof(r->sqlstate), "%s", sqlstate);
	return r;
}

/* rows × columns of copies of cells. */
static struct pg_result *result_rows(int rows, int columns, const struct param *cell)
{
	size_t n = (size_t)rows * (size_t)columns, bytes = 0;
	for (size_t i = 0; i < n; i++)
		bytes += cell[i].len + 1;
	struct pg_result *r = world_alloc(sizeof(*r) + n * sizeof(*cell) + bytes);
	uint8_t *at = (uint8_t *)(r->cell + n);
	r->status = PGRES_TUPLES_OK;
	r->rows = rows;
	r->columns = columns;
	for (size_t i = 0; i < n; i++) {
		r->cell[i] = (struct param){cell[i].p == NULL ? NULL : at, cell[i].len};
		if (cell[i].len > 0)
			memcpy(at, cell[i].p, cell[i].len);
		at += cell[i].len + 1;
	}
	return r;
}

static struct param text_of(const char *s)
{
	return (struct param){(const uint8_t *)s, strlen(s)};
}

static struct pg_result *row_of_texts(int columns, const char *const *s)
{
	struct param cell[4];
	for (int i = 0; i < columns; i++)
		cell[i] = text_of(s[i]);
	return result_rows(1, columns, cell);
}

static struct pg_result *row_of_lsns(struct lsn a, struct lsn b)
{
	char x[24], y[24];
	snprintf(x, sizeof(x), LSN_FMT, LSN_ARGS(a));
	snprintf(y, sizeof(y), LSN_FMT, LSN_ARGS(b));
	const char *s[] = {x, y};
	return row_of_texts(2, s);
}

static struct op *op_add(struct backend *b, enum op_kind kind)
{
	b->op = world_grow(b->op, b->op_count + 1, &b->op_cap, sizeof(*b->op));
	struct op *op = &b->op[b->op_count++];
	*op = (struct op){.kind = kind};
	return op;
}

static struct lsn lsn_of(struct param p)
{
	struct lsn l = LSN_NONE;
	if (p.p == NULL || !lsn_parse((const char *)p.p, &l))
		sim_fail("a parameter is not an LSN");
	return l;
}

static int64_t number_of(struct param p)
{
	return strtoll((const char *)p.p, NULL, 10);
}

/* Somebody else's lock on the fence: any, or only an exclusive one. */
static bool fence_is_held(const struct backend *b, bool exclusively)
{
	for (size_t i = 0;; i++) {
		const struct backend *o = backend_each(i);
		if (o == NULL)
			return false;
		if (o != b && o->state != BACKEND_NONE &&
		    (o->has_fence || (!exclusively && o->shares_fence)))
			return true;
	}
}

struct ledger_checks ledger_checks_of(const char *sql)
{
	return (struct ledger_checks){
		.epoch = strstr(sql, "f.epoch = $") != NULL,
		.order = strstr(sql, "< $2::pg_lsn") != NULL,
		.share = strstr(sql, "FOR SHARE OF f") != NULL,
	};
}

static struct pg_result *ledger(struct backend *b, const struct param *param, bool hold)
{
	const struct ledger_checks *checks = &b->checks[hold];
	int64_t epoch = number_of(param[hold ? 1 : 4]);
	if (checks->share && fence_is_held(b, true))
		return NULL;
	if ((checks->epoch && epoch != w.epoch) ||
	    (checks->order && !lsn_lt(warehouse_applied(), lsn_of(param[1]))))
		return result_error("22012");
	b->shares_fence = checks->share;
	if (!hold) {
		struct op *op = op_add(b, OP_LEDGER);
		op->lsn = lsn_of(param[1]);
		op->epoch = epoch;
	}
	const char *one[] = {"1"};
	return row_of_texts(1, one);
}

/* ---- rows ---- */

static bool has_version(const struct backend *b, uint16_t r, uint32_t i, uint32_t version)
{
	for (size_t n = 0; n < b->op_count; n++)
		if (b->op[n].kind == OP_HISTORY && b->op[n].rollup == r && b->op[n].entity == i &&
		    b->op[n].version == version)
			return true;
	return w.history[r][i][version];
}

static uint32_t latest_of(const struct backend *b, uint16_t r, uint32_t i)
{
	uint32_t version = w.latest[r][i];
	for (size_t n = 0; n < b->op_count; n++)
		if (b->op[n].kind == OP_LATEST && b->op[n].rollup == r && b->op[n].entity == i)
			version = b->op[n].version;
	return version;
}

static uint32_t entity_of(uint16_t r, struct slice id)
{
	for (uint32_t i = 0; i < ENTITIES; i++)
		if (slice_eq(id, slice_of(entities[r][i].id, entities[r][i].id_len)))
			return i;
	sim_fail("a row of an entity that the core does not have");
}

enum rows_into { INTO_HISTORY, INTO_LATEST, INTO_BOTH };

/* A row (fields as in COPY) comes into history, latest, or both. NULL: it is taken. */
static struct pg_result *take_row(struct backend *b, uint16_t r, struct slice fields,
				  enum rows_into into)
{
	struct rd in = rd_of(fields);
	uint32_t len = rd_u32(&in);
	const uint8_t *id = rd_bytes(&in, len);
	uint32_t four = rd_u32(&in), version = rd_u32(&in);
	SIM_ASSERT(!in.failed && four == 4 && version > 0 && version < ROWS_MAX,
		   "a row that cannot be read");
	uint32_t i = entity_of(r, slice_of(id, len));
	const struct sim_entity *e = &entities[r][i];
	char wrong[200] = "";
	if (version > e->committed)
		snprintf(wrong, sizeof(wrong), "rollup %u entity %u version %u: the core has %u", r,
			 i, version, e->committed);
	else if (!slice_eq(fields, buf_slice(&e->row[version - 1].fields)))
		snprintf(wrong, sizeof(wrong), "rollup %u entity %u version %u is not the model's",
			 r, i, version);
	/* By arrays a latest row is replaced; by COPY there must be none. */
	if (into == INTO_LATEST ? latest_of(b, r, i) != 0 : has_version(b, r, i, version))
		return result_error("23505");
	for (int k = into == INTO_LATEST ? 1 : 0; k < (into == INTO_HISTORY ? 1 : 2); k++) {
		struct op *op = op_add(b, k == 0 ? OP_HISTORY : OP_LATEST);
		op->rollup = r;
		op->entity = i;
		op->version = version;
		snprintf(op->wrong, sizeof(op->wrong), "%s", wrong);
	}
	return NULL;
}

/* Rows as one binary array per column, the last one saying which are the newest of their entity. */
static struct pg_result *rows(struct backend *b, uint16_t r, const struct param *param, int count)
{
	struct rd in[32];
	struct buf fields = BUF_INIT;
	struct pg_result *error = NULL;
	uint32_t n = 0;
	bool latest_seen[ENTITIES] = {false};
	SIM_ASSERT(count == 12, "%d parameters for a rollup's rows", count);
	for (int c = 0; c < count; c++) {
		in[c] = rd_of(slice_of(param[c].p, param[c].len));
		rd_bytes(&in[c], 12);
		n = rd_u32(&in[c]);
		rd_u32(&in[c]);
	}
	for (uint32_t i = 0; i < n && error == NULL; i++) {
		buf_clear(&fields);
		for (int c = 0; c < count - 1; c++) {
			uint32_t len = rd_u32(&in[c]);
			buf_u32(&fields, len);
			if (len != UINT32_MAX)
				buf_add(&fields, rd_bytes(&in[c], len), len);
		}
		rd_u32(&in[count - 1]);
		bool last = rd_u8(&in[count - 1]) != 0;
		error = take_row(b, r, buf_slice(&fields), last ? INTO_BOTH : INTO_HISTORY);
		if (error == NULL && last) {
			uint32_t at = b->op[b->op_count - 1].entity;
			SIM_ASSERT(!latest_seen[at], "one statement updates a row twice");
			latest_seen[at] = true;
		}
	}
	for (int c = 0; c < count; c++)
		SIM_ASSERT(error != NULL || rd_finish(&in[c]), "an array that does not end");
	buf_release(&fields);
	return error != NULL ? error : result_new(PGRES_COMMAND_OK, "INSERT");
}

/* $1 ids: the newest version in history becomes the latest of its entity. */
static struct pg_result *latest_from_history(struct backend *b, uint16_t r, struct param param,
					     bool begins)
{
	struct rd ids = rd_of(slice_of(param.p, param.len));
	struct pg_result *done = result_new(PGRES_COMMAND_OK, begins ? "INSERT" : "UPDATE");
	rd_bytes(&ids, 12);
	uint32_t n = rd_u32(&ids);
	rd_u32(&ids);
	for (uint32_t k = 0; k < n; k++) {
		uint32_t len = rd_u32(&ids);
		uint32_t i = entity_of(r, slice_of(rd_bytes(&ids, len), len));
		uint32_t version = entities[r][i].committed;
		while (version > 0 && !has_version(b, r, i, version))
			version--;
		if (version == 0 || (!begins && latest_of(b, r, i) == 0))
			continue;
		if (begins && latest_of(b, r, i) != 0)
			return result_error("23505");
		struct op *op = op_add(b, OP_LATEST);
		op->rollup = r;
		op->entity = i;
		op->version = version;
		done->rows++;
	}
	SIM_ASSERT(rd_finish(&ids), "an array that does not end");
	return done;
}

struct pg_result *warehouse_copy(struct backend *b, uint16_t r, bool latest, struct slice data)
{
	struct pg_result *done = result_new(PGRES_COMMAND_OK, "COPY");
	struct rd in = rd_of(data);
	rd_bytes(&in, 19);
	for (;;) {
		uint16_t n = rd_u16(&in);
		const uint8_t *from = in.p;
		if (n == UINT16_MAX || in.failed)
			break;
		SIM_ASSERT(n == 11, "COPY of %u columns", n);
		for (; n > 0; n--) {
			uint32_t len = rd_u32(&in);
			if (len != UINT32_MAX)
				rd_bytes(&in, len);
		}
		struct pg_result *error = take_row(b, r, slice_of(from, (size_t)(in.p - from)),
						   latest ? INTO_LATEST : INTO_HISTORY);
		if (error != NULL) {
			b->failed = true;
			return error;
		}
		done->rows++;
	}
	SIM_ASSERT(rd_finish(&in), "COPY that does not end");
	return done;
}

static struct pg_result *fetch(const struct backend *b, uint16_t r, struct param ids)
{
	struct rd in = rd_of(slice_of(ids.p, ids.len));
	struct param cell[ENTITIES * 9];
	int rows_found = 0;
	rd_bytes(&in, 12);
	uint32_t n = rd_u32(&in);
	rd_u32(&in);
	SIM_ASSERT(n <= ENTITIES, "the same entity is fetched twice");
	for (uint32_t k = 0; k < n; k++) {
		uint32_t len = rd_u32(&in);
		uint32_t i = entity_of(r, slice_of(rd_bytes(&in, len), len));
		uint32_t version = latest_of(b, r, i);
		if (version == 0)
			continue;
		struct rd f = rd_of(buf_slice(&entities[r][i].row[version - 1].fields));
		for (int c = 0; c < 9; c++) {
			uint32_t bytes = rd_u32(&f);
			cell[rows_found * 9 + c] =
				bytes == UINT32_MAX ? (struct param){NULL, 0}
						    : (struct param){rd_bytes(&f, bytes), bytes};
		}
		rows_found++;
	}
	return result_rows(rows_found, 9, cell);
}

/* ---- committing, and losing commits ---- */

static void apply_op(struct op *op)
{
	switch (op->kind) {
	case OP_HISTORY:
		SIM_ASSERT(!w.history[op->rollup][op->entity][op->version],
			   "rollup %u entity %u version %u is committed twice", op->rollup,
			   op->entity, op->version);
		w.history[op->rollup][op->entity][op->version] = true;
		w.versions[op->rollup][op->entity]++;
		w.rows++;
		return;
	case OP_LATEST:
		op->old = w.latest[op->rollup][op->entity];
		w.latest[op->rollup][op->entity] = op->version;
		return;
	case OP_LEDGER:
		w.ledger =
			world_grow(w.ledger, w.ledger_count + 1, &w.ledger_cap, sizeof(*w.ledger));
		w.ledger[w.ledger_count++] = op->lsn;
		return;
	case OP_TRIM: /* rows stay here; a lost trim would bring them back anyway */
		return;
	case OP_SEEN:
		w.seen = world_grow(w.seen, w.seen_count + 1, &w.seen_cap, sizeof(*w.seen));
		snprintf(w.seen[w.seen_count].run_id, sizeof(w.seen->run_id), "%s", op->run_id);
		w.seen[w.seen_count++].lsn = op->lsn;
		return;
	case OP_RAISE:
		op->old_epoch = w.epoch;
		memcpy(op->old_owner, w.owner, sizeof(w.owner));
		w.epoch = op->epoch;
		memcpy(w.owner, op->owner, sizeof(w.owner));
		w.process = op->process;
		return;
	}
}

static void undo_op(const struct op *op)
{
	switch (op->kind) {
	case OP_HISTORY:
		w.history[op->rollup][op->entity][op->version] = false;
		w.versions[op->rollup][op->entity]--;
		w.rows--;
		return;
	case OP_LATEST:
		w.latest[op->rollup][op->entity] = op->old;
		return;
	case OP_LEDGER:
		w.ledger_count--;
		return;
	case OP_TRIM:
		return;
	case OP_SEEN:
		w.seen_count--;
		return;
	case OP_RAISE:
		w.epoch = op->old_epoch;
		memcpy(w.owner, op->old_owner, sizeof(w.owner));
		return;
	}
}

static uint32_t events_to(struct lsn l)
{
	size_t n = core_count_to(l);
	return n == 0 ? 0 : transactions[n - 1].events_before + transactions[n - 1].events;
}

static uint32_t fences_to(struct lsn l)
{
	size_t n = core_count_to(l);
	return n == 0 ? 0 : transactions[n - 1].fences_before + transactions[n - 1].fences;
}

/* Before: may this commit at all? */
static void check_ops(const struct backend *b)
{
	bool data = false, has_ledger = false;
	for (size_t i = 0; i < b->op_count; i++) {
		const struct op *op = &b->op[i];
		SIM_ASSERT(op->wrong[0] == '\0', "a wrong row commits: %s", op->wrong);
		data |= op->kind == OP_HISTORY || op->kind == OP_LATEST || op->kind == OP_SEEN;
		has_ledger |= op->kind == OP_LEDGER;
		if (op->kind == OP_LEDGER)
			SIM_ASSERT(op->epoch == w.epoch, "an applier commits without the fence");
	}
	SIM_ASSERT(!data || has_ledger, "rows commit without their ledger row");
}

/* After: whole transactions up to the ledger's position, each once, and nothing behind it. */
static void check_state(const struct backend *b)
{
	struct lsn applied = warehouse_applied();
	SIM_ASSERT(lsn_le(applied, core_current()), "applied is ahead of the core");
	SIM_ASSERT(w.ledger_count == 1 || lsn_le(applied, ever_received),
		   "applied " LSN_FMT " is ahead of received " LSN_FMT, LSN_ARGS(applied),
		   LSN_ARGS(ever_received));
	SIM_ASSERT(w.ledger_count < 2 || lsn_lt(w.ledger[w.ledger_count - 2], applied),
		   "the ledger goes back");
	SIM_ASSERT(w.rows == events_to(applied),
		   "the ledger says " LSN_FMT ": that is %u rows, and there are %u",
		   LSN_ARGS(applied), events_to(applied), w.rows);
	SIM_ASSERT(w.seen_count == fences_to(applied),
		   "the ledger says " LSN_FMT ": that is %u fences, and there are %zu",
		   LSN_ARGS(applied), fences_to(applied), w.seen_count);
	for (size_t i = 0; i < b->op_count; i++) {
		const struct op *op = &b->op[i];
		if (op->kind != OP_HISTORY && op->kind != OP_LATEST)
			continue;
		SIM_ASSERT(w.latest[op->rollup][op->entity] == w.versions[op->rollup][op->entity],
			   "rollup %u entity %u: latest is %u of %u", op->rollup, op->entity,
			   w.latest[op->rollup][op->entity], w.versions[op->rollup][op->entity]);
	}
}

static struct pg_result *commit(struct backend *b)
{
	bool failed = b->failed;
	if (!failed && b->op_count > 0) {
		check_ops(b);
		for (size_t i = 0; i < b->op_count; i++)
			apply_op(&b->op[i]);
		check_state(b);
		w.inserted.v += 64 + 8 * b->op_count;
		w.commit =
			world_grow(w.commit, w.commit_count + 1, &w.commit_cap, sizeof(*w.commit));
		w.commit[w.commit_count++] = (struct commit){w.inserted, b->op, b->op_count};
		sim_say("warehouse: pid %d commits, applied " LSN_FMT, b->pid,
			LSN_ARGS(warehouse_applied()));
		b->op = NULL; /* its memory is the commit's, until the schedule ends */
		b->op_cap = 0;
		if (b->synchronous)
			warehouse_flush();
	}
	b->op_count = 0;
	b->in_transaction = b->failed = b->synchronous = b->shares_fence = b->has_fence = false;
	return result_new(PGRES_COMMAND_OK, failed ? "ROLLBACK" : "COMMIT");
}

void warehouse_flush(void)
{
	w.flushed = w.inserted;
	w.commit_count = 0;
}

void warehouse_crash(void)
{
	uint32_t lost = rng_below(RNG_WAREHOUSE, (uint32_t)w.commit_count + 1);
	for (size_t i = 0; backend_each(i) != NULL; i++)
		backend_terminate(backend_each(i));
	for (; lost > 0; lost--) {
		const struct commit *c = &w.commit[--w.commit_count];
		for (size_t i = c->op_count; i-- > 0;)
			undo_op(&c->op[i]);
	}
	w.inserted = w.commit_count > 0 ? w.commit[w.commit_count - 1].wal : w.flushed;
	w.commit_count = 0;
	w.flushed = w.inserted;
	sim_say("warehouse: crashes, applied " LSN_FMT, LSN_ARGS(warehouse_applied()));
}

void backend_end(struct backend *b)
{
	b->op_count = 0;
	b->in_transaction = b->failed = b->synchronous = b->shares_fence = b->has_fence = false;
	b->state = BACKEND_NONE;
}

/* ---- the takeover's statements ---- */

static struct pg_result *lock_fence(struct backend *b)
{
	char epoch[24];
	if (fence_is_held(b, false)) {
		clock_forward(2000000);
		return result_error("55P03");
	}
	b->has_fence = true;
	snprintf(epoch, sizeof(epoch), "%" PRId64, w.epoch);
	const char *s[] = {epoch, "7", w.owner};
	return row_of_texts(3, s);
}

static struct pg_result *raise_epoch(struct backend *b, const struct param *param)
{
	SIM_ASSERT(b->has_fence, "the fence is taken without its lock");
	struct op *op = op_add(b, OP_RAISE);
	op->epoch = number_of(param[1]);
	op->process = b->owner;
	snprintf(op->owner, sizeof(op->owner), "host %d", b->pid);
	const char *s[] = {op->owner};
	return row_of_texts(1, s);
}

static struct pg_result *terminate(const struct backend *b)
{
	char pid[ENTITIES][16];
	struct param cell[2 * ENTITIES];
	int n = 0;
	for (size_t i = 0; backend_each(i) != NULL && n < ENTITIES; i++) {
		struct backend *o = backend_each(i);
		if (o == b || o->state == BACKEND_NONE)
			continue;
		snprintf(pid[n], sizeof(pid[n]), "%d", o->pid);
		cell[2 * n] = text_of(pid[n]);
		cell[2 * n + 1] = text_of("t");
		n++;
		if (!rng_one_in(RNG_WAREHOUSE, 3)) /* else it takes its time */
			backend_terminate(o);
	}
	return result_rows(n, 2, cell);
}

static struct pg_result *seen(struct backend *b, const struct param *param)
{
	struct op *op = op_add(b, OP_SEEN);
	snprintf(op->run_id, sizeof(op->run_id), "%s", (const char *)param[0].p);
	op->lsn = lsn_of(param[2]);
	for (size_t i = 0; i < w.seen_count; i++)
		if (strcmp(w.seen[i].run_id, op->run_id) == 0)
			snprintf(op->wrong, sizeof(op->wrong), "the fence %s, again", op->run_id);
	size_t n = core_count_to(op->lsn);
	if (n == 0 || !lsn_eq(transactions[n - 1].end, op->lsn) || transactions[n - 1].fences == 0)
		snprintf(op->wrong, sizeof(op->wrong), "a fence where none was");
	return result_new(PGRES_COMMAND_OK, "INSERT");
}

static struct pg_result *execute(struct backend *b, enum sql_kind kind, uint16_t rollup,
				 const struct param *param, int count)
{
	struct lsn none = LSN_NONE;
	switch (kind) {
	case SQL_BEGIN:
		SIM_ASSERT(!b->in_transaction, "BEGIN within a transaction");
		b->in_transaction = true;
		return result_new(PGRES_COMMAND_OK, "BEGIN");
	case SQL_COMMIT:
		return commit(b);
	case SQL_ROLLBACK:
		b->failed = true;
		commit(b);
		return result_new(PGRES_COMMAND_OK, "ROLLBACK");
	case SQL_SET:
		return result_new(PGRES_COMMAND_OK, "SET");
	case SQL_LEDGER:
	case SQL_HOLD:
		return ledger(b, param, kind == SQL_HOLD);
	case SQL_TRIM:
		op_add(b, OP_TRIM)->lsn = lsn_of(param[1]);
		return result_new(PGRES_COMMAND_OK, "DELETE");
	case SQL_POSITION:
		return row_of_lsns(w.inserted, w.flushed);
	case SQL_SEEN:
		return seen(b, param);
	case SQL_ROWS:
		return rows(b, rollup, param, count);
	case SQL_BEGIN_LATEST:
	case SQL_RENEW_LATEST:
		return latest_from_history(b, rollup, param[0], kind == SQL_BEGIN_LATEST);
	case SQL_FETCH:
		return fetch(b, rollup, param[0]);
	case SQL_COPY:
	case SQL_COPY_LATEST:
		return result_new(PGRES_COPY_IN, "COPY");
	case SQL_LOCK_FENCE:
		return lock_fence(b);
	case SQL_RAISE:
		return raise_epoch(b, param);
	case SQL_APPLIED: {
		struct pg_result *r = row_of_lsns(warehouse_applied(), none);
		((uint8_t *)(uintptr_t)r->cell[1].p)[0] = '1'; /* timeline 1, from 0/0 */
		((uint8_t *)(uintptr_t)r->cell[1].p)[1] = '\0';
		return r;
	}
	case SQL_TERMINATE:
		return terminate(b);
	case SQL_PARK:
		sim_fail("apply parks, and every event folds");
	}
	sim_fail("unknown statement");
}

struct pg_result *warehouse_execute(struct backend *b, enum sql_kind kind, uint16_t rollup,
				    const struct param *param, int count)
{
	if (b->failed && kind != SQL_COMMIT && kind != SQL_ROLLBACK)
		return result_error("25P02");
	struct pg_result *r = execute(b, kind, rollup, param, count);
	if (r != NULL && r->status == PGRES_FATAL_ERROR)
		b->failed = b->in_transaction;
	if (!b->in_transaction && b->op_count > 0)
		sim_fail("rows are written outside of a transaction");
	return r;
}

void warehouse_compare(void)
{
	for (int r = 0; r < ROLLUPS; r++)
		for (int i = 0; i < ENTITIES; i++) {
			SIM_ASSERT(
				w.versions[r][i] == entities[r][i].committed &&
					w.latest[r][i] == entities[r][i].committed,
				"at the end: rollup %d entity %d has %u versions of %u, latest %u",
				r, i, w.versions[r][i], entities[r][i].committed, w.latest[r][i]);
		}
}
