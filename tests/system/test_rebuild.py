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
from pipeline import (PACK, PAYMENT, PERMANENT, ROLE, ROOT, Bank, Pipeline, Process, Watcher, entity, wait_for,
                      write_role)
from standby import make_standby
from test_quarantine import definition, restart
from test_sync import Writing, drop_slot, workers

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
    assert held_alike(p, OBLIGATION)
    code, out, err = p.run("verify", OBLIGATION, "--full")
    assert code == 0, out + err
    p.stop()


def held_alike(p, name):
    """Rows that were there before have the LSN and time that they had (None where nothing can be compared)."""
    (rows, alike), = p.warehouse(
        f"select count(*), count(*) filter (where (n._lsn, n._committed_at) is not distinct from (o._lsn, o._committed_at)) "
        f"from raw.{name} n join raw.{name}__d0 o using (id, version)")
    (last, alike_last), = p.warehouse(
        f"select count(*), count(*) filter (where (n._lsn, n._committed_at) is not distinct from (h._lsn, h._committed_at)) "
        f"from raw.{name}_latest n join raw.{name} h using (id, version)")
    assert rows > 0 and last > 0
    return (rows, last) == (alike, alike_last)


# ---- roles: small, and a definition 2 of them ------------------------------------------------------------

def second_role(p, number=2):
    """A removed permission set stays in the list from now on; one more column."""
    definition(p, ROLE, f"definition: {number - 1}", f"definition: {number}")
    if number == 2:
        definition(p, ROLE, "columns:\n", "columns:\n  permission_set_id: {type: uuid, set: [permission_set_added]}\n")
        definition(p, ROLE, "      remove: {permission_set_id: [permission_set_removed]}\n", "")


def judge_second_role(p):
    columns = p.rules[ROLE]["columns"]
    columns["permission_set_id"] = {"type": "uuid", "set": ["permission_set_added"]}
    del columns["permission_set_ids"]["remove"]
    anew(p, ROLE)


def write_lives(p, first, last):
    """Roles with a set added and removed."""
    with p.writing() as conn:
        for number in range(first, last + 1):
            write_role(conn, number, 1)
            write_role(conn, number, 2)
            write_role(conn, number, 3, {"permission_set_id": entity(1_000_002)}, "permission_set_removed")


@pytest.fixture
def roles(make_definable):
    """A running pipeline of roles and payments, ten roles with three versions each."""
    p = make_definable([ROLE, PAYMENT])
    p.start()
    write_lives(p, 1, 10)
    p.wait_applied()
    return p


def test_trap_36_readers_grants_views_and_comments_survive_a_rebuild(roles):
    p = roles
    for sql in ("create role reader_of_rebuilds", "grant usage on schema raw to reader_of_rebuilds",
                f"grant select on raw.{ROLE}, raw.{ROLE}_latest to reader_of_rebuilds",
                f"create view raw.names as select id, name, version from raw.{ROLE}_latest",
                "create view raw.counted as select count(*) as n from raw.names",
                "grant select on raw.counted to reader_of_rebuilds",
                "comment on view raw.counted is 'how many roles'",
                f"comment on table raw.{ROLE}_latest is 'ask Ana about it'",
                f"create index roles_by_name on raw.{ROLE} (name)"):
        p.warehouse(sql)
    try:
        second_role(p)
        def look(conn):
            rows = conn.execute(f"select (select count(*) from raw.{ROLE}), (select count(*) from raw.{ROLE}_latest), "
                                "(select n from raw.counted)").fetchone()
            return rows if rows[0] < 30 or rows[1] < 10 or rows[2] < 10 else None
        with Watcher(p.warehouse_conninfo, look) as watcher:
            restart(p)
            for number in range(11, 40):
                write_lives(p, number, number)
            wait_definition(p, ROLE, 2)
            looks = watcher.looks
            wait_for("readers to go on", lambda: watcher.looks > looks + 5)
        assert watcher.wrong == [] and watcher.looks > 10
        p.wait_applied()
        judge_second_role(p)
        p.assert_equal()
        assert p.warehouse("select n from raw.counted") == [(39,)]
        for table in (ROLE, ROLE + "_latest", "counted"):
            assert p.warehouse("select has_table_privilege('reader_of_rebuilds', %s, 'select')", "raw." + table) == [(True,)]
        assert p.warehouse("select obj_description('raw.counted'::regclass)") == [("how many roles",)]
        assert p.warehouse("select obj_description(%s::regclass)", f"raw.{ROLE}_latest") == [("ask Ana about it",)]
        assert "definition 2" in p.warehouse("select obj_description(%s::regclass)", f"raw.{ROLE}")[0][0]
        assert p.warehouse("select count(*) from pg_index where indrelid = %s::regclass and not indisprimary", f"raw.{ROLE}") == [(1,)]
    finally:
        p.warehouse("drop owned by reader_of_rebuilds")
        p.warehouse("drop role reader_of_rebuilds")


def test_what_is_in_the_way_is_named_and_the_old_definition_goes_on(roles):
    """A materialized view cannot go over; without it, asked for again, it is done at once."""
    p = roles
    p.warehouse(f"create materialized view raw.frozen as select id, permission_set_ids from raw.{ROLE}")
    second_role(p)
    restart(p)
    reason = wait_for("what is in the way", lambda: request(p, ROLE)[1])
    assert "frozen" in reason and live(p, ROLE) == (1, "live")
    write_lives(p, 11, 12)
    p.wait_applied()
    assert p.warehouse(f"select count(*) from raw.{ROLE}") == p.warehouse(f"select count(*) from raw.{ROLE}__d2") == [(36,)]
    assert p.apply.lines("cannot take its place yet", f"rollup={ROLE}")
    code, out, err = p.run("rebuild", ROLE, "--show")
    assert code == 0 and "frozen" in out, out + err
    p.warehouse("drop materialized view raw.frozen")
    code, out, err = p.run("rebuild", ROLE)
    assert code == 0 and "definition 2 is live" in out, out + err
    judge_second_role(p)
    p.assert_equal()


def test_the_stream_flows_while_the_swap_waits_for_a_lock(roles):
    p = roles
    with oracle.connect(p.warehouse_conninfo) as reader:
        reader.execute("begin")
        reader.execute(f"select count(*) from raw.{ROLE}")
        second_role(p)
        restart(p)
        wait_for("a try", lambda: p.warehouse("select tries from rolag.rebuild where rollup = %s", ROLE)[0][0] > 1)
        write_lives(p, 11, 12)
        p.wait_applied()
        assert live(p, ROLE) == (1, "live") and "55P03" in request(p, ROLE)[1]
        reader.execute("commit")
    wait_definition(p, ROLE, 2)
    judge_second_role(p)
    p.assert_equal()


def test_undo_goes_back_to_what_was_live_with_all_that_came_since(roles):
    p = roles
    first = copy.deepcopy(p.rules)
    second_role(p)
    restart(p)
    wait_definition(p, ROLE, 2)
    write_lives(p, 11, 15)
    p.wait_applied()
    kept = p.warehouse(f"select count(*) from raw.{ROLE}__d0")[0][0]
    assert kept == 30 and p.warehouse(f"select count(*) from raw.{ROLE}") == [(45,)]
    code, out, err = p.run("rebuild", ROLE, "--undo")
    assert code == 0 and "definition 1 is live" in out and "permission_set_ids: " in out, out + err
    assert live(p, ROLE) == (1, "live") and siblings(p) == [ROLE + "__d0"]
    p.rules.update(first)
    p.wait_applied()
    p.assert_equal()
    # It is not begun again by itself, and the stream goes on by the old definition.
    restart(p)
    write_lives(p, 16, 17)
    p.wait_applied()
    assert live(p, ROLE) == (1, "live") and siblings(p) == [ROLE + "__d0"]
    p.assert_equal()
    code, out, err = p.run("verify", "--full")
    assert code == 0, out + err
    code, out, err = p.run("sync", "--all", "--wait")       # what is kept is no table to be synced
    assert code == 0 and "__d0" not in out, out + err
    assert p.warehouse("select state from rolag.relation where name = %s", ROLE + "__d0") == [("parked",)]
    assert p.warehouse("select number, undone_at is not null from rolag.definition where name = %s order by 1", ROLE) == \
        [(1, False), (2, True)]
    # Asked for, it is built again; a later one goes on as ever.
    code, out, err = p.run("rebuild", ROLE)
    assert code == 0 and "definition 2 is live" in out, out + err
    judge_second_role(p)
    p.assert_equal()
    second_role(p, 3)
    restart(p)
    wait_definition(p, ROLE, 3)
    assert p.warehouse("select definition from rolag.relation where beside is not null") == [(2,)]
    p.assert_equal()
    code, out, err = p.run("rebuild", ROLE, "--forget")
    assert code == 0 and siblings(p) == [] and ROLE + "__d0" not in tables(p), out + err
    code, out, err = p.run("rebuild", ROLE, "--undo")
    assert code == PERMANENT and "nothing is kept" in err


def test_the_same_definition_is_built_anew_where_it_is_asked_for(roles):
    """A row that was damaged is right again, and the count says which column it was."""
    p = roles
    p.warehouse(f"update raw.{ROLE} set name = 'damaged' where id = %s and version = 2", entity(3))
    code, out, err = p.run("rebuild", ROLE)
    assert code == 0, out + err
    assert "29 alike, 1 differ, 0 only in the old, 0 only in the new" in out and "  name: 1 rows\n" in out
    assert "damaged" not in out + err and live(p, ROLE) == (1, "live")
    p.wait_applied()
    p.assert_equal()
    assert held_alike(p, ROLE)


def test_a_new_definition_mends_who_waited(roles):
    p = roles
    with p.writing() as conn:
        write_role(conn, 1, 4, {"to": "x"}, "teleported")
        write_role(conn, 1, 5)
    p.wait_applied()
    assert p.warehouse("select rollup, count(*) from rolag.quarantine group by 1") == [(ROLE, 2)]
    second_role(p)
    definition(p, ROLE, "  permission_set_removed: [permission_set_id]\n",
               "  permission_set_removed: [permission_set_id]\n  teleported: [to]\n")
    restart(p)
    wait_definition(p, ROLE, 2)
    assert p.warehouse("select * from rolag.quarantine") == []
    p.rules[ROLE]["types"].append("teleported")
    judge_second_role(p)
    with p.writing() as conn:
        write_role(conn, 1, 6)
    p.wait_applied()
    p.assert_equal()


def test_what_a_definition_does_not_fit_waits_in_the_new_rows_only(roles):
    """And comes over with the swap."""
    p = roles
    second_role(p)
    definition(p, ROLE, "  permission_set_removed: [permission_set_id]\n", "")
    restart(p)
    wait_definition(p, ROLE, 2)
    assert p.warehouse("select rollup, count(*), count(*) filter (where first) from rolag.quarantine group by 1") == [(ROLE, 10, 10)]
    assert p.warehouse("select only_old, only_new from rolag.rebuild") == [(10, 0)]
    assert p.counters()["quarantine_entities"] == 10


@pytest.mark.parametrize("when", ["reading", "read"])
def test_a_gap_during_a_rebuild_is_in_the_new_rows_too(roles, when):
    """The slot is lost while the rows of the new definition are read, or are there and wait for their swap."""
    p = roles
    if when == "reading":
        lock, blocker = "lock table public.core_role_events in access exclusive mode", oracle.connect(p.core_conninfo)
    else:
        lock, blocker = f"lock table raw.{ROLE} in access share mode", oracle.connect(p.warehouse_conninfo)
    blocker.execute("begin")
    blocker.execute(lock)
    second_role(p)
    restart(p)
    state = "rebuilding" if when == "reading" else "live"
    wait_for("the build", lambda: p.warehouse("select state from rolag.relation where name = %s", ROLE + "__d2") == [(state,)])
    if when == "read":
        wait_for("it to be counted", lambda: request(p, ROLE)[0] == "counted")
    p.stop()
    if when == "reading":
        blocker.execute("rollback")
    drop_slot(p)
    write_lives(p, 11, 15)
    p.start()
    wait_for("the gap", lambda: p.check_alive() or p.apply.lines("what lies in a gap of the spool is read from the core"))
    write_lives(p, 16, 17)
    if when == "read":
        p.wait_applied()
        blocker.execute("rollback")
    blocker.close()
    wait_definition(p, ROLE, 2)
    p.wait_applied()
    judge_second_role(p)
    p.assert_equal()
    assert p.warehouse(f"select count(*) from raw.{ROLE}") == [(51,)]


def test_a_failover_during_a_rebuild_takes_back_the_new_rows_too(make_definable, own_clusters):
    """The standby that becomes the core never had what the warehouse has, in both definitions' rows."""
    primary, _ = own_clusters()
    p = make_definable([ROLE, PAYMENT], core=primary)
    p.start()
    write_lives(p, 1, 5)
    p.wait_applied()
    standby = make_standby(primary)
    try:
        standby.start()
        wait_for("the standby", lambda: Pipeline.query(standby.conninfo(p.core_database), "select count(*) from core_role_events")
                 == [(15,)])
        standby.stop()
        write_lives(p, 6, 10)
        blocker = oracle.connect(p.warehouse_conninfo)
        blocker.execute("begin")
        blocker.execute(f"lock table raw.{ROLE} in access share mode")
        second_role(p)
        restart(p)
        wait_for("the build", lambda: p.warehouse(f"select count(*) from raw.{ROLE}__d2") == [(30,)] and
                 p.warehouse("select state from rolag.relation where name = %s", ROLE + "__d2") == [("live",)])
        p.stop()
        primary.kill9()
        standby.start()
        standby.psql("select pg_promote()", database="postgres")
        p.core_cluster, p.core_conninfo = standby, standby.conninfo(p.core_database)
        p.configure({"core": {"connect": p.core_conninfo}})
        with p.writing() as conn:       # the same entity and numbers, another life
            write_role(conn, 6, 1)
            write_role(conn, 6, 2, type_="permission_set_removed")
        p.start()
        wait_for("the fork to be seen", lambda: p.check_alive() or p.apply.lines("failover", "taken_back=yes"))
        blocker.execute("rollback")
        blocker.close()
        wait_definition(p, ROLE, 2)
        p.wait_applied()
        judge_second_role(p)
        p.assert_equal()
        assert p.warehouse(f"select count(*) from raw.{ROLE}") == [(17,)]
        p.stop()
    finally:
        standby.destroy()


def test_a_build_is_given_up_when_its_definition_goes_away(roles):
    p = roles
    first = read(p, ROLE)
    blocker = oracle.connect(p.core_conninfo)
    blocker.execute("begin")
    blocker.execute("lock table public.core_role_events in access exclusive mode")
    second_role(p)
    restart(p)
    wait_for("the build to begin", lambda: siblings(p) == [ROLE + "__d2"])
    write(p, ROLE, first)
    restart(p)
    wait_for("it to be given up", lambda: p.apply.lines("given up", f"rollup={ROLE}"))
    assert siblings(p) == [] and ROLE + "__d2" not in tables(p) and request(p, ROLE)[0] == "refused"
    blocker.execute("rollback")
    blocker.close()
    write_lives(p, 11, 11)
    p.wait_applied()
    p.assert_equal()
    assert live(p, ROLE) == (1, "live")


def test_numbers_that_do_not_fit_are_refused_with_their_mend(roles):
    p = roles
    first = read(p, ROLE)
    # Other content under the number of the live rows.
    second_role(p)
    write(p, ROLE, read(p, ROLE).replace("definition: 2", "definition: 1"))
    assert p.apply.stop() == 0
    p.start_apply()
    assert p.apply.wait() == PERMANENT
    assert p.apply.lines("changed under the same number 1", "give it the number 2")
    # A number that was passed, while nothing is kept of it.
    write(p, ROLE, read(p, ROLE).replace("definition: 1", "definition: 2"))
    second = read(p, ROLE)
    p.start_apply()
    wait_definition(p, ROLE, 2)
    write(p, ROLE, first)
    code, out, err = p.run("rebuild", ROLE)
    assert code == PERMANENT and "--undo" in err
    restart(p)          # it is the one that is kept: the stream goes on
    assert p.apply.lines("the definition that was live before", "--undo")
    write_lives(p, 11, 11)
    p.wait_applied()
    judge_second_role(p)
    p.assert_equal()
    code, out, err = p.run("rebuild", ROLE, "--forget")
    assert code == 0, out + err
    assert p.apply.stop() == 0
    p.start_apply()
    assert p.apply.wait() == PERMANENT
    assert p.apply.lines("were made by definition 2", "older one, 1")
    # A warehouse of before definitions were noted.
    write(p, ROLE, second.replace("definition: 2", "definition: 3"))
    p.warehouse("delete from rolag.definition where name = %s", ROLE)
    p.start_apply()
    assert p.apply.wait() == PERMANENT
    assert p.apply.lines("start once with the file of definition 2")
    write(p, ROLE, second)
    p.start_apply()
    wait_for("it to run", lambda: p.check_alive() or p.apply.lines("writing to the warehouse"))
    second_role(p, 3)
    restart(p)
    wait_definition(p, ROLE, 3)
    p.assert_equal()


def test_a_rebuild_killed_again_and_again_goes_on_where_it_was(make_definable):
    """Apply and its children die at random, under load, until the new definition is live."""
    p = make_definable(settings={"sync": {"chunk": 100}, "apply": {"batch_rows": 200}})
    dice = random.Random(42)
    bank = Bank(p.core_conninfo, seed=42)
    bank.bulk(60_000)
    p.start()
    second_obligation(p)
    assert p.apply.stop() == 0
    kills = 0
    with Writing(bank, rate=40):
        p.start_apply()
        while kills < 15 and live(p, OBLIGATION) != (2, "live"):
            threading.Event().wait(dice.uniform(0.02, 0.25))
            victims = workers(p)
            if victims and dice.random() < 0.5:
                os.kill(dice.choice(victims), signal.SIGKILL)
            else:
                p.apply.kill9()
                p.start_apply()
            kills += 1
        wait_definition(p, OBLIGATION, 2)
        p.wait_applied()
    p.wait_applied()
    assert kills >= 3
    judge_second_obligation(p)
    p.assert_equal()
    assert held_alike(p, OBLIGATION) and siblings(p) == [OBLIGATION + "__d0"]
    p.stop()


def points():
    with open(os.path.join(ROOT, "proto", "base", "failpoints.def"), encoding="utf-8") as f:
        return re.findall(r'^FAILPOINT_DEF\(\w+, "((?:rebuild|swap)\.[^"]+)", ([^,]+),', f.read(), re.MULTILINE)


IN_CHILD = {"rebuild.counting", "rebuild.counted", "rebuild.stamp", "swap.prepare"}


def test_each_failpoint_of_a_rebuild(roles):
    """Each step dies or loses its connection once, with events written all the while; then the next number is built."""
    p = roles
    cases = [(name, action) for name, can in points() for action in
             ["kill"] + ["disconnect"] * ("FP_FD" in can) + ["EAGAIN"] * ("FP_ERRNO" in can)]
    assert len(cases) > 15
    p.warehouse(f"create index roles_by_name on raw.{ROLE} (name)")
    number, role = 2, 100
    second_role(p)
    restart(p)
    wait_definition(p, ROLE, 2)
    for name, action in cases:
        number += 1
        definition(p, ROLE, f"definition: {number - 1}", f"definition: {number}")
        assert p.apply.stop() == 0
        if name == "rebuild.dropped":
            p.warehouse("update rolag.rebuild set what = 'forget', state = 'asked'")
        held = "sync.open=delay:2000;" if name == "rebuild.stamp" else ""     # an event comes between begin and chunk
        failing = start_failing(p, f"{held}{name}={action}")
        if held:
            wait_for("the begin", lambda: p.warehouse("select 1 from rolag.sync where name like %s", ROLE + "__d%"))
        role += 1
        write_lives(p, role, role)
        wait_for(f"{name} to fire", lambda: has_fired(failing, name, action))
        if action == "kill" and name not in IN_CHILD:
            assert failing.wait() == -signal.SIGKILL, name
            p.start_apply()
        wait_definition(p, ROLE, number)
        p.wait_applied()
        assert p.warehouse(f"select count(*) from raw.{ROLE}") == p.core("select count(*) from core_role_events"), (name, action)
    judge_second_role(p)
    p.assert_equal()
    assert held_alike(p, ROLE)


def start_failing(p, points):
    """Apply of the build that has failpoints."""
    p.apply = Process("apply", [FAIL_BINARY, "apply", "--config", p.config], os.path.join(p.folder, "apply.log"),
                      {"ROLAG_FAILPOINTS": points})
    p.processes.append(p.apply)
    return p.apply


def has_fired(process, name, action):
    running = process.running()     # asked before the log is read: it may write its line and die in between
    if process.lines("failpoint fired", f"name={name} ", f"action={action} "):
        return True
    assert running, f"{name} was not passed; apply ended with {process.popen.returncode}"
    return False
