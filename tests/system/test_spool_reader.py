"""An independent reader of the spool.

Written from proto/FORMAT.md and proto/change.proto alone (protoc's Python, lz4, xxhash; nothing of
rolag's code), it must find in a spool exactly what was put in and exactly what `rolag spool dump`
finds. So the files can be read without us, and FORMAT.md says what the code does.
"""
import datetime
import importlib.util
import pathlib
import random
import re
import struct
import subprocess

import lz4.block
import pytest
import xxhash
from program import build

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADER = struct.Struct(">QIBBHIIQQ")
MAGIC = 0x524C4631
SEGMENT, SCHEMAS, TRANSACTIONS, PIECE, PROGRESS = 1, 2, 3, 4, 5
LZ4, FIRST, LAST, SKIPPABLE = 1, 2, 4, 0x8000
NAME = re.compile(r"([0-9A-F]{8})-([0-9A-F]{16})\.seg")


@pytest.fixture(scope="module")
def pb(tmp_path_factory):
    out = tmp_path_factory.mktemp("pb")
    subprocess.run(["protoc", f"--proto_path={ROOT / 'proto'}", f"--python_out={out}", "change.proto"],
                   check=True)
    spec = importlib.util.spec_from_file_location("change_pb2", out / "change_pb2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def programs():
    build("build/asan/tests/spool_probe", "build/asan/rolag")
    return ROOT / "build/asan/tests/spool_probe", ROOT / "build/asan/rolag"


# ---- the reader ----

class Damaged(Exception):
    pass


def frames(data, salt):
    """(kind, flags, lsn, payload) of each valid frame; the last item is the offset where they end."""
    at = 0
    while True:
        if len(data) - at < HEADER.size:
            break
        checksum, magic, version, kind, flags, stored, raw, lsn, _synced = HEADER.unpack_from(data, at)
        end = at + HEADER.size + stored
        if magic != MAGIC or end > len(data):
            break
        if checksum != xxhash.xxh3_64_intdigest(data[at + 8:end], seed=salt if at else 0):
            break
        assert version == 1
        payload = data[at + HEADER.size:end]
        if flags & LZ4:
            payload = lz4.block.decompress(payload, uncompressed_size=raw)
        assert len(payload) == raw
        yield kind, flags, lsn, payload
        at = end
    yield at


def first_frame(data, pb):
    kind, _, _, payload = next(frames(data, 0))
    assert kind == SEGMENT
    return pb.Segment.FromString(payload)


def content_hash(s):
    out = struct.pack(">IB", s.relation_oid, s.identity) + s.nspname + b"\0" + s.relname + b"\0"
    out += struct.pack(">H", len(s.column))
    for c in s.column:
        out += c.name + b"\0" + struct.pack(">BIi", c.key, c.type_oid, c.typmod)
    return xxhash.xxh3_64_intdigest(out)


def segments(directory):
    """(generation, start, cut, path) in reading order, void ones left out."""
    found = []
    for path in directory.iterdir():
        m = NAME.fullmatch(path.name)
        if m:
            found.append((int(m[1], 16), int(m[2], 16), path))
    found.sort()
    for generation, start, path in found:
        cut = min((s for g, s, _ in found if g > generation), default=1 << 64)
        if start < cut:
            yield generation, start, cut, path


def read_segment(data, pb, cut):
    """Items of one segment: a progress's lsn, or a whole Transaction with its schemas."""
    head = first_frame(data, pb)
    schemas, pieces, reached = {}, None, head.start_lsn
    for item in frames(data, head.salt):
        if isinstance(item, int):
            yield "end", item, reached
            return
        kind, flags, lsn, payload = item
        if kind not in (SEGMENT, SCHEMAS, TRANSACTIONS, PIECE, PROGRESS):
            assert flags & SKIPPABLE
            continue
        if kind in (TRANSACTIONS, PROGRESS):
            pieces = None
        if lsn:
            reached = lsn
        if kind == SCHEMAS:
            for s in pb.Schemas.FromString(payload).schema:
                assert s.hash == content_hash(s)
                schemas[s.hash] = s
        elif kind == PROGRESS and lsn <= cut:
            yield "progress", lsn, None
        elif kind == TRANSACTIONS:
            for t in pb.Transactions.FromString(payload).transaction:
                if t.head.outside and t.change[0].lsn < cut or 0 < t.head.end_lsn <= cut:
                    yield "transaction", t, schemas
        elif kind == PIECE:
            if flags & FIRST:
                pieces = b""
            pieces += payload
            if flags & LAST:
                t = pb.Transaction.FromString(pieces)
                pieces = None
                if t.head.end_lsn == lsn <= cut:
                    yield "transaction", t, schemas


def read_spool(directory, pb):
    """All progress and transactions that are in force, in order."""
    reached, last_generation = None, None
    for generation, start, cut, path in segments(directory):
        gap_from = first_frame(path.read_bytes(), pb).gap_from_lsn
        if reached is not None:
            if generation == last_generation and start != reached:
                raise Damaged(path)
            if start > reached and not 0 < gap_from <= reached:
                raise Damaged(path)
        if gap_from and (reached is None or start > reached):
            yield "gap", (gap_from, start), None
        for item in read_segment(path.read_bytes(), pb, cut):
            if item[0] == "end":
                reached = item[2]
            else:
                yield item
        last_generation = generation


# ---- the text of `rolag spool dump --values`, made from what was read ----

def lsn_text(v):
    return f"{v >> 32:X}/{v & 0xFFFFFFFF:X}"


def escape(b):
    return "".join("\\\\" if c == 0x5C else chr(c) if 0x20 < c < 0x7F else f"\\x{c:02x}" for c in b)


def time_text(us):
    t = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=us)
    return t.isoformat(timespec="microseconds") + "Z"


def values(prefix, schema, row):
    assert len(row.kinds) == len(schema.column)
    lengths, at, out = iter(row.lengths), 0, ""
    for column, kind in zip(schema.column, row.kinds.decode()):
        if kind in "tb":
            n = next(lengths)
            v = row.data[at:at + n]
            at += n
            text = f"{kind}:" + (escape(v) if kind == "t" else v.hex())
        else:
            text = {"n": "null", "u": "unchanged"}[kind]
        out += f" {prefix}{escape(column.name)}={text}"
    assert at == len(row.data) and next(lengths, None) is None
    return out


def relation(schema):
    return f" {escape(schema.nspname)}.{escape(schema.relname)}"


def change_text(c, schemas, pb):
    kind = pb.Change.Kind.Name(c.kind)
    lsn = f" lsn={lsn_text(c.lsn)}"
    if kind == "TRUNCATE":
        return (kind + "".join(relation(schemas[h]) for h in c.truncated) + lsn
                + (" cascade" if c.truncate_flags & 1 else "")
                + (" restart-identity" if c.truncate_flags & 2 else ""))
    if kind == "MESSAGE":
        return (f"{kind} {escape(c.prefix)}{lsn}" + ("" if c.transactional else " not-transactional")
                + f" content={escape(c.content)}")
    schema = schemas[c.schema]
    text = kind + relation(schema) + lsn
    if c.old_kind:
        text += values({"K": "key.", "O": "old."}[chr(c.old_kind)], schema, c.old_row)
    return text + (values("", schema, c.new_row) if c.HasField("new_row") else "")


def dump(directory, pb):
    out = []
    for what, item, schemas in read_spool(directory, pb):
        if what == "progress":
            out.append(f"PROGRESS {lsn_text(item)}")
            continue
        if what == "gap":
            out.append("GAP " + " ".join(lsn_text(v) for v in item))
            continue
        if not item.head.outside:
            out.append(f"BEGIN commit={lsn_text(item.head.commit_lsn)} xid={item.head.xid}"
                       f" at={time_text(item.head.commit_us)}")
        out += [change_text(c, schemas, pb) for c in item.change]
        if not item.head.outside:
            out.append(f"COMMIT end={lsn_text(item.head.end_lsn)}")
    return out


# ---- what is put in ----

class Script:
    """Commands for spool_probe, and beside them the dump that must come of them."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.commands = []
        self.expected = []  # (end, lines)
        self.shape = 0

    def value(self):
        kind = self.random.choice("ntttbbu")
        if kind in "nu":
            return kind, {"n": "null", "u": "unchanged"}[kind]
        n = self.random.choice([0, 1, 16, 40, 300])
        v = bytes(self.random.choice(b"aa \\\x00\xff\xc3\n") for _ in range(n))
        return f"{kind}:{v.hex()}", f"{kind}:" + (escape(v) if kind == "t" else v.hex())

    def row(self, prefix):
        commands, texts = zip(*(self.value() for _ in range(3)))
        names = ("id", "a\\x20name", "amount")
        return " ".join(commands), "".join(f" {prefix}{n}={t}" for n, t in zip(names, texts))

    def change(self, lsn):
        name = (" public.first", " Other\\xc3\\xa9.second")[self.shape]
        kind = self.random.choice(["insert"] * 6 + ["update", "delete", "truncate", "message", "shape"])
        at = f" lsn={lsn_text(lsn)}"
        if kind == "shape":
            self.shape = 1 - self.shape
            self.commands.append(f"shape {self.shape}")
            return []
        if kind == "insert":
            command, text = self.row("")
            self.commands.append(f"insert {lsn:X} {command}")
            return [f"INSERT{name}{at}{text}"]
        if kind == "truncate":
            flags = self.random.randrange(4)
            self.commands.append(f"truncate {lsn:X} {flags}")
            return [f"TRUNCATE public.first Other\\xc3\\xa9.second{at}" + (" cascade" if flags & 1 else "")
                    + (" restart-identity" if flags & 2 else "")]
        if kind == "message":
            self.commands.append(f"message {lsn:X} 1 rolag.heartbeat 3132")
            return [f"MESSAGE rolag.heartbeat{at} content=12"]
        old = self.random.choice("OK" if kind == "delete" else "OK-")
        parts, text = [], ""
        if old != "-":
            command, part = self.row({"O": "old.", "K": "key."}[old])
            parts.append(command)
            text += part
        if kind == "update":
            command, part = self.row("")
            parts.append(command)
            text += part
        self.commands.append(f"{kind} {lsn:X} {old} " + " ".join(parts))
        return [f"{kind.upper()}{name}{at}{text}"]

    def transaction(self, end, changes, abort=False):
        us = 1_763_800_000_000_000 + end
        self.commands.append(f"begin {end - 8:X} {end & 0xFFFF} {us}")
        lines = [f"BEGIN commit={lsn_text(end - 8)} xid={end & 0xFFFF} at={time_text(us)}"]
        for _ in range(changes):
            lines += self.change(end - 9)
        if abort:
            self.commands.append("abort")
            return
        self.commands.append(f"commit {end:X} {us}")
        self.expected.append((end, lines + [f"COMMIT end={lsn_text(end)}"]))

    def progress(self, end):
        self.commands.append(f"progress {end:X}")
        self.expected.append((end, [f"PROGRESS {lsn_text(end)}"]))

    def outside(self, lsn):
        self.commands.append(f"message {lsn:X} 0 alone 78")
        # It moves no position: a start at its LSN makes it come again.
        self.expected.append((lsn + 1, [f"MESSAGE alone lsn={lsn_text(lsn)} not-transactional content=x"]))

    def open(self, confirmed, segment, frame):
        """A writer's start: what ends beyond confirmed is void."""
        self.commands.append(f"open {confirmed:X} {segment} {frame}")
        self.expected = [e for e in self.expected if e[0] <= confirmed]

    def lose_slot(self, confirmed, segment, frame):
        """A start with a slot made anew, beyond all that is there."""
        self.commands.append(f"regain {confirmed:X} {segment} {frame}")
        self.expected.append((confirmed, [f"GAP {lsn_text(self.end())} {lsn_text(confirmed)}"]))

    def end(self):
        return max(end for end, lines in self.expected if not lines[0].startswith("MESSAGE"))

    def lines(self):
        return [line for _, lines in self.expected for line in lines]


def fill(script, start, steps):
    at = start
    for _ in range(steps):
        at += script.random.choice([0x10, 0x100, 0x123456780])
        what = script.random.random()
        if what < 0.08:
            script.progress(at)
        elif what < 0.12:
            script.outside(at)
        else:
            changes = script.random.choice([0, 1, 2, 5, 60])
            if what > 0.9:
                script.transaction(at, changes, abort=True)
            script.transaction(at, changes)
        if script.random.random() < 0.5:
            script.commands.append("sync")
    script.commands += ["sync", "close"]


def write(probe, directory, script):
    subprocess.run([probe, directory], input="\n".join(script.commands), text=True, check=True)


def rolag_dump(rolag, directory):
    out = subprocess.run([rolag, "spool", "dump", "--values", "--dir", directory], check=True,
                         capture_output=True, text=True).stdout
    return out.splitlines()


@pytest.mark.parametrize("seed", range(6))
def test_both_readers_find_what_was_put_in(seed, tmp_path, pb, programs):
    probe, rolag = programs
    script = Script(seed)
    starts = [0x1000]
    segment, frame = [(2000, 500), (100000, 3000), (1 << 26, 1 << 18)][seed % 3]
    for _ in range(1 + seed):
        confirmed = script.random.choice(starts)
        script.open(confirmed, segment, frame)
        fill(script, confirmed, 40)
        # Confirmed later: somewhere in what was written.
        starts = [end for end, lines in script.expected if not lines[0].startswith("MESSAGE")]
    write(probe, tmp_path, script)
    independent = dump(tmp_path, pb)
    assert independent == script.lines()
    assert rolag_dump(rolag, tmp_path) == independent
    if segment == 2000:
        assert len(list(segments(tmp_path))) > 5
    verify = subprocess.run([rolag, "spool", "verify", "--dir", tmp_path], capture_output=True,
                            text=True)
    assert verify.returncode == 0, verify.stdout
    assert "no findings" in verify.stdout


def test_both_readers_find_the_gap_that_a_lost_slot_leaves(tmp_path, pb, programs):
    script = Script(7)
    script.open(0x1000, 2000, 500)
    fill(script, 0x1000, 20)
    first = script.end()
    script.lose_slot(first + 0x5000, 2000, 500)
    fill(script, first + 0x5000, 20)
    script.open(script.end(), 2000, 500)
    fill(script, script.end(), 5)
    write(programs[0], tmp_path, script)
    found = dump(tmp_path, pb)
    assert found == script.lines() and sum(line.startswith("GAP") for line in found) == 1
    assert rolag_dump(programs[1], tmp_path) == found
    verify = subprocess.run([programs[1], "spool", "verify", "--dir", tmp_path], capture_output=True,
                            text=True)
    assert verify.returncode == 0 and "the slot was lost" in verify.stdout and "no findings" in verify.stdout


def test_segments_say_what_they_belong_to(tmp_path, pb, programs):
    script = Script(1)
    script.open(0x1000, 2000, 500)
    fill(script, 0x1000, 20)
    write(programs[0], tmp_path, script)
    salts = set()
    for generation, start, _, path in segments(tmp_path):
        head = first_frame(path.read_bytes(), pb)
        assert (head.generation, head.start_lsn) == (generation, start)
        assert (head.system_id, head.timeline) == (7312345678901234567, 3)
        assert (head.pipeline, head.slot) == (b"lana", b"rolag_lana")
        assert path.stat().st_mode & 0o777 == 0o600
        salts.add(head.salt)
    assert len(salts) == len(list(segments(tmp_path)))


def test_verify_finds_damage_and_dump_masks(tmp_path, pb, programs):
    probe, rolag = programs
    script = Script(2)
    script.open(0x1000, 2000, 500)
    script.transaction(0x1100, 0)
    script.commands.append("begin 1200 7 0")
    script.commands.append(f"insert 1201 t:{b'secret'.hex()} n b:00ff")
    script.commands += ["commit 1210 0", "sync"]
    fill(script, 0x2000, 20)
    write(probe, tmp_path, script)

    def run(*args):
        return subprocess.run([rolag, "spool", *args, "--dir", tmp_path], capture_output=True, text=True)

    masked = run("dump").stdout
    assert "INSERT public.first lsn=0/1201 id=t(6) a\\x20name=null amount=b(2)" in masked
    assert "secret" not in masked
    assert "id=t:secret" in run("dump", "--values").stdout
    assert "COMMIT end=0/1210" not in run("dump", "--from", "0/1210").stdout

    ls = run("ls").stdout
    assert "pipeline lana, slot rolag_lana, core 7312345678901234567, timeline 3" in ls
    names = [path.name for _, _, _, path in segments(tmp_path)]
    assert len(names) > 2 and all(name in ls for name in names)

    path = tmp_path / names[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = run("verify")
    assert found.returncode == 1
    assert names[1] in found.stdout and "finding" in found.stdout
    assert run("dump").returncode == 100

    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert run("verify").returncode == 0
    last = tmp_path / names[-1]
    last.write_bytes(last.read_bytes()[:-3])  # a torn tail is nothing to be afraid of
    torn = run("verify")
    assert torn.returncode == 0 and "note:" in torn.stdout
    path.unlink()
    missing = run("verify")
    assert missing.returncode == 1 and names[0] in missing.stdout


def test_command_line_mistakes_are_told(programs):
    for args in (["what"], [], ["dump", "--from", "x", "--dir", "."]):
        r = subprocess.run([programs[1], "spool", *args], capture_output=True, text=True)
        assert r.returncode == 2 and r.stderr.startswith("rolag spool: ")
