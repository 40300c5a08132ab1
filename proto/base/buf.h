/*
 * buf: a growing byte buffer for writing, and rd: a cursor for reading.
 *
 * The reader latches its first error: once failed, every further read is a
 * no-op that returns zero, so that a decoder reads straight through and
 * checks once at the end with rd_finish(), which also insists that nothing
 * is left over. Bounds are always "wanted > left", never "pos + n > end".
 * All integers are big-endian (network order), as in PostgreSQL's protocol.
 */
#ifndef PROTO_BASE_BUF_H
#define PROTO_BASE_BUF_H

#include "proto/base/rt.h"

struct arena;

struct buf {
	uint8_t *p;
	size_t len;
	size_t cap;
	struct arena *arena; /* NULL: memory of its own */
};

#define BUF_INIT                                                                                   \
	{                                                                                          \
		NULL, 0, 0, NULL                                                                   \
	}

/*
 * A buffer over cap bytes at p (which may be NULL and 0) that grows into the
 * arena: nothing to release, and its bytes live as long as p and the arena do.
 */
static inline struct buf buf_in_arena(struct arena *a, void *p, size_t cap)
{
	return (struct buf){(uint8_t *)p, 0, cap, a};
}

void buf_release(struct buf *b);
static inline void buf_clear(struct buf *b)
{
	b->len = 0;
}
/* Room for bytes more; returns where they go (not NULL, even for 0). The caller adds to b->len what it wrote. */
uint8_t *buf_reserve(struct buf *b, size_t bytes);
void buf_add(struct buf *b, const void *p, size_t bytes);
void buf_add_slice(struct buf *b, struct slice s);
void buf_str(struct buf *b, const char *s);
void buf_u8(struct buf *b, uint8_t v);
void buf_u16(struct buf *b, uint16_t v);
void buf_u32(struct buf *b, uint32_t v);
void buf_u64(struct buf *b, uint64_t v);
void buf_printf(struct buf *b, const char *fmt, ...) RT_PRINTF(2, 3);
/* NUL-terminates (the NUL is not counted) and returns the text; valid until the next write. */
const char *buf_cstr(struct buf *b);
static inline struct slice buf_slice(const struct buf *b)
{
	return (struct slice){b->p, b->len};
}

static inline uint16_t be16_get(const uint8_t *p)
{
	return (uint16_t)((p[0] << 8) | p[1]);
}

static inline uint32_t be32_get(const uint8_t *p)
{
	uint32_t v;
	memcpy(&v, p, 4);
	return __builtin_bswap32(v);
}

static inline uint64_t be64_get(const uint8_t *p)
{
	uint64_t v;
	memcpy(&v, p, 8);
	return __builtin_bswap64(v);
}

static inline void be16_put(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static inline void be32_put(uint8_t *p, uint32_t v)
{
	v = __builtin_bswap32(v);
	memcpy(p, &v, 4);
}

static inline void be64_put(uint8_t *p, uint64_t v)
{
	v = __builtin_bswap64(v);
	memcpy(p, &v, 8);
}

struct rd {
	const uint8_t *p;
	size_t left;
	bool failed;
};

static inline struct rd rd_of(struct slice s)
{
	return (struct rd){s.p, s.len, false};
}

/* bytes at the cursor, which moves past them; NULL once failed or when fewer are left. */
const uint8_t *rd_bytes(struct rd *r, size_t bytes);
uint8_t rd_u8(struct rd *r);
uint16_t rd_u16(struct rd *r);
uint32_t rd_u32(struct rd *r);
uint64_t rd_u64(struct rd *r);
/* A NUL-terminated string inside the input, borrowed; NULL once failed or when no NUL is left. */
const char *rd_cstr(struct rd *r);
/* True when every read succeeded and no byte is left over. */
bool rd_finish(const struct rd *r) RT_MUSTCHECK;

#endif
