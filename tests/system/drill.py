"""An estate to be on call for: two servers, rolag's machine with all its roles as units, load, and a Prometheus.

Whoever is on call has `rolag status`, the alerts and deploy/RUNBOOK.md. Its blocks run as they stand there, as whom their
first lines name.
"""
import copy
import os
import re
import shlex
import shutil
import stat
import subprocess
import time

from cluster import Cluster
from companion import BUILD, DEFINITIONS
from machine_shim import Machine
from network import Shim
from pipeline import PACK, ROOT, SOME, TIMEOUT, Load, Pipeline, oracle, wait_for
from prometheus import Prometheus
from readme import free_port

RUNBOOK = os.path.join(ROOT, "deploy", "RUNBOOK.md")
PASSWORD = "first-password"
# Commands that end with 1 where they find something.
FIND = ("rolag status", "rolag check", "rolag quarantine list", "rolag verify")
# True of every outage for five minutes after it, and waits for 15 before it fires: commits that came through late.
LATE = "RolagVisibleSlowly"
DEADLINE = 60       # of a cause being named; it is printed how long it took


# ---- the runbook ------------------------------------------------------------------------------------

def part(name):
    """The runbook's text under a heading."""
    with open(RUNBOOK, encoding="utf-8") as f:
        found = re.findall(rf"^##? {re.escape(name)}\n(.*?)(?=^## |^# [A-Z]|\Z)", f.read(), re.M | re.S)
    assert len(found) == 1, name
    return found[0]


def blocks(name):
    """[(who, text)] of the commands under a heading."""
    found = re.findall(r"^```(?:sh|sql)\n(?:#|--) (.*?)\n(.*?)^```$", part(name), re.M | re.S)
    assert len(found) == len(re.findall("^```(?:sh|sql)$", part(name), re.M)), f"{name}: a block without its first line"
    return found


def screens(name):
    """What the runbook shows as printed, under a heading: each a list of lines."""
    return [text.splitlines() for text in re.findall(r"^```text\n(.*?)^```$", part(name), re.M | re.S)]


def plain(line):
    """A line without what differs from run to run: numbers with their units, positions, addresses, widths."""
    line = re.sub(r"\b[0-9A-F]+/[0-9A-F]+\b", "LSN", line)
    line = re.sub(r"/[\w./-]*/", "/", line)
    line = re.sub(r"\d+(\.\d+)?( (ms|s|min|h|d|B|kB|MB|GB)\b)?( \d+ (min|h)\b)?", "N", line)
    return re.sub(r"\s+", " ", line).strip()


def shows(screen, lines):
    """Lines that are not in the screen, in their order, but for what differs from run to run ("…" is some lines)."""
    real, missing = [plain(line) for line in screen.splitlines()], []
    for line in (plain(line) for line in lines if line.strip() not in ("", "…")):
        if line in real:
            real = real[real.index(line) + 1:]
        else:
            missing.append(line)
    return missing


# ---- the estate -------------------------------------------------------------------------------------

class Server(Cluster):
    """One that lets the role rolag in by its password; `env` is of its processes."""

    env = {}

    def create(self):
        super().create()
        with open(os.path.join(self.data, "pg_hba.conf"), "w", encoding="utf-8") as f:
            f.write("local all all trust\nlocal replication all trust\nhost all rolag 127.0.0.1/32 scram-sha-256\n")
        self.restart()
        self.psql(f"create role rolag login replication password '{PASSWORD}'", database="postgres")
        return self

    def start(self, timeout=60):
        os.environ.update(self.env)
        try:
            return super().start(timeout)
        finally:
            for name in self.env:
                del os.environ[name]


class Estate(Pipeline):
    """The pipeline `lana`, whose roles are units of a Machine."""

    def __init__(self, folder):
        settings = {"listen_addresses": "127.0.0.1", "wal_sender_timeout": "6s"}
        self.servers = [Server(n, free_port(), settings=settings, database="postgres") for n in ("core", "warehouse")]
        self.machine = self.load = self.disk = None
        self.prometheuses = 0
        every = oracle.read_rules()
        super().__init__("lana", folder, *self.servers, self.servers[1], None, land=SOME,
                         rules=copy.deepcopy({name: every[name] for name in SOME}))

    def build(self):
        core, warehouse = self.servers
        self.clock = Shim(self.folder, "/nowhere")      # the core's
        for name in ("shim.so", "shim.control"):
            os.chmod(os.path.join(self.folder, name), 0o666)
        os.chmod(self.folder, 0o755)
        core.env = self.clock.env
        for server in self.servers:
            server.create()
        self.create()
        self.machine = Machine(os.path.join(self.folder, "machine"), {"EDITOR": os.path.join(self.folder, "editor")})
        self.pack = os.path.join(self.machine.etc, "rollups")
        shutil.copytree(PACK, self.pack)
        self.state_dir, self.config = self.machine.state, self.machine.config
        self.port = free_port()
        for name, text in (("reports.yaml", DEFINITIONS), ("build.sql", BUILD), ("tokens", "")):
            self.write(name, text)
        database = {"core": self.core_database, "warehouse": self.warehouse_database}
        self.configure({
            "state_dir": self.state_dir, "rollups": {"path": self.pack},
            **{s.name: {"connect": f"host=127.0.0.1 port={s.port} dbname={database[s.name]} user=rolag"}
               for s in self.servers},
            "capture": {"look_interval": "1 s", "confirm": "applied"},
            "reports": {"definitions": os.path.join(self.machine.etc, "reports.yaml"),
                        "build": f"psql -f {self.machine.etc}/build.sql"},
            "http": {"listen": f"127.0.0.1:{self.port}", "tokens": os.path.join(self.machine.etc, "tokens")}})
        self.passwords = {s.name: PASSWORD for s in self.servers}
        self.write_passfiles()
        self.mount_spool()
        for server in self.servers:
            code, sql, err = self.run("init", "--print-sql", server.name)
            assert code == 0, err
            self.write(server.name + ".sql", sql)
            server.psql(file=os.path.join(self.machine.etc, server.name + ".sql"), database=database[server.name])
        self.as_root("rolag init")
        made = self.as_root("rolag report token prometheus --scope reports:read").splitlines()
        self.token = made[0]
        self.write("tokens", made[-1] + "\n")
        self.as_root("systemctl start rolag.target rolag-reports")
        self.write_load()
        wait_for("a healthy status", lambda: self.status().startswith("Healthy"))
        return self

    def write(self, name, text):
        with open(os.path.join(self.machine.etc, name), "w", encoding="utf-8") as f:
            f.write(text)

    def edits(self, text):
        """What whoever is on call makes of the file that his editor opens next."""
        with open(os.path.join(self.folder, "edited"), "w", encoding="utf-8") as f:
            f.write(text)
        with open(self.machine.env["EDITOR"], "w", encoding="utf-8") as f:
            f.write(f'#!/bin/sh\ncat {self.folder}/edited > "$1"\n')
        os.chmod(self.machine.env["EDITOR"], stat.S_IRWXU)

    def passfile(self):
        """As whoever is on call writes it."""
        return "".join(f"127.0.0.1:{s.port}:*:rolag:{self.passwords[s.name]}\n" for s in self.servers)

    def write_passfiles(self):
        for name in ("pgpass", "pgpass-reports"):
            self.machine.write_passfile(self.passfile(), name)

    def mount_spool(self):
        """The spool's disk is its own, and small."""
        spool = os.path.join(self.state_dir, "spool")
        if os.geteuid() == 0:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m,mode=700", "rolag-test", spool], check=True)
            self.disk = spool
        self.configure({"spool": {"reserve": "8 MB", "segment_size": "1 MB"}})

    def write_load(self):
        self.load = Load(os.path.join(self.folder, "load.log"), self.core_conninfo, "--seed", 1, "--events", 100_000,
                         "--rate", 40, "--reconnect", 300)
        self.processes.append(self.load)

    # who runs what ----------------------------------------------------------------------------
    def run(self, *arguments, config=None):
        """A command of rolag as root on its machine: (exit code, stdout, stderr)."""
        done = subprocess.run([os.path.join(self.machine.bin, "rolag"), *arguments], capture_output=True, text=True, check=False,
                              env={**self.machine.env, "PGPASSFILE": os.path.join(self.machine.etc, "pgpass")}, timeout=TIMEOUT)
        return done.returncode, done.stdout, done.stderr

    def as_root(self, text):
        """A block on rolag's machine; what it printed."""
        export = f"export PGPASSFILE={self.machine.etc}/pgpass\n" if self.machine.shell.count == 0 else ""
        code, out = self.machine.run(export + text)
        assert code == 0 or code == 1 and text.splitlines()[-1].startswith(FIND), f"{text}\nexit code {code}:\n{out}"
        return out

    def at_server(self, server, text):
        """A block on a server's machine, whose systemctl and timedatectl note what they are asked for; it is done then."""
        folder, asked = os.path.join(self.folder, "server-bin"), os.path.join(self.folder, "asked")
        os.makedirs(folder, exist_ok=True)
        for name in ("systemctl", "timedatectl"):
            path = os.path.join(folder, name)
            with open(path, "w", encoding="ascii") as f:
                f.write(f'#!/bin/sh\necho "{name} $*" >> {shlex.quote(asked)}\n')
            os.chmod(path, stat.S_IRWXU)
        done = subprocess.run(["bash", "-ec", text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}, timeout=TIMEOUT, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout}"
        with open(asked, encoding="ascii") as f:
            words = f.read().splitlines()
        os.unlink(asked)
        for line in words:
            {"systemctl start postgresql": server.start, "timedatectl set-ntp true": self.clock.mend}[line]()
        return done.stdout

    def as_dba(self, server, text):
        """A block in a superuser's shell; what it printed."""
        env = {**os.environ, "PGHOST": server.socket, "PGPORT": str(server.port), "PGUSER": "postgres",
               "PGDATABASE": self.core_database}
        done = subprocess.run(["bash", "-ec", self.machine.here(text)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, env=env, timeout=TIMEOUT, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout}"
        return done.stdout

    def in_psql(self, server, text):
        """A block as typed into psql by a superuser; what it printed."""
        database = self.core_database if server is self.core_cluster else self.warehouse_database
        done = subprocess.run([server.bin + "/psql", "-X", "-v", "ON_ERROR_STOP=1", server.conninfo(database)], input=text,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout}"
        return done.stdout

    def do(self, who, text):
        """A block of the runbook; what it printed."""
        core, warehouse = self.servers
        if who.startswith("rolag's machine, as root"):
            return self.as_root(text)
        if who.startswith(("core's machine, as root", "warehouse's machine, as root")):
            return self.at_server(core if who.startswith("core") else warehouse, text)
        if who.startswith("core's DBA"):
            return self.as_dba(core, text)
        assert who.startswith(("core, as a superuser", "warehouse, as a superuser")), who
        return self.in_psql(core if who.startswith("core") else warehouse, text)

    # looking ----------------------------------------------------------------------------------
    @property
    def capture(self):
        return self.machine.units["rolag-capture"].process

    @capture.setter
    def capture(self, _):
        pass

    @property
    def apply(self):
        return self.machine.units["rolag-apply"].process

    @apply.setter
    def apply(self, _):
        pass

    def check_alive(self):
        pass        # what ends is a unit's matter

    def status(self):
        """The screen of whoever looks."""
        return self.run("status")[1]

    def tails(self, lines=30):
        """The ends of the roles' logs, for a failure's report."""
        return "\n".join(f"--- {name}\n" + "\n".join(unit.lines()[-lines:]) for name, unit in self.machine.units.items())

    def start_prometheus(self):
        self.prometheuses += 1
        return Prometheus(os.path.join(self.folder, f"prometheus{self.prometheuses}"), f"127.0.0.1:{self.port}", self.token)

    def close(self):
        if self.load is not None:
            self.load.kill9()
        if self.machine is not None:
            self.machine.close()
        if self.disk is not None:
            subprocess.run(["umount", "--lazy", self.disk], check=False)
        for server in self.servers:
            server.destroy()


# ---- one fault --------------------------------------------------------------------------------------

class Drill:
    """From a healthy estate, through a fault, to a healthy estate."""

    def __init__(self, estate, name):
        self.estate, self.name, self.screen = estate, name, ""
        self.seen, self.misled, self.begun, self.took = {}, {}, None, []
        wait_for("all to be well before", lambda: estate.status().startswith("Healthy"), DEADLINE)
        self.prometheus = estate.start_prometheus()

    def look(self):
        for alert, states in self.prometheus.alerts().items():
            self.seen.setdefault(alert, set()).update(states)
        self.screen = self.estate.status()

    def note(self, what):
        self.took.append(f"{what} {time.monotonic() - self.begun:.1f} s")

    def begun_now(self):
        self.begun = time.monotonic()

    def break_(self, how, *arguments, **more):
        self.begun = time.monotonic()
        how(*arguments, **more)
        self.begun = time.monotonic()

    def names(self, first, *words, alert):
        """Until the screen's first line begins with `first` and the screen has all words, and the alert is active."""
        said = told = False

        def look():
            nonlocal said, told
            self.look()
            if not said and self.screen.startswith(first) and all(w in self.screen for w in words):
                said = True
                self.note("status")
                self.screen_then = self.screen
                print(f"---- {self.name}\n{self.screen}")
            if not told and alert in self.seen:
                told = True
                self.note("alert")
            return said and told
        try:
            wait_for("the cause to be named", look, DEADLINE, pause=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}: said={said} alerts={self.seen}\n{self.screen}\n{self.estate.tails()}") from None

    def shown(self, heading, printed=""):
        """What the runbook shows under a heading was on the screen, or printed by its commands."""
        pages = screens(heading)
        assert pages, f"{heading} shows nothing"
        for page in pages:
            missing = min(shows(self.screen_then, page), shows(printed, page), key=len)
            assert not missing, f"{heading} shows what is not there: {missing}\n{self.screen_then}\n{printed}"

    def mend(self, heading, *picks, expect=()):
        """Runs the blocks under a heading that these words pick, each one; all of them where there are none."""
        self.misled.update(self.seen)       # who is called looks at these; of a role that starts some are pending for a moment
        said, page = "", blocks(heading)
        for pick in picks or [text for _, text in page]:
            (who, text), = [(w, t) for w, t in page if pick in t]
            said += self.estate.do(who, text)
        print(f"---- {heading}\n{said}")
        for words in expect:
            assert words in said, f"{words!r} is not in what {heading} prints:\n{said}"
        self.shown(heading, said)
        return said

    def healed(self, also=(), linger=()):
        """Healthy, no alert but those that linger by design, everything applied; none but the right ones was ever active."""
        also, linger = {*also, LATE}, {*linger, LATE}
        estate, self.begun = self.estate, time.monotonic()

        def well():
            self.look()
            return self.screen.startswith("Healthy") and not set(self.prometheus.alerts()) - set(linger)
        try:
            wait_for("all to be well again", well, DEADLINE, pause=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.prometheus.alerts()}\n{self.screen}\n{estate.tails()}") from None
        self.note("healed")
        estate.wait_applied()
        misleading = {alert for alert, states in self.seen.items() if alert in self.misled or "firing" in states} - set(also)
        print(f"==== {self.name}: {', '.join(self.took)}; alerts {sorted(self.seen)}")
        assert not misleading, f"active, and not the cause: {misleading}"

    def close(self):
        self.prometheus.close()
