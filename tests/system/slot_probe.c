/*
 * slot_probe: lets test_slot.py drive proto/pg/slot.
 *
 *   slot_probe CONNINFO NAME temporary|lasting export|nothing GIVE_UP_AFTER
 *
 * Prints "wait PID" for each word of waiting, gives up at the GIVE_UP_AFTERth
 * (0: never), then "created LSN SNAPSHOT" or "error CODE MESSAGE". After
 * "created" it keeps the connection until stdin ends.
 */
#include <stdio.h>

#include "proto/pg/slot.h"

struct probe {
	long give_up_after;
	long words;
};

static bool on_wait(void *ctx, const struct slot_wait *w)
{
	struct probe *p = ctx;
	printf("wait %d\n", w->pid);
	fflush(stdout);
	return ++p->words == p->give_up_after;
}

int main(int argc, char **argv)
{
	struct rt_err err;
	struct slot_created created;
	PGconn *replication = NULL, *monitor = NULL;
	if (argc != 6)
		return EXIT_USAGE;
	struct probe p = {.give_up_after = strtol(argv[5], NULL, 10)};
	struct pgc_options o = {
		.what = "core", .conninfo = argv[1], .application_name = "slot_probe"};
	int rc = pgc_connect(&monitor, &o, &err);
	o.replication = true;
	if (rc == 0)
		rc = pgc_connect(&replication, &o, &err);
	const struct slot_options so = {
		.name = argv[2],
		.temporary = strcmp(argv[3], "temporary") == 0,
		.snapshot = strcmp(argv[4], "export") == 0 ? SLOT_EXPORT : SLOT_NOEXPORT,
		.monitor = monitor,
		.on_wait = on_wait,
		.ctx = &p,
	};
	if (rc == 0)
		rc = slot_create(replication, &so, &created, &err);
	if (rc == 0)
		printf("created " LSN_FMT " %s\n", LSN_ARGS(created.consistent_point),
		       created.snapshot);
	else
		printf("error %d %s\n", rc, err.msg);
	fflush(stdout);
	if (rc == 0)
		(void)getchar();
	pgc_close(replication);
	pgc_close(monitor);
	return 0;
}
