/*
 * process: randomness, clock, memory and death. Guarantees: the same seed
 * gives the same numbers; what a killed process had allocated or open is
 * given back, whichever call it died in.
 */
#include "tests/sim/sim.h"

#include <stdarg.h>

#include "proto/base/log.h"
#include "proto/base/metrics.h"

/* ---- random numbers (xorshift128+ would do; splitmix64 is shorter) ---- */

static uint64_t rng_state[RNG_COUNT];

void rng_seed(uint64_t seed)
{
	for (int i = 0; i < RNG_COUNT; i++)
		rng_state[i] =
			seed * UINT64_C(0x9E3779B97F4A7C15) + (uint64_t)i * 0xA0761D6478BD642F;
}

uint64_t rng_next(enum rng r)
{
	uint64_t z = (rng_state[r] += UINT64_C(0x9E3779B97F4A7C15));
	z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
	return z ^ (z >> 31);
}

uint32_t rng_below(enum rng r, uint32_t n)
{
	return (uint32_t)((rng_next(r) >> 32) * n >> 32);
}

uint32_t rng_range(enum rng r, uint32_t lo, uint32_t hi)
{
	return lo + rng_below(r, hi - lo + 1);
}

bool rng_one_in(enum rng r, uint32_t n)
{
	return rng_below(r, n) == 0;
}

/* ---- failing ---- */

jmp_buf sim_out;
char sim_failure[2048];
bool sim_verbose;

void sim_fail(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(sim_failure, sizeof(sim_failure), fmt, ap);
	va_end(ap);
	longjmp(sim_out, 1);
}

void sim_say(const char *fmt, ...)
{
	va_list ap;
	if (!sim_verbose)
		return;
	printf("%10lld ", (long long)sim_clock.mono_us);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

void __wrap_rt_bug(const char *file, int line, const char *what) RT_NORETURN;
void __wrap_rt_bug(const char *file, int line, const char *what)
{
	sim_fail("bug at %s:%d: %s", file, line, what);
}

void __wrap_log_line(enum log_level level, const char *message, const char *fields, ...)
	RT_PRINTF(3, 4);
void __wrap_log_line(enum log_level level, const char *message, const char *fields, ...)
{
	char text[1024];
	va_list ap;
	if (!sim_verbose)
		return;
	va_start(ap, fields);
	vsnprintf(text, sizeof(text), fields, ap);
	va_end(ap);
	sim_say("  [%d] %s: %s", (int)running, message, text);
}

/* ---- the clock ---- */

struct sim_clock sim_clock;

int64_t __wrap_rt_now_us(void);
int64_t __wrap_rt_now_us(void)
{
	return sim_clock.mono_us + sim_clock.wall_us;
}

int64_t __wrap_rt_mono_us(void);
int64_t __wrap_rt_mono_us(void)
{
	return sim_clock.mono_us;
}

void clock_forward(int64_t us)
{
	sim_clock.mono_us += us;
}

ssize_t __wrap_getrandom(void *p, size_t n, unsigned flags);
ssize_t __wrap_getrandom(void *p, size_t n, unsigned flags)
{
	for (size_t i = 0; i < n; i++)
		((uint8_t *)p)[i] = (uint8_t)rng_next(RNG_DISK);
	return (ssize_t)n;
}

/* ---- memory ---- */

struct head {
	struct head *next, *prev;
	size_t bytes;
	size_t magic;
};
#define HEAD_MAGIC 0x51D3B07Eu
#define HEAP_WORLD PROCESS_COUNT
#define HEAP_ROOT  (PROCESS_COUNT + 1) /* outlives schedules */

static struct head heap[PROCESS_COUNT + 2];
static bool in_schedule;

void *__real_malloc(size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void __wrap_free(void *p);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);
int __wrap_vasprintf(char **ret, const char *fmt, va_list ap) RT_PRINTF(2, 0);
int __wrap___vasprintf_chk(char **ret, int flag, const char *fmt, va_list ap) RT_PRINTF(3, 0);

static void heap_link(struct head *h, struct head *list)
{
	if (list->next == NULL)
		list->next = list->prev = list;
	h->next = list->next;
	h->prev = list;
	h->next->prev = list->next = h;
}

static void *heap_take(size_t n, int list)
{
	struct head *h = __real_malloc(sizeof(*h) + n);
	if (h == NULL)
		abort();
	h->bytes = n;
	h->magic = HEAD_MAGIC;
	heap_link(h, &heap[list]);
	return h + 1;
}

static int heap_now(void)
{
	return running != PROCESS_NONE ? (int)running : in_schedule ? HEAP_WORLD : HEAP_ROOT;
}

void *__wrap_malloc(size_t n)
{
	return heap_take(n, heap_now());
}

void *__wrap_calloc(size_t n, size_t size)
{
	return memset(heap_take(n * size, heap_now()), 0, n * size);
}

static struct head *head_of(void *p)
{
	struct head *h = (struct head *)p - 1;
	if (h->magic != HEAD_MAGIC)
		abort();
	return h;
}

void __wrap_free(void *p)
{
	if (p == NULL)
		return;
	struct head *h = head_of(p);
	h->prev->next = h->next;
	h->next->prev = h->prev;
	h->magic = 0;
	__real_free(h);
}

void *__wrap_realloc(void *p, size_t n)
{
	void *q = heap_take(n, heap_now());
	if (p != NULL) {
		memcpy(q, p, RT_MIN(n, head_of(p)->bytes));
		__wrap_free(p);
	}
	return q;
}

char *__wrap_strdup(const char *s)
{
	size_t n = strlen(s) + 1;
	return memcpy(__wrap_malloc(n), s, n);
}

char *__wrap_strndup(const char *s, size_t n)
{
	n = strnlen(s, n);
	char *p = memcpy(__wrap_malloc(n + 1), s, n);
	p[n] = '\0';
	return p;
}

int __wrap_vasprintf(char **ret, const char *fmt, va_list ap)
{
	va_list again;
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, again);
	va_end(again);
	*ret = __wrap_malloc((size_t)n + 1);
	return vsnprintf(*ret, (size_t)n + 1, fmt, ap);
}

int __wrap___vasprintf_chk(char **ret, int flag, const char *fmt, va_list ap)
{
	return __wrap_vasprintf(ret, fmt, ap);
}

static void heap_free(struct head *list)
{
	while (list->next != NULL && list->next != list)
		__wrap_free(list->next + 1);
}

void heap_adopt(void *p)
{
	struct head *h = head_of(p);
	h->prev->next = h->next;
	h->next->prev = h->prev;
	heap_link(h, &heap[heap_now()]);
}

void *world_alloc(size_t bytes)
{
	return memset(heap_take(bytes, HEAP_WORLD), 0, bytes);
}

void *world_grow(void *p, size_t n, size_t *cap, size_t size)
{
	if (n <= *cap)
		return p;
	size_t was = *cap;
	*cap = RT_MAX(n, was == 0 ? 8 : 2 * was);
	void *q = world_alloc(*cap * size);
	if (p != NULL) {
		memcpy(q, p, was * size);
		__wrap_free(p);
	}
	return q;
}

size_t process_bytes(enum process p)
{
	size_t n = 0;
	for (struct head *h = heap[p].next; h != NULL && h != &heap[p]; h = h->next)
		n += h->bytes;
	return n;
}

void process_bury(enum process p)
{
	disk_close_all(p);
	heap_free(&heap[p]);
}

void heap_end(void)
{
	for (int i = 0; i <= HEAP_WORLD; i++)
		heap_free(&heap[i]);
	running = PROCESS_NONE;
	process_turn = 1;
	in_schedule = true; /* what comes from now on goes with the next one */
}

/* ---- running and dying ---- */

enum process running;
uint32_t process_turn;
static jmp_buf dying;
static uint32_t calls_left;
static bool machine_dies;

void kill_at_call(uint32_t n, bool machine)
{
	calls_left = n;
	machine_dies = machine;
}

void call_point(void)
{
	if (running == PROCESS_NONE || calls_left == 0 || --calls_left > 0)
		return;
	sim_say("  [%d] killed in mid-turn%s", (int)running,
		machine_dies ? ", with the machine" : "");
	longjmp(dying, 1);
}

enum run_end run_as(enum process p, void (*f)(void *ctx), void *ctx)
{
	volatile enum run_end end = RUN_DONE;
	running = p;
	process_turn++;
	if (setjmp(dying) == 0)
		f(ctx);
	else
		end = machine_dies ? RUN_MACHINE_DIED : RUN_KILLED;
	running = PROCESS_NONE;
	calls_left = 0;
	return end;
}

/* ---- what main does of the process, not of the role ---- */

int __wrap_loop_init(struct loop *l, struct rt_err *err);
int __wrap_loop_init(struct loop *l, struct rt_err *err)
{
	*l = (struct loop){0};
	return 0;
}

int __wrap_met_open(const char *path, const char *role, struct rt_err *err);
int __wrap_met_open(const char *path, const char *role, struct rt_err *err)
{
	return 0;
}

/* The core says nothing twice, and apply begins behind what it has: a fold that drops a duplicate hides a fault. */
void __real_met_add(enum met_id id, uint64_t n);
void __wrap_met_add(enum met_id id, uint64_t n);
void __wrap_met_add(enum met_id id, uint64_t n)
{
	SIM_ASSERT(id != MET_APPLY_DUPLICATES || n == 0, "%llu events came twice",
		   (unsigned long long)n);
	__real_met_add(id, n);
}

static bool is_ready(const struct loop_want *w)
{
	if (w->fd < 0)
		return false;
	if ((w->events & 4) != 0) /* POLLOUT: sockets always take more */
		return true;
	return (w->events & 1) != 0 && (disk_readable(w->fd) || (w->fd == 1 && link_readable()) ||
					warehouse_readable(w->fd));
}

int turn_loop(struct loop *l, bool spurious, struct rt_err *err)
{
	struct loop_want want[LOOP_SOURCES_MAX];
	int64_t now = sim_clock.mono_us;
	bool any = spurious, ready[LOOP_SOURCES_MAX];
	for (int i = 0; i < l->count; i++) {
		want[i] = (struct loop_want){.fd = -1, .at_us = LOOP_NEVER};
		l->source[i].prepare(l->source[i].ctx, now, &want[i]);
		ready[i] = is_ready(&want[i]); /* before any of them closes another's */
		any |= ready[i] || want[i].at_us <= now;
	}
	for (int i = 0; any && i < l->count; i++) {
		if (!ready[i] && want[i].at_us > now)
			continue;
		int rc = l->source[i].dispatch(l->source[i].ctx, ready[i] ? want[i].events : 0, now,
					       err);
		if (rc < 0)
			return rc;
	}
	return any ? l->before_sleep(l->ctx, now, err) : 0;
}

int64_t loop_deadline(struct loop *l, bool *ret_ready)
{
	int64_t at = LOOP_NEVER;
	*ret_ready = false;
	for (int i = 0; i < l->count; i++) {
		struct loop_want want = {.fd = -1, .at_us = LOOP_NEVER};
		l->source[i].prepare(l->source[i].ctx, sim_clock.mono_us, &want);
		*ret_ready |= is_ready(&want);
		at = RT_MIN(at, want.at_us);
	}
	return at;
}
