"""Custody of the slot: what capture does when it is lost, how much WAL it costs, and what it looks after.

Apply's part, which syncs what a gap took, is not here: these tests end at the spool.
"""
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import psycopg
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "deploy", "demo"), os.path.dirname(os.path.abspath(__file__))]

from cluster import Cluster  # noqa: E402
from program import ROLAG  # noqa: E402
from spool_peek import write_applied  # noqa: E402
from test_capture import Bank, wait_for  # noqa: E402

FAIL_BINARY = os.environ.get("ROLAG_FAIL_BINARY", os.path.join(ROOT, "build", "fail", "rolag"))
TIGHT = {"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}
MANY = 200


@pytest.fixture(scope="module")
def core():
    with Cluster("custody", settings={"wal_sender_timeout": "6s", "max_prepared_transactions": 2,
                                      "logical_decoding_work_mem": "64kB"}) as cluster:
        yield cluster


@pytest.fixture
def make_bank(tmp_path, core):
    with contextlib.ExitStack() as stack:
        def make(cluster=None, **settings):
            bank = Bank(cluster or core, tmp_path, **settings)
            stack.callback(bank.release)
            return bank
        yield make


def insert(bank, *ids):
    for n in ids:
        bank.sql.execute("insert into events values (%s, 0, '')", (n,))


def stop(bank):
    assert bank.signal(signal.SIGTERM).ends() == 0
    wait_for("the slot to be free", lambda: bank.walsender() is None)


def gaps(bank):
    """As `rolag spool dump` has them: (from, to), and the changes' kinds around them."""
    out = subprocess.run([ROLAG, "spool", "dump", "--dir", bank.spool], capture_output=True, text=True, check=True)
    return [tuple(line.split()[1:]) for line in out.stdout.splitlines() if line.startswith("GAP")]


def lose_wal(bank):
    """Writes until the core has thrown away what the slot needs."""
    def lost():
        bank.sql.execute("insert into private select g, repeat('x', 300) from generate_series(1, 30000) g")
        bank.sql.execute("select pg_switch_wal()")
        bank.sql.execute("checkpoint")
        return bank.one("select wal_status from pg_replication_slots where slot_name = %s", bank.slot) == "lost"
    wait_for("the slot to be lost", lost)


# ---- lost slots ----

@pytest.mark.parametrize("again", ["by capture", "by somebody"])
def test_trap_04_a_slot_that_is_gone_is_made_anew_and_the_gap_is_told(make_bank, again):
    bank = make_bank().start()
    insert(bank, 1)
    bank.arrived([1])
    stop(bank)
    bank.drop_slot()
    insert(bank, 2)  # nobody will ever send this
    if again == "by somebody":
        bank.create_slot()
    bank.start().says("a gap: the slot that had these changes is lost")
    assert ("a new one is made in its place" in bank.log()) == (again == "by capture")
    insert(bank, 3)
    bank.arrived([1, 3])
    (start, end), = gaps(bank)
    stop(bank)
    bank.start().says("stream starts")  # told once; the spool keeps it
    insert(bank, 4)
    bank.arrived([1, 3, 4])
    assert gaps(bank) == [(start, end)] and "gap" not in bank.log()


def test_trap_04_a_slot_made_anew_behind_a_running_capture(make_bank):
    bank = make_bank().start()
    insert(bank, 1)
    bank.arrived([1])
    bank.signal(signal.SIGSTOP)
    bank.sql.execute("select pg_terminate_backend(%s)", (bank.walsender(),))
    bank.drop_slot()
    insert(bank, 2)
    bank.create_slot()
    bank.signal(signal.SIGCONT)
    bank.says("a gap: the slot that had these changes is lost")
    insert(bank, 3)
    bank.arrived([1, 3])
    assert len(gaps(bank)) == 1 and bank.process.poll() is None


def test_trap_25_a_slot_that_lost_its_wal_is_made_anew(make_bank):
    """First while nobody reads it, then under a running capture that the core has to throw out."""
    with Cluster("tight", settings=TIGHT) as tight:
        bank = make_bank(tight, capture__confirm="applied").start()
        insert(bank, 1)
        bank.arrived([1])
        stop(bank)
        lose_wal(bank)
        bank.start().says("a gap: the slot that had these changes is lost")
        assert "the core no longer has the WAL that we need" in bank.log()
        insert(bank, 2)
        bank.arrived([1, 2])
        gap, = gaps(bank)
        lost = threading.Thread(target=lose_wal, args=(bank,))
        bank.signal(signal.SIGSTOP)  # it neither reads nor confirms
        lost.start()
        lost.join()
        bank.signal(signal.SIGCONT)
        wait_for("a second gap", lambda: len(gaps(bank)) == 2)
        bank.sql.execute("insert into events values (3, 0, '')")
        bank.arrived([1, 2, 3])
        assert gaps(bank)[0] == gap and bank.process.poll() is None


def test_a_new_slot_says_which_transaction_it_waits_for_and_can_be_stopped(make_bank):
    bank = make_bank().start()
    insert(bank, 1)
    bank.arrived([1])
    stop(bank)
    bank.drop_slot()
    with bank.connect() as open_one:
        open_one.autocommit = False
        open_one.execute("insert into private values (1, '')")
        pid = open_one.info.backend_pid
        bank.start().says("the new slot waits for old transactions of the core to end")
        assert f"pid={pid}" in bank.log()
        stop(bank)
        open_one.rollback()
    assert bank.sql.execute("select 1 from pg_replication_slots where slot_name = %s", (bank.slot,)).fetchall() == []
    bank.start().says("a gap: the slot that had these changes is lost")


def test_another_core_or_one_set_back_gets_no_new_slot(make_bank):
    """A slot is made anew on the core that the spool belongs to, and nowhere else."""
    bank = make_bank().start()
    insert(bank, 1)
    bank.arrived([1])
    stop(bank)
    with Cluster("stranger") as stranger:
        stranger.psql(f"create database {bank.pipeline}", database="postgres")
        stranger.psql(f"create publication {bank.pipeline}_inserts", database=bank.pipeline)
        own, bank.core = bank.core, stranger
        assert bank.start().ends() == 100
        assert "system identifier" in bank.log()
        assert stranger.psql("select count(*) from pg_replication_slots").strip() == "0"
        bank.core = own
    write_applied(bank.spool, bank.now() + (1 << 30))
    bank.drop_slot()
    assert bank.start().ends() == 100
    assert "set back" in bank.log()
    assert bank.walsender() is None and not bank.sql.execute(
        "select 1 from pg_replication_slots where slot_name = %s", (bank.slot,)).fetchall()


@pytest.mark.parametrize("action", ["kill", "disconnect"])
@pytest.mark.parametrize("point", ["lost_slot.told", "lost_slot.dropped", "lost_slot.made", "spool.made", "spool.renamed",
                                   "spool.opened"])
def test_a_death_while_the_slot_is_made_anew_leaves_one_gap(make_bank, monkeypatch, point, action):
    if action == "disconnect" and not point.startswith("lost_slot"):
        pytest.skip("no connection is in play there")
    bank = make_bank().start()
    insert(bank, 1)
    bank.arrived([1])
    stop(bank)
    bank.sql.execute("select pg_drop_replication_slot(%s)", (bank.slot,))
    insert(bank, 2)
    monkeypatch.setenv("ROLAG_FAILPOINTS", f"{point}={action}")
    bank.start(FAIL_BINARY)
    if action == "kill":
        assert bank.ends() == -signal.SIGKILL
    else:
        bank.says("failpoint fired")
        bank.says("stream starts")
        stop(bank)
    monkeypatch.delenv("ROLAG_FAILPOINTS")
    bank.start().says("stream starts")
    insert(bank, 3)
    bank.arrived([1, 3])
    assert len(gaps(bank)) == 1
