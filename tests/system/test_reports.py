"""Runs of reports on real clusters: states, freshness, files, crashes, schedules (design §8)."""
import csv
import io
import itertools
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
import xml.etree.ElementTree

import psycopg
import pytest
from companion import BUILD, DEFINITIONS, Companion
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


def test_what_a_rebuild_keeps_for_an_undo_stands_in_no_runs_way(companion):
    p = companion
    with p.writing() as conn:
        write_roles(conn, 1, 3)
    p.wait_applied()
    code, out, err = p.run("rebuild", ROLE)
    assert code == 0, out + err
    assert p.warehouse("select state from rolag.relation where beside = %s", ROLE) == [("parked",)]
    assert p.run("quarantine", "list")[0] == 0      # nor is it anything that a person must mend
    one = p.wait_ended(p.ask("--report", "nrp_1/01_roles"))
    assert p.manifest(one["id"])["build"]["exceptions"] == [] and len(p.csv_rows(one["id"])) == 3


# ---- freshness ------------------------------------------------------------------------------------------

def test_trap_41_everything_committed_before_the_click_is_in_the_file_by_counting(companion):
    """Under write load: each event before the request is in the file, for several requests in a row."""
    p = companion
    stop = threading.Event()
    written = []

    def write():
        with p.writing() as conn:
            while not stop.is_set():
                write_role(conn, len(written) + 1, 1)
                conn.commit()
                written.append(time.monotonic())    # behind its COMMIT

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(4):
            wait_for("more roles", lambda n=len(written): len(written) > n + 20)
            before = len(written)
            run = p.ask("--report", "nrp_1/01_roles")
            one = p.wait_ended(run)
            names = {row.split(",")[0] for row in p.csv_rows(one["served_by"] or run)}
            assert {entity(n + 1) for n in range(before)} <= names
            assert one["stale"] is None
    finally:
        stop.set()
        writer.join()


def test_five_signals_in_a_burst_serve_every_request(companion):
    p = companion
    with p.writing() as conn:
        write_roles(conn, 1, 10)
    for _ in range(5):
        p.press()
    wait_for("a request", lambda: p.warehouse("select 1 from rolag.report_run"))
    wait_for("all of them to end", lambda: p.warehouse("select 1 from rolag.report_run having bool_and(ended_at is not null)"))
    runs = p.warehouse("select id::text, state, served_by::text, client_state, requester from rolag.report_run order by number")
    assert 1 <= len(runs) <= 5
    published = {run for run, state, *_ in runs if state == "published"}
    for run, state, served_by, client, requester in runs:
        assert client == "success" and requester == "signal USR1"
        assert (state == "published") == (served_by is None) and (served_by or run) in published
    for run in published:
        assert len(p.csv_rows(run)) == 10
        manifest = p.check_whole(run)
        empty = {f["format"]: f for f in manifest["files"] if f["report"] == "other/empty"}
        assert p.read(run, "other/empty.csv") == "a,b\n" and empty["xml"]["omitted"] == "schema wants a row"
        assert empty["xml"]["path"] is None and not os.path.exists(p.path(run, "other/empty.xml"))


def test_trap_42_requests_that_meet_in_the_queue_join_and_keep_their_rows(make_companion):
    p = make_companion()
    p.start_capture()
    p.start_apply()
    p.wait_live()
    same = [p.ask("--report", "nrp_1/01_roles") for _ in range(3)]
    other = p.ask("--report", "nrp_1/02_day", "--as-of", "2026-01-31")
    stale = p.ask("--report", "nrp_1/01_roles", "--allow-stale")
    assert {p.state(run) for run in same + [other, stale]} == {"queued"}
    p.start_reports()
    ended = [p.wait_ended(run, "published" if run in (same[0], other, stale) else "superseded")
             for run in same + [other, stale]]
    assert [one["served_by"] for one in ended] == [None, same[0], same[0], None, None]
    assert p.folders() == sorted([same[0], other, stale])
    assert p.read(other, "nrp_1/day.csv") == "day\n20260131\n"
    assert all(one["fence_lsn"] for one in ended), "each request has its own fence"


def test_a_request_never_joins_a_run_that_has_a_watermark(make_companion):
    p = make_companion(build="select pg_sleep(2);\n" + BUILD)
    p.start()
    first = p.ask("--report", "nrp_1/01_roles")
    wait_for("it to build", lambda: p.state(first) == "building")
    with p.writing() as conn:
        write_roles(conn, 1, 1)
    second = p.ask("--report", "nrp_1/01_roles")
    p.wait_ended(first)
    assert p.wait_ended(second)["served_by"] is None
    assert len(p.csv_rows(second)) == 1


def test_the_core_away_or_the_warehouse_behind_fails_and_says_how_far(make_companion):
    p = make_companion(fence_limit="1 s").start()
    with p.writing() as conn:
        write_roles(conn, 1, 1)
    p.wait_applied()
    assert p.apply.stop() == 0
    run = p.ask("--report", "nrp_1/01_roles")
    reason = p.wait_ended(run, "failed")["reason"]
    assert "did not reach the request's fence within 1000 ms" in reason and "bytes before" in reason
    stale = p.ask("--report", "nrp_1/01_roles", "--allow-stale")
    one = p.wait_ended(stale)
    assert "did not reach" in one["stale"] and one["fence_lsn"] is None
    assert "did not reach" in p.manifest(stale)["freshness"]["stale"] and len(p.csv_rows(stale)) == 1
    p.apply = None
    assert p.reports.stop() == 0
    p.configure({"reports": {"core_connect": p.core_conninfo + " port=1"}})
    p.start_reports()
    run = p.ask("--report", "nrp_1/01_roles")
    reason = p.wait_ended(run, "failed")["reason"]
    assert "the core cannot be reached" in reason and "holds what was committed up to" in reason
    assert p.folders() == [stale] and len(p.schemas()) == 1


def test_the_fence_needs_a_role_with_connect_only(make_companion):
    p = make_companion()
    role = p.name + "_fence"
    p.core(f"create role {role} login")
    try:
        p.configure({"reports": {"core_connect": p.core_conninfo.replace("user=postgres", f"user={role}")
                                 if "user=" in p.core_conninfo else p.core_conninfo + f" user={role}"}})
        p.start()
        assert p.wait_ended(p.ask("--report", "nrp_1/01_roles"))["fence_lsn"]
    finally:
        p.reports.kill9()
        p.core(f"drop role {role}")


def test_messages_of_strangers_are_bounded_and_harmless(companion):
    p = companion
    for text in ("'; drop table x; --", "x" * 900_000, "", "0" * 65, "Run"):
        p.core("select pg_logical_emit_message(true, 'rolag.fence', %s)", text)
    p.core("select pg_logical_emit_message(false, 'rolag.fence', %s)", entity(1))
    p.core("select pg_logical_emit_message(true, 'rolag.fence', %s)", entity(2))
    p.wait_ended(p.ask("--report", "nrp_1/01_roles"))
    assert p.warehouse("select run_id from rolag.fence_seen") == [(entity(2),)]


# ---- files ----------------------------------------------------------------------------------------------

NASTY = ["=1+1", "@x", "-1", "a,b|c", 'say "hi"', "two\nlines\r\ttab", "<&>]]>", "\U0001F600 ñandú", "", "\\N", "\\", "end "]
TEXTS = """language: 1
reports:
  - id: n/texts
    name: texts
    title: Texts
    model: texts
    formats: [csv, txt, xml]
    order: [n]
    xml: {schema: texts, namespace: "urn:test:texts", root: all, row: one}
    columns:
      - {name: n, type: int}
      - {name: ñame, type: text, nillable: true}
"""


def texts(values):
    """SQL of a build whose one table holds them, and a NULL."""
    rows = ", ".join(f"({n}, convert_from('\\x{v.encode().hex()}', 'UTF8'))" for n, v in enumerate(values))
    return f'create table :"schema".texts (n int, "ñame" text); insert into :"schema".texts values {rows}, (1000, null);'


CLIENTS = {"queued": "queued", "waiting": "queued", "building": "running", "writing": "running", "failed": "failed",
           "published": "success", "superseded": "success"}


def test_trap_43_states_are_two_closed_lists_of_words_and_an_end_is_an_end(make_companion):
    """A client with four words understands every state; another spelling cannot get in, so nobody waits for it to end."""
    p = make_companion()
    check, = p.warehouse("select pg_get_constraintdef(oid) from pg_constraint where conrelid = 'rolag.report_run'::regclass "
                         "and contype = 'c' and pg_get_constraintdef(oid) like '%%superseded%%'")[0]
    assert set(re.findall(r"'(\w+)'", check)) == set(CLIENTS)
    insert = ("insert into rolag.report_run (pipeline, type, state, reports, requester, ended_at, reason) values "
              "(%s, 'manual', %s, '{other/empty}', 'test', now(), 'said') returning id::text, client_state")
    ended = {}
    for state, client in CLIENTS.items():
        if client in ("success", "failed"):
            (ended[state], got), = p.warehouse(insert, p.name, state)
            assert got == client and (p.one(ended[state])["state"], p.one(ended[state])["client_state"]) == (state, client)
    for other in ("cancelled", "CANCELED", "Published", "success", "running", ""):
        with pytest.raises(psycopg.errors.CheckViolation):
            p.warehouse(insert, p.name, other)
    p.start()
    p.wait_ended(p.ask("--report", "other/empty"))
    # The companion has gone over its queue since, and let what had ended be.
    assert {state: p.state(id_) for state, id_ in ended.items()} == {state: state for state in ended}
    assert p.warehouse("select count(*) from rolag.report_run where failures > 0 or epoch is not null and reason = 'said'") == [(0,)]


def test_trap_48_hostile_values_come_back_as_they_were(make_companion):
    p = make_companion(definitions=TEXTS, build=texts(NASTY)).start()
    run = p.ask()
    p.wait_ended(run)
    for ext, delimiter in (("csv", ","), ("txt", "|")):
        rows = list(csv.reader(io.StringIO(p.read(run, f"n/texts.{ext}"), newline=""), delimiter=delimiter))
        assert rows == [["n", "ñame"]] + [[str(n), v] for n, v in enumerate(NASTY)] + [["1000", ""]]
    tree = xml.etree.ElementTree.parse(p.path(run, "n/texts.xml")).getroot()
    ns = "{urn:test:texts}"
    assert tree.tag == ns + "all" and [row.tag for row in tree] == [ns + "one"] * (len(NASTY) + 1)
    assert [row.find(ns + "ñame").text or "" for row in tree] == NASTY + [""]
    assert tree[-1].find(ns + "ñame").get("{http://www.w3.org/2001/XMLSchema-instance}nil") == "true"
    assert len(p.read(run, "n/texts.xml").splitlines()) == len(NASTY) + 3     # a row is a line
    check_xmllint(p, run, "n/texts")


def check_xmllint(p, run, report):
    """A second opinion of an XML file."""
    code, schema, err = p.run("report", "xsd", report)
    assert code == 0, err
    p.write("check.xsd", schema)
    done = subprocess.run(["xmllint", "--noout", "--nonet", "--schema", os.path.join(p.folder, "check.xsd"),
                           p.path(run, report + ".xml")], capture_output=True, text=True, check=False)
    return done.returncode == 0 or pytest.fail(done.stderr)


def test_trap_48_formulas_are_guarded_where_it_is_asked_for(make_companion):
    p = make_companion(definitions=TEXTS, build=texts(NASTY), guard_formulas=True).start()
    run = p.ask()
    p.wait_ended(run)
    rows = list(csv.reader(io.StringIO(p.read(run, "n/texts.csv"), newline="")))[1:-1]
    assert [r[1] for r in rows] == ["'" + v if v[:1] in ("=", "@", "-", "+") else v for v in NASTY]


def test_trap_40_what_is_invalid_fails_names_the_row_and_publishes_nothing(make_companion):
    secret = "secret\x07value"
    p = make_companion(definitions=TEXTS, build=texts(["fine", secret])).start()
    good = p.folders()
    run = p.ask()
    reason = p.wait_ended(run, "failed")["reason"]
    assert reason == "report n/texts, row 2, column ñame: the value holds a character that XML does not allow"
    p.write("reports.yaml", TEXTS.replace("type: text", "type: text, max_length: 4"))
    p.write_build(texts(["fine", "secret"]))
    run = p.ask()
    reason = p.wait_ended(run, "failed")["reason"]
    assert reason == "report n/texts, row 2, column ñame: the value has more than 4 characters"
    p.write("reports.yaml", TEXTS.replace(", nillable: true", ""))
    reason = p.wait_ended(p.ask(), "failed")["reason"]
    assert "row 3, column ñame: the value is NULL" in reason
    assert p.folders() == good and p.schemas() == [] and "secret" not in p.reports.text()
    assert p.run("report", "verify", run)[0] == 2


def test_invalid_files_are_flagged_where_that_is_configured(make_companion):
    p = make_companion(definitions=TEXTS.replace("type: text", "type: text, max_length: 4"), build=texts(["fine", "secret"]),
                       on_invalid="flag").start()
    run = p.ask()
    p.wait_ended(run)
    files = {f["format"]: f for f in p.manifest(run)["files"]}
    assert files["xml"]["valid"] is False and "column ñame" in files["csv"]["invalid"]
    assert "secret" in p.read(run, "n/texts.csv") and "secret" not in p.read(run, "manifest.json")


def test_an_official_schema_is_used_and_its_violation_names_line_and_rule(make_companion):
    p = make_companion(definitions=TEXTS, build=texts(["fine", "secret"])).start()
    code, schema, _ = p.run("report", "xsd", "n/texts")
    assert code == 0
    os.makedirs(os.path.join(p.folder, "schemas", "official"))
    p.write("schemas/official/texts.xsd", schema.replace('<xs:restriction base="xs:string">',
                                                          '<xs:restriction base="xs:string"><xs:maxLength value="4"/>'))
    reason = p.wait_ended(p.ask(), "failed")["reason"]
    assert reason == "report n/texts: its XML file is invalid: line 3, element ñame: breaks maxLength of texts.xsd"
    p.write("schemas/official/texts.xsd", "<no schema>")
    assert "texts.xsd" in p.wait_ended(p.ask(), "failed")["reason"]
    p.write("schemas/official/texts.xsd", schema)
    p.wait_ended(p.ask())


def test_many_rows_take_constant_memory(make_companion):
    """Peak memory of the worker: 20,000 rows and 400,000, which are 40 MB of each format."""
    def peak(rows):
        p.write_build(f'create table :"schema".texts as select n, repeat(md5(n::text), 3) as "ñame" from generate_series(1, {rows}) n;')
        run = p.ask()
        found, done = [0], threading.Event()

        def look():
            while not done.is_set():
                for pid in children(p.reports.pid):
                    found[0] = max(found[0], peak_kb(pid))
                done.wait(0.05)
        thread = threading.Thread(target=look)
        thread.start()
        try:
            wait_for("it to be published", lambda: p.state(run) == "published", timeout=600)
        finally:
            done.set()
            thread.join()
        assert len(p.csv_rows(run, "n/texts.csv")) == rows
        return found[0]

    p = make_companion(definitions=TEXTS).start()
    small, large = peak(20_000), peak(400_000)
    assert 0 < large < small + 8000, (small, large)


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            return f.read().split()
    except OSError:
        return []


def peak_kb(pid):
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as f:
            return int(next(line for line in f if line.startswith("VmHWM")).split()[1])
    except (OSError, StopIteration):
        return 0


# ---- proof, again ---------------------------------------------------------------------------------------

def test_rerun_writes_the_same_bytes_and_verify_finds_what_was_touched(companion):
    p = companion
    with p.writing() as conn:
        write_roles(conn, 1, 50)
    run = p.ask()
    p.wait_ended(run)
    before = p.digest(run)
    assert p.run("report", "verify", run[:10])[0] == 0
    with p.writing() as conn:
        write_roles(conn, 51, 60)       # the present is another
    p.wait_applied()
    with open(p.path(run, "nrp_1", "roles.csv"), "a", encoding="utf-8") as f:
        f.write("x\n")
    code, out, _ = p.run("report", "verify", run)
    assert code == 1 and "nrp_1/roles.csv: differs" in out
    p.write("reports.yaml", DEFINITIONS.replace("order: [id]", "order: [name]"))     # definitions changed since
    p.configure({"reports": {"guard_formulas": True}})
    code, out, err = p.run("report", "rerun", run)
    assert code == 0, out + err
    assert p.digest(run) == before
    shutil.rmtree(p.path(run))
    assert p.run("report", "verify", run)[0] == 1
    assert p.run("report", "rerun", run)[0] == 0 and p.digest(run) == before
    assert p.run("report", "verify", run)[0] == 0 and p.folders() == [run]
    p.warehouse(f"update rolag_command_{run.replace('-', '')}.roles set name = 'forged' where name = 'role 1'")
    code, out, err = p.run("report", "rerun", run)
    assert code == 100 and "would not be the file that was published" in err and p.digest(run) == before


def test_relations_of_old_runs_go_and_their_files_stay(make_companion):
    p = make_companion(keep_runs=2).start()
    runs = []
    for _ in range(4):
        runs.append(p.ask("--report", "nrp_1/01_roles"))
        p.wait_ended(runs[-1])
    wait_for("old relations to go", lambda: len(p.schemas()) == 2)
    assert p.folders() == sorted(runs) and [p.one(r)["kept"] for r in runs] == [False, False, True, True]
    code, _, err = p.run("report", "rerun", runs[0])
    assert code == 100 and "not kept" in err
    assert p.run("report", "verify", runs[0])[0] == 0
    assert p.warehouse("select 1 from rolag.fence_seen") == []


def test_quarantine_fails_a_run_unless_it_is_accepted(companion):
    p = companion
    with p.writing() as conn:
        write_roles(conn, 1, 2)
        write_role(conn, 3, 1, payload={"nothing": 1})
    wait_for("it to be parked", lambda: p.warehouse("select 1 from rolag.quarantine"))
    run = p.ask("--report", "nrp_1/01_roles")
    assert f"1 entities of {ROLE} wait in quarantine" in p.wait_ended(run, "failed")["reason"]
    run = p.ask("--report", "nrp_1/01_roles", "--accept-quarantine")
    p.wait_ended(run)
    manifest = p.manifest(run)
    assert manifest["build"]["exceptions"] == [{"rollup": ROLE, "entities": 1, "events": 1}]
    assert manifest["run"]["quarantine_accepted"] is True and len(p.csv_rows(run)) == 2


def test_what_a_request_may_ask_for(companion):
    p = companion
    for options, says in ((["--report", "nrp_1/01_rolse"], "did you mean nrp_1/01_roles"),
                          (["--report", "nrp_1/02_day"], "nrp_1/02_day needs a day"),
                          (["--report", "nrp_1/01_roles", "--as-of", "2026-01-01"], "none of these reports takes a day"),
                          (["--report", "nrp_1/02_day", "--as-of", "2026-02-30"], "is not a day"),
                          (["--report", "../../x"], "unknown report"), (["--report", ","], "names no report")):
        assert says in p.ask(*options, code=2), options
    assert p.warehouse("select 1 from rolag.report_run") == []
    run = p.ask("--report", "nrp_1/02_day,other/empty", "--report", "nrp_1/02_day", "--as-of", "2024-02-29")
    assert p.wait_ended(run)["reports"] == ["nrp_1/02_day", "other/empty"]
    assert p.read(run, "nrp_1/day.csv") == "day\n20240229\n"


# ---- the build command ----------------------------------------------------------------------------------

def test_a_build_that_fails_lasts_too_long_or_makes_views_fails_the_run_and_leaves_nothing(make_companion):
    p = make_companion(retries=0).start()

    def fails(build, *says):
        p.write_build(build)
        reason = p.wait_ended(p.ask("--report", "nrp_1/01_roles"), "failed")["reason"]
        assert all(s in reason for s in says), reason
        wait_for("its schema to go", lambda: p.schemas() == [])

    fails("select 1 / 0;", "the build command ended with code 3", "reports.build.log")
    fails("select 1;", "made no table", "roles")
    fails(f'create view :"schema".roles as select id, name, version from raw.{ROLE}_latest;', "is not a table")
    fails(f'create table :"schema".roles as select id, name from raw.{ROLE}_latest;', 'has no column "version"')
    p.configure({"reports": {"build_limit": "1 s"}})
    assert p.reports.stop() == 0
    p.start_reports()
    fails("select pg_sleep(15);", "longer than reports.build_limit")
    wait_for("its session to end", lambda: p.warehouse("select 1 from pg_stat_activity where query like %s and pid <> "
                                                       "pg_backend_pid()", "%pg_sleep(15)%") == [])
    assert p.folders() == []


def test_the_commands_processes_end_with_the_companion(make_companion):
    """kill -9: nothing of the group goes on, and the run is built anew by the next one."""
    p = make_companion()
    p.configure({"reports": {"build": f"sleep 1000 & echo $! > {p.folder}/left; sleep 1000; {p.command()}"}})
    p.start()
    run = p.ask("--report", "nrp_1/01_roles")
    wait_for("the command to run", lambda: os.path.exists(os.path.join(p.folder, "left")) and
             open(os.path.join(p.folder, "left"), encoding="ascii").read().strip())
    left = int(open(os.path.join(p.folder, "left"), encoding="ascii").read())
    p.reports.kill9()
    wait_for("what it started to end", lambda: not os.path.exists(f"/proc/{left}"))
    p.configure({"reports": {"build": p.command()}})
    p.start_reports()
    p.wait_ended(run)



# ---- the built-in builder -------------------------------------------------------------------------------

MODELS = {
    "dbt_project.yml": "name: bank\nversion: '1.0'\n",
    "models/staging/sources.yml": f"version: 2\nsources:\n  - name: raw\n    tables: [{{name: {ROLE}_latest}}]\n",
    "models/staging/stg_role.sql": f"select id, name, version from {{{{ source('raw', '{ROLE}_latest') }}}}\n",
    "models/outputs/roles.sql": "select id, name, version from {{ ref('stg_role') }}\n",
    "models/outputs/day.sql": "select {{ var('as_of') }} as day\n",
    "models/schema.yml": "version: 2\nmodels:\n  - name: roles\n    description: Roles\n    columns:\n"
                         "      - {name: id, tests: [not_null, unique]}\n",
}


def test_models_are_built_published_and_reused_by_runs(make_companion):
    p = make_companion()
    for path, text in MODELS.items():
        os.makedirs(os.path.join(p.folder, "pack", os.path.dirname(path)), exist_ok=True)
        p.write("pack/" + path, text)
    p.configure({"models": {"path": os.path.join(p.folder, "pack")}, "reports": {"build": "", "keep_runs": 1}})
    p.start()
    with p.writing() as conn:
        write_roles(conn, 1, 3)
    first = p.ask("--report", "nrp_1/01_roles,nrp_1/02_day", "--as-of", "2026-01-31")
    one = p.wait_ended(first)
    assert len(p.csv_rows(first)) == 3 and p.read(first, "nrp_1/day.csv") == "day\n20260131\n"
    manifest = p.check_whole(first)
    assert {m["name"]: m["reused"] for m in manifest["build"]["models"]}["roles"] is False
    assert {(t["model"], t["test"], t["failures"]) for t in manifest["build"]["tests"]} == {
        ("roles", "not_null", 0), ("roles", "unique", 0)}
    assert manifest["freshness"]["watermark_lsn"] == one["watermark_lsn"] >= one["fence_lsn"]
    assert p.warehouse("select count(*) from outputs.roles") == [(3,)]
    second = p.ask("--report", "nrp_1/01_roles")        # nothing has changed
    p.wait_ended(second)
    assert {m["name"]: m["reused"] for m in p.manifest(second)["build"]["models"]}["roles"] is True
    shutil.rmtree(p.path(second))
    wait_for("the first to be let go of", lambda: not p.one(first)["kept"])
    assert p.run("report", "rerun", second)[0] == 0     # though its rows are in the first run's schema
    p.check_whole(second)
    with p.writing() as conn:
        write_roles(conn, 4, 4)
    third = p.ask("--report", "nrp_1/01_roles")
    p.wait_ended(third)
    assert len(p.csv_rows(third)) == 4 and p.warehouse("select count(*) from outputs.roles") == [(4,)]
    p.write("pack/models/outputs/roles.sql", "select id, name, 1 / (version - 1) as version from {{ ref('stg_role') }}\n")
    failed = p.ask("--report", "nrp_1/01_roles")
    assert "roles" in p.wait_ended(failed, "failed")["reason"]
    assert p.warehouse("select count(*) from outputs.roles") == [(4,)] and failed not in p.folders()


def test_trap_46_a_test_that_fails_keeps_everything_as_it_was(make_companion):
    p = make_companion()
    for path, text in MODELS.items():
        os.makedirs(os.path.join(p.folder, "pack", os.path.dirname(path)), exist_ok=True)
        p.write("pack/" + path, text.replace("name, version from {{ ref", "'same' as name, version from {{ ref")
                .replace("{name: id, tests: [not_null, unique]}", "{name: name, tests: [unique]}"))
    p.configure({"models": {"path": os.path.join(p.folder, "pack")}, "reports": {"build": ""}})
    p.start()
    run = p.ask("--report", "nrp_1/01_roles")
    p.wait_ended(run)
    with p.writing() as conn:
        write_roles(conn, 1, 2)
    bad = p.ask("--report", "nrp_1/01_roles")
    assert "unique" in p.wait_ended(bad, "failed")["reason"]
    assert p.folders() == [run] and p.warehouse("select count(*) from outputs.roles") == [(0,)]
