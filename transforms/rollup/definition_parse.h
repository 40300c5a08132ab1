/* definition_parse: what the files of the definition parser share. */
#ifndef TRANSFORMS_ROLLUP_DEFINITION_PARSE_H
#define TRANSFORMS_ROLLUP_DEFINITION_PARSE_H

#include "proto/base/yaml.h"
#include "transforms/rollup/definition.h"

/* An action before it is handed to its event. */
struct def_action {
	uint16_t event;
	struct rollup_action act;
};

struct def {
	struct arena *arena;
	const char *name; /* of the file, for messages */
	struct rt_err *err;
	struct rollup *r;
	struct rollup_event *event; /* r->event, to write */
	struct rollup_column *column;
	struct def_action *action; /* in column order */
	size_t action_count, action_cap;
};

/* Refuses keys of map that are not among names, with the nearest; what: "a column", … */
int def_check_keys(struct def *d, const struct yaml_node *map, const char *what,
		   const char *const *names, size_t n) RT_MUSTCHECK;
int def_expect(struct def *d, const struct yaml_node *n, enum yaml_kind kind,
	       const char *what) RT_MUSTCHECK;
/* Text of any kind, for people. */
int def_text(struct def *d, const struct yaml_node *n, const char *what,
	     const char **ret) RT_MUSTCHECK;
/* Lower-case letters, digits, underscores, a letter first; at most max bytes. */
int def_check_identifier(struct def *d, const struct yaml_node *n, const char *what,
			 size_t max) RT_MUSTCHECK;
/* The index of the event that n names; negative (error set) when there is none. */
int def_find_event(struct def *d, const struct yaml_node *n) RT_MUSTCHECK;
/* The index of key in the event's keys (id and type: behind them); -1 when it has none. */
int def_find_key(const struct rollup_event *e, const char *key);

/* definition_columns.c: reads `columns:` and gives every event its actions. */
int def_columns(struct def *d, const struct yaml_node *columns) RT_MUSTCHECK;

#endif
