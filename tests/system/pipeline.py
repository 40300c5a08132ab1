"""A pipeline under test: a core database, a warehouse database, and rolag's processes between them.

Nothing waits by sleep alone: what is waited for is the ledger's position against the core's, a counter,
or the end of a process. Each process logs into a file; on a failure the tails of all of them are shown
(conftest.py).
"""
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time

import psycopg

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [p for p in (os.path.join(ROOT, "deploy", "demo"), os.path.join(ROOT, "tests", "oracle"))
                if p not in sys.path]

import lana  # noqa: E402
import lana_load  # noqa: E402
import oracle  # noqa: E402
from lana import write  # noqa: E402
from program import ROLAG  # noqa: E402

CORE_SQL = os.path.join(ROOT, "deploy", "demo", "core.sql")
LOADER = os.path.join(ROOT, "deploy", "demo", "lana_load.py")
PACK = os.path.join(ROOT, "transforms", "lana", "rollups")
TIMEOUT = 120       # of anything waited for; a machine under load must not matter
PERMANENT, TEMPORARY = 100, 111

CORE_TEMPLATE, JUDGE_TEMPLATE = "core_template", "judge_template"


def lsn(text):
    """A pg_lsn as a number."""
    high, low = text.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def wait_for(what, condition, timeout=TIMEOUT, pause=0.05):
    """The first true value of condition(); fails naming what was waited for."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {timeout} s for {what}"
        time.sleep(pause)


def prepare_core(cluster):
    """Makes the template that core databases are copied from; again is harmless."""
    if CORE_TEMPLATE not in databases(cluster):
        cluster.psql(f"create database {CORE_TEMPLATE}", database="postgres")
        cluster.psql(file=CORE_SQL, database=CORE_TEMPLATE)


def prepare_judge(cluster):
    """The same for the oracle's databases."""
    if JUDGE_TEMPLATE not in databases(cluster):
        cluster.psql(f"create database {JUDGE_TEMPLATE}", database="postgres")
        oracle.Oracle(cluster.conninfo(JUDGE_TEMPLATE)).close()


def databases(cluster):
    return cluster.psql("select datname from pg_database", database="postgres").splitlines()


# ---- counters: the file that a role maps (proto/base/metrics.h) ------------------------------------

def counter_names():
    """(histograms too) in the order of the enum; their Prometheus names."""
    with open(os.path.join(ROOT, "proto", "base", "metrics.def"), encoding="utf-8") as f:
        return re.findall(r'^METRIC\(\w+,\s*MET_\w+,\s*"(\w+)"', f.read(), re.MULTILINE)


def read_counters(path):
    """{name: value} with state, note and pid; {} while the file is not there or not whole."""
    names = counter_names()
    try:
        with open(path, "rb") as f:
            data = f.read()
    except FileNotFoundError:
        return {}
    head = struct.Struct("<QIIqq16s24s512sq")
    if len(data) < head.size + 8 * len(names):
        return {}
    magic, count, pid, _, _, role, state, note, _ = head.unpack_from(data)
    if magic == 0:      # a role that starts writes it last
        return {}
    assert count == len(names), "metrics.def and the program differ: build first"

    def text(b):
        return b.split(b"\0", 1)[0].decode()

    values = struct.unpack_from(f"<{count}Q", data, head.size)
    return {"pid": pid, "role": text(role), "state": text(state), "note": text(note), **dict(zip(names, values))}


# ---- a process -------------------------------------------------------------------------------------

class Process:
    """One rolag (or any other) process with its output in a file."""

    def __init__(self, name, command, log, env=None):
        self.name, self.command, self.log = name, command, log
        self.begin = os.path.getsize(log) if os.path.exists(log) else 0
        with open(log, "ab") as out:
            self.popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                          env={**os.environ, **(env or {})})
        self.pid = self.popen.pid

    def running(self):
        return self.popen.poll() is None

    def signal(self, number):
        self.popen.send_signal(number)

    def wait(self, timeout=TIMEOUT):
        """Its exit code, once it has ended by itself."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout} s") from None

    def stop(self, timeout=TIMEOUT):
        """SIGTERM; its exit code."""
        if self.running():
            self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill9(self):
        if self.running():
            self.signal(signal.SIGKILL)
        self.popen.wait()

    def text(self):
        """What this process (not its predecessors) wrote."""
        with open(self.log, encoding="utf-8", errors="replace") as f:
            f.seek(self.begin)
            return f.read()

    def lines(self, *words):
        """Its lines that have all of these words."""
        return [line for line in self.text().splitlines() if all(w in line for w in words)]


class Load(Process):
    """lana_load.py in the background; `summary()` waits for its end."""

    def __init__(self, log, conninfo, *arguments):
        super().__init__("load", [sys.executable, LOADER, "--connect", conninfo, *map(str, arguments)], log)

    def summary(self, timeout=TIMEOUT * 3):
        code = self.wait(timeout)
        assert code == 0, f"the load ended with {code}: {self.text()[-2000:]}"
        return json.loads(self.text().splitlines()[-1])


class Bank:
    """One seed's stream of transactions, written into a core a stretch at a time, each in its own way."""

    def __init__(self, conninfo, **world):
        self.conninfo = conninfo
        self.world = lana_load.make_world(**world)
        self.transactions = lana.transactions(self.world)
        self.to_json = write.encoder(self.world)
        self.events, self.types = 0, set()

    def live(self, events, rate=None, connections=1):
        """Each transaction one core transaction."""
        steady = write.Steady(self.conninfo, rate, connections, batch=1 if rate else 16)
        return self.count(steady.run(self.transactions, self.to_json, lambda: False, events))

    def bulk(self, events, group=4000):
        """`group` of the bank's transactions to a core transaction."""
        return self.count(write.bulk(self.conninfo, self.transactions, self.to_json, lambda: False, events, group))

    def count(self, summary):
        self.events += summary.events
        self.types |= summary.types
        return summary


def workers(p):
    """Pids of apply's workers."""
    try:
        with open(f"/proc/{p.apply.pid}/task/{p.apply.pid}/children", encoding="ascii") as f:
            return [int(pid) for pid in f.read().split()]
    except FileNotFoundError:
        return []


class Writing(threading.Thread):
    """Goes on writing a bank's transactions while something else happens."""

    def __init__(self, bank, rate):
        super().__init__(daemon=True)
        self.bank, self.rate, self.done, self.error = bank, rate, threading.Event(), None

    def run(self):
        try:
            while not self.done.is_set():
                self.bank.live(self.rate // 4, rate=self.rate, connections=2)
        except (psycopg.Error, RuntimeError) as error:
            self.error = error

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()
        assert self.error is None, self.error


# ---- the pipeline ----------------------------------------------------------------------------------

class Pipeline:
    """Databases, configuration and processes under one name.

    core, warehouse, judge: clusters; each gets a database of this name (two with suffixes where
    core and judge or warehouse and judge are one cluster). `settings` overrides keys of the
    configuration: {"apply": {"batch_rows": 10}}.
    """

    def __init__(self, name, folder, core, warehouse, judge, settings=None, pack=PACK, land=None, rules=None):
        self.name, self.folder, self.pack = name, str(folder), str(pack)
        self.core_cluster, self.warehouse_cluster, self.judge_cluster = core, warehouse, judge
        self.core_database, self.warehouse_database = name + "_core", name + "_warehouse"
        self.judge_database = name + "_judge"
        self.rules = rules
        self.state_dir = os.path.join(self.folder, "state")
        self.config = os.path.join(self.folder, "rolag.yaml")
        self.core_conninfo = core.conninfo(self.core_database)
        self.warehouse_conninfo = warehouse.conninfo(self.warehouse_database)
        self.capture = self.apply = None
        self.env = {}       # of the roles, over ours
        self.processes = []
        self.settings = {
            "pipeline": name, "state_dir": self.state_dir, "core": {"connect": self.core_conninfo},
            "warehouse": {"connect": self.warehouse_conninfo}, "rollups": {"path": self.pack},
            "spool": {"reserve": "0"}, "capture": {"heartbeat_interval": "200 ms"}, "log": {"level": "info"},
        }
        if land:
            self.settings["rollups"]["land"] = list(land)
        self.configure(settings or {})

    # making -----------------------------------------------------------------------------------
    def create(self):
        """The databases: the core has its tables, the warehouse nothing."""
        prepare_core(self.core_cluster)
        prepare_judge(self.judge_cluster)
        self.core_cluster.psql(f"create database {self.core_database} template {CORE_TEMPLATE}", database="postgres")
        self.warehouse_cluster.psql(f"create database {self.warehouse_database}", database="postgres")
        self.judge_cluster.psql(f"create database {self.judge_database} template {JUDGE_TEMPLATE}",
                                database="postgres")
        return self

    def configure(self, changes):
        """Changes keys and writes the file."""
        for key, value in changes.items():
            if isinstance(value, dict):
                self.settings.setdefault(key, {}).update(value)
            else:
                self.settings[key] = value
        self.write_config(self.config, self.settings)

    @staticmethod
    def write_config(path, settings):
        with open(path + ".new", "w", encoding="utf-8") as f:
            json.dump(settings, f, indent=1)     # which is YAML
        os.replace(path + ".new", path)

    def run(self, *arguments, config=None):
        """A command that ends: (exit code, stdout, stderr)."""
        done = subprocess.run([ROLAG, *arguments, "--config", config or self.config], capture_output=True, text=True,
                              timeout=TIMEOUT, check=False)
        return done.returncode, done.stdout, done.stderr

    def init(self):
        code, out, err = self.run("init")
        assert code == 0, out + err
        return out

    # processes --------------------------------------------------------------------------------
    def start_role(self, role, config=None, log=None):
        process = Process(role, [ROLAG, role, "--config", config or self.config],
                          log or os.path.join(self.folder, role + ".log"), self.env)
        self.processes.append(process)
        return process

    def start_capture(self):
        self.capture = self.start_role("capture")
        return self.capture

    def start_apply(self):
        self.apply = self.start_role("apply")
        return self.apply

    def start(self):
        """Both roles; returns when every table follows the stream."""
        self.start_capture()
        self.start_apply()
        self.wait_live()
        return self

    def wait_live(self):
        def live():
            self.check_alive()
            return self.warehouse("select count(*) from rolag.relation where pipeline = %s and state <> 'live' and "
                                  "beside is null", self.name) == [(0,)]
        wait_for("the first load to end", live)

    def stop(self):
        """Both roles end by SIGTERM, with 0."""
        for process in (self.capture, self.apply):
            if process is not None and process.running():
                process.signal(signal.SIGTERM)
        for process in (self.capture, self.apply):
            if process is not None:
                assert process.wait() == 0, f"{process.name} ended with {process.popen.returncode} at SIGTERM"

    def load(self, *arguments):
        """Writes into the core; the summary."""
        return self.load_in_background(*arguments).summary()

    def load_in_background(self, *arguments):
        process = Load(os.path.join(self.folder, "load.log"), self.core_conninfo, *arguments)
        self.processes.append(process)
        return process

    def release(self):
        """Ends every process, at once; drops slot and databases where their servers still run."""
        for process in self.processes:
            process.kill9()
        self.drop(self.core_cluster, self.core_database)
        self.drop(self.warehouse_cluster, self.warehouse_database)
        self.drop(self.judge_cluster, self.judge_database)
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def drop(cluster, database):
        if cluster.process is None or cluster.process.poll() is not None:
            return
        with psycopg.connect(cluster.conninfo("postgres"), autocommit=True) as conn:
            for pid, slot in conn.execute("select active_pid, slot_name from pg_replication_slots where database = %s",
                                          (database,)).fetchall():
                if pid is not None:
                    conn.execute("select pg_terminate_backend(%s, 10000)", (pid,))
                conn.execute("select pg_drop_replication_slot(%s)", (slot,))
            conn.execute(f"drop database if exists {database} with (force)")

    # looking ----------------------------------------------------------------------------------
    def core(self, sql, *parameters):
        return self.query(self.core_conninfo, sql, parameters)

    def writing(self):
        """A connection to the core whose block is one transaction."""
        return psycopg.connect(self.core_conninfo, application_name="test")

    def warehouse(self, sql, *parameters):
        return self.query(self.warehouse_conninfo, sql, parameters)

    @staticmethod
    def query(conninfo, sql, parameters=()):
        """Runs one statement in a transaction of its own; its rows, [] when it has none."""
        with psycopg.connect(conninfo, autocommit=True, application_name="test") as conn:
            cursor = conn.execute(sql, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def applied(self):
        """The ledger's position as a number."""
        rows = self.warehouse("select max(applied_lsn)::text from rolag.ledger where pipeline = %s "
                              "having count(*) > 0", self.name)
        return lsn(rows[0][0]) if rows else 0

    def slot(self):
        """(confirmed_flush_lsn as a number, active)."""
        rows = self.core("select confirmed_flush_lsn::text, active from pg_replication_slots where slot_name = %s",
                         "rolag_" + self.name)
        return lsn(rows[0][0]), rows[0][1]

    def counters(self, role="apply"):
        return read_counters(os.path.join(self.state_dir, role + ".counters"))

    def spool_segments(self):
        folder = os.path.join(self.state_dir, "spool")
        return sorted(n for n in os.listdir(folder) if n.endswith(".seg")) if os.path.isdir(folder) else []

    def mark(self):
        """A position behind everything that is committed in the core now, and that the stream will pass."""
        return lsn(self.core("select pg_logical_emit_message(true, 'test.mark', '')::text")[0][0])

    def wait_applied(self, target=None, timeout=TIMEOUT):
        """Until the warehouse holds everything that the core has committed by now."""
        target = self.mark() if target is None else target

        def reached():
            self.check_alive()
            return self.applied() >= target and self.counted(target) and not self.syncing()
        wait_for(f"the ledger to reach {target >> 32:X}/{target & 0xffffffff:X}", reached, timeout)
        return target

    def syncing(self):
        """The tables that do not follow the stream yet, which flows for the others."""
        return [name for name, in self.warehouse("select name from rolag.relation where pipeline = %s and "
                                                 "state = 'syncing'", self.name)]

    def counted(self, target):
        """The applier has heard of the COMMIT that it sent: its counters, the position last, have it."""
        counters = self.counters()
        return self.apply is None or counters.get("pid") != self.apply.pid or \
            counters["apply_applied_lsn_bytes"] >= target

    def running(self):
        return self.capture.running() and self.apply.running()

    def check_alive(self):
        for process in (self.capture, self.apply):
            assert process is None or process.running(), \
                f"{process.name} ended with {process.popen.returncode}: {process.text()[-1500:]}"

    # judging ----------------------------------------------------------------------------------
    def findings(self, latest=True):
        """What the oracle says of the warehouse after it took in the core's events."""
        judge = oracle.Oracle(self.judge_cluster.conninfo(self.judge_database), self.rules, self.landed())
        try:
            judge.copy_events(self.core_conninfo)
            return judge.compare(self.warehouse_conninfo, latest=latest)
        finally:
            judge.close()

    def judge_anew(self, rollup):
        """The oracle's tables of a rollup, by the rules as they are now."""
        judge = oracle.connect(self.judge_cluster.conninfo(self.judge_database))
        judge.execute(f"drop table oracle.{rollup}, oracle.{self.rules[rollup]['events']} cascade")
        judge.execute(f"drop function oracle.fold_{rollup}()")
        judge.close()

    def landed(self):
        return self.settings["rollups"].get("land") or None

    def assert_equal(self):
        found = self.findings()
        assert found == [], f"{len(found)} findings, first: {found[:5]}"

    def events(self):
        """How many events the core holds in the tables that are landed."""
        rules = oracle.read_rules()
        tables = [rule["events"] for name, rule in rules.items() if self.landed() is None or name in self.landed()]
        return self.core("select " + " + ".join(f"(select count(*) from {t})" for t in tables))[0][0]

    def rows(self):
        """How many rows the warehouse's history tables hold."""
        names = [n for (n,) in self.warehouse("select name from rolag.relation where pipeline = %s and kind = 'rollup'",
                                              self.name)]
        return self.warehouse("select " + " + ".join(f"(select count(*) from raw.{n})" for n in names))[0][0]

    def logs(self, lines=40):
        """The tails of every log, for a failure's report."""
        parts = []
        for name in sorted(os.listdir(self.folder) if os.path.isdir(self.folder) else []):
            if not name.endswith(".log"):
                continue
            with open(os.path.join(self.folder, name), encoding="utf-8", errors="replace") as f:
                parts.append(f"--- {self.name}/{name}\n" + "".join(f.readlines()[-lines:]))
        for cluster in {self.core_cluster, self.warehouse_cluster}:
            parts.append(f"--- {cluster.name} (PostgreSQL)\n" + cluster.log_tail(15))
        for role in ("capture", "apply"):
            found = {k: v for k, v in self.counters(role).items() if v not in (0, "")}
            parts.append(f"--- {self.name} counters of {role}: {found}\n")
        return "\n".join(parts)


def trigger_sql(rollup):
    """The core folds by triggers as the bank's does, made by the oracle's rules."""
    sql = oracle.ddl(rollup, oracle.read_rules()[rollup]).replace(f"{oracle.SCHEMA}.", "public.")
    begin = sql.index("create unlogged table", sql.index("create unlogged table") + 1)  # the events are there
    return sql[begin:].replace("create unlogged table", "create table")


# ---- events by hand ---------------------------------------------------------------------------------

def entity(number):
    """The id of the test's n-th entity."""
    return f"00000000-0000-4000-8000-{number:012d}"


# Rollups for tests that need a load, but not all 33 tables: the busiest, all reducers among them.
SOME = [f"core_{n}_events_rollup" for n in ("approval_process", "chart_node", "credit_facility", "customer",
                                            "deposit_account", "interest_accrual_cycle", "obligation", "prospect",
                                            "role", "withdrawal")]
ROLE = "core_role_events_rollup"
PAYMENT = "core_payment_events_rollup"


def write_role(conn, number, sequence, payload=None, type_=None):
    """One event of a role. By default a valid one; a role's index row comes with its first event."""
    id_ = entity(number)
    if sequence == 1:
        conn.execute("insert into core_roles values (%s, %s, now()) on conflict do nothing", (id_, id_))
    if type_ is None:
        type_ = "initialized" if sequence == 1 else "permission_set_added"
    if payload is None:
        payload = {"name": f"role {number}", "permission_set_ids": []} if sequence == 1 else \
            {"permission_set_id": entity(1_000_000 + sequence)}
    conn.execute("insert into core_role_events values (%s, %s, %s, %s, null, now())",
                 (id_, sequence, type_, json.dumps(payload)))


def write_roles(conn, first, last):
    """The first event of roles first … last, in one statement."""
    conn.execute("""
        with made as (
            insert into core_roles
            select ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'role ' || n, now()
            from generate_series(%s::int, %s::int) n returning id, name)
        insert into core_role_events
        select id, 1, 'initialized', jsonb_build_object('name', name, 'permission_set_ids', '[]'::jsonb), null, now()
        from made""", (first, last))


def write_payment(conn, number, **payload):
    """A payment's only event; keys given replace the valid ones."""
    id_ = entity(number)
    whole = {"amount": 100, "beneficiary_id": id_, "effective": "2024-01-01", "ledger_tx_id": id_,
             "facility_payment_holding_account_id": id_, "facility_uncovered_outstanding_account_id": id_,
             "payment_source_account_id": id_, **payload}
    conn.execute("insert into core_payments values (%s, %s, now())", (id_, id_))
    conn.execute("insert into core_payment_events values (%s, 1, 'initialized', %s, null, now())",
                 (id_, json.dumps({k: v for k, v in whole.items() if v is not ...})))


# ---- things that tests do on the side --------------------------------------------------------------

class Watcher(threading.Thread):
    """Calls look(connection) again and again on a connection of its own; keeps what it found wrong."""

    def __init__(self, conninfo, look, pause=0.01):
        super().__init__(daemon=True)
        self.conninfo, self.look, self.pause = conninfo, look, pause
        self.wrong, self.looks, self.error = [], 0, None
        self.done = threading.Event()

    def run(self):
        try:
            with psycopg.connect(self.conninfo, autocommit=True, application_name="test") as conn:
                while not self.done.is_set():
                    found = self.look(conn)
                    self.looks += 1
                    if found:
                        self.wrong.append(found)
                    self.done.wait(self.pause)
        except psycopg.Error as error:
            self.error = error

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join(30)
        assert self.error is None, self.error
