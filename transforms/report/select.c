/* select: what a request for reports means, and the small texts that it is made of. */
#include "proto/base/yaml.h"
#include "transforms/report/definition.h"

const struct report *report_find(const struct report_pack *p, const char *id)
{
	for (size_t i = 0; i < p->count; i++)
		if (strcmp(p->report[i].id, id) == 0)
			return &p->report[i];
	return NULL;
}

static bool is_digits(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (s[i] < '0' || s[i] > '9')
			return false;
	return true;
}

bool report_is_day(const char *t)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	if (strlen(t) != 10 || !is_digits(t, 4) || t[4] != '-' || !is_digits(t + 5, 2) ||
	    t[7] != '-' || !is_digits(t + 8, 2))
		return false;
	long year = strtol(t, NULL, 10), month = strtol(t + 5, NULL, 10),
	     day = strtol(t + 8, NULL, 10);
	if (year < 1 || month < 1 || month > 12 || day < 1)
		return false;
	bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
	return day <= days[month - 1] + (month == 2 && leap ? 1 : 0);
}

bool report_is_decimal(const char *text)
{
	const char *p = text + (text[0] == '-');
	size_t whole = strspn(p, "0123456789");
	p += whole;
	if (*p == '.') {
		size_t fraction = strspn(p + 1, "0123456789");
		p += 1 + fraction;
		if (fraction == 0)
			return false;
	}
	return whole > 0 && *p == '\0';
}

/* Compares two plain decimals without sign. */
static int cmp_magnitude(const char *a, const char *b)
{
	a += strspn(a, "0");
	b += strspn(b, "0");
	size_t na = strspn(a, "0123456789"), nb = strspn(b, "0123456789");
	if (na != nb)
		return na < nb ? -1 : 1;
	int c = memcmp(a, b, na);
	if (c != 0)
		return c;
	a += na + (a[na] == '.');
	b += nb + (b[nb] == '.');
	for (; *a != '\0' || *b != '\0'; a += *a != '\0', b += *b != '\0') {
		char x = *a != '\0' ? *a : '0', y = *b != '\0' ? *b : '0';
		if (x != y)
			return x < y ? -1 : 1;
	}
	return 0;
}

static bool is_zero(const char *s)
{
	return s[strspn(s, "-0.")] == '\0';
}

int report_decimal_cmp(const char *a, const char *b)
{
	bool below_a = a[0] == '-' && !is_zero(a), below_b = b[0] == '-' && !is_zero(b);
	if (below_a != below_b)
		return below_a ? -1 : 1;
	int c = cmp_magnitude(a + (a[0] == '-'), b + (b[0] == '-'));
	return below_a ? -c : c;
}

/* ---- a request ---- */

static int unknown(const struct report_pack *p, struct arena *a, const char *id, struct rt_err *err)
{
	const char **names = arena_alloc(a, p->count * sizeof(*names));
	for (size_t i = 0; i < p->count; i++)
		names[i] = p->report[i].id;
	const char *near = yaml_nearest(id, names, p->count);
	return rt_fail(err, ERR_USAGE, "unknown report %.100s%s%s", id,
		       near != NULL ? "; did you mean " : " (rolag report list --reports)",
		       near != NULL ? near : "");
}

static int by_bytes(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int pick(const struct report_pack *p, struct arena *a, const char *const *ids, size_t count,
		const char **out, size_t *ret_count, struct rt_err *err)
{
	size_t n = 0;
	for (size_t i = 0; i < count; i++) {
		const struct report *r = report_find(p, ids[i]);
		if (r == NULL)
			return unknown(p, a, ids[i], err);
		out[n++] = r->id;
	}
	for (size_t i = 0; count == 0 && i < p->count; i++)
		out[n++] = p->report[i].id;
	qsort(out, n, sizeof(*out), by_bytes);
	size_t kept = 0;
	for (size_t i = 0; i < n; i++)
		if (kept == 0 || strcmp(out[kept - 1], out[i]) != 0)
			out[kept++] = out[i];
	*ret_count = kept;
	return 0;
}

int report_select(const struct report_pack *p, struct arena *a, const char *const *ids,
		  size_t count, const char *as_of, const char *yesterday, const char ***ret,
		  size_t *ret_count, const char **ret_as_of, struct rt_err *err)
{
	size_t n;
	const char **out = arena_alloc(a, RT_MAX(count, p->count) * sizeof(*out));
	int rc = pick(p, a, ids, count, out, &n, err);
	if (rc != 0)
		return rc;
	const char *taker = NULL;
	for (size_t i = 0; i < n; i++) {
		const struct report *r = report_find(p, out[i]);
		if (r != NULL && r->as_of)
			taker = out[i];
	}
	if (as_of != NULL && !report_is_day(as_of))
		return rt_fail(err, ERR_USAGE, "%.40s is not a day (YYYY-MM-DD)", as_of);
	if (as_of != NULL && taker == NULL)
		return rt_fail(
			err, ERR_USAGE,
			"none of these reports takes a day (--as-of): they show the present");
	if (as_of == NULL && taker != NULL && yesterday == NULL)
		return rt_fail(err, ERR_USAGE, "%s needs a day (--as-of YYYY-MM-DD)", taker);
	*ret = out;
	*ret_count = n;
	*ret_as_of = as_of != NULL ? as_of : taker != NULL ? yesterday : NULL;
	return 0;
}
