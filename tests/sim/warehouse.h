/*
 * warehouse: what the statements of apply mean. Guarantees: a transaction is
 * atomic; what commits is compared with the model at once; a crash loses the
 * newest commits that were not flushed, and nothing else.
 */
#ifndef TESTS_SIM_WAREHOUSE_H
#define TESTS_SIM_WAREHOUSE_H

#include <libpq-fe.h>

#include "tests/sim/sim.h"

enum sql_kind {
	SQL_BEGIN,
	SQL_COMMIT,
	SQL_ROLLBACK,
	SQL_SET,
	SQL_LEDGER,
	SQL_HOLD,
	SQL_TRIM,
	SQL_POSITION,
	SQL_SEEN,
	SQL_ROWS,	  /* history and latest */
	SQL_BEGIN_LATEST, /* latest from history, of entities that are not there */
	SQL_RENEW_LATEST, /* … that are */
	SQL_FETCH,
	SQL_COPY,
	SQL_COPY_LATEST,
	SQL_LOCK_FENCE,
	SQL_RAISE,
	SQL_APPLIED,
	SQL_TERMINATE,
	SQL_PARK, /* an entity or a rollup */
};

/* What the ledger's statements check, by their text: a fake that knew better would hide that they do not. */
struct ledger_checks {
	bool epoch, order, share;
};

/* What the text means; *ret_rollup where it is about one. Fails the schedule for a text that is not known. */
enum sql_kind sql_kind_of(const char *sql, uint16_t *ret_rollup);

enum op_kind { OP_HISTORY, OP_LATEST, OP_LEDGER, OP_TRIM, OP_SEEN, OP_RAISE };

struct op {
	enum op_kind kind;
	uint16_t rollup;
	uint32_t entity, version, old; /* old: what it replaced, for the undo */
	struct lsn lsn;
	int64_t epoch, old_epoch;
	char owner[64], old_owner[64];
	enum process process; /* that takes the fence */
	char run_id[40];
	char wrong[200]; /* why it must not commit */
};

enum backend_state { BACKEND_NONE, BACKEND_LIVE, BACKEND_ZOMBIE };

/* The server's end of a connection. */
struct backend {
	enum backend_state state;
	enum process owner;
	int pid;
	bool in_transaction, failed, synchronous;
	bool shares_fence, has_fence;
	struct ledger_checks checks[2]; /* of SQL_LEDGER, SQL_HOLD, as prepared */
	struct op *op;
	size_t op_count, op_cap;
};

struct param {
	const uint8_t *p; /* NULL: NULL */
	size_t len;
};

/* A result; its cells lie behind it. */
struct pg_result {
	ExecStatusType status;
	char command[16], command_rows[12];
	char sqlstate[6];
	int rows, columns;
	struct param cell[];
};

struct pg_result *result_new(ExecStatusType status, const char *command);
struct pg_result *result_error(const char *sqlstate);

struct ledger_checks ledger_checks_of(const char *sql);
/* NULL: it has to wait for another backend. */
struct pg_result *warehouse_execute(struct backend *b, enum sql_kind kind, uint16_t rollup,
				    const struct param *param, int count);
/* All that was COPYed. */
struct pg_result *warehouse_copy(struct backend *b, uint16_t rollup, bool latest,
				 struct slice data);
/* The backend ends; what it had open is rolled back. */
void backend_end(struct backend *b);
/* All there are (fake_libpq.c); NULL behind the last. */
void servers_begin(void);
struct backend *backend_each(size_t i);
void backend_terminate(struct backend *b);

#endif
