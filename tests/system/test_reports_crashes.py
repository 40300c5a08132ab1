"""The companion dies, its disk fills, its clock jumps: a run fails or goes on, and never half of it is visible."""
import itertools
import os
import re
import signal
import tempfile
import threading
import time

import pytest
from companion import BUILD, Companion
from network import Shim
from pipeline import ROLE, ROOT, Process, wait_for, write_roles

FAIL_BINARY = os.environ.get("ROLAG_FAIL_BINARY", os.path.join(ROOT, "build", "fail", "rolag"))
_number = itertools.count(1)


class Failing(Companion):
    """Its companion is built with failpoints."""

    points = ""

    def start_role(self, role, config=None, log=None):
        if role != "reports":
            return super().start_role(role, config, log)
        process = Process(role, [FAIL_BINARY, role, "--config", config or self.config],
                          log or os.path.join(self.folder, role + ".log"), {**self.env, "ROLAG_FAILPOINTS": self.points})
        self.processes.append(process)
        return process

    def begin(self, points=""):
        self.points = points
        return self.start_reports()


@pytest.fixture
def make_failing(request, core_cluster, warehouse_cluster):
    from conftest import _pipelines
    made = request.node.stash.setdefault(_pipelines, [])

    def make(kind=Failing, **settings):
        name = f"crash{next(_number)}"
        one = kind(name, tempfile.mkdtemp(prefix=f"rolag-{name}-"), core_cluster, warehouse_cluster, warehouse_cluster,
                   land=[ROLE])
        made.append(one)
        one.create()
        one.prepare(**settings)
        one.start_capture()
        one.start_apply()
        one.wait_live()
        return one
    yield make
    for one in made:
        one.release()


class Visible(threading.Thread):
    """Looks all the time: a folder that has a run's name is whole from its first moment on."""

    def __init__(self, p):
        super().__init__(daemon=True)
        self.p, self.done, self.wrong = p, threading.Event(), []

    def run(self):
        while not self.done.wait(0.002):
            for run in self.p.folders():
                if run.startswith("."):
                    continue
                names = {name for _, _, names in os.walk(self.p.path(run)) for name in names}
                if names and not {"manifest.json", "files.sha256", "roles.csv", "roles.xml", "roles.txt"} <= names \
                        and os.path.isdir(self.p.path(run)):
                    self.wrong.append((run, names))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.join()
        assert not self.wrong, self.wrong[:3]


def read_points():
    with open(os.path.join(ROOT, "proto", "base", "failpoints.def"), encoding="utf-8") as f:
        return [(name, can) for name, can in
                re.findall(r'^FAILPOINT_DEF\(\w+, "(reports\.[^"]+)", ([^,]+), "[^"]+"\)', f.read(), re.MULTILINE)]


def make_cases():
    cases = []
    for name, can in read_points():
        cases.append((name, "kill"))
        if "FP_FD" in can:
            cases.append((name, "disconnect"))
        if "FP_ERRNO" in can:
            cases.append((name, "ENOSPC"))
    return cases


# In the companion itself, which is started again; the others are passed by a run's worker.
IN_MAIN = {"reports.before_takeover", "reports.before_join", "reports.before_scheduled", "reports.before_worker",
           "reports.after_failed"}


def provoke(p, name):
    """Requests so that the point is passed: the runs that must be published, those that must fail."""
    if name == "reports.after_failed":
        bad = p.warehouse("insert into rolag.report_run (pipeline, type, reports, requester) values (%s, 'manual', "
                          "'{nrp_1/none}', 'test') returning id::text", p.name)[0][0]
        return [], [bad]
    good = [p.ask("--report", "nrp_1/01_roles")]
    if name == "reports.before_join":
        good.append(p.ask("--report", "nrp_1/01_roles"))
    return good, []


@pytest.fixture(scope="module")
def rig(request, core_cluster, warehouse_cluster):
    assert os.path.exists(FAIL_BINARY), "make MODE=fail"
    one = Failing("crashwalk", tempfile.mkdtemp(prefix="rolag-crashwalk-"), core_cluster, warehouse_cluster,
                  warehouse_cluster, land=[ROLE])
    one.create()
    one.prepare(keep_runs=1)
    one.start_capture()
    one.start_apply()
    one.wait_live()
    with one.writing() as conn:
        write_roles(conn, 1, 30)
    yield one
    one.release()


@pytest.mark.parametrize("name, action", make_cases())
def test_failpoint(rig, name, action):
    """At each point the process dies, the connection breaks or the disk is full; the run is published all the same."""
    p = rig
    if name == "reports.before_drop":       # something old must be there to be dropped
        p.begin()
        for _ in range(2):
            p.wait_ended(p.ask("--report", "nrp_1/01_roles"))
        p.reports.stop()
    if name == "reports.before_scheduled":
        p.warehouse("delete from rolag.report_schedule")
        p.configure({"reports": {"schedule": ["* * * * * nrp_1/01_roles"]}})
        p.warehouse("insert into rolag.report_schedule values (%s, '* * * * * nrp_1/01_roles', now() - interval '1 h')", p.name)
    good, bad = provoke(p, name)
    with Visible(p):
        process = p.begin(f"{name}={action}")
        wait_for(f"{name} to be passed", lambda: process.lines("failpoint fired", f"name={name} ") or not process.running(),
                 pause=0.01)
        if name in IN_MAIN and action == "kill":
            assert process.wait() == -signal.SIGKILL
        assert process.lines("failpoint fired", f"name={name} "), process.text()[-2000:]
        if not process.running():
            process = p.begin()
        for run in good:
            wait_for(f"{run} to end", lambda r=run: p.warehouse(
                "select 1 from rolag.report_run where id = %s and ended_at is not null", r) or p.reports.running() is False)
            one = p.one(run)
            assert one["client_state"] == "success", one
            assert len(p.csv_rows(one["served_by"] or run)) == 30
            p.check_whole(one["served_by"] or run)
        for run in bad:
            p.wait_ended(run, "failed")
        if name == "reports.before_scheduled":
            wait_for("the scheduled run", lambda: p.warehouse(
                "select 1 from rolag.report_run where type = 'scheduled' having count(*) >= 1 and "
                "bool_and(state in ('published', 'superseded'))"))
            p.configure({"reports": {"schedule": []}})
        assert p.reports.stop() == 0
    # A start and an end later nothing is left of it but the kept relations.
    p.begin()
    p.wait_ended(p.ask("--report", "nrp_1/01_roles"))
    wait_for("what is old to go", lambda: len(p.schemas()) == 1)
    assert not [f for f in p.folders() if f.startswith(".")]
    assert p.reports.stop() == 0


@pytest.mark.parametrize("state, build", [("waiting", ""), ("building", "select pg_sleep(3);\n"), ("writing", "")])
def test_kill_9_of_the_companion_and_its_worker_in_each_state(make_failing, state, build):
    p = make_failing(build=build + BUILD)
    with p.writing() as conn:
        write_roles(conn, 1, 5)
    if state == "waiting":
        os.kill(p.apply.pid, signal.SIGSTOP)
    p.begin("reports.before_manifest=delay:3000" if state == "writing" else "")
    run = p.ask("--report", "nrp_1/01_roles")
    wait_for(state, lambda: p.state(run) == state, pause=0.01)
    with Visible(p):
        p.reports.kill9()
        os.kill(p.apply.pid, signal.SIGCONT)
        assert [f for f in p.folders() if not f.startswith(".")] == []
        p.begin()
        p.wait_ended(run)
    assert len(p.csv_rows(run)) == 5 and p.schemas() == [f"rolag_command_{run.replace('-', '')}"]


def test_what_was_built_and_dropped_meanwhile_is_built_again(make_failing):
    p = make_failing()
    p.begin("reports.built=kill")
    run = p.ask("--report", "nrp_1/01_roles")
    wait_for("it to be built", lambda: p.state(run) == "writing")
    p.reports.kill9()
    p.warehouse(f"drop schema rolag_command_{run.replace('-', '')} cascade")
    p.begin()
    p.wait_ended(run)
    p.check_whole(run)


def test_trap_44_a_failure_that_never_passes_is_tried_a_bounded_number_of_times(make_failing):
    p = make_failing(kind=Companion, retries=2, target="/dev/full/reports")
    p.start_reports()
    assert p.reports.wait() in (100, 111)       # said at the start
    folder = os.path.join(p.folder, "file")
    p.configure({"reports": {"target": folder}})
    p.start_reports()
    p.wait_ready()
    os.rmdir(folder)
    p.write("file", "in the way")
    run = p.ask("--report", "nrp_1/01_roles")
    one = p.wait_ended(run, "failed")
    assert one["failures"] == 2 and len(p.reports.lines("tried again", run)) == 2
    assert p.reports.running()


def test_a_full_disk_fails_the_run_and_the_next_one_succeeds(make_failing):
    p = make_failing(kind=Companion, retries=1)
    with p.writing() as conn:
        write_roles(conn, 1, 100)
    shim = Shim(p.folder, p.target + os.sep)
    p.env = shim.env
    p.start_reports()
    wait_for("the companion", lambda: p.reports.lines("at the warehouse's queue"))
    shim.full()
    with Visible(p):
        run = p.ask("--report", "nrp_1/01_roles")
        assert "No space left" in p.wait_ended(run, "failed")["reason"]
        shim.mend()
        p.wait_ended(p.ask("--report", "nrp_1/01_roles"))
    assert len(p.folders()) == 1


def scheduled(p):
    return p.warehouse("select to_char(due_at, 'YYYY-MM-DD HH24:MI'), state from rolag.report_run where type = 'scheduled' "
                       "order by number")


def turn(p):
    """The companion has looked at its schedules since now."""
    for _ in range(2):
        p.wait_ended(p.ask("--report", "other/empty"))


def test_trap_47_a_schedule_over_downtime_and_jumps_of_the_clock(make_failing):
    """Missed times are caught up by one run; the clock set forth and back makes none twice."""
    p = make_failing(kind=Companion, schedule=["30 3 * * * nrp_1/02_day"], time_zone="Europe/Berlin")
    shim = Shim(p.folder, os.path.join(p.folder, "nowhere"))
    p.env = shim.env

    def clock(text):
        at = time.mktime(time.strptime(text + " UTC", "%Y-%m-%d %H:%M %Z")) - time.timezone
        shim.set(clock_us=int((at - time.time()) * 1_000_000))

    def ended(count):
        wait_for("scheduled runs", lambda: len(scheduled(p)) == count and all(s == "published" for _, s in scheduled(p)))

    clock("2027-03-26 00:00")
    p.start_reports()
    wait_for("the companion", lambda: p.warehouse("select 1 from rolag.report_schedule"))
    turn(p)
    assert scheduled(p) == []           # a schedule that is new is not late
    clock("2027-03-26 02:31")           # 03:31 in Berlin
    ended(1)
    assert p.reports.stop() == 0
    clock("2027-03-29 12:00")           # three days of downtime, one of them a change of clocks
    p.start_reports()
    ended(2)
    turn(p)
    assert [d for d, _ in scheduled(p)] == ["2027-03-26 02:30", "2027-03-29 01:30"]
    clock("2027-03-29 10:30")           # set back by an hour and a half
    turn(p)
    assert len(scheduled(p)) == 2
    clock("2027-03-30 01:31")
    ended(3)
    day, = p.warehouse("select as_of::text from rolag.report_run where type = 'scheduled' order by number desc limit 1")[0]
    assert day == "2027-03-29"
    clock("2028-01-01 12:00")           # wrong by far, and set right
    ended(4)
    clock("2027-03-30 02:00")
    wait_for("it to be noticed", lambda: p.reports.lines("the clock was set back"))
    clock("2027-03-31 01:31")
    ended(5)


def test_trap_47_runs_of_a_schedule_do_not_overlap(make_failing):
    p = make_failing(kind=Companion, build="select pg_sleep(4);\n" + BUILD, schedule=["* * * * * nrp_1/02_day"])
    p.warehouse("insert into rolag.report_schedule values (%s, '* * * * * nrp_1/02_day', now() - interval '1 day')", p.name)
    shim = Shim(p.folder, os.path.join(p.folder, "nowhere"))
    p.env = shim.env
    shift = int((61 - time.time() % 60) * 1_000_000)    # from the beginning of a minute on: none begins by itself
    shim.set(clock_us=shift)
    p.start_reports()
    wait_for("a run", lambda: scheduled(p))
    for minutes in range(1, 10):        # nine more are due while it builds
        shim.set(clock_us=shift + minutes * 60_000_000)
        time.sleep(0.05)
    assert len(scheduled(p)) == 1
    wait_for("the one that catches up", lambda: len(scheduled(p)) == 2 and scheduled(p)[1][1] == "published")
    assert len(scheduled(p)) == 2


def test_a_second_companion_takes_over_and_the_first_stops_for_good(make_failing):
    p = make_failing(kind=Companion)
    first = p.start_reports()
    wait_for("it to be there", lambda: first.lines("at the warehouse's queue"))
    other = dict(p.settings, state_dir=os.path.join(p.folder, "other"))
    path = os.path.join(p.folder, "other.yaml")
    p.write_config(path, other)
    p.reports = p.start_role("reports", path, os.path.join(p.folder, "second.log"))
    assert first.wait() == 100 and first.lines("another companion has taken over")
    p.wait_ended(p.ask("--report", "other/empty"))


def test_rolag_run_goes_on_without_a_companion_that_ended_for_good(make_failing):
    p = make_failing(kind=Companion)
    p.stop()
    p.write("reports.yaml", "language: 1\nreports: 7\n")
    process = Process("run", p.run_command(), os.path.join(p.folder, "run.log"))
    p.processes.append(process)
    wait_for("it to be said", lambda: process.lines("ended for good; going on without it", "child=reports"))
    assert process.lines("reports.yaml:2:10")
    with p.writing() as conn:
        write_roles(conn, 1, 3)
    wait_for("rows", lambda: p.warehouse(f"select count(*) from raw.{ROLE}_latest") == [(3,)])
    assert process.stop() == 0
    p.capture = p.apply = None


def test_rolag_run_passes_the_signal_on(make_failing):
    p = make_failing(kind=Companion)
    p.stop()
    p.capture = p.apply = None
    process = Process("run", p.run_command(), os.path.join(p.folder, "run.log"))
    p.processes.append(process)
    wait_for("the companion", lambda: process.lines("at the warehouse's queue"))
    process.signal(signal.SIGUSR1)
    wait_for("a run", lambda: p.warehouse("select 1 from rolag.report_run where state = 'published'"))
    assert process.stop() == 0
