"""The load generator makes valid lives, the same ones for the same seed, and writes each exactly once."""
import collections
import json
import os
import re
import subprocess
import sys
import time

import psycopg
import pytest
import yaml

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "deploy", "demo"))

import lana  # noqa: E402
import lana_load  # noqa: E402
from cluster import Cluster  # noqa: E402

LOADER = os.path.join(ROOT, "deploy", "demo", "lana_load.py")
CORE_SQL = os.path.join(ROOT, "deploy", "demo", "core.sql")


def data(name):
    with open(os.path.join(ROOT, "tests", "data", name), encoding="utf-8") as f:
        return yaml.safe_load(f)


@pytest.fixture(scope="module")
def core():
    with Cluster("load") as cluster:
        yield cluster


def database(cluster, name):
    cluster.psql(f"create database {name}", database="postgres")
    cluster.psql(file=CORE_SQL, database=name)
    return cluster.conninfo(name)


def load(*arguments):
    done = subprocess.run([sys.executable, LOADER, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def stream(events, **options):
    """The transactions of a bank up to so many events."""
    world = lana_load.make_world(**options)
    found, count = [], 0
    for tx in lana.transactions(world):
        found.append(tx)
        count += len(tx.rows)
        if count >= events:
            return found
    return found


@pytest.fixture(scope="module")
def transactions():
    return stream(60_000)


def lives(transactions):
    """{(table, id): [(event type, payload, number of its transaction), …]}, sequences checked."""
    found = collections.defaultdict(list)
    for number, tx in enumerate(transactions):
        for table, id_, sequence, type_, payload, _ in tx.rows:
            life = found[table, id_]
            assert sequence == len(life) + 1, (table, id_)
            life.append((type_, payload, number))
    return found


def matcher(rule):
    """(types that the rule names, its expression over types with a space after each)."""
    words = re.findall(r"[a-z_]+", rule)
    expression = re.sub(r"([a-z_]+)", r"(?:\1 )", re.sub(r"\s+", "", re.sub(r"([a-z_])\s+(?=[a-z_])", r"\1~", rule)))
    return set(words), re.compile(expression.replace("~", ""))


def illegal(found):
    """The lives that break a rule of tests/data/lana_lives.yaml."""
    rules = {table: [matcher(rule) for rule in given] for table, given in data("lana_lives.yaml").items()}
    bad = []
    for (table, id_), life in found.items():
        types = [type_ for type_, _, _ in life]
        known = rules[table][0][0]
        if not known.issuperset(types):
            bad.append((table, id_, types))
        for words, expression in rules[table]:
            if not expression.fullmatch("".join(t + " " for t in types if t in words)):
                bad.append((table, id_, types))
    return bad


def test_all_121_event_types_within_60000_events(transactions):
    wanted = {(rule["events"], type_) for rule in data("lana_fold_rules.yaml").values() for type_ in rule["types"]}
    assert len(wanted) == 121
    seen = {(row[0], row[3]) for tx in transactions for row in tx.rows}
    assert seen == wanted


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_life_is_legal_wherever_it_stops(seed):
    found = lives(stream(25_000, seed=seed))
    assert illegal(found) == []


def test_the_checker_finds_an_illegal_life():
    found = {("core_deposit_events", "a"): [("initialized", {}, 0), ("reverted", {}, 1), ("reverted", {}, 2)],
             ("core_obligation_events", "b"): [("initialized", {}, 0), ("overdue_recorded", {}, 1)],
             ("core_payment_events", "c"): [("initialized", {}, 0), ("unheard_of", {}, 1)],
             ("core_deposit_events", "d"): [("initialized", {}, 0), ("reverted", {}, 1)]}
    assert {id_ for _, id_, _ in illegal(found)} == {"a", "b", "c"}


def test_lives_under_way_are_ended_when_the_bank_closes():
    world = lana_load.make_world(seed=5)
    found = lives(lana_load.closing(lana.transactions(world), world, 4_000))
    assert illegal(found) == []
    last = collections.Counter((table, life[-1][0]) for (table, _), life in found.items())
    assert last["core_credit_facility_events", "completed"] == sum(
        n for (table, _), n in last.items() if table == "core_credit_facility_events")
    assert last["core_obligation_events", "completed"] == sum(
        n for (table, _), n in last.items() if table == "core_obligation_events")
    assert ("core_withdrawal_events", "initialized") not in last
    assert ("core_pending_credit_facility_events", "initialized") not in last


def test_money_adds_up(transactions):
    for (table, id_), life in lives(transactions).items():
        if table == "core_obligation_events":
            paid = sum(p["payment_allocation_amount"] for t, p, _ in life if t == "payment_allocated")
            owed = life[0][1]["amount"]
            assert paid == owed if life[-1][0] == "completed" else paid < owed, id_
        if table == "core_interest_accrual_cycle_events" and life[-1][0] == "interest_accruals_posted":
            assert life[-1][1]["total"] == sum(p["amount"] for t, p, _ in life if t == "interest_accrued"), id_
        if table == "core_collateral_events":
            total = None
            for type_, payload, _ in life:
                if not type_.startswith("updated_via"):
                    continue
                sign = 1 if payload["direction"] == "Add" else -1
                if total is not None:
                    assert payload["collateral_amount"] == total + sign * payload["abs_diff"], id_
                total = payload["collateral_amount"]
                assert total >= 0


def test_ids_are_shared_and_steps_share_transactions_as_in_the_core(transactions):
    found = lives(transactions)
    ids = collections.defaultdict(set)
    for table, id_ in found:
        ids[table].add(id_)
    assert ids["core_customer_events"] < ids["core_prospect_events"]
    assert ids["core_credit_facility_events"] <= ids["core_pending_credit_facility_events"] \
        <= ids["core_credit_facility_proposal_events"]
    assert ids["core_pending_credit_facility_events"] <= ids["core_approval_process_events"]
    assert ids["core_withdrawal_events"] <= ids["core_approval_process_events"]
    denials = 0
    for (table, id_), life in found.items():
        if table == "core_withdrawal_events" and life[-1][0] == "denied":
            denials += 1
            assert life[-1][2] == life[-2][2], "denied in the transaction that concludes the approval"
        if table == "core_payment_allocation_events":
            assert life[0][1]["ledger_tx_id"] == id_
        if table == "core_credit_facility_events":
            together = {row[0] for row in transactions[life[0][2]].rows}
            assert {"core_pending_credit_facility_events", "core_interest_accrual_cycle_events"} <= together
    assert denials
    moved = [s for tx in transactions for s in tx.statements if s[0] == "update" and s[1] == "core_public_ids"]
    assert len(moved) == len(ids["core_customer_events"])


def test_entities_are_interleaved_and_transactions_hold_several_events(transactions):
    sizes = collections.Counter(len(tx.rows) for tx in transactions)
    assert sizes[1] > sizes[2] > 0 and max(sizes) >= 8
    lanes = [tx.lane for tx in transactions[-5000:]]
    assert sum(a != b for a, b in zip(lanes, lanes[1:])) > 2500


def test_the_same_seed_makes_the_same_stream(tmp_path):
    files = [tmp_path / name for name in ("a", "b", "c")]
    for path, seed in zip(files, ("7", "7", "8")):
        load("--dump", str(path), "--events", "5000", "--seed", seed, "--nasty", "2")
    a, b, c = (path.read_bytes() for path in files)
    assert a == b and a != c


def test_a_dump_spells_payloads_as_jsonb_does(core, tmp_path):
    path = tmp_path / "events.jsonl"
    load("--dump", str(path), "--events", "8000", "--nasty", "2")
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    texts = [line.partition('"event": ')[2].rpartition(', "recorded_at"')[0] for line in lines]
    with psycopg.connect(core.conninfo("postgres")) as conn:
        unequal = conn.execute("select count(*) from unnest(%s::text[]) t where t::jsonb::text <> t",
                               (texts,)).fetchone()[0]
    assert len(texts) == 8000 and unequal == 0


def counts(cluster, name):
    """{table: events} in the database, and that every entity's sequences run from 1 without a hole."""
    found = {}
    with psycopg.connect(cluster.conninfo(name)) as conn:
        for rule in data("lana_fold_rules.yaml").values():
            table = rule["events"]
            rows, holes = conn.execute(
                "select coalesce(sum(n), 0)::int, count(*) filter (where n <> top) from "
                f"(select count(*) n, max(sequence) top from {table} group by id) e").fetchone()
            assert holes == 0, table
            if rows:
                found[table] = rows
    return found


@pytest.mark.parametrize("how", [["--events", "5000"], ["--events", "5000", "--connections", "3"],
                                 ["--events", "20000", "--bulk"], ["--rate", "300", "--seconds", "2"],
                                 ["--events", "5000", "--nasty", "2"], ["--drain", "3000", "--scale", "0.5"]],
                         ids=["one", "three", "bulk", "rate", "nasty", "drain"])
def test_the_summary_is_what_the_database_holds(core, how):
    name = "d%d" % time.monotonic_ns()
    summary = load("--connect", database(core, name), *how)
    assert summary["events"] == sum(summary["tables"].values()) > 0
    assert counts(core, name) == summary["tables"]


def test_writing_one_by_one_in_bulk_and_overlapping_leaves_the_same_database(core):
    found = []
    for how in ([], ["--bulk"], ["--connections", "4"]):
        name = "d%d" % time.monotonic_ns()
        load("--connect", database(core, name), "--events", "12000", "--seed", "4", *how)
        with psycopg.connect(core.conninfo(name)) as conn:
            tables = conn.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
            found.append({t: conn.execute(f"select md5(string_agg(t::text, '|' order by t::text)) from {t} t"
                                          ).fetchone()[0] for t, in tables})
    assert len(found[0]) == 75
    assert found[0] == found[1] == found[2]


def test_sigterm_and_the_stop_file_end_it_between_transactions(core, tmp_path):
    stop = tmp_path / "stop"
    for end in ("signal", "file"):
        name = "d%d" % time.monotonic_ns()
        process = subprocess.Popen([sys.executable, LOADER, "--connect", database(core, name), "--rate", "200",
                                    "--stop-file", str(stop)], stdout=subprocess.PIPE, text=True)
        while core.psql("select count(*) from core_party_events", database=name) == "0":
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate() if end == "signal" else stop.write_text("")
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert counts(core, name) == json.loads(out)["tables"]


def test_a_crashing_core_gets_every_transaction_exactly_once(tmp_path):
    with Cluster("crash") as cluster:
        cluster.psql(file=CORE_SQL)
        process = subprocess.Popen([sys.executable, LOADER, "--connect", cluster.conninfo(), "--seed", "9",
                                    "--events", "20000", "--connections", "2", "--reconnect", "60"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for n in range(1, 5):
            while int(cluster.psql("select count(*) from core_approval_process_events")) < 250 * n:
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.02)
            cluster.kill9()
            cluster.start()
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        summary = json.loads(out)
        assert summary["reconnects"] >= 4
        assert counts(cluster, cluster.database) == summary["tables"]
        wanted = collections.Counter(row[0] for tx in stream(20_000, seed=9) for row in tx.rows)
        assert summary["tables"] == dict(wanted)
