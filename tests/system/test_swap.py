"""A table built beside a live one takes its place: what a bank has hung on it goes over, or is named (trap 36)."""
import os
import subprocess
import threading

import psycopg
import pytest
from pipeline import ROOT, wait_for
from program import build

PROBE = os.path.join(ROOT, "build", "asan", "tests", "swap_probe")
with open(os.path.join(ROOT, "apply", "sql", "003_rebuild.sql"), encoding="utf-8") as sql:
    MADE = sql.read().split("CREATE TABLE rolag.comment_made", 1)[1].split(";", 1)[0]

BASE = f"""
    create schema raw; create schema rolag; create table rolag.comment_made {MADE};
    create table raw.t (id int, version int, a text, n int, primary key (id, version));
    insert into raw.t select n, 1, 'a' || n, n from generate_series(1, 100) n;
    comment on table raw.t is 'ours'; comment on column raw.t.a is 'ours a'; comment on column raw.t.n is 'ours n';
    create table raw.t_latest (id int primary key, a text, n int); insert into raw.t_latest select id, a, n from raw.t;
    grant usage on schema raw to public; grant all on schema raw to engineer, analyst;
"""
BESIDE = """
    create table raw.t__d2 (id int, version int, extra jsonb, a text, n {type}, primary key (id, version));
    insert into raw.t__d2 select id, version, '{{}}', 'new ' || a, n from raw.t;
    comment on table raw.t__d2 is 'ours 2'; comment on column raw.t__d2.a is 'ours a 2';
    create table raw.t_latest__d2 (id int primary key, a text, n {type});
    insert into raw.t_latest__d2 select id, a, n from raw.t__d2;
"""
PAIRS = ["t", "t__d2", "t__d1", "t_latest", "t_latest__d2", "t_latest__d1"]


class Warehouse:
    """A database with the tables, that engineer owns, who is neither superuser nor owner of the database."""

    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name
        cluster.psql(f"create database {name}", database="postgres")
        self.conninfo = cluster.conninfo(name)
        self.sql(BASE)
        for table in ("t", "t_latest"):
            self.sql(f"alter table raw.{table} owner to engineer")
        self.sql("alter schema rolag owner to engineer; alter table rolag.comment_made owner to engineer")
        assert self.probe("made", "t") == ["ok"]

    def sql(self, text, *values, user=None):
        with psycopg.connect(self.cluster.conninfo(self.name, user=user) if user else self.conninfo) as conn:
            cursor = conn.execute(text, values or None)
            return cursor.fetchall() if cursor.description else None

    def give(self, text):
        """Runs it, and gives engineer what views it made."""
        self.sql(text)
        self.sql("do $$ declare v text; begin for v in select c.oid::regclass from pg_class c join pg_namespace n on n.oid = "
                 "relnamespace where relkind in ('v', 'm') and nspname in ('raw', 'public', 'other') and relowner = 10 loop "
                 "execute 'alter table ' || v || ' owner to engineer'; end loop; end $$")

    def beside(self, kind="int"):
        self.sql(BESIDE.format(type=kind), user="engineer")
        assert self.probe("made", "t__d2") == ["ok"]

    def probe(self, verb, *arguments, user="engineer"):
        """Its lines; the last is ok or error."""
        done = subprocess.run([PROBE, self.cluster.conninfo(self.name, user=user), verb, *arguments],
                              capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout.splitlines()

    def swap(self, *pairs):
        pairs = pairs or PAIRS
        assert self.probe("check", *pairs) == ["ok"]
        assert self.probe("prepare", *pairs)[-1] == "ok"
        assert self.probe("swap", *pairs) == ["ok"]

    def picture(self):
        """All that a failed swap must leave as it was."""
        return self.sql("select c.oid::regclass::text, c.relfilenode, c.relacl::text, c.relowner, "
                        "obj_description(c.oid, 'pg_class'), "
                        "case relkind when 'v' then pg_get_viewdef(c.oid) when 'i' then pg_get_indexdef(c.oid) end "
                        "from pg_class c join pg_namespace n on n.oid = relnamespace "
                        "where nspname in ('raw', 'public') order by 1")


@pytest.fixture(scope="module")
def roles(warehouse_cluster):
    build("build/asan/tests/swap_probe")
    warehouse_cluster.psql("create role engineer login; create role analyst login; create role reader login; "
                           "create role stranger login; create role dba superuser; grant analyst to engineer", database="postgres")
    yield warehouse_cluster
    for role in ("engineer", "analyst", "reader", "stranger", "dba"):
        for (name,) in [(d,) for d in made]:
            warehouse_cluster.psql(f"drop database if exists {name}", database="postgres")
        made.clear()
        warehouse_cluster.psql(f"drop role {role}", database="postgres")


made = []


@pytest.fixture
def house(roles):
    name = f"swap{len(made)}"
    made.append(name)
    return Warehouse(roles, name)


def grants(house, name):
    return house.sql("select coalesce(relacl, acldefault('r', relowner))::text from pg_class "
                     "where oid = %s::regclass", name)[0][0]


def statistics(house):
    return house.sql("select regexp_replace(pg_get_statisticsobjdef(oid), '^CREATE STATISTICS [^ ]+', ''), "
                     "obj_description(oid, 'pg_statistic_ext') from pg_statistic_ext where stxrelid = 'raw.t'::regclass order by 1")


# ---- what goes over ----------------------------------------------------------------------------------

def test_trap_36_grants_comments_settings_indexes_and_statistics_survive(house):
    house.sql("grant select on raw.t to reader; grant select, references on raw.t to analyst with grant option; "
              "grant select (a), update (n) on raw.t to stranger; grant select on raw.t_latest to public; "
              "comment on column raw.t.n is 'a bank''s own'; "
              "create index by_a on raw.t (lower(a), n desc) where n > 5; create index on raw.t using brin (n); "
              "comment on index raw.by_a is 'for the board'; "
              "create statistics raw.an (ndistinct) on a, n from raw.t; create statistics public.expr on (n % 3), a from raw.t; "
              "comment on statistics raw.an is 'of an'; "
              "alter table raw.t set (autovacuum_vacuum_threshold = 77, toast.autovacuum_enabled = off); "
              "alter table raw.t alter a set statistics 7, alter a set (n_distinct = 5), replica identity full; "
              "alter table raw.t_latest enable row level security; alter default privileges grant all on tables to stranger; "
              "alter default privileges for role engineer grant all on tables to stranger")
    before = {t: grants(house, t) for t in ("raw.t", "raw.t_latest")}
    columns = house.sql("select attname, attacl::text from pg_attribute where attrelid = 'raw.t'::regclass and attacl is not null")
    defs = house.sql("select indexdef from pg_indexes where tablename in ('t', 't_latest') order by 1")
    stats = statistics(house)
    house.beside()
    house.swap()
    assert {t: sorted(grants(house, t).strip("{}").split(",")) for t in before} == {
        t: sorted(g.strip("{}").split(",")) for t, g in before.items()}
    assert house.sql("select attname, attacl::text from pg_attribute where attrelid = 'raw.t'::regclass "
                     "and attacl is not null order by attnum") == columns
    assert house.sql("select indexdef from pg_indexes where tablename in ('t', 't_latest') order by 1") == defs
    assert statistics(house) == stats and len(stats) == 2
    assert house.sql("select obj_description('raw.t'::regclass), col_description('raw.t'::regclass, 4), "
                     "col_description('raw.t'::regclass, 5), obj_description('raw.by_a'::regclass)") == [
        ("ours 2", "ours a 2", "a bank's own", "for the board")]
    assert house.sql("select reloptions, relreplident::text, relrowsecurity from pg_class where oid = 'raw.t'::regclass") == [
        (["autovacuum_vacuum_threshold=77"], "f", False)]
    assert house.sql("select attstattarget, attoptions from pg_attribute where attrelid = 'raw.t'::regclass and attname = 'a'") == [
        (7, ["n_distinct=5"])]
    assert house.sql("select relrowsecurity from pg_class where oid = 'raw.t_latest'::regclass") == [(True,)]
    assert house.sql("select extra, a from raw.t where id = 7") == [({}, "new a7")]
    assert house.sql("select a from raw.t__d1 where id = 7") == [("a7",)], "kept for an undo"
    # … and back: all is as it was, under the names that it had.
    house.swap("t", "t__d1", "t__d2", "t_latest", "t_latest__d1", "t_latest__d2")
    assert house.sql("select a from raw.t where id = 7") == [("a7",)]
    assert house.sql("select indexdef from pg_indexes where tablename in ('t', 't_latest') order by 1") == defs
    assert house.sql("select obj_description('raw.t'::regclass), col_description('raw.t'::regclass, 4)") == [("ours", "a bank's own")]
    # A third time, for good: names are free again.
    house.sql("drop table raw.t__d2, raw.t_latest__d2")
    house.beside()
    house.swap("t", "t__d2", "-", "t_latest", "t_latest__d2", "-")
    assert house.sql("select indexdef from pg_indexes where tablename in ('t', 't_latest') order by 1") == defs
    assert house.sql("select relname from pg_class c join pg_namespace n on n.oid = relnamespace where nspname = 'raw' "
                     "and relkind = 'r' order by 1") == [("t",), ("t_latest",)]


def test_the_owner_stays_who_it_was(house):
    house.sql("alter table raw.t owner to analyst; alter table raw.t_latest owner to analyst")
    house.beside()
    house.swap()
    assert house.sql("select pg_get_userbyid(relowner) from pg_class where oid = 'raw.t'::regclass") == [("analyst",)]


VIEWS = """
    create view raw.plain as select * from raw.t;
    create view raw.barred with (security_barrier, security_invoker) as select a, n from raw.t_latest where n < 50
        with local check option;
    create view raw.above as select p.a, b.n from raw.plain p join raw.barred b using (a);
    create view raw.top as select count(*) as rows, max(n) as largest from raw.above;
    create view raw.both as select t.a, l.n from raw.t join raw.t_latest l using (id);
    create view raw.whole as select t from raw.t;
    create view "raw"."Odd ""name" as select (t).n as m from raw.whole;
    comment on view raw.plain is 'of plain'; comment on column raw.barred.n is 'of n'; comment on view raw.top is 'of top';
    grant select on raw.plain to reader; grant select (rows) on raw.top to stranger; grant select on raw.whole to public;
"""


@pytest.mark.parametrize("kind", ["int", "bigint"])
def test_trap_36_views_on_views_read_the_new_table_and_keep_what_they_had(house, kind):
    """With columns alike they are replaced in place; with another type dropped and made anew."""
    house.sql(VIEWS + "grant select on raw.t, raw.t_latest to analyst")
    for view in ("raw.plain", "raw.barred", "raw.whole"):
        house.sql(f"alter view {view} owner to analyst")
    for view in ("raw.above", "raw.top", "raw.both", 'raw."Odd ""name"'):
        house.sql(f"alter view {view} owner to engineer")
    names = ["raw.plain", "raw.barred", "raw.above", "raw.top", "raw.both", "raw.whole", 'raw."Odd ""name"']

    def look():
        return {v: house.sql("select pg_get_viewdef(c.oid), pg_get_userbyid(relowner), coalesce(relacl, acldefault('r', "
                             "relowner))::text, reloptions, obj_description(c.oid), (select array_agg((attname, attacl, "
                             "col_description(c.oid, attnum))::text order by attnum) from pg_attribute where attrelid = c.oid "
                             "and attnum > 0) from pg_class c where oid = %s::regclass", v) for v in names}

    before = look()
    house.beside(kind)
    house.swap()
    after = look()
    assert {v: (d[0][0], d[0][1], sorted(d[0][2].strip("{}").split(",")), *d[0][3:]) for v, d in after.items()} == {
        v: (d[0][0], d[0][1], sorted(d[0][2].strip("{}").split(",")), *d[0][3:]) for v, d in before.items()}
    assert house.sql("select a from raw.plain where id = 3") == [("new a3",)]
    assert house.sql("select * from raw.top") == [(49, 49)]
    assert house.sql("select pg_typeof(n)::text from raw.both limit 1") == [({"int": "integer"}.get(kind, kind),)]
    assert house.sql('select count(*), max(m) from raw."Odd ""name"') == [(100, 100)]
    assert house.sql("select count(*) from pg_depend where refobjid in ('raw.t__d1'::regclass, 'raw.t_latest__d1'::regclass) "
                     "and classid = 'pg_rewrite'::regclass") == [(0,)]
    house.sql("drop table raw.t__d1, raw.t_latest__d1")     # nothing holds them any more


# ---- what does not ---------------------------------------------------------------------------------------

OBSTACLES = {
    "materialized view": ("create materialized view raw.held as select * from raw.t; create view raw.on_it as select a from raw.held",
                          "DROP MATERIALIZED VIEW raw.held"),
    "matview over a view that must be made anew": (
        "create view raw.v as select n from raw.t; create materialized view raw.deep as select * from raw.v",
        "DROP MATERIALIZED VIEW raw.deep"),
    "function": ("create function raw.f() returns bigint language sql begin atomic select count(*) from raw.t; end",
                 "DROP FUNCTION raw.f()"),
    "row type": ("create function raw.g(raw.t) returns int language sql as 'select 1'", "DROP FUNCTION raw.g(raw.t)"),
    "column of the row type": ("create table raw.uses (x raw.t[])", "ALTER TABLE raw.uses DROP COLUMN x"),
    "foreign key": ("create table raw.child (id int, v int, constraint fk foreign key (id, v) references raw.t)",
                    "ALTER TABLE raw.child DROP CONSTRAINT fk"),
    "check": ("alter table raw.t add constraint positive check (n > 0)", "ALTER TABLE raw.t DROP CONSTRAINT positive"),
    "unique": ("create unique index one on raw.t (a)", "DROP INDEX raw.one"),
    "unique constraint": ("alter table raw.t add constraint one unique (a)", "ALTER TABLE raw.t DROP CONSTRAINT one"),
    "policy": ("create policy p on raw.t using (true)", "DROP POLICY p ON raw.t"),
    "trigger": ("create function raw.h() returns trigger language plpgsql as 'begin return new; end'; "
                "create trigger tr before insert on raw.t for each row execute function raw.h()", "DROP TRIGGER tr ON raw.t"),
    "rule": ("create rule r as on delete to raw.t do also notify x", "DROP RULE r ON raw.t"),
    "publication": ("create publication onward for table raw.t", "ALTER PUBLICATION onward DROP TABLE raw.t"),
    "child": ("create table raw.heir () inherits (raw.t)", "ALTER TABLE raw.heir NO INHERIT raw.t"),
    "view of a column that goes": ("alter table raw.t add gone int; create view raw.lost as select gone from raw.t",
                                   "DROP VIEW raw.lost"),
    "view of a stranger": ("create view raw.strange as select a from raw.t; alter view raw.strange owner to stranger",
                           "GRANT stranger TO engineer"),
    "view of a superuser": ("create view raw.w as select a from raw.t; "
                            "alter view raw.w owner to dba", "ALTER VIEW raw.w OWNER TO engineer"),
    "view whose owner may not create": (
        "create schema other authorization engineer; create view other.v as select a from raw.t; "
        "alter view other.v owner to analyst", "GRANT CREATE ON SCHEMA other TO analyst"),
    "table of a stranger": ("alter table raw.t owner to stranger", "GRANT stranger TO engineer"),
    "trigger on a view that must be made anew": (
        "create view raw.v as select n from raw.t; create function raw.h() returns trigger language plpgsql as "
        "'begin return new; end'; create trigger tv instead of insert on raw.v for each row execute function raw.h()",
        "DROP TRIGGER tv ON raw.v"),
}


@pytest.mark.parametrize("what", OBSTACLES)
def test_what_cannot_go_over_is_named_with_its_mend_and_nothing_is_changed(house, what):
    sql, mend = OBSTACLES[what]
    house.sql("create index by_n on raw.t (n)")
    house.beside("bigint")
    house.give(sql)
    lines = house.probe("check", *PAIRS)
    assert lines[-1] == "ok" and len(lines) == 2 and "; mend: " + mend.lower() in lines[0].lower(), lines
    if "table of" not in what:
        assert house.probe("prepare", *PAIRS) == ["ok"]
    before = house.picture()
    said = house.probe("swap", *PAIRS)
    assert said[0].startswith("error -2 ") and mend.lower() in said[0].lower(), said
    assert house.picture() == before


def test_several_dependents_are_each_named(house):
    house.sql(OBSTACLES["policy"][0] + ";" + OBSTACLES["check"][0])
    house.give(OBSTACLES["materialized view"][0])
    house.beside()
    assert len(house.probe("check", *PAIRS)) == 4
    said = house.probe("swap", *PAIRS)[0]
    assert said.startswith("error -2 ") and said.endswith("; and 2 more like that")


def test_an_index_made_since_it_was_prepared_asks_for_that_again(house):
    house.beside()
    assert house.probe("prepare", *PAIRS) == ["ok"]
    house.sql("create index late on raw.t (a)")
    assert house.probe("swap", *PAIRS) == ["error -1 index raw.late is new on t"]
    house.swap()


def test_an_index_that_the_new_table_cannot_have_is_named(house):
    house.sql("alter table raw.t add gone int; create index on_gone on raw.t (gone)")
    house.beside()
    said = house.probe("prepare", *PAIRS)[0]
    assert said.startswith("error -2 index raw.on_gone of t cannot be built") and said.split("mend: ")[1].startswith("DROP INDEX raw.on_gone")


# ---- readers --------------------------------------------------------------------------------------------------

def test_a_reader_holds_the_swap_up_for_no_longer_than_the_lock_timeout_and_is_not_hurt(house):
    house.give("create view raw.v as select * from raw.t")
    house.beside()
    house.probe("prepare", *PAIRS)
    for what in ("raw.t", "raw.v"):
        with psycopg.connect(house.conninfo) as reader:
            assert reader.execute(f"select count(*) from {what}").fetchone() == (100,)
            said = house.probe("swap", *PAIRS)[0]
            assert said.startswith("error -1 ") and "55P03" in said
            assert reader.execute(f"select min(a) from {what}").fetchone() == ("a1",)
    house.swap()


def test_trap_52_readers_see_the_old_rows_or_the_new_ones_while_tables_are_swapped_again_and_again(house):
    """Through the table and through a view. A reader that locks before it looks never meets an empty table."""
    house.give("create view raw.v as select * from raw.t")
    house.beside()
    house.probe("prepare", *PAIRS)
    stop, wrong, reads = threading.Event(), [], [0]

    def read():
        with psycopg.connect(house.conninfo, autocommit=True) as conn:
            while not stop.is_set():
                with conn.transaction():
                    conn.execute("set transaction isolation level repeatable read")
                    conn.execute("lock table raw.t, raw.t_latest in access share mode")
                    rows = conn.execute("select (select count(*) from raw.t), (select count(*) from raw.v), "
                                        "(select a from raw.t where id = 1), (select a from raw.t_latest where id = 1)").fetchone()
                reads[0] += 1
                if rows not in ((100, 100, "a1", "a1"), (100, 100, "new a1", "new a1")):
                    wrong.append(rows)
    readers = [threading.Thread(target=read) for _ in range(2)]
    for r in readers:
        r.start()
    there, done = "__d2", 0
    try:
        for _ in range(200):
            other = "__d1" if there == "__d2" else "__d2"
            before = reads[0]
            said = house.probe("swap", "t", "t" + there, "t" + other, "t_latest", "t_latest" + there, "t_latest" + other)
            assert said == ["ok"] or said[0].startswith("error -1 "), said
            if said == ["ok"]:
                there, done = other, done + 1
            wait_for("readers to read on", lambda b=before: reads[0] > b)
            if done == 10:
                break
    finally:
        stop.set()
        for r in readers:
            r.join()
    assert done == 10 and not wrong


# ---- differ ---------------------------------------------------------------------------------------------------

def test_rows_that_differ_are_counted_by_column(house):
    house.sql("""create table raw.o (id int, v int, a text, n numeric, j json, k jsonb, gone int, ty int, f float8, _lsn pg_lsn, primary key (id, v));
        create table raw.w (id int, v int, n numeric, a text, j json, k jsonb, ty bigint, f float8, fresh int, _lsn pg_lsn, primary key (id, v));
        insert into raw.o select i, 1, 'a', 1.0, '{"a": 1}', '{"a": 1}', 1, i, 0, '0/1' from generate_series(1, 1000) i;
        insert into raw.w select i, 1, 1.0, 'a', '{"a":  1}', '{"a": 1}', i, 0, 1, '0/2' from generate_series(11, 1005) i;
        update raw.w set n = 1.00 where id = 20; update raw.w set a = null where id in (21, 22);
        update raw.w set j = '{"a": 2}' where id = 23; update raw.w set ty = -1, a = 'b' where id = 24;
        update raw.o set j = '"x\\u0000"' where id in (25, 26); update raw.w set j = '"x\\u0000"' where id = 25;
        update raw.w set k = 'null' where id = 27; update raw.o set a = null where id = 28; update raw.w set a = null where id = 28;
        update raw.w set f = '-0' where id = 29;
        alter table raw.o owner to engineer; alter table raw.w owner to engineer""")
    assert house.probe("differ", "raw.o", "raw.w", "id,v", "_lsn") == [
        "old 10 new 5 same 982 differing 8 gone gone added fresh", "n 1", "a 3", "j 2", "k 1", "ty 1", "f 1", "ok"]
    assert house.probe("differ", "raw.o", "raw.o", "id,v", "")[0] == "old 0 new 0 same 1000 differing 0 gone  added "
    assert "no common column fresh" in house.probe("differ", "raw.o", "raw.w", "fresh", "")[0]


def test_counting_takes_no_more_memory_than_work_mem(house):
    """A table much larger than work_mem: its join goes through the disk, and the process stays small."""
    house.sql("""create table raw.big (id int primary key, a text); insert into raw.big select i, repeat(md5(i::text), 30)
        from generate_series(1, 60000) i; create table raw.big2 (id int primary key, a text);
        insert into raw.big2 select id + 1, a from raw.big; analyze raw.big; analyze raw.big2;
        alter role engineer set work_mem = '1MB'; alter role engineer set log_temp_files = 0; grant select on all tables in schema raw to engineer""")
    assert house.probe("differ", "raw.big", "raw.big2", "id", "")[:2] == [
        "old 1 new 1 same 0 differing 59999 gone  added ", "a 59999"]
    house.sql("alter role engineer reset all")
