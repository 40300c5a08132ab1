"""The companion's API over HTTP: who may come, what may be asked, and that what is sent is what was published."""
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest
from pipeline import PERMANENT, ROOT, TEMPORARY, entity, wait_for, write_role, write_roles
from program import ROLAG
from web import DOCUMENT, RUNS

ROLES = {"reports": ["nrp_1/01_roles"]}
NOBODY = "00000000-0000-4000-8000-000000000000"


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


# ---- who may come ----------------------------------------------------------------------------------------------------

def test_only_probes_page_and_document_need_no_token(web):
    p = web
    free = {path for path, methods in DOCUMENT["paths"].items() if methods["get"]["security"] == []}
    assert free == {"/", "/console.css", "/console.js", "/healthz", "/readyz", "/api/v1/openapi.json"}
    for path, methods in DOCUMENT["paths"].items():
        real = path.format(id=NOBODY, norm="nrp_1", name="roles.csv")
        for method in methods:
            got = p.call(method.upper(), real, None)
            assert got.status == (200 if path in free else 401), path
            if path not in free:
                assert got.headers["WWW-Authenticate"].startswith("Bearer")
    assert p.get("/api/v1/openapi.json", None).json == DOCUMENT
    for wrong in ("rolag_x", "", p.token["run"] + "x", p.token["run"][:-1], p.lines["run"].split()[-1]):
        assert p.get("/api/v1/reports", wrong).status == 401
    # Another scheme, and a scheme in other letters.
    assert p.call("GET", "/api/v1/reports", None, headers={"Authorization": "Basic " + p.token["run"]}).status == 401
    assert p.call("GET", "/api/v1/reports", None, headers={"Authorization": "bearer " + p.token["run"]}).status == 200
    log = p.reports.text()
    assert "a request over HTTP is refused" in log and "address=127.0.0.1" in log
    assert not [t for t in p.token.values() if t in log or t[len("rolag_"):] in log]


def test_scopes_say_what_a_token_may(web):
    p = web
    p.make_token("only-run", "reports:run")
    p.write_tokens()
    p.reports.signal(signal.SIGHUP)
    wait_for("the tokens", lambda: p.reports.lines("tokens read again", "tokens=3"))
    assert "has not the scope reports:run" in p.problem(403, "POST", RUNS, "read", body="{}")
    assert "has not the scope reports:read" in p.problem(403, "GET", RUNS, "only-run")
    run = p.asked(ROLES, token="only-run")
    assert p.wait_ended(run)["requester"] == "token only-run"
    assert p.warehouse("select count(*) from rolag.report_run")[0][0] == 1


def test_tokens_are_read_again_on_hup_and_a_bad_file_changes_nothing(web):
    p = web
    old = dict(p.token)
    p.make_token("run", "reports:read,reports:run")      # another token of the same name
    del p.lines["read"]
    p.write_tokens()
    assert p.get("/api/v1/reports", old["run"]).status == 200, "nobody said that there is something new"
    p.reports.signal(signal.SIGHUP)
    wait_for("the new tokens", lambda: p.get("/api/v1/reports", p.token["run"]).status == 200)
    assert p.get("/api/v1/reports", old["run"]).status == p.get("/api/v1/reports", old["read"]).status == 401
    for bad in ("run reports:run short\n", None):
        if bad is None:
            p.write_tokens()
            os.chmod(p.tokens_path, 0o666)
        else:
            p.write("tokens", bad)
        before = len(p.reports.lines("the old ones stay"))
        p.reports.signal(signal.SIGHUP)
        wait_for("the refusal", lambda n=before: len(p.reports.lines("the old ones stay")) > n)
        assert p.get("/api/v1/reports", p.token["run"]).status == 200


def numbers(p, source="127.0.0.1"):
    """The counters of wrong and of refused tokens."""
    text = p.get("/metrics", source=source).body.decode()
    return [int(re.search(rf"^rolag_reports_http_{name}_total (\d+)$", text, re.M)[1])
            for name in ("wrong_tokens", "refused_requests")]


def test_who_is_wrong_too_often_must_wait_and_nobody_else(make_web):
    p = make_web(keys={"failures": 20}).start()
    secret = "rolag_not-this-one-but-near-to-it"
    bad, good = "127.0.0.2", "127.0.0.3"
    assert p.get("/api/v1/reports", source=good).status == 200
    # What needs no token, and what brings none, is no failure; neither is a token without the scope.
    for _ in range(8):
        assert p.get("/healthz", None, source=bad).status == 200
        assert p.get("/api/v1/reports", None, source=bad).status == 401
        assert p.call("POST", RUNS, "read", body="{}", source=bad).status == 403
    for n in range(20):
        assert p.get("/api/v1/reports", secret + str(n), source=bad).status == 401
    for token, method, path, body in ((secret, "GET", "/api/v1/reports", None), ("read", "GET", "/metrics", None),
                                      ("run", "POST", RUNS, json.dumps(ROLES)), ("run", "GET", f"{RUNS}/{NOBODY}/files", None)):
        got = p.call(method, path, token, body=body, headers={"Content-Type": "application/json"}, source=bad)
        assert got.status == 429 and 1 <= int(got.headers["Retry-After"]) <= 3, got.body
        assert got.json["type"] == "urn:rolag:problem:failures" and "WWW-Authenticate" not in got.headers
    assert p.warehouse("select count(*) from rolag.report_run")[0][0] == 0
    # A header does not say who comes.
    assert p.call("GET", "/metrics", "read", headers={"X-Forwarded-For": "127.0.0.9", "Forwarded": "for=127.0.0.9"},
                  source=bad).status == 429
    # The page and the probes go on, and so does everybody else.
    assert p.get("/", None, source=bad).status == p.get("/readyz", None, source=bad).status == 200
    for source in (good, "127.0.0.4"):
        assert p.get("/api/v1/reports", source=source).status == 200
    assert numbers(p, good) == [20, 5]
    # From many addresses, each within its own: then only who was right before is heard.
    seen = [p.get("/api/v1/reports", secret, source=f"127.1.{n}.1").status for n in range(180)]
    assert 130 < seen.count(401) < 170 and seen[-1] == 429, seen
    assert p.get("/api/v1/reports", source="127.0.0.5").status == 429
    assert p.get("/api/v1/reports", source=good).status == 200
    # It passes.
    wait_for("its time to pass", lambda: p.get("/api/v1/reports", source=bad).status == 200, timeout=60)
    log = p.reports.text()
    assert "too many wrong tokens (http.failures)" in log and secret not in log and not [t for t in p.token.values() if t in log]
    assert len(p.reports.lines("a request over HTTP is refused")) < 40, "the log is limited, too"


def test_without_a_limit_everybody_is_heard(make_web):
    p = make_web(keys={"failures": 0}).start()
    for _ in range(50):
        assert p.get("/api/v1/reports", "rolag_wrong").status == 401
    assert p.get("/api/v1/reports").status == 200 and numbers(p) == [50, 0]


def test_an_address_for_others_needs_tokens(make_web):
    p = make_web()
    port = p.port
    p.configure({"http": {"listen": f"0.0.0.0:{port}", "tokens": ""}})
    reports = p.start_role("reports")
    assert reports.wait() == PERMANENT and "is reached by others" in reports.text()
    code, out, _ = p.run("check")
    assert code == 1 and "FAIL  http: " in out and "rolag report token" in out
    p.configure({"http": {"tokens": p.tokens_path}})
    assert "warn  http: 0.0.0.0" in p.run("check")[1]
    p.start_reports()
    assert p.get("/api/v1/reports").status == 200
    other = p.start_role("reports", log=os.path.join(p.folder, "other.log"))     # it waits for the lock, in vain
    assert other.wait() == PERMANENT
    assert p.reports.stop() == 0
    p.configure({"http": {"listen": str(port)}})
    assert f"ok    http: {port}, for 2 tokens" in p.run("check")[1]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        reports = p.start_role("reports")
        assert reports.wait() == TEMPORARY and "cannot listen on" in reports.text()
    p.configure({"http": {"listen": "localhost:80"}})
    reports = p.start_role("reports")
    assert reports.wait() == PERMANENT and "http.listen must be" in reports.text()


# ---- what may be asked -----------------------------------------------------------------------------------------------

def test_paths_and_methods_that_are_not_there_are_said_to_be_so(web):
    p = web
    for path, methods in DOCUMENT["paths"].items():
        real = path.format(id=NOBODY, norm="nrp_1", name="roles.csv")
        for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} - {m.upper() for m in methods}:
            got = p.call(method, real)
            assert got.status == 405 and got.headers["Allow"].split(", ")[0] == "GET"
        assert p.call("GET", real + "/").status == 404 if path != "/" else True
    for path in ("/favicon.ico", "/api/v1", "/api/v2/reports", "//", "/console.css/..", "/%2e%2e/%2e%2e/etc/passwd", "/healthz%00"):
        assert p.get(path).status == 404
    head = p.call("HEAD", "/api/v1/reports")
    assert head.status == 200 and int(head.headers["Content-Length"]) == len(p.get("/api/v1/reports").body)


def test_trap_48_no_name_of_a_request_becomes_a_path(web):
    """What is there beside the published files, and outside, is reached by no name."""
    p = web
    with p.writing() as conn:
        write_roles(conn, 1, 1)
    run = p.asked(ROLES)
    p.wait_ended(run)
    with open(p.path(run, "nrp_1", "secret.csv"), "w", encoding="ascii") as f:
        f.write("not published\n")
    os.symlink("/etc/passwd", p.path(run, "nrp_1", "link.csv"))
    for name in ("nrp_1/secret.csv", "nrp_1/link.csv", "manifest.json", "nrp_1/../manifest.json", "../files.sha256",
                 "nrp_1/..%2fmanifest.json", "%2e%2e/manifest.json", "nrp_1/roles.csv%00", "nrp_1/roles.csv%00.txt", "nrp_1/ROLES.csv",
                 "nrp_1%2froles.csv/x", "nrp_1/%72oles.csv%20", "./roles.csv", "nrp_1/.", "nrp_1/*", "nrp_1//etc/passwd"):
        got = p.get(f"{RUNS}/{run}/files/{name}")
        assert got.status == 404, name
    for other in (run.upper(), run[:8], "..", "%2e%2e", run + "%00", "x' or '1'='1", NOBODY):
        assert p.get(f"{RUNS}/{other.replace(' ', '%20')}").status == 404, other
    assert p.get(f"{RUNS}/{run}/files/nrp_1/%72oles.csv").status == 200
    # A published name that is a link now is not followed.
    os.unlink(p.path(run, "nrp_1", "roles.csv"))
    os.symlink("/etc/passwd", p.path(run, "nrp_1", "roles.csv"))
    assert p.get(f"{RUNS}/{run}/files/nrp_1/roles.csv").status == 500


def test_a_file_that_is_not_what_was_published_is_not_sent(web):
    p = web
    run = p.asked(ROLES)
    p.wait_ended(run)
    with open(p.path(run, "nrp_1", "roles.csv"), "a", encoding="ascii") as f:
        f.write("one more\n")
    assert "rolag report verify" in p.problem(500, "GET", f"{RUNS}/{run}/files/nrp_1/roles.csv")
    os.unlink(p.path(run, "nrp_1", "roles.txt"))
    assert "rolag report rerun" in p.problem(410, "GET", f"{RUNS}/{run}/files/nrp_1/roles.txt")
    assert p.run("report", "rerun", run)[0] == 0
    assert p.get(f"{RUNS}/{run}/files/nrp_1/roles.txt").status == p.get(f"{RUNS}/{run}/files/nrp_1/roles.csv").status == 200


def test_bodies_that_cannot_be_are_refused_in_words(web):
    p = web
    for status, body, says in ((400, "", "no JSON"), (400, "{", "no JSON"), (400, "[]", "JSON object"), (400, {"report": 1}, "unknown key report"),
                               (400, {"reports": []}, "1 to 1000"), (422, {"reports": ["nrp_1/01_rolse"]}, "did you mean nrp_1/01_roles"),
                               (422, {"as_of": "2026-02-30"}, "is not a day"), (422, {"reports": ["nrp_1/02_day"]}, "needs a day"),
                               (422, {**ROLES, "as_of": "2026-01-31"}, "takes a day"), (400, {"allow_stale": "yes"}, "true or false"),
                               (400, b'{"reports": ["\xff"]}', "no JSON")):
        got = p.post(body)
        assert got.status == status and says in got.json["detail"], (body, got.body)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""):
        assert p.post({}, **{"Content-Type": kind}).status == 415
    assert p.post({}, **{"Content-Type": "application/json; charset=utf-8"}).status == 202
    for key in ("a b", "k" * 201, "\u00e9"):
        assert p.post({}, key=key).status == 400
    assert p.warehouse("select count(*) from rolag.report_run")[0][0] == 1


def test_what_is_asked_for_is_what_the_row_says(web):
    p = web
    run = p.asked({"as_of": "2026-01-31", "allow_stale": True, "accept_quarantine": True})
    row = p.warehouse("select reports, as_of::text, allow_stale, accept_quarantine, requester, type, idempotency_key from rolag.report_run "
                      "where id = %s", run)[0]
    assert row == (["nrp_1/01_roles", "nrp_1/02_day", "other/empty"], "2026-01-31", True, True, "token run", "manual", None)
    p.wait_ended(run)
    assert p.manifest(run)["run"]["requester"] == "token run"
    assert p.reports.lines("asked for reports over HTTP", run, "token=run")


# ---- asking twice ----------------------------------------------------------------------------------------------------

def test_the_same_key_is_the_same_run_for_ever_and_never_another_body(web):
    p = web
    run = p.asked(ROLES, key="k-1")
    assert p.asked('{"reports": ["nrp_1/01_roles", "nrp_1/01_roles"], "as_of": null}', key="k-1") == run, "in other words"
    assert "came with another body" in p.post({}, key="k-1").json["detail"]
    assert p.post({}, key="k-1").status == 422
    p.wait_ended(run)
    assert p.asked(ROLES, key="k-1") == run, "although it has ended"
    assert p.asked(ROLES, key="k-2") != run and p.asked(ROLES) != run
    p.make_token("other", "reports:run")
    p.write_tokens()
    p.reports.signal(signal.SIGHUP)
    wait_for("the token", lambda: p.reports.lines("tokens read again", "tokens=3"))
    assert p.asked({}, key="k-1", token="other") != run, "of somebody else"
    assert p.warehouse("select count(*) from rolag.report_run")[0][0] == 4


def test_many_at_once_with_one_key_are_one_run(web):
    p = web
    got = []
    threads = [threading.Thread(target=lambda: got.append(p.asked(ROLES, key="all"))) for _ in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(got) == 12 and len(set(got)) == 1
    assert p.warehouse("select count(*) from rolag.report_run")[0][0] == 1


def test_a_key_outlives_a_companion_that_is_killed_before_its_answer(make_web):
    """kill -9 at any time around the answer: the client sends it again, and there is one run of the key."""
    p = make_web().start()
    for n in range(8):
        def send(key=f"key-{n}"):
            try:
                p.post(ROLES, key=key)
            except (OSError, http.client.HTTPException):
                pass            # no answer: it does not know
        sender = threading.Thread(target=send)
        sender.start()
        time.sleep(n * 0.0015)
        p.reports.kill9()
        sender.join()
        p.start_reports()
        run = p.asked(ROLES, key=f"key-{n}")
        assert p.asked(ROLES, key=f"key-{n}") == run
    assert p.warehouse("select count(*), count(distinct idempotency_key) from rolag.report_run") == [(8, 8)]
    for run, in p.warehouse("select id::text from rolag.report_run"):
        wait_for("its end", lambda r=run: p.get(f"{RUNS}/{r}").json["client_state"] == "success")


@pytest.mark.parametrize("point", ["http.connected", "http.before_ask", "http.sent", "http.asked"])
def test_each_moment_of_a_request_may_be_the_last(make_web, point):
    """The process dies there, or the connection breaks; whoever asks again, with the key, has one run."""
    p = make_web().start()
    for n, action in enumerate(("kill", "disconnect")):
        if point == "http.asked" and action == "disconnect":
            continue
        p.reports.stop()
        p.points = f"{point}={action}"
        p.start_reports()
        if action == "kill":
            with pytest.raises((OSError, http.client.HTTPException)):
                p.post(ROLES, key=f"key-{n}")
            p.reports.wait()
            p.points = ""
            p.start_reports()
        else:
            assert p.post(ROLES, key=f"key-{n}").status == 503
        run = wait_for("the run", lambda n=n: (got := p.post(ROLES, key=f"key-{n}")).status == 202 and got.json["id"])
        assert p.warehouse("select id::text from rolag.report_run where idempotency_key like %s", f"%key-{n}") == [(run,)]
        p.points = ""


# ---- looking ---------------------------------------------------------------------------------------------------------

def past(p, count):
    """So many runs, an hour apart, each fifth failed, each seventh scheduled; the newest was asked for an hour ago."""
    p.warehouse("insert into rolag.report_run (pipeline, type, state, reports, requester, requested_at, ended_at, reason) select %s, "
                "case when n %% 7 = 0 then 'scheduled' else 'manual' end, case when n %% 5 = 0 then 'failed' else 'published' end, "
                "case when n %% 2 = 0 then '{nrp_1/01_roles}'::text[] else '{nrp_1/02_day,other/empty}' end, 'run ' || n, "
                "date_trunc('second', now()) - n * interval '1 hour', now(), case when n %% 5 = 0 then 'why' end from generate_series(%s, 1, -1) n",
                p.settings["pipeline"], count)


def walk(p, query):
    """Requesters of all pages, and how many those are."""
    found, pages, path = [], 0, f"{RUNS}?{query}"
    while path:
        page = p.get(path).json
        found += [r["requester"] for r in page["runs"]]
        pages, path = pages + 1, page["next"]
    return found, pages


def test_pages_have_each_run_once_whatever_comes_meanwhile(web):
    p = web
    past(p, 45)
    everything = [f"run {n}" for n in range(1, 46)]
    assert walk(p, "limit=10") == (everything, 5) and walk(p, "") == (everything, 1) and walk(p, "limit=45") == (everything, 1)
    assert walk(p, "limit=10&state=failed") == ([f"run {n}" for n in range(5, 46, 5)], 1)
    assert walk(p, "limit=2&client_state=failed&type=scheduled") == (["run 35"], 1)
    assert walk(p, "type=scheduled&limit=3") == ([f"run {n}" for n in range(7, 46, 7)], 2)
    assert walk(p, "report=nrp_1/02_day&limit=7") == ([f"run {n}" for n in range(1, 46, 2)], 4)
    assert walk(p, "report=nrp_1%2F02_day&limit=45") == ([f"run {n}" for n in range(1, 46, 2)], 1)
    ten = p.warehouse("select to_char(date_trunc('second', requested_at) at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') from "
                      "rolag.report_run where requester in ('run 10', 'run 20') order by number desc")
    assert walk(p, f"from={ten[1][0]}&to={ten[0][0]}") == ([f"run {n}" for n in range(11, 21)], 1)
    first = p.get(f"{RUNS}?limit=20").json
    p.asked(ROLES)
    second = p.get(first["next"]).json
    assert [r["requester"] for r in second["runs"]] == [f"run {n}" for n in range(21, 41)]
    for bad in ("limit=0", "limit=201", "limit=x", "state=Failed", "state=failed&state=failed", "order=asc", "cursor=0", "from=now",
                "to=2026-01-01%2000:00:00", "report=a", "type=", "cursor=1;drop", "limit"):
        assert p.get(f"{RUNS}?{bad}").status == 400, bad


def test_a_run_that_joined_another_has_its_files_and_manifest(make_web):
    p = make_web().start()
    assert p.reports.stop() == 0
    runs = [p.run("report", "run", "--report", "nrp_1/01_roles")[1].strip() for _ in range(2)]
    p.start_reports()
    for run in runs:
        wait_for("its end", lambda r=run: p.get(f"{RUNS}/{r}").json["client_state"] == "success")
    leader, joined = (p.get(f"{RUNS}/{run}").json for run in runs)
    assert joined["state"] == "superseded" and joined["served_by"] == leader["id"]
    assert [f["sha256"] for f in joined["files"]] == [f["sha256"] for f in leader["files"]]
    assert p.get(joined["files"][0]["url"]).body == p.get(leader["files"][0]["url"]).body
    assert p.get(f"{RUNS}/{runs[1]}/manifest").body == p.get(f"{RUNS}/{runs[0]}/manifest").body


def test_a_run_without_files_has_none_and_says_why(make_web):
    p = make_web(build="select 1/0;").start()
    run = p.asked(ROLES)
    p.wait_ended(run, "failed")
    one = p.get(f"{RUNS}/{run}").json
    assert one["client_state"] == "failed" and "build command ended" in one["reason"] and one["files"] == []
    assert p.get(f"{RUNS}/{run}/files").json == {"files": []}
    assert "it is failed" in p.problem(404, "GET", f"{RUNS}/{run}/manifest")
    assert p.get(f"{RUNS}/{run}/files/nrp_1/roles.csv").status == 404


def test_status_metrics_and_definitions_are_those_of_the_commands(web):
    p = web
    status = p.get("/api/v1/status").json
    code, out, _ = p.run("status", "--json")
    assert status.keys() == json.loads(out).keys() and status["healthy"] and code == 0
    assert status["roles"]["reports"]["life"] == "running" and status["metrics"]["reports_connected"] == 1
    assert [(r["id"], r["formats"], r["takes_day"], r["declared_empty"]) for r in p.get("/api/v1/reports").json["reports"]] == [
        ("nrp_1/01_roles", ["csv", "txt", "xml"], False, False), ("nrp_1/02_day", ["csv"], True, False),
        ("other/empty", ["csv", "xml"], False, True)]
    text = p.get("/metrics").body.decode()
    series = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    code, out, _ = p.run("status", "--prometheus")
    assert code == 0 and series == {line.split("{")[0].split(" ")[0] for line in out.splitlines() if not line.startswith("#")}
    assert {"rolag_" + name for name in status["metrics"]} <= series
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['rolag_up{role="reports"}'] == values['rolag_up{role="capture"}'] == values["rolag_healthy"] == "1"
    assert int(values["rolag_reports_http_requests_total"]) >= 2
    # Each family once, its lines together, a histogram's buckets in order.
    families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(families) == len(set(families))
    buckets = [int(v) for k, v in values.items() if k.startswith("rolag_commit_to_visible_seconds_bucket")]
    assert buckets == sorted(buckets) and buckets[-1] == int(values["rolag_commit_to_visible_seconds_count"])


def test_numbers_that_apply_keeps_are_in_the_json_too(web):
    """They were looked for in capture's file: an entity in quarantine was 0 entities."""
    p = web
    with p.writing() as conn:
        write_role(conn, 7, 1, type_="nobody_knows")
    wait_for("the entity to be parked", lambda: p.get("/api/v1/status").json["metrics"]["quarantine_entities"] == 1)
    assert json.loads(p.run("status", "--json")[1])["metrics"]["quarantine_entities"] == 1


def test_the_readmes_commands_do_what_it_says(web, tmp_path):
    """The blocks as they stand, but for the places of this test and a report that it has."""
    p = web
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        page = f.read().split("## Reports over HTTP\n", 1)[1].split("\n## ", 1)[0]
    make, ask = re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S)
    for old, new in (("/etc/rolag/tokens", p.tokens_path), ("$(pgrep -f 'rolag reports')", str(p.reports.pid))):
        assert old in make
        make = make.replace(old, new)
    for old, new in (("127.0.0.1:8321", f"127.0.0.1:{p.port}"), ("nrp_91/01_saldo_cuenta", "nrp_1/02_day")):
        assert old in ask
        ask = ask.replace(old, new)
    env = {**os.environ, "PATH": f"{os.path.dirname(ROLAG)}:{os.environ['PATH']}"}
    def shell(text, **more):
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=tmp_path, env={**env, **more}, capture_output=True,
                              text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
    token = shell(make).split()[0]
    wait_for("the token", lambda: p.get("/api/v1/reports", token).status == 200)
    assert "nrp_1/day.csv: OK" in shell(ask, TOKEN=token)
    assert (tmp_path / "nrp_1" / "day.csv").read_text(encoding="utf-8") == "day\n20260131\n"
    assert p.warehouse("select requester from rolag.report_run") == [("token ci",)]
    # Every route is in the table.
    table = re.sub(r"[`|]", " ", page)
    for path in DOCUMENT["paths"]:
        word = path.replace(RUNS + "/{id}", "…" if path != RUNS + "/{id}" else RUNS + "/ID").replace("{norm}/{name}", "NORM/NAME")
        assert word in table or path.startswith("/console."), word
