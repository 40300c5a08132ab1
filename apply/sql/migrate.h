/*
 * migrate: brings the control schema `rolag` of the warehouse to the version
 * that this program knows. Each file NNN_*.sql is one version, embedded at
 * build, run in one transaction together with its row in rolag.migration.
 */
#ifndef APPLY_SQL_MIGRATE_H
#define APPLY_SQL_MIGRATE_H

#include <libpq-fe.h>

#include "proto/base/rt.h"

/* The version that this program knows. */
int migrate_latest(void);
/* The text of version number (1 … migrate_latest()), NUL-terminated, static. */
const char *migrate_sql(int number);
/* The version that the warehouse has; 0 when there is none. */
int migrate_version(PGconn *warehouse, int *ret, struct rt_err *err) RT_MUSTCHECK;
/*
 * Creates the schema when it is missing and runs what is missing; *ret_ran =
 * how many versions that was. Two at once: one waits for the other.
 * ERR_PERMANENT when the warehouse is newer than the program, or a right is missing.
 */
int migrate_run(PGconn *warehouse, int *ret_ran, struct rt_err *err) RT_MUSTCHECK;
/* ERR_PERMANENT, with the mend, unless the warehouse has exactly our version. For the roles' start. */
int migrate_check(PGconn *warehouse, struct rt_err *err) RT_MUSTCHECK;

#endif
