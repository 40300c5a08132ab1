"""What a reader of the spool may see (proto/FORMAT.md), for tests; and apply's word, in apply's place."""
import os
import struct
import subprocess
import sys
import tempfile

import lz4.block
import xxhash

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HEADER = struct.Struct(">QIBBHIIQQ")
SEGMENT, SCHEMAS, TRANSACTIONS, PIECE, PROGRESS = range(1, 6)
LZ4, FIRST, LAST = 1, 2, 4


def _messages():
    """change.proto's classes, generated into a folder that is gone at once."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["protoc", f"-I{ROOT}/proto", f"--python_out={folder}", "change.proto"], check=True)
        sys.path.insert(0, folder)
        try:
            import change_pb2  # pylint: disable=import-outside-toplevel,import-error
        finally:
            sys.path.remove(folder)
    return change_pb2


pb = _messages()


class Transaction:
    """end: commit end LSN; changes: (kind, relation or prefix, {column: value} or content)."""

    def __init__(self, head, changes):
        self.end, self.xid, self.commit_us, self.changes = head.end_lsn, head.xid, head.commit_us, changes

    def rows(self, relation=None):
        return [values for kind, name, values in self.changes
                if kind == "INSERT" and relation in (None, name)]


class Spool:
    """Everything that is whole in a spool's folder, now: transactions and progress positions."""

    def __init__(self, folder):
        self.transactions, self.progress, self.bytes = [], [], 0
        names = sorted(n for n in os.listdir(folder) if n.endswith(".seg")) if os.path.isdir(folder) else []
        starts = [(int(n[:8]), int(n[9:25], 16)) for n in names]
        for name, (generation, _) in zip(names, starts):
            later = [start for g, start in starts if g > generation]
            self.cut = min(later, default=2**64)
            try:
                with open(os.path.join(folder, name), "rb") as f:
                    self._segment(f.read())
            except FileNotFoundError:
                pass
        self.end = max([t.end for t in self.transactions] + self.progress, default=0)

    def _segment(self, data):
        self.bytes += len(data)
        at, salt, schemas, pieces = 0, 0, {}, b""
        while len(data) - at >= HEADER.size:
            check, magic, _, kind, flags, stored, raw, lsn, _ = HEADER.unpack_from(data, at)
            end = at + HEADER.size + stored
            if magic != 0x524C4631 or end > len(data) or \
                    xxhash.xxh3_64_intdigest(data[at + 8:end], seed=salt) != check:
                return
            payload = data[at + HEADER.size:end]
            if flags & LZ4:
                payload = lz4.block.decompress(payload, uncompressed_size=raw)
            at = end
            if kind == SEGMENT:
                salt = pb.Segment.FromString(payload).salt
            elif kind == SCHEMAS:
                schemas.update({s.hash: s for s in pb.Schemas.FromString(payload).schema})
            elif kind == PROGRESS and lsn <= self.cut:
                self.progress.append(lsn)
            elif kind == TRANSACTIONS:
                for t in pb.Transactions.FromString(payload).transaction:
                    self._transaction(t, schemas)
            elif kind == PIECE:
                pieces = payload if flags & FIRST else pieces + payload
                if flags & LAST:
                    self._transaction(pb.Transaction.FromString(pieces), schemas)

    def _transaction(self, t, schemas):
        if t.head.end_lsn > self.cut:
            return
        changes = []
        for c in t.change:
            kind = pb.Change.Kind.Name(c.kind)
            if kind == "MESSAGE":
                changes.append((kind, c.prefix.decode(), c.content))
            elif kind == "TRUNCATE":
                changes.append((kind, ",".join(schemas[h].relname.decode() for h in c.truncated), c.truncate_flags))
            else:
                schema = schemas[c.schema]
                changes.append((kind, schema.relname.decode(), _values(schema, c.new_row)))
        self.transactions.append(Transaction(t.head, changes))


def _values(schema, row):
    """Column → (kind, bytes)."""
    assert len(row.kinds) == len(schema.column)
    lengths, at, values = iter(row.lengths), 0, {}
    for column, kind in zip(schema.column, row.kinds.decode()):
        size = next(lengths) if kind in "tb" else 0
        values[column.name.decode()] = (kind, row.data[at:at + size])
        at += size
    assert at == len(row.data)
    return values


def write_applied(folder, lsn, timeline=1, sequence=[0]):  # pylint: disable=dangerous-default-value
    """Says, as apply would, that the warehouse holds everything up to lsn."""
    sequence[0] += 1
    body = struct.pack(">IIQQIIq", 0x524C4150, 1, sequence[0], lsn, timeline, 0, 0)
    fd = os.open(os.path.join(folder, "applied"), os.O_WRONLY | os.O_CREAT, 0o600)
    os.pwrite(fd, struct.pack(">Q", xxhash.xxh3_64_intdigest(body)) + body, 512 * (sequence[0] % 2))
    os.close(fd)
