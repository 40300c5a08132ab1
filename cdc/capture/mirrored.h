/*
 * mirrored: what the core's catalog says of a mirrored relation's columns,
 * asked when its RELATION comes. A session of its own (the stream's speaks no
 * SQL once it runs), made when it is needed first and kept while the stream
 * lives; a question blocks the turn for about a millisecond.
 */
#ifndef CDC_CAPTURE_MIRRORED_H
#define CDC_CAPTURE_MIRRORED_H

#include <libpq-fe.h>

#include "cdc/capture/capture.h"
#include "proto/base/arena.h"
#include "proto/change.h"
#include "proto/pg/published.h"
#include "proto/settings.h"

struct mirrored {
	const struct settings *settings;
	PGconn *conn; /* NULL: not now */
};

/*
 * Fills land and files of s, in the arena, where the settings mirror that
 * relation; else leaves it alone. ERR_RETRY when the core does not answer.
 */
int mirrored_complete(struct mirrored *m, struct arena *a, struct schema *s,
		      struct rt_err *err) RT_MUSTCHECK;
/* The stream ended: the session does, too. */
void mirrored_close(struct mirrored *m);

/* The publications that the settings need: names in ret (of two at least), in the arena. Returns how many. */
int mirrored_publications(const struct settings *s, struct arena *a, const char **ret);
/*
 * The tables that must be published, and how, in the arena: what the settings
 * mirror, and `count` event tables, whose strings are borrowed. Returns how many.
 */
int mirrored_wants(const struct settings *s, const struct capture_source *source, int count,
		   struct arena *a, const struct published_want **ret);

#endif
