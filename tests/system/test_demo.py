"""The demo proves what it says, can fail, and leaves nothing behind, however it ends."""
import datetime
import glob
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid

import psycopg
import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "deploy", "demo"))

import button as button_  # noqa: E402
import demo  # noqa: E402
import demo_load  # noqa: E402
import lana  # noqa: E402
import lana_load  # noqa: E402
from screen import Screen  # noqa: E402

DEMO = os.path.join(ROOT, "deploy", "demo", "demo.py")
ROLAG = os.path.join(ROOT, "build", "release", "rolag")
MARK = "ROLAG_DEMO_TEST"
# The least history that has all 33 entities.
SHORT = ["--history", "9000", "--seconds", "2", "--rate", "50"]


class Traces:
    """Everything that a demo started here leaves: processes, files, shared memory."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="demo-test-", dir="/tmp")
        os.chmod(self.folder, 0o711)
        self.mark = str(uuid.uuid4())
        self.env = {**os.environ, "TMPDIR": self.folder, MARK: self.mark}
        self.seen, self.servers, self.stop = set(), set(), threading.Event()
        self.before = {row[1] for row in self.all_segments()}
        self.sampler = threading.Thread(target=self.sample)
        self.sampler.start()

    def sample(self):
        """Remembers every process, so that shared memory can be told to be ours when they are gone."""
        while not self.stop.wait(0.2):
            found = self.processes()
            self.seen |= set(found)
            self.servers |= {pid for pid, words in found.items() if "postgres" in words}

    def processes(self):
        """{pid: command line} of what has our mark, or works in our folder (a server's child hides its own)."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
                    if f.read().rpartition(")")[2].split()[0] == "Z":
                        continue
                with open(f"/proc/{pid}/environ", "rb") as f:
                    ours = self.mark.encode() in f.read()
                with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as f:
                    line = f.read().replace("\0", " ")
                if ours or self.folder in line or os.readlink(f"/proc/{pid}/cwd").startswith(self.folder):
                    found[int(pid)] = line
            except OSError:
                continue
        return found

    def segments(self):
        """System V segments that one of our servers made. A process's number comes again: those that stood before
        are others'."""
        return [row[1] for row in self.all_segments() if int(row[4]) in self.servers and row[1] not in self.before]

    @staticmethod
    def all_segments():
        with open("/proc/sysvipc/shm", encoding="utf-8") as f:
            return [line.split() for line in f][1:]

    def start(self, *arguments, **more):
        return subprocess.Popen([sys.executable, DEMO, *arguments], env=self.env, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
                                start_new_session=True, **more)

    def run(self, *arguments):
        """(exit code, output)"""
        process = self.start(*arguments)
        out, _ = process.communicate(timeout=180)
        return process.returncode, out

    def assert_nothing_left(self):
        assert self.seen, "the sampler has seen no process: this check would pass whatever is left"
        deadline = time.monotonic() + 30    # what was killed may need a moment to be gone
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left == {}
        assert os.listdir(self.folder) == []
        assert self.segments() == []

    def close(self):
        self.stop.set()
        self.sampler.join()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(self.folder, ignore_errors=True)


def is_worker(pid):
    """Is it a child of apply (a sync, a sample), or gone?"""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            parent = f.read().rpartition(")")[2].split()[1]
        with open(f"/proc/{parent}/cmdline", "rb") as f:
            return f.read().startswith(b"rolag\0apply")
    except OSError:
        return True


@pytest.fixture
def traces():
    found = Traces()
    yield found
    found.close()


def proof_lines(out):
    """{entity: whether its line of the proof holds}"""
    lines = out[out.index("The proof"):].split("\n")
    return {m.group(1): m.group(2) == "✓" for m in (re.match(r"  ([a-z_]+) .*  ([✓✗])$", line) for line in lines) if m}


def differences(out):
    """{entity: what the proof says is different}"""
    return dict(re.findall(r"^  ([a-z_]+) .*  ✗\n +differs: (.*)$", out, re.M))


def test_in_a_pipe_it_proves_equality_and_leaves_nothing(traces):
    code, out = traces.run("run", "--history", "9000", "--seconds", "7", "--rate", "100")
    assert code == 0, out
    assert "\033" not in out and "\r" not in out
    held = proof_lines(out)
    assert len(held) == 33 and all(held.values()), out
    assert "33 of 33" in out
    assert re.search(r"Equal: all [\d,]+ events of \d+ types are in the warehouse, once each", out), out
    assert re.search(r"5 s  +\d+ commits/s .* visible p50 [\d.]+ m?s, p99 ", out), out
    assert re.search(r"facility +1  initialized", out), out
    traces.assert_nothing_left()


def test_it_ends_with_the_button_and_its_freshness(traces):
    code, out = traces.run("run", *SHORT)
    assert code == 0, out
    button = out[out.index("The button"):]
    states = re.findall(r"^    (queued|waiting|building|writing|published) +[\d.]+ m?s  ", button, re.M)
    assert states == ["queued", "waiting", "building", "writing", "published"], out
    assert re.search(r"files are in /.*/reports/\n  [0-9a-f-]{36}/", button), out
    for name in ("nrp_91/saldo_cuenta.csv", "nrp_92/referencia.xml", "other/calculo_de_riesgo_neto.csv"):
        lines, = re.findall(rf"{name}  (\d+) lines", button)
        assert int(lines) > 3, out
    assert re.search(r"XML +6 of 6 valid", button) and re.search(r"outside +kyc_applicants fresh", button), out
    assert re.search(r"✓ the deposit of [\d.]+ m?s before is in the transfer report: \d+ \+ 1 rows", button), out
    lsn = r"([0-9A-F]+/[0-9A-F]+)"
    found, = re.findall(rf"✓ its commit {lsn} ≤ fence {lsn} ≤ watermark {lsn}", button)
    assert list(found) == sorted(found, key=button_.position), out
    assert "Fresh: what was committed before the click is in the files" in button


def test_a_file_without_the_deposit_fails_the_demo(traces):
    code, out = traces.run("run", *SHORT, "--sabotage", "report")
    assert code == 1, out
    assert "33 of 33" in out and re.search(r"✗ the transfer report has it 0 times", out), out
    assert "not of the moment" in out and "Fresh" not in out
    traces.assert_nothing_left()


def test_a_row_that_is_wrong_fails_the_demo(traces):
    code, out = traces.run("run", *SHORT, "--sabotage", "rollup")
    assert code == 1, out
    assert differences(out) == {"deposit": "hash"}, out
    assert "32 of 33" in out and "does not hold" in out and "Equal" not in out
    traces.assert_nothing_left()


@pytest.mark.parametrize("number, after", [
    (signal.SIGINT, "clusters"), (signal.SIGINT, "first load"), (signal.SIGTERM, "first load")])
def test_interrupted_it_leaves_nothing(traces, number, after):
    process = traces.start("run", "--history", "2000", "--seconds", "60", bufsize=1)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if after in line:
            break
    assert process.poll() is None, lines
    # As a terminal does: ^C reaches the whole foreground group.
    os.killpg(process.pid, number)
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 130, out
    traces.assert_nothing_left()


def test_a_rolag_that_ends_fails_the_demo_with_its_log(traces):
    process = traces.start("run", *SHORT, "--seconds", "60", bufsize=1)
    for line in process.stdout:
        if "first load" in line:
            break
    roles = [pid for pid, words in traces.processes().items() if words.endswith(" run ")]
    assert len(roles) == 1
    os.kill(roles[0], signal.SIGKILL)
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 1, out
    assert "failed: rolag run has ended" in out and "the end of rolag.log" in out
    traces.assert_nothing_left()


@pytest.mark.parametrize("month", range(1, 13))
def test_whenever_the_bank_opens_its_history_has_every_entity(month):
    opening = datetime.date(2026, month, 1)
    world = lana_load.make_world(demo_load.SEED, opening.isoformat(), demo_load.SCALE,
                                 price_shift=demo_load.price_shift(opening))
    events, tables = 0, set()
    for tx in lana.transactions(world):
        tables.update(row[0] for row in tx.rows)
        events += len(tx.rows)
        if len(tables) == 33 or events > 5000:
            break
    assert len(tables) == 33 and events <= 5000


def test_up_stays_up_until_down(traces):
    code, out = traces.run("up", "--history", "9000")
    assert code == 0, out
    assert "psql -h " in out
    page, token = re.search(r"(http://127\.0\.0\.1:\d+/)  with the token (\S+)", out).groups()
    asked = urllib.request.Request(page + "api/v1/status", headers={"Authorization": "Bearer " + token})
    with urllib.request.urlopen(page, timeout=60) as first, urllib.request.urlopen(asked, timeout=60) as status:
        assert "<title>" in first.read().decode() and json.load(status)["sentence"]
    running = traces.processes()
    again = traces.run("up")
    assert again[0] == 0 and "up already" in again[1]
    roles = {p: words for p, words in running.items() if words.startswith("rolag") and not is_worker(p)}
    assert len(roles) == 3 and set(roles) <= set(traces.processes())
    applier = [p for p, words in roles.items() if words.startswith("rolag apply")]
    os.kill(applier[0], signal.SIGKILL)
    code, out = traces.run("proof")
    assert code == 0 and "33 of 33" in out, out
    with psycopg.connect(f"host={glob.glob(traces.folder + '/*/warehouse')[0]} port=5432 user=postgres"
                         " dbname=warehouse", autocommit=True) as warehouse:
        # Rows that apply will not come back to: permission sets and manual transactions have one event each.
        warehouse.execute("delete from raw.core_user_events_rollup where ctid ="
                          " (select max(ctid) from raw.core_user_events_rollup)")
        warehouse.execute("update raw.core_manual_transaction_events_rollup_latest set event_type = 'x'")
        warehouse.execute("drop table raw.core_permission_set_events_rollup_latest")
    code, out = traces.run("proof")
    assert code == 1
    assert differences(out) == {"user": "rows, hash", "manual_transaction": "hash of latest",
                                "permission_set": "rows, hash, latest, hash of latest"}
    code, out = traces.run("down")
    assert code == 0 and "deleted" in out, out
    traces.assert_nothing_left()
    assert traces.run("proof")[0] == 1
    assert traces.run("down") == (0, "  Nothing is up.\n")


def test_down_cleans_up_after_a_keeper_that_was_killed(traces):
    assert traces.run("up", "--history", "2000")[0] == 0
    keeper = [p for p, words in traces.processes().items() if " keep " in words]
    os.kill(keeper[0], signal.SIGKILL)
    time.sleep(0.5)
    assert any("postgres -D" in words for words in traces.processes().values())
    assert traces.run("down")[0] == 0
    traces.assert_nothing_left()


# ---- the screen ---------------------------------------------------------------------------------

class Terminal(io.TextIOWrapper):
    def __init__(self):
        super().__init__(io.BytesIO(), encoding="utf-8")

    def isatty(self):
        return True

    def written(self):
        self.flush()
        return self.buffer.getvalue().decode()


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_the_region_is_redrawn_in_place_within_the_terminal(terminal):
    screen = Screen(terminal)
    screen.draw(["x" * 200] * 60)
    screen.draw(["y"])
    first, second = terminal.written().split("\033[23A")
    rows = re.sub(r"\033\[[0-9;?]*[A-Za-z]", "", first).strip("\r\n").split("\n")
    assert rows == ["x" * 79] * 23
    assert second.endswith("y\033[K\n\033[J") and "\033[2J" not in terminal.written()


def test_text_is_cut_by_what_is_seen(terminal):
    screen = Screen(terminal)
    assert screen.cut(screen.style("abcdef", "red") + "gh", 3) == "\033[31mabc\033[0m"


@pytest.mark.parametrize("variable, value", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_where_it_is_not_wanted(terminal, monkeypatch, variable, value):
    assert Screen(terminal).style("a", "red") == "\033[31ma\033[0m"
    monkeypatch.setenv(variable, value)
    assert Screen(terminal).style("a", "red") == "a"


def test_quantiles_are_of_what_was_counted_in_between():
    before = {1000: 50, 2000: 50}
    now = {1000: 50, 2000: 149, 9000: 2, 70000: 1}
    assert demo.quantiles(now, before) == [0.002, 0.009]
    assert demo.quantiles(before, before) == [None, None]
