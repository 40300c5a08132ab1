"""Casts, sums, order and arrays of proto/pg/types against a live server.

Strings are generated from a seed, by each type's grammar and by mutation; the server and our code
(through cast_probe) must agree on every one: accepted or refused, binary form, text form.
ROLAG_CASTS multiplies their number; ROLAG_SEED changes them.
"""
import os
import pathlib
import random
import shutil
import subprocess
import tempfile

import psycopg
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PG_BIN = pathlib.Path("/usr/lib/postgresql/15/bin")
SEED = int(os.environ.get("ROLAG_SEED", "20240229"))
SCALE = float(os.environ.get("ROLAG_CASTS", "1"))

SEND = {"bool": "boolsend", "int2": "int2send", "int4": "int4send", "int8": "int8send",
        "numeric": "numeric_send", "text": "textsend", "varchar": "varcharsend",
        "uuid": "uuid_send", "date": "date_send", "timestamptz": "timestamptz_send"}

# One call answers for a whole batch; each value has its own exception block.
FUNCTION = """
CREATE FUNCTION {name}({args}) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE v {type}; r record;
BEGIN
  FOR r IN SELECT * FROM unnest({arrays}) LOOP
    BEGIN
      {value}
      RETURN NEXT 'ok' || chr(9) || encode({send}(v), 'hex') || chr(9) ||
                  encode(convert_to(format('%s', v), 'UTF8'), 'hex');
    EXCEPTION WHEN OTHERS THEN
      RETURN NEXT 'error ' || SQLSTATE;
    END;
  END LOOP;
END $$"""


def as_postgres(*command):
    prefix = [] if os.geteuid() else ["setpriv", "--reuid=postgres", "--regid=postgres",
                                      "--clear-groups"]
    subprocess.run([*prefix, *map(str, command)], check=True, stdout=subprocess.DEVNULL, cwd="/")


@pytest.fixture(scope="module")
def server():
    folder = tempfile.mkdtemp(prefix="rolag-casts-")
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    as_postgres(PG_BIN / "initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "postgres",
                "-E", "UTF8", "--locale=C.UTF-8")
    options = f"-k {folder} -c listen_addresses= -c fsync=off -c shared_buffers=16MB"
    as_postgres(PG_BIN / "pg_ctl", "-D", f"{folder}/data", "-l", f"{folder}/log", "-w",
                "-o", options, "start")
    try:
        with psycopg.connect(host=folder, user="postgres", dbname="postgres",
                             autocommit=True) as connection:
            connection.execute("SET timezone = 'UTC'")
            connection.execute("SET datestyle = 'ISO, MDY'")
            for name, send in SEND.items():
                connection.execute(FUNCTION.format(
                    name=f"cast_{name}", args="a bytea[]", arrays="a", type=name, send=send,
                    value=f"v := convert_from(r.unnest, 'UTF8')::{name};"))
            for name in ("int2", "int4", "int8", "numeric"):
                for word, sign in (("add", "+"), ("sub", "-")):
                    connection.execute(FUNCTION.format(
                        name=f"{word}_{name}", args="a text[], b text[]", arrays="a, b) AS t(a, b",
                        type=name, send=SEND[name],
                        value=f"v := r.a::{name} {sign} r.b::{name};"))
            yield connection
    finally:
        as_postgres(PG_BIN / "pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def probe():
    """Asks our code; built with the sanitizers, so that a bad read fails the test too."""
    path = "build/asan/tests/cast_probe"
    subprocess.run(["make", "-s", "MODE=asan", path], cwd=ROOT, check=True)

    def ask(lines):
        done = subprocess.run([ROOT / path], input="".join(f"{line}\n" for line in lines),
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        answers = done.stdout.splitlines()
        assert len(answers) == len(lines)
        return answers
    return ask


def hexed(text):
    return (text if isinstance(text, bytes) else text.encode()).hex()


def agree(theirs, ours, inputs):
    """Fails listing the first inputs on which server and program differ."""
    differ = []
    accepted = 0
    for their, our, given in zip(theirs, ours, inputs, strict=True):
        if their.startswith("error"):
            # Class 22 is bad data: any other error would be one of the test itself.
            assert their[6:8] == "22", (their, given)
            their = "error"
        else:
            accepted += 1
        if their != our:
            differ.append(f"{given!r}\n  server {their}\n  rolag  {our}")
    assert not differ, f"{len(differ)} of {len(inputs)}:\n" + "\n".join(differ[:40])
    return accepted


def check_casts(server, probe, name, inputs):
    """Server and program agree on all inputs; returns how many of them were accepted."""
    inputs = [x if isinstance(x, bytes) else x.encode() for x in inputs]
    theirs = [r[0] for r in server.execute(f"SELECT cast_{name}(%s::bytea[])", (inputs,))]
    return agree(theirs, probe([f"{name}\t{x.hex()}" for x in inputs]), inputs)


def both_happen(accepted, inputs):
    """A generator that only makes good (or bad) strings would prove little."""
    assert 0.05 * len(inputs) < accepted < 0.99 * len(inputs), (accepted, len(inputs))


def mutate(rng, text, alphabet):
    """A few random edits: delete, insert, replace, double or swap characters, change case."""
    chars = list(text)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(chars) + 1)
        kind = rng.randrange(6)
        if kind == 0 and chars:
            del chars[at % len(chars)]
        elif kind == 1:
            chars.insert(at, rng.choice(alphabet))
        elif kind == 2 and chars:
            chars[at % len(chars)] = rng.choice(alphabet)
        elif kind == 3 and chars:
            chars.insert(at, chars[at % len(chars)])
        elif kind == 4 and len(chars) > 1:
            i = at % (len(chars) - 1)
            chars[i], chars[i + 1] = chars[i + 1], chars[i]
        else:
            chars = [c.upper() if rng.random() < 0.5 else c.lower() for c in chars]
    return "".join(chars)


def generated(name, make, alphabet, count, fixed=()):
    """Seeded inputs: the fixed ones, then by grammar, two thirds of them mutated."""
    rng = random.Random(f"{SEED} {name}")
    result = list(fixed)
    for _ in range(int(count * SCALE)):
        text = make(rng)
        result.append(mutate(rng, text, alphabet) if rng.random() < 0.66 else text)
    return result


def spaces(rng):
    return "".join(rng.choice(" \t\n\v\f\r") for _ in range(rng.choice((0, 0, 0, 0, 1, 2))))


def digits(rng, most):
    return "".join(rng.choice("0123456789") for _ in range(rng.randint(1, most)))


# ---- the simple types ----

def make_bool(rng):
    word = rng.choice(("true", "false", "yes", "no", "on", "off", "1", "0"))
    return spaces(rng) + word[:rng.randint(1, len(word))] + spaces(rng)


def test_bool_casts_as_the_server(server, probe):
    inputs = generated("bool", make_bool, "truefalsynof01 \t", 4000, ("", " ", "o", "of", "10"))
    both_happen(check_casts(server, probe, "bool", inputs), inputs)


@pytest.mark.parametrize("name,bits", [("int2", 16), ("int4", 32), ("int8", 64)])
def test_integer_casts_as_the_server(server, probe, name, bits):
    def make(rng):
        edge = rng.choice((0, 1 << (bits - 1), -1 << (bits - 1), 10 ** (bits // 4)))
        number = str(edge + rng.randint(-3, 3)) if rng.random() < 0.5 else digits(rng, bits // 3)
        sign = rng.choice(("", "", "+", "-")) if number[0] != "-" else ""
        zeros = "0" * rng.choice((0, 0, 0, 1, 30))
        return spaces(rng) + sign + (zeros + number if number[0] != "-" else number) + spaces(rng)
    inputs = generated(name, make, "0123456789+-. xe_\t", 4000,
                       ("", " ", "-", "+", "0x10", "1_000", "1e3", "1.0", "- 1", "-0"))
    both_happen(check_casts(server, probe, name, inputs), inputs)


def make_numeric(rng):
    if rng.random() < 0.1:
        word = rng.choice(("NaN", "Infinity", "inf", "-inf", "+infinity", "-Infinity", "+NaN"))
        return spaces(rng) + word + spaces(rng)
    whole, fraction = digits(rng, rng.choice((1, 4, 9, 40))), digits(rng, rng.choice((1, 4, 9, 40)))
    number = rng.choice((whole, whole + ".", "." + fraction, whole + "." + fraction,
                         "000" + whole + ".0000" + fraction + "0000"))
    if rng.random() < 0.3:
        number += rng.choice("eE") + rng.choice(("", "+", "-", " ")) + rng.choice(
            (digits(rng, 2), digits(rng, 3), "131071", "131072", "16383", "16384", "1073741822",
             "1073741823", "99999999999999999999"))
    return spaces(rng) + rng.choice(("", "", "+", "-")) + number + spaces(rng)


def test_numeric_casts_as_the_server(server, probe):
    inputs = generated("numeric", make_numeric, "0123456789.eE+- naif_x", 12000,
                       ("", ".", "1.", ".5", "-.", "1e", "1e+", "1e 5", "1e+ 5", "0e131072000",
                        "0e-16383", "0e-16384", "1e131071", "1e131072", "0x1", "1_0", "-0.00"))
    both_happen(check_casts(server, probe, "numeric", inputs), inputs)


def make_uuid(rng):
    text = "".join(rng.choice("0123456789abcdefABCDEF") for _ in range(32))
    style = rng.randrange(4)
    if style == 1:
        text = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
    elif style == 2:
        text = "-".join(text[i:i + 4] for i in range(0, 32, 4))
    elif style == 3:
        text = "".join(text[i:i + 4] + rng.choice(("", "-")) for i in range(0, 28, 4)) + text[28:]
    return "{" + text + "}" if rng.random() < 0.3 else text


def test_uuid_casts_as_the_server(server, probe):
    inputs = generated("uuid", make_uuid, "0123456789abcdefABCDEFg-{} ", 8000, ("", "{}", "-"))
    both_happen(check_casts(server, probe, "uuid", inputs), inputs)


def random_text(rng):
    return "".join(chr(rng.choice((rng.randint(1, 127), rng.randint(128, 0x7FF),
                                   rng.randint(0x800, 0xD7FF), rng.randint(0xE000, 0xFFFF),
                                   rng.randint(0x10000, 0x10FFFF))))
                   for _ in range(rng.randint(0, 8)))


@pytest.mark.parametrize("name", ["text", "varchar"])
def test_text_casts_as_the_server(server, probe, name):
    rng = random.Random(f"{SEED} {name}")
    inputs = [b"\0", b"a\0b", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"]
    for _ in range(int(4000 * SCALE)):
        text = bytearray(random_text(rng).encode())
        if text and rng.random() < 0.5:
            text[rng.randrange(len(text))] = rng.randrange(256)
        inputs.append(bytes(text))
    both_happen(check_casts(server, probe, name, inputs), inputs)


# ---- sums, order, arrays ----

def check_sums(server, probe, name, pairs):
    for word in ("add", "sub"):
        theirs = [r[0] for r in server.execute(
            f"SELECT {word}_{name}(%s::text[], %s::text[])",
            ([a for a, _ in pairs], [b for _, b in pairs]))]
        agree(theirs, probe([f"{word}:{name}\t{hexed(a)}\t{hexed(b)}" for a, b in pairs]), pairs)


def check_order(server, probe, name, pairs):
    collate = ' COLLATE "C"' if name in ("text", "varchar") else ""
    theirs = server.execute(
        f"SELECT (a::{name} > b::{name}{collate})::int - (a::{name} < b::{name}{collate})::int"
        " FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS t(a, b, n) ORDER BY n",
        ([a for a, _ in pairs], [b for _, b in pairs])).fetchall()
    ours = probe([f"cmp:{name}\t{hexed(a)}\t{hexed(b)}" for a, b in pairs])
    assert len(theirs) == len(pairs)
    assert [(p, str(r[0])) for p, r in zip(pairs, theirs)] == list(zip(pairs, ours))


def good_numeric(rng):
    if rng.random() < 0.05:
        return rng.choice(("NaN", "Infinity", "-Infinity"))
    whole = rng.choice(("0", "9999", "10000", "99999999", digits(rng, 3), digits(rng, 30)))
    fraction = rng.choice(("", ".0000", ".9999", "." + digits(rng, 3), "." + digits(rng, 30)))
    exponent = rng.choice(("", "", "", "e40", "e-40"))
    if rng.random() < 0.003:
        exponent = rng.choice(("e131000", "e-16000"))
    return rng.choice(("", "-")) + whole + fraction + exponent


def good_integer(bits):
    def make(rng):
        edge = rng.choice((0, (1 << (bits - 1)) - 9, -(1 << (bits - 1)) + 9))
        return str(edge + rng.randint(-9, 8))
    return make


GOOD = {"bool": lambda rng: rng.choice("tf"), "int2": good_integer(16), "int4": good_integer(32),
        "int8": good_integer(64), "numeric": good_numeric, "text": random_text,
        "varchar": random_text, "uuid": lambda rng: f"{rng.getrandbits(128):032x}"}


def pairs_of(name, count):
    rng = random.Random(f"{SEED} pairs {name}")
    pairs = []
    for _ in range(int(count * SCALE)):
        a, b = GOOD[name](rng), GOOD[name](rng)
        pairs.append((a, a if rng.random() < 0.1 else b))
    return pairs


@pytest.mark.parametrize("name", ["int2", "int4", "int8", "numeric"])
def test_sums_as_the_server(server, probe, name):
    pairs = pairs_of(name, 6000)
    if name == "numeric":
        pairs += [("9" * 131072, "1"), ("9" * 131072, "-1"), ("1e131071", "1e-16383")]
    check_sums(server, probe, name, pairs)


@pytest.mark.parametrize("name", list(GOOD))
def test_order_as_the_server(server, probe, name):
    check_order(server, probe, name, pairs_of(name, 4000))


def nasty_text(rng):
    return rng.choice(("", "NULL", "null", "a,b", "{", "}", '"', "\\", " ", "a b", "\t", "ünï",
                       "plain", "nul", "a\"b\\c", "\v", "[1:2]={x}", random_text(rng)))


@pytest.mark.parametrize("name", list(GOOD))
def test_arrays_as_the_server(server, probe, name):
    rng = random.Random(f"{SEED} arrays {name}")
    make = nasty_text if name in ("text", "varchar") else GOOD[name]
    lines, expected = [], []
    for _ in range(int(200 * SCALE)):
        pool = [make(rng) for _ in range(4)] + [None]
        elements = [rng.choice(pool) for _ in range(rng.randint(0, 8))]
        gone = rng.choice(pool)
        server_says = server.execute(
            f"SELECT array_send(a), a::text, array_send(r), r::text FROM (SELECT %s::{name}[] AS a,"
            f" array_remove(%s::{name}[], %s::{name}) AS r) s", (elements, elements, gone)).fetchone()
        fields = ["-" if e is None else hexed(e) for e in elements]
        lines.append("\t".join([f"append:{name}", *fields]))
        lines.append("\t".join([f"remove:{name}", "-" if gone is None else hexed(gone), *fields]))
        for binary, text in (server_says[:2], server_says[2:]):
            expected.append(f"ok\t{binary.hex()}\t{hexed(text)}")
    assert list(zip(lines, probe(lines))) == list(zip(lines, expected))
