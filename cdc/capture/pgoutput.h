/*
 * pgoutput: decodes one message of PostgreSQL's output plugin `pgoutput`,
 * protocol version 1. Pure: no I/O, clock, logging or state; what a relation
 * OID means is relcache's business.
 *
 * Wire layout (PostgreSQL manual, "Logical Replication Message Formats"; all
 * integers big-endian, a string ends with NUL). One byte says the kind, then:
 *
 *   B Begin     u64 LSN of the commit record, i64 commit time, u32 xid
 *   C Commit    u8 flags = 0, u64 LSN of the commit record, u64 end LSN of
 *               the transaction, i64 commit time
 *   O Origin    u64 commit LSN on the origin, string name
 *   R Relation  u32 oid, string namespace ("" = pg_catalog), string name,
 *               u8 replica identity (d n f i), u16 columns, of each:
 *               u8 flags (1 = key), string name, u32 type oid, i32 typmod
 *   Y Type      u32 oid, string namespace, string name (a domain: its own
 *               oid with its base type's name)
 *   I Insert    u32 relation oid, 'N' tuple
 *   U Update    u32 relation oid, ['K' or 'O' tuple], 'N' tuple
 *   D Delete    u32 relation oid, 'K' or 'O' tuple
 *   T Truncate  u32 relations, u8 flags (1 cascade, 2 restart identity),
 *               u32 relation oid of each
 *   M Message   u8 flags (1 = transactional), u64 LSN, string prefix,
 *               u32 length, content
 *   tuple       u16 columns, of each: 'n' null, 'u' unchanged TOAST, or
 *               't' (text) or 'b' (send format) with u32 length and bytes
 *
 * Times are µs since 2000-01-01 UTC on the wire, since 1970-01-01 UTC in the
 * structs. Versions 2 to 4 add stream messages (S E c A, b P K r) and an xid
 * before the fields of R Y I U D T M inside a stream; they enter here as new
 * kinds of the enum and one more parameter of pgo_decode.
 */
#ifndef CDC_CAPTURE_PGOUTPUT_H
#define CDC_CAPTURE_PGOUTPUT_H

#include "proto/base/arena.h"
#include "proto/base/rt.h"
#include "proto/change.h"
#include "proto/lsn.h"

enum pgo_kind {
	PGO_BEGIN = 'B',
	PGO_COMMIT = 'C',
	PGO_ORIGIN = 'O',
	PGO_RELATION = 'R',
	PGO_TYPE = 'Y',
	PGO_INSERT = 'I',
	PGO_UPDATE = 'U',
	PGO_DELETE = 'D',
	PGO_TRUNCATE = 'T',
	PGO_MESSAGE = 'M',
};

/* Whichever member kind names is set. */
struct pgo_message {
	enum pgo_kind kind;
	union {
		struct {
			struct lsn commit; /* start of the commit record: orders nothing */
			int64_t commit_us;
			uint32_t xid;
		} begin;
		struct {
			struct lsn commit; /* as in Begin */
			struct lsn end;	   /* the position that orders, skips and resumes */
			int64_t commit_us;
		} commit;
		struct {
			struct lsn commit; /* on the origin */
			const char *name;
		} origin;
		struct schema relation; /* hash is 0: relcache fills it */
		struct {
			uint32_t oid;
			const char *nspname;
			const char *name;
		} type;
		struct {
			uint32_t relation_oid;
			char old_kind; /* 0 none, 'K' key columns only, 'O' whole old row */
			struct tuple old_row;
			struct tuple new_row; /* count 0 in a Delete */
		} row;
		struct {
			uint8_t flags; /* TRUNCATE_… of change.h */
			uint32_t count;
			const uint32_t *relation_oid;
		} truncate;
		struct {
			bool transactional;
			struct lsn lsn;
			const char *prefix;
			struct slice content;
		} message;
	};
};

/*
 * Decodes bytes (one whole message; lsn: the WAL position it came with, for
 * error texts) into *ret. Strings, values and contents point into bytes;
 * arrays of values, columns and oids are in the arena, which is never asked
 * for more than a small multiple of the message's length. ERR_PERMANENT naming
 * message type and LSN for everything that the layout above does not allow:
 * unknown kind, flag or tag, a message that ends early, a byte left over.
 */
int pgo_decode(struct slice bytes, struct lsn lsn, struct arena *a, struct pgo_message *ret,
	       struct rt_err *err) RT_MUSTCHECK;

#endif
