#!/usr/bin/python3
"""Makes the states that test_upgrade.py begins with, by real old programs (README.md here says how and why).

  make.py FOLDER      FOLDER has the programs v1, v2, …: one for each version of the control schema

One core, and beside it a pipeline up<n> of each program, all at once: its warehouse, spool and state when it was stopped.
"""
import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
sys.path[:0] = [os.path.join(ROOT, *p) for p in (("deploy", "demo"), ("tests", "system"))]

import psycopg  # noqa: E402

from cluster import Cluster  # noqa: E402
from companion import DEFINITIONS  # noqa: E402
from pipeline import CORE_SQL, PACK, ROLE, Bank, lsn, wait_for, write_payment, write_role  # noqa: E402

LAND = [ROLE, "core_customer_events_rollup", "core_deposit_events_rollup"]
POISONED = "core_payment_events_rollup"     # of version 2 and later: one payment waits in quarantine
CHANGED = "core_deposit_events_rollup"      # of version 3 and later: by definition 2
# No autovacuum: transaction ids of the core's catalog must be those that the test's core gets.
CORE = {"max_wal_senders": 40, "max_replication_slots": 40, "autovacuum": "off"}
IDENTITY = "select relname || ' ' || oid || ' ' || xmin from pg_class where oid >= 16384 and relkind = 'r' and " \
    "relname <> 'advance' union all select pubname || ' ' || oid || ' ' || xmin from pg_publication union all " \
    "select prrelid::regclass || ' ' || oid || ' ' || xmin from pg_publication_rel order by 1"
BUILD = "create table :\"schema\".roles as select id, name, version from raw.core_role_events_rollup_latest;\n" \
    "create table :\"schema\".day as select coalesce(nullif(:'as_of', ''), '2000-01-01')::date as day;\n"


def land(version):
    return LAND + ([POISONED] if version >= 2 else [])


def write_pack(folder, changed):
    """The definitions; `changed`: of CHANGED the second."""
    shutil.copytree(PACK, folder, dirs_exist_ok=True)
    path = os.path.join(folder, CHANGED + ".yaml")
    with open(path, encoding="utf-8") as f:
        text = f.read()
    if changed:
        text = text.replace("definition: 1", "definition: 2").replace("amount: {type: int8", "amount: {type: numeric")
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def settings(version, state, pack, core, warehouse):
    """The configuration of up<version>, in the keys that its program knows."""
    made = {"pipeline": f"up{version}", "state_dir": state, "core": {"connect": core}, "warehouse": {"connect": warehouse},
            "rollups": {"path": pack, "land": land(version)}, "spool": {"reserve": "0", "retain": "1 d"},
            "capture": {"heartbeat_interval": "60 s"}}
    if version >= 2:
        made["mirrors"] = {"tables": ["core_public_ids"]}
    if version >= 5:
        made["reports"] = {"definitions": os.path.join(state, "reports.yaml"), "build":
                           f"psql -X -q -v ON_ERROR_STOP=1 -v schema=$ROLAG_SCHEMA -v as_of=$ROLAG_AS_OF -f {state}/build.sql "
                           f"\"{warehouse}\""}
    return made


def write_reports(state):
    for name, text in (("reports.yaml", DEFINITIONS), ("build.sql", BUILD)):
        with open(os.path.join(state, name), "w", encoding="utf-8") as f:
            f.write(text)


class Old:
    """One old program with its pipeline."""

    def __init__(self, version, program, folder, core, warehouse):
        self.version, self.program, self.warehouse = version, os.path.abspath(program), warehouse
        self.state = os.path.join(folder, f"up{version}")
        self.pack = os.path.join(folder, f"pack{version}")
        os.makedirs(self.state)
        write_pack(self.pack, False)
        write_reports(self.state)
        warehouse.psql(f"create database up{version}", database="postgres")
        self.conninfo = warehouse.conninfo(f"up{version}").replace("'", "")
        self.config = os.path.join(folder, f"up{version}.yaml")
        with open(self.config, "w", encoding="utf-8") as f:
            json.dump(settings(version, self.state, self.pack, core.conninfo().replace("'", ""), self.conninfo), f)
        self.processes = {}

    def run(self, *words):
        done = subprocess.run([self.program, *words, "--config", self.config], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"v{self.version} {words}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self, role):
        with open(os.path.join(self.state, role + ".log"), "ab") as log:
            self.processes[role] = subprocess.Popen([self.program, role, "--config", self.config], stdout=log, stderr=log)

    def stop(self, *roles):
        for role in roles or list(self.processes):
            process = self.processes.pop(role)
            process.send_signal(signal.SIGTERM)
            if process.wait(60) != 0:
                raise RuntimeError(f"v{self.version}: {role} ended with {process.returncode}")

    def query(self, sql):
        with psycopg.connect(self.conninfo, autocommit=True) as conn:
            return conn.execute(sql).fetchall()

    def applied(self):
        return lsn(self.query("select coalesce(max(applied_lsn), '0/0')::text from rolag.ledger")[0][0])


def main(programs):
    with tempfile.TemporaryDirectory() as folder, Cluster("core", settings=CORE) as core, \
            Cluster("warehouse") as warehouse:
        versions = sorted(int(n[1:]) for n in os.listdir(programs) if n[:1] == "v" and n[1:].isdigit())
        ddl = [open(CORE_SQL, encoding="utf-8").read()]
        core.psql(file=CORE_SQL)
        olds = [Old(v, os.path.join(programs, f"v{v}"), folder, core, warehouse) for v in versions]
        for old in olds:        # as the DBA would: the same statements give the same OIDs when the test runs them
            ddl.append(old.run("init", "--print-sql", "core"))
            path = os.path.join(folder, "ddl.sql")
            with open(path, "w", encoding="utf-8") as f:
                f.write(ddl[-1])
            core.psql(file=path)
        identity = core.psql(IDENTITY)
        for _ in range(8):      # so that a core which is made from nothing is behind all of this
            core.psql("create table if not exists advance (a int); drop table advance; select pg_switch_wal()")
        for old in olds:
            old.run("init")
            old.start("capture")
            old.start("apply")
        wait_for("all to be live", lambda: all(old.query("select count(*) from rolag.relation where state <> 'live'") == [(0,)]
                                               for old in olds))
        bank = Bank(core.conninfo(), seed=81, scale=0.3)
        bank.live(200)
        with psycopg.connect(core.conninfo()) as conn:
            for n in range(1, 6):
                write_role(conn, n, 1)
                write_role(conn, n, 2)
            write_payment(conn, 1)
            write_payment(conn, 2, amount="much")
            conn.execute("insert into core_public_ids select 'x' || n, gen_random_uuid(), now() from generate_series(1, 9) n")
            conn.execute("update core_public_ids set target_id = gen_random_uuid() where id in ('x1', 'x2')")
            conn.execute("delete from core_public_ids where id in ('x3', 'x4')")
        mark = lsn(core.psql("select pg_logical_emit_message(true, 'test.mark', '')"))
        for old in olds:
            wait_for(f"v{old.version}", lambda old=old: old.applied() >= mark and old.query(
                "select count(*) from rolag.relation where state <> 'live'") == [(0,)])
            if old.version >= 3:
                write_pack(old.pack, True)
                old.stop("apply")
                old.start("apply")
                wait_for(f"the rebuild of v{old.version}", lambda old=old: old.query(
                    "select state from rolag.rebuild where state = 'done'"))
            if old.version >= 5:
                old.start("reports")
                old.run("report", "run", "--accept-quarantine", "--wait")
                old.stop("reports")
        # Behind the last transaction: what the slot would send again is nothing.
        core.psql("create table advance (a int); insert into advance select generate_series(1, 2000); drop table advance; "
                  "select pg_create_restore_point('end')")
        end = lsn(core.psql("select pg_current_wal_lsn()"))

        def confirmed(old):
            return core.psql(f"select confirmed_flush_lsn from pg_replication_slots where slot_name = 'rolag_up{old.version}'")

        def sends_nothing(old):
            names = f"up{old.version}_inserts" + (f",up{old.version}_changes" if old.version >= 2 else "")
            return core.psql(f"select count(*) from pg_logical_slot_peek_binary_changes('rolag_up{old.version}', null, null, "
                             f"'proto_version', '1', 'publication_names', '{names}', 'messages', 'true')") == "0"
        for old in olds:
            until = time.monotonic() + 180
            while True:
                wait_for(f"the slot of v{old.version}", lambda old=old: lsn(confirmed(old)) >= end, 120)
                old.stop()
                if sends_nothing(old):
                    break
                if time.monotonic() > until:
                    raise RuntimeError("heartbeats come all the time")
                old.start("capture")
                old.start("apply")
        keep(core, warehouse, olds, ddl, identity, confirmed)


def write_gz(path, text):
    with open(path, "wb") as out, gzip.GzipFile(fileobj=out, mode="wb", filename="", mtime=0) as f:
        f.write(text.encode())


def keep(core, warehouse, olds, ddl, identity, confirmed):
    def dump(cluster, *words):
        return subprocess.run([cluster.bin + "/pg_dump", "--no-owner", *words], capture_output=True, text=True, check=True).stdout
    write_gz(os.path.join(HERE, "core.sql.gz"), "\n".join(ddl))
    write_gz(os.path.join(HERE, "core_data.sql.gz"), dump(core, "--data-only", "--disable-triggers", core.conninfo()))
    meta = {"system_id": core.psql("select system_identifier from pg_control_system()"), "end": core.psql(
        "select pg_current_wal_lsn()"), "identity": hashlib.sha256(identity.encode()).hexdigest(), "pipelines": {}}
    for old in olds:
        folder = os.path.join(HERE, f"v{old.version}")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        write_gz(os.path.join(folder, "warehouse.sql.gz"), dump(warehouse, old.conninfo))
        with open(os.path.join(folder, "state.tar.gz"), "wb") as out, \
                gzip.GzipFile(fileobj=out, mode="wb", filename="", mtime=0) as packed, \
                tarfile.open(fileobj=packed, mode="w") as tar:
            for name in sorted(["capture.counters", "apply.counters", *(f"spool/{n}" for n in os.listdir(
                    os.path.join(old.state, "spool")) if n != "lock")]):
                tar.add(os.path.join(old.state, name), name)
        meta["pipelines"][f"up{old.version}"] = {"confirmed": confirmed(old), "applied": old.query(
            "select max(applied_lsn)::text from rolag.ledger")[0][0]}
    with open(os.path.join(HERE, "meta.json"), "w", encoding="utf-8") as f:
        json.dump(meta, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
