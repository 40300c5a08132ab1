/* query: values by tables of what may be. Guarantees: nothing is taken for something that it is not. */
#include "apply/reports/http/query.h"

#include "proto/base/buf.h"

static const char *const states[] = {"queued",	  "waiting", "building",   "writing",
				     "published", "failed",  "superseded", NULL};
static const char *const client_states[] = {"queued", "running", "success", "failed", NULL};
static const char *const types[] = {"manual", "scheduled", NULL};

static const char *one_of(const char *const *names, struct slice value)
{
	for (; *names != NULL; names++)
		if (slice_is(value, *names))
			return *names;
	return NULL;
}

/* YYYY-MM-DD, or YYYY-MM-DDTHH:MM:SS with an optional fraction and a Z behind. */
static bool is_time(const char *t)
{
	char day[11];
	snprintf(day, sizeof(day), "%s", t);
	if (!report_is_day(day))
		return false;
	if (t[10] == '\0')
		return true;
	static const char form[] = "T00:00:00";
	const char *p = t + 10;
	for (const char *f = form; *f != '\0'; f++, p++)
		if (*f == '0' ? *p < '0' || *p > '9' : *p != *f)
			return false;
	if (t[11] > '2' || (t[11] == '2' && t[12] > '3') || t[14] > '5' || t[17] > '5')
		return false;
	if (*p == '.') {
		size_t digits = strspn(p + 1, "0123456789");
		if (digits == 0 || digits > 6)
			return false;
		p += 1 + digits;
	}
	return strcmp(p, "Z") == 0;
}

static bool is_report(struct slice v)
{
	bool slash = false;
	for (size_t i = 0; i < v.len; i++) {
		const char c = (char)v.p[i];
		if (c == '/' && !slash)
			slash = true;
		else if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '_')
			return false;
	}
	return slash && v.len <= 2 * REPORT_NAME_MAX + 1;
}

static bool read_number(struct slice v, int64_t most, int64_t *ret)
{
	char text[20];
	if (v.len == 0 || v.len >= sizeof(text))
		return false;
	memcpy(text, v.p, v.len);
	text[v.len] = '\0';
	if (strspn(text, "0123456789") != v.len)
		return false;
	*ret = strtoll(text, NULL, 10);
	return *ret >= 1 && *ret <= most;
}

static int refuse(struct rt_err *err, const char *key, const char *wants)
{
	return rt_fail(err, ERR_USAGE, "%s must be %s", key, wants);
}

static int take_word(const char *key, const char *const *names, const char *wants,
		     struct slice value, const char **ret, struct rt_err *err)
{
	*ret = one_of(names, value);
	return *ret != NULL ? 0 : refuse(err, key, wants);
}

static int take_time(const char *key, struct arena *a, struct slice value, const char **ret,
		     struct rt_err *err)
{
	const char *text = arena_strndup(a, (const char *)value.p, value.len);
	if (strlen(text) != value.len || !is_time(text))
		return refuse(err, key, "YYYY-MM-DD or YYYY-MM-DDTHH:MM:SSZ");
	*ret = text;
	return 0;
}

static int take_report(struct arena *a, struct slice value, const char **ret, struct rt_err *err)
{
	if (!is_report(value))
		return refuse(err, "report", "a report's id (norm/id)");
	*ret = arena_strndup(a, (const char *)value.p, value.len);
	return 0;
}

static int take_limit(struct slice value, int *ret, struct rt_err *err)
{
	int64_t n;
	if (!read_number(value, QUERY_LIMIT_MAX, &n))
		return rt_fail(err, ERR_USAGE, "limit must be 1 to %d", QUERY_LIMIT_MAX);
	*ret = (int)n;
	return 0;
}

int query_take(struct runs_filter *f, struct arena *a, struct slice key, struct slice value,
	       struct rt_err *err)
{
	const bool again = (slice_is(key, "state") && f->state != NULL) ||
			   (slice_is(key, "client_state") && f->client_state != NULL) ||
			   (slice_is(key, "type") && f->type != NULL) ||
			   (slice_is(key, "report") && f->report != NULL) ||
			   (slice_is(key, "from") && f->from != NULL) ||
			   (slice_is(key, "to") && f->to != NULL) ||
			   (slice_is(key, "limit") && f->limit != 0) ||
			   (slice_is(key, "cursor") && f->before != 0);
	if (again)
		return rt_fail(err, ERR_USAGE, "each key may be given once");
	if (slice_is(key, "state"))
		return take_word("state", states,
				 "queued, waiting, building, writing, published, failed or "
				 "superseded",
				 value, &f->state, err);
	if (slice_is(key, "client_state"))
		return take_word("client_state", client_states,
				 "queued, running, success or failed", value, &f->client_state,
				 err);
	if (slice_is(key, "type"))
		return take_word("type", types, "manual or scheduled", value, &f->type, err);
	if (slice_is(key, "report"))
		return take_report(a, value, &f->report, err);
	if (slice_is(key, "from"))
		return take_time("from", a, value, &f->from, err);
	if (slice_is(key, "to"))
		return take_time("to", a, value, &f->to, err);
	if (slice_is(key, "limit"))
		return take_limit(value, &f->limit, err);
	if (slice_is(key, "cursor"))
		return read_number(value, INT64_MAX, &f->before)
			       ? 0
			       : refuse(err, "cursor", "what next gave");
	return rt_fail(err, ERR_USAGE,
		       "unknown key in the query; known are state, client_state, type, report, "
		       "from, to, limit, cursor");
}

const char *query_next(const struct runs_filter *f, int64_t number, struct arena *a)
{
	struct buf out = buf_in_arena(a, NULL, 0);
	const struct {
		const char *key, *value;
	} words[] = {{"state", f->state}, {"client_state", f->client_state},
		     {"type", f->type},	  {"report", f->report},
		     {"from", f->from},	  {"to", f->to}};
	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (words[i].value != NULL)
			buf_printf(&out, "%s=%s&", words[i].key, words[i].value);
	buf_printf(&out, "limit=%d&cursor=%lld", f->limit, (long long)number);
	return buf_cstr(&out);
}

bool query_is_id(const char *text)
{
	static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
	for (size_t i = 0; i < sizeof(form); i++) {
		const char c = text[i];
		const bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
		if (form[i] == 'x' ? !hex : c != form[i])
			return false;
	}
	return true;
}
