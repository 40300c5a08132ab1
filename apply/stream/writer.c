/*
 * writer: executes a plan of steps, a segment at a time. Guarantees: the
 * ledger's statement runs first in its transaction, and a COMMIT is sent only
 * behind steps that did not fail.
 */
#include "apply/stream/writer.h"

#include <inttypes.h>
#include <poll.h>

#include "apply/stream/mirror_write.h"
#include "apply/stream/quarantine.h"
#include "apply/stream/writer_rows.h"
#include "proto/base/failpoint.h"
#include "proto/base/metrics.h"
#include "proto/pg/pgconn.h"

#define COPY_PIECE_BYTES (256u << 10)
#define TRIM_EVERY_US	 INT64_C(60000000)
/* What is on the warehouse's disk moves five times a second (wal_writer_delay): to ask with each batch is of no use. */
#define POSITION_EVERY_US INT64_C(50000)

void writer_init(struct writer *w, const struct settings *s, const struct landed_set *landed,
		 struct mirror_set *mirrors, struct ledger *ledger)
{
	*w = (struct writer){.settings = s,
			     .landed = landed,
			     .mirrors = mirrors,
			     .ledger = ledger,
			     .failed_mirror = -1,
			     .column_cap = QUARANTINE_COLUMNS};
	for (uint16_t i = 0; i < landed->count; i++)
		w->column_cap =
			RT_MAX(w->column_cap, (uint16_t)(landed->item[i].rollup->column_count +
							 LANDED_BEFORE + LANDED_BEHIND + 1));
	w->column = rt_calloc(w->column_cap, sizeof(*w->column));
}

void writer_release(struct writer *w)
{
	writer_detach(w);
	for (uint16_t i = 0; i < w->column_cap; i++)
		buf_release(&w->column[i]);
	free(w->column);
	free(w->plan);
	buf_release(&w->copy);
}

void writer_detach(struct writer *w)
{
	pgc_close(w->c);
	w->c = NULL;
	w->batch = NULL;
	w->plan_count = w->plan_at = 0;
	w->copying = w->failed = w->want_write = w->pipelined = false;
}

int writer_lend(struct writer *w, PGconn **ret, struct rt_err *err)
{
	RT_ASSERT(!writer_is_busy(w));
	if ((w->pipelined && PQexitPipelineMode(w->c) != 1) || PQsetnonblocking(w->c, 0) != 0)
		return pgc_fail(w->c, NULL, err, "leaving the pipeline mode");
	w->pipelined = false;
	*ret = w->c;
	return 0;
}

int writer_take_back(struct writer *w, struct rt_err *err)
{
	if (PQsetnonblocking(w->c, 1) != 0)
		return pgc_fail(w->c, NULL, err, "going on");
	return 0;
}

/* ---- prepared statements ---- */

static int send_prepare(struct writer *w, const char *name, const char *sql, struct rt_err *err)
{
	if (PQsendPrepare(w->c, name, sql, 0, NULL) != 1)
		return pgc_fail(w->c, NULL, err, "preparing statements");
	return 0;
}

static int prepare_landed(struct writer *w, uint16_t i, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	char name[16];
	int rc = 0;
	static const struct {
		char kind;
		void (*sql)(const struct landed *, struct buf *);
	} each[] = {{'w', landed_write_sql},
		    {'b', landed_begin_sql},
		    {'r', landed_renew_sql},
		    {'f', landed_fetch_sql}};
	for (size_t k = 0; rc == 0 && k < ARRAY_LEN(each); k++) {
		buf_clear(&sql);
		each[k].sql(&w->landed->item[i], &sql);
		snprintf(name, sizeof(name), "%c%u", each[k].kind, i);
		rc = send_prepare(w, name, buf_cstr(&sql), err);
	}
	buf_release(&sql);
	return rc;
}

/* Reads results up to the pipeline's end; the first failure wins. Blocking. */
static int drain_prepares(struct writer *w, struct rt_err *err)
{
	int rc = 0;
	for (;;) {
		PGresult *res = PQgetResult(w->c);
		if (res == NULL) {
			if (PQstatus(w->c) == CONNECTION_BAD)
				return pgc_fail(w->c, NULL, err, "preparing statements");
			continue;
		}
		ExecStatusType st = PQresultStatus(res);
		if (rc == 0 && st != PGRES_COMMAND_OK && st != PGRES_PIPELINE_SYNC &&
		    st != PGRES_PIPELINE_ABORTED)
			rc = pgc_fail(w->c, res, err, "preparing statements");
		PQclear(res);
		if (st == PGRES_PIPELINE_SYNC)
			return rc;
	}
}

int writer_attach(struct writer *w, PGconn *c, struct rt_err *err)
{
	const struct {
		const char *name, *sql;
	} fixed[] = {{"begin", "BEGIN"},
		     {"commit", "COMMIT"},
		     {"ledger", w->position != NULL ? w->position->sql : ledger_insert_sql},
		     {"hold", ledger_hold_sql},
		     {"trim", ledger_trim_sql},
		     {"position", ledger_position_sql},
		     {"q0", quarantine_insert_sql},
		     {"park", quarantine_park_sql},
		     {"fence",
		      "INSERT INTO rolag.fence_seen (run_id, pipeline, lsn) VALUES ($1::text, "
		      "$2::text, $3::pg_lsn) ON CONFLICT (run_id) DO NOTHING"}};
	w->c = c;
	FAILPOINT_FD(WRITER_BEFORE_PREPARE, PQsocket(c));
	int rc = pgc_exec(
		c, NULL, err,
		"SET synchronous_commit = off; SET idle_in_transaction_session_timeout = "
		"'60s'; SET plan_cache_mode = force_generic_plan; SET TimeZone = 'UTC'; "
		"SET search_path = pg_catalog; "
		/* plans are made once, of empty tables; a scan that is forbidden looks dear, */
		"SET enable_seqscan = off; "
		"SET jit = off"); /* and would be compiled each time */
	if (rc != 0)
		return rc;
	if (PQenterPipelineMode(c) != 1)
		return rt_fail(err, ERR_RETRY, "libpq refuses pipeline mode");
	for (size_t i = 0; rc == 0 && i < ARRAY_LEN(fixed); i++)
		rc = send_prepare(w, fixed[i].name, fixed[i].sql, err);
	for (uint16_t i = 0; rc == 0 && i < w->landed->count; i++)
		rc = prepare_landed(w, i, err);
	if (rc == 0 && PQpipelineSync(c) != 1)
		rc = pgc_fail(c, NULL, err, "preparing statements");
	FAILPOINT_FD(WRITER_PREPARING, PQsocket(c));
	if (rc == 0)
		rc = drain_prepares(w, err);
	FAILPOINT_FD(WRITER_PREPARED, PQsocket(c));
	if (rc == 0 && (PQexitPipelineMode(c) != 1 || PQsetnonblocking(c, 1) != 0))
		rc = pgc_fail(c, NULL, err, "preparing statements");
	return rc;
}

/* ---- plans ---- */

static void plan_add(struct writer *w, enum writer_step step, uint32_t rollup)
{
	if (w->plan_count == w->plan_cap) {
		w->plan_cap = w->plan_cap == 0 ? 64 : w->plan_cap * 2;
		w->plan = rt_realloc(w->plan, w->plan_cap * sizeof(*w->plan));
	}
	w->plan[w->plan_count++] = (struct writer_plan){.step = step, .rollup = rollup};
}

static bool is_copied(const struct batch *b, uint16_t rollup, uint32_t copied_from)
{
	return b->rows[rollup].count >= RT_MAX(copied_from, 1);
}

/* Do the latest rows of entities that begin in the batch go by COPY? */
static bool copies_latest(const struct batch *b, uint16_t rollup)
{
	return writer_count_begun(b, rollup) >= WRITER_COPY_LATEST_ROWS;
}

static void plan_latest(struct writer *w, const struct batch *b, uint16_t rollup)
{
	plan_add(w, WRITE_RENEW_LATEST, rollup);
	if (!copies_latest(b, rollup))
		plan_add(w, WRITE_BEGIN_LATEST, rollup);
}

/*
 * Tables of few rows by arrays first; then those of many by COPY; then the
 * latest rows of these: all COPYs one after the other, so that what follows is
 * one pipeline.
 */
static void plan_rows(struct writer *w, const struct batch *b)
{
	uint32_t rows = 0, copied_from = 0;
	for (uint16_t i = 0; i < w->landed->count; i++)
		rows += b->rows[i].count;
	if (b->arena.used_bytes < WRITER_COPY_BYTES)
		copied_from = rows < WRITER_COPY_ROWS ? UINT32_MAX : WRITER_COPY_TABLE_ROWS;
	for (uint16_t i = 0; i < w->landed->count; i++)
		if (b->rows[i].count > 0 && b->rows[i].count < copied_from)
			plan_add(w, WRITE_ROWS, i);
	for (uint16_t i = 0; i < w->landed->count; i++)
		if (is_copied(b, i, copied_from))
			plan_add(w, WRITE_COPY, i);
	for (uint16_t i = 0; i < w->landed->count; i++)
		if (is_copied(b, i, copied_from) && copies_latest(b, i)) {
			plan_add(w, WRITE_COPY_LATEST, i);
			w->plan[w->plan_count - 1].rows = writer_count_begun(b, i);
		}
	for (uint16_t i = 0; i < w->landed->count; i++)
		if (is_copied(b, i, copied_from))
			plan_latest(w, b, i);
}

static void plan_mirrors(struct writer *w, struct batch *b)
{
	mirror_batch_plan(&b->mirrors, w->mirrors, &b->arena);
	for (uint32_t i = 0; i < b->mirrors.step_count;) {
		const struct mirror_step *s = &b->mirrors.step[i];
		plan_add(w, mirror_is_copy(s) ? WRITE_MIRROR_COPY : WRITE_MIRROR, 0);
		w->plan[w->plan_count - 1].from = i;
		i += mirror_step_size(s);
	}
}

static void plan_write(struct writer *w, struct batch *b, enum writer_part part)
{
	bool begins = part == PART_WHOLE || part == PART_FIRST;
	bool ends = part == PART_WHOLE || part == PART_LAST;
	int64_t now = rt_mono_us();
	w->in_parts = part != PART_WHOLE;
	if (begins)
		plan_add(w, WRITE_BEGIN, 0);
	if (ends)
		plan_add(w, WRITE_LEDGER, 0);
	else if (begins)
		plan_add(w, WRITE_HOLD, 0);
	plan_rows(w, b);
	plan_mirrors(w, b);
	for (uint32_t n = 0; n < b->waiting_count; n = quarantine_next(b, n)) {
		plan_add(w, WRITE_WAITING, 0);
		w->plan[w->plan_count - 1].from = n;
	}
	for (uint32_t i = 0; i < b->park_count; i++)
		plan_add(w, WRITE_PARK, i);
	for (uint32_t i = 0; i < b->fence_count; i++)
		plan_add(w, WRITE_FENCES, i);
	if (!ends)
		return;
	if (w->position == NULL && now - w->trimmed_us > TRIM_EVERY_US) {
		plan_add(w, WRITE_TRIM, 0);
		w->trimmed_us = now;
	}
	plan_add(w, WRITE_COMMIT, 0);
	if (now - w->asked_us > POSITION_EVERY_US) {
		plan_add(w, WRITE_POSITION, 0);
		w->asked_us = now;
	}
}

/* ---- sending ---- */

static int sent(struct writer *w, int ok, struct rt_err *err)
{
	return ok == 1 ? 0 : pgc_fail(w->c, NULL, err, "writing to the warehouse");
}

static int send_text(struct writer *w, const char *name, int count, const char *const *params,
		     struct rt_err *err)
{
	return sent(w, PQsendQueryPrepared(w->c, name, count, params, NULL, NULL, 0), err);
}

static void add_relation(struct buf *out, const char *name)
{
	buf_str(out, out->len > 1 ? ",\"" : "\"");
	for (; *name != '\0'; name++) {
		if (*name == '"' || *name == '\\')
			buf_u8(out, '\\');
		buf_u8(out, (uint8_t)*name);
	}
	buf_u8(out, '"');
}

/* Whose rows the batch changes, as an array's text: so a build of models knows what it need not read again. */
static const char *relations_of(const struct writer *w, struct buf *out)
{
	struct batch *b = w->batch;
	if (w->in_parts) /* the other parts' are not known any more */
		return NULL;
	bool *changed =
		arena_zalloc(&b->arena, (b->mirrors.step_count > 0 ? w->mirrors->count + 1u : 1u) *
						sizeof(*changed));
	buf_str(out, "{");
	for (uint16_t i = 0; i < w->landed->count; i++)
		if (b->rows[i].count > 0)
			add_relation(out, w->landed->item[i].rollup->name);
	for (uint32_t i = 0; i < b->mirrors.step_count; i++)
		changed[b->mirrors.step[i].mirror] = true;
	for (uint16_t i = 0; b->mirrors.step_count > 0 && i < w->mirrors->count; i++)
		if (changed[i])
			add_relation(out, w->mirrors->item[i].relname);
	buf_str(out, "}");
	return buf_cstr(out);
}

static int send_ledger(struct writer *w, struct rt_err *err)
{
	const struct batch *b = w->batch;
	char lsn[32], timeline[16], epoch[24], at[48] = "";
	if (w->position != NULL)
		return sent(w, w->position->send(w->position->ctx, w->c, b), err);
	snprintf(lsn, sizeof(lsn), LSN_FMT, LSN_ARGS(b->end));
	snprintf(timeline, sizeof(timeline), "%" PRIu32, w->ledger->timeline);
	snprintf(epoch, sizeof(epoch), "%" PRId64, w->ledger->epoch);
	if (b->commit_us != 0) {
		time_t sec = (time_t)(b->commit_us / 1000000);
		struct tm tm;
		gmtime_r(&sec, &tm);
		size_t n = strftime(at, sizeof(at), "%Y-%m-%d %H:%M:%S", &tm);
		snprintf(at + n, sizeof(at) - n, ".%06d+00", (int)(b->commit_us % 1000000));
	}
	struct buf relations = buf_in_arena(&w->batch->arena, NULL, 0);
	const char *params[] = {w->settings->pipeline,	       lsn,   timeline,
				b->commit_us != 0 ? at : NULL, epoch, relations_of(w, &relations)};
	return send_text(w, "ledger", 6, params, err);
}

static int send_hold(struct writer *w, struct rt_err *err)
{
	char epoch[24];
	snprintf(epoch, sizeof(epoch), "%" PRId64, w->ledger->epoch);
	const char *params[] = {w->settings->pipeline, epoch};
	return send_text(w, "hold", 2, params, err);
}

static int send_fence(struct writer *w, uint32_t i, struct rt_err *err)
{
	char lsn[32];
	snprintf(lsn, sizeof(lsn), LSN_FMT, LSN_ARGS(w->batch->fence[i].lsn));
	const char *params[] = {w->batch->fence[i].run_id, w->settings->pipeline, lsn};
	return send_text(w, "fence", 3, params, err);
}

static int send_park(struct writer *w, uint32_t i, struct rt_err *err)
{
	const struct batch_park *p = &w->batch->park[i];
	const char *params[] = {w->settings->pipeline, w->landed->item[p->rollup].rollup->name,
				p->reason};
	return send_text(w, "park", 3, params, err);
}

static int send_trim(struct writer *w, struct rt_err *err)
{
	char lsn[32];
	snprintf(lsn, sizeof(lsn), LSN_FMT, LSN_ARGS(w->ledger->applied));
	const char *params[] = {w->settings->pipeline, lsn};
	return send_text(w, "trim", 2, params, err);
}

/* Sends the arrays that writer_fill_* left in w->column as parameters. */
static int send_arrays(struct writer *w, char kind, uint16_t rollup, int count, int result_format,
		       struct rt_err *err)
{
	char name[16];
	const char **values = rt_malloc((size_t)count * sizeof(*values));
	int *lengths = rt_malloc((size_t)count * sizeof(*lengths));
	int *formats = rt_malloc((size_t)count * sizeof(*formats));
	for (int i = 0; i < count; i++) {
		values[i] = (const char *)w->column[i].p;
		lengths[i] = (int)w->column[i].len;
		formats[i] = 1;
	}
	snprintf(name, sizeof(name), "%c%u", kind, rollup);
	for (int i = 0; i < count; i++)
		w->sent_bytes += w->column[i].len;
	int rc = sent(
		w, PQsendQueryPrepared(w->c, name, count, values, lengths, formats, result_format),
		err);
	free(values);
	free(lengths);
	free(formats);
	return rc;
}

static int send_copy(struct writer *w, uint16_t rollup, bool latest, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	landed_copy_sql(&w->landed->item[rollup], latest, &sql);
	int rc = sent(w, PQsendQuery(w->c, buf_cstr(&sql)), err);
	buf_release(&sql);
	w->copy_row = 0;
	return rc;
}

static struct lsn end_of_transaction(const void *batch, uint32_t transaction)
{
	return ((const struct batch *)batch)->transaction[transaction].end;
}

static int send_mirror(struct writer *w, uint32_t step, struct rt_err *err)
{
	FAILPOINT_FD(WRITER_MIRROR, PQsocket(w->c));
	w->copy_row = 0;
	return sent(w,
		    mirror_send(w->c, w->settings, w->mirrors, &w->batch->mirrors.step[step],
				end_of_transaction, w->batch, &w->sent_bytes),
		    err);
}

static int send_step(struct writer *w, struct writer_plan *p, struct rt_err *err)
{
	const struct landed *l = w->landed->count > p->rollup ? &w->landed->item[p->rollup] : NULL;
	const uint16_t rollup = (uint16_t)p->rollup;
	int count;
	w->sent_bytes = 0;
	FAILPOINT_FD(WRITER_STEP, PQsocket(w->c));
	switch (p->step) {
	case WRITE_BEGIN:
		FAILPOINT_FD(WRITER_BEGIN, PQsocket(w->c));
		return send_text(w, "begin", 0, NULL, err);
	case WRITE_HOLD:
		FAILPOINT_FD(WRITER_HOLD, PQsocket(w->c));
		return send_hold(w, err);
	case WRITE_LEDGER:
		FAILPOINT_FD(LEDGER_BEFORE_INSERT, PQsocket(w->c));
		return send_ledger(w, err);
	case WRITE_FENCES:
		FAILPOINT_FD(WRITER_FENCE, PQsocket(w->c));
		return send_fence(w, p->rollup, err);
	case WRITE_ROWS:
		FAILPOINT_FD(WRITER_ROWS, PQsocket(w->c));
		RT_ASSERT(l != NULL);
		count = writer_fill_rows(w->batch, rollup, l->rollup, w->column);
		return send_arrays(w, 'w', rollup, count, 0, err);
	case WRITE_COPY:
		FAILPOINT_FD(WRITER_COPY, PQsocket(w->c));
		return send_copy(w, rollup, false, err);
	case WRITE_COPY_LATEST:
		FAILPOINT_FD(WRITER_COPY_LATEST, PQsocket(w->c));
		return send_copy(w, rollup, true, err);
	case WRITE_MIRROR:
	case WRITE_MIRROR_COPY:
		return send_mirror(w, p->from, err);
	case WRITE_BEGIN_LATEST:
	case WRITE_RENEW_LATEST:
		FAILPOINT_FD(WRITER_LATEST, PQsocket(w->c));
		RT_ASSERT(l != NULL);
		p->rows = writer_fill_entities(w->batch, rollup, l->rollup,
					       p->step == WRITE_BEGIN_LATEST, &w->column[0]);
		return send_arrays(w, p->step == WRITE_BEGIN_LATEST ? 'b' : 'r', rollup, 1, 0, err);
	case WRITE_WAITING:
		FAILPOINT_FD(QUARANTINE_WRITE, PQsocket(w->c));
		quarantine_fill(w->batch, w->settings->pipeline, p->from, w->column);
		return send_arrays(w, 'q', 0, QUARANTINE_COLUMNS, 0, err);
	case WRITE_PARK:
		FAILPOINT_FD(QUARANTINE_PARK, PQsocket(w->c));
		return send_park(w, p->rollup, err);
	case WRITE_TRIM:
		FAILPOINT_FD(WRITER_TRIM, PQsocket(w->c));
		return send_trim(w, err);
	case WRITE_COMMIT:
		FAILPOINT_FD(LEDGER_BEFORE_COMMIT, PQsocket(w->c));
		return send_text(w, "commit", 0, NULL, err);
	case WRITE_POSITION:
		FAILPOINT_FD(LEDGER_COMMIT_SENT, PQsocket(w->c));
		return send_text(w, "position", 0, NULL, err);
	case WRITE_FETCH:
		FAILPOINT_FD(WRITER_FETCH, PQsocket(w->c));
		RT_ASSERT(l != NULL);
		writer_fill_ids(w->batch, rollup, l->rollup, &w->column[0]);
		return send_arrays(w, 'f', rollup, 1, 1, err);
	}
	rt_bug(__FILE__, __LINE__, "unknown step");
}

static int flush(struct writer *w, struct rt_err *err)
{
	FAILPOINT_FD(WRITER_BEFORE_FLUSH, PQsocket(w->c));
	int rc = PQflush(w->c);
	FAILPOINT_FD(WRITER_AFTER_FLUSH, PQsocket(w->c));
	w->want_write = rc == 1;
	return rc < 0 ? pgc_fail(w->c, NULL, err, "writing to the warehouse") : 0;
}

static bool is_copy(enum writer_step step)
{
	return step == WRITE_COPY || step == WRITE_COPY_LATEST || step == WRITE_MIRROR_COPY;
}

/* Sends the steps from plan_at on that can be one round trip. */
static int start_segment(struct writer *w, struct rt_err *err)
{
	uint32_t at = w->plan_at;
	size_t bytes = 0;
	int rc = 0;
	bool copy = is_copy(w->plan[at].step);
	if (w->pipelined == copy) {
		int ok = copy ? PQexitPipelineMode(w->c) : PQenterPipelineMode(w->c);
		if (ok != 1)
			return pgc_fail(w->c, NULL, err, "changing the pipeline mode");
		w->pipelined = !copy;
	}
	if (copy) {
		w->segment_end = at + 1;
		rc = send_step(w, &w->plan[at], err);
		return rc != 0 ? rc : flush(w, err);
	}
	for (; rc == 0 && at < w->plan_count && !is_copy(w->plan[at].step) &&
	       bytes < WRITER_PIPELINE_BYTES;
	     at++) {
		rc = send_step(w, &w->plan[at], err);
		bytes += w->sent_bytes;
	}
	w->segment_end = at;
	if (rc == 0)
		rc = sent(w, PQpipelineSync(w->c), err);
	return rc != 0 ? rc : flush(w, err);
}

/* Begins to execute the plan. */
static int start(struct writer *w, struct rt_err *err)
{
	w->plan_at = 0;
	w->failed = w->distrust = w->copying = false;
	w->failed_mirror = -1;
	w->started_us = rt_mono_us();
	return start_segment(w, err);
}

int writer_write(struct writer *w, struct batch *b, enum writer_part part, struct rt_err *err)
{
	RT_ASSERT(w->batch == NULL);
	w->batch = b;
	w->plan_count = 0;
	plan_write(w, b, part);
	if (w->plan_count == 0) { /* a middle part without rows */
		w->batch = NULL;
		return 0;
	}
	return start(w, err);
}

int writer_fetch(struct writer *w, struct batch *b, struct rt_err *err)
{
	RT_ASSERT(w->batch == NULL && b->missing_count > 0);
	w->batch = b;
	w->plan_count = 0;
	b->asked = RT_MIN(b->missing_count, WRITER_FETCH_ROWS);
	for (uint16_t i = 0; i < w->landed->count; i++)
		if (writer_is_missing(b, i))
			plan_add(w, WRITE_FETCH, i);
	return start(w, err);
}

int writer_ask_position(struct writer *w, struct rt_err *err)
{
	static struct batch none; /* says "busy"; nothing reads it */
	RT_ASSERT(w->batch == NULL);
	w->batch = &none;
	w->plan_count = 0;
	plan_add(w, WRITE_POSITION, 0);
	return start(w, err);
}

/* ---- results ---- */

static const char *step_name(enum writer_step step)
{
	switch (step) {
	case WRITE_BEGIN:
		return "beginning a warehouse transaction";
	case WRITE_HOLD:
	case WRITE_LEDGER:
		return "the ledger";
	case WRITE_FENCES:
		return "noting a report's fence";
	case WRITE_ROWS:
	case WRITE_COPY:
	case WRITE_COPY_LATEST:
	case WRITE_BEGIN_LATEST:
	case WRITE_RENEW_LATEST:
	case WRITE_MIRROR:
	case WRITE_MIRROR_COPY:
		return "writing rows";
	case WRITE_WAITING:
		return "writing into quarantine";
	case WRITE_PARK:
		return "parking a rollup";
	case WRITE_TRIM:
		return "trimming the ledger";
	case WRITE_COMMIT:
		return "committing";
	case WRITE_POSITION:
		return "asking for the warehouse's WAL position";
	case WRITE_FETCH:
		return "fetching entity states";
	}
	return "?";
}

/* What cannot be written of a mirror is no reason to stop the others. (A server's text may quote values.) */
static void note_mirror_failure(struct writer *w, uint32_t step, const char *state)
{
	const struct mirror *m = &w->mirrors->item[w->batch->mirrors.step[step].mirror];
	if (w->err.code == ERR_PERMANENT) {
		w->failed_mirror = (int)(m - w->mirrors->item);
		if (state != NULL && (strncmp(state, "22", 2) == 0 || strncmp(state, "23", 2) == 0))
			rt_fail(&w->err, ERR_PERMANENT,
				"SQLSTATE %s: a value or a key does not fit", state);
	}
	rt_context(&w->err, "table %s", m->target);
}

static void note_failure(struct writer *w, const struct writer_plan *p, const PGresult *res)
{
	if (w->failed)
		return;
	w->failed = true;
	if (p->step == WRITE_MIRROR || p->step == WRITE_MIRROR_COPY) {
		pgc_fail(w->c, res, &w->err, step_name(p->step));
		note_mirror_failure(w, p->from, PQresultErrorField(res, PG_DIAG_SQLSTATE));
		return;
	}
	w->distrust = pgc_is_state(res, "23505");
	pgc_fail(w->c, res, &w->err, step_name(p->step));
	if (p->step == WRITE_ROWS || p->step == WRITE_COPY || p->step == WRITE_COPY_LATEST ||
	    p->step == WRITE_BEGIN_LATEST || p->step == WRITE_RENEW_LATEST ||
	    p->step == WRITE_FETCH)
		rt_context(&w->err, "table %s", w->landed->item[p->rollup].history);
	/* Division by zero is our own: the fence or the position is not as we think; the takeover looks. */
	if (p->step == WRITE_LEDGER || p->step == WRITE_HOLD)
		if (pgc_is_state(res, "22012"))
			rt_fail(&w->err, ERR_RETRY, "the ledger did not take the batch");
}

/* Somebody took a latest row away, or put one there: what is known of entities is no longer true. */
static void check_latest(struct writer *w, const struct writer_plan *p, const PGresult *res)
{
	if (w->failed || strtoul(PQcmdTuples((PGresult *)res), NULL, 10) == p->rows)
		return;
	w->failed = w->distrust = true;
	rt_fail(&w->err, ERR_RETRY, "%s holds other entities than rolag wrote",
		w->landed->item[p->rollup].latest);
}

static void take_result(struct writer *w, const struct writer_plan *p, const PGresult *res)
{
	struct rt_err err;
	ExecStatusType st = PQresultStatus(res);
	FAILPOINT_FD(WRITER_RESULT, PQsocket(w->c));
	if (st == PGRES_PIPELINE_ABORTED)
		return; /* behind the failure noted already */
	if (st != PGRES_COMMAND_OK && st != PGRES_TUPLES_OK) {
		note_failure(w, p, res);
		return;
	}
	if (p->step == WRITE_COMMIT && strcmp(PQcmdStatus((PGresult *)res), "COMMIT") != 0) {
		w->failed =
			true; /* the server answers ROLLBACK to COMMIT in a failed transaction */
		rt_fail(&w->err, ERR_RETRY, "the warehouse rolled the batch back");
	} else if (p->step == WRITE_COMMIT) {
		FAILPOINT_FD(LEDGER_AFTER_COMMIT, PQsocket(w->c));
		w->ledger->applied = w->batch->end;
	} else if (p->step == WRITE_COPY_LATEST || p->step == WRITE_BEGIN_LATEST ||
		   p->step == WRITE_RENEW_LATEST) {
		check_latest(w, p, res);
	} else if (p->step == WRITE_POSITION) {
		ledger_position(w->ledger, pgc_get_lsn(res, 0, 0), pgc_get_lsn(res, 0, 1));
	} else if (p->step == WRITE_FETCH &&
		   writer_take_states(w->batch, (uint16_t)p->rollup,
				      w->landed->item[p->rollup].rollup, res, &err) != 0) {
		w->failed = true;
		w->err = err;
	} else if (p->step == WRITE_MIRROR && !w->failed &&
		   mirror_check_result(w->mirrors, &w->batch->mirrors.step[p->from],
				       (PGresult *)res, &w->err) != 0) {
		w->failed = true;
		note_mirror_failure(w, p->from, NULL);
	}
}

static int finish(struct writer *w, struct rt_err *err)
{
	w->batch = NULL;
	FAILPOINT_FD(WRITER_FINISH, PQsocket(w->c));
	if (w->failed) {
		*err = w->err;
		return err->code;
	}
	met_observe(MET_BATCH_SECONDS, rt_mono_us() - w->started_us);
	return 1;
}

/* 1: all results of the segment are there. */
static int turn_pipelined(struct writer *w, struct rt_err *err)
{
	while (!PQisBusy(w->c)) {
		PGresult *res = PQgetResult(w->c);
		if (res == NULL) {
			if (PQstatus(w->c) == CONNECTION_BAD)
				return pgc_fail(w->c, NULL, err, "writing to the warehouse");
			continue; /* between two results */
		}
		if (PQresultStatus(res) == PGRES_PIPELINE_SYNC) {
			PQclear(res);
			return 1;
		}
		if (w->plan_at >= w->segment_end) {
			int rc = pgc_fail(w->c, res, err, "writing to the warehouse");
			PQclear(res);
			return rc;
		}
		take_result(w, &w->plan[w->plan_at++], res);
		PQclear(res);
	}
	return 0;
}

/* The next piece of a mirror's COPY into w->copy; its last one has the trailer. */
static void fill_mirror(struct writer *w, const struct mirror_step *s)
{
	buf_clear(&w->copy);
	w->copy_row = mirror_fill_copy(s, w->copy_row, COPY_PIECE_BYTES, end_of_transaction,
				       w->batch, &w->copy);
}

static int feed_mirror(struct writer *w, const struct mirror_step *s, struct rt_err *err)
{
	for (;;) {
		int rc = flush(w, err);
		if (rc != 0 || w->want_write)
			return rc;
		if (w->copy_row > s->count)
			return 1; /* ended and flushed */
		if (w->copy_row == s->count) {
			w->copy_row++;
			if (PQputCopyEnd(w->c, NULL) != 1)
				return pgc_fail(w->c, NULL, err, "COPY");
			continue;
		}
		fill_mirror(w, s);
		if (PQputCopyData(w->c, (const char *)w->copy.p, (int)w->copy.len) != 1)
			return pgc_fail(w->c, NULL, err, "COPY");
	}
}

/* Feeds COPY as long as the socket takes it; 1 when all is fed and ended. */
static int feed_copy(struct writer *w, const struct writer_plan *p, struct rt_err *err)
{
	if (p->step == WRITE_MIRROR_COPY)
		return feed_mirror(w, &w->batch->mirrors.step[p->from], err);
	const uint16_t rollup = (uint16_t)p->rollup;
	const struct batch_rows *rows = &w->batch->rows[rollup];
	for (;;) {
		int rc = flush(w, err);
		if (rc != 0 || w->want_write)
			return rc;
		if (w->copy_row > rows->count)
			return 1; /* ended and flushed */
		FAILPOINT_FD(WRITER_MID_COPY, PQsocket(w->c));
		if (w->copy_row == rows->count) {
			w->copy_row++;
			static const char trailer[2] = {'\xff', '\xff'};
			if (PQputCopyData(w->c, trailer, 2) != 1 || PQputCopyEnd(w->c, NULL) != 1)
				return pgc_fail(w->c, NULL, err, "COPY");
			continue;
		}
		buf_clear(&w->copy);
		w->copy_row = writer_fill_copy(w->batch, rollup, p->step == WRITE_COPY_LATEST,
					       w->copy_row, COPY_PIECE_BYTES, &w->copy);
		if (w->copy.len > 0 &&
		    PQputCopyData(w->c, (const char *)w->copy.p, (int)w->copy.len) != 1)
			return pgc_fail(w->c, NULL, err, "COPY");
	}
}

/* 1: the COPY is over. */
static int turn_copy(struct writer *w, struct rt_err *err)
{
	const struct writer_plan *p = &w->plan[w->plan_at];
	for (;;) {
		if (w->copying) {
			int rc = feed_copy(w, p, err);
			if (rc <= 0)
				return rc;
			w->copying = false;
		}
		if (PQisBusy(w->c))
			return 0;
		PGresult *res = PQgetResult(w->c);
		if (res == NULL)
			break;
		w->copying = PQresultStatus(res) == PGRES_COPY_IN;
		if (!w->copying)
			take_result(w, p, res);
		PQclear(res);
	}
	if (PQstatus(w->c) == CONNECTION_BAD && !w->failed)
		return pgc_fail(w->c, NULL, err, "writing to the warehouse");
	w->plan_at++;
	return 1;
}

int writer_turn(struct writer *w, struct rt_err *err)
{
	RT_ASSERT(w->batch != NULL);
	int rc = flush(w, err);
	if (rc != 0)
		return rc;
	if (PQconsumeInput(w->c) != 1)
		return pgc_fail(w->c, NULL, err, "writing to the warehouse");
	for (;;) {
		rc = w->pipelined ? turn_pipelined(w, err) : turn_copy(w, err);
		if (rc != 1)
			return rc;
		if (w->failed || w->plan_at == w->plan_count)
			return finish(w, err);
		if ((rc = start_segment(w, err)) != 0)
			return rc;
	}
}

short writer_events(const struct writer *w)
{
	return (short)(POLLIN | (w->want_write ? POLLOUT : 0));
}
