"""init, check, run, status, story, config on real clusters: what they find, say, make and mend.

A site is a core database, a warehouse database and a configuration of two small rollups; clusters are
shared by the module, but for tests that break a server.
"""
import itertools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import psycopg
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "deploy", "demo"))

from cluster import Cluster  # noqa: E402
from program import ROLAG  # noqa: E402

TIMEOUT = 90
OK, FINDING, USAGE, PERMANENT, TEMPORARY = 0, 1, 2, 100, 111
NUMBERS = itertools.count(1)

TABLES = ("core_a_events", "core_b_events")
TABLE_SQL = """create table {} (
  id uuid not null, sequence int not null, event_type varchar not null, event jsonb not null,
  context jsonb, recorded_at timestamptz not null, unique (id, sequence));"""
ROLLUP = """language: 1
rollup: {0}_rollup
source: public.{0}
definition: 1
events:
  initialized: [amount]
  changed: [amount, note?]
columns:
  amount: {{type: int8, set: [initialized, changed]}}
  note: text
"""


def wait_for(what, condition, timeout=TIMEOUT):
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {timeout} s for {what}"
        time.sleep(0.05)


class Site:
    """Two databases and a configuration; `role`: whom rolag connects as."""

    def __init__(self, core, warehouse, role="postgres"):
        self.name = f"s{next(NUMBERS)}"
        self.core, self.warehouse, self.role = core, warehouse, role
        self.core_db, self.warehouse_db = self.name + "_core", self.name + "_warehouse"
        self.dir = tempfile.mkdtemp(prefix=f"rolag-{self.name}-")
        self.state = os.path.join(self.dir, "state")
        self.config = os.path.join(self.dir, "rolag.yaml")
        self.slot, self.publication = f"rolag_{self.name}", f"{self.name}_inserts"
        self.processes = []
        core.psql(f"create database {self.core_db}", database="postgres")
        warehouse.psql(f"create database {self.warehouse_db}", database="postgres")
        for table in TABLES:
            self.core_sql(TABLE_SQL.format(table))
        self.write_definitions()
        self.configure()

    def write_definitions(self, tables=TABLES, text=ROLLUP):
        os.makedirs(os.path.join(self.dir, "rollups"), exist_ok=True)
        for table in tables:
            with open(os.path.join(self.dir, "rollups", table + ".yaml"), "w", encoding="utf-8") as f:
                f.write(text.format(table))

    def configure(self, more="", core=None, warehouse=None):
        core = core or self.core.conninfo(self.core_db, user=self.role)
        warehouse = warehouse or self.warehouse.conninfo(self.warehouse_db, user=self.role)
        with open(self.config, "w", encoding="utf-8") as f:
            f.write(f'pipeline: {self.name}\nstate_dir: {self.state}\ncore: {{connect: "{core}"}}\n'
                    f'warehouse: {{connect: "{warehouse}"}}\nrollups: {{path: rollups}}\n'
                    f'{"" if "capture:" in more else "capture: {heartbeat_interval: 200 ms}"}\n'
                    f'{more or "spool: {reserve: 0}"}\n')

    def core_sql(self, sql, user="postgres"):
        return self.core.psql(sql, database=self.core_db, user=user)

    def warehouse_sql(self, sql, user="postgres"):
        return self.warehouse.psql(sql, database=self.warehouse_db, user=user)

    def rolag(self, *arguments):
        """(exit code, stdout, stderr) of a command that ends by itself."""
        done = subprocess.run([ROLAG, "--config", self.config, *arguments], capture_output=True, text=True,
                              timeout=TIMEOUT, check=False)
        return done.returncode, done.stdout, done.stderr

    def ok(self, *arguments):
        code, out, err = self.rolag(*arguments)
        assert code == OK, f"rolag {arguments} ended with {code}\n{out}{err}"
        return out

    def fails(self, *arguments):
        """(exit code, the one line on stderr)."""
        code, out, err = self.rolag(*arguments)
        assert code != OK, out
        assert err.count("\n") == 1, f"not one line: {err!r}"
        return code, err.strip()

    def start(self, *arguments):
        log = open(os.path.join(self.dir, "log"), "ab")
        process = subprocess.Popen([ROLAG, "--config", self.config, *arguments], stdout=log, stderr=log,
                                   stdin=subprocess.DEVNULL)
        log.close()
        self.processes.append(process)
        return process

    def log(self):
        with open(os.path.join(self.dir, "log"), encoding="utf-8", errors="replace") as f:
            return f.read()

    def insert(self, entity, sequence, kind="initialized", event="{}", table=TABLES[0]):
        self.core_sql(f"insert into {table} values ('{entity}', {sequence}, '{kind}', '{event}', null, "
                      f"'2026-01-0{sequence} 10:00:00+00')")

    def snapshot(self):
        """Everything that init makes, for comparing."""
        return [
            self.core_sql("select pubname, pubinsert, pubupdate, pubdelete, pubtruncate from pg_publication order by 1"),
            self.core_sql("select schemaname, tablename, attnames, rowfilter from pg_publication_tables order by 1, 2"),
            self.core_sql(f"select plugin, database, temporary from pg_replication_slots where slot_name = '{self.slot}'"),
            self.warehouse_sql("select nspname from pg_namespace where nspname in ('raw', 'rolag') order by 1"),
            self.warehouse_sql("select oid, relname from pg_class where relnamespace in ('raw'::regnamespace, "
                               "'rolag'::regnamespace) order by 2"),
            self.warehouse_sql("select * from rolag.migration"), self.warehouse_sql("select * from rolag.fence"),
            self.warehouse_sql("select * from rolag.ledger"),
            self.warehouse_sql("select * from rolag.relation order by name"),
        ]

    def drop_slot(self):
        def dropped():
            try:
                self.core_sql("select pg_drop_replication_slot(slot_name) from pg_replication_slots "
                              f"where slot_name = '{self.slot}'")
                return True
            except RuntimeError as error:
                assert "is active" in str(error)
                return False
        wait_for("the slot to be free", dropped)

    def release(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for cluster, database in ((self.core, self.core_db), (self.warehouse, self.warehouse_db)):
            if cluster.process is None:
                continue
            if cluster is self.core:
                self.drop_slot()
            cluster.psql(f"drop database if exists {database} with (force)", database="postgres")
        shutil.rmtree(self.dir, ignore_errors=True)


def allow_passwords(cluster, role):
    """This role needs a password on the socket."""
    path = os.path.join(cluster.data, "pg_hba.conf")
    with open(path, encoding="utf-8") as f:
        rules = f.read()
    with open(path, "w", encoding="utf-8") as f:
        f.write(f"local all {role} scram-sha-256\n{rules}")
    cluster.reload()


@pytest.fixture(scope="module")
def core():
    with Cluster("core", settings={"max_wal_senders": 20, "max_replication_slots": 20}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def warehouse():
    with Cluster("warehouse", settings={"wal_level": "replica", "max_wal_senders": 0}) as cluster:
        yield cluster


@pytest.fixture
def site(core, warehouse):
    made = Site(core, warehouse)
    yield made
    made.release()


@pytest.fixture(scope="module")
def untouched(core, warehouse):
    """A site whose databases nobody changes: for tests that do not get as far."""
    made = Site(core, warehouse)
    yield made
    made.release()


# ---- init -----------------------------------------------------------------------------------------

def test_init_makes_everything_and_a_second_run_changes_nothing(site):
    out = site.ok("init")
    assert f"core       created publication {site.publication} of 2 tables\n" in out
    assert re.search(rf"^core       created slot {site.slot} at [0-9A-F]+/[0-9A-F]+$", out, re.M)
    assert "warehouse  control schema rolag is now at version 7\n" in out
    assert 'created tables "raw"."core_a_events_rollup"' in out
    assert "Done." in out
    # The publication was there before the slot: the slot can decode from its first byte.
    before = site.snapshot()
    again = site.ok("init")
    assert again.endswith("Nothing to do: everything was there.\n") and "created" not in again
    assert site.snapshot() == before
    # The ledger begins where the slot does.
    ledger = site.warehouse_sql("select applied_lsn from rolag.ledger")
    assert ledger == site.core_sql(f"select confirmed_flush_lsn from pg_replication_slots where slot_name = '{site.slot}'")
    identity = site.core_sql("select system_identifier from pg_control_system()")
    assert site.warehouse_sql("select core_system_id from rolag.fence") == identity


@pytest.mark.parametrize("undo", [
    "drop schema raw cascade; delete from rolag.relation",
    "drop table raw.core_b_events_rollup, raw.core_b_events_rollup_latest; "
    "delete from rolag.relation where name = 'core_b_events_rollup'",
    "drop schema raw cascade; delete from rolag.relation; delete from rolag.ledger; delete from rolag.fence",
    "drop schema raw, rolag cascade",
], ids=["tables", "one-rollup", "position", "control-schema"])
def test_init_goes_on_after_a_cut_at_any_step(site, undo):
    """What a crash behind a step leaves is what an undone later step leaves."""
    site.ok("init")
    whole = site.warehouse_sql("select applied_lsn, timeline from rolag.ledger")
    site.warehouse_sql(undo)
    assert "Done." in site.ok("init")
    assert site.warehouse_sql("select applied_lsn, timeline from rolag.ledger") == whole
    assert site.ok("init").endswith("Nothing to do: everything was there.\n")


def test_init_goes_on_with_publication_alone_and_with_publication_and_slot(site):
    site.core_sql(f"create publication {site.publication} for table core_a_events with (publish = 'insert, truncate')")
    out = site.ok("init")
    assert f"publication {site.publication}: added public.core_b_events\n" in out and "created slot" in out
    site.drop_slot()
    site.warehouse_sql("drop schema raw, rolag cascade")
    position = site.core_sql(f"select lsn from pg_create_logical_replication_slot('{site.slot}', 'pgoutput')")
    out = site.ok("init")
    assert f"slot {site.slot} exists, confirmed {position}" in out
    assert site.warehouse_sql("select applied_lsn from rolag.ledger") == position


def test_init_survives_kill_9_anywhere(site):
    for delay_ms in list(range(2, 40, 3)) + [50, 70, 100]:
        process = site.start("init")
        time.sleep(delay_ms / 1000)
        process.kill()
        process.wait()
    site.ok("init")
    assert site.ok("init").endswith("Nothing to do: everything was there.\n")
    assert site.warehouse_sql("select count(*) from rolag.ledger") == "1"
    assert site.core_sql(f"select count(*) from pg_publication where pubname = '{site.publication}'") == "1"


def test_init_warns_of_tables_that_no_rollup_reads_and_keeps_them(site):
    site.core_sql(TABLE_SQL.format("other_events"))
    site.core_sql(f"create publication {site.publication} for table other_events, core_a_events, core_b_events")
    out = site.ok("init")
    assert f"warning: publication {site.publication} also has public.other_events, which no rollup reads\n" in out
    assert f"publication {site.publication} now publishes insert and truncate\n" in out
    assert "other_events" in site.core_sql("select tablename from pg_publication_tables")
    assert site.core_sql("select pubupdate, pubdelete from pg_publication") == "f|f"


def test_trap_22_init_says_which_transaction_the_slot_waits_for(site):
    site.core.psql("create role waiter superuser login", database="postgres")
    site.core.psql("alter role waiter set statement_timeout = '500ms'", database="postgres")
    site.configure(core=site.core.conninfo(site.core_db, user="waiter"))
    with psycopg.connect(site.core.conninfo(site.core_db)) as holder:
        holder.execute("select pg_current_xact_id()")
        pid = holder.info.backend_pid
        process = site.start("init")
        told = wait_for("the note", lambda: re.search(r"waits for older transactions to end: pid (\d+), open for",
                                                      site.log()))
        assert int(told[1]) == pid
        assert process.poll() is None       # the time-out of its role did not end it
        holder.rollback()
    assert process.wait(TIMEOUT) == OK
    assert "created slot" in site.log()


def test_init_does_not_queue_up_behind_a_migration(site):
    assert "SET lock_timeout = '2s';\nCREATE PUBLICATION" in site.ok("init", "--print-sql", "core")
    with psycopg.connect(site.core.conninfo(site.core_db)) as holder:
        holder.execute("lock table core_a_events in share update exclusive mode")
        code, line = site.fails("init")     # while the other holds it
        assert code == TEMPORARY and "is locked by another session" in line and "mend: rolag init again" in line
    site.ok("init")


def test_init_refuses_what_making_things_cannot_mend(site):
    site.configure("capture: {on_lost_slot: stop}\nspool: {reserve: 0}")
    site.ok("init")
    site.drop_slot()
    code, line = site.fails("init")
    assert code == PERMANENT and "would leave a gap" in line and "mend:" in line
    site.warehouse_sql("delete from rolag.ledger")
    site.ok("init")
    site.core_sql(f"drop publication {site.publication}")
    code, line = site.fails("init")
    assert code == PERMANENT and "cannot be decoded through this slot" in line
    assert "then load anew, as pipeline of another name" in line    # not init, which would refuse
    site.drop_slot()
    site.warehouse_sql("delete from rolag.ledger; update rolag.fence set core_system_id = '1'")
    code, line = site.fails("init")
    assert code == PERMANENT and "follows another core (system identifier 1," in line
    site.warehouse_sql("update rolag.fence set core_system_id = null")
    site.ok("init")
    site.warehouse_sql("insert into rolag.migration values (99, 'of the future')")
    code, line = site.fails("init")
    assert code == PERMANENT and "control schema is version 99, this program knows 7" in line


def test_init_names_a_table_that_the_core_does_not_have(site):
    site.write_definitions(["core_c_events"])
    code, line = site.fails("init")
    assert code == PERMANENT and "the core has no table public.core_c_events" in line
    assert "core_c_events.yaml" in line
    assert site.core_sql("select count(*) from pg_publication") == "0"      # nothing was made


# ---- least privilege -----------------------------------------------------------------------------

def make_least(core, warehouse):
    """A site whose role has what --print-sql gives, and nothing else; tables belong to a bank role."""
    role = f"least{next(NUMBERS)}"
    made = Site(core, warehouse, role)
    for cluster in (core, warehouse):
        cluster.psql(f"revoke all on database {made.core_db if cluster is core else made.warehouse_db} from public",
                     database="postgres")
    made.core_sql("create role bank" if made.core_sql("select 1 from pg_roles where rolname = 'bank'") == "" else "select 1")
    for table in TABLES:
        made.core_sql(f"alter table {table} owner to bank")
    return made


def release_least(site):
    site.release()
    for cluster in (site.core, site.warehouse):
        cluster.psql(f"drop role if exists {site.role}", database="postgres")


@pytest.fixture
def least(core, warehouse):
    made = make_least(core, warehouse)
    yield made
    release_least(made)


def as_dba(site, side):
    path = os.path.join(site.dir, side + ".sql")
    with open(path, "w", encoding="utf-8") as f:
        f.write(site.ok("init", "--print-sql", side))
    os.chmod(site.dir, 0o755)
    cluster, database = (site.core, site.core_db) if side == "core" else (site.warehouse, site.warehouse_db)
    cluster.psql(file=path, database=database)


def test_what_print_sql_gives_is_enough(least):
    as_dba(least, "core")
    as_dba(least, "warehouse")
    rights = least.core_sql(f"select rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, rolreplication "
                            f"from pg_roles where rolname = '{least.role}'")
    assert rights == "f|f|f|f|t"
    out = least.ok("init")
    assert f"publication {least.publication} exists, 2 tables" in out and "created slot" in out
    out = least.ok("check")
    assert "FAIL" not in out and "warn" not in out
    both = least.ok("init", "--print-sql")
    assert both.count("GRANT CONNECT ON DATABASE") == 2


def test_without_the_dba_init_and_check_say_who_must_do_it(least):
    least.core.psql(f"create role {least.role} login replication", database="postgres")
    least.core_sql(f"grant connect on database {least.core_db} to {least.role}")
    code, line = least.fails("init")
    assert code == PERMANENT and "warehouse" in line        # the role is not there
    as_dba(least, "warehouse")
    code, line = least.fails("init")
    assert code == PERMANENT and "let the owner run what rolag init --print-sql prints" in line


def test_the_publication_forbids_only_what_print_sql_says(least):
    as_dba(least, "core")
    as_dba(least, "warehouse")
    least.ok("init")
    for sql in ("alter table core_a_events add column more text", "alter table core_a_events alter event type json",
                "alter table core_a_events drop column context", "truncate core_a_events",
                "update core_a_events set event_type = 'x'", "delete from core_a_events",
                "alter table core_a_events rename to core_z_events", "drop table core_z_events"):
        least.core_sql(sql)
    with pytest.raises(RuntimeError, match="cannot change table .* to unlogged"):
        least.core_sql("alter table core_b_events set unlogged")


# ---- check ----------------------------------------------------------------------------------------

def findings(out, kind="FAIL"):
    """[(line, mend)] of the lines of that kind."""
    lines = out.splitlines()
    return [(line, lines[i + 1].partition("mend: ")[2] if i + 1 < len(lines) else "")
            for i, line in enumerate(lines) if line.startswith(kind)]


def the_finding(site, says):
    """The mend of the one finding, which says this."""
    code, out, err = site.rolag("check")
    found = findings(out)
    assert code == FINDING and err == "", out
    assert len(found) == 1 and says in found[0][0], out
    assert found[0][1] != "", f"no mend: {found[0][0]}"
    return found[0][1]


def do_sql(run, mend):
    """Runs the statements of a mend, each alone; what is no SQL is left to the test."""
    statements = [s.strip() for s in mend.split(";")]
    done = [run(s) for s in statements if re.match(r"(ALTER|GRANT|CREATE|SELECT|DROP|DELETE) ", s)]
    assert done, f"no SQL in the mend: {mend}"


def make_ready(site):
    as_dba(site, "core")
    as_dba(site, "warehouse")
    site.ok("init")
    assert "FAIL" not in site.ok("check")
    return site


@pytest.fixture
def ready(least):
    """A least-privilege site after init: nothing to find."""
    return make_ready(least)


@pytest.fixture(scope="module")
def mended_sites(core, warehouse):
    made = []
    yield made
    for site in made:
        release_least(site)


@pytest.fixture
def mended(mended_sites, core, warehouse):
    """As ready, for tests that mend what they break: the same site again, unless one failed to."""
    if not mended_sites or mended_sites[-1].rolag("check")[0] != OK:
        mended_sites.append(make_least(core, warehouse))
        make_ready(mended_sites[-1])
    return mended_sites[-1]


CORE_BREAKAGES = {
    "table not published": ("alter publication {pub} drop table core_b_events", "1 of the tables that rollups read are not in it"),
    "column list": ("alter publication {pub} set table core_a_events (id, sequence, event_type, event, recorded_at), "
                    "core_b_events", "1 tables have a column list or a row filter"),
    "row filter": ("alter publication {pub} set table core_a_events, core_b_events where (sequence > 3)",
                   "1 tables have a column list or a row filter"),
    "updates published": ("alter publication {pub} set (publish = 'insert, update, delete, truncate')",
                          "must publish insert and truncate, and nothing else"),
    "truncate not published": ("alter publication {pub} set (publish = 'insert')", "must publish insert and truncate"),
    "no SELECT": ("revoke select on core_b_events from {role}", 'source "public"."core_b_events": the role may not read it'),
    "no REPLICATION": ("alter role {role} noreplication", "has no REPLICATION right"),
    "no unique index": ("alter table core_a_events drop constraint core_a_events_id_sequence_key",
                        "no unique index on (id, sequence)"),
    "row security": ("alter table core_a_events enable row level security", "row level security hides rows"),
    "no heartbeat": ("revoke execute on function pg_logical_emit_message(boolean, text, text) from public",
                     "the role may not send the heartbeat"),
}


@pytest.mark.parametrize("case", CORE_BREAKAGES)
def test_check_finds_what_is_wrong_in_the_core_and_its_mend_works(mended, case):
    sql, says = CORE_BREAKAGES[case]
    mended.core_sql(sql.format(pub=mended.publication, role=mended.role))
    do_sql(mended.core_sql, the_finding(mended, says))
    assert "FAIL" not in mended.ok("check")


def test_check_finds_a_schema_that_the_role_may_not_use(ready):
    ready.core_sql(f"revoke usage on schema public from public, {ready.role}")
    code, out, _ = ready.rolag("check")
    found = findings(out)
    assert code == FINDING and len(found) == 2      # one for each source
    assert all("the role may not use the schema" in line for line, _ in found)
    do_sql(ready.core_sql, found[0][1])
    assert "FAIL" not in ready.ok("check")


WAREHOUSE_BREAKAGES = {
    "no right on the ledger": ("revoke insert on rolag.ledger from {role}", "may not write rolag.ledger"),
    "no right on a landed table": ("revoke insert on raw.core_a_events_rollup from {role}",
                                   'landed "raw"."core_a_events_rollup": the role may not write it'),
    "no right on the schema": ("alter schema raw owner to postgres", "may not make tables in schema raw"),
}


@pytest.mark.parametrize("case", WAREHOUSE_BREAKAGES)
def test_check_finds_what_is_wrong_in_the_warehouse_and_its_mend_works(mended, case):
    sql, says = WAREHOUSE_BREAKAGES[case]
    mended.warehouse_sql(sql.format(role=mended.role))
    do_sql(mended.warehouse_sql, the_finding(mended, says))
    assert "FAIL" not in mended.ok("check")


@pytest.mark.parametrize("sql, says", [
    ("delete from rolag.ledger", "has no position yet"),
    ("drop schema rolag, raw cascade; create schema rolag authorization {role}; create schema raw authorization {role}",
     "there is no control schema rolag"),
    ("drop table raw.core_a_events_rollup, raw.core_a_events_rollup_latest; "
     "delete from rolag.relation where name = 'core_a_events_rollup'", "landed core_a_events_rollup: it was not made yet"),
], ids=["ledger", "schema", "tables"])
def test_check_finds_what_init_has_to_make(mended, sql, says):
    mended.warehouse_sql(sql.format(role=mended.role))
    assert "rolag init" in the_finding(mended, says)
    mended.ok("init")
    assert "FAIL" not in mended.ok("check")


@pytest.mark.parametrize("sql, says", [
    ("alter table raw.core_a_events_rollup alter amount type text", 'column amount is text, wanted is int8'),
    ("alter table raw.core_a_events_rollup_latest drop column note", "column note is missing"),
    ("drop table raw.core_a_events_rollup_latest", "there is no such table"),
], ids=["type", "column", "table"])
def test_check_finds_landed_tables_that_do_not_fit_and_its_mend_works(mended, sql, says):
    mended.warehouse_sql(sql)
    do_sql(mended.warehouse_sql, the_finding(mended, says))
    mended.ok("init")
    assert "FAIL" not in mended.ok("check")


def test_check_and_init_refuse_a_definition_changed_under_its_number(ready):
    ready.write_definitions([TABLES[0]], ROLLUP.replace("note: text", "note: varchar"))
    code, line = ready.fails("init")
    assert code == PERMANENT and "changed under the same number 1" in line
    code, out, _ = ready.rolag("check")
    assert code == FINDING and "its rows were made by another definition (number 1, the file has 1)" in out


def test_check_says_that_there_is_nothing_yet(least):
    as_dba(least, "core")
    as_dba(least, "warehouse")
    least.core_sql(f"drop publication {least.publication}")
    code, out, _ = least.rolag("check")
    assert code == FINDING
    told = dict(findings(out))
    assert [line for line in told if "publication" in line and "there is none" in line]
    assert told[f"FAIL  slot {least.slot}: there is none"] == "rolag init"
    assert [line for line in told if "there is no control schema" in line]
    assert len(told) == 3


def test_check_finds_a_gone_slot_and_a_gone_publication(ready):
    ready.configure("capture: {on_lost_slot: stop}\nspool: {reserve: 0}")
    ready.core_sql(f"drop publication {ready.publication}")
    mend = the_finding(ready, "can never be decoded through the slot")
    do_sql(ready.core_sql, mend)
    code, out, _ = ready.rolag("check")
    assert code == FINDING and "a new slot would leave a gap" in out


def test_check_finds_another_core(ready):
    ready.warehouse_sql("update rolag.fence set core_system_id = '12345'")
    assert "core.connect" in the_finding(ready, "the warehouse follows the core with system identifier 12345")


def test_one_side_down_does_not_hide_the_other(ready):
    good = ready.warehouse.conninfo(ready.warehouse_db, user=ready.role)
    ready.configure(core=good.replace(f"port='{ready.warehouse.port}'", "port='1'"))
    code, out, _ = ready.rolag("check")
    found = findings(out)
    assert code == FINDING and len(found) == 1 and "cannot connect to the core" in found[0][0]
    assert "ok    warehouse: control schema rolag at version 7" in out
    ready.configure(warehouse=good.replace(ready.warehouse_db, "nowhere"))
    code, out, _ = ready.rolag("check")
    found = findings(out)
    assert code == FINDING and len(found) == 1 and "cannot connect to the warehouse" in found[0][0]
    assert found[0][1] == "create it, or mend the connection string"
    assert "ok    sources: the tables of all 2 rollups are there" in out


def test_a_wrong_password_is_one_clear_line_without_it(ready, monkeypatch):
    ready.core_sql(f"alter role {ready.role} password 'right'")
    path = os.path.join(ready.core.data, "pg_hba.conf")
    with open(path, encoding="utf-8") as f:
        rules = f.read()
    try:
        allow_passwords(ready.core, ready.role)
        monkeypatch.setenv("PGPASSWORD", "wr0ng-secret")
        mend = wait_for("the new rules", lambda: [m for line, m in findings(ready.rolag("check")[1])
                                                  if "password authentication failed" in line])
        assert "password" in mend[0]
        for command in ("init", "check", "capture"):
            code, out, err = ready.rolag(command)
            assert code == (FINDING if command == "check" else PERMANENT)
            assert "wr0ng-secret" not in out + err and "password authentication failed" in out + err
        monkeypatch.setenv("PGPASSWORD", "right")
        assert "FAIL" not in ready.ok("check")
    finally:
        with open(path, "w", encoding="utf-8") as f:
            f.write(rules)
        ready.core.reload()


def test_check_finds_folders_and_disk(ready):
    os.makedirs(os.path.join(ready.state, "spool"), mode=0o700)
    os.chmod(ready.state, 0o755)
    assert the_finding(ready, "has mode 0755").startswith("chmod 0750 ")
    os.chmod(ready.state, 0o750)
    os.chmod(os.path.join(ready.state, "spool"), 0o750)
    mend = the_finding(ready, "spool has mode 0750")
    subprocess.run(mend.split(), check=True)
    assert "FAIL" not in ready.ok("check")
    ready.configure("spool: {reserve: 1 TB}")
    assert "spool.reserve" in the_finding(ready, "less than spool.reserve (1 TB): capture would not read")


# ---- servers that are not set up ------------------------------------------------------------------

def test_check_finds_server_settings_and_its_mends_work(warehouse):
    settings = {"wal_level": "replica", "max_slot_wal_keep_size": "-1", "max_replication_slots": 1, "max_wal_senders": 1}
    with Cluster("plain", settings=settings) as cluster:
        site = Site(cluster, warehouse)
        try:
            code, line = site.fails("init")
            assert code == PERMANENT and "wal_level is replica; mend: ALTER SYSTEM SET wal_level = logical" in line
            code, out, _ = site.rolag("check")
            found = dict(findings(out))
            wanted = ("wal_level = replica", "max_replication_slots = 1", "max_wal_senders = 1",
                      "max_slot_wal_keep_size = -1")
            for text in wanted:
                mends = [mend for line, mend in found.items() if text in line]
                assert len(mends) == 1, f"{text}: {out}"
                do_sql(site.core_sql, mends[0].split("(what")[0])
            cluster.restart()
            site.ok("init")
            out = site.ok("check")
            assert "FAIL" not in out and "wal_level = logical" in out
            site.core_sql("alter system set max_replication_slots = 2")
            cluster.restart()
            line, mend = next((line, mend) for line, mend in findings(site.ok("check"), "warn")
                              if "replication_slots = 2" in line)
            assert "sync.workers (2) begin one by one" in line
            do_sql(site.core_sql, mend)
            cluster.restart()
            assert "warn" not in site.ok("check")
            site.core_sql("alter system set max_slot_wal_keep_size = -1")
            cluster.reload()
            wait_for("the setting", lambda: site.rolag("check")[0] == FINDING)
            with open(site.config, encoding="utf-8") as f:
                text = f.read().replace("capture: {", "capture: {allow_unlimited_wal: true, ")
            with open(site.config, "w", encoding="utf-8") as f:
                f.write(text)
            assert "accepted by capture.allow_unlimited_wal" in site.ok("check")
        finally:
            site.release()


def test_check_and_init_find_a_lost_slot(warehouse):
    with Cluster("short", settings={"max_slot_wal_keep_size": "1MB", "wal_keep_size": 0, "max_wal_size": "32MB",
                                    "min_wal_size": "32MB"}) as cluster:
        site = Site(cluster, warehouse)
        site.configure("capture: {on_lost_slot: stop}\nspool: {reserve: 0}")
        try:
            site.ok("init")
            code, out, _ = site.rolag("check")
            assert code == OK and "is not above capture.wal_budget" in out

            def lost():
                for _ in range(3):
                    site.core_sql("select pg_logical_emit_message(true, 'x', repeat('x', 1000000))")
                    site.core_sql("select pg_switch_wal()")
                site.core_sql("checkpoint")
                return site.core_sql("select wal_status from pg_replication_slots") == "lost"
            wait_for("the slot to be lost", lost)
            mend = the_finding(site, "the core has thrown away WAL that it needed")
            assert f"pg_drop_replication_slot('{site.slot}')" in mend
            code, line = site.fails("init")
            assert code == PERMANENT and "has lost its WAL" in line
        finally:
            site.release()


# ---- config and the command line --------------------------------------------------------------------

@pytest.mark.parametrize("text, says", [
    ("spool: {qouta: 2 GB}", ":7:9: unknown key spool.qouta; did you mean spool.quota?"),
    ("spool:\n  quota: 2 GiB", ":8:10: spool.quota is not a size such as 64 MB"),
    ("apply: {batch_rows: 0}", ":7:21: apply.batch_rows is out of range: 1 to 1000000"),
    ("apply: {unknown_event: quarantene}", ":7:24: apply.unknown_event is none of the values allowed: quarantine fail ignore"),
    ("spool: [1", ":8:"),
    ("core:\n  connect:", ":7:1:"),
])
def test_a_bad_configuration_is_one_line_with_file_and_line(untouched, text, says):
    site = untouched
    site.configure(text)
    for command in (["config", "--check"], ["init"], ["run"], ["status"], ["capture"], ["apply"]):
        code, line = site.fails(*command)
        assert code == PERMANENT and line.startswith(f"rolag {command[0]}: {site.config}{says}"), line
    code, out, _ = site.rolag("check")
    assert code == FINDING and f"FAIL  configuration: {site.config}{says}" in out
    site.configure()


def test_a_bad_definition_is_one_line_with_file_and_line(site):
    site.write_definitions([TABLES[0]], ROLLUP.replace("type: int8", "type: int9"))
    path = os.path.join(site.dir, "rollups", TABLES[0] + ".yaml")
    code, line = site.fails("init")
    assert code == PERMANENT and re.search(re.escape(path) + r":9:\d+: ", line), line
    code, out, _ = site.rolag("check")
    assert code == FINDING and f"FAIL  definitions: {path}:9:" in out
    assert "ok    warehouse: connected" in out


def test_missing_file_and_missing_keys(site):
    site.config = os.path.join(site.dir, "nothing.yaml")
    code, line = site.fails("config", "--check")
    assert code == PERMANENT and "nothing.yaml" in line
    with open(site.config, "w", encoding="utf-8") as f:
        f.write("core:\n  connect:\nwarehouse: {connect: x}\nrollups: {path: x}\n")
    code, line = site.fails("config", "--check")
    assert code == PERMANENT and "the key core.connect is missing" in line


def test_config_prints_the_shipped_file_and_environment_names_one(site, monkeypatch):
    with open(os.path.join(ROOT, "deploy", "rolag.yaml"), encoding="utf-8") as f:
        assert site.ok("config") == f.read()
    monkeypatch.setenv("ROLAG_CONFIG", site.config)
    done = subprocess.run([ROLAG, "config", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == OK and done.stdout == f"{site.config}: ok (pipeline {site.name})\n"


def test_help_of_every_command():
    done = subprocess.run([ROLAG, "--help"], capture_output=True, text=True, check=True)
    commands = re.findall(r"^  (\w+) +\S", done.stdout.split("Options:")[0], re.M)
    assert {"run", "init", "check", "status", "story", "capture", "apply", "config", "version"} <= set(commands)
    for command in commands:
        text = subprocess.run([ROLAG, command, "--help"], capture_output=True, text=True, check=True).stdout
        assert text.startswith(f"Usage: rolag {command}") and "--config FILE" in text
    done = subprocess.run([ROLAG, "statsu"], capture_output=True, text=True, check=False)
    assert done.returncode == USAGE and "unknown command statsu" in done.stderr


# ---- run, status, story -----------------------------------------------------------------------------

def children(pid):
    """{role: pid} of the children of a process."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8") as f:
                stat = f.read().rpartition(")")[2].split()
            with open(f"/proc/{entry}/cmdline", encoding="utf-8") as f:
                words = f.read().split("\0")
        except OSError:
            continue
        if int(stat[1]) == pid:     # before its exec a child looks like its parent
            found["zombie" if stat[0] == "Z" else "/".join(words[1:2])] = int(entry)
    return found


def gone(pids):
    return not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def run_live(site):
    """`rolag run`, live."""
    site.ok("init")
    process = site.start("run")
    wait_for("both roles to be live", lambda: process.poll() is not None or site.rolag("status")[1].startswith("Healthy"))
    assert process.poll() is None, site.log()
    return process


@pytest.fixture
def running(site):
    """A site with `rolag run`, live."""
    return site, run_live(site)


ENTITY = "7f2c1a60-0000-4000-8000-000000000001"


def test_run_restarts_a_killed_child_and_nothing_is_lost(running):
    site, process = running
    for role in ("capture", "apply", "capture", "apply"):
        before = children(process.pid)
        os.kill(before[role], signal.SIGKILL)
        after = wait_for(f"{role} to come back", lambda: (lambda now: now if set(now) == {"capture", "apply"}
                                                          and now[role] != before[role] else None)(children(process.pid)))
        other = "apply" if role == "capture" else "capture"
        assert after[other] == before[other]
    assert site.log().count("killed; starting again") == 4
    site.insert(ENTITY, 1, event='{"amount": 5}')
    wait_for("the row", lambda: site.warehouse_sql("select amount from raw.core_a_events_rollup") == "5")


def test_run_passes_signals_on_and_stops_with_its_children(running):
    site, process = running
    pids = children(process.pid)
    process.send_signal(signal.SIGUSR2)
    process.send_signal(signal.SIGHUP)
    wait_for("both children to say", lambda: all(
        re.search(rf"info {role}: {said}", site.log()) for role in pids for said in ("status", "configuration")))
    assert process.poll() is None
    process.terminate()
    assert process.wait(TIMEOUT) == OK
    assert gone(pids.values())
    code, out, _ = site.rolag("status")
    assert code == FINDING and out.startswith("Stopped: capture is not running (pid ")


def test_run_killed_takes_its_children_along(running):
    site, process = running
    pids = children(process.pid).values()
    process.kill()
    process.wait()
    wait_for("the children to end", lambda: gone(pids))


def test_a_second_term_stops_at_once(running):
    site, process = running
    pids = children(process.pid)
    os.kill(pids["apply"], signal.SIGSTOP)      # it cannot stop by itself
    process.terminate()
    wait_for("capture to end", lambda: gone([pids["capture"]]))
    time.sleep(0.3)
    assert process.poll() is None               # still waiting for apply
    process.terminate()
    assert process.wait(TIMEOUT) == OK
    wait_for("apply to be gone", lambda: gone(pids.values()))


def test_run_ends_with_100_when_a_role_ended_for_good(site):
    site.configure("spool: {reserve: 0}\napply: {unknown_event: fail}")
    process = run_live(site)
    pids = children(process.pid)
    site.insert(ENTITY, 1, kind="never_heard_of", event='{"secret": "4711-0815"}')
    assert process.wait(TIMEOUT) == PERMANENT
    assert gone(pids.values())
    log = site.log()
    assert "ended for good" in log and "never_heard_of" in log and ENTITY in log
    assert "4711-0815" not in log
    code, out, _ = site.rolag("status")
    assert code == FINDING and out.startswith("Stopped: ") and ENTITY in out.splitlines()[0]


def test_status_of_a_healthy_pipeline(running):
    site, _ = running
    site.insert(ENTITY, 1, event='{"amount": 5}')
    wait_for("the row", lambda: site.warehouse_sql("select count(*) from raw.core_a_events_rollup") == "1")
    wait_for("its count", lambda: "  events     1 applied" in site.rolag("status")[1])
    out = wait_for("health", lambda: (lambda r: r[1] if r[0] == OK else None)(site.rolag("status")))
    assert re.match(r"Healthy( and idle)?: [\d.]+ (ms|s) behind, core keeps [\d.]+ \w+ of WAL for us "
                    r"\(budget 4 GB\)\.\n", out), out
    assert re.search(r"^  applied +[0-9A-F]+/[0-9A-F]+ ", out, re.M)
    assert "p50 " in out and "  events     1 applied" in out
    status = wait_for("health", lambda: (lambda r: json.loads(r[1]) if r[0] == OK else None)(
        site.rolag("status", "--json")))
    assert status["healthy"] is True and status["state"] in ("live", "idle")
    assert set(status) == {"healthy", "state", "sentence", "lag_seconds", "lag_bytes", "slot_lost_in_seconds",
                           "visible_p50_seconds", "visible_p99_seconds", "visible_buckets", "roles", "metrics", "runbook"}
    assert status["roles"]["apply"]["life"] == "running" and status["metrics"]["apply_events_total"] == 1
    assert status["lag_seconds"] < TIMEOUT and status["visible_p50_seconds"] > 0


def test_status_watch_redraws_and_leaves_the_terminal_as_it_was(running):
    site, _ = running
    parent, child = os.openpty()
    before = subprocess.run(["stty", "-g"], stdin=child, capture_output=True, text=True, check=True).stdout
    process = subprocess.Popen([ROLAG, "--config", site.config, "status", "--watch"], stdin=child, stdout=child,
                               stderr=child, env={**os.environ, "TERM": "xterm"})
    seen = b""
    while seen.count(b"Healthy") < 2:
        ready, _, _ = select.select([parent], [], [], TIMEOUT)
        assert ready, seen
        seen += os.read(parent, 65536)
    os.write(parent, b"q")
    while process.poll() is None:
        if select.select([parent], [], [], 0.1)[0]:
            seen += os.read(parent, 65536)
    assert process.returncode == OK
    while select.select([parent], [], [], 0.1)[0]:
        seen += os.read(parent, 65536)
    assert seen.startswith(b"\x1b[?1049h\x1b[?25l") and seen.endswith(b"\x1b[?25h\x1b[?1049l")
    assert subprocess.run(["stty", "-g"], stdin=child, capture_output=True, text=True, check=True).stdout == before
    os.close(parent)
    os.close(child)


def test_trap_31_status_with_both_databases_down_and_with_everything_dead():
    with Cluster("core2") as core2, Cluster("warehouse2") as warehouse2:
        site = Site(core2, warehouse2)
        try:
            site.ok("init")
            process = site.start("run")
            wait_for("health", lambda: site.rolag("status")[1].startswith("Healthy"))
            core2.stop("immediate")
            warehouse2.stop("immediate")

            def stalled():
                code, out, _ = site.rolag("status")
                return out if code == FINDING and "cannot connect to the core" in out \
                    and "cannot connect to the warehouse" in out else None
            out = wait_for("the stall", stalled)
            assert re.match(r"Stalled: no connection to core and warehouse, \S+ \w+ behind\. Last word of capture, ", out)
            assert process.poll() is None       # it goes on trying
            process.kill()
            process.wait()
            out = wait_for("the roles' end", lambda: (lambda r: r[1] if r[1].startswith("Stopped: capture is not "
                           "running (pid ") and "apply is not running (pid " in r[1] else None)(site.rolag("status")))
            assert json.loads(site.rolag("status", "--json")[1])["state"] == "stopped"
        finally:
            site.release()


def test_trap_31_a_core_that_sends_nothing_is_a_stall_and_not_idle(running):
    """The walsender stands still: nothing fails, nothing comes. That must not look like an idle bank."""
    site, _ = running
    pid = int(wait_for("the walsender", lambda: site.core_sql(
        f"select active_pid from pg_replication_slots where slot_name = '{site.slot}'")))
    os.kill(pid, signal.SIGSTOP)
    try:
        out = wait_for("the stall", lambda: (lambda r: r[1] if r[0] == FINDING else None)(site.rolag("status")))
        assert out.startswith("Stalled: no heartbeat comes through the core, "), out
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for("health", lambda: site.rolag("status")[1].startswith("Healthy"))


def test_story_tells_one_entity_over_all_rollups_without_values_unless_asked(running):
    site, _ = running
    site.insert(ENTITY, 1, event='{"amount": 5}')
    site.insert(ENTITY, 2, "changed", '{"amount": 7, "note": "4711-0815"}')
    site.insert(ENTITY, 1, event='{"amount": 9}', table=TABLES[1])
    wait_for("the rows", lambda: site.warehouse_sql("select (select count(*) from raw.core_a_events_rollup) + "
                                                    "(select count(*) from raw.core_b_events_rollup)") == "3")
    out = site.ok("story", ENTITY)
    rows = [line.split() for line in out.splitlines()[1:]]
    assert [(r[2], r[3], r[4]) for r in rows] == [("core_a_events_rollup", "1", "initialized"),
                                                  ("core_b_events_rollup", "1", "initialized"),
                                                  ("core_a_events_rollup", "2", "changed")]
    assert [r[0] + " " + r[1] for r in rows] == ["2026-01-01 10:00:00.000000", "2026-01-01 10:00:00.000000",
                                                 "2026-01-02 10:00:00.000000"]
    assert "4711-" not in out and "amount" not in out
    out = site.ok("story", ENTITY, "--values")
    assert "      amount = 5\n" in out and "      amount = 7\n      note = 4711-0815\n" in out
    assert "note = NULL" not in out             # it was NULL and stays NULL
    code, out, _ = site.rolag("story", ENTITY.replace("1", "2"))
    assert code == FINDING and "No landed rollup has an entity" in out
    code, line = site.fails("story", "1' or '1'='1")
    assert code == USAGE and "must be a uuid" in line
