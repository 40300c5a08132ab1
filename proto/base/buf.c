/* buf, rd: bytes out and bytes in. Guarantees: no read past the input, no write past the buffer. */
#include "proto/base/buf.h"

#include <stdio.h>

#include "proto/base/arena.h"

void buf_release(struct buf *b)
{
	if (b == NULL)
		return;
	if (b->arena == NULL)
		free(b->p);
	*b = (struct buf)BUF_INIT;
}

uint8_t *buf_reserve(struct buf *b, size_t bytes)
{
	if (bytes > b->cap - b->len || b->p == NULL) {
		size_t cap = b->cap < 256 ? 256 : b->cap;
		RT_ASSERT(bytes <= SIZE_MAX / 4 && b->len <= SIZE_MAX / 4);
		while (cap - b->len < bytes)
			cap *= 2;
		if (b->arena == NULL) {
			b->p = rt_realloc(b->p, cap);
		} else {
			uint8_t *p = arena_alloc(b->arena, cap);
			if (b->len > 0)
				/* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): len > 0 */
				memcpy(p, b->p, b->len);
			b->p = p;
		}
		b->cap = cap;
	}
	/* cppcheck-suppress nullPointerArithmeticRedundantCheck; it is not NULL now */
	return b->p + b->len;
}

void buf_add(struct buf *b, const void *p, size_t bytes)
{
	if (bytes == 0)
		return;
	memcpy(buf_reserve(b, bytes), p, bytes);
	b->len += bytes;
}

void buf_add_slice(struct buf *b, struct slice s)
{
	buf_add(b, s.p, s.len);
}

void buf_str(struct buf *b, const char *s)
{
	buf_add(b, s, strlen(s));
}

void buf_u8(struct buf *b, uint8_t v)
{
	buf_reserve(b, 1)[0] = v;
	b->len += 1;
}

void buf_u16(struct buf *b, uint16_t v)
{
	be16_put(buf_reserve(b, 2), v);
	b->len += 2;
}

void buf_u32(struct buf *b, uint32_t v)
{
	be32_put(buf_reserve(b, 4), v);
	b->len += 4;
}

void buf_u64(struct buf *b, uint64_t v)
{
	be64_put(buf_reserve(b, 8), v);
	b->len += 8;
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	RT_ASSERT(n >= 0);
	char *p = (char *)buf_reserve(b, (size_t)n + 1);
	va_start(ap, fmt);
	vsnprintf(p, (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->len += (size_t)n;
}

const char *buf_cstr(struct buf *b)
{
	*buf_reserve(b, 1) = '\0';
	return (const char *)b->p;
}

const uint8_t *rd_bytes(struct rd *r, size_t bytes)
{
	if (r->failed || bytes > r->left) {
		r->failed = true;
		return NULL;
	}
	const uint8_t *p = r->p;
	r->p += bytes;
	r->left -= bytes;
	return p;
}

uint8_t rd_u8(struct rd *r)
{
	const uint8_t *p = rd_bytes(r, 1);
	return p == NULL ? 0 : *p;
}

uint16_t rd_u16(struct rd *r)
{
	const uint8_t *p = rd_bytes(r, 2);
	return p == NULL ? 0 : be16_get(p);
}

uint32_t rd_u32(struct rd *r)
{
	const uint8_t *p = rd_bytes(r, 4);
	return p == NULL ? 0 : be32_get(p);
}

uint64_t rd_u64(struct rd *r)
{
	const uint8_t *p = rd_bytes(r, 8);
	return p == NULL ? 0 : be64_get(p);
}

const char *rd_cstr(struct rd *r)
{
	const uint8_t *end = r->failed || r->left == 0 ? NULL : memchr(r->p, '\0', r->left);
	if (end == NULL) {
		r->failed = true;
		return NULL;
	}
	return (const char *)rd_bytes(r, (size_t)(end - r->p) + 1);
}

bool rd_finish(const struct rd *r)
{
	return !r->failed && r->left == 0;
}
