"""Capture on a real core: what is committed comes into the spool, whole, once, in commit order."""
import contextlib
import itertools
import json
import os
import signal
import socket
import struct
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
from spool_peek import Spool, write_applied  # noqa: E402

WAIT = 120  # longest patience with anything; never a measure of speed
numbers = itertools.count(1)


def wait_for(what, condition, seconds=WAIT, pause=0.05):
    """Polls until condition is true; its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(pause)


def lsn(text):
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


class Bank:
    """A database with a published table, its slot, and capture on it."""

    def __init__(self, core, folder, **settings):
        self.core, self.folder, self.number = core, str(folder), next(numbers)
        self.pipeline = f"bank{self.number}"
        self.slot = f"rolag_{self.pipeline}"
        core.psql(f"create database {self.pipeline}", database="postgres")
        self.sql = self.connect()
        self.sql.execute("create table events (id int, writer int, note text)")
        self.sql.execute("create table private (id int, note text)")
        self.publish()
        self.create_slot()
        self.process, self.settings, self.logs = None, settings, []
        self.state = os.path.join(self.folder, "state")

    def connect(self, **more):
        return psycopg.connect(self.core.conninfo(self.pipeline), autocommit=True, **more)

    def publish(self):
        self.sql.execute(f"create publication {self.pipeline}_inserts for table events"
                         " with (publish = 'insert, truncate')")

    def create_slot(self):
        self.sql.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (self.slot,))

    def drop_slot(self):
        """A walsender lets its slot go a moment after its client is gone."""
        wait_for("the slot to be free", lambda: self.walsender() is None)
        self.sql.execute("select pg_drop_replication_slot(%s)", (self.slot,))

    def one(self, query, *parameters):
        return self.sql.execute(query, parameters).fetchone()[0]

    # capture ----------------------------------------------------------------------------------
    @property
    def spool(self):
        return os.path.join(self.state, "spool")

    def configure(self):
        groups = {"capture": {"confirm": "spooled"}, "spool": {"reserve": "0"}, "log": {"level": "debug"}}
        for key, value in self.settings.items():
            group, name = key.split("__")
            groups.setdefault(group, {})[name] = value
        path = os.path.join(self.folder, f"{os.path.basename(self.state)}.yaml")
        with open(path, "w", encoding="utf-8") as f:
            f.write(f"pipeline: {self.pipeline}\nstate_dir: {self.state}\n"
                    f"core:\n  connect: \"{self.core.conninfo(self.pipeline)}\"\n"
                    "warehouse:\n  connect: \"dbname=none\"\nrollups:\n  path: none\n")
            for group, values in groups.items():
                f.write(f"{group}:\n" + "".join(f"  {k}: {v}\n" for k, v in values.items()))
        return path

    def start(self, program=ROLAG):
        self.logs.append(os.path.join(self.folder, f"log{len(self.logs)}"))
        with open(self.logs[-1], "wb") as out:
            self.process = subprocess.Popen([program, "capture", "--config", self.configure()], stderr=out)
        return self

    def log(self):
        with open(self.logs[-1], encoding="utf-8") as f:
            return f.read()

    def says(self, text, seconds=WAIT):
        wait_for(f"\"{text}\" in the log:\n{self.log()}", lambda: text in self.log(), seconds)

    def status(self):
        return json.loads(self.status_text("--json"))

    def status_text(self, *options):
        return subprocess.run([ROLAG, "status", "--config", self.configure(), *options], capture_output=True,
                              text=True, check=False).stdout

    def signal(self, number):
        self.process.send_signal(number)
        return self

    def ends(self):
        code = self.process.wait(WAIT)
        self.process = None
        return code

    def release(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(psycopg.Error):  # the core itself may be gone
            wait_for("the slot to be free", lambda: not self.walsender())
            self.sql.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots"
                             " where slot_name = %s", (self.slot,))
        self.sql.close()

    # what came --------------------------------------------------------------------------------
    def read(self):
        return Spool(self.spool)

    def ids(self):
        return [int.from_bytes(r["id"][1], "big") if r["id"][0] == "b" else int(r["id"][1])
                for t in self.read().transactions for r in t.rows("events")]

    def confirmed(self):
        return lsn(self.one("select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s",
                            self.slot))

    def now(self):
        return lsn(self.one("select pg_current_wal_lsn()::text"))

    def walsender(self):
        """Its pid, or None."""
        row = self.sql.execute("select active_pid from pg_replication_slots where slot_name = %s",
                               (self.slot,)).fetchone()
        return row and row[0]

    def arrived(self, expected):
        wait_for(f"{len(expected)} rows in the spool", lambda: sorted(self.ids()) == sorted(expected))


@pytest.fixture(scope="module")
def core():
    with Cluster("core", settings={"wal_sender_timeout": "6s", "max_prepared_transactions": 2}) as cluster:
        yield cluster


@pytest.fixture
def make_bank(tmp_path, core):
    with contextlib.ExitStack() as stack:
        def make(cluster=None, **settings):
            bank = Bank(cluster or core, tmp_path, **settings)
            stack.callback(bank.release)
            return bank
        yield make


def test_transactions_arrive_whole_and_in_commit_order(make_bank):
    bank = make_bank().start()
    per_writer, writers = 60, 4

    def write(writer):
        with bank.connect() as c:
            for n in range(per_writer):
                with c.transaction():
                    for part in range(3):
                        c.execute("insert into events values (%s, %s, 'x')",
                                  ((writer * per_writer + n) * 3 + part, writer))
                if n % 7 == 0:
                    with contextlib.suppress(psycopg.Rollback), c.transaction() as t:
                        c.execute("insert into events values (-1, %s, 'rolled back')", (writer,))
                        raise psycopg.Rollback(t)

    threads = [threading.Thread(target=write, args=(w,)) for w in range(writers)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    bank.arrived(range(per_writer * writers * 3))
    found = [t for t in bank.read().transactions if t.rows()]
    assert all(len(t.rows()) == 3 for t in found)
    assert [t.end for t in found] == sorted({t.end for t in found})
    for writer in range(writers):  # each writer's own order is kept
        ids = [int.from_bytes(r["id"][1], "big") for t in found for r in t.rows()
               if int.from_bytes(r["writer"][1], "big") == writer]
        assert ids == sorted(ids)


def test_sigterm_ends_cleanly_and_the_next_start_goes_on(make_bank):
    bank = make_bank().start()
    bank.sql.execute("insert into events select g from generate_series(1, 100) g")
    bank.arrived(range(1, 101))
    assert bank.signal(signal.SIGTERM).ends() == 0
    end = bank.read().end
    wait_for("the slot to be free", lambda: bank.walsender() is None)
    assert bank.confirmed() == end  # the last word was heard
    bank.sql.execute("insert into events select g from generate_series(101, 200) g")
    bank.start().arrived(range(1, 201))


def test_trap_01_kill_with_a_transaction_in_flight(make_bank):
    bank = make_bank().start()
    bank.says("stream starts")
    total, size = 0, 60000
    for _ in range(6):
        before = bank.read().bytes
        bank.sql.execute("insert into events select g, 0, repeat(md5(g::text), 8)"
                         " from generate_series(%s::int, %s::int) g", (total, total + size - 1))
        wait_for("a part of it in the spool", lambda: sum(  # pylint: disable=cell-var-from-loop
            e.stat().st_size for e in os.scandir(bank.spool)) > before + 200_000, pause=0.001)
        bank.signal(signal.SIGKILL)
        bank.ends()
        assert len(bank.ids()) in (total, total + size)  # a part of it is nowhere to be seen
        in_flight = len(bank.ids()) == total
        total += size
        bank.start()
        bank.arrived(range(total))
        if in_flight:
            return
        size *= 2       # whoever is slow to kill it has more time
    pytest.fail("never killed with a transaction in flight")


def test_kill_and_restart_of_the_core_under_load(make_bank):
    with Cluster("fragile", settings={"fsync": "on"}) as fragile:
        bank = make_bank(fragile).start()
        bank.says("stream starts")
        total = 0
        for how in ("fast", "kill", "immediate"):
            for _ in range(50):
                bank.sql.execute("insert into events values (%s, 0, '')", (total,))
                total += 1
            if how == "kill":
                fragile.kill9()
            else:
                fragile.stop(how)
            bank.says("no stream from the core")
            fragile.start()
            bank.sql.close()
            bank.sql = bank.connect()
            bank.sql.execute("insert into events values (%s, 0, '')", (total,))
            total += 1
            bank.arrived(range(total))
        assert bank.process.poll() is None


def test_a_core_that_shuts_down_is_not_held_up_by_a_warehouse_that_is_away(make_bank):
    with Cluster("closing") as closing:
        bank = make_bank(closing, capture__confirm="applied").start()
        bank.sql.execute("insert into events values (1, 0, '')")
        bank.arrived([1])  # and never applied
        closing.stop("fast")
        assert "database system is shut down" in closing.log_tail()
        assert bank.process.poll() is None


def test_trap_02_an_idle_publication_does_not_pin_wal(make_bank):
    bank = make_bank(capture__heartbeat_interval="60 s").start()
    for _ in range(3):
        bank.sql.execute("insert into private select g, repeat('x', 100) from generate_series(1, 5000) g")
        position = bank.now()
        wait_for("the slot to follow", lambda: bank.confirmed() >= position)  # pylint: disable=cell-var-from-loop
    assert bank.ids() == []
    assert len(bank.read().progress) > 0


def test_confirm_applied_moves_the_slot_only_when_apply_says_so(make_bank):
    bank = make_bank(capture__confirm="applied").start()
    first = bank.confirmed()
    bank.sql.execute("insert into events values (1, 0, '')")
    bank.sql.execute("insert into events values (2, 0, '')")
    bank.arrived([1, 2])
    one, two = [t.end for t in bank.read().transactions if t.rows()]
    heartbeats = len(bank.read().transactions)
    wait_for("two heartbeats more", lambda: len(bank.read().transactions) >= heartbeats + 2)
    assert bank.confirmed() == first
    write_applied(bank.spool, one)
    wait_for("the slot to follow", lambda: bank.confirmed() == one)
    write_applied(bank.spool, two, timeline=7)  # of another history: not ours
    heartbeats = len(bank.read().transactions)
    wait_for("two heartbeats more", lambda: len(bank.read().transactions) >= heartbeats + 2)
    assert bank.confirmed() == one
    write_applied(bank.spool, two)
    wait_for("the slot to follow", lambda: bank.confirmed() == two)


def test_trap_25_past_the_budget_the_spool_is_confirmed(make_bank):
    bank = make_bank(capture__confirm="applied", capture__wal_budget="16 MB").start()
    bank.says("stream starts")
    bank.sql.execute("insert into events select g, 0, repeat('x', 200) from generate_series(1, 100000) g")
    bank.says("spilling: past the WAL budget")
    position = bank.now()
    wait_for("the slot to follow", lambda: bank.confirmed() >= position)
    write_applied(bank.spool, bank.read().end)
    bank.says("no longer spilling")


def test_heartbeat_and_fence_come_through_and_nothing_else(make_bank):
    bank = make_bank(capture__heartbeat_interval="100 ms").start()
    bank.sql.execute("select pg_logical_emit_message(true, 'rolag.fence', 'run 1')")
    bank.sql.execute("select pg_logical_emit_message(true, 'other', 'secret')")
    bank.sql.execute("select pg_logical_emit_message(true, 'rolag.fence', repeat('x', 5000))")
    bank.sql.execute("select pg_logical_emit_message(false, 'rolag.fence', 'not in a transaction')")
    bank.sql.execute("insert into events values (1, 0, '')")
    bank.arrived([1])
    wait_for("heartbeats", lambda: sum(c[1] == "rolag.heartbeat" for t in bank.read().transactions
                                       for c in t.changes) >= 3)
    messages = [c for t in bank.read().transactions for c in t.changes if c[0] == "MESSAGE"]
    assert [c[2] for c in messages if c[1] != "rolag.heartbeat"] == [b"run 1"]
    version, at_us = next(c[2] for c in messages if c[1] == "rolag.heartbeat").split()
    assert version == b"1" and abs(int(at_us) / 1e6 - time.time()) < 3600


def test_trap_13_rows_have_the_shape_of_their_moment(make_bank):
    bank = make_bank().start()
    with bank.connect() as c, c.transaction():
        c.execute("insert into events values (1, 0, 'a')")
        c.execute("alter table events rename note to remark")
        c.execute("insert into events values (2, 0, 'b')")
        c.execute("alter table events drop column remark")
        c.execute("insert into events values (3, 0)")
    bank.sql.execute("alter table events add column late int")
    bank.sql.execute("insert into events values (4, 0, 5)")
    bank.arrived([1, 2, 3, 4])
    rows = [r for t in bank.read().transactions for r in t.rows()]
    assert [sorted(r) for r in rows] == [["id", "note", "writer"], ["id", "remark", "writer"],
                                         ["id", "writer"], ["id", "late", "writer"]]


def test_truncate_and_prepared_transactions(make_bank):
    bank = make_bank().start()
    bank.sql.execute("begin; insert into events values (1, 0, ''); prepare transaction 'p'")
    bank.sql.execute("insert into events values (2, 0, '')")
    bank.arrived([2])
    bank.sql.execute("commit prepared 'p'")
    bank.arrived([2, 1])
    bank.sql.execute("truncate events restart identity")
    wait_for("the truncate", lambda: ("TRUNCATE", "events", 2) in [
        c for t in bank.read().transactions for c in t.changes])


def test_trap_56_types_without_binary_form_come_as_text(make_bank):
    bank = make_bank().start()
    bank.sql.execute("insert into events values (1, 0, '')")
    bank.arrived([1])
    assert "binary=on" in bank.log()
    bank.sql.execute("alter table events add column acl aclitem[]")
    bank.sql.execute("insert into events values (2, 0, '', '{postgres=r/postgres}')")
    bank.arrived([1, 2])
    bank.says("the core cannot send all in binary")
    kinds = [r["id"][0] for t in bank.read().transactions for r in t.rows()]
    assert kinds == ["b", "t"]
    assert bank.signal(signal.SIGTERM).ends() == 0
    bank.start()  # and from the start it is known beforehand
    bank.sql.execute("insert into events values (3, 0, '', null)")
    bank.arrived([1, 2, 3])
    assert "binary=off" in bank.log() and "a published type has no binary form" in bank.log()


def test_trap_24_a_slot_in_use_is_waited_for(make_bank):
    bank = make_bank()
    other = subprocess.Popen([f"{bank.core.bin}/pg_recvlogical", "-d", bank.core.conninfo(bank.pipeline),
                              "-S", bank.slot, "--start", "-f", "/dev/null", "-o", "proto_version=1",
                              "-o", f"publication_names={bank.pipeline}_inserts"], stderr=subprocess.DEVNULL)
    try:
        holder = wait_for("the other to hold the slot", bank.walsender)
        bank.start().says(f"is in use by pid {holder} (application_name 'pg_recvlogical'")
        time.sleep(6)  # longer than the grace that a walsender of our own would get
        assert bank.walsender() == holder
    finally:
        other.terminate()
        other.wait()
    bank.sql.execute("insert into events values (1, 0, '')")
    bank.arrived([1])


def test_trap_24_our_own_stale_walsender_is_terminated(make_bank):
    with Cluster("patient", settings={"wal_sender_timeout": "0"}) as patient:
        bank = make_bank(patient).start()
        bank.says("stream starts")
        stale, frozen = bank.walsender(), bank.process
        frozen.send_signal(signal.SIGSTOP)  # as behind a network that went away: silent, never closed
        try:
            bank.process, bank.state = None, os.path.join(bank.folder, "second")
            bank.start().says("our own stale walsender, terminated")
            bank.sql.execute("insert into events values (1, 0, '')")
            bank.arrived([1])
            assert bank.walsender() != stale
        finally:
            frozen.kill()
            frozen.wait()


def test_two_captures_on_one_state_folder(make_bank):
    bank = make_bank().start()
    bank.says("stream starts")
    first, sender = bank.process, bank.walsender()
    assert bank.start().ends() == 100
    assert str(first.pid) in bank.log()
    bank.process = first
    assert bank.walsender() == sender


def test_trap_28_a_full_spool_keeps_the_connection(make_bank):
    bank = make_bank(capture__confirm="applied", spool__quota="1 MB", spool__segment_size="64 kB").start()
    bank.says("stream starts")
    sender = bank.walsender()
    for n in range(20):
        bank.sql.execute("insert into events select g, %s, (select string_agg(md5(random()::text || g || s), '')"
                         " from generate_series(1, 60) s) from generate_series(%s::int, %s::int) g",
                         (n, n * 100, n * 100 + 99))
    bank.says("the spool is full")
    have = len(bank.ids())
    assert have < 2000
    time.sleep(8)  # longer than the server's patience with a silent client
    assert bank.walsender() == sender
    assert len(bank.ids()) - have < 2000 - have
    seen = set()

    def all_came():
        spool = bank.read()
        seen.update(int.from_bytes(r["id"][1], "big") for t in spool.transactions for r in t.rows("events"))
        write_applied(bank.spool, spool.end)
        return len(seen) == 2000
    wait_for("the rest, once apply works again", all_came)
    assert bank.walsender() == sender
    bank.says("the spool has room again")


def test_trap_28_what_apply_had_before_the_start_makes_room(make_bank):
    bank = make_bank(capture__confirm="applied", spool__quota="1 MB", spool__segment_size="64 kB")
    for n in range(20):
        bank.sql.execute("insert into events select g, %s, (select string_agg(md5(random()::text || g || s), '')"
                         " from generate_series(1, 60) s) from generate_series(1, 100) g", (n,))
    position = bank.now()
    os.makedirs(bank.spool)
    write_applied(bank.spool, position)  # the slot is behind: as after a crash of the core
    bank.start()
    wait_for("the slot to follow", lambda: bank.confirmed() >= position)


def test_trap_50_a_core_set_back_on_its_own_timeline_is_refused(make_bank):
    with Cluster("setback") as setback:
        bank = make_bank(setback).start()
        bank.sql.execute("insert into events values (1, 0, '')")
        bank.arrived([1])
        setback.stop()
        subprocess.run(["cp", "-a", setback.data, setback.data + ".old"], check=True)  # a snapshot of its disk
        setback.start()
        bank.sql = bank.connect()
        bank.sql.execute("insert into events select g, 0, repeat('x', 100) from generate_series(2, 5000) g")
        bank.arrived(range(1, 5001))
        end = bank.read().end
        setback.kill9()
        os.rename(setback.data, setback.data + ".new")
        os.rename(setback.data + ".old", setback.data)
        setback.start()  # what it writes from here on has positions that were there before
        assert bank.ends() == 100
        assert "set back" in bank.log()
        write_applied(bank.spool, end)
        assert bank.start().ends() == 100
        assert "set back" in bank.log()


class Deaf(threading.Thread):
    """A server that takes connections and logins, and then never answers anything."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.folder, self.clients = str(folder), []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.path.join(self.folder, ".s.PGSQL.5432"))
        self.listener.listen()
        self.start()

    def conninfo(self, database):
        return f"host={self.folder} port=5432 dbname={database} user=postgres"

    def run(self):
        while True:
            client, _ = self.listener.accept()
            self.clients.append(client)
            settings = b"".join(b"S" + struct.pack(">I", 4 + len(kv)) + kv for kv in (
                b"server_version\x0015.1\0", b"client_encoding\0UTF8\0", b"standard_conforming_strings\0on\0"))
            with contextlib.suppress(OSError):  # it went away
                client.recv(4096)
                client.sendall(b"R" + struct.pack(">II", 8, 0) + settings + b"Z" + struct.pack(">I", 5) + b"I")


def test_a_core_that_takes_connections_and_never_answers_is_given_up(make_bank, tmp_path):
    bank = make_bank()
    bank.core = Deaf(tmp_path)
    bank.start().says("no answer within 30 s")
    assert bank.signal(signal.SIGTERM).ends() == 0


def test_a_core_that_has_nothing_to_say_is_not_taken_for_dead(make_bank):
    with Cluster("quiet", settings={"wal_sender_timeout": "6s", "autovacuum": "off"}) as quiet:
        bank = make_bank(quiet)
        bank.sql.execute("create role quiet login replication")  # which may not write heartbeats
        bank.sql.execute("revoke execute on function pg_logical_emit_message(bool, text, text) from public")
        plain = quiet.conninfo
        quiet.conninfo = lambda database: plain(database) + " user=quiet"
        bank.start().says("no heartbeat")
        quiet.conninfo = plain
        sender = wait_for("the walsender", bank.walsender)
        wait_for("the core's last word", lambda: bank.now() == (time.sleep(20) or bank.now()))
        time.sleep(18)  # longer than the silence that is taken for death
        assert bank.walsender() == sender, bank.log()


def test_trap_04_a_recreated_slot_is_refused(make_bank):
    bank = make_bank(capture__on_lost_slot="stop").start()
    bank.sql.execute("insert into events values (1, 0, '')")
    bank.arrived([1])
    assert bank.signal(signal.SIGTERM).ends() == 0
    bank.drop_slot()
    bank.sql.execute("insert into events values (2, 0, '')")  # nobody will ever send this
    bank.create_slot()
    assert bank.start().ends() == 100


def test_trap_04_a_slot_recreated_behind_a_running_capture_is_refused(make_bank):
    bank = make_bank(capture__on_lost_slot="stop").start()
    bank.sql.execute("insert into events values (1, 0, '')")
    bank.arrived([1])
    bank.signal(signal.SIGSTOP)
    pid = bank.walsender()
    bank.sql.execute("select pg_terminate_backend(%s)", (pid,))
    bank.drop_slot()
    bank.sql.execute("insert into events values (2, 0, '')")
    bank.create_slot()
    bank.signal(signal.SIGCONT)
    assert bank.ends() == 100
    assert "recreated" in bank.log()


@pytest.mark.parametrize("what, drop, says", [
    ("slot", "select pg_drop_replication_slot('{0.slot}')",
     "does not exist in the core, and nothing came from it yet; mend: rolag init"),
    ("publication", "drop publication {0.pipeline}_inserts", "does not exist in the core; mend: rolag init"),
])
def test_what_is_missing_is_said_with_its_mend(make_bank, what, drop, says):
    bank = make_bank()
    bank.sql.execute(drop.format(bank))
    assert bank.start().ends() == 100
    assert what in bank.log() and says in bank.log()


def test_a_publication_dropped_while_streaming_is_said_with_its_mend(make_bank):
    bank = make_bank().start()
    bank.says("stream starts")
    bank.sql.execute(f"drop publication {bank.pipeline}_inserts")
    bank.sql.execute("insert into events values (1, 0, '')")
    assert bank.ends() == 100
    assert "a publication did not exist when a change was made" in bank.log()


def test_trap_25_a_slot_that_lost_its_wal_is_said_with_its_mend(make_bank):
    with Cluster("tight", settings={"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB",
                                    "min_wal_size": "32MB"}) as tight:
        bank = make_bank(tight, capture__on_lost_slot="stop")
        for _ in range(4):
            bank.sql.execute("insert into private select g, repeat('x', 300) from generate_series(1, 50000) g")
            bank.sql.execute("select pg_switch_wal()")
            bank.sql.execute("checkpoint")
        assert bank.one("select wal_status from pg_replication_slots") == "lost"
        assert bank.start().ends() == 100
        assert "was invalidated" in bank.log() and "mend:" in bank.log()


def test_a_core_that_is_away_is_waited_for(make_bank):
    with Cluster("late") as late:
        bank = make_bank(late)
        late.stop()
        bank.start().says("no stream from the core")
        late.start()
        bank.sql = bank.connect()
        bank.sql.execute("insert into events values (1, 0, '')")
        bank.arrived([1])


@pytest.mark.parametrize("slot", ["without the slot", "with the slot"])
def test_a_standby_is_not_taken_for_a_core_that_lost_its_slot(make_bank, slot):
    with Cluster("standby") as standby:
        bank = make_bank(standby)
        if slot == "without the slot":
            bank.sql.execute("select pg_drop_replication_slot(%s)", (bank.slot,))
        standby.stop()
        with open(os.path.join(standby.data, "standby.signal"), "wb"):
            pass
        standby.start()
        bank.start().says("this server is a standby")
        bank.says("no heartbeat")
        assert bank.process.poll() is None
        os.unlink(os.path.join(standby.data, "standby.signal"))
        standby.restart()  # the primary is back
        bank.sql = bank.connect()
        if slot == "without the slot":
            assert bank.ends() == 100
            assert "and nothing came from it yet; mend: rolag init" in bank.log()
        else:
            bank.sql.execute("insert into events values (1, 0, '')")
            bank.arrived([1])


def test_the_second_connection_may_fail_without_the_stream(make_bank):
    bank = make_bank(capture__heartbeat_interval="100 ms").start()
    bank.says("stream starts")
    sender = bank.walsender()
    for _ in range(3):
        killed = wait_for("the second connection", lambda: bank.sql.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s and pid <> %s",
            (f"rolag capture {bank.pipeline}", sender)).fetchall())
        assert killed == [(True,)]
    bank.says("the second connection to the core works again")
    bank.sql.execute("insert into events values (1, 0, '')")
    bank.arrived([1])
    assert bank.walsender() == sender


def test_signals_reload_the_log_level_and_print_the_status(make_bank):
    bank = make_bank().start()
    bank.says("stream starts")
    bank.signal(signal.SIGUSR2).says("status state=")
    bank.settings["log__level"] = "error"
    bank.configure()
    bank.signal(signal.SIGHUP)

    def is_silent():
        before = bank.log()
        bank.signal(signal.SIGUSR2)
        time.sleep(0.5)
        return bank.log() == before
    wait_for("the new level", is_silent)
    bank.settings["log__level"] = "nonsense"
    bank.configure()
    bank.signal(signal.SIGHUP).says("the old one stays")
    assert bank.process.poll() is None
