/* verify_compare: bytes are compared, since both ends give a value's one binary form. */
#include "apply/stream/verify_compare.h"

int verify_order(const struct rollup *r, const struct fold_row *a, const struct fold_row *b)
{
	int order = pgt_compare(r->id_type, a->id, b->id);
	if (order != 0)
		return order;
	return a->version < b->version ? -1 : a->version > b->version;
}

bool verify_equal(const struct fold_row *a, const struct fold_row *b)
{
	return a->version == b->version && a->created_at_us == b->created_at_us &&
	       a->modified_at_us == b->modified_at_us && slice_eq(a->event_type, b->event_type) &&
	       slice_eq(a->columns, b->columns);
}

/* Takes the next field of two rows; NULL (p == NULL) differs from the empty value. */
static bool next_differs(struct rd *a, struct rd *b)
{
	struct slice s[2] = {{NULL, 0}, {NULL, 0}};
	struct rd *in[2] = {a, b};
	for (int i = 0; i < 2; i++) {
		uint32_t len = rd_u32(in[i]);
		s[i] = len == UINT32_MAX ? (struct slice){NULL, 0}
					 : (struct slice){rd_bytes(in[i], len), len};
	}
	if (s[0].p == NULL || s[1].p == NULL)
		return s[0].p != s[1].p;
	return !slice_eq(s[0], s[1]);
}

int verify_columns(const struct rollup *r, const struct fold_row *a, const struct fold_row *b,
		   void (*tell)(void *ctx, const char *column), void *ctx)
{
	const struct {
		const char *name;
		bool differs;
	} before[] = {{"version", a->version != b->version},
		      {"created_at", a->created_at_us != b->created_at_us},
		      {"modified_at", a->modified_at_us != b->modified_at_us},
		      {"event_type", !slice_eq(a->event_type, b->event_type)}};
	int n = 0;
	for (size_t i = 0; i < ARRAY_LEN(before); i++) {
		if (!before[i].differs)
			continue;
		tell(ctx, before[i].name);
		n++;
	}
	if (slice_eq(a->columns, b->columns))
		return n;
	if (!fold_columns_valid(r, b->columns)) {
		tell(ctx, "(all)");
		return n + 1;
	}
	struct rd left = rd_of(a->columns), right = rd_of(b->columns);
	for (uint16_t i = 0; i < r->column_count; i++) {
		if (!next_differs(&left, &right))
			continue;
		tell(ctx, r->column[i].name);
		n++;
	}
	return n;
}
