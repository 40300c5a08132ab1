/*
 * pgconn: connections and commands. Guarantees: an error says which database
 * and which step, carries no row value, and is classified into "again later"
 * or "a person must act".
 */
#include "proto/pg/pgconn.h"

#include <poll.h>
#include <unistd.h>

#include "proto/base/failpoint.h"
#include "proto/base/loop.h"

#define CONNECT_TIMEOUT_US 10000000
#define IDENTIFY_US	   30000000
#define ANSWER_GRACE_US                                                                            \
	2000000 /* for an answer that is waited for by a loop, when that is told to stop */

static int connect_failure(PGconn *c, const struct pgc_options *o, struct rt_err *err)
{
	const char *said = PQerrorMessage(c);
	static const struct {
		const char *says, *mend;
	} permanent[] = {
		{"password authentication failed",
		 "check the role's password (passfile or service)"},
		{"no password supplied",
		 "give the password by passfile, service file or PGPASSWORD"},
		{"no pg_hba.conf entry", "allow this role and address in the server's pg_hba.conf"},
		{"Peer authentication failed", "check the role name or the server's pg_hba.conf"},
		{"does not exist", "create it, or mend the connection string"},
		{"is not permitted to log in", "ALTER ROLE … LOGIN"},
		{"must be superuser or replication role", "ALTER ROLE … REPLICATION"},
		{"permission denied for database", "GRANT CONNECT ON DATABASE …"},
	};
	for (size_t i = 0; i < ARRAY_LEN(permanent); i++)
		if (strstr(said, permanent[i].says) != NULL && strstr(said, "No such file") == NULL)
			return rt_fail(err, ERR_PERMANENT,
				       "cannot connect to the %s: %.600s; mend: %s", o->what, said,
				       permanent[i].mend);
	return rt_fail(err, ERR_RETRY, "cannot connect to the %s: %.800s", o->what, said);
}

/* The connection whose statements wait by a loop: libpq has no place for that in it. */
static struct {
	PGconn *c;
	struct loop *loop;
} waiting;

void pgc_wait_by(PGconn *c, struct loop *loop)
{
	waiting.c = c;
	waiting.loop = loop;
}

static bool waits_by_loop(const PGconn *c)
{
	return waiting.loop != NULL && c == waiting.c;
}

/* Until the socket is ready (1), the time has passed (0), or the loop is told to stop (negative). */
static int wait_socket(PGconn *c, struct loop *loop, short events, int64_t end_us, int64_t grace_us)
{
	struct rt_err ignored;
	struct pollfd p = {.fd = PQsocket(c), .events = events};
	int64_t left = end_us - rt_mono_us();
	if (loop != NULL)
		return loop_wait(loop, p.fd, events, end_us, grace_us, &ignored);
	return left <= 0 ? 0 : poll(&p, 1, (int)(left / 1000) + 1) > 0;
}

/* Drives PQconnectPoll until it is done, the time is up or the loop is told to stop. */
static bool connect_wait(PGconn *c, struct loop *loop)
{
	int64_t end = rt_mono_us() + CONNECT_TIMEOUT_US;
	PostgresPollingStatusType st = PGRES_POLLING_WRITING;
	while (st != PGRES_POLLING_OK && st != PGRES_POLLING_FAILED) {
		short events = st == PGRES_POLLING_READING ? POLLIN : POLLOUT;
		if (rt_mono_us() >= end || PQsocket(c) < 0)
			return false;
		int rc = wait_socket(c, loop, events, end, 0);
		if (rc < 0)
			return false;
		if (rc > 0)
			st = PQconnectPoll(c);
	}
	return st == PGRES_POLLING_OK;
}

static void drop_notice(void *arg, const PGresult *res)
{
	(void)arg;
	(void)res; /* notices may quote what we sent; nothing in them is needed */
}

int pgc_connect_start(PGconn **ret, const struct pgc_options *o, struct rt_err *err)
{
	const char *keys[] = {"dbname",
			      "fallback_application_name",
			      "client_encoding",
			      "keepalives_idle",
			      "keepalives_interval",
			      "keepalives_count",
			      "tcp_user_timeout",
			      "replication",
			      NULL};
	const char *values[] = {o->conninfo, o->application_name,
				"UTF8",	     "5",
				"2",	     "3",
				"10000",     o->replication ? "database" : NULL,
				NULL};
	char *parse_error = NULL;
	PQconninfoOption *parsed = PQconninfoParse(o->conninfo, &parse_error);
	if (parsed == NULL) {
		PQfreemem(parse_error); /* may quote a password */
		return rt_fail(
			err, ERR_PERMANENT,
			"the connection string of the %s is not valid; mend: %s.connect in the "
			"configuration",
			o->what, o->what);
	}
	PQconninfoFree(parsed);
	PGconn *c = PQconnectStartParams(keys, values, 1);
	if (c == NULL)
		rt_bug(__FILE__, __LINE__, "PQconnectStartParams");
	PQsetNoticeReceiver(c, drop_notice, NULL);
	*ret = c;
	return 0;
}

int pgc_connect(PGconn **ret, const struct pgc_options *o, struct rt_err *err)
{
	PGconn *c;
	int started = pgc_connect_start(&c, o, err);
	if (started != 0)
		return started;
	FAILPOINT_FD(PG_CONNECTING, PQsocket(c));
	if (PQstatus(c) == CONNECTION_BAD || !connect_wait(c, o->loop) || FP_FAILS(PG_CONNECT)) {
		int rc = PQerrorMessage(c)[0] != '\0'
				 ? connect_failure(c, o, err)
				 : rt_fail(err, ERR_RETRY, "the %s did not answer within 10 s",
					   o->what);
		PQfinish(c);
		return rc;
	}
	if (o->by_loop)
		pgc_wait_by(c, o->loop);
	if (!o->replication) {
		/* What libpq keeps of an error, said when the connection is lost, must quote no row. */
		PQsetErrorVerbosity(c, PQERRORS_SQLSTATE);
		int rc = pgc_exec(c, NULL, err, "SET application_name = '%s'", o->application_name);
		if (rc != 0) {
			pgc_close(c);
			return rc;
		}
	}
	*ret = c;
	return 0;
}

void pgc_cancel(PGconn *c)
{
	char ignored[256];
	PGcancel *k = PQgetCancel(c);
	if (k != NULL)
		PQcancel(k, ignored, sizeof(ignored));
	PQfreeCancel(k);
}

void pgc_close(PGconn *c)
{
	if (waits_by_loop(c))
		pgc_wait_by(NULL, NULL);
	if (c != NULL)
		PQfinish(c);
}

static bool is_temporary(const char *state)
{
	/* 25006, read only: a standby that is about to be promoted, or a primary that was. */
	static const char *const classes[] = {"08",    "53",	"57",	 "40",
					      "55006", "55P03", "25P03", "25006"};
	for (size_t i = 0; i < ARRAY_LEN(classes); i++)
		if (strncmp(state, classes[i], strlen(classes[i])) == 0)
			return true;
	return false;
}

/*
 * Of these classes the server speaks of names. The others quote values (22, data
 * exceptions; 23, constraints), or say what somebody's trigger, view or foreign
 * server wants.
 */
static bool speaks_of_names(const char *state)
{
	static const char *const classes[] = {"08", "0A", "0L", "0P", "21", "24", "25", "26",
					      "28", "2B", "2D", "34", "3B", "3D", "3F", "40",
					      "42", "53", "54", "55", "57", "58", "F0", "XX"};
	for (size_t i = 0; i < ARRAY_LEN(classes); i++)
		if (strncmp(state, classes[i], 2) == 0)
			return true;
	return false;
}

const char *pgc_said(const PGresult *res)
{
	const char *state = res != NULL ? PQresultErrorField(res, PG_DIAG_SQLSTATE) : NULL;
	const char *from = res != NULL ? PQresultErrorField(res, PG_DIAG_SOURCE_FUNCTION) : NULL;
	/* RAISE of PL/pgSQL takes any state, and any text. */
	if (state == NULL || !speaks_of_names(state) ||
	    (from != NULL && strcmp(from, "exec_stmt_raise") == 0))
		return NULL;
	return PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
}

int pgc_fail(PGconn *c, const PGresult *res, struct rt_err *err, const char *doing)
{
	const char *state = res != NULL ? PQresultErrorField(res, PG_DIAG_SQLSTATE) : NULL;
	if (state == NULL) {
		const char *said = PQerrorMessage(c);
		return rt_fail(err, ERR_RETRY, "%s: connection lost: %.700s", doing,
			       said[0] != '\0' ? said : "no answer");
	}
	const enum rt_code code = is_temporary(state) ? ERR_RETRY : ERR_PERMANENT;
	const char *said = pgc_said(res);
	if (said != NULL)
		return rt_fail(err, code, "%s: %s (SQLSTATE %s)", doing, said, state);
	const char *column = PQresultErrorField(res, PG_DIAG_COLUMN_NAME);
	const char *constraint = PQresultErrorField(res, PG_DIAG_CONSTRAINT_NAME);
	return rt_fail(err, code, "%s: SQLSTATE %s%s%s%s%s", doing, state,
		       column != NULL ? ", column " : "", column != NULL ? column : "",
		       constraint != NULL ? ", constraint " : "",
		       constraint != NULL ? constraint : "");
}

bool pgc_is_state(const PGresult *res, const char *sqlstate)
{
	const char *state = res != NULL ? PQresultErrorField(res, PG_DIAG_SQLSTATE) : NULL;
	return state != NULL && strcmp(state, sqlstate) == 0;
}

/* As pgc_fail writes it. */
bool pgc_err_is_state(const struct rt_err *err, const char *sqlstate)
{
	static const char before[] = "SQLSTATE ";
	for (const char *at = err->msg; (at = strstr(at, before)) != NULL; at++)
		if (strncmp(at + sizeof(before) - 1, sqlstate, 5) == 0)
			return true;
	return false;
}

/* Takes res over: hands it out, or turns it into an error. */
static int finish(PGconn *c, PGresult *res, PGresult **ret, const char *sql, struct rt_err *err)
{
	ExecStatusType st = PQresultStatus(res);
	if (st != PGRES_COMMAND_OK && st != PGRES_TUPLES_OK && st != PGRES_COPY_IN &&
	    st != PGRES_COPY_OUT && st != PGRES_COPY_BOTH) {
		char doing[80];
		snprintf(doing, sizeof(doing), "%.*s", (int)strcspn(sql, "('\n"), sql);
		int rc = pgc_fail(c, res, err, doing);
		PQclear(res);
		return rc;
	}
	if (ret != NULL)
		*ret = res;
	else
		PQclear(res);
	return 0;
}

/* Appends the formatted text, NUL-terminated; returns it. */
static const char *format(struct buf *b, const char *fmt, va_list ap)
{
	va_list again;
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, ap);
	RT_ASSERT(n >= 0);
	char *text = (char *)buf_reserve(b, (size_t)n + 1);
	vsnprintf(text, (size_t)n + 1, fmt, again);
	va_end(again);
	return text;
}

/* Waits until PQgetResult has something to give. False: not by then, or the loop is told to stop. */
static bool answer_wait(PGconn *c, struct loop *loop, int64_t end_us)
{
	while (PQisBusy(c)) {
		int rc = wait_socket(c, loop, POLLIN, end_us, ANSWER_GRACE_US);
		if (rc < 0 || (rc == 0 && rt_mono_us() >= end_us))
			return false;
		if (rc > 0 && PQconsumeInput(c) == 0)
			return true; /* which is an error */
	}
	return true;
}

static bool is_copy(const PGresult *res)
{
	ExecStatusType st = PQresultStatus(res);
	return st == PGRES_COPY_IN || st == PGRES_COPY_OUT || st == PGRES_COPY_BOTH;
}

/* What was sent: as PQexec, the last result, or the first that begins a COPY. *late: there was none by then. */
static PGresult *take_result(PGconn *c, struct loop *loop, int64_t end_us, bool *late)
{
	PGresult *last = NULL;
	*late = false;
	while (answer_wait(c, loop, end_us)) {
		PGresult *res = PQgetResult(c);
		if (res == NULL)
			return last;
		PQclear(last);
		last = res;
		if (is_copy(res) || PQstatus(c) == CONNECTION_BAD)
			return last;
	}
	*late = true;
	PQclear(last);
	return NULL;
}

/* The end of a statement that was sent on the connection that waits by a loop. */
static int finish_by_loop(PGconn *c, bool sent, PGresult **ret, const char *sql, struct rt_err *err)
{
	bool late = false;
	PGresult *res = sent ? take_result(c, waiting.loop, LOOP_NEVER, &late) : NULL;
	return late ? rt_fail(err, ERR_RETRY, "%.*s: told to stop", (int)strcspn(sql, " "), sql)
		    : finish(c, res, ret, sql, err);
}

int pgc_exec(PGconn *c, PGresult **ret, struct rt_err *err, const char *fmt, ...)
{
	struct buf sql = BUF_INIT;
	va_list ap;
	va_start(ap, fmt);
	const char *text = format(&sql, fmt, ap);
	va_end(ap);
	int rc = waits_by_loop(c) ? finish_by_loop(c, PQsendQuery(c, text) == 1, ret, text, err)
				  : finish(c, PQexec(c, text), ret, text, err);
	buf_release(&sql);
	return rc;
}

int pgc_exec_within(PGconn *c, int64_t limit_us, PGresult **ret, struct rt_err *err,
		    const char *fmt, ...)
{
	struct buf sql = BUF_INIT;
	bool late = false;
	int rc;
	va_list ap;
	va_start(ap, fmt);
	const char *text = format(&sql, fmt, ap);
	va_end(ap);
	PGresult *res = PQsendQuery(c, text) == 1
				? take_result(c, NULL, rt_mono_us() + limit_us, &late)
				: NULL;
	if (late)
		rc = rt_fail(err, ERR_RETRY, "%.*s: no answer within %lld s",
			     (int)strcspn(text, " "), text, (long long)(limit_us / 1000000));
	else
		rc = finish(c, res, ret, text, err);
	buf_release(&sql);
	return rc;
}

int pgc_query(PGconn *c, PGresult **ret, struct rt_err *err, const char *sql, int count,
	      const char *const *params)
{
	if (waits_by_loop(c))
		return finish_by_loop(
			c, PQsendQueryParams(c, sql, count, NULL, params, NULL, NULL, 0) == 1, ret,
			sql, err);
	return finish(c, PQexecParams(c, sql, count, NULL, params, NULL, NULL, 0), ret, sql, err);
}

void pgc_ident(struct buf *b, const char *name)
{
	buf_u8(b, '"');
	for (const char *p = name; *p != '\0'; p++) {
		if (*p == '"')
			buf_u8(b, '"');
		buf_u8(b, (uint8_t)*p);
	}
	buf_u8(b, '"');
}

void pgc_literal(struct buf *b, const char *text)
{
	buf_u8(b, '\'');
	for (const char *p = text; *p != '\0'; p++) {
		if (*p == '\'')
			buf_u8(b, '\'');
		buf_u8(b, (uint8_t)*p);
	}
	buf_u8(b, '\'');
}

struct lsn pgc_get_lsn(const PGresult *res, int row, int column)
{
	struct lsn l;
	if (PQgetisnull(res, row, column) || !lsn_parse(PQgetvalue(res, row, column), &l))
		return LSN_NONE;
	return l;
}

int pgc_identify_system(PGconn *replication, struct pgc_system *ret, struct rt_err *err)
{
	PGresult *res;
	int rc = pgc_exec_within(replication, IDENTIFY_US, &res, err, "IDENTIFY_SYSTEM");
	if (rc != 0)
		return rc;
	if (PQntuples(res) != 1 || PQnfields(res) < 3)
		rc = rt_fail(err, ERR_PERMANENT, "IDENTIFY_SYSTEM gave no row");
	else
		*ret = (struct pgc_system){
			.system_id = strtoull(PQgetvalue(res, 0, 0), NULL, 10),
			.timeline = (uint32_t)strtoul(PQgetvalue(res, 0, 1), NULL, 10),
			.flushed = pgc_get_lsn(res, 0, 2),
		};
	PQclear(res);
	return rc;
}

int64_t pgc_backoff_next(struct pgc_backoff *b)
{
	int64_t base = INT64_C(100000) << RT_MIN(b->attempt, 7);
	base = RT_MIN(base, INT64_C(10000000));
	b->attempt++;
	if (b->seed == 0)
		b->seed = ((uint64_t)rt_now_us() ^ (uint64_t)getpid() << 32) | 1;
	b->seed ^= b->seed << 13; /* xorshift64: jitter only */
	b->seed ^= b->seed >> 7;
	b->seed ^= b->seed << 17;
	return base / 2 + (int64_t)(b->seed % (uint64_t)base);
}

void pgc_backoff_reset(struct pgc_backoff *b)
{
	b->attempt = 0;
}
