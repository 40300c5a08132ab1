#!/usr/bin/python3
"""rolag shows itself: two throwaway PostgreSQL clusters, a bank's load, rolag between them, and the proof.

  demo.py run        everything, in about a minute; exit code 0 only if the proofs hold; leaves nothing behind
  demo.py up         the same estate in the background, to play with; prints how
  demo.py proof      compares both databases of the estate that is up
  demo.py down       stops it and deletes it

Exit codes: 0; 1 the proof does not hold or something failed; 2 usage; 130 interrupted.
"""
import argparse
import os
import signal
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import psycopg  # noqa: E402

import background  # noqa: E402
import proof  # noqa: E402
from button import press  # noqa: E402
from estate import ROOT, Estate, Failed, label  # noqa: E402
from screen import Screen, bar, duration, size, spark  # noqa: E402
from steps import Ended, catch_up, explain, prepare, show_proof, tell_story  # noqa: E402

LINE_EVERY = 5.0        # seconds, where there is no terminal


def buckets(status):
    """{µs: commits}, the histogram of commit-to-visible times."""
    return dict(map(tuple, status.get("visible_buckets", [])))


def quantiles(now, before):
    """p50 and p99 in seconds of what was counted between two histograms; None where nothing was."""
    counts = sorted((us, n - before.get(us, 0)) for us, n in now.items())
    total = sum(n for _, n in counts)
    found = []
    for share in (0.5, 0.99):
        seen = 0
        for us, n in counts:
            seen += n
            if total and seen >= share * total:
                found.append(us / 1e6)
                break
        else:
            found.append(None)
    return found


class Watcher(threading.Thread):
    """Looks at rolag's status and the warehouse's tables, beside the screen."""

    def __init__(self, estate):
        super().__init__(daemon=True)
        self.estate, self.status, self.rows, self.error = estate, {}, {}, None
        self.p50 = self.p99 = None      # of the commits since the watcher began
        self.first = buckets(estate.status())
        self.stop = threading.Event()

    def run(self):
        try:
            with psycopg.connect(self.estate.warehouse.conninfo(), autocommit=True) as warehouse:
                while not self.stop.is_set():
                    self.look(warehouse)
                    self.stop.wait(0.5)
        except psycopg.Error as error:
            self.error = error

    def look(self, warehouse):
        self.rows = proof.rows_by_table(warehouse)
        self.status = self.estate.status()
        self.p50, self.p99 = quantiles(buckets(self.status), self.first)

    def close(self):
        self.stop.set()
        self.join(10)


# ---- the live part ------------------------------------------------------------------------------

def table_lines(screen, rows, before):
    """Rows per rollup in as many columns as fit; what has just grown is bold."""
    usable = screen.width() - 2
    short = usable < 3 * 31
    wide = 18 if short else 24
    columns = max(1, (usable + 1) // (wide + 7))
    names = sorted(rows)
    height = -(-len(names) // columns)
    lines = []
    for y in range(height):
        cells = []
        for name in names[y::height]:
            count = f"{rows[name]:>6,}"
            grown = rows[name] != before.get(name, rows[name])
            count = screen.style(count, "bold", "green") if grown else count
            cells.append(f"{label(name, short):<{wide}.{wide}}{count} ")
        lines.append("  " + "".join(cells).rstrip())
    return lines


class Live:
    """The steady part: what it draws, or the lines that it prints where there is no terminal."""

    def __init__(self, screen, estate, watcher, seconds):
        self.screen, self.estate, self.watcher, self.seconds = screen, estate, watcher, seconds
        self.base = dict(estate.load.report)
        self.started = self.said = time.monotonic()
        self.rates, self.rated, self.before, self.rows = [], self.started, {}, {}

    def elapsed(self):
        return time.monotonic() - self.started

    def figures(self):
        """What is to be shown, as text."""
        load, status = self.estate.load, self.watcher.status
        now = time.monotonic()
        if now - self.rated >= 0.5:
            self.rates.append(load.rate(1.0))
            self.rated = now
        if self.watcher.rows != self.rows:
            self.before, self.rows = self.rows, self.watcher.rows
        return {
            "rate": f"{load.rate():,.0f} commits/s",
            "commits": f"{load.report['transactions'] - self.base['transactions']:,} commits",
            "events": f"{load.report['events'] - self.base['events']:,} events",
            "lag": duration(status.get("lag_seconds")),
            "bytes": size(status.get("lag_bytes")),
            "p50": "p50 " + duration(self.watcher.p50),
            "p99": "p99 " + duration(self.watcher.p99),
            "state": status.get("state", "–"), "sentence": status.get("sentence", ""),
            "rows": f"{sum(self.rows.values()):,}", "types": load.report["types"],
        }

    def lines(self):
        s, f = self.screen, self.figures()
        full, rest = bar(self.elapsed() / self.seconds, min(40, s.width() - 30))
        head = lambda word: "  " + s.style(f"{word:<10}", "dim")     # noqa: E731
        good = "green" if self.watcher.status.get("healthy") else "yellow"
        state, colon, more = f["sentence"].partition(":")
        return [
            "",
            f"  {s.style('live', 'bold')}      {s.style(full, 'cyan')}{s.style(rest, 'dim')}"
            f"  {min(self.elapsed(), self.seconds):.0f} of {self.seconds:.0f} s",
            "",
            head("core") + s.style(f"{f['rate']:<18}", "bold") + f"{f['commits']:<16}{f['events']:<16}"
            + s.style(spark(self.rates, max(0, min(16, s.width() - 64))), "cyan"),
            head("lag") + s.style(f"{f['lag']:<18}", "bold") + f"{f['bytes'] + ' of WAL':<16}",
            head("visible") + s.style(f"{f['p50']:<18}", "bold") + s.style(f"{f['p99']:<16}", "bold")
            + "after the commit in the core",
            "  " + s.style(state, good) + colon + more,
            "",
            "  " + s.style("rows per rollup", "dim") + f"  {f['rows']} in all, "
            f"{f['types']} event types",
            *table_lines(s, self.rows, self.before),
        ]

    def show(self):
        if self.screen.live:
            self.screen.draw(self.lines())
            time.sleep(0.1)
            return
        if time.monotonic() - self.said >= LINE_EVERY:
            self.said = time.monotonic()
            f = self.figures()
            self.screen.say(f"    {self.elapsed():3.0f} s  {f['rate']}  {f['events']}  lag {f['lag']}  visible "
                            f"{f['p50']}, {f['p99']}  {f['rows']} rows  {f['state']}")


def go_live(screen, estate, warehouse, seconds):
    """The load for so long, until the warehouse has all of it; the commits, and their p50 and p99 in seconds."""
    watcher = Watcher(estate)
    watcher.start()
    estate.load.order()
    live = Live(screen, estate, watcher, seconds)
    try:
        while live.elapsed() < seconds:
            live.show()
            estate.check()
            if watcher.error:
                raise Failed(f"the warehouse: {watcher.error}")
            time.sleep(0.05)
    finally:
        watcher.close()
    estate.load.order()
    estate.wait(lambda: estate.load.phase() == "held", "the end of the load", 20)
    report, took = estate.load.report, live.elapsed()
    waited = catch_up(estate, warehouse)
    watcher.look(warehouse)
    if screen.live:
        screen.draw(live.lines())
        screen.keep()
    commits, events = (report[k] - live.base[k] for k in ("transactions", "events"))
    screen.say()
    screen.done(f"live: {commits:,} transactions with {events:,} events, {commits / took:.0f} a second", took)
    screen.done("the warehouse has passed the core's last commit", waited)
    return commits, watcher.p50, watcher.p99


# The smallest lie: one time of one row.
SABOTAGE = ("update raw.core_deposit_events_rollup set modified_at = modified_at + interval '1 microsecond'"
            " where ctid = (select max(ctid) from raw.core_deposit_events_rollup)")


def run(screen, a):
    """The demo; the folder is this call's, and is gone when it returns."""
    started = time.monotonic()
    estate = Estate(tempfile.mkdtemp(prefix="rolag-demo-", dir=background.base()), a.rolag)
    try:
        screen.say()
        screen.say("  " + screen.style("rolag", "bold") + "  a bank's events become rollups in a warehouse")
        screen.say()
        prepare(screen, estate, a.history, a.rate, expect=a.history + int(a.rate * (a.seconds or 25) * 1.3))
        # On a slow machine it is shorter, so that the whole stays under a minute.
        seconds = a.seconds or max(10.0, min(25.0, 48 - (time.monotonic() - started)))
        with psycopg.connect(estate.core.conninfo(), autocommit=True) as core, \
                psycopg.connect(estate.warehouse.conninfo(), autocommit=True) as warehouse:
            commits, p50, p99 = go_live(screen, estate, warehouse, seconds)
            types = proof.event_types(core)
            tell_story(screen, estate, warehouse)
            if a.sabotage == "rollup":
                warehouse.execute(SABOTAGE)
            good, events = show_proof(screen, core, warehouse)
            if not good:
                screen.done(screen.style("The proof does not hold: core and warehouse differ.", "bold"), good=False)
                return 1
            screen.done(screen.style(f"Equal: all {events:,} events of {types} types are in the warehouse, once each.",
                                     "bold"))
            screen.say(f"    Half of the {commits:,} transactions written live were visible there {duration(p50)} after")
            screen.say(f"    their commit in the core, 99 % of them within {duration(p99)}.")
            screen.say()
            if not press(screen, estate, core, warehouse, a.sabotage == "report"):
                screen.done(screen.style("The reports are not of the moment of the click.", "bold"), good=False)
                return 1
        estate.load.finish()
        screen.done(screen.style("Fresh: what was committed before the click is in the files.", "bold"))
        screen.say(f"    All of this took {time.monotonic() - started:.0f} s and leaves nothing behind.")
        screen.say()
        return 0
    except (Failed, RuntimeError, OSError, psycopg.Error) as error:
        explain(screen, estate, error)
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)       # let it finish
        screen.close()
        estate.close()


def arguments(argv):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("command", choices=["run", "up", "proof", "down", "keep"], metavar="run|up|proof|down")
    p.add_argument("--rolag", default=os.path.join(ROOT, "build", "release", "rolag"), metavar="PROGRAM")
    p.add_argument("--seconds", type=float, help="how long the live part of run lasts (25; less on a slow machine)")
    p.add_argument("--rate", type=float, help="transactions a second (run: 250, up: 20)")
    p.add_argument("--history", type=int, default=12_000, metavar="EVENTS", help="written before rolag begins (12000)")
    # The tests': can the proofs fail?
    p.add_argument("--sabotage", choices=["rollup", "report"], help=argparse.SUPPRESS)
    p.add_argument("--folder", help=argparse.SUPPRESS)
    a = p.parse_args(argv)
    a.rolag = os.path.abspath(a.rolag)
    a.rate = a.rate or (250 if a.command == "run" else 20)
    return a


def on_signal(number, _frame):
    raise Ended(number)


def main(argv=None):
    a = arguments(argv)
    if not os.access(a.rolag, os.X_OK):
        print(f"demo: {a.rolag} is not there: build it with make", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    screen = Screen()
    try:
        if a.command == "run":
            return run(screen, a)
        return getattr(background, a.command)(screen, a)
    except Ended:
        screen.close()
        print("\n  interrupted; everything is stopped and deleted", file=sys.stderr)
        return 130
    finally:
        screen.close()


if __name__ == "__main__":
    sys.exit(main())
