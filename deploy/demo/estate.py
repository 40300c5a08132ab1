"""What a demo runs: two clusters, rolag between them, and the bank's load, all in one folder.

An Estate leaves nothing: close() stops every process and removes the folder, whatever state things are in.
"""
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import psycopg

from cluster import Cluster

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PACK = os.path.join(ROOT, "transforms", "lana")
DEFINITIONS = os.path.join(PACK, "rollups")
PIPELINE = "lana"
# The plain tables that the pack's models read, as in deploy/lana.yaml.
APPEND_ONLY = ["cala_balance_history", "cala_cumulative_effective_balances", "core_chart_node_events"]
MIRRORS = ["cala_accounts", "cala_account_sets", "cala_account_set_member_accounts",
           "cala_account_set_member_account_sets", "core_public_ids", "inbox_events", *APPEND_ONLY]

# fsync as in earnest, so that the measured times are; the rest keeps a core from filling its disk.
CORE = {"wal_level": "logical", "max_slot_wal_keep_size": "2GB", "fsync": "on", "max_wal_size": "1GB"}
WAREHOUSE = {"wal_level": "replica", "max_slot_wal_keep_size": "-1", "fsync": "on", "max_wal_size": "1GB"}


@contextlib.contextmanager
def undisturbed():
    """A signal waits until the block is over: between a child's start and its name nobody would end it."""
    came = []
    before = {n: signal.signal(n, lambda number, _: came.append(number))
              for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            os.kill(os.getpid(), came[0])


class Failed(Exception):
    """The demo cannot go on; the text says why, `log` names the file that may say more."""

    def __init__(self, text, log=None):
        super().__init__(text)
        self.log = log


class Load:
    """demo_load.py as a child: its newest report, and its end."""

    def __init__(self, conninfo, history, rate, log, reconnect, expect):
        with open(log, "ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, os.path.join(HERE, "demo_load.py"), "--connect", conninfo, "--history", str(history),
                 "--rate", str(rate), "--reconnect", str(reconnect), "--expect", str(expect)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, text=True, start_new_session=True)
        self.log, self.report, self.samples = log, {}, []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            report = json.loads(line)
            self.samples = [*self.samples, (report["at"], report["transactions"])][-600:]
            self.report = report

    def phase(self):
        return self.report.get("phase", "starting")

    def order(self):
        """The next part: one by one; hold; up to a deposit that must be reported."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def rate(self, seconds=2.0):
        """Commits a second of late."""
        samples = self.samples
        if len(samples) < 2:
            return 0.0
        until, total = samples[-1]
        since, before = next(s for s in samples if s[0] >= until - seconds)
        return (total - before) / (until - since) if until > since else 0.0

    def finish(self, timeout=20):
        """Ends it behind a whole transaction; its last report."""
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failed("the load generator does not end", self.log) from None
        self.reader.join(5)
        if code:
            raise Failed(f"the load generator failed (exit code {code})", self.log)
        return self.report


def private(path, flags):
    return os.open(path, flags, 0o600)


class Estate:
    """Built step by step; each step raises Failed with the reason."""

    def __init__(self, folder, rolag):
        self.folder, self.rolag = folder, rolag
        self.core = self.warehouse = self.load = self.run = None
        self.config, self.log, self.reports = (os.path.join(folder, n) for n in ("rolag.yaml", "rolag.log", "reports"))
        self.port = None            # of the companion's page; None: it serves none
        os.chmod(folder, 0o711)     # PostgreSQL may run as another user, and must get through

    # steps ------------------------------------------------------------------------------------
    def start_clusters(self):
        """Both servers, and the bank's tables in the core; their sockets are <folder>/core and …/warehouse."""
        self.core = Cluster("core", settings=CORE, parent=self.folder)
        self.warehouse = Cluster("warehouse", settings=WAREHOUSE, parent=self.folder, database="warehouse")
        both = (self.core, self.warehouse)
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(cluster.create) for cluster in both]:
                done.result()
        for name, cluster in zip(("core", "warehouse"), both):
            os.symlink(cluster.socket, os.path.join(self.folder, name))
            os.symlink(cluster.log, os.path.join(self.folder, name + ".log"))
        self.core.psql(file=os.path.join(HERE, "core.sql"))
        self.warehouse.psql(file=os.path.join(PACK, "ext.sql"))

    def start_load(self, history, rate, reconnect=0, expect=0):
        """The bank, which writes its history at once and then waits for order()."""
        with undisturbed():
            self.load = Load(self.core.conninfo(), history, rate, os.path.join(self.folder, "load.log"),
                             reconnect, expect)

    def write_config(self):
        lines = [
            "# The demo's rolag. `rolag config` prints every key.",
            f"pipeline: {PIPELINE}",
            f"state_dir: {self.folder}/state",
            "core:", f"  connect: {json.dumps(self.core.conninfo())}",
            "warehouse:", f"  connect: {json.dumps(self.warehouse.conninfo())}",
            "rollups:", f"  path: {json.dumps(DEFINITIONS)}",
            "mirrors:", f"  tables: {json.dumps(MIRRORS)}", f"  append_only: {json.dumps(APPEND_ONLY)}",
            "models:", f"  path: {json.dumps(PACK)}",
            "reports:", f"  definitions: {json.dumps(os.path.join(PACK, 'reports.yaml'))}",
            f"  target: {json.dumps(self.reports)}",
            "capture:", "  wal_budget: 1 GB",       # below the core's max_slot_wal_keep_size
            "spool:", "  quota: 1 GB", "  reserve: 0",
        ]
        if self.port:
            lines += ["http:", f"  listen: \"{self.port}\"", "  tokens: tokens"]
        with open(self.config, "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")

    def serve_page(self):
        """To be called before init: the companion will serve its page here, for whoever has the token that is returned."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        _, out, _ = self.command("report", "token", "demo", "--scope", "reports:read,reports:run")
        token, *_, line = out.split("\n\n")
        with open(os.path.join(self.folder, "tokens"), "w", encoding="utf-8", opener=private) as tokens:
            tokens.write(line)
        return token

    def command(self, *words, timeout=60):
        """Runs rolag to its end: (exit code, standard output, error output)."""
        done = subprocess.run([self.rolag, "--config", self.config, *words], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=timeout, check=False)
        return done.returncode, done.stdout, done.stderr

    def init(self):
        self.write_config()
        code, out, err = self.command("init")
        if code:
            raise Failed(f"rolag init: exit code {code}\n{out}{err}".rstrip())
        return out

    def start_rolag(self):
        with open(self.log, "ab") as log, undisturbed():
            self.run = subprocess.Popen([self.rolag, "--config", self.config, "run"], stdin=subprocess.DEVNULL,
                                        stdout=log, stderr=log, start_new_session=True)

    # looking ----------------------------------------------------------------------------------
    def check(self):
        """Raises when something that should run does not."""
        if self.run and self.run.poll() is not None:
            raise Failed(f"rolag run has ended (exit code {self.run.returncode})", self.log)
        if self.load and self.load.phase() != "done" and self.load.process.poll() not in (None, 0):
            raise Failed(f"the load generator has ended (exit code {self.load.process.returncode})", self.load.log)

    def wait(self, done, what, seconds, each=None):
        """Until done() is true; `each` is called at every look."""
        deadline, told = time.monotonic() + seconds, time.monotonic()
        while not done():
            self.check()
            if time.monotonic() > deadline:
                raise Failed(f"{what}: not within {seconds} s", self.log)
            if each and time.monotonic() - told > 0.5:
                each()
                told = time.monotonic()
            time.sleep(0.05)

    def status(self):
        """What `rolag status --json` says; {} when it says nothing."""
        try:
            return json.loads(self.command("status", "--json")[1])
        except (ValueError, subprocess.TimeoutExpired):
            return {}

    def fence(self):
        """A mark in the core's WAL behind all that was committed; passed() tells when the warehouse is there."""
        mark = str(uuid.uuid4())
        with psycopg.connect(self.core.conninfo(), autocommit=True) as core:
            core.execute("select pg_logical_emit_message(true, 'rolag.fence', %s)", (mark,))
        return mark

    def passed(self, mark, warehouse):
        return warehouse.execute("select from rolag.fence_seen where run_id = %s", (mark,)).rowcount == 1

    # the end ----------------------------------------------------------------------------------
    def close(self):
        for process in [self.load and self.load.process, self.run]:
            if process:
                end(process)
        for cluster in (self.core, self.warehouse):
            if cluster:
                cluster.destroy()
        shutil.rmtree(self.folder, ignore_errors=True)


def end(process):
    """Asks a child to end; insists; waits."""
    for ask, seconds in ((signal.SIGTERM, 10), (signal.SIGTERM, 5), (signal.SIGKILL, 10)):
        if process.poll() is None:
            process.send_signal(ask)
        try:
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            pass


def label(table, short=False):
    """core_credit_facility_events → credit_facility (short: facility)."""
    name = table.removeprefix("core_").removesuffix("_events")
    if short:
        name = name.replace("credit_facility", "facility").replace("interest_", "").replace("payment_a", "a")
    return name
