/* spark: bars of the recent values of a number. */
#include "cdc/commands/spark.h"

#define LEVELS 8

void spark_add(struct spark *s, double value)
{
	s->value[s->count++ % SPARK_SAMPLES] = value;
}

/* The value so many before the next one; -1 where there is none. */
static double back(const struct spark *s, size_t n)
{
	if (n == 0 || n > RT_MIN(s->count, (size_t)SPARK_SAMPLES))
		return -1;
	return s->value[(s->count - n) % SPARK_SAMPLES];
}

double spark_max(const struct spark *s, size_t width)
{
	double most = 0;
	for (size_t n = 1; n <= width; n++)
		most = RT_MAX(most, back(s, n));
	return most;
}

void spark_draw(const struct spark *s, size_t width, bool utf8, struct buf *out)
{
	static const char *const block[LEVELS] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
	static const char ascii[LEVELS + 1] = "_.-=+*%#";
	const double most = spark_max(s, width);
	for (size_t n = width; n > 0; n--) {
		double v = back(s, n);
		size_t level = v > 0 ? (size_t)(v / most * (LEVELS - 1) + 0.5) : 0;
		if (v < 0)
			buf_u8(out, ' ');
		else if (utf8)
			buf_str(out, block[level]);
		else
			buf_u8(out, (uint8_t)ascii[level]);
	}
}
