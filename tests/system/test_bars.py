"""Long commands say how far they are: by a line of stderr on a terminal, and never a byte of that anywhere else."""
import os
import re
import signal
import subprocess
import tempfile
import textwrap

import pytest
from companion import Companion
from pipeline import ROLE, Process, wait_for, write_roles
from program import ROLAG
from terminal import Terminal

MODELS = {
    "dbt_project.yml": "name: bank\nversion: '1.0'\n",
    "models/staging/sources.yml": f"version: 2\nsources:\n  - {{name: raw, tables: [{{name: {ROLE}}}]}}\n",
    "models/staging/stg_role.sql": f"select id, name from {{{{ source('raw', '{ROLE}') }}}}\n",
    "models/outputs/report_roles.sql": "select id, name from {{ ref('stg_role') }}\n",
    "models/schema.yml": """
        version: 2
        models:
          - name: report_roles
            columns: [{name: id, tests: [not_null]}]
        """,
}
REPORT = "nrp_1/01_roles"


@pytest.fixture(scope="module")
def p(core_cluster, warehouse_cluster):
    one = Companion("bars", tempfile.mkdtemp(prefix="rolag-bars-"), core_cluster, warehouse_cluster, warehouse_cluster,
                    land=[ROLE])
    try:
        for path, text in MODELS.items():
            os.makedirs(os.path.dirname(os.path.join(one.folder, path)), exist_ok=True)
            one.write(path, textwrap.dedent(text).lstrip("\n"))
        one.configure({"models": {"path": one.folder}})
        one.create().prepare().start()
        with one.writing() as conn:
            write_roles(conn, 1, 600)
        one.wait_applied()
        one.warehouse("analyze")
        run = one.ask("--report", REPORT)
        one.wait_ended(run)
        one.published = run
        yield one
    finally:
        one.release()


# The command: (its words, where its bar begins, what the bar says of it).
COMMANDS = {
    "verify --full": ("verify", r"rows"),
    "verify": ("verify", r"0/1 tables  core_role_events_rollup"),
    "sync core_role_events_rollup --wait": ("sync", r"^sync"),     # it may be over at the first look
    "rebuild core_role_events_rollup": ("rebuild", r"apply has not begun it|rows|it waits|it follows|counted"),
    "models build --full-refresh": ("build", r" 2/3 models and tests  report_roles"),
    "models test --full-refresh": ("test", r" 2/3 models and tests  report_roles"),
    f"report run --report {REPORT} --wait": ("report", r"queued|waiting|building|writing"),
    "report verify RUN": ("verify", r"0/3 files  nrp_1/roles.csv"),
    "report rerun RUN": ("write", rf"0/1 reports  {REPORT}"),
    "check --definitions": ("check", r"\d+/33 definitions  core_\w+.yaml"),
    "spool verify": ("verify", r"segments"),
}


def words(p, command):
    return [ROLAG, "--config", p.config, *command.replace("RUN", p.published).split()]


def frames(raw):
    """What was drawn on one line, over and over."""
    return re.findall(r"\r([^\r\n\x1b]+)\x1b\[K", raw.decode())


@pytest.mark.parametrize("command", COMMANDS)
def test_on_a_terminal_a_line_is_drawn_over_and_taken_away(p, command, tmp_path):
    what, says = COMMANDS[command]
    with open(tmp_path / "out", "w+b") as out:
        with Terminal(words(p, command), columns=120, stdout=out) as t:
            assert t.end() == 0, t.screen.text()
            drawn = frames(t.raw)
            assert drawn and all(re.match(rf"{what}  [█░]+  ", line) for line in drawn), drawn
            assert any(re.search(says, line) for line in drawn), drawn
            assert t.screen.text() == "" and t.screen.wrapped == 0      # nothing of it is left
        out.seek(0)
        said = out.read()
    assert said and b"\x1b" not in said and b"\r" not in said and "█".encode() not in said


@pytest.mark.parametrize("command", COMMANDS)
def test_elsewhere_there_is_no_bar(p, command):
    done = subprocess.run(words(p, command), capture_output=True, timeout=120, check=False,
                          env={**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"})
    assert done.returncode == 0 and done.stdout, done.stderr
    for text in (done.stdout, done.stderr):
        assert b"\x1b" not in text and b"\r" not in text and "░".encode() not in text


def test_findings_stand_alone_on_the_terminal(p):
    """What is printed while the bar is there is on lines of its own."""
    p.warehouse(f"update raw.{ROLE} set name = 'other' where id in (select id from raw.{ROLE} order by id limit 3)")
    with Terminal(words(p, "verify --full"), columns=150, rows=40) as t:
        assert t.end() == 1
        lines = t.screen.lines()
        assert sum(bool(re.fullmatch(rf"differs     {ROLE}  id \S+  version 1  column name", line)) for line in lines) == 3
        assert not any("█" in line or "░" in line for line in lines)
    with Terminal(words(p, "verify --full --repair"), columns=150, rows=40) as t:
        assert t.end() == 0
        assert any(re.search(rf"^repair  .* \d/3 entities +{ROLE}$", line) for line in frames(t.raw)), frames(t.raw)


def test_a_narrow_or_poor_terminal_gets_what_it_can_show(p):
    with Terminal(words(p, "verify --full"), columns=30) as t:
        assert t.end() == 0
        assert t.screen.wrapped <= 10 and all(len(line) < 30 for line in frames(t.raw))
    with Terminal(words(p, "verify --full"), env={"LC_ALL": "C"}) as t:
        assert t.end() == 0
        assert t.raw.isascii() and frames(t.raw)[0].startswith("verify  ......")
    with Terminal(words(p, "verify --full"), env={"TERM": "dumb"}) as t:
        assert t.end() == 0
        assert b"\x1b" not in t.raw


def test_a_log_has_a_line_now_and_then_of_what_takes_long(p, tmp_path):
    p.apply.signal(signal.SIGSTOP)
    try:
        sync = Process("sync", words(p, f"sync {ROLE} --wait"), str(tmp_path / "log"))
        wait_for("two lines", lambda: len(sync.lines("sync: ", "1 table to go")) >= 2)
    finally:
        p.apply.signal(signal.SIGCONT)
    assert sync.wait() == 0
    assert "\x1b" not in sync.text() and sync.text().endswith("All of them follow the stream.\n")
