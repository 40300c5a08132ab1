/*
 * yaml: a small document as a tree with the line and column of every node.
 *
 * Stricter than YAML on purpose, since these files are contracts: one
 * document; no anchors, aliases or tags; no duplicate keys; keys are scalars;
 * plain scalars are never turned into booleans or numbers here (a key named
 * `on` is the text "on"); depth and size are bounded.
 */
#ifndef PROTO_BASE_YAML_H
#define PROTO_BASE_YAML_H

#include "proto/base/arena.h"
#include "proto/base/rt.h"

#define YAML_FILE_MAX_BYTES (4u << 20)
#define YAML_DEPTH_MAX	    32

enum yaml_kind { YAML_SCALAR, YAML_LIST, YAML_MAP };

struct yaml_node {
	enum yaml_kind kind;
	int line;		 /* from 1 */
	int column;		 /* from 1 */
	const char *text;	 /* scalar: its value, NUL-terminated */
	bool quoted;		 /* scalar: written in quotes or as a block */
	size_t count;		 /* list: items, map: pairs */
	struct yaml_node **key;	 /* map only */
	struct yaml_node **item; /* list items, map values */
};

/*
 * Parses text (name is for messages: "name:line:column: …") into a tree in
 * the arena. ERR_PERMANENT with the place for anything that is not as above.
 */
int yaml_parse(struct arena *a, const char *name, const char *text, size_t len,
	       struct yaml_node **ret, struct rt_err *err) RT_MUSTCHECK;
/* The value of key in a map, or NULL. */
struct yaml_node *yaml_get(const struct yaml_node *map, const char *key);
/* Fails (ERR_PERMANENT) with "name:line:column: message". */
int yaml_fail(const char *name, const struct yaml_node *at, struct rt_err *err, const char *fmt,
	      ...) RT_PRINTF(4, 5);
/* A plain (unquoted) scalar that is YAML's null: empty, ~ or null. */
bool yaml_is_null(const struct yaml_node *n);
/* true/false only (plain); false when it is neither. */
bool yaml_bool(const struct yaml_node *n, bool *ret) RT_MUSTCHECK;
/* A decimal integer that fits; false otherwise. */
bool yaml_int(const struct yaml_node *n, int64_t *ret) RT_MUSTCHECK;
/* The nearest of n names to word by edit distance, or NULL when none is near (for "did you mean"). */
const char *yaml_nearest(const char *word, const char *const *names, size_t n);
/* Fails as yaml_fail does for the first key of a map that is none of n names; what: whose keys they are, "a column". */
int yaml_check_keys(const char *name, const struct yaml_node *map, const char *what,
		    const char *const *names, size_t n, struct rt_err *err) RT_MUSTCHECK;

#endif
