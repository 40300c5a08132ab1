"""The runbook's procedures, followed to the letter.

Each page's blocks run in their order, unchanged, as those whom their first lines name, while the bank goes on writing; what
came of it is looked at by other means than rolag's. One bank for all of them: a page begins with what the one before it left,
or anew where that failed.
rolag's machine is tests/system/machine_shim.py, where the package's paths are folders of the test.
"""
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from types import SimpleNamespace

import psycopg
import pytest

from cluster import Cluster
from machine_shim import Machine
from mirrors import difference
from pipeline import CORE_SQL, PACK, ROOT, TIMEOUT, Bank, Writing, lsn, oracle, wait_for
from program import ROLAG
from readme import blocks, free_port, is_shown, shown
from standby import make_standby

RUNBOOK = os.path.join("deploy", "RUNBOOK.md")
LANDED = [f"core_{n}_events_rollup" for n in ("customer", "deposit", "withdrawal", "obligation")]
MIRRORED = ["core_public_ids"]
PASSWORD = "not a good one"
ROOT_THERE = "rolag's machine, as root"
CONFIG = """\
pipeline: lana
state_dir: /var/lib/rolag
core:
  connect: "host=127.0.0.1 port={core} dbname=lana user=rolag"
warehouse:
  connect: "host=127.0.0.1,127.0.0.1 port={warehouse},{standby} dbname=warehouse user=rolag target_session_attrs=primary"
rollups:
  path: /etc/rolag/rollups
  land: [{land}]
mirrors:
  tables: [core_public_ids]
capture:
  heartbeat_interval: 200 ms
spool:
  reserve: 0
  segment_size: 64 kB
"""


class Bureau:
    """A bank, its warehouse, and rolag between them, as the DBAs and the package set them up."""

    def __init__(self, folder):
        self.folder, self.clusters, self.machines = folder, [], []
        self.old, self.whole, self.standby_port = None, True, free_port()
        try:
            self.begin()
        except BaseException:
            self.close()
            raise

    def begin(self):
        """To the first proof that all is well."""
        self.core = self.server("core", "lana", {"wal_keep_size": "0", "max_wal_size": "64MB", "min_wal_size": "32MB",
                                                 "max_slot_wal_keep_size": "8GB"})
        self.warehouse = self.server("warehouse", "warehouse", {})
        self.core.psql("create database judge", database="postgres")
        self.core.psql(file=CORE_SQL)
        self.bank = Bank(self.core.conninfo(), seed=71)
        self.bank.bulk(3_000)
        for cluster in (self.core, self.warehouse):
            cluster.psql(f"create role rolag login {'replication' if cluster is self.core else ''} password '{PASSWORD}'",
                         database="postgres")
        self.machine = self.make_machine("machine")
        self.configure()
        for side, cluster in (("core", self.core), ("warehouse", self.warehouse)):
            code, sql = self.machine.run(f"rolag init --print-sql {side}")
            assert code == 0, sql
            cluster.psql(sql + ("" if side == "core" else "; alter schema rolag owner to rolag; alter schema raw owner to rolag"))
        code, out = self.machine.run("rolag init && systemctl start rolag.target && "
                                     "until rolag status | grep '^Healthy'; do sleep 0.2; done")
        assert code == 0, out
        self.assert_true()

    def server(self, name, database, settings):
        cluster = Cluster(name, free_port(), settings={"listen_addresses": "127.0.0.1", **settings}, database=database)
        self.clusters.append(cluster)
        cluster.create()
        with open(os.path.join(cluster.data, "pg_hba.conf"), "w", encoding="ascii") as f:
            f.write("local all all trust\nlocal replication all trust\nhost all rolag 127.0.0.1/32 scram-sha-256\n")
        cluster.reload()
        return cluster

    def make_machine(self, name):
        machine = Machine(os.path.join(self.folder, name), {"SECONDS_LONG": "3"})
        self.machines.append(machine)
        return machine

    def configure(self):
        m = self.machine
        shutil.copytree(PACK, os.path.join(m.etc, "rollups"))
        with open(m.config, "w", encoding="utf-8") as f:
            f.write(m.here(CONFIG.format(core=self.core.port, warehouse=self.warehouse.port, standby=self.standby_port,
                                         land=", ".join(LANDED))))
        m.write_passfile(f"*:*:*:rolag:{PASSWORD}\n")

    def change(self, was, now):
        """Of the configuration."""
        with open(self.machine.config, encoding="utf-8") as f:
            text = f.read()
        assert was in text
        with open(self.machine.config, "w", encoding="utf-8") as f:
            f.write(text.replace(was, now))

    def psql(self, cluster, text, *words):
        """As typed into psql, with what it prints."""
        done = subprocess.run([cluster.bin + "/psql", "-X", "-v", "ON_ERROR_STOP=1", *words, "-f", "-", cluster.conninfo()],
                              input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT,
                              check=False)
        return done.returncode, done.stdout

    def at_server(self, cluster, text):
        """In a shell of the server's user there."""
        env = {**os.environ, "PGHOST": cluster.socket, "PGPORT": str(cluster.port), "PGUSER": "postgres",
               "PATH": f"{cluster.bin}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-ec", text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env,
                              cwd=self.folder, timeout=TIMEOUT, check=False)
        return done.returncode, done.stdout

    # looking, by other means than rolag's -----------------------------------------------------------
    @staticmethod
    def query(cluster, sql):
        with psycopg.connect(cluster.conninfo(), autocommit=True) as conn:
            return conn.execute(sql).fetchall()

    def in_core(self, sql):
        return self.query(self.core, sql)

    def in_warehouse(self, sql):
        return self.query(self.warehouse, sql)

    def ledger(self):
        return lsn(self.in_warehouse("select max(applied_lsn)::text from rolag.ledger")[0][0])

    def caught_up(self):
        """The warehouse has all that the core has committed, and every table follows."""
        mark = self.in_core("select pg_logical_emit_message(true, 'test.mark', '')")[0][0]
        wait_for("the ledger to pass the core's last commit", lambda: self.in_warehouse(
            f"select coalesce(max(applied_lsn), '0/0') >= '{mark}' from rolag.ledger") == [(True,)])
        wait_for("every table to be live", lambda: self.in_warehouse(
            "select count(*) from rolag.relation where state <> 'live' and beside is null") == [(0,)])

    def assert_true(self):
        """The oracle's triggers, and row by row."""
        self.caught_up()
        judge = oracle.Oracle(self.core.conninfo("judge"), None, LANDED)
        try:
            judge.copy_events(self.core.conninfo())
            found = judge.compare(self.warehouse.conninfo())
            assert found == [], f"{len(found)} findings, first: {found[:5]}"
        finally:
            judge.close()
        p = SimpleNamespace(core_conninfo=self.core.conninfo(), warehouse_conninfo=self.warehouse.conninfo())
        assert [difference(p, table) for table in MIRRORED] == [""]

    def syncs(self):
        """How far each table had been synced."""
        return dict(self.in_warehouse("select name, sync_lsn::text from rolag.relation where beside is null"))

    def log(self):
        found = []
        for machine in self.machines:
            for unit in machine.units.values():
                found += [f"--- {unit.name}", *unit.lines()[-15:]]
        return "\n".join(found)

    def close(self):
        for machine in self.machines:
            machine.close()
        for cluster in self.clusters:
            cluster.destroy()


@pytest.fixture(scope="module")
def bureaus():
    """The one in use, if any."""
    made = []
    yield made
    for bureau in made:
        bureau.close()


@pytest.fixture
def bureau(bureaus, tmp_path_factory):
    """That of the test before, or, where that failed, a new one."""
    if bureaus and not bureaus[0].whole:
        bureaus.pop().close()
    if not bureaus:
        bureaus.append(Bureau(str(tmp_path_factory.mktemp("runbook"))))
    return bureaus[0]


class Page:
    """One part of the runbook: its blocks, one after the other."""

    def __init__(self, bureau, heading):
        self.bureau, self.left, self.shown = bureau, blocks(heading, RUNBOOK), shown(heading, RUNBOOK)

    def step(self, who, expect=0, **variables):
        """Runs the next block, which must be theirs; what it printed."""
        language, head, text = self.left.pop(0)
        assert head.startswith(who), f"the next block is of {head}, not of {who}"
        b = self.bureau
        if language == "sql":
            code, out = b.psql(b.core if head.startswith("core") else b.warehouse, text,
                               *(f"-v{k}={v}" for k, v in variables.items()))
        elif "server, as postgres" in head:
            code, out = b.at_server(b.warehouse, text)
        else:
            machine = b.old if head.startswith("the old machine") else b.machine
            code, out = machine.run(f"(set -e\n{text}\n)")
        assert code == expect, f"{head}:\n{text}\nexit code {code}:\n{out}\n{b.log()}"
        return out

    def prints(self, out):
        """What the page says that is printed here is."""
        missing = is_shown(self.shown.pop(0), out)
        assert missing == [], f"not printed: {missing}\n{out}"

    def ends(self):
        assert (self.left, self.shown) == ([], []), "a block that nobody ran"


@contextlib.contextmanager
def following(bureau, heading):
    """A page, while the bank writes: at the end every block was run, and the warehouse is true."""
    page, bureau.whole = Page(bureau, heading), False
    with Writing(bureau.bank, rate=40):
        yield page
    page.ends()
    bureau.assert_true()
    bureau.whole = True


def test_the_look_at_the_end_of_each(bureau):
    with following(bureau, "# Procedures") as page:
        out = page.step(ROOT_THERE)
        assert "Healthy" in out and "FAIL" not in out and "Equal:" in out


# ---- the program ------------------------------------------------------------------------------------

def control_schema(bureau):
    """Its every row."""
    with psycopg.connect(bureau.warehouse.conninfo(), autocommit=True) as conn:
        names = [n for n, in conn.execute("select tablename from pg_tables where schemaname = 'rolag' order by 1")]
        return {n: sorted(r for r, in conn.execute(f"select t::text from rolag.{n} t")) for n in names}


def newer_schema(bureau):
    """What a newer program than ours leaves: another version, a table and a column more."""
    bureau.warehouse.psql("alter table rolag.ledger add column of_eight int; create table rolag.eight (a int);"
                          "insert into rolag.migration (number, program) values (8, 'rolag of tomorrow')")


def test_an_upgrade_and_the_way_back(bureau):
    newer = os.path.join(bureau.folder, "rolag-newer")
    shutil.copy(ROLAG, newer)
    with following(bureau, "## Upgrading rolag") as page:
        assert page.step(ROOT_THERE).startswith("rolag ")
        began = bureau.ledger()
        page.step("the warehouse's server, as postgres")
        bureau.machine.package = newer
        capture = bureau.machine.units["rolag-capture"].process.pid
        out = page.step(ROOT_THERE)
        assert "FAIL" not in out
        for role in ("capture", "apply"):
            pid = bureau.machine.units["rolag-" + role].process.pid
            assert os.readlink(f"/proc/{pid}/exe") == newer and pid != capture
        assert bureau.ledger() > began

    # The newer one had a newer control schema; rows came since the dump, changes of a mirror among them.
    bureau.core.psql("insert into core_public_ids select 'late' || n, gen_random_uuid(), now() from generate_series(1, 50) n;"
                     "update core_public_ids set target_id = gen_random_uuid() where id < 'late2' and id like 'late%';"
                     "delete from core_public_ids where id in ('late5', 'late6')")
    bureau.caught_up()
    bureau.machine.run("systemctl stop rolag-apply")
    newer_schema(bureau)
    before = control_schema(bureau)
    bureau.machine.run("systemctl start rolag-apply")
    wait_for("it to be given up", lambda: bureau.machine.units["rolag-apply"].state() == "failed")
    assert bureau.machine.units["rolag-apply"].failed == 100 and control_schema(bureau) == before
    with following(bureau, "## Going back to the program before") as page:
        page.prints(bureau.machine.run("journalctl -u rolag-apply -n 3")[1])
        page.step(ROOT_THERE)
        page.step("the warehouse's server, as postgres")
        assert bureau.ledger() < lsn(next(iter(before["ledger"][-1:]))[1:].split(",")[1])
        bureau.machine.package = ROLAG
        out = page.step(ROOT_THERE)
        assert "Equal:" in out
        assert bureau.in_warehouse("select max(number) from rolag.migration") == [(7,)]


# ---- the machine, the spool and the slot -------------------------------------------------------------

def test_it_moves_to_another_machine(bureau):
    """With its spool; then a third one takes over with nothing but the configuration."""
    def hand_over(*names):
        """The archives, with the paths of the new machine: /var/lib/rolag is another folder there."""
        bureau.old, bureau.machine = bureau.machine, bureau.make_machine(f"machine{len(bureau.machines)}")
        for name in names:
            shutil.copy(os.path.join(bureau.old.home, name), bureau.machine.home)
        folder = tempfile.mkdtemp(dir=bureau.folder)
        subprocess.run(["bash", "-ec", f"tar -xpf {bureau.machine.home}/etc.tar; "
                        f"sed -i 's|{bureau.old.folder}/|{bureau.machine.folder}/|' rolag.yaml; "
                        f"tar -cf {bureau.machine.home}/etc.tar ."], cwd=folder, check=True)

    with following(bureau, "## Moving rolag to another machine") as page:
        was = bureau.syncs()
        bureau.old = bureau.machine
        page.step("the old machine, as root")
        hand_over("etc.tar", "state.tar")
        page.step("the new machine, as root")
        assert bureau.syncs() == was
        bureau.machine.run("systemctl stop rolag.target; tar -C /etc/rolag -cf etc.tar .")
        hand_over("etc.tar")
        page.step("the new machine, as root")
        assert bureau.syncs() == was, "nothing was read anew"
    # An old one that is started by mistake reads the slot, or writes, while the other does: no harm.
    stale = bureau.machines[0].units["rolag-apply"]
    mine = bureau.machine.units["rolag-apply"]
    stale.start()
    wait_for("one of them to stop for good", lambda: "failed" in (stale.state(), mine.state()))
    stale.stop()
    if mine.state() == "failed":
        assert mine.failed == 100
        bureau.machine.run("systemctl restart rolag-apply")
    bureau.assert_true()


def test_the_spool_goes_to_another_disk(bureau):
    m = bureau.machine
    with following(bureau, "## Moving the spool") as page:
        was = bureau.syncs()
        page.step(ROOT_THERE)
        assert not os.path.exists(os.path.join(m.state, "spool"))
        new = os.path.join(m.srv, "rolag", "spool")
        assert os.stat(new).st_mode & 0o777 == 0o700
        wait_for("segments there", lambda: [n for n in os.listdir(new) if n.endswith(".seg")])
        assert bureau.syncs() == was, "nothing was read from the core"
    with open(os.path.join(m.systemd, "rolag-apply.service.d", "spool.conf"), "w", encoding="utf-8"):
        m.run("systemctl daemon-reload")        # without its right: the unit does not start
        assert m.run("systemctl restart rolag-apply")[0] == 1
    with open(os.path.join(m.systemd, "rolag-apply.service.d", "spool.conf"), "w", encoding="utf-8") as f:
        f.write(m.here("[Service]\nReadWritePaths=/srv/rolag\n"))
    assert m.run("systemctl daemon-reload; systemctl start rolag-apply")[0] == 0


def drop_slot(bureau):
    bureau.machine.run("systemctl stop rolag-capture")
    bureau.core.psql("select pg_drop_replication_slot('rolag_lana')")


def invalidate_slot(bureau):
    """What a slow disk and a small max_slot_wal_keep_size do."""
    bureau.machine.run("systemctl stop rolag-capture")
    bureau.core.psql("alter system set max_slot_wal_keep_size = '1MB'")
    bureau.core.psql("select pg_reload_conf()")

    def lost():
        bureau.core.psql("insert into core_public_ids select 'w' || gen_random_uuid(), gen_random_uuid(), now() from "
                         "generate_series(1, 10); select pg_switch_wal()")
        bureau.core.psql("checkpoint")
        return bureau.in_core("select wal_status from pg_replication_slots where slot_name = 'rolag_lana'") == [("lost",)]
    wait_for("the slot to be lost", lost)
    bureau.core.psql("alter system set max_slot_wal_keep_size = '8GB'")
    bureau.core.psql("select pg_reload_conf()")


@pytest.mark.parametrize("lose", [drop_slot, invalidate_slot])
def test_a_slot_is_lost(bureau, lose):
    with following(bureau, "## After the slot was lost") as page:
        was = bureau.syncs()
        lose(bureau)
        bureau.core.psql("insert into core_public_ids values ('unseen', gen_random_uuid(), now()) on conflict do nothing;"
                         "delete from core_public_ids where id = 'unseen'")
        held = bureau.in_core("select count(*) from core_deposit_events")
        wait_for("events that no slot has", lambda: bureau.in_core("select count(*) from core_deposit_events") > held)
        bureau.machine.run("systemctl start rolag-capture")
        wait_for("a slot", lambda: bureau.in_core(
            "select wal_status from pg_replication_slots where slot_name = 'rolag_lana'") == [("reserved",)])
        assert "reserved" in page.step("core, as a superuser")
        wait_for("apply to meet the gap", lambda: [x for x in bureau.machine.units["rolag-apply"].lines() if "gap of the spool" in x])
        out = page.step(ROOT_THERE)
        assert "gap" in out and all(name in out for name in LANDED)
        out = page.step(ROOT_THERE)
        assert "Healthy" in out and "Equal:" in out
        now = bureau.syncs()
        assert [n for n in was if now[n] == was[n]] == [], "each was read anew"


# ---- the databases -----------------------------------------------------------------------------------

def promote_without_the_newest(bureau, port):
    """An asynchronous standby of the warehouse that was behind takes its place; the old one's last position."""
    standby = make_standby(bureau.warehouse, port)
    standby.database = bureau.warehouse.database
    bureau.clusters.append(standby)
    standby.configure({"listen_addresses": "127.0.0.1"})
    standby.start()
    target = bureau.in_warehouse("select pg_current_wal_lsn()::text")[0][0]
    wait_for("the standby", lambda: bureau.query(standby, f"select pg_last_wal_replay_lsn() >= '{target}'") == [(True,)])
    standby.stop()
    behind = bureau.ledger()
    bureau.core.psql("update core_public_ids set target_id = gen_random_uuid() where id in (select id from core_public_ids "
                     "order by id limit 20)")
    wait_for("what it will lack", lambda: bureau.ledger() > behind + 20_000)
    return standby, behind


def told(bureau):
    """What the core was told to forget."""
    return lsn(bureau.in_core("select confirmed_flush_lsn::text from pg_replication_slots")[0][0])


@pytest.mark.parametrize("kept", [True, False])
def test_the_warehouse_fails_over_to_a_standby_that_was_behind(bureau, kept):
    """Once the spool has what it lacks, once the core was told to forget that and the spool has let go of it."""
    m = bureau.machine
    bureau.change("spool:\n", f"spool:\n  retain: {'10 min' if kept else '0 s'}\n")
    m.run("systemctl restart rolag.target")
    bureau.caught_up()
    with following(bureau, "## When the warehouse fails over") as page:
        was = bureau.syncs()
        old = bureau.warehouse
        standby, behind = promote_without_the_newest(bureau, bureau.standby_port)
        wait_for("the core to be told", lambda: told(bureau) > behind)
        if not kept:    # a new generation begins at what is confirmed, and what was before it goes
            m.run("systemctl restart rolag-capture")
            wait_for("the spool to have let go of it", lambda: spool_begins(m) > behind)
        lost = bureau.ledger()
        def said(words):
            return sum(words in line for line in m.units["rolag-apply"].lines())
        came, gaps = said("writing to the warehouse"), said("gap of the spool")
        old.kill9()
        standby.start()
        standby.psql("select pg_promote()", database="postgres")
        bureau.warehouse = standby
        assert bureau.ledger() <= behind < lost
        wait_for("apply to be there", lambda: said("writing to the warehouse") > came and (kept or said("gap of the spool") > gaps))
        out = page.step(ROOT_THERE)
        assert "writing to the warehouse" in out and "Healthy" in out and "Equal:" in out
        assert said("gap of the spool") == gaps + (not kept) == out.count("gap of the spool"), out
        wait_for("each table to follow", lambda: bureau.in_warehouse(
            "select count(*) from rolag.relation where state <> 'live'") == [(0,)])
        anew = {n for n, at in bureau.syncs().items() if at != was[n]}
        assert anew == (set() if kept else set(was)), "read from the core"
    bureau.change(f"  retain: {'10 min' if kept else '0 s'}\n", "")
    old.destroy()
    bureau.clusters.remove(old)
    bureau.standby_port = old.port


def spool_begins(machine):
    """The first position that the spool has."""
    code, out = machine.run("rolag spool ls")
    assert code == 0, out
    return min(int(name[9:25], 16) for name in re.findall(r"\b[0-9A-F]{8}-[0-9A-F]{16}\b", out))


def test_the_warehouse_is_restored_from_an_older_backup(bureau):
    code, out = bureau.at_server(bureau.warehouse, "pg_dump -Fc -f warehouse.dump warehouse")
    assert code == 0, out
    held = bureau.ledger()
    bureau.core.psql("delete from core_public_ids where id like 'late1%'")
    bureau.caught_up()
    with following(bureau, "## Restoring the warehouse from a backup") as page:
        wait_for("rows since then", lambda: bureau.ledger() > held + 100_000)
        page.step(ROOT_THERE)
        page.step("the warehouse's server, as postgres")
        assert bureau.ledger() <= held + 10_000
        out = page.step(ROOT_THERE)
        assert "Healthy" in out and "FAIL" not in out and "Equal:" in out


def test_a_definition_is_changed_and_taken_back(bureau):
    m, name = bureau.machine, "core_deposit_events_rollup"
    path = os.path.join(m.etc, "rollups", name + ".yaml")
    with open(path, encoding="utf-8") as f:
        was = f.read()
    with open(os.path.join(m.home, "editor"), "w", encoding="utf-8") as f:
        f.write('#!/bin/sh\nsed -i "s/^definition: 1/definition: 2/; s/amount: {type: int8/amount: {type: numeric/" "$1"\n')
    os.chmod(os.path.join(m.home, "editor"), 0o755)
    m.shell.run(f"export EDITOR={m.home}/editor")

    def type_of_amount():
        return bureau.in_warehouse(f"select atttypid::regtype::text from pg_attribute where attrelid = 'raw.{name}'::regclass "
                                   "and attname = 'amount'")[0][0]
    with following(bureau, "## Changing a definition of a rollup") as page:
        out = page.step(ROOT_THERE)
        assert type_of_amount() == "numeric", out
        assert bureau.in_warehouse(f"select definition from rolag.relation where name = '{name}'") == [(2,)]
        page.step(ROOT_THERE)
        assert type_of_amount() == "bigint"
    with open(path, "w", encoding="utf-8") as f:
        f.write(was)
    m.run("systemctl restart rolag-apply")


# ---- rolag itself --------------------------------------------------------------------------------------

def test_it_pauses(bureau):
    m = bureau.machine
    with following(bureau, "## Pausing it") as page:
        page.prints(page.step(ROOT_THERE))
        stands, end = bureau.ledger(), bureau.in_core("select pg_current_wal_lsn()::text")[0][0]
        wait_for("the spool to go on", lambda: int(m.run("rolag status --json | jq .metrics.capture_received_lsn_bytes")[1])
                 > lsn(end))
        assert bureau.ledger() == stands
        page.step(ROOT_THERE)
        page.step(ROOT_THERE)
        out = page.step("core, as a superuser")
        assert "reserved" in out
        assert bureau.in_core("select active from pg_replication_slots") == [(False,)]
        page.step(ROOT_THERE)


def numbers(text):
    return [float(n) for n in re.findall(r"\d+(?:\.\d+)?", text)]


def test_it_is_sized_by_what_is_measured(bureau):
    m = bureau.machine

    def wal():
        return bureau.in_core("select (pg_current_wal_lsn() - '0/0')::bigint")[0][0]
    with following(bureau, "## Sizing it") as page:
        began, before = time.monotonic(), wal()
        out = page.step("core, as a superuser", seconds=2)
        most = (wal() - before) / 2
        row = next(line for line in out.splitlines() if re.match(r"\s*\d+ *\|", line)).split("|")
        rate = numbers(row[0])[0]
        assert 0 < rate <= most and time.monotonic() - began >= 2
        for cell, seconds in ((row[1], 3600), (row[2], 3600 * 72)):
            with psycopg.connect(bureau.core.conninfo()) as conn:
                assert conn.execute("select abs(pg_size_bytes(%s) - %s::bigint) <= 0.02 * %s::bigint + 3600 * 72", (
                    cell.strip(), int(rate * seconds), int(rate * seconds))).fetchone() == (True,), (cell, rate)
        spool = counters(m)
        out = page.step(ROOT_THERE)
        after = counters(m)
        bytes_, events, quota = (numbers(line.split(":", 1)[1])[0] for line in out.splitlines() if ":" in line)
        assert 0 < bytes_ <= (after[0] - spool[0]) / 3 and 0 < events <= (after[1] - spool[1]) / 3
        assert quota == bytes_ * 3600 * 72 // 1_000_000


def counters(machine):
    code, out = machine.run("rolag status --json")
    assert code in (0, 1)
    found = json.loads(out)["metrics"]
    return found["spool_written_bytes_total"], found["apply_events_total"]


def test_what_an_event_takes_is_about_what_the_page_says(bureau):
    """WAL of the core, the spool, the warehouse: of a bank's events as they come."""
    page, = re.findall(r"(\S+) kB of WAL, (\S+) kB of spool", read_runbook())
    stated = [float(n) * 1000 for n in page]
    bureau.caught_up()
    bureau.core.psql("checkpoint")
    wal, (spool, _) = bureau.in_core("select pg_current_wal_lsn()::text")[0][0], counters(bureau.machine)
    total = "select " + " + ".join(f"(select count(*) from {n.removesuffix('_rollup')})" for n in LANDED)
    landed = bureau.in_core(total)[0][0]
    written = bureau.bank.live(6_000).events
    bureau.caught_up()
    wait_for("the counters", lambda: counters(bureau.machine)[0] > spool)
    used = lsn(bureau.in_core("select pg_current_wal_lsn()::text")[0][0]) - lsn(wal)
    of_wal = used / written
    of_spool = (counters(bureau.machine)[0] - spool) / (bureau.in_core(total)[0][0] - landed)
    assert stated[0] / 3 <= of_wal <= stated[0] and stated[1] / 3 <= of_spool <= stated[1], (of_wal, of_spool)


    per_day, wal_day, spool_day, hours, wal_then, spool_then = (int(n.replace(",", "")) for n in re.search(
        r"([\d,]+) events a day are (\d+) MB of WAL and (\d+) MB of spool a day then, and (\d+) hours\s+(\d+) MB and (\d+) MB",
        read_runbook()).groups())
    assert [per_day * 2 * stated[0] / 1e6, per_day * stated[1] / 1e6] == [wal_day, spool_day]
    assert [wal_day * hours / 24, spool_day * hours / 24] == [wal_then, spool_then]


def read_runbook():
    with open(os.path.join(ROOT, RUNBOOK), encoding="utf-8") as f:
        return f.read()


def test_pages_without_blocks_name_pages_of_the_readme_that_there_are(bureau):
    """Those are run by test_beside.py."""
    del bureau
    for heading in ("## When the core fails over", "## Switching off the core's triggers", "## Taking it out"):
        part = read_runbook().split(heading + "\n", 1)[1].split("\n## ", 1)[0]
        assert "```" not in part
        step, = re.findall(r"[Ss]teps? (\d+)", part)
        page = read_readme().split("## Beside an existing core, step by step\n", 1)[1].split("\n## ", 1)[0]
        assert f"\n**{step}. " in page, heading


def read_readme():
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        return f.read()


def test_every_procedure_is_followed_here_or_in_the_readme():
    """A new part of the runbook has a test that runs it."""
    with open(__file__, encoding="utf-8") as f:
        text = f.read()
    parts = re.findall("^## .*$", read_runbook().split("\n# Procedures\n")[1], re.M)
    assert len(parts) > 10
    assert [p for p in parts if f'"{p}"' not in text] == []
