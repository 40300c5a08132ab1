/*
 * spool_recall: what a spool had received. Guarantees: what is recalled was
 * received as a whole, in this order, and is in force or was made void only by
 * a cut; of values nothing is read.
 */
#include "proto/spool_internal.h"

struct memory_list {
	struct spool_memory *item;
	size_t count;
};

struct recalling {
	const char *dir;
	struct spool_identity id;
	uint64_t asked;
	struct lsn confirmed;
	void (*recall)(void *ctx, const struct spool_memory *m);
	void *ctx;
	struct lsn start;	   /* of the segment that reading begins with */
	struct memory_list first;  /* what that one says … */
	struct memory_list newest; /* … and what the newest says */
	struct lsn position;
	struct lsn since; /* of the transactions behind this none is left out */
};

static void copy_memory(struct memory_list *to, const struct record_segment *s)
{
	free(to->item);
	to->count = s->memory_count;
	to->item = rt_calloc(to->count + 1, sizeof(*to->item));
	memcpy(to->item, s->memory, to->count * sizeof(*to->item));
}

/* Is the segment of what is asked about? 1: yes, and it is the first one now; 0: no. */
static int take_ours(struct recalling *r, const struct segment_entry *e, struct rt_err *err)
{
	struct segment_file f;
	struct rt_err ignored;
	int rc = segment_open(&f, r->dir, e->generation, e->start, err);
	if (rc <= 0)
		return rc;
	rc = segment_check_identity(&f, &r->id, &ignored) == 0 && f.is.asked == r->asked;
	if (rc == 1) {
		r->start = e->start;
		copy_memory(&r->first, &f.is);
		if (r->newest.item == NULL)
			copy_memory(&r->newest, &f.is);
	}
	segment_close(&f);
	return rc;
}

/* The segments to read: the newest ones, as many as are ours, back to the one that has `confirmed`. 0: none. */
static int find_first(struct recalling *r, const struct segment_list *list, struct rt_err *err)
{
	for (size_t i = list->count; i-- > 0;) {
		const struct segment_entry *e = &list->entry[i];
		if (segment_is_void(e))
			continue;
		int rc = take_ours(r, e, err);
		if (rc < 0)
			return rc;
		if (rc == 0 || lsn_le(e->start, r->confirmed))
			break;
	}
	return r->newest.item != NULL;
}

static void tell(struct recalling *r, const struct spool_memory *m)
{
	r->recall(r->ctx, m);
	r->position = r->since = m->end;
}

static int read_heads(struct recalling *r, struct spool_reader *reader, struct rt_err *err)
{
	struct arena a;
	struct change c;
	struct spool_memory m = {0};
	int rc;
	arena_init(&a, 4096);
	while ((rc = spool_reader_next(reader, &a, &c, err)) == 1) {
		if (c.kind == CHANGE_BEGIN) {
			m.xid = c.xid;
		} else if (c.kind == CHANGE_COMMIT) {
			m.since = r->since;
			m.end = c.lsn;
			m.commit_us = c.commit_us;
			tell(r, &m);
		} else if (c.kind == CHANGE_GAP) {
			r->position = r->since = c.lsn;
		} else if (c.kind == CHANGE_PROGRESS) {
			r->position = c.lsn;
		}
		arena_reset(&a);
	}
	arena_release(&a);
	return rc;
}

static int recall_from_first(struct recalling *r, struct rt_err *err)
{
	struct spool_reader *reader = NULL;
	r->since = r->start;
	if (r->first.count > 0 && lsn_le(r->first.item[0].end, r->start))
		tell(r, &r->first.item[0]);
	r->position = r->start;
	int rc = spool_reader_open(&reader, r->dir, r->start, 0, &r->id, err);
	if (rc != 0)
		return rc;
	spool_reader_heads_only(reader);
	rc = read_heads(r, reader, err);
	spool_reader_close(reader);
	if (lsn_lt(r->since, r->position))
		tell(r, &(struct spool_memory){.since = r->since, .end = r->position});
	/* What was made void by a cut, and has not all come again since. */
	for (size_t i = 0; i < r->newest.count; i++)
		if (lsn_lt(r->position, r->newest.item[i].end))
			tell(r, &r->newest.item[i]);
	return rc;
}

int spool_recall(const char *dir, const struct spool_identity *id, uint64_t asked,
		 struct lsn confirmed, void (*recall)(void *ctx, const struct spool_memory *m),
		 void *ctx, struct rt_err *err)
{
	struct recalling r = {
		.dir = dir,
		.id = *id,
		.asked = asked,
		.confirmed = confirmed,
		.recall = recall,
		.ctx = ctx,
	};
	struct segment_list list = {0};
	int rc = segment_list_read(&list, dir, err);
	if (rc == 0)
		rc = find_first(&r, &list, err);
	segment_list_release(&list);
	if (rc == 1)
		rc = recall_from_first(&r, err);
	free(r.first.item);
	free(r.newest.item);
	return rc;
}
