/*
 * recheck: what comes again against what was there. Guarantees: a transaction
 * that was there before is passed only by itself; memory is bounded.
 */
#include "cdc/capture/recheck.h"

#include "proto/settings.h"

void recheck_release(struct recheck *r)
{
	free(r->item);
	*r = (struct recheck){0};
}

static void grow(struct recheck *r, size_t count)
{
	if (count <= r->cap)
		return;
	r->cap = RT_MAX(count, 2 * r->cap);
	r->item = rt_realloc(r->item, r->cap * sizeof(*r->item));
}

void recheck_expect(struct recheck *r, const struct spool_memory *m)
{
	if (m->xid != 0 && r->count >= RECHECK_MAX) {
		r->item[RECHECK_MAX - 1] = *m;
		r->item[RECHECK_MAX - 1].since = m->end; /* there were others before it */
		return;
	}
	grow(r, r->count + 1);
	r->item[r->count++] = *m;
}

static const struct spool_memory *expected(const struct recheck *r)
{
	return r->next < r->count ? &r->item[r->next] : NULL;
}

/* The one that is expected has come. */
static void pass(struct recheck *r)
{
	r->sure = r->item[r->next].end;
	if (++r->next == r->count)
		recheck_release(r);
}

void recheck_again(struct recheck *r, const struct spool_memory *had, struct lsn from,
		   struct lsn to)
{
	struct spool_memory again[2];
	size_t n = 0;
	struct lsn since = from;
	const struct spool_memory *m;
	while ((m = expected(r)) != NULL && lsn_le(m->end, to))
		pass(r);
	if (had->xid != 0 && lsn_lt(from, had->end)) {
		again[n] = *had;
		since = had->end; /* others before it may come again, too: they are not kept */
		again[n++].since = since;
	}
	if (lsn_lt(since, to))
		again[n++] = (struct spool_memory){.since = since, .end = to};
	if (n == 0)
		return;
	const size_t left = r->count - r->next;
	grow(r, left + n);
	RT_ASSERT(r->item != NULL);
	memmove(r->item + n, r->item + r->next, left * sizeof(*r->item));
	memcpy(r->item, again, n * sizeof(*again));
	r->next = 0;
	r->count = left + n;
}

size_t recheck_memory(const struct recheck *r, struct spool_memory ret[RECHECK_MEMORY])
{
	const size_t tail =
		3; /* the last transaction is among them: positions may stand behind it */
	const size_t left = r->count - r->next;
	size_t n = RT_MIN(left, RECHECK_MEMORY - tail);
	for (size_t i = 0; i < n; i++)
		ret[i] = r->item[r->next + i];
	for (size_t i = RT_MAX(n, left - RT_MIN(left, tail)); i < left; i++) {
		ret[n] = r->item[r->next + i];
		if (n == RECHECK_MEMORY - tail && i > n)
			ret[n].since = ret[n].end; /* there were others before it */
		n++;
	}
	return n;
}

void recheck_connected(struct recheck *r, struct lsn confirmed)
{
	r->sure = confirmed;
}

struct lsn recheck_confirm(const struct recheck *r, struct lsn flush)
{
	return expected(r) != NULL ? lsn_min(flush, r->sure) : flush;
}

static int set_back(struct lsn at, const char *what, struct rt_err *err)
{
	return rt_fail(
		err, ERR_PERMANENT,
		"the core was set back on its own timeline (a snapshot of its disk?) and has "
		"written on: %s at " LSN_FMT "; positions no longer compare; mend: " MEND_LOAD_ANEW,
		what, LSN_ARGS(at));
}

/* What came ends behind the one that is expected. */
static int passed_over(struct recheck *r, const struct spool_memory *m, struct rt_err *err)
{
	if (m->xid != 0)
		return set_back(m->end, "a transaction that it sent before is not there any more",
				err);
	pass(r);
	return 0;
}

int recheck_commit(struct recheck *r, struct lsn end, uint32_t xid, int64_t commit_us,
		   struct rt_err *err)
{
	const struct spool_memory *m;
	int rc;
	while ((m = expected(r)) != NULL && lsn_lt(m->end, end))
		if ((rc = passed_over(r, m, err)) != 0)
			return rc;
	if (m == NULL || (lsn_le(end, m->since) && lsn_lt(end, m->end)))
		return 0;
	if (!lsn_eq(end, m->end) || m->xid != xid || m->commit_us != commit_us)
		return set_back(end, "another transaction than before", err);
	pass(r);
	return 0;
}

int recheck_idle(struct recheck *r, struct lsn to, struct rt_err *err)
{
	const struct spool_memory *m;
	int rc;
	while ((m = expected(r)) != NULL && lsn_le(m->end, to))
		if ((rc = passed_over(r, m, err)) != 0)
			return rc;
	return 0;
}
