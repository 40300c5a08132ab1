"""The estate that stays: `up` starts a keeper in the background, which holds everything until `down`.

All of it is in one folder per user. The keeper holds a lock on a file there for as long as it lives, so that
nobody has to trust a process id.
"""
import fcntl
import glob
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

import psycopg

from button import ask_outside
from estate import Estate, Failed, private
from steps import Ended, catch_up, explain, prepare, show_proof
import proof as proof_

DEMO = os.path.join(os.path.dirname(os.path.abspath(__file__)), "demo.py")


def base():
    """Where temporary folders go: one that PostgreSQL's user can reach, with room for a socket's name."""
    path = tempfile.gettempdir()
    at = path
    while os.geteuid() == 0 and at != "/":
        if not os.stat(at).st_mode & stat.S_IXOTH:
            return "/tmp"
        at = os.path.dirname(at)
    return path if len(path) < 40 else "/tmp"


def folder():
    return os.path.join(base(), "rolag-demo-" + pwd.getpwuid(os.geteuid()).pw_name)


def opened(path, create):
    """The lock file, open; None where there is no folder. The folder must be ours: others may write to /tmp."""
    if create:
        try:
            os.mkdir(path, 0o711)
        except FileExistsError:
            pass
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise Failed(f"{path} is not ours; remove it")
    return open(os.path.join(path, "lock"), "a+", encoding="utf-8")


def locked(lock):
    """True when we have it now; False when a keeper holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def keeper_of(lock):
    lock.seek(0)
    text = lock.read().strip()
    return int(text) if text else None


# ---- up -----------------------------------------------------------------------------------------

def up(screen, a):
    path = folder()
    with opened(path, True) as lock:
        if not locked(lock):
            if not os.path.exists(os.path.join(path, "ready")):
                screen.say("  It is being started just now.")
                return 1
            screen.say("\n  It is up already.")
            return invite(screen, a, path)
        clean(path)
        keeper = subprocess.Popen(
            [sys.executable, DEMO, "keep", "--folder", path, "--rolag", a.rolag, "--rate", str(a.rate),
             "--history", str(a.history)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            pass_fds=[lock.fileno()], env={**os.environ, "ROLAG_DEMO_LOCK": str(lock.fileno())},
            start_new_session=True)
    try:
        for line in keeper.stdout:      # until it turns to its log
            screen.say(line.rstrip("\n"))
    except Ended:
        keeper.terminate()
        keeper.wait(60)
        raise
    if not os.path.exists(os.path.join(path, "ready")):
        keeper.wait(60)
        return 1
    return invite(screen, a, path)


def keep(screen, a):
    """The background process."""
    lock = int(os.environ.pop("ROLAG_DEMO_LOCK"))
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    estate = Estate(a.folder, a.rolag)
    try:
        note(a.folder, "token", estate.serve_page())
        note(a.folder, "page", f"http://127.0.0.1:{estate.port}/")
        prepare(screen, estate, a.history, a.rate, reconnect=3600)
        estate.load.order()
        with psycopg.connect(estate.warehouse.conninfo(), autocommit=True) as warehouse:
            ask_outside(warehouse, estate)
            note(a.folder, "facility", proof_.rich_facility(warehouse))
            note(a.folder, "load", str(estate.load.process.pid))
        note(a.folder, "ready", "")
        log = os.open(os.path.join(a.folder, "keeper.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        while True:
            signal.pause()
    except Ended:
        return 0
    except (Failed, RuntimeError, OSError, psycopg.Error) as error:
        explain(screen, estate, error)
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        estate.close()


def note(path, name, text):
    with open(os.path.join(path, name), "w", encoding="utf-8", opener=private) as out:
        out.write(text + "\n")


def noted(path, name):
    with open(os.path.join(path, name), encoding="utf-8") as f:
        return f.read().strip()


def invite(screen, a, path):
    """How to get in, and what to try."""
    rolag = f"{os.path.relpath(a.rolag)} --config {path}/rolag.yaml"
    def head(text):
        screen.say("\n  " + screen.style(text, "bold"))
    def entry(name, text):
        screen.say("    " + screen.style(f"{name:<11}", "dim") + text)
    def command(what, text):
        screen.say("    " + screen.style(what, "dim"))
        screen.say("      " + text)
    head("The bank is open, at a low rate, until `make demo-down`.")
    entry("core", f"psql -h {path}/core -p 5432 -U postgres lana")
    entry("warehouse", f"psql -h {path}/warehouse -p 5432 -U postgres warehouse")
    entry("config", f"{path}/rolag.yaml")
    entry("logs", f"{path}/rolag.log  core.log  warehouse.log  load.log")
    entry("page", f"{noted(path, 'page')}  with the token {noted(path, 'token')}")
    head("Try")
    command("watch it", f"{rolag} status --watch")
    command(f"all reports of this moment; the files are in {path}/reports", f"{rolag} report run --wait")
    command("kill a role in mid-work; rolag run starts it again, and nothing is lost or there twice",
            f"kill -9 $(pgrep -f 'rolag apply --config {path}/')")
    command("prove it: the load is held for a moment while both sides are compared",
            f"{os.path.relpath(DEMO)} proof")
    command("one credit facility's life", f"{rolag} story {noted(path, 'facility')}")
    command("facilities by state, as of milliseconds ago",
            f"psql -h {path}/warehouse -p 5432 -U postgres warehouse -c 'select collateralization_state,\n"
            "        count(*), sum(amount / 100) as dollars from raw.core_credit_facility_events_rollup_latest group by 1'")
    screen.say()
    return 0


# ---- proof --------------------------------------------------------------------------------------

def proof(screen, a):
    """Compares both sides of the estate that is up, with the load held in between."""
    path = folder()
    lock = opened(path, False)
    if lock is None or locked(lock) or not os.path.exists(os.path.join(path, "ready")):
        screen.say("  Nothing is up: make demo-up")
        return 1
    estate = Attached(path, a.rolag)
    load = int(noted(path, "load"))
    try:
        os.kill(load, signal.SIGSTOP)
        with psycopg.connect(estate.core.conninfo(), autocommit=True) as core, \
                psycopg.connect(estate.warehouse.conninfo(), autocommit=True) as warehouse:
            estate.settle(core)
            screen.done("the warehouse has passed the core's last commit", catch_up(estate, warehouse))
            good, _ = show_proof(screen, core, warehouse)
    except (Failed, OSError, psycopg.Error) as error:
        explain(screen, estate, error)
        return 1
    finally:
        try:
            os.kill(load, signal.SIGCONT)
        except ProcessLookupError:
            pass
    return 0 if good else 1


class Attached(Estate):
    """An estate that a keeper holds."""

    class Side:
        def __init__(self, path, database):
            self.path, self.database = path, database

        def conninfo(self):
            return f"host={self.path} port=5432 user=postgres dbname={self.database}"

    def __init__(self, path, rolag):    # pylint: disable=super-init-not-called
        self.folder, self.rolag, self.load, self.run = path, rolag, None, None
        self.config, self.log = (os.path.join(path, n) for n in ("rolag.yaml", "rolag.log"))
        self.core, self.warehouse = self.Side(path + "/core", "lana"), self.Side(path + "/warehouse", "warehouse")

    @staticmethod
    def settle(core):
        """What the load had sent is done."""
        deadline = time.monotonic() + 20
        while core.execute("select from pg_stat_activity where application_name = 'lana_load'"
                           " and state <> 'idle'").rowcount:
            if time.monotonic() > deadline:
                raise Failed("the load's last transaction does not end")
            time.sleep(0.02)


# ---- down ---------------------------------------------------------------------------------------

def down(screen, _):
    path = folder()
    lock = opened(path, False)
    if lock is None:
        screen.say("  Nothing is up.")
        return 0
    with lock:
        if not locked(lock):
            keeper = keeper_of(lock)
            if keeper:
                os.kill(keeper, signal.SIGTERM)
            deadline = time.monotonic() + 60
            while not locked(lock):
                if time.monotonic() > deadline:
                    raise SystemExit(f"the keeper (process {keeper}) does not end")
                time.sleep(0.05)
        if os.path.isdir(path):     # the keeper died without its last act
            clean(path)
            shutil.rmtree(path, ignore_errors=True)
    screen.say("  Stopped; everything is deleted.")
    return 0


def clean(path):
    """What a keeper that was killed has left in its folder: servers, roles, files, shared memory."""
    for pid, words in list(ours(path)):
        server = words[0].endswith("/postgres")
        stop(pid, signal.SIGINT if server else signal.SIGTERM)
    for pid_file in glob.glob(path + "/*/data/postmaster.pid"):
        with open(pid_file, encoding="utf-8") as f:
            segment = (f.read().split("\n") + [""] * 7)[6].split()
        if len(segment) == 2:
            subprocess.run(["ipcrm", "-m", segment[1]], stderr=subprocess.DEVNULL, check=False)
    for name in os.listdir(path):
        if name == "lock":
            continue
        entry = os.path.join(path, name)
        if os.path.isdir(entry) and not os.path.islink(entry):
            shutil.rmtree(entry, ignore_errors=True)
        else:
            os.unlink(entry)


def ours(path):
    """(pid, command line) of the servers, roles and loads that work in the folder; not a user's psql or editor."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/cmdline", encoding="utf-8", errors="replace") as f:
                words = f.read().split("\0")
        except OSError:
            continue
        program = os.path.basename(words[0])
        load = any(w.endswith("/demo_load.py") for w in words)
        if (program in ("postgres", "rolag") or load) and any(path + "/" in w for w in words):
            yield int(name), words


def stop(pid, number):
    """Asks until it is gone; then insists."""
    deadline = time.monotonic() + 15
    try:
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, number)
        while time.monotonic() < deadline:
            time.sleep(0.05)
            os.kill(pid, 0)
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
