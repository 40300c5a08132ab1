#!/usr/bin/python3
"""Records what PostgreSQL's pgoutput says about a fixed set of changes.

    tests/data/pgoutput/record.py

writes, beside this file, text.hex and binary.hex (one message a line: LSN and bytes) and text.expect and
binary.expect (the same messages in words, by the small decoder below, which shares nothing with the
program's). tests/unit/test_pgoutput.c reads both. Needs no more than PostgreSQL and psycopg.
"""
import pathlib
import struct
import sys

import psycopg

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "deploy" / "demo"))
from cluster import Cluster  # noqa: E402  pylint: disable=wrong-import-position

SETUP = """
create type mood as enum ('calm', 'cross');
create domain positive as int check (value > 0);
create schema other;
create table events (id uuid not null, sequence int not null, event_type text, event jsonb,
    recorded_at timestamptz, unique (id, sequence));
create table plain (id bigint primary key, name varchar(20), big text, m mood, p positive,
    n numeric(12,2), tags text[]);
alter table plain alter big set storage external;
create table full_identity (a int, big text, b date);
alter table full_identity alter big set storage external;
alter table full_identity replica identity full;
create table by_index (a int not null, b text not null, c bool);
create unique index by_index_key on by_index (b, a);
alter table by_index replica identity using index by_index_key;
create table none (a int);
alter table none replica identity nothing;
create table other.parent (id int generated always as identity primary key, note text);
create table other.child (id int primary key, parent int references other.parent);
create table wide (id int primary key);
create publication p for table events, full_identity, by_index, plain, other.parent, other.child, wide;
create publication inserts for table none with (publish = 'insert');
"""

# Each entry is one transaction.
CHANGES = [
    ["insert into events values ('0198a3f0-0000-7000-8000-000000000001', 1, 'initialized',"
     " '{\"type\": \"initialized\", \"amount\": 100, \"note\": null}', '2024-02-29 12:00:00.123456+00')",
     "insert into events values ('0198a3f0-0000-7000-8000-000000000001', 2, 'settled', '{}', null)"],
    ["insert into plain values (1, 'Grüße', repeat('x', 9000), 'calm', 7, 12.50, '{a,NULL,\"b c\"}')"],
    ["update plain set name = 'other' where id = 1"],          # big is unchanged TOAST
    ["update plain set id = 2, m = 'cross' where id = 1"],     # K: the old key
    ["insert into plain values (3, '', null, null, null, 'NaN', '{}')", "delete from plain where id = 3"],
    ["insert into full_identity values (1, repeat('y', 9000), '2000-01-01')"],
    ["update full_identity set b = null"],                     # O: the old row, TOAST in full
    ["delete from full_identity"],
    ["insert into by_index values (1, 'one', true)", "update by_index set c = null",
     "update by_index set b = 'two'", "delete from by_index"],
    ["insert into none values (null)"],
    ["insert into other.parent (note) values ('a')", "insert into other.child values (1, 1)"],
    ["truncate other.parent, wide restart identity cascade"],
    ["truncate by_index"],
    ["select pg_logical_emit_message(true, 'rolag.fence', 'run 1')",
     "insert into wide values (1)",
     "select pg_logical_emit_message(true, 'application', ''::bytea)"],
    ["select pg_logical_emit_message(false, 'rolag.other', '\\x00ff'::bytea)"],
    ["insert into wide values (2)", "alter table wide add column extra text default 'd'",
     "insert into wide values (3, 'three')", "alter table wide drop column extra",
     "insert into wide values (4)"],                           # the shape changes twice in one transaction
    ["alter table wide add column later int"],
    ["insert into wide values (5, 6)"],                        # and between transactions
    ["savepoint s", "insert into wide values (6)", "rollback to s", "insert into wide values (7)"],
    ["select pg_replication_origin_xact_setup('0/ABCD', '2024-01-01')", "insert into wide values (8)"],
]


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        assert self.at + n <= len(self.data)
        self.at += n
        return self.data[self.at - n:self.at]

    def num(self, code):
        return struct.unpack(">" + code, self.take(struct.calcsize(">" + code)))[0]

    def string(self):
        end = self.data.index(0, self.at)
        text = self.take(end - self.at).decode()
        self.take(1)
        return text

    def lsn(self):
        return lsn_text(self.num("Q"))

    def time(self):
        return self.num("q") + 946684800000000

    def tuple(self):
        values = []
        for _ in range(self.num("H")):
            kind = self.take(1).decode()
            values.append(kind + (self.take(self.num("I")).hex() if kind in "tb" else ""))
        return "(" + ",".join(values) + ")"


def lsn_text(v):
    return f"{v >> 32:X}/{v & 0xFFFFFFFF:X}"


def relation(r):
    oid, nsp, rel, identity = r.num("I"), r.string() or "pg_catalog", r.string(), r.take(1).decode()
    columns = []
    for _ in range(r.num("H")):
        key, name, kind, typmod = r.num("B"), r.string(), r.num("I"), r.num("i")
        columns.append(f"{'*' if key else ''}{name}:{kind}:{typmod}")
    return f"oid={oid} name={nsp}.{rel} identity={identity} columns={','.join(columns)}"


def row(r):
    text = f"oid={r.num('I')}"
    while r.at < len(r.data):
        text += " " + r.take(1).decode() + r.tuple()
    return text


def truncate(r):
    count, flags = r.num("I"), r.num("B")
    return f"flags={flags} oids=" + ",".join(str(r.num("I")) for _ in range(count))


def message(r):
    head = f"transactional={r.num('B')} lsn={r.lsn()} prefix={r.string()}"
    return head + " content=" + r.take(r.num("I")).hex()


def commit(r):
    assert r.num("B") == 0
    return f"commit={r.lsn()} end={r.lsn()} us={r.time()}"


WORDS = {
    "B": lambda r: f"commit={r.lsn()} us={r.time()} xid={r.num('I')}",
    "C": commit,
    "O": lambda r: f"commit={r.lsn()} name={r.string()}",
    "R": relation,
    "Y": lambda r: f"oid={r.num('I')} name={r.string() or 'pg_catalog'}.{r.string()}",
    "I": row, "U": row, "D": row, "T": truncate, "M": message,
}


def in_words(data):
    r = Reader(data)
    kind = r.take(1).decode()
    text = f"{kind} {WORDS[kind](r)}"
    assert r.at == len(data)
    return text


def main():
    with Cluster("record") as core:
        with psycopg.connect(core.conninfo(), autocommit=True) as c:
            c.execute(SETUP)
            for name in ("text", "binary"):
                c.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
            c.execute("select pg_replication_origin_create('elsewhere')")
            for change in CHANGES:
                origin = "origin" in change[0]
                if origin:
                    c.execute("select pg_replication_origin_session_setup('elsewhere')")
                with c.transaction():
                    for sql in change:
                        c.execute(sql)
                if origin:
                    c.execute("select pg_replication_origin_session_reset()")
            for name in ("text", "binary"):
                rows = c.execute(
                    "select lsn::text, data from pg_logical_slot_peek_binary_changes(%s, null, null,"
                    " 'proto_version', '1', 'publication_names', 'p,inserts', 'messages', 'true',"
                    " 'binary', %s)", (name, "true" if name == "binary" else "false")).fetchall()
                (HERE / f"{name}.hex").write_text("".join(f"{lsn} {data.hex()}\n" for lsn, data in rows))
                (HERE / f"{name}.expect").write_text("".join(in_words(data) + "\n" for _, data in rows))
                print(name, len(rows), "messages")


if __name__ == "__main__":
    main()
