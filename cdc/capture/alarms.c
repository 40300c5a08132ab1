/* alarms: judgements, log, metrics and note. Guarantees: no row values; nothing said twice within ten minutes. */
#include "cdc/capture/alarms.h"

#include "proto/base/metrics.h"

#define AGAIN_US INT64_C(600000000)
/* From here on pgoutput passes over a publication that is not there, with a warning in the core's log. */
#define PASSES_OVER_MIN 180000

void alarms_note(const struct alarms *a)
{
	met_note("%s", a->note);
}

/* ---- publications and identities ---- */

static void judge_missing(const struct alarms *a, const struct look *l)
{
	if (l->missing > 0)
		log_error("a publication is gone: changes of its tables cannot be decoded",
			  "publication=%s missing=%u mend=\"rolag init makes it again; what was "
			  "written meanwhile is synced\"",
			  l->publication, l->missing);
	else if (a->seen.missing > 0)
		log_warn("all publications are there again", "%s", "");
}

static void judge_identity(const struct alarms *a, const struct look *l)
{
	if (l->without_identity > 0)
		log_error("a published table has no replica identity: the core's own UPDATE and "
			  "DELETE of it fail",
			  "relation=%s tables=%u mend=\"ALTER TABLE %s REPLICA IDENTITY FULL, or "
			  "its primary key again; or ALTER PUBLICATION %s DROP TABLE %s\"",
			  l->relation, l->without_identity, l->relation, l->published_by,
			  l->relation);
	else if (a->seen.without_identity > 0)
		log_info("every published table has its replica identity again", "%s", "");
}

/* A table whose changes are missing without anybody's notice: an error line each time that it is another. */
static void judge_published(const struct alarms *a, const struct look *l)
{
	struct arena text;
	if (l->unpublished == 0) {
		if (a->seen.unpublished > 0)
			log_warn("all landed tables are published again: those that were not are "
				 "synced",
				 "%s", "");
		return;
	}
	if (l->unpublished == a->seen.unpublished && l->want == a->seen.want &&
	    l->problem == a->seen.problem)
		return;
	arena_init(&text, 512);
	const struct published_want *w = &a->want[l->want];
	log_error("a landed table is not published as it must be: the warehouse misses changes",
		  "table=%s.%s tables=%u reason=\"it %s\" mend=\"%s\"", w->nspname, w->relname,
		  l->unpublished, published_text(&text, w, l->problem),
		  published_mend(&text, w, l->problem));
	arena_release(&text);
}

static void note_published(struct alarms *a, const struct look *l)
{
	struct arena text;
	const struct published_want *w = &a->want[l->want];
	arena_init(&text, 512);
	snprintf(a->note, sizeof(a->note), "%s.%s %s; mend: %s", w->nspname, w->relname,
		 published_text(&text, w, l->problem), published_mend(&text, w, l->problem));
	arena_release(&text);
}

static void write_note(struct alarms *a, const struct look *l)
{
	bool had = a->note[0] != '\0';
	a->note[0] = '\0';
	if (l->without_identity > 0)
		snprintf(a->note, sizeof(a->note),
			 "%s is published by %s without a replica identity; mend: ALTER TABLE %s "
			 "REPLICA IDENTITY FULL",
			 l->relation, l->published_by, l->relation);
	else if (l->missing > 0)
		snprintf(a->note, sizeof(a->note), "publication %s is gone; mend: rolag init",
			 l->publication);
	else if (l->unpublished > 0)
		note_published(a, l);
	if (had || a->note[0] != '\0')
		alarms_note(a);
}

bool alarms_catalog(struct alarms *a, const struct look *l, const char *const *publication,
		    int server_version)
{
	int again = a->looked ? look_made_again(&a->seen, l) : -1;
	judge_missing(a, l);
	judge_identity(a, l);
	judge_published(a, l);
	write_note(a, l);
	if (again >= 0)
		log_error(
			"a publication was made again: changes of its tables meanwhile are not in "
			"the stream",
			"publication=%s", publication[again]);
	met_set(MET_CORE_PUBLICATIONS_MISSING, l->missing);
	met_set(MET_CORE_TABLES_WITHOUT_IDENTITY, l->without_identity);
	met_set(MET_CORE_TABLES_UNPUBLISHED, l->unpublished);
	/* What was there before a loss is remembered, so that its return is seen. */
	const struct look was = a->seen;
	a->seen = *l;
	for (int i = 0; a->looked && i < LOOK_PUBLICATIONS_MAX; i++)
		if (l->oid[i] == 0)
			a->seen.oid[i] = was.oid[i];
	a->looked = true;
	return again >= 0 && server_version >= PASSES_OVER_MIN;
}

/* ---- WAL ---- */

static void judge_full(struct alarms *a, const struct prog *p, bool full)
{
	bool all = full && p->current.v - p->confirmed.v > p->o.wal_budget_bytes;
	if (all == a->all_full)
		return;
	a->all_full = all;
	if (all)
		log_error(
			"WAL budget and spool are both full: only max_slot_wal_keep_size saves "
			"the core's disk now",
			"unconfirmed_bytes=%llu budget=%llu mend=\"bring apply back, or make room "
			"for the spool\"",
			(unsigned long long)(p->current.v - p->confirmed.v),
			(unsigned long long)p->o.wal_budget_bytes);
	else
		log_info("WAL budget and spool are no longer both full", "%s", "");
}

static void judge_end(struct alarms *a, const struct custody_facts *f)
{
	bool at_end = strcmp(f->wal_status, "unreserved") == 0;
	if (at_end && !a->at_end)
		log_error("the core will throw the slot's WAL away at its next checkpoint",
			  "safe_wal_bytes=%lld mend=\"bring apply back, or raise "
			  "max_slot_wal_keep_size, at once\"",
			  (long long)f->safe_wal_bytes);
	a->at_end = at_end;
}

static void tell_forecast(struct alarms *a, const struct custody *c, int64_t lost_in_us,
			  int64_t now_us)
{
	const struct custody_facts *f = &c->facts;
	if (a->told_us != 0 && now_us - a->told_us < AGAIN_US)
		return;
	a->told_us = now_us;
	log_warn("the slot will be lost, if the core goes on at this rate",
		 "in_s=%lld retained_bytes=%llu left_bytes=%lld growth_bytes_per_s=%llu "
		 "oldest_transaction_pid=%d oldest_transaction_s=%lld",
		 (long long)(lost_in_us / 1000000), (unsigned long long)custody_retained_bytes(c),
		 (long long)f->safe_wal_bytes, (unsigned long long)forecast_growth(&c->forecast),
		 f->oldest_pid, (long long)(f->oldest_xact_age_us / 1000000));
}

void alarms_wal(struct alarms *a, const struct custody *c, const struct prog *p, bool full,
		int64_t now_us)
{
	const struct custody_facts *f = &c->facts;
	int64_t lost_in_us = forecast_lost_in_us(&c->forecast, f->safe_wal_bytes);
	uint64_t retained = custody_retained_bytes(c);
	if (f->asked_at_us == 0)
		return;
	judge_full(a, p, full);
	judge_end(a, f);
	bool foreseen = forecast_alarms(lost_in_us, retained, f->safe_wal_bytes);
	if (foreseen)
		tell_forecast(a, c, lost_in_us, now_us);
	met_set(MET_CORE_SLOT_LIMIT_BYTES,
		f->safe_wal_bytes < 0 ? 0 : retained + (uint64_t)f->safe_wal_bytes);
	met_set(MET_CORE_SLOT_LOST_IN_US, (uint64_t)RT_MAX(lost_in_us, 0));
	met_set(MET_CORE_SLOT_ALARM, foreseen || a->at_end || a->all_full);
	met_set(MET_CORE_OLDEST_PID, (uint64_t)f->oldest_pid);
	met_set(MET_CORE_OLDEST_US, (uint64_t)RT_MAX(f->oldest_xact_age_us, 0));
}
