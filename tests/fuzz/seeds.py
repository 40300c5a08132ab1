#!/usr/bin/python3
"""Writes seeds for the fuzz targets into build/fuzz/seeds/NAME, from what the repository has: recorded
pgoutput messages, fold cases, the Lana pack, configurations, and a spool that spool_probe writes.

tests/fuzz/corpus holds these minimised (libFuzzer's -merge=1) and, beside them, what fuzzing found.
"""
import glob
import hashlib
import os
import struct
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "system"))
os.chdir(ROOT)

import spool_peek as peek  # noqa: E402  pylint: disable=wrong-import-position

TYPES = ["bool", "int2", "int4", "int8", "numeric", "text", "varchar", "uuid", "date", "timestamptz", "jsonb"]
OIDS = [16, 21, 23, 20, 1700, 25, 1043, 2950, 1082, 1184, 3802]
TEXTS = {
    "bool": ["t", "false", " YES ", "0"],
    "int2": ["-32768", " 12 "], "int4": ["2147483647", "-1"], "int8": ["-9223372036854775808", "+5"],
    "numeric": ["0", "-12345.678900", "1e10", "NaN", "Infinity", "-inf", ".5", "1E-20", "99999999999999999999"],
    "text": ["", "ä€𝄞"], "varchar": ["x"],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "{a0eebc999c0b4ef8bb6d6bb9bd380a11}"],
    "date": ["2024-02-29", "January 8, 1999", "J2451187", "1999.008", "19990108", "0044-03-15 BC", "epoch",
             "infinity", "2/29/24", "08-Jan-99"],
    "timestamptz": ["2024-02-29 12:00:00.123456+05:30", "2024-07-01T00:00:00Z", "1999-01-08 04:05:06 PST",
                    "20240229T120000-03", "Jan 8 04:05:06.789 1999 America/New_York", "-infinity", "epoch",
                    "2024-01-08 04:05 PM", "4714-11-24 00:00:00+00 BC", "294276-12-31 23:59:59.999999 UTC",
                    "1999-01-08 allballs", "J2451187.5 UTC"],
}
JSONS = [
    '{"type": "initialized", "amount": 100, "note": null, "list": [1, -0.50, 1e3, true, false]}',
    '{"b": {"c": [[], {}, ""]}, "a": "\\u00e9\\ud834\\udd1e\\"\\\\\\n"}', ' [ 1.0 , "ä€𝄞" , {"k":1,"k":2} ] ',
    '"\\b\\f\\t\\r\\/"', "-1E-7", "null", "12345678901234567890.123",
]


def seed(target, data):
    folder = os.path.join("build", "fuzz", "seeds", target)
    os.makedirs(folder, exist_ok=True)
    data = data if isinstance(data, bytes) else data.encode()
    with open(os.path.join(folder, hashlib.sha1(data).hexdigest()[:12]), "wb") as f:
        f.write(data)


def piece(data):
    data = data if isinstance(data, bytes) else data.encode()
    return struct.pack(">H", len(data)) + data


def pgoutput():
    for name in ("text", "binary"):
        with open(f"tests/data/pgoutput/{name}.hex", encoding="ascii") as f:
            messages = [bytes.fromhex(line.split()[1]) for line in f]
        kept = [m for m in messages if len(m) < 2000]
        relations = [m for m in kept if m[:1] == b"R"]
        for m in kept:
            same = [r for r in relations if m[:1] in b"IUD" and r[1:5] == m[1:5]][-1:]
            seed("pgoutput", b"".join(piece(p) for p in same + [m]))


def spool():
    script = """open 100 100000 150
begin 108 7 1700000000000000
insert 107 b:00 t:616263 n
update 107 K b:00 n n b:00 u t:3132
update 107 O b:00 n n b:00 t:61 t:33
delete 107 K b:00 n n
message 107 1 rolag.heartbeat 00ff
truncate 107 3
commit 110 1700000000000001
progress 120
message 125 0 other 01
begin 128 8 1700000000000000
shape 1
%s
commit 130 1700000000000002
sync
close
""" % "\n".join(f"insert 127 b:{i:02x} t:{'61' * 90} n" for i in range(5))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["build/asan/tests/spool_probe", folder], input=script.encode(), check=True)
        with open(glob.glob(folder + "/*.seg")[0], "rb") as f:
            data = f.read()
    out, at, last = b"", 0, 0x100
    while at < len(data):
        header = peek.HEADER.unpack_from(data, at)
        kind, flags, stored, raw, lsn = header[3:8]
        frame = data[at:at + 40 + stored]
        payload = frame[40:]
        if flags & peek.LZ4:
            payload = peek.lz4.block.decompress(payload, uncompressed_size=raw)
        seed("frame", frame)
        if kind == peek.SEGMENT:
            seed("record", b"\x02" + payload)
        else:
            seed("record", b"\x00" + payload)
            for schema in peek.pb.Schemas.FromString(payload).schema if kind == peek.SCHEMAS else []:
                seed("record", b"\x01" + schema.SerializeToString())
            out += struct.pack(">BBB", kind, flags & ~1 & 0xFF, max(lsn - last, 0)) + piece(payload)
            last = max(last, lsn)
            seed("spool", out)
        at += 40 + stored
    seed("spool", out + b"\xff" + data[-30:])
    small = peek.pb.Transaction()
    for kind in ("INSERT", "UPDATE", "DELETE"):
        change = small.change.add(kind=kind, lsn=1, schema=3, old_kind=75)
        for row in (change.new_row, change.old_row):
            row.kinds, row.data = b"tnb", b"abc"
            row.lengths.extend([1, 2])
    seed("record", b"\x00" + small.SerializeToString())


def yaml():
    for path in glob.glob("transforms/lana/rollups/*.yaml"):
        with open(path, "rb") as f:
            seed("rollup", f.read())
    for path in glob.glob("deploy/*.yaml"):
        with open(path, "rb") as f:
            seed("config", f.read())
    with open("transforms/lana/reports.yaml", encoding="utf-8") as f:
        head, *reports = f.read().split("\n  - id: ")
    for report in reports:
        seed("reports", head + "\n  - id: " + report)
    kinds = ["{name: a, type: text, max_length: 3, min_length: 1, overflow: cut_left, space: collapse, pattern: 'a+'}",
             "{name: a, type: text, enum: [x, ''], nillable: true}", "{name: a, type: int, min: -1, max: 9}",
             "{name: a, type: date, format: compact, min: 2000-01-01}", "{name: a, type: timestamp}",
             "{name: a, type: boolean}", "{name: a, type: json}", "{name: a, type: short}",
             "{name: a, type: decimal, digits: 5, fraction: 2, zeros: trim, max: 99.5}"]
    for kind in kinds:
        seed("reports", "language: 1\nreports:\n  - id: n/a\n    name: a\n    title: t\n    model: m\n    formats: [csv, txt, xml]\n"
             "    order: [a]\n    xml: {schema: s, namespace: urn:n, root: r, row: w, min_rows: 1}\n    columns:\n      - " + kind + "\n")
    head = "pipeline: lana\nstate_dir: /var/lib/rolag\n"
    seed("config", head + "core: {connect: a}\nwarehouse: {connect: b, schema: raw}\nrollups: {path: r, land: [a, b]}\n")
    seed("config", head + "core:\n  connect: a\n  slot: s\nwarehouse:\n  connect: b\nspool:\n  quota: 10 GB\n"
         "  retain: 1 d\ncapture:\n  heartbeat_interval: 500 ms\n  binary: off\napply:\n  batch_rows: 10\n"
         "log:\n  level: debug\n  format: json\n")


def fold():
    for path in glob.glob("tests/data/fold/*.fold"):
        with open(path, encoding="utf-8") as f:
            cases = f.read().split("\n== ")
        for case in cases:
            definition, _, rest = case.partition("\n-- events\n")
            definition = definition.partition("\n")[2]
            if "language:" not in definition:
                definition = "language: 1\nrollup: t\nsource: public.t\n" + definition
            seed("rollup", definition)
            events = [e.split(" ", 2)[1:] for e in rest.partition("\n-- rows\n")[0].split("\n") if e.count(" ") > 1]
            seed("fold", piece(definition) + b"".join(piece(p) for e in events for p in e))
            for e in events:
                seed("json", e[1])


def values():
    for text in JSONS:
        seed("json", text)
        seed("binary", bytes([10, 1]) + text.encode())
    for i, name in enumerate(TYPES):
        lines = "".join(f"{name}\t{t.encode().hex()}\n" for t in TEXTS.get(name, []))
        done = subprocess.run(["build/asan/tests/cast_probe"], input=lines, text=True, capture_output=True, check=True)
        array = struct.pack(">iiI", 0, 0, OIDS[i])
        binaries = [bytes.fromhex(line.split("\t")[1]) for line in done.stdout.splitlines() if line.startswith("ok")]
        for text in TEXTS.get(name, []):
            seed("cast", bytes([i]) + text.encode())
            seed("cast", bytes([i | 0x80]) + text.encode())
        for b in binaries:
            seed("binary", bytes([i]) + b)
        seed("binary", bytes([i | 0x80]) + array)
        if binaries:
            items = [struct.pack(">i", len(b)) + b for b in binaries[:2]] + [struct.pack(">i", -1)]
            array = struct.pack(">iiIii", 1, 1, OIDS[i], len(items), 1) + b"".join(items)
            seed("binary", bytes([i | 0x80]) + array)


def field(data):
    return struct.pack(">i", -1) if data is None else struct.pack(">i", len(data)) + data


def copy(rows):
    """COPY … TO STDOUT (FORMAT binary) as the server sends it: the header with the first row, then a row a message."""
    header, trailer = b"PGCOPY\n\xff\r\n\0" + bytes(8), struct.pack(">h", -1)
    made = [struct.pack(">h", len(row)) + b"".join(map(field, row)) for row in rows]
    messages = [header + made[0], *made[1:], trailer] if made else [header, trailer]
    return b"".join(map(piece, messages)) + piece(b"")


def verify():
    """Lives of entities as the core has them, and as they landed, in chunks of 1 to 4."""
    ids = [[bytes([n]) * 16 for n in range(1, 4)], [b"ab", b"ac", b"b"], [struct.pack(">q", n) for n in (-1, 7, 8)]]
    at = [struct.pack(">q", n) for n in range(5)]
    payload = [b'\x01{"n": 5, "s": "x", "at": "2024-01-01"}', b'\x01{"n": 6, "tag": "t"}', b'\x01{"n": 7}', b'\x01{"n": "x"}']
    for kind, names in enumerate(ids):
        life = [(i, v) for i in names for v in (1, 2, 3)]
        events = [(i, struct.pack(">i", v), b"made" if v == 1 else b"grew", payload[v - 1], at[v]) for i, v in life]
        poison = [*events[:4], (names[1], struct.pack(">i", 2), b"grew", payload[3], at[2]), *events[5:]]
        tags = struct.pack(">iiIii", 1, 0, 25, 1, 1) + field(b"t")
        none = struct.pack(">iiI", 0, 0, 25)
        landed = [(i, struct.pack(">i", v), at[1], at[v], b"made" if v == 1 else b"grew", struct.pack(">i", 4 + v), b"x",
                   struct.pack(">q", 757382400000000), none if v == 1 else tags, struct.pack(">q", v - 1)) for i, v in life]
        for chunk in range(4):
            for there in (events, poison):
                chunks = [copy(there[n:n + chunk + 1]) for n in range(0, 9, chunk + 1)]
                here = [copy(landed[n:n + chunk + 1]) for n in range(0, 9, chunk + 1)]
                seed("verify", bytes([kind | chunk << 2]) + piece(b"".join(chunks)) + b"".join(here))
        seed("verify", bytes([kind | 16]) + piece(copy(events[:3])) + copy(landed[:3]))
        seed("verify", bytes([kind]) + piece(copy([])) + copy([]))


def http():
    for body in ('{}', '{"reports": ["nrp_1/01_roles", "other/empty"], "as_of": "2026-01-31"}',
                 '{"reports": null, "as_of": null, "allow_stale": true, "accept_quarantine": false}',
                 '{"reports": ["\\u00e4/\\ud834\\udd1e"], "allow_stale": null}', '{"report": 1}', '[1]', '{"as_of": 1}'):
        seed("http", b"\0" + body.encode())
    pairs = [("state", "failed"), ("client_state", "success"), ("type", "scheduled"), ("report", "nrp_1/01_roles"),
             ("from", "2026-01-31"), ("to", "2026-02-28T23:59:59.25Z"), ("limit", "200"), ("cursor", "9")]
    for chosen in ([], pairs, [("order", "")], *([p] for p in pairs)):
        seed("http", b"\1" + b"".join(piece(k) + piece(v) for k, v in chosen))
    run = "/api/v1/report-runs"
    for path in ("/", "/healthz", run, run + "/00000000-0000-4000-8000-0123456789ab", run + "/x/manifest",
                 run + "/x/files/nrp_1/roles.csv", run + "/x/files/../../etc", "/api/v1/reports"):
        seed("http", b"\2" + path.encode())
    digest = hashlib.sha256(b"").hexdigest()
    for text in ("", "# nobody\n", f"ops reports:read {digest}\n\n ci\treports:run,reports:read\t{digest}\r\n",
                 f"a reports:read {digest}\na reports:run {digest}", "b reports:write x", "c"):
        seed("http", b"\3" + text.encode())
    for address in ("8321", "127.0.0.1:80", "[::1]:443", "0.0.0.0:65535", "[::", "x:1"):
        seed("http", b"\4" + address.encode())


def models():
    """Models and seeds of the pack, as far as they are small."""
    for target, pattern in (("model", "transforms/*/models/**/*.sql"), ("csv", "transforms/*/seeds/*.csv")):
        for path in glob.glob(pattern, recursive=True):
            with open(path, "rb") as f:
                seed(target, f.read(4000))


pgoutput()
spool()
models()
yaml()
fold()
values()
verify()
http()
