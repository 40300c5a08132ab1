/*
 * custody: the second connection to the core, ordinary SQL: what the slot
 * costs the core (facts) and when it is lost at that rate, the heartbeat, and
 * a look at the catalog now and then. Nothing here ever holds up the
 * stream: it connects, asks and fails by itself, without blocking a turn.
 *
 * The heartbeat is a transactional logical message, prefix rolag.heartbeat,
 * whose content is text: "1 <µs since 1970-01-01 UTC by the core's clock>"
 * (1 = version of this format).
 */
#ifndef CDC_CAPTURE_CUSTODY_H
#define CDC_CAPTURE_CUSTODY_H

#include <libpq-fe.h>

#include "cdc/capture/forecast.h"
#include "cdc/capture/look.h"
#include "proto/base/loop.h"
#include "proto/base/rt.h"
#include "proto/lsn.h"
#include "proto/pg/pgconn.h"

struct custody_options {
	const char *conninfo;
	const char *application_name;
	const char *slot;
	int64_t heartbeat_interval_us;
	const char *const *publication; /* names, LOOK_PUBLICATIONS_MAX at most */
	int publication_count;
	const struct published_want *want; /* tables that must be published */
	int want_count;
	int64_t look_interval_us;
};

/* What the core said last. */
struct custody_facts {
	int64_t asked_at_us; /* monotonic; 0: never */
	bool in_recovery;
	struct lsn current; /* the core's WAL position */
	struct lsn restart; /* from here the core keeps WAL for the slot; none: no slot */
	struct lsn confirmed;
	char wal_status[16];	    /* reserved, extended, unreserved, lost */
	int64_t safe_wal_bytes;	    /* until the slot is lost; −1: no limit */
	int oldest_pid;		    /* of the transaction that was open longest, 0 none seen */
	int64_t oldest_xact_age_us; /* since it began */
};

enum custody_state {
	CUSTODY_DOWN,
	CUSTODY_CONNECTING,
	CUSTODY_IDLE,
	CUSTODY_ASKING,
	CUSTODY_LOOKING,
	CUSTODY_BEATING
};

struct custody {
	struct custody_options o;
	/* Something an operator should know: a fixed message and key=value fields. */
	void (*notice)(void *ctx, const char *message, const char *fields);
	void *ctx;
	enum custody_state state;
	PGconn *conn;
	PostgresPollingStatusType polling; /* while connecting */
	struct pgc_backoff backoff;
	int64_t due_us;	      /* DOWN: next attempt; else: when the state has lasted too long */
	int64_t ask_at_us;    /* next facts */
	int64_t beat_at_us;   /* next heartbeat */
	int64_t look_at_us;   /* next look */
	bool beat_refused;    /* said so already */
	bool failure_told;    /* said so already; cleared when it works again */
	bool connected_anew;  /* set at each connection; the owner clears it */
	bool core_is_closing; /* the core shuts down: it waits for its walsenders, so let it go */
	uint64_t beats;
	struct custody_facts facts;
	struct forecast forecast;
	struct look look; /* the newest */
	bool looked_anew; /* set at each; the owner clears it */
};

/* Strings stay the caller's. */
void custody_init(struct custody *c, const struct custody_options *o,
		  void (*notice)(void *ctx, const char *message, const char *fields), void *ctx);
void custody_release(struct custody *c);
/* To be added to the loop. Its dispatch never fails. */
struct loop_source custody_source(struct custody *c);
/* current − restart: WAL that the core keeps because of the slot; 0 when not known. */
uint64_t custody_retained_bytes(const struct custody *c);

#endif
