/*
 * sim_apply: apply as it is (apply.c is compiled in here), up to two of them,
 * with definitions that are there already and tables that need no sync.
 */
#include "apply/stream/apply.c"

#include "tests/sim/sim.h"

static struct applier *applier[PROCESS_COUNT];

/* ---- what apply asks of its surroundings ---- */

int __wrap_landed_load(struct arena *a, const struct settings *s, struct landed_set *ret,
		       struct rt_err *err);
void __wrap_landed_release(struct landed_set *set);
int __wrap_landed_ensure(PGconn *c, const struct settings *s, struct landed_set *set,
			 landed_report report, void *ctx, struct rt_err *err);
int __wrap_landed_park_absent(PGconn *c, const struct settings *s, struct landed_set *set,
			      landed_report report, void *ctx, struct rt_err *err);
int __wrap_sync_begin(struct sync *s, PGconn *c, struct rt_err *err);
int __wrap_quarantine_load(PGconn *c, const struct settings *s, const struct landed_set *landed,
			   struct parked *p, struct rt_err *err);
int __wrap_quarantine_is_asked(PGconn *c, const struct settings *s, bool *ret, struct rt_err *err);
int __wrap_remake_serve(PGconn *c, const struct settings *s, const struct landed_set *landed,
			const struct ledger *ledger, struct cache *cache, struct loop *loop,
			int64_t limit_us, enum remake_left *ret, struct rt_err *err);
int __wrap_mirror_ensure(PGconn *c, const struct settings *s, struct mirror_set *set,
			 landed_report report, void *ctx, struct rt_err *err);
int __wrap_rebuild_begin(struct rebuild *r, PGconn *c, struct rt_err *err);
int __wrap_rebuild_ask(struct rebuild *r, PGconn *c, struct rt_err *err);
int __wrap_migrate_check(PGconn *c, struct rt_err *err);
/* Nobody else is at the simulated warehouse to be asked why it is slow. */
int __wrap_pgc_connect_start(PGconn **ret, const struct pgc_options *o, struct rt_err *err);
int __wrap_pgc_connect_start(PGconn **ret, const struct pgc_options *o, struct rt_err *err)
{
	return rt_fail(err, ERR_RETRY, "nobody is let in");
}

int64_t __wrap_pgc_backoff_next(struct pgc_backoff *b);

extern struct landed sim_landed[ROLLUPS];

int __wrap_landed_load(struct arena *a, const struct settings *s, struct landed_set *ret,
		       struct rt_err *err)
{
	*ret = (struct landed_set){.count = ROLLUPS, .item = arena_alloc(a, sizeof(sim_landed))};
	memcpy(ret->item, sim_landed, sizeof(sim_landed));
	return 0;
}

void __wrap_landed_release(struct landed_set *set)
{
}

int __wrap_landed_ensure(PGconn *c, const struct settings *s, struct landed_set *set,
			 landed_report report, void *ctx, struct rt_err *err)
{
	return 0;
}

int __wrap_landed_park_absent(PGconn *c, const struct settings *s, struct landed_set *set,
			      landed_report report, void *ctx, struct rt_err *err)
{
	return 0;
}

int __wrap_sync_begin(struct sync *s, PGconn *c, struct rt_err *err)
{
	return 0;
}

int __wrap_mirror_ensure(PGconn *c, const struct settings *s, struct mirror_set *set,
			 landed_report report, void *ctx, struct rt_err *err)
{
	return 0; /* there are no mirrors here */
}

/* Nobody verifies the simulated warehouse but the simulation itself. */
int __wrap_remake_serve(PGconn *c, const struct settings *s, const struct landed_set *landed,
			const struct ledger *ledger, struct cache *cache, struct loop *loop,
			int64_t limit_us, enum remake_left *ret, struct rt_err *err)
{
	*ret = REMAKE_NONE;
	return 0;
}

/* Every event of the simulated core folds: nobody waits, and nobody asks. */
int __wrap_quarantine_load(PGconn *c, const struct settings *s, const struct landed_set *landed,
			   struct parked *p, struct rt_err *err)
{
	return 0;
}

int __wrap_quarantine_is_asked(PGconn *c, const struct settings *s, bool *ret, struct rt_err *err)
{
	*ret = false;
	return 0;
}

/* The control schema is ours. */
int __wrap_migrate_check(PGconn *c, struct rt_err *err)
{
	return 0;
}

/* Definitions do not change here. */
int __wrap_rebuild_begin(struct rebuild *r, PGconn *c, struct rt_err *err)
{
	r->ask_us = LOOP_NEVER;
	return 0;
}

int __wrap_rebuild_ask(struct rebuild *r, PGconn *c, struct rt_err *err)
{
	return 0;
}

int64_t __wrap_pgc_backoff_next(struct pgc_backoff *b)
{
	return rng_range(RNG_SCHEDULE, 1000, 300000);
}

/* ---- the role, as apply_main runs it ---- */

int apply_start(enum process p, struct rt_err *err)
{
	struct applier *a = rt_calloc(1, sizeof(*a));
	a->settings = &sim_config.settings[p];
	applier[p] = a;
	a->broken_mirror = -1;
	arena_init(&a->arena, 4096);
	return set_up(a, err);
}

int apply_turn(enum process p, bool spurious, struct rt_err *err)
{
	return turn_loop(&applier[p]->loop, spurious, err);
}

void apply_end(enum process p)
{
	tear_down(applier[p]);
	free(applier[p]);
	apply_buried(p);
}

void apply_ask_stop(enum process p)
{
	applier[p]->loop.stop = 1;
}

bool apply_is_done(enum process p)
{
	return applier[p]->loop.done;
}

int64_t apply_deadline(enum process p, bool *ret_ready)
{
	return loop_deadline(&applier[p]->loop, ret_ready);
}

void apply_buried(enum process p)
{
	applier[p] = NULL;
	warehouse_orphan(p);
}
