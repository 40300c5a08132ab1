/*
 * metrics: the numbers of a running role, in a file that it maps and anyone
 * may read at any time, so that `rolag status` works although databases, or
 * the role itself, are down. One process writes a file; readers see each
 * 64-bit value whole (aligned stores), not the set of them as one instant.
 *
 * Counters only grow while the process lives; gauges are set; histograms
 * count durations in µs in log-linear buckets (8 per octave: ±6 %).
 */
#ifndef PROTO_BASE_METRICS_H
#define PROTO_BASE_METRICS_H

#include "proto/base/rt.h"

enum met_type { MET_COUNTER, MET_GAUGE, MET_HISTOGRAM };

/* Every metric of every role, once: see metrics.def. */
enum met_id {
#define METRIC(id, type, name, help) MET_##id,
#include "proto/base/metrics.def"
#undef METRIC
	MET_COUNT
};

struct met_def {
	enum met_type type;
	const char *name; /* Prometheus name without the rolag_ prefix, unit as suffix */
	const char *help;
};

extern const struct met_def met_defs[MET_COUNT];

#define MET_BUCKETS 288 /* up to 2^36 µs, 19 hours */

struct met_histogram {
	uint64_t count;
	uint64_t sum_us;
	uint64_t bucket[MET_BUCKETS];
};

#define MET_HISTOGRAMS_MAX 4
#define MET_MAGIC                                                                                  \
	UINT64_C(0x31304d474c4f52) /* changes with the layout of what stands before the values */

struct met_file {
	uint64_t magic;
	uint32_t count; /* MET_COUNT of the writer */
	uint32_t pid;
	int64_t started_us; /* µs since 1970 */
	int64_t updated_us; /* of the last met_tick: is the process alive and turning? */
	char role[16];
	char state[24];	 /* idle, live, catching_up, spilling, loading, … */
	char note[512];	 /* last error or what it waits for; no row values */
	int64_t note_us; /* when; 0: never */
	uint64_t value[MET_COUNT];
	struct met_histogram histogram[MET_HISTOGRAMS_MAX];
};

/* Maps path (created, started afresh, mode 0640) for this process. Before it, numbers go to memory only. */
int met_open(const char *path, const char *role, struct rt_err *err) RT_MUSTCHECK;
/* For a child of the process that opened it: its numbers go to memory only. */
void met_leave(void);
void met_add(enum met_id id, uint64_t n);
void met_set(enum met_id id, uint64_t v);
uint64_t met_get(enum met_id id);
void met_observe(enum met_id id, int64_t us); /* histograms; negative counts as 0 */
void met_state(const char *state);
const char *met_state_now(void);
/* Notes an error or a wait for `rolag status`; "" clears it. */
void met_note(const char *fmt, ...) RT_PRINTF(1, 2);
const char *met_note_now(void);
/* Once a turn: says that the process lives. */
void met_tick(int64_t now_us);

/*
 * Copies the file into *ret: 1; 0 when there is none, or it is not whole; 2: a program with other
 * metrics wrote it, and what stands before the values is read alone; negative: cannot read.
 */
int met_read(const char *path, struct met_file *ret, struct rt_err *err) RT_MUSTCHECK;
/* The histogram of id in a file. */
const struct met_histogram *met_histogram(const struct met_file *f, enum met_id id);
/* The middle of bucket n (< MET_BUCKETS), µs. */
int64_t met_bucket_us(unsigned n);
/* The q-quantile (0..1) in µs by bucket middle; 0 when nothing was counted. */
int64_t met_quantile(const struct met_histogram *h, double q);
/* now − before, bucket by bucket: what was counted in between. */
void met_histogram_diff(const struct met_histogram *now, const struct met_histogram *before,
			struct met_histogram *ret);

#endif
