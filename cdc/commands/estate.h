/* estate: what of ours the two databases hold; read by init (to make the rest) and check. */
#ifndef CDC_COMMANDS_ESTATE_H
#define CDC_COMMANDS_ESTATE_H

#include "proto/base/arena.h"
#include "proto/pg/pgconn.h"

struct publication_table {
	const char *schema, *table;
	bool has_columns, has_filter; /* a column list; a row filter */
};

struct publication_view {
	bool exists;
	bool all_tables, inserts, updates, deletes, truncates;
	size_t count;
	const struct publication_table *table;
};

struct slot_view {
	bool exists;
	const char *plugin, *database, *wal_status;
	bool active;
	struct lsn confirmed;
	uint64_t retained_bytes; /* WAL kept for it */
};

/* The warehouse's control rows of one pipeline. */
struct control_view {
	int version; /* of the control schema; 0: none, and nothing below is set */
	bool has_fence, has_ledger;
	char core_system_id[32]; /* "" = not recorded */
	struct lsn applied;
	uint32_t timeline;
};

int publication_read(PGconn *core, struct arena *a, const char *name, struct publication_view *ret,
		     struct rt_err *err) RT_MUSTCHECK;
/* The table in the publication, or NULL. */
const struct publication_table *publication_find(const struct publication_view *p,
						 const char *schema, const char *table);
int slot_read(PGconn *core, struct arena *a, const char *name, struct slot_view *ret,
	      struct rt_err *err) RT_MUSTCHECK;
int control_read(PGconn *warehouse, const char *pipeline, struct control_view *ret,
		 struct rt_err *err) RT_MUSTCHECK;
/* First field of the first row as text in the arena; NULL when there is no row or it is NULL. */
int estate_text(PGconn *c, struct arena *a, const char **ret, struct rt_err *err, const char *sql,
		int count, const char *const *params) RT_MUSTCHECK;
/* Appends "schema"."table". */
void estate_table(struct buf *b, const char *schema, const char *table);

#endif
