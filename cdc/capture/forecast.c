/* forecast: growth of what the core keeps. Guarantees: bounded memory, no division by nothing, no overflow. */
#include "cdc/capture/forecast.h"

#define SECOND_US   INT64_C(1000000)
#define WINDOW_US   (600 * SECOND_US)
#define SPACING_US  (20 * SECOND_US)
#define SHORTEST_US (5 * SECOND_US)
#define ALARM_US    (4 * 3600 * SECOND_US)

static void drop_oldest(struct forecast *f)
{
	f->count--;
	memmove(f->look, f->look + 1, f->count * sizeof(f->look[0]));
}

/* Close together at first, so that there is an answer soon; then as far apart as the window allows. */
static int64_t spacing_us(const struct forecast *f, int64_t now_us)
{
	int64_t since = now_us - f->look[0].at_us;
	return RT_MIN(RT_MAX(since / (FORECAST_LOOKS / 2), SECOND_US), SPACING_US);
}

void forecast_look(struct forecast *f, int64_t now_us, uint64_t retained_bytes)
{
	f->newest_us = now_us;
	f->newest_bytes = retained_bytes;
	while (f->count > 0 && now_us - f->look[0].at_us > WINDOW_US)
		drop_oldest(f);
	if (f->count > 0 && now_us - f->look[f->count - 1].at_us < spacing_us(f, now_us))
		return;
	if (f->count == FORECAST_LOOKS)
		drop_oldest(f);
	f->look[f->count].at_us = now_us;
	f->look[f->count++].retained_bytes = retained_bytes;
}

uint64_t forecast_growth(const struct forecast *f)
{
	if (f->count == 0)
		return 0;
	int64_t us = f->newest_us - f->look[0].at_us;
	uint64_t before = f->look[0].retained_bytes;
	if (us < SHORTEST_US || f->newest_bytes <= before)
		return 0;
	return (uint64_t)((double)(f->newest_bytes - before) * 1e6 / (double)us);
}

int64_t forecast_lost_in_us(const struct forecast *f, int64_t safe_bytes)
{
	uint64_t growth = forecast_growth(f);
	if (growth == 0 || safe_bytes < 0)
		return -1;
	double us = (double)safe_bytes * 1e6 / (double)growth;
	return us < (double)(INT64_MAX / 2) ? (int64_t)us : -1;
}

bool forecast_alarms(int64_t lost_in_us, uint64_t retained_bytes, int64_t safe_bytes)
{
	return lost_in_us >= 0 && lost_in_us < ALARM_US && safe_bytes >= 0 &&
	       retained_bytes >= (retained_bytes + (uint64_t)safe_bytes) / 8;
}
