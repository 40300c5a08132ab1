"""README, "From the Debian package", followed to the letter on a fresh Debian with a systemd of its own, beside two
clusters; and what the page promises, looked at by other means."""
import glob
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "deploy", "demo"))
sys.path.insert(0, os.path.join(ROOT, "tests", "system"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from cluster import Cluster  # noqa: E402
from machine import Machine  # noqa: E402
from readme import blocks, free_port  # noqa: E402

HEADING = "## From the Debian package"
PASSWORD = "not a good one"


def cluster(name, database):
    c = Cluster(name, port=free_port(), database=database, settings={"listen_addresses": "127.0.0.1"}).create()
    with open(os.path.join(c.data, "pg_hba.conf"), "w", encoding="ascii") as f:
        f.write("local all all trust\nhost all postgres 127.0.0.1/32 trust\nhost all rolag 127.0.0.1/32 scram-sha-256\n")
    c.reload()
    return c


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Everything that the page's blocks need, and runs them one after the other."""
    if os.geteuid() != 0:
        pytest.skip("needs root: debootstrap and namespaces")
    packages = glob.glob(os.path.join(ROOT, "build/deb/rolag_*.deb"))
    assert len(packages) == 1, "make deb"
    folder = tmp_path_factory.mktemp("deb")
    machine = Machine(str(folder))
    clusters = []
    try:
        if (why := machine.install() or machine.boot()) is not None:
            pytest.skip(why)
        clusters += [cluster("core", "lana"), cluster("warehouse", "warehouse")]
        yield Page(machine, *clusters, packages[0])
    finally:
        machine.close()
        for c in clusters:
            c.destroy()


class Page:
    def __init__(self, machine, core, warehouse, package):
        self.machine, self.core, self.warehouse, self.package = machine, core, warehouse, package
        self.left = blocks(HEADING)
        self.env = {"PASSWORD": PASSWORD}
        for name, c in (("CORE", core), ("WAREHOUSE", warehouse)):
            self.env[name] = f"host=127.0.0.1 port={c.port} dbname={c.database}"

    def next(self, who):
        """Runs the next block, which must be that one's; what it printed."""
        language, name, text = self.left.pop(0)
        assert name == who
        if language == "sql":
            return self.core.psql(text)
        if name.startswith("rolag's machine"):
            return self.machine.run(f"set -e; cd /root\n{text}", **self.env)[1]
        if name.startswith("the DBAs"):     # psql asks for the password on a terminal; it is typed in
            text = text.replace(r"'\password rolag'", f"\"alter role rolag password '{PASSWORD}'\"")
            done = subprocess.run(["bash", "-e", "-c", text], cwd=self.machine.path("root"), capture_output=True, text=True,
                                  env={**os.environ, **self.env}, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout + done.stderr
        return None     # the variables, which are ours, and make deb, which made the package

    def fill(self):
        """A bank's past in the core, and what the models need that is not in the core."""
        self.core.psql(file=os.path.join(ROOT, "deploy/demo/core.sql"))
        for script, *words in (
                ["lana_load.py", "--connect", self.core.conninfo(), "--bulk", "--events", "1500", "--seed", "10",
                 "--scale", "0.3", "--ledger", "--start", "2025-01-01"],):
            subprocess.run([sys.executable, os.path.join(ROOT, "deploy/demo", script), *words], check=True,
                           capture_output=True)

    def outside(self):
        subprocess.run([sys.executable, os.path.join(ROOT, "deploy/demo/outside.py"), "--warehouse",
                        self.warehouse.conninfo(), "--days", "1"], check=True, capture_output=True)


def mode(machine, path):
    """(mode, user, group) as that machine names them."""
    return tuple(machine.run(f"stat -c '%a %U %G' {path}")[1].split())


def show(machine, unit, *names):
    text = machine.run(f"systemctl show {unit} " + " ".join(f"-p {n}" for n in names))[1]
    return dict(line.split("=", 1) for line in text.splitlines())


def test_the_page_from_the_package_to_its_purge(page):
    m = page.machine
    page.fill()
    page.next("everybody: yours, instead of these")
    page.next("a checkout")
    shutil.copy(page.package, m.path("root"))
    page.next("rolag's machine, as root, where the package is")
    assert mode(m, "/etc/rolag/rolag.yaml") == ("640", "root", "rolag")
    assert mode(m, "/etc/rolag/pgpass") == ("600", "root", "root")
    assert mode(m, "/var/lib/rolag") == ("750", "rolag", "rolag")
    assert mode(m, "/var/lib/rolag/spool") == ("700", "rolag", "rolag")
    assert show(m, "rolag-capture", "ActiveState", "UnitFileState") == {"ActiveState": "inactive", "UnitFileState": "disabled"}
    assert m.run("dpkg --verify rolag")[1].split("\n")[0] in ("", "??5?????? c /etc/rolag/rolag.yaml")
    page.next("the DBAs, where the files are")
    said = page.next("rolag's machine, as root")
    assert "FAIL" not in said and re.search(r"^Healthy", said, re.M)
    look_at_the_roles(page)
    page.outside()
    said = page.next("rolag's machine, as root")
    assert "published" in said
    run = re.search(r"\b[0-9a-f-]{8,}\b", said)[0]
    assert page.warehouse.psql("select count(*) from rolag.report_run where state = 'published'") == "1", run
    files = m.run("find /var/lib/rolag/reports -name '*.csv' -o -name manifest.json")[1].split()
    assert any(f.endswith("manifest.json") for f in files) and any(f.endswith("saldo_cuenta.csv") for f in files)
    look_at_restarts(page)
    look_at_an_upgrade(page)
    page.next("rolag's machine, as root")
    assert show(m, "rolag-apply", "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}
    page.next("core, as a superuser")
    assert page.core.psql("select count(*) from pg_replication_slots") == "0"
    page.next("rolag's machine, as root")
    assert page.left == []
    for path in ("/etc/rolag", "/var/lib/rolag", "/usr/bin/rolag", "/lib/systemd/system/rolag.target"):
        assert not os.path.lexists(m.path(path)), path
    assert m.run("ls /etc/systemd/system/multi-user.target.wants | grep rolag", check=False)[1] == ""
    assert m.run("dpkg-query -W -f='${Status}' rolag", check=False)[1].count("installed") in (0, 1)


def look_at_the_roles(page):
    """Each runs as its user, ready by its own word, closed in as the unit says; rows came over."""
    m = page.machine
    for role, user in (("capture", "rolag"), ("apply", "rolag"), ("reports", "rolag-reports")):
        unit = show(m, f"rolag-{role}", "ActiveState", "StatusText", "MainPID", "NRestarts", "WatchdogUSec")
        assert unit["ActiveState"] == "active" and unit["StatusText"].split(":")[0] in ("live", "idle"), unit
        assert (unit["NRestarts"], unit["WatchdogUSec"]) == ("0", "3min")
        status = m.run(f"cat /proc/{unit['MainPID']}/status; stat -c 'User: %U' /proc/{unit['MainPID']}")[1]
        assert f"User: {user}\n" in status
        for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
            assert line in status, (role, line)
        limits = m.run(f"grep 'Max core file size' /proc/{unit['MainPID']}/limits")[1]
        assert limits.split()[4:6] == ["1", "1"]
    assert int(page.warehouse.psql("select count(*) from raw.core_deposit_events_rollup")) > 0
    # An operator of the group sees how it goes; neither the spool nor a password.
    m.run("useradd -G rolag op")
    assert m.run("runuser -u op -- rolag status")[1].startswith("Healthy")
    for path in ("/etc/rolag/pgpass", "/var/lib/rolag/spool/."):
        assert m.run(f"runuser -u op -- ls -l {path}/ 2>&1; runuser -u op -- cat {path}", check=False)[0] != 0
    inside = m.run("runuser -u rolag-reports -- ls /var/lib/rolag/spool", check=False)
    assert inside[0] != 0 and "Permission denied" in inside[1]


def wait_for(what, done, seconds=60):
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, what
        time.sleep(0.5)


def look_at_restarts(page):
    """A kill and a stuck loop are started again; a configuration that a person must mend is not."""
    m = page.machine
    m.run("systemctl kill -s KILL rolag-apply")
    wait_for("a start after the kill", lambda: show(m, "rolag-apply", "NRestarts", "ActiveState") ==
             {"NRestarts": "1", "ActiveState": "active"})
    m.run("mkdir -p /run/systemd/system/rolag-apply.service.d; printf '[Service]\\nWatchdogSec=2s\\n' > "
          "/run/systemd/system/rolag-apply.service.d/t.conf; systemctl daemon-reload; systemctl restart rolag-apply; "
          "systemctl kill -s STOP rolag-apply")
    wait_for("the watchdog", lambda: show(m, "rolag-apply", "NRestarts")["NRestarts"] == "1" and
             show(m, "rolag-apply", "ActiveState")["ActiveState"] == "active")
    m.run("rm -r /run/systemd/system/rolag-apply.service.d; systemctl daemon-reload; systemctl restart rolag-apply")
    m.run("cp -p /etc/rolag/rolag.yaml /root/good; echo 'nonsense: 1' >> /etc/rolag/rolag.yaml; "
          "systemctl restart rolag-capture", check=False)
    time.sleep(5)
    assert show(m, "rolag-capture", "ActiveState", "ExecMainStatus", "NRestarts") == \
        {"ActiveState": "failed", "ExecMainStatus": "100", "NRestarts": "0"}
    m.run("cp -p /root/good /etc/rolag/rolag.yaml; systemctl restart rolag-capture; systemctl reload rolag-capture; "
          "until rolag status | grep '^Healthy'; do sleep 1; done")
    assert show(m, "rolag-capture", "ActiveState")["ActiveState"] == "active"


ROLES = ("rolag-capture", "rolag-apply", "rolag-reports")


def processes(m):
    return {role: show(m, role, "MainPID")["MainPID"] for role in ROLES}


def upgrade(m, n):
    """To the same program as a newer version, with units that have changed; what apt said, with the journal since."""
    m.run(f"""set -e; cd /root; rm -rf newer; mkdir newer
        dpkg-deb -R rolag_*.deb newer/tree
        sed -i 's/^Version: .*/&+t{n}/' newer/tree/DEBIAN/control
        sed -i 's/^Description=.*/&, version t{n}/' newer/tree/lib/systemd/system/rolag*
        dpkg-deb --root-owner-group -b newer/tree newer/rolag.deb""")
    said = m.run("date '+%F %T' > /root/began; apt-get install -y /root/newer/rolag.deb")[1]
    assert m.run("dpkg-query -W -f='${Status} ${Version}' rolag")[1].startswith("install ok installed ")
    assert m.run("dpkg-query -W -f='${Version}' rolag")[1].endswith(f"+t{n}")
    return said + m.run('journalctl --no-pager -o cat -S "$(cat /root/began)"')[1]


def look_at_an_upgrade(page):
    """What runs is restarted, by the units that are new; what does not run is not started; configuration and state stay."""
    m = page.machine
    config = m.run("sha256sum /etc/rolag/rolag.yaml")[1]
    m.run("systemctl stop rolag-apply")     # the target, which wants it, is still active
    before = processes(m)
    said = upgrade(m, 1)
    after = processes(m)
    for role in ("rolag-capture", "rolag-reports"):
        unit = show(m, role, "ActiveState", "NeedDaemonReload", "Description")
        assert (unit["ActiveState"], unit["NeedDaemonReload"]) == ("active", "no"), (role, unit, said)
        assert unit["Description"].endswith(", version t1"), said
        assert after[role] not in (before[role], "0"), (role, said)
    assert show(m, "rolag-apply", "ActiveState", "MainPID") == {"ActiveState": "inactive", "MainPID": "0"}, said
    assert show(m, "rolag.target", "ActiveState")["ActiveState"] == "active", said
    assert m.run("sha256sum /etc/rolag/rolag.yaml")[1] == config
    assert mode(m, "/etc/rolag/rolag.yaml") == ("640", "root", "rolag")
    assert mode(m, "/var/lib/rolag/spool") == ("700", "rolag", "rolag")
    m.run("systemctl start rolag-apply; until rolag status | grep '^Healthy'; do sleep 1; done")
    m.run("systemctl stop rolag.target")    # all three, which are enabled
    said = upgrade(m, 2)
    for unit in (*ROLES, "rolag.target"):
        assert show(m, unit, "ActiveState")["ActiveState"] == "inactive", (unit, said)
    m.run("systemctl start rolag.target rolag-reports; until rolag status | grep '^Healthy'; do sleep 1; done")
    for role in ROLES:
        assert show(m, role, "ActiveState", "Description")["ActiveState"] == "active"
