/*
 * linger: does a batch wait for more before it is written? Each costs the
 * warehouse its statements, their plans and a commit, whatever it holds; where
 * the warehouse is faster than the stream, batches stay small, and that is most
 * of what they cost. While the stream is late and dense nobody misses a row for
 * some milliseconds more. Pure.
 */
#ifndef APPLY_STREAM_LINGER_H
#define APPLY_STREAM_LINGER_H

#include "proto/base/rt.h"

/* A batch lingers when its newest commit is so old (by two clocks: one that is wrong costs the time below), */
#define LINGER_LATE_US INT64_C(1000000)
/* with so many changes, and for as long as so many come in each look, */
#define LINGER_CHANGES 100u
#define LINGER_LOOK_US INT64_C(3000)
/* at most so long. */
#define LINGER_MOST_US INT64_C(50000)

/* All zero: no batch lingers. */
struct linger {
	int64_t since_us;
	int64_t look_us;  /* monotonic: until then it is left alone */
	uint32_t changes; /* at the last look */
};

/*
 * A batch of so many changes, its newest commit late_us ago, could be written.
 * True: it waits until l->look_us, or until it takes no more.
 */
bool linger_for_more(struct linger *l, uint32_t changes, int64_t late_us, int64_t now_us);
static inline bool linger_is_on(const struct linger *l)
{
	return l->since_us != 0;
}

#endif
