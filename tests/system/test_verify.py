"""rolag verify: differences are found by key and column while the stream goes on, and only true ones."""
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from pipeline import ROLE, Bank, entity, trigger_sql, wait_for, write_role

FINDING = 1


def verify(p, *arguments):
    """(exit code, the JSON object)."""
    code, out, err = p.run("verify", *arguments, "--json")
    assert out, err
    return code, json.loads(out)


def test_verify_full_finds_an_altered_row_by_key_and_column(make_pipeline):
    p = make_pipeline(land=[ROLE])
    p.init()
    p.start()
    with p.writing() as conn:
        for n in range(1, 4):
            for sequence in (1, 2, 3):
                write_role(conn, n, sequence)
    p.wait_applied()
    code, out, err = p.run("verify", ROLE, "--full")
    assert (code, err) == (0, ""), out + err
    assert out.startswith("Equal: 1 tables, 9 rows of the core, 9 of the warehouse, 3 latest ones"), out
    p.warehouse(f"update raw.{ROLE} set name = 'forged' where id = %s and version = 2", entity(2))
    code, out, err = p.run("verify", ROLE, "--full")
    assert (code, err) == (FINDING, ""), out + err
    first, last = out.splitlines()
    assert first.split() == ["differs", ROLE, "id", entity(2), "version", "2", "column", "name"]
    assert last.startswith("1 differences of 1 entities"), out
    assert "forged" not in out and "role 2" not in out, "values are never told"
    p.stop()


class SteadyLoad(threading.Thread):
    """Writes the bank's transactions until the block ends."""

    def __init__(self, bank):
        super().__init__(daemon=True)
        self.bank, self.done = bank, threading.Event()

    def run(self):
        while not self.done.is_set():
            self.bank.live(100, 300)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()


def test_verify_under_load_says_equal_of_all_rollups(make_pipeline):
    """The stream goes on while every table is compared: no false difference, by either way of comparing."""
    p = make_pipeline()
    p.init()
    bank = Bank(p.core_conninfo, seed=7)
    bank.bulk(4000)
    p.start()
    with SteadyLoad(bank):
        for arguments in (["--full"], ["--sample", "20"]):
            code, said = verify(p, *arguments)
            assert (code, said["equal"], said["findings"]) == (0, True, []), said
            assert said["tables"] == 33 and said["warehouse_rows"] > 0, said
    code, said = verify(p, "--full")
    assert code == 0 and said["core_rows"] == said["warehouse_rows"] == p.events(), said
    p.stop()


def rows_with_lsn(p, table=ROLE):
    return p.warehouse(f"select r::text from raw.{table} r order by id, version")


def spoil(p):
    """Every kind of difference; what verify must say of it as {(kind, table, entity, version, column)}."""
    latest = ROLE + "_latest"
    p.warehouse(f"update raw.{ROLE} set event_type = 'forged', modified_at = now() where id = %s and version = 1",
                entity(1))
    p.warehouse(f"delete from raw.{ROLE} where id = %s and version = 2", entity(2))
    p.warehouse(f"update raw.{latest} set name = null where id = %s", entity(3))
    p.warehouse(f"delete from raw.{latest} where id = %s", entity(4))
    p.warehouse(f"create temp table t as select * from raw.{ROLE} where id = '{entity(5)}' and version = 3; "
                f"update t set version = 4; insert into raw.{ROLE} select * from t; "
                f"update t set id = '{entity(1000)}', version = 1; insert into raw.{ROLE} select * from t; "
                f"update t set id = '{entity(1001)}'; insert into raw.{latest} select * from t")
    p.warehouse(f"delete from raw.{ROLE} where id = %s", entity(6))
    return {("differs", ROLE, entity(1), 1, "event_type"), ("differs", ROLE, entity(1), 1, "modified_at"),
            ("missing", ROLE, entity(2), 2, None), ("differs", latest, entity(3), 3, "name"),
            ("missing", latest, entity(4), 3, None), ("extra", ROLE, entity(5), 4, None),
            ("differs", latest, entity(5), 3, "version"), ("extra", ROLE, entity(1000), 1, None),
            ("missing", latest, entity(1000), 1, None), ("extra", latest, entity(1001), 1, None),
            *{("missing", ROLE, entity(6), v, None) for v in (1, 2, 3)}, ("extra", latest, entity(6), 3, None)}


def told(said):
    return {(f["kind"], f["table"], f["id"], f["version"], f.get("column")) for f in said["findings"]}


@pytest.mark.parametrize("way", ["--full", "--sample"])
def test_trap_11_rows_counted_and_compared_at_both_ends_and_repaired(make_pipeline, way):
    """A step that says it is done is believed only when the rows are there. The stream goes on meanwhile,
    for the very entities that are repaired; what was right keeps its _lsn."""
    p = make_pipeline(land=[ROLE])
    p.init()
    p.start()
    with p.writing() as conn:
        for n in range(1, 9):
            for sequence in (1, 2, 3):
                write_role(conn, n, sequence)
    p.wait_applied()
    before = rows_with_lsn(p)
    expected = spoil(p)
    arguments = [ROLE, way] + (["1000"] if way == "--sample" else [])
    code, said = verify(p, *arguments)
    assert (code, said["equal"]) == (FINDING, False)
    assert told(said) == expected
    assert (said["core_rows"], said["differing_entities"]) == (24, 8), said
    code, said = verify(p, *arguments, "--repair")
    assert told(said) == expected
    assert (code, said["equal"], said["repaired_entities"], said["refused_entities"]) == (0, True, 8, 0), said
    after = rows_with_lsn(p)
    changed = [r for r in after if r not in before]
    assert len(after) == len(before) == 24 and len(changed) == 4, "only the four that were missing have a new _lsn"
    p.assert_equal()
    assert verify(p, ROLE, "--full")[0] == 0
    with p.writing() as conn:       # no stale state of a repaired entity is folded on
        for n in range(1, 9):
            write_role(conn, n, 4)
    p.wait_applied()
    p.assert_equal()
    p.stop()


def test_trap_60_a_commit_in_the_stream_that_the_core_does_not_show_is_no_difference(make_pipeline, own_clusters):
    """A commit waits for a synchronous standby: the stream has brought it, the core does not show it."""
    core, warehouse = own_clusters()
    p = make_pipeline(land=[ROLE], core=core, warehouse=warehouse)
    p.init()
    p.start()
    with p.writing() as conn:
        write_role(conn, 1, 1)
    core.psql("alter system set synchronous_standby_names = 'nobody'", database="postgres")
    core.psql("select pg_reload_conf()", database="postgres")

    def write():
        with p.writing() as conn:
            conn.execute("set synchronous_commit = on")
            write_role(conn, 1, 2)
            write_role(conn, 2, 1)
    waits = threading.Thread(target=write)
    waits.start()
    wait_for("the stream to bring it", lambda: p.warehouse(f"select count(*) from raw.{ROLE}") == [(3,)])
    assert p.core("select count(*) from core_role_events") == [(1,)]
    code, said = verify(p, "--full", "--wait", "1")
    assert (code, said["equal"], said["findings"], said["undecided_entities"]) == (FINDING, False, [], 2), said
    # What cannot be decided is not repaired either: nothing is deleted that the core is yet to show.
    code, said = verify(p, "--full", "--wait", "1", "--repair")
    assert (code, said["repaired_entities"]) == (FINDING, 0), said
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(verify, p, "--full")
        wait_for("verify to look again", lambda: p.core(
            "select count(*) from pg_stat_activity where application_name = 'rolag verify'")[0][0] > 0)
        core.psql("alter system reset synchronous_standby_names", database="postgres")
        core.psql("select pg_reload_conf()", database="postgres")
        code, said = asked.result()
    waits.join()
    assert (code, said["findings"], said["undecided_entities"]) == (0, [], 0), said
    p.stop()


def test_verify_against_triggers_is_the_proof_before_they_are_switched_off(make_pipeline):
    rollups = [ROLE, "core_withdrawal_events_rollup", "core_customer_events_rollup"]
    p = make_pipeline(land=rollups)
    for name in rollups[:2]:
        p.core(trigger_sql(name))
    p.init()
    bank = Bank(p.core_conninfo, seed=5)
    bank.bulk(3000)
    p.start()
    with SteadyLoad(bank):
        code, out, err = p.run("verify", "--against-triggers", "--full")
        assert code == 0 and "Equal: 2 tables" in out, out + err
        assert "note        core_customer_events_rollup  the core has no table of this name: not compared" in out
        code, out, err = p.run("verify", "--against-triggers")
        assert code == 0, out + err
    p.core("alter table core_withdrawal_events_rollup add column extra int")
    p.core("alter table core_withdrawal_events_rollup drop column reference")
    p.core("update core_withdrawal_events_rollup set amount = amount + 1 where version = 1 and id = "
           "(select min(id::text)::uuid from core_withdrawal_events_rollup)")
    code, said = verify(p, "--against-triggers", "--full", "core_withdrawal_events_rollup")
    assert code == FINDING and [(f["kind"], f["version"], f["column"]) for f in said["findings"]] == \
        [("differs", 1, "amount")], said
    code, out, err = p.run("verify", "--against-triggers", "core_withdrawal_events_rollup")
    assert "column reference is only landed" in out and "column extra is only in the core" in out, out + err
    code, out, err = p.run("verify", "--against-triggers", "core_customer_events_rollup")
    assert code == FINDING and "Not proven equal" in out, out + err
    p.stop()


def test_the_sampler_finds_what_was_altered_and_says_so_in_log_counters_and_status(make_pipeline):
    p = make_pipeline(land=[ROLE], settings={"verify": {"sample_interval": "300 ms", "sample_entities": 100}})
    p.init()
    p.start()
    with p.writing() as conn:
        for n in range(1, 4):
            write_role(conn, n, 1)
    p.wait_applied()
    wait_for("a sample", lambda: p.counters()["apply_verified_rows_total"] >= 6)
    assert p.counters()["apply_verify_differences_total"] == 0
    assert "no difference" in p.run("status")[1]
    p.warehouse(f"update raw.{ROLE}_latest set name = 'forged' where id = %s", entity(2))
    line, *_ = wait_for("the difference", lambda: p.apply.lines("error", "differs"))
    assert f"first=\"differs in {ROLE}_latest, id {entity(2)}, version 1, column name\"" in line
    assert f"mend=\"rolag verify {ROLE} --full --repair\"" in line and "forged" not in line
    assert "DIFFERENCES" in p.run("status")[1]
    assert verify(p, "--full", "--repair")[0] == 0
    with p.writing() as conn:
        write_role(conn, 1, 2)
    p.wait_applied()
    p.stop()
    wait_for("its connections to end", lambda: p.core(
        "select count(*) from pg_stat_activity where application_name = 'rolag verify'") == [(0,)])


def test_what_is_in_quarantine_is_neither_a_difference_nor_repaired(make_pipeline):
    p = make_pipeline(land=[ROLE])
    p.init()
    p.start()
    with p.writing() as conn:
        for n in (1, 2):
            for sequence in (1, 2, 3):
                write_role(conn, n, sequence)
    p.wait_applied()
    p.warehouse("create table if not exists rolag.quarantine (pipeline text, rollup text, id text, sequence int, "
                "event_type text, recorded_at timestamptz, lsn pg_lsn, first boolean)")
    for sequence in (2, 3):     # as if apply had parked it there
        p.warehouse("insert into rolag.quarantine (pipeline, rollup, id, sequence, event_type, recorded_at, lsn, first) "
                    "values (%s, %s, %s, %s, 'x', now(), '0/1', %s)", p.name, ROLE, entity(2), sequence, sequence == 2)
    p.warehouse(f"delete from raw.{ROLE} where id = %s and version >= 2", entity(2))
    p.warehouse(f"delete from raw.{ROLE}_latest where id = %s", entity(2))
    p.warehouse(f"insert into raw.{ROLE}_latest select * from raw.{ROLE} where id = %s", entity(2))
    code, said = verify(p, "--full")
    assert (code, said["findings"], said["quarantined_entities"]) == (0, [], 1), said
    p.warehouse(f"update raw.{ROLE} set name = 'forged' where id = %s", entity(2))
    code, said = verify(p, "--full", "--repair")
    assert (code, said["repaired_entities"], said["refused_entities"]) == (FINDING, 0, 1), said
    assert ("differs", ROLE, entity(2), 1, "name") in told(said)
    assert p.warehouse("select state, reason from rolag.repair") == [("refused", "it is in quarantine")]
    p.stop()
