"""A core that has lived: 150,000 events (`make lived`: two million), loaded first, then synced under write load, with kills in flight.

A seeded bank lives for a while; what it wrote is then copied many times over by the server itself, each copy under
ids of its own (foreign keys are not looked at), which takes seconds where writing it would take minutes. The bank goes
on meanwhile. ROLAG_LIVED_EVENTS: another number of events.
"""
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
from pipeline import Bank, Writing, oracle, wait_for, workers

EVENTS = int(os.environ.get("ROLAG_LIVED_EVENTS", "150000"))
BANK = 20_000
KILLS = 6

# The copy's number is in the first two bytes of the id, where the version of a UUID stands (4) is an f.
COPIED = "substr(id::text, 15, 1) = 'f'"
COPY = """insert into {table} select (lpad(to_hex(n), 4, '0') || substr(id::text, 5, 10) || 'f' || substr(id::text, 16))::uuid,
    sequence, event_type, event, context, recorded_at from {table}, generate_series(1, {copies}) n"""
# Judged by the oracle: what the bank wrote itself, and the first of the copies.
JUDGED = f"(not {COPIED} or id::text like '0001%')"


def tables(rollups):
    return [rule["events"] for rule in rollups.values()]


def multiply(p, names, copies):
    """Every event that is there `copies` times more; how many there are now."""
    def one(table):
        with psycopg.connect(p.core_conninfo, autocommit=True) as conn:
            conn.execute("set session_replication_role = replica")
            return conn.execute(COPY.format(table=table, copies=copies)).rowcount
    sizes = dict(p.core("select relname::text, pg_table_size(oid) from pg_class where relkind = 'r'"))
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(one, sorted(names, key=sizes.get, reverse=True)))
    p.core_cluster.psql("analyze", database=p.core_database)
    return sum(made)


def copies_of(p, table, rule):
    """{(rows, sum of all rows' hashes but for the copy's number)} of the copies that landed, and how many they are."""
    names = [f'"{name}"' for name, _ in oracle.columns_of(rule) if name != "id"]
    rows = p.warehouse(f"select count(*), sum(hash_record_extended(row(substr(id::text, 5), {', '.join(names)}), 0)::numeric) "
                       f"from raw.{table} where {COPIED} group by substr(id::text, 1, 4)")
    return set(rows), len(rows)


def assert_copies_equal(p, rules, copies):
    """History and latest rows of every rollup: each copy has the rows of every other."""
    def one(table, rule):
        return table, copies_of(p, table, rule)
    asked = [(name + suffix, rule) for name, rule in rules.items() for suffix in ("", "_latest")]
    with ThreadPoolExecutor(2) as pool:
        for table, (kinds, count) in pool.map(one, *zip(*asked)):
            assert (len(kinds), count) in ((1, copies), (0, 0)), f"{table}: {count} copies of {len(kinds)} kinds"


def kill_in_flight(p, dice):
    """Apply or one of its workers dies while tables are half read; what is done stays done."""
    kills = read = 0
    while kills < KILLS:
        before = wait_for("tables to be half read", lambda: live(p) or dict(p.warehouse(
            "select name, rows from rolag.sync where rows > 0")))
        if before is True:
            break
        victims = workers(p)
        if victims and kills % 3:
            os.kill(dice.choice(victims), signal.SIGKILL)
        else:
            p.apply.kill9()
            p.start_apply()
        kills += 1
        after = dict(p.warehouse("select name, rows from rolag.sync"))
        assert all(after[name] >= rows for name, rows in before.items() if name in after), "it began anew"
        read = max([read, *after.values()])
        threading.Event().wait(dice.uniform(0.3, 1.5))
    return kills, read


def live(p):
    return p.warehouse("select count(*) from rolag.relation where state <> 'live'") == [(0,)]


def assert_judged(p):
    judge = oracle.Oracle(p.judge_cluster.conninfo(p.judge_database), only=JUDGED)
    try:
        judge.copy_events(p.core_conninfo)
        assert judge.compare(p.warehouse_conninfo) == []
    finally:
        judge.close()


def test_old_events_are_synced_under_write_load_with_kills_in_flight(make_pipeline, capsys):
    p, rules, times = make_pipeline(), oracle.read_rules(), {}

    def took(what, since=[time.monotonic()]):     # pylint: disable=dangerous-default-value
        now = time.monotonic()
        times[what], since[0] = round(now - since[0], 1), now
    bank = Bank(p.core_conninfo, seed=31)
    bank.bulk(BANK)
    copies = max(2, round(EVENTS / bank.events) - 1)
    made = multiply(p, tables(rules), copies)
    assert made == copies * bank.events and made + bank.events >= 0.97 * EVENTS
    took("made")
    with Writing(bank, rate=100):
        p.init()
        p.start_capture()
        p.start_apply()
        kills, read = kill_in_flight(p, random.Random(31))
        wait_for("every table to follow the stream", lambda: p.check_alive() or live(p), 600)
        p.wait_applied()
        took("synced")
    p.wait_applied()
    assert kills >= 3 and read > 0
    assert p.rows() == p.events() == made + bank.events
    assert p.warehouse("select count(*) from rolag.sync") == [(0,)]
    assert_copies_equal(p, rules, copies)
    took("copies compared")
    assert_judged(p)
    took("judged")
    p.stop()
    with capsys.disabled():
        print(f"\nlived: {made + bank.events} events, {kills} kills, {(made + bank.events) / times['synced']:.0f} events/s; "
              f"seconds: {times}")
