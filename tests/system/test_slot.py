"""Slots are made by the replication command: no time-out ends it, and it says what it waits for."""
import os
import subprocess
import sys
import time

import psycopg
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "deploy", "demo"))

from cluster import Cluster  # noqa: E402
from program import build  # noqa: E402

PROBE = os.path.join(ROOT, "build", "asan", "tests", "slot_probe")


@pytest.fixture(scope="module")
def core():
    build("build/asan/tests/slot_probe")
    with Cluster("slots", settings={"max_replication_slots": 3}) as cluster:
        cluster.psql("create role impatient login superuser; alter role impatient set statement_timeout = '1s';"
                     " create role nobody login; create table t (a int); insert into t values (1)")
        yield cluster


class Probe:
    def __init__(self, core, name, kind="temporary", snapshot="nothing", give_up_after=0, user="impatient"):
        self.process = subprocess.Popen(
            [PROBE, core.conninfo(user=user), name, kind, snapshot, str(give_up_after)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self):
        return self.process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


def slots(core):
    return core.psql("select slot_name from pg_replication_slots order by 1").split()


def assert_gone(core):
    """The server lets go of a slot a moment after its client is gone."""
    deadline = time.monotonic() + 60
    while slots(core) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert slots(core) == []


def test_trap_22_creation_outlasts_time_outs_and_says_what_it_waits_for(core):
    with psycopg.connect(core.conninfo()) as old:
        old.execute("insert into t values (2)")
        with Probe(core, "patient") as probe:
            assert probe.line() == f"wait {old.info.backend_pid}"
            old.commit()
            assert probe.line().startswith("created ")
            assert slots(core) == ["patient"]
    assert_gone(core)


def test_trap_22_waiting_can_be_given_up(core):
    with psycopg.connect(core.conninfo()) as old:
        old.execute("insert into t values (3)")
        with Probe(core, "hasty", "lasting", give_up_after=1) as probe:
            assert probe.line() == f"wait {old.info.backend_pid}"
            assert probe.line().startswith("error -1 creating slot hasty was given up")
    assert_gone(core)


def test_an_exported_snapshot_shows_what_committed_before_the_slot(core):
    with Probe(core, "exporting", snapshot="export") as probe, psycopg.connect(core.conninfo()) as reader:
        word, _, snapshot = probe.line().split()
        assert word == "created"
        core.psql("insert into t values (99)")
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute(f"set transaction snapshot '{snapshot}'")
        assert reader.execute("select count(*) from t where a = 99").fetchone() == (0,)
    assert_gone(core)   # temporary: gone with its connection


def test_what_stands_in_the_way_is_said_with_its_mend(core):
    with Probe(core, "one", "lasting") as a, Probe(core, "two", "lasting") as b, Probe(core, "three", "lasting") as c:
        assert all(p.line().startswith("created ") for p in (a, b, c))
    try:
        with Probe(core, "one") as probe:
            assert probe.line() == "error -2 slot one exists already"
        with Probe(core, "four") as probe:
            assert "mend: raise max_replication_slots" in probe.line()
        with Probe(core, "five", user="nobody") as probe:
            assert "REPLICATION" in probe.line()
    finally:
        core.psql("select pg_drop_replication_slot(slot_name) from pg_replication_slots")
