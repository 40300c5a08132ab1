/* csv: a seed. What is read, written with every field quoted, is read again as the same. */
#include "tests/fuzz/fuzz.h"
#include "transforms/models/csv.h"

static void write_record(const struct csv *c, struct buf *out)
{
	for (size_t i = 0; i < c->count; i++) {
		const struct csv_field *f = &c->field[i];
		buf_str(out, i > 0 ? "," : "");
		if (f->null)
			continue;
		buf_u8(out, '"');
		for (size_t k = 0; k < f->text.len; k++) {
			if (f->text.p[k] == '"')
				buf_u8(out, '"');
			buf_u8(out, f->text.p[k]);
		}
		buf_u8(out, '"');
	}
	buf_str(out, "\r\n");
}

/* All records of text, written again; how many, or an error. */
static int again(struct slice text, struct buf *out, struct rt_err *err)
{
	struct csv c;
	int rc, count = 0;
	csv_init(&c, "fuzz.csv", text);
	while ((rc = csv_next(&c, err)) == 1) {
		RT_ASSERT(c.count == c.width && c.count > 0 && c.record_line <= c.line);
		write_record(&c, out);
		count++;
	}
	csv_release(&c);
	return rc < 0 ? rc : count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buf once = BUF_INIT, twice = BUF_INIT;
	struct rt_err err;
	int count = again(slice_of(data, size), &once, &err);
	if (count >= 0) {
		RT_ASSERT(again(buf_slice(&once), &twice, &err) == count);
		RT_ASSERT(slice_eq(buf_slice(&once), buf_slice(&twice)));
	} else {
		RT_ASSERT(err.code == ERR_PERMANENT && strncmp(err.msg, "fuzz.csv:", 9) == 0);
	}
	buf_release(&once);
	buf_release(&twice);
	return 0;
}
