/*
 * json_probe: lets test_json.py ask the JSON scanner what it makes of a text.
 * Reads lines of one or two fields in hex, split by a tab, and answers each
 * with one line:
 *
 *   TEXT        "ok" and jsonb's form of it in hex, or "error"
 *   TEXT KEY    what TEXT ->> KEY gives, in hex; "null" or "absent"
 */
#include "transforms/rollup/json.h"

static int hex_digit(char c)
{
	return c <= '9' ? c - '0' : c - 'a' + 10;
}

static void from_hex(const char *hex, struct buf *out)
{
	for (; hex[0] != '\0' && hex[1] != '\0'; hex += 2)
		buf_u8(out, (uint8_t)(hex_digit(hex[0]) << 4 | hex_digit(hex[1])));
}

static void print_ok(struct slice s)
{
	printf("ok\t");
	for (size_t i = 0; i < s.len; i++)
		printf("%02x", s.p[i]);
	putchar('\n');
}

static void answer_key(struct slice text, struct slice key)
{
	struct json_value top = json_top(text), v = json_get(&top, key);
	struct buf out = BUF_INIT;
	if (v.kind == JSON_ABSENT || v.kind == JSON_NULL) {
		puts(json_kind_name(v.kind));
		return;
	}
	json_append_text(&v, &out);
	print_ok(buf_slice(&out));
	buf_release(&out);
}

static void answer(char *line)
{
	struct buf text = BUF_INIT, key = BUF_INIT, out = BUF_INIT;
	struct rt_err err;
	line[strcspn(line, "\n")] = '\0';
	char *tab = strchr(line, '\t');
	if (tab != NULL)
		*tab = '\0';
	from_hex(line, &text);
	int rc = json_canonical(buf_slice(&text), &out, &err);
	if (rc != 0) {
		puts("error");
	} else if (tab == NULL) {
		print_ok(buf_slice(&out));
	} else {
		from_hex(tab + 1, &key);
		answer_key(buf_slice(&out), buf_slice(&key));
	}
	buf_release(&text);
	buf_release(&key);
	buf_release(&out);
}

int main(void)
{
	char *line = NULL;
	size_t cap = 0;
	while (getline(&line, &cap, stdin) > 0)
		answer(line);
	free(line);
	return 0;
}
