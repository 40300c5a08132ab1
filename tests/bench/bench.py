#!/usr/bin/python3
"""rolag beside what a user would pick instead, in one run, interleaved: prints Markdown tables with ratios.

  bench.py [--events 1000000] [--repeats 3] [--only catchup,latency,…] [--json FILE]

Sections: catchup latency writers load verify entities huge mirrors resync reports. See README.md here for what each measures and how.
"""
import argparse
import glob
import json
import os
import shutil
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(os.path.dirname(HERE)), "deploy", "demo"), HERE]

from cluster import Cluster  # noqa: E402
import backlog  # noqa: E402
import sections  # noqa: E402
import triggers  # noqa: E402
from contestants import DEFINITIONS, Rolag, lsn, query  # noqa: E402

SCHEMA = os.path.join(backlog.DEMO, "core.sql")
# Both servers as one would run them beside each other; no checkpoint by time falls into a measurement.
SERVER = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "512MB", "max_wal_size": "16GB",
          "checkpoint_timeout": "1h", "max_slot_wal_keep_size": "-1", "max_wal_senders": "20",
          "max_replication_slots": "40", "wal_keep_size": "4GB", "autovacuum_naptime": "1min",
          "max_connections": "100"}


class Servers:
    """The two clusters of a run, and the templates of the subscribers' databases."""

    def __init__(self, folder):
        self.folder = folder
        self.core = Cluster("core", settings=SERVER, parent=folder, database="postgres")
        self.warehouse = Cluster("warehouse", settings=SERVER, parent=folder, database="postgres")
        self.sites = []

    def create(self):
        self.core.create()
        self.warehouse.create()
        self.warehouse.psql("create database sub_template")
        self.warehouse.psql(file=SCHEMA, database="sub_template")
        self.warehouse.psql("create database trig_template template sub_template")
        self.warehouse.psql(triggers.all_ddl(sorted(glob.glob(DEFINITIONS + "/*.yaml"))), database="trig_template")

    def new_site(self, name, sql="", settings=None):
        """sql: what its core has beside the bank's tables; settings: of rolag, beside the usual ones."""
        self.sites.append(Site(self, name, sql, settings or {}))
        return self.sites[-1]

    def destroy(self):
        for site in self.sites:
            site.rolag.kill()
        self.core.destroy()
        self.warehouse.destroy()

    def quiesce(self):
        """No work left over from before disturbs what is measured next."""
        for cluster in (self.core, self.warehouse):
            query(cluster.conninfo("postgres"), "checkpoint")
        os.sync()
        time.sleep(1)


class Site:
    """A bank's database on the core, and what reads its stream. Every contestant starts where it was empty."""

    def __init__(self, servers, name, sql, settings):
        self.servers, self.name, self.core, self.warehouse = servers, name, servers.core, servers.warehouse
        self.folder = os.path.join(servers.folder, name)
        os.mkdir(self.folder)
        self.slots = 0
        self.core.psql(f"create database {name}")
        self.core.psql(file=SCHEMA, database=name)
        self.core.psql(sql, database=name)
        self.rolag = Rolag(self, settings)
        self.rolag.make_template()      # its publication is everybody's, and its slot the start of all
        self.base = f"{name}_base"
        self.query("select pg_copy_logical_replication_slot(%s, %s)", self.rolag.slot, self.base)
        self.query("select pg_drop_replication_slot(%s)", self.rolag.slot)

    def conninfo(self):
        return self.core.conninfo(self.name)

    def query(self, sql, *parameters):
        return query(self.conninfo(), sql, *parameters)

    def clone(self, template, database):
        admin = self.warehouse.conninfo("postgres")
        query(admin, f"drop database if exists {database} with (force)")
        query(admin, f"create database {database} template {template}")

    def new_slot(self):
        """A slot at the start."""
        self.slots += 1
        name = f"{self.name}_{self.slots}"
        self.query("select pg_copy_logical_replication_slot(%s, %s)", self.base, name)
        return name

    def mark(self):
        """A position behind everything committed, and behind it an event, so that all see it go by."""
        here = lsn(self.query("select pg_logical_emit_message(true, 'bench', '')::text")[0][0])
        self.query("set session_replication_role = replica; insert into core_permission_set_events values "
                   "(gen_random_uuid(), 1, 'initialized', '{\"name\": \"mark\", \"permissions\": []}', null, now())")
        self.query("select pg_logical_emit_message(true, 'bench', '')")
        return here

    def drop(self):
        """The database and its slots."""
        self.query("select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s", self.name)
        query(self.core.conninfo("postgres"), f"drop database {self.name} with (force)")


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        model = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 ** 30
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB"


def table(headings, rows):
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--events", type=int, default=1_000_000)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--seconds", type=float, default=15.0, help="of each measurement at a rate")
    p.add_argument("--only", default=",".join(sections.ALL), help="sections, with commas between")
    p.add_argument("--json", metavar="FILE", help="every single figure")
    p.add_argument("--folder", help="where the clusters live (default: a temporary folder)")
    a = p.parse_args()
    wanted = a.only.split(",")
    unknown = set(wanted) - set(sections.ALL)
    if unknown:
        p.error(f"no such section: {', '.join(unknown)}")
    folder = tempfile.mkdtemp(prefix="rolag-bench-", dir=a.folder)
    os.chmod(folder, 0o711)
    servers, raw = Servers(folder), {}
    try:
        servers.create()
        print(f"Measured on {machine()}; PostgreSQL {servers.core.psql('show server_version')}, both clusters on this "
              f"machine; medians of {a.repeats} interleaved runs.", flush=True)
        for name in sections.ALL:
            if name in wanted:
                print(f"\n### {sections.ALL[name].title}\n", flush=True)
                headings, rows, notes, raw[name] = sections.ALL[name].run(servers, a)
                print(table(headings, rows) + ("\n\n" + notes if notes else ""), flush=True)
    except BaseException:
        for log in glob.glob(folder + "/*/*.log"):
            shutil.copy(log, tempfile.gettempdir())
            print(f"log kept: {tempfile.gettempdir()}/{os.path.basename(log)}", file=sys.stderr)
        raise
    finally:
        servers.destroy()
        shutil.rmtree(folder, ignore_errors=True)
    if a.json:
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump(raw, f, indent=1)
    return 0



if __name__ == "__main__":
    sys.exit(main())
