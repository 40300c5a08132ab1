/*
 * status_prometheus: all roles' numbers as Prometheus reads them. Guarantees:
 * every metric of metrics.def is there, once.
 */
#include <inttypes.h>

#include "cdc/commands/status.h"

/* Upper bounds of histogram buckets, µs: finer where latencies are. */
static const int64_t bounds_us[] = {1000,     2000,	5000,	  10000,     20000,	50000,
				    100000,   200000,	500000,	  1000000,   2000000,	5000000,
				    10000000, 30000000, 60000000, 300000000, 900000000, 3600000000};

uint64_t status_value(const struct status_facts *f, enum met_id id)
{
	/* Those that do not keep it have 0. */
	return f->role[STATUS_CAPTURE].f.value[id] + f->role[STATUS_APPLY].f.value[id] +
	       f->role[STATUS_REPORTS].f.value[id];
}

static void head(struct buf *out, const char *name, const char *type, const char *help)
{
	buf_printf(out, "# HELP rolag_%s %s\n# TYPE rolag_%s %s\n", name, help, name, type);
}

static void print_judgement(const struct status_view *v, struct buf *out)
{
	head(out, "healthy", "gauge", "1 while rolag status says that all is well");
	buf_printf(out, "rolag_healthy %d\n", v->healthy);
	head(out, "state", "gauge", "1, with the state that rolag status gives");
	buf_printf(out, "rolag_state{state=\"%s\"} 1\n", status_state_name(v->state));
	if (v->lag_us >= 0) {
		head(out, "lag_seconds", "gauge", "age of the newest commit or heartbeat applied");
		buf_printf(out, "rolag_lag_seconds %.6f\n", (double)v->lag_us / 1e6);
	}
	head(out, "clock_difference_seconds", "gauge",
	     "how far the core's clock is ahead of this machine's (negative: behind), where that "
	     "is "
	     "too much to tell the lag; else 0");
	buf_printf(out, "rolag_clock_difference_seconds %.6f\n", (double)v->clock_us / 1e6);
	head(out, "lag_bytes", "gauge", "WAL received and not applied");
	buf_printf(out, "rolag_lag_bytes %" PRIu64 "\n", v->lag_bytes);
	head(out, "build_info", "gauge", "1, with the version of the program that looked");
	buf_printf(out, "rolag_build_info{version=\"%s\"} 1\n", ROLAG_VERSION);
}

static void print_roles(const struct status_facts *f, struct buf *out)
{
	head(out, "up", "gauge", "1 while the role runs and turns");
	for (int i = 0; i < STATUS_FILES; i++)
		if (f->role[i].life != LIFE_NEVER)
			buf_printf(out, "rolag_up{role=\"%s\"} %d\n", status_role_name[i],
				   f->role[i].life == LIFE_RUNNING);
	head(out, "start_time_seconds", "gauge", "when the role was started, since 1970");
	for (int i = 0; i < STATUS_FILES; i++)
		if (f->role[i].life != LIFE_NEVER)
			buf_printf(out, "rolag_start_time_seconds{role=\"%s\"} %.3f\n",
				   status_role_name[i], (double)f->role[i].f.started_us / 1e6);
}

static void print_histogram(const struct status_facts *f, enum met_id id, struct buf *out)
{
	const struct met_histogram *part[] = {met_histogram(&f->role[STATUS_CAPTURE].f, id),
					      met_histogram(&f->role[STATUS_APPLY].f, id),
					      met_histogram(&f->role[STATUS_REPORTS].f, id)};
	const char *name = met_defs[id].name;
	uint64_t below = 0, count = 0, sum_us = 0;
	unsigned n = 0;
	for (size_t i = 0; i < ARRAY_LEN(bounds_us); i++) {
		for (; n < MET_BUCKETS && met_bucket_us(n) <= bounds_us[i]; n++)
			for (size_t k = 0; k < ARRAY_LEN(part); k++)
				below += part[k]->bucket[n];
		buf_printf(out, "rolag_%s_bucket{le=\"%g\"} %" PRIu64 "\n", name,
			   (double)bounds_us[i] / 1e6, below);
	}
	for (size_t k = 0; k < ARRAY_LEN(part); k++) {
		count += part[k]->count;
		sum_us += part[k]->sum_us;
	}
	/* A role counts while we read: what is in a bucket is counted, too. */
	buf_printf(out, "rolag_%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, RT_MAX(count, below));
	buf_printf(out, "rolag_%s_sum %.6f\nrolag_%s_count %" PRIu64 "\n", name,
		   (double)sum_us / 1e6, name, RT_MAX(count, below));
}

void status_print_prometheus(const struct status_facts *f, const struct status_view *v,
			     struct buf *out)
{
	static const char *const type[] = {
		[MET_COUNTER] = "counter", [MET_GAUGE] = "gauge", [MET_HISTOGRAM] = "histogram"};
	print_judgement(v, out);
	print_roles(f, out);
	for (int i = 0; i < MET_COUNT; i++) {
		const struct met_def *d = &met_defs[i];
		head(out, d->name, type[d->type], d->help);
		if (d->type == MET_HISTOGRAM)
			print_histogram(f, (enum met_id)i, out);
		else
			buf_printf(out, "rolag_%s %" PRIu64 "\n", d->name,
				   status_value(f, (enum met_id)i));
	}
}
