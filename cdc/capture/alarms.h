/*
 * alarms: what an operator must hear of the core although the stream may go
 * well: the slot's WAL and when it is lost, publications, replica identities,
 * mirrored tables that are not published as they must be.
 * Says each thing in the log when it begins (again every ten minutes) and when
 * it ends, keeps the metrics and the note that `rolag status` shows.
 */
#ifndef CDC_CAPTURE_ALARMS_H
#define CDC_CAPTURE_ALARMS_H

#include "cdc/capture/custody.h"
#include "cdc/capture/progress.h"
#include "proto/base/log.h"

struct alarms {
	const struct published_want *want; /* what a look counts */
	struct look seen; /* as at the last look that was judged; all 0: none was */
	bool looked; /* or an earlier process did, and seen has what it remembered of publications */
	bool all_full;	 /* as last said in the log */
	bool at_end;	 /* wal_status unreserved, as last said */
	int64_t told_us; /* of the slot's loss foreseen, when last; monotonic, 0: never */
	char note[500];	 /* "": nothing to say */
};

/*
 * Judges a new look. publications: their names, in the order of look's.
 * True: a publication was made again on a server that passes over what was
 * written without it, so that the stream must not go on (from 18 on).
 */
bool alarms_catalog(struct alarms *a, const struct look *l, const char *const *publication,
		    int server_version) RT_MUSTCHECK;
/* Judges the WAL that the core keeps. full: the spool takes no more. */
void alarms_wal(struct alarms *a, const struct custody *c, const struct prog *p, bool full,
		int64_t now_us);
/* Shows the note again, after another was shown. */
void alarms_note(const struct alarms *a);

#endif
