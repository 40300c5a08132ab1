/* lsn: text form of WAL positions. Guarantees: accepts exactly what PostgreSQL's pg_lsn input does. */
#include "proto/lsn.h"

#include <ctype.h>

static const char *hex32(const char *s, uint32_t *ret)
{
	uint32_t v = 0;
	int digits = 0;
	for (; isxdigit((unsigned char)*s) && digits < 8; s++, digits++) {
		int c = tolower((unsigned char)*s);
		v = v << 4 | (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
	}
	*ret = v;
	return digits == 0 ? NULL : s;
}

bool lsn_parse(const char *text, struct lsn *ret)
{
	uint32_t hi, lo;
	const char *s = hex32(text, &hi);
	if (s == NULL || *s != '/')
		return false;
	s = hex32(s + 1, &lo);
	if (s == NULL || *s != '\0')
		return false;
	ret->v = (uint64_t)hi << 32 | lo;
	return true;
}
