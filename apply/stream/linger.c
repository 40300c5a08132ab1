/* linger: guarantees that no batch waits longer than LINGER_MOST_US, and a sparse stream's no longer than a look. */
#include "apply/stream/linger.h"

bool linger_for_more(struct linger *l, uint32_t changes, int64_t late_us, int64_t now_us)
{
	bool begins = l->since_us == 0;
	if (!begins && now_us < l->look_us)
		return true;
	bool dense = changes >= LINGER_CHANGES + (begins ? 0 : l->changes);
	if (late_us < LINGER_LATE_US || !dense ||
	    (!begins && now_us - l->since_us >= LINGER_MOST_US)) {
		*l = (struct linger){0};
		return false;
	}
	if (begins)
		l->since_us = now_us;
	l->look_us = now_us + LINGER_LOOK_US;
	l->changes = changes;
	return true;
}
