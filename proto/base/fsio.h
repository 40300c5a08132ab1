/*
 * fsio: file system calls that do the whole job or say why not. Durable means
 * what fsync(2) means; a failed fsync is never retried, since the kernel may
 * already have dropped the pages: the caller stops and starts over.
 */
#ifndef PROTO_BASE_FSIO_H
#define PROTO_BASE_FSIO_H

#include "proto/base/rt.h"

/* Writes all bytes at the file's offset; ERR_SYSTEM with path and errno otherwise. */
int fs_write_all(int fd, const void *p, size_t bytes, const char *path,
		 struct rt_err *err) RT_MUSTCHECK;
/* Reads exactly bytes at offset; 1 done, 0 the file ends before, ERR_SYSTEM. */
int fs_read_at(int fd, void *p, size_t bytes, uint64_t offset, const char *path,
	       struct rt_err *err) RT_MUSTCHECK;
/* The whole file (at most max_bytes), NUL-terminated, malloc'd into *ret, length in *ret_len. ERR_PERMANENT where it is missing, not ours to read, too large or no file; ERR_SYSTEM where it may do the next time. */
int fs_read_file(const char *path, size_t max_bytes, char **ret, size_t *ret_len,
		 struct rt_err *err) RT_MUSTCHECK;
int fs_sync_data(int fd, const char *path, struct rt_err *err) RT_MUSTCHECK;
/* fsync of a directory: makes created, renamed and removed names in it durable. */
int fs_sync_dir(const char *path, struct rt_err *err) RT_MUSTCHECK;
/* mkdir -p with mode for what is created, whose names are durable on return. */
int fs_mkdirs(const char *path, unsigned mode, struct rt_err *err) RT_MUSTCHECK;
/* Writes path.tmp, fsyncs it, renames it over path, fsyncs the directory. */
int fs_replace_file(const char *path, const void *p, size_t bytes, unsigned mode,
		    struct rt_err *err) RT_MUSTCHECK;
/* Bytes that an unprivileged writer may still use on path's file system. */
int fs_free_bytes(const char *path, uint64_t *ret, struct rt_err *err) RT_MUSTCHECK;
/*
 * Takes an exclusive lock on path (created if needed) for this process's life; *ret_fd holds it.
 * ERR_PERMANENT naming the holder's pid when another process has it for longer than wait_us, or
 * when the file may not be opened.
 */
int fs_lock(const char *path, int64_t wait_us, int *ret_fd, struct rt_err *err) RT_MUSTCHECK;

#endif
