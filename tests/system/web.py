"""A companion that serves HTTP, and a client of it."""
import http.client
import itertools
import json
import os
import re
import socket
import tempfile

import pytest
from companion import Companion
from pipeline import ROLE, ROOT, Process, wait_for

_number = itertools.count(1)
FAIL_BINARY = os.environ.get("ROLAG_FAIL_BINARY", os.path.join(ROOT, "build", "fail", "rolag"))
RUNS = "/api/v1/report-runs"
# In every answer, whatever it is.
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
           "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin",
           "Cross-Origin-Resource-Policy": "same-origin"}

with open(os.path.join(ROOT, "apply", "reports", "console", "openapi.json"), encoding="utf-8") as _f:
    DOCUMENT = json.load(_f)
PATHS = {path: re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)) + r"\Z") for path in DOCUMENT["paths"]}


# ---- what the API's document says of an answer ----------------------------------------------------------------------

def schema_of(schema):
    """With what it refers to, and what it is made of, in one."""
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    if "allOf" in schema:
        parts = [schema_of(part) for part in schema["allOf"]]
        return {"type": "object", "properties": {k: v for part in parts for k, v in part["properties"].items()},
                "required": [k for part in parts for k in part["required"]]}
    return schema


TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict,
         "null": type(None)}


def check_schema(value, schema, where="$"):
    schema = schema_of(schema)
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    assert any(isinstance(value, TYPES[t]) and not (isinstance(value, bool) and t != "boolean") for t in types), where
    assert "enum" not in schema or value in schema["enum"], (where, value)
    if isinstance(value, list):
        for i, item in enumerate(value):
            check_schema(item, schema["items"], f"{where}[{i}]")
    if isinstance(value, dict) and "properties" in schema:
        assert set(schema.get("required", [])) <= set(value), where
        for key, item in value.items():
            if where != "$" or key in schema["properties"] or schema.get("description") != "Keys are only ever added. " \
                    "Unknown durations are null.":
                check_schema(item, schema["properties"][key], f"{where}.{key}")


def check_answer(method, path, answer):
    """Every answer of every test: its status and its body are as the document says."""
    path = path.partition("?")[0]
    known = next((p for p, pattern in PATHS.items() if pattern.match(path)), None)
    for name, value in HEADERS.items():
        assert answer.headers[name] == value, (path, name)
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    operation = DOCUMENT["paths"].get(known, {}).get({"HEAD": "get"}.get(method, method.lower()))
    if operation is None:
        assert answer.status == (404 if known is None else 405), (method, path, answer.status)
        content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    else:
        assert str(answer.status) in operation["responses"], (method, path, answer.status)
        content = operation["responses"][str(answer.status)].get("content")
    if content is None or method == "HEAD":
        assert answer.body == b""
        return
    kind = answer.headers["Content-Type"].partition(";")[0]
    assert kind in content, (path, kind)
    if kind.endswith("json"):
        check_schema(answer.json, content[kind]["schema"])
    if kind == "application/problem+json":
        assert answer.json["status"] == answer.status


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
    points = ""         # of the companion; with any it is the one that has failpoints

    def start_role(self, role, config=None, log=None):
        if role != "reports" or not self.points:
            return super().start_role(role, config, log)
        process = Process(role, [FAIL_BINARY, role, "--config", config or self.config], os.path.join(self.folder, "reports.log"),
                          {**self.env, "ROLAG_FAILPOINTS": self.points})
        self.processes.append(process)
        return process

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

    def call(self, method, path, token="run", body=None, headers=None, source="127.0.0.1"):
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30, source_address=(source, 0))
        try:
            more = dict(headers or {})
            if token is not None:
                more["Authorization"] = f"Bearer {self.token.get(token, token)}"
            conn.request(method, path, body=body, headers=more)
            got = conn.getresponse()
            answer = Answer(got.status, got.headers, got.read())
            check_answer(method, path, answer)
            return answer
        finally:
            conn.close()

    def get(self, path, token="read", **more):
        return self.call("GET", path, token, **more)

    def problem(self, status, method, path, token="run", **more):
        """The detail of an error."""
        got = self.call(method, path, token, **more)
        assert got.status == status, (got.status, got.body)
        return got.json["detail"]

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


    def send(self, text, close=True):
        """Bytes, and everything that comes back until the other side closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as s:
            s.sendall(text if isinstance(text, bytes) else text.encode())
            if close:
                s.shutdown(socket.SHUT_WR)
            got = b""
            while True:
                try:
                    piece = s.recv(65536)
                except ConnectionResetError:
                    return got
                if not piece:
                    return got
                got += piece


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
def web(make_web):  # pylint: disable=redefined-outer-name
    p = make_web().start()
    yield p
    assert "an answer that the API's document does not have" not in p.reports.text()
