"""One entity that cannot be folded waits, in order, and everything else flows; it comes back when it can."""
import copy
import os
import shutil
import time

import oracle
import psycopg
import pytest
from pipeline import PACK, PAYMENT, PERMANENT, ROLE, entity, wait_for, write_payment, write_role, write_roles

SECRET = "s3cret-value"
LISTED = "  permission_set_removed: [permission_set_id]\n"


@pytest.fixture
def make_poisoned(make_pipeline, tmp_path):
    """make_poisoned(settings): two rollups with a pack of their own, running; role 1 has two versions."""
    def make(settings=None):
        pack = tmp_path / "pack"
        pack.mkdir()
        for name in (ROLE, PAYMENT):
            shutil.copy(os.path.join(PACK, name + ".yaml"), pack)
        every = oracle.read_rules()
        p = make_pipeline(settings, pack=pack, rules=copy.deepcopy({n: every[n] for n in (ROLE, PAYMENT)}),
                          land=[ROLE, PAYMENT])
        p.init()
        p.start()
        with p.writing() as conn:
            for sequence in (1, 2):
                write_role(conn, 1, sequence)
        p.wait_applied()
        return p
    return make


@pytest.fixture
def pipe(make_poisoned):
    return make_poisoned()


def poison(p, number=1, sequence=3):
    with p.writing() as conn:
        write_role(conn, number, sequence, {"to": SECRET}, "teleported")


def declare(p):
    """Mends the definition: no column reads it, so that its fingerprint stays."""
    path = os.path.join(p.pack, ROLE + ".yaml")
    with open(path, encoding="utf-8") as f:
        text = f.read()
    assert text.count(LISTED) == 1
    with open(path, "w", encoding="utf-8") as f:
        f.write(text.replace(LISTED, LISTED + "  teleported: [to]\n"))
    p.rules[ROLE]["types"].append("teleported")
    p.judge_anew(ROLE)


def versions(p, number, table=ROLE):
    return [v for v, in p.warehouse(f"select version from raw.{table} where id = %s order by 1", entity(number))]


def waiting(p):
    """(number of the entity, sequence, first, state) of all that is in quarantine."""
    return [(int(id_[-12:]), sequence, first, state) for id_, sequence, first, state in
            p.warehouse("select id, sequence, first, state from rolag.quarantine order by id, sequence")]


def no_values(p):
    for folder, folders, names in os.walk(p.folder):
        if "spool" in folders:
            folders.remove("spool")
        for name in names:
            with open(os.path.join(folder, name), "rb") as f:
                assert SECRET.encode() not in f.read(), name
    for command in (("status", "--json"), ("quarantine", "list"), ("quarantine", "show", ROLE, entity(1))):
        _, out, err = p.run(*command)
        assert SECRET not in out + err
    assert p.warehouse("select count(*) from rolag.quarantine where reason like %s", f"%{SECRET}%") == [(0,)]


def restart(p):
    assert p.apply.stop() == 0
    p.start_apply()
    p.wait_live()


def test_trap_09_one_poison_event_parks_its_entity_and_the_rest_flows(pipe):
    poison(pipe)
    with pipe.writing() as conn:
        write_role(conn, 1, 4)
        write_role(conn, 2, 1)
    with pipe.writing() as conn:
        write_role(conn, 1, 5)
        write_payment(conn, 3)
    pipe.wait_applied()
    assert versions(pipe, 1) == [1, 2] and versions(pipe, 2) == [1] and versions(pipe, 3, PAYMENT) == [1]
    assert waiting(pipe) == [(1, 3, True, "waiting"), (1, 4, False, "waiting"), (1, 5, False, "waiting")]
    (reason, lsn_, committed, event), = pipe.warehouse(
        "select reason, lsn, committed_at, event from rolag.quarantine where first")
    assert reason.startswith("unknown_event: ") and "teleported" in reason and entity(1) in reason and lsn_ and committed
    assert event == '{"to": "%s"}' % SECRET
    line, = pipe.apply.lines("error", "waits in quarantine")
    assert "relation=public.core_role_events" in line and entity(1) in line and "sequence 3" in line
    counters = pipe.counters()
    assert (counters["quarantine_entities"], counters["quarantine_events"]) == (1, 3)
    no_values(pipe)
    # A restarted apply knows who waits.
    restart(pipe)
    with pipe.writing() as conn:
        write_role(conn, 1, 6)
        write_role(conn, 2, 2)
    pipe.wait_applied()
    assert versions(pipe, 1) == [1, 2] and versions(pipe, 2) == [1, 2] and len(waiting(pipe)) == 4
    # Mended and asked for, all of it is folded, in order, and live flow goes on behind it.
    declare(pipe)
    restart(pipe)
    assert len(waiting(pipe)) == 4, "a retry is asked for"
    code, out, err = pipe.run("quarantine", "retry", ROLE, entity(1))
    assert code == 0, out + err
    assert waiting(pipe) == [] and versions(pipe, 1) == [1, 2, 3, 4, 5, 6]
    with pipe.writing() as conn:
        write_role(conn, 1, 7)
    pipe.wait_applied()
    assert pipe.counters()["quarantine_entities"] == 0
    pipe.assert_equal()
    pipe.stop()
