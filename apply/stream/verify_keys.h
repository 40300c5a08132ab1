/*
 * verify_keys: a bounded set of keys, each with a number from 0 on in the order
 * in which it was added. Pure. What belongs to a key is the user's, by number.
 */
#ifndef APPLY_STREAM_VERIFY_KEYS_H
#define APPLY_STREAM_VERIFY_KEYS_H

#include "proto/base/arena.h"

struct verify_keys {
	struct arena arena; /* the keys' bytes */
	struct slice *key;
	uint32_t count, cap;
	uint32_t *slot; /* open addressing: number + 1; 0: free */
	uint32_t slots; /* a power of two */
};

void verify_keys_init(struct verify_keys *k);
void verify_keys_release(struct verify_keys *k);
/* Empties it. */
void verify_keys_reset(struct verify_keys *k);
/* Adds a copy of key where it is not there. Its number; *ret_new (may be NULL): it was not. */
uint32_t verify_keys_add(struct verify_keys *k, struct slice key, bool *ret_new);
/* Its number; −1: it is not there. */
int64_t verify_keys_find(const struct verify_keys *k, struct slice key);

#endif
