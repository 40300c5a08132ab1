"""Who runs: each takes the same stream of the core from a slot of its own.

A contestant is used as: attach(slot) – begins to consume; reached(lsn) – is everything up to there done;
detach(). pids() names its processes for procs.Watch.
"""
import json
import os
import shutil
import signal
import subprocess

import psycopg
from procs import children, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
ROLAG = os.environ.get("ROLAG", os.path.join(ROOT, "build", "release", "rolag"))
DEFINITIONS = os.path.join(ROOT, "transforms", "lana", "rollups")


def query(conninfo, sql, *parameters):
    with psycopg.connect(conninfo, autocommit=True, application_name="bench") as conn:
        cursor = conn.execute(sql, parameters or None)
        return cursor.fetchall() if cursor.description else []


def lsn(text):
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def lsn_text(number):
    return f"{number >> 32:X}/{number & 0xffffffff:X}"


class Contestant:
    """Common: the walsender of our slot, and dropping the slot."""
    publication = "inserts"

    def __init__(self, site):
        self.site, self.slot = site, None

    def walsender(self):
        found = self.site.query("select active_pid from pg_replication_slots where slot_name = %s", self.slot)
        return [found[0][0]] if found and found[0][0] else []

    def drop_slot(self):
        wait_until(lambda: not self.walsender(), "the walsender to end", 60)
        self.site.query("select pg_drop_replication_slot(%s)", self.slot)


class Recvlogical(Contestant):
    """pg_recvlogical to /dev/null, binary: the limit of any client."""
    name = "pg_recvlogical"

    def attach(self, slot, end=None):
        self.slot = slot
        end = ["--endpos", lsn_text(end)] if end else []
        self.process = subprocess.Popen(
            [f"{self.site.core.bin}/pg_recvlogical", "-d", self.site.conninfo(), "-S", slot, "--start",
             "-f", "/dev/null", "--no-loop", "-o", "proto_version=1", "-o", f"publication_names={self.site.name}_{self.publication}",
             "-o", "binary=true", "-o", "messages=true", *end],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def reached(self, _):
        return self.process.poll() is not None

    def detach(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        error = self.process.communicate()[1].decode()
        if self.process.returncode:
            raise RuntimeError(f"pg_recvlogical failed: {error}")
        self.drop_slot()

    def pids(self):
        return {"walsender": self.walsender(), "client": [self.process.pid]}


class Subscription(Contestant):
    """PostgreSQL's own subscription; binary, streaming, asynchronous commit."""
    name, template = "subscription", "sub_template"
    database = "sub"

    def attach(self, slot, end=None):
        self.slot = slot
        self.site.clone(self.template, self.database)
        self.conninfo = self.site.warehouse.conninfo(self.database)
        query(self.conninfo, f"create subscription s connection '{self.site.conninfo().replace(chr(39), chr(39) * 2)}' "
              f"publication {self.site.name}_{self.publication} with (create_slot = false, slot_name = '{slot}', enabled = false, "
              "copy_data = false, binary = true, streaming = on, synchronous_commit = 'off')")
        self.origin = query(self.conninfo, "select 'pg_' || oid from pg_subscription where subname = 's'")[0][0]
        self.watch = psycopg.connect(self.conninfo, autocommit=True)
        self.watch.execute("alter subscription s enable")

    def reached(self, target):
        found = self.watch.execute("select remote_lsn::text from pg_replication_origin_status where external_id = %s",
                                   (self.origin,)).fetchone()
        return found and found[0] and lsn(found[0]) >= target

    def detach(self):
        self.watch.execute("alter subscription s disable")
        self.watch.execute("alter subscription s set (slot_name = none)")
        self.watch.execute("drop subscription s")
        self.watch.close()
        self.drop_slot()

    def pids(self):
        found = self.watch.execute("select pid from pg_stat_activity where backend_type = "
                                   "'logical replication worker'").fetchall()
        return {"walsender": self.walsender(), "apply worker": [pid for pid, in found]}


class Triggers(Subscription):
    """The same, with fold triggers on the subscriber."""
    name, template = "subscription + triggers", "trig_template"


class Rolag(Contestant):
    """rolag run, as shipped."""
    name = "rolag"

    def __init__(self, site, settings):
        super().__init__(site)
        self.settings = settings
        self.slot = f"rolag_{site.name}"
        self.database, self.template = f"rolag_{site.name}", f"rolag_{site.name}_template"
        self.folder = os.path.join(site.folder, "rolag")
        self.config = os.path.join(site.folder, "rolag.yaml")
        self.conninfo = site.warehouse.conninfo(self.database)
        self.process = self.watch = None

    def configure(self, **more):
        settings = {"pipeline": self.site.name, "state_dir": self.folder,
                    "core": {"connect": self.site.conninfo()}, "warehouse": {"connect": self.conninfo},
                    "rollups": {"path": DEFINITIONS}, "spool": {"reserve": "0"},
                    "capture": {"allow_unlimited_wal": True}, **self.settings, **more}
        with open(self.config, "w", encoding="utf-8") as f:
            json.dump(settings, f)      # JSON is YAML

    def command(self, *words):
        done = subprocess.run([ROLAG, "--config", self.config, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"rolag {words[0]}: {done.stdout}{done.stderr}")
        return done.stdout

    def run(self):
        log = os.path.join(self.site.folder, "rolag.log")
        with open(log, "ab") as out:
            self.process = subprocess.Popen([ROLAG, "--config", self.config, "run"], stdout=out, stderr=out)
        self.watch = psycopg.connect(self.conninfo, autocommit=True)

    def live(self):
        if self.process.poll() is not None:
            raise RuntimeError("rolag ended: see rolag.log")
        return self.watch.execute("select count(*) > 0 and bool_and(state = 'live') from rolag.relation").fetchone()[0]

    def make_template(self):
        """Everything made and live while the core is empty; then kept as it is for each run to start from."""
        self.site.clone("template1", self.database)
        self.configure()
        self.command("init")
        self.run()
        wait_until(self.live, "rolag's first load")
        self.stop()
        query(self.site.warehouse.conninfo("postgres"), f"alter database {self.database} rename to {self.template}")
        shutil.copytree(self.folder, self.folder + ".template")

    def attach(self, slot, end=None):
        self.site.query("select pg_copy_logical_replication_slot(%s, %s)", slot, self.slot)
        self.site.query("select pg_drop_replication_slot(%s)", slot)
        self.site.clone(self.template, self.database)
        shutil.rmtree(self.folder)
        shutil.copytree(self.folder + ".template", self.folder)
        self.run()

    def reached(self, target):
        if self.process.poll() is not None:
            raise RuntimeError("rolag ended: see rolag.log")
        return self.watch.execute("select coalesce(max(applied_lsn), '0/0') >= %s::pg_lsn from rolag.ledger",
                                  (lsn_text(target),)).fetchone()[0]

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()

    def stop(self):
        self.process.terminate()
        if self.process.wait(60):
            raise RuntimeError("rolag ended with an error: see rolag.log")
        self.watch.close()

    def detach(self):
        self.stop()
        self.drop_slot()

    def roles(self):
        """Its own processes; asking for them costs no server anything."""
        names = {"rolag run": [self.process.pid]}
        for pid in children(self.process.pid):
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().split(b"\0")
            name = next((w.decode() for w in (b"capture", b"apply") if w in words), "run")
            names.setdefault(name, []).extend([pid, *children(pid)])
        return names

    def pids(self):
        found = self.watch.execute("select pid from pg_stat_activity where application_name like 'rolag apply%'")
        return {"walsender": self.walsender(), **self.roles(), "warehouse backend": [pid for pid, in found]}
