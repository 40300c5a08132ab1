"""Traps that others fell into, each where only the whole shows it."""
import itertools
import json
import os
import random
import re
import shutil
import signal
import threading
import time

import psycopg
import pytest
from pipeline import PERMANENT, ROLE, ROOT, SOME, Bank, entity, lsn, wait_for, write_role, write_roles
from program import ROLAG
from proxy import CommitProxy


def test_trap_01_overlapping_transactions_with_restarts_between(make_pipeline):
    """BEGIN order is not COMMIT order: three writers at a time, committed in every order, while either role
    is killed and started. What a transaction wrote before another's commit must not be skipped for it."""
    p = make_pipeline(land=[ROLE])
    p.init()
    p.start()
    number, committed = 0, []
    for turn, order in enumerate(itertools.permutations(range(3))):
        writers = [psycopg.connect(p.core_conninfo) for _ in range(3)]
        for half in (0, 1):
            for w, conn in enumerate(writers):
                write_role(conn, number + w, half + 1)
        for step, w in enumerate(order):
            writers[w].commit()
            writers[w].close()
            committed.append(entity(number + w))
            if step < 2:        # two still open, then one
                if (turn + step) % 2:
                    p.wait_applied()
                    p.apply.kill9()
                    p.start_apply()
                else:
                    p.capture.kill9()
                    p.start_capture()
        number += 3
    p.wait_applied()
    rows = p.warehouse(f"select id::text from raw.{ROLE}_latest order by _lsn")
    assert [id_ for id_, in rows] == committed, "in commit order"
    p.assert_equal()
    p.stop()


def test_trap_04_a_slot_dropped_and_made_again_is_seen_by_every_part(make_pipeline):
    p = make_pipeline(settings={"capture": {"on_lost_slot": "stop"}}, land=[ROLE])
    p.init()
    p.start()
    with p.writing() as conn:
        write_role(conn, 1, 1)
    p.wait_applied()
    assert p.capture.stop() == 0
    applied, slot = p.applied(), "rolag_" + p.name
    wait_for("the slot to be free", lambda: not p.slot()[1])
    p.core("select pg_drop_replication_slot(%s)", slot)
    with p.writing() as conn:
        write_role(conn, 1, 2)      # in no stream any more
    p.core("select pg_create_logical_replication_slot(%s, 'pgoutput')", slot)
    with p.writing() as conn:
        write_role(conn, 1, 3)
    assert p.start_capture().wait() == PERMANENT
    line, = p.capture.lines("error")
    assert slot in line and "in neither" in line, line
    # With the spool gone, too, capture has nothing to compare: apply has.
    assert p.apply.stop() == 0
    shutil.rmtree(os.path.join(p.state_dir, "spool"))
    p.start_capture()
    with p.writing() as conn:
        write_role(conn, 2, 1)
    p.start_apply()
    wait_for("apply to find the gap", lambda: p.check_alive() or p.apply.lines("gap of the spool", "synced"))
    p.wait_live()
    p.wait_applied()
    assert p.warehouse(f"select max(version), count(*) from raw.{ROLE}") == [(3, 4)] and p.applied() > applied
    p.assert_equal()
    p.stop()


def through_proxy(p):
    """Puts a CommitProxy between the pipeline's applier and its warehouse."""
    proxy = CommitProxy(os.path.join(p.folder, "proxy"),
                        os.path.join(p.warehouse_cluster.socket, f".s.PGSQL.{p.warehouse_cluster.port}"))
    proxy.start()
    p.configure({"warehouse": {"connect": f"host={p.folder}/proxy port=5432 user=postgres "
                                          f"dbname={p.warehouse_database}"}})
    return proxy


@pytest.mark.parametrize("reach", [True, False], ids=["committed", "not committed"])
def test_trap_05_the_outcome_of_commit_is_read_from_the_ledger(make_pipeline, reach):
    """The answer to COMMIT is lost, many times, for batches in one round trip and for COPY. Only the ledger
    says whether it happened."""
    p = make_pipeline(land=[ROLE])
    p.init()
    proxy = through_proxy(p)
    p.start()
    for n in range(10):
        lost = proxy.lost
        proxy.lose(reach)
        with p.writing() as conn:
            write_roles(conn, n * 10_000, n * 10_000 + (5 if n % 2 else 2500))
        wait_for("an answer to get lost", lambda: proxy.lost > lost)
        p.wait_applied()
    proxy.close()
    assert proxy.lost == 10 and p.running()
    assert p.counters()["apply_reconnects_total"] >= 10
    assert p.rows() == p.events()
    p.assert_equal()
    p.stop()


def test_trap_05_backends_terminated_at_any_time(make_pipeline):
    p = make_pipeline(land=SOME)
    p.init()
    p.start()
    bank, rng, ended = Bank(p.core_conninfo, seed=41), random.Random(41), 0
    writer = threading.Thread(target=bank.live, args=(6_000, 600))
    writer.start()
    with psycopg.connect(p.warehouse_conninfo, autocommit=True) as conn:
        while writer.is_alive():
            ended += conn.execute("select count(pg_terminate_backend(pid)) from pg_stat_activity where "
                                  "application_name = %s", ("rolag apply " + p.name,)).fetchone()[0]
            p.check_alive()
            writer.join(rng.random() * 0.5)
    p.wait_applied()
    assert ended >= 3
    p.assert_equal()
    p.stop()


def test_trap_07_a_statement_that_fails_never_moves_the_ledger(make_pipeline):
    """The warehouse refuses one row: nothing of its transaction, nor behind it, is there; when it takes the
    row again, all is."""
    p = make_pipeline(land=[ROLE])
    p.init()
    p.start()
    with p.writing() as conn:
        write_role(conn, 1, 1)
    p.wait_applied()
    p.warehouse(f"alter table raw.{ROLE} add constraint no check (id <> '{entity(3)}')")
    applied = p.applied()
    for number in (2, 3, 4):
        with p.writing() as conn:
            write_role(conn, number, 1)
            write_role(conn, number + 10, 1)
    target = lsn(p.core("select pg_current_wal_lsn()::text")[0][0])
    for _ in range(2):
        assert p.apply.wait() == PERMANENT
        line, = p.apply.lines("error")
        assert ROLE in line and "23514" in line and "role 3" not in line
        p.start_apply()
    assert p.apply.wait() == PERMANENT
    held = {id_ for id_, in p.warehouse(f"select id::text from raw.{ROLE}")}
    assert held in ({entity(1)}, {entity(n) for n in (1, 2, 12)}), "whole transactions, and none behind the refused one"
    assert applied <= p.applied() < target and p.slot()[0] < target
    p.warehouse(f"alter table raw.{ROLE} drop constraint no")
    p.start_apply()
    p.wait_applied()
    p.assert_equal()
    p.stop()


def write_versions(conn, first, last, begin, end):
    """Versions begin … end of roles first … last, in one statement, an entity's versions apart from each other."""
    if begin == 1:
        conn.execute("insert into core_roles select ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, n::text, "
                     "now() from generate_series(%s::int, %s::int) n", (first, last))
    conn.execute("""
        insert into core_role_events
        select ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, v,
            case v when 1 then 'initialized' else 'permission_set_added' end,
            case v when 1 then jsonb_build_object('name', n::text, 'permission_set_ids', '[]'::jsonb)
                else jsonb_build_object('permission_set_id', gen_random_uuid()) end, null, now()
        from generate_series(%s::int, %s::int) v, generate_series(%s::int, %s::int) n order by v, n""",
                 (begin, end, first, last))


def test_trap_12_one_statement_that_meets_an_entity_many_times(make_pipeline):
    """ON CONFLICT takes a key once per statement, and no order is promised: only the last version of an
    entity may reach it. New and known entities, by INSERT and by COPY, in one transaction and in a batch of
    several, and cut into parts within an entity's versions."""
    p = make_pipeline(land=[ROLE])
    p.init()
    p.start()
    for n, (roles, versions) in enumerate([(1, 5), (20, 3), (400, 4)]):     # the last one by COPY
        first = n * 1000
        with p.writing() as conn:
            write_versions(conn, first, first + roles - 1, 1, versions)
        p.wait_applied()
        with p.writing() as conn:       # known by now, beside new ones
            write_versions(conn, first, first + roles - 1, versions + 1, 2 * versions)
            write_versions(conn, first + 500, first + 500 + roles - 1, 1, versions)
        p.wait_applied()
    p.assert_equal()
    for rows in (20_000, 7):
        assert p.apply.stop() == 0
        p.configure({"apply": {"batch_rows": rows}})
        version = p.warehouse(f"select max(version) from raw.{ROLE} where id = %s", entity(0))[0][0]
        for n in range(1, 6):
            with p.writing() as conn:
                write_versions(conn, 0, 0, version + 3 * n - 2, version + 3 * n)
        p.start_apply()     # which finds all of them waiting
        p.wait_applied()
        assert p.warehouse(f"select version from raw.{ROLE}_latest where id = %s", entity(0)) == [(version + 15,)]
    assert p.rows() == p.events()
    p.assert_equal()
    p.stop()


def peak(process):
    """The most memory that it ever had, in bytes."""
    with open(f"/proc/{process.pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) * 1024


@pytest.mark.parametrize("transactions", [1, 30])
def test_trap_27_an_entity_whose_state_grows_with_every_event(make_pipeline, transactions):
    """Each version holds the whole list: few events, many bytes of rows. Memory stays what batch_bytes says."""
    p = make_pipeline({"apply": {"batch_bytes": "256 kB", "cache": "256 kB"}}, land=[ROLE])
    p.init()
    p.start()
    with p.writing() as conn:
        write_role(conn, 1, 1)
    p.wait_applied()
    before, size = peak(p.apply), 3000 // transactions
    assert p.capture.running() and p.apply.stop() == 0
    for n in range(transactions):
        with p.writing() as conn:
            write_role(conn, 2 + n, 1)
            conn.execute("insert into core_role_events select %s, n, 'permission_set_added', jsonb_build_object("
                         "'permission_set_id', gen_random_uuid()), null, now() from generate_series(%s::int, %s::int) n",
                         (entity(1), 2 + n * size, 1 + (n + 1) * size))
    p.start_apply()
    p.wait_applied()
    if "asan" not in os.path.dirname(ROLAG):    # whose quarantine keeps what was freed
        assert peak(p.apply) < before + 30_000_000, "3000 versions of up to 60 kB are 90 MB"
    assert p.rows() == p.events() == 3001 + transactions
    p.assert_equal()
    p.stop()


def read_metrics():
    """(name, type) of every metric."""
    with open(os.path.join(ROOT, "proto", "base", "metrics.def"), encoding="utf-8") as f:
        return [(name, kind) for kind, name in re.findall(r'^METRIC\(\w+,\s*(MET_\w+),\s*"(\w+)"', f.read(), re.MULTILINE)]


def status(p):
    return json.loads(p.run("status", "--json")[1])


def test_trap_32_counters_that_begin_anew_and_what_status_makes_of_them(make_pipeline):
    """A role's counters are those of its process: status says since when, positions do not fall, and rates
    and quantiles are never made of numbers of two processes. Latencies are histograms."""
    names = dict(read_metrics())
    assert all((kind == "MET_HISTOGRAM") == name.endswith("_seconds") for name, kind in names.items()), names
    p = make_pipeline(land=[ROLE])
    p.init()
    p.start()
    write, number = 300, 0
    for turn in range(2):
        for _ in range(write):
            number += 1
            with p.writing() as conn:
                write_role(conn, number, 1)
        p.wait_applied()
        s = status(p)
        assert s["metrics"]["apply_events_total"] == write, "of this process alone"
        assert sum(count for _, count in s["visible_buckets"]) == s["metrics"]["apply_transactions_total"] >= write
        assert 0 < s["visible_p50_seconds"] <= s["visible_p99_seconds"] < 60
        assert s["roles"]["apply"]["pid"] == p.apply.pid and s["roles"]["apply"]["up_seconds"] >= 0
        if turn == 0:
            before, write = s, 100
            time.sleep(1)
            p.apply.kill9()
            assert status(p)["metrics"]["apply_events_total"] == 300, "of the last one that was"
            p.start_apply()
            wait_for("a position", lambda: p.counters().get("apply_applied_lsn_bytes", 0))
            assert p.counters()["apply_applied_lsn_bytes"] >= before["metrics"]["apply_applied_lsn_bytes"]
    assert s["roles"]["apply"]["up_seconds"] < s["roles"]["capture"]["up_seconds"]
    assert s["metrics"]["capture_changes_total"] >= 400, "capture was not restarted"
    p.stop()


def test_trap_37_numbers_given_out_and_never_committed_hold_nothing_back(make_pipeline):
    """A sequence has holes: of transactions that were rolled back, and of such that commit much later. No number
    that spans entities is asked for; what is committed is folded, in the order of commits."""
    p = make_pipeline(land=[ROLE])
    p.init()
    p.core("create sequence numbers")
    p.start()
    late = psycopg.connect(p.core_conninfo)         # has the smallest numbers, and commits last
    write_role(late, late.execute("select nextval('numbers')").fetchone()[0], 1)
    committed = []
    for turn in range(30):
        with p.writing() as conn:
            number = conn.execute("select nextval('numbers')").fetchone()[0]
            write_role(conn, number, 1)
            with conn.transaction(force_rollback=turn % 3 == 0):        # a hole within a transaction that commits
                write_role(conn, conn.execute("select nextval('numbers')").fetchone()[0], 1)
            if turn % 5 == 4:
                conn.rollback()
                continue
        committed.append(number)
        if turn == 15:
            p.wait_applied()
            p.apply.kill9()
            p.start_apply()
    p.wait_applied()
    assert {entity(n) for n in committed} <= {id_ for id_, in p.warehouse(f"select id::text from raw.{ROLE}_latest")}
    late.commit()
    late.close()
    p.wait_applied()
    newest, = p.warehouse(f"select id::text from raw.{ROLE} order by _lsn desc limit 1")
    assert newest == (entity(1),)
    p.assert_equal()
    p.stop()


def test_trap_54_the_ledger_only_grows_and_is_trimmed(make_pipeline):
    """No row of it is ever updated; an old snapshot over all of it changes nothing."""
    p = make_pipeline(land=[ROLE])
    p.init()
    p.start()
    with psycopg.connect(p.warehouse_conninfo) as old:
        old.execute("set transaction isolation level repeatable read")
        old.execute("select count(*) from rolag.ledger")
        for n in range(40):
            with p.writing() as conn:
                write_role(conn, n, 1)
            p.wait_applied()
        assert p.warehouse("select count(*) from rolag.ledger")[0][0] > 20
        assert p.apply.stop() == 0
        p.start_apply()     # a new applier trims with its first batch
        p.wait_applied()
        wait_for("the ledger to be trimmed", lambda: p.warehouse("select count(*) from rolag.ledger")[0][0] < 20)
    wait_for("the statistics", lambda: p.warehouse(
        "select n_tup_ins >= 40 and n_tup_del > 20 from pg_stat_user_tables where relname = 'ledger'") == [(True,)])
    assert p.warehouse("select n_tup_upd from pg_stat_user_tables where relname = 'ledger'") == [(0,)]
    assert p.warehouse("select n_tup_upd from pg_stat_user_tables where relname = 'fence'") == [(2,)], \
        "the fence: by takeovers alone"
    p.assert_equal()
    p.stop()


def test_trap_55_a_zombie_in_mid_copy_is_ended_and_fenced(make_pipeline):
    """The applier is frozen with its warehouse transaction open. Its successor takes over all the same; the
    zombie, awake again, finds itself fenced."""
    p = make_pipeline(land=[ROLE])
    p.init()
    p.start()
    for n in range(200):
        with p.writing() as conn:
            write_roles(conn, n * 10_000, n * 10_000 + 2999)
        busy = try_freeze(p)
        if busy:
            break
    assert busy, "never caught with an open transaction"
    zombie = p.apply
    config = p.config + ".second"
    p.write_config(config, {**p.settings, "state_dir": p.state_dir + "2",
                            "spool": {"dir": os.path.join(p.state_dir, "spool"), "reserve": "0"}})
    epoch = p.warehouse("select epoch from rolag.fence")[0][0]
    successor = p.start_role("apply", config, os.path.join(p.folder, "apply2.log"))
    wait_for("the successor to take the fence", lambda: p.warehouse("select epoch from rolag.fence")[0][0] > epoch)
    p.apply = successor
    zombie.signal(signal.SIGCONT)
    assert zombie.wait() == PERMANENT
    assert zombie.lines("another applier has taken over")
    p.wait_applied()
    assert p.rows() == p.events()
    p.assert_equal()
    p.stop()


def end_backends(p):
    p.warehouse("select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s",
                "rolag apply " + p.name)


@pytest.mark.parametrize("reach", [True, False], ids=["committed", "not committed"])
def test_trap_55_a_takeover_whose_answer_is_lost_is_our_own(make_pipeline, reach):
    """The connection dies at the takeover's COMMIT, twice running: whether it happened or not, the applier
    goes on, since nobody else has taken the fence."""
    p = make_pipeline(land=[ROLE])
    p.init()
    proxy = through_proxy(p)
    p.start()
    for n in range(3):
        epoch = p.warehouse("select epoch from rolag.fence")[0][0]
        for turn in range(2):
            lost = proxy.lost
            proxy.lose(reach, takeover=True, shut=True)
            if turn == 0:
                end_backends(p)
            else:
                proxy.open()
            wait_for("a takeover's answer to get lost", lambda: proxy.lost > lost)
        assert p.warehouse("select epoch from rolag.fence") == [(epoch + 2 if reach else epoch,)]
        proxy.open()
        with p.writing() as conn:
            write_role(conn, n, 1)
        p.wait_applied()
        assert p.warehouse("select epoch from rolag.fence") == [(epoch + 3 if reach else epoch + 1,)]
    p.assert_equal()
    p.stop()


@pytest.mark.parametrize("reach", [True, False], ids=["committed", "not committed"])
def test_trap_55_a_rival_behind_a_takeover_whose_answer_is_lost_stops_us(make_pipeline, reach):
    """Where our COMMIT did not happen, the rival's epoch is the very number that we had tried."""
    p = make_pipeline(land=[ROLE])
    p.init()
    proxy = through_proxy(p)
    p.start()
    p.wait_applied()
    proxy.lose(reach, takeover=True, shut=True)
    end_backends(p)
    wait_for("a takeover's answer to get lost", lambda: proxy.lost)
    p.warehouse("update rolag.fence set epoch = epoch + 1, backend_start = backend_start + interval '1 us', taken_at = now()")
    proxy.open()
    assert p.apply.wait() == PERMANENT
    assert p.apply.lines("error", "another applier has taken over")


def try_freeze(p):
    """Stops the applier if its transaction opens before it has applied all; True when it is frozen in one."""
    target = p.mark()
    with psycopg.connect(p.warehouse_conninfo, autocommit=True) as conn:
        while p.applied() < target:
            p.apply.signal(signal.SIGSTOP)
            if conn.execute("select count(*) from pg_stat_activity where application_name = %s and backend_xid is not "
                            "null", ("rolag apply " + p.name,)).fetchone()[0]:
                return True
            p.apply.signal(signal.SIGCONT)
    return False


def test_trap_59_changes_of_another_timeline_are_refused_not_compared(make_pipeline):
    """After a failover the new timeline's positions may lie below what is applied: passed over, they would be
    lost without a word."""
    p = make_pipeline(land=[ROLE])
    p.init()
    p.start()
    with p.writing() as conn:
        write_role(conn, 1, 1)
    p.wait_applied()
    assert p.apply.stop() == 0
    p.warehouse("update rolag.ledger set timeline = timeline + 1, applied_lsn = applied_lsn + 1000000::numeric")
    applied = p.applied()
    with p.writing() as conn:
        write_role(conn, 1, 2)
    assert p.start_apply().wait() == PERMANENT
    assert p.apply.lines("error", "timeline", "a sync is needed")
    assert p.applied() == applied
