/* definition_parse: what the files that read reports.yaml share. */
#ifndef TRANSFORMS_REPORT_DEFINITION_PARSE_H
#define TRANSFORMS_REPORT_DEFINITION_PARSE_H

#include "proto/base/yaml.h"
#include "transforms/report/definition.h"

struct rdef {
	struct arena *arena;
	const char *name; /* of the file */
	struct rt_err *err;
};

/* Fails at a key of map that is none of names; what: how the message calls the map. */
int rdef_check_keys(struct rdef *d, const struct yaml_node *map, const char *what,
		    const char *const *names, size_t count) RT_MUSTCHECK;
int rdef_expect(struct rdef *d, const struct yaml_node *n, enum yaml_kind kind,
		const char *what) RT_MUSTCHECK;
/* The text of map's key, which must be there and not empty. */
int rdef_text(struct rdef *d, const struct yaml_node *map, const char *key,
	      const char **ret) RT_MUSTCHECK;
/* Where map has the key: true or false into *ret. */
int rdef_bool(struct rdef *d, const struct yaml_node *map, const char *key, bool *ret) RT_MUSTCHECK;
/* Where map has the key: one of names (count of them), its place into *ret. */
int rdef_choice(struct rdef *d, const struct yaml_node *map, const char *key,
		const char *const *names, size_t count, int *ret) RT_MUSTCHECK;
/* The columns of a report; xml: their names must be those of elements. */
int rdef_columns(struct rdef *d, const struct yaml_node *list, bool xml,
		 struct report *r) RT_MUSTCHECK;
/* Is the text a name of an XML element without colon (NCName)? */
bool rdef_is_ncname(const char *text);

#endif
