"""A definition changes: its rows are built beside the live ones, counted, and take their place at one position."""
import copy
import os
import random
import re
import shutil
import signal
import threading

import oracle
import pytest
from pipeline import (PACK, PAYMENT, PERMANENT, ROLE, ROOT, Bank, Watcher, entity, wait_for, write_payment, write_role,
                      write_roles)
from test_quarantine import definition, restart
from test_sync import Writing, workers

FAIL_BINARY = os.environ.get("ROLAG_FAIL_BINARY", os.path.join(ROOT, "build", "fail", "rolag"))
OBLIGATION = "core_obligation_events_rollup"
LANDED = [OBLIGATION, "core_credit_facility_events_rollup", PAYMENT]
HELD = "select id, version, _lsn, _committed_at from raw.{} order by 1, 2"


@pytest.fixture
def make_definable(make_pipeline, tmp_path):
    """make_definable(land, settings): a pipeline with a pack and rules of its own, whose definitions a test may change."""
    def make(land=None, settings=None, **more):
        land = land or LANDED
        pack = tmp_path / "pack"
        pack.mkdir()
        for name in land:
            shutil.copy(os.path.join(PACK, name + ".yaml"), pack)
        every = oracle.read_rules()
        p = make_pipeline(settings, pack=pack, rules=copy.deepcopy({n: every[n] for n in land}), land=land, **more)
        p.init()
        return p
    return make


def read(p, name):
    with open(os.path.join(p.pack, name + ".yaml"), encoding="utf-8") as f:
        return f.read()


def write(p, name, text):
    with open(os.path.join(p.pack, name + ".yaml"), "w", encoding="utf-8") as f:
        f.write(text)


def second_obligation(p):
    """Definition 2 of obligations: a column gone, one new, one with other values in every row, one in some."""
    definition(p, OBLIGATION, "definition: 1", "definition: 2")
    definition(p, OBLIGATION, "  reference: {type: varchar, set: [initialized]}\n",
               "  ledger_tx_id: {type: uuid, set: [initialized, due_recorded, payment_allocated]}\n")
    definition(p, OBLIGATION, "          initialized, due_recorded, overdue_recorded, defaulted", "          due_recorded, overdue_recorded, defaulted")
    definition(p, OBLIGATION, "set: [initialized, completed]", "set: [initialized]")


def judge_second_obligation(p):
    columns = p.rules[OBLIGATION]["columns"]
    del columns["reference"]
    columns["ledger_tx_id"] = {"type": "uuid", "set": ["initialized", "due_recorded", "payment_allocated"]}
    columns["ledger_tx_ids"]["append"].remove("initialized")
    columns["effective"]["set"] = ["initialized"]
    anew(p, OBLIGATION)


def anew(p, rollup):
    """The oracle forgets what it made by other rules, if it has begun."""
    judge = oracle.connect(p.judge_cluster.conninfo(p.judge_database))
    there = judge.execute("select to_regclass(%s) is not null", (f"oracle.{rollup}",)).fetchone()[0]
    judge.close()
    if there:
        p.judge_anew(rollup)


def live(p, name):
    """(number, state) of the definition that made the live rows."""
    return p.warehouse("select definition, state from rolag.relation where name = %s", name)[0]


def siblings(p):
    return [n for n, in p.warehouse("select name from rolag.relation where beside is not null order by 1")]


def request(p, name):
    return (p.warehouse("select state, reason from rolag.rebuild where rollup = %s", name) or [(None, None)])[0]


def wait_definition(p, name, number):
    def made():
        p.check_alive()
        return live(p, name) == (number, "live") and request(p, name)[0] == "done"
    wait_for(f"{name} to have definition {number}", made)


def tables(p):
    return [n for n, in p.warehouse("select c.relname from pg_class c join pg_namespace n on n.oid = relnamespace "
                                    "where nspname = 'raw' and relkind = 'r' order by 1")]


def test_trap_35_a_changed_definition_is_built_beside_and_swapped_under_load(make_definable):
    p = make_definable()
    bank = Bank(p.core_conninfo, seed=41)
    bank.bulk(30_000)
    p.start()
    second_obligation(p)
    with Writing(bank, rate=60):
        restart(p)
        wait_definition(p, OBLIGATION, 2)
        p.wait_applied()
    p.wait_applied()
    judge_second_obligation(p)
    p.assert_equal()
    # What was live is kept, outside of the stream; nothing else is left.
    assert siblings(p) == [OBLIGATION + "__d0"]
    assert tables(p) == sorted([t + s for t in LANDED + [OBLIGATION + "__d0"] for s in ("", "_latest")])
    columns = dict(p.warehouse("select column_name, rows from rolag.rebuild_column where rollup = %s", OBLIGATION))
    (same, differing, old, new, gone, added), = p.warehouse(
        "select same, differing, only_old, only_new, gone, added from rolag.rebuild where rollup = %s", OBLIGATION)
    assert set(columns) == {"ledger_tx_ids", "effective"} and columns["ledger_tx_ids"] > columns["effective"] > 0
    assert (old, new, gone, added) == (0, 0, "reference", "ledger_tx_id") and differing == columns["ledger_tx_ids"]
    code, out, err = p.run("verify", OBLIGATION, "--full")
    assert code == 0, out + err
    p.stop()
