"""`rolag fold` against the oracle: the same rows as PostgreSQL's own triggers make, for all rollups.

And what the command says of files that are not as they should be.
"""
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "deploy" / "demo"), str(ROOT / "tests" / "oracle")]

import oracle  # noqa: E402
from cluster import Cluster  # noqa: E402
from program import build  # noqa: E402

EVENTS = int(os.environ.get("ROLAG_FOLD_EVENTS", "4000"))
SEED = os.environ.get("ROLAG_SEED", "3")
PACK = ROOT / "transforms/lana/rollups"
BINARY = ROOT / "build/asan/rolag"
ID = "00000000-0000-4000-8000-%012d"


@pytest.fixture(scope="module", autouse=True)
def binary():
    build("build/asan/rolag")


def fold(*arguments, text=None):
    return subprocess.run([BINARY, "fold", *map(str, arguments)], input=text, capture_output=True, text=True,
                          check=False, cwd=ROOT)


@pytest.mark.parametrize("nasty", [1, 2])
def test_every_row_is_the_triggers(tmp_path, nasty):
    """1: unusual payloads, all within the events' contract. 2: some break it, and their entities wait here."""
    path = tmp_path / "events.jsonl"
    subprocess.run([sys.executable, ROOT / "deploy/demo/lana_load.py", "--dump", path, "--events", str(EVENTS),
                    "--seed", SEED, "--nasty", str(nasty)], check=True, stdout=subprocess.DEVNULL)
    with Cluster("fold") as cluster:
        judge = oracle.Oracle(cluster.conninfo())
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        with judge.conn.transaction():
            expected = judge.fold(lines)
        compared = 0
        for rollup, rows in expected.items():
            own = f'{{"table": "{rollup.removesuffix("_rollup")}"'
            done = fold(PACK / f"{rollup}.yaml", "-", text="".join(f"{l}\n" for l in lines if l.startswith(own)))
            assert done.returncode == (1 if "missing_key" in done.stderr else 0), done.stderr
            if nasty == 1:
                assert done.stderr == ""
            first_waiting = {}  # entity: the sequence from which on it waits
            for message in done.stderr.splitlines():
                assert re.search(r"warning: event \w+ has key nobody_knows|missing_key|entities wait", message), message
                if m := re.search(r": missing_key: .* entity (\S+), sequence (\d+), .* the payload lacks key", message):
                    first_waiting[m[1]] = int(m[2])
            rows = [r for r in rows if int(r["version"]) < first_waiting.get(r["id"], 1 << 31)]
            compared += same(judge, rollup, rows, done.stdout)
        judge.close()
    assert compared == EVENTS if nasty == 1 else compared > EVENTS / 3


def same(judge, rollup, rows, lines):
    """Our lines, read by the server into the rollup's row type, against the oracle's rows; every column as text.

    A line cannot tell a jsonb null from a NULL: both count as None here.
    """
    columns = oracle.columns_of(judge.rules[rollup])
    shown = ", ".join(f'r."{n}"::text' for n, _ in columns)
    ours = judge.conn.execute(
        f'select {shown} from unnest(%s::text[]) l, jsonb_populate_record(null::oracle."{rollup}", l::jsonb) r '
        "order by id, version", (lines.split("\n")[:-1],)).fetchall()
    assert len(ours) == len(rows), rollup
    for mine, row in zip(ours, rows):
        for (name, type_), value in zip(columns, mine):
            theirs = None if type_ == "jsonb" and row[name] == "null" else row[name]
            assert value == theirs, f"{rollup} {row['id']} version {row['version']} column {name}"
    return len(rows)


# ---- the command --------------------------------------------------------------------------------

DEFINITION = """language: 1
rollup: t
source: public.t_events
events: {created: [a], renamed: ["b?"]}
columns: {a: {type: int8, set: [created]}, b: text}
"""


@pytest.fixture
def definition(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(DEFINITION)
    return path


def line(entity, sequence, type_, payload, **more):
    return json.dumps({"id": ID % entity, "sequence": sequence, "event_type": type_, "event": payload,
                       "recorded_at": "2024-02-29T12:00:00Z", **more}) + "\n"


def test_versions_come_out_in_the_order_of_the_events(definition):
    done = fold(definition, "-", text=line(1, 1, "created", {"a": 1}) + line(2, 1, "created", {"a": "2"}) + "\n" +
                line(1, 2, "renamed", {"b": "\u00e9\""}) + line(1, 2, "renamed", {}))
    assert done.returncode == 0
    rows = [json.loads(row) for row in done.stdout.splitlines()]
    assert [(r["id"], r["version"], r["a"], r["b"]) for r in rows] == [
        (ID % 1, 1, 1, None), (ID % 2, 1, 2, None), (ID % 1, 2, 1, "\u00e9\"")]
    assert rows[2]["created_at"] == "2024-02-29 12:00:00+00" and rows[2]["event_type"] == "renamed"
    assert done.stderr == "stdin: 1 duplicates dropped\n"


def test_lines_of_other_tables_are_passed_over(definition):
    done = fold(definition, "-", text=line(1, 1, "x", {}, table="other_events") +
                line(1, 1, "created", {"a": 1}, table="t_events") +
                line(2, 1, "created", {"a": 1}, table="public.t_events") +
                line(3, 1, "created", {"a": 1}, table="other.t_events"))
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2


def test_trap_33_a_gap_parks_its_entity_and_the_others_go_on(definition):
    done = fold(definition, "-", text=line(1, 1, "created", {"a": 1}) + line(1, 3, "renamed", {"b": "x"}) +
                line(2, 1, "created", {"a": 2}) + line(1, 2, "renamed", {"b": "y"}))
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 2
    assert f"stdin:2: gap: rollup t, entity {ID % 1}, sequence 3, event renamed: events are missing" in done.stderr
    assert "1 entities wait, with 1 later events" in done.stderr


def test_trap_34_policy_fail_stops_at_the_event(definition):
    definition.write_text(DEFINITION + "unknown_event: fail\n")
    done = fold(definition, "-", text=line(1, 1, "nope", {}) + line(2, 1, "created", {"a": 2}))
    assert done.returncode == 1 and done.stdout == ""
    assert "stdin:1: unknown_event: rollup t, entity" in done.stderr


def test_unknown_keys_are_named(definition):
    done = fold(definition, "-", text=line(1, 1, "created", {"a": 1, "zz": 2}))
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1
    assert "stdin:1: warning: event created has key zz, which is not listed" in done.stderr


@pytest.mark.parametrize("text, says", [
    ("{", "stdin:1: not JSON at byte"),
    ("[]", "stdin:1: a line must be an object"),
    ("\n\n" + '{"id": 1}', "stdin:3: key \"id\": not a valid uuid"),
    ('{"id": null}', "stdin:1: key \"id\" is null"),
    (line(1, 1, "created", {"a": 1}).replace("1, \"event_type\"", "\"x\", \"event_type\""),
     "stdin:1: key \"sequence\": not a valid int4"),
    (line(1, 1, "created", {"a": 1}).replace("2024-02-29", "2023-02-29"), "stdin:1: key \"recorded_at\": "),
    (line(1, 1, "created", {"a": 1}).replace("\"event\":", "\"evnt\":"), "stdin:1: key \"event\" is absent"),
    (line(1, 1, "created", {"a": 1}).replace("{\"a\": 1}", "{\"a\": 1e200000}"), "stdin:1: key \"event\" holds"),
])
def test_bad_lines_are_named(definition, text, says):
    done = fold(definition, "-", text=text)
    assert done.returncode == 100 and says in done.stderr and done.stdout == ""


# ---- the manual ---------------------------------------------------------------------------------

MANUAL = (ROOT / "transforms/README.md").read_text(encoding="utf-8")
HEAD = "language: 1\nrollup: t\nsource: public.t_events\n"


def examples():
    """(definition, events with what they give) of every example in the manual."""
    return re.findall(r"```yaml\n(events:.*?)```\n```text\n(.*?)```", MANUAL, re.S)


@pytest.mark.parametrize("text, steps", examples(), ids=lambda _: "")
def test_examples_of_the_manual_give_what_it_says(definition, text, steps):
    definition.write_text(HEAD + text)
    lines, rows, refused = "", [], None
    for i, step in enumerate(steps.splitlines(), 1):
        type_, payload, sign, result = re.fullmatch(r"(\w+) (\{.*?\}) +(-> )?(.*)", step).groups()
        lines += line(1, i, type_, {}).replace("{}", payload).replace("2024-02-29T12:00:00Z", f"2024-01-01 00:00:0{i}Z")
        if sign:
            rows.append(result)
        else:
            assert i == len(steps.splitlines())
            refused = result
    done = fold(definition, "-", text=lines)
    given = [re.sub(r'^.*?"event_type": "\w+", |\}$', "", row) for row in done.stdout.splitlines()]
    columns = list(json.loads("{%s}" % given[0]))
    for row, says in zip(given, rows, strict=True):
        assert row == ", ".join(f'"{c}": {v}' for c, v in zip(columns, says.split(" | "), strict=True))
    assert (done.stderr == "" and done.returncode == 0) if refused is None else f": {refused}: " in done.stderr


def test_the_manual_has_an_example_of_every_reducer_and_option(definition):
    shown = " ".join(text for text, _ in examples())
    reducers = re.findall(r"REDUCER\(\w+, (\w+),", (ROOT / "transforms/rollup/reducers.def").read_text())
    assert len(reducers) > 9
    for word in [*reducers, "clear", "lower", "init", "remove", "unique", "skip_null", "max", "subtract", "$time",
                 "$sequence", "$type", "$payload"]:
        assert word == "carry" or re.search(re.escape(word) + r"\b", shown), word
    whole = re.search(r"```yaml\n(language:.*?)```", MANUAL, re.S)[1]
    definition.write_text(whole)
    assert fold(definition, "-", text="").returncode == 0


def test_the_packs_manual_tells_what_the_files_hold():
    """Its table against the files; the list to land against the table (an empty one would land secrets too)."""
    manual = (PACK.parent / "README.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| [a-z ]+ \| `(\w+)` \| (\d+)(?: \+ (\d))? \| (\d+) \| (landed|opt-in) \|", manual, re.M)
    files = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in PACK.glob("*.yaml")}
    assert {f"{row[0]}_rollup": (int(row[1]) + int(row[2] or 0), int(row[3])) for row in table} == {
        name: (len(d["events"]), len(d["columns"])) for name, d in files.items()}
    shipped = ROOT / "deploy/lana.yaml"
    listed = yaml.safe_load(shipped.read_text(encoding="utf-8"))["rollups"]["land"]
    assert sorted(listed) == sorted(f"{row[0]}_rollup" for row in table if row[4] == "landed")
    subprocess.run([BINARY, "--config", shipped, "config", "--check"], check=True, stdout=subprocess.DEVNULL)


# ---- what is wrong ------------------------------------------------------------------------------

def test_what_is_missing_or_wrong_on_the_command_line(definition, tmp_path):
    assert fold().returncode == 2 and fold(definition).returncode == 2
    done = fold(definition, tmp_path / "none.jsonl")
    assert done.returncode == 100 and "none.jsonl: No such file" in done.stderr
    definition.write_text(DEFINITION.replace("int8", "int9"))
    done = fold(definition, "-", text="")
    assert done.returncode == 100 and "t.yaml:5:21: column \"a\" has an unknown type \"int9\"" in done.stderr
