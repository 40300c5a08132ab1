/*
 * scan: the text of a model, taken apart: SQL, and what stands in braces. The
 * tokens of SQL are known (strings, dollar quotes, quoted names, comments), so
 * that braces and words are only seen where they mean something. No template
 * language: {{ ref('m') }}, {{ source('s', 't') }}, {{ var('v') }}, {{ this }},
 * {{ config(materialized='view'|'table') }} and {# a comment #}, as dbt has
 * them; anything else in braces is an error with file, line and column, and so
 * is what asks for the present (now(), random(), 'today' …).
 */
#ifndef TRANSFORMS_MODELS_SCAN_H
#define TRANSFORMS_MODELS_SCAN_H

#include "proto/base/arena.h"
#include "proto/base/buf.h"
#include "proto/base/rt.h"

#define MODEL_TEXT_MAX_BYTES (1u << 20)
#define MODEL_PIECES_MAX     4096

enum model_piece_kind { PIECE_SQL, PIECE_REF, PIECE_SOURCE, PIECE_VAR, PIECE_THIS };

struct model_piece {
	enum model_piece_kind kind;
	uint32_t from;	   /* byte in the file */
	struct slice sql;  /* PIECE_SQL */
	const char *name;  /* of the model, source or variable */
	const char *table; /* PIECE_SOURCE */
	int line, column;  /* from 1, of the first byte; columns count characters */
};

enum model_materialized { MATERIALIZED_DEFAULT, MATERIALIZED_VIEW, MATERIALIZED_TABLE };

struct model_text {
	size_t piece_count;
	struct model_piece *piece;
	enum model_materialized materialized; /* by config() */
	int config_line, config_column;
};

/*
 * Takes text apart; pieces live in the arena, and their SQL within text. file
 * stands in messages: "file:line:column: …". ERR_PERMANENT.
 */
int model_scan(struct arena *a, const char *file, struct slice text, struct model_text *ret,
	       struct rt_err *err) RT_MUSTCHECK;

/* Line and column (from 1; characters) of byte at of text. */
void model_locate(struct slice text, size_t at, int *ret_line, int *ret_column);

#endif
