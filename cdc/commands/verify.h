/* verify: one run of `rolag verify`, shared by its files. */
#ifndef CDC_COMMANDS_VERIFY_H
#define CDC_COMMANDS_VERIFY_H

#include "apply/stream/verify.h"
#include "apply/stream/verify_mirror.h"
#include "cdc/commands/bar.h"

#define VERIFY_SAMPLE_MAX 10000000

/* An entity with findings, to be repaired. */
struct verify_entity {
	const struct landed *landed;
	char *id; /* its own memory */
	int32_t extra_up_to;
};

/* A mirror with findings: it is synced whole. */
struct verify_synced {
	struct mirror *mirror;
	bool refused; /* the sync did not make it live */
};

struct verify_run {
	struct settings settings;
	struct mirror_set mirrors;
	struct verify_options options;
	struct verify_count count;
	struct bar bar;
	uint64_t expected; /* rows of the core, by the planner's estimate, of a full comparison */
	uint64_t tables;   /* that are asked for; so many of them are behind us: */
	uint64_t behind;
	const char *table; /* at hand */
	bool json, against_triggers;
	bool failed;		    /* it did not come to its end */
	int compared, not_compared; /* tables */
	uint64_t printed;	    /* findings */
	int64_t took_us;
	bool repair;
	struct verify_entity *entity; /* as they were found: one may be there twice */
	size_t entity_count, entity_cap;
	struct verify_synced *synced; /* of mirrors.count at most */
	uint16_t synced_count;
	uint64_t repaired, refused, resynced;
	struct verify_count after; /* of the repaired entities and mirrors, compared again */
};

/* verify_options.found_entity: remembers it. */
void verify_remember(void *ctx, const struct landed *l, const char *id, int32_t extra_up_to);
void verify_forget(struct verify_run *run);
/*
 * Asks apply to make the remembered entities anew, waits for it, and compares
 * them again (run->repaired, refused, after).
 */
int verify_repair(struct verify_run *run, struct rt_err *err) RT_MUSTCHECK;
/*
 * The same of mirrors with findings: each is synced whole, as by rolag sync,
 * waited for as long as that gets on, and compared again (run->resynced,
 * refused, after).
 */
int verify_resync(struct verify_run *run, struct rt_err *err) RT_MUSTCHECK;

#endif
