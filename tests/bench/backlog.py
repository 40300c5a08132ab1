"""A backlog for the benchmarks: realistic events of all 33 entities, in transactions of 1 to 100.

The simulated bank's lives run interleaved; its small transactions are put together to larger ones as
drawn from a skewed distribution (median 4, mean about 21). They are prepared in a table and then
committed one by one by the server itself, so that writing takes seconds, not minutes.
"""
import os
import random
import sys

import psycopg

HERE = os.path.dirname(os.path.abspath(__file__))
DEMO = os.path.join(os.path.dirname(os.path.dirname(HERE)), "deploy", "demo")
sys.path.insert(0, DEMO)

import lana  # noqa: E402
from lana import write  # noqa: E402

ROWS_MAX = 100

WRITER = """
create procedure bench.write_backlog(first int, last int) language plpgsql as $$
declare t record; n int;
begin
    for n in first .. last loop
        for t in select tbl, min(at) as low, max(at) as high from bench.backlog where tx = n group by tbl
                order by min(at) loop
            execute format('insert into public.%I select id, sequence, event_type, event, context, recorded_at '
                'from bench.backlog where tx = $1 and tbl = $2 order by at', t.tbl) using n, t.tbl;
        end loop;
        commit;
    end loop;
end $$
"""


def sizes(rng):
    """Endless: how many events the next transaction has."""
    while True:
        yield max(1, min(ROWS_MAX, int(rng.paretovariate(0.48))))


def rows(events, seed, scale):
    """(at, tx, table, id, sequence, type, payload, context, recorded_at), in commit order."""
    world = lana.World(seed, scale=scale)
    to_json = write.encoder(world)
    size = sizes(random.Random(seed))
    at = tx = 0
    left = next(size)
    for transaction in lana.transactions(world):
        for table, id_, sequence, type_, body, recorded_at in transaction.rows:
            if left <= 0:
                tx, left = tx + 1, next(size)
            yield at, tx, table, id_, sequence, type_, to_json(body), transaction.context, recorded_at
            at, left = at + 1, left - 1
        if at >= events:
            return


def prepare(conninfo, events, seed=1, scale=300.0):
    """Fills bench.backlog; (events, transactions, entities, mean payload bytes)."""
    with psycopg.connect(conninfo, autocommit=True) as conn:
        conn.execute("create schema bench")
        conn.execute("create unlogged table bench.backlog (at int, tx int, tbl text, id uuid, sequence int, "
                     "event_type varchar, event jsonb, context jsonb, recorded_at timestamptz)")
        with conn.cursor() as cur, cur.copy("copy bench.backlog from stdin") as copy:
            for row in rows(events, seed, scale):
                copy.write_row(row)
        conn.execute("create index on bench.backlog (tx, tbl, at)")
        conn.execute("vacuum analyze bench.backlog")
        conn.execute(WRITER)
        return conn.execute("select count(*), max(tx) + 1, count(distinct id), "
                            "round(avg(length(event::text))) from bench.backlog").fetchone()


def write_all(conninfo):
    """Commits the backlog, a source transaction at a time. Foreign keys are not looked at."""
    with psycopg.connect(conninfo, autocommit=True) as conn:
        last, = conn.execute("select max(tx) from bench.backlog").fetchone()
        conn.execute("set session_replication_role = replica; set synchronous_commit = off")
        conn.execute(f"call bench.write_backlog(0, {last})")
