"""What the roles and servers use, looked at every few seconds, and whether it grows without bound."""
import glob
import os
import statistics
import threading

import psycopg

MB = 1 << 20
# name: (unit, its divisor, what the last quarter's median may be above 1.5 × the second quarter's)
COLUMNS = {
    "capture PSS": ("MB", MB, 24 * MB), "apply PSS": ("MB", MB, 64 * MB), "run PSS": ("MB", MB, 8 * MB),
    "capture descriptors": ("", 1, 6), "apply descriptors": ("", 1, 6), "run descriptors": ("", 1, 6),
    "spool": ("MB", MB, 128 * MB), "retained WAL": ("MB", MB, 256 * MB), "ledger": ("MB", MB, 8 * MB),
    "ledger rows": ("", 1, 20_000),
}


def pss(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("Pss:")) * 1024


def size(folder):
    total = 0
    for path in glob.glob(os.path.join(folder, "*")):
        try:
            total += os.stat(path).st_size
        except OSError:
            pass
    return total


class Watch(threading.Thread):
    def __init__(self, world, pause=3):
        super().__init__(daemon=True)
        self.w, self.pause = world, pause
        self.seen = {name: [] for name in COLUMNS}
        self.done = threading.Event()

    def run(self):
        while not self.done.wait(self.pause):
            self.look()

    def look(self):
        self.processes()
        self.seen["spool"].append(size(os.path.join(self.w.p.state_dir, "spool")))
        for conninfo, names, sql in (
                (self.w.p.core_conninfo, ["retained WAL"], "select pg_current_wal_lsn() - restart_lsn from "
                 "pg_replication_slots where slot_name = 'rolag_soak'"),
                (self.w.p.warehouse_conninfo, ["ledger", "ledger rows"],
                 "select pg_total_relation_size('rolag.ledger'), (select count(*) from rolag.ledger)")):
            try:
                with psycopg.connect(conninfo, autocommit=True, connect_timeout=2,
                                     options="-c statement_timeout=2000", application_name="watch") as conn:
                    for name, value in zip(names, conn.execute(sql).fetchone()):
                        self.seen[name].append(int(value))
            except (psycopg.Error, TypeError):
                pass        # it is away

    def processes(self):
        for role in ("run", "capture", "apply"):
            try:
                pid = self.w.pid(role)
                self.seen[role + " PSS"].append(pss(pid))
                self.seen[role + " descriptors"].append(len(os.listdir(f"/proc/{pid}/fd")))
            except (OSError, StopIteration, KeyError):
                pass        # it is being started again

    def end(self):
        self.done.set()
        self.join(10)

    def judge(self):
        """(the table's lines, the names of what grows)."""
        lines, growing = [f"{'':22}{'min':>10}{'median':>10}{'max':>10}{'2nd quarter':>14}{'last quarter':>14}"], []
        for name, (unit, divisor, slack) in COLUMNS.items():
            values = self.seen[name]
            if len(values) < 8:
                lines.append(f"{name:22}{'too few samples':>20}")
                continue
            quarter = len(values) // 4
            second = statistics.median(values[quarter:2 * quarter])
            last = statistics.median(values[-quarter:])
            grows = last > 1.5 * second + slack
            numbers = [min(values), statistics.median(values), max(values), second, last]
            shown = [f"{n / divisor:.1f}" if unit else f"{n:.0f}" for n in numbers]
            lines.append(f"{(name + ' ' + unit).strip():22}" + "".join(f"{s:>10}" for s in shown[:3]) +
                         "".join(f"{s:>14}" for s in shown[3:]) + ("  GROWS" if grows else ""))
            if grows:
                growing.append(name)
        return lines, growing
