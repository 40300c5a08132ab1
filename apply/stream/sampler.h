/*
 * sampler: verify at a low rate, for ever. Every verify.sample_interval a
 * child process (fork, niced, with connections of its own) compares some
 * entities of one rollup, or rows of one mirror, the next one each time; its result becomes metrics
 * and, where there is a difference, a line in the log. Apply's loop only
 * reads a pipe: the stream never waits for it.
 */
#ifndef APPLY_STREAM_SAMPLER_H
#define APPLY_STREAM_SAMPLER_H

#include "apply/stream/landed.h"
#include "apply/stream/mirror.h"
#include "proto/base/loop.h"

struct sampler {
	const struct settings *settings;
	const struct landed_set *landed;
	struct mirror_set *mirrors;
	struct loop *loop;
	int pid, fd;	 /* of the child and of its pipe; 0, -1: there is none */
	int64_t next_us; /* monotonic; LOOP_NEVER: it is off */
	int64_t begun_us;
	unsigned at; /* whose turn it is: the rollups, then the mirrors */
};

void sampler_init(struct sampler *s, const struct settings *settings,
		  const struct landed_set *landed, struct mirror_set *mirrors, struct loop *loop);
/* Ends a child that runs. */
void sampler_release(struct sampler *s);
/* A loop source (ctx: the sampler). A failure of the child is logged, never returned. */
void sampler_prepare(void *ctx, int64_t now, struct loop_want *ret);
int sampler_dispatch(void *ctx, short revents, int64_t now, struct rt_err *err);

#endif
