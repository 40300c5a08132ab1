"""Every report of the pack, from the events to its files: one small bank, one run of all 39, golden files.

The bank is the simulated one with a ledger, the same every time; the run's day is set in the control table, so that
the files are the same whenever this runs. `ROLAG_GOLDEN=write` writes tests/data/reports/ anew: look at what changed.
"""
import csv
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

import psycopg
import pytest
import yaml
from companion import Companion
from pipeline import ROOT

PACK = os.path.join(ROOT, "transforms", "lana")
GOLDEN = os.path.join(ROOT, "tests", "data", "reports")
# The simulated bank opens here; its newest event is a few days before the run.
OPENS, EVENTS = "2025-01-01", 1500
RUN_AT, AS_OF = "2025-03-10 12:00:00+00", "2025-02-28"
REPORTS, FILES = 39, 72


def read_yaml(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as f:
        return yaml.safe_load(f)


class Bank(Companion):
    """The pipeline of deploy/lana.yaml with a companion, its history written and applied."""

    def fill(self):
        shipped = read_yaml("deploy/lana.yaml")
        self.load("--bulk", "--events", str(EVENTS), "--seed", "10", "--scale", "0.3", "--ledger", "--start", OPENS)
        self.configure({"mirrors": shipped["mirrors"], "models": {"path": PACK},
                        "reports": {"definitions": os.path.join(PACK, "reports.yaml")}})
        self.init()
        self.outside("ext.sql")
        self.set_clock()
        self.start()
        self.wait_applied()
        self.outside()
        return self

    def outside(self, schema=None):
        command = ["psql", self.warehouse_conninfo, "-q", "-v", "ON_ERROR_STOP=1", "-f", os.path.join(PACK, schema)] \
            if schema else [sys.executable, os.path.join(ROOT, "deploy/demo/outside.py"), "--warehouse",
                            self.warehouse_conninfo, "--days", "1"]
        subprocess.run(command, check=True, capture_output=True)

    def set_clock(self):
        """Behind the fence, and before a model is built, a run was asked for at RUN_AT."""
        self.warehouse("create function public.set_clock() returns trigger language plpgsql as $$ begin "
                       f"new.requested_at := '{RUN_AT}'; return new; end $$")
        self.warehouse("create trigger set_clock before update on rolag.report_run for each row "
                       "when (new.state = 'building') execute function public.set_clock()")

    def ask_all(self, *options):
        code, out, err = self.run("report", "run", "--wait", "--as-of", AS_OF, *options)
        assert code == 0, out + err + self.reports.text()[-3000:]
        return out.splitlines()[0]


@pytest.fixture(scope="module")
def bank(core_cluster, warehouse_cluster):
    p = Bank("lanareports", tempfile.mkdtemp(prefix="rolag-lana-reports-"), core_cluster, warehouse_cluster,
             warehouse_cluster, land=read_yaml("deploy/lana.yaml")["rollups"]["land"])
    try:
        p.create().fill()
        p.first = p.ask_all()
        yield p
    finally:
        p.release()


def test_all_run(bank):
    print(bank.path(bank.first))
    import shutil
    shutil.copytree(bank.path(bank.first), "/tmp/w/Ix/run", dirs_exist_ok=True)
