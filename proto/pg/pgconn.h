/*
 * pgconn: libpq connections as we want them: named, with time-outs that find
 * a dead peer within seconds, and errors that say which database said what.
 * Server messages pass through without their DETAIL (it may quote rows).
 */
#ifndef PROTO_PG_PGCONN_H
#define PROTO_PG_PGCONN_H

#include <libpq-fe.h>

#include "proto/base/buf.h"
#include "proto/base/rt.h"
#include "proto/lsn.h"

struct loop;

struct pgc_options {
	const char *what;     /* "core" or "warehouse": how messages call it */
	const char *conninfo; /* libpq connection string or URI; secrets by libpq's own means */
	const char *application_name; /* shown in pg_stat_activity */
	bool replication;	      /* a walsender session (replication=database) */
	struct loop *
		loop; /* NULL, or whose stop signal ends the wait; its background sources are served meanwhile */
	bool by_loop; /* from its first statement on, as pgc_wait_by */
};

/*
 * Connects, blocking for at most 10 s (or until a stop signal); client_encoding UTF8, TCP keepalives,
 * tcp_user_timeout 10 s. ERR_RETRY when the server is away, starting or
 * full; ERR_PERMANENT for what only a person mends (password, no such
 * database or role, bad conninfo, no REPLICATION right), with the mend.
 */
int pgc_connect(PGconn **ret, const struct pgc_options *o, struct rt_err *err) RT_MUSTCHECK;
/*
 * Begins the same without waiting: *ret is to be driven by PQconnectPoll, and
 * may already be CONNECTION_BAD. For connections that must not hold up a turn.
 */
int pgc_connect_start(PGconn **ret, const struct pgc_options *o, struct rt_err *err) RT_MUSTCHECK;
void pgc_close(PGconn *c); /* NULL is fine */
/*
 * From here on pgc_exec and pgc_query on this connection wait by the loop
 * (loop_wait): its background sources are served while there is no answer, and
 * a stop signal ends the wait with ERR_RETRY. One connection of a process has
 * that; it ends with pgc_close, or with NULL.
 */
void pgc_wait_by(PGconn *c, struct loop *loop);
/* Asks the server to end the statement under way, which then fails (57014). Best effort. */
void pgc_cancel(PGconn *c);

/*
 * Runs one command (simple protocol, so also replication commands), formatted.
 * *ret (may be NULL) is PQclear'ed by the caller. An SQL error is classified by
 * SQLSTATE: classes 08, 53, 57, 40 and 55006 → ERR_RETRY, else ERR_PERMANENT.
 */
int pgc_exec(PGconn *c, PGresult **ret, struct rt_err *err, const char *fmt, ...)
	RT_PRINTF(4, 5) RT_MUSTCHECK;
/*
 * The same, for turns that must end: no answer within limit_us is ERR_RETRY,
 * and all that can be done with the connection then is to close it.
 */
int pgc_exec_within(PGconn *c, int64_t limit_us, PGresult **ret, struct rt_err *err,
		    const char *fmt, ...) RT_PRINTF(5, 6) RT_MUSTCHECK;
/* One command with text parameters ($1…; NULL = SQL NULL), result in text. */
int pgc_query(PGconn *c, PGresult **ret, struct rt_err *err, const char *sql, int count,
	      const char *const *params) RT_MUSTCHECK;
/* Sets err from a failed result (or, with res NULL, from the connection); returns its code. */
int pgc_fail(PGconn *c, const PGresult *res, struct rt_err *err, const char *doing);
/* What the server said in a failed result, where that cannot have a row in it; else NULL. */
const char *pgc_said(const PGresult *res);
/* Did the last result fail with this SQLSTATE ("42P01")? */
bool pgc_is_state(const PGresult *res, const char *sqlstate);
/* The same of an error that pgc_exec, pgc_query or pgc_fail has set, maybe with context since. */
bool pgc_err_is_state(const struct rt_err *err, const char *sqlstate);

/* Appends "name" quoted as an SQL identifier, always in double quotes. */
void pgc_ident(struct buf *b, const char *name);
/* Appends 'text' as an SQL literal (standard_conforming_strings on; E'' is not used). */
void pgc_literal(struct buf *b, const char *text);
/* Field as LSN; LSN_NONE when NULL or malformed. */
struct lsn pgc_get_lsn(const PGresult *res, int row, int column);

/* What IDENTIFY_SYSTEM (on a replication connection) says. */
struct pgc_system {
	uint64_t system_id;
	uint32_t timeline;
	struct lsn flushed;
};
int pgc_identify_system(PGconn *replication, struct pgc_system *ret,
			struct rt_err *err) RT_MUSTCHECK;

/* Exponential backoff with jitter: 100 ms doubling to 10 s. */
struct pgc_backoff {
	int attempt;
	uint64_t seed;
};
/* µs to wait before the next attempt; counts it. */
int64_t pgc_backoff_next(struct pgc_backoff *b);
void pgc_backoff_reset(struct pgc_backoff *b);

#endif
