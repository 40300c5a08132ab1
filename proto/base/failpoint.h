/*
 * failpoint: named places where a test makes the world fail. Only builds with
 * ROLAG_FAILPOINTS have them (make MODE=fail); in any other each macro is
 * nothing, and costs nothing. failpoints.def lists them.
 *
 *   FAILPOINT(SPOOL_SYNCED);                     the process dies here, or waits
 *   FAILPOINT_FD(TAKEOVER_LOCKED, PQsocket(c));  … or this connection breaks
 *   if (FP_FAILS(SPOOL_RENAME) || rename(…))     the call fails, errno says how
 *   rc = FP_ERROR(SPOOL_SYNC, err);              the same as an error
 *   write(fd, p, FP_BYTES(FS_WRITE_SHORT, n))    the call does less than asked
 *
 * ROLAG_FAILPOINTS="spool.sync=EIO@3;ledger.before_commit=kill" names points,
 * what happens there, and at which hit (the first without @N); once each, or
 * with @N+ from that hit on, counted over the process and its children.
 */
#ifndef PROTO_BASE_FAILPOINT_H
#define PROTO_BASE_FAILPOINT_H

#include "proto/base/rt.h"

#ifdef ROLAG_FAILPOINTS

/* What a point can simulate, beside kill and delay:MS. */
enum { FP_ERRNO = 1, FP_FD = 2, FP_SHORT = 4 };

enum fp_id {
#define FAILPOINT_DEF(id, name, can, help) FP_##id,
#include "proto/base/failpoints.def"
#undef FAILPOINT_DEF
	FP_COUNT
};

/* Reads what ROLAG_FAILPOINTS says (NULL: nothing); ERR_USAGE naming what is unknown. */
int fp_configure(const char *text, struct rt_err *err) RT_MUSTCHECK;
/* The process passes a point: true when a call is to fail, with errno set. fd: its connection, or -1. */
bool fp_hit(enum fp_id id, int fd);
/* The same as an error: ERR_SYSTEM, or 0. */
int fp_error(enum fp_id id, struct rt_err *err) RT_MUSTCHECK;
/* How many of bytes are to be done: some but not all of them at a short call. */
size_t fp_bytes(enum fp_id id, size_t bytes);

#define FP_CONFIGURE(err)    fp_configure(getenv("ROLAG_FAILPOINTS"), err)
#define FAILPOINT(id)	     ((void)fp_hit(FP_##id, -1))
#define FAILPOINT_FD(id, fd) ((void)fp_hit(FP_##id, fd))
#define FP_FAILS(id)	     fp_hit(FP_##id, -1)
#define FP_ERROR(id, err)    fp_error(FP_##id, err)
#define FP_BYTES(id, bytes)  fp_bytes(FP_##id, bytes)

#else

#define FP_CONFIGURE(err)    0
#define FAILPOINT(id)	     ((void)0)
#define FAILPOINT_FD(id, fd) ((void)0)
#define FP_FAILS(id)	     false
#define FP_ERROR(id, err)    0
#define FP_BYTES(id, bytes)  (bytes)

#endif
#endif
