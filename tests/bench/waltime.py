"""Commit times out of write-ahead logs: both ends' own records, no clock but theirs."""
import re
import subprocess
from datetime import datetime

from contestants import lsn

COMMIT = re.compile(r"tx:\s+(\d+), lsn: ([0-9A-F/]+), .*desc: COMMIT(?:_PREPARED)? (\S+ \S+)(?: UTC|\+00)?(.*)$")
ORIGIN = re.compile(r"origin: node \d+, lsn ([0-9A-F/]+)")


def commits(cluster, start, end):
    """[(xid, LSN of the record, µs since 1970, origin's LSN or None)] between two LSNs (text)."""
    done = subprocess.run([f"{cluster.bin}/pg_waldump", "-p", f"{cluster.data}/pg_wal", "-r", "Transaction",
                           "-s", start, "-e", end], capture_output=True, text=True, check=False,
                          env={"TZ": "UTC", "PATH": "/usr/bin"})
    if done.returncode:
        raise RuntimeError(f"pg_waldump: {done.stderr}")
    found = []
    for line in done.stdout.splitlines():
        m = COMMIT.search(line)
        if m:
            at = datetime.fromisoformat(m[3].rstrip(";") + "+00:00")
            origin = ORIGIN.search(m[4])
            found.append((int(m[1]), lsn(m[2]), int(at.timestamp() * 1e6 + 0.5), lsn(origin[1]) if origin else None))
    return found


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p))]
