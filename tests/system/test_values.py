"""No row value gets where it must not: rows, payloads and keys with a mark in them, of every kind and by every way that something
may fail, while all roles log at debug; then every log, counter, metric, answer and output is searched, in all usual encodings.
And no core dump is left that would hold them."""
import base64
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import tempfile
import threading

import psycopg
import pytest
from pipeline import PAYMENT, ROLE, entity, wait_for, write_payment, write_role
from program import ROLAG
from test_privileges import modes_seen
from web import RUNS, Web

MARK = "zq7canary"          # in whatever a row holds
NUMBER = 918273645546372819     # where it must be a number
ASKED = "zq8client"         # in what a client sends: its own answer may have it, no log
REPORTS = """language: 1
reports:
  - id: nrp_1/01_roles
    name: roles
    title: Every role
    model: report_roles
    formats: [csv, xml, txt]
    order: [id]
    xml: {schema: roles, namespace: "urn:test:roles", root: all, row: role, min_rows: 1}
    columns:
      - {name: id, type: text, length: 36}
      - {name: name, type: text, max_length: %d, nillable: true%s}
"""
SOURCES = f"""version: 2
sources:
  - name: raw
    tables: [{{name: {ROLE}_latest}}, {{name: {PAYMENT}_latest}}]
models:
  - name: int_roles
    columns:
      - name: name
        tests: [%s]
"""
INT = "{{ config(materialized='table') }}\nselect id, %s as name from {{ ref('stg_roles') }} where name is not null\n"
MIRROR = """create table things (id int primary key, note text, other text);
    create table pairs (id int primary key, note text)"""


def encodings(text):
    """What to look for: as it is, and as base64 (wherever it begins), hexadecimal, percent and JSON would have it."""
    raw = text.encode()
    found = {raw, raw.upper(), raw.hex().encode(), raw.hex().upper().encode(), "".join(f"\\u{c:04x}" for c in raw).encode(),
             "".join(f"%{c:02X}" for c in raw).encode()}
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + raw).decode()
        whole = coded[(4 if shift else 0):len(coded) // 4 * 4 - 4]
        found.add(whole.encode())
    return found


def test_the_search_finds_what_it_looks_for():
    for text in (MARK, str(NUMBER)):
        for around in (text, f"xx{text}", f"a {text} b"):
            raw = around.encode()
            for said in (raw, raw.upper(), raw.hex().encode(), base64.b64encode(raw), base64.b64encode(b"1" + raw + b"22")):
                assert any(e in said for e in encodings(text)), said


class Journal(threading.Thread):
    """What a service manager hears."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.heard = path, b""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.start()

    def run(self):
        while True:
            self.heard += self.socket.recv(65536) + b"\n"


class Marked(Web):
    """Everything that it prints is kept in `said`."""

    def fill(self):
        self.said = {}
        self.journal = Journal(os.path.join(self.folder, "notify"))
        self.env = {"NOTIFY_SOCKET": self.journal.path}
        self.core_cluster.psql(MIRROR, database=self.core_database)
        for name in ("models/staging", "models/intermediate", "models/outputs"):
            os.makedirs(os.path.join(self.folder, "models", name))
        self.write("models/dbt_project.yml", "name: bank\nversion: '1.0'\n")
        self.write("models/models/staging/stg_roles.sql", f"select id, name from {{{{ source('raw', '{ROLE}_latest') }}}}\n")
        self.write("models/models/outputs/report_roles.sql", "select id::text as id, name from {{ ref('int_roles') }}\n")
        self.model("name")
        self.configure({"log": {"level": "debug"}, "mirrors": {"tables": ["things", "pairs"]}, "models": {"path": self.folder + "/models"},
                        "reports": {"build": "", "retries": 0, "definitions": self.folder + "/reports.yaml"},
                        "capture": {"look_interval": "1 s"}, "verify": {"sample_interval": "1 s"}, "quarantine": {"max_entities": 50}})
        self.report()
        self.init()
        self.prepare_web()
        return self

    def model(self, name, tests="not_null"):
        self.write("models/models/staging/all.yml", SOURCES % tests)
        self.write("models/models/intermediate/int_roles.sql", INT % name)

    def report(self, most=200, more=""):
        self.write("reports.yaml", REPORTS % (most, more))

    def run(self, *arguments, config=None):
        done = super().run(*arguments, config=config)
        if hasattr(self, "said"):
            self.said[f"{len(self.said)}: rolag {' '.join(arguments)}"] = (done[1] + done[2]).encode()
        return done

    def call(self, method, path, token="run", body=None, headers=None, source="127.0.0.1"):
        answer = super().call(method, path, token, body, headers, source)
        if ASKED not in path + str(body) + str(headers) + str(token) and "/files/" not in path:
            self.said[f"{len(self.said)}: {method} {path}"] = answer.body + str(answer.headers).encode()
        return answer

    def create_bad(self, conn):
        """Events and rows of every kind that does not fit, each with a mark."""
        long, deep = MARK * 3000, {"a": MARK}
        for _ in range(40):
            deep = {MARK: [deep]}
        first = [
            {"name": f"{MARK}-good", "permission_set_ids": []}, {"name": {"first": MARK}, "permission_set_ids": []},
            {"name": MARK, "permission_set_ids": MARK}, {"name": MARK, "permission_set_ids": [MARK]}, {"name": MARK},
            {"name": MARK, "permission_set_ids": [NUMBER]}, {"name": f"{MARK}\u00e9\"'\\\n;--", "permission_set_ids": []},
            {"name": MARK, "permission_set_ids": {"a": MARK}}, {"name": long, "permission_set_ids": []},
            {"name": NUMBER, "permission_set_ids": []}, {"name": deep, "permission_set_ids": []}, [MARK], MARK, NUMBER, None,
            {"name": MARK, "permission_set_ids": [], "colour": MARK}, {"name": MARK, "permission_set_ids": [], "shade": deep},
        ]
        for number, payload in enumerate(first, start=100):
            conn.execute("insert into core_roles values (%s, %s, now())", (entity(number), entity(number)))
            conn.execute("insert into core_role_events values (%s, 1, 'initialized', %s, %s, now())",
                         (entity(number), json.dumps(payload), json.dumps({"who": MARK})))
        write_role(conn, 200, 1, {"name": f"{MARK}-before", "permission_set_ids": []})
        write_role(conn, 200, 2, {"to": MARK}, "teleported")
        write_role(conn, 200, 3, {"permission_set_id": MARK})
        write_role(conn, 201, 1)
        write_role(conn, 201, 3, {"permission_set_id": MARK})      # a gap
        for number, payload in enumerate((
                {"amount": MARK}, {"amount": f"{NUMBER}"}, {"amount": NUMBER * 10 ** 9}, {"amount": 0.5 + NUMBER}, {"amount": [NUMBER]},
                {"beneficiary_id": MARK}, {"beneficiary_id": NUMBER}, {"effective": {"a": MARK}}, {"effective": NUMBER},
                {"ledger_tx_id": f"{MARK}-0000-4000-8000-000000000000"}, {"ledger_tx_id": ..., "effective": MARK}), start=300):
            write_payment(conn, number, **payload)

    def exposed(self):
        """{where: bytes} of all that somebody may read who may not read rows."""
        found = dict(self.said)
        for name in os.listdir(self.folder):
            if name.endswith(".log"):
                found[name] = self.bytes_of(os.path.join(self.folder, name))
        for at, folders, names in os.walk(self.state_dir):
            folders[:] = [n for n in folders if n not in ("spool", "reports")]
            for name in names:
                found[f"state/{name}"] = self.bytes_of(os.path.join(at, name))
        for name in os.listdir(self.target):
            for part in ("manifest.json", "files.sha256"):
                if os.path.exists(path := os.path.join(self.target, name, part)):
                    found[f"reports/{name}/{part}"] = self.bytes_of(path)
        found["the service manager"] = self.journal.heard
        # Control tables, but what says of itself that it holds rows.
        with psycopg.connect(self.warehouse_conninfo) as conn:
            for table, in conn.execute("select tablename from pg_tables where schemaname = 'rolag'").fetchall():
                listed = "to_jsonb(t) - 'event'" if table == "quarantine" else "to_jsonb(t)"
                rows = conn.execute(f"select coalesce(string_agg(({listed})::text, ' '), '') from rolag.{table} t").fetchone()[0]
                found[f"rolag.{table}"] = rows.encode()
            found["comments"] = conn.execute("select string_agg(description, ' ') from pg_description").fetchone()[0].encode()
        return found

    @staticmethod
    def bytes_of(path):
        with open(path, "rb") as f:
            return f.read()

    def leaks(self, words=(MARK, str(NUMBER))):
        marks = {e for word in words for e in encodings(word)}
        return sorted({(where, said[max(0, said.index(m) - 200):said.index(m) + 60]) for where, said in self.exposed().items()
                       for m in marks if m in said})


@pytest.fixture(scope="module")
def marked(core_cluster, warehouse_cluster):
    p = Marked("values", tempfile.mkdtemp(prefix="rolag-values-"), core_cluster, warehouse_cluster, warehouse_cluster, None,
               land=[ROLE, PAYMENT])
    try:
        p.create()
        with p.writing() as conn:       # also what is there before the first load
            write_role(conn, 1, 1, {"name": f"{MARK}-first", "permission_set_ids": []})
            write_role(conn, 2, 1, {"name": [MARK], "permission_set_ids": []})
            write_payment(conn, 1, effective=MARK)
            write_payment(conn, 2, amount=MARK)
        p.fill()
        before = os.umask(0)
        p.start()
        os.umask(before)
        with p.writing() as conn:
            p.create_bad(conn)
            conn.execute("insert into things select n, %s || n, %s from generate_series(1, 20) n", (MARK, MARK))
        p.wait_applied()
        yield p
    finally:
        p.release()


def test_bad_events_and_every_command_that_looks_at_them(marked):
    p = marked
    assert p.warehouse("select count(*) from rolag.quarantine where first")[0][0] >= 15, "they were bad"
    assert p.warehouse(f"select count(*) from raw.{ROLE}_latest where name like %s", f"%{MARK}%")[0][0] >= 4, "some were good"
    wait_for("the sampler", lambda: p.counters()["apply_verified_rows_total"] >= 5)
    for command in (["status"], ["status", "--json"], ["status", "--prometheus"], ["status", "--tables"], ["status", "--tables", "--json"],
                    ["check"], ["check", "--definitions"], ["quarantine", "list"], ["quarantine", "show", ROLE, entity(200)],
                    ["quarantine", "retry", ROLE, entity(200)], ["quarantine", "skip", ROLE, entity(201), "--reason", "a test"],
                    ["story", entity(200)], ["story", entity(1)], ["spool", "ls"], ["spool", "dump"], ["spool", "verify"], ["models", "ls"],
                    ["verify", "--full"], ["sync", "--all", "--wait"], ["init"], ["report", "list"], ["report", "list", "--reports"],
                    ["quarantine", "retry", "--all"]):
        p.run(*command)
    p.wait_applied()
    assert p.leaks() == []


def test_rows_that_differ_and_rows_that_a_constraint_or_a_trigger_refuses(marked):
    p = marked
    p.warehouse(f"update raw.{ROLE} set name = %s where id = %s", MARK + "-other", entity(1))
    p.warehouse("update raw.things set note = %s where id = 1", MARK + "-other")
    code, out, _ = p.run("verify", "--full")
    assert code == 1 and f"{ROLE}" in out and "things" in out, out
    assert p.run("verify", ROLE, "--full", "--repair")[0] == 0
    # An index of the bank's own: DETAIL and CONTEXT of such errors have the row.
    p.warehouse("create unique index on raw.things (other) where id > 1000")
    with p.writing() as conn:
        conn.execute("insert into things select n, %s, %s from generate_series(1001, 1003) n", (MARK, MARK))
    wait_for("it to be parked", lambda: p.warehouse("select state from rolag.relation where name = 'things'") == [("parked",)])
    # A trigger of the bank's own, which says what it likes.
    p.warehouse("create function public.refuse() returns trigger language plpgsql as $$ begin "
                "raise exception using message = 'not this one: ' || new.note, detail = new.note, hint = new.note, errcode = 'BNK01'; end $$")
    p.warehouse("create trigger refuse before insert on raw.pairs for each row execute function public.refuse()")
    with p.writing() as conn:
        conn.execute("insert into pairs values (1, %s)", (MARK,))

    def is_told():
        return p.warehouse("select reason from rolag.relation where name = 'pairs' and state = 'parked'") or not p.apply.running()
    wait_for("it to be told", is_told)
    p.run("status"), p.run("status", "--tables"), p.run("check")
    assert p.leaks() == []
    p.warehouse("drop trigger refuse on raw.pairs")
    if not p.apply.running():
        p.start_apply()
    for sql in ("drop index raw.things_other_idx",):
        p.warehouse(sql)
    code, out, err = p.run("sync", "--all", "--wait")
    assert code == 0, out + err


def test_models_tests_and_limits_that_rows_break(marked):
    p = marked
    p.warehouse("create or replace function public.fussy(t text) returns text immutable language plpgsql as $$ begin "
                "raise exception using message = 'not ' || t, errcode = 'BNK02'; end $$")
    p.warehouse("create or replace function public.sly(t text) returns text immutable language plpgsql as $$ begin "
                "raise exception using message = 'not ' || t, errcode = '42501'; end $$")
    breaks = [({"name": "name::int::text"}, {}), ({"name": "(name::jsonb)::text"}, {}), ({"name": "(name::timestamptz)::text"}, {}),
              ({"name": "(name || '-0000')::uuid::text"}, {}), ({"name": "public.fussy(name)"}, {}), ({"name": "public.sly(name)"}, {}), ({"name": "('<' || name)::xml::text"}, {}),
              ({"name": "left(name, 3)", "tests": "unique"}, {}), ({"name": "name", "tests": "accepted_values: {values: [a]}"}, {}),
              ({"name": "name"}, {"most": 3}), ({"name": "name || chr(7)"}, {}), ({"name": "(length(name) / (length(name) - length(name)))::text"}, {})]
    ended = 0
    for model, report in breaks:
        p.model(**model)
        p.report(**report)
        assert p.reports.stop() == 0
        p.start_reports()
        p.wait_ready()
        code, _, _ = p.run("models", "build", "--as-of", "2026-01-31")
        run = p.run("report", "run", "--wait", "--accept-quarantine")[1].split("\n")[0]
        state = p.state(run)
        ended += state == "failed"
        p.run("report", "show", run), p.run("report", "show", run, "--json"), p.get(f"{RUNS}/{run}"), p.get("/api/v1/status"), p.get("/metrics")
        assert state == "failed", (model, report, code)
    p.model("name")
    p.report()
    assert ended == len(breaks) and p.leaks() == []


def test_names_that_come_from_outside_begin_no_line_and_steer_no_terminal(marked):
    """Types and keys of events are names, which logs and commands show: whoever writes events chooses them."""
    p = marked
    forged = "2026-01-01T00:00:00.000Z info apply: all is well"
    for n, name in enumerate((f"x\n{forged}", f"x\r{forged}", f"\x1b[2J\x1b]0;owned\x07{forged}", f"\u009b31m{forged}")):
        with p.writing() as conn:
            write_role(conn, 500 + n, 1)
            write_role(conn, 500 + n, 2, {"a": 1}, name)
            write_role(conn, 600 + n, 1, {"name": "x", "permission_set_ids": [], name: 1})
    p.wait_applied()
    wait_for("them to be told", lambda: len(p.apply.lines("all is well")) >= 1)
    shown = b""
    for command in (["quarantine", "list"], ["quarantine", "show", ROLE, entity(500)], ["quarantine", "show", ROLE, entity(502)],
                    ["quarantine", "show", ROLE, entity(503)], ["story", entity(502)], ["check", "--definitions"], ["status"],
                    ["status", "--tables"], ["status", "--json"], ["quarantine", "retry", ROLE, entity(502)]):
        _, out, err = p.run(*command)
        shown += (out + err).encode()
    logs = b"".join(said for where, said in p.exposed().items() if where.endswith(".log"))
    for said in (shown, logs):
        assert b"all is well" in said, "it was shown"
        assert not [c for c in said if c < 0x20 and c not in b"\n" or c == 0x7f] and "\u009b".encode() not in said
        assert not [line for line in said.splitlines() if line.startswith(forged.encode())]


def test_what_a_client_sends_is_in_no_log(marked):
    p = marked
    for call in (lambda: p.get(f"/api/v1/report-runs?report={ASKED}"), lambda: p.get(f"{RUNS}/{ASKED}"), lambda: p.get(f"/{ASKED}", None),
                 lambda: p.get("/metrics", f"rolag_{ASKED}"), lambda: p.post("{" + ASKED), lambda: p.post({"reports": [ASKED]}),
                 lambda: p.post({"reports": ["nrp_1/01_roles"], "as_of": ASKED}), lambda: p.post({"reports": []}, key=ASKED + "\x7f"),
                 lambda: p.call("POST", RUNS, "run", body="{}", headers={"Content-Type": ASKED}), lambda: p.get(f"{RUNS}/x/files/{ASKED}/{ASKED}")):
        assert call().status in (400, 401, 404, 415, 422)
    for text in (f"GET /{ASKED} HTTP/9\r\n\r\n", f"{ASKED}\r\n\r\n", f"GET / HTTP/1.1\r\n{ASKED}\r\n\r\n"):
        p.send(text)
    logs = {w: s for w, s in p.exposed().items() if w.endswith(".log") or w.startswith(("state/", "the service", "rolag."))}
    assert [w for w, s in logs.items() if any(e in s for e in encodings(ASKED))] == []
    for where in ("http://127.0.0.1:1/", "postgresql://nobody:{}@127.0.0.1:1/x", "host=127.0.0.1 port=1 password={}", "host=/nowhere passwrod={}"):
        for key in (("core", "connect"), ("warehouse", "connect"), ("reports", "connect")):
            settings = json.loads(json.dumps(p.settings))
            settings[key[0]][key[1]] = where.format(ASKED)
            path = os.path.join(p.folder, "other.yaml")
            p.write_config(path, settings)
            for command in (["check"], ["report", "list"]):
                _, out, err = p.run(*command, config=path)
                assert ASKED not in out + err, (where, key, command)


def test_folders_and_files_that_a_role_makes_by_itself_are_not_others(marked):
    """Without the package's folders, under a umask that forbids nothing; after all that is above."""
    marked.model("left(name, 20)")
    marked.report()
    assert marked.reports.stop() == 0
    marked.start_reports()
    code, out, err = marked.run("report", "run", "--wait", "--accept-quarantine")
    assert code == 0, out + err
    assert marked.leaks() == []
    seen = modes_seen(marked.state_dir, cleared=stat.S_ISGID)
    assert seen >= {"", "spool", "spool/[^/]+", "reports"} and len(seen) == 9, seen


# ---- core dumps ------------------------------------------------------------------------------------------------------

def crash(words, folder, number, env=None):
    """Ends a process by a real signal, where nothing else forbids a core: (signal, was a core dumped, files)."""
    process = subprocess.Popen(words, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               env={**os.environ, **(env or {})},
                               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2))
    if words[0] == ROLAG:
        assert process.stdout.readline(), "it begins to talk"
    process.send_signal(number)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = 0
    process.stdin.close(), process.stdout.close()
    files = sorted(os.listdir(folder))
    for name in files:
        os.unlink(os.path.join(folder, name))
    return os.WTERMSIG(status), os.WCOREDUMP(status), files


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_a_crash_leaves_no_core(marked, tmp_path, number):
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    if hard != resource.RLIM_INFINITY and os.geteuid() != 0:
        pytest.skip("no cores here anyway")
    folder = str(tmp_path)
    _, dumped, _ = crash(["sleep", "60"], folder, number)
    if not dumped:
        pytest.skip("this machine's core_pattern leaves no cores")
    settings = json.loads(json.dumps(marked.settings))
    config, state = os.path.join(marked.folder, "waits.yaml"), tempfile.mkdtemp(dir=marked.folder)
    settings.update({"state_dir": state, "core": {"connect": "host=/nowhere"}, "warehouse": {"connect": "host=/nowhere"}, "http": {}})
    marked.write_config(config, settings)
    for role in ("capture", "apply", "reports"):      # each waits for its database, and has said so
        assert crash([ROLAG, role, "--config", config], folder, number) == (number, False, []), role
    if "asan" not in ROLAG:
        assert crash([ROLAG, "capture", "--config", config], folder, number, {"ROLAG_CORE_DUMPS": "yes"})[1]
