/*
 * take: pgoutput messages into the spool. Guarantees: a transaction's changes
 * stand there in order, between its BEGIN and its COMMIT, or not at all.
 */
#include "cdc/capture/capture_inner.h"
#include "cdc/capture/pgoutput.h"
#include "proto/base/failpoint.h"
#include "proto/base/metrics.h"
#include "proto/pg/shape.h"

#include <xxhash.h>

#define MESSAGE_BYTES_MAX 1024 /* of a logical message's content */

static int out_of_place(enum pgo_kind kind, struct rt_err *err)
{
	return rt_fail(err, ERR_PERMANENT, "pgoutput message '%c' %s a transaction", (char)kind,
		       kind == PGO_BEGIN ? "inside" : "outside");
}

/* A transaction's BEGIN goes into the spool with its first change: many have none for us. */
static int append(struct capture *c, const struct change *change, struct rt_err *err)
{
	if (!c->begun && !c->again) {
		int rc = spool_append(c->spool, &c->begin, err);
		if (rc != 0)
			return rc;
	}
	c->begun = true;
	return c->again ? 0 : spool_append(c->spool, change, err);
}

static int take_row(struct capture *c, const struct pgo_message *m, enum change_kind kind,
		    struct lsn lsn, struct rt_err *err)
{
	struct change change = {
		.kind = kind,
		.lsn = lsn,
		.new_row = m->row.new_row,
		.old_row = m->row.old_row,
		.old_kind = m->row.old_kind,
	};
	int rc = rel_get(&c->relations, m->row.relation_oid,
			 kind == CHANGE_DELETE ? m->row.old_row.count : m->row.new_row.count,
			 &change.schema, err);
	if (rc != 0)
		return rc;
	if (change.old_kind != 0 && change.old_row.count != change.schema->count)
		return rt_fail(err, ERR_PERMANENT, "an old row of %s.%s with %u values",
			       change.schema->nspname, change.schema->relname,
			       change.old_row.count);
	met_add(MET_CAPTURE_CHANGES, 1);
	FAILPOINT_FD(WALSENDER_BEFORE_ROW, PQsocket(c->stream.conn));
	rc = append(c, &change, err);
	FAILPOINT_FD(WALSENDER_AFTER_ROW, PQsocket(c->stream.conn));
	return rc;
}

static int take_truncate(struct capture *c, const struct pgo_message *m, struct lsn lsn,
			 struct rt_err *err)
{
	const struct schema **schema =
		arena_alloc(&c->arena, m->truncate.count * sizeof(struct schema *));
	for (uint32_t i = 0; i < m->truncate.count; i++) {
		int rc = rel_get(&c->relations, m->truncate.relation_oid[i], -1, &schema[i], err);
		if (rc != 0)
			return rc;
	}
	const struct change change = {
		.kind = CHANGE_TRUNCATE,
		.lsn = lsn,
		.truncate_flags = m->truncate.flags,
		.truncated_count = m->truncate.count,
		.truncated = schema,
	};
	met_add(MET_CAPTURE_CHANGES, 1);
	return append(c, &change, err);
}

/* Everything for us that ends up to `end` was sent. */
static int nothing_more(struct capture *c, struct lsn end, bool urgent, struct rt_err *err)
{
	prog_keepalive(&c->prog, end, urgent);
	return c->open ? 0 : recheck_idle(&c->recheck, end, err);
}

/* Anybody in the core may write messages: ours are known by prefix, and small. */
static const char *const messages_taken[] = {"rolag.heartbeat", "rolag.fence", "rolag.sync"};

static bool is_taken(const char *prefix)
{
	for (size_t i = 0; i < ARRAY_LEN(messages_taken); i++)
		if (strcmp(prefix, messages_taken[i]) == 0)
			return true;
	return false;
}

static int take_message(struct capture *c, const struct pgo_message *m, struct rt_err *err)
{
	if (!m->message.transactional) {
		met_add(MET_MESSAGES_DROPPED, 1);
		return nothing_more(c, m->message.lsn, false, err);
	}
	if (!c->open)
		return out_of_place(m->kind, err);
	if (!is_taken(m->message.prefix) || m->message.content.len > MESSAGE_BYTES_MAX) {
		met_add(MET_MESSAGES_DROPPED, 1);
		return 0;
	}
	const struct change change = {
		.kind = CHANGE_MESSAGE,
		.lsn = m->message.lsn,
		.transactional = true,
		.prefix = m->message.prefix,
		.content = m->message.content,
	};
	FAILPOINT_FD(WALSENDER_MESSAGE, PQsocket(c->stream.conn));
	return append(c, &change, err);
}

static int take_begin(struct capture *c, const struct pgo_message *m, struct rt_err *err)
{
	if (c->open)
		return out_of_place(m->kind, err);
	c->begin = (struct change){
		.kind = CHANGE_BEGIN,
		.lsn = m->begin.commit,
		.xid = m->begin.xid,
		.commit_us = m->begin.commit_us,
	};
	FAILPOINT_FD(WALSENDER_BEFORE_BEGIN, PQsocket(c->stream.conn));
	c->open = true;
	c->begun = false;
	c->again = lsn_lt(m->begin.commit, c->prog.appended);
	prog_begin(&c->prog);
	FAILPOINT_FD(WALSENDER_AFTER_BEGIN, PQsocket(c->stream.conn));
	return 0;
}

/* The COMMIT of a transaction that the spool has all the rest of, and not the end. */
static int append_commit(struct capture *c, const struct pgo_message *m, struct rt_err *err)
{
	const struct change change = {
		.kind = CHANGE_COMMIT,
		.lsn = m->commit.end,
		.commit_us = m->commit.commit_us,
	};
	c->had = (struct spool_memory){
		.end = m->commit.end,
		.xid = c->begin.xid,
		.commit_us = m->commit.commit_us,
	};
	c->had_from = c->begin.lsn;
	c->commit_us = m->commit.commit_us;
	c->unwritten = true;
	met_set(MET_CAPTURE_COMMIT_US, (uint64_t)c->commit_us);
	met_add(MET_CAPTURE_TRANSACTIONS, 1);
	int rc = spool_append(c->spool, &change, err);
	FAILPOINT_FD(WALSENDER_AFTER_COMMIT, PQsocket(c->stream.conn));
	return rc;
}

static int take_commit(struct capture *c, const struct pgo_message *m, struct rt_err *err)
{
	FAILPOINT_FD(WALSENDER_BEFORE_COMMIT, PQsocket(c->stream.conn));
	c->open = false;
	if (!c->begun) {
		prog_commit_empty(&c->prog, m->commit.end);
		return recheck_idle(&c->recheck, m->commit.end, err);
	}
	c->begun = false;
	int rc = recheck_commit(&c->recheck, m->commit.end, c->begin.xid, m->commit.commit_us, err);
	if (rc != 0)
		return rc;
	if (!prog_commit(&c->prog, m->commit.end))
		return spool_abort_transaction(c->spool, err); /* we hold it already */
	if (c->again)
		return rt_fail(err, ERR_PERMANENT,
			       "a transaction ends at " LSN_FMT ", but its commit is at " LSN_FMT
			       ", up to which we held everything",
			       LSN_ARGS(m->commit.end), LSN_ARGS(c->begin.lsn));
	return append_commit(c, m, err);
}

static int take_relation(struct capture *c, struct schema s, struct rt_err *err)
{
	int rc = mirrored_complete(&c->mirrored, &c->arena, &s, err);
	if (rc != 0)
		return rc;
	if (shape_needs_text(&s) && stream_wants_text(&c->stream))
		return rt_fail(err, ERR_RETRY,
			       "reconnecting in text mode: a column of %s.%s means nothing in "
			       "binary",
			       s.nspname, s.relname);
	rel_put(&c->relations, &s);
	return 0;
}

static int take(struct capture *c, const struct pgo_message *m, struct lsn lsn, struct rt_err *err)
{
	switch (m->kind) {
	case PGO_BEGIN:
		return take_begin(c, m, err);
	case PGO_MESSAGE:
		return take_message(c, m, err);
	case PGO_RELATION:
		FAILPOINT_FD(WALSENDER_RELATION, PQsocket(c->stream.conn));
		return take_relation(c, m->relation, err);
	case PGO_ORIGIN: /* where a change came from, and what a type is called: nothing we keep */
	case PGO_TYPE:
		return 0;
	case PGO_COMMIT:
	case PGO_INSERT:
	case PGO_UPDATE:
	case PGO_DELETE:
	case PGO_TRUNCATE:
		break;
	}
	if (!c->open)
		return out_of_place(m->kind, err);
	if (m->kind == PGO_COMMIT)
		return take_commit(c, m, err);
	if (m->kind == PGO_TRUNCATE)
		return take_truncate(c, m, lsn, err);
	return take_row(c, m,
			m->kind == PGO_INSERT	? CHANGE_INSERT
			: m->kind == PGO_UPDATE ? CHANGE_UPDATE
						: CHANGE_DELETE,
			lsn, err);
}

int take_data(void *ctx, struct lsn lsn, struct slice bytes, struct rt_err *err)
{
	struct capture *c = ctx;
	struct pgo_message m;
	arena_reset(&c->arena);
	int rc = pgo_decode(bytes, lsn, &c->arena, &m, err);
	if (rc == 0 && (rc = take(c, &m, lsn, err)) != 0)
		rt_context(err, "LSN " LSN_FMT, LSN_ARGS(lsn));
	c->unsynced_bytes += bytes.len;
	met_add(MET_CAPTURE_BYTES, bytes.len);
	return rc;
}

int take_keepalive(void *ctx, struct lsn end, bool reply, struct rt_err *err)
{
	struct capture *c = ctx;
	FAILPOINT_FD(WALSENDER_KEEPALIVE, PQsocket(c->stream.conn));
	c->sync_now |= reply;
	return nothing_more(c, end, reply, err);
}

uint64_t take_hash_of_asked(const struct capture *c)
{
	const struct stream_options *o = &c->stream.o;
	struct buf b = BUF_INIT;
	for (int i = 0; i < o->publication_count; i++)
		buf_add(&b, o->publication[i], strlen(o->publication[i]) + 1);
	buf_u8(&b, 0);
	for (size_t i = 0; i < ARRAY_LEN(messages_taken); i++)
		buf_add(&b, messages_taken[i], strlen(messages_taken[i]) + 1);
	uint64_t hash = XXH3_64bits(b.p, b.len);
	buf_release(&b);
	return hash;
}

int take_forget_open(struct capture *c, struct rt_err *err)
{
	bool begun = c->begun && !c->again;
	c->open = c->begun = false;
	prog_disconnected(&c->prog);
	return begun ? spool_abort_transaction(c->spool, err) : 0;
}
