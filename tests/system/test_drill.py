"""The on-call drill: ten faults, of each the cause is named within seconds by `rolag status` and by the alerts of a real
Prometheus, no other alert misleads, and what deploy/RUNBOOK.md says mends it. At the end nothing is lost.

An alert counts when it is pending: rolag.rules.yml has some wait for minutes (`for`), and rolag.tests.yml shows by promtool
that it fires then."""
import os
import signal
import tempfile

import psycopg
import pytest

import prometheus
from drill import PASSWORD, Drill, Estate, commands, shows
from pipeline import ROLE, entity, write_role
from test_quarantine import LISTED

pytestmark = [pytest.mark.xdist_group("drill"), pytest.mark.skipif(prometheus.find() is None, reason="no Prometheus (make deps-test)")]


@pytest.fixture(scope="module")
def estate():
    made = Estate(tempfile.mkdtemp(prefix="rolag-drill-", dir="/tmp"))      # PostgreSQL's user must get there
    try:
        yield made.build()
    finally:
        made.close()


@pytest.fixture
def drill(estate, request):
    made = Drill(estate, request.node.name.removeprefix("test_"))
    yield made
    made.close()


def test_a_healthy_estate_looks_as_the_runbook_shows_it(estate, drill):
    drill.begun_now()
    drill.screen_then = estate.status()
    drill.mend("Runbook", expect=["capture starts", "apply starts", "reports starts"])


def test_the_core_is_down(estate, drill):
    drill.break_(estate.core_cluster.kill9)
    drill.names("Stalled: no connection to the core", "Connection refused", alert="RolagCaptureDisconnected")
    drill.mend("RolagCaptureDisconnected", "systemctl start postgresql")
    drill.healed()


def test_the_warehouse_is_down(estate, drill):
    drill.break_(estate.warehouse_cluster.kill9)
    drill.names("Stalled: no connection to the warehouse", "Connection refused", alert="RolagApplyDisconnected")
    drill.mend("RolagApplyDisconnected", "systemctl start postgresql")
    drill.healed()


def test_the_warehouse_is_slow(estate, drill):
    """Somebody holds a lock on a table that rolag writes."""
    conn = psycopg.connect(estate.warehouse_conninfo, application_name="nightly")
    drill.break_(conn.execute, f"lock table raw.{ROLE}, raw.core_customer_events_rollup in share mode")
    drill.names("Stalled: the warehouse does not take", "a lock is held by its server process", alert="RolagStalled")
    drill.mend("RolagStalled", expect=["nightly"])
    drill.healed()
    conn.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_the_disk_is_nearly_full(estate, drill):
    ballast = os.path.join(estate.disk, "dump")
    drill.break_(fill, ballast, estate.disk)
    drill.names("Disk full", "spool.reserve", alert="RolagSpoolFull")
    drill.mend("RolagSpoolFull", expect=["dump"])
    os.unlink(ballast)
    drill.healed()


def fill(path, disk):
    """All but less than the reserve."""
    at = os.statvfs(disk)
    with open(path, "wb") as f:
        f.write(bytes(at.f_bavail * at.f_frsize - (4 << 20)))


def test_an_event_does_not_fit(estate, drill):
    with psycopg.connect(estate.core_conninfo) as conn:
        write_role(conn, 1, 1)
    drill.break_(poison, estate)
    drill.names("Parked in part", "in quarantine", alert="RolagQuarantine")
    with open(os.path.join(estate.pack, ROLE + ".yaml"), encoding="utf-8") as f:
        text = f.read()
    estate.edits(text.replace(LISTED, LISTED + "  teleported: [to]\n"))
    estate.rules[ROLE]["types"].append("teleported")
    estate.judge_anew(ROLE)
    drill.mend("RolagQuarantine", expect=[entity(1), "teleported"])
    drill.healed()


def poison(estate):
    with psycopg.connect(estate.core_conninfo) as conn:
        write_role(conn, 1, 2, {"to": "nowhere"}, "teleported")


def test_the_slot_is_dropped(estate, drill):
    drill.break_(drop_slot, estate)
    drill.names("", "The slot was lost, and made anew", alert="RolagSlotMadeAnew")
    drill.mend("RolagSlotMadeAnew")
    drill.healed(linger={"RolagSlotMadeAnew"})


def drop_slot(estate):
    estate.core("select pg_terminate_backend(active_pid, 5000), pg_drop_replication_slot(slot_name) from pg_replication_slots")


def test_the_publication_is_dropped(estate, drill):
    drill.break_(estate.core, "drop publication lana_inserts")
    drill.names("Stopped: capture is not running", 'publication "lana_inserts" does not exist', "mend: rolag init",
                alert="RolagPublicationMissing", also={"RolagRoleDown"})
    drill.mend("RolagPublicationMissing")
    drill.allowed.add("RolagSlotMadeAnew")
    drill.healed(linger={"RolagSlotMadeAnew"})


def test_the_password_is_changed(estate, drill):
    estate.passwords["core"] = "second-password"
    drill.break_(change_password, estate)
    drill.names("Stopped: capture is not running", "password authentication failed", alert="RolagRoleDown")
    estate.edits(estate.passfile())
    drill.mend("RolagRoleDown")
    drill.healed()
    assert PASSWORD not in drill.screen_then and "second-password" not in drill.screen_then


def change_password(estate):
    estate.core(f"alter role rolag password '{estate.passwords['core']}'")
    estate.core("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'rolag'")


def test_the_companion_is_killed(estate, drill):
    unit = estate.machine.units["rolag-reports"]
    with unit.lock:
        unit.wanted = False         # nor does anybody start it again
        drill.break_(unit.process.kill9)
    drill.names("Alarm, the stream is healthy", "The companion of reports", "is not running", alert="RolagSilent")
    drill.mend("RolagSilent")
    drill.healed()


def test_the_clocks_differ(estate, drill):
    drill.break_(estate.clock.set, clock_us=-3600 * 1_000_000)
    drill.names("Clocks differ", "old", "set the clock", alert="RolagClocksDiffer")
    drill.mend("RolagClocksDiffer")
    drill.healed()


def test_nothing_was_lost(estate):
    estate.load.signal(signal.SIGTERM)
    estate.load.summary()
    estate.wait_applied()
    assert estate.rows() == estate.events()
    estate.assert_equal()


def test_every_command_of_the_runbook_was_run(estate, request):
    if not FAULTS <= {item.name for item in request.session.items if item.path == request.path} or os.geteuid() != 0:
        pytest.skip("not all faults were there")
    assert commands() == estate.done


FAULTS = {name for name in dict(globals()) if name.startswith("test_the_")}


def test_a_screen_that_is_not_so_would_be_seen():
    screen = "Stalled: 3.1 s behind, at 0/ABC (/a/b/c)\n\n  core    3 kB\n  apply   up 2 h 3 min\n"
    assert shows(screen, ["Stalled: 12 min behind, at 1/2 (/x/c)", "…", "  apply up 9 s"]) == []
    assert shows(screen, ["  apply up 9 s", "  core 1 B"]) == ["core N"]         # not in that order
    assert shows(screen, ["Stalled: no connection"]) == ["Stalled: no connection"]
