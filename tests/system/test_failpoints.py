"""Walks every failpoint (proto/base/failpoints.def): the call fails, the connection breaks, the process dies.

One bank is written to all the while. For each point the role that passes it is started with the point set;
the test waits until it fired (a point that is not passed is a failure), then for what must follow: the role
is dead, ended with a code, or goes on by itself. It is started again without, and everything must be there
once: as many rows as events after each case, the oracle's verdict now and then and at the end. At no time
the core was told to forget what the warehouse does not hold.
"""
import os
import random
import re
import signal
import subprocess
import tempfile
import threading
import time
import zlib
from collections import namedtuple

import psycopg
import pytest
from conftest import _pipelines
from pipeline import (PAYMENT, PERMANENT, ROLE, ROOT, TEMPORARY, Pipeline, Process, entity, lsn, wait_for, write_payment,
                      write_role)

FAIL_BINARY = os.environ.get("ROLAG_FAIL_BINARY", os.path.join(ROOT, "build", "fail", "rolag"))
ROWS_MOST = 50_000      # in one pipeline; then the oracle looks at it and another begins
PARTS = 9       # of the walk, each with a rig of its own, which may run side by side
SURVIVES = "survives"

Point = namedtuple("Point", "name can help")
# way: "" as the load comes by; "backlog": apply finds a large transaction waiting (COPY, step by step);
# "again": its connection was lost before, so that it passes the point once more, in one process.
Case = namedtuple("Case", "role point action hit way", defaults=[""])


MODELS = ("build.", "publish.", "drop.")    # no role passes them: test_models.py walks them


def read_points():
    with open(os.path.join(ROOT, "proto", "base", "failpoints.def"), encoding="utf-8") as f:
        return [Point(name, set(can.split(" | ")) - {"0"}, text) for name, can, text in
                re.findall(r'^FAILPOINT_DEF\(\w+, "([^"]+)", ([^,]+), "([^"]+)"\)', f.read(), re.MULTILINE)
                if not name.startswith(MODELS)]


# ---- what to do at which point ------------------------------------------------------------------------

# By the name's first word: the roles that pass it.
ROLES = {"fs": "both", "counters": "both", "segment": "both", "pg": "both", "spool": "capture", "stream": "capture",
         "walsender": "capture", "capture": "capture", "custody": "capture", "mirrored": "capture"}      # others: apply
ONE_ROLE = {"fs.write": "capture", "fs.write_short": "capture", "fs.write_rest": "capture", "fs.sync": "capture",
            "fs.open_dir": "capture", "fs.sync_dir": "capture", "fs.statvfs": "capture", "fs.read_short": "apply",
            "fs.open": "apply", "fs.stat": "apply", "applied.open_read": "capture"}
# Passed again and again while it runs: not always the first time.
BUSY = ("walsender", "gather", "fold", "ledger", "stream.read", "stream.before_status", "stream.after_status",
        "capture.before", "capture.after", "capture.progress", "spool.write", "spool.sync", "writer.step", "writer.begin",
        "writer.rows", "writer.mirror", "writer.before_flush", "writer.after_flush", "writer.result", "writer.finish", "apply.resolved",
        "apply.take_off", "apply.written", "segment.read", "applied.write", "custody.ask", "custody.beat")
ONCE = {"walsender.relation", "segment.read", "segment.read_short", "capture.before_open", "capture.recall", "gather.open", "fs.open"}
# What else must be set so that it is passed.
WITH = {"fs.write_rest": "fs.write_short=short", "spool.truncate": "spool.write=ENOSPC@2",
        "capture.disconnected": "stream.read=disconnect@3", "apply.failed": "writer.step=disconnect@3"}
# Errnos; others: EIO, of opens and the like EMFILE.
ERRNOS = {"fs.write": ["ENOSPC", "EINTR"], "fs.read": ["EIO", "EINTR"], "segment.read": ["EIO", "EINTR"],
          "segment.open": ["EMFILE", "ENOENT"], "applied.write": ["ENOSPC", "EINTR"], "spool.write": ["ENOSPC", "EIO"],
          "spool.first_write": ["ENOSPC"], "spool.create": ["ENOSPC", "EACCES"], "counters.size": ["ENOSPC"],
          "fs.mkdir": ["ENOSPC"], "fs.lock_open": ["EACCES", "EMFILE"], "fs.write_rest": ["ENOSPC"],
          "pg.connect": ["ETIMEDOUT"], "spool.unlink": ["EIO", "ENOENT"], "segment.stat": ["EIO", "ENOENT"]}
EMFILE = ("open", "inotify", "watch", "list", "map")
# How a role ends when the call fails; others: 111.
AFTER_ERRNO = {"fs.statvfs": SURVIVES, "fs.write=EINTR": SURVIVES, "fs.read=EINTR": SURVIVES,
               "segment.read=EINTR": SURVIVES, "applied.write": SURVIVES, "pg.connect": SURVIVES,
               "reader.inotify": SURVIVES, "reader.watch": SURVIVES, "reader.watch_dir": SURVIVES,
               "segment.open=ENOENT": (SURVIVES, TEMPORARY), "segment.stat=ENOENT": SURVIVES,
               "segment.frame": (SURVIVES, PERMANENT),     # damage is for a person to look at
               "spool.unlink=ENOENT": SURVIVES, "fs.lock_open=EACCES": PERMANENT}
# What cannot be: a name that goes away under the only process that takes names away.
NEVER = {("capture", "segment.stat", "ENOENT"), ("capture", "segment.open", "ENOENT")}
LOAD = ("sync.", "landed.before", "landed.locked", "landed.after", "slot.")
# Passed by a child of apply, which takes its death for its own matter.
IN_WORKER = ("sync.", "slot.", "mirror.", "swap.")
NOT_IN_WORKER = {"sync.socket", "sync.fork"}
BULK = ("spool.piece", "spool.roll", "reader.piece", "reader.next_segment", "writer.copy", "writer.mid_copy", "writer.latest",
        "writer.copy_latest")
# Passed where the slot has moved into the newest segment: then a start keeps it, and a trim lets it go.
OLD_SEGMENT = {"spool.unlink", "spool.generation_sync", "spool.trim_sync"}
STOP = {"capture.finish", "stream.stop"}
# Walked by other tests: test_custody.py, test_sync.py, test_rebuild.py, test_mirror_sync.py, test_reports_crashes.py,
# test_reports_http.py, …
ELSEWHERE = ("lost_slot.", "sync.gap", "sync.forked", "rebuild.", "mirror.again", "leaves.", "reports.", "http.")
PROGRESS = {"capture.progress", "gather.progress"}
# An entity must wait for these (and be asked for); a gap must be there for the others.
WAITING, ASKED = {"quarantine.write"}, {"quarantine.begun", "quarantine.before_commit", "quarantine.after_commit"}
REPAIRED = 3_000_000    # roles that have two versions, to lose one


def errnos(name):
    return ERRNOS.get(name) or ["EMFILE" if name.split(".")[1].startswith(EMFILE) else "EIO"]


def make_cases():
    cases = []
    for p in read_points():
        if p.name.startswith(ELSEWHERE):
            continue
        roles = ONE_ROLE.get(p.name) or ROLES.get(p.name.split(".")[0], "apply")
        actions = ["kill"]
        if "FP_ERRNO" in p.can:
            actions += errnos(p.name)
        if "FP_FD" in p.can:
            actions.append("disconnect")
        if "FP_SHORT" in p.can:
            actions.append("short")
        for role in ("capture", "apply") if roles == "both" else (roles,):
            for action in actions:
                if (role, p.name, action) in NEVER:
                    continue
                busy = p.name.startswith(BUSY) and p.name not in ONCE
                hit = 1 + zlib.crc32(f"{p.name} {action}".encode()) % 4 if busy else 1
                cases.append(Case(role, p.name, action, hit))
    return cases


def more_cases():
    """Points that are passed in more than one way."""
    cases = [Case("capture", "capture.before_sync", "delay:300", 2), Case("apply", "ledger.commit_sent", "delay:300", 2)]
    for action in ("kill", "disconnect"):
        for hit in range(1, 9):
            cases.append(Case("apply", "writer.step", action, hit, "backlog"))
        for point in ("ledger.before_insert", "ledger.before_commit", "ledger.commit_sent", "ledger.after_commit"):
            cases.append(Case("apply", point, action, 1, "backlog"))
        for point, hit in (("sync.chunk", 3), ("sync.row", 150), ("sync.take_off", 2)):
            cases.append(Case("apply", point, action, hit))
        for p in read_points():
            if p.name.startswith(("takeover.", "writer.prepar", "apply.connected")) and p.name != "takeover.rivals":
                cases.append(Case("apply", p.name, action, 2, "again"))
            elif p.name.startswith("stream.") and "start" in p.name or p.name == "stream.check_slot":
                cases.append(Case("capture", p.name, action, 2, "again"))
    return cases


CASES = make_cases() + more_cases()


def after(case):
    """How the role ends: a set of exit codes and SURVIVES."""
    if case.action == "kill":
        in_worker = case.point.startswith(IN_WORKER) and case.point not in NOT_IN_WORKER
        return {SURVIVES if in_worker else -signal.SIGKILL}
    if case.action in ("disconnect", "short") or case.action.startswith("delay"):
        return {0} if case.point in STOP else {SURVIVES}
    found = AFTER_ERRNO.get(f"{case.point}={case.action}", AFTER_ERRNO.get(case.point, TEMPORARY))
    return set(found) if isinstance(found, tuple) else {found}


# ---- the bank, which never stops ------------------------------------------------------------------------

class Bank(threading.Thread):
    """Small transactions, of new entities and old ones, all the time but while `quiet` is held."""

    def __init__(self, conninfo):
        super().__init__(daemon=True)
        self.conninfo, self.rng = conninfo, random.Random(7)
        self.quiet, self.ended = threading.Lock(), threading.Event()
        self.versions, self.payments, self.error = {}, 1_000_000, None

    def run(self):
        try:
            with psycopg.connect(self.conninfo, application_name="bank") as conn:
                while not self.ended.wait(0.02):
                    with self.quiet:
                        self.transact(conn)
                        conn.commit()
        except psycopg.Error as error:
            self.error = error

    def transact(self, conn):
        if not self.versions or self.rng.random() < 0.3:
            number = len(self.versions) + 1
            self.versions[number] = 1
            write_role(conn, number, 1)
        for number in self.rng.sample(sorted(self.versions)[-100:], min(2, len(self.versions))):
            self.versions[number] += 1
            write_role(conn, number, self.versions[number])
            conn.execute("update core_roles set name = name || '+' where id = %s", (entity(number),))
        if self.rng.random() < 0.1:
            self.payments += 1
            write_payment(conn, self.payments)


class Rig(Pipeline):
    """A pipeline that is built for failing, with its bank."""

    def __init__(self, name, folder, core, warehouse):
        super().__init__(name, folder, core, warehouse, warehouse, {
            "spool": {"segment_size": "64 kB"}, "capture": {"heartbeat_interval": "400 ms", "sync_interval": "10 ms"},
            "sync": {"chunk": 100}, "mirrors": {"tables": ["core_roles"]}}, land=[ROLE, PAYMENT])
        self.env, self.connections, self.bulks, self.cases, self.gaps = {}, {}, 0, 0, 0
        self.broken = False
        self.create()
        self.init()
        with self.writing() as conn:
            for number in range(250):
                write_payment(conn, 2_000_000 + number)
            for number in range(20):
                write_role(conn, REPAIRED + number, 1)
                write_role(conn, REPAIRED + number, 2)
        self.start()
        self.bank = Bank(self.core_conninfo)
        self.bank.start()

    def start_role(self, role, config=None, log=None):
        process = Process(role, [FAIL_BINARY, role, "--config", config or self.config],
                          log or os.path.join(self.folder, role + ".log"), env=self.env)
        self.processes.append(process)
        return process

    def query(self, conninfo, sql, parameters=()):
        """On a connection that stays: there are thousands of these."""
        conn = self.connections.get(conninfo)
        if conn is None:
            conn = self.connections[conninfo] = psycopg.connect(conninfo, autocommit=True, application_name="test")
        cursor = conn.execute(sql, parameters or None)
        return cursor.fetchall() if cursor.description else []

    def mark(self):
        """As its parent's, but one that the spool takes as a transaction: no progress frame is waited for."""
        return lsn(self.core("select pg_logical_emit_message(true, 'rolag.heartbeat', '')::text")[0][0])

    def role(self, role):
        return self.capture if role == "capture" else self.apply

    def begin(self, role, points=""):
        self.env = {"ROLAG_FAILPOINTS": points}
        process = self.start_capture() if role == "capture" else self.start_apply()
        self.env = {}
        return process

    def bulk(self):
        """A transaction that is written in pieces, fills a segment, and takes COPY."""
        self.bulks += 1
        with self.bank.quiet, self.writing() as conn:
            conn.execute("""
                with made as (
                    insert into core_roles
                    select ('00000000-0000-4001-8000-' || lpad(n::text, 12, '0'))::uuid, n::text, now()
                    from generate_series(%s::int, %s::int) n returning id)
                insert into core_role_events
                select id, 1, 'initialized', jsonb_build_object('permission_set_ids', '[]'::jsonb, 'name',
                    (select string_agg(md5(id || ' ' || n), '') from generate_series(1, 10) n)), null, now()
                from made""", (self.bulks * 2000, self.bulks * 2000 + 1099))

    def load_anew(self):
        """The payments' tables are gone: a new applier makes and syncs them."""
        self.warehouse(f"drop table raw.{PAYMENT}, raw.{PAYMENT}_latest")
        self.warehouse("delete from rolag.relation where pipeline = %s and name = %s", self.name, PAYMENT)

    def ask_repair(self):
        """A payment's rows are gone, as `rolag verify --repair` would find; apply has them to make."""
        id_ = entity(2_000_000)
        for table in (PAYMENT, PAYMENT + "_latest"):
            self.warehouse(f"delete from raw.{table} where id = %s", id_)
        self.warehouse("insert into rolag.repair (pipeline, rollup, id, extra_up_to) values (%s, %s, %s, 0) "
                       "on conflict (pipeline, rollup, id) do update set state = 'waiting'", self.name, PAYMENT, id_)

    def wait_for_gap(self, sequence):
        """An event of an entity of this case alone; 3 before 2 makes it wait, and 2 lets it go on."""
        with self.bank.quiet, self.writing() as conn:
            if sequence == 3:
                self.gaps += 1
                write_role(conn, 4_000_000 + self.gaps, 1)
            write_role(conn, 4_000_000 + self.gaps, sequence)

    def payment_event(self, sequence):
        """One more payment, whose first event is of this sequence."""
        with self.bank.quiet, self.writing() as conn:
            self.gaps += 1
            conn.execute("insert into core_payments values (%s, %s, now())", (entity(5_000_000 + self.gaps),) * 2)
            conn.execute("insert into core_payment_events select %s, %s, event_type, event, null, now() from "
                         "core_payment_events where id = %s", (entity(5_000_000 + self.gaps), sequence, entity(2_000_000)))

    def lose_version(self):
        """The warehouse never had a role's second version: apply is not running."""
        self.gaps += 1
        id_ = entity(REPAIRED + self.gaps % 20)
        version, = self.warehouse(f"select max(version) from raw.{ROLE} where id = %s", id_)[0]
        self.warehouse(f"delete from raw.{ROLE} where id = %s and version = %s", id_, version)
        self.warehouse(f"delete from raw.{ROLE}_latest where id = %s", id_)
        self.warehouse(f"insert into raw.{ROLE}_latest select * from raw.{ROLE} where id = %s order by version desc "
                       "limit 1", id_)
        return version

    def nobody_waits(self):
        wait_for("quarantine to be empty", lambda: self.warehouse("select count(*) from rolag.quarantine") == [(0,)])

    def check_confirmed(self):
        """Asked in this order, as both only grow."""
        confirmed = self.slot()[0]
        assert confirmed <= self.applied(), "the core was told to forget what is not applied"

    def check(self):
        """All that is committed is there, once."""
        assert self.bank.error is None, self.bank.error
        self.check_confirmed()
        with self.bank.quiet:
            self.wait_applied()
            self.wait_live()
            wait_for("repairs", lambda: self.warehouse("select count(*) from rolag.repair where state = 'waiting'") ==
                     [(0,)])
            rows, events = self.rows(), self.events()
            assert rows == events, f"{rows} rows of {events} events"
            latest, = self.warehouse(f"select (select count(*) from raw.{ROLE}_latest), (select count(distinct id) "
                                     f"from raw.{ROLE} where version = 1)")
            assert latest[0] == latest[1]
            counted = "select count(*), sum(hashtext(id || name)) from {}.core_roles"
            assert self.core(counted.format("public")) == self.warehouse(counted.format("raw")), "the mirror differs"
        return rows

    def judge(self):
        with self.bank.quiet:
            self.wait_applied()
            self.assert_equal()

    def end(self):
        self.bank.ended.set()
        self.bank.join()
        for conn in self.connections.values():
            conn.close()
        self.connections = {}
        self.release()


@pytest.fixture(scope="module")
def rigs():
    """The rig at hand, or none."""
    made = []
    yield made
    for one in made:
        one.end()


@pytest.fixture
def rig(request, rigs, core_cluster, warehouse_cluster):
    """The rig at hand; a new one behind a failure, where the old one has become large, and for each part."""
    assert os.path.exists(FAIL_BINARY), "make MODE=fail"
    while rigs and rigs[0].broken:
        rigs.pop().end()
    if not rigs:
        name = f"fp{time.monotonic_ns() % 10 ** 9}"
        rigs.append(Rig(name, tempfile.mkdtemp(prefix=f"rolag-{name}-"), core_cluster, warehouse_cluster))
    request.node.stash.setdefault(_pipelines, []).append(rigs[0])
    rigs[0].broken = True       # until the test says otherwise
    return rigs[0]


# ---- the walk -------------------------------------------------------------------------------------------

def prepare(p, case):
    """While the role is stopped: what must be there so that it passes the point."""
    if case.point.startswith(LOAD):
        p.load_anew()
    if case.point == "mirror.loaded":      # what hangs on it cannot be carried over: it is read whole, in its place
        p.warehouse("create materialized view held as select count(*) from raw.core_roles")
    if case.point == "swap.prepare":
        p.warehouse("create index if not exists by_name on raw.core_roles (name)")
    if case.point.startswith(("mirror.", "swap.", "sync.piece")):
        p.warehouse("delete from rolag.relation where pipeline = %s and name = 'core_roles'", p.name)
    if case.point == "capture.remember":
        os.unlink(os.path.join(p.state_dir, "capture.publications"))
    if case.point.startswith("remake."):
        p.ask_repair()
    if case.point == "spool.unlink_tmp":
        with open(os.path.join(p.state_dir, "spool", "00000001-0000000000000001.seg.tmp"), "w", encoding="ascii"):
            pass
    if case.point.startswith("repair."):
        p.lost = p.lose_version()
    if case.way == "backlog":
        p.bulk()
        mark = p.mark()     # in the spool before apply looks
        wait_for("capture to have it", lambda: p.counters("capture")["capture_received_lsn_bytes"] >= mark, pause=0.01)
    p.configure({"apply": {"batch_rows": 300 if case.point == "writer.hold" else 20_000}})


def hold_fence(p):
    """A rival that has the fence; the takeover ends it."""
    conn = psycopg.connect(p.warehouse_conninfo, application_name="rolag apply " + p.name)
    conn.execute("select 1 from rolag.fence where pipeline = %s for update", (p.name,))
    return conn


def provoke(p, case, process, fired):
    """While it runs: what makes it pass the point, where the bank's load does not."""
    if case.point.startswith(BULK) or case.point == "writer.hold":
        p.bulk()
    elif case.point == "writer.fence":
        p.core("select pg_logical_emit_message(true, 'rolag.fence', %s)", entity(time.monotonic_ns() % 10 ** 12))
    elif case.point in WAITING:
        p.wait_for_gap(3)
    elif case.point in ASKED:
        p.wait_for_gap(3)
        wait_for("it to wait", lambda: p.warehouse("select count(*) from rolag.quarantine") == [(1,)])
        p.wait_for_gap(2)
    elif case.point == "quarantine.park":
        p.payment_event(0)
    elif case.point.startswith("repair."):
        with p.bank.quiet, p.writing() as conn:
            write_role(conn, REPAIRED + p.gaps % 20, p.lost + 1)
    elif case.point in PROGRESS:
        with p.bank.quiet:
            def traffic():      # that is nobody's, and nothing else
                p.core("select pg_logical_emit_message(true, 'test.mark', '')")
                return fired()
            wait_for(f"{case.point} to fire", traffic, pause=0.15)
    elif case.point in STOP:
        wait_for("the stream", lambda: process.lines("stream starts"))
        process.signal(signal.SIGTERM)


def mend(p, case):
    """It was passed, and the role runs: what is left of it is taken away."""
    if case.point == "mirror.loaded":
        p.wait_live()
        p.warehouse("drop materialized view held")
    if case.point == "quarantine.write":
        p.wait_for_gap(2)
    elif case.point == "quarantine.park":
        wait_for("the rollup to be parked", lambda: p.warehouse("select 1 from rolag.relation where state = 'parked'"))
        assert p.apply.stop() == 0
        p.core("delete from core_payment_events where sequence = 0")
        p.load_anew()
        p.begin("apply")
        p.wait_live()
    if case.point.startswith("quarantine."):
        p.nobody_waits()


def has_fired(process, case):
    running = process.running()     # asked before the log is read: it may write its line and die in between
    if process.lines("failpoint fired", f"name={case.point} ", f"action={case.action} "):
        return True
    assert running, f"{case.point} was not passed; the role ended with {process.popen.returncode}"
    return False


def wait_decided(p, process):
    """Until the role has ended, or what was written behind the point has gone through."""
    mark = p.mark()
    wait_for("the role to end or to go on", lambda: not process.running() or p.applied() >= mark)


def name_of(case):
    return f"{case.role}-{case.point}-{case.action}" + (f"@{case.hit}" if case.hit > 1 else "") + \
        (f"-{case.way}" if case.way else "")


def part(number):
    return pytest.mark.xdist_group(f"failpoints-{number}")


@pytest.mark.parametrize("case", [pytest.param(case, id=name_of(case), marks=part(n * PARTS // len(CASES)))
                                  for n, case in enumerate(CASES)])
def test_failpoint(rig, case):
    p = rig
    if case.point in OLD_SEGMENT:
        mark = p.mark()
        wait_for("the slot to move", lambda: p.slot()[0] >= mark)
    assert p.role(case.role).stop() == 0
    prepare(p, case)
    rival = hold_fence(p) if case.point == "takeover.rivals" else None
    points = f"{WITH[case.point]};" if case.point in WITH else ""
    if case.way == "again":
        points = "stream.read=disconnect@4;" if case.role == "capture" else "ledger.before_insert=disconnect@3;"
    process = p.begin(case.role, f"{points}{case.point}={case.action}@{case.hit}")
    provoke(p, case, process, lambda: has_fired(process, case))
    wait_for(f"{case.point} to fire", lambda: has_fired(process, case), pause=0.01)
    if rival is not None:
        rival.close()
    expected = after(case)
    if expected == {SURVIVES}:
        pass
    elif SURVIVES in expected:
        wait_decided(p, process)
        assert process.running() or process.popen.returncode in expected
    else:
        assert process.wait() in expected, process.text()[-1500:]
    p.check_confirmed()
    if not process.running():
        p.begin(case.role)
    mend(p, case)
    rows = p.check()
    p.cases += 1
    if rows > ROWS_MOST or p.cases % 60 == 0:
        p.judge()
    p.broken = rows > ROWS_MOST


def test_trap_23_the_exporting_session_dies_before_its_snapshot_is_looked_at(rig):
    """Long enough before: its snapshot cannot be had any more. The sync begins with another."""
    p = rig
    assert p.apply.stop() == 0
    p.load_anew()
    process = p.begin("apply", "slot.created=disconnect;sync.slot=delay:2000")
    wait_for("the sync to lose its snapshot", lambda: p.check_alive() or process.lines("given up", "sync of"))
    p.check()
    assert process.running() and len(process.lines("failpoint fired")) == 2
    p.broken = False


def test_workers_die_at_one_point_after_the_other(rig):
    p = rig
    points = ["sync.begun", "sync.row@150", "sync.take_off@2", "sync.all_read", "sync.held", "sync.after_live_commit"]
    assert p.apply.stop() == 0
    p.load_anew()
    process = p.begin("apply", ";".join("=kill@".join((point + "@1").split("@")[:2]) for point in points))
    wait_for("all of them to fire", lambda: p.check_alive() or len(process.lines("failpoint fired")) == len(points))
    p.check()
    assert process.running()
    p.judge()
    p.broken = False


@pytest.mark.parametrize("role, points", [
    ("capture", ["spool.made", "spool.renamed", "spool.opened", "spool.void", "spool.renamed", "spool.renamed",
                 "stream.before_start", "spool.first_sync", "walsender.after_row", "spool.written",
                 "capture.before_open"]),
    ("apply", ["landed.locked", "landed.after_create", "sync.socket", "sync.fork", "takeover.before_commit",
               "takeover.after_commit", "ledger.before_commit", "ledger.commit_sent"])])
def test_death_upon_death(rig, role, points):
    """Killed at one point after the other, with no time to recover in between."""
    p = rig
    assert p.role(role).stop() == 0
    if role == "apply":
        p.load_anew()
    for point in points:
        process = p.begin(role, point + "=kill")
        assert process.wait() == -signal.SIGKILL, point
        assert process.lines("failpoint fired", f"name={point} ")
        p.check_confirmed()
    p.begin(role)
    p.check()
    p.judge()
    p.broken = False


@pytest.mark.parametrize("number", [pytest.param(n, marks=part(n)) for n in range(PARTS)])
def test_after_each_part_of_the_walk_everything_is_equal(rig, number):  # pylint: disable=unused-argument
    rig.judge()
    rig.stop()      # and the next part begins with another


# ---- how points are set ---------------------------------------------------------------------------------

@pytest.mark.parametrize("points, said", [
    ("spool.wrote=EIO", "did you mean spool.write"),
    ("spool.write=EVIL", "unknown action"),
    ("spool.write", "is not name=action"),
    ("spool.write=EIO@0", "not a hit's number"),
    ("spool.write=EIO@two", "not a hit's number"),
    ("spool.write=delay:soon", "unknown action"),
    ("spool.write=disconnect", "cannot do disconnect"),
    ("takeover.locked=EIO", "cannot do EIO"),
    ("ledger.before_commit=short", "cannot do short")])
def test_what_is_not_known_is_refused_at_the_start(points, said):
    done = subprocess.run([FAIL_BINARY, "version"], env={**os.environ, "ROLAG_FAILPOINTS": points}, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 2 and said in done.stderr, done.stderr
