"""Runs of reports on real clusters: states, freshness, files, crashes, schedules (design §8)."""
import csv
import io
import itertools
import os
import shutil
import subprocess
import tempfile

import pytest
from companion import DEFINITIONS, Companion
from pipeline import ROLE, entity, lsn, wait_for, write_role, write_roles

_number = itertools.count(1)


@pytest.fixture
def make_companion(request, core_cluster, warehouse_cluster):
    """make_companion(settings of reports, …): initialised, not started."""
    from conftest import _pipelines
    made = request.node.stash.setdefault(_pipelines, [])

    def make(core=None, warehouse=None, more=None, **settings):
        name = f"rep{next(_number)}"
        one = Companion(name, tempfile.mkdtemp(prefix=f"rolag-{name}-"), core or core_cluster,
                        warehouse or warehouse_cluster, warehouse_cluster, more, land=[ROLE])
        made.append(one)
        one.create()
        return one.prepare(**settings)
    yield make
    for one in made:
        one.release()


@pytest.fixture
def companion(make_companion):
    return make_companion().start()


def test_a_run_passes_its_states_and_publishes_files_with_proof(companion):
    p = companion
    with p.writing() as conn:
        write_roles(conn, 1, 3)
        before = lsn(conn.execute("select pg_current_wal_insert_lsn()::text").fetchone()[0])
    code, out, err = p.run("report", "run", "--report", "nrp_1/01_roles", "--wait")
    assert code == 0, out + err
    run = out.splitlines()[0]
    assert out.splitlines()[-2] == "published" and set(out.splitlines()[1:-1]) <= {
        "queued", "waiting", "building", "writing", "published"}
    one = p.one(run)
    times = [one[k] for k in ("requested_at", "waiting_at", "building_at", "writing_at", "ended_at")]
    assert times == sorted(times) and None not in times
    assert lsn(one["fence_lsn"]) >= before and lsn(one["watermark_lsn"]) >= lsn(one["fence_lsn"])
    rows = list(csv.reader(io.StringIO(p.read(run, "nrp_1/roles.csv"))))
    assert rows == [["id", "name", "version"]] + [[entity(n), f"role {n}", "1"] for n in (1, 2, 3)]
    assert p.read(run, "nrp_1/roles.txt").splitlines()[1] == f"{entity(1)}|role 1|1"
    manifest = p.check_whole(run)
    assert manifest["freshness"]["watermark_lsn"] == one["watermark_lsn"]
    assert {f["path"]: f["rows"] for f in manifest["files"]} == {
        "nrp_1/roles.csv": 3, "nrp_1/roles.txt": 3, "nrp_1/roles.xml": 3}
    assert subprocess.run(["sha256sum", "-c", "--quiet", "files.sha256"], cwd=p.path(run), check=False).returncode == 0
