/* bar: how far a long command is. */
#include "cdc/commands/bar.h"

#include <inttypes.h>
#include <unistd.h>

#include "cdc/commands/status.h"
#include "cdc/commands/term.h"

/* A bar is a fifth of the line, so that it stays where it is while numbers grow; within these bounds. */
#define CELLS_MIN 8u
#define CELLS_MAX 30u
/* A bar without a total: a block of so many cells goes to and fro. */
#define BLOCK_CELLS 3u

double bar_rate(struct bar_meter *m, int64_t now_us, uint64_t done)
{
	const struct bar_mark *newest = &m->mark[(m->count + BAR_MARKS - 1) % BAR_MARKS];
	if (m->count > 0 && done < newest->done)
		m->count = 0;
	if (m->count == 0 || now_us - newest->us >= BAR_MARK_US)
		m->mark[m->count++ % BAR_MARKS] = (struct bar_mark){now_us, done};
	const struct bar_mark *oldest = &m->mark[m->count < BAR_MARKS ? 0 : m->count % BAR_MARKS];
	if (now_us - oldest->us < BAR_MARK_US)
		return 0;
	return (double)(done - oldest->done) * 1e6 / (double)(now_us - oldest->us);
}

/* ---- the line ---- */

static void put_amount(struct buf *out, const char *unit, double n)
{
	if (unit == NULL)
		status_bytes(out, (uint64_t)n);
	else
		buf_printf(out, "%.0f", n);
}

/* 0 to 100; an estimate that is passed is not the end. */
static unsigned percent(const struct bar_look *v)
{
	if (v->done > v->total)
		return 99;
	return (unsigned)((double)v->done * 100 / (double)v->total);
}

/* "45 %  1200/2700 rows  288/s  5 s left", or "1200 rows  288/s  12 s" without a total. */
static void put_numbers(const struct bar_look *v, struct buf *out)
{
	const char *unit = v->unit != NULL ? v->unit : "";
	if (v->total > 0) {
		buf_printf(out, "%3u %%  ", percent(v));
		put_amount(out, v->unit, (double)v->done);
		buf_u8(out, '/');
		put_amount(out, v->unit, (double)RT_MAX(v->total, v->done));
		buf_printf(out, "%s%s", v->unit != NULL ? " " : "", unit);
	} else if (v->done > 0) {
		put_amount(out, v->unit, (double)v->done);
		buf_printf(out, "%s%s", v->unit != NULL ? " " : "", unit);
	}
	if (v->rate >= 1) {
		buf_str(out, "  ");
		put_amount(out, v->unit, v->rate);
		buf_str(out, "/s");
	}
	if (v->total == 0) {
		const int64_t whole_us = v->elapsed_us - v->elapsed_us % 1000000;
		if (whole_us > 0) {
			buf_str(out, v->done > 0 ? "  " : "");
			status_duration(out, RT_MAX(whole_us, 0));
		}
	} else if (v->rate > 0 && v->done < v->total) {
		buf_str(out, "  ");
		status_duration(out, (int64_t)RT_MIN((double)(v->total - v->done) * 1e6 / v->rate,
						     1e18));
		buf_str(out, " left");
	}
}

static void put_cells(const struct bar_look *v, unsigned cells, bool utf8, struct buf *out)
{
	const unsigned way = 2 * (cells - BLOCK_CELLS);
	unsigned from = 0, to = 0;
	if (v->total > 0) {
		to = percent(v) * cells / 100;
	} else {
		unsigned step = (unsigned)((uint64_t)v->elapsed_us / 100000 % way);
		from = step <= way / 2 ? step : way - step;
		to = from + BLOCK_CELLS;
	}
	for (unsigned i = 0; i < cells; i++)
		buf_str(out, i >= from && i < to ? (utf8 ? "█" : "#") : (utf8 ? "░" : "."));
}

static bool has_note(const struct bar_look *v)
{
	return v->note != NULL && v->note[0] != '\0';
}

void bar_draw(const struct bar_look *v, unsigned columns, bool utf8, struct buf *out)
{
	struct buf numbers = BUF_INIT, line = BUF_INIT;
	put_numbers(v, &numbers);
	const unsigned text = (unsigned)strlen(v->what) + 2 + term_columns(buf_slice(&numbers));
	const unsigned cells = RT_MIN(RT_MAX(columns / 5, CELLS_MIN), CELLS_MAX);
	buf_printf(&line, "%s  ", v->what);
	if (columns >= text + cells + 2) {
		put_cells(v, cells, utf8, &line);
		buf_str(&line, "  ");
	}
	buf_add_slice(&line, buf_slice(&numbers));
	if (has_note(v)) {
		buf_str(&line, "  ");
		term_add_clean(&line, v->note);
	}
	term_fit(out, buf_slice(&line), columns, utf8);
	buf_release(&line);
	buf_release(&numbers);
}

void bar_text(const struct bar_look *v, struct buf *out)
{
	struct buf numbers = BUF_INIT;
	put_numbers(v, &numbers);
	const char *text = buf_cstr(&numbers);
	buf_printf(out, "%s: %s", v->what, text + strspn(text, " "));
	if (has_note(v)) {
		buf_str(out, "  ");
		term_add_clean(out, v->note);
	}
	buf_release(&numbers);
}

/* ---- on stderr ---- */

void bar_begin(struct bar *b, const char *what, const char *unit, int64_t plain_every_us)
{
	*b = (struct bar){.what = what,
			  .unit = unit,
			  .plain_every_us = plain_every_us,
			  .live = term_is_live(STDERR_FILENO),
			  .utf8 = term_has_utf8(),
			  .began_us = rt_mono_us()};
	/* A plain line is for what takes long. */
	b->next_us = b->began_us + (b->live ? 0 : plain_every_us);
}

void bar_show(struct bar *b, uint64_t done, uint64_t total, const char *note)
{
	const int64_t now = rt_mono_us(), every = b->live ? BAR_EVERY_US : b->plain_every_us;
	if (every == 0 || now + (b->live ? BAR_BURST_US : 0) < b->next_us)
		return;
	b->next_us = RT_MAX(b->next_us, now) + every;
	const struct bar_look v = {.what = b->what,
				   .unit = b->unit,
				   .done = done,
				   .total = total,
				   .rate = bar_rate(&b->meter, now, done),
				   .elapsed_us = now - b->began_us,
				   .note = note};
	struct buf out = BUF_INIT;
	if (b->live) {
		unsigned columns, rows;
		term_size(STDERR_FILENO, &columns, &rows);
		buf_str(&out, "\r");
		/* The last column is left free: the cursor would stand on what it clears. */
		bar_draw(&v, columns - 1, b->utf8, &out);
		buf_str(&out, "\033[K");
	} else {
		bar_text(&v, &out);
		buf_u8(&out, '\n');
	}
	fflush(stdout); /* what was said before stands before it */
	fwrite(out.p, 1, out.len, stderr);
	b->drawn = b->live;
	buf_release(&out);
}

void bar_hide(struct bar *b)
{
	if (b == NULL || !b->drawn)
		return;
	fputs("\r\033[K", stderr);
	b->drawn = false;
}
