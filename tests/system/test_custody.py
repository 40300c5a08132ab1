"""Custody of the slot: what capture does when it is lost, how much WAL it costs, and what it looks after.

Apply's part, which syncs what a gap took, is not here: these tests end at the spool.
"""
import contextlib
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


@pytest.mark.parametrize("policy", ["resync", "stop"])
def test_trap_04_a_slot_whose_wal_is_gone_is_a_lost_one(make_bank, policy):
    """Somebody deleted it (pg_resetwal, a full disk, a bad restore): the slot itself knows nothing of it."""
    bank = make_bank(capture__on_lost_slot=policy).start()
    insert(bank, 1)
    bank.arrived([1])
    stop(bank)
    needed = bank.one("select pg_walfile_name(restart_lsn) from pg_replication_slots where slot_name = %s", bank.slot)
    for n in (2, 3):
        insert(bank, n)
        bank.sql.execute("select pg_switch_wal()")
        bank.sql.execute("checkpoint")
    os.unlink(os.path.join(bank.core.data, "pg_wal", needed))
    bank.start()
    if policy == "stop":
        assert bank.ends() == 100
        assert "has lost WAL that it was to keep for it; mend: capture.on_lost_slot: resync" in bank.log()
        return
    bank.says("a gap: the slot that had these changes is lost")
    insert(bank, 4)
    bank.arrived([1, 4])
    assert len(gaps(bank)) == 1 and "has lost WAL that it was to keep" in bank.log()


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


@pytest.mark.parametrize("point, action", [
    *((point, action) for point in ("lost_slot.told", "lost_slot.dropped", "lost_slot.made")
      for action in ("kill", "disconnect")),
    ("spool.made", "kill"), ("spool.renamed", "kill"), ("spool.opened", "kill")])
def test_a_death_while_the_slot_is_made_anew_leaves_one_gap(make_bank, monkeypatch, point, action):
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


# ---- publications and identities ----

def test_trap_57_a_dropped_publication_is_noticed_without_traffic(make_bank):
    bank = make_bank(capture__look_interval="1 s").start()
    insert(bank, 1)
    bank.arrived([1])
    time.sleep(1)  # it was seen with its publication
    bank.sql.execute(f"drop publication {bank.pipeline}_inserts")
    bank.says("a publication is gone")
    assert "rolag init makes it again" in bank.log()
    status = bank.status()
    assert status["state"] in ("alarm", "stopped") and status["metrics"]["core_publications_missing"] == 1
    assert bank.process.poll() is None
    bank.publish()
    bank.says("a publication was made again")
    wait_for("no alarm", lambda: bank.status()["metrics"]["core_publications_missing"] == 0)
    insert(bank, 2)  # nothing was written meanwhile: the slot is as good as before
    bank.arrived([1, 2])
    assert gaps(bank) == []


def test_a_publication_made_again_does_not_hide_what_was_written_under_the_old_one(make_bank):
    """Received and not confirmed: the core decodes it once more, after the publication was dropped and made anew. A look at
    pg_publication_tables on the walsender's connection would have it take today's publication, and pass the rows over."""
    bank = make_bank(capture__confirm="applied").start()
    insert(bank, 1, 2)
    bank.arrived([1, 2])
    stop(bank)
    bank.sql.execute(f"drop publication {bank.pipeline}_inserts")
    bank.start()
    assert bank.ends() == 100 and "does not exist" in bank.log()
    bank.publish()
    bank.start()
    insert(bank, 3)
    bank.arrived([1, 2, 3])
    assert "set back" not in bank.log() and gaps(bank) == []


@pytest.mark.parametrize("lost_slot", ["resync", "stop"])
def test_trap_57_what_was_written_without_the_publication_is_a_gap(make_bank, lost_slot):
    """Made again, with traffic between: the slot can never get over it. Not "recreate and retry"."""
    bank = make_bank(capture__on_lost_slot=lost_slot).start()
    insert(bank, 1)
    bank.arrived([1])
    stop(bank)
    bank.sql.execute(f"drop publication {bank.pipeline}_inserts")
    insert(bank, 2)
    bank.publish()
    insert(bank, 3)
    bank.start()
    if lost_slot == "stop":
        assert bank.ends() == 100
        assert "cannot be decoded any further: a publication did not exist" in bank.log()
        assert "mend: capture.on_lost_slot: resync" in bank.log()
        assert gaps(bank) == []
        return
    bank.says("a gap: the slot that had these changes is lost")
    assert "nothing heard" not in bank.log()  # the error came with the start's answer, and was read at once
    insert(bank, 4)
    bank.arrived([1, 4])
    assert len(gaps(bank)) == 1


def test_trap_21_a_published_table_without_identity_is_an_alarm(make_bank):
    """A primary key dropped later, an index that was the identity dropped, a partition without: the bank's own
    UPDATE fails, and capture says so, traffic or not."""
    bank = make_bank(capture__look_interval="1 s")
    bank.sql.execute("create table loans (id int primary key, note text)")
    bank.sql.execute("create table parts (id int not null, note text) partition by range (id)")
    bank.sql.execute("create table parts_1 partition of parts for values from (0) to (10)")
    bank.sql.execute("alter table parts add primary key (id)")
    bank.sql.execute("create table nothing (id int)")
    bank.sql.execute(f"drop publication {bank.pipeline}_inserts")
    # What an insert-only publication has needs no identity.
    bank.publish()
    bank.sql.execute(f"alter publication {bank.pipeline}_inserts add table nothing, loans, parts")
    bank.start().says("stream starts")
    time.sleep(1.5)
    assert "replica identity" not in bank.log()
    bank.sql.execute(f"alter publication {bank.pipeline}_inserts set (publish = 'insert, update, delete')")
    bank.says("a published table has no replica identity")
    assert bank.status()["metrics"]["core_tables_without_identity"] == 2  # events and nothing
    bank.sql.execute(f"alter publication {bank.pipeline}_inserts drop table events, nothing")
    bank.says("every published table has its replica identity again")
    for spoil, repair in [("alter table loans drop constraint loans_pkey", "alter table loans add primary key (id)"),
                          ("alter table loans replica identity nothing", "alter table loans replica identity full"),
                          ("alter table parts_1 replica identity nothing", "alter table parts_1 replica identity default")]:
        table = spoil.split()[2]
        bank.sql.execute(f"insert into {table} values (1, '') on conflict do nothing")
        bank.sql.execute(spoil)
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            bank.sql.execute(f"update {table} set note = 'x'")
        wait_for("the alarm", lambda: bank.status()["metrics"]["core_tables_without_identity"] == 1)
        note = bank.status()["roles"]["capture"]["note"]
        assert table in note and "REPLICA IDENTITY" in note
        bank.sql.execute(repair)
        bank.sql.execute(f"update {table} set note = 'x'")
        wait_for("its end", lambda: bank.status()["metrics"]["core_tables_without_identity"] == 0)
        assert bank.status()["roles"]["capture"]["note"] == ""


def test_trap_53_no_ddl_of_the_bank_is_forbidden_or_waits(make_bank):
    """No column list: a published column changes its type, is dropped, and its table too, while capture streams."""
    bank = make_bank(capture__look_interval="1 s").start()
    insert(bank, 1)
    bank.arrived([1])
    with bank.connect() as ddl:
        ddl.execute("set lock_timeout = '2s'")
        for sql in ("alter table events alter column writer type bigint", "alter table events drop column note",
                    "alter table events add column note text", "truncate events", "drop table private",
                    "create index on events (id)", "alter table events rename to happenings",
                    "alter table happenings rename to events", "drop table events"):
            ddl.execute(sql)
    assert bank.process.poll() is None


def test_trap_26_no_lock_on_the_core_but_access_share(make_bank):
    """Asked all the time, while it streams, looks at the catalog, and makes a slot anew."""
    bank = make_bank(capture__look_interval="1 s", capture__heartbeat_interval="100 ms").start()
    found, done = set(), threading.Event()

    def watch():
        with bank.connect(application_name="watch") as c:
            while not done.is_set():
                found.update(c.execute(
                    "select l.locktype, coalesce(l.relation::regclass::text, ''), l.mode from pg_locks l"
                    " join pg_stat_activity a using (pid) where a.application_name like 'rolag%%'"
                    # 'object': every session's start takes one of its own database, for a moment
                    " and a.datname = %s and l.locktype not in ('virtualxid', 'transactionid', 'object')"
                    " and l.mode <> 'AccessShareLock'", (bank.pipeline,)).fetchall())
                idle = c.execute("select count(*) from pg_stat_activity where datname = %s and application_name like"
                                 " 'rolag%%' and state = 'idle in transaction'", (bank.pipeline,)).fetchone()[0]
                if idle:
                    found.add(("idle in transaction",))
    watcher = threading.Thread(target=watch)
    watcher.start()
    insert(bank, *range(1, MANY))
    bank.arrived(range(1, MANY))
    stop(bank)
    bank.drop_slot()
    bank.start().says("a gap: the slot")
    insert(bank, MANY)
    bank.arrived(range(1, MANY + 1))
    done.set()
    watcher.join()
    # A message in a transaction needs a transaction id: that is all, and nobody waits for it.
    assert {f for f in found if f[0] != "tuple"} == set()


# ---- WAL ----

def test_trap_25_the_loss_of_the_slot_is_forecast(make_bank):
    """Capture holds on (nothing is applied) and the core writes on: status, metrics and log say when it ends, and
    whose transaction is not ours."""
    with Cluster("limited", settings={"max_slot_wal_keep_size": "256MB"}) as limited:
        bank = make_bank(limited, capture__confirm="applied").start()
        bank.says("stream starts")
        with bank.connect() as open_one:
            open_one.autocommit = False
            open_one.execute("insert into private values (1, '')")
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                bank.sql.execute("insert into private select g, repeat('x', 300) from generate_series(1, 8000) g")
                time.sleep(0.25)  # not so fast that it is over before there is anything to measure
                if "the slot will be lost, if the core goes on at this rate" in bank.log():
                    break
            bank.says("the slot will be lost, if the core goes on at this rate", 1)
            status = bank.status()
            assert 0 < status["slot_lost_in_seconds"] < 4 * 3600
            assert status["metrics"]["core_slot_alarm"] == 1 and not status["healthy"]
            limit = status["metrics"]["core_slot_limit_bytes"]
            assert 240 << 20 <= limit <= 288 << 20, limit
            pid = open_one.info.backend_pid
            assert status["metrics"]["core_oldest_transaction_pid"] == pid
            text = bank.status_text()
            assert f"the rest: transaction of pid {pid}, open " in text and "at this rate" in text
            open_one.rollback()
        write_applied(bank.spool, bank.read().end)


def test_trap_25_budget_and_quota_both_full_is_an_alarm(make_bank):
    bank = make_bank(capture__confirm="applied", capture__wal_budget="16 MB", spool__quota="1 MB",
                     spool__segment_size="64 kB").start()
    bank.says("stream starts")
    for n in range(30):
        bank.sql.execute("insert into events select g, %s, (select string_agg(md5(random()::text || g || s), '')"
                         " from generate_series(1, 60) s) from generate_series(1, 300) g", (n,))
    bank.says("WAL budget and spool are both full")
    assert bank.status()["metrics"]["core_slot_alarm"] == 1
    bank.settings["spool__quota"] = "1 GB"
    stop(bank)
    bank.start()
    position = bank.now()
    wait_for("the slot to follow by spilling", lambda: bank.confirmed() >= position)
    wait_for("no alarm", lambda: bank.status()["metrics"]["core_slot_alarm"] == 0)


# ---- transactions ----

def test_trap_17_aborted_subtransactions_of_a_large_transaction_are_void(make_bank):
    """Larger than logical_decoding_work_mem, so that a server that were asked to would stream it. We never ask."""
    bank = make_bank().start()
    bank.says("stream starts")
    with bank.connect() as c, c.transaction():
        for n in range(40):
            with contextlib.suppress(psycopg.Rollback), c.transaction() as t:
                c.execute("insert into events select %s * 1000 + g, 0, repeat('x', 50) from generate_series(0, 299) g", (n,))
                with contextlib.suppress(psycopg.Rollback), c.transaction() as inner:
                    c.execute("insert into events values (-1, 0, 'of an inner one')")
                    raise psycopg.Rollback(inner)
                if n % 3 == 0:
                    raise psycopg.Rollback(t)
    kept = [n * 1000 + g for n in range(40) if n % 3 for g in range(300)]
    bank.arrived(kept)
    assert sum(bool(t.rows()) for t in bank.read().transactions) == 1
    assert "streaming" not in "".join(line for line in bank.core.log_tail().splitlines() if "START_REPLICATION" in line)


def test_trap_18_a_large_transaction_cut_by_reconnects_arrives_once(make_bank):
    bank = make_bank().start()
    bank.says("stream starts")
    cut, size = 0, 60000
    for turn in range(6):
        before = bank.read().bytes
        bank.sql.execute("insert into events select g, 0, repeat(md5(g::text), 8)"
                         " from generate_series(%s::int, %s::int) g", (turn * size, turn * size + size - 1))
        with contextlib.suppress(AssertionError):  # it was faster than we looked
            wait_for("a part of it in the spool", lambda: sum(  # pylint: disable=cell-var-from-loop
                e.stat().st_size for e in os.scandir(bank.spool)) > before + 100_000, 5)
        arrived = len(bank.ids()) == (turn + 1) * size
        bank.sql.execute("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s"
                         " and active_pid is not null", (bank.slot,))
        cut += not arrived
        bank.arrived(range((turn + 1) * size))
        if cut >= 1:
            break
    assert cut >= 1, "never cut in its middle"
    assert sum(bool(t.rows()) for t in bank.read().transactions) == turn + 1


def test_trap_58_a_prepared_transaction_comes_whole_over_reconnects(make_bank):
    """Confirmed past PREPARE, then a new connection, then COMMIT PREPARED: with two_phase the rows would be gone."""
    bank = make_bank().start()
    bank.sql.execute("begin; insert into events select g, 0, '' from generate_series(1, 100) g; prepare transaction 'p58'")
    insert(bank, 1000)
    bank.arrived([1000])
    position = bank.now()
    wait_for("the slot to pass PREPARE", lambda: bank.confirmed() >= position)
    stop(bank)
    assert not bank.one("select two_phase from pg_replication_slots where slot_name = %s", bank.slot)
    bank.start().says("stream starts")
    bank.sql.execute("commit prepared 'p58'")
    bank.arrived([*range(1, 101), 1000])
    assert [len(t.rows()) for t in bank.read().transactions if t.rows()] == [1, 100]


def test_trap_30_a_torn_tail_is_cut_and_comes_again(make_bank):
    """kill -9, and what a power cut leaves: the last bytes gone, or others in their place."""
    bank = make_bank(capture__confirm="applied").start()
    number = 0
    for spoil in ("cut", "garbage", "zeros"):
        insert(bank, *range(number, number + 20))
        number += 20
        bank.arrived(range(number))
        bank.signal(signal.SIGKILL)
        bank.ends()
        newest = max(e.path for e in os.scandir(bank.spool) if e.name.endswith(".seg"))
        size = os.path.getsize(newest)
        with open(newest, "r+b") as f:
            if spoil == "cut":
                f.truncate(size - 7)
            else:
                f.seek(size)
                f.write(os.urandom(3000) if spoil == "garbage" else bytes(5000))
        wait_for("the slot to be free", lambda: bank.walsender() is None)
        bank.start()
        bank.arrived(range(number))
        assert gaps(bank) == []


def test_trap_03_a_failed_sync_is_the_end_and_never_tried_again(make_bank, monkeypatch):
    """The kernel may have dropped the pages: nothing of them is confirmed, and the next start reads them again."""
    bank = make_bank().start()
    insert(bank, 1)
    bank.arrived([1])
    stop(bank)
    confirmed = bank.confirmed()
    monkeypatch.setenv("ROLAG_FAILPOINTS", "spool.sync=EIO@2")
    bank.start(FAIL_BINARY)
    monkeypatch.delenv("ROLAG_FAILPOINTS")
    bank.says("stream starts")
    with contextlib.suppress(psycopg.Error):
        insert(bank, *range(2, 50))
    assert bank.ends() == 111
    assert bank.log().count("failpoint fired") == 1
    wait_for("the slot to be free", lambda: bank.walsender() is None)
    behind = bank.confirmed()
    assert behind >= confirmed
    bank.start()
    bank.arrived(range(1, 50))
