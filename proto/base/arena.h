/*
 * arena: memory that is given back all at once. A batch (apply) or a turn
 * (capture) allocates from one arena and resets it at its end; nothing in an
 * arena is freed singly. Blocks are kept between resets up to a limit.
 */
#ifndef PROTO_BASE_ARENA_H
#define PROTO_BASE_ARENA_H

#include "proto/base/rt.h"

struct arena_block;

struct arena {
	struct arena_block *head; /* the block being filled; older ones behind it */
	size_t used_bytes;	  /* handed out since the last reset, padding included */
	size_t block_bytes;	  /* size of a new block */
};

void arena_init(struct arena *a, size_t block_bytes);
/* Frees all but one block; everything handed out before is invalid. */
void arena_reset(struct arena *a);
void arena_release(struct arena *a);

/* bytes of memory aligned for any type, uninitialised; aborts rather than return NULL. */
void *arena_alloc(struct arena *a, size_t bytes) __attribute__((returns_nonnull));
void *arena_zalloc(struct arena *a, size_t bytes) __attribute__((returns_nonnull));
/* Gives back the end of p, the last thing allocated, but for its first keep bytes; no-op when it is not the last. */
void arena_trim(struct arena *a, void *p, size_t bytes, size_t keep);
/* A NUL-terminated copy of len bytes. */
char *arena_strndup(struct arena *a, const char *s, size_t len) __attribute__((returns_nonnull));
char *arena_strdup(struct arena *a, const char *s) __attribute__((returns_nonnull));
struct slice arena_copy(struct arena *a, struct slice s);
char *arena_printf(struct arena *a, const char *fmt, ...) RT_PRINTF(2, 3)
	__attribute__((returns_nonnull));

#endif
