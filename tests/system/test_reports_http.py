"""The companion's API over HTTP: who may come, what may be asked, and that what is sent is what was published."""
import hashlib

import pytest
from pipeline import entity, write_roles
from web import RUNS, make_web  # noqa: F401

@pytest.fixture
def web(make_web):
    p = make_web().start()
    yield p
    assert "an answer that the API's document does not have" not in p.reports.text()


def test_a_run_is_asked_for_followed_and_its_files_are_those_on_disk(web):
    p = web
    with p.writing() as conn:
        write_roles(conn, 1, 3)
    run = p.asked({"reports": ["nrp_1/01_roles"]})
    p.wait_ended(run)
    one = p.get(f"{RUNS}/{run}").json
    assert one["state"] == "published" and one["client_state"] == "success" and one["requester"] == "token run"
    assert one["fence_lsn"] and one["watermark_lsn"] and [f["rows"] for f in one["files"]] == [3, 3, 3]
    assert p.get(f"{RUNS}/{run}/files").json["files"] == one["files"]
    manifest = p.get(f"{RUNS}/{run}/manifest")
    with open(p.path(run, "manifest.json"), "rb") as f:
        assert f.read() == manifest.body
    listed = {f["path"]: f["sha256"] for f in manifest.json["files"]}
    types = {"csv": "text/csv; charset=utf-8", "txt": "text/plain; charset=utf-8", "xml": "application/xml"}
    for f in one["files"]:
        got = p.get(f["url"])
        with open(p.path(run, f["path"]), "rb") as disk:
            assert got.status == 200 and got.body == disk.read()
        assert hashlib.sha256(got.body).hexdigest() == f["sha256"] == listed[f["path"]]
        assert got.headers["ETag"] == f'"{f["sha256"]}"' and got.headers["Content-Type"] == types[f["format"]]
        assert got.headers["Content-Disposition"] == f'attachment; filename="roles.{f["format"]}"'
        assert int(got.headers["Content-Length"]) == f["bytes"]
        again = p.get(f["url"], headers={"If-None-Match": got.headers["ETag"]})
        assert again.status == 304 and again.body == b""
    assert entity(3) in p.get(one["files"][0]["url"]).body.decode()
