/* status_print: the table for people and the object for programs. */
#include <inttypes.h>

#include "cdc/commands/status.h"
#include "proto/lsn.h"

static const char *const life_name[] = {
	[LIFE_NEVER] = "never started",
	[LIFE_ENDED] = "ended",
	[LIFE_STUCK] = "stuck",
	[LIFE_RUNNING] = "running",
};

static uint64_t value(const struct status_facts *f, int role, enum met_id id)
{
	return f->role[role].f.value[id];
}

/* What is wrong on a line that is else plain. */
static void put_bad(struct buf *out, bool color, const char *text)
{
	buf_printf(out, "%s%s%s", term_ink(color, TERM_BAD), text, term_ink_end(color));
}

void status_print_sentence(const struct status_view *v, bool color, struct buf *out)
{
	buf_str(out, term_ink(color, status_ink(v)));
	term_add_clean(out, v->sentence);
	buf_printf(out, "%s\n", term_ink_end(color));
}

static void print_state(const struct status_view *v, bool color, struct buf *out)
{
	buf_printf(out, "  state      %s%s%s: %s\n", term_ink(color, status_ink(v)),
		   status_state_words(v->state), term_ink_end(color), status_state_means(v->state));
}

static void stage(struct buf *out, const struct status_facts *f, const char *name, int role,
		  enum met_id id, int64_t lag_us)
{
	struct lsn at = {value(f, role, id)};
	uint64_t core = RT_MAX(value(f, STATUS_CAPTURE, MET_CORE_CURRENT_LSN),
			       value(f, STATUS_CAPTURE, MET_CAPTURE_RECEIVED_LSN));
	char lsn[24];
	snprintf(lsn, sizeof(lsn), LSN_FMT, LSN_ARGS(at));
	if (at.v == 0) {
		buf_printf(out, "  %-10s -", name);
	} else {
		buf_printf(out, "  %-10s %-18s ", name, lsn);
		size_t before = out->len;
		status_bytes(out, core > at.v ? core - at.v : 0);
		size_t pad = 12 - RT_MIN(out->len - before, (size_t)12);
		if (lag_us >= 0) {
			buf_printf(out, "%*s", (int)pad, "");
			status_duration(out, lag_us);
		}
	}
	buf_u8(out, '\n');
}

/* Age of the newest commit that capture has received; −1: none. */
static int64_t received_lag(const struct status_facts *f)
{
	int64_t at = (int64_t)value(f, STATUS_CAPTURE, MET_CAPTURE_COMMIT_US);
	return at == 0 ? -1 : RT_MAX(f->now_us - at, 0);
}

static void print_stages(const struct status_facts *f, const struct status_view *v, struct buf *out)
{
	buf_printf(out, "  %-10s %-18s %-12s%s\n", "stage", "LSN", "behind core", "newest");
	stage(out, f, "core", STATUS_CAPTURE, MET_CORE_CURRENT_LSN, -1);
	stage(out, f, "received", STATUS_CAPTURE, MET_CAPTURE_RECEIVED_LSN, received_lag(f));
	stage(out, f, "durable", STATUS_CAPTURE, MET_CAPTURE_DURABLE_LSN, -1);
	stage(out, f, "applied", STATUS_APPLY, MET_APPLY_APPLIED_LSN, v->lag_us);
	stage(out, f, "flushed", STATUS_APPLY, MET_APPLY_FLUSHED_LSN, -1);
	stage(out, f, "confirmed", STATUS_CAPTURE, MET_CAPTURE_CONFIRMED_LSN, -1);
}

/* Growth per second since before, or since the role's start. */
static double rate(const struct status_facts *f, const struct status_facts *before, int role,
		   enum met_id id)
{
	const struct met_file *now = &f->role[role].f;
	bool same = before != NULL && before->role[role].f.started_us == now->started_us;
	int64_t us = same ? f->now_us - before->now_us : now->updated_us - now->started_us;
	uint64_t n = now->value[id] - (same ? before->role[role].f.value[id] : 0);
	return us <= 0 ? 0 : (double)n * 1e6 / (double)us;
}

double status_events_rate(const struct status_facts *f, const struct status_facts *before)
{
	return rate(f, before, STATUS_APPLY, MET_APPLY_EVENTS);
}

static void print_work(const struct status_facts *f, const struct status_facts *before,
		       struct buf *out)
{
	const char *when = before != NULL ? "" : " on average";
	const struct met_histogram *visible =
		met_histogram(&f->role[STATUS_APPLY].f, MET_VISIBLE_SECONDS);
	struct met_histogram recent;
	if (before != NULL &&
	    before->role[STATUS_APPLY].f.started_us == f->role[STATUS_APPLY].f.started_us) {
		met_histogram_diff(
			visible, met_histogram(&before->role[STATUS_APPLY].f, MET_VISIBLE_SECONDS),
			&recent);
		visible = &recent;
	}
	buf_printf(out, "  events     %" PRIu64 " applied, %.0f/s%s\n",
		   value(f, STATUS_APPLY, MET_APPLY_EVENTS),
		   rate(f, before, STATUS_APPLY, MET_APPLY_EVENTS), when);
	buf_printf(out, "  commits    %" PRIu64 " applied, %.0f/s%s\n",
		   value(f, STATUS_APPLY, MET_APPLY_TRANSACTIONS),
		   rate(f, before, STATUS_APPLY, MET_APPLY_TRANSACTIONS), when);
	buf_str(out, "  visible    ");
	if (visible->count == 0) {
		buf_str(out, "no commit to measure\n");
		return;
	}
	buf_str(out, "p50 ");
	status_duration(out, met_quantile(visible, 0.5));
	buf_str(out, ", p99 ");
	status_duration(out, met_quantile(visible, 0.99));
	buf_str(out, " after the commit in the core\n");
}

/* What the core keeps, what of it is ours to release, and whose the rest is. */
static void print_wal(const struct status_facts *f, const struct status_view *v, bool color,
		      struct buf *out)
{
	uint64_t retained = value(f, STATUS_CAPTURE, MET_CORE_RETAINED_BYTES);
	uint64_t limit = value(f, STATUS_CAPTURE, MET_CORE_SLOT_LIMIT_BYTES);
	uint64_t current = value(f, STATUS_CAPTURE, MET_CORE_CURRENT_LSN);
	uint64_t confirmed = value(f, STATUS_CAPTURE, MET_CAPTURE_CONFIRMED_LSN);
	uint64_t pid = value(f, STATUS_CAPTURE, MET_CORE_OLDEST_PID);
	uint64_t open_us = value(f, STATUS_CAPTURE, MET_CORE_OLDEST_US);
	uint64_t ours = RT_MIN(current > confirmed ? current - confirmed : 0, retained);
	buf_str(out, "  core WAL   ");
	status_bytes(out, retained);
	buf_str(out, " kept");
	if (value(f, STATUS_CAPTURE, MET_CORE_SLOT_ALARM) != 0)
		buf_str(out, term_ink(color, TERM_BAD));
	if (limit > 0) {
		buf_str(out, "; slot lost past ");
		status_bytes(out, limit);
	}
	if (v->lost_in_us >= 0) {
		buf_str(out, ", in ");
		status_duration(out, v->lost_in_us);
		buf_str(out, " at this rate");
	}
	if (value(f, STATUS_CAPTURE, MET_CORE_SLOT_ALARM) != 0)
		buf_str(out, term_ink_end(color));
	buf_str(out, "\n             ");
	status_bytes(out, ours);
	buf_str(out, " of it not confirmed by us");
	if (pid > 0 && open_us >= 1000000) { /* one that is about to end holds nothing */
		buf_printf(out, "; the rest: transaction of pid %" PRIu64 ", open ", pid);
		status_duration(out, (int64_t)open_us);
	}
	buf_u8(out, '\n');
}

static void print_stores(const struct status_facts *f, struct buf *out)
{
	uint64_t hits = value(f, STATUS_APPLY, MET_CACHE_HITS);
	uint64_t all = hits + value(f, STATUS_APPLY, MET_CACHE_MISSES);
	uint64_t quota = value(f, STATUS_CAPTURE, MET_SPOOL_QUOTA_BYTES);
	buf_str(out, "  spool      ");
	status_bytes(out, value(f, STATUS_CAPTURE, MET_SPOOL_BYTES));
	if (quota > 0) { /* capture has said so once */
		buf_str(out, " of ");
		status_bytes(out, quota);
	}
	buf_str(out, "\n  cache      ");
	status_bytes(out, value(f, STATUS_APPLY, MET_CACHE_BYTES));
	if (all > 0)
		buf_printf(out, ", %.1f %% of lookups found there",
			   (double)hits * 100 / (double)all);
	buf_u8(out, '\n');
}

/* What the background sampler of verify found; nothing before its first look. */
static void print_verified(const struct status_facts *f, bool color, struct buf *out)
{
	char text[64];
	uint64_t at = value(f, STATUS_APPLY, MET_VERIFY_US);
	uint64_t failures = value(f, STATUS_APPLY, MET_VERIFY_FAILURES);
	if (at == 0 && failures == 0)
		return;
	buf_printf(out, "  verified   %" PRIu64 " rows by samples, ",
		   value(f, STATUS_APPLY, MET_VERIFY_ROWS));
	if (value(f, STATUS_APPLY, MET_VERIFY_DIFFERENCES) > 0)
		snprintf(text, sizeof(text), "%" PRIu64 " DIFFERENCES (rolag verify --full)",
			 value(f, STATUS_APPLY, MET_VERIFY_DIFFERENCES));
	else
		snprintf(text, sizeof(text), "no difference");
	put_bad(out, color && value(f, STATUS_APPLY, MET_VERIFY_DIFFERENCES) > 0, text);
	if (at != 0) {
		buf_str(out, ", last ");
		status_duration(out, RT_MAX(f->now_us - (int64_t)at, 0));
		buf_str(out, " ago");
	}
	if (failures > 0)
		buf_printf(out, ", %" PRIu64 " samples failed", failures);
	buf_u8(out, '\n');
}

static void print_mirrors(const struct status_facts *f, const struct status_facts *before,
			  bool color, struct buf *out)
{
	static const struct {
		enum met_id id;
		const char *what;
	} counted[] = {{MET_MIRROR_INSERTS, "inserted"},
		       {MET_MIRROR_UPDATES, "updated"},
		       {MET_MIRROR_DELETES, "deleted"},
		       {MET_MIRROR_TRUNCATES, "truncated"}};
	uint64_t parked = value(f, STATUS_APPLY, MET_PARKED_MIRRORS);
	char text[64];
	double all = 0;
	if (value(f, STATUS_APPLY, MET_MIRRORS) == 0)
		return;
	buf_printf(out, "  mirrors    %" PRIu64, value(f, STATUS_APPLY, MET_MIRRORS));
	if (parked > 0) {
		snprintf(text, sizeof(text), "%" PRIu64 " PARKED (rolag status --tables)", parked);
		buf_str(out, ", ");
		put_bad(out, color, text);
	}
	buf_str(out, "; rows ");
	for (size_t i = 0; i < ARRAY_LEN(counted); i++) {
		uint64_t n = value(f, STATUS_APPLY, counted[i].id);
		all += rate(f, before, STATUS_APPLY, counted[i].id);
		if (n > 0)
			buf_printf(out, "%" PRIu64 " %s, ", n, counted[i].what);
	}
	buf_printf(out, "%.0f/s%s\n", all, before != NULL ? "" : " on average");
}

static void ago(const struct status_facts *f, const char *what, enum met_id id, struct buf *out)
{
	uint64_t at = value(f, STATUS_REPORTS, id);
	if (at == 0)
		return;
	buf_printf(out, ", %s ", what);
	status_duration(out, RT_MAX(f->now_us - (int64_t)at, 0));
	buf_str(out, " ago");
}

/* Runs of the companion since its start; nothing where there is none here. */
static void print_reports(const struct status_facts *f, bool color, struct buf *out)
{
	char text[64];
	uint64_t open = value(f, STATUS_REPORTS, MET_REPORTS_OPEN);
	uint64_t failed = value(f, STATUS_REPORTS, MET_REPORTS_FAILED);
	uint64_t retries = value(f, STATUS_REPORTS, MET_REPORTS_RETRIES);
	if (f->role[STATUS_REPORTS].life == LIFE_NEVER)
		return;
	const uint64_t published = value(f, STATUS_REPORTS, MET_REPORTS_PUBLISHED);
	buf_printf(out, "  reports    %" PRIu64 " run%s published", published,
		   published == 1 ? "" : "s");
	ago(f, "last", MET_REPORTS_PUBLISHED_US, out);
	buf_printf(out, "; %" PRIu64 " open", open);
	if (open > 0)
		ago(f, "the oldest asked for", MET_REPORTS_OPEN_US, out);
	if (failed > 0) {
		snprintf(text, sizeof(text), "%" PRIu64 " FAILED", failed);
		buf_str(out, "; ");
		put_bad(out, color, text);
		ago(f, "last", MET_REPORTS_FAILED_US, out);
	}
	if (retries > 0)
		buf_printf(out, "; %" PRIu64 " tried again", retries);
	buf_u8(out, '\n');
}

/* What may be wrong with the data; lines only where there is something. */
static void print_oddities(const struct status_facts *f, bool color, struct buf *out)
{
	static const struct {
		enum met_id id;
		const char *what;
		bool parked; /* a person must help */
	} odd[] = {
		{MET_PARKED_ROLLUPS,
		 "rollups parked: their changes are left out until they are "
		 "synced (rolag quarantine list)",
		 true},
		{MET_QUARANTINE_ENTITIES, "entities wait in quarantine (rolag quarantine list)",
		 true},
		{MET_QUARANTINE_EVENTS, "events wait with them", true},
		{MET_REPAIRED_EVENTS,
		 "events that the stream did not bring were read from the core", false},
		{MET_APPLY_UNKNOWN_KEYS, "payload keys that no definition lists", false},
		{MET_APPLY_IGNORED_EVENTS, "events of types that no definition lists", false},
		{MET_APPLY_DUPLICATES, "events that were there already (normal after a restart)",
		 false},
	};
	for (size_t i = 0; i < ARRAY_LEN(odd); i++)
		if (value(f, STATUS_APPLY, odd[i].id) > 0)
			buf_printf(out, "  note       %s%" PRIu64 " %s%s\n",
				   term_ink(color && odd[i].parked, TERM_BUSY),
				   value(f, STATUS_APPLY, odd[i].id), odd[i].what,
				   term_ink_end(color && odd[i].parked));
}

static void print_roles(const struct status_facts *f, bool color, struct buf *out)
{
	for (int i = 0; i < STATUS_FILES; i++) {
		const struct status_role *r = &f->role[i];
		if (i == STATUS_REPORTS && r->life == LIFE_NEVER)
			continue; /* not every pipeline has reports, and they may be another machine's */
		buf_printf(out, "  %-10s ", status_role_name[i]);
		put_bad(out, color && r->life != LIFE_RUNNING, life_name[r->life]);
		if (r->life == LIFE_NEVER) {
			buf_u8(out, '\n');
			continue;
		}
		buf_printf(out, " (%s), pid %u, ", r->f.state, r->f.pid);
		if (r->life == LIFE_RUNNING) {
			buf_str(out, "up ");
			status_duration(out, RT_MAX(f->now_us - r->f.started_us, 0));
		} else {
			buf_str(out, "last seen ");
			status_duration(out, RT_MAX(f->now_us - r->f.updated_us, 0));
			buf_str(out, " ago");
		}
		buf_u8(out, '\n');
		if (r->f.note[0] == '\0')
			continue;
		buf_str(out, "             ");
		status_duration(out, RT_MAX(f->now_us - r->f.note_us, 0));
		buf_str(out, " ago: ");
		term_add_clean(out, r->f.note);
		buf_u8(out, '\n');
	}
}

void status_print_table(const struct status_facts *f, const struct status_view *v,
			const struct status_facts *before, bool color, struct buf *out)
{
	print_state(v, color, out);
	if (v->runbook != NULL)
		buf_printf(out, "  to do      RUNBOOK.md, %s\n", v->runbook);
	print_stages(f, v, out);
	print_work(f, before, out);
	print_wal(f, v, color, out);
	print_stores(f, out);
	print_mirrors(f, before, color, out);
	print_verified(f, color, out);
	print_reports(f, color, out);
	print_oddities(f, color, out);
	print_roles(f, color, out);
}

/* ---- JSON ---- */

static void json_text(struct buf *out, const char *s)
{
	buf_u8(out, '"');
	for (; *s != '\0'; s++) {
		unsigned char c = (unsigned char)*s;
		if (c == '"' || c == '\\')
			buf_printf(out, "\\%c", c);
		else if (c < 0x20)
			buf_printf(out, "\\u%04x", c);
		else
			buf_u8(out, c);
	}
	buf_u8(out, '"');
}

static void json_seconds(struct buf *out, const char *key, int64_t us)
{
	if (us < 0)
		buf_printf(out, "\"%s\": null", key);
	else
		buf_printf(out, "\"%s\": %.6f", key, (double)us / 1e6);
}

static void json_role(const struct status_facts *f, int role, struct buf *out)
{
	const struct status_role *r = &f->role[role];
	bool ever = r->life != LIFE_NEVER;
	buf_printf(out, "    \"%s\": {\"life\": \"%s\", \"pid\": %u, \"state\": ",
		   status_role_name[role], ever ? life_name[r->life] : "never", r->f.pid);
	json_text(out, r->f.state);
	buf_str(out, ", ");
	json_seconds(out, "up_seconds", ever ? r->f.updated_us - r->f.started_us : -1);
	buf_str(out, ", ");
	json_seconds(out, "seen_seconds_ago", ever ? RT_MAX(f->now_us - r->f.updated_us, 0) : -1);
	buf_str(out, ", \"note\": ");
	json_text(out, r->f.note);
	buf_str(out, ", ");
	json_seconds(out, "note_seconds_ago",
		     r->f.note_us > 0 ? RT_MAX(f->now_us - r->f.note_us, 0) : -1);
	buf_u8(out, '}');
}

/* Every counter and gauge. */
static void json_metrics(const struct status_facts *f, struct buf *out)
{
	const char *comma = "";
	for (int i = 0; i < MET_COUNT; i++) {
		if (met_defs[i].type == MET_HISTOGRAM)
			continue;
		buf_printf(out, "%s\n    \"%s\": %" PRIu64, comma, met_defs[i].name,
			   status_value(f, (enum met_id)i));
		comma = ",";
	}
}

/* [[µs, commits], …] of the buckets that are not empty: whoever looks twice gets the time between. */
static void json_buckets(const struct met_histogram *h, struct buf *out)
{
	const char *comma = "";
	buf_str(out, "\"visible_buckets\": [");
	for (unsigned n = 0; n < MET_BUCKETS; n++) {
		if (h->bucket[n] == 0)
			continue;
		buf_printf(out, "%s[%" PRId64 ", %" PRIu64 "]", comma, met_bucket_us(n),
			   h->bucket[n]);
		comma = ", ";
	}
	buf_u8(out, ']');
}

void status_print_json(const struct status_facts *f, const struct status_view *v, struct buf *out)
{
	const struct met_histogram *h =
		met_histogram(&f->role[STATUS_APPLY].f, MET_VISIBLE_SECONDS);
	bool counted = h->count > 0;
	buf_printf(out, "{\n  \"healthy\": %s,\n  \"state\": \"%s\",\n  \"sentence\": ",
		   v->healthy ? "true" : "false", status_state_name(v->state));
	json_text(out, v->sentence);
	buf_str(out, ",\n  \"runbook\": ");
	if (v->runbook == NULL)
		buf_str(out, "null");
	else
		json_text(out, v->runbook);
	buf_str(out, ",\n  ");
	json_seconds(out, "lag_seconds", v->lag_us);
	buf_printf(out, ",\n  \"lag_bytes\": %" PRIu64 ",\n  ", v->lag_bytes);
	json_seconds(out, "slot_lost_in_seconds", v->lost_in_us);
	buf_str(out, ",\n  ");
	json_seconds(out, "visible_p50_seconds", counted ? met_quantile(h, 0.5) : -1);
	buf_str(out, ",\n  ");
	json_seconds(out, "visible_p99_seconds", counted ? met_quantile(h, 0.99) : -1);
	buf_str(out, ",\n  ");
	json_buckets(h, out);
	buf_str(out, ",\n  \"roles\": {\n");
	for (int i = 0; i < STATUS_FILES; i++) {
		buf_str(out, i > 0 ? ",\n" : "");
		json_role(f, i, out);
	}
	buf_str(out, "\n  },\n  \"metrics\": {");
	json_metrics(f, out);
	buf_str(out, "\n  }\n}\n");
}
