/* spark: the recent values of a number, and a line of bars of them. Pure. */
#ifndef CDC_COMMANDS_SPARK_H
#define CDC_COMMANDS_SPARK_H

#include "proto/base/buf.h"

/* More than any terminal is wide. */
#define SPARK_SAMPLES 512

/* Zeroed: empty. */
struct spark {
	double value[SPARK_SAMPLES]; /* a ring */
	size_t count;		     /* ever added */
};

/* Less than 0: not known at that time. */
void spark_add(struct spark *s, double value);
/* The greatest of the last `width` values; 0 where there is none. */
double spark_max(const struct spark *s, size_t width);
/*
 * Appends width columns: a bar for each of the last values, the newest at the
 * right, blanks before the first and where none is known. Bars are measured
 * from 0 to spark_max.
 */
void spark_draw(const struct spark *s, size_t width, bool utf8, struct buf *out);

#endif
