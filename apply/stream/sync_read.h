/*
 * sync_read: a relation of the core, chunk by chunk, by binary COPY. Each
 * chunk is a transaction of its own, read only, that is never left idle:
 * beginning, LSN, COPY and end are one message. The next one is asked for the
 * moment the one before has come.
 */
#ifndef APPLY_STREAM_SYNC_READ_H
#define APPLY_STREAM_SYNC_READ_H

#include <libpq-fe.h>

#include "apply/stream/sync_unit.h"
#include "proto/change.h"
#include "proto/pg/types.h"
#include "proto/settings.h"

/* Where a part of the key is in a row: a text conversion for every row costs the core more than the row does. */
struct reader_key {
	uint16_t column; /* of the row */
	bool as_text;	 /* its type is none that we can print */
	enum pgt type;
};

struct sync_reader {
	const struct settings *settings;
	const struct sync_unit *unit;
	PGconn *c;
	struct arena arena;   /* schema's names */
	struct schema schema; /* of the SELECT list */
	struct reader_key key[SYNC_KEY_MAX];
	uint16_t text_keys; /* columns behind those of the SELECT list: parts of the key as text */
	struct sync_key
		at; /* where it began, as text; of the row returned last, as the columns have it */
	bool moved; /* a row was returned */
	struct lsn seen;     /* everything that the chunk at hand shows was committed up to here */
	uint64_t chunk_rows; /* of the chunk at hand, so far */
	int64_t asked_us;    /* monotonic, when it was asked for */
	bool asked, copying, headed, done;
};

/* c: an ordinary connection to the core, which is the reader's from here on. from: the row to go on behind. */
int sync_reader_open(struct sync_reader *r, const struct settings *s, const struct sync_unit *unit,
		     PGconn *c, const struct sync_key *from, struct rt_err *err) RT_MUSTCHECK;
void sync_reader_close(struct sync_reader *r);
/* Closes it, but hands out its connection, behind the last row. */
PGconn *sync_reader_leave(struct sync_reader *r);

enum sync_read { SYNC_READ_WAIT, SYNC_READ_ROW, SYNC_READ_END };

/*
 * The next row as an INSERT (its bytes in a, its schema the reader's), with
 * the LSN up to which what it shows was committed. SYNC_READ_WAIT: poll
 * sync_reader_fd for input. Negative: the connection broke (ERR_RETRY), or
 * what the core says cannot be.
 */
int sync_reader_next(struct sync_reader *r, struct arena *a, struct change *ret,
		     struct rt_err *err) RT_MUSTCHECK;
/* The key of the row returned last (before the first: of the one to go on behind), as text. */
int sync_reader_key(const struct sync_reader *r, struct sync_key *ret,
		    struct rt_err *err) RT_MUSTCHECK;
int sync_reader_fd(const struct sync_reader *r);
/* Behind the last row: an LSN that everything read so far was committed before. Blocking. */
int sync_reader_position(struct sync_reader *r, struct lsn *ret, struct rt_err *err) RT_MUSTCHECK;

#endif
