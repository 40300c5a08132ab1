/*
 * swap_sql: the queries that a swap asks the warehouse's catalog. All of them
 * want search_path to be empty: names come out qualified, and only pg_catalog is looked at.
 */
#ifndef APPLY_STREAM_SWAP_SQL_H
#define APPLY_STREAM_SWAP_SQL_H

/*
 * $1 oid[] of tables (or of views that are to be dropped). One row per view that reads one of them,
 * also through other views, those that others read first: oid, qualified name, owner, text, options
 * ("" or "WITH (…)"), direct.
 */
enum {
	SWAP_VIEW_OID,
	SWAP_VIEW_NAME,
	SWAP_VIEW_OWNER,
	SWAP_VIEW_TEXT,
	SWAP_VIEW_WITH,
	SWAP_VIEW_DIRECT
};
extern const char swap_views_sql[];
/*
 * $1 oid[] of tables or views. One line of text per thing that depends on one of them and cannot be
 * carried over: what it is, and its mend. Views that read them are not among them.
 */
extern const char swap_dependents_sql[];
/* $1 oid[] of tables. Lines about rights that our role, or an owner, lacks for a swap. */
extern const char swap_table_rights_sql[];
/* $1 oid[] of views. Lines about rights that our role, or an owner, lacks for making them anew. */
extern const char swap_view_rights_sql[];
/*
 * $1, $2 oid of the live and the beside table. One row per extra index or statistics object of the
 * live one, and its key: kind (index, key, statistics), qualified name, bare name, oid, statement
 * that makes it for the beside table, qualified name and oid of its counterpart there (NULL: none).
 */
enum {
	SWAP_EXTRA_KIND,
	SWAP_EXTRA_NAME,
	SWAP_EXTRA_BARE,
	SWAP_EXTRA_OID,
	SWAP_EXTRA_MAKE,
	SWAP_EXTRA_THERE,
};
extern const char swap_extras_sql[];
/* $1 oid: statements that take every grant on it back. */
extern const char swap_revoke_sql[];
/* $1 oid of a relation that has grants, $2 oid of the table that gets those of columns it has, or of itself, $3 its name: statements. */
extern const char swap_grant_sql[];
/* $1 old, $2 new oid: statements that carry over what else a user set on a table. */
extern const char swap_settings_sql[];
/* $1 old, $2 new oid, $3 schema, $4 name of the old one: COMMENT statements of what a user wrote. */
extern const char swap_comments_sql[];
/* $1 oid of a view, $2 its name: COMMENT statements. */
extern const char swap_view_comments_sql[];

#endif
