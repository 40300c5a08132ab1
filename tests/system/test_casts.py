"""Casts, sums, order and arrays of proto/pg/types against a live server.

Strings are generated from a seed, by each type's grammar and by mutation; the server and our code
(through cast_probe) must agree on every one: accepted or refused, binary form, text form.
ROLAG_CASTS multiplies their number; ROLAG_SEED changes them.
"""
import os
import pathlib
import random
import re
import subprocess
import sys

import psycopg
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy" / "demo"))

from cluster import Cluster  # noqa: E402
from program import build  # noqa: E402

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


@pytest.fixture(scope="module")
def server():
    with Cluster("casts", settings={"shared_buffers": "16MB"}) as cluster, \
            psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        if connection.info.server_version // 10000 != 15:
            pytest.skip("the casts follow PostgreSQL 15")
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
                    type=name, send=SEND[name], value=f"v := r.a::{name} {sign} r.b::{name};"))
        yield connection


@pytest.fixture(scope="module")
def probe():
    """Asks our code; built with the sanitizers, so that a bad read fails the test too."""
    path = "build/asan/tests/cast_probe"
    build(path)

    def ask(lines, zone="UTC"):
        done = subprocess.run([ROOT / path, zone], input="".join(f"{line}\n" for line in lines),
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


# ---- dates ----

# What our casts refuse and the server does not, by design.
PRESENT = re.compile("now|today|tomorrow|yesterday", re.I)

MONTHS = ("january february march april may june july august september october november december "
          "jan feb mar apr jun jul aug sep sept oct nov dec").split()
DAYS = ("monday tuesday wednesday thursday friday saturday sunday mon tue tues wed weds thu thur "
        "thurs fri sat sun").split()
ZONES = ["Z", "z", "zulu", "UTC", "utc", "GMT", "EST", "EDT", "pst", "PDT", "CET", "CEST", "MSK",
         "MSD", "IST", "SGT", "ART", "CLT", "LHDT", "KOST", "IRKT", "america/new_york",
         "Europe/Berlin", "Europe/Dublin", "Asia/Kathmandu", "Australia/Lord_Howe", "Etc/GMT+5",
         "US/Pacific", "Japan", "eire", "Africa/Casablanca", "America/Argentina/Buenos_Aires",
         "EST5EDT", "xyz5", "xyz-3:30", "xyz5abc4", "Nowhere/At_All", "posix/Europe/Paris",
         "Asia/Tehran", "Pacific/Apia", "dst", "EST dst", "Europe/Moscow", "UTC+5", "lmt"]
DATE_ALPHABET = "0123456789-/.:+ ,TZtzjymdhsJ()_apmbc\t"


def year_of(rng):
    return rng.choice((f"{rng.randint(1900, 2100)}", f"{rng.randint(1900, 2100)}",
                       f"{rng.randint(1, 9999):04}", f"{rng.randint(0, 99):02}",
                       f"{rng.randint(1, 999)}", f"{rng.randint(10000, 300000)}",
                       f"{rng.randint(294270, 294280)}", f"{rng.randint(4700, 4720)}",
                       f"{rng.randint(5874890, 5874900)}", digits(rng, 9)))


def month_of(rng):
    return rng.choice((f"{rng.randint(1, 12):02}", str(rng.randint(0, 13))))


def day_of(rng):
    return rng.choice((f"{rng.randint(1, 28):02}", str(rng.randint(0, 32))))


def date_text(rng):
    y, m, d = year_of(rng), month_of(rng), day_of(rng)
    name = rng.choice(MONTHS)
    sep = rng.choice("-/.--- ")
    return rng.choice((
        f"{y}-{m}-{d}", f"{y}-{m}-{d}", f"{y}-{m}-{d}", f"{m}/{d}/{y}", f"{y}{sep}{m}{sep}{d}",
        f"{m}{sep}{d}{sep}{y}", f"{d}{sep}{name}{sep}{y}", f"{name}{sep}{d}{sep}{y}",
        f"{y}{sep}{name}{sep}{d}", f"{name} {d}, {y}", f"{d} {name} {y}", f"{y} {name} {d}",
        f"{y}{m:0>2}{d:0>2}", f"{y[-2:]}{m:0>2}{d:0>2}", f"{y}.{rng.randint(0, 367):03}",
        f"{y}-{rng.randint(0, 367):03}", f"{y}{rng.randint(1, 366):03}",
        f"J{rng.randint(0, 3000000)}", f"j {digits(rng, 10)}", f"julian {digits(rng, 7)}.{digits(rng, 6)}",
        f"y{y}m{m}d{d}", f"y {y} m {m} d {d}", f"{rng.choice(DAYS)} {name} {d} {y}",
        f"{rng.choice(DAYS)}, {d}-{name}-{y}", f"{name} {d}"))


def time_text(rng):
    h, m, s = (f"{rng.randint(0, 23):02}", f"{rng.randint(0, 59):02}", f"{rng.randint(0, 59):02}")
    odd = rng.random() < 0.1
    if odd:
        h, m, s = rng.choice(("24", "25", h)), rng.choice(("00", "60", m)), rng.choice(("00", "60", "61"))
    fraction = rng.choice(("", "", "." + digits(rng, 3), "." + digits(rng, 6), "." + digits(rng, 9),
                           "." + digits(rng, 12), ".999999" + digits(rng, 3), ".", ".0000005",
                           f".{rng.randint(0, 999999):06}5"))
    text = rng.choice((f"{h}:{m}:{s}{fraction}",) * 4 + (
        f"{h}:{m}", f"{int(h)}:{int(m)}", f"{h}{m}{s}{fraction}", f"{h}{m}", f"{m}:{s}{fraction}",
        f"h{h} mm{m} s{s}{fraction}", f"h {h} m {m} s {s}", "allballs"))
    return text + rng.choice(("",) * 6 + (" am", " pm", "PM", " AM"))


def zone_text(rng):
    h, m, s = rng.randint(0, 16), rng.randint(0, 61), rng.randint(0, 61)
    sign = rng.choice("+-")
    return rng.choice(("Z", "+00", "+00:00", f"{sign}{h:02}", f"{sign}{h}", f"{sign}{h:02}:{m:02}",
                       f"{sign}{h:02}{m:02}", f"{sign}{h:02}:{m:02}:{s:02}", f" {sign}{h}:{m}",
                       " " + rng.choice(ZONES), " " + rng.choice(ZONES), f"{sign} {h}",
                       rng.choice(ZONES)))


def make_timestamp(rng):
    kind = rng.randrange(10)
    date, time, zone = date_text(rng), time_text(rng), zone_text(rng)
    era = rng.choice(("",) * 8 + (" BC", " AD", "bc", " bc"))
    if kind == 0:
        return date + era
    if kind == 1:
        return date + rng.choice((zone, " " + zone)) + era
    if kind == 2:
        return rng.choice((f"{time} {date}{zone}", f"{date} {zone} {time}", f"{date}{era} {time}{zone}",
                           f"{date} at {time}{zone}", f"on {date} {time}", time + zone))
    if kind == 3:
        word = rng.choice(("epoch", "infinity", "-infinity", "+infinity", "Epoch", " INFINITY "))
        return rng.choice((word, word, f"{word} {time}", f"{date} {word}", f"{word}{era}"))
    sep = rng.choice(("T", " ", " ", "  ", "t", ""))
    return f"{date}{sep}{time}{zone}{era}"


def make_usual(rng):
    """The form that is read without the grammar, and what lies next to it."""
    date = f"{rng.choice((0, 1, 1999, 2000, 2024, 9999)):04}-{rng.randint(0, 13):02}-{rng.randint(0, 32):02}"
    clock = f"{rng.randint(0, 24):02}:{rng.randint(0, 60):02}:{rng.randint(0, 61):02}"
    fraction = "." + digits(rng, 10) if rng.random() < 0.7 else ""
    return date + rng.choice("TTT t") + clock + fraction + rng.choice(("Z", "Z", "+00", "+00:00", "z"))


FIXED_DATES = (
    "", " ", "epoch", "infinity", "-infinity", "- infinity", "+infinity", "epoch epoch",
    "epoch 2024-01-01", "infinity bc", "1999-01-08", "January 8, 1999", "1/8/1999", "1/18/1999",
    "18/1/1999", "01/02/03", "1999-Jan-08", "Jan-08-1999", "08-Jan-1999", "99-Jan-08", "08-Jan-99",
    "Jan-08-99", "19990108", "990108", "1999.008", "J2451187", "J2451187.5", "J2451187+05",
    "January 8, 99 BC", "4714-11-24 BC", "4714-11-23 BC", "4713-01-01 BC", "0001-01-01 BC",
    "0000-01-01", "294276-12-31 23:59:59.999999", "294276-12-31 23:59:59.9999999",
    "294277-01-01", "294276-12-31 24:00:00", "5874897-12-31", "5874898-01-01", "2024-02-29",
    "2023-02-29", "1900-02-29", "2000-02-29", "2024-02-29 23:59:60", "2024-02-29 24:00:00",
    "2024-02-29 24:00:01", "2024-02-29 23:59:60.5", "1999-12-31 24:00:00", "2024-01-01 10:00:00.",
    "2024-01-01 10::5", "2024-01-01 10:", "2024-01-01 996161", "2024-01-01 h 30", "2024-01-01 y",
    "2024-01-01 h 2000000000", "y2001m02d04", "y2001m02d04t040506", "20010203T040506-08",
    "20010203T040506.789", "20010203 040506-0830", "2024-01-01 xyz5abc", "2024-06-01 xyz5abc",
    "0500-06-01 xyz5abc", "2024-01-01 us/../us/eastern", "2024-01-01 ../../etc/passwd",
    "2024-01-01 us//eastern", "2024-01-01 EST dst", "2024-01-01 dst", "2024-07-01 Europe/Berlin dst",
    "2024-03-31 02:30 Europe/Berlin", "2024-10-27 02:30 Europe/Berlin", "2500-07-01 Europe/Berlin",
    "2014-10-26 01:30 Europe/Moscow", "2014-10-26 01:30 MSK", "1985-06-01 MSK", "2011-06-01 MSK",
    "1800-01-01 Europe/Berlin", "1945-05-24 02:30 Europe/Berlin", "2040-07-01 Europe/Dublin",
    "2010-12-31 Pacific/Apia", "2011-12-30 10:00 Pacific/Apia", "20000000.001", "2147478849-001",
    "2147483647-001", "4813-292 BC",
    "99999999999999990101", "2024-01-01 10:00+15:59:59", "2024-01-01 10:00+16", "2-1jan2",
    "2024-jan8-x", "2024-W01-1", "2024-01-01T", "2024-01-01T10:00:00Z", "2024-01-01 10:00 J",
    "2024-01-01 10:00 +05 dst", "1" * 128, "1" * 129, "1" * 152, "1" * 153, "1 " * 25, "1 " * 26,
    "2024-01-01" + " " * 300, "2024-01-01 10:00:00." + "0" * 100 + "1",
    "2024-01-01 10:00:00." + "1" * 118, "2024-01-01 10:00:00." + "1" * 140)


@pytest.mark.parametrize("name", ["date", "timestamptz"])
def test_date_casts_as_the_server(server, probe, name):
    inputs = generated(name, make_timestamp, DATE_ALPHABET, 20000, FIXED_DATES)
    inputs += generated(f"{name} usual", make_usual, DATE_ALPHABET, 6000)
    inputs = [x for x in inputs if not PRESENT.search(x)]
    both_happen(check_casts(server, probe, name, inputs), inputs)


POSIX_ZONES = ["<+03>-3", "XYZ-3:30:15", "EST5EDT,M3.2.0,M11.1.0", "abc3def", "<-0430>4:30", "foo+5", "bar-25",
               "GMT-2", "EST+5", "A5", "AB5", "ABC167", "ABC5ABD4,J60/2,J300/2", "abc+24:59:59", "WET0WEST"]
WORDS = ("BC AD am pm T t J y m d h mm s at on dst epoch infinity -infinity inf julian jd week isoyear dow Z allballs "
         "invalid current undefined noon midnight").split()


def make_soup(rng):
    """Parts of dates, times and zones in any number and order: what no grammar would put together."""
    text = ""
    for _ in range(rng.randint(1, 6)):
        text += rng.choice((
            rng.choice(MONTHS), rng.choice(DAYS), rng.choice(ZONES), rng.choice(POSIX_ZONES), rng.choice(WORDS),
            year_of(rng), month_of(rng), day_of(rng), date_text(rng), time_text(rng), zone_text(rng), digits(rng, 9),
            f"{rng.randint(0, 24)}:{rng.randint(0, 60)}", f"{rng.randint(0, 2460000)}.{rng.randint(0, 400)}",
            f"T{rng.randint(0, 24):02}{rng.randint(0, 60):02}{rng.randint(0, 60):02}.{digits(rng, 7)}",
            f"{rng.choice('+-')}{rng.randint(0, 17)}", f"J{rng.randint(0, 2500000)}"))
        text += rng.choice((" ", " ", " ", " ", "", "-", "/", ".", ",", ":", "T", "\t"))
    return text


@pytest.mark.parametrize("name", ["date", "timestamptz"])
def test_parts_of_dates_in_any_order_cast_as_the_server(server, probe, name):
    inputs = [x for x in generated(f"{name} soup", make_soup, DATE_ALPHABET, 8000) if not PRESENT.search(x)]
    assert check_casts(server, probe, name, inputs) > len(inputs) / 100


@pytest.mark.parametrize("word", ["now", "today", "tomorrow", "yesterday"])
def test_words_that_mean_the_present_are_refused(server, probe, word):
    """The one difference by design: the server takes them."""
    assert server.execute("SELECT timestamptz_in(%s, 0, -1)", (word,)).fetchone()[0] is not None
    lines = [f"{name}\t{hexed(text)}" for name in ("date", "timestamptz")
             for text in (word, word.upper(), f" {word} 10:00", f"{word}+05")]
    assert probe(lines) == ["error"] * len(lines)


def test_every_zone_and_abbreviation_of_the_server(server, probe):
    names = [r[0] for r in server.execute("SELECT name FROM pg_timezone_names ORDER BY 1")]
    names += [r[0] for r in server.execute("SELECT abbrev FROM pg_timezone_abbrevs ORDER BY 1")]
    assert len(names) > 700
    rng = random.Random(f"{SEED} zones")
    inputs = [f"{y}-{rng.randint(1, 12)}-{rng.randint(1, 28)} {rng.randint(0, 23)}:30 {name}"
              for name in names
              for y in (1880, rng.randint(1900, 1970), rng.randint(1970, 2030), 2037, 2038, 2399)]
    check_casts(server, probe, "timestamptz", inputs)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe",
                                  "Asia/Kathmandu", "America/Argentina/Buenos_Aires"])
def test_dates_without_zone_are_read_in_the_given_one(server, probe, zone):
    rng = random.Random(f"{SEED} {zone}")
    inputs = []
    for _ in range(int(3000 * SCALE)):
        inputs.append(f"{rng.choice((rng.randint(1850, 2100), rng.randint(1, 9999))):04}-"
                      f"{rng.randint(1, 12):02}-{rng.randint(1, 28):02} "
                      f"{rng.randint(0, 4):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}")
    server.execute(f"SET timezone = '{zone}'")
    try:
        theirs = [r[0] for r in server.execute("SELECT cast_timestamptz(%s::bytea[])",
                                               ([x.encode() for x in inputs],))]
    finally:
        server.execute("SET timezone = 'UTC'")
    ours = probe([f"timestamptz\t{hexed(x)}" for x in inputs], zone)

    def binary(answers):
        return [a.rsplit("\t", 1)[0] for a in answers]
    assert agree(binary(theirs), binary(ours), inputs) == len(inputs)


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


def good_moment(rng, timed):
    if rng.random() < 0.1:
        return rng.choice(("infinity", "-infinity", "epoch"))
    clock = f" {rng.randint(0, 23)}:00:00.{rng.randint(0, 999999):06}+00" if timed else ""
    year = rng.choice((rng.randint(1999, 2001), rng.randint(1, 4000), rng.randint(10000, 290000)))
    return f"{year:04}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}{clock}" + rng.choice(
        ("", "", " BC" if year < 4700 else ""))


GOOD = {"bool": lambda rng: rng.choice("tf"), "int2": good_integer(16), "int4": good_integer(32),
        "int8": good_integer(64), "numeric": good_numeric, "text": random_text,
        "varchar": random_text, "uuid": lambda rng: f"{rng.getrandbits(128):032x}",
        "date": lambda rng: good_moment(rng, False), "timestamptz": lambda rng: good_moment(rng, True)}


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


# Equal, though written or kept in more than one way.
ALIKE = {"numeric": ("1", "1.0", "1.00", "0", "-0.0", "NaN", "Infinity", "1e2", "100", "10000", "1e4"),
         "timestamptz": ("2024-01-01", "2024-01-01 01:00+01", "2023-12-31 19:00 EST", "infinity", "-infinity"),
         "uuid": (f"{1:032x}", f"{{{1:032x}}}", "00000000-0000-0000-0000-000000000001", f"{2:032x}"),
         "bool": ("t", "yes", "0", "off"), "int8": ("1", "+1", " 01 "), "date": ("2024-01-01", "20240101", "infinity")}


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
        if name in ALIKE and rng.random() < 0.5:
            pool = [*ALIKE[name], None]
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
