/*
 * delay: why does the warehouse not answer? When a step of the writer has been
 * under way for some seconds, a connection of its own asks what the server
 * process waits for, and who holds the lock; the answer is apply's note until
 * the step is done. Nothing waits for it, and the role never fails by it.
 */
#ifndef APPLY_STREAM_DELAY_H
#define APPLY_STREAM_DELAY_H

#include "apply/stream/writer.h"
#include "proto/base/loop.h"

struct delay {
	const struct settings *settings;
	const struct writer *writer;
	PGconn *c; /* NULL: nothing is asked */
	PostgresPollingStatusType polling;
	bool sent;
	bool noted; /* apply's note is ours: */
	char note[256];
	/* The step that is watched (writer.started_us, writer.plan_at). */
	int64_t started_us;
	uint32_t plan_at;
	int64_t ask_us, limit_us; /* monotonic: when to ask next; when to give the question up */
};

void delay_init(struct delay *d, const struct settings *s, const struct writer *w);
void delay_release(struct delay *d);
/* A loop source (ctx: the delay). */
void delay_prepare(void *ctx, int64_t now, struct loop_want *ret);
int delay_dispatch(void *ctx, short revents, int64_t now, struct rt_err *err);

#endif
