"""rolag check --definitions: definitions against a migrated database, for the application's own CI."""
import subprocess

import pytest
from pipeline import PACK, Bank, Pipeline, databases, prepare_core
from program import ROLAG

FINDING = 1
TABLE = """create table core_a_events (
  id uuid not null, sequence int not null, event_type varchar not null, event jsonb not null,
  context jsonb, recorded_at timestamptz not null, unique (id, sequence))"""
ROLLUP = """language: 1
rollup: a_rollup
source: public.core_a_events
definition: 1
events:
  initialized: [amount]
  changed: [amount, note?]
columns:
  amount: {type: int8, set: [initialized, changed]}
  note: text
"""
ID = "00000000-0000-4000-8000-000000000001"


@pytest.fixture
def site(core_cluster, tmp_path):
    """A database of the application and a folder with one definition."""
    site = Site(core_cluster, tmp_path)
    yield site
    core_cluster.psql(f"drop database if exists {site.database} with (force)", database="postgres")


class Site:
    def __init__(self, cluster, folder):
        self.cluster, self.folder, self.database = cluster, folder / "rollups", "application_ci"
        cluster.psql(f"create database {self.database}", database="postgres")
        self.conninfo = cluster.conninfo(self.database)
        self.folder.mkdir()
        self.define(ROLLUP)

    def define(self, text, name="a.yaml"):
        (self.folder / name).write_text(text, encoding="utf-8")

    def sql(self, *statements):
        for statement in statements:
            Pipeline.query(self.conninfo, statement)

    def event(self, sequence, type_, payload):
        self.sql(f"insert into core_a_events values ('{ID}', {sequence}, '{type_}', '{payload}', null, now())")

    def check(self):
        return check(self.conninfo, self.folder)


def check(conninfo, folder):
    """(exit code, output): no configuration is read."""
    done = subprocess.run([ROLAG, "check", "--definitions", "--database", conninfo, "--rollups", str(folder), "--config",
                           "/nonexistent"], capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == "", done.stderr
    return done.returncode, done.stdout


def test_the_pack_fits_the_migrated_database_with_and_without_events(core_cluster):
    prepare_core(core_cluster)
    database = "application_pack"
    core_cluster.psql(f"create database {database} template core_template", database="postgres")
    try:
        conninfo = core_cluster.conninfo(database)
        code, out = check(conninfo, PACK)
        assert code == 0 and out.count(": fits table") == 33 and "events fold" not in out, out
        Bank(conninfo, seed=3).bulk(3000)
        code, out = check(conninfo, PACK)
        assert code == 0 and out.count("events fold") > 20, out
        assert out.endswith("Everything is as it should be.\n")
        assert Pipeline.query(conninfo, "select count(*) from pg_replication_slots where database = current_database()") \
            == [(0,)]
    finally:
        core_cluster.psql(f"drop database {database} with (force)", database="postgres")
    assert database not in databases(core_cluster)


@pytest.mark.parametrize("change, finding", [
    ("drop table core_a_events", "a.yaml:3:9: the database has no table \"public\".\"core_a_events\""),
    ("alter table core_a_events drop column event", "a.yaml:3:9: table \"public\".\"core_a_events\" has no column event"),
    ("alter table core_a_events rename recorded_at to created_at", "has no column recorded_at"),
    ("alter table core_a_events alter id type text", "column id of table \"public\".\"core_a_events\" is text, "
                                                     "wanted is uuid"),
    ("alter table core_a_events alter event type text", "is text, wanted is jsonb or json"),
    ("alter table core_a_events set unlogged", "is unlogged or temporary"),
    ("alter table core_a_events drop constraint core_a_events_id_sequence_key", "has no unique index on (id, sequence)"),
    ("alter table core_a_events rename to moved; create view core_a_events as select * from moved", "is not a table"),
])
def test_a_migration_that_breaks_a_definition_is_found_with_its_place(site, change, finding):
    site.sql(TABLE)
    assert site.check()[0] == 0
    site.sql(*change.split("; "))
    code, out = site.check()
    assert code == FINDING and finding in out, out
    assert "mend: " in out


@pytest.mark.parametrize("type_, payload, finding", [
    ("closed", '{"secret": 1}', "a.yaml:5:1: event type closed"),
    ("initialized", '{"sum": 77}', "a.yaml:6:17: 1 events initialized have no key amount"),
    ("initialized", '{"amount": "personal"}', "entities of table \"public\".\"core_a_events\" have an event that cannot"),
])
def test_events_that_a_definition_does_not_know_are_found(site, type_, payload, finding):
    site.sql(TABLE)
    site.event(1, type_, payload)
    code, out = site.check()
    assert code == FINDING and finding in out, out
    assert "personal" not in out and "77" not in out, "values are never told"


def test_a_key_that_is_not_listed_is_worth_knowing(site):
    site.sql(TABLE)
    site.event(1, "initialized", '{"id": "x", "type": "initialized", "amount": 5, "colour": "red"}')
    code, out = site.check()
    assert code == 0 and "warn  " in out and "a.yaml:6:3: event initialized has a key colour that is not listed" in out
    assert "red" not in out


def test_one_broken_definition_does_not_hide_another(site):
    site.sql(TABLE)
    site.define(ROLLUP.replace("reducer", "").replace("type: int8", "type: int9"))
    site.define(ROLLUP.replace("a_rollup", "b_rollup").replace("core_a_events", "core_b_events"), "b.yaml")
    code, out = site.check()
    assert code == FINDING and "a.yaml:9:" in out and "b.yaml:3:9: the database has no table" in out, out


def test_the_options_of_definitions_are_refused_without_it(site):
    done = subprocess.run([ROLAG, "check", "--rollups", str(site.folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "go with --definitions" in done.stderr
