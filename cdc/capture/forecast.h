/*
 * forecast: when the core will throw the slot away, if what it keeps for it
 * grows on as it did. Pure: numbers and times come in by parameter.
 *
 * Growth is measured between the oldest look that counts (ten minutes back at
 * most) and the newest: what the slot costs goes up and down with its
 * restart_lsn, and only the way that it takes over minutes means anything.
 */
#ifndef CDC_CAPTURE_FORECAST_H
#define CDC_CAPTURE_FORECAST_H

#include "proto/base/rt.h"

#define FORECAST_LOOKS 64

/* Zero it before first use, and when the slot is another one. */
struct forecast {
	struct {
		int64_t at_us; /* monotonic */
		uint64_t retained_bytes;
	} look[FORECAST_LOOKS]; /* oldest first, about evenly spaced */
	unsigned count;
	int64_t newest_us;
	uint64_t newest_bytes;
};

/* The core keeps so much for the slot (current − restart_lsn). */
void forecast_look(struct forecast *f, int64_t now_us, uint64_t retained_bytes);
/* Bytes per second; 0: it does not grow, or was not looked at for five seconds yet. */
uint64_t forecast_growth(const struct forecast *f);
/* µs until safe_bytes more are written (−1: no limit); −1: not to be foreseen. */
int64_t forecast_lost_in_us(const struct forecast *f, int64_t safe_bytes);
/* Is that worth waking somebody: within four hours, and an eighth of the limit used up? */
bool forecast_alarms(int64_t lost_in_us, uint64_t retained_bytes, int64_t safe_bytes);

#endif
