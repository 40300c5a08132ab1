/*
 * status_watch: `rolag status --watch`. Guarantees: on a terminal it draws over
 * what is there, line by line, in one write, never wider or higher than the
 * terminal, and leaves it as it was, also when it is stopped for a while;
 * elsewhere it writes plain blocks without an escape.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <termios.h>
#include <unistd.h>

#include "cdc/commands/spark.h"
#include "cdc/commands/status.h"

#define EVERY_US INT64_C(1000000)
/* What stands behind a spark: "1.5 GB, at most 1.5 GB". */
#define BESIDE_SPARK 34u
#define LINES_MAX    200

struct watcher {
	const struct settings *s;
	struct status_watch look;
	struct status_facts last; /* of the look before: rates are between the two */
	struct status_view v;
	bool has_last, live, color, utf8, keys;
	struct spark lag, events, wal, spool;
	unsigned columns, rows;
	sigset_t waiting; /* the mask while it waits: signals come in then alone */
	struct termios saved;
};

static volatile sig_atomic_t told_to_end, told_to_pause;

static void on_end(int number)
{
	told_to_end = number;
}

static void on_pause(int number)
{
	told_to_pause = number;
}

/* Of a new size: that the wait ends is all there is to it. */
static void on_size(int number)
{
	(void)number;
}

/* ---- samples ---- */

static uint64_t of_capture(const struct watcher *w, enum met_id id)
{
	return w->look.now.role[STATUS_CAPTURE].f.value[id];
}

static int sample(struct watcher *w, struct rt_err *err)
{
	struct status_facts before = w->look.now;
	bool first = !w->look.looked;
	int rc = status_watch_look(&w->look, w->s, &w->v, err);
	if (rc != 0)
		return rc;
	w->last = before;
	w->has_last = !first;
	spark_add(&w->lag, w->v.lag_us < 0 ? -1 : (double)w->v.lag_us);
	spark_add(&w->events, first ? -1 : status_events_rate(&w->look.now, &w->last));
	spark_add(&w->wal, (double)of_capture(w, MET_CORE_RETAINED_BYTES));
	spark_add(&w->spool, (double)of_capture(w, MET_SPOOL_BYTES));
	return 0;
}

/* ---- the screen ---- */

static void put_duration(struct buf *out, double us)
{
	status_duration(out, (int64_t)us);
}

static void put_bytes(struct buf *out, double bytes)
{
	status_bytes(out, (uint64_t)bytes);
}

static void put_rate(struct buf *out, double n)
{
	buf_printf(out, "%.0f", n);
}

static void put_spark(const struct watcher *w, const struct spark *k, const char *label,
		      void (*put)(struct buf *out, double v), struct buf *out)
{
	const unsigned fixed = STATUS_TEXT_COLUMN + BESIDE_SPARK;
	const size_t width =
		w->columns > fixed ? RT_MIN(w->columns - fixed, (unsigned)SPARK_SAMPLES) : 0;
	const double now = k->count > 0 ? k->value[(k->count - 1) % SPARK_SAMPLES] : -1;
	buf_printf(out, "  %-10s ", label);
	spark_draw(k, width, w->utf8, out);
	buf_str(out, width > 0 ? "  " : "");
	if (now < 0)
		buf_str(out, "not known");
	else
		put(out, now);
	const double most = spark_max(k, width);
	if (width > 0 && (now >= 0 || most > 0)) {
		buf_str(out, ", at most ");
		put(out, most);
	}
	buf_u8(out, '\n');
}

/* Labels of lines that a low terminal goes without, the least first: sparks say some of it. */
static const char *const dispensable[] = {"cache",   "spool",	 "events", "flushed", "received",
					  "commits", "verified", "stage",  "core"};

/* Takes the lines of text; returns how many. */
static size_t split(const char *text, struct slice line[LINES_MAX])
{
	size_t n = 0;
	while (*text != '\0' && n < LINES_MAX) {
		size_t len = strcspn(text, "\n");
		line[n++] = slice_of(text, len);
		text += len + (text[len] == '\n');
	}
	return n;
}

/* Takes the lines of that label out; returns how many are left. */
static size_t drop(struct slice *line, size_t count, const char *label)
{
	char head[STATUS_TEXT_COLUMN + 1];
	size_t n = 0;
	snprintf(head, sizeof(head), "  %-*s", STATUS_TEXT_COLUMN - 2, label);
	for (size_t i = 0; i < count; i++)
		if (line[i].len < STATUS_TEXT_COLUMN ||
		    memcmp(line[i].p, head, STATUS_TEXT_COLUMN) != 0)
			line[n++] = line[i];
	return n;
}

/* The table below what is fixed, in so many rows. */
static void put_table(const struct watcher *w, unsigned rows, struct buf *out)
{
	struct buf table = BUF_INIT;
	struct slice line[LINES_MAX];
	status_print_table(&w->look.now, &w->v, w->has_last ? &w->last : NULL, w->color, &table);
	size_t n = split(buf_cstr(&table), line);
	for (size_t i = 0; n > rows && i < ARRAY_LEN(dispensable); i++)
		n = drop(line, n, dispensable[i]);
	for (size_t i = 0; i < RT_MIN(n, (size_t)rows); i++) {
		buf_add_slice(out, line[i]);
		buf_u8(out, '\n');
	}
	buf_release(&table);
}

/* The sentence, broken at words; each line has the colour of the verdict. */
static void put_sentence(const struct watcher *w, struct buf *out)
{
	struct buf sentence = BUF_INIT, wrapped = BUF_INIT;
	struct slice line[LINES_MAX];
	status_print_sentence(&w->v, false, &sentence);
	term_wrap(&wrapped, slice_of(sentence.p, sentence.len - 1), w->columns, 0);
	size_t n = split(buf_cstr(&wrapped), line);
	for (size_t i = 0; i < n; i++) {
		buf_str(out, term_ink(w->color, status_ink(&w->v)));
		buf_add_slice(out, line[i]);
		buf_printf(out, "%s\n", term_ink_end(w->color));
	}
	buf_release(&sentence);
	buf_release(&wrapped);
}

/* All lines of a screen of w->columns by w->rows; more than fit only of the sentence. */
static void compose(const struct watcher *w, struct buf *out)
{
	struct slice ignored[LINES_MAX];
	put_sentence(w, out);
	buf_u8(out, '\n');
	put_spark(w, &w->lag, "lag", put_duration, out);
	put_spark(w, &w->events, "events/s", put_rate, out);
	put_spark(w, &w->wal, "core WAL", put_bytes, out);
	put_spark(w, &w->spool, "spool", put_bytes, out);
	unsigned used = (unsigned)split(buf_cstr(out), ignored) + (w->keys ? 1 : 0);
	if (w->rows > used)
		put_table(w, w->rows - used, out);
	buf_str(out, w->keys ? "q ends.\n" : "");
}

/* From home on, each line over what was there: nothing is cleared that is then drawn. */
static void draw(struct watcher *w)
{
	struct buf text = BUF_INIT, out = BUF_INIT;
	struct slice line[LINES_MAX];
	term_size(STDOUT_FILENO, &w->columns, &w->rows);
	compose(w, &text);
	size_t n = RT_MIN(split(buf_cstr(&text), line), (size_t)w->rows);
	buf_str(&out, "\033[H");
	for (size_t i = 0; i < n; i++) {
		buf_str(&out, i > 0 ? "\r\n" : "");
		term_fit(&out, line[i], w->columns, w->utf8);
		buf_str(&out, term_ink_end(w->color));
		/* At the edge the cursor stands on the last column, which this would clear. */
		buf_str(&out, term_columns(line[i]) < w->columns ? "\033[K" : "");
	}
	buf_str(&out, n < w->rows ? "\r\n\033[J" : "");
	fwrite(out.p, 1, out.len, stdout);
	fflush(stdout);
	buf_release(&text);
	buf_release(&out);
}

/* Where nothing can be drawn over: the block of rolag status. */
static void write_block(const struct watcher *w)
{
	struct buf out = BUF_INIT;
	status_print_sentence(&w->v, w->color, &out);
	buf_u8(&out, '\n');
	status_print_table(&w->look.now, &w->v, w->has_last ? &w->last : NULL, w->color, &out);
	buf_u8(&out, '\n');
	fwrite(out.p, 1, out.len, stdout);
	fflush(stdout);
	buf_release(&out);
}

/* ---- the terminal ---- */

static void enter(struct watcher *w)
{
	if (w->keys) {
		struct termios raw = w->saved;
		raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	}
	if (w->live) /* the other screen, no cursor */
		fputs("\033[?1049h\033[?25l", stdout);
}

static void leave(struct watcher *w)
{
	if (w->live)
		fputs("\033[?25h\033[?1049l", stdout);
	fflush(stdout);
	if (w->keys)
		tcsetattr(STDIN_FILENO, TCSANOW, &w->saved);
}

/* ^Z: whoever has the terminal meanwhile finds it as it was. */
static void pause_here(struct watcher *w)
{
	told_to_pause = 0;
	leave(w);
	raise(SIGSTOP);
	enter(w);
}

static void take_signals(struct watcher *w)
{
	static const struct {
		int number;
		void (*handler)(int);
	} taken[] = {{SIGINT, on_end},	{SIGTERM, on_end},   {SIGHUP, on_end},
		     {SIGPIPE, on_end}, {SIGTSTP, on_pause}, {SIGWINCH, on_size}};
	sigset_t blocked;
	sigemptyset(&blocked);
	for (size_t i = 0; i < ARRAY_LEN(taken); i++) {
		struct sigaction sa = {.sa_handler = taken[i].handler};
		sigaction(taken[i].number, &sa, NULL);
		sigaddset(&blocked, taken[i].number);
	}
	sigprocmask(SIG_BLOCK, &blocked, &w->waiting);
}

/* Until then, a key or a signal; true: q was pressed, or nobody will ever press a key. */
static bool wait_until(const struct watcher *w, int64_t mono_us)
{
	struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
	const int64_t left = RT_MAX(mono_us - rt_mono_us(), 0);
	const struct timespec t = {left / 1000000, left % 1000000 * 1000};
	if (ppoll(&p, w->keys ? 1 : 0, &t, &w->waiting) <= 0)
		return false;
	char c = '\0';
	ssize_t n = read(STDIN_FILENO, &c, 1);
	return n <= 0 ? n == 0 || errno != EINTR : c == 'q' || c == 'Q';
}

static int turns(struct watcher *w, bool *ret_healthy, struct rt_err *err)
{
	int64_t next_us = rt_mono_us();
	while (told_to_end == 0) {
		if (told_to_pause != 0)
			pause_here(w);
		bool due = rt_mono_us() >= next_us;
		int rc = due ? sample(w, err) : 0;
		if (rc != 0)
			return rc;
		*ret_healthy = w->v.healthy;
		if (w->live)
			draw(w);
		else if (due)
			write_block(w);
		if (ferror(stdout))
			break; /* nobody reads it any more */
		next_us += due ? EVERY_US : 0;
		if (wait_until(w, next_us))
			break;
	}
	return 0;
}

int status_watch_show(const struct settings *s, enum term_color color, bool *ret_healthy,
		      struct rt_err *err)
{
	static struct watcher w; /* large: not on the stack */
	w = (struct watcher){.s = s,
			     .live = term_is_live(STDOUT_FILENO),
			     .color = term_has_color(STDOUT_FILENO, color),
			     .utf8 = term_has_utf8()};
	w.keys = w.live && isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &w.saved) == 0;
	take_signals(&w);
	enter(&w);
	int rc = turns(&w, ret_healthy, err);
	leave(&w);
	return rc;
}
