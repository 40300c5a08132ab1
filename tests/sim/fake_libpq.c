/*
 * fake_libpq: libpq's functions, as far as apply calls them, over queues: what
 * is sent waits until the scheduler lets the server work, what it answers
 * until the client reads. A connection breaks with whatever is in either
 * queue, and its backend may go on without it.
 */
#include "tests/sim/warehouse.h"

#include "proto/pg/pgconn.h"

#define BACKENDS 12
#define QUEUE	 512
#define FD_FIRST 2000

enum request_kind { ASK_PREPARE, ASK_EXECUTE, ASK_QUERY, ASK_SYNC, ASK_COPY_END };

struct request {
	enum request_kind kind;
	char name[16];
	enum sql_kind sql;
	uint16_t rollup;
	struct param *param;
	int count;
	struct buf copy;
};

struct prepared {
	char name[16];
	enum sql_kind sql;
	uint16_t rollup;
};

struct server {
	struct backend b;
	struct pg_conn *client; /* NULL: gone */
	struct request request[QUEUE];
	uint32_t request_count;
	struct prepared prepared[32];
	uint32_t prepared_count;
	bool skipping; /* pipeline aborted up to the next sync */
	bool copies;
	uint16_t copy_rollup;
	bool copy_latest;
};

struct pg_conn {
	struct server *server; /* NULL: the link is broken */
	enum process owner;
	bool pipeline;
	struct pg_result *reply[QUEUE]; /* NULL: end of a statement's results */
	uint32_t reply_count;
	uint32_t outstanding;
	struct buf copy;
};

static struct server *servers;
static int next_pid;

void servers_begin(void)
{
	servers = world_alloc(BACKENDS * sizeof(*servers));
	next_pid = 100;
}

struct backend *backend_each(size_t i)
{
	return i < BACKENDS ? &servers[i].b : NULL;
}

/* ---- the server's side ---- */

static void reply(struct server *s, struct pg_result *r, bool end)
{
	struct pg_conn *c = s->client;
	if (c == NULL) {
		free(r);
		return;
	}
	SIM_ASSERT(c->reply_count + 2 < QUEUE, "too many replies");
	c->reply[c->reply_count++] = r;
	if (end)
		c->reply[c->reply_count++] = NULL;
}

static void request_drop(struct request *q)
{
	for (int i = 0; i < q->count; i++)
		free((void *)(uintptr_t)q->param[i].p);
	free(q->param);
	buf_release(&q->copy);
}

/* The client's end of the link is broken; it may still read `keep` replies. */
static void client_lose(struct pg_conn *c, uint32_t keep)
{
	while (c->reply_count > keep)
		free(c->reply[--c->reply_count]);
	c->server = NULL;
	c->outstanding = 0;
}

static void server_end(struct server *s)
{
	for (uint32_t i = 0; i < s->request_count; i++)
		request_drop(&s->request[i]);
	s->request_count = 0;
	if (s->client != NULL)
		client_lose(s->client, rng_below(RNG_WAREHOUSE, s->client->reply_count + 1));
	s->client = NULL;
	backend_end(&s->b);
}

void backend_terminate(struct backend *b)
{
	if (b->state != BACKEND_NONE)
		server_end((struct server *)(void *)b); /* its first member */
}

static const struct prepared *prepared_of(const struct server *s, const char *name)
{
	for (uint32_t i = 0; i < s->prepared_count; i++)
		if (strcmp(s->prepared[i].name, name) == 0)
			return &s->prepared[i];
	sim_fail("the statement %s was not prepared", name);
}

/* False: it has to wait for a lock. */
static bool serve_one(struct server *s)
{
	struct request *q = &s->request[0];
	struct pg_result *r = NULL;
	bool end = true;
	if (q->kind == ASK_SYNC) {
		s->skipping = false;
		r = result_new(PGRES_PIPELINE_SYNC, "");
		end = false;
	} else if (s->skipping) {
		r = result_new(PGRES_PIPELINE_ABORTED, "");
	} else if (q->kind == ASK_PREPARE) {
		r = result_new(PGRES_COMMAND_OK, "PREPARE");
	} else if (q->kind == ASK_COPY_END) {
		r = s->b.failed ? result_error("25P02")
				: warehouse_copy(&s->b, s->copy_rollup, s->copy_latest,
						 buf_slice(&q->copy));
	} else {
		r = warehouse_execute(&s->b, q->sql, q->rollup, q->param, q->count);
		if (r == NULL)
			return false;
		if (r->status == PGRES_COPY_IN) {
			s->copy_rollup = q->rollup;
			s->copy_latest = q->sql == SQL_COPY_LATEST;
			end = false;
		}
	}
	if (r->status == PGRES_FATAL_ERROR && s->client != NULL && s->client->pipeline)
		s->skipping = true;
	if (s->client != NULL && s->client->outstanding > 0)
		s->client->outstanding--;
	request_drop(q);
	s->request_count--;
	memmove(q, q + 1, s->request_count * sizeof(*q));
	reply(s, r, end);
	return true;
}

static bool serve(struct server *s, uint32_t n)
{
	/* Who serves is not who asked: its memory is the world's. */
	enum process was = running;
	bool any = false;
	running = PROCESS_NONE;
	while (n-- > 0 && s->request_count > 0 && serve_one(s))
		any = true;
	running = was;
	return any;
}

bool warehouse_act(uint32_t n)
{
	uint32_t from = rng_below(RNG_WAREHOUSE, BACKENDS);
	for (uint32_t i = 0; i < BACKENDS; i++) {
		struct server *s = &servers[(from + i) % BACKENDS];
		if (s->b.state == BACKEND_NONE)
			continue;
		if (s->b.state == BACKEND_ZOMBIE && s->request_count == 0) {
			if (rng_one_in(RNG_WAREHOUSE, 8) || !fault_on(FAULT_ZOMBIE))
				server_end(s);
			continue;
		}
		if (s->request_count > 0 && serve(s, n))
			return true;
	}
	return false;
}

void warehouse_settle(void)
{
	for (uint32_t i = 0; i < BACKENDS; i++)
		if (servers[i].b.state == BACKEND_ZOMBIE)
			server_end(&servers[i]);
}

/* The client is gone: what it sent may still be done, now or later. */
static void orphan(struct server *s)
{
	uint32_t arrived = rng_below(RNG_WAREHOUSE, s->request_count + 1);
	while (s->request_count > arrived)
		request_drop(&s->request[--s->request_count]);
	if (s->client != NULL)
		client_lose(s->client, rng_below(RNG_WAREHOUSE, s->client->reply_count + 1));
	s->client = NULL;
	s->b.state = BACKEND_ZOMBIE;
	if (fault_on(FAULT_ZOMBIE) && rng_one_in(RNG_WAREHOUSE, 2))
		return;
	serve(s, arrived);
	if (s->b.state != BACKEND_NONE)
		server_end(s);
}

void warehouse_link_break(void)
{
	uint32_t from = rng_below(RNG_WAREHOUSE, BACKENDS);
	for (uint32_t i = 0; i < BACKENDS; i++) {
		struct server *s = &servers[(from + i) % BACKENDS];
		if (s->b.state == BACKEND_LIVE) {
			sim_say("warehouse: the link of pid %d breaks", s->b.pid);
			orphan(s);
			return;
		}
	}
}

void warehouse_orphan(enum process p)
{
	for (uint32_t i = 0; i < BACKENDS; i++)
		if (servers[i].b.state == BACKEND_LIVE && servers[i].b.owner == p) {
			servers[i].client = NULL; /* its memory went with it */
			orphan(&servers[i]);
		}
}

/* ---- connecting ---- */

int __wrap_pgc_connect(PGconn **ret, const struct pgc_options *o, struct rt_err *err);
int __wrap_pgc_connect(PGconn **ret, const struct pgc_options *o, struct rt_err *err)
{
	call_point();
	if (warehouse_is_down)
		return rt_fail(err, ERR_RETRY, "the warehouse is down");
	for (int i = 0; i < BACKENDS; i++) {
		struct server *s = &servers[i];
		if (s->b.state != BACKEND_NONE)
			continue;
		*s = (struct server){
			.b = {.state = BACKEND_LIVE, .owner = running, .pid = next_pid++}};
		*ret = rt_calloc(1, sizeof(struct pg_conn));
		**ret = (struct pg_conn){.server = s, .owner = running};
		s->client = *ret;
		return 0;
	}
	return rt_fail(err, ERR_RETRY, "too many clients");
}

void PQfinish(PGconn *c)
{
	if (c == NULL)
		return;
	struct server *s = c->server;
	if (s != NULL) {
		s->client = NULL;
		if (fault_on(FAULT_ZOMBIE) && s->request_count > 0 && rng_one_in(RNG_WAREHOUSE, 3))
			orphan(s);
		else
			server_end(s);
	}
	while (c->reply_count > 0)
		free(c->reply[--c->reply_count]);
	buf_release(&c->copy);
	free(c);
}

ConnStatusType PQstatus(const PGconn *c)
{
	return c->server == NULL && c->reply_count == 0 ? CONNECTION_BAD : CONNECTION_OK;
}

char *PQerrorMessage(const PGconn *c)
{
	static char text[] = "server closed the connection unexpectedly";
	return text;
}

int PQsocket(const PGconn *c)
{
	if (c == NULL) /* as the real one; failpoints ask at any time */
		return -1;
	for (int i = 0; i < BACKENDS; i++)
		if (c->server == &servers[i])
			return FD_FIRST + i;
	return FD_FIRST + BACKENDS; /* broken: readable */
}

bool warehouse_readable(int fd)
{
	if (fd < FD_FIRST)
		return false;
	if (fd == FD_FIRST + BACKENDS)
		return true;
	const struct pg_conn *c = servers[fd - FD_FIRST].client;
	return c == NULL || c->reply_count > 0;
}

int PQsetnonblocking(PGconn *c, int arg)
{
	return 0;
}

int PQflush(PGconn *c)
{
	call_point();
	return c->server == NULL ? -1 : 0;
}

int PQconsumeInput(PGconn *c)
{
	call_point();
	return c->server != NULL || c->reply_count > 0;
}

/* ---- asking ---- */

static struct request *ask(PGconn *c, enum request_kind kind)
{
	call_point();
	struct server *s = c->server;
	if (s == NULL)
		return NULL;
	SIM_ASSERT(s->request_count < QUEUE, "too many requests");
	struct request *q = &s->request[s->request_count++];
	*q = (struct request){.kind = kind};
	c->outstanding++;
	return q;
}

int PQenterPipelineMode(PGconn *c)
{
	SIM_ASSERT(c->outstanding == 0, "pipeline mode within a statement");
	c->pipeline = true;
	return 1;
}

int PQexitPipelineMode(PGconn *c)
{
	if (c->outstanding > 0 || c->reply_count > 0)
		return 0;
	c->pipeline = false;
	return 1;
}

PGpipelineStatus PQpipelineStatus(const PGconn *c)
{
	return c->pipeline ? PQ_PIPELINE_ON : PQ_PIPELINE_OFF;
}

int PQpipelineSync(PGconn *c)
{
	SIM_ASSERT(c->pipeline, "a sync outside of pipeline mode");
	return ask(c, ASK_SYNC) != NULL;
}

int PQsendFlushRequest(PGconn *c)
{
	return c->server != NULL;
}

int PQsendPrepare(PGconn *c, const char *name, const char *sql, int count, const Oid *types)
{
	if (ask(c, ASK_PREPARE) == NULL)
		return 0;
	struct server *s = c->server;
	SIM_ASSERT(s->prepared_count < ARRAY_LEN(s->prepared), "too many prepared statements");
	struct prepared *p = &s->prepared[s->prepared_count++];
	snprintf(p->name, sizeof(p->name), "%s", name);
	p->sql = sql_kind_of(sql, &p->rollup);
	if (p->sql == SQL_LEDGER || p->sql == SQL_HOLD)
		s->b.checks[p->sql == SQL_HOLD] = ledger_checks_of(sql);
	return 1;
}

int PQsendQueryPrepared(PGconn *c, const char *name, int count, const char *const *values,
			const int *lengths, const int *formats, int result_format)
{
	struct request *q = ask(c, ASK_EXECUTE);
	if (q == NULL)
		return 0;
	const struct prepared *p = prepared_of(c->server, name);
	q->sql = p->sql;
	q->rollup = p->rollup;
	q->count = count;
	q->param = world_alloc((size_t)(count + 1) * sizeof(*q->param));
	for (int i = 0; i < count; i++) {
		if (values[i] == NULL)
			continue;
		bool binary = formats != NULL && formats[i] == 1;
		size_t len = binary ? (size_t)lengths[i] : strlen(values[i]);
		uint8_t *copy = world_alloc(len + 1);
		memcpy(copy, values[i], len);
		q->param[i] = (struct param){copy, len};
	}
	return 1;
}

int PQsendQuery(PGconn *c, const char *sql)
{
	struct request *q = ask(c, ASK_QUERY);
	if (q == NULL)
		return 0;
	SIM_ASSERT(!c->pipeline, "a simple query in pipeline mode");
	q->sql = sql_kind_of(sql, &q->rollup);
	return 1;
}

int PQputCopyData(PGconn *c, const char *p, int n)
{
	call_point();
	if (c->server == NULL)
		return -1;
	buf_add(&c->copy, p, (size_t)n);
	return 1;
}

int PQputCopyEnd(PGconn *c, const char *error)
{
	struct request *q = ask(c, ASK_COPY_END);
	if (q == NULL)
		return -1;
	uint8_t *copy = world_alloc(c->copy.len + 1);
	memcpy(copy, c->copy.p, c->copy.len);
	q->copy = (struct buf){copy, c->copy.len, c->copy.len + 1, NULL};
	buf_clear(&c->copy);
	return 1;
}

/* ---- answers ---- */

int PQisBusy(PGconn *c)
{
	return c->reply_count == 0 && c->server != NULL && c->outstanding > 0;
}

PGresult *PQgetResult(PGconn *c)
{
	call_point();
	if (PQisBusy(c) && !serve(c->server, 1)) {
		/* Waits for a lock that only another process's end frees: it takes that long. */
		for (size_t i = 0; i < BACKENDS; i++)
			if (&servers[i] != c->server)
				backend_terminate(&servers[i].b);
		serve(c->server, 1);
	}
	if (c->reply_count == 0)
		return NULL;
	struct pg_result *r = c->reply[0];
	memmove(c->reply, c->reply + 1, --c->reply_count * sizeof(c->reply[0]));
	if (r != NULL)
		heap_adopt(r);
	return r;
}

/* Blocking: it is done when it returns, or the link broke before or after it was. */
PGresult *PQexecParams(PGconn *c, const char *sql, int count, const Oid *types,
		       const char *const *values, const int *lengths, const int *formats,
		       int result_format)
{
	struct param param[8] = {{NULL, 0}};
	struct pg_result *r = NULL;
	uint16_t rollup;
	call_point();
	struct server *s = c->server;
	if (s == NULL)
		return NULL;
	enum sql_kind kind = sql_kind_of(sql, &rollup);
	bool breaks = fault_on(FAULT_WAREHOUSE_LINK) &&
		      rng_one_in(RNG_WAREHOUSE, kind == SQL_COMMIT ? 20 : 150);
	for (int i = 0; i < count; i++)
		if (values[i] != NULL)
			param[i] = (struct param){(const uint8_t *)values[i], strlen(values[i])};
	if (!breaks || rng_one_in(RNG_WAREHOUSE, 2)) {
		enum process was = running;
		running = PROCESS_NONE;
		if (kind == SQL_BEGIN)
			s->b.synchronous = strstr(sql, "synchronous_commit = on") != NULL;
		r = warehouse_execute(&s->b, kind, rollup, param, count);
		running = was;
	}
	if (breaks) {
		free(r);
		r = NULL;
		orphan(s);
	}
	if (r != NULL)
		heap_adopt(r);
	return r;
}

PGresult *PQexec(PGconn *c, const char *sql)
{
	return PQexecParams(c, sql, 0, NULL, NULL, NULL, NULL, 0);
}

void PQclear(PGresult *r)
{
	free(r);
}

ExecStatusType PQresultStatus(const PGresult *r)
{
	return r == NULL ? PGRES_FATAL_ERROR : r->status;
}

char *PQcmdTuples(PGresult *r)
{
	snprintf(r->command_rows, sizeof(r->command_rows), "%d", r->rows);
	return r->command_rows;
}

char *PQcmdStatus(PGresult *r)
{
	return r->command;
}

char *PQresultErrorField(const PGresult *r, int field)
{
	if (r == NULL || r->sqlstate[0] == '\0')
		return NULL;
	return field == PG_DIAG_SQLSTATE || field == PG_DIAG_MESSAGE_PRIMARY
		       ? (char *)(uintptr_t)r->sqlstate
		       : NULL;
}

int PQntuples(const PGresult *r)
{
	return r->rows;
}

int PQnfields(const PGresult *r)
{
	return r->columns;
}

int PQgetisnull(const PGresult *r, int row, int column)
{
	return r->cell[row * r->columns + column].p == NULL;
}

int PQgetlength(const PGresult *r, int row, int column)
{
	return (int)r->cell[row * r->columns + column].len;
}

char *PQgetvalue(const PGresult *r, int row, int column)
{
	static char empty[] = "";
	const uint8_t *p = r->cell[row * r->columns + column].p;
	return p == NULL ? empty : (char *)(uintptr_t)p;
}
