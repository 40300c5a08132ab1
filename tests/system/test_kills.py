"""kill -9 of each process and each server, with a transaction in flight: nothing missing, nothing twice.

That one was in flight is asserted, each time: a transaction of the core was open, or, with the applier
frozen the moment before, its warehouse transaction was open or the ledger behind the spool.
Kill points come from ROLAG_SEED, which is printed.
"""
import os
import random
import signal
import time

import psycopg
import pytest
from pipeline import SOME, lsn, wait_for, write_roles

KILLS = 8
SEED = int(os.environ.get("ROLAG_SEED", time.time_ns() % 10 ** 6))


@pytest.fixture
def rng():
    print(f"ROLAG_SEED={SEED}")
    return random.Random(SEED)


class OpenTransaction:
    """A transaction of the core with rows of ours, open until `commit` (or the server's end)."""

    def __init__(self, pipeline, number, rows=20):
        self.conn = psycopg.connect(pipeline.core_conninfo)
        write_roles(self.conn, number * 10_000, number * 10_000 + rows - 1)
        xid, = self.conn.execute("select pg_current_xact_id_if_assigned()::text").fetchone()
        assert xid is not None and self.conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS

    def commit(self):
        self.conn.commit()
        self.conn.close()


def begin_load(p, events, rate, *more):
    load = p.load_in_background("--seed", SEED, "--events", events, "--rate", rate, "--connections", 2,
                                "--reconnect", 120, *more)
    wait_for("some rows", lambda: p.counters().get("apply_events_total", 0) > 100)
    return load


def finish(p, load):
    load.signal(signal.SIGTERM)     # it ends between transactions
    load.summary()
    p.wait_applied()
    assert p.rows() == p.events()
    p.assert_equal()
    p.stop()


def freeze_in_flight(p, rng, open_=False):
    """Stops the applier (SIGSTOP) while something is on its way to the warehouse: its transaction there is
    open (True), or, unless that is asked for, the ledger is behind the spool (False)."""
    with psycopg.connect(p.warehouse_conninfo, autocommit=True) as conn:
        def look():
            time.sleep(rng.random() * 0.02)
            p.check_alive()
            p.apply.signal(signal.SIGSTOP)
            busy, = conn.execute("select count(*) from pg_stat_activity where application_name = %s and "
                                 "backend_xid is not null", ("rolag apply " + p.name,)).fetchone()
            if busy:
                return [True]
            if not open_ and p.applied() < p.counters("capture")["capture_received_lsn_bytes"]:
                return [False]
            p.apply.signal(signal.SIGCONT)
            return None
        return wait_for("a transaction in flight", look, pause=0)[0]


def test_capture_killed_with_a_transaction_in_flight(pipeline, rng):
    p = pipeline
    p.start()
    load = begin_load(p, 100_000, 200)
    behind = []
    for n in range(KILLS):
        time.sleep(rng.random() * 0.3)
        # Odd: it is open while capture dies. Even: it was just committed, and is on its way.
        open_ = OpenTransaction(p, n, rows=20 if n % 2 else 3000)
        if n % 2 == 0:
            open_.commit()
            end = lsn(p.core("select pg_current_wal_lsn()::text")[0][0])
            time.sleep(rng.random() * 0.02)
            p.capture.signal(signal.SIGSTOP)
            behind.append(p.counters("capture").get("capture_received_lsn_bytes", 0) < end)
        p.capture.kill9()
        if n % 2:
            open_.commit()
        p.start_capture()
    print(f"not all of it was received: {behind.count(True)} of {len(behind)} times")
    finish(p, load)


def test_apply_killed_with_a_transaction_in_flight(pipeline, rng):
    p = pipeline
    p.start()
    load = begin_load(p, 100_000, 200)
    found = []
    for n in range(KILLS):
        with psycopg.connect(p.core_conninfo) as conn:     # one that takes COPY, step by step
            write_roles(conn, n * 10_000, n * 10_000 + 2999)
        found.append(freeze_in_flight(p, rng, open_=n % 2 == 0))
        p.apply.kill9()
        p.start_apply()
    assert found.count(True) >= KILLS // 2
    finish(p, load)


def test_core_killed_with_a_transaction_in_flight(make_pipeline, own_clusters, rng):
    core, warehouse = own_clusters()
    p = make_pipeline(core=core, warehouse=warehouse, land=SOME)
    p.init()
    p.start()
    load = begin_load(p, 100_000, 200)
    for n in range(KILLS):
        time.sleep(rng.random() * 0.5)
        open_ = OpenTransaction(p, n)
        core.kill9()
        with pytest.raises(psycopg.OperationalError):
            open_.commit()
        core.start()
        wait_for("capture to be back", lambda: p.check_alive() or p.slot()[1])
    finish(p, load)
    # What never committed is nowhere.
    assert p.warehouse("select count(*) from raw.core_role_events_rollup where id::text like '00000000-%'") == [(0,)]


def test_warehouse_killed_with_a_transaction_in_flight(make_pipeline, own_clusters, rng):
    """Its commits are asynchronous: a crash takes the newest, and the ledger goes back with them. (A slow
    WAL writer makes sure that there are such.) What was lost is taken from the spool again."""
    core, warehouse = own_clusters(warehouse={"wal_writer_delay": "2s", "wal_writer_flush_after": "16MB"})
    p = make_pipeline(core=core, warehouse=warehouse, land=SOME)
    p.init()
    p.start()
    load = begin_load(p, 100_000, 200)
    went_back = 0
    for _ in range(KILLS):
        time.sleep(rng.random() * 0.5)
        freeze_in_flight(p, rng)
        seen = p.counters()["apply_applied_lsn_bytes"]      # committed, as the applier was told
        warehouse.kill9()
        warehouse.start()
        went_back += p.applied() < seen
        assert p.slot()[0] <= p.applied(), "what the core was told to forget is on the warehouse's disk"
        p.apply.signal(signal.SIGCONT)
        wait_for("the applier to be back", lambda: p.check_alive() or p.applied() > seen)
    print(f"the ledger went back {went_back} times of {KILLS}")
    assert went_back >= 1
    finish(p, load)
