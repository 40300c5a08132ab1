"""A report of many rows is written in the memory of a small one: csv, txt and xml, the schema looked at as it is read.

200,000 rows here, five million by `make large-report`. What grows with the rows is seen in either.
"""
import os
import tempfile
import threading
import time

import pytest
from companion import Companion
from pipeline import ROLE, wait_for

ROWS = int(os.environ.get("ROLAG_LARGE_ROWS", "200000"))
FEW = 2000
MIB = 1 << 20
# Every row another, 100 to 300 bytes, with what is escaped in each format.
BUILD = """create table :"schema".roles as select md5(n::text)::uuid as id,
    'name "' || n || '" | & <' || repeat('é', n % 100) || '>' as name, n as version from generate_series(1, {rows}) n;
create table :"schema".day as select date '2000-01-01' as day;"""


class Memory(threading.Thread):
    """The most memory that a process and its children had of their own: {pid: bytes}."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self.done = pid, {}, threading.Event()
        self.start()

    def run(self):
        while not self.done.wait(0.01):
            for pid in [self.pid, *self.children()]:
                self.peak[pid] = max(self.peak.get(pid, 0), self.high_water(pid))

    def children(self):
        try:
            with open(f"/proc/{self.pid}/task/{self.pid}/children", encoding="utf-8") as f:
                return [int(n) for n in f.read().split()]
        except OSError:
            return []

    @staticmethod
    def high_water(pid):
        """VmHWM: the kernel's own peak, so that none is missed between two looks."""
        try:
            with open(f"/proc/{pid}/status", encoding="utf-8") as f:
                return next((int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM:")), 0)
        except OSError:
            return 0

    def stop(self):
        self.done.set()
        self.join()
        return self.peak


@pytest.fixture
def companion(core_cluster, warehouse_cluster):
    p = Companion("large", tempfile.mkdtemp(prefix="rolag-large-"), core_cluster, warehouse_cluster, warehouse_cluster,
                  land=[ROLE])
    try:
        p.create()
        yield p.prepare(build=BUILD.format(rows=FEW)).start()
    finally:
        p.release()


def written(p, rows):
    """A run of so many rows: (manifest, peak of the companion, peak of the run's worker, seconds)."""
    p.write_build(BUILD.format(rows=rows))
    memory, began = Memory(p.reports.pid), time.monotonic()
    run = p.ask("--report", "nrp_1/01_roles")
    wait_for("the run to end", lambda: p.state(run) in ("published", "failed"), timeout=1800)
    seconds, peaks = time.monotonic() - began, memory.stop()
    p.wait_ended(run)
    companion = peaks.pop(p.reports.pid)
    assert peaks, "no worker was seen: this would pass whatever it takes"
    return p.check_whole(run), companion, max(peaks.values()), seconds


def test_memory_does_not_grow_with_the_rows(companion):
    few, companion_few, worker_few, _ = written(companion, FEW)
    manifest, companion_peak, worker, seconds = written(companion, ROWS)
    files = {f["format"]: f for f in manifest["files"]}
    assert set(files) == {"csv", "txt", "xml"} and all(f["rows"] == ROWS for f in files.values())
    assert files["xml"]["valid"] is True and files["xml"]["xsd_sha256"] and few["files"][0]["rows"] == FEW
    assert all(f["bytes"] > 80 * ROWS for f in files.values())
    size = sum(f["bytes"] for f in files.values())
    print(f"\n{ROWS:,} rows, {size / MIB:,.0f} MiB in three files, {seconds:.1f} s: companion {companion_peak / MIB:.1f} MiB, "
          f"its worker {worker / MIB:.1f} MiB ({worker_few / MIB:.1f} for {FEW:,} rows)")
    assert worker - worker_few < 4 * MIB and companion_peak - companion_few < 2 * MIB
    assert worker < 48 * MIB < size
