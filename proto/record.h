/*
 * record: struct change and struct schema to protobuf (change.proto) and
 * back. Pure: no files, no clock. What is read is checked: a change that
 * record_read_change returns is safe to use whatever the bytes were.
 *
 * Transactions are built and taken apart field by field (joined fields are
 * the message, by protobuf's rules), so that nothing here needs more memory
 * than one change.
 */
#ifndef PROTO_RECORD_H
#define PROTO_RECORD_H

#include "proto/base/arena.h"
#include "proto/base/buf.h"
#include "proto/change.h"

/* Field numbers of Schemas, Transaction and Transactions, for record_next_field. */
enum { SCHEMAS_SCHEMA = 1 };
enum { TRANSACTION_HEAD = 1, TRANSACTION_CHANGE = 2 };
enum { TRANSACTIONS_TRANSACTION = 1 };

/* What a segment belongs to and where it stands (payload of its first frame). */
struct record_segment {
	uint64_t system_id;
	uint32_t timeline;
	struct slice pipeline;
	struct slice slot;
	uint32_t generation;
	struct lsn start;
	uint64_t salt;
	int64_t created_us;
	struct lsn gap_from; /* LSN_NONE, or: nothing between it and start was ever received */
	uint64_t asked;	     /* hash of what was asked of the core */
	const struct spool_memory *memory;
	size_t memory_count;
};

struct record_head {
	uint32_t xid;
	struct lsn commit; /* start of the commit record */
	struct lsn end;	   /* commit end LSN */
	int64_t commit_us;
	bool outside; /* no transaction: a message that stands alone */
};

/* Memory that packing reuses; zero it before first use. About 20 kB: not for the stack. */
struct record_scratch {
	struct record_tuple_scratch {
		uint8_t kinds[CHANGE_COLUMNS_MAX];
		uint32_t lengths[CHANGE_COLUMNS_MAX];
		struct buf data;
	} tuple[2];
};

void record_scratch_release(struct record_scratch *s);

void record_add_segment(struct buf *out, const struct record_segment *s);
/* The strings live in the arena. False when it is not a Segment. */
bool record_read_segment(struct slice in, struct arena *a, struct record_segment *ret) RT_MUSTCHECK;

/* Appends a field `schema` of Schemas. */
void record_add_schema(struct buf *out, const struct schema *s);
/* All in the arena. False when it is not a Schema, or its hash is not that of its content. */
bool record_read_schema(struct slice in, struct arena *a, struct schema *ret) RT_MUSTCHECK;

/*
 * Appends c (a row, TRUNCATE or MESSAGE) as a field `change` of Transaction.
 * ERR_PERMANENT, with out unchanged: a tuple whose number of columns is not
 * the schema's, or more bytes than a frame can hold.
 */
int record_add_change(struct buf *out, const struct change *c, struct record_scratch *s,
		      struct rt_err *err) RT_MUSTCHECK;
/* Appends a field `head` of Transaction. */
void record_add_head(struct buf *out, const struct record_head *h);
/* Appends a field `transaction` of Transactions, with changes as record_add_change made them. */
void record_add_transaction(struct buf *out, const struct record_head *h, struct slice changes);

/*
 * The next length-delimited field of a message; others are passed over.
 * False at the end, or with r->failed when it is not protobuf.
 */
bool record_next_field(struct rd *r, uint32_t *ret_number, struct slice *ret) RT_MUSTCHECK;
/* Reads a TransactionHead into *h, leaving alone what is not in it (zero it before). a: for unpacking only. */
bool record_read_head(struct slice in, struct arena *a, struct record_head *h) RT_MUSTCHECK;

/* The schema of a hash, or NULL. */
typedef const struct schema *record_find_schema(void *ctx, uint64_t hash);
/* All in the arena but schemas. ERR_PERMANENT saying what is wrong with the bytes. */
int record_read_change(struct slice in, struct arena *a, record_find_schema *find, void *ctx,
		       struct change *ret, struct rt_err *err) RT_MUSTCHECK;

#endif
