"""The companion with roles of its own: what print-sql and init give it is enough, and check says what is missing."""
import os
import re
import subprocess
import tempfile

import pytest
from pipeline import wait_for
from test_lana_reports import PACK, Bank, read_yaml

COMPANION, FENCE = "lana_companion", "lana_fence"
EVENTS = 1200


def as_role(conninfo, role):
    return re.sub(r"user='?\w+'?", f"user={role}", conninfo)


class Roles(Bank):
    """As a bank would have it: the Lana pack, and two roles that may do little."""

    def fill(self):
        shipped = read_yaml("deploy/lana.yaml")
        self.load("--bulk", "--ledger", "--events", str(EVENTS), "--scale", "0.3")
        self.configure({"mirrors": shipped["mirrors"], "models": {"path": PACK}, "reports": {
            "definitions": os.path.join(PACK, "reports.yaml"), "connect": as_role(self.warehouse_conninfo, COMPANION),
            "core_connect": as_role(self.core_conninfo, FENCE)}})
        self.outside("ext.sql")
        return self

    def as_dba(self, side):
        code, sql, err = self.run("init", "--print-sql", side)
        assert code == 0, err
        # Publication and roles of the pipeline itself are not this test's: they are there, or init makes them.
        wanted = sql[sql.index("-- The companion of reports"):]
        subprocess.run(["psql", self.core_conninfo if side == "core" else self.warehouse_conninfo, "-X", "-q", "-v",
                        "ON_ERROR_STOP=1"], input=wanted, text=True, check=True, capture_output=True)
        return wanted

    def findings(self):
        """[(what, mend)] of the findings about reports."""
        _, out, err = self.run("check")
        assert err == "", err
        lines = out.splitlines()
        return [(line, lines[n + 1].partition("mend: ")[2]) for n, line in enumerate(lines)
                if line.startswith("FAIL") and "reports" in line]


@pytest.fixture(scope="module")
def bank(core_cluster, warehouse_cluster):
    p = Roles("roles", tempfile.mkdtemp(prefix="rolag-roles-"), core_cluster, warehouse_cluster, warehouse_cluster,
              land=read_yaml("deploy/lana.yaml")["rollups"]["land"])
    try:
        yield p.create().fill()
    finally:
        p.release()
        for cluster, role in ((core_cluster, FENCE), (warehouse_cluster, COMPANION)):
            cluster.psql(f"drop role if exists {role}", database="postgres")


def test_what_is_granted_is_enough_and_no_more(bank):
    p = bank
    code, out, err = p.run("init")
    assert code != 0 and f"there is no role {COMPANION}" in err and "init --print-sql warehouse" in err, out + err
    core, warehouse = p.as_dba("core"), p.as_dba("warehouse")
    assert "REPLICATION" not in core and "GRANT SELECT" not in core     # the fence's role logs in, and no more
    assert "CREATE ROLE" in warehouse and 'IN SCHEMA "ext"' in warehouse
    assert "granted the companion's role" in p.init() and "has its rights" in p.init()
    p.start()
    p.wait_applied()
    p.outside()
    assert p.findings() == []
    code, out, err = p.run("report", "run", "--wait")
    assert code == 0, out + err + p.reports.text()[-3000:]
    run = out.splitlines()[0]
    p.check_whole(run)
    code, out, _ = p.run("status")
    assert code == 0 and re.search(r"  reports    1 run published, last .* ago; 0 open\n", out), out
    assert re.search(r"  reports    running \(idle\), pid \d+", out), out
    # A second one drops, reuses, links: also of that it may do all.
    p.warehouse("update rolag.model set fingerprint = 'none'")
    assert p.run("report", "run", "--wait")[0] == 0 and p.run("report", "rerun", run)[0] == 0
    for sql in ("insert into raw.core_party_events_rollup_latest select * from raw.core_party_events_rollup_latest",
                "truncate raw.core_party_events_rollup", "update rolag.ledger set applied_lsn = '0/1'", "drop schema raw",
                "delete from rolag.report_run", "insert into ext.market_prices values (now(), 1)"):
        done = subprocess.run(["psql", p.settings["reports"]["connect"], "-X", "-c", sql], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and ("permission denied" in done.stderr or "must be owner" in done.stderr), (sql, done.stderr)
    assert p.run("report", "list")[0] == 0
    p.reports.kill9()
    wait_for("it to be missed", lambda: p.run("status")[0] == 1)
    assert p.run("status")[1].startswith("Alarm, the stream is healthy"), p.run("status")[1]
    p.start_reports()
    p.wait_ready()
    wait_for("it to be back", lambda: p.run("status")[0] == 0)


@pytest.mark.parametrize("spoil, says", [
    (f"revoke select on raw.core_party_events_rollup from {COMPANION}", "may not read all landed tables"),
    (f"revoke usage on schema raw from {COMPANION}", "may not read all landed tables"),
    (f"revoke insert on rolag.report_run from {COMPANION}", "rolag.report_run (SELECT, INSERT, UPDATE)"),
    (f"revoke delete on rolag.fence_seen from {COMPANION}", "rolag.fence_seen (SELECT, DELETE)"),
    (f"revoke select on ext.kyc_applicants from {COMPANION}", "may not read the source ext.kyc_applicants"),
    ("create schema if not exists staging; revoke all on schema staging from public; alter schema staging owner to postgres",
     "may not make views in one of the schemas"),
])
def test_check_finds_what_is_missing_and_its_mend_mends_it(bank, spoil, says):
    bank.warehouse(spoil)
    (what, mend), = bank.findings()
    assert says in what, what
    for statement in re.findall(r"GRANT [^;]*;", mend):
        # As the mend says: those schemas that are there.
        bank.warehouse(statement.replace("SCHEMA staging, intermediate, outputs", "SCHEMA staging"))
    assert bank.findings() == []


def test_check_finds_definitions_folder_and_roles(bank):
    good = dict(bank.settings["reports"])
    for settings, says in (({"target": bank.config}, "is not a folder"),
                           ({"core_connect": as_role(bank.core_conninfo, "nobody_here")}, "reports.core_connect"),
                           ({"connect": as_role(bank.warehouse_conninfo, "nobody_here")}, "reports.connect"),
                           ({"definitions": "/nowhere.yaml"}, "/nowhere.yaml"),
                           ({"schedule": ["61 * * * *"]}, "schedule")):
        bank.settings["reports"] = {**good, **settings}
        bank.configure({})
        found = bank.findings()
        assert len(found) == 1 and says in found[0][0], (settings, found)
    bank.settings["reports"] = good
    bank.configure({})
    assert bank.findings() == []
