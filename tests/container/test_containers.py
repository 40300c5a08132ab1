"""README, "In containers", followed to the letter: images built and started by podman, in a store of the test's own.

Two images are ours in the place of those that compose.yaml names (PostgreSQL and Prometheus, from Debian's packages),
and the base image is debootstrap's; Grafana is not started.
"""
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
import yaml

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(ROOT, "tests", "system"), os.path.join(ROOT, "tests", "deb")]

from machine import mirror  # noqa: E402
from readme import blocks  # noqa: E402

# Limits as they are here (a test may run where they cannot be raised), and a runtime that takes any kind of cgroups.
ENGINE = """[containers]
default_ulimits = ["nofile=4096:4096", "nproc=2048:2048"]
[engine]
runtime = "runc"
"""
# Debian 12's podman-compose does not know what network_mode: service:NAME is,
PODMAN = """#!/bin/sh
left=$#
case " $* " in *" --network service:rolag "*)
	while [ "$left" -gt 0 ]; do
		word=$1; shift; left=$((left - 1))
		case $word in
		service:rolag) word=container:container_rolag_1 ;;
		--net | --network-alias) shift; left=$((left - 1)); continue ;;
		esac
		set -- "$@" "$word"
	done ;;
esac
exec /usr/bin/podman %s --storage-driver overlay "$@"
"""
# and tells its own steps on standard output, amid what the container says there.
DOCKER = """#!/bin/sh
if [ "$1" != compose ]; then exec podman "$@"; fi
shift
exec /usr/bin/python3 -c 'import builtins, functools, sys
builtins.print = functools.partial(print, file=sys.stderr)
import podman_compose
sys.argv[0] = "podman-compose"
podman_compose.main()' "$@"
"""


class Engine:
    """podman, and `docker` by it, with images, containers and networks in one folder."""

    def __init__(self, folder):
        self.folder = folder
        self.checkout = os.path.join(folder, "checkout")
        tools = os.path.join(folder, "bin")
        os.makedirs(tools)
        own = " ".join(f"--{name} {folder}/{name}" for name in ("root", "runroot", "network-config-dir", "tmpdir"))
        for name, text in (("podman", PODMAN % own), ("docker", DOCKER)):
            with open(os.path.join(tools, name), "w", encoding="ascii", opener=lambda p, f: os.open(p, f, 0o755)) as f:
                f.write(text)
        with open(os.path.join(folder, "engine.conf"), "w", encoding="ascii") as f:
            f.write(ENGINE)
        self.env = {**os.environ, "PATH": tools + ":" + os.environ["PATH"], "BUILDAH_ISOLATION": "chroot",
                    "CONTAINERS_CONF": os.path.join(folder, "engine.conf")}

    def run(self, text, cwd=None, check=True, timeout=900):
        """(code, all output) of sh."""
        done = subprocess.run(["sh", "-e", "-c", text], cwd=cwd or self.folder, env=self.env, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False)
        assert not check or done.returncode == 0, f"{text}\n{done.stdout[-6000:]}"
        return done.returncode, done.stdout

    def images(self):
        """The base, and what stands in for other people's images; None, or why they cannot be."""
        uri = mirror()
        if uri is None:
            return "apt knows no mirror of Debian 12"
        code, said = self.run(f"debootstrap --variant=minbase bookworm base {uri}", check=False)
        if code != 0:
            return f"debootstrap failed: {said[-500:]}"
        self.run("tar -C base -c . | podman import -q - docker.io/library/debian:bookworm-slim && rm -rf base")
        code, said = self.run("podman run --rm debian:bookworm-slim true", check=False)
        if code != 0:
            return f"no container can be run here: {said[-500:]}"
        with open(os.path.join(ROOT, "deploy/container/compose.yaml"), encoding="utf-8") as f:
            services = yaml.safe_load(f)["services"]
        for folder, service in (("postgres", "core"), ("prometheus", "prometheus")):
            name = services[service]["image"]
            name = name if name.count("/") else "library/" + name
            self.run(f"podman build -q --network host -t docker.io/{name} {HERE}/{folder}")
        return None

    def close(self):
        self.run("podman rm -a -f -t 0; podman network prune -f; podman rmi -a -f", check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("needs root: podman as compose.yaml has it")
    e = Engine(str(tmp_path_factory.mktemp("containers")))
    try:
        if (why := e.images()) is not None:
            pytest.skip(why)
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")[:-1]
        for name in map(os.fsdecode, files):
            if os.path.exists(os.path.join(ROOT, name)):
                os.makedirs(os.path.dirname(os.path.join(e.checkout, name)), exist_ok=True)
                shutil.copy(os.path.join(ROOT, name), os.path.join(e.checkout, name))
        yield e
    finally:
        e.close()


def test_the_page_from_the_image_to_a_report(engine):
    at = os.path.join(engine.checkout, "deploy", "container")
    said = []
    for language, who, text in blocks("## In containers"):
        assert language == "sh" and who.startswith("deploy/container")
        said.append(engine.run(text, cwd=at)[1])
    assert re.search("^Healthy", said[2], re.M) and "FAIL" not in said[2]
    assert "published" in said[3]

    def ask(query):
        out = engine.run(f"docker compose exec -T prometheus promtool query instant http://127.0.0.1:9090 '{query}'", cwd=at)[1]
        return [line for line in out.splitlines() if "=>" in line]

    until = time.monotonic() + 120
    while not (up := ask('up{job="rolag"} == 1')):
        assert time.monotonic() < until, engine.run("docker compose logs prometheus", cwd=at)[1][-3000:]
        time.sleep(1)
    assert len(up) == 1 and ask("rolag_capture_connected == 1") != []
