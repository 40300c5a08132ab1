#!/usr/bin/python3
"""An hour (or any time) of a bank under steady load, with a fault every 10 to 30 seconds.

After each fault the pipeline must catch up. Each minute, at a common cut (the bank pauses for a moment), count
and hash of every rollup are compared between core and warehouse; every ten minutes and at the end every row is
compared with the oracle's, and the bank begins anew with empty tables, so that the disk does not fill up.

Prints a line per fault, a line a minute, and a summary; exit 1 on any difference, on any fault that does not
mend, and when memory, descriptors, spool, WAL or ledger grow without bound. The seed repeats the schedule.
Logs stay in build/soak.
"""
import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [os.path.join(ROOT, "tests", "system"), os.path.join(ROOT, "deploy", "demo")]

import failpoints  # noqa: E402
import faults  # noqa: E402
import psycopg  # noqa: E402
from cluster import Cluster  # noqa: E402
from network import Link, Shim  # noqa: E402
from pipeline import Load, Pipeline, Process, wait_for  # noqa: E402
from program import ROLAG  # noqa: E402
from watch import Watch, size  # noqa: E402

import proof  # noqa: E402

PATIENCE = 180      # seconds that catching up after a fault may take
DURABLE = {"fsync": "on", "full_page_writes": "on", "wal_sync_method": "fdatasync", "max_wal_size": "1GB",
           "max_connections": 40, "superuser_reserved_connections": 0}


class Failed(Exception):
    """The pipeline is not what it must be."""


class World:
    """The bank, its warehouse, and rolag between them."""

    def __init__(self, folder, seed, rate):
        self.folder, self.seed, self.rate = folder, seed, rate
        self.core, self.warehouse = Cluster("core", settings=DURABLE), Cluster("warehouse", settings=DURABLE)
        self.judge = Cluster("judge")
        self.clusters = (self.core, self.warehouse, self.judge)
        self.run = self.load = None
        self.epoch = self.transactions = self.compared = 0
        self.points = {}    # failpoints that were set: how often they fired
        self.said = []      # what `rolag status` said during a fault
        self.paused = False

    def create(self):
        for cluster in self.clusters:
            cluster.create()
        self.p = Pipeline("soak", self.folder, self.core, self.warehouse, self.judge, {
            "spool": {"segment_size": "4 MB", "quota": "2 GB", "retain": "3 min"},
            "capture": {"heartbeat_interval": "1 s", "wal_budget": "1 GB"}}).create()
        self.to_core, self.to_warehouse = Link.to(self.core), Link.to(self.warehouse)
        self.p.configure({"core": {"connect": self.to_core.conninfo(self.p.core_database)},
                          "warehouse": {"connect": self.to_warehouse.conninfo(self.p.warehouse_database)}})
        os.makedirs(os.path.join(self.p.state_dir, "spool"))
        self.shim = Shim(self.folder, os.path.join(self.p.state_dir, "spool"))
        self.p.init()
        self.start()
        self.p.wait_live()
        self.begin_load()
        return self

    def destroy(self):
        for process in (self.load, self.run):
            if process is not None:
                process.signal(signal.SIGCONT)
                process.kill9()
        for cluster in self.clusters:
            cluster.destroy()

    # rolag ------------------------------------------------------------------------------------
    def start(self, more=None):
        self.run = Process("run", [ROLAG, "run", "--config", self.p.config], os.path.join(self.folder, "run.log"),
                           {**self.shim.env, **(more or {})})

    def note_point(self, text, fired):
        name = text.partition("=")[0]
        self.points[name] = self.points.get(name, 0) + fired

    def pid(self, role):
        return self.run.pid if role == "run" else self.p.counters(role)["pid"]

    def running_pid(self, role):
        """The same, once it is there."""
        return wait_for(f"a process {role}", lambda: self.p.counters(role).get("pid"))

    def send(self, role, number):
        try:
            os.kill(self.pid(role), number)
        except (ProcessLookupError, KeyError):
            pass        # it is just being started again

    def alive(self):
        if not self.run.running():
            raise Failed(f"rolag run ended with {self.run.popen.returncode}: {self.run.text()[-1000:]}")
        if not self.load.running():
            raise Failed(f"the load ended: {self.load.text()[-1000:]}")

    def status(self):
        return json.loads(self.p.run("status", "--json")[1])

    def hold(self, seconds):
        """A fault lasts so long; what the status says near its end is noted."""
        time.sleep(seconds)
        self.said.append(self.status()["state"])

    # the bank ---------------------------------------------------------------------------------
    def begin_load(self):
        self.epoch += 1
        self.load = Load(os.path.join(self.folder, "load.log"), self.p.core_conninfo,
                         "--seed", self.seed * 1000 + self.epoch, "--rate", self.rate, "--connections", 2,
                         "--reconnect", 300)

    def end_load(self):
        self.load.signal(signal.SIGTERM)
        self.transactions += self.load.summary()["transactions"]

    def pause(self):
        """The bank stands still, and nothing of it is under way."""
        self.load.signal(signal.SIGSTOP)
        self.paused = True
        wait_for("the bank's transactions to end", lambda: self.p.core(
            "select count(*) from pg_stat_activity where application_name = 'lana_load' and state <> 'idle'")
            == [(0,)])

    def go_on(self):
        self.load.signal(signal.SIGCONT)
        self.paused = False

    # judging ----------------------------------------------------------------------------------
    def catch_up(self, what):
        """Until the warehouse has what the core has by now; returns how long that took."""
        began, target, trouble = time.monotonic(), None, ""
        while True:
            self.alive_but_load() if self.paused else self.alive()
            try:
                target = target or self.p.mark()
                if self.p.applied() >= target:
                    return time.monotonic() - began
            except psycopg.OperationalError as error:
                trouble = str(error)
            if time.monotonic() - began > PATIENCE:
                raise Failed(f"not caught up {PATIENCE} s after {what}: {self.status()['sentence']} {trouble}")
            time.sleep(0.1)

    def alive_but_load(self):
        if not self.run.running():
            raise Failed(f"rolag run ended with {self.run.popen.returncode}: {self.run.text()[-1000:]}")

    def settle(self, what):
        """After a fault: caught up, and the status says so."""
        took = self.catch_up(what)
        until = time.monotonic() + 60
        while not (status := self.status())["healthy"]:
            if time.monotonic() > until:
                raise Failed(f"caught up after {what}, but the status says: {status['sentence']}")
            time.sleep(0.5)
        return took

    def compare(self):
        """Count and hash of every rollup, both ends; returns how many events that were."""
        self.pause()
        self.catch_up("the bank paused")
        with psycopg.connect(self.p.core_conninfo, autocommit=True) as core, \
                psycopg.connect(self.p.warehouse_conninfo, autocommit=True) as warehouse:
            lines = proof.compare(core, warehouse)
        self.go_on()
        wrong = [line for line in lines if line.core != line.warehouse]
        if wrong:
            raise Failed("\n".join(["core and warehouse differ:"] + [str(line) for line in wrong]))
        self.compared += 1
        return sum(line.core.rows for line in lines)

    def compare_every_row(self):
        """The bank has ended: every row against the oracle's."""
        self.paused = True
        self.catch_up("the bank ended")
        found = self.p.findings()
        if found:
            raise Failed("\n".join([f"{len(found)} differences to the oracle:"] + [str(f) for f in found[:20]]))

    def begin_anew(self):
        """Empties every table. (A DELETE of events is not published; that of entities is of no interest.)"""
        with psycopg.connect(self.p.core_conninfo, autocommit=True) as conn:
            tables = [t for t, in conn.execute("select tablename from pg_tables where schemaname = 'public'")]
            with conn.transaction():
                conn.execute("set local session_replication_role = replica")
                for table in tables:
                    conn.execute(f'delete from public."{table}"')
            conn.execute("vacuum")
        self.catch_up("the core was emptied")
        with psycopg.connect(self.p.warehouse_conninfo, autocommit=True) as conn:
            tables = [t for t, in conn.execute("select tablename from pg_tables where schemaname = 'raw'")]
            conn.execute("truncate " + ", ".join(f'raw."{t}"' for t in tables))
            conn.execute("checkpoint")
        with psycopg.connect(self.judge.conninfo(self.p.judge_database), autocommit=True) as conn:
            tables = [t for t, in conn.execute("select tablename from pg_tables where schemaname = 'oracle'")]
            conn.execute("truncate " + ", ".join(f'oracle."{t}"' for t in tables))
        self.begin_load()
        self.paused = False

    def disk(self):
        return sum(sum(os.path.getsize(os.path.join(path, f)) for f in files if os.path.isfile(os.path.join(path, f)))
                   for cluster in self.clusters for path, _, files in os.walk(cluster.dir))


class Soak:
    """The clock: faults, minutes, tens of minutes."""

    def __init__(self, world, seconds, only):
        self.w, self.seconds = world, seconds
        self.schedule = faults.schedule(world.seed, random)
        self.only = only
        self.counts = {}
        self.slowest = (0, "none")

    def say(self, text):
        print(f"{time.strftime('%H:%M:%S')} {int(time.monotonic() - self.began):5d} s  {text}", flush=True)

    def next_fault(self):
        while True:
            wait, name, rng = next(self.schedule)
            if not self.only or name in self.only:
                return time.monotonic() + wait, name, rng

    def fault(self, name, rng):
        self.w.said = []
        began = time.monotonic()
        faults.KINDS[name](self.w, rng)
        lasted = time.monotonic() - began
        took = self.w.settle(name)
        self.counts[name] = self.counts.get(name, 0) + 1
        self.slowest = max(self.slowest, (took, name))
        states = ",".join(dict.fromkeys(self.w.said)) or "-"
        self.say(f"{name:24} {lasted:5.1f} s, status {states}; caught up after {took:.1f} s")

    def minute(self):
        events = self.w.compare()
        status = self.w.status()
        self.say(f"equal: {events} events (bank {self.w.epoch}); faults {sum(self.counts.values())}, spool "
                 f"{size(os.path.join(self.w.p.state_dir, 'spool')) >> 20} MB, disk {self.w.disk() >> 20} MB. "
                 f"{status['sentence']}")

    def ten_minutes(self, last):
        self.w.compare()
        self.w.end_load()
        self.w.compare_every_row()
        self.say(f"every row equals the oracle's ({self.w.p.events()} events)")
        if not last:
            self.w.begin_anew()

    def run(self):
        self.began = time.monotonic()
        end, epoch = self.began + self.seconds, min(600.0, self.seconds / 2)
        minute, ten = self.began + 60, self.began + epoch
        fault = self.next_fault()
        while (now := time.monotonic()) < end:
            self.w.alive()
            if now >= ten and end - now > 30:
                self.ten_minutes(False)
                ten = time.monotonic() + epoch
            elif now >= minute:
                self.minute()
                minute = time.monotonic() + 60
            elif now >= fault[0]:
                self.fault(*fault[1:])
                fault = self.next_fault()
            else:
                time.sleep(0.2)
        self.ten_minutes(True)


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--hours", type=float, default=1.0)
    p.add_argument("--seed", type=int, default=time.time_ns() % 10 ** 6)
    p.add_argument("--rate", type=float, default=150, help="transactions of the bank a second")
    if failpoints.program_has_them():
        failpoints.add_kinds()
    p.add_argument("--only", default="", help="kinds of faults, with commas; without: all: " + " ".join(faults.KINDS))
    a = p.parse_args()
    a.only = set(filter(None, a.only.split(",")))
    if a.only - set(faults.KINDS):
        p.error(f"no such kind: {' '.join(a.only - set(faults.KINDS))}")
    return a


def keep_logs(world, folder):
    target = os.path.join(ROOT, "build", "soak", time.strftime("%Y%m%d-%H%M%S"))
    os.makedirs(target)
    for name in os.listdir(folder):
        if name.endswith((".log", ".yaml")):
            shutil.copy(os.path.join(folder, name), target)
    for cluster in world.clusters:
        if os.path.exists(cluster.log):
            shutil.copy(cluster.log, os.path.join(target, cluster.name + ".postgresql.log"))
    return target


def main():
    a = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))       # what follows cleans up
    folder = tempfile.mkdtemp(prefix="rolag-soak-")
    print(f"soak: {a.hours} h, {a.rate:.0f} transactions/s, {ROLAG}; to repeat the faults: SEED={a.seed}", flush=True)
    world, watch, soak, failed = World(folder, a.seed, a.rate), None, None, None
    try:
        world.create()
        watch, soak = Watch(world), Soak(world, a.hours * 3600, a.only)
        watch.start()
        soak.run()
    except (Failed, AssertionError, psycopg.Error, RuntimeError, OSError) as error:
        failed = error
        if not isinstance(error, Failed):
            traceback.print_exc()
    finally:
        if watch is not None:
            watch.end()
        logs = keep_logs(world, folder)
        world.destroy()
        shutil.rmtree(folder, ignore_errors=True)
    return summary(a, world, watch, soak, failed, logs)


def summary(a, world, watch, soak, failed, logs):
    growing = []
    if soak is not None:
        print(f"\n{world.transactions} transactions, {world.epoch} banks, {world.compared} comparisons, "
              f"{sum(soak.counts.values())} faults; slowest to catch up: {soak.slowest[1]}, {soak.slowest[0]:.1f} s")
        print("; ".join(f"{name} {count}" for name, count in sorted(soak.counts.items())))
        if world.points:
            fired = sum(count > 0 for count in world.points.values())
            print(f"{len(world.points)} failpoints set, {fired} of them passed, {sum(world.points.values())} times")
        lines, growing = watch.judge()
        print("\n".join(lines))
    if growing:
        print(f"grows without bound: {', '.join(growing)}")
    if failed is not None:
        print(f"{failed}")
    good = failed is None and not growing
    print(f"Soak: {'passed' if good else 'FAILED'}. Logs: {logs}. To repeat the faults: SEED={a.seed}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
