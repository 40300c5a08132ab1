"""rolag verify of mirrors: true differences by key and column, while both ends go on."""
import json
import random
import threading

import psycopg
import pytest
from mirrors import assert_mirrors, make_mirrors
from pipeline import SOME, wait_for
from test_mirrors import LOCAL, LOCAL_TYPES, TYPES, VALUES, types_table

FINDING = 1

# Every way of finding rows: by number, by text in another order than the warehouse's, by two columns in another
# order than the table's, by an enum, by an index of mixed directions, through a partitioned root; and those
# without a key: rows that change, and rows that are only added.
SHAPES = """
    create type mood as enum ('sad', 'glad', 'angry');
    create table plain (id int8 primary key, a text, n numeric);
    create table worded (id text collate "C" primary key, a text);
    create table paired (a int not null, b uuid not null, v text, primary key (b, a));
    create table mooded (m mood, n int, v text, primary key (m, n));
    create table mixed (a int not null, b int not null, v text);
    create unique index mixed_key on mixed (a desc, b);
    alter table mixed replica identity using index mixed_key;
    create table parted (id int primary key, v text) partition by range (id);
    create table parted_1 partition of parted for values from (minvalue) to (500);
    create table parted_2 partition of parted for values from (500) to (maxvalue);
    create table heap (a int, v text); alter table heap replica identity full;
    create table added (a int, v text);
"""
TABLES = ["plain", "worded", "paired", "mooded", "mixed", "parted", "heap", "added"]
ROW = {"plain": "select {n}, 'v' || {n} || repeat('x', {n} % 7), {n} / 3.0", "worded": "select chr(65 + {n} % 58) || '-' || {n}, 'v'",
       "paired": "select {n} % 5, md5({n}::text)::uuid, 'v'",
       "mooded": "select (enum_range(null::mood))[1 + {n} % 3], {n}, 'v'",
       "mixed": "select {n} % 10, {n}, 'v'", "parted": "select {n}, 'v'", "heap": "select {n} % 50, 'v'",
       "added": "select {n}, 'v'"}


def fill(table, first, last):
    return f"insert into {table} {ROW[table].format(n='n')} from generate_series({first}, {last}) n;"


def verify(p, *arguments):
    """(exit code, the JSON object)."""
    code, out, err = p.run("verify", *arguments, "--json")
    assert out, err
    return code, json.loads(out)


def told(said):
    return sorted((f["kind"], f["table"], f["key"], f.get("column")) for f in said["findings"])


@pytest.fixture
def shapes(make_pipeline):
    """A pipeline with all shapes, 1000 rows each."""
    def make(settings=None, **more):
        return make_mirrors(make_pipeline, SHAPES + "".join(fill(t, 1, 1000) for t in TABLES), TABLES, ["added"],
                            settings, land=SOME[:1], **more)
    return make


def spoil(p):
    """Every kind of difference in every shape; what verify must say of those with a key."""
    p.warehouse("update raw.plain set a = 'forged', n = n + 1 where id = 7")
    p.warehouse("delete from raw.plain where id in (1, 1000)")
    p.warehouse("insert into raw.plain values (-5, 'forged', 1, '0/1'), (5000, 'forged', null, '0/1')")
    p.warehouse("update raw.worded set a = null where id = 'f-37'")
    p.warehouse("delete from raw.worded where id = 'B-1'")
    p.warehouse("insert into raw.worded values ('zz''\"\\', 'forged', '0/1')")
    p.warehouse("update raw.paired set v = '' where b = md5('8')::uuid")
    p.warehouse("insert into raw.mooded values ('forged', 1, 'v', '0/1')")     # no value of the core's type
    p.warehouse("update raw.mooded set v = 'w' where m = 'glad' and n = 1")
    p.warehouse("delete from raw.parted where id = 600")
    p.warehouse("update raw.mixed set v = 'w' where b = 3")
    p.warehouse("update raw.heap set v = 'w' where ctid = (select min(ctid) from raw.heap)")
    p.warehouse("insert into raw.added select a, v, _lsn from raw.added where a = 1")
    eight = p.warehouse("select md5('8')::uuid::text")[0][0]
    return sorted([
        ("differs", "plain", "7", "a"), ("differs", "plain", "7", "n"), ("missing", "plain", "1", None),
        ("missing", "plain", "1000", None), ("extra", "plain", "-5", None), ("extra", "plain", "5000", None),
        ("differs", "worded", "f-37", "a"), ("missing", "worded", "B-1", None), ("extra", "worded", "zz'\"\\", None),
        ("differs", "paired", f"({eight}, 3)", "v"), ("extra", "mooded", "(forged, 1)", None),
        ("differs", "mooded", "(glad, 1)", "v"), ("missing", "parted", "600", None),
        ("differs", "mixed", "", None), ("differs", "heap", "", None), ("differs", "added", "", None)],
        key=lambda f: (f[0], f[1], f[2], f[3] or ""))


@pytest.mark.parametrize("way", [["--full"], ["--sample", "20000"]], ids=["full", "sample"])
def test_every_difference_of_every_shape_is_told_by_key_and_column_and_mended(shapes, way):
    p = shapes()
    p.wait_applied()
    code, said = verify(p, *way)
    assert (code, said["equal"], said["findings"], said["tables"]) == (0, True, [], 9), said
    assert said["core_rows"] == said["warehouse_rows"] == 8000, said
    expected = spoil(p)
    code, out, err = p.run("verify", *way)
    assert (code, err) == (FINDING, ""), out + err
    assert "differs     plain  key 7  column a\n" in out, out
    assert "differs     heap  it has no key to tell them by: 1000 rows of the core, 1000 of the warehouse\n" in out
    assert "1000 rows of the core, 1001 of the warehouse" in out, out
    assert not any(v in line for line in out.splitlines() for v in ("v7", "repeat")), "values are never told"
    code, said = verify(p, *way)
    assert sorted(told(said), key=lambda f: (f[0], f[1], f[2], f[3] or "")) == expected
    assert (code, said["equal"], said["differing_entities"]) == (FINDING, False, 15), said
    code, said = verify(p, *way, "--repair")
    assert (code, said["equal"], said["synced_mirrors"], said["refused_entities"]) == (0, True, 8, 0), said
    assert_mirrors(p, TABLES)
    p.stop()


class Writer(threading.Thread):
    """Changes rows of every shape, keys among them, at random, and one row all the time, until the block ends."""

    def __init__(self, p, seed):
        super().__init__(daemon=True)
        self.p, self.random, self.done, self.failed = p, random.Random(seed), threading.Event(), None

    def statement(self):
        table, n = self.random.choice(TABLES), self.random.randrange(1, 1500)
        one = f"where ctid = (select ctid from {table} offset {self.random.randrange(300)} limit 1)" \
            if table != "parted" else f"where id = {n}"
        key = {"plain": "id = -id", "worded": "id = id || 'x'", "paired": "a = a + 7", "mooded": "n = n + 5000",
               "mixed": "a = a + 20", "parted": "id = id + 3000", "heap": "a = a + 1"}.get(table)
        choice = self.random.random()
        if table == "added" or choice < .35:
            return fill(table, n + 10000, n + 10000 + self.random.randrange(20)).rstrip(";") + " on conflict do nothing"
        if choice < .6:
            return f"update {table} set v = v || 'y' {one}".replace("v = v", "a = a" if table in ("plain", "worded") else "v = v")
        if choice < .75 and key:
            return f"update {table} set {key} {one}"
        if choice < .97:
            return f"delete from {table} {one}"
        return f"truncate {table}"

    def run(self):
        with psycopg.connect(self.p.core_conninfo, autocommit=True) as conn:
            while not self.done.is_set():
                try:
                    with conn.transaction():
                        for _ in range(self.random.randrange(1, 4)):
                            conn.execute(self.statement())
                        if self.random.random() < .1:
                            raise psycopg.Rollback
                    conn.execute("update hot set n = n + 1")
                except psycopg.errors.UniqueViolation:
                    pass
                except Exception as e:      # noqa: BLE001; told by the test
                    self.failed = e
                    return

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()
        assert self.failed is None, self.failed


@pytest.mark.parametrize("seed", [1, 2])
def test_under_writers_there_is_no_false_difference(make_pipeline, seed):
    p = make_mirrors(make_pipeline, SHAPES + "create table hot (id int primary key, n int); insert into hot values (1, 0);"
                     + "".join(fill(t, 1, 1000) for t in TABLES), [*TABLES, "hot"], ["added"], land=SOME[:1])
    known = [t for t in TABLES if t not in ("mixed", "heap", "added")] + ["hot"]
    with Writer(p, seed):
        for way in (["--full"], ["--sample", "50"], ["--full"]):
            code, said = verify(p, *known, *way)
            assert (code, said["findings"], said["undecided_entities"]) == (0, [], 0), said
        # Read whole: a table that changes between each two of its readings may stay undecided, but never differs.
        code, said = verify(p, "mixed", "heap", "added", "--full", "--wait", "5")
        assert said["findings"] == [], said
    p.wait_applied()
    code, said = verify(p, "--full")
    assert (code, said["equal"]) == (0, True), said
    p.stop()


def test_every_type_in_both_forms_is_compared(make_pipeline):
    p = make_mirrors(make_pipeline, TYPES + LOCAL_TYPES + types_table("every", VALUES, 0) + types_table("local", LOCAL, 0),
                     ["every", "local"], land=SOME[:1])
    p.core(types_table("every", VALUES, 1000) + types_table("local", LOCAL, 1000))
    p.wait_applied()
    code, said = verify(p, "every", "local", "--full")
    assert (code, said["findings"], said["tables"]) == (0, [], 2), said
    names = [n for n, in p.warehouse("select attname from pg_attribute where attrelid = 'raw.every'::regclass "
                                     "and attname ~ '^c[0-9]+$'")]
    for name in names:
        p.warehouse(f"update raw.every set {name} = null where id = 1000")
    code, said = verify(p, "every", "--full")
    assert {f["column"] for f in said["findings"]} == set(names) and code == FINDING, said
    p.stop()


def test_trap_60_a_commit_that_the_core_does_not_show_is_no_difference_of_a_mirror(make_pipeline, own_clusters):
    core, warehouse = own_clusters()
    p = make_mirrors(make_pipeline, "create table plain (id int primary key, v text); insert into plain values (1, 'a'), (2, 'b')",
                     ["plain"], core=core, warehouse=warehouse, land=SOME[:1])
    core.psql("alter system set synchronous_standby_names = 'nobody'", database="postgres")
    core.psql("select pg_reload_conf()", database="postgres")

    def write():
        with p.writing() as conn:
            conn.execute("set synchronous_commit = on")
            conn.execute("update plain set v = 'c' where id = 1")
            conn.execute("delete from plain where id = 2")
            conn.execute("insert into plain values (3, 'd')")
    waits = threading.Thread(target=write)
    waits.start()
    wait_for("the stream to bring it", lambda: p.warehouse("select id, v from raw.plain order by id") == [(1, "c"), (3, "d")])
    assert p.core("select id from plain order by id") == [(1,), (2,)]
    code, said = verify(p, "plain", "--full", "--wait", "1")
    assert (code, said["equal"], said["findings"], said["undecided_entities"]) == (FINDING, False, [], 3), said
    core.psql("alter system reset synchronous_standby_names", database="postgres")
    core.psql("select pg_reload_conf()", database="postgres")
    waits.join()
    code, said = verify(p, "plain", "--full")
    assert (code, said["findings"], said["undecided_entities"]) == (0, [], 0), said
    p.stop()


def test_what_cannot_be_compared_is_said_and_is_no_equal(shapes):
    p = shapes()
    p.wait_applied()
    p.core("alter table plain rename column a to b")
    p.core("update plain set n = 1 where id = 1")
    p.wait_applied()
    code, out, err = p.run("verify", "plain", "--full")
    assert (code, err) == (FINDING, "") and "not compared: plain: its state is parked" in out, out + err
    p.core("alter table worded drop column a")      # and no row has come since
    code, out, err = p.run("verify", "public.worded", "--full")
    assert code == FINDING and "not compared: worded: its source has changed" in out, out + err
    p.core("analyze heap")
    code, out, err = p.run("verify", "heap", "--sample", "1")
    assert code == FINDING and "not compared: heap: it has no key" in out and "mend: --full" in out, out + err
    code, out, err = p.run("verify", "nosuch")
    assert code == 2 and "no landed table has the name nosuch" in err, out + err
    p.stop()


def test_trap_27_the_core_writes_no_temporary_file_and_keeps_no_snapshot(make_pipeline):
    """Many more rows than work_mem, in every order that its indexes have."""
    tables = ["plain", "worded", "paired", "parted", "mixed"]
    p = make_mirrors(make_pipeline, SHAPES + "".join(fill(t, 1, 45000) for t in tables) + "analyze;", tables,
                     land=SOME[:1])
    p.wait_applied()
    p.core(f"alter database {p.core_database} set work_mem = '64kB'")
    before = p.core("select temp_files from pg_stat_database where datname = current_database()")
    code, said = verify(p, *tables, "--full")
    assert (code, said["core_rows"], said["warehouse_rows"]) == (0, 225000, 225000), said
    wait_for("the statistics of its sessions", lambda: p.core(
        "select count(*) from pg_stat_activity where application_name = 'rolag verify'") == [(0,)])
    assert p.core("select temp_files from pg_stat_database where datname = current_database()") == before
    p.stop()


def test_the_sampler_compares_mirrors_too(make_pipeline):
    p = make_mirrors(make_pipeline, "create table plain (id int primary key, v text); insert into plain values (1, 'a'), (2, 'b')",
                     ["plain"], settings={"verify": {"sample_interval": "200 ms", "sample_entities": 100}}, land=SOME[:1])
    wait_for("samples", lambda: p.counters()["apply_verified_rows_total"] >= 4)
    assert p.counters()["apply_verify_differences_total"] == 0
    p.warehouse("update raw.plain set v = 'forged' where id = 2")
    line, *_ = wait_for("the difference", lambda: p.apply.lines("error", "differs"))
    assert "first=\"differs in plain, key 2, column v\"" in line and "table=plain" in line, line
    assert "mend=\"rolag verify plain --full --repair\"" in line and "forged" not in line, line
    assert verify(p, "plain", "--full", "--repair")[0] == 0
    p.stop()
