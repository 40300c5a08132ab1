"""Fixtures of the system tests: clusters shared by a run, and pipelines on them.

A test that breaks a server takes clusters of its own (`own_clusters`).
"""
import itertools
import os
import sys
import tempfile

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "deploy", "demo"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from cluster import Cluster  # noqa: E402
from pipeline import SOME, Pipeline  # noqa: E402
from program import Reports  # noqa: E402
from web import make_web, web  # noqa: E402,F401  (fixtures)

# Files whose tests take long: (into how many groups they are cut, about how many seconds each takes).
CUT = {"drill": (1, 120), "runbook": (1, 75), "upgrade": (1, 45),
       "lived": (1, 25), "load": (1, 84), "models": (3, 60), "lana_models": (1, 60), "lana_reports": (1, 60), "oracle": (1, 53), "pipeline": (4, 47), "beside": (1, 45),
       "reports_crashes": (6, 45), "first_load": (2, 41), "capture": (3, 40), "rebuild": (3, 40), "mirror_sync": (3, 40),
       "reports": (5, 40), "traps": (3, 38), "faults": (6, 35), "kills": (2, 35), "demo": (2, 33), "swap": (2, 30),
       "reports_http": (3, 35), "reports_http_hostile": (2, 35), "reports_page": (1, 35), "commands": (2, 30),
       "bars": (1, 40), "status": (1, 35),
       "privileges": (1, 35), "values": (1, 30)}
OTHERS = (1, 25)

Cluster.tied = True     # a worker may be killed

_number = itertools.count(1)
_pipelines = pytest.StashKey()
# What a crash must not take: for the tests that crash a server.
DURABLE = {"fsync": "on", "full_page_writes": "on", "wal_sync_method": "fdatasync"}


# ---- who runs what: `make test-system` has several workers, each with clusters of its own -----------

def group_of(item, number, count):
    """Tests of a group run in one worker, in order: a file, a piece of one, or what a mark puts together.
    `number`: of the item among the `count` ones of its file."""
    mark = item.get_closest_marker("xdist_group")
    if mark is None:
        name = item.path.stem.removeprefix("test_")
        pieces, _ = CUT.get(name, OTHERS)
        mark = pytest.mark.xdist_group(name if pieces == 1 else f"{name}-{number * pieces // count}")
        item.add_marker(mark)
    return mark.args[0]


def seconds_of(group):
    return CUT.get(group.partition("-")[0], OTHERS)[1]


def pytest_configure(config):
    config.addinivalue_line("markers", "xdist_group(name): tests that run in one worker")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The longest group comes first: no worker is left with it when the others are done."""
    groups = {}
    for _, file in itertools.groupby(items, key=lambda item: item.path):
        file = list(file)
        groups.update((item, group_of(item, number, len(file))) for number, item in enumerate(file))
    items.sort(key=lambda item: (-seconds_of(groups[item]), groups[item]))


def memory_folder():
    """A file system in memory with room for the clusters, or None. Every test makes databases, thousands of files."""
    try:
        at = os.statvfs("/dev/shm")
        with open("/proc/meminfo", encoding="ascii") as f:
            free = next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    return "/dev/shm" if min(at.f_bavail * at.f_frsize, free) > 12 * 2 ** 30 else None


Cluster.folder = memory_folder()


@pytest.fixture(scope="session")
def core_cluster():
    """A core that is never killed."""
    with Cluster("core", settings={"max_wal_senders": 20, "max_replication_slots": 20,
                                   "max_wal_size": "1GB"}) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def warehouse_cluster():
    """A warehouse that is never killed; the oracle's databases are here, too."""
    with Cluster("warehouse", settings={"max_wal_size": "1GB"}) as cluster:
        yield cluster


@pytest.fixture(scope="session", autouse=True)
def reports(tmp_path_factory):
    """The sanitizers' reports go to files, wherever a program's stderr and exit code go."""
    return Reports(str(tmp_path_factory.mktemp("sanitizers")))


@pytest.fixture(autouse=True)
def no_report(reports):
    """A report of a sanitizer fails the test whose program made it."""
    yield
    text = reports.take()
    assert text == "", text


@pytest.fixture
def own_clusters():
    """own_clusters(): (core, warehouse) of this test alone, which survive kill -9."""
    made = []

    def make(core=None, warehouse=None):
        for name, settings in (("core", core), ("warehouse", warehouse)):
            cluster = Cluster(name, settings={**DURABLE, **(settings or {})})
            made.append(cluster)
            cluster.create()
        return tuple(made[-2:])
    yield make
    for cluster in made:
        cluster.destroy()


@pytest.fixture
def make_pipeline(request, core_cluster, warehouse_cluster):
    """make_pipeline(settings, …): databases, configuration; nothing is started or initialised yet."""
    made = request.node.stash.setdefault(_pipelines, [])

    def make(settings=None, core=None, warehouse=None, **more):
        name = f"p{next(_number)}"
        folder = tempfile.mkdtemp(prefix=f"rolag-{name}-")
        pipeline = Pipeline(name, folder, core or core_cluster, warehouse or warehouse_cluster, warehouse_cluster,
                            settings, **more)
        made.append(pipeline)
        return pipeline.create()
    yield make
    for pipeline in made:
        pipeline.release()


@pytest.fixture
def pipeline(make_pipeline):
    """One pipeline of some rollups, initialised, not started."""
    made = make_pipeline(land=SOME)
    made.init()
    return made


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows the tails of all logs."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for made in item.stash.get(_pipelines, []):
            try:
                report.sections.append((f"pipeline {made.name}", made.logs()))
            except Exception as error:      # the report must come whatever state things are in
                report.sections.append((f"pipeline {made.name}", f"no logs: {error!r}"))
