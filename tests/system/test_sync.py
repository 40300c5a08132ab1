"""Sync: tables brought up to the core while the stream flows for all others; first load is one of its uses."""
import os
import random
import shutil
import signal
import threading

import psycopg
import pytest
from mirrors import assert_mirrors, make_mirrors
from pipeline import (PERMANENT, ROLE, ROOT, SOME, Bank, Pipeline, Process, Writing, entity, wait_for, workers,
                      write_role, write_roles)
from standby import make_standby

FAIL_BINARY = os.environ.get("ROLAG_FAIL_BINARY", os.path.join(ROOT, "build", "fail", "rolag"))


def test_a_sync_killed_again_and_again_goes_on_where_it_was(make_pipeline):
    """Begun in the middle of the load; apply and its workers die at random."""
    p = make_pipeline({"sync": {"chunk": 300}, "apply": {"batch_rows": 200}}, land=SOME)
    dice = random.Random(32)
    bank = Bank(p.core_conninfo, seed=32)
    bank.bulk(30_000)
    with Writing(bank, rate=60):
        p.init()
        p.start_capture()
        p.start_apply()
        read = kills = 0
        while (kills < 12 or read == 0) and p.warehouse("select count(*) from rolag.relation where state <> 'live'") != [(0,)]:
            # On a slow machine the first kills come before a worker has read anything: later ones leave more time.
            threading.Event().wait(dice.uniform(0.05, 0.4) * (1 + kills / 6))
            before = dict(p.warehouse("select name, rows from rolag.sync"))
            victims = workers(p)
            if victims and dice.random() < 0.6:
                os.kill(dice.choice(victims), signal.SIGKILL)
            else:
                p.apply.kill9()
                p.start_apply()
            kills += 1
            after = dict(p.warehouse("select name, rows from rolag.sync"))
            assert all(after[name] >= rows for name, rows in before.items() if name in after), "it began anew"
            read = max([read, *after.values()])
        assert kills >= 3 and read > 0
        p.wait_live()
        p.wait_applied()
    p.wait_applied()
    p.assert_equal()
    p.stop()


def test_a_table_added_later_under_write_load(make_pipeline):
    p = make_pipeline(land=SOME[:5])
    p.init()
    p.start()
    bank = Bank(p.core_conninfo, seed=33)
    bank.bulk(8_000)
    with Writing(bank, rate=100):
        p.configure({"rollups": {"land": SOME}})
        out = p.init()
        assert out.count("publication") >= 5 and "added public." in out
        assert p.apply.stop() == 0
        p.start_apply()
        p.wait_live()
        p.wait_applied()
    p.wait_applied()
    p.assert_equal()
    p.stop()


def test_a_table_that_is_landed_no_longer_is_parked_and_synced_when_it_returns(make_pipeline):
    """Entities born meanwhile would be missing for ever, without a gap that could show it."""
    p = make_pipeline(land=[ROLE, SOME[0]])
    state = "select state from rolag.relation where name = %s"
    p.init()
    p.start()
    with p.writing() as conn:
        write_role(conn, 1, 1)
        write_role(conn, 1, 2)
    p.wait_applied()
    p.configure({"rollups": {"land": [SOME[0]]}})
    assert p.apply.stop() == 0
    p.start_apply()
    wait_for("the rollup to be parked", lambda: p.warehouse(state, ROLE) == [("parked",)])
    assert p.apply.lines("no longer landed", f"rollup={ROLE}")
    with p.writing() as conn:
        write_role(conn, 1, 3)
        write_role(conn, 2, 1)
    p.wait_applied()
    assert p.warehouse(f"select count(*) from raw.{ROLE}") == [(2,)]
    p.configure({"rollups": {"land": [ROLE, SOME[0]]}})
    assert p.apply.stop() == 0
    p.start_apply()
    p.wait_live()
    with p.writing() as conn:
        write_role(conn, 2, 2)
    p.wait_applied()
    assert p.warehouse(f"select count(*) from raw.{ROLE}") == [(5,)]
    p.assert_equal()
    p.stop()


def test_trap_04_a_sync_from_another_core_is_refused(make_pipeline):
    p = make_pipeline(land=[ROLE])
    p.init()
    p.start_capture()
    p.configure({"core": {"connect": p.warehouse_conninfo}})
    assert p.start_apply().wait() == PERMANENT
    assert p.apply.lines("error", "system identifier", "core.connect")
    assert p.warehouse("select state from rolag.relation") == [("syncing",)]


@pytest.mark.parametrize("column, value, words", [
    ("timeline", "timeline + 1", "timeline"), ("applied_lsn", "applied_lsn + 10000000000::numeric", "it went back")])
def test_trap_59_a_sync_from_a_core_that_went_back_is_refused(make_pipeline, column, value, words):
    p = make_pipeline(land=[ROLE])
    p.init()
    p.start_capture()
    p.warehouse(f"update rolag.ledger set {column} = {value}")
    assert p.start_apply().wait() == PERMANENT
    assert p.apply.lines("error", words, "load anew" if words == "it went back" else "a sync is needed")


def test_a_sync_is_not_bound_by_the_roles_statement_timeout(make_pipeline):
    p = make_pipeline(land=[ROLE])
    p.init()
    with p.writing() as conn:
        write_roles(conn, 1, 60_000)
    p.warehouse(f"alter database {p.warehouse_database} set statement_timeout = '50ms'")
    p.start_capture()
    p.start_apply()
    wait_for("the sync", lambda: p.apply.lines("done=yes"))
    assert p.counters()["apply_reconnects_total"] == 0
    p.warehouse(f"alter database {p.warehouse_database} reset statement_timeout")
    p.wait_live()
    p.assert_equal()
    p.stop()


def test_trap_51_a_writer_open_across_the_addition_of_a_table(make_pipeline):
    """Its rows are in no stream, since they were written before the table was published: they must be in
    the snapshot, which therefore waits for the writer."""
    p = make_pipeline(land=[name for name in SOME[:3] if name != ROLE])
    p.init()
    p.start()
    with psycopg.connect(p.core_conninfo) as open_:
        write_role(open_, 1, 1)
        write_roles(open_, 100, 199)
        p.configure({"rollups": {"land": SOME[:3] + [ROLE]}})
        p.init()
        with p.writing() as conn:
            write_role(conn, 2, 1)
        assert p.apply.stop() == 0
        p.start_apply()
        wait_for("the sync to say what it waits for", lambda: p.apply.lines(
            "waits for old transactions", f"pid {open_.info.backend_pid},"))
        with p.writing() as conn:
            write_role(conn, 3, 1)
        write_role(open_, 1, 2)
        open_.commit()
        write_role(open_, 1, 3)
    p.wait_live()
    p.wait_applied()
    assert p.warehouse(f"select count(*) from raw.{ROLE}") == [(105,)]
    p.assert_equal()
    p.stop()


def sync(p, *arguments):
    code, out, err = p.run("sync", *arguments)
    assert code == 0, out + err
    return out


def test_a_table_that_is_torn_is_mended_while_the_others_flow(make_pipeline):
    """Nothing, a part, the middle of an entity's life lost: sync brings what lacks, and only that."""
    p = make_pipeline(land=SOME)
    p.init()
    p.start()
    bank = Bank(p.core_conninfo, seed=34)
    bank.bulk(6_000)
    p.wait_applied()
    torn, kept = SOME[4], SOME[3]
    p.warehouse(f"delete from raw.{torn} where version > 2")
    p.warehouse(f"delete from raw.{torn} where id::text < '8'")
    p.warehouse(f"truncate raw.{torn}_latest")
    p.warehouse(f"insert into raw.{torn}_latest select distinct on (id) * from raw.{torn} order by id, version desc")
    before = p.warehouse(f"select id, version, _lsn, xmin::text from raw.{kept} order by 1, 2")
    with Writing(bank, rate=60):
        assert f"{torn}: will be synced" in sync(p, torn, f"public.{kept.removesuffix('_rollup')}", "--wait")
        p.wait_applied()
    p.wait_applied()
    after = p.warehouse(f"select id, version, _lsn, xmin::text from raw.{kept} order by 1, 2")
    assert set(before) <= set(after), "what was there was written again"
    p.assert_equal()
    assert len(p.apply.lines("done=yes")) == len(SOME) + 2
    p.stop()


def test_the_stream_flows_while_a_table_waits_for_its_snapshot(make_pipeline):
    """Traps 22 and 23: an old transaction of the core holds up the sync only; status says which."""
    p = make_pipeline(land=[ROLE, SOME[3]])
    p.init()
    p.start()
    bank = Bank(p.core_conninfo, seed=35)
    with psycopg.connect(p.core_conninfo) as old:
        old.execute("insert into core_roles values (gen_random_uuid(), 'old', now())")
        sync(p, ROLE)
        wait_for("status to name the old transaction", lambda: f"pid {old.info.backend_pid}" in p.run("status")[1])
        assert "Syncing 1 table" in p.run("status")[1]
        bank.live(200)
        wait_for("the other table to get its events", lambda: p.warehouse(f"select count(*) from raw.{SOME[3]}")
                 == p.core(f"select count(*) from {SOME[3].removesuffix('_rollup')}") != [(0,)])
        assert p.core("select count(*) from pg_stat_activity where application_name = 'rolag sync' and state = "
                      "'idle in transaction'") == [(0,)]
    p.wait_live()
    p.wait_applied()
    p.assert_equal()
    p.stop()


def test_sync_says_what_it_cannot_do(make_pipeline):
    p = make_pipeline(land=[ROLE])
    p.init()
    for arguments, words in (([], "--all"), (["--all", ROLE], "--all"), ([ROLE + "x"], f"did you mean {ROLE}")):
        code, _, err = p.run("sync", *arguments)
        assert code == 2 and words in err
    assert "being synced already" in sync(p, "--all")


def drop_slot(p):
    name = "rolag_" + p.name
    p.core("select pg_terminate_backend(active_pid, 10000) from pg_replication_slots where slot_name = %s and active",
           name)
    wait_for("the slot to be dropped", lambda: p.core("select count(*) from pg_replication_slots where slot_name = %s",
                                                      name) == [(0,)] or try_drop(p, name))


def try_drop(p, name):
    try:
        p.core("select pg_drop_replication_slot(%s)", name)
    except psycopg.errors.ObjectInUse:      # capture was faster
        p.core("select pg_terminate_backend(active_pid, 10000) from pg_replication_slots where slot_name = %s", name)
    return False


# ---- mirrors ----------------------------------------------------------------------------------------

ACCOUNTS = ("create table account (id int primary key, name text not null, balance numeric); insert into account "
            "select n, 'n' || n, n from generate_series(1, 3000) n")


class Moving(threading.Thread):
    """Rows of the mirrored table come, change, get other keys and go, each transaction by itself."""

    def __init__(self, conninfo):
        super().__init__(daemon=True)
        self.conninfo, self.done, self.error, self.count = conninfo, threading.Event(), None, 0

    def run(self):
        try:
            with psycopg.connect(self.conninfo, autocommit=True) as conn:
                while not self.done.wait(0.005):
                    n = self.count = self.count + 1
                    conn.execute(("insert into account values (%(n)s + 10000, 'new', %(n)s)",
                                  "update account set balance = balance + 1, name = name || '+' where id %% 97 = %(n)s %% 97",
                                  "update account set id = id + 100000 where id = %(n)s",
                                  "delete from account where id = 3001 - %(n)s")[n % 4], {"n": n})
        except psycopg.Error as error:
            self.error = error

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()
        assert self.error is None, self.error
        assert self.count > 20, "it did not move"


def test_a_mirror_is_synced_while_its_table_changes_and_keeps_what_is_made_for_its_readers(make_pipeline):
    p = make_mirrors(make_pipeline, ACCOUNTS, ["account"], land=[ROLE])
    p.warehouse("create view poor as select id from raw.account where balance < 0; "
                "create index by_name on raw.account (name); grant select on raw.account to pg_monitor")
    p.warehouse("delete from raw.account where id % 3 = 0")
    p.warehouse("insert into raw.account select -n, 'never', 0, '0/1' from generate_series(1, 50) n")
    with Moving(p.core_conninfo):
        with psycopg.connect(p.warehouse_conninfo) as reader:   # its table takes the old one's place when it is through
            reader.execute("select count(*) from raw.account").fetchall()
            assert "account: will be synced" in sync(p, "public.account")
            wait_for("the swap to be tried", lambda: len(p.apply.lines("table=account waits_to_be_swapped")) > 1)
            assert p.warehouse("select state from rolag.relation where name = 'account'") == [("syncing",)]
            with p.writing() as conn:       # the others flow meanwhile, and readers read
                write_role(conn, 1, 1)
            wait_for("the role", lambda: p.warehouse(f"select count(*) from raw.{ROLE}") == [(1,)])
            assert p.warehouse("select count(*) > 0 from raw.account") == [(True,)]
        for _ in range(2):
            p.wait_live()
            assert "account: will be synced" in sync(p, "public.account", "--wait")
    assert_mirrors(p, ["account"])
    assert p.warehouse("select count(*) from poor") == [(0,)]
    assert p.warehouse("select to_regclass('raw.by_name') is not null, has_table_privilege('pg_monitor', 'raw.account', "
                       "'select')") == [(True, True)]
    p.stop()


def test_a_parked_mirror_comes_back_by_sync_in_its_new_shape(make_pipeline):
    p = make_mirrors(make_pipeline, ACCOUNTS, ["account"], land=[ROLE])
    state = "select state, reason from rolag.relation where name = 'account'"
    with Moving(p.core_conninfo):
        p.core("alter table account alter balance type float8")
        wait_for("it to be parked", lambda: p.warehouse(state)[0][0] == "parked")
        sync(p, "account", "--wait")
    assert p.warehouse(state) == [("live", None)]
    assert_mirrors(p, ["account"])
    p.core("drop table account")
    p.core("select pg_logical_emit_message(true, 'test', '')")
    code, _, err = p.run("sync", "account", "--wait")
    assert code == PERMANENT and "parked again" in err
    found, reason = p.warehouse(state)[0]
    assert found == "parked" and "no table public.account" in reason
    with p.writing() as conn:
        write_role(conn, 1, 1)
    p.wait_applied()
    p.assert_equal()
    p.stop()


@pytest.mark.parametrize("point", ["mirror.loaded", "mirror.piece", "sync.replay", "sync.before_live_commit", "sync.after_live_commit"])
def test_a_mirrors_worker_that_dies_loses_nothing(make_pipeline, point):
    """Alone: apply goes on. It may have made the table live, and not have said so."""
    p = make_mirrors(make_pipeline, ACCOUNTS, ["account"], land=[ROLE])
    if point == "mirror.loaded":    # what hangs on it cannot go over to another table: it is read whole, in its place
        p.warehouse("create materialized view held as select count(*) from raw.account")
    with Moving(p.core_conninfo):
        assert p.apply.stop() == 0
        begin_failing(p, f"{point}=kill")
        sync(p, "account", "--wait")
        p.wait_applied()
    assert_mirrors(p, ["account"])
    assert p.apply.lines("failpoint fired", point) and p.apply.lines("worker was killed")
    p.stop()


def begin_failing(p, points):
    """Apply as it is built with failpoints."""
    p.apply = Process("apply", [FAIL_BINARY, "apply", "--config", p.config], os.path.join(p.folder, "apply.log"),
                      {"ROLAG_FAILPOINTS": points})
    p.processes.append(p.apply)
    return p.apply


def begin_and_break_at(p, point):
    """It dies at the point, loses its connection there the next time, and goes on."""
    assert begin_failing(p, f"{point}=kill").wait() == -signal.SIGKILL
    begin_failing(p, f"{point}=disconnect")


@pytest.mark.parametrize("running", [False, True])
def test_trap_04_a_lost_slot_is_repaired_by_sync(make_pipeline, running):
    """What was committed while there was no slot is in no stream: it is read from the core, and nothing else."""
    p = make_mirrors(make_pipeline, ACCOUNTS, ["account"], land=SOME)
    bank = Bank(p.core_conninfo, seed=36)
    bank.bulk(3_000)
    p.wait_applied()
    if not running:
        p.capture.kill9()
        p.apply.kill9()
    with Writing(bank, rate=80):
        bank_events = p.events()
        drop_slot(p)
        p.core("delete from account where id < 100; update account set balance = -1 where id = 200")
        wait_for("events that no slot has", lambda: p.events() > bank_events + 40)
        if not running:
            p.start_capture()
            begin_and_break_at(p, "sync.gap")
        wait_for("apply to find the gap", lambda: p.check_alive() or p.apply.lines("gap of the spool"))
        p.wait_live()
        p.wait_applied()
    assert_mirrors(p, ["account"])
    p.assert_equal()
    p.stop()


def test_a_slot_lost_while_tables_are_synced(make_pipeline):
    """What a sync would replay is gone: it begins anew by itself."""
    p = make_pipeline({"sync": {"chunk": 100}, "apply": {"batch_rows": 100}}, land=SOME)
    bank = Bank(p.core_conninfo, seed=37)
    bank.bulk(12_000)
    p.init()
    p.start_capture()
    with Writing(bank, rate=40):
        p.start_apply()
        wait_for("syncs to be under way", lambda: p.warehouse("select count(*) from rolag.sync where rows > 0") != [(0,)])
        p.capture.kill9()
        drop_slot(p)
        bank_events = p.events()
        wait_for("events that no slot has", lambda: p.events() > bank_events + 40)
        p.start_capture()
        p.wait_live()
        p.wait_applied()
    p.wait_applied()
    p.assert_equal()
    p.stop()


@pytest.mark.parametrize("stays", [True, False])
def test_traps_50_and_59_a_standby_promoted_while_behind(make_pipeline, own_clusters, stays):
    """The warehouse has what the new core never had: it is taken back, entity by entity, although the new core's
    events have the same numbers, and positions that were passed already."""
    primary, _ = own_clusters()
    p = make_pipeline(land=[ROLE, *SOME[:4]], core=primary)
    p.init()
    p.start()
    bank = Bank(p.core_conninfo, seed=38)
    bank.bulk(4_000)
    with p.writing() as conn:
        write_role(conn, 1, 1)
        write_role(conn, 2, 1)
    p.wait_applied()
    standby = make_standby(primary)
    try:
        standby.start()
        wait_for("the standby", lambda: Pipeline.query(standby.conninfo(p.core_database),
                                                       "select count(*) from core_roles where id = %s", (entity(2),))
                 == [(1,)])
        standby.stop()
        with p.writing() as conn:       # what only the old core had
            write_role(conn, 1, 2)
            write_role(conn, 1, 3)
            write_role(conn, 3, 1)
        bank.bulk(2_000)
        p.wait_applied()
        assert p.warehouse(f"select count(*) from raw.{ROLE} where id = %s", entity(1)) == [(3,)]
        if not stays:
            p.stop()
        primary.kill9()
        standby.start()
        standby.psql("select pg_promote()", database="postgres")
        p.core_cluster, p.core_conninfo = standby, standby.conninfo(p.core_database)
        with p.writing() as conn:       # the same numbers, another life
            write_role(conn, 1, 2, type_="permission_set_removed")
            write_role(conn, 4, 1)
        if stays:       # the new core at the old one's address
            shutil.rmtree(primary.socket)
            os.symlink(standby.socket, primary.socket)
        else:
            p.configure({"core": {"connect": p.core_conninfo}})
            p.start_capture()
            begin_and_break_at(p, "sync.forked")
        wait_for("the fork to be seen", lambda: p.check_alive() or p.apply.lines("failover", "taken_back=yes"))
        p.wait_live()
        with p.writing() as conn:
            write_role(conn, 1, 3)
        p.wait_applied()
        assert p.warehouse(f"select version, event_type from raw.{ROLE} where id = %s order by 1", entity(1)) == [
            (1, "initialized"), (2, "permission_set_removed"), (3, "permission_set_added")]
        assert p.warehouse(f"select count(*) from raw.{ROLE}_latest where id = %s", entity(3)) == [(0,)]
        p.assert_equal()
        p.stop()
    finally:
        standby.destroy()


@pytest.mark.parametrize("chunk", [100, 20_000])
def test_chunks_of_any_size_give_the_same(make_pipeline, chunk):
    """Entities longer than a chunk, chunks that end with an entity, an empty table."""
    p = make_pipeline({"sync": {"chunk": chunk}}, land=[ROLE, SOME[0]])
    with p.writing() as conn:
        for number, length in ((1, 100), (2, 99), (3, 1), (4, 250), (5, 150)):
            for sequence in range(1, length + 1):
                write_role(conn, number, sequence)
    p.init()
    p.start()
    p.wait_applied()
    assert p.rows() == p.events() == 600
    p.assert_equal()
    p.stop()
