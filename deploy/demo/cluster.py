"""Throwaway PostgreSQL clusters for the demo and the tests.

    with Cluster("core", settings={"wal_level": "logical"}) as core:
        core.psql("create table t (a int)")
        psycopg.connect(core.conninfo())

A cluster lives in a temporary folder, listens on a unix socket only, and is gone when Python ends, by
whatever way but SIGKILL. When run as root, PostgreSQL itself runs as `postgres` (else `nobody`).
"""
import atexit
import ctypes
import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time

ARGUMENT_MAX = 100_000      # longer SQL goes to psql by its input, as one transaction like -c

_alive = []
_libc = ctypes.CDLL(None)
_lock = threading.Lock()
_hooked = False


def bindir():
    """The folder of initdb and postgres: the newest under /usr/lib/postgresql, else what pg_config says."""
    def version(path):
        name = path.split("/")[-2]
        return int(name) if name.isdigit() else 0
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=version)
    found = [f for f in found if os.path.exists(f + "/initdb")]
    if not found:
        try:
            found = [subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True,
                                    check=True).stdout.strip()]
        except (OSError, subprocess.CalledProcessError):
            pass
    if not found or not os.path.exists(found[-1] + "/initdb"):
        raise RuntimeError("no initdb found: install Debian's package postgresql")
    return found[-1]


def _demoted():
    """Arguments of Popen that drop root, and the user's name; {} when we are not root."""
    if os.geteuid() != 0:
        return {}, pwd.getpwuid(os.geteuid()).pw_name
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}, name
    raise RuntimeError("PostgreSQL does not run as root, and there is no user postgres or nobody")


def _cleanup():
    for cluster in list(_alive):
        cluster.destroy()


def _on_signal(number, _frame):
    _cleanup()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _hook():
    """Cleans up at exit and at the signals that would end us without it (unless somebody handles them)."""
    global _hooked
    if _hooked:
        return
    _hooked = True
    atexit.register(_cleanup)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, _on_signal)


class Cluster:
    """One PostgreSQL server. `name` is for its folder and messages; `port` only names the socket."""

    SETTINGS = {
        "listen_addresses": "", "wal_level": "logical", "max_wal_senders": 10, "max_replication_slots": 10,
        "max_connections": 50, "shared_buffers": "128MB", "fsync": "off", "full_page_writes": "off",
        "timezone": "UTC", "log_timezone": "UTC", "log_line_prefix": "%m [%p] ", "log_statement": "none",
        "dynamic_shared_memory_type": "mmap", "max_wal_size": "4GB", "autovacuum_naptime": "10s", "max_slot_wal_keep_size": "8GB",
    }

    folder = None       # where clusters are made; None: the folder for temporary files
    tied = False        # True: a server ends at once with the process that started it, by SIGKILL, too

    def __init__(self, name="cluster", port=5432, settings=None, parent=None, database="lana"):
        self.name, self.port, self.database = name, port, database
        self.bin = bindir()
        self.demote, self.user = _demoted()
        self.dir = tempfile.mkdtemp(prefix=f"{name}-", dir=parent or self._parent())
        self.data, self.socket, self.log = (os.path.join(self.dir, n) for n in ("data", "s", "log"))
        self.settings = {**self.SETTINGS, **(settings or {})}
        self.process = None
        if self.demote:
            os.chown(self.dir, self.demote["user"], self.demote["group"])
        os.chmod(self.dir, 0o755)
        with _lock:
            _alive.append(self)
            _hook()

    def _parent(self):
        """Where PostgreSQL's user can reach it: `folder`, the folder for temporary files, or /tmp."""
        if self.folder:
            return self.folder
        path = tempfile.gettempdir()
        while self.demote and path != "/":
            if not os.stat(path).st_mode & 0o001:
                return "/tmp"
            path = os.path.dirname(path)
        return None

    # life -------------------------------------------------------------------------------------
    def create(self):
        """initdb, settings, start, the database. Trust on the socket: superuser is `postgres`."""
        self._run("initdb", "--no-sync", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
                  "--locale=C.UTF-8")
        self._run_command(["mkdir", "-m", "755", self.socket])
        self.configure({})
        self.start()
        if self.database != "postgres":
            self.psql(f'create database "{self.database}"', database="postgres")
        return self

    def configure(self, settings):
        """Writes settings; they take effect at the next start or reload()."""
        self.settings.update(settings)
        lines = [f"{k} = '{v}'\n" for k, v in {**self.settings, "port": self.port,
                                               "unix_socket_directories": self.socket}.items()]
        path = os.path.join(self.data, "postgresql.auto.conf")
        temporary = os.path.join(self.dir, "conf")
        with open(temporary, "w", encoding="utf-8") as out:
            out.writelines(lines)
        if self.demote:
            os.chown(temporary, self.demote["user"], self.demote["group"])
        os.replace(temporary, path)

    def start(self, timeout=60):
        """Starts the server and waits until it takes connections."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [self.bin + "/postgres", "-D", self.data], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd="/", start_new_session=True, preexec_fn=self._tie if self.tied else None, **self.demote)
        deadline = time.monotonic() + timeout
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: PostgreSQL did not start:\n{self.log_tail()}")
            time.sleep(0.05)
        return self

    @staticmethod
    def _tie():
        """In the child, behind its change of user: SIGQUIT comes when the parent is gone."""
        pr_set_pdeathsig = 1
        _libc.prctl(pr_set_pdeathsig, signal.SIGQUIT)

    def is_ready(self):
        return subprocess.run([self.bin + "/pg_isready", "-q", "-h", self.socket, "-p", str(self.port)],
                              check=False).returncode == 0

    def stop(self, mode="fast", timeout=60):
        """mode fast: sessions are ended, a clean shutdown. immediate: as after a crash."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal({"smart": signal.SIGTERM, "fast": signal.SIGINT,
                                      "immediate": signal.SIGQUIT}[mode])
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill9()
        self.process = None

    def restart(self, mode="fast"):
        self.stop(mode)
        return self.start()

    def kill9(self):
        """The whole server at once, postmaster and children, without any chance to write."""
        if self.process is None:
            return
        children = self._children(self.process.pid)
        for pid in [self.process.pid] + children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        self.process = None
        deadline = time.monotonic() + 10
        while any(os.path.exists(f"/proc/{pid}") for pid in children) and time.monotonic() < deadline:
            time.sleep(0.01)

    def reload(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGHUP)

    def destroy(self):
        """Stops it and removes its folder and what a killed server left in shared memory."""
        try:
            self.stop("immediate", 10)
            self._remove_segment()
        finally:
            shutil.rmtree(self.dir, ignore_errors=True)
            with _lock:
                if self in _alive:
                    _alive.remove(self)

    def __enter__(self):
        try:
            return self.create()
        except BaseException:
            self.destroy()
            raise

    def __exit__(self, *_):
        self.destroy()

    # use --------------------------------------------------------------------------------------
    def conninfo(self, database=None, user="postgres", **more):
        """A libpq connection string."""
        parts = {"host": self.socket, "port": self.port, "dbname": database or self.database, "user": user, **more}
        return " ".join(f"{k}='{v}'" for k, v in parts.items())

    def psql(self, sql=None, file=None, database=None, user="postgres"):
        """Runs SQL or a file with psql; returns its unaligned output, raises with its error text."""
        command = [self.bin + "/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1",
                   self.conninfo(database, user)]
        command += ["-f", file] if file else ["-c", sql] if len(sql) < ARGUMENT_MAX else ["-1", "-f", "-"]
        done = subprocess.run(command, input=None if file else sql, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{self.name}: psql: {done.stderr.strip()}")
        return done.stdout.strip()

    def log_tail(self, lines=30):
        try:
            with open(self.log, encoding="utf-8", errors="replace") as log:
                return "".join(log.readlines()[-lines:])
        except OSError:
            return ""

    # helpers ----------------------------------------------------------------------------------
    def _run(self, program, *arguments):
        self._run_command([f"{self.bin}/{program}", *arguments])

    def _run_command(self, command):
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False,
                              env={**os.environ, "LC_ALL": "C.UTF-8"}, **self.demote)
        if done.returncode:
            raise RuntimeError(f"{self.name}: {os.path.basename(command[0])} failed:\n{done.stdout}{done.stderr}")

    def _remove_segment(self):
        """A killed server's lock file names the System V segment that nobody will remove."""
        try:
            with open(os.path.join(self.data, "postmaster.pid"), encoding="utf-8") as f:
                lines = f.read().split("\n")
        except OSError:
            return
        if len(lines) > 6 and len(lines[6].split()) == 2:
            subprocess.run(["ipcrm", "-m", lines[6].split()[1]], stderr=subprocess.DEVNULL, check=False)

    @staticmethod
    def _children(pid):
        """The direct children of pid."""
        found = []
        for stat in glob.glob("/proc/[0-9]*/stat"):
            try:
                with open(stat, encoding="utf-8", errors="replace") as f:
                    text = f.read()
            except OSError:
                continue
            if int(text.rpartition(")")[2].split()[1]) == pid:
                found.append(int(text.split(" ", 1)[0]))
        return found
