"""The systemd units: nothing wrong in them, tightly closed, and what the roles tell a manager."""
import os
import re
import select
import shutil
import socket
import subprocess
import time

import pytest

from conftest import ROOT
from program import ROLAG

SYSTEMD = os.path.join(ROOT, "deploy", "systemd")
UNITS = ["rolag-apply.service", "rolag-capture.service", "rolag-reports.service"]


def run(*words, **more):
    return subprocess.run(words, capture_output=True, text=True, timeout=120, **more)


def need(tool):
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed (make deps-test)")


def test_every_role_has_a_unit():
    assert sorted(n for n in os.listdir(SYSTEMD) if n.endswith(".service")) == UNITS


@pytest.mark.parametrize("unit", UNITS)
def test_the_exposure_is_below_two(unit):
    need("systemd-analyze")
    done = run("systemd-analyze", "security", "--offline=yes", "--threshold=19", os.path.join(SYSTEMD, unit))
    assert done.returncode == 0, done.stdout + done.stderr
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert 0 < float(level[1]) < 2.0


def test_systemd_finds_nothing_wrong(tmp_path):
    """In a folder with the units of a machine, and the programs that ours name."""
    need("systemd-analyze")
    units = tmp_path / "usr/lib/systemd/system"
    shutil.copytree("/usr/lib/systemd/system", units, symlinks=True)
    for name in os.listdir(SYSTEMD):
        shutil.copy(os.path.join(SYSTEMD, name), units)
    for program in (ROLAG, "/bin/sh", "/usr/bin/install"):
        for folder in ("usr/bin", "bin"):
            (tmp_path / folder).mkdir(exist_ok=True)
            shutil.copy(program, tmp_path / folder / os.path.basename(program))
    if (name := os.path.basename(ROLAG)) != "rolag":
        os.rename(tmp_path / "usr/bin" / name, tmp_path / "usr/bin/rolag")

    def verify():
        return run("systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", *UNITS, "rolag.target")
    done = verify()
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    path = units / "rolag-apply.service"
    path.write_text(path.read_text().replace("PrivateTmp=", "PrivateTemp="))
    assert "PrivateTemp" in verify().stderr     # it does look


def test_users_and_folders(tmp_path):
    need("systemd-sysusers")
    need("systemd-tmpfiles")
    (tmp_path / "etc").mkdir()
    done = run("systemd-sysusers", f"--root={tmp_path}", os.path.join(SYSTEMD, "rolag.sysusers"))
    assert done.returncode == 0, done.stderr
    users = dict(line.split(":", 1) for line in (tmp_path / "etc/passwd").read_text().splitlines())
    groups = {line.split(":")[0]: line.split(":")[3] for line in (tmp_path / "etc/group").read_text().splitlines()}
    assert set(users) == {"rolag", "rolag-reports"} and "rolag-reports" in groups["rolag"].split(",")
    assert all(u.endswith("/usr/sbin/nologin") for u in users.values())
    done = run("systemd-tmpfiles", f"--root={tmp_path}", "--create", os.path.join(SYSTEMD, "rolag.tmpfiles"))
    assert done.returncode == 0, done.stderr
    uid = {name: int(rest.split(":")[1]) for name, rest in users.items()}
    for path, mode, user in [("var/lib/rolag", 0o750, "rolag"), ("var/lib/rolag/spool", 0o700, "rolag"),
                             ("var/lib/rolag/reports", 0o2750, "rolag-reports"),
                             ("var/lib/rolag/reports.counters", 0o640, "rolag-reports"),
                             ("var/lib/rolag/reports.lock", 0o600, "rolag-reports"), ("etc/rolag/pgpass", 0o600, None),
                             ("etc/rolag/pgpass-reports", 0o600, None)]:
        seen = os.stat(tmp_path / path)
        assert (seen.st_mode & 0o7777, seen.st_uid) == (mode, uid.get(user, 0)), path


def test_restarts_follow_the_exit_codes():
    for unit in UNITS:
        text = open(os.path.join(SYSTEMD, unit), encoding="utf-8").read()
        assert "\nRestart=on-failure\n" in text and "\nRestartPreventExitStatus=100 2\n" in text
        assert "\nStartLimitIntervalSec=0\n" in text     # 111 is tried for ever
        assert "\nType=notify\n" in text and re.search(r"\nWatchdogSec=\d+min\n", text)
        assert re.search(r"\nExecStartPre=\+/usr/bin/install -m 600 .* /etc/rolag/pgpass", text) and "\nEnvironment=PGPASSFILE=%t/rolag-" in text
    assert "InaccessiblePaths=-/var/lib/rolag/spool" in text    # of rolag-reports, the last one


# ---- what a role says ----

class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, folder):
        self.path = str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.heard = []

    def wait_for(self, pattern, seconds=20):
        until = time.monotonic() + seconds
        while not any(re.match(pattern, line) for line in self.heard):
            left = until - time.monotonic()
            if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                return None
            self.heard += self.socket.recv(4096).decode().split("\n")
        return next(line for line in self.heard if re.match(pattern, line))

    def start(self, role, config, **env):
        return subprocess.Popen([ROLAG, role, "--config", str(config)], stderr=subprocess.PIPE, text=True,
                                env={**os.environ, "NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": "900000", **env})


@pytest.fixture
def manager(tmp_path):
    m = Manager(tmp_path)
    yield m
    m.socket.close()


@pytest.fixture
def config(tmp_path):
    """Of databases that are not there: a role waits for them, and that is no failure."""
    path = tmp_path / "rolag.yaml"
    path.write_text(f"""pipeline: t
state_dir: {tmp_path}/state
core: {{connect: "host={tmp_path} dbname=none"}}
warehouse: {{connect: "host={tmp_path} dbname=none"}}
rollups: {{path: {ROOT}/transforms/lana/rollups}}
reports: {{definitions: {ROOT}/transforms/lana/reports.yaml}}
models: {{path: {ROOT}/transforms/lana}}
""")
    return path


@pytest.mark.parametrize("role", ["capture", "apply", "reports", "run"])
def test_a_role_says_that_it_works_how_it_is_and_that_it_stops(manager, config, role):
    child = manager.start(role, config)
    try:
        assert manager.wait_for("READY=1")
        assert manager.wait_for("WATCHDOG=1")
        status = "STATUS=running: capture up, apply up" if role == "run" else r"STATUS=[a-z_]+: .*cannot connect to the"
        assert manager.wait_for(status), manager.heard
        manager.heard.clear()
        assert manager.wait_for("WATCHDOG=1")       # and again, though nothing happens
        child.send_signal(1)
        assert manager.wait_for("RELOADING=1") and manager.wait_for("MONOTONIC_USEC=[0-9]+")
        assert manager.wait_for("READY=1")
        child.terminate()
        assert manager.wait_for("STOPPING=1")
        assert child.wait(20) == 0
    finally:
        child.kill()
        child.communicate()


def test_who_does_not_get_the_lock_is_never_ready(manager, config):
    first = manager.start("capture", config)
    try:
        assert manager.wait_for("READY=1")
        manager.heard.clear()
        second = manager.start("capture", config, NOTIFY_SOCKET=manager.path)
        code = second.wait(20)
        second.communicate()
        assert code != 0
        first.terminate()
        assert first.wait(20) == 0
        assert manager.wait_for("STOPPING=1")
        assert "READY=1" not in manager.heard
    finally:
        first.kill()
        first.communicate()


def test_a_stopped_role_feeds_no_watchdog(manager, config):
    child = manager.start("apply", config)
    try:
        assert manager.wait_for("READY=1") and manager.wait_for("WATCHDOG=1")
        child.send_signal(19)
        while manager.wait_for(".", seconds=0.5):
            manager.heard.clear()
        assert manager.wait_for("WATCHDOG=1", seconds=2) is None
        child.send_signal(18)
        assert manager.wait_for("WATCHDOG=1")
    finally:
        child.kill()
        child.communicate()
