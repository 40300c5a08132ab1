/*
 * relcache: OID → shape. Guarantees: RELATION always replaces; a schema once
 * handed out does not change or move until the cache is cleared.
 */
#include "cdc/capture/relcache.h"

#define uthash_fatal(msg) rt_bug(__FILE__, __LINE__, msg)
#include <uthash.h>

struct rel_shape {
	UT_hash_handle hh;
	uint64_t hash;
	struct schema schema; /* its names and columns lie behind this struct */
};

struct rel_entry {
	UT_hash_handle hh;
	uint32_t oid;
	const struct schema *schema;
};

void rel_init(struct relcache *c)
{
	*c = (struct relcache){NULL, NULL};
}

void rel_clear(struct relcache *c)
{
	struct rel_entry *e, *next_entry;
	HASH_ITER(hh, c->by_oid, e, next_entry)
	{
		HASH_DEL(c->by_oid, e);
		free(e);
	}
	struct rel_shape *s, *next_shape;
	HASH_ITER(hh, c->by_hash, s, next_shape)
	{
		HASH_DEL(c->by_hash, s);
		free(s);
	}
}

void rel_release(struct relcache *c)
{
	if (c != NULL)
		rel_clear(c);
}

static const char *copy_string(char **at, const char *s)
{
	size_t n = strlen(s) + 1;
	char *p = memcpy(*at, s, n);
	*at += n;
	return p;
}

static size_t land_bytes(const struct schema *s)
{
	if (s->land == NULL)
		return 0;
	size_t bytes = strlen(s->files) + 1;
	for (int i = 0; i < s->count; i++) {
		bytes += sizeof(struct schema_land) + strlen(s->land[i].type) + 1;
		if (s->land[i].missing != NULL)
			bytes += strlen(s->land[i].missing) + 1;
	}
	return bytes;
}

/* One allocation: the shape, its columns, its strings. */
static struct rel_shape *shape_copy(const struct schema *from, uint64_t hash)
{
	size_t bytes = strlen(from->nspname) + strlen(from->relname) + 2;
	for (int i = 0; i < from->count; i++)
		bytes += sizeof(struct schema_column) + strlen(from->column[i].name) + 1;
	bytes += land_bytes(from);
	struct rel_shape *s = rt_malloc(sizeof(*s) + bytes);
	struct schema_land *land = (struct schema_land *)(s + 1);
	struct schema_column *column =
		(struct schema_column *)(land + (from->land != NULL ? from->count : 0));
	char *at = (char *)(column + from->count);
	s->hash = hash;
	s->schema = *from;
	s->schema.hash = hash;
	s->schema.nspname = copy_string(&at, from->nspname);
	s->schema.relname = copy_string(&at, from->relname);
	s->schema.column = column;
	for (int i = 0; i < from->count; i++) {
		column[i] = from->column[i];
		column[i].name = copy_string(&at, from->column[i].name);
	}
	if (from->land == NULL)
		return s;
	s->schema.land = land;
	s->schema.files = copy_string(&at, from->files);
	for (int i = 0; i < from->count; i++) {
		land[i] = from->land[i];
		land[i].type = copy_string(&at, from->land[i].type);
		if (from->land[i].missing != NULL)
			land[i].missing = copy_string(&at, from->land[i].missing);
	}
	return s;
}

void rel_put(struct relcache *c, const struct schema *s)
{
	uint64_t hash = schema_hash(s);
	struct rel_shape *shape;
	HASH_FIND(hh, c->by_hash, &hash, sizeof(hash), shape);
	if (shape == NULL) {
		shape = shape_copy(s, hash);
		HASH_ADD(hh, c->by_hash, hash, sizeof(shape->hash), shape);
	}
	struct rel_entry *e;
	HASH_FIND(hh, c->by_oid, &s->relation_oid, sizeof(s->relation_oid), e);
	if (e == NULL) {
		e = rt_calloc(1, sizeof(*e));
		e->oid = s->relation_oid;
		HASH_ADD(hh, c->by_oid, oid, sizeof(e->oid), e);
	}
	e->schema = &shape->schema;
}

int rel_get(const struct relcache *c, uint32_t oid, int count, const struct schema **ret,
	    struct rt_err *err)
{
	struct rel_entry *e;
	HASH_FIND(hh, c->by_oid, &oid, sizeof(oid), e);
	if (e == NULL)
		return rt_fail(err, ERR_PERMANENT,
			       "a change of relation %u, which no RELATION message announced", oid);
	if (count >= 0 && count != e->schema->count)
		return rt_fail(err, ERR_PERMANENT,
			       "a row of %s.%s with %d values, though it has %u columns",
			       e->schema->nspname, e->schema->relname, count, e->schema->count);
	*ret = e->schema;
	return 0;
}
