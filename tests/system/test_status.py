"""`rolag status` as a person sees it: each state, in colour and without, on terminals of any size; from counter files
that the test writes, so that no server is needed."""
import json
import os
import re
import signal
import struct
import subprocess
import time

import pytest
from pipeline import counter_names
from program import ROLAG, ROOT
from readme import section
from terminal import Terminal

MAGIC = 0x31304D474C4F52
HISTOGRAMS = 4 * (2 + 288) * 8
GOOD, BUSY, BAD = "32", "33", "31"
SPARK = "▁▂▃▄▅▆▇█"


def bars(text, label):
    return re.search(rf"^  {re.escape(label)} +([{SPARK} ]*)  (.*), at most (.*)$", text, re.M)


class Counters:
    """The counter files of a pipeline in good health; `change` breaks it."""

    def __init__(self, folder):
        self.folder = folder
        self.config = os.path.join(folder, "rolag.yaml")
        with open(self.config, "w", encoding="utf-8") as f:
            f.write(f"pipeline: lana\nstate_dir: {folder}\ncore:\n  connect: host=nowhere\n"
                    f"warehouse:\n  connect: host=nowhere\nrollups:\n  path: {folder}\n")

    def write(self, capture=None, apply=None, reports=None, roles=("capture", "apply")):
        now = int(time.time() * 1e6)
        lsn = 0x1_2345_6780
        values = {
            "capture": {"capture_connected": 1, "capture_received_lsn_bytes": lsn, "core_current_lsn_bytes": lsn,
                        "capture_durable_lsn_bytes": lsn, "capture_confirmed_lsn_bytes": lsn - 40000,
                        "core_retained_wal_bytes": 34 << 20, "core_slot_limit_bytes": 16 << 30, "spool_bytes": 120 << 20,
                        "spool_quota_bytes": 16 << 30, **(capture or {})},
            "apply": {"apply_connected": 1, "apply_applied_lsn_bytes": lsn, "apply_flushed_lsn_bytes": lsn,
                      "apply_heartbeat_time_us": now - 100_000, "apply_last_commit_time_us": now - 5_000_000,
                      "apply_last_event_time_us": now - 5_000_000, "apply_events_total": 123456,
                      "apply_transactions_total": 2345, "apply_cache_bytes": 1 << 20, "apply_mirrors": 9,
                      "apply_mirrored_inserts_total": 1000, **(apply or {})},
            "reports": reports or {}}
        names = counter_names()
        for role in ("capture", "apply", "reports"):
            path = os.path.join(self.folder, role + ".counters")
            if role not in roles:
                if os.path.exists(path):
                    os.unlink(path)
                continue
            own = dict(values[role])
            state, note = own.pop("state", "live"), own.pop("note", "")
            began, seen = own.pop("began", now - 3_600_000_000), own.pop("seen", now)
            unknown = set(own) - set(names)
            assert not unknown, unknown
            data = struct.pack("<QIIqq16s24s512sq", MAGIC, len(names), os.getpid(), began, seen, role.encode(),
                               state.encode(), note.encode(), now - 12_000_000 if note else 0)
            data += struct.pack(f"<{len(names)}Q", *(own.get(name, 0) for name in names)) + b"\0" * HISTOGRAMS
            with open(path + ".new", "wb") as f:
                f.write(data)
            os.rename(path + ".new", path)

    def run(self, *words, env=None):
        return subprocess.run([ROLAG, "--config", self.config, "status", *words], capture_output=True, text=True,
                              timeout=60, env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})})

    def terminal(self, *words, **more):
        return Terminal([ROLAG, "--config", self.config, "status", *words], **more)


@pytest.fixture
def counters(tmp_path):
    c = Counters(str(tmp_path))
    c.write()
    return c


def old():
    return int(time.time() * 1e6) - 3_600_000_000


# State: (what makes it of a healthy pipeline, how the sentence begins, its words, its colour).
STATES = {
    "live": (lambda: {}, "Healthy: ", "live", GOOD),
    "idle": (lambda: {"apply": {"apply_last_event_time_us": old()}}, "Healthy and idle: ", "idle", GOOD),
    "parked": (lambda: {"apply": {"quarantine_entities": 2, "quarantine_rollups": 1}}, "Parked in part: ", "parked", BUSY),
    "catching_up": (lambda: {"apply": {"state": "catching_up"}}, "Catching up: ", "catching up", BUSY),
    "syncing": (lambda: {"apply": {"apply_syncing_tables": 2, "apply_sync_done_rows": 500}}, "Syncing 2 tables: ", "syncing", BUSY),
    "starting": (lambda: {"apply": {"apply_connected": 0, "began": int(time.time() * 1e6)}}, "Starting: ", "starting", BUSY),
    "spilling": (lambda: {"capture": {"state": "spilling"}}, "Spilling: ", "spilling", BUSY),
    "spool_full": (lambda: {"capture": {"spool_full": 1, "spool_bytes": 16 << 30}}, "Spool full (16 GB): ", "spool full", BAD),
    "alarm": (lambda: {"capture": {"core_publications_missing": 1}}, "Alarm: ", "alarm", BAD),
    "stalled": (lambda: {"capture": {"capture_connected": 0, "note": "cannot connect"}}, "Stalled: ", "stalled", BAD),
    "stopped": (lambda: {"roles": ("capture",)}, "Stopped: apply is not running ", "stopped", BAD),
}


def documented():
    """{state: meaning} of --help."""
    text = subprocess.run([ROLAG, "status", "--help"], capture_output=True, text=True, check=True).stdout
    listed = text.split("States, by their names in --json:\n")[1].split("Keys of --json")[0]
    return dict(re.findall(r"^  (\w+) +(.*)$", listed, re.M))


@pytest.mark.parametrize("state", STATES)
def test_each_state_is_a_word_a_colour_and_an_exit_code(counters, state):
    change, begins, words, ink = STATES[state]
    counters.write(**change())
    plain = counters.run()
    said = json.loads(counters.run("--json").stdout)
    assert said["state"] == state and said["sentence"].startswith(begins)
    assert plain.returncode == (0 if said["healthy"] else 1)
    assert "\x1b" not in plain.stdout and plain.stdout.startswith(begins)
    assert f"\n  state      {words}: {documented()[state]}\n" in plain.stdout
    colored = counters.run("--color", "always").stdout
    assert colored.startswith(f"\x1b[{ink}m{begins}")
    assert f"  state      \x1b[{ink}m{words}\x1b[0m: " in colored
    assert f'rolag_state{{state="{state}"}} 1\n' in counters.run("--prometheus", "--color=always").stdout


def test_the_states_are_all_documented_and_all_tested():
    table = dict(re.findall(r"^\| `(\w+)` \| (.*?) \| .+ \|$", section("## The states"), re.M))
    assert table == documented() and set(table) == set(STATES)


def shape(line):
    """A line of a screen without its numbers, sizes and times."""
    line = re.sub(rf"[{SPARK}]+", "▁", line)
    line = re.sub(r"[0-9A-F]+/[0-9A-F]+|\d+(\.\d+)?( (ms|s|min|h|d|[kMGT]?B)\b)?", "#", line)
    return re.sub(r" +", " ", re.sub(r"# (# )+", "# ", line)).replace("# runs", "# run").rstrip()


def test_the_screens_of_the_readme_are_what_is_printed(counters):
    healthy, stalled = re.findall(r"^```\n(.*?)^```$", section("## The states"), re.M | re.S)
    now = int(time.time() * 1e6)
    for change in ({}, {"seen": now - 20_000_000}):
        counters.write(roles=("capture", "apply", "reports"),
                       capture={"capture_last_commit_time_us": now, "core_slot_lost_in_us": 80_000_000_000},
                       apply={"apply_cache_hits_total": 90, "apply_cache_misses_total": 9, "apply_verified_rows_total": 5,
                              "apply_verify_time_us": now - 5_000_000, "apply_mirrored_updates_total": 4, **change},
                       reports={"state": "idle", "reports_published_runs_total": 1, "reports_published_time_us": now - 5_000_000})
        with counters.terminal("--watch", rows=50) as t:
            text = t.wait_for("sparks", lambda text: text if bars(text, "events/s") and "q ends." in text else None)
        printed = counters.run().stdout if not change else text
        shapes = {shape(line) for line in printed.splitlines()}
        for line in (stalled if change else healthy).splitlines():
            if not line.startswith("  visible"):       # forged counters have no histogram
                assert shape(line) in shapes, (shape(line), sorted(shapes))


def test_every_key_of_json_is_documented(counters):
    text = subprocess.run([ROLAG, "status", "--help"], capture_output=True, text=True, check=True).stdout
    listed = text.split("Keys of --json")[1].split("\nOptions:")[0].split("\n", 1)[1]
    keys, roles = set(), set()
    for line in listed.splitlines():
        term, says = re.fullmatch(r"  (\S+(?:, \S+)*)?  +(.*)", line).groups()
        keys |= {k.partition(".")[0] for k in (term or "").split(", ") if k}
        if "roles" in (term or "") or not term:
            roles |= set(re.findall(r"\w+", re.sub(r" \(.*?\)", "", says)))
    said = json.loads(counters.run("--json").stdout)
    assert set(said) == keys
    assert set(said["roles"]) == {"capture", "apply", "reports"}
    assert {k for role in said["roles"].values() for k in role} == roles


def test_colour_only_where_it_is_wanted(counters):
    def inks(*words, **env):
        with counters.terminal(*words, env=env) as t:
            t.end()
            assert "Healthy: " in t.screen.text()
            return t.screen.inks
    assert GOOD in inks()
    assert inks(NO_COLOR="1") == set()
    assert GOOD in inks(NO_COLOR="")
    assert GOOD in inks("--color=always", NO_COLOR="1")
    assert inks("--color=never") == set()
    assert inks(TERM="dumb") == set() and inks(TERM=None) == set()
    assert "\x1b" not in counters.run(env={"TERM": "xterm"}).stdout
    done = counters.run("--color", "sometimes")
    assert (done.returncode, done.stderr) == (2, "rolag status: --color is auto, always or never\n")


def test_a_healthy_pipeline_is_one_screen(counters):
    with counters.terminal() as t:
        t.end()
        assert t.screen.wrapped == 0
        assert t.screen.lines()[0].startswith("Healthy: "), t.screen.text()     # nothing has scrolled away
        assert "  apply      running (live)" in t.screen.text()


def test_a_terminal_breaks_lines_between_words(counters):
    counters.write(apply={"apply_connected": 0, "note": "word " * 60})
    with counters.terminal(columns=60, rows=60) as t:
        t.end()
        assert t.screen.wrapped == 0
        lines = t.screen.lines()
        assert lines[0].startswith("Stalled: no connection to the warehouse")
        assert all(set(line.split()) == {"word"} for line in lines[4:6]), t.screen.text()
        assert "\n             word word" in t.screen.text()      # a note, below its own text
    assert max(map(len, counters.run().stdout.splitlines())) > 300      # for programs a line is a line


# ---- --watch -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("columns, rows", [(80, 24), (200, 50), (40, 10), (20, 5), (12, 3), (1, 1)])
def test_watch_fits_every_terminal(counters, columns, rows):
    counters.write(apply={"apply_connected": 0, "note": "cannot connect to " + "x" * 200})
    with counters.terminal("--watch", columns=columns, rows=rows) as t:
        t.wait_for("a screen", lambda text: len(text) >= columns and (columns < 12 or text.startswith("Stalled:")))
        t.wait_for("another", lambda _: t.raw.count(b"\x1b[H") >= 2)
        assert t.screen.wrapped == 0
        t.press("q")
        assert t.end() == 1


def test_watch_shows_what_was_by_sparks(counters):
    with counters.terminal("--watch", columns=100) as t:
        t.wait_for("a screen", lambda text: bars(text, "core WAL"))
        counters.write(capture={"core_retained_wal_bytes": 340 << 20, "spool_bytes": 60 << 20},
                       apply={"apply_events_total": 123456 + 5000})
        wal = t.wait_for("the rise", lambda text: (m := bars(text, "core WAL")) and m[2] == "340 MB" and m)
        assert wal[3] == "340 MB" and wal[1].strip()[-1] == "█" and wal[1].strip()[0] == "▂"
        text = t.screen.text()
        spool = bars(text, "spool")
        assert (spool[2], spool[3]) == ("60 MB", "120 MB") and spool[1].strip()[-1] in "▄▅"
        assert int(bars(text, "events/s")[3]) > 0 and bars(text, "events/s")[1].strip()[-1] == "█"
        assert bars(text, "lag")
        counters.write(apply={"quarantine_entities": 1, "quarantine_rollups": 1})
        t.wait_for("the state", lambda text: text.startswith("Parked in part: "))
        assert {GOOD, BUSY} <= t.screen.inks
        t.press("q")
        assert t.end() == 1


def test_watch_colours_the_whole_sentence(counters):
    counters.write(apply={"apply_connected": 0, "note": "word " * 60})
    with counters.terminal("--watch") as t:
        t.wait_for("a screen", lambda text: "q ends." in text)
        t.press("q")
        t.end()
    sentence = t.raw.decode().split("\x1b[H")[1].split("  lag ")[0].split("\r\n")[:-2]
    assert len(sentence) > 3 and all(line.startswith(f"\x1b[{BAD}m") for line in sentence)


def test_watch_without_utf8_is_ascii(counters):
    with counters.terminal("--watch", env={"LC_ALL": "C"}) as t:
        t.wait_for("a screen", lambda text: re.search(r"^  spool +[ #]+#  120 MB, at most 120 MB$", text, re.M))
        t.press("q")
        t.end()
        assert t.raw.isascii()


def test_watch_draws_over_and_never_clears_first(counters):
    with counters.terminal("--watch") as t:
        t.wait_for("some screens", lambda _: t.raw.count(b"\x1b[H") >= 3)
        t.press("q")
        t.end()
    assert b"\x1b[2J" not in t.raw
    one = t.raw.decode().split("\x1b[H")[2]
    assert one.count("\x1b[J") <= 1 and one.find("\x1b[J") in (-1, len(one) - 3)     # behind the last line


def test_watch_follows_the_size_of_its_window(counters):
    with counters.terminal("--watch") as t:
        t.wait_for("a screen", lambda text: "q ends." in text)
        assert "  cache " not in t.screen.text()
        drawn = t.raw.count(b"\x1b[H")
        t.size(60, 40)
        t.wait_for("the lines for which there was no room", lambda text: "\n  cache " in text and text.endswith("q ends."))
        assert t.raw.count(b"\x1b[H") > drawn
        for columns in range(61, 71):       # at once: more screens than looks
            drawn = t.raw.count(b"\x1b[H")
            t.size(columns, 40)
            t.wait_for("a screen", lambda _, drawn=drawn: t.raw.count(b"\x1b[H") > drawn)
        looks = len(t.wait_for("sparks", lambda text: bars(text, "spool"))[1].strip())
        assert looks < t.raw.count(b"\x1b[H") - 2
        t.size(40, 8)
        t.wait_for("few lines", lambda text: text.endswith("q ends.") and "  cache " not in text)
        assert t.screen.wrapped == 0


@pytest.mark.parametrize("how", ["q", "Q", signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_watch_leaves_the_terminal_as_it_was(counters, how):
    with counters.terminal("--watch") as t:
        t.wait_for("a screen", lambda text: "q ends." in text)
        assert t.screen.modes == {"1049": True, "25": False} and not t.is_as_before()
        if isinstance(how, str):
            t.press(how)
        else:
            t.popen.send_signal(how)
        assert t.end() == 0
        assert t.screen.modes == {"1049": False, "25": True} and t.is_as_before()
        assert t.raw.endswith(b"\x1b[?25h\x1b[?1049l")


def test_watch_gives_the_terminal_back_while_it_is_stopped(counters):
    with counters.terminal("--watch") as t:
        t.wait_for("a screen", lambda text: "q ends." in text)
        t.popen.send_signal(signal.SIGTSTP)
        t.wait_for("the pause", lambda _: t.screen.modes == {"1049": False, "25": True} and t.is_as_before())
        t.popen.send_signal(signal.SIGCONT)
        t.wait_for("a screen", lambda text: "q ends." in text and t.screen.modes == {"1049": True, "25": False})
        t.press("q")
        assert t.end() == 0


@pytest.mark.parametrize("to", ["a pipe", "a dumb terminal"])
def test_watch_elsewhere_is_plain_blocks(counters, to):
    if to == "a pipe":
        process = subprocess.Popen([ROLAG, "--config", counters.config, "status", "--watch"], stdout=subprocess.PIPE,
                                   stdin=subprocess.DEVNULL, text=True, env={**os.environ, "TERM": "xterm"})
        text = ""
        while text.count("Healthy: ") < 2:
            text += process.stdout.readline()
        process.terminate()
        text += process.communicate()[0]
        assert process.returncode == 0
    else:
        with counters.terminal("--watch", rows=100, env={"TERM": "dumb"}) as t:
            t.wait_for("two blocks", lambda text: text.count("Healthy: ") >= 2)
            t.popen.terminate()
            assert t.end() == 0
            text = t.raw.decode().replace("\r\n", "\n")
    assert "\x1b" not in text and not set(SPARK) & set(text)
    assert re.match(r"Healthy: .*\n\n  state      live: ", text)


def test_watch_ends_when_nobody_reads_it(counters):
    process = subprocess.Popen([ROLAG, "--config", counters.config, "status", "--watch"], stdout=subprocess.PIPE,
                               stdin=subprocess.DEVNULL)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 0
