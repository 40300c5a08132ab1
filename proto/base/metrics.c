/* metrics: a mapped file of counters. Guarantees: a call never fails and never blocks once opened. */
#include "proto/base/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proto/base/failpoint.h"

const struct met_def met_defs[MET_COUNT] = {
#define METRIC(id, type, name, help) [MET_##id] = {type, name, help},
#include "proto/base/metrics.def"
#undef METRIC
};

static struct met_file unmapped;
static struct met_file *met = &unmapped;

/* The how-many-eth histogram id is; its place in the file. */
static int histogram_index(enum met_id id)
{
	int n = 0;
	RT_ASSERT(met_defs[id].type == MET_HISTOGRAM);
	for (int i = 0; i < (int)id; i++)
		n += met_defs[i].type == MET_HISTOGRAM;
	RT_ASSERT(n < MET_HISTOGRAMS_MAX);
	return n;
}

int met_open(const char *path, const char *role, struct rt_err *err)
{
	int fd = FP_FAILS(COUNTERS_OPEN) ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
	if (fd < 0)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot open %s", path);
	/* Blocks and all: a store into a hole would be a SIGBUS once the disk is full. */
	int failed = FP_FAILS(COUNTERS_SIZE) || ftruncate(fd, 0) != 0
			     ? errno
			     : posix_fallocate(fd, 0, sizeof(struct met_file));
	if (failed != 0) {
		errno = failed;
		int rc = rt_fail_errno(err, ERR_SYSTEM, "cannot size %s", path);
		close(fd);
		return rc;
	}
	FAILPOINT(COUNTERS_SIZED);
	struct met_file *f = mmap(NULL, sizeof(*f), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (FP_FAILS(COUNTERS_MAP) || f == MAP_FAILED)
		return rt_fail_errno(err, ERR_SYSTEM, "cannot map %s", path);
	f->count = MET_COUNT;
	f->pid = (uint32_t)getpid();
	f->started_us = f->updated_us = rt_now_us();
	snprintf(f->role, sizeof(f->role), "%s", role);
	snprintf(f->state, sizeof(f->state), "starting");
	f->magic = MET_MAGIC;
	met = f;
	return 0;
}

void met_leave(void)
{
	if (met != &unmapped)
		munmap(met, sizeof(*met));
	met = &unmapped;
}

void met_add(enum met_id id, uint64_t n)
{
	met->value[id] += n;
}

void met_set(enum met_id id, uint64_t v)
{
	met->value[id] = v;
}

uint64_t met_get(enum met_id id)
{
	return met->value[id];
}

static unsigned bucket_of(uint64_t us)
{
	if (us < 8)
		return (unsigned)us;
	unsigned octave = 63u - (unsigned)__builtin_clzll(us);
	unsigned n = (octave - 2) * 8 + (unsigned)(us >> (octave - 3) & 7);
	return RT_MIN(n, MET_BUCKETS - 1u);
}

int64_t met_bucket_us(unsigned n)
{
	if (n < 8)
		return n;
	unsigned octave = n / 8 + 2;
	uint64_t width = UINT64_C(1) << (octave - 3);
	return (int64_t)((UINT64_C(1) << octave) + (n % 8) * width + width / 2);
}

void met_observe(enum met_id id, int64_t us)
{
	struct met_histogram *h = &met->histogram[histogram_index(id)];
	uint64_t v = us < 0 ? 0 : (uint64_t)us;
	h->bucket[bucket_of(v)]++;
	h->sum_us += v;
	h->count++;
}

void met_state(const char *state)
{
	snprintf(met->state, sizeof(met->state), "%s", state);
}

const char *met_state_now(void)
{
	return met->state;
}

void met_note(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(met->note, sizeof(met->note), fmt, ap);
	va_end(ap);
	met->note_us = met->note[0] == '\0' ? 0 : rt_now_us();
}

const char *met_note_now(void)
{
	return met->note;
}

void met_tick(int64_t now_us)
{
	met->updated_us = now_us;
}

int met_read(const char *path, struct met_file *ret, struct rt_err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		if (access(path, F_OK) != 0)
			return 0;
		return rt_fail_errno(err, ERR_SYSTEM, "cannot open %s", path);
	}
	ssize_t n = read(fd, ret, sizeof(*ret));
	close(fd);
	if (n < (ssize_t)offsetof(struct met_file, value) || ret->magic != MET_MAGIC)
		return 0;
	const bool ours = ret->count == MET_COUNT;
	if (ours && n != (ssize_t)sizeof(*ret))
		return 0;
	ret->role[sizeof(ret->role) - 1] = '\0';
	ret->state[sizeof(ret->state) - 1] = '\0';
	ret->note[sizeof(ret->note) - 1] = '\0';
	if (ours)
		return 1;
	memset(ret->value, 0, sizeof(ret->value));
	memset(ret->histogram, 0, sizeof(ret->histogram));
	return 2;
}

const struct met_histogram *met_histogram(const struct met_file *f, enum met_id id)
{
	return &f->histogram[histogram_index(id)];
}

int64_t met_quantile(const struct met_histogram *h, double q)
{
	uint64_t total = 0, seen = 0;
	for (unsigned i = 0; i < MET_BUCKETS; i++)
		total += h->bucket[i];
	if (total == 0)
		return 0;
	for (unsigned i = 0; i < MET_BUCKETS; i++) {
		seen += h->bucket[i];
		if ((double)seen >= q * (double)total)
			return met_bucket_us(i);
	}
	return met_bucket_us(MET_BUCKETS - 1);
}

void met_histogram_diff(const struct met_histogram *now, const struct met_histogram *before,
			struct met_histogram *ret)
{
	ret->count = now->count - before->count;
	ret->sum_us = now->sum_us - before->sum_us;
	for (unsigned i = 0; i < MET_BUCKETS; i++)
		ret->bucket[i] = now->bucket[i] - before->bucket[i];
}
