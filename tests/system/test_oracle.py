"""The oracle judges: it finds nothing where nothing is wrong, and names each thing that is."""
import json
import os
import subprocess
import sys

import psycopg
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "deploy", "demo"), os.path.join(ROOT, "tests", "oracle")]

import oracle  # noqa: E402
from cluster import Cluster  # noqa: E402

LOADER = os.path.join(ROOT, "deploy", "demo", "lana_load.py")
TX = "00000000-0000-4000-8000-%012d"


def load(core, *arguments):
    subprocess.run([sys.executable, LOADER, "--connect", core, *arguments], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def cluster():
    with Cluster("oracle") as c:
        c.psql(file=os.path.join(ROOT, "deploy", "demo", "core.sql"))
        for name in ("judge", "warehouse", "scratch"):
            c.psql(f"create database {name}", database="postgres")
        load(c.conninfo(), "--bulk", "--events", "12000", "--nasty", "2")
        yield c


@pytest.fixture(scope="module")
def judge(cluster):
    """An oracle that holds the core's events, and a warehouse with a copy of what it made of them."""
    o = oracle.Oracle(cluster.conninfo("judge"))
    assert o.copy_events(cluster.conninfo()) >= 12000
    with oracle.connect(cluster.conninfo("warehouse")) as warehouse:
        warehouse.execute("create schema raw")
        for rollup, rule in o.rules.items():
            columns = oracle.columns_of(rule)
            for name, source in ((rollup, f"oracle.{rollup}"),
                                 (rollup + "_latest", f"(select distinct on (id) * from oracle.{rollup} "
                                                      "order by id, version desc)")):
                warehouse.execute(f"create table raw.{name} (" + ", ".join(f'"{n}" {t}' for n, t in columns) +
                                  ", _lsn pg_lsn default '0/1', _committed_at timestamptz)")
                names = ", ".join(f'"{n}"' for n, _ in columns)
                with o.conn.cursor() as a, warehouse.cursor() as b:
                    with a.copy(f"copy (select {names} from {source} r) to stdout") as out, \
                            b.copy(f"copy raw.{name} ({names}) from stdin") as into:
                        for block in out:
                            into.write(bytes(block))
    yield o
    o.close()


@pytest.fixture
def warehouse(cluster, judge):
    """A connection to the warehouse; what a test breaks is mended after it."""
    with oracle.connect(cluster.conninfo("warehouse")) as conn:
        conn.execute("create schema kept")
        yield conn
        conn.execute("drop schema kept cascade")


def broken(cluster, judge, conn, table, statement):
    """The findings after `statement` was done to raw.table, which is then put back."""
    conn.execute(f"create table kept.{table} as table raw.{table}")
    changed = conn.execute(statement).rowcount
    try:
        return changed, judge.compare(cluster.conninfo("warehouse"))
    finally:
        conn.execute(f"truncate raw.{table}")
        conn.execute(f"insert into raw.{table} select * from kept.{table}")


def test_a_right_warehouse_is_found_right(cluster, judge):
    assert judge.compare(cluster.conninfo("warehouse")) == []


@pytest.mark.parametrize("suffix", ["", "_latest"])
def test_one_changed_value_is_named(cluster, judge, warehouse, suffix):
    table = "core_deposit_events_rollup" + suffix
    id_, version = warehouse.execute(f"select id::text, version from raw.{table} where amount is not null limit 1"
                                     ).fetchone()
    _, findings = broken(cluster, judge, warehouse, table,
                         f"update raw.{table} set amount = case amount when 1 then 2 else 1 end "
                         f"where id = '{id_}' and version = {version}")
    key = id_ if suffix else f"{id_},{version}"
    assert findings == [oracle.Finding(table, "value differs", key, "amount")]


@pytest.mark.parametrize("suffix", ["", "_latest"])
def test_a_missing_and_an_invented_row_are_named(cluster, judge, warehouse, suffix):
    table = "core_party_events_rollup" + suffix
    id_, version = warehouse.execute(f"select id::text, version from raw.{table} limit 1").fetchone()
    new = TX % 1
    _, findings = broken(cluster, judge, warehouse, table,
                         f"update raw.{table} set id = '{new}' where id = '{id_}' and version = {version}")
    tail = "" if suffix else f",{version}"
    assert findings == [oracle.Finding(table, "row missing", id_ + tail, ""),
                        oracle.Finding(table, "row not from any event", new + tail, "")]


def test_a_row_that_is_there_twice_is_named(cluster, judge, warehouse):
    table = "core_payment_events_rollup"
    id_ = warehouse.execute(f"select id::text from raw.{table} limit 1").fetchone()[0]
    _, findings = broken(cluster, judge, warehouse, table,
                         f"insert into raw.{table} select * from raw.{table} where id = '{id_}'")
    assert findings == [oracle.Finding(table, "row twice", f"{id_},1", "")]


@pytest.mark.parametrize("table, column, held, put", [
    ("core_domain_config_events_rollup", "default_value", "default_value is null", "'null'"),
    ("core_domain_config_events_rollup", "default_value", "default_value = 'null'", "null"),
    ("core_report_run_events_rollup", "requested_as_of_date", "requested_as_of_date is null", "''"),
    ("core_credit_facility_events_rollup", "is_completed", "not is_completed", "null"),
], ids=["NULL for null", "null for NULL", "empty for NULL", "NULL for false"])
def test_kinds_of_nothing_are_not_mixed_up(cluster, judge, warehouse, table, column, held, put):
    changed, findings = broken(cluster, judge, warehouse, table, f"update raw.{table} set {column} = {put} where {held}")
    assert changed > 0
    assert {(f.rollup, f.what, f.column) for f in findings if f.key} == {(table, "value differs", column)}


@pytest.mark.parametrize("change", ["array_append(ledger_tx_ids, null)", "ledger_tx_ids[2:]",
                                    "array_cat(ledger_tx_ids, ledger_tx_ids)", "null"])
def test_a_changed_list_is_named(cluster, judge, warehouse, change):
    table = "core_obligation_events_rollup"
    id_ = warehouse.execute(f"select id::text from raw.{table} where version = 3 limit 1").fetchone()[0]
    _, findings = broken(cluster, judge, warehouse, table,
                         f"update raw.{table} set ledger_tx_ids = {change} where id = '{id_}' and version = 3")
    assert findings == [oracle.Finding(table, "value differs", f"{id_},3", "ledger_tx_ids")]


def test_an_older_version_as_the_latest_is_named(cluster, judge, warehouse):
    table = "core_prospect_events_rollup"
    id_ = warehouse.execute(f"select id::text from raw.{table} where version = 3 limit 1").fetchone()[0]
    _, findings = broken(cluster, judge, warehouse, table + "_latest",
                         f"update raw.{table}_latest l set (version, stage) = (select 1, 'new') where id = '{id_}'")
    assert {(f.rollup, f.key) for f in findings} == {(table + "_latest", id_)}
    assert "version" in {f.column for f in findings}


def test_a_row_without_position_is_named(cluster, judge, warehouse):
    table = "core_wallet_events_rollup"
    changed, findings = broken(cluster, judge, warehouse, table, f"update raw.{table} set _lsn = null where version = 1")
    assert changed > 0 and {(f.rollup, f.what, f.column) for f in findings} == {(table, "column is null", "_lsn")}


def test_wrong_tables_are_named(cluster, judge, warehouse):
    try:
        warehouse.execute("alter table raw.core_user_events_rollup rename column email to mail")
        warehouse.execute("alter table raw.core_report_events_rollup_latest rename to gone")
        warehouse.execute("alter table raw.core_wallet_events_rollup alter new_balance type numeric")
        findings = judge.compare(cluster.conninfo("warehouse"))
    finally:
        warehouse.execute("alter table raw.core_user_events_rollup rename column mail to email")
        warehouse.execute("alter table raw.gone rename to core_report_events_rollup_latest")
        warehouse.execute("alter table raw.core_wallet_events_rollup alter new_balance type bigint")
    assert set(findings) == {
        oracle.Finding("core_user_events_rollup", "column missing", "", "email"),
        oracle.Finding("core_user_events_rollup", "column not declared", "", "mail"),
        oracle.Finding("core_report_events_rollup_latest", "table missing", "", ""),
        oracle.Finding("core_wallet_events_rollup", "column of another type", "", "new_balance")}


def test_the_command_tells_equal_different_and_unreachable_and_shows_no_values(cluster, judge, warehouse):
    command = [sys.executable, oracle.__file__, "--core", cluster.conninfo(), "--oracle", cluster.conninfo("judge")]
    run = [*command, "--warehouse", cluster.conninfo("warehouse")]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0 new events; equal\n")
    warehouse.execute("create table kept.p as table raw.core_party_events_rollup")
    warehouse.execute("update raw.core_party_events_rollup set email = 'secret@example.com'")
    try:
        text = subprocess.run(run, capture_output=True, text=True, check=False)
        parsed = subprocess.run([*run, "--json"], capture_output=True, text=True, check=False)
    finally:
        warehouse.execute("truncate raw.core_party_events_rollup")
        warehouse.execute("insert into raw.core_party_events_rollup select * from kept.p")
    assert text.returncode == parsed.returncode == 1
    assert "core_party_events_rollup: value differs" in text.stdout and "secret" not in text.stdout
    assert json.loads(parsed.stdout)["equal"] is False
    nowhere = subprocess.run([*command, "--warehouse", "host=/nowhere"], capture_output=True, text=True, check=False)
    assert nowhere.returncode == 2 and nowhere.stderr


def test_an_event_that_the_triggers_refuse_ends_it_without_showing_the_value(cluster, judge):
    for name in ("bad", "bad_judge"):
        cluster.psql(f"create database {name}", database="postgres")
    cluster.psql(file=os.path.join(ROOT, "deploy", "demo", "core.sql"), database="bad")
    cluster.psql(f"insert into core_payments values ('{TX % 1}', '{TX % 1}', now()); insert into core_payment_events "
                 f"values ('{TX % 1}', 1, 'initialized', '{{\"amount\": \"secret\"}}', null, now())", database="bad")
    done = subprocess.run([sys.executable, oracle.__file__, "--core", cluster.conninfo("bad"), "--oracle",
                           cluster.conninfo("bad_judge"), "--warehouse", cluster.conninfo("warehouse")],
                          capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "oracle: PostgreSQL refused with SQLSTATE 22P02\n")


def test_only_new_events_are_copied(cluster):
    cluster.psql("create database more", database="postgres")
    cluster.psql(file=os.path.join(ROOT, "deploy", "demo", "core.sql"), database="more")
    cluster.psql("create database more_judge", database="postgres")
    o = oracle.Oracle(cluster.conninfo("more_judge"))
    first = load_one(cluster, 1, "initialized", '{"name": "a"}')
    assert (o.copy_events(cluster.conninfo("more")), o.copy_events(cluster.conninfo("more"))) == (1, 0)
    load_one(cluster, 2, "permission_set_added", '{"permission_set_id": "%s"}' % (TX % 5))
    assert o.copy_events(cluster.conninfo("more")) == 1
    rows = o.rows("core_role_events_rollup")
    assert [(r["version"], r["name"], r["permission_set_ids"]) for r in rows] == [
        ("1", "a", "{}"), ("2", "a", "{%s}" % (TX % 5))] and rows[0]["id"] == first
    o.close()


def load_one(cluster, sequence, type_, payload):
    id_ = TX % 77
    if sequence == 1:
        cluster.psql(f"insert into core_roles values ('{id_}', 'r', now())", database="more")
    cluster.psql(f"insert into core_role_events values ('{id_}', {sequence}, '{type_}', '{payload}', null, now())",
                 database="more")
    return id_


# ---- the fold itself, on cases worked out by hand ------------------------------------------------

def event(table, sequence, type_, payload, id_=TX % 9):
    return {"table": table, "id": id_, "sequence": sequence, "event_type": type_, "event": payload,
            "recorded_at": f"2024-01-0{sequence} 00:00:00+00"}


@pytest.fixture
def scratch(cluster):
    o = oracle.Oracle(cluster.conninfo("scratch"))
    o.forget()
    yield o
    o.close()


def test_trap_38_lists_take_null_and_give_an_empty_list_at_the_end(scratch):
    a, b = TX % 1, TX % 2
    rows = scratch.fold([
        event("core_role_events", 1, "initialized", {"name": "x", "permission_set_ids": [a, b, a]}),
        event("core_role_events", 2, "permission_set_added", {}),
        event("core_role_events", 3, "permission_set_removed", {"permission_set_id": a}),
        event("core_role_events", 4, "permission_set_removed", {"permission_set_id": b.upper()}),
        event("core_role_events", 5, "permission_set_removed", {"permission_set_id": None}),
        event("core_role_events", 6, "initialized", {"name": "y"}),
    ])["core_role_events_rollup"]
    assert [r["permission_set_ids"] for r in rows] == [
        "{%s,%s,%s}" % (a, b, a), "{%s,%s,%s,NULL}" % (a, b, a), "{%s,NULL}" % b, "{NULL}", "{}", "{}"]
    assert [r["name"] for r in rows] == ["x"] * 5 + ["y"]
    assert {r["created_at"] for r in rows} == {"2024-01-01 00:00:00+00"}
    assert rows[5]["modified_at"] == "2024-01-06 00:00:00+00"


def test_trap_33_a_gap_restarts_the_fold_as_the_triggers_do(scratch):
    rows = scratch.fold([
        event("core_withdrawal_events", 1, "initialized", {"amount": " 7 ", "status": "a", "ledger_tx_id": TX % 1}),
        event("core_withdrawal_events", 3, "confirmed", {"status": "b", "ledger_tx_id": TX % 2, "amount": 5}),
    ])["core_withdrawal_events_rollup"]
    assert [(r["amount"], r["status"], r["is_confirmed"], r["ledger_tx_ids"]) for r in rows] == [
        ("7", "a", "false", "{%s}" % (TX % 1)), ("5", "b", "true", "{%s}" % (TX % 2))]


def test_absent_keys_erase_and_json_null_stays_json_null(scratch):
    rows = scratch.fold([
        event("core_report_run_events", 1, "initialized", {
            "state": "queued", "requested_report": {"b": 1, "a": [1.50]}, "start_time": "2024-03-01"}),
        event("core_report_run_events", 2, "state_updated", {"state": "running", "requested_report": None}),
        event("core_report_run_events", 3, "state_updated", {"state": 1}),
        event("core_report_run_events", 4, "external_id_updated", {"external_id": "x", "state": "ignored"}),
    ])["core_report_run_events_rollup"]
    assert [(r["state"], r["requested_report"], r["start_time"], r["external_id"]) for r in rows] == [
        ("queued", '{"a": [1.5], "b": 1}', "2024-03-01 00:00:00+00", None), ("running", "null", None, None),
        ("1", None, None, None), ("1", None, None, "x")]


def test_a_line_keeps_its_numbers_and_a_refused_event_is_named(scratch):
    line = ('{"table": "core_wallet_events", "id": "%s", "sequence": %d, "event_type": "%s", "event": %s, '
            '"recorded_at": "2024-01-01 00:00:00+00"}')
    id_, errors = TX % 3, []
    rows = scratch.fold([line % (id_, 1, "initialized", '{"custodian_response": {"a": 1.50, "b": 1e3}}'),
                         line % (id_, 2, "balance_changed", '{"new_balance": 9223372036854775808}'),
                         line % (id_, 2, "balance_changed", '{"new_balance": 1e3}'),
                         line % (id_, 3, "no_such_type", '{}')], errors)["core_wallet_events_rollup"]
    assert [(r["custodian_response"], r["new_balance"]) for r in rows] == [
        ('{"a": 1.50, "b": 1000}', None), ('{"a": 1.50, "b": 1000}', "1000")]
    assert [(e[2], e[3]) for e in errors] == [(2, "22003"), (3, "P0001")]
