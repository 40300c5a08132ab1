"""Mirrored tables that leave their publication, or are not published with all their changes: said within the look's
interval, and synced when they are back, since nothing in the stream shows what it lacks."""
import json

import psycopg
import pytest
from mirrors import assert_mirrors, difference, make_mirrors
from pipeline import ROLE, SOME, wait_for, write_role

SQL = """create table loans (id int primary key, note text);
         create table terms (id int primary key, note text);
         create table parted (id int primary key, note text) partition by range (id);
         create table parted_1 partition of parted for values from (0) to (1000);
         create table log (id int unique not null, note text);"""
TABLES = ["loans", "terms", "parted", "log"]


@pytest.fixture
def watched(make_pipeline):
    def make(**more):
        p = make_mirrors(make_pipeline, SQL + "".join(f"insert into {t} values (1, 'a');" for t in TABLES), TABLES,
                         ["log"], {"capture": {"look_interval": "1 s"}}, land=SOME[:1], **more)
        if more.get("start", True):
            wait_marks(p, TABLES)
        return p
    return make


def marks(p):
    return dict(p.warehouse("select name, published from rolag.relation where kind = 'mirror'"))


def wait_marks(p, tables):
    return wait_for("how they are published to be noted", lambda: (m := marks(p)) and all(m[t] for t in tables) and m)


def status(p):
    return json.loads(p.run("status", "--json")[1])


def alarmed(p):
    return wait_for("the alarm", lambda: (s := status(p))["metrics"]["core_tables_unpublished"] > 0 and s)


def synced(p, table):
    return len(p.apply.lines("was not published as it must be for a while", f"table=public.{table}"))


def wait_equal(p, table):
    p.core(f"insert into {table} values (900, 'later') on conflict (id) do update set note = log.note || 'x'"
           if table == "log" else f"insert into {table} values (900, 'later')")
    wait_for("it to be synced", lambda: synced(p, table))
    p.wait_live()
    assert_mirrors(p, [table])


# what is done to publication P, where table it concerns, what is said, and how it is undone
LEAVES = {
    "out": ("loans", "alter publication {p}_changes drop table loans", "is not in publication {p}_changes"),
    "operations": ("loans", "alter publication {p}_changes set (publish = 'insert')",
                   "is not published with all its changes: {p}_changes leaves operations out"),
    "leaves": ("parted", "alter publication {p}_changes set (publish_via_partition_root = false)",
               "is published under the names of its partitions by {p}_changes"),
    "filter": ("loans", "alter publication {p}_changes drop table loans; "
               "alter publication {p}_changes add table loans where (id > 5)", "is published with a row filter by"),
    "columns": ("terms", "alter publication {p}_changes drop table terms; "
                "alter publication {p}_changes add table terms (id)", "is published with a column list by"),
    "append_only": ("log", "alter publication {p}_inserts drop table log", "is not in publication {p}_inserts"),
}


@pytest.mark.parametrize("way", LEAVES)
def test_trap_51_what_a_mirror_misses_is_an_alarm_and_is_synced_when_it_is_published_again(watched, way):
    p = watched()
    table, spoil, says = LEAVES[way]
    p.core_cluster.psql(spoil.format(p=p.name), database=p.core_database)
    said = alarmed(p)
    assert said["healthy"] is False and said["state"] == "alarm" and "not published with all changes" in said["sentence"]
    note = said["roles"]["capture"]["note"]
    assert f"public.{table}" in note and says.format(p=p.name) in note, note
    line, *_ = p.capture.lines("error", "a landed table is not published as it must be", f"table=public.{table}")
    mend = note.split("mend: ", 1)[1]
    assert mend in line and "ALTER PUBLICATION" in mend, line
    p.core(f"insert into {table} values (2, 'b')")
    if way == "leaves":
        p.core("update parted set note = 'c' where id = 1")
    p.core_cluster.psql(mend, database=p.core_database)         # the exact mend that was printed
    wait_for("no alarm", lambda: status(p)["metrics"]["core_tables_unpublished"] == 0)
    if way == "columns":    # the stream has shown it already: such a one waits for a person
        wait_for("it to be parked", lambda: p.warehouse("select state from rolag.relation where name = 'terms'")
                 == [("parked",)])
        code, out, err = p.run("sync", "terms", "--wait")
        assert code == 0 and difference(p, "terms") == "", out + err
    else:
        wait_equal(p, table)
    assert status(p)["roles"]["capture"]["note"] == ""
    others = {"operations", "leaves"}       # there the publication as a whole was changed
    if way not in others:
        assert not any(synced(p, t) for t in TABLES if t != table), "nothing was missing of the others"
    p.stop()


def test_trap_51_a_table_out_of_its_publication_between_two_looks_or_while_nobody_runs(watched):
    """Out and in again before anybody looks; a writer that was open across it."""
    p = watched()
    with psycopg.connect(p.core_conninfo) as writer:
        writer.execute("insert into loans values (2, 'open across it')")
        with psycopg.connect(p.core_conninfo) as conn:
            conn.execute(f"alter publication {p.name}_changes drop table loans")
            conn.execute("insert into loans values (3, 'b')")
            conn.execute(f"alter publication {p.name}_changes add table loans")
        writer.commit()
    wait_equal(p, "loans")
    p.stop()
    before = marks(p)
    p.core(f"alter publication {p.name}_changes drop table terms")
    p.core("insert into terms values (2, 'b')")
    p.core(f"alter publication {p.name}_changes add table terms")
    p.start()
    wait_equal(p, "terms")
    after = marks(p)
    assert after["terms"] != before["terms"] and after["loans"] == before["loans"], "each mark is of its table"
    p.stop()


def test_a_parked_mirror_is_not_taken_up_by_itself_and_init_harms_no_other(watched):
    p = watched()
    p.core("alter table terms rename column note to remark")
    p.core("update terms set remark = 'x'")
    wait_for("it to be parked", lambda: p.warehouse("select state from rolag.relation where name = 'terms'") == [("parked",)])
    p.core(f"alter publication {p.name}_changes drop table terms")
    p.core(f"alter publication {p.name}_changes add table terms")
    before = marks(p)
    p.core("create table more (id int primary key)")
    p.configure({"mirrors": {"tables": [*TABLES, "more"]}})
    p.stop()
    p.init()
    p.start_capture()
    p.start_apply()
    wait_for("the new one", lambda: p.warehouse("select count(*) from rolag.relation where name = 'more' and state = 'live'") == [(1,)])
    wait_for("the mark of the parked one", lambda: marks(p)["terms"] != before["terms"])
    assert p.warehouse("select state from rolag.relation where name = 'terms'") == [("parked",)]
    assert {t: m for t, m in marks(p).items() if t in ("loans", "parted")} == \
        {t: m for t, m in before.items() if t in ("loans", "parted")}
    assert not synced(p, "loans") and difference(p, "loans") == ""
    p.stop()


def test_a_mirror_that_is_not_published_when_it_is_first_seen_is_synced_once_it_is(watched):
    p = watched(start=False)
    p.core(f"alter publication {p.name}_changes drop table loans")
    p.start()
    wait_for("the mark", lambda: marks(p)["loans"] == "")
    p.core("insert into loans values (2, 'b')")
    p.core(f"alter publication {p.name}_changes add table loans")
    wait_equal(p, "loans")
    p.stop()


def test_trap_57_a_publication_made_again_while_capture_was_down_is_noticed_at_its_start(watched):
    """Servers from 18 on say nothing of it: capture itself knows which publications there were."""
    p = watched()
    wait_for("them to be remembered", lambda: "end" in open(p.state_dir + "/capture.publications", encoding="ascii").read())
    p.stop()
    p.core(f"drop publication {p.name}_changes")
    p.core(f"create publication {p.name}_changes for table loans, terms, parted with (publish_via_partition_root = true)")
    p.start()
    wait_for("the line", lambda: p.capture.lines("error", "a publication was made again", f"publication={p.name}_changes"))
    for table in ("loans", "terms", "parted"):
        wait_equal(p, table)
    p.stop()
    p.start()
    wait_for("a look", lambda: "end" in open(p.state_dir + "/capture.publications", encoding="ascii").read())
    p.wait_applied()
    assert not p.capture.lines("a publication was made again"), "once is enough"
    p.stop()


# ---- event tables --------------------------------------------------------------------------------------

EVENTS_LEAVE = {
    "out": ("alter publication {p}_inserts drop table core_role_events", "is not in publication {p}_inserts"),
    "filter": ("alter publication {p}_inserts drop table core_role_events; alter publication {p}_inserts "
               "add table core_role_events where (sequence < 2)", "is published with a row filter by {p}_inserts"),
    "operations": ("alter publication {p}_inserts set (publish = 'truncate')", "leaves operations out"),
}


@pytest.fixture
def rolled(make_pipeline):
    p = make_pipeline({"capture": {"look_interval": "1 s"}}, land=[ROLE, SOME[0]])
    p.init()
    p.start()
    write(p, 1, 1)
    p.wait_applied()
    wait_for("how they are published to be noted", lambda: all(m for _, m in rollup_marks(p).items()))
    return p


def write(p, number, sequence):
    with p.writing() as conn:
        write_role(conn, number, sequence)


def rollup_marks(p):
    return dict(p.warehouse("select name, published from rolag.relation"))


def says_synced(p):
    return [line for line in p.apply.lines("was not published as it must be for a while") if f"name={ROLE}" in line]


@pytest.mark.parametrize("way", EVENTS_LEAVE)
def test_trap_51_what_a_rollup_misses_is_an_alarm_and_is_synced_when_it_is_published_again(rolled, way):
    p = rolled
    spoil, says = EVENTS_LEAVE[way]
    p.core_cluster.psql(spoil.format(p=p.name), database=p.core_database)
    said = alarmed(p)
    note = said["roles"]["capture"]["note"]
    assert said["state"] == "alarm" and "the warehouse misses" in said["sentence"]
    assert ("public.core_role_events" in note or way == "operations") and says.format(p=p.name) in note, note
    write(p, 1, 2)
    write(p, 2, 1)
    p.core_cluster.psql(note.split("mend: ", 1)[1], database=p.core_database)       # the exact mend that was printed
    wait_for("no alarm", lambda: status(p)["metrics"]["core_tables_unpublished"] == 0)
    write(p, 2, 2)
    wait_for("it to be synced", lambda: says_synced(p))
    p.wait_live()
    p.wait_applied()
    p.assert_equal()
    assert p.warehouse(f"select count(*) from raw.{ROLE}") == [(4,)]


def test_trap_51_an_event_table_out_of_its_publication_between_two_looks_or_while_nobody_runs(rolled):
    p = rolled
    other = rollup_marks(p)[SOME[0]]
    with psycopg.connect(p.core_conninfo) as conn:
        conn.execute(f"alter publication {p.name}_inserts drop table core_role_events")
        write_role(conn, 1, 2)
        conn.execute(f"alter publication {p.name}_inserts add table core_role_events")
    wait_for("it to be synced", lambda: len(says_synced(p)) == 1)
    p.wait_live()
    p.wait_applied()
    p.assert_equal()
    p.stop()
    p.core(f"alter publication {p.name}_inserts drop table core_role_events")
    write(p, 1, 3)
    p.core(f"alter publication {p.name}_inserts add table core_role_events")
    p.start()
    wait_for("it to be synced", lambda: len(says_synced(p)) == 1)
    p.wait_live()
    p.wait_applied()
    p.assert_equal()
    assert p.warehouse(f"select count(*) from raw.{ROLE}") == [(3,)] and rollup_marks(p)[SOME[0]] == other


def test_capture_goes_on_where_the_definitions_cannot_be_read(rolled):
    p = rolled
    p.stop()
    p.configure({"rollups": {"path": p.state_dir + "/nowhere"}})
    p.start_capture()
    wait_for("the line", lambda: p.capture.lines("event tables are not watched"))
    before = p.counters("capture")["capture_transactions_total"]
    write(p, 1, 2)
    wait_for("it to be taken", lambda: p.counters("capture")["capture_transactions_total"] > before)
