/*
 * stream: the walsender client: one libpq replication connection, kept alive,
 * reconnected with backoff, and read in the loop's turns without blocking
 * (PostgreSQL manual, "Streaming Replication Protocol" and "Logical Streaming
 * Replication Protocol").
 *
 * It knows connections, slots and CopyBoth frames; what the messages mean is
 * its handler's business. Connecting blocks the turn (some ms; up to 10 s when
 * the core does not answer, 30 s when it takes the connection and then does
 * not; a name server's time comes on top); nothing else does.
 */
#ifndef CDC_CAPTURE_STREAM_H
#define CDC_CAPTURE_STREAM_H

#include <libpq-fe.h>

#include "cdc/capture/progress.h"
#include "proto/base/loop.h"
#include "proto/base/rt.h"
#include "proto/lsn.h"
#include "proto/pg/pgconn.h"
#include "proto/pg/slot.h"

/* What is wrong with the slot that a new one must mend. */
enum stream_loss {
	STREAM_SLOT_GOOD,
	STREAM_SLOT_GONE,
	STREAM_SLOT_INVALIDATED, /* the core has thrown away WAL that it needed */
	STREAM_SLOT_WITHOUT_WAL, /* the core has lost WAL that it was to keep for it */
	STREAM_SLOT_UNDECODABLE, /* its publication did not exist when a change was made */
};

enum stream_binary { STREAM_BINARY_AUTO, STREAM_BINARY_ON, STREAM_BINARY_OFF };

struct stream_options {
	const char *conninfo;
	const char *application_name;	/* also tells our own stale walsender from a stranger's */
	const char *slot;		/* a pgoutput slot of this database */
	const char *const *publication; /* names */
	int publication_count;
	enum stream_binary binary; /* AUTO: on, unless a published type cannot be sent so */
};

/* What the core said when we connected. */
struct stream_facts {
	struct prog_core core;
	int64_t wal_sender_timeout_us; /* 0: the server never gives up on us */
	bool in_recovery;	       /* a standby */
	enum stream_loss loss;	       /* not GOOD: the slot was made anew in this attempt */
	int server_version;	       /* as PQserverVersion: 150008 */
	bool binary;
};

struct stream_handler {
	void *ctx;
	/*
	 * The slot is lost; f->core.confirmed means nothing. 0: drop it and make
	 * a new one, which begins at the core's present; else the attempt fails.
	 */
	int (*slot_lost)(void *ctx, const struct stream_facts *f, struct rt_err *err);
	/* While the core makes it (it waits for old transactions to end): as in slot_options. */
	bool (*slot_waits)(void *ctx, const struct slot_wait *w);
	bool (*slot_turn)(void *ctx);
	/*
	 * Connected, not started yet: checks that this is our core, and sets
	 * where to start. ERR_RETRY or worse ends the attempt.
	 */
	int (*connected)(void *ctx, const struct stream_facts *f, struct lsn *ret_start,
			 struct rt_err *err);
	/* One pgoutput message (borrowed until return); lsn as the server put it (0 for some). */
	int (*data)(void *ctx, struct lsn lsn, struct slice bytes, struct rt_err *err);
	/* Everything that ends up to `end` was sent; reply: the core waits for an answer. */
	int (*keepalive)(void *ctx, struct lsn end, bool reply, struct rt_err *err);
	/* The stream broke (or the attempt failed) for this reason; tried again in wait_us. */
	int (*disconnected)(void *ctx, const struct rt_err *why, int64_t wait_us,
			    struct rt_err *err);
	/* Something an operator should know, once each: a fixed message and key=value fields. */
	void (*notice)(void *ctx, const char *message, const char *fields);
};

/* Bytes that one turn reads at most, so that writing and answering get their share. */
#define STREAM_TURN_BYTES ((size_t)1 << 20)

/*
 * While behind, a read that found less than this leaves the socket alone for
 * STREAM_REST_US: the walsender sends each row by itself, and a reader that
 * wakes for each makes it slower (measured: 70,500 against 96,500 rows/s).
 */
#define STREAM_GULP_BYTES ((size_t)8 << 10)
#define STREAM_REST_US	  300

struct stream {
	struct stream_options o;
	struct stream_handler h;
	PGconn *conn; /* NULL while waiting for the next attempt */
	struct stream_facts facts;
	struct pgc_backoff backoff;
	int64_t retry_at_us;
	bool paused;		/* leave the socket unread (spool full); still answers */
	bool behind;		/* catching up: read in gulps */
	int64_t rest_until_us;	/* leave the socket alone until then */
	bool pending_input;	/* the turn's budget ended before libpq's buffer did */
	bool text_only;		/* the server refused binary once */
	enum stream_loss found; /* what the end of the last stream said of the slot */
	bool flushing;		/* output waits for the socket */
	bool reply_wanted;
	struct prog_feedback told; /* last status sent */
	struct prog_feedback next; /* newest to tell */
	int64_t told_at_us;
	int64_t heard_at_us;
	int64_t connected_at_us; /* 0 while not */
	int busy_pid;		 /* who held the slot at the last attempt, 0 nobody */
	char busy_reply[48];
	int64_t busy_since_us; /* since when its last reply has not changed */
};

/* Options' strings stay the caller's and must outlive s. The first attempt is due at once. */
void stream_init(struct stream *s, const struct stream_options *o, const struct stream_handler *h);
/* Closes without a word (see stream_stop). */
void stream_release(struct stream *s);
/*
 * A value of some column says nothing in binary. True: the stream is in binary
 * and may be in text (binary AUTO): the next connection will be; drop this one.
 */
bool stream_wants_text(struct stream *s);
/* To be added to the loop. */
struct loop_source stream_source(struct stream *s);
bool stream_is_running(const struct stream *s);
/* True: stop reading, keep answering; false: go on. */
void stream_pause(struct stream *s, bool paused);
/* True: there is much to read, so latency counts less than the core's CPU. */
void stream_behind(struct stream *s, bool behind);
/*
 * Takes the newest positions and sends a status update where one is due: the
 * core asked, a position moved (at most every 100 ms), or a third of
 * wal_sender_timeout (at most 3 s) passed. Call at the end of each turn.
 */
int stream_status(struct stream *s, const struct prog_feedback *f, int64_t now_us,
		  struct rt_err *err) RT_MUSTCHECK;
/* The core is there again, as far as another connection knows: do not wait for the next attempt. */
void stream_hurry(struct stream *s);
/* Ends the connection for a reason of the caller's; it will be tried again. */
int stream_drop(struct stream *s, const struct rt_err *why, int64_t now_us,
		struct rt_err *err) RT_MUSTCHECK;
/* The same, and the slot is of no use any more: the next attempt takes it for undecodable. */
int stream_lose_slot(struct stream *s, const struct rt_err *why, int64_t now_us,
		     struct rt_err *err) RT_MUSTCHECK;
/*
 * Clean end: the final status, CopyDone, and at most 2 s for the server to
 * take both (what it still sends is thrown away). Best effort.
 */
void stream_stop(struct stream *s, const struct prog_feedback *f);

#endif
