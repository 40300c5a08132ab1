#!/usr/bin/python3
"""Writes the life of a bank into a core database: all 33 entities, valid and interleaved.

  lana_load.py --connect CONNINFO --rate 200 --seconds 30     each transaction one core transaction
  lana_load.py --connect CONNINFO --bulk --events 200000      as fast as it goes, grouped, by COPY
  lana_load.py --dump events.jsonl --events 60000             no database

The database needs the tables of core.sql. One seed gives one stream of transactions, ids included.
Prints a summary as one JSON line. SIGTERM, SIGINT or the stop file end it between transactions.
Exit: 0; 2 usage; 1 the core could not be reached or refused a transaction.
"""
import argparse
import json
import os
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import psycopg  # noqa: E402

import lana  # noqa: E402
from lana import nasty, write  # noqa: E402


def arguments(argv):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = p.add_mutually_exclusive_group(required=True)
    where.add_argument("--connect", metavar="CONNINFO", help="the core database")
    where.add_argument("--dump", metavar="FILE", help="write JSON lines instead")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--start", default="2024-01-01", help="first simulated day")
    p.add_argument("--scale", type=float, default=1.0, help="customers and reports a simulated day, × the usual")
    p.add_argument("--rate", type=float, help="transactions a second; without it as fast as the core takes them")
    p.add_argument("--seconds", type=float)
    p.add_argument("--events", type=int, help="stop at this many events (the transaction is finished)")
    p.add_argument("--drain", type=int, metavar="EVENTS",
                   help="after so many events no new lives begin; ends when the last one has")
    p.add_argument("--bulk", action="store_true", help="groups of transactions, by COPY")
    p.add_argument("--connections", type=int, default=1, help="writers; their transactions overlap")
    p.add_argument("--reconnect", type=float, default=0, metavar="SECONDS",
                   help="when the core is lost, try again for so long; nothing is written twice")
    p.add_argument("--nasty", type=int, nargs="?", const=1, default=0, choices=(1, 2),
                   help="unusual payloads; 2: also such that break the contract, which the triggers bear")
    p.add_argument("--no-legacy", action="store_true", help="only event types that today's core writes")
    p.add_argument("--hard-times", action="store_true", help="loans run for long, and many borrowers stop paying")
    p.add_argument("--ledger", action="store_true", help="also the ledger's tables; the events stay the same")
    p.add_argument("--stop-file", metavar="FILE", help="end when this file exists")
    a = p.parse_args(argv)
    if a.ledger and a.nasty:
        p.error("--ledger needs amounts that can be booked: not with --nasty")
    return a


def make_world(seed=1, start="2024-01-01", scale=1.0, legacy=True, nasty_level=0, with_ledger=False, hard=False,
               price_shift=0):
    """A world to be given to lana.transactions."""
    mutate = nasty.Nasty(nasty_level) if nasty_level else None
    world = lana.World(seed, start, scale, legacy, mutate, with_ledger, hard, price_shift)
    if mutate:
        mutate.rng = world.rng
    return world


def closing(transactions, world, after):
    """Passes transactions on; begins to close the world after so many events."""
    events = 0
    for tx in transactions:
        events += len(tx.rows)
        world.closing = world.closing or events >= after
        yield tx


class Stop:
    """True once a signal came, the time is up, or the stop file is there."""

    def __init__(self, seconds, path):
        self.until = time.monotonic() + seconds if seconds else None
        self.path, self.asked, self.looked = path, False, 0.0
        signal.signal(signal.SIGTERM, self.ask)
        signal.signal(signal.SIGINT, self.ask)

    def ask(self, *_):
        self.asked = True

    def __call__(self):
        now = time.monotonic()
        if self.path and now - self.looked > 0.05:
            self.looked = now
            self.asked = self.asked or os.path.exists(self.path)
        return self.asked or (self.until is not None and now >= self.until)


def main(argv=None):
    a = arguments(argv)
    world = make_world(a.seed, a.start, a.scale, not a.no_legacy, a.nasty, a.ledger, a.hard_times)
    transactions = lana.transactions(world)
    if a.drain is not None:
        transactions = closing(transactions, world, a.drain)
    stop, to_json = Stop(a.seconds, a.stop_file), write.encoder(world)
    try:
        if a.dump:
            summary = write.dump(a.dump, transactions, stop, a.events)
        elif a.bulk:
            summary = write.bulk(a.connect, transactions, to_json, stop, a.events)
        else:
            steady = write.Steady(a.connect, a.rate, a.connections, a.reconnect)
            summary = steady.run(transactions, to_json, stop, a.events)
    except (psycopg.Error, write.Lost, RuntimeError) as error:
        print(f"lana_load: {error}".rstrip(), file=sys.stderr)
        return 1
    print(json.dumps({"seed": a.seed, **summary.as_dict()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
