/* init: what `rolag init` is made of (init.c runs it, init_sql.c prints it, init_core.c and init_warehouse.c do it). */
#ifndef CDC_COMMANDS_INIT_H
#define CDC_COMMANDS_INIT_H

#include "apply/stream/mirror.h"
#include "cdc/commands/cli.h"
#include "cdc/commands/estate.h"

/* What DDL on the core's tables waits for a lock at most. */
#define INIT_LOCK_TIMEOUT "2s"

/* A publication as it is wanted, and as it was found. */
struct init_publication {
	const char *name;
	const char *publish; /* "insert, truncate", … */
	size_t count;
	const struct publication_table *table; /* wanted; has_columns, has_filter false */
	struct publication_view found;
};

enum { INIT_INSERTS, INIT_CHANGES, INIT_PUBLICATIONS };

struct init {
	struct arena *arena;
	struct settings s;
	struct landed_set landed; /* by name of the rollup */
	struct mirror_set mirrors;
	struct init_publication pub[INIT_PUBLICATIONS]; /* one without tables is not made */
	PGconn *core, *replication, *warehouse;
	struct pgc_system system;    /* of the core */
	struct slot_view slot;	     /* as found; with confirmed set once it is made */
	struct control_view control; /* as found */
	int changes;		     /* things made */
};

/* Prints "core: created …"; counts it. */
void init_made(struct init *in, const char *where, const char *fmt, ...) RT_PRINTF(3, 4);
/* Prints what was there already, or is only to be known. */
void init_says(const char *where, const char *fmt, ...) RT_PRINTF(2, 3);

/* Reads what is there and refuses what cannot be mended by making things. */
int init_core_look(struct init *in, struct rt_err *err) RT_MUSTCHECK;
/* Publication (committed), then slot. */
int init_core_make(struct init *in, struct rt_err *err) RT_MUSTCHECK;
/* Schemas, control schema, fence, the ledger's first row, landed tables. */
int init_warehouse_make(struct init *in, struct rt_err *err) RT_MUSTCHECK;
/* Prints the SQL for the DBAs ("core", "warehouse", or NULL for both); connects to nothing. */
int init_print_sql(const struct init *in, const char *side, FILE *out,
		   struct rt_err *err) RT_MUSTCHECK;

/* Which tables each publication has to have, by the rollups and mirrors of in. */
void init_want_publications(struct init *in);
/* Is the source of item[at] that of none before it? One table can feed several rollups. */
bool init_is_first_of_source(const struct landed_set *set, size_t at);
/* Does a rollup read this table? */
bool init_is_source(const struct landed_set *set, const struct publication_table *t);
/* init_reports.c. Grants, where the companion has a role of its own; … and what only a DBA can give it. */
int init_reports_make(struct init *in, struct rt_err *err) RT_MUSTCHECK;
int init_reports_print(const struct init *in, struct buf *b, const char *role,
		       struct rt_err *err) RT_MUSTCHECK;
/* Appends statements that make the role if it is not there, with these rights; that grant rights on the database. */
void init_sql_role(struct buf *b, const char *role, const char *rights);
void init_sql_grant(struct buf *b, const char *rights, const char *database, const char *role);
/* Appends the statement, without semicolon. */
void init_sql_create_publication(const struct init_publication *p, struct buf *out);

#endif
