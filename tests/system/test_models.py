"""Models into a real warehouse: rolag models ls|compile|build|test, what is published, and what stands in its way.

The landed tables are filled by hand: what is tested is what is made of them. The figures expected are computed here.
"""
import os
import re
import subprocess
import textwrap

import psycopg
import pytest
from pipeline import PERMANENT, ROLAG, ROLE, TEMPORARY, Process, wait_for

FAIL_BINARY = os.environ.get("ROLAG_FAIL_BINARY", os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__)))), "build", "fail", "rolag"))

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
    assert "did you mean stg_thing?" in models.refuses("compile", "stg_thingy", code=2)
