"""Mirrors: plain tables of the core, row by row equal in the warehouse, whatever their types and changes."""
import json

import psycopg
import pytest
from mirrors import assert_mirrors, make_mirrors
from pipeline import ROLE, SOME, wait_for, write_role

# Every type of pg_catalog that a column can have and another database can read, with values at its edges.
VALUES = {
    "bool": ["true", "false"], "int2": ["-32768", "32767"], "int4": ["-2147483648", "0"],
    "int8": ["9223372036854775807"], "float4": ["'NaN'", "'-Infinity'", "1e-30", "-0.0"],
    "float8": ["'Infinity'", "0.1", "1.7976931348623157e308"], "oid": ["4294967295"], "xid": ["'7'"],
    "xid8": ["'18446744073709551615'"], "cid": ["'3'"], "tid": ["'(1,2)'"],
    "numeric": ["'NaN'", "'Infinity'", "0.00", "-1e-20", "123456789012345678901234567890.5"],
    "numeric(10,2)": ["1.10"], "money": ["'-12.34'"], "text": ["''", r"E'tab\t \\ new\nline \r \\N'", "'é😀'"],
    "varchar(5)": ["'abc'", "''"], "char(5)": ["'ab'"], "\"char\"": ["'x'"], "name": ["'n'"],
    "bytea": [r"'\x00ff5c0a'", "''"], "uuid": ["'00000000-0000-4000-8000-00000000abcd'"],
    "json": ["'{\"a\":  1}'", "'null'"], "jsonb": ["'{\"b\": [1, null]}'", "'null'"], "jsonpath": ["'$.a'"],
    "xml": ["'<a>1</a>'"], "date": ["'infinity'", "'-infinity'", "'4713-01-01 BC'", "'2024-02-29'"],
    "time": ["'24:00:00'"], "timetz": ["'12:00:00.000001+15:59'"],
    "timestamp": ["'-infinity'", "'294276-12-31 23:59:59.999999'"], "timestamptz": ["'infinity'", "'2024-01-01 00:00+03'"],
    "timestamp(0)": ["'2024-01-01 00:00:01.5'"], "interval": ["'-1 year 2 days 03:04:05.6'"],
    "bit(3)": ["B'101'"], "varbit": ["B''", "B'1'"], "inet": ["'::1/64'"], "cidr": ["'10.0.0.0/8'"],
    "macaddr": ["'08:00:2b:01:02:03'"], "macaddr8": ["'08:00:2b:01:02:03:04:05'"], "point": ["'(1,2)'"],
    "line": ["'{1,2,3}'"], "lseg": ["'[(1,2),(3,4)]'"], "box": ["'(3,4),(1,2)'"], "path": ["'((1,2),(3,4))'"],
    "polygon": ["'((1,2),(3,4),(5,6))'"], "circle": ["'<(1,2),3>'"], "tsvector": ["'a:1 b:2'"], "tsquery": ["'a & b'"],
    "pg_lsn": ["'16/B374D848'"], "pg_snapshot": ["'10:20:10,14'"], "txid_snapshot": ["'10:20:10,14'"],
    "int4range": ["'[1,5)'", "'empty'"], "numrange": ["'(,1.50]'"], "tstzrange": ["'[2024-01-01 00:00+00,)'"],
    "daterange": ["'[2024-01-01,2024-02-01)'"], "int4multirange": ["'{[1,3),[5,7)}'"], "nummultirange": ["'{}'"],
    "int4[]": ["'{1,NULL,3}'", "'{}'", "'[0:1]={7,8}'", "'{{1,2},{3,4}}'"], "text[]": ["'{\"a,b\",NULL,\"\"}'"],
    "numeric[]": ["'{1.0,NaN}'"], "uuid[]": ["'{00000000-0000-4000-8000-00000000abcd}'"], "jsonb[]": ["'{\"{}\",null}'"],
    "timestamptz[]": ["'{infinity}'"], "bytea[]": [r"""'{"\\x00"}'"""], "box[]": ["'{(1,1),(0,0);(3,3),(2,2)}'"],
    "bit(3)[]": ["'{101}'"], "int4range[]": ["'{\"[1,2)\"}'"], "int2vector": ["'1 2'"], "oidvector": ["'1 2'"],
    "mood": ["'sad'", "'it''s'"], "mood[]": ["'{sad,NULL,it''s}'", "'{}'"],
    "positive": ["5"], "positive[]": ["'{1,2}'"], "moods": ["'sad'"], "numbers": ["'{1,2}'"], "tag": ["'t'"],
    "refcursor": ["'c'"],
}
TYPES = ("create type mood as enum ('sad', 'it''s', 'happy'); create domain positive as int check (value > 0);"
         "create domain moods as mood; create domain numbers as int[]; create domain tag as varchar(3);")
# What means something to its own database only: as text, and so the stream has to be in text.
LOCAL = {"pair": ["'(1,a)'", "'(,\"\")'"], "pair[]": ["'{\"(1,a)\"}'"], "regclass": ["'pg_class'"], "regtype": ["'int4'"],
         "regclass[]": ["'{pg_class}'"], "aclitem": ["('=r/' || quote_ident(current_user))::aclitem"],
         "floatrange": ["'[1.5,2.5]'"], "nested[]": ["'{\"{1,2}\"}'"]}
LOCAL_TYPES = ("create type pair as (a int, b text); create type floatrange as range (subtype = float8);"
               "create domain nested as int[];")


@pytest.fixture
def mirrored(make_pipeline):
    """mirrored(sql, tables, …): a pipeline whose core has these tables, mirrored, live."""
    def make(sql, tables, append_only=(), settings=None, **more):
        return make_mirrors(make_pipeline, sql, tables, append_only, settings, land=SOME[:1], **more)
    return make


def types_table(name, values, first):
    """SQL of a table with a column of each type: rows with each value, NULLs else, two of them whole."""
    columns = ", ".join(f"c{n} {t}" for n, t in enumerate(values))
    sql = f"create table if not exists {name} (id int primary key, {columns});"
    width = max(len(v) for v in values.values())
    for row in range(width + 1):
        listed = ", ".join((f"({v[row]})" if row < len(v) else "null") for v in values.values())
        sql += f"insert into {name} values ({first + row}, {listed});"
    return sql


def state(p, table):
    """(state, reason) of a mirror."""
    return p.warehouse("select state, reason from rolag.relation where pipeline = %s and name = %s", p.name, table)[0]


def assert_parked(p, table, *words):
    p.wait_applied()
    found, reason = state(p, table)
    assert found == "parked" and all(w in reason for w in words), reason
    assert p.apply.lines("a mirror is parked", f"table=public.{table}"), "it must be said"


# ---- rows ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("binary", ["on", "off"])
def test_rows_are_inserted_updated_and_deleted(mirrored, binary):
    p = mirrored("create table account (id int primary key, name text not null, balance numeric); "
                 "insert into account select n, 'n' || n, n from generate_series(1, 5) n", ["account"],
                 settings={"capture": {"binary": binary}})
    assert_mirrors(p, ["account"])
    p.core("insert into account values (6, 'six', 6.50)")
    p.core("update account set balance = 7.00, name = '' where id = 2")
    p.core("delete from account where id = 3")
    p.core("update account set id = 30 where id = 1")
    assert_mirrors(p, ["account"])
    assert p.warehouse("select count(*) from raw.account") == [(5,)]
    p.core("insert into account select n, E'a\\tb\\\\\\n' || n, n / 7.0 from generate_series(100, 4000) n")
    p.core("update account set balance = balance + 1 where id % 3 = 0; ")
    p.core("delete from account where id % 5 = 0")
    assert_mirrors(p, ["account"])
    with p.writing() as conn:       # all of it in one transaction, each row many times
        conn.execute("delete from account where id > 1000")
        conn.execute("insert into account select n, 'again', 0 from generate_series(2001, 2100) n")
        conn.execute("update account set id = id + 10000 where id > 2000")
        conn.execute("update account set id = id - 10000, name = 'back' where id > 12050")
        conn.execute("delete from account where id = 12001")
    assert_mirrors(p, ["account"])
    comments = p.warehouse("select count(*) from pg_description d where objoid = 'raw.account'::regclass")
    assert comments == [(5,)], "the table and each column say what they are"
    p.stop()


@pytest.mark.parametrize("binary", ["on", "off"])
def test_every_type_in_every_form(mirrored, binary):
    """By first load, by row, by COPY of many, by update and by delete."""
    p = mirrored(TYPES + types_table("kinds", VALUES, 0), ["kinds"], settings={"capture": {"binary": binary}})
    assert_mirrors(p, ["kinds"])
    p.core_cluster.psql(types_table("kinds", VALUES, 100), database=p.core_database)
    assert_mirrors(p, ["kinds"])
    names = ", ".join(f"c{n}" for n in range(len(VALUES)))
    with p.writing() as conn:
        conn.execute(f"insert into kinds select id + 1000 * n, {names} from kinds, generate_series(1, 20) n")
    assert_mirrors(p, ["kinds"])
    for n in range(len(VALUES)):
        p.core(f"update kinds a set c{n} = (select c{n} from kinds b where b.id = 100) where id = 3")
    p.core("delete from kinds where id % 2 = 1")
    assert_mirrors(p, ["kinds"])
    assert p.capture.lines("stream starts", "binary=" + binary)
    p.stop()


def test_values_that_mean_nothing_elsewhere_come_as_text_and_the_stream_with_them(mirrored):
    p = mirrored(LOCAL_TYPES + types_table("local", LOCAL, 0) + "create table other (id int primary key)",
                 ["local", "other"])
    assert_mirrors(p, ["local"])
    p.core("insert into other values (1)")
    p.wait_applied()
    assert p.capture.lines("stream starts", "binary=on")
    p.core_cluster.psql(types_table("local", LOCAL, 100), database=p.core_database)
    p.core("update local set c0 = '(7,seven)' where id = 0")
    assert_mirrors(p, ["local", "other"])
    assert p.capture.lines("values come as text") and p.capture.lines("stream starts", "binary=off")
    p.stop()


def test_a_column_that_must_be_text_parks_its_mirror_where_binary_is_forced(mirrored):
    p = mirrored("create table local (id int primary key, c regclass); create table other (id int primary key)",
                 ["local", "other"], settings={"capture": {"binary": "on"}})
    p.core("insert into local values (1, 'pg_class')")
    p.core("insert into other values (1)")
    assert_parked(p, "local", "capture.binary")
    assert_mirrors(p, ["other"])
    p.stop()


def test_trap_56_an_array_of_a_type_without_send_function_does_not_wedge_the_stream(mirrored):
    p = mirrored("create table rights (id int primary key, acl aclitem[]); create table other (id int primary key)",
                 ["rights", "other"])
    p.core("insert into rights values (1, array['=r/' || quote_ident(current_user)]::aclitem[])")
    p.core("insert into other values (1)")
    assert_mirrors(p, ["rights", "other"])
    p.stop()


# ---- keys and identities ---------------------------------------------------------------------------

def test_trap_12_rows_swap_unique_keys_within_one_batch(mirrored):
    """Keys of rows, and a second unique key that the warehouse's table has as well."""
    p = mirrored("create table seat (id int primary key, place int unique deferrable, who text);"
                 "insert into seat select n, n, 'w' || n from generate_series(1, 100) n", ["seat"])
    p.wait_applied()
    p.warehouse("alter table raw.seat add unique (place)")
    with p.writing() as conn:
        conn.execute("set constraints all deferred")
        conn.execute("update seat set place = 101 - place")
    assert_mirrors(p, ["seat"])
    with p.writing() as conn:
        conn.execute("update seat set id = id + 1000")
        conn.execute("update seat set id = 1101 - (id - 1000) - 1000")
        conn.execute("update seat set who = 'twice' where place in (3, 4)")
    with p.writing() as conn:
        conn.execute("set constraints all deferred")
        conn.execute("update seat set place = 11 - place where place < 11")
    assert_mirrors(p, ["seat"])
    assert state(p, "seat") == ("live", None)
    p.stop()


def test_every_replica_identity(mirrored):
    p = mirrored("create table by_index (a int not null, b text not null, c int, unique (b, a));"
                 "alter table by_index replica identity using index by_index_b_a_key;"
                 "create table by_row (a int, b json); alter table by_row replica identity full;"
                 "create table by_row_keyed (a int primary key, b xml); alter table by_row_keyed replica identity full;"
                 "create table nothing (a int); alter table nothing replica identity nothing;"
                 "insert into by_row values (1, '{}'), (1, '{}'), (null, null), (null, null), (2, '[1]')",
                 ["by_index", "by_row", "by_row_keyed", "nothing"], ["nothing"])
    tables = ["by_index", "by_row", "by_row_keyed", "nothing"]
    assert_mirrors(p, tables)
    p.core("insert into by_index select n, 'b', n from generate_series(1, 9) n")
    p.core("update by_index set c = 0 where a < 5")
    p.core("update by_index set b = 'c', a = a + 100 where a > 7")
    p.core("delete from by_index where a = 1")
    p.core("delete from by_row where ctid = (select ctid from by_row where a = 1 limit 1)")
    p.core("update by_row set a = 5 where ctid = (select ctid from by_row where a is null limit 1)")
    p.core("insert into by_row select 9, '{}' from generate_series(1, 200)")
    p.core("delete from by_row where ctid in (select ctid from by_row where a = 9 limit 7)")
    p.core("insert into by_row_keyed values (1, '<a/>'), (2, '<b/>')")
    p.core("update by_row_keyed set a = 3, b = '<c/>' where a = 1")
    p.core("insert into nothing values (1), (1), (null)")
    p.core("update nothing set a = 7 where a is null")
    p.core("delete from nothing where a = 7")
    p.wait_applied()
    assert_mirrors(p, tables[:3])
    assert p.warehouse("select a from raw.nothing order by a") == [(1,), (1,), (None,)], "inserts only"
    p.stop()


def test_trap_21_a_table_without_identity_is_refused_and_the_cores_own_update_goes_on(make_pipeline):
    p = make_pipeline({"mirrors": {"tables": ["loose"]}}, land=SOME[:1])
    p.core("create table loose (a int not null, b int, constraint loose_a unique (a))")
    code, out, err = p.run("init")
    assert code == 100 and "ALTER TABLE \"public\".\"loose\" REPLICA IDENTITY USING INDEX loose_a" in err, out + err
    p.core("insert into loose values (1, 1); update loose set b = 2")
    p.configure({"mirrors": {"tables": ["loose"], "append_only": ["loose"]}})
    p.init()
    p.core("update loose set b = 3; delete from loose where a = 5")
    p.start()
    assert_mirrors(p, ["loose"])
    p.stop()


def test_trap_53_the_core_may_drop_retype_and_rename_what_is_published(mirrored):
    """No column lists: nothing that the bank's migrations do is hindered. What cannot be followed is parked."""
    p = mirrored("create table moving (id int primary key, a int, b text)", ["moving"])
    p.core("insert into moving values (1, 1, 'x')")
    assert_mirrors(p, ["moving"])
    p.core("alter table moving alter a type int8; alter table moving drop column b; alter table moving rename a to c")
    p.core("insert into moving values (2, 2)")
    assert_parked(p, "moving", "column a is gone")
    p.core("alter table moving drop constraint moving_pkey")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        p.core("update moving set c = 3")      # PostgreSQL's rule, which check and capture's watch tell of
    p.stop()


# ---- TOAST -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("binary", ["on", "off"])
def test_trap_16_unchanged_toast_keeps_its_value(mirrored, binary):
    p = mirrored("create table doc (id int primary key, body text, other bytea, n int, also text);"
                 "alter table doc alter body set storage external, alter other set storage external", ["doc"],
                 settings={"capture": {"binary": binary}})
    large = "(select string_agg(md5(n::text), '') from generate_series(1, {}) n)"
    p.core(f"insert into doc select n, {large.format(33000)}, convert_to({large.format(200)}, 'UTF8'), 0, '' "
           "from generate_series(1, 4) n")
    p.core("update doc set n = n + 1")
    assert_mirrors(p, ["doc"])
    assert p.warehouse("select min(length(body)) from raw.doc")[0][0] > 1_000_000
    with p.writing() as conn:                       # in one transaction, and so in one batch
        conn.execute("update doc set n = 5, also = 'first' where id = 1")
        conn.execute("update doc set n = 6 where id = 1")
        conn.execute(f"insert into doc values (10, {large.format(300)}, null, 1, 'new')")
        conn.execute("update doc set n = 2 where id = 10")                   # its body is in the batch
        conn.execute("update doc set id = 20, n = 3 where id = 2")           # moves with what only the warehouse has
        conn.execute("update doc set id = 2 where id = 3")                   # to the place that became free
        conn.execute("update doc set id = 3, n = 9 where id = 20")           # and round again
        conn.execute(f"update doc set body = {large.format(500)} where id = 4")
        conn.execute("update doc set also = 'second' where id = 4")
        conn.execute("update doc set id = 11 where id = 10")
    assert_mirrors(p, ["doc"])
    p.core("delete from doc where id = 1; update doc set body = null where id = 2")
    assert_mirrors(p, ["doc"])
    assert state(p, "doc") == ("live", None)
    p.stop()


def test_a_toasted_key_is_found_again(mirrored):
    p = mirrored("create table named (name text primary key, n int); alter table named alter name set storage external",
                 ["named"])
    p.core("insert into named select repeat(chr(96 + n), 2500), n from generate_series(1, 3) n")
    p.core("update named set n = n + 10")
    p.core("update named set n = n + 10, name = name || 'x' where n = 12")
    p.core("delete from named where n = 13")
    assert_mirrors(p, ["named"])
    p.stop()


# ---- TRUNCATE, partitions, columns that do not come ---------------------------------------------------

def test_trap_15_truncate_of_several_tables_with_cascade_and_restart_identity(mirrored):
    p = mirrored("create table parent (id serial primary key); "
                 "create table child (id serial primary key, p int references parent); create table aside (id int primary key);"
                 "insert into parent select from generate_series(1, 9); insert into child (p) values (1), (2);"
                 "insert into aside values (1)", ["parent", "child", "aside"])
    p.core("insert into aside values (2)")
    with p.writing() as conn:
        conn.execute("insert into child (p) values (3)")
        conn.execute("truncate parent, aside restart identity cascade")
        conn.execute("insert into parent default values")
        conn.execute("insert into child (p) values (1)")
    assert_mirrors(p, ["parent", "child", "aside"])
    assert p.warehouse("select count(*) from raw.aside") == [(0,)] and p.warehouse("select id from raw.parent") == [(1,)]
    with p.writing() as conn:
        conn.execute("truncate aside")
        conn.execute("savepoint s")
        conn.execute("insert into aside values (5)")
        conn.execute("rollback to s")
        conn.execute("insert into aside values (6)")
    assert_mirrors(p, ["parent", "child", "aside"])
    p.stop()


def test_trap_19_generated_and_dropped_columns_and_partition_roots(mirrored):
    p = mirrored("create table made (gone int, id int primary key, twice int generated always as (id * 2) stored, "
                 "also_gone text, n int); alter table made drop column gone, drop column also_gone;"
                 "create table part (id int, at date, v text, primary key (at, id)) partition by range (at);"
                 "create table part_1 partition of part for values from ('2024-01-01') to ('2025-01-01');"
                 "create table part_2 (v text, junk int, at date not null, id int not null);"
                 "alter table part_2 drop column junk; alter table part attach partition part_2 "
                 "for values from ('2025-01-01') to ('2026-01-01');"
                 "insert into made values (1, default, 1); insert into part values (1, '2024-05-05', 'a'), (2, '2025-05-05', 'b')",
                 ["made", "part"])
    assert_mirrors(p, ["made", "part"])
    p.core("insert into made values (2, default, 2); update made set n = 5 where id = 1")
    p.core("insert into part values (3, '2025-01-01', 'c')")
    p.core("update part set at = '2025-06-06', v = 'moved' where id = 1")     # from one partition to the other
    p.core("update part set v = 'x' where id = 2")
    p.core("delete from part where id = 3")
    assert_mirrors(p, ["made", "part"])
    p.stop()


# ---- drift: each at its place in the stream ----------------------------------------------------------

def test_an_added_column_is_followed_with_what_older_rows_have_in_it(mirrored):
    p = mirrored("create table grows (id int primary key); insert into grows select generate_series(1, 100)", ["grows"])
    with p.writing() as conn:
        conn.execute("update grows set id = id + 1000 where id > 90")
        conn.execute("alter table grows add a int")
        conn.execute("insert into grows values (2000, 5)")
        conn.execute("alter table grows add b text not null default E'it''s \\\\ \\n', add c numeric[] default '{1.50,NULL}'")
        conn.execute("update grows set a = 1 where id < 10")
        conn.execute("alter table grows alter b set default 'later'")
        conn.execute("insert into grows (id) values (2001)")
    assert_mirrors(p, ["grows"])
    p.core("alter table grows add d timestamptz default '2024-01-01 00:00+01', alter b drop default")
    p.core("insert into grows (id, b) values (3000, 'x')")
    assert_mirrors(p, ["grows"])
    assert p.warehouse("select count(*) from pg_attribute where attrelid = 'raw.grows'::regclass and atthasdef") == [(0,)]
    p.apply.kill9()
    p.start_apply()
    p.core("update grows set d = null where id = 5")
    assert_mirrors(p, ["grows"])
    assert state(p, "grows") == ("live", None)
    assert p.warehouse("select source_columns from rolag.relation where name = 'grows'") == [(["id", "a", "b", "c", "d"],)]
    p.stop()


def test_an_added_column_waits_for_readers_of_the_mirror(mirrored):
    p = mirrored("create table read (id int primary key); insert into read values (1)", ["read"])
    p.wait_applied()
    with psycopg.connect(p.warehouse_conninfo) as reader:
        reader.execute("select * from raw.read")
        p.core("alter table read add v int default 7; insert into read values (2, 2)")
        wait_for("apply to meet the lock", lambda: p.apply.lines("55P03"))
        assert reader.execute("select count(*) from raw.read").fetchone() == (1,)
    assert_mirrors(p, ["read"])
    p.stop()


DRIFT = {   # what the core's owner does to a table, and what the reason must say
    "d1": ("alter table d1 add c float8 default random()", "written anew"),
    "d2": ("alter table d2 drop column v", "column v is gone"),
    "d3": ("alter table d3 rename v to x", "column v is gone"),
    "d4": ("alter table d4 drop column v; alter table d4 add v text", "dropped and added anew"),
    "d5": ("alter table d5 alter v type varchar(9)", "another type"),
    "d6": ("alter table d6 alter n type numeric(10,1)", "length or precision"),
    "d7": ("alter table d7 replica identity using index d7_k_key", "replica identity"),
    "d8": ("drop table d8; create table d8 (id int primary key, v text, n numeric(10,2), k int not null); "
           "alter publication {} add table d8", "created anew"),
    "d9": ("alter table d9 set schema other", "renamed to other.d9"),
}
NO_DRIFT = {    # values stay as they are: nothing to park for
    "n1": "alter table n1 alter n type numeric(12,2)", "n2": "alter table n2 alter w type varchar(20)",
    "n3": "alter table n3 alter w set not null, alter v set default 'x'", "n4": "vacuum full n4",
    "n5": "cluster n5 using n5_pkey", "n6": "analyze n6"}


def test_what_cannot_be_followed_parks_its_mirror_with_the_reason_and_nothing_else(mirrored):
    tables = [*DRIFT, *NO_DRIFT]
    p = mirrored("create schema other;" + "".join(
        f"create table {t} (id int primary key, v text, n numeric(10,2), k int not null unique, w varchar(10));"
        f"insert into {t} values (1, 'a', 1.25, 1, 'w');" for t in tables), tables)
    for t in tables:
        p.core(f"insert into {t} values (2, 'b', 2.25, 2, 'w')")
    assert_mirrors(p, tables)
    held = {t: p.warehouse(f"select * from raw.{t} order by id") for t in DRIFT}
    for t, (change, _) in DRIFT.items():
        p.core_cluster.psql(change.format(p.name + "_changes"), database=p.core_database)
        p.core(f"insert into {'other.' if 'schema' in change else ''}{t} (id, k) values (3, 3)")
    for t, change in NO_DRIFT.items():
        p.core(change)
        p.core(f"insert into {t} values (3, 'c', 3.25, 3, 'w'); update {t} set v = 'z' where id = 1")
    assert_mirrors(p, NO_DRIFT)
    for t, (_, words) in DRIFT.items():
        assert_parked(p, t, words)
        assert p.warehouse(f"select * from raw.{t} order by id") == held[t], "it stays as it was"
    assert {state(p, t) for t in NO_DRIFT} == {("live", None)}
    p.stop()


def test_trap_13_and_20_an_enum_is_extended_and_types_change_within_one_transaction(mirrored):
    p = mirrored("create type mood as enum ('sad'); create table t (id int primary key, m mood, ms mood[])", ["t"])
    p.core("insert into t values (1, 'sad', '{sad}')")
    p.core("alter type mood add value 'glad' before 'sad'")
    p.core("insert into t values (2, 'glad', '{glad,sad}')")
    p.core("alter type mood rename value 'sad' to 'blue'")
    p.core("insert into t values (3, 'blue', '{blue}')")
    p.wait_applied()
    assert p.warehouse("select id, m, ms from raw.t order by id") == [
        (1, "sad", ["sad"]), (2, "glad", ["glad", "sad"]), (3, "blue", ["blue"])], "each as it was written"
    with p.writing() as conn:
        conn.execute("alter table t add a int")
        conn.execute("insert into t values (4, 'blue', null, 1)")
        conn.execute("alter table t add b int")
        conn.execute("insert into t values (5, 'blue', null, 1, 2)")
    p.wait_applied()
    assert p.warehouse("select id, a, b from raw.t where id > 3 order by id") == [(4, 1, None), (5, 1, 2)]
    p.stop()


def test_a_row_that_the_warehouse_lost_parks_its_mirror_and_the_rest_goes_on(mirrored):
    p = mirrored("create table t (id int, v int); alter table t replica identity full; insert into t values (1, 1);"
                 "create table steady (id int primary key)", ["t", "steady"])
    p.wait_applied()
    p.warehouse("delete from raw.t")
    p.core("update t set v = 2")
    p.core("insert into steady values (1)")
    assert_mirrors(p, ["steady"])
    assert_parked(p, "t", "not there")
    p.stop()


def test_a_table_taken_out_of_the_settings_is_parked_and_loaded_anew_when_it_comes_back(mirrored):
    p = mirrored("create table a (id int primary key); create table b (id int primary key)", ["a", "b"])
    p.core("insert into a values (1); insert into b values (1)")
    assert_mirrors(p, ["a", "b"])
    p.stop()
    p.configure({"mirrors": {"tables": ["a"]}})
    p.start_capture()
    p.start_apply()
    p.core("insert into a values (2); insert into b values (2)")
    assert_mirrors(p, ["a"])
    assert state(p, "b") == ("parked", "no longer in mirrors.tables")
    p.stop()
    p.configure({"mirrors": {"tables": ["a", "b"]}})
    p.start()
    assert_mirrors(p, ["a", "b"])
    p.stop()


def test_bad_settings_are_named(make_pipeline):
    p = make_pipeline(land=SOME[:1])
    p.core("create table a (id int primary key)")
    for mirrors, words in (({"tables": ["nowhere"]}, "the core has no table public.nowhere"),
                           ({"tables": ["x.y.z"]}, "not schema.table"),
                           ({"tables": ["a", "public.a"]}, "both land as"),
                           ({"tables": ["a"], "append_only": ["b"]}, "not in mirrors.tables"),
                           ({"tables": ["x." + SOME[0]]}, "rollup")):
        p.configure({"mirrors": {"append_only": [], **mirrors}})
        code, out, err = p.run("init")
        assert code == 100 and words in err, out + err


def test_status_says_of_each_table_how_it_is(make_pipeline):
    p = make_mirrors(make_pipeline, "create table good (id int primary key, note text); insert into good values (1, 'a');"
                     "create table drifts (id int primary key, note text);", ["good", "drifts"], land=[ROLE])
    code, out, err = p.run("status", "--tables")
    assert code == 0 and out.startswith("1 rollup and 2 mirrors: all follow the stream.\n"), out + err
    p.core("alter table drifts rename column note to remark")
    p.core("update good set note = 'secret'")
    p.core("insert into drifts values (1, 'secret')")
    with p.writing() as conn:
        write_role(conn, 1, 1)
        write_role(conn, 1, 2, {"to": "secret"}, "teleported")
    wait_for("drift and poison", lambda: p.counters()["apply_parked_mirrors"] == 1 and p.counters()["quarantine_entities"] == 1)
    code, out, err = p.run("status", "--tables", "--json")
    tables = {t["name"]: t for t in json.loads(out)["tables"]}
    assert code == 1 and set(tables) == {"good", "drifts", ROLE}
    assert (tables["good"]["state"], tables["good"]["reason"], tables["good"]["kind"]) == ("live", None, "mirror")
    changed, = p.warehouse("select max(_lsn) <= %s::pg_lsn and %s::pg_lsn <= (select max(applied_lsn) from rolag.ledger) "
                           "from raw.good", tables["good"]["changed_lsn"], tables["good"]["changed_lsn"])
    assert changed == (True,)
    assert tables[ROLE]["entities_in_quarantine"] == 1 and tables[ROLE]["definition"] == 1
    assert tables["drifts"]["state"] == "parked" and "column note is gone" in tables["drifts"]["reason"]
    code, out, err = p.run("status", "--tables")
    lines = out.splitlines()
    assert code == 1 and lines[0] == "1 rollup and 2 mirrors: 1 parked, 0 syncing, 0 rebuilding."
    assert lines[3].split()[:3] == ["drifts", "mirror", "parked"] and lines[4].endswith("; mend it, then: rolag sync drifts")
    assert "entities in quarantine: 1" in out and "secret" not in out + err
    p.stop()
    p.configure({"warehouse": {"connect": "host=/nowhere"}})
    code, out, err = p.run("status", "--tables")
    assert code != 0 and out == "" and "warehouse" in err
