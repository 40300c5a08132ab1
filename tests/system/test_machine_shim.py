"""The machine that runs the runbook's pages: what its systemctl and journalctl do, and that they refuse what they do not know."""
import json
import os

import pytest

from machine_shim import Machine
from pipeline import PACK, wait_for

ALL = ("rolag-capture", "rolag-apply", "rolag-reports")


@pytest.fixture
def machine(tmp_path):
    made = Machine(tmp_path / "machine")
    nobody = f"host={tmp_path} dbname=x"
    with open(made.config, "w", encoding="utf-8") as f:
        json.dump({"pipeline": "m", "state_dir": made.state, "core": {"connect": nobody}, "warehouse": {"connect": nobody},
                   "rollups": {"path": PACK}}, f)
    yield made
    made.close()


def test_a_unit_starts_reloads_and_stops_by_its_file(machine):
    machine.write_passfile("*:*:*:a:first\n")
    code, out = machine.run("systemctl start rolag-capture && systemctl is-active rolag-capture && systemctl status rolag-capture")
    assert code == 0 and "\nactive\n" in "\n" + out and "Main PID" in out, out
    copy = os.path.join(machine.run_folder, "rolag-capture", "pgpass")
    assert os.stat(copy).st_mode & 0o777 == 0o600
    pid = machine.units["rolag-capture"].process.pid
    with open(f"/proc/{pid}/environ", encoding="utf-8") as f:
        assert f"PGPASSFILE={copy}\0" in f.read()
    machine.write_passfile("*:*:*:a:second\n")
    assert machine.run("systemctl reload rolag-capture")[0] == 0
    with open(copy, encoding="utf-8") as f:
        assert "first" in f.read()
    assert machine.run("systemctl restart rolag-capture")[0] == 0 and machine.units["rolag-capture"].process.pid != pid
    with open(copy, encoding="utf-8") as f:
        assert "second" in f.read()
    assert machine.run("systemctl stop rolag-capture")[0] == 0 and not os.path.exists(copy)
    assert machine.run("systemctl is-active rolag-capture") == (3, "inactive\n")
    assert machine.run("systemctl reload rolag-capture")[0] == 1


def test_the_target_is_capture_and_apply_and_stops_all(machine):
    machine.run("systemctl start rolag.target")
    assert [machine.units[u].wanted for u in ALL] == [True, True, False]
    machine.run("systemctl stop rolag.target")
    assert [machine.units[u].state() for u in ALL] == ["inactive"] * 3
    assert machine.run("systemctl is-active rolag.target") == (3, "inactive\n")


def test_a_kill_is_started_again_and_a_wrong_configuration_is_not(machine):
    unit = machine.units["rolag-capture"]
    machine.run("systemctl start rolag-capture")
    pid = unit.process.pid
    machine.run("systemctl kill -s KILL rolag-capture")
    wait_for("a start after the kill", lambda: unit.state() == "active" and unit.process.pid != pid)
    with open(machine.config, "a", encoding="utf-8") as f:
        f.write("]")
    assert machine.run("systemctl restart rolag-capture")[0] == 1
    wait_for("it to be failed", lambda: machine.run("systemctl is-active rolag-capture") == (3, "failed\n"))
    code, out = machine.run("journalctl -u rolag-capture -u rolag-apply -S -1h -g STARTED")
    assert (code, out) == (1, "-- No entries --\n")
    assert "rolag.yaml" in machine.run("journalctl -u rolag-capture -n 1 --no-pager")[1]
    assert machine.run("journalctl -u rolag-capture -S '2100-01-01 00:00:00' -g .")[0] == 1


@pytest.mark.parametrize("words", [
    "systemctl start postgresql", "systemctl mask rolag-capture", "systemctl restart", "systemctl restart --force rolag-apply",
    "systemctl reload rolag.target", "systemctl", "journalctl -u rolag-apply -f -S -1h", "journalctl -S -1h",
    "apt-get install -y postgresql", "apt-get purge rolag", "journalctl -u rolag-apply -S yesterdayish", "journalctl -u postgresql"])
def test_what_it_does_not_know_fails(machine, words):
    code, out = machine.run(words)
    assert code == 1 and "of the tests" in out, out
