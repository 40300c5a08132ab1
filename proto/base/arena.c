/* arena: bump allocation in blocks. Guarantees: aligned, never NULL, reset keeps one block. */
#include "proto/base/arena.h"

#include <stdalign.h>
#include <stdio.h>

struct arena_block {
	struct arena_block *next;
	size_t size; /* of data[] */
	size_t used;
	alignas(max_align_t) uint8_t data[];
};

void arena_init(struct arena *a, size_t block_bytes)
{
	*a = (struct arena){.block_bytes = block_bytes};
}

void arena_reset(struct arena *a)
{
	struct arena_block *keep = a->head;
	a->used_bytes = 0;
	if (keep == NULL)
		return;
	for (struct arena_block *b = keep->next; b != NULL;) {
		struct arena_block *next = b->next;
		free(b);
		b = next;
	}
	keep->next = NULL;
	keep->used = 0;
	if (keep->size > 4 * a->block_bytes) { /* one huge value must not pin its memory */
		free(keep);
		a->head = NULL;
	}
}

void arena_release(struct arena *a)
{
	if (a == NULL)
		return;
	arena_reset(a);
	free(a->head);
	a->head = NULL;
}

static size_t padded(size_t bytes)
{
	return (bytes + alignof(max_align_t) - 1) & ~(alignof(max_align_t) - 1);
}

void *arena_alloc(struct arena *a, size_t bytes)
{
	size_t need = padded(bytes);
	struct arena_block *b = a->head;
	RT_ASSERT(need >= bytes);
	if (b == NULL || need > b->size - b->used) {
		size_t size = need > a->block_bytes ? need : a->block_bytes;
		b = rt_malloc(sizeof(*b) + size);
		*b = (struct arena_block){.next = a->head, .size = size};
		a->head = b;
	}
	void *p = b->data + b->used;
	b->used += need;
	a->used_bytes += need;
	return p;
}

void arena_trim(struct arena *a, void *p, size_t bytes, size_t keep)
{
	struct arena_block *b = a->head;
	const size_t had = padded(bytes);
	if (b == NULL || had > b->used || b->data + (b->used - had) != (uint8_t *)p)
		return;
	RT_ASSERT(keep <= bytes);
	b->used -= had - padded(keep);
	a->used_bytes -= had - padded(keep);
}

void *arena_zalloc(struct arena *a, size_t bytes)
{
	return memset(arena_alloc(a, bytes), 0, bytes);
}

char *arena_strndup(struct arena *a, const char *s, size_t len)
{
	char *p = arena_alloc(a, len + 1);
	memcpy(p, s, len);
	p[len] = '\0';
	return p;
}

char *arena_strdup(struct arena *a, const char *s)
{
	return arena_strndup(a, s, strlen(s));
}

struct slice arena_copy(struct arena *a, struct slice s)
{
	uint8_t *p = arena_alloc(a, s.len);
	if (s.len > 0)
		memcpy(p, s.p, s.len);
	return (struct slice){p, s.len};
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	RT_ASSERT(n >= 0);
	char *p = arena_alloc(a, (size_t)n + 1);
	va_start(ap, fmt);
	vsnprintf(p, (size_t)n + 1, fmt, ap);
	va_end(ap);
	return p;
}
