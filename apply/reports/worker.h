/*
 * worker: one run from its fence to its files, in a process of its own, so
 * that the companion goes on meanwhile, and nothing of a run is left in its
 * memory. It may die at any moment: a new one goes on from the run's state.
 */
#ifndef APPLY_REPORTS_WORKER_H
#define APPLY_REPORTS_WORKER_H

#include "apply/reports/runs.h"

struct loop;

struct worker {
	pid_t pid; /* 0: none */
	int fd;	   /* readable when it has ended; -1: none */
	char run[RUNS_ID_SIZE];
};

/* Starts the worker of a run. ERR_SYSTEM when there cannot be one. */
int worker_start(struct worker *w, const struct settings *s, const char *run_id, int64_t epoch,
		 struct loop *loop, struct rt_err *err) RT_MUSTCHECK;
/* w->fd is readable: takes its end. 0, or the error that the run ended with. */
int worker_finish(struct worker *w, struct rt_err *err) RT_MUSTCHECK;
/* Ends it, if it runs; waits for that. */
void worker_stop(struct worker *w);

/* What it does; for its process, or a test. */
int worker_run(const struct settings *s, const char *run_id, int64_t epoch,
	       struct rt_err *err) RT_MUSTCHECK;

#endif
