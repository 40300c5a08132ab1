/* mirror_sql: the SQL of mirrors. Guarantees: names and values are quoted, types are those of the shape. */
#include "apply/stream/mirror.h"

#include <inttypes.h>

#include "apply/stream/swap.h"
#include "proto/pg/pgconn.h"
#include "proto/record.h"

static void comma(struct buf *out, uint16_t i)
{
	if (i > 0)
		buf_str(out, ", ");
}

static void column_comment(const struct mirror *m, const struct mirror_shape *shape, uint16_t i,
			   struct buf *out)
{
	static const char *const how[] = {
		[LAND_ENUM] = ", an enum", [LAND_BY_TEXT] = ", in its text form"};
	const struct schema_land *l = &shape->source.land[i];
	const char *note = l->kind == LAND_ENUM || l->kind == LAND_BY_TEXT ? how[l->kind] : "";
	char *text =
		rt_sprintf("Column %s of %s%s.", shape->source.column[i].name, m->source, note);
	landed_comment(out, m->target, shape->source.column[i].name, text);
	free(text);
}

/* That the comment of a column which was just added is ours. */
static void comment_made(const struct mirror *m, const char *column, struct buf *out)
{
	buf_str(out, "INSERT INTO rolag.comment_made SELECT ");
	pgc_literal(out, m->schema);
	buf_str(out, ", ");
	pgc_literal(out, m->is_beside ? m->beside : m->relname);
	buf_str(out,
		", a.attname, pg_catalog.md5(pg_catalog.col_description(a.attrelid, a.attnum)) "
		"FROM pg_catalog.pg_attribute a WHERE a.attrelid = ");
	pgc_literal(out, m->target);
	buf_str(out, "::regclass AND a.attname = ");
	pgc_literal(out, column);
	buf_str(out, " ON CONFLICT (schema_name, table_name, column_name) DO UPDATE SET hash = "
		     "excluded.hash;\n");
}

static void table_comments(const struct mirror *m, const struct mirror_shape *shape,
			   const char *generated, struct buf *out)
{
	char *text = rt_sprintf("Mirror of %s: %s%s%s%s", m->source,
				m->append_only ? "every row that was inserted" : "row by row",
				generated[0] != '\0' ? "; without its generated columns: " : "",
				generated, ".");
	landed_comment(out, m->target, NULL, text);
	free(text);
	for (uint16_t i = 0; i < shape->source.count; i++)
		column_comment(m, shape, i, out);
	landed_comment(
		out, m->target, "_lsn",
		"Commit end LSN of the source transaction that wrote this row last; for a row that "
		"came by sync, the LSN of the snapshot (an upper bound).");
}

static void key_columns(const struct mirror_shape *shape, struct buf *out)
{
	for (uint16_t i = 0; i < shape->key_count; i++) {
		comma(out, i);
		pgc_ident(out, shape->source.column[shape->key[i]].name);
	}
}

void mirror_ddl(const struct mirror *m, const struct mirror_shape *shape, const char *generated,
		struct buf *out)
{
	buf_printf(out, "DROP TABLE IF EXISTS %s;\nCREATE TABLE %s (\n", m->target, m->target);
	for (uint16_t i = 0; i < shape->source.count; i++) {
		buf_str(out, "    ");
		pgc_ident(out, shape->source.column[i].name);
		buf_printf(out, " %s,\n", shape->source.land[i].type);
	}
	buf_str(out, "    _lsn pg_lsn NOT NULL");
	if (shape->key_count > 0) {
		buf_str(out, ",\n    PRIMARY KEY (");
		key_columns(shape, out);
		buf_str(out, ")");
	}
	buf_str(out, "\n);\n");
	table_comments(m, shape, generated, out);
	swap_made_sql(m->schema, m->is_beside ? m->beside : m->relname, out);
}

static void bytea_literal(struct buf *out, struct slice bytes)
{
	buf_str(out, "'\\x");
	for (size_t i = 0; i < bytes.len; i++)
		buf_printf(out, "%02x", bytes.p[i]);
	buf_str(out, "'::bytea");
}

static void record_names(const struct mirror *m, const struct mirror_shape *shape, struct buf *out)
{
	buf_str(out, ", source = ");
	pgc_literal(out, m->source);
	buf_str(out, ", source_columns = ARRAY[");
	for (uint16_t i = 0; i < shape->source.count; i++) {
		comma(out, i);
		pgc_literal(out, shape->source.column[i].name);
	}
	buf_str(out, "]::text[]");
}

void mirror_record_sql(const struct settings *s, const struct mirror *m,
		       const struct mirror_shape *shape, struct buf *out)
{
	struct buf bytes = BUF_INIT;
	record_add_schema(&bytes, &shape->source);
	buf_str(out, m->is_beside ? "UPDATE rolag.sync SET shape = "
				  : "UPDATE rolag.relation SET shape = ");
	bytea_literal(out, buf_slice(&bytes));
	if (!m->is_beside)
		record_names(m, shape, out);
	buf_str(out, ", changed_at = now() WHERE pipeline = ");
	pgc_literal(out, s->pipeline);
	buf_str(out, " AND name = ");
	pgc_literal(out, m->relname);
	buf_release(&bytes);
}

static bool has_column(const struct mirror_shape *shape, const char *name)
{
	for (uint16_t i = 0; i < shape->source.count; i++)
		if (strcmp(shape->source.column[i].name, name) == 0)
			return true;
	return false;
}

/* The default is that of older rows only: later ones bring their values. */
static void add_column(const struct mirror *m, const struct mirror_shape *shape, uint16_t i,
		       struct buf *out)
{
	const struct schema_land *l = &shape->source.land[i];
	buf_printf(out, "ALTER TABLE %s ADD COLUMN ", m->target);
	pgc_ident(out, shape->source.column[i].name);
	buf_printf(out, " %s", l->type);
	if (l->missing != NULL) {
		buf_str(out, " DEFAULT ");
		pgc_literal(out, l->missing);
		buf_printf(out, ";\nALTER TABLE %s ALTER COLUMN ", m->target);
		pgc_ident(out, shape->source.column[i].name);
		buf_str(out, " DROP DEFAULT");
	}
	buf_str(out, ";\n");
	column_comment(m, shape, i, out);
	comment_made(m, shape->source.column[i].name, out);
}

void mirror_add_sql(const struct settings *s, const struct mirror *m,
		    const struct mirror_shape *shape, struct buf *out)
{
	struct buf body = BUF_INIT;
	buf_str(&body, "DECLARE before text := pg_catalog.current_setting('lock_timeout'); BEGIN\n"
		       "PERFORM pg_catalog.set_config('lock_timeout', '200ms', true);\n");
	for (uint16_t i = 0; i < shape->source.count; i++)
		if (!has_column(m->shape, shape->source.column[i].name))
			add_column(m, shape, i, &body);
	mirror_record_sql(s, m, shape, &body);
	buf_str(&body, ";\nPERFORM pg_catalog.set_config('lock_timeout', before, true);\nEND");
	buf_str(out, "DO ");
	pgc_literal(out, buf_cstr(&body));
	buf_release(&body);
}

/* Behind SELECT: columns as they land, and _lsn. */
static void select_list(const struct mirror_shape *shape, const char *prefix, struct lsn lsn,
			struct buf *out)
{
	for (uint16_t i = 0; i < shape->source.count; i++) {
		buf_str(out, prefix);
		pgc_ident(out, shape->source.column[i].name);
		/* What lands as it is needs no cast, but a domain. */
		if (shape->source.land[i].kind != LAND_AS_IS ||
		    shape->source.column[i].type_oid >= 10000)
			buf_printf(out, "::%s", shape->source.land[i].type);
		buf_str(out, ", ");
	}
	buf_printf(out, "'" LSN_FMT "'::pg_lsn", LSN_ARGS(lsn));
}

static void from_source(const struct mirror *m, char relkind, struct buf *out)
{
	buf_str(out, relkind == 'p' ? " FROM " : " FROM ONLY ");
	pgc_ident(out, m->nspname);
	buf_u8(out, '.');
	pgc_ident(out, m->relname);
}

void mirror_select_sql(const struct mirror *m, const struct mirror_shape *shape, char relkind,
		       struct lsn lsn, struct buf *out)
{
	buf_str(out, "SELECT ");
	select_list(shape, "", lsn, out);
	from_source(m, relkind, out);
}

/* The table's columns, not those of the SELECT list that are called the same. */
static void piece_columns(const struct mirror_piece *p, struct buf *out)
{
	for (uint16_t k = 0; k < p->key_count; k++) {
		buf_str(out, k > 0 ? ", s." : "s.");
		pgc_ident(out, p->key[k]);
	}
}

static void piece_keys(const struct mirror_piece *p, struct buf *out)
{
	buf_str(out, " WHERE (");
	piece_columns(p, out);
	buf_str(out, ") IN (");
	for (int i = 0; i < PQntuples(p->keys); i++) {
		buf_str(out, i > 0 ? ", (" : "(");
		for (uint16_t k = 0; k < p->key_count; k++) {
			comma(out, k);
			pgc_literal(out, PQgetvalue(p->keys, i, k));
		}
		buf_u8(out, ')');
	}
	buf_u8(out, ')');
}

static void piece_behind(const struct mirror_piece *p, struct buf *out)
{
	if (p->from != NULL) {
		buf_str(out, " WHERE (");
		piece_columns(p, out);
		buf_str(out, ") > (");
		for (uint16_t k = 0; k < p->key_count; k++) {
			struct buf part = BUF_INIT;
			buf_add_slice(&part, buf_slice(&p->from[k]));
			comma(out, k);
			pgc_literal(out, buf_cstr(&part));
			buf_release(&part);
		}
		buf_u8(out, ')');
	}
	buf_str(out, " ORDER BY ");
	piece_columns(p, out);
	buf_printf(out, " LIMIT %" PRId64, p->limit);
}

void mirror_piece_sql(const struct mirror *m, const struct mirror_shape *shape, char relkind,
		      struct lsn lsn, const struct mirror_piece *piece, struct buf *out)
{
	buf_str(out, "SELECT ");
	for (uint16_t k = 0; k < piece->key_count; k++) {
		buf_str(out, "s.");
		pgc_ident(out, piece->key[k]);
		buf_str(out, "::text, ");
	}
	select_list(shape, "s.", lsn, out);
	from_source(m, relkind, out);
	buf_str(out, " AS s");
	if (piece->keys != NULL)
		piece_keys(piece, out);
	else
		piece_behind(piece, out);
}

bool mirror_copies_binary(const struct mirror_shape *shape)
{
	for (uint16_t i = 0; i < shape->source.count; i++)
		if (shape->source.land[i].kind == LAND_EXTENSION ||
		    (shape->source.land[i].kind == LAND_BY_TEXT &&
		     strcmp(shape->source.land[i].type, "text") != 0))
			return false;
	return true;
}

void mirror_copy_sql(const struct mirror *m, const struct mirror_shape *shape, bool binary,
		     struct buf *out)
{
	buf_printf(out, "COPY %s (", m->target);
	for (uint16_t i = 0; i < shape->source.count; i++) {
		pgc_ident(out, shape->source.column[i].name);
		buf_str(out, ", ");
	}
	buf_printf(out, "_lsn) FROM STDIN (FORMAT %s)", binary ? "binary" : "text");
}
