"""The measurements. Each run(servers, arguments) gives (headings, rows, notes, raw figures)."""
import glob
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from bisect import bisect_right
from collections import namedtuple

import backlog
from contestants import Recvlogical, Rolag, Subscription, Triggers, query
from procs import Watch, children, wait_until
from reports import reports
from waltime import commits, percentile

Section = namedtuple("Section", "title run")
MIB = 2 ** 20
ROLES = ("rolag run", "capture", "apply")


def med(values):
    return statistics.median(values)


def contestant_of(site, made):
    return site.rolag if made is Rolag else made(site)


# ---- catching up ------------------------------------------------------------------------------------

def one_catchup(site, contestant, target):
    """Seconds, CPU by process, peak memory of one run over the stream from the start to target."""
    slot = site.new_slot()
    site.servers.quiesce()
    began = time.monotonic()
    contestant.attach(slot, target)
    with Watch(contestant.pids, ROLES) as watch:
        wait_until(lambda: contestant.reached(target), contestant.name)
        seconds = time.monotonic() - began
    contestant.detach()
    return {"seconds": seconds, "cpu": watch.cpu(), "peak": watch.peak}


def interleaved(site, repeats, target, classes):
    """{name: [run, …]}"""
    found = {}
    for _ in range(repeats):
        for made in classes:
            found.setdefault(made.name, []).append(one_catchup(site, contestant_of(site, made), target))
    return found


def catchup_rows(found, events):
    rate = {name: events / med(r["seconds"] for r in runs) for name, runs in found.items()}
    rows = []
    for name, runs in found.items():
        cpu = {}
        for run in runs:
            for label, seconds in run["cpu"].items():
                cpu.setdefault(label, []).append(seconds * 1e6 / events)
        spent = ", ".join(f"{label} {med(v):.1f}" for label, v in cpu.items() if med(v) >= 0.05)
        peak = med(r["peak"] for r in runs)
        low, high = (events / f(r["seconds"] for r in runs) for f in (max, min))
        rows.append([name, f"{rate[name]:,.0f}", f"{low:,.0f}–{high:,.0f}", f"{rate[Rolag.name] / rate[name]:.2f}",
                     f"{sum(med(v) for v in cpu.values()):.1f} ({spent})", f"{peak / MIB:.0f}" if peak else ""])
    return rows


CATCHUP = ["", "events/s", "of all runs", "rolag ÷ this", "CPU µs per event", "peak PSS MiB"]


def the_backlog(servers, a):
    """The site with the backlog, made at first use: (site, what prepare says, target)."""
    if not hasattr(servers, "backlog"):
        site = servers.new_site("bank")
        about = backlog.prepare(site.conninfo(), a.events)
        backlog.write_all(site.conninfo())
        servers.backlog = site, about, site.mark()
    return servers.backlog


def catchup(servers, a):
    site, (events, transactions, entities, payload), target = the_backlog(servers, a)
    found = interleaved(site, a.repeats, target, (Recvlogical, Subscription, Triggers, Rolag))
    notes = (f"{events:,} events of {entities:,} entities in {transactions:,} transactions, payloads of {payload} bytes "
             f"at the mean. The subscription only copies; its triggers write the history rows; rolag writes history "
             f"and latest rows.")
    return CATCHUP, catchup_rows(found, events), notes, found


# ---- commit to visible ------------------------------------------------------------------------------

def published_xids(site, since):
    """The transactions of the core that wrote events, from an xid on."""
    tables = [t for t, in site.query("select tablename from pg_publication_tables where pubname = %s",
                                     f"{site.name}_inserts")]
    union = " union ".join(f"select xmin::text::bigint from {t} where xmin::text::bigint >= {since}" for t in tables)
    return {xid for xid, in site.query(union)}


class Ledger:
    """rolag's warehouse transactions: (applied LSN, xid), read often enough that trimming loses none."""

    def __init__(self, contestant):
        self.contestant, self.rows = contestant, {}

    def look(self):
        self.rows.update(self.contestant.watch.execute(
            "select applied_lsn - '0/0'::pg_lsn, xmin::text::bigint from rolag.ledger").fetchall())


def wal_position(cluster):
    """The end of what is on disk, and everything committed is."""
    query(cluster.conninfo("postgres"), "select pg_logical_emit_message(true, 'bench', '')")
    return query(cluster.conninfo("postgres"), "select pg_current_wal_flush_lsn()::text")[0][0]


def latencies(site, source, target_commits, ledger):
    """µs from commit record to commit record, one per transaction of the core (record LSN, µs)."""
    starts = [at for at, _ in source]
    found = []
    if ledger is None:      # each of the subscriber's commits names the one it repeats
        for _, _, us, origin in target_commits:
            n = bisect_right(starts, origin - 1) - 1 if origin else -1
            if n >= 0:
                found.append(us - source[n][1])
        return found
    us_of = {xid: us for xid, _, us, _ in target_commits}
    applied = sorted((int(at), us_of[xid]) for at, xid in ledger.rows.items() if xid in us_of)
    positions = [at for at, _ in applied]
    for at, us in source:
        n = bisect_right(positions, at)
        if n < len(applied):
            found.append(applied[n][1] - us)
    return found


def one_latency(site, contestant, rate, seconds, seed):
    slot = site.new_slot()
    contestant.attach(slot)
    wait_until(lambda here=site.mark(): contestant.reached(here), "the start")
    ledger = Ledger(contestant) if isinstance(contestant, Rolag) else None
    began = time.monotonic()
    begin = [wal_position(c) for c in (site.core, site.warehouse)]
    xid = site.query("select pg_current_xact_id()::text::bigint")[0][0]
    load = [sys.executable, os.path.join(backlog.DEMO, "lana_load.py"), "--connect", site.conninfo(),
            "--seed", str(seed), "--seconds", str(seconds), "--scale", "300", "--connections", "2"]
    process = subprocess.Popen(load + (["--rate", str(rate)] if rate else []), stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if ledger:
            ledger.look()
        time.sleep(0.5)
    if process.returncode:
        raise RuntimeError("the load failed")
    wait_until(lambda here=site.mark(): contestant.reached(here), "the end")
    if ledger:
        ledger.look()
        assert time.monotonic() - began < 55, "the ledger may have been trimmed"
    end = [wal_position(c) for c in (site.core, site.warehouse)]
    contestant.detach()
    wanted = published_xids(site, xid)
    source = [(at, us) for x, at, us, _ in commits(site.core, begin[0], end[0]) if x in wanted]
    source = [s for s in source if s[1] - source[0][1] > 2e6]     # the first two seconds warm up
    found = latencies(site, source, commits(site.warehouse, begin[1], end[1]), ledger)
    assert len(found) > 0.98 * len(source), f"{len(found)} of {len(source)} transactions found at the target"
    return {"rate": len(source) / ((source[-1][1] - source[0][1]) / 1e6), "samples": len(found),
            "p50": percentile(found, 0.5), "p99": percentile(found, 0.99)}


RATES = (200, 1000, None)


def latency(servers, a):
    raw, rows, number = {}, [], 0
    for rate in RATES:
        for turn in range(a.repeats):
            for made in (Subscription, Triggers, Rolag):
                number += 1
                site = servers.new_site(f"life{number}")    # a bank is born once in a database
                run = one_latency(site, contestant_of(site, made), rate, a.seconds, turn + 1)
                raw.setdefault(str(rate), {}).setdefault(made.name, []).append(run)
                site.drop()
        runs = raw[str(rate)]
        ours = runs[Rolag.name]
        for name, found in runs.items():
            rows.append([f"{rate:,}" if rate else "highest", name, f"{med(r['rate'] for r in found):,.0f}"] +
                        [f"{med(r[p] for r in found) / 1000:.2f}" for p in ("p50", "p99")] +
                        [f"{med(r[p] for r in ours) / med(r[p] for r in found):.2f}" for p in ("p50", "p99")])
    return (["asked tx/s", "", "reached tx/s", "p50 ms", "p99 ms", "p50: rolag ÷ this", "p99: rolag ÷ this"], rows,
            "From the core's commit record to the warehouse's, by their own times in both servers' WAL (pg_waldump); "
            "one sample per transaction of the core that wrote events.", raw)


# ---- the core's own writers -------------------------------------------------------------------------

SCRIPT = """begin;
insert into core_deposit_events values (gen_random_uuid(), 1, 'initialized', '{deposit}', null, now());
insert into core_obligation_events values (gen_random_uuid(), 1, 'initialized', '{obligation}', null, now());
insert into core_user_events values (gen_random_uuid(), 1, 'initialized', '{user}', null, now());
commit;
"""
ID = "7d444840-9dc0-11d1-b245-5ffdce74fad2"
PAYLOADS = {
    "deposit": {"amount": 1000000, "deposit_account_id": ID, "ledger_tx_id": ID, "public_id": "4711",
                "reference": ID, "status": "Confirmed"},
    "obligation": {"amount": 1000000, "beneficiary_id": ID, "defaulted_account_id": ID, "due_date": "2026-01-01T00:00:00Z",
                   "effective": "2026-01-01", "ledger_tx_id": ID, "obligation_type": "Interest", "reference": ID,
                   "receivable_account_ids": {"not_yet_due": ID, "due": ID, "overdue": ID}},
    "user": {"email": "somebody@example.com", "role_id": ID},
}


def pgbench(site, seconds, rate=None):
    """Commits a second; with a rate also the 99th percentile of a transaction's ms, without its waiting to start."""
    folder = os.path.join(site.folder, "pgbench")
    os.makedirs(folder, exist_ok=True)
    script = os.path.join(folder, "script.sql")
    with open(script, "w", encoding="utf-8") as f:
        text = SCRIPT
        for name, payload in PAYLOADS.items():
            text = text.replace("{" + name + "}", json.dumps({**payload, "id": ID, "type": "initialized"}))
        f.write(text)
    for old in glob.glob(folder + "/log.*"):
        os.unlink(old)
    done = subprocess.run(
        ["taskset", "-c", "0", f"{site.core.bin}/pgbench", "-n", "-f", script, "-c", "4", "-j", "1", "-M", "prepared", "-T", str(int(seconds)),
         *(["-R", str(rate), "-l", "--log-prefix", folder + "/log"] if rate else []), site.conninfo()],
        capture_output=True, text=True, check=True, env={**os.environ, "PGOPTIONS": "-c session_replication_role=replica"})
    tps = float(re.search(r"tps = ([0-9.]+)", done.stdout)[1])
    times = []
    for log in glob.glob(folder + "/log.*"):
        with open(log, encoding="utf-8") as f:
            times += [(int(w[2]) - int(w[6])) / 1000 for w in map(str.split, f)]
    return tps, percentile(times, 0.99) if times else None


class Nobody:
    """No slot at all."""
    name = "no slot"

    def attach(self, slot):
        self.site.query("select pg_drop_replication_slot(%s)", slot)

    def __init__(self, site):
        self.site = site

    def detach(self):
        pass


def pin(pid, cpus):
    """A process and its children, and so theirs, to these processors."""
    for each in [pid, *children(pid)]:
        os.sched_setaffinity(each, cpus)


def writers(servers, a):
    """The core and its clients have one processor to themselves; whoever is attached, with its warehouse, the rest."""
    everything = os.sched_getaffinity(0)
    pin(servers.core.process.pid, {0})
    pin(servers.warehouse.process.pid, everything - {0})
    os.sched_setaffinity(0, everything - {0})
    try:
        return measure_writers(servers, a)
    finally:
        for pid in (servers.core.process.pid, servers.warehouse.process.pid, 0):
            pin(pid or os.getpid(), everything)


def measure_writers(servers, a):
    raw, number = {}, 0
    half = None
    for _ in range(a.repeats):
        for made in (Nobody, Recvlogical, Rolag):
            number += 1
            site = servers.new_site(f"writers{number}")
            contestant = contestant_of(site, made)
            contestant.attach(site.new_slot())
            servers.quiesce()
            tps = pgbench(site, a.seconds)[0]
            half = half or int(tps / 2)
            p99 = pgbench(site, a.seconds, half)[1]
            contestant.detach()
            raw.setdefault(made.name, []).append({"tps": tps, "p99": p99})
            site.drop()
    ours = raw[Rolag.name]
    rows = [[name, f"{med(r['tps'] for r in runs):,.0f}", f"{med(r['p99'] for r in runs):.2f}",
             f"{med(r['tps'] for r in ours) / med(r['tps'] for r in runs):.2f}",
             f"{med(r['p99'] for r in ours) / med(r['p99'] for r in runs):.2f}"] for name, runs in raw.items()]
    return (["attached", "commits/s", f"p99 ms at {half:,} tx/s", "commits/s: rolag ÷ this", "p99: rolag ÷ this"], rows,
            "pgbench on the core, four clients, three events a transaction. The core, its walsender and pgbench have one "
            "processor; the attached client and the warehouse have the other.", raw)


# ---- first load -------------------------------------------------------------------------------------

def copied(site):
    """Seconds of psql COPY to psql COPY, a table after another."""
    site.clone("sub_template", "copied")
    tables = [t for t, in site.query("select tablename from pg_publication_tables where pubname = %s order by 1",
                                     f"{site.name}_inserts")]
    return piped(site, tables, "copied")


def written(site):
    """Seconds of psql COPY to psql COPY of the rows that rolag's load has made: what writing them costs whoever does it."""
    site.clone(site.rolag.template, "copied")
    source = site.warehouse.conninfo(site.rolag.database)
    tables = [f"raw.{t}" for t, in query(source, "select tablename from pg_tables where schemaname = 'raw' order by 1")]
    return piped(site, tables, "copied", source)


def piped(site, tables, database, source=None):
    """Seconds of psql COPY to psql COPY, binary, from the core (or another source) into a database of the warehouse."""
    psql, target = f"{site.core.bin}/psql -X -q", site.warehouse.conninfo(database)
    options = {**os.environ, "PGOPTIONS": "-c session_replication_role=replica"}
    began = time.monotonic()
    for table in tables:
        subprocess.run(["bash", "-c", f'set -o pipefail; {psql} -c "copy {table} to stdout (format binary)" "$0" | '
                        f'{psql} -c "copy {table} from stdin (format binary)" "$1"', source or site.conninfo(), target],
                       check=True, env=options)
    return time.monotonic() - began


def loaded(site):
    """Seconds of rolag's first load, and the peak of its memory."""
    rolag = site.rolag
    site.clone("template1", rolag.database)
    shutil.rmtree(rolag.folder)
    rolag.command("init")
    began = time.monotonic()
    rolag.run()
    with Watch(rolag.roles, ROLES) as watch:
        wait_until(rolag.live, "rolag's first load")
        seconds = time.monotonic() - began
    rolag.detach()
    return seconds, watch.peak


def load(servers, a):
    site, (events, *_), _ = the_backlog(servers, a)
    copies, loads, writes = [], [], []
    for _ in range(a.repeats):
        servers.quiesce()
        copies.append(copied(site))
        servers.quiesce()
        loads.append(loaded(site))
        servers.quiesce()
        writes.append(written(site))
    ours, peer, rows_alone = med(s for s, _ in loads), med(copies), med(writes)
    rows = [["psql COPY, binary, to psql COPY: the events", f"{events / peer:,.0f}", f"{peer / ours:.2f}", ""],
            ["the same, of the rows that rolag has made", f"{events / rows_alone:,.0f}", f"{rows_alone / ours:.2f}", ""],
            ["rolag", f"{events / ours:,.0f}", "1.00", f"{med(p for _, p in loads) / MIB:.0f}"]]
    return (["", "events/s", "rolag ÷ this", "peak PSS MiB"], rows,
            "All tables, one after the other, on both sides. COPY copies the events; rolag folds them into history and "
            "latest rows, which are more bytes; copying those from one database to another is the second line.",
            {"copy": copies, "load": loads, "written": writes})


# ---- verify -------------------------------------------------------------------------------------------

def verify(servers, a):
    """Everything that was loaded, compared again while both roles run."""
    site, _, _ = the_backlog(servers, a)
    rolag = site.rolag
    site.clone("template1", rolag.database)
    shutil.rmtree(rolag.folder)
    rolag.command("init")
    rolag.run()
    wait_until(rolag.live, "rolag's first load")
    runs = []
    for _ in range(a.repeats):
        servers.quiesce()
        runs.append(json.loads(rolag.command("verify", "--full", "--json")))
    rolag.detach()
    rows = [["rolag verify --full", f"{runs[0]['warehouse_rows']:,}", f"{runs[0]['latest_rows']:,}",
             f"{med(r['rows_per_second'] for r in runs):,.0f}"]]
    return (["", "history rows", "latest rows", "landed rows/s"], rows,
            "Each history row against the core's events folded anew, each latest row against the last of history; all "
            "columns. Goal: 100,000 rows/s.", runs)


# ---- entities that memory does not hold -------------------------------------------------------------

ENTITIES = (100_000, 1_000_000, 5_000_000)
NTH = "(md5(n::text || 'entity'))::uuid"


def entities(servers, a):
    """Second events of entities drawn at random from many whose first is in the warehouse already."""
    raw, rows = {}, []
    for count in ENTITIES:
        site = servers.new_site(f"users{count}")
        fixed = f"{NTH}, 1, now(), now(), 'initialized', 'somebody@example.com', '{ID}'"
        rollup = "core_user_events_rollup"
        latest = site.warehouse.conninfo(site.rolag.template)
        for table in (rollup, rollup + "_latest"):
            query(latest, f"insert into raw.{table} (id, version, created_at, modified_at, event_type, email, role_id, "
                          f"_lsn) select {fixed}, '0/1' from generate_series(1, {count}) n")
        site.clone("trig_template", "trig_users")
        query(site.warehouse.conninfo("trig_users"),
              f"insert into folded.{rollup} (id, version, created_at, modified_at, event_type, email, role_id) "
              f"select {fixed} from generate_series(1, {count}) n")
        events = min(200_000, count)
        # Ten a transaction; each entity once.
        site.query("set session_replication_role = replica; set synchronous_commit = off; "
                   f"create table bench_users as select row_number() over () as at, n from (select n from "
                   f"generate_series(1, {count}) n order by md5(n::text) limit {events}) x; "
                   "create index on bench_users (at)")
        site.query(f"""set session_replication_role = replica; set synchronous_commit = off;
            do $$ begin for t in 0 .. {events} / 10 - 1 loop
                insert into core_user_events select {NTH}, 2, 'role_updated',
                    jsonb_build_object('id', {NTH}, 'type', 'role_updated', 'role_id', '{ID}'::uuid), null, now()
                from bench_users where at > t * 10 and at <= t * 10 + 10;
                commit; end loop; end $$""")
        target = site.mark()
        made = type("Users", (Triggers,), {"template": "trig_users", "database": "sub"})
        found = interleaved(site, 1, target, (made, Rolag))
        raw[count] = found
        rate = {name: events / runs[0]["seconds"] for name, runs in found.items()}
        rows.append([f"{count:,}", f"{rate[Triggers.name]:,.0f}", f"{rate[Rolag.name]:,.0f}",
                     f"{rate[Rolag.name] / rate[Triggers.name]:.2f}", f"{found[Rolag.name][0]['peak'] / MIB:.0f}"])
        query(site.warehouse.conninfo("postgres"), "drop database trig_users with (force)")
        site.drop()
    return (["entities", "subscription + triggers, events/s", "rolag, events/s", "rolag ÷ triggers", "rolag's peak PSS MiB"],
            rows, "Every event is of an entity that is in no cache: the row before is read from the warehouse. One run.",
            raw)


# ---- one huge transaction ---------------------------------------------------------------------------

def huge(servers, a):
    site = servers.new_site("huge")
    site.query("set session_replication_role = replica; insert into core_user_events select gen_random_uuid(), 1, "
               "'initialized', jsonb_build_object('email', n || '@example.com', 'role_id', gen_random_uuid()), null, now() "
               f"from generate_series(1, {a.events}) n")
    found = interleaved(site, a.repeats, site.mark(), (Recvlogical, Subscription, Triggers, Rolag))
    return CATCHUP, catchup_rows(found, a.events), f"{a.events:,} events of as many entities, in one transaction.", found


# ---- mirrors ----------------------------------------------------------------------------------------

LINE = ("create table line (id bigint primary key, account uuid not null, amount numeric(20,2) not null, "
        "memo text, status text not null, at timestamptz not null)")
# In transactions of ten: six inserts, three updates, one delete, of rows written lately and long ago.
MIX = """
do $$ begin
    for n in 1 .. {events} / 10 loop
        insert into line select n * 6 + k, gen_random_uuid(), n + k / 100.0, repeat(md5(n::text), 2), 'open', now()
            from generate_series(0, 5) k;
        update line set status = 'settled', amount = amount + 1 where id in (n * 6 - 50, n * 3, n * 6 + 2);
        delete from line where id = n * 5 + 1;
        commit;
    end loop;
end $$"""


class MirrorLimit(Recvlogical):
    publication = "changes"


class MirrorSubscription(Subscription):
    publication, template = "changes", "sub_mirrors"


def the_line(servers, a):
    """The site with the changes of a plain table, made at first use: (site, target)."""
    if not hasattr(servers, "line"):
        site = servers.new_site("mirrors", LINE, {"mirrors": {"tables": ["line"]}})
        site.clone("template0", MirrorSubscription.template)
        query(site.warehouse.conninfo(MirrorSubscription.template), LINE)
        site.query(MIX.format(events=a.events))
        target = site.mark()
        site.query("insert into line values (0, gen_random_uuid(), 0, null, 'mark', now())")    # which all see go by
        servers.line = site, target
    return servers.line


def mirrors(servers, a):
    site, target = the_line(servers, a)
    found = interleaved(site, a.repeats, target, (MirrorLimit, MirrorSubscription, Rolag))
    return CATCHUP, catchup_rows(found, a.events), (
        f"About {a.events:,} changes of one table, in transactions of ten: six inserts, three updates, one delete."), found


def resync(servers, a):
    """A mirror read anew while it goes on following, beside a copy of its source."""
    site, target = the_line(servers, a)
    rolag = site.rolag
    rolag.attach(site.new_slot())
    wait_until(lambda: rolag.reached(target), "rolag")
    rows = site.query("select count(*) from line")[0][0]
    copies, syncs = [], []
    for _ in range(a.repeats):
        site.clone(MirrorSubscription.template, "copied_line")
        servers.quiesce()
        copies.append(piped(site, ["line"], "copied_line"))
        servers.quiesce()
        began = time.monotonic()
        rolag.command("sync", "line", "--wait")
        syncs.append(time.monotonic() - began)
    rolag.detach()
    ours, peer = med(syncs), med(copies)
    return (["", "rows/s", "rolag ÷ this"],
            [["psql COPY, binary, to psql COPY", f"{rows / peer:,.0f}", f"{peer / ours:.2f}"],
             ["rolag sync line --wait", f"{rows / ours:,.0f}", "1.00"]],
            f"{rows:,} rows of one table, from the command to the swap; of rolag with ANALYZE, which COPY leaves to "
            "autovacuum.", {"copy": copies, "sync": syncs})


ALL = {
    "catchup": Section("Catching up with a backlog", catchup),
    "latency": Section("Commit to visible", latency),
    "writers": Section("What the core's own writers notice", writers),
    "load": Section("First load", load),
    "verify": Section("Comparing the warehouse with the core", verify),
    "entities": Section("Entities that memory does not hold", entities),
    "huge": Section("One huge transaction", huge),
    "mirrors": Section("Catching up with changes of a plain table", mirrors),
    "resync": Section("A mirror read anew", resync),
    "reports": Section("All reports", reports),
}
