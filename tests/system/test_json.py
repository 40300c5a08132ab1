"""The JSON scanner against a live server: what jsonb takes, how it prints it, what ->> gives.

Texts are generated from a seed, by JSON's grammar and by mutation; the server and our code (through
json_probe) must agree on every one. ROLAG_JSON multiplies their number; ROLAG_SEED changes them.
"""
import os
import pathlib
import random
import subprocess
import sys

import psycopg
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy" / "demo"))

from cluster import Cluster  # noqa: E402
from program import build  # noqa: E402

SEED = int(os.environ.get("ROLAG_SEED", "20240301"))
SCALE = float(os.environ.get("ROLAG_JSON", "1"))

# Each text has its own exception block; key is null where the whole value is asked for.
FUNCTION = """
CREATE FUNCTION probe(texts text[], keys text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE v jsonb; got text; r record;
BEGIN
  FOR r IN SELECT * FROM unnest(texts, keys) AS x(t, k) LOOP
    BEGIN
      v := r.t::jsonb;
      IF r.k IS NULL THEN got := v::text;
      ELSIF jsonb_typeof(v) <> 'object' OR NOT v ? r.k THEN got := NULL;
      ELSE got := coalesce('=' || (v ->> r.k), 'null');
      END IF;
      RETURN NEXT CASE WHEN got IS NULL THEN 'absent' WHEN r.k IS NULL OR left(got, 1) = '='
        THEN 'ok' || chr(9) || encode(convert_to(CASE WHEN r.k IS NULL THEN got ELSE substr(got, 2) END,
             'UTF8'), 'hex')
        ELSE 'null' END;
    EXCEPTION WHEN OTHERS THEN
      RETURN NEXT 'error ' || SQLSTATE;
    END;
  END LOOP;
END $$"""


@pytest.fixture(scope="module")
def server():
    with Cluster("json") as cluster, psycopg.connect(cluster.conninfo(), autocommit=True) as conn:
        conn.execute(FUNCTION)
        yield conn


@pytest.fixture(scope="module")
def probe():
    build("build/asan/tests/json_probe")
    return ROOT / "build/asan/tests/json_probe"


def compare(server, probe, texts, keys=None):
    """Both sides' answers, which must be alike; returns how many were accepted."""
    accepted = 0
    for start in range(0, len(texts), 2000):
        part = texts[start:start + 2000]
        key_part = keys[start:start + 2000] if keys else [None] * len(part)
        theirs = [row[0] for row in server.execute("SELECT probe(%s::text[], %s::text[])",
                                                   (part, key_part))]
        lines = "".join(t.encode().hex() + ("" if k is None else "\t" + k.encode().hex()) + "\n"
                        for t, k in zip(part, key_part))
        ours = subprocess.run([probe], input=lines, capture_output=True, text=True,
                              check=True).stdout.split("\n")[:-1]
        assert len(ours) == len(theirs) == len(part)
        for text, key, mine, yours in zip(part, key_part, ours, theirs):
            assert mine == yours.split(" ")[0], f"{text!r} key {key!r}: ours {mine}, theirs {yours}"
            accepted += mine.startswith("ok")
    return accepted


# ---- texts --------------------------------------------------------------------------------------

SPACES = ["", "", "", " ", "\n", "\t \r\n"]
KEYS = ["a", "b", "aa", "ab", "", "é", "zz", "z", "a\"", "\\", "id", "type", "\n", "€", "😀", "aaa"]
CHARS = "abcABC012 _-./:;'{}[],é€ß😀\x7f\x80\ud7ff\ue000\U0010ffff"


def spell(r, text):
    """A JSON string, some characters escaped in one of the ways there are."""
    out = []
    for c in text:
        short = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r",
                 "\t": "\\t"}
        if c == "/" and r.random() < 0.5:
            out.append("\\/")
        elif c in short and r.random() < 0.7:
            out.append(short[c])
        elif c < " " or c in '"\\' or r.random() < 0.1:
            units = c.encode("utf-16-be")
            for i in range(0, len(units), 2):
                digits = f"{units[i] * 256 + units[i + 1]:04x}"
                out.append("\\u" + (digits.upper() if r.random() < 0.5 else digits))
        else:
            out.append(c)
    return '"' + "".join(out) + '"'


def string(r):
    chars = CHARS + '"\\\b\f\n\r\t\x01\x1f'
    return spell(r, "".join(r.choice(chars) for _ in range(r.choice([0, 1, 2, 5, 12, 40]))))


def number(r):
    whole = r.choice(["0", "1", "7", "12", "100", "9007199254740993", "9" * r.randint(1, 60)])
    text = r.choice(["", "-"]) + whole
    if r.random() < 0.5:
        text += "." + r.choice(["0", "00", "5", "50", "05", "000", "1" * r.randint(1, 40), "9990000"])
    if r.random() < 0.4:
        text += r.choice("eE") + r.choice(["", "+", "-"]) + r.choice(
            ["0", "1", "2", "3", "10", "007", "40", "400", str(r.randint(0, 60))])
    return text


def value(r, depth=0):
    kind = r.random()
    space = r.choice(SPACES)
    if depth < 5 and kind < 0.3:
        members = [f"{spell(r, r.choice(KEYS))}{space}:{r.choice(SPACES)}{value(r, depth + 1)}"
                   for _ in range(r.choice([0, 1, 2, 3, 6]))]
        return "{" + space + ("," + space).join(members) + r.choice(SPACES) + "}"
    if depth < 5 and kind < 0.45:
        items = [value(r, depth + 1) for _ in range(r.choice([0, 1, 2, 4]))]
        return "[" + space + (space + ",").join(items) + r.choice(SPACES) + "]"
    if kind < 0.65:
        return number(r)
    if kind < 0.9:
        return string(r)
    return r.choice(["true", "false", "null"])


def mutated(r, text):
    """One to three characters changed, dropped, doubled or put in."""
    out = list(text)
    for _ in range(r.randint(1, 3)):
        at = r.randrange(len(out) + 1)
        act = r.random()
        if act < 0.4:
            out.insert(at, r.choice("{}[]\",:\\u0eE+-.1dDfnt \n\x01'/"))
        elif out and at < len(out):
            if act < 0.7:
                del out[at]
            else:
                out[at] = r.choice("{}[]\",:\\u0eE+-.1dDfnt \n\x01'/")
    return "".join(out)


# ---- tests --------------------------------------------------------------------------------------

def test_canonical_form_is_the_servers(server, probe):
    r = random.Random(SEED)
    texts = [r.choice(SPACES) + value(r) + r.choice(SPACES) for _ in range(int(10000 * SCALE))]
    assert compare(server, probe, texts) > len(texts) * 0.99


def test_damaged_texts_are_taken_or_refused_alike(server, probe):
    r = random.Random(SEED + 1)
    texts = [mutated(r, value(r, 3)) for _ in range(int(20000 * SCALE))]
    assert 0 < compare(server, probe, texts) < len(texts)


def test_numbers_at_the_edges_of_numeric(server, probe):
    texts = [f"{sign}{digits}e{e}" for sign in ("", "-") for digits in ("1", "0", "9.9", "0.1", "10", "0.01", "0.0")
             for e in (131070, 131071, 131072, 131073, 131074, -16381, -16382, -16383, -16384, -16385,
                       2147483647, -2147483648, 1073741822, 1073741823, -1073741823, 10**12, -10**12, 10**25)]
    texts += ["1" + "0" * 131071, "1" + "0" * 131072, "0." + "0" * 16382 + "1", "0." + "0" * 16383 + "1",
              "0" * 3, "-0", "-0.0", "0e0", "-0e10", "1e0000000000000000000003", "1e-00000000000000003"]
    assert compare(server, probe, texts) > 20


def test_surrogates_and_zero(server, probe):
    halves = ["\\ud800", "\\udbff", "\\udc00", "\\udfff", "\\u0000", "\\ud7ff", "\\ue000", "x", "\\n", ""]
    texts = [f'"{a}{b}{c}"' for a in halves for b in halves for c in halves]
    texts += [f'{{"{a}{b}": 1}}' for a in halves for b in halves]
    assert compare(server, probe, texts) > 50


def test_text_of_members_is_the_servers(server, probe):
    r = random.Random(SEED + 2)
    texts, keys = [], []
    for _ in range(int(8000 * SCALE)):
        members = ", ".join(f"{spell(r, r.choice(KEYS))}: {value(r, 3)}" for _ in range(r.randint(1, 5)))
        texts.append("{" + members + "}")
        keys.append(r.choice(KEYS))
    assert compare(server, probe, texts, keys) > len(texts) // 8
