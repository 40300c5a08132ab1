/* spool_data: made-up changes for tests of the spool, and how to compare and read them. */
#ifndef TESTS_UNIT_SPOOL_DATA_H
#define TESTS_UNIT_SPOOL_DATA_H

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/spool.h"
#include "tests/unit/unit.h"

static const struct schema_column data_event_column[] = {
	{"id", true, 2950, -1},		 {"sequence", true, 23, -1},
	{"event_type", false, 1043, -1}, {"event", false, 3802, -1},
	{"recorded_at", false, 1184, 6},
};

static struct schema data_events = {
	.relation_oid = 16400,
	.nspname = "public",
	.relname = "core_deposit_events",
	.identity = 'd',
	.count = ARRAY_LEN(data_event_column),
	.column = data_event_column,
};

static const struct schema_column data_plain_column[] = {{"k", true, 23, -1}, {"v", false, 25, -1}};

static struct schema data_plain = {
	.relation_oid = 16500,
	.nspname = "Bank",
	.relname = "plain table",
	.identity = 'f',
	.count = ARRAY_LEN(data_plain_column),
	.column = data_plain_column,
};

static const struct spool_identity data_identity = {UINT64_C(7312345678901234567), 3, "lana",
						    "rolag_lana"};

static const struct spool_options data_options = {
	.segment_bytes = 64 << 20,
	.quota_bytes = UINT64_C(1) << 40,
	.reserve_bytes = 0,
	.frame_bytes = 256 << 10,
	.retain_us = 0,
};

static inline void data_setup(void)
{
	data_events.hash = schema_hash(&data_events);
	data_plain.hash = schema_hash(&data_plain);
}

static inline struct lsn data_lsn(uint64_t v)
{
	return (struct lsn){v};
}

static inline struct value data_value(enum value_kind kind, const void *p, size_t len)
{
	return (struct value){.kind = kind, .len = (uint32_t)len, .p = p};
}

static inline struct change data_begin(uint64_t commit, uint32_t xid)
{
	return (struct change){.kind = CHANGE_BEGIN,
			       .lsn = {commit},
			       .xid = xid,
			       .commit_us = INT64_C(1763800000000000) + (int64_t)commit};
}

static inline struct change data_commit(uint64_t commit, uint64_t end)
{
	return (struct change){.kind = CHANGE_COMMIT,
			       .lsn = {end},
			       .commit_us = INT64_C(1763800000000000) + (int64_t)commit};
}

static inline struct change data_progress(uint64_t at)
{
	return (struct change){.kind = CHANGE_PROGRESS, .lsn = {at}};
}

/* An event row; v: at least 5 values, used until the change is. */
static inline struct change data_event(struct value v[5], uint64_t lsn, const char *event)
{
	static const uint8_t id[16] = {1, 2, 3, 0, 0xFF};
	static const uint8_t sequence[4] = {0, 0, 0, 1};
	v[0] = data_value(VALUE_BINARY, id, sizeof(id));
	v[1] = data_value(VALUE_BINARY, sequence, sizeof(sequence));
	v[2] = data_value(VALUE_TEXT, "initialized", 11);
	v[3] = data_value(VALUE_TEXT, event, strlen(event));
	v[4] = data_value(VALUE_NULL, NULL, 0);
	return (struct change){.kind = CHANGE_INSERT,
			       .lsn = {lsn},
			       .schema = &data_events,
			       .new_row = {.count = 5, .value = v}};
}

static inline void data_append(struct spool_writer *w, struct change c)
{
	struct rt_err err;
	assert_rc(spool_append(w, &c, &err), err);
}

/* A transaction of rows events whose text tells end and row; ends at end, a multiple of 16. */
static inline void data_transaction(struct spool_writer *w, uint64_t end, unsigned rows)
{
	struct value v[5];
	char text[64];
	data_append(w, data_begin(end - 8, (uint32_t)end));
	for (unsigned i = 0; i < rows; i++) {
		snprintf(text, sizeof(text), "{\"end\": %llu, \"row\": %u}",
			 (unsigned long long)end, i);
		data_append(w, data_event(v, end - 9, text));
	}
	data_append(w, data_commit(end - 8, end));
}

static inline bool data_tuple_equal(const struct tuple *a, const struct tuple *b)
{
	if (a->count != b->count)
		return false;
	for (unsigned i = 0; i < a->count; i++) {
		const struct value *x = &a->value[i], *y = &b->value[i];
		if (x->kind != y->kind || x->len != y->len ||
		    (x->len > 0 && memcmp(x->p, y->p, x->len) != 0))
			return false;
	}
	return true;
}

static inline bool data_schema_equal(const struct schema *a, const struct schema *b)
{
	if (a->hash != b->hash || a->relation_oid != b->relation_oid ||
	    strcmp(a->nspname, b->nspname) != 0 || strcmp(a->relname, b->relname) != 0 ||
	    a->identity != b->identity || a->count != b->count)
		return false;
	for (unsigned i = 0; i < a->count; i++) {
		const struct schema_column *x = &a->column[i], *y = &b->column[i];
		if (strcmp(x->name, y->name) != 0 || x->key != y->key ||
		    x->type_oid != y->type_oid || x->typmod != y->typmod)
			return false;
	}
	return true;
}

static inline bool data_change_equal(const struct change *a, const struct change *b)
{
	if (a->kind != b->kind || !lsn_eq(a->lsn, b->lsn) || a->xid != b->xid ||
	    a->commit_us != b->commit_us || a->old_kind != b->old_kind ||
	    a->truncate_flags != b->truncate_flags || a->truncated_count != b->truncated_count ||
	    a->transactional != b->transactional || (a->schema == NULL) != (b->schema == NULL) ||
	    (a->prefix == NULL) != (b->prefix == NULL))
		return false;
	for (uint32_t i = 0; i < a->truncated_count; i++)
		if (!data_schema_equal(a->truncated[i], b->truncated[i]))
			return false;
	return (a->schema == NULL || data_schema_equal(a->schema, b->schema)) &&
	       (a->prefix == NULL || strcmp(a->prefix, b->prefix) == 0) &&
	       slice_eq(a->content, b->content) && data_tuple_equal(&a->new_row, &b->new_row) &&
	       data_tuple_equal(&a->old_row, &b->old_row);
}

/* ---- directories ---- */

/* A new directory under TMPDIR; data_rmdir removes it with its files. */
static inline char *data_mkdir(void)
{
	const char *tmp = getenv("TMPDIR");
	char *dir = rt_sprintf("%s/rolag-unit-XXXXXX", tmp != NULL ? tmp : "/tmp");
	assert_non_null(mkdtemp(dir));
	return dir;
}

static inline void data_empty_dir(const char *dir)
{
	DIR *d = opendir(dir);
	if (d == NULL)
		return;
	for (struct dirent *de; (de = readdir(d)) != NULL;)
		unlinkat(dirfd(d), de->d_name, 0);
	closedir(d);
}

static inline void data_rmdir(char *dir)
{
	data_empty_dir(dir);
	rmdir(dir);
	free(dir);
}

#endif
