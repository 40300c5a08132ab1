#!/usr/bin/python3
"""The bank of the demo: one world, first its history in bulk, then transactions one by one at a rate.

  demo_load.py --connect CONNINFO --history EVENTS --rate PER_SECOND [--reconnect SECONDS]

Begins the steady part at a line on standard input and ends when that is closed, or at SIGTERM. Says how far
it is in JSON lines on standard output: phase (history, live, done), transactions, events, types, and events
by table; the counts are those of both parts.
"""
import argparse
import datetime
import json
import os
import select
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import psycopg  # noqa: E402

import lana  # noqa: E402
import lana_load  # noqa: E402
from lana import write  # noqa: E402

# Of nearly every such world the first 18,000 events hold every event type.
SEED, SCALE = 10, 0.3
# So long before today the bank opens, that its history of 12,000 events ends about now and its loans are running.
DAYS_OF_HISTORY = 330
SECONDS_BETWEEN_REPORTS = 0.2


def opening():
    """The day that the bank opens: the first of a month."""
    return (datetime.date.today() - datetime.timedelta(days=DAYS_OF_HISTORY)).replace(day=1)


def price_shift(day):
    """Days: whatever day the bank opens, the price soon falls far enough for liquidations."""
    return (day - datetime.date(1970, 1, 1)).days - 15


class Reporter:
    """Adds up what was committed and says so, not more often than is useful."""

    def __init__(self):
        self.total, self.phase, self.said = write.Summary(), "history", 0.0

    def committed(self, tx):
        self.total.add(tx)
        if time.monotonic() - self.said > SECONDS_BETWEEN_REPORTS:
            self.say()

    def say(self):
        self.said = time.monotonic()
        t = self.total
        line = {"phase": self.phase, "transactions": t.transactions, "events": t.events, "types": len(t.types),
                "tables": t.tables, "at": self.said}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


class Stop:
    """True once a signal came or standard input was closed."""

    def __init__(self):
        self.asked = False
        signal.signal(signal.SIGTERM, self.ask)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def ask(self, *_):
        self.asked = True

    def wait_for_line(self):
        """False when told to end instead."""
        while not self.asked:
            if select.select([0], [], [], 0.2)[0]:
                return bool(os.read(0, 4096))
        return False

    def __call__(self):
        if not self.asked and select.select([0], [], [], 0)[0]:
            self.asked = not os.read(0, 4096)
        return self.asked


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--connect", required=True)
    p.add_argument("--history", type=int, required=True)
    p.add_argument("--rate", type=float, required=True)
    p.add_argument("--reconnect", type=float, default=0)
    a = p.parse_args()
    day = opening()
    world = lana_load.make_world(SEED, day.isoformat(), SCALE, with_ledger=True, price_shift=price_shift(day))
    transactions, to_json = lana.transactions(world), write.encoder(world)
    reporter, stop = Reporter(), Stop()
    try:
        reporter.total = write.bulk(a.connect, transactions, to_json, stop, a.history)
        reporter.phase = "live"
        reporter.say()
        if stop.wait_for_line():
            steady = write.Steady(a.connect, a.rate, connections=2, reconnect=a.reconnect,
                                  on_commit=reporter.committed)
            steady.run(transactions, to_json, stop)
    except (psycopg.Error, write.Lost, RuntimeError) as error:
        print(f"demo_load: {error}".rstrip(), file=sys.stderr)
        return 1
    reporter.phase = "done"
    reporter.say()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:     # nobody listens any more: the demo is gone
        os._exit(1)
