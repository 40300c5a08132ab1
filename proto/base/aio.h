/*
 * aio: an fdatasync that the loop does not wait for (io_submit(2) with
 * IOCB_CMD_FDSYNC, by libaio): on a busy disk it takes milliseconds, in which
 * nothing else would be read or answered. One at a time.
 */
#ifndef PROTO_BASE_AIO_H
#define PROTO_BASE_AIO_H

#include <libaio.h>

#include "proto/base/rt.h"

struct aio_sync {
	io_context_t context; /* NULL: the kernel gives none; then every sync is done at once */
	int event_fd;	      /* readable when the sync is done; -1 like context */
	bool busy;	      /* begun, and its end not yet taken */
	bool at_once;	      /* what was begun is done already */
	struct iocb request;
};

/* Never fails: without AIO, syncs are done within aio_sync_begin. */
void aio_sync_open(struct aio_sync *s);
/* Waits for a sync that is under way. */
void aio_sync_close(struct aio_sync *s);
/*
 * Begins to bring what was written to fd so far to the disk; none may be under
 * way. ERR_SYSTEM, as aio_sync_end: final, the kernel may have dropped pages.
 * path: for messages; fd must stay open until the end was taken.
 */
int aio_sync_begin(struct aio_sync *s, int fd, const char *path, struct rt_err *err) RT_MUSTCHECK;
/* 1: what was begun is on disk; 0: not yet (never, where wait), or nothing is under way. */
int aio_sync_end(struct aio_sync *s, bool wait, const char *path, struct rt_err *err) RT_MUSTCHECK;

#endif
