/*
 * check: what `rolag check` is made of. Each look tells what it found, ok or
 * not, and how to mend it; a look that cannot be made (no connection) says so
 * and does not keep the others from being made.
 */
#ifndef CDC_COMMANDS_CHECK_H
#define CDC_COMMANDS_CHECK_H

#include "apply/stream/landed.h"
#include "apply/stream/mirror.h"
#include "cdc/commands/bar.h"
#include "cdc/commands/cli.h"
#include "cdc/commands/estate.h"

#define CHECK_EXTENSIONS_MAX 200

/* A mirrored column of an extension's type, which the warehouse needs, too. */
struct check_extension {
	const struct mirror *mirror;
	const char *column, *type;
	const char *extension; /* "": not known */
};

struct check {
	struct arena *arena;
	struct settings s;
	struct landed_set landed;
	bool has_landed; /* the definitions could be read */
	struct mirror_set mirrors;
	bool has_mirrors; /* the settings that name them make sense */
	struct check_extension extension[CHECK_EXTENSIONS_MAX];
	size_t extension_count;
	const char *publication;
	struct pgc_system system; /* of the core; system_id 0: not known */
	struct slot_view slot;
	struct control_view control; /* version 0: not known */
	int fails, warnings;
	struct bar *bar; /* of what takes long; NULL: nothing does */
};

/* "ok    core: …" */
void check_ok(struct check *k, const char *fmt, ...) RT_PRINTF(2, 3);
/* "FAIL  core: …" and a line "mend: …"; mend is SQL, a setting or a command, NULL when the text has it. */
void check_fail(struct check *k, const char *mend, const char *fmt, ...) RT_PRINTF(3, 4);
/* Not wrong now, but worth knowing. */
void check_warn(struct check *k, const char *mend, const char *fmt, ...) RT_PRINTF(3, 4);
/* A look that failed by itself. */
void check_error(struct check *k, const char *what, const struct rt_err *err);

void check_core(struct check *k, PGconn *core);
/* What of the core's tables the rollups read. */
void check_sources(struct check *k, PGconn *core);
void check_warehouse(struct check *k, PGconn *warehouse);
/* Mirrored tables; the second needs what the first and check_warehouse found. */
void check_mirrors_core(struct check *k, PGconn *core);
void check_mirrors_warehouse(struct check *k, PGconn *warehouse);
/* `rolag check --definitions`: every definition in rollups.path against a migrated database; db NULL: alone. */
void check_definitions_against(struct check *k, PGconn *db);
/* Settings, identities and the slot's kind, behind check_core. */
void check_core_custody(struct check *k, PGconn *core);
void check_warehouse_server(struct check *k, PGconn *warehouse);
/* Does what the spool here holds fit slot and warehouse? Needs what the others found. */
void check_spool(struct check *k);
/* The folder of models, where one is set; warehouse NULL: that alone. */
void check_models(struct check *k, PGconn *warehouse);
/* Where the companion would serve HTTP, and for whom. */
void check_http(struct check *k);
/* Definitions, folder, roles and rights of the companion, where reports are configured. */
void check_reports(struct check *k);
/* A folder of ours: there and private, or one that can be made; forbidden: bits of its mode. */
void check_folder(struct check *k, const char *key, const char *path, unsigned forbidden);
/* What is in such a folder itself: files, or folders. */
void check_inside(struct check *k, const char *key, const char *path, bool folders,
		  unsigned forbidden);
/* A connection, or NULL: told as a finding. */
PGconn *check_connect(struct check *k, const char *what, const char *conninfo);
/* Folders and free space. */
void check_machine(struct check *k);

#endif
