"""A core from an older copy of its disk that has written on past where it was: same identity, same timeline, same
positions, another history (trap 50). And what looks like it, but is the same core.
"""
import contextlib
import os
import shutil
import signal
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "deploy", "demo"), os.path.dirname(os.path.abspath(__file__))]

from cluster import Cluster  # noqa: E402
from spool_peek import write_applied  # noqa: E402
from test_capture import Bank, wait_for  # noqa: E402


@pytest.fixture(scope="module")
def core():
    with Cluster("setback", settings={"wal_sender_timeout": "6s", "max_prepared_transactions": 2}) as cluster:
        yield cluster


@pytest.fixture
def make_bank(tmp_path, core):
    with contextlib.ExitStack() as stack:
        def make(**settings):
            bank = Bank(core, tmp_path, **settings)
            stack.callback(bank.release)
            return bank
        yield make


def insert(bank, *ids):
    for n in ids:
        bank.sql.execute("insert into events values (%s, 0, repeat('x', 200))", (n,))


class Copy:
    """Of a core's disk; it goes back when asked, and the core goes on from there."""

    def __init__(self, bank):
        self.bank, self.core = bank, bank.core
        self.core.stop()
        subprocess.run(["cp", "-a", self.core.data, self.core.data + ".copy"], check=True)
        self.core.start()
        bank.sql = bank.connect()

    def put_back(self, outgrown):
        self.core.kill9()
        shutil.rmtree(self.core.data)
        os.rename(self.core.data + ".copy", self.core.data)
        self.core.start()
        self.bank.sql = self.bank.connect()
        insert(self.bank, *range(1001, 1011))
        while self.bank.now() <= outgrown:
            self.bank.sql.execute("insert into private select g, repeat('x', 100) from generate_series(1, 1000) g")
        insert(self.bank, *range(1011, 1021))


def assert_refused(bank):
    """Whoever starts it again: it stops, and has taken nothing of the other history in."""
    for _ in range(2):
        assert bank.ends() == 100
        assert "was set back" in bank.log() and "mend" in bank.log()
        assert not [n for n in bank.ids() if n > 1000]
        bank.start()
    assert bank.ends() == 100


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_trap_50_a_core_that_outgrew_its_old_end_while_capture_was_down(make_bank, end):
    bank = make_bank().start()
    insert(bank, 1)
    bank.arrived([1])
    copy = Copy(bank)
    insert(bank, *range(2, 100))
    bank.arrived(range(1, 100))
    bank.signal(end).ends()
    held = bank.read().end
    write_applied(bank.spool, held)
    copy.put_back(held)
    bank.start()
    assert_refused(bank)


def test_trap_50_also_when_the_spool_has_let_everything_go(make_bank):
    bank = make_bank(spool__segment_size="64 kB", spool__retain="0 s").start()
    insert(bank, 1)
    bank.arrived([1])
    copy = Copy(bank)
    for n in range(8):
        bank.sql.execute("insert into events select g, %s, (select string_agg(md5(random()::text || g || s), '')"
                         " from generate_series(1, 60) s) from generate_series(2, 99) g", (n,))

    def is_trimmed():
        write_applied(bank.spool, bank.read().end)
        return bank.now() and not [n for n in bank.ids() if n < 100]
    wait_for("the spool to be trimmed", is_trimmed)
    assert bank.signal(signal.SIGTERM).ends() == 0
    held = bank.read().end
    write_applied(bank.spool, held)
    copy.put_back(held)
    assert bank.start().ends() == 100
    assert "was set back" in bank.log()


def test_trap_50_a_core_that_outgrew_its_old_end_behind_a_running_capture(make_bank):
    bank = make_bank().start()
    insert(bank, 1)
    bank.arrived([1])
    copy = Copy(bank)
    insert(bank, *range(2, 100))
    bank.arrived(range(1, 100))
    bank.signal(signal.SIGSTOP)
    copy.put_back(bank.now())
    bank.signal(signal.SIGCONT)
    assert_refused(bank)


def test_the_same_core_is_not_taken_for_another(make_bank):
    """Crashes set the slot back, but not the history; all kinds of transactions come again."""
    bank = make_bank().start()
    done = []
    for n in range(1, 9):
        insert(bank, n)
        done.append(n)
        bank.sql.execute("insert into private values (%s, '')", (n,))
        bank.sql.execute("select pg_logical_emit_message(false, 'rolag.fence', 'loose')")
        bank.sql.execute("select pg_logical_emit_message(true, 'somebody', 'x')")
        bank.sql.execute("begin")
        insert(bank, 100 + n)
        bank.sql.execute("prepare transaction 'p'")
        if n % 2 == 0:
            bank.core.kill9()
            bank.core.start()
            bank.sql = bank.connect()
        bank.sql.execute("commit prepared 'p'")
        done.append(100 + n)
        if n % 3 == 0:
            bank.signal(signal.SIGKILL).ends()
            bank.start()
        if n == 5:
            bank.arrived(done)
            bank.core.stop("immediate")
            bank.core.start()
            bank.sql = bank.connect()
    bank.arrived(done)
    assert bank.process.poll() is None and "set back" not in bank.log()
