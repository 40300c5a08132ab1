/* model: the text of a model. What is taken apart is the text again, piece by piece; what is refused has its place. */
#include "tests/fuzz/fuzz.h"
#include "transforms/models/scan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct arena a;
	struct model_text t;
	struct rt_err err;
	size_t at = 0;
	arena_init(&a, 16384);
	if (model_scan(&a, "fuzz.sql", slice_of(data, size), &t, &err) == 0) {
		for (size_t i = 0; i < t.piece_count; i++) {
			const struct model_piece *p = &t.piece[i];
			RT_ASSERT(p->from >= at && p->from < size && p->line >= 1 &&
				  p->column >= 1);
			at = p->from;
			if (p->kind != PIECE_SQL) {
				RT_ASSERT(p->kind == PIECE_THIS || p->name[0] != '\0');
				continue;
			}
			RT_ASSERT(p->sql.len > 0 && p->sql.p == data + p->from &&
				  p->sql.len <= size - at);
			/* No template is left in what goes to the server. */
			RT_ASSERT(memmem(p->sql.p, p->sql.len, "{{", 2) == NULL);
			RT_ASSERT(memmem(p->sql.p, p->sql.len, "{%", 2) == NULL);
		}
	} else {
		RT_ASSERT(err.code == ERR_PERMANENT && strncmp(err.msg, "fuzz.sql:", 9) == 0);
	}
	arena_release(&a);
	return 0;
}
