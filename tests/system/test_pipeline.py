"""From the core's commit to the warehouse's row: equal to the oracle in every column, whatever the way."""
import os
import random
import re
import signal
import socket
import threading
import time

import psycopg
import pytest
from pipeline import (PAYMENT, PERMANENT, ROLE, SOME, TIMEOUT, Bank, Watcher, lsn, wait_for, write_payment, write_role,
                      write_roles)

ALL_AT_ONCE = 10 ** 9    # transactions of the bank in one of the core
SEED = int(os.environ.get("ROLAG_SEED", time.time_ns() % 10 ** 6))


# ---- equality --------------------------------------------------------------------------------------

@pytest.mark.parametrize("binary", ["on", "off"])
def test_all_33_rollups_equal_the_oracle_live_and_in_bulk(make_pipeline, binary):
    """Live: a transaction at a time. Then a backlog: large batches, by COPY. The cache is too small for
    the entities, so that states come back from the warehouse."""
    p = make_pipeline({"capture": {"binary": binary, "heartbeat_interval": "5 s"}, "apply": {"cache": "64 kB"}})
    p.init()
    p.start()
    bank = Bank(p.core_conninfo, seed=11, nasty_level=1)
    bank.live(5_000, rate=1500)
    p.wait_applied()
    while p.counters()["apply_batches_total"] <= 100:   # the live part must come in small batches
        bank.live(20)
        p.wait_applied()
    live = p.counters()
    assert live["apply_cache_misses_total"] > 100, "states must be fetched back"
    assert p.apply.stop() == 0
    bank.bulk(52_000)
    p.start_apply()
    p.wait_applied()
    backlog = p.counters()
    assert backlog["apply_events_total"] / backlog["apply_batches_total"] > 1000, "the backlog must come in large ones"
    assert backlog["apply_cache_misses_total"] > 100
    bank.live(3_000, connections=3)
    p.wait_applied()
    assert bank.events >= 60_000 and len(bank.types) == 121
    assert p.capture.lines("binary=" + binary)
    p.assert_equal()
    p.stop()


def test_trap_11_rows_are_counted_at_both_ends(pipeline):
    """Events committed = events folded and written = rows there, per table and by the counters."""
    pipeline.start()
    bank = Bank(pipeline.core_conninfo, seed=12)
    summary = bank.live(4_000, connections=2)
    pipeline.wait_applied()
    held = {rollup: pipeline.warehouse(f"select count(*) from raw.{rollup}")[0][0] for rollup in SOME}
    assert held == {rollup: summary.tables[rollup.removesuffix("_rollup")] for rollup in SOME}
    assert pipeline.counters()["apply_events_total"] == sum(held.values()) == pipeline.rows() == pipeline.events()
    assert pipeline.counters()["apply_duplicates_total"] == 0
    pipeline.stop()


# ---- whole transactions ----------------------------------------------------------------------------

def test_one_transaction_of_60000_events_comes_whole_although_it_is_written_in_parts(make_pipeline):
    p = make_pipeline({"apply": {"batch_rows": 1000, "batch_bytes": "256 kB", "cache": "256 kB"}})
    p.init()
    p.start()
    bank = Bank(p.core_conninfo, seed=13)
    bank.live(1_000)
    p.wait_applied()
    before = p.rows()
    tables = [n for (n,) in p.warehouse("select name from rolag.relation")]
    shown = " + ".join(f"(select count(*) from raw.{t})" for t in tables)
    seen = set()

    def look(conn):
        seen.update(conn.execute("select " + shown).fetchone())
    with Watcher(p.warehouse_conninfo, look, pause=0.05):
        done = bank.bulk(60_000, group=ALL_AT_ONCE)
        p.wait_applied()
        wait_for("the reader to see it", lambda: max(seen) > before)
    assert done.events >= 60_000 and seen == {before, before + done.events}, "all of it or nothing of it"
    p.assert_equal()
    p.stop()


def test_a_reader_sees_transactions_whole_and_in_commit_order(pipeline):
    """Writers raise pairs of roles together, overlapping; a reader never finds the two of a pair apart, nor
    an effect before its cause."""
    pipeline.start()
    pairs, versions = 4, 150

    def write(pair, begin):
        with psycopg.connect(pipeline.core_conninfo) as conn:
            for sequence in range(begin, begin + versions):
                for number in (2 * pair, 2 * pair + 1):
                    write_role(conn, number, sequence)
                conn.commit()

    def look(conn):
        rows = dict(conn.execute(f"select right(id::text, 4)::int, version from raw.{ROLE}_latest").fetchall())
        history = dict(conn.execute(f"select right(id::text, 4)::int, max(version) from raw.{ROLE} group by 1"
                                    ).fetchall()) if not rows else None
        apart = [n for n in range(pairs) if rows.get(2 * n) != rows.get(2 * n + 1)]
        return (apart, rows, history) if apart else None
    with Watcher(pipeline.warehouse_conninfo, look, pause=0.001) as watcher:
        begin = 1
        while watcher.looks <= 100 and watcher.is_alive():
            writers = [threading.Thread(target=write, args=(n, begin)) for n in range(pairs)]
            for w in writers:
                w.start()
            for w in writers:
                w.join()
            begin += versions
        pipeline.wait_applied()
    assert watcher.wrong == []
    pipeline.assert_equal()
    pipeline.stop()


# ---- stopping, and others on the same ground -------------------------------------------------------

def test_sigterm_at_any_time_ends_with_0_and_loses_nothing(pipeline):
    rng = random.Random(SEED)
    print(f"ROLAG_SEED={SEED}")
    pipeline.start()
    load = pipeline.load_in_background("--seed", 14, "--events", 12_000, "--rate", 700)
    for turn in range(8):
        time.sleep(rng.random())
        for process in (pipeline.capture, pipeline.apply):
            wait_for("it to hear signals", lambda p=process: p.lines(p.name, "starts"))
        if turn % 2:
            assert pipeline.apply.stop() == 0
            pipeline.start_apply()
        else:
            assert pipeline.capture.stop() == 0
            pipeline.start_capture()
    load.summary()
    pipeline.wait_applied()
    pipeline.assert_equal()
    pipeline.stop()


def test_sigterm_during_the_first_load_ends_with_0(pipeline):
    Bank(pipeline.core_conninfo, seed=15).bulk(20_000)
    pipeline.start_capture()
    pipeline.start_apply()
    wait_for("the load to begin", lambda: pipeline.counters().get("apply_sync_rows_total", 0) > 0, pause=0.001)
    assert pipeline.apply.stop() == 0
    pipeline.start_apply()
    pipeline.wait_applied()
    pipeline.assert_equal()
    pipeline.stop()


def test_sigterm_is_heard_while_the_warehouse_does_not_answer(pipeline):
    pipeline.start()
    assert pipeline.apply.stop() == 0
    with socket.create_server(("127.0.0.1", 0)) as silent:      # takes connections, says nothing
        pipeline.configure({"warehouse": {"connect": f"host=127.0.0.1 port={silent.getsockname()[1]} user=postgres"}})
        pipeline.start_apply()
        silent.settimeout(TIMEOUT)
        caller, _ = silent.accept()
        assert pipeline.apply.stop() == 0
        assert pipeline.apply.lines("apply starts") and not pipeline.apply.lines("trying again"), \
            "it was heard, and not only when patience with the warehouse was at its end"
        caller.close()
    assert pipeline.capture.stop() == 0


def test_trap_06_of_two_appliers_the_older_stops_for_good(pipeline):
    """Both read one spool; the second takes the fence; the first says so and ends with 100."""
    pipeline.start()
    load = pipeline.load_in_background("--seed", 16, "--events", 6_000, "--rate", 1000)
    wait_for("some rows", lambda: pipeline.counters().get("apply_events_total", 0) > 500)
    config = pipeline.config + ".second"
    pipeline.write_config(config, {**pipeline.settings, "state_dir": pipeline.state_dir + "2",
                                   "spool": {"dir": os.path.join(pipeline.state_dir, "spool"), "reserve": "0"}})
    first = pipeline.apply
    second = pipeline.start_role("apply", config, os.path.join(pipeline.folder, "apply2.log"))
    assert first.wait() == PERMANENT
    assert first.lines("another applier has taken over the pipeline " + pipeline.name)
    pipeline.apply = second
    load.summary()
    pipeline.wait_applied()
    assert pipeline.rows() == pipeline.events()
    pipeline.assert_equal()
    # The operator starts the first again: it is now the newer.
    pipeline.start_apply()
    assert second.wait() == PERMANENT
    with psycopg.connect(pipeline.core_conninfo) as conn:
        write_role(conn, 1, 1)
    pipeline.wait_applied()
    pipeline.assert_equal()
    pipeline.stop()


def test_two_appliers_that_make_the_same_tables_do_not_trip_each_other(pipeline):
    """Both find the tables missing. One of the two is the newer, and works."""
    p = pipeline
    names = [n for n, in p.warehouse("select name from rolag.relation")]
    p.warehouse("drop table " + ", ".join(f"raw.{n}, raw.{n}_latest" for n in names))
    p.warehouse("delete from rolag.relation")
    config = p.config + ".second"
    p.write_config(config, {**p.settings, "state_dir": p.state_dir + "2",
                            "spool": {"dir": os.path.join(p.state_dir, "spool"), "reserve": "0"}})
    p.start_capture()
    both = [p.start_apply(), p.start_role("apply", config, os.path.join(p.folder, "apply2.log"))]
    loser = wait_for("one of them to be fenced", lambda: [a for a in both if not a.running()])[0]
    assert loser.wait() == PERMANENT and loser.lines("another applier has taken over"), loser.text()
    both.remove(loser)
    p.apply, = both
    p.wait_live()
    with psycopg.connect(p.core_conninfo) as conn:
        write_role(conn, 1, 1)
    p.wait_applied()
    p.assert_equal()
    p.stop()


def test_states_that_memory_does_not_hold_are_fetched_in_pieces(make_pipeline):
    """Five thousand entities go on at once, behind a start: more than are asked for at a time."""
    p = make_pipeline({"apply": {"cache": "64 kB"}}, land=[ROLE])
    p.init()
    p.start()
    with psycopg.connect(p.core_conninfo) as conn:
        write_roles(conn, 0, 4999)
    p.wait_applied()
    assert p.apply.stop() == 0
    with psycopg.connect(p.core_conninfo) as conn:
        conn.execute("insert into core_role_events select id, 2, 'permission_set_added', "
                     "jsonb_build_object('permission_set_id', id), null, now() from core_roles")
    p.start_apply()
    p.wait_applied()
    assert p.counters()["apply_cache_misses_total"] >= 5000
    assert p.rows() == 10_000
    p.assert_equal()
    p.stop()


def test_sighup_names_the_keys_that_take_a_restart(make_pipeline):
    """An operator adds a table to the list and reloads: it is not landed, and the log says what makes it so."""
    p = make_pipeline(land=[ROLE])
    p.init()
    p.start()
    p.configure({"rollups": {"land": [ROLE, PAYMENT]}, "sync": {"chunk": 100}, "log": {"format": "text"}})
    for process in (p.capture, p.apply):
        process.signal(signal.SIGHUP)
        line = wait_for("the keys", lambda: process.lines("warn", "only a start reads"))[0]
        assert 'keys="rollups.land sync.chunk"' in line and f'mend="rolag init, then start {process.name} again"' in line
    p.configure({"rollups": {"land": [ROLE]}, "sync": {"chunk": 50000}})
    for process in (p.capture, p.apply):
        process.signal(signal.SIGHUP)
        wait_for("the second reading", lambda: len(process.lines("configuration read again")) == 2)
        process.signal(signal.SIGUSR2)
        wait_for("its status, behind that", lambda: process.lines("info", "status", "state="))
        assert len(process.lines("only a start reads")) == 1, "they are again what it began with"
    p.configure({"rollups": {"land": [ROLE, PAYMENT]}})
    p.init()
    for process in (p.capture, p.apply):
        assert process.stop() == 0
    p.start()
    with p.writing() as conn:
        write_payment(conn, 1)
    p.wait_applied()
    assert p.warehouse(f"select count(*) from raw.{PAYMENT}") == [(1,)]
    p.assert_equal()
    p.stop()


def test_sighup_takes_log_level_and_a_bad_file_changes_nothing(pipeline):
    pipeline.start()
    for process in (pipeline.capture, pipeline.apply):
        pipeline.configure({"log": {"level": "error"}})
        process.signal(signal.SIGHUP)
        pipeline.configure({"log": {"level": "info"}})
        time.sleep(0.3)
        process.signal(signal.SIGHUP)
        wait_for("the good file", lambda: process.lines("configuration read again"))
        pipeline.configure({"log": {"level": "loud"}})
        process.signal(signal.SIGHUP)
        line = wait_for("the bad file", lambda: process.lines("error", "the old one stays"))[0]
        assert "log.level" in line and re.search(r"rolag\.yaml:\d+:\d+: ", line)
        process.signal(signal.SIGUSR2)
        assert wait_for("its status", lambda: process.lines("info", "status", "state="))
    pipeline.load("--seed", 18, "--events", 300)
    pipeline.wait_applied()
    pipeline.stop()


# ---- ends that come and go -------------------------------------------------------------------------

def test_warehouse_down_for_a_while_and_a_core_restart(make_pipeline, own_clusters):
    core, warehouse = own_clusters()
    p = make_pipeline(core=core, warehouse=warehouse)
    p.init()
    p.start()
    load = p.load_in_background("--seed", 19, "--events", 9_000, "--rate", 600, "--reconnect", 60)
    wait_for("some rows", lambda: p.counters().get("apply_events_total", 0) > 500)
    warehouse.stop()
    received = p.counters("capture")["capture_received_lsn_bytes"]
    wait_for("apply to notice", lambda: p.apply.lines("warehouse lost"))
    wait_for("capture to go on", lambda: p.counters("capture")["capture_received_lsn_bytes"] > received + 300_000)
    assert p.running()
    warehouse.start()
    core.restart()
    wait_for("capture to be back", lambda: p.counters("capture")["capture_connected"] == 1)
    summary = load.summary()
    p.wait_applied()
    assert p.rows() == summary["events"]
    p.assert_equal()
    p.stop()


def test_a_warehouse_that_is_read_only_for_a_while_is_waited_for(pipeline):
    """A standby that is not promoted yet, or a primary that was demoted: nothing that a person must mend."""
    pipeline.start()
    name = pipeline.warehouse_database
    pipeline.warehouse(f"alter database {name} set default_transaction_read_only = on")
    pipeline.warehouse("select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s",
                       "rolag apply " + pipeline.name)
    wait_for("apply to say so", lambda: pipeline.check_alive() or pipeline.apply.lines("25006"))
    with psycopg.connect(pipeline.warehouse_conninfo, autocommit=True) as conn:
        conn.execute("set default_transaction_read_only = off")
        conn.execute(f"alter database {name} reset default_transaction_read_only")
    pipeline.load("--seed", 23, "--events", 300)
    pipeline.wait_applied()
    pipeline.assert_equal()
    pipeline.stop()


def test_a_warehouse_that_lets_us_in_and_takes_nothing_is_not_hammered(make_pipeline):
    """As one whose disk is full: waits grow, although each connection is made."""
    p = make_pipeline(land=[ROLE])
    p.init()
    p.start()
    p.warehouse("create function full_disk() returns trigger language plpgsql as "
                "'begin raise exception using errcode = ''53100'', message = ''disk full''; end'")
    p.warehouse(f"create trigger full_disk before insert on raw.{ROLE} execute function full_disk()")
    with p.writing() as conn:
        write_role(conn, 1, 1)
    wait_for("apply to notice", lambda: p.check_alive() or p.apply.lines("53100"))
    began, before = time.monotonic(), p.counters()["apply_reconnects_total"]
    wait_for("it to be tried again", lambda: p.check_alive() or p.counters()["apply_reconnects_total"] >= 3)
    time.sleep(6)
    tried, passed = p.counters()["apply_reconnects_total"] - before, time.monotonic() - began
    assert p.running() and tried <= 4 + passed, f"{tried} times in {passed} s"
    p.warehouse(f"drop trigger full_disk on raw.{ROLE}")
    p.wait_applied()
    p.assert_equal()
    p.stop()


def test_trap_02_an_idle_core_and_unpublished_traffic_do_not_pin_wal(make_pipeline):
    """Almost no heartbeat: what others write moves the confirmed position all the same, and what is
    confirmed is applied."""
    p = make_pipeline({"capture": {"heartbeat_interval": "1 min"}})
    p.init()
    p.start()
    p.load("--seed", 20, "--events", 500)
    p.core("create table unpublished as select generate_series(1, 100000) n")
    target = lsn(p.core("select pg_current_wal_lsn()::text")[0][0])
    with psycopg.connect(p.core_conninfo, autocommit=True) as conn:   # one connection: no traffic but ours
        wait_for("the slot's confirmed position", lambda: lsn(conn.execute(
            "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = %s",
            ("rolag_" + p.name,)).fetchone()[0]) >= target, pause=0.5)
    assert p.applied() >= target, "applied reaches the core's present, and is not passed by what is confirmed"
    p.assert_equal()
    p.stop()


def test_confirmed_never_passes_what_the_warehouse_holds(pipeline):
    """While apply is away nothing more is confirmed (confirm: applied), idle or not."""
    pipeline.start()
    bank = Bank(pipeline.core_conninfo, seed=21)
    bank.live(500)
    pipeline.wait_applied()
    assert pipeline.apply.stop() == 0
    applied = pipeline.applied()
    bank.live(500)
    target = lsn(pipeline.core("select pg_current_wal_lsn()::text")[0][0])
    wait_for("capture to hold it", lambda: pipeline.counters("capture")["capture_durable_lsn_bytes"] >= target)
    time.sleep(1)    # several status updates
    assert pipeline.slot()[0] <= applied
    pipeline.start_apply()
    pipeline.wait_applied()
    pipeline.assert_equal()
    pipeline.stop()
