"""The Prometheus rules, the Grafana dashboard and the runbook: tested by promtool, and none lacks what another has."""
import json
import os
import re
import shutil
import subprocess

import pytest
import yaml

from conftest import ROOT
from program import ROLAG

PROMETHEUS = os.path.join(ROOT, "deploy", "prometheus")


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as f:
        return f.read()


def promtool(*words):
    tool = shutil.which("promtool") or shutil.which("promtool", path=os.path.join(ROOT, "build", "tools"))
    if tool is None:
        pytest.skip("promtool is not installed (make deps-test)")
    return subprocess.run([tool, *words], cwd=PROMETHEUS, capture_output=True, text=True, timeout=120, check=False)


def rules():
    return [r for g in yaml.safe_load(read("deploy/prometheus/rolag.rules.yml"))["groups"] for r in g["rules"]]


def alerts():
    return [r for r in rules() if "alert" in r]


def metrics():
    found = re.findall(r'^METRIC\(\w+, MET_(\w+), "(\w+)"', read("proto/base/metrics.def"), re.M)
    judged = re.findall(r'\bhead\(out, "(\w+)", "gauge"', read("cdc/commands/status_prometheus.c"))
    assert len(found) > 70 and len(judged) == 8
    return {f"rolag_{name}": kind for kind, name in found} | {f"rolag_{name}": "GAUGE" for name in judged}


def queries():
    """Every expression of the dashboard and of the rules."""
    panels = [p for p in json.loads(read("deploy/grafana/rolag.json"))["panels"] if p["type"] != "row"]
    return [t["expr"] for p in panels for t in p["targets"]] + [r["expr"] for r in rules()]


def test_promtool_takes_the_rules():
    done = promtool("check", "rules", "rolag.rules.yml")
    assert done.returncode == 0 and "SUCCESS" in done.stdout, done.stdout + done.stderr


def test_promtool_takes_the_configuration_with_its_rules_and_its_token(tmp_path):
    for name in ("prometheus.yml", "rolag.rules.yml"):
        (tmp_path / name).write_text(read("deploy/prometheus", name))
    done = promtool("check", "config", str(tmp_path / "prometheus.yml"))
    assert done.returncode != 0 and "rolag.token" in done.stdout + done.stderr      # it looks for it
    (tmp_path / "rolag.token").write_text("rolag_x")
    done = promtool("check", "config", str(tmp_path / "prometheus.yml"))
    assert done.returncode == 0 and f"{len(rules())} rules found" in done.stdout, done.stdout + done.stderr
    job, = yaml.safe_load(read("deploy/prometheus/prometheus.yml"))["scrape_configs"]
    assert job["authorization"]["type"] == "Bearer" and "metrics_path" not in job    # /metrics, as the companion has it


def test_rules_say_what_they_should():
    done = promtool("test", "rules", "rolag.tests.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_would_see_a_rule_that_is_wrong(tmp_path):
    """A test that passes with any rules says nothing."""
    text = read("deploy/prometheus/rolag.rules.yml")
    assert "rolag_spool_full == 1" in text
    (tmp_path / "rolag.rules.yml").write_text(text.replace("rolag_spool_full == 1", "rolag_spool_full == 2"))
    (tmp_path / "rolag.tests.yml").write_text(read("deploy/prometheus/rolag.tests.yml"))
    done = promtool("test", "rules", str(tmp_path / "rolag.tests.yml"))
    assert done.returncode != 0 and "RolagSpoolFull" in done.stdout + done.stderr


def test_every_alert_is_tested_quiet_and_firing_and_has_its_runbook():
    tested = read("deploy/prometheus/rolag.tests.yml")
    parts = re.findall(r"^## (\w+)$", read("deploy/RUNBOOK.md"), re.M)
    assert parts == [a["alert"] for a in alerts()]
    for a in alerts():
        name = a["alert"]
        assert len(re.findall(rf'alertname="{name}".*samples: \[\]', tested)) >= 1, name
        assert len(re.findall(rf'alertname="{name}".*value: 1', tested)) >= 1, name
        assert a["annotations"]["runbook"] == f"RUNBOOK.md#{name.lower()}"
        assert a["labels"]["severity"] in ("critical", "warning", "info")


def test_the_runbook_says_of_each_what_it_means_what_it_risks_and_what_to_do():
    for part in read("deploy/RUNBOOK.md").split("\n## ")[1:]:
        assert "\n*Risk.* " in part and "\n*Do.* " in part, part[:40]


def test_the_runbook_has_each_state_and_each_part_that_status_names():
    page = read("deploy/RUNBOOK.md")
    states = re.findall(r'^\tX\(\w+, "\w+", " *", "([\w ]+)",', read("cdc/commands/status.h"), re.M)
    assert len(states) == 11
    table = page.split("\n# States\n")[1].split("\n# ")[0]
    assert re.findall(r"^\| \*([\w ]+)\*", table, re.M) and set(re.findall(r"^\| \*([\w ]+)\*", table, re.M)) == set(states)
    named = set(re.findall(r'"(Rolag\w+)"', read("cdc/commands/status_judge.c")))
    assert len(named) > 12 and named <= {a["alert"] for a in alerts()}
    assert set(re.findall(r"\(#(rolag\w+)\)", page)) <= {a["alert"].lower() for a in alerts()}


def test_the_runbook_names_commands_keys_and_units_that_there_are():
    quoted = re.findall(r"`([^`]+)`", read("deploy/RUNBOOK.md").replace("```", ""))
    commands = [q.split() for q in quoted if re.match(r"rolag [a-z]", q)]
    assert len(commands) > 20
    for _, name, *words in commands:
        done = subprocess.run([ROLAG, name, "--help"], capture_output=True, text=True, timeout=20, check=False)
        assert done.returncode == 0, name
        known = set(re.findall(r"(?<![\w-])--[\w-]+", done.stdout))
        assert {w for w in words if w.startswith("--")} <= known, (name, words)
        for verb in (w for w in words if re.fullmatch("[a-z]+", w)):
            assert re.search(rf"\b{verb}\b", done.stdout), (name, verb)
    sections = yaml.safe_load(read("deploy/rolag.yaml"))
    keys = [q.split(".") for q in quoted if re.fullmatch(r"[a-z]+\.[a-z_]+", q) and q.split(".")[0] in sections]
    assert len(keys) > 8
    for section, key in keys:
        assert key in sections[section], (section, key)
    units = {u.removesuffix(".service") for u in os.listdir(os.path.join(ROOT, "deploy", "systemd"))}
    named = re.findall(r"\brolag(?:-[a-z]+|\.target)\b", " ".join(q for q in quoted if re.match("systemctl|journalctl", q)))
    assert len(named) > 8 and set(named) <= units


def test_every_metric_is_shown_or_watched_and_none_is_invented():
    known, asked = metrics(), set(re.findall(r"\brolag_\w+", " ".join(queries())))
    series = {name + ("_bucket" if kind == "HISTOGRAM" else "") for name, kind in known.items()}
    assert sorted(series - asked) == []
    assert sorted(asked - series) == []


def test_recorded_series_that_are_asked_for_are_recorded():
    asked = set(re.findall(r"\brolag:[\w:]+", " ".join(queries())))
    assert asked <= {r["record"] for r in rules() if "record" in r}


def test_the_dashboard_is_what_its_program_prints():
    done = subprocess.run(["/usr/bin/python3", "deploy/grafana/make_dashboard.py"], cwd=ROOT, capture_output=True, text=True,
                          check=True)
    assert done.stdout == read("deploy/grafana/rolag.json"), "stale: make dashboard"
    ids = [p["id"] for p in json.loads(done.stdout)["panels"]]
    assert len(ids) == len(set(ids))
