"""A companion that serves HTTP, and a client of it."""
import http.client
import itertools
import json
import os
import socket
import tempfile

import pytest
from companion import Companion
from pipeline import ROLE, wait_for

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
