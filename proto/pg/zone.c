/*
 * zone: time zones from the system's tz database (RFC 8536 files under
 * /usr/share/zoneinfo, as Debian's server uses them) and from POSIX rules.
 * The only I/O behind types.h: a file is read when a zone is loaded or first
 * named by a value. Guarantees: no file outside of the database is opened,
 * whatever the name; a damaged file is no zone.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/pg/datetime.h"
#include "proto/pg/types_inner.h"

#define ZONE_FOLDER "/usr/share/zoneinfo"

enum {
	FILE_MAX = 1 << 18, /* the largest zone has less than 4 kB */
	NAME_LEN_MAX = 255,
	CACHE_SIZE = 32,
	/* POSIX rules without dates, such as "est5edt", change as the USA do now. */
	US_START_MONTH = 3,
	US_START_WEEK = 2,
	US_END_MONTH = 11,
	US_END_WEEK = 1,
};

struct zone_type {
	int32_t east;
	bool dst;
	uint8_t name; /* offset into names */
};

/* When in a year clocks change. */
struct change {
	enum { BY_WEEK, BY_DAY, BY_DAY_WITHOUT_LEAP } kind;
	int month, week, day;
	int32_t second; /* of that day, by the clock on the wall before the change */
};

struct rule {
	bool present, changes;
	int32_t std_east, dst_east;
	struct change start, end; /* of daylight-saving time */
};

struct pgt_zone {
	uint32_t time_count, type_count, name_bytes;
	int64_t *times; /* of changes, ascending */
	uint8_t *kinds; /* the type from then on */
	struct zone_type *types;
	char *names;	  /* NUL-terminated, one after the other */
	struct rule rule; /* after the last change */
};

void pgt_zone_free(struct pgt_zone *z)
{
	if (z == NULL)
		return;
	free(z->times);
	free(z->kinds);
	free(z->types);
	free(z->names);
	free(z);
}

/* ---- POSIX rules ---- */

/* A number of at most max; NULL when there is none. */
static const char *rule_number(const char *p, int max, int *ret)
{
	int v = 0;
	if (!pgt_is_digit((uint8_t)*p))
		return NULL;
	for (; pgt_is_digit((uint8_t)*p); p++) {
		v = v * 10 + (*p - '0');
		if (v > max)
			return NULL;
	}
	*ret = v;
	return p;
}

/* [+-]h[h][:mm[:ss]], up to 167 hours */
static const char *rule_time(const char *p, int32_t *ret)
{
	bool negative = *p == '-';
	int hour, minute = 0, second = 0;
	if (*p == '-' || *p == '+')
		p++;
	p = rule_number(p, 24 * 7 - 1, &hour);
	if (p != NULL && *p == ':') {
		p = rule_number(p + 1, 59, &minute);
		if (p != NULL && *p == ':')
			p = rule_number(p + 1, 60, &second);
	}
	if (p == NULL)
		return NULL;
	int32_t v = (hour * 60 + minute) * 60 + second;
	*ret = negative ? -v : v;
	return p;
}

/* A name in <…>, or up to a digit, comma or sign. */
static const char *rule_name(const char *p)
{
	if (*p == '<') {
		const char *end = strchr(p, '>');
		return end == NULL || end == p + 1 ? NULL : end + 1;
	}
	size_t len = strcspn(p, "0123456789,+-");
	return len == 0 ? NULL : p + len;
}

/* Mm.w.d, Jn or n, then /time. */
static const char *rule_change(const char *p, struct change *ret)
{
	struct change c = {.second = 7200};
	if (*p == 'J') {
		c.kind = BY_DAY_WITHOUT_LEAP;
		p = rule_number(p + 1, 365, &c.day);
	} else if (*p == 'M') {
		c.kind = BY_WEEK;
		p = rule_number(p + 1, 12, &c.month);
		p = p == NULL || *p != '.' ? NULL : rule_number(p + 1, 5, &c.week);
		p = p == NULL || *p != '.' ? NULL : rule_number(p + 1, 6, &c.day);
		if (c.month == 0 || c.week == 0)
			return NULL;
	} else {
		c.kind = BY_DAY;
		p = rule_number(p, 365, &c.day);
	}
	if (p != NULL && *p == '/')
		p = rule_time(p + 1, &c.second);
	if (c.kind == BY_DAY_WITHOUT_LEAP && c.day == 0)
		return NULL;
	*ret = c;
	return p;
}

/* "EST5EDT,M3.2.0,M11.1.0": offsets are west of UTC, here as there. */
static bool rule_parse(const char *p, struct rule *ret)
{
	struct rule r = {.present = true};
	int32_t west;
	p = rule_name(p);
	if (p == NULL || (p = rule_time(p, &west)) == NULL)
		return false;
	r.std_east = -west;
	if (*p == '\0') {
		*ret = r;
		return true;
	}
	r.changes = true;
	r.dst_east = r.std_east + 3600;
	r.start = (struct change){BY_WEEK, US_START_MONTH, US_START_WEEK, 0, 7200};
	r.end = (struct change){BY_WEEK, US_END_MONTH, US_END_WEEK, 0, 7200};
	p = rule_name(p);
	if (p != NULL && *p != '\0' && *p != ',') {
		p = rule_time(p, &west);
		r.dst_east = -west;
	}
	if (p == NULL)
		return false;
	if (*p == ',') {
		p = rule_change(p + 1, &r.start);
		if (p == NULL || *p != ',' || (p = rule_change(p + 1, &r.end)) == NULL)
			return false;
	}
	if (*p != '\0')
		return false;
	*ret = r;
	return true;
}

/* The day (from 2000-01-01) of a change in a year. */
static int64_t change_day(const struct change *c, int64_t year)
{
	int64_t first = day_of_date(year, 1, 1);
	switch (c->kind) {
	case BY_DAY:
		return first + c->day;
	case BY_DAY_WITHOUT_LEAP:
		return first + c->day - 1 + (c->day > 59 && is_leap_year(year));
	case BY_WEEK:
		break;
	}
	first = day_of_date(year, c->month, 1);
	/* 2000-01-01 was a Saturday. */
	int64_t weekday = ((first + 6) % 7 + 7) % 7;
	int64_t day = (c->day - weekday + 7) % 7 + 7 * (c->week - 1);
	while (day >= days_in_month(year, c->month))
		day -= 7;
	return first + day;
}

static int64_t change_time(const struct change *c, int64_t year, int32_t east)
{
	return change_day(c, year) * SECONDS_PER_DAY + UNIX_OF_2000 + c->second - east;
}

/* ---- offsets ---- */

/* The offset at a moment, and the next change after it, where there is one. */
struct span {
	int32_t before, after;
	bool ends;
	int64_t end;
};

static struct span rule_span(const struct rule *r, int64_t t)
{
	struct span s = {r->std_east, r->std_east, false, 0};
	int64_t year, last = INT64_MIN;
	int month, day;
	if (!r->changes)
		return s;
	int64_t t2000 = t - UNIX_OF_2000;
	date_of_day((t2000 >= 0 ? t2000 : t2000 - (SECONDS_PER_DAY - 1)) / SECONDS_PER_DAY, &year,
		    &month, &day);
	for (int64_t y = year - 1; y <= year + 1; y++) {
		for (int dst = 0; dst < 2; dst++) {
			int64_t at = dst ? change_time(&r->start, y, r->std_east)
					 : change_time(&r->end, y, r->dst_east);
			int32_t east = dst ? r->dst_east : r->std_east;
			if (at <= t && at > last) {
				last = at;
				s.before = east;
			} else if (at > t && (!s.ends || at < s.end)) {
				s.ends = true;
				s.end = at;
				s.after = east;
			}
		}
	}
	return s;
}

/* What holds before the first change: the first type that is not daylight-saving time. */
static const struct zone_type *first_type(const struct pgt_zone *z)
{
	for (uint32_t i = 0; i < z->type_count; i++) {
		if (!z->types[i].dst)
			return &z->types[i];
	}
	return &z->types[0];
}

/* How many changes are at or before t. */
static uint32_t changes_until(const struct pgt_zone *z, int64_t t)
{
	uint32_t low = 0, high = z->time_count;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (t < z->times[middle])
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static struct span zone_span(const struct pgt_zone *z, int64_t t)
{
	uint32_t n = changes_until(z, t);
	if (n == z->time_count && z->rule.present && (n > 0 || z->type_count == 0))
		return rule_span(&z->rule, t);
	struct span s = {0, 0, false, 0};
	s.before = n == 0 ? first_type(z)->east : z->types[z->kinds[n - 1]].east;
	s.after = s.before;
	if (n < z->time_count) {
		s.ends = true;
		s.end = z->times[n];
		s.after = z->types[z->kinds[n]].east;
	}
	return s;
}

int32_t pgt_zone_east(const struct pgt_zone *z, int64_t unix_s)
{
	return zone_span(z, unix_s).before;
}

int32_t zone_offset(const struct pgt_zone *z, int64_t local_s)
{
	/* No offset is a day long, and changes are further apart. */
	struct span s = zone_span(z, local_s - SECONDS_PER_DAY);
	if (!s.ends)
		return s.before;
	int64_t before = local_s - s.before, after = local_s - s.after;
	if (before < s.end && after < s.end)
		return s.before;
	if (before > s.end && after >= s.end)
		return s.after;
	return before > after ? s.before : s.after;
}

int32_t zone_offset_of(const struct pgt_zone *z, int64_t local_s, const char *abbreviation)
{
	int32_t east = zone_offset(z, local_s);
	uint32_t name = 0;
	while (name < z->name_bytes && strcmp(z->names + name, abbreviation) != 0)
		name += (uint32_t)strlen(z->names + name) + 1;
	if (name >= z->name_bytes)
		return east;
	uint32_t n = changes_until(z, local_s - east);
	for (uint32_t i = n; i > 0; i--) {
		const struct zone_type *t = &z->types[z->kinds[i - 1]];
		if (t->name == name)
			return t->east;
	}
	for (uint32_t i = n; i < z->time_count; i++) {
		const struct zone_type *t = &z->types[z->kinds[i]];
		if (t->name == name)
			return t->east;
	}
	return east;
}

/* ---- files ---- */

struct counts {
	uint32_t utc_flags, std_flags, leaps, times, types, name_bytes;
	uint8_t version;
};

static void read_counts(struct rd *r, struct counts *ret)
{
	struct counts c = {0};
	const uint8_t *magic = rd_bytes(r, 4);
	if (magic == NULL || memcmp(magic, "TZif", 4) != 0)
		r->failed = true;
	c.version = rd_u8(r);
	rd_bytes(r, 15);
	c.utc_flags = rd_u32(r);
	c.std_flags = rd_u32(r);
	c.leaps = rd_u32(r);
	c.times = rd_u32(r);
	c.types = rd_u32(r);
	c.name_bytes = rd_u32(r);
	*ret = c;
}

static bool counts_are_sane(const struct counts *c)
{
	return c->types > 0 && c->types <= 255 && c->times <= FILE_MAX && c->name_bytes > 0 &&
	       c->name_bytes <= 255 && c->leaps == 0 && c->utc_flags <= c->types &&
	       c->std_flags <= c->types;
}

/* The second block of a file, whose times have 64 bits; r is behind its counts. */
static bool read_block(struct rd *r, const struct counts *c, struct pgt_zone *z)
{
	/* Each time has 9 bytes in the file, so this is no more than the file has. */
	if ((size_t)c->times * 9 > r->left)
		return false;
	z->times = rt_calloc(c->times + 1, sizeof(z->times[0]));
	z->kinds = rt_calloc(c->times + 1, sizeof(z->kinds[0]));
	z->types = rt_calloc(c->types, sizeof(z->types[0]));
	z->names = rt_calloc(c->name_bytes + 1, 1);
	for (uint32_t i = 0; i < c->times; i++) {
		z->times[i] = (int64_t)rd_u64(r);
		if (i > 0 && z->times[i] <= z->times[i - 1])
			return false;
	}
	for (uint32_t i = 0; i < c->times; i++) {
		z->kinds[i] = rd_u8(r);
		if (z->kinds[i] >= c->types)
			return false;
	}
	for (uint32_t i = 0; i < c->types; i++) {
		z->types[i].east = (int32_t)rd_u32(r);
		z->types[i].dst = rd_u8(r) != 0;
		z->types[i].name = rd_u8(r);
		if (z->types[i].name >= c->name_bytes || abs(z->types[i].east) >= 7 * 86400)
			return false;
	}
	const uint8_t *names = rd_bytes(r, c->name_bytes);
	rd_bytes(r, c->std_flags);
	rd_bytes(r, c->utc_flags);
	if (r->failed)
		return false;
	memcpy(z->names, names, c->name_bytes);
	z->time_count = c->times;
	z->type_count = c->types;
	z->name_bytes = c->name_bytes;
	return true;
}

static bool read_footer(struct rd *r, struct pgt_zone *z)
{
	char text[NAME_LEN_MAX + 1];
	if (r->left < 2 || r->left > sizeof(text) || r->p[0] != '\n' || r->p[r->left - 1] != '\n')
		return false;
	memcpy(text, r->p + 1, r->left - 2);
	text[r->left - 2] = '\0';
	/* No rule: the last type holds for ever. */
	return text[0] == '\0' || rule_parse(text, &z->rule);
}

static struct pgt_zone *zone_read(struct slice file)
{
	struct rd r = rd_of(file);
	struct counts c;
	struct pgt_zone *z = rt_calloc(1, sizeof(*z));
	read_counts(&r, &c);
	if (r.failed || c.version < '2' || !counts_are_sane(&c))
		goto bad;
	/* The first block holds what fits 32 bits; the second everything. */
	rd_bytes(&r, (size_t)c.times * 5 + (size_t)c.types * 6 + c.name_bytes + c.std_flags +
			     c.utc_flags);
	read_counts(&r, &c);
	if (r.failed || !counts_are_sane(&c) || !read_block(&r, &c, z) || !read_footer(&r, z))
		goto bad;
	return z;
bad:
	pgt_zone_free(z);
	return NULL;
}

/* Is name a path below the folder, each part of it visible ("a/b", not "/a", "a//b", "../a")? */
static bool name_is_safe(const char *name)
{
	size_t len = strlen(name);
	if (len == 0 || len > NAME_LEN_MAX)
		return false;
	for (size_t i = 0; i < len; i++) {
		bool starts = i == 0 || name[i - 1] == '/';
		if (starts && (name[i] == '/' || name[i] == '.'))
			return false;
	}
	return name[len - 1] != '/';
}

static struct pgt_zone *zone_open(const char *path)
{
	struct pgt_zone *z = NULL;
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= FILE_MAX) {
		uint8_t *bytes = rt_malloc(FILE_MAX);
		ssize_t n = read(fd, bytes, FILE_MAX);
		if (n > 0)
			z = zone_read(slice_of(bytes, (size_t)n));
		free(bytes);
	}
	close(fd);
	return z;
}

struct pgt_zone *pgt_zone_load(const char *name)
{
	if (!name_is_safe(name))
		return NULL;
	char *path = rt_sprintf(ZONE_FOLDER "/%s", name);
	struct pgt_zone *z = zone_open(path);
	free(path);
	return z;
}

/* Appends to path the entry of this folder that has the name, in any case; false when none has. */
static bool find_entry(struct buf *path, const char *name, size_t len)
{
	bool found = false;
	DIR *dir = opendir(buf_cstr(path));
	if (dir == NULL)
		return false;
	for (struct dirent *e; !found && (e = readdir(dir)) != NULL;) {
		if (e->d_name[0] != '.' && strlen(e->d_name) == len &&
		    strncasecmp(e->d_name, name, len) == 0) {
			buf_u8(path, '/');
			buf_str(path, e->d_name);
			found = true;
		}
	}
	closedir(dir);
	return found;
}

static struct pgt_zone *load_any_case(const char *name)
{
	struct buf path = BUF_INIT;
	struct pgt_zone *z = NULL;
	bool found = name_is_safe(name);
	buf_str(&path, ZONE_FOLDER);
	for (const char *p = name; found && *p != '\0';) {
		size_t len = strcspn(p, "/");
		found = find_entry(&path, p, len);
		p += len + (p[len] == '/');
	}
	if (found)
		z = zone_open(buf_cstr(&path));
	buf_release(&path);
	return z;
}

static struct pgt_zone *zone_of_rule(const char *text)
{
	struct rule r;
	if (strlen(text) > NAME_LEN_MAX || !rule_parse(text, &r))
		return NULL;
	struct pgt_zone *z = rt_calloc(1, sizeof(*z));
	z->rule = r;
	return z;
}

const struct pgt_zone *zone_named(const char *name)
{
	/* Names that were none are kept too: z is NULL then. */
	static struct {
		char *name;
		struct pgt_zone *z;
	} cache[CACHE_SIZE];
	static unsigned next;
	for (unsigned i = 0; i < CACHE_SIZE; i++) {
		if (cache[i].name != NULL && strcasecmp(cache[i].name, name) == 0)
			return cache[i].z;
	}
	struct pgt_zone *z = load_any_case(name);
	if (z == NULL)
		z = zone_of_rule(name);
	free(cache[next].name);
	pgt_zone_free(cache[next].z);
	cache[next].name = rt_strdup(name);
	cache[next].z = z;
	next = (next + 1) % CACHE_SIZE;
	return z;
}
