/* verify: one run of `rolag verify`, shared by its files. */
#ifndef CDC_COMMANDS_VERIFY_H
#define CDC_COMMANDS_VERIFY_H

#include "apply/stream/verify.h"

#define VERIFY_SAMPLE_MAX 10000000

struct verify_run {
	struct settings settings;
	struct verify_options options;
	struct verify_count count;
	bool json;
	bool failed; /* it did not come to its end */
	int compared, not_compared; /* tables */
	uint64_t printed;	    /* findings */
	int64_t took_us;
};

#endif
