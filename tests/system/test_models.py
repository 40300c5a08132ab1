"""Models into a real warehouse: rolag models ls|compile|build|test, what is published, and what stands in its way.

The landed tables are filled by hand: what is tested is what is made of them. The figures expected are computed here.
"""
import os
import re
import textwrap

import psycopg
import pytest
from pipeline import PAYMENT, PERMANENT, ROLE, ROOT, TEMPORARY, Process, wait_for, write_payment, write_role

FAIL_BINARY = os.environ.get("ROLAG_FAIL_BINARY", os.path.join(ROOT, "build", "fail", "rolag"))

PROJECT = {
    "dbt_project.yml": "name: bank\nversion: '1.0'\nvars: {factor: 100}\n",
    "models/staging/sources.yml": """
        version: 2
        sources:
          - name: raw
            tables: [{name: core_thing}]
          - name: ext
            loaded_at_field: loaded_at
            freshness: {warn_after: {count: 1, period: hour}}
            tables:
              - name: price
                columns:
                  - {name: at, data_type: timestamptz}
                  - {name: usd, data_type: "numeric(10,2)"}
                  - {name: loaded_at, data_type: timestamptz}
        """,
    "models/staging/stg_thing.sql": "select id, kind, cents from {{ source('raw', 'core_thing') }}\n",
    "models/staging/stg_price.sql": "select at, usd from {{ source('ext', 'price') }}\n",
    "models/intermediate/int_thing.sql": """
        {{ config(materialized='table') }}
        select t.id, t.kind, k.label, (t.cents / {{ var('factor') }}.0)::numeric(20,2) as usd
        from {{ ref('stg_thing') }} t left join {{ ref('kinds') }} k on k.kind = t.kind
        """,
    "models/intermediate/int_by_kind.sql":
        "select kind, sum(usd) as usd from {{ ref('int_thing') }} group by kind -- {{ ref('int_thing') }}\n",
    "models/outputs/report_things.sql":
        "select id, label, usd, {{ var('as_of') }} as as_of from {{ ref('int_thing') }} order by id\n",
    "models/outputs/report_prices.sql": "select count(*) as n from {{ ref('stg_price') }}\n",
    "models/schema.yml": """
        version: 2
        models:
          - name: int_thing
            description: Things in USD
            columns:
              - name: id
                description: Which thing
                tests: [not_null, unique]
              - name: kind
                tests:
                  - accepted_values: {values: [a, b]}
                  - relationships: {to: ref('kinds'), field: kind}
              - {name: usd, tests: [{expression: '>= 0'}]}
          - name: report_things
            config: {contract: {enforced: true}}
            columns:
              - {name: id, data_type: integer}
              - {name: label, data_type: text}
              - {name: usd, data_type: "numeric(20,2)"}
              - {name: as_of, data_type: date}
        """,
    "seeds/kinds.csv": "kind,label,rank\na,\"First, of all\",1\nb,Ünlike,2\n",
    "seeds/seeds.yml": "seeds: [{name: kinds, config: {column_types: {rank: integer}}}]\n",
}


class Models:
    """A project of models over one pipeline's warehouse."""

    def __init__(self, pipeline, folder):
        self.pipeline, self.folder = pipeline, str(folder)
        for path, text in PROJECT.items():
            self.write(path, text)
        pipeline.configure({"models": {"path": self.folder}})
        self.sql("create table raw.core_thing (id int primary key, kind text, cents bigint)",
                 "insert into raw.core_thing values (1, 'a', 100), (2, 'b', 250), (3, 'a', 5)")

    def write(self, path, text):
        full = os.path.join(self.folder, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as f:
            f.write(textwrap.dedent(text).lstrip("\n"))

    def remove(self, path):
        os.unlink(os.path.join(self.folder, path))

    def run(self, *arguments):
        return self.pipeline.run("models", *arguments)

    def build(self, *arguments):
        """A build that succeeds; what it said."""
        code, out, err = self.run("build", *arguments)
        assert code in (0, 1) and err == "", (code, out, err)
        return out

    def refuses(self, *arguments, code=PERMANENT):
        """A command that fails; its one line."""
        got, out, err = self.run(*arguments)
        assert got == code, (got, out, err)
        return err

    def sql(self, *statements):
        rows = []
        for statement in statements:
            rows = self.pipeline.warehouse(statement)
        return rows

    def failing(self, points, *arguments):
        """The same command with failpoints, in the background."""
        process = Process("models", [FAIL_BINARY, "models", *arguments, "--config", self.pipeline.config],
                          os.path.join(self.pipeline.folder, "models.log"), {"ROLAG_FAILPOINTS": points})
        self.pipeline.processes.append(process)
        return process

    def schemas(self):
        return [name for name, in self.sql("select nspname from pg_namespace where nspname like 'rolag_run_%' order by 1")]


@pytest.fixture
def models(make_pipeline, tmp_path):
    pipeline = make_pipeline(land=[ROLE])
    pipeline.init()
    return Models(pipeline, tmp_path / "project")


def built(out):
    """{model: built or same} of what `build` printed."""
    return {name: how for how, name in re.findall(r"^(built|same) +\w+\.(\w+):", out, re.MULTILINE)}


# ---- the thin line -----------------------------------------------------------------------------------

def test_models_are_built_tested_and_published(models):
    code, out, _ = models.run("ls", "+report_things")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["stg_thing", "view"], ["kinds", "seed"], ["int_thing", "table"], ["report_things", "table"]]
    out = models.build("--as-of", "2026-01-31")
    assert "published: run " in out and "source   ext.price: absent, taken as empty" in out
    assert models.sql("select id, label, usd::text, as_of::text from outputs.report_things order by id") == [
        (1, "First, of all", "1.00", "2026-01-31"), (2, "Ünlike", "2.50", "2026-01-31"),
        (3, "First, of all", "0.05", "2026-01-31")]
    assert models.sql("select kind, usd::text from intermediate.int_by_kind order by 1") == [("a", "1.05"), ("b", "2.50")]
    assert models.sql("select n from outputs.report_prices") == [(0,)]
    assert models.sql("select obj_description('intermediate.int_thing'::regclass)") == [("Things in USD",)]
    # The ledger's position is the run's.
    assert models.sql("select watermark = (select max(applied_lsn) from rolag.ledger) from rolag.model_run") == [(True,)]
    # What reads sources is within the build only.
    assert models.sql("select count(*) from pg_depend where refobjid = 'raw.core_thing'::regclass "
                      "and classid = 'pg_rewrite'::regclass") == [(0,)]


def test_compile_shows_the_sql(models):
    code, out, _ = models.run("compile", "report_things", "--as-of", "2026-01-31")
    assert (code, out) == (0, "select id, label, usd, '2026-01-31'::date as as_of from "
                              '"intermediate"."int_thing" order by id\n')
    assert 'from "raw"."core_thing"' in models.run("compile", "stg_thing")[1]
    code, out, _ = models.run("compile", "int_thing", "--tests")
    assert code == 0 and out.count(";\n") == out.count("-- ") > 0
    assert "SELECT count(*) FROM" in out or "SELECT coalesce(sum" in out
    assert "did you mean stg_thing?" in models.refuses("compile", "stg_thingy", code=2)


def things(models):
    return models.sql("select id, usd::text from outputs.report_things order by id")


ALL = [(1, "1.00"), (2, "2.50"), (3, "0.05")]


# ---- what is wrong has its place ---------------------------------------------------------------------

def test_errors_of_sql_have_file_line_and_column(models):
    models.write("models/intermediate/int_thing.sql", "select 'ä', {{ var('factor') }}\n  , nothing\nfrom {{ ref('stg_thing') }}")
    said = models.refuses("build")
    assert "models/intermediate/int_thing.sql:2:5: " in said and 'column "nothing" does not exist' in said
    models.write("models/intermediate/int_thing.sql", "{{ config(materialized='table') }} select id, kind, kind::int as usd, "
                                                      "'' as label from {{ ref('stg_thing') }}")
    said = models.refuses("build", "int_thing")     # of data, not of SQL: it has no place, and its value is not told
    assert "models/intermediate/int_thing.sql" in said and "22P02" in said and '"a"' not in said
    models.write("models/intermediate/int_thing.sql", "select id from {{ ref('stg_thing') }} where seen < now()")
    assert "int_thing.sql:1:52: now() differs from call to call" in models.refuses("ls")
    assert models.schemas() == [] and models.sql("select count(*) from rolag.model_run") == [(0,)]


def test_a_model_reads_only_what_it_declares(models):
    models.write("models/intermediate/int_thing.sql", "select id, 1 as usd, 'a' as kind, '' as label from raw.core_thing")
    assert "model int_thing reads raw.core_thing, which it does not ref" in models.refuses("build")
    models.sql("create function public.dice() returns int volatile language sql as 'select 4'")
    models.write("models/intermediate/int_thing.sql",
                 "select id, dice() as usd, 'a' as kind, '' as label from {{ ref('stg_thing') }}")
    assert "calls dice(), which is volatile" in models.refuses("build")


@pytest.mark.parametrize("sql, said", [
    ("select id, label, usd from {{ ref('int_thing') }}", "model report_things has no column as_of, its contract has"),
    ("select id, usd, label, {{ var('as_of') }} as as_of from {{ ref('int_thing') }}",
     "column 2 of model report_things is usd, its contract says label"),
    ("select id, label, usd::numeric(20,3), {{ var('as_of') }} as as_of from {{ ref('int_thing') }}",
     "column usd of model report_things is of type numeric(20,3), its contract says numeric(20,2)"),
    ("select id, label, usd::numeric, {{ var('as_of') }} as as_of from {{ ref('int_thing') }}",
     "is of type numeric, its contract says numeric(20,2)"),
    ("select id, label, usd, {{ var('as_of') }} as as_of, 1 as more from {{ ref('int_thing') }}",
     "model report_things has a column more, its contract has not"),
])
def test_contracts_are_held_to_the_letter(models, sql, said):
    models.build()
    before = things(models)
    models.write("models/outputs/report_things.sql", sql)
    message = models.refuses("build")
    assert said in message and re.search(r"models/schema\.yml:\d+:\d+: ", message), message
    assert things(models) == before


def test_seeds_say_which_line_does_not_fit(models):
    models.write("seeds/kinds.csv", "kind,label,rank\na,x,1\nb,\"y\nz\",two\n")
    said = models.refuses("build")
    assert "seeds/kinds.csv:3:1: a value does not fit its column" in said and "two" not in said
    models.write("seeds/kinds.csv", "kind,label,rank\na,x\n")
    assert "seeds/kinds.csv:2:1: this record has more or fewer fields than the first" in models.refuses("build")
    models.write("seeds/kinds.csv", "kind,label\n")
    assert "seed kinds has no column rank" in models.refuses("build")


# ---- tests before anything is seen -------------------------------------------------------------------

def test_trap_46_data_that_fails_a_test_is_never_seen(models):
    models.build()
    models.sql("insert into raw.core_thing values (4, 'c', -7), (5, 'b', 1)")
    code, out, err = models.run("build")
    assert code == PERMANENT
    assert "FAIL     int_thing.usd: expression, 1 row" in out and "FAIL     int_thing.kind: relationships, 1 row" in out
    assert "3 tests failed: int_thing.kind: accepted_values (1 row)" in err and "models/schema.yml:" in err
    assert things(models) == ALL and len(models.schemas()) == 1
    models.sql("update raw.core_thing set kind = 'a', cents = 7 where id = 4")
    models.build()
    assert things(models) == ALL + [(4, "0.07"), (5, "0.01")]


def test_a_test_of_severity_warn_is_told_and_passes(models):
    with open(os.path.join(models.folder, "models/schema.yml"), encoding="utf-8") as f:
        text = f.read()
    models.write("models/schema.yml", text.replace("{expression: '>= 0'}", "{expression: {expression: '> 1', severity: warn}}"))
    code, out, _ = models.run("test")
    assert code == 1 and "warn     int_thing.usd: expression, 2 rows" in out and "tested: " in out
    assert models.schemas() == []       # `test` leaves nothing
    assert models.run("build")[0] == 1 and things(models) == ALL


# ---- what did not change is not built again ----------------------------------------------------------

def test_trap_45_only_what_changed_is_made_anew(models):
    models.build("--as-of", "2026-01-31")
    again = built(models.build("--as-of", "2026-01-31"))
    assert again == dict.fromkeys(("kinds", "int_thing", "int_by_kind", "report_prices", "report_things"), "same")
    # As-of is in one model only.
    assert {m for m, how in built(models.build("--as-of", "2026-02-01")).items() if how == "built"} == {"report_things"}
    models.sql("update raw.core_thing set cents = 101 where id = 1")
    assert {m for m, how in built(models.build("--as-of", "2026-02-01")).items() if how == "same"} == {
        "kinds", "report_prices"}
    assert things(models)[0] == (1, "1.01")
    # What is of other runs' schemas stays as long as it is shown.
    models.build("--as-of", "2026-02-01", "--full-refresh")
    assert things(models)[0] == (1, "1.01")
    assert len(models.schemas()) == 1, "earlier runs that nothing needs are dropped"


def test_unchanged_rollups_are_known_without_reading_them(make_pipeline, tmp_path):
    """By what apply notes with each batch: heartbeats and other relations' rows do not count."""
    p = make_pipeline(land=[ROLE, PAYMENT])
    p.init()
    models = Models(p, tmp_path / "project")
    models.write("models/staging/sources.yml", f"sources: [{{name: raw, tables: [{{name: {ROLE}}}, {{name: {PAYMENT}_latest}}]}}]")
    for path in PROJECT:
        if path.startswith("models/") and not path.endswith("sources.yml"):
            models.remove(path)
    models.write("models/outputs/roles.sql", "select count(*) as n from {{ ref('stg_role') }}")
    models.write("models/outputs/payments.sql", "select count(*) as n from {{ ref('stg_payment') }}")
    models.write("models/staging/stg_role.sql", f"select id from {{{{ source('raw', '{ROLE}') }}}}")
    models.write("models/staging/stg_payment.sql", f"select id from {{{{ source('raw', '{PAYMENT}_latest') }}}}")
    p.start()

    def made():
        return {m for m, how in built(models.build()).items() if how == "built"}

    def write(what, number):
        with p.writing() as conn:
            what(conn, number)
        p.wait_applied()
    def role(conn, number):
        write_role(conn, number, 1)
    write(role, 1)
    write(write_payment, 1)
    assert made() == {"roles", "payments"}
    at = p.applied()
    wait_for("heartbeats to move the ledger", lambda: p.applied() > at)
    assert made() == set()
    write(role, 2)
    assert made() == {"roles"} and models.sql("select n from outputs.roles") == [(2,)]
    write(write_payment, 2)
    assert made() == {"payments"} and models.sql("select n from outputs.payments") == [(2,)]
    # Trimmed rows of the ledger leave what they said.
    p.stop()
    models.sql("create table kept as select * from rolag.ledger", """
        with gone as (delete from rolag.ledger where applied_lsn < (select max(applied_lsn) from rolag.ledger)
                      returning applied_lsn, relations)
        insert into rolag.written select (select pipeline from rolag.fence), x.name, max(applied_lsn)
        from gone, unnest(coalesce(relations, '{*}')) x(name) group by x.name
        on conflict (pipeline, name) do update set lsn = excluded.lsn""")
    assert made() == set()


# ---- sources ----------------------------------------------------------------------------------------

def test_sources_that_are_stale_or_empty_are_told(models):
    models.sql("create schema ext", "create table ext.price (at timestamptz, usd numeric(10,2), loaded_at timestamptz)")
    assert "source   ext.price: empty" in models.build()
    models.sql("insert into ext.price values (now(), 1, now() - interval '3 hours')")
    assert "source   ext.price: stale (warn)" in models.build()
    models.sql("insert into ext.price values (now(), 1, now())")
    assert "ext.price" not in models.build()
    assert models.sql("select n from outputs.report_prices") == [(2,)]
    models.sql("drop table raw.core_thing")
    assert "source raw.core_thing is not landed" in models.refuses("build")


def test_trap_52_a_table_truncated_or_swapped_during_a_build_is_read_as_it_was(models):
    build = models.failing("build.model=delay:3000", "build")
    with psycopg.connect(models.pipeline.warehouse_conninfo, autocommit=True) as conn:
        wait_for("the build's locks", lambda: models.sql(
            "select 1 from pg_locks where relation = 'raw.core_thing'::regclass and mode = 'AccessShareLock' and granted"))
        conn.execute("set lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            conn.execute("truncate raw.core_thing")
        # A swap waits for the build, which is done by then.
        conn.execute("set lock_timeout = 0")
        conn.execute("begin; create table raw.next (like raw.core_thing); insert into raw.next values (9, 'b', 900); "
                     "alter table raw.core_thing rename to gone; alter table raw.next rename to core_thing; commit")
    assert build.wait() in (0, 1), build.text()
    assert things(models) == ALL
    models.build()
    assert things(models) == [(9, "9.00")]


def test_trap_52_a_build_that_waits_for_a_swap_reads_the_new_table(models):
    with psycopg.connect(models.pipeline.warehouse_conninfo) as conn:
        conn.execute("create table raw.next (like raw.core_thing)")
        conn.execute("insert into raw.next values (9, 'b', 900)")
        conn.execute("alter table raw.core_thing rename to gone")
        conn.execute("alter table raw.next rename to core_thing")
        build = models.failing("", "build")
        wait_for("the build to stand behind the swap",
                 lambda: models.sql("select 1 from pg_locks where mode = 'AccessShareLock' and not granted"))
    assert build.wait() in (0, 1), build.text()
    assert things(models) == [(9, "9.00")]


# ---- publishing -------------------------------------------------------------------------------------

def test_publishing_waits_for_a_long_reader_in_small_bites(models):
    models.pipeline.configure({"models": {"publish_wait": "3 s"}})
    models.build()
    models.sql("update raw.core_thing set cents = 300 where id = 1")
    with psycopg.connect(models.pipeline.warehouse_conninfo) as reader:
        reader.execute("select * from outputs.report_things").fetchall()       # its lock stays
        build = models.failing("", "build")
        looks = 0
        while build.running():      # nobody stands behind it for long
            assert things(models)[0] == (1, "1.00")
            looks += 1
        assert build.wait() == TEMPORARY and "the views are in use" in build.text() and looks > 3
    models.build()
    assert things(models)[0] == (1, "3.00")


def test_a_view_with_other_columns_keeps_owner_grants_and_comments(models):
    models.build()
    models.sql("do $$ begin create role models_reader; exception when duplicate_object then null; end $$",
               "do $$ begin create role models_owner; exception when duplicate_object then null; end $$",
               "grant usage on schema outputs to models_reader, models_owner", "grant models_owner to current_user",
               "grant select on outputs.report_things to models_reader with grant option",
               "grant select (id, usd) on outputs.report_things to public",
               "comment on view outputs.report_things is 'ours'", "comment on column outputs.report_things.id is 'key'")

    def manner():
        return models.sql("select pg_get_userbyid(relowner), relacl::text, obj_description(oid, 'pg_class'), col_description(oid, 1), "
                          "(select string_agg(attname || ' ' || attacl::text, ',' order by attname) from pg_attribute "
                          "where attrelid = c.oid and attacl is not null) from pg_class c where oid = "
                          "'outputs.report_things'::regclass")[0]
    before = manner()
    assert before[2:4] == ("ours", "key") and before[4].startswith("id {") and ",usd {" in before[4]
    models.write("models/outputs/report_things.sql", "select id, usd, {{ var('as_of') }} as as_of from {{ ref('int_thing') }}")
    with open(os.path.join(models.folder, "models/schema.yml"), encoding="utf-8") as f:
        text = f.read()
    models.write("models/schema.yml", text.replace("{name: label, data_type: text}\n", "").replace("- {name: usd, data", "{name: usd, data"))
    models.sql("create view public.theirs as select label from outputs.report_things")
    said = models.refuses("build")
    assert "view outputs.report_things would lose or change columns, and public.theirs depends on it" in said or \
        "and theirs depends on it" in said, said
    assert models.sql("select count(label) from public.theirs") == [(3,)]
    models.sql("drop view public.theirs")
    models.build()
    assert manner() == before
    # Given away, it works on, whatever is built.
    models.sql("alter view outputs.report_things owner to models_owner", "update raw.core_thing set cents = 400 where id = 1")
    models.build()
    assert models.sql("select usd::text from outputs.report_things where id = 1") == [("4.00",)]
    assert models.sql("select pg_get_userbyid(relowner) from pg_class where oid = 'outputs.report_things'::regclass") == [
        ("models_owner",)]
    # More columns at the end need no new view.
    oid = models.sql("select 'outputs.report_prices'::regclass::oid")
    models.write("models/outputs/report_prices.sql", "select count(*) as n, 1 as more from {{ ref('stg_price') }}\n")
    models.build()
    assert models.sql("select 'outputs.report_prices'::regclass::oid") == oid


def test_a_table_of_a_models_name_is_not_touched(models):
    models.sql("create schema outputs", "create table outputs.report_prices (x int)")
    assert "outputs.report_prices is there and no view" in models.refuses("build")
    assert models.sql("select count(*) from pg_views where schemaname in ('outputs', 'intermediate')") == [(0,)]


# ---- crashes ----------------------------------------------------------------------------------------

def points():
    with open(os.path.join(ROOT, "proto", "base", "failpoints.def"), encoding="utf-8") as f:
        return re.findall(r'"((?:build|publish|drop)\.\w+)"', f.read())


@pytest.mark.parametrize("action", ["kill", "disconnect"])
@pytest.mark.parametrize("point", points())
def test_trap_40_a_crash_anywhere_shows_all_of_a_run_or_nothing(models, point, action):
    models.build("--as-of", "2026-01-31")
    models.build("--as-of", "2026-01-30")       # the first run has something to be dropped
    before = models.sql("select id, usd::text, as_of::text from outputs.report_things order by id")
    models.sql("update raw.core_thing set cents = cents + 100", "update raw.core_thing set kind = 'b' where id = 3")
    hit = "@2" if point in ("build.model", "publish.view") else ""
    build = models.failing(f"{point}={action}{hit}", "build", "--as-of", "2026-02-01")
    code = build.wait()
    now = models.sql("select id, usd::text, as_of::text from outputs.report_things order by id")
    kinds = models.sql("select kind, usd::text from intermediate.int_by_kind order by 1")
    assert (now, kinds) in [(before, [("a", "1.05"), ("b", "2.50")]),
                            ([(1, "2.00", "2026-02-01"), (2, "3.50", "2026-02-01"), (3, "1.05", "2026-02-01")],
                             [("a", "2.00"), ("b", "4.55")])]
    assert code == -9 if action == "kill" else code in (0, 1, TEMPORARY), build.text()
    if action == "kill" and point in ("build.committed", "publish.view", "publish.commit"):
        assert len(models.schemas()) >= 2 and now == before     # a run that nobody sees
    wait_for("its sessions to end", lambda: models.sql(
        "select count(*) = 0 from pg_stat_activity where application_name like 'rolag models%%'")[0][0])
    models.build("--as-of", "2026-02-01")
    assert things(models) == [(1, "2.00"), (2, "3.50"), (3, "1.05")]
    assert models.sql("select count(*) from rolag.model_run r left join rolag.model_publication p using (run_id) "
                      "where p.run_id is null") == [(0,)]
    # Every schema of a run is one of those that are known.
    assert models.sql("select nspname from pg_namespace where nspname like 'rolag_run_%%' and nspname not in "
                      "(select schema from rolag.model_run)") == []


def test_a_build_is_limited_in_time(models):
    models.pipeline.configure({"models": {"time_limit": "1 s"}})
    models.write("models/intermediate/int_thing.sql",
                 "{{ config(materialized='table') }} select sum(a + b + c) as usd from generate_series(1, 3000) a, "
                 "generate_series(1, 3000) b, generate_series(1, 3000) c")
    models.remove("models/schema.yml")
    assert "the build took longer than its limit of 1 s" in models.refuses("build", "int_thing", code=TEMPORARY)
    assert models.schemas() == []
