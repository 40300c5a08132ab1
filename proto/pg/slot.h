/*
 * slot: creation of logical replication slots, for the pipeline itself and for
 * first loads. By the replication command, never by the SQL function: that one
 * runs under statement_timeout, and hands out no snapshot.
 */
#ifndef PROTO_PG_SLOT_H
#define PROTO_PG_SLOT_H

#include "proto/pg/pgconn.h"

enum slot_snapshot { SLOT_NOEXPORT, SLOT_EXPORT };

struct slot_created {
	struct lsn
		consistent_point; /* the stream begins here: what committed before is in the snapshot */
	char snapshot[64];	  /* for SET TRANSACTION SNAPSHOT; "" without export */
};

/* What creation waits for: the oldest transaction that was open when it began. */
struct slot_wait {
	int64_t waited_us;
	int pid;	     /* 0: not known (no right to see it, or no monitor connection) */
	int64_t xact_age_us; /* of pid's transaction */
};

struct slot_options {
	const char *name;
	bool temporary; /* gone when the connection ends */
	bool failover;	/* have it copied to standbys, where the server can (17 and later) */
	enum slot_snapshot snapshot;
	/*
	 * Creation waits until every transaction that was open at its start has
	 * ended, however long that takes. After 2 s, and every 10 s from then,
	 * on_wait is told what it waits for, asked over monitor (a second
	 * connection, not replication; may be NULL). A true return gives up:
	 * the server is asked to cancel, and the call fails with ERR_RETRY.
	 */
	PGconn *monitor;
	bool (*on_wait)(void *ctx, const struct slot_wait *w);
	bool (*on_turn)(
		void *ctx); /* five times a second while it waits, may be NULL; true gives up */
	void *ctx;
};

/*
 * CREATE_REPLICATION_SLOT … LOGICAL pgoutput on a replication connection, in
 * blocking mode. The exported snapshot lives until the next command on the
 * connection or its end. ERR_PERMANENT with the mend when the name is taken,
 * slots are used up or wal_level is not logical. two_phase is never asked for.
 */
int slot_create(PGconn *replication, const struct slot_options *o, struct slot_created *ret,
		struct rt_err *err) RT_MUSTCHECK;

/* Appends the replication command, as a server of this version (150008) takes it. */
void slot_create_sql(struct buf *out, const struct slot_options *o, int server_version);

#endif
