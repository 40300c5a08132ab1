"""rolag's machine without systemd: units of deploy/systemd, run as systemd would, for tests of the runbook.

The shell that runs a page finds `systemctl` and `journalctl` of tests/system/shim first in its PATH; both ask the machine
here, which starts, stops and watches real processes by what the unit files say: environment, the passfile copied anew at each
start, READY and STATUS by NOTIFY_SOCKET, the restart policy. What it does not know it refuses (exit code 1), so that a page
with such a command fails. The sandbox of the units is not here: `make test-deb` has it.

Paths of an installed rolag (/etc/rolag, /var/lib/rolag…) become folders of the test: `here` rewrites a page's text. There is an
`apt-get install`, too: of `package`, a program, with the restarts of the package (`make test-deb` has the real one).
"""
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time

import yaml

from pipeline import ROOT, TIMEOUT, Process
from program import ROLAG
from shell import Shell

SHIM = os.path.join(ROOT, "tests", "system", "shim")
SYSTEMD = os.path.join(ROOT, "deploy", "systemd")
RESTART_SECONDS = 0.5       # the unit's 2 s, for tests


class Refused(Exception):
    """A command that this systemctl or journalctl does not know."""


class Unit:
    """One service: what its file says, and its process."""

    def __init__(self, machine, name):
        self.machine, self.name, self.role = machine, name, name.removeprefix("rolag-")
        with open(os.path.join(SYSTEMD, name + ".service"), encoding="utf-8") as f:
            pairs = [line.split("=", 1) for line in f.read().splitlines() if re.match(r"[A-Z]\w+=", line)]
        self.keys = {}
        for key, value in pairs:
            self.keys.setdefault(key, []).append(machine.here(value))
        self.written = list(self.keys["ReadWritePaths"])
        self.log = os.path.join(machine.folder, self.role + ".log")
        self.process, self.failed, self.wanted, self.ready, self.status, self.restarts = None, None, False, False, "", 0
        self.enabled = False
        self.lock = threading.RLock()
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify_path = os.path.join(machine.run_folder, self.role + ".notify")
        self.notify.bind(self.notify_path)
        self.notify.settimeout(0.05)
        threading.Thread(target=self.watch, daemon=True).start()

    def active(self):
        return self.process is not None and self.process.running()

    def state(self):
        """As `systemctl is-active` says it."""
        if self.active():
            return "active" if self.ready else "activating"
        return "failed" if self.failed is not None else "activating" if self.wanted else "inactive"

    def read_drop_ins(self):
        """What `systemctl daemon-reload` reads: further ReadWritePaths, and nothing else."""
        folder = os.path.join(self.machine.systemd, self.name + ".service.d")
        self.written = list(self.keys["ReadWritePaths"])
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            with open(os.path.join(folder, name), encoding="utf-8") as f:
                for line in f.read().splitlines():
                    key, _, value = line.partition("=")
                    if line not in ("", "[Service]") and key != "ReadWritePaths":
                        raise Refused(f"a drop-in with {key}")
                    self.written += [value] if value else []

    def spool_is_closed(self):
        """The sandbox would not let it write where the configuration has the spool."""
        with open(self.machine.config, encoding="utf-8") as f:
            try:
                spool = (yaml.safe_load(f).get("spool") or {}).get("dir")
            except (yaml.YAMLError, AttributeError):
                return False        # the program will say so
        return self.role != "reports" and spool and not any(os.path.commonpath([spool, w]) == w for w in self.written)

    def spawn(self):
        """What a start does, without waiting."""
        if self.spool_is_closed():
            raise FileNotFoundError("the spool's folder in ReadWritePaths=")
        folder = os.path.join(self.machine.run_folder, self.name)
        os.makedirs(folder, 0o700, exist_ok=True)
        for line in self.keys["ExecStartPre"]:
            words = shlex.split(line.removeprefix("+"))
            assert words[:3] == ["/usr/bin/install", "-m", "600"], words
            source, target = words[-2:]
            if not os.path.exists(source):
                raise FileNotFoundError(source)
            shutil.copyfile(source, target + ".new")
            os.chmod(target + ".new", 0o600)
            os.replace(target + ".new", target)
        words = shlex.split(self.keys["ExecStart"][0])
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "ROLAG"))}
        env |= dict(pair.split("=", 1) for pair in self.keys["Environment"])
        env |= {"NOTIFY_SOCKET": self.notify_path, "PATH": self.machine.env["PATH"], "HOME": self.machine.state}
        env |= self.machine.unit_env
        self.ready, self.failed, self.status = False, None, ""
        self.process = MachineProcess(self.role, words, self.log, env, self.machine.state)
        self.machine.processes.append(self.process)

    def watch(self):
        """Hears what the process says, and starts it again as Restart=on-failure does."""
        ended_at = None
        while not self.machine.closed:
            try:
                said, sender = self.notify.recv(4096).decode(), True
            except (TimeoutError, OSError):
                said, sender = "", False
            with self.lock:
                if sender and self.process is not None:
                    for line in said.splitlines():
                        if line == "READY=1":
                            self.ready = True
                        elif line.startswith("STATUS="):
                            self.status = line[7:]
                if not self.wanted or self.process is None or self.process.running():
                    ended_at = None
                    continue
                code = self.process.popen.returncode
                never = [int(w) for w in self.keys["RestartPreventExitStatus"][0].split()]
                if code in (0, -signal.SIGTERM) or code in never:
                    self.wanted, self.failed = False, None if code in (0, -signal.SIGTERM) else code
                    continue
                ended_at = ended_at or time.monotonic()
                if time.monotonic() - ended_at >= RESTART_SECONDS:
                    ended_at, self.restarts = None, self.restarts + 1
                    self.spawn()

    def start(self):
        """"" when it is ready, else what systemctl says."""
        with self.lock:
            if not self.active():
                try:
                    self.spawn()
                except FileNotFoundError as missing:
                    self.failed = 1
                    return f"Job for {self.name}.service failed: {missing} is not there.\n"
                self.wanted, self.restarts = True, 0
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            with self.lock:
                if self.ready and self.active():
                    return ""
                if not self.wanted or self.restarts:
                    return f"Job for {self.name}.service failed because the control process exited with error code.\n"
            time.sleep(0.02)
        return f"Job for {self.name}.service failed because a timeout was exceeded.\n"

    def restart(self):
        self.stop()
        return self.start()

    def stop(self):
        with self.lock:
            self.wanted, process = False, self.process
            if process is not None and process.running():
                process.signal(signal.SIGTERM)
        if process is not None:
            try:
                process.wait(60)
            except AssertionError:
                process.kill9()
        with self.lock:
            code = process.popen.returncode if process is not None else 0
            if self.failed is None:
                self.failed = None if code in (0, -signal.SIGTERM) else code
            shutil.rmtree(os.path.join(self.machine.run_folder, self.name), ignore_errors=True)
        return ""

    def reload(self):
        if not self.active():
            return f"{self.name}.service is not active, cannot reload.\n"
        self.process.signal(signal.SIGHUP)
        return ""

    def describe(self):
        """The head of `systemctl status`, and the newest lines of its log."""
        state = {"active": "active (running)", "inactive": "inactive (dead)", "activating": "activating (auto-restart)",
                 "failed": f"failed (Result: exit-code), status={self.failed}"}[self.state()]
        lines = [f"{'●' if self.active() else '○' if self.failed is None else '×'} {self.name}.service - "
                 f"{self.keys['Description'][0]}", f"     Active: {state}"]
        if self.active():
            lines += [f"   Main PID: {self.process.pid} (rolag)", f'     Status: "{self.status}"']
        return "\n".join(lines + [""] + self.lines()[-10:]) + "\n"

    def lines(self):
        if not os.path.exists(self.log):
            return []
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read().splitlines()


class MachineProcess(Process):
    """One with no environment but its own, and a working directory."""

    def __init__(self, name, command, log, env, folder):
        self.name, self.command, self.log = name, command, log
        self.begin = os.path.getsize(log) if os.path.exists(log) else 0
        with open(log, "ab") as out:
            self.popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=folder)
        self.pid = self.popen.pid


class Machine:
    """Folders for /etc/rolag, /var/lib/rolag, /run, /usr/bin; the units; a shell for the page.

    `env`: variables of the page's shell beside those that are made here (PATH, HOME).
    """

    def __init__(self, folder, env=None):
        self.folder, self.closed, self.processes, self.units, self.unit_env = str(folder), False, [], {}, {}
        self.etc, self.state, self.run_folder, self.bin = (
            os.path.join(self.folder, n) for n in ("etc", "lib", "run", "bin"))
        for path, mode in ((self.etc, 0o755), (self.state, 0o750), (os.path.join(self.state, "spool"), 0o700),
                           (self.run_folder, 0o755), (self.bin, 0o755)):
            os.makedirs(path, mode, exist_ok=True)
        self.srv, self.systemd, self.home = (os.path.join(self.folder, n) for n in ("srv", "systemd", "home"))
        os.makedirs(self.srv)
        self.package = ROLAG
        self.config = os.path.join(self.etc, "rolag.yaml")
        self.install(ROLAG)
        for name in ("pgpass", "pgpass-reports"):
            self.write_passfile("", name)
        ours = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "MAKE", "MFLAGS", "ROLAG"))}
        self.env = {**ours, "PATH": f"{SHIM}:{self.bin}:{ours['PATH']}", "HOME": self.home, "PGPASSFILE": os.path.join(self.etc, "pgpass"),
                    "MACHINE_SHIM": os.path.join(self.run_folder, "shim"), "ROLAG_CONFIG": self.config, **(env or {})}
        os.makedirs(self.home, 0o700, exist_ok=True)
        self.units = {name: Unit(self, name) for name in ("rolag-capture", "rolag-apply", "rolag-reports")}
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.env["MACHINE_SHIM"])
        self.listener.listen(8)
        threading.Thread(target=self.serve, daemon=True).start()
        self.shell = Shell(self.folder, self.env, self.home)

    # what a page calls by its installed name ------------------------------------------------------
    def here(self, text):
        """A page's text, or a unit's line, with this machine's paths."""
        ours = {"/etc/rolag": self.etc, "/var/lib/rolag": self.state, "/usr/bin/rolag": self.bin + "/rolag",
                "/srv": self.srv, "/etc/systemd/system": self.systemd, "%t/": self.run_folder + "/"}
        return re.sub("(?<![\\w./])(?:" + "|".join(ours) + ")", lambda m: ours[m[0]], text)

    def install(self, program):
        """The program as /usr/bin/rolag; what runs goes on with the one that it has."""
        path = os.path.join(self.bin, "rolag")
        if os.path.lexists(path + ".new"):
            os.unlink(path + ".new")
        os.symlink(program, path + ".new")
        os.replace(path + ".new", path)

    def write_passfile(self, text, name="pgpass"):
        with open(os.path.join(self.etc, name), "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o600)) as f:
            f.write(text)

    def run(self, text):
        """A block of a page, as root there: (exit code, what it printed)."""
        return self.shell.run(self.here(text))

    # systemctl, journalctl --------------------------------------------------------------------------
    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(client,), daemon=True).start()

    def answer(self, client):
        with client:
            asked = b""
            while not asked.endswith(b"\n"):
                asked += client.recv(65536)
            words = json.loads(asked)
            try:
                answer = getattr(self, words[0].replace("-", "_"))(words[1:])
            except Exception as why:     # the page's command must fail, whatever it is
                answer = (1, "", f"{words[0]} of the tests: {why!r}: {' '.join(words)}\n")
            client.sendall(json.dumps(answer).encode())

    def named(self, names):
        """The units that these names mean; a target is what belongs to it."""
        if not names:
            raise Refused("no unit")
        found = []
        for name in names:
            name = name.removesuffix(".service")
            if name != "rolag.target" and name not in self.units:
                raise Refused(f"no unit {name}")
            found.append(name)
        return found

    def wanted(self):
        """What `rolag.target` wants."""
        with open(os.path.join(SYSTEMD, "rolag.target"), encoding="utf-8") as f:
            return [n.removesuffix(".service") for n in re.search("^Wants=(.*)$", f.read(), re.M)[1].split()]

    def parts(self, running):
        """The units that are part of the target."""
        return [n for n, u in self.units.items() if "rolag.target" in u.keys.get("PartOf", []) and (u.wanted or not running)]

    def systemctl(self, words):
        """(exit code, stdout, stderr)."""
        flags = [w for w in words if w.startswith("-")]
        rest = [w for w in words if not w.startswith("-")]
        if not rest or set(flags) - {"--now", "--no-pager", "-s", "-q", "--quiet"}:
            raise Refused("an option that is not known" if rest else "no command")
        verb, names = rest[0], rest[1:]
        if verb == "daemon-reload" and not names:
            for unit in self.units.values():
                unit.read_drop_ins()
            return 0, "", ""
        if verb == "kill":
            return self.kill(flags, names)
        if "-s" in flags or "--now" in flags and verb not in ("enable", "disable"):
            raise Refused("an option that does not belong here")
        units = self.named(names)
        if verb in ("enable", "disable"):
            for unit in units:
                for name in [unit] if unit in self.units else []:
                    self.units[name].enabled = verb == "enable"
            if "--now" not in flags:
                return 0, "", ""
            verb = "start" if verb == "enable" else "stop"
        if verb in ("start", "stop", "restart"):
            said = self.act(verb, units)
            return (1 if said else 0), "", said
        if verb == "reload" and "rolag.target" not in units:
            said = "".join(self.units[u].reload() for u in units)
            return (1 if said else 0), "", said
        if verb == "is-active":
            states = [self.unit_state(u) for u in units]
            quiet = {"-q", "--quiet"} & set(flags)
            return (0 if "active" in states else 3), "" if quiet else "\n".join(states) + "\n", ""
        if verb == "reset-failed":
            for unit in units:
                self.units[unit].failed = None
            return 0, "", ""
        if verb == "status" and "rolag.target" not in units:
            text = "\n".join(self.units[u].describe() for u in units)
            return (0 if all(self.units[u].active() for u in units) else 3), text, ""
        raise Refused("a command that is not known")

    def kill(self, flags, names):
        """-s SIGNAL UNIT."""
        if flags != ["-s"] or len(names) != 2:
            raise Refused("not kill -s SIGNAL UNIT")
        unit = self.units[self.named(names[1:])[0]]
        if not unit.active():
            return 1, "", f"{unit.name}.service is not active.\n"
        unit.process.signal(getattr(signal, "SIG" + names[0].removeprefix("SIG")))
        return 0, "", ""

    def unit_state(self, name):
        if name != "rolag.target":
            return self.units[name].state()
        return "active" if any(self.units[u].wanted for u in self.wanted()) else "inactive"

    def act(self, verb, names):
        """Starts, stops or restarts; "" or what failed. A target does not fail with what it wants."""
        said = []
        for name in names:
            if name == "rolag.target":
                running = self.parts(running=True)
                if verb != "start":
                    self.together("stop", running)
                if verb != "stop":
                    self.together("start", dict.fromkeys(self.wanted() + running))
            else:
                if verb != "start":
                    self.units[name].stop()
                if verb != "stop":
                    said.append(self.units[name].start())
        return "".join(said)

    def together(self, verb, names):
        threads = [threading.Thread(target=getattr(self.units[n], verb)) for n in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def apt_get(self, words):
        """install [-y] ./rolag_*.deb: the program, and a restart of what runs."""
        if words[:1] != ["install"] or [w for w in words[1:] if w not in ("-y", "--allow-downgrades")] != ["./rolag_*.deb"]:
            raise Refused("not install -y ./rolag_*.deb")
        self.install(self.package)
        self.together("restart", [n for n, u in self.units.items() if u.wanted])
        return 0, "", ""

    def journalctl(self, words):
        """-u UNIT… [-S -1h] [-n LINES] [-g PATTERN] [--no-pager] [-q] [-o cat]: the lines as the roles wrote them."""
        units, since, pattern, count = [], None, None, None
        words = iter(words)
        for word in words:
            if word in ("--no-pager", "-q"):
                continue
            value = next(words, None)
            if value is None:
                raise Refused("an option without its value")
            if word == "-u":
                units += self.named([value])
            elif word == "-S":
                since = self.since(value)
            elif word == "-g":
                pattern = re.compile(value, re.I if value == value.lower() else 0)
            elif word == "-n" and value.isdigit():
                count = int(value)
            elif (word, value) != ("-o", "cat"):
                raise Refused("an option that is not known")
        if not units:
            raise Refused("no unit")
        found = []
        for name in units:
            stamp = ""
            for line in self.units[name].lines():
                stamp = (re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line) or [stamp])[0]
                if (since is None or stamp >= since) and (pattern is None or pattern.search(line)):
                    found.append((stamp, line))
        found.sort(key=lambda pair: pair[0])
        lines = [line for _, line in found][-count if count else 0:]
        # as the real one does when nothing matches
        return (0 if lines or pattern is None else 1), "\n".join(lines or ["-- No entries --"]) + "\n", ""

    @staticmethod
    def since(value):
        """The stamp of a time as `-S` has it: -90s, -5min, -1h, -2d, or a date with its time (UTC)."""
        relative = re.fullmatch(r"-(\d+)(s|min|m|h|d)", value)
        if relative:
            seconds = int(relative[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}[relative[2]]
            return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() - seconds))
        if re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", value):
            return value.replace(" ", "T")
        raise Refused("a time that is not known")

    # its end ------------------------------------------------------------------------------------------
    def close(self):
        self.closed = True
        self.shell.close()
        for unit in self.units.values():
            with unit.lock:
                unit.wanted = False
        for process in self.processes:
            process.kill9()
        self.listener.close()
