"""Under policy `fail`, what cannot be applied stops apply with 100 and one clear line; nothing behind it is
applied, nothing before it is lost, no value is shown; after the cause is mended it goes on and equals the
oracle. (Under the shipped policies its entity waits: test_quarantine.py.)"""
import copy
import os
import re
import shutil

import oracle
import psycopg
import pytest
from pipeline import PACK, PAYMENT, PERMANENT, ROLE, entity, write_payment, write_role, write_roles
from test_rebuild import wait_definition

SECRET = "s3cret-value"


@pytest.fixture
def bad(make_pipeline, tmp_path):
    """A pipeline of two rollups with a pack of its own, running, with something applied already."""
    pack = tmp_path / "pack"
    pack.mkdir()
    for name in (ROLE, PAYMENT):
        shutil.copy(os.path.join(PACK, name + ".yaml"), pack)
    every = oracle.read_rules()
    p = make_pipeline({"apply": {"unknown_event": "fail", "gap": "fail"}}, pack=pack, rules=copy.deepcopy({name: every[name] for name in (ROLE, PAYMENT)}),
                      land=[ROLE, PAYMENT])
    p.init()
    p.start()
    with p.writing() as conn:
        for sequence in (1, 2):
            write_role(conn, 1, sequence)
    p.wait_applied()
    return p


def definition(p, name, old, new):
    """Replaces text in a definition of the pipeline's own pack."""
    path = os.path.join(p.pack, name + ".yaml")
    with open(path, encoding="utf-8") as f:
        text = f.read()
    assert text.count(old) == 1, old
    with open(path, "w", encoding="utf-8") as f:
        f.write(text.replace(old, new))


def load_anew(p, name):
    """What the program tells an operator to do for another definition."""
    p.warehouse(f"drop table raw.{name}, raw.{name}_latest")
    p.warehouse("delete from rolag.relation where name = %s", name)


def no_values(p):
    """No payload value in any log or counter file, nor in what status shows. (The spool holds them: it must.)"""
    for folder, folders, names in os.walk(p.folder):
        if "spool" in folders:
            folders.remove("spool")
        for name in names:
            with open(os.path.join(folder, name), "rb") as f:
                assert SECRET.encode() not in f.read(), name
    _, out, err = p.run("status", "--json")
    assert SECRET not in out + err


def stops(p, before, relation, *words, wrong=(1, 3)):
    """Apply has ended with 100 and one line that has all of `words`; only role 1 up to 2 and what `before`
    says is there. Started again it says the same, and goes nowhere."""
    found = []
    for _ in range(2):
        assert p.apply.wait() == PERMANENT
        line, = p.apply.lines("error")
        assert f"relation {relation}" in line and re.search(r"LSN [0-9A-F]+/[0-9A-F]+", line), line
        if wrong:
            assert f"{entity(wrong[0])}" in line and f"sequence {wrong[1]}" in line, line
        for word in words:
            assert word in line, line
        no_values(p)
        rows = p.warehouse(f"select id::text, version from raw.{ROLE} order by 1, 2")
        assert [(id_, v) for id_, v in rows if id_ == entity(1)] == [(entity(1), 1), (entity(1), 2)]
        assert [id_ for id_, _ in rows if id_ != entity(1)] == [entity(n) for n in before]
        found.append(p.applied())
        p.start_apply()
    assert found[0] == found[1], "the ledger stays in front of what cannot be applied"
    assert p.apply.wait() == PERMANENT


def goes_on(p):
    if not p.apply.running():
        p.start_apply()
    p.wait_live()
    p.wait_applied()
    p.assert_equal()
    p.stop()


def write_around(p, write_bad):
    """A good transaction, the bad one (with good events around it), and good ones behind it."""
    for what in (lambda c: write_role(c, 10, 1),
                 lambda c: (write_role(c, 11, 1), write_bad(c), write_role(c, 12, 1)),
                 lambda c: write_role(c, 13, 1),
                 lambda c: write_payment(c, 14)):
        with p.writing() as conn:
            what(conn)


@pytest.mark.parametrize("mend", ["definition", "policy"])
def test_trap_34_an_unknown_event_type_stops_until_it_is_declared(bad, mend):
    write_around(bad, lambda c: write_role(c, 1, 3, {"to": SECRET}, "teleported"))
    stops(bad, [10], "public.core_role_events", "teleported")
    bad.rules[ROLE]["types"].append("teleported")
    bad.judge_anew(ROLE)
    if mend == "policy":
        bad.configure({"apply": {"unknown_event": "ignore"}})
    else:   # no column reads it: the rows that are there stay true, and the number stays
        definition(bad, ROLE, "  permission_set_removed: [permission_set_id]\n",
                   "  permission_set_removed: [permission_set_id]\n  teleported: [to]\n")
    goes_on(bad)


def test_trap_34_an_unknown_event_type_stops_the_first_load_as_it_stops_the_stream(bad):
    assert bad.apply.stop() == 0
    write_around(bad, lambda c: write_role(c, 1, 3, {"to": SECRET}, "teleported"))
    load_anew(bad, ROLE)
    assert bad.start_apply().wait() == PERMANENT
    line, = bad.apply.lines("error")
    assert "relation public.core_role_events" in line and entity(1) in line and "sequence 3" in line
    assert "teleported" in line
    no_values(bad)
    bad.rules[ROLE]["types"].append("teleported")
    bad.judge_anew(ROLE)
    definition(bad, ROLE, "  permission_set_removed: [permission_set_id]\n",
               "  permission_set_removed: [permission_set_id]\n  teleported: [to]\n")
    goes_on(bad)


def test_what_somebodys_trigger_says_of_a_row_is_not_repeated(bad):
    bad.warehouse("create function refuse() returns trigger language plpgsql as "
                  "'begin raise exception ''row % refused'', new; end'")
    bad.warehouse(f"create trigger refuse before insert on raw.{ROLE} for each row execute function refuse()")
    with bad.writing() as conn:
        write_role(conn, 2, 1, {"name": SECRET, "permission_set_ids": []})
    assert bad.apply.wait() == PERMANENT
    assert bad.apply.lines("error", ROLE, "P0001")
    no_values(bad)
    bad.warehouse(f"drop trigger refuse on raw.{ROLE}")
    goes_on(bad)


def test_a_flood_of_fences_loses_none(bad):
    """Anybody may emit them: more in a transaction than 16 bits count."""
    bad.core("select count(pg_logical_emit_message(true, 'rolag.fence', md5(n::text))) from generate_series(1, 70000) n")
    bad.wait_applied()
    assert bad.warehouse("select count(*) from rolag.fence_seen") == [(70_000,)]
    bad.stop()


def test_trap_07_a_transaction_written_in_parts_before_the_one_that_fails_is_there(bad):
    """The parts' last one is gathered together with what fails: it is whole all the same."""
    assert bad.apply.stop() == 0
    bad.configure({"apply": {"batch_rows": 10}})
    with bad.writing() as conn:
        write_roles(conn, 100, 114)
    with bad.writing() as conn:
        write_role(conn, 1, 3, {"to": SECRET}, "teleported")
    stop = bad.mark()
    bad.start_apply()
    for _ in range(2):
        assert bad.apply.wait() == PERMANENT
        bad.start_apply()
    assert bad.apply.wait() == PERMANENT and bad.applied() < stop
    assert bad.warehouse(f"select count(*) from raw.{ROLE}") == [(17,)]
    assert bad.warehouse(f"select count(*) from raw.{ROLE}_latest") == [(16,)]


def test_a_failed_cast_stops_until_the_definition_takes_it(bad):
    write_around(bad, lambda c: write_payment(c, 3, amount=SECRET))
    stops(bad, [10], "public.core_payment_events", "amount", wrong=(3, 1))
    definition(bad, PAYMENT, "amount: {type: int8,", "amount: {type: varchar,")
    # The rows were made by another definition: refused under its old number.
    assert bad.start_apply().wait() == PERMANENT
    assert bad.apply.lines("error", PAYMENT, "mend:")
    definition(bad, PAYMENT, "definition: 1", "definition: 2")
    # Under the new one its rows are built beside. Those of the old one wait meanwhile for what they do not take.
    bad.rules[PAYMENT]["columns"]["amount"]["type"] = "varchar"
    bad.judge_anew(PAYMENT)
    bad.start_apply()
    wait_definition(bad, PAYMENT, 2)
    assert bad.warehouse("select count(*) from rolag.quarantine") == [(0,)]
    goes_on(bad)


def test_a_missing_key_stops_until_it_is_optional(bad):
    write_around(bad, lambda c: write_payment(c, 3, effective=..., facility_payment_holding_account_id=entity(9)))
    stops(bad, [10], "public.core_payment_events", "effective", wrong=(3, 1))
    definition(bad, PAYMENT, "beneficiary_id, effective,", "beneficiary_id, effective?,")
    definition(bad, PAYMENT, "definition: 1", "definition: 2")
    bad.start_apply()
    wait_definition(bad, PAYMENT, 2)
    goes_on(bad)


def test_trap_33_a_gap_stops_until_what_is_missing_is_there(bad):
    write_around(bad, lambda c: write_role(c, 1, 4))
    stops(bad, [10], "public.core_role_events", wrong=(1, 4))
    with bad.writing() as conn:
        write_role(conn, 1, 3)
    load_anew(bad, ROLE)    # the stream has 4 before 3
    goes_on(bad)


def test_trap_33_an_event_seen_before_is_dropped_and_counted(bad):
    """The ledger set back: everything of the spool comes again."""
    with bad.writing() as conn:
        write_role(conn, 20, 1)
        write_role(conn, 1, 3)
    bad.wait_applied()
    first = bad.warehouse("select min(_lsn)::text from raw." + ROLE)[0][0]
    assert bad.apply.stop() == 0
    assert bad.capture.running() and bad.spool_segments()
    bad.warehouse("delete from rolag.ledger where applied_lsn >= %s::pg_lsn", first)
    bad.warehouse("insert into rolag.ledger (pipeline, applied_lsn, timeline) select %s, %s::pg_lsn - 1, 1", bad.name, first)
    bad.start_apply()
    bad.wait_applied()
    assert bad.counters()["apply_duplicates_total"] == 4
    assert bad.counters()["apply_events_total"] == 0
    bad.assert_equal()
    bad.stop()


@pytest.mark.parametrize("policy", ["warn", "ignore", "fail"])
def test_a_key_that_is_not_listed_is_folded_counted_and_named(bad, policy):
    assert bad.apply.stop() == 0
    bad.configure({"apply": {"unknown_key": policy}})
    bad.start_apply()
    write_around(bad, lambda c: write_role(c, 1, 3, {"permission_set_id": entity(7), "colour": SECRET}))
    if policy == "fail":
        stops(bad, [10], "public.core_role_events", "colour")
        definition(bad, ROLE, "permission_set_added: [permission_set_id]", "permission_set_added: [permission_set_id, colour?]")
        goes_on(bad)
        return
    bad.wait_applied()
    assert bad.counters()["apply_unknown_keys_total"] == (1 if policy == "warn" else 0)
    named = bad.apply.lines("warn", ROLE, "permission_set_added", "colour", "count=1")
    assert len(named) == (1 if policy == "warn" else 0)
    no_values(bad)
    bad.assert_equal()
    bad.stop()
