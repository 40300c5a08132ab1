"""The companion's API over HTTP: who may come, what may be asked, and that what is sent is what was published."""
import hashlib
import http.client
import itertools
import json
import os
import socket
import tempfile

import pytest
from companion import Companion
from pipeline import ROLE, entity, wait_for, write_roles

_number = itertools.count(1)
RUNS = "/api/v1/report-runs"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


class Web(Companion):
    """A companion that serves HTTP, and a client with tokens: `read`, `run` (both scopes)."""

    port = None

    def prepare_web(self, **keys):
        self.port = free_port()
        self.tokens_path = os.path.join(self.folder, "tokens")
        self.token = {}
        self.lines = {}
        self.make_token("read", "reports:read")
        self.make_token("run", "reports:read,reports:run")
        self.write_tokens()
        self.configure({"http": {"listen": f"127.0.0.1:{self.port}", "tokens": self.tokens_path, **keys}})
        return self

    def make_token(self, name, scope):
        code, out, err = self.run("report", "token", name, "--scope", scope)
        assert code == 0, err
        lines = out.splitlines()
        self.token[name], self.lines[name] = lines[0], lines[-1]

    def write_tokens(self):
        self.write("tokens", "# who may come\n\n" + "\n".join(self.lines.values()) + "\n")

    def start_reports(self):
        super().start_reports()
        wait_for("HTTP to be served", self.is_served)
        return self.reports

    def is_served(self):
        assert self.reports.running(), self.reports.text()[-2000:]
        try:
            return self.get("/healthz", token=None).status == 200
        except OSError:
            return False

    def call(self, method, path, token="run", body=None, headers=None):
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            more = dict(headers or {})
            if token is not None:
                more["Authorization"] = f"Bearer {self.token.get(token, token)}"
            conn.request(method, path, body=body, headers=more)
            got = conn.getresponse()
            return Answer(got.status, got.headers, got.read())
        finally:
            conn.close()

    def get(self, path, token="read", **more):
        return self.call("GET", path, token, **more)

    def post(self, body, token="run", key=None, **headers):
        headers = {"Content-Type": "application/json", **headers}
        if key is not None:
            headers["Idempotency-Key"] = key
        return self.call("POST", RUNS, token, json.dumps(body) if not isinstance(body, (str, bytes)) else body, headers)

    def asked(self, body, **more):
        got = self.post(body, **more)
        assert got.status == 202, got.body
        assert got.headers["Location"] == f"{RUNS}/{got.json['id']}" == got.json["url"]
        return got.json["id"]


@pytest.fixture
def make_web(request, core_cluster, warehouse_cluster):
    from conftest import _pipelines
    made = request.node.stash.setdefault(_pipelines, [])

    def make(core=None, warehouse=None, keys=None, **settings):
        name = f"web{next(_number)}"
        one = Web(name, tempfile.mkdtemp(prefix=f"rolag-{name}-"), core or core_cluster,
                  warehouse or warehouse_cluster, warehouse_cluster, None, land=[ROLE])
        made.append(one)
        one.create()
        one.prepare(**settings)
        return one.prepare_web(**(keys or {}))
    yield make
    for one in made:
        one.release()


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
