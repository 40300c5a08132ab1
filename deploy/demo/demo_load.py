#!/usr/bin/python3
"""The bank of the demo: one world, first its history in bulk, then transactions one by one at a rate.

  demo_load.py --connect CONNINFO --history EVENTS --rate PER_SECOND [--expect EVENTS] [--reconnect SECONDS]

Begins the steady part at a line on standard input and holds at the next. At a third it goes on until a deposit
that must be reported has been committed, and holds again. Ends when standard input is closed, or at SIGTERM. Says
how far it is in JSON lines on standard output: phase (history, live, held, deposited, done), transactions, events,
types, events by table, and the id of that deposit; the counts are those of all parts.
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
SECONDS_BETWEEN_REPORTS = 0.2
# From here on supervision wants to know of a deposit, in cents.
LARGE = 25_000_00


def price_shift(start):
    """Days: whatever day the bank opens, the price soon falls far enough for liquidations."""
    return (start - datetime.date(1970, 1, 1)).days - 15


def make_world(start, with_ledger=True):
    return lana_load.make_world(SEED, start.isoformat(), SCALE, with_ledger=with_ledger, price_shift=price_shift(start))


def last_day(start, events):
    """The day of the so manyeth event of a bank that opens on a day; it is lived once more to find out."""
    left = events
    for tx in lana.transactions(make_world(start, with_ledger=False)):
        left -= len(tx.rows)
        if left <= 0:
            return datetime.date.fromisoformat(tx.at[:10])


def opening(events):
    """The day that the bank opens, the latest first of a month with which so many events end today or before:
    its loans are running, and nothing is of the future."""
    today = datetime.date.today()
    start = (today - datetime.timedelta(days=80 + 17 * events // 1000)).replace(day=1)     # hardly ever later
    while last_day(start, events) > today:
        start = (start - datetime.timedelta(days=1)).replace(day=1)
    return start


class Reporter:
    """Adds up what was committed and says so, not more often than is useful."""

    def __init__(self, price_shift):
        self.total, self.phase, self.said, self.deposit = write.Summary(), "history", 0.0, None
        self.price_shift = price_shift

    def committed(self, tx):
        self.total.add(tx)
        if time.monotonic() - self.said > SECONDS_BETWEEN_REPORTS:
            self.say()

    def enter(self, phase):
        self.phase = phase
        self.say()

    def say(self):
        self.said = time.monotonic()
        t = self.total
        line = {"phase": self.phase, "transactions": t.transactions, "events": t.events, "types": len(t.types),
                "tables": t.tables, "deposit": self.deposit, "price_shift": self.price_shift, "at": self.said}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


class Orders:
    """Lines on standard input, one read each; the end comes by its end, or by a signal."""

    def __init__(self):
        self.ended = False
        signal.signal(signal.SIGTERM, self.end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end(self, *_):
        self.ended = True

    def came(self, seconds=0.0):
        """True when there was a line, or the end."""
        if not self.ended and select.select([0], [], [], seconds)[0]:
            self.ended = not os.read(0, 4096)
            return True
        return self.ended

    def wait_for_line(self):
        """False when told to end instead."""
        while not self.came(0.2):
            pass
        return not self.ended


def until_deposit(conninfo, transactions, to_json, reporter):
    """Commits one by one, up to a deposit that must be reported; its id."""
    with psycopg.connect(conninfo, autocommit=True, application_name="lana_load") as conn:
        for tx in transactions:
            conn.execute(write.script(tx, to_json).encode())
            reporter.committed(tx)
            for table, id_, _, type_, body, _ in tx.rows:
                if (table, type_) == ("core_deposit_events", "initialized") and body["amount"] >= LARGE:
                    return id_
    raise RuntimeError("the bank has closed")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--connect", required=True)
    p.add_argument("--history", type=int, required=True)
    p.add_argument("--rate", type=float, required=True)
    p.add_argument("--expect", type=int, metavar="EVENTS", help="how many there will be when it is looked at (--history)")
    p.add_argument("--reconnect", type=float, default=0)
    a = p.parse_args()
    world = make_world(opening(a.expect or a.history))
    transactions, to_json = lana.transactions(world), write.encoder(world)
    reporter, orders = Reporter(world.price_shift), Orders()
    try:
        reporter.total = write.bulk(a.connect, transactions, to_json, lambda: orders.ended, a.history)
        reporter.enter("live")
        if orders.wait_for_line():
            steady = write.Steady(a.connect, a.rate, connections=2, reconnect=a.reconnect,
                                  on_commit=reporter.committed)
            steady.run(transactions, to_json, orders.came)
            reporter.enter("held")
        if orders.wait_for_line():
            reporter.deposit = until_deposit(a.connect, transactions, to_json, reporter)
            reporter.enter("deposited")
            orders.wait_for_line()
    except (psycopg.Error, write.Lost, RuntimeError) as error:
        print(f"demo_load: {error}".rstrip(), file=sys.stderr)
        return 1
    reporter.enter("done")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:     # nobody listens any more: the demo is gone
        os._exit(1)
