/* source: event table rows into fold events. Guarantees: nothing reaches the fold unchecked. */
#include "apply/stream/source.h"

#include "proto/pg/types.h"
#include "transforms/rollup/json.h"

static bool is_text(uint32_t oid)
{
	return oid == OID_TEXT || oid == OID_VARCHAR;
}

static bool id_fits(enum pgt t, uint32_t oid)
{
	if (t == PGT_TEXT || t == PGT_VARCHAR)
		return is_text(oid);
	return pgt_oid((struct pgt_type){t, false}) == oid;
}

static int find_column(const struct rollup *r, const struct schema *s, const char *name,
		       uint16_t *ret, uint32_t *ret_oid, struct rt_err *err)
{
	for (uint16_t i = 0; i < s->count; i++)
		if (strcmp(s->column[i].name, name) == 0) {
			*ret = i;
			*ret_oid = s->column[i].type_oid;
			return 0;
		}
	return rt_fail(err, ERR_PERMANENT,
		       "relation %s.%s has no column %s, which rollup %s reads (source_columns)",
		       s->nspname, s->relname, name, r->name);
}

int source_map_columns(const struct rollup *r, const struct schema *s, struct source_map *ret,
		       struct rt_err *err)
{
	struct source_map m;
	int rc;
	if ((rc = find_column(r, s, r->source_column.id, &m.id, &m.id_oid, err)) != 0 ||
	    (rc = find_column(r, s, r->source_column.sequence, &m.sequence, &m.sequence_oid,
			      err)) != 0 ||
	    (rc = find_column(r, s, r->source_column.event_type, &m.event_type, &m.event_type_oid,
			      err)) != 0 ||
	    (rc = find_column(r, s, r->source_column.event, &m.event, &m.event_oid, err)) != 0 ||
	    (rc = find_column(r, s, r->source_column.recorded_at, &m.recorded_at,
			      &m.recorded_at_oid, err)) != 0)
		return rc;
	const char *wrong = NULL;
	if (!id_fits(r->id_type, m.id_oid))
		wrong = r->source_column.id;
	else if (m.sequence_oid != OID_INT2 && m.sequence_oid != OID_INT4 &&
		 m.sequence_oid != OID_INT8)
		wrong = r->source_column.sequence;
	else if (!is_text(m.event_type_oid))
		wrong = r->source_column.event_type;
	else if (m.event_oid != OID_JSONB && m.event_oid != OID_JSON)
		wrong = r->source_column.event;
	else if (m.recorded_at_oid != OID_TIMESTAMPTZ)
		wrong = r->source_column.recorded_at;
	if (wrong != NULL)
		return rt_fail(err, ERR_PERMANENT,
			       "column %s of relation %s.%s has a type that rollup %s cannot read",
			       wrong, s->nspname, s->relname, r->name);
	*ret = m;
	return 0;
}

/* The value in send format: as it came, or cast from text into the arena. */
static int to_binary(enum pgt t, const struct value *v, struct arena *a, struct slice *ret,
		     struct rt_err *err)
{
	struct slice in = {v->p, v->len};
	if (v->kind == VALUE_BINARY) {
		if (!pgt_is_valid((struct pgt_type){t, false}, in))
			return rt_fail(err, ERR_PERMANENT, "not a valid binary %s",
				       pgt_name((struct pgt_type){t, false}));
		*ret = in;
		return 0;
	}
	if (v->kind != VALUE_TEXT)
		return rt_fail(err, ERR_PERMANENT, "is %s",
			       v->kind == VALUE_NULL ? "NULL" : "unchanged TOAST");
	if (t == PGT_TEXT || t == PGT_VARCHAR) { /* text and binary form are the same */
		*ret = in;
		return 0;
	}
	struct buf b = BUF_INIT;
	int rc = pgt_from_text(t, in, NULL, &b, err);
	if (rc == 0)
		*ret = arena_copy(a, buf_slice(&b));
	buf_release(&b);
	return rc;
}

static int read_sequence(const struct source_map *m, const struct value *v, struct arena *a,
			 int32_t *ret, struct rt_err *err)
{
	struct slice s;
	enum pgt t = m->sequence_oid == OID_INT2   ? PGT_INT2
		     : m->sequence_oid == OID_INT4 ? PGT_INT4
						   : PGT_INT8;
	int rc = to_binary(t, v, a, &s, err);
	if (rc != 0)
		return rc;
	int64_t n = t == PGT_INT2   ? (int16_t)be16_get(s.p)
		    : t == PGT_INT4 ? (int32_t)be32_get(s.p)
				    : (int64_t)be64_get(s.p);
	if (n < 1 || n > INT32_MAX)
		return rt_fail(err, ERR_PERMANENT, "is not between 1 and %d", INT32_MAX);
	*ret = (int32_t)n;
	return 0;
}

/* The payload as canonical JSON text: jsonb's output is; json is made so. */
static int read_payload(const struct source_map *m, const struct value *v, struct arena *a,
			struct slice *ret, struct rt_err *err)
{
	if (v->kind != VALUE_TEXT && v->kind != VALUE_BINARY)
		return rt_fail(err, ERR_PERMANENT, "is %s",
			       v->kind == VALUE_NULL ? "NULL" : "unchanged TOAST");
	struct slice text = {v->p, v->len};
	if (m->event_oid == OID_JSONB) {
		if (v->kind == VALUE_BINARY) {
			if (text.len < 1 || text.p[0] != 1)
				return rt_fail(err, ERR_PERMANENT,
					       "is jsonb of an unknown version");
			text = slice_of(text.p + 1, text.len - 1);
		}
		*ret = text;
		return 0;
	}
	struct buf b = BUF_INIT;
	int rc = json_canonical(text, &b, err);
	if (rc == 0)
		*ret = arena_copy(a, buf_slice(&b));
	buf_release(&b);
	return rc;
}

int source_read_row(const struct rollup *r, const struct source_map *m, const struct tuple *row,
		    struct arena *a, struct fold_event *ret, struct rt_err *err)
{
	struct fold_event e = {0};
	struct slice at;
	const char *column = r->source_column.id;
	uint16_t highest =
		RT_MAX(RT_MAX(RT_MAX(m->id, m->sequence), RT_MAX(m->event_type, m->event)),
		       m->recorded_at);
	if (highest >= row->count)
		return rt_fail(err, ERR_PERMANENT, "relation %s.%s: row of %u columns",
			       r->source_schema, r->source_table, row->count);
	int rc = to_binary(r->id_type, &row->value[m->id], a, &e.id, err);
	if (rc == 0) {
		column = r->source_column.sequence;
		rc = read_sequence(m, &row->value[m->sequence], a, &e.sequence, err);
	}
	if (rc == 0) {
		column = r->source_column.event_type;
		rc = to_binary(PGT_TEXT, &row->value[m->event_type], a, &e.event_type, err);
	}
	if (rc == 0) {
		column = r->source_column.recorded_at;
		rc = to_binary(PGT_TIMESTAMPTZ, &row->value[m->recorded_at], a, &at, err);
	}
	if (rc == 0) {
		e.recorded_at_us = (int64_t)be64_get(at.p);
		column = r->source_column.event;
		rc = read_payload(m, &row->value[m->event], a, &e.payload, err);
	}
	if (rc == 0) {
		*ret = e;
		return 0;
	}
	if (e.sequence > 0)
		return rt_context(err, "relation %s.%s, id %s, sequence %d, column %s",
				  r->source_schema, r->source_table, source_id_text(r, e.id, a),
				  e.sequence, column);
	return rt_context(err, "relation %s.%s, column %s", r->source_schema, r->source_table,
			  column);
}

const char *source_id_text(const struct rollup *r, struct slice id, struct arena *a)
{
	struct buf b = BUF_INIT;
	struct rt_err ignored;
	const char *text = "?";
	if (pgt_to_text((struct pgt_type){r->id_type, false}, id, &b, &ignored) == 0)
		text = arena_strdup(a, buf_cstr(&b));
	buf_release(&b);
	return text;
}
