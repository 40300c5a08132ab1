/*
 * target: where files go: a folder for each run below s->reports.target.
 * A run's files are made in a folder of another name, beside, and become
 * visible by one rename, whole and on disk. Names that reach a path are run
 * ids and names of definitions, which hold no slash and no dot.
 *
 * Another kind of target (a bucket) has these functions too, and is chosen here.
 */
#ifndef APPLY_REPORTS_TARGET_H
#define APPLY_REPORTS_TARGET_H

#include "proto/base/rt.h"

#define TARGET_PATH_MAX 4096

/* An empty folder for the run's files, and one in it for each norm that is asked for below; its path in out. */
int target_begin(const char *target, const char *run_id, char out[TARGET_PATH_MAX],
		 struct rt_err *err) RT_MUSTCHECK;
int target_add_folder(const char *folder, const char *norm, struct rt_err *err) RT_MUSTCHECK;
/* Syncs the folder and its folders (each of which target_add_folder made). */
int target_sync(const char *folder, struct rt_err *err) RT_MUSTCHECK;
/*
 * The run's folder becomes visible under its id; in the place of one that is
 * there (of an attempt whose end nobody saw). Again is harmless.
 */
int target_publish(const char *target, const char *run_id, struct rt_err *err) RT_MUSTCHECK;
/* Takes away what was made for the run and not published; with visible, also what was. */
int target_discard(const char *target, const char *run_id, bool visible,
		   struct rt_err *err) RT_MUSTCHECK;
/* The path of a published file. */
void target_path(const char *target, const char *run_id, const char *path,
		 char out[TARGET_PATH_MAX]);
/* Calls one(ctx, run id, visible) for every folder of a run that is there. */
int target_walk(const char *target,
		int (*one)(void *ctx, const char *run_id, bool visible, struct rt_err *err),
		void *ctx, struct rt_err *err) RT_MUSTCHECK;

#endif
