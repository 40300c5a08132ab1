/*
 * swap_probe: lets test_swap.py drive apply/stream/swap and differ.
 *
 *   swap_probe CONNINFO check|prepare|swap (LIVE BESIDE KEPT)…     tables of schema raw; KEPT -: dropped
 *   swap_probe CONNINFO made TABLE
 *   swap_probe CONNINFO differ OLD NEW KEY,… SKIP,…
 *
 * Prints check's lines, or differ's counts; then "ok", or "error CODE MESSAGE".
 */
#include <stdio.h>

#include "apply/stream/differ.h"
#include "apply/stream/swap.h"
#include "proto/pg/pgconn.h"

#define MAX 8

static size_t read_pairs(char **argv, struct swap_pair *pairs)
{
	size_t n = 0;
	for (; n < MAX && argv[3 * n] != NULL; n++)
		pairs[n] = (struct swap_pair){.schema = "raw",
					      .live = argv[3 * n],
					      .beside = argv[3 * n + 1],
					      .kept = argv[3 * n + 2][0] == '-' ? NULL
										: argv[3 * n + 2]};
	return n;
}

static int check(PGconn *c, const struct swap_pair *pairs, size_t n, struct rt_err *err)
{
	struct buf lines = BUF_INIT;
	int rc = swap_check(c, pairs, n, &lines, err);
	printf("%s", buf_cstr(&lines));
	buf_release(&lines);
	return rc;
}

/* Fails also where the session is not what it was before. */
static int swap(PGconn *c, const struct swap_pair *pairs, size_t n, struct rt_err *err)
{
	static const char session[] = "SELECT current_setting('search_path') || ' ' || "
				      "current_setting('role') || ' ' || current_user";
	PGresult *before, *after;
	int rc = pgc_exec(c, NULL, err, "BEGIN; SET LOCAL lock_timeout = '200ms'");
	if (rc == 0)
		rc = pgc_exec(c, &before, err, session);
	if (rc != 0)
		return rc;
	rc = swap_tables(c, pairs, n, err);
	if (rc == 0)
		rc = pgc_exec(c, &after, err, session);
	if (rc == 0) {
		if (strcmp(PQgetvalue(before, 0, 0), PQgetvalue(after, 0, 0)) != 0)
			rc = rt_fail(err, ERR_PERMANENT, "the session became another");
		PQclear(after);
	}
	PQclear(before);
	return rc == 0 ? pgc_exec(c, NULL, err, "COMMIT") : rc;
}

static size_t split(char *list, const char **ret)
{
	size_t n = 0;
	for (char *save, *at = list[0] != '\0' ? list : NULL; at != NULL && n < MAX; at = save) {
		save = strchr(at, ',');
		if (save != NULL)
			*save++ = '\0';
		ret[n++] = at;
	}
	return n;
}

static int differ(PGconn *c, char **argv, struct rt_err *err)
{
	const char *key[MAX], *skip[MAX];
	struct differ d;
	struct arena a;
	arena_init(&a, 4096);
	size_t keys = split(argv[2], key), skips = split(argv[3], skip);
	int rc = differ_count(c, &a, argv[0], argv[1], key, keys, skip, skips, &d, err);
	if (rc == 0) {
		printf("old %lu new %lu same %lu differing %lu gone %s added %s\n", d.only_old,
		       d.only_new, d.same, d.differing, d.gone, d.added);
		for (uint16_t i = 0; i < d.count; i++)
			printf("%s %lu\n", d.column[i].name, d.column[i].rows);
	}
	arena_release(&a);
	return rc;
}

static int made(PGconn *c, const char *table, struct rt_err *err)
{
	struct buf sql = BUF_INIT;
	swap_made_sql("raw", table, &sql);
	int rc = pgc_exec(c, NULL, err, "%s", buf_cstr(&sql));
	buf_release(&sql);
	return rc;
}

int main(int argc, char **argv)
{
	struct rt_err err;
	struct swap_pair pairs[MAX];
	PGconn *c = NULL;
	if (argc < 4)
		return EXIT_USAGE;
	struct pgc_options o = {
		.what = "warehouse", .conninfo = argv[1], .application_name = "swap_probe"};
	int rc = pgc_connect(&c, &o, &err);
	bool of_pairs = strcmp(argv[2], "made") != 0 && strcmp(argv[2], "differ") != 0;
	size_t n = of_pairs ? read_pairs(argv + 3, pairs) : 0;
	if (rc == 0)
		rc = strcmp(argv[2], "check") == 0     ? check(c, pairs, n, &err)
		     : strcmp(argv[2], "prepare") == 0 ? swap_prepare(c, pairs, n, true, &err)
		     : strcmp(argv[2], "swap") == 0    ? swap(c, pairs, n, &err)
		     : strcmp(argv[2], "made") == 0    ? made(c, argv[3], &err)
						       : differ(c, argv + 3, &err);
	if (rc == 0)
		printf("ok\n");
	else
		printf("error %d %s\n", rc, err.msg);
	pgc_close(c);
	return 0;
}
