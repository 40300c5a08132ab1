"""A real Prometheus with the shipped rules, which asks a companion each second."""
import json
import os
import shutil
import subprocess
import urllib.request

import yaml

from pipeline import ROOT, wait_for
from readme import free_port

RULES = os.path.join(ROOT, "deploy", "prometheus", "rolag.rules.yml")


def find():
    """The server of Debian's package, installed or only unpacked (make deps-test); None: neither."""
    unpacked = os.path.join(ROOT, "build", "tools", "unpacked", "usr", "bin")
    return shutil.which("prometheus") or shutil.which("prometheus", path=unpacked)


class Prometheus:
    """It remembers nothing of the one before it: what a rule sees of the last hour, it has seen itself."""

    def __init__(self, folder, target, token):
        self.folder, self.port = folder, free_port()
        os.makedirs(folder)
        with open(os.path.join(ROOT, "deploy", "prometheus", "prometheus.yml"), encoding="utf-8") as f:
            config = yaml.safe_load(f)
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [RULES]
        config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
        with open(os.path.join(folder, "prometheus.yml"), "w", encoding="utf-8") as f:
            yaml.safe_dump(config, f)
        with open(os.path.join(folder, "rolag.token"), "w", encoding="ascii") as f:
            f.write(token)
        with open(os.path.join(folder, "prometheus.log"), "wb") as log:
            self.process = subprocess.Popen(
                [find(), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                 f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "GOMAXPROCS": "1"})
        try:
            wait_for("Prometheus to have asked the companion twice", lambda: self.value("count_over_time(up[1m])") >= 2, 60)
        except AssertionError:
            self.close()
            raise

    def get(self, path):
        """What its API answers; None while it does not."""
        assert self.process.poll() is None, self.text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=10) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    def value(self, query):
        """Of the first series; 0 where there is none."""
        found = self.get("query?query=" + urllib.request.quote(query))
        return float(found["result"][0]["value"][1]) if found and found["result"] else 0.0

    def alerts(self):
        """{name: {"pending", "firing"}} of those that are active."""
        found = {}
        for alert in (self.get("alerts") or {"alerts": []})["alerts"]:
            found.setdefault(alert["labels"]["alertname"], set()).add(alert["state"])
        return found

    def rules(self):
        """Names of the alerts that it has."""
        groups = self.get("rules")["groups"]
        return [rule["name"] for group in groups for rule in group["rules"] if rule["type"] == "alerting"]

    def text(self):
        with open(os.path.join(self.folder, "prometheus.log"), encoding="utf-8", errors="replace") as f:
            return f.read()[-2000:]

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)
