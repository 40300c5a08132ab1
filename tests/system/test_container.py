"""compose.yaml: what it mounts is there, and fits. `make test-container` starts it."""
import hashlib
import os
import re
import shutil
import stat
import subprocess

import pytest
import yaml

from conftest import ROOT
from program import ROLAG

CONTAINER = os.path.join(ROOT, "deploy", "container")


def compose():
    with open(os.path.join(CONTAINER, "compose.yaml"), encoding="utf-8") as f:
        return yaml.safe_load(f)


def mounts(service):
    """[(source, target)] of a service."""
    return [tuple(v.split(":")[:2]) for v in service["volumes"]]


@pytest.fixture(name="prepared", scope="module")
def fixture_prepared(tmp_path_factory):
    """The folder deploy/ of a checkout where `prepare` has run."""
    if os.geteuid() != 0:
        pytest.skip("prepare gives files to the images' users: needs root")
    deploy = str(tmp_path_factory.mktemp("checkout") / "deploy")
    shutil.copytree(os.path.join(ROOT, "deploy"), deploy, ignore=shutil.ignore_patterns("private"))
    subprocess.run(["sh", os.path.join(deploy, "container", "prepare")], check=True, cwd="/")
    return deploy


def test_everything_that_is_mounted_is_there(prepared):
    file = compose()
    for service in file["services"].values():
        for source, target in mounts(service):
            if source.startswith("."):
                assert os.path.exists(os.path.join(prepared, "container", source)), source
            else:
                assert source in file["volumes"]
            assert target.startswith("/")


def test_secrets_are_their_readers_alone(prepared):
    private = os.path.join(prepared, "container", "private")
    mounted = [s for service in compose()["services"].values() for s, _ in mounts(service) if "/private/" in s]
    owners = {"pgpass": 10001, "tokens": 10001, "rolag.yaml": 10001, "prometheus.secret": 65534, "grafana.secret": 472}
    for name in os.listdir(private):
        st = os.stat(os.path.join(private, name))
        assert (stat.S_IMODE(st.st_mode), st.st_uid) == (0o600, owners.get(name, 0)), name
        assert name == "rolag.secret" or f"./private/{name}" in mounted
    with open(os.path.join(CONTAINER, "Containerfile"), encoding="utf-8") as f:
        assert "useradd --uid 10001 " in f.read()
    again = subprocess.run(["sh", os.path.join(prepared, "container", "prepare")], capture_output=True, text=True, check=False)
    assert again.returncode == 1 and "is there already" in again.stderr


def test_the_token_of_prometheus_is_the_one_that_the_companion_knows(prepared):
    private = os.path.join(prepared, "container", "private")
    with open(os.path.join(private, "prometheus.secret"), encoding="ascii") as f:
        token = f.read().strip()
    with open(os.path.join(private, "tokens"), encoding="ascii") as f:
        assert f.read() == f"prometheus reports:read {hashlib.sha256(token.encode()).hexdigest()}\n"
    assert len(token) == 32


def test_rolag_takes_the_configuration(prepared, tmp_path):
    with open(os.path.join(prepared, "container", "private", "rolag.yaml"), encoding="utf-8") as f:
        text = f.read()
    for installed, here in (("/usr/share/rolag/lana", os.path.join(ROOT, "transforms", "lana")),
                            ("/etc/rolag/", os.path.join(prepared, "container", "private") + "/")):
        assert installed in text
        text = text.replace(installed, here)
    (tmp_path / "rolag.yaml").write_text(text)
    done = subprocess.run([ROLAG, "config", "--check", "--config", str(tmp_path / "rolag.yaml")], capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    port = yaml.safe_load(text)["http"]["listen"]
    with open(os.path.join(ROOT, "deploy", "prometheus", "prometheus.yml"), encoding="utf-8") as f:
        job, = yaml.safe_load(f)["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{port}"]}]
    assert compose()["services"]["prometheus"]["network_mode"] == "service:rolag"


def test_grafana_finds_the_dashboard_and_prometheus():
    grafana = compose()["services"]["grafana"]
    with open(os.path.join(ROOT, "deploy/grafana/provisioning/dashboards/rolag.yaml"), encoding="utf-8") as f:
        path = yaml.safe_load(f)["providers"][0]["options"]["path"]
    assert dict(mounts(grafana))["../grafana/rolag.json"] == path + "/rolag.json"
    with open(os.path.join(ROOT, "deploy/grafana/provisioning/datasources/rolag.yaml"), encoding="utf-8") as f:
        source, = yaml.safe_load(f)["datasources"]
    assert source["url"].strip("$") in grafana["environment"] and source["type"] == "prometheus"


def text(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as f:
        return f.read()


def owner(path):
    """The Debian package that has a file, under the name by which it was installed (/lib is /usr/lib)."""
    for known in (path, "/usr" + path, path.removeprefix("/usr")):
        done = subprocess.run(["dpkg", "-S", known], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.split(":")[0]
    raise AssertionError(f"no package has {path}")


def test_image_and_package_have_the_libraries_that_the_makefile_asks_for():
    build, _, run = text("deploy", "container", "Containerfile").rpartition("\nFROM ")
    control = text("deploy", "debian", "control").split("\nPackage:")[0]
    libraries = re.search(r"^PKGS +:= (.*)$", text("Makefile"), re.M)[1].split()
    assert len(libraries) > 5
    for library in libraries:
        folder = subprocess.run(["pkg-config", "--variable=pcfiledir", library], capture_output=True, text=True, check=True)
        package = owner(f"{folder.stdout.strip()}/{library}.pc")
        assert package in build.split(), f"the image is built without {package}"
        assert package in control.replace(",", " ").split(), f"Build-Depends lacks {package}"
    linked = re.findall(r"=> (/\S+)", subprocess.run(["ldd", ROLAG], capture_output=True, text=True, check=True).stdout)
    needed = re.findall(r"NEEDED.*\[(.*)\]", subprocess.run(["readelf", "-d", ROLAG], capture_output=True, text=True,
                                                            check=True).stdout)
    ours = {owner(path) for path in linked if os.path.basename(path) in needed and "sanitizer" not in path} - {"libc6"}
    assert len(ours) > 5 and ours <= set(run.split()), f"the image runs without {ours - set(run.split())}"
