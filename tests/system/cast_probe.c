/*
 * cast_probe: lets test_casts.py ask proto/pg/types what it makes of a value.
 * Reads lines of tab-separated fields from stdin, answers each with one line:
 * "ok", the binary form and its text (both in hex), or "error".
 *
 *   TYPE text               the cast
 *   add:TYPE text text      a + b; sub: and cmp: likewise (cmp answers with -1, 0, 1)
 *   append:TYPE text…       an array built element by element ("-" is NULL)
 *   remove:TYPE text text…  the same array without the first one's equals
 *
 * Texts are in hex. An argument is the time zone to read in (UTC without).
 */
#include <stdio.h>

#include "proto/base/buf.h"
#include "proto/pg/types.h"

enum { FIELDS_MAX = 256 };

static int hex_digit(char c)
{
	return c <= '9' ? c - '0' : c - 'a' + 10;
}

static void from_hex(const char *hex, struct buf *out)
{
	for (; hex[0] != '\0' && hex[1] != '\0'; hex += 2)
		buf_u8(out, (uint8_t)(hex_digit(hex[0]) << 4 | hex_digit(hex[1])));
}

static void print_hex(struct slice s)
{
	putchar('\t');
	for (size_t i = 0; i < s.len; i++)
		printf("%02x", s.p[i]);
}

static struct pgt_zone *zone;

static int cast(enum pgt t, const char *hex, struct buf *out)
{
	struct buf text = BUF_INIT;
	struct rt_err err;
	from_hex(hex, &text);
	int rc = pgt_from_text(t, buf_slice(&text), zone, out, &err);
	RT_ASSERT(rc == RT_OK || out->len == 0);
	buf_release(&text);
	return rc;
}

/* The array of all fields; those equal to the first left out where asked for. */
static int array(enum pgt t, char **fields, int n, bool remove, struct buf *out)
{
	struct buf first = BUF_INIT, other = BUF_INIT, element = BUF_INIT;
	int rc = RT_OK;
	pgt_array_empty(t, out);
	for (int i = 0; rc == RT_OK && i < n; i++) {
		bool null = strcmp(fields[i], "-") == 0;
		buf_clear(&element);
		if (!null)
			rc = cast(t, fields[i], &element);
		buf_reserve(&element, 1); /* a pointer even where it is empty */
		struct slice e = null ? slice_of(NULL, 0) : buf_slice(&element);
		if (i == 0 && remove) {
			first = element;
			element = (struct buf)BUF_INIT;
			continue;
		}
		buf_clear(&other);
		pgt_array_append(t, buf_slice(out), e, &other);
		RT_ASSERT(pgt_array_contains(t, buf_slice(&other), e));
		struct buf swap = *out;
		*out = other;
		other = swap;
	}
	if (rc == RT_OK && remove) {
		bool null = strcmp(fields[0], "-") == 0;
		struct slice e = null ? slice_of(NULL, 0) : buf_slice(&first);
		buf_clear(&other);
		pgt_array_remove(t, buf_slice(out), e, &other);
		RT_ASSERT(!pgt_array_contains(t, buf_slice(&other), e));
		buf_clear(out);
		buf_add_slice(out, buf_slice(&other));
	}
	buf_release(&first);
	buf_release(&other);
	buf_release(&element);
	return rc;
}

static int arithmetic(enum pgt t, bool subtract, char **fields, struct buf *out)
{
	struct buf a = BUF_INIT, b = BUF_INIT;
	struct rt_err err;
	int rc = cast(t, fields[0], &a);
	if (rc == RT_OK)
		rc = cast(t, fields[1], &b);
	if (rc == RT_OK)
		rc = pgt_add(t, buf_slice(&a), buf_slice(&b), subtract, out, &err);
	buf_release(&a);
	buf_release(&b);
	return rc;
}

static void compare(enum pgt t, char **fields)
{
	struct buf a = BUF_INIT, b = BUF_INIT;
	if (cast(t, fields[0], &a) == RT_OK && cast(t, fields[1], &b) == RT_OK) {
		int c = pgt_compare(t, buf_slice(&a), buf_slice(&b));
		printf("%d\n", (c > 0) - (c < 0));
	} else {
		puts("error");
	}
	buf_release(&a);
	buf_release(&b);
}

static void answer(char *line)
{
	char *fields[FIELDS_MAX];
	int n = 0;
	for (char *f; (f = strsep(&line, "\t\n")) != NULL && n < FIELDS_MAX;)
		fields[n++] = f;
	n--; /* what follows the newline */
	char *colon = strchr(fields[0], ':');
	struct pgt_type t;
	RT_ASSERT(n >= 1 && pgt_parse_name(colon == NULL ? fields[0] : colon + 1, &t));
	struct buf out = BUF_INIT, text = BUF_INIT;
	struct rt_err err;
	int rc;
	if (strncmp(fields[0], "cmp:", 4) == 0) {
		RT_ASSERT(n == 3);
		compare(t.base, fields + 1);
		return;
	} else if (colon == NULL) {
		rc = cast(t.base, fields[1], &out);
	} else if (fields[0][0] == 'a' && fields[0][1] == 'p') {
		t.array = true;
		rc = array(t.base, fields + 1, n - 1, false, &out);
	} else if (fields[0][0] == 'r') {
		t.array = true;
		rc = array(t.base, fields + 1, n - 1, true, &out);
	} else {
		RT_ASSERT(n == 3);
		rc = arithmetic(t.base, fields[0][0] == 's', fields + 1, &out);
	}
	if (rc == RT_OK && pgt_to_text(t, buf_slice(&out), &text, &err) == RT_OK) {
		printf("ok");
		print_hex(buf_slice(&out));
		print_hex(buf_slice(&text));
		putchar('\n');
	} else {
		puts(rc == RT_OK ? "invalid" : "error");
	}
	buf_release(&out);
	buf_release(&text);
}

int main(int argc, char **argv)
{
	char *line = NULL;
	size_t cap = 0;
	if (argc > 1)
		RT_ASSERT((zone = pgt_zone_load(argv[1])) != NULL);
	while (getline(&line, &cap, stdin) > 0)
		answer(line);
	free(line);
	pgt_zone_free(zone);
	return 0;
}
