/* verify: one run of `rolag verify`, shared by its files. */
#ifndef CDC_COMMANDS_VERIFY_H
#define CDC_COMMANDS_VERIFY_H

#include "apply/stream/verify.h"

#define VERIFY_SAMPLE_MAX 10000000

/* An entity with findings, to be repaired. */
struct verify_entity {
	const struct landed *landed;
	char *id; /* its own memory */
	int32_t extra_up_to;
};

struct verify_run {
	struct settings settings;
	struct verify_options options;
	struct verify_count count;
	bool json, against_triggers;
	bool failed;		    /* it did not come to its end */
	int compared, not_compared; /* tables */
	uint64_t printed;	    /* findings */
	int64_t took_us;
	bool repair;
	struct verify_entity *entity; /* as they were found: one may be there twice */
	size_t entity_count, entity_cap;
	uint64_t repaired, refused;
	struct verify_count after; /* of the repaired entities, compared again */
};

/* verify_options.found_entity: remembers it. */
void verify_remember(void *ctx, const struct landed *l, const char *id, int32_t extra_up_to);
void verify_forget(struct verify_run *run);
/*
 * Asks apply to make the remembered entities anew, waits for it, and compares
 * them again (run->repaired, refused, after).
 */
int verify_repair(struct verify_run *run, struct rt_err *err) RT_MUSTCHECK;

#endif
